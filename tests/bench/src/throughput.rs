//! A small component behind Odeon and behind `wasmtime serve`: the same file, the same load, in turns.
//!
//! Both give every request a fresh instance, and the guest proves it: a static counter that it returns in a
//! header must be 1. The peer runs with the pooling allocator and the batch size that helps it most; its logs go
//! to /dev/null, while Odeon's go where they go in production.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use odeon_tests::{Installation, hello};

use crate::load::{Round, round};

/// Rounds of each contender.
const ROUNDS: usize = 3;
/// Requests that are looked at for a fresh instance, before and after the rounds.
const PROOFS: usize = 50;
/// How long the peer may take to answer.
const START_MAX: Duration = Duration::from_secs(10);
/// Flags of the peer: the pooling allocator, and memories given back in batches.
pub(crate) const PEER_FLAGS: [&str; 4] =
    ["-Scli", "-Opooling-allocator=y", "-Opooling-decommit-batch-size=64", "-Omemory-init-cow=y"];

/// A contender and its rounds.
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) rounds: Vec<Round>,
    url: String,
    pids: Vec<u32>,
}

pub(crate) async fn measure(wasmtime: &Path) -> Result<Vec<Contender>> {
    let site = Installation::start_with(&["--no-sample"]).await;
    let file = hello();
    site.succeed(&["publish", file.to_str().context("a path in UTF-8")?, "--name", "Hello"]);
    let pid = |process: &str| site.process(process)["pid"].as_u64().map(u32::try_from);
    let pid = |process: &str| Ok::<_, anyhow::Error>(pid(process).context("a running process")??);
    let (host, router) = (pid("host-development-1")?, pid("router-development-router")?);
    let peer = Peer::start(wasmtime, &file)?;
    let contender = |name: &str, url: String, pids: Vec<u32>| Contender {
        name: name.into(),
        url,
        pids,
        rounds: Vec::new(),
    };
    let direct = format!("http://{}/Hello/", site.host_address("development-1"));
    let mut contenders = vec![
        contender(
            &format!("`wasmtime serve` {}", version(wasmtime)?),
            peer.url.clone(),
            vec![peer.child.id()],
        ),
        contender("Odeon, router and host", site.url("development", "/Hello/"), vec![host, router]),
        contender("Odeon, host alone", direct, vec![host]),
    ];
    peer.wait(&site).await?;
    for contender in &contenders {
        prove_fresh(&site, &contender.url).await?;
        round(&contender.url, &contender.pids)?; // warms up: not counted
    }
    for _ in 0..ROUNDS {
        for contender in &mut contenders {
            contender.rounds.push(round(&contender.url, &contender.pids)?);
        }
    }
    for contender in &contenders {
        prove_fresh(&site, &contender.url).await?;
    }
    Ok(contenders)
}

/// Which release the peer is; Odeon's own engine is wasmtime 48, the long-term one.
fn version(wasmtime: &Path) -> Result<String> {
    let said = Command::new(wasmtime).arg("--version").output().context("ask the peer for its version")?;
    let said = String::from_utf8(said.stdout)?;
    Ok(said.split_whitespace().nth(1).context("a version")?.to_owned())
}

async fn prove_fresh(site: &Installation, url: &str) -> Result<()> {
    for _ in 0..PROOFS {
        let answer = site.client.get(url).send().await?;
        ensure!(answer.headers()["x-instance-requests"] == "1", "{url} gave one instance to two requests");
        ensure!(answer.text().await? == "Hello from Odeon\n", "{url} answers something else");
    }
    Ok(())
}

struct Peer {
    child: Child,
    url: String,
}

impl Peer {
    fn start(wasmtime: &Path, file: &Path) -> Result<Self> {
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        let child = Command::new(wasmtime)
            .arg("serve")
            .args(PEER_FLAGS)
            .args(["--addr", &format!("127.0.0.1:{port}")])
            .arg(file)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .with_context(|| format!("start {}", wasmtime.display()))?;
        Ok(Self { child, url: format!("http://127.0.0.1:{port}/Hello/") })
    }

    async fn wait(&self, site: &Installation) -> Result<()> {
        let deadline = Instant::now() + START_MAX;
        while site.client.get(&self.url).send().await.is_err() {
            ensure!(Instant::now() < deadline, "`wasmtime serve` does not answer");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(())
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
