//! A piece of address space with guards around it, of which a part can be touched: what a memory lies in, and a stack.

#![expect(unsafe_code, reason = "address space that belongs to no Rust object")]

use std::ptr::NonNull;

use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags, madvise, mmap_anonymous, mprotect, munmap};

use super::{Counted, pages};

/// A guard, what is reserved, another guard.
pub(super) struct Mapping {
    base: NonNull<u8>,
    /// From the base on, in bytes.
    touchable: usize,
    reserved: usize,
    /// Of each of both, in bytes.
    guard: usize,
    is_usable: bool,
    _counted: Counted,
}

// SAFETY: it is nobody else's.
unsafe impl Send for Mapping {}
// SAFETY: as above; who has it by reference reads numbers.
unsafe impl Sync for Mapping {}

impl Mapping {
    /// Nothing of it can be touched yet.
    pub(super) fn new(reserved: usize, guard: usize, counted: Counted) -> rustix::io::Result<Self> {
        let (nobody, flags) = (ProtFlags::empty(), MapFlags::PRIVATE | MapFlags::NORESERVE);
        // SAFETY: a new mapping where the kernel likes.
        let start = unsafe { mmap_anonymous(std::ptr::null_mut(), reserved + 2 * guard, nobody, flags)? };
        // SAFETY: both lie in the mapping.
        let base = unsafe { start.byte_add(guard) };
        let base = NonNull::new(base.cast()).ok_or(rustix::io::Errno::NOMEM)?;
        Ok(Self { base, touchable: 0, reserved, guard, is_usable: true, _counted: counted })
    }

    pub(super) fn base(&self) -> *mut u8 {
        self.base.as_ptr()
    }

    pub(super) fn touchable(&self) -> usize {
        self.touchable
    }

    pub(super) fn reserved(&self) -> usize {
        self.reserved
    }

    pub(super) fn guard(&self) -> usize {
        self.guard
    }

    /// Whether what can be touched is what is said here, and zero if it was to be.
    pub(super) fn is_usable(&self) -> bool {
        self.is_usable
    }

    /// Lets so much of it be touched, and no more. What is taken away keeps no pages.
    pub(super) fn resize(&mut self, touchable: usize) -> rustix::io::Result<()> {
        let (from, to) = (self.touchable.min(touchable), self.touchable.max(touchable));
        // SAFETY: both lie in what is reserved.
        let (place, bytes) = (unsafe { self.base.as_ptr().add(from).cast() }, to - from);
        self.is_usable = false; // the kernel may do a part of it and fail then
        if touchable > self.touchable {
            // SAFETY: it lies in what is reserved, and was protected.
            unsafe { mprotect(place, bytes, MprotectFlags::READ | MprotectFlags::WRITE)? };
        } else if touchable < self.touchable {
            // SAFETY: it is private and anonymous, and whoever has it now has not asked for it.
            unsafe {
                madvise(place, bytes, Advice::LinuxDontNeed)?;
                mprotect(place, bytes, MprotectFlags::empty())?;
            }
        }
        (self.touchable, self.is_usable) = (touchable, true);
        Ok(())
    }

    /// Makes all of it zero, and keeps up to `kept_max` bytes that were written.
    ///
    /// # Safety
    ///
    /// Nobody uses it meanwhile.
    pub(super) unsafe fn clear(&mut self, kept_max: usize) -> rustix::io::Result<()> {
        // SAFETY: all that can be touched is private, anonymous, and can be written; the rest is our caller's word.
        let cleared = unsafe { pages::clear(self.base, self.touchable, kept_max) };
        self.is_usable &= cleared.is_ok();
        cleared
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
