//! Whether some order of the operations of one key explains their responses.
//!
//! An operation takes effect at one moment between its invocation and its response. The search tries
//! the orders that this admits. Of the operations that could come next, a read of the current state
//! is taken at once, since it excludes no later choice; each write is tried. There is little to try: a
//! write names the version that it replaces and the one that it makes, and of several writes that
//! replace the same version only one can have happened, unless the register was deleted in between.

use super::history::{Invocation, KeyHistory, Operation, Response};
use super::suite::{Law, Violation};
use crate::cluster::{Version, Versioned};
use std::collections::{HashMap, HashSet};

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

// Which law the responses of one key break, and the shortest history that shows it.
//
// A history that breaks a law is shrunk, without making the violation up: what is left out must not
// have been needed to explain what stays. What may go is
//
// - the end of the history: an operation without a response by then counts as one that has none;
// - its beginning up to a write: the register begins with what that write wrote, and all that
// concerns older versions goes;
// - single operations that only read;
// - single writes whose version and value no other operation mentions.
/// Checks `history` against laws 1 to 4.
///
/// # Errors
///
/// The violation, with the shortest history that shows it.
pub(super) fn check(history: KeyHistory, durability: Durability) -> Result<(), Violation> {
    let Some(found) = judge(&history, durability) else { return Ok(()) };
    let history = shrink(history, &found, durability);
    // In terms of the versions of the history that is shown.
    let what = judge(&history, durability).map_or(found.what, |found| found.what);
    Err(Violation { law: found.law, what, history: Some(history) })
}

/// Checks the `history` of an engine that may lose acknowledged writes. `Some` is a violation that
/// such a loss explains.
///
/// # Errors
///
/// A violation that no loss explains, with the shortest history that shows it.
pub(super) fn check_lossy(history: KeyHistory) -> Result<Option<Violation>, Violation> {
    let Err(loss) = check(history.clone(), Durability::Keeps) else { return Ok(None) };
    check(history, Durability::MayLose).map(|()| Some(loss))
}

/// A law that is broken, the check that found it, and a sentence for people.
struct Finding {
    law: Law,
    check: Check,
    what: String,
}

/// The checks, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Check {
    NotLarger,
    ReplacedTwice,
    NeverWritten,
    NotGrowing,
    NotReported,
    NotExplained,
}

/// The law that `history` breaks. Where it breaks several, the one that explains the others.
fn judge(history: &KeyHistory, durability: Durability) -> Option<Finding> {
    let found = |law, check| move |what| Finding { law, check, what };
    let of_loads = |operation: &Operation| !operation.is_mismatch();
    not_larger(history)
        .map(found(Law::Versions, Check::NotLarger))
        .or_else(|| {
            let what = replaced_twice(history).filter(|_| durability == Durability::Keeps)?;
            Some(found(Law::Linearizable, Check::ReplacedTwice)(what))
        })
        .or_else(|| {
            let (operation, what) = never_written(history)?;
            let is_mismatch = operation.is_mismatch();
            let law = if is_mismatch { Law::Mismatch } else { Law::Linearizable };
            Some(found(law, Check::NeverWritten)(what))
        })
        .or_else(|| not_growing(history).map(found(Law::Versions, Check::NotGrowing)))
        .or_else(|| not_reported(history).map(found(Law::Indeterminate, Check::NotReported)))
        .or_else(|| {
            let what = not_explained(history, durability, of_loads)?;
            Some(found(Law::Linearizable, Check::NotExplained)(what))
        })
        .or_else(|| {
            let what = not_explained(history, durability, |_| true)?;
            Some(found(Law::Mismatch, Check::NotExplained)(what))
        })
}

/// A write whose version is not larger than the one that it replaced.
fn not_larger(history: &KeyHistory) -> Option<String> {
    history.operations.iter().find_map(|operation| {
        let (version, (expected, _)) = (operation.swapped()?, operation.write()?);
        let expected = expected.filter(|expected| *expected >= version)?;
        Some(format!("a write replaced version {expected} by version {version}"))
    })
}

/// Two writes that both have replaced the same version, by their responses.
fn replaced_twice(history: &KeyHistory) -> Option<String> {
    if history.operations.iter().any(Operation::is_delete) {
        return None;
    }
    let mut replaced = HashMap::new();
    for operation in &history.operations {
        let (Some(version), Some((expected, _))) = (operation.swapped(), operation.write()) else {
            continue;
        };
        if let Some(other) = replaced.insert(expected, version) {
            let expected = expected.map_or("no register".into(), |v| format!("version {v}"));
            return Some(format!("two writes, {other} and {version}, both replaced {expected}"));
        }
    }
    None
}

/// The version that each write gave to the register, by its value, as far as any response tells.
fn versions(history: &KeyHistory) -> HashMap<&[u8], Version> {
    let mut versions: HashMap<&[u8], Version> =
        history.noticed.iter().map(|noticed| (&*noticed.value, noticed.version)).collect();
    for operation in &history.operations {
        if let Some(Some(Versioned { version, value })) = operation.shown() {
            versions.insert(&**value, *version);
        }
    }
    for operation in &history.operations {
        if let (Some(version), Some((_, value))) = (operation.swapped(), operation.write()) {
            versions.insert(value, version);
        }
    }
    versions
}

/// A version that is not larger than all before it.
fn not_growing(history: &KeyHistory) -> Option<String> {
    let versions = versions(history);
    // When it was known that a version as large as this had been reached.
    let mut known: Vec<(u64, Version)> = vec![];
    let mut values: HashMap<Version, &[u8]> = HashMap::new();
    if let Some(begin) = &history.initial {
        known.push((0, begin.version));
        values.insert(begin.version, &begin.value);
    }
    for operation in &history.operations {
        let Some(moment) = operation.happened() else { continue };
        let shown = match (operation.swapped(), operation.shown()) {
            (Some(version), _) => operation.write().map(|(_, value)| (version, value)),
            (None, Some(Some(shown))) => Some((shown.version, &*shown.value)),
            _ => None,
        };
        let Some((version, value)) = shown else { continue };
        known.push((moment, version));
        if values.insert(version, value).is_some_and(|other| other != value) {
            return Some(format!("version {version} was given to two values"));
        }
    }
    known.sort_unstable();
    // From here on: the largest version known up to that moment.
    let mut largest = None;
    for (_, version) in &mut known {
        largest = largest.max(Some(*version));
        *version = largest.unwrap_or(*version);
    }
    for operation in &history.operations {
        let Some((_, value)) = operation.write() else { continue };
        let Some(version) = versions.get(value) else { continue };
        if operation.is_mismatch() {
            continue;
        }
        let before = known.partition_point(|(moment, _)| *moment < operation.invoked);
        let before = before.checked_sub(1).map(|index| known[index].1);
        if let Some(before) = before.filter(|before| before >= version) {
            return Some(format!("a write got version {version} when {before} was there before"));
        }
    }
    None
}

/// A write that was applied although its response denies it.
fn not_reported(history: &KeyHistory) -> Option<String> {
    let noticed = history.noticed.iter().map(|noticed| (&*noticed.value, noticed.version));
    let mut seen: HashMap<&[u8], Version> = noticed.collect();
    for operation in &history.operations {
        if let Some(Some(Versioned { version, value })) = operation.shown()
            && seen.insert(value, *version).is_some_and(|other| other != *version)
        {
            return Some(format!("{} was written twice", value.escape_ascii()));
        }
    }
    for operation in &history.operations {
        let Some((_, value)) = operation.write() else { continue };
        let Some(seen) = seen.get(value) else { continue };
        let what = match &operation.response {
            Some((_, Response::Failed(_))) => "a definite failure",
            Some((_, Response::Mismatch(_))) => "a mismatch",
            Some((_, Response::Swapped(version))) if version != seen => {
                "a write of another version"
            }
            _ => continue,
        };
        let value = value.escape_ascii();
        return Some(format!("{value} was applied, as version {seen}, but reported as {what}"));
    }
    None
}

/// Whether no order explains the responses of those operations that are `of` interest, and why.
fn not_explained(
    history: &KeyHistory,
    durability: Durability,
    of: impl Fn(&Operation) -> bool,
) -> Option<String> {
    let Some(intervals) = intervals(history, &of) else {
        return Some("a mismatch shows the very version that was expected".into());
    };
    let begin = history.initial.as_ref().map(|begin| begin.version);
    if linearizable(begin, &intervals, durability) {
        return None;
    }
    let stale = history.operations.iter().filter(|operation| of(operation)).find_map(|late| {
        let shown = late.shown()?.as_ref().map(|shown| shown.version);
        let newer = history.operations.iter().filter_map(|early| {
            let known = early.swapped().or_else(|| Some(early.shown()?.as_ref()?.version));
            known.filter(|_| early.happened().is_some_and(|moment| moment < late.invoked))
        });
        let newest = newer.max().filter(|newest| Some(*newest) > shown)?;
        let shown = shown.map_or("no register".into(), |version| format!("version {version}"));
        Some(format!("{shown} was shown by a call that began after version {newest} was known"))
    });
    Some(stale.unwrap_or_else(|| "no order of the operations explains their responses".into()))
}

/// What the operations that are `of` interest did, and when. `None`: the response of one of them
/// contradicts its own invocation.
fn intervals(history: &KeyHistory, of: impl Fn(&Operation) -> bool) -> Option<Vec<Interval>> {
    let versions = versions(history);
    let mut intervals = vec![];
    for operation in history.operations.iter().filter(|operation| of(operation)) {
        if is_false_mismatch(operation) {
            return None;
        }
        let transition = match (&operation.invocation, operation.shown()) {
            (_, Some(shown)) => Transition::Read(shown.as_ref().map(|shown| shown.version)),
            (Invocation::CompareExchange { expected, value }, None) => match versions.get(&**value)
            {
                Some(to) => Transition::Write { from: *expected, to: *to },
                // No operation has seen it: as if it had not happened.
                None => continue,
            },
            (Invocation::Delete, _) => Transition::Delete,
            (Invocation::Load, None) => continue,
        };
        if matches!(operation.response, Some((_, Response::Failed(_)))) {
            continue;
        }
        let responded = operation.happened().unwrap_or(u64::MAX);
        intervals.push(Interval { transition, invoked: operation.invoked, responded });
    }
    Some(intervals)
}

/// An operation that shows a value that no operation had begun to write.
fn never_written(history: &KeyHistory) -> Option<(&Operation, String)> {
    history.operations.iter().find_map(|operation| {
        let shown = operation.shown()?.as_ref()?;
        let (until, _) = operation.response.as_ref()?;
        let is_written = history.initial.as_ref() == Some(shown)
            || history.operations.iter().any(|other| {
                other.invoked < *until
                    && other.write().is_some_and(|(_, value)| *value == *shown.value)
            });
        let value = shown.value[..shown.value.len().min(40)].escape_ascii();
        (!is_written)
            .then(|| (operation, format!("{value} was shown, which was not written before")))
    })
}

/// A mismatch that shows what was expected.
fn is_false_mismatch(operation: &Operation) -> bool {
    let shown = operation.shown().map(|shown| shown.as_ref().map(|shown| shown.version));
    operation.is_mismatch() && operation.write().map(|(expected, _)| expected) == shown
}

/// The shortest history that the rules above lead to, for what was `found` in `history`.
fn shrink(history: KeyHistory, found: &Finding, durability: Durability) -> KeyHistory {
    let breaks = |history: &KeyHistory| {
        judge(history, durability)
            .is_some_and(|other| (other.law, other.check) == (found.law, found.check))
    };
    let mut history = shortest_prefix(history, breaks);
    history = latest_beginning(history, breaks);
    loop {
        let before = history.operations.len();
        for index in (0..history.operations.len()).rev() {
            if let Some(shorter) = without(&history, index)
                && breaks(&shorter)
            {
                history = shorter;
            }
        }
        if history.operations.len() == before {
            return history;
        }
    }
}

/// `history` up to the first response with which it breaks the law.
fn shortest_prefix(history: KeyHistory, breaks: impl Fn(&KeyHistory) -> bool) -> KeyHistory {
    let responses = history.operations.iter().filter_map(|operation| operation.response.as_ref());
    let mut moments: Vec<u64> = responses.map(|(moment, _)| *moment).collect();
    moments.sort_unstable();
    let prefix = |moment: u64| {
        let mut operations = history.operations.clone();
        operations.retain(|operation| operation.invoked < moment);
        for operation in &mut operations {
            operation.response.take_if(|(responded, _)| *responded > moment);
        }
        KeyHistory { operations, ..history.clone() }
    };
    moments.into_iter().map(prefix).find(breaks).unwrap_or(history)
}

/// `history` from the latest write from which on it still breaks the law.
fn latest_beginning(history: KeyHistory, breaks: impl Fn(&KeyHistory) -> bool) -> KeyHistory {
    // Versions tell which operation is older only where the register is never deleted.
    if history.operations.iter().any(Operation::is_delete) {
        return history;
    }
    let from = |write: &Operation| {
        let (version, (_, value)) = (write.swapped()?, write.write()?);
        let is_old = |operation: &Operation| match (operation.shown(), operation.swapped()) {
            (Some(shown), _) => shown.as_ref().is_none_or(|shown| shown.version < version),
            (None, Some(own)) => own <= version,
            (None, None) => false,
        };
        let (old, kept): (Vec<_>, _) = history.operations.iter().cloned().partition(is_old);
        let initial = Some(Versioned { version, value: value.into() });
        // Where responses contradict each other, what is kept may show the value of an old write.
        let is_lost = |old: &Operation| {
            old.write().is_some_and(|(_, value)| {
                kept.iter().any(|kept| {
                    let shown = kept.shown().and_then(Option::as_ref);
                    shown.is_some_and(|shown| {
                        *shown.value == *value && Some(shown) != initial.as_ref()
                    })
                })
            })
        };
        if old.iter().any(is_lost) {
            return None;
        }
        Some(KeyHistory { initial, operations: kept, ..history.clone() })
    };
    let found = history.operations.iter().rev().filter_map(from).find(breaks);
    found.unwrap_or(history)
}

/// `history` without the operation of this index, if no other operation refers to it.
fn without(history: &KeyHistory, index: usize) -> Option<KeyHistory> {
    let operation = &history.operations[index];
    let mut operations = history.operations.clone();
    operations.remove(index);
    if operation.is_delete() {
        return None;
    }
    if let Some((_, own)) = operation.write()
        && operations.iter().any(|other| {
            let shows = other.shown().and_then(Option::as_ref);
            shows.is_some_and(|shown| *shown.value == *own)
                || operation.swapped().is_some_and(|version| {
                    shows.is_some_and(|shown| shown.version == version)
                        || other.write().is_some_and(|(expected, _)| expected == Some(version))
                })
        })
    {
        return None;
    }
    Some(KeyHistory { operations, ..history.clone() })
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
