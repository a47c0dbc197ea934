//! What a caller gets instead of an answer: problem details (RFC 9457) with a stable error code and the
//! request's id. Built in one place, so that no handler invents a shape of its own.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

/// A failed request.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    detail: String,
}

/// The body of a failed request.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Problem {
    /// Always `about:blank`: the error code says more than a page would.
    r#type: &'static str,
    /// The HTTP status in words.
    title: String,
    /// The HTTP status.
    status: u16,
    /// What went wrong, where, and what to do next.
    detail: String,
    /// Stable code, such as `OS-APPS-40401`.
    error_code: &'static str,
    /// Id of this request, for whoever reads the logs.
    trace_id: String,
}

impl ApiError {
    pub(crate) fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, code, detail: detail.into() }
    }
    /// A request whose path, parameters or body cannot be read.
    pub(crate) fn unreadable(status: StatusCode, detail: String) -> Self {
        let code = match status {
            StatusCode::PAYLOAD_TOO_LARGE => "OS-PLT-41301",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "OS-PLT-41501",
            StatusCode::UNPROCESSABLE_ENTITY => "OS-PLT-42201",
            _ => "OS-PLT-40002",
        };
        Self { status, code, detail }
    }
    pub(crate) fn unauthorized() -> Self {
        let detail = "send `Authorization: Bearer <token>` with a token that is neither expired nor revoked";
        Self { status: StatusCode::UNAUTHORIZED, code: "OS-IDCO-40101", detail: detail.into() }
    }
    pub(crate) fn forbidden(scope: &str) -> Self {
        let detail = format!("the token lacks the scope `{scope}`; create one that has it");
        Self { status: StatusCode::FORBIDDEN, code: "OS-IDCO-40301", detail }
    }
    pub(crate) fn not_found(code: &'static str, what: impl std::fmt::Display) -> Self {
        Self::unknown(code, format!("{what} does not exist in this organization"))
    }
    /// Something that exists nowhere.
    pub(crate) fn unknown(code: &'static str, detail: impl Into<String>) -> Self {
        Self { status: StatusCode::NOT_FOUND, code, detail: detail.into() }
    }
    pub(crate) fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self { status: StatusCode::CONFLICT, code, detail: detail.into() }
    }
    pub(crate) fn too_large(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::PAYLOAD_TOO_LARGE, code: "OS-APPS-41301", detail: detail.into() }
    }
    pub(crate) fn busy(detail: impl Into<String>) -> Self {
        Self { status: StatusCode::TOO_MANY_REQUESTS, code: "OS-DPL-42901", detail: detail.into() }
    }
}

/// Anything unforeseen: the cause goes to our log, not to the caller.
impl<E: Into<anyhow::Error>> From<E> for ApiError {
    fn from(error: E) -> Self {
        tracing::error!("request failed: {:#}", error.into());
        Self {
            status: StatusCode::INTERNAL_SERVER_ERROR,
            code: "OS-PLT-50001",
            detail: "the Platform could not do this; its log has the cause under this trace id".into(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let trace_id = super::current_request_id();
        let problem = Problem {
            r#type: "about:blank",
            title: self.status.canonical_reason().unwrap_or("Error").to_owned(),
            status: self.status.as_u16(),
            detail: self.detail,
            error_code: self.code,
            trace_id,
        };
        let mut response = (self.status, Json(problem)).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}
