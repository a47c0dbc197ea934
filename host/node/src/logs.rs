//! Log lines on their way to the stage's log stream: a bounded queue, batches, and a rate per app.
//!
//! Logging never blocks a guest and never grows: what does not fit is dropped and counted, and an app that is past its
//! rate is told so in its own log, once a second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, Utc};
use odeon_capabilities::log::{Level, Line, Sink};
use odeon_capabilities::per_app::PerApp;
use odeon_protocol::{AppId, HostId, LogLevel, LogLine, Revision, subjects};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Lines waiting on one host.
const QUEUE_MAX: usize = 8_192;
/// The same in bytes.
const QUEUE_BYTES_MAX: usize = 32 << 20;
/// Lines of one batch.
const BATCH_MAX: usize = 100;
/// Size of a message with several lines, in bytes: the stage keeps so many messages of an app. One with a single line may have
/// some more, twice as much when every character of the line is escaped.
const MESSAGE_BYTES_MAX: usize = 8 << 10;
/// How long a batch waits for more lines, in milliseconds.
const BATCH_MS: u64 = 50;
/// Lines of one app in a second.
const RATE_LINES_MAX: u32 = 1_000;
/// The same in bytes, as they are published.
const RATE_BYTES_MAX: usize = 1 << 20;

/// A line as it is published.
pub(crate) struct Encoded {
    app: AppId,
    json: Vec<u8>,
    /// Of the queue's bytes.
    _room: OwnedSemaphorePermit,
}

/// The queue's entrance.
pub(crate) struct Logs {
    sender: mpsc::Sender<Encoded>,
    room: Arc<Semaphore>,
    host: HostId,
    rates: PerApp<Mutex<Rate>>,
    metrics: Arc<Metrics>,
}

impl Logs {
    /// The entrance and the exit of a new queue.
    pub(crate) fn new(host: HostId, metrics: Arc<Metrics>) -> (Arc<Self>, mpsc::Receiver<Encoded>) {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        let room = Arc::new(Semaphore::new(QUEUE_BYTES_MAX));
        (Arc::new(Self { sender, room, host, rates: PerApp::default(), metrics }), receiver)
    }

    fn encode(&self, app: &AppId, revision: Revision, line: Line) -> Vec<u8> {
        let (action, node) = line.origin.map_or((None, None), |(action, node)| (Some(action), Some(node)));
        let line = LogLine {
            time: Utc::now().to_rfc3339_opts(SecondsFormat::Micros, true),
            app: app.clone(),
            revision,
            host: self.host.clone(),
            level: match line.level {
                Level::Debug => LogLevel::Debug,
                Level::Info => LogLevel::Info,
                Level::Warning => LogLevel::Warning,
                Level::Error => LogLevel::Error,
            },
            source: line.source.to_owned(),
            message: line.message,
            request_id: line.request_id,
            error_code: line.error_code.map(str::to_owned),
            action,
            node,
        };
        serde_json::to_vec(&line).expect("log lines have string keys only")
    }

    fn put(&self, app: &AppId, json: Vec<u8>) {
        let room = u32::try_from(json.len())
            .ok()
            .and_then(|bytes| self.room.clone().try_acquire_many_owned(bytes).ok());
        let put =
            room.and_then(|room| self.sender.try_send(Encoded { app: app.clone(), json, _room: room }).ok());
        if put.is_none() {
            self.metrics.log_lines_dropped.inc();
        }
    }
}

/// The log of one revision of an app.
pub(crate) struct AppLog {
    logs: Arc<Logs>,
    app: AppId,
    revision: Revision,
    /// That of all its revisions.
    rate: Arc<Mutex<Rate>>,
}

impl AppLog {
    pub(crate) fn new(logs: Arc<Logs>, app: AppId, revision: Revision) -> Self {
        let rate = logs.rates.of(app.as_str(), || Mutex::new(Rate::new(Instant::now())));
        Self { logs, app, revision, rate }
    }
}

impl Sink for AppLog {
    fn take(&self, line: Line) {
        let request_id = line.request_id.clone();
        let encode = |line| self.logs.encode(&self.app, self.revision, line);
        let mut rate = self.rate.lock().unwrap_or_else(PoisonError::into_inner);
        let verdict = rate.judge(Instant::now(), || encode(line));
        drop(rate);
        let is_first = match verdict {
            Verdict::Keep(json) => return self.logs.put(&self.app, json),
            Verdict::Drop { is_first } => is_first,
        };
        self.logs.metrics.log_lines_dropped.inc();
        if is_first {
            let message = format!(
                "lines are dropped: in a second, an app may log {RATE_LINES_MAX} lines and {RATE_BYTES_MAX} bytes on a host"
            );
            let (level, source) = (Level::Warning, "host");
            let told = Line { level, source, message, request_id, error_code: None, origin: None };
            self.logs.put(&self.app, encode(told));
        }
    }
}

/// What was logged in the second that runs.
struct Rate {
    since: Instant,
    lines: u32,
    bytes: usize,
    dropped: bool,
}

#[derive(Debug, PartialEq, Eq)]
enum Verdict {
    Keep(Vec<u8>),
    /// `is_first`: of its second.
    Drop {
        is_first: bool,
    },
}

impl Rate {
    fn new(since: Instant) -> Self {
        Self { since, lines: 0, bytes: 0, dropped: false }
    }

    /// What becomes of a line, which is encoded only while the second has room for some.
    fn judge(&mut self, now: Instant, encode: impl FnOnce() -> Vec<u8>) -> Verdict {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        if !self.dropped && self.lines < RATE_LINES_MAX {
            let json = encode();
            if self.bytes + json.len() <= RATE_BYTES_MAX {
                self.lines += 1;
                self.bytes += json.len();
                return Verdict::Keep(json);
            }
        }
        Verdict::Drop { is_first: !std::mem::replace(&mut self.dropped, true) }
    }
}

/// Publishes lines until it is told that the last one was written, and publishes that, too.
pub(crate) async fn publish(
    client: async_nats::Client,
    host: HostId,
    mut lines: mpsc::Receiver<Encoded>,
    last: CancellationToken,
) {
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            got = lines.recv_many(&mut batch, BATCH_MAX) => {
                if got == 0 {
                    return;
                }
            }
            () = last.cancelled(), if !lines.is_closed() => {
                lines.close(); // what is in it still comes
                continue;
            }
        }
        if batch.len() < BATCH_MAX && !last.is_cancelled() {
            tokio::time::sleep(Duration::from_millis(BATCH_MS)).await;
            while batch.len() < BATCH_MAX {
                let Ok(line) = lines.try_recv() else { break };
                batch.push(line);
            }
        }
        let mut by_app: BTreeMap<AppId, Vec<Vec<u8>>> = BTreeMap::new();
        for Encoded { app, json, .. } in batch.drain(..) {
            by_app.entry(app).or_default().push(json);
        }
        for (app, lines) in by_app {
            for payload in payloads(lines) {
                if let Err(error) = client.publish(subjects::logs(&app, &host), payload.into()).await {
                    tracing::warn!("log lines were not published: {error}");
                }
            }
        }
    }
}

/// Messages with these lines, each as a JSON array.
fn payloads(lines: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    for line in lines {
        match payloads.last_mut().filter(|last| last.len() + line.len() + 2 <= MESSAGE_BYTES_MAX) {
            Some(last) => {
                last.push(b',');
                last.extend(line);
            }
            None => payloads.push([b"[".as_slice(), &line].concat()),
        }
    }
    payloads.iter_mut().for_each(|payload| payload.push(b']'));
    payloads
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_lines_share_a_message_and_a_large_one_has_its_own() {
        let payloads_of = |line: &str| {
            let payloads = payloads(vec![serde_json::to_vec(line).unwrap(); BATCH_MAX]);
            let read = payloads.iter().flat_map(|all| serde_json::from_slice::<Vec<String>>(all).unwrap());
            assert_eq!(read.filter(|read| read == line).count(), BATCH_MAX);
            payloads
        };
        let small = payloads_of(&"x".repeat(500));
        assert!(small.len() == 7 && small.iter().all(|payload| payload.len() <= MESSAGE_BYTES_MAX));
        assert_eq!(payloads_of(&"\"".repeat(8 << 10)).len(), BATCH_MAX);
    }

    #[test]
    fn a_second_has_so_many_lines_and_bytes_and_the_first_that_is_dropped_is_told() {
        let begin = Instant::now();
        for (bytes, kept) in [(0, RATE_LINES_MAX), (8 << 10, 128)] {
            let mut rate = Rate::new(begin);
            let line = || vec![b'x'; bytes];
            for _ in 0..kept {
                assert_eq!(rate.judge(begin, line), Verdict::Keep(line()));
            }
            assert_eq!(rate.judge(begin, line), Verdict::Drop { is_first: true });
            assert_eq!(rate.judge(begin, || panic!("encoded")), Verdict::Drop { is_first: false });
            let next = begin + Duration::from_secs(1);
            assert_eq!(rate.judge(next, line), Verdict::Keep(line()), "another second");
        }
    }
}
