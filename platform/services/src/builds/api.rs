//! `/api/builds/v1`: how builds went.

use std::sync::Arc;

use axum::extract::State;
use chrono::{DateTime, Utc};
use serde::Serialize;
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use super::store;
use crate::Platform;
use crate::api::ApiError;
use crate::api::extract::{Json, Path};
use crate::identity::{Caller, Scope};

pub(crate) fn router() -> OpenApiRouter<Arc<Platform>> {
    OpenApiRouter::new().routes(routes!(get_build))
}

/// A build.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct BuildOperation {
    key: Uuid,
    asset_key: Option<String>,
    revision: Option<i32>,
    /// `Running`, `Finished`, `FinishedWithErrors`.
    status: String,
    /// Problems, with code, severity and place.
    messages: serde_json::Value,
    created_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
}

/// One build.
#[utoipa::path(get, path = "/api/builds/v1/build-operations/{key}", params(("key" = Uuid, Path)), responses((status = 200, body = BuildOperation)))]
async fn get_build(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Path(key): Path<Uuid>,
) -> Result<Json<BuildOperation>, ApiError> {
    caller.require(Scope::Read)?;
    let found = store::find(&platform.database, &caller.organization, key)
        .await?
        .ok_or_else(|| ApiError::not_found("OS-BLD-40401", format!("the build {key}")))?;
    Ok(Json(BuildOperation {
        key: found.key,
        asset_key: found.asset_key,
        revision: found.revision,
        status: found.status,
        messages: found.messages,
        created_at: found.created_at,
        finished_at: found.finished_at,
    }))
}
