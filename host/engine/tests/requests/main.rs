//! One request in one instance, and several in one: what a guest may do, and how it is ended when it does more.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

mod guest;
mod wasip2;
mod wasip3;

use std::time::Duration;

/// How long a test waits for what must come, in seconds.
const WAIT_S_MAX: u64 = 60;

async fn until(what: &str, holds: impl Fn() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(WAIT_S_MAX), wait).await.expect(what);
}
