//! The peers: `wasmtime serve` and workerd, as processes on ports of their own.
//!
//! Neither is measured as it happens to start. Of the flags that `wasmtime serve` has for its pool those count with which it needs
//! least CPU time for the component at hand, and workerd, whose compiler optimizes a script in one process and leaves
//! it alone in another, is started some times and the fastest process stays.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::load::{Round, round, round_with};

/// How long a peer may take to answer.
const START_MAX: Duration = Duration::from_secs(10);
/// What `wasmtime serve` has in each case.
const SERVE_FLAGS: [&str; 3] = ["-Scli", "-Opooling-allocator=y", "-Omemory-init-cow=y"];
/// Ways to give back what an instance used that keep instances apart: in batches, clearing small tables by hand, and clearing the whole memory of the
/// component by hand, too.
const SERVE_WAYS: [&[&str]; 3] = [
    &["-Opooling-decommit-batch-size=64"],
    &["-Opooling-decommit-batch-size=64", "-Opooling-table-keep-resident=65536"],
    &[
        "-Opooling-decommit-batch-size=64",
        "-Opooling-table-keep-resident=65536",
        "-Opooling-memory-keep-resident=1179648",
    ],
];
/// The one that does not (see [`crate::apart`]), and with which it needs the least CPU time.
const SCANNING: [&str; 3] = [
    "-Opooling-pagemap-scan=y",
    "-Opooling-memory-keep-resident=262144",
    "-Opooling-table-keep-resident=262144",
];
/// Processes of workerd that are tried.
const WORKERD_STARTS: usize = 3;

/// `wasmtime serve` with a component, and the flags that serve it best.
pub(crate) struct Serve {
    wasmtime: PathBuf,
    component: PathBuf,
    flags: Vec<&'static str>,
    /// What was tried: flags, and microseconds of CPU time per request.
    tried: Vec<(String, f64)>,
}

impl Serve {
    /// Tries each way for a round, twice, in turns, on requests that are given a fresh instance each.
    pub(crate) async fn at_its_best(wasmtime: &Path, component: &Path, path: &str) -> Result<Self> {
        let with = |flags: Vec<&'static str>| Self {
            wasmtime: wasmtime.to_owned(),
            component: component.to_owned(),
            flags,
            tried: Vec::new(),
        };
        let ways = SERVE_WAYS.map(|way| [SERVE_FLAGS.as_slice(), way].concat());
        let mut least = [f64::INFINITY; SERVE_WAYS.len()];
        for _ in 0..2 {
            for (flags, least) in ways.iter().zip(&mut least) {
                let peer = with(flags.clone()).start(&[]).await?;
                let found = round(&format!("http://{}{path}", peer.address), &[peer.pid()])?;
                *least = least.min(found.cpu_us);
            }
        }
        let tried: Vec<_> = SERVE_WAYS.iter().map(|way| way.join(" ")).zip(least.iter().copied()).collect();
        let best = ways.into_iter().zip(least).min_by(|one, other| one.1.total_cmp(&other.1));
        Ok(Self { tried, ..with(best.context("a way to serve")?.0) })
    }

    /// The same component with `PAGEMAP_SCAN`.
    pub(crate) fn scanning(&self) -> Self {
        let flags = [SERVE_FLAGS, SCANNING].concat();
        Self { wasmtime: self.wasmtime.clone(), component: self.component.clone(), flags, tried: Vec::new() }
    }

    /// A process, with more flags.
    pub(crate) async fn start(&self, more: &[&str]) -> Result<Peer> {
        let address = free_address()?;
        let mut command = Command::new(&self.wasmtime);
        command.arg("serve").args(&self.flags).args(more).args(["--addr", &address]).arg(&self.component);
        Peer::start(command, address).await
    }

    /// Version and flags, and what the other flags would have cost.
    pub(crate) fn told(&self) -> Result<String> {
        let tried: Vec<_> = self.tried.iter().map(|(flags, us)| format!("`{flags}` {us:.1} us")).collect();
        Ok(format!(
            "wasmtime {} with `{}`, with which it needs the least CPU time for a request of all flags that keep instances apart (least of two rounds each: {})",
            version(&self.wasmtime)?,
            self.flags.join(" "),
            tried.join("; ")
        ))
    }
}

/// A peer that runs until it is dropped.
pub(crate) struct Peer {
    child: Child,
    pub(crate) address: String,
}

impl Peer {
    /// workerd, with a configuration that has a socket named `http`: the fastest process, and what each answered in a second.
    pub(crate) async fn workerd(
        workerd: &Path,
        config: &Path,
        path: &str,
        script: &Path,
    ) -> Result<(Self, Vec<f64>)> {
        let mut best: Option<(Self, Round)> = None;
        let mut rates = Vec::new();
        for _ in 0..WORKERD_STARTS {
            let address = free_address()?;
            let mut command = Command::new(workerd);
            command.arg("serve").arg(config).arg(format!("--socket-addr=http={address}"));
            let peer = Self::start(command, address).await?;
            let url = format!("http://{}{path}", peer.address);
            round_with(&url, &[peer.pid()], Some(script))?; // warms up
            let found = round_with(&url, &[peer.pid()], Some(script))?;
            rates.push(found.requests_per_s);
            if best.as_ref().is_none_or(|(_, best)| best.requests_per_s < found.requests_per_s) {
                best = Some((peer, found));
            }
        }
        Ok((best.context("a process of workerd")?.0, rates))
    }

    async fn start(mut command: Command, address: String) -> Result<Self> {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().with_context(|| format!("start {command:?}"))?;
        let peer = Self { child, address };
        let deadline = Instant::now() + START_MAX;
        let url = format!("http://{}/", peer.address);
        let client = reqwest::Client::builder().no_proxy().build()?;
        while client.get(&url).send().await.is_err() {
            ensure!(Instant::now() < deadline, "{command:?} does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(peer)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn free_address() -> Result<String> {
    Ok(format!("127.0.0.1:{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?.port()))
}

/// The first line that a program says of its version.
pub(crate) fn version(program: &Path) -> Result<String> {
    let said = Command::new(program).arg("--version").output().context("ask a peer for its version")?;
    let line = BufReader::new(said.stdout.as_slice()).lines().next().context("a version")??;
    Ok(line.split_whitespace().nth(1).unwrap_or(&line).to_owned())
}
