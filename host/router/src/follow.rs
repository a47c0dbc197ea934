//! Follows the stage: feeds the [`Table`], publishes what the router does, and keeps what it knows on disk.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::Client;
use async_nats::jetstream::{self, kv};
use futures_util::StreamExt as _;
use odeon_protocol::bucket::{self, News};
use odeon_protocol::routes::{Route, Table};
use odeon_protocol::{
    AppId, DesiredApp, HostHeartbeat, ReplicaStatus, RouterHeartbeat, RouterStatus, Signed, TrustedKeys,
    subjects,
};
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tracing::{info, warn};

use crate::Router;
use crate::proxy::Backend;

/// Wait before a lost watch is opened again, in milliseconds.
const WATCH_RETRY_MS: u64 = 500;
/// Time between two looks at the table when nothing is heard, in milliseconds: silence is news too.
const LOOK_MS: u64 = 500;
/// Time between two writes of the table to disk, in milliseconds: it is written whole, and may be tens of megabytes.
const SAVE_MS: u64 = 2_000;
/// Time between two readings of the table when news follow on news, in milliseconds.
const APPLY_MS: u64 = 50;
/// Statuses that are written at once.
const REPORTS_AT_ONCE: usize = 64;
/// Time between two comparisons of our statuses with the bucket, in seconds.
const COMPARE_S: u64 = 10;

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
    /// How long ago the connection was lost, if it is: silence then says nothing of hosts.
    away_since: Option<Instant>,
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

    /// Routes by what was known last.
    pub(crate) fn resume(&self) {
        let Ok(bytes) = std::fs::read(&self.file) else { return };
        match serde_json::from_slice::<Saved>(&bytes) {
            Ok(saved) => {
                saved.desired.into_iter().for_each(|sealed| self.hear_desired(sealed));
                let mut known = self.lock();
                saved.hosts.into_iter().for_each(|beat| known.table.remember_host(beat));
                saved.replicas.into_iter().for_each(|status| known.table.hear_replica(status));
                self.router.proxy.install(backends(&known.table.routes(Instant::now())));
            }
            Err(error) => warn!("{} cannot be read and is passed over: {error}", self.file.display()),
        }
    }

    pub(crate) fn run(self: &Arc<Self>, client: &Client, address: String, admin_address: String) {
        tokio::spawn(self.clone().follow(client.clone(), subjects::DESIRED_BUCKET));
        tokio::spawn(self.clone().follow(client.clone(), subjects::OBSERVED_BUCKET));
        tokio::spawn(self.clone().follow_hosts(client.clone()));
        tokio::spawn(self.clone().beat(client.clone(), address, admin_address));
        tokio::spawn(self.clone().apply(client.clone()));
    }

    async fn follow(self: Arc<Self>, client: Client, name: &'static str) {
        let jetstream = jetstream::new(client.clone());
        let open = || jetstream.get_key_value(name);
        bucket::follow(client, open, |news| {
            match (name, news) {
                (subjects::DESIRED_BUCKET, News::Opened) => self.router.mark_ready(),
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

    /// Brings the proxy, the disk and the bucket up to what the table says.
    async fn apply(self: Arc<Self>, client: Client) {
        let jetstream = jetstream::new(client.clone());
        let mut written: HashMap<AppId, RouterStatus> = HashMap::new();
        let mut saved = (0, None::<Instant>);
        let mut compared = Instant::now();
        let mut every = tokio::time::interval(Duration::from_millis(APPLY_MS));
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let _ = tokio::time::timeout(Duration::from_millis(LOOK_MS), self.changed.notified()).await;
            every.tick().await; // at once after a pause; else what comes meanwhile is read together
            let connected = client.connection_state() == async_nats::connection::State::Connected;
            let (routes, save) = {
                let mut known = self.lock();
                let now = self.now(&mut known, connected);
                let routes = known.table.routes(now);
                let is_due = saved.1.is_none_or(|at| at.elapsed() >= Duration::from_millis(SAVE_MS));
                let save = (is_due && known.version != saved.0).then(|| (known.version, snapshot(&known)));
                (routes, save)
            };
            self.router.proxy.install(backends(&routes));
            if let Some((version, snapshot)) = save {
                let file = self.file.clone();
                match tokio::task::spawn_blocking(move || keep(&file, &snapshot)).await {
                    Ok(Ok(())) => saved = (version, Some(Instant::now())),
                    Ok(Err(error)) => warn!("the table was not kept on disk: {error:#}"),
                    Err(error) => warn!("the table was not kept on disk: {error}"),
                }
            }
            if !connected {
                continue;
            }
            if compared.elapsed() > Duration::from_secs(COMPARE_S) {
                written.clear();
                compared = Instant::now();
            }
            let wanted = routes.into_iter().map(|route| RouterStatus {
                router: self.router.settings.router.clone(),
                incarnation: self.incarnation.clone(),
                app: route.app,
                generation: route.generation,
                replicas: route.replicas.into_iter().map(|(host, _)| host).collect(),
            });
            let news: Vec<_> = wanted.filter(|status| written.get(&status.app) != Some(status)).collect();
            if news.is_empty() {
                continue;
            }
            let Ok(bucket) = jetstream.get_key_value(subjects::OBSERVED_BUCKET).await else { continue };
            let writes = news.into_iter().map(|status| {
                let bucket = &bucket;
                async move {
                    let done = write_status(bucket, &status).await;
                    (status, done)
                }
            });
            let mut writes = futures_util::stream::iter(writes).buffer_unordered(REPORTS_AT_ONCE);
            while let Some((status, done)) = writes.next().await {
                match done {
                    Ok(()) => {
                        written.insert(status.app.clone(), status);
                    }
                    Err(error) => warn!("status not written: {error:#}"),
                }
            }
        }
    }

    /// The time by which hosts are judged. It stands still while we hear nothing at all.
    fn now(&self, known: &mut Known, connected: bool) -> Instant {
        let now = Instant::now();
        if connected {
            if known.away_since.take().is_some() {
                info!("connected again");
            }
            now
        } else {
            *known.away_since.get_or_insert(now)
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
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

async fn write_status(bucket: &kv::Store, status: &RouterStatus) -> Result<()> {
    let key = subjects::router_key(&status.router, &status.app);
    let bytes = serde_json::to_vec(status).context("encode a status")?;
    if bucket.get(&key).await.context("read our status")?.as_deref() != Some(&bytes) {
        bucket.put(&key, bytes.into()).await.context("write our status")?;
    }
    Ok(())
}
