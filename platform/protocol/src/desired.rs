//! What the Platform wants of a stage: one signed [`DesiredApp`] per app, in the stage's KV bucket.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::events::EventHandler;
use crate::ids::{AppId, AppName, Digest, Generation, HostId, OrganizationId, Revision, StageName};
use crate::secrets::Secret;
use crate::signing::{Sealable, Signed};
use crate::timers::Timer;

/// App X at revision N in stage S, with a generation that only grows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DesiredApp {
    /// Who owns the app. Hosts never assume that all their apps have one owner.
    pub organization: OrganizationId,
    /// The stage this is meant for: state signed for one stage is refused in another.
    pub stage: StageName,
    /// The app.
    pub app: AppId,
    /// How new this is.
    pub generation: Generation,
    /// What is wanted.
    pub state: DesiredState,
}

/// Serve it, or stop serving it. There is no third way to stop: absence means nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "is")]
pub enum DesiredState {
    /// The app serves.
    Serving(Box<Serving>),
    /// A tombstone: the app was undeployed.
    Removed,
}

/// How an app serves.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Serving {
    /// First segment of its URLs; unique in the stage.
    pub name: AppName,
    /// What to run, signed when it was built.
    pub claim: Signed<Claim>,
    /// Copied from the claim for people and routers; hosts act on the claim only.
    pub revision: Revision,
    /// The hosts that hold a replica.
    pub placements: Vec<HostId>,
    /// What a replica may use.
    pub limits: Limits,
    /// Authorities (`host` or `host:port`) the app may call. Empty: none.
    pub egress_allow: Vec<String>,
    /// Whether the app has a database login in this stage.
    pub database: bool,
    /// What the stage sets for the app, by name; what it does not set has the app's default.
    #[serde(default)]
    pub settings: BTreeMap<String, SettingValue>,
    /// What the app runs by itself.
    #[serde(default)]
    pub timers: Vec<Timer>,
    /// What the app does about events.
    #[serde(default)]
    pub handlers: Vec<EventHandler>,
    /// Whether the app triggers events, so that its outbox has to be looked after.
    #[serde(default)]
    pub publishes: bool,
}

/// The value of a setting.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SettingValue {
    /// Everybody in the stage may read it.
    Plain(String),
    /// Only the hosts may.
    Secret(Secret),
}

/// Per replica limits. The defaults are those of the design.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Limits {
    /// Linear memory of one instance, in bytes.
    pub instance_memory_bytes_max: u64,
    /// Wall time of one request, in milliseconds.
    pub request_wall_ms_max: u64,
    /// CPU time of one request, in milliseconds.
    pub request_cpu_ms_max: u64,
    /// Request body, in bytes.
    pub request_body_bytes_max: u64,
    /// Instances of the app at once on one host.
    pub instances_max: u32,
    /// Memory of all instances of the app together on one host, and of the host for them, in bytes.
    pub memory_bytes_max: u64,
    /// Share of a host's CPUs, in thousandths of a core: a weight where apps compete, and a rate that is kept over time.
    pub cpu_share_millicores: u32,
    /// CPU time beyond its share that the app may use at a stretch, in milliseconds; it comes back at the rate of the
    /// share. None: as much as no other app wants.
    pub cpu_burst_ms: Option<u64>,
    /// Requests that one instance may serve, one after the other. 1 gives each its own, so that nothing is left to the next.
    pub instance_reuse_max: u32,
    /// Requests that one instance may serve at once, where its component is made for WASI 0.3 and does not use the
    /// database.
    pub instance_concurrency_max: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            instance_memory_bytes_max: 128 << 20,
            request_wall_ms_max: 60_000,
            request_cpu_ms_max: 10_000,
            request_body_bytes_max: 30_000_000, // 28.6 MiB
            instances_max: 256,
            memory_bytes_max: 512 << 20,
            cpu_share_millicores: 250,
            cpu_burst_ms: Some(600_000),
            instance_reuse_max: 1,
            instance_concurrency_max: 1,
        }
    }
}

/// What the build service vouches for: these bytes are this revision of this app of this organization.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Owner.
    pub organization: OrganizationId,
    /// App.
    pub app: AppId,
    /// Revision.
    pub revision: Revision,
    /// Digest of the component.
    pub wasm: Digest,
    /// Size of the component, in bytes.
    pub wasm_bytes: u64,
    /// The precompiled artefact, when the build service made one.
    pub native: Option<NativeArtefact>,
}

/// Native code for one target and one engine. A host with another engine recompiles from the component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NativeArtefact {
    /// Digest of the artefact.
    pub digest: Digest,
    /// Size, in bytes.
    pub bytes: u64,
    /// Target triple and CPU baseline.
    pub target: String,
    /// Version and settings of the engine, as one opaque word.
    pub engine: String,
}

impl Sealable for DesiredApp {
    const PURPOSE: &'static str = "desired state";
}
impl Sealable for Claim {
    const PURPOSE: &'static str = "claim";
}
