//! `odeon deploy`, `rollback`, `undeploy`.

use std::process::ExitCode;

use anyhow::Result;

use crate::api::Api;
use crate::commands::publish;
use crate::layout::Layout;

pub(crate) async fn deploy(layout: &Layout, app: &str, revision: u32, stage: &str) -> Result<ExitCode> {
    run(layout, "Deploy", app, Some(revision), stage).await
}

pub(crate) async fn rollback(layout: &Layout, app: &str, stage: &str) -> Result<ExitCode> {
    run(layout, "Rollback", app, None, stage).await
}

pub(crate) async fn undeploy(layout: &Layout, app: &str, stage: &str) -> Result<ExitCode> {
    run(layout, "Undeploy", app, None, stage).await
}

async fn run(
    layout: &Layout,
    operation: &str,
    app: &str,
    revision: Option<u32>,
    stage: &str,
) -> Result<ExitCode> {
    let api = Api::connect(layout)?;
    let asset = api.asset(app).await?;
    let done = api.deploy(operation, &asset, revision, stage).await?;
    publish::tell(&api, &done, None, operation != "Undeploy").await
}
