//! Triggering events: `odeon:events`. An event is a row of the app's outbox, written in the guest's transaction, so
//! that it is sent if and only if the transaction is committed. Who sends it is the host's business.
//!
//! Invariant: by this interface a transaction adds no row of an event of which as many wait as may; those that write at once do not see
//! each other's. The table is the app's, which may write into it anything: what is taken out is judged again, and takes bounded memory.

use odeon_engine::State;
use wasmtime::component::Linker;

use crate::sql::{self, Rows, Value};
use crate::{Granted, HasGranted};

mod bindings {
    wasmtime::component::bindgen!({
        path: "../../sdk/wit/events.wit",
        world: "imports",
        imports: { default: async },
    });
}

use bindings::odeon::events::publisher;
pub use publisher::Error;

/// The longest name of an event, in bytes; as long as any name of a model.
const NAME_BYTES_MAX: usize = 50;

/// What the stage lets wait.
#[derive(Debug, Clone, Copy)]
pub struct EventLimits {
    /// Rows of one event in an outbox.
    pub waiting_max: i64,
    /// Bytes of a payload.
    pub payload_bytes_max: usize,
}

impl publisher::Host for Granted {
    async fn publish(&mut self, event: String, payload: String) -> Result<(), Error> {
        let limits = self.events;
        if let Some(why) = refuses(&event, payload.len(), limits) {
            return Err(Error::Invalid(why));
        }
        // Counting stops at the limit, so it costs no more than that many rows.
        let statement = "INSERT INTO odeon_outbox (event, payload) SELECT $1, $2 WHERE (SELECT count(*) FROM \
                         (SELECT 1 FROM odeon_outbox WHERE event = $1 LIMIT $3) AS waiting) < $3";
        let values = vec![Value::Text(event), Value::Text(payload), Value::Int64(limits.waiting_max)];
        match self.sql.publish(statement, values).await {
            Ok(0) => Err(Error::Full),
            Ok(_) => Ok(()),
            Err(error) => Err(Error::Unavailable(sql::said(&error).to_owned())),
        }
    }
}

/// Why an event cannot be sent, if it cannot.
fn refuses(event: &str, payload_bytes: usize, limits: EventLimits) -> Option<String> {
    let first = event.chars().next().is_some_and(|c| c.is_ascii_alphabetic());
    if !first || event.len() > NAME_BYTES_MAX || !event.chars().all(|c| c.is_ascii_alphanumeric() || c == '_')
    {
        return Some(format!("`{event}` is not a name of an event"));
    }
    let most = limits.payload_bytes_max;
    (payload_bytes > most).then(|| format!("a payload may have {most} bytes, not {payload_bytes}"))
}

/// Reads up to `most` events of an outbox, oldest first and without those of some names, and holds them in the transaction of `session`, so
/// that nobody else sends them. Of a name that is too long only so much comes here that it is seen, and nothing of such a payload.
pub async fn hold(
    session: &sql::session::Session,
    limits: EventLimits,
    most: i64,
    without: impl Iterator<Item = &str>,
) -> Result<Taken, sql::Error> {
    let statement = format!(
        "SELECT id, left(event, {NAME_BYTES_MAX} + 1), octet_length(payload)::int8, \
         CASE WHEN octet_length(payload) <= {} THEN payload ELSE '' END \
         FROM odeon_outbox WHERE event <> ALL (string_to_array($2, ',')) ORDER BY id LIMIT $1 FOR UPDATE SKIP LOCKED",
        limits.payload_bytes_max
    );
    let without = without.collect::<Vec<_>>().join(","); // names have no comma
    let values = vec![Value::Int64(most), Value::Text(without)];
    let Rows { values, .. } = session.execute_returning(&statement, values).await?;
    let mut taken = Taken::default();
    for row in values.chunks_exact(4) {
        if let [Value::Int64(id), Value::Text(event), Value::Int64(bytes), Value::Text(payload)] = row {
            match refuses(event, usize::try_from(*bytes).unwrap_or(usize::MAX), limits) {
                Some(why) => taken.refused.push((*id, why)),
                None => {
                    taken.events.push(Waiting { id: *id, event: event.clone(), payload: payload.clone() });
                }
            }
        }
    }
    Ok(taken)
}

/// Takes events out of an outbox: they are gone when the transaction of `session` is committed.
pub async fn remove(
    session: &sql::session::Session,
    ids: impl Iterator<Item = i64>,
) -> Result<(), sql::Error> {
    let ids = ids.map(|id| id.to_string()).collect::<Vec<_>>().join(",");
    let statement = "DELETE FROM odeon_outbox WHERE id = ANY (string_to_array($1, ',')::int8[])";
    session.execute_returning(statement, vec![Value::Text(ids)]).await.map(drop)
}

/// What was in an outbox.
#[derive(Debug, Default)]
pub struct Taken {
    /// Oldest first.
    pub events: Vec<Waiting>,
    /// The numbers of the others, and why they cannot be sent: they would hold up the others for ever.
    pub refused: Vec<(i64, String)>,
}

/// An event in an outbox.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// Its number, which no other event of the app has.
    pub id: i64,
    /// Its name.
    pub event: String,
    /// What it says, in JSON.
    pub payload: String,
}

pub(crate) fn add_to_linker(linker: &mut Linker<State<Granted>>) -> wasmtime::Result<()> {
    publisher::add_to_linker::<_, HasGranted>(linker, |state| &mut state.capabilities)
}
