//! Timers: waking them. What runs them is a request like any other, see [`crate::http`].

use crate::bindings::odeon::timers::control::{self, Error};
use crate::exceptions::raise;
use crate::memory::text;

#[unsafe(no_mangle)]
unsafe extern "C" fn rt_wake(timer: u32) {
    let refused = match control::wake(text(timer)) {
        Ok(()) => return,
        Err(Error::Unknown) => "the stage does not know it",
        Err(Error::Unavailable(why)) => &why.clone(),
    };
    raise(503, &alloc::format!("The timer {} could not be woken: {refused}", text(timer)));
}
