//! A small component behind Odeon and behind `wasmtime serve`: the same file, the same load, in turns.
//!
//! Both give every request a fresh instance, and the guest proves it: a static counter that it returns in a
//! header must be 1. The peer runs with the pooling allocator and the flags that help it most; its logs go
//! to /dev/null, while Odeon's go where they go in production.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use odeon_tests::{Installation, hello};

use crate::load::{Round, round};
use crate::peer::Serve;

/// Rounds of each contender.
const ROUNDS: usize = 3;
/// Requests that are looked at for a fresh instance, before and after the rounds.
const PROOFS: usize = 50;
/// A contender and its rounds.
pub(crate) struct Contender {
    pub(crate) name: String,
    pub(crate) rounds: Vec<Round>,
    url: String,
    pids: Vec<u32>,
}

/// The contenders, the peer first, and how the peer was started.
pub(crate) async fn measure(wasmtime: &Path) -> Result<(Vec<Contender>, String)> {
    let site = Installation::start_with(&["--no-sample"]).await;
    let file = hello();
    site.succeed(&["publish", file.to_str().context("a path in UTF-8")?, "--name", "Hello"]);
    let pid = |process: &str| site.process(process)["pid"].as_u64().map(u32::try_from);
    let pid = |process: &str| Ok::<_, anyhow::Error>(pid(process).context("a running process")??);
    let (host, router) = (pid("host-development-1")?, pid("router-development-router")?);
    let serve = Serve::at_its_best(wasmtime, &file, "/Hello/").await?;
    let peer = serve.start(&[]).await?;
    let contender = |name: &str, url: String, pids: Vec<u32>| Contender {
        name: name.into(),
        url,
        pids,
        rounds: Vec::new(),
    };
    let direct = format!("http://{}/Hello/", site.host_address("development-1"));
    let mut contenders = vec![
        contender("`wasmtime serve`", format!("http://{}/Hello/", peer.address), vec![peer.pid()]),
        contender("Odeon, router and host", site.url("development", "/Hello/"), vec![host, router]),
        contender("Odeon, host alone", direct, vec![host]),
    ];
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
    Ok((contenders, serve.told()?))
}

async fn prove_fresh(site: &Installation, url: &str) -> Result<()> {
    for _ in 0..PROOFS {
        let answer = site.client.get(url).send().await?;
        ensure!(answer.headers()["x-instance-requests"] == "1", "{url} gave one instance to two requests");
        ensure!(answer.text().await? == "Hello from Odeon\n", "{url} answers something else");
    }
    Ok(())
}
