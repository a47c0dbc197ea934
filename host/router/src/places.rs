//! Places for requests: of all, of each app, and what each host has under way.
//!
//! All threads write these counters, twice for each request, so there are as few of them as possible and nothing else is written. What must stay
//! true: a request has its places from before it is sent until its response has ended, and gives each back once.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use crate::routes::App;

/// Part of all places that is for apps with few requests: one of so many.
const RESERVED_PART: usize = 4;
/// An app has few requests while it has fewer than one of so many that it may have.
const FEW_PART: usize = 64;

/// Places of which so many are taken.
pub(crate) struct Places {
    taken: AtomicUsize,
    max: usize,
}

/// Why a request has no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NoPlace {
    /// There is none.
    Overloaded,
    /// The app has all that it may have.
    Busy,
    /// Those that are left are for apps with fewer requests.
    Crowded,
}

impl Places {
    pub(crate) fn new(max: usize) -> Arc<Self> {
        Arc::new(Self { taken: AtomicUsize::new(0), max })
    }

    pub(crate) fn taken(&self) -> usize {
        self.taken.load(Relaxed)
    }

    fn take(&self) -> bool {
        let is_free = self.taken.fetch_add(1, Relaxed) < self.max;
        if !is_free {
            self.give_back();
        }
        is_free
    }

    fn give_back(&self) {
        self.taken.fetch_sub(1, Relaxed);
    }
}

/// The places of one request.
pub(crate) struct Place {
    app: Arc<App>,
    /// Where it is under way, among the hosts of its app.
    host: Option<usize>,
}

impl Place {
    /// Takes a place of all and one of the app. The last of all are for apps that have few requests: some that do not answer leave room for others.
    pub(crate) fn take(app: &Arc<App>) -> Result<Self, NoPlace> {
        let (all, own) = (&app.all_places, &app.places);
        let has_few = own.taken() < (own.max / FEW_PART).max(1);
        if !has_few && all.taken() >= all.max - all.max / RESERVED_PART {
            return Err(NoPlace::Crowded);
        }
        if !all.take() {
            return Err(NoPlace::Overloaded);
        }
        if !own.take() {
            all.give_back();
            return Err(NoPlace::Busy);
        }
        Ok(Self { app: app.clone(), host: None })
    }

    /// From here on it is under way at this host of its app, and at no other.
    pub(crate) fn goes_to(&mut self, host: usize) {
        self.leave_host();
        self.app.hosts[host].under_way.fetch_add(1, Relaxed);
        self.host = Some(host);
    }

    fn leave_host(&mut self) {
        if let Some(host) = self.host.take() {
            self.app.hosts[host].under_way.fetch_sub(1, Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave_host();
        self.app.places.give_back();
        self.app.all_places.give_back();
    }
}
