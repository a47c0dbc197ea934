//! `odeon backup` and `odeon restore`: one file with everything that cannot be made again.
//!
//! The file is a tar archive, mode 0600 because it holds keys and passwords: `manifest.json`, `roles.sql` and
//! one dump per database (`databases/`), then `keys/`, `secrets/`, `blobs/` and `token`. What nats-server
//! holds is left out: the Platform writes components and desired state again from its database, and events that wait,
//! log lines and the states of timers are lost.
//!
//! Order makes a backup of a running installation fit together: a stage's database first, then the Platform's,
//! then the blobs. So the Platform never knows less than a stage, and every blob that it knows is there. A
//! restore begins a new epoch of generations: what it brings back is newer than anything a host may remember.

use std::fs::{self, File};
use std::io::{BufReader, BufWriter, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio_postgres::NoTls;

use crate::layout::Layout;
use crate::report::progress;
use crate::up::children::Children;
use crate::up::ports::Ports;
use crate::up::postgres::Postgres;
use crate::up::user::RunAs;
use crate::up::{self, stages};

/// What this module writes and understands.
const FORMAT: u32 = 1;
/// Folders of the installation that go into the file as they are.
const FOLDERS: [&str; 3] = ["keys", "secrets", "blobs"];
/// What waits there to be built is taken out again within an hour; who sent it sends it again.
const UPLOADS: &str = "blobs/uploads";
/// The Platform's database.
const PLATFORM: &str = "platform";
/// Begins the name of a file that says what was done to a database; a restored one is looked at again.
const DONE_MARK: &str = "hardened-";

#[derive(Serialize, Deserialize)]
struct Manifest {
    format: u32,
    version: String,
    databases: Vec<String>,
}

/// Writes a backup of the running installation to `file`.
pub(crate) fn backup(layout: &Layout, file: &Path) -> Result<ExitCode> {
    ensure!(
        layout.status()?.is_some(),
        "nothing runs here that could be backed up; start it with `odeon up`"
    );
    ensure!(!file.exists(), "{} exists; choose another name", file.display());
    let port = Ports::known(&layout.path("ports.json"))?.of("PostgreSQL");
    let postgres = Postgres::existing(layout, port)?;
    let work = Work::begin(layout.path("backup.new"))?;
    let databases: Vec<String> =
        stages::STAGES.iter().map(stages::database).chain([PLATFORM.to_owned()]).collect();
    let mut names = Vec::new();
    for database in &databases {
        progress(format_args!("database {database}"));
        let dump = work.path(database);
        let mut command = postgres.client("pg_dump", database);
        run(command.args(["--format=custom", "--create", "--file"]).arg(&dump))?;
        names.push((format!("databases/{database}"), dump));
    }
    progress("roles");
    let mut command = postgres.client("pg_dumpall", "postgres");
    let roles = run(command.arg("--roles-only"))?;
    let new = file.with_added_extension("new");
    let mut archive = tar::Builder::new(BufWriter::new(create_private(&new)?));
    let manifest = Manifest { format: FORMAT, version: env!("CARGO_PKG_VERSION").into(), databases };
    append(&mut archive, "manifest.json", &serde_json::to_vec_pretty(&manifest)?)?;
    append(&mut archive, "roles.sql", without_superuser(&roles).as_bytes())?;
    for (name, path) in names {
        append_file(&mut archive, &name, &path)?;
    }
    progress("keys and blobs");
    append_file(&mut archive, "token", &layout.token_file())?;
    for folder in FOLDERS {
        append_folder(&mut archive, folder, &layout.path("run").join(folder))?;
    }
    let written = archive.into_inner().context("finish the backup")?;
    written.into_inner().context("finish the backup")?.sync_all().context("finish the backup")?;
    fs::rename(&new, file).with_context(|| format!("put {} in place", file.display()))?;
    progress(format_args!(
        "wrote {}; it holds keys and passwords: keep it where only you can read it",
        file.display()
    ));
    Ok(ExitCode::SUCCESS)
}

/// Makes an installation from a backup, in an empty folder; `odeon up` then starts it.
pub(crate) async fn restore(layout: &Layout, file: &Path, port_base: u16) -> Result<ExitCode> {
    let is_used = fs::read_dir(&layout.root).is_ok_and(|mut entries| entries.next().is_some());
    ensure!(
        !is_used,
        "{} is not empty, and a restore never overwrites; say where with --data",
        layout.root.display()
    );
    let archive = File::open(file).with_context(|| format!("open {}", file.display()))?;
    let run_as = RunAs::choose()?;
    let outcome = build(layout, archive, &run_as, port_base).await;
    if outcome.is_err() {
        // Half an installation would look like one: nothing but what this command made is in the folder.
        let _ = fs::remove_dir_all(&layout.root);
    }
    outcome.with_context(|| format!("restore {}; nothing was kept", file.display()))?;
    progress(format_args!("restored into {}; start it with `odeon up`", layout.root.display()));
    Ok(ExitCode::SUCCESS)
}

async fn build(layout: &Layout, archive: File, run_as: &RunAs, port_base: u16) -> Result<()> {
    let _lock = up::lock(layout)?;
    for folder in ["run", "run/secrets", "run/keys", "run/blobs", "run/logs"] {
        run_as.own_folder(&layout.path(folder))?;
    }
    let work = Work::begin(layout.path("restore.new"))?;
    let manifest = unpack(layout, run_as, &work, archive)?;
    progress("PostgreSQL");
    let ports = Ports::choose(&layout.path("ports.json"), &up::port_names(), port_base)?;
    let postgres = Postgres::prepare(layout, run_as, ports.of("PostgreSQL"))?;
    let mut children = Children::default();
    children.start(postgres.recipe(run_as, layout.path("run/logs/postgresql.log")))?;
    let filled = fill(&postgres, &work, &manifest).await;
    children.stop().await;
    filled
}

/// Brings roles and databases into the new server.
async fn fill(postgres: &Postgres, work: &Work, manifest: &Manifest) -> Result<()> {
    postgres.wait().await?;
    progress("roles");
    let mut roles = postgres.client("psql", "postgres");
    run(roles
        .args(["--quiet", "--no-psqlrc", "--set=ON_ERROR_STOP=1", "--file"])
        .arg(work.path("roles.sql")))?;
    for database in &manifest.databases {
        progress(format_args!("database {database}"));
        let mut command = postgres.client("pg_restore", "postgres");
        run(command.args(["--create", "--exit-on-error", "--dbname=postgres"]).arg(work.path(database)))?;
    }
    let (client, connection) = tokio_postgres::connect(&postgres.superuser_url(PLATFORM), NoTls).await?;
    tokio::spawn(connection);
    let begun = client.batch_execute("update deployments.deployments set epoch = epoch + 1").await;
    begun.context("begin a new epoch")
}

/// Unpacks what this module wrote and nothing else: every name is checked before a byte is written.
fn unpack(layout: &Layout, run_as: &RunAs, work: &Work, archive: File) -> Result<Manifest> {
    let mut manifest: Option<Manifest> = None;
    let mut archive = tar::Archive::new(BufReader::new(archive));
    for entry in archive.entries().context("read the backup")? {
        let mut entry = entry.context("read the backup")?;
        let name = entry.path().context("read a name in the backup")?.into_owned();
        ensure!(entry.header().entry_type().is_file(), "{} in the backup is not a file", name.display());
        if name == Path::new("manifest.json") {
            let mut text = Vec::new();
            entry.read_to_end(&mut text).context("read the manifest")?;
            let found: Manifest = serde_json::from_slice(&text).context("understand the manifest")?;
            ensure!(
                found.format == FORMAT,
                "the backup has format {}, and this `odeon` reads format {FORMAT}; use the `odeon` of version {}",
                found.format,
                found.version
            );
            manifest = Some(found);
            continue;
        }
        let manifest = manifest.as_ref().context("it does not begin with manifest.json: not a backup")?;
        match destination(layout, work, manifest, &name)? {
            Some(path) => place(&mut entry, &path, run_as)?,
            None => continue,
        }
    }
    manifest.context("it does not begin with manifest.json: not a backup")
}

/// Where a file of the backup goes; `None` for what is made anew.
fn destination(layout: &Layout, work: &Work, manifest: &Manifest, name: &Path) -> Result<Option<PathBuf>> {
    let parts: Option<Vec<&str>> = name
        .components()
        .map(|part| match part {
            Component::Normal(part) => part.to_str(),
            Component::Prefix(_) | Component::RootDir | Component::CurDir | Component::ParentDir => None,
        })
        .collect();
    Ok(match parts.as_deref() {
        Some(["roles.sql"]) => Some(work.path("roles.sql")),
        Some(["token"]) => Some(layout.token_file()),
        Some(["databases", database]) if manifest.databases.iter().any(|known| known == database) => {
            Some(work.path(database))
        }
        Some(["secrets", file]) if file.starts_with(DONE_MARK) => None,
        Some([folder, _, ..]) if FOLDERS.contains(folder) => Some(layout.path("run").join(name)),
        _ => bail!("{} does not belong into a backup; nothing was restored", name.display()),
    })
}

fn place(entry: &mut impl Read, path: &Path, run_as: &RunAs) -> Result<()> {
    if let Some(parent) = path.parent()
        && !parent.exists()
    {
        run_as.own_folder(parent)?;
    }
    let mut file = create_private(path)?;
    std::io::copy(entry, &mut file).with_context(|| format!("write {}", path.display()))?;
    run_as.own(path)
}

/// `pg_dumpall` makes every role, the superuser too, which a new server has already.
fn without_superuser(roles: &str) -> String {
    let made = format!("CREATE ROLE {};", up::postgres::SUPERUSER);
    roles.lines().filter(|line| *line != made).map(|line| format!("{line}\n")).collect()
}

fn append(archive: &mut tar::Builder<impl std::io::Write>, name: &str, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o600);
    archive.append_data(&mut header, name, content).with_context(|| format!("add {name}"))
}

fn append_file(archive: &mut tar::Builder<impl std::io::Write>, name: &str, path: &Path) -> Result<()> {
    let mut file = File::open(path).with_context(|| format!("read {}", path.display()))?;
    archive.append_file(name, &mut file).with_context(|| format!("add {}", path.display()))
}

fn append_folder(archive: &mut tar::Builder<impl std::io::Write>, name: &str, folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))?;
    for entry in entries {
        let entry = entry.with_context(|| format!("read {}", folder.display()))?;
        let file_name = entry.file_name().into_string().ok();
        let file_name =
            file_name.with_context(|| format!("{} has a strange name", entry.path().display()))?;
        let name = format!("{name}/{file_name}");
        if name == UPLOADS {
            continue;
        }
        if entry.path().is_dir() {
            append_folder(archive, &name, &entry.path())?;
        } else if !file_name.contains('#') && !file_name.ends_with(".new") {
            append_file(archive, &name, &entry.path())?; // the others are being written
        }
    }
    Ok(())
}

fn create_private(path: &Path) -> Result<File> {
    let mut options = File::options();
    options.write(true).create_new(true).mode(0o600);
    options.open(path).with_context(|| format!("create {}", path.display()))
}

fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_owned();
    let done = command.output().with_context(|| format!("run {}", program.display()))?;
    let said = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "{} failed ({}): {}", program.display(), done.status, said.trim());
    String::from_utf8(done.stdout).with_context(|| format!("read what {} printed", program.display()))
}

/// A folder for dumps that only we read, and that goes when we are done.
struct Work(PathBuf);

impl Work {
    fn begin(folder: PathBuf) -> Result<Self> {
        use std::os::unix::fs::DirBuilderExt as _;
        let _ = fs::remove_dir_all(&folder);
        let made = fs::DirBuilder::new().mode(0o700).create(&folder);
        made.with_context(|| format!("create the folder {}", folder.display()))?;
        Ok(Self(folder))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Work {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, expect: Option<&str>) {
        let folder = tempfile::tempdir().unwrap();
        let layout = Layout { root: folder.path().to_owned() };
        let work = Work::begin(folder.path().join("work")).unwrap();
        let manifest =
            Manifest { format: FORMAT, version: String::new(), databases: vec!["platform".into()] };
        let found = destination(&layout, &work, &manifest, Path::new(name)).ok().flatten();
        let found = found.map(|path| path.strip_prefix(folder.path()).unwrap().to_owned());
        assert_eq!(found.as_deref(), expect.map(Path::new), "{name}");
    }

    #[test]
    fn a_backup_writes_only_where_it_may() {
        check("keys/operator.nk", Some("run/keys/operator.nk"));
        check("blobs/sha256/abc", Some("run/blobs/sha256/abc"));
        check("databases/platform", Some("work/platform"));
        check("secrets/hardened-stage_test", None);
        for bad in ["databases/other", "bin/odeon-host", "keys/../../x", "/etc/passwd", "keys", "ports.json"]
        {
            check(bad, None);
        }
    }
}
