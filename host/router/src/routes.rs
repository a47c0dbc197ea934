//! Which hosts serve an app, and to which of them a request goes.
//!
//! A request looks its app up once. To choose a host it takes no lock that others hold for long, and no memory: what it needs was made when
//! the routes were installed. What must stay true: places that are taken, and what is known of a host, outlive an installation.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use http::uri::Authority;
use odeon_http::requests::{AppRequests, Requests};
use tokio::sync::Semaphore;

/// A host whose connection failed is chosen last for this long, in milliseconds.
const BACKOFF_MS: u64 = 1_000;
/// An app has few requests while it has fewer than one of so many that it may have.
const FEW_PART: usize = 64;

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
    app_requests_max: usize,
}

/// An app, and the hosts that serve it.
pub(crate) struct App {
    pub(crate) name: String,
    pub(crate) places: Arc<Semaphore>,
    places_max: usize,
    pub(crate) requests: Arc<AppRequests>,
    replicas: Vec<Arc<Host>>,
}

/// A host.
pub(crate) struct Host {
    pub(crate) authority: Authority,
    pub(crate) in_flight: AtomicUsize,
    failed_at: Mutex<Option<Instant>>,
}

impl Routes {
    /// None yet; of one app there may be so many requests at once.
    pub(crate) fn new(app_requests_max: usize) -> Self {
        Self { apps: RwLock::default(), hosts: Mutex::default(), app_requests_max }
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
                    places_max: self.app_requests_max,
                    places: places.unwrap_or_else(|| Arc::new(Semaphore::new(self.app_requests_max))),
                    requests: before.map_or_else(|| requests.of(&name), |app| app.requests.clone()),
                    replicas: backends.iter().filter_map(|backend| host(&mut hosts, backend)).collect(),
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

/// What is known of a host. `None` where nobody could connect to its address.
fn host(hosts: &mut HashMap<Arc<str>, Arc<Host>>, backend: &Backend) -> Option<Arc<Host>> {
    if let Some(host) = hosts.get(&backend.address) {
        return Some(host.clone());
    }
    let authority = backend.address.parse();
    let authority = authority
        .inspect_err(|error| tracing::debug!(address = %backend.address, "no address: {error}"))
        .ok()?;
    let host = Arc::new(Host { authority, in_flight: AtomicUsize::new(0), failed_at: Mutex::default() });
    hosts.insert(backend.address.clone(), host.clone());
    Some(host)
}

impl App {
    /// Whether it has few under way.
    pub(crate) fn has_few_requests(&self) -> bool {
        let under_way = self.places_max.saturating_sub(self.places.available_permits());
        under_way < (self.places_max / FEW_PART).max(1)
    }

    /// The less loaded of two random hosts that were not tried, those that just failed last.
    pub(crate) fn choose(&self, tried: &[Arc<Host>]) -> Option<&Arc<Host>> {
        let is_tried = |host: &Arc<Host>| tried.iter().any(|tried| Arc::ptr_eq(tried, host));
        let untried = self.replicas.iter().filter(|host| !is_tried(host));
        less_loaded(untried.clone().filter(|host| !host.is_backing_off())).or_else(|| less_loaded(untried))
    }
}

/// The less loaded of two random ones. `None` also when there is one fewer than there just was: a host failed meanwhile.
fn less_loaded<'a>(hosts: impl Iterator<Item = &'a Arc<Host>> + Clone) -> Option<&'a Arc<Host>> {
    let count = hosts.clone().count();
    let random = || hosts.clone().nth(rand::random_range(0..count));
    match count {
        0 => None,
        1 => hosts.clone().next(),
        2.. => [random()?, random()?].into_iter().min_by_key(|host| host.in_flight.load(Ordering::Relaxed)),
    }
}

impl Host {
    /// Its connection failed just now.
    pub(crate) fn failed(&self) {
        self.note(Some(Instant::now()));
    }

    pub(crate) fn answered(&self) {
        self.note(None);
    }

    fn note(&self, failed_at: Option<Instant>) {
        *self.failed_at.lock().unwrap_or_else(PoisonError::into_inner) = failed_at;
    }

    fn is_backing_off(&self) -> bool {
        let failed_at = self.failed_at.lock().unwrap_or_else(PoisonError::into_inner);
        failed_at.is_some_and(|at| at.elapsed() < Duration::from_millis(BACKOFF_MS))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use http::StatusCode;
    use prometheus_client::registry::Registry;

    use super::*;

    fn routes(of: &[(&str, &[&str])]) -> HashMap<String, Vec<Backend>> {
        let backends = |addresses: &[&str]| {
            addresses.iter().map(|address| Backend { address: (*address).into() }).collect()
        };
        of.iter().map(|(name, addresses)| ((*name).to_owned(), backends(addresses))).collect()
    }

    /// A host that failed then is backing off whenever it is asked.
    fn later() -> Option<Instant> {
        Some(Instant::now() + Duration::from_secs(3_600))
    }

    #[test]
    fn what_is_taken_and_known_outlives_an_installation_and_what_left_is_forgotten() {
        let (routes_of, mut registry) = (Routes::new(2), Registry::default());
        let requests = Requests::register(&mut registry);
        let both = || routes(&[("Shop", &["a:1", "b:1"]), ("Desk", &["b:1"])]);
        routes_of.install(both(), &requests);
        let shop = routes_of.find("Shop").unwrap();
        let _place = shop.places.clone().try_acquire_owned().unwrap();
        let failed = shop.choose(&[]).unwrap();
        failed.note(later());
        shop.requests.count(StatusCode::OK);
        routes_of.install(both(), &requests);
        let again = routes_of.find("Shop").unwrap();
        assert_eq!(again.places.available_permits(), 1);
        assert!(again.replicas.iter().any(|host| Arc::ptr_eq(host, failed) && host.is_backing_off()));
        assert!(!Arc::ptr_eq(again.choose(&[]).unwrap(), failed));

        routes_of.install(routes(&[("Desk", &["b:1"])]), &requests);
        assert!(routes_of.find("Shop").is_none());
        let mut told = String::new();
        prometheus_client::encoding::text::encode(&mut told, &registry).unwrap();
        assert!(!told.contains("Shop"), "{told}");
        drop((shop, again));
        routes_of.install(routes(&[("Desk", &["b:1"])]), &requests);
        assert_eq!(routes_of.hosts.lock().unwrap().keys().map(|key| &**key).collect::<Vec<_>>(), ["b:1"]);
    }

    #[test]
    fn each_host_is_tried_once_those_that_failed_last_and_what_is_no_address_never() {
        let mut registry = Registry::default();
        let (routes_of, requests) = (Routes::new(1), Requests::register(&mut registry));
        routes_of.install(routes(&[("Shop", &["a:1", "b:1", "no address", "c:1"])]), &requests);
        let app = routes_of.find("Shop").unwrap();
        for host in &app.replicas[..2] {
            host.note(later());
        }
        let mut tried = Vec::new();
        while let Some(host) = app.choose(&tried) {
            tried.push(host.clone());
        }
        let tried: Vec<_> = tried.iter().map(|host| host.authority.as_str()).collect();
        assert_eq!((tried[0], tried.len()), ("c:1", 3), "{tried:?}");
    }

    #[test]
    fn the_less_loaded_of_two_is_chosen() {
        let mut registry = Registry::default();
        let (routes_of, requests) = (Routes::new(1), Requests::register(&mut registry));
        routes_of.install(routes(&[("Shop", &["a:1", "b:1"])]), &requests);
        let app = routes_of.find("Shop").unwrap();
        app.replicas[0].in_flight.store(5, Ordering::Relaxed);
        let times = |at: usize| {
            (0..1_000).filter(|_| Arc::ptr_eq(app.choose(&[]).unwrap(), &app.replicas[at])).count()
        };
        // The other one, unless both random ones are the same: three of four times.
        assert!(times(1) > 600, "or one in 10^25");
        app.replicas[0].in_flight.store(0, Ordering::Relaxed);
        assert!(times(0) > 300, "or one in 10^36: with equal loads each has its part");
    }
}
