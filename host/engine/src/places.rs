//! Places for instances: a few apps cannot have all of a pool, and whoever serves nobody has none that is needed.
//!
//! A pool has room for so many instances, those included that wait for another request. Three quarters of it are for whoever serves; the last
//! quarter is for the first few of each app (of each of its revisions that is loaded). Where all places are taken, instances that wait are
//! ended, of one app after the other. What must stay true: while apps with many instances have taken all that they may, an app with few gets
//! another one; and nobody is refused for the sake of instances that wait.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Part of a pool that is for apps with few instances: one of so many.
const RESERVED_PART: usize = 4;
/// So many instances of an app are few.
const FEW: usize = 16;
/// How often an instance that waits is ended for a request whose place somebody else took then.
const TRIES_MAX: usize = 8;

/// The places of a pool.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    taken: AtomicUsize,
    /// Those taken by instances that serve somebody.
    serving: AtomicUsize,
    /// Who may have instances that wait, each once; whoever was asked last comes last.
    keepers: Mutex<VecDeque<Weak<dyn Keeper>>>,
}

/// Those of them that one app has.
#[derive(Debug)]
pub(crate) struct AppPlaces {
    pool: Arc<Places>,
    taken: AtomicUsize,
}

/// The place of an instance, also while it waits for another request.
#[derive(Debug)]
pub(crate) struct Place {
    app: Arc<AppPlaces>,
    serves: bool,
}

/// Keeps the instances of one app that wait for another request.
pub(crate) trait Keeper: Send + Sync {
    /// Lets go of the one that has waited for longest.
    fn let_go(&self) -> Option<Box<dyn Send>>;
    /// The same, for a pool. Whoever has none is asked again when [`Places::add_keeper`] says so.
    fn let_go_of_place(&self) -> Option<Box<dyn Send>>;
}

impl Places {
    pub(crate) fn new(max: u32) -> Arc<Self> {
        let (taken, serving) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Arc::new(Self { max: max as usize, taken, serving, keepers: Mutex::default() })
    }

    /// For another app, which has none yet.
    pub(crate) fn for_app(self: &Arc<Self>) -> Arc<AppPlaces> {
        Arc::new(AppPlaces { pool: self.clone(), taken: AtomicUsize::new(0) })
    }

    /// Somebody has instances that wait, and had none when it was asked last.
    pub(crate) fn add_keeper(&self, keeper: Weak<dyn Keeper>) {
        self.keepers().push_back(keeper);
    }

    /// Forgets keepers that are gone.
    pub(crate) fn tidy_keepers(&self) {
        self.keepers().retain(|keeper| keeper.strong_count() > 0);
    }

    /// Takes a place that nobody has, or that of an instance that waits.
    fn take(&self) -> bool {
        for _ in 0..TRIES_MAX {
            if one_more(&self.taken, self.max) {
                return true;
            }
            if !self.end_one() {
                break;
            }
        }
        false
    }

    /// Ends an instance that waits, if there is one: some microseconds, and more for one with much memory.
    fn end_one(&self) -> bool {
        let mut asked = Vec::new(); // dropped when the lock is free, which the last holder of a keeper takes
        let mut keepers = self.keepers();
        let ended = loop {
            let Some(next) = keepers.pop_front() else { break None };
            let Some(keeper) = next.upgrade() else { continue };
            let ended = keeper.let_go_of_place();
            asked.push(keeper);
            if ended.is_some() {
                keepers.push_back(next);
                break ended;
            }
        };
        drop(keepers);
        ended.is_some()
    }

    fn keepers(&self) -> MutexGuard<'_, VecDeque<Weak<dyn Keeper>>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AppPlaces {
    /// A place for one more instance, if the app may have one.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Place> {
        let of_app = self.taken.fetch_add(1, Ordering::Relaxed) + 1;
        let reserved = if of_app > FEW { self.pool.max / RESERVED_PART } else { 0 };
        if one_more(&self.pool.serving, self.pool.max - reserved) {
            if self.pool.take() {
                return Some(Place { app: self.clone(), serves: true });
            }
            self.pool.serving.fetch_sub(1, Ordering::Relaxed);
        }
        self.taken.fetch_sub(1, Ordering::Relaxed);
        None
    }

    pub(crate) fn pool(&self) -> &Places {
        &self.pool
    }
}

/// Counts one more, up to `max`.
fn one_more(count: &AtomicUsize, max: usize) -> bool {
    count
        .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |count| (count < max).then_some(count + 1))
        .is_ok()
}

impl Place {
    /// Its instance waits for another request.
    pub(crate) fn rest(&mut self) {
        if std::mem::replace(&mut self.serves, false) {
            self.app.pool.serving.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Its instance has one.
    pub(crate) fn serve(&mut self) {
        if !std::mem::replace(&mut self.serves, true) {
            self.app.pool.serving.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.rest();
        self.app.taken.fetch_sub(1, Ordering::Relaxed);
        self.app.pool.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use super::*;

    /// As many places as the app gets at once, at most `wanted`.
    fn take(app: &Arc<AppPlaces>, wanted: usize) -> Vec<Place> {
        (0..wanted).map_while(|_| app.take()).collect()
    }

    #[test]
    fn apps_with_many_leave_the_last_quarter_to_those_with_few() {
        let pool = Places::new(100);
        let [one, two, small, another] = [(); 4].map(|()| pool.for_app());
        let (first, second) = (take(&one, 60), take(&two, 60));
        assert_eq!((first.len(), second.len()), (60, FEW), "75 but for the few that everybody may have");
        let few = take(&small, 60);
        assert_eq!(few.len(), FEW);
        assert_eq!(take(&another, 60).len(), 100 - 60 - 2 * FEW, "there are no more");
        drop(first);
        assert_eq!(take(&two, 60).len(), 75 - 2 * FEW, "what was given back is there for all");
        drop((second, few));
        assert_eq!(pool.taken.load(Ordering::Relaxed), 0);
    }

    /// Instances that wait.
    #[derive(Default)]
    struct Waiting(Mutex<Vec<Place>>);

    impl Waiting {
        fn left(&self) -> usize {
            self.0.lock().unwrap().len()
        }
    }

    impl Keeper for Waiting {
        fn let_go(&self) -> Option<Box<dyn Send>> {
            Some(Box::new(self.0.lock().unwrap().pop()?))
        }

        fn let_go_of_place(&self) -> Option<Box<dyn Send>> {
            self.let_go()
        }
    }

    /// Apps of which so many instances wait.
    fn waiting<const N: usize>(pool: &Arc<Places>, instances: [usize; N]) -> [Arc<Waiting>; N] {
        instances.map(|instances| {
            let mut places = take(&pool.for_app(), instances);
            places.iter_mut().for_each(Place::rest);
            let keeper = Arc::new(Waiting(Mutex::new(places)));
            let known: Arc<dyn Keeper> = keeper.clone();
            pool.add_keeper(Arc::downgrade(&known));
            keeper
        })
    }

    #[test]
    fn whoever_waits_gives_way_to_whoever_serves() {
        let pool = Places::new(40);
        let [one, two] = waiting(&pool, [10, 10]);
        let left = || (one.left(), two.left());
        let busy = pool.for_app();
        let mut taken = take(&busy, 20);
        assert_eq!((taken.len(), left()), (20, (10, 10)), "nobody is ended without need");
        taken.extend(take(&busy, 4));
        assert_eq!((taken.len(), left()), (24, (8, 8)), "one after the other");
        taken.extend(take(&busy, 16));
        assert_eq!(
            (taken.len(), left()),
            (30, (5, 5)),
            "what waits keeps no place from it, the last quarter does"
        );
        taken.extend(take(&pool.for_app(), 16));
        assert_eq!((taken.len(), left()), (40, (0, 0)), "which is for those that have few");
        assert!(!pool.end_one() && pool.keepers().is_empty(), "who has none is not asked again");
        drop(taken);
        let counts = (pool.taken.load(Ordering::Relaxed), pool.serving.load(Ordering::Relaxed));
        assert_eq!(counts, (0, 0));
    }

    #[test]
    fn many_at_once_are_served_while_as_many_wait() {
        let pool = Places::new(200);
        let [one] = waiting(&pool, [100]);
        let _busy: Vec<_> = (0..10).flat_map(|_| take(&pool.for_app(), 10)).collect();
        let asked: Vec<_> = std::thread::scope(|scope| {
            let ask = |_| scope.spawn(|| take(&pool.for_app(), 10));
            let asked: Vec<_> = (0..10).map(ask).collect();
            asked.into_iter().map(|asked| asked.join().unwrap()).collect()
        });
        assert_eq!(asked.iter().map(Vec::len).collect::<Vec<_>>(), [10; 10]);
        assert_eq!(one.left(), 0);
    }

    #[test]
    fn keepers_that_are_gone_are_forgotten() {
        let pool = Places::new(1);
        let keeper: Arc<dyn Keeper> = Arc::new(Waiting::default());
        pool.add_keeper(Arc::downgrade(&keeper));
        pool.tidy_keepers();
        assert_eq!(pool.keepers().len(), 1);
        drop(keeper);
        pool.tidy_keepers();
        assert!(pool.keepers().is_empty());
    }

    #[test]
    fn whoever_is_refused_keeps_nothing() {
        let pool = Places::new(1);
        let (one, two) = (pool.for_app(), pool.for_app());
        let place = one.take();
        assert!(place.is_some() && two.take().is_none() && one.take().is_none());
        drop(place);
        assert!(two.take().is_some());
    }
}
