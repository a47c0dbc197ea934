//! `odeon apps`: apps and the revision that serves in each stage.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use crate::api::Api;
use crate::layout::Layout;
use crate::report::say;

pub(crate) async fn apps(layout: &Layout, json: bool) -> Result<ExitCode> {
    let api = Api::connect(layout)?;
    let (assets, deployed, stages) = (api.assets().await?, api.deployed().await?, api.environments().await?);
    let serving = |key: &str, stage: &str| {
        deployed
            .iter()
            .find(|found| found.asset_key == key && found.environment == stage)
            .map(|found| found.revision)
    };
    if json {
        let apps: Vec<_> = assets
            .iter()
            .map(|asset| {
                let stages: serde_json::Map<_, _> = stages
                    .iter()
                    .filter_map(|stage| Some((stage.name.clone(), json!(serving(&asset.key, &stage.name)?))))
                    .collect();
                json!({ "name": asset.name, "key": asset.key, "kind": asset.kind, "latestRevision": asset.latest_revision, "stages": stages })
            })
            .collect();
        say(serde_json::to_string_pretty(&apps)?);
        return Ok(ExitCode::SUCCESS);
    }
    if assets.is_empty() {
        say("no apps yet: `odeon new expenses`, then `odeon publish expenses/`");
    }
    for asset in &assets {
        let mut line =
            format!("{:<24} {:<10} latest {:<5}", asset.name, asset.kind, asset.latest_revision.unwrap_or(0));
        for stage in &stages {
            let revision =
                serving(&asset.key, &stage.name).map_or("-".to_owned(), |revision| revision.to_string());
            line.push_str(&format!(" {} {revision:<4}", stage.name));
        }
        say(line.trim_end());
    }
    Ok(ExitCode::SUCCESS)
}
