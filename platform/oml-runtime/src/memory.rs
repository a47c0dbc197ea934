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

/// The end of what is allocated; 0 before anything is.
#[unsafe(no_mangle)]
pub(crate) static mut RT_NEXT: u32 = 0;
/// The end of the room behind the text that was grown last: see [`rt_text_grow`].
#[unsafe(no_mangle)]
pub(crate) static mut RT_ROOM: u32 = 0;

/// The end of the memory there is.
static mut END: u32 = 0;
/// Where the copies of what is kept begin, between the first `rt_keep_*` and `rt_free`; else 0.
static mut KEPT: u32 = 0;

/// Bytes that a loop lets pile up before it frees: zeroing them costs less than one call per iteration. The
/// compiler knows it too.
const GARBAGE_BYTES: u32 = 65_536;
/// Least room of a text that grows, in bytes.
const ROOM_BYTES_MIN: u32 = 60;

struct Arena;

#[global_allocator]
static ARENA: Arena = Arena;

// SAFETY: Wasm has one thread, and RT_NEXT only falls in `rt_free`, behind which nobody looks: blocks in use
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
        if size as u32 >= was && start.checked_add(was) == Some(RT_NEXT) {
            bump(size as u32 - was, 1);
            return old;
        }
        let new = bump(size as u32, layout.align() as u32) as *mut u8;
        core::ptr::copy_nonoverlapping(old, new, layout.size().min(size));
        new
    }
}

/// `align` is a power of two.
#[inline(always)]
unsafe fn bump(size: u32, align: u32) -> u32 {
    let start = (u64::from(RT_NEXT) + u64::from(align - 1)) & !u64::from(align - 1);
    let end = start + u64::from(size);
    if end >= u64::from(END) {
        return bump_to_end(size, align); // also the first time, when both are 0
    }
    RT_NEXT = end as u32;
    start as u32
}

#[cold]
#[inline(never)]
unsafe fn bump_to_end(size: u32, align: u32) -> u32 {
    if RT_NEXT == 0 {
        RT_NEXT = rd32(app());
    }
    let start = RT_NEXT.checked_next_multiple_of(align);
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
    END = (wasm32::memory_size(0) as u64 * 65_536).min(u64::from(u32::MAX)) as u32;
    RT_NEXT = end;
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
pub(crate) unsafe extern "C" fn rt_mark() -> u32 {
    bump(0, 8)
}

/// Whether a loop has left enough behind.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_worth_freeing(mark: u32) -> i32 {
    i32::from(RT_NEXT - mark > GARBAGE_BYTES)
}

/// How far a loop may grow that has just freed: as much garbage as it keeps, so that copying what is kept stays cheap.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_worth(mark: u32) -> u32 {
    RT_NEXT.saturating_add((RT_NEXT - mark).max(GARBAGE_BYTES))
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

/// Says where a text will be after `rt_free` that may have a room, whose end is `room`; the room goes with it.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_keep_grown(at: u32, room: u32, mark: u32) -> u32 {
    if at < mark {
        return at;
    }
    let used = rd32(at) + 4;
    let kept = keep(at, used, mark);
    if room > 0 {
        bump(room - at - used, 1);
    }
    kept
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
pub(crate) unsafe extern "C" fn rt_free(mark: u32) {
    let from = if KEPT == 0 { RT_NEXT } else { KEPT };
    let size = RT_NEXT - from;
    core::ptr::copy(from as *const u8, mark as *mut u8, size as usize);
    core::ptr::write_bytes((mark + size) as *mut u8, 0, (RT_NEXT - mark - size) as usize);
    RT_NEXT = mark + size;
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
        copy(value.as_ptr(), (at + 4) as *mut u8, value.len());
        at
    }
}

/// Room for a text of so many bytes, its length in front included, and with that length.
pub(crate) unsafe fn allocate_text(size: u32) -> u32 {
    let at = bump(size, 4);
    wr32(at, size - 4);
    at
}

/// Copies bytes. Few ones without `memory.copy`, which is a call of the engine.
#[inline(always)]
pub(crate) unsafe fn copy(from: *const u8, to: *mut u8, count: usize) {
    /// Both ends of the bytes as one word each; they overlap in the middle.
    #[inline(always)]
    unsafe fn ends<T>(from: *const u8, to: *mut u8, count: usize) {
        let last = count - size_of::<T>();
        let (first, second) =
            (from.cast::<T>().read_unaligned(), from.add(last).cast::<T>().read_unaligned());
        to.cast::<T>().write_unaligned(first);
        to.add(last).cast::<T>().write_unaligned(second);
    }
    match count {
        0 => {}
        1 => *to = *from,
        2..=3 => ends::<u16>(from, to, count),
        4..=7 => ends::<u32>(from, to, count),
        8..=16 => ends::<u64>(from, to, count),
        17..=32 => {
            let (middle, second) = (from.add(8).cast::<u64>().read_unaligned(), count - 16);
            let other = from.add(second).cast::<u64>().read_unaligned();
            ends::<u64>(from, to, count);
            to.add(8).cast::<u64>().write_unaligned(middle);
            to.add(second).cast::<u64>().write_unaligned(other);
        }
        _ => core::ptr::copy_nonoverlapping(from, to, count),
    }
}

/// Copies slots. Volatile, so that no `memory.copy` is made of it: records are small.
pub(crate) unsafe fn copy_slots(from: u32, to: u32, count: u32) {
    for at in 0..count {
        let slot = (from as *const i64).add(at as usize).read_volatile();
        (to as *mut i64).add(at as usize).write_volatile(slot);
    }
}

/// Joins two pieces to a text, in the room behind it where that is its own; `room` is its end, or 0. The text moves to
/// a larger room when there is none. `RT_ROOM` is the end of the room that it has then.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_text_grow(at: u32, first: u32, second: u32, room: u32) -> u32 {
    grow(at, bytes(first), bytes(second), room)
}

#[inline(always)]
pub(crate) unsafe fn grow(at: u32, first: &[u8], second: &[u8], room: u32) -> u32 {
    RT_ROOM = room;
    let (have, more) = (bytes(at).len() as u32, first.len() as u64 + second.len() as u64);
    let text = if u64::from(at) + 4 + u64::from(have) + more <= u64::from(room) {
        at
    } else if more == 0 {
        return at;
    } else {
        larger(at, have, more)
    };
    let end = (text + 4 + have) as *mut u8;
    copy(first.as_ptr(), end, first.len());
    copy(second.as_ptr(), end.add(first.len()), second.len());
    wr32(text, have + more as u32);
    text
}

#[cold]
#[inline(never)]
unsafe fn larger(at: u32, have: u32, more: u64) -> u32 {
    let room = u32::try_from((u64::from(have) + more) * 2 + 4).ok();
    let room = room.unwrap_or_else(|| wasm32::unreachable()).max(ROOM_BYTES_MIN);
    let text = bump(room, 4);
    core::ptr::copy_nonoverlapping((at + 4) as *const u8, (text + 4) as *mut u8, have as usize);
    RT_ROOM = text + room;
    text
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
