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
    /// Make the first token of an organization anew and print it: nobody there has one any more. The one before is revoked. Needs the scope `operator`.
    RenewToken {
        /// Name of the organization.
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
    let api = Api::connect(layout)?;
    match command {
        OrganizationCommand::Add { name } => {
            let token = api.add_organization(&name).await?;
            progress(format_args!("added the organization `{name}`; its token, shown this once:"));
            say(token);
        }
        OrganizationCommand::RenewToken { name } => {
            let token = api.renew_first_token(&name).await?;
            progress(format_args!("the first token of `{name}` is another one now, shown this once:"));
            say(token);
        }
    }
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
