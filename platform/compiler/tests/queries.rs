//! Aggregates, statements and entity actions: the SQL they send, what becomes of the rows, and what a person
//! reads when one is wrong.
//!
//! The database is a script here; what PostgreSQL makes of the SQL is shown in `tests/tests/queries.rs`.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]
#![allow(dead_code, reason = "the harness has more than these tests use")]

mod harness;
#[path = "queries/parameters.rs"]
mod parameters;
#[path = "queries/texts.rs"]
mod texts;

use harness::{Answer, App, Reply, long, sources, text, value};
use odeon_compiler::{check, render};
use wasmtime::component::Val;

const MODEL: &str = r#"
app: Q
entities:
  Customer: { attributes: { Name: Text, Rating: Decimal, ChiefId: Customer Identifier } }
  Order:
    attributes:
      CustomerId: Customer Identifier
      Total: Currency
      Number: { type: Integer, default: 7 }
      PlacedOn: Date
  Kind: { static: true, records: { A: {} } }
structures:
  Line: { attributes: { Name: Text, Total: Decimal, Count: Integer } }
  Deep: { attributes: { Line: Line } }
  Out: { attributes: { Text: Text, Other: Text, Number: Long Integer, Sum: Decimal } }
actions:
  Twice:
    function: true
    inputs: { N: Integer }
    outputs: { Out: Integer }
    flow:
      - list: Kind
        name: Kinds
      - assign: { Out: N * 2 + Kinds.List.Length }
rest:
  A:
    methods:
      Run:
        inputs: { N: Integer, T: Text, Id: Customer Identifier }
        outputs: { Out: Out }
        locals: { C: Customer, Cs: Customer List, O: Order, Os: Order List }
        flow:
"#;

fn model(flow: &str) -> String {
    MODEL.to_owned()
        + &flow.trim_matches('\n').lines().map(|line| format!("          {line}\n")).collect::<String>()
}

/// Runs a flow against prepared answers; gives the answer and the statements.
#[track_caller]
fn run(flow: &str, answers: impl IntoIterator<Item = Answer>) -> (Reply, Vec<String>) {
    let app = App::start(&sources(&model(flow)));
    app.answers(answers);
    let reply = app.get("/Q/rest/A/Run?N=7&T=x&Id=3");
    let mut seen = app.seen();
    if seen.last().is_some_and(|last| last == "commit") {
        seen.pop();
    }
    (reply, seen)
}

/// The statements of a flow whose queries find nothing.
#[track_caller]
fn statements(flow: &str) -> String {
    let nothing = (0..4).map(|_| Answer::Table(1, vec![]));
    let (reply, seen) = run(flow, nothing);
    assert_eq!(reply.status, 200, "{}", reply.body);
    seen.join("\n")
}

#[track_caller]
fn told(flow: &str) -> String {
    let sources = sources(&model(flow));
    render(&sources, &check(&sources).problems)
}

fn null() -> Val {
    Val::Variant("null".into(), None)
}

fn decimal(v: &str) -> Val {
    value("decimal", Val::String(v.into()))
}

#[test]
fn sources_are_joined_in_four_ways_and_a_source_without_a_row_has_defaults() {
    let flow = r#"
- aggregate:
    - Order
    - { entity: Customer, join: left, on: Order.CustomerId = Customer.Id }
    - { entity: Customer, as: Chief, on: Customer.ChiefId = Chief.Id and Chief.Name <> T }
    - { entity: Kind, join: cross }
    - { entity: Order, as: Other, join: full, on: Other.Number = Order.Number }
  name: Found
  where:
    - Customer.Name = T or Order.Total > N
    - Customer.Id = Id
    - Order.CustomerId = Other.CustomerId
  sort: [Customer.Name desc, Order.CustomerId]
- if: not Found.List.Empty
  then:
    - assign: { Out.Text: 'Found.List[0].Customer.Name', Out.Sum: 'Found.List[0].Order.Total' }
"#;
    insta::assert_snapshot!(statements(flow), @r#"query: SELECT "Order"."Total", "Customer"."Name" FROM "Order" LEFT JOIN "Customer" ON ("Order"."CustomerId" = "Customer"."Id") INNER JOIN "Customer" AS "Chief" ON (("Customer"."ChiefId" = "Chief"."Id") AND ("Chief"."Name" <> $1::text)) CROSS JOIN "Kind" FULL JOIN "Order" AS "Other" ON ("Other"."Number" = "Order"."Number") WHERE ((COALESCE("Customer"."Name", '') = $2::text) OR (COALESCE("Order"."Total", 0) > $3::numeric)) AND (("Customer"."Id" IS NOT NULL AND $4::int8 IS NOT NULL AND "Customer"."Id" = $4::int8 OR "Customer"."Id" IS NULL AND $4::int8 IS NULL)) AND (COALESCE("Order"."CustomerId", 0) = COALESCE("Other"."CustomerId", 0)) ORDER BY COALESCE("Customer"."Name", '') DESC, "Order"."CustomerId" NULLS FIRST, "Order"."Id", "Customer"."Id", "Chief"."Id", "Kind"."Id", "Other"."Id" [text("x"), text("x"), decimal("7"), int64(3)]"#);
    let (reply, _) = run(flow, [Answer::Rows(vec![decimal("1.5"), null()])]);
    assert_eq!(reply.body, r#"{"Text":"","Other":"","Number":0,"Sum":1.5}"#);
}

#[test]
fn only_what_is_used_is_fetched() {
    let joined = "- aggregate: [ Order, { entity: Customer, on: Order.CustomerId = Customer.Id } ]\n  name: Found\n  calculated: { Double: Order.Total * 2 }\n";
    for (uses, expected) in [
        ("- if: Found.List.Empty", r#"SELECT "Order"."Id" FROM"#),
        (
            "- assign: { Out.Sum: 'If(Found.List.Empty, 0, Found.List[N].Double)' }",
            r#"SELECT "Double"."Double" FROM"#,
        ),
        (
            "- for_each: Found.List\n  as: Row\n  do:\n    - assign: { Out.Text: Row.Customer.Name, Out.Sum: Row.Order.Total }",
            r#"SELECT "Order"."Total", "Customer"."Name" FROM"#,
        ),
        (
            "- list_any: Found.List\n  as: Row\n  where: Row.Order.Number = N",
            r#"SELECT "Order"."Number" FROM"#,
        ),
        (
            "- for_each: Found.List\n  as: Row\n  do:\n    - assign: { C: Row.Customer }",
            r#"SELECT "Customer"."Id", "Customer"."Name", "Customer"."Rating", "Customer"."ChiefId" FROM"#,
        ),
        (
            "- json_serialize: Found.List",
            r#"SELECT "Order"."Id", "Order"."CustomerId", "Order"."Total", "Order"."Number", "Order"."PlacedOn", "Customer"."Id", "Customer"."Name", "Customer"."Rating", "Customer"."ChiefId", "Double"."Double" FROM"#,
        ),
        (
            "- list_filter: Found.List\n  as: Row\n  where: Row.Order.Number = N\n- assign: { Out.Number: ListFilter.List.Length }",
            r#"SELECT "Order"."Id", "Order"."CustomerId""#,
        ),
    ] {
        let seen = statements(&format!("{joined}{uses}\n")).replace("cursor: ", "query: ");
        assert!(seen.starts_with(&format!("query: {expected}")), "{uses}\n{seen}");
    }
    // The short form: its rows are the entity's records.
    let list = "- list: Customer\n  name: Found\n";
    for (uses, expected) in [
        (
            "- for_each: Found.List\n  as: Row\n  do:\n    - assign: { Out.Text: Row.Name }",
            r#"SELECT "Name" FROM "Customer" ORDER BY "Id""#,
        ),
        ("- assign: { Cs: Found.List }", r#"SELECT "Id", "Name", "Rating", "ChiefId" FROM"#),
        (
            "- if: not Found.List.Empty\n  then:\n    - assign: { C: 'Found.List[0]' }",
            r#"SELECT "Id", "Name", "Rating", "ChiefId" FROM"#,
        ),
    ] {
        let seen = statements(&format!("{list}{uses}\n")).replace("cursor: ", "query: ");
        assert!(seen.starts_with(&format!("query: {expected}")), "{uses}\n{seen}");
    }
}

#[test]
fn count_is_the_number_of_all_rows_and_asked_for_when_it_is_used() {
    let page = "- list: Order\n  name: Found\n  where: Order.Number = Twice(N)\n  max: 2\n  start: N\n";
    let kinds = || Answer::Rows(vec![]);
    let used = format!("{page}- assign: {{ Out.Number: Found.Count + Found.List.Length }}\n");
    let (reply, seen) =
        run(&used, [kinds(), Answer::Rows(vec![long(1), long(2)]), Answer::Rows(vec![long(40)])]);
    assert_eq!(reply.body, r#"{"Text":"","Other":"","Number":42,"Sum":0}"#);
    insta::assert_snapshot!(seen.join("\n"), @r#"
    query: SELECT "Id" FROM "Kind" ORDER BY "Id" []
    query: SELECT "Id" FROM "Order" WHERE ("Order"."Number" = $1::int4) ORDER BY "Id" LIMIT NULLIF(GREATEST($2::int4, 0), 0) OFFSET GREATEST($3::int4, 0) [int32(14), int32(2), int32(7)]
    query: SELECT count(*) FROM "Order" WHERE ("Order"."Number" = $1::int4) [int32(14)]
    "#);
    // Alone, it is the only query; without a page, it is the length of the list.
    let (_, seen) = run(
        &format!("{page}- assign: {{ Out.Number: Found.Count }}\n"),
        [kinds(), Answer::Rows(vec![long(40)])],
    );
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert!(seen[1].starts_with(r#"query: SELECT count(*) FROM "Order" WHERE"#), "{seen:?}");
    for max in ["", "  max: 0\n"] {
        let both = format!(
            "- list: Order\n  name: Found\n{max}- assign: {{ Out.Number: Found.Count + Found.List.Length }}\n"
        );
        let (reply, seen) = run(&both, [Answer::Rows(vec![long(1), long(2)])]);
        let expected = (r#"{"Text":"","Other":"","Number":4,"Sum":0}"#, 1);
        assert_eq!((reply.body.as_str(), seen.len()), expected, "{seen:?}");
    }
}

#[test]
fn groups_have_keys_and_totals_only() {
    let flow = r#"
- aggregate:
    - Order
    - { entity: Customer, join: left, on: Order.CustomerId = Customer.Id }
  name: Found
  calculated: { Net: Order.Total / 1.2 }
  group_by: { Name: Customer.Name, Year: Year(Order.PlacedOn) + N }
  totals:
    Orders: count
    Known: { count: Customer.Id }
    Sum: { sum: Net }
    Numbers: { sum: Order.Number }
    Mean: { average: Order.Total }
    Last: { max: Order.PlacedOn }
  sort: [Sum desc, Name]
  max: 3
- for_each: Found.List
  as: Row
  do:
    - assign: { Out.Text: Out.Text + Row.Name + Row.Year, Out.Number: Row.Orders + Row.Known, Out.Sum: Row.Sum }
    - assign: { Out.Number: Out.Number + Found.Count }
"#;
    let row = vec![text("Ann"), value("int32", Val::S32(2031)), long(2), long(1), decimal("3.5")];
    let (reply, seen) = run(flow, [Answer::Rows(row), Answer::Rows(vec![long(40)])]);
    assert_eq!(reply.body, r#"{"Text":"Ann2031","Other":"","Number":43,"Sum":3.5}"#);
    insta::assert_snapshot!(seen.join("\n"), @r#"
    query: SELECT COALESCE("Customer"."Name", ''), (extract(year from ("Order"."PlacedOn")::timestamp)::int4 + $2::int4), count(*), count("Customer"."Id"), sum("Net"."Net")::numeric FROM "Order" LEFT JOIN "Customer" ON ("Order"."CustomerId" = "Customer"."Id") CROSS JOIN LATERAL (SELECT round(div("Order"."Total" * 1000000000, $1::numeric) * 0.000000001, 8) AS "Net") AS "Net" GROUP BY COALESCE("Customer"."Name", ''), (extract(year from ("Order"."PlacedOn")::timestamp)::int4 + $2::int4) ORDER BY sum("Net"."Net")::numeric DESC, COALESCE("Customer"."Name", ''), COALESCE("Customer"."Name", ''), (extract(year from ("Order"."PlacedOn")::timestamp)::int4 + $2::int4) LIMIT NULLIF(GREATEST($3::int4, 0), 0) [decimal("1.2"), int32(7), int32(3)]
    query: SELECT count(*) FROM (SELECT 1 FROM "Order" LEFT JOIN "Customer" ON ("Order"."CustomerId" = "Customer"."Id") CROSS JOIN LATERAL (SELECT round(div("Order"."Total" * 1000000000, $1::numeric) * 0.000000001, 8) AS "Net") AS "Net" GROUP BY COALESCE("Customer"."Name", ''), (extract(year from ("Order"."PlacedOn")::timestamp)::int4 + $2::int4)) AS "rows" [decimal("1.2"), int32(7)]
    "#);
    // A key keeps its name; totals of everything are one row, and nothing is to be counted.
    let seen = statements(
        "- aggregate: Order\n  name: Found\n  totals: { Sum: { sum: Order.Total } }\n- assign: { Out.Number: Found.Count, Out.Sum: 'If(Found.List.Empty, 0, Found.List[0].Sum)' }\n",
    );
    assert_eq!(seen, r#"query: SELECT sum("Order"."Total")::numeric FROM "Order" []"#);
    let seen = statements(
        "- aggregate: Order\n  name: Found\n  group_by: Order.Number\n- for_each: Found.List\n  as: Row\n  do:\n    - assign: { Out.Number: Row.Number }\n",
    );
    assert_eq!(
        seen,
        r#"cursor: SELECT "Order"."Number" FROM "Order" GROUP BY "Order"."Number" ORDER BY "Order"."Number" []"#
    );
}

#[test]
fn a_dynamic_sort_chooses_among_what_the_compiler_knows() {
    let flow = |sort: &str| {
        format!(
            "- aggregate: Order\n  name: Found\n  calculated: {{ Double: Order.Total * N }}\n  where: Order.Number > N\n  dynamic_sort: '{sort}'\n  sort: PlacedOn\n- if: Found.List.Empty\n"
        )
    };
    let order = |sort: &str| {
        let seen = statements(&flow(sort));
        seen.split_once(" ORDER BY ").map(|(_, order)| order.to_owned()).unwrap()
    };
    let rest = r#""Order"."PlacedOn", "Order"."Id" [decimal("7"), int32(7)]"#;
    assert_eq!(order(r#""""#), rest);
    assert_eq!(order(r#"" Order.Total  DESC ""#), format!(r#""Order"."Total" DESC, {rest}"#));
    assert_eq!(
        order(r#""[Double] desc, Number asc,CustomerId, [Double]""#),
        format!(r#""Double"."Double" DESC, "Order"."Number", "Order"."CustomerId" NULLS FIRST, {rest}"#)
    );
    for refused in ["Order.Totl", "Total; drop table", "Total desc nulls", "Total up", "1", ","] {
        let (reply, seen) = run(&flow(&format!("\"{refused}\"")), []);
        assert_eq!((reply.status, seen.as_slice()), (500, ["rollback".to_owned()].as_slice()), "{refused}");
        let first = refused.split(',').next().unwrap();
        let expected =
            format!("Database exception: cannot sort by `{first}`; there is Double, Order.Id, Id, ");
        assert!(reply.body.contains(&expected), "{}", reply.body);
    }
}

#[test]
fn comparisons_mean_in_the_database_what_they_mean_in_memory() {
    let filter = |filter: &str| {
        let join = "{ entity: Customer, as: C2, join: left, on: 'Order.CustomerId = C2.Id' }";
        let seen = statements(&format!(
            "- aggregate: [ Order, {join} ]\n  calculated: {{ Word: 'If(Order.Total > 1, \"a\", T)' }}\n  where: '{filter}'\n"
        ));
        let filter = seen.split_once(" WHERE ").unwrap().1.split_once(" ORDER BY ").unwrap().0;
        filter.to_owned()
    };
    // Identifiers may be NULL, which is the null identifier.
    assert_eq!(
        filter("Order.CustomerId = C2.ChiefId"),
        r#"(COALESCE("Order"."CustomerId", 0) = COALESCE("C2"."ChiefId", 0))"#
    );
    assert_eq!(
        filter("Order.CustomerId = C2.Id and Order.Id = C2.Id"),
        r#"((COALESCE("Order"."CustomerId", 0) = COALESCE("C2"."Id", 0)) AND ("Order"."Id" = "C2"."Id"))"#
    );
    assert_eq!(
        filter("not (Order.Id = C2.Id)"),
        r#"(NOT ((("Order"."Id" IS NOT DISTINCT FROM "C2"."Id"))))"#
    );
    assert_eq!(filter("IdentifierToLongInteger(C2.Id) = 0"), r#"(COALESCE("C2"."Id", 0) = $4::int8)"#);
    assert_eq!(filter("C2.Rating < 1"), r#"(COALESCE("C2"."Rating", 0) < $4::numeric)"#);
    // A text that comes from no column is told how it compares.
    assert_eq!(filter("Word = \"A\""), r#"("Word"."Word" = $4::text)"#);
    assert!(filter("If(Order.Total > 1, \"a\", \"b\") = T").contains(r#"END) COLLATE "odeon_text" = $"#));
}

#[test]
fn statements_take_names_of_the_model_and_bound_values() {
    let flow = r#"
- sql: |
    SELECT {Customer}.[Name], sum([Total]) /* {No} @Such */, count(*) -- it's
    FROM {Order} o JOIN {Customer} ON o.[CustomerId] = {Customer}.[Id]
    WHERE o.[Number] > @Least AND {Customer}.[Name] <> '@Least' AND @Least < @Other AND o.[CustomerId] = @Id
    GROUP BY 1;
  name: Best
  parameters: { Other: N * 2, Least: { type: Decimal, value: N }, Id: Id }
  output: Line
- assign: { Out.Text: 'Best.List[0].Name', Out.Sum: 'Best.List[0].Total', Out.Number: 'Best.List[0].Count + Best.Count' }
"#;
    let (reply, seen) = run(flow, [Answer::Table(3, vec![text("Ann"), long(12), long(5)])]);
    assert_eq!(reply.body, r#"{"Text":"Ann","Other":"","Number":6,"Sum":12}"#);
    insta::assert_snapshot!(seen.join("\n"), @r#"
    query: SELECT "Customer"."Name", sum("Total") /* {No} @Such */, count(*) -- it's
    FROM "Order" o JOIN "Customer" ON o."CustomerId" = "Customer"."Id"
    WHERE o."Number" > $1::numeric AND "Customer"."Name" <> '@Least' AND $1::numeric < $2::int4 AND o."CustomerId" = $3::int8
    GROUP BY 1 [decimal("7"), int32(14), int64(3)]
    "#);
    for (answer, message) in [
        (
            Answer::Table(2, vec![text("Ann"), long(1)]),
            "the statement gives 2 columns, and its output has 3 attributes",
        ),
        (
            Answer::Table(3, vec![text("Ann"), text("1"), long(1)]),
            "column 2 is a text that does not fit a Decimal",
        ),
        (
            Answer::Table(3, vec![text("Ann"), long(1), long(1 << 40)]),
            "column 3 is an integer that does not fit an Integer",
        ),
        (
            Answer::Fails("invalid", "syntax error"),
            "Database exception: the statement is not valid: syntax error",
        ),
    ] {
        let (reply, _) = run(flow, [answer]);
        assert!(reply.status == 500 && reply.body.contains(message), "{}", reply.body);
    }
}

#[test]
fn a_statement_that_writes_or_locks_belongs_into_the_transaction() {
    let (reply, seen) = run(
        r#"
- sql: UPDATE {Order} SET [Number] = @N WHERE [Total] > 3
  name: Update
  parameters: { N: N }
- sql: INSERT INTO {Customer} ([Name]) VALUES (@T) RETURNING [Name], 0, [Id]
  name: Insert
  parameters: { T: T }
  output: Line
- sql: SELECT [Name], 0, 1 FROM {Customer} FOR UPDATE
  output: Line
- assign: { Out.Number: Update.Count + Insert.Count, Out.Text: 'Insert.List[0].Name' }
"#,
        [Answer::Touched(5), Answer::Table(3, vec![text("x"), long(0), long(9)]), Answer::Table(3, vec![])],
    );
    assert_eq!(reply.body, r#"{"Text":"x","Other":"","Number":6,"Sum":0}"#);
    insta::assert_snapshot!(seen.join("\n"), @r#"
    execute: UPDATE "Order" SET "Number" = $1::int4 WHERE "Total" > 3 [int32(7)]
    execute-returning: INSERT INTO "Customer" ("Name") VALUES ($1::text) RETURNING "Name", 0, "Id" [text("x")]
    execute-returning: SELECT "Name", 0, 1 FROM "Customer" FOR UPDATE []
    "#);
}

#[test]
fn entity_actions_lock_and_choose_between_creating_and_updating() {
    let flow = r#"
- get_for_update: Customer
  name: Locked
  id: Id
- assign: { C: Locked.Record, C.Name: '"y"' }
- create_or_update: Customer
  name: Updated
  record: C
- assign: { C.Id: NullIdentifier() }
- create_or_update: Customer
  name: Created
  record: C
- list_append: Cs
  element: C
- list_append: Cs
  element: Locked.Record
- create_or_update_some: Customer
  name: Some
  records: Cs
- assign: { Out.Text: 'Updated.Id + "," + Created.Id + "," + Some.Ids[0] + "," + Some.Ids[1]', Out.Number: Some.Ids.Length }
"#;
    let (reply, seen) = run(
        flow,
        [
            Answer::Rows(vec![long(3), text("x"), decimal("1"), null()]),
            Answer::Touched(1),
            Answer::Rows(vec![long(41)]),
            Answer::Rows(vec![long(42)]),
            Answer::Touched(1),
        ],
    );
    assert_eq!(reply.body, r#"{"Text":"3,41,42,3","Other":"","Number":2,"Sum":0}"#);
    insta::assert_snapshot!(seen.join("\n"), @r#"
    execute-returning: SELECT "Id", "Name", "Rating", "ChiefId" FROM "Customer" WHERE "Id" = $1::int8 FOR UPDATE [int64(3)]
    execute: UPDATE "Customer" SET "Name" = $1::text, "Rating" = $2::numeric, "ChiefId" = $3::int8 WHERE "Id" = $4::int8 [text("y"), decimal("1"), null, int64(3)]
    execute-returning: INSERT INTO "Customer" ("Name", "Rating", "ChiefId") VALUES ($1::text, $2::numeric, $3::int8) RETURNING "Id" [text("y"), decimal("1"), null]
    execute-returning: INSERT INTO "Customer" ("Name", "Rating", "ChiefId") VALUES ($1::text, $2::numeric, $3::int8) RETURNING "Id" [text("y"), decimal("1"), null]
    execute: UPDATE "Customer" SET "Name" = $1::text, "Rating" = $2::numeric, "ChiefId" = $3::int8 WHERE "Id" = $4::int8 [text("x"), decimal("1"), null, int64(3)]
    "#);
    let (reply, _) = run(flow, [Answer::Rows(vec![])]);
    assert!(reply.body.contains("Database exception: there is no such Customer"), "{}", reply.body);
    let gone = [Answer::Rows(vec![long(3), text("x"), decimal("1"), null()]), Answer::Touched(0)];
    let (reply, _) = run(flow, gone);
    assert!(reply.body.contains("Database exception: there is no such Customer"), "{}", reply.body);
}

#[test]
fn creating_many_needs_no_memory_for_each() {
    let many = r#"
- assign: { C.Name: '"0123456789012345678901234567890123456789"' }
- for_each: Os
  as: X
  do: []
- list_append: Cs
  element: C
"#;
    let doubled = "- list_append_all: Cs\n  elements: Cs\n".repeat(13);
    let flow = format!(
        "{many}{doubled}- create_or_update_some: Customer\n  name: Some\n  records: Cs\n- assign: {{ Out.Number: Some.Ids.Length, Out.Text: 'Some.Ids[8191]' }}\n"
    );
    let (reply, _) = run(&flow, (0..8192).map(|i| Answer::Rows(vec![long(i)])));
    assert_eq!(reply.body, r#"{"Text":"8191","Other":"","Number":8192,"Sum":0}"#);
}

#[test]
fn wrong_queries_are_told() {
    insta::assert_snapshot!(told(r#"
- aggregate:
    - { entity: Order, join: left }
    - { entity: Customr }
    - { entity: Order, on: 1 = 1 }
    - { entity: Customer, join: inner }
    - { entity: Kind, join: cross, on: Kind.Id = Order.Id }
    - { entity: Customer, as: Full, join: full, on: Full.Rating > Order.Total }
"#), @r#"
    error[OML0502]: `Order` comes first, so there is nothing to join it to
      --> app.yaml:34:40
     34 |               - { entity: Order, join: left }
        |                                        ^^^^
    error[OML0102]: there is no entity `Customr`
      --> app.yaml:35:27
     35 |               - { entity: Customr }
        |                           ^^^^^^^
      hint: did you mean `Customer`?
    error[OML0502]: `Customr` needs `on`
      --> app.yaml:35:27
     35 |               - { entity: Customr }
        |                           ^^^^^^^
      hint: say which rows belong together, or join every row with `join: cross`
    error[OML0004]: `Order` is a source already
      --> app.yaml:36:27
     36 |               - { entity: Order, on: 1 = 1 }
        |                           ^^^^^
      hint: give this one another name with `as`
    error[OML0502]: `Customer` needs `on`
      --> app.yaml:37:27
     37 |               - { entity: Customer, join: inner }
        |                           ^^^^^^^^
      hint: say which rows belong together, or join every row with `join: cross`
    error[OML0502]: `cross` joins every row to every row, so it takes no `on`
      --> app.yaml:38:50
     38 |               - { entity: Kind, join: cross, on: Kind.Id = Order.Id }
        |                                                  ^^^^^^^^^^^^^^^^^^
    warning[OML0205]: these are identifiers of two entities
      --> app.yaml:38:58
     38 |               - { entity: Kind, join: cross, on: Kind.Id = Order.Id }
        |                                                          ^
    error[OML0502]: a full join needs an `=` between `Full` and a source before it
      --> app.yaml:39:53
     39 |               - { entity: Customer, as: Full, join: full, on: Full.Rating > Order.Total }
        |                                                     ^^^^
      hint: the database joins fully by equal values only; other conditions may follow after `and`
    "#);
    insta::assert_snapshot!(told(r#"
- aggregate: [ Order, { entity: Customer, on: Customer.Id = Order.CustomerId } ]
  name: Found
  calculated: { Order: 1, Bad: Order.Totl, Worse: 'EncodeUrl(Customer.Name + "abc")', C: C }
  where: Customer.Nam = T
  sort: [Total, Order.Total, Custmer.Name, Order.Totl]
- assign: { Out.Text: 'Found.List[0].Name' }
- assign: { Out.Text: 'Found.List[0]' }
"#), @r#"
    error[OML0004]: `Order` exists already
      --> app.yaml:35:27
     35 |             calculated: { Order: 1, Bad: Order.Totl, Worse: 'EncodeUrl(Customer.Name + "abc")', C: C }
        |                           ^^^^^
    error[OML0104]: `Order` has no attribute `Totl`
      --> app.yaml:35:48
     35 |             calculated: { Order: 1, Bad: Order.Totl, Worse: 'EncodeUrl(Customer.Name + "abc")', C: C }
        |                                                ^^^^
      hint: did you mean `Total`?
    error[OML0501]: this part needs the row, but cannot run in the database
      --> app.yaml:35:62
     35 |             calculated: { Order: 1, Bad: Order.Totl, Worse: 'EncodeUrl(Customer.Name + "abc")', C: C }
        |                                                              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    error[OML0202]: a calculated attribute is a basic value, not Customer
      --> app.yaml:35:100
     35 |             calculated: { Order: 1, Bad: Order.Totl, Worse: 'EncodeUrl(Customer.Name + "abc")', C: C }
        |                                                                                                    ^
    error[OML0104]: `Customer` has no attribute `Nam`
      --> app.yaml:36:29
     36 |             where: Customer.Nam = T
        |                             ^^^
      hint: did you mean `Name`?
    error[OML0103]: there is nothing `Total` to sort by
      --> app.yaml:37:20
     37 |             sort: [Total, Order.Total, Custmer.Name, Order.Totl]
        |                    ^^^^^
      hint: write `Source.Attribute`, or a calculated attribute
    error[OML0103]: there is nothing `Custmer.Name` to sort by
      --> app.yaml:37:40
     37 |             sort: [Total, Order.Total, Custmer.Name, Order.Totl]
        |                                        ^^^^^^^^^^^^
      hint: did you mean `Customer`?
    error[OML0104]: `Order` has no attribute `Totl`
      --> app.yaml:37:54
     37 |             sort: [Total, Order.Total, Custmer.Name, Order.Totl]
        |                                                      ^^^^^^^^^^
      hint: did you mean `Total`?
    error[OML0104]: `row of Found` has no attribute `Name`
      --> app.yaml:38:48
     38 |           - assign: { Out.Text: 'Found.List[0].Name' }
        |                                                ^^^^
    error[OML0202]: expected Text, found row of Found
      --> app.yaml:39:34
     39 |           - assign: { Out.Text: 'Found.List[0]' }
        |                                  ^^^^^^^^^^^^^
    "#);
    insta::assert_snapshot!(told(r#"
- aggregate: Order
  name: Found
  group_by: [Order.Number, Order.Total + 1]
  totals: { Number: count, A: sum, B: { sum: Order.PlacedOn }, D: { count: Order.Number }, E: { median: Order.Total } }
  sort: [Order.Total, Numbr]
  dynamic_sort: Order.Number
"#), @r#"
    error[OML0003]: an expression to group by needs a name
      --> app.yaml:35:38
     35 |             group_by: [Order.Number, Order.Total + 1]
        |                                      ^^^^^^^^^^^^^^^
      hint: write `group_by: { Name: expression }`
    error[OML0004]: `Number` exists already
      --> app.yaml:36:23
     36 |             totals: { Number: count, A: sum, B: { sum: Order.PlacedOn }, D: { count: Order.Number }, E: { median: Order.Total } }
        |                       ^^^^^^
    error[OML0003]: `A` does not say what is computed
      --> app.yaml:36:41
     36 |             totals: { Number: count, A: sum, B: { sum: Order.PlacedOn }, D: { count: Order.Number }, E: { median: Order.Total } }
        |                                         ^^^
      hint: write `count`, or one of count, sum, average, min, max with an expression
    error[OML0202]: `sum` takes a number, not Date
      --> app.yaml:36:56
     36 |             totals: { Number: count, A: sum, B: { sum: Order.PlacedOn }, D: { count: Order.Number }, E: { median: Order.Total } }
        |                                                        ^^^^^^^^^^^^^^
    error[OML0202]: `count` takes an identifier, or stands alone and counts rows, not Integer
      --> app.yaml:36:86
     36 |             totals: { Number: count, A: sum, B: { sum: Order.PlacedOn }, D: { count: Order.Number }, E: { median: Order.Total } }
        |                                                                                      ^^^^^^^^^^^^
    error[OML0002]: `median` computes nothing over groups
      --> app.yaml:36:107
     36 |             totals: { Number: count, A: sum, B: { sum: Order.PlacedOn }, D: { count: Order.Number }, E: { median: Order.Total } }
        |                                                                                                           ^^^^^^
      hint: write `count`, or one of count, sum, average, min, max with an expression
    error[OML0104]: the rows have no attribute `Order.Total`
      --> app.yaml:37:20
     37 |             sort: [Order.Total, Numbr]
        |                    ^^^^^^^^^^^
      hint: grouped rows have Number, Number, B, D
    error[OML0104]: the rows have no attribute `Numbr`
      --> app.yaml:37:33
     37 |             sort: [Order.Total, Numbr]
        |                                 ^^^^^
      hint: did you mean `Number`?
    error[OML0103]: there is no variable `Order` here
      --> app.yaml:38:27
     38 |             dynamic_sort: Order.Number
        |                           ^^^^^
    "#);
    insta::assert_snapshot!(told(r#"
- sql: |
    SELECT {Customer}.[Nam], {Custmer}.[Id],
      [Totl] FROM {Order} WHERE x = @Leest
  parameters: { Least: N, Rows: Cs, Typed: { type: Integer, value: T }, None: { type: Text } }
- sql: |
    SELECT 'it''s
- sql: DELETE FROM {Order}
  output: Line
- sql: TRUNCATE {Order}
- sql: SELECT 1
  output: Deep
- sql: SELECT 1
  output: Text
"#), @r#"
    error[OML0505]: the statement gives rows, and nothing says what they are
      --> app.yaml:33:13
     33 |           - sql: |
        |             ^^^
      hint: name the structure or entity of a row with `output`
    error[OML0104]: `Customer` has no attribute `Nam`
      --> app.yaml:34:34
     34 |               SELECT {Customer}.[Nam], {Custmer}.[Id],
        |                                  ^^^
      hint: did you mean `Name`?
    error[OML0102]: there is no entity `Custmer`
      --> app.yaml:34:41
     34 |               SELECT {Customer}.[Nam], {Custmer}.[Id],
        |                                         ^^^^^^^
      hint: did you mean `Customer`?
    error[OML0104]: no entity of the statement has an attribute `Totl`
      --> app.yaml:35:18
     35 |                 [Totl] FROM {Order} WHERE x = @Leest
        |                  ^^^^
    error[OML0504]: the statement has no parameter `Leest`
      --> app.yaml:35:48
     35 |                 [Totl] FROM {Order} WHERE x = @Leest
        |                                                ^^^^^
      hint: did you mean `Least`?
    warning[OML0504]: the statement does not use `@Least`
      --> app.yaml:36:27
     36 |             parameters: { Least: N, Rows: Cs, Typed: { type: Integer, value: T }, None: { type: Text } }
        |                           ^^^^^
    warning[OML0504]: the statement does not use `@Rows`
      --> app.yaml:36:37
     36 |             parameters: { Least: N, Rows: Cs, Typed: { type: Integer, value: T }, None: { type: Text } }
        |                                     ^^^^
    error[OML0202]: a parameter is a basic value, not Customer List
      --> app.yaml:36:43
     36 |             parameters: { Least: N, Rows: Cs, Typed: { type: Integer, value: T }, None: { type: Text } }
        |                                           ^^
    warning[OML0504]: the statement does not use `@Typed`
      --> app.yaml:36:47
     36 |             parameters: { Least: N, Rows: Cs, Typed: { type: Integer, value: T }, None: { type: Text } }
        |                                               ^^^^^
    error[OML0202]: expected Integer, found Text
      --> app.yaml:36:78
     36 |             parameters: { Least: N, Rows: Cs, Typed: { type: Integer, value: T }, None: { type: Text } }
        |                                                                              ^
      hint: TextToInteger converts it
    error[OML0005]: `None` has no `value`
      --> app.yaml:36:83
     36 |             parameters: { Least: N, Rows: Cs, Typed: { type: Integer, value: T }, None: { type: Text } }
        |                                                                                   ^^^^
    warning[OML0504]: the statement does not use `@None`
      --> app.yaml:36:83
     36 |             parameters: { Least: N, Rows: Cs, Typed: { type: Integer, value: T }, None: { type: Text } }
        |                                                                                   ^^^^
    error[OML0503]: the ' is not closed
      --> app.yaml:38:22
     38 |               SELECT 'it''s
        |                      ^
    error[OML0505]: the statement gives no rows
      --> app.yaml:40:21
     40 |             output: Line
        |                     ^^^^
      hint: end it with RETURNING, or take `output` away
    error[OML0503]: this is no statement that an app may run
      --> app.yaml:41:18
     41 |           - sql: TRUNCATE {Order}
        |                  ^^^^^^^^
      hint: it is SELECT, INSERT, UPDATE, DELETE or MERGE, maybe behind WITH; tables are the model's
    error[OML0505]: `Deep.Line` is no basic value, and a column is one
      --> app.yaml:43:21
     43 |             output: Deep
        |                     ^^^^
    error[OML0505]: `output` is a structure or an entity, not Text
      --> app.yaml:45:21
     45 |             output: Text
        |                     ^^^^
    "#);
    assert!(told("- create_or_update: Kind\n  record: C\n").contains("OML0302"));
    assert!(told("- get_for_update: Kind\n  id: Id\n").contains("OML0302"));
}

#[test]
fn calculated_attributes_do_not_explode() {
    let chain = |length: usize| {
        let each: String = (1..=length).map(|i| format!(", C{i}: C{0} + C{0}", i - 1)).collect();
        told(&format!(
            "- aggregate: Order\n  calculated: {{ C0: Order.Total{each} }}\n  where: C{length} > 1\n"
        ))
    };
    assert!(!chain(10).contains("error["), "{}", chain(10));
    let refused = "this has more than 10000 parts";
    assert_eq!(chain(60).matches(refused).count(), 48);
    // Compiled, the text grows with their number only.
    let seen = statements(
        "- aggregate: Order\n  calculated: { A: Order.Total, B: A * A, C: B * B }\n  where: C > 1\n",
    );
    assert!(
        seen.contains(r#"CROSS JOIN LATERAL (SELECT round("B"."B" * "B"."B", 8) AS "C") AS "C" WHERE"#),
        "{seen}"
    );
}

#[test]
fn the_examples_of_the_documentation_compile() {
    let page = include_str!("../../../docs/oml/language.md");
    let section = page.split("\n## Queries\n").nth(1).unwrap().split("\n## ").next().unwrap();
    let examples: Vec<&str> =
        section.split("```yaml\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert_eq!(examples.len(), 3);
    for example in examples {
        let flow: String = example.lines().map(|line| format!("      {line}\n")).collect();
        let model = format!(
            r#"
app: D
entities:
  Customer: {{ attributes: {{ Name: Text }} }}
  Employee: {{}}
  Order:
    attributes: {{ CustomerId: Customer Identifier, AgentId: Employee Identifier, Total: Currency, PlacedOn: Date }}
structures:
  CustomerTotal: {{ attributes: {{ Name: Text, Total: Currency, Orders: Integer }} }}
actions:
  A:
    inputs: {{ From: Date, Wanted: Text, SortBy: Text, StartIndex: Integer, Limit: Currency }}
    outputs: {{ Text: Text, Sum: Currency }}
    flow:
{flow}"#
        );
        harness::build(&sources(&model));
    }
}

#[test]
fn what_was_renamed_is_found_where_it_is_stored() {
    let app = App::start(&sources(
        r#"
app: T
entities:
  Client:
    stored_as: Customer
    attributes: { Title: { type: Text, stored_as: Name } }
structures: { Line: { attributes: { Title: Text } } }
rest:
  A:
    methods:
      Run:
        inputs: { Title: Text }
        locals: { C: Client }
        outputs: { Out: Text }
        flow:
          - assign: { C.Title: Title }
          - create: Client
            name: New
            record: C
          - update: Client
            record: C
          - delete: Client
            id: New.Id
          - aggregate: [ Client, { entity: Client, as: Other, join: left, on: Client.Title = Other.Title } ]
            name: Found
            where: Client.Title = Title
            max: 1
          - sql: SELECT {Client}.[Title] FROM {Client} UNION SELECT c.[Title] FROM {Client} c
            output: Line
          - assign: { Out: 'Found.List[0].Other.Title + SQL.List[0].Title' }
"#,
    ));
    app.answers([
        Answer::Rows(vec![long(1)]),
        Answer::Touched(1),
        Answer::Touched(1),
        Answer::Rows(vec![text("a")]),
        Answer::Table(1, vec![text("b")]),
    ]);
    assert_eq!(app.get("/T/rest/A/Run?Title=t").body, "\"ab\"");
    insta::assert_snapshot!(app.seen().join("\n"), @r#"
    execute-returning: INSERT INTO "Customer" ("Name") VALUES ($1::text) RETURNING "Id" [text("t")]
    execute: UPDATE "Customer" SET "Name" = $1::text WHERE "Id" = $2::int8 [text("t"), int64(0)]
    execute: DELETE FROM "Customer" WHERE "Id" = $1::int8 [int64(1)]
    query: SELECT "Other"."Name" FROM "Customer" AS "Client" LEFT JOIN "Customer" AS "Other" ON ("Client"."Name" = "Other"."Name") WHERE ("Client"."Name" = $1::text) ORDER BY "Client"."Id", "Other"."Id" LIMIT NULLIF(GREATEST($2::int4, 0), 0) [text("t"), int32(1)]
    query: SELECT "Customer"."Name" FROM "Customer" UNION SELECT c."Name" FROM "Customer" c []
    commit
    "#);
}
