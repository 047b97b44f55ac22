//! What a node has seen of the holders of keys for which it has no state machine.
//!
//! A holder is dead if its heartbeat stands still for its lease. So a node that looks at a key now and
//! then, each time by a new handle, has to remember what it saw before. An observation is kept for some
//! time after the last look. It is looked for when a machine is made, and noted when one is dropped and
//! at each inspection.

use crate::cluster::key::Key;
use crate::cluster::protocol::{Observation, Time};
use std::collections::{HashMap, VecDeque};
use std::time::Duration;

/// The number of notes that are kept at most, of all keys together: each look is a note, also if the key
/// has others. The oldest are forgotten first, and a key together with its last note.
const MAX_NOTES: usize = 10_000;

/// The observations of a node.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    keys: HashMap<Key, Remembered>,
    /// The notes, in their order: when each may be forgotten, its number, and its key.
    notes: VecDeque<(Time, u64, Key)>,
    last_note: u64,
}

#[derive(Clone, Copy, Debug)]
struct Remembered {
    seen: Observation,
    until: Time,
    /// The number of the last note of the key.
    note: u64,
}

impl Observations {
    /// Notes what was seen of `key`, for `keep_for`. Returns since when the holder is known not to have
    /// changed, which may be an earlier observation.
    pub(crate) fn note(
        &mut self,
        key: &Key,
        mut seen: Observation,
        keep_for: Duration,
        now: Time,
    ) -> Time {
        if let Some(before) = self.find(key, now)
            && before.liveness == seen.liveness
        {
            seen.since = seen.since.min(before.since);
        }
        let until = now + keep_for;
        self.last_note += 1;
        self.keys.insert(key.clone(), Remembered { seen, until, note: self.last_note });
        self.notes.push_back((until, self.last_note, key.clone()));
        self.forget_old(now);
        seen.since
    }

    /// What was seen of `key`, if that is remembered.
    pub(crate) fn find(&self, key: &Key, now: Time) -> Option<Observation> {
        self.keys.get(key).filter(|known| now < known.until).map(|known| known.seen)
    }

    /// Forgets what is too old, and the oldest if there is too much.
    fn forget_old(&mut self, now: Time) {
        while let Some((until, ..)) = self.notes.front()
            && (*until <= now || self.notes.len() > MAX_NOTES)
            && let Some((_, note, key)) = self.notes.pop_front()
        {
            // It may have been noted anew since.
            if self.keys.get(&key).is_some_and(|known| known.note == note) {
                self.keys.remove(&key);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{MAX_NOTES, Observations};
    use crate::cluster::key::Key;
    use crate::cluster::protocol::register::{ClaimId, Liveness};
    use crate::cluster::protocol::{Observation, Time};
    use crate::cluster::transport::NodeId;
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

    #[test]
    fn the_first_sight_of_a_heartbeat_is_kept_while_there_are_looks() {
        let mut all = Observations::default();
        let key = Key::new("k").unwrap();
        assert_eq!(all.note(&key, seen(7, 10), LEASE, at(10)), at(10));
        assert_eq!(all.note(&key, seen(7, 12), LEASE, at(12)), at(10));
        assert_eq!(all.find(&key, at(14)), Some(seen(7, 10)), "from the second look on");
        assert_eq!(all.find(&key, at(15)), None);
        assert_eq!(all.note(&key, seen(7, 15), LEASE, at(15)), at(15));
        assert_eq!(all.note(&key, seen(8, 16), LEASE, at(16)), at(16), "it has moved");
    }

    #[test]
    fn what_is_old_is_forgotten_and_the_number_of_notes_is_bounded() {
        let mut all = Observations::default();
        let key = |n: usize| Key::new(&format!("k{n}")).unwrap();
        for n in 0..MAX_NOTES + 10 {
            all.note(&key(n), seen(1, 10), LEASE, at(10));
        }
        assert_eq!((all.keys.len(), all.notes.len()), (MAX_NOTES, MAX_NOTES));
        assert!(all.find(&key(9), at(10)).is_none() && all.find(&key(10), at(10)).is_some());
        for _ in 0..3 * MAX_NOTES {
            all.note(&key(10), seen(1, 10), LEASE, at(12));
        }
        assert!(all.find(&key(10), at(12)).is_some());
        assert!(all.notes.len() <= MAX_NOTES);
        all.note(&key(0), seen(1, 20), LEASE, at(20));
        assert_eq!((all.keys.len(), all.notes.len()), (1, 1));
    }
}
