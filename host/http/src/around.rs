//! What runs around each poll of what a connection does, and may time it.
//!
//! A connection is one task, and with HTTP/2 one more for each of its streams: hyper starts those by itself, through the
//! executor that it is given. What must stay true: whatever is polled for a client, in whichever task, is polled inside of
//! [`Around::run`].

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;

use hyper::rt::Executor;

use crate::watch::Watch;

/// Runs something around polls. A clone belongs to one task of a connection, and may remember what it learned there.
pub trait Around: Clone + Send + Sync + 'static {
    /// Calls `poll`, once.
    fn run(&mut self, poll: &mut dyn FnMut());
}

/// Nothing.
#[derive(Clone, Copy)]
pub(crate) struct Nothing;

impl Around for Nothing {
    fn run(&mut self, poll: &mut dyn FnMut()) {
        poll();
    }
}

/// Polls a task inside of `around`. The task goes to the heap first: it is large, and is moved once more when it is started.
pub(crate) fn inside<F: Future>(mut around: impl Around, task: F) -> impl Future<Output = F::Output> {
    let mut task = Box::pin(task);
    poll_fn(move |cx| {
        let mut polled = Poll::Pending;
        around.run(&mut || polled = task.as_mut().poll(cx));
        polled
    })
}

/// Starts tasks of a connection for hyper, and ends those of streams that are to end.
#[derive(Clone)]
pub(crate) struct Tasks<W> {
    pub(crate) around: W,
    pub(crate) watch: Arc<Watch>,
}

impl<W: Around, F> Executor<F> for Tasks<W>
where
    F: Future<Output = ()> + Send + 'static,
{
    fn execute(&self, task: F) {
        let task = inside(self.around.clone(), task);
        match self.watch.take_stream() {
            None => drop(tokio::spawn(task)),
            Some(end) => drop(tokio::spawn(async move {
                tokio::select! {
                    () = task => {}
                    () = end.notified() => {} // what is dropped is reset
                }
            })),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use std::cell::Cell;
    use std::convert::Infallible;
    use std::pin::Pin;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Context;

    use bytes::Bytes;
    use http::{Request, Response};
    use http_body::{Body, Frame};
    use http_body_util::{BodyExt as _, Empty};
    use hyper_util::client::legacy::Client;
    use hyper_util::rt::TokioExecutor;
    use tokio::net::TcpListener;

    use super::*;
    use crate::{Received, Stop, limits, serve_each};

    thread_local! {
        static INSIDE: Cell<bool> = const { Cell::new(false) };
    }

    #[derive(Clone)]
    struct Marked;

    impl Around for Marked {
        fn run(&mut self, poll: &mut dyn FnMut()) {
            INSIDE.set(true);
            poll();
            INSIDE.set(false);
        }
    }

    /// Polls of an answer and of its body that were not inside.
    #[derive(Clone, Default)]
    struct Outside(Arc<AtomicUsize>);

    impl Outside {
        fn look(&self) {
            self.0.fetch_add(usize::from(!INSIDE.get()), Ordering::SeqCst);
        }
    }

    /// A few parts, each after others had the thread.
    struct Parts {
        left: usize,
        has_waited: bool,
        outside: Outside,
    }

    impl Body for Parts {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            self.outside.look();
            if !std::mem::replace(&mut self.has_waited, true) {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Some(left) = self.left.checked_sub(1) else { return Poll::Ready(None) };
            (self.left, self.has_waited) = (left, false);
            Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"part")))))
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn whatever_is_polled_for_a_client_is_polled_inside() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let outside = Outside::default();
        let seen = outside.clone();
        let answer = move |_: Request<Received>, _| {
            let outside = seen.clone();
            async move {
                outside.look();
                tokio::task::yield_now().await;
                outside.look();
                Response::new(Parts { left: 3, has_waited: false, outside })
            }
        };
        let stop = Stop::default();
        let open = move || (answer.clone(), Marked);
        let server = tokio::spawn(serve_each(limits::HOSTS, listener, stop.clone(), open));
        for http2_only in [false, true] {
            let client = Client::builder(TokioExecutor::new()).http2_only(http2_only).build_http();
            let request = || Request::get(format!("http://{address}/")).body(Empty::<Bytes>::new()).unwrap();
            let (one, two) = tokio::join!(client.request(request()), client.request(request()));
            for answer in [one.unwrap(), two.unwrap()] {
                assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "partpartpart");
            }
        }
        stop.stop().await;
        server.await.unwrap();
        assert_eq!(outside.0.load(Ordering::SeqCst), 0);
    }
}
