//! A well-behaved app beside hostile ones, on one core.
//!
//! The product runs on the first core, whoever asks on the second. The victim answers a greeting over four connections.
//! Its neighbours are three apps of equal weight and without a bound on their burst: one loops for ever in two requests,
//! one asks for memory until it fails, again and again, and one has 500 requests of some milliseconds at once. The victim is
//! measured alone, beside them, and alone again. The clock of the host's guests has the priority that docs/operating.md asks for.
//!
//! A quarter of a core is worth less than a quarter of the throughput alone, whoever divides it: there are more switches, and
//! the caches are others'. So what a fair share is worth is measured, too: the same component in four processes of `wasmtime serve`, an
//! app in each as if each had a container, on the same core, which the kernel divides among them.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use odeon_tests::Installation;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use super::{Bound, Contenders, Found, Target};
use crate::load::cpu_s;
use crate::peer::{Peer, Serve};
use crate::plot::{Line, plot};

/// Connections of the victim.
const CONNECTIONS: usize = 4;
/// Time for which the victim is measured, alone (twice) and beside its neighbours, in seconds.
const ALONE_S: u64 = 6;
const BESIDE_S: u64 = 20;
/// Time that the neighbours have to begin, in seconds.
const BEGIN_S: u64 = 2;
/// The hostile apps, the path that each is asked for, and over how many connections.
const HOSTILE: [(&str, &str, usize); 3] = [("Loops", "loop", 2), ("Bomb", "bomb", 1), ("Busy", "busy", 500)];
/// Memory of an instance of the peers, as a host has it where a deployment says nothing, in bytes.
const PEER_MEMORY: &str = "-Wmax-memory-size=134217728";
/// Of its fair share of what all apps are charged with, the victim has at least this: slices are of a millisecond or so.
const CHARGED_MIN: f64 = 0.95;
/// Of its fair share each hostile app must be charged with this much at least, or the victim had no such neighbour.
const HOSTILE_MIN: f64 = 0.8;
/// Of the core each hostile process of the peer must have this much at least.
const HOSTILE_PROCESS_MIN: f64 = 0.1;
/// A slice of CPU time, in milliseconds.
const SLICE_MS: f64 = 1.0;
/// A moment, in which the victim must be answered at least once, in milliseconds.
const MOMENT_MS: u64 = 20;
/// Longest head of an answer that is understood, in bytes.
const HEAD_BYTES_MAX: usize = 8 << 10;

/// What the victim saw.
struct Seen {
    /// Of each answer: when it came after the beginning, and how long it took.
    answers: Vec<(Duration, Duration)>,
    lasted: Duration,
}

impl Seen {
    fn per_s(&self) -> f64 {
        self.answers.len() as f64 / self.lasted.as_secs_f64()
    }

    fn percentile_ms(&self, percent: usize) -> f64 {
        let mut took: Vec<Duration> = self.answers.iter().map(|(_, took)| *took).collect();
        took.sort();
        took.get(took.len() * percent / 100).map_or(f64::NAN, |took| took.as_secs_f64() * 1e3)
    }

    /// Answers of the worst moment.
    fn fewest(&self) -> usize {
        self.counts(MOMENT_MS).into_iter().min().unwrap_or(0)
    }

    /// Answers of each so many milliseconds.
    fn counts(&self, each_ms: u64) -> Vec<usize> {
        let moments = usize::try_from(self.lasted.as_millis() as u64 / each_ms).unwrap_or(0);
        let mut counts = vec![0; moments];
        for (at, _) in &self.answers {
            let moment = usize::try_from(at.as_millis() as u64 / each_ms).unwrap_or(usize::MAX);
            if let Some(count) = counts.get_mut(moment) {
                *count += 1;
            }
        }
        counts
    }
}

/// The victim, alone, beside its neighbours, and alone again.
struct Three {
    alone: [Seen; 2],
    beside: Seen,
}

impl Three {
    /// Alone, requests per second at best: the neighbours may still leave while it is measured again.
    fn alone_per_s(&self) -> f64 {
        self.alone.iter().map(Seen::per_s).fold(0.0, f64::max)
    }

    /// Alone, the p99 at best.
    fn alone_p99_ms(&self) -> f64 {
        self.alone.iter().map(|seen| seen.percentile_ms(99)).fold(f64::INFINITY, f64::min)
    }

    /// Of its throughput alone, the part that is left.
    fn part(&self) -> f64 {
        self.beside.per_s() / self.alone_per_s()
    }
}

/// The product, and what its host says of it.
struct OfOdeon {
    seen: Three,
    /// CPU time charged while the victim was alone, and beside its neighbours.
    charged: [Charged; 2],
    /// Cores that the host used beside the neighbours.
    cpu: f64,
}

pub(crate) async fn measure(contenders: &Contenders, serve: &Serve, folder: &Path) -> Result<Found> {
    ensure!(std::thread::available_parallelism()?.get() >= 2, "the load needs a core of its own");
    let before = sched_getaffinity(None)?;
    let ours = of_odeon(contenders, &before).await?;
    let peers = of_processes(serve, &before).await?;
    std::fs::write(folder.join("neighbours.svg"), drawn(&ours.seen, &peers))?;
    Ok(found(&ours, &peers))
}

/// What the victim was answered beside its neighbours, second by second, and alone.
fn drawn(ours: &Three, peers: &Three) -> String {
    let lasts = BESIDE_S as f64;
    let mut lines = Vec::new();
    for (name, three) in [("Odeon host", ours), ("wasmtime serve, four processes", peers)] {
        let counts = three.beside.counts(1_000);
        let points = counts.iter().enumerate().map(|(second, count)| (second as f64 + 1.0, *count as f64));
        lines.push(Line { name: format!("{name}: beside"), points: points.collect() });
        let share = three.alone_per_s() / (HOSTILE.len() + 1) as f64;
        lines.push(Line {
            name: format!("{name}: a quarter of what it is alone"),
            points: vec![(0.0, share), (lasts, share)],
        });
    }
    plot("Requests per second of an app beside three hostile ones, on one core", "seconds", &lines)
}

fn found(ours: &OfOdeon, peers: &Three) -> Found {
    let OfOdeon { seen, charged: [charged_alone, charged], cpu } = ours;
    let us = |charged: &Charged, seen: &Seen| charged.victim_s * 1e6 / seen.answers.len().max(1) as f64;
    let (us_alone, us_beside) = (us(charged_alone, &seen.alone[0]), us(charged, &seen.beside));
    let (part, peers_part) = (seen.part(), peers.part());
    let p99 = seen.beside.percentile_ms(99);
    Found {
        text: format!(
            "## Hostile neighbours\n\nEverybody on one core, whoever asks on another. The victim has {CONNECTIONS} connections, and is measured for {ALONE_S} s before and \
             after, and for {BESIDE_S} s beside three apps: two endless loops; memory asked for until it fails, again and again; 500 requests of some \
             milliseconds at once. On an Odeon host they have equal weight and unlimited burst. Of `wasmtime serve` each app has a process of its own, and \
             the kernel divides the core.\n\n\
             | | requests/s alone | beside | part | p99 ms alone | beside | answers in the worst {MOMENT_MS} ms |\n|---|---|---|---|---|---|---|\n{}{}\n\
             ![requests per second of the victim](neighbours.svg)\n\n\
             On the host the victim was charged {:.3} of the CPU time of all four apps: {us_beside:.0} us for a request, and {us_alone:.0} us alone.\n",
            row("Odeon host", seen),
            row("`wasmtime serve`, four processes", peers),
            charged.victim_s / charged.all_s(),
        ),
        targets: vec![
            Target::new(
                "beside hostile apps: p99 more than alone",
                p99 - seen.alone_p99_ms(),
                "ms",
                Bound::AtMost(2.0 * SLICE_MS),
            ),
            Target::new(
                "beside hostile apps: part of its throughput alone, beside that of processes",
                part / peers_part,
                "x",
                Bound::AtLeast(1.0),
            ),
            Target::new(
                "beside hostile apps: part of the CPU time of all apps, in fair shares",
                charged.in_shares(charged.victim_s),
                "x",
                Bound::AtLeast(CHARGED_MIN),
            ),
            Target::new(
                "beside hostile apps: answers in the worst moment",
                seen.beside.fewest() as f64,
                "",
                Bound::AtLeast(1.0),
            ),
            Target::new("beside hostile apps: CPU of the host", *cpu, "cores", Bound::AtLeast(0.9)),
        ],
    }
}

fn row(name: &str, seen: &Three) -> String {
    format!(
        "| {name} | {:.0} | {:.0} | {:.2} | {:.2} | {:.2} | {} |\n",
        seen.alone_per_s(),
        seen.beside.per_s(),
        seen.part(),
        seen.alone_p99_ms(),
        seen.beside.percentile_ms(99),
        seen.beside.fewest()
    )
}

/// All apps on one host.
async fn of_odeon(contenders: &Contenders, anywhere: &CpuSet) -> Result<OfOdeon> {
    pin(0)?; // what is started now inherits it
    let site = Installation::start_with(&["--no-sample"]).await;
    let guest = contenders.guest.to_str().context("a path in UTF-8")?;
    for name in ["Victim"].into_iter().chain(HOSTILE.map(|(name, ..)| name)) {
        site.succeed(&["publish", guest, "--name", name]);
        let deploy = ["deploy", name, "--revision", "1", "--to", "development"];
        let limits =
            ["--limit", "cpuBurstMs=unlimited", "--limit", "instances=500", "--limit", "memoryMib=2048"];
        site.succeed(&[deploy.as_slice(), &limits].concat());
    }
    let address = site.host_address("development-1");
    let host = u32::try_from(site.process("host-development-1")["pid"].as_u64().context("a process")?)?;
    let_clock_go_first(host)?;
    sched_setaffinity(None, anywhere)?;

    let victim = Victim { address: address.clone(), path: "/Victim/" };
    let at_first = Charged::look(&site).await?;
    let alone_first = victim.ask(ALONE_S).await?;
    let charged_alone = Charged::look(&site).await?.since(&at_first);
    let neighbours = Neighbours::begin(
        HOSTILE.map(|(app, path, connections)| (format!("{address}/{app}/{path}"), connections)),
    )?;
    tokio::time::sleep(Duration::from_secs(BEGIN_S)).await;
    let (cpu_before, begun, charged_before) = (cpu_s(&[host])?, Instant::now(), Charged::look(&site).await?);
    let beside = victim.ask(BESIDE_S).await?;
    let cpu = (cpu_s(&[host])? - cpu_before) / begun.elapsed().as_secs_f64();
    let charged = Charged::look(&site).await?.since(&charged_before);
    neighbours.end();
    for ((name, ..), app_s) in HOSTILE.into_iter().zip(charged.hostile_s) {
        let shares = charged.in_shares(app_s);
        ensure!(
            shares >= HOSTILE_MIN,
            "{name} was charged {shares:.2} of its fair share: it was no neighbour"
        );
    }
    let alone_last = victim.ask(ALONE_S).await?;
    Ok(OfOdeon {
        seen: Three { alone: [alone_first, alone_last], beside },
        charged: [charged_alone, charged],
        cpu,
    })
}

/// Each app in a process of `wasmtime serve`.
async fn of_processes(serve: &Serve, anywhere: &CpuSet) -> Result<Three> {
    pin(0)?;
    let start = || serve.start(&[PEER_MEMORY]);
    let victim = start().await?;
    let (mut hostile, mut urls) = (Vec::new(), Vec::new());
    for (_, path, connections) in HOSTILE {
        let peer = start().await?;
        urls.push((format!("{}/{path}", peer.address), connections));
        hostile.push(peer);
    }
    sched_setaffinity(None, anywhere)?;
    let asked = Victim { address: victim.address.clone(), path: "/" };
    let alone_first = asked.ask(ALONE_S).await?;
    let neighbours = Neighbours::begin(urls)?;
    tokio::time::sleep(Duration::from_secs(BEGIN_S)).await;
    let used = |hostile: &[Peer]| hostile.iter().map(|peer| cpu_s(&[peer.pid()])).collect::<Result<Vec<_>>>();
    let (begun, before) = (Instant::now(), used(&hostile)?);
    let beside = asked.ask(BESIDE_S).await?;
    let (lasted, after) = (begun.elapsed().as_secs_f64(), used(&hostile)?);
    neighbours.end();
    for ((name, ..), (before, after)) in HOSTILE.into_iter().zip(before.into_iter().zip(after)) {
        let cores = (after - before) / lasted;
        ensure!(
            cores >= HOSTILE_PROCESS_MIN,
            "{name} of the peer used {cores:.2} cores: it was no neighbour"
        );
    }
    drop(hostile); // their loops have no deadline
    let alone_last = asked.ask(ALONE_S).await?;
    Ok(Three { alone: [alone_first, alone_last], beside })
}

/// CPU time that apps were charged with, in seconds.
struct Charged {
    victim_s: f64,
    hostile_s: [f64; HOSTILE.len()],
}

impl Charged {
    async fn look(site: &Installation) -> Result<Self> {
        let metrics = site.host_metrics("development-1").await;
        let of = |app: &str| {
            let begin = format!("odeon_host_app_cpu_seconds{{app=\"{}\"}} ", site.key_of(app));
            let line = metrics.lines().find(|line| line.starts_with(&begin)).context(begin.clone())?;
            Ok::<f64, anyhow::Error>(line.rsplit(' ').next().unwrap_or_default().parse()?)
        };
        let mut hostile_s = [0.0; HOSTILE.len()];
        for (charged_s, (app, ..)) in hostile_s.iter_mut().zip(HOSTILE) {
            *charged_s = of(app)?;
        }
        Ok(Self { victim_s: of("Victim")?, hostile_s })
    }

    fn since(mut self, before: &Self) -> Self {
        self.victim_s -= before.victim_s;
        self.hostile_s.iter_mut().zip(before.hostile_s).for_each(|(now, before)| *now -= before);
        self
    }

    /// What all apps were charged with.
    fn all_s(&self) -> f64 {
        self.victim_s + self.hostile_s.iter().sum::<f64>()
    }

    /// What an app got, in fair shares.
    fn in_shares(&self, app_s: f64) -> f64 {
        app_s / self.all_s() * (HOSTILE.len() + 1) as f64
    }
}

/// Gives the clock its priority where the host could not take it, for want of a limit that root may set on most machines.
fn let_clock_go_first(host: u32) -> Result<()> {
    for task in std::fs::read_dir(format!("/proc/{host}/task"))? {
        let task = task?;
        if std::fs::read_to_string(task.path().join("comm"))?.trim() == "guest-clock" {
            let given = Command::new("chrt").args(["--fifo", "--pid", "1"]).arg(task.file_name()).status();
            ensure!(given.context("run chrt")?.success(), "the clock got no priority: run this as root");
            return Ok(());
        }
    }
    anyhow::bail!("the host has no clock")
}

/// Keeps this thread, and what it starts, on one core.
fn pin(core: usize) -> Result<()> {
    let mut set = CpuSet::new();
    set.set(core);
    Ok(sched_setaffinity(None, &set)?)
}

/// Who answers a greeting.
struct Victim {
    address: String,
    path: &'static str,
}

impl Victim {
    /// Asks over all connections for so many seconds.
    async fn ask(&self, lasts_s: u64) -> Result<Seen> {
        let (begun, lasts) = (Instant::now(), Duration::from_secs(lasts_s));
        let askers: Vec<_> = (0..CONNECTIONS)
            .map(|_| {
                let (address, path) = (self.address.clone(), self.path);
                std::thread::spawn(move || asker(&address, path, begun, lasts))
            })
            .collect();
        let joined = tokio::task::spawn_blocking(move || {
            let join = |asker: std::thread::JoinHandle<Result<_>>| {
                asker.join().map_err(|_| anyhow::anyhow!("an asker panicked"))?
            };
            askers.into_iter().map(join).collect::<Result<Vec<Vec<_>>>>()
        });
        let answers = joined.await?.context("ask the victim")?;
        Ok(Seen { answers: answers.concat(), lasted: lasts })
    }
}

/// One connection, one request after the other.
fn asker(address: &str, path: &str, begun: Instant, lasts: Duration) -> Result<Vec<(Duration, Duration)>> {
    pin(1)?;
    let mut connection = TcpStream::connect(address)?;
    connection.set_nodelay(true)?;
    connection.set_read_timeout(Some(lasts + Duration::from_secs(10)))?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n\r\n");
    let (mut answers, mut buffer) = (Vec::new(), vec![0; HEAD_BYTES_MAX]);
    while begun.elapsed() < lasts {
        let asked = Instant::now();
        connection.write_all(request.as_bytes())?;
        let mut read = 0;
        while !is_whole(&buffer[..read])? {
            ensure!(read < buffer.len(), "the answer is too long");
            let more = connection.read(&mut buffer[read..])?;
            ensure!(more > 0, "the connection was closed");
            read += more;
        }
        answers.push((begun.elapsed(), asked.elapsed()));
    }
    Ok(answers)
}

/// Whether an answer has come to its end; an answer that is no good one is an error.
fn is_whole(answer: &[u8]) -> Result<bool> {
    let text = std::str::from_utf8(answer)?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return Ok(false) };
    ensure!(head.starts_with("HTTP/1.1 200"), "the victim answers {head}");
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    Ok(match length {
        Some(length) => body.len() >= length.trim().parse()?,
        None => body.ends_with("0\r\n\r\n"),
    })
}

/// The hostile apps under load, until it ends.
struct Neighbours {
    stop: Arc<AtomicBool>,
    runtime: tokio::runtime::Runtime,
}

impl Neighbours {
    /// Asks each address over so many connections.
    fn begin(places: impl IntoIterator<Item = (String, usize)>) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .on_thread_start(|| {
                let _ = pin(1); // where it fails, the figures are worse, not better
            })
            .build()?;
        let stop = Arc::new(AtomicBool::new(false));
        let client = reqwest::Client::builder().no_proxy().build()?;
        for (place, connections) in places {
            let url = format!("http://{place}");
            for _ in 0..connections {
                let (client, url, stop) = (client.clone(), url.clone(), stop.clone());
                runtime.spawn(async move {
                    while !stop.load(Ordering::Relaxed) {
                        let _ = client.get(&url).send().await; // they fail as they should
                    }
                });
            }
        }
        Ok(Self { stop, runtime })
    }

    fn end(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.runtime.shutdown_background();
    }
}
