//! The Platform's side of NATS: one connection per stage, into that stage's own account.

pub(crate) mod auth;
pub(crate) mod handlers;
pub(crate) mod stage;
pub(crate) mod stages;

use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::{Client, ConnectOptions};
use odeon_protocol::{OrganizationId, StageName, connection};

use crate::keys::Keys;

/// How long an account push may take, in seconds.
const CLAIMS_PUSH_S_MAX: u64 = 10;

/// Tells the running server of a stage's account. Repeating it changes nothing.
pub(crate) async fn push_account(
    system: &Client,
    keys: &Keys,
    organization: &OrganizationId,
    stage: &StageName,
) -> Result<()> {
    let account = keys.stage_account(organization, stage)?;
    let token = auth::stage_account_token(&keys.operator()?, &account, &format!("{organization}-{stage}"))?;
    let push = system.request("$SYS.REQ.CLAIMS.UPDATE", token.into());
    let reply = tokio::time::timeout(Duration::from_secs(CLAIMS_PUSH_S_MAX), push)
        .await
        .context("nats-server did not answer the account update; does it use the JWT resolver?")?
        .with_context(|| format!("push the account of stage {stage} to nats-server"))?;
    let reply: serde_json::Value =
        serde_json::from_slice(&reply.payload).context("read the resolver's answer")?;
    anyhow::ensure!(
        reply.get("error").is_none(),
        "nats-server refused the account of stage {stage}: {reply}"
    );
    Ok(())
}

/// Connects to the system account, which manages the others.
pub(crate) async fn connect_system(url: &str, keys: &Keys) -> Result<Client> {
    let credentials =
        auth::user_credentials(&keys.system_account()?, "platform", &auth::Permissions::platform())?;
    connect(url, &credentials, "platform-system").await
}

/// Connects to the account of a stage.
pub(crate) async fn connect_stage(
    url: &str,
    keys: &Keys,
    organization: &OrganizationId,
    stage: &StageName,
) -> Result<Client> {
    let account = keys.stage_account(organization, stage)?;
    let credentials = auth::user_credentials(&account, "platform", &auth::Permissions::platform())?;
    connect(url, &credentials, "platform").await
}

async fn connect(url: &str, credentials: &str, name: &str) -> Result<Client> {
    let options = ConnectOptions::with_credentials(credentials).context("read fresh NATS credentials")?;
    connection::watchful(options)
        .name(name)
        .connect(url)
        .await
        .with_context(|| format!("connect to nats-server at {url}"))
}
