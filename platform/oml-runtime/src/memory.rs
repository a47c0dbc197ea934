//! The arena of one request, and raw access to it.
//!
//! Everything is a bump away from the last allocation, and the instance ends with the request. Only loops
//! free: the compiler has proved what an iteration leaves behind, and all of it goes at once ([`rt_free`]).
//! Fresh Wasm memory is zero, and what is given back is zeroed, so an allocation is zeroed already, and a
//! zero word means "the default" for text, decimals and lists.
//! An `unsafe fn` of this crate takes addresses, and asks of its caller, which is generated code in the
//! end: an address is in the app's data or was handed out here, and a descriptor describes what it comes with.
//! Invariant: the arena starts behind the app's data, whose end the descriptor states.

use core::alloc::{GlobalAlloc, Layout};
use core::arch::wasm32;

/// Address of the app's descriptor; written by the compiler as a data segment.
#[unsafe(no_mangle)]
pub(crate) static mut RT_APP: u32 = 0;
/// 1 while an exception is on its way out.
#[unsafe(no_mangle)]
pub(crate) static mut RT_PENDING: u32 = 0;
/// Address of the two texts (action, node) of the node that runs.
#[unsafe(no_mangle)]
pub(crate) static mut RT_NODE: u32 = 0;

static mut NEXT: u32 = 0;
/// Where the copies of what is kept begin, between the first `rt_keep_*` and `rt_free`; else 0.
static mut KEPT: u32 = 0;

/// Bytes that a loop lets pile up before it frees: zeroing them costs less than one call per iteration.
const GARBAGE_BYTES: u32 = 65_536;

struct Arena;

#[global_allocator]
static ARENA: Arena = Arena;

// SAFETY: Wasm has one thread, and NEXT only falls in `rt_free`, behind which nobody looks: blocks in use
// never overlap.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        bump(layout.size() as u32, layout.align() as u32) as *mut u8
    }

    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        self.alloc(layout)
    }

    unsafe fn realloc(&self, old: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let (start, was) = (old as u32, layout.size() as u32);
        // The last block grows in place: text and lists are built at the end of the arena.
        if size as u32 >= was && start.checked_add(was) == Some(NEXT) {
            bump(size as u32 - was, 1);
            return old;
        }
        let new = bump(size as u32, layout.align() as u32) as *mut u8;
        core::ptr::copy_nonoverlapping(old, new, layout.size().min(size));
        new
    }
}

unsafe fn bump(size: u32, align: u32) -> u32 {
    if NEXT == 0 {
        NEXT = rd32(app());
    }
    let start = NEXT.checked_next_multiple_of(align.max(1));
    let Some((start, end)) = start.and_then(|s| Some((s, s.checked_add(size)?))) else {
        wasm32::unreachable()
    };
    let have = wasm32::memory_size(0) as u64 * 65_536;
    if u64::from(end) > have {
        let pages = (u64::from(end) - have).div_ceil(65_536) as usize;
        // Growing by the missing pages at least, by a quarter of what is there at best.
        let eager = pages.max(wasm32::memory_size(0) / 4);
        if wasm32::memory_grow(0, eager) == usize::MAX && wasm32::memory_grow(0, pages) == usize::MAX {
            wasm32::unreachable() // out of memory: the host answers for us
        }
    }
    NEXT = end;
    start
}

/// The app's descriptor. Volatile: the compiler of this library must not see that nobody writes it.
pub(crate) unsafe fn app() -> u32 {
    (&raw const RT_APP).read_volatile()
}

/// Zeroed bytes, aligned to 8.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn rt_alloc(size: u32) -> u32 {
    bump(size, 8)
}

/// Where a loop begins: what is allocated from here on is its own.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_mark() -> u32 {
    bump(0, 8)
}

/// Whether a loop has left enough behind.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_worth_freeing(mark: u32) -> i32 {
    i32::from(NEXT - mark > GARBAGE_BYTES)
}

/// Says where a decimal will be after `rt_free`.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_keep_decimal(at: u32, mark: u32) -> u32 {
    if at < mark { at } else { keep(at, 16, mark) }
}

/// Says where a text or bytes will be after `rt_free`.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_keep_bytes(at: u32, mark: u32) -> u32 {
    if at < mark { at } else { keep(at, rd32(at) + 4, mark) }
}

/// Copies to the end of the arena; the whole of the copies moves to the mark, so each keeps its distance.
unsafe fn keep(at: u32, size: u32, mark: u32) -> u32 {
    if KEPT == 0 {
        KEPT = bump(0, 8);
    }
    let copy = bump(size, 8);
    core::ptr::copy_nonoverlapping(at as *const u8, copy as *mut u8, size as usize);
    mark + (copy - KEPT)
}

/// Gives back everything since the mark but what was kept, which moves to the mark.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_free(mark: u32) {
    let from = if KEPT == 0 { NEXT } else { KEPT };
    let size = NEXT - from;
    core::ptr::copy(from as *const u8, mark as *mut u8, size as usize);
    core::ptr::write_bytes((mark + size) as *mut u8, 0, (NEXT - mark - size) as usize);
    NEXT = mark + size;
    KEPT = 0;
}

pub(crate) unsafe fn rd32(at: u32) -> u32 {
    (at as *const u32).read_unaligned()
}

pub(crate) unsafe fn wr32(at: u32, word: u32) {
    (at as *mut u32).write_unaligned(word)
}

pub(crate) unsafe fn rd64(at: u32) -> i64 {
    (at as *const i64).read_unaligned()
}

pub(crate) unsafe fn wr64(at: u32, word: i64) {
    (at as *mut i64).write_unaligned(word)
}

/// The text at an address; 0 is the empty text.
pub(crate) unsafe fn text(at: u32) -> &'static str {
    core::str::from_utf8_unchecked(bytes(at)) // SAFETY: texts are made by the compiler, `new_text` or checked on entry
}

/// The bytes at an address; 0 is none.
pub(crate) unsafe fn bytes(at: u32) -> &'static [u8] {
    if at == 0 {
        return &[];
    }
    core::slice::from_raw_parts((at + 4) as *const u8, rd32(at) as usize)
}

/// Puts a text into the arena.
pub(crate) unsafe fn new_text(value: &str) -> u32 {
    new_bytes(value.as_bytes())
}

/// Puts bytes into the arena.
pub(crate) unsafe fn new_bytes(value: &[u8]) -> u32 {
    if value.is_empty() {
        return 0;
    }
    {
        let at = bump(value.len() as u32 + 4, 4);
        wr32(at, value.len() as u32);
        core::ptr::copy_nonoverlapping(value.as_ptr(), (at + 4) as *mut u8, value.len());
        at
    }
}

/// The decimal at an address; 0 is zero.
pub(crate) unsafe fn decimal(at: u32) -> i128 {
    if at == 0 { 0 } else { (at as *const i128).read_unaligned() }
}

/// Puts a decimal into the arena.
pub(crate) unsafe fn new_decimal(units: i128) -> u32 {
    if units == 0 {
        return 0;
    }
    {
        let at = bump(16, 8);
        (at as *mut i128).write_unaligned(units);
        at
    }
}
