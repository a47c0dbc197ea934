//! `odeon-migrator`: keeps the schemas and roles of a stage's database.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use odeon_migrator::settings::Settings;
use odeon_migrator::{harden, serve};
use tracing_subscriber::EnvFilter;

/// Keeps the schemas and roles of a stage's database.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Answer migrations and credentials requests.
    Serve {
        /// Settings file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Take from PUBLIC what apps must not have. Needs a superuser; run before apps come, and after an update.
    Harden {
        /// PostgreSQL URL of a superuser; the environment variable keeps it out of the process list.
        #[arg(long, env = "ODEON_SUPERUSER_URL", hide_env_values = true)]
        url: String,
        /// The role `serve` logs in as.
        #[arg(long)]
        admin: String,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    rustix::thread::set_no_new_privs(true).context("give up new privileges")?;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,async_nats=warn"));
    tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    match arguments.command {
        Command::Serve { config } => runtime.block_on(serve(Settings::read(&config)?, stop_signal())),
        Command::Harden { url, admin } => runtime.block_on(harden::harden(&url, &admin)),
    }
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
