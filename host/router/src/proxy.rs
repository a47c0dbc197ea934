//! The request path of the router: find the app, choose a replica, pass the request on, try another replica
//! when nothing can have happened yet.
//!
//! A request is sent a second time only if the first try cannot have had an effect: the connection failed
//! before a byte of the request was sent, the host says that it does not serve the app, or it is a GET or HEAD
//! without a body and no byte of a response came. Bodies are passed on as streams; only the beginning of one is held, for a second try.

use std::collections::HashMap;
use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::uri::{self, PathAndQuery, Scheme};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::Connect;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use odeon_http::connect::Connector;
use odeon_http::limits::{CLIENT_IDLE_S_MAX, HEAD_BYTES_MAX};
use odeon_http::{ReceiveError, Received, problem};
use odeon_protocol::headers::{NOT_SERVED, REQUEST_ID};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::headers;
use crate::metrics::Metrics;
use crate::routes::{App, Host, Routes};

pub use crate::routes::Backend;

/// Tries of one request, the first included.
const TRIES_MAX: usize = 3;
/// How long the head of a response may take, in seconds: longer than an app's own deadline.
const HEAD_S_MAX: u64 = 65;
/// How long connecting to a host may take, in seconds.
const CONNECT_S_MAX: u64 = 2;
/// Requests at once.
const REQUESTS_MAX: usize = 8_192;
/// Requests of one app at once: an app that does not answer leaves the other half to the others.
const APP_REQUESTS_MAX: usize = REQUESTS_MAX / 2;
/// Part of all requests that is for apps with few: one of so many.
const RESERVED_PART: usize = 4;
/// Of the body of a request so much is held for a second try, in bytes: most that call an app have less.
const HELD_BYTES_MAX: usize = 16 << 10;
/// How long a body may take to come back from a try, in milliseconds.
const BACK_MS_MAX: u64 = 500;
/// Idle connections kept per host, of all threads together.
const IDLE_CONNECTIONS_MAX: usize = 256;

/// The body of a request on its way through.
type SentBody = BoxBody<Bytes, ReceiveError>;
/// The body of a response on its way through.
pub type PassedBody = BoxBody<Bytes, hyper::Error>;

/// The proxy of one thread; `C` connects it to hosts. Those of other threads share its routes and limits ([`Proxy::for_threads`]).
pub struct Proxy<C = Connector> {
    shared: Arc<Shared>,
    connector: C,
    client: Client<C, SentBody>,
}

struct Shared {
    routes: Routes,
    places: Arc<Semaphore>,
    /// Of the places, for apps with few requests.
    reserved: usize,
    metrics: Metrics,
}

enum Refusal {
    UnknownApp(String),
    NoHost,
    NoReplica(String),
    Overloaded,
    Busy(String),
    Crowded(String),
    Upstream,
    Late,
    SlowBody,
    BrokenBody,
}

impl Default for Proxy {
    fn default() -> Self {
        Self::new(REQUESTS_MAX, APP_REQUESTS_MAX)
    }
}

impl Proxy {
    /// A proxy without routes, for so many requests at once, and so many of one app.
    pub fn new(requests_max: usize, app_requests_max: usize) -> Self {
        Self::over(Connector::within(Duration::from_secs(CONNECT_S_MAX)), requests_max, app_requests_max)
    }
}

impl<C: Connect + Clone + Send + Sync + 'static> Proxy<C> {
    /// A proxy that reaches hosts through `connector`, which bounds how long connecting may take.
    pub fn over(connector: C, requests_max: usize, app_requests_max: usize) -> Self {
        let shared = Arc::new(Shared {
            routes: Routes::new(app_requests_max),
            places: Arc::new(Semaphore::new(requests_max)),
            reserved: requests_max / RESERVED_PART,
            metrics: Metrics::new(),
        });
        let client = client(connector.clone(), IDLE_CONNECTIONS_MAX);
        Self { shared, connector, client }
    }

    /// The same for each of so many threads: a connection to a host belongs to the thread that uses it.
    pub fn for_threads(&self, count: usize) -> impl Iterator<Item = Arc<Self>> {
        let idle_max = (IDLE_CONNECTIONS_MAX / count.max(1)).max(1);
        (0..count).map(move |_| {
            let (shared, connector) = (self.shared.clone(), self.connector.clone());
            Arc::new(Self { shared, client: client(connector.clone(), idle_max), connector })
        })
    }

    /// Replaces all routes, on all threads.
    pub fn install(&self, routes: HashMap<String, Vec<Backend>>) {
        self.shared.routes.install(routes, &self.shared.metrics.requests);
    }

    pub(crate) fn metrics(&self) -> &Metrics {
        &self.shared.metrics
    }

    /// Answers one request. Every request gets an answer.
    pub async fn answer(&self, request: Request<Received>, peer: SocketAddr) -> Response<PassedBody> {
        let id = headers::request_id(request.headers());
        let name = request.uri().path().split('/').nth(1).unwrap_or_default();
        let app = self.shared.routes.find(name);
        let requests = app.as_ref().map_or(&self.metrics().requests.strays, |app| &app.requests);
        let asked = requests.begin();
        let outcome = match &app {
            Some(app) => self.forward(app, request, &id, peer).await,
            None => Err(Refusal::UnknownApp(name.to_owned())),
        };
        let refused = |refusal| refuse(&refusal, id.to_str().unwrap_or_default());
        let mut response = outcome.unwrap_or_else(refused);
        asked.answered(response.status());
        response.headers_mut().insert(REQUEST_ID, id);
        response
    }

    async fn forward(
        &self,
        app: &App,
        request: Request<Received>,
        id: &HeaderValue,
        peer: SocketAddr,
    ) -> Result<Response<PassedBody>, Refusal> {
        let (mut parts, body) = request.into_parts();
        let host = headers::asked(&parts).ok_or(Refusal::NoHost)?;
        let place = self.place(app)?;
        headers::for_host(&mut parts.headers, host, id.clone(), peer);
        let mut message = Message::new(parts, body);
        let mut tried: Vec<Arc<Host>> = Vec::new();
        let mut refusal = None;
        while tried.len() < TRIES_MAX {
            let Some(host) = app.choose(&tried) else { break };
            let Some(request) = message.next_try(host).await else { break };
            if !tried.is_empty() {
                self.metrics().retries.inc();
            }
            tried.push(host.clone());
            let busy = Busy::begin(host, self.metrics());
            let sent = self.client.request(request);
            match tokio::time::timeout(Duration::from_secs(HEAD_S_MAX), sent).await {
                Ok(Ok(response)) if response.headers().contains_key(NOT_SERVED) => refusal = None,
                Ok(Ok(response)) => {
                    host.answered();
                    return Ok(pass_back(response, (busy, place)));
                }
                Ok(Err(error)) => {
                    if let Some(fault) = client_fault(&error) {
                        return Err(fault);
                    }
                    host.failed();
                    tracing::debug!(host = %host.authority, "{error:?}");
                    refusal = Some(Refusal::Upstream);
                    if !error.is_connect() && !message.is_repeatable {
                        break;
                    }
                }
                Err(_) => return Err(Refusal::Late),
            }
        }
        Err(refusal.unwrap_or_else(|| Refusal::NoReplica(app.name.clone())))
    }

    /// Places for a request, of all and of its app. The last of all are for apps that have few: some that do not answer leave room for others.
    fn place(&self, app: &App) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), Refusal> {
        let Shared { places, reserved, .. } = &*self.shared;
        if !app.has_few_requests() && places.available_permits() <= *reserved {
            return Err(Refusal::Crowded(app.name.clone()));
        }
        let place = places.clone().try_acquire_owned().map_err(|_| Refusal::Overloaded)?;
        let of_app = app.places.clone().try_acquire_owned();
        Ok((place, of_app.map_err(|_| Refusal::Busy(app.name.clone()))?))
    }
}

/// Sends requests over connections of its own.
fn client<C: Connect + Clone>(connector: C, idle_connections_max: usize) -> Client<C, SentBody> {
    Client::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_max_idle_per_host(idle_connections_max)
        .pool_idle_timeout(Duration::from_secs(CLIENT_IDLE_S_MAX))
        .http1_max_buf_size(HEAD_BYTES_MAX as usize)
        .retry_canceled_requests(true) // only what was not sent, because a kept connection had been closed
        .build(connector)
}

/// What is sent, and may have to be sent again.
struct Message {
    parts: Parts,
    body: Option<Lent>,
    /// Where a body comes back that can be sent again.
    back: Option<oneshot::Receiver<Lent>>,
    /// Sending it twice does what sending it once does.
    is_repeatable: bool,
}

impl Message {
    fn new(mut parts: Parts, body: Received) -> Self {
        let is_empty = body.is_end_stream();
        let is_repeatable = matches!(parts.method, Method::GET | Method::HEAD) && is_empty;
        if !is_empty && !parts.headers.contains_key(header::CONTENT_LENGTH) {
            // Of a method that has no body as a rule, one without a length would stay behind.
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let body = (!is_empty).then(|| Lent { body, held: BytesMut::new(), again: Bytes::new(), back: None });
        Self { parts, body, back: None, is_repeatable }
    }

    /// The request for the next host. `None` when more of the body went out already than is held.
    async fn next_try(&mut self, host: &Host) -> Option<Request<SentBody>> {
        if let Some(back) = self.back.take() {
            // The connection that had it is being closed, if the host answered before it had all of it.
            let back = tokio::time::timeout(Duration::from_millis(BACK_MS_MAX), back);
            let lent = back.await.ok()?.ok()?;
            self.body = Some(Lent { again: Bytes::copy_from_slice(&lent.held), ..lent });
        }
        let passed = match self.body.take() {
            Some(lent) => {
                let (back, receiver) = oneshot::channel();
                self.back = Some(receiver);
                Returning { lent: Some(Lent { back: Some(back), ..lent }) }.boxed()
            }
            None => Empty::new().map_err(|never| match never {}).boxed(),
        };
        let mut request = Request::new(passed);
        *request.method_mut() = self.parts.method.clone();
        *request.headers_mut() = self.parts.headers.clone();
        *request.uri_mut() = target(host, &self.parts.uri)?;
        Some(request)
    }
}

/// A body that was lent to a try.
struct Lent {
    body: Received,
    /// What went out of it, as long as that is little: a copy, for a piece keeps all that was read with it.
    held: BytesMut,
    /// What went out before, and goes out again.
    again: Bytes,
    back: Option<oneshot::Sender<Lent>>,
}

impl Lent {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, ReceiveError>>> {
        if !self.again.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(std::mem::take(&mut self.again)))));
        }
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && self.back.is_some()
        {
            match frame.data_ref().filter(|piece| self.held.len() + piece.len() <= HELD_BYTES_MAX) {
                Some(piece) => self.held.extend_from_slice(piece),
                None => {
                    self.back = None; // too much of it, or trailers: it is sent once
                    self.held = BytesMut::new();
                }
            }
        }
        polled
    }
}

/// A body that goes back to where it came from, unless too much of it went out or it broke.
struct Returning {
    lent: Option<Lent>,
}

impl hyper::body::Body for Returning {
    type Data = Bytes;
    type Error = ReceiveError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReceiveError>>> {
        let Some(lent) = &mut self.lent else { return Poll::Ready(None) };
        let polled = lent.poll(cx);
        if matches!(polled, Poll::Ready(Some(Err(_)))) {
            self.lent = None;
        }
        polled.map_ok(without_ours)
    }

    fn is_end_stream(&self) -> bool {
        self.lent.as_ref().is_none_or(|lent| lent.again.is_empty() && lent.body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let Some(lent) = &self.lent else { return SizeHint::default() };
        let (left, again) = (lent.body.size_hint(), lent.again.len() as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(left.lower() + again);
        if let Some(upper) = left.upper() {
            hint.set_upper(upper + again);
        }
        hint
    }
}

impl Drop for Returning {
    fn drop(&mut self) {
        if let Some(mut lent) = self.lent.take()
            && let Some(back) = lent.back.take()
        {
            let _ = back.send(lent); // nobody waits for it when the request was answered
        }
    }
}

fn without_ours(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    frame.trailers_mut().into_iter().for_each(headers::in_trailers);
    frame
}

/// A request that failed because of its body, for which no host can help.
fn client_fault(error: &(dyn Error + 'static)) -> Option<Refusal> {
    let mut error = Some(error);
    while let Some(found) = error {
        match found.downcast_ref() {
            Some(ReceiveError::Slow) => return Some(Refusal::SlowBody),
            Some(ReceiveError::Broken(_)) => return Some(Refusal::BrokenBody),
            None => error = found.source(),
        }
    }
    None
}

/// The response for the user; `held` is let go when its body has ended.
fn pass_back<H: Send + Sync + 'static>(response: Response<Incoming>, held: H) -> Response<PassedBody> {
    let (mut parts, body) = response.into_parts();
    headers::for_user(&mut parts.headers);
    let body = body.map_frame(move |frame| {
        let _ = &held;
        frame
    });
    Response::from_parts(parts, body.boxed())
}

/// Counts a request at its host and in the metrics, until its response has ended.
struct Busy {
    host: Arc<Host>,
    gauge: Gauge,
}

impl Busy {
    fn begin(host: &Arc<Host>, metrics: &Metrics) -> Self {
        host.in_flight.fetch_add(1, Ordering::Relaxed);
        metrics.in_flight.inc();
        Self { host: host.clone(), gauge: metrics.in_flight.clone() }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.host.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}

fn target(host: &Host, uri: &Uri) -> Option<Uri> {
    let mut target = uri::Parts::default();
    target.scheme = Some(Scheme::HTTP);
    target.authority = Some(host.authority.clone());
    target.path_and_query = uri.path_and_query().cloned().or(Some(PathAndQuery::from_static("/")));
    Uri::from_parts(target).ok()
}

/// The one place where a refusal becomes a response.
fn refuse(refusal: &Refusal, id: &str) -> Response<PassedBody> {
    let (status, code, detail) = match refusal {
        Refusal::UnknownApp(name) => {
            (StatusCode::NOT_FOUND, "OS-RTR-40401", format!("no app `{name}` is deployed to this stage"))
        }
        Refusal::NoHost => {
            let detail = "the request names no host: it needs a `Host` header".to_owned();
            (StatusCode::BAD_REQUEST, "OS-RTR-40003", detail)
        }
        Refusal::NoReplica(name) => (
            StatusCode::SERVICE_UNAVAILABLE,
            "OS-RTR-50301",
            format!("no host serves `{name}` now; try again in a moment"),
        ),
        Refusal::Overloaded => {
            let detail = "the router has as many requests under way as it may; try again in a moment".into();
            (StatusCode::SERVICE_UNAVAILABLE, "OS-RTR-50302", detail)
        }
        Refusal::Busy(name) => {
            let detail = format!("`{name}` has as many requests under way as it may; try again in a moment");
            (StatusCode::SERVICE_UNAVAILABLE, "OS-RTR-50303", detail)
        }
        Refusal::Crowded(name) => {
            let detail = format!(
                "the router has few places left, which are for apps with fewer requests under way than `{name}`; try again in a moment"
            );
            (StatusCode::SERVICE_UNAVAILABLE, "OS-RTR-50303", detail)
        }
        Refusal::Upstream => {
            (StatusCode::BAD_GATEWAY, "OS-RTR-50201", "the host went away before it answered".to_owned())
        }
        Refusal::SlowBody => {
            let detail = "the body of the request came too slowly".to_owned();
            (StatusCode::REQUEST_TIMEOUT, "OS-RTR-40801", detail)
        }
        Refusal::BrokenBody => {
            (StatusCode::BAD_REQUEST, "OS-RTR-40001", "the body of the request is broken".to_owned())
        }
        Refusal::Late => (
            StatusCode::GATEWAY_TIMEOUT,
            "OS-RTR-50401",
            format!("the host did not answer within {HEAD_S_MAX} s"),
        ),
    };
    problem(status, code, &detail, id).map(|body| body.map_err(|never| match never {}).boxed())
}
