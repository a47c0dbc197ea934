//! Functions behind those that call them: what one request runs lies together.
//!
//! Compilers leave functions in the order of their sources, and native code keeps that order. A request runs a few of them, so that a host with
//! thousands of apps, of which each request finds none in the caches, pays for a page and its place in the page table for nearly every function.
//! Here functions come in the order in which they are first called, beginning with what the module exports, without those of which nothing
//! returns (panics), which come behind all others.
//!
//! What must stay true: a guest does what it did before, functions keep their names, and what names say of places in the code stays true.

use wasm_encoder::reencode::Reencode;
use wasm_encoder::{CodeSection, Component, FunctionSection, Module, ModuleSection, NameSection, RawSection};
use wasmparser::{ElementItems, ExternalKind, FunctionBody, Operator, Parser, Payload, TypeRef};

use super::names::{Places, body_again, custom_again, name_again};
use super::{Error, Unfit};
use crate::sections::sections;

/// The valid component with the functions of its modules in that order. `None` where that is not possible.
pub(super) fn ordered(component: &[u8]) -> Option<Vec<u8>> {
    let mut out = Component::new();
    for payload in sections(component) {
        match payload.ok()? {
            Payload::ModuleSection { unchecked_range, .. } => {
                let module = component.get(unchecked_range)?;
                out.section(&ModuleSection(&in_order(module).ok()?));
            }
            other => {
                if let Some((id, range)) = other.as_section() {
                    out.section(&RawSection { id, data: component.get(range)? });
                }
            }
        }
    }
    Some(out.finish())
}

fn in_order(module: &[u8]) -> Result<Module, Error> {
    let mut order = Calls::read(module)?.order()?;
    let mut ordered = Module::new();
    order.parse_core_module(&mut ordered, Parser::new(0), module)?;
    Ok(ordered)
}

/// What calls what in a module, by the numbers of functions as the module has them, imports first.
#[derive(Default)]
struct Calls {
    imported: u32,
    /// What is called from outside, and then what is called through a table.
    roots: Vec<u32>,
    /// Of each function of the module's own, what it calls and comes back from.
    calls: Vec<Vec<u32>>,
}

impl Calls {
    fn read(module: &[u8]) -> Result<Self, Error> {
        let mut all = Self::default();
        let mut called_by_table = Vec::new();
        for payload in Parser::new(0).parse_all(module) {
            match payload? {
                Payload::ImportSection(section) => {
                    for import in section.into_imports() {
                        all.imported +=
                            u32::from(matches!(import?.ty, TypeRef::Func(_) | TypeRef::FuncExact(_)));
                    }
                }
                Payload::ExportSection(section) => {
                    for export in section {
                        let export = export?;
                        if export.kind == ExternalKind::Func {
                            all.roots.push(export.index);
                        }
                    }
                }
                Payload::ElementSection(section) => {
                    for element in section {
                        if let ElementItems::Functions(functions) = element?.items {
                            for function in functions {
                                called_by_table.push(function?);
                            }
                        }
                    }
                }
                Payload::CodeSectionEntry(body) => all.calls.push(calls(&body)?),
                _ => {}
            }
        }
        all.roots.append(&mut called_by_table);
        Ok(all)
    }

    /// Depth first, for a function is called soon after whoever calls it began.
    fn order(&self) -> Result<Order, Error> {
        let count = self.calls.len();
        let (mut placed, mut order) = (vec![false; count], Vec::with_capacity(count));
        let mut next = Vec::new();
        for root in self.roots.iter().copied().chain(self.imported..self.imported + count as u32) {
            next.push(root);
            while let Some(function) = next.pop() {
                let Some(own) = function.checked_sub(self.imported).map(|own| own as usize) else { continue };
                if !std::mem::replace(placed.get_mut(own).ok_or(Unfit)?, true) {
                    order.push(own);
                    next.extend(self.calls[own].iter().rev());
                }
            }
        }
        let mut index = vec![0; count];
        for (place, own) in (self.imported..).zip(&order) {
            index[*own] = place;
        }
        Ok(Order { imported: self.imported, order, index, places: Vec::new() })
    }
}

/// What a function calls, without what never returns: compilers say so behind the call.
fn calls(body: &FunctionBody<'_>) -> Result<Vec<u32>, Error> {
    let (mut calls, mut last) = (Vec::new(), None);
    for operator in body.get_operators_reader()? {
        let operator = operator?;
        calls.extend(last.take().filter(|_| !matches!(operator, Operator::Unreachable)));
        if let Operator::Call { function_index } | Operator::ReturnCall { function_index } = operator {
            last = Some(function_index);
        }
    }
    Ok(calls)
}

/// The functions of a module's own in another order.
struct Order {
    imported: u32,
    /// Which one comes in each place.
    order: Vec<usize>,
    /// Of each, which index it has now.
    index: Vec<u32>,
    /// Of those that were written, in that order, where their instructions went.
    places: Vec<Places>,
}

impl Reencode for Order {
    type Error = Unfit;

    fn function_index(&mut self, function: u32) -> Result<u32, Error> {
        let Some(own) = function.checked_sub(self.imported) else { return Ok(function) };
        Ok(*self.index.get(own as usize).ok_or(Unfit)?)
    }

    fn parse_function_section(
        &mut self,
        functions: &mut FunctionSection,
        section: wasmparser::FunctionSectionReader<'_>,
    ) -> Result<(), Error> {
        let kinds = section.into_iter().collect::<wasmparser::Result<Vec<u32>>>()?;
        for own in self.order.clone() {
            functions.function(self.type_index(*kinds.get(own).ok_or(Unfit)?)?);
        }
        Ok(())
    }

    fn parse_code_section(
        &mut self,
        code: &mut CodeSection,
        section: wasmparser::CodeSectionReader<'_>,
    ) -> Result<(), Error> {
        let bodies = section.into_iter().collect::<wasmparser::Result<Vec<_>>>()?;
        for own in self.order.clone() {
            self.parse_function_body(code, bodies.get(own).cloned().ok_or(Unfit)?)?;
        }
        Ok(())
    }

    fn parse_function_body(&mut self, code: &mut CodeSection, body: FunctionBody<'_>) -> Result<(), Error> {
        let places = body_again(self, code, &body)?;
        self.places.push(places);
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
        name_again(self, names, section, |order, index, name| {
            let own = index.checked_sub(order.imported).and_then(|own| order.places.get(own as usize));
            own.map_or(name.into(), |places| places.named(name))
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use wasm_encoder::*;
    use wasmparser::{KnownCustom, Name};

    use super::*;

    /// One import, and functions that call one another by name, in the order of their source.
    fn module() -> Vec<u8> {
        const NAMES: [&str; 8] = ["import", "panic", "last", "deep", "by_table", "unused", "first", "run"];
        let index = |name: &str| NAMES.iter().position(|known| *known == name).unwrap() as u32;
        let calls = |name: &str| match name {
            "run" => &["first", "panic", "import", "last"][..],
            "first" => &["deep"],
            "deep" => &["first"], // and so on for ever
            "last" => &["deep"],
            "panic" => &["unused"],
            _ => &[],
        };
        let mut types = TypeSection::new();
        types.ty().function([], []);
        types.ty().function([ValType::I32], []);
        let mut imports = ImportSection::new();
        imports.import("host", "import", EntityType::Function(0));
        let (mut functions, mut code, mut names) =
            (FunctionSection::new(), CodeSection::new(), NameMap::new());
        for (at, name) in NAMES.iter().enumerate() {
            names.append(at as u32, name);
            if at == 0 {
                continue;
            }
            functions.function(0);
            let mut body = Function::new([]);
            for called in calls(name) {
                if *called == "panic" {
                    body.instructions()
                        .i32_const(0)
                        .if_(BlockType::Empty)
                        .call(index(called))
                        .unreachable()
                        .end();
                } else {
                    body.instructions().call(index(called));
                }
            }
            body.instructions().end();
            code.function(&body);
        }
        let mut tables = TableSection::new();
        let (element_type, minimum) = (RefType::FUNCREF, 1);
        tables.table(TableType { element_type, minimum, maximum: None, table64: false, shared: false });
        let mut elements = ElementSection::new();
        let by_table = [index("by_table")];
        elements.active(None, &ConstExpr::i32_const(0), Elements::Functions(by_table[..].into()));
        let mut exports = ExportSection::new();
        exports.export("run", ExportKind::Func, index("run"));
        let mut naming = NameSection::new();
        naming.functions(&names);
        let mut module = Module::new();
        module.section(&types).section(&imports).section(&functions).section(&tables).section(&exports);
        module.section(&elements).section(&code);
        module.section(&CustomSection { name: ".debug_line".into(), data: [1].as_slice().into() });
        module.section(&naming);
        module.finish()
    }

    /// Names of functions by index, and of what the function in each place calls, of what is exported and of what is in the table.
    fn described(module: &[u8]) -> (Vec<String>, Vec<Vec<u32>>, Vec<u32>) {
        let (mut names, mut calls, mut roots) = (Vec::new(), Vec::new(), Vec::new());
        for payload in Parser::new(0).parse_all(module) {
            match payload.unwrap() {
                Payload::CodeSectionEntry(body) => {
                    let called = |operator| match operator {
                        Ok(Operator::Call { function_index }) => Some(function_index),
                        _ => None,
                    };
                    calls.push(body.get_operators_reader().unwrap().into_iter().filter_map(called).collect());
                }
                Payload::ExportSection(exports) => {
                    roots.extend(exports.into_iter().map(|export| export.unwrap().index));
                }
                Payload::CustomSection(section) => {
                    let KnownCustom::Name(sections) = section.as_known() else {
                        panic!("{}", section.name())
                    };
                    for section in sections {
                        let Name::Function(map) = section.unwrap() else { continue };
                        names.extend(map.into_iter().map(|naming| naming.unwrap().name.to_owned()));
                    }
                }
                _ => {}
            }
        }
        (names, calls, roots)
    }

    #[test]
    fn marks_in_names_stay_with_their_instructions() {
        const CALLED: u32 = 300;
        let (mut types, mut functions, mut code) =
            (TypeSection::new(), FunctionSection::new(), CodeSection::new());
        types.ty().function([], []);
        let mut run = Function::new([(3, ValType::I32)]);
        let mut name = "Shop.Pay\trest.yaml".to_owned();
        for called in (0..CALLED).rev() {
            functions.function(0);
            let mut empty = Function::new([]);
            empty.instructions().end();
            code.function(&empty);
            name.push_str(&format!("\n{}:{called}:Node", run.byte_len()));
            run.instructions().call(called);
        }
        name.push_str("\nno mark");
        run.instructions().end();
        functions.function(0);
        code.function(&run);
        let (mut exports, mut names, mut naming) = (ExportSection::new(), NameMap::new(), NameSection::new());
        exports.export("run", ExportKind::Func, CALLED);
        names.append(CALLED, &name);
        naming.functions(&names);
        let mut module = Module::new();
        module.section(&types).section(&functions).section(&exports).section(&code).section(&naming);

        let ordered = in_order(&module.finish()).unwrap().finish();
        let (names, _, roots) = described(&ordered);
        assert_eq!(roots, [0], "it comes first, and calls the others by indices of one byte now");
        let marks = names[0].lines().skip(1).filter_map(|line| line.split_once(':')?.0.parse::<usize>().ok());
        let bodies = Parser::new(0).parse_all(&ordered).filter_map(|payload| match payload.unwrap() {
            Payload::CodeSectionEntry(body) => Some(body),
            _ => None,
        });
        let run = bodies.into_iter().next().unwrap();
        let operators = run.get_operators_reader().unwrap().into_iter_with_offsets();
        let begin = run.range().start;
        let calls = operators.filter_map(|operator| match operator.unwrap() {
            (Operator::Call { .. }, place) => Some(place - begin),
            _ => None,
        });
        assert_eq!(calls.collect::<Vec<_>>(), marks.collect::<Vec<_>>());
        assert!(
            names[0].starts_with("Shop.Pay\trest.yaml\n") && names[0].ends_with("\nno mark"),
            "{}",
            names[0]
        );
    }

    #[test]
    fn functions_lie_behind_those_that_call_them_and_call_what_they_called() {
        let ordered = in_order(&module()).unwrap().finish();
        wasmparser::validate(&ordered).unwrap();
        let (names, calls, roots) = described(&ordered);
        assert_eq!(names, ["import", "run", "first", "deep", "last", "by_table", "panic", "unused"]);
        let by_name = |index: &u32| names[*index as usize].as_str();
        let of = |calls: &Vec<u32>| calls.iter().map(by_name).collect::<Vec<_>>();
        assert_eq!(of(&roots), ["run"]);
        assert_eq!(of(&calls[0]), ["first", "panic", "import", "last"]);
        assert_eq!(of(&calls[1]), ["deep"]);
        assert_eq!(of(&calls[5]), ["unused"], "{names:?}");
        assert_eq!(in_order(&ordered).unwrap().finish(), ordered, "there is nothing left to do");
    }
}
