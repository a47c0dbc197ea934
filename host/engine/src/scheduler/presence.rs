//! Whether guests are here: while there are none, their clock need not tick, and an idle host sleeps.
//!
//! What must stay true: whoever comes while the clock sleeps wakes it. Both sides write what they are about to do and then
//! read what the other does, in one order that both see: either the guest sees that the clock sleeps, or the clock sees
//! the guest.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed, Ordering::SeqCst};
use std::thread::Thread;
use std::time::Duration;

/// See the module.
#[derive(Default)]
pub(super) struct Presence {
    guests: AtomicUsize,
    /// The clock sleeps, or is about to.
    sleeps: AtomicBool,
    clock: OnceLock<Thread>,
}

impl Presence {
    /// A guest comes.
    pub(super) fn enter(&self) {
        self.guests.fetch_add(1, SeqCst);
        if self.sleeps.load(SeqCst) && self.sleeps.swap(false, SeqCst) {
            self.clock.get().inspect(|clock| clock.unpark());
        }
    }

    /// A guest has ended.
    pub(super) fn leave(&self) {
        self.guests.fetch_sub(1, Relaxed);
    }

    pub(super) fn has_guests(&self) -> bool {
        self.guests.load(SeqCst) > 0
    }

    /// The clock's thread, always the same one, waits for a guest, but no longer than `most`. Says whether one came, who may have ended since.
    pub(super) fn wait(&self, most: Duration) -> bool {
        self.clock.get_or_init(std::thread::current);
        self.sleeps.store(true, SeqCst);
        if !self.has_guests() {
            std::thread::park_timeout(most);
        }
        !self.sleeps.swap(false, SeqCst) || self.has_guests()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Instant;

    use super::*;

    /// Longer than any test takes.
    const LONG: Duration = Duration::from_secs(600);

    #[test]
    fn whoever_comes_wakes_the_clock() {
        let presence = Arc::new(Presence::default());
        let (asleep, begun) = (presence.clone(), Instant::now());
        let clock = std::thread::spawn(move || {
            while !asleep.wait(LONG) {} // woken for nothing
        });
        presence.enter();
        clock.join().unwrap();
        assert!(begun.elapsed() < LONG);
    }

    #[test]
    fn the_clock_does_not_sleep_while_somebody_is_here() {
        let presence = Presence::default();
        presence.enter();
        assert!(presence.wait(LONG), "at once");
        presence.leave();
        assert!(!presence.wait(Duration::ZERO));
    }
}
