//! The migrator of a stage: the only process that holds the admin login of the stage's database.
//!
//! It answers two questions. From the Platform, sealed: bring an app's schema to a revision
//! ([`migrate`]). From a host: what is the login of this app, which is placed on me ([`credentials`]).
//! Whoever asks gets an answer, also when it is no.
//!
//! What must stay true: nothing is ever dropped that holds data; a migration happens whole or not at all;
//! a host learns the logins of the apps that sealed desired state places on it, and no others.

pub mod credentials;
pub mod harden;
pub mod migrate;
pub mod plan;
pub mod roles;
pub mod settings;
mod share;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use async_nats::{Client, Message};
use futures_util::StreamExt as _;
use odeon_protocol::{
    CredentialsReply, Digest, MIGRATION_RUNS, MigrateReply, Refusal, TrustedKeys, connection, subjects,
};
use serde::Serialize;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, PgPool};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::settings::Settings;

/// Questions answered at once; more wait in NATS.
const ANSWERS_AT_ONCE: usize = 8;
/// How long it is remembered what was refused, in seconds: the Platform asks again within sixteen.
const REFUSED_S: u64 = 30;
/// Refusals that are remembered.
const REFUSED_MAX: usize = 64;
/// Connections to the stage's database.
const DATABASE_CONNECTIONS_MAX: u32 = 8;

/// What answering needs.
pub(crate) struct Migrator {
    pub(crate) settings: Settings,
    pub(crate) database: PgPool,
    pub(crate) trusted: TrustedKeys,
    pub(crate) jetstream: jetstream::Context,
    pub(crate) refused: Refused,
}

/// What was refused lately, by the digest of the question. It may have taken longer to find than whoever asked waited for the answer: the
/// same question, asked again, gets it without all being done once more.
#[derive(Default)]
pub(crate) struct Refused(Mutex<Vec<(Digest, Instant, Refusal)>>);

impl Refused {
    fn find(&self, question: &Digest) -> Option<Refusal> {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        refused.retain(|(_, since, _)| since.elapsed() < Duration::from_secs(REFUSED_S));
        refused.iter().find(|(asked, ..)| asked == question).map(|(.., refusal)| refusal.clone())
    }

    fn remember(&self, question: Digest, refusal: Refusal) {
        let mut refused = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if refused.len() == REFUSED_MAX {
            refused.remove(0);
        }
        refused.push((question, Instant::now(), refusal));
    }
}

/// Runs until `shutdown` resolves.
pub async fn serve(settings: Settings, shutdown: impl Future<Output = ()>) -> Result<()> {
    let trusted = tokio::fs::read(&settings.trusted_keys).await;
    let trusted = trusted.with_context(|| format!("read {}", settings.trusted_keys.display()))?;
    let database = &settings.database;
    let options = PgConnectOptions::new_without_pgpass()
        .host(&database.host)
        .port(database.port)
        .database(&database.database)
        .username(&database.user)
        .password(&database.password)
        .disable_statement_logging(); // some say the password of an app's login
    let pool = PgPoolOptions::new().max_connections(DATABASE_CONNECTIONS_MAX).connect_with(options).await;
    let pool = pool.context("connect to the stage's database")?;
    roles::prepare(&pool).await.context("prepare the stage's database")?;
    let client = connection::join(&settings.nats_url, &settings.credentials, "migrator").await?;
    let migrator = Arc::new(Migrator {
        trusted: TrustedKeys::from_json(&trusted)?,
        jetstream: jetstream::new(client.clone()),
        database: pool,
        settings,
        refused: Refused::default(),
    });
    tokio::select! {
        result = answer_all(client, migrator) => result,
        () = shutdown => Ok(()),
    }
}

async fn answer_all(client: Client, migrator: Arc<Migrator>) -> Result<()> {
    let migrations = client.queue_subscribe(subjects::MIGRATE, "migrators".into()).await?;
    let credentials = client.queue_subscribe(subjects::CREDENTIALS, "migrators".into()).await?;
    let mut questions = futures_util::stream::select(migrations, credentials);
    let turns = Arc::new(Semaphore::new(ANSWERS_AT_ONCE));
    info!(stage = %migrator.settings.stage, "the migrator answers");
    while let Some(question) = questions.next().await {
        let turn = turns.clone().acquire_owned().await.context("the migrator is shutting down")?;
        let (client, migrator) = (client.clone(), migrator.clone());
        tokio::spawn(async move {
            answer(&client, &migrator, question).await;
            drop(turn);
        });
    }
    anyhow::bail!("the connection to nats-server was closed for good")
}

async fn answer(client: &Client, migrator: &Migrator, question: Message) {
    if question.subject.as_str() == subjects::MIGRATE {
        let asked = Digest::of(&question.payload);
        let reply = match migrator.refused.find(&asked) {
            Some(refusal) => MigrateReply::Refused(refusal),
            None => match migrate::migrate(migrator, &question.payload).await {
                Ok(migrate::Migrated { steps, warnings }) => MigrateReply::Done { steps, warnings },
                Err(error) => {
                    if let Some(refusal) =
                        error.downcast_ref::<Refusal>().filter(|why| why.code != MIGRATION_RUNS)
                    {
                        migrator.refused.remember(asked, refusal.clone());
                    }
                    MigrateReply::Refused(told(error))
                }
            },
        };
        reply_with(client, &question, &reply).await;
    } else {
        let reply =
            match credentials::credentials(migrator, question.subject.as_str(), &question.payload).await {
                Ok(login) => CredentialsReply::Granted(login),
                Err(error) => CredentialsReply::Refused(told(error)),
            };
        reply_with(client, &question, &reply).await;
    }
}

/// A refusal is told as it is; anything else is logged here and told without its details.
fn told(error: anyhow::Error) -> Refusal {
    match error.downcast::<Refusal>() {
        Ok(refusal) => refusal,
        Err(error) => {
            warn!("{error:#}");
            Refusal::new(
                "OS-MIG-50001",
                "the migrator could not do this; its log has the cause. Nothing was changed",
            )
        }
    }
}

async fn reply_with<T: Serialize>(client: &Client, question: &Message, reply: &T) {
    let Some(to) = question.reply.clone() else { return };
    let payload = serde_json::to_vec(reply).expect("replies have string keys only");
    if let Err(error) = client.publish(to, payload.into()).await {
        warn!("cannot answer: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_refused_is_told_again_to_who_asks_the_same() {
        let refused = Refused::default();
        let question = |number: usize| Digest::of(&number.to_be_bytes());
        for number in 0..=REFUSED_MAX {
            refused.remember(question(number), Refusal::new("OS-DPL-40912", number.to_string()));
        }
        assert!(refused.find(&question(0)).is_none(), "so many are remembered");
        assert_eq!(refused.find(&question(1)).map(|refusal| refusal.message), Some("1".to_owned()));
        assert!(refused.find(&question(REFUSED_MAX + 1)).is_none());
    }
}
