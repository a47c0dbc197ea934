//! `odeon`: the command line.
//!
//! `up` and `down` run the product on this machine; everything else is a client of the Platform's REST
//! services and works against any Platform (`ODEON_URL`, `ODEON_TOKEN`).

mod api;
mod commands;
mod layout;
mod project;
mod report;
mod up;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::layout::Layout;

/// Publish apps as WebAssembly components, promote them, and run the whole product on this machine.
///
/// Commands talk to the Platform that `odeon up` runs here, or to the one of ODEON_URL with the token of ODEON_TOKEN.
#[derive(Parser)]
#[command(name = "odeon", version)]
struct Arguments {
    /// Folder of the local installation [default: /var/lib/odeon for root, else ~/.local/share/odeon].
    #[arg(long, global = true, env = "ODEON_DATA")]
    data: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run Platform, stages, PostgreSQL and nats-server on this machine until Ctrl-C.
    Up(up::UpArguments),
    /// Stop what `odeon up --detach` started.
    Down,
    /// Make a folder with a small, complete app.
    New {
        /// Folder to make; the app is named after it.
        folder: PathBuf,
    },
    /// Tell every problem of a project without publishing it.
    Check {
        /// OML file or folder.
        path: PathBuf,
        /// Print the problems as JSON.
        #[arg(long)]
        json: bool,
    },
    /// Build a revision and deploy it to the first stage.
    Publish(commands::publish::PublishArguments),
    /// Let a project use what another app offers, or a library: writes `references/<App>.json` or `libraries/<Library>.json`.
    Reference(commands::reference::ReferenceArguments),
    /// Watch a project and publish it at every save.
    Dev {
        /// OML folder.
        folder: PathBuf,
    },
    /// Deploy a stored revision to a stage: the same bits, no compilation.
    Deploy(commands::deploy::DeployArguments),
    /// Go back to the revision that served before.
    Rollback {
        /// Name of the app.
        app: String,
        /// Name of the stage.
        #[arg(long, default_value = "development")]
        stage: String,
    },
    /// Stop serving an app in a stage; its data are kept.
    Undeploy {
        /// Name of the app.
        app: String,
        /// Name of the stage.
        #[arg(long, default_value = "development")]
        stage: String,
    },
    /// List apps and where they serve.
    Apps {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// See and change what a stage sets for an app.
    #[command(subcommand)]
    Settings(commands::settings::SettingsCommand),
    /// See and run what an app runs by itself.
    #[command(subcommand)]
    Timers(commands::timers::TimersCommand),
    /// Show the newest log lines of an app.
    Logs {
        /// Name of the app.
        app: String,
        /// Name of the stage.
        #[arg(long, default_value = "development")]
        stage: String,
        /// How many, 1 to 10,000.
        #[arg(long, value_name = "NUMBER", default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        lines: u32,
        /// Go on with new lines until Ctrl-C.
        #[arg(long)]
        follow: bool,
        /// Only lines of the request with this id (`x-request-id`, `traceId`, `requestId`).
        #[arg(long, value_name = "ID")]
        request: Option<String>,
        /// Print JSON lines.
        #[arg(long)]
        json: bool,
    },
    /// Write databases, blobs and keys of the running local installation to one file.
    Backup {
        /// File to write.
        file: PathBuf,
    },
    /// Make a local installation from a backup, in an empty folder (`--data`).
    Restore {
        /// File that `odeon backup` wrote.
        file: PathBuf,
        /// First port to try.
        #[arg(long, default_value_t = up::ports::BASE)]
        port_base: u16,
    },
    /// Add an organization.
    #[command(subcommand)]
    Organization(commands::organization::OrganizationCommand),
    /// Make and revoke tokens of your organization.
    #[command(subcommand)]
    Token(commands::organization::TokenCommand),
    /// Show URLs, ports and processes of the local installation.
    Status {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report::failure(&anyhow::Error::from(error).context("start the runtime")),
    };
    match runtime.block_on(run(arguments)) {
        Ok(code) => code,
        Err(error) => report::failure(&error),
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let layout = Layout::choose(arguments.data)?;
    match arguments.command {
        Command::Up(arguments) => up::up(&layout, arguments).await,
        Command::Down => up::down(&layout).await,
        Command::New { folder } => commands::new::new(&folder),
        Command::Check { path, json } => commands::check::check(&path, json),
        Command::Publish(arguments) => commands::publish::publish(&layout, arguments).await,
        Command::Reference(arguments) => commands::reference::reference(&layout, arguments).await,
        Command::Dev { folder } => commands::dev::dev(&layout, &folder).await,
        Command::Deploy(arguments) => commands::deploy::deploy(&layout, arguments).await,
        Command::Rollback { app, stage } => commands::deploy::rollback(&layout, &app, &stage).await,
        Command::Undeploy { app, stage } => commands::deploy::undeploy(&layout, &app, &stage).await,
        Command::Settings(command) => commands::settings::settings(&layout, command).await,
        Command::Timers(command) => commands::timers::timers(&layout, command).await,
        Command::Apps { json } => commands::apps::apps(&layout, json).await,
        Command::Logs { app, stage, lines, follow, request, json } => {
            let which = commands::logs::Which { app, stage, lines, follow, request, json };
            commands::logs::logs(&layout, which).await
        }
        Command::Backup { file } => commands::backup::backup(&layout, &file),
        Command::Restore { file, port_base } => commands::backup::restore(&layout, &file, port_base).await,
        Command::Organization(command) => commands::organization::organization(&layout, command).await,
        Command::Token(command) => commands::organization::token(&layout, command).await,
        Command::Status { json } => commands::status::status(&layout, json),
    }
}
