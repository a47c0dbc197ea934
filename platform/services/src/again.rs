//! Writes that are done again while the database is away: what happened has happened, and has to be written down.

use std::time::Duration;

use anyhow::Result;
use tracing::warn;

/// Wait before the second try, in milliseconds; doubles each time, up to [`PAUSE_MS_MAX`].
const PAUSE_MS: u64 = 500;
/// See [`PAUSE_MS`].
const PAUSE_MS_MAX: u64 = 15_000;

/// Writes, and writes again, until the database took it or says that it never will.
pub(crate) async fn until_written<F: Future<Output = Result<()>>>(
    what: &str,
    mut write: impl FnMut() -> F,
) -> Result<()> {
    let mut pause = PAUSE_MS;
    loop {
        match write().await {
            Err(error) if is_away(&error) => warn!("{what} is written again: {error:#}"),
            done => return done,
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
        pause = (pause * 2).min(PAUSE_MS_MAX);
    }
}

/// Whether the database was not there, or not ready, rather than of another opinion.
pub(crate) fn is_away(error: &anyhow::Error) -> bool {
    /// Connections, resources, and an operator's doing; the classes of SQLSTATE.
    const CLASSES: [&str; 3] = ["08", "53", "57"];
    let code = |error: &sqlx::Error| Some(error.as_database_error()?.code()?.into_owned());
    error.chain().filter_map(|cause| cause.downcast_ref::<sqlx::Error>()).any(|error| match code(error) {
        Some(code) => CLASSES.iter().any(|class| code.starts_with(class)),
        None => matches!(
            error,
            sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed
        ),
    })
}
