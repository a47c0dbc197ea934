//! The runtime library inside each app, beside one module that all apps of a host share.
//!
//! Three variants of the same thousand apps, under the engine settings of a host: *copied*, as the compiler makes
//! them; *trimmed*, the same without the bodies of library functions that the app cannot reach; *shared*, where
//! the library is one module, each app imports it, and a request makes an instance of both. All three must
//! give the same results. Memory is that of a process of its own, which maps the artefacts from disk; a host of
//! today reads them into memory, and would pay for native code in anonymous pages.

mod split;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use odeon_compiler::{Sources, compile, runtime_library};
use odeon_engine::{Engine, EngineSettings, Wasi};
use wasmtime::{
    Extern, Instance, InstancePre, Linker, Memory, Module, ModuleExport, Store, Table, TypedFunc,
};

use crate::load::cpu_s;
use crate::page::machine;
use crate::publish::median;

/// Apps whose compilation is timed.
const TIMED: usize = 21;
/// Instances whose making is timed, of one app.
const INSTANCES: usize = 10_000;
/// Instances that do the heavy work.
const HEAVY: usize = 500;
/// The variants, in the order of the page.
const VARIANTS: [&str; 3] = ["copied", "trimmed", "shared"];
/// What `Heavy` must give: the sum over 4^5 rounds, in units of 10^-8.
const TOTAL: i128 = 2_560_000_000;

/// The app that is varied.
const SAMPLE: [(&str, &str); 5] = [
    ("app.yaml", include_str!("../../../guest-examples/expenses/app.yaml")),
    ("data.yaml", include_str!("../../../guest-examples/expenses/data.yaml")),
    ("actions.yaml", include_str!("../../../guest-examples/expenses/actions.yaml")),
    ("rest.yaml", include_str!("../../../guest-examples/expenses/rest.yaml")),
    ("zz-probe.yaml", include_str!("sharing/probe.yaml")),
];

/// What is measured of one variant.
#[derive(Default)]
struct Figures {
    wasm_bytes: Vec<f64>,
    native_bytes: Vec<f64>,
    compile_ms: Vec<f64>,
    compile_cpu_ms: f64,
    instance_us: f64,
    heavy_us: f64,
    /// After loading, and after each app served once.
    held: Vec<Held>,
}

/// Memory of a process, in KiB.
#[derive(Clone, Copy)]
struct Held {
    anonymous: f64,
    file: f64,
    mappings: f64,
    /// Median time of a first instance, in microseconds.
    first_us: f64,
}

/// Measures, and gives the page.
pub(crate) fn measure(apps: usize) -> Result<String> {
    let folder = tempfile::tempdir()?;
    let engine = Engine::new(EngineSettings::default())?;
    let modules: Vec<Vec<u8>> = (0..apps).map(variation).collect::<Result<_>>()?;
    let library = library(&modules)?;
    let library_native = engine.of(Wasi::P2).precompile_module(&library)?;
    std::fs::write(folder.path().join("library.cwasm"), &library_native)?;

    let mut figures: BTreeMap<&str, Figures> = BTreeMap::new();
    for (at, module) in modules.iter().enumerate() {
        let cut = split::cut(module, runtime_library())?;
        let of_variant = [&cut.copied, &cut.trimmed, &cut.alone];
        for (variant, wasm) in VARIANTS.into_iter().zip(of_variant) {
            let figures = figures.entry(variant).or_default();
            let (started, cpu) = (Instant::now(), cpu_s(&[std::process::id()])?);
            let native = engine.of(Wasi::P2).precompile_module(wasm)?;
            if at < TIMED {
                figures.compile_ms.push(started.elapsed().as_secs_f64() * 1e3);
                figures.compile_cpu_ms +=
                    (cpu_s(&[std::process::id()])? - cpu) * 1e3 / TIMED.min(apps) as f64;
            }
            figures.wasm_bytes.push(wasm.len() as f64);
            figures.native_bytes.push(native.len() as f64);
            let file = folder.path().join(format!("{variant}-{at}-{}.cwasm", cut.entries_end));
            std::fs::write(file, native)?;
        }
    }
    for variant in VARIANTS {
        let figures = figures.get_mut(variant).context("it was measured")?;
        let app = Loaded::all(&engine, folder.path(), variant, 1)?.pop().context("there is one app")?;
        ensure!(app.small(&engine)? == 2 && app.heavy(&engine)? == TOTAL, "`{variant}` works");
        figures.instance_us = p50(INSTANCES, || app.small(&engine).map(drop))?;
        figures.heavy_us = p50(HEAVY, || app.heavy(&engine).map(drop))?;
        figures.held = held_elsewhere(folder.path(), variant)?;
    }
    page(apps, &figures, &library, &library_native)
}

/// The module of an app like no other: names, texts, numbers and the length of its code differ.
fn variation(at: usize) -> Result<Vec<u8>> {
    let mut own = format!("actions:\n  Own{at}:\n    outputs: {{ Result: Text }}\n    flow:\n");
    for node in 0..=at % 8 {
        writeln!(own, "      - assign: {{ Result: 'Result + \"{at}-{node}\" + {}' }}", at * 8 + node)?;
    }
    let vary = |text: &str| {
        text.replace("app: Expenses", &format!("app: Expenses{at}"))
            .replace("default: 1000", &format!("default: {}", 1_000 + at))
            .replace("is approved already", &format!("was approved already by {at}"))
    };
    let files = SAMPLE.map(|(name, text)| (name.to_owned(), vary(text)));
    let compiled = compile(&Sources::new(files.into_iter().chain([("own.yaml".to_owned(), own)])));
    let problems = compiled.problems;
    let component = compiled.component.with_context(|| format!("the app compiles: {problems:?}"))?;
    Ok(split::module_of(&component)?.to_vec())
}

/// The shared library, with room for the largest of the apps.
fn library(modules: &[Vec<u8>]) -> Result<Vec<u8>> {
    let (mut pages, mut table) = (0, 0);
    for module in modules {
        pages = pages.max(split::memory_pages(module)?);
        table = table.max(split::cut(module, runtime_library())?.entries_end);
    }
    split::shared(runtime_library(), pages, table)
}

/// An app, ready for requests.
struct Loaded {
    /// The whole app, or the library.
    whole: InstancePre<()>,
    /// The app beside the library, and what it takes from it.
    alone: Option<(Module, Vec<ModuleExport>)>,
    entries_end: u64,
}

/// What a request has: an instance, and the way into it.
struct Live {
    store: Store<()>,
    memory: Memory,
    table: Table,
    reserve: TypedFunc<(i32, i32, i32, i32), i32>,
}

impl Loaded {
    fn all(engine: &Engine, folder: &Path, variant: &str, most: usize) -> Result<Vec<Self>> {
        let wasmtime = engine.of(Wasi::P2);
        let mut linker = Linker::new(wasmtime);
        let library = match variant {
            "shared" => Some(mapped(engine, &folder.join("library.cwasm"))?),
            _ => None,
        };
        if let Some(library) = &library {
            linker.define_unknown_imports_as_traps(library)?;
        }
        let library = library.map(|library| linker.instantiate_pre(&library)).transpose()?;
        let mut all = Vec::new();
        for file in std::fs::read_dir(folder)? {
            let file = file?.path();
            let name = file.file_stem().and_then(|name| name.to_str()).unwrap_or_default().to_owned();
            let [of, _, entries_end] = name.split('-').collect::<Vec<_>>()[..] else { continue };
            if of != variant || all.len() == most {
                continue;
            }
            let module = mapped(engine, &file)?;
            let entries_end = entries_end.parse()?;
            all.push(match &library {
                Some(library) => {
                    let export = |name| library.module().get_export_index(name);
                    let exports = module.imports().map(|import| export(import.name()));
                    let exports =
                        exports.collect::<Option<_>>().context("the library has what apps import")?;
                    Self { whole: library.clone(), alone: Some((module, exports)), entries_end }
                }
                None => {
                    linker.define_unknown_imports_as_traps(&module)?;
                    Self { whole: linker.instantiate_pre(&module)?, alone: None, entries_end }
                }
            });
        }
        Ok(all)
    }

    /// A fresh instance, as each request gets one.
    fn live(&self, engine: &Engine) -> Result<Live> {
        let mut store = Store::new(engine.of(Wasi::P2), ());
        store.set_epoch_deadline(u64::MAX / 2);
        let whole = self.whole.instantiate(&mut store)?;
        if let Some((module, exports)) = &self.alone {
            let taken = exports.iter().map(|export| whole.get_module_export(&mut store, export));
            let taken: Vec<Extern> = taken.collect::<Option<_>>().context("the library exports it")?;
            Instance::new(&mut store, module, &taken)?;
        }
        let memory = whole.get_memory(&mut store, "memory").context("a memory")?;
        let table = whole.get_table(&mut store, "table").context("a table")?;
        let reserve = whole.get_typed_func(&mut store, "cabi_realloc")?;
        Ok(Live { store, memory, table, reserve })
    }

    /// 1 + 1 in a fresh instance.
    fn small(&self, engine: &Engine) -> Result<i32> {
        let (live, frame) = self.call(engine, self.entries_end - 2)?;
        Ok(i32::from_le_bytes(read(&live, frame)?))
    }

    /// 1,024 rounds of decimals in a fresh instance.
    fn heavy(&self, engine: &Engine) -> Result<i128> {
        let (live, frame) = self.call(engine, self.entries_end - 1)?;
        let at = i32::from_le_bytes(read(&live, frame)?);
        Ok(i128::from_le_bytes(read(&live, at)?))
    }

    /// Calls a method as the library does: through the table, with a frame of slots.
    fn call(&self, engine: &Engine, entry: u64) -> Result<(Live, i32)> {
        let mut live = self.live(engine)?;
        let frame = live.reserve.call(&mut live.store, (0, 0, 8, 64))?;
        let entry = live.table.get(&mut live.store, entry).context("a table entry")?;
        let function = *entry.as_func().flatten().context("a function")?;
        function.typed::<i32, i32>(&live.store)?.call(&mut live.store, frame)?;
        Ok((live, frame))
    }
}

fn read<const N: usize>(live: &Live, at: i32) -> Result<[u8; N]> {
    let at = usize::try_from(at)?;
    let bytes = live.memory.data(&live.store).get(at..at + N).context("an address in memory")?;
    Ok(bytes.try_into()?)
}

#[expect(unsafe_code, reason = "native code that this process or its parent has just made")]
fn mapped(engine: &Engine, file: &Path) -> Result<Module> {
    // SAFETY: the file was written by this run, into a folder of its own.
    Ok(unsafe { Module::deserialize_file(engine.of(Wasi::P2), file)? })
}

fn p50(times: usize, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    let mut micros = Vec::with_capacity(times);
    for _ in 0..times {
        let started = Instant::now();
        run()?;
        micros.push(started.elapsed().as_secs_f64() * 1e6);
    }
    Ok(median(&micros))
}

/// `held`, in a process that has done nothing else.
fn held_elsewhere(folder: &Path, variant: &str) -> Result<Vec<Held>> {
    let child = Command::new(std::env::current_exe()?).arg("hold").arg(folder).arg(variant).output()?;
    ensure!(child.status.success(), "{}", String::from_utf8_lossy(&child.stderr));
    let lines = String::from_utf8(child.stdout)?;
    lines.lines().filter(|line| !line.is_empty()).map(Held::parse).collect()
}

/// Loads all apps of a variant, then serves each once; a line of memory after each of the two.
pub(crate) fn held(folder: &Path, variant: &str) -> Result<String> {
    let engine = Engine::new(EngineSettings::default())?;
    let before = Held::now()?;
    let all = Loaded::all(&engine, folder, variant, usize::MAX)?;
    let loaded = Held::now()?;
    let mut first_us = Vec::new();
    for app in &all {
        let started = Instant::now();
        app.small(&engine)?;
        first_us.push(started.elapsed().as_secs_f64() * 1e6);
    }
    let used = Held { first_us: median(&first_us), ..Held::now()? };
    Ok(format!("{}\n{}", loaded.since(before).line(), used.since(before).line()))
}

impl Held {
    fn now() -> Result<Self> {
        let smaps = std::fs::read_to_string("/proc/self/smaps_rollup")?;
        let kib = |name: &str| -> Result<f64> {
            let line = smaps.lines().find_map(|line| line.strip_prefix(name));
            let figure = line.and_then(|rest| rest.split_whitespace().next()).context("a line of smaps")?;
            Ok(figure.parse()?)
        };
        let (all, anonymous) = (kib("Rss:")?, kib("Anonymous:")?);
        let mappings = std::fs::read_to_string("/proc/self/maps")?.lines().count() as f64;
        Ok(Self { anonymous, file: all - anonymous, mappings, first_us: 0.0 })
    }

    fn since(self, before: Self) -> Self {
        Self {
            anonymous: self.anonymous - before.anonymous,
            file: self.file - before.file,
            mappings: self.mappings - before.mappings,
            first_us: self.first_us,
        }
    }

    fn line(self) -> String {
        format!("{} {} {} {}", self.anonymous, self.file, self.mappings, self.first_us)
    }

    fn parse(line: &str) -> Result<Self> {
        let figures: Vec<f64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        let [anonymous, file, mappings, first_us] = figures[..] else {
            anyhow::bail!("not four figures: {line}")
        };
        Ok(Self { anonymous, file, mappings, first_us })
    }
}

fn page(
    apps: usize,
    figures: &BTreeMap<&str, Figures>,
    library: &[u8],
    library_native: &[u8],
) -> Result<String> {
    let mut page = format!(
        "# The runtime library: copied or shared\n\nWritten by `make bench-runtime`; run it again rather than quoting it.\n\n\
         Machine: {}.\n\n{apps} different apps made from `guest-examples/expenses`, each as one core module under a host's engine settings; \
         artefacts are mapped from disk, where hosts today read them into memory of their own. *copied*: the library inside each app. *trimmed*: the same, and library functions that the app cannot \
         reach have no bodies. *shared*: the library is one module of its host ({:.0} kB of Wasm, {:.0} kB native), apps import it, and a \
         request makes an instance of both. Memory is for all apps together.\n\n| |{}\n|---|{}\n",
        machine(),
        library.len() as f64 / 1e3,
        library_native.len() as f64 / 1e3,
        VARIANTS.map(|variant| format!(" {variant} |")).concat(),
        "---|".repeat(VARIANTS.len()),
    );
    let mut row = |name: &str, figure: &dyn Fn(&Figures) -> String| {
        let cells = VARIANTS.map(|variant| figures.get(variant).map(figure).unwrap_or_default());
        writeln!(page, "| {name} | {} |", cells.join(" | "))
    };
    let held = |figures: &Figures, at: usize, of: fn(&Held) -> f64| figures.held.get(at).map_or(f64::NAN, of);
    row("Wasm of an app, kB", &|f| format!("{:.1}", median(&f.wasm_bytes) / 1e3))?;
    row("native code of an app, kB", &|f| format!("{:.1}", median(&f.native_bytes) / 1e3))?;
    row("Wasm to native, ms", &|f| format!("{:.1}", median(&f.compile_ms)))?;
    row("Wasm to native, ms of CPU", &|f| format!("{:.0}", f.compile_cpu_ms))?;
    row("loaded: anonymous, MiB", &|f| format!("{:.1}", held(f, 0, |h| h.anonymous) / 1024.0))?;
    row("loaded: of files, MiB", &|f| format!("{:.1}", held(f, 0, |h| h.file) / 1024.0))?;
    row("each served once: anonymous, MiB", &|f| format!("{:.1}", held(f, 1, |h| h.anonymous) / 1024.0))?;
    row("each served once: of files, MiB", &|f| format!("{:.1}", held(f, 1, |h| h.file) / 1024.0))?;
    row("mappings", &|f| format!("{:.0}", held(f, 1, |h| h.mappings)))?;
    row("first instance of an app and 1 + 1, us p50", &|f| format!("{:.1}", held(f, 1, |h| h.first_us)))?;
    row("fresh instance and 1 + 1, us p50", &|f| format!("{:.1}", f.instance_us))?;
    row("fresh instance and 1,024 rounds of decimals, us p50", &|f| format!("{:.1}", f.heavy_us))?;
    Ok(page)
}
