//! Bodies of responses that are whole when their guest has ended, which most are.
//!
//! Such a body is handed over in one piece, with its length: it leaves in one write with the head, and nobody on the way has to
//! put chunks together. What is not there yet, or is large, or has trailers, goes on as the stream that it is, and what its
//! guest did not finish must never look whole: a store that is dropped ends its streams as if all had been said.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker, ready};

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as _, Frame, SizeHint};

use crate::app::Body;

/// Largest body that is handed over in one piece, in bytes.
const WHOLE_BYTES_MAX: usize = 64 << 10;

type Part = Result<Frame<Bytes>, wasmtime_wasi_http::Error>;

/// Takes what is there of a body.
pub(crate) fn whole_if_here(mut body: Body) -> Body {
    let mut context = Context::from_waker(Waker::noop()); // whoever polls next brings another
    let mut next = || Pin::new(&mut body).poll_frame(&mut context);
    // Most have one part, for which nothing is collected.
    let mut last = match next() {
        Poll::Ready(None) => return whole(Bytes::new()),
        Poll::Ready(Some(part)) => part,
        Poll::Pending => return body,
    };
    let mut bytes = data_of(&last).map_or(0, Bytes::len);
    let mut parts = VecDeque::new();
    while bytes <= WHOLE_BYTES_MAX && data_of(&last).is_some() {
        match next() {
            Poll::Ready(None) => return whole(joined(parts, last, bytes)),
            Poll::Ready(Some(part)) => {
                bytes += data_of(&part).map_or(0, Bytes::len);
                parts.push_back(std::mem::replace(&mut last, part));
            }
            Poll::Pending => break,
        }
    }
    parts.push_back(last);
    Begun { parts, rest: body }.boxed_unsync()
}

/// None of trailers, and of an error.
fn data_of(part: &Part) -> Option<&Bytes> {
    part.as_ref().ok().and_then(Frame::data_ref)
}

fn joined(before: VecDeque<Part>, last: Part, bytes: usize) -> Bytes {
    let data = |part: Part| part.ok()?.into_data().ok();
    if before.is_empty() {
        return data(last).unwrap_or_default();
    }
    let mut all = BytesMut::with_capacity(bytes);
    before.into_iter().chain([last]).filter_map(data).for_each(|part| all.extend_from_slice(&part));
    all.freeze()
}

fn whole(bytes: Bytes) -> Body {
    Full::new(bytes).map_err(|never| match never {}).boxed_unsync()
}

/// Held by a guest while it works; whether it ended well must be said.
pub(crate) struct Ended {
    pub(crate) is_well: bool,
    failed: Arc<AtomicBool>,
}

/// Whether a guest failed, or was dropped in the middle.
pub(crate) struct Failed(Arc<AtomicBool>);

impl Ended {
    pub(crate) fn new() -> (Self, Failed) {
        let failed = Arc::new(AtomicBool::new(false));
        (Self { is_well: false, failed: failed.clone() }, Failed(failed))
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.failed.store(!self.is_well, Ordering::Release);
    }
}

impl Failed {
    /// A body that breaks where the guest has failed.
    pub(crate) fn cuts(self, body: Body) -> Body {
        Cut { body, failed: self }.boxed_unsync()
    }
}

struct Cut {
    body: Body,
    failed: Failed,
}

impl hyper::body::Body for Cut {
    type Data = Bytes;
    type Error = wasmtime_wasi_http::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Part>> {
        let part = ready!(Pin::new(&mut self.body).poll_frame(context));
        Poll::Ready(match part {
            None if self.failed.0.load(Ordering::Acquire) => Some(Err(broken())),
            part => part,
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What the reader of a body is told that its guest did not finish.
pub(crate) fn broken() -> wasmtime_wasi_http::Error {
    wasmtime_wasi_http::Error::HttpResponseIncomplete
}

/// A body of which some parts were taken already.
struct Begun {
    parts: VecDeque<Part>,
    rest: Body,
}

impl hyper::body::Body for Begun {
    type Data = Bytes;
    type Error = wasmtime_wasi_http::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Part>> {
        match self.parts.pop_front() {
            Some(part) => Poll::Ready(Some(part)),
            None => Pin::new(&mut self.rest).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        if self.parts.is_empty() { self.rest.size_hint() } else { SizeHint::default() }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::StreamBody;
    use tokio::sync::mpsc;

    use super::*;

    fn of(parts: Vec<Part>) -> Body {
        StreamBody::new(futures_util::stream::iter(parts)).boxed_unsync()
    }

    fn data(text: &'static str) -> Part {
        Ok(Frame::data(Bytes::from_static(text.as_bytes())))
    }

    #[tokio::test]
    async fn what_is_there_is_handed_over_in_one_piece_with_its_length() {
        for (parts, expect) in
            [(vec![], ""), (vec![data("one")], "one"), (vec![data("one "), data("two")], "one two")]
        {
            let body = whole_if_here(of(parts));
            assert_eq!(body.size_hint().exact(), Some(expect.len() as u64));
            assert_eq!(body.collect().await.unwrap().to_bytes(), expect);
        }
    }

    #[tokio::test]
    async fn what_is_not_there_yet_follows() {
        let (sender, mut receiver) = mpsc::channel(4);
        sender.send(data("now, ")).await.unwrap();
        let parts = futures_util::stream::poll_fn(move |cx| receiver.poll_recv(cx));
        let body = whole_if_here(StreamBody::new(parts).boxed_unsync());
        assert_eq!(body.size_hint().exact(), None);
        let rest = tokio::spawn(async move { sender.send(data("later")).await.unwrap() });
        assert_eq!(body.collect().await.unwrap().to_bytes(), "now, later");
        rest.await.unwrap();
    }

    #[tokio::test]
    async fn large_bodies_trailers_and_errors_stay_streams() {
        let piece = "x".repeat(40 << 10).leak();
        let body = whole_if_here(of(vec![data(piece), data(piece), data(piece)]));
        assert_eq!(body.size_hint().exact(), None);
        assert_eq!(body.collect().await.unwrap().to_bytes().len(), 120 << 10);
        let trailers =
            http::HeaderMap::from_iter([(http::header::ETAG, http::HeaderValue::from_static("1"))]);
        let body = whole_if_here(of(vec![data("a"), Ok(Frame::trailers(trailers))]));
        assert_eq!(body.collect().await.unwrap().trailers().unwrap()[http::header::ETAG], "1");
        let code = wasmtime_wasi_http::Error::HttpResponseTimeout;
        assert!(whole_if_here(of(vec![data("a"), Err(code)])).collect().await.is_err());
    }
}
