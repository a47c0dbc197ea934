//! The apps this host serves, by the first segment of their URLs.
//!
//! A new revision replaces the old one in one step: whoever came before keeps the old one until its request
//! has ended, whoever comes after gets the new one. What was replaced or taken out is unloaded after
//! [`DRAIN_S_MAX`]: requests that have not ended by then are ended.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use odeon_capabilities::egress::AppEgress;
use odeon_capabilities::{Granted, Settings};
use odeon_engine::{Account, App};
use odeon_protocol::events::EventHandler;
use odeon_protocol::{AppId, Generation, Limits, Revision};
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::timers::AppTimers;

/// How long the requests of a replaced revision may go on, in seconds.
const DRAIN_S_MAX: u64 = 30;

/// One revision of an app, ready to serve.
pub(crate) struct Served {
    pub(crate) id: AppId,
    pub(crate) name: String,
    pub(crate) revision: Revision,
    pub(crate) generation: Generation,
    pub(crate) app: App<Granted>,
    pub(crate) limits: Limits,
    pub(crate) account: Account,
    pub(crate) egress: AppEgress,
    pub(crate) settings: Arc<Settings>,
    pub(crate) timers: Arc<AppTimers>,
    pub(crate) handlers: Vec<EventHandler>,
    /// It triggers events.
    pub(crate) publishes: bool,
    /// Told when events were committed.
    pub(crate) outbox: Arc<Notify>,
    pub(crate) database: bool,
    /// Instances at once.
    pub(crate) instances: Arc<Semaphore>,
    /// Requests that may wait for one.
    pub(crate) queue: Arc<Semaphore>,
    /// Ends what the host starts for it.
    pub(crate) retired: CancellationToken,
    /// Ends the requests that still run.
    pub(crate) unload: CancellationToken,
}

impl Served {
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
pub(crate) struct Apps(RwLock<HashMap<String, Arc<Served>>>);

impl Apps {
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Served>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
    /// Puts a revision in the place of the one before.
    pub(crate) fn replace(&self, served: Served) -> Arc<Served> {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (_, before) in table.extract_if(|_, before| before.id == served.id) {
            before.retire(); // its name may have been another
        }
        let served = Arc::new(served);
        table.insert(served.name.clone(), served.clone());
        served
    }
    /// Takes an app out, if it is still of that generation or older.
    pub(crate) fn remove(&self, id: &AppId, up_to: Generation) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        for (_, served) in table.extract_if(|_, served| served.id == *id && served.generation <= up_to) {
            served.retire();
        }
    }
    pub(crate) fn serving(&self, id: &AppId) -> Option<Revision> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.values().find(|served| served.id == *id).map(|served| served.revision)
    }
    /// Every app that serves.
    pub(crate) fn all(&self) -> Vec<Arc<Served>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
    pub(crate) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}
