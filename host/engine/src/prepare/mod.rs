//! What is done to components before they are compiled, so that an instance costs less: [`shim`] takes a core instance out.
//!
//! What must stay true: a guest does what it did before, and functions keep their names, for backtraces. A component that has not the known form stays as it
//! is, and so does one of which nothing valid comes out: whoever published it is told of what is wrong with that.

mod shim;

use wasmparser::{Parser, Validator, WasmFeatures};

/// Of what is done here, and of what is refused. Hosts compile anew what was compiled with another one.
pub(crate) const VERSION: u32 = 4;

/// The component as it is compiled. `None` where it stays as it was published.
pub(crate) fn prepared(component: &[u8]) -> Option<Vec<u8>> {
    // What follows trusts the form of what it reads: the parser alone takes much that no component may have.
    if !Parser::is_component(component) || !is_valid(component) {
        return None; // the compiler says why
    }
    shim::without_shim(component)
}

fn is_valid(component: &[u8]) -> bool {
    Validator::new_with_features(WasmFeatures::all()).validate_all(component).is_ok()
}
