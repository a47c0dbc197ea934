//! Runs what a person asked for: publish, deploy, roll back, undeploy.
//!
//! A deployment goes: bits into the stage, schema migrated, desired state written, then wait until every
//! replica and every router says that it serves. If a replica fails, or time runs out, the revision that
//! served before is made desired again, and the operation says why. The old revision serves throughout.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use odeon_compiler::Interface;
use odeon_control::{Spread, place};
use odeon_protocol::{
    AppId, AppName, Generation, HostId, MigrateReply, OrganizationId, ReplicaState, Revision, StageName,
};
use serde_json::json;
use sqlx::PgPool;
use tracing::{error, info, warn};
use uuid::Uuid;

use super::desired::Way;
use super::limits::OwnLimits;
use super::progress::{Message, Progress};
use super::store::{self, Deployment, Kind};
use super::{desired, reconcile};
use crate::Platform;
use crate::again::until_written;
use crate::assets::uploads::Upload;
use crate::builds::{self, BuildRequest, Built};
use crate::configurations;
use crate::configurations::store::Changes;
use crate::dependencies::analysis;
use crate::identity;
use crate::nats::stage::{Seen, Stage};

/// The code of an inconsistency between apps.
const INCONSISTENT: &str = "OS-DPL-40920";
/// The code of a rule of the model that does not hold in the stage.
const RULE_LEFT_OUT: &str = "OS-DPL-40914";
/// How long all replicas of a new generation may take to serve, in seconds.
const ROLLOUT_S_MAX: u64 = 60;
/// How long a deployment waits for the heartbeats of hosts, in seconds: longer than a stage takes to settle.
const HEAR_S_MAX: u64 = 5;
/// How long an undeployment waits for the routers to forget the app, in seconds.
const REMOVAL_S_MAX: u64 = 15;

/// What an operation does, once it is accepted.
pub(crate) enum Task {
    Publish {
        upload: Upload,
        name: Option<AppName>,
        message: String,
    },
    Deploy {
        app: AppId,
        revision: Revision,
        egress_allow: Option<Vec<String>>,
        limits: Option<OwnLimits>,
        accept_impact: bool,
    },
    Undeploy {
        app: AppId,
    },
    Apply {
        app: AppId,
        changes: Changes,
    },
}

/// Everything an operation needs to know.
pub(crate) struct Operation {
    pub(crate) key: Uuid,
    pub(crate) kind: Kind,
    pub(crate) organization: OrganizationId,
    pub(crate) actor: String,
    pub(crate) stage: StageName,
    pub(crate) task: Task,
}

/// How an operation ends that the user, not the Platform, has to deal with.
struct Failed;
type Outcome = Result<Result<(), Failed>>;

/// Runs an operation to its end and writes down how it ended. Every operation gets an end, whatever it met.
pub(crate) async fn run(platform: Arc<Platform>, operation: Operation) {
    let key = operation.key;
    let (working, mut progress) = (platform.clone(), Progress::default());
    let work = tokio::spawn(async move {
        let outcome = execute(&working, &operation, &mut progress).await;
        (outcome, progress)
    });
    let (outcome, mut progress) = work.await.unwrap_or_else(|panic| (Err(panic.into()), Progress::default()));
    let status = match outcome {
        Ok(Ok(())) => "Finished",
        Ok(Err(Failed)) => "FinishedWithError",
        Err(error) => {
            error!(operation = %key, "{error:#}");
            progress.messages.push(Message::error("OS-DPL-50001", format!("{error:#}")));
            "FinishedWithError"
        }
    };
    end(&platform.database, key, status, &progress).await;
}

/// Writes down how an operation ended. Until that is written, nobody can deploy the app.
pub(crate) async fn end(database: &PgPool, key: Uuid, status: &str, progress: &Progress) {
    let what = format!("the end of operation {key}");
    let write = || store::save_progress(database, key, status, progress);
    let Err(error) = until_written(&what, write).await else { return };
    error!(operation = %key, "what the operation told cannot be written: {error:#}");
    let mut told = Progress::default();
    told.messages.push(Message::error("OS-DPL-50001", "what the operation told could not be written"));
    if let Err(error) = until_written(&what, || store::save_progress(database, key, status, &told)).await {
        error!(operation = %key, "cannot write how the operation ended: {error:#}");
    }
}

async fn execute(platform: &Arc<Platform>, operation: &Operation, progress: &mut Progress) -> Outcome {
    match &operation.task {
        Task::Publish { .. } => publish(platform, operation, progress).await,
        Task::Deploy { app, revision, .. } => deploy(platform, operation, app, *revision, progress).await,
        Task::Undeploy { app } => undeploy(platform, operation, app, progress).await,
        Task::Apply { app, changes } => apply(platform, operation, app, changes, progress).await,
    }
}

async fn publish(platform: &Arc<Platform>, operation: &Operation, progress: &mut Progress) -> Outcome {
    let Task::Publish { upload, name, message } = &operation.task else { return Ok(Err(Failed)) };
    let build_key = builds::store::begin(&platform.database, &operation.organization).await?;
    let request = BuildRequest {
        organization: &operation.organization,
        actor: &operation.actor,
        upload: upload.clone(),
        name: name.clone(),
        message,
    };
    let built = builds::build(platform, request, progress).await;
    let known =
        built.as_ref().ok().and_then(Option::as_ref).map(|built: &Built| (&built.app, built.revision));
    let told = &*progress;
    until_written("the end of a build", || builds::store::end(&platform.database, build_key, known, told))
        .await?;
    let Some(built) = built? else { return Ok(Err(Failed)) };
    audit(platform, operation, "revision.create", built.name.as_str(), json!({ "revision": built.revision }))
        .await?;
    progress.inform(format!("stored revision {} of `{}`", built.revision, built.name));
    if !store::assign_operation(&platform.database, operation.key, build_key, (&built.app, built.revision))
        .await?
    {
        let text = format!(
            "revision {} of `{}` is stored, but another deployment of it to {} is running; deploy it when that has ended",
            built.revision, built.name, operation.stage
        );
        progress.messages.push(Message::error("OS-DPL-40901", text));
        return Ok(Err(Failed));
    }
    store::save_progress(&platform.database, operation.key, "Running", progress).await?;
    if built.is_library {
        for (app, held) in builds::libraries::behind(platform, &built.app, built.revision).await? {
            progress
                .inform(format!("`{app}` has revision {held} of it, until it is published with this one"));
        }
        return Ok(Ok(()));
    }
    deploy(platform, operation, &built.app, built.revision, progress).await
}

/// Saves what the stage sets and brings it to the hosts, as a new generation of the revision that serves.
async fn apply(
    platform: &Arc<Platform>,
    operation: &Operation,
    app: &AppId,
    changes: &Changes,
    progress: &mut Progress,
) -> Outcome {
    let place = (&operation.organization, app, &operation.stage);
    configurations::store::save(&platform.database, place, &operation.actor, changes).await?;
    match store::find(&platform.database, app, &operation.stage).await?.filter(|found| found.serving) {
        Some(serving) => deploy(platform, operation, app, serving.revision, progress).await,
        None => Ok(Ok(())), // undeployed meanwhile
    }
}

async fn deploy(
    platform: &Arc<Platform>,
    operation: &Operation,
    app: &AppId,
    revision: Revision,
    progress: &mut Progress,
) -> Outcome {
    let stage = platform.stage(&operation.organization, &operation.stage).context("the stage is not open")?;
    let asset = crate::assets::store::find(&platform.database, &operation.organization, app.as_str())
        .await?
        .with_context(|| format!("the asset {app} is not stored"))?;
    let stored =
        crate::assets::store::find_revision(&platform.database, &operation.organization, app, revision)
            .await?
            .with_context(|| format!("revision {revision} of `{}` is not stored", asset.name))?;
    let _busy = platform.busy(app, &operation.stage).await;
    let before = store::find(&platform.database, app, &operation.stage).await?;
    if !impact_is_accepted(platform, operation, &asset.name, &stored.interface, progress).await? {
        return Ok(Err(Failed));
    }

    // Where nobody could serve it, nothing is migrated.
    hear_hosts(&stage).await;
    let seen = stage.seen();
    let current = before.as_ref().map_or(&[][..], |before| &before.placements);
    let placements =
        place(Spread::of_stage(operation.stage.as_str()), &reconcile::host_views(&seen), current);
    if placements.is_empty() {
        let text = format!("stage {} has no live host; see `odeon status`", operation.stage);
        progress.messages.push(Message::error("OS-DPL-50302", text));
        return Ok(Err(Failed));
    }

    let started = Instant::now();
    let unwritten = stage.with_objects().await;
    desired::push_revision(platform, &stage, &stored).await?;
    progress.step("push", started);

    let generation = desired::next_generation(&stage, before.as_ref(), app);
    let started = Instant::now();
    let newest = before
        .as_ref()
        .map(|before| before.revision.max(before.previous_revision.unwrap_or(before.revision)));
    let had = newest.is_some_and(|newest| revision <= newest);
    let way = if had || operation.kind == Kind::Rollback { Way::Back } else { Way::Forth };
    store::set_migrating(&platform.database, app, &operation.stage, true).await?;
    match desired::migrate(platform, &stage, (app, &asset.name), generation, (&stored, way)).await? {
        MigrateReply::Done { steps, warnings } => {
            steps.into_iter().for_each(|step| progress.inform(step));
            warn_all(progress, warnings);
        }
        MigrateReply::Refused(refusal) => {
            let marked_before = before.as_ref().is_some_and(|before| before.migrating);
            if desired::is_final(&refusal) && !marked_before {
                store::set_migrating(&platform.database, app, &operation.stage, false).await?;
            }
            progress.messages.push(Message::error(&refusal.code, refusal.message));
            return Ok(Err(Failed));
        }
    }
    progress.step("migrate", started);

    let started = Instant::now();
    let serving_before = before.as_ref().filter(|before| before.serving);
    let egress_before = before.as_ref().map(|before| before.egress_allow.clone()).unwrap_or_default();
    let limits_before = before.as_ref().map(|before| before.limits.clone()).unwrap_or_default();
    let (egress_asked, limits_asked) = match &operation.task {
        Task::Deploy { egress_allow, limits, .. } => (egress_allow.clone(), limits.clone()),
        Task::Publish { .. } | Task::Undeploy { .. } | Task::Apply { .. } => (None, None),
    };
    let wanted = Deployment {
        organization: operation.organization.clone(),
        app: app.clone(),
        name: asset.name.clone(),
        stage: operation.stage.clone(),
        revision,
        previous_revision: previous(serving_before, revision),
        serving: true,
        generation,
        placements,
        egress_allow: egress_asked.unwrap_or_else(|| egress_before.clone()),
        limits: limits_asked.unwrap_or_else(|| limits_before.clone()),
        updated_at: chrono::Utc::now(),
        migrating: false,
    };
    desired::apply(platform, &stage, &wanted).await?;
    drop(unwritten);
    match wait_until_serving(&stage, &wanted).await {
        Ok(()) => {
            progress.step("roll out", started);
            let detail = json!({ "stage": operation.stage, "revision": revision, "generation": generation });
            let action = match operation.kind {
                Kind::Publish => "deployment.publish",
                Kind::Deploy => "deployment.deploy",
                Kind::Rollback => "deployment.rollback",
                Kind::Undeploy => "deployment.undeploy",
                Kind::ApplyConfigs => "deployment.apply",
            };
            audit(platform, operation, action, asset.name.as_str(), detail).await?;
            info!(app = %asset.name, stage = %operation.stage, %revision, "deployed");
            Ok(Ok(()))
        }
        Err(why) => {
            progress.messages.push(Message::error(&why.code, why.message));
            let back = Deployment {
                generation: desired::next_generation(&stage, Some(&wanted), app),
                serving: serving_before.is_some(),
                revision: serving_before.map_or(revision, |before| before.revision),
                previous_revision: serving_before.and_then(|before| before.previous_revision),
                egress_allow: egress_before,
                limits: limits_before,
                migrating: serving_before.is_some(),
                ..wanted
            };
            until_written("the way back", async || desired::apply(platform, &stage, &back).await.map(drop))
                .await?;
            if back.serving {
                restore_rules(platform, &stage, &back, progress).await;
            }
            progress.inform(match serving_before {
                Some(before) => format!("revision {} keeps serving", before.revision),
                None => format!("`{}` is not deployed to {}", asset.name, operation.stage),
            });
            Ok(Err(Failed))
        }
    }
}

/// The revision that goes on serves in any case: what its tables lack is told.
async fn restore_rules(platform: &Platform, stage: &Stage, back: &Deployment, progress: &mut Progress) {
    let missing =
        format!("revision {} may miss indexes and references that the next one had dropped", back.revision);
    let (told, is_done) = match desired::restore_rules(platform, stage, back).await {
        Ok(MigrateReply::Done { warnings, .. }) => (warnings, true),
        Ok(MigrateReply::Refused(refusal)) if desired::is_final(&refusal) => {
            (vec![format!("{missing}: {refusal}; deploy it again")], true)
        }
        Ok(MigrateReply::Refused(refusal)) => {
            (vec![format!("{missing}: {refusal}; it is tried again")], false)
        }
        Err(error) => (vec![format!("{missing}: {error:#}; it is tried again")], false),
    };
    warn_all(progress, told);
    if is_done
        && let Err(error) = store::set_migrating(&platform.database, &back.app, &back.stage, false).await
    {
        warn!(app = %back.name, stage = %back.stage, "its rules are looked at again: {error:#}");
    }
}

fn warn_all(progress: &mut Progress, warnings: Vec<String>) {
    let warnings = warnings.into_iter().map(|text| Message::warning(RULE_LEFT_OUT, text));
    progress.messages.extend(warnings);
}

/// Tells what the deployment breaks. Promoting a revision that breaks something has to be meant; the first stage is
/// where things may be broken for a while, and a rollback must never be held up.
async fn impact_is_accepted(
    platform: &Platform,
    operation: &Operation,
    app: &AppName,
    interface: &Interface,
    progress: &mut Progress,
) -> Result<bool> {
    let stage = &operation.stage;
    let found = analysis::analyse(&platform.database, &operation.organization, stage, app, interface).await?;
    let accepted = match &operation.task {
        Task::Deploy { accept_impact, .. } => *accept_impact || operation.kind == Kind::Rollback,
        Task::Publish { .. } | Task::Undeploy { .. } | Task::Apply { .. } => true,
    };
    for inconsistency in &found {
        let text = analysis::in_words(inconsistency, stage, app);
        progress.messages.push(match accepted {
            true => Message::warning(INCONSISTENT, text),
            false => Message::error(INCONSISTENT, text),
        });
    }
    if !found.is_empty() && !accepted {
        progress.inform("nothing was changed; deploy with --accept-impact if this is meant");
    }
    Ok(found.is_empty() || accepted)
}

/// What a rollback would go back to: not the same revision, deployed or configured again.
fn previous(before: Option<&Deployment>, revision: Revision) -> Option<Revision> {
    let before = before?;
    if before.revision == revision { before.previous_revision } else { Some(before.revision) }
}

async fn undeploy(
    platform: &Arc<Platform>,
    operation: &Operation,
    app: &AppId,
    progress: &mut Progress,
) -> Outcome {
    let stage = platform.stage(&operation.organization, &operation.stage).context("the stage is not open")?;
    let _busy = platform.busy(app, &operation.stage).await;
    let Some(before) =
        store::find(&platform.database, app, &operation.stage).await?.filter(|found| found.serving)
    else {
        let text = format!("the app is not deployed to {}", operation.stage);
        progress.messages.push(Message::error("OS-DPL-40402", text));
        return Ok(Err(Failed));
    };
    let started = Instant::now();
    let generation = desired::next_generation(&stage, Some(&before), app);
    let wanted = Deployment { serving: false, generation, placements: Vec::new(), ..before.clone() };
    if !desired::apply(platform, &stage, &wanted).await? {
        let text = format!(
            "stage {} was not reached: it takes `{}` out as soon as it is",
            operation.stage, before.name
        );
        progress.messages.push(Message::warning("OS-DPL-50303", text));
        undeployed(platform, operation, &before).await?;
        return Ok(Ok(()));
    }
    let forgotten = |seen: &Seen| {
        seen.live_routers().all(|router| {
            let route = seen.routes.get(&(app.clone(), router.router.clone()));
            route.is_none_or(|route| route.generation >= generation && route.replicas.is_empty())
        })
    };
    wait_for(&stage, REMOVAL_S_MAX, |seen| forgotten(seen).then_some(())).await;
    progress.step("remove", started);
    take_back(platform, &stage, &wanted, progress).await;
    progress.inform(format!("`{}` no longer serves in {}; its data are kept", before.name, operation.stage));
    let (organization, stage_name) = (&operation.organization, &operation.stage);
    for user in analysis::users(&platform.database, organization, stage_name, &before.name).await? {
        let text = format!("`{user}` in {stage_name} uses `{}`, which serves no longer", before.name);
        progress.messages.push(Message::warning(INCONSISTENT, text));
    }
    undeployed(platform, operation, &before).await?;
    Ok(Ok(()))
}

async fn undeployed(platform: &Platform, operation: &Operation, before: &Deployment) -> Result<()> {
    let detail = json!({ "stage": operation.stage });
    audit(platform, operation, "deployment.undeploy", before.name.as_str(), detail).await
}

/// Takes back what the app may read of others. It serves no longer, so a migrator that is away does not undo that.
async fn take_back(platform: &Platform, stage: &Stage, removed: &Deployment, progress: &mut Progress) {
    let why = match desired::withdraw(platform, stage, removed).await {
        Ok(MigrateReply::Done { .. }) => return,
        Ok(MigrateReply::Refused(refusal)) => refusal.to_string(),
        Err(error) => format!("{error:#}"),
    };
    let text = format!(
        "`{}` serves no longer, but what it may read of other apps was not taken back: {why}; undeploy it again after its next deployment",
        removed.name
    );
    progress.messages.push(Message::warning("OS-DPL-50303", text));
}

/// Waits, just after a start of the Platform, until the hosts that serve have been heard: what has not been
/// heard yet must not be taken for dead, and be replaced.
async fn hear_hosts(stage: &Stage) {
    let heard = |seen: &Seen| {
        let live: Vec<&HostId> = seen.live_hosts().map(|beat| &beat.host).collect();
        let all = !live.is_empty() && seen.serving_hosts().all(|host| live.contains(&host));
        (all || stage.has_settled()).then_some(())
    };
    wait_for(stage, HEAR_S_MAX, heard).await;
}

/// Every placed host ready at this generation, and every live router sending requests to all of them.
async fn wait_until_serving(stage: &Stage, wanted: &Deployment) -> Result<(), odeon_protocol::Refusal> {
    let look = |seen: &Seen| {
        for host in &wanted.placements {
            let status = seen.replicas.get(&(wanted.app.clone(), host.clone()));
            match status.filter(|status| status.generation >= wanted.generation).map(|status| &status.state) {
                Some(ReplicaState::Ready) => {}
                Some(ReplicaState::Failed { code, message }) => {
                    return Some(Err(odeon_protocol::Refusal::new(code, format!("host {host}: {message}"))));
                }
                Some(ReplicaState::Loading | ReplicaState::Draining) | None => return None,
            }
        }
        let routed = seen.live_routers().all(|router| {
            let route = seen.routes.get(&(wanted.app.clone(), router.router.clone()));
            route.is_some_and(|route| {
                route.generation >= wanted.generation && holds(&route.replicas, &wanted.placements)
            })
        });
        (routed && seen.live_routers().next().is_some()).then_some(Ok(()))
    };
    match wait_for(stage, ROLLOUT_S_MAX, look).await {
        Some(outcome) => outcome,
        None => Err(odeon_protocol::Refusal::new(
            "OS-DPL-50401",
            missing(&stage.seen(), wanted, wanted.generation),
        )),
    }
}

fn holds(replicas: &[HostId], placements: &[HostId]) -> bool {
    placements.iter().all(|host| replicas.contains(host))
}

/// Says who did not follow within the time.
fn missing(seen: &Seen, wanted: &Deployment, generation: Generation) -> String {
    let late: Vec<String> = wanted
        .placements
        .iter()
        .filter(|host| {
            let status = seen.replicas.get(&(wanted.app.clone(), (*host).clone()));
            !status
                .is_some_and(|status| status.generation >= generation && status.state == ReplicaState::Ready)
        })
        .map(|host| format!("host {host}"))
        .collect();
    let who = if late.is_empty() { "a router".to_owned() } else { late.join(", ") };
    format!(
        "after {ROLLOUT_S_MAX} s revision {} does not serve everywhere: {who} did not follow",
        wanted.revision
    )
}

/// Looks at the stage whenever something is heard, until `look` says something or the time is over.
async fn wait_for<T>(stage: &Stage, seconds_max: u64, look: impl Fn(&Seen) -> Option<T>) -> Option<T> {
    let mut changes = stage.changes();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(seconds_max);
    loop {
        if let Some(found) = look(&stage.seen()) {
            return Some(found);
        }
        match tokio::time::timeout_at(deadline, changes.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return None,
        }
    }
}

async fn audit(
    platform: &Platform,
    operation: &Operation,
    action: &str,
    subject: &str,
    detail: serde_json::Value,
) -> Result<()> {
    let (organization, actor) = (&operation.organization, &operation.actor);
    let write =
        || identity::store::audit(&platform.database, organization, actor, action, subject, detail.clone());
    until_written("an audit event", write).await
}
