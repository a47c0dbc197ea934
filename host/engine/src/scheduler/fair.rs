//! Which app runs next: worst-case fair weighted fair queueing (WF2Q+; Bennett and Zhang, "Hierarchical Packet Fair
//! Queueing Algorithms", 1997), with slices of CPU time where the paper has packets.
//!
//! Virtual time goes as fast as every competing app gets on if all get their share. An app has a start tag, the
//! virtual time up to which it has had its share, and is *eligible* when that lies behind: it is owed something. Of the
//! eligible apps the one whose next run would end first, at its rate, goes first. So an app never gets ahead of its
//! share by more than a run, and one with short runs is not held up by many with long ones: it waits for the slices
//! that run now, not for one of every competitor.
//!
//! Plain data: no clock, no thread, no lock. What must stay true: an app's guests run in the order in which they came;
//! somebody runs whenever anybody may; a sleeping app saves up a moment of its share at most.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::cpu::{Cpu, Nanos, at_rate};

/// How long guests that wait may be overtaken by others of their app, in nanoseconds.
const OVERTAKEN_NS_MAX: Nanos = 2_000_000;
/// The same, while no other app competes: waiting then costs nobody else anything.
const OVERTAKEN_ALONE_NS_MAX: Nanos = 20_000_000;

/// CPU time by which an app may be ahead of its share and still begin without being queued, in nanoseconds: what others
/// have in slices it has in many short runs, and few wake-ups.
const AHEAD_NS_MAX: Nanos = 150_000;
/// CPU time of its share that an app is still owed when it comes back, in nanoseconds. One that asks again as soon as it is answered is
/// away for moments only, and would lose in each of them what it was owed.
const BEHIND_NS_MAX: Nanos = 150_000;

/// Apps that are looked at for something that is wanted, in the order in which they would be next.
const LOOK_AT_MAX: usize = 64;

/// How long an app that is past its burst waits before it is looked at again, in nanoseconds: its share may have been raised meanwhile.
const THROTTLED_NS_MAX: Nanos = 1_000_000_000;

/// Virtual time, in nanoseconds of an app that has a whole core.
type Virtual = u64;
/// Names an account for as long as it is here.
type FlowId = usize;

/// What a run was charged before it began, in virtual time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Advance(Virtual);

/// What [`Fair::next`] says.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next<T> {
    /// Run this; afterwards call [`Fair::ran`] with what was charged in advance.
    Run(T, Advance),
    /// Nothing may run before that time, or before something is pushed.
    Wait(Option<Nanos>),
}

/// The queue of all apps that want to run.
pub(super) struct Fair<T> {
    flows: HashMap<FlowId, Flow<T>>,
    /// Owed something, by finish tag.
    eligible: BTreeSet<(Virtual, FlowId)>,
    /// Ahead of their share, by start tag.
    early: BTreeSet<(Virtual, FlowId)>,
    /// Past their burst, by the time when they may go on, or are looked at again.
    throttled: BTreeSet<(Nanos, FlowId)>,
    /// Nothing of them waits, and something runs; by start tag.
    running: BTreeSet<(Virtual, FlowId)>,
    /// Nothing of them waits or runs, and they are ahead of their share; by start tag. They still compete, so that virtual
    /// time goes as slowly as it must for those that come and go with every request.
    lingering: BTreeSet<(Virtual, FlowId)>,
    virtual_now: Virtual,
    /// Weights of all flows.
    weight: u64,
}

/// An app that waits or runs.
struct Flow<T> {
    cpu: Arc<Cpu>,
    /// With the times since when they wait.
    waiting: VecDeque<(T, Nanos)>,
    running: u32,
    place: Place,
    /// The weight that was counted for it.
    weight: u32,
}

#[derive(Clone, Copy)]
enum Place {
    Nowhere,
    Running(Virtual),
    Lingering(Virtual),
    Eligible(Virtual),
    Early(Virtual),
    Throttled { until: Nanos, since: Nanos },
}

impl<T> Flow<T> {
    /// 1 if it waits or runs, else 0.
    fn is_busy(&self) -> usize {
        usize::from(self.running > 0 || !self.waiting.is_empty())
    }
}

impl<T> Default for Fair<T> {
    fn default() -> Self {
        Self {
            flows: HashMap::new(),
            eligible: BTreeSet::new(),
            early: BTreeSet::new(),
            throttled: BTreeSet::new(),
            running: BTreeSet::new(),
            lingering: BTreeSet::new(),
            virtual_now: 0,
            weight: 0,
        }
    }
}

impl<T> Fair<T> {
    /// Queues a guest behind those of its app.
    pub(super) fn push(&mut self, cpu: &Arc<Cpu>, item: T, now: Nanos) {
        let id = id_of(cpu);
        let flow = self.enter(cpu);
        flow.waiting.push_back((item, now));
        if flow.waiting.len() == 1 {
            self.settle(id, now);
        }
    }

    /// The flow of an app, which competes from now on.
    fn enter(&mut self, cpu: &Arc<Cpu>) -> &mut Flow<T> {
        self.flows.entry(id_of(cpu)).or_insert_with(|| {
            let weight = cpu.weight();
            self.weight += u64::from(weight);
            let least = self.virtual_now.saturating_sub(at_rate(BEHIND_NS_MAX, weight));
            cpu.start.fetch_max(least, Relaxed); // sleeping saves up no more
            let waiting = VecDeque::new();
            Flow { cpu: cpu.clone(), waiting, running: 0, place: Place::Nowhere, weight }
        })
    }

    /// Takes what should run now, on a thread that is free.
    pub(super) fn next(&mut self, now: Nanos) -> Next<T> {
        self.end_throttling(now);
        if self.eligible.is_empty()
            && let Some(&(start, _)) = self.early.first()
        {
            self.virtual_now = self.virtual_now.max(start); // somebody runs whenever anybody may
        }
        self.pick(now, |_| true)
    }

    /// Takes what is owed a run and wanted, while others run: there is no thread for the rest.
    pub(super) fn next_if(&mut self, now: Nanos, is_wanted: impl Fn(&T) -> bool) -> Next<T> {
        self.end_throttling(now);
        self.pick(now, is_wanted)
    }

    fn pick(&mut self, now: Nanos, is_wanted: impl Fn(&T) -> bool) -> Next<T> {
        while let Some(&(start, id)) = self.early.first()
            && start <= self.virtual_now
        {
            self.settle(id, now);
        }
        let Some((_, id)) = self.first_wanted(&self.eligible, is_wanted) else {
            return Next::Wait(self.throttled.first().map(|&(until, _)| until));
        };
        match self.take(id, now) {
            Some((item, advance)) => Next::Run(item, advance),
            None => Next::Wait(None),
        }
    }

    fn end_throttling(&mut self, now: Nanos) {
        while let Some(&(until, id)) = self.throttled.first()
            && until <= now
        {
            self.settle(id, now);
        }
    }

    /// Takes one more guest of an app that is about to run, if it is wanted and the app stays as little ahead of
    /// its share as one that begins without being queued: several short runs at once cost fewer wake-ups than one by one.
    pub(super) fn another_of(
        &mut self,
        cpu: &Arc<Cpu>,
        now: Nanos,
        is_wanted: impl Fn(&T) -> bool,
    ) -> Option<(T, Advance)> {
        let id = id_of(cpu);
        let (next, _) = self.flows.get(&id)?.waiting.front()?;
        let may_go = is_wanted(next) && cpu.ready_at(now).is_none() && self.is_next(cpu);
        if may_go { self.take(id, now) } else { None }
    }

    fn take(&mut self, id: FlowId, now: Nanos) -> Option<(T, Advance)> {
        let flow = self.flows.get_mut(&id)?;
        let (item, _) = flow.waiting.pop_front()?;
        flow.running += 1;
        // Charged in advance, because another guest of the app may be asked for before this one has ended.
        let advance = at_rate(flow.cpu.expected_ns.load(Relaxed), flow.weight);
        flow.cpu.start.fetch_add(advance, Relaxed);
        self.settle(id, now);
        Some((item, Advance(advance)))
    }

    /// Lets virtual time go on for what guests used, also before their runs have ended, so that others get their turn meanwhile.
    pub(super) fn advance(&mut self, used: Nanos) {
        self.virtual_now += used.saturating_mul(1_000) / self.weight.max(1);
    }

    /// CPU time of others after which the first app that is wanted and ahead of its share is owed something again.
    pub(super) fn until_owed(&self, is_wanted: impl Fn(&T) -> bool) -> Option<Nanos> {
        let (start, _) = self.first_wanted(&self.early, is_wanted)?;
        Some(start.saturating_sub(self.virtual_now).saturating_mul(self.weight) / 1_000)
    }

    fn first_wanted(
        &self,
        set: &BTreeSet<(Virtual, FlowId)>,
        is_wanted: impl Fn(&T) -> bool,
    ) -> Option<(Virtual, FlowId)> {
        let front = |id: &FlowId| self.flows.get(id).and_then(|flow| flow.waiting.front());
        let mut looked_at = set.iter().take(LOOK_AT_MAX);
        looked_at.find(|(_, id)| front(id).is_some_and(|(item, _)| is_wanted(item))).copied()
    }

    /// Whether no guest waits that might run now.
    pub(super) fn is_idle(&self) -> bool {
        self.eligible.is_empty() && self.early.is_empty()
    }

    /// A guest that [`Fair::next`] gave has run for so long, and virtual time has gone on for `foreseen` of that. When it wants to
    /// go on, it is pushed first.
    pub(super) fn ran(&mut self, cpu: &Arc<Cpu>, advance: Advance, used: Nanos, foreseen: Nanos, now: Nanos) {
        let id = id_of(cpu);
        cpu.spend(used, now);
        let Some(flow) = self.flows.get_mut(&id) else { return };
        flow.running -= 1;
        let start = cpu.start.load(Relaxed).saturating_sub(advance.0);
        let start = start.saturating_add(at_rate(used, flow.weight));
        cpu.start.store(start, Relaxed);
        self.advance(used.saturating_sub(foreseen));
        cpu.expect(used);
        self.settle(id, now);
        self.let_go(now);
    }

    /// Counts CPU time that an app used without having been queued. Of use only while others compete.
    pub(super) fn charge(&mut self, cpu: &Arc<Cpu>, used: Nanos, now: Nanos) {
        let weight = self.enter(cpu).weight;
        cpu.start.fetch_add(at_rate(used, weight), Relaxed);
        self.advance(used);
        self.settle(id_of(cpu), now);
        self.let_go(now);
    }

    /// Apps that linger and have been paid for compete no longer.
    fn let_go(&mut self, now: Nanos) {
        while let Some(&(start, id)) = self.lingering.first()
            && start <= self.virtual_now
        {
            self.settle(id, now);
        }
    }

    /// Whether a guest may run at once, without being queued: its app would be next. An app may overtake itself for a
    /// while, its short guests its long ones, which saves two wake-ups each; for longer when nobody competes with it. Not those
    /// that are `kept`: who waits there is as short, and would wait for all that come meanwhile.
    pub(super) fn may_overtake(&self, cpu: &Arc<Cpu>, now: Nanos, is_kept: impl Fn(&T) -> bool) -> bool {
        let (mut alone, mut waits) = (false, 0);
        if let Some(own) = self.flows.get(&id_of(cpu)) {
            let first = own.waiting.front();
            if first.is_some_and(|(first, _)| is_kept(first)) {
                return false;
            }
            alone = self.flows.len() == self.lingering.len() + own.is_busy();
            waits = first.map_or(0, |&(_, since)| now.saturating_sub(since));
        }
        if alone {
            return waits < OVERTAKEN_ALONE_NS_MAX;
        }
        waits < OVERTAKEN_NS_MAX && self.is_next(cpu)
    }

    /// Whether an app is owed something, or nobody is and it is the least ahead; give or take a little.
    fn is_next(&self, cpu: &Cpu) -> bool {
        let start = lenient_start(cpu);
        start <= self.virtual_now || (self.eligible.is_empty() && start <= self.least_ahead())
    }

    /// The earliest start tag of the apps that are ahead of their share. When nobody is owed anything, it is their turn.
    fn least_ahead(&self) -> Virtual {
        let first = |set: &BTreeSet<(Virtual, FlowId)>| set.first().map_or(Virtual::MAX, |&(start, _)| start);
        first(&self.early).min(first(&self.running))
    }

    /// Puts an app into the set where it belongs.
    fn settle(&mut self, id: FlowId, now: Nanos) {
        self.unplace(id, now);
        let Some(flow) = self.flows.get_mut(&id) else { return };
        let weight = flow.cpu.weight(); // the share may have been changed meanwhile
        self.weight = self.weight - u64::from(flow.weight) + u64::from(weight);
        flow.weight = weight;
        let start = flow.cpu.start.load(Relaxed);
        flow.place = if flow.waiting.is_empty() && flow.running == 0 {
            if start <= self.virtual_now {
                self.weight -= u64::from(weight);
                self.flows.remove(&id);
                return;
            }
            self.lingering.insert((start, id));
            Place::Lingering(start)
        } else if flow.waiting.is_empty() {
            self.running.insert((start, id));
            Place::Running(start)
        } else if let Some(until) = flow.cpu.ready_at(now) {
            let until = until.min(now + THROTTLED_NS_MAX);
            self.throttled.insert((until, id));
            Place::Throttled { until, since: now }
        } else if start <= self.virtual_now {
            let finish = start + at_rate(flow.cpu.expected_ns.load(Relaxed), flow.weight);
            self.eligible.insert((finish, id));
            Place::Eligible(finish)
        } else {
            self.early.insert((start, id));
            Place::Early(start)
        };
    }

    fn unplace(&mut self, id: FlowId, now: Nanos) {
        let Some(flow) = self.flows.get_mut(&id) else { return };
        match std::mem::replace(&mut flow.place, Place::Nowhere) {
            Place::Nowhere => {}
            Place::Running(start) => drop(self.running.remove(&(start, id))),
            Place::Lingering(start) => drop(self.lingering.remove(&(start, id))),
            Place::Eligible(finish) => drop(self.eligible.remove(&(finish, id))),
            Place::Early(start) => drop(self.early.remove(&(start, id))),
            Place::Throttled { until, since } => {
                flow.cpu.note_throttled(now.saturating_sub(since));
                self.throttled.remove(&(until, id));
            }
        }
    }
}

/// The start tag of an app, less what it may be ahead by.
fn lenient_start(cpu: &Cpu) -> Virtual {
    cpu.start.load(Relaxed).saturating_sub(at_rate(AHEAD_NS_MAX, cpu.weight()))
}

/// Accounts are told apart by where they lie: a flow holds its account, so the place stays taken.
fn id_of(cpu: &Arc<Cpu>) -> FlowId {
    Arc::as_ptr(cpu) as usize
}
