//! Other apps of the stage: which hosts serve them, and how they are called.
//!
//! An app that is served here is called here, without a network. Any other is called on a host that serves it, as
//! routers see it, with a sealed [`Call`]; a second host is asked when the first was not reached or does not serve the
//! app. Invariant: a call is sent again only if no guest saw it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use async_nats::jetstream;
use bytes::{Bytes, BytesMut};
use futures_util::StreamExt as _;
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full};
use odeon_capabilities::egress::{CallApps, Called};
use odeon_engine::Body;
use odeon_engine::wasmtime_wasi_http::WasiBody;
use odeon_engine::wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;
use odeon_http::client::{Answer, Client};
use odeon_http::connect::Connector;
use odeon_protocol::bucket::{self, News};
use odeon_protocol::calls::{CALL_S_MAX, Call, DEPTH_MAX};
use odeon_protocol::headers::{CALL, NOT_SERVED, REQUEST_ID, USER};
use odeon_protocol::routes::Table;
use odeon_protocol::{AppId, DesiredApp, HostHeartbeat, ReplicaStatus, subjects};
use tracing::warn;

use crate::Host;
use crate::ingress;
use crate::problem::problem;
use crate::triggers::{self, From, Trigger};

/// Hosts that are asked for one call.
const TRIES_MAX: usize = 2;
/// How long connecting to a host may take, in seconds.
const CONNECT_S_MAX: u64 = 2;
/// Idle connections kept per host.
const IDLE_CONNECTIONS_MAX: usize = 32;
/// Inputs of a call, in bytes; the body of any request has as many.
const INPUTS_BYTES_MAX: usize = 30_000_000;
/// Inputs of all calls of one app to other hosts that are held at once, in bytes: they are held whole, for a second host.
const APP_INPUTS_BYTES_MAX: usize = 128 << 20;
/// Wait before a lost subscription is opened again, in milliseconds.
const WATCH_RETRY_MS: u64 = 500;

/// The hosts of the stage and what they serve.
pub(crate) struct Peers {
    known: Mutex<Known>,
    client: Client<Connector, Full<Bytes>>,
    held: Arc<Mutex<HashMap<AppId, usize>>>,
}

#[derive(Default)]
struct Known {
    table: Table,
    nats: Option<async_nats::Client>,
}

impl Peers {
    pub(crate) fn new() -> Self {
        let connector = Connector::within(Duration::from_secs(CONNECT_S_MAX));
        let client = Client::new(connector, IDLE_CONNECTIONS_MAX);
        Self { known: Mutex::default(), client, held: Arc::default() }
    }

    /// News of an app.
    pub(crate) fn hear(&self, desired: DesiredApp) {
        self.lock().table.hear_desired(desired);
    }

    /// Addresses of the hosts that serve an app, in no order.
    fn addresses(&self, app: &str) -> Vec<String> {
        let mut known = self.lock();
        let connected = known.nats.as_ref().is_some_and(is_connected);
        let now = known.table.judged_by(Instant::now(), connected);
        let route = known.table.route_of(app, now);
        drop(known);
        let mut addresses: Vec<String> =
            route.into_iter().flat_map(|route| route.replicas).map(|(_, address)| address).collect();
        let start = usize::try_from(uuid::Uuid::new_v4().as_u128() % 1_024).unwrap_or(0);
        if !addresses.is_empty() {
            let places = addresses.len();
            addresses.rotate_left(start % places);
        }
        addresses
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_connected(client: &async_nats::Client) -> bool {
    client.connection_state() == async_nats::connection::State::Connected
}

/// Hears for ever what the hosts of the stage serve.
pub(crate) async fn follow(host: Arc<Host>, client: async_nats::Client) {
    host.peers.lock().nats = Some(client.clone());
    tokio::join!(follow_replicas(&host.peers, client.clone()), follow_hosts(&host.peers, client));
}

async fn follow_replicas(peers: &Peers, client: async_nats::Client) {
    let jetstream = jetstream::new(client.clone());
    let open = || jetstream.get_key_value(subjects::OBSERVED_BUCKET);
    bucket::follow(client, open, |news| {
        let (key, value) = match news {
            News::Put { key, value } => (key, Some(value)),
            News::Deleted { key } => (key, None),
            News::Opened | News::CaughtUp => return,
        };
        let Some((host, app)) = key.strip_prefix("host.").and_then(|key| key.split_once('.')) else { return };
        if let Some(value) = value {
            if let Some(status) = ReplicaStatus::heard(key, value) {
                peers.lock().table.hear_replica(status);
            }
        } else if let (Ok(host), Ok(app)) = (host.parse(), app.parse()) {
            peers.lock().table.forget_replica(&app, &host);
        }
    })
    .await;
}

async fn follow_hosts(peers: &Peers, client: async_nats::Client) {
    loop {
        match client.subscribe(subjects::HOST_HEARTBEATS).await {
            Ok(mut beats) => {
                while let Some(message) = beats.next().await {
                    if let Some(beat) = HostHeartbeat::heard(&message) {
                        peers.lock().table.hear_host(beat, Instant::now());
                    }
                }
            }
            Err(error) => warn!("cannot listen to heartbeats: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(WATCH_RETRY_MS)).await;
    }
}

/// Calls other apps, for one app.
pub(crate) struct Caller {
    pub(crate) host: Weak<Host>,
    pub(crate) app: AppId,
}

impl CallApps for Caller {
    fn call(&self, request: Request<WasiBody>, id: &str, depth: u32) -> BoxFuture<'static, Called> {
        let Some(host) = self.host.upgrade() else {
            return Box::pin(async { Err(ErrorCode::DestinationUnavailable) });
        };
        let path = request.uri().path().to_owned();
        let user =
            request.headers().get(USER).map(|user| String::from_utf8_lossy(user.as_bytes()).into_owned());
        let user = user.unwrap_or_default();
        let (caller, id, depth) = (self.app.clone(), id.to_owned(), depth + 1);
        Box::pin(async move {
            if depth > DEPTH_MAX {
                let detail = format!("apps call one another more than {DEPTH_MAX} levels deep");
                return Ok(problem(StatusCode::LOOP_DETECTED, "OS-BERT-50801", &detail, &id));
            }
            let name = path.split('/').nth(1).unwrap_or_default();
            if let Some(served) = host.apps.find(name) {
                let from = From { id: &id, user: &user, depth };
                let body = ingress::limited(request.into_body(), served.limits.request_body_bytes_max);
                let trigger = Trigger::call(&served, &path, body, &from);
                let answer = triggers::respond(&host, &served, trigger).await;
                return Ok(answer.unwrap_or_else(|why| ingress::refuse(Some(&served), &why, &id)));
            }
            let call = Call { caller, user, path, depth, at_ms: chrono::Utc::now().timestamp_millis() };
            send(&host, request.into_body(), call, &id).await
        })
    }
}

/// Calls an app on another host.
async fn send(host: &Host, body: WasiBody, call: Call, id: &str) -> Called {
    let mut held =
        Inputs { all: host.peers.held.clone(), app: call.caller.clone(), bytes: BytesMut::new(), counted: 0 };
    held.take(body).await?;
    let inputs = held.bytes.split().freeze();
    let name = call.path.split('/').nth(1).unwrap_or_default();
    let sealed = call.seal(&host.secrets);
    for address in host.peers.addresses(name).iter().take(TRIES_MAX) {
        let Ok(authority) = address.parse() else { continue };
        let request = Request::post(&call.path)
            .header(header::HOST, address)
            .header(CALL, &sealed)
            .header(REQUEST_ID, id)
            .body(Full::new(inputs.clone()))
            .map_err(|_| ErrorCode::HttpRequestUriInvalid)?;
        let sent = host.peers.client.send(&authority, request);
        match tokio::time::timeout(Duration::from_secs(CALL_S_MAX), sent).await {
            Ok(Ok(response)) if response.headers().contains_key(NOT_SERVED) => {}
            Ok(Ok(response)) => return Ok(passed(response)),
            Ok(Err(error)) if error.is_unsent() => {}
            Ok(Err(_)) => return Err(ErrorCode::ConnectionTerminated),
            Err(_) => return Err(ErrorCode::HttpResponseTimeout),
        }
    }
    let detail = format!("no host of the stage serves an app `{name}`");
    Ok(problem(StatusCode::SERVICE_UNAVAILABLE, "OS-BERT-50303", &detail, id))
}

/// The inputs of a call, counted at its app for as long as they are held.
struct Inputs {
    all: Arc<Mutex<HashMap<AppId, usize>>>,
    app: AppId,
    bytes: BytesMut,
    counted: usize,
}

impl Inputs {
    /// Takes a body, unless it is too large or the app's calls hold too much already.
    async fn take(&mut self, mut body: WasiBody) -> Result<(), ErrorCode> {
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| ErrorCode::HttpRequestBodySize(None))?;
            let Ok(piece) = frame.into_data() else { continue };
            if self.bytes.len() + piece.len() > INPUTS_BYTES_MAX {
                return Err(ErrorCode::HttpRequestBodySize(None));
            }
            if !self.count(piece.len()) {
                return Err(ErrorCode::ConnectionLimitReached);
            }
            self.bytes.extend_from_slice(&piece);
        }
        Ok(())
    }

    fn count(&mut self, bytes: usize) -> bool {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        let held = all.entry(self.app.clone()).or_insert(0);
        let fits = *held + bytes <= APP_INPUTS_BYTES_MAX;
        if fits {
            *held += bytes;
            self.counted += bytes;
        }
        fits
    }
}

impl Drop for Inputs {
    fn drop(&mut self) {
        let mut all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = all.get_mut(&self.app) {
            *held -= self.counted.min(*held);
            if *held == 0 {
                all.remove(&self.app);
            }
        }
    }
}

fn passed(response: Response<Answer<Full<Bytes>>>) -> Response<Body> {
    response.map(|body| body.map_err(|_| ErrorCode::HttpResponseIncomplete.into()).boxed_unsync())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_inputs_of_an_app_are_bounded_and_given_back() {
        let all = Arc::new(Mutex::new(HashMap::new()));
        let inputs = |app: &str| {
            let app = app.parse().unwrap();
            Inputs { all: all.clone(), app, bytes: BytesMut::new(), counted: 0 }
        };
        let (one, other) = ("018f4c6e-0000-7000-8000-000000000001", "018f4c6e-0000-7000-8000-000000000002");
        let mut first = inputs(one);
        assert!(first.count(APP_INPUTS_BYTES_MAX));
        assert!(!inputs(one).count(1), "all calls of an app together");
        assert!(inputs(other).count(1), "another app has its own");
        drop(first);
        assert!(inputs(one).count(APP_INPUTS_BYTES_MAX));
        assert!(all.lock().unwrap().is_empty(), "nothing is kept of those who are gone");
    }
}
