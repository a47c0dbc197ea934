//! The one place where desired state is made: a new generation, saved, sealed, written into the stage.
//!
//! Order matters: the database first, the stage second. A Platform that stops between the two writes the
//! same generation again when it reconciles; the other way round, a generation could be given twice.

use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use odeon_protocol::events::EventHandler;
use odeon_protocol::{
    AppId, AppName, DesiredApp, DesiredState, Generation, MIGRATED_SINCE, MigrateCommand, MigrateReply,
    Refusal, Serving,
};
use tracing::warn;

use super::store::{self, Deployment};
use crate::Platform;
use crate::assets;
use crate::assets::store::StoredRevision;
use crate::configurations;
use crate::nats::stage::Stage;

/// How often saved desired state is put into the stage before that is left to the reconciler.
const PUT_TRIES_MAX: u32 = 3;
/// Wait after a try that failed, in milliseconds.
const PUT_PAUSE_MS: u64 = 1_000;

/// The generation of the next change: newer than the database's and than anything the stage has seen.
pub(crate) fn next_generation(
    stage: &Stage,
    current: Option<&Deployment>,
    app: &odeon_protocol::AppId,
) -> Generation {
    let ours = current.map_or(Generation::default(), |deployment| deployment.generation);
    let seen = stage.seen();
    let wanted = seen.desired.get(app).map(|desired| desired.generation);
    // Hosts refuse what is older than what they run, even when database and bucket have both forgotten it.
    let run = seen.replicas.values().filter(|replica| replica.app == *app).map(|replica| replica.generation);
    ours.after_restore(run.chain(wanted).max().unwrap_or_default())
}

/// Saves `wanted` and puts it into the stage, and says whether it is there. What is saved stands: where it cannot be put there now, the
/// reconciler does it as soon as nobody is on the deployment any more. Whoever waits for it to serve has a limit.
pub(crate) async fn apply(platform: &Platform, stage: &Stage, wanted: &Deployment) -> Result<bool> {
    let state = state(platform, wanted).await?;
    let saved = store::save(&platform.database, wanted).await? || is_saved(platform, wanted).await?;
    ensure!(saved, "a newer deployment of `{}` to {} was made meanwhile", wanted.name, wanted.stage);
    for _ in 0..PUT_TRIES_MAX {
        let Err(error) = put(platform, stage, wanted, state.clone()).await else { return Ok(true) };
        warn!(stage = %stage.name, app = %wanted.name, generation = %wanted.generation, "desired state is not in the stage yet: {error:#}");
        tokio::time::sleep(Duration::from_millis(PUT_PAUSE_MS)).await;
    }
    Ok(false)
}

/// Whether it was saved before: a database that goes away may have done what it did not answer.
async fn is_saved(platform: &Platform, wanted: &Deployment) -> Result<bool> {
    let there = store::find(&platform.database, &wanted.app, &wanted.stage).await?;
    Ok(there.is_some_and(|there| there.generation == wanted.generation && there.revision == wanted.revision))
}

/// Puts what the database says into the stage.
pub(crate) async fn write(platform: &Platform, stage: &Stage, wanted: &Deployment) -> Result<()> {
    put(platform, stage, wanted, state(platform, wanted).await?).await
}

async fn state(platform: &Platform, wanted: &Deployment) -> Result<DesiredState> {
    if wanted.serving { serving(platform, wanted).await } else { Ok(DesiredState::Removed) }
}

/// Events find their handlers before the hosts do; what handlers leave behind is the reconciler's business.
async fn put(platform: &Platform, stage: &Stage, wanted: &Deployment, state: DesiredState) -> Result<()> {
    let handlers = match &state {
        DesiredState::Serving(serving) => &serving.handlers[..],
        DesiredState::Removed => &[],
    };
    stage.ensure_handlers(&wanted.app, handlers).await?;
    let desired = DesiredApp {
        organization: wanted.organization.clone(),
        stage: wanted.stage.clone(),
        app: wanted.app.clone(),
        generation: wanted.generation,
        state,
    };
    stage.write_desired(&wanted.app, &platform.signer.seal(&desired)).await
}

/// Puts a revision's component and native code into the stage, unless they are there.
pub(crate) async fn push_revision(
    platform: &Platform,
    stage: &Stage,
    revision: &StoredRevision,
) -> Result<()> {
    for digest in [Some(&revision.wasm_digest), revision.native_digest.as_ref()].into_iter().flatten() {
        let bytes = platform.blobs.get(digest).await?;
        stage.push_object(digest, &bytes).await?;
    }
    Ok(())
}

/// Whether a stage gets a revision for the first time, or had it, or a newer one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    /// What its model asks for has to hold for all rows.
    Forth,
    /// No row that was written since holds it up.
    Back,
}

/// Asks the stage for the tables that a revision needs. Doing it twice changes nothing.
pub(crate) async fn migrate(
    platform: &Platform,
    stage: &Stage,
    (app, name): (&AppId, &AppName),
    generation: Generation,
    (revision, way): (&StoredRevision, Way),
) -> Result<MigrateReply> {
    let command = MigrateCommand {
        organization: stage.organization.clone(),
        stage: stage.name.clone(),
        app: app.clone(),
        name: name.clone(),
        revision: revision.revision,
        generation,
        schema: revision.schema.clone(),
        undeploys: false,
        goes_back: way == Way::Back,
    };
    stage.migrate(&platform.signer.seal(&command)).await
}

/// Asks the stage to take back what an undeployed app may read of others.
pub(crate) async fn withdraw(
    platform: &Platform,
    stage: &Stage,
    removed: &Deployment,
) -> Result<MigrateReply> {
    let command = MigrateCommand {
        organization: stage.organization.clone(),
        stage: stage.name.clone(),
        app: removed.app.clone(),
        name: removed.name.clone(),
        revision: removed.revision,
        generation: removed.generation,
        schema: None,
        undeploys: true,
        goes_back: false,
    };
    stage.migrate(&platform.signer.seal(&command)).await
}

/// Writes again what a stage has lost: bits, tables, and then desired state. The generation stays: it is no change.
pub(crate) async fn write_again(platform: &Platform, stage: &Stage, wanted: &Deployment) -> Result<()> {
    if wanted.serving {
        let revision = stored(platform, wanted).await?;
        push_revision(platform, stage, &revision).await?;
        match migrate_back(platform, stage, wanted, &revision).await? {
            MigrateReply::Done { .. } => {}
            // A deployment that failed after its migration: the tables have more than this revision needs.
            MigrateReply::Refused(refusal) if refusal.code == MIGRATED_SINCE => {}
            MigrateReply::Refused(refusal) => bail!("the migrator refused: {refusal}"),
        }
    }
    write(platform, stage, wanted).await
}

/// Asks for the tables of what serves, or is to serve again.
async fn migrate_back(
    platform: &Platform,
    stage: &Stage,
    wanted: &Deployment,
    revision: &StoredRevision,
) -> Result<MigrateReply> {
    let (app, generation) = ((&wanted.app, &wanted.name), wanted.generation);
    migrate(platform, stage, app, generation, (revision, Way::Back)).await
}

/// Asks for the rules of a revision that goes on because the next one failed: that one's migration may have dropped some.
pub(crate) async fn restore_rules(
    platform: &Platform,
    stage: &Stage,
    back: &Deployment,
) -> Result<MigrateReply> {
    migrate_back(platform, stage, back, &stored(platform, back).await?).await
}

/// Whether it would be refused again: for what the model asks, or for the rows that there are. What the migrator says of itself passes.
pub(crate) fn is_final(refusal: &Refusal) -> bool {
    refusal.code.starts_with("OS-DPL-")
}

async fn stored(platform: &Platform, wanted: &Deployment) -> Result<StoredRevision> {
    assets::store::find_revision(&platform.database, &wanted.organization, &wanted.app, wanted.revision)
        .await?
        .with_context(|| format!("revision {} of `{}` is not stored", wanted.revision, wanted.name))
}

async fn serving(platform: &Platform, wanted: &Deployment) -> Result<DesiredState> {
    let revision = stored(platform, wanted).await?;
    let settings = configurations::delivered(platform, wanted, &revision).await?;
    let timers = configurations::timers(platform, wanted, &revision).await?;
    let mut handlers = Vec::new();
    for handler in &revision.interface.handlers {
        let producer = match &handler.app {
            None => Some(wanted.app.clone()),
            Some(name) => assets::store::named(&platform.database, &wanted.organization, name).await?,
        };
        let producer = producer.with_context(|| {
            let app = handler.app.as_deref().unwrap_or_default();
            format!("`{}` handles an event of `{app}`, and there is no such app", wanted.name)
        })?;
        let (name, event) = (handler.name.clone(), handler.event.clone());
        handlers.push(EventHandler { name, producer, event });
    }
    Ok(DesiredState::Serving(Box::new(Serving {
        name: wanted.name.clone(),
        claim: revision.claim,
        revision: wanted.revision,
        placements: wanted.placements.clone(),
        limits: wanted.limits.whole(&platform.settings.limits_max),
        egress_allow: wanted.egress_allow.clone(),
        database: true,
        settings,
        timers,
        handlers,
        publishes: !revision.interface.public.events.is_empty(),
    })))
}
