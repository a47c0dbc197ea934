//! Events of the apps that serve here: those that they triggered are sent, those that they handle are taken.
//!
//! After a commit the app's outbox is emptied into the stage's stream, in a transaction that takes out what the stream has
//! confirmed; now and then it is looked at anyway, for what a host that died left in it. What the app wrote there itself and
//! cannot be sent is taken out, and told in its log. A handler pulls from its durable
//! consumer as much as it can run. The rules are [`odeon_protocol::events`]. Invariant: what the stream has not
//! confirmed stays in the outbox, and what a handler has not taken stays in the stream.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, ensure};
use async_nats::Client;
use async_nats::jetstream::consumer::PullConsumer;
use async_nats::jetstream::context::PublishError;
use async_nats::jetstream::{self, AckKind, Message};
use async_nats::{HeaderMap, header};
use futures_util::{StreamExt as _, TryStreamExt as _};
use odeon_capabilities::events::{EventLimits, Taken, hold, remove};
use odeon_capabilities::log::{Level, Line, Sink as _};
use odeon_capabilities::sql::session::{Database, Session};
use odeon_engine::Payer;
use odeon_protocol::AppId;
use odeon_protocol::events::{
    self, APP_WAITING_MAX, AfterFailure, DEAD_STREAM, EventHandler, HANDLER_S_MAX, PAYLOAD_BYTES_MAX,
    RETRY_S, STREAM, WAITING_MAX, after_failure,
};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::Host;
use crate::apps::Served;
use crate::triggers::{self, Trigger};

/// Time between two looks at an outbox that nobody was told of, in seconds.
const LOOK_S: u64 = 30;
/// What an app's outbox may hold of events.
pub(crate) const LIMITS: EventLimits =
    EventLimits { waiting_max: WAITING_MAX, payload_bytes_max: PAYLOAD_BYTES_MAX };
/// Events that are sent in one transaction: 1 MiB of payloads at most.
const SENT_MAX: i64 = 100;
/// Events of one handler at once on one host.
const AT_ONCE: usize = 16;
/// How long a pull waits for events, in seconds.
const PULL_S: u64 = 20;
/// Wait before what failed is tried again, in seconds; doubles each time, up to [`PAUSE_S_MAX`].
const PAUSE_S: u64 = 1;
/// See [`PAUSE_S`].
const PAUSE_S_MAX: u64 = 30;
/// Wait before an event that this revision does not listen to is given to another host, in seconds.
const GIVE_BACK_S: u64 = 2;
/// How often it is given back: for longer than a rollout takes.
const GIVE_BACKS_MAX: i64 = 60;
/// Longest reason that is kept with a dead event, in bytes.
const REASON_BYTES_MAX: usize = 1_000;

/// Looks after the events of an app until it is replaced or taken out.
pub(crate) fn look_after(host: &Arc<Host>, served: &Arc<Served>) {
    if served.publishes {
        let (host, served) = (host.clone(), served.clone());
        tokio::spawn(async move {
            let retired = served.retired.clone();
            retired.run_until_cancelled(send_all(&host, &served)).await
        });
    }
    for handler in served.handlers.clone() {
        let (host, served) = (host.clone(), served.clone());
        tokio::spawn(async move {
            let retired = served.retired.clone();
            retired.run_until_cancelled(take_all(&host, &served, &handler)).await
        });
    }
}

/// Empties the outbox of an app for ever.
async fn send_all(host: &Arc<Host>, served: &Served) {
    let mut pause = PAUSE_S;
    let mut full = Full::default();
    loop {
        match send_some(host, served, &mut full).await {
            Ok(seen) if seen == SENT_MAX => {} // there are more
            Ok(_) => {
                pause = PAUSE_S;
                let told = served.outbox.notified();
                let _ = tokio::time::timeout(Duration::from_secs(LOOK_S), told).await;
            }
            Err(error) => {
                warn!(app = served.name, "events wait in the outbox: {error:#}");
                tokio::time::sleep(Duration::from_secs(pause)).await;
                pause = (pause * 2).min(PAUSE_S_MAX);
            }
        }
    }
}

/// Names of events of which the stream took no more, and when: they hold up no others.
#[derive(Default)]
struct Full(HashMap<String, Instant>);

impl Full {
    /// Those that are not asked about now.
    fn names(&mut self) -> impl Iterator<Item = &str> {
        self.0.retain(|_, since| since.elapsed() < Duration::from_secs(LOOK_S));
        self.0.keys().map(String::as_str)
    }
}

/// Sends the oldest events, and says how many it saw.
async fn send_some(host: &Host, served: &Served, full: &mut Full) -> Result<i64> {
    let client = host.client.get().context("NATS was not reached yet")?;
    // Not within the app's memory: an app that has none left still tells what it committed.
    let payer = Payer::new(host.engine.scheduler().clone(), served.account.cpu.clone());
    let session = Session::new(Database::new(host.pools.clone(), served.id.as_str()).paid_by(payer));
    let sent = send(client, served, &session, full).await;
    match &sent {
        Ok(_) => session.commit().await.map_err(|error| anyhow!("{error:?}"))?,
        Err(_) => session.abandon().await,
    }
    session.release().await;
    let Sent { taken: Taken { events, refused }, broke } = sent?;
    if let Some((_, why)) = refused.first() {
        let message = format!(
            "{} events of odeon_outbox cannot be sent and were taken out; of one of them: {why}",
            refused.len()
        );
        let (level, source, request_id) = (Level::Warning, "host", String::new());
        served.log.take(Line { level, source, message, request_id, error_code: None, origin: None });
    }
    broke.map_or_else(|| Ok(i64::try_from(events.len() + refused.len()).unwrap_or(SENT_MAX)), Err)
}

/// What was held to be sent, and why not all of it was, where it was not for the events.
struct Sent {
    taken: Taken,
    broke: Option<anyhow::Error>,
}

/// Sends events that it holds, and takes out of the outbox what the stream confirmed.
async fn send(client: &Client, served: &Served, session: &Session, full: &mut Full) -> Result<Sent> {
    let outbox = |error| anyhow!("read the outbox: {error:?}");
    let taken = hold(session, LIMITS, SENT_MAX, full.names()).await.map_err(outbox)?;
    if taken.events.is_empty() && taken.refused.is_empty() {
        return Ok(Sent { taken, broke: None });
    }
    let jetstream = jetstream::new(client.clone());
    if !taken.events.is_empty() {
        has_room(&jetstream, &served.id).await?;
    }
    let mut confirmations = Vec::new();
    for event in &taken.events {
        let mut headers = HeaderMap::new();
        // Sent again after a crash, it is the same event.
        headers.insert(header::NATS_MESSAGE_ID, format!("{}.{}", served.id, event.id));
        let subject = events::subject(&served.id, &event.event);
        let payload = event.payload.clone().into();
        confirmations.push(jetstream.publish_with_headers(subject, headers, payload).await?);
    }
    let mut gone: Vec<i64> = taken.refused.iter().map(|(id, _)| *id).collect();
    let mut broke = None;
    for (event, confirmation) in taken.events.iter().zip(confirmations) {
        match confirmation.await {
            Ok(_) => gone.push(event.id),
            Err(error) if is_full(&error) => {
                if full.0.insert(event.event.clone(), Instant::now()).is_none() {
                    warn!(app = served.name, event = event.event, "the stream takes none of these: {error}");
                }
            }
            Err(error) => {
                broke = Some(anyhow::Error::from(error).context("the stream did not take an event"));
                break;
            }
        }
    }
    remove(session, gone.into_iter()).await.map_err(outbox)?;
    Ok(Sent { taken, broke })
}

/// Whether the stream has as many events of this name as it takes. The server has one number for this and for all else that a stream refuses.
fn is_full(error: &PublishError) -> bool {
    error.to_string().contains("maximum messages per subject exceeded")
}

/// The stream is for the events of all apps: one whose handlers do not take what it triggers fills no more than its part.
async fn has_room(jetstream: &jetstream::Context, app: &AppId) -> Result<()> {
    let stream = jetstream.get_stream_no_info(STREAM).await?;
    let names = stream.info_with_subjects(events::subjects(app)).await.context("look at the stream")?;
    let waiting = names.try_fold(0, async |waiting, (_, count)| Ok(waiting + count)).await?;
    ensure!(
        waiting < APP_WAITING_MAX,
        "{waiting} events of the app wait for their handlers, and {APP_WAITING_MAX} may"
    );
    Ok(())
}

/// Takes the events of a handler for ever.
async fn take_all(host: &Arc<Host>, served: &Arc<Served>, handler: &EventHandler) {
    let mut pause = PAUSE_S;
    while !host.is_stopping() {
        match take_some(host, served, handler).await {
            Ok(()) => pause = PAUSE_S,
            Err(error) => {
                warn!(app = served.name, handler = handler.name, "no events are taken: {error:#}");
                tokio::time::sleep(Duration::from_secs(pause)).await;
                pause = (pause * 2).min(PAUSE_S_MAX);
            }
        }
    }
}

/// Takes events as long as the stage gives some.
async fn take_some(host: &Arc<Host>, served: &Arc<Served>, handler: &EventHandler) -> Result<()> {
    let client = host.client.get().context("NATS was not reached yet")?;
    let stream = jetstream::new(client.clone()).get_stream_no_info(STREAM).await?;
    let name = events::consumer(&served.id, &handler.name);
    let consumer: PullConsumer = stream.get_consumer(&name).await.map_err(|error| anyhow!("{error}"))?;
    let places = Arc::new(Semaphore::new(AT_ONCE));
    while !host.is_stopping() {
        // One free place at least; as many events as there are places.
        drop(places.acquire().await?);
        let free = places.available_permits();
        let wait = Duration::from_secs(PULL_S);
        let mut batch = consumer.batch().max_messages(free).expires(wait).messages().await?;
        while let Some(message) = batch.next().await {
            let message = message.map_err(|error| anyhow!("{error}"))?;
            if host.is_stopping() {
                // Another host takes it at once.
                message.ack_with(AckKind::Nak(None)).await.map_err(|error| anyhow!("{error}"))?;
                continue;
            }
            let place = places.clone().acquire_owned().await?;
            let (host, served, handler) = (host.clone(), served.clone(), handler.clone());
            let in_flight = host.metrics.begin(); // until the stage knows how it ended
            tokio::spawn(async move {
                let _in_flight = in_flight;
                if let Err(error) = handle(&host, &served, &handler, &message).await {
                    warn!(app = served.name, handler = handler.name, "the event comes again: {error:#}");
                }
                drop(place);
            });
        }
    }
    Ok(())
}

/// Runs a handler for an event, and tells the stage what came of it.
async fn handle(host: &Host, served: &Arc<Served>, handler: &EventHandler, message: &Message) -> Result<()> {
    let told = |error: async_nats::Error| anyhow!("tell the stage: {error}");
    // While a rollout lasts, the consumer of a handler may have the event of one revision and that of the next.
    if message.subject.as_str() != events::subject(&handler.producer, &handler.event) {
        let given_back = message.info().map_or(0, |info| info.delivered);
        let kind = match given_back < GIVE_BACKS_MAX {
            true => AckKind::Nak(Some(Duration::from_secs(GIVE_BACK_S))),
            false => AckKind::Term,
        };
        return message.ack_with(kind).await.map_err(told);
    }
    let wall = Duration::from_secs(HANDLER_S_MAX);
    let trigger = Trigger::event(&handler.name, message.payload.clone(), wall);
    let Err(why) = triggers::run(host, served, trigger).await else {
        return message.ack().await.map_err(told);
    };
    let tries = message.info().map_or(1, |info| info.delivered);
    let first = host.settings.event_retry_ms.map_or(Duration::from_secs(RETRY_S), Duration::from_millis);
    match after_failure(u32::try_from(tries).unwrap_or(u32::MAX), first) {
        AfterFailure::Retry(wait) => {
            warn!(app = served.name, handler = handler.name, tries, "a handler failed: {why}");
            message.ack_with(AckKind::Nak(Some(wait))).await.map_err(told)
        }
        AfterFailure::Dead => {
            bury(host, served, handler, message, &why).await?;
            message.ack_with(AckKind::Term).await.map_err(told)
        }
    }
}

/// Puts an event aside that was tried often enough.
async fn bury(
    host: &Host,
    served: &Served,
    handler: &EventHandler,
    message: &Message,
    why: &str,
) -> Result<()> {
    let client = host.client.get().context("NATS was not reached yet")?;
    let mut headers = HeaderMap::new();
    headers.insert("odeon-event", message.subject.as_str());
    let cut = why.floor_char_boundary(REASON_BYTES_MAX);
    headers.insert("odeon-reason", why[..cut].replace(['\r', '\n'], " "));
    let subject = events::dead_subject(&served.id, &handler.name);
    let jetstream = jetstream::new(client.clone());
    let sent = jetstream.publish_with_headers(subject, headers, message.payload.clone()).await?;
    sent.await.with_context(|| format!("put an event into {DEAD_STREAM}"))?;
    info!(app = served.name, handler = handler.name, "an event was put aside: {why}");
    Ok(())
}
