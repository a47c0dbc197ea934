//! Instances that are used again, for apps that ask for it: what an instance left in its memory, the next request finds.
//!
//! By default nothing is ever used again. An app that opts in gets more speed and less isolation between its own requests,
//! never between apps: a pool belongs to one linked component. An instance is dropped after so many requests, after any
//! failure, and when nobody needed it for a while. One that serves several at once ([`crate::together`]) comes here when it
//! has none.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use wasmtime::Store;
use wasmtime_wasi_http::handler::Proxy;

use crate::state::State;

/// Instances of one app that wait for another request.
const IDLE_MAX: usize = 64;
/// How long one waits, in seconds.
const IDLE_S_MAX: u64 = 10;

/// An instance with its store.
pub(crate) struct Instance<C: 'static> {
    pub(crate) store: Store<State<C>>,
    /// None before it was instantiated.
    pub(crate) proxy: Option<Proxy>,
    /// Requests that it has served.
    pub(crate) served: u32,
}

/// Instances that wait, the one that was used last on top: the others may grow old.
pub(crate) struct Warm<C: 'static>(Mutex<Vec<(Instance<C>, Instant)>>);

impl<C> Default for Warm<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C> Warm<C> {
    pub(crate) fn take(&self) -> Option<Instance<C>> {
        self.lock().pop().map(|(instance, _)| instance)
    }

    pub(crate) fn put(&self, instance: Instance<C>) {
        let mut idle = self.lock();
        if idle.len() < IDLE_MAX {
            idle.push((instance, Instant::now()));
        }
    }

    /// Drops what waits: all of it, or what is too old.
    pub(crate) fn drop_idle(&self, only_old: bool) {
        let is_kept = |since: &Instant| only_old && since.elapsed() < Duration::from_secs(IDLE_S_MAX);
        let dropped: Vec<_> = self.lock().extract_if(.., |(_, since)| !is_kept(since)).collect();
        drop(dropped); // not under the lock: giving back memory takes time
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<(Instance<C>, Instant)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
