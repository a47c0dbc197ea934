//! Prometheus metrics of a router. Labels are apps and outcomes: never a path, never a message.

use prometheus_client::encoding::{EncodeLabelSet, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::Registry;

/// Labels of a request.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct Request {
    pub(crate) app: String,
    /// `2xx`, `3xx`, `4xx`, `5xx`.
    pub(crate) class: &'static str,
}

/// All metrics.
pub(crate) struct Metrics {
    pub(crate) requests: Family<Request, Counter>,
    pub(crate) retries: Counter,
    pub(crate) in_flight: Gauge,
    registry: Registry,
}

impl Metrics {
    pub(crate) fn new() -> Self {
        let mut registry = Registry::with_prefix("odeon_router");
        let (requests, retries, in_flight) = (Family::default(), Counter::default(), Gauge::default());
        registry.register("requests", "Requests by app and class of status", requests.clone());
        registry.register("retries", "Requests sent to a second replica", retries.clone());
        registry.register("requests_in_flight", "Requests whose response has not ended", in_flight.clone());
        Self { requests, retries, in_flight, registry }
    }

    pub(crate) fn encode(&self) -> String {
        let mut out = String::new();
        match text::encode(&mut out, &self.registry) {
            Ok(()) => out,
            Err(_) => String::new(),
        }
    }
}

/// The class of a status.
pub(crate) fn class(status: http::StatusCode) -> &'static str {
    match status.as_u16() {
        ..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        500.. => "5xx",
    }
}
