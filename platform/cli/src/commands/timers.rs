//! `odeon timers`: what an app runs by itself.

use std::process::ExitCode;

use anyhow::Result;

use crate::api::Api;
use crate::layout::Layout;
use crate::report::{progress, say};

#[derive(clap::Subcommand)]
pub(crate) enum TimersCommand {
    /// List the timers of an app in a stage, with their last and next run.
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
    /// Run a timer now; while it runs, once more afterwards.
    Run {
        /// Name of the app.
        app: String,
        /// Name of the timer.
        timer: String,
        /// Name of the stage.
        #[arg(long, default_value = "development")]
        stage: String,
    },
}

pub(crate) async fn timers(layout: &Layout, command: TimersCommand) -> Result<ExitCode> {
    let api = Api::connect(layout)?;
    match command {
        TimersCommand::List { app, stage, json } => list(&api, &app, &stage, json).await,
        TimersCommand::Run { app, timer, stage } => {
            api.run_timer(&api.asset(&app).await?, &stage, &timer).await?;
            progress(format_args!(
                "`{timer}` runs now; `odeon timers list {app} --stage {stage}` tells how it ended"
            ));
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn list(api: &Api, app: &str, stage: &str, json: bool) -> Result<ExitCode> {
    let timers = api.timers(&api.asset(app).await?, stage).await?;
    if json {
        say(serde_json::to_string_pretty(&timers)?);
        return Ok(ExitCode::SUCCESS);
    }
    if timers.is_empty() {
        say(format_args!("`{app}` has no timers; a model declares them under `timers`"));
    }
    for timer in timers {
        let next = match (timer.running_on, timer.next_run_at) {
            (Some(host), _) => format!("runs on {host}"),
            (None, Some(at)) => format!("next {at}"),
            (None, None) => "not planned".to_owned(),
        };
        let last = match (timer.last_run_at, timer.last_failure) {
            (None, _) => "never ran".to_owned(),
            (Some(at), None) => format!("last {at}"),
            (Some(at), Some(why)) => format!("failed {at}: {why}"),
        };
        say(format_args!("{:<24} {:<16} {next}; {last}", timer.name, timer.schedule.unwrap_or_default()));
    }
    Ok(ExitCode::SUCCESS)
}
