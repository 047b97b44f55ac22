//! Which law the answers of one key break.

use super::history::{Call, Operation, Response, Trace};
use super::law::{Law, Violation};
pub(super) use super::linearizable::Memory;
use super::linearizable::{Effect, Step, linearizable};
use super::shrink::shrink;
use crate::cluster::{Version, Versioned};
use std::collections::HashMap;

/// # Errors
///
/// The violation, with the shortest trace.
pub(super) fn check(trace: Trace, memory: Memory) -> Result<(), Violation> {
    let Some(found) = judge(&trace, memory) else { return Ok(()) };
    let trace = shrink(trace, &found, memory);
    // Told in the versions of the trace that is shown.
    let what = judge(&trace, memory).map_or(found.what, |found| found.what);
    Err(Violation { law: found.law, what, trace: Some(trace) })
}

/// The same of an engine that may lose what it has acknowledged: `Some` is a violation which is
/// explained by that alone.
///
/// # Errors
///
/// A violation that is not, with the shortest trace.
pub(super) fn check_lossy(trace: Trace) -> Result<Option<Violation>, Violation> {
    let Err(loss) = check(trace.clone(), Memory::Keeps) else { return Ok(None) };
    check(trace, Memory::MayLose).map(|()| Some(loss))
}

/// A law that is broken, and how.
pub(super) struct Found {
    pub(super) law: Law,
    /// Which of the checks found it.
    pub(super) by: By,
    pub(super) what: String,
}

/// The checks, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum By {
    NotLarger,
    ReplacedTwice,
    NeverWritten,
    NotGrowing,
    NotTold,
    NotExplained,
}

impl Operation {
    /// The version that it expected and the value that it wrote, if it is a write.
    pub(super) fn write(&self) -> Option<(Option<Version>, &[u8])> {
        match &self.call {
            Call::CompareExchange { expected, value } => Some((*expected, value)),
            Call::Load | Call::Delete => None,
        }
    }

    /// What it says that the register held.
    pub(super) fn shown(&self) -> Option<&Option<Versioned>> {
        match &self.response {
            Some((_, Response::Loaded(shown) | Response::Mismatch(shown))) => Some(shown),
            _ => None,
        }
    }

    pub(super) fn swapped(&self) -> Option<Version> {
        match self.response {
            Some((_, Response::Swapped(version))) => Some(version),
            _ => None,
        }
    }

    pub(super) fn is_delete(&self) -> bool {
        self.call == Call::Delete
    }

    fn is_mismatch(&self) -> bool {
        matches!(self.response, Some((_, Response::Mismatch(_))))
    }

    /// When it was answered, with an answer that says that it happened.
    fn happened(&self) -> Option<u64> {
        match self.response {
            None | Some((_, Response::Indeterminate | Response::Failed(_))) => None,
            Some((moment, _)) => Some(moment),
        }
    }
}

/// The law that `trace` breaks. Where it breaks several, the one that explains the others.
pub(super) fn judge(trace: &Trace, memory: Memory) -> Option<Found> {
    let found = |law, by| move |what| Found { law, by, what };
    let of_loads = |operation: &Operation| !operation.is_mismatch();
    not_larger(trace)
        .map(found(Law::Versions, By::NotLarger))
        .or_else(|| {
            let what = replaced_twice(trace).filter(|_| memory == Memory::Keeps)?;
            Some(found(Law::Linearizable, By::ReplacedTwice)(what))
        })
        .or_else(|| {
            let (operation, what) = never_written(trace)?;
            let is_mismatch = operation.is_mismatch();
            let law = if is_mismatch { Law::Mismatch } else { Law::Linearizable };
            Some(found(law, By::NeverWritten)(what))
        })
        .or_else(|| not_growing(trace).map(found(Law::Versions, By::NotGrowing)))
        .or_else(|| not_told(trace).map(found(Law::Indeterminate, By::NotTold)))
        .or_else(|| {
            let what = not_explained(trace, memory, of_loads)?;
            Some(found(Law::Linearizable, By::NotExplained)(what))
        })
        .or_else(|| {
            let what = not_explained(trace, memory, |_| true)?;
            Some(found(Law::Mismatch, By::NotExplained)(what))
        })
}

/// A write whose version is not larger than the one that it replaced.
fn not_larger(trace: &Trace) -> Option<String> {
    trace.operations.iter().find_map(|operation| {
        let (version, (expected, _)) = (operation.swapped()?, operation.write()?);
        let expected = expected.filter(|expected| *expected >= version)?;
        Some(format!("a write replaced version {expected} by version {version}"))
    })
}

/// Two writes that were both told to have replaced the same version.
fn replaced_twice(trace: &Trace) -> Option<String> {
    if trace.operations.iter().any(Operation::is_delete) {
        return None;
    }
    let mut replaced = HashMap::new();
    for operation in &trace.operations {
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

/// The version that the register got by each value, as far as anyone was told.
fn versions(trace: &Trace) -> HashMap<&[u8], Version> {
    let mut versions: HashMap<&[u8], Version> =
        trace.noticed.iter().map(|noticed| (&*noticed.value, noticed.version)).collect();
    for operation in &trace.operations {
        if let Some(Some(Versioned { version, value })) = operation.shown() {
            versions.insert(&**value, *version);
        }
    }
    for operation in &trace.operations {
        if let (Some(version), Some((_, value))) = (operation.swapped(), operation.write()) {
            versions.insert(value, version);
        }
    }
    versions
}

/// A version that is not larger than all before it.
fn not_growing(trace: &Trace) -> Option<String> {
    let versions = versions(trace);
    // When it was known that a version as large as this had been reached.
    let mut known: Vec<(u64, Version)> = vec![];
    let mut values: HashMap<Version, &[u8]> = HashMap::new();
    if let Some(begin) = &trace.begins_with {
        known.push((0, begin.version));
        values.insert(begin.version, &begin.value);
    }
    for operation in &trace.operations {
        let Some(moment) = operation.happened() else { continue };
        let told = match (operation.swapped(), operation.shown()) {
            (Some(version), _) => operation.write().map(|(_, value)| (version, value)),
            (None, Some(Some(shown))) => Some((shown.version, &*shown.value)),
            _ => None,
        };
        let Some((version, value)) = told else { continue };
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
    for operation in &trace.operations {
        let Some((_, value)) = operation.write() else { continue };
        let Some(version) = versions.get(value) else { continue };
        if operation.is_mismatch() {
            continue;
        }
        let before = known.partition_point(|(moment, _)| *moment < operation.called);
        let before = before.checked_sub(1).map(|index| known[index].1);
        if let Some(before) = before.filter(|before| before >= version) {
            return Some(format!("a write got version {version} when {before} was there before"));
        }
    }
    None
}

/// A write that happened otherwise than it was answered.
fn not_told(trace: &Trace) -> Option<String> {
    let noticed = trace.noticed.iter().map(|noticed| (&*noticed.value, noticed.version));
    let mut seen: HashMap<&[u8], Version> = noticed.collect();
    for operation in &trace.operations {
        if let Some(Some(Versioned { version, value })) = operation.shown()
            && seen.insert(value, *version).is_some_and(|other| other != *version)
        {
            return Some(format!("{} was written twice", value.escape_ascii()));
        }
    }
    for operation in &trace.operations {
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

/// Answers, of those operations that are `of` interest, that no order explains.
fn not_explained(trace: &Trace, memory: Memory, of: impl Fn(&Operation) -> bool) -> Option<String> {
    let Some(steps) = steps(trace, &of) else {
        return Some("a mismatch shows the very version that was expected".into());
    };
    let begin = trace.begins_with.as_ref().map(|begin| begin.version);
    if linearizable(begin, &steps, memory) {
        return None;
    }
    let stale = trace.operations.iter().filter(|operation| of(operation)).find_map(|late| {
        let shown = late.shown()?.as_ref().map(|shown| shown.version);
        let newer = trace.operations.iter().filter_map(|early| {
            let known = early.swapped().or_else(|| Some(early.shown()?.as_ref()?.version));
            known.filter(|_| early.happened().is_some_and(|moment| moment < late.called))
        });
        let newest = newer.max().filter(|newest| Some(*newest) > shown)?;
        let shown = shown.map_or("no register".into(), |version| format!("version {version}"));
        Some(format!("{shown} was shown by a call that began after version {newest} was known"))
    });
    Some(stale.unwrap_or_else(|| "no order of the operations explains their answers".into()))
}

/// What the operations that are `of` interest did. `None`: one of them cannot have been answered so.
fn steps(trace: &Trace, of: impl Fn(&Operation) -> bool) -> Option<Vec<Step>> {
    let versions = versions(trace);
    let mut steps = vec![];
    for operation in trace.operations.iter().filter(|operation| of(operation)) {
        if no_mismatch(operation) {
            return None;
        }
        let effect = match (&operation.call, operation.shown()) {
            (_, Some(shown)) => Effect::Read(shown.as_ref().map(|shown| shown.version)),
            (Call::CompareExchange { expected, value }, None) => match versions.get(&**value) {
                Some(to) => Effect::Write { from: *expected, to: *to },
                // Nobody ever saw it: as if it had not happened.
                None => continue,
            },
            (Call::Delete, _) => Effect::Delete,
            (Call::Load, None) => continue,
        };
        if matches!(operation.response, Some((_, Response::Failed(_)))) {
            continue;
        }
        let responded = operation.happened().unwrap_or(u64::MAX);
        steps.push(Step { effect, called: operation.called, responded });
    }
    Some(steps)
}

/// An operation that shows a value that nobody wrote, or not yet.
fn never_written(trace: &Trace) -> Option<(&Operation, String)> {
    trace.operations.iter().find_map(|operation| {
        let shown = operation.shown()?.as_ref()?;
        let (until, _) = operation.response.as_ref()?;
        let is_written = trace.begins_with.as_ref() == Some(shown)
            || trace.operations.iter().any(|other| {
                other.called < *until
                    && other.write().is_some_and(|(_, value)| *value == *shown.value)
            });
        let value = shown.value[..shown.value.len().min(40)].escape_ascii();
        (!is_written).then(|| (operation, format!("{value} was shown, which nobody had written")))
    })
}

/// A mismatch that shows what was expected.
fn no_mismatch(operation: &Operation) -> bool {
    let shown = operation.shown().map(|shown| shown.as_ref().map(|shown| shown.version));
    operation.is_mismatch() && operation.write().map(|(expected, _)| expected) == shown
}
