//! File descriptors: each connection is one, and many systems give a process 1,024 unless it asks for more.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that a full router needs: a connection of a user and one to a host for each request.
const WANTED: u64 = 2 * 8_192 + 1_024;

/// Asks for as many as this process may have, and says so when they are fewer than its limits of connections need.
pub fn raise() {
    let have = getrlimit(Resource::Nofile);
    let most = Rlimit { current: have.maximum, maximum: have.maximum };
    let now = if setrlimit(Resource::Nofile, most).is_ok() { have.maximum } else { have.current };
    if now.is_some_and(|now| now < WANTED) {
        tracing::warn!(
            descriptors = now,
            wanted = WANTED,
            "connections may be refused before our limits are"
        );
    }
}
