//! What one app may use of this host, and what it uses: one account for all its revisions and instances.

use std::sync::Arc;

use crate::memory::{Held, Memory};
use crate::scheduler::{Cpu, CpuShare};

/// What the host holds for each instance beside what the instance has, in bytes: touched pages of its stack, its
/// store, buffers of its bodies.
pub const INSTANCE_HOST_BYTES: u64 = 128 << 10;

/// The account of an app. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Account {
    /// Its CPU time.
    pub cpu: Arc<Cpu>,
    /// Its memory.
    pub memory: Arc<Memory>,
}

impl Account {
    /// An account that has used nothing.
    pub fn new(share: CpuShare, memory_bytes_max: u64) -> Self {
        Self { cpu: Arc::new(Cpu::new(share)), memory: Memory::new(memory_bytes_max) }
    }

    /// Other limits from now on; what was used stays used.
    pub fn set(&self, share: CpuShare, memory_bytes_max: u64) {
        self.cpu.set_share(share);
        self.memory.set_max(memory_bytes_max);
    }

    /// Memory for one more instance, if there is room for it as it begins.
    pub fn try_admit(&self, initial_bytes: u64) -> Option<Held> {
        self.memory.try_take(INSTANCE_HOST_BYTES.saturating_add(initial_bytes))
    }

    /// The same, as soon as there is room. Whoever waits bounds how long.
    pub async fn admit(&self, initial_bytes: u64) -> Held {
        self.memory.take(INSTANCE_HOST_BYTES.saturating_add(initial_bytes)).await
    }
}
