//! Components without their shim: what is compiled has one core instance fewer.
//!
//! A core module imports functions of the host, and to lower those the module's memory is needed, which is there only when
//! the module has been instantiated. `wit-component`, and with it every language's tools and our own compiler, breaks
//! the circle by a *shim*: a module that is instantiated first, with a table and with a function for each import that calls
//! through the table. Another one, the *fixup*, fills the table in the end. For a small request the shim is a good part of
//! the work: an instance, a table, and a lookup for each of its functions.
//!
//! Here the table and the functions move into the module that imports them, where they do the same: they call what the
//! fixup has put into the table, and trap while it has not. Whatever is not exactly of that form stays as it is.
//!
//! What must stay true: a guest does what it did before; what comes out is validated like everything that is compiled; functions
//! keep their names, for backtraces. Places in the code move, so what points at them (DWARF, hints) is left out; nobody here reads it.

mod module;
mod outline;
mod rewrite;
#[cfg(test)]
mod tests;

use super::{Error, Unfit, is_valid, names};
use outline::{Outline, Plan};

/// The valid component without its shim. `None` where it has none, or none that is known.
pub(super) fn without_shim(component: &[u8]) -> Option<Vec<u8>> {
    let outline = Outline::read(component).ok()?;
    let plan = Plan::of(&outline)?;
    rewrite::rewrite(component, &plan).ok().filter(|without| is_valid(without))
}
