//! Settings: what the stage sets for the app, read when it is asked for.

use crate::bindings::wasi::config::store;
use crate::json::scalar;
use crate::memory::{rd64, rt_alloc, text, wr64};
use crate::values::kind;

/// A slot with the value of a setting. What is not set, and what does not fit the type since the stage set it
/// for another revision, is the default.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_setting(name: u32, desc: u32, default: u32) -> u32 {
    let slot = rt_alloc(8);
    wr64(slot, rd64(default));
    if let Ok(Some(value)) = store::get(text(name)) {
        scalar(&value, slot, kind(desc));
    }
    slot
}
