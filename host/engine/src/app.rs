//! A linked component, and the life of one request in it.
//!
//! A request gets a store of its own, a fresh instance, and three limits: memory, CPU time, wall time.
//! The guest runs where its caller does, and in a task of its own when it goes on after the head of its response;
//! whatever the caller wants held for that long (a slot) travels with it. When a deadline passes, or a caller
//! goes away before the head, the guest's future is dropped, and with it the store: the only way to end a guest for certain.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::oneshot;
use wasmtime::component::{Component, Linker};
use wasmtime::{Store, Trap, UpdateDeadline};
use wasmtime_wasi::WasiCtx;
use wasmtime_wasi_http::WasiHttpView as _;
use wasmtime_wasi_http::p2::bindings::ProxyPre;
use wasmtime_wasi_http::p2::bindings::http::types::{ErrorCode, Scheme};

use crate::engine::TICK_MS;
use crate::error::{Failure, GuestError};
use crate::origin;
use crate::state::{Capabilities, Finish, State};

/// A body, of a request or a response.
pub type Body = UnsyncBoxBody<Bytes, wasmtime_wasi_http::Error>;

/// The limits of one request.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// Linear memory, in bytes.
    pub memory_bytes_max: u64,
    /// Wall time until the guest has returned, in milliseconds.
    pub wall_ms_max: u64,
    /// CPU time, in milliseconds; measured in ticks of the guests' clock.
    pub cpu_ms_max: u64,
}

/// A component whose imports are resolved. Cheap to clone.
pub struct App<C: 'static> {
    pre: Arc<ProxyPre<State<C>>>,
}

impl<C> Clone for App<C> {
    fn clone(&self) -> Self {
        Self { pre: self.pre.clone() }
    }
}

/// An instance that nobody calls. Gives its slot back when it is dropped.
pub struct Idle<C: 'static> {
    _store: Store<State<C>>,
}

#[derive(Debug, thiserror::Error)]
#[error("CPU deadline")]
struct CpuDeadline;

impl<C: Capabilities> App<C> {
    /// Resolves the imports of a component. Fails, naming the import, when `linker` lacks one, or when the
    /// component does not export `wasi:http/incoming-handler`.
    pub fn link(linker: &Linker<State<C>>, component: &Component) -> wasmtime::Result<Self> {
        Ok(Self { pre: Arc::new(ProxyPre::new(linker.instantiate_pre(component)?)?) })
    }

    /// An instance that serves nobody, in a store as a request has it: what the benchmarks time.
    pub async fn instantiate(
        &self,
        limits: RequestLimits,
        wasi: WasiCtx,
        capabilities: C,
    ) -> wasmtime::Result<Idle<C>> {
        let mut store = self.store(limits, wasi, capabilities);
        self.pre.instantiate_async(&mut store).await?;
        Ok(Idle { _store: store })
    }

    fn store(&self, limits: RequestLimits, wasi: WasiCtx, capabilities: C) -> Store<State<C>> {
        let memory_max = usize::try_from(limits.memory_bytes_max).unwrap_or(usize::MAX);
        let mut store = Store::new(self.pre.engine(), State::new(wasi, memory_max, capabilities));
        store.limiter(|state| state);
        let ticks_max = limits.cpu_ms_max / TICK_MS;
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(move |mut context| {
            let state = context.data_mut();
            state.cpu_ticks += 1;
            if state.cpu_ticks > ticks_max {
                return Err(CpuDeadline.into());
            }
            // Not `Yield`: tokio would run the task that just yielded before the others.
            Ok(UpdateDeadline::YieldCustom(1, Box::pin(tokio::task::yield_now())))
        });
        store
    }

    /// Serves one request. `held` is dropped when the guest has ended, which may be after the response's
    /// head; a guest that still runs when `unload` resolves is ended.
    pub async fn handle<H: Send + 'static>(
        &self,
        request: Request<Body>,
        limits: RequestLimits,
        wasi: WasiCtx,
        capabilities: C,
        held: H,
        unload: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Response<Body>, Failure> {
        let mut store = self.store(limits, wasi, capabilities);
        let (head, response) = oneshot::channel();
        let mut http = store.data_mut().http();
        let unusable = |error: wasmtime::Error| Failure::from(GuestError::NoResponse(error.to_string()));
        let request = http.new_incoming_request(Scheme::Http, request).map_err(unusable)?;
        let out = http.new_response_outparam(head).map_err(unusable)?;

        let pre = self.pre.clone();
        let guest = async move {
            let _held = held;
            let call = async {
                let proxy = pre.instantiate_async(&mut store).await?;
                proxy.wasi_http_incoming_handler().call_handle(&mut store, request, out).await
            };
            let call = tokio::time::timeout(Duration::from_millis(limits.wall_ms_max), call);
            let ended = tokio::select! { ended = call => Some(ended), () = unload => None };
            let result = match ended {
                Some(Ok(Ok(()))) => Ok(()),
                Some(Ok(Err(error))) => Err(failure(&error, store.data().memory_denied, &limits)),
                Some(Err(_)) => Err(GuestError::WallDeadline(limits.wall_ms_max).into()),
                None => Err(GuestError::Unloaded.into()),
            };
            tracing::trace!(cpu = ?store.data().cpu_used(), "guest ended");
            let how = if result.is_ok() { Finish::Returned } else { Finish::Failed };
            store.data_mut().capabilities.finish(how).await;
            result
        };
        answer_of(Box::pin(guest), response).await
    }
}

/// What a guest sets, once, and the host waits for.
type Head = oneshot::Receiver<Result<Response<Body>, ErrorCode>>;

/// Runs a guest until it has answered. It runs where its caller does, because waking another thread and being
/// woken by it costs as much as a small request; what is left of it behind the head goes on in a task of its own.
/// Most guests leave nothing: their answer is whole when they have ended, and their caller gets it whole.
async fn answer_of<G>(mut guest: Pin<Box<G>>, mut response: Head) -> Result<Response<Body>, Failure>
where
    G: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let ended = tokio::select! {
        biased;
        ended = AssertUnwindSafe(&mut guest).catch_unwind() => Some(ended),
        head = &mut response => {
            if let Ok(head) = head {
                tokio::spawn(guest); // the guest goes on with the body
                return head.map_err(refused);
            }
            None
        }
    };
    let ended = match ended {
        Some(ended) => ended,
        // The sender was dropped, unused: the guest says why.
        None => AssertUnwindSafe(&mut guest).catch_unwind().await,
    };
    match (response.try_recv(), ended) {
        (Ok(head), _) => head.map_err(refused),
        (Err(_), Ok(Err(error))) => Err(error),
        (Err(_), Ok(Ok(()))) => Err(GuestError::NoResponse("it returned without one".into()).into()),
        (Err(_), Err(_)) => Err(GuestError::Trap("its task ended".into()).into()),
    }
}

/// A guest may say an error instead of a response.
fn refused(code: ErrorCode) -> Failure {
    GuestError::NoResponse(format!("{code:?}")).into()
}

fn failure(error: &wasmtime::Error, memory_denied: bool, limits: &RequestLimits) -> Failure {
    Failure { error: classify(error, memory_denied, limits), origin: origin::of(error) }
}

fn classify(error: &wasmtime::Error, memory_denied: bool, limits: &RequestLimits) -> GuestError {
    if error.downcast_ref::<CpuDeadline>().is_some() {
        return GuestError::CpuDeadline(limits.cpu_ms_max);
    }
    if error.downcast_ref::<wasmtime::PoolConcurrencyLimitError>().is_some() {
        return GuestError::Full;
    }
    match error.downcast_ref::<Trap>() {
        Some(Trap::StackOverflow) => GuestError::Stack,
        _ if memory_denied => GuestError::Memory(limits.memory_bytes_max),
        Some(trap) => GuestError::Trap(trap.to_string()),
        // Not the whole chain: the backtrace in it names functions, and names may be long.
        None => GuestError::Trap(error.root_cause().to_string()),
    }
}
