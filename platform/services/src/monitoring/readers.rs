//! How many read logs at once: of all organizations, and of one, so that none takes the places of the others.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use odeon_protocol::OrganizationId;

/// Readers of logs at once; past that, 429.
const READERS_MAX: usize = 64;
/// The same of one organization.
const READERS_OF_ONE_MAX: usize = 16;

/// See the module.
#[derive(Default)]
pub(crate) struct Readers {
    reading: Mutex<BTreeMap<OrganizationId, usize>>,
}

impl Readers {
    /// A place for a reader; or the number that there may be, when there are as many.
    pub(super) fn enter(self: &Arc<Self>, organization: &OrganizationId) -> Result<Place, usize> {
        let mut reading = self.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if reading.values().sum::<usize>() >= READERS_MAX {
            return Err(READERS_MAX);
        }
        let own = reading.entry(organization.clone()).or_default();
        if *own >= READERS_OF_ONE_MAX {
            return Err(READERS_OF_ONE_MAX);
        }
        *own += 1;
        Ok(Place { readers: self.clone(), organization: organization.clone() })
    }
}

/// Held while somebody reads.
pub(super) struct Place {
    readers: Arc<Readers>,
    organization: OrganizationId,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut reading = self.readers.reading.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(own) = reading.get_mut(&self.organization) {
            *own -= 1;
            if *own == 0 {
                reading.remove(&self.organization);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_organization_takes_the_places_of_the_others() {
        let readers = Arc::new(Readers::default());
        let organization =
            |n: usize| format!("0b0f8a4e-0000-4000-8000-00000000000{n}").parse::<OrganizationId>().unwrap();
        let mut places: Vec<Place> = Vec::new();
        for n in 0..4 {
            places.extend((0..READERS_OF_ONE_MAX).map(|_| readers.enter(&organization(n)).ok().unwrap()));
            let expect = if n < 3 { READERS_OF_ONE_MAX } else { READERS_MAX };
            assert_eq!(readers.enter(&organization(n)).err(), Some(expect));
        }
        assert_eq!(readers.enter(&organization(5)).err(), Some(READERS_MAX));
        places.pop();
        assert!(readers.enter(&organization(5)).is_ok());
        drop(places);
        assert!(readers.reading.lock().unwrap().is_empty());
    }
}
