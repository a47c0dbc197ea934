//! What a stage sets for an app: per stage, checked, applied without a deployment, and secret where it says so.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::io::Write as _;
use std::process::Stdio;

use odeon_tests::{Installation, odeon};
use reqwest::StatusCode;
use serde_json::json;

const MODEL: &str = r#"
app: Greeter
settings:
  Greeting: { type: Text, default: Hello }
  Times: { type: Integer, default: 1 }
  Token: { type: Text, secret: true }
rest:
  Api:
    methods:
      Say:
        outputs: { Out: Text }
        locals: { Key: Text }
        flow:
          - assign: { Key: Settings.Token }
          - assign: { Out: 'Settings.Greeting + Settings.Times + "," + Length(Key) + ToUpper(Key)' }
"#;
const CANARY: &str = "canary-of-a-secret";

#[tokio::test]
async fn a_stage_sets_what_its_apps_read() {
    let site = Installation::start().await;
    let file = site.folder.join("greeter.yaml");
    fs::write(&file, MODEL).unwrap();
    site.succeed(&["publish", file.to_str().unwrap()]);
    site.succeed(&["deploy", "Greeter", "--revision", "1", "--to", "test"]);
    let says = async |stage: &str| site.get(&site.url(stage, "/Greeter/rest/Api/Say")).await;
    assert_eq!(says("development").await, (StatusCode::OK, json!("Hello1,0")));

    values_are_set_per_stage_and_without_a_deployment(&site).await;
    assert_eq!(says("test").await, (StatusCode::OK, json!("Hello1,0")));
    wrong_values_are_refused_and_change_nothing(&site);
    a_secret_is_told_to_the_app_and_to_nobody_else(&site).await;

    site.succeed(&["settings", "unset", "Greeter", "Greeting", "Token"]);
    assert_eq!(says("development").await, (StatusCode::OK, json!("Hello3,0")));
}

async fn values_are_set_per_stage_and_without_a_deployment(site: &Installation) {
    let before = site.succeed(&["apps", "--json"]);
    site.succeed(&["settings", "set", "Greeter", "Greeting=Servus", "Times=3"]);
    let (_, said) = site.get(&site.url("development", "/Greeter/rest/Api/Say")).await;
    assert_eq!(said, json!("Servus3,0"), "the command ends when every host has the values");
    assert_eq!(site.succeed(&["apps", "--json"]), before);

    // What is set before the first deployment is there when it comes.
    site.succeed(&["settings", "set", "Greeter", "Greeting=Moin", "--stage", "production"]);
    site.succeed(&["deploy", "Greeter", "--revision", "1", "--to", "production"]);
    let (_, said) = site.get(&site.url("production", "/Greeter/rest/Api/Say")).await;
    assert_eq!(said, json!("Moin1,0"));
}

fn wrong_values_are_refused_and_change_nothing(site: &Installation) {
    let before = site.succeed(&["settings", "list", "Greeter", "--json"]);
    let said = site.fail(&["settings", "set", "Greeter", "Greeting=Hi", "Times=often"]);
    assert!(said.contains("the value of `Times` is no Integer (OS-CFGM-40003"), "{said}");
    let said = site.fail(&["settings", "set", "Greeter", "Time=2"]);
    assert!(said.contains("`Greeter` has no setting `Time`; it has Greeting, Times, Token"), "{said}");
    let said = site.fail(&["settings", "set", "Greeter", &format!("Greeting={}", "x".repeat(9000))]);
    assert!(said.contains("the value of `Greeting` may have 8192 bytes"), "{said}");
    let said = site.fail(&["settings", "set", "Greeter", "Greeting=x", "--stage", "nowhere"]);
    assert!(said.contains("the stage `nowhere` does not exist"), "{said}");
    assert_eq!(site.succeed(&["settings", "list", "Greeter", "--json"]), before);
}

async fn a_secret_is_told_to_the_app_and_to_nobody_else(site: &Installation) {
    let mut set = odeon(site.data());
    let set = set.args(["settings", "set", "Greeter", "Token"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut set = set.stderr(Stdio::piped()).spawn().unwrap();
    set.stdin.take().unwrap().write_all(format!("{CANARY}\n").as_bytes()).unwrap();
    let done = set.wait_with_output().unwrap();
    assert!(done.status.success(), "{done:?}");
    let (_, said) = site.get(&site.url("development", "/Greeter/rest/Api/Say")).await;
    assert_eq!(said, json!(format!("Servus3,18{}", CANARY.to_uppercase())));

    let list = site.succeed(&["settings", "list", "Greeter"]);
    assert!(list.contains("(secret)"), "{list}");
    let database = site.database("platform").await;
    let mut told = vec![list, site.succeed(&["status", "--json"])];
    for table in ["configurations.settings", "deployments.operations", "audit.events"] {
        let rows = database.query(&format!("select t::text from {table} t"), &[]).await.unwrap();
        assert!(!rows.is_empty(), "{table}");
        told.extend(rows.iter().map(|row| row.get::<_, String>(0)));
    }
    // Logs, the state of hosts and routers on disk, and what NATS keeps.
    let canary = CANARY.as_bytes();
    let mut folders = vec![site.data().join("run")];
    let mut files = 0;
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if let Ok(bytes) = fs::read(&path) {
                files += 1;
                assert!(!bytes.windows(canary.len()).any(|at| at == canary), "{} has it", path.display());
            }
        }
    }
    assert!(files > 50, "{files} files were searched");
    assert!(told.iter().all(|text| !text.contains(CANARY)), "{told:?}");
}
