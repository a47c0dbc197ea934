//! A running installation for end-to-end tests: real processes, a PostgreSQL and a nats-server that
//! `odeon up` starts for it, in a folder and on ports of its own.
//!
//! The scenarios are in `tests/`, one file each. They run the binaries that `make test` built. Nothing waits by
//! sleeping: [`eventually`] looks again until a deadline.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test ends at the first surprise")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long anything may take before a test gives up.
pub const PATIENCE: Duration = Duration::from_secs(90);
/// How long a client keeps an idle connection: less than any server here, for a request that meets a closing one is lost.
pub const IDLE: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(50);
/// Installations of this process so far.
static INSTALLATIONS: AtomicU16 = AtomicU16::new(0);

/// A running installation in a folder of its own.
pub struct Installation {
    /// Everything of this test lies here.
    pub folder: PathBuf,
    /// For requests as a user sends them.
    pub client: Client,
    data: PathBuf,
    up: Child,
}

/// An empty folder that the installation's unprivileged user can reach. Left there when a test fails.
pub fn fresh_folder() -> (PathBuf, u16) {
    let number = INSTALLATIONS.fetch_add(1, Ordering::Relaxed);
    let folder = PathBuf::from(format!("/var/tmp/odeon-test-{}-{number}", std::process::id()));
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
    // Ten ports each, below the range that the system gives out by itself.
    let slot = (std::process::id() * 3 + u32::from(number)) % 1_200;
    (folder, 20_000 + u16::try_from(slot).unwrap() * 10)
}

/// Looks again until `answer` gives something, and fails with `what` when that takes too long.
pub async fn eventually<T>(what: &str, mut answer: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = answer().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(PAUSE).await;
    }
}

/// The `odeon` beside this test, for an installation.
pub fn odeon(data: &Path) -> Command {
    let mut command = Command::new(built().join("odeon"));
    command.arg("--data").arg(data);
    command.env_remove("ODEON_URL").env_remove("ODEON_TOKEN");
    command
}

/// The component of `guest-examples/hello-rust`.
pub fn hello() -> PathBuf {
    guest("hello_rust")
}

/// A component that `make guests` built.
pub fn guest(name: &str) -> PathBuf {
    let target = built().parent().unwrap().to_owned();
    let file = target.join(format!("guests/wasm32-wasip2/release/{name}.wasm"));
    assert!(file.exists(), "{} is missing; `make guests` builds it", file.display());
    file
}

/// The folder of the binaries that belong to this one: a test lies in `deps` below it, a benchmark in it.
fn built() -> PathBuf {
    let folder = std::env::current_exe().unwrap().parent().unwrap().to_owned();
    if folder.ends_with("deps") { folder.parent().unwrap().to_owned() } else { folder }
}

impl Installation {
    /// Starts one, with the sample app published.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// Starts one with more arguments for `odeon up`.
    pub async fn start_with(arguments: &[&str]) -> Self {
        let (folder, port_base) = fresh_folder();
        let data = folder.join("data");
        Self::begin(folder, data, port_base, arguments).await
    }

    /// Starts what is in `data`.
    pub async fn start_in(folder: PathBuf, data: PathBuf, port_base: u16) -> Self {
        Self::begin(folder, data, port_base, &[]).await
    }

    async fn begin(folder: PathBuf, data: PathBuf, port_base: u16, arguments: &[&str]) -> Self {
        let log = fs::File::options().create(true).append(true).open(folder.join("up.log")).unwrap();
        let up = odeon(&data)
            .args(["up", "--port-base", &port_base.to_string()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let client = Client::builder().no_proxy().pool_idle_timeout(IDLE).build().unwrap();
        let mut this = Self { folder, client, data, up };
        let deadline = Instant::now() + PATIENCE;
        while !this.data().join("ready").exists() {
            let ended = this.up.try_wait().unwrap();
            let log = fs::read_to_string(this.folder.join("up.log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "`odeon up` does not answer:\n{log}");
            tokio::time::sleep(PAUSE).await;
        }
        this
    }

    /// Its folder.
    pub fn data(&self) -> &Path {
        &self.data
    }

    /// Ends it as Ctrl-C does, and waits for the end.
    pub fn stop(mut self) -> PathBuf {
        self.end();
        std::mem::take(&mut self.folder)
    }

    fn end(&mut self) {
        if let Some(pid) = Pid::from_raw(i32::try_from(self.up.id()).unwrap_or_default()) {
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = self.up.wait();
    }

    /// Runs `odeon` to its end.
    pub fn run(&self, arguments: &[&str]) -> Output {
        odeon(self.data()).args(arguments).output().unwrap()
    }

    /// Runs `odeon`, which must succeed, and gives its standard output.
    #[track_caller]
    pub fn succeed(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert!(done.status.success(), "odeon {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }

    /// Runs `odeon`, which must fail with status 1, and gives what it complained of.
    #[track_caller]
    pub fn fail(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert_eq!(done.status.code(), Some(1), "odeon {arguments:?} should fail");
        String::from_utf8(done.stderr).unwrap()
    }

    /// Runs `odeon` on a thread of its own.
    pub fn spawn(&self, arguments: &[&str]) -> tokio::task::JoinHandle<Output> {
        let mut command = odeon(self.data());
        command.args(arguments);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    }

    /// `odeon status --json`.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.succeed(&["status", "--json"])).unwrap()
    }

    /// The process of that name, as `odeon status` tells of it.
    pub fn process(&self, name: &str) -> Value {
        let status = self.status();
        let found = status["processes"].as_array().unwrap().iter().find(|found| found["name"] == name);
        found.unwrap_or_else(|| panic!("{name} in {status}")).clone()
    }

    /// Sends a signal to a process.
    pub fn kill(&self, process: &str, signal: Signal) {
        let pid = self.process(process)["pid"].as_u64().unwrap();
        kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
    }

    /// Waits until a process that was killed runs again.
    pub async fn came_back(&self, process: &str, restarts: u64) {
        eventually(&format!("{process} comes back"), async || {
            (self.process(process)["restarts"].as_u64() > Some(restarts)).then_some(())
        })
        .await;
    }

    /// The key of an app.
    pub fn key_of(&self, app: &str) -> String {
        let apps: Value = serde_json::from_str(&self.succeed(&["apps", "--json"])).unwrap();
        let found = apps.as_array().unwrap().iter().find(|found| found["name"] == app);
        found.unwrap_or_else(|| panic!("{app} in {apps}"))["key"].as_str().unwrap().to_owned()
    }

    /// A URL in a stage.
    pub fn url(&self, stage: &str, path: &str) -> String {
        format!("{}{path}", self.status()["stages"][stage].as_str().unwrap())
    }

    /// A URL of the Platform.
    pub fn platform(&self, path: &str) -> String {
        format!("{}{path}", self.status()["platform"].as_str().unwrap())
    }

    /// The owner's token.
    pub fn token(&self) -> String {
        fs::read_to_string(self.data().join("run/token")).unwrap()
    }

    /// Sends a request and gives status and body, as JSON or as text.
    pub async fn send(&self, method: Method, url: &str, body: Option<Value>) -> (StatusCode, Value) {
        let request = self.client.request(method, url);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        answer_of(request).await
    }

    /// GET.
    pub async fn get(&self, url: &str) -> (StatusCode, Value) {
        self.send(Method::GET, url, None).await
    }

    /// A request to the Platform with a token.
    pub async fn call(
        &self,
        token: &str,
        method: Method,
        path: &str,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let request = self.client.request(method, self.platform(path)).bearer_auth(token);
        answer_of(match body {
            Some(body) => request.json(&body),
            None => request,
        })
        .await
    }

    /// The metrics of a host.
    pub async fn host_metrics(&self, host: &str) -> String {
        let url = format!("http://{}/metrics", self.host_told(host, "admin_address"));
        self.client.get(url).send().await.unwrap().text().await.unwrap()
    }

    /// Where a host takes requests from its router.
    pub fn host_address(&self, host: &str) -> String {
        self.host_told(host, "address")
    }

    /// What a host told of itself when it started.
    fn host_told(&self, host: &str, field: &str) -> String {
        let log = fs::read_to_string(self.process(&format!("host-{host}"))["log"].as_str().unwrap()).unwrap();
        let told = log.lines().rev().find_map(|line| {
            let line: Value = serde_json::from_str(line).ok()?;
            line["fields"][field].as_str().map(str::to_owned)
        });
        told.expect("a host tells its addresses when it starts")
    }

    /// A connection to one of the databases, as superuser.
    pub async fn database(&self, name: &str) -> tokio_postgres::Client {
        let password = fs::read_to_string(self.data().join("run/secrets/superuser")).unwrap();
        let address = self.process("postgresql")["address"].as_str().unwrap().to_owned();
        let url = format!("postgres://odeon_super:{password}@{address}/{name}");
        let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// A copy of the sample project, its app renamed, with `changes` made to its text.
    pub fn project(&self, app: &str, changes: &[(&str, &str)]) -> String {
        let folder = self.folder.join(app.to_lowercase());
        if !folder.exists() {
            self.succeed(&["new", folder.to_str().unwrap()]);
        }
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let mut text = fs::read_to_string(&path).unwrap();
            for (from, to) in changes {
                text = text.replace(from, to);
            }
            fs::write(&path, text).unwrap();
        }
        folder.to_str().unwrap().to_owned()
    }
}

async fn answer_of(request: reqwest::RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
}

impl Drop for Installation {
    fn drop(&mut self) {
        if self.folder.as_os_str().is_empty() {
            return; // stopped, and the folder was handed on
        }
        self.end();
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}
