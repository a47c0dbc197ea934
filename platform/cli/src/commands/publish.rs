//! `odeon publish`: a project or a component becomes a revision that serves in the first stage.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result, bail};
use serde_json::json;

use crate::api::{Api, Message, Operation};
use crate::layout::Layout;
use crate::project;
use crate::report::{progress, say};

/// Largest component that is sent, in bytes; the Platform refuses more.
const COMPONENT_BYTES_MAX: u64 = 64 << 20;

#[derive(clap::Args)]
pub(crate) struct PublishArguments {
    /// OML file or folder, or a .wasm component.
    path: PathBuf,
    /// Name of a component's app; a project carries its own.
    #[arg(long)]
    name: Option<String>,
    /// Becomes part of the revision for good.
    #[arg(long, default_value = "")]
    message: String,
}

pub(crate) async fn publish(layout: &Layout, arguments: PublishArguments) -> Result<ExitCode> {
    let PublishArguments { path, name, message } = arguments;
    let api = Api::connect(layout)?;
    if path.extension().is_some_and(|ending| ending == "wasm") {
        let bytes = std::fs::metadata(&path).with_context(|| format!("read {}", path.display()))?.len();
        if bytes > COMPONENT_BYTES_MAX {
            bail!(
                "{} has {bytes} bytes; a component may have {COMPONENT_BYTES_MAX} (64 MiB)",
                path.display()
            );
        }
        if name.is_none() {
            bail!("a component needs a name: odeon publish {} --name Hello", path.display());
        }
        let component = std::fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        let done = api.publish(component, name.as_deref(), &message).await?;
        return tell(&api, &done, None, true).await;
    }
    if name.is_some() {
        bail!("--name is for components; a project says its name with `app:`");
    }
    publish_project(&api, &path, &message).await
}

/// Publishes a project and tells how it went.
pub(crate) async fn publish_project(api: &Api, path: &Path, message: &str) -> Result<ExitCode> {
    let files = project::read(path)?;
    let started = Instant::now();
    let upload = serde_json::to_vec(&json!({ "files": files })).context("pack the project")?;
    let done = api.publish(upload, None, message).await?;
    let code = tell(api, &done, Some(&files), true).await?;
    progress(format_args!("  {:<16} {:>8.1} ms", "in all", started.elapsed().as_secs_f64() * 1e3));
    Ok(code)
}

/// Tells how a change of what a stage sets was applied, or that it waits for a deployment.
pub(crate) async fn applied(api: &Api, app: &str, stage: &str, done: Option<Operation>) -> Result<ExitCode> {
    match done {
        Some(done) => tell(api, &done, None, false).await,
        None => {
            progress(format_args!("saved; `{app}` is not deployed to {stage} yet"));
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Tells how an operation went; the URL goes to standard output, for scripts.
pub(crate) async fn tell(
    api: &Api,
    done: &Operation,
    files: Option<&BTreeMap<String, String>>,
    serves: bool,
) -> Result<ExitCode> {
    for message in &done.messages {
        progress(in_words(message, files));
    }
    if done.status != "Finished" {
        return Ok(ExitCode::FAILURE);
    }
    let app = done.asset_name.as_deref().unwrap_or("?");
    if let (Some("library"), Some(revision)) = (done.asset_kind.as_deref(), done.revision) {
        progress(format_args!(
            "`{app}` is a library; `odeon reference {app} --project <folder>` brings revision {revision} into an app"
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let stages = api.environments().await?;
    let url = stages.iter().find(|stage| stage.name == done.environment).and_then(|stage| stage.urls.first());
    match (serves, done.revision, url) {
        (true, Some(revision), Some(url)) => {
            progress(format_args!("`{app}` serves revision {revision} in {}", done.environment));
            say(format_args!("{url}/{app}/"));
        }
        _ => progress(format_args!("done: `{app}` in {}", done.environment)),
    }
    Ok(ExitCode::SUCCESS)
}

fn in_words(message: &Message, files: Option<&BTreeMap<String, String>>) -> String {
    let mut text = match (&message.place, message.severity.as_str()) {
        (None, "Information") => return format!("  {}", message.text),
        (None, severity) => format!("{}[{}]: {}", severity.to_lowercase(), message.code, message.text),
        (Some(place), severity) => {
            let mut text = format!(
                "{}[{}]: {}\n  --> {}:{}:{}",
                severity.to_lowercase(),
                message.code,
                message.text,
                place.file,
                place.line,
                place.column
            );
            let source = files.and_then(|files| files.get(&place.file)).map(|file| file.lines());
            let line = source.and_then(|mut lines| lines.nth(place.line.saturating_sub(1) as usize));
            if let Some(line) = line {
                let before = place.column.saturating_sub(1) as usize;
                let width = place.end_column.saturating_sub(place.column).max(1) as usize;
                text.push_str(&format!("\n   | {line}\n   | {}{}", " ".repeat(before), "^".repeat(width)));
            }
            text
        }
    };
    if let Some(hint) = &message.hint {
        text.push_str(&format!("\n   = hint: {hint}"));
    }
    text
}
