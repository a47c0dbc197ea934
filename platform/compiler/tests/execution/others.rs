//! Other apps: what they may call and what is called of them, events triggered and handled, and what an app says of
//! itself to others.

use odeon_compiler::Sources;
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;

use crate::harness::{Answer, App, Reply, sources};

const SUPPORT: &str = r#"
app: Support
structures:
  Answer: { attributes: { Text: Text, Notes: Note List } }
  Note: { attributes: { By: Text } }
exceptions: { NoSuchTicket: {} }
events:
  Closed: { payload: { TicketId: { type: Long Integer, mandatory: true }, Title: Text, On: Date } }
actions:
  Twice: { function: true, inputs: { N: Integer }, outputs: { Twice: Integer }, flow: [ assign: { Twice: N * 2 } ] }
  Note:
    inputs: { TicketId: Long Integer, Title: Text }
    flow:
      - log: '"closed " + TicketId + " " + Title'
service_actions:
  Get:
    inputs: { Id: { type: Integer, mandatory: true }, Note: Text, Most: { type: Integer, default: 20 } }
    outputs: { Double: Integer, Answer: Answer }
    flow:
      - if: Id = 0 or Most < 0
        then:
          - raise: NoSuchTicket
            message: '"no ticket 0"'
            status: 404
      - if: Id = 1
        then:
          - assign: { Double: Id / 0 }
      - assign: { Double: Twice(Id), Answer.Text: Note }
      - trigger: Closed
        with: { TicketId: Id, Title: Note }
event_handlers:
  WhenClosed: { event: Closed, action: Note }
"#;

const DESK: &str = r#"
app: Desk
exceptions: { Own: {} }
actions:
  Log:
    inputs: { Title: Text, Unrelated: Integer }
    flow:
      - log: '"heard " + Title + Unrelated'
event_handlers:
  Heard: { event: Support.Closed, action: Log }
rest:
  A:
    methods:
      Get:
        inputs: { Id: Integer }
        outputs: { Double: Integer, Text: Text, Why: Text }
        flow:
          - try:
              - call: Support.Get
                with: { Id: Id, Note: '"ä"' }
              - assign: { Double: Get.Double, Text: Get.Answer.Text }
            handlers:
              - exception: User
                do: [ assign: { Why: '"user " + ExceptionMessage' } ]
              - exception: Own
                do: [ assign: { Why: '"own"' } ]
              - exception: Security
                do: [ assign: { Why: '"security " + ExceptionMessage' } ]
              - exception: Communication
                do: [ assign: { Why: '"away " + ExceptionMessage' } ]
              - exception: All
                do: [ assign: { Why: '"other " + ExceptionMessage' } ]
"#;

/// The second model, with a reference to the first as the first says it.
fn desk() -> Sources {
    let public = odeon_compiler::check(&sources(SUPPORT)).interface.public;
    let mut reference = serde_json::to_value(&public).unwrap();
    reference["reference"] = "Support".into();
    reference["revision"] = 3.into();
    Sources::new([
        ("app.yaml".to_owned(), DESK.to_owned()),
        ("references/Support.json".to_owned(), reference.to_string()),
    ])
}

fn both() -> (App, App) {
    (App::start(&sources(SUPPORT)), App::start(&desk()))
}

fn trigger(app: &App, path: &str, body: &str) -> Reply {
    app.send_with("POST", path, &[("odeon-trigger", "service")], body)
}

#[test]
fn a_service_action_takes_and_gives_records() {
    let (support, _) = both();
    let reply = trigger(&support, "/Support/services/Get", r#"{"Id":4,"Note":"x","Unknown":[{}]}"#);
    assert_eq!(
        (reply.status, reply.body.as_str()),
        (200, r#"{"Double":8,"Answer":{"Text":"x","Notes":[]}}"#)
    );
    assert_eq!(support.seen(), [r#"event Closed {"TicketId":4,"Title":"x","On":"1900-01-01"}"#, "commit"]);
    let reply = trigger(&support, "/Support/services/Get", r#"{"Note":"x"}"#);
    assert_eq!((reply.status, reply.body.as_str()), (400, "Id: required"));
    assert_eq!(trigger(&support, "/Support/services/Nothing", "{}").status, 404);
    // Only hosts start a trigger.
    assert_eq!(support.send("POST", "/Support/services/Get", r#"{"Id":4}"#).status, 404);
}

#[test]
fn other_apps_see_the_kind_of_user_and_security_exceptions_only() {
    let (support, _) = both();
    let reply = trigger(&support, "/Support/services/Get", r#"{"Id":0}"#);
    assert_eq!((reply.status, reply.body.as_str()), (404, "no ticket 0"));
    assert_eq!(reply.exception.as_deref(), Some("16"), "its own exception is a User exception to others");
    let reply = trigger(&support, "/Support/services/Get", r#"{"Id":1}"#);
    assert_eq!((reply.status, reply.body.as_str()), (500, "Division by zero"));
    assert_eq!(reply.exception.as_deref(), Some("1"), "it ran, and that is all that others know");
    // The events of an app may be away, and yet its action has run.
    support.script.lock().unwrap().events_full = true;
    let reply = trigger(&support, "/Support/services/Get", r#"{"Id":4}"#);
    assert_eq!((reply.status, reply.exception.as_deref()), (503, Some("1")));
    assert_eq!(trigger(&support, "/Support/services/Get", "{}").exception, None, "it did not run");
}

#[test]
fn a_call_sends_a_record_and_reads_one() {
    let (_, desk) = both();
    let get = |answer: Result<(u16, &'static str, &'static str), ErrorCode>| {
        desk.script.lock().unwrap().others = [answer].into();
        desk.get("/Desk/rest/A/Get?Id=7").body
    };
    let json = "application/json";
    assert_eq!(
        get(Ok((200, json, r#"{"Double":14,"Answer":{"Text":"yes","Later":1}}"#))),
        r#"{"Double":14,"Text":"yes","Why":""}"#
    );
    assert_eq!(
        desk.script.lock().unwrap().sent,
        [
            r#"POST http://apps.odeon.internal/Support/services/Get [content-type: application/json] {"Id":7,"Most":20,"Note":"ä"}"#
        ]
    );
    assert!(get(Ok((403, "text/plain", "not you"))).contains("security not you"));
    assert!(get(Ok((500, "text/plain", "oh"))).contains("other Support.Get failed: oh"));
    assert!(get(Ok((502, "text/plain", "gone"))).contains("other Support.Get failed: gone"), "it ran");
    assert!(get(Ok((418, "text/plain", "tea"))).contains("user tea"), "and not an exception of the caller's");
    assert!(get(Ok((503, json, "busy"))).contains("away Support.Get: no answer: busy"));
    assert!(
        get(Err(ErrorCode::ConnectionRefused)).contains("away Support.Get: no answer: it cannot be reached")
    );
    assert!(
        get(Ok((200, json, r#"{"Double":"x"}"#))).contains("other Support.Get: Double: expected an integer")
    );
    assert_eq!(get(Ok((204, json, ""))), r#"{"Double":0,"Text":"","Why":""}"#);
}

#[test]
fn a_handler_takes_of_the_payload_what_its_action_names() {
    let (support, desk) = both();
    let reply = trigger(&support, "/Support/events/WhenClosed", r#"{"TicketId":9,"Title":"lamp"}"#);
    assert_eq!(reply.status, 204, "{}", reply.body);
    assert!(support.script.lock().unwrap().logged[0].contains("closed 9 lamp"));
    let reply = trigger(&desk, "/Desk/events/Heard", r#"{"TicketId":9,"Title":"lamp","More":true}"#);
    assert_eq!(reply.status, 204, "{}", reply.body);
    assert!(desk.script.lock().unwrap().logged[0].contains("heard lamp0"));
}

#[test]
fn an_event_that_is_not_taken_raises() {
    let (support, _) = both();
    support.script.lock().unwrap().events_full = true;
    let reply = trigger(&support, "/Support/services/Get", r#"{"Id":4}"#);
    assert_eq!((reply.status, reply.body.as_str()), (503, "The event Closed: too many wait to be sent"));
    assert_eq!(support.seen().last().map(String::as_str), Some("rollback"));
}

#[test]
fn an_app_says_what_others_may_use_and_what_it_uses() {
    let support = odeon_compiler::check(&sources(SUPPORT)).interface;
    assert_eq!(
        serde_json::to_value(&support.public).unwrap(),
        serde_json::json!({
            "service_actions": { "Get": {
                "inputs": { "Id": { "type": "Integer", "mandatory": true }, "Note": { "type": "Text" }, "Most": { "type": "Integer", "default": "20" } },
                "outputs": { "Double": { "type": "Integer" }, "Answer": { "type": "Answer" } },
            } },
            "events": { "Closed": { "payload": {
                "TicketId": { "type": "Long Integer", "mandatory": true },
                "Title": { "type": "Text" },
                "On": { "type": "Date" },
            } } },
            "structures": {
                "Answer": { "attributes": { "Text": { "type": "Text" }, "Notes": { "type": "Note List" } } },
                "Note": { "attributes": { "By": { "type": "Text" } } },
            },
        })
    );
    assert!(support.uses.is_empty());
    let desk = odeon_compiler::check(&desk()).interface;
    assert_eq!(desk.uses["Support"], support.public, "it uses all of it");
    assert_eq!(odeon_compiler::conflicts(&desk.uses["Support"], &support.public), []);
    let handled = |handler: &odeon_compiler::Handler| (handler.app.clone(), handler.event.clone());
    let handlers: Vec<_> = support.handlers.iter().chain(&desk.handlers).map(handled).collect();
    assert_eq!(handlers, [(None, "Closed".to_owned()), (Some("Support".to_owned()), "Closed".to_owned())]);
}

#[test]
fn an_event_is_written_in_the_transaction_as_a_row_is() {
    // What follows in a `try` that goes on is undone alone, and so is an event that is not taken.
    let app = App::start(&sources(
        "app: T
entities: { E: { attributes: { Name: Text } } }
events: { Closed: { payload: { Id: Long Integer } } }
rest:
  A:
    methods:
      M:
        flow:
          - trigger: Closed
          - try: [ { get: E, id: IntegerToIdentifier(1) }, { trigger: Closed } ]
            handlers: [ { exception: All, abort_transaction: false, do: [] } ]
          - try: [ { trigger: Closed } ]
            handlers: [ { exception: All, abort_transaction: false, do: [] } ]
",
    ));
    let done = || Answer::Touched(0);
    app.answers([done(), Answer::Fails("invalid", "x"), done(), done(), done(), done()]);
    assert_eq!(app.get("/T/rest/A/M").status, 200);
    let event = "event Closed {\"Id\":0}";
    assert_eq!(
        app.seen(),
        [
            event,
            "execute: SAVEPOINT odeon_try []",
            "query: SELECT \"Id\", \"Name\" FROM \"E\" WHERE \"Id\" = $1::int8 [int64(1)]",
            "execute: ROLLBACK TO SAVEPOINT odeon_try []",
            "execute: RELEASE SAVEPOINT odeon_try []",
            "execute: SAVEPOINT odeon_try []",
            event,
            "execute: RELEASE SAVEPOINT odeon_try []",
            "commit",
        ]
    );
}
