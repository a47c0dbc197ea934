//! Whatever the text, the compiler answers: with problems that have a place, or with a component that validates.
//!
//! Never with a panic, an exhausted stack or the internal error. The seed is fixed, so that a run says
//! something about the change under test and not about its luck; `PROPTEST_RNG_SEED` and
//! `PROPTEST_CASES` go further.

#![allow(missing_docs, clippy::unwrap_used, reason = "tests")]

#[path = "hostile/sizes.rs"]
mod sizes;

use std::fs;
use std::path::Path;
use std::sync::LazyLock;

use odeon_compiler::{Severity, Sources, compile, render};
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

/// Texts per property: a second or two for all of them.
const CASES: u32 = 150;
/// Changes to one text of a project; more would leave nothing of it.
const CHANGES_MAX: usize = 4;
const EXAMPLES: &str = "../../guest-examples";
/// Bytes of a component for each byte of text, at most, and of what every component has.
const BYTES_PER_BYTE_MAX: usize = 200;
const BYTES_ALWAYS: usize = 1 << 20;

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
    let bytes: usize = files.iter().map(|(_, text)| text.len()).sum();
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
            prop_assert!(
                component.len() < BYTES_ALWAYS + bytes * BYTES_PER_BYTE_MAX,
                "it grows without bound"
            );
        }
    }
    Ok(())
}

fn one(text: String) -> Vec<(String, String)> {
    vec![("app.yaml".to_owned(), text)]
}

/// The projects of `guest-examples`, each with what it refers to.
fn projects() -> &'static [Vec<(String, String)>] {
    static PROJECTS: LazyLock<Vec<Vec<(String, String)>>> = LazyLock::new(|| {
        let mut projects: Vec<Vec<(String, String)>> = Vec::new();
        for entry in fs::read_dir(EXAMPLES).unwrap() {
            let mut files = Vec::new();
            let folder = entry.unwrap().path();
            read_models(&folder, &folder, &mut files);
            files.sort();
            projects.extend(Some(files).filter(|files| !files.is_empty()));
        }
        projects.sort();
        projects
    });
    &PROJECTS
}

fn read_models(root: &Path, folder: &Path, files: &mut Vec<(String, String)>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read_models(root, &path, files);
        } else if path.extension().is_some_and(|kind| kind == "yaml" || kind == "json") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().replace('\\', "/");
            files.push((name, fs::read_to_string(&path).unwrap()));
        }
    }
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
    /// A line is written twice.
    Line(usize, usize),
    Indent(usize),
    /// Lines are gone, or stand elsewhere.
    RemoveLines(usize, usize),
    MoveLines(usize, usize, usize),
    /// A line many times: names that exist already, and flows that are long.
    Repeat(usize, usize),
    /// A word, sign or space is gone.
    RemoveToken(usize),
    /// A number becomes another.
    Number(usize, &'static str),
}

/// Numbers at and beyond the ends of what something takes.
const NUMBERS: &[&str] = &[
    "0",
    "-1",
    "1.5",
    "00",
    "2147483647",
    "2147483648",
    "-2147483648",
    "4294967296",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551616",
    "79228162514264337593543950336",
    "79228162514264337593543950337",
    "0.000000001",
    "1e9",
    "99999999999999999999999999999999999999999999999999999999999999999999999999999999",
];

fn change() -> impl Strategy<Value = Change> {
    let at = 0..10_000usize;
    prop_oneof![
        (at.clone(), 1..40usize).prop_map(|(at, length)| Change::Remove(at, length)),
        (at.clone(), proptest::sample::select(PIECES)).prop_map(|(at, piece)| Change::Insert(at, piece)),
        (at.clone(), at.clone()).prop_map(|(a, b)| Change::Swap(a, b)),
        (at.clone(), at.clone()).prop_map(|(a, b)| Change::Swap(a, b)),
        (at.clone(), at.clone()).prop_map(|(a, b)| Change::Line(a, b)),
        at.clone().prop_map(Change::Indent),
        (at.clone(), 1..6usize).prop_map(|(at, count)| Change::RemoveLines(at, count)),
        (at.clone(), 1..12usize, at.clone()).prop_map(|(at, count, to)| Change::MoveLines(at, count, to)),
        (at.clone(), 2..300usize).prop_map(|(at, times)| Change::Repeat(at, times)),
        at.clone().prop_map(Change::RemoveToken),
        (at, proptest::sample::select(NUMBERS)).prop_map(|(at, number)| Change::Number(at, number)),
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
        Change::RemoveLines(at, count) => {
            let at = place(at, lines.len());
            let left = lines.iter().enumerate().filter(|(i, _)| *i < at || *i >= at + count);
            left.map(|(_, line)| *line).collect::<Vec<_>>().join("\n")
        }
        Change::MoveLines(at, count, to) => {
            let mut lines = lines;
            let at = place(at, lines.len());
            let moved: Vec<&str> = lines.drain(at..(at + count).min(lines.len())).collect();
            let to = place(to, lines.len());
            lines.splice(to..to, moved);
            lines.join("\n")
        }
        Change::Repeat(at, times) => {
            let at = place(at, lines.len());
            let repeated = lines
                .iter()
                .enumerate()
                .flat_map(|(i, line)| std::iter::repeat_n(*line, if i == at { times } else { 1 }));
            repeated.collect::<Vec<_>>().join("\n")
        }
        Change::RemoveToken(at) => {
            let found = tokens(text);
            let Some((start, token)) = found.get(place(at, found.len())) else { return text.to_owned() };
            format!("{}{}", &text[..*start], &text[start + token.len()..])
        }
        Change::Number(at, number) => {
            let found = tokens(text);
            let numbers: Vec<_> =
                found.iter().filter(|(_, token)| token.starts_with(|c: char| c.is_ascii_digit())).collect();
            let Some((start, token)) = numbers.get(place(at, numbers.len())) else { return text.to_owned() };
            format!("{}{number}{}", &text[..*start], &text[start + token.len()..])
        }
    }
}

/// Words, runs of space, and signs, with their places.
fn tokens(text: &str) -> Vec<(usize, &str)> {
    let kind = |c: char| match c {
        c if c.is_alphanumeric() || c == '_' => 0,
        ' ' => 1,
        _ => 2,
    };
    let mut tokens: Vec<(usize, &str)> = Vec::new();
    for (at, c) in text.char_indices() {
        let end = at + c.len_utf8();
        match tokens.last_mut() {
            Some((start, token)) if kind(c) < 2 && token.ends_with(|last| kind(last) == kind(c)) => {
                *token = &text[*start..end];
            }
            _ => tokens.push((at, &text[at..end])),
        }
    }
    tokens
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
    fn a_project_changed(
        project in 0..projects().len(),
        file in 0..10_000usize,
        changes in proptest::collection::vec(change(), 1..=CHANGES_MAX),
    ) {
        let mut files = projects()[project].clone();
        let file = file % files.len();
        for change in &changes {
            files[file].1 = changed(&files[file].1, change);
        }
        answers(files)?;
    }
}

#[test]
fn every_project_is_one_as_it_is() {
    assert!(projects().len() >= 4, "{} projects", projects().len());
    for files in projects() {
        answers(files.clone()).unwrap();
    }
}
