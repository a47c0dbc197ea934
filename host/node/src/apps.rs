//! The apps this host serves, by the first segment of their URLs.
//!
//! A new revision replaces the old one in one step: whoever came before keeps the old one until its request
//! has ended, whoever comes after gets the new one.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use odeon_capabilities::Granted;
use odeon_capabilities::egress::Egress;
use odeon_engine::App;
use odeon_protocol::{AppId, Generation, Limits, Revision};
use tokio::sync::Semaphore;

/// One revision of an app, ready to serve.
pub(crate) struct Served {
    pub(crate) id: AppId,
    pub(crate) name: String,
    pub(crate) revision: Revision,
    pub(crate) generation: Generation,
    pub(crate) app: App<Granted>,
    pub(crate) limits: Limits,
    pub(crate) egress: Egress,
    pub(crate) database: bool,
    /// Instances at once.
    pub(crate) instances: Arc<Semaphore>,
    /// Requests that may wait for one.
    pub(crate) queue: Arc<Semaphore>,
}

/// The table of apps.
#[derive(Default)]
pub(crate) struct Apps(RwLock<HashMap<String, Arc<Served>>>);

impl Apps {
    pub(crate) fn find(&self, name: &str) -> Option<Arc<Served>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
    /// Puts a revision in the place of the one before.
    pub(crate) fn replace(&self, served: Served) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, before| before.id != served.id); // an app may have been renamed
        table.insert(served.name.clone(), Arc::new(served));
    }
    /// Takes an app out, if it is still of that generation or older.
    pub(crate) fn remove(&self, id: &AppId, up_to: Generation) {
        let mut table = self.0.write().unwrap_or_else(PoisonError::into_inner);
        table.retain(|_, served| served.id != *id || served.generation > up_to);
    }
    pub(crate) fn serving(&self, id: &AppId) -> Option<Revision> {
        let table = self.0.read().unwrap_or_else(PoisonError::into_inner);
        table.values().find(|served| served.id == *id).map(|served| served.revision)
    }
    pub(crate) fn len(&self) -> usize {
        self.0.read().unwrap_or_else(PoisonError::into_inner).len()
    }
}
