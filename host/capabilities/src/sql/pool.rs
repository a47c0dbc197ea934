//! Connections: opened on demand, closed when idle, and never more than the host's budget.
//!
//! The budget is hard: a permit is taken before a connection is opened and given back when it is closed. One
//! app may hold at most a quarter of it, so that no app can take what four need; an idle connection
//! of another app is closed before anyone waits. Waiting is bounded and ends with `unavailable`.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::future::Cache;
use tokio::net::TcpStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_postgres::{CancelToken, Client, Config, NoTls, Statement};

use super::Error;
use super::wire::{Watch, Watched};

/// Pools of apps that asked for nothing this long are closed, in seconds.
const IDLE_S_MAX: u64 = 60;
/// Pools at once; the least used are closed.
const POOLS_MAX: u64 = 10_000;
/// How long a request waits for a connection, in seconds.
const WAIT_S_MAX: u64 = 5;
/// How long opening a connection may take, in seconds.
const CONNECT_S_MAX: u64 = 5;
/// The part of the budget one app may hold: a quarter.
const SHARE: usize = 4;
/// Prepared statements kept per connection.
const STATEMENTS_MAX: usize = 128;

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
    budget: Arc<Semaphore>,
    share: usize,
    logins: L,
}

/// The connections of one app.
pub(crate) struct Pool {
    login: Login,
    idle: Mutex<Vec<Connection>>,
    share: Arc<Semaphore>,
}

impl<L: Logins> Pools<L> {
    /// Pools that open `connections_max` connections at most.
    pub fn new(logins: L, connections_max: usize) -> Self {
        let pools =
            Cache::builder().max_capacity(POOLS_MAX).time_to_idle(Duration::from_secs(IDLE_S_MAX)).build();
        Self {
            pools,
            budget: Arc::new(Semaphore::new(connections_max)),
            share: (connections_max / SHARE).max(1),
            logins,
        }
    }

    /// Closes what has been idle for too long; to be called now and then.
    pub async fn tidy(&self) {
        self.pools.run_pending_tasks().await;
    }

    /// Forgets an app: its login changed, or it left.
    pub async fn forget(&self, app: &str) {
        self.pools.invalidate(app).await;
    }

    /// A connection for one request of an app.
    pub(crate) async fn take(&self, app: &str) -> Result<Taken, Error> {
        let unavailable = |error: Arc<String>| Error::Unavailable(error.as_str().to_owned());
        let pool = self
            .pools
            .try_get_with(app.to_owned(), async {
                let login = self.logins.login(app).await?;
                Ok::<_, String>(Arc::new(Pool {
                    login,
                    idle: Mutex::default(),
                    share: Arc::new(Semaphore::new(self.share)),
                }))
            })
            .await
            .map_err(unavailable)?;
        loop {
            let idle = pool.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            match idle {
                Some(connection) if connection.is_usable() => {
                    return Ok(Taken { connection: Some(connection), pool });
                }
                Some(_) => {} // the server closed it meanwhile
                None => break,
            }
        }
        let wait = async {
            let share = pool.share.clone().acquire_owned().await;
            if self.budget.available_permits() == 0 {
                self.close_one_idle();
            }
            Some((share.ok()?, self.budget.clone().acquire_owned().await.ok()?))
        };
        let permits = tokio::time::timeout(Duration::from_secs(WAIT_S_MAX), wait).await.ok().flatten();
        let permits = permits.ok_or_else(|| {
            Error::Unavailable(format!("limit: no database connection was free within {WAIT_S_MAX} s"))
        })?;
        let connection = Connection::open(&pool.login, permits).await?;
        Ok(Taken { connection: Some(connection), pool })
    }

    fn close_one_idle(&self) {
        for (_, pool) in &self.pools {
            if pool.idle.lock().unwrap_or_else(PoisonError::into_inner).pop().is_some() {
                return;
            }
        }
    }
}

/// Gives connections, whatever the source of logins.
pub(crate) trait Connections: Send + Sync {
    /// See [`Pools::take`].
    fn take<'a>(&'a self, app: &'a str) -> futures_util::future::BoxFuture<'a, Result<Taken, Error>>;
}

impl<L: Logins> Connections for Pools<L> {
    fn take<'a>(&'a self, app: &'a str) -> futures_util::future::BoxFuture<'a, Result<Taken, Error>> {
        Box::pin(self.take(app))
    }
}

/// An open connection.
pub(crate) struct Connection {
    pub(crate) client: Client,
    pub(crate) watch: Arc<Watch>,
    statements: Vec<(String, Statement)>,
    cancel: CancelToken,
    _permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
}

impl Connection {
    async fn open(
        login: &Login,
        permits: (OwnedSemaphorePermit, OwnedSemaphorePermit),
    ) -> Result<Self, Error> {
        let unavailable = |error: &dyn std::fmt::Display| {
            Error::Unavailable(format!("the database cannot be reached: {error}"))
        };
        let open = async {
            let stream = TcpStream::connect((login.host.as_str(), login.port))
                .await
                .map_err(|error| unavailable(&error))?;
            stream.set_nodelay(true).map_err(|error| unavailable(&error))?;
            let watch = Arc::new(Watch::default());
            let mut config = Config::new();
            config
                .user(&login.user)
                .password(&login.password)
                .dbname(&login.database)
                .application_name("odeon-app");
            let (client, connection) = config
                .connect_raw(Watched::new(stream, watch.clone()), NoTls)
                .await
                .map_err(|error| unavailable(&error))?;
            tokio::spawn(async move {
                if let Err(error) = connection.await {
                    tracing::debug!("a database connection ended: {error}");
                }
            });
            Ok((client, watch))
        };
        let opened = tokio::time::timeout(Duration::from_secs(CONNECT_S_MAX), open).await;
        let (client, watch) =
            opened.map_err(|_| unavailable(&format!("no answer within {CONNECT_S_MAX} s")))??;
        let cancel = client.cancel_token();
        Ok(Self { client, watch, statements: Vec::new(), cancel, _permits: permits })
    }

    /// Prepares a statement, or finds it prepared.
    pub(crate) async fn prepare(&mut self, sql: &str) -> Result<Statement, tokio_postgres::Error> {
        if let Some((_, statement)) = self.statements.iter().find(|(known, _)| known == sql) {
            return Ok(statement.clone());
        }
        let statement = self.client.prepare(sql).await?;
        if self.statements.len() >= STATEMENTS_MAX {
            self.statements.remove(0);
        }
        self.statements.push((sql.to_owned(), statement.clone()));
        Ok(statement)
    }

    fn is_usable(&self) -> bool {
        !self.client.is_closed() && self.watch.transaction() == b'I' && !self.watch.changed()
    }
}

/// A connection that goes back to its pool, unless it is in a state that nobody should inherit.
pub(crate) struct Taken {
    connection: Option<Connection>,
    pool: Arc<Pool>,
}

impl Taken {
    /// The connection.
    pub(crate) fn get(&mut self) -> Option<&mut Connection> {
        self.connection.as_mut()
    }
    /// Gives it back, if it is as it was.
    pub(crate) fn release(mut self) {
        if let Some(connection) = self.connection.take().filter(Connection::is_usable) {
            self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
        }
    }
}

impl Drop for Taken {
    /// Dropped without a release: a deadline passed or a guest trapped. What still runs is cancelled, and
    /// closing the connection rolls back.
    fn drop(&mut self) {
        if let Some(connection) = self.connection.take()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                let cancel = connection.cancel.cancel_query(NoTls);
                let _ = tokio::time::timeout(Duration::from_secs(CONNECT_S_MAX), cancel).await;
                drop(connection);
            });
        }
    }
}
