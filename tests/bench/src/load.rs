//! Load from `wrk`, and the CPU time of the processes that bear it.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Connections at once.
pub(crate) const CONNECTIONS: u32 = 32;
/// Length of a round, in seconds.
pub(crate) const ROUND_S: u32 = 8;

/// Counts answers, and those whose header says that their instance served one request. `wrk` has one thread here, and asks its
/// script in another state of Lua when all is done.
const FRESH: &str = r#"
local threads = {}
fresh, answers = 0, 0
function setup(thread) table.insert(threads, thread) end
function response(status, headers, body)
  answers = answers + 1
  if headers["x-instance-requests"] == "1" then fresh = fresh + 1 end
end
function done()
  print("fresh: " .. threads[1]:get("fresh"))
  print("answers: " .. threads[1]:get("answers"))
end
"#;

/// One round.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Round {
    pub(crate) requests_per_s: f64,
    /// User and system time of the processes on the path, in microseconds.
    pub(crate) cpu_us: f64,
    pub(crate) p50_us: f64,
    pub(crate) p99_us: f64,
}

/// Loads `url` for one round; `pids` are the processes on the path.
pub(crate) fn round(url: &str, pids: &[u32]) -> Result<Round> {
    round_with(url, pids, None)
}

/// The same, with a script for `wrk` that says what to send.
pub(crate) fn round_with(url: &str, pids: &[u32], script: Option<&Path>) -> Result<Round> {
    let before = cpu_s(pids)?;
    let told = wrk(url, script)?;
    let cpu = cpu_s(pids)? - before;
    let word_after = |name: &str| {
        let line = told.lines().find_map(|line| line.trim().strip_prefix(name));
        line.and_then(|line| line.split_whitespace().next()).map(str::to_owned)
    };
    let missing = || format!("understand wrk:\n{told}");
    let requests_per_s: f64 = word_after("Requests/sec:").with_context(missing)?.parse()?;
    let requests: f64 = {
        let line = told.lines().find(|line| line.contains(" requests in ")).with_context(missing)?;
        line.split_whitespace().next().with_context(missing)?.parse()?
    };
    Ok(Round {
        requests_per_s,
        cpu_us: cpu * 1e6 / requests,
        p50_us: micros(&word_after("50%").with_context(missing)?)?,
        p99_us: micros(&word_after("99%").with_context(missing)?)?,
    })
}

/// A round that does not count: each answer must come from an instance that served nobody before.
pub(crate) fn prove_fresh(url: &str, script: Option<&Path>) -> Result<()> {
    let sends = script.map(std::fs::read_to_string).transpose()?.unwrap_or_default();
    let folder = tempfile::tempdir()?;
    let proof = folder.path().join("fresh.lua");
    std::fs::write(&proof, sends + FRESH)?;
    let told = wrk(url, Some(&proof))?;
    let [fresh, all] = ["fresh:", "answers:"].map(|name| {
        told.lines().find_map(|line| line.strip_prefix(name)?.trim().parse::<f64>().ok()).unwrap_or(f64::NAN)
    });
    ensure!(fresh > 0.0 && fresh == all, "{url}: {fresh} of {all} answers came from a fresh instance");
    Ok(())
}

/// One round of load; what `wrk` tells of it.
fn wrk(url: &str, script: Option<&Path>) -> Result<String> {
    let mut wrk = Command::new("wrk");
    wrk.args(["--threads", "1", "--latency", "--connections", &CONNECTIONS.to_string()]);
    if let Some(script) = script {
        wrk.arg("--script").arg(script);
    }
    let done = wrk
        .args(["--duration", &format!("{ROUND_S}s"), url])
        .output()
        .context("run wrk; `make bench-smoke` installs it")?;
    let told = String::from_utf8(done.stdout).context("read what wrk tells")?;
    ensure!(done.status.success(), "wrk {url}: {told}");
    ensure!(!told.contains("Non-2xx"), "not every answer was a good one:\n{told}");
    Ok(told)
}

fn micros(text: &str) -> Result<f64> {
    let split =
        text.find(|char: char| char.is_ascii_alphabetic()).context("wrk gives a time with its unit")?;
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "us" => 1.0,
        "ms" => 1e3,
        "s" => 1e6,
        other => anyhow::bail!("wrk has no unit `{other}`"),
    };
    Ok(number.parse::<f64>()? * factor)
}

/// User and system time of processes so far, in seconds.
pub(crate) fn cpu_s(pids: &[u32]) -> Result<f64> {
    let mut ticks = 0.0;
    for pid in pids {
        let stat =
            std::fs::read_to_string(format!("/proc/{pid}/stat")).context("a measured process ended")?;
        let after_name = stat.rsplit(')').next().unwrap_or_default();
        let fields: Vec<&str> = after_name.split_whitespace().collect();
        // proc(5): utime and stime are fields 14 and 15; the name is the second.
        for field in [11, 12] {
            ticks += fields.get(field).context("read /proc/<pid>/stat")?.parse::<f64>()?;
        }
    }
    Ok(ticks / rustix::param::clock_ticks_per_second() as f64)
}
