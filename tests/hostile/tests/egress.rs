//! An app that calls whom it should not, as often as it likes: what a host lets out, and what others notice.
//!
//! All of 127/8 is this machine, so a part of it stands for the network that the operator opened and the rest for what is
//! closed. Not tested here: addresses of the Internet, and names that change between two looks (unit tests of the
//! capability have a resolver for that).

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use odeon_hostile::{Beside, publish};
use odeon_tests::{Installation, eventually};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

/// What the operator opened.
const OPEN: &str = "127.9.0.0/16";
/// An address in it.
const OPEN_ADDRESS: &str = "127.9.0.1";
/// Connections of one app on a host.
const CONNECTIONS_MAX: usize = 64;
/// Requests that one request may send.
const REQUESTS_MAX: usize = 1_000;
/// Largest body of an answer, in bytes.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// What a host holds of a body that a guest writes, in bytes.
const HELD_BYTES_MAX: u64 = 64 << 10;

#[tokio::test]
async fn a_host_lets_out_what_it_should() {
    let site = Installation::start_with(&["--egress-network", OPEN]).await;
    publish(&site);
    site.succeed(&["deploy", "Hello", "--revision", "1", "--to", "test"]); // beside the attacker
    let attacker = Attacker { site: &site };
    attacker.an_allowed_name_reaches_no_closed_network().await;
    attacker.a_redirect_is_a_request_like_any_other().await;
    attacker.connections_are_shared_out().await;
    attacker.one_request_sends_so_many().await;
    attacker.answers_are_bounded().await;
    attacker.heads_that_are_kept_are_memory_of_the_app().await;
    attacker.bodies_that_are_never_sent_hold_little().await;
    attacker.a_setting_that_is_no_network_is_refused();
}

/// A server that takes note of who asks.
struct Peer {
    address: String,
    asked: Arc<AtomicUsize>,
}

impl Peer {
    /// Answers with these bytes, then with `piece` until nobody reads; without a head it says nothing.
    async fn start(at: &str, head: String, endless: bool) -> Self {
        let listener = TcpListener::bind((at, 0)).await.unwrap();
        let (address, asked) = (listener.local_addr().unwrap().to_string(), Arc::new(AtomicUsize::new(0)));
        let count = asked.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let head = head.clone();
                tokio::spawn(async move {
                    let _ = stream.read(&mut [0; 4096]).await;
                    let _ = stream.write_all(head.as_bytes()).await;
                    let piece = vec![b'x'; 64 << 10];
                    while endless && stream.write_all(&piece).await.is_ok() {}
                    while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
                });
            }
        });
        Self { address, asked }
    }

    async fn ok(at: &str) -> Self {
        Self::start(at, "HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".into(), false)
            .await
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }

    fn port(&self) -> &str {
        self.address.rsplit(':').next().unwrap()
    }
}

struct Attacker<'s> {
    site: &'s Installation,
}

impl Attacker<'_> {
    /// Lets the attacker's app call these.
    async fn allow(&self, authorities: &[&str]) {
        let mut command = vec!["deploy", "Hostile", "--revision", "1", "--to", "test"];
        authorities.iter().for_each(|authority| command.extend(["--allow", authority]));
        self.site.succeed(&command);
    }

    /// Runs an attack; what the guest says of it, and the id of the request.
    async fn attack(&self, path: &str) -> (String, String) {
        let url = self.site.url("test", &format!("/Hostile/net/{path}"));
        let response = self.site.client.get(url).send().await.unwrap();
        let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        (response.text().await.unwrap().trim_end().to_owned(), id)
    }

    async fn check(&self, path: &str, expect: &str) {
        let (said, _) = self.attack(path).await;
        assert_eq!(said, expect, "{path}");
    }

    /// The one line that the host wrote for a request.
    async fn told(&self, id: &str, code: &str) -> String {
        let lines = eventually("the log tells of the denial", async || {
            let lines = self.site.succeed(&["logs", "Hostile", "--stage", "test", "--request", id]);
            lines.contains(code).then_some(lines)
        })
        .await;
        assert_eq!(lines.matches("OS-BERT-").count(), 1, "once per request: {lines}");
        lines
    }

    fn beside(&self) -> Beside {
        Beside::start(self.site.url("test", "/Hello/"))
    }

    async fn an_allowed_name_reaches_no_closed_network(&self) {
        let (closed, open) = (Peer::ok("127.0.0.1").await, Peer::ok(OPEN_ADDRESS).await);
        // The last four are what the C library takes for 127.0.0.1 as well.
        let hosts = [
            "127.0.0.1",
            "localhost",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "0.0.0.0",
            "2130706433",
            "0x7f000001",
            "0177.0.0.1",
            "127.1",
        ];
        let metadata =
            ["169.254.169.254", "[fd00:ec2::254]", "[::ffff:169.254.169.254]", "[64:ff9b::a9fe:a9fe]"];
        let private =
            ["10.0.0.1", "192.168.0.1", "172.16.0.1", "100.64.0.1", "[fe80::1]", "[fc00::1]", "224.0.0.1"];
        let all = [&hosts[..], &metadata, &private].concat();
        self.allow(&[&all[..], &[OPEN_ADDRESS]].concat()).await;
        let beside = self.beside();
        for host in &all {
            let (said, id) = self.attack(&format!("fetch/{host}:{}", closed.port())).await;
            assert_eq!(said, "failed ErrorCode::DestinationIpProhibited", "{host}");
            if *host == "localhost" {
                let line = self.told(&id, "OS-BERT-40311").await;
                assert!(line.contains("--egress-network") && line.contains("localhost"), "{line}");
            }
        }
        assert_eq!(closed.asked(), 0, "nothing was dialled");
        self.check(&format!("fetch/{}", open.address), "answered 200").await;
        let (said, id) = self.attack(&format!("fetch/127.9.0.2:{}", open.port())).await;
        assert_eq!(said, "failed ErrorCode::HttpRequestDenied", "an open network allows nobody by itself");
        let line = self.told(&id, "OS-BERT-40310").await;
        assert!(line.contains(&format!("--allow 127.9.0.2:{}", open.port())), "{line}");
        beside.stop().await;
    }

    async fn a_redirect_is_a_request_like_any_other(&self) {
        let closed = Peer::ok("127.0.0.1").await;
        let redirect = format!(
            "HTTP/1.1 302 Found\r\nlocation: http://{}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            closed.address
        );
        let open = Peer::start(OPEN_ADDRESS, redirect, false).await;
        self.allow(&[OPEN_ADDRESS]).await;
        let beside = self.beside();
        self.check(&format!("fetch/{}", open.address), "answered 302").await;
        let denied = "answered 302, then failed ErrorCode::HttpRequestDenied";
        self.check(&format!("follow/{}", open.address), denied).await;
        self.allow(&[OPEN_ADDRESS, "127.0.0.1"]).await;
        let denied = "answered 302, then failed ErrorCode::DestinationIpProhibited";
        self.check(&format!("follow/{}", open.address), denied).await;
        assert_eq!((closed.asked(), open.asked()), (0, 3));
        // The control: the same redirect into an open network is the guest's to follow.
        let other = Peer::ok(OPEN_ADDRESS).await;
        let redirect = format!(
            "HTTP/1.1 302 Found\r\nlocation: http://{}/\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            other.address
        );
        let open = Peer::start(OPEN_ADDRESS, redirect, false).await;
        self.check(&format!("follow/{}", open.address), "answered 302, then answered 200").await;
        assert_eq!(other.asked(), 1);
        beside.stop().await;
    }

    async fn connections_are_shared_out(&self) {
        let silent = Peer::start(OPEN_ADDRESS, String::new(), false).await;
        let ok = Peer::ok(OPEN_ADDRESS).await;
        self.allow(&[OPEN_ADDRESS]).await;
        let beside = self.beside();
        let hold = format!("hold/{}/{}", CONNECTIONS_MAX + 1, silent.address);
        let (said, id) = self.attack(&hold).await;
        assert_eq!(said, "failed ErrorCode::ConnectionLimitReached");
        assert_eq!(silent.asked(), CONNECTIONS_MAX);
        self.told(&id, "OS-BERT-42910").await;
        // The places came back, and more requests than places find one in turn.
        let (times, all) = (CONNECTIONS_MAX * 2, format!("answered {} times", CONNECTIONS_MAX * 2));
        self.check(&format!("together/{times}/{}", ok.address), &all).await;
        beside.stop().await;
    }

    async fn one_request_sends_so_many(&self) {
        let ok = Peer::ok(OPEN_ADDRESS).await;
        let refused = format!("answered {REQUESTS_MAX} times, failed ErrorCode::ConnectionLimitReached");
        let beside = self.beside();
        let (said, id) = self.attack(&format!("flood/{}/{}", REQUESTS_MAX + 1, ok.address)).await;
        assert_eq!(said, refused);
        assert_eq!(ok.asked(), REQUESTS_MAX);
        self.told(&id, "OS-BERT-42910").await;
        // Calls to apps of the stage count as well. Nobody serves this one, which is cheaper and an answer too.
        self.check(&format!("flood/{}/apps.odeon.internal/Nobody/x", REQUESTS_MAX + 1), &refused).await;
        self.check(
            &format!("flood/{REQUESTS_MAX}/{}", ok.address),
            &format!("answered {REQUESTS_MAX} times"),
        )
        .await;
        beside.stop().await;
    }

    async fn answers_are_bounded(&self) {
        let head = |headers: &str| format!("HTTP/1.1 200 OK\r\n{headers}");
        let beside = self.beside();
        let endless_head = Peer::start(OPEN_ADDRESS, head("x: "), true).await;
        let (said, _) = self.attack(&format!("fetch/{}", endless_head.address)).await;
        assert!(said.starts_with("failed ErrorCode::HttpResponseHeaderSectionSize"), "{said}");
        let many = Peer::start(OPEN_ADDRESS, head(&"x: y\r\n".repeat(200)) + "\r\n", false).await;
        let (said, _) = self.attack(&format!("fetch/{}", many.address)).await;
        assert!(said.starts_with("failed ErrorCode::HttpResponseHeaderSectionSize"), "{said}");
        let huge = Peer::start(OPEN_ADDRESS, head("content-length: 99999999999\r\n\r\n"), false).await;
        let (said, _) = self.attack(&format!("fetch/{}", huge.address)).await;
        assert!(said.starts_with("failed ErrorCode::HttpResponseBodySize"), "{said}");
        let endless = Peer::start(OPEN_ADDRESS, head("connection: close\r\n\r\n"), true).await;
        let (said, id) = self.attack(&format!("read/{}", endless.address)).await;
        let bytes = said.strip_prefix("read ").and_then(|said| said.split(',').next()).unwrap();
        assert!(
            bytes.parse::<usize>().unwrap() <= ANSWER_BYTES_MAX && said.contains("body size exceeds limit"),
            "{said}"
        );
        self.told(&id, "OS-BERT-50210").await;
        // The control: as much as an app may take, and no more.
        let large = "x".repeat(ANSWER_BYTES_MAX);
        let whole = format!("content-length: {ANSWER_BYTES_MAX}\r\nconnection: close\r\n\r\n{large}");
        let whole = Peer::start(OPEN_ADDRESS, head(&whole), false).await;
        self.check(&format!("read/{}", whole.address), &format!("read {ANSWER_BYTES_MAX}")).await;
        let nonsense = Peer::start(OPEN_ADDRESS, "no HTTP at all\r\n\r\n".into(), false).await;
        let (said, _) = self.attack(&format!("fetch/{}", nonsense.address)).await;
        assert!(said.starts_with("failed ErrorCode::HttpProtocolError"), "{said}");
        beside.stop().await;
    }

    async fn heads_that_are_kept_are_memory_of_the_app(&self) {
        const ANSWERS: usize = 900;
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\nx: {}\r\n\r\n", "y".repeat(60 << 10));
        let peer = Peer::start(OPEN_ADDRESS, head, false).await;
        let beside = self.beside();
        let keep = format!("keep/{ANSWERS}/{}", peer.address);
        self.check(&keep, &format!("keeps {ANSWERS} answers")).await;
        self.site.succeed(&[
            "deploy",
            "Hostile",
            "--revision",
            "1",
            "--to",
            "test",
            "--allow",
            OPEN_ADDRESS,
            "--limit",
            "instanceMemoryMib=32",
        ]);
        let (status, said) = self.site.get(&self.site.url("test", &format!("/Hostile/net/{keep}"))).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{said}");
        assert_eq!(said["errorCode"], "OS-BERT-50002");
        self.site.succeed(&["deploy", "Hostile", "--revision", "1", "--to", "test", "--limits-default"]);
        beside.stop().await;
    }

    async fn bodies_that_are_never_sent_hold_little(&self) {
        const BODIES: u64 = 300;
        let beside = self.beside();
        let (said, _) = self.attack(&format!("hoard/{BODIES}")).await;
        let bytes = said.strip_prefix("holds ").and_then(|said| said.split(' ').next()).unwrap();
        let bytes: u64 = bytes.parse().unwrap();
        assert!(bytes > 0 && bytes <= BODIES * HELD_BYTES_MAX, "{said}");
        let many = self.site.url("test", "/Hostile/net/hoard/5000");
        assert_eq!(
            self.site.get(&many).await.0,
            StatusCode::INTERNAL_SERVER_ERROR,
            "a guest has so many resources"
        );
        beside.stop().await;
    }

    fn a_setting_that_is_no_network_is_refused(&self) {
        let run = self.site.data().join("run/stages/test/host-test-1.json");
        let mut settings: Value = serde_json::from_slice(&fs::read(run).unwrap()).unwrap();
        assert_eq!(settings["egress_networks"], json!([OPEN]));
        settings["egress_networks"] = json!(["10.0.0.1/8"]);
        let file = self.site.folder.join("wrong.json");
        fs::write(&file, settings.to_string()).unwrap();
        let host = self.site.data().join("bin/odeon-host");
        let done = Command::new(host).args(["run", "--config"]).arg(file).output().unwrap();
        let said = String::from_utf8_lossy(&done.stderr);
        assert!(!done.status.success() && said.contains("egress_networks"), "{said}");
        assert!(said.contains("`10.0.0.1/8`") && said.contains("10.1.0.0/16"), "{said}");
    }
}
