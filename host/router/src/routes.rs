//! Which hosts serve an app, and to which of them a request goes.
//!
//! A request looks its app up once. To choose a host it takes no lock that others hold for long, and no memory: what it needs was made when
//! the routes were installed. What must stay true: places that are taken, and what is known of a host, outlive an installation.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Instant;

use http::uri::Authority;
use odeon_http::requests::{AppRequests, Requests};

use crate::places::Places;

/// A host whose connection failed is chosen last for this long, in milliseconds.
const BACKOFF_MS: u64 = 1_000;
/// It has not failed.
const NEVER: u64 = u64::MAX;

/// A host that serves an app.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Backend {
    /// Where its ingress is.
    pub address: Arc<str>,
}

/// Apps by name, and all hosts that serve any.
pub(crate) struct Routes {
    apps: RwLock<HashMap<String, Arc<App>>>,
    hosts: Mutex<HashMap<Arc<str>, Arc<Host>>>,
    /// Of all apps.
    pub(crate) places: Arc<Places>,
    app_requests_max: usize,
}

/// An app, and the hosts that serve it.
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) places: Arc<Places>,
    pub(crate) all_places: Arc<Places>,
    pub(crate) requests: Arc<AppRequests>,
    pub(crate) hosts: Vec<Arc<Host>>,
}

/// A host.
pub(crate) struct Host {
    pub(crate) authority: Authority,
    /// Requests.
    pub(crate) under_way: AtomicUsize,
    known_since: Instant,
    /// When its connection failed, in milliseconds since it is known.
    failed_at_ms: AtomicU64,
}

impl Routes {
    /// None yet; there may be so many requests at once, and so many of one app.
    pub(crate) fn new(requests_max: usize, app_requests_max: usize) -> Self {
        let places = Places::new(requests_max);
        Self { apps: RwLock::default(), hosts: Mutex::default(), places, app_requests_max }
    }

    /// Replaces all of them, and drops what was counted of apps that have none any more.
    pub(crate) fn install(&self, routes: HashMap<String, Vec<Backend>>, requests: &Requests) {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner); // one installation at a time
        let installed: HashMap<_, _> = {
            let before = self.apps.read().unwrap_or_else(PoisonError::into_inner);
            let app = |(name, backends): (String, Vec<Backend>)| {
                let before = before.get(&name);
                let places = before.map(|app| app.places.clone()); // some may be taken
                let app = App {
                    places: places.unwrap_or_else(|| Places::new(self.app_requests_max)),
                    all_places: self.places.clone(),
                    requests: before.map_or_else(|| requests.of(&name), |app| app.requests.clone()),
                    hosts: all_hosts(&mut hosts, &backends),
                    name: name.clone(),
                };
                (name, Arc::new(app))
            };
            routes.into_iter().map(app).collect()
        };
        let known = || self.apps.read().unwrap_or_else(PoisonError::into_inner);
        let left: Vec<_> = known().keys().filter(|name| !installed.contains_key(*name)).cloned().collect();
        let before =
            std::mem::replace(&mut *self.apps.write().unwrap_or_else(PoisonError::into_inner), installed);
        drop(before); // requests do not wait for this
        left.iter().for_each(|name| requests.forget(name));
        hosts.retain(|_, host| Arc::strong_count(host) > 1);
    }

    pub(crate) fn find(&self, name: &str) -> Option<Arc<App>> {
        self.apps.read().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }
}

/// The hosts of an app, each once: two replicas may say the same address while one of them is about to be forgotten.
fn all_hosts(known: &mut HashMap<Arc<str>, Arc<Host>>, backends: &[Backend]) -> Vec<Arc<Host>> {
    let mut hosts: Vec<Arc<Host>> = Vec::new();
    for host in backends.iter().filter_map(|backend| host(known, backend)) {
        if !hosts.iter().any(|other| Arc::ptr_eq(other, &host)) {
            hosts.push(host);
        }
    }
    hosts
}

/// What is known of a host. `None` where nobody could connect to its address.
fn host(hosts: &mut HashMap<Arc<str>, Arc<Host>>, backend: &Backend) -> Option<Arc<Host>> {
    if let Some(host) = hosts.get(&backend.address) {
        return Some(host.clone());
    }
    let authority = backend.address.parse();
    let authority = authority
        .inspect_err(|error| tracing::debug!(address = %backend.address, "no address: {error}"))
        .ok()?;
    let (under_way, failed_at_ms) = (AtomicUsize::new(0), AtomicU64::new(NEVER));
    let host = Arc::new(Host { authority, under_way, known_since: Instant::now(), failed_at_ms });
    hosts.insert(backend.address.clone(), host.clone());
    Some(host)
}

impl App {
    /// The less loaded of two random hosts that were not tried, those that just failed last: its number.
    pub(crate) fn choose(&self, tried: &[usize]) -> Option<usize> {
        let untried = self.hosts.iter().enumerate().filter(|(host, _)| !tried.contains(host));
        less_loaded(untried.clone().filter(|(_, host)| !host.is_backing_off()))
            .or_else(|| less_loaded(untried))
    }
}

/// The less loaded of two random ones. `None` also when there is one fewer than there just was: a host failed meanwhile.
fn less_loaded<'a>(hosts: impl Iterator<Item = (usize, &'a Arc<Host>)> + Clone) -> Option<usize> {
    let count = hosts.clone().count();
    let random = || hosts.clone().nth(rand::random_range(0..count));
    let chosen = match count {
        0 => None,
        1 => hosts.clone().next(),
        2.. => [random()?, random()?].into_iter().min_by_key(|(_, host)| host.under_way.load(Relaxed)),
    };
    chosen.map(|(number, _)| number)
}

impl Host {
    /// Its connection failed just now.
    pub(crate) fn failed(&self) {
        self.failed_at_ms.store(self.now_ms(), Relaxed);
    }

    /// Nothing is written where nothing changes: all threads read it.
    pub(crate) fn answered(&self) {
        if self.failed_at_ms.load(Relaxed) != NEVER {
            self.failed_at_ms.store(NEVER, Relaxed);
        }
    }

    fn is_backing_off(&self) -> bool {
        let failed_at_ms = self.failed_at_ms.load(Relaxed);
        failed_at_ms != NEVER && self.now_ms() < failed_at_ms.saturating_add(BACKOFF_MS)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.known_since.elapsed().as_millis()).unwrap_or(NEVER - 1)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use std::time::Duration;

    use http::StatusCode;
    use prometheus_client::registry::Registry;

    use super::*;
    use crate::places::Place;

    fn routes(of: &[(&str, &[&str])]) -> HashMap<String, Vec<Backend>> {
        let backends = |addresses: &[&str]| {
            addresses.iter().map(|address| Backend { address: (*address).into() }).collect()
        };
        of.iter().map(|(name, addresses)| ((*name).to_owned(), backends(addresses))).collect()
    }

    /// It is backing off whenever it is asked.
    fn fail_for_long(host: &Host) {
        host.failed_at_ms.store(Duration::from_secs(3_600).as_millis() as u64, Relaxed);
    }

    #[test]
    fn what_is_taken_and_known_outlives_an_installation_and_what_left_is_forgotten() {
        let (routes_of, mut registry) = (Routes::new(9, 2), Registry::default());
        let requests = Requests::register(&mut registry);
        let both = || routes(&[("Shop", &["a:1", "b:1"]), ("Desk", &["b:1"])]);
        routes_of.install(both(), &requests);
        let shop = routes_of.find("Shop").unwrap();
        let place = Place::take(&shop).unwrap();
        let failed = &shop.hosts[shop.choose(&[]).unwrap()];
        fail_for_long(failed);
        shop.requests.count(StatusCode::OK);
        routes_of.install(both(), &requests);
        let again = routes_of.find("Shop").unwrap();
        assert_eq!(again.places.taken(), 1);
        assert!(again.hosts.iter().any(|host| Arc::ptr_eq(host, failed) && host.is_backing_off()));
        assert!(!Arc::ptr_eq(&again.hosts[again.choose(&[]).unwrap()], failed));

        routes_of.install(routes(&[("Desk", &["b:1"])]), &requests);
        assert!(routes_of.find("Shop").is_none());
        let mut told = String::new();
        prometheus_client::encoding::text::encode(&mut told, &registry).unwrap();
        assert!(!told.contains("Shop"), "{told}");
        drop((shop, again, place)); // who is under way keeps its hosts
        routes_of.install(routes(&[("Desk", &["b:1"])]), &requests);
        assert_eq!(routes_of.hosts.lock().unwrap().keys().map(|key| &**key).collect::<Vec<_>>(), ["b:1"]);
    }

    #[test]
    fn each_host_is_tried_once_those_that_failed_last_and_what_is_no_address_never() {
        let mut registry = Registry::default();
        let (routes_of, requests) = (Routes::new(9, 1), Requests::register(&mut registry));
        routes_of.install(routes(&[("Shop", &["a:1", "b:1", "no address", "c:1", "b:1"])]), &requests);
        let app = routes_of.find("Shop").unwrap();
        app.hosts[..2].iter().for_each(|host| fail_for_long(host));
        let mut tried = Vec::new();
        while let Some(host) = app.choose(&tried) {
            tried.push(host);
        }
        let tried: Vec<_> = tried.iter().map(|host| app.hosts[*host].authority.as_str()).collect();
        assert_eq!((tried[0], tried.len()), ("c:1", 3), "{tried:?}");
    }

    #[test]
    fn the_less_loaded_of_two_is_chosen() {
        let mut registry = Registry::default();
        let (routes_of, requests) = (Routes::new(9, 1), Requests::register(&mut registry));
        routes_of.install(routes(&[("Shop", &["a:1", "b:1"])]), &requests);
        let app = routes_of.find("Shop").unwrap();
        app.hosts[0].under_way.store(5, Relaxed);
        let times = |at: usize| (0..1_000).filter(|_| app.choose(&[]) == Some(at)).count();
        // The other one, unless both random ones are the same: three of four times.
        assert!(times(1) > 600, "or one in 10^25");
        app.hosts[0].under_way.store(0, Relaxed);
        assert!(times(0) > 300, "or one in 10^36: with equal loads each has its part");
    }
}
