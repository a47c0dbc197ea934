//! `odeon-router`: the load balancer of a stage.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Parser;
use odeon_router::run;
use odeon_router::settings::Settings;
use tracing_subscriber::EnvFilter;

/// As in hosts: glibc's allocator took a tenth of the CPU time of a request that passes through.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Threads beside those that drive users' connections: they accept them, follow the stage, and answer for health and metrics.
const THREADS: usize = 2;

/// The load balancer of a stage.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    /// Settings file.
    #[arg(long)]
    config: PathBuf,
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    rustix::thread::set_no_new_privs(true).context("give up new privileges")?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,async_nats=warn"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    odeon_http::descriptors::raise();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build();
    runtime.context("start the runtime")?.block_on(run(Settings::read(&arguments.config)?, stop_signal()))
}

async fn stop_signal() {
    use tokio::signal::unix::{SignalKind, signal};
    match (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) {
        (Ok(mut terminate), Ok(mut interrupt)) => {
            tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        }
        _ => std::future::pending().await,
    }
}
