//! `cargo xtask tidy`: the house rules that no lint knows. All failures are told together.

mod tidy;

use std::process::ExitCode;

#[expect(clippy::print_stderr, reason = "a command for people")]
fn main() -> ExitCode {
    if std::env::args().nth(1).as_deref() != Some("tidy") {
        eprintln!("usage: cargo xtask tidy");
        return ExitCode::FAILURE;
    }
    match tidy::check() {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(failures) => {
            failures.iter().for_each(|failure| eprintln!("tidy: {failure}"));
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("tidy: {error:#}");
            ExitCode::FAILURE
        }
    }
}
