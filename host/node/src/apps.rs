//! The apps this host serves, by the first segment of their URLs.
//!
//! A new revision replaces the old one in one step: whoever came before keeps the old one until its request
//! has ended, whoever comes after gets the new one. What was replaced or taken out is unloaded after
//! [`DRAIN_S_MAX`]: requests that have not ended by then are ended.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Duration;

use odeon_capabilities::Settings;
use odeon_capabilities::egress::AppEgress;
use odeon_capabilities::sql::session::Database;
use odeon_engine::{Account, RequestLimits};
use odeon_http::requests::AppRequests;
use odeon_protocol::events::EventHandler;
use odeon_protocol::{AppId, Claim, Generation, Limits, Revision};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::loader::{Lately, Placement};
use crate::logs::AppLog;
use crate::timers::AppTimers;

/// How long the requests of a replaced revision may go on, in seconds.
const DRAIN_S_MAX: u64 = 30;

/// One revision of an app, ready to serve: what a placement needs. Its code is loaded and unloaded beside it.
pub(crate) struct Served {
    pub(crate) id: AppId,
    pub(crate) name: String,
    pub(crate) revision: Revision,
    pub(crate) generation: Generation,
    /// What its code is loaded from: see [`crate::loader`].
    pub(crate) placement: Placement,
    pub(crate) lately: Lately,
    pub(crate) claim: Claim,
    pub(crate) limits: Limits,
    pub(crate) account: Account,
    pub(crate) requests: Arc<AppRequests>,
    pub(crate) log: Arc<AppLog>,
    pub(crate) egress: Arc<AppEgress>,
    pub(crate) settings: Arc<Settings>,
    pub(crate) timers: Arc<AppTimers>,
    pub(crate) handlers: Vec<EventHandler>,
    /// It triggers events.
    pub(crate) publishes: bool,
    /// Told when events were committed.
    pub(crate) outbox: Arc<Notify>,
    pub(crate) database: Option<Arc<Database>>,
    /// Instances at once.
    pub(crate) instances: Arc<Semaphore>,
    /// Requests that may wait for one.
    pub(crate) queue: Semaphore,
    /// Ends what the host starts for it.
    pub(crate) retired: CancellationToken,
    /// Ends the requests that still run.
    pub(crate) unload: CancellationToken,
}

impl Served {
    /// The limits of a request that may take so long.
    pub(crate) fn request_limits(&self, wall_ms_max: u64, cpu_ms_max: u64) -> RequestLimits {
        let limits = &self.limits;
        RequestLimits {
            memory_bytes_max: limits.instance_memory_bytes_max,
            wall_ms_max,
            cpu_ms_max,
            reuse_max: limits.instance_reuse_max,
            concurrency_max: limits.instance_concurrency_max,
        }
    }

    fn retire(&self) {
        self.retired.cancel();
        let unload = self.unload.clone();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(DRAIN_S_MAX)).await;
            unload.cancel();
        });
    }
}

/// The table of apps.
#[derive(Default)]
pub(crate) struct Apps(RwLock<Table>);

/// Invariant: both maps hold the same revisions, one for each app and one for each name.
#[derive(Default)]
struct Table {
    by_name: HashMap<String, Arc<Served>>,
    by_id: HashMap<AppId, Arc<Served>>,
}

impl Table {
    fn take(&mut self, id: &AppId) -> Option<Arc<Served>> {
        let served = self.by_id.remove(id)?;
        self.by_name.remove(&served.name);
        Some(served)
    }
}

impl Apps {
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Served>> {
        self.read().by_name.get(name).cloned()
    }
    /// Puts a revision in the place of the one before. Also gives what serves no longer, which is to be unloaded.
    pub(crate) fn replace(&self, served: Served) -> (Arc<Served>, Vec<Arc<Served>>) {
        let served = Arc::new(served);
        let mut table = self.write();
        let mut gone = Vec::new();
        if let Some(before) = table.take(&served.id) {
            before.retire(); // its name may have been another
            gone.push(before);
        }
        table.by_id.insert(served.id.clone(), served.clone());
        if let Some(other) = table.by_name.insert(served.name.clone(), served.clone()) {
            table.by_id.remove(&other.id); // its name is another's now
            other.retire();
            gone.push(other);
        }
        (served, gone)
    }
    /// Takes an app out, if it is still of that generation or older.
    pub(crate) fn remove(&self, id: &AppId, up_to: Generation) -> Option<Arc<Served>> {
        let mut table = self.write();
        table.by_id.get(id).filter(|served| served.generation <= up_to)?;
        let served = table.take(id)?;
        served.retire();
        Some(served)
    }
    pub(crate) fn serving(&self, id: &AppId) -> Option<Revision> {
        self.read().by_id.get(id).map(|served| served.revision)
    }
    /// Every app that serves.
    pub(crate) fn all(&self) -> Vec<Arc<Served>> {
        self.read().by_name.values().cloned().collect()
    }
    pub(crate) fn len(&self) -> usize {
        self.read().by_id.len()
    }

    fn read(&self) -> RwLockReadGuard<'_, Table> {
        self.0.read().unwrap_or_else(PoisonError::into_inner)
    }
    fn write(&self) -> RwLockWriteGuard<'_, Table> {
        self.0.write().unwrap_or_else(PoisonError::into_inner)
    }
}
