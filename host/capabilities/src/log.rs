//! What guests say: `odeon:log`, standard output and standard error, line by line.
//!
//! A line goes into a [`Sink`] that must not block; the host's sink drops what exceeds its bounds and counts it.

use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use odeon_engine::State;
use tokio::io::AsyncWrite;
use wasmtime::AsContextMut as _;
use wasmtime::component::{Access, Linker};
use wasmtime_wasi::cli::{IsTerminal, StdoutStream};

use crate::{Granted, HasGranted};

/// Longest line, in bytes; the rest of it is cut.
pub const LINE_BYTES_MAX: usize = 8 << 10;
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

impl Line {
    /// What it takes, in bytes: the text, and the names of action and node.
    pub fn bytes(&self) -> usize {
        self.message.len() + self.origin.as_ref().map_or(0, |(action, node)| action.len() + node.len())
    }
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
        let request_id = self.0.request_id.clone();
        self.0.sink.take(Line { level, source, message, request_id, error_code, origin });
    }
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
pub struct Output(Arc<Mutex<RequestLog>>);

impl Output {
    /// Into this log.
    pub fn to(log: RequestLog) -> Self {
        Self(Arc::new(Mutex::new(log)))
    }
    /// Into another from now on.
    pub(crate) fn turn(&self, log: RequestLog) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = log;
    }
    pub(crate) fn stream(&self, source: &'static str) -> Stream {
        Stream { output: self.clone(), source }
    }
    fn log(&self) -> RequestLog {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Standard output or standard error: bytes become lines.
pub(crate) struct Stream {
    output: Output,
    source: &'static str,
}

impl IsTerminal for Stream {
    fn is_terminal(&self) -> bool {
        false
    }
}

impl StdoutStream for Stream {
    fn async_stream(&self) -> Box<dyn AsyncWrite + Send + Sync> {
        Box::new(LineWriter { output: self.output.clone(), source: self.source, rest: Vec::new() })
    }
}

struct LineWriter {
    output: Output,
    source: &'static str,
    rest: Vec<u8>,
}

impl LineWriter {
    fn line(&mut self) {
        if !self.rest.is_empty() {
            let text = String::from_utf8_lossy(&self.rest).into_owned();
            self.output.log().take(Level::Info, self.source, text, None, None);
            self.rest.clear();
        }
    }
}

impl AsyncWrite for LineWriter {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        for byte in bytes {
            if *byte == b'\n' {
                self.line();
            } else if self.rest.len() < LINE_BYTES_MAX {
                self.rest.push(*byte);
            }
        }
        Poll::Ready(Ok(bytes.len()))
    }
    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
    fn poll_shutdown(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line();
        Poll::Ready(Ok(()))
    }
}

impl Drop for LineWriter {
    fn drop(&mut self) {
        self.line(); // a guest that ended in the middle of a line still said it
    }
}
