//! A large project from OML to signed Wasm, and on to native code: time and memory, and how both grow.
//!
//! Each compilation is a process of its own that reads the files, compiles, hashes and signs, and writes the
//! component: nothing is warm. Time is from the start of the process to its end, as its parent sees it.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use odeon_compiler::{Sources, compile, render};
use odeon_protocol::signing::Signer;
use odeon_protocol::{Claim, Digest};

use super::{Bound, Found, Target, peak_kib, project};
use crate::plot::{Line, plot_in_proportion};
use crate::publish::median;

/// Sizes, in tenths of the size that the limits are about.
const TENTHS: [usize; 7] = [5, 10, 20, 40, 60, 80, 100];
/// The size of the limits.
const ONE: usize = 10;
/// Compilations of each size, in turns.
const ROUNDS: usize = 5;
/// Of each size, this many become native code: the next step, reported beside the limits.
const NATIVE_ROUNDS: usize = 1;
/// Most time at size 1, in milliseconds.
const MS_MAX: f64 = 300.0;
/// Most memory at size 1, in MiB.
const MIB_MAX: f64 = 200.0;
/// How much more than ten times as much ten times the size may cost and still be called linear.
const LINEAR_MAX: f64 = 1.15;

#[derive(Default)]
struct Size {
    tenths: usize,
    source_kb: f64,
    wasm_kb: f64,
    ms: Vec<f64>,
    mib: Vec<f64>,
    native_ms: Vec<f64>,
}

pub(crate) fn measure(page_folder: &Path) -> Result<Found> {
    let folder = tempfile::tempdir()?;
    let mut sizes = Vec::new();
    for tenths in TENTHS {
        let project = folder.path().join(format!("project-{tenths}"));
        std::fs::create_dir(&project)?;
        let mut source = 0;
        for (name, text) in project::files(tenths) {
            source += text.len();
            std::fs::write(project.join(name), text)?;
        }
        sizes.push(Size { tenths, source_kb: source as f64 / 1e3, ..Size::default() });
    }
    for _ in 0..ROUNDS {
        for size in &mut sizes {
            compiled(folder.path(), size)?;
        }
    }
    for _ in 0..NATIVE_ROUNDS {
        for size in &mut sizes {
            native(folder.path(), size)?;
        }
    }
    let line = |name: &str, of: fn(&Size) -> f64| Line {
        name: name.to_owned(),
        points: sizes.iter().map(|size| (size.tenths as f64 / 10.0, of(size))).collect(),
    };
    let svg = plot_in_proportion(
        "OML to signed Wasm in a new process",
        "size: times 100 entities, 500 actions, 200 REST methods",
        &[line("time, ms", |size| median(&size.ms)), line("peak memory, MiB", |size| median(&size.mib))],
    );
    std::fs::write(page_folder.join("compile.svg"), svg)?;
    found(&sizes)
}

fn compiled(folder: &Path, size: &mut Size) -> Result<()> {
    let (project, wasm) = paths(folder, size);
    let started = Instant::now();
    let child =
        Command::new(std::env::current_exe()?).arg("compile-project").arg(&project).arg(&wasm).output()?;
    let ms = started.elapsed().as_secs_f64() * 1e3;
    ensure!(child.status.success(), "compile: {}", String::from_utf8_lossy(&child.stderr));
    size.ms.push(ms);
    size.mib.push(String::from_utf8(child.stdout)?.trim().parse::<f64>()? / 1024.0);
    size.wasm_kb = std::fs::metadata(&wasm)?.len() as f64 / 1e3;
    Ok(())
}

/// The child that hosts and the build service use, with its own limits.
fn native(folder: &Path, size: &mut Size) -> Result<()> {
    let (_, wasm) = paths(folder, size);
    let host = std::env::current_exe()?.with_file_name("odeon-host");
    let started = Instant::now();
    let mut command = Command::new(&host);
    command.arg("compile").arg("--in").arg(&wasm).arg("--out").arg(wasm.with_extension("cwasm"));
    let child = command.output().with_context(|| format!("run {}", host.display()))?;
    if child.status.success() {
        size.native_ms.push(started.elapsed().as_secs_f64() * 1e3);
    }
    Ok(())
}

fn paths(folder: &Path, size: &Size) -> (PathBuf, PathBuf) {
    let tenths = size.tenths;
    (folder.join(format!("project-{tenths}")), folder.join(format!("project-{tenths}.wasm")))
}

/// What the child does: files in, a component and its sealed claim out. Prints the peak of its memory in KiB.
pub(crate) fn compile_here(project: &Path, wasm: &Path) -> Result<String> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(project)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).context("a name in UTF-8")?;
        files.push((name.to_owned(), std::fs::read_to_string(&path)?));
    }
    let sources = Sources::new(files);
    let compiled = compile(&sources);
    let component = compiled
        .component
        .with_context(|| format!("it compiles: {}", render(&sources, &compiled.problems)))?;
    let claim = Claim {
        organization: "0b0f8a4e-0000-4000-8000-000000000001".parse()?,
        app: "0b0f8a4e-0000-4000-8000-000000000002".parse()?,
        revision: serde_json::from_str("1")?,
        wasm: Digest::of(&component),
        wasm_bytes: component.len() as u64,
        native: None,
    };
    let sealed = Signer::generate().seal(&claim);
    std::fs::write(wasm, &component)?;
    std::fs::write(wasm.with_extension("claim"), serde_json::to_vec(&sealed)?)?;
    Ok(peak_kib()?.to_string())
}

fn found(sizes: &[Size]) -> Result<Found> {
    let at = |tenths: usize| sizes.iter().find(|size| size.tenths == tenths).context("it was measured");
    let (one, ten) = (at(ONE)?, at(ONE * 10)?);
    let grows = |of: fn(&Size) -> &Vec<f64>| median(of(ten)) / (10.0 * median(of(one)));
    let targets = vec![
        Target::new("compile: OML to signed Wasm, cold process", median(&one.ms), "ms", Bound::Below(MS_MAX)),
        Target::new("compile: peak memory of that", median(&one.mib), "MiB", Bound::Below(MIB_MAX)),
        Target::new(
            "compile: ten times the size, time per part",
            grows(|s| &s.ms),
            "x",
            Bound::AtMost(LINEAR_MAX),
        ),
        Target::new(
            "compile: ten times the size, memory per part",
            grows(|s| &s.mib),
            "x",
            Bound::AtMost(LINEAR_MAX),
        ),
    ];
    let mut text = format!(
        "## A large project\n\nMade by rule: 100 entities with ten attributes, 500 actions of 20 nodes and 200 REST methods are size 1. \
         Each compilation is a new process that reads the folder, compiles, hashes, signs and writes; medians of {ROUNDS}, in turns. \
         To native code is `odeon-host compile` after it, once.\n\n![time and memory over size](compile.svg)\n\n\
         | size | OML kB | Wasm kB | to signed Wasm ms | slowest ms | peak MiB | to native code ms |\n|---|---|---|---|---|---|---|\n"
    );
    for size in sizes {
        let slowest = size.ms.iter().copied().fold(0.0, f64::max);
        let native = match size.native_ms.is_empty() {
            true => "over the limits of a build".to_owned(),
            false => format!("{:.0}", median(&size.native_ms)),
        };
        writeln!(
            text,
            "| {} | {:.0} | {:.0} | {:.0} | {slowest:.0} | {:.0} | {native} |",
            size.tenths as f64 / 10.0,
            size.source_kb,
            size.wasm_kb,
            median(&size.ms),
            median(&size.mib),
        )?;
    }
    Ok(Found { text, targets })
}
