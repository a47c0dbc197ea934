//! The open stages of all organizations. An organization that is added to a running Platform gets its stages
//! here: an account on nats-server, buckets in it, and a reconciler.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use anyhow::Result;
use async_nats::Client;
use async_nats::connection::State;
use odeon_protocol::{OrganizationId, StageName, TrustedKeys};
use tracing::warn;

use super::stage::Stage;
use crate::keys::Keys;

/// Time between two looks whether nats-server knows all accounts, in seconds.
const ACCOUNTS_S: u64 = 5;

/// See the module.
pub(crate) struct Stages {
    open: RwLock<Vec<Arc<Stage>>>,
    system: Client,
    keys: Keys,
    trusted: TrustedKeys,
    nats_url: String,
}

impl Stages {
    /// No stages yet, and the connection by which accounts are made.
    pub(crate) async fn connect(keys: Keys, trusted: TrustedKeys, nats_url: &str) -> Result<Self> {
        let system = super::connect_system(nats_url, &keys).await?;
        Ok(Self { open: RwLock::default(), system, keys, trusted, nats_url: nats_url.to_owned() })
    }

    /// Whose seals count.
    pub(crate) fn trusted(&self) -> &TrustedKeys {
        &self.trusted
    }

    /// Makes a stage's account and buckets, unless they are there.
    pub(crate) async fn make(&self, organization: &OrganizationId, name: &StageName) -> Result<()> {
        Stage::make(self.client(organization, name).await?, name).await
    }

    async fn client(&self, organization: &OrganizationId, name: &StageName) -> Result<Client> {
        super::push_account(&self.system, &self.keys, organization, name).await?;
        super::connect_stage(&self.nats_url, &self.keys, organization, name).await
    }

    /// The same, and listens to it.
    pub(crate) async fn open(&self, organization: &OrganizationId, name: &StageName) -> Result<Arc<Stage>> {
        let client = self.client(organization, name).await?;
        let stage = Stage::open(client, organization.clone(), name.clone(), self.trusted.clone()).await?;
        self.open.write().unwrap_or_else(PoisonError::into_inner).push(stage.clone());
        Ok(stage)
    }

    /// The stages of an organization, in order of promotion.
    pub(crate) fn of(&self, organization: &OrganizationId) -> Vec<Arc<Stage>> {
        self.all().into_iter().filter(|stage| stage.organization == *organization).collect()
    }

    fn all(&self) -> Vec<Arc<Stage>> {
        self.open.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Tells nats-server of accounts again that it has lost, for ever: its folder may have been emptied.
    pub(crate) async fn keep_accounts(&self) {
        loop {
            tokio::time::sleep(Duration::from_secs(ACCOUNTS_S)).await;
            if self.system.connection_state() != State::Connected {
                continue;
            }
            for stage in self.all().iter().filter(|stage| !stage.is_connected()) {
                let pushed =
                    super::push_account(&self.system, &self.keys, &stage.organization, &stage.name).await;
                if let Err(error) = pushed {
                    warn!(stage = %stage.name, "{error:#}");
                }
            }
        }
    }
}
