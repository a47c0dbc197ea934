//! What an operation tells while it runs: timed steps, and messages with a code and a place.

use std::time::Instant;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Most messages one operation keeps.
const MESSAGES_MAX: usize = 1_000;

/// Steps and messages of one operation.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    pub(crate) steps: Vec<Step>,
    pub(crate) messages: Vec<Message>,
}

/// A finished step.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Step {
    /// What was done.
    pub(crate) name: String,
    /// How long it took, in milliseconds.
    pub(crate) millis: f64,
}

/// Something to tell.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub(crate) struct Message {
    pub(crate) at: DateTime<Utc>,
    /// `Error`, `Warning` or `Information`.
    pub(crate) severity: String,
    /// Stable code.
    pub(crate) code: String,
    pub(crate) text: String,
    /// Where in the project, when the message is about a place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) place: Option<Place>,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) hint: Option<String>,
}

/// A place in a project; lines and columns count from 1.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Place {
    pub(crate) file: String,
    pub(crate) line: u32,
    pub(crate) column: u32,
    pub(crate) end_column: u32,
}

impl Progress {
    /// Notes that a step ended now.
    pub(crate) fn step(&mut self, name: &str, started: Instant) {
        self.steps.push(Step { name: name.to_owned(), millis: started.elapsed().as_secs_f64() * 1e3 });
    }

    /// Tells something that is no error.
    pub(crate) fn inform(&mut self, text: impl Into<String>) {
        if self.messages.len() < MESSAGES_MAX {
            self.messages.push(Message::information("OS-DPL-20001", text));
        }
    }
}

impl Message {
    /// An error without a place.
    pub(crate) fn error(code: &str, text: impl Into<String>) -> Self {
        Self::new("Error", code, text.into())
    }

    /// A warning without a place.
    pub(crate) fn warning(code: &str, text: impl Into<String>) -> Self {
        Self::new("Warning", code, text.into())
    }

    /// Something worth knowing.
    pub(crate) fn information(code: &str, text: impl Into<String>) -> Self {
        Self::new("Information", code, text.into())
    }

    /// Whether it is an error.
    pub(crate) fn is_error(&self) -> bool {
        self.severity == "Error"
    }

    /// A problem the compiler found.
    pub(crate) fn problem(problem: &odeon_compiler::Problem) -> Self {
        let severity = match problem.severity {
            odeon_compiler::Severity::Error => "Error",
            odeon_compiler::Severity::Warning => "Warning",
        };
        let place = Place {
            file: storable(problem.file.clone()),
            line: problem.line,
            column: problem.column,
            end_column: problem.end_column,
        };
        let message = Self::new(severity, problem.code, problem.message.clone());
        Self { place: Some(place), hint: problem.hint.clone().map(storable), ..message }
    }

    fn new(severity: &str, code: &str, text: String) -> Self {
        let (code, text) = (storable(code.into()), storable(text));
        Self { at: Utc::now(), severity: severity.into(), code, text, place: None, hint: None }
    }
}

/// A text that the database can keep: it has none with NUL in it, and what people send may have.
fn storable(text: String) -> String {
    if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text }
}
