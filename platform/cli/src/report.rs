//! What a person reads: the one place that prints.

use std::io::{self, ErrorKind, Write as _};
use std::process::ExitCode;

/// Prints a line of the answer.
pub(crate) fn say(line: impl std::fmt::Display) {
    print(line);
}

/// Prints a line of the answer, and says whether anybody reads on: `head` has read enough at some time.
pub(crate) fn print(line: impl std::fmt::Display) -> bool {
    match writeln!(io::stdout(), "{line}") {
        Ok(()) => true,
        Err(error) => {
            if error.kind() != ErrorKind::BrokenPipe {
                progress(format_args!("error: print the answer: {error}"));
            }
            false
        }
    }
}

/// Tells how far something is; not part of the answer.
pub(crate) fn progress(line: impl std::fmt::Display) {
    let _ = writeln!(io::stderr(), "{line}"); // there is nowhere else to tell it
}

/// Tells why a command failed, the cause last, and what status to exit with.
pub(crate) fn failure(error: &anyhow::Error) -> ExitCode {
    progress(format_args!("error: {error:#}"));
    ExitCode::FAILURE
}
