//! `POST /api/asset-repository/v1/uploads`: a project or a component on its way to a build.
//!
//! The body says what it is: `\0asm` is a component, anything else must be the JSON of a project,
//! `{"files": {"app.yaml": "…"}}`. A body that ends early is never stored.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{DefaultBodyLimit, State};
use axum::http::StatusCode;
use axum::{Json, Router, routing};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::Platform;
use crate::api::ApiError;
use crate::identity::{Caller, Scope};

/// Largest component, in bytes.
pub(crate) const COMPONENT_BYTES_MAX: usize = 64 << 20;
/// Largest project, in bytes of JSON.
pub(crate) const PROJECT_BYTES_MAX: usize = 16 << 20;
/// First bytes of a WebAssembly file.
const WASM_MAGIC: &[u8] = b"\0asm";

pub(crate) fn router() -> Router<Arc<Platform>> {
    Router::new()
        .route("/api/asset-repository/v1/uploads", routing::post(upload))
        .layer(DefaultBodyLimit::max(COMPONENT_BYTES_MAX))
}

/// The files of an OML project, by path.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Project {
    pub(crate) files: BTreeMap<String, String>,
}

/// What an upload holds.
#[derive(Clone)]
pub(crate) enum Upload {
    Component(Bytes),
    Project(Project),
}

impl Upload {
    /// Tells one from the other, with an error for people when it is neither.
    pub(crate) fn read(bytes: Bytes) -> Result<Self, String> {
        if bytes.starts_with(WASM_MAGIC) {
            return Ok(Self::Component(bytes));
        }
        if bytes.len() > PROJECT_BYTES_MAX {
            return Err(format!("the project has {} bytes; the limit is {PROJECT_BYTES_MAX}", bytes.len()));
        }
        serde_json::from_slice(&bytes).map(Self::Project).map_err(|error| {
            format!("the upload is neither a WebAssembly file nor a project of the form {{\"files\": {{…}}}}: {error}")
        })
    }
}

async fn upload(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    body: Result<Bytes, BytesRejection>,
) -> Result<(StatusCode, Json<serde_json::Value>), ApiError> {
    caller.require(Scope::Deploy)?;
    let bytes = body.map_err(|rejection| {
        if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
            ApiError::too_large(format!("an upload may have {COMPONENT_BYTES_MAX} bytes (64 MiB)"))
        } else {
            ApiError::bad_request(
                "OS-APPS-40002",
                "the upload ended before its announced length; send it again",
            )
        }
    })?;
    Upload::read(bytes.clone()).map_err(|detail| ApiError::bad_request("OS-APPS-40003", detail))?;
    let key = platform.blobs.put_upload(caller.organization.as_str(), bytes).await?;
    Ok((StatusCode::CREATED, Json(json!({ "key": key }))))
}
