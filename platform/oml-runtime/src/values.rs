//! The layout of values, and the type descriptors that say it.
//!
//! Every value has a slot of 8 bytes: a number, or the address of something in the arena. A
//! descriptor is a row of words in the app's data: its kind, then for a record the count of fields
//! and whether it is flat, the address of its default slots and (name, descriptor, flags, name as a key in JSON) per field, and for a list the
//! descriptor of its elements.
//! Invariant: a record is as deep as its type, which the compiler has checked to end.

use crate::lists::{copy_slot, list_len, reserve, rt_list_append, rt_new_list};
use crate::memory::{copy_slots, rd32, rd64, rt_alloc, wr32, wr64};

pub(crate) const BOOLEAN: u32 = 0;
pub(crate) const INTEGER: u32 = 1;
pub(crate) const LONG: u32 = 2;
pub(crate) const DECIMAL: u32 = 3;
pub(crate) const TEXT: u32 = 4;
pub(crate) const DATE: u32 = 5;
pub(crate) const TIME: u32 = 6;
pub(crate) const DATE_TIME: u32 = 7;
pub(crate) const BINARY: u32 = 8;
pub(crate) const RECORD: u32 = 9;
pub(crate) const LIST: u32 = 10;
pub(crate) const IDENTIFIER: u32 = 11;
pub(crate) const EMAIL: u32 = 12;
pub(crate) const PHONE: u32 = 13;

/// The field must be there and not be null in JSON, and not be empty in a row that is written.
pub(crate) const FIELD_MANDATORY: u32 = 1;

/// Beside the count of a record's fields: none of them is a record or a list. The compiler knows it too.
const FLAT: u32 = 1 << 31;

/// One field of a record's descriptor.
pub(crate) struct Field {
    pub(crate) name: u32,
    pub(crate) desc: u32,
    pub(crate) flags: u32,
    /// The name as JSON has it, with quotes and the colon.
    pub(crate) key: u32,
}

impl Field {
    pub(crate) fn is_mandatory(&self) -> bool {
        self.flags & FIELD_MANDATORY != 0
    }

    /// Most characters of a text, where there is a limit: all bits but the first.
    pub(crate) fn characters_max(&self) -> Option<u32> {
        Some(self.flags >> 1).filter(|most| *most > 0)
    }
}

pub(crate) unsafe fn kind(desc: u32) -> u32 {
    rd32(desc)
}

pub(crate) unsafe fn field_count(desc: u32) -> u32 {
    rd32(desc + 4) & !FLAT
}

unsafe fn is_flat(desc: u32) -> bool {
    rd32(desc + 4) & FLAT != 0
}

pub(crate) unsafe fn field(desc: u32, index: u32) -> Field {
    let at = desc + 12 + index * 16;
    Field { name: rd32(at), desc: rd32(at + 4), flags: rd32(at + 8), key: rd32(at + 12) }
}

pub(crate) unsafe fn element(desc: u32) -> u32 {
    rd32(desc + 4)
}

/// Writes the default of a type into a slot; what the slot's template says has been written before.
unsafe fn deepen(slot: u32, desc: u32) {
    match kind(desc) {
        RECORD => wr32(slot, rt_new_record(desc)),
        LIST => wr32(slot, rt_new_list()),
        _ => {}
    }
}

/// Writes the default of a type into a slot.
pub(crate) unsafe fn write_default(slot: u32, desc: u32) {
    match kind(desc) {
        DATE => wr64(slot, i64::from(crate::calendar::DATE_DEFAULT)),
        DATE_TIME => wr64(slot, i64::from(crate::calendar::DATE_DEFAULT) * crate::calendar::DAY_US),
        RECORD | LIST => deepen(slot, desc),
        _ => wr64(slot, 0),
    }
}

/// Whether the word of a slot is the default of its type.
pub(crate) unsafe fn is_default(word: i64, desc: u32) -> bool {
    match kind(desc) {
        BOOLEAN | INTEGER | DECIMAL | TEXT | EMAIL | PHONE | BINARY => word as u32 == 0,
        DATE => word as i32 == crate::calendar::DATE_DEFAULT,
        DATE_TIME => word == i64::from(crate::calendar::DATE_DEFAULT) * crate::calendar::DAY_US,
        RECORD => (0..field_count(desc)).all(|i| is_default(rd64(word as u32 + i * 8), field(desc, i).desc)),
        LIST => list_len(word as u32) == 0,
        _ => word == 0,
    }
}

/// A record with its defaults.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn rt_new_record(desc: u32) -> u32 {
    let at = rt_alloc(field_count(desc) * 8);
    fill_record(at, desc);
    at
}

/// Writes the defaults of a record to where it is.
pub(crate) unsafe fn fill_record(at: u32, desc: u32) {
    let count = field_count(desc);
    copy_slots(rd32(desc + 8), at, count);
    if is_flat(desc) {
        return;
    }
    for index in 0..count {
        deepen(at + index * 8, field(desc, index).desc);
    }
}

/// A deep copy: records and lists are values.
#[unsafe(no_mangle)]
pub(crate) unsafe extern "C" fn rt_copy(from: u32, desc: u32) -> u32 {
    match kind(desc) {
        RECORD => {
            let count = field_count(desc);
            let at = rt_alloc(count * 8);
            if is_flat(desc) {
                copy_slots(from, at, count);
                return at;
            }
            for index in 0..count {
                copy_slot(from + index * 8, at + index * 8, field(desc, index).desc);
            }
            at
        }
        LIST => {
            let list = rt_new_list();
            let count = list_len(from);
            reserve(list, count);
            for index in 0..count {
                copy_slot(rd32(from + 8) + index * 8, rt_list_append(list), element(desc));
            }
            list
        }
        _ => from,
    }
}

/// A copy of a record that is flat.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_copy_flat(from: u32, bytes: u32) -> u32 {
    let at = rt_alloc(bytes);
    copy_slots(from, at, bytes / 8);
    at
}
