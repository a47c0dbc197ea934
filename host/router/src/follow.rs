//! Follows the stage: feeds the [`Table`], brings the proxy up to what it says, and keeps what is known on disk.
//!
//! What must stay true: no answer of NATS and no disk is waited for between news and the routes that follow from them.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::{Client, jetstream};
use futures_util::StreamExt as _;
use odeon_protocol::bucket::{self, News};
use odeon_protocol::routes::{Route, Table};
use odeon_protocol::{
    AppId, DesiredApp, HostHeartbeat, ReplicaStatus, RouterHeartbeat, Signed, TrustedKeys, subjects,
};
use serde::{Deserialize, Serialize};
use tokio::sync::{Notify, watch};
use tracing::warn;

use crate::Router;
use crate::proxy::Backend;
use crate::report;

/// Wait before a lost watch is opened again, in milliseconds.
const WATCH_RETRY_MS: u64 = 500;
/// Time between two looks at the table when nothing is heard, in milliseconds: silence is news too.
const LOOK_MS: u64 = 500;
/// Time between two writes of the table to disk, in milliseconds: it is written whole, and may be tens of megabytes.
const SAVE_MS: u64 = 2_000;
/// Time between two readings of the table when news follow on news, in milliseconds.
const APPLY_MS: u64 = 50;
/// Every host is heard within this time, in milliseconds: before that the router is not ready.
const LISTEN_MS: u64 = 2 * subjects::HEARTBEAT_MS;

/// What the router knows, and where it writes it down.
pub(crate) struct Follower {
    router: Arc<Router>,
    trusted: TrustedKeys,
    known: Mutex<Known>,
    changed: Notify,
    file: PathBuf,
    incarnation: String,
}

#[derive(Default)]
struct Known {
    table: Table,
    sealed: BTreeMap<AppId, Signed<DesiredApp>>,
    /// Grows with all that is heard and worth keeping.
    version: u64,
    /// Whether the buckets of desired and of observed state were read to their ends.
    read: [bool; 2],
}

/// The file that outlives a restart.
#[derive(Serialize, Deserialize)]
struct Saved {
    desired: Vec<Signed<DesiredApp>>,
    hosts: Vec<HostHeartbeat>,
    replicas: Vec<ReplicaStatus>,
}

impl Follower {
    pub(crate) fn new(router: Arc<Router>, trusted: TrustedKeys) -> Arc<Self> {
        let file = router.settings.state_dir.join("table.json");
        let incarnation = uuid::Uuid::new_v4().to_string();
        Arc::new(Self { router, trusted, known: Mutex::default(), changed: Notify::new(), file, incarnation })
    }

    /// Routes by what was known last, and is ready if that was anything: whoever it was can be served without NATS.
    pub(crate) fn resume(&self) {
        let Ok(bytes) = std::fs::read(&self.file) else { return };
        match serde_json::from_slice::<Saved>(&bytes) {
            Ok(saved) => {
                saved.desired.into_iter().for_each(|sealed| self.hear_desired(sealed));
                let mut known = self.lock();
                saved.hosts.into_iter().for_each(|beat| known.table.remember_host(beat));
                saved.replicas.into_iter().for_each(|status| known.table.hear_replica(status));
                let routes = known.table.routes(Instant::now());
                drop(known);
                self.router.proxy.install(backends(&routes));
                if routes.iter().any(|route| !route.replicas.is_empty()) {
                    self.router.mark_ready();
                }
            }
            Err(error) => warn!("{} cannot be read and is passed over: {error}", self.file.display()),
        }
    }

    pub(crate) fn run(self: &Arc<Self>, client: &Client, address: String, admin_address: String) {
        tokio::spawn(self.clone().follow(client.clone(), subjects::DESIRED_BUCKET));
        tokio::spawn(self.clone().follow(client.clone(), subjects::OBSERVED_BUCKET));
        tokio::spawn(self.clone().follow_hosts(client.clone()));
        tokio::spawn(self.clone().beat(client.clone(), address, admin_address));
        let (installed, routes) = watch::channel(Arc::default());
        let me = (self.router.settings.router.clone(), self.incarnation.clone());
        tokio::spawn(report::report(client.clone(), me, routes));
        tokio::spawn(self.clone().apply(client.clone(), installed));
        tokio::spawn(self.clone().save());
    }

    async fn follow(self: Arc<Self>, client: Client, name: &'static str) {
        let jetstream = jetstream::new(client.clone());
        let open = || jetstream.get_key_value(name);
        bucket::follow(client, open, |news| {
            match (name, news) {
                (subjects::DESIRED_BUCKET, News::CaughtUp) => self.lock().read[0] = true,
                (subjects::OBSERVED_BUCKET, News::CaughtUp) => self.lock().read[1] = true,
                (subjects::DESIRED_BUCKET, News::Put { key, value }) => match serde_json::from_slice(value) {
                    Ok(sealed) => self.hear_desired(sealed),
                    Err(error) => warn!(key, "not sealed desired state: {error}"),
                },
                (subjects::OBSERVED_BUCKET, News::Put { key, value }) => self.hear_replica(key, Some(value)),
                (subjects::OBSERVED_BUCKET, News::Deleted { key }) => self.hear_replica(key, None),
                _ => {}
            }
            self.changed.notify_one();
        })
        .await;
    }

    fn hear_desired(&self, sealed: Signed<DesiredApp>) {
        let here = &self.router.settings;
        match sealed.open(&self.trusted) {
            Ok(desired) if desired.stage == here.stage && desired.organization == here.organization => {
                let app = desired.app.clone();
                let mut known = self.lock();
                if known.table.hear_desired(desired) {
                    known.sealed.insert(app, sealed);
                    known.version += 1;
                }
            }
            Ok(desired) => {
                warn!(app = %desired.app, stage = %desired.stage, "desired state of another stage refused")
            }
            Err(error) => warn!("desired state refused: {error}"),
        }
    }

    fn hear_replica(&self, key: &str, value: Option<&[u8]>) {
        let Some((host, app)) = key.strip_prefix("host.").and_then(|key| key.split_once('.')) else {
            return;
        };
        let mut known = self.lock();
        known.version += 1;
        if let Some(value) = value {
            if let Some(status) = ReplicaStatus::heard(key, value) {
                known.table.hear_replica(status);
            }
        } else if let (Ok(host), Ok(app)) = (host.parse(), app.parse()) {
            known.table.forget_replica(&app, &host);
        }
    }

    async fn follow_hosts(self: Arc<Self>, client: Client) {
        loop {
            match client.subscribe(subjects::HOST_HEARTBEATS).await {
                Ok(mut beats) => {
                    while let Some(message) = beats.next().await {
                        let Some(beat) = HostHeartbeat::heard(&message) else { continue };
                        let mut known = self.lock();
                        if known.table.hear_host(beat, Instant::now()) {
                            known.version += 1;
                            drop(known);
                            self.changed.notify_one();
                        }
                    }
                }
                Err(error) => warn!("cannot listen to heartbeats: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(WATCH_RETRY_MS)).await;
        }
    }

    async fn beat(self: Arc<Self>, client: Client, address: String, admin_address: String) {
        let router = self.router.settings.router.clone();
        let subject = subjects::router_heartbeat(&router);
        let beat = RouterHeartbeat {
            router,
            incarnation: self.incarnation.clone(),
            address,
            admin_address,
            pid: std::process::id(),
        };
        let payload = serde_json::to_vec(&beat).expect("a heartbeat has string keys only");
        let mut every = tokio::time::interval(Duration::from_millis(subjects::HEARTBEAT_MS));
        loop {
            every.tick().await;
            if let Err(error) = client.publish(subject.clone(), payload.clone().into()).await {
                warn!("heartbeat not sent: {error}");
            }
        }
    }

    /// Brings the proxy up to what the table says.
    async fn apply(self: Arc<Self>, client: Client, installed: watch::Sender<Arc<Vec<Route>>>) {
        let mut every = tokio::time::interval(Duration::from_millis(APPLY_MS));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let _ = tokio::time::timeout(Duration::from_millis(LOOK_MS), self.changed.notified()).await;
            every.tick().await; // at once after a pause; else what comes meanwhile is read together
            let is_connected = client.connection_state() == async_nats::connection::State::Connected;
            let (routes, is_ready) = {
                let mut known = self.lock();
                let now = known.table.judged_by(Instant::now(), is_connected);
                (known.table.routes(now), known.is_all_heard(now))
            };
            self.router.proxy.install(backends(&routes));
            if is_ready {
                self.router.mark_ready();
            }
            installed.send_if_modified(|before| {
                let is_news = **before != routes;
                if is_news {
                    *before = Arc::new(routes);
                }
                is_news
            });
        }
    }

    /// Keeps what is known on disk, for a start without NATS.
    async fn save(self: Arc<Self>) {
        let mut saved = 0;
        loop {
            tokio::time::sleep(Duration::from_millis(SAVE_MS)).await;
            let (version, snapshot) = {
                let known = self.lock();
                if known.version == saved {
                    continue;
                }
                (known.version, snapshot(&known))
            };
            let file = self.file.clone();
            match tokio::task::spawn_blocking(move || keep(&file, &snapshot)).await {
                Ok(Ok(())) => saved = version,
                Ok(Err(error)) => warn!("the table was not kept on disk: {error:#}"),
                Err(error) => warn!("the table was not kept on disk: {error}"),
            }
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Known {
    /// Whether all that the stage serves is known, with the hosts that do.
    fn is_all_heard(&self, now: Instant) -> bool {
        let is_long = |since| now.saturating_duration_since(since) >= Duration::from_millis(LISTEN_MS);
        self.read == [true; 2] && self.table.listening().is_some_and(is_long)
    }
}

fn backends(routes: &[Route]) -> HashMap<String, Vec<Backend>> {
    let named = routes.iter().filter(|route| !route.name.is_empty());
    let backend = |(_, address): &(_, String)| Backend { address: address.as_str().into() };
    named.map(|route| (route.name.clone(), route.replicas.iter().map(backend).collect())).collect()
}

fn snapshot(known: &Known) -> Saved {
    let (hosts, replicas) = known.table.snapshot();
    Saved { desired: known.sealed.values().cloned().collect(), hosts, replicas }
}

fn keep(file: &std::path::Path, saved: &Saved) -> Result<()> {
    let bytes = serde_json::to_vec(saved).context("encode the table")?;
    let new = file.with_extension("new");
    std::fs::write(&new, bytes).with_context(|| format!("write {}", new.display()))?;
    std::fs::rename(&new, file).with_context(|| format!("put {} in place", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_ready_when_all_was_read_and_every_host_had_time_to_be_heard() {
        let start = Instant::now();
        let after = |ms| start + Duration::from_millis(ms);
        let mut known = Known { read: [true; 2], ..Known::default() };
        known.table.judged_by(start, false);
        assert!(!known.is_all_heard(after(60_000)), "of what was read, nobody knows whether it is so");
        known.table.judged_by(after(61_000), true);
        assert!(!known.is_all_heard(after(61_000)) && known.is_all_heard(after(61_000 + LISTEN_MS)));
        known.read[1] = false;
        assert!(!known.is_all_heard(after(61_000 + LISTEN_MS)), "what hosts serve is not known");
    }
}
