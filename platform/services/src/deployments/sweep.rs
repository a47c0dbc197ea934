//! Takes away what nobody needs any more: components and native code that a stage holds, and operations of long ago.
//!
//! A stage needs what serves there, and what a rollback would bring back. Of other revisions the Platform has the bits, and a deployment of one
//! brings them again. What must stay true: nothing is taken that a deployment has brought and not written down yet, and nothing that the
//! stage itself says it serves, whatever the database knows.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use odeon_protocol::{DesiredState, Digest};
use tracing::{info, warn};

use super::store;
use crate::Platform;
use crate::nats::stage::Stage;

/// Time between two sweeps of a stage, in seconds.
const EVERY_S: u64 = 3_600;
/// Time before it is tried again, in seconds: the stage is not heard yet, or something is deployed to it.
const AGAIN_S: u64 = 5;
/// Objects that are taken away before deployments that wait have their turn.
const AT_ONCE: usize = 256;
/// How long one sweep may take, in seconds: what is left is taken away by the next one.
const SWEEP_S_MAX: u64 = 600;
/// How long it can be asked how an operation ended, in days.
const OPERATIONS_DAYS: i32 = 90;

/// Sweeps one stage for ever.
pub(crate) async fn run(platform: Arc<Platform>, stage: Arc<Stage>) {
    loop {
        let swept = tokio::time::timeout(Duration::from_secs(SWEEP_S_MAX), sweep(&platform, &stage)).await;
        let wait = match swept.unwrap_or_else(|late| Err(late.into())) {
            Ok(true) => EVERY_S,
            Ok(false) => AGAIN_S,
            Err(error) => {
                warn!(stage = %stage.name, "sweep: {error:#}");
                EVERY_S
            }
        };
        tokio::time::sleep(Duration::from_secs(wait)).await;
    }
}

/// Takes out of the stage what no deployment there needs, and forgets what was done there long ago. False where it could not be told what is
/// needed, and nothing more was done.
async fn sweep(platform: &Platform, stage: &Stage) -> Result<bool> {
    if !stage.is_connected() || !stage.has_settled() || !stage.seen().desired_read {
        return Ok(false);
    }
    let mut needless = stage.objects().await?;
    let needed = needed(platform, stage).await?;
    needless.retain(|object| !needed.contains(object));
    let mut taken = 0;
    for some in needless.chunks(AT_ONCE) {
        let Some(_alone) = stage.alone_with_objects() else { return Ok(false) };
        let needed = self::needed(platform, stage).await?; // a deployment may have ended since
        for object in some.iter().filter(|object| !needed.contains(object)) {
            stage.remove_object(object).await?;
            taken += 1;
        }
    }
    store::forget_operations(&platform.database, &stage.organization, &stage.name, OPERATIONS_DAYS).await?;
    if taken > 0 {
        info!(stage = %stage.name, objects = taken, "took out components that no deployment needs");
    }
    Ok(true)
}

/// What deployments of the stage need as they are written down, and what it has itself: a database that was restored may know a generation,
/// and not its revision.
async fn needed(platform: &Platform, stage: &Stage) -> Result<BTreeSet<Digest>> {
    let mut needed = store::digests(&platform.database, &stage.organization, &stage.name).await?;
    for desired in stage.seen().desired.values() {
        if let DesiredState::Serving(serving) = &desired.state {
            let claim = serving.claim.open(platform.stages.trusted())?;
            needed.extend([claim.wasm].into_iter().chain(claim.native.map(|native| native.digest)));
        }
    }
    Ok(needed)
}
