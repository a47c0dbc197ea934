//! One statement: its parameters out, its rows in, and what the server says when it fails.
//!
//! What must stay true: rows are counted against the app's memory before they are kept, and an answer is read to its end
//! whatever is refused of it, because the connection goes on with the next one.

use futures_util::TryStreamExt as _;
use odeon_engine::Held;
use odeon_engine::scheduler::give_way;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Column, Row, Statement};

use super::values::{Parameter, Raw, decode};
use super::wire::{RESULT_BYTES_MAX, Watch};
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
    room: Option<&mut Held>,
) -> Result<(Rows, u64), Error> {
    if statement.params().len() != params.len() {
        let (want, have) = (statement.params().len(), params.len());
        return Err(Error::Invalid(format!("the statement has {want} parameters, and {have} were given")));
    }
    watch.begin_result();
    let stream = client.query_raw(statement, params).await.map_err(|error| explain(&error))?;
    let mut stream = std::pin::pin!(stream);
    let columns = statement.columns();
    let mut result = Making { values: Vec::new(), rows: 0, bytes: 0, room };
    let mut refused = None;
    // A refused row does not end the reading: the connection must come to the end of the answer.
    while let Some(row) = stream.try_next().await.map_err(|error| explain(&error))? {
        if refused.is_some() {
            continue;
        }
        if result.rows % ROWS_PER_LOOK == ROWS_PER_LOOK - 1 {
            give_way().await; // rows that are here already never make the loop wait
        }
        if let Err(error) = result.add(columns, &row) {
            refused = Some(error);
            result.values = Vec::new();
        }
    }
    let affected = stream.rows_affected().unwrap_or(0);
    let columns = columns.iter().map(|column| column.name().to_owned()).collect();
    refused.map_or(Ok((Rows { columns, values: result.values }, affected)), Err)
}

/// A result while it is made.
struct Making<'r> {
    values: Vec<Value>,
    rows: usize,
    /// Bytes of the rows, or of their values where these are longer.
    bytes: u64,
    room: Option<&'r mut Held>,
}

impl Making<'_> {
    /// Decodes a row. What it takes is counted as it came, and a value that grows beyond that before it is kept: ten bytes of
    /// a `numeric` are a text of 131,072 digits.
    fn add(&mut self, columns: &[Column], row: &Row) -> Result<(), Error> {
        self.rows += 1;
        if self.rows > ROWS_MAX {
            return Err(Error::Limit(format!("a result may have {ROWS_MAX} rows")));
        }
        let mut counted = row.raw_size_bytes();
        self.count(counted, columns.len() * size_of::<Value>())?;
        for (at, column) in columns.iter().enumerate() {
            let raw = row.try_get::<_, Raw<'_>>(at).map_err(|error| explain(&error))?;
            let value = decode(column.name(), column.type_(), &raw)?;
            let bytes = heap_bytes(&value);
            self.count(bytes.saturating_sub(counted), 0)?;
            counted = counted.saturating_sub(bytes);
            self.values.push(value);
        }
        Ok(())
    }

    /// Counts bytes of content, and what the host needs beside them.
    fn count(&mut self, content: usize, beside: usize) -> Result<(), Error> {
        self.bytes += content as u64;
        if self.bytes > RESULT_BYTES_MAX {
            return Err(Error::Limit(format!("a result may have {RESULT_BYTES_MAX} bytes")));
        }
        if self.room.as_mut().is_none_or(|room| room.grow((content + beside) as u64)) {
            return Ok(());
        }
        let text = "the app's memory has no room for the rest of this result; ask for fewer rows";
        Err(Error::Limit(text.to_owned()))
    }
}

/// What a value holds besides itself, in bytes.
fn heap_bytes(value: &Value) -> usize {
    match value {
        Value::Decimal(text) | Value::Text(text) => text.capacity(),
        Value::Bytes(bytes) => bytes.capacity(),
        Value::Null
        | Value::Boolean(_)
        | Value::Int32(_)
        | Value::Int64(_)
        | Value::Float64(_)
        | Value::Date(_)
        | Value::Time(_)
        | Value::Timestamp(_) => 0,
    }
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
        &SqlState::READ_ONLY_SQL_TRANSACTION => Error::Invalid(format!(
            "{text}: `query` reads; what writes is for `execute` and `execute-returning`"
        )),
        &SqlState::QUERY_CANCELED | &SqlState::CONFIGURATION_LIMIT_EXCEEDED => Error::Limit(text),
        code if code.code().starts_with("08")
            || code.code().starts_with("57")
            || code.code().starts_with("53") =>
        {
            Error::Unavailable(text)
        }
        _ => Error::Invalid(text),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use odeon_engine::Memory;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_postgres::NoTls;

    use super::*;
    use crate::sql::wire::Watched;

    fn message(kind: u8, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(body.len() + 4).unwrap();
        [&[kind][..], &length.to_be_bytes(), body].concat()
    }

    /// What comes of a result with rows of one `numeric` each, `10^131068` in ten bytes, and what was counted for it.
    async fn powers(rows: usize, room_bytes: u64) -> (Result<(Rows, u64), Error>, u64) {
        let column = [&[0, 1, b'n', 0, 0, 0, 0, 0, 0, 0][..], &1700_u32.to_be_bytes(), &[0; 8]].concat();
        let number = [0, 1, 0x7f, 0xff, 0, 0, 0, 0, 0, 1];
        let row = message(b'D', &[&[0, 1, 0, 0, 0, 10][..], &number].concat());
        let ready = message(b'Z', b"I");
        let answers = [
            [message(b'R', &[0; 4]), ready.clone()].concat(),
            [message(b'1', b""), message(b't', &[0; 2]), message(b'T', &column), ready.clone()].concat(),
            [message(b'2', b""), row.repeat(rows), message(b'C', b"SELECT 1\0"), ready].concat(),
        ];
        let (ours, mut theirs) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            for answer in answers {
                theirs.read_u8().await.unwrap();
                while let Ok(Ok(_)) =
                    tokio::time::timeout(std::time::Duration::ZERO, theirs.read(&mut [0; 256])).await
                {
                }
                theirs.write_all(&answer).await.unwrap();
            }
            std::future::pending::<()>().await;
        });
        let watch = Arc::new(Watch::default());
        let stream = Watched::new(ours, watch.clone());
        let connected = tokio_postgres::Config::new().user("app").connect_raw(stream, NoTls).await;
        let (client, connection) = connected.unwrap();
        tokio::spawn(connection);
        let statement = client.prepare("").await.unwrap();
        let mut room = Memory::new(room_bytes).try_take(0).unwrap();
        let outcome = run(&client, &watch, &statement, &[], Some(&mut room)).await;
        (outcome, room.bytes())
    }

    #[tokio::test]
    async fn a_value_counts_as_what_it_becomes() {
        let (outcome, counted) = powers(2, 300_000).await;
        let (rows, _) = outcome.unwrap();
        let Value::Decimal(text) = &rows.values[1] else { panic!("{:?}", rows.values[1]) };
        assert!(text.len() == 131_069 && counted >= 2 * 131_069, "{counted} bytes for {}", text.len());
        let (outcome, _) = powers(2, 200_000).await;
        assert!(matches!(&outcome, Err(Error::Limit(why)) if why.contains("no room")), "{outcome:?}");
        let (outcome, _) = powers(600, u64::MAX).await;
        assert!(matches!(&outcome, Err(Error::Limit(why)) if why.contains("67108864 bytes")), "{outcome:?}");
    }
}
