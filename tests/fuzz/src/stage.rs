//! The keys and names of a stage that does not exist. All of it is fixed, so that an input means the same in each run.

use odeon_protocol::secrets::{KEY_BYTES, StageKey};
use odeon_protocol::{AppId, OrganizationId, Signer, StageName, TrustedKeys};

/// The organization.
pub const ORGANIZATION: &str = "0b0f8a4e-0000-4000-8000-000000000001";
/// The app.
pub const APP: &str = "0b0f8a4e-0000-4000-8000-000000000002";
/// Another app.
pub const OTHER_APP: &str = "0b0f8a4e-0000-4000-8000-000000000003";
/// The stage.
pub const STAGE: &str = "test";
/// The stage whose state must not be taken.
pub const OTHER_STAGE: &str = "production";

/// A name or id of those above.
pub fn named<T: std::str::FromStr>(text: &str) -> T {
    text.parse().ok().expect("the names here are valid")
}

/// The key that is trusted.
pub fn signer() -> Signer {
    Signer::from_seed(&[7; 32])
}

/// A key that is not.
pub fn stranger() -> Signer {
    Signer::from_seed(&[8; 32])
}

/// Those who trust [`signer`] and nobody else.
pub fn trusted() -> TrustedKeys {
    TrustedKeys::from_hex([signer().public()]).expect("a key that was just made")
}

/// The key of a stage.
pub fn stage_key(stage: &str) -> StageKey {
    StageKey::derive(&[9; KEY_BYTES], &named::<OrganizationId>(ORGANIZATION), &named::<StageName>(stage))
}

/// The app's id.
pub fn app() -> AppId {
    named(APP)
}

/// The setting that is a secret.
pub const SECRET_NAME: &str = "Key";
/// Its value.
pub const SECRET_VALUE: &str = "a secret of nobody";
/// The same, sealed for [`APP`] in [`STAGE`] once. A seal is another one each time, and inputs must not depend on the run.
pub const SECRET: &str = "uHWcmY0YQFemUqLfyH7ASjip9S/sA2z1TO7utwYH7sccq5BM1Ty6t3m8+kh4F5hbIAlLjjNESZD7aQ==";
