//! Connections by address, so that one address cannot take all of them.
//!
//! Of IPv6 the network counts: whoever has one address of it has all 2^64.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

#[derive(Clone, Default)]
pub(crate) struct Peers(Arc<Mutex<HashMap<IpAddr, usize>>>);

/// A connection, until it is dropped.
pub(crate) struct Place {
    peers: Peers,
    key: IpAddr,
}

impl Peers {
    /// A place for a connection from `address`, unless it has `max` of them.
    pub(crate) fn enter(&self, address: IpAddr, max: usize) -> Option<Place> {
        let key = key(address);
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(key).or_insert(0);
        if *count >= max {
            return None;
        }
        *count += 1;
        Some(Place { peers: self.clone(), key })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.peers.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

fn key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => IpAddr::V4(address),
        IpAddr::V6(address) => IpAddr::V6((address.to_bits() >> 64 << 64).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_as_many_connections_as_it_may() {
        let peers = Peers::default();
        let enter = |address: &str| peers.enter(address.parse().unwrap(), 2);
        let (first, second) = (enter("10.0.0.1"), enter("::ffff:10.0.0.1"));
        assert!(first.is_some() && second.is_some());
        assert!(enter("10.0.0.1").is_none(), "the mapped address is the same address");
        assert!(enter("10.0.0.2").is_some());
        drop(first);
        assert!(enter("10.0.0.1").is_some());
        let (_first, _second) = (enter("2001:db8::1"), enter("2001:db8::2"));
        assert!(enter("2001:db8::3").is_none(), "one network");
        assert!(enter("2001:db8:0:1::3").is_some());
    }

    #[test]
    fn nothing_is_kept_of_those_who_left() {
        let peers = Peers::default();
        drop(peers.enter("10.0.0.1".parse().unwrap(), 1));
        assert!(peers.0.lock().unwrap().is_empty());
    }
}
