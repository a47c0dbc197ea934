//! Native code on disk, sealed by this host, and mapped from there.
//!
//! A file is the code followed by an HMAC-SHA256 under a key that only this host has. The seal says: this host compared
//! these bytes with a signed claim, or made them with its own compiler, for this engine. It is needed because what the host
//! compiled itself has no signed digest; and because it covers the name and the engine too, a file of another app or of an
//! older host is as good as a damaged one. What must stay true: nothing is loaded whose seal was not checked in the open
//! file that is then mapped; a file that is refused is removed, and its app is fetched or compiled again.
//!
//! Code is written once and only ever removed, so a mapping of it never changes and ends with its last user.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{FileExt as _, MetadataExt as _};

use anyhow::{Context as _, Result, ensure};
use cap_std::fs::{Dir, OpenOptions, OpenOptionsExt as _};
use hmac::{Hmac, Mac as _};
use odeon_engine::artefact::{self, VerifiedFile};
use odeon_engine::wasmtime::component::Component;
use odeon_engine::{Engine, Fits};
use odeon_protocol::Digest;
use rustix::fs::OFlags;
use sha2::Sha256;

use crate::state::{FOLDER_NATIVE, UNFINISHED};

/// The key's file.
const KEY_FILE: &str = "native.key";
/// Bytes of the key.
const KEY_BYTES: usize = 32;
/// Bytes of a seal, at the end of each file.
const SEAL_BYTES: u64 = 32;
/// Bytes that are read at a time while a seal is checked.
const CHUNK_BYTES: usize = 64 << 10;
/// Set apart from anything else that this key might ever sign.
const PURPOSE: &[u8] = b"odeon native code, 1\0";
/// Bits of a mode that let anybody write, or run the file as somebody else.
const MODE_FORBIDDEN: u32 = 0o7222;

type Seal = Hmac<Sha256>;

/// The sealed files.
pub struct NativeFiles {
    state: Dir,
    key: Seal,
    fits: Fits,
}

/// Native code that can be used.
pub struct Mapped {
    /// The code.
    pub component: Component,
    /// Bytes of its file.
    pub bytes: u64,
}

/// Why there is no code.
#[derive(Debug, PartialEq, Eq)]
pub enum Absent {
    /// It was never here, or was trimmed.
    Missing,
    /// What was here was refused, and is removed.
    Refused(String),
}

impl NativeFiles {
    /// Opens them with the host's key, which is made at the first start.
    pub fn open(state: &Dir, engine: &Engine) -> Result<Self> {
        let state = state.try_clone().context("open the state folder again")?;
        let key = match read_key(&state) {
            Some(key) => key,
            None => make_key(&state).with_context(|| format!("make {KEY_FILE} in the state folder"))?,
        };
        let key = Seal::new_from_slice(&key).context("a key of 32 bytes")?;
        Ok(Self { state, key, fits: engine.fits() })
    }

    /// Whether there is a file; whether it is a good one is seen when it is loaded.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        self.state.symlink_metadata(path(digest)).is_ok_and(|about| about.is_file())
    }

    /// Maps the code of `digest`, after its seal was checked. Code that its own digest vouches for, because that is the
    /// one a claim has signed, is sealed anew: a host that lost its key needs nobody to go on.
    pub fn load(&self, engine: &Engine, digest: &Digest) -> Result<Mapped, Absent> {
        match self.load_sealed(engine, digest) {
            Err(Absent::Refused(why)) => {
                let signed = self.signed_content(digest);
                let refused = self.refuse(digest, &why);
                let Some(code) = signed else { return Err(refused) };
                tracing::warn!(%digest, "native code on disk has no seal of this host, but is what was signed: sealed anew");
                self.put(digest, &code).map_err(|error| Absent::Refused(format!("{error:#}")))?;
                self.load_sealed(engine, digest).map_err(|absent| match absent {
                    Absent::Refused(why) => self.refuse(digest, &why),
                    Absent::Missing => Absent::Missing,
                })
            }
            done => done,
        }
    }

    /// The code of a file, if its digest is its name.
    fn signed_content(&self, digest: &Digest) -> Option<Vec<u8>> {
        let file = self.open_file(digest).ok()?;
        let code_bytes = file.metadata().ok()?.len().checked_sub(SEAL_BYTES)?;
        let mut code = Vec::new();
        file.take(code_bytes).read_to_end(&mut code).ok()?;
        (Digest::of(&code) == *digest).then_some(code)
    }

    fn load_sealed(&self, engine: &Engine, digest: &Digest) -> Result<Mapped, Absent> {
        let refused = |why: String| Err(Absent::Refused(why));
        let file = match self.open_file(digest) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(Absent::Missing),
            Err(error) => return refused(error.to_string()),
        };
        match self.check(file, digest) {
            Ok(Some(file)) => match artefact::load_file(engine, &file) {
                Ok(component) => Ok(Mapped { component, bytes: file.bytes() }),
                Err(error) => refused(format!("{error:#}")),
            },
            Ok(None) => refused("its seal is not one of this host and engine".to_owned()),
            Err(error) => refused(error.to_string()),
        }
    }

    /// Seals code and stores it; the caller has compared it with a signed digest, or has just made it.
    pub fn put(&self, digest: &Digest, code: &[u8]) -> Result<()> {
        let mut seal = self.begin(digest, code.len() as u64);
        seal.update(code);
        let name = path(digest);
        let new = format!("{name}.{}{UNFINISHED}", uuid::Uuid::new_v4());
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o400);
        let mut file = self.state.open_with(&new, &options).with_context(|| format!("create {new}"))?;
        let written = file.write_all(code).and_then(|()| file.write_all(&seal.finalize().into_bytes()));
        let done = written
            .and_then(|()| file.sync_all())
            .and_then(|()| self.state.rename(&new, &self.state, &name))
            .with_context(|| format!("write {name}"));
        if done.is_err() {
            let _ = self.state.remove_file(&new); // the disk may be full, and this is why
        }
        done
    }

    /// Opens a file that nobody but us can have written.
    fn open_file(&self, digest: &Digest) -> io::Result<File> {
        let mut options = OpenOptions::new();
        // No link is followed, and a pipe in the place of a file is not waited for.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.read(true).custom_flags(flags.bits().cast_signed());
        let file = self.state.open_with(path(digest), &options)?.into_std();
        let about = file.metadata()?;
        let wrong = |why: &str| Err(io::Error::new(io::ErrorKind::InvalidData, why));
        if !about.is_file() {
            return wrong("it is not a regular file");
        }
        if about.uid() != rustix::process::geteuid().as_raw() {
            return wrong("it belongs to another user");
        }
        if about.mode() & MODE_FORBIDDEN != 0 {
            return wrong("its mode lets somebody write to it");
        }
        if about.nlink() > 1 {
            return wrong("it has a second name");
        }
        Ok(file)
    }

    fn check(&self, file: File, digest: &Digest) -> io::Result<Option<VerifiedFile>> {
        VerifiedFile::check(file, |file| {
            let bytes = file.metadata()?.len();
            let Some(code_bytes) = bytes.checked_sub(SEAL_BYTES) else { return Ok(false) };
            let mut seal = self.begin(digest, code_bytes);
            let mut chunk = vec![0; CHUNK_BYTES];
            let mut code = file.take(code_bytes);
            let mut read_bytes = 0;
            loop {
                let read = code.read(&mut chunk)?;
                if read == 0 {
                    break;
                }
                read_bytes += read as u64;
                seal.update(&chunk[..read]);
            }
            let mut sealed = [0; SEAL_BYTES as usize];
            file.read_exact_at(&mut sealed, code_bytes)?;
            Ok(read_bytes == code_bytes && seal.verify_slice(&sealed).is_ok()) // in constant time
        })
    }

    /// A seal over everything but the code itself.
    fn begin(&self, digest: &Digest, code_bytes: u64) -> Seal {
        let mut seal = self.key.clone();
        seal.update(PURPOSE);
        for word in [digest.as_str(), &self.fits.target, &self.fits.engine] {
            seal.update(&(word.len() as u64).to_le_bytes());
            seal.update(word.as_bytes());
        }
        seal.update(&code_bytes.to_le_bytes());
        seal
    }

    fn refuse(&self, digest: &Digest, why: &str) -> Absent {
        let removed = self.state.remove_file(path(digest));
        let kept = removed.err().filter(|error| error.kind() != io::ErrorKind::NotFound);
        let kept = kept.map_or_else(String::new, |error| format!(", and cannot be removed: {error}"));
        Absent::Refused(format!("native code {digest} on disk is refused: {why}{kept}"))
    }
}

fn path(digest: &Digest) -> String {
    format!("{FOLDER_NATIVE}/{digest}")
}

/// The key, if a file of ours holds one that nobody else can read.
fn read_key(state: &Dir) -> Option<[u8; KEY_BYTES]> {
    let mut options = OpenOptions::new();
    options.read(true).custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed());
    let file = state.open_with(KEY_FILE, &options).ok()?.into_std();
    let about = file.metadata().ok()?;
    let is_ours = about.is_file()
        && about.uid() == rustix::process::geteuid().as_raw()
        && about.mode() & 0o7077 == 0
        && about.len() == KEY_BYTES as u64;
    let mut key = [0; KEY_BYTES];
    (is_ours && file.read_exact_at(&mut key, 0).is_ok()).then_some(key)
}

/// A new key in the place of any other: whatever was sealed with that is made again.
fn make_key(state: &Dir) -> Result<[u8; KEY_BYTES]> {
    let key: [u8; KEY_BYTES] = rand::random();
    let new = format!("{KEY_FILE}.{}{UNFINISHED}", uuid::Uuid::new_v4());
    let mut options = OpenOptions::new();
    options.write(true).create_new(true).mode(0o600);
    let mut file = state.open_with(&new, &options)?;
    file.write_all(&key).and_then(|()| file.sync_all())?;
    state.rename(&new, state, KEY_FILE)?;
    ensure!(read_key(state) == Some(key), "{KEY_FILE} does not hold what was written to it");
    Ok(key)
}

#[cfg(test)]
#[path = "native_tests.rs"]
mod tests;
