//! Follows a KV bucket for ever, whatever happens to it, and changes values that others change too.
//!
//! A watch alone is not enough: it goes on from the last sequence number it saw, and a bucket that was
//! purged, emptied or restored begins with other numbers, so that news would be passed over in silence.
//! So the bucket is looked at now and then, and read again from its first entry when it is not the one that
//! was opened, when the connection was a new one, or when it holds other keys than were heard.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::kv::{EntryError, Operation, Store, UpdateError, UpdateErrorKind};
use async_nats::jetstream::stream::Info;
use futures_util::StreamExt as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Wait before a bucket is read again, in milliseconds.
const AGAIN_MS: u64 = 500;
/// Time between two looks at the bucket itself, in seconds.
const LOOK_S: u64 = 5;

/// What is told of a bucket.
#[derive(Debug, Clone, Copy)]
pub enum News<'a> {
    /// A reading begins: every entry there is comes next.
    Opened,
    /// A key has this value.
    Put {
        /// The key.
        key: &'a str,
        /// Its value.
        value: &'a [u8],
    },
    /// A key was deleted.
    Deleted {
        /// The key.
        key: &'a str,
    },
    /// Every entry that was there has been told.
    CaughtUp,
}

/// How often a value is changed again that somebody else changed meanwhile.
const CHANGES_MAX: u32 = 10;

/// Why a value could not be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// NATS did not answer, or refused.
    #[error("read `{0}` in a bucket")]
    Read(String, #[source] EntryError),
    /// NATS did not answer, or refused.
    #[error("write `{0}` into a bucket")]
    Write(String, #[source] UpdateError),
    /// Others came first, every time.
    #[error("`{0}` was changed by others {CHANGES_MAX} times in between")]
    Contended(String),
}

/// A value, and the revision to write the next one on. What is not there, or cannot be read, is none.
pub async fn read_value<T: DeserializeOwned>(
    store: &Store,
    key: &str,
) -> Result<(Option<T>, u64), ChangeError> {
    let entry = store.entry(key).await.map_err(|error| ChangeError::Read(key.to_owned(), error))?;
    Ok(entry.map_or((None, 0), |entry| (serde_json::from_slice(&entry.value).ok(), entry.revision)))
}

/// Writes a value on a revision; false when somebody wrote meanwhile.
pub async fn write_value<T: Serialize>(
    store: &Store,
    key: &str,
    value: &T,
    revision: u64,
) -> Result<bool, ChangeError> {
    let bytes = serde_json::to_vec(value).expect("what is kept in buckets has string keys only");
    match store.update(key, bytes.into(), revision).await {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == UpdateErrorKind::WrongLastRevision => Ok(false),
        Err(error) => Err(ChangeError::Write(key.to_owned(), error)),
    }
}

/// Changes a value, however often others write in between. `change` gives none to leave it as it is; false then.
pub async fn change_value<T: Serialize + DeserializeOwned>(
    store: &Store,
    key: &str,
    mut change: impl FnMut(Option<T>) -> Option<T>,
) -> Result<bool, ChangeError> {
    for _ in 0..CHANGES_MAX {
        let (value, revision) = read_value(store, key).await?;
        let Some(next) = change(value) else { return Ok(false) };
        if write_value(store, key, &next, revision).await? {
            return Ok(true);
        }
    }
    Err(ChangeError::Contended(key.to_owned()))
}

type BoxedError = Box<dyn std::error::Error + Send + Sync>;

/// Tells `hear` what is in a bucket and what changes, for ever. `open` opens it, each time anew.
pub async fn follow<O, E>(
    client: Client,
    mut open: impl FnMut() -> O + Send,
    mut hear: impl FnMut(News<'_>) + Send,
) where
    O: Future<Output = Result<Store, E>> + Send,
    E: Into<BoxedError>,
{
    loop {
        match read(&client, &mut open, &mut hear).await {
            Ok(why) => tracing::info!("a bucket is read again: {why}"),
            Err(error) => tracing::warn!("a bucket cannot be followed: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
    }
}

/// One reading. Ends with the reason for another one.
async fn read<O, E>(
    client: &Client,
    open: &mut (impl FnMut() -> O + Send),
    hear: &mut (impl FnMut(News<'_>) + Send),
) -> Result<&'static str, BoxedError>
where
    O: Future<Output = Result<Store, E>> + Send,
    E: Into<BoxedError>,
{
    let connects = || client.statistics().connects.load(Ordering::Relaxed);
    let connected = connects();
    let store = open().await.map_err(Into::into)?;
    let opened = store.stream.cached_info().clone();
    let mut entries = store.watch_with_history(">").await?;
    let (mut keys, mut last) = (HashSet::new(), 0);
    hear(News::Opened);
    if opened.state.messages == 0 {
        hear(News::CaughtUp);
    }
    let mut look = tokio::time::interval(Duration::from_secs(LOOK_S));
    look.tick().await;
    loop {
        let entry = tokio::select! {
            entry = entries.next() => entry.ok_or("the watch ended")??,
            _ = look.tick() => {
                if connects() != connected {
                    return Ok("the connection is a new one");
                }
                let now = open().await.map_err(Into::into)?;
                if let Some(why) = differs(&opened, now.stream.cached_info(), last, keys.len()) {
                    return Ok(why);
                }
                continue;
            }
        };
        hear(match entry.operation {
            Operation::Put => News::Put { key: &entry.key, value: &entry.value },
            Operation::Delete | Operation::Purge => News::Deleted { key: &entry.key },
        });
        if entry.delta == 0 {
            hear(News::CaughtUp);
        }
        last = entry.revision;
        keys.insert(entry.key);
    }
}

/// Whether a bucket is another one than was opened, or lost entries that were told of.
fn differs(opened: &Info, now: &Info, last: u64, keys: usize) -> Option<&'static str> {
    if now.created != opened.created {
        Some("it was made anew")
    } else if now.state.last_sequence < last {
        Some("it went back")
    } else if now.state.last_sequence == last && now.state.messages != keys as u64 {
        Some("it lost entries") // a bucket keeps one message per key, deleted ones included
    } else {
        None
    }
}
