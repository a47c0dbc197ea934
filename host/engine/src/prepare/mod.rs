//! What is done to components before they are compiled, so that an instance costs less: [`shim`] takes a core instance out, [`order`] puts functions
//! behind those that call them, [`names`] is what both keep of what a module says of its code.
//!
//! What must stay true: a guest does what it did before, and functions keep their names, for backtraces. A component that has not the known form stays as it
//! is, and so does one of which nothing valid comes out: whoever published it is told of what is wrong with that.

#![expect(clippy::wildcard_enum_match_arm, reason = "of sections, kinds and names a few matter here")]

mod names;
mod order;
mod shim;

use wasmparser::{Parser, Validator, WasmFeatures};

/// Why a component stays as it is: it is not of the form that is known here.
#[derive(Debug)]
struct Unfit;

type Error = wasm_encoder::reencode::Error<Unfit>;

impl From<Unfit> for Error {
    fn from(unfit: Unfit) -> Self {
        Self::UserError(unfit)
    }
}

/// Of what is done here, and of what is refused. Hosts compile anew what was compiled with another one.
pub(crate) const VERSION: u32 = 5;

/// The component as it is compiled. `None` where it stays as it was published.
pub(crate) fn prepared(component: &[u8]) -> Option<Vec<u8>> {
    // What follows trusts the form of what it reads: the parser alone takes much that no component may have.
    if !Parser::is_component(component) || !is_valid(component) {
        return None; // the compiler says why
    }
    let without = shim::without_shim(component);
    order::ordered(without.as_deref().unwrap_or(component)).filter(|ordered| is_valid(ordered)).or(without)
}

fn is_valid(component: &[u8]) -> bool {
    Validator::new_with_features(WasmFeatures::all()).validate_all(component).is_ok()
}
