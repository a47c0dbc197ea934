//! What the store of one request holds: WASI with nothing granted, the limits, and the host's capabilities.

use std::time::Duration;

use wasmtime::component::ResourceTable;
use wasmtime::{ResourceLimiter, StoreLimits, StoreLimitsBuilder};
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

/// Host memory the resources of one request may take, by count.
const RESOURCES_MAX: usize = 10_000;
/// Size of all headers of one message, in bytes, as the host holds them.
const HEADER_BYTES_MAX: usize = 128 << 10;

/// How the call of a guest ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Finish {
    /// It returned.
    Returned,
    /// It trapped, or was ended at a deadline.
    Failed,
}

/// What a host gives to a guest for one request, besides WASI.
pub trait Capabilities: Send + 'static {
    /// Called once, when the guest's call has ended, before its store is dropped.
    fn finish(&mut self, how: Finish) -> impl Future<Output = ()> + Send;
    /// Rules for outgoing HTTP.
    fn http_hooks(&mut self) -> &mut dyn WasiHttpHooks;
}

/// The data of a request's store.
pub struct State<C> {
    /// The host's capabilities.
    pub capabilities: C,
    pub(crate) memory_denied: bool,
    pub(crate) cpu_ticks: u64,
    table: ResourceTable,
    wasi: WasiCtx,
    http: WasiHttpCtx,
    limits: StoreLimits,
}

impl<C> State<C> {
    pub(crate) fn new(wasi: WasiCtx, memory_bytes_max: usize, capabilities: C) -> Self {
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(HEADER_BYTES_MAX);
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        let limits = StoreLimitsBuilder::new().memory_size(memory_bytes_max).build();
        Self { capabilities, memory_denied: false, cpu_ticks: 0, table, wasi, http, limits }
    }

    pub(crate) fn cpu_used(&self) -> Duration {
        Duration::from_millis(self.cpu_ticks * crate::engine::TICK_MS)
    }
}

impl<C: Send> WasiView for State<C> {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl<C: Capabilities> WasiHttpView for State<C> {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: self.capabilities.http_hooks() }
    }
}

impl<C: Send> ResourceLimiter for State<C> {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let granted = self.limits.memory_growing(current, desired, maximum)?;
        self.memory_denied |= !granted;
        Ok(granted)
    }
    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        self.limits.table_growing(current, desired, maximum)
    }
}
