//! Logins of the apps that are placed here, from the stage's migrator; kept on disk for when it is away.

use std::sync::Arc;
use std::time::Duration;

use async_nats::{Client, Request};
use odeon_capabilities::sql::pool::{Login, Logins};
use odeon_protocol::{CredentialsReply, CredentialsRequest, DatabaseLogin, HostId, subjects};
use tokio::sync::OnceCell;

use crate::state::StateDir;

/// How long the migrator may take, in seconds.
const ANSWER_S_MAX: u64 = 3;

/// Asks the migrator.
pub(crate) struct MigratorLogins {
    pub(crate) client: Arc<OnceCell<Client>>,
    pub(crate) host: HostId,
    pub(crate) state: Arc<StateDir>,
}

impl Logins for MigratorLogins {
    async fn login(&self, app: &str) -> Result<Login, String> {
        let login = match self.ask(app).await {
            Ok(CredentialsReply::Granted(login)) => {
                if let Err(error) = self.state.put_login(app, &login) {
                    tracing::warn!(app, "the login was not kept on disk: {error:#}");
                }
                login
            }
            Ok(CredentialsReply::Refused(refusal)) => return Err(refusal.to_string()),
            Err(error) => self.state.login::<DatabaseLogin>(app).ok_or(error)?,
        };
        let DatabaseLogin { host, port, database, user, password } = login;
        Ok(Login { host, port, database, user, password })
    }
}

impl MigratorLogins {
    async fn ask(&self, app: &str) -> Result<CredentialsReply, String> {
        let client = self.client.get().ok_or("NATS was not reached yet")?;
        let app = app.parse().map_err(|error: odeon_protocol::IdError| error.to_string())?;
        let payload = serde_json::to_vec(&CredentialsRequest { app }).map_err(|error| error.to_string())?;
        let request = Request::new().payload(payload.into()).timeout(Some(Duration::from_secs(ANSWER_S_MAX)));
        let reply = client.send_request(subjects::credentials(&self.host), request).await;
        let reply = reply.map_err(|error| format!("the stage's migrator did not answer: {error}"))?;
        serde_json::from_slice(&reply.payload).map_err(|error| error.to_string())
    }
}
