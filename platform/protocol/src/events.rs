//! Events: what happened in an app, told to the apps of its stage that want to know.
//!
//! An event is written into the producer's outbox in the transaction that it belongs to; after the commit a host sends
//! it to the JetStream stream [`STREAM`], where each handler has a durable consumer of its own. Whichever host of the
//! handler's app takes it runs it and acknowledges. What fails comes back later, and lies in [`DEAD_STREAM`] in the end.
//! Invariant: an event is sent at least once if its transaction was committed, and not at all if not.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::ids::AppId;

/// JetStream stream of events that some handler has not taken yet; subjects `events.<app>.<event>`.
pub const STREAM: &str = "events";
/// JetStream stream of events that a handler did not take in all its tries; subjects `dead.<app>.<handler>`.
pub const DEAD_STREAM: &str = "events_dead";
/// Events of one name that may wait, as in ODC: in the stream for its slowest handler, and in an outbox for the stream.
pub const WAITING_MAX: i64 = 10_000;
/// Events of one app that may wait in the stream, of whatever names: less than a quarter of what a stage keeps. More stay in the app's outbox.
pub const APP_WAITING_MAX: usize = 20_000;
/// Largest payload, in bytes, as in ODC.
pub const PAYLOAD_BYTES_MAX: usize = 10_240;
/// Largest message of an event, in bytes: its payload and 1 KiB of headers.
pub const MESSAGE_BYTES_MAX: usize = PAYLOAD_BYTES_MAX + (1 << 10);
/// Events that a handler may have at once, on all hosts together.
pub const HANDLING_MAX: i64 = 100;
/// How long a handler may take, in seconds, as in ODC.
pub const HANDLER_S_MAX: u64 = 120;
/// How long an event is a host's business, in seconds: the wait for an instance, the handler, and some room.
pub const ACK_S_MAX: u64 = 180;
/// How often an event is tried again, as in ODC.
pub const RETRIES_MAX: u32 = 10;
/// The wait before the first retry, in seconds; each is twice the one before, up to [`RETRY_S_MAX`].
pub const RETRY_S: u64 = 120;
/// See [`RETRY_S`].
pub const RETRY_S_MAX: u64 = 32 * 60;

/// What an app does about an event.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventHandler {
    /// Its name, unique in the app.
    pub name: String,
    /// The app whose event it is.
    pub producer: AppId,
    /// The event.
    pub event: String,
}

/// What becomes of an event that a handler did not take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// It comes back.
    Retry(Duration),
    /// It goes to [`DEAD_STREAM`].
    Dead,
}

/// What to do after a try that failed; the first try is number 1. `first` is the wait after it.
pub fn after_failure(tries: u32, first: Duration) -> AfterFailure {
    if tries > RETRIES_MAX {
        return AfterFailure::Dead;
    }
    let longest = first * u32::try_from(RETRY_S_MAX / RETRY_S).unwrap_or(1);
    AfterFailure::Retry(first.saturating_mul(1 << tries.saturating_sub(1)).min(longest))
}

/// Where an event is sent.
pub fn subject(producer: &AppId, event: &str) -> String {
    format!("{STREAM}.{producer}.{event}")
}
/// Where all events of an app are sent.
pub fn subjects(producer: &AppId) -> String {
    format!("{STREAM}.{producer}.>")
}
/// Where an event lies that a handler did not take.
pub fn dead_subject(app: &AppId, handler: &str) -> String {
    format!("dead.{app}.{handler}")
}
/// The durable consumer of a handler.
pub fn consumer(app: &AppId, handler: &str) -> String {
    format!("{app}_{handler}")
}
/// How the names of an app's consumers begin.
pub fn consumers(app: &AppId) -> String {
    format!("{app}_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_comes_back_ten_times_and_then_no_more() {
        let first = Duration::from_secs(RETRY_S);
        let minutes = |tries| match after_failure(tries, first) {
            AfterFailure::Retry(wait) => Some(wait.as_secs() / 60),
            AfterFailure::Dead => None,
        };
        let waits: Vec<_> = (1..=12).map(minutes).collect();
        let expect = [2, 4, 8, 16, 32, 32, 32, 32, 32, 32].map(Some);
        assert_eq!(waits[..10], expect);
        assert_eq!(waits[10..], [None, None]);
    }
}
