//! `/api/monitoring/v1/logs`: an app's newest log lines as newline-delimited JSON, and those that come after them.
//!
//! A stage keeps lines in the order in which they came, and is read from the beginning: the newest are those that are left at the end. What it
//! keeps of an app is bounded, and so is what is left of that here. An answer that cannot be finished breaks off, so that nobody takes a part of it for all.
//! One that is followed ends with the token that it was asked with, and does not hold up a Platform that stops.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use async_nats::jetstream::message::Message;
use axum::body::Body;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use odeon_protocol::{LogLine, StageName, subjects};
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::warn;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::Platform;
use crate::api::ApiError;
use crate::api::extract::Query;
use crate::assets;
use crate::identity::{self, Caller, Scope};
use crate::nats::stage::Stage;

/// Lines on their way to one slow reader.
const LINES_WAITING_MAX: usize = 256;
/// Lines that an answer begins with, when nothing is said: the newest ones.
const LIMIT: usize = 1_000;
/// Most lines that an answer begins with.
const LIMIT_MAX: usize = 10_000;
/// The same in bytes, of one answer.
const NEWEST_BYTES_MAX: usize = 4 << 20;
/// Time between two looks whether the token of a reader is still valid, in seconds.
const TOKEN_S: u64 = 30;
/// How long the stage may take to give the next message that it said it has, in seconds.
const STALLED_S_MAX: u64 = 10;

pub(crate) fn router() -> OpenApiRouter<Arc<Platform>> {
    OpenApiRouter::new().routes(routes!(logs))
}

#[derive(Deserialize, IntoParams)]
#[serde(rename_all = "camelCase")]
#[into_params(rename_all = "camelCase")]
struct LogQuery {
    /// The app; needed.
    asset_key: String,
    /// Name of the stage; needed.
    environment: String,
    /// Only lines of this request.
    request_id: Option<String>,
    /// How many of the newest lines to begin with, 1 to 10,000; as many of these as 4 MiB hold are given.
    #[serde(default = "limit")]
    #[param(default = 1_000, minimum = 1, maximum = 10_000)]
    limit: usize,
    /// Go on with new lines until the caller hangs up, its token ends, or the Platform stops.
    #[serde(default)]
    follow: bool,
}

fn limit() -> usize {
    LIMIT
}

/// The newest log lines of one app in one stage, oldest first, one JSON object per line. An answer that breaks off is not whole.
#[utoipa::path(get, path = "/api/monitoring/v1/logs", params(LogQuery), responses((status = 200, content_type = "application/x-ndjson")))]
async fn logs(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Query(query): Query<LogQuery>,
) -> Result<Response, ApiError> {
    caller.require(Scope::Read)?;
    let asset = assets::api::find(&platform, &caller, &query.asset_key).await?;
    let stage = query.environment.parse::<StageName>().ok();
    let stage = stage
        .and_then(|stage| platform.stage(&caller.organization, &stage))
        .ok_or_else(|| ApiError::not_found("OS-DPL-40403", format!("the stage `{}`", query.environment)))?;
    if !(1..=LIMIT_MAX).contains(&query.limit) {
        let detail = format!("use limit 1 to {LIMIT_MAX}, not {}", query.limit);
        return Err(ApiError::bad_request("OS-PLT-40001", detail));
    }
    let place = platform.log_readers.enter(&caller.organization).map_err(|readers| {
        ApiError::busy(format!("{readers} log readers are connected; try again in a moment"))
    })?;
    let log = Log::open(&stage, subjects::logs_of(&asset.key)).await?;
    let (lines, receiver) = mpsc::channel(LINES_WAITING_MAX);
    tokio::spawn(async move {
        let _place = place;
        let read = tokio::select! {
            biased; // whoever hangs up is no failure
            () = lines.closed() => return,
            why = may_read_no_longer(&platform, caller.token) => Err(anyhow!("{why}")),
            read = read(log, &query, &lines) => read,
        };
        if let Err(error) = read {
            warn!(stage = %stage.name, "reading logs: {error:#}");
            let _ = lines.send(Err(io::Error::other(error))).await;
        }
    });
    let body = Body::from_stream(ReceiverStream::new(receiver));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// Resolves when an answer has to end that may have no end, and says why.
async fn may_read_no_longer(platform: &Platform, token: Uuid) -> &'static str {
    let mut stopping = platform.stopping.subscribe();
    loop {
        let again = Duration::from_secs(TOKEN_S);
        if tokio::time::timeout(again, stopping.wait_for(|stopping| *stopping)).await.is_ok() {
            return "the Platform stops";
        }
        match identity::store::is_valid(&platform.database, token).await {
            Ok(true) => {}
            Ok(false) => return "the token is no longer valid",
            Err(error) => warn!("look at a token: {error:#}"), // it was valid, and is looked at again
        }
    }
}

async fn read(mut log: Log, query: &LogQuery, lines: &mpsc::Sender<io::Result<Vec<u8>>>) -> Result<()> {
    for line in log.newest(query).await? {
        lines.send(Ok(line)).await?;
    }
    if !query.follow {
        return Ok(());
    }
    loop {
        let message = log.next().await?;
        for line in lines_of(&message, query)? {
            lines.send(Ok(line)).await?;
        }
    }
}

/// What a stage has of an app's log.
struct Log {
    messages: pull::Ordered,
    /// Messages that are there and not read yet.
    left: u64,
}

impl Log {
    async fn open(stage: &Stage, subject: String) -> Result<Self> {
        let stream =
            stage.jetstream.get_stream(subjects::LOGS_STREAM).await.context("open the log stream")?;
        let config = pull::OrderedConfig {
            filter_subject: subject,
            deliver_policy: DeliverPolicy::All,
            ..Default::default()
        };
        let consumer = stream.create_consumer(config).await.context("read the log stream")?;
        let left = consumer.cached_info().num_pending;
        Ok(Self { messages: consumer.messages().await.context("read the log stream")?, left })
    }

    async fn next(&mut self) -> Result<Message> {
        let next = self.messages.next().await.context("the log stream ended")?;
        next.context("read the log stream")
    }

    /// The newest lines of those that are there.
    async fn newest(&mut self, query: &LogQuery) -> Result<VecDeque<Vec<u8>>> {
        let mut newest = Newest { limit: query.limit, ..Default::default() };
        while self.left > 0 {
            let next = tokio::time::timeout(Duration::from_secs(STALLED_S_MAX), self.next()).await;
            let message =
                next.with_context(|| format!("the log stream gave nothing for {STALLED_S_MAX} s"))??;
            let pending =
                message.info().map_err(|error| anyhow!("not a message of a stream: {error}"))?.pending;
            self.left = pending.min(self.left - 1); // fewer than at first where old ones went, and never those that come meanwhile
            lines_of(&message, query)?.into_iter().for_each(|line| newest.push(line));
        }
        Ok(newest.lines)
    }
}

/// The lines of one message that were asked for, each with its end. What is no list of lines is skipped: one host that says
/// something else does not make the log of its apps unreadable.
fn lines_of(message: &Message, query: &LogQuery) -> Result<Vec<Vec<u8>>> {
    let batch: Vec<LogLine> = serde_json::from_slice(&message.payload).unwrap_or_default();
    let wanted = |line: &LogLine| query.request_id.as_ref().is_none_or(|id| *id == line.request_id);
    let text = |line: &LogLine| Ok([serde_json::to_vec(line)?, b"\n".to_vec()].concat());
    batch.iter().filter(|line| wanted(line)).map(text).collect()
}

/// The last lines of all that are pushed.
#[derive(Default)]
struct Newest {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    limit: usize,
}

impl Newest {
    fn push(&mut self, line: Vec<u8>) {
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > self.limit || self.bytes > NEWEST_BYTES_MAX {
            let Some(oldest) = self.lines.pop_front() else { break };
            self.bytes -= oldest.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_lines_are_left_within_their_number_and_their_bytes() {
        let left = |limit: usize, lines: usize, bytes: usize| {
            let mut newest = Newest { limit, ..Default::default() };
            (0..lines).for_each(|line| newest.push(vec![u8::try_from(line).unwrap(); bytes]));
            assert_eq!(newest.bytes, newest.lines.len() * bytes);
            newest.lines.iter().map(|line| usize::from(line[0])).collect::<Vec<_>>()
        };
        assert_eq!(left(3, 2, 10), [0, 1]);
        assert_eq!(left(3, 5, 10), [2, 3, 4]);
        assert_eq!(left(100, 9, 1 << 20), [5, 6, 7, 8]);
    }
}
