//! Emit: a plan to a component.
//!
//! Sections of the runtime module are copied as bytes and grow at their end, so nothing of the runtime
//! is decoded, moved or renumbered: indices of what is appended follow those that are there. Rejected:
//! linking objects with wasm-ld, which would put a native tool into the build service.
//! Invariant: what leaves here has been validated, and the same plan gives the same bytes.

mod names;

use wasm_encoder::{
    CodeSection, ConstExpr, DataSection, ElementSection, Elements, Encode, ExportKind, ExportSection,
    FunctionSection, MemorySection, MemoryType, Module, RawSection, TableSection, TypeSection, ValType,
};
use wasmparser::{BinaryReaderError, ExternalKind, Parser, Payload, Validator};
use wit_component::ComponentEncoder;

use crate::plan::Plan;
use crate::runtime::{Runtime, keeps};
use crate::sources::Sources;

/// Pages that a request begins with behind the app's data, 64 KiB each: most never ask for more, which is a call of the
/// kernel. Untouched they cost nothing.
const ARENA_PAGES: u64 = 8;
/// What a function may have at most, in every engine: parameters, results, locals, bytes.
const PARAMETERS_MAX: usize = 1_000;
const RESULTS_MAX: usize = 1_000;
const LOCALS_MAX: usize = 50_000;
const FUNCTION_BYTES_MAX: usize = 7_654_321;

/// Why there is no component.
#[derive(Debug)]
pub(crate) enum Refused {
    /// A function of the plan, by its place, has too much of something.
    TooLarge(usize, Excess),
    /// Encoder or validator refused the whole: a bug of this compiler.
    Broken(String),
}

impl From<String> for Refused {
    fn from(reason: String) -> Self {
        Self::Broken(reason)
    }
}

/// What a function has too much of.
#[derive(Debug)]
pub(crate) struct Excess(pub(crate) String);

/// The component, or why there is none.
pub(crate) fn emit(plan: &Plan, runtime: &Runtime, sources: &Sources) -> Result<Vec<u8>, Refused> {
    for (at, function) in plan.functions.iter().enumerate() {
        let (params, results) = (function.params.len(), function.results.len());
        let counts = [
            (params, PARAMETERS_MAX, "inputs"),
            (results, RESULTS_MAX, "outputs"),
            (params + function.locals.len(), LOCALS_MAX, "variables, with those that its nodes need"),
        ];
        if let Some((count, most, what)) = counts.into_iter().find(|(count, most, _)| count > most) {
            let excess = Excess(format!("{count} {what}; {most} are possible"));
            return Err(Refused::TooLarge(at, excess));
        }
    }
    component(plan, runtime, sources)
}

fn component(plan: &Plan, runtime: &Runtime, sources: &Sources) -> Result<Vec<u8>, Refused> {
    let module = link(plan, runtime, sources)?;
    let component = ComponentEncoder::default()
        .validate(false) // below, with the features that every engine has
        .module(&module)
        .and_then(|encoder| encoder.encode())
        .map_err(|error| format!("{error:#}"))?;
    // The host validates again; here a mistake is found before a revision is stored.
    Validator::new().validate_all(&component).map_err(|error| error.to_string())?;
    Ok(component)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "wasmparser's enums grow with the standard; what is not named is copied as it is"
)]
fn link(plan: &Plan, runtime: &Runtime, sources: &Sources) -> Result<Vec<u8>, Refused> {
    let mut types = TypeSection::new();
    let mut signatures: Vec<(&[ValType], &[ValType])> = Vec::new();
    let mut functions = FunctionSection::new();
    let mut code = CodeSection::new();
    let mut offsets = Vec::new();
    for function in &plan.functions {
        let signature = (function.params.as_slice(), function.results.as_slice());
        let index = signatures.iter().position(|s| *s == signature).unwrap_or_else(|| {
            types.ty().function(signature.0.iter().copied(), signature.1.iter().copied());
            signatures.push(signature);
            signatures.len() - 1
        });
        functions.function(runtime.types + index as u32);
        let mut body = wasm_encoder::Function::new(function.locals.iter().map(|local| (1, *local)));
        let mut marks = function.marks.iter().peekable();
        let mut reached = Vec::with_capacity(function.marks.len());
        for (at, instruction) in function.code.iter().enumerate() {
            while marks.next_if(|mark| mark.at <= at).is_some() {
                reached.push(body.byte_len());
            }
            body.instruction(instruction);
        }
        if body.byte_len() > FUNCTION_BYTES_MAX {
            let excess =
                Excess(format!("{} bytes of code; {FUNCTION_BYTES_MAX} are possible", body.byte_len()));
            return Err(Refused::TooLarge(offsets.len(), excess));
        }
        code.function(&body);
        offsets.push(reached);
    }
    let mut elements = ElementSection::new();
    let indices: Vec<u32> = plan.table.iter().map(|function| runtime.functions + function).collect();
    elements.active(None, &ConstExpr::i32_const(runtime.table as i32), Elements::Functions(indices.into()));
    let mut data = DataSection::new();
    data.active(0, &ConstExpr::i32_const(runtime.app as i32), plan.descriptor.to_le_bytes());
    data.active(0, &ConstExpr::i32_const(plan.data.base as i32), plan.data.bytes.iter().copied());

    let mut module = Module::new();
    let source = runtime.module;
    for payload in Parser::new(0).parse_all(source) {
        let payload = payload.map_err(unreadable)?;
        let Some((id, range)) = payload.as_section() else { continue };
        let old = &source[range.start as usize..range.end as usize];
        let grown = |new: &dyn Fn(&mut Vec<u8>)| {
            let mut encoded = Vec::new();
            new(&mut encoded);
            appended(old, &encoded)
        };
        let bytes = match payload {
            Payload::TypeSection(_) => grown(&|out| types.encode(out)),
            Payload::FunctionSection(_) => grown(&|out| functions.encode(out)),
            Payload::ElementSection(_) => grown(&|out| elements.encode(out)),
            Payload::CodeSectionStart { .. } => grown(&|out| code.encode(out)),
            Payload::DataSection(_) => grown(&|out| data.encode(out)),
            Payload::DataCountSection { count, .. } => {
                let mut out = Vec::new();
                (count + 2).encode(&mut out);
                out
            }
            Payload::TableSection(section) => {
                let mut tables = TableSection::new();
                for table in section {
                    let table = table.map_err(unreadable)?;
                    let size = table.ty.initial + plan.table.len() as u64;
                    tables.table(wasm_encoder::TableType {
                        element_type: wasm_encoder::RefType::FUNCREF,
                        table64: false,
                        minimum: size,
                        maximum: Some(size),
                        shared: false,
                    });
                }
                payload_of(&tables)
            }
            Payload::MemorySection(section) => {
                let mut memories = MemorySection::new();
                for memory in section {
                    let memory = memory.map_err(unreadable)?;
                    let pages = u64::from(plan.data.end()).div_ceil(65_536);
                    memories.memory(MemoryType {
                        minimum: memory.initial.max(pages) + ARENA_PAGES,
                        maximum: memory.maximum,
                        memory64: false,
                        shared: false,
                        page_size_log2: None,
                    });
                }
                payload_of(&memories)
            }
            Payload::ExportSection(section) => {
                let mut exports = ExportSection::new();
                for export in section {
                    let export = export.map_err(unreadable)?;
                    let kind = match export.kind {
                        ExternalKind::Func => ExportKind::Func,
                        ExternalKind::Memory => ExportKind::Memory,
                        _ => continue,
                    };
                    if keeps(export.name) {
                        exports.export(export.name, kind, export.index);
                    }
                }
                payload_of(&exports)
            }
            Payload::CustomSection(section) if !section.name().starts_with("component-type") => continue,
            _ => old.to_vec(),
        };
        module.section(&RawSection { id, data: &bytes });
    }
    let names = names::section(&plan.functions, &offsets, runtime.functions, sources);
    module.section(&RawSection { id: 0, data: &names });
    Ok(module.finish())
}

fn unreadable(error: BinaryReaderError) -> Refused {
    Refused::Broken(format!("the runtime library: {error}"))
}

/// A section's content without the size in front.
fn payload_of(section: &impl Encode) -> Vec<u8> {
    let mut encoded = Vec::new();
    section.encode(&mut encoded);
    let (_, at) = leb(&encoded);
    encoded.split_off(at)
}

/// Old items, then new ones, under the sum of their counts.
fn appended(old: &[u8], new: &[u8]) -> Vec<u8> {
    let (_, size) = leb(new);
    let new = &new[size..];
    let ((old_count, old_at), (new_count, new_at)) = (leb(old), leb(new));
    let mut out = Vec::with_capacity(old.len() + new.len());
    (old_count + new_count).encode(&mut out);
    out.extend_from_slice(&old[old_at..]);
    out.extend_from_slice(&new[new_at..]);
    out
}

/// An unsigned LEB128 number and how many bytes it takes.
fn leb(bytes: &[u8]) -> (u32, usize) {
    let mut value = 0;
    for (at, byte) in bytes.iter().enumerate() {
        value |= u32::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            return (value, at + 1);
        }
    }
    (value, bytes.len())
}

#[cfg(test)]
mod tests {
    use wasm_encoder::Instruction;

    use super::*;
    use crate::plan::{Data, Function};
    use crate::runtime::RUNTIME;

    /// A plan of one function with this code.
    fn emitted(code: Vec<Instruction<'static>>) -> Result<Vec<u8>, Refused> {
        let runtime = RUNTIME.as_ref().expect("the runtime library is read");
        let data = Data::new(runtime.heap_base.next_multiple_of(16));
        let function = Function { results: vec![ValType::I32], code, ..Function::default() };
        let descriptor = data.base;
        emit(
            &Plan { functions: vec![function], table: vec![0], data, descriptor },
            runtime,
            &Sources::default(),
        )
    }

    #[test]
    fn broken_code_is_a_reason_and_no_panic() {
        assert!(emitted(vec![Instruction::I32Const(7), Instruction::End]).is_ok());
        let broken = |code| match emitted(code) {
            Err(Refused::Broken(reason)) => reason,
            other => panic!("{other:?}"),
        };
        let mismatch = broken(vec![Instruction::I64Const(7), Instruction::End]);
        assert!(mismatch.contains("type mismatch: expected i32, found i64"), "{mismatch}");
        let missing = RUNTIME.as_ref().map(|runtime| runtime.function("rt_no_such_thing")).unwrap();
        let unknown = broken(vec![Instruction::Call(missing), Instruction::End]);
        assert!(unknown.contains("unknown function"), "{unknown}");
    }

    #[test]
    fn a_refusal_is_told_as_a_problem() {
        let sources = crate::Sources::new([("app.yaml".to_owned(), "app: T\n".to_owned())]);
        let problem = crate::problem::internal(&sources, "type mismatch");
        insta::assert_snapshot!(crate::render(&sources, &[problem]), @r"
        error[OML0901]: internal compiler error: type mismatch
          --> app.yaml:1:1
         1 | app: T
           | ^
          hint: this is a bug of the compiler: please report it with the model; going back to the last version that compiled avoids it
        ");
    }

    #[test]
    fn the_runtime_library_has_every_function_that_lowering_names() {
        let runtime = RUNTIME.as_ref().expect("the runtime library is read");
        let sources = [
            include_str!("lower.rs"),
            include_str!("lower/expressions.rs"),
            include_str!("lower/flow.rs"),
            include_str!("lower/lists.rs"),
            include_str!("lower/stream.rs"),
            include_str!("lower/query.rs"),
            include_str!("lower/rows.rs"),
            include_str!("lower/sql.rs"),
            include_str!("lower/texts.rs"),
        ];
        let named = sources.iter().flat_map(|text| text.split('"').filter(|word| word.starts_with("rt_")));
        let missing: Vec<&str> = named
            .chain(crate::builtins::BUILTINS.iter().map(|b| b.runtime))
            .filter(|name| runtime.function(name) == u32::MAX)
            .collect();
        assert_eq!(missing, Vec::<&str>::new());
    }
}
