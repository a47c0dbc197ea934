//! `odeon-host compile`: a component becomes native code, in a process that limits itself.
//!
//! Compiling takes time and memory in proportion to its input, and the input comes from strangers. The build
//! service and hosts both run this as a child: what goes wrong here goes wrong here.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use odeon_capabilities::Granted;
use odeon_engine::{App, Engine, Fits, Linkers, artefact};
use rustix::process::{Resource, Rlimit, setrlimit};
use serde_json::json;

/// CPU time of the child, in seconds.
const CPU_S_MAX: u64 = 60;
/// How much lower than others' the priority of the child is: whoever waits for an answer goes first.
const COMPILER_NICE: i32 = 10;
/// Address space that compiling may take beside what its engines reserve, in bytes.
const ADDRESS_BYTES_MAX: u64 = 8 << 30;
/// Bytes of native code: four times the largest component. A component may say in a few bytes that it consists of a
/// million instances.
const NATIVE_BYTES_MAX: usize = 256 << 20;
/// How long a host waits for the child, in seconds.
const WALL_S_MAX: u64 = 120;
/// Exit status that says: the component is at fault.
pub const REFUSED: u8 = 2;

/// A component that this host's apps cannot be.
#[derive(Debug)]
pub struct Refused(pub String);

/// Makes native code of components, without limits of its own.
pub struct Compiler {
    engine: Engine,
    linkers: Linkers<Granted>,
}

impl Compiler {
    /// A compiler for what hosts run and give to apps.
    pub fn new() -> Result<Self> {
        let engine = Engine::for_compiling().map_err(to_anyhow)?;
        let linkers = odeon_capabilities::linkers(&engine).map_err(to_anyhow)?;
        Ok(Self { engine, linkers })
    }

    /// Native code of a component, or why it is refused.
    pub fn compile(&self, bytes: &[u8]) -> Result<Result<Vec<u8>, Refused>> {
        let component = match artefact::component(&self.engine, bytes) {
            Ok(component) => component,
            Err(error) => return Ok(Err(Refused(format!("the component cannot be compiled: {error:#}")))),
        };
        if let Err(error) = App::link(&self.engine, &self.linkers, &component) {
            return Ok(Err(Refused(format!("the component does not fit this host: {error:#}"))));
        }
        let native = component.serialize().map_err(to_anyhow)?;
        let bytes = native.len();
        Ok(match bytes > NATIVE_BYTES_MAX {
            true => Err(Refused(format!("its native code has {bytes} bytes, of {NATIVE_BYTES_MAX} allowed"))),
            false => Ok(native),
        })
    }

    /// What the native code is for.
    pub fn fits(&self) -> Fits {
        self.engine.fits()
    }
}

/// What the child does. The answer for standard output, or why the component is refused.
pub fn compile(input: &Path, output: &Path) -> Result<Result<String, Refused>> {
    let nice = rustix::process::getpriority_process(None).unwrap_or(0);
    let _ = rustix::process::setpriority_process(None, nice + COMPILER_NICE); // to take less is always allowed
    limit(Resource::Cpu, CPU_S_MAX)?;
    let compiler = Compiler::new()?;
    limit(Resource::As, address_bytes()? + ADDRESS_BYTES_MAX)?;
    let bytes = std::fs::read(input).with_context(|| format!("read {}", input.display()))?;
    let native = match compiler.compile(&bytes)? {
        Ok(native) => native,
        Err(refused) => return Ok(Err(refused)),
    };
    std::fs::write(output, native).with_context(|| format!("write {}", output.display()))?;
    let Fits { target, engine } = compiler.fits();
    Ok(Ok(json!({ "target": target, "engine": engine }).to_string()))
}

/// Runs the child from a host and gives the native code.
pub(crate) async fn in_child(component: &[u8]) -> Result<Vec<u8>> {
    let folder = tempfile::tempdir().context("make a folder for the compiler")?;
    let (input, output) = (folder.path().join("app.wasm"), folder.path().join("app.cwasm"));
    tokio::fs::write(&input, component).await.context("hand the component to the compiler")?;
    let mut command = tokio::process::Command::new(std::env::current_exe().context("find our own program")?);
    command.arg("compile").arg("--in").arg(&input).arg("--out").arg(&output);
    command.env_clear(); // what is compiled comes from strangers
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).kill_on_drop(true);
    let child = command.spawn().context("start the compiler")?.wait_with_output();
    let done = tokio::time::timeout(Duration::from_secs(WALL_S_MAX), child).await;
    let done = done.context("the compiler took too long")?.context("wait for the compiler")?;
    if !done.status.success() {
        bail!("the compiler failed ({}): {}", done.status, String::from_utf8_lossy(&done.stderr).trim());
    }
    tokio::fs::read(&output).await.context("read the native code")
}

/// Address space of this process.
fn address_bytes() -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm").context("read our own size")?;
    let pages: u64 =
        text.split_whitespace().next().context("a size")?.parse().context("a number of pages")?;
    Ok(pages * rustix::param::page_size() as u64)
}

fn limit(resource: Resource, most: u64) -> Result<()> {
    setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) }).context("limit the compiler")
}

pub(crate) fn to_anyhow(error: odeon_engine::wasmtime::Error) -> anyhow::Error {
    anyhow::anyhow!("{error:#}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A component around a core module that has so many memories, of so many pages.
    fn with_memories(memories: u8, pages: u8) -> Vec<u8> {
        let mut module = b"\0asm\x01\0\0\0".to_vec();
        module.extend([5, 1 + 2 * memories, memories]);
        module.extend((0..memories).flat_map(|_| [0, pages]));
        let mut component = b"\0asm\x0d\0\x01\0".to_vec();
        component.extend([1, u8::try_from(module.len()).unwrap()]);
        component.extend(module);
        component.extend([2, 4, 1, 0, 0, 0]); // an instance of it
        component
    }

    #[test]
    fn what_no_host_would_load_is_not_compiled() {
        let compiler = Compiler::new().unwrap();
        let refused = |bytes: &[u8]| compiler.compile(bytes).unwrap().unwrap_err().0;
        let why = refused(&with_memories(2, 1));
        assert!(why.contains("cannot be compiled") && why.contains("memories"), "{why}");
        // A control: this one compiles, and is no app.
        let why = refused(&with_memories(1, 1));
        assert!(why.contains("does not fit this host"), "{why}");
    }
}
