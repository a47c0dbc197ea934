//! A host that may hold three apps, of twenty that are placed: all of them answer, and what runs is left alone.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use odeon_tests::{Installation, eventually, hello};
use reqwest::StatusCode;
use rustix::process::Signal;
use serde_json::{Value, json};

/// Apps that are placed.
const APPS: u64 = 20;
/// Apps that may be loaded.
const LOADED_MAX: u64 = 3;
/// The only host of the stage.
const HOST: &str = "development-1";

#[tokio::test]
async fn apps_come_and_go_and_nobody_notices() {
    let site = Installation::start_with(&["--no-sample"]).await;
    let file = hello();
    for app in 0..APPS {
        site.succeed(&["publish", file.to_str().unwrap(), "--name", &format!("Hello{app}")]);
    }
    assert_eq!(metric(&site, "app_loads_total").await, APPS, "what is deployed is loaded at once");
    assert_eq!(metric(&site, "app_unloads_total").await, 0, "the control: there is room for all");

    allow_three(&site).await;
    assert_eq!(metric(&site, "app_loads_total").await, 0, "a start loads nothing");
    let slow = at_host(&site, "/Hello0/slow");
    let client = site.client.clone();
    let slow = tokio::spawn(async move { client.get(slow).send().await.unwrap().text().await.unwrap() });
    eventually("the slow request runs", async || (metric(&site, "app_loads_total").await == 1).then_some(()))
        .await;
    for app in 1..APPS {
        assert_eq!(greeting(&site, app).await, "Hello from Odeon\n");
    }
    eventually("most apps are unloaded", async || {
        (metric(&site, "apps_loaded").await <= LOADED_MAX).then_some(())
    })
    .await;
    assert!(metric(&site, "app_unloads_total").await >= APPS - LOADED_MAX);
    assert_eq!(metric(&site, "apps").await, APPS, "all of them are still placed");
    assert_eq!(slow.await.unwrap(), "Hello from Odeon\n", "its app was unloaded, and it went on");

    let before = metric(&site, "app_loads_total").await;
    assert_eq!(greeting(&site, 0).await, "Hello from Odeon\n");
    assert_eq!(metric(&site, "app_loads_total").await, before + 1, "it was unloaded, and came back");
    a_tampered_artefact_is_made_anew(&site).await;
}

/// Somebody puts other code in the place of the sealed one.
async fn a_tampered_artefact_is_made_anew(site: &Installation) {
    let artefact = artefact(site);
    let good = fs::read(&artefact).unwrap();
    let mut bad = good.clone();
    let middle = bad.len() / 2;
    bad[middle] ^= 1;
    let new = artefact.with_extension("bad");
    fs::write(&new, &bad).unwrap();
    fs::set_permissions(&new, fs::Permissions::from_mode(0o400)).unwrap();
    fs::rename(&new, &artefact).unwrap();
    assert_eq!(greeting(site, 1).await, "Hello from Odeon\n");
    assert!(fs::read(&artefact).unwrap() == good, "it was fetched again and sealed again");
}

/// Starts the host again with room for three apps.
async fn allow_three(site: &Installation) {
    let bytes = fs::metadata(artefact(site)).unwrap().len() + (64 << 10);
    let file = site.data().join(format!("run/stages/development/host-{HOST}.json"));
    let mut settings: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    settings["loaded_bytes_max"] = json!(LOADED_MAX * bytes + (8 << 10));
    fs::write(&file, settings.to_string()).unwrap();
    let process = format!("host-{HOST}");
    let before = starts(site);
    site.kill(&process, Signal::KILL);
    eventually("the host has started again", async || (starts(site) > before).then_some(())).await;
    eventually("all apps are placed again", async || (metric(site, "apps").await == APPS).then_some(()))
        .await;
}

/// How often the host has said that it serves.
fn starts(site: &Installation) -> usize {
    let process = site.process(&format!("host-{HOST}"));
    let log = fs::read_to_string(process["log"].as_str().unwrap()).unwrap();
    log.matches("the host serves").count()
}

/// The native code of the component; all apps have the same.
fn artefact(site: &Installation) -> PathBuf {
    let folder = site.data().join(format!("run/stages/development/{HOST}/native"));
    let files: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    let [file] = files.as_slice() else { panic!("one artefact, not {files:?}") };
    file.clone()
}

/// A URL of the host itself: a router would first have to learn where a host that started again is.
fn at_host(site: &Installation, path: &str) -> String {
    format!("http://{}{path}", site.host_address(HOST))
}

async fn greeting(site: &Installation, app: u64) -> String {
    let response = site.client.get(at_host(site, &format!("/Hello{app}/"))).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK, "Hello{app}");
    response.text().await.unwrap()
}

/// A metric of the host, once it answers.
async fn metric(site: &Installation, name: &str) -> u64 {
    let prefix = format!("odeon_host_{name} ");
    let text = site.host_metrics(HOST).await;
    text.lines().find_map(|line| line.strip_prefix(&prefix)?.parse().ok()).unwrap_or(0)
}
