//! How long the guests of an app have run on a thread of the network in one round of it.
//!
//! Such a thread goes through its tasks in the order in which they became ready, and knows no apps. While nobody competes guests run
//! on these tasks, and five hundred requests of a millisecond that come together are half a second in which nobody
//! else's is even read. So an app has a bounded time in each round; who comes after that goes to the guests' threads, where
//! the fair queue decides. A round is over when a task that was put at the end of the thread's queue has its turn.
//!
//! What must stay true: apps whose runs are short stay on their connections, however many they are, because to leave costs as much as
//! such a run; who has a thread for itself pays a few instructions.

use std::cell::RefCell;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::task::Poll;

use super::cpu::{Cpu, Nanos};

/// What guests of one app may use in a round, in nanoseconds: the two slices that another app's request may have to wait for.
const APP_NS_MAX: Nanos = 2_000_000;
/// Runs that are shorter in the mean are not bounded, in nanoseconds.
const SHORT_RUN_NS: Nanos = 50_000;
/// From so much on it is looked whether the round is over, in nanoseconds.
const WATCHED_NS_MIN: Nanos = 500_000;
/// Apps of a round that are told apart. Who comes after them is not bounded, and each of them has had its turn before.
const APPS_MAX: usize = 16;

thread_local! {
    static ROUND: RefCell<Round> = RefCell::default();
}

#[derive(Default)]
struct Round {
    /// Rounds that have ended. The task that ends one may run on another thread.
    ended: Arc<AtomicU64>,
    /// Of what follows: rounds that had ended when it began.
    number: u64,
    is_watched: bool,
    apps: Vec<Share>,
}

struct Share {
    /// Names the account; it is never looked at.
    cpu: *const Cpu,
    used: Nanos,
    runs: u64,
}

impl Round {
    /// The shares of this round.
    fn now(&mut self) -> &mut Vec<Share> {
        let ended = self.ended.load(Relaxed);
        if ended != self.number {
            (self.number, self.is_watched) = (ended, false);
            self.apps.clear();
        }
        &mut self.apps
    }
}

/// Whether guests of this app should go elsewhere.
pub(super) fn is_full(cpu: &Arc<Cpu>) -> bool {
    ROUND.with_borrow_mut(|round| {
        let share = round.now().iter().find(|share| share.cpu == Arc::as_ptr(cpu));
        share.is_some_and(|share| share.used >= APP_NS_MAX && share.used >= share.runs * SHORT_RUN_NS)
    })
}

/// A guest of this app has run on this thread.
pub(super) fn add(cpu: &Arc<Cpu>, used: Nanos) {
    ROUND.with_borrow_mut(|round| {
        let (cpu, apps) = (Arc::as_ptr(cpu), round.now());
        let known = apps.iter().position(|share| share.cpu == cpu);
        if known.is_none() && apps.len() == APPS_MAX {
            return;
        }
        let at = known.unwrap_or(apps.len());
        if known.is_none() {
            apps.push(Share { cpu, used: 0, runs: 0 });
        }
        let share = &mut apps[at];
        share.runs += 1;
        share.used += used;
        let used = share.used;
        if used >= WATCHED_NS_MIN && !round.is_watched {
            round.is_watched = end_after_others(round.ended.clone());
        }
    });
}

/// Ends the round when all tasks that are ready now have had their turn.
fn end_after_others(ended: Arc<AtomicU64>) -> bool {
    let Ok(runtime) = tokio::runtime::Handle::try_current() else { return false };
    runtime.spawn(async move {
        let mut has_gone = false;
        std::future::poll_fn(|cx| {
            if std::mem::replace(&mut has_gone, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref(); // to the end of the queue: a task that is spawned goes first
            Poll::Pending
        })
        .await;
        ended.fetch_add(1, Relaxed);
    });
    true
}

#[cfg(test)]
mod tests {
    use super::super::CpuShare;
    use super::*;

    const MS: Nanos = 1_000_000;

    fn app() -> Arc<Cpu> {
        Arc::new(Cpu::new(CpuShare { millicores: 1_000, burst_ms: None }))
    }

    #[tokio::test]
    async fn an_app_has_two_slices_in_a_round_and_others_have_theirs() {
        let (busy, other) = (app(), app());
        for _ in 0..3 {
            add(&busy, MS * 9 / 10);
        }
        assert!(is_full(&busy) && !is_full(&other));
        while is_full(&busy) {
            tokio::task::yield_now().await;
        }
        add(&busy, MS);
        assert!(!is_full(&busy), "a round later");
    }

    #[tokio::test]
    async fn who_was_ready_has_had_a_turn_when_a_round_is_over() {
        let busy = app();
        add(&busy, 2 * MS);
        let ready: Vec<_> = (0..100).map(|_| tokio::spawn(std::future::ready(()))).collect();
        while is_full(&busy) {
            tokio::task::yield_now().await;
        }
        assert!(ready.iter().all(tokio::task::JoinHandle::is_finished));
    }

    #[tokio::test]
    async fn short_runs_stay_where_they_are() {
        let small = app();
        for _ in 0..1_000 {
            add(&small, SHORT_RUN_NS - 1);
        }
        assert!(!is_full(&small));
    }
}
