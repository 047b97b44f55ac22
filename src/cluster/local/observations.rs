//! What a node has seen of keys for which it has no state machine.
//!
//! - **The largest version of a key.** Versions only grow, so a smaller one tells that the engine went
//!   back, although the machine that saw the larger one is gone. It is kept for as long as the node
//!   lives.
//! - **The holder.** A holder is dead if its heartbeat stands still for its lease. So a node that looks
//!   at a key now and then, each time by a new handle, has to remember what it saw before. It is kept for
//!   some time after the last look.
//!
//! Both are looked for when a machine is made, and noted when one is dropped and at each inspection. Of
//! more than [`MAX_KEYS`] keys those are forgotten that were noted longest ago: a node may use any number
//! of names, and each of them once.

use crate::cluster::key::Key;
use crate::cluster::protocol::{Observation, Time, WentBack};
use crate::cluster::transport::Version;
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

/// The number of keys of which something is kept at most. They take 5 MB at most, with the longest names.
const MAX_KEYS: usize = 10_000;

/// The observations of a node.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    keys: HashMap<Key, SeenKey>,
    /// The same keys by the number of their last note: the one that was noted longest ago comes first.
    order: BTreeMap<u64, Key>,
    last_note: u64,
}

#[derive(Clone, Copy, Debug, Default)]
struct SeenKey {
    /// The number of the last note of the key.
    note: u64,
    /// The largest version that an answer has shown.
    newest: Option<Version>,
    /// The observer was told that the engine shows a smaller version than this one.
    told_of: Option<Version>,
    /// What was seen of the holder, and until when it is kept.
    holder: Option<(Observation, Time)>,
}

impl Observations {
    /// Notes that an answer has shown this version of `key`.
    pub(crate) fn note_version(&mut self, key: &Key, version: Version) {
        let seen = self.note(key);
        seen.newest = seen.newest.max(Some(version));
    }

    /// Notes what was seen of the holder of `key`, for `keep_for`. Returns since when the holder is known
    /// not to have changed, which may be an earlier observation.
    pub(crate) fn note_holder(
        &mut self,
        key: &Key,
        mut holder: Observation,
        keep_for: Duration,
        now: Time,
    ) -> Time {
        if let Some(before) = self.holder(key, now)
            && before.liveness == holder.liveness
        {
            holder.since = holder.since.min(before.since);
        }
        self.note(key).holder = Some((holder, now + keep_for));
        holder.since
    }

    /// Whether the observer has yet to be told that the engine went back like this. The caller tells it.
    pub(crate) fn is_news(&mut self, key: &Key, why: WentBack) -> bool {
        let seen = self.note(key);
        let is_news = seen.told_of < Some(why.newest);
        seen.told_of = seen.told_of.max(Some(why.newest));
        is_news
    }

    /// The largest version of `key` that was noted, if that is remembered.
    pub(crate) fn newest(&self, key: &Key) -> Option<Version> {
        self.keys.get(key)?.newest
    }

    /// What was seen of the holder of `key`, if that is remembered.
    pub(crate) fn holder(&self, key: &Key, now: Time) -> Option<Observation> {
        let (holder, until) = self.keys.get(key)?.holder?;
        (now < until).then_some(holder)
    }

    /// The place for a new note of `key`.
    fn note(&mut self, key: &Key) -> &mut SeenKey {
        if !self.keys.contains_key(key)
            && self.keys.len() >= MAX_KEYS
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.keys.remove(&oldest);
        }
        self.last_note += 1;
        let seen = self.keys.entry(key.clone()).or_default();
        self.order.remove(&std::mem::replace(&mut seen.note, self.last_note));
        self.order.insert(self.last_note, key.clone());
        seen
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_KEYS, Observations};
    use crate::cluster::key::Key;
    use crate::cluster::protocol::register::{ClaimId, Liveness};
    use crate::cluster::protocol::{Observation, Time, WentBack};
    use crate::cluster::transport::{NodeId, Version};
    use std::time::Duration;

    const LEASE: Duration = Duration::from_secs(3);

    fn at(seconds: u64) -> Time {
        Time::new(Duration::from_secs(seconds))
    }

    fn seen(heartbeat: u64, since: u64) -> Observation {
        let claim = ClaimId { node: NodeId::new(1), nonce: 1 };
        let liveness = Liveness { holder: Some(claim), heartbeat };
        Observation { liveness, since: at(since), lease: LEASE }
    }

    fn version(number: u64) -> Version {
        Version::new(number).unwrap()
    }

    #[test]
    fn the_first_sight_of_a_heartbeat_is_kept_while_there_are_looks() {
        let mut all = Observations::default();
        let key = Key::new("k").unwrap();
        assert_eq!(all.note_holder(&key, seen(7, 10), LEASE, at(10)), at(10));
        assert_eq!(all.note_holder(&key, seen(7, 12), LEASE, at(12)), at(10));
        assert_eq!(all.holder(&key, at(14)), Some(seen(7, 10)), "from the second look on");
        assert_eq!(all.holder(&key, at(15)), None);
        assert_eq!(all.note_holder(&key, seen(7, 15), LEASE, at(15)), at(15));
        assert_eq!(all.note_holder(&key, seen(8, 16), LEASE, at(16)), at(16), "it has moved");
    }

    #[test]
    fn the_largest_version_is_kept_whatever_is_noted_later() {
        let mut all = Observations::default();
        let key = Key::new("k").unwrap();
        assert_eq!(all.newest(&key), None);
        for (noted, newest) in [(5, 5), (9, 9), (3, 9)] {
            all.note_version(&key, version(noted));
            all.note_holder(&key, seen(1, 10), LEASE, at(10));
            assert_eq!(all.newest(&key), Some(version(newest)));
        }
        let went_back = |shown, newest| WentBack { shown: version(shown), newest: version(newest) };
        assert!(all.is_news(&key, went_back(3, 9)));
        assert!(!all.is_news(&key, went_back(3, 9)), "from a new machine");
        assert!(!all.is_news(&key, went_back(2, 8)), "from one that has seen less");
        assert!(all.is_news(&key, went_back(4, 10)));
        assert_eq!(all.newest(&key), Some(version(9)));
    }

    #[test]
    fn of_too_many_keys_those_are_forgotten_that_were_noted_longest_ago() {
        let mut all = Observations::default();
        let key = |n: usize| Key::new(&format!("k{n}")).unwrap();
        for n in 0..MAX_KEYS {
            all.note_version(&key(n), version(1));
        }
        // One that is noted often does not push out others.
        for _ in 0..3 * MAX_KEYS {
            all.note_holder(&key(0), seen(1, 10), LEASE, at(10));
        }
        assert!((0..MAX_KEYS).all(|n| all.newest(&key(n)).is_some()));
        for n in MAX_KEYS..MAX_KEYS + 10 {
            all.note_version(&key(n), version(1));
        }
        let forgotten: Vec<_> =
            (0..MAX_KEYS + 10).filter(|n| all.newest(&key(*n)).is_none()).collect();
        assert_eq!(forgotten, Vec::from_iter(1..=10));
        assert_eq!((all.keys.len(), all.order.len()), (MAX_KEYS, MAX_KEYS));
    }
}
