//! An unknown component on its way to running: compiled as a build service's child does it, sealed and mapped from disk as a
//! host does it, and linked.
//!
//! The first byte of an input says what it is: a component as bytes, a plan of one with a core module that wasm-smith makes
//! of the rest, or changes to a sealed file of native code.
//!
//! Properties: nothing panics; what is compiled is taken by a host, with its pools and limits; native code is mapped only
//! from the very bytes that were sealed, under the name, engine and key that they were sealed for.

#![no_main]
#![allow(clippy::expect_used, reason = "a target ends at the first surprise")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::sync::OnceLock;

use cap_std::ambient_authority;
use cap_std::fs::Dir;
use libfuzzer_sys::arbitrary::{Arbitrary as _, Unstructured};
use libfuzzer_sys::{Corpus, fuzz_target};
use odeon_capabilities::Granted;
use odeon_engine::{App, Engine, EngineSettings, Linkers};
use odeon_fuzz::components::{Plan, component, smallest};
use odeon_host::compile::Compiler;
use odeon_host::fuzzing::{Absent, FOLDER_NATIVE, NativeFiles};
use odeon_protocol::Digest;
use tempfile::TempDir;

/// Changes to one file.
const CHANGES_MAX: usize = 8;

/// Everything that outlives an input.
struct Host {
    compiler: Compiler,
    engine: Engine,
    linkers: Linkers<Granted>,
    folder: TempDir,
    files: NativeFiles,
    /// Native code of the smallest app.
    code: Vec<u8>,
    digest: Digest,
}

fn host() -> &'static Host {
    static HOST: OnceLock<Host> = OnceLock::new();
    HOST.get_or_init(|| {
        let compiler = Compiler::new().expect("start the compiler");
        // What an instance may have is as on hosts; only the number of instances is not.
        let settings = EngineSettings { instances_max: 4, ..EngineSettings::default() };
        let engine = Engine::new(settings).expect("start the engine");
        let linkers = odeon_capabilities::linkers(&engine).expect("link the capabilities");
        let folder = folder();
        fs::create_dir(folder.path().join(FOLDER_NATIVE)).expect("make a folder");
        let files = opened(&folder, &engine);
        let code =
            compiler.compile(&smallest()).expect("the compiler goes").expect("the smallest app is one");
        let digest = Digest::of(b"the smallest app");
        Host { compiler, engine, linkers, folder, files, code, digest }
    })
}

/// In memory where there is such a place: files are waited for until they are on the disk.
fn folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("make a folder")
}

fn opened(folder: &TempDir, engine: &Engine) -> NativeFiles {
    let dir = Dir::open_ambient_dir(folder.path(), ambient_authority()).expect("open the folder");
    NativeFiles::open(&dir, engine).expect("open the sealed files")
}

fuzz_target!(|data: &[u8]| -> Corpus {
    let [kind, rest @ ..] = data else { return Corpus::Reject };
    match kind % 4 {
        0 => load(rest),
        1 | 2 => {
            let mut rest = Unstructured::new(rest);
            let Ok(plan) = Plan::arbitrary(&mut rest) else { return Corpus::Reject };
            let module = (kind % 4 == 2).then(|| wasm_smith::Module::new(modules(), &mut rest));
            let Ok(module) = module.transpose() else { return Corpus::Reject };
            load(&component(&plan, module.map(|module| module.to_bytes()).as_deref()));
        }
        _ => tamper(rest),
    }
    Corpus::Keep
});

/// Modules that compile quickly and need nothing; what wasmtime does not take is left in now and then.
fn modules() -> wasm_smith::Config {
    wasm_smith::Config {
        max_imports: 0,
        max_funcs: 4,
        max_instructions: 64,
        max_types: 8,
        max_globals: 8,
        max_exports: 8,
        max_memories: 6,
        max_tables: 4,
        max_element_segments: 4,
        max_elements: 16,
        max_data_segments: 4,
        gc_enabled: false,
        exceptions_enabled: false,
        compact_imports_enabled: false,
        ..wasm_smith::Config::default()
    }
}

/// What a publish and a deployment do with a component.
fn load(bytes: &[u8]) {
    let host = host();
    let code = match host.compiler.compile(bytes).expect("the compiler goes") {
        Ok(code) => code,
        Err(refused) => return assert!(!refused.0.is_empty(), "a reason is given"),
    };
    let digest = Digest::of(&code);
    host.files.put(&digest, &code).expect("seal native code");
    let mapped = host.files.load(&host.engine, &digest).expect("what was compiled is taken by hosts");
    assert_eq!(mapped.bytes, code.len() as u64 + 32, "code and seal");
    let app =
        App::link(&host.engine, &host.linkers, &mapped.component).expect("what was compiled fits this host");
    assert!(app.initial_bytes() <= EngineSettings::default().memory_bytes_max as u64, "an instance has room");
    remove(host, &digest);
}

/// A sealed file is changed by whoever can write to the disk.
fn tamper(changes: &[u8]) {
    let host = host();
    let [how, changes @ ..] = changes else { return };
    host.files.put(&host.digest, &host.code).expect("seal native code");
    let path = host.folder.path().join(FOLDER_NATIVE).join(host.digest.as_str());
    let sealed = fs::read(&path).expect("read what was written");
    let mut bytes = sealed.clone();
    let mut digest = host.digest.clone();
    match how % 4 {
        // Bytes are changed: anywhere, at the head of the code, in the seal.
        0 | 1 => {
            for change in changes.chunks_exact(5).take(CHANGES_MAX) {
                let at = u32::from_le_bytes([change[0], change[1], change[2], 0]) as usize;
                let at = if change[3] & 1 == 0 { at % bytes.len() } else { bytes.len() - 1 - at % 64 };
                bytes[at] ^= change[4];
            }
        }
        // Cut, or longer.
        2 => {
            let at = changes.first_chunk::<3>().map_or(0, |[low, middle, high]| {
                u32::from_le_bytes([*low, *middle, *high, 0]) as usize % (bytes.len() + 1)
            });
            bytes.truncate(at);
            bytes.extend(changes.iter().skip(3));
        }
        // Whole, under another name.
        _ => digest = Digest::of(changes),
    }
    remove(host, &host.digest);
    let path = host.folder.path().join(FOLDER_NATIVE).join(digest.as_str());
    fs::write(&path, &bytes).expect("write the file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("give it the mode it had");
    let is_as_sealed = bytes == sealed && digest == host.digest;
    match host.files.load(&host.engine, &digest) {
        Ok(_) => assert!(is_as_sealed, "native code was mapped that nobody sealed"),
        Err(Absent::Refused(why)) => assert!(!is_as_sealed, "what was sealed is refused: {why}"),
        Err(Absent::Missing) => panic!("the file is there"),
    }
    if is_as_sealed {
        // Another host has another key.
        let other = folder();
        fs::create_dir(other.path().join(FOLDER_NATIVE)).expect("make a folder");
        let files = opened(&other, &host.engine);
        let path = other.path().join(FOLDER_NATIVE).join(digest.as_str());
        fs::write(&path, &bytes).expect("write the file");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o400)).expect("give it the mode it had");
        assert!(matches!(files.load(&host.engine, &digest), Err(Absent::Refused(_))), "another host's seal");
    } else {
        assert!(!fs::exists(&path).expect("look for the file"), "what is refused is removed");
    }
    remove(host, &digest);
}

fn remove(host: &Host, digest: &Digest) {
    let _ = fs::remove_file(host.folder.path().join(FOLDER_NATIVE).join(digest.as_str()));
}
