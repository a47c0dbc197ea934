//! What the store of an instance holds: WASI with nothing granted, the limits, and the host's capabilities.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use wasmtime::ResourceLimiterAsync;
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView};

use crate::engine::TABLE_ELEMENTS_MAX;
use crate::heap::Heap;
use crate::memory::{Held, HostMemory, Memory};
use crate::scheduler::{Begin, Meter, slice};
use crate::together::Together;

/// Resources of the host that one request may have, by count: with the limits of what each may hold, they bound
/// the host's memory for it.
const RESOURCES_MAX: usize = 1_024;
/// Size of all headers of one message, in bytes, as the host holds them.
pub(crate) const HEADER_BYTES_MAX: usize = 64 << 10;
/// Memory of an instance on the task of its connection, in bytes: one instruction that fills or copies all of it keeps the
/// network waiting, for some milliseconds. Whoever has more runs on the guests' threads, from which the kernel takes the core.
const HERE_BYTES_MAX: u64 = 16 << 20;
/// What an element of a table takes, in bytes.
const TABLE_ELEMENT_BYTES: u64 = 8;
/// How often a guest may ask in vain for more memory before it is ended: an allocator asks once or a few times, and
/// whoever goes on asking does nothing else.
const REFUSALS_MAX: u32 = 1_000;

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
    /// WASI for an instance that begins with these.
    fn wasi(&self) -> WasiCtx;
    /// These follow `before`, or come beside them, in an instance that keeps the WASI of its first request.
    fn take_over(&mut self, before: &Self);
    /// Rules for outgoing HTTP.
    fn http_hooks(&mut self) -> &mut dyn WasiHttpHooks;
}

/// The data of an instance's store.
pub struct State<C> {
    /// The host's capabilities, for the request that the guest works on. Where it may serve several at once, a function of
    /// the host calls [`crate::turn_to_caller`] first.
    pub capabilities: C,
    /// Where the instance may serve several requests at once: all of them.
    pub(crate) together: Option<Box<Together<C>>>,
    pub(crate) memory: InstanceMemory,
    pub(crate) heap: Heap,
    pub(crate) meter: Arc<Meter>,
    /// CPU time of a request, in nanoseconds.
    pub(crate) cpu_ns_max: u64,
    table: ResourceTable,
    /// Made when it is asked for first: many guests use of WASI only streams and HTTP, which do not need it.
    wasi: Option<WasiCtx>,
    http: WasiHttpCtx,
}

/// The memory of one request's instances, with what the host keeps for them.
pub(crate) struct InstanceMemory {
    /// Of all of it together, in bytes.
    bytes_max: u64,
    /// Whoever ends instances that wait looks at it, too.
    bytes: Arc<AtomicU64>,
    /// Of the app's budget. A part of it was taken for what an instance begins with.
    held: Held,
    /// Of `held`, what its instances may still grow by without asking the budget.
    reserved: u64,
    /// Of `held`, what is more than it began with, and counts for the host.
    more: u64,
    host: Arc<HostMemory>,
    refusals: u32,
    /// Why memory was denied last.
    pub(crate) denied: Option<Denied>,
}

/// Why a guest got no more memory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Denied {
    /// The instance has as much as it may.
    Instance(u64),
    /// All instances of the app together have.
    App(u64),
    /// The host is short of memory.
    Host,
}

impl InstanceMemory {
    pub(crate) fn new(bytes_max: u64, held: Held, reserved: u64, host: Arc<HostMemory>) -> Self {
        Self { bytes_max, bytes: Arc::default(), held, reserved, more: 0, host, refusals: 0, denied: None }
    }

    fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The memory of the app.
    pub(crate) fn of_app(&self) -> &Arc<Memory> {
        self.held.memory()
    }

    /// Whether somebody waits for memory of the app.
    pub(crate) fn is_wanted(&self) -> bool {
        self.held.memory().is_wanted()
    }

    /// Whether the host must have it back.
    pub(crate) fn must_end(&mut self) -> bool {
        let must_end = self.held.memory().ending().must_end(self.bytes());
        if must_end {
            self.denied = Some(Denied::Host);
        }
        must_end
    }

    /// Resolves when the host must have it back, also while the instance waits for something.
    pub(crate) fn told_to_end(&self) -> impl Future<Output = ()> + Send + 'static {
        let (app, bytes) = (self.held.memory().clone(), self.bytes.clone());
        async move { app.ending().told(&bytes).await }
    }

    /// Where an instance with so much of it is called.
    pub(crate) fn begin(&self) -> Begin {
        if self.bytes() > HERE_BYTES_MAX { Begin::There } else { Begin::Here }
    }

    /// Takes `more` bytes, if the instance and its app may have them. So many of them were `reserved`.
    pub(crate) fn take(&mut self, more: u64, reserved: u64) -> Result<(), Denied> {
        let sum = self.bytes().saturating_add(more);
        if sum > self.bytes_max {
            return Err(Denied::Instance(self.bytes_max));
        }
        let beyond = more - reserved;
        if beyond > 0 {
            if !self.host.take(beyond) {
                return Err(Denied::Host);
            }
            self.more += beyond;
            if !self.held.grow(beyond) {
                self.give_back_to_host(beyond);
                return Err(Denied::App(self.held.memory().max()));
            }
        }
        self.reserved -= reserved;
        self.resize(sum);
        Ok(())
    }

    /// Gives back a part of what was taken and not reserved.
    pub(crate) fn give_back(&mut self, less: u64) {
        self.resize(self.bytes() - less);
        self.held.shrink(less);
        self.give_back_to_host(less);
    }

    fn resize(&mut self, bytes: u64) {
        self.held.memory().ending().resized(self.bytes(), bytes);
        self.bytes.store(bytes, Ordering::Relaxed);
    }

    fn give_back_to_host(&mut self, less: u64) {
        self.more -= less;
        self.host.give_back(less);
    }

    /// Takes memory that a guest asked for, which may go on without it.
    fn grow(&mut self, more: u64) -> wasmtime::Result<bool> {
        let Err(denied) = self.take(more, more.min(self.reserved)) else { return Ok(true) };
        self.denied = Some(denied);
        self.refusals += 1;
        if self.refusals > REFUSALS_MAX {
            return Err(wasmtime::Error::msg("it went on asking for memory that it may not have"));
        }
        Ok(false)
    }
}

impl Drop for InstanceMemory {
    fn drop(&mut self) {
        self.resize(0);
        self.host.give_back(self.more);
    }
}

impl<C> State<C> {
    pub(crate) fn new(memory: InstanceMemory, meter: Arc<Meter>, cpu_ns_max: u64, capabilities: C) -> Self
    where
        C: Capabilities,
    {
        let mut http = WasiHttpCtx::new();
        http.set_field_size_limit(HEADER_BYTES_MAX);
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES_MAX);
        Self {
            capabilities,
            together: None,
            memory,
            heap: Heap::default(),
            meter,
            cpu_ns_max,
            table,
            wasi: None,
            http,
        }
    }

    /// What resources are kept in.
    pub(crate) fn table(&mut self) -> &mut ResourceTable {
        &mut self.table
    }

    /// Makes an instance's state that of another request. Its memory stays what it is.
    pub(crate) fn renew(&mut self, meter: Arc<Meter>, cpu_ns_max: u64, capabilities: C)
    where
        C: Capabilities,
    {
        let before = std::mem::replace(&mut self.capabilities, capabilities);
        self.capabilities.take_over(&before);
        (self.meter, self.cpu_ns_max) = (meter, cpu_ns_max);
        (self.memory.denied, self.memory.refusals) = (None, 0);
    }
}

impl<C: Capabilities> WasiView for State<C> {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let ctx = self.wasi.get_or_insert_with(|| self.capabilities.wasi());
        WasiCtxView { ctx, table: &mut self.table }
    }
}

impl<C: Capabilities> WasiHttpView for State<C> {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: self.capabilities.http_hooks() }
    }
}

/// What a limiter says, later.
type Said<'a> = Pin<Box<dyn Future<Output = wasmtime::Result<bool>> + Send + 'a>>;

/// What is known at once. Yes and no are types without content, because a box of that costs nothing, and every instance asks a few times.
fn at_once<'a>(may_grow: wasmtime::Result<bool>) -> Said<'a> {
    match may_grow {
        Ok(true) => Box::pin(async { Ok(true) }),
        Ok(false) => Box::pin(async { Ok(false) }),
        Err(error) => Box::pin(async { Err(error) }),
    }
}

/// Whether a memory or table could not have so much at all: then nothing is taken for it. wasmtime asks before it compares.
fn is_beyond(desired: usize, maximum: Option<usize>) -> bool {
    maximum.is_some_and(|most| desired > most)
}

// Written out instead of with `async_trait`, which boxes the arguments with each future.
impl ResourceLimiterAsync for InstanceMemory {
    fn memory_growing<'a, 'said>(
        &'a mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Said<'said>
    where
        'a: 'said,
        Self: 'said,
    {
        if is_beyond(desired, maximum) {
            return at_once(Ok(false));
        }
        let may_grow = self.grow(desired.saturating_sub(current) as u64);
        if !matches!(may_grow, Ok(true)) || self.begin() == Begin::Here {
            return at_once(may_grow);
        }
        Box::pin(async {
            slice::leave_connection().await;
            Ok(true)
        })
    }

    fn table_growing<'a, 'said>(
        &'a mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> Said<'said>
    where
        'a: 'said,
        Self: 'said,
    {
        let most = maximum.map_or(TABLE_ELEMENTS_MAX, |most| most.min(TABLE_ELEMENTS_MAX));
        if is_beyond(desired, Some(most)) {
            return at_once(Ok(false));
        }
        at_once(self.grow((desired.saturating_sub(current) as u64).saturating_mul(TABLE_ELEMENT_BYTES)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use crate::memory::Memory;

    use super::*;

    #[tokio::test]
    async fn what_cannot_be_had_does_not_count() {
        let budget = Memory::new(100 << 20);
        let held = budget.try_take(0).unwrap();
        let mut memory = InstanceMemory::new(50 << 20, held, 0, Arc::default());
        for _ in 0..10 {
            assert!(!memory.memory_growing(0, 8 << 20, Some(4 << 20)).await.unwrap());
            assert!(!memory.table_growing(0, 8_000, Some(4_000)).await.unwrap());
            assert!(!memory.table_growing(0, TABLE_ELEMENTS_MAX + 1, None).await.unwrap());
        }
        assert_eq!((budget.held(), memory.denied), (0, None));
        assert!(memory.memory_growing(0, 4 << 20, Some(4 << 20)).await.unwrap());
        assert_eq!(budget.held(), 4 << 20);
    }
}
