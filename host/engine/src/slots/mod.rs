//! Memories and stacks of instances, used again and again: a host's own pool.
//!
//! wasmtime has one, which forgets a page now and then. To learn which pages an instance wrote it asks the kernel for those that are *present*,
//! and one that the kernel is about to move (memory compaction does so on any machine), or has put into swap, is not: it stays as it is, and
//! the next instance, which may be another app's, reads it. Of 138,000 instances beside a kernel that compacts its memory 12 found what another one
//! had written (docs/benchmarks/notes.md). Without asking, all of a memory must be given back each time, which takes longer than a small request.
//! So hosts ask better: [`pages`] knows the question, a [`mapping`] is address space for one, [`memory`] and [`stack`] are what wasmtime is given.
//!
//! What must stay true: what leaves an instance is zero before another one has it, or is unmapped; nothing beyond the size of a memory can be touched.

mod mapping;
mod memory;
mod pages;
mod stack;

use std::mem::ManuallyDrop;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use mapping::Mapping;
pub(crate) use memory::Memories;
pub(crate) use stack::Stacks;

/// Of a shelf, how many are looked at for one that fits as it is.
const LOOKS_MAX: usize = 16;

/// There is no address space for another one, or there are as many as there may be.
#[derive(Debug, thiserror::Error)]
#[error("the host has no room for another instance")]
pub(crate) struct NoRoom;

impl NoRoom {
    /// Whether an instance was not made for this reason. wasmtime keeps no more than the text of why there is no memory.
    pub(crate) fn is_why(error: &wasmtime::Error) -> bool {
        error.is::<Self>() || error.root_cause().to_string() == Self.to_string()
    }

    fn because(error: rustix::io::Errno) -> Self {
        tracing::warn!(%error, "there is no address space for another instance");
        Self
    }
}

/// Mappings of one kind, up to so many, those included that wait to be used again.
struct Pool {
    there: Arc<AtomicUsize>,
    max: usize,
    idle: Shelves<Mapping>,
}

impl Pool {
    fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { there: Arc::default(), max, idle: Shelves::new() })
    }

    /// One of which so much can be touched. It is as whoever had it before left it, or zero.
    fn lend(self: &Arc<Self>, reserved: usize, guard: usize, touchable: usize) -> Result<Lent, NoRoom> {
        let is_alike = |mapping: &Mapping| (mapping.reserved(), mapping.guard()) == (reserved, guard);
        let idle = self.idle.take(|mapping| mapping.touchable() == touchable).filter(is_alike);
        let mapping = match idle {
            Some(mapping) => mapping,
            None => Mapping::new(reserved, guard, self.one_more()?).map_err(NoRoom::because)?,
        };
        let mut lent = Lent { mapping: ManuallyDrop::new(mapping), pool: self.clone() };
        lent.resize(touchable).map_err(NoRoom::because)?;
        Ok(lent)
    }

    fn one_more(&self) -> Result<Counted, NoRoom> {
        let counted = Counted(self.there.clone());
        if self.there.fetch_add(1, Ordering::Relaxed) < self.max { Ok(counted) } else { Err(NoRoom) }
    }
}

/// Counts for as long as it lives.
struct Counted(Arc<AtomicUsize>);

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A mapping that goes back to its pool, or is unmapped where it is not as it should be.
struct Lent {
    mapping: ManuallyDrop<Mapping>,
    pool: Arc<Pool>,
}

impl Deref for Lent {
    type Target = Mapping;

    fn deref(&self) -> &Mapping {
        &self.mapping
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Mapping {
        &mut self.mapping
    }
}

impl Drop for Lent {
    #[expect(unsafe_code, reason = "to move it out of what is dropped")]
    fn drop(&mut self) {
        // SAFETY: once, and nobody sees it here again.
        let mapping = unsafe { ManuallyDrop::take(&mut self.mapping) };
        if mapping.is_usable() {
            self.pool.idle.put(mapping);
        }
    }
}

/// Shelves of what waits to be used again. Each thread has one, the one that was used last on top: that is still in the caches of its core.
struct Shelves<T>(Box<[Mutex<Vec<T>>]>);

impl<T> Shelves<T> {
    fn new() -> Self {
        let shelves = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        Self((0..shelves).map(|_| Mutex::default()).collect())
    }

    /// One of the thread's own if there is one, and there the last one that `fits` if there is one near the top.
    fn take(&self, fits: impl Fn(&T) -> bool) -> Option<T> {
        let (before, from) = self.0.split_at(thread() % self.0.len());
        from.iter().chain(before).find_map(|shelf| {
            let mut shelf = lock(shelf);
            let place = shelf.iter().rev().take(LOOKS_MAX).position(&fits).unwrap_or(0);
            let place = shelf.len().checked_sub(place + 1)?;
            Some(shelf.remove(place))
        })
    }

    fn put(&self, one: T) {
        if let Some(shelf) = self.0.get(thread() % self.0.len()) {
            lock(shelf).push(one);
        }
    }
}

/// The number of the thread that asks, in the order in which threads asked first.
fn thread() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: usize = THREADS.fetch_add(1, Ordering::Relaxed);
    }
    NUMBER.with(|number| *number)
}

fn lock<T>(shelf: &Mutex<T>) -> MutexGuard<'_, T> {
    shelf.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use wasm_encoder::{ExportKind, ExportSection, MemorySection, MemoryType, Module};

    use super::Shelves;
    use crate::begin::Beginning;
    use crate::begin::tests::MEMORY;
    use crate::{Engine, EngineSettings, Wasi};

    /// What the kernel says about a place in memory.
    #[derive(Debug, PartialEq, Eq)]
    pub(super) struct Part {
        pub(super) permissions: &'static str,
        /// Whether the mapping that it lies in has pages of its own.
        pub(super) anonymous: bool,
    }

    pub(super) fn part_at(address: usize) -> Part {
        let lines = mapping_at(address);
        let permissions = if lines[0].contains(" ---p ") { "---p" } else { "rw-p" };
        assert!(lines[0].contains(&format!(" {permissions} ")), "{}", lines[0]);
        Part { permissions, anonymous: anonymous_kb(&lines) > 0 }
    }

    /// Of the mapping that an address lies in, in KiB.
    pub(super) fn anonymous_kb_at(address: usize) -> usize {
        anonymous_kb(&mapping_at(address))
    }

    fn anonymous_kb(lines: &[String]) -> usize {
        let line = lines.iter().find(|line| line.starts_with("Anonymous:")).unwrap();
        line.split_ascii_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// All lines about it.
    fn mapping_at(address: usize) -> Vec<String> {
        let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
        let range = |line: &str| {
            let (start, end) = line.split(' ').next()?.split_once('-')?;
            Some(usize::from_str_radix(start, 16).ok()?..usize::from_str_radix(end, 16).ok()?)
        };
        let of_it =
            maps.lines().skip_while(|line| !range(line).is_some_and(|range| range.contains(&address)));
        of_it.take(30).map(str::to_owned).collect()
    }

    #[test]
    fn the_last_that_fits_is_taken_and_another_where_none_does() {
        let shelves = Shelves::new();
        (0..4).for_each(|one| shelves.put(one));
        assert_eq!(shelves.take(|one| one % 2 == 0), Some(2));
        assert_eq!(shelves.take(|one| *one == 7), Some(3));
        let elsewhere = std::thread::scope(|scope| scope.spawn(|| shelves.take(|_| true)).join());
        assert_eq!(elsewhere.ok(), Some(Some(1)), "a thread that has none takes another one's");
        assert_eq!((shelves.take(|_| true), shelves.take(|_| true)), (Some(0), None));
    }

    /// Of a memory that wasmtime's pool gives, and of one of our own, in which an instance wrote to one page in ten.
    fn kept_kb(beginning: Beginning) -> usize {
        const PAGES: u64 = 16;
        let engine = Engine::new(EngineSettings { instances_max: 1, ..EngineSettings::default() }).unwrap();
        let engine = engine.for_kind(Wasi::P2, beginning);
        let (mut memories, mut exports, mut module) =
            (MemorySection::new(), ExportSection::new(), Module::new());
        memories.memory(MemoryType { minimum: PAGES, ..MEMORY });
        exports.export("memory", ExportKind::Memory, 0);
        module.section(&memories).section(&exports);
        let module = wasmtime::Module::new(engine, module.finish()).unwrap();
        let mut store = wasmtime::Store::new(engine, ());
        let instance = wasmtime::Instance::new(&mut store, &module, &[]).unwrap();
        let memory = instance.get_memory(&mut store, "memory").unwrap();
        let place = memory.data_ptr(&store).addr();
        memory.data_mut(&mut store).iter_mut().step_by(10 * 4_096).for_each(|byte| *byte = 7);
        assert!(anonymous_kb_at(place) > 0);
        drop(store);
        anonymous_kb_at(place)
    }

    /// It would have to ask the kernel which pages it may keep, and does not ask as one should.
    #[test]
    fn wasmtimes_own_pool_keeps_nothing_of_an_instance() {
        assert_eq!(kept_kb(Beginning::Mapped), 0);
        let asks = std::fs::File::open("/proc/self/pagemap").is_ok();
        assert_eq!(kept_kb(Beginning::Copied) > 0, asks, "the control: ours does");
    }
}
