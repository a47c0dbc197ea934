//! The programs of WASI's public test suite pass in a host's engine, unchanged.
//!
//! They are commands of WASI 0.1, so each is made a component with wasmtime's adapter and composed with `tests/wasi/command`,
//! which runs it for a request. It is granted what its specification names, by whoever embeds the engine: an app on a host
//! has no folders, arguments or environment. Each runs under `wasmtime run` too. Whatever does not pass is in a list with the
//! reason; one that passes after all fails the test, so that the list can only shrink.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::process::{Command, Stdio};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use odeon_engine::app::Admitted;
use odeon_engine::wasmtime_wasi::p2::pipe::MemoryOutputPipe;
use odeon_engine::wasmtime_wasi::{FsPerms, WasiCtx};
use odeon_engine::wasmtime_wasi_http::WasiHttpHooks;
use odeon_engine::{
    Account, App, Capabilities, CpuShare, Engine, EngineSettings, Finish, Linkers, RequestLimits, artefact,
};
use odeon_tests::guest;
use serde::Deserialize;
use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER,
};
use wasm_compose::graph::{Component, CompositionGraph, EncodeOptions};
use wit_component::ComponentEncoder;

/// Programs that run at once: each is compiled twice.
const AT_ONCE: usize = 4;
/// Programs of the suite.
const PROGRAMS: usize = 80;
/// Bytes of what a program says.
const OUTPUT_BYTES_MAX: usize = 1 << 20;
const LIMITS: RequestLimits = RequestLimits {
    memory_bytes_max: 128 << 20,
    wall_ms_max: 60_000,
    cpu_ms_max: 60_000,
    reuse_max: 1,
    concurrency_max: 1,
};

/// What passes neither here nor there, and why.
const EXCEPTIONS: [(&str, &str); 13] = [
    ("assemblyscript/wasm32-wasip1/args_get-multiple-arguments", TEXTS),
    ("assemblyscript/wasm32-wasip1/environ_get-multiple-variables", TEXTS),
    (
        "assemblyscript/wasm32-wasip1/fd_write-to-invalid-fd",
        "the adapter writes nothing to any descriptor without looking at it",
    ),
    ("assemblyscript/wasm32-wasip1/proc_exit-failure", "WASI 0.2 tells failure from success, and no number"),
    (
        "rust/wasm32-wasip1/remove_directory_trailing_slashes",
        "wasmtime refuses to remove a folder whose name ends with a slash",
    ),
    ("rust/wasm32-wasip3/filesystem-advise", DRAFT),
    ("rust/wasm32-wasip3/filesystem-flags-and-type", DRAFT),
    ("rust/wasm32-wasip3/filesystem-hard-links", DRAFT),
    ("rust/wasm32-wasip3/filesystem-read-directory", DRAFT),
    ("rust/wasm32-wasip3/http-response", DRAFT),
    ("rust/wasm32-wasip3/monotonic-clock", DRAFT),
    ("rust/wasm32-wasip3/multi-clock-wait", DRAFT),
    ("rust/wasm32-wasip3/wall-clock", DRAFT),
];
const TEXTS: &str = "the adapter trips over an assertion of its own where all texts lie in one buffer";
const DRAFT: &str = "it is made for a draft of WASI 0.3, of September 2025";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_public_test_suite_passes() {
    let folder = std::env::var("ODEON_WASI_SUITE").expect("`make test` says where the suite is");
    let (suite, programs) = (Suite::new(), programs(Path::new(&folder)));
    assert_eq!(programs.len(), PROGRAMS, "is it another version of the suite?");
    let ran = futures_util::stream::iter(&programs).map(async |program| {
        let command = program.command();
        let (here, there) = tokio::join!(suite.run(program, &command), run_there(program, &command));
        (program.name.as_str(), here.err(), there.err())
    });
    let (mut here, mut there) = (BTreeMap::new(), BTreeMap::new());
    let mut ran = pin!(ran.buffer_unordered(AT_ONCE));
    while let Some((program, fault_here, fault_there)) = ran.next().await {
        here.extend(fault_here.map(|fault| (program, fault)));
        there.extend(fault_there.map(|fault| (program, fault)));
    }
    for (place, faults) in [("here", here), ("under `wasmtime run`", there)] {
        let expected = EXCEPTIONS.map(|(program, _)| program);
        assert!(
            faults.keys().copied().eq(expected),
            "{place} these fail, and not those of the list: {faults:#?}"
        );
    }
}

/// What a program is given, and must come to.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Specification {
    args: Vec<String>,
    dirs: Vec<PathBuf>,
    env: BTreeMap<String, String>,
    exit_code: i32,
    stdout: Option<String>,
    stderr: Option<String>,
}

#[derive(Debug)]
struct Program {
    /// Its folders in the suite, and its file without the ending.
    name: String,
    file: PathBuf,
    specification: Specification,
}

/// All programs of the suite.
fn programs(suite: &Path) -> Vec<Program> {
    let (mut folders, mut found) = (vec![suite.join("tests")], Vec::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let file = entry.unwrap().path();
            if file.is_dir() {
                folders.push(file);
            } else if file.extension().is_some_and(|ending| ending == "wasm") {
                let name = file.strip_prefix(suite.join("tests")).unwrap().with_extension("");
                let name = name.display().to_string().replace("/testsuite/", "/");
                let text =
                    fs::read_to_string(file.with_extension("json")).unwrap_or_else(|_| "{}".to_owned());
                let specification =
                    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{name}: {error}"));
                found.push(Program { name, file, specification });
            }
        }
    }
    found
}

impl Program {
    /// It is a component already, a command or a handler.
    fn is_for_0_3(&self) -> bool {
        self.name.contains("wasm32-wasip3")
    }

    /// As a component.
    fn command(&self) -> Vec<u8> {
        let bytes = fs::read(&self.file).unwrap();
        if self.is_for_0_3() {
            return bytes;
        }
        let mut encoder = ComponentEncoder::default();
        encoder.module(&bytes).unwrap();
        encoder.adapter(WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME, WASI_SNAPSHOT_PREVIEW1_COMMAND_ADAPTER).unwrap();
        encoder.validate(true).encode().unwrap()
    }

    /// A copy of the folders that it may write to, each with its name there.
    fn folders(&self, copies: &Path) -> Vec<(PathBuf, String)> {
        let copy = |folder: &PathBuf| {
            let (from, to) = (self.file.parent().unwrap().join(folder), copies.join(folder));
            copy_all(&from, &to);
            (to, folder.display().to_string())
        };
        self.specification.dirs.iter().map(copy).collect()
    }

    /// Compares what came of it with its specification.
    fn judge(&self, status: i32, stdout: &[u8], stderr: &[u8]) -> anyhow::Result<()> {
        let wanted = &self.specification;
        let (stdout, stderr) = (String::from_utf8_lossy(stdout), String::from_utf8_lossy(stderr));
        let is_said =
            |wanted: &Option<String>, said: &str| wanted.as_ref().is_none_or(|wanted| wanted == said);
        if status == wanted.exit_code && is_said(&wanted.stdout, &stdout) && is_said(&wanted.stderr, &stderr)
        {
            return Ok(());
        }
        anyhow::bail!("exit status {status}, it said {stdout:?} and {stderr:?}")
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let (from, to) = (entry.as_ref().unwrap().path(), to.join(entry.as_ref().unwrap().file_name()));
        if from.is_dir() {
            copy_all(&from, &to);
        } else {
            fs::copy(&from, &to).unwrap();
        }
    }
}

/// An engine as hosts have it.
struct Suite {
    engine: Engine,
    linkers: Linkers<Granted>,
    account: Account,
    handler: Vec<u8>,
}

impl Suite {
    fn new() -> Self {
        let engine = Engine::new(EngineSettings::default()).unwrap();
        let linkers = Linkers::new(&engine).unwrap();
        let account = Account::new(CpuShare { millicores: 2_000, burst_ms: None }, 2 << 30);
        Self { engine, linkers, account, handler: fs::read(guest("wasi_command")).unwrap() }
    }

    /// Runs a program for a request, and says what is wrong with what came of it.
    async fn run(&self, program: &Program, command: &[u8]) -> anyhow::Result<()> {
        let component = match program.is_for_0_3() {
            true => command.to_vec(),
            false => self.composed(command)?,
        };
        let component = artefact::component(&self.engine, &component)?;
        let app = App::link(&self.engine, &self.linkers, &component)?;
        let copies = tempfile::tempdir().unwrap();
        let granted = Granted::to(program, program.folders(copies.path()));
        let (stdout, stderr) = (granted.stdout.clone(), granted.stderr.clone());
        let memory = self.account.admit(app.initial_bytes()).await;
        let admitted = Admitted { cpu: self.account.cpu.clone(), memory, held: () };
        let body = Full::<Bytes>::default().map_err(|never| match never {}).boxed_unsync();
        let request = Request::get("http://localhost/").body(body).unwrap();
        let status = match app.handle(request, LIMITS, granted, admitted, std::future::pending()).await {
            Ok(answer) => match answer.into_body().collect().await.unwrap().to_bytes() == "0" {
                true => 0,
                false => 1,
            },
            Err(failure) => {
                let said = failure.to_string();
                let status = said.rsplit_once("exit status ").and_then(|(_, status)| status.parse().ok());
                status.ok_or_else(|| anyhow::anyhow!(said))?
            }
        };
        program.judge(status, &stdout.contents(), &stderr.contents())
    }

    /// A handler that runs a command.
    fn composed(&self, command: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (mut graph, mut types) = (CompositionGraph::new(), Default::default());
        let handler =
            graph.add_component(Component::from_bytes(&mut types, "handler", &self.handler[..])?)?;
        let program = graph.add_component(Component::from_bytes(&mut types, "command", command)?)?;
        let (export, command) = (graph.instantiate(handler)?, graph.instantiate(program)?);
        let run = |name: &str| name.starts_with("wasi:cli/run@");
        let (import, ..) =
            graph.get_component(handler).unwrap().imports().find(|(_, name, _)| run(name)).unwrap();
        let (exported, ..) =
            graph.get_component(program).unwrap().exports().find(|(_, name, ..)| run(name)).unwrap();
        graph.connect(command, Some(exported), export, import)?;
        graph.encode(EncodeOptions { define_components: true, export: Some(export), validate: true })
    }
}

/// What a program is granted, and what it said.
struct Granted {
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    folders: Vec<(PathBuf, String)>,
    stdout: MemoryOutputPipe,
    stderr: MemoryOutputPipe,
    hooks: [(); 0],
}

impl Granted {
    fn to(program: &Program, folders: Vec<(PathBuf, String)>) -> Self {
        let mut arguments = vec![program.name.clone()];
        arguments.extend(program.specification.args.iter().cloned());
        let environment = program.specification.env.clone().into_iter().collect();
        let [stdout, stderr] = [(); 2].map(|()| MemoryOutputPipe::new(OUTPUT_BYTES_MAX));
        Self { arguments, environment, folders, stdout, stderr, hooks: [] }
    }
}

impl Capabilities for Granted {
    async fn finish(&mut self, _: Finish) {}

    fn wasi(&self) -> WasiCtx {
        let mut wasi = WasiCtx::builder();
        wasi.args(&self.arguments)
            .envs(&self.environment)
            .stdout(self.stdout.clone())
            .stderr(self.stderr.clone());
        for (folder, name) in &self.folders {
            wasi.preopened_dir(folder, name, FsPerms::ReadWrite).unwrap();
        }
        wasi.build()
    }

    fn take_over(&mut self, _: &Self) {}

    fn http_hooks(&mut self) -> &mut dyn WasiHttpHooks {
        &mut self.hooks
    }
}

/// Runs a program under `wasmtime run`.
async fn run_there(program: &Program, command: &[u8]) -> anyhow::Result<()> {
    let copies = tempfile::tempdir().unwrap();
    let file = copies.path().join("program.wasm");
    fs::write(&file, command).unwrap();
    let mut command =
        Command::new(std::env::var("ODEON_WASMTIME").expect("`make test` says where wasmtime is"));
    command.arg("run");
    if program.is_for_0_3() {
        command.args(["-Sp3,http", "-Wcomponent-model-async"]);
    }
    for (folder, name) in program.folders(copies.path()) {
        command.arg("--dir").arg(format!("{}::{name}", folder.display()));
    }
    for (name, value) in &program.specification.env {
        command.arg("--env").arg(format!("{name}={value}"));
    }
    command.arg(&file).args(&program.specification.args).stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    let status = output.status.code().unwrap_or(-1);
    program.judge(status, &output.stdout, &output.stderr)
}
