//! Hosts behind a router, as a stub in memory: reads requests byte by byte, trusts nothing about them, and answers as it was
//! told to.
//!
//! Its parser is our own and strict, because a lenient one would read what the router wrote by mistake. It panics when a
//! request is not as a host may rely on: framed once, with the names of this hop and of hosts taken off.

use std::collections::BTreeMap;
use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use odeon_protocol::headers::{CALL, NOT_SERVED, REQUEST_ID, REQUEST_ID_BYTES_MAX, TRIGGER, USER};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};

/// The address of the client, as the router is told.
pub const CLIENT: &str = "192.0.2.7:4711";
/// Bytes between router and host that may be under way.
const PIPE_BYTES: usize = 16 << 10;
/// What only hosts say to one another, or to routers.
const OF_HOSTS: [&str; 4] = [CALL, NOT_SERVED, TRIGGER, USER];
/// What ends at a hop. `transfer-encoding` is the router's own to set.
const OF_THE_HOP: [&str; 5] = ["connection", "proxy-authenticate", "proxy-authorization", "te", "upgrade"];

/// How the hosts answer.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// With the body that came.
    Echo,
    /// In chunks, with a trailer.
    Chunked,
    /// Not: the connection ends after the head.
    Die,
    /// That the app is not served here.
    NotServed,
    /// Not, for ever.
    Silent,
    /// With these bytes, whatever they are; then the connection ends.
    Raw(Arc<[u8]>),
}

/// The hosts of a stage; all of them are this one.
#[derive(Clone)]
pub struct StubHosts {
    behaviour: Behaviour,
    requests: Arc<AtomicUsize>,
}

impl StubHosts {
    /// Hosts that answer like this.
    pub fn new(behaviour: Behaviour) -> Self {
        Self { behaviour, requests: Arc::default() }
    }

    /// Requests whose head was read.
    pub fn requests(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }

    async fn serve(self, mut stream: DuplexStream) -> io::Result<()> {
        let mut seen = Vec::new();
        loop {
            let Some(head) = head(&mut stream, &mut seen).await? else { return Ok(()) };
            self.requests.fetch_add(1, Ordering::Relaxed);
            let framing = judge(&head);
            let answer = match &self.behaviour {
                Behaviour::Die => return Ok(()),
                Behaviour::Silent => return wait(&mut stream).await,
                Behaviour::Raw(bytes) => {
                    stream.write_all(bytes).await?;
                    return Ok(());
                }
                Behaviour::NotServed => format!(
                    "HTTP/1.1 421 Misdirected Request\r\n{NOT_SERVED}: 1\r\ncontent-length: 0\r\n\r\n"
                )
                .into_bytes(),
                Behaviour::Chunked => {
                    body(&mut stream, &mut seen, framing).await?;
                    b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\ntrailer: x-sum\r\n\r\n4\r\nbody\r\n0\r\nx-sum: 1\r\n\r\n"
                        .to_vec()
                }
                Behaviour::Echo => {
                    let body = body(&mut stream, &mut seen, framing).await?;
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
                    [head.as_bytes(), &body].concat()
                }
            };
            // The router waits for the answer: what came behind the request was smuggled.
            assert!(
                seen.is_empty() || matches!(self.behaviour, Behaviour::NotServed),
                "bytes behind a request: {seen:?}"
            );
            stream.write_all(&answer).await?;
            if matches!(self.behaviour, Behaviour::NotServed) {
                return Ok(()); // its body was not read
            }
        }
    }
}

impl tower_service::Service<Uri> for StubHosts {
    type Response = TokioIo<Wire>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<Wire>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let (ours, theirs) = tokio::io::duplex(PIPE_BYTES);
        let hosts = self.clone();
        tokio::spawn(async move {
            let _ = hosts.serve(theirs).await; // the router may go away at any time
        });
        ready(Ok(TokioIo::new(Wire(ours))))
    }
}

/// The router's end of a connection to a host.
pub struct Wire(DuplexStream);

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// How long a body is.
#[derive(Debug, Clone, Copy)]
enum Framing {
    Length(usize),
    Chunks,
}

async fn wait(stream: &mut DuplexStream) -> io::Result<()> {
    while stream.read(&mut [0; 1024]).await? > 0 {}
    Ok(())
}

/// More bytes; false at the end.
async fn more(stream: &mut DuplexStream, seen: &mut Vec<u8>) -> io::Result<bool> {
    Ok(stream.read_buf(seen).await? > 0)
}

/// The next head, with the empty line behind it.
async fn head(stream: &mut DuplexStream, seen: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(at) = seen.windows(4).position(|four| four == b"\r\n\r\n") {
            let rest = seen.split_off(at + 4);
            return Ok(Some(std::mem::replace(seen, rest)));
        }
        if !more(stream, seen).await? {
            return Ok(None);
        }
    }
}

/// The next line, without its end; none when the connection ends before.
async fn line(stream: &mut DuplexStream, seen: &mut Vec<u8>) -> io::Result<Option<Vec<u8>>> {
    loop {
        if let Some(at) = seen.windows(2).position(|two| two == b"\r\n") {
            let rest = seen.split_off(at + 2);
            let mut line = std::mem::replace(seen, rest);
            line.truncate(at);
            return Ok(Some(line));
        }
        if !more(stream, seen).await? {
            return Ok(None);
        }
    }
}

async fn take(stream: &mut DuplexStream, seen: &mut Vec<u8>, bytes: usize) -> io::Result<Vec<u8>> {
    while seen.len() < bytes {
        if !more(stream, seen).await? {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    let rest = seen.split_off(bytes);
    Ok(std::mem::replace(seen, rest))
}

async fn body(stream: &mut DuplexStream, seen: &mut Vec<u8>, framing: Framing) -> io::Result<Vec<u8>> {
    let end = || io::Error::from(io::ErrorKind::UnexpectedEof);
    match framing {
        Framing::Length(bytes) => take(stream, seen, bytes).await,
        Framing::Chunks => {
            let mut whole = Vec::new();
            loop {
                let size = line(stream, seen).await?.ok_or_else(end)?;
                let size =
                    std::str::from_utf8(&size).ok().and_then(|size| usize::from_str_radix(size, 16).ok());
                let size = size.expect("a chunk begins with its size and nothing else");
                if size == 0 {
                    break;
                }
                whole.extend(take(stream, seen, size).await?);
                assert_eq!(take(stream, seen, 2).await?, b"\r\n", "a chunk ends where it says");
            }
            loop {
                let trailer = line(stream, seen).await?.ok_or_else(end)?;
                if trailer.is_empty() {
                    return Ok(whole);
                }
                let (name, _) = field(&trailer);
                assert!(!OF_HOSTS.contains(&name.as_str()), "a trailer says what only hosts say: {name}");
            }
        }
    }
}

/// Name and value of a header.
fn field(line: &[u8]) -> (String, &[u8]) {
    let colon = line.iter().position(|byte| *byte == b':').expect("a header has a colon");
    let (name, value) = (&line[..colon], &line[colon + 1..]);
    let is_token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
    assert!(!name.is_empty() && name.iter().all(is_token), "the name of a header is a token: {line:?}");
    assert!(!value.iter().any(|byte| matches!(byte, b'\0' | b'\r' | b'\n')), "a value is one line: {line:?}");
    (String::from_utf8_lossy(name).to_ascii_lowercase(), value.trim_ascii())
}

/// What a host may rely on.
fn judge(head: &[u8]) -> Framing {
    let text = || String::from_utf8_lossy(head).into_owned();
    let mut lines = Vec::new();
    let mut rest = &head[..head.len() - 4];
    while let Some(at) = rest.windows(2).position(|two| two == b"\r\n") {
        lines.push(&rest[..at]);
        rest = &rest[at + 2..];
    }
    lines.push(rest);
    let mut words = lines[0].split(|byte| *byte == b' ');
    let (target, version) = (words.nth(1).unwrap_or_default(), words.next().unwrap_or_default());
    assert!(version == b"HTTP/1.1" && words.next().is_none(), "a request line has three words: {}", text());
    assert!(target.starts_with(b"/Shop"), "only requests to apps come to their hosts: {}", text());
    let mut fields: BTreeMap<String, Vec<&[u8]>> = BTreeMap::new();
    for line in &lines[1..] {
        let (name, value) = field(line);
        fields.entry(name).or_default().push(value);
    }
    for name in OF_HOSTS.iter().chain(&OF_THE_HOP) {
        assert!(!fields.contains_key(*name), "`{name}` came to a host: {}", text());
    }
    let one = |name: &str| {
        let values = fields.get(name).map(Vec::as_slice).unwrap_or_default();
        assert!(values.len() < 2, "two values of `{name}`: {}", text());
        values.first().copied()
    };
    assert!(one("host").is_some(), "a host is named: {}", text());
    assert_eq!(one("x-forwarded-for"), Some(&b"192.0.2.7"[..]), "the router says who asks: {}", text());
    assert_eq!(one("x-forwarded-proto"), Some(&b"http"[..]), "{}", text());
    let id = one(REQUEST_ID).expect("a request has an id");
    assert!((1..=REQUEST_ID_BYTES_MAX).contains(&id.len()), "an id is short: {}", text());
    match (one("content-length"), one("transfer-encoding")) {
        (None, None) => Framing::Length(0),
        (None, Some(coding)) => {
            assert_eq!(coding, b"chunked", "{}", text());
            Framing::Chunks
        }
        (Some(length), None) => {
            let length = std::str::from_utf8(length).ok().and_then(|length| length.parse().ok());
            Framing::Length(length.expect("a length is a number"))
        }
        (Some(_), Some(_)) => panic!("a request has two lengths: {}", text()),
    }
}
