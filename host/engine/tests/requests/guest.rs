//! A guest with an engine of its own, and requests to it. Guests are `guest-examples/hello-rust` (WASI 0.2) and
//! `guest-examples/hello-wasip3` (WASI 0.3), which `make guests` builds and which misbehave when asked to.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use odeon_engine::app::Admitted;
use odeon_engine::{
    Account, App, Body, Capabilities, CpuShare, Engine, EngineSettings, Failure, Finish, Linkers,
    RequestLimits, Wasi, artefact,
};
use wasm_encoder::{
    ComponentSection as _, ComponentSectionId, ConstExpr, DataSection, MemorySection, MemoryType, Module,
    RawSection,
};
use wasmtime::component::Component;
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::{Error, RequestOptions, WasiBody, WasiHttpHooks};

use crate::until;

/// Instances of an engine.
pub(crate) const POOL: u32 = 20;
pub(crate) const LIMITS: RequestLimits = RequestLimits {
    memory_bytes_max: 32 << 20,
    wall_ms_max: 60_000,
    cpu_ms_max: 60_000,
    reuse_max: 1,
    concurrency_max: 1,
};

/// Counts how guests ended, and answers what they ask of other servers with the name of the request.
#[derive(Clone, Default)]
pub(crate) struct Counting {
    joined: Arc<AtomicUsize>,
    pub(crate) returned: Arc<AtomicUsize>,
    pub(crate) failed: Arc<AtomicUsize>,
    /// Those of both that ended on the guests' threads.
    pub(crate) there: Arc<AtomicUsize>,
    hooks: Named,
}

#[derive(Clone, Default)]
struct Named(String);

type Transfer = Box<dyn Future<Output = Result<(), Error>> + Send>;

impl WasiHttpHooks for Named {
    fn send_request(
        &mut self,
        _: Request<WasiBody>,
        _: Option<RequestOptions>,
        _: Transfer,
    ) -> Box<dyn Future<Output = Result<(Response<WasiBody>, Transfer), Error>> + Send> {
        let name = Full::new(Bytes::from(self.0.clone())).map_err(|never| match never {}).boxed_unsync();
        Box::new(async move { Ok((Response::new(name), Box::new(async { Ok(()) }) as Transfer)) })
    }

    /// As in hosts: pieces of the default, 1 MiB, would be most of what an instance has.
    fn p2_outgoing_body_chunk_size(&mut self) -> usize {
        32 << 10
    }
}

impl Capabilities for Counting {
    async fn finish(&mut self, how: Finish) {
        if std::thread::current().name().is_some_and(|name| name.starts_with("guests-")) {
            self.there.fetch_add(1, Ordering::SeqCst);
        }
        match how {
            Finish::Returned => &self.returned,
            Finish::Failed => &self.failed,
        }
        .fetch_add(1, Ordering::SeqCst);
    }

    fn wasi(&self) -> WasiCtx {
        WasiCtx::builder().build()
    }

    fn take_over(&mut self, _: &Self) {
        self.joined.fetch_add(1, Ordering::SeqCst);
    }

    fn http_hooks(&mut self) -> &mut dyn WasiHttpHooks {
        &mut self.hooks
    }
}

pub(crate) struct Guest {
    pub(crate) engine: Engine,
    component: Component,
    pub(crate) app: App<Counting>,
    pub(crate) account: Account,
    pub(crate) ends: Counting,
    /// Each request that has not ended holds one.
    running: Arc<()>,
}

impl Guest {
    pub(crate) fn load(name: &str) -> Self {
        Self::made_of(&Self::bytes(name))
    }

    /// The same component with so much data that memories are not copied but mapped, which takes another engine: they are in a module of which there is no instance.
    pub(crate) fn with_much_data(name: &str) -> Self {
        let (mut memories, mut data, mut module) = (MemorySection::new(), DataSection::new(), Module::new());
        memories.memory(MemoryType {
            minimum: 2,
            maximum: None,
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        data.active(0, &ConstExpr::i32_const(0), vec![1; 128 << 10]);
        module.section(&memories).section(&data);
        let mut component = Self::bytes(name);
        let section = RawSection { id: ComponentSectionId::CoreModule.into(), data: module.as_slice() };
        section.append_to_component(&mut component);
        let guest = Self::made_of(&component);
        let copying = [Wasi::P2, Wasi::P3].map(|wasi| guest.engine.of(wasi));
        assert!(!copying.iter().any(|engine| wasmtime::Engine::same(engine, guest.component.engine())));
        guest
    }

    pub(crate) fn bytes(name: &str) -> Vec<u8> {
        let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
        let file = target.join(format!("guests/wasm32-wasip2/release/{name}.wasm"));
        std::fs::read(&file).unwrap_or_else(|_| panic!("`make guests` builds {}", file.display()))
    }

    pub(crate) fn made_of(component: &[u8]) -> Self {
        let engine =
            Engine::new(EngineSettings { instances_max: POOL, ..EngineSettings::default() }).unwrap();
        let component = artefact::component(&engine, component).unwrap();
        Self::on(engine, component)
    }

    /// Another app of the same component, on the same host.
    pub(crate) fn beside(&self) -> Self {
        Self::on(self.engine.clone(), self.component.clone())
    }

    fn on(engine: Engine, component: Component) -> Self {
        let account = Account::new(CpuShare { millicores: 250, burst_ms: None }, 512 << 20);
        let app = App::link(&engine, &Linkers::new(&engine).unwrap(), &component).unwrap();
        Self { engine, component, app, account, ends: Counting::default(), running: Arc::default() }
    }

    pub(crate) async fn ask(&self, path: &str, limits: RequestLimits) -> Result<Response<Body>, Failure> {
        self.ask_until(path, limits, std::future::pending()).await
    }

    pub(crate) async fn ask_until(
        &self,
        path: &str,
        limits: RequestLimits,
        unload: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Response<Body>, Failure> {
        let body = Full::default().map_err(|never| match never {}).boxed_unsync();
        self.send(Request::get(format!("http://localhost{path}")).body(body).unwrap(), limits, unload).await
    }

    /// Sends a request in whose name the guest asks others.
    pub(crate) async fn send(
        &self,
        request: Request<Body>,
        limits: RequestLimits,
        unload: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Response<Body>, Failure> {
        let capabilities = Counting { hooks: Named(request.uri().to_string()), ..self.ends.clone() };
        let memory = self.account.admit(self.app.initial_bytes()).await;
        let admitted = Admitted { cpu: self.account.cpu.clone(), memory, held: self.running.clone() };
        self.app.handle(request, limits, capabilities, admitted, unload).await
    }

    /// Calls in memory of the app.
    pub(crate) fn end_largest(&self, bytes: u64) {
        odeon_engine::end_largest(vec![self.account.memory.clone()], bytes);
    }

    /// Waits until no request runs: a guest goes on for a moment after its answer.
    pub(crate) async fn rests(&self) {
        until("all requests have ended", || Arc::strong_count(&self.running) == 1).await;
    }

    /// Requests that came into an instance that others have, or had.
    pub(crate) fn joined(&self) -> usize {
        self.ends.joined.load(Ordering::SeqCst)
    }

    /// Drops what waits for another use, and says whether nothing is left of all requests.
    pub(crate) fn is_empty(&self) -> bool {
        self.app.make_room();
        self.account.memory.held() == 0
    }

    pub(crate) async fn fails(
        &self,
        path: &str,
        limits: RequestLimits,
    ) -> (StatusCode, &'static str, String) {
        let error = self.ask(path, limits).await.expect_err(path);
        (error.error.status(), error.error.code(), error.to_string())
    }

    /// Whoever comes after a guest that failed notices nothing.
    pub(crate) async fn answers(&self) {
        let answer = self.ask("/", LIMITS).await.unwrap();
        assert_eq!(answer.headers()["x-instance-requests"], "1", "each request has an instance of its own");
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes(), "Hello from Odeon\n");
    }

    /// One instruction may go through all of a guest's memory, and nothing interrupts it.
    pub(crate) async fn runs_there_with_much_memory(&self) {
        const REQUESTS: usize = 5;
        let ended_there = || self.ends.there.swap(0, Ordering::SeqCst);
        for _ in 0..REQUESTS {
            self.ask("/large", LIMITS).await.unwrap();
        }
        self.rests().await;
        assert_eq!(ended_there(), REQUESTS, "they left when they got it");
        let again = RequestLimits { reuse_max: 2, ..LIMITS };
        for path in ["/large", "/"].repeat(REQUESTS) {
            let _answer = self.ask(path, again).await.unwrap(); // whoever drops it ends the guest
            self.rests().await;
        }
        assert_eq!(ended_there(), 2 * REQUESTS, "and whoever finds it there begins there");
    }
}
