//! The engine of a host: loads components and runs one fresh instance per request.
//!
//! Map: [`engine`] holds the wasmtime engines of the process and their clock, two for each [`wasi`], which differ in how memories `begin`, `slots` the memories and stacks of most instances; of WASI `client`,
//! `streams` and `heap` replace a part; `prepare` is what is done to a component before it is compiled, and [`artefact`] the only place that turns native code
//! into something that runs; [`app`] is a linked component and the life of a request, `call` its way into an instance, and `together` the instances that have
//! several; [`state`] is what a store holds; [`scheduler`] decides who runs, and [`account`] says what an app may use of CPU
//! time and of [`memory`], `places` of the pools of instances; [`error`] says what went wrong in a guest, and [`origin`] where.
//!
//! What must stay true: no instance serves two requests unless its app asked for it; a guest past a deadline is dropped
//! with its store; no app gets another's share; nothing here knows NATS, SQL or an HTTP server.

pub mod account;
pub mod app;
pub mod artefact;
mod begin;
mod call;
mod client;
pub mod engine;
pub mod error;
mod heap;
pub mod memory;
pub mod origin;
mod parts;
mod places;
mod prepare;
pub mod scheduler;
mod sections;
mod slots;
pub mod state;
mod streams;
mod together;
mod warm;
pub mod wasi;
mod whole;

pub use account::Account;
pub use app::{App, Body, RequestLimits};
pub use engine::{Engine, EngineSettings, Fits};
pub use error::{Failure, GuestError};
pub use memory::{Held, Memory, Waiting, end_largest};
pub use origin::Origin;
pub use scheduler::{CpuShare, Payer};
pub use state::{Capabilities, Finish, State};
pub use together::turn_to_caller;
pub use wasi::{Linkers, Wasi};
pub use {wasmtime, wasmtime_wasi, wasmtime_wasi_http};
