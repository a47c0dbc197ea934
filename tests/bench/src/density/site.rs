//! What a host finds on its disk: artefacts, sealed desired state, keys, and its settings.
//!
//! Compiling thousands of apps takes minutes, so that is done once per number of apps and engine, and kept.

use std::collections::BTreeMap;
use std::fs::{File, create_dir_all, read, write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::{Context as _, Result};
use odeon_engine::Engine;
use odeon_engine::artefact::compile;
use odeon_protocol::{
    Claim, DesiredApp, DesiredState, Digest, Generation, Limits, NativeArtefact, Revision, Serving, Signer,
};
use rustix::fs::{Advice, fadvise};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::vary;

/// Owner of all apps.
const ORGANIZATION: &str = "0d000000-0000-4000-8000-0000000000ff";
/// Stage and host.
const STAGE: &str = "production";
const HOST: &str = "production-1";
/// The key of this benchmark; it signs nothing else.
const SEED: [u8; 32] = [0x0d; 32];

/// The prepared apps.
#[derive(Serialize, Deserialize)]
pub(super) struct Prepared {
    /// Component and engine they were made of.
    of: String,
    wasm: Vec<Digest>,
    native: Vec<Digest>,
    /// Bytes of native code of the largest.
    pub(super) native_bytes: u64,
}

/// Compiles the apps, unless that was done with the same component, engine and way to vary it.
pub(super) fn prepare(apps: usize, folder: &Path) -> Result<Prepared> {
    let component = read(odeon_tests::hello())?;
    let engine = Engine::for_compiling()?;
    let varied = Digest::of(&vary::app(&component, 0)?);
    let of = format!("{} {varied} {}", Digest::of(&component), engine.fits().engine);
    let file = folder.join("prepared.json");
    if let Ok(bytes) = read(&file)
        && let Ok(prepared) = serde_json::from_slice::<Prepared>(&bytes)
        && prepared.of == of
    {
        return Ok(prepared);
    }
    let _ = std::fs::remove_dir_all(folder); // what other programs made of it
    let objects = folder.join("state/objects");
    create_dir_all(&objects)?;
    let next = AtomicUsize::new(0);
    let work = || -> Result<Vec<(usize, Digest, Digest, u64)>> {
        let mut made = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= apps {
                return Ok(made);
            }
            let wasm = vary::app(&component, number)?;
            let native = compile(&engine, &wasm)?;
            let digest = Digest::of(&native);
            write(objects.join(digest.as_str()), &native)?;
            made.push((number, Digest::of(&wasm), digest, native.len() as u64));
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let mut made = std::thread::scope(|scope| -> Result<Vec<_>> {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        let mut made = Vec::new();
        for worker in workers {
            let part = worker.join().map_err(|_| anyhow::anyhow!("a compiling thread ended"))??;
            made.extend(part);
        }
        Ok(made)
    })?;
    made.sort_by_key(|(number, ..)| *number);
    let native_bytes = made.iter().map(|(.., bytes)| *bytes).max().unwrap_or(0);
    let (wasm, native) = made.into_iter().map(|(_, wasm, native, _)| (wasm, native)).unzip();
    let prepared = Prepared { of, wasm, native, native_bytes };
    write(&file, serde_json::to_vec(&prepared)?)?;
    Ok(prepared)
}

/// A host's folder and settings, with each app placed some times.
pub(super) struct Site {
    config: PathBuf,
    state: PathBuf,
    prepared: Prepared,
    placements: usize,
}

impl Site {
    /// Writes them, for so many placements. All sites of a run have the same artefacts.
    pub(super) fn open(folder: &Path, placements: usize, bytes_max: Option<u64>) -> Result<Self> {
        let folder = std::path::absolute(folder)?;
        let prepared: Prepared = serde_json::from_slice(&read(folder.join("prepared.json"))?)?;
        let (state, apps) = (folder.join("state"), prepared.native.len());
        let desired = state.join("desired");
        let _ = std::fs::remove_dir_all(&desired);
        create_dir_all(&desired)?;
        let signer = Signer::from_seed(&SEED);
        let fits = Engine::for_compiling()?.fits();
        for placement in 0..placements {
            let (app, id) = (placement % apps, vary::id(placement));
            let claim = Claim {
                organization: ORGANIZATION.parse()?,
                app: id.parse()?,
                revision: Revision(1),
                wasm: prepared.wasm[app].clone(),
                wasm_bytes: 0,
                native: Some(NativeArtefact {
                    digest: prepared.native[app].clone(),
                    bytes: 0,
                    target: fits.target.clone(),
                    engine: fits.engine.clone(),
                }),
            };
            let serving = Serving {
                name: Self::name(placement).parse()?,
                claim: signer.seal(&claim),
                revision: claim.revision,
                placements: vec![HOST.parse()?],
                limits: Limits::default(),
                egress_allow: Vec::new(),
                database: false,
                settings: BTreeMap::new(),
                timers: Vec::new(),
                handlers: Vec::new(),
                publishes: false,
            };
            let sealed = signer.seal(&DesiredApp {
                organization: ORGANIZATION.parse()?,
                stage: STAGE.parse()?,
                app: claim.app,
                generation: Generation { epoch: 0, number: 1 },
                state: DesiredState::Serving(Box::new(serving)),
            });
            write(desired.join(format!("{id}.json")), serde_json::to_vec(&sealed)?)?;
        }
        let file = |name: &str, content: &[u8]| -> Result<PathBuf> {
            let path = folder.join(name);
            write(&path, content)?;
            Ok(path)
        };
        // Nobody listens at the port of NATS: a host serves what it knows.
        let seed = nkeys::KeyPair::new_user().seed()?;
        let credentials = format!(
            "-----BEGIN NATS USER JWT-----\nnone\n------END NATS USER JWT------\n\n-----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        );
        let settings = json!({
            "organization": ORGANIZATION, "stage": STAGE, "host": HOST, "zone": "a",
            "listen": "127.0.0.1:0", "admin_listen": "127.0.0.1:0", "nats_url": "nats://127.0.0.1:1",
            "credentials": file("host.creds", credentials.as_bytes())?,
            "trusted_keys": file("trusted.json", &serde_json::to_vec(&[signer.public()])?)?,
            "secrets_key": file("secrets.key", "0d".repeat(32).as_bytes())?,
            "state_dir": state, "database_connections_max": 1, "loaded_bytes_max": bytes_max,
        });
        let config = file("host.json", &serde_json::to_vec(&settings)?)?;
        Ok(Self { config, state, prepared, placements })
    }

    /// The name of a placement.
    pub(super) fn name(placement: usize) -> String {
        format!("App{placement}")
    }

    pub(super) fn config(&self) -> &Path {
        &self.config
    }

    /// Different apps.
    pub(super) fn apps(&self) -> usize {
        self.prepared.native.len()
    }

    pub(super) fn placements(&self) -> usize {
        self.placements
    }

    /// Whether a host has sealed all artefacts.
    pub(super) fn is_sealed(&self) -> bool {
        (0..self.apps()).all(|app| self.artefact(app).exists())
    }

    /// Reads all artefacts, so that the page cache holds them.
    pub(super) fn read_artefacts(&self) -> Result<()> {
        for app in 0..self.apps() {
            read(self.artefact(app))?;
        }
        Ok(())
    }

    /// Asks the kernel to drop the artefacts of some placements from the page cache.
    pub(super) fn drop_artefacts(&self, placements: &[usize]) -> Result<()> {
        for placement in placements {
            let path = self.artefact(placement % self.apps());
            let file = File::open(&path).with_context(|| format!("open {}", path.display()))?;
            fadvise(&file, 0, None, Advice::DontNeed)?;
        }
        Ok(())
    }

    fn artefact(&self, app: usize) -> PathBuf {
        self.state.join("native").join(self.prepared.native[app].as_str())
    }
}
