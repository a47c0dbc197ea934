//! Requests from routers, and from other hosts, to the apps.
//!
//! In order, each step cheaper than the next: find the app, take an instance and room in the app's memory budget, or a place in its queue
//! where it waits for them, run. What the host does on a connection is charged to the app that was asked there ([`Charging`]).
//! Refusals become responses in one place. A request of another app carries a sealed call, and comes to the
//! app as what hosts start: see [`crate::triggers`]. The instance's place travels with the guest, not
//! with the response's head: a guest that streams slowly still holds memory.

use std::cell::Cell;
use std::error::Error;
use std::pin::Pin;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::{Frame, SizeHint};
use odeon_capabilities::Granted;
use odeon_capabilities::egress::requests_max;
use odeon_capabilities::log::RequestLog;
use odeon_capabilities::sql::session::Session;
use odeon_engine::app::Admitted;
use odeon_engine::error::shown;
use odeon_engine::scheduler::{Cpu, Scheduler};
use odeon_engine::wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use odeon_engine::{App, Body, Failure, GuestError, RequestLimits};
use odeon_http::{Around, ReceiveError, Received, Stop, limits};
use odeon_protocol::calls::{Call, CallError};
use odeon_protocol::headers::{CALL, NOT_SERVED, REQUEST_ID, REQUEST_ID_BYTES_MAX, TRIGGER, USER};
use prometheus_client::metrics::histogram::Histogram;
use tokio::net::TcpListener;
use tokio::sync::OwnedSemaphorePermit;
use tracing::warn;

use crate::Host;
use crate::apps::Served;
use crate::events;
use crate::loader::Unloadable;
use crate::memory::Level;
use crate::problem::{problem, text};
use crate::triggers::{self, From, Trigger};

/// How long a request waits for an instance, in seconds.
const QUEUE_S_MAX: u64 = 5;
/// Headers of an app's response: routers take a hundred in all.
const RESPONSE_HEADERS_MAX: usize = 80;
/// Bytes of all headers of an app's response, names and values.
const RESPONSE_HEADER_BYTES_MAX: usize = 32 << 10;
/// Bytes of the body of an app's response: as many as its instance may hold.
const RESPONSE_BODY_BYTES_MAX: u64 = 128 << 20;

/// A request that no guest saw, or that a guest failed.
pub(crate) enum Refusal {
    UnknownApp(String),
    TooLarge(u64),
    Busy,
    Memory(u64),
    HostMemory,
    Unloadable(Unloadable),
    Call(CallError),
    Guest(Failure),
}

/// Accepts connections until it is stopped.
pub(crate) async fn serve(host: Arc<Host>, listener: TcpListener, stop: Stop) {
    odeon_http::serve_each(limits::HOSTS, listener, stop, move || {
        let (host, scheduler) = (host.clone(), host.engine.scheduler().clone());
        let answer = move |request, _| {
            let host = host.clone();
            async move { answer(&host, request).await }
        };
        (answer, Charging { scheduler, task: None, connection: Arc::default() })
    })
    .await;
}

thread_local! {
    /// Whom the task that this thread polls asked last.
    static ASKED: Cell<Option<Arc<Cpu>>> = const { Cell::new(None) };
}

/// Somebody is asked. Nothing is counted where it is the same as before: threads would wait for one another there.
fn note_asked(cpu: &Arc<Cpu>) {
    let before = ASKED.take();
    let is_same = before.as_ref().is_some_and(|before| Arc::ptr_eq(before, cpu));
    ASKED.set(if is_same { before } else { Some(cpu.clone()) });
}

/// Charges an app with what the host does for it on a connection: the one that a task asked last, or if it asked none, as
/// the task that writes for all streams of HTTP/2, the one that was asked last on its connection.
struct Charging {
    scheduler: Scheduler,
    task: Option<Arc<Cpu>>,
    connection: Arc<Mutex<Option<Arc<Cpu>>>>,
}

impl Clone for Charging {
    fn clone(&self) -> Self {
        Self { scheduler: self.scheduler.clone(), task: None, connection: self.connection.clone() }
    }
}

impl Around for Charging {
    fn run(&mut self, poll: &mut dyn FnMut()) {
        let Self { scheduler, task, connection } = self;
        let connection = || connection.lock().unwrap_or_else(PoisonError::into_inner);
        let before = task.as_ref().map(Arc::as_ptr);
        ASKED.set(task.take());
        let used = scheduler.measured(poll);
        *task = ASKED.take();
        match task {
            Some(cpu) => {
                if before != Some(Arc::as_ptr(cpu)) {
                    *connection() = Some(cpu.clone());
                }
                scheduler.charge(cpu, &used);
            }
            None => connection().iter().for_each(|cpu| scheduler.charge(cpu, &used)),
        }
    }
}

/// Observes how long something takes.
struct Timed<'m> {
    started: Instant,
    seconds: &'m Histogram,
}

impl Drop for Timed<'_> {
    fn drop(&mut self) {
        self.seconds.observe(self.started.elapsed().as_secs_f64());
    }
}

async fn answer(host: &Host, request: Request<Received>) -> Response<Body> {
    // Also when the caller goes away.
    let _in_flight = host.metrics.begin();
    let _seconds = Timed { started: Instant::now(), seconds: &host.metrics.seconds };
    let id = request_id(&request);
    let name = request.uri().path().split('/').nth(1).unwrap_or_default();
    let found = host.apps.find(name).ok_or_else(|| name.to_owned());
    let asked = found.as_ref().map_or(&host.metrics.requests.strays, |served| &served.requests).begin();
    let outcome = match &found {
        Ok(served) => {
            note_asked(&served.account.cpu);
            pass(host, served, request, &id).await
        }
        Err(name) => Err(Refusal::UnknownApp(name.clone())),
    };
    let mut response = outcome.unwrap_or_else(|refusal| refuse(found.as_deref().ok(), &refusal, &id));
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    asked.answered(response.status());
    response
}

async fn pass(
    host: &Host,
    served: &Arc<Served>,
    request: Request<Received>,
    id: &str,
) -> Result<Response<Body>, Refusal> {
    let limits = &served.limits;
    let body_max = limits.request_body_bytes_max;
    let announced =
        request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > body_max) {
        return Err(Refusal::TooLarge(body_max));
    }
    if let Some(call) = request.headers().get(CALL) {
        let (header, path) = (call.to_str().unwrap_or_default(), request.uri().path().to_owned());
        let now_ms = chrono::Utc::now().timestamp_millis();
        let call = Call::open(header, &host.secrets, &path, now_ms).map_err(Refusal::Call)?;
        let from = From { id, user: &call.user, depth: call.depth };
        let trigger = Trigger::call(served, &path, limited(request.into_body(), body_max), &from);
        return triggers::respond(host, served, trigger).await;
    }
    let admitted = instance(host, served, Duration::from_secs(QUEUE_S_MAX)).await?;
    let request_limits = served.request_limits(limits.request_wall_ms_max, limits.request_cpu_ms_max);
    let work = Work {
        request: prepare(request, id, body_max),
        limits: request_limits,
        id,
        depth: 0,
        requests_max: requests_max(0),
    };
    run(served, admitted, work).await
}

/// Waits until one more instance of the app may live: there are not too many, and the app's budget has room for it. So many may wait.
pub(crate) async fn instance(host: &Host, served: &Served, wait_max: Duration) -> Result<Ready, Refusal> {
    if host.pressure.level() >= Level::RefuseRequests {
        return Err(Refusal::HostMemory);
    }
    let account = &served.account;
    // Most requests wait for nothing, and take no place among those that do.
    if let Ok(held) = served.instances.clone().try_acquire_owned()
        && let Some(app) = host.loader.app_of(&served.lately)
        && let Some(memory) = account.try_admit(app.initial_bytes())
    {
        return Ok(Ready { app, admitted: Admitted { cpu: account.cpu.clone(), memory, held } });
    }
    let _waiting = served.queue.try_acquire().map_err(|_| Refusal::Busy)?;
    let deadline = tokio::time::Instant::now() + wait_max;
    let held = tokio::time::timeout_at(deadline, served.instances.clone().acquire_owned()).await;
    let held = held.ok().and_then(Result::ok).ok_or(Refusal::Busy)?;
    let app = host
        .loader
        .app((served.placement, &served.lately), &served.claim)
        .await
        .map_err(Refusal::Unloadable)?;
    let memory = tokio::time::timeout_at(deadline, account.admit(app.initial_bytes())).await;
    let memory = memory.map_err(|_| Refusal::Memory(account.memory.max()))?;
    Ok(Ready { app, admitted: Admitted { cpu: account.cpu.clone(), memory, held } })
}

/// An app that is loaded, and the room for one more instance of it.
pub(crate) struct Ready {
    app: App<Granted>,
    admitted: Admitted<OwnedSemaphorePermit>,
}

/// A request that has an instance to run in.
pub(crate) struct Work<'w> {
    pub(crate) request: Request<Body>,
    pub(crate) limits: RequestLimits,
    pub(crate) id: &'w str,
    /// Calls between apps that led to it.
    pub(crate) depth: u32,
    /// Requests that it may send to others.
    pub(crate) requests_max: u32,
}

/// Runs the guest until it has answered.
pub(crate) async fn run(
    served: &Arc<Served>,
    ready: Ready,
    work: Work<'_>,
) -> Result<Response<Body>, Refusal> {
    let Grants { granted, sql, log } = grant(served, &work);
    let until_unloaded = served.clone();
    let unload = async move { until_unloaded.unload.cancelled().await };
    let response = ready.app.handle(work.request, work.limits, granted, ready.admitted, unload).await;
    let mut response = response.map_err(Refusal::Guest)?;
    response.headers_mut().remove(NOT_SERVED); // ours to say
    let too_much = oversized(response.status(), response.headers());
    // What the guest wrote before it answered must be there for whoever reads the answer.
    let lost = |error| Refusal::Guest(GuestError::Commit(shown(&format_args!("{error:?}"))).into());
    sql.commit().await.map_err(lost)?;
    if let Some(why) = too_much {
        return Err(Refusal::Guest(GuestError::NoResponse(why).into()));
    }
    Ok(response.map(|body| Bounded { body, left: RESPONSE_BODY_BYTES_MAX, log }.boxed_unsync()))
}

/// Why the head of a response cannot be sent, if it cannot. Whoever reads it next would take it for a broken host, and
/// all apps of the host would pay.
fn oversized(status: StatusCode, headers: &HeaderMap) -> Option<String> {
    if status.is_informational() {
        return Some(format!("{status} is no final status"));
    }
    if headers.len() > RESPONSE_HEADERS_MAX {
        return Some(format!("it has {} headers, of {RESPONSE_HEADERS_MAX} allowed", headers.len()));
    }
    let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    (bytes > RESPONSE_HEADER_BYTES_MAX)
        .then(|| format!("its headers have {bytes} bytes, of {RESPONSE_HEADER_BYTES_MAX} allowed"))
}

/// The body of an app's response, which is cut where it is too long.
struct Bounded {
    body: Body,
    left: u64,
    log: RequestLog,
}

impl hyper::body::Body for Bounded {
    type Data = Bytes;
    type Error = odeon_engine::wasmtime_wasi_http::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        let bytes = match &frame {
            Some(Ok(frame)) => frame.data_ref().map_or(0, |data| data.len() as u64),
            Some(Err(_)) | None => 0,
        };
        let Some(left) = self.left.checked_sub(bytes) else {
            let message = format!("the body of the response was cut after {RESPONSE_BODY_BYTES_MAX} bytes");
            self.log.host_line("OS-BERT-50202", message, None);
            self.body = text(Bytes::new()); // what the guest still writes goes nowhere
            let size = ErrorCode::HttpResponseBodySize(Some(RESPONSE_BODY_BYTES_MAX));
            return Poll::Ready(Some(Err(size.into())));
        };
        self.left = left;
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a request is given.
struct Grants {
    granted: Granted,
    sql: Arc<Session>,
    log: RequestLog,
}

/// Gives a request what its app may use.
fn grant(served: &Served, work: &Work<'_>) -> Grants {
    let Work { id, depth, requests_max, .. } = *work;
    let log = RequestLog::new(served.log.clone(), id);
    let sql = served.database.clone().map_or_else(Session::none, Session::new);
    let sql = Arc::new(sql);
    let granted = Granted {
        sql: sql.clone(),
        log: log.clone(),
        egress: served.egress.begin(requests_max, log.clone()).at_depth(depth),
        settings: served.settings.clone(),
        timers: served.timers.clone(),
        output: OnceLock::new(),
        events: events::LIMITS,
    };
    Grants { granted, sql, log }
}

/// The request as the guest sees it.
fn prepare(request: Request<Received>, id: &str, body_max: u64) -> Request<Body> {
    let (mut parts, body) = request.into_parts();
    if let Ok(id) = HeaderValue::from_str(id) {
        parts.headers.insert(REQUEST_ID, id);
    }
    parts.headers.remove(TRIGGER); // hosts' to say
    parts.headers.remove(USER);
    if parts.uri.authority().is_none() && !parts.headers.contains_key(header::HOST) {
        parts.headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    Request::from_parts(parts, limited(body, body_max))
}

/// A body that breaks off when it is larger than that.
pub(crate) fn limited<B>(body: B, most: u64) -> Body
where
    B: hyper::body::Body<Data = Bytes, Error: Into<Box<dyn Error + Send + Sync>>> + Send + 'static,
{
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    Limited::new(body, most).map_err(|error| broken(&*error).into()).boxed_unsync()
}

/// What a guest is told of a body that does not come whole.
fn broken(error: &(dyn Error + Send + Sync + 'static)) -> ErrorCode {
    if error.is::<LengthLimitError>() {
        return ErrorCode::HttpRequestBodySize(None);
    }
    match error.downcast_ref::<ReceiveError>() {
        Some(ReceiveError::Slow) => ErrorCode::ConnectionReadTimeout,
        Some(ReceiveError::Broken(_)) | None => ErrorCode::ConnectionTerminated,
    }
}

/// The one place where a refusal becomes a response, and the owner of the app is told.
pub(crate) fn refuse(served: Option<&Served>, refusal: &Refusal, id: &str) -> Response<Body> {
    let (status, code, detail) = match refusal {
        Refusal::UnknownApp(name) => {
            let detail = format!("no app `{name}` is served by this host");
            (StatusCode::MISDIRECTED_REQUEST, "OS-BERT-42101", detail)
        }
        Refusal::TooLarge(most) => {
            (StatusCode::PAYLOAD_TOO_LARGE, "OS-BERT-41301", format!("a request body may have {most} bytes"))
        }
        Refusal::Busy => {
            let detail = "the app has as many requests as it may; try again in a moment".to_owned();
            (StatusCode::SERVICE_UNAVAILABLE, "OS-BERT-50302", detail)
        }
        Refusal::Memory(most) => {
            let detail =
                format!("the app's instances use all of its {most} bytes of memory; try again in a moment");
            (StatusCode::SERVICE_UNAVAILABLE, "OS-BERT-50310", detail)
        }
        Refusal::HostMemory => {
            let detail = "this host is short of memory; try again in a moment".to_owned();
            (StatusCode::SERVICE_UNAVAILABLE, "OS-BERT-50313", detail)
        }
        Refusal::Unloadable(why) => {
            let code = match why {
                Unloadable::Failed(_) => "OS-BERT-50311",
                Unloadable::Memory => "OS-BERT-50312",
            };
            (StatusCode::SERVICE_UNAVAILABLE, code, why.to_string())
        }
        Refusal::Call(why) => (StatusCode::FORBIDDEN, "OS-BERT-40301", why.to_string()),
        Refusal::Guest(Failure { error, .. }) => (error.status(), error.code(), error.to_string()),
    };
    if let (Some(served), Refusal::Guest(Failure { origin, .. })) = (served, refusal) {
        let place = origin.as_ref().map_or("", |origin| &origin.place);
        let line = if place.is_empty() { detail.clone() } else { format!("{detail} ({place})") };
        let origin = origin.as_ref().map(|origin| (origin.action.clone(), origin.node.clone()));
        RequestLog::new(served.log.clone(), id).host_line(code, line, origin);
    }
    if let (Some(served), Refusal::Unloadable(Unloadable::Failed(why))) = (served, refusal) {
        warn!(app = %served.id, name = served.name, request_id = id, "an app cannot be loaded: {why}");
    }
    let mut response = problem(status, code, &detail, id);
    if matches!(refusal, Refusal::UnknownApp(_)) {
        response.headers_mut().insert(NOT_SERVED, HeaderValue::from_static("1"));
    }
    response
}

fn request_id(request: &Request<Received>) -> String {
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    match given {
        Some(id) if !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX => id.to_owned(),
        Some(_) | None => uuid::Uuid::new_v4().to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use odeon_engine::{CpuShare, Engine, EngineSettings};

    use super::*;

    #[test]
    fn each_app_pays_for_its_streams_and_the_last_one_for_the_connection() {
        let engine = Engine::new(EngineSettings { instances_max: 1, ..EngineSettings::default() }).unwrap();
        let app = || Arc::new(Cpu::new(CpuShare { millicores: 250, burst_ms: None }));
        let (one, two) = (app(), app());
        let scheduler = engine.scheduler().clone();
        let mut connection = Charging { scheduler, task: None, connection: Arc::default() };
        let (mut first, mut second) = (connection.clone(), connection.clone());
        // Who pays for a poll that asks an app, or none.
        let payers = |task: &mut Charging, asked: Option<&Arc<Cpu>>| {
            let before = (one.used_ns(), two.used_ns());
            task.run(&mut || {
                asked.into_iter().for_each(note_asked);
                let begun = Instant::now();
                while begun.elapsed() < Duration::from_micros(50) {}
            });
            (one.used_ns() > before.0, two.used_ns() > before.1)
        };
        assert_eq!(payers(&mut connection, None), (false, false), "nobody was asked yet");
        assert_eq!(payers(&mut first, Some(&one)), (true, false));
        assert_eq!(payers(&mut second, Some(&two)), (false, true));
        assert_eq!(payers(&mut first, None), (true, false));
        assert_eq!(payers(&mut connection, None), (false, true));
    }
}
