//! What passes a router of a message's headers, and what it says itself.
//!
//! A client may write any header. What must stay true: an app hears of hosts and proxies only what its router says.

use std::net::SocketAddr;

use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use odeon_protocol::headers::{self, REQUEST_ID_BYTES_MAX};

/// What an app is told for the host when HTTP/1.0 names none; hosts say the same.
const NO_HOST: &str = "localhost";
/// Headers that end at the next hop (RFC 9110, 7.6.1).
const HOP_BY_HOP: [HeaderName; 6] = [
    header::CONNECTION,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];
/// The names that are written or looked for in each message: as text they would be parsed each time.
const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static(headers::REQUEST_ID);
pub(crate) const NOT_SERVED: HeaderName = HeaderName::from_static(headers::NOT_SERVED);
/// What proxies say of where a request came from. A client may have written it, so apps hear of it only what the router says itself.
const OF_PROXIES: [&str; 10] = [
    "forwarded",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-port",
    "x-forwarded-prefix",
    "x-forwarded-proto",
    "x-forwarded-scheme",
    "x-forwarded-server",
    "x-forwarded-ssl",
    "x-real-ip",
];
/// What only hosts may say.
const OF_HOSTS: [&str; 4] = [headers::CALL, headers::TRIGGER, headers::USER, headers::NOT_SERVED];

/// The host that a request asks, as its app is told. What its target says goes before its header (RFC 9112, 3.2.2).
pub(crate) fn asked(parts: &Parts) -> Option<HeaderValue> {
    if let Some(authority) = parts.uri.authority() {
        let host = authority.as_str().rsplit('@').next()?; // without a user and a password
        return HeaderValue::from_str(host).ok();
    }
    let is_old = parts.version <= Version::HTTP_10; // it need not say
    parts.headers.get(header::HOST).cloned().or_else(|| is_old.then(|| HeaderValue::from_static(NO_HOST)))
}

/// The id of a request: its own, or a new one.
pub(crate) fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_id =
        |id: &&HeaderValue| id.to_str().is_ok_and(|id| (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()));
    let new = || {
        let mut text = uuid::Uuid::encode_buffer();
        let text = uuid::Uuid::new_v4().hyphenated().encode_lower(&mut text);
        HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static("")) // digits and hyphens
    };
    headers.get(REQUEST_ID).filter(is_id).cloned().unwrap_or_else(new)
}

/// Where the requests of a connection come from, as apps are told.
pub(crate) fn from(peer: SocketAddr) -> HeaderValue {
    HeaderValue::try_from(peer.ip().to_string()).unwrap_or(HeaderValue::from_static("")) // digits and what separates them
}

/// What a host sees of a request: no header of this hop, which host was asked, and where the request came from.
pub(crate) fn for_host(headers: &mut HeaderMap, host: HeaderValue, id: HeaderValue, from: HeaderValue) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in named {
        headers.remove(name); // a client may name thousands: each is looked up, and none is compared with all headers
    }
    remove(headers, |name| HOP_BY_HOP.contains(name) || is_ours(name));
    join_cookies(headers);
    headers.insert(header::HOST, host); // without one the client would tell the app our name for its host
    headers.insert(REQUEST_ID, id);
    headers.insert(FORWARDED_PROTO, HeaderValue::from_static("http"));
    headers.insert(FORWARDED_FOR, from);
    if !headers.contains_key(TRACEPARENT) {
        headers.insert(TRACEPARENT, traceparent());
    }
}

/// The beginning of a trace that nobody records (W3C Trace Context). `uuid` writes hexadecimal digits faster than formatting does.
fn traceparent() -> HeaderValue {
    let mut text = *b"00-................................-................-00";
    let digits = |id: u128| {
        let mut digits = [0; 32];
        uuid::Uuid::from_u128(id | 1).simple().encode_lower(&mut digits);
        digits
    };
    text[3..35].copy_from_slice(&digits(rand::random()));
    text[36..52].copy_from_slice(&digits(rand::random())[16..]);
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("")) // digits and hyphens
}

/// HTTP/2 sends each cookie in a field of its own, which HTTP/1 knows nothing of (RFC 9113, 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let mut all = headers.get_all(header::COOKIE).iter();
    if all.next().is_some() && all.next().is_some() {
        let cookies: Vec<&[u8]> = headers.get_all(header::COOKIE).iter().map(HeaderValue::as_bytes).collect();
        if let Ok(joined) = HeaderValue::from_bytes(&cookies.join(&b"; "[..])) {
            headers.insert(header::COOKIE, joined);
        }
    }
}

/// What a user sees of a response.
pub(crate) fn for_user(headers: &mut HeaderMap) {
    remove(headers, |name| HOP_BY_HOP.contains(name));
}

/// Trailers say as little of hosts and proxies as headers do.
pub(crate) fn in_trailers(trailers: &mut HeaderMap) {
    remove(trailers, is_ours);
}

/// Only routers and hosts may say it.
fn is_ours(name: &HeaderName) -> bool {
    OF_HOSTS.iter().chain(&OF_PROXIES).any(|ours| name == *ours)
}

/// Most messages have none of what is removed: to look at all of their headers costs less than to look for each of these.
fn remove(headers: &mut HeaderMap, is_removed: impl Fn(&HeaderName) -> bool) {
    let removed: Vec<HeaderName> = headers.keys().filter(|name| is_removed(name)).cloned().collect();
    for name in removed {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use super::*;

    #[test]
    fn trailers_say_nothing_of_hosts_and_proxies() {
        let mut trailers = HeaderMap::new();
        for name in OF_HOSTS.into_iter().chain(OF_PROXIES).chain(["x-sum"]) {
            trailers.append(name, HeaderValue::from_static("x"));
            trailers.append(name, HeaderValue::from_static("y"));
        }
        in_trailers(&mut trailers);
        assert_eq!(trailers.len(), 2, "{trailers:?}");
        assert!(trailers.contains_key("x-sum"));
    }

    #[test]
    fn cookies_are_one_field() {
        let of = |cookies: &[&'static str]| {
            let field = |cookie: &&'static str| (header::COOKIE, HeaderValue::from_static(cookie));
            let mut headers: HeaderMap = HeaderMap::new();
            for (name, value) in cookies.iter().map(field) {
                headers.append(name, value);
            }
            join_cookies(&mut headers);
            headers.get_all(header::COOKIE).iter().cloned().collect::<Vec<_>>()
        };
        assert!(of(&[]).is_empty());
        assert_eq!(of(&["a=1; b=2"]), ["a=1; b=2"]);
        assert_eq!(of(&["a=1", "b=2", "session=x"]), ["a=1; b=2; session=x"]);
    }

    #[test]
    fn a_request_has_an_id() {
        let of = |id: &[u8]| {
            let id = HeaderValue::from_bytes(id).unwrap();
            request_id(&HeaderMap::from_iter([(REQUEST_ID, id)]))
        };
        assert_eq!(of(b"mine"), "mine");
        let long = "x".repeat(REQUEST_ID_BYTES_MAX + 1);
        for none in [&b""[..], b"\xff", long.as_bytes()] {
            assert_eq!(of(none).len(), 36, "{none:?}");
        }
        assert_eq!(of(&long.as_bytes()[1..]).len(), REQUEST_ID_BYTES_MAX);
    }
}
