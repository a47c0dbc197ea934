//! Linear memories for wasmtime: a reservation of address space each, of which the memory's size can be touched.
//!
//! wasmtime's compiled code checks no bounds where a reservation is as large as what 32 bits can name: whatever lies beyond the size is protected, and
//! to touch it is a trap. So the size of a memory is a matter of protection, which is costly to change, and a mapping goes to a memory of the same size if there is one.

#![expect(unsafe_code, reason = "wasmtime's compiled code trusts where a memory lies and what is protected")]

use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::{Count, Counted, NoRoom, Shelves, pages};

/// Memory that a mapping keeps between two instances, in bytes: the pages that an instance wrote, so that the next one has no page faults and no other core is
/// interrupted. What a small request writes fits; the rest is given back to the kernel. Every mapping that was ever used keeps its own.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// Makes memories, each as large as it may be at most.
pub(crate) struct Memories {
    bytes_max: usize,
    count: Arc<Count>,
    idle: Arc<Shelves<Mapping>>,
}

impl Memories {
    /// As many as `count_max` of `bytes_max` bytes each, those included that wait for another instance.
    pub(crate) fn new(bytes_max: usize, count_max: usize) -> Self {
        pages::prepare();
        Self { bytes_max, count: Count::new(count_max), idle: Shelves::new(count_max) }
    }
}

// SAFETY: `Mapping::new` reserves what it is asked for with guards on both sides; a mapping is zero and nobody else's when `Memory` has it.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reserved: Option<usize>,
        guard: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        let reserved = reserved.unwrap_or(self.bytes_max);
        if minimum > self.bytes_max.min(reserved) {
            return Err(format!(
                "a memory of {minimum} bytes is more than the {} of this host",
                self.bytes_max
            ));
        }
        let touchable = whole_pages(minimum);
        let mut mapping = self.idle.take(|mapping| mapping.touchable == touchable);
        mapping.take_if(|mapping| (mapping.reserved, mapping.guard) != (reserved, guard));
        let mut mapping = match mapping {
            Some(mapping) => mapping,
            None => Mapping::new(reserved, guard, self.count.one_more().map_err(|full| full.to_string())?)
                .map_err(|error| NoRoom::because(error).to_string())?,
        };
        mapping.resize(touchable).map_err(|error| NoRoom::because(error).to_string())?;
        Ok(Box::new(Memory {
            mapping: Some(mapping),
            bytes: minimum,
            bytes_max: self.bytes_max,
            idle: self.idle.clone(),
        }))
    }
}

/// One memory, until it is dropped.
struct Memory {
    /// None while it is dropped.
    mapping: Option<Mapping>,
    bytes: usize,
    bytes_max: usize,
    idle: Arc<Shelves<Mapping>>,
}

// SAFETY: the mapping does not move, and what is beyond `bytes`, up to the next whole page, is protected.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.bytes
    }

    fn byte_capacity(&self) -> usize {
        self.mapping.as_ref().map_or(0, |mapping| mapping.reserved)
    }

    fn grow_to(&mut self, bytes: usize) -> wasmtime::Result<()> {
        let Some(mapping) =
            self.mapping.as_mut().filter(|mapping| bytes <= self.bytes_max.min(mapping.reserved))
        else {
            wasmtime::bail!("a memory of {bytes} bytes is more than the {} of this host", self.bytes_max);
        };
        if whole_pages(bytes) > mapping.touchable {
            mapping.resize(whole_pages(bytes))?;
        }
        self.bytes = bytes;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.mapping.as_ref().map_or(std::ptr::null_mut(), |mapping| mapping.base.as_ptr())
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        let Some(mapping) = self.mapping.take().filter(|mapping| mapping.is_whole) else { return };
        // SAFETY: the instance is gone, and this memory with it. All that can be touched is private, anonymous, and can be written.
        let cleared = unsafe { pages::clear(mapping.base, mapping.touchable, KEPT_BYTES_MAX) };
        match cleared {
            Ok(()) => self.idle.put(mapping),
            Err(error) => tracing::warn!(%error, "memory of an instance cannot be used again"), // and is unmapped
        }
    }
}

/// Address space: a guard, what is reserved for a memory, another guard. What can be touched of it is zero unless a memory has it.
struct Mapping {
    base: NonNull<u8>,
    /// From the base on, in bytes.
    touchable: usize,
    reserved: usize,
    /// Of each of both, in bytes.
    guard: usize,
    /// Whether what can be touched is what `touchable` says.
    is_whole: bool,
    _counted: Counted,
}

// SAFETY: it is nobody else's.
unsafe impl Send for Mapping {}
// SAFETY: as above; who has it by reference reads numbers.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(reserved: usize, guard: usize, counted: Counted) -> rustix::io::Result<Self> {
        let (nobody, flags) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping where the kernel likes.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), reserved + 2 * guard, nobody, flags)? };
        // SAFETY: both lie in the mapping.
        let base = unsafe { start.byte_add(guard) };
        let base = NonNull::new(base.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { base, touchable: 0, reserved, guard, is_whole: true, _counted: counted })
    }

    /// Lets so much of it be touched, and no more. What is taken away keeps no pages.
    fn resize(&mut self, touchable: usize) -> rustix::io::Result<()> {
        let (from, to) = (self.touchable.min(touchable), self.touchable.max(touchable));
        // SAFETY: both lie in what is reserved.
        let (place, bytes) = (unsafe { self.base.as_ptr().add(from).cast() }, to - from);
        self.is_whole = false; // the kernel may do a part of it and fail then
        if touchable > self.touchable {
            // SAFETY: it lies in what is reserved, and was protected.
            unsafe { mprotect(place, bytes, MprotectFlags::READ | MprotectFlags::WRITE)? };
        } else if touchable < self.touchable {
            // SAFETY: it is private and anonymous, and whoever has the memory now has not asked for it.
            unsafe {
                madvise(place, bytes, Advice::LinuxDontNeed)?;
                mprotect(place, bytes, MprotectFlags::empty())?;
            }
        }
        (self.touchable, self.is_whole) = (touchable, true);
        Ok(())
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole of what `new` mapped, which nobody has any more.
        let unmapped =
            unsafe { munmap(self.base.as_ptr().byte_sub(self.guard).cast(), self.reserved + 2 * self.guard) };
        if let Err(error) = unmapped {
            tracing::warn!(%error, "address space of an instance is not given back");
        }
    }
}

fn whole_pages(bytes: usize) -> usize {
    bytes.next_multiple_of(rustix::param::page_size())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use super::super::tests::{Part, part_at};
    use super::*;

    const PAGE: usize = 64 << 10;
    const RESERVED: usize = 4 << 30;
    const GUARD: usize = 32 << 20;

    fn memory(memories: &Memories, bytes: usize) -> Box<dyn LinearMemory> {
        memories.new_memory(MemoryType::new(1, None), bytes, None, Some(RESERVED), GUARD).unwrap()
    }

    /// All that can be touched.
    fn content(memory: &mut dyn LinearMemory) -> &mut [u8] {
        // SAFETY: the memory has so many bytes, and nobody else looks at them.
        unsafe { std::slice::from_raw_parts_mut(memory.as_ptr(), memory.byte_size()) }
    }

    /// More than is kept, in a memory that has grown meanwhile; and less.
    #[test]
    fn a_memory_is_zero_whoever_had_it_before() {
        let memories = Memories::new(1 << 30, 4);
        for written in [100 * PAGE, 3] {
            let mut before = memory(&memories, 2 * PAGE);
            before.grow_to(200 * PAGE).unwrap();
            let place = before.as_ptr();
            content(&mut *before).iter_mut().rev().take(written).for_each(|byte| *byte = 7);
            drop(before);
            let mut after = memory(&memories, 200 * PAGE);
            assert_eq!(after.as_ptr(), place, "it is the same one");
            assert!(content(&mut *after).iter().all(|byte| *byte == 0), "{written} bytes were written");
        }
    }

    #[test]
    fn nothing_beyond_its_size_can_be_touched_and_nothing_is_kept_there() {
        let memories = Memories::new(1 << 30, 4);
        let mut large = memory(&memories, 8 * PAGE);
        content(&mut *large).fill(7);
        drop(large);
        let mut small = memory(&memories, 3 * PAGE);
        let base = small.as_ptr().addr();
        let (protected, open) =
            (Part { permissions: "---p", anonymous: false }, Part { permissions: "rw-p", anonymous: true });
        content(&mut *small).fill(1);
        assert_eq!(part_at(base), open);
        assert_eq!(part_at(base + 3 * PAGE - 1), open);
        for beyond in [
            base + 3 * PAGE,
            base + 8 * PAGE,
            base + RESERVED,
            base + RESERVED + GUARD - 1,
            base - 1,
            base - GUARD,
        ] {
            assert_eq!(part_at(beyond), protected, "{:#x}", beyond.wrapping_sub(base));
        }
        small.grow_to(3 * PAGE + 1).unwrap();
        assert_eq!(part_at(base + 3 * PAGE), open);
        assert_eq!(part_at(base + 4 * PAGE), protected, "one of the kernel's pages more");
        assert_eq!(content(&mut *small)[3 * PAGE], 0);
    }

    #[test]
    fn no_memory_is_larger_than_the_host_allows() {
        let memories = Memories::new(10 * PAGE, 4);
        let mut most = memory(&memories, 9 * PAGE);
        most.grow_to(10 * PAGE).unwrap();
        let refused = most.grow_to(10 * PAGE + 1).unwrap_err().to_string();
        assert_eq!(refused, "a memory of 655361 bytes is more than the 655360 of this host");
        assert_eq!(most.byte_size(), 10 * PAGE);
        let too_large =
            memories.new_memory(MemoryType::new(11, None), 11 * PAGE, None, Some(RESERVED), GUARD);
        assert_eq!(too_large.err().unwrap(), "a memory of 720896 bytes is more than the 655360 of this host");
    }
}
