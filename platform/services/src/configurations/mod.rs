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
use odeon_protocol::timers::Timer;

use self::store::TimerOverride;
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

/// How the timers of a revision run in the stage.
pub(crate) async fn timers(
    platform: &Platform,
    wanted: &Deployment,
    revision: &StoredRevision,
) -> Result<Vec<Timer>> {
    let overrides = store::timers(&platform.database, &wanted.app, &wanted.stage).await?;
    Ok(revision.timers.iter().map(|declared| timer(declared, overrides.get(&declared.name))).collect())
}

fn timer(declared: &odeon_compiler::Timer, own: Option<&TimerOverride>) -> Timer {
    let minutes = own.and_then(|own| own.timeout_minutes).unwrap_or(declared.timeout_minutes);
    Timer {
        name: declared.name.clone(),
        schedule: own.and_then(|own| own.schedule.clone()).or_else(|| declared.schedule.clone()),
        when_published: declared.when_published,
        timeout_s: minutes * 60,
        deactivated_ms: own.and_then(|own| own.deactivated_at).map(|at| at.timestamp_millis()),
    }
}

fn fits(setting: &Setting, value: &SettingValue) -> bool {
    match value {
        SettingValue::Plain(value) => !setting.secret && setting.accepts(value),
        SettingValue::Secret(_) => setting.secret,
    }
}
