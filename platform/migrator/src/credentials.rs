//! Gives a host the login of an app, if sealed desired state places the app on that host.
//!
//! Who asks is told by the subject, which NATS guards: a host may publish on its own only.

use anyhow::{Context as _, Result, bail};
use odeon_protocol::{
    AppId, CredentialsRequest, DatabaseLogin, DesiredApp, DesiredState, HostId, Refusal, Signed, subjects,
};
use sqlx::Row as _;

use crate::Migrator;

/// The login that the question in `payload`, asked on `subject`, is about.
pub(crate) async fn credentials(migrator: &Migrator, subject: &str, payload: &[u8]) -> Result<DatabaseLogin> {
    let malformed = || Refusal::new("OS-MIG-40003", "not a credentials request");
    let host: HostId = subject.rsplit('.').next().and_then(|name| name.parse().ok()).ok_or_else(malformed)?;
    let request: CredentialsRequest = serde_json::from_slice(payload).map_err(|_| malformed())?;
    if !is_placed(migrator, &request.app, &host).await? {
        bail!(Refusal::new("OS-MIG-40303", format!("app {} is not placed on host {host}", request.app)));
    }
    let row = sqlx::query("select login, password from odeon.apps where app = $1")
        .bind(request.app.as_str())
        .fetch_optional(&migrator.database)
        .await?;
    let row =
        row.ok_or_else(|| Refusal::new("OS-MIG-40401", format!("app {} has no database here", request.app)))?;
    let server = &migrator.settings.database;
    Ok(DatabaseLogin {
        host: server.host.clone(),
        port: server.port,
        database: server.database.clone(),
        user: row.get(0),
        password: row.get(1),
    })
}

async fn is_placed(migrator: &Migrator, app: &AppId, host: &HostId) -> Result<bool> {
    let bucket =
        migrator.jetstream.get_key_value(subjects::DESIRED_BUCKET).await.context("open desired state")?;
    let Some(bytes) = bucket.get(subjects::desired_key(app)).await.context("read desired state")? else {
        return Ok(false);
    };
    let sealed: Signed<DesiredApp> = serde_json::from_slice(&bytes).context("read desired state")?;
    let desired = sealed.open(&migrator.trusted)?;
    let here = &migrator.settings;
    Ok(match desired.state {
        DesiredState::Serving(serving) => {
            desired.stage == here.stage
                && desired.organization == here.organization
                && desired.app == *app
                && serving.placements.contains(host)
        }
        DesiredState::Removed => false,
    })
}
