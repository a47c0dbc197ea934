//! The router's listeners: users on one, health and metrics on the other.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::TcpListener;
use tokio::sync::{Mutex, Notify, Semaphore};

use crate::Router;
use crate::proxy::Proxy;

/// How long the head of a request may take, in seconds.
const HEAD_S_MAX: u64 = 10;
/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8_192;
/// Streams of one HTTP/2 connection.
const STREAMS_MAX: u32 = 256;
/// Bytes of headers of one request.
const HEADER_BYTES_MAX: u32 = 64 << 10;
/// Wait after a failed accept, in milliseconds: out of descriptors, some must close first.
const ACCEPT_PAUSE_MS: u64 = 10;

/// Ends the users' listener: no new connections, running requests end.
#[derive(Clone, Default)]
pub struct Stop(Arc<StopState>);

#[derive(Default)]
struct StopState {
    asked: Notify,
    connections: Mutex<Option<GracefulShutdown>>,
}

impl Stop {
    /// Asks, and waits until all requests have ended.
    pub async fn stop(&self) {
        self.0.asked.notify_one();
        if let Some(connections) = self.0.connections.lock().await.take() {
            connections.shutdown().await;
        }
    }
}

/// Serves users until it is stopped.
pub async fn users(proxy: Arc<Proxy>, listener: TcpListener, stop: Stop) {
    let mut connections = stop.0.connections.lock().await;
    let graceful = GracefulShutdown::new();
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
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { break };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.0.asked.notified() => break,
        };
        let Ok((stream, peer)) = accepted else {
            tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            continue;
        };
        let _ = stream.set_nodelay(true);
        let proxy = proxy.clone();
        let service = service_fn(move |request| {
            let proxy = proxy.clone();
            async move { Ok::<_, Infallible>(proxy.answer(request, peer).await) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let connection = graceful.watch(connection);
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::debug!("connection: {error}");
            }
            drop(place);
        });
    }
    *connections = Some(graceful);
}

/// Serves health and metrics for ever.
pub(crate) async fn admin(router: Arc<Router>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let router = router.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = admin_answer(&router, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn admin_answer(router: &Router, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let (status, body) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" if router.is_ready() => (StatusCode::OK, "ready\n".to_owned()),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "desired state was not read yet\n".to_owned()),
        "/metrics" => (StatusCode::OK, router.proxy.metrics.encode()),
        _ => (StatusCode::NOT_FOUND, "healthz, readyz, metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}
