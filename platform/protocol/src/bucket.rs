//! Follows a KV bucket for ever, whatever happens to it.
//!
//! A watch alone is not enough: it goes on from the last sequence number it saw, and a bucket that was
//! purged, emptied or restored begins with other numbers, so that news would be passed over in silence.
//! So the bucket is looked at now and then, and read again from its first entry when it is not the one that
//! was opened, when the connection was a new one, or when it holds other keys than were heard.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::Client;
use async_nats::jetstream::kv::{Operation, Store};
use async_nats::jetstream::stream::Info;
use futures_util::StreamExt as _;

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
