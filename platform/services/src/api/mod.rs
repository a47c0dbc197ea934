//! The Platform's REST surface: paths and shapes here, decisions in the services' modules.
//!
//! The request path, in order: request id, body limit, bearer token, handler. The OpenAPI 3.1 document at
//! `/api/openapi.json` is generated from the handlers themselves.

pub(crate) mod error;
pub(crate) mod extract;
pub(crate) mod paging;

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Request};
use axum::http::HeaderValue;
use axum::middleware::{self, Next};
use axum::response::Response;
use axum::{Json, Router, routing};
use tracing::Instrument as _;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use uuid::Uuid;

pub(crate) use error::ApiError;

use crate::Platform;

/// Largest body of a call that is not an upload, in bytes.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Header that carries the id of a request, in and out.
const REQUEST_ID: &str = "x-request-id";
/// Longest request id that is taken over from a caller, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 64;

#[derive(OpenApi)]
#[openapi(info(
    title = "Odeon Platform",
    description = "Publish apps, promote revisions through stages, and see what runs. Every call needs a bearer token."
))]
struct Document;

/// All routes of the Platform.
pub(crate) fn router(platform: Arc<Platform>) -> Router {
    let (routes, document) = routes().split_for_parts();
    let document = Arc::new(document);
    Router::new()
        .merge(routes.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)))
        .merge(crate::assets::uploads::router())
        .route("/healthz", routing::get(|| async { "ok" }))
        .route("/api/openapi.json", routing::get(move || async move { Json((*document).clone()) }))
        .fallback(|| async { ApiError::not_found("OS-PLT-40401", "this path") })
        .layer(middleware::from_fn(with_request_id))
        .with_state(platform)
}

/// The OpenAPI document, for the file that is checked in.
pub(crate) fn document() -> utoipa::openapi::OpenApi {
    routes().split_for_parts().1
}

fn routes() -> OpenApiRouter<Arc<Platform>> {
    OpenApiRouter::with_openapi(Document::openapi())
        .merge(crate::identity::api::router())
        .merge(crate::assets::api::router())
        .merge(crate::builds::api::router())
        .merge(crate::configurations::api::router())
        .merge(crate::configurations::timers::router())
        .merge(crate::dependencies::api::router())
        .merge(crate::deployments::api::router())
        .merge(crate::monitoring::api::router())
}

tokio::task_local! {
    static REQUEST: String;
}

fn current_request_id() -> String {
    REQUEST.try_with(Clone::clone).unwrap_or_default()
}

async fn with_request_id(request: Request, next: Next) -> Response {
    let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok());
    let id = match given {
        Some(id) if !id.is_empty() && id.len() <= REQUEST_ID_BYTES_MAX => id.to_owned(),
        Some(_) | None => Uuid::new_v4().to_string(),
    };
    let span = tracing::info_span!("request", request_id = %id, method = %request.method(), path = request.uri().path());
    let header = HeaderValue::from_str(&id);
    let mut response = REQUEST.scope(id, next.run(request)).instrument(span).await;
    if let Ok(header) = header {
        response.headers_mut().insert(REQUEST_ID, header);
    }
    response
}
