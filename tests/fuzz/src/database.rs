//! A PostgreSQL server, as a stub in memory: it takes any login, prepares any statement, and answers one query with what an
//! input holds.
//!
//! It reads what the client sends as the protocol has it, and keeps the parameters of the query for whoever judges them.
//! The client library asks the catalogue for types that it does not know, and for the types of that answer, without end:
//! here, as with PostgreSQL, which is trusted, there are no such types in it.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};

/// What the server answers.
#[derive(Debug, Clone, Default)]
pub struct Script {
    /// Types of the statement's parameters, by their object ids.
    pub params: Vec<u32>,
    /// Columns of the result: name, and object id of the type.
    pub columns: Vec<(String, u32)>,
    /// All messages that answer the query, the last of them usually [`ready`].
    pub answer: Vec<u8>,
}

/// The parameters of a query, as the server got them: format and bytes.
pub type Bound = Vec<(u16, Option<Vec<u8>>)>;

/// A server for one connection.
#[derive(Default)]
pub struct StubServer {
    script: Script,
    bound: Arc<Mutex<Option<Bound>>>,
}

impl StubServer {
    /// A server that answers like this.
    pub fn new(script: Script) -> Self {
        Self { script, bound: Arc::default() }
    }

    /// Where the parameters of the query will be.
    pub fn bound(&self) -> Arc<Mutex<Option<Bound>>> {
        self.bound.clone()
    }

    /// Serves a connection until it ends.
    pub async fn serve(self, mut stream: DuplexStream) -> io::Result<()> {
        let length = stream.read_u32().await?;
        let mut startup = vec![0; (length as usize).saturating_sub(4)];
        stream.read_exact(&mut startup).await?;
        let hello = [message(b'R', &0_u32.to_be_bytes()), message(b'K', &[0; 8]), ready(b'I')].concat();
        stream.write_all(&hello).await?;
        let mut known = vec![message(b't', &counted(self.script.params.iter().map(|id| id.to_be_bytes())))];
        known.push(columns(&self.script.columns));
        let (mut told, mut statements) = (Vec::new(), 0);
        loop {
            let kind = stream.read_u8().await?;
            let length = stream.read_u32().await?;
            let mut body = vec![0; (length as usize).saturating_sub(4)];
            stream.read_exact(&mut body).await?;
            match kind {
                b'P' => {
                    statements += 1;
                    told.extend(if statements == 1 { message(b'1', b"") } else { unknown() });
                }
                b'D' if statements == 1 => told.extend(known.concat()),
                b'B' => {
                    *self.bound.lock().unwrap_or_else(PoisonError::into_inner) = bound(&body);
                    told.extend(message(b'2', b""));
                }
                b'E' => {
                    // The input says how the query ends, and whether the server is ready then.
                    told.extend(&self.script.answer);
                    stream.write_all(&std::mem::take(&mut told)).await?;
                    let _sync = stream.read_exact(&mut [0; 5]).await?;
                }
                b'Q' => told.extend([message(b'C', b"ROLLBACK\0"), ready(b'I')].concat()),
                b'S' => told.extend(ready(b'I')),
                b'X' => return Ok(()),
                _ => {}
            }
            if matches!(kind, b'S' | b'Q') {
                stream.write_all(&std::mem::take(&mut told)).await?;
            }
        }
    }
}

/// A message of the server.
pub fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).expect("messages are small here");
    [&[kind][..], &length.to_be_bytes(), body].concat()
}

/// `ErrorResponse`: there is no such table.
fn unknown() -> Vec<u8> {
    message(b'E', b"SERROR\0VERROR\0C42P01\0Mno catalogue here\0\0")
}

/// `ReadyForQuery`, with the state of the transaction.
pub fn ready(state: u8) -> Vec<u8> {
    message(b'Z', &[state])
}

/// A row.
pub fn row<'v>(values: impl ExactSizeIterator<Item = Option<&'v [u8]>>) -> Vec<u8> {
    let mut body = count(values.len());
    for value in values {
        let length = value.map_or(-1, |value| i32::try_from(value.len()).expect("values are small here"));
        body.extend(length.to_be_bytes());
        body.extend(value.unwrap_or_default());
    }
    message(b'D', &body)
}

fn columns(columns: &[(String, u32)]) -> Vec<u8> {
    if columns.is_empty() {
        return message(b'n', b"");
    }
    let mut body = count(columns.len());
    for (name, type_id) in columns {
        body.extend(name.bytes().filter(|byte| *byte != 0));
        body.extend([0; 7]); // end of the name, table, number in it
        body.extend(type_id.to_be_bytes());
        body.extend([0; 8]); // size and modifier of the type, format
    }
    message(b'T', &body)
}

fn count(items: usize) -> Vec<u8> {
    u16::try_from(items).expect("columns are few here").to_be_bytes().to_vec()
}

fn counted<const N: usize>(items: impl ExactSizeIterator<Item = [u8; N]>) -> Vec<u8> {
    let mut body = count(items.len());
    items.for_each(|item| body.extend(item));
    body
}

/// The parameters of a `Bind`; none when it is cut short.
fn bound(mut body: &[u8]) -> Option<Bound> {
    for _name in ["portal", "statement"] {
        let end = body.iter().position(|byte| *byte == 0)?;
        body = &body[end + 1..];
    }
    let mut formats = Vec::new();
    for _ in 0..number(&mut body)? {
        formats.push(number(&mut body)?);
    }
    let values = number(&mut body)?;
    let mut bound = Vec::new();
    for at in 0..usize::from(values) {
        // One format may stand for all (protocol 3.0, `Bind`).
        let format = *formats.get(at).or(formats.last().filter(|_| formats.len() == 1)).unwrap_or(&0);
        let (length, rest) = body.split_first_chunk()?;
        body = rest;
        let value = match usize::try_from(i32::from_be_bytes(*length)) {
            Ok(length) => {
                let (value, rest) = body.split_at_checked(length)?;
                body = rest;
                Some(value.to_vec())
            }
            Err(_) => None,
        };
        bound.push((format, value));
    }
    Some(bound)
}

fn number(body: &mut &[u8]) -> Option<u16> {
    let (number, rest) = body.split_first_chunk()?;
    *body = rest;
    Some(u16::from_be_bytes(*number))
}
