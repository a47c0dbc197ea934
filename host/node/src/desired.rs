//! What this host takes of what it hears: what is sealed by a key that it trusts, meant for its stage, and made for the app
//! that it names.
//!
//! Pure: no disk, no network, no clock, so that it can be tried with anything. What must stay true: nothing of a message is
//! looked at before its seal was checked; a claim serves its own app only; a secret opens in its own place only.

use std::collections::BTreeMap;

use anyhow::{Context as _, Result, ensure};
use odeon_capabilities::Settings;
use odeon_protocol::secrets::{Place, StageKey};
use odeon_protocol::{
    AppId, Claim, DesiredApp, OrganizationId, SealError, SettingValue, Signed, StageName, TrustedKeys,
};

/// Reads desired state for one host.
pub struct Reader {
    /// Whose stage the host is in.
    pub organization: OrganizationId,
    /// Its stage.
    pub stage: StageName,
    /// Who may say what runs.
    pub trusted: TrustedKeys,
    /// Opens the secrets of the stage.
    pub secrets: StageKey,
}

/// Why a piece of desired state is none of this host's.
#[derive(Debug, thiserror::Error)]
pub enum Foreign {
    /// Nobody whom this host trusts has sealed it.
    #[error("desired state refused")]
    Seal(#[from] SealError),
    /// It is meant for others.
    #[error(
        "desired state of app {0} for stage `{1}` of organization {2} refused: this host is in another one"
    )]
    Stage(AppId, StageName, OrganizationId),
}

impl Reader {
    /// Desired state, if it is sealed and meant for this stage.
    pub fn open(&self, sealed: &Signed<DesiredApp>) -> Result<DesiredApp, Foreign> {
        let desired = sealed.open(&self.trusted)?;
        if desired.stage == self.stage && desired.organization == self.organization {
            Ok(desired)
        } else {
            Err(Foreign::Stage(desired.app, desired.stage, desired.organization))
        }
    }

    /// What is to run, if its seal says that it is this app.
    pub fn claim(&self, app: &AppId, sealed: &Signed<Claim>) -> Result<Claim> {
        let claim = sealed.open(&self.trusted).context("the claim of the component")?;
        ensure!(claim.app == *app && claim.organization == self.organization, "the claim is another app's");
        Ok(claim)
    }

    /// The settings of an app in clear.
    pub fn settings(&self, app: &AppId, values: &BTreeMap<String, SettingValue>) -> Result<Settings> {
        let open = |(name, value): (&String, &SettingValue)| {
            let value = match value {
                SettingValue::Plain(value) => value.clone(),
                SettingValue::Secret(secret) => {
                    let place = Place { organization: &self.organization, stage: &self.stage, app, name };
                    self.secrets.open(place, secret)?
                }
            };
            Ok((name.clone(), value))
        };
        values.iter().map(open).collect()
    }
}
