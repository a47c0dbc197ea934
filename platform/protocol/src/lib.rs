//! What hosts, routers, migrators and the Platform say to each other, and nothing else.
//!
//! Every message that changes what runs is a [`Signed`] envelope around plain data. Receivers trust
//! keys, never the transport: a bucket that was emptied, restored or written by a stranger can make a
//! host do nothing worse than stay as it is. Two rules follow, and every reader keeps them:
//!
//! - Absence means nothing. Only a signed [`DesiredState::Removed`] takes an app away.
//! - A [`Generation`] only grows. News that is not newer is refused, whoever sends it.
//!
//! Map: [`ids`] names things, [`signing`] seals them, [`secrets`] hides values, [`desired`] is what the Platform wants,
//! [`observed`] is what runs, [`subjects`] says where each message travels, [`requests`] is what is
//! asked and answered inside a stage, [`timers`] is what runs by itself, [`events`] is what apps tell one another,
//! [`calls`] is how they call one another, [`routes`] says which hosts serve which app, [`headers`] is what HTTP requests
//! carry between us; with the feature `nats`, `connection` is how everybody connects, and `bucket` follows what lies in a KV bucket.

#[cfg(feature = "nats")]
pub mod bucket;
pub mod calls;
#[cfg(feature = "nats")]
pub mod connection;
pub mod desired;
pub mod events;
pub mod headers;
pub mod ids;
pub mod observed;
pub mod requests;
pub mod routes;
pub mod secrets;
pub mod signing;
pub mod subjects;
pub mod timers;

pub use desired::{Claim, DesiredApp, DesiredState, Limits, NativeArtefact, Serving, SettingValue};
pub use ids::{
    AppId, AppName, Digest, Generation, HostId, IdError, OrganizationId, Revision, RouterId, StageName,
};
pub use observed::{
    HostHeartbeat, LogLevel, LogLine, ReplicaState, ReplicaStatus, RouterHeartbeat, RouterStatus,
};
pub use requests::{
    CredentialsReply, CredentialsRequest, DatabaseLogin, MIGRATED_SINCE, MIGRATION_RUNS, MigrateCommand,
    MigrateReply, Refusal,
};
pub use signing::{KeyId, SealError, Signed, Signer, TrustedKeys};
