//! Requests that hosts start by themselves: the run of a timer, an event for a handler, a call of a service action. They
//! come to the app as any request does, with a header that nobody outside can send.
//!
//! Each takes an instance of the app like the others, and has deadlines of its own. Invariant: whoever asked learns
//! how it ended.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use odeon_capabilities::egress::{TRIGGERED_REQUESTS_MAX, requests_max};
use odeon_engine::{Body, RequestLimits};
use odeon_protocol::calls::CALL_S_MAX;
use odeon_protocol::headers::{REQUEST_ID, TRIGGER, USER};
use tracing::debug;

use crate::Host;
use crate::apps::Served;
use crate::ingress::{self, Refusal, Work};

/// How long a trigger waits for an instance, in seconds: a timer or event comes back, so it need not wait long.
const INSTANCE_S_MAX: u64 = 30;
/// Bytes of an answer that are kept: it says why something failed.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Something to be run.
pub(crate) struct Trigger {
    /// The header's value.
    kind: &'static str,
    /// Below the app's.
    path: String,
    body: Body,
    id: String,
    user: String,
    depth: u32,
    requests_max: u32,
    wall: Duration,
    cpu: Duration,
}

impl Trigger {
    /// The run of a timer. Nobody waits for it, and it has its share of the CPU like everybody else: only time counts.
    pub(crate) fn timer(name: &str, wall: Duration) -> Self {
        Self::own("timer", format!("timers/{name}"), Bytes::new(), wall)
    }

    /// An event for a handler.
    pub(crate) fn event(handler: &str, payload: Bytes, wall: Duration) -> Self {
        Self::own("event", format!("events/{handler}"), payload, wall)
    }

    fn own(kind: &'static str, path: String, body: Bytes, wall: Duration) -> Self {
        let id = uuid::Uuid::new_v4().to_string();
        let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
        Self {
            kind,
            path,
            body,
            id,
            user: String::new(),
            depth: 0,
            requests_max: TRIGGERED_REQUESTS_MAX,
            wall,
            cpu: wall,
        }
    }

    /// A call of a service action; `path` is whole.
    pub(crate) fn call(served: &Served, path: &str, body: Body, from: &From<'_>) -> Self {
        let path = path.trim_start_matches('/').split_once('/').map_or("", |(_, path)| path).to_owned();
        let wall = Duration::from_secs(CALL_S_MAX);
        let cpu = Duration::from_millis(served.limits.request_cpu_ms_max);
        let (id, user) = (from.id.to_owned(), from.user.to_owned());
        let requests_max = requests_max(from.depth);
        Self { kind: "service", path, body, id, user, depth: from.depth, requests_max, wall, cpu }
    }
}

/// Where a call comes from: the request that calls, who called that, and how deep the calls are.
pub(crate) struct From<'f> {
    pub(crate) id: &'f str,
    pub(crate) user: &'f str,
    pub(crate) depth: u32,
}

/// Runs a trigger to its end. The error says why it failed, with the request id that leads to its log lines.
pub(crate) async fn run(host: &Host, served: &Arc<Served>, trigger: Trigger) -> Result<(), String> {
    let id = trigger.id.clone();
    let outcome = match respond(host, served, trigger).await {
        Ok(response) => ended(response).await,
        Err(refusal) => {
            let said = ingress::refuse(Some(served), &refusal, &id);
            Err(text(said).await)
        }
    };
    debug!(app = served.name, request_id = id, ok = outcome.is_ok(), "trigger ended");
    outcome.map_err(|why| format!("{why} (request {id})"))
}

/// Runs a trigger until the app has answered.
pub(crate) async fn respond(
    host: &Host,
    served: &Arc<Served>,
    trigger: Trigger,
) -> Result<Response<Body>, Refusal> {
    let admitted = ingress::instance(host, served, Duration::from_secs(INSTANCE_S_MAX)).await?;
    let request = Request::post(format!("/{}/{}", served.name, trigger.path))
        .header(http::header::HOST, "localhost")
        .header(REQUEST_ID, &trigger.id)
        .header(TRIGGER, trigger.kind)
        .header(USER, trigger.user.as_bytes())
        .body(trigger.body);
    let request = request.map_err(|_| Refusal::UnknownApp(served.name.clone()))?;
    let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    let limits = served.request_limits(millis(trigger.wall), millis(trigger.cpu));
    let limits = RequestLimits { concurrency_max: 1, ..limits }; // they are not those of users' requests
    let (depth, requests_max) = (trigger.depth, trigger.requests_max);
    let work = Work { request, limits, id: &trigger.id, depth, requests_max };
    ingress::run(served, admitted, work).await
}

/// A guest may fail, or be ended, after the head of its answer: its status counts when its body is whole.
async fn ended(response: Response<Body>) -> Result<(), String> {
    let status = response.status();
    match read(response.into_body()).await {
        (_, Ok(())) if status.is_success() => Ok(()),
        (said, Ok(())) => Err(format!("the app answered {status}: {said}")),
        (said, Err(why)) => Err(format!("the app answered {status}, and failed then: {why}: {said}")),
    }
}

async fn text(response: Response<Body>) -> String {
    read(response.into_body()).await.0
}

/// Reads a body to its end: what it says, or the beginning of that, and whether it came whole.
async fn read(mut body: Body) -> (String, Result<(), String>) {
    let mut kept = Vec::new();
    let whole = loop {
        match body.frame().await {
            None => break Ok(()),
            Some(Err(error)) => break Err(error.to_string()),
            Some(Ok(frame)) => {
                let data = frame.data_ref().map_or(&[][..], |data| &data[..]);
                kept.extend_from_slice(&data[..data.len().min(ANSWER_BYTES_MAX - kept.len())]);
            }
        }
    };
    (String::from_utf8_lossy(&kept).into_owned(), whole)
}

#[cfg(test)]
mod tests {
    use http::StatusCode;
    use http_body_util::StreamBody;
    use hyper::body::Frame;
    use odeon_engine::wasmtime_wasi_http::Error;

    use super::*;

    fn answer(status: StatusCode, pieces: &[&'static str], end: Option<Error>) -> Response<Body> {
        let pieces = pieces.iter().map(|piece| Ok(Frame::data(Bytes::from_static(piece.as_bytes()))));
        let parts: Vec<_> = pieces.chain(end.map(Err)).collect();
        let mut response = Response::new(StreamBody::new(futures_util::stream::iter(parts)).boxed_unsync());
        *response.status_mut() = status;
        response
    }

    #[tokio::test]
    async fn what_fails_after_its_head_has_not_ended_well() {
        let (ok, bad) = (StatusCode::OK, StatusCode::BAD_REQUEST);
        let cut = || Some(Error::HttpResponseIncomplete);
        assert_eq!(ended(answer(ok, &["done"], None)).await, Ok(()));
        assert_eq!(ended(answer(ok, &[], None)).await, Ok(()));
        let why = ended(answer(ok, &["do"], cut())).await.unwrap_err();
        assert!(why.starts_with("the app answered 200 OK, and failed then: "), "{why}");
        assert!(ended(answer(ok, &[], cut())).await.is_err());
        let why = ended(answer(bad, &["no ", "row"], None)).await.unwrap_err();
        assert_eq!(why, "the app answered 400 Bad Request: no row");
        assert!(ended(answer(bad, &["no row"], cut())).await.unwrap_err().ends_with(": no row"));
    }

    #[tokio::test]
    async fn a_long_answer_is_read_to_its_end_and_not_kept() {
        let piece = "x".repeat(ANSWER_BYTES_MAX / 2 + 1).leak();
        let long = [&*piece, piece, piece];
        assert_eq!(ended(answer(StatusCode::OK, &long, None)).await, Ok(()));
        let cut = Some(Error::HttpResponseIncomplete);
        assert!(ended(answer(StatusCode::OK, &long, cut)).await.is_err(), "whatever came before");
        assert_eq!(text(answer(StatusCode::OK, &long, None)).await.len(), ANSWER_BYTES_MAX);
    }
}
