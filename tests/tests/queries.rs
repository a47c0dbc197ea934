//! Queries of a compiled app on rows that are really there: what PostgreSQL makes of the SQL.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;

use odeon_tests::Installation;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

const MODEL: &str = r#"
app: Queries
entities:
  Customer: { attributes: { Name: Text, ChiefId: Customer Identifier } }
  Order:
    attributes:
      CustomerId: Customer Identifier
      Total: Currency
      PlacedOn: Date
structures:
  Pair: { attributes: { Name: Text, Total: Decimal, Number: Long Integer } }
  Page: { attributes: { Pairs: Pair List, Count: Long Integer } }
  Sums: { attributes: { Name: Text, Orders: Long Integer, Known: Long Integer, Sum: Decimal, Mean: Decimal, Last: Date } }
actions:
  Fill:
    outputs: { Ids: Text }
    locals: { C: Customer, Cs: Customer List, O: Order, Os: Order List }
    flow:
      - assign: { C.Name: '"Ann"' }
      - list_append: Cs
        element: C
      - assign: { C.Name: '"Böb"' }
      - list_append: Cs
        element: C
      - assign: { C.Name: '"Cid"' }
      - list_append: Cs
        element: C
      - create_or_update_some: Customer
        name: Customers
        records: Cs
      - assign: { O.CustomerId: 'Customers.Ids[0]', O.Total: 10, O.PlacedOn: '#2025-05-01#' }
      - list_append: Os
        element: O
      - assign: { O.Total: 30, O.PlacedOn: '#2026-01-31#' }
      - list_append: Os
        element: O
      - assign: { O.CustomerId: 'Customers.Ids[1]', O.Total: 20.5 }
      - list_append: Os
        element: O
      - assign: { O.CustomerId: NullIdentifier(), O.Total: 5 }
      - list_append: Os
        element: O
      - create_or_update_some: Order
        name: Orders
        records: Os
      - assign: { C.Id: 'Customers.Ids[2]', C.Name: '"Cyd"', C.ChiefId: 'Customers.Ids[0]' }
      - create_or_update: Customer
        name: Renamed
        record: C
      - assign: { C.Id: NullIdentifier(), C.Name: '"gone"' }
      - create_or_update: Customer
        name: Gone
        record: C
      - delete: Customer
        id: Gone.Id
      - assign: { Ids: 'Customers.Ids.Length + " " + Orders.Ids.Length + " " + (Renamed.Id = Customers.Ids[2])' }
rest:
  A:
    methods:
      Fill:
        verb: POST
        outputs: { Ids: Text }
        flow:
          - call: Fill
          - assign: { Ids: Fill.Ids }
      Sorted:
        inputs: { By: Text, Max: Integer, Start: Integer }
        outputs: { Page: Page }
        locals: { Pair: Pair }
        flow:
          - aggregate:
              - Order
              - { entity: Customer, join: left, on: Order.CustomerId = Customer.Id }
            name: Found
            calculated: { Net: Order.Total / 2 + Length(Customer.Name) }
            dynamic_sort: By
            max: Max
            start: Start
          - for_each: Found.List
            as: Row
            do:
              - assign: { Pair.Name: Row.Customer.Name, Pair.Total: Row.Net }
              - list_append: Page.Pairs
                element: Pair
          - assign: { Page.Count: Found.Count }
      Groups:
        outputs: { Out: Sums List }
        locals: { Sums: Sums }
        flow:
          - aggregate:
              - Customer
              - { entity: Order, join: left, on: Order.CustomerId = Customer.Id and Order.Total > 10 }
            name: Found
            group_by: { Name: Customer.Name + "", Late: Year(Order.PlacedOn) > 2025 }
            totals:
              Orders: count
              Known: { count: Order.Id }
              Sum: { sum: Order.Total }
              Mean: { average: Order.Total / 3 }
              Last: { max: Order.PlacedOn }
            sort: [Sum desc, Name]
          - for_each: Found.List
            as: Row
            do:
              - assign: { Sums.Name: Row.Name, Sums.Orders: Row.Orders, Sums.Known: Row.Known }
              - assign: { Sums.Sum: Row.Sum, Sums.Mean: Row.Mean, Sums.Last: Row.Last }
              - list_append: Out
                element: Sums
      Exact:
        outputs: { Out: Text }
        locals: { Ids: Customer Identifier List }
        flow:
          - aggregate: Order
            name: Found
            calculated: { Third: (Order.Total + 99999999999999990) / 3, Tiny: (Order.Total - 9.99999999) * 0.6 }
            where: [ Order.Total = 10, Tiny = 0.00000001 ]
            max: 5
          - aggregate: Order
            name: All
            where: 'Ids.Empty or Order.CustomerId = Ids[0]'
            totals: { N: count, Unread: { sum: Order.Total * 1.2 } }
          - assign: { Out: 'Found.List[0].Third + " of " + Found.List.Length + " of " + All.List[0].N' }
      Nothing:
        outputs: { Out: Text }
        flow:
          - aggregate: Order
            name: Found
            where: Order.Total > 1000
            totals: { N: count, Sum: { sum: Order.Total }, Last: { max: Order.PlacedOn } }
          - assign: { Out: 'Found.List[0].N + " " + Found.List[0].Sum + " " + DateToText(Found.List[0].Last) + " " + Found.Count' }
      Words:
        outputs: { Page: Page }
        locals: { Pair: Pair }
        flow:
          - aggregate:
              - Order
              - entity: Order
                as: Other
                join: full
                on: Order.CustomerId = Other.CustomerId and Order.Id <> Other.Id
            name: Found
            calculated: { Word: 'If(Order.Total > 10, "BIG", "small")', Ref: Order.CustomerId }
            where: [Word = "big" or Ref = NullIdentifier(), 'If(Other.Total > 1000, "a", "b") = "B"']
            group_by: [Word, Ref]
            totals: { N: count, First: { min: Word } }
            dynamic_sort: '"[N] desc, Ref"'
            max: 2
          - for_each: Found.List
            as: Row
            do:
              - assign: { Pair.Name: Row.First + Row.N + (Row.Ref = NullIdentifier()), Page.Count: Found.Count }
              - list_append: Page.Pairs
                element: Pair
      Sql:
        verb: POST
        inputs: { Least: Currency }
        outputs: { Out: Pair List }
        flow:
          - sql: |
              -- who ordered, it's {No} @such
              SELECT {Customer}.[Name], sum(o.[Total]), count(*)
              FROM {Order} o JOIN {Customer} ON o.[CustomerId] = {Customer}.[Id]
              WHERE o.[Total] > @Least AND {Customer}.[Name] <> '@Least'
              GROUP BY {Customer}.[Id] ORDER BY 2 DESC;
            name: Best
            parameters: { Least: Least }
            output: Pair
          - assign: { Out: Best.List }
          - sql: INSERT INTO {Customer} ([Name], [ChiefId]) VALUES (@Name, @Chief) RETURNING [Name], 0.25::float4::numeric, [Id] - [Id]
            name: Made
            parameters: { Name: '"Dan"', Chief: NullIdentifier() }
            output: Pair
          - list_append: Out
            element: 'Made.List[0]'
          - sql: DELETE FROM {Customer} WHERE [Name] = @Name AND [ChiefId] IS NULL
            name: Gone
            parameters: { Name: '"DAN"' }
          - if: Gone.Count <> 1
            then:
              - raise: User
                message: '"deleted " + Gone.Count'
      Wrong:
        flow:
          - sql: SELECT [Name], 'x', 1 FROM {Customer}
            output: Pair
      Bump:
        verb: POST
        flow:
          - list: Order
            name: First
            where: Order.Total >= 30
          - get_for_update: Order
            name: Locked
            id: First.List[0].Id
          - assign: { Locked.Record.Total: Locked.Record.Total + 1 }
          - update: Order
            record: Locked.Record
"#;

/// A method `name` that lists pairs of names and totals.
fn pairs(name: &str, join: &str, more: &str) -> String {
    format!(
        r#"
      {name}:
        outputs: {{ Out: Pair List }}
        locals: {{ Pair: Pair }}
        flow:
          - aggregate: [ Order, {{ entity: Customer, as: C, {join} }} ]
            name: Found
            sort: [C.Name, Order.Total]
            {more}
          - for_each: Found.List
            as: Row
            do:
              - assign: {{ Pair.Name: Row.C.Name, Pair.Total: Row.Order.Total, Pair.Number: Found.Count }}
              - list_append: Out
                element: Pair
"#
    )
}

struct App<'s> {
    site: &'s Installation,
    api: String,
}

impl App<'_> {
    async fn get(&self, path: &str) -> Value {
        let (status, answer) = self.site.get(&format!("{}/{path}", self.api)).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    async fn post(&self, path: &str) -> Value {
        let (status, answer) = self.site.send(Method::POST, &format!("{}/{path}", self.api), None).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer}");
        answer
    }

    async fn refused(&self, path: &str, message: &str) {
        let (status, answer) = self.site.get(&format!("{}/{path}", self.api)).await;
        assert_eq!(status, StatusCode::INTERNAL_SERVER_ERROR, "{answer}");
        assert!(answer.to_string().contains(message), "{answer}");
    }

    /// `Name Total` of each pair, and the first one's number.
    async fn pairs(&self, path: &str) -> String {
        shown(&self.get(path).await)
    }
}

fn shown(pairs: &Value) -> String {
    let pairs = pairs.as_array().unwrap();
    let each = pairs.iter().map(|pair| format!("{}{}", pair["Name"].as_str().unwrap(), pair["Total"]));
    let number = pairs.first().map_or(&Value::Null, |pair| &pair["Number"]);
    format!("{} of {number}", each.collect::<Vec<_>>().join(" "))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queries_mean_in_the_database_what_the_language_says() {
    let site = Installation::start().await;
    let key = "on: Order.CustomerId = C.Id";
    let methods = [
        pairs("Inner", key, ""),
        pairs("Left", &format!("join: left, {key}"), ""),
        pairs("Full", &format!("join: full, {key}"), ""),
        pairs("Cross", "join: cross", "max: 2"),
        // Conditions see the defaults of what is not there.
        pairs("Without", &format!("join: full, {key} and Order.Total < 100"), "where: Order.Total = 0"),
        pairs("Nobody", &format!("join: left, {key}"), "where: C.Id = NullIdentifier()"),
        pairs(
            "Folded",
            &format!("join: left, {key}"),
            "where: ['C.Name = \"BOB\" or C.Name = \"\"', Order.Total > 1]",
        ),
        pairs("Unequal", &format!("join: left, {key}"), "where: not (Order.CustomerId = C.Id)"),
        pairs("Null", "on: Order.CustomerId = C.ChiefId", "where: C.Name < \"c\""),
    ];
    let model = MODEL.to_owned() + &methods.concat();
    let project = site.folder.join("queries");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("app.yaml"), model).unwrap();
    let url = site.succeed(&["publish", project.to_str().unwrap()]);
    let app = App { site: &site, api: format!("{}rest/A", url.trim_end()) };
    assert_eq!(app.post("Fill").await, json!("3 4 True"));

    assert_eq!(app.pairs("Inner").await, "Ann10 Ann30 Böb20.5 of 3");
    assert_eq!(app.pairs("Left").await, "5 Ann10 Ann30 Böb20.5 of 4");
    assert_eq!(app.pairs("Full").await, "5 Ann10 Ann30 Böb20.5 Cyd0 of 5");
    assert_eq!(app.pairs("Cross").await, "Ann5 Ann10 of 12");
    assert_eq!(app.pairs("Without").await, "Cyd0 of 1");
    assert_eq!(app.pairs("Nobody").await, "5 of 1");
    assert_eq!(app.pairs("Folded").await, "5 Böb20.5 of 2");
    assert_eq!(app.pairs("Unequal").await, " of null");
    assert_eq!(app.pairs("Null").await, "Ann5 Böb5 of 2");

    dynamic_sorts_and_pages(&app).await;
    groups(&app).await;
    statements(&app).await;
    a_locked_row_is_written_by_one_at_a_time(&app).await;
    renamed_elements_keep_their_rows(&site).await;
    keys_are_what_the_model_says(&site).await;
}

async fn dynamic_sorts_and_pages(app: &App<'_>) {
    let sorted = async |by: &str, page: &str| {
        let page = app.get(&format!("Sorted?By={by}&{page}")).await;
        format!("{} {}", shown(&page["Pairs"]), page["Count"])
    };
    assert_eq!(sorted("", "").await, "Ann8 Ann18 Böb13.25 2.5 of 0 4");
    assert_eq!(sorted("Customer.Name+desc,Order.Total+desc", "").await, "Böb13.25 Ann18 Ann8 2.5 of 0 4");
    assert_eq!(sorted("%5BNet%5D+DESC", "Max=2&Start=1").await, "Böb13.25 Ann8 of 0 4");
    // The null identifier comes first, as 0 does.
    assert_eq!(sorted("Order.CustomerId", "Max=1").await, "2.5 of 0 4");
    assert_eq!(sorted("Customer.Id+desc", "Start=3&Max=9").await, "2.5 of 0 4");
    assert_eq!(sorted("", "Start=9").await, " of null 4");
    app.refused("Sorted?By=(select+1)", "cannot sort by `(select 1)`; there is Net, Order.Id").await;
}

async fn groups(app: &App<'_>) {
    // Rounded once at the eighth digit; and what an empty list does not have is not asked for.
    assert_eq!(app.get("Exact").await, json!("33333333333333333.33333333 of 1 of 4"));
    let sums = |name: &str, known: i64, sum: f64, mean: f64, last: &str| json!({ "Name": name, "Orders": 1, "Known": known, "Sum": sum, "Mean": mean, "Last": last });
    let expected = [
        sums("Ann", 1, 30.0, 10.0, "2026-01-31"),
        sums("Böb", 1, 20.5, 6.833_333_33, "2026-01-31"),
        sums("Cyd", 0, 0.0, 0.0, "1900-01-01"),
    ];
    let found = app.get("Groups").await;
    let numbers = |groups: &Value| groups.to_string().replace(".0,", ",").replace(".0}", "}");
    assert_eq!(numbers(&found), numbers(&json!(expected)));
    // A text that comes from no column compares like one; groups are counted as groups.
    let words = app.get("Words").await;
    assert_eq!(format!("{} {}", shown(&words["Pairs"]), words["Count"]), "small3True0 BIG1False0 of 0 3");
    assert_eq!(app.get("Nothing").await, json!("0 0 1900-01-01 1"));
}

async fn statements(app: &App<'_>) {
    let found = app.post("Sql?Least=10").await;
    assert_eq!(shown(&found), "Ann30 Böb20.5 Dan0.25 of 1");
    app.refused("Wrong", "column 2 is a text that does not fit a Decimal").await;
}

async fn a_locked_row_is_written_by_one_at_a_time(app: &App<'_>) {
    let bump = || app.post("Bump");
    tokio::join!(bump(), bump(), bump(), bump(), bump(), bump());
    assert_eq!(app.pairs("Inner").await, "Ann10 Ann36 Böb20.5 of 3");
}

/// Entity and attribute by their names, and where they are stored.
fn renames(entity: &str, attribute: &str, table: &str, column: &str) -> String {
    format!(
        "app: Renames
entities:
  {entity}:
    {table}
    attributes: {{ {attribute}: {{ type: Text{column} }}, Extra: Text }}
rest:
  A:
    methods:
      Add:
        verb: POST
        inputs: {{ Text: Text }}
        locals: {{ Row: {entity} }}
        flow:
          - assign: {{ Row.{attribute}: Text }}
          - create: {entity}
            record: Row
      All:
        outputs: {{ Out: Text }}
        flow:
          - list: {entity}
            name: Rows
            max: 9
          - for_each: Rows.List
            as: Row
            do: [ assign: {{ Out: Out + Row.{attribute} }} ]
"
    )
}

async fn renamed_elements_keep_their_rows(site: &Installation) {
    let file = site.folder.join("renames.yaml");
    let publish = |model: String| {
        fs::write(&file, model).unwrap();
        site.succeed(&["publish", file.to_str().unwrap()])
    };
    let url = publish(renames("Note", "Text", "", ""));
    let app = App { site, api: format!("{}rest/A", url.trim_end()) };
    app.post("Add?Text=a").await;
    publish(renames("Remark", "Words", "stored_as: Note", ", stored_as: Text"));
    assert_eq!(app.get("All").await, json!("a"));
    app.post("Add?Text=b").await;
    site.succeed(&["rollback", "Renames"]);
    assert_eq!(app.get("All").await, json!("ab"));
}

const KEYS: &str = "app: Keys
entities:
  Country: { attributes: { Id: { type: Text, length: 2 }, Rate: { type: Decimal, decimals: 2 }, Number: { type: Integer, auto_number: true } } }
  City: { attributes: { Country: Country Identifier, Name: Text } }
  Mayor: { attributes: { Id: { type: City Identifier, delete_rule: Delete }, Name: Text } }
rest:
  Api:
    methods:
      Run:
        outputs: { Text: Text }
        locals: { Country: Country, City: City, Mayor: Mayor }
        flow:
          - assign: { Country.Id: TextToIdentifier(\"AT\"), Country.Rate: 1.005 }
          - create_or_update: Country
            name: First
            record: Country
          - assign: { Country.Rate: 2.015, City.Country: First.Id, City.Name: '\"Graz\"' }
          - create_or_update: Country
            record: Country
          - create: City
            name: Graz
            record: City
          - assign: { City.Country: NullIdentifier(), City.Name: '\"Nowhere\"' }
          - create: City
            record: City
          - assign: { Mayor.Id: Graz.Id, Mayor.Name: '\"Ann\"' }
          - create: Mayor
            record: Mayor
          - aggregate: [ City, { entity: Country, join: left, on: City.Country = Country.Id }, { entity: Mayor, join: left, on: Mayor.Id = City.Id } ]
            name: All
            sort: [City.Name]
            max: 0
          - for_each: All.List
            as: Row
            do: [ assign: { Text: Text + Row.City.Country + \" \" + Row.City.Name + \" \" + Row.Country.Rate + \" \" + Row.Country.Number + \" \" + Row.Mayor.Name + \";\" } ]
          - list: City
            name: Austrian
            where: City.Country = TextToIdentifier(\"at\")
            max: 0
          - list: City
            name: Stateless
            where: City.Country = NullTextIdentifier()
            max: 0
          - delete: City
            id: Graz.Id
          - list: Mayor
            name: Left
            max: 0
          - assign: { Text: 'Text + Austrian.List.Length + Stateless.List.Length + Left.List.Length' }
";

/// Keys that the app says, one-to-one entities, counted attributes and decimals.
async fn keys_are_what_the_model_says(site: &Installation) {
    let file = site.folder.join("keys.yaml");
    fs::write(&file, KEYS).unwrap();
    site.succeed(&["publish", file.to_str().unwrap()]);
    let run = site.get(&site.url("development", "/Keys/rest/Api/Run")).await;
    assert_eq!(run, (StatusCode::OK, json!("AT Graz 2.02 1 Ann; Nowhere 0 0 ;110")));
}
