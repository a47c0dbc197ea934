//! The one place where desired state is made: a new generation, saved, sealed, written into the stage.
//!
//! Order matters: the database first, the stage second. A Platform that stops between the two writes the
//! same generation again when it reconciles; the other way round, a generation could be given twice.

use anyhow::{Context as _, Result, ensure};
use odeon_protocol::{DesiredApp, DesiredState, Generation, Limits, Serving};

use super::store::{self, Deployment};
use crate::Platform;
use crate::assets;
use crate::nats::stage::Stage;

/// The generation of the next change: newer than the database's and than anything the stage has seen.
pub(crate) fn next_generation(
    stage: &Stage,
    current: Option<&Deployment>,
    app: &odeon_protocol::AppId,
) -> Generation {
    let ours = current.map_or(Generation::default(), |deployment| deployment.generation);
    let theirs = stage.seen().desired.get(app).map_or(Generation::default(), |desired| desired.generation);
    ours.after_restore(theirs)
}

/// Saves `wanted` and puts it into the stage.
pub(crate) async fn apply(platform: &Platform, stage: &Stage, wanted: &Deployment) -> Result<()> {
    let saved = store::save(&platform.database, wanted).await?;
    ensure!(saved, "a newer deployment of `{}` to {} was made meanwhile", wanted.name, wanted.stage);
    write(platform, stage, wanted).await
}

/// Puts what the database says into the stage.
pub(crate) async fn write(platform: &Platform, stage: &Stage, wanted: &Deployment) -> Result<()> {
    let state = if wanted.serving { serving(platform, wanted).await? } else { DesiredState::Removed };
    let desired = DesiredApp {
        organization: wanted.organization.clone(),
        stage: wanted.stage.clone(),
        app: wanted.app.clone(),
        generation: wanted.generation,
        state,
    };
    stage.write_desired(&wanted.app, &platform.signer.seal(&desired)).await
}

async fn serving(platform: &Platform, wanted: &Deployment) -> Result<DesiredState> {
    let revision =
        assets::store::find_revision(&platform.database, &wanted.organization, &wanted.app, wanted.revision)
            .await?
            .with_context(|| format!("revision {} of `{}` is not stored", wanted.revision, wanted.name))?;
    Ok(DesiredState::Serving(Box::new(Serving {
        name: wanted.name.clone(),
        claim: revision.claim,
        revision: wanted.revision,
        placements: wanted.placements.clone(),
        limits: Limits::default(),
        egress_allow: wanted.egress_allow.clone(),
        database: true,
    })))
}
