//! What guests say: `odeon:log`, standard output and standard error, line by line.
//!
//! A line goes into a [`Sink`] that must not block; the host's sink drops what exceeds its bounds and counts it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use odeon_engine::State;
use tokio::io::AsyncWrite;
use wasmtime::AsContextMut as _;
use wasmtime::component::{Access, Linker};
use wasmtime_wasi::async_trait;
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};
use wasmtime_wasi::p2::{OutputStream, Pollable, StreamError, StreamResult};

use crate::{Granted, HasGranted};

/// Longest line, in bytes; the rest of it is cut.
pub const LINE_BYTES_MAX: usize = 8 << 10;
/// Most that a guest writes at once to its standard output or error, in bytes: it may be as many lines, and nothing interrupts them.
const WRITE_BYTES_MAX: usize = 4 << 10;
/// Longest name of an action or a node, in bytes; the rest of it is cut.
const NAME_BYTES_MAX: usize = 256;

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit/log.wit",
        world: "imports",
        imports: { default: store | trappable },
    });
}

use bindings::odeon::log::logging::{self, Level as GuestLevel, Origin};

/// How much a line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For the app's author.
    Debug,
    /// Ordinary.
    Info,
    /// Worth a look.
    Warning,
    /// A request failed.
    Error,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Level.
    pub level: Level,
    /// `stdout`, `stderr`, `app` or `host`.
    pub source: &'static str,
    /// The text.
    pub message: String,
    /// The request.
    pub request_id: String,
    /// Error code of a failed request.
    pub error_code: Option<&'static str>,
    /// Action and node of the model.
    pub origin: Option<(String, String)>,
}

/// Takes lines, without blocking.
pub trait Sink: Send + Sync + 'static {
    /// Takes one line, or drops it.
    fn take(&self, line: Line);
}

/// The log of one request.
#[derive(Clone)]
pub struct RequestLog(Arc<Logged>);

/// A request, and where its lines go.
struct Logged {
    sink: Arc<dyn Sink>,
    request_id: String,
    /// Something was denied to it, and its log says so.
    told: AtomicBool,
}

impl RequestLog {
    /// The log of the request with this id.
    pub fn new(sink: Arc<dyn Sink>, request_id: &str) -> Self {
        Self(Arc::new(Logged { sink, request_id: request_id.to_owned(), told: AtomicBool::new(false) }))
    }
    /// The request.
    pub fn request_id(&self) -> &str {
        &self.0.request_id
    }
    /// Something that was denied to the guest. Only the first is told: a guest in a loop would fill the log.
    pub(crate) fn denied(&self, code: &'static str, message: impl FnOnce() -> String) {
        if !self.0.told.swap(true, Ordering::Relaxed) {
            self.host_line(code, message(), None);
        }
    }
    /// A failed request, told by the host, with action and node where they are known.
    pub fn host_line(&self, code: &'static str, message: String, origin: Option<(String, String)>) {
        self.take(Level::Error, "host", message, Some(code), origin);
    }
    fn take(
        &self,
        level: Level,
        source: &'static str,
        mut message: String,
        error_code: Option<&'static str>,
        origin: Option<(String, String)>,
    ) {
        cut(&mut message, LINE_BYTES_MAX);
        if message.contains(controls) {
            message = message.replace(controls, "\u{fffd}"); // a terminal would do what they say
            cut(&mut message, LINE_BYTES_MAX);
        }
        let request_id = self.0.request_id.clone();
        self.0.sink.take(Line { level, source, message, request_id, error_code, origin });
    }
}

/// What is no text, and nothing between texts.
fn controls(character: char) -> bool {
    character.is_control() && character != '\n' && character != '\t'
}

/// Cuts a text, and gives back the memory of what was cut: a guest may say much at a time.
fn cut(text: &mut String, bytes_max: usize) {
    if text.len() > bytes_max {
        text.truncate(text.floor_char_boundary(bytes_max));
        text.shrink_to_fit();
    }
}

impl logging::Host for Granted {}

impl logging::HostWithStore<State<Granted>> for HasGranted {
    fn log(
        mut access: Access<'_, State<Granted>, Self>,
        level: GuestLevel,
        message: String,
        origin: Origin,
    ) -> wasmtime::Result<()> {
        odeon_engine::turn_to_caller(&mut access.as_context_mut())?;
        let level = match level {
            GuestLevel::Debug => Level::Debug,
            GuestLevel::Info => Level::Info,
            GuestLevel::Warning => Level::Warning,
            GuestLevel::Error => Level::Error,
        };
        let Origin { mut action, mut node } = origin;
        cut(&mut action, NAME_BYTES_MAX);
        cut(&mut node, NAME_BYTES_MAX);
        let origin = (!action.is_empty()).then_some((action, node));
        access.get().log.take(level, "app", message, None, origin);
        Ok(())
    }
}

pub(crate) fn add_to_linker(linker: &mut Linker<State<Granted>>) -> wasmtime::Result<()> {
    logging::add_to_linker::<_, HasGranted>(linker, |state| &mut state.capabilities)
}

/// Where standard output and standard error go: the log of the request that an instance serves now.
#[derive(Clone)]
pub struct Output(Arc<Mutex<Lines>>);

/// What standard output and standard error have said of a line: each is one text, through however many streams it comes.
struct Lines {
    log: RequestLog,
    stdout: Vec<u8>,
    stderr: Vec<u8>,
}

/// One of the two.
#[derive(Clone, Copy)]
pub(crate) enum Source {
    Stdout,
    Stderr,
}

impl Output {
    /// Into this log.
    pub fn to(log: RequestLog) -> Self {
        Self(Arc::new(Mutex::new(Lines { log, stdout: Vec::new(), stderr: Vec::new() })))
    }
    /// Into another from now on.
    pub(crate) fn turn(&self, log: RequestLog) {
        let mut lines = self.lines();
        lines.end();
        lines.log = log;
    }
    /// A guest that ended in the middle of a line still said it.
    pub(crate) fn end(&self) {
        self.lines().end();
    }
    pub(crate) fn stream(&self, source: Source) -> Stream {
        Stream { output: self.clone(), source }
    }
    fn lines(&self) -> MutexGuard<'_, Lines> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lines {
    fn of(&mut self, source: Source) -> &mut Vec<u8> {
        match source {
            Source::Stdout => &mut self.stdout,
            Source::Stderr => &mut self.stderr,
        }
    }
    fn write(&mut self, source: Source, bytes: &[u8]) {
        for (ends, part) in bytes.split(|byte| *byte == b'\n').enumerate() {
            if ends > 0 {
                self.line(source);
            }
            let line = self.of(source);
            let room = LINE_BYTES_MAX.saturating_sub(line.len());
            line.extend_from_slice(&part[..part.len().min(room)]);
        }
    }
    fn line(&mut self, source: Source) {
        let line = std::mem::take(self.of(source));
        if !line.is_empty() {
            let name = match source {
                Source::Stdout => "stdout",
                Source::Stderr => "stderr",
            };
            self.log.take(Level::Info, name, String::from_utf8_lossy(&line).into_owned(), None, None);
        }
    }
    fn end(&mut self) {
        self.line(Source::Stdout);
        self.line(Source::Stderr);
    }
}

impl Drop for Lines {
    fn drop(&mut self) {
        self.end();
    }
}

/// Standard output or standard error: bytes become lines.
#[derive(Clone)]
pub(crate) struct Stream {
    output: Output,
    source: Source,
}

impl IsTerminal for Stream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stream {
    /// The default writes in a task of its own, for which nobody pays, and which may come after the request.
    fn p2_stream(&self) -> Box<dyn OutputStream> {
        Box::new(self.clone())
    }
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(self.clone())
    }
}

/// What a guest writes is taken in its own call: its time is the app's.
impl OutputStream for Stream {
    fn write(&mut self, bytes: Bytes) -> StreamResult<()> {
        if bytes.len() > WRITE_BYTES_MAX {
            return Err(StreamError::trap("it writes more than it may at once"));
        }
        self.output.lines().write(self.source, &bytes);
        Ok(())
    }
    fn flush(&mut self) -> StreamResult<()> {
        Ok(())
    }
    fn check_write(&mut self) -> StreamResult<usize> {
        Ok(WRITE_BYTES_MAX)
    }
}

#[async_trait]
impl Pollable for Stream {
    async fn ready(&mut self) {}
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.output.lines().write(self.source, bytes);
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use super::*;

    #[derive(Default)]
    struct Kept(Mutex<Vec<(&'static str, String, String)>>);

    impl Sink for Kept {
        fn take(&self, line: Line) {
            self.0.lock().unwrap().push((line.source, line.message, line.request_id));
        }
    }

    #[test]
    fn a_line_may_come_through_many_streams_and_is_of_one_request() {
        let kept = Arc::new(Kept::default());
        let output = Output::to(RequestLog::new(kept.clone(), "1"));
        // Each through a stream of its own, and at once: there is no task that could write later.
        let write =
            |source, text: &'static str| output.stream(source).p2_stream().write(text.into()).unwrap();
        write(Source::Stdout, "a");
        write(Source::Stderr, "e");
        write(Source::Stdout, "b\nc");
        output.turn(RequestLog::new(kept.clone(), "2"));
        write(Source::Stdout, "\n\u{1b}[2Jd\u{7}\t");
        let much = Bytes::from("\n".repeat(WRITE_BYTES_MAX + 1));
        assert!(output.stream(Source::Stdout).p2_stream().write(much).is_err(), "nothing would interrupt it");
        drop(output);
        let line = |source, message: &str, id: &str| (source, message.to_owned(), id.to_owned());
        let expected = [
            line("stdout", "ab", "1"),
            line("stdout", "c", "1"),
            line("stderr", "e", "1"),
            line("stdout", "\u{fffd}[2Jd\u{fffd}\t", "2"),
        ];
        assert_eq!(*kept.0.lock().unwrap(), expected);
    }

    #[test]
    fn a_line_has_so_many_bytes_whatever_it_says() {
        let kept = Arc::new(Kept::default());
        let log = RequestLog::new(kept.clone(), "1");
        for text in ["x", "\u{1}", "\u{e9}"] {
            log.host_line("OS-BERT-50001", text.repeat(LINE_BYTES_MAX), None);
        }
        let kept = kept.0.lock().unwrap();
        assert!(
            kept.iter().all(|(_, message, _)| (LINE_BYTES_MAX - 4..=LINE_BYTES_MAX).contains(&message.len()))
        );
    }
}
