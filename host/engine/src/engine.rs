//! The wasmtime engines of a process: how guests are compiled, where their memories lie, and the clock
//! that makes them yield. There are two for each WASI ([`crate::wasi`]), which differ in how memories begin ([`crate::begin`]).
//!
//! Memories and stacks are used again and again ([`crate::slots`]): making an instance is then a matter of
//! microseconds. Memories that begin by mapping come from wasmtime's pool, which gives all of them back to the kernel, because what it
//! keeps it does not always clear. The clock is an epoch: a thread raises it every [`TICK_MS`]
//! while guests are here, and a guest that notices yields.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::begin::Beginning;
use crate::memory::HostMemory;
use crate::parts::PARTS_MAX;
use crate::places::Places;
use crate::prepare;
use crate::scheduler::{Begin, Scheduler};
use crate::slots::{Memories, Stacks};
use crate::wasi::Wasi;
use thread_priority::ThreadPriority;
use thread_priority::unix::{
    RealtimeThreadSchedulePolicy, ThreadSchedulePolicy, set_thread_priority_and_policy, thread_native_id,
};
use tokio::sync::Semaphore;
use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Time between two ticks of the guests' clock, in milliseconds. One: a neighbour waits no longer for its turn.
pub const TICK_MS: u64 = 1;
/// Ticks without a guest after which the clock stops until one comes.
const DESERTED_TICKS: u32 = 100;
/// How long a clock that has stopped sleeps before it looks again whether its engine is gone, in milliseconds.
const ASLEEP_MS_MAX: u64 = 500;
/// Instances of all apps that may wait for another request: one part of so many of a pool. The rest is for those that serve.
const IDLE_PART: u32 = 4;
/// Guest stack, in bytes.
const STACK_BYTES_MAX: usize = 512 << 10;
/// Stack of the fiber a guest runs on, in bytes: its own and that of the host functions it calls.
const FIBER_BYTES: usize = 2 << 20;
/// Core instances inside one component: bindings adapters are instances too.
const CORE_INSTANCES_MAX: u32 = 64;
/// Memories inside one component.
const MEMORIES_MAX: u32 = 4;
/// Tables of one core module: its own, and one that it has from a shim (see `prepare`).
pub(crate) const TABLES_PER_MODULE_MAX: u32 = 2;
/// Tables inside one component.
const TABLES_MAX: u32 = 16;
/// Elements of one table.
pub(crate) const TABLE_ELEMENTS_MAX: usize = 100_000;
/// Instances of WASI 0.3 with large data: one part of so many of all. For each of them wasmtime's pool maps all stacks that it may need, and a process has so many mappings.
const LARGE_P3_PART: u32 = 4;
/// Stacks of one instance where each of its parts may wait on its own, and the host calls one more.
const STACKS_PER_INSTANCE: u32 = PARTS_MAX + 1;
/// The target all pools run. Naming it fixes the CPU baseline: the same artefact runs on every host.
const TARGET: &str = "x86_64-unknown-linux-gnu";

/// What a host reserves.
#[derive(Debug, Clone, Copy)]
pub struct EngineSettings {
    /// Live instances of all apps of one WASI together. Each reserves address space and no memory: 4 GiB for each memory it has, and
    /// 16 GiB in the pool for large data, whether there is one or not.
    pub instances_max: u32,
    /// Most memory one instance may ever have, in bytes; an app's own limit may be lower.
    pub memory_bytes_max: usize,
    /// Where guests begin.
    pub begin: Begin,
}

impl Default for EngineSettings {
    fn default() -> Self {
        Self { instances_max: 1_000, memory_bytes_max: 512 << 20, begin: Begin::default() }
    }
}

/// Which native code fits an engine. Two equal values may exchange artefacts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fits {
    /// Target triple.
    pub target: String,
    /// Version and settings, and what is done to components before they are compiled, hashed.
    pub engine: String,
}

/// The engine of this process.
#[derive(Clone)]
pub struct Engine {
    engines: Arc<[Kind; 4]>,
    scheduler: Scheduler,
    /// For instances of both WASIs, in their order.
    places: [Arc<Places>; 2],
    /// For instances that wait for another request.
    idle_places: Arc<Semaphore>,
    memory: Arc<HostMemory>,
    /// Of one instance, in bytes.
    memory_bytes_max: u64,
}

/// A wasmtime engine, and what it is for.
struct Kind {
    wasi: Wasi,
    engine: wasmtime::Engine,
}

impl Engine {
    /// Makes the engines and starts their clock, which ends with the last clone of this.
    pub fn new(settings: EngineSettings) -> wasmtime::Result<Self> {
        let engines = engines(|wasi, beginning| match beginning {
            Beginning::Copied => with_slots(&settings, wasi),
            Beginning::Mapped => pooled(&settings, wasi, beginning),
        })?;
        let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let scheduler = Scheduler::start(cpus, settings.begin)?;
        start_clock(&engines, scheduler.clone())?;
        let idle_places = Arc::new(Semaphore::new((settings.instances_max / IDLE_PART) as usize));
        let places = [(); 2].map(|()| Places::new(settings.instances_max));
        let memory_bytes_max = settings.memory_bytes_max as u64;
        Ok(Self { engines, scheduler, places, idle_places, memory: Arc::default(), memory_bytes_max })
    }

    /// Engines that only compile. They have pools of one instance, which say what an instance may have: what no host would
    /// load is not compiled either.
    pub fn for_compiling() -> wasmtime::Result<Self> {
        let one = EngineSettings { instances_max: 1, ..EngineSettings::default() };
        Ok(Self {
            engines: engines(|wasi, beginning| pooled(&one, wasi, beginning))?,
            scheduler: Scheduler::without_threads(),
            places: [(); 2].map(|()| Places::new(one.instances_max)),
            idle_places: Arc::new(Semaphore::new(0)),
            memory: Arc::default(),
            memory_bytes_max: one.memory_bytes_max as u64,
        })
    }

    /// What native code must have been made for.
    pub fn fits(&self) -> Fits {
        let mut hash = DefaultHasher::new();
        for kind in self.engines.iter() {
            kind.engine.precompile_compatibility_hash().hash(&mut hash);
        }
        prepare::VERSION.hash(&mut hash);
        Fits { target: TARGET.to_owned(), engine: format!("wasmtime-48-{:016x}", hash.finish()) }
    }

    /// Who decides which guest runs.
    pub fn scheduler(&self) -> &Scheduler {
        &self.scheduler
    }

    /// Says what instances may get together from now on beyond what they began with, in bytes.
    pub fn set_memory_left(&self, bytes: u64) {
        self.memory.set_left(bytes);
    }

    pub(crate) fn memory(&self) -> Arc<HostMemory> {
        self.memory.clone()
    }

    /// Memory of one instance, in bytes, whatever its app is allowed.
    pub(crate) fn memory_bytes_max(&self) -> u64 {
        self.memory_bytes_max
    }

    pub(crate) fn idle_places(&self) -> Arc<Semaphore> {
        self.idle_places.clone()
    }

    /// Places for instances of one WASI.
    pub(crate) fn places(&self, wasi: Wasi) -> &Arc<Places> {
        let [p2, p3] = &self.places;
        match wasi {
            Wasi::P2 => p2,
            Wasi::P3 => p3,
        }
    }

    /// The wasmtime engine for components of one WASI with little data.
    pub fn of(&self, wasi: Wasi) -> &wasmtime::Engine {
        self.for_kind(wasi, Beginning::Copied)
    }

    pub(crate) fn for_kind(&self, wasi: Wasi, beginning: Beginning) -> &wasmtime::Engine {
        let [p2, p2_mapped, p3, p3_mapped] = &*self.engines;
        let kind = match (wasi, beginning) {
            (Wasi::P2, Beginning::Copied) => p2,
            (Wasi::P2, Beginning::Mapped) => p2_mapped,
            (Wasi::P3, Beginning::Copied) => p3,
            (Wasi::P3, Beginning::Mapped) => p3_mapped,
        };
        &kind.engine
    }

    /// All of them.
    pub(crate) fn all(&self) -> impl Iterator<Item = (Wasi, &wasmtime::Engine)> {
        self.engines.iter().map(|kind| (kind.wasi, &kind.engine))
    }
}

fn engines(
    make: impl Fn(Wasi, Beginning) -> wasmtime::Result<wasmtime::Engine>,
) -> wasmtime::Result<Arc<[Kind; 4]>> {
    let kind = |wasi, beginning| -> wasmtime::Result<_> { Ok(Kind { wasi, engine: make(wasi, beginning)? }) };
    Ok(Arc::new([
        kind(Wasi::P2, Beginning::Copied)?,
        kind(Wasi::P2, Beginning::Mapped)?,
        kind(Wasi::P3, Beginning::Copied)?,
        kind(Wasi::P3, Beginning::Mapped)?,
    ]))
}

/// An engine whose memories and stacks are a host's own.
fn with_slots(settings: &EngineSettings, wasi: Wasi) -> wasmtime::Result<wasmtime::Engine> {
    let mut config = config(wasi, Beginning::Copied)?;
    give_slots(&mut config, settings, wasi);
    wasmtime::Engine::new(&config)
}

/// Gives an engine a host's memories and stacks; benchmarks give them to those that they compare with.
pub fn give_slots(config: &mut Config, settings: &EngineSettings, wasi: Wasi) {
    let memories = settings.instances_max.saturating_mul(MEMORIES_MAX);
    config.memory_init_cow(false); // wasmtime panics where it has something to map over a memory that is not its own
    config.allocation_strategy(InstanceAllocationStrategy::OnDemand);
    config.with_host_memory(Arc::new(Memories::new(settings.memory_bytes_max, memories as usize)));
    config.with_host_stack(Arc::new(Stacks::new(stacks(settings.instances_max, wasi) as usize)));
}

/// Stacks of so many instances.
fn stacks(instances: u32, wasi: Wasi) -> u32 {
    match wasi {
        Wasi::P2 => instances,
        Wasi::P3 => instances.saturating_mul(STACKS_PER_INSTANCE),
    }
}

/// An engine whose instances come from wasmtime's pool, which also says what a component may have.
fn pooled(settings: &EngineSettings, wasi: Wasi, beginning: Beginning) -> wasmtime::Result<wasmtime::Engine> {
    let instances = match wasi {
        Wasi::P2 => settings.instances_max,
        Wasi::P3 => settings.instances_max.div_ceil(LARGE_P3_PART),
    };
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(instances)
        .total_core_instances(instances.saturating_mul(CORE_INSTANCES_MAX))
        .total_memories(instances.saturating_mul(MEMORIES_MAX))
        .total_tables(instances.saturating_mul(TABLES_MAX))
        .total_stacks(stacks(instances, wasi))
        .max_core_instances_per_component(CORE_INSTANCES_MAX)
        .max_memories_per_component(MEMORIES_MAX)
        .max_tables_per_component(TABLES_MAX)
        .max_tables_per_module(TABLES_PER_MODULE_MAX)
        .table_elements(TABLE_ELEMENTS_MAX)
        .max_memory_size(settings.memory_bytes_max)
        // Never: see `slots`.
        .pagemap_scan(Enabled::No);
    let mut config = config(wasi, beginning)?;
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    wasmtime::Engine::new(&config)
}

fn config(wasi: Wasi, beginning: Beginning) -> wasmtime::Result<Config> {
    let mut config = Config::new();
    config.target(TARGET)?;
    config.epoch_interruption(true);
    config.wasm_component_model(true);
    config.wasm_component_model_async(wasi == Wasi::P3);
    config.concurrency_support(wasi == Wasi::P3);
    config.memory_init_cow(beginning == Beginning::Mapped);
    config.max_wasm_stack(STACK_BYTES_MAX);
    config.async_stack_size(FIBER_BYTES);
    Ok(config)
}

fn start_clock(engines: &[Kind; 4], scheduler: Scheduler) -> wasmtime::Result<()> {
    let engines = engines.each_ref().map(|kind| kind.engine.weak());
    std::thread::Builder::new().name("guest-clock".to_owned()).spawn(move || {
        go_first();
        let (mut tick, mut deserted) = (Instant::now(), 0);
        while let [Some(p2), Some(p2_mapped), Some(p3), Some(p3_mapped)] =
            engines.each_ref().map(wasmtime::EngineWeak::upgrade)
        {
            let engines = [p2, p2_mapped, p3, p3_mapped];
            if Instant::now() >= tick {
                engines.iter().for_each(wasmtime::Engine::increment_epoch);
                tick = Instant::now() + Duration::from_millis(TICK_MS);
                deserted = if scheduler.has_guests() { 0 } else { deserted + 1 };
            }
            drop(engines);
            if deserted >= DESERTED_TICKS {
                if scheduler.wait_for_guests(Duration::from_millis(ASLEEP_MS_MAX)) {
                    deserted = 0; // it stays awake for a while: to wake it costs a request as much as a small guest takes
                }
                continue;
            }
            let look = scheduler.look().unwrap_or(Duration::MAX);
            std::thread::sleep(tick.saturating_duration_since(Instant::now()).min(look));
        }
    })?;
    Ok(())
}

/// Lets the clock go before everybody else on its core when it is due; it runs for some microseconds. As one thread among
/// others it now and then waits for the kernel's next tick, up to 4 ms, and for so long nobody interrupts the guest that runs.
fn go_first() {
    let fifo = ThreadSchedulePolicy::Realtime(RealtimeThreadSchedulePolicy::Fifo);
    if set_thread_priority_and_policy(thread_native_id(), ThreadPriority::Min, fifo).is_err() {
        tracing::info!(
            "the clock of guests has an ordinary priority and may be late by milliseconds on a core that is busy; \
             CAP_SYS_NICE, or an RLIMIT_RTPRIO of 1, lets it be in time"
        );
    }
}
