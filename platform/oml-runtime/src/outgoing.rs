//! One request to somebody else: sent, and its answer read to the end.
//!
//! What could not be reached is said in words that its owner understands. Invariant: an answer has at most
//! [`ANSWER_BYTES_MAX`] bytes, and none is waited for longer than the caller says.

use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::bindings::wasi::http::outgoing_handler;
use crate::bindings::wasi::http::types::{
    ErrorCode, Headers, IncomingBody, IncomingResponse, Method, OutgoingBody, OutgoingRequest,
    RequestOptions, Scheme,
};
use crate::bindings::wasi::io::streams::{InputStream, StreamError};

/// Most bytes of an answer: 28.6 MB, as a request to the app may have.
const ANSWER_BYTES_MAX: usize = 29_989_273;
/// Bytes per write to a stream; the interface takes 4096 at most per blocking write.
pub(crate) const WRITE_BYTES: usize = 4096;
/// Bytes that are read at once.
const READ_BYTES: u64 = 65_536;
const NS_PER_S: u64 = 1_000_000_000;

/// What is sent.
pub(crate) struct Sent<'s> {
    /// As the compiler numbers them: GET, POST, PUT, DELETE.
    pub(crate) verb: u32,
    pub(crate) url: &'s str,
    pub(crate) headers: &'s [(String, String)],
    pub(crate) body: &'s [u8],
    /// Seconds until the answer begins, and between two of its parts.
    pub(crate) timeout_s: u64,
}

/// What came back.
pub(crate) struct Received {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

impl Received {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Sends a request and reads its answer; else why there is none.
pub(crate) fn exchange(sent: &Sent<'_>) -> Result<Received, String> {
    let headers = Headers::new();
    for (name, value) in sent.headers {
        let appended = headers.append(name, value.as_bytes());
        appended.map_err(|_| format!("the header {name} cannot be sent"))?;
    }
    let (scheme, authority, path) = parts(sent.url).ok_or_else(|| String::from("it is no URL"))?;
    let request = OutgoingRequest::new(headers);
    let method = match sent.verb {
        0 => Method::Get,
        1 => Method::Post,
        2 => Method::Put,
        _ => Method::Delete,
    };
    let set = request.set_method(&method).is_ok()
        && request.set_scheme(Some(&scheme)).is_ok()
        && request.set_authority(Some(authority)).is_ok()
        && request.set_path_with_query(Some(path)).is_ok();
    let body = request.body().ok().filter(|_| set).ok_or_else(|| String::from("it is no URL"))?;
    let options = RequestOptions::new();
    let wait = Some(sent.timeout_s * NS_PER_S);
    let _ = options.set_connect_timeout(wait); // a host without timeouts has its own
    let _ = options.set_first_byte_timeout(wait);
    let _ = options.set_between_bytes_timeout(wait);
    let answer = outgoing_handler::handle(request, Some(options)).map_err(|code| reason(&code))?;
    if let Ok(stream) = body.write() {
        for chunk in sent.body.chunks(WRITE_BYTES) {
            if stream.blocking_write_and_flush(chunk).is_err() {
                break; // the answer says why
            }
        }
    }
    let _ = OutgoingBody::finish(body, None);
    answer.subscribe().block();
    let response = match answer.get() {
        Some(Ok(Ok(response))) => response,
        Some(Ok(Err(code))) => return Err(reason(&code)),
        Some(Err(())) | None => return Err("the answer was lost".into()),
    };
    read(&response)
}

fn read(response: &IncomingResponse) -> Result<Received, String> {
    let text = |(name, value): (String, Vec<u8>)| (name, String::from_utf8_lossy(&value).into_owned());
    let headers = response.headers().entries().into_iter().map(text).collect();
    let body = response.consume().map_err(|()| String::from("the answer was lost"))?;
    let raw = match body.stream() {
        Ok(stream) => read_all(&stream, ANSWER_BYTES_MAX),
        Err(()) => Err(Unread::Broken),
    };
    drop(IncomingBody::finish(body));
    match raw {
        Ok(body) => Ok(Received { status: response.status(), headers, body }),
        Err(Unread::Broken) => Err("the answer broke off".into()),
        Err(Unread::TooLarge) => Err(format!("the answer is larger than {ANSWER_BYTES_MAX} bytes")),
    }
}

/// Why a body was not read.
pub(crate) enum Unread {
    Broken,
    TooLarge,
}

/// Reads a body to its end.
pub(crate) fn read_all(stream: &InputStream, most: usize) -> Result<Vec<u8>, Unread> {
    let mut raw = Vec::new();
    loop {
        match stream.blocking_read(READ_BYTES) {
            Ok(chunk) => raw.extend_from_slice(&chunk),
            Err(StreamError::Closed) => return Ok(raw),
            Err(StreamError::LastOperationFailed(_)) => return Err(Unread::Broken),
        }
        if raw.len() > most {
            return Err(Unread::TooLarge);
        }
    }
}

/// Scheme, authority, and path with query of a URL.
fn parts(url: &str) -> Option<(Scheme, &str, &str)> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = match scheme {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        _ => return None,
    };
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, path) = rest.split_at(end);
    (!authority.is_empty()).then_some((scheme, authority, if path.is_empty() { "/" } else { path }))
}

fn reason(code: &ErrorCode) -> String {
    let known = if matches!(code, ErrorCode::HttpRequestDenied) {
        "the stage does not let the app call this host"
    } else if matches!(code, ErrorCode::DnsTimeout | ErrorCode::DnsError(_) | ErrorCode::DestinationNotFound)
    {
        "there is no host of this name"
    } else if matches!(code, ErrorCode::ConnectionRefused | ErrorCode::DestinationUnavailable) {
        "it cannot be reached"
    } else if matches!(
        code,
        ErrorCode::ConnectionTimeout | ErrorCode::ConnectionReadTimeout | ErrorCode::HttpResponseTimeout
    ) {
        "it did not answer in time"
    } else if matches!(
        code,
        ErrorCode::TlsProtocolError | ErrorCode::TlsCertificateError | ErrorCode::TlsAlertReceived(_)
    ) {
        "it is not trusted (TLS)"
    } else {
        "the connection failed"
    };
    known.to_string()
}
