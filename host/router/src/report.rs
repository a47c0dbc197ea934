//! Says into the stage's bucket which hosts this router sends requests to: a deployment waits for it.
//!
//! It has a task of its own, for it waits for answers of NATS, of which there may be one for each app.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::Client;
use async_nats::jetstream::{self, kv};
use futures_util::StreamExt as _;
use odeon_protocol::routes::Route;
use odeon_protocol::{AppId, RouterId, RouterStatus, subjects};
use tokio::sync::watch;
use tracing::warn;

/// Statuses that are written at once.
const REPORTS_AT_ONCE: usize = 64;
/// Time between two comparisons of our statuses with the bucket, in seconds: it may have been emptied or restored.
const COMPARE_S: u64 = 10;
/// Wait before statuses that were not written are written again, in milliseconds.
const AGAIN_MS: u64 = 500;

/// Writes what was installed for ever, in the name of this router and of this start of it.
pub(crate) async fn report(
    client: Client,
    (router, incarnation): (RouterId, String),
    mut installed: watch::Receiver<Arc<Vec<Route>>>,
) {
    let jetstream = jetstream::new(client);
    let mut written: HashMap<AppId, RouterStatus> = HashMap::new();
    let mut compared = Instant::now();
    loop {
        if let Ok(Err(_)) = tokio::time::timeout(Duration::from_secs(COMPARE_S), installed.changed()).await {
            return; // the router ends
        }
        if compared.elapsed() > Duration::from_secs(COMPARE_S) {
            written.clear();
            compared = Instant::now();
        }
        let routes = installed.borrow_and_update().clone();
        let status = |route: &Route| RouterStatus {
            router: router.clone(),
            incarnation: incarnation.clone(),
            app: route.app.clone(),
            generation: route.generation,
            replicas: route.replicas.iter().map(|(host, _)| host.clone()).collect(),
        };
        let news = routes.iter().map(status).filter(|status| written.get(&status.app) != Some(status));
        let news: Vec<_> = news.collect();
        if !news.is_empty()
            && let Err(error) = write(&jetstream, news, &mut written).await
        {
            warn!("statuses not written: {error:#}");
            tokio::time::sleep(Duration::from_millis(AGAIN_MS)).await;
            installed.mark_changed();
        }
    }
}

/// Writes statuses, and notes which were. The error is that of the first that was not.
async fn write(
    jetstream: &jetstream::Context,
    news: Vec<RouterStatus>,
    written: &mut HashMap<AppId, RouterStatus>,
) -> Result<()> {
    let bucket = jetstream.get_key_value(subjects::OBSERVED_BUCKET).await.context("open the bucket")?;
    let writes = news.into_iter().map(|status| {
        let bucket = &bucket;
        async move { write_status(bucket, &status).await.map(|()| status) }
    });
    let mut writes = futures_util::stream::iter(writes).buffer_unordered(REPORTS_AT_ONCE);
    let mut first_failure = Ok(());
    while let Some(done) = writes.next().await {
        match done {
            Ok(status) => drop(written.insert(status.app.clone(), status)),
            Err(error) => first_failure = first_failure.and(Err(error)),
        }
    }
    first_failure
}

async fn write_status(bucket: &kv::Store, status: &RouterStatus) -> Result<()> {
    let key = subjects::router_key(&status.router, &status.app);
    let bytes = serde_json::to_vec(status).context("encode a status")?;
    if bucket.get(&key).await.context("read our status")?.as_deref() != Some(&bytes) {
        bucket.put(&key, bytes.into()).await.context("write our status")?;
    }
    Ok(())
}
