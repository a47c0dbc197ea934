//! The work of `make bench-host`: a greeting, a small JSON job, and neighbours that nobody wants.
//!
//! Every answer has a header with the number of requests that this instance has served: 1 proves a fresh instance. The
//! JSON job is the same in `peers/work-workerd/worker.js`, with the same answer.

use std::sync::atomic::{AtomicU32, Ordering};

use serde::{Deserialize, Serialize};
use wasip2::exports::http::incoming_handler::Guest;
use wasip2::http::types::{Fields, IncomingRequest, OutgoingBody, OutgoingResponse, ResponseOutparam};
use wasip2::io::streams::StreamError;

/// Bytes that are read at once.
const READ_BYTES: u64 = 65_536;
/// Steps of the hash of the JSON job.
const STEPS: u32 = 10_000;
/// Steps of `/busy`: some milliseconds.
const BUSY_STEPS: u32 = 4_000_000;
/// What `/bomb` asks for at a time, in bytes.
const BOMB_BYTES: usize = 1 << 20;

static REQUESTS: AtomicU32 = AtomicU32::new(0);

struct Work;

#[derive(Deserialize)]
struct Order {
    customer: String,
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    product: String,
    quantity: u32,
    price_cents: u32,
}

#[derive(Serialize)]
struct Receipt {
    customer: String,
    products: Vec<String>,
    total_cents: u64,
    hash: u32,
}

impl Guest for Work {
    fn handle(request: IncomingRequest, out: ResponseOutparam) {
        let path = request.path_with_query().unwrap_or_default();
        match path.rsplit('/').next().unwrap_or_default() {
            "json" => answer(out, "application/json", &receipt(&read(&request))),
            "busy" => answer(out, "text/plain", hash(1, BUSY_STEPS).to_string().as_bytes()),
            "loop" => loop {
                REQUESTS.fetch_add(1, Ordering::Relaxed);
            },
            "bomb" => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(vec![1; BOMB_BYTES]);
                }
            }
            _ => answer(out, "text/plain", b"Hello from Odeon\n"),
        }
    }
}

fn receipt(body: &[u8]) -> Vec<u8> {
    let order: Order = serde_json::from_slice(body).expect("an order");
    let line_total = |line: &Line| u64::from(line.quantity) * u64::from(line.price_cents);
    let total_cents = order.lines.iter().map(line_total).sum();
    let products = order.lines.into_iter().map(|line| line.product).collect();
    let seed = body.iter().fold(0_u32, |sum, byte| sum.wrapping_mul(31).wrapping_add(u32::from(*byte)));
    let receipt = Receipt { customer: order.customer, products, total_cents, hash: hash(seed, STEPS) };
    serde_json::to_vec(&receipt).expect("a receipt is JSON")
}

/// Xorshift with a multiplication: what no compiler shortens.
fn hash(seed: u32, steps: u32) -> u32 {
    let mut x = seed | 1;
    for _ in 0..steps {
        x ^= x << 13;
        x ^= x >> 17;
        x ^= x << 5;
        x = x.wrapping_mul(0x9E37_79B1) | 1;
    }
    x
}

fn answer(out: ResponseOutparam, kind: &str, text: &[u8]) {
    let count = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
    let headers = Fields::new();
    let set =
        |name: &str, value: &[u8]| headers.set(name, &[value.to_vec()]).expect("a header that may be set");
    set("content-type", kind.as_bytes());
    set("x-instance-requests", count.to_string().as_bytes());
    let response = OutgoingResponse::new(headers);
    let body = response.body().expect("the body is taken once");
    ResponseOutparam::set(out, Ok(response));
    let stream = body.write().expect("the stream is taken once");
    stream.blocking_write_and_flush(text).expect("the caller listens");
    drop(stream);
    OutgoingBody::finish(body, None).expect("the body is whole");
}

fn read(request: &IncomingRequest) -> Vec<u8> {
    let body = request.consume().expect("the body is taken once");
    let stream = body.stream().expect("the stream is taken once");
    let mut all = Vec::new();
    loop {
        match stream.blocking_read(READ_BYTES) {
            Ok(bytes) => all.extend(bytes),
            Err(StreamError::Closed) => return all,
            Err(error) => panic!("the body cannot be read: {error}"),
        }
    }
}

wasip2::http::proxy::export!(Work);
