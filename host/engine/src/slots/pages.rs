//! Makes memory zero again, by writing to the pages that are not, as far as they are few.
//!
//! The question to the kernel is `PAGEMAP_SCAN` (Linux 6.7): a page counts when it was written and is there, *or somewhere else*, in swap or on its way to
//! another place in memory. Such a page is given back instead of written, which would bring it back first. What the kernel says holds for as long as nobody else touches the memory. Where it
//! does not answer, everything is given back to it.

#![expect(
    unsafe_code,
    reason = "a system call that rustix has no words for, and memory that belongs to no Rust object"
)]

use std::ffi::c_void;
use std::fs::File;
use std::ptr::NonNull;
use std::sync::LazyLock;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, opcode};
use rustix::mm::{Advice, madvise};

/// Of what this process has in memory.
static PAGEMAP: LazyLock<Option<File>> = LazyLock::new(|| File::open("/proc/self/pagemap").ok());

/// Pieces of memory that are asked for at a time.
const PIECES_MAX: usize = 32;

// Kinds of pages, as the kernel numbers them.
const IS_WRITTEN: u64 = 1 << 1;
const IS_FILE: u64 = 1 << 2;
const IS_PRESENT: u64 = 1 << 3;
const IS_SWAPPED: u64 = 1 << 4; // or on its way to another place
const IS_ZERO: u64 = 1 << 5; // the one page of zeros that all share

/// Opens it, and says so where that is not possible. To be called early: a process that has given up its privileges may not read about itself.
pub(super) fn prepare() {
    if PAGEMAP.is_none() {
        tracing::warn!(
            "/proc/self/pagemap cannot be read: all memory of an instance goes back to the kernel when it ends, which takes longer than a small request"
        );
    }
}

/// Makes `bytes` from `base` zero, and keeps up to `kept_max` bytes that were written. On an error they are not zero, and not to be used.
///
/// # Safety
///
/// It is whole pages of private anonymous memory that can be written, and nobody else uses it meanwhile.
pub(super) unsafe fn clear(base: NonNull<u8>, bytes: usize, kept_max: usize) -> rustix::io::Result<()> {
    let start = base.as_ptr().addr();
    // SAFETY: as our caller says.
    let cleared = unsafe { clear_written(base, bytes, kept_max)? };
    let rest = bytes - (cleared - start);
    if rest > 0 {
        // SAFETY: as our caller says; private anonymous memory is zero when it is touched again.
        unsafe { madvise(base.as_ptr().add(bytes - rest).cast(), rest, Advice::LinuxDontNeed)? };
    }
    Ok(())
}

/// Writes zeros to what was written, up to the address that it returns.
///
/// # Safety
///
/// That of [`clear`].
unsafe fn clear_written(base: NonNull<u8>, bytes: usize, kept_max: usize) -> rustix::io::Result<usize> {
    let start = base.as_ptr().addr();
    let (mut from, end) = (start, start + bytes);
    let mut pages = kept_max / rustix::param::page_size();
    let Some(pagemap) = PAGEMAP.as_ref() else { return Ok(from) };
    while pages > 0 && from < end {
        let mut pieces = [Piece::default(); PIECES_MAX];
        let mut scan = Scan::of_written(from, end, pages, &mut pieces);
        // SAFETY: `Scan` is what the kernel expects for this number, and points to `pieces` for as long as the call takes.
        let Ok(found) = (unsafe { rustix::ioctl::ioctl(pagemap, &mut scan) }) else { break };
        from = address(scan.walk_end);
        for piece in pieces.iter().take(found) {
            let bytes = address(piece.end - piece.start);
            // SAFETY: the kernel names pieces of what it was asked about, which our caller lets us write.
            let place = unsafe { base.as_ptr().add(address(piece.start) - start) };
            if piece.kinds & IS_SWAPPED != 0 {
                // SAFETY: as our caller says.
                unsafe { madvise(place.cast(), bytes, Advice::LinuxDontNeed)? };
            } else {
                // SAFETY: as above.
                unsafe { place.write_bytes(0, bytes) };
            }
            pages = pages.saturating_sub(bytes / rustix::param::page_size());
        }
        if found < PIECES_MAX {
            break; // it went to the end, or as far as there are pages to keep
        }
    }
    Ok(from)
}

fn address(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

/// `struct pm_scan_arg` of the kernel.
#[repr(C)]
#[derive(Default)]
struct Scan {
    size: u64,
    flags: u64,
    start: u64,
    end: u64,
    walk_end: u64,
    pieces: u64,
    pieces_max: u64,
    pages_max: u64,
    /// Kinds that a page must not be of, of those that it must be compared with.
    inverted: u64,
    all_of: u64,
    any_of: u64,
    returned: u64,
}

/// `struct page_region`.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Piece {
    start: u64,
    end: u64,
    kinds: u64,
}

impl Scan {
    fn of_written(start: usize, end: usize, pages_max: usize, pieces: &mut [Piece]) -> Self {
        Self {
            size: size_of::<Self>() as u64,
            start: start as u64,
            end: end as u64,
            pieces: pieces.as_mut_ptr().expose_provenance() as u64,
            pieces_max: pieces.len() as u64,
            pages_max: pages_max as u64,
            inverted: IS_ZERO | IS_FILE,
            all_of: IS_WRITTEN | IS_ZERO | IS_FILE,
            any_of: IS_PRESENT | IS_SWAPPED,
            returned: IS_SWAPPED,
            ..Self::default()
        }
    }
}

// SAFETY: the kernel reads and writes one `Scan` for this number, and says how many pieces it wrote.
unsafe impl Ioctl for &mut Scan {
    type Output = usize;
    const IS_MUTATING: bool = true;

    fn opcode(&self) -> Opcode {
        opcode::read_write::<Scan>(b'f', 16)
    }

    fn as_ptr(&mut self) -> *mut c_void {
        std::ptr::from_mut::<Scan>(self).cast()
    }

    unsafe fn output_from_ptr(found: IoctlOutput, _: *mut c_void) -> rustix::io::Result<usize> {
        Ok(usize::try_from(found).unwrap_or(0))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use rustix::mm::{MapFlags, ProtFlags, mmap_anonymous, munmap};

    use super::super::tests::anonymous_kb_at;
    use super::*;

    const PAGE: usize = 4 << 10;
    const PAGES: usize = 400;

    /// Fresh memory, and how much of it is there when so many pages in a row of two were written, and made zero again.
    fn resident_after(written: usize, kept_max: usize) -> usize {
        let (read_write, private) = (ProtFlags::READ | ProtFlags::WRITE, MapFlags::PRIVATE);
        // SAFETY: it is new memory, used and unmapped here.
        unsafe {
            let base = mmap_anonymous(std::ptr::null_mut(), PAGES * PAGE, read_write, private).unwrap();
            let bytes = std::slice::from_raw_parts_mut(base.cast::<u8>(), PAGES * PAGE);
            bytes.iter_mut().step_by(2 * PAGE).take(written).for_each(|byte| *byte = 1);
            clear(NonNull::new(base.cast()).unwrap(), PAGES * PAGE, kept_max).unwrap();
            assert_eq!(bytes.iter().position(|byte| *byte != 0), None, "{written} pages written");
            // To look at it maps the page of zeros, which does not count.
            let resident = anonymous_kb_at(base.addr());
            munmap(base, PAGES * PAGE).unwrap();
            resident * 1_024 / PAGE
        }
    }

    #[test]
    fn what_was_written_is_zero_and_as_much_as_may_be_is_kept() {
        let asks = PAGEMAP.is_some(); // a kernel that does not tell keeps nothing
        let kept = |pages: usize| if asks { pages } else { 0 };
        assert_eq!(resident_after(0, PAGES * PAGE), 0);
        assert_eq!(resident_after(3, PAGES * PAGE), kept(3));
        assert_eq!(
            resident_after(PIECES_MAX, PAGES * PAGE),
            kept(PIECES_MAX),
            "as many as are asked for at once"
        );
        assert_eq!(resident_after(200, PAGES * PAGE), kept(200), "more than are asked for at once");
        assert_eq!(resident_after(200, 50 * PAGE), kept(50), "the rest is given back");
        assert_eq!(resident_after(200, 0), 0);
    }
}
