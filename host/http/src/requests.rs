//! Counts requests by app and class of status, for the metrics of hosts and routers.
//!
//! What must stay true: a request that is counted looks up nothing, and of an app that has left no series is kept.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use http::StatusCode;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::registry::Registry;

/// Classes of status, and those whose caller went away before there was one.
const CLASSES: [&str; 5] = ["2xx", "3xx", "4xx", "5xx", "gone"];
/// The last of them.
const GONE: usize = CLASSES.len() - 1;

/// Labels of a series.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    app: String,
    /// One of [`CLASSES`].
    class: &'static str,
}

/// Requests of all apps.
pub struct Requests {
    family: Family<Labels, Counter>,
    /// By the names of the apps that are here.
    apps: Mutex<HashMap<String, Arc<AppRequests>>>,
    /// For apps that are not here.
    pub strays: AppRequests,
}

impl Requests {
    /// Tells them to whoever reads the metrics.
    pub fn register(registry: &mut Registry) -> Self {
        let family = Family::default();
        registry.register(
            "requests",
            "Requests by app and class of status; gone: the caller went away before there was one",
            family.clone(),
        );
        let strays = AppRequests::new(String::new(), &family);
        Self { family, apps: Mutex::default(), strays }
    }

    /// Those of one app, of all its revisions. A series is made when there is something to count: most apps have few.
    pub fn of(&self, app: &str) -> Arc<AppRequests> {
        let mut apps = self.apps.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(AppRequests::new(app.to_owned(), &self.family));
        apps.entry(app.to_owned()).or_insert_with(new).clone()
    }

    /// Drops the series of an app that has left.
    pub fn forget(&self, app: &str) {
        let left = self.apps.lock().unwrap_or_else(PoisonError::into_inner).remove(app);
        left.iter().for_each(|left| left.leave());
    }
}

/// See [`Requests::of`].
pub struct AppRequests {
    app: String,
    family: Family<Labels, Counter>,
    counters: [OnceLock<Counter>; CLASSES.len()],
}

impl AppRequests {
    fn new(app: String, family: &Family<Labels, Counter>) -> Self {
        Self { app, family: family.clone(), counters: Default::default() }
    }

    /// Counts a request when it is answered, or given up.
    pub fn begin(&self) -> Asked<'_> {
        Asked { requests: self, class: GONE }
    }

    /// Counts a request that was answered with `status`.
    pub fn count(&self, status: StatusCode) {
        self.count_in(class(status));
    }

    fn count_in(&self, at: usize) {
        let labels = || Labels { app: self.app.clone(), class: CLASSES[at] };
        self.counters[at].get_or_init(|| self.family.get_or_create_owned(&labels())).inc();
    }

    /// Drops the series, and what requests that still run count from here on.
    fn leave(&self) {
        for (class, counter) in CLASSES.into_iter().zip(&self.counters) {
            counter.get_or_init(Counter::default); // one that no series has
            self.family.remove(&Labels { app: self.app.clone(), class });
        }
    }
}

/// A request that is not counted yet.
pub struct Asked<'r> {
    requests: &'r AppRequests,
    class: usize,
}

impl Asked<'_> {
    /// It has an answer.
    pub fn answered(mut self, status: StatusCode) {
        self.class = class(status);
    }
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        self.requests.count_in(self.class);
    }
}

/// The number of a status's class, in [`CLASSES`].
fn class(status: StatusCode) -> usize {
    match status.as_u16() {
        ..300 => 0,
        300..400 => 1,
        400..500 => 2,
        500.. => 3,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use prometheus_client::encoding::text;

    use super::*;

    #[test]
    fn an_app_that_left_has_no_series_and_the_others_keep_theirs() {
        let mut registry = Registry::default();
        let requests = Requests::register(&mut registry);
        let series = |app: &str| {
            let mut out = String::new();
            text::encode(&mut out, &registry).unwrap();
            out.matches(&format!("app=\"{app}\"")).count()
        };
        let [gone, here] = ["Gone", "Here"].map(|app| requests.of(app));
        for status in [StatusCode::OK, StatusCode::NOT_FOUND, StatusCode::BAD_GATEWAY] {
            gone.count(status);
            here.count(status);
        }
        let before = requests.of("Gone");
        assert_eq!((series("Gone"), series("Here")), (3, 3));
        requests.forget("Gone");
        for status in [StatusCode::OK, StatusCode::FOUND] {
            before.count(status); // it ran on meanwhile
        }
        assert_eq!((series("Gone"), series("Here")), (0, 3));
        requests.of("Gone").count(StatusCode::OK);
        assert_eq!(series("Gone"), 1, "it came back");
    }
}
