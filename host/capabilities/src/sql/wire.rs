//! Watches what the server sends, below the client library: a message begins with its type and its length,
//! so a row that is too large is refused when its first five bytes have come, before anyone buffers it.
//!
//! The same watch learns two things the library does not tell: the transaction state that ends every
//! answer (`ReadyForQuery`), and the tag of every finished command, by which a guest that changed its
//! session (`SET`, `LISTEN`, …) is found out, or tried to change what outlives it (`ALTER ROLE`, …).

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Largest message of the server, in bytes: the largest row.
pub const MESSAGE_BYTES_MAX: u32 = 16 << 20;
/// Most bytes of rows in one result, and of notices with it: an app has the server say as many as it likes.
pub const RESULT_BYTES_MAX: u64 = 64 << 20;
/// Type and length.
const HEADER_BYTES: usize = 5;
/// How much of a command tag is kept; enough to tell them apart.
const TAG_BYTES: usize = 6;
/// Commands that leave nothing behind in a session.
const CLEAN_TAGS: [&[u8]; 7] = [b"SELECT", b"INSERT", b"UPDATE", b"DELETE", b"MERGE ", b"BEGIN\0", b"ROLLBA"];
/// Leaves nothing behind in a session either, and is the host's to say.
const COMMIT_TAG: &[u8] = b"COMMIT";
/// Commands whose effect ends with the connection. Every other may leave something behind in the database that is no
/// row: a role may set its own password, and a `DO` block may do it where no tag tells.
const SESSION_TAGS: [&[u8]; 18] = [
    b"SET\0", b"RESET\0", b"SHOW\0", b"DECLAR", b"FETCH ", b"MOVE ", b"CLOSE ", b"SAVEPO", b"RELEAS",
    b"EXPLAI", b"LOCK T", b"PREPAR", b"DEALLO", b"DISCAR", b"LISTEN", b"UNLIST", b"NOTIFY", b"START ",
];

/// What the server last said of one connection.
#[derive(Debug, Default)]
pub struct Watch {
    transaction: AtomicU8,
    changed: AtomicBool,
    lasting: AtomicBool,
    committed: AtomicBool,
    result_bytes: AtomicU64,
    refused: OnceLock<String>,
}

impl Watch {
    /// `I` idle, `T` in a transaction, `E` in a failed one, 0 before the first answer.
    pub fn transaction(&self) -> u8 {
        self.transaction.load(Ordering::Acquire)
    }
    /// Whether a command ran that may have changed the session.
    pub fn changed(&self) -> bool {
        self.changed.load(Ordering::Acquire)
    }
    /// Whether a command ran that may have changed more than rows and the session.
    pub fn lasting(&self) -> bool {
        self.lasting.load(Ordering::Acquire)
    }
    /// Whether a transaction was committed since [`Watch::begin_statement`]. `COMMIT AND CHAIN` begins another at once, so the
    /// state does not tell.
    pub fn committed(&self) -> bool {
        self.committed.load(Ordering::Acquire)
    }
    /// Why the connection was given up, if we refused what came. The library only says that it is closed.
    pub fn refused(&self) -> Option<&str> {
        self.refused.get().map(String::as_str)
    }

    /// A statement of a guest comes. Preparing it may bring notices.
    pub fn begin_statement(&self) {
        self.begin_result();
        self.committed.store(false, Ordering::Release);
    }

    /// A new result begins.
    pub fn begin_result(&self) {
        self.result_bytes.store(0, Ordering::Release);
    }
}

/// A stream whose incoming side is watched.
pub struct Watched<S> {
    stream: S,
    watch: Arc<Watch>,
    parser: Parser,
}

impl<S> Watched<S> {
    /// Watches `stream`, from its very first byte on.
    pub fn new(stream: S, watch: Arc<Watch>) -> Self {
        Self { stream, watch, parser: Parser::default() }
    }
}

#[derive(Default)]
struct Parser {
    header: [u8; HEADER_BYTES],
    header_len: usize,
    kind: u8,
    body_left: u32,
    body_head: [u8; TAG_BYTES],
    body_len: usize,
}

impl Parser {
    fn feed(&mut self, mut bytes: &[u8], watch: &Watch) -> io::Result<()> {
        while !bytes.is_empty() {
            if self.body_left == 0 {
                let take = (HEADER_BYTES - self.header_len).min(bytes.len());
                self.header[self.header_len..self.header_len + take].copy_from_slice(&bytes[..take]);
                self.header_len += take;
                bytes = &bytes[take..];
                if self.header_len == HEADER_BYTES {
                    self.begin(watch)?;
                }
            } else {
                let take = bytes.len().min(self.body_left as usize);
                let keep = take.min(TAG_BYTES - self.body_len);
                self.body_head[self.body_len..self.body_len + keep].copy_from_slice(&bytes[..keep]);
                self.body_len += keep;
                self.body_left -= u32::try_from(take).unwrap_or(self.body_left);
                bytes = &bytes[take..];
                if self.body_left == 0 {
                    self.end(watch);
                }
            }
        }
        Ok(())
    }

    fn begin(&mut self, watch: &Watch) -> io::Result<()> {
        let [kind, length @ ..] = self.header;
        let length = u32::from_be_bytes(length);
        let body =
            length.checked_sub(4).ok_or_else(|| refuse("the server sent a malformed message".to_owned()))?;
        if length > MESSAGE_BYTES_MAX {
            return Err(refuse(format!("a row may have {MESSAGE_BYTES_MAX} bytes, not {length}")));
        }
        match kind {
            b'D' | b'N' => {
                let total =
                    watch.result_bytes.fetch_add(u64::from(length), Ordering::AcqRel) + u64::from(length);
                if total > RESULT_BYTES_MAX {
                    return Err(refuse(format!("a result may have {RESULT_BYTES_MAX} bytes")));
                }
            }
            b'G' | b'H' | b'W' => return Err(refuse("COPY is not given to apps".to_owned())),
            _ => {}
        }
        (self.kind, self.body_left, self.body_len, self.header_len) = (kind, body, 0, 0);
        if body == 0 {
            self.end(watch);
        }
        Ok(())
    }

    fn end(&mut self, watch: &Watch) {
        let head = &self.body_head[..self.body_len];
        match self.kind {
            b'Z' => watch.transaction.store(head.first().copied().unwrap_or(0), Ordering::Release),
            b'C' if head == COMMIT_TAG => watch.committed.store(true, Ordering::Release),
            b'C' if !CLEAN_TAGS.contains(&head) => {
                watch.changed.store(true, Ordering::Release);
                watch
                    .lasting
                    .fetch_or(!SESSION_TAGS.iter().any(|tag| head.starts_with(tag)), Ordering::AcqRel);
            }
            _ => {}
        }
    }
}

fn refuse(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

impl<S: AsyncRead + Unpin> AsyncRead for Watched<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let read = Pin::new(&mut self.stream).poll_read(cx, buffer);
        if let Poll::Ready(Ok(())) = read {
            let this = &mut *self;
            if let Err(error) = this.parser.feed(&buffer.filled()[before..], &this.watch) {
                let _ = this.watch.refused.set(error.to_string());
                return Poll::Ready(Err(error));
            }
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Watched<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind][..], &length.to_be_bytes(), body].concat()
    }

    #[test]
    fn state_and_tags_are_seen_however_the_bytes_are_cut() {
        let bytes =
            [message(b'C', b"SELECT 1\0"), message(b'Z', b"T"), message(b'C', b"SET\0"), message(b'Z', b"I")]
                .concat();
        for cut in 1..bytes.len() {
            let (watch, mut parser) = (Watch::default(), Parser::default());
            parser.feed(&bytes[..cut], &watch).unwrap();
            parser.feed(&bytes[cut..], &watch).unwrap();
            assert_eq!((watch.transaction(), watch.changed()), (b'I', true), "cut at {cut}");
        }
    }

    #[test]
    fn what_outlives_a_session_is_told_apart() {
        for (tag, lasting) in [
            (&b"SET\0"[..], false),
            (b"DECLARE CURSOR\0", false),
            (b"FETCH 10\0", false),
            (b"MOVE 3\0", false),
            (b"ALTER ROLE\0", true),
            (b"DO\0", true),
            (b"COMMENT\0", true),
        ] {
            let (watch, mut parser) = (Watch::default(), Parser::default());
            parser.feed(&message(b'C', tag), &watch).unwrap();
            assert_eq!((watch.changed(), watch.lasting()), (true, lasting), "{tag:?}");
        }
    }

    #[test]
    fn a_commit_is_seen_though_the_state_stays() {
        let (watch, mut parser) = (Watch::default(), Parser::default());
        let chained = [message(b'C', b"COMMIT\0"), message(b'Z', b"T")].concat();
        parser.feed(&chained, &watch).unwrap();
        assert_eq!((watch.committed(), watch.changed(), watch.transaction()), (true, false, b'T'));
        watch.begin_statement();
        parser.feed(&message(b'C', b"ROLLBACK\0"), &watch).unwrap(); // TO SAVEPOINT, says the same
        assert!(!watch.committed());
    }

    #[test]
    fn a_huge_row_is_refused_by_its_header_alone() {
        let header = [&[b'D'][..], &(MESSAGE_BYTES_MAX + 1).to_be_bytes()].concat();
        let error = Parser::default().feed(&header, &Watch::default()).unwrap_err();
        assert!(error.to_string().starts_with("a row may have 16777216 bytes"), "{error}");
    }

    #[test]
    fn many_rows_are_refused_by_their_sum() {
        let (watch, mut parser) = (Watch::default(), Parser::default());
        let row = message(b'D', &vec![0; 1 << 20]);
        let refused = (0..=RESULT_BYTES_MAX >> 20).any(|_| parser.feed(&row, &watch).is_err());
        assert!(refused);
    }

    #[test]
    fn notices_count_as_rows_do() {
        let (watch, mut parser) = (Watch::default(), Parser::default());
        let both = [message(b'N', &vec![0; 1 << 19]), message(b'D', &vec![0; 1 << 19])].concat();
        let taken = (0..=RESULT_BYTES_MAX >> 20).take_while(|_| parser.feed(&both, &watch).is_ok()).count();
        assert_eq!(u64::try_from(taken).unwrap(), (RESULT_BYTES_MAX >> 20) - 1, "with their headers");
        watch.begin_statement();
        Parser::default().feed(&both, &watch).unwrap();
    }

    #[test]
    fn copy_is_refused() {
        assert!(Parser::default().feed(&message(b'H', b"\0\0\0"), &Watch::default()).is_err());
    }
}
