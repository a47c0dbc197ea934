//! A host process, asked and looked at from outside.

use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::site::Site;
use super::{millis_since, number_after, vary};

/// Time between two looks whether the host is ready, in milliseconds.
const LOOK_MS: u64 = 20;
/// How long a host may take to say where it listens, in seconds.
const START_S_MAX: u64 = 60;

/// Memory of a process.
#[derive(Clone, Copy)]
pub(super) struct Held {
    pub(super) anonymous_kib: f64,
    pub(super) file_kib: f64,
    pub(super) mappings: f64,
}

pub(super) struct HostProcess {
    child: Child,
    started: Instant,
    address: String,
    admin: String,
    apps: usize,
    client: reqwest::Client,
}

impl HostProcess {
    /// Starts a host, and waits until it says where it listens.
    pub(super) fn start(site: &Site) -> Result<Self> {
        let program = std::env::current_exe()?.parent().context("a folder of programs")?.join("odeon-host");
        let started = Instant::now();
        let mut child = Command::new(&program)
            .args(["run", "--config"])
            .arg(site.config())
            .env("RUST_LOG", "odeon_host=info,warn")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("start {}", program.display()))?;
        let stderr = child.stderr.take().context("the log of the host")?;
        let (told, tells) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let Ok(line) = serde_json::from_str::<Value>(&line) else { continue };
                if line["fields"]["message"] == "the host serves" {
                    let _ = told.send(line["fields"].clone()); // then read on, so that the host can write
                }
            }
        });
        let addresses = tells.recv_timeout(Duration::from_secs(START_S_MAX));
        let addresses = addresses.context("the host does not say that it serves")?;
        let text = |name: &str| addresses[name].as_str().map(str::to_owned).context("an address");
        let client = reqwest::Client::builder().pool_max_idle_per_host(1).build()?;
        let (address, admin) = (text("address")?, text("admin_address")?);
        Ok(Self { child, started, address, admin, apps: site.apps(), client })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Seconds from the start until all placements serve.
    pub(super) async fn ready(&self, placements: usize, wait_max: Duration) -> Result<f64> {
        loop {
            // Without an answer the host is still reading its disk.
            if self.metric("odeon_host_apps").await.is_ok_and(|apps| apps == placements as u64) {
                return Ok(self.started.elapsed().as_secs_f64());
            }
            ensure!(self.started.elapsed() < wait_max, "the host is not ready");
            tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        }
    }

    pub(super) async fn metric(&self, name: &str) -> Result<u64> {
        let said = self.client.get(format!("http://{}/metrics", self.admin)).send().await?.text().await?;
        Ok(number_after(&said, &format!("{name} "))? as u64)
    }

    /// Milliseconds of one request; the answer must be that of the app.
    pub(super) async fn ask(&self, placement: usize) -> Result<f64> {
        let url = self.url(placement);
        let begun = Instant::now();
        let response = self.client.get(url).send().await?;
        let status = response.status();
        let said = response.text().await?;
        let time = millis_since(begun);
        ensure!(
            status == 200 && said == vary::greeting(placement % self.apps),
            "placement {placement}: {status} {said}"
        );
        Ok(time)
    }

    /// One request to each, one after the other.
    pub(super) async fn ask_each(&self, placements: &[usize]) -> Result<Vec<f64>> {
        let mut times = Vec::with_capacity(placements.len());
        for placement in placements {
            times.push(self.ask(*placement).await?);
        }
        Ok(times)
    }

    /// Where a placement is asked.
    pub(super) fn url(&self, placement: usize) -> String {
        format!("http://{}/{}/", self.address, Site::name(placement))
    }

    pub(super) fn held(&self) -> Result<Held> {
        let rollup = std::fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid()))?;
        let mappings = std::fs::read_to_string(format!("/proc/{}/maps", self.pid()))?.lines().count() as f64;
        let anonymous_kib = number_after(&rollup, "Anonymous:")?;
        let file_kib = number_after(&rollup, "Rss:")? - anonymous_kib;
        Ok(Held { anonymous_kib, file_kib, mappings })
    }

    /// Lets the host end as it wants to.
    pub(super) async fn stop(mut self) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.pid())?).context("a process id")?;
        kill_process(pid, Signal::TERM)?;
        tokio::task::spawn_blocking(move || self.child.wait().map(drop)).await??;
        Ok(())
    }
}

impl Drop for HostProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
