//! What a host keeps on disk: artefacts by digest, the last known desired state, and the logins of its apps.
//!
//! Every access goes through one folder handle (cap-std): no name, however made, leads out of it. Files are
//! written whole or not at all. Bytes are checked against their digest after they were read, in memory.

use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};
use odeon_protocol::{AppId, DesiredApp, Digest, Signed};

/// Largest object that is read, in bytes: native code is a few times its component.
const OBJECT_BYTES_MAX: u64 = 1 << 30;

/// The state folder of a host.
pub(crate) struct StateDir(Dir);

impl StateDir {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let dir = Dir::open_ambient_dir(path, ambient_authority());
        let dir = dir.with_context(|| format!("open the state folder {}", path.display()))?;
        for folder in ["objects", "native", "desired", "logins"] {
            dir.create_dir_all(folder).with_context(|| format!("create {folder} in {}", path.display()))?;
        }
        Ok(Self(dir))
    }

    /// An object, if it is here and undamaged.
    pub(crate) fn object(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.read(&format!("objects/{digest}")).filter(|bytes| Digest::of(bytes) == *digest)
    }
    /// Stores an object; the caller has compared it with its digest.
    pub(crate) fn put_object(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        self.write(&format!("objects/{digest}"), bytes)
    }

    /// The sealed desired states that were known last.
    pub(crate) fn desired(&self) -> Vec<Signed<DesiredApp>> {
        let entries = self.0.read_dir("desired").into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        let read = |name: String| serde_json::from_slice(&self.read(&format!("desired/{name}"))?).ok();
        names.filter(|name| name.ends_with(".json")).filter_map(read).collect()
    }
    pub(crate) fn put_desired(&self, app: &AppId, sealed: &Signed<DesiredApp>) -> Result<()> {
        self.write(&format!("desired/{app}.json"), &serde_json::to_vec(sealed)?)
    }

    pub(crate) fn login<T: serde::de::DeserializeOwned>(&self, app: &str) -> Option<T> {
        serde_json::from_slice(&self.read(&format!("logins/{app}.json"))?).ok()
    }
    pub(crate) fn put_login<T: serde::Serialize>(&self, app: &str, login: &T) -> Result<()> {
        self.write(&format!("logins/{app}.json"), &serde_json::to_vec(login)?)
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let file = self.0.open(name).ok()?;
        let mut bytes = Vec::new();
        file.take(OBJECT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let new = format!("{name}.{}.new", uuid::Uuid::new_v4());
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = self.0.open_with(&new, &options).with_context(|| format!("create {new}"))?;
        file.write_all(bytes).and_then(|()| file.sync_all()).with_context(|| format!("write {new}"))?;
        self.0.rename(&new, &self.0, name).with_context(|| format!("put {name} in place"))?;
        ensure!(self.0.is_file(name), "{name} is not a file");
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_object_is_as_good_as_none() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let digest = Digest::of(b"component");
        state.put_object(&digest, b"component").unwrap();
        assert_eq!(state.object(&digest).unwrap(), b"component");
        std::fs::write(folder.path().join(format!("objects/{digest}")), b"tampered").unwrap();
        assert!(state.object(&digest).is_none());
    }

    #[test]
    fn a_link_out_of_the_folder_is_not_followed() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let state = StateDir::open(folder.path()).unwrap();
        let digest = Digest::of(b"secret");
        std::fs::write(outside.path().join("file"), b"secret").unwrap();
        let link = folder.path().join(format!("objects/{digest}"));
        std::os::unix::fs::symlink(outside.path().join("file"), link).unwrap();
        assert!(state.object(&digest).is_none());
    }
}
