//! Instances that serve several requests at once, for apps of WASI 0.3 that ask for it.
//!
//! While one request waits (for a server, for time, for its caller to read), its instance may work on another: that saves
//! memory and instantiation, and costs isolation between the app's own requests, never between apps. An instance lets
//! others in only while it waits, so that work for the CPU goes to another instance, and another core.
//!
//! A request keeps what is its own: its capabilities ([`turn_to_caller`]), its CPU time, which is told apart by sampling at
//! each tick of the clock, and its deadlines. What must stay true: a request that traps or is past its CPU time ends the
//! instance, for a store cannot go on without one of its tasks; where it was the CPU time the others are told that it was not they, and
//! where it trapped, which does not say whose task it was, all are told of the trap; a request
//! past its wall deadline is answered at once, and its instance takes nobody in any more; a body on its way then breaks off.

use std::collections::{BTreeMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, Stream as _};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::{Frame, SizeHint};
use tokio::sync::oneshot;
use tokio::time::Instant;
use wasmtime::component::{Accessor, GuestTaskId};
use wasmtime::{AsContextMut as _, Store, StoreContextMut};
use wasmtime_wasi::WasiView as _;
use wasmtime_wasi_http::handler::Proxy;

use crate::app::{Body, RequestLimits};
use crate::call::{Begun, NoAnswer};
use crate::error::{Failure, GuestError};
use crate::memory::Held;
use crate::scheduler::slice;
use crate::state::{Capabilities, Finish, State};
use crate::whole::broken;

/// Requests that an instance serves before it must have ended all of their tasks once: what it holds for each is small,
/// and cannot be given back before.
const MEMBERS_MAX: usize = 256;

/// The requests of one instance, in its store.
pub(crate) struct Together<C> {
    /// Whose capabilities lie in the state.
    caller: Option<GuestTaskId>,
    members: BTreeMap<GuestTaskId, Member<C>>,
    /// CPU time of the instance until the last tick.
    seen_ns: u64,
    /// CPU time of what the instance did in nobody's name.
    nobodys_ns: u64,
    /// Who used up its CPU time.
    culprit: Option<u64>,
}

struct Member<C> {
    number: u64,
    /// None while they lie in the state.
    parked: Option<C>,
    cpu_ns: u64,
}

impl<C> Default for Together<C> {
    fn default() -> Self {
        Self { caller: None, members: BTreeMap::new(), seen_ns: 0, nobodys_ns: 0, culprit: None }
    }
}

/// Makes [`State::capabilities`] those of the request in whose name the guest calls. What an instance serves for one
/// request at a time is left alone, without looking.
pub fn turn_to_caller<C: Capabilities>(context: &mut StoreContextMut<'_, State<C>>) -> wasmtime::Result<()> {
    let is_shared = context.data().together.as_ref().is_some_and(|together| together.members.len() > 1);
    if is_shared {
        let caller = context.async_call_stack()?.last();
        caller.into_iter().for_each(|caller| context.data_mut().turn_to(caller));
    }
    Ok(())
}

/// Gives the CPU time since the last tick to the request that the guest works on. False when that has no more.
pub(crate) fn charge<C: Capabilities>(
    context: &mut StoreContextMut<'_, State<C>>,
    used_ns: u64,
) -> wasmtime::Result<bool> {
    let state = context.data();
    if state.together.is_none() {
        return Ok(used_ns <= state.cpu_ns_max);
    }
    let caller = context.async_call_stack()?.last();
    let state = context.data_mut();
    let Some(together) = &mut state.together else { return Ok(true) };
    let since_ns = used_ns.saturating_sub(std::mem::replace(&mut together.seen_ns, used_ns));
    let Some(member) = caller.and_then(|caller| together.members.get_mut(&caller)) else {
        together.nobodys_ns += since_ns;
        return Ok(together.nobodys_ns <= state.cpu_ns_max);
    };
    member.cpu_ns += since_ns;
    let is_over = member.cpu_ns > state.cpu_ns_max;
    if is_over {
        together.culprit = Some(member.number);
    }
    Ok(!is_over)
}

impl<C: Capabilities> State<C> {
    /// From here on the instance may have several requests.
    pub(crate) fn begin_together(&mut self) {
        self.ctx(); // the first request's, before others come
        self.together = Some(Box::default());
    }

    fn turn_to(&mut self, task: GuestTaskId) {
        let Some(together) = &mut self.together else { return };
        let parked = together.members.get_mut(&task).and_then(|member| member.parked.take());
        let Some(parked) = parked else { return };
        let before = std::mem::replace(&mut self.capabilities, parked);
        together.park(before);
        together.caller = Some(task);
    }

    /// A request comes in. The first one's capabilities lie in the state already.
    fn join(&mut self, task: GuestTaskId, number: u64, capabilities: Option<C>) {
        let Some(together) = &mut self.together else { return };
        if let Some(mut capabilities) = capabilities {
            capabilities.take_over(&self.capabilities);
            let before = std::mem::replace(&mut self.capabilities, capabilities);
            together.park(before);
        }
        together.members.insert(task, Member { number, parked: None, cpu_ns: 0 });
        together.caller = Some(task);
    }

    /// All requests have ended.
    async fn part(&mut self, how: Finish) -> Option<u64> {
        self.capabilities.finish(how).await;
        let mut together = self.together.take()?;
        for member in together.members.values_mut() {
            if let Some(capabilities) = &mut member.parked {
                capabilities.finish(how).await;
            }
        }
        together.culprit
    }
}

impl<C> Together<C> {
    fn park(&mut self, capabilities: C) {
        if let Some(member) = self.caller.and_then(|caller| self.members.get_mut(&caller)) {
            member.parked = Some(capabilities);
        }
    }
}

/// A request that wants to be served.
pub(crate) struct Job<C> {
    pub(crate) request: Request<Body>,
    pub(crate) capabilities: C,
    /// For an instance, if one must be made.
    pub(crate) memory: Held,
    /// Whatever the caller wants held until the request has ended; of the first one, until its instance has.
    pub(crate) held: Arc<dyn Send + Sync>,
    pub(crate) deadline: Instant,
    pub(crate) head: Head,
}

/// What an instance still needs to know of a request that it was made or taken for.
pub(crate) struct First {
    pub(crate) request: Request<Body>,
    pub(crate) held: Arc<dyn Send + Sync>,
    pub(crate) deadline: Instant,
    pub(crate) head: Head,
}

/// Where an answer goes.
pub(crate) type Head = oneshot::Sender<Result<Response<Body>, Failure>>;

/// The doors of an app's instances that serve somebody. There are at most as many as the app may have instances.
pub(crate) struct Doors<C>(Mutex<Vec<Arc<Door<C>>>>);

impl<C> Default for Doors<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C: Capabilities> Doors<C> {
    /// Lets a request into an instance that waits, or gives it back. The same ones are filled first, so that others
    /// come to an end.
    pub(crate) fn enter(&self, job: Job<C>, limits: &RequestLimits) -> Option<Job<C>> {
        let mut job = Some(job);
        for door in self.lock().iter() {
            job = job.and_then(|job| door.enter(job, limits));
        }
        job
    }

    /// The door of one more instance.
    pub(crate) fn open(&self, served: u32, latest: Instant) -> Arc<Door<C>> {
        let door = Door::new(served, latest);
        self.lock().push(door.clone());
        door
    }

    /// Instances that would let somebody in.
    pub(crate) fn count_open(&self) -> usize {
        self.lock().iter().filter(|door| door.lock().is_open).count()
    }

    pub(crate) fn remove(&self, door: &Arc<Door<C>>) {
        self.lock().retain(|other| !Arc::ptr_eq(other, door));
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Arc<Door<C>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Where requests come into one instance while it serves others.
pub(crate) struct Door<C>(Mutex<Inside<C>>);

struct Inside<C> {
    /// The instance waits, and takes others in.
    is_open: bool,
    /// It takes nobody in any more.
    is_shut: bool,
    /// It failed: bodies that are on their way are not whole.
    has_failed: bool,
    waiting: VecDeque<Job<C>>,
    /// Who waits for an answer.
    heads: BTreeMap<u64, Head>,
    /// Answers whose bodies are on their way.
    bodies: usize,
    served: u32,
    members: usize,
    latest: Instant,
    waker: Option<Waker>,
}

impl<C: Capabilities> Door<C> {
    fn new(served: u32, latest: Instant) -> Arc<Self> {
        Arc::new(Self(Mutex::new(Inside {
            is_open: false,
            is_shut: false,
            has_failed: false,
            waiting: VecDeque::new(),
            heads: BTreeMap::new(),
            bodies: 0,
            served,
            members: 0,
            latest,
            waker: None,
        })))
    }

    /// Lets a request in, or gives it back.
    fn enter(&self, job: Job<C>, limits: &RequestLimits) -> Option<Job<C>> {
        let mut inside = self.lock();
        let here = inside.heads.len() + inside.waiting.len();
        let has_room = here < limits.concurrency_max as usize
            && inside.members + inside.waiting.len() < MEMBERS_MAX
            && (inside.served as usize) + inside.waiting.len() < limits.reuse_max as usize;
        if !inside.is_open || inside.is_shut || !has_room {
            return Some(job);
        }
        inside.is_open = false; // until it is seen to wait again
        inside.latest = inside.latest.max(job.deadline);
        inside.waiting.push_back(job);
        inside.wake();
        None
    }

    /// Who comes next. Whoever polls this is woken when somebody comes, or a body has been read.
    fn next(&self, cx: &Context<'_>) -> Option<Job<C>> {
        let mut inside = self.lock();
        inside.waker = Some(cx.waker().clone());
        inside.waiting.pop_front()
    }

    /// Says whether the instance waits, and could work on something else.
    fn set_open(&self, is_open: bool) {
        self.lock().is_open = is_open;
    }

    /// No answer's body is on its way any more.
    fn are_bodies_read(&self) -> bool {
        self.lock().bodies == 0
    }

    /// Counts a request, and keeps where its answer goes.
    pub(crate) fn admit(&self, head: Head) -> u64 {
        let mut inside = self.lock();
        inside.served += 1;
        inside.members += 1;
        let number = u64::from(inside.served);
        inside.heads.insert(number, head);
        number
    }

    fn answer(self: &Arc<Self>, number: u64, response: Response<Body>, held: Arc<dyn Send + Sync>) {
        let head = {
            let mut inside = self.lock();
            let Some(head) = inside.heads.remove(&number) else { return };
            inside.bodies += 1;
            head
        };
        let response = response.map(|body| Leaving { body, door: self.clone(), _held: held }.boxed_unsync());
        drop(head.send(Ok(response))); // the caller may have gone, and the body with it
    }

    /// The guest said that it has no answer: nobody else's business.
    fn refuse(&self, number: u64, error: GuestError) {
        let head = self.lock().heads.remove(&number);
        if let Some(head) = head {
            let _ = head.send(Err(error.into())); // the caller may have gone
        }
    }

    /// Ready when nobody waits for that answer any more.
    fn poll_abandoned(&self, number: u64, cx: &mut Context<'_>) -> Poll<()> {
        match self.lock().heads.get_mut(&number) {
            Some(head) => head.poll_closed(cx),
            None => Poll::Ready(()),
        }
    }

    /// Takes nobody in any more.
    fn close(&self) {
        self.lock().is_shut = true;
    }

    /// Takes nobody in any more, unless somebody has just come.
    fn shut_unless_wanted(&self) -> bool {
        let mut inside = self.lock();
        inside.is_shut |= inside.waiting.is_empty();
        inside.is_shut
    }

    /// Takes nobody in any more, and gives back who waits for an answer, and who was not begun.
    fn shut(&self, has_failed: bool) -> (BTreeMap<u64, Head>, VecDeque<Job<C>>) {
        let mut inside = self.lock();
        (inside.is_shut, inside.has_failed) = (true, has_failed);
        (std::mem::take(&mut inside.heads), std::mem::take(&mut inside.waiting))
    }

    /// Requests that the instance has served.
    pub(crate) fn served(&self) -> u32 {
        self.lock().served
    }

    fn latest(&self) -> Instant {
        self.lock().latest
    }

    fn lock(&self) -> MutexGuard<'_, Inside<C>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C> Inside<C> {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}

/// The body of an answer; the request has ended for its caller when this is read or dropped.
struct Leaving<C> {
    body: Body,
    door: Arc<Door<C>>,
    _held: Arc<dyn Send + Sync>,
}

impl<C> Drop for Leaving<C> {
    fn drop(&mut self) {
        let mut inside = self.door.0.lock().unwrap_or_else(PoisonError::into_inner);
        inside.bodies -= 1;
        inside.wake();
    }
}

impl<C: Capabilities> hyper::body::Body for Leaving<C> {
    type Data = Bytes;
    type Error = wasmtime_wasi_http::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let part = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match part {
            None if self.door.lock().has_failed => Some(Err(broken())),
            part => part,
        })
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer for its caller, which breaks off when its request's time is over, or its app is unloaded: the
/// instance goes on for others.
pub(crate) struct Timed<E> {
    /// None when it broke off.
    body: Option<Body>,
    end: Pin<Box<E>>,
}

impl<E: Future> Timed<E> {
    pub(crate) fn new(body: Body, end: Pin<Box<E>>) -> Self {
        Self { body: Some(body), end }
    }
}

impl<E: Future> hyper::body::Body for Timed<E> {
    type Data = Bytes;
    type Error = wasmtime_wasi_http::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else { return Poll::Ready(None) };
        if this.end.as_mut().poll(cx).is_pending() {
            return Pin::new(body).poll_frame(cx);
        }
        this.body = None; // the guest learns that nobody reads any more
        Poll::Ready(Some(Err(broken())))
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(|body| body.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(SizeHint::default, |body| body.size_hint())
    }
}

/// How an instance ended.
pub(crate) enum End {
    /// All of its requests are done. It may serve more, unless it had to leave one of them.
    Done { is_reusable: bool },
    /// It failed, and whoever was in it with it.
    Failed(wasmtime::Error),
    /// The last deadline passed.
    Late,
    /// The host must have its memory back.
    OutOfMemory,
}

/// Serves the first request, and whoever comes in through the door, until there is nothing left to do.
pub(crate) async fn serve<C: Capabilities>(
    store: &mut Store<State<C>>,
    proxy: &Proxy,
    door: &Arc<Door<C>>,
    first: First,
    must_end: impl Future<Output = ()>,
) -> End {
    let Proxy::P3(_) = proxy else { return End::Done { is_reusable: false } };
    let served = store.run_concurrent(async |accessor| attend(accessor, proxy, door, first).await);
    let late = async {
        loop {
            // What runs inside of wasmtime's loop may not be polled for long: this one is.
            let latest = door.latest();
            tokio::time::sleep_until(latest).await;
            if door.latest() == latest {
                return;
            }
        }
    };
    let mut served = std::pin::pin!(served);
    let served = std::future::poll_fn(|cx| {
        door.set_open(false);
        let polled = served.as_mut().poll(cx);
        door.set_open(polled.is_pending() && !slice::has_yielded());
        polled
    });
    tokio::select! {
        ended = served => match ended.flatten() {
            Ok(is_reusable) => End::Done { is_reusable },
            Err(error) => End::Failed(error),
        },
        () = late => End::Late,
        () = must_end => End::OutOfMemory,
    }
}

/// Inside of wasmtime's loop. Gives whether the instance may serve more.
async fn attend<C: Capabilities>(
    accessor: &Accessor<State<C>>,
    proxy: &Proxy,
    door: &Arc<Door<C>>,
    first: First,
) -> wasmtime::Result<bool> {
    let Proxy::P3(service) = proxy else { return Ok(false) };
    let handler = *service.wasi_http_handler().func_handle().func();
    let begin = |first: First, capabilities: Option<C>| {
        let First { request, held, deadline, head } = first;
        let number = door.admit(head);
        let begun = accessor.with(|mut access| -> wasmtime::Result<_> {
            let begun = Begun::new(access.as_context_mut(), service, request)?;
            access.get().join(begun.task(), number, capabilities);
            Ok(begun)
        });
        async move {
            let answer = begun?.answer(accessor, service);
            let abandoned = std::future::poll_fn(|cx| door.poll_abandoned(number, cx));
            tokio::select! {
                biased;
                answer = answer => match answer.map_err(wasmtime::Error::downcast::<NoAnswer>) {
                    Ok(answer) => door.answer(number, answer, held),
                    Err(Ok(NoAnswer(why))) => door.refuse(number, GuestError::NoResponse(why)),
                    Err(Err(error)) => return Err(error),
                },
                () = abandoned => return Ok(false),
                () = tokio::time::sleep_until(deadline) => return Ok(false),
            }
            Ok::<_, wasmtime::Error>(true)
        }
    };
    let mut calls = std::pin::pin!(FuturesUnordered::new());
    calls.push(begin(first, None));
    let mut is_left = false; // somebody's call was given up, and its task goes on
    std::future::poll_fn(|cx| {
        loop {
            match calls.as_mut().poll_next(cx) {
                Poll::Ready(Some(Ok(is_answered))) => {
                    if !is_answered {
                        is_left = true;
                        door.close(); // whoever is in already is served
                    }
                    continue;
                }
                Poll::Ready(Some(Err(error))) => return Poll::Ready(Err(error)),
                Poll::Ready(None) | Poll::Pending => {}
            }
            let next = match accessor.poll_ready_for_concurrent_call(handler, cx).is_pending() {
                true => None,
                false => door.next(cx),
            };
            if let Some(job) = next {
                let Job { request, capabilities, held, deadline, head, memory } = job;
                drop(memory); // the instance has its own
                calls.push(begin(First { request, held, deadline, head }, Some(capabilities)));
                continue;
            }
            let is_busy = !calls.is_empty()
                || match is_left {
                    true => !door.are_bodies_read(),
                    false => accessor.poll_no_interesting_tasks(cx).is_pending(),
                };
            if is_busy {
                return Poll::Pending;
            }
            if is_left || door.shut_unless_wanted() {
                return Poll::Ready(Ok(!is_left));
            }
        }
    })
    .await
}

/// Settles accounts with everybody when an instance has ended. Gives those who were not begun.
pub(crate) async fn close<C: Capabilities>(
    store: &mut Store<State<C>>,
    door: &Door<C>,
    end: &End,
    wall_ms_max: u64,
    explain: impl Fn(&wasmtime::Error) -> Failure,
) -> VecDeque<Job<C>> {
    let how = if matches!(end, End::Done { .. }) { Finish::Returned } else { Finish::Failed };
    let culprit = store.data_mut().part(how).await;
    let (heads, waiting) = door.shut(how == Finish::Failed);
    for (number, head) in heads {
        let failure = match end {
            End::Failed(error) if culprit.is_none_or(|culprit| culprit == number) => explain(error),
            End::Failed(_) => GuestError::Neighbour.into(),
            End::OutOfMemory => GuestError::HostMemory.into(),
            End::Late | End::Done { .. } => GuestError::WallDeadline(wall_ms_max).into(),
        };
        let _ = head.send(Err(failure)); // who has gone needs none
    }
    waiting
}
