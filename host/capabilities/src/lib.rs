//! The capabilities a host gives to its guests, each in a module of its own: [`sql`], [`log`], [`egress`], [`timers`],
//! [`events`].
//!
//! [`Granted`] is what one request has; [`linkers`] is what every app is linked against. Of WASI a guest gets
//! clocks, randomness, streams, HTTP and its settings. File system, sockets and environment are linked, because many
//! toolchains import them, and empty.

pub mod egress;
pub mod events;
pub mod log;
pub mod per_app;
pub mod sql;
pub mod timers;

use std::sync::{Arc, OnceLock};

use odeon_engine::{Capabilities, Engine, Finish, Linkers, State};
use wasmtime::component::HasData;
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_config::WasiConfig;
use wasmtime_wasi_http::WasiHttpHooks;

use crate::egress::Egress;
use crate::events::EventLimits;
use crate::log::{Output, RequestLog, Source};
use crate::sql::session::Session;
use crate::timers::Wake;

pub use wasmtime_wasi_config::WasiConfigVariables as Settings;

/// Most random bytes of one call, in bytes: the host makes them in its own memory.
const RANDOM_BYTES_MAX: u64 = 1 << 20;

/// What one request of one app may use.
pub struct Granted {
    /// The app's database.
    pub sql: Arc<Session>,
    /// The app's log.
    pub log: RequestLog,
    /// Where the app may call.
    pub egress: Egress,
    /// What the stage sets for the app, as `wasi:config`.
    pub settings: Arc<Settings>,
    /// The app's timers.
    pub timers: Arc<dyn Wake>,
    /// How much the app may tell others.
    pub events: EventLimits,
    /// Where standard output and standard error go, once somebody opened them.
    pub output: OnceLock<Output>,
}

impl Capabilities for Granted {
    async fn finish(&mut self, how: Finish) {
        if let Some(output) = self.output.get() {
            output.end();
        }
        if self.sql.is_idle() {
            return; // most requests did not use it
        }
        let ended = match how {
            Finish::Returned => self.sql.settle().await,
            Finish::Failed => {
                self.sql.abandon().await;
                Ok(())
            }
        };
        if let Err(error) = ended {
            self.log.host_line(
                "OS-BERT-50004",
                format!("what was written after the response's head is lost: {error:?}"),
                None,
            );
        }
        self.sql.release().await;
    }
    /// WASI with nothing granted but the log behind standard output and standard error.
    fn wasi(&self) -> WasiCtx {
        let output = self.output.get_or_init(|| Output::to(self.log.clone()));
        WasiCtx::builder()
            .stdout(output.stream(Source::Stdout))
            .stderr(output.stream(Source::Stderr))
            .max_random_size(RANDOM_BYTES_MAX)
            .build()
    }
    fn take_over(&mut self, before: &Self) {
        if let Some(output) = before.output.get() {
            output.turn(self.log.clone());
            self.output = output.clone().into();
        }
    }
    fn http_hooks(&mut self) -> &mut dyn WasiHttpHooks {
        &mut self.egress
    }
}

/// Marks [`Granted`] as what the bindings of our interfaces borrow.
pub(crate) struct HasGranted;

impl HasData for HasGranted {
    type Data<'a> = &'a mut Granted;
}

/// Everything an app may import.
pub fn linkers(engine: &Engine) -> wasmtime::Result<Linkers<Granted>> {
    let mut linkers = Linkers::new(engine)?;
    linkers.add_alone("odeon:sql/session", sql::add_to_linker)?;
    linkers.add(log::add_to_linker)?;
    linkers.add(timers::add_to_linker)?;
    linkers.add_alone("odeon:events/publisher", events::add_to_linker)?;
    linkers.add(|linker| {
        wasmtime_wasi_config::add_to_linker(linker, |state: &mut State<Granted>| {
            WasiConfig::from(&*state.capabilities.settings)
        })
    })?;
    Ok(linkers)
}
