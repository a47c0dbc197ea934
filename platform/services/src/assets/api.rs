//! `/api/asset-repository/v1`: apps and their revisions, to read. Builds add to them.

use std::sync::Arc;

use axum::extract::State;
use chrono::{DateTime, Utc};
use odeon_protocol::Revision;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::store;
use crate::Platform;
use crate::api::ApiError;
use crate::api::extract::{Json, Path, Query};
use crate::api::paging::{Page, Paging};
use crate::identity::{Caller, Scope};

pub(crate) fn router() -> OpenApiRouter<Arc<Platform>> {
    OpenApiRouter::new()
        .routes(routes!(list_assets))
        .routes(routes!(get_asset))
        .routes(routes!(list_revisions))
        .routes(routes!(get_revision))
}

/// An app.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct Asset {
    key: String,
    name: String,
    /// `oml` or `component`.
    kind: String,
    latest_revision: Option<i32>,
    created_at: DateTime<Utc>,
}

impl From<store::Asset> for Asset {
    fn from(asset: store::Asset) -> Self {
        Self {
            key: asset.key.to_string(),
            name: asset.name.to_string(),
            kind: asset.kind,
            latest_revision: asset.latest_revision,
            created_at: asset.created_at,
        }
    }
}

/// An immutable revision.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct AssetRevision {
    revision: u32,
    message: String,
    /// SHA-256 of the stored model, for apps that have one.
    model_digest: Option<String>,
    /// SHA-256 of the component.
    wasm_digest: String,
    /// The interfaces that the component imports: what a host must give before it can run there.
    dependencies: Vec<String>,
    created_by: String,
    created_at: DateTime<Utc>,
}

impl From<store::StoredRevision> for AssetRevision {
    fn from(stored: store::StoredRevision) -> Self {
        Self {
            revision: stored.revision.0,
            message: stored.message,
            model_digest: stored.model_digest,
            wasm_digest: stored.wasm_digest.to_string(),
            dependencies: stored.dependencies,
            created_by: stored.created_by,
            created_at: stored.created_at,
        }
    }
}

#[derive(Deserialize, IntoParams)]
struct NameFilter {
    /// Only the asset of that name.
    name: Option<String>,
}

/// The organization's apps, by name.
#[utoipa::path(get, path = "/api/asset-repository/v1/assets", params(Paging, NameFilter), responses((status = 200, body = Page<Asset>)))]
async fn list_assets(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Query(paging): Query<Paging>,
    Query(filter): Query<NameFilter>,
) -> Result<Json<Page<Asset>>, ApiError> {
    caller.require(Scope::Read)?;
    let range = paging.checked()?;
    let (assets, total) =
        store::list(&platform.database, &caller.organization, filter.name.as_deref(), range).await?;
    Ok(Json(Page { results: assets.into_iter().map(Asset::from).collect(), total }))
}

/// One app.
#[utoipa::path(get, path = "/api/asset-repository/v1/assets/{key}", params(("key" = String, Path)), responses((status = 200, body = Asset)))]
async fn get_asset(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Path(key): Path<String>,
) -> Result<Json<Asset>, ApiError> {
    caller.require(Scope::Read)?;
    Ok(Json(find(&platform, &caller, &key).await?.into()))
}

/// The revisions of an app, newest first.
#[utoipa::path(get, path = "/api/asset-repository/v1/assets/{key}/revisions", params(("key" = String, Path), Paging), responses((status = 200, body = Page<AssetRevision>)))]
async fn list_revisions(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Path(key): Path<String>,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<AssetRevision>>, ApiError> {
    caller.require(Scope::Read)?;
    let range = paging.checked()?;
    let asset = find(&platform, &caller, &key).await?;
    let (revisions, total) =
        store::revisions(&platform.database, &caller.organization, &asset.key, range).await?;
    Ok(Json(Page { results: revisions.into_iter().map(AssetRevision::from).collect(), total }))
}

/// One revision.
#[utoipa::path(get, path = "/api/asset-repository/v1/assets/{key}/revisions/{revision}", params(("key" = String, Path), ("revision" = u32, Path)), responses((status = 200, body = AssetRevision)))]
async fn get_revision(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Path((key, revision)): Path<(String, u32)>,
) -> Result<Json<AssetRevision>, ApiError> {
    caller.require(Scope::Read)?;
    let asset = find(&platform, &caller, &key).await?;
    let found =
        store::find_revision(&platform.database, &caller.organization, &asset.key, Revision(revision))
            .await?;
    let found = found.ok_or_else(|| {
        ApiError::not_found("OS-APPS-40402", format!("revision {revision} of `{}`", asset.name))
    })?;
    Ok(Json(found.into()))
}

/// The caller's asset of that key, or 404, also for another organization's.
pub(crate) async fn find(platform: &Platform, caller: &Caller, key: &str) -> Result<store::Asset, ApiError> {
    store::find(&platform.database, &caller.organization, key)
        .await?
        .ok_or_else(|| ApiError::not_found("OS-APPS-40401", format!("the asset `{key}`")))
}
