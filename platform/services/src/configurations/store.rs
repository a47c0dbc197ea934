//! The values that stages set, in PostgreSQL.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result};
use odeon_protocol::secrets::Secret;
use odeon_protocol::{AppId, OrganizationId, SettingValue, StageName};
use sqlx::{PgPool, Row as _};

/// A value to set, or none to go back to the default.
pub(crate) type Change = (String, Option<SettingValue>);

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

/// Writes changes, all or none.
pub(crate) async fn save(
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
