//! Requests that the host starts by itself: a timer's run comes to the app as any request does, with a header that
//! nobody outside can send.
//!
//! It takes an instance of the app like the others, and has deadlines of its own. Invariant: whoever asked learns
//! how it ended.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full, Limited};
use odeon_engine::RequestLimits;
use odeon_protocol::headers::{REQUEST_ID, TRIGGER};
use tracing::debug;

use crate::Host;
use crate::apps::Served;
use crate::ingress::{self, Admitted};

/// How long a trigger waits for an instance, in seconds: it comes back, so it need not wait long.
const INSTANCE_S_MAX: u64 = 30;
/// Bytes of an answer that are read: it says why something failed.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// Something to be run: `path` is below the app's, `kind` the header's value.
pub(crate) struct Trigger {
    pub(crate) kind: &'static str,
    pub(crate) path: String,
    pub(crate) wall: Duration,
}

/// Runs a trigger to its end. The error says why it failed, with the request id that leads to its log lines.
pub(crate) async fn run(host: &Host, served: &Served, trigger: Trigger) -> Result<(), String> {
    let id = uuid::Uuid::new_v4().to_string();
    let in_flight = InFlight::begin(host);
    let outcome = answer(host, served, trigger, &id).await;
    drop(in_flight);
    debug!(app = served.name, request_id = id, ok = outcome.is_ok(), "trigger ended");
    outcome.map_err(|why| format!("{why} (request {id})"))
}

/// Counts a trigger until it ends, also when whoever waits for it goes away.
struct InFlight<'h>(&'h Host);

impl<'h> InFlight<'h> {
    fn begin(host: &'h Host) -> Self {
        host.metrics.in_flight.inc();
        Self(host)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.metrics.in_flight.dec();
    }
}

async fn answer(host: &Host, served: &Served, trigger: Trigger, id: &str) -> Result<(), String> {
    let instance = served.instances.clone().acquire_owned();
    let instance = tokio::time::timeout(Duration::from_secs(INSTANCE_S_MAX), instance).await;
    let Some(instance) = instance.ok().and_then(Result::ok) else {
        return Err(format!("no instance of the app was free within {INSTANCE_S_MAX} s"));
    };
    let request = Request::post(format!("/{}/{}", served.name, trigger.path))
        .header(http::header::HOST, "localhost")
        .header(REQUEST_ID, id)
        .header(TRIGGER, trigger.kind)
        .body(Full::new(Bytes::new()).map_err(|never| match never {}).boxed_unsync());
    let request = request.map_err(|error| error.to_string())?;
    let wall_ms = u64::try_from(trigger.wall.as_millis()).unwrap_or(u64::MAX);
    // Nobody waits for it, and it has its share of the CPU like everybody else: only the time counts.
    let limits = RequestLimits {
        memory_bytes_max: served.limits.instance_memory_bytes_max,
        wall_ms_max: wall_ms,
        cpu_ms_max: wall_ms,
    };
    let Admitted { granted, sql, log } = ingress::admit(host, served, id);
    let (wasi, unload) = (odeon_capabilities::Granted::wasi(&log), served.unload.clone().cancelled_owned());
    let response = served.app.handle(request, limits, wasi, granted, Arc::new(instance), unload).await;
    let response = match response {
        Ok(response) => response,
        Err(error) => {
            log.host_line(error.code(), error.to_string());
            return Err(error.to_string());
        }
    };
    sql.commit().await.map_err(|error| format!("what it wrote was not committed: {error:?}"))?;
    let (head, body) = response.into_parts();
    let body = Limited::new(body, ANSWER_BYTES_MAX).collect().await;
    if head.status.is_success() {
        return Ok(());
    }
    let body = body.map(http_body_util::Collected::to_bytes).unwrap_or_default();
    Err(format!("the app answered {}: {}", head.status, String::from_utf8_lossy(&body)))
}
