//! How many parts with functions of its own a component consists of, the components inside of it counted as often as it makes instances of them.
//!
//! With WASI 0.3 each of them may hold a stack while it waits: one that calls another without giving way keeps its own, and lets nobody else in
//! meanwhile. It needs no module for that: what it imports it may export again as a function of its own. So their count bounds what one request holds of a host's stacks. What must stay true: whatever cannot be counted is refused.

use wasmparser::{
    CanonicalFunction, ComponentAlias, ComponentExternalKind, ComponentInstance, ComponentOuterAliasKind,
    ComponentTypeRef, Instance, Parser, Payload,
};

/// Parts of one component of WASI 0.3. As many as it may have memories, which most languages need one of for each.
pub(crate) const PARTS_MAX: u32 = 4;

/// Why a component has too many parts, if it has.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum TooMany {
    #[error(
        "it consists of {0} components with functions of their own, of {PARTS_MAX} allowed for WASI 0.3; make one of several before they become components"
    )]
    Parts(u32),
    #[error(
        "it makes instances of a component that it imports, or has from an instance, so that nobody can tell how many components it consists of; \
         put that component itself into it"
    )]
    Unknown,
}

/// One component on the way through all of them.
#[derive(Default)]
struct Scope {
    /// The parts of each component that has a number here. `None`: unknown.
    components: Vec<Option<u32>>,
    /// Of the instances that it makes. `None`: unknown.
    parts: Option<u32>,
    /// Functions that others may call, or a module.
    is_part: bool,
}

impl Scope {
    fn new() -> Self {
        Self { parts: Some(0), ..Self::default() }
    }

    fn add(&mut self, parts: Option<u32>) {
        self.parts = self.parts.zip(parts).map(|(sum, parts)| sum.saturating_add(parts));
    }

    fn whole(mut self) -> Option<u32> {
        self.add(Some(u32::from(self.is_part)));
        self.parts
    }
}

/// Compares the parts of a component with what is allowed. What is no valid component has as many as were seen: the compiler says why it is none.
pub(crate) fn check(component: &[u8]) -> Result<(), TooMany> {
    match count(component) {
        Some(parts) if parts <= PARTS_MAX => Ok(()),
        Some(parts) => Err(TooMany::Parts(parts)),
        None => Err(TooMany::Unknown),
    }
}

fn count(component: &[u8]) -> Option<u32> {
    let (mut scopes, mut modules) = (vec![Scope::new()], 0_usize);
    for payload in Parser::new(0).parse_all(component) {
        match payload {
            Ok(Payload::ModuleSection { .. }) => modules += 1, // what is in it are no components
            Ok(Payload::End(_)) if modules > 0 => modules -= 1,
            Ok(Payload::ComponentSection { .. }) => scopes.push(Scope::new()),
            Ok(Payload::End(_)) if scopes.len() > 1 => {
                let inner = scopes.pop().and_then(Scope::whole);
                scopes.last_mut().into_iter().for_each(|outer| outer.components.push(inner));
            }
            Ok(payload) => {
                if note(&mut scopes, payload).is_err() {
                    break;
                }
            }
            Err(_) => break,
        }
    }
    scopes.into_iter().next().and_then(Scope::whole)
}

/// Looks at a section of the innermost component.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "whatever has no components and makes no instances counts for nothing"
)]
fn note(scopes: &mut [Scope], payload: Payload<'_>) -> wasmparser::Result<()> {
    let Some((scope, outer)) = scopes.split_last_mut() else { return Ok(()) };
    match payload {
        Payload::InstanceSection(instances) => {
            for instance in instances {
                scope.is_part |= matches!(instance?, Instance::Instantiate { .. });
            }
        }
        Payload::ComponentCanonicalSection(functions) => {
            for function in functions {
                scope.is_part |= matches!(function?, CanonicalFunction::Lift { .. });
            }
        }
        Payload::ComponentInstanceSection(instances) => {
            for instance in instances {
                if let ComponentInstance::Instantiate { component_index, .. } = instance? {
                    scope.add(at(&scope.components, component_index));
                }
            }
        }
        Payload::ComponentAliasSection(aliases) => {
            for alias in aliases {
                let component = match alias? {
                    ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count: 0, index } => {
                        at(&scope.components, index)
                    }
                    ComponentAlias::Outer { kind: ComponentOuterAliasKind::Component, count, index } => {
                        let from = outer.len().checked_sub(count as usize).and_then(|at| outer.get(at));
                        from.map_or(Some(0), |from| at(&from.components, index))
                    }
                    ComponentAlias::InstanceExport { kind: ComponentExternalKind::Component, .. } => None,
                    _ => continue,
                };
                scope.components.push(component);
            }
        }
        Payload::ComponentImportSection(imports) => {
            for import in imports {
                if matches!(import?.ty, ComponentTypeRef::Component(_)) {
                    scope.components.push(None);
                }
            }
        }
        Payload::ComponentExportSection(exports) => {
            for export in exports {
                let export = export?;
                if export.kind == ComponentExternalKind::Component {
                    let exported = at(&scope.components, export.index); // an export has a number of its own
                    scope.components.push(exported);
                }
            }
        }
        _ => {}
    }
    Ok(())
}

/// Those of the component with a number; one that is not there makes the whole invalid, and counts for nothing here.
fn at(components: &[Option<u32>], index: u32) -> Option<u32> {
    components.get(index as usize).copied().unwrap_or(Some(0))
}

#[cfg(test)]
mod tests {
    use wasm_encoder::{
        Alias, CanonicalFunctionSection, CanonicalOption, Component, ComponentAliasSection,
        ComponentExportKind, ComponentImportSection, ComponentInstanceSection, ComponentOuterAliasKind,
        ComponentTypeRef, ComponentTypeSection, InstanceSection, Module, ModuleArg, ModuleSection,
        NestedComponentSection,
    };

    use super::*;

    /// A component with code.
    fn part() -> Component {
        let (mut component, mut instances) = (Component::new(), InstanceSection::new());
        instances.instantiate::<[(&str, ModuleArg); 0], &str>(0, []);
        component.section(&ModuleSection(&Module::new())).section(&instances);
        component
    }

    fn instances(of: &[u32]) -> ComponentInstanceSection {
        let mut section = ComponentInstanceSection::new();
        for &component in of {
            section.instantiate::<[(&str, ComponentExportKind, u32); 0], &str>(component, []);
        }
        section
    }

    #[test]
    fn components_count_as_often_as_instances_of_them_are_made() {
        assert_eq!(count(&Component::new().finish()), Some(0));
        assert_eq!(count(&part().finish()), Some(1));
        // Twice one that is made of two, one by its outer name, and one that is there and not used.
        let (mut pair, mut outer) = (Component::new(), ComponentAliasSection::new());
        outer.alias(Alias::Outer { kind: ComponentOuterAliasKind::Component, count: 1, index: 0 });
        pair.section(&outer).section(&instances(&[0, 0]));
        let mut whole = part();
        whole.section(&NestedComponentSection(&part())).section(&NestedComponentSection(&pair));
        whole.section(&NestedComponentSection(&part())).section(&instances(&[1, 1]));
        let whole = whole.finish();
        assert_eq!(count(&whole), Some(5));
        assert_eq!(check(&whole), Err(TooMany::Parts(5)));
        assert_eq!(check(&part().finish()), Ok(()));
    }

    #[test]
    fn what_exports_an_import_as_its_own_function_is_a_part() {
        let mut functions = CanonicalFunctionSection::new();
        functions.lower(0, [] as [CanonicalOption; 0]);
        let mut component = Component::new();
        component.section(&functions);
        assert_eq!(count(&component.clone().finish()), Some(0));
        let mut functions = CanonicalFunctionSection::new();
        functions.lift(0, 0, [] as [CanonicalOption; 0]);
        component.section(&functions);
        assert_eq!(count(&component.finish()), Some(1));
    }

    #[test]
    fn a_million_in_a_few_bytes_are_counted_in_no_time() {
        let mut nest = part();
        for _ in 0..100 {
            let mut outer = Component::new();
            outer.section(&NestedComponentSection(&nest)).section(&instances(&[0; 10]));
            nest = outer;
        }
        assert_eq!(count(&nest.finish()), Some(u32::MAX));
    }

    #[test]
    fn what_cannot_be_counted_is_refused() {
        let (mut imports, mut types) = (ComponentImportSection::new(), ComponentTypeSection::new());
        types.component(&wasm_encoder::ComponentType::new());
        imports.import("part", ComponentTypeRef::Component(0));
        let mut whole = Component::new();
        whole.section(&types).section(&imports);
        assert_eq!(count(&whole.clone().finish()), Some(0), "it is not used");
        whole.section(&instances(&[0]));
        assert_eq!(check(&whole.finish()), Err(TooMany::Unknown));
        assert_eq!(check(b"nothing of the kind"), Ok(()), "the compiler says what it is");
    }
}
