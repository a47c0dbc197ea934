//! What runs, as told by those who run it. None of it is signed: it can delay a deployment, never cause one.
//!
//! Who speaks is told by the subject or key, which NATS guards. What names somebody else is not heard (`heard`), so a host
//! that was taken over speaks for itself only.

use serde::{Deserialize, Serialize};

use crate::ids::{AppId, Generation, HostId, Revision, RouterId};
use crate::subjects;

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

#[cfg(feature = "nats")]
impl HostHeartbeat {
    /// Reads a host's own heartbeat.
    pub fn heard(message: &async_nats::Message) -> Option<Self> {
        let beat: Self = serde_json::from_slice(said(message)?).ok()?;
        (message.subject.as_str() == subjects::host_heartbeat(&beat.host)).then_some(beat)
    }
}

/// What somebody published. What the server hands on for somebody has headers: a reply of JetStream goes to whatever
/// subject the request named, also to one that whoever asked may not publish to.
#[cfg(feature = "nats")]
fn said(message: &async_nats::Message) -> Option<&[u8]> {
    (message.headers.is_none() && message.status.is_none()).then_some(&message.payload)
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

#[cfg(feature = "nats")]
impl RouterHeartbeat {
    /// Reads a router's own heartbeat.
    pub fn heard(message: &async_nats::Message) -> Option<Self> {
        let beat: Self = serde_json::from_slice(said(message)?).ok()?;
        (message.subject.as_str() == subjects::router_heartbeat(&beat.router)).then_some(beat)
    }
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

impl ReplicaStatus {
    /// Reads what a host wrote under its own name.
    pub fn heard(key: &str, value: &[u8]) -> Option<Self> {
        let status: Self = serde_json::from_slice(value).ok()?;
        (key == subjects::replica_key(&status.host, &status.app)).then_some(status)
    }
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

impl RouterStatus {
    /// Reads what a router wrote under its own name.
    pub fn heard(key: &str, value: &[u8]) -> Option<Self> {
        let status: Self = serde_json::from_slice(value).ok()?;
        (key == subjects::router_key(&status.router, &status.app)).then_some(status)
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    const APP: &str = "018f4c6e-0000-7000-8000-000000000001";

    #[test]
    fn a_status_is_heard_under_the_name_of_who_wrote_it() {
        let generation = Generation { epoch: 1, number: 1 };
        let replica = ReplicaStatus {
            host: "dev-1".parse().unwrap(),
            incarnation: "a".into(),
            app: APP.parse().unwrap(),
            generation,
            serving: None,
            state: ReplicaState::Ready,
        };
        let value = serde_json::to_vec(&replica).unwrap();
        assert_eq!(ReplicaStatus::heard(&format!("host.dev-1.{APP}"), &value), Some(replica));
        let router = RouterStatus {
            router: "r".parse().unwrap(),
            incarnation: "a".into(),
            app: APP.parse().unwrap(),
            generation,
            replicas: Vec::new(),
        };
        let other = serde_json::to_vec(&router).unwrap();
        assert_eq!(RouterStatus::heard(&format!("router.r.{APP}"), &other), Some(router));
        for key in [format!("host.dev-2.{APP}"), format!("router.dev-1.{APP}"), format!("{}2", &APP[..35])] {
            assert_eq!(ReplicaStatus::heard(&key, &value), None, "{key}");
            assert_eq!(RouterStatus::heard(&key, &other), None, "{key}");
        }
    }

    #[cfg(feature = "nats")]
    #[test]
    fn a_heartbeat_is_heard_from_who_sent_it() {
        let message = |subject: &str, payload: Vec<u8>| async_nats::Message {
            subject: subject.into(),
            reply: None,
            length: payload.len(),
            payload: payload.into(),
            headers: None,
            status: None,
            description: None,
        };
        let beat = RouterHeartbeat {
            router: "r".parse().unwrap(),
            incarnation: "a".into(),
            address: "127.0.0.1:1".into(),
            admin_address: "127.0.0.1:2".into(),
            pid: 1,
        };
        let payload = serde_json::to_vec(&beat).unwrap();
        let own = message("heartbeat.router.r", payload.clone());
        assert_eq!(RouterHeartbeat::heard(&own), Some(beat));
        assert_eq!(RouterHeartbeat::heard(&message("heartbeat.router.other", payload)), None);
        let headers = Some(async_nats::HeaderMap::new());
        assert_eq!(RouterHeartbeat::heard(&async_nats::Message { headers, ..own }), None, "handed on");
    }
}
