//! Who runs, and where: fair CPU time for the apps of a host.
//!
//! A guest begins on the task of its connection, and most end there: waking another thread and being woken by it costs
//! as much as a small request. When its app is not owed anything while others compete, it waits there for its turn. It
//! leaves for the guests' own threads ([`task`]) when a slice is over, when it gets more memory than a single
//! instruction can go through in a few milliseconds, or when its app has had this thread for long enough ([`round`]). It begins there
//! when others compete and runs of its app are long: the next packet would wait for the end of its slice. Those
//! threads run under the network's priority, so that no guest holds up a packet. Turns are given by the fair queue ([`fair`]), to guests here and there alike: when a guests' thread is free,
//! and by the clock, because that thread may be busy for longer than a slice.
//! What an app uses, here or there, its account ([`cpu`]) is charged with; past its burst it waits, and is never ended.
//!
//! What must stay true: while nobody competes, a request pays a few atomic operations and no lock; a guest lets go of
//! its thread at the end of its slice ([`slice`]); a guest that nobody waits for any more is dropped with its store.

mod cpu;
mod fair;
mod meter;
mod payer;
mod presence;
mod round;
#[cfg(test)]
mod simulation;
pub(crate) mod slice;
mod task;
mod thread;

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

pub use cpu::{Cpu, CpuShare, Nanos, SHARE_MILLICORES_MIN};
use fair::{Advance, Fair, Next};
pub(crate) use meter::Meter;
pub use payer::Payer;
use presence::Presence;
use slice::{On, Slice};
pub use slice::{Used, give_way};
use task::{Task, Work};
use thread::GuestsThread;

/// How much lower than the network's the priority of the guests' threads is. A guest that computes then makes way for
/// a thread that has a packet to look at.
const GUEST_NICE: i32 = 10;
/// A guest that has its thread for longer than this does not count as one that runs, in milliseconds: it is in one long
/// operation, such as filling all of its memory, and a spare thread runs somebody else beside it. Longer than a slice
/// lasts when the network takes most of the core.
const OVERRUN_MS: u64 = 10;
/// Least time between two looks whether somebody who waits on a connection is owed a turn, in nanoseconds.
const LOOK_NS_MIN: Nanos = 150_000;
/// How long a guests' thread waits before it looks again whether the engine is gone, in milliseconds.
const IDLE_MS_MAX: u64 = 200;

/// The scheduler of an engine.
#[derive(Clone)]
pub struct Scheduler {
    shared: Arc<Shared>,
    /// Ends the threads with the last clone.
    _alive: Arc<()>,
}

/// What threads, tasks and connections share.
struct Shared {
    fair: Mutex<Fair<Turn>>,
    pushed: Condvar,
    /// How many guests run at once.
    cpus: usize,
    /// The guests' threads: as many spare ones as there are CPUs.
    threads: Box<[GuestsThread]>,
    /// Guests that are queued, or run elsewhere than on a connection's task. While it is 0 nobody competes.
    competing: AtomicUsize,
    /// Where a guest begins.
    begin: Begin,
    /// Whether guests are here, for their clock to know.
    guests: Presence,
    origin: Instant,
}

/// Who waits for a turn.
enum Turn {
    /// A task for the guests' threads.
    There(Arc<Task>),
    /// A guest on its connection's task, which is told what its run was charged in advance.
    Here { cpu: Arc<Cpu>, tell: oneshot::Sender<Advance> },
}

impl Turn {
    fn is_here(&self) -> bool {
        matches!(self, Self::Here { .. })
    }
}

/// Where guests begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Begin {
    /// On the task of their connection, while that is fair.
    #[default]
    Here,
    /// On the guests' threads: those that have much memory, and those that others would wait for. All of them for comparison, in
    /// benchmarks.
    There,
}

impl Scheduler {
    /// Starts threads for guests: as many as `cpus` run guests, and as many more stand by.
    pub(crate) fn start(cpus: usize, begin: Begin) -> std::io::Result<Self> {
        let scheduler = Self::with(cpus, begin);
        for number in 0..scheduler.shared.threads.len() {
            let (shared, alive) = (scheduler.shared.clone(), Arc::downgrade(&scheduler._alive));
            std::thread::Builder::new().name(format!("guests-{number}")).spawn(move || {
                // Refused nowhere: to take less is always allowed.
                let nice = rustix::process::getpriority_process(None).unwrap_or(0);
                let _ = rustix::process::setpriority_process(None, nice + GUEST_NICE);
                shared.threads[number].is_this();
                while alive.strong_count() > 0 {
                    shared.run_next(number);
                }
            })?;
        }
        Ok(scheduler)
    }

    /// For an engine that runs no guests.
    pub(crate) fn without_threads() -> Self {
        Self::with(0, Begin::default())
    }

    fn with(cpus: usize, begin: Begin) -> Self {
        let shared = Shared {
            fair: Mutex::default(),
            pushed: Condvar::new(),
            cpus,
            threads: (0..cpus * 2).map(|_| GuestsThread::default()).collect(),
            competing: AtomicUsize::new(0),
            begin,
            guests: Presence::default(),
            origin: Instant::now(),
        };
        Self { shared: Arc::new(shared), _alive: Arc::default() }
    }

    /// Runs a guest of an app to its end, which begins there, or on the guests' threads if it would be in the way. Dropping the future ends the
    /// guest.
    pub(crate) fn run<G: Future>(&self, meter: Arc<Meter>, begin: Begin, guest: G) -> Scheduled<G> {
        self.shared.guests.enter();
        let is_in_the_way = self.competing() > 0 && meter.cpu.runs_long();
        let begin = if is_in_the_way || self.shared.begin == Begin::There { Begin::There } else { begin };
        Scheduled { shared: self.shared.clone(), meter, begin, at: At::Here(guest), turn: None }
    }

    /// Runs `work` of the host. Whom it was for is charged with what it took: [`Scheduler::charge`].
    pub fn measured(&self, work: &mut dyn FnMut()) -> Used {
        let slice = Slice::begin(Instant::now(), On::Connection);
        work();
        slice.end()
    }

    /// Charges an app.
    pub fn charge(&self, cpu: &Arc<Cpu>, used: &Used) {
        self.shared.charge(cpu, used);
    }

    /// Gives turns to guests that wait on connections, and wakes a spare thread where a guest overruns: to be called at every
    /// tick of the guests' clock, and in between after the time that this says.
    pub(crate) fn look(&self) -> Option<Duration> {
        let running = self.shared.running();
        if self.competing() <= running {
            return None; // nobody waits
        }
        self.shared.foresee();
        while self.shared.give_turns_here() {}
        if self.shared.free_cpus() > 0 {
            self.shared.pushed.notify_one();
        }
        let owed = self.shared.fair().until_owed(Turn::is_here)?;
        Some(Duration::from_nanos((owed / running.max(1) as u64).max(LOOK_NS_MIN)))
    }

    /// Whether guests are here.
    pub(crate) fn has_guests(&self) -> bool {
        self.shared.guests.has_guests()
    }

    /// Holds up the clock's thread until a guest comes, or until so much time has gone. Says whether one came.
    pub(crate) fn wait_for_guests(&self, most: Duration) -> bool {
        self.shared.guests.wait(most)
    }

    /// Guests that wait for a CPU or have one of the guests' threads.
    pub fn competing(&self) -> usize {
        self.shared.competing.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn now(&self) -> Nanos {
        self.at(Instant::now())
    }

    fn at(&self, time: Instant) -> Nanos {
        u64::try_from(time.saturating_duration_since(self.origin).as_nanos()).unwrap_or(u64::MAX)
    }

    fn fair(&self) -> std::sync::MutexGuard<'_, Fair<Turn>> {
        self.fair.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a guest may run where its connection is, now.
    fn may_run_here(&self, cpu: &Arc<Cpu>, now: Nanos) -> bool {
        if cpu.ready_at(now).is_some() {
            return false;
        }
        if self.competing.load(Ordering::Relaxed) == 0 {
            return true;
        }
        self.give_to_others_of(cpu); // who came before goes before
        let fair = self.fair();
        fair.may_overtake(cpu, now, Turn::is_here) || (self.free_cpus() > 0 && fair.is_idle())
    }

    /// Charges what ran elsewhere than on the guests' threads.
    fn charge(&self, cpu: &Arc<Cpu>, used: &Used) {
        let now = self.at(used.at);
        cpu.spend(used.ns, now);
        if self.competing.load(Ordering::Relaxed) > 0 {
            self.fair().charge(cpu, used.ns, now);
        }
    }

    fn push(&self, cpu: &Arc<Cpu>, turn: Turn) {
        self.competing.fetch_add(1, Ordering::Relaxed);
        self.fair().push(cpu, turn, self.now());
        if self.free_cpus() > 0 {
            self.pushed.notify_one();
        } // else whoever lets go of one looks
    }

    /// Gives turns to guests that wait on their connections, of the app that is owed one first.
    fn give_turns_here(&self) -> bool {
        let next = self.fair().next_if(self.now(), Turn::is_here);
        match next {
            Next::Run(Turn::Here { cpu, tell }, advance) => self.give(&cpu, tell, advance),
            Next::Run(Turn::There(_), _) | Next::Wait(_) => return false,
        }
        true
    }

    /// Gives a turn to a guest that waits on its connection, and to others of its app that do.
    fn give(&self, cpu: &Arc<Cpu>, tell: oneshot::Sender<Advance>, advance: Advance) {
        self.tell(cpu, tell, advance);
        self.give_to_others_of(cpu);
    }

    /// Gives turns to guests of an app that wait on their connections, as far as it may run now.
    fn give_to_others_of(&self, cpu: &Arc<Cpu>) {
        loop {
            let another = self.fair().another_of(cpu, self.now(), Turn::is_here);
            let Some((Turn::Here { tell, .. }, advance)) = another else { return };
            self.tell(cpu, tell, advance);
        }
    }

    fn tell(&self, cpu: &Arc<Cpu>, tell: oneshot::Sender<Advance>, advance: Advance) {
        if let Err(advance) = tell.send(advance) {
            self.ran_here(cpu, advance, 0); // it has gone
        }
    }

    /// Threads that run a guest.
    fn running(&self) -> usize {
        self.threads.iter().filter(|thread| thread.since().is_some()).count()
    }

    /// Lets virtual time go on for what guests that run now have used since the last look.
    fn foresee(&self) {
        let mut fair = self.fair();
        let used = self.threads.iter().map(GuestsThread::foresee).sum();
        fair.advance(used);
    }

    /// A guest had a turn on its connection's task.
    fn ran_here(&self, cpu: &Arc<Cpu>, advance: Advance, used: Nanos) {
        self.competing.fetch_sub(1, Ordering::Relaxed);
        self.fair().ran(cpu, advance, used, 0, self.now());
    }

    /// How many more guests may run now. Those that overrun do not count.
    fn free_cpus(&self) -> usize {
        let overrun = Duration::from_millis(OVERRUN_MS);
        let late = self.now().saturating_sub(u64::try_from(overrun.as_nanos()).unwrap_or(u64::MAX));
        let counts = |thread: &&GuestsThread| thread.since().is_some_and(|since| since > late);
        self.cpus.saturating_sub(self.threads.iter().filter(counts).count())
    }

    /// Runs a guest for a slice on thread `number`, or waits until there may be one.
    fn run_next(&self, number: usize) {
        let mut fair = self.fair();
        let now = self.now();
        let next = match self.free_cpus() {
            0 => fair.next_if(now, Turn::is_here),
            _ => fair.next(now),
        };
        match next {
            Next::Run(Turn::There(task), advance) => {
                self.threads[number].begin(now);
                drop(fair);
                task.run(self, number, advance);
            }
            Next::Run(Turn::Here { cpu, tell }, advance) => {
                drop(fair);
                self.give(&cpu, tell, advance);
            }
            Next::Wait(until) => {
                let idle = Duration::from_millis(IDLE_MS_MAX);
                let wait =
                    until.map_or(idle, |until| Duration::from_nanos(until.saturating_sub(now)).min(idle));
                drop(self.pushed.wait_timeout(fair, wait).unwrap_or_else(PoisonError::into_inner));
            }
        }
    }

    fn ran(&self, number: usize, task: &Arc<Task>, advance: Advance, used: Nanos, again: bool) {
        let (now, cpu) = (self.now(), &task.meter.cpu);
        task.meter.add(used);
        let mut fair = self.fair();
        let foreseen = self.threads[number].end();
        if again {
            fair.push(cpu, Turn::There(task.clone()), now);
        } else {
            self.competing.fetch_sub(1, Ordering::Relaxed);
        }
        fair.ran(cpu, advance, used, foreseen, now);
    }
}

/// A guest on its way. See [`Scheduler::run`].
pub(crate) struct Scheduled<G: Future> {
    shared: Arc<Shared>,
    meter: Arc<Meter>,
    begin: Begin,
    at: At<G>,
    /// While the guest waits for its turn here.
    turn: Option<oneshot::Receiver<Advance>>,
}

enum At<G: Future> {
    /// With whoever polls this.
    Here(G),
    /// On the guests' threads.
    There {
        task: Arc<Task>,
        ended: oneshot::Receiver<G::Output>,
    },
    Gone,
}

/// The guest ended without saying how: it panicked.
#[derive(Debug)]
pub(crate) struct Lost;

impl<G: Future + Send + Unpin + 'static> Future for Scheduled<G>
where
    G::Output: Send + 'static,
{
    type Output = Result<G::Output, Lost>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        if let At::Here(_) = this.at {
            let now = Instant::now();
            let goes = this.begin == Begin::There || round::is_full(&this.meter.cpu);
            let advance = match this.turn {
                None if goes => None, // it waits where it goes
                _ => ready!(this.poll_turn(now, cx)),
            };
            if goes {
                this.give_back(advance);
            } else if let Some(polled) = this.run_here(now, advance, cx) {
                return polled;
            }
            this.leave();
        }
        match &mut this.at {
            At::There { ended, .. } => Pin::new(ended).poll(cx).map_err(|_| Lost),
            At::Here(_) | At::Gone => Poll::Ready(Err(Lost)),
        }
    }
}

impl<G: Future + Send + Unpin + 'static> Scheduled<G>
where
    G::Output: Send + 'static,
{
    /// Waits until the guest may run where it is. Gives what its run was charged in advance, if it had to wait.
    fn poll_turn(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<Option<Advance>> {
        let (shared, cpu) = (&self.shared, &self.meter.cpu);
        if self.turn.is_none() {
            if shared.may_run_here(cpu, shared.at(now)) {
                return Poll::Ready(None);
            }
            let (tell, turn) = oneshot::channel();
            self.turn = Some(turn);
            shared.push(cpu, Turn::Here { cpu: cpu.clone(), tell });
        }
        let Some(turn) = &mut self.turn else { return Poll::Ready(None) };
        let given = ready!(Pin::new(turn).poll(cx));
        self.turn = None;
        Poll::Ready(given.ok())
    }

    /// For a guest that was given a turn, and goes because its app has had this thread for long enough meanwhile.
    fn give_back(&self, advance: Option<Advance>) {
        if let Some(advance) = advance {
            self.shared.ran_here(&self.meter.cpu, advance, 0);
        }
    }

    /// Runs the guest for a slice. None when it must leave.
    fn run_here(
        &mut self,
        now: Instant,
        advance: Option<Advance>,
        cx: &mut Context<'_>,
    ) -> Option<Poll<Result<G::Output, Lost>>> {
        let At::Here(guest) = &mut self.at else { return None };
        let slice = Slice::begin(now, On::Connection);
        let polled = std::panic::catch_unwind(AssertUnwindSafe(|| Pin::new(guest).poll(cx)));
        let polled = polled.map_or(Poll::Ready(Err(Lost)), |polled| polled.map(Ok));
        let used = slice.end();
        self.meter.add(used.ns);
        round::add(&self.meter.cpu, used.ns);
        match advance {
            Some(advance) => self.shared.ran_here(&self.meter.cpu, advance, used.ns),
            None => self.shared.charge(&self.meter.cpu, &used),
        }
        (polled.is_ready() || !used.yielded).then_some(polled)
    }

    /// Moves the guest to the guests' threads.
    fn leave(&mut self) {
        let At::Here(guest) = std::mem::replace(&mut self.at, At::Gone) else { return };
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        let (tell, ended) = oneshot::channel();
        let work: Work = Box::pin(async move {
            let _ = tell.send(guest.await); // nobody listens when the caller went away
        });
        let task = Task::new(self.meter.clone(), work, runtime, &self.shared);
        self.at = At::There { task: task.clone(), ended };
        std::task::Wake::wake(task);
    }
}

impl<G: Future> Drop for Scheduled<G> {
    fn drop(&mut self) {
        self.shared.guests.leave();
        if let At::There { task, .. } = &self.at {
            task.cancel();
        }
        if let Some(mut turn) = self.turn.take() {
            turn.close();
            if let Ok(advance) = turn.try_recv() {
                self.shared.ran_here(&self.meter.cpu, advance, 0); // it was given a turn, and does not want it
            } // else whoever gives it learns that nobody is there
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One thread of the network, on which an app has two hundred requests of nearly a slice, and another app one that came after
    /// them.
    #[tokio::test]
    async fn many_runs_below_a_slice_do_not_hold_up_another_app() {
        const RUN_NS: Nanos = 700_000;
        let scheduler = Scheduler::start(1, Begin::Here).unwrap();
        let network = std::thread::current().id();
        let before = Arc::new(AtomicUsize::new(0));
        let app = || Arc::new(Cpu::new(CpuShare { millicores: 1_000, burst_ms: None }));
        let (busy, other) = (app(), app());
        let many: Vec<_> = (0..200)
            .map(|_| {
                let (before, meter) = (before.clone(), Arc::new(Meter::new(busy.clone())));
                let guest = Box::pin(async move {
                    slice::tests::work(RUN_NS);
                    before.fetch_add(usize::from(std::thread::current().id() == network), Ordering::Relaxed);
                });
                tokio::spawn(scheduler.run(meter, Begin::Here, guest))
            })
            .collect();
        let came_after = {
            let before = before.clone();
            let guest = Box::pin(async move { before.load(Ordering::Relaxed) });
            tokio::spawn(scheduler.run(Arc::new(Meter::new(other)), Begin::Here, guest))
        };
        let came_after = came_after.await.unwrap().unwrap();
        assert!(came_after <= 4, "{came_after} runs came first on the network's thread");
        for one in many {
            one.await.unwrap().unwrap();
        }
    }

    /// One thread of the network, and an app that always runs on the guests' thread, so that somebody competes.
    #[tokio::test]
    async fn long_runs_are_not_in_the_way_of_the_network_while_others_compete() {
        let scheduler = Scheduler::start(1, Begin::Here).unwrap();
        let network = std::thread::current().id();
        let begins_here = async |expected_ns| {
            let cpu = Arc::new(Cpu::new(CpuShare { millicores: 1_000, burst_ms: None }));
            cpu.expected_ns.store(expected_ns, Ordering::Relaxed);
            let guest = Box::pin(async { std::thread::current().id() });
            let thread = scheduler.run(Arc::new(Meter::new(cpu)), Begin::Here, guest).await.unwrap();
            thread == network
        };
        assert!(begins_here(1_000_000).await, "nobody competes");

        let stop = Arc::new(std::sync::atomic::AtomicBool::new(false));
        let rival = {
            let stop = stop.clone();
            let cpu = Arc::new(Cpu::new(CpuShare { millicores: 1_000, burst_ms: None }));
            let guest = Box::pin(async move {
                while !stop.load(Ordering::Relaxed) {
                    give_way().await;
                }
            });
            tokio::spawn(scheduler.run(Arc::new(Meter::new(cpu)), Begin::There, guest))
        };
        while scheduler.competing() == 0 {
            tokio::task::yield_now().await;
        }
        assert!(!begins_here(1_000_000).await);
        assert!(begins_here(50_000).await, "short runs go on where they are");
        stop.store(true, Ordering::Relaxed);
        rival.await.unwrap().unwrap();
    }

    #[tokio::test]
    async fn a_guest_that_panics_leaves_nothing_behind() {
        let scheduler = Scheduler::start(1, Begin::Here).unwrap();
        let cpu = Arc::new(Cpu::new(CpuShare { millicores: 1_000, burst_ms: Some(1) }));
        for used in [0, 20_000_000] {
            cpu.spend(used, scheduler.shared.now()); // past its burst it has to wait for its turn first
            let guest = Box::pin(async { panic!("on purpose") });
            let ended: Result<(), Lost> =
                scheduler.run(Arc::new(Meter::new(cpu.clone())), Begin::Here, guest).await;
            assert!(ended.is_err());
            assert_eq!(slice::tick().used, 0, "after {used} ns");
            // To print a backtrace may have taken its share of this thread; then it panicked on another one, which tidies up after it told.
            let nobody = async {
                while scheduler.competing() > 0 {
                    tokio::task::yield_now().await
                }
            };
            assert!(tokio::time::timeout(Duration::from_secs(10), nobody).await.is_ok(), "after {used} ns");
        }
    }
}
