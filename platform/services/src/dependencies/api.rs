//! `/api/dependency-management/v1`: what an app lets others use, and what a deployment would break.

use std::sync::Arc;

use axum::extract::State;
use axum::http::HeaderName;
use axum::http::header::CONTENT_TYPE;
use odeon_protocol::Revision;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::analysis::{self, Inconsistency};
use crate::Platform;
use crate::api::ApiError;
use crate::api::extract::{Json, Path};
use crate::assets;
use crate::assets::store::{Asset, StoredRevision};
use crate::builds;
use crate::deployments;
use crate::identity::{Caller, Scope};

pub(crate) fn router() -> OpenApiRouter<Arc<Platform>> {
    OpenApiRouter::new().routes(routes!(public_elements)).routes(routes!(library)).routes(routes!(analyse))
}

/// A deployment to be thought through.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewAnalysis {
    asset_key: String,
    revision: u32,
    /// Name of the stage.
    environment: String,
}

/// What a deployment would break.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DeploymentAnalysis {
    /// `NoIssuesFound` or `ErrorsFound`.
    status: &'static str,
    inconsistencies: Vec<Inconsistency>,
}

/// What others may use of a revision, in the form of a reference.
#[utoipa::path(get, path = "/api/dependency-management/v1/assets/{key}/revisions/{revision}/public-elements", params(("key" = String, Path), ("revision" = u32, Path)), responses((status = 200, body = serde_json::Value)))]
async fn public_elements(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Path((key, revision)): Path<(String, u32)>,
) -> Result<Json<odeon_compiler::Elements>, ApiError> {
    caller.require(Scope::Read)?;
    let (_, stored) = find(&platform, &caller, &key, revision).await?;
    Ok(Json(stored.interface.public))
}

/// The copy of a library's revision that a project holds: an OML file in JSON.
#[utoipa::path(get, path = "/api/dependency-management/v1/assets/{key}/revisions/{revision}/library", params(("key" = String, Path), ("revision" = u32, Path)), responses((status = 200, body = serde_json::Value)))]
async fn library(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Path((key, revision)): Path<(String, u32)>,
) -> Result<([(HeaderName, &'static str); 1], String), ApiError> {
    caller.require(Scope::Read)?;
    let (asset, stored) = find(&platform, &caller, &key, revision).await?;
    let copy = builds::libraries::source(&platform, &stored).await?;
    let what =
        || ApiError::not_found("OS-APPS-40404", format!("a library in `{}`, which is an app:", asset.name));
    Ok(([(CONTENT_TYPE, "application/json")], copy.ok_or_else(what)?))
}

/// Compares a revision with the apps that serve in a stage.
#[utoipa::path(post, path = "/api/dependency-management/v1/deployment-analyses", request_body = NewAnalysis, responses((status = 200, body = DeploymentAnalysis)))]
async fn analyse(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Json(new): Json<NewAnalysis>,
) -> Result<Json<DeploymentAnalysis>, ApiError> {
    caller.require(Scope::Read)?;
    let (asset, stored) = find(&platform, &caller, &new.asset_key, new.revision).await?;
    let stage = deployments::api::stage(&platform, &caller, &new.environment)?;
    let inconsistencies =
        analysis::analyse(&platform.database, &caller.organization, &stage, &asset.name, &stored.interface)
            .await?;
    let status = if inconsistencies.is_empty() { "NoIssuesFound" } else { "ErrorsFound" };
    Ok(Json(DeploymentAnalysis { status, inconsistencies }))
}

async fn find(
    platform: &Platform,
    caller: &Caller,
    key: &str,
    revision: u32,
) -> Result<(Asset, StoredRevision), ApiError> {
    let asset = assets::api::find(platform, caller, key).await?;
    let (organization, number) = (&caller.organization, Revision(revision));
    let stored = assets::store::find_revision(&platform.database, organization, &asset.key, number).await?;
    let what = || ApiError::not_found("OS-APPS-40402", format!("revision {revision} of `{}`", asset.name));
    let stored = stored.ok_or_else(what)?;
    Ok((asset, stored))
}
