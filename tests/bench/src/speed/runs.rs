//! Runs jobs in a component under a host's engine: what one contender's process does.
//!
//! Engine, linker, limits and pool are those of a host, and so is the life of a request: a fresh instance that
//! is dropped afterwards. A capability that a job has no use for is there, and empty.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, LazyLock, OnceLock};
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use odeon_capabilities::egress::Egress;
use odeon_capabilities::events::EventLimits;
use odeon_capabilities::log::{Line, RequestLog, Sink};
use odeon_capabilities::sql::session::Session;
use odeon_capabilities::timers::{Error, Wake};
use odeon_capabilities::{Granted, Settings};
use odeon_engine::app::Admitted;
use odeon_engine::artefact::{Verified, compile, load};
use odeon_engine::{Account, App, CpuShare, Engine, EngineSettings, RequestLimits};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The limits of a request, those of a deployment that says nothing; no job comes near them.
pub(crate) const LIMITS: RequestLimits = RequestLimits {
    memory_bytes_max: 128 << 20,
    wall_ms_max: 60_000,
    cpu_ms_max: 10_000,
    reuse_max: 1,
    concurrency_max: 1,
};

/// What one process measured of one job.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Timed {
    pub(crate) job: String,
    pub(crate) result: String,
    pub(crate) micros: Vec<f64>,
}

#[derive(Default)]
struct Quiet;

impl Sink for Quiet {
    fn take(&self, _: Line) {}
}

impl Wake for Quiet {
    fn wake<'a>(&'a self, _: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async { Ok(()) })
    }
}

/// What an app has for all of its requests.
static QUIET: LazyLock<Arc<Quiet>> = LazyLock::new(Arc::default);
static SETTINGS: LazyLock<Arc<Settings>> = LazyLock::new(|| Arc::new(Settings::new()));

/// What a request has: nothing that leaves the process.
pub(crate) fn granted() -> Granted {
    let log = RequestLog::new(QUIET.clone(), "bench");
    Granted {
        sql: Arc::new(Session::none()),
        egress: Egress::none(log.clone()),
        log,
        settings: SETTINGS.clone(),
        timers: QUIET.clone(),
        events: EventLimits { waiting_max: 0, payload_bytes_max: 0 },
        output: OnceLock::new(),
    }
}

/// The account of an app that nothing holds up.
pub(crate) fn account() -> Account {
    Account::new(CpuShare { millicores: 250, burst_ms: None }, 512 << 20)
}

/// A request of it.
pub(crate) fn admitted(app: &App<Granted>, account: &Account) -> Result<Admitted<()>> {
    let memory = account.try_admit(app.initial_bytes()).context("an empty budget has room")?;
    Ok(Admitted { cpu: account.cpu.clone(), memory, held: () })
}

/// A component as a host has it.
pub(crate) fn loaded(wasm: &[u8]) -> Result<(Engine, App<Granted>)> {
    let engine = Engine::new(EngineSettings::default())?;
    let native = compile(&engine, wasm)?;
    let component = load(&engine, Verified::vouch(&native))?;
    let app = App::link(&engine, &odeon_capabilities::linkers(&engine)?, &component)?;
    Ok((engine, app))
}

/// The child: a line of JSON per job, after some runs that do not count.
pub(crate) async fn run_here(wasm: &Path, inputs: &Path, warm_ups: usize, runs: usize) -> Result<String> {
    let (_engine, app) = loaded(&std::fs::read(wasm)?)?;
    let inputs: BTreeMap<String, Value> = serde_json::from_slice(&std::fs::read(inputs)?)?;
    let account = account();
    let mut lines = Vec::new();
    for (job, input) in inputs {
        let input = Bytes::from(serde_json::to_vec(&input)?);
        let mut timed = Timed { job, result: String::new(), micros: Vec::new() };
        for at in 0..warm_ups + runs {
            let started = Instant::now();
            timed.result = asked(&app, &account, &timed.job, input.clone()).await?;
            if at >= warm_ups {
                timed.micros.push(started.elapsed().as_secs_f64() * 1e6);
            }
        }
        lines.push(serde_json::to_string(&timed)?);
    }
    Ok(lines.join("\n"))
}

async fn asked(app: &App<Granted>, account: &Account, job: &str, input: Bytes) -> Result<String> {
    let body = Full::new(input).map_err(|never| match never {}).boxed_unsync();
    let request = Request::post(format!("http://localhost/Jobs/rest/Jobs/{job}"))
        .header("content-type", "application/json")
        .body(body)?;
    let response =
        app.handle(request, LIMITS, granted(), admitted(app, account)?, std::future::pending()).await?;
    let status = response.status();
    let body = response.into_body().collect().await.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
    ensure!(status.is_success(), "{job}: {status} {}", String::from_utf8_lossy(&body));
    serde_json::from_slice(&body).context("a job answers with a text")
}
