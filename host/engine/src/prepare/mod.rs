//! What is done to components before they are compiled, so that an instance costs less: [`shim`] takes a core instance out, and
//! [`copied`] lets small memories begin by copying instead of mapping.
//!
//! What must stay true: a guest does what it did before, and functions keep their names, for backtraces. A component that has not the known form stays as it
//! is, and so does one of which nothing valid comes out: whoever published it is told of what is wrong with that.

mod copied;
mod shim;

/// Of what is done here. Hosts compile anew what was compiled with another one.
pub(crate) const VERSION: u32 = 2;

/// The component as it is compiled. `None` where it stays as it was published.
pub(crate) fn prepared(component: &[u8]) -> Option<Vec<u8>> {
    let without = shim::without_shim(component);
    let copied = copied::with_copied_memories(without.as_deref().unwrap_or(component));
    copied.or(without)
}
