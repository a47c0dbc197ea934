//! Compiled apps, run: expressions, decimals, flows, JSON, routing and the SQL they send.
//!
//! Not tested here: what PostgreSQL makes of the SQL, and the host's limits.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

#[path = "execution/builtins.rs"]
mod builtins;
#[path = "execution/consumed.rs"]
mod consumed;
#[path = "execution/flows.rs"]
mod flows;
#[path = "execution/growth.rs"]
mod growth;
mod harness;
#[path = "execution/keys.rs"]
mod keys;
#[path = "execution/libraries.rs"]
mod libraries;
#[path = "execution/loops.rs"]
mod loops;
#[path = "execution/others.rs"]
mod others;
#[path = "execution/rest.rs"]
mod rest;
#[path = "execution/roles.rs"]
mod roles;
#[path = "execution/traps.rs"]
mod traps;

use harness::{Answer, App, Reply, long, sources, text, value};
use wasmtime::component::Val;

/// An app with one method `Run` that assigns `expr` to its output.
#[track_caller]
fn evaluate(ty: &str, expr: &str) -> Reply {
    let quoted = expr.replace('\'', "''");
    let app = App::start(&sources(&format!(
        "app: T\nrest:\n  A:\n    methods:\n      Run:\n        inputs: {{ N: Integer, S: Text, D: Currency }}\n        outputs: {{ Out: {ty} }}\n        flow:\n          - assign: {{ Out: '{quoted}' }}\n"
    )));
    app.get("/T/rest/A/Run?N=7&S=Caf%C3%A9+x&D=2.50")
}

#[track_caller]
fn gives(ty: &str, expr: &str, expected: &str) {
    let reply = evaluate(ty, expr);
    assert_eq!((reply.status, reply.body.as_str()), (200, expected), "{expr}");
}

#[test]
fn numbers_follow_precedence_and_are_exact() {
    gives("Integer", "1 + 2 * 3 - -4", "11");
    gives("Integer", "(1 + 2) * N", "21");
    gives("Decimal", "0.1 + 0.2", "0.3");
    gives("Decimal", "10 / 4", "2.5");
    gives("Decimal", "1 / 3", "0.33333333");
    gives("Currency", "D * 3 + N", "14.5");
    gives("Integer", "D * 3", "7");
    gives("Long Integer", "9223372036854775807", "9223372036854775807");
    gives("Decimal", "-D", "-2.5");
    gives("Decimal", "Round(2.345, 2)", "2.34");
}

#[test]
fn what_does_not_fit_is_an_exception_and_never_a_wrong_number() {
    for (ty, expr, message) in [
        ("Integer", "2147483647 + N", "Integer overflow"),
        ("Long Integer", "9223372036854775807 + 1", "Long Integer overflow"),
        ("Decimal", "79228162514264337593543950336 + D", "Decimal overflow"),
        ("Decimal", "1 / (N - 7)", "Division by zero"),
    ] {
        let reply = evaluate(ty, expr);
        assert_eq!(reply.status, 500, "{expr}");
        assert!(reply.body.contains(message), "{}", reply.body);
    }
}

#[test]
fn text_compares_without_case_and_accents() {
    gives("Boolean", r#"S = "CAFE X""#, "true");
    gives("Boolean", r#"S <> "cafe""#, "true");
    gives("Text", r#""a" + N + "b" + D + True"#, r#""a7b2.5True""#);
    gives("Integer", "Length(S)", "6");
    gives("Text", "ToUpper(Substr(S, 0, 4))", "\"CAFÉ\"");
    gives("Text", r#"If(N > 5 and not (D = 1), "yes", "no")"#, "\"yes\"");
    gives("Boolean", "N = 7 or 1 / 0 > 1", "true"); // the right side is not reached
}

#[test]
fn dates_convert_and_compare() {
    gives("Date", "NewDate(2024, 2, 29)", "\"2024-02-29\"");
    gives("Date Time", "AddDays(#2024-02-28#, 2)", "\"2024-03-01T00:00:00Z\"");
    gives("Boolean", "#2024-01-01# < #2024-01-01 00:00:01#", "true");
    gives("Integer", "DiffDays(#2024-01-01#, #2025-01-01#)", "366");
    gives("Text", "DateTimeToText(#2024-01-01 10:20:30#)", "\"2024-01-01 10:20:30\"");
    gives("Boolean", "CurrDateTime() > #2020-01-01#", "true");
}

const ORDERS: &str = r#"
app: Orders
structures:
  Line:
    attributes:
      Item: { type: Text, mandatory: true }
      Price: Currency
      Count: { type: Integer, default: 1 }
      Due: Date
      Tags: Text List
  Order:
    attributes: { Lines: { type: Line List, mandatory: true }, Note: Text }
  Sum:
    attributes: { Total: Currency, Names: Text List, Last: Line }
actions:
  Price:
    inputs: { Line: { type: Line, mandatory: true }, Factor: { type: Decimal, default: 2 } }
    outputs: { Price: Currency }
    flow:
      - assign: { Price: Line.Price * Line.Count * Factor, Line.Price: 0 }
  Factorial:
    inputs: { N: Integer }
    outputs: { Out: Long Integer }
    flow:
      - if: N <= 1
        then:
          - assign: { Out: 1 }
          - return
      - call: Factorial
        name: Less
        with: { N: N - 1 }
      - assign: { Out: Less.Out * N }
rest:
  Api:
    methods:
      Sum:
        verb: POST
        inputs: { Order: { type: Order, mandatory: true } }
        outputs: { Sum: Sum }
        flow:
          - for_each: Order.Lines
            as: Line
            do:
              - call: Price
                name: P
                with: { Line: Line, Factor: 1 }
              - assign: { Sum.Total: Sum.Total + P.Price, Sum.Last: Line }
              - list_append: Sum.Names
                element: Line.Item
      Echo:
        verb: PUT
        path: /Echo/{Id}/{Name}
        inputs:
          Id: Long Integer
          Name: Text
          Flag: { type: Boolean, mandatory: true }
          X-Token: Text
          Lines: Line List
        outputs: { Id: Long Integer, Name: Text, Lines: Line List }
        flow:
          - assign: { Id: Id, Name: Name }
      Factorial:
        path: /Factorial/{N}
        inputs: { N: Integer }
        outputs: { Out: Long Integer }
        flow:
          - call: Factorial
            name: F
            with: { N: N }
          - assign: { Out: F.Out }
      At:
        inputs: { N: Integer }
        outputs: { Out: Text }
        locals: { Words: Text List, Lines: Line List, Line: Line }
        flow:
          - list_append: Words
            element: '"zero"'
          - list_append: Lines
            element: Line
          - assign: { 'Lines[0].Item': 'Words[N]', Out: 'Lines[0].Item + Lines.Length' }
"#;

fn orders() -> App {
    // The names of header inputs and the clash of inputs with outputs are left to other tests.
    App::start(&sources(
        &ORDERS
            .replace("          X-Token: Text\n", "")
            .replace(
                "{ Id: Long Integer, Name: Text, Lines: Line List }",
                "{ OutId: Long Integer, OutName: Text, Out: Line List }",
            )
            .replace("assign: { Id: Id, Name: Name }", "assign: { OutId: Id, OutName: Name, Out: Lines }"),
    ))
}

#[test]
fn records_and_lists_are_values_through_calls_and_loops() {
    let app = orders();
    let body = r#"{"Lines":[{"Item":"a","Price":1.10},{"Item":"b \u00e9","Price":2,"Count":3,"Tags":["x","y"]}],"Other":[1,{"a":null}]}"#;
    let reply = app.send("POST", "/Orders/rest/Api/Sum", body);
    assert_eq!(
        reply.body,
        r#"{"Total":7.1,"Names":["a","b é"],"Last":{"Item":"b é","Price":2,"Count":3,"Due":"1900-01-01","Tags":["x","y"]}}"#
    );
    assert_eq!(app.seen(), ["commit"]);
    assert_eq!(app.get("/Orders/rest/Api/Factorial/20").body, "2432902008176640000");
    assert_eq!(app.get("/Orders/rest/Api/At?N=0").body, "\"zero1\"");
    let reply = app.get("/Orders/rest/Api/At?N=1");
    assert_eq!(reply.status, 500);
    assert!(reply.body.contains("Index 1 is out of range"), "{}", reply.body);
}

#[test]
fn bad_requests_are_refused_with_every_problem() {
    let app = orders();
    let sum = |body: &str| app.send("POST", "/Orders/rest/Api/Sum", body);
    let reply = sum(r#"{"Lines":[{"Price":"x","Count":1.5,"Due":"2024-02-30"}]}"#);
    assert_eq!(reply.status, 400);
    assert_eq!(
        reply.body,
        r#"{"Errors":["Lines[0].Price: expected a decimal number","Lines[0].Count: expected an integer of 32 bits","Lines[0].Due: expected a date (yyyy-MM-dd)","Lines[0].Item: required"],"StatusCode":400,"errorCode":"OS-BERT-50000","requestId":"r-1"}"#
    );
    for bad in ["{", "[]x", "{\"Lines\":[}", "nul", "{\"a\":\"\\ud800\"}", &"[".repeat(5000)] {
        assert_eq!(sum(bad).status, 400, "{bad}");
    }
    assert!(sum("").body.contains("The request body: required"));
    let reply = app.send("PUT", "/Orders/rest/Api/Echo/x/y", "");
    assert!(
        reply.body.contains(r#""Id: expected an integer of 64 bits","Flag: required""#),
        "{}",
        reply.body
    );
}

#[test]
fn requests_find_their_method() {
    let app = orders();
    let reply = app.send("PUT", "/Orders/rest/Api/Echo/12/a%20%2Fb?Flag=true", r#"[{"Item":"i"}]"#);
    assert_eq!(
        reply.body,
        r#"{"OutId":12,"OutName":"a /b","Out":[{"Item":"i","Price":0,"Count":1,"Due":"1900-01-01","Tags":[]}]}"#
    );
    for path in ["/Orders/rest/Api/None", "/Orders/rest/Other/Sum", "/Orders", "/Orders/rest/Api/Sum/x", "/"]
    {
        assert_eq!(app.get(path).status, 404, "{path}");
    }
    let reply = app.get("/Orders/rest/Api/Sum");
    assert_eq!((reply.status, reply.allow.as_deref()), (405, Some("POST")));
}

#[test]
fn head_gets_the_head_of_get_and_no_body() {
    let app = orders();
    for path in ["/Orders/rest/Api/Factorial/20", "/Orders/rest/Api/Factorial/x", "/Orders/rest/Api/None"] {
        let (get, head) = (app.get(path), app.send("HEAD", path, ""));
        assert_eq!((head.status, head.length), (get.status, get.length), "{path}");
        assert_eq!(head.body, "", "{path}");
    }
    let reply = app.send("HEAD", "/Orders/rest/Api/Sum", "");
    assert_eq!((reply.status, reply.allow.as_deref()), (405, Some("POST")));
    let reply = app.send("POST", "/Orders/rest/Api/At", "");
    assert_eq!((reply.status, reply.allow.as_deref()), (405, Some("GET, HEAD")));
}

#[test]
fn headers_are_read_by_their_http_name() {
    let app = App::start(&sources(
        "app: T\nrest:\n  A:\n    methods:\n      M:\n        inputs:\n          Tenant: { type: Integer, mandatory: true, header: X-Tenant }\n          Trace: { type: Text, in: header }\n        outputs: { Out: Text }\n        flow:\n          - assign: { Out: 'Tenant + Trace' }\n",
    ));
    let get = |headers: &[(&str, &str)]| app.send_with("GET", "/T/rest/A/M", headers, "");
    assert_eq!(get(&[("x-tenant", "7"), ("trace", "t")]).body, "\"7t\"");
    let reply = get(&[("tenant", "7")]);
    assert!(reply.body.contains(r#"{"Errors":["X-Tenant: required"],"StatusCode":400"#), "{}", reply.body);
    let reply = get(&[("X-Tenant", "x")]);
    assert!(reply.body.contains("X-Tenant: expected an integer of 32 bits"), "{}", reply.body);
}

const PEOPLE: &str = r#"
app: People
entities:
  Team: { attributes: { Name: Text } }
  Person:
    attributes:
      Name: { type: Text, length: 4, mandatory: true }
      Mail: Email
      Team: { type: Team Identifier, mandatory: true }
      Born: { type: Date, mandatory: true }
      Age: { type: Integer, mandatory: true }
structures:
  Note: { attributes: { Text: { type: Text, length: 3 } } }
rest:
  Api:
    methods:
      Add:
        verb: POST
        inputs: { Name: Text, Team: Long Integer, Mail: Email, Born: Date }
        locals: { P: Person }
        flow:
          - assign:
              P.Name: Name
              P.Mail: Mail
              P.Team: LongIntegerToIdentifier(Team)
              P.Born: Born
          - create: Person
            record: P
      Put:
        verb: PUT
        inputs: { Person: Person }
        flow:
          - update: Person
            record: Person
      Note:
        verb: POST
        inputs: { Note: Note }
"#;

#[test]
fn entity_actions_refuse_what_is_too_long_or_missing() {
    let app = App::start(&sources(PEOPLE));
    let add = |query: &str| app.send("POST", &format!("/People/rest/Api/Add?{query}"), "");
    app.answers([Answer::Rows(vec![long(1)])]);
    assert_eq!(add("Name=%C3%84%C3%B6%C3%BC%C3%9F&Team=1&Born=2000-01-01").status, 200); // characters, not bytes
    app.answers([]);
    let reply = add("");
    assert_eq!(reply.status, 500);
    assert!(
        reply.body.contains(
            r#"["Database exception: Person.Name must not be empty; Person.Team must not be empty; Person.Born must not be empty"]"#
        ),
        "{}",
        reply.body
    );
    assert_eq!(app.seen(), ["rollback"]); // nothing reached the database
    let mail = format!("{}@example.org", "m".repeat(250));
    let reply = add(&format!("Name=Maria&Team=1&Born=2000-01-01&Mail={mail}"));
    assert!(
        reply.body.contains(
            r#"["Database exception: Person.Name holds 4 characters at most, not 5; Person.Mail holds 250 characters at most, not 262"]"#
        ),
        "{}",
        reply.body
    );
    assert!(
        app.script.lock().unwrap().logged[1].contains(r#"action="Api.Add" node="CreatePerson""#),
        "{:?}",
        app.script.lock().unwrap().logged
    );
}

#[test]
fn a_body_that_is_too_long_for_its_attribute_is_a_bad_request() {
    let app = App::start(&sources(PEOPLE));
    app.answers([]);
    let reply = app.send(
        "PUT",
        "/People/rest/Api/Put",
        r#"{"Id":1,"Name":"Maria","Team":1,"Born":"2000-01-01","Age":1}"#,
    );
    assert_eq!(reply.status, 400);
    assert!(reply.body.contains(r#"["Name: expected 4 characters at most"]"#), "{}", reply.body);
    // What the reader lets through, the entity's own check still sees.
    let reply =
        app.send("PUT", "/People/rest/Api/Put", r#"{"Id":1,"Name":"","Team":1,"Born":"2000-01-01","Age":0}"#);
    assert_eq!(reply.status, 500);
    assert!(
        reply.body.contains(r#"["Database exception: Person.Name must not be empty"]"#),
        "{}",
        reply.body
    );
    assert_eq!(app.send("POST", "/People/rest/Api/Note", r#"{"Text":"abc"}"#).status, 200);
    let reply = app.send("POST", "/People/rest/Api/Note", r#"{"Text":"abcd"}"#);
    assert!(reply.body.contains(r#"["Text: expected 3 characters at most"]"#), "{}", reply.body);
}

fn expenses() -> App {
    App::start(&expenses_sources())
}

fn expenses_sources() -> odeon_compiler::Sources {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../guest-examples/expenses");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).map(|path| {
        let text = std::fs::read_to_string(&path).unwrap();
        (path.file_name().unwrap().to_str().unwrap().to_owned(), text)
    });
    odeon_compiler::Sources::new(files.filter(|(name, _)| name.ends_with(".yaml")))
}

fn expense(id: i64, amount: &str, status: &str, category: Val) -> Vec<Val> {
    let decimal = value("decimal", Val::String(amount.into()));
    let (date, at) = (value("date", Val::S32(20_000)), value("timestamp", Val::S64(1_728_000_000_000_000)));
    vec![long(id), text("Taxi"), decimal, date, text(status), category, at]
}

const SELECT: &str =
    r#"SELECT "Id", "Description", "Amount", "SpentOn", "Status", "CategoryId", "CreatedAt" FROM "Expense""#;

#[test]
fn the_sample_lists_with_bound_filters() {
    let app = expenses();
    let rows = [
        expense(1, "12.50000000", "Draft", long(2)),
        expense(2, "-0.10", "Approved", Val::Variant("null".into(), None)),
    ];
    app.answers([Answer::Rows(rows.concat())]);
    let reply = app.get("/Expenses/rest/Expenses/List?Status=draft&CategoryId=2");
    assert_eq!(reply.status, 200, "{}", reply.body);
    assert_eq!(
        reply.body,
        r#"[{"Id":1,"Description":"Taxi","Amount":12.5,"SpentOn":"2024-10-04","Status":"Draft","CategoryId":2,"CreatedAt":"2024-10-04T00:00:00Z"},{"Id":2,"Description":"Taxi","Amount":-0.1,"SpentOn":"2024-10-04","Status":"Approved","CategoryId":0,"CreatedAt":"2024-10-04T00:00:00Z"}]"#
    );
    let filter = r#"(($1::boolean OR ("Expense"."Status" = $2::text)) AND ($3::boolean OR (("Expense"."CategoryId" IS NOT NULL AND $4::int8 IS NOT NULL AND "Expense"."CategoryId" = $4::int8 OR "Expense"."CategoryId" IS NULL AND $4::int8 IS NULL))))"#;
    assert_eq!(
        app.seen(),
        [
            format!(
                r#"query: {SELECT} WHERE {filter} ORDER BY "SpentOn" DESC, "Id" DESC, "Id" LIMIT NULLIF(GREATEST($5::int4, 0), 0) OFFSET GREATEST($6::int4, 0) [boolean(false), text("draft"), boolean(false), int64(2), int32(50), int32(0)]"#
            ),
            "commit".to_owned()
        ]
    );
}

#[test]
fn the_sample_refuses_to_approve_what_is_over_the_limit() {
    let app = expenses();
    app.answers([Answer::Rows(expense(1, "1000.01", "Draft", long(1)))]);
    let reply = app.send("POST", "/Expenses/rest/Expenses/Approve/1", "");
    assert_eq!(reply.status, 400);
    assert_eq!(
        reply.body,
        r#"{"Errors":["The amount 1000.01 is over the limit of 1000"],"StatusCode":400,"errorCode":"OS-BERT-50000","requestId":"r-1"}"#
    );
    assert_eq!(app.seen().last().map(String::as_str), Some("rollback"));
    assert_eq!(
        app.script.lock().unwrap().logged,
        [
            r#"warning "The amount 1000.01 is over the limit of 1000" action="ApproveExpense" node="RefuseAmount""#
        ]
    );

    app.answers([Answer::Rows(expense(1, "1000", "Draft", long(1))), Answer::Touched(1)]);
    let reply = app.send("POST", "/Expenses/rest/Expenses/Approve/1", "");
    assert!(reply.body.contains(r#""Status":"Approved""#), "{}", reply.body);
    let seen = app.seen();
    assert!(
        seen[1]
            .starts_with(r#"execute: UPDATE "Expense" SET "Description" = $1::text, "Amount" = $2::numeric"#)
    );
    assert!(seen[1].contains(r#"text("Approved")"#), "{}", seen[1]);
    assert_eq!(seen[2], "commit");

    app.answers([Answer::Rows(vec![])]);
    assert_eq!(app.send("POST", "/Expenses/rest/Expenses/Approve/9", "").status, 404);
}

#[test]
fn the_sample_creates_after_validation() {
    let app = expenses();
    let create = |body: &str| app.send("POST", "/Expenses/rest/Expenses/Create", body);
    app.answers([]);
    assert!(
        create(r#"{"Description":"x","Amount":-1,"CategoryId":1}"#)
            .body
            .contains("Amount must be greater than 0, not -1")
    );
    assert!(create(r#"{"Description":"x","Amount":"a"}"#).body.contains("Amount: expected a decimal number"));
    app.answers([Answer::Rows(vec![long(1)]), Answer::Rows(vec![long(41)])]);
    let reply = create(r#"{"Description":" Taxi ","Amount":12.345,"CategoryId":1,"SpentOn":"2026-11-23"}"#);
    assert_eq!((reply.status, reply.body.as_str()), (200, r#"{"Id":41}"#));
    let insert = &app.seen()[1];
    assert!(
        insert.contains(
            r#"[text("Taxi"), decimal("12.345"), date(20780), text("Draft"), int64(1), timestamp("#
        ),
        "{insert}"
    );
    assert!(insert.ends_with(")]"));

    app.answers([Answer::Fails("unavailable", "no connection")]);
    let reply = create(r#"{"Description":"Taxi","Amount":1,"CategoryId":1}"#);
    assert_eq!(reply.status, 503);
    assert!(app.script.lock().unwrap().logged[0].contains(r#"error "Database exception: the database is not available: no connection" action="CheckExpense" node="Known""#));
}

#[test]
fn the_sample_totals_in_exact_decimals() {
    let app = expenses();
    // Only what is used is fetched.
    let category = |id, label| vec![long(id), text(label)];
    let expense = |amount: &str, category| vec![value("decimal", Val::String(amount.into())), long(category)];
    let rows = [expense("0.10", 1), expense("0.20", 1), expense("7", 2)];
    app.answers([
        Answer::Rows([category(1, "Travel"), category(2, "Meals")].concat()),
        Answer::Rows(rows.concat()),
    ]);
    let reply = app.get("/Expenses/rest/Expenses/Totals");
    assert_eq!(
        reply.body,
        r#"[{"Category":"Travel","Count":2,"Total":0.3},{"Category":"Meals","Count":1,"Total":7}]"#
    );
}

#[test]
fn the_same_sources_give_the_same_bytes() {
    let first = harness::build(&expenses_sources());
    assert_eq!(first, harness::build(&expenses_sources()));
    let (mut files, text) =
        (Vec::new(), std::fs::read_to_string("../../guest-examples/expenses/app.yaml").unwrap());
    files.push(("b.yaml".to_owned(), text));
    for name in ["actions", "data", "rest"] {
        let text = std::fs::read_to_string(format!("../../guest-examples/expenses/{name}.yaml")).unwrap();
        files.push((format!("{name}.yaml"), text));
    }
    let forward = harness::build(&odeon_compiler::Sources::new(files.clone()));
    files.reverse();
    assert_eq!(forward, harness::build(&odeon_compiler::Sources::new(files)));
    let start = std::time::Instant::now();
    harness::build(&expenses_sources());
    eprintln!("expenses: {} bytes, compiled in {:?}", first.len(), start.elapsed());
}

#[test]
fn settings_are_what_the_stage_says_or_the_default() {
    let app = App::start(&sources(
        "app: S\nsettings:\n  Limit: { type: Currency, default: 99.5 }\n  Name: Text\n  From: { type: Date, default: 2024-02-29 }\n  Count: Long Integer\n  Token: { type: Text, secret: true }\nrest:\n  A:\n    methods:\n      M:\n        outputs: { Out: Text }\n        flow:\n          - assign: { Out: 'Settings.Limit * 2 + \";\" + Settings.Name + \";\" + DateToText(Settings.From) + \";\" + (Settings.Count + 1) + Settings.Token' }\n",
    ));
    assert_eq!(app.get("/S/rest/A/M").body, r#""199;;2024-02-29;1""#);
    let set = [("Limit", "0.25"), ("Name", "n"), ("From", "2025-01-01"), ("Count", "7"), ("Token", "t")];
    app.script.lock().unwrap().settings = set.to_vec();
    assert_eq!(app.get("/S/rest/A/M").body, r#""0.5;n;2025-01-01;8t""#);
    app.script.lock().unwrap().settings = vec![("Limit", "much"), ("Count", "1.5")]; // of another revision
    assert_eq!(app.get("/S/rest/A/M").body, r#""199;;2024-02-29;1""#);
}
