//! `odeon:sql` against a real PostgreSQL, with the login of a real app: what a request may do with its database,
//! and what it leaves behind for the next one.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use odeon_capabilities::sql::pool::{Login, Logins, Pools};
use odeon_capabilities::sql::session::{Database, Session};
use odeon_capabilities::sql::{Error, Value, said};
use odeon_engine::scheduler::Cpu;
use odeon_engine::{CpuShare, Engine, Memory, Payer};
use odeon_tests::{Installation, eventually};

/// Every app gets the login of the sample app.
#[derive(Clone)]
struct SampleLogin(Login);

impl Logins for SampleLogin {
    async fn login(&self, _app: &str) -> Result<Login, String> {
        Ok(self.0.clone())
    }
}

struct Postgres {
    site: Installation,
    login: SampleLogin,
}

impl Postgres {
    async fn start() -> Self {
        let site = Installation::start().await;
        let app = site.key_of("Expenses");
        let file = site.data().join(format!("run/stages/development/development-1/logins/{app}.json"));
        let login: serde_json::Value = serde_json::from_slice(&fs::read(file).unwrap()).unwrap();
        let text = |key: &str| login[key].as_str().unwrap().to_owned();
        let (host, port) = (text("host"), u16::try_from(login["port"].as_u64().unwrap()).unwrap());
        let login =
            Login { host, port, database: text("database"), user: text("user"), password: text("password") };
        Self { site, login: SampleLogin(login) }
    }

    fn pools(&self, connections_max: usize) -> Arc<Pools<SampleLogin>> {
        Arc::new(Pools::new(self.login.clone(), connections_max))
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_has_its_database_for_itself() {
    let database = Postgres::start().await;
    a_transaction_is_seen_when_it_is_committed(&database).await;
    a_statement_that_failed_fails_the_transaction(&database).await;
    a_lost_transaction_is_told_until_it_is_rolled_back(&database).await;
    a_transaction_is_lost_to_a_statement_without_end(&database).await;
    a_session_that_was_changed_is_not_inherited(&database).await;
    what_is_too_large_is_refused(&database).await;
    rows_are_memory_of_the_app(&database).await;
    whoever_waits_gets_the_next_connection(&database).await;
    a_query_ends_with_its_request(&database).await;
    the_app_pays_for_its_rows(&database).await;
    what_the_server_tells_an_app_is_not_logged(&database).await;
}

const INSERT: &str =
    "insert into \"Expense\" (\"Description\", \"Amount\", \"CategoryId\") values ($1, $2, 1)";
const COUNT: &str = "select count(*) from \"Expense\" where \"Description\" = $1";

fn text(value: &str) -> Value {
    Value::Text(value.to_owned())
}

async fn count(session: &Session, description: &str) -> i64 {
    match session.query(COUNT, vec![text(description)]).await.unwrap().values.as_slice() {
        [Value::Int64(count)] => *count,
        other => panic!("{other:?}"),
    }
}

async fn backend(session: &Session) -> String {
    let rows = session.query("select pg_backend_pid()::text", Vec::new()).await.unwrap();
    format!("{:?}", rows.values)
}

async fn a_transaction_is_seen_when_it_is_committed(database: &Postgres) {
    let pools = database.pools(8);
    let (writer, reader) =
        (Session::new(Database::new(pools.clone(), "app")), Session::new(Database::new(pools, "app")));
    let row = || vec![text("pen"), Value::Decimal("1.5".into())];
    assert_eq!(writer.execute(INSERT, row()).await.unwrap(), 1);
    assert_eq!((count(&writer, "pen").await, count(&reader, "pen").await), (1, 0));
    writer.rollback().await.unwrap();
    assert_eq!(count(&writer, "pen").await, 0);
    writer.execute(INSERT, row()).await.unwrap();
    writer.commit().await.unwrap();
    assert_eq!(count(&reader, "pen").await, 1);
    writer.execute(INSERT, row()).await.unwrap();
    writer.abandon().await; // its guest trapped
    assert_eq!(count(&reader, "pen").await, 1);
}

/// Only the connection is charged here: what reads from it is no guest.
async fn the_app_pays_for_its_rows(database: &Postgres) {
    let cpu = Arc::new(Cpu::new(CpuShare { millicores: 250, burst_ms: None }));
    let engine = Engine::for_compiling().unwrap();
    let payer = Payer::new(engine.scheduler().clone(), cpu.clone());
    let session = Session::new(Database::new(database.pools(8), "app").paid_by(payer));
    count(&session, "pen").await;
    let for_one_row = cpu.used_ns();
    assert!(for_one_row > 0);
    session.query("select repeat('x', 1000) from generate_series(1, 1000)", Vec::new()).await.unwrap();
    assert!(cpu.used_ns() > for_one_row);
}

/// What this process logs.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A statement has the server say as many notices as it likes, of names that are too long for example.
async fn what_the_server_tells_an_app_is_not_logged(database: &Postgres) {
    let log = Log::default();
    let writer = log.clone();
    tracing_subscriber::fmt().with_writer(move || writer.clone()).init();
    let statement = |who: &str| format!("select 1 as {who}_{}", "x".repeat(64));
    let session = Session::new(Database::new(database.pools(8), "app"));
    session.query(&statement("of_an_app"), Vec::new()).await.unwrap();
    let control = database.site.database("stage_development").await;
    control.batch_execute(&statement("of_nobody")).await.unwrap();
    let logged = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    assert!(logged.contains("of_nobody") && !logged.contains("of_an_app"), "{logged}");
}

async fn a_statement_that_failed_fails_the_transaction(database: &Postgres) {
    let session = Session::new(Database::new(database.pools(8), "app"));
    session.execute(INSERT, vec![text("ink"), Value::Decimal("1".into())]).await.unwrap();
    let error = session.execute("insert into \"Expense\" (\"Amount\") values ('x'::text)", Vec::new()).await;
    assert!(matches!(error, Err(Error::Invalid(_))), "{error:?}");
    let error = session.commit().await;
    assert!(matches!(&error, Err(Error::Conflict(text)) if text.contains("rolled back")), "{error:?}");
    assert_eq!(count(&session, "ink").await, 0);
    for (sql, params, expect) in [
        ("select $1::text", Vec::new(), "the statement has 1 parameters, and 0 were given"),
        ("selekt", Vec::new(), "syntax error"),
    ] {
        let error = session.query(sql, params).await;
        assert!(matches!(&error, Err(Error::Invalid(text)) if text.contains(expect)), "{sql}: {error:?}");
    }
}

/// A guest may catch the error of a statement that lost it its connection, and go on as if nothing had happened.
async fn a_lost_transaction_is_told_until_it_is_rolled_back(database: &Postgres) {
    let pools = database.pools(8);
    let row = |what: &str| vec![text(what), Value::Decimal("1".into())];
    for loses in ["rollback", "alter role current_user set work_mem = '1MB'"] {
        let session = Session::new(Database::new(pools.clone(), "app"));
        session.execute(INSERT, row("lost")).await.unwrap();
        let why = session.query(loses, Vec::new()).await.expect_err(loses);
        let ends = [
            session.execute(INSERT, row("half")).await.map(drop),
            session.query("select 1", Vec::new()).await.map(drop),
            session.commit().await,
            session.settle().await,
            session.commit().await,
        ];
        for (at, end) in ends.into_iter().enumerate() {
            let error = end.expect_err(loses);
            assert_eq!(said(&error), said(&why), "{loses}: call {at}");
        }
        session.rollback().await.unwrap();
        session.execute(INSERT, row("found")).await.unwrap();
        session.commit().await.unwrap();
        session.release().await;
    }
    let session = Session::new(Database::new(pools.clone(), "app"));
    session.execute(INSERT, row("lost")).await.unwrap();
    session.abandon().await; // its guest trapped, with an answer on its way
    let error = session.commit().await;
    assert!(matches!(error, Err(Error::Unavailable(_))), "{error:?}");
    let reader = Session::new(Database::new(pools, "app"));
    for (what, rows) in [("lost", 0), ("half", 0), ("found", 2)] {
        assert_eq!(count(&reader, what).await, rows, "{what}");
    }
}

/// The same for the limit of a statement, on a clock that goes on as soon as nobody has anything to do.
async fn a_transaction_is_lost_to_a_statement_without_end(database: &Postgres) {
    let pools = database.pools(8);
    let ends = move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let session = Session::new(Database::new(pools, "app"));
            session.execute(INSERT, vec![text("late"), Value::Decimal("1".into())]).await.unwrap();
            tokio::time::pause();
            let endless = "select count(*) from generate_series(1, 1000000000000)";
            let ended = session.query(endless, Vec::new()).await.map(drop);
            [ended, session.commit().await]
        })
    };
    for end in tokio::task::spawn_blocking(ends).await.unwrap() {
        assert_eq!(said(&end.unwrap_err()), "a statement may run for 30 s");
    }
    assert_eq!(count(&Session::new(Database::new(database.pools(8), "app")), "late").await, 0);
}

async fn a_session_that_was_changed_is_not_inherited(database: &Postgres) {
    let pools = database.pools(8);
    let session = Session::new(Database::new(pools.clone(), "app"));
    let before = backend(&session).await;
    session.release().await;
    assert_eq!(backend(&session).await, before, "an untouched connection is used again");
    session.query("set statement_timeout = 1", Vec::new()).await.unwrap();
    session.release().await;
    let fresh = Session::new(Database::new(pools, "app"));
    assert_ne!(backend(&fresh).await, before);
    // Transactions are the host's.
    let was = backend(&fresh).await;
    let error = fresh.query("begin", Vec::new()).await;
    assert!(
        matches!(&error, Err(Error::Invalid(text)) if text.contains("transactions are the host's")),
        "{error:?}"
    );
    assert_ne!(backend(&fresh).await, was);
    // Also where the server begins another one at once.
    fresh.execute(INSERT, vec![text("chained"), Value::Decimal("1".into())]).await.unwrap();
    let error = fresh.query("commit and chain", Vec::new()).await;
    assert!(
        matches!(&error, Err(Error::Invalid(text)) if text.contains("transactions are the host's")),
        "{error:?}"
    );
    fresh.rollback().await.unwrap();
    assert_ne!(backend(&fresh).await, was);
}

async fn what_is_too_large_is_refused(database: &Postgres) {
    let session = Session::new(Database::new(database.pools(8), "app"));
    let error = session.query("select repeat('x', 17 * 1024 * 1024)", Vec::new()).await;
    assert!(
        matches!(&error, Err(Error::Limit(text)) if text.contains("a row may have 16777216 bytes")),
        "{error:?}"
    );
    session.release().await;
    let error = session.query("select generate_series(1, 100001)", Vec::new()).await;
    assert!(matches!(&error, Err(Error::Limit(text)) if text.contains("100000 rows")), "{error:?}");
    let rows = session.query("select 1", Vec::new()).await.unwrap();
    assert!(matches!(rows.values.as_slice(), [Value::Int32(1)]), "the connection is still good");
}

/// Until the next statement: the guest is given rows after the session has them.
async fn rows_are_memory_of_the_app(database: &Postgres) {
    let memory = Memory::new(1 << 20);
    let session = Session::new(Database::new(database.pools(8), "app").within(memory.clone()));
    let rows = async |count: u32| {
        let sql = format!("select repeat('x', 1000) from generate_series(1, {count})");
        session.query(&sql, Vec::new()).await
    };
    for count in [600, 600] {
        rows(count).await.unwrap();
        assert!((600_000..1 << 20).contains(&memory.held()), "{}", memory.held());
    }
    let refused = rows(2_000).await;
    assert!(matches!(&refused, Err(Error::Limit(why)) if why.contains("no room")), "{refused:?}");
    assert_eq!(memory.held(), 0);
    rows(600).await.unwrap();
    session.release().await;
    assert_eq!(memory.held(), 0);
}

async fn whoever_waits_gets_the_next_connection(database: &Postgres) {
    // A share of one connection: the second request of the app waits for the first.
    let pools = database.pools(4);
    let (first, second) = (
        Session::new(Database::new(pools.clone(), "app")),
        Session::new(Database::new(pools.clone(), "app")),
    );
    let used = backend(&first).await;
    let waiting = tokio::spawn(async move { backend(&second).await });
    assert!(!waiting.is_finished());
    first.release().await;
    assert_eq!(waiting.await.unwrap(), used, "the connection went to whoever waited");

    // A budget of one: what one app has idle is closed for another, and what it gives back, too.
    let pools = database.pools(1);
    for app in ["one", "other", "third"] {
        let session = Session::new(Database::new(pools.clone(), app));
        backend(&session).await;
        session.release().await;
    }
    let holder = Session::new(Database::new(pools.clone(), "one"));
    backend(&holder).await;
    let waiting = tokio::spawn(async move { backend(&Session::new(Database::new(pools, "other"))).await });
    eventually("the other app waits, and gets its turn", async || {
        holder.release().await;
        waiting.is_finished().then_some(())
    })
    .await;
    waiting.await.unwrap();
}

async fn a_query_ends_with_its_request(database: &Postgres) {
    let pools = database.pools(16);
    let endless = "select count(*) /* endless */ from generate_series(1, 100000000000)";
    let watcher = database.site.database("stage_development").await;
    let active = "select count(*) from pg_stat_activity where query like '%endless%' and pid <> pg_backend_pid() and state = 'active'";
    let running = async || watcher.query_one(active, &[]).await.unwrap().get::<_, i64>(0);
    for round in 0..12 {
        let session = Arc::new(Session::new(Database::new(pools.clone(), "app")));
        let asked = session.clone();
        let asking = tokio::spawn(async move { asked.query(endless, Vec::new()).await.map(|_| ()) });
        if round == 0 {
            eventually("the query runs", async || (running().await == 1).then_some(())).await;
        } else {
            // Between two messages, too: wherever the deadline finds it.
            for _ in 0..round * round {
                tokio::task::yield_now().await;
            }
        }
        asking.abort(); // as when a deadline drops the guest
        let _ = asking.await;
        session.abandon().await;
        session.release().await;
    }
    eventually("the queries were cancelled", async || (running().await == 0).then_some(())).await;
    assert_eq!(count(&Session::new(Database::new(pools, "app")), "nothing").await, 0);
}
