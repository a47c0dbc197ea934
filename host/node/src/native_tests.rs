//! What is refused, and that what is not touched loads: each case has the untouched file as its control.

use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use cap_std::ambient_authority;
use odeon_engine::EngineSettings;
use tempfile::TempDir;

use super::*;

fn engine() -> &'static Engine {
    static ENGINE: OnceLock<Engine> = OnceLock::new();
    ENGINE.get_or_init(|| {
        Engine::new(EngineSettings { instances_max: 1, memory_bytes_max: 1 << 20, ..Default::default() })
            .unwrap()
    })
}

/// Code of the app of that number, below 64: a component with one module, whose function gives the number.
fn code(number: u8) -> Vec<u8> {
    let mut module = b"\0asm\x01\0\0\0".to_vec();
    module.extend([1, 5, 1, 0x60, 0, 1, 0x7f]); // a type: no parameters, an i32
    module.extend([3, 2, 1, 0]); // a function of it
    module.extend([7, 5, 1, 1, b'f', 0, 0]); // exported as `f`
    module.extend([10, 6, 1, 4, 0, 0x41, number, 0x0b]); // i32.const
    let mut component = b"\0asm\x0d\0\x01\0".to_vec();
    component.extend([1, u8::try_from(module.len()).unwrap()]);
    component.extend(module);
    artefact::compile(engine(), &component).unwrap()
}

struct Folder {
    folder: TempDir,
    digest: Digest,
}

impl Folder {
    /// A state folder that holds one sealed file.
    fn with_file() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(FOLDER_NATIVE)).unwrap();
        let folder = Self { folder, digest: Digest::of(b"the component it was compiled from, here") };
        folder.files().put(&folder.digest, &code(1)).unwrap();
        folder
    }

    fn files(&self) -> NativeFiles {
        let dir = Dir::open_ambient_dir(self.folder.path(), ambient_authority()).unwrap();
        NativeFiles::open(&dir, engine()).unwrap()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join(path(&self.digest))
    }

    /// The file is replaced by `bytes`, with the mode it had.
    fn write(&self, bytes: &[u8]) {
        std::fs::remove_file(self.path()).unwrap();
        std::fs::write(self.path(), bytes).unwrap();
        std::fs::set_permissions(self.path(), std::fs::Permissions::from_mode(0o400)).unwrap();
    }

    /// The file loads as it is; after `change` it is refused and gone.
    #[track_caller]
    fn check_refused(&self, why: &str, change: impl FnOnce(&Path)) {
        assert!(self.files().load(engine(), &self.digest).is_ok(), "the control: it loads untouched");
        change(&self.path());
        match self.files().load(engine(), &self.digest) {
            Err(Absent::Refused(said)) => assert!(said.contains(why), "{said}"),
            Err(Absent::Missing) => panic!("it counts as missing"),
            Ok(_) => panic!("it was loaded"),
        }
        assert!(self.path().symlink_metadata().is_err(), "what is refused is removed");
        assert_eq!(self.files().load(engine(), &self.digest).err(), Some(Absent::Missing));
    }
}

#[test]
fn a_flipped_bit_anywhere_is_refused() {
    let bytes = std::fs::read(Folder::with_file().path()).unwrap();
    let in_the_seal = bytes.len() - 1;
    for at in [0, 5, 64, bytes.len() / 2, in_the_seal - 32, in_the_seal - 31, in_the_seal] {
        let folder = Folder::with_file();
        folder.check_refused("seal", |path| {
            let mut bytes = std::fs::read(path).unwrap();
            bytes[at] ^= 1;
            folder.write(&bytes);
        });
    }
}

#[test]
fn a_truncated_or_longer_file_is_refused() {
    for bytes in [0, 1, 31, 32, 33, 4_096] {
        let folder = Folder::with_file();
        folder.check_refused("seal", |path| {
            let whole = std::fs::read(path).unwrap();
            folder.write(&whole[..bytes]);
        });
    }
    let folder = Folder::with_file();
    folder.check_refused("seal", |path| {
        let whole = std::fs::read(path).unwrap();
        folder.write(&[whole, vec![0]].concat());
    });
}

#[test]
fn the_sealed_file_of_another_app_is_refused() {
    let folder = Folder::with_file();
    let other = code(2);
    let other_digest = Digest::of(&other);
    folder.files().put(&other_digest, &other).unwrap();
    let other_path = folder.folder.path().join(path(&other_digest));
    folder.check_refused("seal", |path| std::fs::rename(&other_path, path).unwrap());
}

#[test]
fn a_file_for_another_engine_is_refused() {
    let folder = Folder::with_file();
    let mut older = folder.files();
    older.fits.engine.push_str("-older");
    let code = code(1);
    folder.check_refused("seal", |_| older.put(&folder.digest, &code).unwrap());
}

#[test]
fn only_a_regular_file_of_ours_that_nobody_can_write_is_loaded() {
    let folder = Folder::with_file();
    let elsewhere = folder.folder.path().join("elsewhere");
    folder.check_refused("", |path| {
        std::fs::rename(path, &elsewhere).unwrap(); // a good file, so that only the link is wrong
        symlink(&elsewhere, path).unwrap();
    });
    let folder = Folder::with_file();
    folder.check_refused("second name", |path| {
        std::fs::hard_link(path, folder.folder.path().join("second")).unwrap();
    });
    for mode in [0o600, 0o420, 0o402] {
        let folder = Folder::with_file();
        folder.check_refused("mode", |path| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        });
    }
}

#[test]
fn a_file_that_takes_the_name_after_the_check_is_not_what_is_loaded() {
    let folder = Folder::with_file();
    let files = folder.files();
    let checked = files.check(files.open_file(&folder.digest).unwrap(), &folder.digest).unwrap().unwrap();
    folder.write(b"something else");
    // The control: by its name it is something else.
    assert!(matches!(files.load(engine(), &folder.digest), Err(Absent::Refused(_))));
    // Its links went from one to none, which a careful host takes for a change: it is refused, not mistaken.
    let loaded = artefact::load_file(engine(), &checked);
    assert!(loaded.err().is_some_and(|error| error.to_string().contains("changed while it was loaded")));
}

#[test]
fn a_file_that_is_written_to_after_the_check_is_refused() {
    let folder = Folder::with_file();
    let files = folder.files();
    let check = || files.check(files.open_file(&folder.digest).unwrap(), &folder.digest).unwrap().unwrap();
    assert!(artefact::load_file(engine(), &check()).is_ok(), "the control");
    let checked = check();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o600)).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(folder.path()).unwrap();
    let last = file.metadata().unwrap().len() - 1;
    file.write_all_at(b"x", last).unwrap();
    assert!(artefact::load_file(engine(), &checked).is_err());
}

#[test]
fn without_its_key_a_host_trusts_nothing() {
    let folder = Folder::with_file();
    folder.check_refused("seal", |_| {
        std::fs::remove_file(folder.folder.path().join(KEY_FILE)).unwrap();
    });
    // And a key that others could have read or written is not used.
    let folder = Folder::with_file();
    folder.check_refused("seal", |_| {
        let key = folder.folder.path().join(KEY_FILE);
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o644)).unwrap();
    });
}

#[test]
fn code_that_is_what_was_signed_is_sealed_anew() {
    let folder = Folder::with_file();
    let code = code(3);
    let signed = Digest::of(&code);
    folder.files().put(&signed, &code).unwrap();
    std::fs::remove_file(folder.folder.path().join(KEY_FILE)).unwrap();
    let files = folder.files();
    assert!(files.load(engine(), &signed).is_ok());
    assert!(files.load_sealed(engine(), &signed).is_ok(), "it has a seal of the new key");
    assert!(files.load(engine(), &folder.digest).is_err(), "nobody signed what was compiled here");
}

#[test]
fn code_and_key_are_ours_alone() {
    let folder = Folder::with_file();
    let mode = |path: PathBuf| path.metadata().unwrap().permissions().mode() & 0o7777;
    assert_eq!(mode(folder.path()), 0o400);
    assert_eq!(mode(folder.folder.path().join(KEY_FILE)), 0o600);
}

#[test]
fn a_name_that_leads_elsewhere_is_no_digest() {
    for name in ["../native.key", "/etc/passwd", "..", ""] {
        assert!(name.parse::<Digest>().is_err(), "{name}");
    }
}
