//! The time that a guest has run without letting go of its thread, and how it lets go.
//!
//! Whoever polls a guest opens a slice on its thread; the guest's clock (a callback at every epoch) and long host
//! functions look at it. Slices nest: a guest that calls another app of the host polls it, and what the inner one used is
//! not the outer one's.
//!
//! CPU time of a thread costs a system call (0.9 us on the machine of the benchmarks), the wall clock does not. So
//! a slice counts wall time while that is short. Of what seems long it counts no more than the CPU time that its thread used
//! and nobody was charged with, since it was read last, a millisecond ago at most: an app does not pay for time in which the
//! kernel gave the core to somebody else. Whether a slice is over is decided in the same way.

use std::cell::Cell;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustix::time::{ClockId, clock_gettime};

use super::cpu::Nanos;

/// A guest on one of the guests' threads that has used less CPU time than this goes on when its clock ticks, in nanoseconds.
/// With ticks of 1 ms a slice is 0.5 to 1.5 ms long.
const SLICE_NS_MIN: Nanos = 500_000;
/// The same on the task of its connection, where it costs two wake-ups to leave.
const SLICE_HERE_NS_MIN: Nanos = 1_000_000;
/// Wall time that is counted as it is, in nanoseconds. Of more, CPU time says how much of it was ours.
const SHORT_NS: Nanos = 150_000;
/// How long ago a thread's CPU time may have been read when a slice begins, in nanoseconds.
const KNOWN_NS_MAX: Nanos = 1_000_000;

/// Where a slice runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    /// The task of a connection.
    Connection,
    /// One of the guests' threads.
    GuestsThread,
}

impl On {
    /// How long a slice lasts at least.
    fn ns_min(self) -> Nanos {
        match self {
            Self::Connection => SLICE_HERE_NS_MIN,
            Self::GuestsThread => SLICE_NS_MIN,
        }
    }
}

/// A slice that is open.
#[derive(Clone, Copy)]
struct Open {
    /// What it used is counted up to here.
    since: Instant,
    /// What it used until then.
    used: Nanos,
    on: On,
    /// The guest gave way.
    yielded: bool,
}

/// CPU time of a thread, when it was read last.
#[derive(Clone, Copy)]
struct Known {
    at: Instant,
    cpu: Nanos,
    /// What slices counted since.
    counted: Nanos,
}

thread_local! {
    static OPEN: Cell<Option<Open>> = const { Cell::new(None) };
    static KNOWN: Cell<Option<Known>> = const { Cell::new(None) };
}

/// An open slice; [`Slice::end`] says what was used.
pub(super) struct Slice {
    outer: Option<Open>,
}

/// What a slice came to.
#[must_use = "somebody has to pay for it"]
pub struct Used {
    /// CPU time of the guest, and of the host for it.
    pub(super) ns: Nanos,
    /// When it ended.
    pub(super) at: Instant,
    /// It gave way, because its slice was over.
    pub(super) yielded: bool,
}

impl Slice {
    /// Opens one, now.
    pub(super) fn begin(now: Instant, on: On) -> Self {
        let mut outer = OPEN.get();
        if let Some(outer) = &mut outer {
            outer.count(now);
        }
        if KNOWN.get().is_none_or(|known| nanos(now.saturating_duration_since(known.at)) >= KNOWN_NS_MAX) {
            uncounted(now);
        }
        OPEN.set(Some(Open { since: now, used: 0, on, yielded: false }));
        Self { outer }
    }

    /// Closes it.
    pub(super) fn end(self) -> Used {
        let at = Instant::now();
        let Some(mut open) = OPEN.get() else { return Used { ns: 0, at, yielded: false } };
        open.count(at);
        Used { ns: open.used, at, yielded: open.yielded }
    }
}

impl Drop for Slice {
    /// Goes on with the outer one, also when what ran inside panicked.
    fn drop(&mut self) {
        OPEN.set(self.outer.map(|outer| Open { since: Instant::now(), ..outer }));
    }
}

impl Open {
    fn count(&mut self, now: Instant) {
        let wall = nanos(now.saturating_duration_since(self.since));
        self.used += if wall > SHORT_NS { wall.min(uncounted(now)) } else { counted(wall) };
        self.since = now;
    }
}

/// Remembers what a slice counts.
fn counted(used: Nanos) -> Nanos {
    if let Some(known) = KNOWN.get() {
        KNOWN.set(Some(Known { counted: known.counted + used, ..known }));
    }
    used
}

/// Reads the thread's CPU time. Says how much of it no slice has counted, of what was used since it was read before.
fn uncounted(now: Instant) -> Nanos {
    let cpu = thread_cpu_ns();
    let before = KNOWN.replace(Some(Known { at: now, cpu, counted: 0 }));
    before.map_or(0, |before| cpu.saturating_sub(before.cpu).saturating_sub(before.counted))
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
    open.count(Instant::now());
    OPEN.set(Some(open));
    Tick { used: open.used, is_over: open.used >= open.on.ns_min() }
}

/// Whether the guest on this thread has given way because its slice is over, and does not wait for anything else.
pub(crate) fn has_yielded() -> bool {
    OPEN.get().is_some_and(|open| open.yielded)
}

/// Gives way if the slice is over. Host functions that may run long on a guest's behalf await this
/// between their parts.
pub async fn give_way() {
    if tick().is_over {
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
        give_up_thread(cx);
        Poll::Pending
    }
}

fn give_up_thread(cx: &Context<'_>) {
    if let Some(open) = OPEN.get() {
        OPEN.set(Some(Open { yielded: true, ..open }));
    }
    cx.waker().wake_by_ref();
}

/// Leaves the task of the connection, if the guest is there, for the guests' threads.
pub(crate) async fn leave_connection() {
    std::future::poll_fn(|cx| {
        if OPEN.get().is_none_or(|open| open.on == On::GuestsThread) {
            return Poll::Ready(());
        }
        give_up_thread(cx); // again and again, where the guest is polled with others that are at work
        Poll::Pending
    })
    .await;
}

fn thread_cpu_ns() -> Nanos {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or(0) * 1_000_000_000 + nanos.unwrap_or(0)
}

pub(super) fn nanos(time: Duration) -> Nanos {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    /// Uses CPU time of this thread.
    pub(in super::super) fn work(ns: Nanos) {
        let begun = thread_cpu_ns();
        while thread_cpu_ns() - begun < ns {
            std::hint::spin_loop();
        }
    }

    /// Lets go of the core, as a thread does that others are preferred to.
    fn without_the_core(ns: Nanos) {
        std::thread::sleep(Duration::from_nanos(ns));
    }

    #[test]
    fn nobody_pays_for_time_without_the_core() {
        let slice = Slice::begin(Instant::now(), On::Connection);
        work(2 * MS);
        without_the_core(200 * MS);
        let used = slice.end().ns;
        assert!((2 * MS..100 * MS).contains(&used), "{used}");
    }

    #[test]
    fn what_a_slice_inside_used_is_not_the_outer_ones() {
        let outer = Slice::begin(Instant::now(), On::Connection);
        work(2 * MS);
        let inner = Slice::begin(Instant::now(), On::Connection);
        work(20 * MS);
        without_the_core(100 * MS);
        let inner = inner.end().ns;
        work(3 * MS);
        let outer = outer.end().ns;
        assert!((20 * MS..100 * MS).contains(&inner), "{inner}");
        assert!((5 * MS..20 * MS).contains(&outer), "{outer}");
    }

    #[test]
    fn a_tick_says_what_was_used_and_whether_the_slice_is_over() {
        for on in [On::Connection, On::GuestsThread] {
            let slice = Slice::begin(Instant::now(), on);
            assert!(!tick().is_over);
            work(on.ns_min());
            let tick = tick();
            assert!(tick.is_over && tick.used >= on.ns_min(), "{} on {on:?}", tick.used);
            assert!(slice.end().ns >= tick.used);
        }
        assert_eq!(tick().used, 0, "no slice is open");
    }
}
