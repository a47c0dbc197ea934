//! `odeon deploy`, `rollback`, `undeploy`.

use std::process::ExitCode;

use anyhow::Result;

use crate::api::Api;
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
}

pub(crate) async fn deploy(layout: &Layout, arguments: DeployArguments) -> Result<ExitCode> {
    let DeployArguments { app, revision, to, allow, allow_none } = arguments;
    let allow = if allow_none { Some(Vec::new()) } else { allow };
    run(layout, "Deploy", &app, &to, Some(revision), allow.as_deref()).await
}

pub(crate) async fn rollback(layout: &Layout, app: &str, stage: &str) -> Result<ExitCode> {
    run(layout, "Rollback", app, stage, None, None).await
}

pub(crate) async fn undeploy(layout: &Layout, app: &str, stage: &str) -> Result<ExitCode> {
    run(layout, "Undeploy", app, stage, None, None).await
}

async fn run(
    layout: &Layout,
    operation: &str,
    app: &str,
    stage: &str,
    revision: Option<u32>,
    egress_allow: Option<&[String]>,
) -> Result<ExitCode> {
    let api = Api::connect(layout)?;
    let asset = api.asset(app).await?;
    let done = api.deploy(operation, &asset, revision, stage, egress_allow).await?;
    publish::tell(&api, &done, None, operation != "Undeploy").await
}
