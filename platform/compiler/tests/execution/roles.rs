//! Roles: who may call a method, what a flow knows of who calls, and how roles are granted.

use crate::harness::{Answer, App, Reply, long, sources};

const TEAM: &str = r#"
app: T
roles: { Lead: {}, Member: {} }
actions:
  Login:
    inputs: { Username: Text, Password: Text }
    outputs: { UserId: Text }
    flow:
      - if: Password = ""
        then: [ { raise: InvalidLogin, message: '"no"' } ]
      - assign: { UserId: '"u-" + Username' }
service_actions:
  Who: { outputs: { Id: Text }, flow: [ assign: { Id: GetUserId() } ] }
rest:
  A:
    on_authentication: Login
    roles: [Member]
    methods:
      Who: { outputs: { Id: Text }, flow: [ assign: { Id: GetUserId() } ] }
      Lead: { roles: [Lead, Member], outputs: { Ok: Boolean }, flow: [ assign: { Ok: True } ] }
      Open:
        roles: []
        inputs: { Of: Text }
        outputs: { Ok: Boolean }
        flow: [ assign: { Ok: 'CheckLeadRole() or CheckLeadRole(Of)' } ]
      Promote:
        roles: []
        flow:
          - grant: Lead
            user: '"u-bob"'
          - revoke: Member
            user: GetUserId()
      Keep:
        roles: []
        outputs: { Ok: Boolean }
        flow:
          - grant: Lead
            user: '"u-bob"'
          - assign: { Ok: CheckLeadRole() }
  Free:
    methods: { Who: { outputs: { Id: Text }, flow: [ assign: { Id: GetUserId() } ] } }
"#;

const ANN: &str = "Basic YW5uOng="; // ann:x

fn count(n: i64) -> Answer {
    Answer::Table(1, vec![long(n)])
}

/// What ann gets, and what was asked of the database.
fn ann(path: &str, answers: Vec<Answer>) -> (Reply, Vec<String>) {
    let app = App::start(&sources(TEAM));
    app.answers(answers);
    let reply = app.send_with("GET", &format!("/T/rest/A/{path}"), &[("authorization", ANN)], "");
    (reply, app.seen())
}

const ASKED: &str =
    "query: SELECT count(*) FROM odeon_roles WHERE role COLLATE \"C\" = $1 AND member COLLATE \"C\" = $2";

#[test]
fn a_method_asks_for_one_of_its_roles() {
    let (reply, seen) = ann("Who", vec![count(1)]);
    assert_eq!((reply.status, reply.body.as_str()), (200, "\"u-ann\""));
    assert!(seen.contains(&format!("{ASKED} [text(\"Member\"), text(\"u-ann\")]")), "{seen:?}");
    let (reply, _) = ann("Who", vec![count(0)]);
    assert_eq!(reply.status, 403);
    assert!(reply.body.contains("This needs the role Member"), "{}", reply.body);
    assert_eq!(ann("Lead", vec![count(0), count(1)]).0.status, 200);
    let (reply, _) = ann("Lead", vec![count(0), count(0)]);
    assert!(reply.body.contains("This needs the role Lead or Member"), "{}", reply.body);
}

#[test]
fn nobody_has_a_role_when_the_database_is_away() {
    let away = || Answer::Fails("unavailable", "gone");
    assert_eq!(ann("Who", vec![away()]).0.status, 403);
    assert_eq!(ann("Open?Of=u-bob", vec![away(), away()]).0.body, "false");
}

#[test]
fn a_flow_asks_for_who_calls_or_for_another() {
    let (reply, seen) = ann("Open?Of=u-bob", vec![count(0), count(1)]);
    assert_eq!(reply.body, "true");
    assert!(seen.contains(&format!("{ASKED} [text(\"Lead\"), text(\"u-bob\")]")), "{seen:?}");
}

#[test]
fn roles_are_granted_and_revoked_in_the_transaction() {
    let (reply, seen) = ann("Promote", vec![Answer::Touched(1), Answer::Touched(1)]);
    assert_eq!(reply.status, 200);
    assert_eq!(
        seen[seen.len() - 3..],
        [
            "execute: INSERT INTO odeon_roles (role, member) SELECT $1::text, $2::text WHERE NOT EXISTS (SELECT 1 FROM odeon_roles WHERE role COLLATE \"C\" = $1::text AND member COLLATE \"C\" = $2::text) [text(\"Lead\"), text(\"u-bob\")]",
            "execute: DELETE FROM odeon_roles WHERE role COLLATE \"C\" = $1::text AND member COLLATE \"C\" = $2::text [text(\"Member\"), text(\"u-ann\")]",
            "commit",
        ]
    );
}

#[test]
fn a_role_that_cannot_be_asked_about_undoes_nothing() {
    let done = || Answer::Touched(0);
    let answers = vec![Answer::Touched(1), done(), Answer::Fails("invalid", "no table"), done(), done()];
    let (reply, seen) = ann("Keep", answers);
    assert_eq!((reply.status, reply.body.as_str()), (200, "false"));
    let tail: Vec<&str> =
        seen[seen.len() - 5..].iter().map(|statement| &statement[..20.min(statement.len())]).collect();
    assert_eq!(
        tail,
        [
            "execute: SAVEPOINT o",
            "query: SELECT count(",
            "execute: ROLLBACK TO",
            "execute: RELEASE SAV",
            "commit"
        ]
    );
}

#[test]
fn nobody_says_who_calls_but_the_app_and_hosts() {
    let app = App::start(&sources(TEAM));
    let user = ("odeon-user", "u-eve");
    assert_eq!(app.send_with("GET", "/T/rest/Free/Who", &[user], "").body, "\"\"");
    let called = app.send_with("POST", "/T/services/Who", &[("odeon-trigger", "service"), user], "{}");
    assert_eq!(called.body, r#"{"Id":"u-eve"}"#);
}

#[test]
fn an_app_with_roles_has_a_table_of_them() {
    let schema = odeon_compiler::check(&sources(TEAM)).schema;
    let tables: Vec<&str> = schema.tables.iter().map(|table| table.name.as_str()).collect();
    assert_eq!(tables, ["odeon_roles"]);
}

#[test]
fn a_public_role_of_another_app_is_asked_about_through_a_view() {
    let file = |path: &str, text: &str| (path.to_owned(), text.to_owned());
    let team = TEAM.replace("Lead: {}", "Lead: { public: true }");
    let offered = odeon_compiler::check(&sources(&team));
    let reference = serde_json::to_value(&offered.interface.public).unwrap();
    assert_eq!(reference["roles"], serde_json::json!({ "Lead": {} }), "Member is its own");
    let only = offered.schema.public[0].only.clone();
    assert_eq!(only, Some(("role".to_owned(), vec!["Lead".to_owned()])));

    let model = "app: D
actions:
  Login: { inputs: { Username: Text, Password: Text }, outputs: { UserId: Text }, flow: [ assign: { UserId: Username + Password } ] }
rest:
  A:
    on_authentication: Login
    methods:
      Ask: { outputs: { Ok: Boolean }, flow: [ assign: { Ok: T.CheckLeadRole() } ] }
      Only: { roles: [T.Lead], outputs: { Ok: Boolean }, flow: [ assign: { Ok: True } ] }
";
    let project = |model: &str| {
        let mut reference = reference.clone();
        reference["reference"] = "T".into();
        odeon_compiler::Sources::new([file("d.yaml", model), file("t.json", &reference.to_string())])
    };
    let checked = odeon_compiler::check(&project(model));
    assert_eq!(checked.problems, []);
    assert!(checked.schema.tables.is_empty(), "it has no roles of its own");
    assert_eq!(checked.schema.foreign[0].view, "T.odeon_roles");
    assert!(checked.interface.uses["T"].roles.contains_key("Lead"));
    let app = App::start(&project(model));
    let basic = [("authorization", "Basic YW5uOg==")];
    app.script.lock().unwrap().answers = vec![count(1)].into();
    assert_eq!(app.send_with("GET", "/D/rest/A/Ask", &basic, "").body, "true", "{:?}", app.seen());
    let asked = app.seen().into_iter().find(|statement| statement.starts_with("query")).unwrap();
    assert!(
        asked.contains(r#"FROM "T.odeon_roles" WHERE role"#)
            && asked.contains(r#"[text("Lead"), text("ann")]"#),
        "{asked}"
    );
    app.script.lock().unwrap().answers = vec![count(0)].into();
    assert_eq!(app.send_with("GET", "/D/rest/A/Only", &basic, "").status, 403);

    let grants = model.replace("assign: { Ok: True }", "{ grant: T.Lead, user: '\"x\"' }");
    let problems = odeon_compiler::check(&project(&grants)).problems;
    assert_eq!(problems[0].message, "who has `T.Lead` is its own app's to say");
}
