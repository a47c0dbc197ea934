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
    /// Deploy although other apps, or this one, will miss something.
    #[arg(long)]
    accept_impact: bool,
}

pub(crate) async fn deploy(layout: &Layout, arguments: DeployArguments) -> Result<ExitCode> {
    let DeployArguments { app, revision, to, allow, allow_none, accept_impact } = arguments;
    let allow = if allow_none { Some(Vec::new()) } else { allow };
    let how = How { revision: Some(revision), egress_allow: allow.as_deref(), accept_impact };
    run(layout, "Deploy", &app, &to, how).await
}

pub(crate) async fn rollback(layout: &Layout, app: &str, stage: &str) -> Result<ExitCode> {
    run(layout, "Rollback", app, stage, How::default()).await
}

pub(crate) async fn undeploy(layout: &Layout, app: &str, stage: &str) -> Result<ExitCode> {
    run(layout, "Undeploy", app, stage, How::default()).await
}

/// What a deployment may say.
#[derive(Default)]
struct How<'h> {
    revision: Option<u32>,
    egress_allow: Option<&'h [String]>,
    accept_impact: bool,
}

async fn run(layout: &Layout, operation: &str, app: &str, stage: &str, how: How<'_>) -> Result<ExitCode> {
    let How { revision, egress_allow, accept_impact } = how;
    let api = Api::connect(layout)?;
    let asset = api.asset(app).await?;
    let done = api.deploy(operation, &asset, revision, stage, egress_allow, accept_impact).await?;
    publish::tell(&api, &done, None, operation != "Undeploy").await
}
