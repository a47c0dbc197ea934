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

use std::sync::Arc;

use anyhow::{Context as _, Result};
use async_nats::jetstream;
use async_nats::{Client, Message};
use futures_util::StreamExt as _;
use odeon_protocol::{CredentialsReply, MigrateReply, Refusal, TrustedKeys, connection, subjects};
use serde::Serialize;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{ConnectOptions as _, PgPool};
use tokio::sync::Semaphore;
use tracing::{info, warn};

use crate::settings::Settings;

/// Questions answered at once; more wait in NATS.
const ANSWERS_AT_ONCE: usize = 8;
/// Connections to the stage's database.
const DATABASE_CONNECTIONS_MAX: u32 = 8;

/// What answering needs.
pub(crate) struct Migrator {
    pub(crate) settings: Settings,
    pub(crate) database: PgPool,
    pub(crate) trusted: TrustedKeys,
    pub(crate) jetstream: jetstream::Context,
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
        let reply = match migrate::migrate(migrator, &question.payload).await {
            Ok(migrate::Migrated { steps, warnings }) => MigrateReply::Done { steps, warnings },
            Err(error) => MigrateReply::Refused(told(error)),
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
