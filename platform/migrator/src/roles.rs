//! Who owns what in a stage's database.
//!
//! Each app has a schema, a NOLOGIN role that owns the tables, and a login role with data rights only. Names
//! are hashes of organization, stage and app, because a role name ends at 63 bytes and a guessable
//! one invites guessing. The login's password is random and kept in `odeon.apps`, which only the admin reads.

use anyhow::Result;
use odeon_protocol::{AppId, Digest, OrganizationId, StageName};
use sqlx::{PgConnection, PgPool, Row as _};

/// Number of hexadecimal digits of a hash in a name.
const HASH_DIGITS: usize = 24;
/// Most statements one login may have waiting at once: a last line behind the host's own budget.
const LOGIN_CONNECTIONS_MAX: u32 = 64;

/// The names that belong to one app in one stage. All are `[a-z0-9_]`, so quoting cannot go wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Names {
    /// Schema of the app's tables.
    pub schema: String,
    /// NOLOGIN role that owns them.
    pub owner: String,
    /// Role the app logs in as.
    pub login: String,
}

impl Names {
    /// The names of an app in a stage.
    pub fn of(organization: &OrganizationId, stage: &StageName, app: &AppId) -> Self {
        let digest = Digest::of(format!("{organization}/{stage}/{app}").as_bytes());
        let hash = &digest.as_str()[..HASH_DIGITS];
        Self {
            schema: format!("app_{hash}"),
            owner: format!("odeon_owner_{hash}"),
            login: format!("odeon_app_{hash}"),
        }
    }
}

/// Makes the migrator's own tables and the collation of texts.
pub async fn prepare(database: &PgPool) -> Result<()> {
    let mut tx = database.begin().await?;
    sqlx::query("select pg_advisory_xact_lock(hashtext('odeon.prepare'))").execute(&mut *tx).await?;
    for statement in [
        "create schema if not exists odeon",
        "create table if not exists odeon.apps (app text primary key, name text not null, schema_name text not null, \
         login text not null, password text not null, epoch integer not null, number bigint not null, \
         revision integer not null, model jsonb not null)",
        // Text compares without case and accents: the rule of docs/oml/language.md, in ICU's words.
        "create collation if not exists public.odeon_text (provider = icu, locale = 'und-u-ks-level1', deterministic = false)",
    ] {
        sqlx::query(statement).execute(&mut *tx).await?;
    }
    tx.commit().await?;
    Ok(())
}

/// Makes the roles and the schema of an app, and returns the login's password.
pub async fn create(tx: &mut PgConnection, names: &Names) -> Result<String> {
    let Names { schema, owner, login } = names;
    let password = Digest::of(&rand::random::<[u8; 32]>()).to_string();
    let exists = "select 1 from pg_roles where rolname = $1";
    // Roles belong to the server, schemas to a database: a restored database may find its roles still there.
    for (role, options) in [
        (owner, "nologin noinherit".to_owned()),
        (login, format!("login noinherit nocreatedb nocreaterole connection limit {LOGIN_CONNECTIONS_MAX}")),
    ] {
        let verb = if sqlx::query(exists).bind(role).fetch_optional(&mut *tx).await?.is_some() {
            "alter"
        } else {
            "create"
        };
        run(tx, format!("{verb} role {role} {options}")).await?;
    }
    for statement in [
        format!("alter role {login} password '{password}'"),
        format!("alter role {login} set search_path = {schema}, public"),
        format!("grant {owner} to current_user"),
        format!("create schema if not exists {schema} authorization {owner}"),
        format!("grant usage on schema {schema} to {login}"),
        format!(
            "alter default privileges for role {owner} in schema {schema} grant select, insert, update, delete on tables to {login}"
        ),
        format!(
            "alter default privileges for role {owner} in schema {schema} grant usage on sequences to {login}"
        ),
    ] {
        run(tx, statement).await?;
    }
    Ok(password)
}

/// Lets an app's login in. The rights on a database are one row of the catalogue, in which two that change it at once would
/// meet; so they take turns, from here until their end, and this comes last in a transaction.
pub(crate) async fn let_in(tx: &mut PgConnection, names: &Names) -> Result<()> {
    let database: String = sqlx::query("select current_database()::text").fetch_one(&mut *tx).await?.get(0);
    sqlx::query("select pg_advisory_xact_lock(hashtext('odeon.connect'))").execute(&mut *tx).await?;
    run(tx, format!("grant connect on database \"{}\" to {}", database.replace('"', "\"\""), names.login))
        .await
}

/// Runs a statement that was put together here, from names that are safe.
pub(crate) async fn run(tx: &mut PgConnection, statement: String) -> Result<()> {
    sqlx::query(sqlx::AssertSqlSafe(statement)).execute(tx).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_differ_by_stage() {
        let (organization, app) =
            ("0b0f8a4e-0000-4000-8000-000000000001", "0b0f8a4e-0000-4000-8000-000000000002");
        let of = |stage: &str| {
            Names::of(&organization.parse().unwrap(), &stage.parse().unwrap(), &app.parse().unwrap())
        };
        let names = of("development");
        assert!(names.owner.len() < 64 && names.login.len() < 64);
        assert_ne!(names.login, of("production").login);
    }
}
