//! The accounts of the apps of this host. An account outlives the revisions of its app: what the one before has used
//! counts, and instances that still end hold memory of the same budget.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use odeon_engine::{Account, CpuShare, Memory};
use odeon_protocol::{AppId, Limits};

/// All accounts, by app.
#[derive(Default)]
pub(crate) struct Accounts(Mutex<BTreeMap<AppId, Account>>);

impl Accounts {
    /// The account of an app, with these limits from now on.
    pub(crate) fn open(&self, app: &AppId, limits: &Limits) -> Account {
        let share = CpuShare { millicores: limits.cpu_share_millicores, burst_ms: limits.cpu_burst_ms };
        let mut accounts = self.lock();
        let account =
            accounts.entry(app.clone()).or_insert_with(|| Account::new(share, limits.memory_bytes_max));
        account.set(share, limits.memory_bytes_max);
        account.clone()
    }

    /// The app has left. Whoever still holds its account goes on with it.
    pub(crate) fn close(&self, app: &AppId) {
        self.lock().remove(app);
    }

    /// Every account.
    pub(crate) fn all(&self) -> Vec<(AppId, Account)> {
        self.lock().iter().map(|(app, account)| (app.clone(), account.clone())).collect()
    }

    /// The memory of every app.
    pub(crate) fn memories(&self) -> Vec<Arc<Memory>> {
        self.lock().values().map(|account| account.memory.clone()).collect()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, BTreeMap<AppId, Account>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_revision_has_the_account_of_the_one_before() {
        let accounts = Accounts::default();
        let app: AppId = "0190d5d2-0000-7000-8000-000000000001".parse().unwrap();
        let before = accounts.open(&app, &Limits::default());
        let held = before.memory.try_take(1_000).unwrap();
        let limits = Limits { memory_bytes_max: 5_000, ..Limits::default() };
        let after = accounts.open(&app, &limits);
        assert_eq!((after.memory.held(), after.memory.max(), before.memory.max()), (1_000, 5_000, 5_000));
        accounts.close(&app);
        assert!(accounts.all().is_empty());
        drop(held);
        assert_eq!(after.memory.held(), 0);
    }
}
