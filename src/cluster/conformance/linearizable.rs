//! Whether some order of operations explains their answers.
//!
//! An operation happens at one moment between its call and its answer. The search tries the orders
//! that this admits: of the operations that could come next, a read of the present state is taken at
//! once, since that never spoils anything; a write is tried. There is next to nothing to try, since
//! a write names the version that it replaces and the one that it makes, and of those that replace
//! one version only one can have happened, unless the register was deleted in between.

use crate::cluster::Version;
use std::collections::HashSet;

/// What an operation did to a register, if it happened as it was answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// It saw this state.
    Read(Option<Version>),
    /// It made `to` out of `from`.
    Write { from: Option<Version>, to: Version },
    /// It left no register.
    Delete,
}

/// An effect, and when it may have been.
#[derive(Clone, Copy, Debug)]
pub(super) struct Step {
    pub(super) effect: Effect,
    pub(super) called: u64,
    /// `u64::MAX`: it need not have happened.
    pub(super) responded: u64,
}

/// What the register may do by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Memory {
    /// Nothing.
    Keeps,
    /// It may be again as it was before its last writes, at any moment.
    MayLose,
}

/// How far a search has come.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Point {
    taken: Vec<bool>,
    /// The state; and before it those out of which it was made, if they may be again.
    states: Vec<Option<Version>>,
}

impl Point {
    fn state(&self) -> Option<Version> {
        self.states.last().copied().flatten()
    }

    fn take(&mut self, index: usize, effect: Effect, memory: Memory) {
        self.taken[index] = true;
        match (effect, memory) {
            (Effect::Read(_), _) => {}
            (Effect::Write { to, .. }, Memory::MayLose) => self.states.push(Some(to)),
            (Effect::Write { to, .. }, Memory::Keeps) => self.states = vec![Some(to)],
            (Effect::Delete, _) => self.states = vec![None],
        }
    }

    /// The last write is lost. No: there is none.
    fn lose(&mut self) -> bool {
        self.states.len() > 1 && self.states.pop().is_some()
    }
}

/// Whether an order of `steps`, which are sorted by their calls, leads from `begin` through all of
/// them.
pub(super) fn linearizable(begin: Option<Version>, steps: &[Step], memory: Memory) -> bool {
    let mut to_try = vec![Point { taken: vec![false; steps.len()], states: vec![begin] }];
    // Where something may be lost, if nothing else helps.
    let mut to_lose = vec![];
    let mut tried = HashSet::new();
    loop {
        let Some(mut point) = to_try.pop() else {
            let Some(mut point): Option<Point> = to_lose.pop() else { return false };
            if point.lose() {
                to_try.push(point);
            }
            continue;
        };
        if !tried.insert(point.clone()) {
            continue;
        }
        loop {
            let next = next(steps, &point.taken, point.state());
            if let Some(read) = next.read {
                point.taken[read] = true;
                continue;
            }
            if !next.any_must {
                return true;
            }
            if memory == Memory::MayLose {
                to_lose.push(point.clone());
            }
            let Some((first, others)) = next.changes.split_first() else { break };
            for other in others {
                let mut other_way = point.clone();
                other_way.take(*other, steps[*other].effect, memory);
                to_try.push(other_way);
            }
            point.take(*first, steps[*first].effect, memory);
        }
    }
}

/// What can come next.
struct Next {
    /// A step that leaves the state as it is.
    read: Option<usize>,
    /// Steps that change it.
    changes: Vec<usize>,
    /// Some step must still happen.
    any_must: bool,
}

fn next(steps: &[Step], taken: &[bool], state: Option<Version>) -> Next {
    let mut next = Next { read: None, changes: vec![], any_must: false };
    // The first answer among the rest: what is called later cannot come next.
    let mut first_answer = u64::MAX;
    for (index, step) in steps.iter().enumerate().filter(|(index, _)| !taken[*index]) {
        next.any_must |= step.responded != u64::MAX;
        if step.called > first_answer {
            break;
        }
        first_answer = first_answer.min(step.responded);
        match step.effect {
            Effect::Read(seen) if seen == state => next.read = Some(index),
            Effect::Write { from, .. } if from == state => next.changes.push(index),
            // Also where there is nothing to delete: it may be needed later.
            Effect::Delete => next.changes.push(index),
            Effect::Read(_) | Effect::Write { .. } => {}
        }
    }
    next
}

#[cfg(test)]
mod tests {
    use super::{Effect, Memory, Step, linearizable};
    use crate::cluster::Version;

    fn version(number: u64) -> Option<Version> {
        (number > 0).then(|| Version::new(number).unwrap())
    }

    /// Reads `(called, responded, what)`: `r3` reads 3, `w0-3` makes 3 out of 0, `d` deletes.
    fn check(steps: &[(u64, u64, &str)]) -> bool {
        check_with(Memory::Keeps, steps)
    }

    fn check_with(memory: Memory, steps: &[(u64, u64, &str)]) -> bool {
        let number = |text: &str| version(text.parse().unwrap());
        let effect = |text: &str| match text.split_at(1) {
            ("r", seen) => Effect::Read(number(seen)),
            ("w", rest) => {
                let (from, to) = rest.split_once('-').unwrap();
                Effect::Write { from: number(from), to: number(to).unwrap() }
            }
            _ => Effect::Delete,
        };
        let step =
            |&(called, responded, text): &_| Step { effect: effect(text), called, responded };
        let steps: Vec<Step> = steps.iter().map(step).collect();
        assert!(steps.is_sorted_by_key(|step| step.called));
        linearizable(None, &steps, memory)
    }

    const NEVER: u64 = u64::MAX;

    #[test]
    fn overlapping_operations_may_have_any_order_and_others_not() {
        assert!(check(&[(1, 4, "w0-3"), (2, 3, "r0")]));
        assert!(check(&[(1, 4, "w0-3"), (2, 3, "r3")]));
        assert!(check(&[(1, 2, "w0-3"), (3, 4, "r3")]));
        assert!(!check(&[(1, 2, "w0-3"), (3, 4, "r0")]));
        assert!(!check(&[(1, 2, "r3"), (3, 4, "w0-3")]));
        // One of two reads in a long write sees it, then the other does not.
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
    fn what_was_not_answered_may_happen_late_or_never_but_not_early() {
        assert!(check(&[(1, NEVER, "w0-3"), (5, 6, "r0"), (7, 8, "r3")]));
        assert!(check(&[(1, NEVER, "w0-3"), (5, 6, "r0"), (7, 8, "r0")]));
        assert!(!check(&[(1, NEVER, "w0-3"), (5, 6, "r3"), (7, 8, "r0")]));
        assert!(!check(&[(1, 2, "r3"), (5, NEVER, "w0-3")]));
    }

    #[test]
    fn what_may_be_lost_is_the_end_of_what_was_written() {
        let lossy = |steps: &[_]| check_with(Memory::MayLose, steps) && !check(steps);
        assert!(lossy(&[(1, 2, "w0-3"), (3, 4, "r0")]));
        assert!(lossy(&[(1, 2, "w0-3"), (3, 4, "w3-4"), (5, 6, "r3")]));
        assert!(lossy(&[(1, 2, "w0-3"), (3, 4, "w0-5"), (5, 6, "r5")]));
        // It does not come back, nothing is made up, and not even then two replace one state.
        assert!(!lossy(&[(1, 2, "w0-3"), (3, 4, "r0"), (5, 6, "r3")]));
        let again = [(1, 2, "w0-3"), (3, 4, "w3-4"), (5, 6, "r3"), (7, 8, "w3-5"), (9, 10, "r4")];
        assert!(!lossy(&again));
        assert!(!lossy(&[(1, 2, "w0-3"), (3, 4, "r2")]));
        assert!(!lossy(&[(1, 2, "w3-4")]));
    }

    /// The same by definition: some order of the steps, in which none comes before one that was
    /// answered before it was called, and from which only what need not have happened is left out.
    /// `before`: the states that may be again, the oldest first.
    fn by_definition(
        state: Option<Version>,
        before: Option<&[Option<Version>]>,
        steps: &[Step],
    ) -> bool {
        let rest = |without: usize| {
            let kept = steps.iter().enumerate().filter(|(index, _)| *index != without);
            kept.map(|(_, step)| *step).collect::<Vec<_>>()
        };
        let lost = |n: usize| before.is_some_and(|b| by_definition(b[n], Some(&b[..n]), steps));
        steps.iter().all(|step| step.responded == NEVER)
            || (0..steps.len()).any(|index| {
                let (step, rest) = (steps[index], rest(index));
                let (is_possible, next, is_kept) = match step.effect {
                    Effect::Read(seen) => (seen == state, state, false),
                    Effect::Write { from, to } => (from == state, Some(to), true),
                    Effect::Delete => (true, None, false),
                };
                let mut past = before.map(<[_]>::to_vec);
                if let Some(past) = &mut past {
                    if step.effect == Effect::Delete {
                        past.clear();
                    } else if is_kept {
                        past.push(state);
                    }
                }
                is_possible
                    && rest.iter().all(|other| other.responded > step.called)
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
            let mut steps: Vec<Step> = (0..dice.usize(2..7))
                .map(|_| {
                    let effect = match dice.u8(0..8) {
                        0..4 => Effect::Read(state(&mut dice)),
                        4..7 => Effect::Write {
                            from: state(&mut dice),
                            to: version(dice.u64(1..4)).unwrap(),
                        },
                        _ => Effect::Delete,
                    };
                    let called = dice.u64(0..12);
                    let is_read = matches!(effect, Effect::Read(_));
                    let never = !is_read && dice.u8(0..4) == 0;
                    let responded = if never { NEVER } else { called + dice.u64(1..12) };
                    // Calls at odd moments, answers at even ones: no two at the same.
                    let responded = if never { NEVER } else { 2 * responded };
                    Step { effect, called: 2 * called + 1, responded }
                })
                .collect();
            steps.sort_by_key(|step| step.called);
            let is = by_definition(None, None, &steps);
            assert_eq!(linearizable(None, &steps, Memory::Keeps), is, "{steps:?}");
            found[usize::from(is)] += 1;
            let may_be = by_definition(None, Some(&[]), &steps);
            assert_eq!(linearizable(None, &steps, Memory::MayLose), may_be, "{steps:?}");
            lossy += usize::from(may_be && !is);
        }
        assert!(found.iter().all(|often| *often > 1000) && lossy > 300, "{found:?} {lossy}");
    }
}
