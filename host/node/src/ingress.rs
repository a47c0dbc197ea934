//! Requests from the router to the apps.
//!
//! In order, each step cheaper than the next: find the app, take a place in its queue, wait for an instance,
//! run. Refusals become responses in one place. The instance's place travels with the guest, not
//! with the response's head: a guest that streams slowly still holds memory.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use odeon_capabilities::Granted;
use odeon_capabilities::log::RequestLog;
use odeon_capabilities::sql::session::Session;
use odeon_engine::wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use odeon_engine::{Body, GuestError, RequestLimits};
use odeon_protocol::headers::{NOT_SERVED, REQUEST_ID, REQUEST_ID_BYTES_MAX, TRIGGER};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::debug;

use crate::Host;
use crate::apps::Served;
use crate::logs::AppLog;
use crate::metrics::{Request as RequestLabels, class};
use crate::problem::problem;

/// How long the head of a request may take, in seconds.
const HEAD_S_MAX: u64 = 10;
/// Connections at once.
const CONNECTIONS_MAX: usize = 4_096;
/// How long a request waits for an instance, in seconds.
const QUEUE_S_MAX: u64 = 5;
/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// Bytes of headers of one request.
const HEADER_BYTES_MAX: u32 = 64 << 10;

/// A request that no guest saw, or that a guest failed.
enum Refusal {
    UnknownApp(String),
    TooLarge(u64),
    Busy,
    Guest(GuestError),
}

/// Accepts connections for ever.
pub(crate) async fn serve(host: Arc<Host>, listener: TcpListener) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_secs(HEAD_S_MAX))
        .max_buf_size(HEADER_BYTES_MAX as usize);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(Duration::from_secs(HEAD_S_MAX));
    let builder = Arc::new(builder);
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let (stream, _peer): (_, SocketAddr) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(10)).await; // out of descriptors: let some close
                continue;
            }
        };
        let _ = stream.set_nodelay(true);
        let (host, builder) = (host.clone(), builder.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let host = host.clone();
                async move { Ok::<_, Infallible>(answer(&host, request).await) }
            });
            if let Err(error) = builder.serve_connection(TokioIo::new(stream), service).await {
                debug!("connection: {error}");
            }
            drop(place);
        });
    }
}

async fn answer(host: &Host, request: Request<Incoming>) -> Response<Body> {
    let started = Instant::now();
    host.metrics.in_flight.inc();
    let id = request_id(&request);
    let name = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
    let found = host.apps.find(&name).ok_or_else(|| Refusal::UnknownApp(name.clone()));
    let (label, outcome) = match &found {
        Ok(served) => (served.name.clone(), run(host, served, request, &id).await),
        Err(_) => (String::new(), Err(Refusal::UnknownApp(name))),
    };
    let mut response = outcome.unwrap_or_else(|refusal| refuse(host, found.as_deref().ok(), &refusal, &id));
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    host.metrics.in_flight.dec();
    host.metrics.seconds.observe(started.elapsed().as_secs_f64());
    host.metrics.requests.get_or_create(&RequestLabels { app: label, class: class(response.status()) }).inc();
    response
}

async fn run(
    host: &Host,
    served: &Served,
    request: Request<Incoming>,
    id: &str,
) -> Result<Response<Body>, Refusal> {
    let limits = &served.limits;
    let body_max = limits.request_body_bytes_max;
    let announced =
        request.headers().get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
    if announced.is_some_and(|bytes: u64| bytes > body_max) {
        return Err(Refusal::TooLarge(body_max));
    }
    let waiting = served.queue.clone().try_acquire_owned().map_err(|_| Refusal::Busy)?;
    let instance = served.instances.clone().acquire_owned();
    let instance = tokio::time::timeout(Duration::from_secs(QUEUE_S_MAX), instance).await;
    let instance = instance.ok().and_then(Result::ok).ok_or(Refusal::Busy)?;
    drop(waiting);

    let Admitted { granted, sql, log } = admit(host, served, id);
    let request_limits = RequestLimits {
        memory_bytes_max: limits.instance_memory_bytes_max,
        wall_ms_max: limits.request_wall_ms_max,
        cpu_ms_max: limits.request_cpu_ms_max,
    };
    let request = prepare(request, id, body_max);
    let (wasi, unload) = (Granted::wasi(&log), served.unload.clone().cancelled_owned());
    let response = served.app.handle(request, request_limits, wasi, granted, instance, unload).await;
    let mut response = response.map_err(Refusal::Guest)?;
    response.headers_mut().remove(NOT_SERVED); // ours to say
    // What the guest wrote before it answered must be there for whoever reads the answer.
    sql.commit().await.map_err(|error| Refusal::Guest(GuestError::Commit(format!("{error:?}"))))?;
    Ok(response)
}

/// What a request has when it is let in.
pub(crate) struct Admitted {
    pub(crate) granted: Granted,
    pub(crate) sql: Arc<Session>,
    pub(crate) log: RequestLog,
}

/// Gives a request what its app may use.
pub(crate) fn admit(host: &Host, served: &Served, id: &str) -> Admitted {
    let sink = AppLog { logs: host.logs.clone(), app: served.id.clone(), revision: served.revision };
    let log = RequestLog::new(Arc::new(sink), id);
    let sql = match served.database {
        true => Arc::new(Session::new(host.pools.clone(), served.id.as_str())),
        false => Arc::new(Session::none()),
    };
    let granted = Granted {
        sql: sql.clone(),
        log: log.clone(),
        egress: served.egress.clone(),
        settings: served.settings.clone(),
        timers: served.timers.clone(),
    };
    Admitted { granted, sql, log }
}

/// The request as the guest sees it.
fn prepare(request: Request<Incoming>, id: &str, body_max: u64) -> Request<Body> {
    let (mut parts, body) = request.into_parts();
    if let Ok(id) = HeaderValue::from_str(id) {
        parts.headers.insert(REQUEST_ID, id);
    }
    parts.headers.remove(TRIGGER); // ours to say
    if parts.uri.authority().is_none() && !parts.headers.contains_key(header::HOST) {
        parts.headers.insert(header::HOST, HeaderValue::from_static("localhost"));
    }
    let limit = usize::try_from(body_max).unwrap_or(usize::MAX);
    let body = Limited::new(body, limit).map_err(|_| ErrorCode::HttpRequestBodySize(None).into());
    Request::from_parts(parts, body.boxed_unsync())
}

/// The one place where a refusal becomes a response, and the owner of the app is told.
fn refuse(host: &Host, served: Option<&Served>, refusal: &Refusal, id: &str) -> Response<Body> {
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
        Refusal::Guest(error) => (error.status(), error.code(), error.to_string()),
    };
    if let (Some(served), Refusal::Guest(_)) = (served, refusal) {
        let sink = AppLog { logs: host.logs.clone(), app: served.id.clone(), revision: served.revision };
        RequestLog::new(Arc::new(sink), id).host_line(code, detail.clone());
    }
    let mut response = problem(status, code, &detail, id);
    if matches!(refusal, Refusal::UnknownApp(_)) {
        response.headers_mut().insert(NOT_SERVED, HeaderValue::from_static("1"));
    }
    response
}

fn request_id(request: &Request<Incoming>) -> String {
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    match given {
        Some(id) if !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX => id.to_owned(),
        Some(_) | None => uuid::Uuid::new_v4().to_string(),
    }
}
