//! The request path of the router: find the app, choose a replica, pass the request on, try another replica
//! when nothing can have happened yet.
//!
//! A request is sent a second time only if the first try cannot have had an effect: the connection failed
//! before a byte of the request was sent, the host says that it does not serve the app, or it is a GET or HEAD
//! without a body and no byte of a response came. Bodies are passed on as streams, never held.

use std::collections::{HashMap, HashSet};
use std::error::Error;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Body as _, Frame, Incoming, SizeHint};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::Connect;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use odeon_http::connect::Connector;
use odeon_http::limits::{CLIENT_IDLE_S_MAX, HEAD_BYTES_MAX};
use odeon_http::{ReceiveError, Received, problem};
use odeon_protocol::headers::{CALL, NOT_SERVED, REQUEST_ID, REQUEST_ID_BYTES_MAX, TRIGGER, USER};
use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{Semaphore, oneshot};

use crate::metrics::{Metrics, Request as RequestLabels, class};

/// Tries of one request, the first included.
const TRIES_MAX: usize = 3;
/// How long the head of a response may take, in seconds: longer than an app's own deadline.
const HEAD_S_MAX: u64 = 65;
/// How long connecting to a host may take, in seconds.
const CONNECT_S_MAX: u64 = 2;
/// A host whose connection failed is chosen last for this long, in milliseconds.
const BACKOFF_MS: u64 = 1_000;
/// Requests at once.
const REQUESTS_MAX: usize = 8_192;
/// Requests of one app at once: an app that does not answer leaves the other half to the others.
const APP_REQUESTS_MAX: usize = REQUESTS_MAX / 2;
/// Idle connections kept per host.
const IDLE_CONNECTIONS_MAX: usize = 256;
/// What an app is told for the host when HTTP/1.0 names none; hosts say the same.
const NO_HOST: &str = "localhost";
/// Headers that end at the next hop (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// What proxies say of where a request came from. A client may have written it, so apps hear of it only what the router says itself.
const OF_PROXIES: [&str; 10] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-real-ip",
];

/// What only hosts may say.
const OF_HOSTS: [&str; 4] = [CALL, TRIGGER, USER, NOT_SERVED];

/// The body of a request on its way through.
type SentBody = BoxBody<Bytes, ReceiveError>;
/// The body of a response on its way through.
pub type PassedBody = BoxBody<Bytes, hyper::Error>;

/// A host that serves an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Where its ingress is.
    pub address: Arc<str>,
}

/// The proxy; `C` connects it to hosts.
pub struct Proxy<C = Connector> {
    routes: RwLock<HashMap<String, Route>>,
    hosts: Mutex<HashMap<Arc<str>, Arc<HostLoad>>>,
    client: Client<C, SentBody>,
    places: Arc<Semaphore>,
    app_requests_max: usize,
    pub(crate) metrics: Metrics,
}

/// An app.
#[derive(Clone)]
struct Route {
    replicas: Arc<Vec<Backend>>,
    places: Arc<Semaphore>,
}

#[derive(Default)]
struct HostLoad {
    in_flight: AtomicUsize,
    failed_at: Mutex<Option<Instant>>,
}

impl HostLoad {
    fn is_backing_off(&self) -> bool {
        let failed_at = self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.is_some_and(|at| at.elapsed() < Duration::from_millis(BACKOFF_MS))
    }
    fn note(&self, failed_at: Option<Instant>) {
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = failed_at;
    }
}

enum Refusal {
    UnknownApp(String),
    NoHost,
    NoReplica(String),
    Overloaded,
    Busy(String),
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
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .pool_idle_timeout(Duration::from_secs(CLIENT_IDLE_S_MAX))
            .http1_max_buf_size(HEAD_BYTES_MAX as usize)
            .retry_canceled_requests(false) // whether a request may be sent again is decided here
            .build(connector);
        Self {
            routes: RwLock::default(),
            hosts: Mutex::default(),
            client,
            places: Arc::new(Semaphore::new(requests_max)),
            app_requests_max,
            metrics: Metrics::new(),
        }
    }

    /// Replaces all routes.
    pub fn install(&self, routes: HashMap<String, Vec<Backend>>) {
        let addresses: HashSet<_> = routes.values().flatten().map(|backend| &backend.address).collect();
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        hosts.retain(|address, _| addresses.contains(address));
        drop(hosts);
        let mut known = self.routes.write().unwrap_or_else(PoisonError::into_inner);
        let before = std::mem::take(&mut *known);
        known.extend(routes.into_iter().map(|(name, replicas)| {
            let places = before.get(&name).map(|route| route.places.clone()); // some may be taken
            let places = places.unwrap_or_else(|| Arc::new(Semaphore::new(self.app_requests_max)));
            (name, Route { replicas: Arc::new(replicas), places })
        }));
    }

    /// Answers one request. Every request gets an answer.
    pub async fn answer(&self, request: Request<Received>, peer: SocketAddr) -> Response<PassedBody> {
        let id = request_id(request.headers());
        let name = request.uri().path().split('/').nth(1).unwrap_or_default().to_owned();
        let outcome = self.forward(request, &name, &id, peer).await;
        let known = !matches!(outcome, Err(Refusal::UnknownApp(_)));
        let mut response = outcome.unwrap_or_else(|refusal| refuse(&refusal, &id));
        if let Ok(id) = HeaderValue::from_str(&id) {
            response.headers_mut().insert(REQUEST_ID, id);
        }
        let app = if known { name } else { String::new() };
        self.metrics.requests.get_or_create(&RequestLabels { app, class: class(response.status()) }).inc();
        response
    }

    async fn forward(
        &self,
        request: Request<Received>,
        name: &str,
        id: &str,
        peer: SocketAddr,
    ) -> Result<Response<PassedBody>, Refusal> {
        let route = self.routes.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned();
        let Route { replicas, places } = route.ok_or_else(|| Refusal::UnknownApp(name.to_owned()))?;
        let (mut parts, body) = request.into_parts();
        let host = asked(&parts).ok_or(Refusal::NoHost)?;
        let place = self.places.clone().try_acquire_owned().map_err(|_| Refusal::Overloaded)?;
        let app_place = places.try_acquire_owned().map_err(|_| Refusal::Busy(name.to_owned()))?;
        let place = (place, app_place);
        prepare(&mut parts.headers, host, id, peer);
        let mut message = Message::new(parts, body);
        let mut tried: Vec<Arc<str>> = Vec::new();
        let mut refusal = Refusal::NoReplica(name.to_owned());
        while tried.len() < TRIES_MAX {
            let Some((backend, load)) = self.choose(&replicas, &tried) else { break };
            let Some(request) = message.next_try(&backend) else { break };
            if !tried.is_empty() {
                self.metrics.retries.inc();
            }
            tried.push(backend.address.clone());
            let busy = Busy::begin(&load, &self.metrics);
            let sent = self.client.request(request);
            match tokio::time::timeout(Duration::from_secs(HEAD_S_MAX), sent).await {
                Ok(Ok(response)) if response.headers().contains_key(NOT_SERVED) => {
                    refusal = Refusal::NoReplica(name.to_owned());
                }
                Ok(Ok(response)) => {
                    load.note(None);
                    return Ok(pass_back(response, (busy, place)));
                }
                Ok(Err(error)) => {
                    if let Some(fault) = client_fault(&error) {
                        return Err(fault);
                    }
                    load.note(Some(Instant::now()));
                    tracing::debug!(host = %backend.address, "{error:?}");
                    refusal = Refusal::Upstream;
                    if !error.is_connect() && !message.is_repeatable {
                        break;
                    }
                }
                Err(_) => return Err(Refusal::Late),
            }
        }
        Err(refusal)
    }

    /// The less loaded of two random replicas, those that just failed last.
    fn choose(&self, replicas: &[Backend], tried: &[Arc<str>]) -> Option<(Backend, Arc<HostLoad>)> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let untried = replicas.iter().filter(|replica| !tried.contains(&replica.address));
        let all: Vec<_> = untried
            .map(|replica| (replica, hosts.entry(replica.address.clone()).or_default().clone()))
            .collect();
        let well: Vec<_> = all.iter().filter(|(_, load)| !load.is_backing_off()).cloned().collect();
        let pool = if well.is_empty() { all } else { well };
        if pool.is_empty() {
            return None;
        }
        let (first, second) = (rand::random_range(0..pool.len()), rand::random_range(0..pool.len()));
        let load = |at: usize| pool[at].1.in_flight.load(Ordering::Relaxed);
        let at = if load(second) < load(first) { second } else { first };
        Some((pool[at].0.clone(), pool[at].1.clone()))
    }
}

/// What is sent, and may have to be sent again.
struct Message {
    parts: Parts,
    body: Option<Received>,
    /// Where a body comes back that a try did not touch.
    back: Option<oneshot::Receiver<Received>>,
    /// Sending it twice does what sending it once does.
    is_repeatable: bool,
}

impl Message {
    fn new(parts: Parts, body: Received) -> Self {
        let is_empty = body.is_end_stream();
        let is_repeatable = matches!(parts.method, Method::GET | Method::HEAD) && is_empty;
        Self { parts, body: (!is_empty).then_some(body), back: None, is_repeatable }
    }

    /// The request for the next host. `None` when the body, or a part of it, went out already.
    fn next_try(&mut self, backend: &Backend) -> Option<Request<SentBody>> {
        if let Some(mut back) = self.back.take() {
            self.body = Some(back.try_recv().ok()?);
        }
        let passed = match self.body.take() {
            Some(body) => {
                let (back, receiver) = oneshot::channel();
                self.back = Some(receiver);
                Lent { body: Some(body), back: Some(back) }.boxed()
            }
            None => Empty::new().map_err(|never| match never {}).boxed(),
        };
        let mut request = Request::new(passed);
        *request.method_mut() = self.parts.method.clone();
        *request.headers_mut() = self.parts.headers.clone();
        *request.uri_mut() = target(backend, &self.parts.uri)?;
        Some(request)
    }
}

/// A body that goes back to where it came from when nobody asked it for a byte.
struct Lent {
    body: Option<Received>,
    back: Option<oneshot::Sender<Received>>,
}

impl hyper::body::Body for Lent {
    type Data = Bytes;
    type Error = ReceiveError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReceiveError>>> {
        self.back = None;
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx).map_ok(without_ours),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Received::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, Received::size_hint)
    }
}

/// Trailers say as little of hosts and proxies as headers do.
fn without_ours(mut frame: Frame<Bytes>) -> Frame<Bytes> {
    if let Some(trailers) = frame.trailers_mut() {
        for name in OF_HOSTS.iter().chain(&OF_PROXIES) {
            trailers.remove(*name);
        }
    }
    frame
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(back), Some(body)) = (self.back.take(), self.body.take()) {
            let _ = back.send(body); // nobody waits for it when the request was answered
        }
    }
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
    HOP_BY_HOP.iter().for_each(|name| while parts.headers.remove(name).is_some() {});
    let body = body.map_frame(move |frame| {
        let _ = &held;
        frame
    });
    Response::from_parts(parts, body.boxed())
}

/// Counts a request at its host and in the metrics, until its response has ended.
struct Busy {
    load: Arc<HostLoad>,
    gauge: Gauge,
}

impl Busy {
    fn begin(load: &Arc<HostLoad>, metrics: &Metrics) -> Self {
        load.in_flight.fetch_add(1, Ordering::Relaxed);
        metrics.in_flight.inc();
        Self { load: load.clone(), gauge: metrics.in_flight.clone() }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.gauge.dec();
    }
}

fn target(backend: &Backend, uri: &Uri) -> Option<Uri> {
    let path = uri.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    Uri::builder().scheme("http").authority(&*backend.address).path_and_query(path).build().ok()
}

/// The host that a request asks, as its app is told. What its target says goes before its header (RFC 9112, 3.2.2).
fn asked(parts: &Parts) -> Option<HeaderValue> {
    if let Some(authority) = parts.uri.authority() {
        let host = authority.as_str().rsplit('@').next()?; // without a user and a password
        return HeaderValue::from_str(host).ok();
    }
    let is_old = parts.version <= Version::HTTP_10; // it need not say
    parts.headers.get(header::HOST).cloned().or_else(|| is_old.then(|| HeaderValue::from_static(NO_HOST)))
}

/// What the next hop sees: no header of this hop, which host was asked, and where the request came from.
fn prepare(headers: &mut HeaderMap, host: HeaderValue, id: &str, peer: SocketAddr) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    HOP_BY_HOP.iter().chain(&named).for_each(|name| while headers.remove(name).is_some() {});
    for name in OF_HOSTS.iter().chain(&OF_PROXIES) {
        headers.remove(*name);
    }
    headers.insert(header::HOST, host); // without one the client would tell the app our name for its host
    let set = |headers: &mut HeaderMap, name: &'static str, value: &str| {
        if let Ok(value) = HeaderValue::from_str(value) {
            headers.insert(name, value);
        }
    };
    set(headers, REQUEST_ID, id);
    set(headers, "x-forwarded-for", &peer.ip().to_string());
    set(headers, "x-forwarded-proto", "http");
    if !headers.contains_key("traceparent") {
        let (trace, span) = (rand::random::<u128>() | 1, rand::random::<u64>() | 1);
        set(headers, "traceparent", &format!("00-{trace:032x}-{span:016x}-00"));
    }
}

fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(REQUEST_ID).and_then(|id| id.to_str().ok());
    match given {
        Some(id) if !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX => id.to_owned(),
        Some(_) | None => uuid::Uuid::new_v4().to_string(),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trailers_say_nothing_of_hosts_and_proxies() {
        let mut trailers = HeaderMap::new();
        for name in OF_HOSTS.into_iter().chain(OF_PROXIES).chain(["x-sum"]) {
            trailers.append(name, HeaderValue::from_static("x"));
            trailers.append(name, HeaderValue::from_static("y"));
        }
        let passed = without_ours(Frame::trailers(trailers)).into_trailers().unwrap();
        assert_eq!(passed.len(), 2, "{passed:?}");
        assert!(passed.contains_key("x-sum"));
        assert_eq!(without_ours(Frame::data(Bytes::from_static(b"body"))).into_data().unwrap(), "body");
    }
}
