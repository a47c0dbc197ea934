//! The router: a stage's load balancer.
//!
//! Map: `odeon_protocol::routes` knows which hosts serve which app, [`follow`] feeds it from NATS, [`report`] says what came of it, [`routes`] is what requests
//! find there, [`places`] bounds how many there are, [`proxy`] is their path, [`headers`] what passes of them, [`serve`] the listeners.
//!
//! What must stay true: it routes by what it last knew when NATS is away; it never holds more of a body than its beginning; a request is
//! repeated only when the first try cannot have had an effect.

mod follow;
mod headers;
mod metrics;
mod places;
pub mod proxy;
mod report;
mod routes;
pub mod serve;
pub mod settings;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result};
use odeon_http::Workers;
use odeon_protocol::{TrustedKeys, connection};
use tokio::net::TcpListener;
use tracing::info;

use crate::follow::Follower;
use crate::proxy::Proxy;
use crate::settings::Settings;

/// Load balancers need this long to send requests elsewhere when the router stops, in milliseconds, unless its settings say otherwise.
const LEAVE_MS: u64 = 5_000;
/// How long running requests may take to end when the router stops, in seconds.
const STOP_S_MAX: u64 = 30;

/// What the parts of a router share.
pub(crate) struct Router {
    pub(crate) settings: Settings,
    pub(crate) proxy: Proxy,
    ready: AtomicBool,
    stopping: AtomicBool,
}

impl Router {
    pub(crate) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire) && !self.is_stopping()
    }
    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Acquire)
    }
    pub(crate) fn mark_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }
}

/// Runs a router until `shutdown` resolves, and then until its requests have ended.
pub async fn run(settings: Settings, shutdown: impl Future<Output = ()>) -> Result<()> {
    let trusted = tokio::fs::read(&settings.trusted_keys).await;
    let trusted = trusted.with_context(|| format!("read {}", settings.trusted_keys.display()))?;
    let trusted = TrustedKeys::from_json(&trusted)?;
    let [ready, stopping] = [false; 2].map(AtomicBool::new);
    let router = Arc::new(Router { settings, proxy: Proxy::default(), ready, stopping });
    let settings = &router.settings;
    let listener = listen(&settings.listen).await?;
    let admin = listen(&settings.admin_listen).await?;
    let (address, admin_address) = (listener.local_addr()?.to_string(), admin.local_addr()?.to_string());
    info!(router = %settings.router, address, admin_address, "the router serves");

    let follower = Follower::new(router.clone(), trusted);
    follower.resume();
    let stop = serve::Stop::default();
    let cpus = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let threads =
        Workers::start("users", router.proxy.for_threads(cpus)).context("start the threads for users")?;
    tokio::spawn(serve::users(threads, listener, stop.clone()));
    tokio::spawn(serve::admin(router.clone(), admin));
    let client =
        connection::join(&settings.nats_url, &settings.credentials, settings.router.as_str()).await?;
    follower.run(&client, address, admin_address);

    shutdown.await;
    let leave_ms = settings.leave_ms.unwrap_or(LEAVE_MS);
    info!(leave_ms, "stopping: load balancers learn it, and running requests end first");
    router.stopping.store(true, Ordering::Release);
    tokio::time::sleep(Duration::from_millis(leave_ms)).await;
    let _ = tokio::time::timeout(Duration::from_secs(STOP_S_MAX), stop.stop()).await;
    Ok(())
}

async fn listen(address: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("listen on {address}; is the port in use?"))
}
