//! The unprivileged user that everything runs as when root starts it: PostgreSQL refuses root, and so
//! should a process that runs other people's code.

use std::ffi::OsStr;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Resource, Rlimit, setrlimit};

/// Name of the system user.
const USER: &str = "odeon";

/// Who the children run as.
#[derive(Debug, Clone)]
pub(crate) enum RunAs {
    /// Whoever started us.
    Ourselves,
    /// A system user, because root started us.
    User { uid: u32, gid: u32 },
}

impl RunAs {
    /// Chooses, and makes the system user when root needs one.
    pub(crate) fn choose() -> Result<Self> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Ourselves);
        }
        allow_clocks_to_go_first();
        if let Some(user) = find_user()? {
            return Ok(user);
        }
        let made = Command::new("useradd")
            .args(["--system", "--user-group", "--no-create-home", "--shell", "/usr/sbin/nologin", USER])
            .output()
            .context("run useradd to make the system user `odeon`")?;
        ensure!(made.status.success(), "useradd: {}", String::from_utf8_lossy(&made.stderr).trim());
        find_user()?.context("the user `odeon` was made but is not in /etc/passwd")
    }

    /// A command that runs as this user, ends with us, and can gain no privileges.
    pub(crate) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM", "--no-new-privs"]);
        if let Self::User { uid, gid } = self {
            command.arg(format!("--reuid={uid}")).arg(format!("--regid={gid}")).arg("--clear-groups");
        }
        command.arg("--").arg(program);
        command
    }

    /// Makes a folder that only this user reads.
    pub(crate) fn own_folder(&self, path: &Path) -> Result<()> {
        use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .with_context(|| format!("create the folder {}", path.display()))?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700))
            .with_context(|| format!("close the folder {}", path.display()))?;
        self.own(path)
    }

    /// Gives a file or folder to this user.
    pub(crate) fn own(&self, path: &Path) -> Result<()> {
        match self {
            Self::Ourselves => Ok(()),
            Self::User { uid, gid } => chown(path, Some(*uid), Some(*gid))
                .with_context(|| format!("give {} to the user `{USER}`", path.display())),
        }
    }

    /// Writes a file that only this user reads.
    pub(crate) fn write(&self, path: &Path, content: &[u8]) -> Result<()> {
        use std::io::Write as _;
        use std::os::unix::fs::OpenOptionsExt as _;
        let new = path.with_extension("new");
        let _ = std::fs::remove_file(&new);
        let mut options = std::fs::OpenOptions::new();
        let mut file = options.write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(content).with_context(|| format!("write {}", path.display()))?;
        self.own(&new)?;
        std::fs::rename(&new, path).with_context(|| format!("put {} in place", path.display()))
    }

    /// Runs a command to its end and gives what it printed; an error says what it complained about.
    pub(crate) fn run(&self, program: &Path, arguments: &[&OsStr]) -> Result<String> {
        let folder = PathBuf::from("/");
        let done = self.command(program).args(arguments).current_dir(folder).output();
        let done = done.with_context(|| format!("run {}", program.display()))?;
        if !done.status.success() {
            let said = String::from_utf8_lossy(&done.stderr);
            bail!("{} failed ({}): {}", program.display(), done.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&done.stdout).into_owned())
    }
}

/// The clock of a host's guests is in time only if it has a real-time priority, and the user that hosts run as may not
/// take one by itself. Children inherit the limit.
fn allow_clocks_to_go_first() {
    let one = Rlimit { current: Some(1), maximum: Some(1) };
    let _ = setrlimit(Resource::Rtprio, one); // a host that has none says so
}

fn find_user() -> Result<Option<RunAs>> {
    let passwd = std::fs::read_to_string("/etc/passwd").context("read /etc/passwd")?;
    let line = passwd.lines().find(|line| line.split(':').next() == Some(USER));
    line.map(|line| {
        let mut fields = line.split(':').skip(2).map(str::parse::<u32>);
        match (fields.next(), fields.next()) {
            (Some(Ok(uid)), Some(Ok(gid))) => Ok(RunAs::User { uid, gid }),
            _ => bail!("/etc/passwd has a line for `{USER}` that cannot be read: {line}"),
        }
    })
    .transpose()
}
