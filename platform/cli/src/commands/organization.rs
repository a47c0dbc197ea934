//! `odeon organization` and `odeon token`: who may use the Platform.

use std::process::ExitCode;

use anyhow::Result;

use crate::api::Api;
use crate::layout::Layout;
use crate::report::{progress, say};

#[derive(clap::Subcommand)]
pub(crate) enum OrganizationCommand {
    /// Add an organization with stages of its own, and print its first token. Needs the scope `operator`.
    Add {
        /// Lower-case letters, digits and `-`.
        name: String,
    },
}

#[derive(clap::Subcommand)]
pub(crate) enum TokenCommand {
    /// Make a token and print it; it is never shown again.
    Create {
        /// Name, for the audit trail and to revoke it by.
        name: String,
        /// What it allows: read, deploy, admin, operator. May be given several times.
        #[arg(long = "scope", required = true)]
        scopes: Vec<String>,
        /// Days until it expires.
        #[arg(long, default_value_t = 30)]
        days: u32,
    },
    /// Revoke the tokens of that name, at once.
    Revoke {
        /// Name of the token.
        name: String,
    },
}

pub(crate) async fn organization(layout: &Layout, command: OrganizationCommand) -> Result<ExitCode> {
    let OrganizationCommand::Add { name } = command;
    let token = Api::connect(layout)?.add_organization(&name).await?;
    progress(format_args!("added the organization `{name}`; its token, shown this once:"));
    say(token);
    Ok(ExitCode::SUCCESS)
}

pub(crate) async fn token(layout: &Layout, command: TokenCommand) -> Result<ExitCode> {
    let api = Api::connect(layout)?;
    match command {
        TokenCommand::Create { name, scopes, days } => say(api.create_token(&name, &scopes, days).await?),
        TokenCommand::Revoke { name } => {
            api.revoke_token(&name).await?;
            progress(format_args!("revoked `{name}`"));
        }
    }
    Ok(ExitCode::SUCCESS)
}
