//! `odeon reference`: what another app lets others use becomes a file of a project.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::api::Api;
use crate::layout::Layout;
use crate::report::{progress, say};

/// Where references lie in a project.
const FOLDER: &str = "references";

#[derive(clap::Args)]
pub(crate) struct ReferenceArguments {
    /// Name of the other app.
    app: String,
    /// Folder of the project.
    #[arg(long, default_value = ".")]
    project: PathBuf,
    /// Which revision; the latest when absent.
    #[arg(long)]
    revision: Option<u32>,
}

pub(crate) async fn reference(layout: &Layout, arguments: ReferenceArguments) -> Result<ExitCode> {
    let ReferenceArguments { app, project, revision } = arguments;
    if !project.is_dir() {
        bail!("{} is no folder; a project with references is one", project.display());
    }
    let api = Api::connect(layout)?;
    let asset = api.asset(&app).await?;
    let revision = match revision.or(asset.latest_revision) {
        Some(revision) => revision,
        None => bail!("`{app}` has no revision yet"),
    };
    let elements = api.public_elements(&asset, revision).await?;
    if elements.as_object().is_none_or(serde_json::Map::is_empty) {
        bail!(
            "revision {revision} of `{app}` lets others use nothing: it declares no service_actions and no events"
        );
    }
    let file = project.join(FOLDER).join(format!("{app}.json"));
    write(&file, &app, revision, elements)?;
    progress(format_args!("`{app}` is known as revision {revision}"));
    say(file.display());
    Ok(ExitCode::SUCCESS)
}

fn write(file: &Path, app: &str, revision: u32, elements: Value) -> Result<()> {
    let mut reference = serde_json::Map::new();
    reference.insert("reference".to_owned(), app.into());
    reference.insert("revision".to_owned(), revision.into());
    if let Value::Object(elements) = elements {
        reference.extend(elements);
    }
    let text = serde_json::to_string_pretty(&Value::Object(reference)).context("write JSON")?;
    let folder = file.parent().context("a reference lies in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    std::fs::write(file, text + "\n").with_context(|| format!("write {}", file.display()))
}
