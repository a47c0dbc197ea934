//! What belongs to an app and not to a revision of it, for as long as somebody holds it: shares and rates, which both revisions draw
//! from during a rollout, and which do not begin anew while something of them is in use.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError, Weak};

/// One of each app.
#[derive(Debug)]
pub struct PerApp<T>(Mutex<HashMap<String, Weak<T>>>);

impl<T> Default for PerApp<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T> PerApp<T> {
    /// The app's, which is made if nobody holds one.
    pub fn of(&self, app: &str, make: impl FnOnce() -> T) -> Arc<T> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(held) = all.get(app).and_then(Weak::upgrade) {
            return held;
        }
        if all.len() == all.capacity() {
            all.retain(|_, held| held.strong_count() > 0); // and only then it grows
        }
        let made = Arc::new(make());
        all.insert(app.to_owned(), Arc::downgrade(&made));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_app_has_one_for_as_long_as_somebody_holds_it() {
        let all = PerApp::default();
        let first = all.of("a", || 1);
        assert_eq!((*all.of("a", || 2), *all.of("b", || 3)), (1, 3));
        drop(first);
        assert_eq!(*all.of("a", || 4), 4);
        (0..1_000).for_each(|app| drop(all.of(&app.to_string(), || 0)));
        assert!(all.0.lock().unwrap().len() < 10, "nothing is kept of those who left");
    }
}
