//! Waking timers: `odeon:timers`. Who runs them is the host's business; a guest only says that it is time.

use futures_util::future::BoxFuture;
use odeon_engine::State;
use wasmtime::component::Linker;

use crate::{Granted, HasGranted};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit/timers.wit",
        world: "imports",
        imports: { default: async },
    });
}

use bindings::odeon::timers::control;
pub use control::Error;

/// The timers of one app.
pub trait Wake: Send + Sync + 'static {
    /// Makes the next run of a timer be now.
    fn wake<'a>(&'a self, timer: &'a str) -> BoxFuture<'a, Result<(), Error>>;
}

impl control::Host for Granted {
    async fn wake(&mut self, timer: String) -> Result<(), Error> {
        self.timers.wake(&timer).await
    }
}

pub(crate) fn add_to_linker(linker: &mut Linker<State<Granted>>) -> wasmtime::Result<()> {
    control::add_to_linker::<_, HasGranted>(linker, |state| &mut state.capabilities)
}
