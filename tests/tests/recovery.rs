//! What was lost is written again, what was replayed changes nothing, and a backup brings everything back.
//!
//! One installation, one scenario in order; the restored one is a second installation in an empty folder.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::path::Path;
use std::process::Command;

use odeon_tests::{Installation, eventually, fresh_folder, odeon};
use reqwest::{Method, StatusCode};
use rustix::process::Signal;
use serde_json::{Value, json};

#[tokio::test]
async fn nothing_that_served_is_lost() {
    let site = Installation::start().await;
    let project = site.project("Orders", &[]);
    site.succeed(&["publish", &project]);
    site.succeed(&["deploy", "Orders", "--revision", "1", "--to", "production"]);
    for (stage, description) in [("development", "Chair"), ("production", "Desk")] {
        let expense = json!({ "Description": description, "Amount": 99.95, "CategoryId": 3 });
        let url = site.url(stage, "/Orders/rest/Expenses/Create");
        assert_eq!(site.send(Method::POST, &url, Some(expense)).await.0, StatusCode::OK);
    }
    what_nats_lost_is_written_again(&site).await;
    a_replayed_bucket_changes_nothing(&site).await;
    a_restored_platform_database_changes_nothing(&site).await;
    a_backup_restores_into_an_empty_folder(site).await;
}

/// JetStream's folder is emptied under a running server, which is then killed.
async fn what_nats_lost_is_written_again(site: &Installation) {
    // As a deployment leaves it that failed after its migration.
    let migrated = "update odeon.apps set number = number + 1 where name = 'Orders'";
    site.database("stage_production").await.batch_execute(migrated).await.unwrap();
    site.kill("nats-server", Signal::STOP);
    fs::remove_dir_all(site.data().join("run/nats/jetstream")).unwrap();
    fs::remove_dir_all(site.data().join("run/nats/accounts")).unwrap();
    serves_while_restarting(site, "nats-server", "1").await;
    // The Platform has written everything again: a deployment finds its way, and so does the next revision.
    let project = site.project("Orders", &[]);
    eventually("publishing works again", async || {
        site.run(&["publish", &project, "--message", "after the loss"]).status.success().then_some(())
    })
    .await;
    assert!(site.succeed(&["apps"]).contains("Orders"));
    eventually("the desired state of production is there again", async || {
        let status = site.run(&["deploy", "Orders", "--revision", "1", "--to", "production"]);
        status.status.success().then_some(())
    })
    .await;
    let log = fs::read_to_string(site.data().join("run/logs/platform.log")).unwrap();
    assert!(!log.contains("the migrator refused"), "what was migrated since is no obstacle");
}

/// An older copy of JetStream's folder comes back, as from a backup.
async fn a_replayed_bucket_changes_nothing(site: &Installation) {
    let (store, copy) = (site.data().join("run/nats/jetstream"), site.folder.join("jetstream.old"));
    site.kill("nats-server", Signal::STOP);
    copy_folder(&store, &copy);
    site.kill("nats-server", Signal::CONT);
    let latest = latest_revision(site);
    site.succeed(&["deploy", "Orders", "--revision", &latest, "--to", "production"]);
    site.succeed(&["undeploy", "Orders"]);
    assert_eq!(revision_in(site, "production"), latest);

    site.kill("nats-server", Signal::STOP);
    fs::remove_dir_all(&store).unwrap();
    copy_folder(&copy, &store);
    let before = written_again(site);
    serves_while_restarting(site, "nats-server", &latest).await;
    eventually("the Platform writes the newer state again", async || {
        (written_again(site) > before).then_some(())
    })
    .await;
    // What was undeployed since stays away, whatever the old bucket says.
    let gone = site.url("development", "/Orders/rest/Expenses/List");
    assert_eq!(site.get(&gone).await.0, StatusCode::NOT_FOUND);
    eventually("deployments go on", async || {
        let done = site.run(&["deploy", "Orders", "--revision", &latest, "--to", "development"]);
        done.status.success().then_some(())
    })
    .await;
    assert_eq!(site.get(&gone).await.0, StatusCode::OK);
}

/// The Platform's database goes back to what it was some deployments ago; the stages do not.
async fn a_restored_platform_database_changes_nothing(site: &Installation) {
    let may = ["--limit", "memoryMib=300", "--limit", "cpuBurstMs=unlimited", "--allow", "api.example.com"];
    let latest = revision_in(site, "production");
    site.succeed(
        &[&["deploy", "Orders", "--revision", &latest, "--to", "production"][..], &may[..]].concat(),
    );
    let database = site.database("platform").await;
    let before = revision_in(site, "production");
    let older = "update deployments.deployments set revision = 1, previous_revision = null, epoch = 0, number = 1, \
                 limits = '{}', egress_allow = '{}'; \
                 delete from assets.revisions r using assets.assets a \
                 where a.key = r.asset_key and a.name = 'Orders' and r.revision > 1";
    database.batch_execute(older).await.unwrap();
    serves_while_restarting(site, "platform", &before).await;
    let token = site.token();
    let (_, audit) = site.call(&token, Method::GET, "/api/identity/v1/audit-events?limit=100", None).await;
    let adopted = |event: &Value| event["action"] == "deployment.adopt" && event["subject"] == "Orders";
    assert!(audit["results"].as_array().unwrap().iter().any(adopted), "{audit}");
    let kept = "select d.limits::text || array_to_string(d.egress_allow, ',') from deployments.deployments d where d.stage = 'production'";
    let kept: String = database.query_one(kept, &[]).await.unwrap().get(0);
    assert_eq!(kept, r#"{"memoryMib": 300, "cpuBurstMs": null}api.example.com"#);
    site.succeed(&["deploy", "Orders", "--revision", "1", "--to", "production"]);
    assert_eq!(revision_in(site, "production"), "1");
    // What serves and is forgotten keeps its number.
    site.succeed(&["publish", &site.project("Orders", &[])]);
    assert_eq!(latest_revision(site), (latest.parse::<u32>().unwrap() + 1).to_string());
}

async fn a_backup_restores_into_an_empty_folder(site: Installation) {
    // As a stage of before has it, when less was taken from apps.
    let stage = site.database("stage_test").await;
    stage.batch_execute("grant usage on language plpgsql to public").await.unwrap();
    let uploads = site.data().join("run/blobs/uploads/somebody");
    fs::create_dir_all(&uploads).unwrap();
    fs::write(uploads.join("upload"), "nobody needs it").unwrap();
    let file = site.folder.join("odeon.backup");
    site.succeed(&["backup", file.to_str().unwrap()]);
    let listed = Command::new("tar").arg("--list").arg("--file").arg(&file).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("blobs/sha256/") && !listed.contains("uploads"), "{listed}");
    let said = site.fail(&["backup", file.to_str().unwrap()]);
    assert!(said.contains("exists; choose another name"), "{said}");
    let said = site.fail(&["restore", file.to_str().unwrap()]);
    assert!(said.contains("is not empty, and a restore never overwrites"), "{said}");
    let answers = answers(&site).await;
    let old = site.stop();

    let (folder, port_base) = fresh_folder();
    let data = folder.join("restored");
    let broken = folder.join("broken.backup");
    fs::write(&broken, "not a backup").unwrap();
    let refused = odeon(&data).args(["restore", broken.to_str().unwrap()]).output().unwrap();
    assert!(!refused.status.success() && !data.exists(), "{}", String::from_utf8_lossy(&refused.stderr));

    let port = port_base.to_string();
    let done = odeon(&data).args(["restore", file.to_str().unwrap(), "--port-base", &port]).output().unwrap();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    fs::write(data.join("run/secrets/hardened-stage_test"), "").unwrap();
    fs::remove_dir_all(old).unwrap(); // nothing of the old installation is left that could answer
    let restored = Installation::start_in(folder, data, port_base).await;
    for (stage, path, expected) in &answers {
        let url = restored.url(stage, path);
        eventually(&format!("{stage}{path} answers as before"), async || {
            (restored.get(&url).await == (StatusCode::OK, expected.clone())).then_some(())
        })
        .await;
    }
    restored.succeed(&["deploy", "Orders", "--revision", "1", "--to", "test"]);
    let stage = restored.database("stage_test").await;
    let public = "select has_language_privilege('public', 'plpgsql', 'usage')";
    assert!(!stage.query_one(public, &[]).await.unwrap().get::<_, bool>(0), "it is hardened again");
}

/// What users see, by stage and path.
async fn answers(site: &Installation) -> Vec<(&'static str, &'static str, Value)> {
    let mut answers = Vec::new();
    for (stage, path) in [
        ("development", "/Orders/rest/Expenses/List"),
        ("development", "/Expenses/rest/Expenses/Totals"),
        ("production", "/Orders/rest/Expenses/List"),
    ] {
        let (status, answer) = site.get(&site.url(stage, path)).await;
        assert_eq!(status, StatusCode::OK, "{stage}{path}: {answer}");
        answers.push((stage, path, answer));
    }
    answers
}

/// Production answers while a process is killed and comes back, and serves the same revision after it.
async fn serves_while_restarting(site: &Installation, process: &str, revision: &str) {
    let restarts = site.process(process)["restarts"].as_u64();
    site.kill(process, Signal::KILL);
    let url = site.url("production", "/Orders/rest/Expenses/List");
    let mut requests = 0;
    eventually(&format!("{process} comes back"), async || {
        let (status, list) = site.get(&url).await;
        assert_eq!((status, &list[0]["Description"]), (StatusCode::OK, &json!("Desk")), "{list}");
        requests += 1;
        (requests > 20 && site.process(process)["restarts"].as_u64() > restarts).then_some(())
    })
    .await;
    eventually("the Platform answers again", async || {
        (site.run(&["apps"]).status.success() && revision_in(site, "production") == revision).then_some(())
    })
    .await;
    assert_eq!(site.get(&url).await.0, StatusCode::OK);
}

/// The revision of Orders in a stage, as the Platform tells.
fn revision_in(site: &Installation, stage: &str) -> String {
    orders(site)["stages"][stage].to_string()
}

fn latest_revision(site: &Installation) -> String {
    orders(site)["latestRevision"].to_string()
}

fn orders(site: &Installation) -> Value {
    let apps: Value = serde_json::from_str(&site.succeed(&["apps", "--json"])).unwrap();
    apps.as_array().unwrap().iter().find(|app| app["name"] == "Orders").unwrap().clone()
}

/// How often the Platform told that it wrote desired state of production again.
fn written_again(site: &Installation) -> usize {
    let log = fs::read_to_string(site.data().join("run/logs/platform.log")).unwrap();
    let told = |line: &&str| line.contains("writing desired state again") && line.contains("production");
    log.lines().filter(told).count()
}

fn copy_folder(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("--archive").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}
