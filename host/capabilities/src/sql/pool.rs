//! Connections: opened on demand, closed when idle, and never more than the host's budget.
//!
//! Two semaphores, both first come, first served. An app's *share* counts the connections its requests use
//! now: a quarter of the budget, so that no app can take what four need. The *budget* counts the
//! connections that exist: a permit is taken before one is opened and given back when its socket is closed.
//!
//! What must stay true: while anyone waits for the budget, no connection lies idle. A waiter first counts itself
//! and then looks for an idle connection to close; a request that is done first puts its connection
//! down and then looks whether anyone waits. Whichever comes second sees the other.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use moka::future::Cache;
use odeon_engine::{Payer, Waiting};
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tokio_postgres::{CancelToken, Client, Config, NoTls, Statement};

use super::Error;
use super::wire::{Watch, Watched};
use crate::per_app::PerApp;

/// Connections and pools that nobody used for this long are closed, in seconds.
const IDLE_S_MAX: u64 = 60;
/// Pools at once; the least used are closed.
const POOLS_MAX: u64 = 10_000;
/// How long a request waits for a connection, in seconds.
const WAIT_S_MAX: u64 = 5;
/// How long opening a connection may take, in seconds.
const CONNECT_S_MAX: u64 = 5;
/// The part of the budget one app may use at once: a quarter.
const SHARE: usize = 4;
/// Prepared statements kept per connection.
const STATEMENTS_MAX: usize = 128;
/// Longest text of one, in bytes: a longer one is prepared each time.
const KEPT_STATEMENT_BYTES_MAX: usize = 16 << 10;
/// How often a statement is asked to end before its connection is just closed.
const CANCELS_MAX: u32 = 10;
/// How long a cancelled statement may take to end before it is asked again, in milliseconds.
const CANCEL_PAUSE_MS: u64 = 500;
/// Settings of a connection. The server looks once a second, in milliseconds, whether whoever asked is still there.
/// Statements outside of a transaction only read.
const OPTIONS: &str = "-c client_connection_check_interval=1000 -c default_transaction_read_only=on";

/// How an app logs in. Debug output hides the password.
#[derive(Clone)]
pub struct Login {
    /// Server.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Database.
    pub database: String,
    /// Role.
    pub user: String,
    /// Password.
    pub password: String,
}

/// Finds an app's login.
pub trait Logins: Send + Sync + 'static {
    /// The login of an app, or why there is none.
    fn login(&self, app: &str) -> impl Future<Output = Result<Login, String>> + Send;
}

/// The pools of a host.
pub struct Pools<L> {
    pools: Cache<String, Arc<Pool>>,
    /// A pool may be closed while a request still has a connection of it, which counts for the one that follows.
    shares: PerApp<Semaphore>,
    budget: Arc<Budget>,
    share: usize,
    logins: L,
}

/// The connections that may exist, and who waits to open one.
struct Budget {
    permits: Arc<Semaphore>,
    waiting: AtomicUsize,
}

/// The connections of one app.
pub(crate) struct Pool {
    /// Where its connections are looked after, whoever drops them.
    runtime: Handle,
    login: Login,
    idle: Mutex<Vec<(Connection, Instant)>>,
    share: Arc<Semaphore>,
    budget: Arc<Budget>,
}

impl Pool {
    fn idle(&self) -> std::sync::MutexGuard<'_, Vec<(Connection, Instant)>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self) -> Option<Connection> {
        loop {
            let (connection, _) = self.idle().pop()?;
            if connection.is_usable() {
                return Some(connection);
            } // else the server closed it meanwhile
        }
    }
}

impl<L: Logins> Pools<L> {
    /// Pools that open `connections_max` connections at most.
    pub fn new(logins: L, connections_max: usize) -> Self {
        let pools =
            Cache::builder().max_capacity(POOLS_MAX).time_to_idle(Duration::from_secs(IDLE_S_MAX)).build();
        let permits = Arc::new(Semaphore::new(connections_max));
        let budget = Arc::new(Budget { permits, waiting: AtomicUsize::new(0) });
        let share = (connections_max / SHARE).max(1);
        Self { pools, shares: PerApp::default(), budget, share, logins }
    }

    /// Closes what has been idle for too long; to be called now and then.
    pub async fn tidy(&self) {
        self.pools.run_pending_tasks().await;
        for (_, pool) in &self.pools {
            pool.idle().retain(|(_, since)| since.elapsed() < Duration::from_secs(IDLE_S_MAX));
        }
    }

    /// Makes sure that an app's login is known, before a request needs it.
    pub async fn prepare(&self, app: &str) -> Result<(), String> {
        self.pool(app).await.map(drop)
    }

    /// Forgets an app: its login changed, or it left.
    pub async fn forget(&self, app: &str) {
        self.pools.invalidate(app).await;
    }

    async fn pool(&self, app: &str) -> Result<Arc<Pool>, String> {
        let make = async {
            let login = self.logins.login(app).await?;
            let share = self.shares.of(app, || Semaphore::new(self.share));
            Ok::<_, String>(Arc::new(Pool {
                runtime: Handle::current(),
                login,
                idle: Mutex::default(),
                share,
                budget: self.budget.clone(),
            }))
        };
        self.pools.try_get_with(app.to_owned(), make).await.map_err(|error: Arc<String>| error.to_string())
    }

    /// A connection for one request of an app, which pays for it if it is opened now: other requests of the app may have it later.
    pub(crate) async fn take(&self, app: &str, payer: Option<&Payer>) -> Result<Taken, Error> {
        let pool = self.pool(app).await.map_err(Error::Unavailable)?;
        let late =
            || Error::Unavailable(format!("limit: no database connection was free within {WAIT_S_MAX} s"));
        let deadline = tokio::time::Instant::now() + Duration::from_secs(WAIT_S_MAX);
        let share = tokio::time::timeout_at(deadline, pool.share.clone().acquire_owned()).await;
        let share = share.ok().and_then(Result::ok).ok_or_else(late)?;
        if let Some(connection) = pool.take_idle() {
            return Ok(Taken { connection: Some(connection), pool, share: Some(share) });
        }
        let permit = tokio::time::timeout_at(deadline, self.permit()).await;
        let permit = permit.ok().flatten().ok_or_else(late)?;
        match Connection::open(&pool.login, permit, payer.cloned()).await {
            Ok(connection) => Ok(Taken { connection: Some(connection), pool, share: Some(share) }),
            Err(refused) => {
                if refused.login {
                    self.pools.invalidate(app).await; // the next request asks for the login anew
                }
                Err(Error::Unavailable(refused.why))
            }
        }
    }

    /// A permit to open a connection. Idle connections, whoever has them, make room.
    async fn permit(&self) -> Option<OwnedSemaphorePermit> {
        let permits = self.budget.permits.clone();
        if let Ok(permit) = permits.clone().try_acquire_owned() {
            return Some(permit);
        }
        let _waiting = Waiting::begin(&self.budget.waiting);
        self.close_one_idle();
        permits.acquire_owned().await.ok()
    }

    fn close_one_idle(&self) {
        for (_, pool) in &self.pools {
            if pool.idle().pop().is_some() {
                return;
            }
        }
    }
}

/// Gives connections, whatever the source of logins.
pub(crate) trait Connections: Send + Sync {
    /// See [`Pools::take`].
    fn take<'a>(&'a self, app: &'a str, payer: Option<&'a Payer>) -> BoxFuture<'a, Result<Taken, Error>>;
}

impl<L: Logins> Connections for Pools<L> {
    fn take<'a>(&'a self, app: &'a str, payer: Option<&'a Payer>) -> BoxFuture<'a, Result<Taken, Error>> {
        Box::pin(self.take(app, payer))
    }
}

/// An open connection.
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) watch: Arc<Watch>,
    statements: Vec<(String, Statement)>,
    cancel: CancelToken,
    server: (String, u16),
    /// Ends when the socket is closed.
    driver: JoinHandle<()>,
}

/// Why there is no connection.
struct Refused {
    why: String,
    /// The server did not take the login.
    login: bool,
}

impl Connection {
    async fn open(
        login: &Login,
        permit: OwnedSemaphorePermit,
        payer: Option<Payer>,
    ) -> Result<Self, Refused> {
        let refused =
            |why: String| Refused { why: format!("the database cannot be reached: {why}"), login: false };
        let open = async {
            let stream = TcpStream::connect((login.host.as_str(), login.port)).await;
            let stream = stream.map_err(|error| refused(error.to_string()))?;
            stream.set_nodelay(true).map_err(|error| refused(error.to_string()))?;
            let watch = Arc::new(Watch::default());
            let mut config = Config::new();
            config
                .user(&login.user)
                .password(&login.password)
                .dbname(&login.database)
                .application_name("odeon-app")
                .options(OPTIONS);
            let connected = config.connect_raw(Watched::new(stream, watch.clone()), NoTls).await;
            let (client, mut connection) = connected.map_err(|error| {
                let login = error.code().is_some_and(|code| {
                    [SqlState::INVALID_PASSWORD, SqlState::INVALID_AUTHORIZATION_SPECIFICATION].contains(code)
                });
                let why =
                    error.as_db_error().map_or_else(|| error.to_string(), |told| told.message().to_owned());
                Refused { login, ..refused(why) }
            })?;
            let driver = tokio::spawn(async move {
                // The connection's own future logs each notice: an app makes as many as it likes, and the host's log is the
                // operator's.
                let driven = async {
                    while let Some(said) = poll_fn(|cx| connection.poll_message(cx)).await {
                        if let Err(error) = said {
                            tracing::debug!("a database connection ended: {error}");
                            break; // nothing comes after an error
                        }
                    }
                };
                Payer::charge(payer, driven).await;
                drop(connection);
                drop(permit); // only now is the socket closed
            });
            Ok((client, watch, driver))
        };
        let opened = tokio::time::timeout(Duration::from_secs(CONNECT_S_MAX), open).await;
        let (client, watch, driver) =
            opened.map_err(|_| refused(format!("no answer within {CONNECT_S_MAX} s")))??;
        let cancel = client.cancel_token();
        let server = (login.host.clone(), login.port);
        Ok(Self { client, watch, statements: Vec::new(), cancel, server, driver })
    }

    /// Prepares a statement, or finds it prepared.
    pub(crate) async fn prepare(&mut self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        if let Some((_, statement)) = self.statements.iter().find(|(known, _)| known == sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        if sql.len() > KEPT_STATEMENT_BYTES_MAX {
            return Ok(statement);
        }
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.remove(0);
        }
        self.statements.push((sql.to_owned(), statement.clone()));
        Ok(statement)
    }

    /// Cancels what still runs and closes the connection, which rolls back.
    ///
    /// The server ignores a cancel that comes between two messages, and the statement behind it would run on:
    /// so it is asked again until the connection has ended.
    async fn end(self) {
        let Self { client, cancel, server, mut driver, .. } = self;
        drop(client);
        for _ in 0..CANCELS_MAX {
            let asked = async {
                // The token knows no address: the connection was made over a stream of ours.
                let stream = TcpStream::connect((server.0.as_str(), server.1)).await.ok()?;
                cancel.cancel_query_raw(stream, NoTls).await.ok()
            };
            let _ = tokio::time::timeout(Duration::from_secs(CONNECT_S_MAX), asked).await;
            if tokio::time::timeout(Duration::from_millis(CANCEL_PAUSE_MS), &mut driver).await.is_ok() {
                return;
            }
        }
        tracing::warn!("a statement did not end after {CANCELS_MAX} cancels; its connection is closed");
        driver.abort();
    }

    fn is_usable(&self) -> bool {
        !self.client.is_closed() && self.watch.transaction() == b'I' && !self.watch.changed()
    }
}

/// A connection that goes back to its pool, unless it is in a state that nobody should inherit.
pub(crate) struct Taken {
    connection: Option<Connection>,
    pool: Arc<Pool>,
    /// Of the app's part of all connections. None when it went with a connection that is being ended.
    share: Option<OwnedSemaphorePermit>,
}

impl Taken {
    /// The connection.
    pub(crate) fn get(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut()
    }

    /// Gives it back, if it is as it was.
    pub(crate) fn release(mut self) {
        let Some(connection) = self.connection.take().filter(Connection::is_usable) else { return };
        self.pool.idle().push((connection, Instant::now()));
        if self.pool.budget.waiting.load(Ordering::SeqCst) > 0 {
            self.pool.idle().pop();
        }
    }
}

impl Drop for Taken {
    /// Dropped without a release: a deadline passed or a guest trapped.
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take() {
            let share = self.share.take();
            self.pool.runtime.spawn(async move {
                connection.end().await;
                drop(share); // only now may the app open another
            });
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use super::*;

    struct Nowhere;

    impl Logins for Nowhere {
        async fn login(&self, _app: &str) -> Result<Login, String> {
            let nothing = String::new;
            Ok(Login { host: nothing(), port: 0, database: nothing(), user: nothing(), password: nothing() })
        }
    }

    #[tokio::test]
    async fn a_pool_that_is_closed_leaves_the_app_no_more_than_its_share() {
        let pools = Pools::new(Nowhere, 8);
        let of_a_request = pools.pool("app").await.unwrap().share.clone().acquire_owned().await.unwrap();
        pools.forget("app").await;
        let left = async || pools.pool("app").await.unwrap().share.available_permits();
        assert_eq!(left().await, 1);
        drop(of_a_request);
        assert_eq!(left().await, 2);
    }
}
