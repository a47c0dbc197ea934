//! Lists: the words (length, capacity, address of slots), and what moves slots.
//!
//! Invariant: an element is held by one list only, so what is put into a second one is a copy.

use alloc::vec::Vec;
use core::cmp::Ordering;

use crate::exceptions::raise;
use crate::fold;
use crate::memory::{bytes, decimal, rd32, rd64, rt_alloc, rt_free, rt_mark, text, wr32, wr64};
use crate::values::*;

/// In a key to sort by: the element itself, not an attribute of it. The compiler knows it too.
const WHOLE: u32 = u32::MAX;

/// An empty list.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn rt_new_list() -> u32 {
    rt_alloc(12)
}

pub(crate) unsafe fn list_len(list: u32) -> u32 {
    if list == 0 { 0 } else { rd32(list) }
}

/// How many elements a list has.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_list_len(list: u32) -> i32 {
    list_len(list) as i32
}

/// Says that there is no such element.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_out_of_range(index: i32) {
    out_of_range(index);
}

/// The slot of an element; past the end an exception, and the slot of nothing.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_list_slot(list: u32, index: i32) -> u32 {
    if index >= 0 && (index as u32) < list_len(list) {
        return rd32(list + 8) + index as u32 * 8;
    }
    out_of_range(index)
}

/// Appends a slot and returns it.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn rt_list_append(list: u32) -> u32 {
    let len = rd32(list);
    if len == rd32(list + 4) {
        reserve(list, (len * 2).max(8));
    }
    wr32(list, len + 1);
    rd32(list + 8) + len * 8
}

/// Makes a slot in front of an element, or at the end, and returns it.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_list_insert(list: u32, at: i32) -> u32 {
    let len = rd32(list);
    if at < 0 || at as u32 > len {
        return out_of_range(at);
    }
    rt_list_append(list);
    let slot = rd32(list + 8) + at as u32 * 8;
    core::ptr::copy(slot as *const u64, (slot + 8) as *mut u64, len as usize - at as usize);
    slot
}

/// Takes an element out.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_list_remove(list: u32, at: i32) {
    let len = rd32(list);
    if at < 0 || at as u32 >= len {
        out_of_range(at);
        return;
    }
    let slot = rd32(list + 8) + at as u32 * 8;
    core::ptr::copy((slot + 8) as *const u64, slot as *mut u64, (len - at as u32 - 1) as usize);
    wr32(list, len - 1);
}

/// Takes every element out.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_list_clear(list: u32) {
    wr32(list, 0);
}

/// Appends copies of all elements of another list, which may be the same.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_list_append_all(list: u32, other: u32, desc: u32) {
    let count = list_len(other);
    reserve(list, list_len(list).checked_add(count).unwrap_or_else(|| core::arch::wasm32::unreachable()));
    for index in 0..count {
        copy_slot(rd32(other + 8) + index * 8, rt_list_append(list), element(desc));
    }
}

/// Sorts, equal elements in their order. `keys` are a count, then per key an attribute or `WHOLE`, and 1 when
/// large ones come first.
///
/// What the elements are sorted by first is read once per element, into two words that compare as it does, or as the
/// beginning of it; only where they are equal are the elements looked at. They are given back at once.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_list_sort(list: u32, desc: u32, keys: u32) {
    let (of, count) = (element(desc), rd32(keys));
    let key = |key: u32| {
        let (attribute, descending) = (rd32(keys + 4 + key * 8), rd32(keys + 8 + key * 8) != 0);
        let of = if attribute == WHOLE { of } else { field(of, attribute).desc };
        (attribute, of, descending)
    };
    let value = |word: i64, attribute: u32| {
        if attribute == WHOLE { word } else { rd64(word as u32 + attribute * 8) }
    };
    let mark = rt_mark();
    let (attribute, first, descending) = key(0);
    let is_said = is_all_said(first);
    let mut ordered: Vec<(Beginning, i64)> = Vec::with_capacity(list_len(list) as usize);
    for word in slots(list).iter() {
        let (first, second) = beginning(value(*word, attribute), first);
        ordered.push((if descending { (!first, !second) } else { (first, second) }, *word));
    }
    ordered.sort_by(|(a_begins, a), (b_begins, b)| {
        a_begins.cmp(b_begins).then_with(|| {
            (u32::from(is_said)..count)
                .map(|at| {
                    let (attribute, of, descending) = key(at);
                    let order = compare(value(*a, attribute), value(*b, attribute), of);
                    if descending { order.reverse() } else { order }
                })
                .find(|order| order.is_ne())
                .unwrap_or(Ordering::Equal)
        })
    });
    for (slot, (_, word)) in slots(list).iter_mut().zip(&ordered) {
        *slot = *word;
    }
    drop(ordered);
    rt_free(mark);
}

/// How a value begins: not more than a larger value does.
type Beginning = (u64, u64);

/// Whether `beginning` says all of a value.
unsafe fn is_all_said(desc: u32) -> bool {
    !matches!(kind(desc), TEXT | EMAIL | PHONE | BINARY | RECORD | LIST)
}

unsafe fn beginning(word: i64, desc: u32) -> Beginning {
    let ordered = |number: i64| number.cast_unsigned() ^ (1 << 63);
    match kind(desc) {
        BOOLEAN | INTEGER | DATE => (ordered(i64::from(word as i32)), 0),
        DECIMAL => {
            let units = decimal(word as u32);
            (ordered((units >> 64) as i64), units as u64)
        }
        TEXT | EMAIL | PHONE => fold::beginning(text(word as u32)),
        BINARY | RECORD | LIST => (0, 0),
        _ => (ordered(word), 0),
    }
}

/// A copy without elements that equal one before them.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_list_distinct(list: u32, desc: u32) -> u32 {
    let (of, found) = (element(desc), slots(list));
    let mut order: Vec<usize> = (0..found.len()).collect();
    order.sort_by(|a, b| compare(found[*a], found[*b], of));
    // Sorting is stable, so the first of equal ones is the first of the list.
    order.dedup_by(|later, first| compare(found[*later], found[*first], of).is_eq());
    order.sort_unstable();
    let copy = rt_new_list();
    reserve(copy, order.len() as u32);
    for index in order {
        copy_slot(rd32(list + 8) + index as u32 * 8, rt_list_append(copy), of);
    }
    copy
}

/// Where a loop begins that is told to begin before the first element.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_not_negative(index: i32) -> i32 {
    index.max(0)
}

/// Where a loop over at most `max` elements ends; 0 is no limit.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_limit(index: i32, count: i32, max: i32) -> i32 {
    if max > 0 { index.saturating_add(max).min(count) } else { count }
}

/// How two records compare; 0 is equal.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_record_cmp(a: u32, b: u32, desc: u32) -> i32 {
    compare(i64::from(a), i64::from(b), desc) as i32
}

/// How the words of two slots compare: records by their attributes, lists by their elements, in order.
unsafe fn compare(a: i64, b: i64, desc: u32) -> Ordering {
    let (low, other) = (a as u32, b as u32);
    match kind(desc) {
        BOOLEAN | INTEGER | DATE => (a as i32).cmp(&(b as i32)),
        DECIMAL => decimal(low).cmp(&decimal(other)),
        TEXT | EMAIL | PHONE => fold::compare(text(low), text(other)),
        BINARY => bytes(low).cmp(bytes(other)),
        RECORD => (0..field_count(desc))
            .map(|i| compare(rd64(low + i * 8), rd64(other + i * 8), field(desc, i).desc))
            .find(|order| order.is_ne())
            .unwrap_or(Ordering::Equal),
        LIST => {
            let (a, b, of) = (slots(low), slots(other), element(desc));
            let differ = a.iter().zip(b.iter()).map(|(a, b)| compare(*a, *b, of)).find(|order| order.is_ne());
            differ.unwrap_or(a.len().cmp(&b.len()))
        }
        _ => a.cmp(&b),
    }
}

/// Copies an element of a type from one slot to another.
pub(crate) unsafe fn copy_slot(from: u32, to: u32, desc: u32) {
    match kind(desc) {
        RECORD | LIST => wr32(to, rt_copy(rd32(from), desc)),
        _ => wr64(to, rd64(from)),
    }
}

/// Makes room for so many elements, so that adding them allocates nothing.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_list_reserve(list: u32, capacity: u32) {
    reserve(list, capacity);
}

/// Makes room for so many elements.
pub(crate) unsafe fn reserve(list: u32, capacity: u32) {
    if capacity <= rd32(list + 4) {
        return;
    }
    let slots = rt_alloc(capacity.checked_mul(8).unwrap_or_else(|| core::arch::wasm32::unreachable()));
    core::ptr::copy_nonoverlapping(rd32(list + 8) as *const u8, slots as *mut u8, rd32(list) as usize * 8);
    wr32(list + 4, capacity);
    wr32(list + 8, slots);
}

unsafe fn slots(list: u32) -> &'static mut [i64] {
    match list_len(list) {
        0 => &mut [],
        len => core::slice::from_raw_parts_mut(rd32(list + 8) as *mut i64, len as usize),
    }
}

#[cold]
#[inline(never)]
unsafe fn out_of_range(index: i32) -> u32 {
    raise(500, &alloc::format!("Index {index} is out of range"));
    rt_alloc(8)
}
