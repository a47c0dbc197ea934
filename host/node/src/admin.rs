//! Health and metrics, on a listener of their own: no app can shadow them, no user reaches them.

use std::convert::Infallible;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use odeon_engine::Body;
use tokio::net::TcpListener;

use crate::Host;
use crate::problem::text;

/// Accepts connections for ever.
pub(crate) async fn serve(host: Arc<Host>, listener: TcpListener) {
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let host = host.clone();
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = answer(&host, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

fn answer(host: &Host, request: &Request<Incoming>) -> Response<Body> {
    let (status, body) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" if host.is_ready() => (StatusCode::OK, "ready\n".to_owned()),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "desired state was not read yet\n".to_owned()),
        "/metrics" => {
            host.metrics.apps.set(i64::try_from(host.apps.len()).unwrap_or(i64::MAX));
            host.metrics.read(&host.accounts, host.engine.scheduler().competing());
            (StatusCode::OK, host.metrics.encode())
        }
        _ => (StatusCode::NOT_FOUND, "healthz, readyz, metrics\n".to_owned()),
    };
    let mut response = Response::new(text(body));
    *response.status_mut() = status;
    response
}
