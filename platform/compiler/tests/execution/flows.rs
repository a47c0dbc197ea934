//! Flows: branches, loops, exceptions and their handlers, functions, JSON and list actions.

use crate::harness::{Answer, App, Reply, long, sources, text};
use wasmtime::component::Val;

/// An app whose method `Run` has this flow; `N` is its input, `Out` its output.
#[track_caller]
fn app(flow: &str) -> App {
    let flow = flow.lines().map(|line| format!("          {line}\n")).collect::<String>();
    App::start(&sources(&format!(
        r#"
app: F
entities:
  Item: {{ attributes: {{ Name: Text, Count: Integer }} }}
structures:
  Row: {{ attributes: {{ Name: Text, Amount: Decimal, Due: Date, In: Inner, Tags: Text List }} }}
  Inner: {{ attributes: {{ Flag: Boolean }} }}
exceptions:
  Late: {{ description: Too late. }}
  Broken:
actions:
  Double:
    function: true
    inputs: {{ Of: {{ type: Integer, mandatory: true }}, Plus: {{ type: Integer, default: 1 }} }}
    outputs: {{ Out: Integer }}
    flow:
      - assign: {{ Out: Of * 2 + Plus }}
  Fails:
    inputs: {{ How: Integer }}
    outputs: {{ Reached: Text }}
    flow:
      - assign: {{ Reached: '"before"' }}
      - switch:
          - when: How = 1
            do: [ {{ raise: Late, message: '"late"' }} ]
          - when: How = 2
            do: [ {{ raise: User, message: '"user"', status: 409 }} ]
          - when: How = 3
            do: [ {{ raise: NotRegistered, message: '"who?"' }} ]
          - when: How = 4
            do: [ {{ get: Item, id: NullIdentifier() }} ]
          - when: How = 5
            do: [ {{ assign: {{ Reached: 1 / (How - 5) }} }} ]
      - assign: {{ Reached: '"end"' }}
  Deep:
    inputs: {{ N: Integer }}
    outputs: {{ Out: Integer }}
    flow:
      - if: N > 0
        then:
          - call: Deeper
            with: {{ N: N }}
          - assign: {{ Out: Deeper.Out + 1 }}
  Deeper:
    inputs: {{ N: Integer }}
    outputs: {{ Out: Integer }}
    flow:
      - call: Deep
        with: {{ N: N - 1 }}
      - assign: {{ Out: Deep.Out }}
rest:
  A:
    methods:
      Run:
        inputs: {{ N: Integer }}
        outputs: {{ Out: Text }}
        locals: {{ I: Integer, Numbers: Integer List, Words: Text List, Rows: Row List, R: Row, S: Row, Stock: Item }}
        flow:
{flow}"#
    )))
}

fn run(app: &App, n: i32) -> Reply {
    app.get(&format!("/F/rest/A/Run?N={n}"))
}

#[track_caller]
fn gives(app: &App, n: i32, expected: &str) {
    let reply = run(app, n);
    assert_eq!((reply.status, reply.body.as_str()), (200, format!("\"{expected}\"").as_str()), "N = {n}");
}

#[test]
fn a_switch_takes_the_first_case_that_holds() {
    let app = app(r#"
- switch:
    - when: N > 100
      do: [ assign: { Out: '"large"' } ]
    - when: N > 10
      do: [ assign: { Out: '"medium"' } ]
    - when: 1 / N > 0
      do: [ assign: { Out: '"small"' } ]
  else:
    - assign: { Out: '"other"' }
- assign: { Out: Out + "!" }
"#);
    gives(&app, 101, "large!");
    gives(&app, 11, "medium!");
    gives(&app, 2, "small!");
    gives(&app, -1, "other!");
    assert_eq!(run(&app, 0).status, 500); // conditions are asked in order, and this one raises
}

#[test]
fn loops_have_limits_and_are_left_by_cycle_and_exit() {
    let numbers = r#"
- list_append: Numbers
  element: 1
- list_append: Numbers
  element: 2
- list_append: Numbers
  element: 3
- list_append: Numbers
  element: 4
- list_append: Numbers
  element: 5
"#;
    let app = self::app(&format!(
        r#"{numbers}
- for_each: Numbers
  as: A
  start: N
  max: 3
  do:
    - for_each: Numbers
      as: B
      do:
        - if: B = 2
          then: [ cycle ]
        - if: B = 4
          then: [ exit ]
        - assign: {{ Out: Out + B }}
    - if: A = 3
      then: [ cycle ]
    - assign: {{ Out: Out + "-" }}
"#
    ));
    gives(&app, 0, "13-13-13"); // elements 1, 2 and 3; the third is cut short
    gives(&app, -7, "13-13-13"); // from the first
    gives(&app, 3, "13-13-"); // 4 and 5
    gives(&app, 9, "");
    let app = self::app(&format!(
        "{numbers}\n- for_each: Numbers\n  as: A\n  max: N\n  do: [ assign: {{ I: I + A }} ]\n- assign: {{ Out: I }}"
    ));
    gives(&app, 0, "15"); // no limit
    gives(&app, 2, "3");
    gives(&app, i32::MAX, "15");
}

const HANDLED: &str = r#"
- try:
    - call: Fails
      with: { How: N }
    - assign: { Out: Fails.Reached }
  handlers:
    - exception: All
      do: [ assign: { Out: '"all: " + ExceptionMessage' } ]
    - exception: User
      do: [ assign: { Out: '"user: " + ExceptionMessage' } ]
    - exception: Late
      do: [ assign: { Out: '"late: " + ExceptionMessage' } ]
    - exception: Security
      log_error: false
      do: [ assign: { Out: '"security: " + ExceptionMessage' } ]
    - exception: Database
      do: [ assign: { Out: '"database: " + ExceptionMessage' } ]
- assign: { Out: 'Out + ", then"' }
"#;

#[test]
fn the_most_specific_handler_takes_an_exception_of_any_action_below() {
    let app = app(HANDLED);
    app.answers([]);
    gives(&app, 0, "end, then");
    gives(&app, 1, "late: late, then");
    gives(&app, 2, "user: user, then");
    gives(&app, 3, "security: who?, then");
    app.answers([Answer::Rows(vec![])]);
    gives(&app, 4, "database: Database exception: there is no such Item, then");
    assert_eq!(app.seen().last().map(String::as_str), Some("commit"));
    gives(&app, 5, "all: Division by zero, then");
    let logged = app.script.lock().unwrap().logged.join("\n");
    assert!(logged.contains("Division by zero") && !logged.contains("who?"), "{logged}");
}

#[test]
fn what_nobody_handles_answers_with_its_status() {
    let app = app("- call: Fails\n  with: { How: N }");
    for (how, status, message) in [(1, 400, "late"), (2, 409, "user"), (3, 403, "who?")] {
        let reply = run(&app, how);
        assert_eq!(reply.status, status, "{}", reply.body);
        assert!(reply.body.contains(message), "{}", reply.body);
    }
}

#[test]
fn handlers_nest_and_what_they_raise_goes_outwards() {
    let app = app(r#"
- try:
    - try:
        - call: Fails
          with: { How: N }
      handlers:
        - exception: Late
          do: [ { raise: Broken, message: '"inner " + ExceptionMessage' } ]
        - exception: Broken
          do: [ assign: { Out: '"a sibling"' } ]
  handlers:
    - exception: Broken
      do: [ assign: { Out: '"outer: " + ExceptionMessage' } ]
"#);
    gives(&app, 1, "outer: inner late");
    assert_eq!(run(&app, 2).status, 409); // neither takes it
}

#[test]
fn an_action_has_handlers_for_its_whole_flow() {
    let app = App::start(&sources(
        "app: H\nrest:\n  A:\n    methods:\n      Run:\n        outputs: { Out: Text }\n        flow:\n          - raise: User\n            message: '\"no\"'\n        handlers:\n          - exception: User\n            do: [ assign: { Out: ExceptionMessage } ]\n",
    ));
    assert_eq!(app.get("/H/rest/A/Run").body, "\"no\"");
}

#[test]
fn a_loop_goes_on_after_a_handled_exception() {
    let app = app(r#"
- list_append: Words
  element: '"7"'
- list_append: Words
  element: '"0"'
- list_append: Words
  element: '"2"'
- for_each: Words
  as: Word
  do:
    - try:
        - if: Word = "2" and N = 1
          then: [ exit ]
        - assign: { I: 14 / TextToInteger(Word), Out: Out + I + ";" }
      handlers:
        - exception: All
          do:
            - assign: { Out: Out + ExceptionMessage + ";" }
            - cycle
    - assign: { Out: Out + "ok;" }
"#);
    gives(&app, 0, "2;ok;Division by zero;7;ok;");
    gives(&app, 1, "2;ok;Division by zero;");
}

#[test]
fn a_handler_undoes_what_was_written_unless_it_says_otherwise() {
    let flow = |abort: bool| {
        format!(
            r#"
- assign: {{ Stock.Name: '"first"' }}
- create: Item
  record: Stock
- try:
    - create: Item
      name: Second
      record: Stock
    - assign: {{ Out: '"both"' }}
  handlers:
    - exception: Database
      abort_transaction: {abort}
      do: [ assign: {{ Out: ExceptionMessage }} ]
"#
        )
    };
    let broken = || Answer::Fails("constraint", "Item_Name");
    let message = "Database exception: the constraint is broken: Item_Name";
    let app = self::app(&flow(true));
    app.answers([Answer::Rows(vec![long(1)]), broken()]);
    gives(&app, 0, message);
    let seen = app.seen();
    assert_eq!(seen[2..], ["rollback", "commit"], "{seen:?}");

    // The first row stays: the second statement alone is undone.
    let app = self::app(&flow(false));
    let done = || Answer::Touched(0);
    app.answers([Answer::Rows(vec![long(1)]), done(), broken(), done(), done()]);
    gives(&app, 0, message);
    let seen = app.seen();
    assert_eq!(seen[1], "execute: SAVEPOINT odeon_try []");
    assert!(seen[2].starts_with("execute-returning: INSERT INTO \"Item\""), "{seen:?}");
    assert_eq!(
        seen[3..],
        ["execute: ROLLBACK TO SAVEPOINT odeon_try []", "execute: RELEASE SAVEPOINT odeon_try []", "commit"]
    );
}

#[test]
fn what_was_bound_for_a_statement_that_was_not_sent_is_forgotten() {
    let app = app(r#"
- try:
    - list: Item
      name: Never
      where: Item.Name = ToUpper("left over") and Item.Count = 1 / N
  handlers:
    - exception: All
      do:
        - list: Item
          name: Found
          where: Item.Count = N
- assign: { Out: '"done"' }
"#);
    app.answers([Answer::Rows(vec![])]);
    gives(&app, 0, "done");
    assert!(app.seen()[1].ends_with("[int32(0)]"), "{:?}", app.seen());
}

#[test]
fn the_transaction_can_be_ended_on_the_way() {
    let app = app(r#"
- create: Item
  record: Stock
- if: N = 1
  then: [ commit ]
  else: [ abort ]
- log: '"between"'
  level: warning
- create: Item
  name: Again
  record: Stock
"#);
    for (n, ends) in [(1, "commit"), (2, "rollback")] {
        app.answers([Answer::Rows(vec![long(1)]), Answer::Rows(vec![long(2)])]);
        gives(&app, n, "");
        let seen = app.seen();
        assert_eq!((seen[1].as_str(), seen[3].as_str()), (ends, "commit"), "{seen:?}");
        let logged = app.script.lock().unwrap().logged.clone();
        assert_eq!(logged, [r#"warning "between" action="A.Run" node="LogMessage""#]);
    }
}

#[test]
fn functions_are_called_in_expressions() {
    let app = app(r#"
- list: Item
  where: Item.Count = Double(N)
- assign: { Out: 'Double(N, Double(1)) + If(N > 5, "x", "y") + Double(N)' }
"#);
    app.answers([Answer::Rows(vec![])]);
    gives(&app, 7, "17x15");
    assert!(app.seen()[0].ends_with("[int32(15)]"), "{:?}", app.seen());
}

#[test]
fn what_fails_behind_a_function_names_the_node_that_called_it() {
    let app = app(
        "- assign: { I: Double(N) }\n- if: 7 / Double(N) > 1\n  name: Divides\n- log: '\"o\" + Double(N)'\n",
    );
    run(&app, 1);
    let logged = std::mem::take(&mut app.script.lock().unwrap().logged);
    assert_eq!(logged, [r#"info "o3" action="A.Run" node="LogMessage""#]);
    let app = self::app("- if: 7 / (Double(N) - 3) > 1\n  name: Divides\n");
    assert_eq!(run(&app, 1).status, 500);
    let logged = std::mem::take(&mut app.script.lock().unwrap().logged);
    assert_eq!(logged, [r#"error "Division by zero" action="A.Run" node="Divides""#]);
}

#[test]
fn endless_recursion_is_an_exception_and_can_be_handled() {
    let app = app(r#"
- try:
    - call: Deep
      with: { N: N }
    - assign: { Out: Deep.Out }
  handlers:
    - exception: All
      do: [ assign: { Out: ExceptionMessage } ]
"#);
    gives(&app, 100, "100");
    gives(&app, 1_000_000, "Actions call one another more than 250 levels deep");
    gives(&app, 124, "124"); // an instance per request, and the count is given back
}

#[test]
fn json_goes_out_and_comes_in() {
    let app = app(r#"
- assign: { R.Name: '"a""b"', R.Amount: 1.5, R.In.Flag: N = 1 }
- list_append: R.Tags
  element: '"t"'
- json_serialize: R
  name: Short
- json_serialize: R
  name: Long
  serialize_defaults: true
- try:
    - json_deserialize: If(N = 2, "{""Name"":[]}", Short.JSON)
      type: Row
      name: Read
    - json_deserialize: '"[{""Name"":""x""},{}]"'
      type: Row List
      name: Many
    - if: Read.Data = R
      then: [ assign: { Out: Short.JSON + Many.Data.Length + Long.JSON } ]
  handlers:
    - exception: All
      do: [ assign: { Out: ExceptionMessage } ]
"#);
    let reply = run(&app, 1);
    let out: String = serde_json::from_str(&reply.body).unwrap();
    assert_eq!(
        out,
        r#"{"Name":"a\"b","Amount":1.5,"In":{"Flag":true},"Tags":["t"]}2{"Name":"a\"b","Amount":1.5,"Due":"1900-01-01","In":{"Flag":true},"Tags":["t"]}"#
    );
    let out: String = serde_json::from_str(&run(&app, 0).body).unwrap();
    assert!(out.starts_with(r#"{"Name":"a\"b","Amount":1.5,"Tags":["t"]}2"#), "{out}");
    gives(&app, 2, "JSON Deserialize: Name: expected text");
}

#[test]
fn list_actions_change_search_and_copy() {
    let app = app(r#"
- json_deserialize: '"[{""Name"":""b"",""Amount"":2},{""Name"":""A"",""Amount"":2},{""Name"":""c"",""Amount"":1},{""Name"":""a"",""Amount"":2}]"'
  type: Row List
- assign: { Rows: JSONDeserialize.Data }
- list_duplicate: Rows
- list_distinct: Rows
- assign: { Out: ListDistinct.List.Length + ":" }
- list_sort: Rows
  by: [Amount desc, Name]
- for_each: Rows
  as: Row
  do: [ assign: { Out: Out + Row.Name } ]
- list_filter: Rows
  as: F
  where: F.Amount > 1 and F.Name <> "b"
- list_any: Rows
  as: F
  where: F.Name = "C"
- list_all: Rows
  as: F
  where: F.Amount < 2
- list_index_of: Rows
  as: F
  where: F.Name = "c"
- assign: { Out: 'Out + ":" + ListFilter.List.Length + ListAny.Result + ListAll.Result + ListIndexOf.Position' }
- list_insert: Rows
  element: Rows[3]
  at: 0
- assign: { "Rows[0].Name": '"z"' }
- list_remove: Rows
  at: 1
- list_append_all: Rows
  elements: Rows
- for_each: Rows
  as: Row
  do: [ assign: { Out: Out + Row.Name } ]
- list_clear: Rows
- assign: { Out: 'Out + Rows.Length + ListDuplicate.List[0].Name' }
- list_append: Numbers
  element: 3
- list_append: Numbers
  element: 1
- list_sort: Numbers
  by: desc
- list_sort: Numbers
- list_remove: Numbers
  at: N
- assign: { Out: "Out + Numbers[0]" }
"#);
    gives(&app, 0, "3:Aabc:2TrueFalse3zabczabc0b3");
    let reply = run(&app, 2);
    assert!(reply.body.contains("Index 2 is out of range"), "{}", reply.body);
}

#[test]
fn rows_of_the_database_compare_as_records() {
    let app = app(r#"
- list: Item
  name: Found
- assign: { Out: 'If(Found.List[0] = Found.List[1], "same", "other") + If(Found.List[0] <> Found.List[2], "other", "same")' }
"#);
    let row = |id, name| [long(id), text(name), crate::harness::value("int32", Val::S32(1))];
    app.answers([Answer::Rows([row(1, "é"), row(1, "E"), row(2, "e")].concat())]);
    gives(&app, 0, "sameother");
}

#[test]
fn a_timer_runs_its_action_and_can_be_woken() {
    let app = App::start(&sources(
        r#"
app: T
entities: { Item: { attributes: { Count: Integer } } }
actions:
  CleanUp:
    inputs: { Count: Integer, Fail: Boolean }
    locals: { I: Item }
    flow:
      - assign: { I.Count: Count }
      - create: Item
        record: I
      - if: Fail
        then: [ { raise: User, message: '"later"' } ]
timers:
  Nightly: { action: CleanUp, schedule: "0 3 * * *", with: { Count: 2 + 5 } }
  Fails: { action: CleanUp, with: { Fail: True } }
rest: { A: { methods: { Wake: { flow: [ wake: Nightly ] } } } }
"#,
    ));
    let trigger = |path: &str| app.send_with("POST", path, &[("odeon-trigger", "timer")], "");
    app.answers([Answer::Rows(vec![long(1)])]);
    assert_eq!(trigger("/T/timers/Nightly").status, 204);
    assert!(app.seen()[0].ends_with("[int32(7)]"), "{:?}", app.seen());
    assert_eq!(app.seen()[1], "commit");

    app.answers([Answer::Rows(vec![long(1)])]);
    let reply = trigger("/T/timers/Fails");
    assert_eq!((reply.status, app.seen()[1].as_str()), (400, "rollback"), "{}", reply.body);
    assert!(app.script.lock().unwrap().logged[0].contains(r#"action="CleanUp" node="RaiseUser""#));
    assert_eq!(trigger("/T/rest/A/Wake").status, 404);
    assert_eq!(app.send("POST", "/T/timers/Nightly", "").status, 404); // without the header, no trigger

    let reply = app.get("/T/rest/A/Wake");
    assert!(
        reply.body.contains("The timer Nightly could not be woken: the stage does not know it"),
        "{}",
        reply.body
    );
    app.script.lock().unwrap().timers = vec!["Nightly"];
    assert_eq!(app.get("/T/rest/A/Wake").status, 200);
}
