//! Tools to attack a running installation with, each made for requests that no client library would send.
//!
//! Map: [`http1`] and [`http2`] write bytes and frames by hand, [`plain`] is a server without limits for the control of
//! a test, [`Beside`] asks a well-behaved app while an attack runs, [`resident_bytes`] says what it costs. The attacks
//! are in `tests/`, one file per place that they come from; `guest/` is the component that attacks from inside.
//!
//! What a test must show: the attack is met, others are served meanwhile, and the same without the defence succeeds.

#![allow(clippy::unwrap_used, clippy::missing_panics_doc, reason = "a test ends at the first surprise")]

pub mod bombs;
pub mod http1;
pub mod http2;
pub mod nats;
pub mod plain;

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use odeon_tests::{IDLE, Installation, PATIENCE};
use reqwest::{Client, StatusCode};
use tokio::task::JoinHandle;

/// How long one answer to a well-behaved client may take.
const ANSWER: Duration = Duration::from_secs(10);
/// Answers of others that count as being served.
const ANSWERS_MIN: u32 = 3;
/// Pause between two requests of a well-behaved client: it is not to be an attack itself.
const PAUSE: Duration = Duration::from_millis(20);

/// The component of `tests/hostile/guest`, published as `Hostile` beside `Hello`.
pub fn publish(site: &Installation) {
    for (name, file) in [("Hello", odeon_tests::hello()), ("Hostile", hostile())] {
        site.succeed(&["publish", file.to_str().unwrap(), "--name", name]);
    }
}

/// The component that attacks.
pub fn hostile() -> PathBuf {
    odeon_tests::guest("hostile_guest")
}

/// A client that asks again and again while an attack runs, and minds every answer that is not good.
pub struct Beside {
    ended: Arc<AtomicBool>,
    asking: JoinHandle<Result<u32, String>>,
}

impl Beside {
    /// Begins to ask. The client keeps its connection.
    pub fn start(url: String) -> Self {
        let ended = Arc::new(AtomicBool::new(false));
        let stop = ended.clone();
        let client = Client::builder().no_proxy().pool_idle_timeout(IDLE).timeout(ANSWER).build().unwrap();
        let asking = tokio::spawn(async move {
            let deadline = Instant::now() + PATIENCE * 2;
            let mut answers = 0;
            while !(stop.load(Ordering::Relaxed) && answers >= ANSWERS_MIN) {
                if Instant::now() > deadline {
                    return Err(format!("the attack did not end; {answers} answers"));
                }
                let response = client.get(&url).send().await.map_err(|error| format!("{error:?}"))?;
                let status = response.status();
                let text = response.text().await.map_err(|error| format!("{error:?}"))?;
                if status != StatusCode::OK {
                    return Err(format!("{status}: {text}"));
                }
                answers += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Ok(answers)
        });
        Self { ended, asking }
    }

    /// Ends, and fails when an answer was missing or wrong.
    pub async fn stop(self) -> u32 {
        self.ended.store(true, Ordering::Relaxed);
        match self.asking.await.unwrap() {
            Ok(answers) => answers,
            Err(why) => panic!("a well-behaved client was not served: {why}"),
        }
    }
}

/// Memory of a process that is in RAM, in bytes.
pub fn resident_bytes(site: &Installation, process: &str) -> u64 {
    let pid = site.process(process)["pid"].as_u64().unwrap();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let kib: u64 = line.trim().trim_end_matches(" kB").trim().parse().unwrap();
    kib << 10
}
