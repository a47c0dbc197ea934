//! Events: triggering them. What handles them is a request like any other, see [`crate::http`].

use alloc::format;
use alloc::string::String;

use crate::bindings::odeon::events::publisher::{self, Error};
use crate::bindings::odeon::sql::session;
use crate::exceptions::raise;
use crate::json;
use crate::memory::text;
use crate::sql;

/// What keeps the host from undoing an event alone.
impl From<session::Error> for Error {
    fn from(error: session::Error) -> Error {
        let (what, detail) = sql::said(&error);
        Error::Unavailable(format!("{what}: {detail}"))
    }
}

/// Writes an event down, with a record as its payload; it is sent when the transaction is committed.
#[unsafe(no_mangle)]
unsafe extern "C" fn rt_trigger(event: u32, payload: u32, desc: u32) {
    let mut body = String::new();
    json::write(&mut body, i64::from(payload), desc, true);
    let name = text(event);
    let publish = || publisher::publish(name, &body);
    // It is a row of the outbox, in the transaction.
    match if sql::is_guarded(true) { sql::alone(publish) } else { publish() } {
        Ok(()) => {}
        Err(Error::Full) => raise(503, &format!("The event {name}: too many wait to be sent")),
        Err(Error::Invalid(why)) => raise(500, &format!("The event {name}: {why}")),
        Err(Error::Unavailable(why)) => raise(503, &format!("The event {name}: {why}")),
    }
}
