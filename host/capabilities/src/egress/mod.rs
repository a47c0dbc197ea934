//! Outgoing HTTP: denied, unless the app's settings name the authority. Other apps of the stage have an authority of
//! their own, and are called through the host.
//!
//! A request passes, in order: how many requests this one may cause, the app's allow-list, a place among the app's
//! connections ([`Gateway`]), the addresses of the name ([`networks`]), and is sent ([`send`]) with bounds on what comes back
//! ([`answer`]). Invariants: the address that was judged is the one that is dialled; redirects are the guest's to follow,
//! as new requests; whatever is denied is told in the app's log, once per request.

mod answer;
mod gateway;
pub mod networks;
mod send;

use std::pin::Pin;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use http::Method;
use http_body::Body as _;
use http_body_util::BodyExt as _;
use odeon_engine::Payer;
use tokio::sync::OwnedSemaphorePermit;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::log::RequestLog;

pub use gateway::Gateway;
use gateway::Share;

/// Requests that one incoming request may send, to other servers and to apps: one request from outside must not become a
/// flood. A page that needs more than a thousand answers of others cannot be built within its deadline.
pub const REQUESTS_MAX: u32 = 1_000;
/// The same for a timer or an event, which has 20 minutes and may have a table to go through.
pub const TRIGGERED_REQUESTS_MAX: u32 = 50_000;
/// What is left for a request that another app called: each level multiplies.
const NESTED_SHARE: u32 = 5;
/// The least that a nested request may send.
const NESTED_REQUESTS_MIN: u32 = 20;

/// Largest piece of a body that a guest writes, in bytes. Two of them wait in the host for each body that a guest has begun, also for
/// one that it never sends, and a guest may begin thousands.
const PIECE_BYTES_MAX: usize = 32 << 10;

/// The authority is not in the app's settings.
const NOT_ALLOWED: &str = "OS-BERT-40310";
/// The authority is at an address that apps may not reach.
const CLOSED_NETWORK: &str = "OS-BERT-40311";
/// Too many requests, or connections at once.
const TOO_MANY: &str = "OS-BERT-42910";
/// The answer of a server is larger than an app may take.
const TOO_LARGE: &str = "OS-BERT-50210";

/// How many requests may be sent by one that is `depth` calls between apps away from the outside.
pub fn requests_max(depth: u32) -> u32 {
    (0..depth).fold(REQUESTS_MAX, |left, _| left / NESTED_SHARE).max(NESTED_REQUESTS_MIN)
}

/// Calls other apps of the stage, for one app.
pub trait CallApps: Send + Sync + 'static {
    /// Answers a request to another app. It comes from the request with that id, to which `depth` calls between apps led.
    fn call(&self, request: http::Request<WasiBody>, id: &str, depth: u32) -> BoxFuture<'static, Called>;
}

/// What another app answered, or why it was not asked.
pub type Called = Result<http::Response<WasiBody>, ErrorCode>;

/// Where one app may call, and its share of the host's connections. All of its requests have this one.
pub struct AppEgress {
    gateway: Arc<Gateway>,
    share: Arc<Share>,
    /// `host` (any port) or `host:port`, lower case.
    allowed: Vec<String>,
    /// The authority of other apps, and who calls them.
    apps: Option<(&'static str, Arc<dyn CallApps>)>,
    payer: Option<Payer>,
}

impl AppEgress {
    /// What one request of the app may send: `requests_max` requests at most.
    pub fn begin(self: &Arc<Self>, requests_max: u32, log: RequestLog) -> Egress {
        Egress { app: Some(self.clone()), left: requests_max, requests_max, ..Egress::none(log) }
    }

    /// Lets requests to `authority` go to other apps.
    pub fn with_apps(self, authority: &'static str, apps: Arc<dyn CallApps>) -> Self {
        Self { apps: Some((authority, apps)), ..self }
    }

    /// Charges for connections: TLS, heads and bodies.
    pub fn paid_by(self, payer: Payer) -> Self {
        Self { payer: Some(payer), ..self }
    }

    fn permits(&self, uri: &http::Uri) -> bool {
        let Some(authority) = uri.authority() else { return false };
        let host = authority.host().to_ascii_lowercase();
        let with_port = format!("{host}:{}", send::port_of(uri, authority));
        self.allowed.iter().any(|allowed| *allowed == host || *allowed == with_port)
    }
}

/// The outgoing HTTP of one request.
pub struct Egress {
    /// Absent where nothing may leave.
    app: Option<Arc<AppEgress>>,
    /// How many calls between apps led to this request.
    depth: u32,
    left: u32,
    requests_max: u32,
    log: RequestLog,
}

impl Egress {
    /// Nobody is reached.
    pub fn none(log: RequestLog) -> Self {
        Self { app: None, depth: 0, left: REQUESTS_MAX, requests_max: REQUESTS_MAX, log }
    }

    /// Of a request to which so many calls between apps led.
    pub fn at_depth(self, depth: u32) -> Self {
        Self { depth, ..self }
    }

    /// A place among the app's requests that have no answer yet.
    fn pending(&self) -> Result<Option<OwnedSemaphorePermit>, Error> {
        let Some(app) = &self.app else { return Ok(None) };
        app.share.pending.clone().try_acquire_owned().map(Some).map_err(|_| {
            self.log.denied(TOO_MANY, || "the app has as many requests without an answer as it may".into());
            Error::ConnectionLimitReached
        })
    }

    /// Why a request is not sent, if it is not. Whom it is for comes last.
    fn refuses(&mut self, request: &http::Request<WasiBody>) -> Option<Error> {
        let Some(left) = self.left.checked_sub(1) else {
            let max = self.requests_max;
            self.log
                .denied(TOO_MANY, || format!("a request may send {max} requests, and this one sends more"));
            return Some(Error::ConnectionLimitReached);
        };
        self.left = left;
        if request.method() == Method::CONNECT {
            return Some(Error::HttpRequestMethodInvalid); // a tunnel is more than a request
        }
        let authority = request.uri().authority()?;
        authority.as_str().contains('@').then_some(Error::HttpRequestUriInvalid)
    }
}

/// The answer of another app, which keeps its place until it was read or dropped.
fn until_read(
    called: http::Response<WasiBody>,
    place: Option<OwnedSemaphorePermit>,
) -> http::Response<WasiBody> {
    called.map(|body| {
        if body.is_end_stream() {
            return body;
        }
        let with_its_place = move |frame| {
            let _ = &place;
            frame
        };
        body.map_frame(with_its_place).boxed_unsync()
    })
}

type Transfer = Box<dyn Future<Output = Result<(), Error>> + Send>;
type Sent = Result<(http::Response<WasiBody>, Transfer), Error>;

impl WasiHttpHooks for Egress {
    fn send_request(
        &mut self,
        request: http::Request<WasiBody>,
        options: Option<RequestOptions>,
        _body: Transfer,
    ) -> Box<dyn Future<Output = Sent> + Send> {
        if let Some(error) = self.refuses(&request) {
            return Box::new(async { Err(error) });
        }
        let authority = request.uri().authority();
        let pending = match self.pending() {
            Ok(pending) => pending,
            Err(error) => return Box::new(async { Err(error) }),
        };
        if let Some((own, apps)) = self.app.as_ref().and_then(|app| app.apps.as_ref())
            && authority.is_some_and(|authority| authority.as_str() == *own)
        {
            let called = apps.call(request, self.log.request_id(), self.depth);
            let done = || Box::new(async { Ok(()) }) as Transfer;
            return Box::new(async move { Ok((until_read(called.await?, pending), done())) });
        }
        let Some(app) = self.app.as_ref().filter(|app| app.permits(request.uri())) else {
            self.log.denied(NOT_ALLOWED, || {
                let to = authority.map_or("a server without a name", http::uri::Authority::as_str);
                format!("a request to `{to}` was denied; `odeon deploy ... --allow {to}` allows it")
            });
            return Box::new(async { Err(Error::HttpRequestDenied) });
        };
        let (app, log) = (app.clone(), self.log.clone());
        Box::new(async move {
            let sent = send::send(&app, request, options.unwrap_or_default(), &log);
            let sent = Payer::charge(app.payer.clone(), sent).await;
            drop(pending);
            let (response, transfer) = sent?;
            let transfer = Payer::charge(app.payer.clone(), Pin::from(transfer));
            Ok((response, Box::new(transfer) as Transfer))
        })
    }

    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        PIECE_BYTES_MAX
    }

    fn p3_outgoing_body_chunk_size(&mut self) -> usize {
        PIECE_BYTES_MAX
    }
}

#[cfg(test)]
mod tests;
