//! `odeon status`: what runs on this machine.

use std::process::ExitCode;

use anyhow::Result;

use crate::layout::Layout;
use crate::report::{progress, say};

pub(crate) fn status(layout: &Layout, json: bool) -> Result<ExitCode> {
    let Some(status) = layout.status()? else {
        progress(format_args!("nothing runs in {}; start with `odeon up`", layout.root.display()));
        return Ok(ExitCode::FAILURE);
    };
    if json {
        say(serde_json::to_string_pretty(&status)?);
        return Ok(ExitCode::SUCCESS);
    }
    say(format_args!("Platform     {}", status.platform));
    for (stage, url) in &status.stages {
        say(format_args!("{stage:<12} {url}/<App>/"));
    }
    for process in &status.processes {
        let pid = process.pid.map_or("-".to_owned(), |pid| pid.to_string());
        let address = process.address.as_deref().unwrap_or("");
        say(format_args!("{:<24} pid {pid:<8} restarts {:<3} {address}", process.name, process.restarts));
    }
    Ok(ExitCode::SUCCESS)
}
