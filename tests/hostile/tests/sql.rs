//! An app that speaks SQL to the database of others: the ways that we know of out of its own schema, and what the database
//! says to each.
//!
//! The statements go through the session of a request with the login of a real app, as a guest's do. The control runs each
//! as the superuser, where it must work: so it is the defence that refuses, and not a mistake in the statement.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::sync::Arc;

use odeon_capabilities::sql::pool::{Login, Logins, Pools};
use odeon_capabilities::sql::session::Session;
use odeon_capabilities::sql::{Error, Value, said};
use odeon_hostile::Beside;
use odeon_tests::Installation;

/// The same login for everybody.
#[derive(Clone)]
struct One(Login);

impl Logins for One {
    async fn login(&self, _app: &str) -> Result<Login, String> {
        Ok(self.0.clone())
    }
}

/// A stage with two apps, and what a test knows of it.
struct Stage {
    site: Installation,
    attacker: Login,
    superuser: Login,
    /// Schema of the other app, its login, and the role that owns its tables.
    schema: String,
    login: String,
    owner: String,
}

/// What somebody tries, in these statements one after the other.
struct Attempt {
    what: &'static str,
    statements: Vec<String>,
    /// The superuser can: it fails for want of a right.
    control: bool,
}

impl Stage {
    async fn start() -> Self {
        let site = Installation::start().await;
        site.succeed(&["publish", concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-examples/tax-rules")]);
        site.succeed(&["publish", concat!(env!("CARGO_MANIFEST_DIR"), "/../../guest-examples/orders")]);
        let login = |app: &str| {
            let folder = site.data().join("run/stages/development/development-1/logins");
            let file = fs::read(folder.join(format!("{}.json", site.key_of(app)))).unwrap();
            let login: serde_json::Value = serde_json::from_slice(&file).unwrap();
            let text = |key: &str| login[key].as_str().unwrap().to_owned();
            Login {
                host: text("host"),
                port: u16::try_from(login["port"].as_u64().unwrap()).unwrap(),
                database: text("database"),
                user: text("user"),
                password: text("password"),
            }
        };
        let (victim, attacker) = (login("Expenses"), login("Orders"));
        let password = fs::read_to_string(site.data().join("run/secrets/superuser")).unwrap();
        let superuser = Login { user: "odeon_super".into(), password, ..victim.clone() };
        let session = session(&victim);
        let schema = one(&session, "select current_schema()::text").await;
        let of_schema = "select nspowner::regrole::text from pg_namespace where nspname = current_schema()";
        let owner = one(&session, of_schema).await;
        Self { site, attacker, superuser, schema, login: victim.user, owner }
    }

    fn attempts(&self) -> Vec<Attempt> {
        let (schema, login, owner) = (&self.schema, &self.login, self.owner.trim_matches('"'));
        let table = format!("\"{schema}\".\"Expense\"");
        let one =
            |what, statement: &str| Attempt { what, statements: vec![statement.to_owned()], control: true };
        let without_control = |what, statement: &str| Attempt { control: false, ..one(what, statement) };
        let two = |what, first: String, second: String| Attempt {
            what,
            statements: vec![first, second],
            control: true,
        };
        let read = format!("select count(*) from {table}");
        vec![
            one("read a table", &read),
            one("write a table", &format!("update {table} set \"Amount\" = 0")),
            one("explain what it would read", &format!("explain analyze {read}")),
            one("lock a table", &format!("lock table {table} in share mode")),
            one("empty a table", &format!("truncate {table} cascade")),
            one("drop a table", &format!("drop table {table} cascade")),
            one("take a table", &format!("alter table {table} owner to current_user")),
            one("give itself a right", &format!("grant select on {table} to current_user")),
            one("be the other app", &format!("set role \"{login}\"")),
            one("be the owner of its tables", &format!("set role \"{owner}\"")),
            one("be another session", &format!("set session authorization \"{login}\"")),
            one("be it in a block", &format!("do $$ begin execute 'set role \"{login}\"'; end $$")),
            two("reset the role and read", "reset role".into(), read.clone()),
            two("reset everything and read", "reset all".into(), read.clone()),
            two(
                "turn the search path and read",
                format!("set search_path to \"{schema}\""),
                "select count(*) from \"Expense\"".into(),
            ),
            one("turn it by a function", &format!("select set_config('search_path', '{schema}', false)")),
            without_control("say two statements at once", &format!("select 1; {read}")),
            without_control("copy a table out", &format!("copy {table} to stdout")),
            one("copy to a program", "copy (select 1) to program 'true'"),
            one("copy to a file of the server", "copy (select 1) to '/dev/null'"),
            one("read a file of the server", "select length(pg_read_file('PG_VERSION'))::int8"),
            one("list files of the server", "select count(*) from pg_ls_dir('.')"),
            one("make a large object", "select lo_create(0)::int8"),
            one("read a file as a large object", "select lo_import('PG_VERSION')::int8"),
            one("take an advisory lock", "select pg_advisory_xact_lock(1)::text"),
            one("take one without waiting", "select pg_try_advisory_lock(1)"),
            one("hold the connection", "select pg_sleep(0.01)::text"),
            one("tell everybody", "select pg_notify('odeon', 'x')::text"),
            one("end another session", "select pg_terminate_backend(1)"),
            one("see what others do", "select count(*) from pg_stat_activity"),
            one("see the settings", "select count(*) from pg_settings"),
            one("read passwords", "select count(*) from pg_authid"),
            one("read passwords by their view", "select count(*) from pg_shadow"),
            one("run SQL in SQL", "select query_to_xml('select 1', true, true, '')::text"),
            one("make a temporary table", "create temp table t (a int)"),
            one("make a table where all may see it", "create table public.t (a int)"),
            one("make a schema", "create schema t"),
            one("make a role", "create role t"),
            one("make itself superuser", "alter role current_user superuser"),
            one("join the other app", &format!("grant \"{owner}\" to current_user")),
            one("load a library", "load 'plpgsql'"),
            one(
                "make a language",
                "create function t() returns int language c as '$libdir/plpgsql', 'plpgsql_call_handler'",
            ),
            without_control("make an extension that dials", "create extension dblink"),
            without_control("make a database", "create database t"),
            without_control("change the server", "alter system set work_mem = '1GB'"),
            without_control(
                "subscribe to another server",
                "create subscription t connection 'host=127.0.0.1' publication p",
            ),
            without_control("leave a transaction behind", "prepare transaction 't'"),
            without_control("end the host's transaction", "commit"),
        ]
    }
}

fn session(login: &Login) -> Session {
    Session::new(Arc::new(Pools::new(One(login.clone()), 4)), "app")
}

async fn one(session: &Session, sql: &str) -> String {
    match session.query(sql, Vec::new()).await.unwrap().values.as_slice() {
        [Value::Text(text)] => text.clone(),
        other => panic!("{other:?}"),
    }
}

/// How far somebody gets: the error of the first statement that fails.
async fn attempt(login: &Login, statements: &[String]) -> Result<(), Error> {
    let session = session(login);
    let mut ended = Ok(());
    for statement in statements {
        ended = session.execute_returning(statement, Vec::new()).await.map(drop);
        if ended.is_err() {
            break;
        }
    }
    session.abandon().await; // a superuser's success is undone
    ended
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_reaches_nothing_but_its_own_schema() {
    let stage = Stage::start().await;
    let beside = Beside::start(stage.site.url("development", "/Expenses/rest/Expenses/List"));
    for Attempt { what, statements, control } in stage.attempts() {
        let error = attempt(&stage.attacker, &statements).await.expect_err(what);
        assert!(matches!(error, Error::Denied(_) | Error::Invalid(_)), "{what}: {error:?}");
        if control {
            let able = attempt(&stage.superuser, &statements).await;
            assert!(able.is_ok(), "{what}: the attempt is a mistake: {}", said(&able.unwrap_err()));
            assert!(matches!(error, Error::Denied(_)) || statements.len() > 1, "{what}: {error:?}");
        }
    }
    assert!(beside.stop().await > 0);
}
