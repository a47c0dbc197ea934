//! Seals: who said it, checked before anyone acts on it.
//!
//! A [`Signed`] value carries the exact bytes that were signed, so that no two serializers can disagree
//! about them. The signature covers a purpose as well ([`Sealable::PURPOSE`]): a claim can never be
//! replayed as desired state. Receivers hold [`TrustedKeys`]; a key leaves that list to be revoked.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use data_encoding::HEXLOWER;
use ed25519_dalek::{Signature, Signer as _, SigningKey, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Largest payload that is opened, in bytes: a NATS message ends at 1 MB.
pub const PAYLOAD_BYTES_MAX: usize = 1 << 20;

/// Data that may be sealed, and for what.
pub trait Sealable: Serialize + DeserializeOwned {
    /// Mixed into the signature, so that a seal for one thing is none for another.
    const PURPOSE: &'static str;
}

/// Names a public key: the first 16 hexadecimal digits of its SHA-256.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct KeyId(pub String);

impl fmt::Display for KeyId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A sealed `T`: the bytes, who signed them, and the signature.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Signed<T> {
    key: KeyId,
    payload: String,
    signature: String,
    #[serde(skip)]
    of: PhantomData<T>,
}

/// Why a seal was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// The receiver does not hold that key, or holds it no longer.
    #[error("signed by key `{0}`, which is not trusted here")]
    UnknownKey(KeyId),
    /// Payload or signature were changed, or were made for another purpose.
    #[error("the signature by key `{0}` does not fit the {1}")]
    Mismatch(KeyId, &'static str),
    /// Not base64, or over the size limit.
    #[error("the sealed {0} is malformed or larger than {PAYLOAD_BYTES_MAX} bytes")]
    Malformed(&'static str),
    /// The signature is right, but the content is of another version.
    #[error("the sealed {what} cannot be read; the sender may be newer")]
    Content {
        /// What was sealed.
        what: &'static str,
        /// Where reading failed.
        #[source]
        source: serde_json::Error,
    },
}

impl<T: Sealable> Signed<T> {
    /// Checks the signature and reads the content. There is no way to the content around the check.
    pub fn open(&self, trusted: &TrustedKeys) -> Result<T, SealError> {
        if self.payload.len() > PAYLOAD_BYTES_MAX * 4 / 3 + 4 {
            return Err(SealError::Malformed(T::PURPOSE));
        }
        let key = trusted.0.get(&self.key).ok_or_else(|| SealError::UnknownKey(self.key.clone()))?;
        let payload = BASE64.decode(&self.payload).map_err(|_| SealError::Malformed(T::PURPOSE))?;
        let signature = BASE64
            .decode(&self.signature)
            .ok()
            .and_then(|bytes| Signature::from_slice(&bytes).ok())
            .ok_or(SealError::Malformed(T::PURPOSE))?;
        key.verify_strict(&digest(T::PURPOSE, &payload), &signature)
            .map_err(|_| SealError::Mismatch(self.key.clone(), T::PURPOSE))?;
        serde_json::from_slice(&payload).map_err(|source| SealError::Content { what: T::PURPOSE, source })
    }

    /// Which key sealed it. Proves nothing by itself.
    pub fn key(&self) -> &KeyId {
        &self.key
    }
}

/// Holds a private key.
pub struct Signer {
    id: KeyId,
    key: SigningKey,
}

impl Signer {
    /// A new random key.
    pub fn generate() -> Self {
        Self::from_seed(&rand::random())
    }
    /// The key of a stored seed.
    pub fn from_seed(seed: &[u8; 32]) -> Self {
        let key = SigningKey::from_bytes(seed);
        Self { id: key_id(&key.verifying_key()), key }
    }
    /// The secret half, to be stored outside any database.
    pub fn seed(&self) -> [u8; 32] {
        self.key.to_bytes()
    }
    /// The name of the key.
    pub fn id(&self) -> &KeyId {
        &self.id
    }
    /// The public half, as receivers list it.
    pub fn public(&self) -> String {
        HEXLOWER.encode(self.key.verifying_key().as_bytes())
    }
    /// Seals `value`.
    pub fn seal<T: Sealable>(&self, value: &T) -> Signed<T> {
        let payload = serde_json::to_vec(value).expect("sealable types have string keys only");
        let signature = self.key.sign(&digest(T::PURPOSE, &payload));
        Signed {
            key: self.id.clone(),
            payload: BASE64.encode(payload),
            signature: BASE64.encode(signature.to_bytes()),
            of: PhantomData,
        }
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Signer({})", self.id)
    }
}

/// The public keys a receiver accepts. Stored as a JSON list of hexadecimal public keys.
#[derive(Debug, Clone, Default)]
pub struct TrustedKeys(BTreeMap<KeyId, VerifyingKey>);

impl TrustedKeys {
    /// Reads public keys as [`Signer::public`] prints them.
    pub fn from_hex<S: AsRef<str>>(keys: impl IntoIterator<Item = S>) -> Result<Self, SealError> {
        let mut trusted = BTreeMap::new();
        for text in keys {
            let key = HEXLOWER
                .decode(text.as_ref().as_bytes())
                .ok()
                .and_then(|bytes| <[u8; 32]>::try_from(bytes).ok())
                .and_then(|bytes| VerifyingKey::from_bytes(&bytes).ok())
                .ok_or(SealError::Malformed("public key"))?;
            trusted.insert(key_id(&key), key);
        }
        Ok(Self(trusted))
    }
    /// Reads a trust file: a JSON list of hexadecimal public keys.
    pub fn from_json(bytes: &[u8]) -> Result<Self, SealError> {
        let keys: Vec<String> = serde_json::from_slice(bytes)
            .map_err(|source| SealError::Content { what: "trust file", source })?;
        Self::from_hex(keys)
    }
}

fn key_id(key: &VerifyingKey) -> KeyId {
    KeyId(HEXLOWER.encode(&Sha256::digest(key.as_bytes())[..8]))
}

fn digest(purpose: &str, payload: &[u8]) -> Vec<u8> {
    let mut hash = Sha256::new();
    hash.update(b"odeon-seal-v1\0");
    hash.update(purpose.as_bytes());
    hash.update(b"\0");
    hash.update(payload);
    hash.finalize().to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
    struct Order(u32);
    impl Sealable for Order {
        const PURPOSE: &'static str = "order";
    }
    #[derive(Debug, Serialize, Deserialize)]
    struct Refund(u32);
    impl Sealable for Refund {
        const PURPOSE: &'static str = "refund";
    }

    #[test]
    fn only_an_unchanged_value_of_a_trusted_key_opens() {
        let (ours, theirs) = (Signer::generate(), Signer::generate());
        let trusted = TrustedKeys::from_hex([ours.public()]).unwrap();
        let sealed = ours.seal(&Order(7));
        assert_eq!(sealed.open(&trusted).unwrap(), Order(7));

        let mut changed = sealed.clone();
        changed.payload = BASE64.encode("8");
        assert!(matches!(changed.open(&trusted), Err(SealError::Mismatch(..))));
        assert!(matches!(theirs.seal(&Order(7)).open(&trusted), Err(SealError::UnknownKey(_))));
    }

    #[test]
    fn a_seal_for_one_purpose_is_none_for_another() {
        let signer = Signer::generate();
        let trusted = TrustedKeys::from_hex([signer.public()]).unwrap();
        let as_json = serde_json::to_string(&signer.seal(&Order(7))).unwrap();
        let refund: Signed<Refund> = serde_json::from_str(&as_json).unwrap();
        assert!(matches!(refund.open(&trusted), Err(SealError::Mismatch(_, "refund"))));
    }
}
