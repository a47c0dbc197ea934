//! The configuration service: what each stage sets for an app, plain or secret, and how its timers are.
//!
//! A revision says which settings there are, of which type, with which default. A stage may set a value for
//! each; the value outlives revisions and is delivered when the revision that serves still declares it as it was
//! set. Invariant: a secret is sealed before it is stored, and nothing here ever opens one.

pub(crate) mod api;
pub(crate) mod store;
pub(crate) mod timers;

use std::collections::BTreeMap;

use anyhow::Result;
use odeon_compiler::Setting;
use odeon_protocol::SettingValue;

use crate::Platform;
use crate::assets::store::StoredRevision;
use crate::deployments::store::Deployment;

/// What the stage sets of what a revision declares. A value that was set as a secret is not delivered when the
/// setting has become plain, and the other way round: it has to be set again.
pub(crate) async fn delivered(
    platform: &Platform,
    wanted: &Deployment,
    revision: &StoredRevision,
) -> Result<BTreeMap<String, SettingValue>> {
    let mut values = store::of(&platform.database, &wanted.app, &wanted.stage).await?;
    values.retain(|name, value| {
        revision.settings.iter().any(|setting| setting.name == *name && fits(setting, value))
    });
    Ok(values)
}

fn fits(setting: &Setting, value: &SettingValue) -> bool {
    match value {
        SettingValue::Plain(value) => !setting.secret && setting.accepts(value),
        SettingValue::Secret(_) => setting.secret,
    }
}
