//! `odeon timers`: what an app runs by itself, and how a stage lets it.

use std::process::ExitCode;

use anyhow::{Result, bail};
use serde_json::{Map, Value, json};

use super::publish;
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
    /// Say how a timer runs in a stage, instead of as the model says.
    Set {
        /// Name of the app.
        app: String,
        /// Name of the timer.
        timer: String,
        /// Name of the stage.
        #[arg(long, default_value = "development")]
        stage: String,
        /// Cron pattern of five fields, in UTC: minute, hour, day, month, weekday.
        #[arg(long)]
        schedule: Option<String>,
        /// Minutes that a run may take.
        #[arg(long)]
        timeout: Option<u32>,
    },
    /// Go back to the schedule and timeout of the model.
    Unset {
        /// Name of the app.
        app: String,
        /// Name of the timer.
        timer: String,
        /// Name of the stage.
        #[arg(long, default_value = "development")]
        stage: String,
    },
    /// Keep a timer from running by itself in a stage.
    Deactivate {
        /// Name of the app.
        app: String,
        /// Name of the timer.
        timer: String,
        /// Name of the stage.
        #[arg(long, default_value = "development")]
        stage: String,
    },
    /// Let a timer run by itself again; what it missed is not made up for.
    Activate {
        /// Name of the app.
        app: String,
        /// Name of the timer.
        timer: String,
        /// Name of the stage.
        #[arg(long, default_value = "development")]
        stage: String,
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
        TimersCommand::Set { app, timer, stage, schedule, timeout } => {
            if schedule.is_none() && timeout.is_none() {
                bail!("say what to set: --schedule \"30 3 * * *\", --timeout 30");
            }
            let mut asked = Map::new();
            asked.extend(schedule.map(|schedule| ("schedule".to_owned(), schedule.into())));
            asked.extend(timeout.map(|minutes| ("timeoutMinutes".to_owned(), minutes.into())));
            change(&api, (&app, &timer, &stage), &Value::Object(asked)).await
        }
        TimersCommand::Unset { app, timer, stage } => {
            change(&api, (&app, &timer, &stage), &json!({ "schedule": null, "timeoutMinutes": null })).await
        }
        TimersCommand::Deactivate { app, timer, stage } => {
            change(&api, (&app, &timer, &stage), &json!({ "isActive": false })).await
        }
        TimersCommand::Activate { app, timer, stage } => {
            change(&api, (&app, &timer, &stage), &json!({ "isActive": true })).await
        }
        TimersCommand::Run { app, timer, stage } => {
            api.run_timer(&api.asset(&app).await?, &stage, &timer).await?;
            progress(format_args!(
                "`{timer}` runs now; `odeon timers list {app} --stage {stage}` tells how it ended"
            ));
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn change(api: &Api, (app, timer, stage): (&str, &str, &str), asked: &Value) -> Result<ExitCode> {
    let done = api.change_timer(&api.asset(app).await?, stage, timer, asked).await?;
    publish::applied(api, app, stage, done).await
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
            (None, _) if !timer.is_active => "deactivated".to_owned(),
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
