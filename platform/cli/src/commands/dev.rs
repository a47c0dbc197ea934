//! `odeon dev`: publishes a project whenever one of its files is saved.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, Result};
use notify::{RecursiveMode, Watcher as _};
use tokio::sync::mpsc;

use crate::api::Api;
use crate::commands::publish::publish_project;
use crate::layout::Layout;
use crate::project;
use crate::report::{failure, progress};

/// Editors save in several steps; what comes within this time is one save, in milliseconds.
const SETTLE_MS: u64 = 80;

pub(crate) async fn dev(layout: &Layout, folder: &Path) -> Result<ExitCode> {
    let api = Api::connect(layout)?;
    let (saved, mut saves) = mpsc::channel(1);
    let mut watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            let _ = saved.try_send(()); // one waiting save stands for all
        }
    })
    .context("watch for saves")?;
    watcher.watch(folder, RecursiveMode::Recursive).with_context(|| format!("watch {}", folder.display()))?;
    let mut published = None;
    loop {
        let files = project::read(folder)?;
        if published.as_ref() != Some(&files) {
            if let Err(error) = publish_project(&api, folder, "odeon dev").await {
                failure(&error);
            }
            published = Some(files);
            progress(format_args!("watching {}; Ctrl-C ends", folder.display()));
        }
        if saves.recv().await.is_none() {
            return Ok(ExitCode::SUCCESS);
        }
        tokio::time::sleep(Duration::from_millis(SETTLE_MS)).await;
        while saves.try_recv().is_ok() {}
    }
}
