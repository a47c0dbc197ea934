//! `/api/asset-configurations/v1`: the timers of an app in a stage, what the stage says of one, and running one now.
//!
//! Hosts run timers without the Platform; here their states are read, one is told that it is due, and what a stage says
//! of one (another schedule or timeout, not to run at all) goes to the hosts as settings do.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use odeon_compiler::Timer;
use odeon_protocol::timers::TimerState;
use odeon_protocol::{StageName, bucket, subjects};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::api::{self, Changed};
use super::store::{self, Changes, TimerOverride};
use crate::Platform;
use crate::api::ApiError;
use crate::api::extract::{Json, Path};
use crate::assets;
use crate::assets::store::{Asset, StoredRevision};
use crate::deployments;
use crate::identity::{self, Caller, Scope};

pub(crate) fn router() -> OpenApiRouter<Arc<Platform>> {
    OpenApiRouter::new().routes(routes!(list)).routes(routes!(change)).routes(routes!(run))
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
    /// It runs by itself.
    is_active: bool,
    /// `EnvironmentLevelOverride` when the stage says something of it, else `ApplicationLevelDefault`.
    origin: &'static str,
    next_run_at: Option<DateTime<Utc>>,
    /// The host that runs it now.
    running_on: Option<String>,
    last_run_at: Option<DateTime<Utc>>,
    /// Why the last run failed.
    last_failure: Option<String>,
}

/// What a stage says of a timer. What is absent stays as it is.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct TimerChange {
    /// Cron pattern of five fields, in UTC; `null` goes back to the revision's.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<String>)]
    schedule: Option<Option<String>>,
    /// Minutes that a run may take; `null` goes back to the revision's.
    #[serde(default, deserialize_with = "present")]
    #[schema(value_type = Option<u32>)]
    timeout_minutes: Option<Option<u32>>,
    /// Whether it runs by itself.
    is_active: Option<bool>,
}

/// Tells `null` from nothing.
fn present<'de, T: Deserialize<'de>, D: Deserializer<'de>>(value: D) -> Result<Option<Option<T>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// The timers of an app in a stage, as the revision that serves there and the stage declare them.
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
    let overrides = store::timers(&platform.database, &asset.key, &stage).await?;
    let mut timers = Vec::new();
    for declared in &serving.timers {
        let own = overrides.get(&declared.name);
        let timer = super::timer(declared, own);
        let key = subjects::timer_key(&asset.key, &timer.name);
        let (state, _) = bucket::read_value::<TimerState>(&states, &key).await?;
        let is_active = timer.is_active(state.as_ref());
        let state = state.unwrap_or_default();
        let is_default = own.is_none_or(|own| own.is_empty());
        timers.push(ApplicationTimer {
            name: timer.name,
            schedule: timer.schedule,
            when_published: timer.when_published,
            timeout_minutes: timer.timeout_s / 60,
            is_active,
            origin: if is_default { "ApplicationLevelDefault" } else { "EnvironmentLevelOverride" },
            next_run_at: state.next_ms.and_then(DateTime::from_timestamp_millis),
            running_on: state.run.map(|run| run.host.to_string()),
            last_run_at: state.last.as_ref().and_then(|last| DateTime::from_timestamp_millis(last.at_ms)),
            last_failure: state.last.and_then(|last| last.failure),
        });
    }
    Ok(Json(timers))
}

/// Says how a timer runs in a stage.
#[utoipa::path(patch, path = "/api/asset-configurations/v1/environments/{environment}/applications/{key}/timers/{timer}", params(("environment" = String, Path), ("key" = String, Path), ("timer" = String, Path)), request_body = TimerChange, responses((status = 200, body = Changed)))]
async fn change(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Path((environment, key, timer)): Path<(String, String, String)>,
    Json(asked): Json<TimerChange>,
) -> Result<Json<Changed>, ApiError> {
    caller.require(Scope::Deploy)?;
    let asset = assets::api::find(&platform, &caller, &key).await?;
    let stage = deployments::api::stage(&platform, &caller, &environment)?;
    known(&asset, &serving(&platform, &caller, &asset, &stage).await?, &stage, &timer)?;
    if let Some(Some(schedule)) = &asked.schedule
        && let Err(refused) = Timer::check_schedule(schedule)
    {
        let detail = format!(
            "`{schedule}` is no schedule: {refused}; write minute, hour, day, month, weekday in UTC: `30 3 * * 1-5`"
        );
        return Err(ApiError::bad_request("OS-TMR-40002", detail));
    }
    if asked
        .timeout_minutes
        .flatten()
        .is_some_and(|minutes| !(1..=Timer::TIMEOUT_MINUTES_MAX).contains(&minutes))
    {
        let detail = format!("a run may take 1 to {} minutes", Timer::TIMEOUT_MINUTES_MAX);
        return Err(ApiError::bad_request("OS-TMR-40003", detail));
    }
    let mut overrides = store::timers(&platform.database, &asset.key, &stage).await?;
    let mut own = overrides
        .remove(&timer)
        .unwrap_or_else(|| TimerOverride { name: timer.clone(), ..TimerOverride::default() });
    own.schedule = asked.schedule.unwrap_or(own.schedule);
    own.timeout_minutes = asked.timeout_minutes.unwrap_or(own.timeout_minutes);
    own.deactivated_at = match asked.is_active {
        Some(true) => None,
        Some(false) => Some(Utc::now()),
        None => own.deactivated_at,
    };
    let detail = json!({ "stage": stage, "timer": timer, "schedule": own.schedule, "active": own.deactivated_at.is_none() });
    let operation_key = api::save(&platform, &caller, &asset, stage, Changes::Timer(own)).await?;
    let (organization, actor, subject) = (&caller.organization, &caller.actor, asset.name.as_str());
    identity::store::audit(&platform.database, organization, actor, "timer.change", subject, detail).await?;
    Ok(Json(Changed { operation_key }))
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
    known(&asset, &serving, &stage, &timer)?;
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

/// Says which timers there are, when there is none of that name.
fn known(asset: &Asset, serving: &StoredRevision, stage: &StageName, timer: &str) -> Result<(), ApiError> {
    let known: Vec<&str> = serving.timers.iter().map(|known| known.name.as_str()).collect();
    if known.contains(&timer) {
        return Ok(());
    }
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let detail = format!("`{}` has no timer `{timer}` in {stage}; it has {known}", asset.name);
    Err(ApiError::bad_request("OS-TMR-40001", detail))
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
