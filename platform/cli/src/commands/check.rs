//! `odeon check`: all problems of a project, without a Platform.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;

use crate::project;
use crate::report::{progress, say};

pub(crate) fn check(path: &Path, json: bool) -> Result<ExitCode> {
    let sources = odeon_compiler::Sources::new(project::read(path)?);
    let compiled = odeon_compiler::compile(&sources);
    if json {
        say(serde_json::to_string_pretty(&compiled.problems)?);
    } else if compiled.problems.is_empty() {
        say("no problems");
    } else {
        progress(odeon_compiler::render(&sources, &compiled.problems));
    }
    Ok(if compiled.component.is_some() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
