//! `odeon-platform`: serves the Platform, and makes the credentials of a stage's processes.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use odeon_platform::keys::Keys;
use odeon_platform::settings::Settings;
use odeon_platform::{Role, init, openapi, provision, serve};
use odeon_protocol::StageName;
use tracing_subscriber::EnvFilter;

/// The Odeon Platform.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make missing keys, and print what nats-server must know of them, as JSON.
    Init {
        /// Folder of private keys.
        #[arg(long)]
        keys: PathBuf,
    },
    /// Print NATS credentials for a process of a stage.
    Provision {
        /// Folder of private keys.
        #[arg(long)]
        keys: PathBuf,
        /// Name of the organization.
        #[arg(long)]
        organization: String,
        /// Name of the stage.
        #[arg(long)]
        stage: StageName,
        /// What the process is.
        #[arg(long)]
        role: Role,
        /// Name of the process.
        #[arg(long)]
        name: String,
    },
    /// Print the key that the secret settings of a stage are sealed with, for its hosts.
    StageKey {
        /// Folder of private keys.
        #[arg(long)]
        keys: PathBuf,
        /// Name of the organization.
        #[arg(long)]
        organization: String,
        /// Name of the stage.
        #[arg(long)]
        stage: StageName,
    },
    /// Print the OpenAPI 3.1 document.
    Openapi,
    /// Serve.
    Serve {
        /// Settings file.
        #[arg(long)]
        config: PathBuf,
    },
}

fn main() -> Result<()> {
    let arguments = Arguments::parse();
    rustix::thread::set_no_new_privs(true).context("give up new privileges")?;
    match arguments.command {
        Command::Init { keys } => print(&init(&Keys::open_or_create(&keys)?)?.to_string()),
        Command::Provision { keys, organization, stage, role, name } => {
            let keys = Keys::open_or_create(&keys)?;
            print(&provision(&keys, &keys.organization(&organization)?, &stage, role, &name)?)
        }
        Command::StageKey { keys, organization, stage } => {
            let keys = Keys::open_or_create(&keys)?;
            print(&keys.secrets(&keys.organization(&organization)?, &stage)?.to_text())
        }
        Command::Openapi => print(&openapi()?),
        Command::Serve { config } => {
            let filter =
                EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,async_nats=warn"));
            tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .context("start the runtime")?;
            runtime.block_on(serve(Settings::read(&config)?, stop_signal()))
        }
    }
}

#[expect(clippy::print_stdout, reason = "these commands exist for what they print")]
fn print(text: &str) -> Result<()> {
    println!("{text}");
    Ok(())
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
