//! Health and metrics, on a listener of their own: no app can shadow them, no user reaches them.

use std::sync::Arc;

use http::{Request, Response, StatusCode};
use odeon_engine::Body;
use odeon_http::{Received, Stop, limits};
use tokio::net::TcpListener;

use crate::Host;
use crate::problem::text;

/// Accepts connections for ever.
pub(crate) async fn serve(host: Arc<Host>, listener: TcpListener) {
    odeon_http::serve(limits::ADMIN, listener, Stop::default(), move |request, _| {
        let answer = answer(&host, &request);
        async move { answer }
    })
    .await;
}

fn answer(host: &Host, request: &Request<Received>) -> Response<Body> {
    let (status, body) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" if host.is_ready() => (StatusCode::OK, "ready\n".to_owned()),
        "/readyz" if host.is_stopping() => (StatusCode::SERVICE_UNAVAILABLE, "it stops\n".to_owned()),
        "/readyz" => (StatusCode::SERVICE_UNAVAILABLE, "what it is to serve is not served yet\n".to_owned()),
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
