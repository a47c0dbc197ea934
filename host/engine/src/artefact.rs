//! Native code: made here, and made to run here. Loading native code is trusting it with the process, so
//! the one `unsafe` of this crate lies in this module, behind a function that says what its caller vouches for.

use wasmtime::component::Component;

use crate::engine::Engine;

/// Compiles a component to native code for this engine. Runs long and takes memory in proportion to
/// the input: call it in a limited child process.
pub fn compile(engine: &Engine, component: &[u8]) -> wasmtime::Result<Vec<u8>> {
    engine.inner.precompile_component(component)
}

/// Native code whose digest and signature were checked, in these very bytes.
pub struct Verified<'a>(&'a [u8]);

impl<'a> Verified<'a> {
    /// The caller vouches: these bytes, not a file of the same name, are what a trusted key signed or
    /// what our own compiler just made.
    pub fn vouch(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

/// Loads native code. Fails when it was made for another engine; it is then compiled anew.
#[expect(unsafe_code, reason = "native code can only be trusted, and `Verified` says by whom")]
pub fn load(engine: &Engine, native: Verified<'_>) -> wasmtime::Result<Component> {
    // SAFETY: `deserialize` requires bytes that `precompile_component` made, unchanged. `Verified` is made
    // from bytes whose digest was compared with a signed claim, or which come from our own compiler.
    unsafe { Component::deserialize(&engine.inner, native.0) }
}
