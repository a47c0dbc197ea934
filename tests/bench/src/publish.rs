//! What a user waits for: the first publish of the sample app to a Platform that has never built anything, and
//! the time from a save under `odeon dev` to the changed answer.

use std::fs;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use odeon_tests::{Installation, odeon};
use rustix::process::{Pid, Signal, kill_process};

/// Fresh installations that publish once each.
const INSTALLATIONS: usize = 5;
/// Saves that are timed.
const SAVES: usize = 5;
/// Wait between two looks for the changed answer: the error of that figure, in milliseconds.
const LOOK_MS: u64 = 5;

/// A figure and its limit, in milliseconds.
pub(crate) struct Step {
    pub(crate) name: &'static str,
    pub(crate) millis: Vec<f64>,
    pub(crate) limit_ms: f64,
}

impl Step {
    fn new(name: &'static str, limit_ms: f64) -> Self {
        Self { name, millis: Vec::new(), limit_ms }
    }

    pub(crate) fn median(&self) -> f64 {
        median(&self.millis)
    }

    pub(crate) fn is_met(&self) -> bool {
        self.median() <= self.limit_ms
    }
}

/// The middle one of some figures.
pub(crate) fn median(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

pub(crate) async fn measure() -> Result<Vec<Step>> {
    let mut signed = Step::new("OML to signed Wasm, stored", 100.0);
    let mut native = Step::new("OML to native code", 400.0);
    let mut serving = Step::new("publish to serving", 1_500.0);
    let mut saved = Step::new("a save under `odeon dev` to the changed answer", 1_000.0);
    for at in 0..INSTALLATIONS {
        let site = Installation::start_with(&["--no-sample"]).await;
        let project = site.project("Expenses", &[]);
        let done = site.run(&["publish", &project]);
        let told = String::from_utf8(done.stderr).context("read what `odeon publish` tells")?;
        ensure!(done.status.success(), "odeon publish: {told}");
        let step = |name: &str| -> Result<f64> {
            let line = told.lines().find_map(|line| line.trim().strip_prefix(name));
            let line = line.with_context(|| format!("no step `{name}` in:\n{told}"))?;
            Ok(line.trim().trim_end_matches(" ms").parse()?)
        };
        let wasm = step("compile")? + step("sign and store")?;
        signed.millis.push(wasm);
        native.millis.push(step("compile")? + step("native code")?);
        serving.millis.push(step("in all")?);
        if at == 0 {
            saved.millis = saves(&site).await?;
        }
    }
    Ok(vec![signed, native, serving, saved])
}

async fn saves(site: &Installation) -> Result<Vec<f64>> {
    let project = site.project("Live", &[("There is no expense ", "answer 0 ")]);
    let log = fs::File::create(site.folder.join("dev.log"))?;
    let mut dev = odeon(site.data());
    dev.args(["dev", &project]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    let mut dev = dev.spawn()?;
    let url = site.url("development", "/Live/rest/Expenses/Get/1");
    let answers = async |text: &str| -> Result<()> {
        let deadline = Instant::now() + odeon_tests::PATIENCE;
        while !site.get(&url).await.1.to_string().contains(text) {
            ensure!(Instant::now() < deadline, "`odeon dev` did not publish `{text}`");
            tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        }
        Ok(())
    };
    answers("answer 0 ").await?;
    let mut millis = Vec::new();
    for save in 0..SAVES {
        let (before, after) = (format!("answer {save} "), format!("answer {} ", save + 1));
        let started = Instant::now();
        site.project("Live", &[(&before, &after)]);
        answers(&after).await?;
        millis.push(started.elapsed().as_secs_f64() * 1e3);
    }
    let pid = Pid::from_raw(i32::try_from(dev.id())?).context("a process has an id")?;
    kill_process(pid, Signal::INT)?;
    dev.wait()?;
    Ok(millis)
}
