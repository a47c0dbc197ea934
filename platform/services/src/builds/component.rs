//! What a build learns from a component's own bytes: whether it is one, and which interfaces it depends on.

use wasmparser::{BinaryReaderError, Parser, Payload, Validator};

/// Ok for a valid component; else why it is none, for the one who sent it.
pub(crate) fn check(bytes: &[u8]) -> Result<(), String> {
    if Parser::is_core_wasm(bytes) {
        return Err(
            "the file is a core WebAssembly module, not a component; build for wasm32-wasip2, or wrap it with `wasm-tools component new`"
                .into(),
        );
    }
    match Validator::new().validate_all(bytes) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("the file is not a valid component: {error}")),
    }
}

/// The interfaces that the host must give, in the component's order. What it contains has imports of its own,
/// which the component itself satisfies.
#[expect(
    clippy::wildcard_enum_match_arm,
    reason = "wasmparser's enums grow with the standard; what is not named imports nothing"
)]
pub(crate) fn imports(component: &[u8]) -> Result<Vec<String>, BinaryReaderError> {
    let mut names = Vec::new();
    let mut depth = 0_u32;
    for payload in Parser::new(0).parse_all(component) {
        match payload? {
            Payload::ModuleSection { .. } | Payload::ComponentSection { .. } => depth += 1,
            Payload::End(_) => depth = depth.saturating_sub(1),
            Payload::ComponentImportSection(section) if depth == 0 => {
                for import in section {
                    names.push(import?.name.name.to_owned());
                }
            }
            _ => {}
        }
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use wasm_encoder::{
        Component, ComponentImportSection, ComponentTypeRef, ComponentTypeSection, InstanceType,
        NestedComponentSection,
    };

    use super::*;

    #[test]
    fn only_the_outermost_imports_count() {
        let mut component = importing("odeon:sql/session@0.1.0");
        component.section(&NestedComponentSection(&importing("inner:one/two@1.0.0")));
        let bytes = component.finish();
        assert_eq!(check(&bytes), Ok(()));
        assert_eq!(imports(&bytes).unwrap(), ["odeon:sql/session@0.1.0"]);
    }

    fn importing(name: &str) -> Component {
        let mut types = ComponentTypeSection::new();
        types.instance(&InstanceType::new());
        let mut imports = ComponentImportSection::new();
        imports.import(name, ComponentTypeRef::Instance(0));
        let mut component = Component::new();
        component.section(&types).section(&imports);
        component
    }

    #[test]
    fn what_is_no_component_is_named() {
        assert!(
            check(b"\0asm\x01\0\0\0").unwrap_err().contains("a core WebAssembly module, not a component")
        );
        assert!(check(b"#!/bin/sh").unwrap_err().contains("not a valid component"));
    }
}
