//! The main job, end to end: an app is published, served in three stages, changed, broken, rolled back, and
//! survives the loss of a host and of NATS.
//!
//! One installation, one scenario in order: each step is what a user would do next. What it does not test:
//! speed, and anything that needs more than one machine.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use reqwest::{Client, Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// How long anything may take before the test gives up.
const PATIENCE: Duration = Duration::from_secs(90);
const PAUSE: Duration = Duration::from_millis(50);

/// A running installation in a folder of its own.
struct Installation {
    folder: PathBuf,
    up: Child,
    client: Client,
}

impl Installation {
    async fn start() -> Self {
        let folder = PathBuf::from(format!("/var/tmp/odeon-test-{}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir(&folder).unwrap();
        fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).unwrap();
        let log = fs::File::create(folder.join("up.log")).unwrap();
        let port_base = 20_000 + u16::try_from(std::process::id() % 2_000).unwrap() * 10;
        let up = odeon(&folder.join("data"))
            .args(["up", "--port-base", &port_base.to_string()])
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut this = Self { folder, up, client: Client::builder().no_proxy().build().unwrap() };
        let deadline = Instant::now() + PATIENCE;
        while !this.data().join("ready").exists() {
            let ended = this.up.try_wait().unwrap();
            let log = fs::read_to_string(this.folder.join("up.log")).unwrap_or_default();
            assert!(ended.is_none() && Instant::now() < deadline, "`odeon up` does not answer:\n{log}");
            tokio::time::sleep(PAUSE).await;
        }
        this
    }
    fn data(&self) -> PathBuf {
        self.folder.join("data")
    }
    fn run(&self, arguments: &[&str]) -> Output {
        odeon(&self.data()).args(arguments).output().unwrap()
    }
    #[track_caller]
    fn succeed(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert!(done.status.success(), "odeon {arguments:?}: {}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).unwrap()
    }
    #[track_caller]
    fn fail(&self, arguments: &[&str]) -> String {
        let done = self.run(arguments);
        assert_eq!(done.status.code(), Some(1), "odeon {arguments:?} should fail");
        String::from_utf8(done.stderr).unwrap()
    }
    fn status(&self) -> Value {
        serde_json::from_str(&self.succeed(&["status", "--json"])).unwrap()
    }
    fn pid(&self, process: &str) -> u64 {
        let status = self.status();
        let found = status["processes"].as_array().unwrap().iter().find(|found| found["name"] == process);
        found.unwrap_or_else(|| panic!("{process} in {status}"))["pid"].as_u64().unwrap()
    }
    fn key_of(&self, app: &str) -> String {
        let apps: Value = serde_json::from_str(&self.succeed(&["apps", "--json"])).unwrap();
        let found = apps.as_array().unwrap().iter().find(|found| found["name"] == app);
        found.unwrap_or_else(|| panic!("{app} in {apps}"))["key"].as_str().unwrap().to_owned()
    }

    fn kill(&self, process: &str, signal: Signal) {
        let pid = Pid::from_raw(i32::try_from(self.pid(process)).unwrap()).unwrap();
        kill_process(pid, signal).unwrap();
    }
    fn url(&self, stage: &str, path: &str) -> String {
        format!("{}{path}", self.status()["stages"][stage].as_str().unwrap())
    }
    async fn send(&self, method: Method, url: &str, body: Option<Value>) -> (StatusCode, Value) {
        let request = self.client.request(method, url);
        let request = match body {
            Some(body) => request.json(&body),
            None => request,
        };
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }
    async fn get(&self, url: &str) -> (StatusCode, Value) {
        self.send(Method::GET, url, None).await
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if let Some(pid) = Pid::from_raw(i32::try_from(self.up.id()).unwrap_or_default()) {
            let _ = kill_process(pid, Signal::INT);
        }
        let _ = self.up.wait();
        if !std::thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

fn odeon(data: &Path) -> Command {
    let test = std::env::current_exe().unwrap();
    let mut command = Command::new(test.parent().unwrap().parent().unwrap().join("odeon"));
    command.arg("--data").arg(data);
    command.env_remove("ODEON_URL").env_remove("ODEON_TOKEN");
    command
}

#[tokio::test]
async fn an_app_lives() {
    let site = Installation::start().await;
    publishing_gives_a_url_that_answers(&site).await;
    the_same_bits_serve_in_every_stage(&site).await;
    every_problem_is_told_and_nothing_is_stored(&site).await;
    a_file_that_is_no_component_is_refused(&site).await;
    a_guest_that_misbehaves_harms_itself_only(&site).await;
    an_app_reaches_its_own_database_only(&site).await;
    a_host_hears_its_own_stage_only(&site).await;
    rolling_back_and_undeploying_keep_data(&site).await;
    the_platform_asks_for_a_token(&site).await;
    a_lost_host_costs_production_no_request(&site).await;
    a_lost_host_comes_back_in_development(&site).await;
    apps_serve_without_nats(&site).await;
    stopping_leaves_no_process(site).await;
}

async fn publishing_gives_a_url_that_answers(site: &Installation) {
    let project = site.folder.join("travel");
    site.succeed(&["new", project.to_str().unwrap()]);
    let url = site.succeed(&["publish", project.to_str().unwrap()]);
    assert!(url.trim_end().ends_with("/Travel/"), "{url}");
    let api = format!("{}rest/Expenses", url.trim_end());
    assert_eq!(site.get(&format!("{api}/List")).await, (StatusCode::OK, json!([])));

    let expense = json!({ "Description": "Train to Łódź", "Amount": 12.5, "CategoryId": 1 });
    let (status, made) = site.send(Method::POST, &format!("{api}/Create"), Some(expense)).await;
    assert_eq!(status, StatusCode::OK, "{made}");
    let (status, list) = site.get(&format!("{api}/List?CategoryId=1")).await;
    assert_eq!((status, &list[0]["Description"]), (StatusCode::OK, &json!("Train to Łódź")), "{list}");
    assert_eq!(list[0]["Amount"].to_string(), "12.5", "{list}");
    let (status, totals) = site.get(&format!("{api}/Totals")).await;
    assert_eq!(status, StatusCode::OK, "{totals}");
    assert!(totals.to_string().contains("12.5"), "{totals}");

    let (status, refused) = site.send(Method::POST, &format!("{api}/Create"), Some(json!({}))).await;
    assert_eq!((status, &refused["StatusCode"]), (StatusCode::BAD_REQUEST, &json!(400)));
    let (status, unknown) = site.get(&site.url("development", "/Nothing/here")).await;
    assert_eq!((status, &unknown["errorCode"]), (StatusCode::NOT_FOUND, &json!("OS-RTR-40401")));
    assert!(unknown["traceId"].is_string(), "{unknown}");
}

async fn the_same_bits_serve_in_every_stage(site: &Installation) {
    for stage in ["test", "production"] {
        site.succeed(&["deploy", "Travel", "--revision", "1", "--to", stage]);
        let answer = site.get(&site.url(stage, "/Travel/rest/Expenses/List")).await;
        assert_eq!(answer, (StatusCode::OK, json!([])), "{stage} has data of its own");
    }
}

async fn every_problem_is_told_and_nothing_is_stored(site: &Installation) {
    let project = site.folder.join("broken");
    fs::create_dir(&project).unwrap();
    let model = "app: Broken\nentities:\n  Thing:\n    attributes:\n      Name: Txt\n      Other: Missing Identifier\n";
    fs::write(project.join("app.yaml"), model).unwrap();
    let said = site.fail(&["publish", project.to_str().unwrap()]);
    assert!(said.contains("app.yaml:5:") && said.contains("app.yaml:6:"), "{said}");
    assert!(!site.succeed(&["apps"]).contains("Broken"));
}

async fn a_file_that_is_no_component_is_refused(site: &Installation) {
    let file = site.folder.join("module.wasm");
    fs::write(&file, wasm_encoder::Module::new().finish()).unwrap();
    let said = site.fail(&["publish", file.to_str().unwrap(), "--name", "Module"]);
    assert!(said.contains("a core WebAssembly module, not a component"), "{said}");
    let mut component = wasm_encoder::Component::new().finish();
    fs::write(&file, &component).unwrap();
    let said = site.fail(&["publish", file.to_str().unwrap(), "--name", "Module"]);
    assert!(said.contains("does not fit this host"), "{said}");
    component.truncate(6);
    fs::write(&file, &component).unwrap();
    let said = site.fail(&["publish", file.to_str().unwrap(), "--name", "Module"]);
    assert!(said.contains("not a valid component"), "{said}");
}

async fn a_guest_that_misbehaves_harms_itself_only(site: &Installation) {
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let hello = target.join("guests/wasm32-wasip2/release/hello_rust.wasm");
    assert!(hello.exists(), "{} is missing; `make guests` builds it", hello.display());
    site.succeed(&["publish", hello.to_str().unwrap(), "--name", "Hello"]);
    for stage in ["test", "production"] {
        site.succeed(&["deploy", "Hello", "--revision", "1", "--to", stage]);
    }
    for stage in ["development", "test", "production"] {
        for _ in 0..3 {
            let response = site.client.get(site.url(stage, "/Hello/")).send().await.unwrap();
            assert_eq!(response.headers()["x-instance-requests"], "1", "each request has a fresh instance");
            assert_eq!(response.text().await.unwrap(), "Hello from Odeon\n");
        }
    }
    let endless = tokio::spawn(site.client.get(site.url("development", "/Hello/loop")).send());
    for (path, status, code) in [
        ("/Hello/panic", StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50001"),
        ("/Hello/memory", StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50002"),
        ("/Hello/stack", StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50003"),
    ] {
        let (found, problem) = site.get(&site.url("development", path)).await;
        assert_eq!((found, &problem["errorCode"]), (status, &json!(code)), "{path}: {problem}");
        let id = problem["traceId"].as_str().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while !site.succeed(&["logs", "Hello", "--request", id]).contains(code) {
            assert!(Instant::now() < deadline, "the log of {path} does not tell of request {id}");
            tokio::time::sleep(PAUSE).await;
        }
        assert_eq!(site.get(&site.url("development", "/Hello/")).await.0, StatusCode::OK);
    }
    let endless = endless.await.unwrap().unwrap();
    assert_eq!(endless.status(), StatusCode::GATEWAY_TIMEOUT);
    let problem: Value = endless.json().await.unwrap();
    assert_eq!(problem["errorCode"], "OS-BERT-50402");
}

async fn an_app_reaches_its_own_database_only(site: &Installation) {
    assert_eq!(site.get(&site.url("test", "/Travel/rest/Expenses/List")).await.0, StatusCode::OK);
    let folder = site.data().join("run/stages/test");
    let travel = site.key_of("Travel");
    let mut files =
        ["test-1", "test-2"].map(|host| folder.join(host).join(format!("logins/{travel}.json"))).into_iter();
    let file = files.find(|file| file.exists()).expect("a host that serves Travel keeps its login");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let login: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    let connect = async |database: &str| {
        let text = |key: &str| login[key].as_str().unwrap().to_owned();
        let mut config = tokio_postgres::Config::new();
        config.host(text("host")).port(u16::try_from(login["port"].as_u64().unwrap()).unwrap());
        config.user(text("user")).password(text("password")).dbname(database);
        config.connect(tokio_postgres::NoTls).await
    };
    for other in ["stage_production", "stage_development", "platform", "postgres"] {
        assert!(connect(other).await.is_err(), "the login of an app in test opens {other}");
    }
    let (client, connection) = connect("stage_test").await.unwrap();
    let connection = tokio::spawn(connection);
    for (statement, code) in [
        ("set role odeon_migrator_test", "42501"),
        ("select set_config('role', 'odeon_super', false)", "42501"),
        ("select password from odeon.apps", "42501"),
        ("create table stolen (x int)", "42501"),
        ("drop table \"Expense\"", "42501"),
        ("create temp table t (x int)", "42501"),
        ("select pg_advisory_lock(1)", "42501"),
        ("select lo_create(0)", "42501"),
        ("select pg_read_file('/etc/passwd')", "42501"),
        ("copy (select 1) to program 'id'", "42501"),
        ("select pg_sleep(100)", "42501"),
    ] {
        let error = client.execute(statement, &[]).await.expect_err(statement);
        assert_eq!(
            error.code().map(tokio_postgres::error::SqlState::code),
            Some(code),
            "{statement}: {error:?}"
        );
    }
    drop(client);
    let _ = connection.await;
}

async fn a_host_hears_its_own_stage_only(site: &Installation) {
    let status = site.status();
    let processes = status["processes"].as_array().unwrap();
    let nats = processes.iter().find(|process| process["name"] == "nats-server").unwrap();
    let credentials = site.data().join("run/stages/test/test-1.creds");
    let options = async_nats::ConnectOptions::with_credentials_file(&credentials).await.unwrap();
    let client = options
        .custom_inbox_prefix("_INBOX.test-1")
        .connect(nats["address"].as_str().unwrap())
        .await
        .unwrap();
    let jetstream = async_nats::jetstream::new(client.clone());
    let desired = jetstream.get_key_value("desired").await.unwrap();
    let key = format!("app.{}", site.key_of("Travel"));
    let before =
        desired.entry(&key).await.unwrap().expect("the host of test reads the desired state of test");
    assert!(String::from_utf8_lossy(&before.value).contains("signature"));
    // What it may not write is dropped by the server, and so never acknowledged.
    let forged = client.request(format!("$KV.desired.{key}"), "forged".into());
    assert!(
        tokio::time::timeout(Duration::from_secs(2), forged).await.is_ok_and(|reply| reply.is_err()) || {
            let after = desired.entry(&key).await.unwrap().unwrap();
            after.revision == before.revision
        }
    );
    // The same keys in another account are another bucket: what test holds is signed for test.
    let production = site.data().join("run/stages/production/production-1.creds");
    let options = async_nats::ConnectOptions::with_credentials_file(&production).await.unwrap();
    let there = options
        .custom_inbox_prefix("_INBOX.production-1")
        .connect(nats["address"].as_str().unwrap())
        .await
        .unwrap();
    let there = async_nats::jetstream::new(there).get_key_value("desired").await.unwrap();
    assert_ne!(there.entry(&key).await.unwrap().unwrap().value, before.value);
}

async fn rolling_back_and_undeploying_keep_data(site: &Installation) {
    let project = site.folder.join("travel");
    site.succeed(&["publish", project.to_str().unwrap(), "--message", "again"]);
    assert!(site.succeed(&["apps"]).contains("latest 2"));
    site.succeed(&["rollback", "Travel"]);
    let url = site.url("development", "/Travel/rest/Expenses/List");
    let (status, list) = site.get(&url).await;
    assert_eq!((status, list.as_array().map(Vec::len)), (StatusCode::OK, Some(1)));
    site.succeed(&["undeploy", "Travel"]);
    assert_eq!(site.get(&url).await.0, StatusCode::NOT_FOUND);
    site.succeed(&["deploy", "Travel", "--revision", "2", "--to", "development"]);
    assert_eq!(site.get(&url).await.1.as_array().map(Vec::len), Some(1));
}

async fn the_platform_asks_for_a_token(site: &Installation) {
    let platform = site.status()["platform"].as_str().unwrap().to_owned();
    let (status, problem) = site.get(&format!("{platform}/api/asset-repository/v1/assets")).await;
    assert_eq!((status, &problem["errorCode"]), (StatusCode::UNAUTHORIZED, &json!("OS-IDCO-40101")));
    let mode = fs::metadata(site.data().join("run/token")).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
}

async fn a_lost_host_costs_production_no_request(site: &Installation) {
    let url = site.url("production", "/Travel/rest/Expenses/List");
    site.kill("host-production-1", Signal::KILL);
    for at in 0..100 {
        let (status, answer) = site.get(&url).await;
        assert_eq!(status, StatusCode::OK, "request {at}: {answer}");
    }
}

async fn a_lost_host_comes_back_in_development(site: &Installation) {
    let url = site.url("development", "/Travel/rest/Expenses/List");
    site.kill("host-development-1", Signal::KILL);
    let deadline = Instant::now() + PATIENCE;
    while site.get(&url).await.0 != StatusCode::OK {
        assert!(Instant::now() < deadline, "the host does not come back");
        tokio::time::sleep(PAUSE).await;
    }
}

async fn apps_serve_without_nats(site: &Installation) {
    let url = site.url("test", "/Travel/rest/Expenses/List");
    assert_eq!(site.get(&url).await.0, StatusCode::OK);
    site.kill("nats-server", Signal::STOP);
    for at in 0..50 {
        let (status, answer) = site.get(&url).await;
        assert_eq!(status, StatusCode::OK, "request {at}: {answer}");
    }
    site.kill("nats-server", Signal::CONT);
}

async fn stopping_leaves_no_process(site: Installation) {
    let status = site.status();
    let pids = status["processes"].as_array().unwrap().iter().filter_map(|process| process["pid"].as_u64());
    let pids: Vec<u64> = pids.collect();
    drop(site);
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "process {pid} is still there");
    }
}
