//! Settings of a migrator: one JSON file, unknown keys refused.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use odeon_protocol::{DatabaseLogin, OrganizationId, StageName};
use serde::{Deserialize, Serialize};

/// The file given to `odeon-migrator serve --config`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Whose stage.
    pub organization: OrganizationId,
    /// Which stage.
    pub stage: StageName,
    /// Admin login of the stage's database.
    pub database: DatabaseLogin,
    /// NATS URL.
    pub nats_url: String,
    /// NATS credentials file.
    pub credentials: PathBuf,
    /// Public keys that desired state and migrations must be sealed with.
    pub trusted_keys: PathBuf,
}

impl Settings {
    /// Reads the file.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            std::fs::read(path).with_context(|| format!("read the settings file {}", path.display()))?;
        serde_json::from_slice(&text)
            .with_context(|| format!("understand the settings file {}", path.display()))
    }
}
