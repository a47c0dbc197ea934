//! Assets and revisions in PostgreSQL. A revision is written once, by [`add_revision`], and never changed.

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use odeon_compiler::{Interface, Setting, Timer};
use odeon_protocol::{AppId, AppName, Claim, Digest, OrganizationId, Revision, Signed};
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgPool, Row as _};
use uuid::Uuid;

use crate::api::paging::FIRST;
use crate::deployments;

/// An app as the repository knows it.
pub(crate) struct Asset {
    pub(crate) key: AppId,
    pub(crate) name: AppName,
    pub(crate) kind: String,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) latest_revision: Option<i32>,
}

/// A revision as the repository knows it.
pub(crate) struct StoredRevision {
    pub(crate) revision: Revision,
    pub(crate) message: String,
    pub(crate) model_digest: Option<String>,
    pub(crate) wasm_digest: Digest,
    pub(crate) native_digest: Option<Digest>,
    pub(crate) claim: Signed<Claim>,
    pub(crate) schema: Option<Value>,
    pub(crate) dependencies: Vec<String>,
    pub(crate) settings: Vec<Setting>,
    pub(crate) timers: Vec<Timer>,
    pub(crate) interface: Interface,
    pub(crate) created_by: String,
    pub(crate) created_at: DateTime<Utc>,
}

/// What a build adds to an asset.
pub(crate) struct NewRevision<'a> {
    pub(crate) organization: &'a OrganizationId,
    pub(crate) name: &'a AppName,
    pub(crate) kind: &'static str,
    pub(crate) message: &'a str,
    pub(crate) model_digest: Option<Digest>,
    pub(crate) wasm_digest: Digest,
    pub(crate) native_digest: Option<Digest>,
    pub(crate) schema: Option<Value>,
    pub(crate) settings: Vec<Setting>,
    pub(crate) timers: Vec<Timer>,
    pub(crate) interface: Interface,
    pub(crate) dependencies: Value,
    pub(crate) created_by: &'a str,
}

/// Adds a revision, and the asset with the first one. `seal` signs the claim once the number is known.
///
/// The asset's row is locked meanwhile: two builds of one app get two numbers. No number is given twice, nor one that serves somewhere.
pub(crate) async fn add_revision(
    database: &PgPool,
    new: NewRevision<'_>,
    seal: impl FnOnce(&AppId, Revision) -> Signed<Claim>,
) -> Result<(AppId, Revision)> {
    let mut tx = database.begin().await?;
    sqlx::query("insert into assets.assets (key, organization_id, name, kind) values ($1, $2, $3, $4) on conflict do nothing")
        .bind(Uuid::new_v4().to_string())
        .bind(new.organization.as_str())
        .bind(new.name.as_str())
        .bind(new.kind)
        .execute(&mut *tx)
        .await?;
    let row =
        sqlx::query("select key from assets.assets where organization_id = $1 and name = $2 for update")
            .bind(new.organization.as_str())
            .bind(new.name.as_str())
            .fetch_one(&mut *tx)
            .await?;
    let key: AppId = row.get::<String, _>(0).parse().context("the stored asset key")?;
    let row = sqlx::query("select max(revision) from assets.revisions where asset_key = $1")
        .bind(key.as_str())
        .fetch_one(&mut *tx)
        .await?;
    // A restored database may lack revisions that serve in a stage: their numbers stay theirs.
    let deployed = deployments::store::last_revision(&mut *tx, &key).await?;
    let last = row.get::<Option<i32>, _>(0).max(deployed).unwrap_or_default();
    let revision = Revision(u32::try_from(last).context("the stored revision")? + 1);
    sqlx::query(
        "insert into assets.revisions (asset_key, revision, organization_id, message, model_digest, wasm_digest, \
         native_digest, claim, schema, dependencies, created_by, settings, timers, interface) \
         values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
    )
    .bind(key.as_str())
    .bind(i32::try_from(revision.0)?)
    .bind(new.organization.as_str())
    .bind(new.message)
    .bind(new.model_digest.as_ref().map(Digest::as_str))
    .bind(new.wasm_digest.as_str())
    .bind(new.native_digest.as_ref().map(Digest::as_str))
    .bind(Json(seal(&key, revision)))
    .bind(new.schema)
    .bind(new.dependencies)
    .bind(new.created_by)
    .bind(Json(new.settings))
    .bind(Json(new.timers))
    .bind(Json(new.interface))
    .execute(&mut *tx)
    .await?;
    tx.commit().await?;
    Ok((key, revision))
}

const ASSET: &str = "select key, name, kind, created_at, \
    (select max(revision) from assets.revisions where asset_key = key), count(*) over () from assets.assets";

/// The organization's assets by name, and how many there are.
pub(crate) async fn list(
    database: &PgPool,
    organization: &OrganizationId,
    name: Option<&str>,
    (offset, limit): (i64, i64),
) -> Result<(Vec<Asset>, i64)> {
    let sql = format!(
        "{ASSET} where organization_id = $1 and ($2::text is null or name = $2) order by name offset $3 limit $4"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(organization.as_str())
        .bind(name)
        .bind(offset)
        .bind(limit)
        .fetch_all(database)
        .await?;
    if rows.is_empty() && offset > 0 {
        return Ok((Vec::new(), Box::pin(list(database, organization, name, FIRST)).await?.1));
    }
    let total = rows.first().map_or(0, |row| row.get(5));
    Ok((rows.iter().map(asset).collect::<Result<_>>()?, total))
}

/// The key of the organization's asset of that name.
pub(crate) async fn named(
    database: &PgPool,
    organization: &OrganizationId,
    name: &str,
) -> Result<Option<AppId>> {
    let (assets, _) = list(database, organization, Some(name), (0, 1)).await?;
    Ok(assets.into_iter().next().map(|asset| asset.key))
}

/// One asset of the organization.
pub(crate) async fn find(
    database: &PgPool,
    organization: &OrganizationId,
    key: &str,
) -> Result<Option<Asset>> {
    let sql = format!("{ASSET} where organization_id = $1 and key = $2");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(organization.as_str())
        .bind(key)
        .fetch_optional(database)
        .await?;
    row.as_ref().map(asset).transpose()
}

/// The apps whose newest revision has a library compiled in, each with the library's revision.
pub(crate) async fn users_of_library(database: &PgPool, library: &AppId) -> Result<Vec<(String, u32)>> {
    let rows = sqlx::query(
        "select u.name, (r.interface -> 'libraries' ->> l.name)::bigint from assets.assets l \
         join assets.assets u on u.organization_id = l.organization_id \
         join assets.revisions r on r.asset_key = u.key \
           and r.revision = (select max(revision) from assets.revisions where asset_key = u.key) \
         where l.key = $1 and r.interface -> 'libraries' ? l.name order by u.name",
    )
    .bind(library.as_str())
    .fetch_all(database)
    .await?;
    rows.iter().map(|row| Ok((row.get(0), u32::try_from(row.get::<i64, _>(1))?))).collect()
}

const REVISION: &str = "select revision, message, model_digest, wasm_digest, native_digest, claim, schema, \
    dependencies, created_by, created_at, settings, timers, interface, count(*) over () from assets.revisions";

/// The revisions of an asset, newest first, and how many there are.
pub(crate) async fn revisions(
    database: &PgPool,
    organization: &OrganizationId,
    key: &AppId,
    (offset, limit): (i64, i64),
) -> Result<(Vec<StoredRevision>, i64)> {
    let sql = format!(
        "{REVISION} where organization_id = $1 and asset_key = $2 order by revision desc offset $3 limit $4"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(organization.as_str())
        .bind(key.as_str())
        .bind(offset)
        .bind(limit)
        .fetch_all(database)
        .await?;
    if rows.is_empty() && offset > 0 {
        return Ok((Vec::new(), Box::pin(revisions(database, organization, key, FIRST)).await?.1));
    }
    let total = rows.first().map_or(0, |row| row.get(13));
    Ok((rows.iter().map(stored_revision).collect::<Result<_>>()?, total))
}

/// One revision of an asset.
pub(crate) async fn find_revision(
    database: &PgPool,
    organization: &OrganizationId,
    key: &AppId,
    revision: Revision,
) -> Result<Option<StoredRevision>> {
    let Ok(number) = i32::try_from(revision.0) else { return Ok(None) };
    let sql = format!("{REVISION} where organization_id = $1 and asset_key = $2 and revision = $3");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(organization.as_str())
        .bind(key.as_str())
        .bind(number)
        .fetch_optional(database)
        .await?;
    row.as_ref().map(stored_revision).transpose()
}

fn asset(row: &PgRow) -> Result<Asset> {
    Ok(Asset {
        key: row.get::<String, _>(0).parse()?,
        name: row.get::<String, _>(1).parse()?,
        kind: row.get(2),
        created_at: row.get(3),
        latest_revision: row.get(4),
    })
}

fn stored_revision(row: &PgRow) -> Result<StoredRevision> {
    Ok(StoredRevision {
        revision: Revision(u32::try_from(row.get::<i32, _>(0))?),
        message: row.get(1),
        model_digest: row.get(2),
        wasm_digest: row.get::<String, _>(3).parse()?,
        native_digest: row.get::<Option<String>, _>(4).map(|digest| digest.parse()).transpose()?,
        claim: row.get::<Json<_>, _>(5).0,
        schema: row.get(6),
        dependencies: row.get::<Json<_>, _>(7).0,
        created_by: row.get(8),
        created_at: row.get(9),
        settings: row.get::<Json<_>, _>(10).0,
        timers: row.get::<Json<_>, _>(11).0,
        interface: row.get::<Json<_>, _>(12).0,
    })
}
