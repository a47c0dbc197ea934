//! The one shape of every refusal: problem details (RFC 9457) with a stable code and the request's id.

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::Full;
use serde_json::json;

/// When a client that met a full server may come back, in seconds.
pub const RETRY_AFTER_S: &str = "1";

/// A response that says why there is no other.
pub fn problem(status: StatusCode, code: &str, detail: &str, request_id: &str) -> Response<Full<Bytes>> {
    let body = json!({
        "type": "about:blank",
        "title": status.canonical_reason().unwrap_or("Error"),
        "status": status.as_u16(),
        "detail": detail,
        "errorCode": code,
        "traceId": request_id,
    });
    let mut response = Response::new(Full::from(body.to_string()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
    if status == StatusCode::SERVICE_UNAVAILABLE {
        headers.insert(header::RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_server_says_when_to_come_back() {
        let full = problem(StatusCode::SERVICE_UNAVAILABLE, "OS-X-50301", "full", "id");
        assert_eq!(full.headers()[header::RETRY_AFTER], RETRY_AFTER_S);
        let wrong = problem(StatusCode::BAD_REQUEST, "OS-X-40001", "wrong", "id");
        assert!(!wrong.headers().contains_key(header::RETRY_AFTER));
    }
}
