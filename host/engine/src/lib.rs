//! The engine of a host: loads components and runs one fresh instance per request.
//!
//! Map: [`engine`] holds the one wasmtime engine of the process and its clock; [`artefact`] is the only place
//! that turns native code into something that runs; [`app`] is a linked component and the life of a
//! request; [`state`] is what a request's store holds; [`scheduler`] decides who runs, and [`account`] says what an app
//! may use of CPU time and of [`memory`]; [`error`] says what went wrong in a guest, and [`origin`] where.
//!
//! What must stay true: no instance serves two requests; a guest past a deadline is dropped with its store; no app
//! gets another's share; nothing here knows NATS, SQL or an HTTP server.

pub mod account;
pub mod app;
pub mod artefact;
pub mod engine;
pub mod error;
pub mod memory;
pub mod origin;
pub mod scheduler;
pub mod state;
mod warm;
mod whole;

pub use account::Account;
pub use app::{App, Body, RequestLimits};
pub use engine::{Engine, EngineSettings, Fits};
pub use error::{Failure, GuestError};
pub use memory::{Held, Memory};
pub use origin::Origin;
pub use scheduler::CpuShare;
pub use state::{Capabilities, Finish, State, add_wasi_to_linker};
pub use {wasmtime, wasmtime_wasi, wasmtime_wasi_http};
