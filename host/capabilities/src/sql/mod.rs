//! `odeon:sql`: an app's own database, the same for compiled and hand-written apps.
//!
//! [`wire`] watches the protocol below the client library, [`pool`] keeps connections within a budget,
//! [`session`] is one request's use of a connection, [`statement`] what happens on it, [`values`] converts values.
//!
//! Why tokio-postgres and not sqlx, which the Platform uses: a guest chooses its statements, so the host must
//! refuse a row before it is buffered and must see the transaction state that the server reports. Both
//! stand in the byte stream, and tokio-postgres takes a stream of ours (`connect_raw`); sqlx opens its own.

pub mod pool;
pub mod session;
pub mod statement;
pub mod values;
pub mod wire;

use odeon_engine::State;
use wasmtime::component::Linker;

use crate::{Granted, HasGranted};

mod bindings {
    #![expect(missing_docs, reason = "generated from sdk/wit/sql.wit, which has the docs")]
    wasmtime::component::bindgen!({
        path: "../../sdk/wit/sql.wit",
        world: "imports",
        imports: { default: async },
    });
}

use bindings::odeon::sql::session as wit;
pub use bindings::odeon::sql::session::{Error, Rows, Value};

/// What an error says, whatever its case.
pub fn said(error: &Error) -> &str {
    match error {
        Error::Constraint(why)
        | Error::Conflict(why)
        | Error::Denied(why)
        | Error::Invalid(why)
        | Error::Limit(why)
        | Error::Unavailable(why) => why,
    }
}

impl wit::Host for Granted {
    async fn query(&mut self, sql: String, params: Vec<Value>) -> Result<Rows, Error> {
        self.sql.query(&sql, params).await
    }
    async fn execute(&mut self, sql: String, params: Vec<Value>) -> Result<u64, Error> {
        self.sql.execute(&sql, params).await
    }
    async fn execute_returning(&mut self, sql: String, params: Vec<Value>) -> Result<Rows, Error> {
        self.sql.execute_returning(&sql, params).await
    }
    async fn commit(&mut self) -> Result<(), Error> {
        self.sql.commit().await
    }
    async fn rollback(&mut self) -> Result<(), Error> {
        self.sql.rollback().await
    }
}

pub(crate) fn add_to_linker(linker: &mut Linker<State<Granted>>) -> wasmtime::Result<()> {
    wit::add_to_linker::<_, HasGranted>(linker, |state| &mut state.capabilities)
}
