//! Requests that hosts start by themselves: the run of a timer, an event for a handler, a call of a service action. They
//! come to the app as any request does, with a header that nobody outside can send.
//!
//! Each takes an instance of the app like the others, and has deadlines of its own. Invariant: whoever asked learns
//! how it ended.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full, Limited};
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
/// Bytes of an answer that are read: it says why something failed.
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
pub(crate) async fn run(host: &Host, served: &Served, trigger: Trigger) -> Result<(), String> {
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
    served: &Served,
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
    ingress::run(host, served, admitted, work).await
}

async fn ended(response: Response<Body>) -> Result<(), String> {
    let status = response.status();
    let said = text(response).await;
    if status.is_success() { Ok(()) } else { Err(format!("the app answered {status}: {said}")) }
}

async fn text(response: Response<Body>) -> String {
    let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    String::from_utf8_lossy(&body).into_owned()
}
