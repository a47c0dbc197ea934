//! What stages set, in PostgreSQL: values of settings, and how timers run.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use chrono::{DateTime, Utc};
use odeon_protocol::secrets::Secret;
use odeon_protocol::{AppId, OrganizationId, SettingValue, StageName};
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Row as _};

/// A value to set, or none to go back to the default.
pub(crate) type Change = (String, Option<SettingValue>);

/// What one operation changes.
pub(crate) enum Changes {
    Settings(Vec<Change>),
    Timer(TimerOverride),
}

/// What a stage says of a timer, instead of the revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TimerOverride {
    pub(crate) name: String,
    /// Cron pattern of five fields, in UTC.
    pub(crate) schedule: Option<String>,
    pub(crate) timeout_minutes: Option<u32>,
    /// Since when it does not run by itself.
    pub(crate) deactivated_at: Option<DateTime<Utc>>,
}

impl TimerOverride {
    /// Whether it says nothing.
    pub(crate) fn is_empty(&self) -> bool {
        self.schedule.is_none() && self.timeout_minutes.is_none() && self.deactivated_at.is_none()
    }
}

/// All values of an app in a stage.
pub(crate) async fn of(
    database: &PgPool,
    app: &AppId,
    stage: &StageName,
) -> Result<BTreeMap<String, SettingValue>> {
    let rows = sqlx::query(
        "select name, value, secret from configurations.settings where asset_key = $1 and stage = $2",
    )
    .bind(app.as_str())
    .bind(stage.as_str())
    .fetch_all(database)
    .await?;
    rows.iter()
        .map(|row| {
            let plain = row.get::<Option<String>, _>(1).map(SettingValue::Plain);
            let secret = row.get::<Option<String>, _>(2).map(Secret::from_text).map(SettingValue::Secret);
            Ok((row.get(0), plain.or(secret).context("a setting without a value")?))
        })
        .collect()
}

/// What a stage says of an app's timers, by their names.
pub(crate) async fn timers(
    database: &PgPool,
    app: &AppId,
    stage: &StageName,
) -> Result<BTreeMap<String, TimerOverride>> {
    let rows = sqlx::query(
        "select name, schedule, timeout_minutes, deactivated_at from configurations.timers where asset_key = $1 and stage = $2",
    )
    .bind(app.as_str())
    .bind(stage.as_str())
    .fetch_all(database)
    .await?;
    let timer = |row: &PgRow| {
        let name: String = row.get(0);
        let timeout_minutes = row.get::<Option<i32>, _>(2).map(u32::try_from).transpose()?;
        let (schedule, deactivated_at) = (row.get(1), row.get(3));
        Ok((name.clone(), TimerOverride { name, schedule, timeout_minutes, deactivated_at }))
    };
    rows.iter().map(timer).collect()
}

/// Writes changes, all or none.
pub(crate) async fn save(
    database: &PgPool,
    place: (&OrganizationId, &AppId, &StageName),
    actor: &str,
    changes: &Changes,
) -> Result<()> {
    match changes {
        Changes::Settings(changes) => save_settings(database, place, actor, changes).await,
        Changes::Timer(timer) => save_timer(database, place, actor, timer).await,
    }
}

async fn save_timer(
    database: &PgPool,
    (organization, app, stage): (&OrganizationId, &AppId, &StageName),
    actor: &str,
    timer: &TimerOverride,
) -> Result<()> {
    sqlx::query(
        "insert into configurations.timers (organization_id, asset_key, stage, name, schedule, timeout_minutes, deactivated_at, updated_by) \
         values ($1, $2, $3, $4, $5, $6, $7, $8) on conflict (asset_key, stage, name) do update set schedule = excluded.schedule, \
         timeout_minutes = excluded.timeout_minutes, deactivated_at = excluded.deactivated_at, \
         updated_by = excluded.updated_by, updated_at = now()",
    )
    .bind(organization.as_str())
    .bind(app.as_str())
    .bind(stage.as_str())
    .bind(&timer.name)
    .bind(&timer.schedule)
    .bind(timer.timeout_minutes.map(i32::try_from).transpose()?)
    .bind(timer.deactivated_at)
    .bind(actor)
    .execute(database)
    .await?;
    Ok(())
}

async fn save_settings(
    database: &PgPool,
    (organization, app, stage): (&OrganizationId, &AppId, &StageName),
    actor: &str,
    changes: &[Change],
) -> Result<()> {
    let mut tx = database.begin().await?;
    for (name, value) in changes {
        let Some(value) = value else {
            sqlx::query(
                "delete from configurations.settings where asset_key = $1 and stage = $2 and name = $3",
            )
            .bind(app.as_str())
            .bind(stage.as_str())
            .bind(name)
            .execute(&mut *tx)
            .await?;
            continue;
        };
        let (plain, secret) = match value {
            SettingValue::Plain(value) => (Some(value.as_str()), None),
            SettingValue::Secret(secret) => (None, Some(secret.as_text())),
        };
        sqlx::query(
            "insert into configurations.settings (organization_id, asset_key, stage, name, value, secret, updated_by) \
             values ($1, $2, $3, $4, $5, $6, $7) on conflict (asset_key, stage, name) do update set \
             value = excluded.value, secret = excluded.secret, updated_by = excluded.updated_by, updated_at = now()",
        )
        .bind(organization.as_str())
        .bind(app.as_str())
        .bind(stage.as_str())
        .bind(name)
        .bind(plain)
        .bind(secret)
        .bind(actor)
        .execute(&mut *tx)
        .await?;
    }
    tx.commit().await?;
    Ok(())
}
