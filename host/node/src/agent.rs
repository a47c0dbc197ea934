//! The agent: brings this host to its stage's desired state, and says how far it is.
//!
//! It watches the KV bucket of sealed desired state. What is not sealed, meant for another stage, or not newer
//! is refused; what is missing means nothing. Loading happens in tasks of its own with a bound, never in the
//! loop that listens, and the heartbeat has a task of its own: nothing blocks either.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::Client;
use async_nats::jetstream::{self, kv};
use futures_util::StreamExt as _;
use odeon_capabilities::Settings;
use odeon_capabilities::sql::session::Database;
use odeon_engine::Payer;
use odeon_protocol::bucket::{self, News};
use odeon_protocol::calls::AUTHORITY;
use odeon_protocol::{
    AppId, Claim, DesiredApp, DesiredState, Digest, Generation, HostHeartbeat, ReplicaState, ReplicaStatus,
    Serving, Signed, TrustedKeys, subjects,
};
use tokio::sync::{Notify, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Host;
use crate::apps::Served;
use crate::desired::Reader;
use crate::events;
use crate::loader::{FETCH_PAUSE_MS, FETCH_TRIES_MAX, Lately, Placement, blocking};
use crate::logs::AppLog;
use crate::peers::Caller;
use crate::timers::AppTimers;

/// Apps that are loaded at once.
const LOADS_AT_ONCE: usize = 4;
/// Wait before a failed load is tried again, in seconds; doubles each time, up to [`RETRY_S_MAX`].
const RETRY_S: u64 = 1;
/// See [`RETRY_S`].
const RETRY_S_MAX: u64 = 60;
/// Routers need this long to learn that an app leaves, in milliseconds.
const LEAVE_MS: u64 = 2_000;
/// Time between two comparisons of our statuses with the bucket, in seconds.
const COMPARE_S: u64 = 10;
/// Statuses that are compared then: a host with more takes its turns.
const COMPARED_MAX: usize = 500;
/// Statuses that are written at once.
const REPORTS_AT_ONCE: usize = 64;
/// Wait before a lost watch is opened again, in milliseconds.
const WATCH_RETRY_MS: u64 = 500;
/// Time between two looks for artefacts that nobody uses, in seconds.
const TIDY_S: u64 = 10;
/// How long a host that knows what it served before waits to read what is wanted now, in milliseconds: NATS may be away.
const RESUME_MS: u64 = 2_000;
/// When it has been read what is wanted, the host is ready after so long at the latest, in seconds.
const READY_S_MAX: u64 = 60;
/// Time between two looks whether all of that is served, in milliseconds.
const READY_LOOK_MS: u64 = 50;
/// Requests that may wait for an instance, per app.
const QUEUE_MAX: usize = 1_024;

/// What the agent knows.
pub(crate) struct Agent {
    host: Arc<Host>,
    reader: Reader,
    incarnation: String,
    loads: Semaphore,
    known: Mutex<BTreeMap<AppId, DesiredApp>>,
    /// Desired state that is not on the disk yet, the newest of each app.
    unkept: Mutex<BTreeMap<AppId, Signed<DesiredApp>>>,
    /// Held while desired state is written to disk: the newest is written last.
    keeping: tokio::sync::Mutex<()>,
    /// The artefacts that apps are loaded from.
    artefacts: Mutex<BTreeMap<AppId, [Digest; 2]>>,
    statuses: Mutex<Statuses>,
    changed: Notify,
    /// Whether what is wanted was read, from the disk or to the end of the bucket.
    read: watch::Sender<Read>,
}

/// What was read of what is wanted.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Read {
    Nothing,
    /// What was wanted when the host stopped.
    Disk,
    All,
}

/// That an app is to serve here.
#[derive(Clone, Copy)]
struct ToServe<'a> {
    app: &'a AppId,
    generation: Generation,
    serving: &'a Serving,
    placement: Placement,
    /// It was not known before a restart: what fails is to be told.
    is_new: bool,
}

/// What was loaded for a placement.
struct Loaded {
    claim: Claim,
    settings: Settings,
}

/// What this host says of its apps; `None` where it has nothing to say any more.
#[derive(Default)]
struct Statuses {
    all: BTreeMap<AppId, Option<ReplicaStatus>>,
    /// Those that may differ from what is in the bucket.
    unwritten: BTreeSet<AppId>,
    /// Others are being written.
    are_written: bool,
    /// The app up to which they were compared.
    compared: Option<AppId>,
}

impl Statuses {
    fn set(&mut self, app: &AppId, status: Option<ReplicaStatus>) {
        self.all.insert(app.clone(), status);
        self.unwritten.insert(app.clone());
    }

    /// Marks the next of them as perhaps not written: the bucket may have been emptied or restored.
    fn compare(&mut self) {
        let from = self.compared.take().map_or(Bound::Unbounded, Bound::Excluded);
        let next: Vec<AppId> =
            self.all.range((from, Bound::Unbounded)).take(COMPARED_MAX).map(|(app, _)| app.clone()).collect();
        self.compared = (next.len() == COMPARED_MAX).then(|| next.last().cloned()).flatten();
        self.unwritten.extend(next);
    }

    /// Whether it was told of an app what came of that generation, or a newer one: it serves, has failed or has left.
    fn is_settled(&self, app: &AppId, generation: Generation) -> bool {
        let is_end =
            |told: &ReplicaStatus| told.generation >= generation && told.state != ReplicaState::Loading;
        self.all.get(app).is_some_and(|told| told.as_ref().is_none_or(is_end))
    }

    /// Whether all of this is in the bucket.
    fn are_known(&self) -> bool {
        self.unwritten.is_empty() && !self.are_written
    }

    fn take_unwritten(&mut self) -> Vec<(AppId, Option<ReplicaStatus>)> {
        let apps = std::mem::take(&mut self.unwritten);
        self.are_written = !apps.is_empty();
        apps.into_iter().filter_map(|app| Some((app.clone(), self.all.get(&app)?.clone()))).collect()
    }
}

impl Agent {
    pub(crate) fn new(host: Arc<Host>, trusted: TrustedKeys) -> Arc<Self> {
        let (organization, stage) = (host.settings.organization.clone(), host.settings.stage.clone());
        let reader = Reader { organization, stage, trusted, secrets: host.secrets.clone() };
        Arc::new(Self {
            host,
            reader,
            incarnation: uuid::Uuid::new_v4().to_string(),
            loads: Semaphore::new(LOADS_AT_ONCE),
            known: Mutex::default(),
            unkept: Mutex::default(),
            keeping: tokio::sync::Mutex::default(),
            artefacts: Mutex::default(),
            statuses: Mutex::default(),
            changed: Notify::new(),
            read: watch::Sender::new(Read::Nothing),
        })
    }

    /// Serves what was known last, whether or not anyone can be asked. A host that knew something can do its
    /// work without NATS.
    pub(crate) async fn resume(self: &Arc<Self>) {
        let names = self.host.state.desired_names();
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let share = names.len().div_ceil(threads).max(1);
        let reads = names.chunks(share).map(|names| {
            let (agent, names) = (self.clone(), names.to_owned());
            // Reading and checking seals is work for the CPU, and there may be tens of thousands.
            blocking(move || {
                let read = |name: String| agent.open(agent.host.state.desired(&name)?);
                Ok(names.into_iter().filter_map(read).collect::<Vec<_>>())
            })
        });
        for read in futures_util::future::join_all(reads).await {
            match read {
                Ok(known) => known.into_iter().for_each(|(desired, _)| {
                    self.learn(desired, None);
                    self.read.send_replace(Read::Disk);
                }),
                Err(error) => warn!("desired state on disk was not read: {error:#}"),
            }
        }
    }

    /// Follows desired state for ever.
    pub(crate) async fn follow(self: Arc<Self>, client: Client) {
        let jetstream = jetstream::new(client.clone());
        let open = || jetstream.get_key_value(subjects::DESIRED_BUCKET);
        bucket::follow(client, open, |news| match news {
            News::Put { key, value } => match serde_json::from_slice::<Signed<DesiredApp>>(value) {
                Ok(sealed) => self.hear(sealed),
                Err(error) => warn!(key, "not sealed desired state: {error}"),
            },
            News::CaughtUp => drop(self.read.send_replace(Read::All)),
            News::Opened | News::Deleted { .. } => {} // absence means nothing
        })
        .await;
    }

    /// Says that the host is ready, when all is served that is wanted of it, or has failed, and whoever `is_there` knows: an operator who
    /// starts hosts anew, one after the other, stops the next one then.
    pub(crate) async fn become_ready(self: Arc<Self>, is_there: impl Fn() -> bool) {
        let mut read = self.read.subscribe();
        if *read.borrow() == Read::Disk {
            let all = read.wait_for(|read| *read == Read::All);
            let _ = tokio::time::timeout(Duration::from_millis(RESUME_MS), all).await; // then by what it knows
        }
        let _ = read.wait_for(|read| *read > Read::Nothing).await;
        let mut open: Vec<(AppId, Generation)> = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            let is_wanted = |desired: &&DesiredApp| matches!(&desired.state, DesiredState::Serving(serving) if self.is_here(serving));
            known
                .values()
                .filter(is_wanted)
                .map(|desired| (desired.app.clone(), desired.generation))
                .collect()
        };
        let mut is_settled = || {
            let statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner);
            open.retain(|(app, generation)| !statuses.is_settled(app, *generation));
            open.is_empty() && (statuses.are_known() || !is_there())
        };
        let settled = async {
            while !is_settled() {
                tokio::time::sleep(Duration::from_millis(READY_LOOK_MS)).await;
            }
        };
        let settled = tokio::time::timeout(Duration::from_secs(READY_S_MAX), settled).await;
        if settled.is_err() {
            warn!(apps = open.len(), "the host is ready without some of its apps, which are not loaded yet");
        }
        self.host.mark_ready();
    }

    /// Checks a piece of desired state and acts on it if it is news.
    fn hear(self: &Arc<Self>, sealed: Signed<DesiredApp>) {
        if let Some((desired, sealed)) = self.open(sealed) {
            self.learn(desired, Some(sealed));
        }
    }

    /// Desired state, if it is sealed and meant for this stage.
    fn open(&self, sealed: Signed<DesiredApp>) -> Option<(DesiredApp, Signed<DesiredApp>)> {
        match self.reader.open(&sealed) {
            Ok(desired) => Some((desired, sealed)),
            Err(error) => {
                warn!("{:#}", anyhow::Error::new(error));
                None
            }
        }
    }

    /// Acts on desired state that was checked, if it is news; `sealed` when it is not on the disk yet.
    fn learn(self: &Arc<Self>, desired: DesiredApp, sealed: Option<Signed<DesiredApp>>) {
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.get(&desired.app).is_some_and(|have| have.generation >= desired.generation) {
                return;
            }
            known.insert(desired.app.clone(), desired.clone());
            if let Some(sealed) = sealed.clone() {
                let mut unkept = self.unkept.lock().unwrap_or_else(PoisonError::into_inner);
                unkept.insert(desired.app.clone(), sealed); // under one lock: it is the newest
            }
        }
        self.host.peers.hear(desired.clone());
        let (agent, is_new) = (self.clone(), sealed.is_some());
        tokio::spawn(async move {
            if is_new {
                agent.keep().await;
            }
            agent.act(desired, is_new).await;
        });
    }

    /// Keeps desired state on disk, for a start without NATS: with that of all who wait for the same. What could not be written is tried
    /// again by [`Self::tidy`].
    async fn keep(&self) {
        let _turn = self.keeping.lock().await;
        let batch = std::mem::take(&mut *self.unkept.lock().unwrap_or_else(PoisonError::into_inner));
        if batch.is_empty() {
            return; // somebody before us wrote it
        }
        let state = self.host.state.clone();
        let (batch, kept) = match blocking(move || Ok((state.put_desired(&batch), batch))).await {
            Ok((kept, batch)) => (batch, kept),
            Err(error) => (BTreeMap::new(), Err(error)),
        };
        if let Err(error) = kept {
            warn!("desired state was not kept on disk: {error:#}");
            let mut unkept = self.unkept.lock().unwrap_or_else(PoisonError::into_inner);
            for (app, sealed) in batch {
                unkept.entry(app).or_insert(sealed); // unless there is newer news
            }
        }
    }

    async fn act(&self, desired: DesiredApp, is_new: bool) {
        let DesiredApp { app, generation, state, .. } = desired;
        match state {
            DesiredState::Serving(serving) if self.is_here(&serving) => {
                if is_new {
                    self.tell(&app, generation, ReplicaState::Loading);
                }
                self.serve(&app, generation, &serving, is_new).await;
            }
            DesiredState::Serving(_) | DesiredState::Removed => self.leave(&app, generation).await,
        }
    }

    /// Loads an app and serves it. What fails is told, and tried again for as long as it is wanted: what
    /// was missing (NATS, the migrator, room on the disk) may come back, and nobody else would ask.
    async fn serve(&self, app: &AppId, generation: Generation, serving: &Serving, is_new: bool) {
        let placement = self.host.loader.place(); // for all tries: what one of them loaded is there for the next
        if !self.serve_newest(ToServe { app, generation, serving, placement, is_new }).await {
            self.undo(placement, app).await;
        }
    }

    /// False when newer news came meanwhile, which has a task of its own.
    async fn serve_newest(&self, asked: ToServe<'_>) -> bool {
        let ToServe { app, generation, .. } = asked;
        let mut pause = Duration::from_secs(RETRY_S);
        loop {
            let Ok(turn) = self.loads.acquire().await else { return false };
            let loaded = self.load(asked).await;
            drop(turn);
            if !self.is_newest(app, generation) {
                return false;
            }
            match loaded {
                Ok(loaded) => {
                    let Some((served, before)) = self.replace(asked, loaded) else { return false };
                    info!(%app, name = served.name, revision = %served.revision, %generation, "serving");
                    for gone in before {
                        self.host.loader.forget(gone.placement).await;
                        if gone.name != served.name {
                            self.host.metrics.requests.forget(&gone.name);
                        }
                    }
                    events::look_after(&self.host, &served);
                    self.tell(app, generation, ReplicaState::Ready);
                    return true;
                }
                Err(error) => {
                    warn!(%app, %generation, "cannot serve: {error:#}");
                    let (code, message) = ("OS-BERT-50010".into(), format!("{error:#}"));
                    self.tell(app, generation, ReplicaState::Failed { code, message });
                }
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_secs(RETRY_S_MAX));
            if !self.is_newest(app, generation) {
                return false;
            }
        }
    }

    /// Takes back what was done for news that came to nothing. The login is the app's, not the revision's: it stays
    /// while the app serves here, or is to.
    async fn undo(&self, placement: Placement, app: &AppId) {
        self.host.loader.forget(placement).await;
        let is_placed = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.get(app).is_some_and(
                |desired| matches!(&desired.state, DesiredState::Serving(serving) if self.is_here(serving)),
            )
        };
        if !is_placed && self.host.apps.serving(app).is_none() {
            self.host.pools.forget(app.as_str()).await;
            self.host.state.remove_login(app);
        }
    }

    fn is_here(&self, serving: &Serving) -> bool {
        serving.placements.contains(&self.host.settings.host)
    }

    /// Stops serving an app: first the routers learn it, then new requests are refused; running ones end.
    async fn leave(&self, app: &AppId, generation: Generation) {
        if self.host.apps.serving(app).is_some() {
            self.tell(app, generation, ReplicaState::Draining);
            tokio::time::sleep(Duration::from_millis(LEAVE_MS)).await;
        }
        if self.is_newest(app, generation) {
            let gone = self.host.apps.remove(app, generation);
            self.host.accounts.close(app);
            if let Some(gone) = gone {
                self.host.loader.forget(gone.placement).await;
                self.host.metrics.requests.forget(&gone.name);
            }
            self.host.pools.forget(app.as_str()).await;
            self.host.state.remove_login(app);
            self.artefacts.lock().unwrap_or_else(PoisonError::into_inner).remove(app);
            self.statuses.lock().unwrap_or_else(PoisonError::into_inner).set(app, None);
            self.changed.notify_one();
        }
    }

    /// Loads what a placement needs. What was deployed now is loaded whole, so that its failures are told; of what was
    /// served before a restart, and whose code is on the disk, the code is loaded when it is asked for.
    async fn load(&self, asked: ToServe<'_>) -> Result<Loaded> {
        let ToServe { app, generation, serving, placement, is_new } = asked;
        let claim = self.reader.claim(app, &serving.claim)?;
        let settings = self.reader.settings(app, &serving.settings)?;
        let loader = &self.host.loader;
        {
            let mut artefacts = self.artefacts.lock().unwrap_or_else(PoisonError::into_inner);
            // Asked under the lock: whoever has newer news of the app comes to it later.
            ensure!(self.is_newest(app, generation), "newer news came before it was loaded");
            artefacts.insert(app.clone(), [loader.artefact(&claim).clone(), claim.wasm.clone()]);
        }
        if is_new || !loader.is_on_disk(&claim) {
            loader.prepare(placement, &claim).await?;
        }
        if serving.database {
            self.login(app).await?;
        }
        Ok(Loaded { claim, settings })
    }

    /// Serves what was loaded, in the place of the revision before, and gives what serves no longer; `None` when there is
    /// newer news. Whoever has that waits for the lock, so that nothing of older news comes after it.
    fn replace(&self, asked: ToServe<'_>, loaded: Loaded) -> Option<(Arc<Served>, Vec<Arc<Served>>)> {
        let ToServe { app, generation, serving, placement, .. } = asked;
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(app).filter(|desired| desired.generation == generation)?;
        let Loaded { claim, settings } = loaded;
        let instances = serving.limits.instances_max as usize;
        let log = AppLog::new(self.host.logs.clone(), app.clone(), claim.revision);
        let account = self.host.accounts.open(app, &serving.limits);
        let payer = Payer::new(self.host.engine.scheduler().clone(), account.cpu.clone());
        let egress = self.host.gateway.app(app.as_str(), serving.egress_allow.iter().cloned());
        let caller = Arc::new(Caller { host: self.host.this.clone(), app: app.clone() });
        let egress = egress.with_apps(AUTHORITY, caller).paid_by(payer.clone());
        let outbox = Arc::<Notify>::default();
        let database = serving.database.then(|| {
            let database = Database::new(self.host.pools.clone(), app.as_str()).telling(outbox.clone());
            Arc::new(database.within(account.memory.clone()).paid_by(payer))
        });
        Some(self.host.apps.replace(Served {
            id: app.clone(),
            name: serving.name.to_string(),
            revision: claim.revision,
            generation,
            placement,
            lately: Lately::default(),
            claim,
            limits: serving.limits.clone(),
            account,
            requests: self.host.metrics.requests.of(&serving.name.to_string()),
            log: Arc::new(log),
            egress: Arc::new(egress),
            settings: Arc::new(settings),
            timers: Arc::new(AppTimers::new(app, &self.host.client, &serving.timers)),
            handlers: serving.handlers.clone(),
            publishes: serving.publishes,
            outbox,
            retired: CancellationToken::new(),
            database,
            instances: Arc::new(Semaphore::new(instances)),
            queue: Semaphore::new(QUEUE_MAX),
            unload: CancellationToken::new(),
        }))
    }

    /// Whoever is told that this host is ready may send a request at once: the login must be here by then.
    async fn login(&self, app: &AppId) -> Result<()> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.host.pools.prepare(app.as_str()).await {
                Ok(()) => return Ok(()),
                Err(error) if tries == FETCH_TRIES_MAX => anyhow::bail!("get the app's login: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(FETCH_PAUSE_MS)).await,
            }
        }
    }

    /// Removes the oldest artefacts that no app here uses, when others came, and keeps what could not be kept before.
    pub(crate) async fn tidy(self: Arc<Self>) {
        loop {
            tokio::time::sleep(Duration::from_secs(TIDY_S)).await;
            self.keep().await;
            if !self.host.loader.take_stored() {
                continue;
            }
            let used: BTreeSet<String> = {
                let artefacts = self.artefacts.lock().unwrap_or_else(PoisonError::into_inner);
                artefacts.values().flatten().map(ToString::to_string).collect()
            };
            let state = self.host.state.clone();
            let trimmed = blocking(move || {
                state.trim_objects(&used);
                Ok(())
            });
            if let Err(error) = trimmed.await {
                warn!("artefacts were not trimmed: {error:#}");
            }
        }
    }

    fn is_newest(&self, app: &AppId, generation: Generation) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.get(app).is_some_and(|desired| desired.generation == generation)
    }

    fn tell(&self, app: &AppId, generation: Generation, state: ReplicaState) {
        let status = ReplicaStatus {
            host: self.host.settings.host.clone(),
            incarnation: self.incarnation.clone(),
            app: app.clone(),
            generation,
            serving: self.host.apps.serving(app),
            state,
        };
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).set(app, Some(status));
        self.changed.notify_one();
    }

    /// Writes statuses into the bucket: what changed at once, and now and then whatever differs there.
    pub(crate) async fn report(self: Arc<Self>, client: Client) {
        let jetstream = jetstream::new(client);
        let mut compared = Instant::now();
        loop {
            let _ =
                tokio::time::timeout_at(compared + Duration::from_secs(COMPARE_S), self.changed.notified())
                    .await;
            if compared.elapsed() >= Duration::from_secs(COMPARE_S) {
                self.statuses.lock().unwrap_or_else(PoisonError::into_inner).compare();
                compared = Instant::now();
            }
            let Ok(bucket) = jetstream.get_key_value(subjects::OBSERVED_BUCKET).await else {
                tokio::time::sleep(Duration::from_millis(WATCH_RETRY_MS)).await;
                self.changed.notify_one();
                continue;
            };
            let unwritten = self.statuses.lock().unwrap_or_else(PoisonError::into_inner).take_unwritten();
            let writes = unwritten.into_iter().map(|(app, status)| {
                let (agent, bucket) = (&self, &bucket);
                async move {
                    let written = agent.write_status(bucket, &app, status.as_ref()).await;
                    written.err().map(|error| (app, error))
                }
            });
            let failed: Vec<_> = futures_util::stream::iter(writes)
                .buffer_unordered(REPORTS_AT_ONCE)
                .filter_map(|failed| async { failed })
                .collect()
                .await;
            self.statuses.lock().unwrap_or_else(PoisonError::into_inner).are_written = false;
            if let Some((app, error)) = failed.first() {
                warn!(%app, statuses = failed.len(), "statuses not written: {error:#}");
                let failed = failed.into_iter().map(|(app, _)| app);
                self.statuses.lock().unwrap_or_else(PoisonError::into_inner).unwritten.extend(failed);
                self.changed.notify_one();
                tokio::time::sleep(Duration::from_millis(WATCH_RETRY_MS)).await;
            }
        }
    }

    async fn write_status(
        &self,
        bucket: &kv::Store,
        app: &AppId,
        status: Option<&ReplicaStatus>,
    ) -> Result<()> {
        let key = subjects::replica_key(&self.host.settings.host, app);
        let there = bucket.get(&key).await.context("read our status")?;
        match status {
            Some(status) => {
                let bytes = serde_json::to_vec(status).context("encode a status")?;
                if there.as_deref() != Some(&bytes) {
                    bucket.put(&key, bytes.into()).await.context("write our status")?;
                }
            }
            None if there.is_some() => bucket.delete(&key).await.context("delete our status")?,
            None => {}
        }
        Ok(())
    }

    /// Says that we are alive, every second, whatever else happens.
    pub(crate) async fn beat(self: Arc<Self>, client: Client, address: String, admin_address: String) {
        let settings = &self.host.settings;
        let subject = subjects::host_heartbeat(&settings.host);
        let mut every = tokio::time::interval(Duration::from_millis(subjects::HEARTBEAT_MS));
        loop {
            every.tick().await;
            let beat = HostHeartbeat {
                host: settings.host.clone(),
                zone: settings.zone.clone(),
                incarnation: self.incarnation.clone(),
                address: address.clone(),
                admin_address: admin_address.clone(),
                pid: std::process::id(),
                accepting: !self.host.is_stopping(),
                ready: u32::try_from(self.host.apps.len()).unwrap_or(u32::MAX),
            };
            let payload = serde_json::to_vec(&beat).expect("a heartbeat has string keys only");
            if let Err(error) = client.publish(subject.clone(), payload.into()).await {
                warn!("heartbeat not sent: {error}");
            }
        }
    }
}

#[cfg(test)]
#[path = "agent_tests.rs"]
mod tests;
