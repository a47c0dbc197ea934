//! The request path of the router: find the app, choose a replica, pass the request on, try another replica
//! when nothing can have happened yet.
//!
//! A request is sent a second time only if the first try cannot have had an effect: the connection failed
//! before a byte of the request was sent, the host says that it does not serve the app, or it is a GET or HEAD
//! without a body and no byte of a response came. Bodies are passed on as streams; only the beginning of one is held, for a second try.

use std::collections::HashMap;
use std::error::Error;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::Full;
use hyper::body::{Body, Frame, SizeHint};
use odeon_http::client::{Answer, Client, Connect};
use odeon_http::connect::Connector;
use odeon_http::{ReceiveError, Received, problem};
use tokio::sync::oneshot;

use crate::headers::{self, NOT_SERVED, REQUEST_ID};
use crate::metrics::Metrics;
use crate::places::{NoPlace, Place};
use crate::routes::{App, Routes};

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
/// Of the body of a request so much is held for a second try, in bytes: most that call an app have less.
const HELD_BYTES_MAX: usize = 16 << 10;
/// How long a body may take to come back from a try, in milliseconds.
const BACK_MS_MAX: u64 = 500;
/// Idle connections kept per host, of all threads together.
const IDLE_CONNECTIONS_MAX: usize = 256;

/// The proxy of one thread; `C` connects it to hosts. Those of other threads share its routes and limits ([`Proxy::for_threads`]).
pub struct Proxy<C = Connector> {
    shared: Arc<Shared>,
    connector: C,
    client: Client<C, Returning>,
}

struct Shared {
    routes: Routes,
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

impl<C: Connect> Proxy<C> {
    /// A proxy that reaches hosts through `connector`, which bounds how long connecting may take.
    pub fn over(connector: C, requests_max: usize, app_requests_max: usize) -> Self {
        let shared =
            Arc::new(Shared { routes: Routes::new(requests_max, app_requests_max), metrics: Metrics::new() });
        let client = Client::new(connector.clone(), IDLE_CONNECTIONS_MAX);
        Self { shared, connector, client }
    }

    /// The same for each of so many threads: a connection to a host belongs to the thread that uses it.
    pub fn for_threads(&self, count: usize) -> impl Iterator<Item = Arc<Self>> {
        let idle_max = (IDLE_CONNECTIONS_MAX / count.max(1)).max(1);
        (0..count).map(move |_| {
            let (shared, connector) = (self.shared.clone(), self.connector.clone());
            Arc::new(Self { shared, client: Client::new(connector.clone(), idle_max), connector })
        })
    }

    /// Replaces all routes, on all threads.
    pub fn install(&self, routes: HashMap<String, Vec<Backend>>) {
        self.shared.routes.install(routes, &self.shared.metrics.requests);
    }

    /// What Prometheus reads.
    pub(crate) fn metrics(&self) -> String {
        self.shared.metrics.encode(self.shared.routes.places.taken())
    }

    /// Answers one request; apps are told that it came from `from`. Every request gets an answer.
    ///
    /// What needs no waiting is done before there is a future: so that holds the request once, and is small where it is moved.
    pub fn answer(
        self: &Arc<Self>,
        request: Request<Received>,
        from: HeaderValue,
    ) -> impl Future<Output = Response<Passed>> + Send + use<C> {
        let id = headers::request_id(request.headers());
        let name = request.uri().path().split('/').nth(1).unwrap_or_default();
        let app = self.shared.routes.find(name).ok_or_else(|| Refusal::UnknownApp(name.to_owned()));
        let message = Message::for_host(request, id.clone(), from);
        let proxy = self.clone();
        async move {
            let requests = app.as_ref().map_or(&proxy.shared.metrics.requests.strays, |app| &app.requests);
            let asked = requests.begin();
            let outcome = match (&app, message) {
                (Ok(app), Ok(mut message)) => proxy.forward(app, &mut message).await,
                (Ok(_), Err(refusal)) => Err(refusal),
                (Err(unknown), _) => Ok(refuse(unknown, id.to_str().unwrap_or_default())),
            };
            let refused = |refusal| refuse(&refusal, id.to_str().unwrap_or_default());
            let mut response = outcome.unwrap_or_else(refused);
            asked.answered(response.status());
            response.headers_mut().insert(REQUEST_ID, id);
            response
        }
    }

    async fn forward(&self, app: &Arc<App>, message: &mut Message) -> Result<Response<Passed>, Refusal> {
        let mut place = Place::take(app).map_err(|why| Refusal::of(why, &app.name))?;
        let mut tried = Vec::new();
        let mut refusal = None;
        while tried.len() < TRIES_MAX {
            let Some(chosen) = app.choose(&tried) else { break };
            let Some(request) = message.next_try().await else { break };
            if !tried.is_empty() {
                self.shared.metrics.retries.inc();
            }
            tried.push(chosen);
            place.goes_to(chosen);
            let host = &app.hosts[chosen];
            let sent = self.client.send(&host.authority, request);
            match tokio::time::timeout(Duration::from_secs(HEAD_S_MAX), sent).await {
                Ok(Ok(response)) if response.headers().contains_key(NOT_SERVED) => refusal = None,
                Ok(Ok(response)) => {
                    host.answered();
                    return Ok(pass_back(response, place));
                }
                Ok(Err(error)) => {
                    if let Some(fault) = client_fault(&error) {
                        return Err(fault);
                    }
                    host.failed();
                    tracing::debug!(host = %host.authority, "{error:?}");
                    refusal = Some(Refusal::Upstream);
                    if !error.is_unsent() && !message.is_repeatable {
                        break;
                    }
                }
                Err(_) => return Err(Refusal::Late),
            }
        }
        Err(refusal.unwrap_or_else(|| Refusal::NoReplica(app.name.clone())))
    }
}

/// What is sent, and may have to be sent again.
struct Message {
    parts: Parts,
    /// Most have none, and what is moved for each request is small.
    body: Option<Box<Lent>>,
    /// Where a body comes back that can be sent again.
    back: Option<oneshot::Receiver<Box<Lent>>>,
    /// Sending it twice does what sending it once does.
    is_repeatable: bool,
}

impl Message {
    fn for_host(request: Request<Received>, id: HeaderValue, from: HeaderValue) -> Result<Self, Refusal> {
        let (mut parts, body) = request.into_parts();
        let asked = headers::asked(&parts).ok_or(Refusal::NoHost)?;
        headers::for_host(&mut parts.headers, asked, id, from);
        let is_empty = body.is_end_stream();
        let is_repeatable = matches!(parts.method, Method::GET | Method::HEAD) && is_empty;
        if !is_empty && !parts.headers.contains_key(header::CONTENT_LENGTH) {
            // Of a method that has no body as a rule, one without a length would stay behind.
            parts.headers.insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
        }
        let lent = || Box::new(Lent { body, held: BytesMut::new(), again: Bytes::new(), back: None });
        let body = (!is_empty).then(lent);
        Ok(Self { parts, body, back: None, is_repeatable })
    }

    /// The request for the next host. `None` when more of the body went out already than is held.
    async fn next_try(&mut self) -> Option<Request<Returning>> {
        if let Some(back) = self.back.take() {
            // The connection that had it is being closed, if the host answered before it had all of it.
            let back = Box::pin(tokio::time::timeout(Duration::from_millis(BACK_MS_MAX), back));
            let mut lent = back.await.ok()?.ok()?;
            lent.again = Bytes::copy_from_slice(&lent.held);
            self.body = Some(lent);
        }
        let mut lent = self.body.take();
        if let Some(lent) = &mut lent {
            let (back, receiver) = oneshot::channel();
            self.back = Some(receiver);
            lent.back = Some(back);
        }
        let mut request = Request::new(Returning { lent });
        *request.method_mut() = self.parts.method.clone();
        *request.headers_mut() = self.parts.headers.clone();
        *request.uri_mut() = match self.parts.uri.path_and_query() {
            Some(path) => path.clone().into(),
            None => Uri::from(PathAndQuery::from_static("/")),
        };
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
    back: Option<oneshot::Sender<Box<Lent>>>,
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

/// The body of a request on its way through. It goes back to where it came from, unless too much of it went out or it broke.
struct Returning {
    /// None where there is none.
    lent: Option<Box<Lent>>,
}

impl Body for Returning {
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
        let Some(lent) = &self.lent else { return SizeHint::with_exact(0) };
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

/// The response for the user, whose place is given back when its body was.
fn pass_back(response: Response<Answer<Returning>>, place: Place) -> Response<Passed> {
    let (mut parts, body) = response.into_parts();
    headers::for_user(&mut parts.headers);
    Response::from_parts(parts, Passed(Whose::Host { body, _place: place }))
}

/// The body of a response on its way through, or of a refusal.
pub struct Passed(Whose);

enum Whose {
    Host { body: Answer<Returning>, _place: Place },
    Ours(Full<Bytes>),
}

impl Body for Passed {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match &mut self.0 {
            Whose::Host { body, .. } => Pin::new(body).poll_frame(cx),
            Whose::Ours(body) => Pin::new(body).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            Whose::Host { body, .. } => body.is_end_stream(),
            Whose::Ours(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            Whose::Host { body, .. } => body.size_hint(),
            Whose::Ours(body) => body.size_hint(),
        }
    }
}

impl Refusal {
    fn of(why: NoPlace, app: &str) -> Self {
        match why {
            NoPlace::Overloaded => Self::Overloaded,
            NoPlace::Busy => Self::Busy(app.to_owned()),
            NoPlace::Crowded => Self::Crowded(app.to_owned()),
        }
    }
}

/// The one place where a refusal becomes a response.
fn refuse(refusal: &Refusal, id: &str) -> Response<Passed> {
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
    problem(status, code, &detail, id).map(|body| Passed(Whose::Ours(body)))
}
