//! Takes from PUBLIC what a stage's database gives everyone: run by a superuser, before apps come, and again when there is more
//! to take. Whoever adds a statement raises `HARDENING` of platform/cli/src/up/stages.rs.
//!
//! An app speaks SQL freely inside its own schema. What remains are the functions and rights that reach
//! beyond it: connecting elsewhere, temporary tables, locks and settings shared by a server, large objects; and blocks of
//! statements, which catch what should end them.

use anyhow::{Context as _, Result};
use sqlx::PgPool;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};

/// Statements of one database, in order. `{database}` and `{admin}` are quoted names.
const STATEMENTS: [&str; 8] = [
    "revoke all on database {database} from public",
    "grant all on database {database} to {admin}",
    "revoke create on schema public from public",
    "grant create, usage on schema public to {admin}",
    // Settings and locks that others would feel, and what is behind the views below.
    "do $$ declare f regprocedure; begin \
       for f in select p.oid::regprocedure from pg_proc p join pg_namespace n on n.oid = p.pronamespace \
         where n.nspname = 'pg_catalog' and (p.proname in ('set_config', 'pg_notify', 'pg_sleep', 'pg_sleep_for', 'pg_sleep_until', \
           'pg_cancel_backend', 'pg_terminate_backend', 'query_to_xml', 'database_to_xml', 'schema_to_xml', \
           'pg_stat_get_activity', 'pg_show_all_settings', 'pg_logical_emit_message', 'pg_export_snapshot') \
           or p.proname like 'pg\\_%advisory%' or p.proname like 'lo\\_%' or p.proname in ('loread', 'lowrite')) \
       loop execute format('revoke execute on function %s from public', f); \
            execute format('grant execute on function %s to {admin}', f); end loop; end $$",
    "revoke select on pg_catalog.pg_stat_activity from public",
    "revoke select on pg_catalog.pg_settings from public",
    // A block goes on when it is cancelled, also for a client that is gone; one that is no part of a transaction commits. No
    // role of an app makes functions, and triggers run without this right.
    "revoke usage on language plpgsql from public",
];

/// Hardens the database behind `url`, a superuser's; `admin` is the migrator's role.
pub async fn harden(url: &str, admin: &str) -> Result<()> {
    let options: PgConnectOptions = url.parse().context("understand the database URL")?;
    let database = options.get_database().context("the URL names no database")?.to_owned();
    let pool: PgPool = PgPoolOptions::new()
        .max_connections(1)
        .connect_with(options)
        .await
        .context("connect as superuser")?;
    let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
    for statement in STATEMENTS {
        let sql = statement.replace("{database}", &quoted(&database)).replace("{admin}", &quoted(admin));
        sqlx::query(sqlx::AssertSqlSafe(sql))
            .execute(&pool)
            .await
            .with_context(|| format!("run: {statement}"))?;
    }
    pool.close().await;
    Ok(())
}
