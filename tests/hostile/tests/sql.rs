//! An app that speaks SQL to the database of others: the ways that we know of out of its own schema, and what the database
//! says to each.
//!
//! The statements go through the session of a request with the login of a real app, as a guest's do. The control runs each
//! as the superuser, or on a connection without that session, where it must work: so it is the defence that refuses, and
//! not a mistake in the statement.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::sync::Arc;

use odeon_capabilities::sql::pool::{Login, Logins, Pools};
use odeon_capabilities::sql::session::{Database, Session};
use odeon_capabilities::sql::{Error, Value, said};
use odeon_hostile::Beside;
use odeon_tests::{Installation, eventually};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, NoTls};

use Control::{Bare, Own, Superuser};

/// What whoever writes a block of statements is told.
const NO_BLOCKS: &str = "permission denied for language plpgsql";

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
    control: Control,
}

/// Where an attempt succeeds.
enum Control {
    /// As the superuser, in a transaction that is undone: it fails for want of a right.
    Superuser,
    /// The same outside of a transaction; what it does is undone by this.
    Bare(&'static str),
    /// With the app's own login, outside of a session: it has the right, and the session refuses.
    Own(&'static str),
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
        let attempt = |what, statements: &[&str], control| Attempt {
            what,
            statements: statements.iter().map(|statement| (*statement).to_owned()).collect(),
            control,
        };
        let one = |what, statement: &str| attempt(what, &[statement], Superuser);
        let two = |what, first: &str, second: &str| attempt(what, &[first, second], Superuser);
        let bare = |what, statement: &str, undo| attempt(what, &[statement], Bare(undo));
        let own = |what, statement: &str, undo| attempt(what, &[statement], Own(undo));
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
            two("reset the role and read", "reset role", &read),
            two("reset everything and read", "reset all", &read),
            two("be nobody and read", "set local role none", &read),
            two("discard all and read", "deallocate all", &read),
            two(
                "turn the search path and read",
                &format!("set search_path to \"{schema}\""),
                "select count(*) from \"Expense\"",
            ),
            one("turn it by a function", &format!("select set_config('search_path', '{schema}', false)")),
            own("say two statements at once", "select 1; select 2", "select 1"),
            bare("copy a table out", &format!("copy {table} to stdout"), "select 1"),
            own("copy its own rows out", "copy (select 1) to stdout", "select 1"),
            // One that does not read may end before the server has written, and then the attempt is a mistake.
            one("copy to a program", "copy (select 1) to program 'cat > /dev/null'"),
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
            one("make an extension that dials", "create extension dblink"),
            one("make one that reads other servers", "create extension postgres_fdw"),
            one("make one that reads files", "create extension file_fdw"),
            one("make one that is trusted", "create extension hstore"),
            one("make a wrapper for other servers", "create foreign data wrapper t"),
            bare("make a database", "create database t", "drop database t"),
            bare("change the server", "alter system set work_mem = '1GB'", "alter system reset work_mem"),
            bare(
                "subscribe to another server",
                "create subscription t connection 'host=127.0.0.1' publication p with (connect = false)",
                "alter subscription t set (slot_name = none); drop subscription t",
            ),
            one("write what replicas would read", "select pg_logical_emit_message(true, 't', 't')::text"),
            one("see the settings by their function", "select count(*) from pg_show_all_settings()"),
            one("see what others do by its function", "select count(*) from pg_stat_get_activity(null)"),
            one("read the large objects of others", "select count(*) from pg_largeobject"),
            one("look at a file", "select size from pg_stat_file('PG_VERSION')"),
            one("read the logins of all apps", "select count(*) from odeon.apps"),
            one("be another revision", "update odeon.apps set revision = 1"),
            own("end the host's transaction", "commit", "select 1"),
            own(
                "give its role another setting",
                "alter role current_user set work_mem = '1GB'",
                "alter role current_user reset work_mem",
            ),
            one(
                "do it in a block, where no tag tells",
                "do $$ begin alter role current_user set work_mem = '1GB'; end $$",
            ),
        ]
    }
}

fn session(login: &Login) -> Session {
    Session::new(Database::new(Arc::new(Pools::new(One(login.clone()), 4)), "app"))
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
    session.abandon().await;
    ended
}

/// The same without a session: nobody watches, and each statement is permanent at once.
async fn bare(login: &Login) -> Result<Client, tokio_postgres::Error> {
    let mut config = Config::new();
    config.host(&login.host).port(login.port).dbname(&login.database);
    let (client, connection) = config.user(&login.user).password(&login.password).connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_app_reaches_nothing_but_its_own_schema() {
    let stage = Stage::start().await;
    let beside = Beside::start(stage.site.url("development", "/Expenses/rest/Expenses/List"));
    for Attempt { what, statements, control } in stage.attempts() {
        let error = attempt(&stage.attacker, &statements).await.expect_err(what);
        let is_refused =
            matches!(error, Error::Denied(_) | Error::Invalid(_)) || said(&error).starts_with("COPY");
        assert!(is_refused, "{what}: {error:?}");
        let (login, undo) = match control {
            Superuser => {
                assert!(matches!(error, Error::Denied(_)) || statements.len() > 1, "{what}: {error:?}");
                (&stage.superuser, "rollback")
            }
            Bare(undo) => (&stage.superuser, undo),
            Own(undo) => (&stage.attacker, undo),
        };
        let client = bare(login).await.unwrap();
        let first = if undo == "rollback" { "begin" } else { "select 1" };
        for statement in
            [first].into_iter().chain(statements.iter().map(String::as_str)).chain(undo.split("; "))
        {
            // COPY wants somebody to take the rows.
            let done = match statement.ends_with("to stdout") {
                true => client.copy_out(statement).await.map(drop),
                false => client.batch_execute(statement).await,
            };
            done.unwrap_or_else(|error| panic!("{what}: the attempt is a mistake: {statement}: {error:?}"));
        }
    }
    nothing_outlives_a_session(&stage).await;
    a_login_opens_one_door(&stage).await;
    what_is_no_text_is_refused(&stage.attacker).await;
    who_catches_its_cancelling_has_no_more_than_its_share(&stage).await;
    one_statement_takes_little_of_the_server(&stage).await;
    whoever_waits_is_told_in_the_end(stage.attacker.clone()).await;
    assert!(beside.stop().await > 0);
}

/// A statement outside of a transaction is permanent when it has run: there it must not run.
async fn nothing_outlives_a_session(stage: &Stage) {
    const SETTINGS: &str =
        "select array_to_string(rolconfig, ' ') from pg_roles where rolname = current_user";
    const CHANGE: &str = "alter role current_user set work_mem = '1GB'";
    // A block outside of a transaction commits by itself.
    const COMMITS: &str = "do $$ begin set default_transaction_read_only = off; commit; \
        alter role current_user set work_mem = '1GB'; commit; end $$";
    let login = &stage.attacker;
    let before = one(&session(login), SETTINGS).await;
    let here = session(login);
    let error = here.query(CHANGE, Vec::new()).await.expect_err("it is permanent");
    assert!(said(&error).contains("read-only"), "{error:?}");
    // What would let it: the setting is gone with its connection, before the next statement.
    here.query("set default_transaction_read_only = off", Vec::new()).await.unwrap();
    here.query(CHANGE, Vec::new()).await.expect_err("it is permanent after another statement");
    let both =
        "do $$ begin set transaction_read_only = off; alter role current_user set work_mem = '1GB'; end $$";
    here.query(both, Vec::new()).await.expect_err("it is permanent in a block");
    let error = here.query(COMMITS, Vec::new()).await.expect_err("it is permanent in a block that commits");
    assert_eq!(said(&error), NO_BLOCKS); // and not found out when it has run
    // In a transaction it runs, and is undone before the guest could commit.
    here.execute("set session characteristics as transaction read write", Vec::new()).await.unwrap();
    let error = here.execute(CHANGE, Vec::new()).await.expect_err("it would be permanent");
    assert!(matches!(error, Error::Denied(_)), "{error:?}");
    here.commit().await.expect_err("what was undone is not committed");
    here.rollback().await.unwrap();
    here.query(CHANGE, Vec::new()).await.expect_err("nothing of the transaction is left");
    assert_eq!(one(&session(login), SETTINGS).await, before);
    let control = bare(login).await.unwrap();
    control.batch_execute(CHANGE).await.unwrap();
    assert_ne!(one(&session(login), SETTINGS).await, before, "the role may do it, and nobody stopped it");
    control.batch_execute("alter role current_user reset work_mem").await.unwrap();
    let anybody = session(&stage.superuser);
    anybody.query(COMMITS, Vec::new()).await.expect_err("it is found out, and too late");
    assert_eq!(one(&session(&stage.superuser), SETTINGS).await, "work_mem=1GB");
    let control = bare(&stage.superuser).await.unwrap();
    control.batch_execute("alter role current_user reset work_mem").await.unwrap();
}

/// A password is good for one role and one database.
async fn a_login_opens_one_door(stage: &Stage) {
    let mine = &stage.attacker;
    assert!(bare(mine).await.is_ok());
    let of = |user: &str| Login { user: user.to_owned(), ..mine.clone() };
    let into = |database: &str| Login { database: database.to_owned(), ..mine.clone() };
    let others =
        [&stage.login, stage.owner.trim_matches('"'), "odeon_super", "odeon_platform", "stage_development"];
    for (what, login, code) in others.iter().map(|user| (*user, of(user), SqlState::INVALID_PASSWORD)).chain(
        ["platform", "stage_test", "stage_production", "postgres", "template1"]
            .map(|database| (database, into(database), SqlState::INSUFFICIENT_PRIVILEGE)),
    ) {
        let error = bare(&login).await.map(drop).expect_err(what);
        assert_eq!(error.code(), Some(&code), "{what}: {error:?}");
    }
    for database in ["platform", "stage_test", "stage_production", "postgres", "template1"] {
        let control = Login { database: database.to_owned(), ..stage.superuser.clone() };
        assert!(bare(&control).await.is_ok(), "{database} is there");
    }
    // The session of an app says where it goes: no app names a server, a role or a database.
}

/// PostgreSQL takes no NUL in a text; a guest's text is UTF-8 when it comes to a session.
async fn what_is_no_text_is_refused(login: &Login) {
    let session = session(login);
    let error = session.query("select $1::text", vec![Value::Text("a\0b".into())]).await.expect_err("a NUL");
    assert!(matches!(error, Error::Invalid(_)), "{error:?}");
    session.query("select 'a\0b'", Vec::new()).await.expect_err("a NUL in a statement");
    let error = session.query("select convert_from($1, 'UTF8')", vec![Value::Bytes(vec![0xff, 0xfe])]).await;
    assert!(matches!(error, Err(Error::Invalid(_))), "{error:?}");
    let long = format!("select 1 -- {}", "x".repeat(1 << 20));
    let error = session.query(&long, Vec::new()).await.expect_err("a statement of more than 1 MiB");
    assert_eq!(said(&error), format!("a statement may have 1048576 bytes, not {}", long.len()));
    session.query(&long[..1 << 20], Vec::new()).await.expect("a statement of 1 MiB");
    let control = session.query("select $1::text", vec![Value::Text("a\u{ffff}b".into())]).await.unwrap();
    assert!(matches!(control.values.as_slice(), [Value::Text(text)] if text.len() == 5));
}

/// Whether a connection from a local port to the server is open.
fn is_open(port: i32, server: u16) -> bool {
    const ESTABLISHED: &str = "01";
    let (port, server) = (format!(":{port:04X}"), format!(":{server:04X}"));
    let sockets = ["tcp", "tcp6"]
        .map(|kind| std::fs::read_to_string(format!("/proc/self/net/{kind}")).unwrap_or_default());
    sockets.iter().flat_map(|sockets| sockets.lines()).any(|line| {
        let fields: Vec<&str> = line.split_whitespace().collect();
        matches!(fields[..], [_, local, remote, state, ..]
            if local.ends_with(&port) && remote.ends_with(&server) && state == ESTABLISHED)
    })
}

/// Requests begin statements that catch what should end them, and go away: an app has no right to. The connections of one that
/// has, a superuser here, are its own until they are closed, and others have theirs.
async fn who_catches_its_cancelling_has_no_more_than_its_share(stage: &Stage) {
    const STUBBORN: &str = "do $$ begin loop begin perform count(*) from generate_series(1, 1000000000); \
        exception when query_canceled then null; end; end loop; end $$";
    let error = session(&stage.attacker).query(STUBBORN, Vec::new()).await.expect_err("it would never end");
    assert_eq!(said(&error), NO_BLOCKS);
    let pools = Arc::new(Pools::new(One(stage.superuser.clone()), 4)); // one for each app
    let session = |app: &str| Session::new(Database::new(pools.clone(), app));
    let superuser = bare(&stage.superuser).await.unwrap();
    const THERE: &str = "from pg_stat_activity where state = 'active' and query like 'do $$%generate_series%' \
        and usename = current_user"; // the attacker was told no before the server says that it is idle again
    let (count, port_of) = (format!("select count(*) {THERE}"), format!("select client_port {THERE}"));
    let running = async || superuser.query_one(&count, &[]).await.unwrap().get::<_, i64>(0);
    let port = {
        let attacker = session("attacker");
        tokio::select! {
            ended = attacker.query(STUBBORN, Vec::new()) => panic!("it ended: {ended:?}"),
            port = eventually("it runs", async || {
                let port = superuser.query_opt(&port_of, &[]).await.unwrap()?.get::<_, i32>(0);
                is_open(port, stage.superuser.port).then_some(port)
            }) => port,
        }
    };
    session("beside").query("select 1", Vec::new()).await.unwrap();
    // Either it is told that there is none, or it gets the one that was closed meanwhile, whether the server has noticed or not.
    if session("attacker").query("select 1", Vec::new()).await.is_ok() {
        assert!(!is_open(port, stage.superuser.port), "it had two connections");
    }
    eventually("the server has noticed that nobody is there", async || (running().await == 0).then_some(()))
        .await;
    session("attacker").query("select 1", Vec::new()).await.unwrap();
}

/// A sort of what is larger than one process may have, in files and in memory. Others are served beside it.
async fn one_statement_takes_little_of_the_server(stage: &Stage) {
    let sort = |mib: u32| {
        let rows = mib * 32; // of 32 KiB
        format!("select count(distinct repeat(md5(g::text), 1024)) from generate_series(1, {rows}) g")
    };
    let app = session(&stage.attacker);
    let error = app.query(&sort(640), Vec::new()).await.expect_err("files");
    assert!(matches!(&error, Error::Limit(why) if why.contains("temp_file_limit")), "{error:?}");
    app.query("set temp_file_limit = -1", Vec::new()).await.expect_err("it is the superuser's to set");
    app.query(&sort(64), Vec::new()).await.expect("what is smaller is sorted in files");
    let in_memory = async |mib| {
        app.execute("set local work_mem = '2000GB'", Vec::new()).await.unwrap();
        let sorted = app.query(&sort(mib), Vec::new()).await.map(drop);
        app.rollback().await.unwrap();
        sorted
    };
    let error = in_memory(640).await.expect_err("memory");
    assert!(matches!(&error, Error::Unavailable(why) if why == "out of memory"), "{error:?}");
    in_memory(64).await.expect("what is smaller is sorted in memory");
    let superuser = bare(&stage.superuser).await.unwrap();
    superuser.batch_execute("set temp_file_limit = -1").await.unwrap();
    superuser.batch_execute(&sort(640)).await.expect("it is the limit that ended it");
}

/// Long waits, on a clock that goes on as soon as nobody has anything to do.
async fn whoever_waits_is_told_in_the_end(login: Login) {
    const LONG: &str = "select count(*) from generate_series(1, 1000000000000)";
    let waits = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let pools = Arc::new(Pools::new(One(login), 4)); // one for each app
            let (has_one, has_none) = (
                Session::new(Database::new(pools.clone(), "app")),
                Session::new(Database::new(pools, "app")),
            );
            has_one.query("select 1", Vec::new()).await.unwrap();
            tokio::time::pause();
            let late = has_none.query("select 1", Vec::new()).await.unwrap_err();
            (late, has_one.query(LONG, Vec::new()).await.unwrap_err())
        })
    };
    let (late, endless) = tokio::task::spawn_blocking(waits).await.unwrap();
    assert_eq!(said(&late), "limit: no database connection was free within 5 s");
    assert_eq!(said(&endless), "a statement may run for 30 s");
}
