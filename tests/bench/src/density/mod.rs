//! `odeon-bench density`: a host that holds thousands of different apps.
//!
//! A real `odeon-host` on its last known state, without NATS: what it serves is sealed with a key of this benchmark and put
//! where a host keeps it. Everything is measured from outside: `smaps_rollup`, `maps` and `stat` of the process, its
//! metrics, and requests over one keep-alive connection. Each answer names its app, and is compared.

mod process;
mod site;
mod vary;

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use self::process::{Held, HostProcess};
use self::site::Site;
use crate::load::cpu_s;
use crate::page::machine;
use crate::speed::{Bound, Target};

/// First requests that are timed, each to another app.
const FIRST: usize = 1_000;
/// Requests whose CPU time is compared: to one app, and to random ones.
const REQUESTS: usize = 10_000;
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

/// Measures; the page, and whether every limit was met.
pub(crate) async fn measure(apps: usize, folder: &Path) -> Result<(String, bool)> {
    ensure!(apps >= 100, "too few apps say nothing; take 100 or more");
    let folder = folder.join(apps.to_string());
    let prepared = site::prepare(apps, &folder)?;
    let mut numbers = Numbers(0x0de0_0de0_0de0_0de0);

    let site = Site::open(&folder, apps, 1, None)?;
    if !site.is_sealed()? {
        // Once, as after a deployment: the host compares each artefact with its claim and seals it.
        let host = HostProcess::start(&site)?;
        host.ready(apps, Duration::from_secs(READY_S_MAX)).await?;
        host.stop().await?;
    }
    let first = one_host(&site, &mut numbers).await?;
    let bytes = prepared.native_bytes + (64 << 10);
    let many = Site::open(&folder, apps, PLACEMENTS, Some(bytes * IN_USE.min(apps / 2) as u64))?;
    let second = unloading(&many, &mut numbers).await?;

    let each = |after: f64, before: f64| (after - before) / apps as f64;
    let (before, after) = (first.before, first.after);
    let targets = [
        Target::new("artefact on disk to first answer, p50", first.warm.at(0.5), "ms", Bound::AtMost(3.0)),
        Target::new(
            "anonymous memory of a loaded app",
            each(after.anonymous_kib, before.anonymous_kib),
            "KiB",
            Bound::AtMost(80.0),
        ),
        Target::new(
            "CPU of a request, random app beside a hot one",
            first.cpu_ratio,
            "x",
            Bound::AtMost(2.0),
        ),
        Target::new("ready after a start", first.ready_s, "s", Bound::AtMost(15.0)),
        Target::new("first requests after a start, p99", first.warm.at(0.99), "ms", Bound::AtMost(10.0)),
        Target::new(
            "first request to an unloaded app, p99",
            second.times.at(0.99),
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
         - with all {} loaded: {:.0} MiB anonymous, {:.0} MiB of files, {:.0} mappings; before any was loaded {:.0}, {:.0} and {:.0}. \
         An app: {:.1} KiB anonymous, {:.1} KiB of files, {:.2} mappings;\n\
         - CPU of the host for a request: {:.0} us to one app, {:.0} us to random ones.\n",
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
        each(after.anonymous_kib, before.anonymous_kib),
        each(after.file_kib, before.file_kib),
        each(after.mappings, before.mappings),
        first.hot_us,
        first.random_us,
    )?;
    writeln!(
        page,
        "Pages of files are clean: the kernel drops them when memory runs short, and reads them again. Instances, stacks and the heap count as \
         anonymous before and after.\n\n\
         ## {} placements, {} in use\n\n\
         Each app is placed {PLACEMENTS} times, under ids and names of its own: placements share pages of files and nothing else. The host may hold \
         about as many apps as are in use. Ready after {:.1} s with {:.0} MiB anonymous. After the apps in use were called, {} requests to apps that were \
         not loaded: p50 {:.2} ms, p99 {:.2} ms, slowest {:.2} ms. In the end {} apps were loaded, after {} loads and {} unloads, with {:.0} MiB anonymous.",
        apps * PLACEMENTS,
        second.in_use,
        second.ready_s,
        second.before.anonymous_kib / 1_024.0,
        second.times.0.len(),
        second.times.at(0.5),
        second.times.at(0.99),
        second.times.at(1.0),
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
    hot_us: f64,
    random_us: f64,
    cpu_ratio: f64,
}

async fn one_host(site: &Site, numbers: &mut Numbers) -> Result<First> {
    let apps = site.placements();
    site.read_artefacts()?; // so that the page cache holds them
    let host = HostProcess::start(site)?;
    let ready_s = host.ready(apps, Duration::from_secs(READY_S_MAX)).await?;
    // What every host has once, whatever it serves: pools and threads come with the first requests.
    let order = numbers.shuffled(apps);
    for _ in 0..100 {
        host.ask(order[0]).await?;
    }
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
    let (mut hot_us, mut random_us) = (0.0, 0.0);
    for part in 0..4 {
        let range = part * REQUESTS / 4..(part + 1) * REQUESTS / 4; // in turns
        hot_us += cpu_us(&host, &hot[range.clone()]).await?;
        random_us += cpu_us(&host, &random[range]).await?;
    }
    let (hot_us, random_us) = (hot_us / 4.0, random_us / 4.0);
    host.stop().await?;
    let (warm, cold, cpu_ratio) = (sorted(warm), sorted(cold), random_us / hot_us);
    Ok(First { ready_s, warm, cold, before, after, loaded, hot_us, random_us, cpu_ratio })
}

struct Second {
    ready_s: f64,
    in_use: usize,
    times: Times,
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
    let order = numbers.shuffled(placements);
    let in_use = IN_USE.min(placements / 4);
    host.ask_each(&order[..in_use]).await?;
    let before = host.held()?;
    let times = sorted(host.ask_each(&order[in_use..2 * in_use]).await?);
    let metric = async |name: &str| host.metric(name).await;
    let (loaded, loads) =
        (metric("odeon_host_apps_loaded").await?, metric("odeon_host_app_loads_total").await?);
    let unloads = metric("odeon_host_app_unloads_total").await?;
    ensure!(loads as usize >= 2 * in_use && unloads > 0, "nothing was unloaded: the bound is too wide");
    let after = host.held()?;
    host.stop().await?;
    Ok(Second { ready_s, in_use, times, before, after, loaded, loads, unloads })
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
