//! A host: one process that runs many apps of a stage.
//!
//! Map: [`ingress`] takes requests, [`apps`] finds who answers, [`accounts`] what it may use, [`agent`] brings the host to its desired
//! state, [`desired`] says what it takes of what it hears, [`loader`] loads and unloads their code from [`native`] files, [`memory`] watches how much there is, [`state`] is its disk, [`logins`] its way to databases, [`timers`] and [`events`] start what runs by itself,
//! through [`triggers`], [`peers`] knows the hosts of other apps, [`logs`] and [`metrics`] are what it says, [`admin`]
//! how it is asked, [`compile`] the child that makes native code.
//!
//! What must stay true: a host serves what it last knew when NATS, Platform and migrator are all away; it
//! runs nothing whose digest and seal it did not check.

mod accounts;
mod admin;
mod agent;
mod apps;
pub mod compile;
mod desired;
mod events;
#[doc(hidden)]
pub mod fuzzing;
mod ingress;
mod loader;
mod logins;
mod logs;
mod memory;
mod metrics;
mod native;
mod peers;
mod problem;
pub mod settings;
mod state;
mod timers;
mod triggers;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::Client;
use async_nats::connection::State;
use odeon_capabilities::egress::Gateway;
use odeon_capabilities::egress::networks::Networks;
use odeon_capabilities::sql::pool::Pools;
use odeon_engine::{Engine, EngineSettings};
use odeon_http::Stop;
use odeon_protocol::secrets::StageKey;
use odeon_protocol::{TrustedKeys, connection};
use rustix::process::{Resource, getrlimit};
use tokio::net::TcpListener;
use tokio::sync::OnceCell;
use tokio::sync::mpsc::Receiver;
use tokio_util::sync::CancellationToken;
use tracing::info;

use crate::accounts::Accounts;
use crate::agent::Agent;
use crate::apps::Apps;
use crate::compile::to_anyhow;
use crate::loader::{Bounds, Loader};
use crate::logins::MigratorLogins;
use crate::logs::Logs;
use crate::memory::{Pressure, Source};
use crate::metrics::Metrics;
use crate::peers::Peers;
use crate::settings::Settings;
use crate::state::StateDir;

/// Time between two looks for idle database connections, in seconds.
const TIDY_S: u64 = 10;
/// How long running requests may take to end when the host stops, in seconds.
const STOP_S_MAX: u64 = 30;
/// Routers need this long to send requests elsewhere when the host stops, in milliseconds.
const LEAVE_MS: u64 = 1_500;
/// Time between two looks whether the last timer and the last event have ended, in milliseconds.
const STOP_POLL_MS: u64 = 20;

/// What the parts of a host share.
pub(crate) struct Host {
    pub(crate) this: Weak<Host>,
    pub(crate) settings: Settings,
    /// The key that the hosts of the stage share.
    pub(crate) secrets: StageKey,
    pub(crate) engine: Engine,
    pub(crate) loader: Arc<Loader>,
    pub(crate) pressure: Arc<Pressure>,
    pub(crate) apps: Apps,
    pub(crate) accounts: Accounts,
    /// The way to other servers.
    pub(crate) gateway: Arc<Gateway>,
    pub(crate) peers: Peers,
    pub(crate) pools: Arc<Pools<MigratorLogins>>,
    pub(crate) state: Arc<StateDir>,
    pub(crate) logs: Arc<Logs>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) client: Arc<OnceCell<Client>>,
    ready: AtomicBool,
    stopping: AtomicBool,
}

impl Host {
    /// One that serves nothing yet, and the lines that it is to publish. Its engine is given, for it reserves much.
    fn new(
        settings: Settings,
        secrets: StageKey,
        engine: Engine,
        memory: &Source,
    ) -> Result<(Arc<Self>, Receiver<logs::Encoded>)> {
        let networks = Networks::parse(settings.egress_networks.iter().map(String::as_str))
            .context("understand `egress_networks` in the settings file")?
            .closing(settings.egress_closed_networks.iter().map(String::as_str))
            .context("understand `egress_closed_networks` in the settings file")?;
        let gateway = Gateway::new(networks).context("start TLS for outgoing requests")?;
        let linkers =
            odeon_capabilities::linkers(&engine).map_err(to_anyhow).context("link the capabilities")?;
        let state = Arc::new(StateDir::open(&settings.state_dir)?);
        let client = Arc::new(OnceCell::new());
        let metrics = Arc::new(Metrics::new());
        let (logs, lines) = Logs::new(settings.host.clone(), metrics.clone());
        let logins =
            MigratorLogins { client: client.clone(), host: settings.host.clone(), state: state.clone() };
        let pools = Arc::new(Pools::new(logins, settings.database_connections_max));
        let pressure = Arc::new(Pressure::default());
        let bytes = settings.loaded_bytes_max.unwrap_or_else(|| memory::loaded_bytes_max(memory.read()));
        let bounds = Bounds::of_process(bytes, memory::mappings_max(), open_files_max());
        info!(?bounds, "apps that may be loaded");
        let told = (metrics.clone(), pressure.clone());
        let loader = Loader::new((engine.clone(), linkers), state.clone(), client.clone(), told, bounds)?;
        let loader = Arc::new(loader);
        let host = Arc::new_cyclic(|this| Self {
            this: this.clone(),
            settings,
            secrets,
            engine,
            loader,
            pressure,
            apps: Apps::default(),
            accounts: Accounts::default(),
            gateway,
            peers: Peers::new(),
            pools,
            state,
            logs,
            metrics,
            client,
            ready: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
        });
        Ok((host, lines))
    }

    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.is_stopping()
    }
    pub(crate) fn mark_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
}

/// Runs a host until `shutdown` resolves, and then until its requests have ended.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> Result<()> {
    let trusted = tokio::fs::read(&settings.trusted_keys).await;
    let trusted = trusted.with_context(|| format!("read {}", settings.trusted_keys.display()))?;
    let trusted = TrustedKeys::from_json(&trusted)?;
    let file = &settings.secrets_key;
    let key = tokio::fs::read_to_string(file).await.with_context(|| format!("read {}", file.display()))?;
    let secrets = StageKey::from_text(&key).with_context(|| {
        format!("{} holds no key; make it with `odeon-platform stage-key`", file.display())
    })?;
    let engine = Engine::new(EngineSettings::default()).map_err(to_anyhow).context("start the engine")?;
    let memory = Source::of_process();
    let (host, lines) = Host::new(settings, secrets, engine, &memory)?;
    let settings = &host.settings;
    let listener = listen(&settings.listen).await?;
    let admin = listen(&settings.admin_listen).await?;
    let address =
        settings.advertise.clone().map_or_else(|| listener.local_addr().map(|at| at.to_string()), Ok);
    let (address, admin_address) = (address?, admin.local_addr()?.to_string());
    info!(host = %settings.host, address, admin_address, "the host serves");

    let agent = Agent::new(host.clone(), trusted);
    agent.resume().await;
    let requests = Stop::default();
    tokio::spawn(ingress::serve(host.clone(), listener, requests.clone()));
    tokio::spawn(admin::serve(host.clone(), admin));
    tokio::spawn(tidy(host.clone()));
    tokio::spawn(watch_memory(host.clone(), memory));
    tokio::spawn(agent.clone().tidy());
    let nats = connection::join(&settings.nats_url, &settings.credentials, settings.host.as_str()).await?;
    let _ = host.client.set(nats.clone());
    tokio::spawn(agent.clone().beat(nats.clone(), address, admin_address));
    tokio::spawn(agent.clone().report(nats.clone()));
    let there = nats.clone();
    tokio::spawn(agent.clone().become_ready(move || there.connection_state() == State::Connected));
    tokio::spawn(agent.follow(nats.clone()));
    tokio::spawn(timers::run(host.clone(), nats.clone()));
    tokio::spawn(peers::follow(host.clone(), nats.clone()));
    let last_line = CancellationToken::new();
    let publisher =
        tokio::spawn(logs::publish(nats.clone(), settings.host.clone(), lines, last_line.clone()));

    shutdown.await;
    info!("stopping: running requests end first");
    host.stopping.store(true, Ordering::Release);
    let _ = tokio::time::timeout(Duration::from_secs(STOP_S_MAX), async {
        tokio::time::sleep(Duration::from_millis(LEAVE_MS)).await;
        requests.stop().await; // with their bodies
        while host.metrics.in_flight.get() > 0 {
            tokio::time::sleep(Duration::from_millis(STOP_POLL_MS)).await;
        }
        // What the last requests logged, and that the last events were handled, is still on its way.
        last_line.cancel();
        let _ = publisher.await;
        let _ = nats.flush().await;
    })
    .await;
    Ok(())
}

async fn listen(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}; is the port in use?"))
}

async fn tidy(host: Arc<Host>) {
    loop {
        tokio::time::sleep(Duration::from_secs(TIDY_S)).await;
        host.pools.tidy().await;
        host.loader.tidy().await;
    }
}

async fn watch_memory(host: Arc<Host>, source: Source) {
    let gauge = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
    let mut was_beyond = 0;
    let tell = |reading: memory::Reading, bounds: memory::Bounds| {
        host.engine.set_memory_left(bounds.left);
        if bounds.beyond > 0 {
            host.loader.make_room(); // what only waits goes before what runs
        }
        if bounds.beyond > 0 || was_beyond > 0 {
            odeon_engine::end_largest(host.accounts.memories(), bounds.beyond); // goes through all apps
        }
        was_beyond = bounds.beyond;
        host.metrics.memory_used.set(gauge(reading.used));
        host.metrics.memory_limit.set(gauge(reading.limit));
    };
    let unload = || {
        let host = host.clone();
        async move { host.loader.unload_idle().await }
    };
    memory::watch(&host.pressure, || source.read(), tell, unload).await;
}

/// Files this process may have open; each loaded app holds one.
fn open_files_max() -> u64 {
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}
