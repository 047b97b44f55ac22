//! What was seen of each register, so that an old value is noticed that comes again.
//!
//! Each write expects the version before it. So the value of a register at version `v` was made for a version `e`
//! that is the one right before `v`. A reader that has seen the version `m`, and then `v` above `m`, knows that `e`
//! is not below `m`; for an old value under a new version it is. At the same version it finds the same value. What an
//! older answer shows (`v` below `m`) says nothing: it may have come late, and if the engine went back, the node
//! notices it by the version.
//!
//! A value that was made for no register (`e` is none) may come at any time, since an engine deletes registers that
//! are not in use. Only one that was seen before, under a smaller version, is noticed.

use super::value::{Nonce, Sight};
use crate::cluster::{Key, Version};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// The number of keys that are surely remembered. Twice as many may be.
const MAX_KEYS: usize = 10_000;

/// What was seen, of some thousands of registers.
#[derive(Debug, Default)]
pub(super) struct Seen {
    recent: HashMap<Key, Trace>,
    /// Those that were seen before the `recent` ones.
    earlier: HashMap<Key, Trace>,
}

/// What was seen of a register.
#[derive(Clone, Copy, Debug)]
struct Trace {
    newest: Version,
    nonce: Nonce,
    /// The nonce of the last value that was made for no register.
    first: Option<Nonce>,
    /// What was refused last, and has not been put right since.
    doubt: Option<Doubt>,
}

/// A value that looks like a replay, on an engine that may have lost writes instead.
#[derive(Clone, Copy, Debug)]
struct Doubt {
    version: Version,
    nonce: Nonce,
    /// Since when it, and what has followed it, has been refused.
    since: Instant,
}

/// An old value has come again, or the engine has lost writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Replay {
    /// The version that was seen before.
    pub(super) newest: Version,
}

impl Seen {
    /// The largest version of the register that was seen, if that is remembered.
    pub(super) fn newest(&self, stored: &Key) -> Option<Version> {
        self.get(stored).map(|trace| trace.newest)
    }

    /// Notes what an answer has shown, or what this process has written.
    ///
    /// `before` is the newest version at the time of the call: an engine that shows a smaller one went back. If the
    /// engine can lose writes it may do that, so what it shows counts from then on; and nobody can tell a replay from
    /// lost writes, so it is believed when it has been refused for so long (`believed_after`).
    ///
    /// # Errors
    ///
    /// [`Replay`]. Nothing is noted then.
    pub(super) fn note(
        &mut self,
        stored: &Key,
        sight: Sight,
        before: Option<Version>,
        believed_after: Option<Duration>,
    ) -> Result<(), Replay> {
        let Sight { version, expected, nonce } = sight;
        let known = self.get(stored);
        let first = match (expected, known) {
            (None, _) => Some(nonce),
            (Some(_), Some(known)) => known.first,
            (Some(_), None) => None,
        };
        let now = Trace { newest: version, nonce, first, doubt: None };
        let Some(known) = known else {
            self.set(stored, now);
            return Ok(());
        };
        let newest = known.newest;
        let is_replay = if version > newest {
            match expected {
                Some(expected) => expected < newest,
                None => known.first == Some(nonce),
            }
        } else {
            version == newest && nonce != known.nonce
        };
        let went_back = before.is_some_and(|before| version < before);
        if is_replay {
            // The doubt is about this value, or about one that this one follows; another one is doubted anew.
            let is_same = |doubt: &Doubt| {
                doubt.nonce == nonce || expected.is_some_and(|expected| expected >= doubt.version)
            };
            let since = known.doubt.filter(is_same).map_or_else(Instant::now, |doubt| doubt.since);
            if believed_after.is_some_and(|time| since.elapsed() >= time) {
                self.set(stored, now);
                return Ok(());
            }
            let doubt = Some(Doubt { version, nonce, since });
            self.set(stored, Trace { doubt, ..known });
            return Err(Replay { newest });
        }
        if version == newest {
            // It was seen again: what a node looks at is not forgotten for what it does not, and nothing was lost.
            self.set(stored, Trace { doubt: None, ..known });
        } else if version > newest || (believed_after.is_some() && went_back) {
            self.set(stored, now);
        }
        Ok(())
    }

    /// Notes what this process has written: it is no replay, whatever was seen before. `before` is the newest version at
    /// the time of the call: a smaller one shows that the engine went back.
    pub(super) fn wrote(&mut self, stored: &Key, sight: Sight, before: Option<Version>) {
        let Sight { version, expected, nonce } = sight;
        let known = self.get(stored);
        let went_back = before.is_some_and(|before| version <= before);
        if went_back || known.is_none_or(|known| version > known.newest) {
            let first =
                if expected.is_none() { Some(nonce) } else { known.and_then(|it| it.first) };
            self.set(stored, Trace { newest: version, nonce, first, doubt: None });
        }
    }

    fn get(&self, stored: &Key) -> Option<Trace> {
        self.recent.get(stored).or_else(|| self.earlier.get(stored)).copied()
    }

    fn set(&mut self, stored: &Key, trace: Trace) {
        if let Some(known) = self.recent.get_mut(stored) {
            *known = trace;
            return;
        }
        if self.recent.len() >= MAX_KEYS {
            self.earlier = std::mem::take(&mut self.recent);
        }
        self.recent.insert(stored.clone(), trace);
    }
}

#[cfg(test)]
mod tests {
    use super::{Duration, MAX_KEYS, Replay, Seen};
    use crate::cluster::layers::sealed::value::Sight;
    use crate::cluster::{Key, Version};

    const HOUR: Duration = Duration::from_secs(3600);

    fn version(number: u64) -> Version {
        Version::new(number).unwrap()
    }

    /// A value at version `at`, made for `expected` (0: none), by the write with this number.
    fn sight(at: u64, expected: u64, write: u8) -> Sight {
        let expected = (expected > 0).then(|| version(expected));
        Sight { version: version(at), expected, nonce: [write; 24] }
    }

    fn key(n: usize) -> Key {
        Key::new(&format!("k{n}")).unwrap()
    }

    fn replay(newest: u64) -> Result<(), Replay> {
        Err(Replay { newest: version(newest) })
    }

    /// Notes at a call that began just now.
    fn note(seen: &mut Seen, sight: Sight, is_lossy: bool) -> Result<(), Replay> {
        let before = seen.newest(&key(0));
        seen.note(&key(0), sight, before, is_lossy.then_some(HOUR))
    }

    /// The same when replays have been refused for long enough.
    fn believe(seen: &mut Seen, sight: Sight) {
        let before = seen.newest(&key(0));
        assert_eq!(seen.note(&key(0), sight, before, Some(Duration::ZERO)), Ok(()), "{sight:?}");
    }

    #[test]
    fn an_old_value_under_a_new_version_is_refused_for_good() {
        let mut seen = Seen::default();
        for good in [sight(10, 0, 1), sight(15, 10, 2), sight(15, 10, 2), sight(30, 22, 4)] {
            assert_eq!(note(&mut seen, good, false), Ok(()), "{good:?}");
        }
        for bad in [sight(31, 10, 2), sight(31, 22, 4), sight(31, 29, 5), sight(30, 22, 9)] {
            for _ in 0..2 {
                assert_eq!(note(&mut seen, bad, false), replay(30), "{bad:?}");
            }
        }
        // A late answer, and the next write.
        assert_eq!(note(&mut seen, sight(15, 10, 2), false), Ok(()));
        assert_eq!(note(&mut seen, sight(31, 30, 6), false), Ok(()));
    }

    #[test]
    fn a_register_may_be_made_anew_but_not_by_the_write_that_was_seen() {
        let mut seen = Seen::default();
        assert_eq!(note(&mut seen, sight(10, 0, 1), false), Ok(()));
        assert_eq!(note(&mut seen, sight(11, 10, 2), false), Ok(()));
        assert_eq!(note(&mut seen, sight(12, 0, 1), false), replay(11));
        assert_eq!(note(&mut seen, sight(12, 0, 3), false), Ok(()));
    }

    #[test]
    fn a_lossy_engine_is_believed_when_it_was_refused_for_long_enough() {
        let mut seen = Seen::default();
        assert_eq!(note(&mut seen, sight(20, 0, 1), true), Ok(()));
        // Who gets the error does not matter: it comes again.
        for _ in 0..3 {
            assert_eq!(note(&mut seen, sight(25, 15, 2), true), replay(20));
        }
        // What follows the newest is good at once, and another replay is refused anew.
        assert_eq!(note(&mut seen, sight(26, 20, 3), true), Ok(()));
        assert_eq!(note(&mut seen, sight(27, 15, 2), true), replay(26));
        believe(&mut seen, sight(27, 15, 2));
        assert_eq!(note(&mut seen, sight(27, 15, 2), true), Ok(()));
        assert_eq!(note(&mut seen, sight(27, 15, 3), true), replay(27));
        believe(&mut seen, sight(27, 15, 3));
        // It goes back visibly, which the node notices; what is written on that is good.
        assert_eq!(note(&mut seen, sight(10, 5, 4), true), Ok(()));
        assert_eq!(note(&mut seen, sight(30, 10, 5), true), Ok(()));
        // An answer that has come late is no reason to forget.
        let early = Some(version(10));
        assert_eq!(seen.note(&key(0), sight(25, 15, 3), early, Some(HOUR)), Ok(()));
        assert_eq!(note(&mut seen, sight(31, 26, 6), true), replay(30));
    }

    /// After a restore, on which this process has written without having noticed it.
    #[test]
    fn what_this_process_has_written_is_no_replay() {
        let mut seen = Seen::default();
        assert_eq!(note(&mut seen, sight(30, 29, 1), false), Ok(()));
        assert_eq!(note(&mut seen, sight(25, 24, 2), false), Ok(()));
        let before = seen.newest(&key(0));
        seen.wrote(&key(0), sight(1_000, 25, 3), before);
        assert_eq!(note(&mut seen, sight(1_000, 25, 3), false), Ok(()));
        assert_eq!(note(&mut seen, sight(1_001, 25, 4), false), replay(1_000));
        // A version below what was seen, and the same one.
        for written in [40, 1_000] {
            let mut seen = Seen::default();
            assert_eq!(note(&mut seen, sight(1_000, 999, 1), false), Ok(()));
            let before = seen.newest(&key(0));
            seen.wrote(&key(0), sight(written, 25, 3), before);
            assert_eq!(note(&mut seen, sight(written, 25, 3), false), Ok(()));
            assert_eq!(note(&mut seen, sight(written + 5, written, 4), false), Ok(()));
        }
        // The response to an earlier write that comes late is no reason to forget.
        let mut seen = Seen::default();
        assert_eq!(note(&mut seen, sight(50, 49, 1), false), Ok(()));
        seen.wrote(&key(0), sight(40, 30, 2), Some(version(30)));
        assert_eq!(note(&mut seen, sight(51, 40, 3), false), replay(50));
    }

    /// A replay that was refused for long says nothing about another one, nor about itself once the good value was there.
    #[test]
    fn a_doubt_is_about_one_value_and_ends_with_a_good_one() {
        let long_ago = |seen: &mut Seen| {
            let trace = seen.recent.get_mut(&key(0)).expect("it is known");
            let doubt = trace.doubt.as_mut().expect("it is doubted");
            doubt.since = doubt.since.checked_sub(2 * HOUR).expect("the machine runs for longer");
        };
        let mut seen = Seen::default();
        assert_eq!(note(&mut seen, sight(20, 0, 1), true), Ok(()));
        assert_eq!(note(&mut seen, sight(25, 15, 2), true), replay(20));
        long_ago(&mut seen);
        assert_eq!(note(&mut seen, sight(26, 14, 3), true), replay(20));
        // That is another doubt now. What follows it is no other one.
        long_ago(&mut seen);
        assert_eq!(note(&mut seen, sight(28, 26, 4), true), Ok(()));
        assert_eq!(note(&mut seen, sight(30, 15, 2), true), replay(28));
        long_ago(&mut seen);
        assert_eq!(note(&mut seen, sight(28, 26, 4), true), Ok(()));
        assert_eq!(note(&mut seen, sight(30, 15, 2), true), replay(28));
    }

    #[test]
    fn a_key_that_is_looked_at_is_not_forgotten() {
        let mut seen = Seen::default();
        for n in 0..3 * MAX_KEYS {
            assert_eq!(seen.note(&key(n), sight(10, 0, 1), None, None), Ok(()));
            assert_eq!(note(&mut seen, sight(10, 0, 1), false), Ok(()));
        }
        assert!(seen.newest(&key(0)).is_some() && seen.newest(&key(1)).is_none());
    }

    #[test]
    fn ten_thousand_keys_are_remembered_and_not_all() {
        let mut seen = Seen::default();
        for n in 0..3 * MAX_KEYS {
            assert_eq!(seen.note(&key(n), sight(10, 0, 1), None, None), Ok(()));
        }
        assert!((2 * MAX_KEYS..3 * MAX_KEYS).all(|n| seen.newest(&key(n)).is_some()));
        assert!(seen.newest(&key(0)).is_none());
        assert!(seen.recent.len() + seen.earlier.len() <= 2 * MAX_KEYS);
    }
}
