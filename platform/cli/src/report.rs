//! What a person reads: the one place that prints.

use std::process::ExitCode;

/// Prints a line of the answer.
#[expect(clippy::print_stdout, reason = "the command line's printer")]
pub(crate) fn say(line: impl std::fmt::Display) {
    println!("{line}");
}

/// Tells how far something is; not part of the answer.
#[expect(clippy::print_stderr, reason = "the command line's printer")]
pub(crate) fn progress(line: impl std::fmt::Display) {
    eprintln!("{line}");
}

/// Tells why a command failed, the cause last, and what status to exit with.
pub(crate) fn failure(error: &anyhow::Error) -> ExitCode {
    progress(format_args!("error: {error:#}"));
    ExitCode::FAILURE
}
