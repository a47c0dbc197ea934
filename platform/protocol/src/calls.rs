//! Calls between apps: how one host shows another that a request comes from an app of the stage.
//!
//! A [`Call`] travels in a header, encrypted and authenticated with the key that the stage's hosts share, so that nobody
//! outside can send one. It says whom it is for and how deep the calls are, and is good for a short time.
//! Invariant: a call is opened only by a host of its stage, for the path that it names.

use serde::{Deserialize, Serialize};

use crate::ids::AppId;
use crate::secrets::StageKey;

/// The host name by which apps call other apps of their stage: `http://apps.odeon.internal/<App>/services/<Action>`.
pub const AUTHORITY: &str = "apps.odeon.internal";
/// Calls inside one another, the first included: two apps that call each other for ever are stopped.
pub const DEPTH_MAX: u32 = 8;
/// How long a service action may take, in seconds, as in ODC.
pub const CALL_S_MAX: u64 = 100;
/// How long a call is good for, in milliseconds: on its way, not while it runs.
const GOOD_MS: u64 = 30_000;

/// Who calls what.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// The app that calls.
    pub caller: AppId,
    /// Who called that app; empty when nobody said.
    #[serde(default)]
    pub user: String,
    /// The path that is called.
    pub path: String,
    /// Calls inside one another, this one included.
    pub depth: u32,
    /// When it was made, in milliseconds since 1970-01-01, UTC.
    pub at_ms: i64,
}

/// Why a call is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// Not made by a host of this stage.
    #[error("the call was not made by a host of this stage")]
    Stranger,
    /// Made for another path.
    #[error("the call was made for another path")]
    Path,
    /// Made too long ago, or by a host whose clock is wrong.
    #[error("the call was made too long ago; do the clocks of the hosts agree?")]
    Late,
}

impl Call {
    /// The text of the header.
    pub fn seal(&self, key: &StageKey) -> String {
        key.seal_call(&serde_json::to_vec(self).expect("a call has string keys only"))
    }

    /// Reads the header of a request to `path`.
    pub fn open(header: &str, key: &StageKey, path: &str, now_ms: i64) -> Result<Call, CallError> {
        let bytes = key.open_call(header).ok_or(CallError::Stranger)?;
        let call: Call = serde_json::from_slice(&bytes).map_err(|_| CallError::Stranger)?;
        if call.path != path {
            return Err(CallError::Path);
        }
        if now_ms.abs_diff(call.at_ms) > GOOD_MS {
            return Err(CallError::Late);
        }
        Ok(call)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::KEY_BYTES;

    #[test]
    fn a_call_is_good_for_its_stage_path_and_time() {
        let id = "6f1f0f0e-0b7a-4d5c-9d53-9f3c3d1a2b4c";
        let key =
            |stage: &str| StageKey::derive(&[7; KEY_BYTES], &id.parse().unwrap(), &stage.parse().unwrap());
        let call = Call {
            caller: id.parse().unwrap(),
            user: "ann".into(),
            path: "/A/services/Get".into(),
            depth: 1,
            at_ms: 1_000_000,
        };
        let header = call.seal(&key("test"));
        assert!(header.is_ascii() && !header.contains("services"));
        let open = |header: &str, stage, path, now_ms| Call::open(header, &key(stage), path, now_ms);
        assert_eq!(open(&header, "test", "/A/services/Get", 1_020_000), Ok(call.clone()));
        assert_eq!(open(&header, "production", "/A/services/Get", 1_000_000), Err(CallError::Stranger));
        assert_eq!(open(&header, "test", "/A/services/Set", 1_000_000), Err(CallError::Path));
        for now_ms in [969_000, 1_031_000] {
            assert_eq!(open(&header, "test", "/A/services/Get", now_ms), Err(CallError::Late));
        }
        let old = Call { at_ms: i64::MIN, ..call }.seal(&key("test"));
        assert_eq!(open(&old, "test", "/A/services/Get", i64::MAX), Err(CallError::Late));
        for broken in ["", "AAAA", &header[1..]] {
            assert_eq!(open(broken, "test", "/A/services/Get", 1_000_000), Err(CallError::Stranger));
        }
    }
}
