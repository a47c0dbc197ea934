//! What runs, as told by those who run it. None of it is signed: it can delay a deployment, never cause one.

use serde::{Deserialize, Serialize};

use crate::ids::{AppId, Generation, HostId, Revision, RouterId};

/// Each second from each host, on core NATS. Small, whatever the number of apps.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HostHeartbeat {
    /// Who.
    pub host: HostId,
    /// Availability zone.
    pub zone: String,
    /// New with every start of the process. Statuses of another incarnation are stale.
    pub incarnation: String,
    /// Where routers reach its ingress.
    pub address: String,
    /// Where health and metrics are.
    pub admin_address: String,
    /// Process id, for people.
    pub pid: u32,
    /// Whether it takes new placements; false while it shuts down.
    pub accepting: bool,
    /// Replicas that are ready.
    pub ready: u32,
}

/// Each second from each router, on core NATS.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterHeartbeat {
    /// Who.
    pub router: RouterId,
    /// New with every start of the process.
    pub incarnation: String,
    /// Where users reach it.
    pub address: String,
    /// Where health and metrics are.
    pub admin_address: String,
    /// Process id, for people.
    pub pid: u32,
}

/// One replica, in KV under `host.<host>.<app>`; written when it changes, deleted when it is unloaded.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplicaStatus {
    /// Who says so.
    pub host: HostId,
    /// Which start of that host.
    pub incarnation: String,
    /// The app.
    pub app: AppId,
    /// The newest generation the host has acted on.
    pub generation: Generation,
    /// The revision that answers requests now, if any does.
    pub serving: Option<Revision>,
    /// How far `generation` has come.
    pub state: ReplicaState,
}

/// How far a replica has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum ReplicaState {
    /// Fetching, verifying, compiling or linking.
    Loading,
    /// New requests go to this generation.
    Ready,
    /// This generation cannot serve here. What served before still does.
    Failed {
        /// Stable code.
        code: String,
        /// For people.
        message: String,
    },
    /// Takes no new requests; finishes its own.
    Draining,
}

/// What a router does with an app, in KV under `router.<router>.<app>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RouterStatus {
    /// Who says so.
    pub router: RouterId,
    /// Which start of that router.
    pub incarnation: String,
    /// The app.
    pub app: AppId,
    /// The newest generation the router has read.
    pub generation: Generation,
    /// The hosts it sends requests to.
    pub replicas: Vec<HostId>,
}

/// How much a log line matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogLevel {
    /// For the author of the app.
    Debug,
    /// Ordinary.
    Info,
    /// Worth a look.
    Warning,
    /// A request failed.
    Error,
}

/// One line of an app's log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// RFC 3339, UTC, microseconds.
    pub time: String,
    /// The app it belongs to.
    pub app: AppId,
    /// Revision that wrote it.
    pub revision: Revision,
    /// Host it ran on.
    pub host: HostId,
    /// Level.
    pub level: LogLevel,
    /// `stdout`, `stderr`, `app` (odeon:log) or `host` (a failed request).
    pub source: String,
    /// The text, cut to a limit.
    pub message: String,
    /// The request during which it was written.
    pub request_id: String,
    /// Error code of a failed request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error_code: Option<String>,
    /// Action of the model, when the app is compiled from one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub action: Option<String>,
    /// Node of that action.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}
