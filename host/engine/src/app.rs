//! A linked component, and the life of one request in it.
//!
//! A request gets a store of its own, a fresh instance, and three limits: memory, CPU time, wall time.
//! The scheduler decides where and when the guest runs; it goes on in a task of its own when it has more to do after the
//! head of its response; whatever the caller wants held for that long (a slot) travels with it. When a deadline passes,
//! or a caller goes away before the head, the guest's future is dropped, and with it the store: the only way to end a guest
//! for certain. The wall deadline is kept outside of the guest, which may be waiting for its turn when it passes.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use tokio::sync::oneshot;
use tokio::time::Instant;
use wasmtime::component::Component;
use wasmtime::{Store, StoreContextMut, Trap, UpdateDeadline};
use wasmtime_wasi_http::handler::{Proxy, ProxyPre};
use wasmtime_wasi_http::p2::bindings::http::types::ErrorCode;

use crate::call::{self, Answer, NoAnswer};
use crate::engine::Engine;
use crate::error::{Failure, GuestError, shown};
use crate::memory::Held;
use crate::origin;
use crate::places::{AppPlaces, Place};
use crate::scheduler::{Cpu, Lost, Meter, slice};
use crate::slots::NoRoom;
use crate::state::{Capabilities, Denied, Finish, InstanceMemory, State};
use crate::together::{self, Doors, End, First, Job, Timed};
use crate::warm::{Instance, Warm};
use crate::wasi::{Linkers, Wasi};
use crate::whole::{Ended, Failed, whole_if_here};

/// Bytes of a page of linear memory.
const WASM_PAGE_BYTES: u64 = 64 << 10;

/// Handles of resources, streams, futures and calls that the components of an instance may have at once: the host keeps
/// something small for each.
const HANDLES_MAX: usize = 4_096;
/// Texts and lists of one call of the host, in bytes: the host has a copy of them while it works on the call.
const HOSTCALL_BYTES_MAX: usize = 16 << 20;

/// A body, of a request or a response.
pub type Body = UnsyncBoxBody<Bytes, wasmtime_wasi_http::Error>;

/// The limits of one request.
#[derive(Debug, Clone, Copy)]
pub struct RequestLimits {
    /// Linear memory, in bytes.
    pub memory_bytes_max: u64,
    /// Wall time until the guest has returned, in milliseconds.
    pub wall_ms_max: u64,
    /// CPU time, in milliseconds.
    pub cpu_ms_max: u64,
    /// Requests that one instance may serve, one after the other: 1 gives each its own.
    pub reuse_max: u32,
    /// Requests that one instance may serve at once, if it is for WASI 0.3.
    pub concurrency_max: u32,
}

/// A request that was let in: who pays for it, and what is held for it until its guest has ended.
#[derive(Debug)]
pub struct Admitted<H> {
    /// The app's CPU account.
    pub cpu: Arc<Cpu>,
    /// Memory of the app's budget, for what an instance begins with: [`crate::Account::admit`] gives it.
    pub memory: Held,
    /// Whatever else the caller wants held.
    pub held: H,
}

/// A component whose imports are resolved. A clone is the same one: every request has one, and all of them count at one place.
pub struct App<C: 'static>(Arc<Linked<C>>);

struct Linked<C: 'static> {
    engine: Engine,
    /// That of the component.
    wasmtime: wasmtime::Engine,
    pre: ProxyPre<State<C>>,
    warm: Arc<Warm<C>>,
    /// None where an instance serves one request at a time.
    doors: Option<Arc<Doors<C>>>,
    places: Arc<AppPlaces>,
    initial_bytes: u64,
}

impl<C> Clone for App<C> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

/// An instance that nobody calls. Gives its slot back when it is dropped.
pub struct Idle<C: 'static> {
    _store: Store<State<C>>,
    _place: Place,
}

#[derive(Debug, thiserror::Error)]
#[error("CPU deadline")]
struct CpuDeadline;

impl<C: Capabilities> App<C> {
    /// Resolves the imports of a component. Fails, naming the import, when the linker of its WASI lacks one, or when the
    /// component exports neither `wasi:http/incoming-handler` nor, of WASI 0.3, `wasi:http/handler`.
    pub fn link(engine: &Engine, linkers: &Linkers<C>, component: &Component) -> wasmtime::Result<Self> {
        let pre = linkers.link(component)?;
        let wasi = match pre {
            ProxyPre::P2(_) => Wasi::P2,
            ProxyPre::P3(_) => Wasi::P3,
        };
        let places = engine.places(wasi).for_app();
        let may_share = wasi == Wasi::P3 && linkers.may_share(component);
        let doors = may_share.then(Arc::default);
        let warm = Arc::new(Warm::new(engine.idle_places(), places.clone()));
        let needs = component.resources_required();
        let pages = needs.and_then(|needs| needs.max_initial_memory_size).unwrap_or(0);
        let initial_bytes = pages.saturating_mul(WASM_PAGE_BYTES);
        let wasmtime = component.engine().clone();
        Ok(Self(Arc::new(Linked {
            engine: engine.clone(),
            wasmtime,
            pre,
            warm,
            doors,
            places,
            initial_bytes,
        })))
    }

    /// Memory that an instance has when it begins, in bytes.
    pub fn initial_bytes(&self) -> u64 {
        self.0.initial_bytes
    }

    /// Instances that serve somebody, wait, and would let another request in: what tests wait for.
    pub fn open_instances(&self) -> usize {
        self.0.doors.as_ref().map_or(0, |doors| doors.count_open())
    }

    /// Drops instances that wait to be used again and that nobody needed for a while; to be called now and then.
    pub fn tidy(&self) {
        self.0.warm.drop_idle(true);
    }

    /// Drops all instances that wait to be used again: somebody needs their memory.
    pub fn make_room(&self) {
        self.0.warm.drop_idle(false);
    }

    /// An instance that serves nobody, in a store as a request has it: what the benchmarks time.
    pub async fn instantiate<H>(
        &self,
        limits: RequestLimits,
        capabilities: C,
        admitted: Admitted<H>,
    ) -> wasmtime::Result<Idle<C>> {
        let place = self.0.places.take().ok_or_else(|| wasmtime::Error::from(GuestError::Full))?;
        let meter = Arc::new(Meter::new(admitted.cpu));
        let mut store = self.store(limits, capabilities, admitted.memory, meter);
        self.0.pre.instantiate_async(&mut store).await?;
        Ok(Idle { _store: store, _place: place })
    }

    fn store(
        &self,
        limits: RequestLimits,
        capabilities: C,
        memory: Held,
        meter: Arc<Meter>,
    ) -> Store<State<C>> {
        let host = self.0.engine.memory();
        let bytes_max = limits.memory_bytes_max.min(self.0.engine.memory_bytes_max());
        let memory = InstanceMemory::new(bytes_max, memory, self.0.initial_bytes, host);
        let state = State::new(memory, meter, cpu_ns(&limits), capabilities);
        let mut store = Store::new(&self.0.wasmtime, state);
        store.set_max_component_handles(HANDLES_MAX);
        store.set_hostcall_fuel(HOSTCALL_BYTES_MAX);
        store.limiter_async(|state| &mut state.memory);
        store.set_epoch_deadline(1);
        store.epoch_deadline_callback(Self::at_tick);
        store
    }

    /// A tick of the guests' clock, while this one runs.
    fn at_tick(mut context: StoreContextMut<'_, State<C>>) -> wasmtime::Result<UpdateDeadline> {
        let tick = context.data().meter.tick();
        if !together::charge(&mut context, tick.used)? {
            return Err(CpuDeadline.into());
        }
        if context.data_mut().memory.must_end() {
            return Err(wasmtime::Error::msg("the host runs out of memory"));
        }
        Ok(match tick.is_over {
            true => UpdateDeadline::YieldCustom(1, Box::pin(slice::Yield::new())),
            false => UpdateDeadline::Continue(1),
        })
    }

    /// Serves one request. What was `admitted` is dropped when the guest has ended, which may be after the response's
    /// head; a guest that still runs when `unload` resolves is ended.
    pub async fn handle<H: Send + Sync + 'static>(
        &self,
        request: Request<Body>,
        limits: RequestLimits,
        capabilities: C,
        admitted: Admitted<H>,
        unload: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Response<Body>, Failure> {
        if limits.concurrency_max > 1
            && let Some(doors) = &self.0.doors
        {
            let together = self.handle_together(doors, request, limits, capabilities, admitted, unload);
            return Box::pin(together).await;
        }
        let Admitted { cpu, memory, held } = admitted;
        let meter = Arc::new(Meter::new(cpu));
        let instance = self.take(limits, capabilities, memory, &meter)?;
        let begin = instance.store.data().memory.begin();
        let must_end = instance.store.data().memory.told_to_end();
        let (head, response) = oneshot::channel();
        let app = self.clone();
        let (ended, whether_failed) = Ended::new();
        let guest = async move {
            let _held = held;
            let mut instance = instance; // dropped after `ended`, so that a body knows why it ends
            let mut ended = ended;
            let Instance { store, proxy, served, .. } = &mut instance;
            let call = async {
                let proxy = instantiated(&app.0.pre, store, proxy).await?;
                call::call(store, proxy, request, head).await
            };
            let result = call.await.map_err(|error| failure(&error, store.data().memory.denied, &limits));
            let how = if result.is_ok() { Finish::Returned } else { Finish::Failed };
            ended.is_well = result.is_ok();
            store.data_mut().capabilities.finish(how).await;
            *served += 1;
            if result.is_ok() && *served < limits.reuse_max {
                app.0.warm.put(instance);
            }
            result
        };
        let guest = self.0.engine.scheduler().run(meter.clone(), begin, Box::pin(guest));
        let wall = Duration::from_millis(limits.wall_ms_max);
        let guest = async move {
            // Most guests end when they are looked at first: then nothing else is even begun.
            let ended = tokio::select! {
                biased;
                ended = guest => ended.unwrap_or_else(|Lost| Err(GuestError::Trap("its task ended".into()).into())),
                () = async { tokio::time::sleep(wall).await } => Err(GuestError::WallDeadline(limits.wall_ms_max).into()),
                () = unload => Err(GuestError::Unloaded.into()),
                () = must_end => Err(GuestError::HostMemory.into()),
            };
            tracing::trace!(cpu_ns = meter.used(), "guest ended");
            ended
        };
        answer_of(Box::pin(guest), response, whether_failed).await
    }

    /// An instance that waited, or a store for a fresh one.
    fn take(
        &self,
        limits: RequestLimits,
        capabilities: C,
        memory: Held,
        meter: &Arc<Meter>,
    ) -> Result<Instance<C>, GuestError> {
        let warm = if limits.reuse_max > 1 { self.0.warm.take() } else { None };
        let Some(mut warm) = warm else {
            let place = self.0.places.take().ok_or(GuestError::Full)?;
            let store = self.store(limits, capabilities, memory, meter.clone());
            return Ok(Instance { store, place, proxy: None, served: 0 });
        };
        drop(memory); // it has its own
        warm.store.data_mut().renew(meter.clone(), cpu_ns(&limits), capabilities);
        warm.store.set_epoch_deadline(1);
        Ok(warm)
    }

    /// Serves a request in an instance that may have others.
    async fn handle_together<H: Send + Sync + 'static>(
        &self,
        doors: &Arc<Doors<C>>,
        request: Request<Body>,
        limits: RequestLimits,
        capabilities: C,
        admitted: Admitted<H>,
        unload: impl Future<Output = ()> + Send + 'static,
    ) -> Result<Response<Body>, Failure> {
        let Admitted { cpu, memory, held } = admitted;
        let (head, response) = oneshot::channel();
        let deadline = Instant::now() + Duration::from_millis(limits.wall_ms_max);
        let held: Arc<dyn Send + Sync> = Arc::new(held);
        self.dispatch(doors, Job { request, capabilities, memory, held, deadline, head }, cpu, limits);
        let mut end = Box::pin(async move {
            tokio::select! {
                () = unload => GuestError::Unloaded,
                () = tokio::time::sleep_until(deadline) => GuestError::WallDeadline(limits.wall_ms_max),
            }
        });
        let answer = tokio::select! {
            biased;
            answer = response => answer.unwrap_or_else(|_| Err(GuestError::Trap("its task ended".into()).into()))?,
            error = &mut end => return Err(error.into()),
        };
        Ok(answer.map(|body| Timed::new(body, end).boxed_unsync()))
    }

    /// Gives a request to an instance that waits while it serves others, or to one of its own.
    fn dispatch(&self, doors: &Arc<Doors<C>>, job: Job<C>, cpu: Arc<Cpu>, limits: RequestLimits) {
        let Some(job) = doors.enter(job, &limits) else { return };
        let Job { request, capabilities, memory, held, deadline, head } = job;
        let meter = Arc::new(Meter::new(cpu.clone()));
        let mut instance = match self.take(limits, capabilities, memory, &meter) {
            Ok(instance) => instance,
            Err(full) => {
                let _ = head.send(Err(full.into())); // the caller may have gone
                return;
            }
        };
        let begin = instance.store.data().memory.begin();
        let must_end = instance.store.data().memory.told_to_end();
        let door = doors.open(instance.served, deadline);
        let instance_held = held.clone(); // an instance counts until it has ended, whatever its requests have
        let first = First { request, held, deadline, head };
        let (app, doors) = (self.clone(), doors.clone());
        let serve = async move {
            let _held = instance_held;
            let Instance { store, proxy, .. } = &mut instance;
            // What runs while it is made belongs to no request yet, and has the limits of one.
            let made = tokio::time::timeout_at(first.deadline, instantiated(&app.0.pre, store, proxy)).await;
            store.data_mut().begin_together();
            let end = match made {
                Ok(Ok(proxy)) => together::serve(store, proxy, &door, first, must_end).await,
                failed => {
                    door.admit(first.head);
                    failed.map_or(End::Late, |failed| failed.map_or_else(End::Failed, |_| End::Late))
                }
            };
            let denied = store.data().memory.denied;
            let explain = |error: &wasmtime::Error| failure(error, denied, &limits);
            let waiting = together::close(store, &door, &end, limits.wall_ms_max, explain).await;
            doors.remove(&door);
            instance.served = door.served();
            if matches!(end, End::Done { is_reusable: true }) && instance.served < limits.reuse_max {
                app.0.warm.put(instance);
            } else {
                drop(instance);
            }
            for job in waiting {
                app.dispatch(&doors, job, cpu.clone(), limits);
            }
        };
        tokio::spawn(self.0.engine.scheduler().run(meter, begin, Box::pin(serve)));
    }
}

async fn instantiated<'p, C: Capabilities>(
    pre: &ProxyPre<State<C>>,
    store: &mut Store<State<C>>,
    proxy: &'p mut Option<Proxy>,
) -> wasmtime::Result<&'p Proxy> {
    Ok(match proxy {
        Some(proxy) => proxy,
        None => proxy.insert(pre.instantiate_async(store).await?),
    })
}

fn cpu_ns(limits: &RequestLimits) -> u64 {
    limits.cpu_ms_max.saturating_mul(1_000_000)
}

/// What a guest sets, once, and the host waits for.
type Head = oneshot::Receiver<Answer>;

/// Runs a guest until it has answered. What is left of it behind the head goes on in a task of its own.
/// Most guests leave nothing: their answer is whole when they have ended, and their caller gets it whole.
async fn answer_of<G>(
    mut guest: Pin<Box<G>>,
    mut response: Head,
    failed: Failed,
) -> Result<Response<Body>, Failure>
where
    G: Future<Output = Result<(), Failure>> + Send + 'static,
{
    let ended = tokio::select! {
        biased;
        ended = AssertUnwindSafe(&mut guest).catch_unwind() => Some(ended),
        head = &mut response => {
            if let Ok(head) = head {
                tokio::spawn(guest); // the guest goes on with the body
                return head.map(|head| head.map(|body| failed.cuts(body))).map_err(refused);
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
        (_, Ok(Err(error))) => Err(error), // nothing was sent yet, and half an answer is none
        (Ok(head), _) => head.map(|head| head.map(whole_if_here)).map_err(refused),
        (Err(_), Ok(Ok(()))) => Err(GuestError::NoResponse("it returned without one".into()).into()),
        (Err(_), Err(_)) => Err(GuestError::Trap("its task ended".into()).into()),
    }
}

/// A guest may say an error instead of a response.
fn refused(code: ErrorCode) -> Failure {
    GuestError::NoResponse(shown(&format_args!("{code:?}"))).into()
}

fn failure(error: &wasmtime::Error, denied: Option<Denied>, limits: &RequestLimits) -> Failure {
    Failure { error: classify(error, denied, limits), origin: origin::of(error) }
}

fn classify(error: &wasmtime::Error, denied: Option<Denied>, limits: &RequestLimits) -> GuestError {
    if error.downcast_ref::<CpuDeadline>().is_some() {
        return GuestError::CpuDeadline(limits.cpu_ms_max);
    }
    if let Some(NoAnswer(why)) = error.downcast_ref::<NoAnswer>() {
        return GuestError::NoResponse(why.clone());
    }
    if error.is::<wasmtime::PoolConcurrencyLimitError>() || NoRoom::is_why(error) {
        return GuestError::Full;
    }
    match (error.downcast_ref::<Trap>(), denied) {
        (Some(Trap::StackOverflow), _) => GuestError::Stack,
        (_, Some(Denied::Instance(most))) => GuestError::Memory(most),
        (_, Some(Denied::App(most))) => GuestError::AppMemory(most),
        (_, Some(Denied::Host)) => GuestError::HostMemory,
        (Some(trap), None) => GuestError::Trap(trap.to_string()),
        // Not the whole chain: the backtrace in it names functions, and names may be long.
        (None, None) => GuestError::Trap(shown(&error.root_cause())),
    }
}
