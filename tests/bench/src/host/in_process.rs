//! One request in one process, without a socket: a host's way beside the shortest way that wasmtime offers.
//!
//! Both run the same component with the same memories and stacks, a fresh store and a fresh instance each time, and both read the
//! whole answer. The bare way has an engine of its own, without epochs and so without a clock, WASI and HTTP linked and nothing
//! else: no limits, no deadlines, no log, no accounts; it compiles the component as it is, while a host takes the shim out first. On a
//! host's engine, with a host's native code, it is measured, too, which says what those cost.
//!
//! All take turns, because a machine drifts, and each turn is a loop of its own of some milliseconds: when they took
//! turns request by request, whoever came after another bare loop found its code in the caches, and was 15 % faster. Before each turn the
//! process rests until a host's clock sleeps, so that the bare loop has none on the other core.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Empty};
use odeon_engine::artefact::{Verified, compile, load};
use odeon_engine::scheduler::Begin;
use odeon_engine::wasmtime::component::{Component, Linker, ResourceTable};
use odeon_engine::wasmtime::{self, Store};
use odeon_engine::wasmtime_wasi::{WasiCtx, WasiCtxView, WasiView, p2};
use odeon_engine::wasmtime_wasi_http::p2::bindings::ProxyPre;
use odeon_engine::wasmtime_wasi_http::p2::bindings::http::types::Scheme;
use odeon_engine::wasmtime_wasi_http::{
    WasiHttpCtx, WasiHttpCtxView, WasiHttpHooks, WasiHttpView, p2 as http_p2,
};
use odeon_engine::{Account, App, Body, Engine, EngineSettings, Wasi};
use tokio::sync::oneshot;

use super::{Bound, Found, Target};
use crate::publish::median;
use crate::speed::{LIMITS, account, admitted, granted};

/// Requests that are timed on each side, after a tenth as many that are not. As many instances.
const REQUESTS: usize = 20_000;
/// Requests of one turn.
const TURN: usize = 100;
/// Requests before each turn that are not timed: the process has rested.
const WAKING: usize = 20;
/// How long it rests, in milliseconds: the clock of guests stays awake for 100 after the last of them.
const REST_MS: u64 = 130;

struct Bare {
    wasi: WasiCtx,
    http: WasiHttpCtx,
    table: ResourceTable,
    hooks: NoHooks,
}

struct NoHooks;

impl WasiHttpHooks for NoHooks {}

impl WasiView for Bare {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

impl WasiHttpView for Bare {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        WasiHttpCtxView { ctx: &mut self.http, table: &mut self.table, hooks: &mut self.hooks }
    }
}

/// Times of one side, in microseconds.
#[derive(Default)]
struct Times {
    made: Vec<f64>,
    whole: Vec<f64>,
}

pub(crate) async fn measure(component: &Path) -> Result<Found> {
    let wasm = std::fs::read(component)?;
    let engine = Engine::new(EngineSettings::default())?;
    let native = compile(&engine, &wasm)?;
    let linked = |engine: &Engine| {
        let component = load(engine, Verified::vouch(&native))?;
        let app = App::link(engine, &odeon_capabilities::linkers(engine)?, &component)?;
        anyhow::Ok((component, app))
    };
    let (component, app) = linked(&engine)?;
    let bare_engine = bare_engine()?;
    let bare = bare_linked(&bare_engine, &Component::new(&bare_engine, &wasm)?)?;
    let ours_engine = engine.of(Wasi::P2);
    let mixed = bare_linked(ours_engine, &component)?;
    let account = account();
    let (mut ours, mut theirs, mut between) = (Times::default(), Times::default(), Times::default());
    for turn in 0..(REQUESTS + REQUESTS / 10) / TURN {
        if turn == REQUESTS / 10 / TURN {
            (ours, theirs, between) = Default::default();
        }
        rest().await;
        for at in 0..WAKING + TURN {
            ours.made.extend(counts(at, our_instance(&app, &account).await?));
        }
        for at in 0..WAKING + TURN {
            ours.whole.extend(counts(at, our_request(&app, &account).await?));
        }
        for (times, engine, pre) in [(&mut theirs, &bare_engine, &bare), (&mut between, ours_engine, &mixed)]
        {
            rest().await;
            for at in 0..WAKING + TURN {
                times.made.extend(counts(at, bare_instance(engine, pre).await?));
            }
            for at in 0..WAKING + TURN {
                times.whole.extend(counts(at, bare_request(engine, pre).await?));
            }
        }
    }
    let elsewhere = Engine::new(EngineSettings { begin: Begin::There, ..EngineSettings::default() })?;
    let (_, app_elsewhere) = linked(&elsewhere)?;
    let mut moved = Vec::new();
    // Apart from the others, which would begin on a core that has slept.
    for _ in 0..REQUESTS {
        moved.push(our_request(&app_elsewhere, &account).await?);
    }
    let (made, whole, moved) = (median(&ours.made), median(&ours.whole), median(&moved));
    let (bare_made, bare_whole) = (median(&theirs.made), median(&theirs.whole));
    let (mixed_made, mixed_whole) = (median(&between.made), median(&between.whole));
    Ok(Found {
        text: format!(
            "## In one process, without a socket\n\n{REQUESTS} requests on each side, in turns of {TURN}, p50: Odeon makes an instance in {made:.1} us and answers a request \
             in {whole:.1} us; the bare loop takes {bare_made:.1} and {bare_whole:.1} us. The bare loop has an engine of its own with the same memories and stacks, without epochs, \
             WASI and HTTP linked and no limits, deadlines, log or accounts, and compiles the component as it is. With engine and native code of a host, without the \
             shim, it takes {mixed_made:.1} and {mixed_whole:.1} us. When guests always run on threads of their own, a request takes {moved:.1} us.\n"
        ),
        targets: vec![
            Target::new(
                "in-process instantiate, beside a bare loop, p50",
                beside(&ours.made, &theirs.made),
                "x",
                Bound::AtMost(1.0),
            ),
            Target::new(
                "in-process request, beside a bare loop, p50",
                beside(&ours.whole, &theirs.whole),
                "x",
                Bound::AtMost(1.0),
            ),
        ],
    })
}

/// How the p50 of a turn compares with that of the other side's turn next to it, in the median: the machine may be twice as slow a
/// second later, but seldom some milliseconds later.
fn beside(ours: &[f64], theirs: &[f64]) -> f64 {
    let turns = ours.chunks(TURN).zip(theirs.chunks(TURN));
    median(&turns.map(|(ours, theirs)| median(ours) / median(theirs)).collect::<Vec<_>>())
}

/// Until the clock of guests sleeps.
async fn rest() {
    tokio::time::sleep(Duration::from_millis(REST_MS)).await;
}

/// What is timed of a turn.
fn counts(at: usize, micros: f64) -> Option<f64> {
    (at >= WAKING).then_some(micros)
}

/// An engine with a host's memories and stacks, and nothing else that a host asks for.
fn bare_engine() -> Result<wasmtime::Engine> {
    let mut config = wasmtime::Config::new();
    odeon_engine::engine::give_slots(&mut config, &EngineSettings::default(), Wasi::P2);
    // A host's engine for this WASI goes without it, too, and it would cost the loop a third.
    config.wasm_component_model_async(false).concurrency_support(false);
    Ok(wasmtime::Engine::new(&config)?)
}

fn request() -> Result<Request<Body>> {
    let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
    Ok(Request::get("http://localhost/Hello/").body(body)?)
}

/// Microseconds for an instance that serves nobody.
async fn our_instance(app: &App<odeon_capabilities::Granted>, account: &Account) -> Result<f64> {
    let begun = Instant::now();
    let instance = app.instantiate(LIMITS, granted(), admitted(app, account)?).await?;
    let made = micros(begun);
    drop(instance);
    Ok(made)
}

/// Microseconds for a whole request, its instance included.
async fn our_request(app: &App<odeon_capabilities::Granted>, account: &Account) -> Result<f64> {
    let begun = Instant::now();
    let response =
        app.handle(request()?, LIMITS, granted(), admitted(app, account)?, std::future::pending()).await?;
    let said = response.into_body().collect().await.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
    let whole = micros(begun);
    ensure!(said == "Hello from Odeon\n", "another answer");
    Ok(whole)
}

fn micros(begun: Instant) -> f64 {
    begun.elapsed().as_secs_f64() * 1e6
}

fn bare_linked(engine: &wasmtime::Engine, component: &Component) -> Result<ProxyPre<Bare>> {
    let mut linker: Linker<Bare> = Linker::new(engine);
    p2::add_to_linker_async(&mut linker)?;
    http_p2::add_only_http_to_linker_async(&mut linker)?;
    Ok(ProxyPre::new(linker.instantiate_pre(component)?)?)
}

fn bare_store(engine: &wasmtime::Engine) -> Store<Bare> {
    let wasi = WasiCtx::builder().build();
    let state = Bare { wasi, http: WasiHttpCtx::new(), table: ResourceTable::new(), hooks: NoHooks };
    let mut store = Store::new(engine, state);
    store.set_epoch_deadline(u64::MAX / 2); // a host's engine has a clock; this loop has no deadline
    store
}

async fn bare_instance(engine: &wasmtime::Engine, pre: &ProxyPre<Bare>) -> Result<f64> {
    let begun = Instant::now();
    let mut store = bare_store(engine);
    let instance = pre.instantiate_async(&mut store).await?;
    let made = micros(begun);
    drop((instance, store));
    Ok(made)
}

async fn bare_request(engine: &wasmtime::Engine, pre: &ProxyPre<Bare>) -> Result<f64> {
    let begun = Instant::now();
    let mut store = bare_store(engine);
    let (head, mut response) = oneshot::channel();
    let incoming = store.data_mut().http().new_incoming_request(Scheme::Http, request()?)?;
    let out = store.data_mut().http().new_response_outparam(head)?;
    let proxy = pre.instantiate_async(&mut store).await?;
    proxy.wasi_http_incoming_handler().call_handle(&mut store, incoming, out).await?;
    drop(store);
    let response = response.try_recv().context("an answer")?.map_err(|code| anyhow::anyhow!("{code:?}"))?;
    let said = response.into_body().collect().await.map_err(|error| anyhow::anyhow!("{error}"))?.to_bytes();
    let whole = micros(begun);
    ensure!(said == "Hello from Odeon\n", "another answer");
    Ok(whole)
}
