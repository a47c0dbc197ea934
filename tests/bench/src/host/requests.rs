//! Requests over HTTP: a greeting and a JSON job, with a fresh instance each time and with instances that are used again,
//! beside `wasmtime serve` and workerd.
//!
//! `wrk` with one thread asks over 32 connections, on the cores that the contenders have, in interleaved rounds. A
//! contender's answers are looked at before and after: the same text as everybody's. Where a fresh instance is promised, each answer of
//! a round that does not count has to prove it, under the same load.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
use odeon_tests::Installation;

use super::{Bound, Contenders, Found, Target};
use crate::load::{CONNECTIONS, ROUND_S, Round, prove_fresh, round_with};
use crate::peer::{Peer, Serve, version};
use crate::publish::median;

/// Rounds of each contender.
const ROUNDS: usize = 3;
/// Answers that are looked at, before and after.
const LOOKS: usize = 50;
/// An order of 1.1 kB.
const ORDER: &str = include_str!("order.json");

/// Somebody who answers, and how.
struct Contender {
    name: String,
    url: String,
    pids: Vec<u32>,
    script: Option<PathBuf>,
    is_fresh: bool,
    rounds: Vec<Round>,
}

impl Contender {
    fn of(&self, figure: impl Fn(&Round) -> f64) -> f64 {
        median(&self.rounds.iter().map(figure).collect::<Vec<_>>())
    }
}

pub(crate) async fn measure(contenders: &Contenders, serve: &Serve) -> Result<Found> {
    let site = Installation::start_with(&["--no-sample"]).await;
    let guest = contenders.guest.to_str().context("a path in UTF-8")?;
    for name in ["Work", "Reused"] {
        site.succeed(&["publish", guest, "--name", name]);
    }
    site.succeed(&["deploy", "Work", "--revision", "1", "--to", "development"]);
    site.succeed(&["deploy", "Reused", "--revision", "1", "--to", "development", "--limit", "reuse=1000"]);
    let pid = |process: &str| {
        Ok::<_, anyhow::Error>(u32::try_from(site.process(process)["pid"].as_u64().unwrap_or(0))?)
    };
    let (host, router) = (pid("host-development-1")?, pid("router-development-router")?);
    let direct = |path: &str| format!("http://{}{path}", site.host_address("development-1"));
    let scripts = tempfile::tempdir()?;
    let script = scripts.path().join("post.lua");
    std::fs::write(&script, format!("wrk.method = \"POST\"\nwrk.body = [[{ORDER}]]\n"))?;
    let fresh = serve.start(&[]).await?;
    let scanning = serve.scanning().start(&[]).await?;
    let reused = serve.start(&["--max-instance-reuse-count=1000"]).await?;
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("peers/work-workerd/config.capnp");
    let (workerd, workerd_rates) = Peer::workerd(&contenders.workerd, &config, "/json", &script).await?;

    let contender = |name: &str, url: String, pids: &[u32], is_json: bool, is_fresh: bool| Contender {
        name: name.to_owned(),
        url,
        pids: pids.to_vec(),
        script: is_json.then(|| script.clone()),
        is_fresh,
        rounds: Vec::new(),
    };
    let at = |peer: &Peer, path: &str| format!("http://{}{path}", peer.address);
    let mut all = [
        contender("hello: `wasmtime serve`, fresh", at(&fresh, "/"), &[fresh.pid()], false, true),
        contender(
            "hello: `wasmtime serve` with PAGEMAP_SCAN, fresh",
            at(&scanning, "/"),
            &[scanning.pid()],
            false,
            true,
        ),
        contender("hello: Odeon host, fresh", direct("/Work/"), &[host], false, true),
        contender(
            "hello: Odeon router and host, fresh",
            site.url("development", "/Work/"),
            &[host, router],
            false,
            true,
        ),
        contender(
            "hello: `wasmtime serve`, used up to 1,000 times",
            at(&reused, "/"),
            &[reused.pid()],
            false,
            false,
        ),
        contender("hello: Odeon host, used up to 1,000 times", direct("/Reused/"), &[host], false, false),
        contender("JSON: `wasmtime serve`, fresh", at(&fresh, "/json"), &[fresh.pid()], true, true),
        contender(
            "JSON: `wasmtime serve` with PAGEMAP_SCAN, fresh",
            at(&scanning, "/json"),
            &[scanning.pid()],
            true,
            true,
        ),
        contender("JSON: workerd", at(&workerd, "/json"), &[workerd.pid()], true, false),
        contender("JSON: Odeon host, fresh", direct("/Work/json"), &[host], true, true),
    ];
    for contender in &all {
        if contender.is_fresh {
            prove_fresh(&contender.url, contender.script.as_deref())?; // warms up, too
        } else {
            round_with(&contender.url, &contender.pids, contender.script.as_deref())?;
        }
    }
    compare(&site, &all).await?;
    for _ in 0..ROUNDS {
        for contender in &mut all {
            contender.rounds.push(round_with(&contender.url, &contender.pids, contender.script.as_deref())?);
        }
    }
    compare(&site, &all).await?;
    found(contenders, serve, &workerd_rates, &all)
}

/// Everybody gives the same answer to the same question, again and again.
async fn compare(site: &Installation, all: &[Contender]) -> Result<()> {
    let mut receipt = None;
    for contender in all {
        let text = look(site, contender).await?;
        if contender.script.is_some() {
            let first = receipt.get_or_insert_with(|| text.clone());
            ensure!(*first == text, "{} answers {text}, others {first}", contender.name);
        }
    }
    Ok(())
}

/// What a contender answers, each time, and from a fresh instance where that is promised.
async fn look(site: &Installation, contender: &Contender) -> Result<String> {
    let mut first: Option<String> = None;
    for _ in 0..LOOKS {
        let request = match contender.script {
            Some(_) => site.client.post(&contender.url).body(ORDER),
            None => site.client.get(&contender.url),
        };
        let answer = request.send().await?;
        ensure!(answer.status().is_success(), "{} answers {}", contender.name, answer.status());
        let is_first = answer.headers().get("x-instance-requests").is_some_and(|count| count == "1");
        ensure!(!contender.is_fresh || is_first, "{} gave one instance to two requests", contender.name);
        let text = answer.text().await?;
        let expected = match contender.script {
            Some(_) => text.contains("\"total_cents\":45635") && text.contains("\"hash\":"),
            None => text == "Hello from Odeon\n",
        };
        ensure!(expected, "{} answers {text}", contender.name);
        ensure!(*first.get_or_insert_with(|| text.clone()) == text, "{} changes its answer", contender.name);
    }
    first.context("an answer")
}

fn found(
    contenders: &Contenders,
    serve: &Serve,
    workerd_rates: &[f64],
    all: &[Contender; 10],
) -> Result<Found> {
    let mut text = format!(
        "## Requests over HTTP\n\n`guests/work-rust`, the same component for everybody, and its JSON job in JavaScript for workerd. `wrk` with one thread \
         and {CONNECTIONS} connections on the same cores, {ROUNDS} interleaved rounds of {ROUND_S} s, medians; CPU is user and system time of \
         the processes on the path. Odeon as images have it (`make production`), with the limits that an app has by default; peers as their makers publish them: {}; workerd {}, the \
         fastest of {} processes, which answered the JSON job {} times a second.\n\n\
         | | requests/s | CPU us per request | p50 us | p99 us |\n|---|---|---|---|---|\n",
        serve.told()?,
        version(&contenders.workerd)?,
        workerd_rates.len(),
        workerd_rates.iter().map(|rate| format!("{rate:.0}")).collect::<Vec<_>>().join(", "),
    );
    for contender in all {
        writeln!(
            text,
            "| {} | {:.0} | {:.1} | {:.0} | {:.0} |",
            contender.name,
            contender.of(|round| round.requests_per_s),
            contender.of(|round| round.cpu_us),
            contender.of(|round| round.p50_us),
            contender.of(|round| round.p99_us)
        )?;
    }
    let [
        fresh,
        scanning,
        host,
        routed,
        serve_reused,
        host_reused,
        serve_json,
        scanning_json,
        workerd_json,
        host_json,
    ] = all;
    let rate = |one: &Contender, other: &Contender| {
        one.of(|round| round.requests_per_s) / other.of(|round| round.requests_per_s)
    };
    let beside = |peer: &Contender, figure: fn(&Round) -> f64| host.of(figure) / peer.of(figure);
    writeln!(
        text,
        "\nWith `PAGEMAP_SCAN` an instance of wasmtime finds now and then what another one wrote (`odeon-bench apart`, [notes.md](notes.md)), so there is no limit \
         for it. Beside it hello takes {:.2}x of the CPU time, has {:.2}x of the requests and {:.2}x of the p99, and JSON {:.2}x of the requests.",
        beside(scanning, |round| round.cpu_us),
        rate(host, scanning),
        beside(scanning, |round| round.p99_us),
        rate(host_json, scanning_json)
    )?;
    let mut targets = Vec::new();
    for (what, ratio, bound) in [
        ("CPU", beside(fresh, |round| round.cpu_us), Bound::AtMost(0.4)),
        ("requests", rate(host, fresh), Bound::AtLeast(2.5)),
        ("p99", beside(fresh, |round| round.p99_us), Bound::AtMost(0.5)),
    ] {
        targets.push(Target::new(format!("hello, fresh: {what} beside `wasmtime serve`"), ratio, "x", bound));
    }
    targets.extend([
        Target::new(
            "hello, reused: requests beside it",
            rate(host_reused, serve_reused),
            "x",
            Bound::AtLeast(1.0),
        ),
        Target::new(
            "JSON, fresh: requests beside `wasmtime serve`",
            rate(host_json, serve_json),
            "x",
            Bound::AtLeast(1.5),
        ),
        Target::new(
            "JSON, fresh: requests beside workerd",
            rate(host_json, workerd_json),
            "x",
            Bound::AtLeast(1.2),
        ),
        Target::new("router and host beside the host alone", rate(routed, host), "x", Bound::AtLeast(0.6)),
    ]);
    Ok(Found { text, targets })
}
