//! Small memories that begin by copying: any slot of the pool fits any app.
//!
//! The engine maps what a memory begins with, page by page on write, into a slot of its pool. Where the slot had the same module before, that is
//! there already and costs nothing. Where it had another one, two mappings change, each of which interrupts the other cores, and every
//! page that is touched is a fault: 145 microseconds more for a request that takes forty. A host with thousands of apps has
//! slots for hundreds, so that most requests are of the second kind. To copy costs each of them a fraction of a microsecond for ten kilobytes.
//!
//! The engine maps a memory when all of its data lie at constant places. Here zero is added to each place, which the standard calls a
//! constant expression, too, and the engine leaves it to the code that runs when an instance is made. What must stay true: data, their order and their
//! places are as before; large memories are mapped as before, because to copy those would cost more than it saves.

use wasm_encoder::{
    Component, ComponentSectionId, ConstExpr, DataSection, Module, ModuleSection, RawSection,
};
use wasmparser::{DataKind, DataSectionReader, Operator, Parser, Payload};

use crate::sections::sections;

/// Most data of a module that are copied for each instance, in bytes: 64 KiB take 2.7 us, and to map them where another
/// app was takes 145. With what a small request writes they stay within what a slot keeps, where the kernel tells which pages those are; elsewhere each page of
/// them is a fault, too.
const COPIED_BYTES_MAX: usize = 64 << 10;
/// Most pieces of data in a module, each of which is a call into the engine.
const PIECES_MAX: u32 = 16;

/// The valid component with small memories copied, but for those of components inside of it. `None` where there is none.
pub(super) fn with_copied_memories(component: &[u8]) -> Option<Vec<u8>> {
    let (mut out, mut is_changed) = (Component::new(), false);
    for payload in sections(component) {
        let payload = payload.ok()?;
        let Some((id, range)) = payload.as_section() else { continue };
        let section = component.get(range)?;
        let is_module = id == u8::from(ComponentSectionId::CoreModule);
        if let Some(module) = is_module.then(|| with_copied_data(section)).flatten() {
            out.section(&ModuleSection(&module));
            is_changed = true;
        } else {
            out.section(&RawSection { id, data: section });
        }
    }
    is_changed.then(|| out.finish())
}

/// The module with its data copied. `None` where that is not worth while, or where their places are no plain numbers.
fn with_copied_data(module: &[u8]) -> Option<Module> {
    let (mut out, mut is_changed) = (Module::new(), false);
    for payload in Parser::new(0).parse_all(module) {
        let payload = payload.ok()?;
        if let Payload::DataSection(section) = &payload {
            out.section(&at_computed_places(section.clone())?);
            is_changed = true;
        } else if let Some((id, range)) = payload.as_section() {
            out.section(&RawSection { id, data: module.get(range)? });
        }
    }
    is_changed.then_some(out)
}

/// The same data at the same places, to which zero is added.
fn at_computed_places(section: DataSectionReader<'_>) -> Option<DataSection> {
    if section.count() > PIECES_MAX {
        return None;
    }
    let (mut out, mut bytes) = (DataSection::new(), 0);
    for piece in section {
        let piece = piece.ok()?;
        let data = piece.data.iter().copied();
        match piece.kind {
            DataKind::Passive => out.passive(data),
            DataKind::Active { memory_index, offset_expr } => {
                let mut operators = offset_expr.get_operators_reader();
                let (Ok(Operator::I32Const { value }), Ok(Operator::End)) =
                    (operators.read(), operators.read())
                else {
                    return None;
                };
                bytes += piece.data.len();
                out.active(memory_index, &ConstExpr::i32_const(value).with_i32_const(0).with_i32_add(), data)
            }
        };
    }
    (1..=COPIED_BYTES_MAX).contains(&bytes).then_some(out)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use std::fs::File;

    use wasm_encoder::*;
    use wasmtime::component::Linker;

    use super::super::tests::MEMORY;
    use super::{COPIED_BYTES_MAX, PIECES_MAX, with_copied_memories};
    use crate::artefact::{VerifiedFile, compile, load_file};
    use crate::{Engine, Wasi};

    /// Where data begin.
    const PLACE: i32 = 16;
    /// Of the memory.
    const PAGES: u64 = 4;

    /// Exports `sum`, of all bytes that its memory begins with: `pieces`, each at its place, the last of which wins.
    fn component(pieces: &[(&ConstExpr, &[u8])]) -> Vec<u8> {
        let (mut types, mut functions, mut memories) =
            (TypeSection::new(), FunctionSection::new(), MemorySection::new());
        types.ty().function([], [ValType::I32]);
        functions.function(0);
        memories.memory(MemoryType { minimum: PAGES, ..MEMORY });
        let (mut globals, mut exports, mut code) =
            (GlobalSection::new(), ExportSection::new(), CodeSection::new());
        let global = GlobalType { val_type: ValType::I32, mutable: false, shared: false };
        globals.global(global, &ConstExpr::i32_const(PLACE));
        exports.export("sum", ExportKind::Func, 0);
        let mut sum = Function::new([(2, ValType::I32)]);
        sum.instructions()
            .loop_(BlockType::Empty)
            .local_get(1)
            .local_get(0)
            .i32_load8_u(MemArg { offset: 0, align: 0, memory_index: 0 })
            .i32_add()
            .local_set(1)
            .local_get(0)
            .i32_const(1)
            .i32_add()
            .local_tee(0)
            .i32_const(PAGES as i32 * 65_536)
            .i32_lt_u()
            .br_if(0)
            .end()
            .local_get(1)
            .end();
        code.function(&sum);
        let mut data = DataSection::new();
        for (place, bytes) in pieces {
            data.active(0, place, bytes.iter().copied());
        }
        data.passive(*b"nobody asks for it");
        let mut module = Module::new();
        module.section(&types).section(&functions).section(&memories).section(&globals).section(&exports);
        module.section(&DataCountSection { count: data.len() }).section(&code).section(&data);

        let mut component = ComponentBuilder::default();
        let module = component.core_module(None, &module);
        let (number, mut encode) = component.type_function(None);
        encode
            .params::<[(&str, ComponentValType); 0], _>([])
            .result(Some(ComponentValType::Primitive(PrimitiveValType::U32)));
        let instance = component.core_instantiate(None, module, [] as [(&str, ModuleArg); 0]);
        let sum = component.core_alias_export(None, instance, "sum", ExportKind::Func);
        let sum = component.lift_func(None, sum, number, []);
        component.export("sum", ComponentExportKind::Func, sum, None);
        component.finish()
    }

    /// Loads it from a file as a host does. What it says, and whether its memory is a mapping of that file.
    fn run(component: &[u8]) -> (u32, bool) {
        let engine = Engine::for_compiling().unwrap();
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), compile(&engine, component).unwrap()).unwrap();
        let native = VerifiedFile::check(File::open(file.path()).unwrap(), |_| Ok(true)).unwrap().unwrap();
        let component = load_file(&engine, &native).unwrap();
        let mut store = wasmtime::Store::new(engine.of(Wasi::P2), ());
        store.set_epoch_deadline(1_000_000);
        let linker = Linker::new(engine.of(Wasi::P2));
        let instance = linker.instantiate(&mut store, &component).unwrap();
        let sum = instance.get_typed_func::<(), (u32,)>(&mut store, "sum").unwrap();
        let (sum,) = sum.call(&mut store, ()).unwrap();
        let maps = std::fs::read_to_string("/proc/self/maps").unwrap();
        let file = file.path().to_str().unwrap();
        (sum, maps.lines().any(|line| line.ends_with(file) && line.contains(" rw-p ")))
    }

    #[test]
    fn a_small_memory_is_copied_and_a_large_one_is_mapped() {
        let place = ConstExpr::i32_const(PLACE);
        for (bytes, is_mapped) in [(1, false), (COPIED_BYTES_MAX, false), (COPIED_BYTES_MAX + 1, true)] {
            let data = vec![3; bytes];
            assert_eq!(run(&component(&[(&place, &data)])), (3 * bytes as u32, is_mapped), "{bytes} bytes");
        }
    }

    #[test]
    fn a_piece_that_does_not_fit_traps_as_before() {
        let (place, end) = (ConstExpr::i32_const(PLACE), ConstExpr::i32_const(PAGES as i32 * 65_536 - 1));
        let beyond = component(&[(&place, &[1]), (&end, &[1, 2])]);
        let engine = wasmtime::Engine::default();
        for component in [with_copied_memories(&beyond).unwrap(), beyond] {
            let component = wasmtime::component::Component::new(&engine, component).unwrap();
            let mut store = wasmtime::Store::new(&engine, ());
            let error = Linker::new(&engine).instantiate(&mut store, &component).err().unwrap();
            assert_eq!(error.downcast_ref(), Some(&wasmtime::Trap::MemoryOutOfBounds));
        }
    }

    #[test]
    fn data_keep_their_order() {
        let place = ConstExpr::i32_const(PLACE);
        assert_eq!(run(&component(&[(&place, &[1, 2, 3]), (&place, &[7])])), (7 + 2 + 3, false));
    }

    #[test]
    fn what_is_not_worth_while_or_has_no_plain_place_stays_as_it_is() {
        let (place, by_global) = (ConstExpr::i32_const(PLACE), ConstExpr::global_get(0));
        let many = vec![(&place, &[1][..]); PIECES_MAX as usize]; // and one that is passive
        for unchanged in [component(&[]), component(&many), component(&[(&place, &[1]), (&by_global, &[2])])]
        {
            assert!(wasmparser::Validator::new().validate_all(&unchanged).is_ok());
            assert!(with_copied_memories(&unchanged).is_none());
        }
        assert!(with_copied_memories(b"not a component").is_none());
        let copied = with_copied_memories(&component(&[(&place, &[1])])).unwrap();
        assert!(with_copied_memories(&copied).is_none(), "there is nothing left to do");
    }
}
