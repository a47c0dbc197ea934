//! One statement: its parameters out, its rows in, and what the server says when it fails.
//!
//! What must stay true: rows are counted against the app's memory before they are kept, and an answer is read to its end
//! whatever is refused of it, because the connection goes on with the next one.

use futures_util::TryStreamExt as _;
use odeon_engine::Held;
use odeon_engine::scheduler::give_way;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};

use super::values::{Parameter, Raw, decode};
use super::wire::Watch;
use super::{Error, Rows, Value};

/// Most rows of one result.
const ROWS_MAX: usize = 100_000;
/// After so many rows of a result a guest may have to let others run.
const ROWS_PER_LOOK: usize = 64;

/// Runs a prepared statement over a connection that `watch` belongs to. Rows count against `room` where there is one.
pub async fn run(
    client: &Client,
    watch: &Watch,
    statement: &Statement,
    params: &[Parameter],
    mut room: Option<&mut Held>,
) -> Result<(Rows, u64), Error> {
    if statement.params().len() != params.len() {
        let (want, have) = (statement.params().len(), params.len());
        return Err(Error::Invalid(format!("the statement has {want} parameters, and {have} were given")));
    }
    watch.begin_result();
    let stream = client.query_raw(statement, params).await.map_err(|error| explain(&error))?;
    let mut stream = std::pin::pin!(stream);
    let columns = statement.columns();
    let mut rows =
        Rows { columns: columns.iter().map(|column| column.name().to_owned()).collect(), values: Vec::new() };
    let mut count = 0;
    let mut refused = None;
    // A refused row does not end the reading: the connection must come to the end of the answer.
    while let Some(row) = stream.try_next().await.map_err(|error| explain(&error))? {
        count += 1;
        if refused.is_some() {
            continue;
        }
        if count % ROWS_PER_LOOK == 0 {
            give_way().await; // rows that are here already never make the loop wait
        }
        let bytes = row_bytes(row.raw_size_bytes(), columns.len());
        if !room.as_mut().is_none_or(|room| room.grow(bytes)) {
            let text = "the app's memory has no room for the rest of this result; ask for fewer rows";
            refused = Some(Error::Limit(text.to_owned()));
            rows.values = Vec::new();
            continue;
        }
        if count > ROWS_MAX {
            refused = Some(Error::Limit(format!("a result may have {ROWS_MAX} rows")));
            continue;
        }
        for (at, column) in columns.iter().enumerate() {
            let raw = row.try_get::<_, Raw<'_>>(at).map_err(|error| explain(&error))?;
            match decode(column.name(), column.type_(), &raw) {
                Ok(value) => rows.values.push(value),
                Err(error) => refused = Some(error),
            }
        }
    }
    let affected = stream.rows_affected().unwrap_or(0);
    refused.map_or(Ok((rows, affected)), Err)
}

/// What a row takes in the host's memory: its bytes, and a value for each column.
fn row_bytes(raw: usize, columns: usize) -> u64 {
    (raw + columns * size_of::<Value>()) as u64
}

/// What the server said, as the guest may see it.
pub(super) fn explain(error: &tokio_postgres::Error) -> Error {
    let Some(told) = error.as_db_error() else {
        let cause = std::error::Error::source(error).map_or_else(|| error.to_string(), ToString::to_string);
        return Error::Unavailable(format!("the connection to the database was lost: {cause}"));
    };
    let text = told.message().to_owned();
    match told.code() {
        code if code.code().starts_with("23") => {
            Error::Constraint(told.constraint().unwrap_or(&text).to_owned())
        }
        &SqlState::T_R_SERIALIZATION_FAILURE
        | &SqlState::T_R_DEADLOCK_DETECTED
        | &SqlState::LOCK_NOT_AVAILABLE => Error::Conflict(text),
        &SqlState::INSUFFICIENT_PRIVILEGE => Error::Denied(text),
        &SqlState::QUERY_CANCELED => Error::Limit(text),
        code if code.code().starts_with("08")
            || code.code().starts_with("57")
            || code.code().starts_with("53") =>
        {
            Error::Unavailable(text)
        }
        _ => Error::Invalid(text),
    }
}
