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
        let again = !ended
            && self.state.compare_exchange(RUNNING, ASLEEP, Ordering::SeqCst, Ordering::SeqCst).is_err();
        if ended {
            self.state.store(DONE, Ordering::SeqCst);
        } else if again {
            self.state.store(QUEUED, Ordering::SeqCst);
        }
        shared.ran(number, self, advance, used, again);
    }

    /// What it used, and whether it has ended. Its work is dropped here and nowhere else on this thread, with its store and all that it holds:
    /// in its runtime, where what it leaves behind is looked after, and in its slice, which its app pays for.
    fn poll(self: &Arc<Self>) -> (Nanos, bool) {
        let _runtime = self.runtime.enter();
        let slice = Slice::begin(Instant::now(), On::GuestsThread);
        let ended = self.poll_work() || self.take_cancelled().is_some();
        (slice.end().ns, ended)
    }

    fn poll_work(self: &Arc<Self>) -> bool {
        let mut work = self.work.lock().unwrap_or_else(PoisonError::into_inner);
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
            drop(work.take());
        }
        ended
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use std::sync::OnceLock;

    use super::super::cpu::Cpu;
    use super::*;
    use crate::CpuShare;

    /// What a guest holds: it notes whether it is dropped where others can be told to clean up behind it.
    struct Held(Arc<OnceLock<bool>>);

    impl Drop for Held {
        fn drop(&mut self) {
            self.0.set(Handle::try_current().is_ok()).unwrap();
        }
    }

    #[test]
    fn who_is_cancelled_while_it_runs_ends_in_its_runtime() {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let (dropped, task) = (Arc::new(OnceLock::new()), Arc::new(OnceLock::<Weak<Task>>::new()));
        let work = {
            let (held, task) = (Held(dropped.clone()), task.clone());
            async move {
                let _held = held;
                task.get().unwrap().upgrade().unwrap().cancel(); // as its caller does, who went away meanwhile
                std::future::pending().await
            }
        };
        let cpu = Arc::new(Cpu::new(CpuShare { millicores: 250, burst_ms: None }));
        let made = Task {
            meter: Arc::new(Meter::new(cpu)),
            work: Mutex::new(Some(Box::pin(work))),
            state: AtomicU8::new(RUNNING),
            cancelled: AtomicBool::new(false),
            runtime: runtime.handle().clone(),
            shared: Weak::new(),
        };
        let made = Arc::new(made);
        task.set(Arc::downgrade(&made)).unwrap();
        assert!(made.poll().1, "it has ended");
        assert_eq!(dropped.get(), Some(&true));
    }
}
