//! The guest-side library that every compiled OML app is linked with.
//!
//! The compiler appends an app's functions, data and table entries to this module and writes the
//! address of the app's descriptor into [`memory::APP`]; from there the library finds routes, types
//! and functions. What generated code calls is exported as `rt_*`; those exports are gone from the
//! finished component.
//!
//! Map: [`decimal`], [`calendar`], [`fold`] and [`format`] are plain arithmetic; the compiler includes and tests
//! them natively. The rest exists on wasm32 only. `memory` is the arena, `values` the layout of records, `lists`
//! that of lists, `ops` what expressions call, `exceptions` what fails, `json` text in and out, `settings` what
//! the stage sets, `timers` what wakes them, `sql` statements, `http` one request from head to response,
//! `outgoing` one to somebody else, `consumed` what methods of others' REST APIs send, `services` calls of other
//! apps, `events` what is told to them, `roles` who calls.
//!
//! Invariant: an instance serves one request. Memory is given back by loops only, and a failure that the app
//! did not cause is a trap, which the host turns into an answer.

#![cfg_attr(target_arch = "wasm32", no_std)]

extern crate alloc;

pub mod calendar;
pub mod decimal;
pub mod fold;
pub mod format;

#[cfg(target_arch = "wasm32")]
mod consumed;
#[cfg(target_arch = "wasm32")]
mod events;
#[cfg(target_arch = "wasm32")]
mod exceptions;
#[cfg(target_arch = "wasm32")]
mod http;
#[cfg(target_arch = "wasm32")]
mod json;
#[cfg(target_arch = "wasm32")]
mod lists;
#[cfg(target_arch = "wasm32")]
mod memory;
#[cfg(target_arch = "wasm32")]
mod ops;
#[cfg(target_arch = "wasm32")]
mod outgoing;
#[cfg(target_arch = "wasm32")]
mod roles;
#[cfg(target_arch = "wasm32")]
mod services;
#[cfg(target_arch = "wasm32")]
mod settings;
#[cfg(target_arch = "wasm32")]
mod sql;
#[cfg(target_arch = "wasm32")]
mod timers;
#[cfg(target_arch = "wasm32")]
mod values;

#[cfg(target_arch = "wasm32")]
mod bindings {
    //! The host's side of the world, generated.
    wit_bindgen::generate!({
        path: ["../../sdk/wit/sql.wit", "../../sdk/wit/log.wit", "../../sdk/wit/timers.wit", "../../sdk/wit/events.wit", "wit"],
        world: "odeon:oml-runtime/app",
        generate_all,
    });
    export!(Handler);
    use crate::http::Handler;
}

#[cfg(target_arch = "wasm32")]
#[panic_handler]
fn panicked(_: &core::panic::PanicInfo<'_>) -> ! {
    core::arch::wasm32::unreachable()
}
