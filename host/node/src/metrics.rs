//! Prometheus metrics of a host. Labels are apps and outcomes: never a path, never a message.

use std::sync::atomic::AtomicU64;

use odeon_http::requests::Requests;
use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::accounts::Accounts;

/// Upper bounds of request times, in seconds: from what a small app takes to what a request may take.
const SECONDS: [f64; 12] = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.1, 0.25, 1.0, 5.0, 20.0, 60.0];

/// Upper bounds of load times, in seconds: from a file in the page cache to a component that is compiled here.
const LOAD_SECONDS: [f64; 10] = [0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.05, 0.25, 2.0, 20.0];

/// Labels of what an app uses.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct App {
    pub(crate) app: String,
}

/// All metrics.
pub(crate) struct Metrics {
    pub(crate) requests: Requests,
    pub(crate) seconds: Histogram,
    pub(crate) in_flight: Gauge,
    /// Placed here.
    pub(crate) apps: Gauge,
    pub(crate) apps_loaded: Gauge,
    pub(crate) loads: Counter,
    pub(crate) unloads: Counter,
    pub(crate) load_seconds: Histogram,
    pub(crate) memory_used: Gauge,
    pub(crate) memory_limit: Gauge,
    pub(crate) log_lines_dropped: Counter<u64, AtomicU64>,
    cpu_seconds: Family<App, Gauge<f64, AtomicU64>>,
    throttled_seconds: Family<App, Gauge<f64, AtomicU64>>,
    memory_bytes: Family<App, Gauge>,
    competing: Gauge,
    registry: Registry,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("odeon_host");
        let requests = Requests::register(&mut registry);
        let seconds = Histogram::new(SECONDS);
        let (in_flight, apps) = (Gauge::default(), Gauge::default());
        let (apps_loaded, memory_used, memory_limit) = (Gauge::default(), Gauge::default(), Gauge::default());
        let (loads, unloads) = (Counter::default(), Counter::default());
        let load_seconds = Histogram::new(LOAD_SECONDS);
        let log_lines_dropped = Counter::default();
        registry.register("request_seconds", "Time until the head of the response", seconds.clone());
        registry.register(
            "requests_in_flight",
            "Requests whose head was not sent yet, and runs of timers and event handlers",
            in_flight.clone(),
        );
        registry.register("apps", "Apps that serve, loaded or not", apps.clone());
        registry.register("apps_loaded", "Apps whose code is in memory", apps_loaded.clone());
        registry.register("app_loads", "Loads of an app's code", loads.clone());
        registry.register("app_unloads", "Unloads of an app's code", unloads.clone());
        registry.register("app_load_seconds", "Time to load an app's code", load_seconds.clone());
        let used = "Memory in use where this host runs, without what the kernel can drop, in bytes";
        registry.register("memory_used_bytes", used, memory_used.clone());
        registry.register("memory_limit_bytes", "Memory this host may use, in bytes", memory_limit.clone());
        registry.register(
            "log_lines_dropped",
            "Lines over an app's rate or the queue",
            log_lines_dropped.clone(),
        );
        let (cpu_seconds, throttled_seconds) = (Family::default(), Family::default());
        let (memory_bytes, competing) = (Family::default(), Gauge::default());
        registry.register(
            "app_cpu_seconds",
            "CPU time of an app, the host's for it included",
            cpu_seconds.clone(),
        );
        registry.register(
            "app_throttled_seconds",
            "Time in which an app wanted to run and was past its burst",
            throttled_seconds.clone(),
        );
        registry.register("app_memory_bytes", "Memory of an app's instances", memory_bytes.clone());
        registry.register(
            "guests_competing",
            "Guests that wait for a CPU or run past a slice",
            competing.clone(),
        );
        Self {
            requests,
            seconds,
            in_flight,
            apps,
            apps_loaded,
            loads,
            unloads,
            load_seconds,
            memory_used,
            memory_limit,
            log_lines_dropped,
            cpu_seconds,
            throttled_seconds,
            memory_bytes,
            competing,
            registry,
        }
    }

    /// Counts something that is under way until it is dropped: who waits for it may go away.
    pub(crate) fn begin(&self) -> InFlight {
        self.in_flight.inc();
        InFlight(self.in_flight.clone())
    }

    /// Reads what the apps use now.
    pub(crate) fn read(&self, accounts: &Accounts, competing: usize) {
        self.competing.set(i64::try_from(competing).unwrap_or(i64::MAX));
        self.memory_bytes.clear(); // an app that has left has no account any more
        self.cpu_seconds.clear();
        self.throttled_seconds.clear();
        for (app, account) in accounts.all() {
            let label = App { app: app.to_string() };
            let seconds = |ns: u64| ns as f64 / 1e9;
            self.cpu_seconds.get_or_create(&label).set(seconds(account.cpu.used_ns()));
            self.throttled_seconds.get_or_create(&label).set(seconds(account.cpu.throttled_ns()));
            let bytes = i64::try_from(account.memory.held()).unwrap_or(i64::MAX);
            self.memory_bytes.get_or_create(&label).set(bytes);
        }
    }

    pub(crate) fn encode(&self) -> String {
        let mut out = String::new();
        match text::encode(&mut out, &self.registry) {
            Ok(()) => out,
            Err(_) => String::new(),
        }
    }
}

/// See [`Metrics::begin`].
pub(crate) struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}
