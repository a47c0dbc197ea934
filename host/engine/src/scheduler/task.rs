//! A guest that left the task of its connection: it runs on the guests' threads, whenever it is its app's turn.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

use tokio::runtime::Handle;

use super::cpu::Nanos;
use super::fair::Advance;
use super::meter::Meter;
use super::slice::{On, Slice};
use super::{Shared, Turn};

/// What a task runs: it hands its result over by itself.
pub(super) type Work = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Nothing to do before it is woken.
const ASLEEP: u8 = 0;
/// In its app's queue.
const QUEUED: u8 = 1;
/// On a thread.
const RUNNING: u8 = 2;
/// On a thread, and woken meanwhile.
const WOKEN: u8 = 3;
/// Ended.
const DONE: u8 = 4;

/// See the module.
pub(super) struct Task {
    pub(super) meter: Arc<Meter>,
    work: Mutex<Option<Work>>,
    state: AtomicU8,
    cancelled: AtomicBool,
    /// Timers and sockets of the guest belong to it.
    runtime: Handle,
    shared: Weak<Shared>,
}

impl Task {
    pub(super) fn new(meter: Arc<Meter>, work: Work, runtime: Handle, shared: &Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            meter,
            work: Mutex::new(Some(work)),
            state: AtomicU8::new(ASLEEP),
            cancelled: AtomicBool::new(false),
            runtime,
            shared: Arc::downgrade(shared),
        })
    }

    /// Ends it: at once where it waits, at the end of its slice where it runs. Not on this thread, which may be one of the network's: to
    /// give back much memory takes milliseconds.
    pub(super) fn cancel(&self) {
        self.cancelled.store(true, Ordering::SeqCst);
        if let Some(work) = self.take_cancelled() {
            self.runtime.spawn_blocking(move || drop(work));
        }
    }

    /// The work of a cancelled task, unless a thread has it; that one looks again when it lets go.
    fn take_cancelled(&self) -> Option<Work> {
        let is_cancelled = self.cancelled.load(Ordering::SeqCst);
        self.work.try_lock().ok().filter(|_| is_cancelled)?.take()
    }

    /// Runs it for a slice, on this thread, which has a number.
    pub(super) fn run(self: &Arc<Self>, shared: &Shared, number: usize, advance: Advance) {
        self.state.store(RUNNING, Ordering::SeqCst);
        let (used, ended) = self.poll();
        let ended = ended || self.take_cancelled().is_some();
        let again = !ended
            && self.state.compare_exchange(RUNNING, ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_err();
        if ended {
            self.state.store(DONE, Ordering::SeqCst);
        } else if again {
            self.state.store(QUEUED, Ordering::SeqCst);
        }
        shared.ran(number, self, advance, used, again);
    }

    /// What it used, and whether it has ended.
    fn poll(self: &Arc<Self>) -> (Nanos, bool) {
        let _runtime = self.runtime.enter();
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
        let slice = Slice::begin(Instant::now(), On::GuestsThread);
        let waker = Waker::from(self.clone());
        let polled = match &mut *work {
            Some(work) if !self.cancelled.load(Ordering::SeqCst) => {
                let poll = AssertUnwindSafe(|| work.as_mut().poll(&mut Context::from_waker(&waker)));
                std::panic::catch_unwind(poll).unwrap_or(Poll::Ready(())) // whoever waits sees that it is gone
            }
            Some(_) | None => Poll::Ready(()),
        };
        let ended = polled.is_ready();
        if ended {
            drop(work.take()); // with its store: that, too, is the app's time
        }
        (slice.end().ns, ended)
    }
}

impl Wake for Task {
    fn wake(self: Arc<Self>) {
        loop {
            let state = self.state.load(Ordering::SeqCst);
            let next = match state {
                ASLEEP => QUEUED,
                RUNNING => WOKEN,
                _ => return,
            };
            if self.state.compare_exchange(state, next, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
                if next == QUEUED
                    && let Some(shared) = self.shared.upgrade()
                {
                    shared.push(&self.meter.cpu, Turn::There(self.clone()));
                }
                return;
            }
        }
    }
}
