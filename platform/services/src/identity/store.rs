//! Organizations, tokens and the audit trail in PostgreSQL.

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use data_encoding::BASE64URL_NOPAD;
use odeon_protocol::OrganizationId;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use sqlx::postgres::PgRow;
use sqlx::{PgConnection, PgExecutor, PgPool, Row as _};
use uuid::Uuid;

use super::Scope;

/// Every token begins with this, so that a leaked one is recognised.
const TOKEN_PREFIX: &str = "odn_";

/// A token that is valid now.
pub(crate) struct FoundToken {
    pub(crate) id: Uuid,
    pub(crate) organization: OrganizationId,
    pub(crate) name: String,
    pub(crate) scopes: Vec<String>,
}

/// The id of the organization called `name`, which is created with `id` when there is none.
pub(crate) async fn ensure_organization(
    database: &PgPool,
    id: &OrganizationId,
    name: &str,
) -> Result<OrganizationId> {
    add_organization(database, id, name).await?;
    let row = sqlx::query("select id from identity.organizations where name = $1")
        .bind(name)
        .fetch_one(database)
        .await?;
    row.get::<String, _>(0).parse().context("the stored organization id")
}

/// Adds an organization, unless one of that name exists.
pub(crate) async fn add_organization(
    database: impl PgExecutor<'_>,
    id: &OrganizationId,
    name: &str,
) -> Result<()> {
    sqlx::query(
        "insert into identity.organizations (id, name) values ($1, $2) on conflict (name) do nothing",
    )
    .bind(id.as_str())
    .bind(name)
    .execute(database)
    .await?;
    Ok(())
}

/// The organization of that name.
pub(crate) async fn find_organization(database: &PgPool, name: &str) -> Result<Option<OrganizationId>> {
    let row = sqlx::query("select id from identity.organizations where name = $1").bind(name);
    let row = row.fetch_optional(database).await?;
    row.map(|row| row.get::<String, _>(0).parse().context("the stored organization id")).transpose()
}

/// Makes a token and returns it; it is never shown again.
pub(crate) async fn create_token(
    database: impl PgExecutor<'_>,
    organization: &OrganizationId,
    name: &str,
    scopes: &[Scope],
    expires_at: DateTime<Utc>,
) -> Result<String> {
    let token = format!("{TOKEN_PREFIX}{}", BASE64URL_NOPAD.encode(&rand::random::<[u8; 32]>()));
    let scopes: Vec<String> = scopes.iter().map(|scope| scope.as_str().to_owned()).collect();
    sqlx::query("insert into identity.tokens (id, organization_id, name, hash, scopes, expires_at) values ($1, $2, $3, $4, $5, $6)")
        .bind(Uuid::now_v7())
        .bind(organization.as_str())
        .bind(name)
        .bind(hash(&token))
        .bind(scopes)
        .bind(expires_at)
        .execute(database)
        .await?;
    Ok(token)
}

/// Whether a valid token has that name. Until the transaction ends, nobody else makes one in this organization.
pub(crate) async fn token_exists(
    tx: &mut PgConnection,
    organization: &OrganizationId,
    name: &str,
) -> Result<bool> {
    sqlx::query("select 1 from identity.organizations where id = $1 for no key update")
        .bind(organization.as_str())
        .execute(&mut *tx)
        .await?;
    let row = sqlx::query(
        "select 1 from identity.tokens where organization_id = $1 and name = $2 \
         and revoked_at is null and expires_at > now()",
    );
    Ok(row.bind(organization.as_str()).bind(name).fetch_optional(tx).await?.is_some())
}

/// The token, if it is valid now.
pub(crate) async fn find_token(database: &PgPool, token: &str) -> Result<Option<FoundToken>> {
    let row = sqlx::query(
        "select organization_id, name, scopes, id from identity.tokens \
         where hash = $1 and revoked_at is null and expires_at > now()",
    )
    .bind(hash(token))
    .fetch_optional(database)
    .await?;
    row.map(|row| {
        let organization = row.get::<String, _>(0).parse().context("the stored organization id")?;
        Ok(FoundToken { id: row.get(3), organization, name: row.get(1), scopes: row.get(2) })
    })
    .transpose()
}

/// Whether a token that was found is valid still.
pub(crate) async fn is_valid(database: &PgPool, id: Uuid) -> Result<bool> {
    let row = sqlx::query(
        "select 1 from identity.tokens where id = $1 and revoked_at is null and expires_at > now()",
    );
    Ok(row.bind(id).fetch_optional(database).await?.is_some())
}

/// Revokes the tokens of that name; false when there is none that was valid.
pub(crate) async fn revoke_token(
    database: impl PgExecutor<'_>,
    organization: &OrganizationId,
    name: &str,
) -> Result<bool> {
    let done = sqlx::query(
        "update identity.tokens set revoked_at = now() where organization_id = $1 and name = $2 and revoked_at is null",
    )
    .bind(organization.as_str())
    .bind(name)
    .execute(database)
    .await?;
    Ok(done.rows_affected() > 0)
}

/// Writes who did what to the append-only trail.
pub(crate) async fn audit(
    database: impl PgExecutor<'_>,
    organization: &OrganizationId,
    actor: &str,
    action: &str,
    subject: &str,
    detail: Value,
) -> Result<()> {
    sqlx::query("insert into audit.events (organization_id, actor, action, subject, detail) values ($1, $2, $3, $4, $5)")
        .bind(organization.as_str())
        .bind(actor)
        .bind(action)
        .bind(subject)
        .bind(detail)
        .execute(database)
        .await?;
    Ok(())
}

/// A page of the trail, newest first: when, who, what, of what, details, and how many there are.
pub(crate) async fn audit_events(
    database: &PgPool,
    organization: &OrganizationId,
    (offset, limit): (i64, i64),
) -> Result<Vec<PgRow>> {
    let rows = sqlx::query(
        "select at, actor, action, subject, detail, count(*) over () from audit.events \
         where organization_id = $1 order by id desc offset $2 limit $3",
    );
    Ok(rows.bind(organization.as_str()).bind(offset).bind(limit).fetch_all(database).await?)
}

fn hash(token: &str) -> Vec<u8> {
    Sha256::digest(token.as_bytes()).to_vec()
}
