//! Built-in functions and LIKE on rows that are really there: PostgreSQL must answer what the app answers.
//!
//! Each expression is computed twice per row, by the database as a calculated attribute and by the app from the
//! row's own attributes; the rows hold the edges of their types. That every function with SQL is among them is
//! for the compiler's tests, which hold the list.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::fs;

use odeon_tests::Installation;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

/// Expressions over the attributes of `P`, each made a text by what stands in front.
const EXPRESSIONS: &[(&str, &str)] = &[
    ("DecimalToText", "P.D / 3"),
    ("DecimalToText", "P.L / 7"),
    ("DecimalToText", "P.D * 0.2"),
    ("DecimalToText", "Abs(P.D)"),
    ("DecimalToText", "Mod(P.D, P.E)"),
    ("DecimalToText", "Mod(P.L, P.I)"),
    ("DecimalToText", "Sqrt(P.D)"),
    ("DecimalToText", "Sqrt(P.L)"),
    ("DecimalToText", "Trunc(P.D)"),
    ("DecimalToText", "Max(P.D, P.E)"),
    ("DecimalToText", "Min(P.D, P.I)"),
    ("IntegerToText", "Sign(P.D)"),
    ("IntegerToText", "Index(P.T, P.S)"),
    ("IntegerToText", "Index(ToUpper(P.T) + P.S, P.S)"),
    ("IntegerToText", "Length(P.T)"),
    ("", "Replace(P.T, P.S, P.T)"),
    ("", "Replace(P.T, P.S, \"-\") + P.T"),
    ("BooleanToText", "Replace(P.T, P.S, \"É\") = P.T"),
    ("", "Substr(P.T, P.I, P.J)"),
    ("", "Substr(P.T, 1, P.J)"),
    ("", "Substr(Trim(P.T), P.J, P.I)"),
    ("", "ToLower(P.T)"),
    ("", "ToUpper(P.T)"),
    ("", "\"<\" + Trim(P.T) + \">\""),
    ("", "\"<\" + TrimStart(P.T) + \">\""),
    ("", "\"<\" + TrimEnd(P.T) + \">\""),
    ("DateTimeToText", "AddDays(P.M, P.I)"),
    ("DateTimeToText", "AddHours(P.M, P.I)"),
    ("DateTimeToText", "AddHours(P.M, P.J)"),
    ("DateTimeToText", "AddMinutes(P.M, P.I)"),
    ("DateTimeToText", "AddMonths(P.M, P.I)"),
    ("DateTimeToText", "AddMonths(P.M, P.J)"),
    ("DateTimeToText", "AddSeconds(P.M, P.I)"),
    ("DateTimeToText", "AddYears(P.M, P.I)"),
    ("DateTimeToText", "AddYears(P.M, P.J)"),
    ("DateTimeToText", "BuildDateTime(P.A, DateTimeToTime(P.M))"),
    ("IntegerToText", "Year(P.M) + Month(P.M) * 10000 + Day(P.M) * 1000000"),
    ("IntegerToText", "DayOfWeek(P.M)"),
    ("IntegerToText", "Hour(P.M) * 10000 + Minute(P.M) * 100 + Second(P.M)"),
    ("IntegerToText", "DiffDays(P.M, P.N)"),
    ("IntegerToText", "DiffHours(P.M, P.N)"),
    ("IntegerToText", "DiffMinutes(P.N, P.M)"),
    ("IntegerToText", "DiffSeconds(P.M, P.N)"),
    ("IntegerToText", "BooleanToInteger(P.B)"),
    ("", "BooleanToText(P.B)"),
    ("TimeToText", "DateTimeToTime(P.M)"),
    ("DateToText", "DateTimeToDate(P.M)"),
    ("DateTimeToText", "DateToDateTime(P.A)"),
    ("", "DateToText(P.A)"),
    ("BooleanToText", "DecimalToBoolean(P.D)"),
    ("LongIntegerToText", "IdentifierToLongInteger(P.R)"),
    ("IntegerToText", "IdentifierToInteger(P.R)"),
    ("", "IdentifierToText(P.R)"),
    ("BooleanToText", "IntegerToBoolean(P.I)"),
    ("DecimalToText", "IntegerToDecimal(P.I)"),
    ("BooleanToText", "IntegerToIdentifier(P.J) = P.R"),
    ("BooleanToText", "IntegerToIdentifier(P.J) = NullIdentifier()"),
    ("", "IntegerToText(P.I) + LongIntegerToText(P.L)"),
    ("BooleanToText", "LongIntegerToIdentifier(P.L) = P.R"),
    ("IntegerToText", "LongIntegerToInteger(P.L)"),
    ("BooleanToText", "LongIntegerToIntegerValidate(P.L)"),
    ("", "If(P.B, P.T, P.S)"),
];

fn model() -> String {
    let mut calculated = String::new();
    let mut pairs = String::new();
    for (at, (to_text, expression)) in EXPRESSIONS.iter().enumerate() {
        calculated.push_str(&format!("              C{at}: '{expression}'\n"));
        let (of_row, of_app) = (format!("Row.C{at}"), expression.replace("P.", "Row.P."));
        pairs.push_str(&format!(
            "              - assign: {{ Pair.Name: '{at}', Pair.Database: '{to_text}({of_row})', Pair.App: '{to_text}({of_app})' }}\n              - {{ list_append: Out, element: Pair }}\n"
        ));
    }
    format!(
        r#"app: Functions
entities:
  P:
    attributes:
      T: Text
      S: Text
      I: Integer
      J: Integer
      L: Long Integer
      D: Decimal
      E: Decimal
      A: Date
      M: Date Time
      N: Date Time
      B: Boolean
      R: {{ type: P Identifier, delete_rule: Ignore }}
structures:
  Pair: {{ attributes: {{ Name: Text, Database: Text, App: Text }} }}
rest:
  A:
    methods:
      Add:
        verb: POST
        inputs: {{ P: P }}
        flow:
          - {{ create: P, record: P }}
      Like:
        inputs: {{ Pattern: Text }}
        outputs: {{ Out: Text }}
        flow:
          - {{ list: P, name: Found, where: P.T like Pattern, sort: [P.Id] }}
          - for_each: Found.List
            as: Row
            do:
              - assign: {{ Out: Out + Row.S }}
      Compare:
        outputs: {{ Out: Pair List }}
        locals: {{ Pair: Pair }}
        flow:
          - aggregate: P
            name: Found
            calculated:
{calculated}            sort: [P.Id]
          - for_each: Found.List
            as: Row
            do:
{pairs}"#
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_answers_what_the_app_answers() {
    let site = Installation::start().await;
    let project = site.folder.join("functions");
    fs::create_dir(&project).unwrap();
    fs::write(project.join("app.yaml"), model()).unwrap();
    let url = site.succeed(&["publish", project.to_str().unwrap()]);
    let api = format!("{}rest/A", url.trim_end());
    for row in rows() {
        let (status, answer) = site.send(Method::POST, &format!("{api}/Add"), Some(row)).await;
        assert!(status.is_success(), "{answer}");
    }
    compare(&site, &api).await;
    like(&site, &api).await;
}

async fn like(site: &Installation, api: &str) {
    for text in ["Straße", "STRASSE", "Cafe\u{301}", "ÉCLAIR", "50% _off\\", "ΟΔΟΣ", "Ёжик", "line\nline"]
    {
        let at = text.chars().next().unwrap();
        let row = json!({ "T": text, "S": at.to_string(), "B": true });
        let (status, answer) = site.send(Method::POST, &format!("{api}/Add"), Some(row)).await;
        assert!(status.is_success(), "{answer}");
    }
    for (pattern, found) in [
        ("stras%", "SS"),
        ("STRA__E", "SS"),
        ("café", "C"),
        ("%E%clair", "É"),
        ("%\\", "5"),
        ("50% _off%", "5"),
        ("οδός", "ΣΟ"), // one is of the rows above
        ("ежик", "Ё"),
        ("ёжй%", ""),
        ("%ne_li%", "l"),
        ("line", ""),
        ("", ""),
    ] {
        let query = reqwest::Url::parse_with_params("http://app", [("Pattern", pattern)]).unwrap();
        let (status, answer) = site.get(&format!("{api}/Like?{}", query.query().unwrap())).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        assert_eq!(answer, json!(found), "{pattern}");
    }
}

async fn compare(site: &Installation, api: &str) {
    let (status, answer) = site.get(&format!("{api}/Compare")).await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    let answers = answer.as_array().unwrap();
    assert_eq!(answers.len(), rows().len() * EXPRESSIONS.len());
    let differs = |answer: &&Value| answer["Database"] != answer["App"];
    let wrong = answers.iter().enumerate().filter(|(_, answer)| differs(answer)).map(|(at, answer)| {
        let (row, (_, expression)) = (at / EXPRESSIONS.len(), EXPRESSIONS[at % EXPRESSIONS.len()]);
        format!("row {row}: {expression} is {} and not {}", answer["Database"], answer["App"])
    });
    let wrong: Vec<String> = wrong.collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn rows() -> Vec<Value> {
    vec![
        json!({}),
        json!({ "T": "  Straße Ärger  ", "S": "ß", "I": 3, "J": 4, "L": 7, "D": 2.5, "E": -0.75, "A": "2024-02-29",
            "M": "2024-01-31T23:59:59.5Z", "N": "2025-12-31T00:00:00Z", "B": true, "R": 7 }),
        json!({ "T": "aXbX É e", "S": "e", "I": 2_147_483_647, "J": 1, "L": i64::MAX, "D": 7e28, "E": 7,
            "A": "3000-12-31", "M": "3000-12-31T23:59:59Z", "N": "1900-01-01T00:00:00Z", "R": 9_223_372_036_854_775_807_i64 }),
        json!({ "T": "\u{130}I\u{20ac}\u{1f600}x", "S": "", "I": -2_147_483_648, "J": -1, "L": i64::MIN, "D": -0.00000001,
            "E": 0, "M": "1900-01-01T00:00:00Z", "N": "3000-12-31T23:59:59Z", "R": 4_294_967_296_i64 }),
        json!({ "T": "ΟΔΟΣ", "S": "Σ", "I": -13, "J": 13, "L": 2_147_483_648_i64, "D": -7.25, "E": 2, "A": "1999-03-31",
            "M": "2024-03-31T08:07:06Z", "N": "2024-03-30T09:00:00Z", "B": true, "R": 13 }),
        json!({ "T": "x", "S": "longer than x", "I": 0, "J": 2_147_483_647, "L": -2_147_483_648_i64, "D": 0.5, "E": 0.00000003,
            "A": "1900-01-01", "M": "2000-02-29T12:00:00Z", "N": "2000-02-29T12:00:00.000001Z" }),
    ]
}
