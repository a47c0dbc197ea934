//! The stages of a local installation: a migrator, hosts and a router each.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::children::{Recipe, Role};
use super::postgres::{Database, Postgres, secret};
use super::{ORGANIZATION, Site};

/// A stage and the zone of each of its hosts.
pub(crate) struct StagePlan {
    pub(crate) name: &'static str,
    zones: &'static [&'static str],
}

/// One host where it is cheap, three zones where it matters.
pub(crate) const STAGES: [StagePlan; 3] = [
    StagePlan { name: "development", zones: &["a"] },
    StagePlan { name: "test", zones: &["a", "b"] },
    StagePlan { name: "production", zones: &["a", "b", "c"] },
];

/// Raised when a role may do more or less than before: credentials carry what is allowed, so new ones are made.
const CREDENTIALS_VERSION: u32 = 4;

/// Raised with what `odeon-migrator harden` takes, so that the databases of before lose it, too.
const HARDENING: u32 = 2;

/// Name of a stage's database.
pub(crate) fn database(stage: &StagePlan) -> String {
    format!("stage_{}", stage.name)
}

/// Database connections one host may hold: three hosts and their migrator fit into the server's.
const DATABASE_CONNECTIONS_MAX: u32 = 50;

/// Where users reach each stage.
pub(crate) fn urls(site: &Site<'_>) -> BTreeMap<String, String> {
    STAGES
        .iter()
        .map(|stage| (stage.name.to_owned(), format!("http://{}", router_address(site, stage))))
        .collect()
}

fn router_address(site: &Site<'_>, stage: &StagePlan) -> String {
    format!("127.0.0.1:{}", site.ports.of(&format!("router of {}", stage.name)))
}

/// How to start the processes of a stage, its database being made on the way.
pub(crate) async fn recipes(
    site: &Site<'_>,
    stage: &StagePlan,
    postgres: &Postgres,
    client: &tokio_postgres::Client,
    trusted_keys: &Path,
) -> Result<Vec<Recipe>> {
    let name = stage.name;
    let password = secret(site.layout, &site.run_as, &format!("migrator-{name}"))?;
    let database =
        Database { name: self::database(stage), owner: format!("odeon_migrator_{name}"), password };
    postgres.ensure(client, &database, "createrole").await?;
    harden(site, postgres, &database)?;

    let organization = organization(site)?;
    let nats_url = format!("nats://127.0.0.1:{}", site.ports.of("nats-server"));
    let state = |process: &str| -> Result<_> {
        let folder = site.layout.path(format!("run/stages/{name}/{process}"));
        site.run_as.own_folder(&folder)?;
        Ok(folder)
    };
    let common = |credentials: &Path| json!({ "organization": organization, "stage": name, "nats_url": nats_url, "credentials": credentials, "trusted_keys": trusted_keys });
    site.run_as.own_folder(&site.layout.path(format!("run/stages/{name}")))?;

    let mut recipes = Vec::new();
    let mut settings = common(&credentials(site, stage, "migrator", "migrator")?);
    settings["database"] = json!({
        "host": "127.0.0.1", "port": site.ports.of("PostgreSQL"), "database": database.name,
        "user": database.owner, "password": database.password,
    });
    recipes.push(site.recipe(Role::Migrator, &format!("stages/{name}/{name}-migrator"), &settings)?);
    let file = site.layout.path(format!("run/stages/{name}/secrets.key"));
    let secrets_key = made_once(site, stage, file, "stage-key", &[])?;
    for (at, zone) in stage.zones.iter().enumerate() {
        let host = format!("{name}-{}", at + 1);
        let mut settings = common(&credentials(site, stage, "host", &host)?);
        settings["host"] = json!(host);
        settings["zone"] = json!(zone);
        settings["listen"] = json!("127.0.0.1:0");
        settings["admin_listen"] = json!("127.0.0.1:0");
        settings["secrets_key"] = json!(secrets_key);
        settings["state_dir"] = json!(state(&host)?);
        settings["database_connections_max"] = json!(DATABASE_CONNECTIONS_MAX);
        settings["egress_networks"] = json!(site.egress_networks);
        settings["event_retry_ms"] = json!(site.event_retry_ms);
        recipes.push(site.recipe(Role::Host, &format!("stages/{name}/host-{host}"), &settings)?);
    }
    let router = format!("{name}-router");
    let address = router_address(site, stage);
    let mut settings = common(&credentials(site, stage, "router", &router)?);
    settings["router"] = json!(router);
    settings["leave_ms"] = json!(0); // nothing chooses between routers here
    settings["listen"] = json!(address);
    settings["admin_listen"] = json!("127.0.0.1:0");
    settings["state_dir"] = json!(state(&router)?);
    let recipe = site.recipe(Role::Router, &format!("stages/{name}/router-{router}"), &settings)?;
    recipes.push(Recipe { address: Some(address), ..recipe });
    Ok(recipes)
}

/// Once per database and [`HARDENING`]: take from PUBLIC what apps must not have.
fn harden(site: &Site<'_>, postgres: &Postgres, database: &Database) -> Result<()> {
    let marker = site.layout.path(format!("run/secrets/hardened-{HARDENING}-{}", database.name));
    if marker.exists() {
        return Ok(());
    }
    let done = Command::new(site.binary("odeon-migrator"))
        .args(["harden", "--admin", &database.owner])
        .env("ODEON_SUPERUSER_URL", postgres.superuser_url(&database.name))
        .output()
        .context("run odeon-migrator harden")?;
    ensure!(done.status.success(), "odeon-migrator harden: {}", String::from_utf8_lossy(&done.stderr).trim());
    site.run_as.write(&marker, b"")
}

fn organization(site: &Site<'_>) -> Result<String> {
    let file = site.layout.path("run/keys/organizations.json");
    let text = std::fs::read(&file).with_context(|| format!("read {}", file.display()))?;
    let ids: BTreeMap<String, String> =
        serde_json::from_slice(&text).with_context(|| format!("understand {}", file.display()))?;
    ids.get(ORGANIZATION)
        .cloned()
        .with_context(|| format!("{} does not name `{ORGANIZATION}`", file.display()))
}

/// NATS credentials of a process.
fn credentials(site: &Site<'_>, stage: &StagePlan, role: &str, name: &str) -> Result<PathBuf> {
    let file = format!("run/stages/{}/{name}.{CREDENTIALS_VERSION}.creds", stage.name);
    let file = site.layout.path(file);
    made_once(site, stage, file, "provision", &["--role", role, "--name", name])
}

/// A file of a stage with what `odeon-platform` prints, unless it is there.
fn made_once(
    site: &Site<'_>,
    stage: &StagePlan,
    file: PathBuf,
    command: &str,
    more: &[&str],
) -> Result<PathBuf> {
    if file.exists() {
        return Ok(file);
    }
    let keys = site.layout.path("run/keys");
    let mut arguments = vec![command.as_ref(), "--keys".as_ref(), keys.as_os_str()];
    let said = ["--organization", ORGANIZATION, "--stage", stage.name];
    arguments.extend(said.iter().chain(more).map(AsRef::<std::ffi::OsStr>::as_ref));
    let said = site.run_as.run(&site.binary("odeon-platform"), &arguments)?;
    site.run_as.write(&file, said.as_bytes())?;
    Ok(file)
}
