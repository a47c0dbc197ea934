//! Small jobs in compiled OML, beside the same by hand: in Rust for the same host, and in node.
//!
//! Every contender runs in a new process, in turns; a process warms each job up and then times it some times, and
//! gives its median. The results are compared before any time is. Node's time is that of its function
//! alone, warm; a component's has the request around it: a fresh instance, input and output as JSON.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use odeon_compiler::{Sources, compile, render};
use serde_json::{Value, json};

use super::runs::Timed;
use super::{Bound, Contenders, Found, Target};
use crate::publish::median;

/// Processes of each contender.
const ROUNDS: usize = 7;
/// Runs of a job in a process that do not count: node compiles meanwhile.
const WARM_UPS: usize = 6;
/// Runs of a job in a process that count.
const RUNS: usize = 9;
/// Most time of compiled OML, in times that of Rust.
const RUST_MAX: f64 = 1.5;
/// The jobs, as the page calls them, and whether node must be slower: it joins text without copying it.
const JOBS: [(&str, &str, bool); 5] = [
    ("Integers", "integer loop", true),
    ("Decimals", "decimal loop", true),
    ("Text", "text building", false),
    ("Sort", "list sorting", true),
    ("Json", "JSON round trip of 1,000 records", true),
];
const CONTENDERS: [&str; 3] = ["compiled OML", "Rust for wasm32", "node"];
const OML: &str = include_str!("../../guests/jobs-oml/jobs.yaml");
const NODE: &str = include_str!("../../guests/jobs-node/jobs.mjs");

pub(crate) fn measure(contenders: &Contenders) -> Result<Found> {
    let folder = tempfile::tempdir()?;
    let file = |name: &str| folder.path().join(name);
    std::fs::write(file("jobs.wasm"), compiled()?)?;
    std::fs::write(file("jobs.mjs"), NODE)?;
    std::fs::write(file("inputs.json"), inputs().to_string())?;
    let mut times: BTreeMap<(String, usize), Vec<f64>> = BTreeMap::new();
    let mut results: BTreeMap<String, String> = BTreeMap::new();
    for _ in 0..ROUNDS {
        for (at, name) in CONTENDERS.iter().enumerate() {
            let said = match at {
                0 => component(&file("jobs.wasm"), &file("inputs.json"))?,
                1 => component(&contenders.guest, &file("inputs.json"))?,
                _ => said(Command::new(&contenders.node).arg(file("jobs.mjs")).arg(file("inputs.json")))?,
            };
            for line in said.lines().filter(|line| !line.is_empty()) {
                let timed: Timed = serde_json::from_str(line)?;
                let known = results.entry(timed.job.clone()).or_insert_with(|| timed.result.clone());
                ensure!(*known == timed.result, "{name} {}: {} is not {known}", timed.job, timed.result);
                times.entry((timed.job, at)).or_default().push(median(&timed.micros));
            }
        }
    }
    let node = Command::new(&contenders.node).arg("--version").output()?;
    found(&times, String::from_utf8(node.stdout)?.trim())
}

fn compiled() -> Result<Vec<u8>> {
    let sources = Sources::new([("jobs.yaml".to_owned(), OML.to_owned())]);
    let compiled = compile(&sources);
    compiled.component.with_context(|| format!("it compiles: {}", render(&sources, &compiled.problems)))
}

fn inputs() -> Value {
    let numbers = |count: u32| (1..=count).collect::<Vec<u32>>();
    let prices: Vec<Value> = (0..256_u32).map(|at| json!(f64::from(at * 117 + 29) / 100.0)).collect();
    json!({ "Integers": numbers(1_024), "Decimals": prices, "Text": numbers(300), "Sort": numbers(100), "Json": numbers(100) })
}

fn component(wasm: &Path, inputs: &Path) -> Result<String> {
    said(Command::new(std::env::current_exe()?).arg("run-jobs").arg(wasm).arg(inputs))
}

fn said(command: &mut Command) -> Result<String> {
    let child = command.args([WARM_UPS.to_string(), RUNS.to_string()]).output()?;
    ensure!(child.status.success(), "{command:?}: {}", String::from_utf8_lossy(&child.stderr));
    Ok(String::from_utf8(child.stdout)?)
}

fn found(times: &BTreeMap<(String, usize), Vec<f64>>, node: &str) -> Result<Found> {
    let mut found = Found::default();
    writeln!(
        found.text,
        "## Jobs\n\n`tests/bench/guests`: `jobs-oml` in OML, `jobs-rust` by hand for the same engine settings and the same host, `jobs-node` for node {node}. \
         All give the same results, or nothing is measured. Medians of {ROUNDS} new processes each, in turns; each process runs a job {WARM_UPS} times \
         before it times {RUNS} runs. A component's time is that of a whole request, with a fresh instance; node's is that of its function alone, warm.\n\n\
         | job | compiled OML ms | Rust ms | OML / Rust | node ms | OML / node |\n|---|---|---|---|---|---|"
    )?;
    for (job, shown, beats_node) in JOBS {
        let of = |at: usize| times.get(&(job.to_owned(), at)).map(|times| median(times) / 1e3);
        let missing = || format!("{job} was measured");
        let (oml, rust, node) =
            (of(0).with_context(missing)?, of(1).with_context(missing)?, of(2).with_context(missing)?);
        writeln!(
            found.text,
            "| {shown} | {oml:.2} | {rust:.2} | {:.2} | {node:.2} | {:.2} |",
            oml / rust,
            oml / node
        )?;
        found.targets.push(Target::new(
            format!("{shown}: OML beside Rust"),
            oml / rust,
            "x",
            Bound::AtMost(RUST_MAX),
        ));
        if beats_node {
            found.targets.push(Target::new(
                format!("{shown}: OML beside node"),
                oml / node,
                "x",
                Bound::Below(1.0),
            ));
        }
    }
    Ok(found)
}
