//! Whatever the text, the compiler answers: with problems that have a place, or with a component that validates.
//!
//! Never with a panic, an exhausted stack or the internal error. The seed is fixed, so that a run says
//! something about the change under test and not about its luck; `PROPTEST_RNG_SEED` and
//! `PROPTEST_CASES` go further.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

use odeon_compiler::{Severity, Sources, compile, render};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// Texts per property: a second or two for all of them.
const CASES: u32 = 150;
/// Changes to one text of the sample; more would leave nothing of it.
const CHANGES_MAX: usize = 4;

fn config() -> ProptestConfig {
    let mut config = ProptestConfig::default();
    if std::env::var_os("PROPTEST_CASES").is_none() {
        config.cases = CASES;
    }
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(1);
    }
    config.failure_persistence = None; // the seed and the shrunk text say it all
    config
}

/// What must hold of every text.
fn answers(files: Vec<(String, String)>) -> Result<(), TestCaseError> {
    let names: Vec<String> = files.iter().map(|(name, _)| name.clone()).collect();
    let sources = Sources::new(files);
    let compiled = compile(&sources);
    let shown = render(&sources, &compiled.problems);
    let errors = compiled.problems.iter().filter(|p| p.severity == Severity::Error).count();
    for problem in &compiled.problems {
        prop_assert!(problem.code != "OML0901", "{shown}");
        prop_assert!(names.contains(&problem.file), "{problem:?}");
        prop_assert!(
            problem.line > 0 && problem.column > 0 && problem.end_column > problem.column,
            "{shown}"
        );
        prop_assert!(!problem.message.is_empty(), "{shown}");
    }
    match compiled.component {
        None => prop_assert!(errors > 0, "neither a component nor an error"),
        Some(component) => {
            prop_assert_eq!(errors, 0);
            let valid = wasmparser::Validator::new().validate_all(&component);
            prop_assert!(valid.is_ok(), "{:?}", valid.err());
        }
    }
    Ok(())
}

fn one(text: String) -> Vec<(String, String)> {
    vec![("app.yaml".to_owned(), text)]
}

fn sample() -> Vec<(String, String)> {
    let file = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    vec![
        file("actions.yaml", include_str!("../../../guest-examples/expenses/actions.yaml")),
        file("app.yaml", include_str!("../../../guest-examples/expenses/app.yaml")),
        file("data.yaml", include_str!("../../../guest-examples/expenses/data.yaml")),
        file("rest.yaml", include_str!("../../../guest-examples/expenses/rest.yaml")),
    ]
}

/// Pieces of YAML and OML that mean something somewhere.
const PIECES: &[&str] = &[
    "\n",
    "\n  ",
    "\n    ",
    " ",
    "\t",
    "- ",
    ": ",
    ",",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "'",
    "#",
    "|",
    ">",
    "&a",
    "*a",
    "!t",
    "? ",
    "---\n",
    "...\n",
    "%YAML 1.2\n",
    "<<: ",
    "\u{feff}",
    "\0",
    "\r",
    "\u{2028}",
    "é",
    "🦀",
    "app: T\n",
    "entities:",
    "structures:",
    "actions:",
    "rest:",
    "flow:",
    "methods:",
    "attributes:",
    "inputs:",
    "static: true",
    "records:",
    "{ type: Text, length: 3 }",
    "{ type: Text List, header: X-Y }",
    "E Identifier",
    "E List",
    "Currency",
    "E:",
    "A:",
    "if: ",
    "then:",
    "for_each: ",
    "call: ",
    "where: ",
    "raise: User",
    "return",
    "null",
    "~",
    "-1",
    "1e400",
    "99999999999999999999999999999999999999999",
    "170141183460469231731687303715884105727.9",
    "2026-02-31",
];

/// Pieces of expressions.
const TOKENS: &[&str] = &[
    "1",
    "2147483648",
    "0.000000001",
    "99999999999999999999999999999",
    "\"t\"",
    "#2026-01-31#",
    "True",
    "I",
    "D",
    "T",
    "B",
    "R",
    "L",
    "X",
    "R.A",
    "R.N",
    "L[0]",
    "L.Length",
    ".Empty",
    "Entities.C.One",
    "(",
    ")",
    "[",
    "]",
    ",",
    ".",
    "+",
    "-",
    "*",
    "/",
    "=",
    "<>",
    "<",
    ">=",
    "and",
    "or",
    "not",
    "If(",
    "Length(",
    "Substr(",
    "NullIdentifier()",
    "Round(",
    "AddDays(",
    "Trim(",
    "E.N",
    "E.A",
];

/// One change to a text: where (in parts of 10,000), how much, and what instead.
#[derive(Debug, Clone)]
enum Change {
    Remove(usize, usize),
    Insert(usize, &'static str),
    /// A word becomes another word of the same text: names and types in each other's places.
    Swap(usize, usize),
    /// A line is written twice, or moved.
    Line(usize, usize),
    Indent(usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = 0..10_000usize;
    prop_oneof![
        (at.clone(), 1..40usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (at.clone(), proptest::sample::select(PIECES)).prop_map(|(at, piece)| Change::Insert(at, piece)),
        (at.clone(), at.clone()).prop_map(|(a, b)| Change::Swap(a, b)),
        (at.clone(), at.clone()).prop_map(|(a, b)| Change::Swap(a, b)),
        (at.clone(), at.clone()).prop_map(|(a, b)| Change::Line(a, b)),
        at.prop_map(Change::Indent),
    ]
}

fn changed(text: &str, change: &Change) -> String {
    let chars: Vec<char> = text.chars().collect();
    let place = |at: usize, of: usize| (at * of / 10_000).min(of.saturating_sub(1));
    let lines: Vec<&str> = text.lines().collect();
    match *change {
        Change::Remove(at, length) => {
            let at = place(at, chars.len());
            chars.iter().enumerate().filter(|(i, _)| *i < at || *i >= at + length).map(|(_, c)| *c).collect()
        }
        Change::Insert(at, piece) => {
            let (before, after) = chars.split_at(place(at, chars.len()));
            before.iter().collect::<String>() + piece + &after.iter().collect::<String>()
        }
        Change::Swap(a, b) => {
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let words: Vec<&str> = text.split(|c| !is_word(c)).filter(|w| !w.is_empty()).collect();
            let (Some(from), Some(to)) = (words.get(place(a, words.len())), words.get(place(b, words.len())))
            else {
                return text.to_owned();
            };
            // The occurrence itself, not the first of its name.
            let start = from.as_ptr() as usize - text.as_ptr() as usize;
            format!("{}{to}{}", &text[..start], &text[start + from.len()..])
        }
        Change::Line(from, to) => {
            let mut lines = lines;
            if let Some(line) = lines.get(place(from, lines.len())).copied() {
                lines.insert(place(to, lines.len()), line);
            }
            lines.join("\n")
        }
        Change::Indent(at) => {
            let at = place(at, lines.len());
            let indented = lines.iter().enumerate().map(|(i, line)| {
                let by = if i == at { "  " } else { "" };
                format!("{by}{line}")
            });
            indented.collect::<Vec<_>>().join("\n")
        }
    }
}

/// An app in which the pieces of expressions mean something.
fn with_expression(expr: &str) -> String {
    let expr = expr.replace('\'', "''");
    format!(
        "app: T\nentities:\n  C: {{ static: true, records: {{ One: {{}} }} }}\n  E: {{ attributes: {{ N: Integer, A: Text, C: C Identifier }} }}\nactions:\n  F:\n    locals: {{ I: Integer, D: Currency, T: Text, B: Boolean, R: E, L: E List, X: C Identifier }}\n    flow:\n      - assign: {{ T: '{expr}' }}\n      - if: '{expr}'\n      - list: E\n        where: '{expr}'\n      - for_each: '{expr}'\n        as: Y\n"
    )
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_bytes(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        answers(one(String::from_utf8_lossy(&bytes).into_owned()))?;
    }

    #[test]
    fn any_pieces(pieces in proptest::collection::vec(proptest::sample::select(PIECES), 0..60)) {
        answers(one(pieces.concat()))?;
    }

    #[test]
    fn any_expression(tokens in proptest::collection::vec(proptest::sample::select(TOKENS), 1..12)) {
        answers(one(with_expression(&tokens.join(" "))))?;
    }

    #[test]
    fn the_sample_changed(file in 0..4usize, changes in proptest::collection::vec(change(), 1..=CHANGES_MAX)) {
        let mut files = sample();
        for change in &changes {
            files[file].1 = changed(&files[file].1, change);
        }
        answers(files)?;
    }
}
