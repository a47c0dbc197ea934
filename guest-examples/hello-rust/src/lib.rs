//! A hand-written app: a WASI 0.2 component that exports `wasi:http/incoming-handler`.
//!
//! The counter is a static. A host that gave one instance to two requests would answer 2 to the second;
//! ours answers 1 to every request, which the tests and benchmarks check.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};

/// How long `/slow` takes: longer than a deployment.
const SLOW: Duration = Duration::from_secs(3);

static REQUESTS: AtomicU32 = AtomicU32::new(0);

struct Hello;

impl Guest for Hello {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        if path.ends_with("/panic") {
            panic!("asked to");
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
        let count = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
        let headers = Fields::new();
        headers.set("x-instance-requests", &[count.to_string().into_bytes()]).expect("a header that may be set");
        let response = OutgoingResponse::new(headers);
        let body = response.body().expect("the body is taken once");
        ResponseOutparam::set(out, Ok(response));
        let stream = body.write().expect("the stream is taken once");
        stream.blocking_write_and_flush(b"Hello from Odeon\n").expect("the caller listens");
        drop(stream);
        OutgoingBody::finish(body, None).expect("the body is whole");
    }
}

fn deeper(depth: u64) -> u64 {
    if std::hint::black_box(depth) == 0 { 0 } else { 1 + std::hint::black_box(deeper(depth + 1)) }
}

wasip2::http::proxy::export!(Hello);
