//! The main job, end to end: an app is published, served in three stages, changed, broken, rolled back, and
//! survives the loss of a host and of NATS.
//!
//! One installation, one scenario in order: each step is what a user would do next. What it does not test:
//! speed, and anything that needs more than one machine.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::time::Duration;

use odeon_tests::{Installation, eventually, guest, hello};
use reqwest::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};

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
    a_host_that_stops_lets_answers_end(&site).await;
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
    let hello = hello();
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
    // Routers and hosts speak both versions of HTTP.
    let two = reqwest::Client::builder().no_proxy().http2_prior_knowledge().build().unwrap();
    let direct = format!("http://{}/Hello/", site.host_address("development-1"));
    for url in [site.url("development", "/Hello/"), direct] {
        let response = two.get(&url).send().await.unwrap();
        assert_eq!(
            (response.version(), response.status()),
            (reqwest::Version::HTTP_2, StatusCode::OK),
            "{url}"
        );
        assert_eq!(response.text().await.unwrap(), "Hello from Odeon\n");
    }

    let path = format!("/api/asset-repository/v1/assets/{}/revisions/1", site.key_of("Hello"));
    let (_, revision) = site.call(site.token().trim(), Method::GET, &path, None).await;
    let depends = revision["dependencies"].as_array().unwrap();
    assert!(depends.iter().any(|on| on.as_str().unwrap().starts_with("wasi:http/types@0.2.")), "{revision}");

    let endless = tokio::spawn(site.client.get(site.url("development", "/Hello/loop")).send());
    for (path, status, code) in [
        ("/Hello/panic", StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50001"),
        ("/Hello/memory", StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50002"),
        ("/Hello/stack", StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50003"),
    ] {
        let (found, problem) = site.get(&site.url("development", path)).await;
        assert_eq!((found, &problem["errorCode"]), (status, &json!(code)), "{path}: {problem}");
        let id = problem["traceId"].as_str().unwrap();
        eventually(&format!("the log of {path} tells of request {id}"), async || {
            site.succeed(&["logs", "Hello", "--request", id]).contains(code).then_some(())
        })
        .await;
        assert_eq!(site.get(&site.url("development", "/Hello/")).await.0, StatusCode::OK);
    }
    let endless = endless.await.unwrap().unwrap();
    assert_eq!(endless.status(), StatusCode::GATEWAY_TIMEOUT);
    let problem: Value = endless.json().await.unwrap();
    // Of CPU, or of wall time where the machine has no CPU for it.
    let code = problem["errorCode"].as_str().unwrap();
    assert!(["OS-BERT-50401", "OS-BERT-50402"].contains(&code), "{problem}");
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
    let nats = site.process("nats-server");
    let credentials = |stage: &str| -> String {
        let settings = site.data().join(format!("run/stages/{stage}/host-{stage}-1.json"));
        let settings: Value = serde_json::from_slice(&fs::read(settings).unwrap()).unwrap();
        settings["credentials"].as_str().unwrap().to_owned()
    };
    let options = async_nats::ConnectOptions::with_credentials_file(credentials("test")).await.unwrap();
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
    let options = async_nats::ConnectOptions::with_credentials_file(credentials("production")).await.unwrap();
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
    eventually("the host comes back", async || (site.get(&url).await.0 == StatusCode::OK).then_some(()))
        .await;
}

async fn apps_serve_without_nats(site: &Installation) {
    let url = site.url("test", "/Travel/rest/Expenses/List");
    assert_eq!(site.get(&url).await.0, StatusCode::OK);
    for signal in [Signal::STOP, Signal::KILL] {
        site.kill("nats-server", signal); // still held by the kernel, then gone
        for at in 0..50 {
            let (status, answer) = site.get(&url).await;
            assert_eq!(status, StatusCode::OK, "request {at} after {signal:?}: {answer}");
        }
    }
    site.came_back("nats-server", 0).await;
    eventually("the Platform deploys again", async || {
        let done = site.run(&["deploy", "Travel", "--revision", "1", "--to", "test"]);
        done.status.success().then_some(())
    })
    .await;
}

/// Their bodies too, however slow.
async fn a_host_that_stops_lets_answers_end(site: &Installation) {
    site.succeed(&["publish", guest("hello_wasip3").to_str().unwrap(), "--name", "Later"]);
    let url = format!("http://{}/Later/later", site.host_address("development-1"));
    let mut answer = site.client.get(url).send().await.unwrap();
    assert_eq!(answer.chunk().await.unwrap().unwrap(), "now\n");
    let restarts = site.process("host-development-1")["restarts"].as_u64().unwrap();
    site.kill("host-development-1", Signal::TERM);
    assert_eq!(answer.text().await.unwrap(), "and later\n");
    site.came_back("host-development-1", restarts).await;
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
