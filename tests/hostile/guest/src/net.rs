//! Attacks on other servers through the host.
//!
//! - `fetch/<authority>[/<path>]`: one request, and what came of it.
//! - `follow/<authority>`: one request, and the one that it redirects to.
//! - `read/<authority>`: one request, and how much of its answer came.
//! - `flood/<times>/<authority>[/<path>]`: one request after the other.
//! - `hold/<times>/<authority>`: all at once, and what came of the first that ended.
//! - `hoard/<times>`: bodies of requests that are never sent, each filled as far as the host takes it.
//! - `keep/<times>/<authority>`: one request after the other, of which the heads of all answers are kept.
//! - `again/<times>`: calls itself through the host so many times, one after the other, and each of those does the same.
//! - `fork/<times>`: the same, all at once.
//! - `together/<times>/<authority>`: all at once, and how many were answered.

use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, FutureIncomingResponse, IncomingResponse, OutgoingRequest, Scheme,
};
use wasip2::io::poll::poll;
use wasip2::io::streams::StreamError;

const PIECE_BYTES: u64 = 1 << 20;
/// Other apps of the stage, and this one.
const APPS: &str = "apps.odeon.internal";

pub(crate) fn run(attack: &[&str]) -> String {
    let said = match attack {
        ["fetch", authority, path @ ..] => status(fetch(authority, path)),
        ["follow", authority] => match fetch(authority, &[]) {
            Ok(response) => follow(&response),
            failed => status(failed),
        },
        ["read", authority] => match fetch(authority, &[]) {
            Ok(response) => read(response),
            failed => status(failed),
        },
        ["flood", times, authority, path @ ..] => flood(number(times), authority, path),
        ["hold", times, authority] => hold(number(times), authority),
        ["together", times, authority] => together(number(times), authority),
        ["again", times] => tree(number(times), false, "again"),
        ["fork", times] => tree(number(times), true, "fork"),
        ["keep", times, authority] => keep(number(times), authority),
        ["hoard", times] => hoard(number(times)),
        _ => "fetch, follow, read, flood, hold, together, keep, hoard, again, fork".into(),
    };
    said + "\n"
}

fn number(text: &str) -> u32 {
    text.parse().expect("a number of times")
}

fn status(outcome: Result<IncomingResponse, ErrorCode>) -> String {
    match outcome {
        Ok(response) => format!("answered {}", response.status()),
        Err(error) => format!("failed {error:?}"),
    }
}

fn begin(authority: &str, path: &[&str]) -> Result<FutureIncomingResponse, ErrorCode> {
    let request = OutgoingRequest::new(Fields::new());
    let path = format!("/{}", path.join("/"));
    let is_valid = request.set_scheme(Some(&Scheme::Http)).is_ok()
        && request.set_authority(Some(authority)).is_ok()
        && request.set_path_with_query(Some(&path)).is_ok();
    if !is_valid {
        return Err(ErrorCode::HttpRequestUriInvalid);
    }
    outgoing_handler::handle(request, None)
}

fn end(coming: &FutureIncomingResponse) -> Result<IncomingResponse, ErrorCode> {
    coming.subscribe().block();
    coming.get().expect("it is ready").expect("it is taken once")
}

fn fetch(authority: &str, path: &[&str]) -> Result<IncomingResponse, ErrorCode> {
    end(&begin(authority, path)?)
}

/// As a client would: to wherever the server says.
fn follow(response: &IncomingResponse) -> String {
    let location = response.headers().get("location");
    let location = location.first().map(|place| String::from_utf8_lossy(place).into_owned());
    let authority = location.as_deref().and_then(|place| place.strip_prefix("http://"));
    match authority {
        Some(authority) => {
            let next = fetch(authority.trim_end_matches('/'), &[]);
            format!("answered {}, then {}", response.status(), status(next))
        }
        None => "answered without a redirect".into(),
    }
}

fn read(response: IncomingResponse) -> String {
    let body = response.consume().expect("it is taken once");
    let stream = body.stream().expect("it is taken once");
    let mut bytes = 0;
    loop {
        match stream.blocking_read(PIECE_BYTES) {
            Ok(piece) => bytes += piece.len(),
            Err(StreamError::Closed) => return format!("read {bytes}"),
            Err(StreamError::LastOperationFailed(error)) => {
                return format!("read {bytes}, failed {}", error.to_debug_string());
            }
        }
    }
}

fn flood(times: u32, authority: &str, path: &[&str]) -> String {
    let mut answered = 0;
    for _ in 0..times {
        match fetch(authority, path) {
            Ok(_) => answered += 1,
            Err(error) => return format!("answered {answered} times, failed {error:?}"),
        }
    }
    format!("answered {answered} times")
}

fn keep(times: u32, authority: &str) -> String {
    let head = |response: IncomingResponse| {
        drop(response.consume()); // and with it its place among the app's connections
        response
    };
    let kept: Result<Vec<_>, _> = (0..times).map(|_| fetch(authority, &[]).map(head)).collect();
    kept.map_or_else(|error| format!("failed {error:?}"), |kept| format!("keeps {} answers", kept.len()))
}

/// What comes first of many.
fn hold(times: u32, authority: &str) -> String {
    let held: Result<Vec<_>, _> = (0..times).map(|_| begin(authority, &[])).collect();
    let held = match held {
        Ok(held) => held,
        Err(error) => return format!("failed {error:?}"),
    };
    let ready: Vec<_> = held.iter().map(FutureIncomingResponse::subscribe).collect();
    let first = poll(&ready.iter().collect::<Vec<_>>());
    status(end(&held[first[0] as usize]))
}

/// How many of many come.
fn together(times: u32, authority: &str) -> String {
    let held: Vec<_> = (0..times).map(|_| begin(authority, &[])).collect();
    let answered = held.iter().filter(|held| held.as_ref().is_ok_and(|held| end(held).is_ok())).count();
    format!("answered {answered} times")
}

/// Bytes that the host holds for requests that nobody sends.
fn hoard(times: u32) -> String {
    let piece = vec![b'x'; usize::try_from(PIECE_BYTES).expect("it fits")];
    let (mut held, mut bytes) = (Vec::new(), 0);
    for _ in 0..times {
        let request = OutgoingRequest::new(Fields::new());
        let body = request.body().expect("it is taken once");
        let stream = body.write().expect("it is taken once");
        while let Ok(room @ 1..) = stream.check_write() {
            let room = usize::try_from(room.min(PIECE_BYTES)).expect("it fits");
            if stream.write(&piece[..room]).is_err() {
                break;
            }
            bytes += room;
        }
        held.push((stream, body, request));
    }
    let text = format!("holds {bytes} bytes in {} bodies", held.len());
    held.into_iter().for_each(drop); // streams before their bodies
    text
}

/// What comes of calls of this app to itself, each of which does the same: `<levels> <calls> <loops> <failures>`.
fn tree(times: u32, at_once: bool, attack: &str) -> String {
    let (mut levels, mut calls, mut loops, mut failures) = (0, 0, 0, 0);
    let times_text = times.to_string();
    let path = ["Hostile", "net", attack, &times_text];
    let mut hear = |outcome: Result<IncomingResponse, ErrorCode>| match outcome {
        Ok(response) if response.status() == 200 => {
            let text = body(response);
            let told: Vec<u32> = text.split_whitespace().filter_map(|number| number.parse().ok()).collect();
            if let [below, more, looped, failed] = told[..] {
                levels = levels.max(below + 1);
                calls += more + 1;
                loops += looped;
                failures += failed;
            } else {
                failures += 1;
            }
        }
        Ok(response) if response.status() == 508 => loops += 1,
        Ok(_) | Err(_) => failures += 1,
    };
    if at_once {
        let held: Vec<_> = (0..times).map(|_| begin(APPS, &path)).collect();
        held.into_iter().for_each(|held| hear(held.and_then(|held| end(&held))));
    } else {
        (0..times).for_each(|_| hear(fetch(APPS, &path)));
    }
    format!("{levels} {calls} {loops} {failures}")
}

fn body(response: IncomingResponse) -> String {
    let body = response.consume().expect("it is taken once");
    let stream = body.stream().expect("it is taken once");
    let mut bytes = Vec::new();
    while let Ok(piece) = stream.blocking_read(PIECE_BYTES) {
        bytes.extend_from_slice(&piece);
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
