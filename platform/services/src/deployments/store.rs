//! Stages, deployments and operations in PostgreSQL.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use odeon_protocol::{AppId, AppName, Digest, Generation, HostId, OrganizationId, Revision, StageName};
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::{PgExecutor, PgPool, Row as _};
use uuid::Uuid;

use super::limits::OwnLimits;
use super::progress::Progress;
use crate::api::paging::FIRST;

/// A row of `deployments.deployments`, with the app's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Deployment {
    pub(crate) organization: OrganizationId,
    pub(crate) app: AppId,
    pub(crate) name: AppName,
    pub(crate) stage: StageName,
    pub(crate) revision: Revision,
    pub(crate) previous_revision: Option<Revision>,
    pub(crate) serving: bool,
    pub(crate) generation: Generation,
    pub(crate) placements: Vec<HostId>,
    pub(crate) egress_allow: Vec<String>,
    pub(crate) limits: OwnLimits,
    pub(crate) updated_at: DateTime<Utc>,
    /// Its tables were migrated for another one, and may miss rules of its own.
    pub(crate) migrating: bool,
}

/// Makes sure that the stages exist, in this order.
pub(crate) async fn ensure_stages(
    database: &PgPool,
    organization: &OrganizationId,
    stages: &[StageName],
) -> Result<()> {
    for (position, stage) in stages.iter().enumerate() {
        add_stage(database, organization, position, stage).await?;
    }
    Ok(())
}

/// Adds a stage, unless it is there.
pub(crate) async fn add_stage(
    database: impl PgExecutor<'_>,
    organization: &OrganizationId,
    position: usize,
    stage: &StageName,
) -> Result<()> {
    sqlx::query("insert into deployments.stages (organization_id, name, position) values ($1, $2, $3) on conflict do nothing")
        .bind(organization.as_str())
        .bind(stage.as_str())
        .bind(i32::try_from(position)?)
        .execute(database)
        .await?;
    Ok(())
}

/// All stages of all organizations, in order.
pub(crate) async fn all_stages(database: &PgPool) -> Result<Vec<(OrganizationId, StageName)>> {
    let rows = sqlx::query(
        "select organization_id, name from deployments.stages order by organization_id, position",
    )
    .fetch_all(database)
    .await?;
    rows.iter().map(|row| Ok((row.get::<String, _>(0).parse()?, row.get::<String, _>(1).parse()?))).collect()
}

const DEPLOYMENT: &str = "select d.organization_id, d.asset_key, a.name, d.stage, d.revision, d.previous_revision, d.serving, \
    d.epoch, d.number, d.placements, d.egress_allow, d.limits, d.updated_at, d.migrating, count(*) over () \
    from deployments.deployments d join assets.assets a on a.key = d.asset_key";

/// What is wanted of one app in one stage.
pub(crate) async fn find(database: &PgPool, app: &AppId, stage: &StageName) -> Result<Option<Deployment>> {
    let sql = format!("{DEPLOYMENT} where d.asset_key = $1 and d.stage = $2");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(app.as_str())
        .bind(stage.as_str())
        .fetch_optional(database)
        .await?;
    row.as_ref().map(deployment).transpose()
}

/// What is wanted of all apps in one stage.
pub(crate) async fn of_stage(
    database: &PgPool,
    organization: &OrganizationId,
    stage: &StageName,
) -> Result<Vec<Deployment>> {
    let sql = format!("{DEPLOYMENT} where d.organization_id = $1 and d.stage = $2 order by a.name");
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(organization.as_str())
        .bind(stage.as_str())
        .fetch_all(database)
        .await?;
    rows.iter().map(deployment).collect()
}

/// The objects that deployments of a stage need, or would need again after a rollback.
pub(crate) async fn digests(
    database: &PgPool,
    organization: &OrganizationId,
    stage: &StageName,
) -> Result<BTreeSet<Digest>> {
    let rows = sqlx::query(
        "select r.wasm_digest, r.native_digest from deployments.deployments d join assets.revisions r \
         on r.asset_key = d.asset_key and r.revision in (d.revision, d.previous_revision) \
         where d.organization_id = $1 and d.stage = $2 and d.serving",
    )
    .bind(organization.as_str())
    .bind(stage.as_str())
    .fetch_all(database)
    .await?;
    let digests = rows.iter().flat_map(|row| [row.get::<Option<String>, _>(0), row.get(1)]).flatten();
    digests.map(|digest| Ok(digest.parse()?)).collect()
}

/// The organization's deployments, by stage and app.
pub(crate) async fn list(
    database: &PgPool,
    organization: &OrganizationId,
    (offset, limit): (i64, i64),
) -> Result<(Vec<Deployment>, i64)> {
    let sql = format!(
        "{DEPLOYMENT} where d.organization_id = $1 and d.serving order by a.name, d.stage offset $2 limit $3"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(organization.as_str())
        .bind(offset)
        .bind(limit)
        .fetch_all(database)
        .await?;
    if rows.is_empty() && offset > 0 {
        return Ok((Vec::new(), Box::pin(list(database, organization, FIRST)).await?.1));
    }
    let total = rows.first().map_or(0, |row| row.get(14));
    Ok((rows.iter().map(deployment).collect::<Result<_>>()?, total))
}

/// The newest revision of an app that any stage has, or had before.
pub(crate) async fn last_revision(database: impl PgExecutor<'_>, app: &AppId) -> Result<Option<i32>> {
    let row = sqlx::query(
        "select max(greatest(revision, previous_revision)) from deployments.deployments where asset_key = $1",
    )
    .bind(app.as_str())
    .fetch_one(database)
    .await?;
    Ok(row.get(0))
}

/// Notes that the tables of a deployment are migrated for another one, or that they were not.
pub(crate) async fn set_migrating(
    database: &PgPool,
    app: &AppId,
    stage: &StageName,
    migrating: bool,
) -> Result<()> {
    sqlx::query("update deployments.deployments set migrating = $3 where asset_key = $1 and stage = $2")
        .bind(app.as_str())
        .bind(stage.as_str())
        .bind(migrating)
        .execute(database)
        .await?;
    Ok(())
}

/// Writes what is wanted, if nothing newer was written meanwhile; false when it was.
pub(crate) async fn save(database: impl PgExecutor<'_>, wanted: &Deployment) -> Result<bool> {
    let done = sqlx::query(
        "insert into deployments.deployments as d (organization_id, asset_key, stage, revision, previous_revision, serving, \
         epoch, number, placements, egress_allow, limits, migrating) values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) \
         on conflict (asset_key, stage) do update set revision = excluded.revision, \
         previous_revision = excluded.previous_revision, serving = excluded.serving, epoch = excluded.epoch, \
         number = excluded.number, placements = excluded.placements, egress_allow = excluded.egress_allow, \
         limits = excluded.limits, migrating = excluded.migrating, \
         updated_at = now() where (d.epoch, d.number) < (excluded.epoch, excluded.number)",
    )
    .bind(wanted.organization.as_str())
    .bind(wanted.app.as_str())
    .bind(wanted.stage.as_str())
    .bind(i32::try_from(wanted.revision.0)?)
    .bind(wanted.previous_revision.map(|revision| i32::try_from(revision.0)).transpose()?)
    .bind(wanted.serving)
    .bind(i32::try_from(wanted.generation.epoch)?)
    .bind(i64::try_from(wanted.generation.number)?)
    .bind(wanted.placements.iter().map(ToString::to_string).collect::<Vec<_>>())
    .bind(&wanted.egress_allow)
    .bind(sqlx::types::Json(&wanted.limits))
    .bind(wanted.migrating)
    .execute(database)
    .await?;
    Ok(done.rows_affected() == 1)
}

fn deployment(row: &PgRow) -> Result<Deployment> {
    let revision = |number: i32| u32::try_from(number).map(Revision).context("the stored revision");
    Ok(Deployment {
        organization: row.get::<String, _>(0).parse()?,
        app: row.get::<String, _>(1).parse()?,
        name: row.get::<String, _>(2).parse()?,
        stage: row.get::<String, _>(3).parse()?,
        revision: revision(row.get(4))?,
        previous_revision: row.get::<Option<i32>, _>(5).map(revision).transpose()?,
        serving: row.get(6),
        generation: Generation {
            epoch: u32::try_from(row.get::<i32, _>(7))?,
            number: u64::try_from(row.get::<i64, _>(8))?,
        },
        placements: row.get::<Vec<String>, _>(9).iter().map(|id| id.parse()).collect::<Result<_, _>>()?,
        egress_allow: row.get(10),
        limits: row.get::<sqlx::types::Json<OwnLimits>, _>(11).0,
        updated_at: row.get(12),
        migrating: row.get(13),
    })
}

/// What kind of thing a person asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize, utoipa::ToSchema)]
pub(crate) enum Kind {
    /// Build a revision and deploy it to a stage.
    Publish,
    /// Deploy a stored revision.
    Deploy,
    /// Stop serving; data are kept.
    Undeploy,
    /// Deploy the revision that served before.
    Rollback,
    /// Bring changed settings to the revision that serves.
    ApplyConfigs,
}

impl Kind {
    /// The kind as it is stored and shown.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "Publish",
            Self::Deploy => "Deploy",
            Self::Undeploy => "Undeploy",
            Self::Rollback => "Rollback",
            Self::ApplyConfigs => "ApplyConfigs",
        }
    }
}

/// A stored operation, as told.
pub(crate) struct StoredOperation {
    pub(crate) key: Uuid,
    pub(crate) kind: String,
    pub(crate) asset_key: Option<String>,
    pub(crate) asset_name: Option<String>,
    pub(crate) asset_kind: Option<String>,
    pub(crate) revision: Option<i32>,
    pub(crate) stage: String,
    pub(crate) build_key: Option<Uuid>,
    pub(crate) status: String,
    pub(crate) messages: Value,
    pub(crate) steps: Value,
    pub(crate) created_by: String,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) finished_at: Option<DateTime<Utc>>,
}

/// What an operation is about, when it begins.
pub(crate) struct NewOperation<'a> {
    pub(crate) key: Uuid,
    pub(crate) organization: &'a OrganizationId,
    pub(crate) kind: Kind,
    pub(crate) app: Option<&'a AppId>,
    pub(crate) revision: Option<Revision>,
    pub(crate) stage: &'a StageName,
    pub(crate) actor: &'a str,
}

/// Notes that an operation began. False: another one on the same app and stage is running.
pub(crate) async fn begin_operation(database: &PgPool, new: NewOperation<'_>) -> Result<bool> {
    let done = sqlx::query(
        "insert into deployments.operations (key, organization_id, kind, asset_key, revision, stage, status, created_by) \
         values ($1, $2, $3, $4, $5, $6, 'Running', $7) on conflict (asset_key, stage) where status = 'Running' do nothing",
    )
    .bind(new.key)
    .bind(new.organization.as_str())
    .bind(new.kind.as_str())
    .bind(new.app.map(AppId::as_str))
    .bind(new.revision.map(|revision| i32::try_from(revision.0)).transpose()?)
    .bind(new.stage.as_str())
    .bind(new.actor)
    .execute(database)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// A publish learns its app only when it is built. False: another operation on it is running.
pub(crate) async fn assign_operation(
    database: &PgPool,
    key: Uuid,
    build: Uuid,
    built: (&AppId, Revision),
) -> Result<bool> {
    let done = sqlx::query(
        "update deployments.operations set asset_key = $2, revision = $3, build_key = $4 where key = $1",
    )
    .bind(key)
    .bind(built.0.as_str())
    .bind(i32::try_from(built.1.0)?)
    .bind(build)
    .execute(database)
    .await;
    match done {
        Ok(_) => Ok(true),
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Notes how far an operation has come, or how it ended.
pub(crate) async fn save_progress(
    database: &PgPool,
    key: Uuid,
    status: &str,
    progress: &Progress,
) -> Result<()> {
    sqlx::query(
        "update deployments.operations set status = $2, messages = $3, steps = $4, \
         finished_at = case when $2 = 'Running' then null else now() end where key = $1",
    )
    .bind(key)
    .bind(status)
    .bind(serde_json::to_value(&progress.messages)?)
    .bind(serde_json::to_value(&progress.steps)?)
    .execute(database)
    .await?;
    Ok(())
}

/// Ends what a stopped Platform left running: desired state stands, so nothing is half done, but nobody waits any more.
pub(crate) async fn end_interrupted(database: &PgPool) -> Result<u64> {
    let message =
        super::progress::Message::error("OS-DPL-50301", "the Platform was restarted meanwhile; ask again");
    let done = sqlx::query(
        "update deployments.operations set status = 'FinishedWithError', finished_at = now(), messages = messages || $1 \
         where status = 'Running'",
    )
    .bind(serde_json::to_value([message])?)
    .execute(database)
    .await?;
    Ok(done.rows_affected())
}

/// Forgets operations of a stage that ended longer ago than that, and the builds that belong to none.
pub(crate) async fn forget_operations(
    database: &PgPool,
    organization: &OrganizationId,
    stage: &StageName,
    days: i32,
) -> Result<()> {
    sqlx::query(
        "delete from deployments.operations where organization_id = $1 and stage = $2 and finished_at < now() - make_interval(days => $3)",
    )
    .bind(organization.as_str())
    .bind(stage.as_str())
    .bind(days)
    .execute(database)
    .await?;
    sqlx::query(
        "delete from builds.build_operations b where organization_id = $1 and finished_at < now() - make_interval(days => $2) \
         and not exists (select 1 from deployments.operations o where o.build_key = b.key)",
    )
    .bind(organization.as_str())
    .bind(days)
    .execute(database)
    .await?;
    Ok(())
}

const OPERATION: &str = "select o.key, o.kind, o.asset_key, a.name, o.revision, o.stage, o.build_key, o.status, o.messages, \
    o.steps, o.created_by, o.created_at, o.finished_at, a.kind, count(*) over () \
    from deployments.operations o left join assets.assets a on a.key = o.asset_key";

/// One operation of the organization.
pub(crate) async fn find_operation(
    database: &PgPool,
    organization: &OrganizationId,
    key: Uuid,
) -> Result<Option<StoredOperation>> {
    let sql = format!("{OPERATION} where o.organization_id = $1 and o.key = $2");
    let row = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(organization.as_str())
        .bind(key)
        .fetch_optional(database)
        .await?;
    Ok(row.as_ref().map(operation))
}

/// The organization's operations, newest first.
pub(crate) async fn operations(
    database: &PgPool,
    organization: &OrganizationId,
    publishes: bool,
    (offset, limit): (i64, i64),
) -> Result<(Vec<StoredOperation>, i64)> {
    let sql = format!(
        "{OPERATION} where o.organization_id = $1 and (o.kind = 'Publish') = $2 order by o.created_at desc offset $3 limit $4"
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(organization.as_str())
        .bind(publishes)
        .bind(offset)
        .bind(limit)
        .fetch_all(database)
        .await?;
    if rows.is_empty() && offset > 0 {
        return Ok((Vec::new(), Box::pin(operations(database, organization, publishes, FIRST)).await?.1));
    }
    let total = rows.first().map_or(0, |row| row.get(14));
    Ok((rows.iter().map(operation).collect(), total))
}

fn operation(row: &PgRow) -> StoredOperation {
    StoredOperation {
        key: row.get(0),
        kind: row.get(1),
        asset_key: row.get(2),
        asset_name: row.get(3),
        revision: row.get(4),
        stage: row.get(5),
        build_key: row.get(6),
        status: row.get(7),
        messages: row.get(8),
        steps: row.get(9),
        created_by: row.get(10),
        created_at: row.get(11),
        finished_at: row.get(12),
        asset_kind: row.get(13),
    }
}
