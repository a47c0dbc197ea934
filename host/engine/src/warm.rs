//! Instances that are used again, for apps that ask for it: what an instance left in its memory, the next request finds.
//!
//! By default nothing is ever used again. An app that opts in gets more speed and less isolation between its own requests,
//! never between apps: a pool belongs to one linked component. An instance is dropped after so many requests, after any
//! failure, when nobody needed it for a while, when somebody needs its memory or its place, and when those of all apps that
//! wait have their part of the host's. One that serves several at once ([`crate::together`]) comes here when it has none.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use wasmtime::Store;
use wasmtime_wasi_http::handler::Proxy;

use crate::memory::Memory;
use crate::places::{AppPlaces, Keeper, Place};
use crate::state::{Capabilities, State};

/// Instances of one app that wait for another request.
const IDLE_MAX: usize = 64;
/// How long one waits, in seconds.
const IDLE_S_MAX: u64 = 10;

/// An instance with its store.
pub(crate) struct Instance<C: 'static> {
    pub(crate) store: Store<State<C>>,
    pub(crate) place: Place,
    /// None before it was instantiated.
    pub(crate) proxy: Option<Proxy>,
    /// Requests that it has served.
    pub(crate) served: u32,
}

/// Instances that wait, the one that was used last on top: the others may grow old.
pub(crate) struct Warm<C: 'static> {
    shelf: Mutex<Shelf<C>>,
    /// For those of all apps that wait.
    idle_places: Arc<Semaphore>,
    places: Arc<AppPlaces>,
}

struct Shelf<C: 'static> {
    idle: Vec<Idle<C>>,
    /// Whether the pool knows that there may be some.
    is_known: bool,
    /// Whose budget pays for them: it knows of them from the first on.
    memory: Option<Arc<Memory>>,
}

struct Idle<C: 'static> {
    instance: Instance<C>,
    since: Instant,
    _place: OwnedSemaphorePermit,
}

impl<C: Capabilities> Warm<C> {
    /// None wait, and as many may as there are `idle_places` that no other app has.
    pub(crate) fn new(idle_places: Arc<Semaphore>, places: Arc<AppPlaces>) -> Self {
        Self {
            shelf: Mutex::new(Shelf { idle: Vec::new(), is_known: false, memory: None }),
            idle_places,
            places,
        }
    }

    pub(crate) fn take(&self) -> Option<Instance<C>> {
        let mut instance = self.shelf().idle.pop()?.instance;
        instance.place.serve();
        Some(instance)
    }

    /// Keeps an instance, unless somebody waits for its memory, or there are enough.
    pub(crate) fn put(self: &Arc<Self>, mut instance: Instance<C>) {
        if instance.store.data().memory.is_wanted() {
            return;
        }
        instance.store.data_mut().measure_heap();
        let Ok(place) = self.idle_places.clone().try_acquire_owned() else { return };
        let keeper: Weak<Self> = Arc::downgrade(self);
        let mut shelf = self.shelf();
        if shelf.idle.len() >= IDLE_MAX {
            return;
        }
        if shelf.memory.is_none() {
            let memory = instance.store.data().memory.of_app().clone();
            memory.add_keeper(keeper.clone()); // before there is one: whoever waits from now on asks for it
            shelf.memory = Some(memory);
        }
        instance.place.rest();
        shelf.idle.push(Idle { instance, since: Instant::now(), _place: place });
        // Whoever began to wait meanwhile did not find it here.
        let is_wanted = |idle: &mut Idle<C>| idle.instance.store.data().memory.is_wanted();
        let wanted = shelf.idle.pop_if(is_wanted);
        let is_news = wanted.is_none() && !std::mem::replace(&mut shelf.is_known, true);
        drop(shelf);
        if is_news {
            self.places.pool().add_keeper(keeper);
        }
    }

    /// Drops what waits: all of it, or what is too old.
    pub(crate) fn drop_idle(&self, only_old: bool) {
        let is_kept = |since: &Instant| only_old && since.elapsed() < Duration::from_secs(IDLE_S_MAX);
        let dropped: Vec<_> = self.shelf().idle.extract_if(.., |idle| !is_kept(&idle.since)).collect();
        drop(dropped); // not under the lock: giving back memory takes time
    }
}

impl<C: 'static> Warm<C> {
    fn shelf(&self) -> MutexGuard<'_, Shelf<C>> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<C: Capabilities> Keeper for Warm<C> {
    fn let_go(&self) -> Option<Box<dyn Send>> {
        let oldest = self.shelf().oldest();
        Some(Box::new(oldest?))
    }

    fn let_go_of_place(&self) -> Option<Box<dyn Send>> {
        let mut shelf = self.shelf();
        let oldest = shelf.oldest();
        shelf.is_known = oldest.is_some();
        Some(Box::new(oldest?))
    }
}

impl<C> Shelf<C> {
    fn oldest(&mut self) -> Option<Idle<C>> {
        (!self.idle.is_empty()).then(|| self.idle.remove(0))
    }
}

impl<C: 'static> Drop for Warm<C> {
    fn drop(&mut self) {
        let (is_known, memory) = {
            let mut shelf = self.shelf();
            (shelf.is_known, shelf.memory.take())
        };
        if is_known {
            self.places.pool().tidy_keepers();
        }
        if let Some(memory) = memory {
            memory.tidy_keepers();
        }
    }
}
