//! Settings of a router: one JSON file, unknown keys refused.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use odeon_protocol::{OrganizationId, RouterId, StageName};
use serde::{Deserialize, Serialize};

/// The file given to `odeon-router --config`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Whose stage.
    pub organization: OrganizationId,
    /// Which stage.
    pub stage: StageName,
    /// Name of this router.
    pub router: RouterId,
    /// Where users' requests come in.
    pub listen: String,
    /// Where health and metrics are.
    pub admin_listen: String,
    /// NATS URL.
    pub nats_url: String,
    /// NATS credentials file.
    pub credentials: PathBuf,
    /// Public keys that desired state must be sealed with.
    pub trusted_keys: PathBuf,
    /// Folder for the last known table.
    pub state_dir: PathBuf,
    /// How long it goes on taking requests when it is to stop, and says that it is not ready any more, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub leave_ms: Option<u64>,
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
