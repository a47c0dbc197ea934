//! The two core modules: a shim, which is only read, and the one that its functions move to.

use std::collections::{BTreeMap, BTreeSet};

use wasm_encoder::reencode::{Reencode, utils};
use wasm_encoder::{
    CodeSection, ExportKind, ExportSection, Function, FunctionSection, ImportSection, Instruction, Module,
    NameSection, SectionId, TableSection,
};
use wasmparser::{FunctionBody, Operator, Parser, Payload, TableInit, TableType, TypeRef};

use super::names::{Places, body_again, custom_again, name_again};
use super::{Error, Unfit};
use crate::engine::TABLES_PER_MODULE_MAX;

/// A module that does nothing but call through a table.
pub(super) struct Shim<'a> {
    table: TableType,
    pub(super) table_name: &'a str,
    /// By the names of their exports.
    pub(super) functions: BTreeMap<&'a str, Forward>,
}

/// A function that passes its parameters on to the one in a place of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Forward {
    place: i32,
    params: u32,
}

impl<'a> Shim<'a> {
    /// Fails for a module that is anything else.
    pub(super) fn read(module: &'a [u8]) -> Result<Self, Error> {
        let (mut types, mut functions, mut bodies) = (Vec::new(), Vec::new(), Vec::new());
        let (mut tables, mut exports) = (Vec::new(), Vec::new());
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::TypeSection(section) => {
                    for kind in section.into_iter_err_on_gc_types() {
                        types.push(kind?);
                    }
                }
                Payload::FunctionSection(section) => {
                    for kind in section {
                        functions.push(kind?);
                    }
                }
                Payload::TableSection(section) => {
                    for table in section {
                        tables.push(table?);
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        exports.push(export?);
                    }
                }
                Payload::CodeSectionEntry(body) => bodies.push(body),
                Payload::Version { .. }
                | Payload::CodeSectionStart { .. }
                | Payload::CustomSection(_)
                | Payload::End(_) => {}
                _ => return Err(Unfit.into()),
            }
        }
        let [table] = &tables[..] else { return Err(Unfit.into()) };
        let is_plain = matches!(table.init, TableInit::RefNull) && !table.ty.table64 && !table.ty.shared;
        if !is_plain || table.ty.element_type != wasmparser::RefType::FUNCREF {
            return Err(Unfit.into());
        }
        let (mut table_name, mut forwards) = (None, BTreeMap::new());
        for export in exports {
            match export.kind {
                wasmparser::ExternalKind::Table => {
                    if table_name.replace(export.name).is_some() {
                        return Err(Unfit.into());
                    }
                }
                wasmparser::ExternalKind::Func => {
                    let number = export.index as usize;
                    let kind = functions.get(number).ok_or(Unfit)?;
                    let of = |kind: u32| types.get(kind as usize).ok_or(Unfit);
                    let (forward, called) =
                        forward(bodies.get(number).ok_or(Unfit)?, of(*kind)?.params().len())?;
                    if of(called)? != of(*kind)? {
                        return Err(Unfit.into());
                    }
                    forwards.insert(export.name, forward);
                }
                _ => return Err(Unfit.into()),
            }
        }
        Ok(Self { table: table.ty, table_name: table_name.ok_or(Unfit)?, functions: forwards })
    }
}

/// Reads a body that is nothing but a call through the table, and says with which type it calls.
fn forward(body: &FunctionBody<'_>, params: usize) -> Result<(Forward, u32), Error> {
    if body.get_locals_reader()?.get_count() > 0 {
        return Err(Unfit.into());
    }
    let params = u32::try_from(params).map_err(|_| Unfit)?;
    let mut operators = body.get_operators_reader()?;
    for param in 0..params {
        let Operator::LocalGet { local_index } = operators.read()? else { return Err(Unfit.into()) };
        if local_index != param {
            return Err(Unfit.into());
        }
    }
    let Operator::I32Const { value: place } = operators.read()? else { return Err(Unfit.into()) };
    let Operator::CallIndirect { type_index, table_index: 0 } = operators.read()? else {
        return Err(Unfit.into());
    };
    let Operator::End = operators.read()? else { return Err(Unfit.into()) };
    Ok((Forward { place, params }, type_index))
}

/// The module that a shim's functions move to.
pub(super) struct Main {
    /// Its imported functions.
    imports: Vec<Imported>,
    /// Of those, how many stay imports.
    kept: u32,
    /// Its tables, which the shim's follows.
    tables: u32,
    /// What it exports that table as.
    pub(super) table_name: String,
}

#[derive(Clone, Copy)]
enum Imported {
    /// It stays one, with this index.
    Kept(u32),
    /// It becomes a function of the module's own, the first of which come right behind the imports: so all others keep
    /// their indices.
    Moved { number: u32, kind: u32, forward: Forward },
}

impl Main {
    /// Asks of each imported function whether the shim gives it, by `by_shim`. Fails for modules that lack what nearly all have.
    pub(super) fn read(
        module: &[u8],
        by_shim: impl Fn(&str, &str) -> Option<Forward>,
    ) -> Result<Self, Error> {
        let (mut imports, mut kept, mut moved, mut tables) = (Vec::new(), 0, 0, 0);
        let (mut exports, mut has_code) = (BTreeSet::new(), false);
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        let import = import?;
                        match import.ty {
                            TypeRef::Func(kind) => imports.push(match by_shim(import.module, import.name) {
                                Some(forward) => {
                                    moved += 1;
                                    Imported::Moved { number: moved - 1, kind, forward }
                                }
                                None => {
                                    kept += 1;
                                    Imported::Kept(kept - 1)
                                }
                            }),
                            TypeRef::FuncExact(_) => return Err(Unfit.into()),
                            TypeRef::Table(_) => tables += 1,
                            TypeRef::Memory(_) | TypeRef::Global(_) | TypeRef::Tag(_) => {}
                        }
                    }
                }
                Payload::TableSection(section) if section.count() < TABLES_PER_MODULE_MAX => {
                    tables += section.count();
                }
                Payload::TableSection(_) => return Err(Unfit.into()), // no pool has room for another
                Payload::ExportSection(section) => {
                    for export in section {
                        exports.insert(export?.name);
                    }
                }
                Payload::CodeSectionStart { .. } => has_code = true,
                _ => {}
            }
        }
        if !has_code || exports.is_empty() {
            return Err(Unfit.into());
        }
        let mut table_name = "$imports".to_owned();
        while exports.contains(table_name.as_str()) {
            table_name.push('$');
        }
        Ok(Self { imports, kept, tables, table_name })
    }

    /// The module with the table and the functions of the shim.
    pub(super) fn with_shim(&self, shim: &Shim<'_>, module: &[u8]) -> Result<Module, Error> {
        let mut merged = Module::new();
        Merge { main: self, shim, has_table: false, places: Vec::new() }.parse_core_module(
            &mut merged,
            Parser::new(0),
            module,
        )?;
        Ok(merged)
    }

    fn moved(&self) -> impl Iterator<Item = (u32, Forward)> {
        self.imports.iter().filter_map(|import| match import {
            Imported::Moved { kind, forward, .. } => Some((*kind, *forward)),
            Imported::Kept(_) => None,
        })
    }
}

struct Merge<'a> {
    main: &'a Main,
    shim: &'a Shim<'a>,
    has_table: bool,
    /// Of the module's own functions, where their instructions went.
    places: Vec<Places>,
}

impl Merge<'_> {
    fn table(&mut self, tables: &mut TableSection) -> Result<(), Error> {
        self.has_table = true;
        tables.table(self.table_type(self.shim.table)?);
        Ok(())
    }
}

impl Reencode for Merge<'_> {
    type Error = Unfit;

    fn function_index(&mut self, function: u32) -> Result<u32, Error> {
        Ok(match self.main.imports.get(function as usize) {
            Some(Imported::Kept(index)) => *index,
            Some(Imported::Moved { number, .. }) => self.main.kept + number,
            None => function,
        })
    }

    fn parse_import_section(
        &mut self,
        imports: &mut ImportSection,
        section: wasmparser::ImportSectionReader<'_>,
    ) -> Result<(), Error> {
        let mut functions = self.main.imports.iter();
        for import in section.into_imports() {
            let import = import?;
            let is_function = matches!(import.ty, TypeRef::Func(_));
            if is_function && matches!(functions.next(), Some(Imported::Moved { .. })) {
                continue;
            }
            self.parse_import(imports, import)?;
        }
        Ok(())
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> Result<(), Error> {
        for (kind, _) in self.main.moved() {
            functions.function(kind);
        }
        utils::parse_function_section(self, functions, section)
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: wasmparser::CodeSectionReader<'_>,
    ) -> Result<(), Error> {
        for (kind, forward) in self.main.moved() {
            let mut function = Function::new([]);
            for param in 0..forward.params {
                function.instruction(&Instruction::LocalGet(param));
            }
            function.instruction(&Instruction::I32Const(forward.place));
            function
                .instruction(&Instruction::CallIndirect { type_index: kind, table_index: self.main.tables });
            function.instruction(&Instruction::End);
            code.function(&function);
        }
        utils::parse_code_section(self, code, section)
    }

    fn parse_function_body(&mut self, code: &mut CodeSection, body: FunctionBody<'_>) -> Result<(), Error> {
        let places = body_again(self, code, &body)?;
        self.places.push(places);
        Ok(())
    }

    fn parse_table_section(
        &mut self,
        tables: &mut TableSection,
        section: wasmparser::TableSectionReader<'_>,
    ) -> Result<(), Error> {
        utils::parse_table_section(self, tables, section)?;
        self.table(tables)
    }

    /// Tables stand behind the types of functions, in a module that has none of its own, too.
    fn intersperse_section_hook(
        &mut self,
        module: &mut Module,
        after: Option<SectionId>,
        before: Option<SectionId>,
    ) -> Result<(), Error> {
        if after == Some(SectionId::Function) && before != Some(SectionId::Table) && !self.has_table {
            let mut tables = TableSection::new();
            self.table(&mut tables)?;
            module.section(&tables);
        }
        Ok(())
    }

    fn parse_export_section(
        &mut self,
        exports: &mut ExportSection,
        section: wasmparser::ExportSectionReader<'_>,
    ) -> Result<(), Error> {
        utils::parse_export_section(self, exports, section)?;
        exports.export(&self.main.table_name, ExportKind::Table, self.main.tables);
        Ok(())
    }

    fn parse_custom_section(
        &mut self,
        module: &mut Module,
        section: wasmparser::CustomSectionReader<'_>,
    ) -> Result<(), Error> {
        custom_again(self, module, section)
    }

    fn parse_custom_name_subsection(
        &mut self,
        names: &mut NameSection,
        section: wasmparser::Name<'_>,
    ) -> Result<(), Error> {
        name_again(self, names, section, |merge, index, name| {
            let own = (index as usize).checked_sub(merge.main.imports.len());
            own.and_then(|own| merge.places.get(own)).map_or(name.into(), |places| places.named(name))
        })
    }
}
