//! Loads that fail late or are superseded: nothing of them stays.
//!
//! The host is whole, but for NATS: it has the login of an app when a test puts it on its disk, and tries again and again
//! before. Time goes on whenever everybody waits for it.

use std::sync::LazyLock;

use odeon_engine::{Engine, EngineSettings, artefact};
use odeon_protocol::secrets::StageKey;
use odeon_protocol::{DatabaseLogin, Limits, Revision, Signer};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::memory::Source;
use crate::native::NativeFiles;

/// Memory of an app: what its serving revision has, and what another one would have.
const MEMORY_BYTES: u64 = 64 << 20;
const OTHER_MEMORY_BYTES: u64 = 32 << 20;

/// How long a test waits for what comes by itself.
const PATIENCE: Duration = Duration::from_secs(60);

/// An engine, and an app that was compiled for it.
static COMPILED: LazyLock<(Engine, Vec<u8>)> = LazyLock::new(|| {
    let settings = EngineSettings { instances_max: 1, memory_bytes_max: 16 << 20, ..Default::default() };
    let engine = Engine::new(settings).unwrap();
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let file = target.join("guests/wasm32-wasip2/release/hello_rust.wasm");
    let component =
        std::fs::read(&file).unwrap_or_else(|_| panic!("`make guests` builds {}", file.display()));
    let code = artefact::compile(&engine, &component).unwrap();
    (engine, code)
});

/// A host of a stage in which somebody deploys one app.
struct Stage {
    agent: Arc<Agent>,
    app: AppId,
    signer: Signer,
    folder: TempDir,
}

impl Stage {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (engine, code) = &*COMPILED;
        let settings: crate::settings::Settings = serde_json::from_value(json!({
            "organization": "0190d5d2-0000-7000-8000-000000000001", "stage": "development", "host": "development-1",
            "zone": "a", "listen": "", "admin_listen": "", "nats_url": "", "credentials": "", "trusted_keys": "",
            "secrets_key": "", "state_dir": folder.path(), "database_connections_max": 1,
        }))
        .unwrap();
        let secrets = StageKey::derive(&[0; 32], &settings.organization, &settings.stage);
        let (host, _) = Host::new(settings, secrets, engine.clone(), &Source::of_process()).unwrap();
        let files = NativeFiles::open(host.state.dir(), engine).unwrap();
        files.put(&Digest::of(code), code).unwrap();
        let signer = Signer::generate();
        let agent = Agent::new(host, TrustedKeys::from_hex([signer.public()]).unwrap());
        let app = "0190d5d2-0000-7000-8000-000000000002".parse().unwrap();
        Self { agent, app, signer, folder }
    }

    fn serving(&self, database: bool, memory_bytes_max: u64) -> Serving {
        let claim = Claim {
            organization: self.agent.host.settings.organization.clone(),
            app: self.app.clone(),
            revision: Revision(1),
            wasm: Digest::of(&COMPILED.1),
            wasm_bytes: 1,
            native: None,
        };
        Serving {
            name: "Shop".parse().unwrap(),
            claim: self.signer.seal(&claim),
            revision: claim.revision,
            placements: vec![self.agent.host.settings.host.clone()],
            limits: Limits { memory_bytes_max, ..Limits::default() },
            egress_allow: Vec::new(),
            database,
            settings: BTreeMap::new(),
            timers: Vec::new(),
            handlers: Vec::new(),
            publishes: false,
        }
    }

    fn wanted(&self, number: u64, state: DesiredState) -> DesiredApp {
        let settings = &self.agent.host.settings;
        DesiredApp {
            organization: settings.organization.clone(),
            stage: settings.stage.clone(),
            app: self.app.clone(),
            generation: generation(number),
            state,
        }
    }

    /// The host hears that this is wanted from now on, and does nothing about it yet.
    fn want(&self, number: u64, state: DesiredState) {
        self.agent.known.lock().unwrap().insert(self.app.clone(), self.wanted(number, state));
    }

    async fn serve(&self, number: u64, serving: &Serving) {
        self.want(number, DesiredState::Serving(Box::new(serving.clone())));
        self.agent.serve(&self.app, generation(number), serving, true).await;
    }

    fn login(&self) -> Option<DatabaseLogin> {
        self.agent.host.state.login(self.app.as_str())
    }

    fn give_login(&self) {
        let [host, database, user, password] = ["127.0.0.1", "stage", "app", "secret"].map(str::to_owned);
        let login = DatabaseLogin { host, port: 1, database, user, password };
        self.agent.host.state.put_login(self.app.as_str(), &login).unwrap();
    }

    /// Memory that each app may use which has an account.
    fn budgets(&self) -> Vec<u64> {
        self.agent.host.accounts.all().iter().map(|(_, account)| account.memory.max()).collect()
    }

    /// Waits until so many apps are loaded: the cache lets go of what left it a moment later.
    async fn has_loaded(&self, apps: i64) {
        let started = std::time::Instant::now();
        loop {
            self.agent.host.loader.tidy().await;
            let loaded = self.agent.host.metrics.apps_loaded.get();
            if loaded == apps {
                return;
            }
            assert!(started.elapsed() < PATIENCE, "{loaded} apps are loaded, not {apps}");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn generation(number: u64) -> Generation {
    Generation { epoch: 0, number }
}

#[tokio::test(start_paused = true)]
async fn what_fails_late_is_loaded_once_and_forgotten_when_it_is_not_wanted_any_more() {
    let stage = Stage::new();
    let serving = stage.serving(true, MEMORY_BYTES);
    let then = async {
        for _ in 0..3 {
            stage.agent.changed.notified().await; // a try has failed
        }
        stage.has_loaded(1).await; // what the first try loaded is there for the others
        stage.want(2, DesiredState::Removed);
    };
    tokio::join!(stage.serve(1, &serving), then);
    assert_eq!(stage.agent.host.metrics.loads.get(), 1);
    stage.has_loaded(0).await;
    assert!(stage.budgets().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_load_that_was_superseded_changes_nothing_of_what_serves() {
    let stage = Stage::new();
    let serving = stage.serving(false, MEMORY_BYTES);
    stage.serve(1, &serving).await;
    assert_eq!(stage.budgets(), [MEMORY_BYTES], "the control: it serves");
    stage.has_loaded(1).await;
    let then = async {
        stage.want(3, DesiredState::Serving(Box::new(serving.clone()))); // it is rolled back
        stage.give_login(); // and can be loaded now
    };
    let slow = stage.serving(true, OTHER_MEMORY_BYTES);
    tokio::join!(stage.serve(2, &slow), then);
    assert_eq!(stage.budgets(), [MEMORY_BYTES]);
    stage.has_loaded(1).await;
    assert!(stage.login().is_some(), "it is the app's, which serves");
}

#[tokio::test(start_paused = true)]
async fn a_load_that_ends_after_the_app_has_left_leaves_nothing() {
    let stage = Stage::new();
    let serving = stage.serving(true, MEMORY_BYTES);
    let then = async {
        stage.want(2, DesiredState::Removed);
        stage.agent.leave(&stage.app, generation(2)).await;
        stage.give_login(); // the answer to a question from before
    };
    tokio::join!(stage.serve(1, &serving), then);
    assert_eq!(stage.agent.host.apps.len(), 0);
    stage.has_loaded(0).await;
    assert!(stage.login().is_none(), "whoever takes the host later does not get it");
    assert!(stage.agent.host.pools.prepare(stage.app.as_str()).await.is_err(), "nor has it in memory");
    assert!(stage.budgets().is_empty() && stage.agent.artefacts.lock().unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_host_is_ready_when_what_it_is_to_serve_is_served_or_has_failed() {
    for (has_login, is_there) in [(true, false), (false, false)] {
        let stage = Stage::new();
        if has_login {
            stage.give_login();
        }
        let serving = stage.serving(true, MEMORY_BYTES);
        stage.want(1, DesiredState::Serving(Box::new(serving.clone())));
        let ready = stage.agent.clone().become_ready(move || is_there);
        let then = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(!stage.agent.host.is_ready(), "what is wanted was not read yet");
            stage.agent.read.send_replace(Read::All);
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert!(!stage.agent.host.is_ready(), "the app is not served yet");
            tokio::select! {
                () = stage.agent.serve(&stage.app, generation(1), &serving, true) => {}
                () = tokio::time::sleep(Duration::from_secs(20)) => assert!(!has_login, "it is served"),
            }
        };
        tokio::join!(ready, then);
        assert!(stage.agent.host.is_ready());
        assert_eq!(stage.agent.host.apps.serving(&stage.app).is_some(), has_login);
    }
}

#[tokio::test(start_paused = true)]
async fn a_host_is_not_ready_by_what_it_served_before() {
    let stage = Stage::new();
    let serving = stage.serving(false, MEMORY_BYTES);
    stage.serve(1, &serving).await;
    stage.want(2, DesiredState::Serving(Box::new(serving.clone()))); // nobody has begun with it
    stage.agent.read.send_replace(Read::All);
    let then = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!stage.agent.host.is_ready());
        stage.agent.serve(&stage.app, generation(2), &serving, true).await;
    };
    tokio::join!(stage.agent.clone().become_ready(|| false), then);
    assert!(stage.agent.host.is_ready());
}

#[tokio::test(start_paused = true)]
async fn one_app_that_is_not_loaded_keeps_no_host_out_for_ever() {
    let stage = Stage::new();
    stage.want(1, DesiredState::Serving(Box::new(stage.serving(false, MEMORY_BYTES))));
    stage.agent.read.send_replace(Read::All);
    stage.agent.clone().become_ready(|| true).await;
    assert!(stage.agent.host.is_ready());
}

#[tokio::test]
async fn what_could_not_be_kept_on_the_disk_is_kept_later() {
    let stage = Stage::new();
    let folder = stage.folder.path().join("desired");
    let aside = stage.folder.path().join("aside");
    std::fs::rename(&folder, &aside).unwrap(); // as if the disk took nothing
    let serving = stage.serving(false, MEMORY_BYTES);
    let desired = stage.wanted(1, DesiredState::Serving(Box::new(serving)));
    stage.agent.unkept.lock().unwrap().insert(stage.app.clone(), stage.signer.seal(&desired));
    stage.agent.keep().await;
    assert!(stage.agent.host.state.desired_names().is_empty());
    std::fs::rename(&aside, &folder).unwrap();
    stage.agent.keep().await;
    assert_eq!(stage.agent.host.state.desired_names(), [format!("{}.json", stage.app)]);
    assert!(stage.agent.unkept.lock().unwrap().is_empty());
}
