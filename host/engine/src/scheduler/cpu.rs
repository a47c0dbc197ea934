//! What one app may take of a host's CPUs, and what it took.
//!
//! The share is a weight where apps compete and a rate over time. The rate is kept by the generic cell rate algorithm
//! (ITU-T I.371): one number, the time at which everything that was used is paid for, with no bucket to refill. An
//! app may run that far ahead of its rate as its burst allows; past that it waits.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

/// Nanoseconds of a clock that only goes forward.
pub type Nanos = u64;

/// Smallest share, in millicores: below it, numbers of virtual time would overflow within years.
pub const SHARE_MILLICORES_MIN: u32 = 10;
/// CPU time that a run of an app is expected to take before one was seen, in nanoseconds.
const EXPECTED_NS: Nanos = 200_000;
/// Bounds of what a run is expected to take, in nanoseconds. Longer runs are cut into slices.
const EXPECTED_NS_RANGE: (Nanos, Nanos) = (20_000, 1_000_000);
/// Runs that are expected to take this much are long, in nanoseconds: half a slice, beside which changing threads costs little.
const LONG_RUN_NS: Nanos = 500_000;
/// How much of an expectation a shorter run makes: one part of so many.
const EXPECTED_PARTS: Nanos = 8;
/// A longer run is believed at once, up to so many times the expectation, so that nobody passes for quick by and by. One is not enough to pass
/// for long: a virtual machine that stands still for a millisecond makes a long run of any.
const EXPECTED_GROWTH: Nanos = 2;

/// An app's share of a host's CPUs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CpuShare {
    /// Weight where apps compete, and CPU time per second that the app may use for ever: 1000 is one core.
    pub millicores: u32,
    /// CPU time that the app may use beyond its share at a stretch, in milliseconds; it comes back at the rate of the
    /// share. `None`: as much as nobody else wants.
    pub burst_ms: Option<u64>,
}

/// The CPU account of one app on one host.
#[derive(Debug)]
pub struct Cpu {
    millicores: AtomicU32,
    /// How far [`Cpu::paid_at`] may lie ahead, in nanoseconds; `u64::MAX` for ever.
    ahead_ns_max: AtomicU64,
    /// When everything that was used is paid for, at the rate of the share.
    paid_at: AtomicU64,
    used_ns: AtomicU64,
    throttled_ns: AtomicU64,
    // What follows is the scheduler's, and changes under its lock only.
    /// Start tag: virtual time up to which the app has had its share.
    pub(super) start: AtomicU64,
    /// What a run of it takes, in nanoseconds; short runs have early deadlines.
    pub(super) expected_ns: AtomicU64,
}

impl Cpu {
    /// An account that has used nothing.
    pub fn new(share: CpuShare) -> Self {
        let cpu = Self {
            millicores: AtomicU32::new(0),
            ahead_ns_max: AtomicU64::new(0),
            paid_at: AtomicU64::new(0),
            used_ns: AtomicU64::new(0),
            throttled_ns: AtomicU64::new(0),
            start: AtomicU64::new(0),
            expected_ns: AtomicU64::new(EXPECTED_NS),
        };
        cpu.set_share(share);
        cpu
    }

    /// Gives another share from now on. One that differs begins with its whole burst: debts at another rate mean nothing.
    pub fn set_share(&self, share: CpuShare) {
        let millicores = share.millicores.max(SHARE_MILLICORES_MIN);
        let ahead =
            share.burst_ms.map_or(u64::MAX, |ms| at_rate(ms.saturating_mul(1_000_000), millicores).max(1));
        let before = (self.millicores.swap(millicores, Relaxed), self.ahead_ns_max.swap(ahead, Relaxed));
        if before != (millicores, ahead) {
            self.paid_at.store(0, Relaxed);
        }
    }

    /// CPU time used so far.
    pub fn used_ns(&self) -> Nanos {
        self.used_ns.load(Relaxed)
    }

    /// Time in which the app wanted to run and was past its burst.
    pub fn throttled_ns(&self) -> Nanos {
        self.throttled_ns.load(Relaxed)
    }

    /// Counts CPU time against the rate.
    pub(super) fn spend(&self, used: Nanos, now: Nanos) {
        self.used_ns.fetch_add(used, Relaxed);
        self.paid_at.fetch_max(now, Relaxed);
        self.paid_at.fetch_add(at_rate(used, self.weight()), Relaxed);
    }

    /// When the app may run: `None` means now.
    pub(super) fn ready_at(&self, now: Nanos) -> Option<Nanos> {
        let ready = self.paid_at.load(Relaxed).saturating_sub(self.ahead_ns_max.load(Relaxed));
        (ready > now).then_some(ready)
    }

    pub(super) fn weight(&self) -> u32 {
        self.millicores.load(Relaxed)
    }

    pub(super) fn note_throttled(&self, waited: Nanos) {
        self.throttled_ns.fetch_add(waited, Relaxed);
    }

    /// Whether a run of it would keep others from its thread for long.
    pub(super) fn runs_long(&self) -> bool {
        self.expected_ns.load(Relaxed) >= LONG_RUN_NS
    }

    /// Learns from a run.
    pub(super) fn expect(&self, used: Nanos) {
        let before = self.expected_ns.load(Relaxed);
        let used = used.min(before.saturating_mul(EXPECTED_GROWTH));
        let after = used.max((before * (EXPECTED_PARTS - 1) + used) / EXPECTED_PARTS);
        self.expected_ns.store(after.clamp(EXPECTED_NS_RANGE.0, EXPECTED_NS_RANGE.1), Relaxed);
    }
}

/// How long a weight takes to earn CPU time: also the virtual time that the CPU time is worth.
pub(super) fn at_rate(used: Nanos, millicores: u32) -> u64 {
    used.saturating_mul(1_000) / u64::from(millicores.max(1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Nanos = 1_000_000;

    #[test]
    fn a_burst_is_used_once_and_earned_again_at_the_rate_of_the_share() {
        let cpu = Cpu::new(CpuShare { millicores: 250, burst_ms: Some(100) });
        let start = 1_000 * MS;
        cpu.spend(100 * MS, start);
        assert_eq!(cpu.ready_at(start), None, "exactly the burst");
        cpu.spend(10 * MS, start);
        assert_eq!(cpu.ready_at(start), Some(start + 40 * MS), "10 ms at a quarter of a core");
        assert_eq!(cpu.ready_at(start + 40 * MS), None);
        // After 440 ms all of it is paid for, and nothing more is saved up however long the app rests.
        let later = start + 3_600_000 * MS;
        cpu.spend(101 * MS, later);
        assert_eq!(cpu.ready_at(later), Some(later + 4 * MS));
        assert_eq!(cpu.used_ns(), 211 * MS);
    }

    #[test]
    fn another_share_begins_with_its_whole_burst_and_the_same_one_goes_on() {
        let cpu = Cpu::new(CpuShare { millicores: 250, burst_ms: Some(1_000) });
        cpu.spend(1_100 * MS, 0);
        assert!(cpu.ready_at(0).is_some());
        cpu.set_share(CpuShare { millicores: 250, burst_ms: Some(1_000) });
        assert!(cpu.ready_at(0).is_some(), "a new revision has the debts of the one before");
        cpu.set_share(CpuShare { millicores: 500, burst_ms: Some(10) });
        assert_eq!(cpu.ready_at(0), None);
    }

    #[test]
    fn without_a_bound_an_app_never_waits_for_its_rate() {
        let cpu = Cpu::new(CpuShare { millicores: 0, burst_ms: None });
        cpu.spend(u64::MAX / 1_000_000, 5);
        assert_eq!(cpu.ready_at(5), None);
        assert_eq!(cpu.weight(), SHARE_MILLICORES_MIN);
    }

    #[test]
    fn one_long_run_makes_no_app_long_and_a_few_do() {
        let cpu = Cpu::new(CpuShare { millicores: 250, burst_ms: None });
        for _ in 0..20 {
            cpu.expect(MS / 50);
        }
        cpu.expect(3 * MS);
        assert!(!cpu.runs_long());
        for _ in 0..5 {
            cpu.expect(3 * MS);
        }
        assert!(cpu.runs_long());
        for _ in 0..20 {
            cpu.expect(MS / 50);
        }
        assert!(!cpu.runs_long(), "it is quick again");
    }
}
