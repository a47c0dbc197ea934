//! Whether an instance finds what another one wrote while the kernel moves pages: wasmtime's pool with `PAGEMAP_SCAN`, beside the memories of a host.
//!
//! A page that the kernel is about to move is neither here nor there for a moment. Whoever asks for pages that are here, to make them zero, is not told of it, and
//! the next instance reads it. The kernel moves pages when it compacts memory, which it does by itself where large pieces of it run short; here it is asked to, again and
//! again, which takes root. Each instance looks whether its memory is zero, and then writes to it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use odeon_engine::wasmtime::{
    Config, Enabled, Engine, Instance, InstanceAllocationStrategy, Module, PoolingAllocationConfig, Store,
};
use odeon_engine::{EngineSettings, Wasi};

/// One memory of 17 pages, exported as `m`.
const MODULE: [u8; 20] = *b"\0asm\x01\0\0\0\x05\x03\x01\0\x11\x07\x05\x01\x01m\x02\0";
/// What is written, and looked at: every other page of so many.
const PAGES: usize = 80;
const PAGE_BYTES: usize = 4 << 10;
/// What a slot of the pool keeps, in bytes.
const KEPT_BYTES: usize = 256 << 10;
/// To write to it is to ask the kernel for compaction.
const COMPACT: &str = "/proc/sys/vm/compact_memory";

/// What was found on one side.
#[derive(Default)]
struct Side {
    instances: u64,
    /// Those that found something.
    told: u64,
}

/// Both for so many seconds, in turns of one. The page, and whether a host's instances found nothing.
pub(crate) fn measure(seconds: u64) -> Result<(String, bool)> {
    std::fs::write(COMPACT, "1").with_context(|| format!("{COMPACT}: run it as root"))?;
    let (scanning, host) = (scanning()?, odeon_engine::Engine::new(EngineSettings::default())?);
    let (mut peer, mut ours) = (Side::default(), Side::default());
    let ends = AtomicBool::new(false);
    let compactions = std::thread::scope(|scope| {
        let compacting = scope.spawn(|| {
            let mut count = 0_u64;
            while !ends.load(Ordering::Relaxed) && std::fs::write(COMPACT, "1").is_ok() {
                count += 1;
            }
            count
        });
        let turns = (0..seconds).try_for_each(|_| {
            turn(&scanning, &mut peer)?;
            turn(host.of(Wasi::P2), &mut ours)
        });
        ends.store(true, Ordering::Relaxed);
        turns.map(|()| compacting.join().unwrap_or(0))
    })?;
    let row = |side: &Side| format!("{} of {} instances", side.told, side.instances);
    let text = format!(
        "Found what another instance had written, while the kernel compacted memory {compactions} times:\n\
         wasmtime's pool with PAGEMAP_SCAN: {}\nmemories of a host: {}\n",
        row(&peer),
        row(&ours)
    );
    Ok((text, ours.told == 0))
}

/// wasmtime's pool as it keeps pages.
fn scanning() -> Result<Engine> {
    let mut pool = PoolingAllocationConfig::new();
    pool.pagemap_scan(Enabled::Yes).linear_memory_keep_resident(KEPT_BYTES).decommit_batch_size(1);
    let mut config = Config::new();
    config.allocation_strategy(InstanceAllocationStrategy::Pooling(pool));
    Ok(Engine::new(&config)?)
}

/// Instances for a second, one after the other.
fn turn(engine: &Engine, side: &mut Side) -> Result<()> {
    let (module, begun) = (Module::new(engine, MODULE)?, Instant::now());
    while begun.elapsed() < Duration::from_secs(1) {
        let mut store = Store::new(engine, ());
        let instance = Instance::new(&mut store, &module, &[])?;
        let memory = instance.get_memory(&mut store, "m").context("a memory")?;
        let places = memory.data_mut(&mut store).iter_mut().step_by(2 * PAGE_BYTES).take(PAGES / 2);
        let told = places.map(|byte| std::mem::replace(byte, 7)).filter(|byte| *byte != 0).count();
        side.instances += 1;
        side.told += u64::from(told > 0);
    }
    Ok(())
}
