//! What comes from elsewhere into an app: libraries, which are compiled in, and entities of other apps, which are read.

use odeon_compiler::{Severity, Sources, bundle, check};

use crate::harness::{Answer, App, long, text};

const MATH: &str = r#"
library: Math
exceptions: { TooLarge: {} }
actions:
  Half: { public: true, function: true, inputs: { N: Decimal }, outputs: { Half: Decimal }, flow: [ assign: { Half: N / 2 } ] }
"#;

const TAX: &str = r#"
library: TaxRules
settings: { Percent: { type: Decimal, default: 20 } }
structures:
  Bill: { attributes: { Net: Currency, Tax: Currency, Kind: Kind Identifier, Lines: Line List } }
  Line: { attributes: { Text: Text, Net: Currency } }
entities:
  Kind: { static: true, records: { Standard: {}, Reduced: { Label: lower } } }
exceptions: { NoSuchKind: {} }
actions:
  Rate:
    function: true
    inputs: { Kind: Kind Identifier }
    outputs: { Rate: Decimal }
    flow:
      - switch:
          - { when: Kind = Entities.Kind.Standard, do: [ assign: { Rate: Settings.Percent } ] }
          - { when: Kind = Entities.Kind.Reduced, do: [ assign: { Rate: Math.Half(Settings.Percent) } ] }
        else:
          - raise: NoSuchKind
            message: '"no kind " + Kind'
  Tax:
    public: true
    function: true
    inputs: { Net: Currency, Kind: { type: Kind Identifier } }
    outputs: { Tax: Currency }
    flow: [ assign: { Tax: 'Round(Net * Rate(Kind) / 100, 2)' } ]
  Total:
    public: true
    inputs: { Bill: Bill }
    outputs: { Of: Bill }
    locals: { Sum: { type: Record, attributes: { Net: Currency } } }
    flow:
      - for_each: Bill.Lines
        as: Line
        do: [ assign: { Sum.Net: Sum.Net + Line.Net } ]
      - assign: { Of: Bill, Of.Net: Sum.Net, Of.Tax: 'Tax(Sum.Net, Bill.Kind)' }
"#;

const SHOP: &str = r#"
app: Shop
rest:
  A:
    methods:
      Tax:
        inputs: { Net: Currency, Reduced: Boolean, Unknown: Boolean }
        outputs: { Tax: Currency, Why: Text }
        locals: { Kind: TaxRules.Kind Identifier }
        flow:
          - assign: { Kind: 'If(Reduced, Entities.TaxRules.Kind.Reduced, Entities.TaxRules.Kind.Standard)' }
          - if: Unknown
            then: [ assign: { Kind: NullIdentifier() } ]
          - try:
              - assign: { Tax: 'TaxRules.Tax(Net, Kind)' }
            handlers:
              - exception: TaxRules.NoSuchKind
                do: [ assign: { Why: ExceptionMessage } ]
"#;

fn file(path: &str, text: &str) -> (String, String) {
    (path.to_owned(), text.to_owned())
}

fn copy(project: &[(String, String)], revision: u32) -> String {
    let sources = Sources::new(project.to_vec());
    let compiled = check(&sources);
    assert!(compiled.is_library && compiled.problems.is_empty(), "{:?}", compiled.problems);
    bundle(&sources, revision).unwrap()
}

fn tax() -> String {
    let math = copy(&[file("math.yaml", MATH)], 1);
    copy(&[file("tax.yaml", TAX), file("libraries/Math.json", &math)], 3)
}

fn shop(app: &str) -> Sources {
    Sources::new([file("app.yaml", app), file("libraries/TaxRules.json", &tax())])
}

#[track_caller]
fn refused(sources: &Sources, message: &str) {
    let checked = check(sources);
    let told: Vec<&str> = checked.problems.iter().map(|p| p.message.as_str()).collect();
    assert!(told.iter().any(|told| told.contains(message)), "{told:#?}");
}

#[test]
fn a_library_is_compiled_in_with_the_library_that_it_uses() {
    let checked = check(&shop(SHOP));
    assert_eq!(checked.problems, []);
    assert!(checked.schema.tables.is_empty(), "a library has no tables");
    assert_eq!(checked.interface.libraries["TaxRules"], 3);
    let settings: Vec<&str> = checked.settings.iter().map(|setting| setting.name.as_str()).collect();
    assert_eq!(settings, ["TaxRules_Percent"], "each app sets it for itself");

    let app = App::start(&shop(SHOP));
    assert_eq!(app.get("/Shop/rest/A/Tax?Net=99.99").body, r#"{"Tax":20,"Why":""}"#);
    assert_eq!(app.get("/Shop/rest/A/Tax?Net=99.99&Reduced=true").body, r#"{"Tax":10,"Why":""}"#);
    assert_eq!(app.get("/Shop/rest/A/Tax?Unknown=true").body, r#"{"Tax":0,"Why":"no kind 0"}"#);
    app.script.lock().unwrap().settings = vec![("TaxRules_Percent", "10")];
    assert_eq!(app.get("/Shop/rest/A/Tax?Net=50").body, r#"{"Tax":5,"Why":""}"#);
}

#[test]
fn its_structures_and_actions_go_by_its_name() {
    let app = App::start(&shop(
        r#"
app: Shop
rest:
  A:
    methods:
      Total:
        verb: POST
        inputs: { Bill: TaxRules.Bill }
        outputs: { Bill2: TaxRules.Bill }
        flow:
          - call: TaxRules.Total
            with: { Bill: Bill }
          - assign: { Bill2: Total.Of }
"#,
    ));
    let sent = r#"{"Kind":1,"Lines":[{"Text":"a","Net":10},{"Text":"b","Net":0.5}]}"#;
    assert_eq!(
        app.send("POST", "/Shop/rest/A/Total", sent).body,
        r#"{"Net":10.5,"Tax":2.1,"Kind":1,"Lines":[{"Text":"a","Net":10},{"Text":"b","Net":0.5}]}"#
    );
}

#[test]
fn what_is_not_public_is_the_librarys_own() {
    let with = |expr: &str| {
        shop(&format!(
            "app: Shop\nactions:\n  A:\n    outputs: {{ D: Decimal }}\n    flow: [ assign: {{ D: '{expr}' }} ]\n"
        ))
    };
    refused(&with("TaxRules.Rate(Entities.TaxRules.Kind.Reduced)"), "there is no function `TaxRules.Rate`");
    refused(&with("Math.Half(2)"), "there is no function `Math.Half`");
    refused(&with("Rate(NullIdentifier())"), "there is no function `Rate`");
    refused(&with("Settings.Percent"), "there is no setting `Percent`");
    let called = shop("app: Shop\nactions: { A: { flow: [ { call: TaxRules.Rate } ] } }\n");
    let checked = check(&called);
    assert_eq!(checked.problems[0].message, "there is no action `TaxRules.Rate` to call here");
    assert_eq!(checked.problems[0].hint.as_deref(), Some("`TaxRules` offers what says `public: true`"));
}

#[test]
fn a_library_has_no_state() {
    let project = |rest: &str| Sources::new([file("l.yaml", &format!("library: L\n{rest}\n"))]);
    refused(&project("entities: { Row: {} }"), "a library has no tables, so its entities are static");
    refused(&project("rest: { A: { methods: { M: {} } } }"), "a library has no REST methods");
    refused(&project("events: { E: {} }"), "a library has no events");
    refused(&project("roles: { R: {} }"), "a library has no roles");
    refused(
        &project("entities: { K: { static: true } }\nactions: { A: { flow: [ { list: K } ] } }"),
        "`K` is of a library, which has no tables",
    );
    let twice = Sources::new([file("a.yaml", "app: A\n"), file("l.yaml", "library: L\n")]);
    refused(&twice, "the project is already named `A`");
    // A copy is read with the same eyes.
    let forged = Sources::new([
        file("a.yaml", "app: A\n"),
        file("l.json", r#"{ "library": "L", "revision": 1, "entities": { "Row": {} } }"#),
    ]);
    refused(&forged, "a library has no tables");
}

#[test]
fn a_copy_is_the_same_text_for_the_same_revision() {
    assert_eq!(tax(), tax());
    let two = [
        file("a.yaml", "library: L\nsettings: { A: Text }\n"),
        file("b.yaml", "settings: { B: { type: Text, secret: true } }\n"),
    ];
    assert_eq!(
        copy(&two, 7),
        "{\n  \"library\": \"L\",\n  \"revision\": 7,\n  \"settings\": {\n    \"A\": \"Text\",\n    \"B\": {\"type\": \"Text\", \"secret\": true}\n  }\n}\n"
    );
    let app = Sources::new([file("a.yaml", "app: A\n")]);
    assert_eq!(bundle(&app, 1), None);
}

const SUPPORT: &str = r#"
app: Support
entities:
  Ticket:
    public: true
    stored_as: Case
    attributes:
      Title: { type: Text, stored_as: Name }
      State: State Identifier
      Owner: Person Identifier
  State: { public: true, static: true, records: { Open: {}, Closed: {} } }
  Person: { attributes: { Name: Text } }
service_actions:
  Close: { inputs: { Ticket: { type: Ticket Identifier, mandatory: true } } }
"#;

const DESK: &str = r#"
app: Desk
entities:
  Note: { attributes: { Ticket: Support.Ticket Identifier, Text: Text } }
rest:
  A:
    methods:
      Open:
        outputs: { Titles: Text, Notes: Integer }
        flow:
          - aggregate:
              - Support.Ticket
              - { entity: Note, join: left, on: Note.Ticket = Ticket.Id }
            where: Ticket.State = Entities.Support.State.Open
            max: 10
            name: Found
          - for_each: Found.List
            as: Row
            do:
              - assign: { Titles: Titles + Row.Ticket.Title + ";", Notes: 'Notes + If(Row.Note.Text = "", 0, 1)' }
      One:
        inputs: { Id: Support.Ticket Identifier }
        outputs: { Title: Text }
        flow:
          - get: Support.Ticket
            id: Id
          - sql: SELECT {Support.Ticket}.[Title] FROM {Support.Ticket} WHERE [Id] = @Id
            parameters: { Id: Id }
            output: Only
          - assign: { Title: GetTicket.Record.Title }
structures:
  Only: { attributes: { Title: Text } }
"#;

fn desk(app: &str) -> Sources {
    let public = check(&Sources::new([file("support.yaml", SUPPORT)])).interface.public;
    let mut reference = serde_json::to_value(&public).unwrap();
    reference["reference"] = "Support".into();
    Sources::new([file("app.yaml", app), file("references/Support.json", &reference.to_string())])
}

#[test]
fn a_public_entity_of_another_app_is_read_through_a_view() {
    let support = check(&Sources::new([file("support.yaml", SUPPORT)]));
    assert_eq!(
        serde_json::to_value(&support.interface.public).unwrap(),
        serde_json::json!({
            "service_actions": { "Close": { "inputs": { "Ticket": { "type": "Ticket Identifier", "mandatory": true } } } },
            "entities": {
                "Ticket": { "attributes": {
                    "Title": { "type": "Text" },
                    "State": { "type": "State Identifier" },
                    "Owner": { "type": "Long Integer" },
                } },
                "State": { "static": true, "records": { "Open": { "Id": 1 }, "Closed": { "Id": 2 } } },
            },
        })
    );
    let columns = &support.schema.public.iter().find(|table| table.name == "Ticket").unwrap().columns;
    assert_eq!(columns[1], ("Title".to_owned(), "Name".to_owned()));

    let checked = check(&desk(DESK));
    assert_eq!(checked.problems, []);
    assert_eq!(checked.schema.tables.len(), 1, "others' tables are theirs");
    let note = &checked.schema.tables[0];
    assert!(note.foreign_keys.is_empty() && note.indexes.len() == 1, "{note:?}");
    let views: Vec<&str> = checked.schema.foreign.iter().map(|table| table.view.as_str()).collect();
    assert_eq!(views, ["Support.State", "Support.Ticket"]);
    // The owner is of an entity that nobody else sees: a number here, and never NULL.
    let identifiers = checked.schema.foreign[1].identifiers.as_deref();
    assert_eq!(identifiers, Some(&["Id".to_owned(), "State".to_owned()][..]));
    let used = &checked.interface.uses["Support"];
    assert_eq!(used.entities.keys().collect::<Vec<_>>(), ["State", "Ticket"]);
    assert_eq!(odeon_compiler::conflicts(used, &support.interface.public), []);

    let app = App::start(&desk(DESK));
    app.script.lock().unwrap().answers =
        [Answer::Rows(vec![text("lamp"), text(""), text("desk"), text("by the window")])].into();
    assert_eq!(app.get("/Desk/rest/A/Open").body, r#"{"Titles":"lamp;desk;","Notes":1}"#);
    assert!(app.seen()[0].contains(r#"FROM "Support.Ticket" AS "Ticket""#), "{:?}", app.seen());
    assert!(app.seen()[0].contains(r#""Ticket"."State""#), "{:?}", app.seen());

    let app = App::start(&desk(DESK));
    app.script.lock().unwrap().answers =
        [Answer::Rows(vec![long(7), long(2), long(1), text("lamp")]), Answer::Table(1, vec![text("lamp")])]
            .into();
    assert_eq!(app.get("/Desk/rest/A/One?Id=7").body, r#""lamp""#, "{:?}", app.seen());
    assert!(
        app.seen()[1].contains(r#"SELECT "Support.Ticket"."Title" FROM "Support.Ticket""#),
        "{:?}",
        app.seen()
    );
}

#[test]
fn views_of_long_names_stay_apart() {
    let long = |last: &str| format!("{}{last}", "E".repeat(48));
    let reference =
        serde_json::json!({ "reference": "A".repeat(30), "entities": { long("a"): {}, long("b"): {} } });
    let app = format!(
        "app: T\nactions:\n  L:\n    flow:\n      - {{ list: {0}.{1}, name: X, max: 1 }}\n      - {{ list: {0}.{2}, name: Y, max: 1 }}\n",
        "A".repeat(30),
        long("a"),
        long("b")
    );
    let foreign =
        check(&Sources::new([file("a.yaml", &app), file("r.json", &reference.to_string())])).schema.foreign;
    assert!(foreign.len() == 2 && foreign[0].view != foreign[1].view, "{foreign:?}");
    assert!(foreign.iter().all(|table| table.view.len() <= 63), "{foreign:?}");
}

#[test]
fn rows_of_another_app_are_read_only() {
    let with = |node: &str| {
        desk(&format!(
            "app: Desk\nactions: {{ A: {{ inputs: {{ T: Support.Ticket }}, flow: [ {{ {node} }} ] }} }}\n"
        ))
    };
    refused(
        &with("create: Support.Ticket, record: T"),
        "the rows of `Support.Ticket` are `Support`'s to change",
    );
    refused(
        &with("delete: Support.Ticket, id: T.Id"),
        "the rows of `Support.Ticket` are `Support`'s to change",
    );
    refused(
        &with("get_for_update: Support.Ticket, id: T.Id"),
        "the rows of `Support.Ticket` are `Support`'s to change",
    );
    refused(&with("list: Support.Person"), "there is no entity `Support.Person`");
    refused(
        &desk(
            "app: Desk\nentities: { N: { attributes: { T: { type: Support.Ticket Identifier, delete_rule: Delete } } } }\n",
        ),
        "the rows of `Support.Ticket` are not this app's",
    );
}

#[test]
fn a_record_needs_no_structure() {
    let app = App::start(&Sources::new([file(
        "app.yaml",
        r#"
app: T
structures: { Point: { attributes: { X: Integer, Y: Integer } } }
actions:
  Far: { function: true, inputs: { P: Point }, outputs: { Far: Boolean }, flow: [ assign: { Far: P.X + P.Y > 9 } ] }
rest:
  A:
    methods:
      Run:
        outputs:
          Points: { type: Record List, attributes: { At: { type: Record, attributes: { X: Integer, Y: Integer } }, Far: Boolean } }
        locals:
          One: { type: Record, attributes: { At: { type: Record, attributes: { X: Integer, Y: Integer } }, Far: Boolean } }
          P: Point
        flow:
          - assign: { One.At.X: 4, One.At.Y: 5, One.Far: Far(One.At) }
          - list_append: Points
            element: One
          - assign: { P.X: 10, One.At: P, One.Far: Far(One.At) }
          - list_append: Points
            element: One
"#,
    )]));
    assert_eq!(
        app.get("/T/rest/A/Run").body,
        r#"[{"At":{"X":4,"Y":5},"Far":false},{"At":{"X":10,"Y":0},"Far":true}]"#
    );
    let project = |declared: &str| {
        Sources::new([file(
            "a.yaml",
            &format!("app: T\nactions: {{ A: {{ locals: {{ L: {declared} }} }} }}\n"),
        )])
    };
    refused(&project("{ type: Record }"), "the record `L` has no `attributes`");
    refused(
        &project("{ type: Text, attributes: { A: Text } }"),
        "`Text` is no record, so it has no `attributes`",
    );
    let other = "app: T\nstructures: { S: { attributes: { B: Text } } }\nactions: { A: { locals: { S: S, L: { type: Record, attributes: { A: Text } } }, flow: [ assign: { L: S } ] } }\n";
    let checked = check(&Sources::new([file("a.yaml", other)]));
    assert!(
        checked.problems.iter().any(|p| p.severity == Severity::Error && p.code == "OML0202"),
        "{:?}",
        checked.problems
    );
}
