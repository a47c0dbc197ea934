//! Where a local installation keeps its things, and what is running of it.
//!
//! `status.json` is written by `odeon up` once everything answers and removed when it stops; every other
//! command finds the Platform through it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};

/// Folder of an installation that root starts: reachable for the unprivileged user that runs it.
const ROOT_FOLDER: &str = "/var/lib/odeon";

/// The folder of an installation.
#[derive(Debug, Clone)]
pub(crate) struct Layout {
    pub(crate) root: PathBuf,
}

/// What runs, for people and scripts.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Status {
    /// The process of `odeon up`.
    pub(crate) pid: u32,
    /// URL of the Platform's REST services.
    pub(crate) platform: String,
    /// URL of each stage's router.
    pub(crate) stages: BTreeMap<String, String>,
    /// Every child process, in the order in which they were started.
    pub(crate) processes: Vec<ProcessStatus>,
}

/// One child process.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct ProcessStatus {
    pub(crate) name: String,
    pub(crate) pid: Option<u32>,
    /// Fixed address, when it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) address: Option<String>,
    /// How often it was started anew.
    pub(crate) restarts: u32,
    /// Where its output goes.
    pub(crate) log: PathBuf,
}

impl Layout {
    /// The folder that was asked for, or the usual one.
    pub(crate) fn choose(asked: Option<PathBuf>) -> Result<Self> {
        let root = match asked {
            Some(folder) => std::path::absolute(folder).context("make the data folder absolute")?,
            None if rustix::process::geteuid().is_root() => ROOT_FOLDER.into(),
            None => {
                let home = std::env::home_dir().context("HOME is not set; say where with --data")?;
                home.join(".local/share/odeon")
            }
        };
        Ok(Self { root })
    }
    pub(crate) fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.root.join(name)
    }
    pub(crate) fn status_file(&self) -> PathBuf {
        self.path("status.json")
    }
    pub(crate) fn token_file(&self) -> PathBuf {
        self.path("run/token")
    }
    /// What runs now, if anything does.
    pub(crate) fn status(&self) -> Result<Option<Status>> {
        let path = self.status_file();
        match std::fs::read(&path) {
            Ok(bytes) => Ok(Some(
                serde_json::from_slice(&bytes).with_context(|| format!("understand {}", path.display()))?,
            )),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("read {}", path.display())),
        }
    }
}
