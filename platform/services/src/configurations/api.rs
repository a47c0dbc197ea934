//! `/api/asset-configurations/v1`: the settings of an app in a stage.
//!
//! Changes are saved and, where the app serves, applied by an operation of the kind `ApplyConfigs`: the hosts
//! get a new generation of the same revision, and requests that begin then see the new values.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State;
use odeon_compiler::Setting;
use odeon_protocol::secrets::Place;
use odeon_protocol::{SettingValue, StageName};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::store::{Change, Changes};
use super::{fits, store};
use crate::Platform;
use crate::api::ApiError;
use crate::api::extract::{Json, Path};
use crate::assets;
use crate::assets::store::Asset;
use crate::deployments;
use crate::deployments::operation::Task;
use crate::deployments::store::Kind;
use crate::identity::{self, Caller, Scope};

/// Longest value, in bytes: ODC's largest binary setting, and enough for a key or certificate.
const VALUE_BYTES_MAX: usize = 8 << 10;

pub(crate) fn router() -> OpenApiRouter<Arc<Platform>> {
    OpenApiRouter::new().routes(routes!(list, change))
}

/// A setting of an app in a stage.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ApplicationSetting {
    name: String,
    data_type: String,
    is_secret: bool,
    /// What the app reads; absent for a secret, whether or not it is set.
    value: Option<String>,
    /// `ApplicationLevelDefault`, or `EnvironmentLevelOverride` when the stage sets it.
    origin: &'static str,
}

/// Values to set.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SettingChanges {
    settings: Vec<SettingChange>,
}

/// One value to set.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct SettingChange {
    name: String,
    /// `null` goes back to the app's default.
    value: Option<String>,
}

/// What became of a change.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Changed {
    /// The deployment operation that applies it; absent where the app does not serve.
    pub(super) operation_key: Option<Uuid>,
}

/// The settings of an app in a stage, as the revision that serves there declares them, or else the newest.
#[utoipa::path(get, path = "/api/asset-configurations/v1/environments/{environment}/applications/{key}/settings", params(("environment" = String, Path), ("key" = String, Path)), responses((status = 200, body = Vec<ApplicationSetting>)))]
async fn list(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Path((environment, key)): Path<(String, String)>,
) -> Result<Json<Vec<ApplicationSetting>>, ApiError> {
    caller.require(Scope::Read)?;
    let asset = assets::api::find(&platform, &caller, &key).await?;
    let stage = deployments::api::stage(&platform, &caller, &environment)?;
    let declared = declared(&platform, &caller, &asset, &stage).await?;
    let set = store::of(&platform.database, &asset.key, &stage).await?;
    Ok(Json(declared.into_iter().map(|setting| shown(setting, &set)).collect()))
}

/// Sets values, or takes them back.
#[utoipa::path(patch, path = "/api/asset-configurations/v1/environments/{environment}/applications/{key}/settings", params(("environment" = String, Path), ("key" = String, Path)), request_body = SettingChanges, responses((status = 200, body = Changed)))]
async fn change(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Path((environment, key)): Path<(String, String)>,
    Json(asked): Json<SettingChanges>,
) -> Result<Json<Changed>, ApiError> {
    caller.require(Scope::Deploy)?;
    let asset = assets::api::find(&platform, &caller, &key).await?;
    let stage = deployments::api::stage(&platform, &caller, &environment)?;
    let declared = declared(&platform, &caller, &asset, &stage).await?;
    let sealing = platform.keys.secrets(&caller.organization, &stage)?;
    let mut changes: Vec<Change> = Vec::new();
    for SettingChange { name, value } in asked.settings {
        let setting = checked(&asset, &declared, &name, value.as_deref())?;
        let place = Place { organization: &caller.organization, stage: &stage, app: &asset.key, name: &name };
        let value = value.map(|value| match setting.secret {
            true => SettingValue::Secret(sealing.seal(place, &value)),
            false => SettingValue::Plain(value),
        });
        changes.push((name, value));
    }
    let names: Vec<&str> = changes.iter().map(|(name, _)| name.as_str()).collect();
    let detail = json!({ "stage": stage, "settings": names });
    let operation_key = save(&platform, &caller, &asset, stage, Changes::Settings(changes)).await?;
    let (organization, actor) = (&caller.organization, &caller.actor);
    let (action, subject) = ("configuration.change", asset.name.as_str());
    identity::store::audit(&platform.database, organization, actor, action, subject, detail).await?;
    Ok(Json(Changed { operation_key }))
}

/// Saves changes and applies them, where the app serves; gives the operation that does.
pub(super) async fn save(
    platform: &Arc<Platform>,
    caller: &Caller,
    asset: &Asset,
    stage: StageName,
    changes: Changes,
) -> Result<Option<Uuid>, ApiError> {
    let serving = deployments::store::find(&platform.database, &asset.key, &stage).await?;
    if serving.is_some_and(|deployment| deployment.serving) {
        // The operation saves: one that is refused has changed nothing.
        let task = Task::Apply { app: asset.key.clone(), changes };
        let accepted =
            deployments::api::accept(platform.clone(), caller.clone(), Kind::ApplyConfigs, stage, None, task);
        return accepted.await.map(Some);
    }
    let place = (&caller.organization, &asset.key, &stage);
    store::save(&platform.database, place, &caller.actor, &changes).await?;
    Ok(None)
}

/// The setting that a change is for, if the value fits it.
fn checked<'d>(
    asset: &Asset,
    declared: &'d [Setting],
    name: &str,
    value: Option<&str>,
) -> Result<&'d Setting, ApiError> {
    let Some(setting) = declared.iter().find(|setting| setting.name == name) else {
        let known: Vec<&str> = declared.iter().map(|setting| setting.name.as_str()).collect();
        let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
        let detail = format!("`{}` has no setting `{name}`; it has {known}", asset.name);
        return Err(ApiError::bad_request("OS-CFGM-40001", detail));
    };
    let Some(value) = value else { return Ok(setting) };
    if value.len() > VALUE_BYTES_MAX || value.contains('\0') {
        let detail = format!("the value of `{name}` may have {VALUE_BYTES_MAX} bytes, none of them NUL");
        return Err(ApiError::bad_request("OS-CFGM-40002", detail));
    }
    if !setting.accepts(value) {
        // The value may be a secret: it is not repeated.
        let detail = format!("the value of `{name}` is no {}", setting.data_type);
        return Err(ApiError::bad_request("OS-CFGM-40003", detail));
    }
    Ok(setting)
}

async fn declared(
    platform: &Platform,
    caller: &Caller,
    asset: &Asset,
    stage: &StageName,
) -> Result<Vec<Setting>, ApiError> {
    let serving = deployments::store::find(&platform.database, &asset.key, stage).await?;
    let latest = asset.latest_revision.and_then(|number| u32::try_from(number).ok());
    let revision = serving.filter(|found| found.serving).map(|found| found.revision);
    let Some(revision) = revision.or(latest.map(odeon_protocol::Revision)) else { return Ok(Vec::new()) };
    let stored =
        assets::store::find_revision(&platform.database, &caller.organization, &asset.key, revision).await?;
    Ok(stored.map(|stored| stored.settings).unwrap_or_default())
}

fn shown(setting: Setting, set: &BTreeMap<String, SettingValue>) -> ApplicationSetting {
    let own = set.get(&setting.name).filter(|value| fits(&setting, value));
    let value = match own {
        Some(SettingValue::Plain(value)) => Some(value.clone()),
        Some(SettingValue::Secret(_)) => None,
        None => setting.default.clone(),
    };
    ApplicationSetting {
        name: setting.name,
        data_type: setting.data_type,
        is_secret: setting.secret,
        value,
        origin: if own.is_some() { "EnvironmentLevelOverride" } else { "ApplicationLevelDefault" },
    }
}
