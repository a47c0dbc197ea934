//! Places for instances: a few apps cannot have all of a pool, and whoever serves nobody has none that is needed.
//!
//! A pool has room for so many instances, those included that wait for another request. The last quarter of it is for the first few of each
//! app (of each of its revisions that is loaded): whoever has more gets none of it. Where there is none left, instances that wait are ended,
//! of one app after the other. What must stay true: while apps with many instances have taken all that they may, an app with few gets
//! another one; and no request is refused while the instance in its way serves nobody.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// Part of a pool that is for apps with few instances: one of so many.
const RESERVED_PART: usize = 4;
/// So many instances of an app are few.
const FEW: usize = 16;
/// Instances that wait and are ended for a request, which waits meanwhile: that takes some microseconds for each.
const ENDED_MAX: usize = 4;

/// The places of a pool.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    taken: AtomicUsize,
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
pub(crate) struct Place(Arc<AppPlaces>);

/// Keeps the instances of one app that wait for another request.
pub(crate) trait Keeper: Send + Sync {
    /// Ends the one that has waited for longest. Whoever has none says no, and is asked again when [`Places::add_keeper`] says so.
    fn end_one(&self) -> bool;
}

impl Places {
    pub(crate) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { max: max as usize, taken: AtomicUsize::new(0), keepers: Mutex::default() })
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

    /// Ends an instance that waits, if there is one.
    fn end_one(&self) -> bool {
        loop {
            let Some(next) = self.keepers().pop_front() else { return false };
            if next.upgrade().is_some_and(|keeper| keeper.end_one()) {
                self.add_keeper(next);
                return true;
            }
        }
    }

    fn keepers(&self) -> MutexGuard<'_, VecDeque<Weak<dyn Keeper>>> {
        self.keepers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AppPlaces {
    /// A place for one more instance, if the app may have one.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Place> {
        for _ in 0..ENDED_MAX {
            match self.try_take() {
                Ok(place) => return Some(place),
                Err(lacking) if lacking > ENDED_MAX || !self.pool.end_one() => return None,
                Err(_) => {}
            }
        }
        self.try_take().ok()
    }

    /// One of those that nobody has, or how many lack.
    fn try_take(self: &Arc<Self>) -> Result<Place, usize> {
        let of_app = self.taken.fetch_add(1, Ordering::Relaxed) + 1;
        let of_all = self.pool.taken.fetch_add(1, Ordering::Relaxed) + 1;
        let place = Place(self.clone()); // given back where it is refused
        let reserved = if of_app > FEW { self.pool.max / RESERVED_PART } else { 0 };
        match of_all.saturating_sub(self.pool.max - reserved) {
            0 => Ok(place),
            lacking => Err(lacking),
        }
    }

    pub(crate) fn pool(&self) -> &Places {
        &self.pool
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.taken.fetch_sub(1, Ordering::Relaxed);
        self.0.pool.taken.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
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

    impl Keeper for Waiting {
        fn end_one(&self) -> bool {
            self.0.lock().unwrap().pop().is_some()
        }
    }

    #[test]
    fn whoever_waits_gives_way_to_whoever_serves() {
        let pool = Places::new(20);
        let [one, two, busy] = [(); 3].map(|()| pool.for_app());
        let waiting = [&one, &two].map(|app| Arc::new(Waiting(Mutex::new(take(app, 4)))));
        let left = |keeper: &Arc<Waiting>| keeper.0.lock().unwrap().len();
        for keeper in &waiting {
            let keeper: Arc<dyn Keeper> = keeper.clone();
            pool.add_keeper(Arc::downgrade(&keeper));
        }
        let mut taken = take(&busy, 12);
        assert_eq!(
            (taken.len(), left(&waiting[0]), left(&waiting[1])),
            (12, 4, 4),
            "nobody is ended without need"
        );
        taken.extend(take(&busy, 2));
        assert_eq!((taken.len(), left(&waiting[0]), left(&waiting[1])), (14, 3, 3), "one after the other");
        taken.extend(take(&busy, 2));
        assert_eq!((taken.len(), take(&busy, 1).len()), (FEW, 0), "a few are all that it may have here");
        assert_eq!((left(&waiting[0]), left(&waiting[1])), (2, 2), "for which nobody is ended");
        taken.extend(take(&pool.for_app(), 9));
        assert_eq!((taken.len(), left(&waiting[0]), left(&waiting[1])), (20, 0, 0));
        assert!(pool.keepers().is_empty(), "who has none is not asked again");
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
