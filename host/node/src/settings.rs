//! Settings of a host: one JSON file, unknown keys refused.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use odeon_protocol::{HostId, OrganizationId, StageName};
use serde::{Deserialize, Serialize};

/// The file given to `odeon-host run --config`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Whose stage.
    pub organization: OrganizationId,
    /// Which stage.
    pub stage: StageName,
    /// Name of this host; stays the same over restarts.
    pub host: HostId,
    /// Availability zone.
    pub zone: String,
    /// Where the router's requests come in; port 0 lets the system choose.
    pub listen: String,
    /// Where health and metrics are.
    pub admin_listen: String,
    /// Where routers reach the ingress, when that is not `listen`.
    #[serde(default)]
    pub advertise: Option<String>,
    /// NATS URL.
    pub nats_url: String,
    /// NATS credentials file.
    pub credentials: PathBuf,
    /// Public keys that claims and desired state must be sealed with.
    pub trusted_keys: PathBuf,
    /// The stage's key for the secret settings of its apps.
    pub secrets_key: PathBuf,
    /// Folder for artefacts and the last known desired state.
    pub state_dir: PathBuf,
    /// Database connections of all apps together.
    pub database_connections_max: usize,
    /// Code of loaded apps, in bytes; half of the memory that the host may use when absent.
    #[serde(default)]
    pub loaded_bytes_max: Option<u64>,
    /// Networks that apps may reach besides the Internet, as `10.1.0.0/16`; none when absent.
    #[serde(default)]
    pub egress_networks: Vec<String>,
    /// Networks that apps may not reach though they are part of the Internet, or opened; none when absent.
    #[serde(default)]
    pub egress_closed_networks: Vec<String>,
    /// The wait before an event is tried again for the first time, in milliseconds; 2 min when absent.
    #[serde(default)]
    pub event_retry_ms: Option<u64>,
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
