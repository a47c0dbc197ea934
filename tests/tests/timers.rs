//! What apps run by themselves: once per stage however many hosts there are, woken, tried again, never from outside.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;

use odeon_tests::{Installation, eventually};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const MODEL: &str = r#"
app: Ticker
entities:
  Run: { attributes: { Timer: Text } }
actions:
  Note:
    inputs: { Timer: Text }
    locals: { Row: Run }
    flow:
      - assign: { Row.Timer: Timer }
      - create: Run
        record: Row
  FailOnce:
    flow:
      - call: Note
        with: { Timer: '"undone"' }
      - list: Run
        name: Tried
        where: Run.Timer = "tried"
        max: 1
      - if: Tried.List.Empty
        then:
          - call: Note
            with: { Timer: '"tried"' }
          - list: Run
            name: Undone
            where: Run.Timer = "undone"
            max: 1
          - delete: Run
            id: Undone.List[0].Id
          - commit
          - call: Note
            with: { Timer: '"undone"' }
          - raise: User
            message: '"not yet"'
      - call: Note
        with: { Timer: '"succeeded"' }
  Count:
    locals: { Count: Integer, Last: Long Integer, Text: Text }
    flow:
      - list: Run
        name: Rows
        where: Run.Timer = "row"
        max: 0
      - for_each: Rows.List
        as: Row
        do:
          - assign: { Text: Text + Row.Id }
          - assign: { Count: Count + 1, Last: IdentifierToLongInteger(Row.Id), Text: 'Substr(Text, 0, 5)' }
      - call: Note
        with: { Timer: 'If(Last > 0, "counted " + Count, "")' }
timers:
  Counted: { action: Count }
  Loaded: { action: Note, when_published: true, with: { Timer: '"loaded"' } }
  Yearly: { action: Note, schedule: "0 0 1 1 *", with: { Timer: '"yearly"' } }
  Stubborn: { action: FailOnce }
rest:
  Api:
    methods:
      Wake: { verb: POST, flow: [ wake: Yearly ] }
      Count:
        inputs: { Timer: Text }
        outputs: { Count: Long Integer }
        flow:
          - list: Run
            name: Found
            where: Run.Timer = Timer
            max: 0
          - assign: { Count: Found.Count }
"#;

#[tokio::test]
async fn an_app_runs_its_timers_by_itself() {
    let site = Installation::start().await;
    let file = site.folder.join("ticker.yaml");
    fs::write(&file, MODEL).unwrap();
    site.succeed(&["publish", file.to_str().unwrap()]);
    runs(&site, "development", "loaded", 1).await;
    // Two replicas or more, and one run.
    site.succeed(&["deploy", "Ticker", "--revision", "1", "--to", "production"]);
    runs(&site, "production", "loaded", 1).await;

    a_timer_is_woken_by_its_app_and_by_people(&site).await;
    a_stage_runs_timers_its_own_way(&site).await;
    what_fails_is_undone_told_and_tried_again(&site).await;
    nobody_outside_runs_a_timer(&site).await;
    a_million_rows_fit_into_a_run(&site).await;
    assert_eq!(count(&site, "production", "loaded").await, 1, "and it stays with one");
}

async fn count(site: &Installation, stage: &str, timer: &str) -> i64 {
    let url = site.url(stage, &format!("/Ticker/rest/Api/Count?Timer={timer}"));
    site.get(&url).await.1.as_i64().unwrap()
}

async fn runs(site: &Installation, stage: &str, timer: &str, times: i64) {
    let what = format!("{timer} has run {times} times in {stage}");
    eventually(&what, async || (count(site, stage, timer).await == times).then_some(())).await;
}

fn timer(site: &Installation, stage: &str, name: &str) -> Value {
    let list = site.succeed(&["timers", "list", "Ticker", "--stage", stage, "--json"]);
    let list: Value = serde_json::from_str(&list).unwrap();
    list.as_array().unwrap().iter().find(|timer| timer["name"] == name).unwrap().clone()
}

async fn a_timer_is_woken_by_its_app_and_by_people(site: &Installation) {
    let yearly = timer(site, "production", "Yearly");
    assert!(yearly["nextRunAt"].as_str().unwrap().contains("-01-01T00:00:00"), "{yearly}");
    let (status, said) =
        site.send(Method::POST, &site.url("production", "/Ticker/rest/Api/Wake"), None).await;
    assert_eq!(status, StatusCode::OK, "{said}");
    runs(site, "production", "yearly", 1).await;
    site.succeed(&["timers", "run", "Ticker", "Yearly", "--stage", "production"]);
    runs(site, "production", "yearly", 2).await;
    let after = eventually("the run has ended", async || {
        let after = timer(site, "production", "Yearly");
        (after["nextRunAt"] == yearly["nextRunAt"]).then_some(after)
    })
    .await;
    assert!(after["lastRunAt"].is_string() && after["lastFailure"].is_null(), "{after}");
    let said = site.fail(&["timers", "run", "Ticker", "Daily", "--stage", "production"]);
    assert!(
        said.contains(
            "`Ticker` has no timer `Daily` in production; it has Counted, Loaded, Yearly, Stubborn"
        ),
        "{said}"
    );
    let said = site.fail(&["timers", "list", "Ticker", "--stage", "test"]);
    assert!(said.contains("`Ticker` is not deployed to test"), "{said}");
}

async fn a_stage_runs_timers_its_own_way(site: &Installation) {
    let stage = "production";
    let timers = |verb: &str, more: &[&str]| {
        let mut all = vec!["timers", verb, "Ticker", "Yearly", "--stage", stage];
        all.extend(more);
        site.run(&all)
    };
    let shows = async |what: &str, shown: &dyn Fn(&Value) -> bool| {
        eventually(what, async || shown(&timer(site, stage, "Yearly")).then_some(())).await;
    };
    let is_on = |yearly: &Value, day: &str| yearly["nextRunAt"].as_str().is_some_and(|at| at.contains(day));
    assert!(timers("set", &["--schedule", "0 5 2 2 *", "--timeout", "7"]).status.success());
    shows("another schedule", &|yearly| is_on(yearly, "-02-02T05:00:00")).await;
    assert_eq!(timer(site, stage, "Yearly")["timeoutMinutes"], json!(7));
    assert!(is_on(&timer(site, "development", "Yearly"), "-01-01T00:00:00"), "others keep theirs");

    let ran = count(site, stage, "yearly").await;
    assert!(timers("deactivate", &[]).status.success());
    shows("no next run", &|yearly| yearly["nextRunAt"].is_null() && yearly["isActive"] == json!(false)).await;
    assert!(timers("activate", &[]).status.success());
    shows("a next run", &|yearly| is_on(yearly, "-02-02T05:00:00")).await;
    assert!(timers("deactivate", &[]).status.success());
    // As in ODC, waking it activates it.
    assert!(timers("run", &[]).status.success());
    runs(site, stage, "yearly", ran + 1).await;
    shows("a next run", &|yearly| is_on(yearly, "-02-02T05:00:00") && yearly["isActive"] == json!(true))
        .await;

    assert!(timers("unset", &[]).status.success());
    shows("the model's schedule", &|yearly| is_on(yearly, "-01-01T00:00:00")).await;
    let said = String::from_utf8(timers("set", &["--schedule", "0 99 * * *"]).stderr).unwrap();
    assert!(said.contains("`0 99 * * *` is no schedule") && said.contains("OS-TMR-40002"), "{said}");
    let said = String::from_utf8(timers("set", &["--timeout", "61"]).stderr).unwrap();
    assert!(said.contains("a run may take 1 to 60 minutes"), "{said}");
}

async fn what_fails_is_undone_told_and_tried_again(site: &Installation) {
    site.succeed(&["timers", "run", "Ticker", "Stubborn"]);
    let failed = eventually("the first try fails", async || {
        let timer = timer(site, "development", "Stubborn");
        timer["lastFailure"].is_string().then_some(timer)
    })
    .await;
    let why = failed["lastFailure"].as_str().unwrap();
    assert!(why.contains("the app answered 400 Bad Request") && why.contains("not yet"), "{why}");
    assert!(failed["nextRunAt"].is_string(), "{failed}");
    assert_eq!(count(site, "development", "undone").await, 0);
    // The request id of the failure leads to its log line.
    let id = why.rsplit_once("(request ").unwrap().1.trim_end_matches(')');
    eventually("the log has it", async || {
        let log = site.succeed(&["logs", "Ticker", "--request", id]);
        (log.contains("not yet") && log.contains("RaiseUser")).then_some(())
    })
    .await;
    runs(site, "development", "succeeded", 1).await;
    eventually("it is done", async || {
        let timer = timer(site, "development", "Stubborn");
        (timer["lastFailure"].is_null() && timer["nextRunAt"].is_null()).then_some(())
    })
    .await;
}

async fn nobody_outside_runs_a_timer(site: &Installation) {
    let before = count(site, "development", "yearly").await;
    let url = site.url("development", "/Ticker/timers/Yearly");
    for name in ["odeon-trigger", "Odeon-Trigger"] {
        let response = site.client.post(&url).header(name, "timer").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
        // Not even past the router.
        let host = format!("http://{}/Ticker/timers/Yearly", site.host_address("development-1"));
        let response = site.client.post(host).header(name, "timer").send().await.unwrap();
        assert_eq!(response.status(), StatusCode::NOT_FOUND);
    }
    assert_eq!(count(site, "development", "yearly").await, before);
    let (_, audit) =
        site.call(&site.token(), Method::GET, "/api/identity/v1/audit-events?limit=100", None).await;
    let ran = audit["results"].as_array().unwrap().iter().any(|event| event["action"] == json!("timer.run"));
    assert!(ran, "{audit}");
}

/// More than a result may hold, and far more than an instance.
async fn a_million_rows_fit_into_a_run(site: &Installation) {
    let database = site.database("stage_development").await;
    let table = "select quote_ident(schemaname) || '.\"Run\"' from pg_tables where tablename = 'Run'";
    let table: String = database.query_one(table, &[]).await.unwrap().get(0);
    let insert = format!("insert into {table} (\"Timer\") select 'row' from generate_series(1, 1000000)");
    assert_eq!(database.execute(&insert, &[]).await.unwrap(), 1_000_000);
    site.succeed(&["timers", "run", "Ticker", "Counted"]);
    runs(site, "development", "counted%201000000", 1).await;
}
