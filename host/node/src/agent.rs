//! The agent: brings this host to its stage's desired state, and says how far it is.
//!
//! It watches the KV bucket of sealed desired state. What is not sealed, meant for another stage, or not newer
//! is refused; what is missing means nothing. Loading happens in tasks of its own with a bound, never in the
//! loop that listens, and the heartbeat has a task of its own: nothing blocks either.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use async_nats::Client;
use async_nats::jetstream::{self, kv};
use odeon_capabilities::Settings;
use odeon_engine::artefact::{self, Verified};
use odeon_engine::wasmtime::component::Component;
use odeon_engine::{App, Fits};
use odeon_protocol::bucket::{self, News};
use odeon_protocol::secrets::Place;
use odeon_protocol::{
    AppId, Claim, DesiredApp, DesiredState, Digest, Generation, HostHeartbeat, ReplicaState, ReplicaStatus,
    Serving, SettingValue, Signed, TrustedKeys, subjects,
};
use tokio::io::AsyncReadExt as _;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::Host;
use crate::apps::Served;
use crate::compile::{in_child, to_anyhow};
use crate::events;
use crate::timers::AppTimers;

/// Apps that are loaded at once.
const LOADS_AT_ONCE: usize = 4;
/// How often a load is tried that failed for want of NATS, before it counts as failed.
const FETCH_TRIES_MAX: u32 = 5;
/// Wait between two tries, in milliseconds.
const FETCH_PAUSE_MS: u64 = 300;
/// Wait before a failed load is tried again, in seconds; doubles each time, up to [`RETRY_S_MAX`].
const RETRY_S: u64 = 1;
/// See [`RETRY_S`].
const RETRY_S_MAX: u64 = 60;
/// Routers need this long to learn that an app leaves, in milliseconds.
const LEAVE_MS: u64 = 2_000;
/// Time between two comparisons of our statuses with the bucket, in seconds.
const COMPARE_S: u64 = 10;
/// Wait before a lost watch is opened again, in milliseconds.
const WATCH_RETRY_MS: u64 = 500;
/// Requests that may wait for an instance, per app.
const QUEUE_MAX: usize = 1_024;

/// What the agent knows.
pub(crate) struct Agent {
    host: Arc<Host>,
    trusted: TrustedKeys,
    incarnation: String,
    loads: Semaphore,
    known: Mutex<BTreeMap<AppId, DesiredApp>>,
    /// Held while desired state is written to disk: the newest is written last.
    keeping: tokio::sync::Mutex<()>,
    /// The artefacts that apps were loaded from.
    objects: Mutex<BTreeMap<AppId, Digest>>,
    statuses: Mutex<BTreeMap<AppId, Option<ReplicaStatus>>>,
    changed: Notify,
}

impl Agent {
    pub(crate) fn new(host: Arc<Host>, trusted: TrustedKeys) -> Arc<Self> {
        Arc::new(Self {
            host,
            trusted,
            incarnation: uuid::Uuid::new_v4().to_string(),
            loads: Semaphore::new(LOADS_AT_ONCE),
            known: Mutex::default(),
            keeping: tokio::sync::Mutex::default(),
            objects: Mutex::default(),
            statuses: Mutex::default(),
            changed: Notify::new(),
        })
    }

    /// Serves what was known last, whether or not anyone can be asked. A host that knew something can do its
    /// work without NATS.
    pub(crate) fn resume(self: &Arc<Self>) {
        for sealed in self.host.state.desired() {
            self.hear(&sealed);
            self.host.mark_ready();
        }
    }

    /// Follows desired state for ever.
    pub(crate) async fn follow(self: Arc<Self>, client: Client) {
        let jetstream = jetstream::new(client.clone());
        let open = || jetstream.get_key_value(subjects::DESIRED_BUCKET);
        bucket::follow(client, open, |news| match news {
            News::Opened => self.host.mark_ready(),
            News::Put { key, value } => match serde_json::from_slice::<Signed<DesiredApp>>(value) {
                Ok(sealed) => self.hear(&sealed),
                Err(error) => warn!(key, "not sealed desired state: {error}"),
            },
            News::Deleted { .. } | News::CaughtUp => {} // absence means nothing
        })
        .await;
    }

    /// Checks a piece of desired state and acts on it if it is news.
    fn hear(self: &Arc<Self>, sealed: &Signed<DesiredApp>) {
        let desired = match sealed.open(&self.trusted) {
            Ok(desired) => desired,
            Err(error) => return warn!("desired state refused: {error}"),
        };
        let here = &self.host.settings;
        if desired.stage != here.stage || desired.organization != here.organization {
            return warn!(app = %desired.app, stage = %desired.stage, "desired state of another stage refused");
        }
        {
            let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            if known.get(&desired.app).is_some_and(|have| have.generation >= desired.generation) {
                return;
            }
            known.insert(desired.app.clone(), desired.clone());
        }
        self.host.peers.hear(desired.clone());
        let (agent, sealed) = (self.clone(), sealed.clone());
        tokio::spawn(async move {
            agent.keep(&desired, sealed).await;
            agent.act(desired).await;
        });
    }

    /// Keeps desired state on disk, for a start without NATS.
    async fn keep(&self, desired: &DesiredApp, sealed: Signed<DesiredApp>) {
        let _turn = self.keeping.lock().await;
        if !self.is_newest(&desired.app, desired.generation) {
            return;
        }
        let (state, app) = (self.host.state.clone(), desired.app.clone());
        if let Err(error) = blocking(move || state.put_desired(&app, &sealed)).await {
            warn!(app = %desired.app, "desired state was not kept on disk: {error:#}");
        }
    }

    async fn act(&self, desired: DesiredApp) {
        let DesiredApp { app, generation, state, .. } = desired;
        match state {
            DesiredState::Serving(serving) if serving.placements.contains(&self.host.settings.host) => {
                self.tell(&app, generation, ReplicaState::Loading);
                self.serve(&app, generation, &serving).await;
            }
            DesiredState::Serving(_) | DesiredState::Removed => self.leave(&app, generation).await,
        }
    }

    /// Loads an app and serves it. What fails is told, and tried again for as long as it is wanted: what
    /// was missing (NATS, the migrator, room on the disk) may come back, and nobody else would ask.
    async fn serve(&self, app: &AppId, generation: Generation, serving: &Serving) {
        let mut pause = Duration::from_secs(RETRY_S);
        loop {
            let Ok(turn) = self.loads.acquire().await else { return };
            let outcome = self.load(app, generation, serving).await;
            drop(turn);
            if !self.is_newest(app, generation) {
                return; // newer news came meanwhile, and has a task of its own
            }
            match outcome {
                Ok(served) => {
                    info!(%app, name = served.name, revision = %served.revision, %generation, "serving");
                    let served = self.host.apps.replace(served);
                    events::look_after(&self.host, &served);
                    return self.tell(app, generation, ReplicaState::Ready);
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
                return;
            }
        }
    }

    /// Stops serving an app: first the routers learn it, then new requests are refused; running ones end.
    async fn leave(&self, app: &AppId, generation: Generation) {
        if self.host.apps.serving(app).is_some() {
            self.tell(app, generation, ReplicaState::Draining);
            tokio::time::sleep(Duration::from_millis(LEAVE_MS)).await;
        }
        if self.is_newest(app, generation) {
            self.host.apps.remove(app, generation);
            self.host.accounts.close(app);
            self.host.pools.forget(app.as_str()).await;
            self.host.state.remove_login(app);
            self.objects.lock().unwrap_or_else(PoisonError::into_inner).remove(app);
            self.statuses.lock().unwrap_or_else(PoisonError::into_inner).insert(app.clone(), None);
            self.changed.notify_one();
        }
    }

    async fn load(&self, app: &AppId, generation: Generation, serving: &Serving) -> Result<Served> {
        let claim = serving.claim.open(&self.trusted).context("the claim of the component")?;
        let here = &self.host.settings;
        ensure!(claim.app == *app && claim.organization == here.organization, "the claim is another app's");
        let component = self.component(&claim).await?;
        if serving.database {
            self.login(app).await?;
        }
        let linked = App::link(&self.host.engine, &self.host.linker, &component);
        let linked = linked.map_err(to_anyhow).context("link the component")?;
        let instances = serving.limits.instances_max as usize;
        Ok(Served {
            id: app.clone(),
            name: serving.name.to_string(),
            revision: claim.revision,
            generation,
            app: linked,
            limits: serving.limits.clone(),
            account: self.host.accounts.open(app, &serving.limits),
            egress: self.host.gateway.app(app.as_str(), serving.egress_allow.iter().cloned()),
            settings: Arc::new(self.settings(app, &serving.settings)?),
            timers: Arc::new(AppTimers::new(app, &self.host.client, &serving.timers)),
            handlers: serving.handlers.clone(),
            publishes: serving.publishes,
            outbox: Arc::default(),
            retired: CancellationToken::new(),
            database: serving.database,
            instances: Arc::new(Semaphore::new(instances)),
            queue: Arc::new(Semaphore::new(QUEUE_MAX)),
            unload: CancellationToken::new(),
        })
    }

    /// The settings of an app in clear.
    fn settings(&self, app: &AppId, values: &BTreeMap<String, SettingValue>) -> Result<Settings> {
        let here = &self.host.settings;
        let open = |(name, value): (&String, &SettingValue)| {
            let value = match value {
                SettingValue::Plain(value) => value.clone(),
                SettingValue::Secret(secret) => {
                    let place = Place { organization: &here.organization, stage: &here.stage, app, name };
                    self.host.secrets.open(place, secret)?
                }
            };
            Ok((name.clone(), value))
        };
        values.iter().map(open).collect()
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

    /// Native code as the claim names it, or made here from the component that the claim names.
    async fn component(&self, claim: &Claim) -> Result<Component> {
        let engine = self.host.engine.clone();
        if let Some(native) = &claim.native
            && (Fits { target: native.target.clone(), engine: native.engine.clone() }) == engine.fits()
        {
            let bytes = self.object(&claim.app, &native.digest).await?;
            return blocking(move || artefact::load(&engine, Verified::vouch(&bytes)).map_err(to_anyhow))
                .await;
        }
        info!(app = %claim.app, revision = %claim.revision, "no native code fits; compiling");
        let wasm = self.object(&claim.app, &claim.wasm).await?;
        let native = in_child(&wasm).await.context("compile the component")?;
        blocking(move || artefact::load(&engine, Verified::vouch(&native)).map_err(to_anyhow)).await
    }

    /// An object whose bytes were compared with its digest: from disk, or from the stage's bucket.
    async fn object(&self, app: &AppId, digest: &Digest) -> Result<Vec<u8>> {
        self.objects.lock().unwrap_or_else(PoisonError::into_inner).insert(app.clone(), digest.clone());
        let (state, wanted) = (self.host.state.clone(), digest.clone());
        if let Some(bytes) = blocking(move || Ok(state.object(&wanted))).await? {
            return Ok(bytes);
        }
        let mut tries = 0;
        let bytes = loop {
            tries += 1;
            match self.fetch(digest).await {
                Ok(bytes) => break bytes,
                Err(error) if tries == FETCH_TRIES_MAX => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(FETCH_PAUSE_MS)).await,
            }
        };
        let used = self.objects.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let used: BTreeSet<String> = used.values().map(ToString::to_string).collect();
        let (state, digest) = (self.host.state.clone(), digest.clone());
        blocking(move || {
            ensure!(Digest::of(&bytes) == digest, "the object {digest} has other content than its name says");
            state.put_object(&digest, &bytes)?;
            state.trim_objects(&used);
            Ok(bytes)
        })
        .await
    }

    async fn fetch(&self, digest: &Digest) -> Result<Vec<u8>> {
        let client = self.host.client.get().context("NATS was not reached yet")?;
        let store = jetstream::new(client.clone()).get_object_store(subjects::COMPONENTS_BUCKET).await;
        let mut object = store.context("open the components bucket")?.get(digest.as_str()).await;
        let object = object.as_mut().map_err(|error| anyhow::anyhow!("fetch {digest}: {error}"))?;
        let mut bytes = Vec::new();
        object.read_to_end(&mut bytes).await.with_context(|| format!("fetch {digest}"))?;
        Ok(bytes)
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
        self.statuses.lock().unwrap_or_else(PoisonError::into_inner).insert(app.clone(), Some(status));
        self.changed.notify_one();
    }

    /// Writes statuses into the bucket: what changed at once, and now and then whatever differs there.
    pub(crate) async fn report(self: Arc<Self>, client: Client) {
        let jetstream = jetstream::new(client);
        let mut written: BTreeMap<AppId, Option<ReplicaStatus>> = BTreeMap::new();
        loop {
            let changed = tokio::time::timeout(Duration::from_secs(COMPARE_S), self.changed.notified()).await;
            if changed.is_err() {
                written.clear(); // the bucket may have been emptied or restored
            }
            let statuses = self.statuses.lock().unwrap_or_else(PoisonError::into_inner).clone();
            let Ok(bucket) = jetstream.get_key_value(subjects::OBSERVED_BUCKET).await else {
                tokio::time::sleep(Duration::from_millis(WATCH_RETRY_MS)).await;
                self.changed.notify_one();
                continue;
            };
            for (app, status) in statuses {
                if written.get(&app) == Some(&status) {
                    continue;
                }
                match self.write_status(&bucket, &app, status.as_ref()).await {
                    Ok(()) => {
                        written.insert(app, status);
                    }
                    Err(error) => {
                        warn!(%app, "status not written: {error:#}");
                        self.changed.notify_one();
                        tokio::time::sleep(Duration::from_millis(WATCH_RETRY_MS)).await;
                    }
                }
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

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a loading thread ended")?
}
