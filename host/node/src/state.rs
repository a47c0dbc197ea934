//! What a host keeps on disk: artefacts by digest, the last known desired state, and the logins of its apps. Native code
//! is in a folder of its own, sealed: see [`crate::native`].
//!
//! Every access goes through one folder handle (cap-std): no name, however made, leads out of it. Files are
//! written whole or not at all. Bytes are checked against their digest after they were read, in memory.
//! Artefacts that nothing here uses any more are kept for a rollback, up to a bound.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read as _, Write as _};
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use cap_std::ambient_authority;
use cap_std::fs::{Dir, File, OpenOptions, OpenOptionsExt as _};
use odeon_protocol::{AppId, DesiredApp, Digest, Signed};

/// Largest object that is read, in bytes: native code is a few times its component.
const OBJECT_BYTES_MAX: u64 = 1 << 30;

/// Files of desired state that are written and open before they are placed.
const OPEN_FILES_MAX: usize = 256;
/// Artefacts that no app here uses, in bytes together; beyond it the oldest go.
const UNUSED_BYTES_MAX: u64 = 4 << 30;
/// The folders inside.
const FOLDERS: [&str; 4] = ["objects", FOLDER_NATIVE, "desired", "logins"];
/// Holds native code, sealed by this host.
pub const FOLDER_NATIVE: &str = "native";
/// Ends the name of a file that is being written.
pub(crate) const UNFINISHED: &str = ".new";

/// The state folder of a host.
pub(crate) struct StateDir(Dir);

impl StateDir {
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let dir = Dir::open_ambient_dir(path, ambient_authority());
        let dir = dir.with_context(|| format!("open the state folder {}", path.display()))?;
        for folder in FOLDERS {
            dir.create_dir_all(folder).with_context(|| format!("create {folder} in {}", path.display()))?;
        }
        let state = Self(dir);
        for folder in FOLDERS {
            for name in state.names(folder).into_iter().filter(|name| name.ends_with(UNFINISHED)) {
                state.remove(&format!("{folder}/{name}")); // its writer was killed
            }
        }
        Ok(state)
    }

    /// The folder itself.
    pub(crate) fn dir(&self) -> &Dir {
        &self.0
    }

    /// An object, if it is here and undamaged.
    pub(crate) fn object(&self, digest: &Digest) -> Option<Vec<u8>> {
        self.read(&format!("objects/{digest}")).filter(|bytes| Digest::of(bytes) == *digest)
    }
    /// Stores an object; the caller has compared it with its digest.
    pub(crate) fn put_object(&self, digest: &Digest, bytes: &[u8]) -> Result<()> {
        self.write(&format!("objects/{digest}"), bytes)
    }
    /// Removes an object of which a sealed copy is kept.
    pub(crate) fn remove_object(&self, digest: &Digest) {
        self.remove(&format!("objects/{digest}"));
    }
    /// Removes the oldest of the objects and of the native code that are not `used`, down to their bound.
    pub(crate) fn trim_objects(&self, used: &BTreeSet<String>) {
        self.trim(used, UNUSED_BYTES_MAX);
    }

    fn trim(&self, used: &BTreeSet<String>, bytes_max: u64) {
        let about = |folder: &str, name: String| {
            let is_written = name.ends_with(UNFINISHED); // by somebody, now
            let path = (!used.contains(&name) && !is_written).then(|| format!("{folder}/{name}"))?;
            let about = self.0.symlink_metadata(&path).ok()?;
            Some((about.modified().ok()?.into_std(), about.len(), path))
        };
        let mut unused: Vec<_> = ["objects", FOLDER_NATIVE]
            .into_iter()
            .flat_map(|folder| self.names(folder).into_iter().filter_map(move |name| about(folder, name)))
            .collect();
        unused.sort();
        let mut bytes: u64 = unused.iter().map(|(_, bytes, _)| bytes).sum();
        for (_, size, path) in unused {
            if bytes <= bytes_max {
                return;
            }
            self.remove(&path);
            bytes -= size;
        }
    }

    /// The names of the sealed desired states that were known last.
    pub(crate) fn desired_names(&self) -> Vec<String> {
        self.names("desired").into_iter().filter(|name| name.ends_with(".json")).collect()
    }
    /// One of them.
    pub(crate) fn desired(&self, name: &str) -> Option<Signed<DesiredApp>> {
        serde_json::from_slice(&self.read(&format!("desired/{name}"))?).ok()
    }
    /// Writes many pieces of desired state with one wait for the disk. Each is there whole or not at all.
    pub(crate) fn put_desired(&self, batch: &BTreeMap<AppId, Signed<DesiredApp>>) -> Result<()> {
        let mut written = Vec::with_capacity(batch.len());
        let placed = self.write_desired(batch, &mut written);
        for (new, ..) in written {
            self.remove(&new); // a full disk must not fill with what has no name yet
        }
        placed
    }

    fn write_desired(
        &self,
        batch: &BTreeMap<AppId, Signed<DesiredApp>>,
        written: &mut Vec<(String, String, File)>,
    ) -> Result<()> {
        for (app, sealed) in batch {
            let name = format!("desired/{app}.json");
            let (new, file) = self.create(&name, &serde_json::to_vec(sealed)?)?;
            written.push((new, name, file));
            if written.len() == OPEN_FILES_MAX {
                self.place(written)?;
            }
        }
        self.place(written)
    }

    /// Gives written files their names, when all of them are on the disk.
    fn place(&self, written: &mut Vec<(String, String, File)>) -> Result<()> {
        match written.as_slice() {
            [] => return Ok(()),
            [(_, name, file)] => file.sync_all().with_context(|| format!("write {name}"))?,
            // One wait instead of one for each file, for whatever else this file system holds as well.
            [(_, _, file), ..] => rustix::fs::syncfs(file).context("write desired state to the disk")?,
        }
        for (new, name, _) in &*written {
            self.0.rename(new, &self.0, name).with_context(|| format!("put {name} in place"))?;
        }
        written.clear();
        Ok(())
    }

    pub(crate) fn login<T: serde::de::DeserializeOwned>(&self, app: &str) -> Option<T> {
        serde_json::from_slice(&self.read(&format!("logins/{app}.json"))?).ok()
    }
    pub(crate) fn put_login<T: serde::Serialize>(&self, app: &str, login: &T) -> Result<()> {
        self.write(&format!("logins/{app}.json"), &serde_json::to_vec(login)?)
    }
    /// An app that left takes its login with it.
    pub(crate) fn remove_login(&self, app: &AppId) {
        self.remove(&format!("logins/{app}.json"));
    }

    fn names(&self, folder: &str) -> Vec<String> {
        let entries = self.0.read_dir(folder).into_iter().flatten().flatten();
        entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
    }

    fn remove(&self, name: &str) {
        if let Err(error) = self.0.remove_file(name)
            && error.kind() != std::io::ErrorKind::NotFound
        {
            tracing::warn!(name, "a file stays in the state folder: {error}");
        }
    }

    fn read(&self, name: &str) -> Option<Vec<u8>> {
        let file = self.0.open(name).ok()?;
        let mut bytes = Vec::new();
        file.take(OBJECT_BYTES_MAX).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// Creates the file that will have `name`.
    fn create(&self, name: &str, bytes: &[u8]) -> Result<(String, File)> {
        let new = format!("{name}.{}{UNFINISHED}", uuid::Uuid::new_v4());
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut file = self.0.open_with(&new, &options).with_context(|| format!("create {new}"))?;
        if let Err(error) = file.write_all(bytes) {
            self.remove(&new); // a full disk must not fill with halves
            return Err(error).with_context(|| format!("write {new}"));
        }
        Ok((new, file))
    }

    fn write(&self, name: &str, bytes: &[u8]) -> Result<()> {
        let (new, file) = self.create(name, bytes)?;
        file.sync_all().with_context(|| format!("write {new}"))?;
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
    fn the_oldest_unused_objects_go_first() {
        let folder = tempfile::tempdir().unwrap();
        let state = StateDir::open(folder.path()).unwrap();
        let digests = [b"one", b"two", b"six", b"ten"].map(|bytes| {
            state.put_object(&Digest::of(bytes), bytes).unwrap();
            Digest::of(bytes)
        });
        // Oldest first, whatever the clock of the file system can tell apart.
        for (age, digest) in (1..).zip(digests.iter().rev()) {
            let file = std::fs::File::open(folder.path().join(format!("objects/{digest}"))).unwrap();
            file.set_modified(std::time::SystemTime::now() - std::time::Duration::from_secs(age)).unwrap();
        }
        state.trim(&BTreeSet::from([digests[0].to_string()]), 6);
        assert_eq!(digests.map(|digest| state.object(&digest).is_some()), [true, false, true, true]);
    }

    #[test]
    fn what_a_killed_host_was_writing_goes_at_the_next_start() {
        let folder = tempfile::tempdir().unwrap();
        StateDir::open(folder.path()).unwrap();
        let half = folder.path().join("objects/0123.new");
        std::fs::write(&half, b"hal").unwrap();
        StateDir::open(folder.path()).unwrap();
        assert!(!half.exists());
    }

    #[test]
    fn a_link_out_of_the_folder_is_not_followed() {
        let (folder, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let state = StateDir::open(folder.path()).unwrap();
        let secret = outside.path().join("file");
        std::fs::write(&secret, b"secret").unwrap();
        for inside in FOLDERS {
            let name = format!("{inside}/file");
            std::os::unix::fs::symlink(&secret, folder.path().join(&name)).unwrap();
            assert_eq!(state.read(&name), None, "{name}");
            state.write(&name, b"written").unwrap();
            assert_eq!(state.read(&name).unwrap(), b"written", "a link is replaced");
            // The same with the folder.
            std::fs::rename(folder.path().join(inside), folder.path().join(format!("{inside}.away")))
                .unwrap();
            std::os::unix::fs::symlink(outside.path(), folder.path().join(inside)).unwrap();
            assert_eq!(state.read(&name), None, "{inside}");
            assert!(state.write(&name, b"written").is_err() && state.names(inside).is_empty(), "{inside}");
            state.remove(&name);
            assert_eq!(std::fs::read(&secret).unwrap(), b"secret", "{inside}");
        }
    }
}
