//! The code of apps: fetched, checked, kept on disk, mapped when it is needed, and unloaded when it is not.
//!
//! A host has more apps placed than it can hold. What a placement needs ([`crate::apps::Served`]) is small and stays; the
//! linked component is here, in a cache that is bounded by bytes and by mappings, for the kernel allows a process only so
//! many. An app that is unloaded comes back at its next request from its sealed file ([`crate::native`]).
//!
//! What must stay true: concurrent requests load an app once; what runs holds its component, so no eviction ends a
//! request; nothing is loaded whose digest or seal was not checked; slow loads (network, compiler) have places of their own
//! and never wait in the way of those from disk.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use async_nats::Client;
use async_nats::jetstream;
use moka::future::Cache;
use moka::notification::RemovalCause;
use moka::policy::EvictionPolicy;
use odeon_capabilities::Granted;
use odeon_engine::artefact::{self, Verified};
use odeon_engine::wasmtime::component::Component;
use odeon_engine::{App, Engine, Fits, Linkers};
use odeon_protocol::{Claim, Digest, subjects};
use prometheus_client::metrics::gauge::Gauge;
use tokio::io::AsyncReadExt as _;
use tokio::sync::{OnceCell, Semaphore};
use tracing::{debug, info, warn};

use crate::compile::{in_child, to_anyhow};
use crate::memory::{Level, Pressure};
use crate::metrics::Metrics;
use crate::native::{Absent, Mapped, NativeFiles};
use crate::state::StateDir;

/// Artefacts that are mapped and linked at once: it is work for the CPU.
const LOADS_AT_ONCE: usize = 4;
/// Artefacts that are fetched or compiled at once.
const FETCHES_AT_ONCE: usize = 4;
/// How often a fetch is tried that failed for want of NATS, before it counts as failed.
pub(crate) const FETCH_TRIES_MAX: u32 = 5;
/// Wait between two tries, in milliseconds.
pub(crate) const FETCH_PAUSE_MS: u64 = 300;
/// How long one fetch may take, in seconds: an object that is taken out meanwhile never ends.
const FETCH_S_MAX: u64 = 120;
/// How long a request waits for the code of its app, in seconds.
const WAIT_S_MAX: u64 = 10;
/// An app that nobody called for so long is unloaded, in seconds: long enough for what is called by the hour.
const IDLE_S_MAX: u64 = 2 * 3_600;
/// When memory is short, an app is idle that nobody called for so long, in milliseconds: what is in use would come back at
/// once, and the host would only load.
const SHORT_IDLE_MS: u64 = 5_000;
/// How long an app is used before the cache is asked for it again, in milliseconds: short beside [`IDLE_S_MAX`] and [`SHORT_IDLE_MS`].
const LATELY_MS: u64 = 1_000;
/// What a loaded app holds beside its file, in bytes: the types and tables that wasmtime makes of it. An estimate;
/// docs/benchmarks/density.md has what an app really takes.
const METADATA_BYTES: u64 = 64 << 10;
/// Mappings of one loaded app: data before its code, its code, data behind it.
const MAPPINGS_PER_APP: u64 = 3;
/// Mappings that are left for others: two for each stack, of which there are 6,000 of a host's own and 2,250 of wasmtime's pools, two for each memory of 2,000
/// instances, threads and the heap. Who has more memories finds no room at worst.
const MAPPINGS_RESERVED: u64 = 24_000;
/// Open files that are left for connections; each loaded app holds one.
const FILES_RESERVED: u64 = 16_384;
/// Apps that may always be loaded, whatever the bounds say: with none nobody would be served.
const LOADED_MIN: u64 = 1;

/// The bounds of what is loaded.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Bounds {
    /// Bytes of code and metadata.
    pub(crate) bytes: u64,
    /// Apps.
    pub(crate) apps: u64,
}

impl Bounds {
    /// The bounds by what the system allows this process; `bytes` is the host's setting.
    pub(crate) fn of_process(bytes: u64, mappings_max: u64, files_max: u64) -> Self {
        // A system with few mappings or files shares them evenly between apps and the rest.
        let mappings = mappings_max.saturating_sub(MAPPINGS_RESERVED).max(mappings_max / 2);
        let by_mappings = mappings / MAPPINGS_PER_APP;
        let by_files = files_max.saturating_sub(FILES_RESERVED).max(files_max / 2);
        Self { bytes, apps: by_mappings.min(by_files).max(LOADED_MIN) }
    }
}

/// Why an app has no code to run.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum Unloadable {
    #[error("the app cannot be loaded now; try again in a moment")]
    Failed(String),
    #[error("this host is short of memory and loads no app now; try again in a moment")]
    Memory,
}

/// One placement of one revision. Two of them share no loaded app, also when their code is the same: instances that wait
/// to be used again belong to it. The pages of the code are shared all the same, for they are the file's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Placement(u64);

/// The code of a placement, where it was asked for lately. To ask the cache is slower, and all threads count there: it is asked once in a while, so
/// that it knows what is in use.
#[derive(Default)]
pub(crate) struct Lately(Mutex<Option<(Weak<Loaded>, u64)>>);

/// A loaded app.
pub(crate) struct Loaded {
    app: App<Granted>,
    bytes: u64,
    /// When it was used last, in milliseconds since the loader was made.
    used_ms: AtomicU64,
    _counted: Counted,
}

/// Counts a loaded app until it is dropped, which may be after it left the cache.
struct Counted(Gauge);

impl Counted {
    fn begin(gauge: &Gauge) -> Self {
        gauge.inc();
        Self(gauge.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.dec();
    }
}

/// Loads and unloads.
pub(crate) struct Loader {
    engine: Engine,
    linkers: Linkers<Granted>,
    state: Arc<StateDir>,
    files: Arc<NativeFiles>,
    client: Arc<OnceCell<Client>>,
    metrics: Arc<Metrics>,
    pressure: Arc<Pressure>,
    cache: Cache<Placement, Arc<Loaded>>,
    next: AtomicU64,
    loads: Semaphore,
    fetches: Semaphore,
    started: Instant,
    /// Artefacts were stored since the unused ones were trimmed.
    stored: Mutex<bool>,
}

impl Loader {
    pub(crate) fn new(
        (engine, linkers): (Engine, Linkers<Granted>),
        state: Arc<StateDir>,
        client: Arc<OnceCell<Client>>,
        (metrics, pressure): (Arc<Metrics>, Arc<Pressure>),
        bounds: Bounds,
    ) -> Result<Self> {
        let files = Arc::new(NativeFiles::open(state.dir(), &engine)?);
        // One bound for both: an app weighs its bytes, and at least its share of the mappings.
        let least = in_kib(bounds.bytes) / bounds.apps.max(LOADED_MIN);
        let counted = metrics.clone();
        let cache = Cache::builder()
            .max_capacity(in_kib(bounds.bytes))
            .weigher(move |_, loaded: &Arc<Loaded>| {
                u32::try_from(in_kib(loaded.bytes).max(least)).unwrap_or(u32::MAX)
            })
            // A frequency filter would keep a new app out, and load it again at each of its requests.
            .eviction_policy(EvictionPolicy::lru())
            .time_to_idle(Duration::from_secs(IDLE_S_MAX))
            .eviction_listener(move |placement, _, cause| {
                if cause != RemovalCause::Replaced {
                    counted.unloads.inc();
                    debug!(?placement, ?cause, "an app is unloaded");
                }
            })
            .build();
        Ok(Self {
            engine,
            linkers,
            state,
            files,
            client,
            metrics,
            pressure,
            cache,
            next: AtomicU64::default(),
            loads: Semaphore::new(LOADS_AT_ONCE),
            fetches: Semaphore::new(FETCHES_AT_ONCE),
            started: Instant::now(),
            stored: Mutex::default(),
        })
    }

    /// A placement that has no code yet.
    pub(crate) fn place(&self) -> Placement {
        Placement(self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// The code of an app, if the cache was asked for it a moment ago.
    pub(crate) fn app_of(&self, lately: &Lately) -> Option<App<Granted>> {
        let now_ms = self.now_ms();
        let loaded = {
            let lately = lately.0.lock().unwrap_or_else(PoisonError::into_inner);
            let (loaded, asked_ms) = lately.as_ref()?;
            (now_ms < asked_ms + LATELY_MS).then(|| loaded.upgrade())??
        };
        Some(used(&loaded, now_ms))
    }

    /// The code of an app, for a request: from memory, else loaded for all who ask meanwhile.
    pub(crate) async fn app(
        self: &Arc<Self>,
        (placement, lately): (Placement, &Lately),
        claim: &Claim,
    ) -> Result<App<Granted>, Unloadable> {
        if let Some(loaded) = self.cache.get(&placement).await {
            let now_ms = self.now_ms();
            let asked = (Arc::downgrade(&loaded), now_ms);
            *lately.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(asked);
            return Ok(used(&loaded, now_ms));
        }
        if self.pressure.level() >= Level::RefuseLoads {
            return Err(Unloadable::Memory);
        }
        // A task of its own: it goes on when nobody waits any more, for those who come again.
        let (this, claim) = (self.clone(), claim.clone());
        let load = tokio::spawn(async move { this.get_or_load(placement, &claim).await });
        match tokio::time::timeout(Duration::from_secs(WAIT_S_MAX), load).await {
            Ok(Ok(Ok(loaded))) => Ok(used(&loaded, self.now_ms())),
            Ok(Ok(Err(error))) => Err(Unloadable::Failed(error)),
            Ok(Err(error)) => Err(Unloadable::Failed(error.to_string())),
            Err(_) => Err(Unloadable::Failed(format!("it took longer than {WAIT_S_MAX} s"))),
        }
    }

    /// Loads an app that was deployed, so that what is wrong with it is told before anybody asks for it.
    pub(crate) async fn prepare(&self, placement: Placement, claim: &Claim) -> Result<()> {
        ensure!(self.pressure.level() < Level::RefuseLoads, "{}", Unloadable::Memory);
        self.get_or_load(placement, claim).await.map(|_| ()).map_err(anyhow::Error::msg)
    }

    /// Whether an app can be loaded from this host's disk.
    pub(crate) fn is_on_disk(&self, claim: &Claim) -> bool {
        self.files.has(self.artefact(claim))
    }

    /// The name of what is loaded for a claim: its native code when that fits, else the component it is made of.
    pub(crate) fn artefact<'c>(&self, claim: &'c Claim) -> &'c Digest {
        self.native(claim).unwrap_or(&claim.wasm)
    }

    /// Unloads a placement that was replaced or taken away; what runs keeps its code until it ends.
    pub(crate) async fn forget(&self, placement: Placement) {
        self.cache.invalidate(&placement).await;
    }

    /// Drops what waits for a use that did not come: instances, apps that are idle, and what is over the bound.
    pub(crate) async fn tidy(&self) {
        self.cache.iter().for_each(|(_, loaded)| loaded.app.tidy());
        self.cache.run_pending_tasks().await;
    }

    /// Drops all instances that wait to be used again.
    pub(crate) fn make_room(&self) {
        self.cache.iter().for_each(|(_, loaded)| loaded.app.make_room());
    }

    /// Whether artefacts were stored since the last call.
    pub(crate) fn take_stored(&self) -> bool {
        std::mem::take(&mut *self.stored.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Unloads apps that nobody called for a while: of all that are loaded half at most, those that waited longest first.
    pub(crate) async fn unload_idle(&self) -> usize {
        let mut loaded: Vec<_> = self
            .cache
            .iter()
            .map(|(placement, loaded)| (loaded.used_ms.load(Ordering::Relaxed), *placement))
            .collect();
        loaded.sort();
        loaded.truncate(loaded.len().div_ceil(2));
        let idle_since = self.now_ms().saturating_sub(SHORT_IDLE_MS);
        loaded.retain(|(used_ms, _)| *used_ms < idle_since);
        for (_, placement) in &loaded {
            self.cache.invalidate(placement).await;
        }
        self.cache.run_pending_tasks().await;
        loaded.len()
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    async fn get_or_load(&self, placement: Placement, claim: &Claim) -> Result<Arc<Loaded>, String> {
        let load = async {
            let started = Instant::now();
            let mapped = self.load(claim).await.map_err(|error| format!("{error:#}"))?;
            let app = App::link(&self.engine, &self.linkers, &mapped.component)
                .map_err(|error| format!("link the component: {error:#}"))?;
            self.metrics.loads.inc();
            self.metrics.load_seconds.observe(started.elapsed().as_secs_f64());
            let bytes = mapped.bytes + METADATA_BYTES;
            let (used_ms, counted) =
                (AtomicU64::new(self.now_ms()), Counted::begin(&self.metrics.apps_loaded));
            Ok::<_, String>(Arc::new(Loaded { app, bytes, used_ms, _counted: counted }))
        };
        let loaded = self.cache.try_get_with(placement, Box::pin(load)).await;
        self.cache.run_pending_tasks().await; // the bound holds now, not at some later use
        loaded.map_err(|error: Arc<String>| error.as_ref().clone())
    }

    /// Native code from disk; else as the claim names it, or made here from the component that the claim names.
    async fn load(&self, claim: &Claim) -> Result<Mapped> {
        let digest = self.artefact(claim);
        match self.map(digest).await? {
            Ok(mapped) => return Ok(mapped),
            Err(Absent::Missing) => {}
            Err(Absent::Refused(why)) => warn!(app = %claim.app, "{why}; it is made anew"),
        }
        let code = self.obtain(claim).await?;
        let (files, state, name) = (self.files.clone(), self.state.clone(), digest.clone());
        let is_signed = self.native(claim).is_some();
        let code = blocking(move || {
            let stored = files.put(&name, &code);
            if stored.is_ok() && is_signed {
                state.remove_object(&name); // an older host kept signed native code there
            }
            Ok(stored.map_err(|error| (error, code)))
        });
        let error = match code.await? {
            Ok(()) => {
                *self.stored.lock().unwrap_or_else(PoisonError::into_inner) = true;
                match self.map(digest).await? {
                    Ok(mapped) => return Ok(mapped),
                    Err(absent) => anyhow::bail!("what was just written to disk is not there: {absent:?}"),
                }
            }
            Err(error) => error,
        };
        // A host whose disk is full goes on with what it has.
        let (error, code) = error;
        warn!(app = %claim.app, "native code is in memory only: {error:#}");
        let engine = self.engine.clone();
        let bytes = code.len() as u64;
        let component = blocking(move || load_bytes(&engine, &code)).await?;
        Ok(Mapped { component, bytes })
    }

    async fn map(&self, digest: &Digest) -> Result<Result<Mapped, Absent>> {
        let _turn = self.loads.acquire().await.context("the host stops")?;
        let (files, engine, digest) = (self.files.clone(), self.engine.clone(), digest.clone());
        blocking(move || Ok(files.load(&engine, &digest))).await
    }

    /// Native code whose digest was compared with the claim, or that was just made here.
    async fn obtain(&self, claim: &Claim) -> Result<Vec<u8>> {
        let _turn = self.fetches.acquire().await.context("the host stops")?;
        if let Some(native) = self.native(claim) {
            return self.object(native).await;
        }
        info!(app = %claim.app, revision = %claim.revision, "no native code fits; compiling");
        let wasm = self.object(&claim.wasm).await?;
        let (state, digest) = (self.state.clone(), claim.wasm.clone());
        // Kept, so that it can be compiled again without NATS.
        let wasm = blocking(move || {
            if let Err(error) = state.put_object(&digest, &wasm) {
                warn!("a component is not kept on disk: {error:#}");
            }
            Ok(wasm)
        });
        in_child(&wasm.await?).await.context("compile the component")
    }

    fn native<'c>(&self, claim: &'c Claim) -> Option<&'c Digest> {
        let native = claim.native.as_ref()?;
        let fits = Fits { target: native.target.clone(), engine: native.engine.clone() };
        (fits == self.engine.fits()).then_some(&native.digest)
    }

    /// An object whose bytes were compared with its digest: from disk, or from the stage's bucket.
    async fn object(&self, digest: &Digest) -> Result<Vec<u8>> {
        let (state, wanted) = (self.state.clone(), digest.clone());
        if let Some(bytes) = blocking(move || Ok(state.object(&wanted))).await? {
            return Ok(bytes);
        }
        let mut tries = 0;
        let bytes = loop {
            tries += 1;
            let fetched = tokio::time::timeout(Duration::from_secs(FETCH_S_MAX), self.fetch(digest)).await;
            match fetched.unwrap_or_else(|_| {
                Err(anyhow::anyhow!("fetch {digest}: it takes longer than {FETCH_S_MAX} s"))
            }) {
                Ok(bytes) => break bytes,
                Err(error) if tries == FETCH_TRIES_MAX => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(FETCH_PAUSE_MS)).await,
            }
        };
        let digest = digest.clone();
        blocking(move || {
            ensure!(Digest::of(&bytes) == digest, "the object {digest} has other content than its name says");
            Ok(bytes)
        })
        .await
    }

    async fn fetch(&self, digest: &Digest) -> Result<Vec<u8>> {
        let client = self.client.get().context("NATS was not reached yet")?;
        let store = jetstream::new(client.clone()).get_object_store(subjects::COMPONENTS_BUCKET).await;
        let mut object = store.context("open the components bucket")?.get(digest.as_str()).await;
        let object = object.as_mut().map_err(|error| anyhow::anyhow!("fetch {digest}: {error}"))?;
        let mut bytes = Vec::new();
        object.read_to_end(&mut bytes).await.with_context(|| format!("fetch {digest}"))?;
        Ok(bytes)
    }
}

/// Its code, for somebody who uses it now.
fn used(loaded: &Loaded, now_ms: u64) -> App<Granted> {
    if loaded.used_ms.load(Ordering::Relaxed) != now_ms {
        loaded.used_ms.store(now_ms, Ordering::Relaxed); // for other threads to read
    }
    loaded.app.clone()
}

/// The caller compared the bytes with a signed digest, or made them.
fn load_bytes(engine: &Engine, code: &[u8]) -> Result<Component> {
    artefact::load(engine, Verified::vouch(code)).map_err(to_anyhow)
}

fn in_kib(bytes: u64) -> u64 {
    bytes.div_ceil(1 << 10)
}

pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    tokio::task::spawn_blocking(work).await.context("a loading thread ended")?
}
