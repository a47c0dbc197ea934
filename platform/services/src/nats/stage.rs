//! A stage as the Platform sees it: what it wants there, what it hears from there.
//!
//! Everything observed is kept in memory and rebuilt from the stage's KV buckets and heartbeats after a
//! start: the Platform's database holds only what people decided. Nothing here decides anything.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::Client;
use async_nats::jetstream::object_store::ObjectStore;
use async_nats::jetstream::{self, kv, stream};
use base64::prelude::{BASE64_URL_SAFE, Engine as _};
use futures_util::StreamExt as _;
use odeon_protocol::bucket::{self, News};
use odeon_protocol::events;
use odeon_protocol::{
    AppId, DesiredApp, Digest, Generation, HostHeartbeat, HostId, MIGRATION_RUNS, MigrateCommand,
    MigrateReply, OrganizationId, ReplicaStatus, RouterHeartbeat, RouterId, RouterStatus, Signed, StageName,
    TrustedKeys, subjects,
};
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard, watch};
use tracing::{info, warn};

/// How long the Platform waits for a migrator's answer before it asks again, in seconds. Asking twice is safe:
/// the migrator does one generation once, under a lock.
const MIGRATE_TRY_S_MAX: u64 = 15;
/// Questions without an answer, one after the other, after which it gives up.
const MIGRATE_TRIES_MAX: u32 = 4;
/// Wait before it asks again, in milliseconds: a migrator that ended is started anew, and a migration that runs ends.
const MIGRATE_PAUSE_MS: u64 = 1_000;
/// How long it asks for the end of a migration that runs, in seconds.
const MIGRATE_S_MAX: u64 = 120;
/// Log lines of a stage are kept for 28 days and within this many bytes, oldest out first.
const LOGS_BYTES_MAX: i64 = 1 << 30;
/// Messages with log lines of one app from one host, of 8 KiB each: what floods the log drives out its own lines, not others'. Who says
/// little has a line in each.
const LOGS_PER_APP_AND_HOST_MAX: i64 = 20_000;
const LOGS_AGE_MAX: Duration = Duration::from_secs(28 * 24 * 3600);
/// How long an event waits for its handlers, and a dead one for people.
const EVENTS_AGE_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
const DEAD_AGE_MAX: Duration = Duration::from_secs(28 * 24 * 3600);
/// Bytes of all events that wait in a stage, and of the dead ones.
const EVENTS_BYTES_MAX: i64 = 1 << 30;
const DEAD_BYTES_MAX: i64 = 256 << 20;
/// Dead events of one handler, oldest out first.
const DEAD_PER_HANDLER_MAX: i64 = 1_000;
/// For how long an event that is sent twice counts as one.
const EVENTS_ONCE: Duration = Duration::from_secs(600);
/// Wait before a lost watch is opened again, in milliseconds.
const WATCH_RETRY_MS: u64 = 500;

/// One stage of one organization.
pub(crate) struct Stage {
    pub(crate) organization: OrganizationId,
    pub(crate) name: StageName,
    pub(crate) jetstream: jetstream::Context,
    client: Client,
    desired: kv::Store,
    components: ObjectStore,
    /// Shared by whoever brings objects that no deployment needs yet, and held alone by whoever takes them out.
    objects: RwLock<()>,
    seen: Mutex<Seen>,
    opened: Instant,
    changed: watch::Sender<u64>,
}

/// What has been heard from a stage.
#[derive(Default, Clone)]
pub(crate) struct Seen {
    /// Desired state as the stage holds it, seal checked.
    pub(crate) desired: BTreeMap<AppId, DesiredApp>,
    /// Whether the first full reading of the desired state has ended.
    pub(crate) desired_read: bool,
    /// Last heartbeat of each host.
    pub(crate) hosts: BTreeMap<HostId, (HostHeartbeat, Option<Instant>)>,
    /// Last heartbeat of each router.
    pub(crate) routers: BTreeMap<RouterId, (RouterHeartbeat, Option<Instant>)>,
    /// Replica statuses by app and host.
    pub(crate) replicas: BTreeMap<(AppId, HostId), ReplicaStatus>,
    /// Router statuses by app and router.
    pub(crate) routes: BTreeMap<(AppId, RouterId), RouterStatus>,
}

impl Seen {
    /// Hosts heard of within three heartbeats.
    pub(crate) fn live_hosts(&self) -> impl Iterator<Item = &HostHeartbeat> {
        self.hosts.values().filter(|(_, at)| is_recent(*at)).map(|(beat, _)| beat)
    }
    /// Hosts that serve something, as the stage tells.
    pub(crate) fn serving_hosts(&self) -> impl Iterator<Item = &HostId> {
        self.replicas.keys().map(|(_, host)| host)
    }
    /// Routers heard of within three heartbeats.
    pub(crate) fn live_routers(&self) -> impl Iterator<Item = &RouterHeartbeat> {
        self.routers.values().filter(|(_, at)| is_recent(*at)).map(|(beat, _)| beat)
    }
}

fn is_recent(at: Option<Instant>) -> bool {
    at.is_some_and(|at| at.elapsed() < Duration::from_millis(subjects::HEARTBEAT_MISSED_MS))
}

impl Stage {
    /// Makes sure that the stage's buckets and streams exist.
    pub(crate) async fn make(client: Client, name: &StageName) -> Result<()> {
        let made = ensure_stores(&jetstream::new(client)).await;
        made.map(drop).with_context(|| format!("make stage {name}"))
    }

    /// The same, and listens to it.
    pub(crate) async fn open(
        client: Client,
        organization: OrganizationId,
        name: StageName,
        trusted: TrustedKeys,
    ) -> Result<Arc<Self>> {
        let jetstream = jetstream::new(client.clone());
        let Stores { desired, components } =
            ensure_stores(&jetstream).await.with_context(|| format!("open stage {name}"))?;
        let stage = Arc::new(Self {
            organization,
            name,
            jetstream,
            client,
            desired,
            components,
            objects: RwLock::default(),
            seen: Mutex::default(),
            opened: Instant::now(),
            changed: watch::Sender::new(0),
        });
        tokio::spawn(stage.clone().follow_desired(trusted));
        tokio::spawn(stage.clone().follow_observed());
        tokio::spawn(stage.clone().follow_heartbeats());
        Ok(stage)
    }

    /// A copy of what has been heard so far.
    pub(crate) fn seen(&self) -> Seen {
        self.lock().clone()
    }

    /// The generation of an app's desired state, without a copy of all that was heard.
    pub(crate) fn generation_of(&self, app: &AppId) -> Option<Generation> {
        self.lock().desired.get(app).map(|desired| desired.generation)
    }

    /// Whether we have listened for long enough to know a silent host from one that we have not heard yet.
    pub(crate) fn has_settled(&self) -> bool {
        self.opened.elapsed() > Duration::from_millis(subjects::HEARTBEAT_MISSED_MS)
    }

    /// Resolves whenever something new was heard.
    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Whether the connection to the stage stands.
    pub(crate) fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }

    /// Puts an object into the stage's bucket unless it is there: names are digests, so it is the same.
    pub(crate) async fn push_object(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        if self
            .components
            .info(digest.as_str())
            .await
            .is_ok_and(|info| !info.deleted && info.size == bytes.len())
        {
            return Ok(());
        }
        let mut reader = bytes;
        self.components
            .put(digest.as_str(), &mut reader)
            .await
            .with_context(|| format!("push {digest} into stage {}", self.name))?;
        Ok(())
    }

    /// Keeps objects that are brought from being taken out, until it is written down what needs them.
    pub(crate) async fn with_objects(&self) -> RwLockReadGuard<'_, ()> {
        self.objects.read().await
    }

    /// Keeps objects from being brought. `None` while somebody brings some.
    pub(crate) fn alone_with_objects(&self) -> Option<RwLockWriteGuard<'_, ()>> {
        self.objects.try_write().ok()
    }

    /// The objects in the stage's bucket.
    pub(crate) async fn objects(&self) -> Result<Vec<Digest>> {
        let mut list = self.components.list().await.context("list the components of a stage")?;
        let mut objects = Vec::new();
        while let Some(object) = list.next().await {
            objects.extend(object.context("list the components of a stage")?.name.parse::<Digest>());
        }
        Ok(objects)
    }

    /// Takes an object out of the stage's bucket. Its pieces go first: of one that was not taken out whole there is a note still, and it is done again.
    pub(crate) async fn remove_object(&self, object: &Digest) -> Result<()> {
        let taken_out = || format!("take {object} out of stage {}", self.name);
        let bucket = subjects::COMPONENTS_BUCKET;
        let info = self.components.info(object.as_str()).await.with_context(taken_out)?;
        let pieces = format!("$O.{bucket}.C.{}", info.nuid);
        let note = format!("$O.{bucket}.M.{}", BASE64_URL_SAFE.encode(object.as_str()));
        let stream = self.jetstream.get_stream(format!("OBJ_{bucket}")).await.with_context(taken_out)?;
        for subject in [pieces, note] {
            stream.purge().filter(subject).await.with_context(taken_out)?;
        }
        Ok(())
    }

    /// Writes sealed desired state. Who writes has made sure that it is newer than what is there.
    pub(crate) async fn write_desired(&self, app: &AppId, sealed: &Signed<DesiredApp>) -> Result<()> {
        let bytes = serde_json::to_vec(sealed).context("encode desired state")?;
        self.desired
            .put(subjects::desired_key(app), bytes.into())
            .await
            .with_context(|| format!("write the desired state of {app} into stage {}", self.name))?;
        Ok(())
    }

    /// Asks the stage's migrator and waits for its answer; asks again when the migrator ended meanwhile.
    pub(crate) async fn migrate(&self, command: &Signed<MigrateCommand>) -> Result<MigrateReply> {
        let payload = bytes::Bytes::from(serde_json::to_vec(command).context("encode a migration")?);
        let started = Instant::now();
        let mut unanswered = 0;
        loop {
            let request = async_nats::Request::new()
                .payload(payload.clone())
                .timeout(Some(Duration::from_secs(MIGRATE_TRY_S_MAX)));
            match self.client.send_request(subjects::MIGRATE, request).await {
                Ok(reply) => {
                    unanswered = 0;
                    let reply =
                        serde_json::from_slice(&reply.payload).context("read the migrator's answer")?;
                    let is_over = started.elapsed() > Duration::from_secs(MIGRATE_S_MAX);
                    match &reply {
                        MigrateReply::Refused(told) if told.code == MIGRATION_RUNS && !is_over => {
                            info!(stage = %self.name, "the migrator is asked again: {told}");
                        }
                        MigrateReply::Refused(_) | MigrateReply::Done { .. } => return Ok(reply),
                    }
                }
                Err(error) => {
                    unanswered += 1;
                    if unanswered == MIGRATE_TRIES_MAX {
                        return Err(error).with_context(|| {
                            format!(
                                "ask the migrator of stage {}; is odeon-migrator running there?",
                                self.name
                            )
                        });
                    }
                    warn!(stage = %self.name, "the migrator did not answer and is asked again: {error}");
                }
            }
            tokio::time::sleep(Duration::from_millis(MIGRATE_PAUSE_MS)).await;
        }
    }

    async fn follow_desired(self: Arc<Self>, trusted: TrustedKeys) {
        let open = || async {
            let stores = ensure_stores(&self.jetstream).await?;
            Ok::<_, anyhow::Error>(stores.desired)
        };
        let mut reading = BTreeSet::new();
        bucket::follow(self.client.clone(), open, |news| match news {
            News::Opened => reading.clear(),
            News::Put { key, value } => match open_desired(value, &trusted) {
                Ok(app) => {
                    reading.insert(app.app.clone());
                    self.update(|seen| {
                        seen.desired.insert(app.app.clone(), app);
                    });
                }
                Err(error) => warn!(stage = %self.name, key, "desired state ignored: {error:#}"),
            },
            News::Deleted { key } => {
                if let Some(Ok(app)) = key.strip_prefix("app.").map(str::parse::<AppId>) {
                    self.update(|seen| {
                        seen.desired.remove(&app);
                    });
                }
            }
            News::CaughtUp => self.update(|seen| {
                seen.desired.retain(|app, _| reading.contains(app)); // an emptied bucket tells of nothing
                seen.desired_read = true;
            }),
        })
        .await;
    }

    /// The states of the stage's timers.
    pub(crate) async fn timers(&self) -> Result<kv::Store> {
        self.jetstream.get_key_value(subjects::TIMERS_BUCKET).await.context("open the timers bucket")
    }

    async fn follow_observed(self: Arc<Self>) {
        let open = || self.jetstream.get_key_value(subjects::OBSERVED_BUCKET);
        bucket::follow(self.client.clone(), open, |news| match news {
            News::Put { key, value } => self.hear_status(key, Some(value)),
            News::Deleted { key } => self.hear_status(key, None),
            News::Opened | News::CaughtUp => {}
        })
        .await;
    }

    fn hear_status(&self, key: &str, value: Option<&[u8]>) {
        let mut parts = key.splitn(3, '.');
        let (Some(kind), Some(who), Some(Ok(app))) =
            (parts.next(), parts.next(), parts.next().map(str::parse::<AppId>))
        else {
            return;
        };
        match (kind, value) {
            ("host", Some(value)) => {
                if let Some(status) = ReplicaStatus::heard(key, value) {
                    self.update(|seen| {
                        seen.replicas.insert((app, status.host.clone()), status);
                    });
                }
            }
            ("host", None) => {
                if let Ok(host) = who.parse() {
                    self.update(|seen| {
                        seen.replicas.remove(&(app, host));
                    });
                }
            }
            ("router", Some(value)) => {
                if let Some(status) = RouterStatus::heard(key, value) {
                    self.update(|seen| {
                        seen.routes.insert((app, status.router.clone()), status);
                    });
                }
            }
            ("router", None) => {
                if let Ok(router) = who.parse() {
                    self.update(|seen| {
                        seen.routes.remove(&(app, router));
                    });
                }
            }
            _ => {}
        }
    }

    async fn follow_heartbeats(self: Arc<Self>) {
        loop {
            let both = async {
                let hosts = self.client.subscribe(subjects::HOST_HEARTBEATS).await?;
                let routers = self.client.subscribe(subjects::ROUTER_HEARTBEATS).await?;
                Ok::<_, async_nats::SubscribeError>(futures_util::stream::select(hosts, routers))
            };
            match both.await {
                Ok(mut beats) => {
                    info!(stage = %self.name, "listening to heartbeats");
                    while let Some(message) = beats.next().await {
                        if let Some(beat) = HostHeartbeat::heard(&message) {
                            self.update(|seen| {
                                seen.hosts.insert(beat.host.clone(), (beat, Some(Instant::now())));
                            });
                        } else if let Some(beat) = RouterHeartbeat::heard(&message) {
                            self.update(|seen| {
                                seen.routers.insert(beat.router.clone(), (beat, Some(Instant::now())));
                            });
                        }
                    }
                }
                Err(error) => warn!(stage = %self.name, "cannot listen to heartbeats: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(WATCH_RETRY_MS)).await;
        }
    }

    fn update(&self, change: impl FnOnce(&mut Seen)) {
        change(&mut self.lock());
        self.changed.send_modify(|version| *version += 1);
    }

    fn lock(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a stage keeps on NATS.
struct Stores {
    desired: kv::Store,
    components: ObjectStore,
}

/// Opens the stage's buckets and streams, and makes those that are missing.
async fn ensure_stores(jetstream: &jetstream::Context) -> Result<Stores> {
    let bucket = |bucket: &str| kv::Config { bucket: bucket.to_owned(), history: 1, ..Default::default() };
    let desired = ensure_kv(jetstream, bucket(subjects::DESIRED_BUCKET)).await?;
    ensure_kv(jetstream, bucket(subjects::OBSERVED_BUCKET)).await?;
    ensure_kv(jetstream, bucket(subjects::TIMERS_BUCKET)).await?;
    let components = match jetstream.get_object_store(subjects::COMPONENTS_BUCKET).await {
        Ok(store) => store,
        Err(_) => {
            let bucket = subjects::COMPONENTS_BUCKET.to_owned();
            let config = jetstream::object_store::Config { bucket, ..Default::default() };
            jetstream.create_object_store(config).await.context("create the components bucket")?
        }
    };
    let logs = stream::Config {
        name: subjects::LOGS_STREAM.to_owned(),
        subjects: vec![subjects::LOGS.to_owned()],
        max_messages_per_subject: LOGS_PER_APP_AND_HOST_MAX,
        max_bytes: LOGS_BYTES_MAX,
        max_age: LOGS_AGE_MAX,
        ..Default::default()
    };
    // A stage of before may have these streams with fewer bounds.
    jetstream.create_or_update_stream(logs).await.context("create the log stream")?;
    // An event stays until every handler has taken it; one that nobody handles does not stay.
    let waiting = stream::Config {
        name: events::STREAM.to_owned(),
        subjects: vec![format!("{}.>", events::STREAM)],
        retention: stream::RetentionPolicy::Interest,
        discard: stream::DiscardPolicy::New,
        discard_new_per_subject: true,
        max_messages_per_subject: events::WAITING_MAX,
        max_bytes: EVENTS_BYTES_MAX,
        max_message_size: i32::try_from(events::MESSAGE_BYTES_MAX)?,
        max_age: EVENTS_AGE_MAX,
        duplicate_window: EVENTS_ONCE,
        ..Default::default()
    };
    jetstream.create_or_update_stream(waiting).await.context("create the stream of events")?;
    let dead = stream::Config {
        name: events::DEAD_STREAM.to_owned(),
        subjects: vec!["dead.>".to_owned()],
        max_messages_per_subject: DEAD_PER_HANDLER_MAX,
        max_bytes: DEAD_BYTES_MAX,
        max_age: DEAD_AGE_MAX,
        ..Default::default()
    };
    jetstream.create_or_update_stream(dead).await.context("create the stream of dead events")?;
    Ok(Stores { desired, components })
}

async fn ensure_kv(jetstream: &jetstream::Context, config: kv::Config) -> Result<kv::Store> {
    let bucket = config.bucket.clone();
    match jetstream.get_key_value(&bucket).await {
        Ok(store) => Ok(store),
        Err(_) => jetstream
            .create_key_value(config)
            .await
            .with_context(|| format!("create the KV bucket `{bucket}`")),
    }
}

fn open_desired(bytes: &[u8], trusted: &TrustedKeys) -> Result<DesiredApp> {
    let sealed: Signed<DesiredApp> = serde_json::from_slice(bytes).context("not a sealed value")?;
    Ok(sealed.open(trusted)?)
}
