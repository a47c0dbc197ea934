//! `/api/deployments/v1` and `/api/portfolios/v2`: operations, stages and what is deployed where.
//!
//! An operation is accepted at once (202) and runs on its own; its key tells how far it is.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use odeon_protocol::{AppName, Revision, StageName};
use serde::{Deserialize, Serialize};
use tracing::Instrument as _;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::limits::OwnLimits;
use super::operation::{self, Operation, Task};
use super::progress::{Message, Progress};
use super::store::{self, Kind, NewOperation};
use crate::Platform;
use crate::again::is_away;
use crate::api::ApiError;
use crate::api::extract::{Json, Path, Query};
use crate::api::paging::{Page, Paging};
use crate::assets;
use crate::assets::uploads::Upload;
use crate::builds::libraries::LIBRARY;
use crate::identity::{Caller, Scope};

/// Longest message of a revision, in characters.
const MESSAGE_CHARS_MAX: usize = 2_000;
/// Hosts that one app may call.
const EGRESS_MAX: usize = 64;
/// Longest name of such a host with its port, in bytes.
const AUTHORITY_BYTES_MAX: usize = 260;

pub(crate) fn router() -> OpenApiRouter<Arc<Platform>> {
    OpenApiRouter::new()
        .routes(routes!(list_publishes, publish))
        .routes(routes!(get_publish))
        .routes(routes!(list_deployments, deploy))
        .routes(routes!(get_deployment))
        .routes(routes!(deployed_assets))
        .routes(routes!(environments))
}

/// A publish to be run.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewPublish {
    /// From `POST /api/asset-repository/v1/uploads`.
    upload_key: Uuid,
    /// The app's name; needed for components, refused for models, which carry their own.
    name: Option<String>,
    /// Becomes part of the revision for good.
    #[serde(default)]
    message: String,
}

/// A deployment to be run.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewDeployment {
    operation: Kind,
    asset_key: String,
    /// Needed to deploy.
    revision: Option<u32>,
    /// Name of the stage.
    environment: String,
    /// Where the app may call from this stage on, as `host` or `host:port`; without it, as before. For `Deploy` only.
    egress_allow: Option<Vec<String>>,
    /// What the app may use in this stage from now on; without it, as before. For `Deploy` only.
    #[schema(value_type = Option<OwnLimits>)]
    limits: Option<serde_json::Value>,
    /// Deploy although other apps, or this one, will miss something. For `Deploy` only.
    #[serde(default)]
    accept_impact: bool,
}

/// An operation.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeploymentOperation {
    key: Uuid,
    kind: String,
    asset_key: Option<String>,
    asset_name: Option<String>,
    /// `oml`, `component` or `library`.
    asset_kind: Option<String>,
    revision: Option<i32>,
    environment: String,
    build_key: Option<Uuid>,
    /// `Running`, `Finished`, `FinishedWithError`.
    status: String,
    messages: serde_json::Value,
    /// Finished steps with their time in milliseconds.
    steps: serde_json::Value,
    created_by: String,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
}

/// The key of an accepted operation.
#[derive(Serialize, ToSchema)]
struct Accepted {
    key: Uuid,
}

/// Builds a revision and deploys it to the first stage.
#[utoipa::path(post, path = "/api/deployments/v1/publish-operations", request_body = NewPublish, responses((status = 202, body = Accepted)))]
async fn publish(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Json(new): Json<NewPublish>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    caller.require(Scope::Deploy)?;
    let too_long = new.message.chars().count() > MESSAGE_CHARS_MAX;
    if too_long || new.message.contains('\0') {
        let detail = format!("the message may have {MESSAGE_CHARS_MAX} characters, none of them NUL");
        return Err(ApiError::bad_request("OS-DPL-40001", detail));
    }
    let name = new.name.map(|name| name.parse::<AppName>()).transpose();
    let name = name.map_err(|error| ApiError::bad_request("OS-DPL-40002", error.to_string()))?;
    let bytes = platform
        .blobs
        .take_upload(caller.organization.as_str(), new.upload_key)
        .await?
        .ok_or_else(|| ApiError::not_found("OS-APPS-40403", format!("the upload {}", new.upload_key)))?;
    let upload = Upload::read(bytes).map_err(|detail| ApiError::bad_request("OS-APPS-40003", detail))?;
    let stage = platform
        .first_stage(&caller.organization)
        .ok_or_else(|| ApiError::not_found("OS-DPL-40403", "a stage"))?;
    let task = Task::Publish { upload, name, message: new.message };
    accept(platform, caller, Kind::Publish, stage, None, task).await.map(accepted)
}

/// Deploys a stored revision, rolls back to the one before, or undeploys.
#[utoipa::path(post, path = "/api/deployments/v1/deployment-operations", request_body = NewDeployment, responses((status = 202, body = Accepted)))]
async fn deploy(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Json(new): Json<NewDeployment>,
) -> Result<(StatusCode, Json<Accepted>), ApiError> {
    caller.require(Scope::Deploy)?;
    let asset = assets::api::find(&platform, &caller, &new.asset_key).await?;
    let stage = stage(&platform, &caller, &new.environment)?;
    if asset.kind == LIBRARY {
        let detail = format!(
            "`{0}` is a library: it is compiled into the apps that use it. `odeon reference {0} --project <folder>` brings it into one",
            asset.name
        );
        return Err(ApiError::bad_request("OS-DPL-40007", detail));
    }
    let current = store::find(&platform.database, &asset.key, &stage).await?;
    let (task, revision) = match new.operation {
        Kind::Publish => {
            let detail = "publish with POST /api/deployments/v1/publish-operations";
            return Err(ApiError::bad_request("OS-DPL-40003", detail));
        }
        Kind::Deploy => {
            let detail = "say which `revision` to deploy";
            let revision =
                Revision(new.revision.ok_or_else(|| ApiError::bad_request("OS-DPL-40004", detail))?);
            let stored =
                assets::store::find_revision(&platform.database, &caller.organization, &asset.key, revision)
                    .await?;
            if stored.is_none() {
                let what = format!("revision {revision} of `{}`", asset.name);
                return Err(ApiError::not_found("OS-APPS-40402", what));
            }
            let egress_allow = new.egress_allow.map(check_egress).transpose()?;
            let (app, accept_impact) = (asset.key.clone(), new.accept_impact);
            let most = &platform.settings.limits_max;
            let limits = new.limits.map(|limits| OwnLimits::read(limits, most)).transpose()?;
            (Task::Deploy { app, revision, egress_allow, limits, accept_impact }, Some(revision))
        }
        Kind::ApplyConfigs => {
            let detail =
                "change settings with PATCH /api/asset-configurations/v1/…/settings; that applies them";
            return Err(ApiError::bad_request("OS-DPL-40006", detail));
        }
        Kind::Rollback => {
            let previous = current
                .as_ref()
                .filter(|current| current.serving)
                .and_then(|current| current.previous_revision);
            let revision = previous.ok_or_else(|| {
                let detail = format!("`{}` has no earlier revision in {stage} to go back to", asset.name);
                ApiError::conflict("OS-DPL-40902", detail)
            })?;
            let app = asset.key.clone();
            let task = Task::Deploy { app, revision, egress_allow: None, limits: None, accept_impact: true };
            (task, Some(revision))
        }
        Kind::Undeploy => {
            if !current.is_some_and(|current| current.serving) {
                let detail = format!("`{}` is not deployed to {stage}", asset.name);
                return Err(ApiError::conflict("OS-DPL-40903", detail));
            }
            (Task::Undeploy { app: asset.key.clone() }, None)
        }
    };
    accept(platform, caller, new.operation, stage, revision, task).await.map(accepted)
}

/// The caller's stage of that name, or 404.
pub(crate) fn stage(platform: &Platform, caller: &Caller, name: &str) -> Result<StageName, ApiError> {
    let parsed = name.parse::<StageName>().ok();
    parsed
        .filter(|stage| platform.stage(&caller.organization, stage).is_some())
        .ok_or_else(|| ApiError::not_found("OS-DPL-40403", format!("the stage `{name}`")))
}

/// Authorities as the host compares them; the first that is none is named.
fn check_egress(authorities: Vec<String>) -> Result<Vec<String>, ApiError> {
    if authorities.len() > EGRESS_MAX {
        let detail = format!("an app may call {EGRESS_MAX} hosts, not {}", authorities.len());
        return Err(ApiError::bad_request("OS-DPL-40005", detail));
    }
    let is_authority = |text: &String| {
        let authority = text.parse::<axum::http::uri::Authority>();
        text.len() <= AUTHORITY_BYTES_MAX
            && authority.is_ok_and(|authority| !authority.host().is_empty() && !text.contains('@'))
    };
    if let Some(wrong) = authorities.iter().find(|text| !is_authority(text)) {
        let detail = format!("`{wrong}` is not a host; write `api.example.com` or `api.example.com:8443`");
        return Err(ApiError::bad_request("OS-DPL-40005", detail));
    }
    Ok(authorities.into_iter().map(|text| text.to_ascii_lowercase()).collect())
}

/// Begins an operation, and says its key.
pub(crate) async fn accept(
    platform: Arc<Platform>,
    caller: Caller,
    kind: Kind,
    stage: StageName,
    revision: Option<Revision>,
    task: Task,
) -> Result<Uuid, ApiError> {
    let place = platform.operations.clone().try_acquire_owned().map_err(|_| {
        ApiError::busy(format!("{} operations are running; try again in a moment", crate::OPERATIONS_MAX))
    })?;
    let operation = Operation {
        key: Uuid::now_v7(),
        kind,
        organization: caller.organization,
        actor: caller.actor,
        stage,
        task,
    };
    // A task of its own: whoever hangs up now leaves nothing that began and is run by nobody.
    let begun = async move {
        begin(&platform, &operation, revision).await?;
        let key = operation.key;
        tokio::spawn(async move {
            operation::run(platform, operation).await;
            drop(place);
        });
        Ok(key)
    };
    tokio::spawn(begun.in_current_span()).await?
}

async fn begin(
    platform: &Arc<Platform>,
    operation: &Operation,
    revision: Option<Revision>,
) -> Result<(), ApiError> {
    let app = match &operation.task {
        Task::Publish { .. } => None,
        Task::Deploy { app, .. } | Task::Undeploy { app } | Task::Apply { app, .. } => Some(app),
    };
    let key = operation.key;
    let new = NewOperation {
        key,
        organization: &operation.organization,
        kind: operation.kind,
        app,
        revision,
        stage: &operation.stage,
        actor: &operation.actor,
    };
    match store::begin_operation(&platform.database, new).await {
        Ok(true) => Ok(()),
        Ok(false) => {
            let stage = &operation.stage;
            let detail = format!("another deployment of this app to {stage} is running; wait for its end");
            Err(ApiError::conflict("OS-DPL-40901", detail))
        }
        Err(error) => {
            if is_away(&error) {
                // It may have been written, before the database went away.
                let platform = platform.clone();
                let mut told = Progress::default();
                told.messages.push(Message::error("OS-DPL-50001", "the Platform could not begin it"));
                tokio::spawn(async move {
                    operation::end(&platform.database, key, "FinishedWithError", &told).await;
                });
            }
            Err(error.into())
        }
    }
}

fn accepted(key: Uuid) -> (StatusCode, Json<Accepted>) {
    (StatusCode::ACCEPTED, Json(Accepted { key }))
}

/// Publish operations, newest first.
#[utoipa::path(get, path = "/api/deployments/v1/publish-operations", params(Paging), responses((status = 200, body = Page<DeploymentOperation>)))]
async fn list_publishes(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<DeploymentOperation>>, ApiError> {
    list_operations(&platform, &caller, true, paging).await
}

/// Deployment operations, newest first.
#[utoipa::path(get, path = "/api/deployments/v1/deployment-operations", params(Paging), responses((status = 200, body = Page<DeploymentOperation>)))]
async fn list_deployments(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<DeploymentOperation>>, ApiError> {
    list_operations(&platform, &caller, false, paging).await
}

async fn list_operations(
    platform: &Platform,
    caller: &Caller,
    publishes: bool,
    paging: Paging,
) -> Result<Json<Page<DeploymentOperation>>, ApiError> {
    caller.require(Scope::Read)?;
    let range = paging.checked()?;
    let (found, total) =
        store::operations(&platform.database, &caller.organization, publishes, range).await?;
    Ok(Json(Page { results: found.into_iter().map(DeploymentOperation::from).collect(), total }))
}

/// One publish operation.
#[utoipa::path(get, path = "/api/deployments/v1/publish-operations/{key}", params(("key" = Uuid, Path)), responses((status = 200, body = DeploymentOperation)))]
async fn get_publish(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Path(key): Path<Uuid>,
) -> Result<Json<DeploymentOperation>, ApiError> {
    get_operation(&platform, &caller, key).await
}

/// One deployment operation.
#[utoipa::path(get, path = "/api/deployments/v1/deployment-operations/{key}", params(("key" = Uuid, Path)), responses((status = 200, body = DeploymentOperation)))]
async fn get_deployment(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Path(key): Path<Uuid>,
) -> Result<Json<DeploymentOperation>, ApiError> {
    get_operation(&platform, &caller, key).await
}

async fn get_operation(
    platform: &Platform,
    caller: &Caller,
    key: Uuid,
) -> Result<Json<DeploymentOperation>, ApiError> {
    caller.require(Scope::Read)?;
    let found = store::find_operation(&platform.database, &caller.organization, key)
        .await?
        .ok_or_else(|| ApiError::not_found("OS-DPL-40401", format!("the operation {key}")))?;
    Ok(Json(found.into()))
}

impl From<store::StoredOperation> for DeploymentOperation {
    fn from(stored: store::StoredOperation) -> Self {
        Self {
            key: stored.key,
            kind: stored.kind,
            asset_key: stored.asset_key,
            asset_name: stored.asset_name,
            asset_kind: stored.asset_kind,
            revision: stored.revision,
            environment: stored.stage,
            build_key: stored.build_key,
            status: stored.status,
            messages: stored.messages,
            steps: stored.steps,
            created_by: stored.created_by,
            created_at: stored.created_at,
            finished_at: stored.finished_at,
        }
    }
}

/// An app in a stage.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeployedAsset {
    asset_key: String,
    asset_name: String,
    environment: String,
    revision: u32,
    previous_revision: Option<u32>,
    generation: String,
    hosts: Vec<String>,
    updated_at: DateTime<Utc>,
}

/// What is deployed where.
#[utoipa::path(get, path = "/api/portfolios/v2/deployed-assets", params(Paging), responses((status = 200, body = Page<DeployedAsset>)))]
async fn deployed_assets(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<DeployedAsset>>, ApiError> {
    caller.require(Scope::Read)?;
    let range = paging.checked()?;
    let (found, total) = store::list(&platform.database, &caller.organization, range).await?;
    let results = found
        .into_iter()
        .map(|deployment| DeployedAsset {
            asset_key: deployment.app.to_string(),
            asset_name: deployment.name.to_string(),
            environment: deployment.stage.to_string(),
            revision: deployment.revision.0,
            previous_revision: deployment.previous_revision.map(|revision| revision.0),
            generation: deployment.generation.to_string(),
            hosts: deployment.placements.iter().map(ToString::to_string).collect(),
            updated_at: deployment.updated_at,
        })
        .collect();
    Ok(Json(Page { results, total }))
}

/// A stage and who serves there now.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Environment {
    name: String,
    /// `Ready` when a router and a host are heard of, else `Pending`.
    status: String,
    /// Where users reach its apps.
    urls: Vec<String>,
    hosts: Vec<EnvironmentHost>,
}

/// A live host of a stage.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct EnvironmentHost {
    name: String,
    zone: String,
    ready_replicas: u32,
}

/// The organization's stages, in order.
#[utoipa::path(get, path = "/api/portfolios/v2/environments", responses((status = 200, body = Vec<Environment>)))]
async fn environments(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
) -> Result<Json<Vec<Environment>>, ApiError> {
    caller.require(Scope::Read)?;
    let of_caller = platform.stages.of(&caller.organization);
    let environment = |stage: &Arc<crate::nats::stage::Stage>| {
        let seen = stage.seen();
        let urls: Vec<String> =
            seen.live_routers().map(|router| format!("http://{}", router.address)).collect();
        let hosts: Vec<EnvironmentHost> = seen
            .live_hosts()
            .map(|host| EnvironmentHost {
                name: host.host.to_string(),
                zone: host.zone.clone(),
                ready_replicas: host.ready,
            })
            .collect();
        let ready = !urls.is_empty() && !hosts.is_empty();
        let status = if ready { "Ready" } else { "Pending" };
        Environment { name: stage.name.to_string(), status: status.into(), urls, hosts }
    };
    Ok(Json(of_caller.iter().map(environment).collect()))
}
