//! Runs fuzz targets: `odeon-fuzz smoke` each for a minute, `odeon-fuzz run TARGET [SECONDS]` one for longer.
//!
//! A target is a program beside this one. It is given its seeds and words, a folder where what it learns is kept, and
//! bounds on memory, on the time of one input, and on all of its time. What it says goes to a file; a line for each target
//! tells what came of it, and a failure says where the input is and how to try it again.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

// The programs are linked with what counts their way through the code; this one has it for the same crates.
use libfuzzer_sys as _;
use odeon_fuzz::seeds::{TARGETS, Target};

/// How long each target runs for `smoke`, in seconds.
const SMOKE_S: u64 = 60;
/// How long a target runs that nobody gave a time, in seconds.
const RUN_S: u64 = 3_600;
/// Memory of a target, in MiB; what one of them needs stays below 400.
const MEMORY_MIB_MAX: u64 = 2_048;
/// Largest piece of memory that a target may ask for at once, in MiB: no input is worth more.
const PIECE_MIB_MAX: u64 = 512;
/// Lines that are shown of what a failed target said, from where it says what went wrong.
const LINES_SHOWN: usize = 12;

type Outcome<T> = Result<T, String>;

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let outcome = match words.as_slice() {
        ["smoke"] => all(SMOKE_S),
        ["run", name] => named(name).and_then(|target| run(target, RUN_S)),
        ["run", name, seconds] => seconds
            .parse()
            .map_err(|_| format!("`{seconds}` is no number of seconds"))
            .and_then(|seconds| named(name).and_then(|target| run(target, seconds))),
        _ => Err("say `smoke`, or `run TARGET [SECONDS]`".to_owned()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

fn named(name: &str) -> Outcome<&'static Target> {
    let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
    let found = TARGETS.iter().find(|target| target.name == name);
    found.ok_or_else(|| format!("there is no target `{name}`; there are {}", names.join(", ")))
}

/// Each target in turn; what one of them finds does not keep the others from looking.
fn all(seconds: u64) -> Outcome<()> {
    let failed: Vec<String> = TARGETS.iter().filter_map(|target| run(target, seconds).err()).collect();
    if failed.is_empty() { Ok(()) } else { Err(failed.join("\n")) }
}

fn run(target: &Target, seconds: u64) -> Outcome<()> {
    let folder = PathBuf::from("target/fuzz").join(target.name);
    let (seeds, corpus, log) = (folder.join("seeds"), folder.join("corpus"), folder.join("log"));
    let words = folder.join("words");
    prepare(target, &seeds, &corpus, &words)?;
    let program = std::env::current_exe().map_err(|error| format!("find our own program: {error}"))?;
    let program = program.with_file_name(target.name);
    let failed = folder.join("failed-");
    let said = File::create(&log).map_err(|error| format!("create {}: {error}", log.display()))?;
    let status = Command::new(&program)
        .args([&corpus, &seeds])
        .arg(format!("-max_total_time={seconds}"))
        .arg(format!("-max_len={}", target.bytes_max))
        .arg(format!("-timeout={}", target.input_s_max))
        .arg(format!("-rss_limit_mb={MEMORY_MIB_MAX}"))
        .arg(format!("-malloc_limit_mb={PIECE_MIB_MAX}"))
        .arg(format!("-artifact_prefix={}", failed.display()))
        .arg(format!("-dict={}", words.display()))
        .args(["-fork=0", "-print_final_stats=1", "-detect_leaks=0", "-use_value_profile=0"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said)
        .status()
        .map_err(|error| format!("start {}: {error}", program.display()))?;
    let said = String::from_utf8_lossy(&fs::read(&log).unwrap_or_default()).into_owned();
    let count = |name: &str| {
        let mut lines = said.lines().filter_map(|line| line.strip_prefix(name));
        lines.next_back().map_or("?", str::trim).to_owned()
    };
    let coverage = said.lines().filter_map(|line| line.split_once(" cov: ")).next_back();
    let coverage = coverage.and_then(|(_, rest)| rest.split_whitespace().next()).unwrap_or("?");
    let summary = format!(
        "{:<17} {:>9} inputs in {seconds} s, {coverage} edges, {} kept, {} MiB",
        target.name,
        count("stat::number_of_executed_units:"),
        fs::read_dir(&corpus).map_or(0, Iterator::count),
        count("stat::peak_rss_mb:"),
    );
    if status.success() {
        println!("{summary}, nothing found");
        return Ok(());
    }
    println!("{summary}, FAILED ({status})");
    let is_told = |line: &&str| line.contains("panicked at") || line.contains("ERROR: libFuzzer");
    let shown: Vec<_> = said.lines().skip_while(|line| !is_told(line)).take(LINES_SHOWN).collect();
    let shown = shown.join("\n");
    let found = said.lines().filter_map(|line| line.split_once("Test unit written to ")).next_back();
    let again = match found {
        Some((_, file)) => {
            format!("the input is {file}; try it again with\n    {} {file}", program.display())
        }
        None => format!("there is no input that does it; all that was said is in {}", log.display()),
    };
    Err(format!("{shown}\n\n{} failed: {again}", target.name))
}

/// Writes seeds and words anew, for the types they are made of may have changed.
fn prepare(target: &Target, seeds: &Path, corpus: &Path, words: &Path) -> Outcome<()> {
    let _ = fs::remove_dir_all(seeds);
    for folder in [seeds, corpus] {
        fs::create_dir_all(folder).map_err(|error| format!("create {}: {error}", folder.display()))?;
    }
    let write = |file: PathBuf, bytes: Vec<u8>| {
        fs::write(&file, bytes).map_err(|error| format!("write {}: {error}", file.display()))
    };
    for (at, seed) in (target.seeds)().into_iter().enumerate() {
        write(seeds.join(format!("{at:03}")), seed)?;
    }
    // One word in a line, each byte as its number: none has a meaning of its own then.
    let line = |word: Vec<u8>| {
        let bytes: String = word.iter().map(|byte| format!("\\x{byte:02x}")).collect();
        format!("\"{bytes}\"\n")
    };
    write(words.to_owned(), (target.words)().into_iter().map(line).collect::<String>().into_bytes())
}
