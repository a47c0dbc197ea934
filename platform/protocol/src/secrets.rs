//! Settings of an app that nobody else may read: sealed by the Platform, opened by the stage's hosts.
//!
//! XChaCha20-Poly1305 with a random nonce. What a secret belongs to (organization, stage, app, name) is
//! authenticated with it, so a sealed value cannot be moved to another place. Each stage has a key of its own,
//! derived from the installation's by HKDF-SHA256 (RFC 5869): a host can open the secrets of its stage only.
//! Invariant: a secret is in clear in the request that sets it and in the memory of hosts, nowhere else.

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chacha20poly1305::aead::{Aead as _, Generate as _, Payload};
use chacha20poly1305::{KeyInit as _, XChaCha20Poly1305, XNonce};
use data_encoding::HEXLOWER;
use hkdf::Hkdf;
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use crate::ids::{AppId, OrganizationId, StageName};

/// Bytes of a key.
pub const KEY_BYTES: usize = 32;

/// What is authenticated with a call. A secret's place has zero bytes in it, so neither is taken for the other.
const CALL: &[u8] = b"odeon call";

/// The key that the secrets of one stage are sealed with.
#[derive(Clone)]
pub struct StageKey([u8; KEY_BYTES]);

/// A sealed value: nonce and ciphertext, in base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Secret(String);

/// A value was changed, moved to another place, or sealed with another key.
#[derive(Debug, thiserror::Error)]
#[error("the secret `{0}` cannot be opened: it was not sealed for this place, or with another key")]
pub struct OpenError(String);

/// What a secret belongs to.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// Owner of the app.
    pub organization: &'a OrganizationId,
    /// Where it is set.
    pub stage: &'a StageName,
    /// The app.
    pub app: &'a AppId,
    /// The setting.
    pub name: &'a str,
}

impl StageKey {
    /// The key of a stage, from the installation's.
    pub fn derive(master: &[u8; KEY_BYTES], organization: &OrganizationId, stage: &StageName) -> StageKey {
        let mut key = [0; KEY_BYTES];
        let info = format!("odeon secrets\0{organization}\0{stage}");
        Hkdf::<Sha256>::new(None, master)
            .expand(info.as_bytes(), &mut key)
            .expect("HKDF gives 255 times as much");
        StageKey(key)
    }

    /// The text form, for the file of a host.
    pub fn to_text(&self) -> String {
        HEXLOWER.encode(&self.0)
    }

    /// Reads the text form.
    pub fn from_text(text: &str) -> Option<StageKey> {
        HEXLOWER.decode(text.trim().as_bytes()).ok()?.try_into().ok().map(StageKey)
    }

    /// Seals a value for its place.
    pub fn seal(&self, place: Place<'_>, value: &str) -> Secret {
        let nonce = XNonce::generate();
        let payload = Payload { msg: value.as_bytes(), aad: &place.bytes() };
        let sealed =
            self.cipher().encrypt(&nonce, payload).expect("a setting is far below the cipher's limit");
        Secret(BASE64.encode([nonce.as_slice(), &sealed].concat()))
    }

    /// Opens a value that was sealed for this place.
    pub fn open(&self, place: Place<'_>, secret: &Secret) -> Result<String, OpenError> {
        let value = self.decrypt(&secret.0, &place.bytes()).and_then(|value| String::from_utf8(value).ok());
        value.ok_or_else(|| OpenError(place.name.to_owned()))
    }

    /// Seals what only hosts of the stage may make and read; see [`crate::calls`].
    pub(crate) fn seal_call(&self, call: &[u8]) -> String {
        let nonce = XNonce::generate();
        let payload = Payload { msg: call, aad: CALL };
        let sealed = self.cipher().encrypt(&nonce, payload).expect("a call is far below the cipher's limit");
        BASE64.encode([nonce.as_slice(), &sealed].concat())
    }

    pub(crate) fn open_call(&self, sealed: &str) -> Option<Vec<u8>> {
        self.decrypt(sealed, CALL)
    }

    fn decrypt(&self, sealed: &str, aad: &[u8]) -> Option<Vec<u8>> {
        let bytes = BASE64.decode(sealed).ok()?;
        let (nonce, sealed) = bytes.split_at_checked(XNonce::default().len())?;
        self.cipher().decrypt(&XNonce::try_from(nonce).ok()?, Payload { msg: sealed, aad }).ok()
    }

    fn cipher(&self) -> XChaCha20Poly1305 {
        XChaCha20Poly1305::new(&self.0.into())
    }
}

impl Secret {
    /// The text form, for a database.
    pub fn as_text(&self) -> &str {
        &self.0
    }

    /// Takes the text form as it is; opening checks it.
    pub fn from_text(text: String) -> Secret {
        Secret(text)
    }
}

impl Place<'_> {
    fn bytes(&self) -> Vec<u8> {
        let Place { organization, stage, app, name } = self;
        format!("{organization}\0{stage}\0{app}\0{name}").into_bytes()
    }
}

impl fmt::Debug for StageKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("StageKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_opens_in_its_own_place_only() {
        let id = "6f1f0f0e-0b7a-4d5c-9d53-9f3c3d1a2b4c";
        let (organization, app): (OrganizationId, AppId) = (id.parse().unwrap(), id.parse().unwrap());
        let (test, production): (StageName, StageName) =
            ("test".parse().unwrap(), "production".parse().unwrap());
        let key = StageKey::derive(&[7; KEY_BYTES], &organization, &test);
        let place = Place { organization: &organization, stage: &test, app: &app, name: "Key" };
        let secret = key.seal(place, "hunter2 ä");
        assert!(!secret.as_text().contains("hunter2"));
        assert_ne!(secret, key.seal(place, "hunter2 ä"));
        assert_eq!(key.open(place, &secret).unwrap(), "hunter2 ä");

        let moved = Place { name: "Other", ..place };
        let error = key.open(moved, &secret).unwrap_err().to_string();
        assert_eq!(
            error,
            "the secret `Other` cannot be opened: it was not sealed for this place, or with another key"
        );
        let elsewhere = StageKey::derive(&[7; KEY_BYTES], &organization, &production);
        assert!(elsewhere.open(place, &secret).is_err());
        for broken in ["", "AAAA", "no base64", &secret.as_text()[..40]] {
            assert!(key.open(place, &Secret(broken.to_owned())).is_err(), "{broken}");
        }
        let read = StageKey::from_text(&key.to_text()).unwrap();
        assert_eq!(read.open(place, &secret).unwrap(), "hunter2 ä");
        assert!(StageKey::from_text("abc").is_none());
        assert_eq!(format!("{key:?}"), "StageKey(…)");
    }
}
