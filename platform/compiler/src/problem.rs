//! Problems: what the compiler says about a model, as data and as text for people.
//!
//! Every problem has a code that never changes its meaning, explained in `docs/errors/<code>.md`; a
//! test holds list and pages together. Invariant: a problem names a place in the text.

use std::cell::Cell;

use serde::Serialize;

use crate::emit::Excess;
use crate::sources::{Sources, Span};
use crate::yaml::Name;

/// How bad a problem is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing can be built.
    Error,
    /// It can be built, and is probably not meant.
    Warning,
}

/// One problem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Problem {
    /// Stable code, such as `OML0104`.
    pub code: &'static str,
    /// Error or warning.
    pub severity: Severity,
    /// The file, as given.
    pub file: String,
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
    /// The column behind the last character.
    pub end_column: u32,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub hint: Option<String>,
}

/// Every code with its title, in the order of the documentation.
pub const CODES: &[(&str, &str)] = &[
    ("OML0001", "the text is not YAML or JSON"),
    ("OML0002", "unknown key"),
    ("OML0003", "wrong shape"),
    ("OML0004", "name used twice"),
    ("OML0005", "missing key"),
    ("OML0006", "not a valid name"),
    ("OML0007", "the app's name is missing or given twice"),
    ("OML0101", "unknown type"),
    ("OML0102", "unknown entity"),
    ("OML0103", "unknown variable"),
    ("OML0104", "unknown attribute"),
    ("OML0105", "unknown action"),
    ("OML0106", "unknown function"),
    ("OML0107", "unknown record of a static entity"),
    ("OML0108", "unknown exception"),
    ("OML0109", "unknown setting"),
    ("OML0110", "unknown timer"),
    ("OML0111", "unknown event"),
    ("OML0112", "unknown role"),
    ("OML0113", "a library cannot have this"),
    ("OML0201", "the expression cannot be read"),
    ("OML0202", "types do not fit"),
    ("OML0203", "the operator does not take these types"),
    ("OML0204", "wrong arguments"),
    ("OML0205", "identifier of another entity"),
    ("OML0206", "cannot be assigned"),
    ("OML0207", "the literal does not fit the type"),
    ("OML0208", "inputs of a call do not match"),
    ("OML0301", "a structure contains itself"),
    ("OML0302", "the entity is read-only"),
    ("OML0303", "the property does not apply"),
    ("OML0304", "the type cannot be stored"),
    ("OML0305", "a static entity may refer to static entities only"),
    ("OML0306", "structures are nested too deep"),
    ("OML0307", "the node stands in no loop"),
    ("OML0308", "the exception cannot be raised"),
    ("OML0309", "the action is too large"),
    ("OML0401", "path and inputs do not match"),
    ("OML0402", "two methods answer the same requests"),
    ("OML0403", "the input cannot come from there"),
    ("OML0404", "not an HTTP status for an error"),
    ("OML0405", "not a schedule"),
    ("OML0406", "the action cannot be called there"),
    ("OML0407", "not the URL of an API"),
    ("OML0501", "the query cannot run in the database"),
    ("OML0502", "the join does not fit"),
    ("OML0503", "the SQL cannot be read"),
    ("OML0504", "parameters of a statement do not match"),
    ("OML0505", "statement and output do not match"),
    ("OML0506", "`LIKE` stands outside a query"),
    ("OML0601", "nobody uses it"),
    ("OML0602", "the node is never reached"),
    ("OML0603", "a query for every element of a loop"),
    ("OML0604", "a query without a limit"),
    ("OML0901", "internal compiler error"),
];

/// Problems of one model that are told, in number: nobody reads on.
const PROBLEMS_MAX: usize = 500;

/// Collects problems while the stages run.
pub(crate) struct Problems<'a> {
    sources: &'a Sources,
    list: Vec<Problem>,
}

impl<'a> Problems<'a> {
    pub(crate) fn new(sources: &'a Sources) -> Problems<'a> {
        NEAR_PAIRS.set(NEAR_PAIRS_MAX);
        Problems { sources, list: Vec::new() }
    }

    pub(crate) fn error(&mut self, code: &'static str, at: Span, message: impl Into<String>) {
        self.push(code, Severity::Error, at, message.into(), None);
    }

    pub(crate) fn error_hint(
        &mut self,
        code: &'static str,
        at: Span,
        message: impl Into<String>,
        hint: Option<String>,
    ) {
        self.push(code, Severity::Error, at, message.into(), hint);
    }

    pub(crate) fn warning(&mut self, code: &'static str, at: Span, message: impl Into<String>) {
        self.push(code, Severity::Warning, at, message.into(), None);
    }

    pub(crate) fn warning_hint(&mut self, code: &'static str, at: Span, message: String, hint: String) {
        self.push(code, Severity::Warning, at, message, Some(hint));
    }

    fn push(
        &mut self,
        code: &'static str,
        severity: Severity,
        at: Span,
        message: String,
        hint: Option<String>,
    ) {
        // The first error is never left out: nothing may be built after it.
        if self.list.len() >= PROBLEMS_MAX && (severity == Severity::Warning || self.has_errors()) {
            return;
        }
        let (file, line, column, end_column) = self.sources.position(at);
        self.list.push(Problem { code, severity, file, line, column, end_column, message, hint });
    }

    /// All problems, by place.
    pub(crate) fn into_sorted(mut self) -> Vec<Problem> {
        self.list
            .sort_by(|a, b| (&a.file, a.line, a.column, a.code).cmp(&(&b.file, b.line, b.column, b.code)));
        self.list.dedup();
        self.list
    }

    pub(crate) fn has_errors(&self) -> bool {
        self.list.iter().any(|p| p.severity == Severity::Error)
    }
}

/// The model was accepted and what was made of it is not valid: a bug of this compiler, said as a problem
/// so that the caller has one way to fail and the author knows that the model is not to blame.
pub(crate) fn internal(sources: &Sources, reason: &str) -> Problem {
    let (file, line, column, end_column) = sources.position(Span::default());
    Problem {
        code: "OML0901",
        severity: Severity::Error,
        file,
        line,
        column,
        end_column,
        message: format!("internal compiler error: {reason}"),
        hint: Some("this is a bug of the compiler: please report it with the model; going back to the last version that compiled avoids it".into()),
    }
}

/// An action has more of something than a function of WebAssembly may have.
pub(crate) fn too_large(sources: &Sources, action: &Name, excess: &Excess) -> Problem {
    let (file, line, column, end_column) = sources.position(action.span);
    Problem {
        code: "OML0309",
        severity: Severity::Error,
        file,
        line,
        column,
        end_column,
        message: format!("`{}` has {}", action.text, excess.0),
        hint: Some("split it into several actions".into()),
    }
}

/// The text a person reads: place, source line, caret, hint.
pub fn render(sources: &Sources, problems: &[Problem]) -> String {
    let mut out = String::new();
    for p in problems {
        let severity = match p.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        out.push_str(&format!("{severity}[{}]: {}\n", p.code, p.message));
        out.push_str(&format!("  --> {}:{}:{}\n", p.file, p.line, p.column));
        if let Some(line) = sources.line(&p.file, p.line) {
            let number = p.line.to_string();
            let margin = " ".repeat(number.len());
            // Tabs keep their width under the caret line.
            let pad: String = line
                .chars()
                .take(p.column as usize - 1)
                .map(|c| if c == '\t' { '\t' } else { ' ' })
                .collect();
            let carets = "^".repeat((p.end_column - p.column).max(1) as usize);
            out.push_str(&format!(" {number} | {line}\n {margin} | {pad}{carets}\n"));
        }
        if let Some(hint) = &p.hint {
            out.push_str(&format!("  hint: {hint}\n"));
        }
    }
    out
}

/// Longer words are not compared: no name is as long, and comparing takes the product of both lengths.
const NEAR_CHARACTERS_MAX: usize = 100;

/// Pairs of characters that are compared for all hints of a model: tens of thousands of names against each other.
/// Without an end, a model in which each of very many names is misspelt would keep the compiler busy for hours.
const NEAR_PAIRS_MAX: usize = 20_000_000;

thread_local! {
    /// What is left of them in the compilation that this thread is at. [`near`] is asked from everywhere, also
    /// where no [`Problems`] are at hand.
    static NEAR_PAIRS: Cell<usize> = const { Cell::new(NEAR_PAIRS_MAX) };
}

/// The name nearest to a misspelt one, when it is near enough to suggest.
pub(crate) fn near<'n>(name: &str, known: impl IntoIterator<Item = &'n str>) -> Option<String> {
    let short = |word: &str| word.len() <= NEAR_CHARACTERS_MAX;
    let affordable = |known: &&str| {
        let left = NEAR_PAIRS.get().checked_sub(name.len() * known.len());
        NEAR_PAIRS.set(left.unwrap_or(0));
        left.is_some()
    };
    known
        .into_iter()
        .filter(|k| short(name) && short(k))
        .take_while(affordable)
        .map(|k| (distance(&name.to_lowercase(), &k.to_lowercase()), k))
        .filter(|(d, k)| *d <= 1 + k.chars().count() / 4)
        .min()
        .map(|(_, k)| format!("did you mean `{k}`?"))
}

/// Edits between two words (insert, delete, replace).
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.chars().enumerate() {
        let mut corner = row[0];
        row[0] = i + 1;
        for (j, cb) in b.iter().enumerate() {
            let replaced = corner + usize::from(ca != *cb);
            corner = row[j + 1];
            row[j + 1] = replaced.min(corner + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}
