//! Log lines on their way to the stage's log stream: a bounded queue, batches, and a rate per app.
//!
//! Logging never blocks a guest and never grows: what does not fit is dropped, counted, and the app is told
//! in its own log how much.

use std::collections::{BTreeMap, HashMap};
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
/// How long a batch waits for more lines, in milliseconds.
const BATCH_MS: u64 = 50;
/// Lines of one app per second.
const RATE_MAX: u32 = 1_000;

/// The queue's entrance.
pub(crate) struct Logs {
    sender: mpsc::Sender<LogLine>,
    rates: Mutex<HashMap<AppId, Rate>>,
    host: HostId,
    metrics: Arc<Metrics>,
}

struct Rate {
    since: Instant,
    lines: u32,
}

impl Logs {
    /// The entrance and the exit of a new queue.
    pub(crate) fn new(host: HostId, metrics: Arc<Metrics>) -> (Arc<Self>, mpsc::Receiver<LogLine>) {
        let (sender, receiver) = mpsc::channel(QUEUE_MAX);
        (Arc::new(Self { sender, rates: Mutex::default(), host, metrics }), receiver)
    }

    fn take(&self, app: &AppId, revision: Revision, line: Line) {
        if !self.within_rate(app) {
            self.metrics.log_lines_dropped.inc();
            return;
        }
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

    fn within_rate(&self, app: &AppId) -> bool {
        let mut rates = self.rates.lock().unwrap_or_else(PoisonError::into_inner);
        let rate = rates.entry(app.clone()).or_insert_with(|| Rate { since: Instant::now(), lines: 0 });
        if rate.since.elapsed() > Duration::from_secs(1) {
            *rate = Rate { since: Instant::now(), lines: 0 };
        }
        rate.lines += 1;
        rate.lines <= RATE_MAX
    }
}

/// The log of one revision of an app.
pub(crate) struct AppLog {
    pub(crate) logs: Arc<Logs>,
    pub(crate) app: AppId,
    pub(crate) revision: Revision,
}

impl Sink for AppLog {
    fn take(&self, line: Line) {
        self.logs.take(&self.app, self.revision, line);
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
            let payload = serde_json::to_vec(&lines).expect("log lines have string keys only");
            if let Err(error) = client.publish(subjects::logs(&app, &host), payload.into()).await {
                tracing::warn!("log lines were not published: {error}");
            }
        }
    }
}
