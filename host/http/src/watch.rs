//! What a connection does with its time and its bytes, and whether it may go on.
//!
//! hyper bounds heads, buffers and windows. It does not mind a client that connects and says nothing, never reads,
//! pings for ever, or gives up request after request: each is cheap to do and holds something here. A [`Watch`] is told by
//! the socket ([`Watched`]) and by bodies what happens, and is looked at now and then ([`Watches`]).
//! Also what hyper could do with a timer for each head is done here, for a timer costs at every request.
//! Invariant: to tell costs atomics, or a lock that only this connection takes.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::limits::{
    ABANDONED_MAX, ABANDONED_PER_S_MAX, BODY_BYTES_PER_S_MIN, CONTROL_BYTES_MAX, GRACE_S_MAX, HEAD_BYTES_MAX,
    Limits, READ_BYTES_PER_S_MIN, STREAM_WINDOW_BYTES, UNREAD_S_MAX,
};

/// Bytes that one request may cause beside its body: its head, and what was under way when its body was refused.
const REQUEST_BYTES: u64 = HEAD_BYTES_MAX as u64 + STREAM_WINDOW_BYTES as u64;
/// Bytes of framing around a piece of a body.
const FRAMING_BYTES: u64 = 64;
/// A client acknowledges what it reads: at most this part of it, in bytes of responses per byte.
const ACKNOWLEDGED: u64 = 8;
/// Not waiting.
const NEVER: u64 = u64::MAX;

/// What is to be done with a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    Stay,
    /// Ends when its requests have.
    Leave,
    /// Ends now.
    Close(&'static str),
}

pub(crate) struct Watch {
    limits: Limits,
    started: Instant,
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    /// Bytes read that belong to requests.
    bytes_due: AtomicU64,
    begun: AtomicU64,
    ended: AtomicU64,
    /// It takes one request after the other, and has no pings.
    is_http1: AtomicBool,
    abandoned: AtomicU64,
    ended_at_ms: AtomicU64,
    /// Bytes read when the last request ended: what came since is the next head.
    bytes_before_head: AtomicU64,
    /// When a look found the beginning of a head.
    head_since_ms: AtomicU64,
    /// Since when nothing can be written.
    blocked_since_ms: AtomicU64,
    blocked_ms: AtomicU64,
    /// What the connection is to do: whether there is news, and the news.
    has_order: AtomicBool,
    order: Mutex<Verdict>,
    waker: AtomicWaker,
    /// Since when a piece of the response waits that was handed over, whose next one was not asked for yet. Of HTTP/1, which has one at a time.
    unread_since_ms: AtomicU64,
    /// The same of each stream of HTTP/2, by the number of its request.
    unread_streams: Mutex<BTreeMap<u64, Unread>>,
    /// The end of the stream whose request began just now, for the task that it is given.
    begun_stream: Mutex<Option<StreamEnd>>,
}

/// A piece of a response that was handed over to a stream.
struct Unread {
    since_ms: u64,
    stream: StreamEnd,
}

/// Ends one stream of HTTP/2.
pub(crate) type StreamEnd = Arc<Notify>;

impl Watch {
    pub(crate) fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            started: Instant::now(),
            bytes_read: AtomicU64::new(0),
            bytes_written: AtomicU64::new(0),
            bytes_due: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            is_http1: AtomicBool::new(false),
            ended: AtomicU64::new(0),
            abandoned: AtomicU64::new(0),
            ended_at_ms: AtomicU64::new(0),
            bytes_before_head: AtomicU64::new(0),
            head_since_ms: AtomicU64::new(NEVER),
            blocked_since_ms: AtomicU64::new(NEVER),
            blocked_ms: AtomicU64::new(0),
            has_order: AtomicBool::new(false),
            order: Mutex::new(Verdict::Stay),
            waker: AtomicWaker::new(),
            unread_since_ms: AtomicU64::new(NEVER),
            unread_streams: Mutex::default(),
            begun_stream: Mutex::default(),
        })
    }

    /// Counts a request until its response has ended.
    pub(crate) fn begin(self: &Arc<Self>, is_http1: bool) -> Begun {
        self.is_http1.store(is_http1, Relaxed);
        let number = self.begun.fetch_add(1, Relaxed);
        self.bytes_due.fetch_add(REQUEST_BYTES, Relaxed);
        let stream = (!is_http1).then(StreamEnd::default);
        if stream.is_some() {
            *self.begun_stream.lock().unwrap_or_else(PoisonError::into_inner) = stream.clone();
        }
        Begun { watch: self.clone(), number, stream, is_unread: false, is_whole: false }
    }

    /// The end of the stream that began just now: its task ends when it is told so.
    pub(crate) fn take_stream(&self) -> Option<StreamEnd> {
        self.begun_stream.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Ends streams whose answers nobody reads: others of the connection may be other people's.
    fn end_unread(&self, now_ms: u64) {
        for unread in self.unread_streams().values().filter(|unread| is_old(unread.since_ms, now_ms)) {
            unread.stream.notify_one();
        }
    }

    fn unread_streams(&self) -> MutexGuard<'_, BTreeMap<u64, Unread>> {
        self.unread_streams.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A piece of a request's body came.
    pub(crate) fn received(&self, bytes: usize) {
        if bytes > 0 {
            self.bytes_due.fetch_add(bytes as u64 + FRAMING_BYTES, Relaxed);
        }
    }

    /// How long the next piece of a request body may be waited for, after so much waiting for so many bytes.
    pub(crate) fn patience(&self, waited: Duration, bytes: u64) -> Duration {
        let gap = Duration::from_secs(self.limits.body_gap_s_max);
        let earned = gap + Duration::from_millis(bytes.saturating_mul(1_000) / BODY_BYTES_PER_S_MIN);
        earned.saturating_sub(waited).min(gap)
    }

    /// What the connection is to do. The task behind `waker` is woken when that changes.
    pub(crate) fn ordered(&self, waker: &Waker) -> Verdict {
        self.waker.register(waker);
        match self.has_order.load(Acquire) {
            true => self.order(),
            false => Verdict::Stay,
        }
    }

    fn order(&self) -> Verdict {
        *self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes an order of a verdict, unless there is a stronger one.
    fn tell(&self, verdict: Verdict) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let is_news = match (*order, verdict) {
            (Verdict::Stay, Verdict::Leave) => true,
            (Verdict::Stay | Verdict::Leave, Verdict::Close(_)) => true,
            (_, Verdict::Stay | Verdict::Leave) | (Verdict::Close(_), Verdict::Close(_)) => false,
        };
        if is_news {
            *order = verdict;
            drop(order);
            self.has_order.store(true, Release);
            self.waker.wake();
        }
    }

    fn verdict_at(&self, now_ms: u64) -> Verdict {
        let (begun, ended) = (self.begun.load(Relaxed), self.ended.load(Relaxed));
        let idle_ms = now_ms.saturating_sub(self.ended_at_ms.load(Relaxed));
        let idle_ms_max = ms(self.limits.idle_s_max);
        let is_idle = begun == ended;
        if is_idle && begun == 0 && now_ms > ms(self.limits.head_s_max) {
            return Verdict::Close("no request came");
        }
        if is_idle && self.head_ms(now_ms) > ms(self.limits.head_s_max) {
            return Verdict::Close("the head of a request takes too long");
        }
        if self.is_blocked(now_ms) {
            return Verdict::Close("the client does not read");
        }
        let abandoned = self.abandoned.load(Relaxed);
        let are_most = abandoned > begun / 2;
        // Cheap requests that end would hide any number of others.
        let are_many = abandoned > ABANDONED_MAX + now_ms / 1_000 * ABANDONED_PER_S_MAX;
        if abandoned > ABANDONED_MAX && (are_most || are_many) {
            return Verdict::Close("the client gives up its requests");
        }
        // One of HTTP/1 says with its next answer that it is the last: a request may be on its way already.
        let is_http1 = self.is_http1.load(Relaxed);
        let last_ms = ms(self.limits.life_s_max) + if is_http1 { idle_ms_max } else { 0 };
        if now_ms > last_ms + ms(GRACE_S_MAX) || is_idle && idle_ms > 2 * idle_ms_max {
            return Verdict::Close("it was asked to end before");
        }
        if now_ms > last_ms || is_idle && idle_ms > idle_ms_max {
            return Verdict::Leave;
        }
        Verdict::Stay
    }

    /// How long the next head has been on its way, as far as looks saw it. With HTTP/2 there is more than heads between requests.
    fn head_ms(&self, now_ms: u64) -> u64 {
        let has_begun = self.bytes_read.load(Relaxed) > self.bytes_before_head.load(Relaxed);
        if !self.is_http1.load(Relaxed) || !has_begun {
            return 0;
        }
        let since = self.head_since_ms.fetch_min(now_ms, Relaxed).min(now_ms);
        now_ms - since
    }

    fn is_blocked(&self, now_ms: u64) -> bool {
        let since = self.blocked_since_ms.load(Relaxed);
        let now_blocked = now_ms.saturating_sub(since); // 0 when it is not
        let earned = ms(UNREAD_S_MAX) + self.bytes_written.load(Relaxed) * 1_000 / READ_BYTES_PER_S_MIN;
        if now_blocked > ms(UNREAD_S_MAX) || now_blocked + self.blocked_ms.load(Relaxed) > earned {
            return true;
        }
        is_old(self.unread_since_ms.load(Relaxed), now_ms)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(NEVER - 1)
    }

    fn read(&self, bytes: u64) -> io::Result<()> {
        let read = self.bytes_read.fetch_add(bytes, Relaxed) + bytes;
        let due = self.bytes_due.load(Relaxed) + self.bytes_written.load(Relaxed) / ACKNOWLEDGED;
        if read > due + CONTROL_BYTES_MAX {
            return Err(io::Error::other("the client sends what belongs to no request"));
        }
        Ok(())
    }

    fn wrote(&self, written: &Poll<io::Result<usize>>) {
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.bytes_written.fetch_add(*bytes as u64, Relaxed);
                let since = self.blocked_since_ms.load(Relaxed);
                if since != NEVER {
                    self.blocked_since_ms.store(NEVER, Relaxed);
                    self.blocked_ms.fetch_add(self.now_ms().saturating_sub(since), Relaxed);
                }
            }
            Poll::Pending if self.blocked_since_ms.load(Relaxed) == NEVER => {
                self.blocked_since_ms.store(self.now_ms(), Relaxed);
            }
            Poll::Pending | Poll::Ready(Err(_)) => {}
        }
    }
}

/// The watches of a listener's connections.
#[derive(Default)]
pub(crate) struct Watches(Vec<Weak<Watch>>);

impl Watches {
    /// A watch for a new connection.
    pub(crate) fn add(&mut self, limits: Limits) -> Arc<Watch> {
        let watch = Watch::new(limits);
        self.0.push(Arc::downgrade(&watch));
        watch
    }

    /// Looks at all connections. False when there are none.
    pub(crate) fn look(&mut self) -> bool {
        self.each(|watch| {
            let now_ms = watch.now_ms();
            watch.end_unread(now_ms);
            watch.tell(watch.verdict_at(now_ms));
        });
        !self.0.is_empty()
    }

    /// Asks all to end when their requests have.
    pub(crate) fn leave(&mut self) {
        self.each(|watch| watch.tell(Verdict::Leave));
    }

    fn each(&mut self, act: impl Fn(&Watch)) {
        self.0.retain(|watch| watch.upgrade().inspect(|watch| act(watch)).is_some());
    }
}

/// Whether a piece waits for too long.
fn is_old(since_ms: u64, now_ms: u64) -> bool {
    now_ms.saturating_sub(since_ms) > ms(UNREAD_S_MAX)
}

fn ms(seconds: u64) -> u64 {
    seconds * 1_000
}

/// A request, until its response has ended.
pub(crate) struct Begun {
    watch: Arc<Watch>,
    number: u64,
    /// Of HTTP/2.
    stream: Option<StreamEnd>,
    is_unread: bool,
    is_whole: bool,
}

impl Begun {
    /// A piece of the response was handed over.
    pub(crate) fn gave(&mut self) {
        self.is_unread = true;
        let since_ms = self.watch.now_ms();
        match self.stream.clone() {
            None => self.watch.unread_since_ms.store(since_ms, Relaxed),
            Some(stream) => {
                drop(self.watch.unread_streams().insert(self.number, Unread { since_ms, stream }));
            }
        }
    }

    /// The next piece is asked for.
    pub(crate) fn asked(&mut self) {
        if !std::mem::take(&mut self.is_unread) {
            return;
        }
        match self.stream {
            None => self.watch.unread_since_ms.store(NEVER, Relaxed),
            Some(_) => drop(self.watch.unread_streams().remove(&self.number)),
        }
    }

    /// Whether its connection is to have no further one, and says so with the answer.
    pub(crate) fn is_last(&self) -> bool {
        self.watch.is_http1.load(Relaxed) && self.watch.now_ms() > ms(self.watch.limits.life_s_max)
    }

    /// The response is whole, or nobody wants the rest of it.
    pub(crate) fn whole(&mut self) {
        self.is_whole = true;
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.asked();
        self.watch.ended_at_ms.store(self.watch.now_ms(), Relaxed);
        self.watch.bytes_before_head.store(self.watch.bytes_read.load(Relaxed), Relaxed);
        self.watch.head_since_ms.store(NEVER, Relaxed);
        self.watch.ended.fetch_add(1, Relaxed);
        if !self.is_whole {
            self.watch.abandoned.fetch_add(1, Relaxed);
        }
    }
}

/// What a connection is made of.
pub trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// What was written and not sent yet is not sent any more once this is dropped.
    fn forget_unsent(&self) {}
}

impl Socket for TcpStream {
    /// What a client does not read would stay with the kernel, which goes on trying for minutes.
    fn forget_unsent(&self) {
        let _ = self.set_zero_linger();
    }
}

/// Bytes in memory, for whoever tries the server without a network.
impl Socket for DuplexStream {}

/// A socket that tells its watch.
pub(crate) struct Watched<S: Socket> {
    pub(crate) socket: S,
    pub(crate) watch: Arc<Watch>,
}

impl<S: Socket> Drop for Watched<S> {
    fn drop(&mut self) {
        if matches!(self.watch.order(), Verdict::Close(_)) {
            self.socket.forget_unsent();
        }
    }
}

impl<S: Socket> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(context, buffer);
        if let Poll::Ready(Ok(())) = read {
            self.watch.read((buffer.filled().len() - before) as u64)?;
        }
        read
    }
}

impl<S: Socket> AsyncWrite for Watched<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write(context, bytes);
        self.watch.wrote(&written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.socket).poll_write_vectored(context, pieces);
        self.watch.wrote(&written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.socket.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.socket).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use futures_util::FutureExt as _;
    use http_body::Body as _;
    use http_body_util::Full;

    use super::*;
    use crate::body::Sending;
    use crate::limits::{HOSTS, USERS};

    #[test]
    fn a_connection_without_requests_ends() {
        let watch = Watch::new(USERS);
        assert_eq!(watch.verdict_at(10_000), Verdict::Stay);
        assert_eq!(watch.verdict_at(10_001), Verdict::Close("no request came"));
        let begun = watch.begin(false);
        assert_eq!(
            watch.verdict_at(3_000_000),
            Verdict::Stay,
            "a request may take as long as its app lets it"
        );
        drop(begun);
        assert_eq!(watch.verdict_at(75_000), Verdict::Stay, "load balancers keep theirs for a minute");
        assert_eq!(watch.verdict_at(76_000), Verdict::Leave);
        assert!(matches!(watch.verdict_at(151_000), Verdict::Close(_)));
        let begun = watch.begin(false);
        assert_eq!(watch.verdict_at(3_601_000), Verdict::Leave, "nothing lives for ever");
        assert!(matches!(watch.verdict_at(3_721_000), Verdict::Close(_)));
        drop(begun);
        let _begun = watch.begin(true);
        assert_eq!(watch.verdict_at(3_675_000), Verdict::Stay, "its next answer says that it is the last");
        assert_eq!(watch.verdict_at(3_795_000), Verdict::Leave, "which may have begun when it had been idle");
        assert!(matches!(watch.verdict_at(3_796_000), Verdict::Close(_)));
    }

    #[test]
    fn a_head_takes_so_long_also_when_it_is_not_the_first() {
        let watch = Watch::new(USERS);
        assert!(watch.read(100).is_ok());
        drop(watch.begin(true));
        assert_eq!(watch.verdict_at(20_000), Verdict::Stay, "nothing has come");
        assert!(watch.read(1).is_ok());
        assert_eq!(watch.verdict_at(22_000), Verdict::Stay);
        assert_eq!(watch.verdict_at(32_000), Verdict::Stay);
        assert_eq!(watch.verdict_at(32_001), Verdict::Close("the head of a request takes too long"));
        let begun = watch.begin(true);
        assert_eq!(watch.verdict_at(60_000), Verdict::Stay, "it was whole in time");
        drop(begun);
        assert!(watch.read(1).is_ok());
        assert_eq!(watch.verdict_at(61_000), Verdict::Stay, "each head has its own time");
        watch.begin(false).whole();
        assert!(watch.read(1).is_ok());
        assert_eq!(
            (watch.verdict_at(62_000), watch.verdict_at(74_000)),
            (Verdict::Stay, Verdict::Stay),
            "pings"
        );
    }

    #[test]
    fn a_client_that_does_not_read_is_left() {
        let watch = Watch::new(USERS);
        let mut begun = watch.begin(true);
        begun.gave();
        assert_eq!(watch.verdict_at(30_000), Verdict::Stay);
        assert_eq!(watch.verdict_at(31_000), Verdict::Close("the client does not read"));
        begun.asked();
        assert_eq!(watch.verdict_at(31_000), Verdict::Stay);

        watch.wrote(&Poll::Pending);
        assert_eq!(watch.verdict_at(31_000), Verdict::Close("the client does not read"));
        watch.wrote(&Poll::Ready(Ok(1)));
        assert_eq!(watch.verdict_at(31_000), Verdict::Stay);
        watch.blocked_ms.store(31_000, Relaxed);
        assert_eq!(
            watch.verdict_at(31_000),
            Verdict::Close("the client does not read"),
            "a byte now and then"
        );
        watch.wrote(&Poll::Ready(Ok(1_000_000)));
        assert_eq!(watch.verdict_at(31_000), Verdict::Stay, "it reads");
    }

    #[test]
    fn also_the_last_piece_of_an_answer_must_be_taken() {
        let watch = Watch::new(USERS);
        let body = Full::new(Bytes::from_static(b"small"));
        let mut sending = Sending::answer(body, watch.begin(true));
        let piece = Pin::new(&mut sending).poll_frame(&mut Context::from_waker(Waker::noop()));
        assert!(matches!(piece, Poll::Ready(Some(Ok(_)))) && sending.is_end_stream());
        assert_eq!(watch.verdict_at(30_000), Verdict::Stay);
        assert_eq!(watch.verdict_at(31_000), Verdict::Close("the client does not read"));
        drop(sending);
        assert_eq!(watch.verdict_at(31_000), Verdict::Stay, "it was taken");
    }

    #[tokio::test]
    async fn a_stream_that_nobody_reads_ends_and_no_other() {
        let watch = Watch::new(USERS);
        let [mut paused, mut read] = [(); 2].map(|()| watch.begin(false));
        let (end, other) = (paused.stream.clone().unwrap(), read.stream.clone().unwrap());
        paused.gave();
        read.gave();
        read.asked();
        watch.end_unread(30_000);
        assert!(end.notified().now_or_never().is_none(), "it has half a minute");
        watch.end_unread(31_000);
        assert!(end.notified().now_or_never().is_some() && other.notified().now_or_never().is_none());
        assert_eq!(watch.verdict_at(31_000), Verdict::Stay, "the connection has others");
    }

    #[test]
    fn bytes_that_belong_to_no_request_are_counted() {
        let watch = Watch::new(USERS);
        assert!(watch.read(CONTROL_BYTES_MAX).is_ok());
        assert!(watch.read(1).is_err());
        let _begun = watch.begin(false);
        assert!(watch.read(REQUEST_BYTES - 1).is_ok(), "a request pays for its head");
        watch.received(1 << 20);
        assert!(watch.read(1 << 20).is_ok(), "and for its body");
        watch.received(0);
        assert!(watch.read(FRAMING_BYTES).is_ok());
        assert!(watch.read(1).is_err(), "empty pieces pay for nothing");
    }

    #[test]
    fn who_gives_up_most_requests_is_left() {
        let watch = Watch::new(USERS);
        (0..=ABANDONED_MAX).for_each(|_| drop(watch.begin(false)));
        assert!(matches!(watch.verdict_at(1), Verdict::Close(_)));
        (0..=ABANDONED_MAX).for_each(|_| watch.begin(false).whole());
        assert_eq!(watch.verdict_at(1_000), Verdict::Stay, "a browser that cancels has others that end");
    }

    #[test]
    fn requests_that_end_hide_only_so_many_that_are_given_up() {
        let watch = Watch::new(USERS);
        for _ in 0..ABANDONED_MAX + ABANDONED_PER_S_MAX * 60 {
            drop(watch.begin(false));
            watch.begin(false).whole();
        }
        let _busy = watch.begin(false);
        assert_eq!(watch.verdict_at(60_000), Verdict::Stay, "a proxy has the requests of many");
        assert_eq!(watch.verdict_at(59_000), Verdict::Close("the client gives up its requests"));
    }

    #[test]
    fn an_order_only_becomes_stronger() {
        let mut watches = Watches::default();
        let watch = watches.add(USERS);
        let ordered = || watch.ordered(Waker::noop());
        assert!(watches.look() && ordered() == Verdict::Stay);
        watches.leave();
        assert!(
            watches.look() && ordered() == Verdict::Leave,
            "a look that finds nothing takes nothing back"
        );
        watch.tell(Verdict::Close("first"));
        watch.tell(Verdict::Close("second"));
        watches.leave();
        assert_eq!(ordered(), Verdict::Close("first"));
        drop(watch);
        assert!(!watches.look(), "nothing is kept of those who are gone");
    }

    #[test]
    fn a_body_has_a_pace() {
        let (second, watch) = (Duration::from_secs(1), Watch::new(USERS));
        let patience = |waited, bytes| watch.patience(waited, bytes);
        assert_eq!(patience(Duration::ZERO, 0), 20 * second);
        assert_eq!(patience(19 * second, 100), second + Duration::from_millis(200), "a byte now and then");
        assert_eq!(
            patience(1_000 * second, 10_000_000),
            20 * second,
            "no gap is longer, whatever came before"
        );
        assert_eq!(patience(30 * second, 0), Duration::ZERO);
        let host = Watch::new(HOSTS);
        assert!(host.patience(19 * second, 100) > patience(19 * second, 100), "a router is told first");
    }
}
