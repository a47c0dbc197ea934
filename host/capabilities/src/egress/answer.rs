//! The body of another server's answer, with bounds: in all, and on the time between two pieces.
//!
//! The guest reads as it likes: only the time in which it waits for the server counts.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Sleep, sleep};
use wasmtime_wasi_http::Error;

use super::TOO_LARGE;
use super::send::error_of;
use crate::log::RequestLog;

/// Largest body of an answer, in bytes: half of an instance's memory.
pub(super) const ANSWER_BYTES_MAX: u64 = 64 << 20;

pub(super) struct Answer {
    incoming: Incoming,
    between_bytes: Duration,
    /// Runs while the server is waited for.
    waiting: Option<Pin<Box<Sleep>>>,
    left: u64,
    log: RequestLog,
}

impl Answer {
    pub(super) fn new(incoming: Incoming, between_bytes: Duration, log: RequestLog) -> Self {
        Self { incoming, between_bytes, waiting: None, left: ANSWER_BYTES_MAX, log }
    }
}

/// Tells the app, and says what its guest is told.
pub(super) fn too_large(log: &RequestLog) -> Error {
    log.denied(TOO_LARGE, || {
        format!("a server's answer has a body of more than {ANSWER_BYTES_MAX} bytes, and was cut")
    });
    Error::HttpResponseBodySize(Some(ANSWER_BYTES_MAX))
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Error>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(context) else {
            let between = this.between_bytes;
            let waiting = this.waiting.get_or_insert_with(|| Box::pin(sleep(between)));
            ready!(waiting.as_mut().poll(context));
            return Poll::Ready(Some(Err(Error::ConnectionReadTimeout)));
        };
        this.waiting = None;
        let frame = match frame {
            Some(Ok(frame)) => frame,
            Some(Err(error)) => return Poll::Ready(Some(Err(error_of(&error)))),
            None => return Poll::Ready(None),
        };
        let bytes = frame.data_ref().map_or(0, |data| data.len() as u64);
        let Some(left) = this.left.checked_sub(bytes) else {
            return Poll::Ready(Some(Err(too_large(&this.log))));
        };
        this.left = left;
        Poll::Ready(Some(Ok(frame)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
