//! Requests to hosts, over connections that are kept from one to the next.
//!
//! A router's request is so small that whatever is done for each counts. For each, hyper-util's client looks for a connection and makes one at the same
//! time, and starts a task that waits until the connection is free again. Here a connection comes back with the end of its response, and whoever
//! needs one takes the last that is free.
//!
//! What must stay true: a connection has one request at a time, and is kept only when its response was read to the end; a request is said to be
//! unsent only if no byte of it was sent.

use std::collections::HashMap;
use std::error::Error;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, Once, PoisonError, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::uri::{Authority, Scheme};
use http::{Request, Response, Uri};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use tower_service::Service;
use tracing::debug;

use crate::limits::{CLIENT_IDLE_S_MAX, HEAD_BYTES_MAX};

/// Time between two looks at connections that nobody uses, in seconds.
const SWEEP_S: u64 = 1;

type BoxError = Box<dyn Error + Send + Sync>;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The host was not reached, and knows nothing of the request.
    #[error("the host was not reached")]
    Unreached(#[source] BoxError),
    /// The connection ended, or the body of the request did.
    #[error("the request or its connection ended")]
    Broken(#[source] hyper::Error),
}

impl SendError {
    /// Whether nothing of the request was sent.
    pub fn is_unsent(&self) -> bool {
        matches!(self, Self::Unreached(_))
    }
}

/// What makes connections.
pub trait Connect:
    Service<Uri, Response = Self::Socket, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static
{
    /// A connection.
    type Socket: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static;
}

impl<C> Connect for C
where
    C: Service<Uri, Error: Into<BoxError>, Future: Send> + Clone + Send + Sync + 'static,
    C::Response: hyper::rt::Read + hyper::rt::Write + Send + Unpin + 'static,
{
    type Socket = C::Response;
}

/// Sends requests over connections that `C` makes.
pub struct Client<C, B> {
    connector: C,
    kept: Arc<Kept<B>>,
}

impl<C, B> Client<C, B>
where
    C: Connect,
    B: Body<Data: Send, Error: Into<BoxError>> + Send + 'static,
{
    /// One that keeps so many connections without a request for each host.
    pub fn new(connector: C, idle_max: usize) -> Self {
        let kept = Kept { idle: Mutex::default(), idle_max, is_swept: Once::new() };
        Self { connector, kept: Arc::new(kept) }
    }

    /// Sends a request, whose target has neither scheme nor host.
    pub async fn send(
        &self,
        host: &Authority,
        mut request: Request<B>,
    ) -> Result<Response<Answer<B>>, SendError> {
        while let Some(mut connection) = self.kept.take(host) {
            match connection.try_send_request(request).await {
                Ok(response) => return Ok(self.answer(host, connection, response)),
                // The host had closed it meanwhile.
                Err(mut unsent) => match unsent.take_message() {
                    Some(again) => request = again,
                    None => return Err(SendError::Broken(unsent.into_error())),
                },
            }
        }
        let mut connection = Box::pin(self.connect(host)).await?; // it is large, and mostly not needed
        match connection.try_send_request(request).await {
            Ok(response) => Ok(self.answer(host, connection, response)),
            Err(mut unsent) => Err(match unsent.take_message() {
                Some(_) => unreached(unsent.into_error()),
                None => SendError::Broken(unsent.into_error()),
            }),
        }
    }

    async fn connect(&self, host: &Authority) -> Result<http1::SendRequest<B>, SendError> {
        let address = Uri::builder().scheme(Scheme::HTTP).authority(host.clone()).path_and_query("/").build();
        let address = address.map_err(unreached)?;
        let mut connector = self.connector.clone();
        poll_fn(|cx| connector.poll_ready(cx)).await.map_err(unreached)?;
        let socket = connector.call(address).await.map_err(unreached)?;
        let mut http = http1::Builder::new();
        http.max_buf_size(HEAD_BYTES_MAX as usize);
        let (connection, driven) = http.handshake(socket).await.map_err(unreached)?;
        tokio::spawn(async move {
            if let Err(error) = driven.await {
                debug!("connection to a host: {error}");
            }
        });
        self.kept.is_swept.call_once(|| drop(tokio::spawn(sweep(Arc::downgrade(&self.kept)))));
        Ok(connection)
    }

    fn answer(
        &self,
        host: &Authority,
        connection: http1::SendRequest<B>,
        response: Response<Incoming>,
    ) -> Response<Answer<B>> {
        let (host, kept) = (host.clone(), self.kept.clone());
        response.map(|body| Answer { body, has_ended: false, connection: Some(connection), host, kept })
    }
}

fn unreached(error: impl Into<BoxError>) -> SendError {
    SendError::Unreached(error.into())
}

/// Connections that came back.
struct Kept<B> {
    /// By host.
    idle: Mutex<HashMap<Box<str>, Vec<Idle<B>>>>,
    /// Of one host.
    idle_max: usize,
    is_swept: Once,
}

struct Idle<B> {
    connection: http1::SendRequest<B>,
    /// How often [`sweep`] found it: to look at a clock would cost each request.
    swept: u64,
}

impl<B> Kept<B> {
    /// The one that came back last, of those that can take a request at once: another one may still send the body of a request that was answered before
    /// its end.
    fn take(&self, host: &Authority) -> Option<http1::SendRequest<B>> {
        let mut kept = self.lock();
        let idle = kept.get_mut(host.as_str())?;
        let ready = idle.iter().rposition(|idle| idle.connection.is_ready())?;
        Some(idle.remove(ready).connection)
    }

    fn give_back(&self, host: &Authority, connection: http1::SendRequest<B>) {
        if connection.is_closed() {
            return;
        }
        let (mut kept, back) = (self.lock(), Idle { connection, swept: 0 });
        let Some(idle) = kept.get_mut(host.as_str()) else {
            kept.insert(host.as_str().into(), vec![back]);
            return;
        };
        if idle.len() >= self.idle_max {
            idle.retain(|idle| idle.connection.is_ready()); // others end what they do, and nobody else needs them
        }
        if idle.len() < self.idle_max {
            idle.push(back);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Box<str>, Vec<Idle<B>>>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Closes connections that nobody needed for long, until their client is gone.
async fn sweep<B>(kept: Weak<Kept<B>>) {
    loop {
        tokio::time::sleep(Duration::from_secs(SWEEP_S)).await;
        let Some(kept) = kept.upgrade() else { return };
        kept.lock().retain(|_, idle| {
            idle.iter_mut().for_each(|idle| idle.swept += 1);
            idle.retain(|idle| idle.swept * SWEEP_S <= CLIENT_IDLE_S_MAX && !idle.connection.is_closed());
            !idle.is_empty()
        });
    }
}

/// The body of a response, with its connection.
pub struct Answer<B> {
    body: Incoming,
    has_ended: bool,
    connection: Option<http1::SendRequest<B>>,
    host: Authority,
    kept: Arc<Kept<B>>,
}

impl<B> Body for Answer<B> {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        self.has_ended = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(frame))) => frame.is_trailers(),
            Poll::Ready(Some(Err(_))) | Poll::Pending => false,
        };
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<B> Drop for Answer<B> {
    fn drop(&mut self) {
        let is_whole = self.has_ended || self.body.is_end_stream();
        if let Some(connection) = self.connection.take().filter(|_| is_whole) {
            self.kept.give_back(&self.host, connection);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use std::future::{Ready, ready};
    use std::io;
    use std::sync::LazyLock;

    use http_body_util::{BodyExt as _, Full};
    use hyper_util::rt::TokioIo;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
    use tokio::sync::mpsc;

    use super::*;

    static HOST: LazyLock<Authority> = LazyLock::new(|| Authority::from_static("host:1"));
    const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nanswer";

    /// Makes connections in memory, whose other ends it gives away.
    #[derive(Clone)]
    struct Pipes(mpsc::UnboundedSender<DuplexStream>);

    impl Service<Uri> for Pipes {
        type Response = TokioIo<DuplexStream>;
        type Error = io::Error;
        type Future = Ready<io::Result<Self::Response>>;

        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn call(&mut self, _: Uri) -> Self::Future {
            let (ours, theirs) = tokio::io::duplex(1 << 10);
            let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
            ready(self.0.send(theirs).map_err(refused).map(|()| TokioIo::new(ours)))
        }
    }

    /// A client, and the hosts' ends of its connections.
    fn client(idle_max: usize) -> (Client<Pipes, Full<Bytes>>, mpsc::UnboundedReceiver<DuplexStream>) {
        let (give, given) = mpsc::unbounded_channel();
        (Client::new(Pipes(give), idle_max), given)
    }

    fn request() -> Request<Full<Bytes>> {
        Request::post("/").header("host", "host").body(Full::from("ask")).unwrap()
    }

    /// Reads a request and answers with these bytes.
    async fn answer(host: &mut DuplexStream, bytes: &[u8]) {
        let mut seen = Vec::new();
        while !seen.ends_with(b"ask") {
            assert!(host.read_buf(&mut seen).await.unwrap() > 0, "the connection ended");
        }
        host.write_all(bytes).await.unwrap();
    }

    /// Asks once over a new connection, and reads the answer to its end.
    async fn ask_first(
        client: &Client<Pipes, Full<Bytes>>,
        hosts: &mut mpsc::UnboundedReceiver<DuplexStream>,
    ) -> DuplexStream {
        let host = async {
            let mut host = hosts.recv().await.unwrap();
            answer(&mut host, ANSWER).await;
            host
        };
        let (sent, host) = tokio::join!(client.send(&HOST, request()), host);
        assert_eq!(sent.unwrap().into_body().collect().await.unwrap().to_bytes(), "answer");
        host
    }

    #[tokio::test]
    async fn a_connection_is_used_again_when_its_answer_was_read() {
        let (client, mut hosts) = client(1);
        let mut host = ask_first(&client, &mut hosts).await;
        let (sent, ()) = tokio::join!(client.send(&HOST, request()), answer(&mut host, ANSWER));
        let unread = sent.unwrap(); // it has the connection as long as it is there
        let other = ask_first(&client, &mut hosts).await;
        drop(unread);
        assert_eq!(host.read(&mut [0]).await.unwrap(), 0, "what was not read to the end is closed");
        drop(other);
        assert!(hosts.try_recv().is_err());
    }

    #[tokio::test]
    async fn a_connection_that_was_closed_meanwhile_costs_no_request() {
        let (client, mut hosts) = client(1);
        drop(ask_first(&client, &mut hosts).await);
        ask_first(&client, &mut hosts).await; // by another one
    }

    #[tokio::test]
    async fn a_connection_whose_request_is_not_read_yet_is_nobody_elses() {
        const LONG_BYTES: usize = 64 << 10; // more than a pipe takes
        let (client, mut hosts) = client(1);
        let long = Request::post("/").header("host", "host").body(Full::from(vec![0; LONG_BYTES])).unwrap();
        let answers_early = async {
            let mut host = hosts.recv().await.unwrap();
            assert!(host.read(&mut [0]).await.unwrap() > 0);
            host.write_all(ANSWER).await.unwrap();
            host
        };
        let (sent, _host) = tokio::join!(client.send(&HOST, long), answers_early);
        assert_eq!(sent.unwrap().into_body().collect().await.unwrap().to_bytes(), "answer");
        ask_first(&client, &mut hosts).await;
    }

    #[tokio::test]
    async fn an_answer_in_chunks_ends_with_its_trailers() {
        let (client, mut hosts) = client(1);
        let mut host = ask_first(&client, &mut hosts).await;
        let chunks: [&[u8]; 2] = [
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nanswer\r\n0\r\n\r\n",
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\nanswer\r\n0\r\nsum: 1\r\n\r\n",
        ];
        for chunks in chunks {
            let (sent, ()) = tokio::join!(client.send(&HOST, request()), answer(&mut host, chunks));
            assert_eq!(sent.unwrap().into_body().collect().await.unwrap().to_bytes(), "answer");
        }
        assert!(hosts.try_recv().is_err(), "all came over one connection");
    }

    #[tokio::test]
    async fn what_may_have_been_sent_is_said_to_have_been() {
        let (client, mut hosts) = client(1);
        let ends = async { answer(&mut hosts.recv().await.unwrap(), b"").await };
        let (sent, ()) = tokio::join!(client.send(&HOST, request()), ends);
        assert!(!sent.map(drop).unwrap_err().is_unsent());
        drop(hosts);
        assert!(client.send(&HOST, request()).await.map(drop).unwrap_err().is_unsent(), "nobody is there");
    }

    #[tokio::test(start_paused = true)]
    async fn few_are_kept_and_not_for_long() {
        let (client, mut hosts) = client(1);
        let first = ask_first(&client, &mut hosts).await;
        let taken = client.kept.take(&HOST).unwrap();
        let second = ask_first(&client, &mut hosts).await;
        client.kept.give_back(&HOST, taken);
        let mut kept = [first, second];
        assert_eq!(kept[0].read(&mut [0]).await.unwrap(), 0, "there is room for one");
        let since = tokio::time::Instant::now();
        assert_eq!(kept[1].read(&mut [0]).await.unwrap(), 0, "and for so long");
        let after = since.elapsed().as_secs();
        assert!((CLIENT_IDLE_S_MAX - 1..=CLIENT_IDLE_S_MAX + 2).contains(&after), "{after} s");
        assert!(client.kept.lock().is_empty());
    }
}
