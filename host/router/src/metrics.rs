//! Prometheus metrics of a router. Labels are apps and outcomes: never a path, never a message.

use odeon_http::requests::Requests;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// All metrics.
pub(crate) struct Metrics {
    pub(crate) requests: Requests,
    pub(crate) retries: Counter,
    in_flight: Gauge,
    registry: Registry,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("odeon_router");
        let requests = Requests::register(&mut registry);
        let (retries, in_flight) = (Counter::default(), Gauge::default());
        registry.register("retries", "Requests sent to a second replica", retries.clone());
        registry.register("requests_in_flight", "Requests whose response has not ended", in_flight.clone());
        Self { requests, retries, in_flight, registry }
    }

    /// For Prometheus, with how many requests are under way.
    pub(crate) fn encode(&self, in_flight: usize) -> String {
        self.in_flight.set(in_flight as i64);
        let mut out = String::new();
        match text::encode(&mut out, &self.registry) {
            Ok(()) => out,
            Err(_) => String::new(),
        }
    }
}
