//! A hand-written app: a WASI 0.3 component that exports `wasi:http/handler`.
//!
//! While one request waits, the same instance may serve others, if the app asked for it (`odeon deploy ... --limit
//! concurrency=8`). The counters are statics: by them, tests see which requests had an instance together.

use std::sync::atomic::{AtomicU32, Ordering};

use wasip3::clocks::monotonic_clock::wait_for;
use wasip3::http::client;
use wasip3::http::types::{ErrorCode, Fields, Request, Response, Scheme};
use wasip3::{wit_bindgen, wit_future, wit_stream};

/// How long `/slow` takes, in nanoseconds: longer than a deployment.
const SLOW_NS: u64 = 3_000_000_000;
/// How often a request at `/meet-2`, where it waits until two are in this instance, looks around, in nanoseconds.
const LOOK_NS: u64 = 1_000_000;
/// Parts of the body at `/parts`.
const PARTS: usize = 50;
/// Memory that `/large` takes, and does not touch.
const LARGE_BYTES: usize = 20 << 20;

static REQUESTS: AtomicU32 = AtomicU32::new(0);
static PRESENT: AtomicU32 = AtomicU32::new(0);

struct Hello;

wasip3::http::service::export!(Hello);

impl wasip3::exports::http::handler::Guest for Hello {
    async fn handle(request: Request) -> Result<Response, ErrorCode> {
        let path = request.get_path_with_query().unwrap_or_default();
        let count = REQUESTS.fetch_add(1, Ordering::Relaxed) + 1;
        println!("hello at {path}");
        let mut body = body_of(request);
        if path.starts_with("/told/") {
            while body.next().await.is_some() {} // it does nothing before its body has ended
        }
        if let Some(number) = path.split('/').find_map(|part| part.strip_prefix("meet-")) {
            meet(number.parse().unwrap_or(1)).await;
        }
        let last = path.rsplit('/').next().unwrap_or_default();
        match last {
            "panic" => panic!("asked to"),
            "loop" => loop {
                PRESENT.fetch_add(0, Ordering::Relaxed);
            },
            "memory" => {
                let mut hoard: Vec<Vec<u8>> = Vec::new();
                loop {
                    hoard.push(vec![1; 1 << 20]);
                }
            }
            "large" => drop(std::hint::black_box(Vec::<u8>::with_capacity(LARGE_BYTES))),
            "hoard" => {
                let mut hoard = Vec::new();
                loop {
                    hoard.push(wit_stream::new::<u8>());
                }
            }
            "slow" => wait_for(SLOW_NS).await,
            "for-ever" => wait_for(u64::MAX).await,
            "no" => return Err(ErrorCode::InternalError(Some("asked to".to_owned()))),
            "echo" => return Ok(answer(count, body)),
            "parts" => return Ok(parts(count)),
            "later" => return Ok(later(count)),
            "after" => return Ok(after(count)),
            "silent" => return Ok(silent(count)),
            _ => {}
        }
        if let Some((_, authority)) = path.split_once("/fetch/") {
            return fetch(authority, count).await;
        }
        Ok(text(count, "Hello from Odeon\n"))
    }
}

/// Waits until so many requests are in this instance together.
async fn meet(number: u32) {
    PRESENT.fetch_add(1, Ordering::Relaxed);
    while PRESENT.load(Ordering::Relaxed) < number {
        wait_for(LOOK_NS).await;
    }
}

fn text(count: u32, text: &'static str) -> Response {
    let (mut body, contents) = wit_stream::new();
    wit_bindgen::spawn_local(async move {
        let _ = body.write_all(text.as_bytes().to_vec()).await;
    });
    answer(count, contents)
}

fn answer(count: u32, contents: wit_bindgen::StreamReader<u8>) -> Response {
    let headers = Fields::new();
    let _ = headers.set("x-instance-requests", &[count.to_string().into_bytes()]);
    let (trailers, ended) = wit_future::new(|| Ok(None));
    drop(trailers); // there are none
    Response::new(headers, Some(contents), ended).0
}

/// The body as it comes in.
fn body_of(request: Request) -> wit_bindgen::StreamReader<u8> {
    let (received, result) = wit_future::new(|| Ok(()));
    drop(received);
    Request::consume_body(request, result).0
}

/// A body in many parts, with a pause before each.
fn parts(count: u32) -> Response {
    let (mut body, contents) = wit_stream::new();
    wit_bindgen::spawn_local(async move {
        for part in 0..PARTS {
            wait_for(LOOK_NS).await;
            if !body.write_all(format!("part {part}\n").into_bytes()).await.is_empty() {
                return; // nobody listens
            }
        }
    });
    answer(count, contents)
}

/// A body whose end comes as late as `/slow` answers.
fn later(count: u32) -> Response {
    let (mut body, contents) = wit_stream::new();
    wit_bindgen::spawn_local(async move {
        body.write_all(b"now\n".to_vec()).await;
        wait_for(SLOW_NS).await;
        body.write_all(b"and later\n".to_vec()).await;
    });
    answer(count, contents)
}

/// Works on when all was said, and heard.
fn after(count: u32) -> Response {
    let (mut body, contents) = wit_stream::new();
    wit_bindgen::spawn_local(async move {
        body.write_all(b"and goes on\n".to_vec()).await;
        drop(body);
        loop {
            PRESENT.fetch_add(0, Ordering::Relaxed);
        }
    });
    answer(count, contents)
}

/// A body of which nothing ever comes.
fn silent(count: u32) -> Response {
    let (body, contents) = wit_stream::new::<u8>();
    wit_bindgen::spawn_local(async move {
        wait_for(u64::MAX).await;
        drop(body);
    });
    answer(count, contents)
}

/// What another server says.
async fn fetch(authority: &str, count: u32) -> Result<Response, ErrorCode> {
    let (trailers, ended) = wit_future::new(|| Ok(None));
    drop(trailers);
    let (request, _) = Request::new(Fields::new(), None, ended, None);
    let _ = request.set_scheme(Some(&Scheme::Http));
    let _ = request.set_authority(Some(authority));
    let _ = request.set_path_with_query(Some("/"));
    let response = client::send(request).await?;
    let (received, result) = wit_future::new(|| Ok(()));
    drop(received);
    let (contents, _) = Response::consume_body(response, result);
    Ok(answer(count, contents))
}
