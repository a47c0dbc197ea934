//! Threads that drive connections, each with a runtime of its own.
//!
//! A runtime of several threads gives tasks of a busy thread to an idle one, which must be woken for it. A request of a router is two tasks
//! that wake one another and take a few microseconds each: it costs more to move them than to wait. Here a connection stays on the thread
//! that had the fewest when it came, and so does all that it starts. A host's connections do not: a guest may have its thread for a
//! millisecond, and others should not wait for that.
//!
//! A connection of HTTP/2 has one thread for all of its requests: whoever stands before a router should open more than a few.
//!
//! What must stay true: each thread has about as many connections as any other.

use std::io;
use std::sync::{Arc, mpsc};

use tokio::runtime::{Builder, Handle};
use tokio_util::sync::{CancellationToken, DropGuard};

/// The threads, each with something of its own for the connections that it drives. They end when this is dropped, and what they drive with them.
pub struct Workers<T> {
    workers: Vec<Worker<T>>,
    _end: DropGuard,
}

pub(crate) struct Worker<T> {
    pub(crate) runtime: Handle,
    pub(crate) own: T,
    connections: Arc<()>,
}

/// A connection of a thread, until it is dropped.
pub(crate) struct Seat(#[expect(dead_code, reason = "it is counted")] Arc<()>);

impl<T> Workers<T> {
    /// Starts one for each of `owns`, of which there is at least one.
    pub fn start(name: &str, owns: impl IntoIterator<Item = T>) -> io::Result<Self> {
        let ended = CancellationToken::new();
        let end = ended.clone().drop_guard(); // also of the first ones when a later one cannot start
        let start = |own| {
            let (tell, told) = mpsc::sync_channel(1);
            let ended = ended.clone();
            // The runtime is made there: one that no thread was started for must not be dropped inside of another runtime.
            let run = move || match Builder::new_current_thread().enable_all().build() {
                Ok(runtime) => {
                    let _ = tell.send(Ok(runtime.handle().clone()));
                    runtime.block_on(ended.cancelled());
                }
                Err(error) => drop(tell.send(Err(error))),
            };
            std::thread::Builder::new().name(name.to_owned()).spawn(run)?;
            let runtime = told.recv().map_err(io::Error::other)??;
            Ok(Worker { runtime, own, connections: Arc::default() })
        };
        let workers = owns.into_iter().map(start).collect::<io::Result<Vec<_>>>()?;
        if workers.is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "no thread to drive connections"));
        }
        Ok(Self { workers, _end: end })
    }

    /// The one with the fewest connections, and a seat there.
    pub(crate) fn take(&self) -> Option<(&Worker<T>, Seat)> {
        let worker = self.workers.iter().min_by_key(|worker| Arc::strong_count(&worker.connections))?;
        Some((worker, Seat(worker.connections.clone())))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

    use super::*;

    #[test]
    fn a_connection_goes_where_the_fewest_are() {
        let workers = Workers::start("test", [1, 2]).unwrap();
        let take = || workers.take().map(|(worker, seat)| (worker.own, seat)).unwrap();
        let ((first, kept), (second, left)) = (take(), take());
        assert_eq!((first, second), (1, 2));
        drop(left);
        let (third, _third) = take();
        assert_eq!(third, 2);
        drop(kept);
        assert_eq!(take().0, 1);
    }

    #[test]
    fn what_threads_drive_ends_with_them() {
        let workers = Workers::start("test", [()]).unwrap();
        let (held, dropped) = std::sync::mpsc::channel::<()>();
        workers.take().unwrap().0.runtime.spawn(async move {
            std::future::pending::<()>().await;
            drop(held);
        });
        drop(workers);
        dropped.recv().unwrap_err(); // the task was dropped, and its end with it
        assert!(Workers::start("test", [(); 0]).is_err());
    }
}
