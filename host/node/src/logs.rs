//! Log lines on their way to the stage's log stream: a bounded queue, batches, and a rate per app.
//!
//! Logging never blocks a guest and never grows: what does not fit is dropped and counted, and an app that is past its
//! rate is told so in its own log, once a second.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chrono::{SecondsFormat, Utc};
use odeon_capabilities::log::{Level, Line, Sink};
use odeon_protocol::{AppId, HostId, LogLevel, LogLine, Revision, subjects};
use tokio::sync::mpsc;

use crate::metrics::Metrics;

/// Lines waiting on one host.
const QUEUE_MAX: usize = 8_192;
/// Lines of one batch.
const BATCH_MAX: usize = 100;
/// Size of a message with several lines, in bytes: the stage keeps so many messages of an app. One with a single line may have up to six
/// times as many bytes as the line, because characters are escaped.
const MESSAGE_BYTES_MAX: usize = 16 << 10;
/// How long a batch waits for more lines, in milliseconds.
const BATCH_MS: u64 = 50;
/// Lines of one app in a second.
const RATE_LINES_MAX: u32 = 1_000;
/// The same in bytes: many long lines would drive those of other apps out of the stage's log.
const RATE_BYTES_MAX: usize = 1 << 20;

/// The queue's entrance.
pub(crate) struct Logs {
    sender: mpsc::Sender<LogLine>,
    host: HostId,
    metrics: Arc<Metrics>,
}

impl Logs {
    /// The entrance and the exit of a new queue.
    pub(crate) fn new(host: HostId, metrics: Arc<Metrics>) -> (Arc<Self>, mpsc::Receiver<LogLine>) {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        (Arc::new(Self { sender, host, metrics }), receiver)
    }

    fn take(&self, app: &AppId, revision: Revision, line: Line) {
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
        if self.sender.try_send(line).is_err() {
            self.metrics.log_lines_dropped.inc();
        }
    }
}

/// The log of one revision of an app.
pub(crate) struct AppLog {
    logs: Arc<Logs>,
    app: AppId,
    revision: Revision,
    rate: Mutex<Rate>,
}

impl AppLog {
    pub(crate) fn new(logs: Arc<Logs>, app: AppId, revision: Revision) -> Self {
        Self { logs, app, revision, rate: Mutex::new(Rate::new(Instant::now())) }
    }
}

impl Sink for AppLog {
    fn take(&self, line: Line) {
        let verdict = self.rate.lock().unwrap_or_else(PoisonError::into_inner).judge(&line, Instant::now());
        let line = match verdict {
            Verdict::Keep => line,
            Verdict::Drop { is_first } => {
                self.logs.metrics.log_lines_dropped.inc();
                if !is_first {
                    return;
                }
                Line {
                    level: Level::Warning,
                    source: "host",
                    message: format!(
                        "lines are dropped: in a second, an app may log {RATE_LINES_MAX} lines and {RATE_BYTES_MAX} bytes on a host"
                    ),
                    error_code: None,
                    origin: None,
                    ..line
                }
            }
        };
        self.logs.take(&self.app, self.revision, line);
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
    Keep,
    /// `is_first`: of its second.
    Drop {
        is_first: bool,
    },
}

impl Rate {
    fn new(since: Instant) -> Self {
        Self { since, lines: 0, bytes: 0, dropped: false }
    }

    fn judge(&mut self, line: &Line, now: Instant) -> Verdict {
        if now.saturating_duration_since(self.since) >= Duration::from_secs(1) {
            *self = Self::new(now);
        }
        let (lines, bytes) = (self.lines + 1, self.bytes + line.bytes());
        if lines <= RATE_LINES_MAX && bytes <= RATE_BYTES_MAX {
            (self.lines, self.bytes) = (lines, bytes);
            return Verdict::Keep;
        }
        Verdict::Drop { is_first: !std::mem::replace(&mut self.dropped, true) }
    }
}

/// Publishes lines until the queue is closed.
pub(crate) async fn publish(client: async_nats::Client, host: HostId, mut lines: mpsc::Receiver<LogLine>) {
    let mut batch = Vec::new();
    while lines.recv_many(&mut batch, BATCH_MAX).await > 0 {
        if batch.len() < BATCH_MAX {
            tokio::time::sleep(Duration::from_millis(BATCH_MS)).await;
            while batch.len() < BATCH_MAX {
                let Ok(line) = lines.try_recv() else { break };
                batch.push(line);
            }
        }
        let mut by_app: BTreeMap<AppId, Vec<LogLine>> = BTreeMap::new();
        for line in batch.drain(..) {
            by_app.entry(line.app.clone()).or_default().push(line);
        }
        for (app, lines) in by_app {
            for payload in payloads(&lines) {
                if let Err(error) = client.publish(subjects::logs(&app, &host), payload.into()).await {
                    tracing::warn!("log lines were not published: {error}");
                }
            }
        }
    }
}

/// Messages with these lines, each as a JSON array.
fn payloads(lines: &[LogLine]) -> Vec<Vec<u8>> {
    let mut payloads: Vec<Vec<u8>> = Vec::new();
    for line in lines {
        let line = serde_json::to_vec(line).expect("log lines have string keys only");
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

    fn line(bytes: usize) -> Line {
        let (message, request_id) = ("x".repeat(bytes), String::new());
        Line { level: Level::Info, source: "stdout", message, request_id, error_code: None, origin: None }
    }

    #[test]
    fn small_lines_share_a_message_and_a_large_one_has_its_own() {
        const SERVER_BYTES_MAX: usize = 1 << 20; // that nats-server takes
        let line = |message: String| LogLine {
            time: String::new(),
            app: "0190d5d2-0000-7000-8000-000000000001".parse().unwrap(),
            revision: Revision(1),
            host: "h".parse().unwrap(),
            level: LogLevel::Info,
            source: "stdout".to_owned(),
            message,
            request_id: String::new(),
            error_code: None,
            action: None,
            node: None,
        };
        let payloads_of = |message: String| {
            let lines = vec![line(message); BATCH_MAX];
            let payloads = payloads(&lines);
            let read =
                payloads.iter().flat_map(|payload| serde_json::from_slice::<Vec<LogLine>>(payload).unwrap());
            assert_eq!(read.count(), lines.len());
            payloads
        };
        let small = payloads_of("a line".to_owned());
        assert!(small.len() < 3 && small.iter().all(|payload| payload.len() <= MESSAGE_BYTES_MAX));
        let escaped = payloads_of("\u{1}".repeat(8 << 10));
        assert!(escaped.len() == BATCH_MAX && escaped.iter().all(|payload| payload.len() < SERVER_BYTES_MAX));
    }

    #[test]
    fn a_second_has_so_many_lines_and_bytes_and_the_first_that_is_dropped_is_told() {
        let begin = Instant::now();
        for (bytes, kept) in [(0, RATE_LINES_MAX), (8 << 10, 128)] {
            let mut rate = Rate::new(begin);
            let line = line(bytes);
            for _ in 0..kept {
                assert_eq!(rate.judge(&line, begin), Verdict::Keep);
            }
            assert_eq!(rate.judge(&line, begin), Verdict::Drop { is_first: true });
            assert_eq!(rate.judge(&line, begin), Verdict::Drop { is_first: false });
            let next = begin + Duration::from_secs(1);
            assert_eq!(rate.judge(&line, next), Verdict::Keep, "another second");
        }
    }
}
