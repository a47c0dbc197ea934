//! Deployments: nobody notices one that works, and one that does not work changes nothing.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use odeon_tests::{Installation, eventually, hello, odeon};
use reqwest::{Method, StatusCode};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

/// Largest component, in bytes.
const COMPONENT_BYTES_MAX: u64 = 64 << 20;

#[tokio::test]
async fn a_deployment_works_or_changes_nothing() {
    let settings = ["--egress-network", "127.0.0.0/8", "--limit-max", "cpuShareMillicores=1000"];
    let site = Installation::start_with(&settings).await;
    what_cannot_be_a_component_is_refused(&site).await;
    a_deployment_under_load_fails_no_request(&site).await;
    a_replaced_revision_ends_its_requests(&site).await;
    every_operation_gets_an_end(&site).await;
    an_app_for_wasi_0_3_may_serve_several_requests_in_one_instance(&site).await;
    an_incompatible_model_leaves_the_old_revision(&site).await;
    a_killed_migration_is_done_again(&site).await;
    a_migration_that_takes_long_is_waited_for(&site).await;
    no_row_holds_up_a_rollback(&site).await;
    what_serves_has_its_rules_when_a_deployment_ends_halfway(&site).await;
    a_failed_request_leads_to_its_node(&site).await;
    a_save_is_published(&site).await;
    an_app_calls_only_whom_its_settings_allow(&site).await;
    logs_are_followed(&site).await;
    a_host_trusts_only_what_it_verified(&site).await;
    a_host_compiles_what_has_no_native_code(&site).await;
    what_the_operator_allows_no_more_is_taken_back(&site).await;
    what_no_deployment_needs_is_taken_out_and_comes_back(&site).await;
}

/// A Platform that starts looks at once.
async fn what_no_deployment_needs_is_taken_out_and_comes_back(site: &Installation) {
    eventually("revisions of before are taken out", async || {
        let log = fs::read_to_string(site.process("platform")["log"].as_str().unwrap()).unwrap();
        log.contains("took out components that no deployment needs").then_some(())
    })
    .await;
    let said = site.get(&site.url("development", "/Live/rest/Expenses/Get/77")).await.1.to_string();
    assert!(said.contains("Nothing at 77"), "{said}");
    site.succeed(&["deploy", "Live", "--revision", "1", "--to", "development"]);
    let said = site.get(&site.url("development", "/Live/rest/Expenses/Get/77")).await.1.to_string();
    assert!(said.contains("There is no expense 77"), "{said}");
}

async fn what_the_operator_allows_no_more_is_taken_back(site: &Installation) {
    let large = async || {
        let request = site.client.post(site.url("development", "/Waiting/")).body(vec![0; 2 << 20]);
        request.send().await.map(|answer| answer.status())
    };
    eventually("it may be so large", async || (large().await.ok()? == StatusCode::OK).then_some(())).await;
    let file = site.data().join("run/platform.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    settings["limits_max"]["requestBodyMib"] = json!(1);
    fs::write(&file, settings.to_string()).unwrap();
    site.kill("platform", Signal::KILL);
    eventually("hosts have heard of it", async || {
        (large().await.ok()? == StatusCode::PAYLOAD_TOO_LARGE).then_some(())
    })
    .await;
}

async fn what_cannot_be_a_component_is_refused(site: &Installation) {
    let file = site.folder.join("big.wasm");
    fs::File::create(&file).unwrap().set_len(COMPONENT_BYTES_MAX + 1).unwrap();
    let said = site.fail(&["publish", file.to_str().unwrap(), "--name", "Big"]);
    assert!(said.contains("a component may have 67108864 (64 MiB)"), "{said}");
    let uploads = site.platform("/api/asset-repository/v1/uploads");
    let request = site.client.post(&uploads).bearer_auth(site.token().trim());
    let length = usize::try_from(COMPONENT_BYTES_MAX).unwrap() + 1;
    let refused = request.body(vec![0; length]).send().await.unwrap();
    assert_eq!(refused.status(), StatusCode::PAYLOAD_TOO_LARGE);

    // An upload that ends early leaves nothing behind.
    let kept = || files_in(&site.data().join("run/blobs/uploads"));
    let before = kept();
    let address = site.process("platform")["address"].as_str().unwrap().to_owned();
    let mut stream = TcpStream::connect(address).unwrap();
    let head = format!(
        "POST /api/asset-repository/v1/uploads HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-length: 1000\r\n\r\n",
        site.token().trim()
    );
    stream.write_all(head.as_bytes()).unwrap();
    stream.write_all(b"\0asm\x0d\0\x01\0").unwrap();
    drop(stream);

    let file = site.folder.join("needy.wasm");
    fs::write(&file, component_that_imports("acme:printer/paper@1.0.0")).unwrap();
    let said = site.fail(&["publish", file.to_str().unwrap(), "--name", "Needy"]);
    assert!(said.contains("acme:printer/paper@1.0.0"), "the missing import is named: {said}");
    assert!(!site.succeed(&["apps"]).contains("Needy"));
    assert_eq!(kept(), before, "a truncated upload is not kept");
}

/// How many files lie in a folder, and in those below it.
fn files_in(folder: &Path) -> usize {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    entries
        .map(|entry| entry.unwrap().path())
        .map(|path| if path.is_dir() { files_in(&path) } else { 1 })
        .sum()
}

/// A component that needs an interface which no host gives.
fn component_that_imports(name: &str) -> Vec<u8> {
    use wasm_encoder::{
        Component, ComponentImportSection, ComponentTypeRef, ComponentTypeSection, InstanceType,
        PrimitiveValType,
    };
    let mut interface = InstanceType::new();
    interface.ty().function().params([("x", PrimitiveValType::U32)]).result(None);
    interface.export("feed", ComponentTypeRef::Func(0));
    let mut types = ComponentTypeSection::new();
    types.instance(&interface);
    let mut imports = ComponentImportSection::new();
    imports.import(name, ComponentTypeRef::Instance(0));
    let mut component = Component::new();
    component.section(&types).section(&imports);
    component.finish()
}

async fn a_deployment_under_load_fails_no_request(site: &Installation) {
    let project = site.project("Shop", &[]);
    site.succeed(&["publish", &project]);
    site.succeed(&["deploy", "Shop", "--revision", "1", "--to", "production"]);
    let (list, create) = (
        site.url("production", "/Shop/rest/Expenses/List"),
        site.url("production", "/Shop/rest/Expenses/Create"),
    );
    let (ended, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU32::new(0)));
    let users: Vec<_> = (0..4)
        .map(|user| {
            let (client, ended, done) = (site.client.clone(), ended.clone(), done.clone());
            let (list, create) = (list.clone(), create.clone());
            tokio::spawn(async move {
                while !ended.load(Ordering::Relaxed) {
                    let request = if user % 2 == 0 {
                        client.get(&list)
                    } else {
                        client
                            .post(&create)
                            .json(&json!({ "Description": "Pen", "Amount": 1, "CategoryId": 3 }))
                    };
                    let response = request.send().await.map_err(|error| error.to_string())?;
                    let status = response.status();
                    let text = response.text().await.map_err(|error| error.to_string())?;
                    if status != StatusCode::OK {
                        return Err(format!("{status}: {text}"));
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        })
        .collect();
    let deploying = async {
        for revision in 2..=4_u32 {
            let number = revision.to_string();
            site.spawn(&["publish", &project, "--message", &number]).await.unwrap();
            let before = done.load(Ordering::Relaxed);
            let deployed = site.spawn(&["deploy", "Shop", "--revision", &number, "--to", "production"]);
            let deployed = deployed.await.unwrap();
            assert!(deployed.status.success(), "{}", String::from_utf8_lossy(&deployed.stderr));
            eventually("users go on", async || (done.load(Ordering::Relaxed) > before + 20).then_some(()))
                .await;
        }
    };
    deploying.await;
    ended.store(true, Ordering::Relaxed);
    for user in users {
        assert_eq!(user.await.unwrap(), Ok(()));
    }
}

async fn a_replaced_revision_ends_its_requests(site: &Installation) {
    let hello = hello();
    site.succeed(&["publish", hello.to_str().unwrap(), "--name", "Hello"]);
    let slow = tokio::spawn(site.client.get(site.url("development", "/Hello/slow")).send());
    eventually("the slow request runs", async || {
        let metrics = site.host_metrics("development-1").await;
        let runs = metrics.lines().any(|line| line == "odeon_host_requests_in_flight 1");
        (runs || slow.is_finished()).then_some(()) // it takes three seconds only
    })
    .await;
    site.succeed(&["publish", hello.to_str().unwrap(), "--name", "Hello", "--message", "again"]);
    let answer = slow.await.unwrap().unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.text().await.unwrap(), "Hello from Odeon\n");
}

/// Also one that tells what the database cannot keep, and one that ends while the database is away.
async fn every_operation_gets_an_end(site: &Installation) {
    let project = site.project("Odd", &[("app: Odd", "app: Odd\n\"no\\0thing\": 1")]);
    let said = site.fail(&["publish", &project]);
    assert!(said.contains("no\u{fffd}thing"), "{said}");

    let database = site.database("platform").await;
    let away = "create sequence deployments.refused; \
         create function deployments.refuse() returns trigger language plpgsql as $$ begin \
           perform nextval('deployments.refused'); raise exception 'away' using errcode = '57P03'; end $$; \
         grant usage on sequence deployments.refused to public; \
         create trigger away before update on deployments.operations for each row execute function deployments.refuse()";
    database.batch_execute(away).await.unwrap();
    let deploying = site.spawn(&["deploy", "Hello", "--revision", "1", "--to", "development"]);
    let refused = "select 1 from deployments.refused where is_called";
    eventually("the end cannot be written", async || database.query_opt(refused, &[]).await.unwrap()).await;
    database.batch_execute("drop trigger away on deployments.operations").await.unwrap();
    let done = deploying.await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

async fn an_app_for_wasi_0_3_may_serve_several_requests_in_one_instance(site: &Installation) {
    let guest = odeon_tests::guest("hello_wasip3");
    site.succeed(&["publish", guest.to_str().unwrap(), "--name", "Waiting"]);
    let ask = async |path: &str| site.client.get(site.url("development", path)).send().await.unwrap();
    for _ in 0..3 {
        let answer = ask("/Waiting/").await;
        assert_eq!(
            (answer.status(), &answer.headers()["x-instance-requests"]),
            (StatusCode::OK, &"1".parse().unwrap())
        );
        assert_eq!(answer.text().await.unwrap(), "Hello from Odeon\n");
    }
    let limits = ["--limit", "concurrency=2", "--limit", "requestWallMs=2000"];
    let deploy = ["deploy", "Waiting", "--revision", "1", "--to", "development"];
    site.succeed(&[&deploy[..], &limits[..]].concat());
    let said = site.fail(&[&deploy[..], &["--limit", "cpuShareMillicores=1001"]].concat());
    assert!(said.contains("the limit `cpuShareMillicores` may be 1000 at most, not 1001"), "{said}");
    // Each waits until two are in its instance, so the second one must come when the first one waits.
    eventually("two requests meet in an instance", async || {
        let first = tokio::spawn(site.client.get(site.url("development", "/Waiting/meet-2")).send());
        eventually("the first one runs", async || {
            let metrics = site.host_metrics("development-1").await;
            let runs = metrics.lines().any(|line| line == "odeon_host_requests_in_flight 1");
            (runs || first.is_finished()).then_some(()) // it waits for two seconds only
        })
        .await;
        let second = ask("/Waiting/meet-2").await.status();
        let first = first.await.unwrap().unwrap().status();
        (first == StatusCode::OK && second == StatusCode::OK).then_some(())
    })
    .await;
}

async fn an_incompatible_model_leaves_the_old_revision(site: &Installation) {
    let url = site.url("development", "/Shop/rest/Expenses/List");
    let before = site.get(&url).await;
    let apps = site.succeed(&["apps"]);
    let project = site.project("Shop", &[("SpentOn: Date\n      Status", "SpentOn: Boolean\n      Status")]);
    let project_uses = [
        ("SpentOn: Date\n      CategoryId: { type", "SpentOn: Boolean\n      CategoryId: { type"),
        ("If(Expense.SpentOn = NullDate(), CurrDate(), Expense.SpentOn)", "Expense.SpentOn"),
    ];
    assert_eq!(site.project("Shop", &project_uses), project);
    let said = site.fail(&["publish", &project]);
    assert!(said.contains("OS-DPL-409") && said.contains("SpentOn"), "{said}");
    assert_eq!(site.get(&url).await, before, "the old revision serves");
    let line = |text: &str| text.lines().find(|line| line.starts_with("Shop")).unwrap().to_owned();
    let (was, is) = (line(&apps), line(&site.succeed(&["apps"])));
    assert_eq!(was.split("development").nth(1), is.split("development").nth(1), "nothing was deployed");
    fs::remove_dir_all(&project).unwrap();
}

async fn a_killed_migration_is_done_again(site: &Installation) {
    let project = site.project(
        "Shop",
        &[("SpentOn: Date\n      Status", "Place: Text\n      SpentOn: Date\n      Status")],
    );
    let mut database = site.database("stage_development").await;
    let schema = "select schema_name from odeon.apps where name = 'Shop'";
    let schema: String = database.query_one(schema, &[]).await.unwrap().get(0);
    // A reader holds the table, so that the migration waits; then the migrator dies.
    let reader = database.transaction().await.unwrap();
    reader.execute(&format!("select count(*) from {schema}.\"Expense\""), &[]).await.unwrap();
    let publishing = site.spawn(&["publish", &project]);
    let waits =
        "select 1 from pg_stat_activity where wait_event_type = 'Lock' and usename like 'odeon_migrator%'";
    let watcher = site.database("stage_development").await;
    eventually("the migration waits for the table", async || watcher.query_opt(waits, &[]).await.unwrap())
        .await;
    site.kill("development-migrator", Signal::KILL);
    reader.rollback().await.unwrap();
    let url = site.url("development", "/Shop/rest/Expenses/List");
    assert_eq!(site.get(&url).await.0, StatusCode::OK, "the old revision serves");
    let done = publishing.await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    let (status, made) = {
        let create = site.url("development", "/Shop/rest/Expenses/Create");
        let pen = json!({ "Description": "Pen", "Amount": 1, "CategoryId": 3 });
        site.send(Method::POST, &create, Some(pen)).await
    };
    assert_eq!(status, StatusCode::OK, "{made}");
    let (_, list) = site.get(&url).await;
    assert_eq!(list[0]["Place"], "", "the new column is there: {list}");
}

async fn a_migration_that_takes_long_is_waited_for(site: &Installation) {
    let database = site.database("stage_development").await;
    let lock = format!("(hashtext('{}'))", site.key_of("Shop"));
    database.batch_execute(&format!("select pg_advisory_lock{lock}")).await.unwrap();
    let project = site.project("Shop", &[]);
    let publishing = site.spawn(&["publish", &project]);
    eventually("the Platform hears that it runs", async || {
        let log = fs::read_to_string(site.process("platform")["log"].as_str().unwrap()).unwrap();
        log.contains("a migration of `Shop` still runs in development").then_some(())
    })
    .await;
    database.batch_execute(&format!("select pg_advisory_unlock{lock}")).await.unwrap();
    let done = publishing.await.unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
}

/// An app with rules for its rows.
const STRICT: &str = "app: Strict
entities:
  Owner: { attributes: { Name: Text } }
  Thing:
    attributes: { Code: Text, OwnerId: Owner Identifier }
    indexes: { ByCode: { attributes: [Code], unique: true } }
rest: { A: { methods: { Ping: { outputs: { N: Integer }, flow: [ { assign: { N: '1' } } ] } } } }
";

async fn no_row_holds_up_a_rollback(site: &Installation) {
    let folder = site.folder.join("strict");
    fs::create_dir(&folder).unwrap();
    let publish = |text: &str| {
        fs::write(folder.join("app.yaml"), text).unwrap();
        site.run(&["publish", folder.to_str().unwrap()])
    };
    let loose = STRICT.replace(", unique: true", "").replace("OwnerId: Owner Identifier", "Other: Text");
    let without = STRICT.lines().filter(|line| !line.contains("Thing") && !line.contains("OwnerId"));
    let without: Vec<_> = without.filter(|line| !line.contains("ByCode")).collect();
    for text in [STRICT, &loose] {
        let done = publish(text);
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
    let database = site.database("stage_development").await;
    let schema = "select schema_name from odeon.apps where name = 'Strict'";
    let schema: String = database.query_one(schema, &[]).await.unwrap().get(0);
    let misfit = format!("insert into {schema}.\"Thing\" (\"Code\", \"OwnerId\") values ('a', 7), ('a', 8)");
    database.batch_execute(&misfit).await.unwrap();
    let done = publish(STRICT);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(!done.status.success() && said.contains("OS-DPL-40912"), "a new revision has to fit: {said}");

    let done = site.run(&["rollback", "Strict"]);
    let said = String::from_utf8(done.stderr).unwrap();
    assert!(done.status.success() && said.contains("warning[OS-DPL-40914]: rows of entity Thing"), "{said}");
    let dangling = format!("insert into {schema}.\"Thing\" (\"Code\", \"OwnerId\") values ('b', 9)");
    let refused = database.batch_execute(&dangling).await.unwrap_err();
    assert_eq!(refused.as_db_error().unwrap().code().code(), "23503", "what comes now has to fit");

    // What left the model keeps nothing from being deleted.
    let owned = format!(
        "delete from {schema}.\"Thing\"; with owner as (insert into {schema}.\"Owner\" (\"Name\") values ('x') returning \"Id\") \
         insert into {schema}.\"Thing\" (\"Code\", \"OwnerId\") select 'c', \"Id\" from owner"
    );
    database.batch_execute(&owned).await.unwrap();
    let done = publish(&without.join("\n"));
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    database.batch_execute(&format!("delete from {schema}.\"Owner\"")).await.unwrap();
}

async fn what_serves_has_its_rules_when_a_deployment_ends_halfway(site: &Installation) {
    let folder = site.folder.join("ruled");
    fs::create_dir(&folder).unwrap();
    let strict = STRICT.replace("app: Strict", "app: Ruled");
    let publish = |text: &str| {
        fs::write(folder.join("app.yaml"), text).unwrap();
        site.run(&["publish", folder.to_str().unwrap()])
    };
    assert!(publish(&strict).status.success());
    let platform = site.database("platform").await;
    let forget = "create function deployments.forget() returns trigger language plpgsql as \
        $$ begin raise exception 'the row is not written'; end $$; \
        create trigger forget before update on deployments.deployments for each row \
        when (old.number <> new.number) execute function deployments.forget()";
    platform.batch_execute(forget).await.unwrap();
    let done = publish(&strict.replace(", unique: true", ""));
    let said = String::from_utf8([done.stdout, done.stderr].concat()).unwrap();
    assert!(!done.status.success() && said.contains("the row is not written"), "{said}");
    assert!(said.contains("dropped index"), "the control: it was migrated: {said}");
    platform.batch_execute("drop function deployments.forget cascade").await.unwrap();

    let database = site.database("stage_development").await;
    let rules = "select 1 from pg_indexes where schemaname = (select schema_name from odeon.apps where name = 'Ruled') \
        and indexdef like 'CREATE UNIQUE INDEX%\"Code\"%'";
    eventually("its index is back", async || database.query_opt(rules, &[]).await.unwrap()).await;
    let (status, said) = site.get(&site.url("development", "/Ruled/rest/A/Ping")).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    assert!(publish(&strict).status.success(), "and it can be deployed");
}

async fn a_failed_request_leads_to_its_node(site: &Installation) {
    let create = site.url("development", "/Expenses/rest/Expenses/Create");
    let dear = json!({ "Description": "Server", "Amount": 5000, "CategoryId": 3 });
    let (_, made) = site.send(Method::POST, &create, Some(dear)).await;
    let approve = site.url("development", &format!("/Expenses/rest/Expenses/Approve/{}", made["Id"]));
    let response = site.client.post(&approve).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
    let body = response.text().await.unwrap();
    assert!(body.contains(&id), "the body carries the request id {id}: {body}");
    let line = eventually("the log tells of the request", async || {
        let lines = site.succeed(&["logs", "Expenses", "--request", &id]);
        lines.lines().find(|line| line.contains("over the limit")).map(str::to_owned)
    })
    .await;
    assert!(line.contains("ApproveExpense") && line.contains("RefuseAmount"), "{line}");
}

async fn a_save_is_published(site: &Installation) {
    let project = site.project("Live", &[]);
    let log = fs::File::create(site.folder.join("dev.log")).unwrap();
    let mut dev = odeon(site.data());
    dev.args(["dev", &project]).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
    let mut dev = dev.spawn().unwrap();
    let url = site.url("development", "/Live/rest/Expenses/Get/77");
    let says = async |text: &str| {
        eventually(&format!("`odeon dev` publishes {text}"), async || {
            site.get(&url).await.1.to_string().contains(text).then_some(())
        })
        .await;
    };
    says("There is no expense 77").await;
    site.project("Live", &[("There is no expense ", "Nobody spent ")]);
    says("Nobody spent 77").await;
    site.project("Live", &[("app: Live", "app: Live\nnonsense: 1")]); // a bad save is told, and the next one works
    eventually("the bad save is told", async || {
        fs::read_to_string(site.folder.join("dev.log")).unwrap().contains("nonsense").then_some(())
    })
    .await;
    site.project("Live", &[("\nnonsense: 1", ""), ("Nobody spent ", "Nothing at ")]);
    says("Nothing at 77").await;
    kill_process(Pid::from_raw(i32::try_from(dev.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
    dev.wait().unwrap();
}

async fn an_app_calls_only_whom_its_settings_allow(site: &Installation) {
    let said = site.fail(&["deploy", "Hello", "--revision", "1", "--to", "test", "--allow", "http://x/"]);
    assert!(said.contains("`http://x/` is not a host; write `api.example.com`"), "{said}");
    let peer = site.process("platform")["address"].as_str().unwrap().to_owned();
    let fetched = async |stage: &str| site.get(&site.url(stage, &format!("/Hello/fetch/{peer}"))).await.1;
    let refused = format!("{peer} was not reached: ErrorCode::HttpRequestDenied\n");
    let deploy = |setting: &[&str]| {
        site.succeed(&[&["deploy", "Hello", "--revision", "1", "--to", "test"], setting].concat());
    };

    deploy(&[]);
    assert_eq!(fetched("test").await, refused, "nothing is allowed by itself");
    deploy(&["--allow", "api.example.com", "--allow", &peer]);
    let answered = format!("{peer} answered 404\n");
    assert_eq!(fetched("test").await, answered);
    assert_eq!(fetched("development").await, refused, "another stage keeps its own setting");
    deploy(&[]);
    assert_eq!(fetched("test").await, answered, "the setting stays");
    deploy(&["--allow-none"]);
    assert_eq!(fetched("test").await, refused);
}

async fn logs_are_followed(site: &Installation) {
    let mut follow = odeon(site.data());
    follow.args(["logs", "Hello", "--stage", "test", "--follow"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut follow = follow.spawn().unwrap();
    let lines = BufReader::new(follow.stdout.take().unwrap()).lines();
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || lines.map_while(Result::ok).try_for_each(|line| sender.send(line)));
    let url = site.url("test", "/Hello/followed");
    eventually("a line that is written later is shown", async || {
        site.get(&url).await;
        receiver.try_iter().find(|line| line.contains("hello at") && line.contains("/followed"))
    })
    .await;
    kill_process(Pid::from_raw(i32::try_from(follow.id()).unwrap()).unwrap(), Signal::TERM).unwrap();
    follow.wait().unwrap();

    // As `head` does, when it has read enough.
    let mut follow = odeon(site.data());
    follow.args(["logs", "Hello", "--stage", "test", "--follow"]).stdin(Stdio::null()).stdout(Stdio::piped());
    let mut follow = follow.spawn().unwrap();
    drop(follow.stdout.take());
    let ended = eventually("nobody reads, and it ends", async || {
        site.get(&url).await;
        follow.try_wait().unwrap()
    })
    .await;
    assert!(ended.success(), "{ended}");
}

async fn a_host_trusts_only_what_it_verified(site: &Installation) {
    let objects = site.data().join("run/stages/development/development-1/native");
    let kept: Vec<_> = fs::read_dir(&objects).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert!(!kept.is_empty());
    for object in &kept {
        let mut bytes = fs::read(object).unwrap();
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        fs::set_permissions(object, Permissions::from_mode(0o600)).unwrap();
        fs::write(object, bytes).unwrap();
        fs::set_permissions(object, Permissions::from_mode(0o400)).unwrap();
    }
    let restarts = site.process("host-development-1")["restarts"].as_u64().unwrap();
    site.kill("host-development-1", Signal::KILL);
    site.came_back("host-development-1", restarts).await;
    let (hello, shop) =
        (site.url("development", "/Hello/"), site.url("development", "/Shop/rest/Expenses/List"));
    eventually("what was tampered with is fetched again", async || {
        let serves = site.get(&hello).await.0 == StatusCode::OK && site.get(&shop).await.0 == StatusCode::OK;
        serves.then_some(())
    })
    .await;
}

async fn a_host_compiles_what_has_no_native_code(site: &Installation) {
    // A Platform without a compiler for the pool's target leaves native code to the hosts.
    let file = site.data().join("run/platform.json");
    let mut settings: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    settings.as_object_mut().unwrap().remove("host_binary").unwrap();
    fs::write(&file, settings.to_string()).unwrap();
    let restarts = site.process("platform")["restarts"].as_u64().unwrap();
    let followed = format!(
        "/api/monitoring/v1/logs?assetKey={}&environment=development&follow=true",
        site.key_of("Hello")
    );
    let follower = site.client.get(site.platform(&followed)).bearer_auth(site.token().trim());
    let follower = follower.send().await.unwrap();
    assert_eq!(follower.status(), StatusCode::OK);
    site.kill("platform", Signal::TERM);
    site.came_back("platform", restarts).await; // whoever follows a log does not hold it up
    drop(follower);
    let health = site.platform("/healthz");
    eventually("the Platform answers", async || {
        site.client.get(&health).send().await.ok().filter(|answer| answer.status() == StatusCode::OK)
    })
    .await;
    let hello = hello();
    site.succeed(&["publish", hello.to_str().unwrap(), "--name", "Portable"]);
    assert_eq!(site.get(&site.url("development", "/Portable/")).await.1, "Hello from Odeon\n");
    let log = fs::read_to_string(site.process("host-development-1")["log"].as_str().unwrap()).unwrap();
    assert!(log.contains("no native code fits; compiling"));
}
