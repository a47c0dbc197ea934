//! What one app reads of another: views in the reader's schema over tables of the other's.
//!
//! A view belongs to the reader's NOLOGIN role, which is granted SELECT on the columns that the view shows and nothing
//! else, so a login still has rights in its own schema only, and a view cannot be written through. Views are made when
//! the reader is migrated, and again when what the other app shows changes; an attribute that the other app does not
//! have is shown as the default of its type, and what the other app may leave empty is NULL for identifiers only. They stay until the reader is undeployed: the revision before may still
//! serve. Rejected: granting the reader's login SELECT on the tables, which shows every column and their names in the
//! database, and survives in the reader's sessions.
//! Invariant: a grant exists only for a view that needs it.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result};
use odeon_oml::schema::{ColumnType, ForeignTable, PublicTable, Schema};
use odeon_protocol::{AppId, MigrateCommand};
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};

use crate::plan::{default_value, quoted, quoted_literal, sql_type};
use crate::roles::{Names, run};

/// The columns of which a view has to say what stands for NULL.
fn may_be_null(schema: &Schema) -> BTreeSet<(&str, &str)> {
    let all = schema.tables.iter().flat_map(|table| table.columns.iter().map(move |column| (table, column)));
    let nullable = all.filter(|(_, column)| column.nullable);
    nullable.map(|(table, column)| (table.name.as_str(), column.name.as_str())).collect()
}

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
    let shows_otherwise = have.public != after.public || may_be_null(have) != may_be_null(after);
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
                if show(tx, &reader, &names(&producer.app), &producer.schema, table).await? {
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
                show(tx, &reader, &shown, after, table).await?;
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
    schema: Schema,
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
            schema: row.get::<Json<Schema>, _>(2).0,
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
    schema: &Schema,
    table: &ForeignTable,
) -> Result<bool> {
    let Some(there) = schema.public.iter().find(|there| there.name == table.name) else { return Ok(false) };
    let (granted, selected) = columns(schema, there, table);
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

/// The columns that a view reads, and what it selects. There is no NULL to the reader but in identifiers: one of an
/// entity that it does not see is a number to it.
fn columns(schema: &Schema, there: &PublicTable, table: &ForeignTable) -> (Vec<String>, Vec<String>) {
    let (mut granted, mut selected) = (Vec::new(), Vec::new());
    let stored = schema.tables.iter().find(|stored| stored.name == there.table);
    for (attribute, column_type) in &table.columns {
        let is_identifier = table.identifiers.as_ref().is_some_and(|all| all.contains(attribute));
        let value = match there.columns.iter().find(|(name, _)| name == attribute) {
            Some((_, name)) => {
                granted.push(quoted(name));
                let column = stored.and_then(|stored| stored.columns.iter().find(|c| c.name == *name));
                match column.filter(|column| column.nullable) {
                    Some(column) if table.identifiers.is_some() && !is_identifier => {
                        format!("coalesce(t.{}, {})", quoted(name), default_of(column.column_type))
                    }
                    Some(_) | None => format!("t.{}", quoted(name)),
                }
            }
            None if is_identifier => format!("null::{}", sql_type(*column_type)),
            None => default_of(*column_type),
        };
        selected.push(format!("{value} as {}", quoted(attribute)));
    }
    (granted, selected)
}

fn default_of(column_type: ColumnType) -> String {
    format!("{}::{}", quoted_literal(default_value(column_type)), sql_type(column_type))
}

async fn as_admin(tx: &mut PgConnection) -> Result<()> {
    run(tx, "reset role".to_owned()).await
}

#[cfg(test)]
mod tests {
    use odeon_oml::schema::{Column, Table};

    use super::*;

    #[test]
    fn only_what_is_an_identifier_to_the_reader_is_null() {
        let column = |name: &str, nullable| Column {
            name: name.to_owned(),
            column_type: ColumnType::LongInteger,
            nullable,
            default: None,
            auto_number: false,
        };
        let columns_there = vec![column("Id", false), column("Open", true), column("Own", true)];
        let shown = columns_there.iter().map(|column| (column.name.clone(), column.name.clone())).collect();
        let there = PublicTable { name: "T".into(), table: "T".into(), columns: shown, only: None };
        let stored = Table { name: "T".into(), columns: columns_there, ..Table::default() };
        let schema = Schema { tables: vec![stored], ..Schema::default() };
        let names = ["Id", "Open", "Own", "Gone", "Lost"];
        let mut table = ForeignTable {
            columns: names.map(|name| (name.to_owned(), ColumnType::LongInteger)).to_vec(),
            identifiers: Some(["Id", "Open", "Gone"].map(str::to_owned).to_vec()),
            ..ForeignTable::default()
        };
        let (granted, selected) = columns(&schema, &there, &table);
        assert_eq!(granted, [r#""Id""#, r#""Open""#, r#""Own""#]);
        assert_eq!(
            selected,
            [
                r#"t."Id" as "Id""#,
                r#"t."Open" as "Open""#,
                r#"coalesce(t."Own", '0'::bigint) as "Own""#,
                r#"null::bigint as "Gone""#,
                r#"'0'::bigint as "Lost""#,
            ]
        );
        // A schema that does not say it is shown as it was.
        table.identifiers = None;
        let (_, selected) = columns(&schema, &there, &table);
        assert_eq!(selected[2..4], [r#"t."Own" as "Own""#, r#"'0'::bigint as "Gone""#]);
    }
}
