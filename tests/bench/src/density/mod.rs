//! `odeon-bench density`: a host that holds thousands of different apps.
//!
//! A real `odeon-host` on its last known state, without NATS: what it serves is sealed with a key of this benchmark and put
//! where a host keeps it. Everything is measured from outside: `smaps_rollup`, `maps` and `stat` of the process, its
//! metrics, and requests: over one keep-alive connection where they are timed, where each answer names its app and is compared, and
//! over 32 where CPU time is compared. What an app costs is what such a host has more than one with a single app.

mod process;
mod site;
mod vary;

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use self::process::{Held, HostProcess};
use self::site::Site;
use crate::load::{CONNECTIONS, cpu_s, round_with};
use crate::page::machine;
use crate::plot::{Line, plot};
use crate::publish::median;
use crate::speed::{Bound, Target};

/// First requests that are timed, each to another app.
const FIRST: usize = 1_000;
/// Requests whose CPU time is compared one after the other: to one app, and to random ones.
const REQUESTS: usize = 10_000;
/// Requests with which a host gets what it has once, whatever it serves: pools and threads come with the first ones.
const WAKING: usize = 100;
/// Rounds of each with many connections.
const ROUNDS: usize = 3;
/// What `wrk` asks for: apps in an order that looks random. One script for both, so that both pay for it.
const RANDOM_LUA: &str = r#"
math.randomseed(3558)
function request() return wrk.format("GET", "/App" .. math.random(0, APPS - 1) .. "/") end
"#;
/// Placements of each app on the second host, under different ids and names.
const PLACEMENTS: usize = 5;
/// Apps in use on the second host.
const IN_USE: usize = 1_000;
/// How long a host may take to be ready, in seconds; more is an error, less may still miss the limit.
const READY_S_MAX: u64 = 900;

/// Times of requests, in milliseconds, sorted.
struct Times(Vec<f64>);

impl Times {
    fn at(&self, share: f64) -> f64 {
        let at = ((self.0.len() as f64 * share).ceil() as usize).saturating_sub(1);
        self.0.get(at).copied().unwrap_or(f64::NAN)
    }
}

/// Numbers below `below` in an order that looks random and is the same in each run.
struct Numbers(u64);

impl Numbers {
    fn next(&mut self, below: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % below.max(1) as u64).unwrap_or(0)
    }

    /// All numbers below `below`, each once.
    fn shuffled(&mut self, below: usize) -> Vec<usize> {
        let mut all: Vec<usize> = (0..below).collect();
        for at in (1..below).rev() {
            all.swap(at, self.next(at + 1));
        }
        all
    }
}

/// Measures; the page, whose plot goes into `plots`, and whether every limit was met.
pub(crate) async fn measure(apps: usize, folder: &Path, plots: &Path) -> Result<(String, bool)> {
    ensure!(apps >= 100, "too few apps say nothing; take 100 or more");
    let folder = folder.join(apps.to_string());
    let prepared = site::prepare(apps, &folder)?;
    let mut numbers = Numbers(0x0de0_0de0_0de0_0de0);

    let site = Site::open(&folder, apps, None)?;
    if !site.is_sealed() {
        // Once, as after a deployment: the host compares each artefact with its claim and seals it.
        let host = HostProcess::start(&site)?;
        host.ready(apps, Duration::from_secs(READY_S_MAX)).await?;
        host.stop().await?;
    }
    let alone = nearly_empty(&Site::open(&folder, 1, None)?).await?;
    let first = one_host(&Site::open(&folder, apps, None)?, &mut numbers).await?;
    let bytes = prepared.native_bytes + (64 << 10);
    let many = Site::open(&folder, apps * PLACEMENTS, Some(bytes * IN_USE.min(apps / 2) as u64))?;
    let second = unloading(&many, &mut numbers).await?;

    std::fs::write(plots.join("density.svg"), drawn(&first, &second))?;

    let each = |after: f64, before: f64| (after - before) / (apps - 1) as f64;
    let (before, after) = (first.before, first.after);
    let targets = [
        Target::new("artefact on disk to first answer, p50", first.warm.at(0.5), "ms", Bound::AtMost(3.0)),
        Target::new(
            "anonymous memory of a loaded app",
            each(after.anonymous_kib, alone.anonymous_kib),
            "KiB",
            Bound::AtMost(80.0),
        ),
        Target::new(
            "CPU of a request, random app beside a hot one, one after the other",
            first.one_by_one_us[1] / first.one_by_one_us[0],
            "x",
            Bound::AtMost(2.0),
        ),
        Target::new("the same under load", first.random_us / first.hot_us, "x", Bound::AtMost(2.0)),
        Target::new("ready after a start", first.ready_s, "s", Bound::AtMost(15.0)),
        Target::new("first requests after a start, p99", first.warm.at(0.99), "ms", Bound::AtMost(10.0)),
        Target::new(
            "first request to an app that was unloaded, p99",
            second.again.at(0.99),
            "ms",
            Bound::AtMost(10.0),
        ),
    ];
    let mut page = String::from(
        "# Many apps on one host\n\nWritten by `make bench-density`, which fails when a limit is missed; run it again rather than quoting it.\n\n",
    );
    writeln!(page, "Machine: {}. {apps} different apps.\n\n## Limits\n", machine())?;
    page.push_str("| | measured | limit | |\n|---|---|---|---|\n");
    targets.iter().for_each(|target| page.push_str(&target.row()));
    writeln!(
        page,
        "\n## One host, {apps} apps\n\n\
         Each app is `guest-examples/hello-rust` with a function of its own in its code and a text of its own in its data, compiled for itself \
         ({} kB of native code). A host on its last known state, without NATS, ready after {:.1} s. Then:\n\n\
         - first requests to {} apps, one after the other over one connection, files in the page cache: p50 {:.2} ms, p99 {:.2} ms, slowest {:.2} ms;\n\
         - the same to {} others after the kernel was asked to drop their files: p50 {:.2} ms, p99 {:.2} ms, slowest {:.2} ms;\n\
         - with all {} loaded: {:.0} MiB anonymous, {:.0} MiB of files, {:.0} mappings; before any was loaded {:.0}, {:.0} and {:.0}; a host with one \
         app placed and loaded {:.0}, {:.0} and {:.0}. An app placed and loaded: {:.1} KiB anonymous, {:.1} KiB of files, {:.2} mappings; of that, placed only: {:.1} KiB \
         anonymous;\n\
         - CPU of the host for a request, `wrk` with {CONNECTIONS} connections, {ROUNDS} rounds in turns, medians: {:.0} us to one app, {:.0} us to random ones; one request after the other, for each of \
         which the host wakes up: {:.0} and {:.0} us.\n\n\
         ![first requests](density.svg)\n",
        prepared.native_bytes / 1_000,
        first.ready_s,
        first.warm.0.len(),
        first.warm.at(0.5),
        first.warm.at(0.99),
        first.warm.at(1.0),
        first.cold.0.len(),
        first.cold.at(0.5),
        first.cold.at(0.99),
        first.cold.at(1.0),
        first.loaded,
        after.anonymous_kib / 1_024.0,
        after.file_kib / 1_024.0,
        after.mappings,
        before.anonymous_kib / 1_024.0,
        before.file_kib / 1_024.0,
        before.mappings,
        alone.anonymous_kib / 1_024.0,
        alone.file_kib / 1_024.0,
        alone.mappings,
        each(after.anonymous_kib, alone.anonymous_kib),
        each(after.file_kib, alone.file_kib),
        each(after.mappings, alone.mappings),
        each(before.anonymous_kib, alone.anonymous_kib),
        first.hot_us,
        first.random_us,
        first.one_by_one_us[0],
        first.one_by_one_us[1],
    )?;
    writeln!(
        page,
        "Pages of files are clean: the kernel drops them when memory runs short, and reads them again. Instances, stacks and the heap count as \
         anonymous before and after.\n\n\
         ## {} placements, {} in use\n\n\
         Each app is placed {PLACEMENTS} times, under ids and names of its own: placements share pages of files and nothing else. The host may hold \
         about as many apps as are in use; all files are in the page cache. Ready after {:.1} s with {:.0} MiB anonymous. First the apps in use were called. Then {} that had never \
         been loaded: p50 {:.2} ms, p99 {:.2} ms, slowest {:.2} ms. Then those in use again, which had been unloaded for the others: p50 {:.2} ms, p99 {:.2} ms, slowest {:.2} ms. \
         Others, of whose files the kernel was asked to drop what is not mapped: p50 {:.2} ms, p99 {:.2} ms, slowest {:.2} ms. In the end {} apps were loaded, after {} loads and {} unloads, \
         with {:.0} MiB anonymous.",
        apps * PLACEMENTS,
        second.in_use,
        second.ready_s,
        second.before.anonymous_kib / 1_024.0,
        second.first.0.len(),
        second.first.at(0.5),
        second.first.at(0.99),
        second.first.at(1.0),
        second.again.at(0.5),
        second.again.at(0.99),
        second.again.at(1.0),
        second.cold.at(0.5),
        second.cold.at(0.99),
        second.cold.at(1.0),
        second.loaded,
        second.loads,
        second.unloads,
        second.after.anonymous_kib / 1_024.0,
    )?;
    Ok((page, targets.iter().all(Target::is_met)))
}

struct First {
    ready_s: f64,
    warm: Times,
    cold: Times,
    before: Held,
    after: Held,
    loaded: u64,
    /// CPU time of a request under load, to one app and to random ones.
    hot_us: f64,
    random_us: f64,
    /// The same for requests that come one by one.
    one_by_one_us: [f64; 2],
}

/// What a host has with one app, which was called as often as the pools and threads of a host need.
async fn nearly_empty(site: &Site) -> Result<Held> {
    let host = HostProcess::start(site)?;
    host.ready(1, Duration::from_secs(READY_S_MAX)).await?;
    host.ask_each(&[0; WAKING]).await?;
    let held = host.held()?;
    host.stop().await?;
    Ok(held)
}

async fn one_host(site: &Site, numbers: &mut Numbers) -> Result<First> {
    let apps = site.placements();
    site.read_artefacts()?; // so that the page cache holds them
    let host = HostProcess::start(site)?;
    let ready_s = host.ready(apps, Duration::from_secs(READY_S_MAX)).await?;
    let order = numbers.shuffled(apps);
    host.ask_each(&[order[0]; WAKING]).await?;
    let before = host.held()?;
    let half = FIRST.min(apps / 3);
    let warm = host.ask_each(&order[1..=half]).await?;
    site.drop_artefacts(&order[half + 1..=2 * half])?;
    let cold = host.ask_each(&order[half + 1..=2 * half]).await?;
    host.ask_each(&order[2 * half + 1..]).await?;
    let (after, loaded) = (host.held()?, host.metric("odeon_host_apps_loaded").await?);
    ensure!(loaded == apps as u64, "{loaded} of {apps} apps are loaded: the host's bounds are too tight");

    let hot: Vec<usize> = vec![order[0]; REQUESTS];
    let random: Vec<usize> = (0..REQUESTS).map(|_| numbers.next(apps)).collect();
    let mut one_by_one_us = [0.0; 2];
    for part in 0..4 {
        let range = part * REQUESTS / 4..(part + 1) * REQUESTS / 4; // in turns
        for (us, asked) in one_by_one_us.iter_mut().zip([&hot, &random]) {
            *us += cpu_us(&host, &asked[range.clone()]).await? / 4.0;
        }
    }
    let [hot_us, random_us] = under_load(&host, apps)?;
    host.stop().await?;
    let (warm, cold) = (sorted(warm), sorted(cold));
    Ok(First { ready_s, warm, cold, before, after, loaded, hot_us, random_us, one_by_one_us })
}

/// CPU time of a request with many connections, in microseconds: to one app, and to random ones.
fn under_load(host: &HostProcess, apps: usize) -> Result<[f64; 2]> {
    let scripts = tempfile::tempdir()?;
    let mut us = [Vec::new(), Vec::new()];
    for _ in 0..=ROUNDS {
        for (us, among) in us.iter_mut().zip([1, apps]) {
            let script = scripts.path().join(format!("{among}.lua"));
            std::fs::write(&script, format!("APPS = {among}\n{RANDOM_LUA}"))?;
            us.push(round_with(&host.url(0), &[host.pid()], Some(&script))?.cpu_us);
        }
    }
    Ok(us.map(|us| median(&us[1..]))) // the first warms up
}

struct Second {
    ready_s: f64,
    in_use: usize,
    first: Times,
    again: Times,
    cold: Times,
    before: Held,
    after: Held,
    loaded: u64,
    loads: u64,
    unloads: u64,
}

async fn unloading(site: &Site, numbers: &mut Numbers) -> Result<Second> {
    let placements = site.placements();
    let host = HostProcess::start(site)?;
    let ready_s = host.ready(placements, Duration::from_secs(READY_S_MAX)).await?;
    let before = host.held()?;
    let order = numbers.shuffled(placements);
    let in_use = IN_USE.min(placements / 4);
    let [used, others, dropped] = [0, 1, 2].map(|part| &order[part * in_use..(part + 1) * in_use]);
    host.ask_each(used).await?;
    let first = sorted(host.ask_each(others).await?);
    let again = sorted(host.ask_each(used).await?);
    site.drop_artefacts(dropped)?;
    let cold = sorted(host.ask_each(dropped).await?);
    let metric = async |name: &str| host.metric(name).await;
    let (loaded, loads) =
        (metric("odeon_host_apps_loaded").await?, metric("odeon_host_app_loads_total").await?);
    let unloads = metric("odeon_host_app_unloads_total").await?;
    ensure!(
        loads as usize >= 4 * in_use && unloads as usize >= 2 * in_use,
        "{unloads} unloads: the bound is too wide"
    );
    let after = host.held()?;
    host.stop().await?;
    Ok(Second { ready_s, in_use, first, again, cold, before, after, loaded, loads, unloads })
}

/// How long first requests take, from the fastest to the slowest.
fn drawn(first: &First, second: &Second) -> String {
    let line = |name: &str, times: &Times| {
        let points = (0..=99).map(|percent| (f64::from(percent), times.at(f64::from(percent) / 100.0)));
        Line { name: name.to_owned(), points: points.collect() }
    };
    plot(
        "First requests to an app, milliseconds",
        "percent of the requests take at most so long",
        &[
            line("just started, files in the page cache", &first.warm),
            line("just started, files dropped", &first.cold),
            line("unloaded for others, files in the page cache", &second.again),
            line("never loaded, files dropped", &second.cold),
        ],
    )
}

/// CPU time of the host for a request, in microseconds.
async fn cpu_us(host: &HostProcess, apps: &[usize]) -> Result<f64> {
    let before = cpu_s(&[host.pid()])?;
    host.ask_each(apps).await?;
    Ok((cpu_s(&[host.pid()])? - before) * 1e6 / apps.len() as f64)
}

fn sorted(mut times: Vec<f64>) -> Times {
    times.sort_by(f64::total_cmp);
    Times(times)
}

/// Milliseconds since then.
fn millis_since(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e3
}

/// The number in a line of `name number`.
fn number_after(text: &str, name: &str) -> Result<f64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.split_whitespace().next());
    Ok(line.with_context(|| format!("{name} is not said"))?.parse()?)
}
