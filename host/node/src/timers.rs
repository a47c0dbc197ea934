//! The timers of the apps that serve here.
//!
//! Every second each timer is looked at. One that is due is claimed by writing its next state into the stage's
//! bucket, on condition that nobody wrote meanwhile; whoever succeeds runs it and renews a lease. The rules are
//! [`odeon_protocol::timers`]. Without NATS nothing new begins, and what runs ends before its lease does: nobody knows who has it then.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result};
use async_nats::Client;
use async_nats::jetstream::{self, kv};
use chrono::{DateTime, Utc};
use futures_util::future::BoxFuture;
use odeon_capabilities::timers::{Error, Wake};
use odeon_protocol::bucket::{self, News};
use odeon_protocol::timers::{LEASE_MS, Timer, TimerState, TimerStep};
use odeon_protocol::{AppId, HostId, Revision, subjects};
use tokio::sync::OnceCell;
use tokio::time::Instant;
use tracing::{info, warn};

use crate::Host;
use crate::apps::Served;
use crate::triggers::{self, Trigger};

/// Time between two looks at all timers, in milliseconds.
const LOOK_MS: u64 = 1_000;
/// Apps of which a timer runs at once on one host; more wait for the next look. A quarter of the host's instances, for
/// thousands of timers may be due at the same minute, and users want the rest.
const RUNNING_APPS_MAX: usize = 256;
/// Runs at once beyond the first of each app. They have places of their own: a run may last an hour, and a few apps with
/// many would leave none to the others.
const FURTHER_RUNS_MAX: usize = 32;
/// Runs at once of one app.
const RUNS_OF_APP_MAX: usize = 8;
/// So long before its lease ends a run ends that could not renew it: clocks of hosts differ.
const RENEW_MARGIN: Duration = Duration::from_secs(2);
/// How long a host tries to say how a run ended, in seconds; then its lease has ended.
const TELL_S_MAX: u64 = 30;

/// The timers of one app, as its revision says.
pub(crate) struct AppTimers {
    app: AppId,
    client: Arc<OnceCell<Client>>,
    planned: Vec<Planned>,
}

/// A timer whose schedule was read.
pub struct Planned {
    timer: Timer,
    cron: Option<croner::Cron>,
    /// What the schedule said last: the next time after this one. It is asked each second.
    said: Mutex<Option<(i64, Option<i64>)>>,
}

impl Planned {
    /// Reads the schedule; one that cannot be read is told, and the timer runs when it is woken only.
    pub fn new(app: &AppId, timer: &Timer) -> Self {
        let cron = timer.schedule.as_deref().and_then(|pattern| match pattern.parse() {
            Ok(cron) => Some(cron),
            Err(error) => {
                warn!(%app, timer = timer.name, "the schedule `{pattern}` cannot be read: {error}");
                None
            }
        });
        Self { timer: timer.clone(), cron, said: Mutex::default() }
    }

    /// What `host` does about it at `now_ms`.
    pub fn step(
        &self,
        state: Option<&TimerState>,
        (host, revision): (&HostId, Revision),
        now_ms: i64,
    ) -> TimerStep {
        self.timer.step(state, (host, revision), now_ms, |after| self.next(after))
    }

    /// The first time of the schedule after `after_ms`.
    pub fn next(&self, after_ms: i64) -> Option<i64> {
        let cron = self.cron.as_ref()?;
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((from_ms, next_ms)) = *said
            && after_ms >= from_ms
            && next_ms.is_none_or(|next_ms| after_ms < next_ms)
        {
            return next_ms;
        }
        let after = DateTime::<Utc>::from_timestamp_millis(after_ms)?;
        let next_ms = cron.find_next_occurrence(&after, false).ok().map(|next| next.timestamp_millis());
        *said = Some((after_ms, next_ms));
        next_ms
    }
}

impl AppTimers {
    pub(crate) fn new(app: &AppId, client: &Arc<OnceCell<Client>>, timers: &[Timer]) -> Self {
        let planned = timers.iter().map(|timer| Planned::new(app, timer)).collect();
        Self { app: app.clone(), client: client.clone(), planned }
    }
}

impl Wake for AppTimers {
    fn wake<'a>(&'a self, timer: &'a str) -> BoxFuture<'a, Result<(), Error>> {
        Box::pin(async move {
            if !self.planned.iter().any(|planned| planned.timer.name == timer) {
                return Err(Error::Unknown);
            }
            let woken = async {
                let client = self.client.get().context("NATS was not reached yet")?;
                let states = open(client).await?;
                let key = subjects::timer_key(&self.app, timer);
                let woken = |state: Option<TimerState>| Some(state.unwrap_or_default().woken(now_ms()));
                bucket::change_value(&states, &key, woken).await.map_err(anyhow::Error::from)
            };
            woken.await.map(drop).map_err(|error| Error::Unavailable(format!("{error:#}")))
        })
    }
}

/// Looks at all timers for ever.
pub(crate) async fn run(host: Arc<Host>, client: Client) {
    let known: Arc<Mutex<BTreeMap<String, TimerState>>> = Arc::default();
    tokio::spawn(follow(client.clone(), known.clone()));
    let running: Arc<Mutex<Running>> = Arc::default();
    let mut every = tokio::time::interval(Duration::from_millis(LOOK_MS));
    loop {
        every.tick().await;
        if host.is_stopping() {
            return;
        }
        for served in host.apps.all() {
            for (at, planned) in served.timers.planned.iter().enumerate() {
                let key = subjects::timer_key(&served.id, &planned.timer.name);
                let state = known.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
                if step(&host.settings.host, &served, planned, state.as_ref()) == TimerStep::Wait {
                    continue;
                }
                if !running.lock().unwrap_or_else(PoisonError::into_inner).begin(&key, &served.id) {
                    continue;
                }
                let (host, client, served, running) =
                    (host.clone(), client.clone(), served.clone(), running.clone());
                let in_flight = host.metrics.begin(); // until it is written how the run ended
                tokio::spawn(async move {
                    let _in_flight = in_flight;
                    if let Err(error) = act(&host, &client, &served, at, &key).await {
                        warn!(timer = key, "{error:#}");
                    }
                    running.lock().unwrap_or_else(PoisonError::into_inner).end(&key, &served.id);
                });
            }
        }
    }
}

/// The timers that run here.
#[derive(Default)]
struct Running {
    keys: HashSet<String>,
    /// How many each app has; none of those that have none.
    of_app: HashMap<AppId, usize>,
}

impl Running {
    /// Counts one more run, unless that timer runs, or there are too many.
    fn begin(&mut self, key: &str, app: &AppId) -> bool {
        let apps = self.of_app.len();
        let further = self.keys.len() - apps;
        let has_room = match self.of_app.get(app) {
            None => apps < RUNNING_APPS_MAX,
            Some(of_app) => *of_app < RUNS_OF_APP_MAX && further < FURTHER_RUNS_MAX,
        };
        let may = has_room && self.keys.insert(key.to_owned());
        if may {
            *self.of_app.entry(app.clone()).or_insert(0) += 1;
        }
        may
    }

    /// A run that began has ended.
    fn end(&mut self, key: &str, app: &AppId) {
        self.keys.remove(key);
        if let Some(of_app) = self.of_app.get_mut(app) {
            *of_app -= 1;
            if *of_app == 0 {
                self.of_app.remove(app);
            }
        }
    }
}

async fn follow(client: Client, known: Arc<Mutex<BTreeMap<String, TimerState>>>) {
    let jetstream = jetstream::new(client.clone());
    let open = || jetstream.get_key_value(subjects::TIMERS_BUCKET);
    bucket::follow(client, open, |news| {
        let mut known = known.lock().unwrap_or_else(PoisonError::into_inner);
        match news {
            News::Put { key, value } => match serde_json::from_slice(value) {
                Ok(state) => drop(known.insert(key.to_owned(), state)),
                Err(error) => warn!(timer = key, "not the state of a timer: {error}"),
            },
            News::Deleted { key } => drop(known.remove(key)),
            News::Opened => known.clear(),
            News::CaughtUp => {}
        }
    })
    .await;
}

fn step(host: &HostId, served: &Served, planned: &Planned, state: Option<&TimerState>) -> TimerStep {
    planned.step(state, (host, served.revision), now_ms())
}

/// Writes what is due, and runs the timer if that is ours now.
async fn act(host: &Arc<Host>, client: &Client, served: &Arc<Served>, at: usize, key: &str) -> Result<()> {
    let planned = &served.timers.planned[at];
    let me = &host.settings.host;
    let states = open(client).await?;
    let (state, revision) = bucket::read_value::<TimerState>(&states, key).await?;
    let held = Instant::now();
    let run = match step(me, served, planned, state.as_ref()) {
        TimerStep::Wait => return Ok(()),
        TimerStep::Write(next) => {
            let _ = bucket::write_value(&states, key, &next, revision).await?; // lost to another host: it wrote the same
            return Ok(());
        }
        TimerStep::Run(next) => {
            if !bucket::write_value(&states, key, &next, revision).await? {
                return Ok(());
            }
            next.run.context("a claimed run")?
        }
    };
    info!(app = served.name, timer = planned.timer.name, "a timer runs");
    let wall = Duration::from_secs(u64::from(planned.timer.timeout_s));
    let trigger = Trigger::timer(&planned.timer.name, wall);
    let outcome = tokio::select! {
        outcome = triggers::run(host, served, trigger) => outcome,
        () = renew(&states, key, me, held) => Err("the lease was lost".to_owned()),
    };
    if let Err(why) = &outcome {
        warn!(app = served.name, timer = planned.timer.name, "a timer failed: {why}");
    }
    let tell = async {
        loop {
            let ours = |state: &TimerState| {
                state.run.as_ref().is_some_and(|now| now.host == run.host && now.started_ms == run.started_ms)
            };
            let ended = bucket::change_value(&states, key, |state: Option<TimerState>| {
                let state = state.filter(ours)?;
                Some(state.ended(outcome.clone(), now_ms(), |after| planned.next(after)))
            });
            match ended.await {
                Ok(_) => return,
                Err(error) => warn!(timer = key, "how the run ended is not written yet: {error:#}"),
            }
            tokio::time::sleep(Duration::from_millis(LOOK_MS)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(TELL_S_MAX), tell)
        .await
        .context("nobody learns how the run ended")
}

/// Holds the lease that was taken at `held`, or after it. Ends when somebody else has it, or may have it: whoever takes over may reach
/// NATS where this host does not.
async fn renew(states: &kv::Store, key: &str, me: &HostId, mut held: Instant) {
    let lease = Duration::from_millis(LEASE_MS.unsigned_abs());
    let mut at = held;
    loop {
        let end = held + lease - RENEW_MARGIN;
        at = (at + lease / 3).min(end);
        tokio::time::sleep_until(at).await;
        let asked = Instant::now();
        let mut lost = false;
        let renewed = bucket::change_value(states, key, |state: Option<TimerState>| {
            let state = state.and_then(|state| state.renewed(me, now_ms()));
            lost = state.is_none();
            state
        });
        match tokio::time::timeout_at(end, renewed).await {
            Ok(Ok(_)) if lost => return,
            Ok(Ok(_)) => held = asked,
            Ok(Err(error)) if asked < end => warn!(timer = key, "the lease is not renewed: {error:#}"),
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

async fn open(client: &Client) -> Result<kv::Store> {
    let states = jetstream::new(client.clone()).get_key_value(subjects::TIMERS_BUCKET).await;
    states.context("open the timers bucket")
}

fn now_ms() -> i64 {
    Utc::now().timestamp_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn app(number: usize) -> AppId {
        format!("0190d5d2-0000-7000-8000-{number:012}").parse().unwrap()
    }

    /// Begins so many timers of an app, as far as they may; how many do.
    fn begin(running: &mut Running, number: usize, timers: usize) -> usize {
        let keys = (0..timers).map(|timer| format!("{number}.{timer}"));
        keys.filter(|key| running.begin(key, &app(number))).count()
    }

    #[test]
    fn an_app_with_many_timers_leaves_room_for_others() {
        let mut running = Running::default();
        assert_eq!(begin(&mut running, 0, 100), RUNS_OF_APP_MAX);
        assert!(running.begin("1.0", &app(1)) && !running.begin("1.0", &app(1)), "each runs once");
        running.end("0.0", &app(0));
        assert!(running.begin("0.99", &app(0)), "another may run now");
        (1..RUNS_OF_APP_MAX).for_each(|timer| running.end(&format!("0.{timer}"), &app(0)));
        running.end("0.99", &app(0));
        running.end("1.0", &app(1));
        assert!(running.keys.is_empty() && running.of_app.is_empty(), "nothing is kept of what has ended");
    }

    #[test]
    fn apps_with_many_timers_leave_one_to_each_of_the_others() {
        let mut running = Running::default();
        let greedy = FURTHER_RUNS_MAX / (RUNS_OF_APP_MAX - 1) + 1;
        let begun: usize = (0..greedy).map(|number| begin(&mut running, number, 100)).sum();
        assert_eq!(begun, greedy + FURTHER_RUNS_MAX);
        let others = greedy..10 * RUNNING_APPS_MAX;
        let begun: Vec<usize> = others.map(|number| begin(&mut running, number, 2)).collect();
        let (first, rest) = begun.split_at(RUNNING_APPS_MAX - greedy);
        assert!(first.iter().all(|begun| *begun == 1), "{begun:?}");
        assert!(rest.iter().all(|begun| *begun == 0), "there is a bound all the same: {begun:?}");
        running.end("0.1", &app(0));
        assert_eq!(begin(&mut running, greedy, 2), 1, "the place of one that ended is anybody's");
    }
}
