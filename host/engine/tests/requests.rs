//! One request in one instance: what a guest may do, and how it is ended when it does more.
//!
//! The guest is `guest-examples/hello-rust`, which `make guests` builds and which misbehaves when asked to.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use odeon_engine::app::Admitted;
use odeon_engine::wasmtime::component::{Component, Linker};
use odeon_engine::{
    Account, App, Body, Capabilities, CpuShare, Engine, EngineSettings, Failure, Finish, RequestLimits, State,
};
use tokio::sync::Notify;
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::WasiHttpHooks;

const LIMITS: RequestLimits =
    RequestLimits { memory_bytes_max: 32 << 20, wall_ms_max: 60_000, cpu_ms_max: 60_000, reuse_max: 1 };

/// Counts how guests ended, and gives nothing.
#[derive(Clone, Default)]
struct Counting {
    returned: Arc<AtomicUsize>,
    failed: Arc<AtomicUsize>,
    hooks: NoHooks,
}

#[derive(Clone, Default)]
struct NoHooks;

impl WasiHttpHooks for NoHooks {}

impl Capabilities for Counting {
    async fn finish(&mut self, how: Finish) {
        match how {
            Finish::Returned => &self.returned,
            Finish::Failed => &self.failed,
        }
        .fetch_add(1, Ordering::SeqCst);
    }

    fn wasi(&self) -> WasiCtx {
        WasiCtx::builder().build()
    }

    fn take_over(&mut self, _: Self) {}

    fn http_hooks(&mut self) -> &mut dyn WasiHttpHooks {
        &mut self.hooks
    }
}

struct Guest {
    app: App<Counting>,
    account: Account,
    ends: Counting,
}

impl Guest {
    fn load() -> Self {
        let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
        let file = target.join("guests/wasm32-wasip2/release/hello_rust.wasm");
        let bytes =
            std::fs::read(&file).unwrap_or_else(|_| panic!("`make guests` builds {}", file.display()));
        let engine = Engine::new(EngineSettings { instances_max: 20, ..EngineSettings::default() }).unwrap();
        let mut linker: Linker<State<Counting>> = Linker::new(engine.wasmtime());
        odeon_engine::add_wasi_to_linker(&mut linker).unwrap();
        let component = Component::new(engine.wasmtime(), bytes).unwrap();
        let account = Account::new(CpuShare { millicores: 250, burst_ms: None }, 512 << 20);
        Self { app: App::link(&engine, &linker, &component).unwrap(), account, ends: Counting::default() }
    }

    async fn ask(&self, path: &str, limits: RequestLimits) -> Result<Response<Body>, Failure> {
        self.ask_until(path, limits, std::future::pending()).await
    }

    async fn ask_until(
        &self,
        path: &str,
        limits: RequestLimits,
        unload: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Response<Body>, Failure> {
        let body = Empty::<Bytes>::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::get(format!("http://localhost{path}")).body(body).unwrap();
        let memory = self.account.admit(self.app.initial_bytes()).await;
        let admitted = Admitted { cpu: self.account.cpu.clone(), memory, held: () };
        self.app.handle(request, limits, self.ends.clone(), admitted, unload).await
    }

    async fn fails(&self, path: &str, limits: RequestLimits) -> (StatusCode, &'static str, String) {
        let error = self.ask(path, limits).await.expect_err(path);
        (error.error.status(), error.error.code(), error.to_string())
    }

    /// Whoever comes after a guest that failed notices nothing.
    async fn answers(&self) {
        let answer = self.ask("/", LIMITS).await.unwrap();
        assert_eq!(answer.headers()["x-instance-requests"], "1", "each request has an instance of its own");
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "Hello from Odeon\n");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_fails_harms_itself_only() {
    let guest = Guest::load();
    guest.answers().await;
    let (status, code, detail) = guest.fails("/panic", LIMITS).await;
    assert_eq!((status, code), (StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50001"), "{detail}");
    let (status, code, detail) = guest.fails("/memory", LIMITS).await;
    assert_eq!((status, code), (StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50002"));
    assert_eq!(detail, "the app needed more than 33554432 bytes of memory and failed");
    let (status, code, _) = guest.fails("/stack", LIMITS).await;
    assert_eq!((status, code), (StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50003"));
    guest.answers().await;
    assert_eq!(guest.ends.failed.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_never_yields_is_ended_at_its_deadlines() {
    let guest = Guest::load();
    let (status, code, detail) = guest.fails("/loop", RequestLimits { cpu_ms_max: 50, ..LIMITS }).await;
    assert_eq!((status, code), (StatusCode::GATEWAY_TIMEOUT, "OS-BERT-50402"));
    assert_eq!(detail, "the app used more than 50 ms of CPU time for one request");
    let (status, code, _) = guest.fails("/loop", RequestLimits { wall_ms_max: 50, ..LIMITS }).await;
    assert_eq!((status, code), (StatusCode::GATEWAY_TIMEOUT, "OS-BERT-50401"));
    let (status, code, _) = guest.fails("/slow", RequestLimits { wall_ms_max: 50, ..LIMITS }).await;
    assert_eq!((status, code), (StatusCode::GATEWAY_TIMEOUT, "OS-BERT-50401"), "waiting counts, too");
    guest.answers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_of_an_unloaded_app_is_ended() {
    let guest = Guest::load();
    let unload = Arc::new(Notify::new());
    unload.notify_one();
    let error = guest.ask_until("/loop", LIMITS, async move { unload.notified().await }).await.err().unwrap();
    let error = error.error;
    assert_eq!((error.status(), error.code()), (StatusCode::SERVICE_UNAVAILABLE, "OS-BERT-50303"));
    guest.answers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_ends_the_guest() {
    let guest = Guest::load();
    let asked = tokio::time::timeout(std::time::Duration::from_millis(50), guest.ask("/loop", LIMITS)).await;
    assert!(asked.is_err());
    // Its slot is free again: more requests than there are slots find one each.
    for _ in 0..40 {
        guest.answers().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_instance_serves_one_request_unless_the_app_asks_for_more() {
    let guest = Guest::load();
    let limits = RequestLimits { reuse_max: 3, ..LIMITS };
    let mut counts = Vec::new();
    for _ in 0..6 {
        let answer = guest.ask("/", limits).await.unwrap();
        counts.push(answer.headers()["x-instance-requests"].to_str().unwrap().to_owned());
    }
    assert_eq!(counts, ["1", "2", "3", "1", "2", "3"]);
    // After a failure nobody meets what was left, and what waits for nobody gives its memory back.
    guest.ask("/", limits).await.unwrap();
    guest.fails("/panic", limits).await;
    guest.answers().await;
    guest.ask("/", limits).await.unwrap();
    assert!(guest.account.memory.held() > 0);
    guest.app.make_room();
    assert_eq!(guest.account.memory.held(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_of_an_app_share_its_budget_and_leave_nothing_behind() {
    let guest = Guest::load();
    guest.account.set(CpuShare { millicores: 250, burst_ms: None }, 24 << 20);
    let (status, code, detail) = guest.fails("/memory", LIMITS).await;
    assert_eq!((status, code), (StatusCode::INTERNAL_SERVER_ERROR, "OS-BERT-50005"));
    assert_eq!(
        detail,
        "the app's instances together needed more than 25165824 bytes of memory, so that this one failed"
    );
    assert_eq!(guest.account.memory.held(), 0);
    // A control: with a budget it fits in, the same request comes to the limit of its instance.
    guest.account.set(CpuShare { millicores: 250, burst_ms: None }, 512 << 20);
    assert_eq!(guest.fails("/memory", LIMITS).await.1, "OS-BERT-50002");
    guest.answers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn guests_that_wait_for_their_share_are_ended_at_their_deadlines_too() {
    let guest = Guest::load();
    // A burst of nothing, and a share that pays for a millisecond in a hundred.
    guest.account.set(CpuShare { millicores: 10, burst_ms: Some(0) }, 512 << 20);
    let limits = RequestLimits { wall_ms_max: 300, ..LIMITS };
    let (status, code, _) = guest.fails("/loop", limits).await;
    assert_eq!((status, code), (StatusCode::GATEWAY_TIMEOUT, "OS-BERT-50401"));
    // It is told when the time has passed for which the app had to wait.
    let told = async {
        while guest.account.cpu.throttled_ns() == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), told).await.expect("it waited");
    guest.account.set(CpuShare { millicores: 250, burst_ms: None }, 512 << 20);
    guest.answers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_guest_computes_is_charged_to_its_app() {
    let guest = Guest::load();
    let (_, code, _) = guest.fails("/loop", RequestLimits { cpu_ms_max: 100, ..LIMITS }).await;
    assert_eq!(code, "OS-BERT-50402");
    assert!(guest.account.cpu.used_ns() >= 100_000_000, "{}", guest.account.cpu.used_ns());
}
