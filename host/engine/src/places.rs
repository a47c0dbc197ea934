//! Places for instances: a few apps cannot have all of a pool.
//!
//! A pool has room for so many instances, those included that wait for another request. The last quarter of it is for the first few of each
//! app (of each of its revisions that is loaded): whoever has more gets none of it. What must stay true: while apps with many instances have
//! taken all that they may, an app with few gets another one.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Part of a pool that is for apps with few instances: one of so many.
const RESERVED_PART: usize = 4;
/// So many instances of an app are few.
const FEW: usize = 16;

/// The places of a pool.
#[derive(Debug)]
pub(crate) struct Places {
    max: usize,
    taken: AtomicUsize,
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

impl Places {
    pub(crate) fn new(max: u32) -> Arc<Self> {
        Arc::new(Self { max: max as usize, taken: AtomicUsize::new(0) })
    }

    /// For another app, which has none yet.
    pub(crate) fn for_app(self: &Arc<Self>) -> Arc<AppPlaces> {
        Arc::new(AppPlaces { pool: self.clone(), taken: AtomicUsize::new(0) })
    }
}

impl AppPlaces {
    /// A place for one more instance, if the app may have one.
    pub(crate) fn take(self: &Arc<Self>) -> Option<Place> {
        let of_app = self.taken.fetch_add(1, Ordering::Relaxed) + 1;
        let of_all = self.pool.taken.fetch_add(1, Ordering::Relaxed) + 1;
        let place = Place(self.clone()); // given back where it is refused
        let reserved = if of_app > FEW { self.pool.max / RESERVED_PART } else { 0 };
        (of_all <= self.pool.max - reserved).then_some(place)
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
