//! Stacks for wasmtime, on which guests run, with the functions of the host that they call. What one guest left there no other one can read: only compiled code
//! and the host use a stack, and both write what they read.

#![expect(
    unsafe_code,
    reason = "compiled code trusts that a stack is there, and that what is below it is protected"
)]

use std::ops::Range;
use std::ptr::NonNull;
use std::sync::Arc;

use rustix::mm::{MapFlags, MprotectFlags, ProtFlags, mmap_anonymous, mprotect, munmap};
use wasmtime::{StackCreator, StackMemory};

use super::{Count, Counted, NoRoom, Shelves, pages};

/// Makes stacks.
pub(crate) struct Stacks {
    count: Arc<Count>,
    idle: Arc<Shelves<Mapping>>,
}

impl Stacks {
    /// As many as `count_max`, those included that wait for another guest.
    pub(crate) fn new(count_max: usize) -> Self {
        Self { count: Count::new(count_max), idle: Shelves::new(count_max) }
    }
}

// SAFETY: `Mapping::new` maps what it is asked for, with a guard below; nobody else has it while `Stack` does.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, bytes: usize, zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        let mapping = match self.idle.take(|_| true).filter(|mapping| mapping.bytes == bytes) {
            Some(mapping) => mapping,
            None => Mapping::new(bytes, self.count.one_more()?).map_err(NoRoom::because)?,
        };
        if zeroed {
            // SAFETY: nobody has it yet; above the guard it is private, anonymous, and can be written.
            unsafe { pages::clear(mapping.base, mapping.bytes, mapping.bytes)? };
        }
        Ok(Box::new(Stack { mapping: Some(mapping), idle: self.idle.clone() }))
    }
}

/// One stack, until it is dropped.
struct Stack {
    /// None while it is dropped.
    mapping: Option<Mapping>,
    idle: Arc<Shelves<Mapping>>,
}

impl Stack {
    /// Its lowest address and its size.
    fn place(&self) -> (*mut u8, usize) {
        self.mapping
            .as_ref()
            .map_or((std::ptr::null_mut(), 0), |mapping| (mapping.base.as_ptr(), mapping.bytes))
    }
}

// SAFETY: the mapping can be written, does not move, and has a guard below.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        let (base, bytes) = self.place();
        base.wrapping_add(bytes)
    }

    fn range(&self) -> Range<usize> {
        let (base, bytes) = self.place();
        base.addr()..base.addr() + bytes
    }

    fn guard_range(&self) -> Range<*mut u8> {
        let (base, _) = self.place();
        base.wrapping_sub(guard_bytes())..base
    }
}

impl Drop for Stack {
    fn drop(&mut self) {
        if let Some(mapping) = self.mapping.take() {
            self.idle.put(mapping);
        }
    }
}

/// A guard, and a stack above it.
struct Mapping {
    /// Of the stack.
    base: NonNull<u8>,
    bytes: usize,
    _counted: Counted,
}

// SAFETY: it is nobody else's.
unsafe impl Send for Mapping {}
// SAFETY: as above; who has it by reference reads numbers.
unsafe impl Sync for Mapping {}

impl Mapping {
    fn new(bytes: usize, counted: Counted) -> rustix::io::Result<Self> {
        let (read_write, flags) =
            (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE | MapFlags::NORESERVE);
        let whole = bytes + guard_bytes();
        // SAFETY: a new mapping where the kernel likes.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), whole, read_write, flags)? };
        // SAFETY: it lies in the mapping.
        let base =
            NonNull::new(unsafe { start.byte_add(guard_bytes()) }.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        let mapping = Self { base, bytes, _counted: counted }; // unmapped if what follows fails
        // SAFETY: the lowest pages of a mapping that nobody uses yet.
        unsafe { mprotect(start, guard_bytes(), MprotectFlags::empty())? };
        Ok(mapping)
    }
}

impl Drop for Mapping {
    fn drop(&mut self) {
        // SAFETY: the whole of what `new` mapped, which nobody has any more.
        let unmapped =
            unsafe { munmap(self.base.as_ptr().byte_sub(guard_bytes()).cast(), self.bytes + guard_bytes()) };
        if let Err(error) = unmapped {
            tracing::warn!(%error, "address space of a stack is not given back");
        }
    }
}

/// Below a stack, in bytes.
fn guard_bytes() -> usize {
    rustix::param::page_size()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use super::super::tests::part_at;
    use super::*;

    #[test]
    fn a_stack_is_used_again_and_has_a_guard() {
        let (stacks, bytes) = (Stacks::new(4), 1 << 20);
        let stack = stacks.new_stack(bytes, false).unwrap();
        let (range, guard) = (stack.range(), stack.guard_range());
        assert_eq!((range.len(), stack.top().addr()), (bytes, range.end));
        assert_eq!((guard.end.addr(), guard.start < guard.end), (range.start, true));
        assert_eq!(part_at(guard.start.addr()).permissions, "---p");
        assert_eq!([range.start, range.end - 1].map(|place| part_at(place).permissions), ["rw-p", "rw-p"]);
        drop(stack);
        assert_eq!(stacks.new_stack(bytes, true).unwrap().range(), range);
        assert_ne!(
            stacks.new_stack(bytes / 2, false).unwrap().range().len(),
            bytes,
            "another size is another stack"
        );
    }
}
