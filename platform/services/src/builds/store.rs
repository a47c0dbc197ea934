//! Build operations in PostgreSQL.

use anyhow::Result;
use chrono::{DateTime, Utc};
use odeon_protocol::{AppId, OrganizationId, Revision};
use serde_json::Value;
use sqlx::{PgPool, Row as _};
use uuid::Uuid;

use crate::deployments::progress::{Message, Progress};

/// A build operation, as told.
pub(crate) struct BuildOperation {
    pub(crate) key: Uuid,
    pub(crate) asset_key: Option<String>,
    pub(crate) revision: Option<i32>,
    pub(crate) status: String,
    pub(crate) messages: Value,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) finished_at: Option<DateTime<Utc>>,
}

/// Notes that a build began.
pub(crate) async fn begin(database: &PgPool, organization: &OrganizationId) -> Result<Uuid> {
    let key = Uuid::now_v7();
    sqlx::query(
        "insert into builds.build_operations (key, organization_id, status) values ($1, $2, 'Running')",
    )
    .bind(key)
    .bind(organization.as_str())
    .execute(database)
    .await?;
    Ok(key)
}

/// Notes how a build ended.
pub(crate) async fn end(
    database: &PgPool,
    key: Uuid,
    built: Option<(&AppId, Revision)>,
    progress: &Progress,
) -> Result<()> {
    sqlx::query(
        "update builds.build_operations set status = $2, asset_key = $3, revision = $4, messages = $5, finished_at = now() \
         where key = $1",
    )
    .bind(key)
    .bind(if built.is_some() { "Finished" } else { "FinishedWithErrors" })
    .bind(built.map(|(app, _)| app.as_str()))
    .bind(built.map(|(_, revision)| i32::try_from(revision.0)).transpose()?)
    .bind(serde_json::to_value(&progress.messages)?)
    .execute(database)
    .await?;
    Ok(())
}

/// Ends what a stopped Platform left running.
pub(crate) async fn end_interrupted(database: &PgPool) -> Result<()> {
    let message = Message::error("OS-DPL-50301", "the Platform was restarted meanwhile; ask again");
    sqlx::query(
        "update builds.build_operations set status = 'FinishedWithErrors', finished_at = now(), messages = messages || $1 \
         where status = 'Running'",
    )
    .bind(serde_json::to_value([message])?)
    .execute(database)
    .await?;
    Ok(())
}

/// One build operation of the organization.
pub(crate) async fn find(
    database: &PgPool,
    organization: &OrganizationId,
    key: Uuid,
) -> Result<Option<BuildOperation>> {
    let row = sqlx::query(
        "select key, asset_key, revision, status, messages, created_at, finished_at from builds.build_operations \
         where organization_id = $1 and key = $2",
    )
    .bind(organization.as_str())
    .bind(key)
    .fetch_optional(database)
    .await?;
    Ok(row.map(|row| BuildOperation {
        key: row.get(0),
        asset_key: row.get(1),
        revision: row.get(2),
        status: row.get(3),
        messages: row.get(4),
        created_at: row.get(5),
        finished_at: row.get(6),
    }))
}
