//! Carries out a sealed migration: checks it, plans it, and runs the plan in one transaction under a lock,
//! so that a migrator killed at any step leaves the old schema and nothing else.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use odeon_oml::schema::Schema;
use odeon_protocol::{Generation, MIGRATED_SINCE, MIGRATION_RUNS, MigrateCommand, Refusal, Signed};
use sqlx::types::Json;
use sqlx::{PgConnection, Row as _};
use tracing::info;

use crate::Migrator;
use crate::plan::{Plan, Rows, UniqueIndex, plan};
use crate::roles::{self, Names, run};
use crate::share::share;

/// How long a statement waits for a lock, in milliseconds: longer would make every request behind it wait too.
const LOCK_MS_MAX: u32 = 2_000;
/// How long one statement may run, in milliseconds.
const STATEMENT_MS_MAX: u32 = 30_000;
/// How often a migration is tried that met a lock.
const TRIES_MAX: u32 = 5;
/// Wait between two tries, in milliseconds.
const PAUSE_MS: u64 = 300;
/// PostgreSQL: a lock was not available in time, deadlock, serialization failure.
const TRY_AGAIN: [&str; 3] = ["55P03", "40P01", "40001"];
/// PostgreSQL: rows are equal that must not be.
const UNIQUE: &str = "23505";

/// What was done, and what could not be as the model says, in words.
pub(crate) struct Migrated {
    pub(crate) steps: Vec<String>,
    pub(crate) warnings: Vec<String>,
}

/// Does what the sealed command in `payload` asks for, and says what was done.
pub(crate) async fn migrate(migrator: &Migrator, payload: &[u8]) -> Result<Migrated> {
    let sealed: Signed<MigrateCommand> = serde_json::from_slice(payload)
        .map_err(|error| Refusal::new("OS-MIG-40001", format!("not a sealed migration: {error}")))?;
    let command =
        sealed.open(&migrator.trusted).map_err(|error| Refusal::new("OS-MIG-40301", error.to_string()))?;
    let here = &migrator.settings;
    if command.stage != here.stage || command.organization != here.organization {
        bail!(Refusal::new(
            "OS-MIG-40302",
            format!("this migration is meant for stage {}, not {}", command.stage, here.stage)
        ));
    }
    let want: Schema = match &command.schema {
        Some(schema) => serde_json::from_value(schema.clone())
            .map_err(|error| Refusal::new("OS-MIG-40002", format!("the schema cannot be read: {error}")))?,
        None => Schema::default(),
    };
    for _ in 1..TRIES_MAX {
        match attempt(migrator, &command, &want).await {
            Err(error) if meets_lock(&error) => tokio::time::sleep(Duration::from_millis(PAUSE_MS)).await,
            done => return done,
        }
    }
    match attempt(migrator, &command, &want).await {
        Err(error) if meets_lock(&error) => bail!(Refusal::new(
            "OS-DPL-40911",
            format!(
                "the tables of `{}` were locked in {TRIES_MAX} tries; nothing was changed. Deploy again when long transactions have ended",
                command.name
            ),
        )),
        done => done,
    }
}

async fn attempt(migrator: &Migrator, command: &MigrateCommand, want: &Schema) -> Result<Migrated> {
    let names = Names::of(&command.organization, &command.stage, &command.app);
    let mut tx = migrator.database.begin().await.context("begin a migration")?;
    run(&mut tx, format!("set local lock_timeout = {LOCK_MS_MAX}")).await?;
    run(&mut tx, format!("set local statement_timeout = {STATEMENT_MS_MAX}")).await?;
    // Nobody waits for a migration that runs: it may take longer than whoever asks waits for an answer.
    let lock = sqlx::query("select pg_try_advisory_xact_lock(hashtext($1))").bind(command.app.as_str());
    if !lock.fetch_one(&mut *tx).await?.get::<bool, _>(0) {
        let text = format!(
            "a migration of `{}` still runs in {}; deploy again when it has ended",
            command.name, command.stage
        );
        bail!(Refusal::new(MIGRATION_RUNS, text));
    }
    let row = sqlx::query("select epoch, number, model from odeon.apps where app = $1")
        .bind(command.app.as_str())
        .fetch_optional(&mut *tx)
        .await?;
    let (have, is_new) = match row {
        Some(row) => {
            let last = Generation {
                epoch: u32::try_from(row.get::<i32, _>(0))?,
                number: u64::try_from(row.get::<i64, _>(1))?,
            };
            if command.generation < last {
                let text = format!(
                    "generation {} is older than {last}, which was migrated already",
                    command.generation
                );
                bail!(Refusal::new(MIGRATED_SINCE, text));
            }
            (row.get::<Json<Schema>, _>(2).0, false)
        }
        None => (Schema::default(), true),
    };
    let rows = if command.goes_back { Rows::MayNotFit } else { Rows::Fit };
    let Plan { statements, where_rows_fit, mut steps, mut after } = match command.undeploys {
        true => Plan { after: Schema { foreign: Vec::new(), ..have.clone() }, ..Plan::default() },
        false => plan(&have, want, rows)?,
    };
    if is_new {
        let password = roles::create(&mut tx, &names).await.context("create the roles of an app")?;
        sqlx::query("insert into odeon.apps (app, name, schema_name, login, password, epoch, number, revision, model) values ($1, $2, $3, $4, $5, 0, 0, 0, '{\"tables\":[]}')")
            .bind(command.app.as_str())
            .bind(command.name.as_str())
            .bind(&names.schema)
            .bind(&names.login)
            .bind(password)
            .execute(&mut *tx)
            .await?;
    }
    run_as_owner(&mut tx, &names, statements).await?;
    let mut warnings = Vec::new();
    for index in where_rows_fit {
        match make_where_rows_fit(&mut tx, &index).await? {
            true => steps.push(format!("created unique index {}", index.name)),
            false => {
                if let Some(table) = after.tables.iter_mut().find(|table| table.name == index.table) {
                    table.indexes.retain(|kept| kept.name != index.name);
                }
                warnings.push(format!(
                    "rows of entity {} that were written since are equal in what index {} says is unique; it is left out",
                    index.table, index.name
                ));
            }
        }
    }
    steps.extend(share(&mut tx, command, &have, &after).await?);
    sqlx::query(
        "update odeon.apps set name = $2, epoch = $3, number = $4, revision = $5, model = $6 where app = $1",
    )
    .bind(command.app.as_str())
    .bind(command.name.as_str())
    .bind(i32::try_from(command.generation.epoch)?)
    .bind(i64::try_from(command.generation.number)?)
    .bind(i32::try_from(command.revision.0)?)
    .bind(Json(&after))
    .execute(&mut *tx)
    .await?;
    if is_new {
        roles::let_in(&mut tx, &names).await.context("let an app in")?;
    }
    tx.commit().await.context("commit a migration")?;
    info!(app = %command.app, revision = %command.revision, steps = steps.len(), "migrated");
    Ok(Migrated { steps, warnings })
}

/// Tables belong to the app's NOLOGIN role: it, not the admin, runs the statements.
async fn run_as_owner(tx: &mut PgConnection, names: &Names, statements: Vec<String>) -> Result<()> {
    run(tx, format!("set local role {}", names.owner)).await?;
    run(tx, format!("set local search_path = {}, public", names.schema)).await?;
    for statement in statements {
        run(tx, statement.clone()).await.map_err(|error| data_refusal(error, &statement))?;
    }
    Ok(())
}

/// False, and nothing happened, where rows do not fit.
async fn make_where_rows_fit(tx: &mut PgConnection, index: &UniqueIndex) -> Result<bool> {
    run(tx, "savepoint unique_index".to_owned()).await?;
    match run(tx, index.statement.clone()).await {
        Ok(()) => run(tx, "release savepoint unique_index".to_owned()).await.map(|()| true),
        Err(error) if has_code(&error, &[UNIQUE]) => {
            run(tx, "rollback to savepoint unique_index".to_owned()).await.map(|()| false)
        }
        Err(error) => Err(data_refusal(error, &index.statement)),
    }
}

/// Data that stand in the way, or are too many, are the user's to deal with; anything else is ours.
fn data_refusal(error: anyhow::Error, statement: &str) -> anyhow::Error {
    const REFERENCE: &str = "23503";
    const TOOK_TOO_LONG: &str = "57014";
    let told = error.downcast_ref::<sqlx::Error>().and_then(sqlx::Error::as_database_error);
    let code = told.and_then(|told| told.code()).unwrap_or_default();
    let refusal = match (code.as_ref(), told) {
        (UNIQUE | REFERENCE, Some(told)) => {
            let text = format!(
                "the rows in the database do not fit the new model: {} (while running: {statement}). Nothing was changed",
                told.message()
            );
            Refusal::new("OS-DPL-40912", text)
        }
        (TOOK_TOO_LONG, _) => {
            let seconds = STATEMENT_MS_MAX / 1_000;
            let text = format!(
                "a statement takes longer than the {seconds} s that it may, for the rows that there are: {statement}. Nothing was changed"
            );
            Refusal::new("OS-DPL-40913", text)
        }
        _ => return error.context(format!("run: {statement}")),
    };
    refusal.into()
}

fn meets_lock(error: &anyhow::Error) -> bool {
    has_code(error, &TRY_AGAIN)
}

fn has_code(error: &anyhow::Error, codes: &[&str]) -> bool {
    let code =
        error.chain().find_map(|cause| cause.downcast_ref::<sqlx::Error>()?.as_database_error()?.code());
    code.is_some_and(|code| codes.contains(&code.as_ref()))
}
