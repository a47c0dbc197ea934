//! Apps that work together: `guest-examples/support` and `orders` tell `guest-examples/desk` what happens, and it asks
//! them. Events are neither lost nor sent for what was rolled back, and what a deployment would break is said.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use odeon_tests::{Installation, eventually, odeon};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const PASSWORD: &str = "open sesame";

fn example(name: &str) -> String {
    format!("{}/../guest-examples/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Writes a project into the folder of the test.
fn project(site: &Installation, name: &str, text: &str) -> PathBuf {
    let folder = site.folder.join(name);
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("app.yaml"), text).unwrap();
    folder
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[tokio::test]
async fn a_desk_hears_and_asks_two_other_apps() {
    let site = Installation::start_with(&["--no-sample"]).await;
    for app in ["tax-rules", "orders", "support"] {
        site.succeed(&["publish", &example(app)]);
    }
    the_references_are_what_the_apps_say(&site);
    site.succeed(&["publish", &example("desk")]);
    what_happens_is_heard(&site, "development").await;

    // In production no host serves all of them, so some calls go from host to host.
    for app in ["Orders", "Support", "Desk"] {
        site.succeed(&["deploy", app, "--revision", "1", "--to", "production"]);
    }
    what_happens_is_heard(&site, "production").await;
    who_is_away_is_missing(&site).await;
}

/// `odeon reference` writes what is in the project already, so the project compiles as it is.
fn the_references_are_what_the_apps_say(site: &Installation) {
    let folder = project(site, "desk", "app: Desk\n");
    for app in ["Orders", "Support"] {
        site.succeed(&["reference", app, "--project", text(&folder)]);
        let file = format!("references/{app}.json");
        let read = |folder: &Path| fs::read_to_string(folder.join(&file)).unwrap();
        assert_eq!(read(&folder), read(Path::new(&example("desk"))), "{file}");
    }
    let orders = project(site, "orders", "app: Orders\n");
    site.succeed(&["reference", "TaxRules", "--project", text(&orders)]);
    let read = |folder: &Path| fs::read_to_string(folder.join("libraries/TaxRules.json")).unwrap();
    assert_eq!(read(&orders), read(Path::new(&example("orders"))));
    let said = site.fail(&["reference", "Desk", "--project", text(&folder)]);
    assert!(said.contains("no app is called `Desk`"), "{said}");
}

async fn what_happens_is_heard(site: &Installation, stage: &str) {
    let mut set = odeon(site.data());
    let set = set.args(["settings", "set", "Orders", "ShopPassword", "--stage", stage]).stdin(Stdio::piped());
    let mut set = set.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    set.stdin.take().unwrap().write_all(PASSWORD.as_bytes()).unwrap();
    assert!(set.wait().unwrap().success());

    let stock = json!([{ "Code": "tea", "Name": "Green tea", "Price": 4.35, "Stock": 5 }]);
    let office = site.url(stage, "/Orders/rest/Office/Stock");
    assert_eq!(site.send(Method::PUT, &office, Some(stock)).await.0, StatusCode::OK);
    let order = |count: i32| {
        let lines = json!([{ "Code": "tea", "Count": count }]);
        json!({ "Customer": "Ann", "Mail": "ann@example.org", "Country": 1, "Lines": lines })
    };
    let place = |count: i32| {
        let url = site.url(stage, "/Orders/rest/Shop/Orders");
        site.client.post(url).basic_auth("shop", Some(PASSWORD)).json(&order(count)).send()
    };
    assert_eq!(place(9).await.unwrap().status(), StatusCode::CONFLICT, "not so much is left");
    assert!(place(2).await.unwrap().status().is_success());
    let ticket = json!({ "Title": "No sugar", "Customer": "ann@example.org", "Priority": 1, "Text": "?" });
    let tickets = site.url(stage, "/Support/rest/Tickets");
    let (status, number) = site.send(Method::POST, &tickets, Some(ticket)).await;
    assert_eq!((status, number), (StatusCode::CREATED, json!(1)));
    let urgent = site.url(stage, "/Desk/rest/Tickets/Urgent");
    let waiting = json!([{ "Customer": "ann@example.org", "Tickets": 1, "Minutes": 30 }]);
    assert_eq!(site.get(&urgent).await, (StatusCode::OK, waiting), "the desk reads the tickets themselves");
    let (status, _) = site.send(Method::DELETE, &format!("{tickets}/1"), None).await;
    assert_eq!(status, StatusCode::NO_CONTENT);

    let url = site.url(stage, "/Desk/rest/Customers/ann@example.org");
    let overview = eventually("what happened to be heard", async || {
        let (status, overview) = site.get(&url).await;
        let feed = overview["Feed"].as_array().map_or(0, Vec::len);
        (status == StatusCode::OK && feed == 3).then_some(overview)
    })
    .await;
    let mut heard: Vec<&str> =
        overview["Feed"].as_array().unwrap().iter().map(|entry| entry["What"].as_str().unwrap()).collect();
    heard.sort_unstable();
    let expect =
        ["opened ticket 1: No sugar", "ordered O-000001 for 10.44", "ticket 1 was closed after 0 min"];
    assert_eq!(heard, expect);
    assert_eq!(overview["Orders"][0]["Gross"], json!(10.44));
    let summary = &overview["Tickets"][0];
    assert_eq!((&summary["Status"], &summary["Comments"]), (&json!("Closed"), &json!(1)));
    // Both replicas of the desk answer, from wherever the others are.
    for _ in 0..12 {
        let (_, again) = site.get(&url).await;
        assert_eq!(again, overview);
    }
}

async fn who_is_away_is_missing(site: &Installation) {
    let url = site.url("production", "/Desk/rest/Customers/ann@example.org");
    let undeployed = site.run(&["undeploy", "Support", "--stage", "production"]);
    let told = String::from_utf8(undeployed.stderr).unwrap();
    let expect = "warning[OS-DPL-40920]: `Desk` in production uses `Support`, which serves no longer";
    assert!(undeployed.status.success() && told.contains(expect), "{told}");
    // Hosts go on serving it for a moment, for routers that do not know yet.
    eventually("Support to be away", async || {
        let (status, overview) = site.get(&url).await;
        assert_eq!((status, &overview["Orders"][0]["Number"]), (StatusCode::OK, &json!("O-000001")));
        (overview["Missing"] == json!(["Support"])).then_some(())
    })
    .await;
}

const PRODUCER: &str = "app: Producer
entities: { Row: { attributes: { N: Integer } } }
events: { Written: { payload: { N: { type: Integer, mandatory: true } } } }
service_actions:
  Add: { inputs: { A: { type: Integer, mandatory: true }, B: Integer }, outputs: { Sum: Integer }, flow: [ assign: { Sum: A + B } ] }
rest:
  A:
    methods:
      Write:
        inputs: { N: Integer, Fail: Boolean }
        locals: { Row: Row }
        flow:
          - assign: { Row.N: N }
          - create: Row
            record: Row
          - trigger: Written
            with: { N: N }
          - if: Fail
            then: [ { raise: User, message: '\"rolled back\"' } ]
";

const CONSUMER: &str = "app: Consumer
entities: { Heard: { attributes: { N: Integer, Good: Boolean } } }
roles: { Reader: {} }
event_handlers: { Written: { event: Producer.Written, action: Hear } }
actions:
  Login:
    inputs: { Username: Text, Password: Text }
    outputs: { UserId: Text }
    flow: [ assign: { UserId: Username + Password } ]
  Hear:
    inputs: { N: Integer }
    locals: { Row: Heard }
    flow:
      - assign: { Row.N: N, Row.Good: N < 100 }
      - create: Heard
        record: Row
      - commit
      - if: N >= 100
        then: [ { raise: User, message: '\"never\"' } ]
rest:
  Members:
    on_authentication: Login
    roles: [Reader]
    methods:
      Read: { outputs: { Id: Text }, flow: [ assign: { Id: GetUserId() } ] }
      Join: { roles: [], flow: [ { grant: Reader, user: GetUserId() } ] }
      Leave: { roles: [], flow: [ { revoke: Reader, user: GetUserId() } ] }
  A:
    methods:
      Count:
        inputs: { Good: Boolean }
        outputs: { Count: Long Integer }
        flow:
          - list: Heard
            name: All
            where: Heard.Good = Good
            max: 1
          - assign: { Count: All.Count }
      Add:
        outputs: { Sum: Integer }
        flow:
          - call: Producer.Add
            with: { A: 3, B: 4 }
          - assign: { Sum: Add.Sum }
";

#[tokio::test]
async fn an_event_is_neither_lost_nor_sent_for_nothing() {
    let site = Installation::start_with(&["--no-sample", "--event-retry-ms", "20"]).await;
    let producer = project(&site, "producer", PRODUCER);
    site.succeed(&["publish", text(&producer)]);
    let consumer = project(&site, "consumer", CONSUMER);
    let said = site.fail(&["publish", text(&consumer)]);
    assert!(said.contains("OML0111") && said.contains("odeon reference Producer"), "{said}");
    site.succeed(&["reference", "Producer", "--project", text(&consumer)]);
    site.succeed(&["publish", text(&consumer)]);

    let write = |n: i32, fail: bool| {
        let url = format!("/Producer/rest/A/Write?N={n}&Fail={fail}");
        let url = site.url("development", &url);
        let site = &site;
        async move { site.get(&url).await.0 }
    };
    for n in 0..20 {
        assert_eq!(write(n, n % 2 == 1).await.is_success(), n % 2 == 0);
    }
    let count = async |good: bool| {
        let (_, count) =
            site.get(&site.url("development", &format!("/Consumer/rest/A/Count?Good={good}"))).await;
        count.as_i64().unwrap_or(-1)
    };
    eventually("ten events", async || (count(true).await == 10).then_some(())).await;

    // One that always fails is tried eleven times and then put aside, and holds up no other.
    assert!(write(100, false).await.is_success());
    eventually("eleven tries", async || (count(false).await == 11).then_some(())).await;
    assert!(write(99, false).await.is_success());
    eventually("the next event", async || (count(true).await == 11).then_some(())).await;
    assert_eq!(count(false).await, 11);

    what_cannot_be_sent_holds_up_nothing(&site).await;
    assert!(write(98, false).await.is_success());
    eventually("the event behind them", async || (count(true).await == 12).then_some(())).await;
    eventually("the app's log to tell", async || {
        let log = site.succeed(&["logs", "Producer"]);
        log.contains("events of odeon_outbox cannot be sent and were taken out").then_some(())
    })
    .await;

    roles_are_granted_and_revoked(&site).await;
    nobody_outside_starts_what_hosts_start(&site).await;
    what_a_deployment_breaks_is_said(&site, &producer).await;
}

/// The outbox is a table of the app, which may write into it by itself: a name that is none, a payload that is too large.
async fn what_cannot_be_sent_holds_up_nothing(site: &Installation) {
    let database = site.database("stage_development").await;
    let schema = "select schema_name from odeon.apps where name = 'Producer'";
    let schema: String = database.query_one(schema, &[]).await.unwrap().get(0);
    let statement = format!(
        "insert into {schema}.odeon_outbox (event, payload) select 'Written ' || n, '{{}}' from generate_series(1, 150) n; \
         insert into {schema}.odeon_outbox (event, payload) select 'Written', repeat('x', 655360) from generate_series(1, 150)"
    );
    database.batch_execute(&statement).await.unwrap();
}

async fn roles_are_granted_and_revoked(site: &Installation) {
    let call = async |user: &str, method: &str| {
        let url = site.url("development", &format!("/Consumer/rest/Members/{method}"));
        site.client.get(url).basic_auth(user, Some("")).send().await.unwrap().status()
    };
    assert_eq!(call("ann", "Read").await, StatusCode::FORBIDDEN);
    for _ in 0..2 {
        assert_eq!(call("ann", "Join").await, StatusCode::OK);
    }
    assert_eq!(call("ann", "Read").await, StatusCode::OK);
    assert_eq!(call("Ann", "Read").await, StatusCode::FORBIDDEN, "case counts");
    assert_eq!(call("ann", "Leave").await, StatusCode::OK);
    assert_eq!(call("ann", "Read").await, StatusCode::FORBIDDEN);
}

async fn nobody_outside_starts_what_hosts_start(site: &Installation) {
    let routed = site.url("development", "/Producer/services/Add");
    let direct = format!("http://{}/Producer/services/Add", site.host_address("development-1"));
    for (url, header, value, expect) in [
        (&routed, "odeon-trigger", "service", StatusCode::NOT_FOUND),
        (&routed, "odeon-call", "AAAA", StatusCode::NOT_FOUND), // a router passes none of these on
        (&routed, "x-nothing", "1", StatusCode::NOT_FOUND),
        (&direct, "odeon-trigger", "service", StatusCode::NOT_FOUND),
        (&direct, "odeon-call", "AAAA", StatusCode::FORBIDDEN), // not sealed by a host
    ] {
        let request = site.client.post(url).header(header, value).json(&json!({ "A": 1 }));
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), expect, "{header} at {url}: {}", response.text().await.unwrap());
    }
}

async fn what_a_deployment_breaks_is_said(site: &Installation, producer: &Path) {
    let add = site.url("development", "/Consumer/rest/A/Add");
    assert_eq!(site.get(&add).await, (StatusCode::OK, json!(7)));
    let said = site.fail(&["deploy", "Consumer", "--revision", "1", "--to", "test"]);
    let expect = "error[OS-DPL-40920]: `Consumer` uses `Producer`, which is not deployed to test";
    assert!(said.contains(expect) && said.contains("--accept-impact"), "{said}");
    for app in ["Producer", "Consumer"] {
        site.succeed(&["deploy", app, "--revision", "1", "--to", "test"]);
    }

    let changed = PRODUCER.replace("B: Integer", "B: Integer, More: { type: Text, mandatory: true }");
    fs::write(producer.join("app.yaml"), changed).unwrap();
    let publish = site.run(&["publish", text(producer)]);
    assert!(publish.status.success(), "the first stage may be broken for a while");
    let told = String::from_utf8(publish.stderr).unwrap();
    let what = "`Consumer` in development uses `Producer.Add`, but the input `More` is mandatory now";
    assert!(told.contains(&format!("warning[OS-DPL-40920]: {what}")), "{told}");
    let (status, answer) = site.get(&add).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    assert!(answer.to_string().contains("Producer.Add failed: More: required"), "{answer}");

    let said = site.fail(&["deploy", "Producer", "--revision", "2", "--to", "test"]);
    assert!(said.contains("`Consumer` in test uses `Producer.Add`"), "{said}");
    let add_in_test = site.url("test", "/Consumer/rest/A/Add");
    assert_eq!(site.get(&add_in_test).await, (StatusCode::OK, json!(7)), "nothing was changed");
    let deploy = ["deploy", "Producer", "--revision", "2", "--to", "test", "--accept-impact"];
    site.succeed(&deploy);
    let (status, _) = site.get(&add_in_test).await;
    assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR);
    let _: Value = json!(site.succeed(&["rollback", "Producer", "--stage", "test"]));
    assert_eq!(site.get(&add_in_test).await, (StatusCode::OK, json!(7)));
}

#[tokio::test]
async fn many_apps_come_to_a_stage_at_once() {
    let site = Installation::start_with(&["--no-sample"]).await;
    let names: Vec<String> = (0..8).map(|number| format!("App{number}")).collect();
    for name in &names {
        let folder = project(
            &site,
            name,
            &format!("app: {name}\nentities: {{ Row: {{ attributes: {{ N: Integer }} }} }}\n"),
        );
        site.succeed(&["publish", text(&folder)]);
    }
    let deploy = |name: &String| site.spawn(&["deploy", name, "--revision", "1", "--to", "test"]);
    let deploying: Vec<_> = names.iter().map(deploy).collect();
    for done in deploying {
        let done = done.await.unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

const TELLER: &str = "app: Teller
entities: { Row: { attributes: { N: Integer } } }
events:
  First: { payload: { N: { type: Integer, mandatory: true } } }
  Second: { payload: { N: { type: Integer, mandatory: true } } }
rest:
  A:
    methods:
      First: { inputs: { N: Integer }, flow: [ { trigger: First, with: { N: N } } ] }
      Second: { inputs: { N: Integer }, flow: [ { trigger: Second, with: { N: N } } ] }
";

const LISTENER: &str = "app: Listener
entities:
  Heard: { attributes: { N: Integer } }
  Door: { attributes: { N: Integer } }
event_handlers: { Told: { event: Teller.First, action: Hear } }
actions:
  Hear:
    inputs: { N: Integer }
    locals: { Row: Heard }
    flow:
      - list: Door
        name: Closed
        max: 1
      - if: Closed.Count > 0
        then: [ { raise: User, message: '\"the door is closed\"' } ]
      - assign: { Row.N: N }
      - create: Heard
        record: Row
rest:
  A:
    methods:
      Sum:
        outputs: { Sum: Integer }
        locals: { Total: Integer }
        flow:
          - list: Heard
            name: All
          - for_each: All.List
            as: Each
            do: [ assign: { Total: Total + Each.N } ]
          - assign: { Sum: Total }
";

#[tokio::test]
async fn a_handler_hears_what_its_revision_listens_to() {
    let site = Installation::start_with(&["--no-sample", "--event-retry-ms", "1000"]).await;
    let teller = project(&site, "teller", TELLER);
    site.succeed(&["publish", text(&teller)]);
    let listener = project(&site, "listener", LISTENER);
    site.succeed(&["reference", "Teller", "--project", text(&listener)]);
    site.succeed(&["publish", text(&listener)]);
    let tell = async |event: &str, n: u32| {
        let url = site.url("development", &format!("/Teller/rest/A/{event}?N={n}"));
        assert!(site.get(&url).await.0.is_success());
    };
    let sums_up_to = async |sum: u32| {
        let url = site.url("development", "/Listener/rest/A/Sum");
        eventually(&format!("{sum} in all"), async || (site.get(&url).await.1 == json!(sum)).then_some(()))
            .await;
    };
    tell("First", 1).await;
    sums_up_to(1).await;
    fs::write(listener.join("app.yaml"), LISTENER.replace("Teller.First", "Teller.Second")).unwrap();
    site.succeed(&["publish", text(&listener)]);
    tell("First", 10).await;
    tell("Second", 100).await;
    sums_up_to(101).await;

    // A deployment that fails takes nothing from the revision that goes on.
    let stage = site.database("stage_development").await;
    let schema = "select schema_name from odeon.apps where name = 'Listener'";
    let schema: String = stage.query_one(schema, &[]).await.unwrap().get(0);
    let close = format!("insert into {schema}.\"Door\" (\"N\") values (1)");
    stage.batch_execute(&close).await.unwrap();
    tell("Second", 1000).await;
    eventually("the event waits", async || {
        site.succeed(&["logs", "Listener"]).contains("the door is closed").then_some(())
    })
    .await;
    let broken = "update assets.revisions r set claim = jsonb_set(claim, '{signature}', '\"\"') \
                  from assets.assets a where a.key = r.asset_key and a.name = 'Listener' and r.revision = 1";
    site.database("platform").await.batch_execute(broken).await.unwrap();
    let said = site.fail(&["deploy", "Listener", "--revision", "1", "--to", "development"]);
    assert!(said.contains("OS-BERT-50010") && said.contains("revision 2 keeps serving"), "{said}");
    stage.batch_execute(&format!("delete from {schema}.\"Door\"")).await.unwrap();
    sums_up_to(1101).await;
}
