//! Linear memories for wasmtime: a reservation of address space each, of which the memory's size can be touched.
//!
//! wasmtime's compiled code checks no bounds where a reservation is as large as what 32 bits can name: whatever lies beyond the size is protected, and
//! to touch it is a trap. So the size of a memory is a matter of protection, which is costly to change, and a mapping goes to a memory of the same size if there is one.

#![expect(unsafe_code, reason = "wasmtime's compiled code trusts where a memory lies and what is protected")]

use std::sync::Arc;

use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

use super::{Lent, Pool, pages};

/// Memory that a mapping keeps between two instances, in bytes: the pages that an instance wrote, so that the next one has no page faults and no other core is
/// interrupted. What a small request writes fits; the rest is given back to the kernel. Every mapping that was ever used keeps its own.
const KEPT_BYTES_MAX: usize = 256 << 10;

/// Makes memories, each as large as it may be at most.
pub(crate) struct Memories {
    bytes_max: usize,
    pool: Arc<Pool>,
}

impl Memories {
    /// As many as `count_max` of `bytes_max` bytes each, those included that wait for another instance.
    pub(crate) fn new(bytes_max: usize, count_max: usize) -> Self {
        pages::prepare();
        Self { bytes_max, pool: Pool::new(count_max) }
    }
}

// SAFETY: a mapping has what is reserved and guards on both sides; it is nobody else's, and zero, when `Memory` has it.
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
            return Err(too_large(minimum, self.bytes_max));
        }
        let lent = self.pool.lend(reserved, guard, whole_pages(minimum)).map_err(|full| full.to_string())?;
        Ok(Box::new(Memory { lent, bytes: minimum, bytes_max: self.bytes_max }))
    }
}

/// One memory, until it is dropped.
struct Memory {
    lent: Lent,
    bytes: usize,
    bytes_max: usize,
}

// SAFETY: the mapping does not move, and what is beyond `bytes`, up to the next whole page, is protected.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.bytes
    }

    fn byte_capacity(&self) -> usize {
        self.lent.reserved()
    }

    fn grow_to(&mut self, bytes: usize) -> wasmtime::Result<()> {
        if bytes > self.bytes_max.min(self.lent.reserved()) {
            return Err(wasmtime::Error::msg(too_large(bytes, self.bytes_max)));
        }
        if whole_pages(bytes) > self.lent.touchable() {
            self.lent.resize(whole_pages(bytes))?;
        }
        self.bytes = bytes;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.lent.base()
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: the instance is gone, and this memory with it.
        if let Err(error) = unsafe { self.lent.clear(KEPT_BYTES_MAX) } {
            tracing::warn!(%error, "memory of an instance cannot be used again"); // and is unmapped
        }
    }
}

fn too_large(bytes: usize, most: usize) -> String {
    format!("a memory of {bytes} bytes is more than the {most} of this host")
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
