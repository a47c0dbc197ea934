//! What is done to components before they are compiled, so that an instance costs less: [`shim`] takes a core instance out, and
//! [`copied`] lets small memories begin by copying instead of mapping.
//!
//! What must stay true: a guest does what it did before, and functions keep their names, for backtraces. A component that has not the known form stays as it
//! is, and so does one of which nothing valid comes out: whoever published it is told of what is wrong with that.

mod copied;
mod shim;

use wasmparser::{Parser, Validator, WasmFeatures};

/// Of what is done here, and of what is refused. Hosts compile anew what was compiled with another one.
pub(crate) const VERSION: u32 = 3;

/// The component as it is compiled. `None` where it stays as it was published.
pub(crate) fn prepared(component: &[u8]) -> Option<Vec<u8>> {
    // What follows trusts the form of what it reads: the parser alone takes much that no component may have.
    if !Parser::is_component(component) || !is_valid(component) {
        return None; // the compiler says why
    }
    let without = shim::without_shim(component);
    let copied = copied::with_copied_memories(without.as_deref().unwrap_or(component));
    copied.or(without)
}

fn is_valid(component: &[u8]) -> bool {
    Validator::new_with_features(WasmFeatures::all()).validate_all(component).is_ok()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use wasm_encoder::{
        Component, ComponentSectionId, ConstExpr, DataSection, MemorySection, MemoryType, Module,
        ModuleSection, RawSection,
    };

    use super::prepared;

    /// A memory of one page.
    pub(super) const MEMORY: MemoryType =
        MemoryType { minimum: 1, maximum: None, memory64: false, shared: false, page_size_log2: None };

    /// The parser goes through a component that stands where a module should, and each piece of a nest has all that lies inside of it: to
    /// write all pieces again would take the square of its size.
    #[test]
    fn what_is_no_valid_component_stays_as_it_is() {
        let (mut memories, mut data, mut module) = (MemorySection::new(), DataSection::new(), Module::new());
        memories.memory(MEMORY);
        data.active(0, &ConstExpr::i32_const(0), *b"data");
        module.section(&memories).section(&data);
        let mut component = Component::new();
        component.section(&ModuleSection(&module));
        let component = component.finish();
        assert!(prepared(&component).is_some(), "the control: it has a small memory");

        let mut nest = Component::new();
        nest.section(&RawSection { id: ComponentSectionId::CoreModule.into(), data: &component });
        assert!(prepared(&nest.finish()).is_none());
        assert!(prepared(&module.finish()).is_none());
        assert!(prepared(b"nothing of the kind").is_none());
    }
}
