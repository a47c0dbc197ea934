//! Clients that break HTTP, or keep to it in order to hold what others need: against a real router and a real host.
//!
//! What ends at once is tried one after the other; what ends at a deadline is tried all together, with the same attack on
//! a server without limits beside it, which must still be open when ours has closed. Not tested here: TLS, which stands
//! before the router, and attacks from more addresses than this machine has.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::net::IpAddr;
use std::ops::Range;
use std::time::Duration;

use odeon_hostile::http1::{Raw, head};
use odeon_hostile::http2::{self, ACK, END_HEADERS, END_STREAM, Frame, Http2, kind};
use odeon_hostile::{Beside, plain, publish, resident_bytes};
use odeon_http::limits;
use odeon_tests::{Installation, eventually};
use reqwest::StatusCode;
use serde_json::Value;

/// What all attacks of a test may cost a process in memory, in bytes. The same floods cost a server that keeps what it
/// is sent gigabytes.
const MEMORY_BYTES_MAX: u64 = 256 << 20;
/// Headers of an app's response.
const RESPONSE_HEADERS_MAX: usize = 80;
/// Bytes of the body of an app's response.
const RESPONSE_BODY_BYTES_MAX: u64 = 128 << 20;
/// How long a server without limits is looked at after ours has closed.
const SOON: Duration = Duration::from_millis(200);
/// Another address of this machine, so that what an attacker has used up is not missing to others.
const ATTACKER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(127, 0, 0, 66));

#[tokio::test]
async fn hostile_clients_are_met() {
    odeon_http::descriptors::raise(); // for more connections than one address may have
    let site = Installation::start().await;
    publish(&site);
    let router = site.url("development", "").trim_start_matches("http://").to_owned();
    let target = Target { host: site.host_address("development-1"), router, site: &site };
    let before = target.memory();
    let beside = Beside::start(site.url("development", "/Hello/"));
    target.what_is_ambiguous_is_refused().await;
    target.heads_are_bounded().await;
    target.bodies_are_bounded().await;
    target.what_the_host_gets_is_framed_anew().await;
    target.http2_keeps_to_its_rules().await;
    target.http2_floods_end().await;
    target.who_makes_the_server_reset_streams_is_left().await;
    target.responses_of_apps_are_bounded().await;
    target.responses_of_apps_are_framed_by_the_host().await;
    target.admin_listeners_are_bounded().await;
    target.an_address_has_so_many_connections().await;
    beside.stop().await;
    let beside = Beside::start(site.url("development", "/Hello/"));
    target.nobody_holds_a_connection_for_nothing().await;
    beside.stop().await;
    for ((process, before), (_, after)) in before.iter().zip(target.memory()) {
        let grown = after.saturating_sub(*before);
        assert!(grown < MEMORY_BYTES_MAX, "{process} has grown by {grown} bytes");
    }
}

struct Target<'s> {
    site: &'s Installation,
    router: String,
    host: String,
}

impl Target<'_> {
    fn memory(&self) -> Vec<(&'static str, u64)> {
        let processes = ["router-development-router", "host-development-1"];
        processes.map(|process| (process, resident_bytes(self.site, process))).to_vec()
    }

    fn both(&self) -> [&str; 2] {
        [&self.router, &self.host]
    }

    /// Waits until the host has no request under way.
    async fn no_request_is_left(&self) {
        eventually("the instances are free again", async || {
            let metrics = self.site.host_metrics("development-1").await;
            let in_flight =
                metrics.lines().find_map(|line| line.strip_prefix("odeon_host_requests_in_flight "));
            (in_flight?.parse::<u32>().ok()? <= 1).then_some(()) // a well-behaved client may be there
        })
        .await;
    }

    async fn what_is_ambiguous_is_refused(&self) {
        let body = "5\r\nhello\r\n0\r\n\r\n";
        let refused = [
            ("two lengths", head("POST", "/Hostile/out/seen", &["content-length: 5", "content-length: 6"])),
            ("a length that is a list", head("POST", "/Hostile/out/seen", &["content-length: 5, 6"])),
            ("a signed length", head("POST", "/Hostile/out/seen", &["content-length: +5"])),
            (
                "an unknown coding",
                head("POST", "/Hostile/out/seen", &["transfer-encoding: chunked, identity"]),
            ),
            ("a coding that hides", head("POST", "/Hostile/out/seen", &["transfer-encoding: xchunked"])),
            (
                "a coding in HTTP/1.0",
                head("POST", "/Hostile/out/seen", &["transfer-encoding: chunked"]).replace("1.1", "1.0"),
            ),
            ("a folded header", head("POST", "/Hostile/out/seen", &["x-a: b", " c: d", "content-length: 5"])),
            ("a space before the colon", head("POST", "/Hostile/out/seen", &["content-length : 5"])),
            ("a space before a name", head("POST", "/Hostile/out/seen", &["x-a: b\r\n content-length: 5"])),
            ("a bare CR", head("POST", "/Hostile/out/seen", &["x-a: b\rcontent-length: 5"])),
            ("a NUL", head("POST", "/Hostile/out/seen", &["x-a: b\0c"])),
            ("two hosts", head("GET", "/Hostile/out/seen", &["host: y"])),
            ("no name", head("GET", "/Hostile/out/seen", &[": x"])),
            ("a space in the path", head("GET", "/Hostile/out/ seen", &[])),
            ("no HTTP", "hello\r\n\r\n".to_owned()),
        ];
        for server in self.both() {
            for (what, head) in &refused {
                let mut raw = Raw::connect(server).await;
                raw.send(format!("{head}{body}")).await;
                let status = raw.answer().await.map(|answer| answer.status);
                assert_eq!(status, Some(400), "{what} at {server}");
                raw.closed().await;
            }
        }
        let (_, two_hosts) = refused.iter().find(|(what, _)| *what == "two hosts").unwrap();
        let mut control = Raw::connect(&plain::server(2).await).await;
        control.send(two_hosts).await;
        assert_eq!(
            control.answer().await.unwrap().status,
            200,
            "the rest is hyper's to refuse, this is ours"
        );
        // Inside of a body it is too late for a status of the server's own, but not for one of the router's.
        let chunked = head("POST", "/Hostile/out/seen", &["transfer-encoding: chunked"]);
        let broken = [
            "zz\r\nhello\r\n",
            "ffffffffffffffffff\r\nhello\r\n",
            "-5\r\nhello\r\n",
            "5\r\nhello!!0\r\n\r\n",
        ];
        for chunks in broken {
            let mut raw = Raw::connect(&self.router).await;
            raw.send(format!("{chunked}{chunks}")).await;
            let answer = raw.answer().await;
            let is_well = answer.as_ref().is_none_or(|answer| {
                answer.status == 400 || answer.status == 200 && !answer.body.contains("whole")
            });
            assert!(is_well, "{chunks:?}: {answer:?}");
            raw.closed().await;
        }
        let mut raw = Raw::connect(&self.router).await;
        raw.send(&chunked).await;
        let extension = format!("1;{}\r\nx\r\n", "e".repeat(1 << 10));
        let mut sent = 0;
        while sent < 1_000 && raw.send(&extension).await {
            sent += 1;
        }
        raw.closed().await; // 16 KiB of extensions are more than anybody has a use for
    }

    /// A length beside chunks: the chunks count, the length goes no further, and what follows is nobody's request.
    async fn what_the_host_gets_is_framed_anew(&self) {
        let smuggled = "GET /Hello/smuggled HTTP/1.1\r\nhost: x\r\n\r\n";
        for order in [
            ["content-length: 6", "transfer-encoding: chunked"],
            ["transfer-encoding: chunked", "content-length: 6"],
        ] {
            let mut raw = Raw::connect(&self.router).await;
            let request = head("POST", "/Hostile/out/seen", &order);
            raw.send(format!("{request}3\r\nabc\r\n0\r\n\r\n{smuggled}")).await;
            let answer = raw.answer().await.unwrap();
            assert_eq!(answer.status, 200, "{answer:?}");
            assert!(answer.body.contains("body: 3 bytes, whole"), "{answer:?}");
            assert!(!answer.body.contains("content-length"), "{answer:?}");
            assert!(answer.head.contains("connection: close"), "{answer:?}");
            assert!(raw.answer().await.is_none(), "the second request is not answered");
        }
        let mut control = Raw::connect(&self.router).await;
        let request = head("POST", "/Hostile/out/seen", &["transfer-encoding: chunked"]);
        control.send(format!("{request}3\r\nabc\r\n0\r\n\r\n{smuggled}")).await;
        assert!(control.answer().await.is_some());
        assert!(control.answer().await.is_some(), "with one framing the second request is one");

        // Bare LFs end lines for the router; what it sends on has CRLFs, and says the same to everybody.
        let mut raw = Raw::connect(&self.router).await;
        raw.send("POST /Hostile/out/seen HTTP/1.1\nhost: x\ncontent-length: 3\n\nabc").await;
        let answer = raw.answer().await.unwrap();
        assert!(answer.status == 400 || answer.body.contains("body: 3 bytes, whole"), "{answer:?}");

        let mut raw = Raw::connect(&self.router).await;
        let hop = [
            "connection: x-secret, close",
            "x-secret: 1",
            "te: trailers",
            "keep-alive: 5",
            "proxy-connection: x",
            "upgrade: h2c",
            "odeon-trigger: timer",
            "odeon-user: root",
            "odeon-call: x",
            "x-forwarded-for: 1.2.3.4",
            "x-forwarded-host: 1.2.3.4",
            "x-real-ip: 1.2.3.4",
            "forwarded: for=1.2.3.4",
        ];
        raw.send(head("GET", "/Hostile/out/seen", &hop)).await;
        let seen = raw.answer().await.unwrap().body.to_lowercase();
        for name in ["connection:", "x-secret", "te:", "keep-alive:", "upgrade:", "odeon-", "1.2.3.4"] {
            assert!(
                !seen.lines().any(|line| line.starts_with(name) || line.contains("1.2.3.4")),
                "{name}: {seen}"
            );
        }
    }

    async fn heads_are_bounded(&self) {
        let long = |bytes: usize| format!("/Hello/{}", "x".repeat(bytes));
        let many: Vec<String> = (0..=limits::HEADERS_MAX).map(|at| format!("x-{at}: y")).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let large = format!("x: {}", "y".repeat(limits::HEAD_BYTES_MAX as usize));
        let plain = plain::server(2).await;
        for server in [&self.router, &self.host, &plain] {
            let is_control = *server == plain;
            let cases = [
                ("a long URL", head("GET", &long(limits::URL_BYTES_MAX), &[]), 414),
                ("a longer URL", head("GET", &long(limits::HEAD_BYTES_MAX as usize - 1_000), &[]), 414),
                ("many headers", head("GET", "/Hello/", &many), 431),
                ("a large header", head("GET", "/Hello/", &[&large]), 431),
            ];
            for (what, request, status) in cases {
                let mut raw = Raw::connect(server).await;
                raw.send(&request).await;
                let answered = raw.answer().await.map(|answer| answer.status);
                let expected = if is_control { 200 } else { status };
                assert_eq!(answered, Some(expected), "{what} at {server}");
            }
            let mut raw = Raw::connect(server).await;
            raw.send("GET /Hello/ HTTP/1.1\r\nx: ").await;
            let (mut sent, piece) = (0_usize, "y".repeat(16 << 10));
            while sent < 64 && raw.send(&piece).await {
                sent += 1; // a head that does not end
            }
            if is_control {
                assert!(sent == 64 && raw.is_open(), "it takes 1 MiB of it, and waits for more");
                continue;
            }
            let answered = raw.answer().await.map(|answer| answer.status);
            assert!(answered.is_none_or(|status| status == 431), "a head that does not end at {server}");
            raw.closed().await;
        }
        let mut raw = Raw::connect(&self.router).await;
        raw.send(head("GET", &long(limits::URL_BYTES_MAX), &[])).await;
        let problem: Value = serde_json::from_str(&raw.answer().await.unwrap().body).unwrap();
        assert_eq!(problem["errorCode"], "OS-RTR-41401", "it says why: {problem}");
    }

    async fn bodies_are_bounded(&self) {
        for server in self.both() {
            let mut raw = Raw::connect(server).await;
            raw.send(head("POST", "/Hostile/out/seen", &["content-length: 99999999999"])).await;
            let answer = raw.answer().await.unwrap();
            assert_eq!(answer.status, 413);
            assert!(answer.body.contains("OS-BERT-41301"), "{answer:?}");
        }
        let mut raw = Raw::connect(&self.router).await;
        raw.send(head("POST", "/Hostile/out/seen", &["transfer-encoding: chunked"])).await;
        let chunk = format!("10000\r\n{}\r\n", "x".repeat(64 << 10));
        let mut sent = 0;
        while sent < 1_000 && raw.send(&chunk).await {
            sent += 1; // without a length: it is cut where it is too long
        }
        assert!(sent < 1_000, "it took all of it");
        raw.closed().await;
        let mut control = Raw::connect(&plain::server(2).await).await;
        control.send(head("POST", "/", &["transfer-encoding: chunked"])).await;
        for _ in 0..1_000 {
            assert!(control.send(&chunk).await, "a server without the limit takes all of it");
        }
        control.send("0\r\n\r\n").await;
        assert_eq!(control.answer().await.unwrap().status, 200);
    }

    async fn http2_keeps_to_its_rules(&self) {
        for (name, value) in
            [("connection", "close"), ("transfer-encoding", "chunked"), ("te", "gzip"), ("Upper", "x")]
        {
            let mut http2 = Http2::connect(&self.router, &[]).await;
            let block = http2::request("GET", "/Hello/", &[(name, value)]);
            http2.send(&http2::frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
            let told = http2.find(|frame| ends(frame, 1)).await;
            assert!(told.is_none_or(|frame| frame.kind != kind::HEADERS), "{name} belongs to a connection");
        }
        let mut http2 = Http2::connect(&self.router, &[]).await;
        let large = "y".repeat(1 << 10);
        let many: Vec<(String, &str)> = (0..100).map(|at| (format!("x-{at}"), large.as_str())).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let block = http2::request("GET", "/Hello/", &many);
        let mut bytes = Vec::new();
        let pieces: Vec<&[u8]> = block.chunks(16_000).collect();
        for (at, piece) in pieces.iter().enumerate() {
            let (kind, end) = if at == 0 { (kind::HEADERS, END_STREAM) } else { (kind::CONTINUATION, 0) };
            let flags = end | if at + 1 == pieces.len() { END_HEADERS } else { 0 };
            bytes.extend(http2::frame(kind, flags, 1, piece));
        }
        http2.send(&bytes).await;
        let told = http2.find(|frame| ends(frame, 1)).await;
        assert!(told.is_none_or(|frame| !is_ok(&frame)), "100 KiB of headers are no request");

        // A length that the body does not have.
        let mut http2 = Http2::connect(&self.router, &[]).await;
        let block = http2::request("POST", "/Hostile/out/seen", &[("content-length", "5")]);
        http2.send(&http2::frame(kind::HEADERS, END_HEADERS, 1, &block)).await;
        http2.send(&http2::frame(kind::DATA, END_STREAM, 1, b"hello, and more")).await;
        let told = http2.find(|frame| ends(frame, 1)).await;
        assert!(told.is_none_or(|frame| !is_ok(&frame)), "a body is as long as it says");
    }

    async fn http2_floods_end(&self) {
        let get = http2::request("GET", "/Hello/", &[]);
        let floods: [(&str, Vec<u8>, Vec<u8>); 6] = [
            (
                "CONTINUATION",
                http2::frame(kind::HEADERS, 0, 1, &get),
                http2::frame(kind::CONTINUATION, 0, 1, &[]),
            ),
            ("PING", Vec::new(), http2::frame(kind::PING, 0, 0, &[0; 8])),
            ("SETTINGS", Vec::new(), http2::frame(kind::SETTINGS, 0, 0, &http2::setting(4, 65_535))),
            ("WINDOW_UPDATE", Vec::new(), http2::frame(kind::WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1])),
            (
                "empty DATA",
                http2::frame(
                    kind::HEADERS,
                    END_HEADERS,
                    1,
                    &http2::request("POST", "/Hostile/out/seen", &[]),
                ),
                http2::frame(kind::DATA, 0, 1, &[]),
            ),
            (
                "CONTINUATION with headers",
                http2::frame(kind::HEADERS, 0, 1, &get),
                http2::frame(kind::CONTINUATION, 0, 1, &http2::header("x", "y").repeat(1_000)),
            ),
        ];
        // So many bytes that only a limit ends it.
        let times = |flood: &[u8]| (4 * usize::try_from(limits::CONTROL_BYTES_MAX).unwrap()) / flood.len();
        for (what, first, flood) in &floods {
            let together = flood.repeat((64 << 10) / flood.len());
            let mut http2 = Http2::connect(&self.router, &[]).await;
            http2.send(first).await;
            let flooded = http2.flood(&together, times(&together)).await;
            assert!(flooded.closed, "{what}: {flooded:?}");
        }
        let plain = plain::server(2).await;
        for (what, first, flood) in &floods {
            let together = flood.repeat((64 << 10) / flood.len());
            let mut control = Http2::connect(&plain, &[]).await;
            control.send(first).await;
            let flooded = control.flood(&together, times(&together)).await;
            let is_of_h2 = ["CONTINUATION", "empty DATA"].contains(what); // what has no setting
            assert!(
                is_of_h2 || !flooded.closed,
                "{what}: a server without the limit takes all of it: {flooded:?}"
            );
        }

        // Rapid reset: streams that are taken back at once do not count as open.
        for server in [&self.router, &plain] {
            let mut http2 = Http2::connect(server, &[]).await;
            let mut closed = false;
            for at in 0..1_000_u32 {
                let bytes: Vec<u8> = (0..20)
                    .flat_map(|more| {
                        let stream = (at * 20 + more) * 2 + 1;
                        let head = http2::frame(kind::HEADERS, END_HEADERS | END_STREAM, stream, &get);
                        [head, http2::frame(kind::RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat()
                    })
                    .collect();
                if !http2.send(&bytes).await {
                    closed = true;
                    break;
                }
            }
            if *server == self.router {
                assert!(closed || http2.closed_within(Duration::from_secs(30)).await, "rapid reset");
            } else {
                assert!(
                    !closed && !http2.closed_within(SOON).await,
                    "a server without the limit takes them all"
                );
            }
        }

        // Streams that never end: no more than are allowed are begun.
        let post = http2::request("POST", "/Hostile/out/seen", &[]);
        let streams = (0..limits::STREAMS_MAX + 50)
            .flat_map(|at| http2::frame(kind::HEADERS, END_HEADERS, at * 2 + 1, &post));
        let streams: Vec<u8> = streams.collect();
        let is_refused = |frame: &Frame| frame.kind == kind::RST_STREAM && frame.payload == [0, 0, 0, 7];
        let mut http2 = Http2::connect(&self.router, &[]).await;
        http2.send(&streams).await;
        assert!(http2.find(is_refused).await.is_some(), "REFUSED_STREAM");
        let mut control = Http2::connect(&plain, &[]).await;
        control.send(&[&streams[..], &http2::frame(kind::PING, 0, 0, b"answered")].concat()).await;
        let pong = |frame: &Frame| frame.kind == kind::PING && frame.flags == ACK;
        let first = control.find(|frame| is_refused(frame) || pong(frame)).await;
        assert!(first.is_some_and(|frame| pong(&frame)), "a server without the limit begins all of them");
    }

    /// A reset that the client earns costs as much as one that it sends (CVE-2025-8671).
    async fn who_makes_the_server_reset_streams_is_left(&self) {
        let block = http2::request("GET", "/Hello/", &[("connection", "close")]);
        let resets = u32::try_from(limits::LOCAL_RESETS_MAX).unwrap();
        let heads = |range: Range<u32>| {
            let heads =
                range.map(|at| http2::frame(kind::HEADERS, END_HEADERS | END_STREAM, at * 2 + 1, &block));
            heads.collect::<Vec<_>>().concat()
        };
        let ping = http2::frame(kind::PING, 0, 0, b"answered");
        let is_pong = |frame: &Frame| frame.kind == kind::PING && frame.flags == ACK;
        let is_end =
            |frame: &Frame| frame.kind == kind::GOAWAY && frame.payload.ends_with(b"internal_resets");
        let plain = plain::server(2).await;
        let mut first = Vec::new();
        for server in [&self.router, &plain] {
            let mut http2 = Http2::connect(server, &[]).await;
            http2.send(&[heads(0..resets), ping.clone()].concat()).await;
            assert!(http2.find(is_pong).await.is_some(), "so many are allowed");
            http2.send(&[heads(resets..resets + 1), ping.clone()].concat()).await;
            first.push(
                http2.find(|frame| is_pong(frame) || is_end(frame)).await.is_some_and(|frame| is_end(&frame)),
            );
        }
        assert_eq!(first, [true, false], "the router closes, a server without the limit goes on");
    }

    /// What an app answers must not make its host look broken: others would be sent elsewhere, or nowhere.
    async fn responses_of_apps_are_bounded(&self) {
        let out = async |path: &str| {
            self.site.get(&self.site.url("development", &format!("/Hostile/out/{path}"))).await
        };
        let (status, _) = out(&format!("headers/{}/10", RESPONSE_HEADERS_MAX - 10)).await;
        assert_eq!(status, StatusCode::OK);
        for path in ["headers/101/1", "headers/50/1000", "status/100", "status/103"] {
            let (status, answer) = out(path).await;
            let is_refused = status == StatusCode::BAD_GATEWAY && answer["errorCode"] == "OS-BERT-50201";
            assert!(is_refused || answer == "refused\n", "{path}: {status} {answer}");
        }
        let url = self.site.url("development", &format!("/Hostile/out/body/{}", RESPONSE_BODY_BYTES_MAX + 1));
        let mut response = self.site.client.get(url).send().await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        let mut bytes = 0;
        let cut = loop {
            match response.chunk().await {
                Ok(Some(chunk)) => bytes += chunk.len() as u64,
                Ok(None) => break false,
                Err(_) => break true,
            }
        };
        assert!(cut && bytes <= RESPONSE_BODY_BYTES_MAX, "{bytes}");
        eventually("the log tells of the cut", async || {
            self.site.succeed(&["logs", "Hostile", "--request", &id]).contains("OS-BERT-50202").then_some(())
        })
        .await;
    }

    /// What an app says of its answer is one answer's, whatever it looks like.
    async fn responses_of_apps_are_framed_by_the_host(&self) {
        let ask = async |path: &str| {
            let mut raw = Raw::connect(&self.router).await;
            raw.send(head("GET", &format!("/Hostile/out/{path}"), &[])).await;
            let answer = raw.answer().await.unwrap();
            (answer, raw)
        };
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        for (name, value) in [
            ("x-a", "b\r\nset-cookie: stolen"),
            ("x-a", "b\nset-cookie: stolen"),
            ("x-a", "b\0c"),
            ("x a", "b"),
            ("x-a:", "b"),
            ("x-a\r\nset-cookie", "stolen"),
            ("", "b"),
            ("x-\u{e9}", "b"),
            ("transfer-encoding", "chunked"),
            ("connection", "close"),
        ] {
            let path = format!("header/{}/{}", hex(name.as_bytes()), hex(value.as_bytes()));
            let (answer, _) = ask(&path).await;
            assert!(answer.body.starts_with("refused "), "{name:?}: {value:?}: {answer:?}");
        }
        for value in [&b"well"[..], b"\xff\xfe"] {
            let (answer, _) = ask(&format!("header/782d61/{}", hex(value))).await;
            let sent = format!("x-a: {}\r\n", String::from_utf8_lossy(value)); // bytes of a value are the app's (RFC 9110, 5.5)
            assert!(answer.status == 200 && answer.head.contains(&sent), "{answer:?}");
        }
        let (answer, _) = ask("claims").await;
        let forged =
            answer.head.contains("x-odeon-not-served") || answer.head.contains("x-request-id: forged");
        assert!(!forged && answer.body == "claimed\n", "{answer:?}");

        // A body that is longer than it says, and goes on as another answer would begin.
        let (answer, mut raw) = ask("length/5/52").await;
        assert_eq!((answer.status, answer.body.as_str()), (200, "hello"));
        raw.send(head("GET", "/Hello/", &[])).await;
        let next = raw.answer().await;
        assert!(next.as_ref().is_none_or(|next| !next.body.contains("smuggled")), "{next:?}");
        let (answer, _) = ask("length/0/52").await;
        assert_eq!(answer.body, "");
        let (answer, _) = ask("length/100/52").await;
        assert!(answer.status == 502 || answer.body.len() < 100, "{answer:?}");
        for path in ["length/-1/52", "length/5,6/52", "length/99999999999999999999/52"] {
            let (answer, _) = ask(path).await;
            assert!(answer.body.starts_with("refused "), "{path}: {answer:?}");
        }
        let bytes = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nsmuggled";
        let mut control = Raw::connect(&plain::bytes(bytes).await).await;
        assert_eq!(control.answer().await.unwrap().body, "hello");
        assert_eq!(control.answer().await.unwrap().body, "smuggled", "as it is, it is two answers");
    }

    async fn admin_listeners_are_bounded(&self) {
        let metrics = self.site.host_metrics("development-1").await;
        assert!(metrics.contains("odeon_host_requests_in_flight"));
        let log = self.site.process("host-development-1")["log"].as_str().unwrap().to_owned();
        let log = std::fs::read_to_string(log).unwrap();
        let told = log.lines().rev().find_map(|line| {
            serde_json::from_str::<Value>(line).ok()?["fields"]["admin_address"].as_str().map(str::to_owned)
        });
        let admin = told.unwrap();
        let mut raw = Raw::connect(&admin).await;
        raw.send(head("GET", "/healthz", &[&format!("x: {}", "y".repeat(limits::HEAD_BYTES_MAX as usize))]))
            .await;
        assert_eq!(raw.answer().await.map(|answer| answer.status), Some(431));
        let held = held(&admin, limits::ADMIN.connections_per_peer_max + 8).await;
        assert!(held.len() <= limits::ADMIN.connections_per_peer_max);
        drop(held);
        eventually("the listener answers again", async || {
            let mut raw = Raw::connect(&admin).await;
            raw.send(head("GET", "/healthz", &[])).await;
            (raw.answer().await?.status == 200).then_some(())
        })
        .await;
    }

    async fn an_address_has_so_many_connections(&self) {
        let max = limits::USERS.connections_per_peer_max;
        let held = held(&self.router, max + 50).await;
        assert!(held.len() <= max, "{} connections of one address are open", held.len());
        let (status, _) = self.site.get(&self.site.url("development", "/Hello/")).await;
        assert_eq!(status, StatusCode::OK, "another address has its own");
        drop(held);
        let plain = plain::server(2).await;
        let mut all = Vec::new();
        for _ in 0..max + 50 {
            all.push(Raw::connect_from(ATTACKER, &plain, None).await.unwrap());
        }
        let mut last = all.pop().unwrap();
        last.send(head("GET", "/", &[])).await;
        assert_eq!(last.answer().await.unwrap().status, 200);
        assert!(all.iter_mut().all(Raw::is_open), "a server without the limit takes them all");
    }

    /// Each is closed at its deadline, while a server without limits goes on.
    async fn nobody_holds_a_connection_for_nothing(&self) {
        let plain = plain::server(64 << 20).await;
        tokio::join!(
            self.silence_ends(&plain),
            self.a_slow_head_ends(&plain),
            self.a_slow_body_is_told(&plain),
            self.a_slow_body_ends_at_the_host(&plain),
            self.who_does_not_read_is_left(&plain),
            self.who_opens_no_window_is_left(&plain, "/Hello/"), // an answer of one piece
            self.who_opens_no_window_is_left(&plain, "/Hostile/out/body/1048576"), // and of many
        );
        self.no_request_is_left().await;
    }

    async fn silence_ends(&self, plain: &str) {
        let (mut silent, mut control) = (Raw::connect(&self.router).await, Raw::connect(plain).await);
        let mut half = Http2::connect(&self.router, &[]).await; // a preface, and nothing else
        let mut half_control = Http2::connect(plain, &[]).await;
        silent.closed().await;
        assert!(half.closed_within(Duration::from_secs(60)).await);
        assert!(control.is_open() && !half_control.closed_within(SOON).await);
    }

    async fn a_slow_head_ends(&self, plain: &str) {
        let (mut slow, mut control) = (Raw::connect(&self.router).await, Raw::connect(plain).await);
        let mut second = Raw::connect(&self.router).await;
        second.send(head("GET", "/Hello/", &[])).await;
        assert_eq!(second.answer().await.unwrap().status, 200);
        for raw in [&mut slow, &mut second, &mut control] {
            raw.send("GET /Hello/ HTTP/1.1\r\nx: ").await;
        }
        let mut every = tokio::time::interval(Duration::from_millis(500)); // the attack is to be slow
        let mut ended = (false, false);
        for _ in 0..120 {
            every.tick().await;
            ended.0 = ended.0 || !slow.send("y").await || !slow.is_open();
            ended.1 = ended.1 || !second.send("y").await || !second.is_open();
            assert!(control.send("y").await && control.is_open());
            if ended == (true, true) {
                return;
            }
        }
        panic!("a head may take as long as it likes: {ended:?}");
    }

    async fn a_slow_body_is_told(&self, plain: &str) {
        let request = head("POST", "/Hostile/out/seen", &["content-length: 1000"]);
        let (mut slow, mut control) = (Raw::connect(&self.router).await, Raw::connect(plain).await);
        slow.send(&request).await;
        control.send(&request).await;
        let mut every = tokio::time::interval(Duration::from_secs(1));
        for _ in 0..80 {
            every.tick().await;
            if !slow.send("y").await || !slow.is_open() {
                break;
            }
        }
        let answer = slow.answer().await.expect("an answer before the end");
        assert_eq!(answer.status, 408, "{answer:?}");
        assert!(answer.body.contains("OS-RTR-40801"), "{answer:?}");
        slow.closed().await;
        assert!(control.is_open());
    }

    async fn a_slow_body_ends_at_the_host(&self, plain: &str) {
        let (mut slow, mut control) = (Raw::connect(&self.host).await, Raw::connect(plain).await);
        for raw in [&mut slow, &mut control] {
            raw.send(head("POST", "/Hostile/out/seen", &["content-length: 1000"])).await;
        }
        let answer = slow.answer().await.expect("the app is told, and answers");
        assert!(answer.body.contains("connection read timeout"), "{answer:?}");
        slow.closed().await;
        assert!(control.is_open());
    }

    async fn who_does_not_read_is_left(&self, plain: &str) {
        let request = head("GET", &format!("/Hostile/out/body/{}", 64 << 20), &[]);
        let window = Some(4 << 10);
        let mut greedy = Raw::connect_from(ATTACKER, &self.router, window).await.unwrap();
        let mut control = Raw::connect_from(ATTACKER, plain, window).await.unwrap();
        greedy.send(&request).await;
        control.send(&request).await;
        let metrics = async || {
            let metrics = self.site.host_metrics("development-1").await;
            metrics
                .lines()
                .any(|line| line.starts_with("odeon_host_requests_total{app=\"Hostile\""))
                .then_some(())
        };
        eventually("the host has answered", metrics).await;
        // Nothing is read until the router has closed: whether it has is asked of the kernel.
        eventually("the router closes", async || is_reset(&greedy).then_some(())).await;
        assert!(greedy.closed().await < 64 << 20, "the answer is not whole");
        assert!(!is_reset(&control), "a server without the limit waits for ever");
    }

    async fn who_opens_no_window_is_left(&self, plain: &str, path: &str) {
        let mut greedy = Http2::connect(&self.router, &[(4, 0)]).await; // SETTINGS_INITIAL_WINDOW_SIZE
        let mut control = Http2::connect(plain, &[(4, 0)]).await;
        let block = http2::request("GET", path, &[]);
        greedy.send(&http2::frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
        control.send(&http2::frame(kind::HEADERS, END_HEADERS | END_STREAM, 1, &block)).await;
        let is_reset = |frame: &http2::Frame| frame.kind == kind::RST_STREAM && frame.stream == 1;
        assert!(greedy.find(is_reset).await.is_some(), "{path}: its stream ends, and not its connection");
        let block = http2::request("HEAD", "/Hello/", &[]);
        greedy.send(&http2::frame(kind::HEADERS, END_HEADERS | END_STREAM, 3, &block)).await;
        let answered = greedy.find(|frame| frame.kind == kind::HEADERS && frame.stream == 3).await;
        assert!(answered.is_some(), "{path}: others of the connection go on");
        assert!(!control.closed_within(SOON).await, "a server without the limit waits for ever");
    }
}

/// As many connections from the attacker's address as are kept open.
async fn held(server: &str, tries: usize) -> Vec<Raw> {
    let mut held = Vec::new();
    for _ in 0..tries {
        held.extend(Raw::connect_from(ATTACKER, server, None).await);
    }
    eventually("the server has looked at all of them", async || {
        let refused = held.iter_mut().map(Raw::is_open).filter(|open| !open).count();
        (refused > 0).then_some(())
    })
    .await;
    // The last one was looked at last: when it was refused, all were looked at.
    eventually("the last one is refused", async || (!held.last_mut()?.is_open()).then_some(())).await;
    held.retain_mut(Raw::is_open);
    held
}

/// Whether a frame ends what a stream waits for.
fn ends(frame: &Frame, stream: u32) -> bool {
    frame.kind == kind::GOAWAY
        || frame.stream == stream && (frame.kind == kind::RST_STREAM || frame.kind == kind::HEADERS)
}

/// A head that begins with `:status: 200` of HPACK's table.
fn is_ok(frame: &Frame) -> bool {
    frame.kind == kind::HEADERS && frame.payload.first() == Some(&0x88)
}

/// Whether the other side has gone, asked without reading.
fn is_reset(raw: &Raw) -> bool {
    raw.stream.take_error().is_ok_and(|error| error.is_some()) || raw.stream.peer_addr().is_err()
}
