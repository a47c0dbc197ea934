//! One compiled app, cut in the ways that are compared.
//!
//! The compiler appends an app's functions, data and table entries to the runtime library, so the cut is
//! mechanical: what comes after the library's own is the app's.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;

use anyhow::{Context as _, Result, bail};
use wasm_encoder::reencode::{Error, Reencode, utils};
use wasm_encoder::{
    CodeSection, DataSection, ElementSection, EntityType, ExportKind, ExportSection, Function,
    FunctionSection, ImportSection, Instruction, MemoryType, Module, RefType, TableType, TypeSection,
};
use wasmparser::{
    ElementItems, ElementKind, ExternalKind, FunctionBody, Operator, Parser, Payload, TypeRef, WasmFeatures,
};

/// The three ways.
pub(crate) struct Cut {
    /// The runtime library inside the app, as the compiler makes it.
    pub(crate) copied: Vec<u8>,
    /// The same; functions of the library that the app cannot reach have no bodies.
    pub(crate) trimmed: Vec<u8>,
    /// The app alone; it imports functions, memory and table of the shared library.
    pub(crate) alone: Vec<u8>,
    /// Where the app's table entries end.
    pub(crate) entries_end: u64,
}

/// What the cut needs to know of a module.
#[derive(Default)]
struct Shape<'m> {
    imports: u32,
    /// Type of each function, imported ones first.
    types: Vec<u32>,
    bodies: Vec<FunctionBody<'m>>,
    exports: BTreeMap<u32, &'m str>,
    memory_pages: u64,
    table: u64,
    /// Functions in the table, of all segments.
    elements: Vec<Vec<u32>>,
    element_at: i32,
    type_section: Option<wasmparser::TypeSectionReader<'m>>,
    data: Vec<wasmparser::Data<'m>>,
}

/// The module inside a component: the largest, beside those that only adapt.
pub(crate) fn module_of(component: &[u8]) -> Result<&[u8]> {
    let mut found: &[u8] = &[];
    for payload in Parser::new(0).parse_all(component) {
        if let Payload::ModuleSection { unchecked_range: range, .. } = payload?
            && let Some(module) = component.get(range.start as usize..range.end as usize)
            && module.len() > found.len()
        {
            found = module;
        }
    }
    Ok(found)
}

/// Cuts an app.
pub(crate) fn cut(module: &[u8], library: &[u8]) -> Result<Cut> {
    let (whole, library) = (shape(module)?, shape(library)?);
    let functions = library.types.len() as u32;
    Ok(Cut {
        copied: reencoded(module, &mut Copied { reached: None, at: whole.imports })?,
        trimmed: reencoded(module, &mut Copied { reached: Some(reached(&whole)?), at: whole.imports })?,
        alone: alone(&whole, &library, functions)?,
        entries_end: whole.table,
    })
}

/// The library as one module that apps import from: it exports its table, and has room for every app's data.
pub(crate) fn shared(library: &[u8], memory_pages: u64, table: u64) -> Result<Vec<u8>> {
    reencoded(library, &mut Shared { memory_pages, table })
}

/// Pages of memory that an app's data need.
pub(crate) fn memory_pages(module: &[u8]) -> Result<u64> {
    Ok(shape(module)?.memory_pages)
}

#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "wasmparser's enums grow with the standard; what is not named is of no interest"
)]
fn shape(module: &[u8]) -> Result<Shape<'_>> {
    let mut shape = Shape::default();
    for payload in Parser::new(0).parse_all(module) {
        match payload? {
            Payload::TypeSection(section) => shape.type_section = Some(section),
            Payload::ImportSection(section) => {
                for import in section.into_imports() {
                    if let TypeRef::Func(ty) = import?.ty {
                        shape.types.push(ty);
                    }
                }
                shape.imports = shape.types.len() as u32;
            }
            Payload::FunctionSection(section) => {
                for ty in section {
                    shape.types.push(ty?);
                }
            }
            Payload::TableSection(section) => {
                for table in section {
                    shape.table = table?.ty.initial;
                }
            }
            Payload::MemorySection(section) => {
                for memory in section {
                    shape.memory_pages = memory?.initial;
                }
            }
            Payload::ExportSection(section) => {
                for export in section {
                    let export = export?;
                    if export.kind == ExternalKind::Func {
                        shape.exports.insert(export.index, export.name);
                    }
                }
            }
            Payload::ElementSection(section) => {
                for element in section {
                    let element = element?;
                    if let ElementKind::Active { offset_expr, .. } = element.kind
                        && let Operator::I32Const { value } = offset_expr.get_operators_reader().read()?
                    {
                        shape.element_at = value;
                    }
                    let ElementItems::Functions(items) = element.items else {
                        bail!("the table is filled with expressions")
                    };
                    shape.elements.push(items.into_iter().collect::<Result<_, _>>()?);
                }
            }
            Payload::CodeSectionEntry(body) => shape.bodies.push(body),
            Payload::DataSection(section) => {
                for data in section {
                    shape.data.push(data?);
                }
            }
            _ => {}
        }
    }
    Ok(shape)
}

/// Functions that exports or table can lead to.
fn reached(whole: &Shape<'_>) -> Result<BTreeSet<u32>> {
    let mut reached = BTreeSet::new();
    let mut open: Vec<u32> = whole.exports.keys().chain(whole.elements.iter().flatten()).copied().collect();
    while let Some(function) = open.pop() {
        if reached.insert(function)
            && let Some(at) = function.checked_sub(whole.imports)
        {
            open.extend(callees(&whole.bodies[at as usize])?);
        }
    }
    Ok(reached)
}

fn callees(body: &FunctionBody<'_>) -> Result<Vec<u32>> {
    let mut callees = Vec::new();
    for operator in body.get_operators_reader()? {
        if let Operator::Call { function_index } | Operator::RefFunc { function_index } = operator? {
            callees.push(function_index);
        }
    }
    Ok(callees)
}

fn alone(whole: &Shape<'_>, library: &Shape<'_>, functions: u32) -> Result<Vec<u8>> {
    let own = &whole.bodies[(functions - whole.imports) as usize..];
    let mut used = BTreeSet::new();
    for body in own {
        used.extend(callees(body)?.into_iter().filter(|callee| *callee < functions));
    }
    let mut types = TypeSection::new();
    let section = whole.type_section.clone().context("a module has types")?;
    let mut renumber = Alone { library: used.iter().copied().collect(), functions };
    renumber.parse_type_section(&mut types, section)?;

    let mut imports = ImportSection::new();
    for function in &used {
        let name = library.exports.get(function).context("an app calls what the library exports")?;
        imports.import("library", name, EntityType::Function(whole.types[*function as usize]));
    }
    let memory =
        MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None };
    imports.import("library", "memory", EntityType::Memory(memory));
    let table = TableType {
        element_type: RefType::FUNCREF,
        table64: false,
        minimum: 1,
        maximum: None,
        shared: false,
    };
    imports.import("library", "table", EntityType::Table(table));

    let mut declared = FunctionSection::new();
    let mut code = CodeSection::new();
    for (at, body) in own.iter().enumerate() {
        declared.function(whole.types[functions as usize + at]);
        renumber.parse_function_body(&mut code, body.clone())?;
    }
    let mut elements = ElementSection::new();
    let mut entries = Vec::new();
    for function in whole.elements.last().context("an app has table entries")? {
        entries.push(renumber.function_index(*function)?);
    }
    let at = wasm_encoder::ConstExpr::i32_const(whole.element_at);
    elements.active(None, &at, wasm_encoder::Elements::Functions(entries.into()));
    let mut data = DataSection::new();
    for segment in &whole.data[library.data.len()..] {
        renumber.parse_data(&mut data, segment.clone())?;
    }
    let mut module = Module::new();
    module
        .section(&types)
        .section(&imports)
        .section(&declared)
        .section(&elements)
        .section(&code)
        .section(&data);
    let bytes = module.finish();
    wasmparser::Validator::new_with_features(WasmFeatures::default()).validate_all(&bytes)?;
    Ok(bytes)
}

fn reencoded(module: &[u8], how: &mut impl Reencode<Error = Infallible>) -> Result<Vec<u8>> {
    let mut out = Module::new();
    how.parse_core_module(&mut out, Parser::new(0), module)?;
    let bytes = out.finish();
    wasmparser::Validator::new_with_features(WasmFeatures::default()).validate_all(&bytes)?;
    Ok(bytes)
}

/// Exports the table, for the measurement to call into; drops bodies that are not reached.
struct Copied {
    reached: Option<BTreeSet<u32>>,
    /// The function whose body comes next.
    at: u32,
}

impl Reencode for Copied {
    type Error = Infallible;

    fn parse_export_section(
        &mut self,
        exports: &mut ExportSection,
        section: wasmparser::ExportSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        utils::parse_export_section(self, exports, section)?;
        exports.export("table", ExportKind::Table, 0);
        Ok(())
    }

    fn parse_function_body(
        &mut self,
        code: &mut CodeSection,
        body: FunctionBody<'_>,
    ) -> Result<(), Error<Infallible>> {
        self.at += 1;
        if self.reached.as_ref().is_none_or(|reached| reached.contains(&(self.at - 1))) {
            return utils::parse_function_body(self, code, body);
        }
        let mut empty = Function::new([]);
        empty.instruction(&Instruction::Unreachable).instruction(&Instruction::End);
        code.function(&empty);
        Ok(())
    }

    fn parse_custom_section(
        &mut self,
        _: &mut Module,
        _: wasmparser::CustomSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        Ok(())
    }
}

struct Shared {
    memory_pages: u64,
    table: u64,
}

impl Reencode for Shared {
    type Error = Infallible;

    fn memory_type(&mut self, ty: wasmparser::MemoryType) -> Result<MemoryType, Error<Infallible>> {
        Ok(MemoryType { minimum: self.memory_pages, ..utils::memory_type(self, ty) })
    }

    fn table_type(&mut self, ty: wasmparser::TableType) -> Result<TableType, Error<Infallible>> {
        Ok(TableType { minimum: self.table, maximum: None, ..utils::table_type(self, ty)? })
    }

    fn parse_export_section(
        &mut self,
        exports: &mut ExportSection,
        section: wasmparser::ExportSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        utils::parse_export_section(self, exports, section)?;
        exports.export("table", ExportKind::Table, 0);
        Ok(())
    }

    fn parse_custom_section(
        &mut self,
        _: &mut Module,
        _: wasmparser::CustomSectionReader<'_>,
    ) -> Result<(), Error<Infallible>> {
        Ok(())
    }
}

/// Renumbers functions: those of the library become imports, the app's own follow.
struct Alone {
    library: Vec<u32>,
    functions: u32,
}

impl Reencode for Alone {
    type Error = Infallible;

    fn function_index(&mut self, function: u32) -> Result<u32, Error<Infallible>> {
        Ok(match self.library.binary_search(&function) {
            Ok(import) => import as u32,
            Err(_) => function - self.functions + self.library.len() as u32,
        })
    }
}
