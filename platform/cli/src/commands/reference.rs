//! `odeon reference`: what another app lets others use, or a whole library, becomes a file of a project.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::api::Api;
use crate::layout::Layout;
use crate::report::{progress, say};

/// Where references to apps lie in a project, and copies of libraries.
const REFERENCES: &str = "references";
const LIBRARIES: &str = "libraries";

#[derive(clap::Args)]
pub(crate) struct ReferenceArguments {
    /// Name of the other app, or of a library.
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
    if asset.kind == "library" {
        let file = project.join(LIBRARIES).join(format!("{app}.json"));
        write(&file, &api.library(&asset, revision).await?)?;
        progress(format_args!("the project uses revision {revision} of the library `{app}`"));
        say(file.display());
        return Ok(ExitCode::SUCCESS);
    }
    let elements = api.public_elements(&asset, revision).await?;
    if elements.as_object().is_none_or(serde_json::Map::is_empty) {
        bail!(
            "revision {revision} of `{app}` lets others use nothing: it declares no service_actions, no events and no public entities"
        );
    }
    let file = project.join(REFERENCES).join(format!("{app}.json"));
    write(&file, &reference_to(&app, revision, elements)?)?;
    progress(format_args!("`{app}` is known as revision {revision}"));
    say(file.display());
    Ok(ExitCode::SUCCESS)
}

fn reference_to(app: &str, revision: u32, elements: Value) -> Result<String> {
    let mut reference = serde_json::Map::new();
    reference.insert("reference".to_owned(), app.into());
    reference.insert("revision".to_owned(), revision.into());
    if let Value::Object(elements) = elements {
        reference.extend(elements);
    }
    let text = serde_json::to_string_pretty(&Value::Object(reference)).context("write JSON")?;
    Ok(text + "\n")
}

fn write(file: &Path, text: &str) -> Result<()> {
    let folder = file.parent().context("a copy lies in a folder")?;
    std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
    std::fs::write(file, text).with_context(|| format!("write {}", file.display()))
}
