//! `/api/identity/v1`: tokens and the audit trail of the caller's organization.

use std::sync::Arc;

use async_nats::jetstream::ErrorCode;
use async_nats::jetstream::context::{CreateStreamError, CreateStreamErrorKind};
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Duration, Utc};
use odeon_protocol::OrganizationId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sqlx::Row as _;
use tracing::{Instrument as _, warn};
use utoipa::ToSchema;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::{Caller, Scope, store};
use crate::Platform;
use crate::api::ApiError;
use crate::api::extract::{Json, Path, Query};
use crate::api::paging::{FIRST, Page, Paging};
use crate::deployments;

/// Longest life of a token, in days.
const TOKEN_DAYS_MAX: i64 = 366;
/// Longest name of a token, in bytes.
const TOKEN_NAME_BYTES_MAX: usize = 80;
/// Longest name of an organization, in bytes.
const ORGANIZATION_NAME_BYTES_MAX: usize = 40;
/// How long whoever adds an organization waits for its stages to be open.
const OPEN_MAX: std::time::Duration = std::time::Duration::from_secs(15);
/// Wait before a stage that did not open is tried again.
const OPEN_PAUSE: std::time::Duration = std::time::Duration::from_secs(1);

pub(crate) fn router() -> OpenApiRouter<Arc<Platform>> {
    OpenApiRouter::new()
        .routes(routes!(create_organization))
        .routes(routes!(renew_first_token))
        .routes(routes!(create_token))
        .routes(routes!(revoke_token))
        .routes(routes!(audit_events))
}

/// An organization to be added.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewOrganization {
    /// Lower-case letters, digits and `-`, beginning with a letter.
    name: String,
}

/// An organization that was added.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CreatedOrganization {
    id: String,
    /// Its first token, shown this once.
    token: String,
    expires_at: DateTime<Utc>,
}

/// Adds an organization with stages of its own to the running Platform.
#[utoipa::path(post, path = "/api/identity/v1/organizations", request_body = NewOrganization, responses((status = 201, body = CreatedOrganization)))]
async fn create_organization(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Json(new): Json<NewOrganization>,
) -> Result<(StatusCode, Json<CreatedOrganization>), ApiError> {
    caller.require(Scope::Operator)?;
    let begins_well = new.name.starts_with(|first: char| first.is_ascii_lowercase());
    let rest_is_well =
        new.name.chars().all(|char| char.is_ascii_lowercase() || char.is_ascii_digit() || char == '-');
    if !begins_well || !rest_is_well || new.name.len() > ORGANIZATION_NAME_BYTES_MAX {
        let detail = format!(
            "`{}` is no name of an organization; use up to {ORGANIZATION_NAME_BYTES_MAX} lower-case letters, digits and `-`, beginning with a letter",
            new.name
        );
        return Err(ApiError::bad_request("OS-IDCO-40003", detail));
    }
    // A task of its own: whoever hangs up leaves no organization whose stages nobody opens.
    let added = add_organization(platform, caller, new.name);
    let created = tokio::spawn(added.in_current_span()).await??;
    Ok((StatusCode::CREATED, Json(created)))
}

/// Makes the first token of an organization anew, where nobody has one any more that may; the one before is revoked.
#[utoipa::path(post, path = "/api/identity/v1/organizations/{name}/first-token", params(("name" = String, Path)), responses((status = 201, body = CreatedOrganization)))]
async fn renew_first_token(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<(StatusCode, Json<CreatedOrganization>), ApiError> {
    caller.require(Scope::Operator)?;
    let Some(id) = store::find_organization(&platform.database, &name).await? else {
        let detail = format!("no organization is named `{name}`; `odeon organization add` adds one");
        return Err(ApiError::unknown("OS-IDCO-40402", detail));
    };
    if id == caller.organization {
        let detail = "this is your own organization: `odeon token create` makes tokens of it";
        return Err(ApiError::bad_request("OS-IDCO-40004", detail));
    }
    let expires_at = Utc::now() + Duration::days(crate::FIRST_TOKEN_DAYS);
    let mut tx = platform.database.begin().await?;
    let had = store::token_exists(&mut tx, &id, crate::FIRST_TOKEN).await?;
    store::revoke_token(&mut *tx, &id, crate::FIRST_TOKEN).await?;
    let token =
        store::create_token(&mut *tx, &id, crate::FIRST_TOKEN, &Scope::OF_ORGANIZATION, expires_at).await?;
    for organization in [&id, &caller.organization] {
        let detail = json!({ "organization": name, "revoked": had, "by": caller.organization });
        store::audit(&mut *tx, organization, &caller.actor, "token.renew", crate::FIRST_TOKEN, detail)
            .await?;
    }
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(CreatedOrganization { id: id.to_string(), token, expires_at })))
}

async fn add_organization(
    platform: Arc<Platform>,
    caller: Caller,
    name: String,
) -> Result<CreatedOrganization, ApiError> {
    let _turn = platform.adding_organization.lock().await;
    if store::find_organization(&platform.database, &name).await?.is_some() {
        let detail = format!("an organization named `{}` exists; choose another name", name);
        return Err(ApiError::conflict("OS-IDCO-40901", detail));
    }
    let id = platform.keys.organization(&name)?;
    for stage in &platform.settings.stages {
        platform.stages.make(&id, stage).await.map_err(unmade)?;
    }
    let expires_at = Utc::now() + Duration::days(crate::FIRST_TOKEN_DAYS);
    let mut tx = platform.database.begin().await?;
    store::add_organization(&mut *tx, &id, &name).await?;
    for (position, stage) in platform.settings.stages.iter().enumerate() {
        deployments::store::add_stage(&mut *tx, &id, position, stage).await?;
    }
    let scopes = Scope::OF_ORGANIZATION;
    let token = store::create_token(&mut *tx, &id, crate::FIRST_TOKEN, &scopes, expires_at).await?;
    for organization in [&id, &caller.organization] {
        let detail = json!({ "id": id });
        store::audit(&mut *tx, organization, &caller.actor, "organization.create", &name, detail).await?;
    }
    tx.commit().await?;
    // It is there now, and its token is told this once: what fails from here on is done again, and is no failure.
    let opened = tokio::spawn(open_stages(platform.clone(), id.clone()).in_current_span());
    if tokio::time::timeout(OPEN_MAX, opened).await.is_err() {
        warn!(organization = %id, "its stages are opened later");
    }
    Ok(CreatedOrganization { id: id.to_string(), token, expires_at })
}

/// Opens the stages of an organization one after the other, in their order, each until it is open.
async fn open_stages(platform: Arc<Platform>, organization: OrganizationId) {
    for stage in &platform.settings.stages {
        while let Err(error) = platform.open_stage(&organization, stage).await {
            warn!(%organization, %stage, "the stage is not open yet: {error:#}");
            tokio::time::sleep(OPEN_PAUSE).await;
        }
    }
}

/// Why the stages of an organization were not made.
fn unmade(error: anyhow::Error) -> ApiError {
    let is_full = |cause: &CreateStreamError| {
        let kind = cause.kind();
        matches!(kind, CreateStreamErrorKind::JetStream(why) if why.error_code() == ErrorCode::STORAGE_RESOURCES_EXCEEDED)
    };
    if error.chain().filter_map(|cause| cause.downcast_ref()).any(is_full) {
        let detail = "nats-server cannot promise what the stages of another organization may keep: give it a larger `max_file_store`";
        return ApiError::conflict("OS-IDCO-40902", detail);
    }
    error.into()
}

/// A token to be made.
#[derive(Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct NewToken {
    /// For people; shown in the audit trail. No other valid token of the organization has it.
    name: String,
    /// `read`, `deploy`, `admin`, `operator`; those that the caller has.
    scopes: Vec<String>,
    /// Days until it expires, 1 to 366.
    days: i64,
}

/// A token, shown this once.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct CreatedToken {
    token: String,
    expires_at: DateTime<Utc>,
}

/// Makes a token.
#[utoipa::path(post, path = "/api/identity/v1/tokens", request_body = NewToken, responses((status = 201, body = CreatedToken)))]
async fn create_token(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Json(new): Json<NewToken>,
) -> Result<(StatusCode, Json<CreatedToken>), ApiError> {
    caller.require(Scope::Admin)?;
    if new.name.is_empty()
        || new.name.len() > TOKEN_NAME_BYTES_MAX
        || !(1..=TOKEN_DAYS_MAX).contains(&new.days)
    {
        let detail =
            format!("use a name of 1 to {TOKEN_NAME_BYTES_MAX} bytes and days 1 to {TOKEN_DAYS_MAX}");
        return Err(ApiError::bad_request("OS-IDCO-40001", detail));
    }
    let mut scopes = Vec::new();
    for text in &new.scopes {
        let scope = Scope::ALL.into_iter().find(|scope| scope.as_str() == text);
        scopes.push(scope.ok_or_else(|| {
            ApiError::bad_request(
                "OS-IDCO-40002",
                format!("`{text}` is not a scope; use read, deploy, admin or operator"),
            )
        })?);
    }
    for scope in &scopes {
        caller.require(*scope)?; // nobody gives what they do not have
    }
    let expires_at = Utc::now() + Duration::days(new.days);
    let mut tx = platform.database.begin().await?;
    // The audit trail says by name who did what.
    if store::token_exists(&mut tx, &caller.organization, &new.name).await? {
        let detail =
            format!("a valid token named `{}` exists; revoke it first, or choose another name", new.name);
        return Err(ApiError::conflict("OS-IDCO-40903", detail));
    }
    let token = store::create_token(&mut *tx, &caller.organization, &new.name, &scopes, expires_at).await?;
    store::audit(
        &mut *tx,
        &caller.organization,
        &caller.actor,
        "token.create",
        &new.name,
        json!({"scopes": new.scopes}),
    )
    .await?;
    tx.commit().await?;
    Ok((StatusCode::CREATED, Json(CreatedToken { token, expires_at })))
}

/// Revokes a token by its name, at once.
#[utoipa::path(delete, path = "/api/identity/v1/tokens/{name}", params(("name" = String, Path)), responses((status = 204)))]
async fn revoke_token(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Path(name): Path<String>,
) -> Result<StatusCode, ApiError> {
    caller.require(Scope::Admin)?;
    if !store::revoke_token(&platform.database, &caller.organization, &name).await? {
        return Err(ApiError::not_found("OS-IDCO-40401", format!("a valid token named `{name}`")));
    }
    store::audit(&platform.database, &caller.organization, &caller.actor, "token.revoke", &name, json!({}))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Who did what, and when.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct AuditEvent {
    at: DateTime<Utc>,
    actor: String,
    action: String,
    subject: String,
    detail: serde_json::Value,
}

/// The audit trail, newest first.
#[utoipa::path(get, path = "/api/identity/v1/audit-events", params(Paging), responses((status = 200, body = Page<AuditEvent>)))]
async fn audit_events(
    State(platform): State<Arc<Platform>>,
    caller: Caller,
    Query(paging): Query<Paging>,
) -> Result<Json<Page<AuditEvent>>, ApiError> {
    caller.require(Scope::Admin)?;
    let (offset, limit) = paging.checked()?;
    let organization = &caller.organization;
    let rows = store::audit_events(&platform.database, organization, (offset, limit)).await?;
    let counted = match rows.is_empty() && offset > 0 {
        true => &store::audit_events(&platform.database, organization, FIRST).await?,
        false => &rows,
    };
    let total = counted.first().map_or(0, |row| row.get(5));
    let event = |row: &sqlx::postgres::PgRow| AuditEvent {
        at: row.get(0),
        actor: row.get(1),
        action: row.get(2),
        subject: row.get(3),
        detail: row.get(4),
    };
    Ok(Json(Page { results: rows.iter().map(event).collect(), total }))
}
