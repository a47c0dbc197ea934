//! What fuzz targets share: [`hosts`] is the stub of the hosts behind a router, [`database`] the stub of a PostgreSQL
//! server, [`stage`] the keys and names of a stage that does not exist, [`components`] small components, and [`seeds`] the
//! inputs that a target begins with, made by code.
//!
//! Stubs are named as such: they say what an input makes them say, and judge what is said to them. What must stay true: a
//! target ends with every input, panics only when a property is broken, and touches no network.

#![allow(clippy::expect_used, reason = "a target that cannot go on has found something, or is broken")]

pub mod components;
pub mod database;
pub mod hosts;
pub mod seeds;
pub mod stage;

use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

/// A runtime for one input: one thread, so that an input does the same each time, and a clock that jumps when all wait,
/// so that limits of minutes are reached at once.
pub fn runtime() -> Runtime {
    Builder::new_current_thread().enable_time().start_paused(true).build().expect("start a runtime")
}

/// Longer than anything may take that a client, a host or a server does, on the clock that jumps.
pub const FOR_EVER: Duration = Duration::from_secs(2 * 3_600);
