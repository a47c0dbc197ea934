//! The way out, with a resolver that says what a test needs and real servers on loopback addresses.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use odeon_engine::scheduler::Cpu;
use odeon_engine::{CpuShare, Engine};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::{RootCertStore, ServerConfig, crypto};

use super::networks::Networks;
use super::*;
use crate::log::{Line, Sink};

#[derive(Default)]
struct Lines(Mutex<Vec<Line>>);

impl Sink for Lines {
    fn take(&self, line: Line) {
        self.0.lock().unwrap().push(line);
    }
}

/// What an app with these rights has, and what its log says.
struct App {
    egress: Arc<AppEgress>,
    lines: Arc<Lines>,
    resolved: Arc<AtomicUsize>,
}

impl App {
    /// Every name is at `addresses`; none means that the system knows.
    fn new(open: &[&str], addresses: &'static [&'static str]) -> Self {
        Self::trusting(RootCertStore::empty(), open, addresses)
    }

    fn trusting(roots: RootCertStore, open: &[&str], addresses: &'static [&'static str]) -> Self {
        let resolved = Arc::new(AtomicUsize::new(0));
        let counted = resolved.clone();
        let resolver: Box<gateway::Resolve> = Box::new(move |_, port| {
            counted.fetch_add(1, Ordering::SeqCst);
            let found = addresses.iter().map(|text| SocketAddr::new(text.parse::<IpAddr>().unwrap(), port));
            let found: Vec<_> = found.collect();
            Box::pin(async { Ok::<_, io::Error>(found) })
        });
        let networks = Networks::parse(open.iter().copied()).unwrap();
        let resolver = (!addresses.is_empty()).then_some(resolver);
        let gateway = Arc::new(Gateway::trusting(roots, networks, resolver).unwrap());
        let allowed = [
            "peer.example",
            "other.example",
            "localhost",
            "127.0.0.1",
            "[::1]",
            "[::ffff:127.0.0.1]",
            "2130706433",
        ];
        let spellings = ["0x7f.1", "0177.0.0.1", "127.1", "017700000001"];
        let allowed = allowed.into_iter().chain(spellings).map(str::to_owned);
        Self { egress: Arc::new(gateway.app("app", allowed)), lines: Arc::default(), resolved }
    }

    fn begin(&self, requests_max: u32) -> Egress {
        self.egress.begin(requests_max, RequestLog::new(self.lines.clone(), "request"))
    }

    /// The same, where there are other apps.
    fn begin_beside(&self, requests_max: u32, apps: Arc<dyn CallApps>) -> Egress {
        let egress = self.egress.gateway.app("app", self.egress.allowed.iter().cloned());
        let log = RequestLog::new(self.lines.clone(), "request");
        Arc::new(egress.with_apps("app.internal", apps)).begin(requests_max, log)
    }

    async fn get(&self, uri: &str) -> Result<u16, Error> {
        get(&mut self.begin(1), uri).await.map(|response| response.status().as_u16())
    }

    fn told(&self) -> Vec<(Option<&'static str>, String)> {
        self.lines.0.lock().unwrap().iter().map(|line| (line.error_code, line.message.clone())).collect()
    }
}

async fn get(egress: &mut Egress, uri: &str) -> Result<http::Response<WasiBody>, Error> {
    get_within(egress, uri, None).await
}

async fn get_within(
    egress: &mut Egress,
    uri: &str,
    between: Option<Duration>,
) -> Result<http::Response<WasiBody>, Error> {
    let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
    let request = http::Request::get(uri).body(body).unwrap();
    let options = RequestOptions { between_bytes_timeout: between, ..RequestOptions::default() };
    let sent = egress.send_request(request, Some(options), Box::new(async { Ok(()) }));
    let (response, transfer) = Pin::from(sent).await?;
    tokio::spawn(Pin::from(transfer));
    Ok(response)
}

/// Answers every connection with `head`, then with `piece` as often as is said, and then with silence.
async fn peer(head: &'static str, piece: usize, times: usize) -> (u16, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, asked) = (listener.local_addr().unwrap().port(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            count.fetch_add(1, Ordering::SeqCst);
            tokio::spawn(async move {
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(head.as_bytes()).await;
                let piece = vec![b'x'; piece];
                for _ in 0..times {
                    if stream.write_all(&piece).await.is_err() {
                        return;
                    }
                }
                while stream.read(&mut [0; 4096]).await.is_ok_and(|read| read > 0) {}
            });
        }
    });
    (port, asked)
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
const LOOPBACK: &[&str] = &["127.0.0.0/8"];

#[test]
fn only_named_authorities_are_reached() {
    #[track_caller]
    fn check(allowed: &[&str], uri: &str, expect: bool) {
        let gateway = Gateway::new(Networks::default()).unwrap();
        let app = gateway.app("app", allowed.iter().map(|text| (*text).to_owned()));
        assert_eq!(app.permits(&uri.parse().unwrap()), expect, "{allowed:?} {uri}");
    }
    check(&[], "https://example.com/", false);
    check(&["example.com"], "https://EXAMPLE.com:8443/x", true);
    check(&["example.com:443"], "https://example.com:8443/", false);
    check(&["example.com:443"], "https://example.com/", true);
    check(&["example.com:443"], "http://example.com/", false);
    check(&["example.com:80"], "http://example.com/", true);
    check(&["example.com"], "https://example.com.evil.net/", false);
    check(&["example.com"], "https://example.com@evil.net/", false);
}

#[test]
fn nested_requests_may_send_less() {
    let all: Vec<_> = (0..5).map(requests_max).collect();
    assert_eq!(all, [1_000, 200, 40, 20, 20]);
}

#[test]
fn a_guest_waits_less_than_we_do_but_never_more() {
    let second = Duration::from_secs(1);
    let asked = [None, Some(second), Some(3_600 * second), Some(Duration::ZERO)];
    let waits = asked.map(|asked| send::at_most(asked, 10));
    assert_eq!(waits, [10 * second, second, 10 * second, Duration::ZERO]);
}

#[tokio::test]
async fn an_allowed_name_reaches_no_closed_network() {
    let (port, asked) = peer(OK, 0, 0).await;
    for host in ["localhost", "127.0.0.1", "[::1]", "[::ffff:127.0.0.1]"] {
        let app = App::new(&[], &[]);
        let denied = app.get(&format!("http://{host}:{port}/")).await;
        assert!(matches!(denied, Err(Error::DestinationIpProhibited)), "{host}: {denied:?}");
        let told = app.told();
        assert!(told.len() == 1 && told[0].0 == Some("OS-BERT-40311"), "{told:?}");
        assert!(told[0].1.contains("egress_networks"), "it says how to allow it: {told:?}");
    }
    // Other spellings of 127.0.0.1: whatever the system makes of them, the peer is not asked.
    for host in ["2130706433", "0x7f.1", "0177.0.0.1", "127.1", "017700000001"] {
        let denied = App::new(&[], &[]).get(&format!("http://{host}:{port}/")).await;
        assert!(matches!(denied, Err(Error::DestinationIpProhibited | Error::DnsError { .. })), "{denied:?}");
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    let opened = App::new(LOOPBACK, &[]).get(&format!("http://127.0.0.1:{port}/")).await;
    assert_eq!(opened.unwrap(), 200, "the same with an open network");
}

#[tokio::test]
async fn a_name_is_resolved_once_and_only_what_was_judged_is_dialled() {
    let (port, asked) = peer(OK, 0, 0).await;
    let uri = format!("http://peer.example:{port}/");
    let rebound = App::new(&[], &["127.0.0.1"]);
    assert!(matches!(rebound.get(&uri).await, Err(Error::DestinationIpProhibited)));
    assert_eq!(asked.load(Ordering::SeqCst), 0);
    let mixed = App::new(LOOPBACK, &["10.0.0.1", "169.254.169.254", "127.0.0.1"]);
    assert_eq!(mixed.get(&uri).await.unwrap(), 200, "of several addresses, those that are open");
    assert_eq!((asked.load(Ordering::SeqCst), mixed.resolved.load(Ordering::SeqCst)), (1, 1));
    let metadata = App::new(&["0.0.0.0/0", "::/0"], &["169.254.169.254", "fd00:ec2::254"]);
    assert!(matches!(metadata.get(&uri).await, Err(Error::DestinationIpProhibited)));
}

#[tokio::test]
async fn what_is_denied_is_told_once() {
    let app = App::new(&[], &[]);
    let mut egress = app.begin(3);
    for _ in 0..3 {
        assert!(matches!(get(&mut egress, "http://evil.example/").await, Err(Error::HttpRequestDenied)));
    }
    assert!(matches!(get(&mut egress, "http://evil.example/").await, Err(Error::ConnectionLimitReached)));
    let told = app.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert!(told[0].0 == Some("OS-BERT-40310") && told[0].1.contains("--allow evil.example"), "{told:?}");
}

#[tokio::test]
async fn a_request_sends_so_many_requests_and_calls() {
    struct Nobody;
    impl CallApps for Nobody {
        fn call(&self, _: http::Request<WasiBody>, _: &str, _: u32) -> BoxFuture<'static, Called> {
            Box::pin(async { Err(ErrorCode::DestinationUnavailable) })
        }
    }
    let app = App::new(&[], &[]);
    let mut egress = app.begin_beside(2, Arc::new(Nobody));
    let called = get(&mut egress, "http://app.internal/x").await;
    assert!(matches!(called, Err(Error::DestinationUnavailable)), "{called:?}");
    assert!(matches!(get(&mut egress, "http://evil.example/").await, Err(Error::HttpRequestDenied)));
    let third = get(&mut egress, "http://app.internal/x").await;
    assert!(matches!(third, Err(Error::ConnectionLimitReached)), "calls between apps count: {third:?}");
}

#[tokio::test]
async fn an_app_has_so_many_answers_of_other_apps_that_it_has_not_read() {
    struct Says(&'static str);
    impl CallApps for Says {
        fn call(&self, _: http::Request<WasiBody>, _: &str, _: u32) -> BoxFuture<'static, Called> {
            let body = http_body_util::Full::new(Bytes::from_static(self.0.as_bytes()));
            let body = body.map_err(|never| match never {}).boxed_unsync();
            Box::pin(async { Ok(http::Response::new(body)) })
        }
    }
    let app = App::new(&[], &[]);
    let ask = async |says| get(&mut app.begin_beside(1, Arc::new(Says(says))), "http://app.internal/x").await;
    let mut unread = Vec::new();
    for _ in 0..gateway::PENDING_MAX {
        unread.push(ask("something").await.unwrap());
    }
    let refused = ask("something").await;
    assert!(matches!(refused, Err(Error::ConnectionLimitReached)), "{refused:?}");
    let told = "the app has as many requests without an answer as it may".to_owned();
    assert_eq!(app.told(), [(Some("OS-BERT-42910"), told)]);
    let read = unread.pop().unwrap().into_body().collect().await.unwrap().to_bytes();
    assert_eq!(read, "something");
    let nothing = ask("").await.unwrap();
    assert!(ask("something").await.is_ok(), "its place came back, and nothing to read takes none");
    drop(nothing);
}

#[tokio::test]
async fn what_is_no_plain_request_is_refused() {
    let (port, asked) = peer(OK, 0, 0).await;
    let app = App::new(LOOPBACK, &[]);
    let user = app.get(&format!("http://user@127.0.0.1:{port}/")).await;
    assert!(matches!(user, Err(Error::HttpRequestUriInvalid)), "{user:?}");
    let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
    let tunnel = http::Request::connect(format!("http://127.0.0.1:{port}/")).body(body).unwrap();
    let sent = app.begin(1).send_request(tunnel, None, Box::new(async { Ok(()) }));
    assert!(matches!(Pin::from(sent).await, Err(Error::HttpRequestMethodInvalid)));
    assert_eq!(asked.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn what_a_server_answers_is_bounded() {
    let app = App::new(LOOPBACK, &[]);
    let (endless_head, _) = peer("HTTP/1.1 200 OK\r\nx: ", 1 << 10, 1 << 10).await;
    let head = app.get(&format!("http://127.0.0.1:{endless_head}/")).await;
    assert!(matches!(head, Err(Error::HttpResponseHeaderSectionSize(Some(_)))), "{head:?}");

    let (announced, _) = peer("HTTP/1.1 200 OK\r\ncontent-length: 99999999999\r\n\r\n", 0, 0).await;
    let announced = app.get(&format!("http://127.0.0.1:{announced}/")).await;
    assert!(matches!(announced, Err(Error::HttpResponseBodySize(Some(_)))), "{announced:?}");

    let (endless, _) = peer("HTTP/1.1 200 OK\r\n\r\n", 1 << 20, 1 << 20).await;
    let mut response = get(&mut app.begin(1), &format!("http://127.0.0.1:{endless}/")).await.unwrap();
    let mut bytes = 0;
    let error = loop {
        match response.body_mut().frame().await.expect("it is cut before it ends") {
            Ok(frame) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(error) => break error,
        }
    };
    assert!(matches!(error, Error::HttpResponseBodySize(Some(_))), "{error:?}");
    assert!(bytes <= answer::ANSWER_BYTES_MAX, "{bytes}");
    assert_eq!(app.told().last().unwrap().0, Some("OS-BERT-50210"));

    let (silent, _) = peer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n", 1, 1).await;
    let between = Some(Duration::from_millis(50));
    let mut egress = app.begin(1);
    let mut response =
        get_within(&mut egress, &format!("http://127.0.0.1:{silent}/"), between).await.unwrap();
    assert!(response.body_mut().frame().await.unwrap().is_ok());
    let error = response.body_mut().frame().await.unwrap().unwrap_err();
    assert!(matches!(error, Error::ConnectionReadTimeout), "{error:?}");
}

#[tokio::test]
async fn an_app_has_so_many_connections_whatever_its_revision() {
    let (port, asked) = peer("", 0, 0).await; // takes connections and says nothing
    let app = App::new(LOOPBACK, &[]);
    let next_revision = Arc::new(app.egress.gateway.app("app", ["127.0.0.1".to_owned()]));
    let uri = format!("http://127.0.0.1:{port}/");
    let mut held = Vec::new();
    for _ in 0..gateway::CONNECTIONS_MAX {
        let (mut egress, uri) = (app.begin(1), uri.clone());
        held.push(tokio::spawn(async move { get(&mut egress, &uri).await.is_ok() }));
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while asked.load(Ordering::SeqCst) < gateway::CONNECTIONS_MAX {
        assert!(tokio::time::Instant::now() < deadline, "the connections come");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let mut egress = next_revision.begin(1, RequestLog::new(app.lines.clone(), "request"));
    let refused = get(&mut egress, &uri).await;
    assert!(matches!(refused, Err(Error::ConnectionLimitReached)), "{refused:?}");
    assert_eq!(app.told()[0].0, Some("OS-BERT-42910"));
    let other = Arc::new(app.egress.gateway.app("other", ["127.0.0.1".to_owned()]));
    let (ok, _) = peer(OK, 0, 0).await;
    let mut egress = other.begin(1, RequestLog::new(app.lines.clone(), "request"));
    assert!(get(&mut egress, &format!("http://127.0.0.1:{ok}/")).await.is_ok(), "another app has its own");
    for task in held {
        task.abort();
    }
    let (ok, _) = peer(OK, 0, 0).await;
    assert_eq!(app.get(&format!("http://127.0.0.1:{ok}/")).await.unwrap(), 200, "places come back");
}

#[tokio::test]
async fn an_app_has_so_many_requests_without_an_answer() {
    let (port, _) = peer("", 0, 0).await; // takes connections and says nothing
    let app = App::new(LOOPBACK, &[]);
    let uri = format!("http://127.0.0.1:{port}/");
    for _ in 0..gateway::PENDING_MAX {
        let (mut egress, uri) = (app.begin(1), uri.clone());
        tokio::spawn(async move { get(&mut egress, &uri).await.is_ok() });
    }
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    while app.egress.share.pending.available_permits() > 0 {
        assert!(tokio::time::Instant::now() < deadline, "all are under way");
        tokio::task::yield_now().await;
    }
    let refused = app.get(&uri).await;
    assert!(matches!(refused, Err(Error::ConnectionLimitReached)), "{refused:?}");
    let told = "the app has as many requests without an answer as it may".to_owned();
    assert_eq!(app.told(), [(Some("OS-BERT-42910"), told)]);
}

#[tokio::test(start_paused = true)]
async fn all_apps_of_a_host_have_so_many_connections() {
    let app = App::new(LOOPBACK, &[]);
    let all = u32::try_from(gateway::HOST_CONNECTIONS_MAX).unwrap();
    let held = app.egress.gateway.connections.clone().try_acquire_many_owned(all).unwrap();
    let refused = app.get("http://127.0.0.1:1/").await;
    assert!(matches!(refused, Err(Error::ConnectionLimitReached)), "{refused:?}");
    drop(held);
    let refused = app.get("http://127.0.0.1:1/").await;
    assert!(matches!(refused, Err(Error::ConnectionRefused)), "it was asked: {refused:?}");
}

#[tokio::test]
async fn so_many_names_are_resolved_at_once() {
    const APPS: usize = gateway::HOST_RESOLVING_MAX / gateway::RESOLVING_MAX + 1;
    let (resolving, go_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let (asked, told) = (resolving.clone(), go_on.clone());
    let resolver: Box<gateway::Resolve> = Box::new(move |_, _| {
        asked.fetch_add(1, Ordering::SeqCst);
        let told = told.clone();
        Box::pin(async move {
            told.acquire().await.unwrap().forget();
            Err(io::Error::other("it has none"))
        })
    });
    let gateway = Gateway::trusting(RootCertStore::empty(), Networks::parse([]).unwrap(), Some(resolver));
    let gateway = Arc::new(gateway.unwrap());
    let ask = |app: usize, requests: usize| {
        let egress = Arc::new(gateway.app(&app.to_string(), ["peer.example".to_owned()]));
        for _ in 0..requests {
            let mut egress = egress.begin(1, RequestLog::new(Arc::new(Lines::default()), "request"));
            tokio::spawn(async move { get(&mut egress, "http://peer.example/").await.is_ok() });
        }
    };
    // On one thread: when everybody has run as far as it goes, nobody is on the way any more.
    let rest = async || {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        resolving.load(Ordering::SeqCst)
    };
    ask(0, gateway::RESOLVING_MAX + 1);
    assert_eq!(rest().await, gateway::RESOLVING_MAX, "of one app");
    (1..APPS).for_each(|app| ask(app, gateway::RESOLVING_MAX));
    assert_eq!(rest().await, gateway::HOST_RESOLVING_MAX, "of all");
    let all = APPS * gateway::RESOLVING_MAX + 1;
    go_on.add_permits(all);
    assert_eq!(rest().await, all, "whoever waited has a turn");
}

/// A server that speaks TLS as `peer.example`, and whoever trusts it.
async fn tls_peer() -> (u16, RootCertStore) {
    let made = rcgen::generate_simple_self_signed(["peer.example".to_owned()]).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(made.cert.der().clone()).unwrap();
    let key = PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![made.cert.der().clone()], key).unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let acceptor = acceptor.clone();
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else { return };
                let _ = stream.read(&mut [0; 4096]).await;
                let _ = stream.write_all(OK.as_bytes()).await;
                let _ = stream.shutdown().await;
            });
        }
    });
    (port, roots)
}

#[tokio::test]
async fn a_server_is_who_its_certificate_says() {
    let (port, roots) = tls_peer().await;
    let trusting = App::trusting(roots, LOOPBACK, &["127.0.0.1"]);
    assert_eq!(trusting.get(&format!("https://peer.example:{port}/")).await.unwrap(), 200);
    let other = trusting.get(&format!("https://other.example:{port}/")).await;
    assert!(matches!(other, Err(Error::TlsCertificateError)), "{other:?}");
    let stranger = App::new(LOOPBACK, &["127.0.0.1"]).get(&format!("https://peer.example:{port}/")).await;
    assert!(matches!(stranger, Err(Error::TlsCertificateError)), "{stranger:?}");
    let (plain, _) = peer("HTTP/1.1 400 Bad Request\r\n\r\n", 0, 0).await;
    let plain = trusting.get(&format!("https://peer.example:{plain}/")).await;
    assert!(matches!(plain, Err(Error::TlsProtocolError)), "{plain:?}");
}

#[tokio::test]
async fn the_app_pays_for_what_its_connections_do() {
    let (port, _) = peer("HTTP/1.1 200 OK\r\ncontent-length: 1048576\r\n\r\n", 64 << 10, 16).await;
    let mut app = App::new(LOOPBACK, &["127.0.0.1"]);
    let cpu = Arc::new(Cpu::new(CpuShare { millicores: 250, burst_ms: None }));
    let engine = Engine::for_compiling().unwrap();
    let egress = app.egress.gateway.app("app", app.egress.allowed.iter().cloned());
    app.egress = Arc::new(egress.paid_by(Payer::new(engine.scheduler().clone(), cpu.clone())));
    let response = get(&mut app.begin(1), &format!("http://peer.example:{port}/")).await.unwrap();
    let for_the_head = cpu.used_ns();
    assert!(for_the_head > 0, "the connection and the head");
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes().len(), 1 << 20);
    assert!(cpu.used_ns() > for_the_head, "the body");
}
