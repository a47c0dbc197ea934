//! `/api/monitoring/v1/logs`: an app's log lines as newline-delimited JSON, with or without an end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use async_nats::jetstream::consumer::{DeliverPolicy, pull};
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse as _, Response};
use futures_util::StreamExt as _;
use odeon_protocol::{LogLine, StageName, subjects};
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::warn;
use utoipa::IntoParams;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Platform;
use crate::api::ApiError;
use crate::assets;
use crate::identity::{Caller, Scope};
use crate::nats::stage::Stage;

/// Lines on their way to one slow reader.
const LINES_WAITING_MAX: usize = 256;
/// Most lines one answer without `follow` gives; the newest ones.
const LINES_MAX: usize = 10_000;
/// An empty stream is told from a slow one after this long, in milliseconds.
const IDLE_MS: u64 = 300;

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
    /// Go on with new lines until the caller hangs up.
    #[serde(default)]
    follow: bool,
}

/// Log lines of one app in one stage, oldest first, one JSON object per line.
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
    let place = platform.log_readers.clone().try_acquire_owned().map_err(|_| {
        ApiError::busy(format!("{} log readers are connected; try again in a moment", crate::LOG_READERS_MAX))
    })?;
    let (lines, receiver) = mpsc::channel(LINES_WAITING_MAX);
    let subject = format!("logs.{}.>", asset.key);
    tokio::spawn(async move {
        if let Err(error) = read(&stage, subject, query, &lines, place).await {
            warn!(stage = %stage.name, "reading logs: {error:#}");
        }
    });
    let body = Body::from_stream(ReceiverStream::new(receiver).map(Ok::<_, std::convert::Infallible>));
    Ok(([(CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

async fn read(
    stage: &Stage,
    subject: String,
    query: LogQuery,
    lines: &mpsc::Sender<Vec<u8>>,
    _place: OwnedSemaphorePermit,
) -> anyhow::Result<()> {
    let stream = stage.jetstream.get_stream(subjects::LOGS_STREAM).await.context("open the log stream")?;
    let config = pull::OrderedConfig {
        filter_subject: subject,
        deliver_policy: DeliverPolicy::All,
        ..Default::default()
    };
    let consumer = stream.create_consumer(config).await.context("read the log stream")?;
    let mut messages = consumer.messages().await.context("read the log stream")?;
    let mut sent = 0;
    loop {
        let next = tokio::select! {
            next = messages.next() => next,
            () = lines.closed() => return Ok(()),
            () = tokio::time::sleep(Duration::from_millis(IDLE_MS)), if !query.follow => return Ok(()),
        };
        let Some(message) = next else { return Ok(()) };
        let message = message.context("read the log stream")?;
        let pending = message.info().map_or(0, |info| info.pending);
        let batch: Vec<LogLine> = serde_json::from_slice(&message.payload).unwrap_or_default();
        for line in batch {
            if query.request_id.as_ref().is_some_and(|id| *id != line.request_id) {
                continue;
            }
            let mut text = serde_json::to_vec(&line)?;
            text.push(b'\n');
            if lines.send(text).await.is_err() {
                return Ok(());
            }
            sent += 1;
        }
        if !query.follow && (pending == 0 || sent >= LINES_MAX) {
            return Ok(());
        }
    }
}
