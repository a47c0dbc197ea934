//! Keeps a stage as it was asked for. Runs on a nudge (something was heard) and on a timer, and takes no
//! input: it looks at the database and at the stage each time.
//!
//! Six differences, six answers:
//! - the stage lacks what the database has, or holds an older generation (an emptied or replayed bucket): write it again;
//! - tables were migrated for a deployment that ended before it was written down, or did not come up: give what serves its rules back, next generation;
//! - the stage is ahead of the database (a restored database): the stage is right, it was sealed by us; adopt it.
//!   Nothing goes back because a backup was older;
//! - the stage allows an app more than the operator does, who says less than before: the same again with less, next generation;
//! - a host with replicas is away for longer than [`HOST_GONE_S`]: plan anew, next generation;
//! - a rollout has ended, and what waits in the stage for handlers that are no more still does: take it away.
//!
//! The first two may migrate, which takes as long as there are rows. They have a task of their own, so that a lost host never waits for them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use futures_util::StreamExt as _;
use odeon_control::{HostView, Spread, place};
use odeon_protocol::{AppId, DesiredApp, DesiredState, Generation, HostId, MigrateReply, ReplicaState};
use serde_json::json;
use tokio::task::JoinHandle;
use tracing::{info, warn};

use super::limits::OwnLimits;
use super::{desired, store};
use crate::identity;
use crate::nats::stage::{Seen, Stage};
use crate::{BusyGuard, Platform};

/// Time between two looks when nothing is heard, in seconds.
const EVERY_S: u64 = 5;
/// Shortest time between two looks, in milliseconds: heartbeats nudge too.
const PAUSE_MS: u64 = 500;
/// Silence after which a host's replicas move, in seconds: longer than a restart takes.
const HOST_GONE_S: u64 = 10;
/// Deployments that are written again at once.
const WRITES_AT_ONCE: usize = 4;
/// Time between two tries to give a revision its rules back, in seconds: one may keep writers from a table for half a minute.
const RULES_AGAIN_S: u64 = 300;

/// Reconciles one stage for ever.
pub(crate) async fn run(platform: Arc<Platform>, stage: Arc<Stage>) {
    let mut changes = stage.changes();
    let mut kept = Kept::default();
    loop {
        let _ = tokio::time::timeout(Duration::from_secs(EVERY_S), changes.changed()).await;
        if stage.is_connected()
            && let Err(error) = once(&platform, &stage, &mut kept).await
        {
            warn!(stage = %stage.name, "reconcile: {error:#}");
        }
        tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await;
    }
}

/// From one look to the next.
#[derive(Default)]
struct Kept {
    /// Apps, with their generation, that are known to leave nothing behind.
    tidy: BTreeMap<AppId, Generation>,
    /// Writes again what was found last.
    writing: Option<JoinHandle<()>>,
    /// Apps whose rules were tried to be given back, and when.
    tried: BTreeMap<AppId, Instant>,
}

async fn once(platform: &Arc<Platform>, stage: &Arc<Stage>, kept: &mut Kept) -> Result<()> {
    let seen = stage.seen();
    if !seen.desired_read {
        return Ok(()); // what we have not read we must not correct
    }
    let deployments = store::of_stage(&platform.database, &stage.organization, &stage.name).await?;
    let known: BTreeMap<&AppId, &store::Deployment> =
        deployments.iter().map(|deployment| (&deployment.app, deployment)).collect();
    for found in seen.desired.values() {
        if found.stage == stage.name && found.organization == stage.organization {
            let ours = known.get(&found.app);
            if ours.is_none_or(|ours| ours.generation < found.generation) {
                adopt(platform, stage, found).await?;
            }
        }
    }
    if kept.writing.as_ref().is_none_or(JoinHandle::is_finished) {
        kept.tried.retain(|_, at| at.elapsed() < Duration::from_secs(RULES_AGAIN_S));
        let is_due = |deployment: &&store::Deployment| {
            is_lacking(stage, deployment)
                || may_miss_rules(deployment)
                    && !kept.tried.contains_key(&deployment.app)
                    && !platform.is_busy(&deployment.app, &deployment.stage) // by the operation that migrates
        };
        let again: Vec<_> = deployments.iter().filter(is_due).cloned().collect();
        let marked = again.iter().filter(|deployment| may_miss_rules(deployment));
        kept.tried.extend(marked.map(|deployment| (deployment.app.clone(), Instant::now())));
        kept.writing =
            (!again.is_empty()).then(|| tokio::spawn(write_all(platform.clone(), stage.clone(), again)));
    }
    let mut hosts = host_views(&seen);
    for deployment in deployments.iter().filter(|deployment| !is_lacking(stage, deployment)) {
        if let Err(error) = one(platform, stage, (&seen, &mut hosts), deployment).await {
            warn!(stage = %stage.name, app = %deployment.name, "reconcile: {error:#}"); // the others go on
        }
    }
    tidy_up(platform, stage, &seen, &deployments, &mut kept.tidy).await
}

/// Whether the stage has nothing of a deployment, or an older one.
fn is_lacking(stage: &Stage, deployment: &store::Deployment) -> bool {
    let theirs = stage.generation_of(&deployment.app);
    theirs.is_none_or(|theirs| theirs < deployment.generation)
}

/// Whether its tables were migrated for another deployment.
fn may_miss_rules(deployment: &store::Deployment) -> bool {
    deployment.serving && deployment.migrating
}

async fn write_all(platform: Arc<Platform>, stage: Arc<Stage>, deployments: Vec<store::Deployment>) {
    let write = async |deployment: store::Deployment| {
        if let Err(error) = write_again(&platform, &stage, &deployment).await {
            warn!(stage = %stage.name, app = %deployment.name, "reconcile: {error:#}"); // the others go on
        }
    };
    futures_util::stream::iter(deployments).for_each_concurrent(WRITES_AT_ONCE, write).await;
}

async fn write_again(platform: &Platform, stage: &Stage, deployment: &store::Deployment) -> Result<()> {
    let Some(_busy) = hold(platform, deployment).await? else { return Ok(()) };
    if is_lacking(stage, deployment) {
        info!(stage = %stage.name, app = %deployment.name, generation = %deployment.generation, "writing desired state again");
        desired::write_again(platform, stage, deployment).await?;
    }
    if may_miss_rules(deployment) { restore_rules(platform, stage, deployment).await } else { Ok(()) }
}

/// The migrator has seen the generation of the deployment that was not written down, so that this takes one that is no older. What cannot be given
/// back is told once.
async fn restore_rules(platform: &Platform, stage: &Stage, deployment: &store::Deployment) -> Result<()> {
    info!(stage = %stage.name, app = %deployment.name, "giving the revision that serves its rules back");
    let generation = desired::next_generation(stage, Some(deployment), &deployment.app);
    let wanted = store::Deployment { generation, migrating: false, ..deployment.clone() };
    let left_out = match desired::restore_rules(platform, stage, &wanted).await? {
        MigrateReply::Done { warnings, .. } => warnings,
        MigrateReply::Refused(refusal) if desired::is_final(&refusal) => {
            warn!(stage = %stage.name, app = %deployment.name, "it may miss indexes and references: {refusal}; deploy it again");
            return store::set_migrating(&platform.database, &deployment.app, &deployment.stage, false).await;
        }
        MigrateReply::Refused(refusal) => bail!("the migrator refused: {refusal}"),
    };
    for warning in left_out {
        warn!(stage = %stage.name, app = %deployment.name, "{warning}");
    }
    desired::apply(platform, stage, &wanted).await.map(drop)
}

/// Takes away what handlers of earlier revisions waited with. Only once the rollout has ended: until then the revision
/// before serves, and may go on to.
async fn tidy_up(
    platform: &Platform,
    stage: &Stage,
    seen: &Seen,
    deployments: &[store::Deployment],
    tidy: &mut BTreeMap<AppId, Generation>,
) -> Result<()> {
    let ended = |deployment: &&store::Deployment| {
        let found = seen.desired.get(&deployment.app).map(|desired| desired.generation);
        found == Some(deployment.generation)
            && tidy.get(&deployment.app) != Some(&deployment.generation)
            && serves_everywhere(seen, deployment)
    };
    let ended: BTreeMap<&AppId, &store::Deployment> =
        deployments.iter().filter(ended).map(|deployment| (&deployment.app, deployment)).collect();
    if ended.is_empty() {
        return Ok(());
    }
    let mut busy = BTreeSet::new();
    for consumer in stage.consumers().await? {
        let Some(deployment) = ended.get(&consumer.app) else { continue };
        let handlers = match seen.desired.get(&consumer.app).map(|desired| &desired.state) {
            Some(DesiredState::Serving(serving)) => &serving.handlers[..],
            Some(DesiredState::Removed) | None => &[],
        };
        if consumer.is_wanted(handlers) {
            continue;
        }
        match hold(platform, deployment).await? {
            Some(_busy) => stage.narrow(&consumer, handlers).await?,
            None => {
                busy.insert(consumer.app); // looked at again, when it is held no more
            }
        }
    }
    let done = ended.into_values().filter(|deployment| !busy.contains(&deployment.app));
    tidy.extend(done.map(|deployment| (deployment.app.clone(), deployment.generation)));
    Ok(())
}

fn serves_everywhere(seen: &Seen, deployment: &store::Deployment) -> bool {
    !deployment.serving
        || deployment.placements.iter().all(|host| {
            let status = seen.replicas.get(&(deployment.app.clone(), host.clone()));
            status.is_some_and(|status| {
                status.generation >= deployment.generation && status.state == ReplicaState::Ready
            })
        })
}

async fn one(
    platform: &Platform,
    stage: &Stage,
    (seen, hosts): (&Seen, &mut [HostView]),
    deployment: &store::Deployment,
) -> Result<()> {
    let found = seen.desired.get(&deployment.app);
    let theirs = found.map(|desired| desired.generation);
    if theirs != Some(deployment.generation) || !deployment.serving || !stage.has_settled() {
        Ok(())
    } else if found.is_some_and(|found| has_more(found, &platform.settings.limits_max)) {
        let why = "the operator allows less";
        anew(platform, stage, deployment, &deployment.placements, why).await.map(drop)
    } else {
        replace_lost(platform, stage, hosts, deployment).await
    }
}

/// Keeps operations away from a deployment that is to be changed. `None` where one is on it, or was since it was read.
async fn hold(platform: &Platform, deployment: &store::Deployment) -> Result<Option<BusyGuard>> {
    let Some(busy) = platform.try_busy(&deployment.app, &deployment.stage) else { return Ok(None) };
    let now = store::find(&platform.database, &deployment.app, &deployment.stage).await?;
    let is_same = |now: store::Deployment| {
        (now.generation, now.migrating) == (deployment.generation, deployment.migrating)
    };
    Ok(now.is_some_and(is_same).then_some(busy))
}

/// Whether an app has more than it may have at most.
fn has_more(found: &DesiredApp, most: &OwnLimits) -> bool {
    match &found.state {
        DesiredState::Serving(serving) => most.cut(serving.limits.clone()) != serving.limits,
        DesiredState::Removed => false,
    }
}

/// Takes over what the stage knows and a restored database has forgotten.
async fn adopt(platform: &Platform, stage: &Stage, found: &DesiredApp) -> Result<()> {
    let before = match (store::find(&platform.database, &found.app, &stage.name).await?, &found.state) {
        (Some(before), _) => before,
        (None, DesiredState::Removed) => return Ok(()), // gone there, unknown here: nothing to remember
        (None, DesiredState::Serving(serving)) => store::Deployment {
            organization: found.organization.clone(),
            app: found.app.clone(),
            name: serving.name.clone(),
            stage: stage.name.clone(),
            revision: serving.revision,
            previous_revision: None,
            serving: true,
            generation: found.generation,
            placements: Vec::new(),
            egress_allow: Vec::new(),
            limits: OwnLimits::default(),
            updated_at: chrono::Utc::now(),
            migrating: false,
        },
    };
    let asset =
        crate::assets::store::find(&platform.database, &found.organization, found.app.as_str()).await?;
    if asset.is_none() {
        warn!(stage = %stage.name, app = %found.app, name = %before.name, "the stage serves an app this database does not know; it is left alone");
        return Ok(());
    }
    let mut wanted =
        store::Deployment { generation: found.generation, updated_at: chrono::Utc::now(), ..before };
    match &found.state {
        DesiredState::Serving(serving) => {
            wanted.serving = true;
            wanted.name = serving.name.clone();
            wanted.revision = serving.revision;
            wanted.placements = serving.placements.clone();
            wanted.egress_allow = serving.egress_allow.clone();
            // Its own limits may be more than the operator allows now.
            if wanted.limits.whole(&platform.settings.limits_max) != serving.limits {
                wanted.limits = OwnLimits::of(&serving.limits);
            }
        }
        DesiredState::Removed => (wanted.serving, wanted.placements) = (false, Vec::new()),
    }
    let mut transaction = platform.database.begin().await?;
    if !store::save(&mut *transaction, &wanted).await? {
        return Ok(()); // an operation was faster
    }
    let detail = json!({ "stage": stage.name, "revision": wanted.revision, "generation": found.generation });
    identity::store::audit(
        &mut *transaction,
        &found.organization,
        "platform",
        "deployment.adopt",
        wanted.name.as_str(),
        detail,
    )
    .await?;
    transaction.commit().await?;
    warn!(stage = %stage.name, app = %wanted.name, generation = %found.generation, "the stage was ahead of the database and was adopted");
    Ok(())
}

/// `hosts` are those of this look: whoever is chosen for one app is chosen less readily for the next.
async fn replace_lost(
    platform: &Platform,
    stage: &Stage,
    hosts: &mut [HostView],
    deployment: &store::Deployment,
) -> Result<()> {
    let placed = place(Spread::of_stage(stage.name.as_str()), hosts, &deployment.placements);
    // Fewer replicas than before help nobody: a lost host serves again as soon as it is back.
    if placed == deployment.placements || placed.len() < deployment.placements.len() {
        return Ok(());
    }
    if anew(platform, stage, deployment, &placed, "a host is away").await? {
        count(hosts, &deployment.placements, &placed);
    }
    Ok(())
}

/// What an app's move changes of what hosts hold.
fn count(hosts: &mut [HostView], from: &[HostId], to: &[HostId]) {
    for host in hosts {
        let (was, is) = (from.contains(&host.id), to.contains(&host.id));
        host.replicas = (host.replicas + u32::from(is)).saturating_sub(u32::from(was));
    }
}

/// Asks for the same again, at these hosts. False when somebody else is changing it.
async fn anew(
    platform: &Platform,
    stage: &Stage,
    deployment: &store::Deployment,
    placements: &[HostId],
    why: &str,
) -> Result<bool> {
    let Some(_busy) = hold(platform, deployment).await? else { return Ok(false) };
    info!(stage = %stage.name, app = %deployment.name, from = ?deployment.placements, to = ?placements, "asking anew: {why}");
    let generation = desired::next_generation(stage, Some(deployment), &deployment.app);
    let wanted = store::Deployment { generation, placements: placements.to_vec(), ..deployment.clone() };
    desired::apply(platform, stage, &wanted).await?;
    Ok(true)
}

/// The hosts that may hold replicas: live ones, and those silent for a moment only.
pub(crate) fn host_views(seen: &Seen) -> Vec<HostView> {
    let recent = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < Duration::from_secs(HOST_GONE_S));
    let mut loads: BTreeMap<&HostId, u32> = BTreeMap::new();
    for desired in seen.desired.values() {
        if let DesiredState::Serving(serving) = &desired.state {
            for host in &serving.placements {
                *loads.entry(host).or_default() += 1;
            }
        }
    }
    seen.hosts
        .values()
        .filter(|(beat, at)| recent(*at) && beat.accepting)
        .map(|(beat, _)| HostView {
            id: beat.host.clone(),
            zone: beat.zone.clone(),
            replicas: loads.get(&beat.host).copied().unwrap_or_default(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_replicas_of_a_lost_host_are_shared_out() {
        let id = |name: &str| name.parse::<HostId>().unwrap();
        let view = |name: &str| HostView { id: id(name), zone: name.to_owned(), replicas: 10 };
        let (mut hosts, lost) = ([view("a"), view("b"), view("c")], [id("lost")]);
        for _ in 0..9 {
            let placed = place(Spread { replicas: 1 }, &hosts, &lost);
            count(&mut hosts, &lost, &placed);
        }
        assert_eq!(hosts.map(|host| host.replicas), [13; 3]);
    }
}
