//! Native code, made by the host's own binary in a child process: the Platform holds no engine, and a
//! component that makes a compiler run wild takes a child down, not the build service.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use serde::Deserialize;
use tokio::process::Command;

use crate::Platform;

/// How long the child may run, in seconds; it limits its own CPU time and address space.
const COMPILE_S_MAX: u64 = 60;
/// Exit status by which the child says that the component, not the machine, is at fault.
const REFUSED: i32 = 2;

/// An artefact and what it fits.
pub(super) struct Native {
    pub(super) artefact: Bytes,
    pub(super) target: String,
    pub(super) engine: String,
}

/// How it went.
pub(super) enum Outcome {
    Made(Native),
    /// No host binary is configured: hosts compile for themselves.
    NotConfigured,
    /// The component cannot run on our hosts; says why.
    Refused(String),
}

#[derive(Deserialize)]
struct Fits {
    target: String,
    engine: String,
}

pub(super) async fn precompile(platform: &Platform, component: &Bytes) -> Result<Outcome> {
    let Some(binary) = &platform.settings.host_binary else { return Ok(Outcome::NotConfigured) };
    let folder = tempfile::tempdir().context("make a folder for the compiler")?;
    let (input, output) = (folder.path().join("app.wasm"), folder.path().join("app.cwasm"));
    tokio::fs::write(&input, component).await.context("hand the component to the compiler")?;
    let child = Command::new(binary)
        .arg("compile")
        .arg("--in")
        .arg(&input)
        .arg("--out")
        .arg(&output)
        .env_clear() // what is compiled comes from strangers
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("start {}", binary.display()))?;
    let done = match tokio::time::timeout(Duration::from_secs(COMPILE_S_MAX), child.wait_with_output()).await
    {
        Ok(done) => done.context("wait for the compiler")?,
        Err(_) => {
            return Ok(Outcome::Refused(format!(
                "native code was not ready after {COMPILE_S_MAX} s; make the component smaller"
            )));
        }
    };
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        let said = said.trim();
        return match done.status.code() {
            Some(REFUSED) => Ok(Outcome::Refused(said.to_owned())),
            Some(_) => bail!("{} compile: {}: {said}", binary.display(), done.status),
            None => Ok(Outcome::Refused(format!(
                "the compiler was ended by its limits ({}); make the component smaller",
                done.status
            ))),
        };
    }
    let fits: Fits =
        serde_json::from_slice(&done.stdout).context("read what the compiler says of its target")?;
    let artefact = tokio::fs::read(&output).await.context("read the native code")?.into();
    Ok(Outcome::Made(Native { artefact, target: fits.target, engine: fits.engine }))
}
