//! The page that a run leaves in `docs/benchmarks/`.

use std::fmt::Write as _;

use anyhow::Result;

use crate::load::{CONNECTIONS, ROUND_S, Round};
use crate::publish::{Step, median};
use crate::speed::{Found, Target};
use crate::throughput::Contender;

type Figure = fn(&Round) -> f64;

/// The page as Markdown.
pub(crate) fn write(steps: &[Step], contenders: &[Contender], peer: &str) -> Result<String> {
    let mut page = String::from(
        "# Smoke benchmark\n\nWritten by `make bench-smoke`; run it again rather than quoting it.\n\n",
    );
    writeln!(page, "Machine: {}.\n", machine())?;
    page.push_str("## What a user waits for\n\n");
    page.push_str("The sample app, published once to each of several fresh installations (new processes, empty caches), from the steps that `odeon publish` prints.\n\n");
    page.push_str("| step | median ms | slowest ms | limit ms | |\n|---|---|---|---|---|\n");
    for step in steps {
        let slowest = step.millis.iter().copied().fold(0.0, f64::max);
        let mark = if step.is_met() { "met" } else { "**missed**" };
        let (name, median, limit) = (step.name, step.median(), step.limit_ms);
        writeln!(page, "| {name} | {median:.1} | {slowest:.1} | {limit:.0} | {mark} |")?;
    }
    page.push_str("\n## A small component beside `wasmtime serve`\n\n");
    writeln!(
        page,
        "`guest-examples/hello-rust`, a fresh instance per request (the guest proves it), `wrk` with one thread and {CONNECTIONS} connections on the same cores, {} interleaved rounds of {ROUND_S} s, medians. \
         CPU is user and system time of the processes on the path. The peer: {peer}; Odeon's engine is wasmtime 48.\n",
        contenders.first().map_or(0, |contender| contender.rounds.len()),
    )?;
    page.push_str("| | requests/s | ratio | CPU us per request | ratio | p50 us | p99 us |\n|---|---|---|---|---|---|---|\n");
    for contender in contenders {
        let of = |contender: &Contender, figure: Figure| {
            median(&contender.rounds.iter().map(figure).collect::<Vec<_>>())
        };
        let ratio = |figure: Figure| {
            contenders.first().map_or(f64::NAN, |peer| of(contender, figure) / of(peer, figure))
        };
        let rate: Figure = |round| round.requests_per_s;
        let cpu: Figure = |round| round.cpu_us;
        writeln!(
            page,
            "| {} | {:.0} | {:.2} | {:.1} | {:.2} | {:.0} | {:.0} |",
            contender.name,
            of(contender, rate),
            ratio(rate),
            of(contender, cpu),
            ratio(cpu),
            of(contender, |round| round.p50_us),
            of(contender, |round| round.p99_us),
        )?;
    }
    Ok(page)
}

/// A page of limits, of which each part says more; and whether every limit was met.
pub(crate) fn of_limits(title: &str, command: &str, found: &[Found]) -> Result<(String, bool)> {
    let mut page = format!(
        "# {title}\n\nWritten by `{command}`, which fails when a limit is missed; run it again rather than quoting it.\n\n"
    );
    writeln!(page, "Machine: {}.\n\n## Limits\n\n| | measured | limit | |\n|---|---|---|---|", machine())?;
    for target in found.iter().flat_map(|found| &found.targets) {
        page.push_str(&target.row());
    }
    for part in found {
        page.push('\n');
        page.push_str(&part.text);
    }
    Ok((page, found.iter().flat_map(|found| &found.targets).all(Target::is_met)))
}

/// What the figures depend on.
pub(crate) fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")?.split(": ").nth(1));
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel: String = kernel.chars().take_while(|char| char.is_ascii_digit() || *char == '.').collect();
    format!("{cores} cores ({}), Linux {kernel}", model.unwrap_or("unknown"))
}

#[expect(clippy::print_stdout, reason = "the answer of this program")]
pub(crate) fn say(text: &str) {
    println!("{text}");
}
