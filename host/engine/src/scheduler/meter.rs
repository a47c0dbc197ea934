//! The CPU time of one request.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use super::cpu::{Cpu, Nanos};
use super::slice::{self, Tick};

/// What one request has used, and which app pays for it.
#[derive(Debug)]
pub(crate) struct Meter {
    pub(super) cpu: Arc<Cpu>,
    ended_ns: AtomicU64,
}

impl Meter {
    pub(crate) fn new(cpu: Arc<Cpu>) -> Self {
        Self { cpu, ended_ns: AtomicU64::new(0) }
    }

    /// Counts a slice that has ended.
    pub(super) fn add(&self, used: Nanos) {
        self.ended_ns.fetch_add(used, Relaxed);
    }

    /// A tick of the guest's clock: CPU time of the request until now, and whether the slice is over.
    pub(crate) fn tick(&self) -> Tick {
        let tick = slice::tick();
        Tick { used: self.used() + tick.used, ..tick }
    }

    /// CPU time of the slices that have ended.
    pub(crate) fn used(&self) -> Nanos {
        self.ended_ns.load(Relaxed)
    }
}
