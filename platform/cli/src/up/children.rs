//! The processes of a local installation: started in order, started anew when they end, stopped in the
//! opposite order. Each has a log file of its own, which is not let grow without bound.
//!
//! They live in process groups of their own, so that Ctrl-C in a terminal reaches only us, and the order
//! of stopping is ours; should we be killed, the kernel ends them (`setpriv --pdeathsig`).

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command as AsyncCommand};

use crate::layout::ProcessStatus;
use crate::report::progress;

/// Longest wait for a child to end after it was asked to, in seconds: requests may take 30.
const STOP_S_MAX: u64 = 35;
/// Shortest time between two starts of one child, in milliseconds; doubled up to the longest.
const RESTART_MS_MIN: u64 = 100;
/// Longest time between two starts of one child, in milliseconds.
const RESTART_MS_MAX: u64 = 5_000;
/// A child that ran this long starts again with the shortest pause, in seconds.
const SETTLED_S: u64 = 30;
/// A log that is larger than this is copied aside and begun anew, in bytes.
const LOG_BYTES_MAX: u64 = 64 << 20;
/// Time between two looks at the size of the logs, in seconds.
const LOGS_S: u64 = 10;

/// What a child is for. They start in this order and stop in the opposite one: who asks ends before who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    PostgreSql,
    Nats,
    Platform,
    Migrator,
    Host,
    Router,
}

impl Role {
    /// The program, and what it is asked to do when it can do more than one thing.
    pub(crate) fn program(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::PostgreSql => ("postgres", None),
            Self::Nats => ("nats-server", None),
            Self::Platform => ("odeon-platform", Some("serve")),
            Self::Migrator => ("odeon-migrator", Some("serve")),
            Self::Host => ("odeon-host", Some("run")),
            Self::Router => ("odeon-router", None),
        }
    }
}

/// How to start a child.
pub(crate) struct Recipe {
    pub(crate) name: String,
    pub(crate) role: Role,
    pub(crate) address: Option<String>,
    /// What asks it to end.
    pub(crate) stop: Signal,
    pub(crate) log: PathBuf,
    pub(crate) command: Box<dyn Fn() -> Command + Send>,
}

struct Running {
    recipe: Recipe,
    child: Option<Child>,
    started: Instant,
    pause_ms: u64,
    restarts: u32,
    restart_at: Option<Instant>,
}

/// All children, in the order of their start.
#[derive(Default)]
pub(crate) struct Children {
    running: Vec<Running>,
    logs_seen: Option<Instant>,
}

impl Children {
    /// Starts one more child.
    pub(crate) fn start(&mut self, recipe: Recipe) -> Result<()> {
        let child = Some(spawn(&recipe)?);
        self.running.push(Running {
            recipe,
            child,
            started: Instant::now(),
            pause_ms: RESTART_MS_MIN,
            restarts: 0,
            restart_at: None,
        });
        Ok(())
    }

    /// What runs.
    pub(crate) fn statuses(&self) -> Vec<ProcessStatus> {
        let status = |running: &Running| ProcessStatus {
            name: running.recipe.name.clone(),
            pid: running.child.as_ref().and_then(Child::id),
            address: running.recipe.address.clone(),
            restarts: running.restarts,
            log: running.recipe.log.clone(),
        };
        self.running.iter().map(status).collect()
    }

    /// Starts again what has ended; true when something changed. Called a few times a second.
    pub(crate) fn revive(&mut self) -> Result<bool> {
        let mut changed = false;
        for running in &mut self.running {
            if let Some(child) = &mut running.child
                && let Some(status) = child.try_wait().context("look after a child")?
            {
                running.child = None;
                changed = true;
                let settled = running.started.elapsed() > Duration::from_secs(SETTLED_S);
                running.pause_ms =
                    if settled { RESTART_MS_MIN } else { (running.pause_ms * 2).min(RESTART_MS_MAX) };
                running.restart_at = Some(Instant::now() + Duration::from_millis(running.pause_ms));
                progress(format_args!(
                    "{} ended ({status}) and is started again; its log: {}",
                    running.recipe.name,
                    running.recipe.log.display()
                ));
            }
            if running.restart_at.is_some_and(|at| at <= Instant::now()) {
                running.child = Some(spawn(&running.recipe)?);
                running.restart_at = None;
                running.started = Instant::now();
                running.restarts += 1;
                changed = true;
            }
        }
        Ok(changed)
    }

    /// The first child that is not running, with its log: start-up cannot go on without it.
    pub(crate) fn fallen(&mut self) -> Result<Option<(String, PathBuf)>> {
        for running in &mut self.running {
            if let Some(child) = &mut running.child
                && child.try_wait().context("look after a child")?.is_some()
            {
                return Ok(Some((running.recipe.name.clone(), running.recipe.log.clone())));
            }
        }
        Ok(None)
    }

    /// Begins logs anew that have become too large. Lines that are written meanwhile may be lost.
    pub(crate) fn trim_logs(&mut self) {
        if self.logs_seen.is_some_and(|seen| seen.elapsed() < Duration::from_secs(LOGS_S)) {
            return;
        }
        self.logs_seen = Some(Instant::now());
        for running in &self.running {
            if let Err(error) = trim(&running.recipe.log) {
                progress(format_args!("{} grows: {error}", running.recipe.log.display()));
            }
        }
    }

    /// Ends all children, role by role; those of one role end side by side.
    pub(crate) async fn stop(&mut self) {
        self.running.sort_by_key(|running| running.recipe.role);
        while let Some(role) = self.running.last().map(|running| running.recipe.role) {
            let first = self.running.partition_point(|running| running.recipe.role < role);
            let ending: Vec<_> =
                self.running.split_off(first).into_iter().map(|r| tokio::spawn(end(r))).collect();
            for ended in ending {
                let _ = ended.await;
            }
        }
    }
}

/// Asks a child to end, and waits for it.
async fn end(mut running: Running) {
    let Some(mut child) = running.child.take() else { return };
    let pid = child.id().and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
    let Some(pid) = pid else { return };
    if kill_process(pid, running.recipe.stop).is_err() {
        return; // it has ended by itself
    }
    if tokio::time::timeout(Duration::from_secs(STOP_S_MAX), child.wait()).await.is_err() {
        progress(format_args!("{} did not end within {STOP_S_MAX} s and is killed", running.recipe.name));
        let _ = child.kill().await;
    }
}

/// Moves what a log holds to a second file when it is too large. Its writers append, so they go on at the new end.
fn trim(log: &Path) -> std::io::Result<()> {
    if std::fs::metadata(log).is_ok_and(|log| log.len() > LOG_BYTES_MAX) {
        std::fs::copy(log, log.with_extension("log.old"))?;
        File::options().write(true).open(log)?.set_len(0)?;
    }
    Ok(())
}

fn spawn(recipe: &Recipe) -> Result<Child> {
    let log = File::options().create(true).append(true).open(&recipe.log);
    let log = log.with_context(|| format!("open {}", recipe.log.display()))?;
    let mut command = (recipe.command)();
    command
        .stdin(Stdio::null())
        .stdout(log.try_clone().context("share a log file")?)
        .stderr(log)
        .current_dir("/")
        .process_group(0);
    let mut command = AsyncCommand::from(command);
    command.kill_on_drop(true).spawn().with_context(|| format!("start {}", recipe.name))
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    #[test]
    fn a_log_begins_anew_under_its_writer() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("host.log");
        let mut writer = File::options().create(true).append(true).open(&log).unwrap();
        writer.set_len(LOG_BYTES_MAX).unwrap();
        trim(&log).unwrap();
        assert_eq!(log.metadata().unwrap().len(), LOG_BYTES_MAX, "the limit itself is allowed");
        writer.write_all(b"one more\n").unwrap();
        trim(&log).unwrap();
        writer.write_all(b"after\n").unwrap();
        assert_eq!(std::fs::read_to_string(&log).unwrap(), "after\n");
        assert_eq!(folder.path().join("host.log.old").metadata().unwrap().len(), LOG_BYTES_MAX + 9);
    }
}
