//! The router between a real client and hosts that fail as a test needs it.
//!
//! [`FakeHost`] is a fake: real hosts cannot be told to die after the third byte.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use odeon_http::Workers;
use odeon_router::proxy::{Backend, Proxy};
use odeon_router::serve::{Stop, users};
use reqwest::{Client, StatusCode};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

/// How a fake host treats a connection.
#[derive(Clone, Copy)]
enum Behaviour {
    /// Answers every request with what it read of it.
    Echo,
    /// Reads the head of a request and closes.
    DieAfterHead,
    /// Says that it does not serve the app.
    NotServed,
    /// Reads the head of a request and says nothing.
    Silent,
}

/// A host that counts its requests.
struct FakeHost {
    address: String,
    requests: Arc<AtomicUsize>,
}

impl FakeHost {
    async fn start(behaviour: Behaviour) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let requests = Arc::new(AtomicUsize::new(0));
        let count = requests.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, behaviour, count.clone()));
            }
        });
        Self { address, requests }
    }

    /// The routes of an app that it alone serves.
    fn backends(&self) -> Vec<Backend> {
        vec![Backend { address: self.address.as_str().into() }]
    }

    fn requests(&self) -> usize {
        self.requests.load(Ordering::SeqCst)
    }
}

async fn serve(mut stream: TcpStream, behaviour: Behaviour, requests: Arc<AtomicUsize>) {
    let mut text = String::new();
    while !text.contains("\r\n\r\n") {
        let mut byte = [0; 1024];
        match stream.read(&mut byte).await {
            Ok(0) | Err(_) => return, // a connection that was never used
            Ok(read) => text.push_str(&String::from_utf8_lossy(&byte[..read])),
        }
    }
    requests.fetch_add(1, Ordering::SeqCst);
    let answer = match behaviour {
        Behaviour::Echo => {
            let length = text.len();
            format!("HTTP/1.1 200 OK\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n{text}")
        }
        Behaviour::DieAfterHead => return,
        Behaviour::Silent => {
            while stream.read(&mut [0; 1024]).await.is_ok_and(|read| read > 0) {}
            return;
        }
        Behaviour::NotServed => {
            "HTTP/1.1 421 Misdirected Request\r\nx-odeon-not-served: 1\r\ncontent-length: 0\r\n\r\n"
                .to_owned()
        }
    };
    let _ = stream.write_all(answer.as_bytes()).await;
}

/// An address that refuses connections.
async fn dead_address() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap().to_string()
}

struct Router {
    url: String,
    client: Client,
}

impl Router {
    /// A router that sends requests for `Shop` to these hosts.
    async fn to(addresses: &[&str]) -> Self {
        let proxy = Proxy::default();
        let backends = addresses.iter().map(|address| Backend { address: (*address).into() }).collect();
        proxy.install(HashMap::from([("Shop".to_owned(), backends)]));
        Self::serving(&proxy).await
    }

    async fn serving(proxy: &Proxy) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let threads = Workers::start("users", proxy.for_threads(2)).unwrap();
        tokio::spawn(users(threads, listener, Stop::default()));
        Self { url, client: Client::builder().no_proxy().build().unwrap() }
    }

    async fn get(&self, path: &str) -> (StatusCode, String) {
        let answer = self.client.get(format!("{}{path}", self.url)).send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }

    /// Sends these bytes, and reads until the router closes.
    async fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.url.trim_start_matches("http://")).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn post(&self, path: &str) -> (StatusCode, String) {
        let answer = self.client.post(format!("{}{path}", self.url)).body("a body").send().await.unwrap();
        (answer.status(), answer.text().await.unwrap())
    }
}

#[track_caller]
fn check_problem((status, body): (StatusCode, String), expect: (u16, &str)) {
    let problem: Value = serde_json::from_str(&body).unwrap();
    assert_eq!((status.as_u16(), problem["errorCode"].as_str()), (expect.0, Some(expect.1)), "{body}");
    assert!(problem["traceId"].is_string(), "{body}");
}

#[tokio::test]
async fn a_host_that_refuses_connections_costs_nobody_a_request() {
    let (dead, host) = (dead_address().await, FakeHost::start(Behaviour::Echo).await);
    let router = Router::to(&[&dead, &host.address]).await;
    for _ in 0..20 {
        assert_eq!(router.get("/Shop/").await.0, StatusCode::OK);
        let (status, text) = router.post("/Shop/").await;
        assert_eq!(status, StatusCode::OK, "no byte went out, so the body is whole: {text}");
    }
    assert_eq!(host.requests(), 40);
}

#[tokio::test]
async fn only_a_request_without_effect_is_sent_twice() {
    let (dying, host) =
        (FakeHost::start(Behaviour::DieAfterHead).await, FakeHost::start(Behaviour::Echo).await);
    let router = Router::to(&[&dying.address, &host.address]).await;
    for _ in 0..20 {
        assert_eq!(router.get("/Shop/").await.0, StatusCode::OK);
    }
    let alone = Router::to(&[&dying.address]).await;
    let before = dying.requests();
    check_problem(alone.post("/Shop/").await, (502, "OS-RTR-50201"));
    assert_eq!(dying.requests(), before + 1, "it may have had an effect: never again");
    check_problem(alone.get("/Shop/").await, (502, "OS-RTR-50201"));
}

#[tokio::test]
async fn a_host_that_does_not_serve_the_app_is_passed_over() {
    let (other, host) = (FakeHost::start(Behaviour::NotServed).await, FakeHost::start(Behaviour::Echo).await);
    let router = Router::to(&[&other.address, &host.address]).await;
    for _ in 0..20 {
        assert_eq!(router.get("/Shop/").await.0, StatusCode::OK);
    }
    for _ in 0..20 {
        let (status, seen) = router.post("/Shop/").await;
        assert!(status == StatusCode::OK && seen.ends_with("a body"), "{status} {seen}");
    }
    let alone = Router::to(&[&other.address]).await;
    let answer = alone.client.get(format!("{}/Shop/", alone.url)).send().await.unwrap();
    assert_eq!(answer.headers()["retry-after"], "1", "it says when to come back");
    check_problem(alone.get("/Shop/").await, (503, "OS-RTR-50301"));
    check_problem(alone.post("/Shop/").await, (503, "OS-RTR-50301"));
    check_problem(alone.get("/Nothing/").await, (404, "OS-RTR-40401"));
    check_problem(Router::to(&[]).await.get("/Shop/").await, (503, "OS-RTR-50301"));
}

#[tokio::test]
async fn a_request_carries_its_id_and_no_header_of_this_hop() {
    let host = FakeHost::start(Behaviour::Echo).await;
    let router = Router::to(&[&host.address]).await;
    let send = |id: String| {
        let request = router.client.get(format!("{}/Shop/x?y=z", router.url)).header("x-request-id", id);
        let request =
            request.header("connection", "x-secret").header("x-secret", "hop").header("te", "trailers");
        let request =
            request.header("odeon-call", "x").header("odeon-user", "x").header("odeon-trigger", "x");
        request.send()
    };
    let answer = send("my-id".into()).await.unwrap();
    assert_eq!(answer.headers()["x-request-id"], "my-id");
    let seen = answer.text().await.unwrap().to_lowercase();
    assert!(seen.starts_with("get /shop/x?y=z http/1.1\r\n"), "{seen}");
    assert!(seen.contains("x-request-id: my-id") && seen.contains("traceparent: 00-"), "{seen}");
    assert!(seen.contains("x-forwarded-for: 127.0.0.1"), "{seen}");
    assert!(!seen.contains("odeon-"), "what hosts say to one another: {seen}");
    assert!(!seen.contains("x-secret") && !seen.contains("\r\nte:"), "{seen}");
    let answer = send("x".repeat(65)).await.unwrap();
    assert_ne!(answer.headers()["x-request-id"], "x".repeat(65).as_str(), "an id may have 64 bytes");
}

#[tokio::test]
async fn a_body_without_a_length_is_passed_on_whatever_the_method() {
    let host = FakeHost::start(Behaviour::Echo).await;
    let router = Router::to(&[&host.address]).await;
    for method in ["GET", "DELETE", "POST"] {
        let head = format!("{method} /Shop/ HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked");
        let seen = router.raw(&format!("{head}\r\nconnection: close\r\n\r\n4\r\nbody\r\n0\r\n\r\n")).await;
        assert!(seen.starts_with("HTTP/1.1 200"), "{seen}");
        let (_, seen) = seen.split_once("\r\n\r\n").unwrap();
        assert!(seen.contains("transfer-encoding: chunked"), "{seen}");
    }
}

#[tokio::test]
async fn a_tunnel_goes_to_no_host() {
    let host = FakeHost::start(Behaviour::Echo).await;
    let router = Router::to(&[&host.address]).await;
    let ask = async |method: &str| {
        router.raw(&format!("{method} /Shop/ HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n")).await
    };
    let answer = ask("CONNECT").await;
    assert!(answer.starts_with("HTTP/1.1 501") && answer.contains("OS-RTR-50101"), "{answer}");
    assert_eq!(host.requests(), 0);
    assert!(ask("GET").await.starts_with("HTTP/1.1 200"), "a control");
}

#[tokio::test]
async fn an_app_is_told_the_host_that_was_asked() {
    let host = FakeHost::start(Behaviour::Echo).await;
    let router = Router::to(&[&host.address]).await;
    for (request, told) in [
        ("GET /Shop/ HTTP/1.1\r\nhost: shop.example\r\nconnection: close", "shop.example"),
        ("GET /Shop/ HTTP/1.1\r\nhost: shop.example\r\nconnection: host, close", "shop.example"),
        ("GET http://shop.example:81/Shop/ HTTP/1.1\r\nhost: b\r\nconnection: close", "shop.example:81"),
        ("GET http://a:b@shop.example/Shop/ HTTP/1.1\r\nhost: b\r\nconnection: close", "shop.example"),
        ("GET /Shop/ HTTP/1.0\r\nhost: shop.example", "shop.example"),
        ("GET /Shop/ HTTP/1.0\r\nx: y", "localhost"),
    ] {
        let answer = router.raw(&format!("{request}\r\n\r\n")).await;
        let (_, seen) = answer.split_once("\r\n\r\n").unwrap();
        let hosts: Vec<_> = seen.lines().filter_map(|line| line.strip_prefix("host: ")).collect();
        assert_eq!(hosts, [told], "{request}: {answer}");
    }
    let before = host.requests();
    let answer = router.raw("GET /Shop/ HTTP/1.1\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("OS-RTR-40003"), "{answer}");
    assert_eq!(host.requests(), before);
}

#[tokio::test]
async fn an_app_that_does_not_answer_leaves_room_for_others() {
    const APP_REQUESTS_MAX: usize = 4;
    let (silent, host) = (FakeHost::start(Behaviour::Silent).await, FakeHost::start(Behaviour::Echo).await);
    let proxy = Proxy::new(2 * APP_REQUESTS_MAX, APP_REQUESTS_MAX);
    let routes =
        || HashMap::from([("Slow".to_owned(), silent.backends()), ("Shop".to_owned(), host.backends())]);
    proxy.install(routes());
    let router = Router::serving(&proxy).await;
    let url = format!("{}/Slow/", router.url);
    let mut held = tokio::task::JoinSet::new();
    for _ in 0..APP_REQUESTS_MAX {
        held.spawn(router.client.get(&url).send());
    }
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(60);
    while silent.requests() < APP_REQUESTS_MAX {
        assert!(tokio::time::Instant::now() < deadline, "{} requests", silent.requests());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    proxy.install(routes()); // what is taken stays taken
    let refused = router.client.get(&url).send().await.unwrap();
    assert_eq!(refused.headers()["retry-after"], "1");
    check_problem((refused.status(), refused.text().await.unwrap()), (503, "OS-RTR-50303"));
    assert_eq!(router.get("/Shop/").await.0, StatusCode::OK);
}

#[tokio::test]
async fn apps_that_do_not_answer_leave_room_for_those_with_few_requests() {
    const APP_REQUESTS_MAX: usize = 64;
    let (silent, host) = (FakeHost::start(Behaviour::Silent).await, FakeHost::start(Behaviour::Echo).await);
    let proxy = Proxy::new(2 * APP_REQUESTS_MAX, APP_REQUESTS_MAX);
    let apps = [("One", &silent), ("Two", &silent), ("Shop", &host)];
    proxy.install(apps.map(|(name, host)| (name.to_owned(), host.backends())).into());
    let router = Router::serving(&proxy).await;
    let mut held = tokio::task::JoinSet::new();
    // All that one may have, and of the other what leaves a quarter.
    for name in ["One", "Two"] {
        for _ in 0..APP_REQUESTS_MAX {
            held.spawn(router.client.get(format!("{}/{name}/", router.url)).send());
        }
    }
    for _ in 0..APP_REQUESTS_MAX / 2 {
        let refused = held.join_next().await.unwrap().unwrap().unwrap();
        let answer = (refused.status(), refused.text().await.unwrap());
        assert!(answer.1.contains("the router has few places left"), "{answer:?}");
        check_problem(answer, (503, "OS-RTR-50303"));
    }
    assert_eq!(router.get("/Shop/").await.0, StatusCode::OK);
}

#[tokio::test]
async fn a_request_that_is_given_up_keeps_no_port() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let router = Router::to(&[&listener.local_addr().unwrap().to_string()]).await;
    let mut client = TcpStream::connect(router.url.trim_start_matches("http://")).await.unwrap();
    client.write_all(b"GET /Shop/ HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let (mut host, _) = listener.accept().await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"\r\n\r\n") {
        assert!(host.read_buf(&mut seen).await.unwrap() > 0);
    }
    drop(client);
    // After a reset the kernel knows of no peer. One that only said its end would wait for ours, and then for a minute.
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(10);
    while host.peer_addr().is_ok() {
        assert!(tokio::time::Instant::now() < deadline, "the router keeps its end");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_body_is_passed_on_while_it_comes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let router = Router::to(&[&listener.local_addr().unwrap().to_string()]).await;
    let (pieces, body) = mpsc::channel::<Result<Bytes, std::io::Error>>(1);
    let body = reqwest::Body::wrap_stream(futures_util::stream::unfold(body, |mut body| async {
        body.recv().await.map(|piece| (piece, body))
    }));
    let sent = tokio::spawn(router.client.post(format!("{}/Shop/", router.url)).body(body).send());
    pieces.send(Ok(Bytes::from_static(b"first"))).await.unwrap();
    let (mut host, _) = listener.accept().await.unwrap();
    let mut seen = String::new();
    while !seen.contains("first") {
        let mut some = [0; 1024];
        let read = host.read(&mut some).await.unwrap();
        assert!(read > 0, "the host sees the first piece before there is a second: {seen}");
        seen.push_str(&String::from_utf8_lossy(&some[..read]));
    }
    drop(pieces);
    host.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(sent.await.unwrap().unwrap().text().await.unwrap(), "ok");
}
