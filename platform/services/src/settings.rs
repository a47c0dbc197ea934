//! Settings of the Platform: one JSON file, unknown keys refused, nothing read from the environment but
//! the credentials of an object store.

use std::path::PathBuf;

use anyhow::{Context as _, Result, anyhow};
use odeon_protocol::StageName;
use serde::{Deserialize, Serialize};

use crate::deployments::limits::OwnLimits;

/// The file given to `odeon-platform serve --config`.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Where REST is served, such as `127.0.0.1:7400`.
    pub listen: String,
    /// PostgreSQL URL of the Platform's own database.
    pub database_url: String,
    /// NATS URL.
    pub nats_url: String,
    /// Folder of private keys.
    pub keys: PathBuf,
    /// Folder or `s3://` URL for models, components and native code.
    pub blobs: String,
    /// `odeon-host`, to make native code with. Without it, hosts compile for themselves.
    pub host_binary: Option<PathBuf>,
    /// Organization that is made at the first start.
    pub organization: String,
    /// Its stages, in order of promotion.
    pub stages: Vec<StageName>,
    /// Where the first token of that organization is written, mode 0600.
    pub token_file: PathBuf,
    /// The most that a deployment may give an app of each limit; what is absent, what hosts can keep.
    #[serde(default)]
    pub limits_max: OwnLimits,
}

impl Settings {
    /// Reads the file.
    pub fn read(path: &std::path::Path) -> Result<Self> {
        let text =
            std::fs::read(path).with_context(|| format!("read the settings file {}", path.display()))?;
        let read = serde_json::from_slice(&text).map_err(anyhow::Error::from).and_then(|settings: Self| {
            settings.limits_max.check().map_err(|detail| anyhow!("`limits_max`: {detail}"))?;
            Ok(settings)
        });
        read.with_context(|| format!("understand the settings file {}", path.display()))
    }
}
