//! The router's listeners: users on one, health and metrics on the other.

use std::cell::OnceCell;
use std::sync::Arc;

use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use odeon_http::{Limits, Received, Workers, limits};
use tokio::net::TcpListener;

use crate::Router;
use crate::headers;
use crate::proxy::Proxy;

pub use odeon_http::Stop;

/// Serves users until it is stopped, on threads that have a proxy each.
pub async fn users(threads: Workers<Arc<Proxy>>, listener: TcpListener, stop: Stop) {
    odeon_http::serve_on(&threads, limits::USERS, listener, stop, |proxy| {
        let (proxy, from) = (proxy.clone(), OnceCell::new());
        move |request, peer| proxy.answer(request, from.get_or_init(|| headers::from(peer)).clone())
    })
    .await;
}

/// Serves health and metrics for ever.
pub(crate) async fn admin(router: Arc<Router>, listener: TcpListener) {
    let limits = Limits { codes: limits::USERS.codes, ..limits::ADMIN };
    odeon_http::serve(limits, listener, Stop::default(), move |request, _| {
        let answer = admin_answer(&router, &request);
        async move { answer }
    })
    .await;
}

fn admin_answer(router: &Router, request: &Request<Received>) -> Response<Full<Bytes>> {
    let (status, body) = match request.uri().path() {
        "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
        "/readyz" if router.is_ready() => (StatusCode::OK, "ready\n".to_owned()),
        "/readyz" if router.is_stopping() => (StatusCode::SERVICE_UNAVAILABLE, "it stops\n".to_owned()),
        "/readyz" => {
            let said =
                "what the stage serves was not read yet, or not all of its hosts were heard\n".to_owned();
            (StatusCode::SERVICE_UNAVAILABLE, said)
        }
        "/metrics" => (StatusCode::OK, router.proxy.metrics()),
        _ => (StatusCode::NOT_FOUND, "healthz, readyz, metrics\n".to_owned()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response
}
