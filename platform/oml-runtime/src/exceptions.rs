//! Exceptions: raised, looked at by generated code, taken by a handler or answered with.
//!
//! What fails writes the exception and sets `RT_PENDING`; generated code looks at that word after every call
//! that may fail, and goes to the innermost handlers. Kinds are numbers, so that a handler takes a range of
//! them: the compiler has the tree. Built-in functions never fail: bad input gives the default.
//! Invariant: the first exception stays until it is taken; what follows on the way out does not replace it.

use alloc::string::String;

use crate::bindings::odeon::log::logging::{self, Level, Origin};
use crate::memory::{RT_NODE, RT_PENDING, new_text, rd32, text};
use crate::sql;

/// What no handler but All takes: overflow, an index out of range, text that is no JSON.
const UNNAMED: u32 = 1;
/// A statement failed. The compiler knows the number too.
pub(crate) const DATABASE: u32 = 4;
/// Somebody else could not be reached. The compiler knows the number too.
pub(crate) const COMMUNICATION: u32 = 5;
/// Security and its children, then User and its own: what other apps may see. The compiler has the tree.
const SECURITY: u32 = 8;
const USER: u32 = 16;
/// Says the kind of an exception that ended a service action to the app that called it.
pub(crate) const KIND_HEADER: &str = "odeon-exception";
/// Calls of actions inside one another, where they may be endless. The host gives a guest 512 KiB of stack.
const CALL_DEPTH_MAX: u32 = 250;

struct Exception {
    kind: u32,
    status: u32,
    message: String,
}

static mut EXCEPTION: Exception = Exception { kind: 0, status: 0, message: String::new() };
static mut DEPTH: u32 = 0;

/// Raises what has no name in the language, unless something was raised before.
pub(crate) fn raise(status: u32, message: &str) {
    raise_as(UNNAMED, status, message);
}

/// Raises an exception of a kind, unless something was raised before.
pub(crate) fn raise_as(kind: u32, status: u32, message: &str) {
    // SAFETY: one thread.
    unsafe {
        if RT_PENDING == 0 {
            RT_PENDING = 1;
            EXCEPTION = Exception { kind, status, message: String::from(message) };
        }
    }
}

/// The kind of the exception on its way, as other apps know it. They know nothing of the app's own, and of what is
/// not User or Security only that the action ran and failed.
pub(crate) unsafe fn kind_for_others() -> u32 {
    match EXCEPTION.kind {
        kind if kind >= SECURITY => kind.min(USER),
        _ => UNNAMED,
    }
}

/// Raises what an action of another app ended with, as far as it says.
pub(crate) fn raise_of_other(kind: u32, status: u32, action: &str, said: &str) {
    match kind {
        kind if kind >= SECURITY => raise_as(kind.min(USER), status, said),
        _ => raise(500, &alloc::format!("{action} failed: {said}")),
    }
}

/// Takes the exception off its way: status and message. Parameters that were bound for a statement which was
/// never sent go with it.
pub(crate) fn take() -> (u32, String) {
    sql::forget_params();
    let exception = &raw mut EXCEPTION;
    // SAFETY: one thread, and `raise_as` keeps no reference.
    unsafe {
        RT_PENDING = 0;
        ((*exception).status, core::mem::take(&mut (*exception).message))
    }
}

/// Writes an exception to the log, with the action and node that ran.
pub(crate) fn report(status: u32, message: &str) {
    // A refusal that the app raised itself is its normal business; the rest needs its owner.
    write(if status < 500 { Level::Warning } else { Level::Error }, message);
}

fn write(level: Level, message: &str) {
    // SAFETY: the word is 0 or the address of two texts that the compiler has written.
    let (action, node) = unsafe {
        match RT_NODE {
            0 => ("", ""),
            at => (text(rd32(at)), text(rd32(at + 4))),
        }
    };
    logging::log(level, message, &Origin { action: action.into(), node: node.into() });
}

#[unsafe(no_mangle)]
unsafe extern "C" fn rt_raise(message: u32, status: u32, kind: u32) {
    raise_as(kind, status, text(message));
}

/// Whether the exception on its way is one of a range.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_raised(first: u32, last: u32) -> i32 {
    let kind = EXCEPTION.kind;
    i32::from(first <= kind && kind <= last)
}

/// Takes the exception for a handler, and gives its message.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_catch(abort: u32, log: u32) -> u32 {
    let (status, message) = take();
    if log != 0 {
        report(status, &message);
    }
    if abort != 0 {
        sql::rollback();
    } else {
        sql::abandon_cursors();
    }
    new_text(&message)
}

/// An action begins that may call itself.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_enter() {
    DEPTH += 1;
    if DEPTH > CALL_DEPTH_MAX {
        raise(500, &alloc::format!("Actions call one another more than {CALL_DEPTH_MAX} levels deep"));
    }
}

/// An action that may call itself has ended.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_leave() {
    DEPTH -= 1;
}

/// Writes a line to the app's log. Levels are those of `odeon:log`.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_log(message: u32, level: u32) {
    let level = match level {
        1 => Level::Info,
        2 => Level::Warning,
        _ => Level::Error,
    };
    write(level, text(message));
}
