//! Whatever a client sends to a router: HTTP/1, HTTP/2, or neither, cut anyhow, to hosts that answer anyhow.
//!
//! The first byte of an input says what the hosts do, the second how the rest is cut and whether the client then closes or
//! goes silent. The rest is sent to the router; behind a mark comes what hosts answer. Server, limits and proxy are those of
//! the router; the network is pipes in memory and the clock jumps.
//!
//! Properties: the connection ends; every request that was read gets an answer in its time; what goes to a host is framed
//! anew and carries nothing that only hosts may say ([`odeon_fuzz::hosts`] judges it); a request is sent once where hosts
//! answer; what comes back to a client of HTTP/1 is HTTP/1.

#![no_main]
#![allow(clippy::expect_used, reason = "a target ends at the first surprise")]

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::HeaderValue;
use libfuzzer_sys::{Corpus, fuzz_target};
use odeon_fuzz::hosts::{Behaviour, CLIENT, StubHosts};
use odeon_fuzz::seeds::HOST_MARK;
use odeon_fuzz::{FOR_EVER, runtime};
use odeon_http::limits;
use odeon_router::proxy::{Backend, Proxy};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

/// Bytes between client and router that may be under way.
const PIPE_BYTES: usize = 4 << 10;
/// Longer than the router waits for any host, tries and all.
const ANSWER_S_MAX: u64 = 300;
/// Requests at once, and of one app: few, so that the bound is met.
const REQUESTS_MAX: usize = 8;

fuzz_target!(|data: &[u8]| -> Corpus {
    let [hosts, cut, sent @ ..] = data else { return Corpus::Reject };
    let at = sent.windows(HOST_MARK.len()).position(|some| some == HOST_MARK);
    let (sent, told) = at.map_or((sent, &[][..]), |at| (&sent[..at], &sent[at + HOST_MARK.len()..]));
    let behaviour = match hosts % 8 {
        0 | 1 => Behaviour::Echo,
        2 => Behaviour::Chunked,
        3 => Behaviour::Die,
        4 => Behaviour::NotServed,
        5 => Behaviour::Silent,
        _ => Behaviour::Raw(told.into()),
    };
    runtime().block_on(connection(behaviour, hosts / 8 % 3, *cut, sent));
    Corpus::Keep
});

async fn connection(behaviour: Behaviour, replicas: u8, cut: u8, sent: &[u8]) {
    let answers_once = matches!(behaviour, Behaviour::Echo | Behaviour::Chunked);
    let hosts = StubHosts::new(behaviour);
    let proxy = Arc::new(Proxy::over(hosts.clone(), REQUESTS_MAX, REQUESTS_MAX));
    let replica = |at| Backend { address: format!("host-{at}:1").into() };
    proxy.install(HashMap::from([("Shop".to_owned(), (0..=replicas).map(replica).collect())]));
    let (begun, answered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
    let counts = (begun.clone(), answered.clone());
    let peer: SocketAddr = CLIENT.parse().expect("an address");
    let told = HeaderValue::try_from(peer.ip().to_string()).expect("a value");
    let answer = move |request, _| {
        let (proxy, told, (begun, answered)) = (proxy.clone(), told.clone(), counts.clone());
        begun.fetch_add(1, Ordering::Relaxed);
        async move {
            let answer = tokio::time::timeout(Duration::from_secs(ANSWER_S_MAX), proxy.answer(request, told));
            let answer = answer.await.expect("a request got no answer");
            answered.fetch_add(1, Ordering::Relaxed);
            answer
        }
    };
    let server = odeon_http::serve_connection(limits::USERS, theirs, peer, answer);
    let (mut from, mut to) = tokio::io::split(ours);
    let is_silent = cut & 0x80 != 0;
    let write = async {
        for piece in sent.chunks(usize::from(cut & 0x7f).pow(2) + 1) {
            if to.write_all(piece).await.is_err() {
                return; // the router has closed
            }
            tokio::task::yield_now().await;
        }
        if !is_silent {
            let _ = to.shutdown().await;
        }
    };
    let read = async {
        let mut back = Vec::new();
        let _ = from.read_to_end(&mut back).await;
        back
    };
    let all = async { tokio::join!(server, write, read).2 };
    let back = tokio::time::timeout(FOR_EVER, all).await.expect("a connection did not end");
    let (begun, answered) = (begun.load(Ordering::Relaxed), answered.load(Ordering::Relaxed));
    assert!(answered <= begun, "more answers than requests");
    if answers_once {
        assert!(hosts.requests() <= begun, "{} requests of {begun} came to hosts", hosts.requests());
    }
    if !sent.starts_with(b"P") && !back.is_empty() {
        assert!(back.starts_with(b"HTTP/1."), "an answer: {}", String::from_utf8_lossy(&back));
    }
}
