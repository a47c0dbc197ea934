//! A hand-written app: a WASI 0.2 component that exports `wasi:http/incoming-handler`.
//!
//! The counter is a static. A host that gave one instance to two requests would answer 2 to the second;
//! ours answers 1 to every request, which the tests and benchmarks check.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::outgoing_handler;
use wasip2::http::types::{
    ErrorCode, Fields, IncomingRequest, OutgoingBody, OutgoingRequest, OutgoingResponse, ResponseOutparam,
    Scheme,
};

/// How long `/slow` takes: longer than a deployment.
const SLOW: Duration = Duration::from_secs(3);

/// Memory that `/large` takes, and does not touch.
const LARGE_BYTES: usize = 20 << 20;

static REQUESTS: AtomicU32 = AtomicU32::new(0);

struct Hello;

impl Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        if path.ends_with("/panic") {
            panic!("asked to");
        }
        if path.contains("/large") {
            std::hint::black_box(Vec::<u8>::with_capacity(LARGE_BYTES));
        }
        if path.ends_with("/loop") {
            loop {
                REQUESTS.fetch_add(1, Ordering::Relaxed);
            }
        }
        if path.ends_with("/memory") {
            let mut hoard: Vec<Vec<u8>> = Vec::new();
            loop {
                hoard.push(vec![1; 1 << 20]);
            }
        }
        if path.ends_with("/stack") {
            println!("{}", deeper(1));
        }
        if path.ends_with("/slow") {
            std::thread::sleep(SLOW);
        }
        println!("hello at {path}");
        let text = match path.split_once("/fetch/") {
            Some((_, authority)) => fetch(authority),
            None => "Hello from Odeon\n".to_owned(),
        };
        let count = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
        let headers = Fields::new();
        headers
            .set("x-instance-requests", &[count.to_string().into_bytes()])
            .expect("a header that may be set");
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("the stream is taken once");
        stream.blocking_write_and_flush(text.as_bytes()).expect("the caller listens");
        drop(stream);
        OutgoingBody::finish(body, None).expect("the body is whole");
    }
}

/// What `http://<authority>/` answers, or why it was not asked.
fn fetch(authority: &str) -> String {
    match status_of(authority) {
        Ok(status) => format!("{authority} answered {status}\n"),
        Err(error) => format!("{authority} was not reached: {error}\n"),
    }
}

fn status_of(authority: &str) -> Result<u16, ErrorCode> {
    let request = OutgoingRequest::new(Fields::new());
    let is_valid = request.set_scheme(Some(&Scheme::Http)).is_ok()
        && request.set_authority(Some(authority)).is_ok()
        && request.set_path_with_query(Some("/")).is_ok();
    if !is_valid {
        return Err(ErrorCode::HttpRequestUriInvalid);
    }
    let coming = outgoing_handler::handle(request, None)?;
    coming.subscribe().block();
    let response = coming.get().expect("it is ready").expect("it is taken once")?;
    Ok(response.status())
}

fn deeper(depth: u64) -> u64 {
    if std::hint::black_box(depth) == 0 { 0 } else { 1 + std::hint::black_box(deeper(depth + 1)) }
}

wasip2::http::proxy::export!(Hello);
