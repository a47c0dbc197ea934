//! Timers: what an app runs by itself, and how far each is. Hosts of a stage share one KV bucket: whoever writes
//! the next state first runs it, so that a timer runs once at a time, without the Platform.
//!
//! The rules are plain functions of a state and the time, so that they can be tried without a clock. A host
//! that runs a timer holds a lease and renews it; when it dies, the lease ends, and the run counts as failed.
//! Invariant: from any state, also one that a stranger wrote, a timer comes to its next run.

use serde::{Deserialize, Serialize};

use crate::ids::{HostId, Revision};

/// How long a run is another host's business after its host was heard of last, in milliseconds.
pub const LEASE_MS: i64 = 30_000;
/// How often a failed run is tried again, as in ODC.
pub const RETRIES_MAX: u32 = 3;
/// Waits before these tries, in milliseconds.
pub const RETRY_WAITS_MS: [i64; RETRIES_MAX as usize] = [5_000, 30_000, 120_000];
/// How far the clocks of two hosts of a stage may be apart, in milliseconds.
const SKEW_MS: i64 = LEASE_MS;
/// Longest message that is kept of a failed run, in bytes.
pub const MESSAGE_BYTES_MAX: usize = 1_000;

/// A timer of an app, as its revision says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timer {
    /// Its name, unique in the app.
    pub name: String,
    /// A cron pattern of five fields, in UTC; without one it runs when it is woken or published.
    pub schedule: Option<String>,
    /// It runs whenever a revision was deployed.
    pub when_published: bool,
    /// How long a run may take, in seconds.
    pub timeout_s: u32,
    /// When the stage deactivated it. It does not run then, until it is activated or woken.
    #[serde(default)]
    pub deactivated_ms: Option<i64>,
}

/// How far a timer is. Times are milliseconds since 1970-01-01, UTC.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerState {
    /// The revision that was seen last.
    pub revision: Revision,
    /// The schedule that `next_ms` was computed from.
    pub schedule: Option<String>,
    /// When it runs next.
    pub next_ms: Option<i64>,
    /// Tries of the run that is due or goes on, the first included.
    pub tries: u32,
    /// Who runs it now.
    pub run: Option<TimerRun>,
    /// How the last try ended.
    pub last: Option<TimerEnd>,
    /// When it was woken last.
    #[serde(default)]
    pub woken_ms: Option<i64>,
}

/// A run that goes on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerRun {
    /// Who runs it.
    pub host: HostId,
    /// Since when.
    pub started_ms: i64,
    /// Until when nobody else may.
    pub lease_ms: i64,
}

/// How a try ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TimerEnd {
    /// When.
    pub at_ms: i64,
    /// Why it failed; none for a success.
    pub failure: Option<String>,
}

/// What a host does about a timer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TimerStep {
    /// Nothing is due.
    Wait,
    /// Write this state.
    Write(TimerState),
    /// Write this state, and run the timer if that was the first write.
    Run(TimerState),
}

impl Timer {
    /// What is to be done at `now`. `next` is the first time of the schedule after a time.
    pub fn step(
        &self,
        state: Option<&TimerState>,
        (host, revision): (&HostId, Revision),
        now: i64,
        next: impl Fn(i64) -> Option<i64>,
    ) -> TimerStep {
        let mut state = state.cloned().unwrap_or_else(|| TimerState {
            // Not the revision that serves: this one was published just now.
            revision: Revision(0),
            schedule: None,
            ..TimerState::default()
        });
        let before = state.clone();
        if let Some(run) = &state.run {
            // A lease that ends later than a host could have given it keeps nobody away.
            if run.lease_ms > now && run.lease_ms.saturating_sub(now) <= LEASE_MS + SKEW_MS {
                return TimerStep::Wait;
            }
            let lost = format!("host {} ran it and was not heard of again", run.host);
            state = state.ended(Err(lost), now, &next);
        }
        if !self.is_active(Some(&state)) {
            // Whoever activates it finds a timer that was never planned: what was missed meanwhile is not made up for.
            (state.schedule, state.next_ms, state.tries, state.revision) = (None, None, 0, revision);
            return if state == before { TimerStep::Wait } else { TimerStep::Write(state) };
        }
        if state.schedule != self.schedule {
            state.schedule.clone_from(&self.schedule);
            // What is due stays due: a timer may be woken before anybody has looked at it.
            state.next_ms = state.next_ms.filter(|due| *due <= now).or_else(|| next(now));
            state.tries = 0;
        } else if !state.next_ms.is_some_and(|due| is_planned(due, now, &next)) {
            state.next_ms = next(now);
        }
        if state.revision != revision {
            state.revision = revision;
            if self.when_published {
                state.next_ms = Some(now);
            }
        }
        if state.next_ms.is_some_and(|due| due <= now) {
            state.next_ms = None;
            state.tries = state.tries.saturating_add(1);
            state.run = Some(TimerRun { host: host.clone(), started_ms: now, lease_ms: now + LEASE_MS });
            return TimerStep::Run(state);
        }
        if state == before { TimerStep::Wait } else { TimerStep::Write(state) }
    }

    /// Whether it runs by itself. As in ODC, waking a timer that was deactivated activates it.
    pub fn is_active(&self, state: Option<&TimerState>) -> bool {
        let woken = state.and_then(|state| state.woken_ms);
        self.deactivated_ms.is_none_or(|since| woken.is_some_and(|woken| woken >= since))
    }
}

/// Whether some host would have planned a run for then: because it is due, is tried again, or is the schedule's next.
fn is_planned(due: i64, now: i64, next: impl Fn(i64) -> Option<i64>) -> bool {
    let again = RETRY_WAITS_MS.into_iter().max().unwrap_or(0);
    due <= now + again + SKEW_MS || next(now + SKEW_MS).is_some_and(|next| due <= next)
}

impl TimerState {
    /// The next run is now; while it runs, there is one more.
    pub fn woken(mut self, now: i64) -> TimerState {
        self.next_ms = Some(now);
        self.woken_ms = Some(now);
        self.tries = if self.run.is_some() { self.tries } else { 0 };
        self
    }

    /// The run of this host goes on.
    pub fn renewed(mut self, host: &HostId, now: i64) -> Option<TimerState> {
        let run = self.run.as_mut().filter(|run| run.host == *host)?;
        run.lease_ms = now + LEASE_MS;
        Some(self)
    }

    /// A try has ended: what failed is tried again after a while, and given up after [`RETRIES_MAX`] times.
    pub fn ended(
        mut self,
        outcome: Result<(), String>,
        now: i64,
        next: impl Fn(i64) -> Option<i64>,
    ) -> TimerState {
        self.run = None;
        let tried = usize::try_from(self.tries.max(1) - 1).unwrap_or(usize::MAX);
        let again = outcome.is_err().then(|| RETRY_WAITS_MS.get(tried)).flatten();
        // Woken meanwhile: that run is still to come, and begins anew.
        match (self.next_ms, again) {
            (Some(_), _) => self.tries = 0,
            (None, Some(wait)) => self.next_ms = Some(now + wait),
            (None, None) => {
                self.tries = 0;
                self.next_ms = next(now);
            }
        }
        let failure = outcome.err().map(|mut message| {
            message.truncate(message.floor_char_boundary(MESSAGE_BYTES_MAX));
            message
        });
        self.last = Some(TimerEnd { at_ms: now, failure });
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = 3_600_000;

    /// Every full hour.
    fn hourly(after: i64) -> Option<i64> {
        Some((after / HOUR + 1) * HOUR)
    }

    fn timer(when_published: bool) -> Timer {
        Timer {
            name: "T".into(),
            schedule: Some("0 * * * *".into()),
            when_published,
            timeout_s: 60,
            deactivated_ms: None,
        }
    }

    fn host(name: &str) -> HostId {
        name.parse().unwrap()
    }

    #[track_caller]
    fn runs(step: TimerStep) -> TimerState {
        let TimerStep::Run(state) = step else { panic!("{step:?}") };
        state
    }

    #[test]
    fn a_timer_runs_at_its_time_and_on_one_host() {
        let (timer, a, b) = (timer(false), host("a"), host("b"));
        let step = |state: &TimerState, host: &HostId, now| {
            timer.step(Some(state), (host, Revision(1)), now, hourly)
        };
        let TimerStep::Write(state) = timer.step(None, (&a, Revision(1)), 5, hourly) else { panic!() };
        assert_eq!(state.next_ms, Some(HOUR));
        assert_eq!(step(&state, &b, HOUR - 1), TimerStep::Wait);
        let running = runs(step(&state, &a, HOUR));
        assert_eq!(step(&running, &b, HOUR + 1), TimerStep::Wait);
        let renewed = running.renewed(&a, HOUR + LEASE_MS - 1).unwrap();
        assert_eq!(step(&renewed, &b, HOUR + LEASE_MS), TimerStep::Wait);
        assert!(renewed.clone().renewed(&b, HOUR).is_none());
        let ended = renewed.ended(Ok(()), HOUR + 10, hourly);
        assert_eq!((ended.next_ms, ended.tries), (Some(2 * HOUR), 0));
        // Nobody was there at two, nor at three: one run makes up for both.
        let late = runs(step(&ended, &b, 3 * HOUR + 7)).ended(Ok(()), 3 * HOUR + 8, hourly);
        assert_eq!(late.next_ms, Some(4 * HOUR));
    }

    #[test]
    fn a_new_revision_runs_what_says_so_and_a_new_schedule_counts_at_once() {
        let (mut timer, a) = (timer(true), host("a"));
        let first = runs(timer.step(None, (&a, Revision(1)), 5, hourly)).ended(Ok(()), 6, hourly);
        assert_eq!(timer.step(Some(&first), (&a, Revision(1)), 7, hourly), TimerStep::Wait);
        let second = runs(timer.step(Some(&first), (&a, Revision(2)), 8, hourly)).ended(Ok(()), 9, hourly);
        assert_eq!(second.next_ms, Some(HOUR));
        timer.schedule = None;
        let TimerStep::Write(none) = timer.step(Some(&second), (&a, Revision(2)), 10, |_| None) else {
            panic!()
        };
        assert_eq!(none.next_ms, None);
        assert!(matches!(
            timer.step(Some(&none.woken(11)), (&a, Revision(2)), 11, |_| None),
            TimerStep::Run(_)
        ));
    }

    #[test]
    fn what_fails_is_tried_again_and_then_waits_for_its_next_time() {
        let (timer, a, b) = (timer(false), host("a"), host("b"));
        let mut state =
            TimerState { revision: Revision(1), schedule: timer.schedule.clone(), ..TimerState::default() };
        state.next_ms = Some(0);
        let mut now = 0;
        for wait in RETRY_WAITS_MS {
            state = runs(timer.step(Some(&state), (&a, Revision(1)), now, hourly)).ended(
                Err("no".into()),
                now,
                hourly,
            );
            assert_eq!(state.next_ms, Some(now + wait));
            now += wait;
        }
        // The last try ends with its host.
        let lost = runs(timer.step(Some(&state), (&a, Revision(1)), now, hourly));
        assert_eq!(lost.tries, 4);
        now += LEASE_MS;
        let TimerStep::Write(given_up) = timer.step(Some(&lost), (&b, Revision(1)), now, hourly) else {
            panic!()
        };
        assert_eq!((given_up.next_ms, given_up.tries), (Some(HOUR), 0));
        let last = given_up.last.unwrap().failure.unwrap();
        assert_eq!(last, "host a ran it and was not heard of again");
    }

    #[test]
    fn a_deactivated_timer_waits_until_it_is_activated_or_woken() {
        let (mut timer, a) = (timer(true), host("a"));
        let planned = runs(timer.step(None, (&a, Revision(1)), 5, hourly)).ended(Ok(()), 6, hourly);
        timer.deactivated_ms = Some(10);
        let TimerStep::Write(idle) = timer.step(Some(&planned), (&a, Revision(1)), 11, hourly) else {
            panic!()
        };
        assert_eq!(idle.next_ms, None);
        // Neither its time nor a new revision runs it.
        assert_eq!(timer.step(Some(&idle), (&a, Revision(1)), 9 * HOUR, hourly), TimerStep::Wait);
        let TimerStep::Write(idle) = timer.step(Some(&idle), (&a, Revision(2)), 9 * HOUR, hourly) else {
            panic!()
        };
        let active = Timer { deactivated_ms: None, ..timer.clone() };
        let TimerStep::Write(again) = active.step(Some(&idle), (&a, Revision(2)), 9 * HOUR, hourly) else {
            panic!()
        };
        assert_eq!(again.next_ms, Some(10 * HOUR), "what was missed is not made up for");
        let woken = runs(timer.step(Some(&idle.woken(9 * HOUR)), (&a, Revision(2)), 9 * HOUR, hourly));
        assert_eq!(woken.ended(Ok(()), 9 * HOUR + 1, hourly).next_ms, Some(10 * HOUR), "it is active again");
        // Deactivated while it runs: that run goes on.
        let running = runs(active.step(Some(&again), (&a, Revision(2)), 10 * HOUR, hourly));
        assert_eq!(timer.step(Some(&running), (&a, Revision(2)), 10 * HOUR + 1, hourly), TimerStep::Wait);
    }

    #[test]
    fn a_timer_that_is_woken_before_anybody_looked_at_it_runs() {
        let woken = TimerState::default().woken(5);
        let running = runs(timer(false).step(Some(&woken), (&host("a"), Revision(1)), 6, hourly));
        assert_eq!(running.ended(Ok(()), 7, hourly).next_ms, Some(HOUR));
    }

    #[test]
    fn from_any_state_a_timer_comes_to_its_next_run() {
        let (timer, a) = (timer(false), host("a"));
        let idle = TimerState {
            revision: Revision(1),
            schedule: timer.schedule.clone(),
            next_ms: Some(HOUR),
            ..TimerState::default()
        };
        let lease = |lease_ms| {
            let run = TimerRun { host: host("b"), started_ms: 0, lease_ms };
            TimerState { run: Some(run), next_ms: None, ..idle.clone() }
        };
        // A control: what a host planned is left as it is, also by one whose clock is behind.
        for state in [&idle, &lease(LEASE_MS), &lease(LEASE_MS + SKEW_MS)] {
            assert_eq!(timer.step(Some(state), (&a, Revision(1)), 0, hourly), TimerStep::Wait, "{state:?}");
        }
        let ahead = TimerState { next_ms: Some(2 * HOUR), ..idle.clone() };
        assert_eq!(timer.step(Some(&ahead), (&a, Revision(1)), HOUR - SKEW_MS, hourly), TimerStep::Wait);
        let odd = [
            lease(LEASE_MS + SKEW_MS + 1),
            lease(i64::MAX),
            TimerState { next_ms: Some(HOUR + 1), ..idle.clone() },
            TimerState { next_ms: Some(i64::MAX), tries: u32::MAX, ..idle.clone() },
            TimerState { next_ms: None, ..idle.clone() },
        ];
        for state in odd {
            let TimerStep::Write(planned) = timer.step(Some(&state), (&a, Revision(1)), 0, hourly) else {
                panic!("{state:?}")
            };
            assert!(planned.run.is_none() && planned.next_ms.is_some_and(|next| next <= HOUR), "{planned:?}");
        }
        let tired = TimerState { next_ms: Some(0), tries: u32::MAX, ..idle };
        let tired = runs(timer.step(Some(&tired), (&a, Revision(1)), 0, hourly));
        assert_eq!(tired.ended(Err("no".into()), 1, hourly).next_ms, Some(HOUR), "it was tried often enough");
    }

    #[test]
    fn waking_a_timer_that_runs_runs_it_once_more() {
        let (timer, a) = (timer(false), host("a"));
        let idle = TimerState {
            revision: Revision(1),
            schedule: timer.schedule.clone(),
            next_ms: Some(HOUR),
            ..TimerState::default()
        };
        let running = runs(timer.step(Some(&idle.woken(5)), (&a, Revision(1)), 5, hourly));
        let woken = running.woken(6).woken(7);
        assert_eq!(timer.step(Some(&woken), (&a, Revision(1)), 8, hourly), TimerStep::Wait);
        for outcome in [Ok(()), Err("no".to_owned())] {
            let ended = woken.clone().ended(outcome, 9, hourly);
            let again = runs(timer.step(Some(&ended), (&a, Revision(1)), 9, hourly));
            assert_eq!(again.tries, 1);
        }
        let long = woken.ended(Err("ä".repeat(MESSAGE_BYTES_MAX)), 9, hourly).last.unwrap().failure.unwrap();
        assert_eq!(long.len(), MESSAGE_BYTES_MAX);
    }
}
