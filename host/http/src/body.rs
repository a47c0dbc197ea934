//! Bodies on their way in and out, each telling its connection's watch.
//!
//! [`Received`] is the client's: it must come at a pace, as far as anybody waits for it. [`Sending`] is the
//! answer's: it is noted when the client does not take what it was given.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use crate::watch::{Begun, Watch};

/// Why a request's body did not come whole.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// Less than it must have come in the time that it was waited for.
    #[error("the body of the request came too slowly")]
    Slow,
    /// The client went away, or sent what is no HTTP.
    #[error("the body of the request is broken")]
    Broken(#[source] hyper::Error),
}

/// The body of a request.
pub struct Received {
    incoming: Incoming,
    watch: Arc<Watch>,
    /// Runs while somebody waits for the client.
    waiting: Option<(Pin<Box<Sleep>>, Instant)>,
    waited: Duration,
    bytes: u64,
}

impl Received {
    pub(crate) fn new(incoming: Incoming, watch: Arc<Watch>) -> Self {
        Self { incoming, watch, waiting: None, waited: Duration::ZERO, bytes: 0 }
    }
}

impl Body for Received {
    type Data = Bytes;
    type Error = ReceiveError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, ReceiveError>>> {
        let this = &mut *self;
        let Poll::Ready(frame) = Pin::new(&mut this.incoming).poll_frame(context) else {
            let (waited, bytes) = (this.waited, this.bytes);
            let begin = || (Box::pin(sleep(this.watch.patience(waited, bytes))), Instant::now());
            let (deadline, _) = this.waiting.get_or_insert_with(begin);
            return deadline.as_mut().poll(context).map(|()| Some(Err(ReceiveError::Slow)));
        };
        if let Some((_, since)) = this.waiting.take() {
            this.waited += since.elapsed();
        }
        if let Some(Ok(frame)) = &frame {
            let bytes = frame.data_ref().map_or(0, Bytes::len);
            this.bytes += bytes as u64;
            this.watch.received(bytes);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(ReceiveError::Broken)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}

/// The body of a response: of whoever answers, or of a refusal of the server itself.
pub struct Sending<B> {
    body: Either<B>,
    begun: Begun,
}

enum Either<B> {
    Answer(B),
    Refusal(Full<Bytes>),
}

impl<B: Body> Sending<B> {
    pub(crate) fn answer(body: B, begun: Begun) -> Self {
        Self { body: Either::Answer(body), begun }.marked()
    }

    pub(crate) fn refusal(body: Full<Bytes>, begun: Begun) -> Self {
        Self { body: Either::Refusal(body), begun }.marked()
    }

    fn marked(mut self) -> Self {
        let is_whole = match &self.body {
            Either::Answer(body) => body.is_end_stream(),
            Either::Refusal(_) => true,
        };
        if is_whole {
            self.begun.whole();
        }
        self
    }
}

impl<B> Body for Sending<B>
where
    B: Body<Data = Bytes> + Unpin,
{
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = &mut *self;
        this.begun.asked();
        let frame = match &mut this.body {
            Either::Answer(body) => Pin::new(body).poll_frame(context),
            Either::Refusal(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
        };
        match &frame {
            Poll::Ready(Some(Ok(_))) => {
                if this.is_end_stream() {
                    this.begun.whole();
                }
                this.begun.gave(); // also the last piece: with HTTP/2 it waits for a window, and we with it
            }
            Poll::Ready(Some(Err(_)) | None) => this.begun.whole(), // no fault of the client's
            Poll::Pending => {}
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        match &self.body {
            Either::Answer(body) => body.is_end_stream(),
            Either::Refusal(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.body {
            Either::Answer(body) => body.size_hint(),
            Either::Refusal(body) => body.size_hint(),
        }
    }
}
