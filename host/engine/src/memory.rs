//! What one app may hold of a host's memory, over all its instances, and what it holds.
//!
//! Counted are linear memories and tables, and what the host holds on a guest's behalf: a part for each instance
//! (its stack, its buffers), what host functions say (rows of a result), and messages it makes. What is held is given back when its
//! [`Held`] is dropped, whatever way that came.
//!
//! What all apps together may get, and must give back, is told by whoever looks at the host, now and then ([`HostMemory`],
//! [`end_largest`]).
//!
//! What must stay true: the sum of an app never exceeds its budget; whoever waits for room is woken when there is some; nobody is
//! refused for the sake of instances that wait for another request; where
//! memory is called in, it is from whoever holds most of it, in however many instances.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, oneshot};

use crate::places::Keeper;

/// The memory of one app on one host.
#[derive(Debug)]
pub struct Memory {
    bytes: AtomicU64,
    bytes_max: AtomicU64,
    /// Who waits for room.
    waiting: AtomicUsize,
    queue: Mutex<VecDeque<Waiter>>,
    ending: Ending,
    /// Who keeps instances that wait for another request, of each revision.
    keepers: Mutex<Vec<Weak<dyn Keeper>>>,
}

impl Memory {
    /// A budget of which nothing is used.
    pub fn new(bytes_max: u64) -> Arc<Self> {
        Arc::new(Self {
            bytes: AtomicU64::new(0),
            bytes_max: AtomicU64::new(bytes_max),
            waiting: AtomicUsize::new(0),
            queue: Mutex::default(),
            ending: Ending::default(),
            keepers: Mutex::default(),
        })
    }

    /// Somebody keeps instances that this pays for, and that end before anything is refused.
    pub(crate) fn add_keeper(&self, keeper: Weak<dyn Keeper>) {
        self.keepers().push(keeper);
    }

    /// Forgets keepers that are gone.
    pub(crate) fn tidy_keepers(&self) {
        self.keepers().retain(|keeper| keeper.strong_count() > 0);
    }

    fn keepers(&self) -> MutexGuard<'_, Vec<Weak<dyn Keeper>>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends an instance that waits for another request, if there is one.
    fn end_one(&self) -> bool {
        let keepers: Vec<_> = self.keepers().iter().filter_map(Weak::upgrade).collect();
        let ended = keepers.iter().find_map(|keeper| keeper.let_go());
        ended.is_some()
    }

    /// Which of its instances are to end.
    pub(crate) fn ending(&self) -> &Ending {
        &self.ending
    }

    /// Another budget from now on. What is held stays held.
    pub fn set_max(self: &Arc<Self>, bytes_max: u64) {
        self.bytes_max.store(bytes_max, Ordering::SeqCst);
        while self.is_wanted() && self.end_one() {} // who waits for more than there was to have did not ask these
        self.hand_on();
    }

    /// Bytes held now.
    pub fn held(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// The budget, in bytes.
    pub fn max(&self) -> u64 {
        self.bytes_max.load(Ordering::Relaxed)
    }

    /// Takes so many bytes, if there is room.
    pub fn try_take(self: &Arc<Self>, bytes: u64) -> Option<Held> {
        let mut held = Held { memory: self.clone(), bytes: 0 };
        held.grow(bytes).then_some(held)
    }

    /// Whether somebody waits for room: what is kept for later should be given back.
    pub fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) > 0
    }

    /// Takes so many bytes as soon as there is room. Whoever waits bounds how long.
    pub async fn take(self: &Arc<Self>, bytes: u64) -> Held {
        let _waiting = Waiting::begin(&self.waiting); // from here on whoever gives something back looks at the queue
        loop {
            if let Some(held) = self.try_take(bytes) {
                return held;
            }
            let mut leaves = Leaves(Some(self)); // when `told` is gone
            let (tell, told) = oneshot::channel();
            let mut held = Held { memory: self.clone(), bytes: 0 };
            {
                let mut queue = self.queue();
                if held.grow_in(bytes) {
                    return held;
                }
                queue.push_back(Waiter { bytes, tell });
            }
            if let Ok(held) = told.await {
                leaves.0 = None; // who was told is in the queue no more
                return held;
            }
        }
    }

    /// Gives what is free to whoever has waited for longest and can do with it.
    fn hand_on(self: &Arc<Self>) {
        while self.is_wanted() {
            let mut held = Held { memory: self.clone(), bytes: 0 };
            let mut queue = self.queue();
            let room = self.max().saturating_sub(self.held());
            let fits =
                |next: &Waiter| next.bytes <= room && !next.tell.is_closed() && held.grow_in(next.bytes);
            let next = queue.iter().position(fits);
            let Some(next) = next.and_then(|next| queue.remove(next)) else { return };
            drop(queue); // whoever has gone meanwhile gives it back
            let _ = next.tell.send(held);
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Waiter>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Somebody who waits for room.
#[derive(Debug)]
struct Waiter {
    bytes: u64,
    tell: oneshot::Sender<Held>,
}

/// Takes those out of the queue who gave up.
struct Leaves<'m>(Option<&'m Memory>);

impl Drop for Leaves<'_> {
    fn drop(&mut self) {
        if let Some(memory) = self.0 {
            memory.queue().retain(|waiter| !waiter.tell.is_closed());
        }
    }
}

/// Calls in so many bytes, instead of those that were called in before: the largest instances end, of the app that holds most, and of the
/// next one when it holds less than that. When what it was to give back last time is not all there, it is the turn of the
/// next one, too: its instances are in an operation that nothing interrupts.
pub fn end_largest(mut apps: Vec<Arc<Memory>>, bytes: u64) {
    apps.sort_by_cached_key(|app| std::cmp::Reverse(app.held()));
    let mut left = bytes;
    for app in apps {
        let held = app.held();
        if app.ending.call_in(left.min(held), held) {
            left = left.saturating_sub(held);
        }
    }
}

/// The instances of an app by size, and those that are to end. What an instance has got it may fill later, when the host has none left; so
/// it is known how many are how large, and the largest can be ended.
#[derive(Debug)]
pub(crate) struct Ending {
    /// What instances of each size have, in bytes; nobody counts small ones.
    of_size: [AtomicU64; SIZES],
    /// From this size on instances are to end.
    from: AtomicUsize,
    /// Until they have given back so many bytes.
    bytes: AtomicU64,
    /// Or until the app holds no more than this, in bytes: others of its instances may have ended by themselves.
    held: AtomicU64,
    /// Tells those that wait, and do not ask.
    told: Notify,
}

/// Instances with less are small, in bytes.
const LARGE_BYTES_MIN: u64 = 4 << 20;
/// Sizes that are told apart: small ones, and from [`LARGE_BYTES_MIN`] on each twice the one before.
const SIZES: usize = 9;

/// The size of an instance with so many bytes.
fn size_of(bytes: u64) -> usize {
    let doubled = (bytes / LARGE_BYTES_MIN).checked_ilog2().map_or(0, |log| log as usize + 1);
    doubled.min(SIZES - 1)
}

impl Default for Ending {
    /// None is to end.
    fn default() -> Self {
        Self {
            of_size: Default::default(),
            from: AtomicUsize::new(SIZES),
            bytes: AtomicU64::new(0),
            held: AtomicU64::new(0),
            told: Notify::new(),
        }
    }
}

impl Ending {
    /// An instance that had `before` has `now`, in bytes.
    pub(crate) fn resized(&self, before: u64, now: u64) {
        if size_of(now) > 0 {
            self.of_size[size_of(now)].fetch_add(now, Ordering::Relaxed);
        }
        if size_of(before) > 0 {
            self.of_size[size_of(before)].fetch_sub(before, Ordering::Relaxed);
        }
    }

    /// Calls in so many bytes of the `held` ones, from the largest instances, and from small ones when these have less. When not all that was
    /// called in before has come, it is the turn of smaller ones. Whether it has.
    fn call_in(&self, bytes: u64, held: u64) -> bool {
        let all_came = self.bytes.load(Ordering::Relaxed) == 0 || held <= self.held.load(Ordering::Relaxed);
        let below = if all_came { SIZES } else { self.from.load(Ordering::Relaxed).max(1) };
        let (mut size, mut left) = (below, bytes);
        while left > 0 && size > 0 {
            size -= 1;
            left = left.saturating_sub(self.of_size[size].load(Ordering::Relaxed));
        }
        self.from.store(size, Ordering::Relaxed);
        self.held.store(held - bytes, Ordering::Relaxed);
        self.bytes.store(bytes, Ordering::Relaxed);
        if bytes > 0 {
            self.told.notify_waiters();
        }
        all_came
    }

    /// Resolves when an instance of this size is one of those that are to end.
    pub(crate) async fn told(&self, bytes: &AtomicU64) {
        loop {
            let mut told = std::pin::pin!(self.told.notified());
            told.as_mut().enable(); // so that nothing is missed between the look and the wait
            if self.must_end(bytes.load(Ordering::Relaxed)) {
                return;
            }
            told.await;
        }
    }

    /// Whether an instance with so many bytes is one of those that are to end.
    pub(crate) fn must_end(&self, bytes: u64) -> bool {
        let is_large = size_of(bytes) >= self.from.load(Ordering::Relaxed);
        let less = |left: u64| (left > 0).then(|| left.saturating_sub(bytes.max(1)));
        is_large && self.bytes.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less).is_ok()
    }
}

/// What all instances of a host together have beyond what they began with. Between two looks at the host's memory guests could
/// take gigabytes: there is as much for them as was left at the last look.
#[derive(Debug)]
pub(crate) struct HostMemory {
    bytes: AtomicU64,
    bytes_max: AtomicU64,
}

impl Default for HostMemory {
    /// Without a bound.
    fn default() -> Self {
        Self { bytes: AtomicU64::new(0), bytes_max: AtomicU64::new(u64::MAX) }
    }
}

impl HostMemory {
    /// So much is left, from now on.
    pub(crate) fn set_left(&self, bytes: u64) {
        self.bytes_max.store(self.bytes.load(Ordering::Acquire).saturating_add(bytes), Ordering::Release);
    }

    /// Takes so many bytes, if they are left.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let max = self.bytes_max.load(Ordering::Acquire);
        let taken = |held: u64| held.checked_add(bytes).filter(|sum| *sum <= max);
        self.bytes.fetch_update(Ordering::AcqRel, Ordering::Relaxed, taken).is_ok()
    }

    /// Gives them back.
    pub(crate) fn give_back(&self, bytes: u64) {
        self.bytes.fetch_sub(bytes, Ordering::AcqRel);
    }
}

/// Counts who waits, for as long as it does.
pub struct Waiting<'a>(&'a AtomicUsize);

impl<'a> Waiting<'a> {
    /// One more.
    pub fn begin(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::SeqCst);
        Self(count)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Memory that is held; given back on drop.
#[derive(Debug)]
pub struct Held {
    memory: Arc<Memory>,
    bytes: u64,
}

impl Held {
    /// Takes more. False, and nothing taken, when the budget has no room, and no instance that waits could give any.
    pub fn grow(&mut self, more: u64) -> bool {
        self.grow_in(more) || (more <= self.memory.max() && self.grow_instead(more))
    }

    #[cold]
    fn grow_instead(&mut self, more: u64) -> bool {
        while self.memory.end_one() {
            if self.grow_in(more) {
                return true;
            }
        }
        false
    }

    fn grow_in(&mut self, more: u64) -> bool {
        let max = self.memory.max();
        let grown = |held: u64| held.checked_add(more).filter(|sum| *sum <= max);
        let taken = self.memory.bytes.fetch_update(Ordering::AcqRel, Ordering::Relaxed, grown).is_ok();
        if taken {
            self.bytes += more;
        }
        taken
    }

    /// Gives back a part.
    pub fn shrink(&mut self, less: u64) {
        let less = less.min(self.bytes);
        if less > 0 {
            self.bytes -= less;
            self.memory.bytes.fetch_sub(less, Ordering::SeqCst);
            self.memory.hand_on();
        }
    }

    /// Bytes held here.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whose budget this is.
    pub fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.shrink(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_budget_is_never_exceeded_and_comes_back() {
        let memory = Memory::new(100);
        let mut first = memory.try_take(60).unwrap();
        assert!(memory.try_take(41).is_none());
        assert!(!first.grow(41) && first.grow(40));
        assert_eq!((memory.held(), first.bytes()), (100, 100));
        assert!(!first.grow(u64::MAX), "sums do not wrap");
        first.shrink(30);
        assert_eq!((memory.held(), first.bytes()), (70, 70));
        drop(first);
        assert_eq!(memory.held(), 0);
    }

    #[test]
    fn a_host_gives_what_was_left_at_the_last_look() {
        let host = HostMemory::default();
        assert!(host.take(1 << 40), "nobody has looked");
        host.set_left(10);
        assert!(host.take(6) && !host.take(5) && host.take(4));
        host.give_back(6);
        assert!(host.take(5), "what was given back is there for others");
        host.set_left(0);
        assert!(!host.take(1));
        host.give_back(1);
        assert!(host.take(1) && !host.take(1));
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn as_many_of_the_largest_end_as_must() {
        let app = Ending::default();
        for bytes in [1, 100, 100, 100, 20, 20, 512, 2_000] {
            app.resized(0, bytes * MIB);
        }
        let ended = |sizes: &[u64]| sizes.iter().map(|size| app.must_end(size * MIB)).collect::<Vec<_>>();
        assert_eq!(ended(&[512]), [false], "nobody asked");
        const HELD: u64 = 10_000 * MIB; // it does not get less, as if nobody had ended
        let call_in = |bytes| app.call_in(bytes, HELD);
        assert!(call_in(2_100 * MIB));
        assert_eq!(ended(&[100, 512, 2_000, 512]), [false, true, true, false], "no more than must");
        app.resized(512 * MIB, 0);
        app.resized(2_000 * MIB, 10 * MIB);
        assert!(call_in(310 * MIB)); // those of 100, and one of 20
        assert_eq!(ended(&[100, 1, 100, 10, 100, 20, 20]), [true, false, true, false, true, true, false]);
        assert!(call_in(1)); // one of 100
        assert!(!call_in(1), "which does not run");
        assert_eq!(ended(&[20]), [true]);
        assert!(call_in(1_000 * MIB));
        assert_eq!(ended(&[10, 1]), [true, true], "of small ones those that ask first");
        assert!(app.call_in(0, HELD - 1_000 * MIB), "others ended by themselves");
        assert_eq!(ended(&[100]), [false]);
    }

    #[test]
    fn the_app_that_holds_most_gives_back_first_in_however_many_instances() {
        let (crowd, large, small) = (Memory::new(1 << 40), Memory::new(1 << 40), Memory::new(1 << 40));
        let _crowd: Vec<_> = (0..100).map(|_| crowd.try_take(3 * MIB).unwrap()).collect();
        let (_large, _small) = (large.try_take(200 * MIB).unwrap(), small.try_take(MIB).unwrap());
        large.ending().resized(0, 200 * MIB);
        let call_in = |mib: u64| end_largest(vec![small.clone(), crowd.clone(), large.clone()], mib * MIB);
        let ended =
            || [(&crowd, 3), (&large, 200), (&small, 1)].map(|(app, mib)| app.ending().must_end(mib * MIB));
        call_in(4);
        assert_eq!((ended(), ended(), ended()), ([true, false, false], [true, false, false], [false; 3]));
        call_in(301);
        assert_eq!(ended(), [true, true, false], "the next one for the rest");
        call_in(4);
        assert_eq!(ended(), [true, true, false], "the first one has not given back all that it was to");
        call_in(0);
        assert_eq!(ended(), [false; 3]);
    }

    #[tokio::test]
    async fn the_largest_end_also_while_they_wait() {
        let app = Arc::new(Ending::default());
        let sizes = [8 << 20, 100 << 20, 1 << 20];
        let mut waiting: Vec<_> = sizes
            .into_iter()
            .map(|bytes| {
                app.resized(0, bytes);
                let (app, size) = (app.clone(), AtomicU64::new(bytes));
                tokio::spawn(async move { app.told(&size).await })
            })
            .collect();
        tokio::task::yield_now().await; // they wait
        app.call_in(1, 109 << 20);
        waiting.remove(1).await.unwrap();
        assert!(!waiting.iter().any(tokio::task::JoinHandle::is_finished), "no more than must");
        app.resized(100 << 20, 0);
        app.call_in(9 << 20, 9 << 20);
        for small in waiting {
            small.await.unwrap();
        }
    }

    #[tokio::test]
    async fn whoever_waits_gets_room_when_there_is_some() {
        let memory = Memory::new(100);
        let held = memory.try_take(100).unwrap();
        let waiters: Vec<_> = (0..10)
            .map(|_| {
                let memory = memory.clone();
                tokio::spawn(async move { memory.take(10).await.bytes() })
            })
            .collect();
        while !memory.is_wanted() {
            tokio::task::yield_now().await;
        }
        drop(held);
        for waiter in waiters {
            assert_eq!(waiter.await.unwrap(), 10);
        }
        assert!(memory.held() == 0 && !memory.is_wanted());
    }

    #[tokio::test]
    async fn who_waits_for_much_does_not_keep_room_from_who_waits_for_little() {
        let memory = Memory::new(100);
        let mut held = memory.try_take(100).unwrap();
        let [much, more, little] = [50, 60, 10].map(|bytes| {
            let memory = memory.clone();
            tokio::spawn(async move { memory.take(bytes).await })
        });
        while memory.queue().len() < 3 {
            tokio::task::yield_now().await;
        }
        held.shrink(10);
        assert_eq!(little.await.unwrap().bytes(), 10);
        assert!(!much.is_finished() && !more.is_finished());
        held.shrink(40);
        drop(much.await.unwrap());
        drop(held);
        assert_eq!(more.await.unwrap().bytes(), 60);
        assert!(memory.held() == 0 && !memory.is_wanted());
        let _all = memory.try_take(100).unwrap();
        let gives_up = tokio::time::timeout(std::time::Duration::ZERO, memory.take(10)).await;
        assert!(gives_up.is_err() && memory.queue().is_empty());
    }
}
