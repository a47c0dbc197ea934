//! What is asked and answered inside a stage. Every request gets a reply: an asker never has to guess
//! from silence.

use serde::{Deserialize, Serialize};

use crate::ids::{AppId, AppName, Generation, OrganizationId, Revision, StageName};
use crate::signing::Sealable;

/// Platform to migrator, sealed: bring an app's schema to a revision.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MigrateCommand {
    /// Owner.
    pub organization: OrganizationId,
    /// The stage this is meant for.
    pub stage: StageName,
    /// App.
    pub app: AppId,
    /// Its name, for messages.
    pub name: AppName,
    /// Revision whose schema this is.
    pub revision: Revision,
    /// A command that is older than the last one carried out is refused.
    pub generation: Generation,
    /// `odeon_oml::schema::Schema` as JSON; `None` for an app without a model.
    pub schema: Option<serde_json::Value>,
    /// The app serves no longer: its tables stay, and what it may read of other apps is taken from it.
    #[serde(default)]
    pub undeploys: bool,
    /// The stage had this revision before: rows that were written since do not hold it up.
    #[serde(default)]
    pub goes_back: bool,
}

impl Sealable for MigrateCommand {
    const PURPOSE: &'static str = "migration";
}

/// Code of the refusal that is none yet: a migration of the app still runs. Who asks again learns how it ended.
pub const MIGRATION_RUNS: &str = "OS-MIG-42301";

/// Code of the refusal of a generation that is older than one that was migrated. What that one needs is there: schemas only grow.
pub const MIGRATED_SINCE: &str = "OS-MIG-40901";

/// The answer to a [`MigrateCommand`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum MigrateReply {
    /// The schema is as wanted. Says what was done, in words.
    Done {
        /// One entry per statement of consequence; empty when there was nothing to do.
        steps: Vec<String>,
        /// What the rows that are there did not let be as the model says, in words.
        #[serde(default)]
        warnings: Vec<String>,
    },
    /// Nothing was changed.
    Refused(Refusal),
}

/// Host to migrator: the login of an app that is placed on the asking host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CredentialsRequest {
    /// The app.
    pub app: AppId,
}

/// The answer to a [`CredentialsRequest`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum CredentialsReply {
    /// Here it is.
    Granted(DatabaseLogin),
    /// The app is not placed on the asker, or has no database.
    Refused(Refusal),
}

/// How an app reaches its database in a stage.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DatabaseLogin {
    /// Server.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Database of the stage.
    pub database: String,
    /// Login role of the app in the stage.
    pub user: String,
    /// Its password.
    pub password: String,
}

impl std::fmt::Debug for DatabaseLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "DatabaseLogin({}@{}:{}/{}, password hidden)",
            self.user, self.host, self.port, self.database
        )
    }
}

/// Why something was not done, with a stable code.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// Stable code, such as `OS-DPL-40901`.
    pub code: String,
    /// For people: the thing, the place, the next step.
    pub message: String,
}

impl Refusal {
    /// A refusal.
    pub fn new(code: &str, message: impl Into<String>) -> Self {
        Self { code: code.to_owned(), message: message.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_never_printed() {
        let login = DatabaseLogin {
            host: "db".into(),
            port: 5432,
            database: "stage".into(),
            user: "app".into(),
            password: "canary".into(),
        };
        assert!(!format!("{login:?}").contains("canary"));
    }
}
