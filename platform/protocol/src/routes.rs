//! Which hosts serve which app, as routers and hosts see it. Pure: fed with what was heard, asked for routes; the time
//! comes from outside.
//!
//! What must stay true: only a signed tombstone takes an app away; older generations change nothing; and the
//! hosts of an app never count as away all at once, because then it is more likely that we are.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::{
    AppId, DesiredApp, DesiredState, Generation, HostHeartbeat, HostId, ReplicaState, ReplicaStatus, subjects,
};

/// Everything heard.
#[derive(Default)]
pub struct Table {
    desired: BTreeMap<AppId, DesiredApp>,
    /// The apps that serve under a name: one, but for a moment when names change hands.
    names: BTreeMap<String, BTreeSet<AppId>>,
    hosts: BTreeMap<HostId, Heard>,
    replicas: BTreeMap<(AppId, HostId), ReplicaStatus>,
    /// Since when heartbeats are heard, or were when they last were.
    listening: Option<Instant>,
    /// Since when nothing at all is heard, if it is so: silence then says nothing of hosts.
    away: Option<Instant>,
}

struct Heard {
    beat: HostHeartbeat,
    /// `None`: from disk, never heard since.
    at: Option<Instant>,
}

/// Where the requests of one app go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// The app.
    pub app: AppId,
    /// First segment of its URLs.
    pub name: String,
    /// What this was read from.
    pub generation: Generation,
    /// Hosts that are ready, with their addresses.
    pub replicas: Vec<(HostId, String)>,
}

impl Table {
    /// News of an app. False when it is none.
    pub fn hear_desired(&mut self, app: DesiredApp) -> bool {
        if self.desired.get(&app.app).is_some_and(|have| have.generation >= app.generation) {
            return false;
        }
        if let Some(name) = name_of(&app) {
            self.names.entry(name.to_owned()).or_default().insert(app.app.clone());
        }
        if let Some(before) = self.desired.insert(app.app.clone(), app)
            && let Some(name) = name_of(&before)
            && self.desired.get(&before.app).and_then(name_of) != Some(name)
            && let Some(apps) = self.names.get_mut(name)
        {
            apps.remove(&before.app);
            if apps.is_empty() {
                self.names.remove(name);
            }
        }
        true
    }
    /// The time by which hosts are judged. It stands still while nothing at all is heard, and nobody is silent who then had no time to
    /// say anything.
    pub fn judged_by(&mut self, now: Instant, is_connected: bool) -> Instant {
        if !is_connected {
            return *self.away.get_or_insert(now);
        }
        if self.away.take().is_some() || self.listening.is_none() {
            self.listening = Some(now);
        }
        now
    }
    /// Since when heartbeats are heard, if they are.
    pub fn listening(&self) -> Option<Instant> {
        self.listening.filter(|_| self.away.is_none())
    }
    /// A host is alive. True when its address or incarnation is new.
    pub fn hear_host(&mut self, beat: HostHeartbeat, now: Instant) -> bool {
        let before = self.hosts.get(&beat.host);
        let news = before.is_none_or(|before| {
            before.beat.incarnation != beat.incarnation
                || before.beat.accepting != beat.accepting
                || before.at.is_none_or(|at| now - at > missed())
        });
        self.hosts.insert(beat.host.clone(), Heard { beat, at: Some(now) });
        news
    }
    /// A host as it was known before a restart.
    pub fn remember_host(&mut self, beat: HostHeartbeat) {
        self.hosts.entry(beat.host.clone()).or_insert(Heard { beat, at: None });
    }
    /// A replica as its host tells.
    pub fn hear_replica(&mut self, status: ReplicaStatus) {
        self.replicas.insert((status.app.clone(), status.host.clone()), status);
    }
    /// A host unloaded an app.
    pub fn forget_replica(&mut self, app: &AppId, host: &HostId) {
        self.replicas.remove(&(app.clone(), host.clone()));
    }
    /// What is worth keeping over a restart, besides sealed desired state.
    pub fn snapshot(&self) -> (Vec<HostHeartbeat>, Vec<ReplicaStatus>) {
        (
            self.hosts.values().map(|heard| heard.beat.clone()).collect(),
            self.replicas.values().cloned().collect(),
        )
    }
    /// The routes of all apps, also of those that were removed: they have no replicas.
    pub fn routes(&self, now: Instant) -> Vec<Route> {
        self.desired.values().map(|desired| self.route(desired, now)).collect()
    }

    /// The route of the app of that name.
    pub fn route_of(&self, name: &str, now: Instant) -> Option<Route> {
        let app = self.names.get(name)?.first()?;
        self.desired.get(app).map(|desired| self.route(desired, now))
    }

    fn route(&self, desired: &DesiredApp, now: Instant) -> Route {
        let (app, generation) = (desired.app.clone(), desired.generation);
        let DesiredState::Serving(serving) = &desired.state else {
            return Route { app, name: String::new(), generation, replicas: Vec::new() };
        };
        let candidates = self.hosts.values().filter(|heard| self.serves(desired, &serving.placements, heard));
        let (mut alive, mut silent) = (Vec::new(), Vec::new());
        for heard in candidates {
            let replica = (heard.beat.host.clone(), heard.beat.address.clone());
            let since = heard.at.max(self.listening);
            let is_alive = since.is_some_and(|at| now.saturating_duration_since(at) <= missed());
            if is_alive && heard.beat.accepting { alive.push(replica) } else { silent.push(replica) }
        }
        let replicas = if alive.is_empty() { silent } else { alive };
        Route { app, name: serving.name.to_string(), generation, replicas }
    }

    fn serves(&self, desired: &DesiredApp, placements: &[HostId], heard: &Heard) -> bool {
        let Some(status) = self.replicas.get(&(desired.app.clone(), heard.beat.host.clone())) else {
            return false;
        };
        if status.incarnation != heard.beat.incarnation {
            return false; // it was started anew and has not said yet what it serves
        }
        match status.state {
            ReplicaState::Ready => {
                placements.contains(&status.host) || status.generation < desired.generation
            }
            ReplicaState::Loading | ReplicaState::Failed { .. } => status.serving.is_some(),
            ReplicaState::Draining => false,
        }
    }
}

fn name_of(desired: &DesiredApp) -> Option<&str> {
    match &desired.state {
        DesiredState::Serving(serving) => Some(serving.name.as_str()),
        DesiredState::Removed => None,
    }
}

fn missed() -> Duration {
    Duration::from_millis(subjects::HEARTBEAT_MISSED_MS)
}

#[cfg(test)]
mod tests {
    use crate::{Claim, Digest, Limits, Revision, Serving, Signer};

    use super::*;

    const APP: &str = "0b0f8a4e-0000-4000-8000-000000000002";
    const ORGANIZATION: &str = "0b0f8a4e-0000-4000-8000-000000000001";

    fn desired(number: u64, placements: &[&str]) -> DesiredApp {
        let claim = Claim {
            organization: ORGANIZATION.parse().unwrap(),
            app: APP.parse().unwrap(),
            revision: Revision(1),
            wasm: Digest::of(b""),
            wasm_bytes: 0,
            native: None,
        };
        let serving = Serving {
            name: "Shop".parse().unwrap(),
            claim: Signer::generate().seal(&claim),
            revision: Revision(1),
            placements: placements.iter().map(|host| host.parse().unwrap()).collect(),
            limits: Limits::default(),
            egress_allow: Vec::new(),
            settings: Default::default(),
            timers: Vec::new(),
            handlers: Vec::new(),
            publishes: false,
            database: false,
        };
        let state = if placements.is_empty() {
            DesiredState::Removed
        } else {
            DesiredState::Serving(Box::new(serving))
        };
        DesiredApp {
            organization: ORGANIZATION.parse().unwrap(),
            stage: "test".parse().unwrap(),
            app: APP.parse().unwrap(),
            generation: Generation { epoch: 0, number },
            state,
        }
    }
    fn beat(host: &str, incarnation: &str) -> HostHeartbeat {
        HostHeartbeat {
            host: host.parse().unwrap(),
            zone: "a".into(),
            incarnation: incarnation.into(),
            address: format!("{host}:1"),
            admin_address: String::new(),
            pid: 1,
            accepting: true,
            ready: 1,
        }
    }
    fn ready(host: &str, incarnation: &str, number: u64) -> ReplicaStatus {
        ReplicaStatus {
            host: host.parse().unwrap(),
            incarnation: incarnation.into(),
            app: APP.parse().unwrap(),
            generation: Generation { epoch: 0, number },
            serving: Some(Revision(1)),
            state: ReplicaState::Ready,
        }
    }
    #[track_caller]
    fn check(table: &Table, now: Instant, expect: &[&str]) {
        let hosts: Vec<String> =
            table.routes(now).remove(0).replicas.into_iter().map(|(host, _)| host.to_string()).collect();
        assert_eq!(hosts, expect);
    }
    #[test]
    fn a_name_leads_to_the_app_that_has_it_now() {
        let now = Instant::now();
        let mut table = two_hosts(now);
        assert_eq!(table.route_of("Shop", now), table.routes(now).pop());
        assert_eq!(table.route_of("Store", now), None);
        let mut renamed = desired(2, &["a", "b"]);
        if let DesiredState::Serving(serving) = &mut renamed.state {
            serving.name = "Store".parse().unwrap();
        }
        table.hear_desired(renamed);
        assert_eq!(table.route_of("Shop", now), None);
        assert_eq!(table.route_of("Store", now), table.routes(now).pop());
        table.hear_desired(desired(3, &[]));
        assert!(table.names.is_empty());
    }

    fn two_hosts(now: Instant) -> Table {
        let mut table = Table::default();
        table.hear_desired(desired(1, &["a", "b"]));
        for host in ["a", "b"] {
            table.hear_host(beat(host, "1"), now);
            table.hear_replica(ready(host, "1", 1));
        }
        table
    }

    #[test]
    fn a_silent_host_is_passed_over_but_never_all_of_them() {
        let start = Instant::now();
        let mut table = two_hosts(start);
        let later = start + missed() * 2;
        check(&table, later, &["a", "b"]);
        table.hear_host(beat("b", "1"), later);
        check(&table, later, &["b"]);
    }

    #[test]
    fn time_stands_still_while_nothing_is_heard_and_then_everybody_has_some() {
        let start = Instant::now();
        let mut table = two_hosts(start);
        assert_eq!((table.judged_by(start, true), table.listening()), (start, Some(start)));
        let (lost, again) = (start + missed() / 2, start + missed() * 20);
        assert_eq!(table.judged_by(lost, false), lost);
        assert_eq!((table.judged_by(again, false), table.listening()), (lost, None));
        assert_eq!((table.judged_by(again, true), table.listening()), (again, Some(again)));
        table.hear_host(beat("b", "1"), again);
        check(&table, again, &["a", "b"]);
        check(&table, again + missed() * 2, &["a", "b"]);
        table.hear_host(beat("b", "1"), again + missed() * 2);
        check(&table, again + missed() * 2, &["b"]);

        // As after a restart, from what is on the disk.
        let mut table = Table::default();
        table.hear_desired(desired(1, &["a", "b"]));
        for host in ["a", "b"] {
            table.remember_host(beat(host, "1"));
            table.hear_replica(ready(host, "1", 1));
        }
        table.judged_by(again, true);
        table.hear_host(beat("b", "1"), again);
        check(&table, again, &["a", "b"]);
    }

    #[test]
    fn a_restarted_host_serves_only_what_it_says_again() {
        let now = Instant::now();
        let mut table = two_hosts(now);
        table.hear_host(beat("a", "2"), now);
        check(&table, now, &["b"]);
        table.hear_replica(ready("a", "2", 1));
        check(&table, now, &["a", "b"]);
    }

    #[test]
    fn old_news_changes_nothing_and_only_a_tombstone_removes() {
        let now = Instant::now();
        let mut table = two_hosts(now);
        assert!(!table.hear_desired(desired(1, &["a"])));
        assert!(table.hear_desired(desired(2, &[])));
        assert!(!table.hear_desired(desired(1, &["a", "b"])));
        check(&table, now, &[]);
    }

    #[test]
    fn a_host_that_leaves_serves_until_it_drains() {
        let now = Instant::now();
        let mut table = two_hosts(now);
        table.hear_desired(desired(2, &["b"]));
        check(&table, now, &["a", "b"]);
        table.hear_replica(ReplicaStatus { state: ReplicaState::Draining, ..ready("a", "1", 2) });
        check(&table, now, &["b"]);
    }

    #[test]
    fn a_failed_new_revision_leaves_the_old_one_in_place() {
        let now = Instant::now();
        let mut table = two_hosts(now);
        let failed = ReplicaState::Failed { code: String::new(), message: String::new() };
        table.hear_replica(ReplicaStatus { state: failed, ..ready("a", "1", 2) });
        check(&table, now, &["a", "b"]);
    }
}
