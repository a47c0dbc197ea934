//! `odeon settings`: what a stage sets for an app.

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::api::Api;
use crate::commands::publish;
use crate::layout::Layout;
use crate::report::say;

#[derive(clap::Subcommand)]
pub(crate) enum SettingsCommand {
    /// List the settings of an app in a stage; secrets are not shown.
    List {
        /// Name of the app.
        app: String,
        /// Name of the stage.
        #[arg(long, default_value = "development")]
        stage: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Set values; requests that begin afterwards see them.
    Set {
        /// Name of the app.
        app: String,
        /// `NAME=VALUE`, or `NAME` alone to read the value from standard input, as for a secret.
        #[arg(required = true)]
        values: Vec<String>,
        /// Name of the stage.
        #[arg(long, default_value = "development")]
        stage: String,
    },
    /// Go back to the app's defaults.
    Unset {
        /// Name of the app.
        app: String,
        /// Names of the settings.
        #[arg(required = true)]
        names: Vec<String>,
        /// Name of the stage.
        #[arg(long, default_value = "development")]
        stage: String,
    },
}

pub(crate) async fn settings(layout: &Layout, command: SettingsCommand) -> Result<ExitCode> {
    let api = Api::connect(layout)?;
    match command {
        SettingsCommand::List { app, stage, json } => list(&api, &app, &stage, json).await,
        SettingsCommand::Set { app, values, stage } => change(&api, &app, &stage, &read(values)?).await,
        SettingsCommand::Unset { app, names, stage } => {
            let changes: Vec<_> = names.into_iter().map(|name| (name, None)).collect();
            change(&api, &app, &stage, &changes).await
        }
    }
}

async fn list(api: &Api, app: &str, stage: &str, json: bool) -> Result<ExitCode> {
    let settings = api.settings(&api.asset(app).await?, stage).await?;
    if json {
        say(serde_json::to_string_pretty(&settings)?);
        return Ok(ExitCode::SUCCESS);
    }
    if settings.is_empty() {
        say(format_args!("`{app}` has no settings; a model declares them under `settings`"));
    }
    for setting in settings {
        let set = setting.origin == "EnvironmentLevelOverride";
        let value = match (setting.is_secret, set) {
            (true, true) => "(secret)".to_owned(),
            (true, false) => "(secret, not set)".to_owned(),
            (false, _) => setting.value.unwrap_or_default(),
        };
        let note = if set { "" } else { "  default" };
        say(format_args!("{:<24} {:<14} {value}{note}", setting.name, setting.data_type));
    }
    Ok(ExitCode::SUCCESS)
}

async fn change(api: &Api, app: &str, stage: &str, changes: &[(String, Option<String>)]) -> Result<ExitCode> {
    let done = api.change_settings(&api.asset(app).await?, stage, changes).await?;
    publish::applied(api, app, stage, done).await
}

/// One value at most comes from standard input, which is read to its end; one line break there is not meant.
fn read(values: Vec<String>) -> Result<Vec<(String, Option<String>)>> {
    if values.iter().filter(|value| !value.contains('=')).count() > 1 {
        bail!("one value can come from standard input; write the others as NAME=VALUE");
    }
    let read = |given: String| match given.split_once('=') {
        Some((name, value)) => Ok((name.to_owned(), Some(value.to_owned()))),
        None => {
            let mut value = String::new();
            std::io::stdin().read_to_string(&mut value).context("read the value from standard input")?;
            let value = value.strip_suffix('\n').unwrap_or(&value).to_owned();
            Ok((given, Some(value)))
        }
    };
    values.into_iter().map(read).collect()
}
