//! `/api/asset-configurations/v1`: the timers of an app in a stage, and running one now.
//!
//! Hosts run timers without the Platform; here their states are read, and one is told that it is due.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use odeon_protocol::timers::TimerState;
use odeon_protocol::{StageName, bucket, subjects};
use serde::Serialize;
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::Platform;
use crate::api::ApiError;
use crate::assets;
use crate::assets::store::{Asset, StoredRevision};
use crate::deployments;
use crate::identity::{self, Caller, Scope};

pub(crate) fn router() -> OpenApiRouter<Arc<Platform>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(run))
}

/// A timer of an app in a stage.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ApplicationTimer {
    name: String,
    /// Cron pattern of five fields, in UTC.
    schedule: Option<String>,
    when_published: bool,
    timeout_minutes: u32,
    next_run_at: Option<DateTime<Utc>>,
    /// The host that runs it now.
    running_on: Option<String>,
    last_run_at: Option<DateTime<Utc>>,
    /// Why the last run failed.
    last_failure: Option<String>,
}

/// The timers of an app in a stage, as the revision that serves there declares them.
#[utoipa::path(get, path = "/api/asset-configurations/v1/environments/{environment}/applications/{key}/timers", params(("environment" = String, Path), ("key" = String, Path)), responses((status = 200, body = Vec<ApplicationTimer>)))]
async fn list(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Path((environment, key)): Path<(String, String)>,
) -> Result<Json<Vec<ApplicationTimer>>, ApiError> {
    caller.require(Scope::Read)?;
    let asset = assets::api::find(&platform, &caller, &key).await?;
    let stage = deployments::api::stage(&platform, &caller, &environment)?;
    let serving = serving(&platform, &caller, &asset, &stage).await?;
    let opened = platform.stage(&caller.organization, &stage).ok_or_else(|| no_stage(&stage))?;
    let states = opened.timers().await?;
    let mut timers = Vec::new();
    for timer in serving.timers {
        let key = subjects::timer_key(&asset.key, &timer.name);
        let (state, _) = bucket::read_value::<TimerState>(&states, &key).await?;
        let state = state.unwrap_or_default();
        timers.push(ApplicationTimer {
            name: timer.name,
            schedule: timer.schedule,
            when_published: timer.when_published,
            timeout_minutes: timer.timeout_minutes,
            next_run_at: state.next_ms.and_then(DateTime::from_timestamp_millis),
            running_on: state.run.map(|run| run.host.to_string()),
            last_run_at: state.last.as_ref().and_then(|last| DateTime::from_timestamp_millis(last.at_ms)),
            last_failure: state.last.and_then(|last| last.failure),
        });
    }
    Ok(Json(timers))
}

/// Makes the next run of a timer be now.
#[utoipa::path(post, path = "/api/asset-configurations/v1/environments/{environment}/applications/{key}/timers/{timer}/runs", params(("environment" = String, Path), ("key" = String, Path), ("timer" = String, Path)), responses((status = 202)))]
async fn run(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Path((environment, key, timer)): Path<(String, String, String)>,
) -> Result<StatusCode, ApiError> {
    caller.require(Scope::Deploy)?;
    let asset = assets::api::find(&platform, &caller, &key).await?;
    let stage = deployments::api::stage(&platform, &caller, &environment)?;
    let serving = serving(&platform, &caller, &asset, &stage).await?;
    if !serving.timers.iter().any(|known| known.name == timer) {
        let known: Vec<&str> = serving.timers.iter().map(|known| known.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let detail = format!("`{}` has no timer `{timer}` in {stage}; it has {known}", asset.name);
        return Err(ApiError::bad_request("OS-TMR-40001", detail));
    }
    let opened = platform.stage(&caller.organization, &stage).ok_or_else(|| no_stage(&stage))?;
    let key = subjects::timer_key(&asset.key, &timer);
    let now = Utc::now().timestamp_millis();
    let woken = |state: Option<TimerState>| Some(state.unwrap_or_default().woken(now));
    bucket::change_value(&opened.timers().await?, &key, woken).await?;
    let (organization, actor, subject) = (&caller.organization, &caller.actor, asset.name.as_str());
    let detail = json!({ "stage": stage, "timer": timer });
    identity::store::audit(&platform.database, organization, actor, "timer.run", subject, detail).await?;
    Ok(StatusCode::ACCEPTED)
}

async fn serving(
    platform: &Platform,
    caller: &Caller,
    asset: &Asset,
    stage: &StageName,
) -> Result<StoredRevision, ApiError> {
    let found = deployments::store::find(&platform.database, &asset.key, stage).await?;
    let Some(found) = found.filter(|found| found.serving) else {
        let detail = format!("`{}` is not deployed to {stage}", asset.name);
        return Err(ApiError::conflict("OS-DPL-40903", detail));
    };
    let (organization, revision) = (&caller.organization, found.revision);
    let stored = assets::store::find_revision(&platform.database, organization, &asset.key, revision).await?;
    stored.ok_or_else(|| ApiError::not_found("OS-APPS-40402", format!("revision {revision}")))
}

fn no_stage(stage: &StageName) -> ApiError {
    ApiError::not_found("OS-DPL-40403", format!("the stage `{stage}`"))
}
