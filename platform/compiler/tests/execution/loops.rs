//! Loops free what an iteration leaves behind, and nothing that is read again.
//!
//! Every instance has 12 MB. Most bodies make 80 kB of garbage at a time, so that a loop that frees does so
//! in every iteration, and one that must not free and does reads zeros where it had written.

use crate::harness::{Answer, App, Reply, long, sources, text};
use wasmtime::component::Val;

/// An app whose method runs `flow` over `Rows`, with 80,000 characters in `Big`.
fn app(flow: &str) -> App {
    let indented = flow.lines().map(|line| format!("          {line}\n")).collect::<String>();
    App::start(&sources(&format!(
        r#"
app: L
entities:
  E: {{ attributes: {{ Name: Text }} }}
structures:
  Row: {{ attributes: {{ Name: Text, Amount: Currency, In: Inner }} }}
  Inner: {{ attributes: {{ Text: Text, Sum: Currency }} }}
  Out: {{ attributes: {{ Text: Text, Other: Text, Sum: Currency, Count: Integer, Row: Row, Names: Text List, Rows: Row List }} }}
actions:
  Shout:
    inputs: {{ Name: Text, Big: Text }}
    outputs: {{ Loud: Text, Row: Row }}
    flow:
      - if: Length(Big + Name) > 0
        then:
          - assign: {{ Loud: ToUpper(Name), Row.Name: Name + "!", Row.In.Text: Big }}
rest:
  A:
    methods:
      Run:
        verb: POST
        inputs: {{ Rows: Row List }}
        outputs: {{ Out: Out }}
        locals: {{ Big: {{ type: Text, default: "0123456789" }}, I: Integer, Scratch: Row, Texts: Text List, X: Text }}
        flow:
          - assign: {{ Big: Big + Big + Big + Big + Big + Big + Big + Big + Big + Big }}
          - assign: {{ Big: Big + Big + Big + Big + Big + Big + Big + Big + Big + Big }}
          - assign: {{ Big: Big + Big + Big + Big + Big + Big + Big + Big + Big + Big }}
          - assign: {{ Big: Big + Big + Big + Big + Big + Big + Big + Big }}
{indented}"#
    )
    .replace("Name + \"!\"", "'Name + \"!\"'")
    .replace("default: \"0123456789\"", "default: '0123456789'")))
}

/// Runs over `count` rows, named n0, n1, … with the amounts 0.5, 1.5, …
fn run(app: &App, count: usize) -> Reply {
    let rows: Vec<String> = (0..count).map(|i| format!(r#"{{"Name":"n{i}","Amount":{i}.5}}"#)).collect();
    app.send("POST", "/L/rest/A/Run", &format!("[{}]", rows.join(",")))
}

/// The attributes of the output that are asked for.
#[track_caller]
fn gives(app: &App, count: usize, expected: &[(&str, &str)]) {
    let reply = run(app, count);
    assert_eq!(reply.status, 200, "{}", reply.body);
    let out: serde_json::Value = serde_json::from_str(&reply.body).unwrap();
    for (key, value) in expected {
        assert_eq!(out[key].to_string(), *value, "{key}");
    }
}

#[test]
fn a_loop_frees_what_it_leaves_behind_and_keeps_sums_and_texts() {
    // 700 times 80 kB of text for the call alone: 56 MB.
    let app = app(r#"
- for_each: Rows
  as: Row
  do:
    - call: Shout
      name: S
      with: { Name: Row.Name, Big: Big }
    - assign:
        Out.Sum: Out.Sum + Row.Amount
        Out.Count: Out.Count + 1
        Out.Row.In.Sum: Out.Row.In.Sum + Row.Amount + 1
        X: 'X + If(Out.Count < 4, S.Loud + S.Row.Name, "")'
        Out.Text: 'Substr(S.Row.In.Text, 0, 3) + Row.Name'
        Out.Other: Out.Text
- assign: { Out.Row.Name: X }
"#);
    gives(
        &app,
        700,
        &[
            ("Sum", "245000"),
            ("Count", "700"),
            ("Text", "\"012n699\""),
            ("Other", "\"012n699\""),
            ("Row", r#"{"Amount":0,"In":{"Sum":245700,"Text":""},"Name":"N0n0!N1n1!N2n2!"}"#),
        ],
    );
}

#[test]
fn statements_in_a_loop_leave_nothing_behind() {
    let app = app(r#"
- for_each: Rows
  as: Row
  do:
    - list: E
      name: Found
      where: E.Name = Row.Name + Substr(Big, 0, 10)
    - for_each: Found.List
      as: One
      do:
        - assign: { One.Name: One.Name + Big, I: I + Length(One.Name) }
        - update: E
          record: One
    - assign: { Out.Text: 'Found.List[0].Name' }
- assign: { Out.Count: I, Out.Text: 'Substr(Out.Text, 0, 3)' }
"#);
    let found = |i: i64| Answer::Rows(vec![long(i), text("ab"), long(i + 1), text("c")]);
    let names = |_| Answer::Rows(vec![text("ab"), text("c")]);
    // The name is too long, so that the update fails: the statement itself is not what is tested.
    app.answers([found(1)]);
    let reply = run(&app, 1);
    assert!(reply.body.contains("E.Name holds 50 characters at most, not 80002"), "{}", reply.body);
    let app = self::app(
        r#"
- for_each: Rows
  as: Row
  do:
    - list: E
      name: Found
      where: E.Name = Row.Name + Big
    - assign: { I: I + Found.List.Length, Out.Text: 'Found.List[0].Name' }
- assign: { Out.Count: I }
"#,
    );
    app.answers((0..700).map(names));
    gives(&app, 700, &[("Count", "1400"), ("Text", "\"ab\"")]);
}

#[test]
fn loops_in_loops_keep_what_the_outer_one_reads() {
    let app = app(r#"
- for_each: Rows
  as: Row
  do:
    - call: Shout
      name: S
      with: { Name: Row.Name, Big: Big }
    - for_each: Rows
      as: Other
      do:
        - assign:
            X: Other.Name + Substr(Big, 0, 1000)
            S.Row.In.Sum: S.Row.In.Sum + Other.Amount
            Scratch.Name: Row.Name + Other.Name
    - assign: { Out.Sum: Out.Sum + S.Row.In.Sum, Out.Text: Scratch.Name + S.Row.Name }
- assign: { Out.Other: 'Substr(X, 0, 8)' }
"#);
    // Each inner loop sums 0.5 to 199.5.
    gives(&app, 200, &[("Sum", "4000000"), ("Text", "\"n199n199n199!\""), ("Other", "\"n1990123\"")]);
}

#[test]
fn what_outlives_its_iteration_is_not_freed() {
    // An output that is read in the next iteration, before it is written again.
    let app = app(r#"
- for_each: Rows
  as: Row
  do:
    - if: Out.Count = 2 or Out.Count = 7
      then:
        - call: Shout
          name: S
          with: { Name: Row.Name + Row.Name, Big: Big }
    - assign: { X: Big + Row.Name, Out.Count: Out.Count + 1, Out.Text: 'Out.Text + S.Loud + ","' }
"#);
    gives(&app, 10, &[("Text", "\",,N2N2,N2N2,N2N2,N2N2,N2N2,N7N7,N7N7,N7N7,\"")]);
    // An output that is read after the loop.
    let app = self::app(
        r#"
- for_each: Rows
  as: Row
  do:
    - call: Shout
      name: S
      with: { Name: Row.Name, Big: Big }
    - assign: { X: Big + Row.Name }
- for_each: Rows
  as: Row
  do:
    - assign: { X: Big + Row.Name }
- assign: { Out.Text: S.Row.Name, Out.Row: S.Row, Out.Row.In.Text: '""' }
"#,
    );
    gives(&app, 10, &[("Text", "\"n9!\""), ("Row", r#"{"Amount":0,"In":{"Sum":0,"Text":""},"Name":"n9!"}"#)]);
    // A list that grows, an element that is changed in its list, a whole record, an element of another list.
    let app = self::app(
        r#"
- list_append: Texts
  element: '"first"'
- for_each: Rows
  as: Row
  do:
    - assign: { X: Big + Row.Name }
    - list_append: Out.Names
      element: Row.Name + "+"
- for_each: Rows
  as: Row
  do:
    - assign: { X: Big + Row.Name, Row.Name: Row.Name + "*", Row.Amount: Row.Amount * 2 }
- for_each: Rows
  as: Row
  do:
    - assign: { X: Big + Row.Name, Scratch: Row, Scratch.In.Text: Row.Name + "?" }
- for_each: Rows
  as: Row
  do:
    - assign: { X: Big + Row.Name, 'Texts[0]': 'Texts[0] + Row.Name' }
- assign: { Out.Rows: Rows, Out.Row: Scratch, Out.Text: 'Texts[0]' }
"#,
    );
    gives(
        &app,
        3,
        &[
            ("Names", r#"["n0+","n1+","n2+"]"#),
            ("Row", r#"{"Amount":5,"In":{"Sum":0,"Text":"n2*?"},"Name":"n2*"}"#),
            ("Text", "\"firstn0*n1*n2*\""),
            (
                "Rows",
                r#"[{"Amount":1,"In":{"Sum":0,"Text":""},"Name":"n0*"},{"Amount":3,"In":{"Sum":0,"Text":""},"Name":"n1*"},{"Amount":5,"In":{"Sum":0,"Text":""},"Name":"n2*"}]"#,
            ),
        ],
    );
}

#[test]
fn a_kept_value_that_is_stored_elsewhere_keeps_the_loop_from_freeing() {
    let app = app(r#"
- for_each: Rows
  as: Row
  do:
    - assign: { X: 'X + Row.Name', Out.Other: Big + Row.Name }
    - assign: { Row.Name: X }
- assign: { Out.Rows: Rows, Out.Other: '""' }
"#);
    let names = |body: &str| {
        let out: serde_json::Value = serde_json::from_str(body).unwrap();
        out["Rows"].as_array().unwrap().iter().map(|r| r["Name"].as_str().unwrap().len()).collect::<Vec<_>>()
    };
    assert_eq!(names(&run(&app, 20).body)[..5], [2, 4, 6, 8, 10]);
}

#[test]
fn leaving_a_loop_early_keeps_what_was_written() {
    let app = app(r#"
- for_each: Rows
  as: Row
  do:
    - assign: { X: Big + Row.Name, Out.Text: 'Row.Name + "/" + Out.Text', Out.Sum: Out.Sum + Row.Amount }
    - if: Row.Amount > 4
      then:
        - return
"#);
    gives(&app, 900, &[("Text", "\"n4/n3/n2/n1/n0/\""), ("Sum", "12.5")]);
    let app = self::app(
        r#"
- for_each: Rows
  as: Row
  do:
    - assign: { X: Big + Row.Name }
    - if: Row.Amount > 500
      then:
        - raise: User
          message: '"stopped at " + Row.Name'
"#,
    );
    assert!(run(&app, 900).body.contains(r#"["stopped at n500"]"#));
    let app = self::app(
        "- assign: { X: Big }\n- get: E\n  id: 'LongIntegerToIdentifier(1)'\n- for_each: Rows\n  as: Row\n  do:\n    - assign: { X: Big + Row.Name, I: I + 1, Out.Sum: Out.Sum + 1 / (500 - I) }\n",
    );
    app.answers([Answer::Rows(vec![Val::Variant("null".into(), None), text("e")])]);
    assert_eq!(run(&app, 900).status, 500);
}

/// An app whose method runs this flow over the rows of `E`.
#[track_caller]
fn over_rows(flow: &str) -> App {
    let indented = flow.lines().map(|line| format!("          {line}\n")).collect::<String>();
    App::start(&sources(&format!(
        r#"
app: S
entities:
  E: {{ attributes: {{ Name: {{ type: Text, length: 20000 }}, N: Integer }} }}
structures:
  Pair: {{ attributes: {{ Name: Text }} }}
exceptions: {{ Stop: }}
actions:
  First:
    outputs: {{ Name: Text }}
    flow:
      - list: E
        name: Rows
        max: 0
      - for_each: Rows.List
        as: Row
        do:
          - assign: {{ Name: 'If(Row.N < 0, "", Row.Name)' }}
          - return
  Ends:
    flow: [ commit ]
  Sign:
    inputs: {{ Request: HTTPRequest }}
    outputs: {{ CustomizedRequest: HTTPRequest }}
    flow: [ assign: {{ CustomizedRequest: Request }}, call: Ends ]
consume:
  Far: {{ url: "https://far.example.com", methods: {{ Ping: {{}} }} }}
  Signed: {{ url: "https://far.example.com", on_before_request: Sign, methods: {{ Ping: {{}} }} }}
rest:
  A:
    methods:
      Run:
        inputs: {{ N: Integer }}
        outputs: {{ Out: Text, Sum: Long Integer }}
        locals: {{ Pairs: Pair List, P: Pair, Mine: E List }}
        flow:
{indented}"#
    )))
}

/// Batches of rows with names of 1,000 characters, numbered from 0.
fn batches(sizes: &[usize]) -> Answer {
    let mut number = 0;
    let mut row = || {
        number += 1;
        [text(&format!("{:>1000}", number - 1)), crate::harness::value("int32", Val::S32(number - 1))]
    };
    Answer::Batches(sizes.iter().map(|size| (0..*size).flat_map(|_| row()).collect()).collect())
}

#[test]
fn a_list_that_only_a_loop_reads_is_never_made() {
    // 40 batches of 500 kB each, in an instance that may have 12 MB.
    let app = over_rows(
        r#"
- list: E
  name: Rows
  where: E.N >= N
- assign: { Out: '"begin"' }
- for_each: Rows.List
  as: Row
  do:
    - if: Row.N = 3
      then: [ cycle ]
    - assign: { Row.Name: Row.Name + "!" }
    - assign: { Sum: Sum + Row.N, Out: 'Trim(Row.Name)' }
"#,
    );
    let mut sizes = vec![500; 40];
    sizes.push(7);
    app.answers([batches(&sizes)]);
    let reply = app.get("/S/rest/A/Run?N=5");
    let sum: i64 = (0..20_007).sum::<i64>() - 3;
    assert_eq!(reply.body, format!(r#"{{"Out":"20006!","Sum":{sum}}}"#));
    let seen = app.seen();
    assert_eq!(
        seen[0],
        r#"cursor: SELECT "Name", "N" FROM "E" WHERE ("E"."N" >= $1::int4) ORDER BY "Id" [int32(5)]"#
    );
    assert_eq!(seen[1..], ["commit"]);
    app.answers([batches(&[500])]); // exactly full: one more fetch says that there are no more
    assert!(app.get("/S/rest/A/Run").body.contains(r#""Out":"499!""#));
    app.answers([batches(&[])]);
    assert_eq!(app.get("/S/rest/A/Run").body, r#"{"Out":"begin","Sum":0}"#);
}

#[test]
fn cursors_are_closed_however_a_loop_ends() {
    // The fake refuses a name that is open already.
    let app = over_rows(
        r#"
- list: E
  name: Outer
- for_each: Outer.List
  as: Row
  do:
    - if: Row.N = 2 and Row.Name <> ""
      then: [ exit ]
    - call: First
    - call: First
      name: Again
    - list: E
      name: Inner
    - for_each: Inner.List
      as: Other
      do: [ assign: { Out: 'Out + If(Other.N < 0, "", Trim(Other.Name))' } ]
    - assign: { Out: Out + Trim(Again.Name) + ";" }
- try:
    - list: E
      name: Guarded
    - for_each: Guarded.List
      as: Row
      do: [ { raise: Stop, message: 'If(Row.N < 0, Row.Name, "stop")' } ]
  handlers:
    - exception: Stop
      abort_transaction: false
      do: [ assign: { Out: Out + ExceptionMessage } ]
- list: E
  name: Last
- for_each: Last.List
  as: Row
  do: [ assign: { Out: 'Out + If(Row.N < 0, "", Trim(Row.Name))' } ]
"#,
    );
    let two = || batches(&[2]);
    app.answers([batches(&[3]), two(), two(), two(), two(), two(), two(), two(), two()]);
    let reply = app.get("/S/rest/A/Run");
    assert_eq!(reply.body, r#"{"Out":"010;010;stop01","Sum":0}"#);
}

#[test]
fn a_list_is_made_where_more_than_one_loop_over_all_of_it_wants_it() {
    let whole = |flow: &str, kind: &str| {
        let app = over_rows(flow);
        app.answers([batches(&[1]), Answer::Rows(vec![long(1)])]);
        if kind == "query" {
            app.answers([
                Answer::Rows(vec![text("x"), crate::harness::value("int32", Val::S32(1))]),
                Answer::Rows(vec![long(1)]),
            ]);
        }
        app.script.lock().unwrap().others = [Ok((200, "text/plain", ""))].into();
        assert_eq!(app.get("/S/rest/A/Run").status, 200);
        assert!(app.seen()[0].starts_with(kind), "{flow}\n{:?}", app.seen());
    };
    let list = "- list: E\n  name: Rows\n";
    let each = "- for_each: Rows.List\n  as: Row\n  do: [ assign: { Out: Row.Name, Sum: Row.N } ]\n";
    whole(&format!("{list}{each}"), "cursor");
    whole(&format!("{list}- log: Rows.List.Length\n{each}"), "query");
    whole(&format!("{list}{each}{}", each.replace("Row", "Twice").replace("Twices", "Rows")), "query");
    whole(&format!("- list: E\n  name: Rows\n  max: 5\n{each}"), "query");
    whole(&format!("{list}- if: N = 0\n  then:\n    {}", each.replace('\n', "\n    ").trim_end()), "query");
    whole(&format!("{list}{}", each.replace("do: [", "do: [ commit,")), "query");
    whole(&format!("{list}{}", each.replace("do: [", "do: [ call: Ends,")), "query");
    whole(&format!("{list}- call: Ends\n{each}"), "query");
    whole(&format!("{list}{}", each.replace("do: [", "do: [ call: Far.Ping,")), "cursor");
    whole(&format!("{list}{}", each.replace("do: [", "do: [ call: Signed.Ping,")), "query");
    whole(&format!("{list}- assign: {{ Rows.List: Mine }}\n{each}"), "query");
    whole(&format!("{list}{each}- assign: {{ Rows.List: Mine }}\n"), "query");
    whole(&format!("{list}{}", each.replace("  as", "  max: 3\n  as")), "query");
}
