//! One request's use of its app's database.
//!
//! Nothing happens before the first call. The transaction begins at the first `execute` and is the host's:
//! after every statement of the guest the state that the server reports is compared with ours, and a guest
//! that began or ended a transaction by itself loses its connection.
//!
//! Outside of the transaction nothing can be written: what runs there is permanent before we have seen what it was. In it,
//! a statement that changed more than rows and the session loses the connection too, and so is undone. What a guest
//! changed in its session lasts for the transaction.
//!
//! What must stay true: a commit says that it went well only if all that the guest wrote since its last commit or rollback
//! is there. A guest may catch the error of the statement that lost it its connection, and go on.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Mutex, Notify};

use odeon_engine::{Held, Memory, Payer};

use super::pool::{Connection, Connections, Logins, Pools, Taken};
use super::statement::{explain, run};
use super::values::Parameter;
use super::{Error, Rows, Value};

/// How long one statement may run, in seconds.
const STATEMENT_S_MAX: u64 = 30;
/// Most parameters of one statement; the protocol counts them in 16 bits.
const PARAMETERS_MAX: usize = 32_767;
/// Longest text of a statement, in bytes; values go beside it.
const STATEMENT_BYTES_MAX: usize = 1 << 20;

/// The database of one app: what all of its sessions have in common.
pub struct Database {
    pools: Arc<dyn Connections>,
    app: String,
    /// Told when events were committed.
    outbox: Option<Arc<Notify>>,
    /// The app's memory: results count while they are made.
    memory: Option<Arc<Memory>>,
    /// Of what connections do.
    payer: Option<Payer>,
}

impl Database {
    /// The one that this app has a login for.
    pub fn new<L: Logins>(pools: Arc<Pools<L>>, app: &str) -> Self {
        Self { pools, app: app.to_owned(), outbox: None, memory: None, payer: None }
    }

    /// Tells `outbox` when events were committed.
    pub fn telling(self, outbox: Arc<Notify>) -> Self {
        Self { outbox: Some(outbox), ..self }
    }

    /// Counts results against an app's memory budget.
    pub fn within(self, memory: Arc<Memory>) -> Self {
        Self { memory: Some(memory), ..self }
    }

    /// Charges for what connections do that sessions open: rows above all.
    pub fn paid_by(self, payer: Payer) -> Self {
        Self { payer: Some(payer), ..self }
    }
}

/// The session of one request.
pub struct Session {
    /// Absent where the app has none.
    database: Option<Arc<Database>>,
    state: Mutex<Use>,
}

#[derive(Default)]
struct Use {
    /// Boxed, because most requests have none and all move this about.
    taken: Option<Box<Taken>>,
    in_transaction: bool,
    /// A statement was sent and its answer has not been read to the end. Stays so when the guest was ended
    /// meanwhile: nobody else may inherit the connection then.
    unfinished: bool,
    /// The room in the app's memory for the rows of the last statement: they are in the host's until the guest has them all.
    room: Option<Held>,
    /// Events were written into the outbox, and not committed yet.
    published: bool,
    /// Why what the guest wrote is lost. Every call says so until the guest rolls back, and so does the commit of whoever
    /// hands over its answer.
    lost: Option<Error>,
}

impl Use {
    /// Closes the connection, which undoes what was written in a transaction.
    fn give_up(&mut self, why: &Error) {
        self.taken = None;
        if std::mem::take(&mut self.in_transaction) {
            self.lost = Some(why.clone());
        }
    }

    /// An error after the transaction was lost.
    fn whole(&self) -> Result<(), Error> {
        self.lost.clone().map_or(Ok(()), Err)
    }

    fn open(&mut self) -> Option<&mut Connection> {
        self.taken.as_mut()?.get()
    }
}

impl Session {
    /// A session in this database.
    pub fn new(database: impl Into<Arc<Database>>) -> Self {
        Self { database: Some(database.into()), ..Self::none() }
    }

    /// A session of an app that has none.
    pub fn none() -> Self {
        Self { database: None, state: Mutex::default() }
    }

    /// Runs a statement that returns rows.
    pub async fn query(&self, sql: &str, params: Vec<Value>) -> Result<Rows, Error> {
        let mut state = self.state.lock().await;
        self.run(&mut state, sql, params).await.map(|(rows, _)| rows)
    }

    /// Runs a statement for its effect.
    pub async fn execute(&self, sql: &str, params: Vec<Value>) -> Result<u64, Error> {
        let mut state = self.state.lock().await;
        self.begin(&mut state).await?;
        self.run(&mut state, sql, params).await.map(|(_, affected)| affected)
    }

    /// Writes events into the outbox, in the transaction.
    pub(crate) async fn publish(&self, sql: &str, params: Vec<Value>) -> Result<u64, Error> {
        let mut state = self.state.lock().await;
        self.begin(&mut state).await?;
        let (_, written) = self.run(&mut state, sql, params).await?;
        state.published |= written > 0;
        Ok(written)
    }

    /// Runs a statement for its effect and its rows.
    pub async fn execute_returning(&self, sql: &str, params: Vec<Value>) -> Result<Rows, Error> {
        let mut state = self.state.lock().await;
        self.begin(&mut state).await?;
        self.run(&mut state, sql, params).await.map(|(rows, _)| rows)
    }

    /// Makes what was written permanent.
    pub async fn commit(&self) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        state.whole()?;
        let failed = state.open().is_some_and(|open| open.watch.transaction() == b'E');
        if state.in_transaction && failed {
            end(&mut state, "ROLLBACK").await?;
            return Err(Error::Conflict(
                "a statement of the transaction failed, so that it was rolled back".into(),
            ));
        }
        end(&mut state, "COMMIT").await?;
        if std::mem::take(&mut state.published)
            && let Some(outbox) = self.database.as_ref().and_then(|database| database.outbox.as_ref())
        {
            outbox.notify_one();
        }
        Ok(())
    }

    /// Whether it has no connection, and nothing to tell: there is nothing to end.
    pub(crate) fn is_idle(&self) -> bool {
        self.state.try_lock().is_ok_and(|state| state.taken.is_none() && state.lost.is_none())
    }

    /// Commits for a guest that has returned. Its answer may not have been handed over yet: a failure is told
    /// again by [`Session::commit`].
    pub async fn settle(&self) -> Result<(), Error> {
        let settled = self.commit().await;
        if let Err(error) = &settled {
            self.state.lock().await.lost = Some(error.clone());
        }
        settled
    }

    /// Undoes what was written.
    pub async fn rollback(&self) -> Result<(), Error> {
        let mut state = self.state.lock().await;
        (state.published, state.lost) = (false, None);
        end(&mut state, "ROLLBACK").await
    }

    /// Closes the connection, which undoes what was written, and cancels what still runs.
    pub async fn abandon(&self) {
        let mut state = self.state.lock().await;
        if state.in_transaction || state.unfinished {
            // Its answer's head may be on its way out, and is handed over only after a commit.
            state.give_up(&Error::Unavailable("the app failed before what it wrote was committed".into()));
            state.unfinished = false;
        }
    }

    /// Gives the connection back. The next call would take another one.
    pub async fn release(&self) {
        let mut state = self.state.lock().await;
        state.room = None;
        if let Some(taken) = state.taken.take() {
            taken.release();
        }
    }

    async fn begin(&self, state: &mut Use) -> Result<(), Error> {
        state.whole()?;
        if state.in_transaction {
            return Ok(());
        }
        self.connection(state).await?;
        command(state, "BEGIN READ WRITE").await?;
        state.in_transaction = true;
        Ok(())
    }

    async fn run(&self, state: &mut Use, sql: &str, params: Vec<Value>) -> Result<(Rows, u64), Error> {
        state.room = None; // the guest has the rows of the statement before
        state.whole()?;
        if params.len() > PARAMETERS_MAX {
            return Err(Error::Limit(format!("a statement may have {PARAMETERS_MAX} parameters")));
        }
        if sql.len() > STATEMENT_BYTES_MAX {
            let bytes = sql.len();
            return Err(Error::Limit(format!(
                "a statement may have {STATEMENT_BYTES_MAX} bytes, not {bytes}"
            )));
        }
        let expected = if state.in_transaction { b'T' } else { b'I' };
        self.connection(state).await?;
        state.unfinished = true;
        let connection = opened(state)?;
        connection.watch.begin_statement();
        let memory = self.database.as_ref().and_then(|database| database.memory.as_ref());
        let mut room = memory.and_then(|memory| memory.try_take(0));
        let statement = async {
            let outcome = prepared(connection, sql, params, room.as_mut()).await;
            if outcome.is_err() {
                // The library returns before the server has told its transaction state: ask for it.
                let _ = connection.client.batch_execute("").await;
            }
            outcome.map_err(|error| match connection.watch.refused() {
                Some(why) => Error::Limit(why.to_owned()),
                None => error,
            })
        };
        let outcome = tokio::time::timeout(Duration::from_secs(STATEMENT_S_MAX), statement).await;
        state.unfinished = false;
        let Ok(outcome) = outcome else {
            let error = Error::Limit(format!("a statement may run for {STATEMENT_S_MAX} s"));
            state.give_up(&error);
            return Err(error);
        };
        if state.open().is_some_and(|open| open.watch.lasting()) {
            let text = "a statement changes rows and its own session, and nothing else of the database";
            let error = outcome.err().unwrap_or_else(|| Error::Denied(text.into()));
            state.give_up(&error); // which undoes it
            return Err(error);
        }
        let now = state.open().map_or(0, |open| open.watch.transaction());
        let failed_inside = now == b'E' && outcome.is_err() && expected == b'T';
        let committed = state.open().is_some_and(|open| open.watch.committed());
        if committed || (now != expected && !failed_inside) {
            let text = "transactions are the host's: call commit or rollback of odeon:sql, not SQL";
            let error = outcome.err().unwrap_or_else(|| Error::Invalid(text.into()));
            state.give_up(&error);
            return Err(error);
        }
        state.room = room.filter(|_| outcome.is_ok());
        outcome
    }

    async fn connection(&self, state: &mut Use) -> Result<(), Error> {
        let changed = state.open().is_some_and(|open| open.watch.changed());
        if changed && !state.in_transaction {
            state.taken = None; // it may let statements write that run on their own
        }
        if state.taken.is_none() {
            let none = || Error::Unavailable("this app has no database in this stage".into());
            let Database { pools, app, payer, .. } = &**self.database.as_ref().ok_or_else(none)?;
            state.taken = Some(Box::new(pools.take(app, payer.as_ref()).await?));
        }
        Ok(())
    }
}

fn opened(state: &mut Use) -> Result<&mut Connection, Error> {
    state.open().ok_or_else(|| Error::Unavailable("the connection was closed".into()))
}

/// Begins or ends a transaction.
async fn command(state: &mut Use, sql: &str) -> Result<(), Error> {
    state.unfinished = true;
    let done = opened(state)?.client.batch_execute(sql);
    let done = tokio::time::timeout(Duration::from_secs(STATEMENT_S_MAX), done).await;
    state.unfinished = false;
    let why = match done {
        Ok(Ok(())) => return Ok(()),
        Ok(Err(error)) => explain(&error),
        Err(_) => Error::Unavailable(format!("the database did not answer {sql} within {STATEMENT_S_MAX} s")),
    };
    state.taken = None; // unknown how far it came: nobody should go on with this connection
    Err(why)
}

async fn end(state: &mut Use, how: &str) -> Result<(), Error> {
    if !state.in_transaction {
        return Ok(());
    }
    state.in_transaction = false;
    if state.taken.is_none() {
        return Ok(());
    }
    command(state, how).await
}

/// Prepares a statement and runs it.
async fn prepared(
    connection: &mut Connection,
    sql: &str,
    params: Vec<Value>,
    room: Option<&mut Held>,
) -> Result<(Rows, u64), Error> {
    let params = params.into_iter().enumerate().map(|(at, value)| Parameter::encode(at, value));
    let params = params.collect::<Result<Vec<_>, _>>()?;
    let statement = connection.prepare(sql).await.map_err(|error| explain(&error))?;
    run(&connection.client, &connection.watch, &statement, &params, room).await
}
