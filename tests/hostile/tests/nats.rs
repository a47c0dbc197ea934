//! A host, router or migrator that was taken over: whom it can pretend to be on NATS, and what it can hear there, in its
//! own stage, in another and in another organization.
//!
//! The attacker has the credentials file of a real process and a real server before it. The control is a user that only
//! the operator could make, in the same account: what it says is heard by all. Build workers have no part in this:
//! they are children of the Platform that get two files, and no credentials.
//!
//! Not tested here: what a process may say under its own name (a host may lie about itself), and what hosts share (timers,
//! events); docs/threats.md has both.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeSet;
use std::fs;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_nats::jetstream::{self, consumer};
use async_nats::{Client, Subscriber};
use futures_util::FutureExt as _;
use futures_util::StreamExt as _;
use nkeys::KeyPair;
use odeon_hostile::nats::{FIRST, account, changed, connect, credentials, key, settled, until, user_of};
use odeon_hostile::{Beside, publish};
use odeon_protocol::HostHeartbeat;
use odeon_protocol::events::{APP_WAITING_MAX, MESSAGE_BYTES_MAX, PAYLOAD_BYTES_MAX};
use odeon_tests::{Installation, PATIENCE, eventually};
use reqwest::StatusCode;
use serde_json::{Value, json};
use tokio::net::TcpListener;

/// What the operator says for a control; an attacker says its name.
const CONTROL: &str = "control";
/// What is said when an attack is over.
const OVER: &str = "over";
/// What nobody but the Platform may say in a stage, or only who has that name.
const SAY: [&str; 26] = [
    "migrate",
    "credentials.other",
    "heartbeat.host.other",
    "heartbeat.router.other",
    "logs.018f4c6e-0000-7000-8000-000000000001.other",
    "$KV.desired.app.018f4c6e-0000-7000-8000-000000000001",
    "$KV.observed.host.other.018f4c6e-0000-7000-8000-000000000001",
    "$KV.observed.router.other.018f4c6e-0000-7000-8000-000000000001",
    "$O.components.C.x",
    "$O.components.M.x",
    "$JS.API.STREAM.CREATE.mine",
    "$JS.API.STREAM.UPDATE.KV_desired",
    "$JS.API.STREAM.DELETE.KV_desired",
    "$JS.API.STREAM.PURGE.KV_desired",
    "$JS.API.STREAM.MSG.DELETE.KV_desired",
    "$JS.API.STREAM.SNAPSHOT.KV_desired",
    "$JS.API.STREAM.RESTORE.KV_desired",
    "$JS.API.STREAM.LIST",
    "$JS.API.STREAM.MSG.GET.logs",
    "$JS.API.CONSUMER.CREATE.logs.mine",
    "$JS.API.CONSUMER.DURABLE.CREATE.events.mine",
    "$JS.API.CONSUMER.DELETE.events.other",
    "$JS.API.ACCOUNT.PURGE.mine",
    "$SYS.REQ.CLAIMS.UPDATE",
    "$SYS.REQ.SERVER.PING",
    "anything",
];
/// What hosts share, and nobody else writes.
const SHARED: [&str; 3] = ["$KV.timers.x", "events.x.y", "dead.x.y"];
/// An app that tells of an event.
const TELLER: &str = "app: Teller
events: { Told: { payload: { N: Integer } } }
rest: { A: { methods: { Tell: { flow: [ { trigger: Told, with: { N: 1 } } ] } } } }
";
/// What nobody but the Platform may hear, as whoever asks would write it, and something that would be heard.
const HEAR: [(&str, &str); 9] = [
    (">", "anything"),
    ("*", "anything"),
    ("_INBOX.>", "_INBOX.other.x"),
    ("_INBOX.other.>", "_INBOX.other.x"),
    ("logs.>", "logs.018f4c6e-0000-7000-8000-000000000001.other"),
    ("$KV.>", "$KV.observed.host.other.018f4c6e-0000-7000-8000-000000000001"),
    ("$JS.>", "$JS.API.STREAM.LIST"),
    ("$SYS.>", "$SYS.REQ.SERVER.PING"),
    ("events.>", "events.x.y"),
];

/// Somebody with the credentials of a process.
struct Attacker {
    role: &'static str,
    /// Its name, which is its inbox too.
    name: &'static str,
    client: Client,
}

impl Attacker {
    async fn all(site: &Installation) -> Vec<Self> {
        let mut all = Vec::new();
        for (role, name) in
            [("host", "development-1"), ("router", "development-router"), ("migrator", "migrator")]
        {
            let client = connect(site, &credentials(site, "development", name), name).await.unwrap();
            all.push(Self { role, name, client });
        }
        all
    }

    /// What it must not say. Replies to others are what a migrator is for.
    fn must_not_say(&self) -> Vec<&'static str> {
        let mut subjects = SAY.to_vec();
        if self.role != "host" {
            subjects.extend(SHARED);
        }
        if self.role != "migrator" {
            subjects.push("_INBOX.other.x");
        }
        subjects
    }

    fn must_not_hear(&self) -> Vec<(&'static str, &'static str)> {
        let mut subjects = HEAR.to_vec();
        if self.role == "migrator" {
            subjects.push(("heartbeat.>", "heartbeat.host.other"));
        } else {
            subjects.push(("heartbeat.router.*", "heartbeat.router.other"));
            subjects.extend([("credentials.*", "credentials.other"), ("migrate", "migrate")]);
        }
        subjects
    }
}

async fn say(client: &Client, subject: &str, text: &'static str) {
    client.publish(subject.to_owned(), text.into()).await.unwrap();
}

/// All subjects on which one of these texts was heard, until `over` was said on that subject.
async fn heard(watcher: &mut Subscriber, texts: &[&str], over: &str) -> BTreeSet<String> {
    let mut heard = BTreeSet::new(); // what is written into a bucket is heard again by those who follow it
    until(watcher, over, |subject, text| {
        if texts.contains(&text) {
            heard.insert(subject.to_owned());
        }
        text == OVER && subject == over
    })
    .await;
    heard
}

fn set(subjects: &[&str]) -> BTreeSet<String> {
    subjects.iter().map(|subject| (*subject).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_has_the_credentials_of_a_process_is_no_other() {
    let site = Installation::start().await;
    publish(&site);
    site.succeed(&["organization", "add", "acme"]);
    let operator = connect(&site, &user_of(&account(&site, FIRST, "development")), "operator").await.unwrap();
    let attackers = Attacker::all(&site).await;
    let beside = Beside::start(site.url("development", "/Hello/"));
    nobody_forges_credentials(&site).await;
    a_login_is_for_the_host_that_serves_the_app(&site, &operator).await;
    nobody_gets_the_requests_of_another_host(&site).await;
    for attacker in &attackers {
        nobody_says_what_is_of_others(attacker, &operator).await;
        nobody_hears_what_is_of_others(attacker, &operator).await;
    }
    nothing_leaves_a_stage(&site, &attackers, &operator).await;
    an_event_is_as_long_as_it_may_be(&attackers[0].client).await;
    let jetstream = jetstream::new(operator);
    who_fills_a_stream_drives_out_its_own(&attackers[0].client, &jetstream).await;
    who_leaves_events_to_wait_holds_up_itself(&site, &jetstream).await;
    beside.stop().await;
}

async fn nobody_says_what_is_of_others(attacker: &Attacker, operator: &Client) {
    let (name, subjects) = (attacker.name, attacker.must_not_say());
    // What it may say, and who else hears: the end of its attack, which comes behind it on the same connection.
    let over = match attacker.role {
        "host" => "heartbeat.host.development-1",
        "router" => "heartbeat.router.development-router",
        _ => "_INBOX.operator.over",
    };
    let mut watcher = operator.subscribe(">").await.unwrap();
    settled(operator, operator, "operator").await;
    for subject in &subjects {
        say(&attacker.client, subject, name).await;
    }
    say(&attacker.client, over, OVER).await;
    assert_eq!(heard(&mut watcher, &[name], over).await, BTreeSet::new(), "{name} was heard");
    for subject in &subjects {
        say(operator, subject, CONTROL).await;
    }
    say(operator, over, OVER).await;
    assert_eq!(
        heard(&mut watcher, &[CONTROL], over).await,
        set(&subjects),
        "whoever may say all of it is heard"
    );
}

async fn nobody_hears_what_is_of_others(attacker: &Attacker, operator: &Client) {
    let client = &attacker.client;
    let over = format!("_INBOX.{}.over", attacker.name);
    let mut own = client.subscribe(over.clone()).await.unwrap();
    let (mut denied, mut controls) = (Vec::new(), Vec::new());
    for (subject, _) in attacker.must_not_hear() {
        denied.push((subject, client.subscribe(subject).await.unwrap()));
        controls.push((subject, operator.subscribe(subject).await.unwrap()));
    }
    settled(client, operator, attacker.name).await;
    settled(operator, operator, "operator").await;
    for (_, subject) in attacker.must_not_hear() {
        say(operator, subject, CONTROL).await;
    }
    say(operator, &over, OVER).await;
    until(&mut own, "what is meant for it", |_, text| text == OVER).await;
    for (subject, mut subscriber) in denied {
        let message = subscriber.next().now_or_never().flatten();
        assert!(message.is_none(), "{} heard {subject}: {message:?}", attacker.name);
    }
    for (subject, mut subscriber) in controls {
        until(&mut subscriber, subject, |_, text| text == CONTROL).await; // whoever may hear it hears it
    }
}

/// Accounts are apart, also for what a process may say in its own.
async fn nothing_leaves_a_stage(site: &Installation, attackers: &[Attacker], operator: &Client) {
    for (organization, stage) in [(FIRST, "test"), (FIRST, "production"), ("acme", "development")] {
        let elsewhere =
            connect(site, &user_of(&account(site, organization, stage)), "watcher").await.unwrap();
        let mut watcher = elsewhere.subscribe(">").await.unwrap();
        settled(&elsewhere, &elsewhere, "watcher").await;
        let mut here = operator.subscribe(">").await.unwrap();
        settled(operator, operator, "operator").await;
        let Attacker { client: host, name, .. } = &attackers[0];
        let may = ["credentials.development-1", "$KV.timers.x", "events.x.y"];
        for subject in may {
            say(host, subject, name).await;
        }
        let over = "heartbeat.host.development-1";
        say(host, over, OVER).await;
        assert_eq!(heard(&mut here, &[name], over).await, set(&may), "it was said");
        for subject in SAY {
            say(operator, subject, CONTROL).await; // also nobody in that account, whatever its rights
        }
        say(operator, "over", OVER).await;
        assert_eq!(heard(&mut here, &[CONTROL], "over").await, set(&SAY), "it was said");
        say(&elsewhere, "over", OVER).await;
        assert_eq!(
            heard(&mut watcher, &[CONTROL, name], "over").await,
            BTreeSet::new(),
            "{organization} {stage}"
        );
        say(&elsewhere, "anything", CONTROL).await;
        say(&elsewhere, "over", OVER).await;
        assert_eq!(
            heard(&mut watcher, &[CONTROL, name], "over").await,
            set(&["anything"]),
            "there it is heard"
        );
    }
}

/// One stream is for the events of all apps: who may say what to it may not fill it with little.
async fn an_event_is_as_long_as_it_may_be(host: &Client) {
    let mut answers = Vec::new();
    for bytes in [PAYLOAD_BYTES_MAX, MESSAGE_BYTES_MAX + 1] {
        let answer = host.request("events.x.y", vec![b'x'; bytes].into()).await.unwrap();
        answers.push(serde_json::from_slice::<Value>(&answer.payload).unwrap());
    }
    assert!(answers[0]["error"].is_null(), "it is taken: {answers:?}");
    let too_large = "message size exceeds maximum allowed";
    assert_eq!(answers[1]["error"]["description"], json!(too_large), "{answers:?}");
}

/// Streams keep so much of each app, so that one that writes without end leaves to others what is theirs.
async fn who_fills_a_stream_drives_out_its_own(host: &Client, jetstream: &jetstream::Context) {
    const FLOODS: &str = "018f4c6e-0000-7000-8000-000000000001";
    const QUIET: &str = "018f4c6e-0000-7000-8000-000000000002";
    for (name, kept, subject) in [
        ("logs", 20_000, (|app| format!("logs.{app}.development-1")) as fn(&str) -> String),
        ("events_dead", 1_000, |app| format!("dead.{app}.Handler")),
    ] {
        host.publish(subject(QUIET), "[]".into()).await.unwrap();
        for _ in 0..kept + 10 {
            host.publish(subject(FLOODS), "[]".into()).await.unwrap();
        }
        host.publish(subject("last"), "[]".into()).await.unwrap();
        let of = async |app| waiting(jetstream, name, &subject(app)).await;
        eventually("all is there", async || (of("last").await == 1).then_some(())).await;
        assert_eq!((of(QUIET).await, of(FLOODS).await), (1, kept), "{name}");
    }
}

/// Messages of a subject in a stream.
async fn waiting(jetstream: &jetstream::Context, stream: &str, subject: &str) -> usize {
    let stream = jetstream.get_stream(stream).await.unwrap();
    let mut found = stream.info_with_subjects(subject).await.unwrap();
    found.next().await.map_or(0, |found| found.unwrap().1)
}

/// An app whose handlers do not take its events, of two names here.
async fn who_leaves_events_to_wait_holds_up_itself(site: &Installation, jetstream: &jetstream::Context) {
    let project = site.folder.join("teller");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("app.yaml"), TELLER).unwrap();
    site.succeed(&["publish", project.to_str().unwrap()]);
    let stream = jetstream.get_stream("events").await.unwrap();
    let app = site.key_of("Teller");
    let slow = consumer::pull::Config {
        durable_name: Some("slow".into()),
        filter_subject: format!("events.{app}.>"),
        ..Default::default()
    };
    stream.create_consumer(slow).await.unwrap();
    for number in 0..APP_WAITING_MAX {
        let subject = format!("events.{app}.Flood{}", number % 2);
        jetstream.publish(subject, "{}".into()).await.unwrap();
    }
    let floods = ["Flood0", "Flood1"].map(|name| format!("events.{app}.{name}"));
    for flood in &floods {
        let all = APP_WAITING_MAX / 2;
        eventually("all wait", async || (waiting(jetstream, "events", flood).await == all).then_some(()))
            .await;
    }
    assert_eq!(site.get(&site.url("development", "/Teller/rest/A/Tell")).await.0, StatusCode::OK);
    eventually("its event waits", async || {
        let log = fs::read_to_string(site.data().join("run/logs/stages-development-host-development-1.log"))
            .unwrap();
        log.contains("20000 events of the app wait for their handlers, and 20000 may").then_some(())
    })
    .await;
    let told = format!("events.{app}.Told");
    assert_eq!(waiting(jetstream, "events", &told).await, 0);
    stream.purge().filter(&floods[0]).await.unwrap();
    eventually("it is sent", async || (waiting(jetstream, "events", &told).await == 1).then_some(())).await;

    // Of one name the stream has all that it takes, and the outbox holds more than is sent at once: others leave all the same.
    let database = site.database("stage_development").await;
    let schema = "select schema_name from odeon.apps where name = 'Teller'";
    let schema: String = database.query_one(schema, &[]).await.unwrap().get(0);
    let flood = "(event, payload) select 'Flood1', '{}' from generate_series(1, 150)";
    database.batch_execute(&format!("insert into {schema}.odeon_outbox {flood}")).await.unwrap();
    assert_eq!(site.get(&site.url("development", "/Teller/rest/A/Tell")).await.0, StatusCode::OK);
    eventually("the event behind them is sent", async || {
        (waiting(jetstream, "events", &told).await == 2).then_some(())
    })
    .await;
    let left = format!("select event, count(*) from {schema}.odeon_outbox group by event");
    eventually("what the stream does not take stays, and nothing else", async || {
        let left = database.query(&left, &[]).await.unwrap();
        let left: Vec<(String, i64)> = left.iter().map(|row| (row.get(0), row.get(1))).collect();
        (left == [("Flood1".to_owned(), 150)]).then_some(())
    })
    .await;
    assert_eq!(waiting(jetstream, "events", &floods[1]).await, APP_WAITING_MAX / 2);
}

/// Rights stand in a token that only an account's key signs, and the account in one that only the operator's does.
async fn nobody_forges_credentials(site: &Installation) {
    let own = credentials(site, "development", "development-1");
    let all = json!({ "allow": [">"] });
    let forged = [
        ("more rights", changed(&own, |claims| claims["nats"]["pub"] = all.clone())),
        ("another account", {
            let other = account(site, FIRST, "production").public_key();
            changed(&own, |claims| claims["iss"] = json!(other))
        }),
        ("an account of one's own", user_of(&KeyPair::new_account())),
        ("a user as account", {
            let seed = own.lines().find(|line| line.starts_with("SU")).unwrap();
            user_of(&key(seed))
        }),
    ];
    for (what, credentials) in forged {
        assert!(connect(site, &credentials, "forged").await.is_err(), "{what}");
    }
    assert!(connect(site, &own, "development-1").await.is_ok());
    assert!(connect(site, &user_of(&account(site, FIRST, "development")), "x").await.is_ok());
}

/// Passwords of databases are told to the hosts that desired state, which is sealed, places an app on.
async fn a_login_is_for_the_host_that_serves_the_app(site: &Installation, operator: &Client) {
    let question = json!({ "app": site.key_of("Expenses") }).to_string();
    let ask = async |client: &Client, subject: &str| -> Value {
        let answer = client.request(subject.to_owned(), question.clone().into()).await.unwrap();
        serde_json::from_slice(&answer.payload).unwrap()
    };
    let here =
        connect(site, &credentials(site, "development", "development-1"), "development-1").await.unwrap();
    let there = connect(site, &credentials(site, "test", "test-1"), "test-1").await.unwrap();
    let answer =
        eventually("the migrator answers", async || Some(ask(&here, "credentials.development-1").await))
            .await;
    assert!(answer.to_string().contains("password"), "its own host serves it: {answer}");
    let answer = ask(&there, "credentials.test-1").await;
    assert!(answer.to_string().contains("OS-MIG-40303"), "in that stage nobody does: {answer}");
    // Only the name in the subject says who asks, so the server must guard it, as was shown above.
    let answer = ask(operator, "credentials.nobody").await;
    assert!(answer.to_string().contains("OS-MIG-40303"), "{answer}");
    let answer = ask(operator, "credentials.development-1").await;
    assert!(answer.to_string().contains("password"), "{answer}");
}

/// A host that says that another one has moved to its own address: in its own name, and as the reply to a question, which
/// the server sends to where it was told. Routers would send it the requests of the other one's apps.
async fn nobody_gets_the_requests_of_another_host(site: &Installation) {
    site.succeed(&["deploy", "Hello", "--revision", "1", "--to", "test"]);
    let operator = connect(site, &user_of(&account(site, FIRST, "test")), "operator").await.unwrap();
    let attacker = connect(site, &credentials(site, "test", "test-1"), "test-1").await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (address, asked) = (listener.local_addr().unwrap().to_string(), Arc::new(AtomicUsize::new(0)));
    let count = asked.clone();
    tokio::spawn(async move {
        while listener.accept().await.is_ok() {
            count.fetch_add(1, Ordering::SeqCst); // and closed: what is asked here goes to the other host
        }
    });
    let (other, own, copy) = ("heartbeat.host.test-2", "heartbeat.host.test-1", "$KV.timers.forged");
    let mut watcher = operator.subscribe("heartbeat.host.*").await.unwrap();
    let mut forged = loop {
        let message = watcher.next().await.unwrap();
        if let Some(beat) = HostHeartbeat::heard(&message).filter(|beat| beat.host.as_str() == "test-2") {
            break beat;
        }
    };
    forged.address = address;
    let text = serde_json::to_string(&forged).unwrap();
    attacker.publish(copy, text.clone().into()).await.unwrap();
    let get = "$JS.API.DIRECT.GET.KV_timers.$KV.timers.forged";
    eventually("what it wrote can be read", async || {
        let read = attacker.request(get, "".into()).await.ok()?;
        (read.payload == text).then_some(())
    })
    .await;
    attacker.publish(own, text.clone().into()).await.unwrap();
    attacker.publish_with_reply(get, other, "".into()).await.unwrap();
    let mut names = BTreeSet::new();
    let coming = async {
        while names.len() < 2 {
            let message = watcher.next().await.unwrap();
            if message.payload == text {
                assert!(
                    serde_json::from_slice::<HostHeartbeat>(&message.payload).is_ok(),
                    "it reads like one"
                );
                assert!(HostHeartbeat::heard(&message).is_none(), "{message:?}");
                names.insert(message.subject.to_string());
            }
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, coming).await.is_ok();
    assert!(in_time, "came as {names:?} only");
    assert_eq!(names, set(&[own, other]), "two ways to be heard, and none is believed");
    let url = site.url("test", "/Hello/");
    for _ in 0..20 {
        assert_eq!(site.get(&url).await.0, StatusCode::OK);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 0, "no request went astray");
    eventually("whoever may say it for that host is believed", async || {
        operator.publish(other, text.clone().into()).await.unwrap();
        site.get(&url).await;
        (asked.load(Ordering::SeqCst) > 0).then_some(())
    })
    .await;
}
