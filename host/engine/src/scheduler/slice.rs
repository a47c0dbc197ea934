//! The time that a guest has run without letting go of its thread, and how it lets go.
//!
//! Whoever polls a guest opens a slice on its thread; the guest's clock (a callback at every epoch) and long host
//! functions look at it. Slices nest: a guest that calls another app of the host polls it, and what the inner one used is
//! not the outer one's.
//!
//! CPU time of a thread costs a system call (0.9 us on the machine of the benchmarks), the wall clock does not. So
//! a slice counts wall time until the guest's first tick, which can only be more than what it used, and CPU time from there
//! on. Whether it is over is decided by CPU time alone: a guest that the kernel took its core from has not had its slice.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::cpu::Nanos;

/// A guest that has used less CPU time than this since its slice is measured goes on when its clock ticks, in nanoseconds.
/// With ticks of 1 ms a slice is 0.5 to 1.5 ms long, and up to 1 ms longer where it is measured from its first tick.
const SLICE_NS_MIN: Nanos = 500_000;

/// A slice that is open.
#[derive(Clone, Copy)]
struct Open {
    /// When this guest began.
    began: Instant,
    /// From here on CPU time counts: when that was, and the thread's CPU time then.
    exact: Option<(Instant, Nanos)>,
    /// What slices inside this one used.
    inside: Nanos,
    /// The guest gave way.
    yielded: bool,
}

thread_local! {
    static OPEN: Cell<Option<Open>> = const { Cell::new(None) };
}

/// An open slice; [`Slice::end`] says what was used.
pub(super) struct Slice {
    outer: Option<Open>,
}

/// What a slice came to.
pub(super) struct Used {
    /// CPU time of the guest, and of the host for it.
    pub(super) ns: Nanos,
    /// When it ended.
    pub(super) at: Instant,
    /// It gave way, because its slice was over.
    pub(super) yielded: bool,
}

impl Slice {
    /// Opens one, now. `exact` reads the thread's CPU time at once: for threads on which the kernel lets others go first.
    pub(super) fn begin(now: Instant, exact: bool) -> Self {
        let outer = OPEN.get();
        OPEN.set(Some(Open {
            began: now,
            exact: exact.then(|| (now, thread_cpu_ns())),
            inside: 0,
            yielded: false,
        }));
        Self { outer }
    }

    /// Closes it.
    pub(super) fn end(self) -> Used {
        let at = Instant::now();
        let Some(open) = OPEN.replace(self.outer) else { return Used { ns: 0, at, yielded: false } };
        let all = open.used(at);
        if let Some(mut outer) = self.outer {
            outer.inside += all;
            OPEN.set(Some(outer));
        }
        Used { ns: all.saturating_sub(open.inside), at, yielded: open.yielded }
    }
}

impl Open {
    fn used(&self, now: Instant) -> Nanos {
        match self.exact {
            None => nanos(now.saturating_duration_since(self.began)),
            Some(_) => self.used_until(thread_cpu_ns()),
        }
    }

    fn used_until(&self, cpu: Nanos) -> Nanos {
        let (at, from) = self.exact.unwrap_or((self.began, cpu));
        nanos(at.duration_since(self.began)) + cpu.saturating_sub(from)
    }
}

/// What a guest learns at a tick of its clock.
pub(crate) struct Tick {
    /// CPU time in this slice.
    pub(crate) used: Nanos,
    /// It should let others run.
    pub(crate) is_over: bool,
}

/// Looks at the slice of this thread.
pub(crate) fn tick() -> Tick {
    let Some(mut open) = OPEN.get() else { return Tick { used: 0, is_over: false } };
    let cpu = thread_cpu_ns();
    let (_, exact_from) = *open.exact.get_or_insert_with(|| (Instant::now(), cpu));
    OPEN.set(Some(open));
    Tick {
        used: open.used_until(cpu).saturating_sub(open.inside),
        is_over: cpu.saturating_sub(exact_from) >= SLICE_NS_MIN,
    }
}

/// Whether the guest on this thread has given way because its slice is over, and does not wait for anything else.
pub(crate) fn has_yielded() -> bool {
    OPEN.get().is_some_and(|open| open.yielded)
}

/// Gives way if the slice is over. Host functions that may run long on a guest's behalf await this
/// between their parts.
pub async fn give_way() {
    // The wall clock first, because it costs nothing.
    let is_long = OPEN.get().is_some_and(|open| nanos(open.began.elapsed()) >= SLICE_NS_MIN);
    if is_long && tick().is_over {
        Yield::new().await;
    }
}

/// Lets go of the thread once.
pub(crate) struct Yield {
    gone: bool,
}

impl Yield {
    pub(crate) fn new() -> Self {
        Self { gone: false }
    }
}

impl Future for Yield {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        if self.gone {
            return Poll::Ready(());
        }
        self.gone = true;
        if let Some(open) = OPEN.get() {
            OPEN.set(Some(Open { yielded: true, ..open }));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

fn thread_cpu_ns() -> Nanos {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000_000 + nanos.unwrap_or(0)
}

fn nanos(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
