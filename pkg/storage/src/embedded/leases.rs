//! Leases: which keys end when. Pure; time comes in.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::Instant;

use crate::LeaseId;

/// All leases.
#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: HashMap<LeaseId, Lease>,
    by_end: BTreeSet<(Instant, i64)>,
}

#[derive(Debug)]
struct Lease {
    ends: Instant,
    keys: HashSet<Arc<str>>,
}

/// A change of leases, made when the transaction it belongs to is durable.
#[derive(Debug)]
pub(super) enum LeaseChange {
    Grant(LeaseId, Instant),
    Attach(LeaseId, Arc<str>),
    Detach(LeaseId, Arc<str>),
    Remove(LeaseId),
}

impl Leases {
    pub(super) fn len(&self) -> usize {
        self.leases.len()
    }

    pub(super) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// When the next lease ends.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.by_end.first().map(|(end, _)| *end)
    }

    /// The first lease that has ended, with up to `max` of its keys; it stays until it is removed.
    pub(super) fn ended(&self, now: Instant, max: usize) -> Option<(LeaseId, Vec<Arc<str>>)> {
        let (_, id) = self.by_end.first().filter(|(end, _)| *end <= now)?;
        let id = LeaseId(*id);
        let keys = self.leases.get(&id)?.keys.iter().take(max).cloned().collect();
        Some((id, keys))
    }

    pub(super) fn apply(&mut self, change: LeaseChange) {
        match change {
            LeaseChange::Grant(id, ends) => {
                self.by_end.insert((ends, id.0));
                self.leases.insert(id, Lease { ends, keys: HashSet::new() });
            }
            LeaseChange::Attach(id, key) => {
                if let Some(lease) = self.leases.get_mut(&id) {
                    lease.keys.insert(key);
                }
            }
            LeaseChange::Detach(id, key) => {
                if let Some(lease) = self.leases.get_mut(&id) {
                    lease.keys.remove(&key);
                }
            }
            LeaseChange::Remove(id) => {
                if let Some(lease) = self.leases.remove(&id) {
                    self.by_end.remove(&(lease.ends, id.0));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn leases_end_in_order_with_the_keys_they_still_have() {
        let now = Instant::now();
        let at = |seconds| now + Duration::from_secs(seconds);
        let mut leases = Leases::default();
        leases.apply(LeaseChange::Grant(LeaseId(1), at(20)));
        leases.apply(LeaseChange::Grant(LeaseId(2), at(10)));
        leases.apply(LeaseChange::Attach(LeaseId(2), "a".into()));
        leases.apply(LeaseChange::Attach(LeaseId(2), "b".into()));
        leases.apply(LeaseChange::Detach(LeaseId(2), "a".into()));
        assert_eq!(leases.next_end(), Some(at(10)));
        assert_eq!(leases.ended(at(9), 10), None);
        assert_eq!(leases.ended(at(10), 10), Some((LeaseId(2), vec!["b".into()])));
        leases.apply(LeaseChange::Remove(LeaseId(2)));
        assert_eq!(leases.next_end(), Some(at(20)));
        assert_eq!(leases.ended(at(20), 10), Some((LeaseId(1), vec![])));
        leases.apply(LeaseChange::Remove(LeaseId(1)));
        assert_eq!((leases.len(), leases.next_end()), (0, None));
    }
}
