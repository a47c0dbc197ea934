//! Accepts connections and drives them, within [`Limits`].
//!
//! In order, each step cheaper than the next: a place among all connections, a place for the address, HTTP with bounds on
//! everything the client sizes, the URL and the number of headers. Meanwhile all connections are looked at every two
//! seconds. Invariant: nothing that a client does ends the listener, and whoever stops it waits for its requests only.

use std::convert::Infallible;
use std::error::Error;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, Version, header};
use http_body::Body;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::debug;

use crate::around::{Around, Nothing, Tasks, inside};
use crate::body::{Received, Sending};
use crate::limits::{self, Codes, Limits};
use crate::peers::{Peers, Place};
use crate::problem::problem;
use crate::turns::LetOthers;
use crate::watch::{Begun, Socket, Verdict, Watch, Watched, Watches};
use crate::workers::Workers;

/// Wait after a failed accept, in milliseconds: out of descriptors, some must close first.
const ACCEPT_PAUSE_MS: u64 = 10;

/// Ends a listener: no new connections, running requests end.
#[derive(Clone, Default)]
pub struct Stop {
    asked: CancellationToken,
    connections: TaskTracker,
}

impl Stop {
    /// Asks, and waits until all requests have ended.
    pub async fn stop(&self) {
        self.asked.cancel();
        self.connections.close();
        self.connections.wait().await;
    }
}

/// Serves until it is stopped.
pub async fn serve<A, F, B>(limits: Limits, listener: TcpListener, stop: Stop, answer: A)
where
    A: Fn(Request<Received>, SocketAddr) -> F + Clone + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    serve_each(limits, listener, stop, move || (answer.clone(), Nothing)).await;
}

/// The same, with something of its own for each connection: how it answers, and what runs around each poll of its tasks.
pub async fn serve_each<O, A, W, F, B>(limits: Limits, listener: TcpListener, stop: Stop, open: O)
where
    O: Fn() -> (A, W),
    A: Fn(Request<Received>, SocketAddr) -> F + Send + 'static,
    W: Around,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    accept(limits, listener, &stop, |arrived| {
        let (answer, around) = open();
        stop.connections.spawn(arrived.drive(limits, answer, around));
    })
    .await;
}

/// The same on threads of their own: `open` is given what its connection's thread has.
pub async fn serve_on<T, O, A, F, B>(
    workers: &Workers<T>,
    limits: Limits,
    listener: TcpListener,
    stop: Stop,
    open: O,
) where
    O: Fn(&T) -> A,
    A: Fn(Request<Received>, SocketAddr) -> F + Send + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    accept(limits, listener, &stop, |arrived| {
        let Some((worker, seat)) = workers.take() else { return };
        let (answer, peer) = (open(&worker.own), arrived.peer);
        let leaving = arrived.leave();
        let driven = async move {
            match leaving.and_then(Arrived::<std::net::TcpStream>::enter) {
                Ok(arrived) => arrived.drive(limits, answer, Nothing).await,
                Err(error) => debug!(%peer, "closed: it cannot change its thread: {error}"),
            }
            drop(seat);
        };
        stop.connections.spawn_on(driven, &worker.runtime);
    })
    .await;
}

/// A connection that has its places.
struct Arrived<S> {
    stream: S,
    peer: SocketAddr,
    watch: Arc<Watch>,
    places: (OwnedSemaphorePermit, Place),
}

impl<S> Arrived<S> {
    fn with<T>(self, stream: impl FnOnce(S) -> io::Result<T>) -> io::Result<Arrived<T>> {
        let Self { stream: before, peer, watch, places } = self;
        Ok(Arrived { stream: stream(before)?, peer, watch, places })
    }
}

impl Arrived<TcpStream> {
    /// Leaves the runtime of this thread.
    fn leave(self) -> io::Result<Arrived<std::net::TcpStream>> {
        self.with(TcpStream::into_std)
    }

    /// Until it has ended.
    async fn drive<A, W, F, B>(self, limits: Limits, answer: A, around: W)
    where
        A: Fn(Request<Received>, SocketAddr) -> F + Send + 'static,
        W: Around,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let Self { stream, peer, watch, places } = self;
        let connection = Connection { limits, peer, watch, around: around.clone() };
        inside(around, connection.drive(stream, answer)).await;
        drop(places);
    }
}

impl Arrived<std::net::TcpStream> {
    /// Enters the runtime of this thread.
    fn enter(self) -> io::Result<Arrived<TcpStream>> {
        self.with(TcpStream::from_std)
    }
}

/// Gives places to connections, starts them, and looks at all of them, until it is stopped.
async fn accept(limits: Limits, listener: TcpListener, stop: &Stop, start: impl Fn(Arrived<TcpStream>)) {
    let (places, peers) = (Arc::new(Semaphore::new(limits.connections_max)), Peers::default());
    let mut watches = Watches::default();
    let mut looks = tokio::time::interval(Duration::from_millis(limits::LOOK_MS));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        let accepted = async {
            let place = places.clone().acquire_owned().await.ok()?;
            Some((place, listener.accept().await))
        };
        let accepted = tokio::select! {
            accepted = accepted => accepted,
            () = stop.asked.cancelled() => break,
            _ = looks.tick() => {
                watches.look();
                continue;
            }
        };
        let Some((place, accepted)) = accepted else { break };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                debug!("accept: {error}");
                tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                continue;
            }
        };
        let Some(peer_place) = peers.enter(peer.ip(), limits.connections_per_peer_max) else {
            debug!(%peer, "closed: the address has as many connections as it may");
            continue;
        };
        let _ = stream.set_nodelay(true);
        start(Arrived { stream, peer, watch: watches.add(limits), places: (place, peer_place) });
    }
    drop(listener);
    watches.leave();
    while watches.look() {
        looks.tick().await;
    }
}

/// Serves one connection that somebody else accepted, until it has ended, and looks at it as [`serve`] does.
pub async fn serve_connection<S, A, F, B>(limits: Limits, socket: S, peer: SocketAddr, answer: A)
where
    S: Socket,
    A: Fn(Request<Received>, SocketAddr) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    let mut watches = Watches::default();
    let connection = Connection { limits, peer, watch: watches.add(limits), around: Nothing };
    let mut driven = pin!(connection.drive(socket, answer));
    let mut looks = tokio::time::interval(Duration::from_millis(limits::LOOK_MS));
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = &mut driven => return,
            _ = looks.tick() => watches.look(),
        };
    }
}

fn builder<W: Around>(tasks: Tasks<W>) -> auto::Builder<Tasks<W>> {
    let mut builder = auto::Builder::new(tasks);
    // No timer for heads: see `watch`. One buffer for head and body: with two of them, an answer to what is no request would go ahead of
    // the body of the answer before it, which waits until others have had their turn.
    builder.http1().header_read_timeout(None).max_buf_size(limits::HEAD_BYTES_MAX as usize).writev(false);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(limits::STREAMS_MAX)
        .max_header_list_size(limits::HEAD_BYTES_MAX)
        .initial_stream_window_size(limits::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(limits::CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(limits::SEND_BUFFER_BYTES_MAX)
        .max_pending_accept_reset_streams(limits::PENDING_RESETS_MAX)
        .max_local_error_reset_streams(limits::LOCAL_RESETS_MAX)
        .keep_alive_interval(Duration::from_secs(limits::PING_S))
        .keep_alive_timeout(Duration::from_secs(limits::PING_S));
    builder
}

/// One connection.
struct Connection<W> {
    limits: Limits,
    peer: SocketAddr,
    watch: Arc<Watch>,
    around: W,
}

impl<W: Around> Connection<W> {
    async fn drive<S, A, F, B>(self, socket: S, answer: A)
    where
        S: Socket,
        A: Fn(Request<Received>, SocketAddr) -> F,
        F: Future<Output = Response<B>> + Send + 'static,
        B: Body<Data = Bytes> + Send + Unpin + 'static,
        B::Error: Into<Box<dyn Error + Send + Sync>>,
    {
        let Self { limits, peer, watch, around } = self;
        let told = watch.clone();
        let service = service_fn(move |request: Request<Incoming>| {
            let mut begun = told.begin(request.version() < Version::HTTP_2);
            let refused = refuses(&request, limits.codes);
            if request.version() != Version::HTTP_2 {
                begun.whole(); // HTTP/1 cannot give up a request and go on
            }
            let is_head = request.method() == Method::HEAD;
            let request = request.map(|body| Received::new(body, told.clone()));
            let answered = match refused {
                None => Ok(Box::pin(answer(request, peer))), // large, and moved a few times before it is polled
                Some(refusal) => Err(refusal),
            };
            async move { Ok::<_, Infallible>(wrapped(answered, begun, is_head).await) }
        });
        let socket = TokioIo::new(LetOthers::over(Watched { socket, watch: watch.clone() }));
        let builder = builder(Tasks { around, watch: watch.clone() });
        let mut connection = pin!(builder.serve_connection(socket, service));
        let mut leaving = false;
        // Polled with every piece that comes or goes: whoever looks at connections wakes those that are to end.
        poll_fn(|context| {
            if let Poll::Ready(ended) = connection.as_mut().poll(context) {
                if let Err(error) = ended {
                    debug!(%peer, "connection: {error}");
                }
                return Poll::Ready(());
            }
            match watch.ordered(context.waker()) {
                Verdict::Stay => Poll::Pending,
                Verdict::Close(why) => {
                    debug!(%peer, "closed: {why}");
                    Poll::Ready(())
                }
                Verdict::Leave if leaving => Poll::Pending,
                Verdict::Leave => {
                    leaving = true;
                    connection.as_mut().graceful_shutdown();
                    context.waker().wake_by_ref();
                    Poll::Pending
                }
            }
        })
        .await;
    }
}

/// A request that nobody need look at.
struct Refusal {
    status: StatusCode,
    code: &'static str,
    detail: String,
}

/// Says why a request is not answered, if it is not. What HTTP/1 alone breaks, hyper has refused before.
fn refuses(request: &Request<Incoming>, codes: Codes) -> Option<Refusal> {
    // Its target is a server, whatever its path says, and we are no proxy to others: passed on, it would be a tunnel there.
    if request.method() == Method::CONNECT {
        let detail = "tunnels are not given".to_owned();
        return Some(Refusal { status: StatusCode::NOT_IMPLEMENTED, code: codes.tunnel, detail });
    }
    let url = request.uri().path_and_query().map_or(0, |path| path.as_str().len());
    if url > limits::URL_BYTES_MAX {
        let detail = format!("a path with its query may have {} bytes", limits::URL_BYTES_MAX);
        return Some(Refusal { status: StatusCode::URI_TOO_LONG, code: codes.url, detail });
    }
    if request.headers().len() > limits::HEADERS_MAX {
        let detail = format!("a request may have {} headers", limits::HEADERS_MAX);
        return Some(Refusal {
            status: StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
            code: codes.headers,
            detail,
        });
    }
    // Whoever stands before or behind us may go by the other one (RFC 9112, 3.2).
    if request.headers().get_all(header::HOST).iter().count() > 1 {
        let detail = "a request names one host".to_owned();
        return Some(Refusal { status: StatusCode::BAD_REQUEST, code: codes.host, detail });
    }
    None
}

async fn wrapped<F, B>(
    answered: Result<Pin<Box<F>>, Refusal>,
    mut begun: Begun,
    is_head: bool,
) -> Response<Sending<B>>
where
    F: Future<Output = Response<B>>,
    B: Body<Data = Bytes>,
{
    match answered {
        Ok(answer) => {
            let mut answer = answer.await;
            if begun.is_last() {
                answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
            }
            if is_head {
                begun.whole(); // nobody sends the body, so that it is not asked for
            }
            answer.map(|body| Sending::answer(body, begun))
        }
        Err(Refusal { status, code, detail }) => {
            problem(status, code, &detail, "").map(|body| Sending::refusal(body, begun))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use http_body_util::{BodyExt as _, Empty, Full};
    use hyper::client::conn::http2;
    use hyper_util::rt::TokioExecutor;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::sync::mpsc;

    use super::*;

    #[tokio::test]
    async fn what_is_no_request_is_answered_behind_the_request_before_it() {
        const PIPE_BYTES: usize = 64; // less than an answer's head
        let (near, mut far) = tokio::io::duplex(PIPE_BYTES);
        let whole = "whole".repeat(100);
        let body = Bytes::from(whole.clone());
        let answer = move |request: Request<Received>, _| {
            tokio::spawn(request.into_body().collect()); // also when it has answered
            std::future::ready(Response::new(Full::new(body.clone())))
        };
        let server = tokio::spawn(serve_connection(limits::USERS, near, ([127, 0, 0, 1], 1).into(), answer));
        far.write_all(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nx").await.unwrap();
        let mut got = vec![far.read_u8().await.unwrap()]; // the rest of the answer waits
        far.write_all(b"y\x9d\x90 z\r\n\r\n").await.unwrap();
        tokio::task::yield_now().await;
        far.read_to_end(&mut got).await.unwrap();
        server.await.unwrap();
        let got = String::from_utf8(got).unwrap();
        let (first, second) = got.split_once(&whole).unwrap();
        assert!(first.starts_with("HTTP/1.1 200") && first.ends_with("\r\n\r\n"), "{got}");
        assert!(second.starts_with("HTTP/1.1 400"), "{got}");
    }

    #[tokio::test]
    async fn connections_are_driven_by_the_threads_they_were_given_to() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (workers, stop) = (Workers::start("driver", [1, 2]).unwrap(), Stop::default());
        let open = |own: &i32| {
            let own = *own;
            move |_: Request<Received>, _| async move {
                let body = format!("{own} {:?}", std::thread::current().name());
                Response::new(Full::new(Bytes::from(body)))
            }
        };
        let serves = serve_on(&workers, limits::USERS, listener, stop, open);
        let asks = async {
            let mut said = Vec::new();
            let mut kept = Vec::new();
            for _ in 0..2 {
                let mut socket = TcpStream::connect(address).await.unwrap();
                for _ in 0..2 {
                    socket.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
                    let mut answer = String::new();
                    while !answer.ends_with(')') {
                        answer.push(char::from(socket.read_u8().await.unwrap()));
                    }
                    said.push(answer.lines().last().unwrap().to_owned());
                }
                kept.push(socket);
            }
            said
        };
        let said = tokio::select! { said = asks => said, () = serves => panic!("nobody stopped it") };
        let [one, two] = [1, 2].map(|own| format!("{own} Some(\"driver\")"));
        assert_eq!(said, [one.clone(), one, two.clone(), two]);
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_ends_with_an_answer_that_says_so() {
        let (near, mut far) = tokio::io::duplex(64 << 10);
        let answer = |_: Request<Received>, _| std::future::ready(Response::new(Full::new(Bytes::new())));
        let limits = Limits { life_s_max: 60, ..limits::USERS };
        let server = tokio::spawn(serve_connection(limits, near, ([127, 0, 0, 1], 1).into(), answer));
        let mut ask = async || {
            far.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").await.unwrap();
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                head.push(char::from(far.read_u8().await.unwrap()));
            }
            head.contains("connection: close")
        };
        assert!(!ask().await);
        tokio::time::sleep(Duration::from_secs(40)).await;
        assert!(!ask().await);
        tokio::time::sleep(Duration::from_secs(40)).await; // past its life, and idle for less than it may
        assert!(ask().await, "a request that was on its way has its answer");
        server.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_is_given_up_counts_whatever_its_method() {
        for method in [Method::GET, Method::HEAD] {
            let (near, far) = tokio::io::duplex(64 << 10);
            let (tell, mut begun) = mpsc::unbounded_channel();
            let answer = move |_: Request<Received>, _| {
                tell.send(()).unwrap();
                std::future::pending::<Response<Full<Bytes>>>()
            };
            let peer = ([127, 0, 0, 1], 1).into();
            let server = tokio::spawn(serve_connection(limits::USERS, near, peer, answer));
            let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(far));
            let (mut client, connection) = handshake.await.unwrap();
            tokio::spawn(connection);
            for _ in 0..=limits::ABANDONED_MAX {
                let request = Request::builder().method(method.clone()).uri("http://a/");
                tokio::select! {
                    answer = client.send_request(request.body(Empty::<Bytes>::new()).unwrap()) => panic!("{answer:?}"),
                    begun = begun.recv() => begun.unwrap(), // and it is given up
                }
            }
            // Within a look or two: left alone, the connection would be there for longer than a minute.
            let closed = tokio::time::timeout(Duration::from_millis(3 * limits::LOOK_MS), server).await;
            assert!(closed.is_ok(), "{method}");
        }
    }
}
