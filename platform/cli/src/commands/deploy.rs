//! `odeon deploy`, `rollback`, `undeploy`.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::api::{Api, How};
use crate::commands::publish;
use crate::layout::Layout;

#[derive(clap::Args)]
pub(crate) struct DeployArguments {
    /// Name of the app.
    app: String,
    /// Which revision.
    #[arg(long)]
    revision: u32,
    /// Name of the stage.
    #[arg(long)]
    to: String,
    /// Host that the app may call from this stage, as `host` or `host:port`; may be given several times.
    /// Replaces what was allowed before, and stays for later deployments.
    #[arg(long, value_name = "HOST")]
    allow: Option<Vec<String>>,
    /// Allow the app to call nobody from this stage.
    #[arg(long, conflicts_with = "allow")]
    allow_none: bool,
    /// What the app may use in this stage, as `name=value`: memoryMib, instanceMemoryMib, instances, reuse, concurrency,
    /// cpuShareMillicores, cpuBurstMs (or `unlimited`), requestCpuMs, requestWallMs, requestBodyMib; may be given several
    /// times. Replaces what was said before, and stays for later deployments.
    #[arg(long, value_name = "NAME=VALUE")]
    limit: Option<Vec<String>>,
    /// Give the app the limits that every app has.
    #[arg(long, conflicts_with = "limit")]
    limits_default: bool,
    /// Deploy although other apps, or this one, will miss something.
    #[arg(long)]
    accept_impact: bool,
}

pub(crate) async fn deploy(layout: &Layout, arguments: DeployArguments) -> Result<ExitCode> {
    let DeployArguments { app, revision, to, allow, allow_none, limit, limits_default, accept_impact } =
        arguments;
    let allow = if allow_none { Some(Vec::new()) } else { allow };
    let limit = if limits_default { Some(Vec::new()) } else { limit };
    let limits = limit.map(|limits| read_limits("--limit", &limits)).transpose()?;
    let how = How {
        revision: Some(revision),
        egress_allow: allow.as_deref(),
        limits: limits.as_ref(),
        accept_impact,
    };
    run(layout, "Deploy", &app, &to, how).await
}

pub(crate) async fn rollback(layout: &Layout, app: &str, stage: &str) -> Result<ExitCode> {
    run(layout, "Rollback", app, stage, How::default()).await
}

pub(crate) async fn undeploy(layout: &Layout, app: &str, stage: &str) -> Result<ExitCode> {
    run(layout, "Undeploy", app, stage, How::default()).await
}

/// `name=value` of an option as the Platform reads limits; it knows their names and ranges.
pub(crate) fn read_limits(option: &str, limits: &[String]) -> Result<Value> {
    let read = |limit: &String| {
        let (name, value) = limit.split_once('=').unwrap_or((limit, ""));
        let value = match value {
            "unlimited" => Value::Null,
            number => number.parse::<u64>().map(Value::from).with_context(|| {
                format!("`{option} {limit}`: write a name and a whole number, such as memoryMib=256")
            })?,
        };
        Ok((name.to_owned(), value))
    };
    limits.iter().map(read).collect::<Result<serde_json::Map<_, _>>>().map(Value::Object)
}

async fn run(layout: &Layout, operation: &str, app: &str, stage: &str, how: How<'_>) -> Result<ExitCode> {
    let api = Api::connect(layout)?;
    let asset = api.asset(app).await?;
    let done = api.deploy(operation, &asset, stage, how).await?;
    publish::tell(&api, &done, None, operation != "Undeploy").await
}
