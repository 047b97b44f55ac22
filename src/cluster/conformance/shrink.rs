//! Makes a trace that breaks a law as short as it gets, without making the violation up.
//!
//! What is left out must not have been needed to explain what stays:
//!
//! - the end of a history: what was not answered by then counts as not answered;
//! - its beginning up to a write: the register begins with what that write wrote, and all that
//!   concerns older versions goes;
//! - single operations that only look;
//! - single writes whose version and value nobody else mentions.

use super::check::{Found, Memory, judge};
use super::history::{Operation, Trace};
use crate::cluster::Versioned;

/// The shortest found trace of what was `found` in `trace`.
pub(super) fn shrink(trace: Trace, found: &Found, memory: Memory) -> Trace {
    let breaks = |trace: &Trace| {
        judge(trace, memory).is_some_and(|other| (other.law, other.by) == (found.law, found.by))
    };
    let mut trace = shortest_prefix(trace, breaks);
    trace = latest_beginning(trace, breaks);
    loop {
        let before = trace.operations.len();
        for index in (0..trace.operations.len()).rev() {
            if let Some(shorter) = without(&trace, index)
                && breaks(&shorter)
            {
                trace = shorter;
            }
        }
        if trace.operations.len() == before {
            return trace;
        }
    }
}

/// `trace` up to the first answer with which it breaks the law.
fn shortest_prefix(trace: Trace, breaks: impl Fn(&Trace) -> bool) -> Trace {
    let responses = trace.operations.iter().filter_map(|operation| operation.response.as_ref());
    let mut moments: Vec<u64> = responses.map(|(moment, _)| *moment).collect();
    moments.sort_unstable();
    let prefix = |moment: u64| {
        let mut operations = trace.operations.clone();
        operations.retain(|operation| operation.called < moment);
        for operation in &mut operations {
            operation.response.take_if(|(responded, _)| *responded > moment);
        }
        Trace { operations, ..trace.clone() }
    };
    moments.into_iter().map(prefix).find(breaks).unwrap_or(trace)
}

/// `trace` from the latest write on, from which it still breaks the law.
fn latest_beginning(trace: Trace, breaks: impl Fn(&Trace) -> bool) -> Trace {
    // Versions tell what is older only where the register is never deleted.
    if trace.operations.iter().any(Operation::is_delete) {
        return trace;
    }
    let from = |write: &Operation| {
        let (version, (_, value)) = (write.swapped()?, write.write()?);
        let is_old = |operation: &Operation| match (operation.shown(), operation.swapped()) {
            (Some(shown), _) => shown.as_ref().is_none_or(|shown| shown.version < version),
            (None, Some(own)) => own <= version,
            (None, None) => false,
        };
        let (old, kept): (Vec<_>, _) = trace.operations.iter().cloned().partition(is_old);
        let begins_with = Some(Versioned { version, value: value.into() });
        // Where answers contradict each other, an old write's value may be shown by what is kept.
        let is_lost = |old: &Operation| {
            old.write().is_some_and(|(_, value)| {
                kept.iter().any(|kept| {
                    let shown = kept.shown().and_then(Option::as_ref);
                    shown.is_some_and(|shown| {
                        *shown.value == *value && Some(shown) != begins_with.as_ref()
                    })
                })
            })
        };
        if old.iter().any(is_lost) {
            return None;
        }
        Some(Trace { begins_with, operations: kept, ..trace.clone() })
    };
    let found = trace.operations.iter().rev().filter_map(from).find(breaks);
    found.unwrap_or(trace)
}

/// `trace` without the operation of this index, if nothing else builds on that.
fn without(trace: &Trace, index: usize) -> Option<Trace> {
    let operation = &trace.operations[index];
    let mut operations = trace.operations.clone();
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
    Some(Trace { operations, ..trace.clone() })
}
