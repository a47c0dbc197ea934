//! The queue on a clock of our own: what it promises, shown without a thread or a guest.
//!
//! Some CPUs take guests from [`Fair`] as the guests' threads do, and let each run for a slice at most. Guests compute
//! for ever, or answer requests of a given length, one after another; those on connections run there when it is their
//! turn, and take the first CPU from whatever runs on it. Time moves from event to event, and to each look of the clock.

#![allow(clippy::unwrap_used, reason = "a test ends at the first surprise")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::cpu::{Cpu, CpuShare, Nanos};
use super::fair::{Advance, Fair, Next};

const US: Nanos = 1_000;
const MS: Nanos = 1_000_000;
/// What a guest runs at most before it lets go.
const SLICE: Nanos = MS;
/// Time between two ticks.
const TICK: Nanos = MS;

/// Unlimited burst, so that only the others are in an app's way.
const EVEN: CpuShare = CpuShare { millicores: 250, burst_ms: None };

struct Guest {
    cpu: Arc<Cpu>,
    /// CPU time of a request; `None` computes for ever.
    request: Option<Nanos>,
    /// Between two requests.
    rest: Nanos,
    /// Time of the network for a request, which nobody is charged with.
    network: Nanos,
    /// Its requests run where they come in, as those of connections do.
    is_here: bool,
    /// What it runs at most before it lets go.
    slice: Nanos,
    left: Nanos,
    asked_at: Nanos,
    /// Time from asking to the answer, of all requests.
    took: Vec<Nanos>,
}

struct Simulation {
    fair: Fair<usize>,
    guests: Vec<Guest>,
    /// What runs on each CPU: who, since when, until when.
    cpus: Vec<Option<(usize, Advance, Nanos, Nanos)>>,
    /// What was foreseen of the run on each CPU.
    foreseen: Vec<Nanos>,
    /// Guests that ask again later.
    resting: BTreeMap<(Nanos, usize), ()>,
    now: Nanos,
    /// When the clock will look.
    look: Nanos,
}

impl Simulation {
    fn new(cpus: usize) -> Self {
        Self {
            fair: Fair::default(),
            guests: Vec::new(),
            cpus: (0..cpus).map(|_| None).collect(),
            foreseen: vec![0; cpus],
            resting: BTreeMap::new(),
            now: 0,
            look: TICK,
        }
    }

    /// Adds guests of one app.
    fn app(&mut self, share: CpuShare, guests: usize, request: Option<Nanos>, rest: Nanos) -> Arc<Cpu> {
        let cpu = Arc::new(Cpu::new(share));
        for _ in 0..guests {
            let guest = self.guests.len();
            let (left, took) = (request.unwrap_or(Nanos::MAX), Vec::new());
            self.guests.push(Guest {
                cpu: cpu.clone(),
                request,
                rest,
                network: 0,
                is_here: false,
                slice: SLICE,
                left,
                asked_at: self.now,
                took,
            });
            self.fair.push(&cpu, guest, self.now);
        }
        cpu
    }

    fn run_until(&mut self, end: Nanos) {
        while self.now < end {
            let mut wake = end.min(self.look);
            for at in 0..self.cpus.len() {
                while self.cpus[at].is_none() {
                    match self.fair.next(self.now) {
                        Next::Run(guest, advance) if self.guests[guest].is_here => {
                            self.run_here(guest, Some(advance))
                        }
                        Next::Run(guest, advance) => {
                            let until = self.now + self.guests[guest].left.min(self.guests[guest].slice);
                            self.cpus[at] = Some((guest, advance, self.now, until));
                        }
                        Next::Wait(until) => {
                            wake = wake.min(until.unwrap_or(end));
                            break;
                        }
                    }
                }
            }
            let busy = self.cpus.iter().flatten().map(|&(.., until)| until).min();
            let rested = self.resting.first_key_value().map(|(&(at, _), ())| at);
            self.now = [busy, rested].into_iter().flatten().fold(wake, Nanos::min).max(self.now);
            if self.now >= self.look {
                self.look();
            }
            self.end_slices();
            while let Some((&(at, guest), ())) = self.resting.first_key_value()
                && at <= self.now
            {
                self.resting.pop_first();
                self.guests[guest].asked_at = self.now;
                self.ask(guest);
            }
        }
    }

    /// What the engine's clock does.
    fn look(&mut self) {
        let running = self.cpus.iter().flatten().count() as u64;
        for (run, foreseen) in self.cpus.iter().zip(&mut self.foreseen) {
            let Some((_, _, since, _)) = run else { continue };
            self.fair.advance(self.now - since - *foreseen);
            *foreseen = self.now - since;
        }
        while let Next::Run(guest, advance) = self.fair.next_if(self.now, |&guest| self.guests[guest].is_here)
        {
            let cpu = self.guests[guest].cpu.clone();
            self.run_here(guest, Some(advance));
            self.run_others_of(&cpu);
        }
        let owed = self.fair.until_owed(|&guest| self.guests[guest].is_here).unwrap_or(TICK);
        self.look = self.now + (owed / running.max(1)).clamp(super::LOOK_NS_MIN, TICK);
    }

    /// Requests of an app that wait where they came in.
    fn run_others_of(&mut self, cpu: &Arc<Cpu>) {
        while let Some((guest, advance)) =
            self.fair.another_of(cpu, self.now, |&guest| self.guests[guest].is_here)
        {
            self.run_here(guest, Some(advance));
        }
    }

    /// A request comes in.
    fn ask(&mut self, guest: usize) {
        let cpu = self.guests[guest].cpu.clone();
        if self.guests[guest].is_here {
            self.run_others_of(&cpu);
            if self.fair.may_overtake(&cpu, self.now, |&guest| self.guests[guest].is_here) {
                return self.run_here(guest, None);
            }
        }
        self.fair.push(&cpu, guest, self.now);
    }

    /// A request runs on its connection: the kernel takes the first CPU from whatever runs there.
    fn run_here(&mut self, guest: usize, advance: Option<Advance>) {
        let cpu = self.guests[guest].cpu.clone();
        let (length, took) = (self.guests[guest].left, self.guests[guest].left + self.guests[guest].network);
        if let Some((_, _, since, until)) = &mut self.cpus[0] {
            *since += took;
            *until += took;
        }
        self.now += took;
        match advance {
            Some(advance) => self.fair.ran(&cpu, advance, length, 0, self.now),
            None => {
                cpu.spend(length, self.now);
                self.fair.charge(&cpu, length, self.now);
            }
        }
        let this = &mut self.guests[guest];
        this.took.push(self.now - this.asked_at);
        this.left = this.request.unwrap_or(0);
        self.resting.insert((self.now + this.rest, guest), ());
    }

    fn end_slices(&mut self) {
        for at in 0..self.cpus.len() {
            let Some((guest, advance, since, until)) = self.cpus[at] else { continue };
            if until > self.now {
                continue;
            }
            self.cpus[at] = None;
            let (used, now) = (until - since, self.now);
            let this = &mut self.guests[guest];
            let cpu = this.cpu.clone();
            if this.request.is_some() {
                this.left -= used;
            }
            if this.left > 0 {
                self.fair.push(&cpu, guest, now);
            } else {
                this.took.push(now - this.asked_at);
                this.left = this.request.unwrap_or(0);
                self.resting.insert((now + this.rest, guest), ());
            }
            self.fair.ran(&cpu, advance, used, std::mem::take(&mut self.foreseen[at]), now);
        }
    }

    /// Makes the requests of an app those of connections.
    fn put_here(&mut self, cpu: &Arc<Cpu>) {
        let of = self.guests.iter_mut().filter(|guest| Arc::ptr_eq(&guest.cpu, cpu));
        of.for_each(|guest| guest.is_here = true);
    }

    fn longest(&self, cpu: &Arc<Cpu>) -> Nanos {
        let of = self.guests.iter().filter(|guest| Arc::ptr_eq(&guest.cpu, cpu));
        of.flat_map(|guest| guest.took.iter().copied()).max().unwrap()
    }
}

#[test]
fn one_request_waits_two_slices_at_most_beside_a_thousand_busy_instances() {
    for cpus in [1, 2, 8] {
        let mut sim = Simulation::new(cpus);
        sim.app(EVEN, 1_000, None, 0);
        sim.run_until(500 * MS);
        let quiet = sim.app(EVEN, 1, Some(50 * US), 7 * MS + 13 * US);
        sim.run_until(2_000 * MS);
        assert!(sim.longest(&quiet) <= 50 * US + 2 * SLICE, "{cpus} CPUs: {} ns", sim.longest(&quiet));
    }
}

#[test]
fn a_busy_victim_gets_its_share_at_once_however_many_apps_attack() {
    for attackers in [1, 3, 20] {
        let mut sim = Simulation::new(1);
        for attacker in 0..attackers {
            sim.app(EVEN, if attacker == 0 { 500 } else { 2 }, None, 0);
        }
        sim.run_until(100 * MS); // it is known by now that their runs are long
        let victim = sim.app(EVEN, 4, Some(50 * US), 100 * US);
        let (begun, mut used) = (sim.now, 0);
        // In every stretch that is long enough for a round of all apps, it gets on.
        let round = (attackers + 2) as u64 * SLICE;
        for turn in 1..=200 {
            sim.run_until(begun + turn * round);
            assert!(victim.used_ns() > used, "{attackers} attackers: nothing in round {turn}");
            used = victim.used_ns();
        }
        let fair = (sim.now - begun) / (attackers as u64 + 1);
        assert!(used + 2 * SLICE >= fair, "{attackers} attackers: {used} of {fair} ns");
        // It asks for more than its share, so that its four requests wait for one another at the rate of the share, and
        // for the slice that runs when one of them comes.
        let at_its_rate = 4 * 50 * US * (attackers as u64 + 1);
        assert!(sim.longest(&victim) <= at_its_rate + 2 * SLICE, "{attackers}: {}", sim.longest(&victim));
    }
}

#[test]
fn weights_divide_the_cpus_as_they_say() {
    let mut sim = Simulation::new(2);
    let heavy = sim.app(CpuShare { millicores: 900, burst_ms: None }, 8, None, 0);
    let light = sim.app(CpuShare { millicores: 300, burst_ms: None }, 400, None, 0);
    sim.run_until(4_000 * MS);
    let ratio = heavy.used_ns() as f64 / light.used_ns() as f64;
    assert!((2.9..3.1).contains(&ratio), "{ratio}");
    assert!(heavy.used_ns() + light.used_ns() + 4 * SLICE >= 2 * sim.now, "no CPU rests");
}

#[test]
fn past_its_burst_an_app_has_its_share_and_no_more_and_others_have_the_rest() {
    let mut sim = Simulation::new(1);
    let bounded = sim.app(CpuShare { millicores: 200, burst_ms: Some(100) }, 3, None, 0);
    sim.run_until(10_000 * MS);
    // 100 ms of burst, and a fifth of ten seconds; a slice more, because it is charged when it is over.
    assert!(bounded.used_ns().abs_diff(2_100 * MS) <= 2 * SLICE, "{}", bounded.used_ns());
    assert!(bounded.throttled_ns().abs_diff(7_900 * MS) <= 100 * MS, "{}", bounded.throttled_ns());
    let free = sim.app(EVEN, 1, None, 0);
    sim.run_until(20_000 * MS);
    assert!(free.used_ns().abs_diff(8_000 * MS) <= 20 * MS, "{}", free.used_ns());
}

#[test]
fn an_app_that_slept_has_saved_up_next_to_nothing() {
    let mut sim = Simulation::new(1);
    let awake = sim.app(EVEN, 2, None, 0);
    let sleeper = sim.app(EVEN, 1, Some(MS), 5_000 * MS);
    sim.run_until(4_000 * MS);
    let before = awake.used_ns();
    let late = sim.app(EVEN, 2, None, 0);
    sim.run_until(5_000 * MS);
    let got = awake.used_ns() - before;
    assert!(got.abs_diff(500 * MS) <= 3 * SLICE, "{got}, beside one that came now ({})", late.used_ns());
    assert_eq!(sleeper.used_ns(), MS);
}

#[test]
fn guests_of_one_app_take_turns() {
    let mut sim = Simulation::new(1);
    let app = sim.app(EVEN, 10, Some(5 * MS), 0);
    sim.run_until(1_000 * MS);
    assert!(sim.longest(&app) <= 10 * 5 * MS, "{}", sim.longest(&app));
}

#[test]
fn a_share_that_changes_counts_at_the_next_slice() {
    let mut sim = Simulation::new(1);
    let (one, other) = (sim.app(EVEN, 2, None, 0), sim.app(EVEN, 2, None, 0));
    sim.run_until(1_000 * MS);
    one.set_share(CpuShare { millicores: 750, burst_ms: None });
    let before = (one.used_ns(), other.used_ns());
    sim.run_until(2_000 * MS);
    let ratio = (one.used_ns() - before.0) as f64 / (other.used_ns() - before.1) as f64;
    assert!((2.9..3.1).contains(&ratio), "{ratio}");
}

#[test]
fn a_share_that_is_raised_counts_for_who_waits_for_the_old_one() {
    let mut sim = Simulation::new(1);
    let app = sim.app(CpuShare { millicores: 10, burst_ms: Some(0) }, 4, None, 0);
    app.spend(1_000 * MS, 0); // what it earns in a hundred seconds
    sim.run_until(3_000 * MS);
    assert!(app.used_ns() <= 1_002 * MS, "it waits: {} ns", app.used_ns());
    app.set_share(CpuShare { millicores: 1_000, burst_ms: None });
    sim.run_until(5_000 * MS);
    assert!(app.used_ns() >= 1_900 * MS, "within a second: {} ns", app.used_ns());
}

#[test]
fn requests_that_begin_at_once_get_no_more_and_no_less_than_their_share() {
    for attackers in [1, 3] {
        let mut sim = Simulation::new(1);
        for _ in 0..attackers {
            sim.app(EVEN, 2, None, 0);
        }
        sim.run_until(100 * MS);
        let victim = sim.app(EVEN, 4, Some(60 * US), 60 * US);
        sim.put_here(&victim);
        let begun = sim.now;
        sim.run_until(begun + 2_000 * MS);
        let fair = (sim.now - begun) / (attackers + 1);
        let used = victim.used_ns();
        assert!(used.abs_diff(fair) <= fair / 10, "{attackers} attackers: {used} of {fair} ns");
        // They wait for one another at the rate of the share, and for what runs when it is their turn.
        let at_its_rate = 4 * 60 * US * (attackers + 1);
        assert!(sim.longest(&victim) <= at_its_rate + 2 * SLICE, "{attackers}: {}", sim.longest(&victim));
    }
}

#[test]
fn an_app_that_was_away_for_a_moment_is_owed_what_it_was_and_not_what_it_slept() {
    let (busy, app) = (Arc::new(Cpu::new(EVEN)), Arc::new(Cpu::new(EVEN)));
    let mut fair = Fair::default();
    fair.push(&busy, 0, 0);
    // Both have a quarter of a core, so what one of them uses is four times as much on its own clock.
    let start = || app.start.load(Ordering::Relaxed) / US;
    fair.charge(&app, 100 * US, 0);
    fair.charge(&busy, 300 * US, 0);
    fair.charge(&app, 50 * US, 0);
    assert_eq!(start(), 4 * 150, "it had less than its half");
    fair.charge(&busy, 1_000 * MS, 0); // alone
    let all = 2 * (100 + 300 + 50) + 4 * 1_000_000;
    fair.charge(&app, 0, 0);
    assert_eq!(start(), all - 4 * 150, "a moment's worth");
}

#[test]
fn an_operation_that_nothing_interrupts_holds_up_requests_for_a_few_ticks_only() {
    let mut sim = Simulation::new(1);
    sim.app(EVEN, 2, None, 0);
    let stuck = sim.app(EVEN, 1, None, 0);
    sim.guests.last_mut().unwrap().slice = 40 * MS;
    sim.run_until(200 * MS);
    // It asks for more than its share, so that its requests wait for turns.
    let victim = sim.app(EVEN, 4, Some(60 * US), 60 * US);
    sim.put_here(&victim);
    let begun = sim.now;
    sim.run_until(begun + 4_000 * MS);
    let longest = sim.longest(&victim);
    assert!(longest <= 4 * 60 * US * 3 + 4 * TICK, "{longest}");
    for (name, app) in [("victim", &victim), ("stuck", &stuck)] {
        let fair = sim.now / 3;
        assert!(app.used_ns() + 40 * MS >= fair / 2, "{name}: {} of {fair}", app.used_ns());
    }
}

#[test]
fn what_the_network_takes_is_nobodys_turn() {
    let mut sim = Simulation::new(1);
    for _ in 0..2 {
        sim.app(EVEN, 2, None, 0);
    }
    sim.app(EVEN, 1, None, 0);
    sim.guests.last_mut().unwrap().slice = 12 * MS; // to give back much memory, again and again
    sim.run_until(200 * MS);
    let victim = sim.app(EVEN, 4, Some(60 * US), 60 * US);
    sim.put_here(&victim);
    let of = sim.guests.iter_mut().filter(|guest| Arc::ptr_eq(&guest.cpu, &victim));
    of.for_each(|guest| guest.network = 30 * US);
    sim.run_until(sim.now + 4_000 * MS);
    let longest = sim.longest(&victim);
    let at_its_rate = 4 * 60 * US * 4 + 4 * 30 * US;
    assert!(longest <= at_its_rate + 2 * SLICE, "{longest}");
}

#[test]
fn requests_that_wait_together_get_their_turns_together() {
    let (busy, app) = (Arc::new(Cpu::new(EVEN)), Arc::new(Cpu::new(EVEN)));
    app.expected_ns.store(20 * US, Ordering::Relaxed);
    let mut fair = Fair::default();
    fair.push(&busy, 0, 0);
    fair.charge(&app, 2 * MS, 0);
    for request in 1..=30 {
        fair.push(&app, request, 0);
    }
    let is_request = |&guest: &usize| guest > 0;
    assert_eq!(fair.next_if(0, is_request), Next::Wait(None), "it is ahead of its share");
    fair.advance(2 * MS); // of which half was due to it
    let Next::Run(1, _) = fair.next_if(0, is_request) else { panic!("it is owed a turn") };
    let together: Vec<_> =
        std::iter::from_fn(|| fair.another_of(&app, 0, is_request)).map(|(guest, _)| guest).collect();
    assert_eq!(together, (2..=together.len() + 1).collect::<Vec<_>>(), "in the order in which they came");
    let ahead = (together.len() as u64 + 1) * 20 * US;
    assert!((150 * US..=190 * US).contains(&ahead), "as many as may run ahead, and no more: {ahead}");
    assert_eq!(fair.another_of(&busy, 0, is_request).map(|(guest, _)| guest), None, "nor of others");
}

#[test]
fn a_request_that_waits_on_its_connection_goes_before_those_that_come_later() {
    let (busy, app) = (Arc::new(Cpu::new(EVEN)), Arc::new(Cpu::new(EVEN)));
    let mut fair = Fair::default();
    fair.push(&busy, 0, 0);
    let Next::Run(0, _) = fair.next(0) else { panic!("nobody else waits") };
    fair.charge(&app, MS, 0);
    let is_request = |&guest: &usize| guest > 0;
    assert!(!fair.may_overtake(&app, 0, is_request), "it is ahead of its share");
    fair.push(&app, 1, 0);
    fair.advance(MS - 100 * US); // half of that was due to it: it is ahead by little enough to begin at once
    fair.advance(MS - 100 * US);
    assert!(!fair.may_overtake(&app, 0, is_request), "the one that waits is first");
    assert!(fair.may_overtake(&app, 0, |_| false), "it would be his turn");
    assert_eq!(
        fair.another_of(&app, 0, is_request).map(|(guest, _)| guest),
        Some(1),
        "and is that of the first"
    );
}
