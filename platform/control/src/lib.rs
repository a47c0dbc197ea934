//! Pure planning: which hosts hold a replica of an app. No clock, no network, no randomness, so that the
//! same function runs in the Platform, in tests and in a simulator.
//!
//! Invariants of [`place`]:
//! - never two replicas of an app on one host;
//! - as many different zones as hosts allow;
//! - a replica stays where it is unless its host is gone or the spread over zones gets better: moving
//!   costs a cold replica, so it needs a reason;
//! - the same input gives the same answer, whatever the order of the hosts.

use std::collections::{BTreeMap, BTreeSet};

use odeon_protocol::HostId;

/// What the planner knows of a host that may take replicas.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostView {
    /// The host.
    pub id: HostId,
    /// Its availability zone.
    pub zone: String,
    /// Replicas of all apps that it holds or is about to hold.
    pub replicas: u32,
}

/// How many replicas an app has in a stage before anything scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Spread {
    /// Wanted replicas. Fewer hosts than this give one replica on each.
    pub replicas: u32,
}

impl Spread {
    /// The default of a stage: production survives a zone, test shows two-replica mistakes, any other stage is cheap.
    pub fn of_stage(stage: &str) -> Self {
        match stage {
            "production" | "test" => Self { replicas: 2 },
            _ => Self { replicas: 1 },
        }
    }
}

/// Chooses hosts for one app. `current` is where it is wanted now, alive or not.
pub fn place(spread: Spread, hosts: &[HostView], current: &[HostId]) -> Vec<HostId> {
    let alive: BTreeMap<&HostId, &HostView> = hosts.iter().map(|host| (&host.id, host)).collect();
    let mut chosen: Vec<&HostView> = Vec::new();
    // Replicas that stay, best spread first: of two in one zone, only the first is certain to stay.
    let mut candidates: Vec<&HostView> = current.iter().filter_map(|id| alive.get(id).copied()).collect();
    candidates.sort_by(|a, b| a.id.cmp(&b.id));
    let others = {
        let held: BTreeSet<&HostId> = candidates.iter().map(|host| &host.id).collect();
        let mut others: Vec<&HostView> =
            alive.values().copied().filter(|host| !held.contains(&host.id)).collect();
        others.sort_by(|a, b| (a.replicas, &a.id).cmp(&(b.replicas, &b.id)));
        others
    };
    candidates.extend(others);
    while chosen.len() < spread.replicas as usize {
        let used: BTreeSet<&str> = chosen.iter().map(|host| host.zone.as_str()).collect();
        let next = candidates
            .iter()
            .position(|host| !used.contains(host.zone.as_str()))
            .or(if candidates.is_empty() { None } else { Some(0) });
        match next {
            Some(at) => chosen.push(candidates.remove(at)),
            None => break,
        }
    }
    let mut ids: Vec<HostId> = chosen.into_iter().map(|host| host.id.clone()).collect();
    ids.sort();
    ids
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(id: &str, zone: &str, replicas: u32) -> HostView {
        HostView { id: id.parse().unwrap(), zone: zone.into(), replicas }
    }
    #[track_caller]
    fn check(replicas: u32, hosts: &[HostView], current: &[&str], expect: &[&str]) {
        let current: Vec<HostId> = current.iter().map(|id| id.parse().unwrap()).collect();
        let placed = place(Spread { replicas }, hosts, &current);
        let placed: Vec<&str> = placed.iter().map(HostId::as_str).collect();
        assert_eq!(placed, expect);
    }

    #[test]
    fn replicas_go_to_different_zones_and_the_emptier_host() {
        let hosts = [host("a1", "a", 5), host("a2", "a", 1), host("b1", "b", 9)];
        check(2, &hosts, &[], &["a2", "b1"]);
        check(1, &hosts, &[], &["a2"]);
    }

    #[test]
    fn a_replica_stays_while_its_host_lives() {
        let hosts = [host("a1", "a", 5), host("b1", "b", 0), host("c1", "c", 0)];
        check(2, &hosts, &["a1", "c1"], &["a1", "c1"]);
        check(2, &hosts[..2], &["a1", "c1"], &["a1", "b1"]);
    }

    #[test]
    fn a_second_zone_is_a_reason_to_move() {
        let hosts = [host("a1", "a", 0), host("a2", "a", 0), host("b1", "b", 7)];
        check(2, &hosts, &["a1", "a2"], &["a1", "b1"]);
    }

    #[test]
    fn fewer_hosts_than_replicas_is_not_an_error() {
        check(3, &[host("a1", "a", 0)], &[], &["a1"]);
        check(3, &[], &["a1"], &[]);
    }

    #[test]
    fn one_zone_still_gets_replicas_on_different_hosts() {
        check(2, &[host("a1", "a", 0), host("a2", "a", 0)], &[], &["a1", "a2"]);
    }
}
