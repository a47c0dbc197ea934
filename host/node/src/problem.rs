//! Refusals, in the type that apps answer with.

use bytes::Bytes;
use http::{Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use odeon_engine::Body;

/// A response that says why there is no other.
pub(crate) fn problem(status: StatusCode, code: &str, detail: &str, request_id: &str) -> Response<Body> {
    odeon_http::problem(status, code, detail, request_id).map(text_of)
}

/// A body of text.
pub(crate) fn text(text: impl Into<Bytes>) -> Body {
    text_of(Full::new(text.into()))
}

fn text_of(body: Full<Bytes>) -> Body {
    body.map_err(|never| match never {}).boxed_unsync()
}
