//! The peers: `wasmtime serve` and workerd, as processes on ports of their own.

use std::io::{BufRead as _, BufReader};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// How long a peer may take to answer.
const START_MAX: Duration = Duration::from_secs(10);
/// `wasmtime serve` with the pooling allocator and memories given back in batches: what helps it most.
pub(crate) const SERVE_FLAGS: [&str; 4] =
    ["-Scli", "-Opooling-allocator=y", "-Opooling-decommit-batch-size=64", "-Omemory-init-cow=y"];

/// A peer that runs until it is dropped.
pub(crate) struct Peer {
    child: Child,
    pub(crate) address: String,
}

impl Peer {
    /// `wasmtime serve`, with more flags.
    pub(crate) async fn serve(wasmtime: &Path, component: &Path, more: &[&str]) -> Result<Self> {
        let address = format!("127.0.0.1:{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let mut command = Command::new(wasmtime);
        command.arg("serve").args(SERVE_FLAGS).args(more).args(["--addr", &address]).arg(component);
        Self::start(command, address).await
    }

    /// workerd, with a configuration that has a socket named `http`.
    pub(crate) async fn workerd(workerd: &Path, config: &Path) -> Result<Self> {
        let address = format!("127.0.0.1:{}", TcpListener::bind("127.0.0.1:0")?.local_addr()?.port());
        let mut command = Command::new(workerd);
        command.arg("serve").arg(config).arg(format!("--socket-addr=http={address}"));
        Self::start(command, address).await
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

/// The first line that a program says of its version.
pub(crate) fn version(program: &Path) -> Result<String> {
    let said = Command::new(program).arg("--version").output().context("ask a peer for its version")?;
    let line = BufReader::new(said.stdout.as_slice()).lines().next().context("a version")??;
    Ok(line.split_whitespace().nth(1).unwrap_or(&line).to_owned())
}
