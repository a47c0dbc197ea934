//! `odeon-host`: runs apps, or compiles one.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand};
use odeon_host::compile::{REFUSED, Refused, compile};
use odeon_host::run;
use odeon_host::settings::Settings;
use tracing_subscriber::EnvFilter;

/// A request allocates a thousand times, on whichever thread it is; glibc's allocator took a tenth of the CPU time of a
/// list of 50 rows.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Runs the apps of a stage.
#[derive(Parser)]
#[command(version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve.
    Run {
        /// Settings file.
        #[arg(long)]
        config: PathBuf,
    },
    /// Make native code from a component, within limits, and print what it fits as JSON.
    Compile {
        /// The component.
        #[arg(long = "in")]
        input: PathBuf,
        /// Where the native code goes.
        #[arg(long = "out")]
        output: PathBuf,
    },
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    rustix::thread::set_no_new_privs(true).context("give up new privileges")?;
    match arguments.command {
        Command::Run { config } => {
            let filter =
                EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,async_nats=warn"));
            tracing_subscriber::fmt().json().with_env_filter(filter).with_writer(std::io::stderr).init();
            odeon_http::descriptors::raise();
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            let settings = Settings::read(&config)?;
            runtime.context("start the runtime")?.block_on(run(settings, stop_signal()))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Compile { input, output } => Ok(match compile(&input, &output)? {
            Ok(answer) => {
                print(&answer);
                ExitCode::SUCCESS
            }
            Err(Refused(why)) => {
                complain(&why);
                ExitCode::from(REFUSED)
            }
        }),
    }
}

#[expect(clippy::print_stdout, reason = "the caller reads it")]
fn print(text: &str) {
    println!("{text}");
}

#[expect(clippy::print_stderr, reason = "the caller reads it")]
fn complain(text: &str) {
    eprintln!("{text}");
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
