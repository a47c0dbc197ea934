//! Where each message travels. A stage is a NATS account, so no subject names a stage: what is published
//! in one account does not exist in another. Inside the account a host may write only subjects and keys
//! that carry its own name.

use crate::ids::{AppId, HostId, RouterId};

/// KV bucket of signed desired state; written by the Platform only.
pub const DESIRED_BUCKET: &str = "desired";
/// KV bucket of replica and router statuses.
pub const OBSERVED_BUCKET: &str = "observed";
/// KV bucket of [`crate::timers::TimerState`]; written by every host of the stage.
pub const TIMERS_BUCKET: &str = "timers";
/// Object Store bucket of components and native artefacts, named by digest.
pub const COMPONENTS_BUCKET: &str = "components";
/// JetStream stream of log lines; subjects `logs.<app>.<host>`, payload: a JSON list of [`crate::LogLine`].
pub const LOGS_STREAM: &str = "logs";
/// Sealed [`crate::MigrateCommand`] in, [`crate::MigrateReply`] out; answered by one migrator (queue group).
pub const MIGRATE: &str = "migrate";
/// Heartbeats of all hosts.
pub const HOST_HEARTBEATS: &str = "heartbeat.host.*";
/// Heartbeats of all routers.
pub const ROUTER_HEARTBEATS: &str = "heartbeat.router.*";
/// Credentials requests of all hosts.
pub const CREDENTIALS: &str = "credentials.*";
/// Log lines of all apps.
pub const LOGS: &str = "logs.>";
/// Time between two heartbeats, in milliseconds.
pub const HEARTBEAT_MS: u64 = 1_000;
/// Silence after which a host counts as away, in milliseconds: three heartbeats.
pub const HEARTBEAT_MISSED_MS: u64 = 3_500;

/// Key of an app in [`DESIRED_BUCKET`].
pub fn desired_key(app: &AppId) -> String {
    format!("app.{app}")
}
/// Key of a replica in [`OBSERVED_BUCKET`].
pub fn replica_key(host: &HostId, app: &AppId) -> String {
    format!("host.{host}.{app}")
}
/// Key of a router's status in [`OBSERVED_BUCKET`].
pub fn router_key(router: &RouterId, app: &AppId) -> String {
    format!("router.{router}.{app}")
}
/// Key of a timer in [`TIMERS_BUCKET`].
pub fn timer_key(app: &AppId, timer: &str) -> String {
    format!("{app}.{timer}")
}
/// Where a host's heartbeats go.
pub fn host_heartbeat(host: &HostId) -> String {
    format!("heartbeat.host.{host}")
}
/// Where a router's heartbeats go.
pub fn router_heartbeat(router: &RouterId) -> String {
    format!("heartbeat.router.{router}")
}
/// Where a host asks for logins. The subject, which NATS guards, says who asks.
pub fn credentials(host: &HostId) -> String {
    format!("credentials.{host}")
}
/// Where a host publishes an app's log lines.
pub fn logs(app: &AppId, host: &HostId) -> String {
    format!("logs.{app}.{host}")
}
/// Log lines of one app, of all hosts.
pub fn logs_of(app: &AppId) -> String {
    format!("logs.{app}.>")
}
/// Inbox prefix of a host, router or migrator: nobody else in the account may listen there.
pub fn inbox(name: &str) -> String {
    format!("_INBOX.{name}")
}
