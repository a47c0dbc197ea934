//! The Platform: REST services over revisions, builds and deployments, and the controller that keeps the
//! stages as they were asked for.
//!
//! Map: [`identity`] says who calls, [`assets`] stores revisions, [`builds`] makes them, [`deployments`] brings
//! them into stages, [`monitoring`] reads logs, [`nats`] speaks with stages, [`keys`] holds what must not be
//! in a database.
//!
//! What must stay true: the Platform never opens a connection to a host, an app or an app's database; every
//! row belongs to an organization, and every query names it.

mod again;
mod api;
mod assets;
mod builds;
mod configurations;
mod dependencies;
mod deployments;
mod identity;
pub mod keys;
mod monitoring;
mod nats;
pub mod settings;

use std::collections::BTreeSet;
use std::pin::pin;
use std::str::FromStr as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use chrono::Utc;
use odeon_protocol::{AppId, HostId, OrganizationId, RouterId, Signer, StageName, TrustedKeys};
use serde_json::json;
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use tokio::net::TcpListener;
use tokio::sync::{Notify, Semaphore, watch};
use tracing::info;

use crate::assets::blobs::Blobs;
use crate::identity::Scope;
use crate::keys::Keys;
use crate::monitoring::readers::Readers;
use crate::nats::auth::{self, Permissions};
use crate::nats::stage::Stage;
use crate::nats::stages::Stages;
use crate::settings::Settings;

/// Operations that run or wait at once; past that, 429.
pub(crate) const OPERATIONS_MAX: usize = 64;
/// Connections to the Platform's database.
const DATABASE_CONNECTIONS_MAX: u32 = 16;
/// How long a request waits for one of them, in seconds.
const DATABASE_WAIT_S_MAX: u64 = 10;
/// Name of the first token of an organization.
pub(crate) const FIRST_TOKEN: &str = "owner";
/// Life of the first token, in days.
pub(crate) const FIRST_TOKEN_DAYS: i64 = 366;

/// What all services share.
pub(crate) struct Platform {
    pub(crate) settings: Settings,
    pub(crate) database: PgPool,
    pub(crate) blobs: Blobs,
    pub(crate) signer: Signer,
    pub(crate) keys: Keys,
    pub(crate) stages: Stages,
    /// Held while an organization is added: two of one name must not meet.
    pub(crate) adding_organization: tokio::sync::Mutex<()>,
    pub(crate) builds: Semaphore,
    pub(crate) operations: Arc<Semaphore>,
    pub(crate) log_readers: Arc<Readers>,
    /// Becomes true when the Platform stops: answers without an end have one then.
    pub(crate) stopping: watch::Sender<bool>,
    busy: Arc<Busy>,
}

/// Apps and stages that somebody is changing.
#[derive(Default)]
struct Busy {
    marks: Mutex<BTreeSet<(AppId, StageName)>>,
    freed: Notify,
}

impl Busy {
    fn marks(&self) -> MutexGuard<'_, BTreeSet<(AppId, StageName)>> {
        self.marks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Platform {
    /// A stage of an organization.
    pub(crate) fn stage(&self, organization: &OrganizationId, name: &StageName) -> Option<Arc<Stage>> {
        self.stages.of(organization).into_iter().find(|stage| stage.name == *name)
    }
    /// Opens a stage and keeps it as it was asked for, from now on.
    pub(crate) async fn open_stage(
        self: &Arc<Self>,
        organization: &OrganizationId,
        name: &StageName,
    ) -> Result<()> {
        let stage = self.stages.open(organization, name).await?;
        tokio::spawn(deployments::reconcile::run(self.clone(), stage.clone()));
        tokio::spawn(deployments::sweep::run(self.clone(), stage));
        Ok(())
    }

    /// The stage that publishing goes to.
    pub(crate) fn first_stage(&self, organization: &OrganizationId) -> Option<StageName> {
        self.stages.of(organization).first().map(|stage| stage.name.clone())
    }
    /// Marks an app and stage as being changed, as soon as nobody else changes them: operations and the reconciler do not meet.
    pub(crate) async fn busy(&self, app: &AppId, stage: &StageName) -> BusyGuard {
        loop {
            let mut freed = pin!(self.busy.freed.notified());
            freed.as_mut().enable(); // before the look, so that nothing is missed between the two
            match self.try_busy(app, stage) {
                Some(guard) => return guard,
                None => freed.await,
            }
        }
    }
    /// Whether somebody changes them now.
    pub(crate) fn is_busy(&self, app: &AppId, stage: &StageName) -> bool {
        self.busy.marks().contains(&(app.clone(), stage.clone()))
    }
    /// Marks them, if nobody changes them now.
    pub(crate) fn try_busy(&self, app: &AppId, stage: &StageName) -> Option<BusyGuard> {
        let mark = (app.clone(), stage.clone());
        let is_new = self.busy.marks().insert(mark.clone());
        is_new.then(|| BusyGuard { busy: self.busy.clone(), mark })
    }
}

/// See [`Platform::busy`].
pub(crate) struct BusyGuard {
    busy: Arc<Busy>,
    mark: (AppId, StageName),
}

impl Drop for BusyGuard {
    fn drop(&mut self) {
        self.busy.marks().remove(&self.mark);
        self.busy.freed.notify_waiters();
    }
}

/// What `odeon-platform init` prints: what nats-server must know before its first start.
pub fn init(keys: &Keys) -> Result<serde_json::Value> {
    let (operator, system) = (keys.operator()?, keys.system_account()?);
    Ok(json!({
        "operator": auth::operator_token(&operator, &system)?,
        "systemAccount": system.public_key(),
        "systemAccountToken": auth::system_account_token(&operator, &system)?,
        "trustedKeys": keys.trusted_file(),
    }))
}

/// For whom `odeon-platform provision` makes NATS credentials.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Role {
    /// An `odeon-host`.
    Host,
    /// An `odeon-router`.
    Router,
    /// An `odeon-migrator`.
    Migrator,
}

/// A credentials file for a process of a stage.
pub fn provision(
    keys: &Keys,
    organization: &OrganizationId,
    stage: &StageName,
    role: Role,
    name: &str,
) -> Result<String> {
    let permissions = match role {
        Role::Host => Permissions::host(&HostId::from_str(name)?),
        Role::Router => Permissions::router(&RouterId::from_str(name)?),
        Role::Migrator => Permissions::migrator(),
    };
    auth::user_credentials(&keys.stage_account(organization, stage)?, name, &permissions)
}

/// The OpenAPI 3.1 document of the REST services.
pub fn openapi() -> Result<String> {
    api::document().to_pretty_json().context("write the OpenAPI document")
}

/// Runs the Platform until `shutdown` resolves.
pub async fn serve(settings: Settings, shutdown: impl Future<Output = ()> + Send + 'static) -> Result<()> {
    let keys = Keys::open_or_create(&settings.keys)?;
    let signer = keys.signer()?;
    let trusted = TrustedKeys::from_json(&tokio::fs::read(keys.trusted_file()).await?)?;
    let database = open_database(&settings.database_url).await?;
    let organization = identity::store::ensure_organization(
        &database,
        &keys.organization(&settings.organization)?,
        &settings.organization,
    )
    .await?;
    deployments::store::ensure_stages(&database, &organization, &settings.stages).await?;
    ensure_token(&database, &settings, &organization).await?;
    deployments::store::end_interrupted(&database).await?;
    builds::store::end_interrupted(&database).await?;

    let stages = Stages::connect(keys.clone(), trusted, &settings.nats_url).await?;
    let platform = Arc::new(Platform {
        blobs: Blobs::open(&settings.blobs)?,
        database,
        signer,
        keys,
        stages,
        adding_organization: tokio::sync::Mutex::default(),
        builds: Semaphore::new(builds::BUILDS_AT_ONCE),
        operations: Arc::new(Semaphore::new(OPERATIONS_MAX)),
        log_readers: Arc::default(),
        stopping: watch::Sender::new(false),
        busy: Arc::default(),
        settings,
    });
    for (organization, name) in deployments::store::all_stages(&platform.database).await? {
        platform.open_stage(&organization, &name).await?;
    }
    let kept = platform.clone();
    tokio::spawn(async move { kept.stages.keep_accounts().await });
    let blobs = platform.blobs.clone();
    tokio::spawn(async move { blobs.sweep_uploads().await });
    let listener = TcpListener::bind(&platform.settings.listen)
        .await
        .with_context(|| format!("listen on {}; is the port in use?", platform.settings.listen))?;
    info!(address = %listener.local_addr()?, "the Platform serves");
    let stopping = platform.clone();
    let shutdown = async move {
        shutdown.await;
        stopping.stopping.send_replace(true);
    };
    axum::serve(listener, api::router(platform)).with_graceful_shutdown(shutdown).await.context("serve REST")
}

async fn open_database(url: &str) -> Result<PgPool> {
    let options = PgConnectOptions::from_str(url).context("understand the database URL")?;
    let pool = PgPoolOptions::new()
        .max_connections(DATABASE_CONNECTIONS_MAX)
        .acquire_timeout(Duration::from_secs(DATABASE_WAIT_S_MAX))
        .connect_with(options)
        .await
        .context("connect to the Platform's database")?;
    sqlx::migrate!().run(&pool).await.context("bring the Platform's database to this version")?;
    Ok(pool)
}

/// Writes the first token, unless the file holds one that is valid.
async fn ensure_token(database: &PgPool, settings: &Settings, organization: &OrganizationId) -> Result<()> {
    if let Ok(token) = tokio::fs::read_to_string(&settings.token_file).await
        && identity::store::find_token(database, token.trim()).await?.is_some()
    {
        return Ok(());
    }
    let expires_at = Utc::now() + chrono::Duration::days(FIRST_TOKEN_DAYS);
    let token =
        identity::store::create_token(database, organization, FIRST_TOKEN, &Scope::ALL, expires_at).await?;
    identity::store::audit(database, organization, "platform", "token.create", FIRST_TOKEN, json!({}))
        .await?;
    keys::write_private(&settings.token_file, token.as_bytes())
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_openapi_document_is_current() {
        let checked_in = include_str!("../../../docs/openapi.json");
        let current = format!("{}\n", super::openapi().unwrap());
        assert!(
            checked_in == current,
            "docs/openapi.json is old: cargo run --bin odeon-platform openapi > docs/openapi.json"
        );
    }
}
