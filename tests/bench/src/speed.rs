//! `odeon-bench speed`: what the project promises about speed, each figure beside its limit.
//!
//! Four parts: [`compile`] a large project, [`jobs`] in compiled OML beside the same by hand, [`expenses`] through
//! host and PostgreSQL beside a hand-written server, and the [`instance`] of the sample app. Each part
//! compares what came out before it compares how long that took. Invariant: a limit that is missed fails the
//! run, and the page says so.

mod compile;
mod expenses;
mod instance;
mod jobs;
mod project;
mod runs;

use std::path::{Path, PathBuf};

use anyhow::Result;

use crate::page::of_limits;

pub(crate) use compile::compile_here;
pub(crate) use runs::{LIMITS, account, admitted, granted, run_here};

/// Where the contenders are that `make bench` builds.
pub(crate) struct Contenders {
    /// `jobs-rust`, a component.
    pub(crate) guest: PathBuf,
    /// `expenses-axum`, a program.
    pub(crate) peer: PathBuf,
    /// Node's program.
    pub(crate) node: PathBuf,
}

/// Which side of a limit is the good one.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Bound {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
}

/// A figure and its limit.
pub(crate) struct Target {
    pub(crate) name: String,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    pub(crate) bound: Bound,
}

impl Target {
    pub(crate) fn new(name: impl Into<String>, value: f64, unit: &'static str, bound: Bound) -> Self {
        Self { name: name.into(), value, unit, bound }
    }

    pub(crate) fn is_met(&self) -> bool {
        match self.bound {
            Bound::AtMost(limit) => self.value <= limit,
            Bound::Below(limit) => self.value < limit,
            Bound::AtLeast(limit) => self.value >= limit,
        }
    }

    pub(crate) fn row(&self) -> String {
        let (sign, limit) = match self.bound {
            Bound::AtMost(limit) => ("at most", limit),
            Bound::Below(limit) => ("below", limit),
            Bound::AtLeast(limit) => ("at least", limit),
        };
        let mark = if self.is_met() { "met" } else { "**missed**" };
        let (name, value, unit) = (&self.name, self.value, self.unit);
        format!("| {name} | {value:.2} {unit} | {sign} {limit} {unit} | {mark} |\n")
    }
}

/// What a part of the benchmark found: its text on the page, and its limits.
#[derive(Default)]
pub(crate) struct Found {
    pub(crate) text: String,
    pub(crate) targets: Vec<Target>,
}

/// Measures everything that is asked for; the page, and whether every limit was met.
pub(crate) async fn measure(
    contenders: &Contenders,
    only: &[String],
    folder: &Path,
) -> Result<(String, bool)> {
    let wanted = |part: &str| only.is_empty() || only.iter().any(|named| named == part);
    let mut found = Vec::new();
    if wanted("compile") {
        found.push(compile::measure(folder)?);
    }
    if wanted("jobs") {
        found.push(jobs::measure(contenders)?);
    }
    if wanted("instance") {
        found.push(instance::measure().await?);
    }
    if wanted("expenses") {
        found.push(expenses::measure(contenders).await?);
    }
    of_limits("Speed", "make bench-speed", &found)
}

/// The number on a line of `/proc/self/status`, in KiB.
pub(crate) fn peak_kib() -> Result<f64> {
    use anyhow::Context as _;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line =
        status.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("the kernel tells the peak")?;
    Ok(line.trim().trim_end_matches(" kB").parse()?)
}
