//! Whether some order of the operations of one key explains their responses.
//!
//! An operation takes effect at one moment between its invocation and its response. The search tries
//! the orders that this admits. Of the operations that could come next, a read of the current state
//! is taken at once, since it excludes no later choice; each write is tried. There is little to try: a
//! write names the version that it replaces and the one that it makes, and of several writes that
//! replace the same version only one can have happened, unless the register was deleted in between.

use crate::cluster::Version;
use std::collections::HashSet;

/// What an operation did to a register, if its response is true.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transition {
    /// It saw this version.
    Read(Option<Version>),
    /// It made `to` out of `from`.
    Write { from: Option<Version>, to: Version },
    /// It left no register.
    Delete,
}

/// The interval in which a transition happened: between an invocation and its response.
#[derive(Clone, Copy, Debug)]
pub(super) struct Interval {
    pub(super) transition: Transition,
    pub(super) invoked: u64,
    /// `u64::MAX`: there is no response, and the transition need not have happened.
    pub(super) responded: u64,
}

/// What the register may do without an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Durability {
    /// Nothing.
    Keeps,
    /// It may lose its last writes, at any moment.
    MayLose,
}

/// How far a search has come.
#[derive(Clone, PartialEq, Eq, Hash)]
struct SearchState {
    taken: Vec<bool>,
    /// The current version is the last one. Those before it are the ones that it was made out of, if
    /// writes may be lost.
    states: Vec<Option<Version>>,
}

impl SearchState {
    fn state(&self) -> Option<Version> {
        self.states.last().copied().flatten()
    }

    fn take(&mut self, index: usize, transition: Transition, durability: Durability) {
        self.taken[index] = true;
        match (transition, durability) {
            (Transition::Read(_), _) => {}
            (Transition::Write { to, .. }, Durability::MayLose) => self.states.push(Some(to)),
            (Transition::Write { to, .. }, Durability::Keeps) => self.states = vec![Some(to)],
            (Transition::Delete, _) => self.states = vec![None],
        }
    }

    /// Loses the last write. Returns `false` if there is none.
    fn lose(&mut self) -> bool {
        self.states.len() > 1 && self.states.pop().is_some()
    }
}

/// Whether some order of `intervals`, which are sorted by their invocations, leads from `begin`
/// through all of them.
pub(super) fn linearizable(
    begin: Option<Version>,
    intervals: &[Interval],
    durability: Durability,
) -> bool {
    let mut to_try = vec![SearchState { taken: vec![false; intervals.len()], states: vec![begin] }];
    // What is left to try with the loss of a write, when nothing else is left.
    let mut to_lose = vec![];
    let mut tried = HashSet::new();
    loop {
        let Some(mut search) = to_try.pop() else {
            let Some(mut search): Option<SearchState> = to_lose.pop() else { return false };
            if search.lose() {
                to_try.push(search);
            }
            continue;
        };
        if !tried.insert(search.clone()) {
            continue;
        }
        loop {
            let next = next(intervals, &search.taken, search.state());
            if let Some(read) = next.read {
                search.taken[read] = true;
                continue;
            }
            if !next.any_must {
                return true;
            }
            if durability == Durability::MayLose {
                to_lose.push(search.clone());
            }
            let Some((first, others)) = next.changes.split_first() else { break };
            for other in others {
                let mut other_order = search.clone();
                other_order.take(*other, intervals[*other].transition, durability);
                to_try.push(other_order);
            }
            search.take(*first, intervals[*first].transition, durability);
        }
    }
}

/// What can come next in the order.
struct Frontier {
    /// A transition that leaves the state as it is.
    read: Option<usize>,
    /// Transitions that change it.
    changes: Vec<usize>,
    /// Whether there is a transition that must still happen.
    any_must: bool,
}

fn next(intervals: &[Interval], taken: &[bool], state: Option<Version>) -> Frontier {
    let mut next = Frontier { read: None, changes: vec![], any_must: false };
    // The first response among the rest: what was invoked later cannot come next.
    let mut first_response = u64::MAX;
    for (index, interval) in intervals.iter().enumerate().filter(|(index, _)| !taken[*index]) {
        next.any_must |= interval.responded != u64::MAX;
        if interval.invoked > first_response {
            break;
        }
        first_response = first_response.min(interval.responded);
        match interval.transition {
            Transition::Read(seen) if seen == state => next.read = Some(index),
            Transition::Write { from, .. } if from == state => next.changes.push(index),
            // A deletion is possible where there is nothing to delete, too.
            Transition::Delete => next.changes.push(index),
            Transition::Read(_) | Transition::Write { .. } => {}
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::{Durability, Interval, Transition, linearizable};
    use crate::cluster::Version;

    fn version(number: u64) -> Option<Version> {
        (number > 0).then(|| Version::new(number).unwrap())
    }

    /// Reads `(invoked, responded, what)`: `r3` reads 3, `w0-3` makes 3 out of 0, `d` deletes.
    fn check(intervals: &[(u64, u64, &str)]) -> bool {
        check_with(Durability::Keeps, intervals)
    }

    fn check_with(durability: Durability, intervals: &[(u64, u64, &str)]) -> bool {
        let number = |text: &str| version(text.parse().unwrap());
        let transition = |text: &str| match text.split_at(1) {
            ("r", seen) => Transition::Read(number(seen)),
            ("w", rest) => {
                let (from, to) = rest.split_once('-').unwrap();
                Transition::Write { from: number(from), to: number(to).unwrap() }
            }
            _ => Transition::Delete,
        };
        let interval = |&(invoked, responded, text): &_| Interval {
            transition: transition(text),
            invoked,
            responded,
        };
        let intervals: Vec<Interval> = intervals.iter().map(interval).collect();
        assert!(intervals.is_sorted_by_key(|interval| interval.invoked));
        linearizable(None, &intervals, durability)
    }

    const NEVER: u64 = u64::MAX;

    #[test]
    fn overlapping_operations_may_have_any_order_and_others_have_one() {
        assert!(check(&[(1, 4, "w0-3"), (2, 3, "r0")]));
        assert!(check(&[(1, 4, "w0-3"), (2, 3, "r3")]));
        assert!(check(&[(1, 2, "w0-3"), (3, 4, "r3")]));
        assert!(!check(&[(1, 2, "w0-3"), (3, 4, "r0")]));
        assert!(!check(&[(1, 2, "r3"), (3, 4, "w0-3")]));
        // One of two reads during a long write sees it, then the other does not.
        assert!(!check(&[(1, 9, "w0-3"), (2, 3, "r3"), (4, 5, "r0")]));
        assert!(check(&[(1, 9, "w0-3"), (2, 3, "r0"), (4, 5, "r3")]));
    }

    #[test]
    fn two_writes_cannot_replace_one_state_unless_it_was_deleted_in_between() {
        assert!(!check(&[(1, 9, "w0-3"), (2, 8, "w0-4")]));
        assert!(check(&[(1, 9, "w0-3"), (2, 8, "w0-4"), (3, 7, "d")]));
        assert!(check(&[(1, 2, "w0-3"), (3, NEVER, "d"), (4, 5, "r3"), (6, 7, "r0")]));
        assert!(!check(&[(1, 2, "w0-3"), (3, NEVER, "d"), (4, 5, "r0"), (6, 7, "r3")]));
        // The first choice is a dead end: 3 is seen last.
        assert!(check(&[(1, 9, "w0-4"), (2, 8, "w0-3"), (3, 7, "d"), (10, 11, "r4")]));
        assert!(check(&[(1, 9, "w0-4"), (2, 8, "w0-3"), (3, 7, "d"), (10, 11, "r3")]));
    }

    #[test]
    fn an_operation_without_response_may_happen_late_or_never_but_not_early() {
        assert!(check(&[(1, NEVER, "w0-3"), (5, 6, "r0"), (7, 8, "r3")]));
        assert!(check(&[(1, NEVER, "w0-3"), (5, 6, "r0"), (7, 8, "r0")]));
        assert!(!check(&[(1, NEVER, "w0-3"), (5, 6, "r3"), (7, 8, "r0")]));
        assert!(!check(&[(1, 2, "r3"), (5, NEVER, "w0-3")]));
    }

    #[test]
    fn a_loss_takes_the_last_writes_only() {
        let lossy =
            |intervals: &[_]| check_with(Durability::MayLose, intervals) && !check(intervals);
        assert!(lossy(&[(1, 2, "w0-3"), (3, 4, "r0")]));
        assert!(lossy(&[(1, 2, "w0-3"), (3, 4, "w3-4"), (5, 6, "r3")]));
        assert!(lossy(&[(1, 2, "w0-3"), (3, 4, "w0-5"), (5, 6, "r5")]));
        // What was lost does not come back, nothing is made up, and no two writes replace one state.
        assert!(!lossy(&[(1, 2, "w0-3"), (3, 4, "r0"), (5, 6, "r3")]));
        let again = [(1, 2, "w0-3"), (3, 4, "w3-4"), (5, 6, "r3"), (7, 8, "w3-5"), (9, 10, "r4")];
        assert!(!lossy(&again));
        assert!(!lossy(&[(1, 2, "w0-3"), (3, 4, "r2")]));
        assert!(!lossy(&[(1, 2, "w3-4")]));
    }

    /// The definition: there is an order of the intervals in which none comes before one whose
    /// response came before its invocation, and in which only what need not have happened is missing.
    /// `before`: the states that a loss may bring back, the oldest first.
    fn by_definition(
        state: Option<Version>,
        before: Option<&[Option<Version>]>,
        intervals: &[Interval],
    ) -> bool {
        let rest = |without: usize| {
            let kept = intervals.iter().enumerate().filter(|(index, _)| *index != without);
            kept.map(|(_, interval)| *interval).collect::<Vec<_>>()
        };
        let lost = |n: usize| before.is_some_and(|b| by_definition(b[n], Some(&b[..n]), intervals));
        intervals.iter().all(|interval| interval.responded == NEVER)
            || (0..intervals.len()).any(|index| {
                let (interval, rest) = (intervals[index], rest(index));
                let (is_possible, next, is_kept) = match interval.transition {
                    Transition::Read(seen) => (seen == state, state, false),
                    Transition::Write { from, to } => (from == state, Some(to), true),
                    Transition::Delete => (true, None, false),
                };
                let mut past = before.map(<[_]>::to_vec);
                if let Some(past) = &mut past {
                    if interval.transition == Transition::Delete {
                        past.clear();
                    } else if is_kept {
                        past.push(state);
                    }
                }
                is_possible
                    && rest.iter().all(|other| other.responded > interval.invoked)
                    && by_definition(next, past.as_deref(), &rest)
            })
            || (0..before.map_or(0, <[_]>::len)).any(lost)
    }

    #[test]
    fn the_search_agrees_with_the_definition() {
        let mut dice = fastrand::Rng::with_seed(1);
        let (mut found, mut lossy) = ([0, 0], 0);
        for _ in 0..20_000 {
            let state = |dice: &mut fastrand::Rng| version(dice.u64(0..4));
            let mut intervals: Vec<Interval> = (0..dice.usize(2..7))
                .map(|_| {
                    let transition = match dice.u8(0..8) {
                        0..4 => Transition::Read(state(&mut dice)),
                        4..7 => Transition::Write {
                            from: state(&mut dice),
                            to: version(dice.u64(1..4)).unwrap(),
                        },
                        _ => Transition::Delete,
                    };
                    let invoked = dice.u64(0..12);
                    let is_read = matches!(transition, Transition::Read(_));
                    let never = !is_read && dice.u8(0..4) == 0;
                    let responded = if never { NEVER } else { invoked + dice.u64(1..12) };
                    // Invocations at odd moments, responses at even ones: no two at the same.
                    let responded = if never { NEVER } else { 2 * responded };
                    Interval { transition, invoked: 2 * invoked + 1, responded }
                })
                .collect();
            intervals.sort_by_key(|interval| interval.invoked);
            let is = by_definition(None, None, &intervals);
            assert_eq!(linearizable(None, &intervals, Durability::Keeps), is, "{intervals:?}");
            found[usize::from(is)] += 1;
            let may_be = by_definition(None, Some(&[]), &intervals);
            assert_eq!(
                linearizable(None, &intervals, Durability::MayLose),
                may_be,
                "{intervals:?}"
            );
            lossy += usize::from(may_be && !is);
        }
        assert!(found.iter().all(|often| *often > 1000) && lossy > 300, "{found:?} {lossy}");
    }
}
