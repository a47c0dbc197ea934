//! What one app reads of another: views in the reader's schema over tables of the other's.
//!
//! A view belongs to the reader's NOLOGIN role, which is granted SELECT on the columns that the view shows and nothing
//! else, so a login still has rights in its own schema only, and a view cannot be written through. Views are made when
//! the reader is migrated, and again when what the other app shows changes; an attribute that the other app does not
//! have is shown as the default of its type. They stay until the reader is undeployed: the revision before may still
//! serve. Rejected: granting the reader's login SELECT on the tables, which shows every column and their names in the
//! database, and survives in the reader's sessions.
//! Invariant: a grant exists only for a view that needs it.

use anyhow::{Context as _, Result};
use odeon_oml::schema::{ForeignTable, PublicTable, Schema};
use odeon_protocol::{AppId, MigrateCommand};
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};

use crate::plan::{default_value, quoted, quoted_literal, sql_type};
use crate::roles::{Names, run};

/// Brings the views of an app in line with what it reads, and those of the apps that read it. `have` and `after` are its
/// schema before and after its migration.
pub(crate) async fn share(
    tx: &mut PgConnection,
    command: &MigrateCommand,
    have: &Schema,
    after: &Schema,
) -> Result<Vec<String>> {
    let mut steps = Vec::new();
    let names = |app: &AppId| Names::of(&command.organization, &command.stage, app);
    let reader = names(&command.app);
    as_admin(tx).await?;
    let reads_otherwise = have.foreign != after.foreign || misses_a_view(tx, &reader, &after.foreign).await?;
    let shows_otherwise = have.public != after.public;
    if !reads_otherwise && !shows_otherwise {
        return Ok(steps);
    }
    // Two migrations that grant on one table would meet in the catalogue.
    sqlx::query("select pg_advisory_xact_lock(hashtext('odeon.share'))").execute(&mut *tx).await?;
    if reads_otherwise {
        drop_views(tx, &reader, &have.foreign).await?;
        for producer in producers(tx, &have.foreign, &after.foreign).await? {
            revoke(tx, &reader, &names(&producer.app)).await?;
            let read = after.foreign.iter().filter(|table| table.app == producer.name);
            for table in read {
                if show(tx, &reader, &names(&producer.app), &producer.public, table).await? {
                    steps.push(format!("reads {}.{}", table.app, table.name));
                }
            }
        }
    }
    if shows_otherwise {
        for (app, foreign) in readers(tx, command).await? {
            let (reader, shown) = (names(&app), names(&command.app));
            drop_views(tx, &reader, &foreign).await?;
            revoke(tx, &reader, &shown).await?;
            for table in &foreign {
                show(tx, &reader, &shown, &after.public, table).await?;
            }
        }
    }
    as_admin(tx).await?;
    Ok(steps)
}

/// An app whose entities are read.
struct Producer {
    app: AppId,
    name: String,
    public: Vec<PublicTable>,
}

/// The apps that are read, before or after, and are there.
async fn producers(
    tx: &mut PgConnection,
    before: &[ForeignTable],
    after: &[ForeignTable],
) -> Result<Vec<Producer>> {
    let mut wanted: Vec<&str> = before.iter().chain(after).map(|table| table.app.as_str()).collect();
    wanted.sort_unstable();
    wanted.dedup();
    as_admin(tx).await?;
    let rows = sqlx::query("select app, name, model from odeon.apps where name = any($1) order by name")
        .bind(wanted)
        .fetch_all(tx)
        .await?;
    let producer = |row: &sqlx::postgres::PgRow| {
        Ok(Producer {
            app: row.get::<String, _>(0).parse().context("the stored app")?,
            name: row.get(1),
            public: row.get::<Json<Schema>, _>(2).0.public,
        })
    };
    rows.iter().map(producer).collect()
}

/// The apps that read the migrated one, and what they read of it.
async fn readers(tx: &mut PgConnection, command: &MigrateCommand) -> Result<Vec<(AppId, Vec<ForeignTable>)>> {
    let name = command.name.as_str();
    as_admin(tx).await?;
    let rows = sqlx::query("select app, model from odeon.apps where model @> $1 order by app")
        .bind(Json(serde_json::json!({ "foreign": [{ "app": name }] })))
        .fetch_all(tx)
        .await?;
    let reader = |row: &sqlx::postgres::PgRow| {
        let mut foreign = row.get::<Json<Schema>, _>(1).0.foreign;
        foreign.retain(|table| table.app == name);
        Ok((row.get::<String, _>(0).parse().context("the stored app")?, foreign))
    };
    rows.iter().map(reader).collect()
}

/// Whether something that could be shown is not: its app came later, or the database was restored.
async fn misses_a_view(tx: &mut PgConnection, reader: &Names, foreign: &[ForeignTable]) -> Result<bool> {
    if foreign.is_empty() {
        return Ok(false);
    }
    let views: Vec<&str> = foreign.iter().map(|table| table.view.as_str()).collect();
    let row = sqlx::query("select count(*) from pg_views where schemaname = $1 and viewname = any($2)")
        .bind(&reader.schema)
        .bind(&views)
        .fetch_one(tx)
        .await?;
    Ok(row.get::<i64, _>(0) < views.len() as i64)
}

async fn drop_views(tx: &mut PgConnection, reader: &Names, foreign: &[ForeignTable]) -> Result<()> {
    run(tx, format!("set local role {}", reader.owner)).await?;
    for table in foreign {
        run(tx, format!("drop view if exists {}.{}", reader.schema, quoted(&table.view))).await?;
    }
    Ok(())
}

async fn revoke(tx: &mut PgConnection, reader: &Names, shown: &Names) -> Result<()> {
    run(tx, format!("set local role {}", shown.owner)).await?;
    run(tx, format!("revoke all on all tables in schema {} from {}", shown.schema, reader.owner)).await?;
    run(tx, format!("revoke usage on schema {} from {}", shown.schema, reader.owner)).await
}

/// Makes a view, where the other app shows the entity, and says whether it does; else a statement that names it says that
/// it is not there.
async fn show(
    tx: &mut PgConnection,
    reader: &Names,
    shown: &Names,
    public: &[PublicTable],
    table: &ForeignTable,
) -> Result<bool> {
    let Some(there) = public.iter().find(|there| there.name == table.name) else { return Ok(false) };
    let mut granted = Vec::new();
    let mut selected = Vec::new();
    for (attribute, column_type) in &table.columns {
        let value = match there.columns.iter().find(|(name, _)| name == attribute) {
            Some((_, column)) => {
                granted.push(quoted(column));
                format!("t.{}", quoted(column))
            }
            None => format!("{}::{}", quoted_literal(default_value(*column_type)), sql_type(*column_type)),
        };
        selected.push(format!("{value} as {}", quoted(attribute)));
    }
    let base = format!("{}.{}", shown.schema, quoted(&there.table));
    run(tx, format!("set local role {}", shown.owner)).await?;
    run(tx, format!("grant usage on schema {} to {}", shown.schema, reader.owner)).await?;
    run(tx, format!("grant select ({}) on {base} to {}", granted.join(", "), reader.owner)).await?;
    run(tx, format!("set local role {}", reader.owner)).await?;
    let view = format!("{}.{}", reader.schema, quoted(&table.view));
    let only = match &there.only {
        Some((column, values)) => {
            let values: Vec<String> = values.iter().map(|value| quoted_literal(value)).collect();
            format!(" where t.{} collate \"C\" in ({})", quoted(column), values.join(", "))
        }
        None => String::new(),
    };
    run(tx, format!("create view {view} as select {} from {base} t{only}", selected.join(", "))).await?;
    Ok(true)
}

async fn as_admin(tx: &mut PgConnection) -> Result<()> {
    run(tx, "reset role".to_owned()).await
}
