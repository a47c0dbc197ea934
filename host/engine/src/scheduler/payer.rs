//! Work of the host for an app on tasks of its own: TLS and bodies of outgoing requests, rows from a database.
//!
//! What must stay true: it is charged to the app that it is for, poll by poll, as work on its connections is.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use super::{Cpu, Scheduler};

/// An app that pays for work. Cheap to clone: each request has it, and few need it.
#[derive(Clone)]
pub struct Payer(Arc<Paying>);

struct Paying {
    scheduler: Scheduler,
    cpu: Arc<Cpu>,
}

impl Payer {
    /// Whoever has this account.
    pub fn new(scheduler: Scheduler, cpu: Arc<Cpu>) -> Self {
        Self(Arc::new(Paying { scheduler, cpu }))
    }

    /// Does the work, and charges for it where somebody pays.
    pub async fn charge<W: Future>(payer: Option<Self>, work: W) -> W::Output {
        let Some(Self(paying)) = payer else { return work.await };
        let mut work = pin!(work);
        poll_fn(|cx| {
            let mut polled = Poll::Pending;
            let used = paying.scheduler.measured(&mut || polled = work.as_mut().poll(cx));
            paying.scheduler.charge(&paying.cpu, &used);
            polled
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::super::{CpuShare, slice};
    use super::*;

    const MS: u64 = 1_000_000;

    fn account() -> Arc<Cpu> {
        Arc::new(Cpu::new(CpuShare { millicores: 250, burst_ms: None }))
    }

    /// Works for so long, in two polls.
    async fn work(ns: u64) {
        for _ in 0..2 {
            let begun = Instant::now();
            while begun.elapsed() < Duration::from_nanos(ns / 2) {
                std::hint::spin_loop();
            }
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn each_poll_of_the_work_is_charged_to_whom_it_is_for() {
        let (payer, other) = (account(), account());
        let paying = Payer::new(Scheduler::without_threads(), payer.clone());
        let done = Payer::charge(Some(paying), async {
            work(MS / 10).await;
            "done"
        });
        assert_eq!(done.await, "done");
        assert!(payer.used_ns() > 0);
        assert_eq!(other.used_ns(), 0);
        assert_eq!(slice::tick().used, 0, "no slice is left open");
    }

    #[tokio::test]
    async fn nobody_pays_for_work_that_waits() {
        let payer = account();
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let paying = Payer::new(Scheduler::without_threads(), payer.clone());
        let mut waiting = pin!(Payer::charge(Some(paying), told));
        assert!(futures_util::poll!(&mut waiting).is_pending());
        let before = payer.used_ns();
        work(MS).await;
        assert_eq!(payer.used_ns(), before);
        tell.send(()).unwrap();
        waiting.await.unwrap();
    }
}
