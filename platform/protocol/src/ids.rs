//! Typed names. Two things that are both strings must not be exchangeable by accident, and a name that
//! reaches a subject, a path or a role must be safe there: it is checked where it enters.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Longest stage, host or router name, in bytes: they become NATS subject tokens and file names.
pub const NAME_BYTES_MAX: usize = 63;
/// Longest app name, in characters, as in the product whose apps we host.
pub const APP_NAME_CHARS_MAX: usize = 35;

/// A name or id that does not have the form it must have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{value}` is not a valid {what}: {rule}")]
pub struct IdError {
    /// What was expected.
    pub what: &'static str,
    /// What was given, cut to a printable length.
    pub value: String,
    /// The rule that it breaks.
    pub rule: &'static str,
}

impl IdError {
    fn new(what: &'static str, value: &str, rule: &'static str) -> Self {
        let value = value.chars().take(80).collect();
        Self { what, value, rule }
    }
}

macro_rules! checked_name {
    ($(#[$doc:meta])* $name:ident, $what:literal, $rule:literal, $check:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }
        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let check: fn(&str) -> bool = $check;
                if check(text) {
                    Ok(Self(text.to_owned()))
                } else {
                    Err(IdError::new($what, text, $rule))
                }
            }
        }
        impl TryFrom<String> for $name {
            type Error = IdError;
            fn try_from(text: String) -> Result<Self, IdError> {
                text.parse()
            }
        }
        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.0
            }
        }
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= NAME_BYTES_MAX
        && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && !text.starts_with('-')
}

fn is_uuid(text: &str) -> bool {
    text.len() == 36
        && text.bytes().enumerate().all(|(at, b)| match at {
            8 | 13 | 18 | 23 => b == b'-',
            _ => b.is_ascii_digit() || (b'a'..=b'f').contains(&b),
        })
}

fn is_app_name(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_alphabetic())
        && text.len() <= APP_NAME_CHARS_MAX
        && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_')
}

checked_name!(
    /// The tenant that owns apps and stages.
    OrganizationId, "organization id", "use a lower-case UUID", is_uuid
);
checked_name!(
    /// An app, whatever its revision.
    AppId, "app id", "use a lower-case UUID", is_uuid
);
checked_name!(
    /// `development`, `test`, `production`, or a stage an organization added.
    StageName, "stage name", "use 1 to 63 lower-case letters, digits and hyphens, not starting with a hyphen", is_token
);
checked_name!(
    /// One host process of a pool; stays the same over restarts.
    HostId, "host name", "use 1 to 63 lower-case letters, digits and hyphens, not starting with a hyphen", is_token
);
checked_name!(
    /// One router process of a stage.
    RouterId, "router name", "use 1 to 63 lower-case letters, digits and hyphens, not starting with a hyphen", is_token
);
checked_name!(
    /// The name of an app: the first segment of its URLs.
    AppName, "app name", "use 1 to 35 letters, digits and underscores, starting with a letter", is_app_name
);

/// The lower-case hexadecimal SHA-256 of some bytes: the name of every stored object.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self(HEXLOWER.encode(&Sha256::digest(bytes)))
    }
    /// The 64 hexadecimal digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
impl FromStr for Digest {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        let hex = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() == 64 && text.bytes().all(hex) {
            Ok(Self(text.to_owned()))
        } else {
            Err(IdError::new("digest", text, "use the 64 lower-case hexadecimal digits of a SHA-256"))
        }
    }
}
impl TryFrom<String> for Digest {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}
impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.0
    }
}
impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The number of an immutable revision of an app, from 1.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Revision(pub u32);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How new a piece of desired state is. Compared epoch first.
///
/// `number` counts changes of one app in one stage. `epoch` is raised when a Platform finds that its
/// stage has seen generations which its database has not: after a restore, numbers may be given a second
/// time, and the epoch keeps them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Generation {
    /// Raised after a restore.
    pub epoch: u32,
    /// Raised with every change.
    pub number: u64,
}

impl Generation {
    /// The generation of the next change.
    pub fn next(self) -> Self {
        Self { epoch: self.epoch, number: self.number + 1 }
    }
    /// The first generation that is newer than both a database and a stage that is ahead of it.
    pub fn after_restore(self, seen_in_stage: Self) -> Self {
        if seen_in_stage > self {
            Self { epoch: self.epoch.max(seen_in_stage.epoch) + 1, number: 1 }
        } else {
            self.next()
        }
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.epoch, self.number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_escape_a_subject_or_a_path_are_refused() {
        for bad in ["", "a.b", "a b", "*", ">", "../x", "-x", "A", &"x".repeat(64)] {
            assert!(bad.parse::<HostId>().is_err(), "{bad:?}");
        }
        let error = "a.b".parse::<StageName>().unwrap_err().to_string();
        assert!(error.starts_with("`a.b` is not a valid stage name: use 1 to 63"), "{error}");
    }

    #[test]
    fn the_epoch_decides_before_the_number() {
        let late = Generation { epoch: 0, number: 900 };
        let restored = Generation { epoch: 0, number: 3 };
        assert!(restored.after_restore(late) > late);
        assert_eq!(restored.after_restore(Generation::default()), restored.next());
    }
}
