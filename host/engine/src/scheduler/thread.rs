//! What one of the guests' threads does, as the others and the clock see it.
//!
//! A run may be long: to give back all of its memory takes a guest milliseconds in which it is not charged. So that others get their turn
//! meanwhile the clock asks what such a thread has used so far. That is its CPU time: the network takes the core from
//! guests for an eighth of the time or more, and who counted that as theirs would soon believe that it is everybody's turn.
//!
//! What must stay true: a run's CPU time is foreseen once, and what was foreseen is taken off what it is charged with.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use nix::time::{ClockId, clock_gettime};

use super::cpu::Nanos;
use super::slice::nanos;

/// All but its clock changes under the queue's lock.
#[derive(Default)]
pub(super) struct GuestsThread {
    /// Of its CPU time.
    clock: OnceLock<ClockId>,
    /// Since when it runs a guest, on the scheduler's clock; 0 while it runs none.
    since: AtomicU64,
    /// Its CPU time when the run began.
    began: AtomicU64,
    /// What was foreseen of this run.
    foreseen: AtomicU64,
}

impl GuestsThread {
    /// Tells that the caller is this thread.
    pub(super) fn is_this(&self) {
        self.clock.get_or_init(clock_of_this_thread);
    }

    /// Since when it runs a guest, if it does.
    pub(super) fn since(&self) -> Option<Nanos> {
        Some(self.since.load(Relaxed)).filter(|&since| since > 0)
    }

    /// A run begins.
    pub(super) fn begin(&self, now: Nanos) {
        self.began.store(self.cpu(), Relaxed);
        self.foreseen.store(0, Relaxed);
        self.since.store(now.max(1), Relaxed);
    }

    /// What its run has used that was not foreseen, and is from now on.
    pub(super) fn foresee(&self) -> Nanos {
        if self.since().is_none() {
            return 0;
        }
        let used = self.cpu().saturating_sub(self.began.load(Relaxed));
        used.saturating_sub(self.foreseen.fetch_max(used, Relaxed))
    }

    /// Its run ends. Says what was foreseen of it.
    pub(super) fn end(&self) -> Nanos {
        self.since.store(0, Relaxed);
        self.foreseen.load(Relaxed)
    }

    fn cpu(&self) -> Nanos {
        let time = self.clock.get().and_then(|&clock| clock_gettime(clock).ok());
        time.map_or(0, |time| nanos(time.into()))
    }
}

/// Linux makes the name of a thread's clock of its id and of what kind of clock it is: that of one thread (4), by the scheduler (2).
fn clock_of_this_thread() -> ClockId {
    let id = rustix::thread::gettid().as_raw_nonzero().get();
    ClockId::from_raw((!id << 3) | 4 | 2)
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::super::slice::tests::work;
    use super::*;

    const MS: Nanos = 1_000_000;

    #[test]
    fn others_see_what_a_run_used_once_and_not_what_it_waited() {
        let thread = GuestsThread::default();
        let (step, steps) = mpsc::channel();
        let (done, dones) = mpsc::channel();
        std::thread::scope(|scope| {
            let guests = &thread;
            scope.spawn(move || {
                guests.is_this();
                work(20 * MS); // before the run
                guests.begin(1);
                for _ in steps {
                    work(4 * MS);
                    done.send(()).unwrap();
                }
            });
            let mut foreseen = 0;
            for _ in 0..2 {
                step.send(()).unwrap();
                dones.recv().unwrap();
                let used = thread.foresee();
                assert!((4 * MS..15 * MS).contains(&used), "{used}");
                foreseen += used;
            }
            work(30 * MS); // of this thread, while that one waits
            let waited = thread.foresee();
            assert!(waited < 2 * MS, "{waited}");
            assert_eq!(thread.end(), foreseen + waited);
            assert_eq!(thread.foresee(), 0, "no run");
            drop(step);
        });
    }
}
