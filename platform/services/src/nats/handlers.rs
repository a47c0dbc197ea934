//! The durable consumers of handlers: what an event waits for in the stage's stream.
//!
//! Two revisions serve during a rollout, and the one before goes on when it fails. So a deployment only adds: consumers,
//! and to a consumer the event that its handler listens to from now on. What no handler needs is taken away when the
//! rollout has ended, and what waits there goes with it. Hosts give back what their revision does not listen to.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, anyhow};
use async_nats::jetstream::consumer::{self, pull};
use async_nats::jetstream::stream::Stream;
use futures_util::StreamExt as _;
use odeon_protocol::AppId;
use odeon_protocol::events::{self, EventHandler};

use super::stage::Stage;

/// A consumer as the stage has it.
pub(crate) struct Consumer {
    /// Whose handler it belongs to.
    pub(crate) app: AppId,
    name: String,
    subjects: BTreeSet<String>,
}

impl Consumer {
    /// The handler that it is for, when there is one.
    fn handler<'a>(&self, handlers: &'a [EventHandler]) -> Option<&'a EventHandler> {
        handlers.iter().find(|handler| events::consumer(&self.app, &handler.name) == self.name)
    }

    /// Whether it is what one of these handlers needs, and no more.
    pub(crate) fn is_wanted(&self, handlers: &[EventHandler]) -> bool {
        self.handler(handlers).is_some_and(|handler| self.subjects == BTreeSet::from([subject(handler)]))
    }
}

impl Stage {
    /// Gives each handler of an app its durable consumer, and takes nothing away.
    pub(crate) async fn ensure_handlers(&self, app: &AppId, handlers: &[EventHandler]) -> Result<()> {
        let stream = self.stream().await?;
        for handler in handlers {
            let name = events::consumer(app, &handler.name);
            let wanted = config(&name, [subject(handler)].into());
            let made = stream.get_or_create_consumer(&name, wanted).await.map_err(|error| anyhow!("{error}"));
            let made = made.with_context(|| format!("make the consumer of handler {}", handler.name))?;
            let mut subjects = subjects(&made.cached_info().config);
            if subjects.insert(subject(handler)) {
                listen(&stream, &name, subjects).await?;
            }
        }
        Ok(())
    }

    /// The consumers of all handlers of the stage.
    pub(crate) async fn consumers(&self) -> Result<Vec<Consumer>> {
        let stream = self.stream().await?;
        let mut all = stream.consumers();
        let mut found = Vec::new();
        while let Some(info) = all.next().await {
            let info = info.context("list the consumers of the stage")?;
            let app = info.name.split_once('_').and_then(|(app, _)| app.parse().ok());
            let Some(app) = app else { continue }; // not of ours
            found.push(Consumer { app, subjects: subjects(&info.config), name: info.name });
        }
        Ok(found)
    }

    /// Takes from a consumer what these handlers do not need of it, or all of it.
    pub(crate) async fn narrow(&self, found: &Consumer, handlers: &[EventHandler]) -> Result<()> {
        let stream = self.stream().await?;
        match found.handler(handlers) {
            Some(handler) => listen(&stream, &found.name, [subject(handler)].into()).await,
            None => {
                let gone = stream.delete_consumer(&found.name).await;
                gone.map(drop).map_err(|error| anyhow!("take away the consumer {}: {error}", found.name))
            }
        }
    }

    async fn stream(&self) -> Result<Stream> {
        self.jetstream.get_stream(events::STREAM).await.context("open the stream of events")
    }
}

/// Changes what a consumer that exists listens to; it stays where it is.
async fn listen(stream: &Stream, name: &str, subjects: BTreeSet<String>) -> Result<()> {
    let changed = stream.update_consumer(config(name, subjects)).await;
    changed.map(drop).map_err(|error| anyhow!("change what the consumer {name} listens to: {error}"))
}

fn config(name: &str, subjects: BTreeSet<String>) -> pull::Config {
    pull::Config {
        durable_name: Some(name.to_owned()),
        filter_subjects: subjects.into_iter().collect(),
        // Events of before are nobody's business; a consumer that exists stays where it is.
        deliver_policy: consumer::DeliverPolicy::New,
        ack_wait: std::time::Duration::from_secs(events::ACK_S_MAX),
        max_ack_pending: events::HANDLING_MAX,
        max_deliver: -1, // counted by hosts, which put aside what fails
        ..Default::default()
    }
}

fn subject(handler: &EventHandler) -> String {
    events::subject(&handler.producer, &handler.event)
}

/// What a consumer listens to; the server keeps one subject apart from several.
fn subjects(config: &consumer::Config) -> BTreeSet<String> {
    let one = Some(&config.filter_subject).filter(|subject| !subject.is_empty());
    config.filter_subjects.iter().chain(one).cloned().collect()
}
