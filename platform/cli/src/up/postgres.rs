//! A private PostgreSQL: own folder, own port, TCP on loopback only, passwords only.
//!
//! One server holds the Platform's database and one database per stage. Each has an owner of its own; the
//! superuser's password stays in a file of this installation and is used to set things up, nothing else.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use odeon_protocol::Digest;
use rustix::process::Signal;
use tokio_postgres::{Client, NoTls};

use super::children::{Recipe, Role};
use super::user::RunAs;
use crate::layout::Layout;

/// Oldest version that has all we use.
const VERSION_MIN: u32 = 15;
/// Where Debian and Ubuntu keep the server programs of each version.
const DEBIAN: &str = "/usr/lib/postgresql";
/// How long a start may take, in seconds; after a crash it replays its log first.
const START_S_MAX: u64 = 60;
/// Wait between two tries to connect, in milliseconds.
const POLL_MS: u64 = 30;
/// Connections of the whole server: those of all hosts, migrators and the Platform, with room to spare.
const CONNECTIONS_MAX: u32 = 400;
/// Memory of its own that one server process may have, in MiB: apps set `work_mem` as they like. What a result of 64 MiB and an
/// index need is far below; shared buffers do not count.
const PROCESS_MIB_MAX: u64 = 512;
/// Temporary files that one server process may have at once, in MiB: what is sorted beyond `work_mem` goes there, beside
/// the write-ahead log of all.
const TEMP_FILES_MIB_MAX: u64 = 512;
/// Superuser of the private server.
pub(crate) const SUPERUSER: &str = "odeon_super";

/// The private server.
pub(crate) struct Postgres {
    binaries: PathBuf,
    folder: PathBuf,
    port: u16,
    password: String,
}

/// A database and the role that owns it.
pub(crate) struct Database {
    pub(crate) name: String,
    pub(crate) owner: String,
    pub(crate) password: String,
}

impl Postgres {
    /// Finds the installed programs and makes the data folder when it is not there.
    pub(crate) fn prepare(layout: &Layout, run_as: &RunAs, port: u16) -> Result<Self> {
        let binaries = find_binaries()?;
        let folder = layout.path("run/postgresql");
        let password = secret(layout, run_as, "superuser")?;
        if !folder.join("PG_VERSION").exists() {
            let file = layout.path("run/initdb-password");
            run_as.write(&file, password.as_bytes())?;
            let unfinished = layout.path("run/postgresql.new");
            let _ = std::fs::remove_dir_all(&unfinished);
            let arguments = [
                "--pgdata".as_ref(),
                unfinished.as_os_str(),
                "--username".as_ref(),
                OsStr::new(SUPERUSER),
                "--pwfile".as_ref(),
                file.as_os_str(),
                "--auth=scram-sha-256".as_ref(),
                "--encoding=UTF8".as_ref(),
                "--locale=C.UTF-8".as_ref(),
            ];
            run_as.run(&binaries.join("initdb"), &arguments).context("make the PostgreSQL data folder")?;
            std::fs::remove_file(&file).context("remove the password file of initdb")?;
            std::fs::rename(&unfinished, &folder).context("put the PostgreSQL data folder in place")?;
        }
        Ok(Self { binaries, folder, port, password })
    }

    /// The server of an installation that was made before.
    pub(crate) fn existing(layout: &Layout, port: u16) -> Result<Self> {
        let path = layout.path("run/secrets/superuser");
        let password = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        Ok(Self { binaries: find_binaries()?, folder: layout.path("run/postgresql"), port, password })
    }

    /// One of PostgreSQL's own client programs, as superuser of `database`.
    pub(crate) fn client(&self, program: &str, database: &str) -> Command {
        let mut command = Command::new(self.binaries.join(program));
        command.env("PGHOST", "127.0.0.1").env("PGPORT", self.port.to_string());
        command.env("PGUSER", SUPERUSER).env("PGPASSWORD", &self.password).env("PGDATABASE", database);
        command.env("PGOPTIONS", "-c temp_file_limit=-1"); // a restore builds the indexes anew
        command
    }

    /// How to start it. SIGINT is its fast shutdown: sessions end, nothing is lost.
    pub(crate) fn recipe(&self, run_as: &RunAs, log: PathBuf) -> Recipe {
        let (program, folder, port) = (self.binaries.join("postgres"), self.folder.clone(), self.port);
        let run_as = run_as.clone();
        let command = move || -> Command {
            let mut command = run_as.command("prlimit");
            command.arg(format!("--data={}", PROCESS_MIB_MAX << 20)).arg("--").arg(&program);
            command.arg("-D").arg(&folder);
            for setting in [
                format!("port={port}"),
                "listen_addresses=127.0.0.1".to_owned(),
                "unix_socket_directories=".to_owned(),
                format!("max_connections={CONNECTIONS_MAX}"),
                format!("temp_file_limit={TEMP_FILES_MIB_MAX}MB"),
                "password_encryption=scram-sha-256".to_owned(),
            ] {
                command.arg("-c").arg(setting);
            }
            command
        };
        Recipe {
            name: "postgresql".into(),
            role: Role::PostgreSql,
            address: Some(format!("127.0.0.1:{}", self.port)),
            stop: Signal::INT,
            log,
            command: Box::new(command),
        }
    }

    /// Waits until it takes connections.
    pub(crate) async fn wait(&self) -> Result<Client> {
        let deadline = Instant::now() + Duration::from_secs(START_S_MAX);
        loop {
            match self.connect("postgres").await {
                Ok(client) => return Ok(client),
                Err(error) if Instant::now() > deadline => {
                    return Err(error)
                        .with_context(|| format!("PostgreSQL took no connection within {START_S_MAX} s"));
                }
                Err(_) => tokio::time::sleep(Duration::from_millis(POLL_MS)).await,
            }
        }
    }

    /// Makes a database with an owner of its own, unless it is there. `role_options` are the owner's.
    pub(crate) async fn ensure(
        &self,
        client: &Client,
        database: &Database,
        role_options: &str,
    ) -> Result<()> {
        let Database { name, owner, password } = database;
        let has_role =
            client.query_opt("select 1 from pg_roles where rolname = $1", &[owner]).await?.is_some();
        let verb = if has_role { "alter" } else { "create" };
        client
            .batch_execute(&format!("{verb} role {owner} login {role_options} password '{password}'"))
            .await
            .with_context(|| format!("{verb} the role {owner}"))?;
        if client.query_opt("select 1 from pg_database where datname = $1", &[name]).await?.is_none() {
            let sql = format!("create database {name} owner {owner}");
            client.batch_execute(&sql).await.with_context(|| format!("create the database {name}"))?;
        }
        // An index of a large table is sorted in files: apps have that limit, and not who keeps their schemas.
        client
            .batch_execute(&format!("alter role {owner} set temp_file_limit = -1"))
            .await
            .with_context(|| format!("set up the role {owner}"))?;
        // What comes with a server is open to every role, and nobody hardens it.
        let sql = format!(
            "revoke all on database {name} from public; revoke connect on database postgres from public; \
             revoke connect on database template1 from public"
        );
        client.batch_execute(&sql).await.with_context(|| format!("close the database {name} to others"))
    }

    /// A superuser's URL, for the few things that only a superuser can do.
    pub(crate) fn superuser_url(&self, database: &str) -> String {
        format!("postgres://{SUPERUSER}:{}@127.0.0.1:{}/{database}", self.password, self.port)
    }

    async fn connect(&self, database: &str) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = tokio_postgres::connect(&self.superuser_url(database), NoTls).await?;
        tokio::spawn(connection);
        Ok(client)
    }
}

/// A random password that is kept in this installation.
pub(crate) fn secret(layout: &Layout, run_as: &RunAs, name: &str) -> Result<String> {
    let path = layout.path(format!("run/secrets/{name}"));
    if let Ok(secret) = std::fs::read_to_string(&path) {
        return Ok(secret);
    }
    let secret = Digest::of(&rand::random::<[u8; 32]>()).to_string();
    run_as.write(&path, secret.as_bytes())?;
    Ok(secret)
}

fn find_binaries() -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir(DEBIAN)
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| {
            let version = entry.file_name().to_str()?.parse().ok()?;
            Some((version, entry.path().join("bin")))
        })
        .chain(on_path())
        .filter(|(_, folder)| folder.join("initdb").exists() && folder.join("postgres").exists())
        .collect();
    // Of one version, the folder that has what a backup needs, too.
    found.sort_by_key(|(version, folder)| (*version, folder.join("pg_dump").exists()));
    match found.pop() {
        Some((version, folder)) if version >= VERSION_MIN => Ok(folder),
        Some((version, folder)) => {
            bail!(
                "{} is PostgreSQL {version}; version {VERSION_MIN} or newer is needed: sudo apt-get install postgresql",
                folder.display()
            )
        }
        None => bail!("PostgreSQL is not installed: sudo apt-get install postgresql"),
    }
}

/// The programs on PATH, with their version, for machines that are not Debian's.
fn on_path() -> Option<(u32, PathBuf)> {
    let folder =
        std::env::split_paths(&std::env::var_os("PATH")?).find(|folder| folder.join("postgres").exists())?;
    let said = Command::new(folder.join("postgres")).arg("--version").output().ok()?;
    Some((major_version(&String::from_utf8_lossy(&said.stdout))?, folder))
}

fn major_version(text: &str) -> Option<u32> {
    let number = text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split('.').next()?.parse().ok()
}

/// Finds a program next to ours, then on PATH.
pub(crate) fn find_program(name: &str, beside: &Path) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(beside.to_owned())
        .chain(std::env::split_paths(&path))
        .map(|folder| folder.join(name))
        .find(|file| file.is_file())
}

#[cfg(test)]
mod tests {
    #[test]
    fn versions_are_read_as_postgres_prints_them() {
        assert_eq!(super::major_version("postgres (PostgreSQL) 15.18 (Debian 15.18-0+deb12u1)"), Some(15));
        assert_eq!(super::major_version("postgres (PostgreSQL) 18beta1"), None);
    }
}
