//! `odeon up`: the whole product on this machine, from PostgreSQL to three stages with their hosts.
//!
//! Everything lies in one folder, runs as one unprivileged user, and is a child of this process. The first
//! start makes keys, databases and ports; every later one finds them. The order of the start is the order of
//! need, and each step waits until the one before answers: PostgreSQL, nats-server, Platform, migrators,
//! hosts, routers.

pub(crate) mod children;
mod nats;
pub(crate) mod ports;
pub(crate) mod postgres;
pub(crate) mod stages;
pub(crate) mod user;

use std::ffi::OsStr;
use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use self::children::{Children, Recipe, Role};
use self::ports::Ports;
use self::postgres::{Database, Postgres, secret};
use self::user::RunAs;
use crate::api::Api;
use crate::commands;
use crate::layout::{Layout, Status};
use crate::report::{progress, say};

/// The organization of a local installation.
const ORGANIZATION: &str = "demo";
/// How long a part may take until it answers, in seconds.
const ANSWER_S_MAX: u64 = 60;
/// Wait between two looks, in milliseconds.
const POLL_MS: u64 = 50;
/// Time between two looks after the children, in milliseconds.
const WATCH_MS: u64 = 100;
/// How long `odeon down` waits, in seconds: every child may take its time.
const DOWN_S_MAX: u64 = 180;

#[derive(clap::Args)]
pub(crate) struct UpArguments {
    /// Return once everything answers; `odeon down` stops it.
    #[arg(long)]
    detach: bool,
    /// First port to try at the first start.
    #[arg(long, default_value_t = ports::BASE)]
    port_base: u16,
    /// Do not publish the sample app.
    #[arg(long)]
    no_sample: bool,
    /// The nats-server to run [default: beside `odeon`, then PATH].
    #[arg(long, env = "ODEON_NATS_SERVER")]
    nats_server: Option<PathBuf>,
    /// The wait before a failed event is tried again for the first time, in milliseconds [default: 2 minutes].
    #[arg(long, value_name = "MS")]
    event_retry_ms: Option<u64>,
    /// A network that apps may reach besides the Internet, as 10.1.0.0/16; may be given several times.
    #[arg(long = "egress-network", value_name = "CIDR")]
    egress_networks: Vec<String>,
    /// The most that a deployment may give an app, as `name=value` with the names of `odeon deploy --limit`; may be given several times.
    #[arg(long = "limit-max", value_name = "NAME=VALUE")]
    limits_max: Vec<String>,
}

/// What the parts of the start share.
pub(crate) struct Site<'a> {
    layout: &'a Layout,
    run_as: RunAs,
    binaries: PathBuf,
    ports: Ports,
    event_retry_ms: Option<u64>,
    egress_networks: Vec<String>,
    limits_max: serde_json::Value,
}

pub(crate) async fn up(layout: &Layout, arguments: UpArguments) -> Result<ExitCode> {
    if arguments.detach {
        return detach(layout, &arguments).await;
    }
    let _lock = lock(layout)?;
    let _ = std::fs::remove_file(layout.status_file());
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for Ctrl-C")?;
    let mut children = Children::default();
    let outcome = tokio::select! {
        outcome = run(layout, arguments, &mut children) => outcome,
        _ = terminate.recv() => Ok(()),
        _ = interrupt.recv() => Ok(()),
    };
    let _ = std::fs::remove_file(layout.status_file());
    progress("stopping");
    children.stop().await;
    outcome.map(|()| ExitCode::SUCCESS)
}

/// Starts everything, then watches over it; ends only with an error.
async fn run(layout: &Layout, arguments: UpArguments, children: &mut Children) -> Result<()> {
    let started = Instant::now();
    let site = prepare(layout, &arguments)?;
    let nats_program = nats::find(arguments.nats_server, &site.beside())?;
    let nats_program = site.install(&nats_program)?;

    progress("PostgreSQL");
    let postgres = Postgres::prepare(layout, &site.run_as, site.ports.of("PostgreSQL"))?;
    children.start(postgres.recipe(&site.run_as, site.log("postgresql")))?;
    let database = unless_fallen(children, postgres.wait()).await?;

    progress("nats-server");
    let keys = layout.path("run/keys");
    let said = site
        .run_as
        .run(&site.binary("odeon-platform"), &["init".as_ref(), "--keys".as_ref(), keys.as_os_str()])?;
    let operator: nats::Operator = serde_json::from_str(&said).context("understand `odeon-platform init`")?;
    children.start(nats::prepare(
        layout,
        &site.run_as,
        nats_program,
        &operator,
        site.ports.of("nats-server"),
    )?)?;
    unless_fallen(children, wait_for_port(site.ports.of("nats-server"))).await?;

    progress("Platform");
    let platform = platform(&site, &postgres, &database).await?;
    let url = platform.address.clone().map(|address| format!("http://{address}")).unwrap_or_default();
    children.start(platform)?;
    unless_fallen(children, wait_for_url(&format!("{url}/healthz"))).await?;

    for stage in stages::STAGES {
        progress(format_args!("stage {}", stage.name));
        for recipe in stages::recipes(&site, &stage, &postgres, &database, &operator.trusted_keys).await? {
            children.start(recipe)?;
        }
    }
    let mut status = Status {
        pid: std::process::id(),
        platform: url,
        stages: stages::urls(&site),
        processes: children.statuses(),
    };
    write_status(&site, &status)?;
    let api = Api::local(layout, &status)?;
    unless_fallen(children, wait_for_stages(&api)).await?;
    if !arguments.no_sample {
        publish_sample(&site, &api).await?;
    }
    status.processes = children.statuses();
    write_status(&site, &status)?;
    progress(format_args!("everything answers after {:.1} s", started.elapsed().as_secs_f64()));
    commands::status::status(layout, false)?;
    std::fs::write(layout.path("ready"), b"").context("say that everything answers")?;
    loop {
        tokio::time::sleep(Duration::from_millis(WATCH_MS)).await;
        children.trim_logs();
        if children.revive()? {
            status.processes = children.statuses();
            write_status(&site, &status)?;
        }
    }
}

/// Folders, user, ports, and binaries where the user can run them.
fn prepare<'l>(layout: &'l Layout, arguments: &UpArguments) -> Result<Site<'l>> {
    let run_as = RunAs::choose()?;
    let _ = std::fs::remove_file(layout.path("ready"));
    for folder in ["run", "run/secrets", "run/logs", "run/stages", "run/keys", "run/blobs"] {
        run_as.own_folder(&layout.path(folder))?;
    }
    let ports = Ports::choose(&layout.path("ports.json"), &port_names(), arguments.port_base)?;
    let site = Site {
        layout,
        run_as,
        binaries: layout.path("bin"),
        ports,
        event_retry_ms: arguments.event_retry_ms,
        egress_networks: arguments.egress_networks.clone(),
        limits_max: commands::deploy::read_limits("--limit-max", &arguments.limits_max)?,
    };
    std::fs::create_dir_all(&site.binaries).with_context(|| format!("create {}", site.binaries.display()))?;
    for name in ["odeon-platform", "odeon-host", "odeon-router", "odeon-migrator"] {
        let program = site.beside().join(name);
        ensure!(program.is_file(), "{} is missing; build it with `make build`", program.display());
        site.install(&program)?;
    }
    Ok(site)
}

/// What has a port of its own.
pub(crate) fn port_names() -> Vec<String> {
    let mut names = vec!["Platform".to_owned(), "nats-server".to_owned(), "PostgreSQL".to_owned()];
    names.extend(stages::STAGES.iter().map(|stage| format!("router of {}", stage.name)));
    names
}

impl Site<'_> {
    /// The folder of our own binary.
    fn beside(&self) -> PathBuf {
        std::env::current_exe().ok().and_then(|exe| exe.parent().map(Path::to_owned)).unwrap_or_default()
    }
    fn binary(&self, name: &str) -> PathBuf {
        self.binaries.join(name)
    }
    fn log(&self, name: &str) -> PathBuf {
        self.layout.path(format!("run/logs/{name}.log"))
    }
    /// Copies a program into the installation: root's folders are closed to the user who is to run it.
    fn install(&self, program: &Path) -> Result<PathBuf> {
        let name = program.file_name().context("a program has a name")?;
        let (target, new) = (self.binaries.join(name), self.binaries.join("new"));
        let newer = |file: &Path| std::fs::metadata(file).and_then(|file| file.modified()).ok();
        if newer(&target) < newer(program) {
            std::fs::copy(program, &new).with_context(|| format!("copy {}", program.display()))?;
            std::fs::rename(&new, &target).with_context(|| format!("put {} in place", target.display()))?;
        }
        Ok(target)
    }
    /// A recipe for one of our own binaries with a settings file.
    fn recipe(&self, role: Role, name: &str, settings: &serde_json::Value) -> Result<Recipe> {
        let (program, verb) = role.program();
        let file = self.layout.path(format!("run/{name}.json"));
        if let Some(parent) = file.parent() {
            self.run_as.own_folder(parent)?;
        }
        self.run_as.write(&file, &serde_json::to_vec_pretty(settings).context("write settings")?)?;
        let (run_as, program) = (self.run_as.clone(), self.binary(program));
        let command = move || -> Command {
            let mut command = run_as.command(&program);
            command.args(verb).arg("--config").arg(&file);
            command
        };
        Ok(Recipe {
            name: name.rsplit('/').next().unwrap_or(name).to_owned(),
            role,
            address: None,
            stop: Signal::TERM,
            log: self.log(&name.replace('/', "-")),
            command: Box::new(command),
        })
    }
}

async fn platform(site: &Site<'_>, postgres: &Postgres, client: &tokio_postgres::Client) -> Result<Recipe> {
    let password = secret(site.layout, &site.run_as, "platform")?;
    let database = Database { name: "platform".into(), owner: "odeon_platform".into(), password };
    postgres.ensure(client, &database, "").await?;
    let address = format!("127.0.0.1:{}", site.ports.of("Platform"));
    let settings = json!({
        "listen": address,
        "database_url": format!("postgres://{}:{}@127.0.0.1:{}/{}", database.owner, database.password, site.ports.of("PostgreSQL"), database.name),
        "nats_url": format!("nats://127.0.0.1:{}", site.ports.of("nats-server")),
        "keys": site.layout.path("run/keys"),
        "blobs": site.layout.path("run/blobs"),
        "host_binary": site.binary("odeon-host"),
        "organization": ORGANIZATION,
        "stages": stages::STAGES.iter().map(|stage| stage.name).collect::<Vec<_>>(),
        "token_file": site.layout.token_file(),
        "limits_max": site.limits_max,
    });
    let recipe = site.recipe(Role::Platform, "platform", &settings)?;
    Ok(Recipe { address: Some(address), ..recipe })
}

async fn publish_sample(site: &Site<'_>, api: &Api) -> Result<()> {
    if !api.assets().await?.is_empty() {
        return Ok(());
    }
    progress("sample app");
    let files: std::collections::BTreeMap<&str, &str> = commands::new::SAMPLE.iter().copied().collect();
    let upload = serde_json::to_vec(&json!({ "files": files })).context("pack the sample")?;
    let done = api.publish(upload, None, "sample app").await?;
    ensure!(
        done.status == "Finished",
        "the sample app was not published: {}; logs: {}",
        done.messages.iter().map(|message| message.text.as_str()).collect::<Vec<_>>().join("; "),
        site.layout.path("run/logs").display()
    );
    Ok(())
}

/// Waits for `answer`, but not for longer than all children run.
async fn unless_fallen<T>(children: &mut Children, answer: impl Future<Output = Result<T>>) -> Result<T> {
    let mut answer = std::pin::pin!(answer);
    loop {
        tokio::select! {
            answer = &mut answer => return answer,
            () = tokio::time::sleep(Duration::from_millis(WATCH_MS)) => {
                if let Some((name, log)) = children.fallen()? {
                    bail!("{name} ended while it was starting. The end of {}:\n{}", log.display(), tail(&log));
                }
            }
        }
    }
}

/// The last lines of a log.
fn tail(log: &Path) -> String {
    const LINES: usize = 10;
    let text = std::fs::read_to_string(log).unwrap_or_default();
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

async fn wait_for_port(port: u16) -> Result<()> {
    poll(&format!("port {port}"), async || tokio::net::TcpStream::connect(("127.0.0.1", port)).await.is_ok())
        .await
}

async fn wait_for_url(url: &str) -> Result<()> {
    let client = reqwest::Client::builder().no_proxy().build().context("start the HTTP client")?;
    poll(url, async || client.get(url).send().await.is_ok_and(|answer| answer.status().is_success())).await
}

async fn wait_for_stages(api: &Api) -> Result<()> {
    poll("all stages", async || {
        let stages = api.environments().await;
        stages.is_ok_and(|stages| stages.iter().all(|stage| stage.status == "Ready"))
    })
    .await
}

async fn poll(what: &str, mut answers: impl AsyncFnMut() -> bool) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(ANSWER_S_MAX);
    while !answers().await {
        ensure!(Instant::now() < deadline, "{what} did not answer within {ANSWER_S_MAX} s");
        tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
    }
    Ok(())
}

fn write_status(site: &Site<'_>, status: &Status) -> Result<()> {
    let (file, new) = (site.layout.status_file(), site.layout.path("status.new"));
    std::fs::write(&new, serde_json::to_vec_pretty(status)?)
        .with_context(|| format!("write {}", new.display()))?;
    std::fs::rename(&new, &file).with_context(|| format!("put {} in place", file.display()))
}

/// Two at once in one folder would destroy each other's data.
pub(crate) fn lock(layout: &Layout) -> Result<File> {
    std::fs::create_dir_all(&layout.root).with_context(|| format!("create {}", layout.root.display()))?;
    let path = layout.path("lock");
    let file = File::create(&path).with_context(|| format!("open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            bail!("`odeon up` is running in {} already; `odeon down` stops it", layout.root.display())
        }
        Err(TryLockError::Error(error)) => Err(error).with_context(|| format!("lock {}", path.display())),
    }
}

/// Starts ourselves in the background and waits until everything answers.
async fn detach(layout: &Layout, arguments: &UpArguments) -> Result<ExitCode> {
    drop(lock(layout)?);
    let _ = std::fs::remove_file(layout.path("ready"));
    let log = layout.path("up.log");
    let output = File::create(&log).with_context(|| format!("open {}", log.display()))?;
    let mut command = Command::new("setsid");
    command.arg(std::env::current_exe().context("find our own program")?);
    command
        .args(["--data".as_ref(), layout.root.as_os_str(), "up".as_ref(), "--port-base".as_ref()]
            as [&OsStr; 4]);
    command.arg(arguments.port_base.to_string());
    if arguments.no_sample {
        command.arg("--no-sample");
    }
    if let Some(program) = &arguments.nats_server {
        command.arg("--nats-server").arg(program);
    }
    if let Some(wait) = arguments.event_retry_ms {
        command.arg("--event-retry-ms").arg(wait.to_string());
    }
    for network in &arguments.egress_networks {
        command.arg("--egress-network").arg(network);
    }
    for limit in &arguments.limits_max {
        command.arg("--limit-max").arg(limit);
    }
    command.stdin(Stdio::null()).stdout(output.try_clone().context("share a log file")?).stderr(output);
    let mut child = command.spawn().context("start in the background")?;
    while !layout.path("ready").exists() {
        if child.try_wait().context("look after the background process")?.is_some() {
            bail!("`odeon up` ended:\n{}", tail(&log));
        }
        tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
    }
    say(std::fs::read_to_string(&log).unwrap_or_default().trim_end());
    Ok(ExitCode::SUCCESS)
}

/// Stops what runs in this folder and waits for its end.
pub(crate) async fn down(layout: &Layout) -> Result<ExitCode> {
    let Some(status) = layout.status()? else {
        progress(format_args!("nothing runs in {}", layout.root.display()));
        return Ok(ExitCode::SUCCESS);
    };
    if lock(layout).is_ok() {
        // Whoever wrote the status is gone, and the pid may be somebody else's by now.
        let _ = std::fs::remove_file(layout.status_file());
        progress("`odeon up` had been killed; its processes ended with it");
        return Ok(ExitCode::SUCCESS);
    }
    let pid =
        i32::try_from(status.pid).ok().and_then(Pid::from_raw).context("the status file names no process")?;
    kill_process(pid, Signal::TERM).with_context(|| format!("ask process {} to stop", status.pid))?;
    let deadline = Instant::now() + Duration::from_secs(DOWN_S_MAX);
    while lock(layout).is_err() {
        ensure!(Instant::now() < deadline, "process {} did not stop within {DOWN_S_MAX} s", status.pid);
        tokio::time::sleep(Duration::from_millis(POLL_MS)).await;
    }
    progress(format_args!("stopped; the data stay in {}", layout.root.display()));
    Ok(ExitCode::SUCCESS)
}
