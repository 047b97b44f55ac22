//! The rules that a history has to keep.

use super::linear;
use super::record::{End, Line, MS, Nanos, Response, Why};
use super::uses::{Span, Use, by_key};
use lockword::cluster::conformance::{History, Invocation, OperationId};
use lockword::cluster::conformance::{Response as Answer, Violation as BrokenLaw};
use lockword::cluster::{Key, Version, Versioned};
use std::collections::{BTreeMap, HashMap, HashSet};

/// A rule that was violated, and how.
#[derive(Clone, Debug)]
pub struct Violation {
    pub rule: &'static str,
    pub what: String,
}

/// What a run was like, for the rules.
#[derive(Clone, Copy)]
pub struct Setting {
    pub lease: Nanos,
}

type Rule = fn(&[Line], &BTreeMap<String, Vec<Use>>, Setting, &mut dyn FnMut(String));

/// All rules. `false`: it is off unless it is asked for.
pub const RULES: &[(&str, bool, Rule)] = &[
    // At any moment at most one guard of a key is valid.
    ("exclusion", true, exclusion),
    // Tokens differ, and grow in the order of the grants.
    ("tokens", true, tokens),
    // The grants, checks and releases of a key have an order that a lock explains, by `stateright`.
    ("linearizability", true, linearizability),
    // What the engine answered has an order that a register explains, by the crate's own checker.
    ("register", true, register),
    // No guard is lost before its deadline, since nobody breaks locks here.
    ("early_loss", true, early_loss),
    // A guard that was lost is never valid again, and a loss is told.
    ("lost", true, lost),
    // No caller gets an error that the faults do not explain.
    ("refused", true, refused),
    // A loss by the end of a lease names an error of the engine, unless the process was stopped. On a busy
    // machine a process may get no processor for a lease, which looks the same.
    ("cause", false, cause),
];

/// The violations of the rules that `is_on` selects.
pub fn check(
    lines: &[Line],
    setting: Setting,
    is_on: impl Fn(&str, bool) -> bool,
) -> Vec<Violation> {
    let (uses, mut found) = (by_key(lines), vec![]);
    for &(rule, default, check) in RULES {
        if is_on(rule, default) {
            let mut tell = |what| found.push(Violation { rule, what });
            check(lines, &uses, setting, &mut tell);
        }
    }
    found
}

fn exclusion(
    _: &[Line],
    uses: &BTreeMap<String, Vec<Use>>,
    _: Setting,
    tell: &mut dyn FnMut(String),
) {
    for uses in uses.values() {
        for (index, one) in uses.iter().enumerate() {
            let Some(surely) = one.certainly_valid() else { continue };
            for (other_index, other) in uses.iter().enumerate().filter(|(other, _)| *other != index)
            {
                let is_within = |check: &Span| surely.from < check.from && check.to < surely.to;
                let checks = other.valid.iter().map(|(check, _)| check);
                let both = other.certainly_valid().is_some_and(|other| other.overlaps(surely));
                // Each pair once, if it can be seen from both sides.
                if both && index < other_index || !both && checks.clone().any(is_within) {
                    tell(format!("two guards were valid at a time:\n  {one}\n  {other}"));
                }
            }
        }
    }
}

/// Each use takes effect between the last beginning and the first end of what belongs to it. Those of
/// smaller tokens must be able to come first.
fn tokens(_: &[Line], uses: &BTreeMap<String, Vec<Use>>, _: Setting, tell: &mut dyn FnMut(String)) {
    for uses in uses.values() {
        let mut sorted: Vec<&Use> = uses.iter().collect();
        sorted.sort_by_key(|one| (one.token, one.acquired.from));
        let mut latest: Option<(&Use, Nanos)> = None;
        for (index, one) in sorted.iter().enumerate() {
            if let Some(before) = index.checked_sub(1).map(|index| sorted[index])
                && before.token == one.token
            {
                tell(format!("two guards have one token:\n  {before}\n  {one}"));
            }
            let first_end = one.acquired.to;
            if let Some((before, begin)) = latest
                && begin > first_end
            {
                tell(format!(
                    "a smaller token was granted or valid after a larger one was granted:\n  \
                     {before}\n  {one}"
                ));
            }
            let checks = one.valid.iter().map(|(check, _)| check.from);
            let release = one.ended.iter().filter(|(_, how)| *how == End::Released);
            let begins = checks.chain(release.map(|(span, _)| span.from));
            let begin = begins.max().unwrap_or(0).max(one.acquired.from);
            if latest.is_none_or(|(_, latest)| latest < begin) {
                latest = Some((one, begin));
            }
        }
    }
}

fn linearizability(
    _: &[Line],
    uses: &BTreeMap<String, Vec<Use>>,
    _: Setting,
    tell: &mut dyn FnMut(String),
) {
    for uses in uses.values() {
        if let Err(what) = linear::check(uses) {
            tell(what);
        }
    }
}

fn early_loss(
    _: &[Line],
    uses: &BTreeMap<String, Vec<Use>>,
    _: Setting,
    tell: &mut dyn FnMut(String),
) {
    for one in uses.values().flatten() {
        let Some((ended, End::Lost { why, .. })) = &one.ended else { continue };
        let deadlines = one.valid.iter().map(|(check, left)| (check.from, *left));
        // A clock may be wrong by a tenth, and a millisecond is for rounding.
        let soonest = deadlines.map(|(at, left)| at + (left / 10 * 9).saturating_sub(MS)).max();
        if *why != Why::Closed && soonest.is_some_and(|soonest| ended.to < soonest) {
            tell(format!("a guard was lost before its deadline:\n  {one}"));
        }
    }
}

fn lost(_: &[Line], uses: &BTreeMap<String, Vec<Use>>, _: Setting, tell: &mut dyn FnMut(String)) {
    for one in uses.values().flatten() {
        let Some((ended, End::Lost { why, .. })) = &one.ended else { continue };
        if one.valid.iter().any(|(check, _)| check.from >= ended.to) {
            tell(format!("a guard was valid after its loss:\n  {one}"));
        }
        if *why == Why::Other("not told".to_owned()) {
            tell(format!("a guard was not valid any more, and its loss was not told:\n  {one}"));
        }
    }
}

fn refused(
    lines: &[Line],
    _: &BTreeMap<String, Vec<Use>>,
    _: Setting,
    tell: &mut dyn FnMut(String),
) {
    for line in lines {
        if let Line::Refused { usual: false, process, user, key, tried, why, .. } = line {
            tell(format!("{tried} of {key} by user {user} of process {process} failed: {why}"));
        }
    }
}

fn cause(
    lines: &[Line],
    uses: &BTreeMap<String, Vec<Use>>,
    setting: Setting,
    tell: &mut dyn FnMut(String),
) {
    let mut stalls: Vec<(u32, Span)> = vec![];
    for line in lines {
        match line {
            Line::Stall { process, from, to } => {
                stalls.push((*process, Span { from: *from, to: *to }));
            }
            // It says so itself, too, unless it is killed before.
            Line::Fault { name, process: Some(process), from, to, .. } if name == "stop" => {
                stalls.push((*process, Span { from: *from, to: *to }));
            }
            _ => {}
        }
    }
    for one in uses.values().flatten() {
        let Some((ended, End::Lost { why, text })) = &one.ended else { continue };
        let before = Span { from: ended.to.saturating_sub(2 * setting.lease), to: ended.to };
        let has_stalled =
            stalls.iter().any(|(process, stall)| *process == one.process && stall.overlaps(before));
        let is_nameless = *why == Why::Expired { with_error: false } && !has_stalled;
        if is_nameless || text.is_empty() {
            tell(format!("a loss names no cause:\n  {one}"));
        }
    }
}

/// Feeds the crate's own checker with what the engine answered to all processes.
fn register(
    lines: &[Line],
    _: &BTreeMap<String, Vec<Use>>,
    _: Setting,
    tell: &mut dyn FnMut(String),
) {
    if let Err(BrokenLaw { law, what, history, .. }) = engine_history(lines).check() {
        let history = history.map_or(String::new(), |history| format!("\n{history}"));
        tell(format!("{law:?}: {what}{history}"));
    }
}

/// The mark of what a write was to write.
fn written(line: &Line) -> Option<&str> {
    match line {
        Line::Invoked { write: Some(write), .. } => Some(&write.mark),
        _ => None,
    }
}

fn engine_history(lines: &[Line]) -> History {
    let history = History::new();
    let register = |seen: &super::record::Seen| Versioned {
        version: Version::new(seen.version).expect("a version"),
        value: seen.mark.as_bytes().into(),
    };
    let written: HashSet<&str> = lines.iter().filter_map(written).collect();
    // In the order of time, and of two at one moment the invocation first.
    let mut order: Vec<(Nanos, u8, &Line)> = vec![];
    for line in lines {
        match line {
            Line::Invoked { at, .. } => order.push((*at, 0, line)),
            Line::Responded { at, .. } | Line::Noticed { at, .. } => order.push((*at, 1, line)),
            _ => {}
        }
    }
    order.sort_by_key(|(at, kind, _)| (*at, *kind));
    let mut open: HashMap<(u32, u64), OperationId> = HashMap::new();
    for (_, _, line) in order {
        match line {
            Line::Invoked { process, request, key, write, .. } => {
                let invocation = match write {
                    None => Invocation::Load,
                    Some(write) => Invocation::CompareExchange {
                        expected: write.expected.map(|old| Version::new(old).expect("a version")),
                        value: write.mark.as_bytes().into(),
                    },
                };
                let key = Key::new(key).expect("a key");
                let operation = history.invoke(*process as usize, &key, invocation);
                open.insert((*process, *request), operation);
            }
            Line::Responded { process, request, response, .. } => {
                let Some(operation) = open.remove(&(*process, *request)) else { continue };
                let answer = match response {
                    Response::Loaded(seen) => Answer::Loaded(seen.as_ref().map(register)),
                    Response::Swapped(new) => Answer::Swapped(Version::new(*new).expect("one")),
                    Response::Mismatch(seen) => Answer::Mismatch(seen.as_ref().map(register)),
                    Response::Indeterminate(_) => Answer::Indeterminate,
                    Response::Failed(why) => Answer::Failed(why.clone()),
                };
                history.respond(operation, answer);
            }
            // What was never written was forged.
            Line::Noticed { key, seen, .. } if written.contains(&*seen.mark) => {
                history.noticed(&Key::new(key).expect("a key"), register(seen));
            }
            _ => {}
        }
    }
    history
}

#[cfg(test)]
mod tests {
    use super::super::record::{End, Line, MS, Why};
    use super::{Setting, check};

    /// A guard of a process of its own that is acquired, valid twice, and released, at these times.
    fn a_use(guard: u64, token: u64, begin: u64, end: u64, how: End) -> Vec<Line> {
        let (process, key) = (guard as u32, "k".to_owned());
        let valid = |from: u64| Line::Valid {
            process,
            guard,
            key: key.clone(),
            remaining: 0,
            from,
            to: from + 1,
        };
        vec![
            Line::Granted {
                process,
                user: 0,
                guard,
                key: key.clone(),
                token,
                via: "Free".to_owned(),
                from: begin - 10,
                to: begin,
            },
            valid(begin + 1),
            valid(end - 2),
            Line::Ended { process, guard, key: key.clone(), how, from: end, to: end + 5 },
        ]
    }

    fn broken(lines: &[Line]) -> Vec<&'static str> {
        let found = check(lines, Setting { lease: MS }, |_, _| true);
        found.iter().map(|violation| violation.rule).collect()
    }

    #[test]
    fn uses_one_after_the_other_are_in_order() {
        let lost = End::Lost { why: Why::Expired { with_error: true }, text: "late".to_owned() };
        let uses = [
            a_use(1, 5, 100, 200, End::Released),
            a_use(2, 6, 206, 300, lost),
            a_use(3, 9, 301, 400, End::Dropped),
            a_use(4, 10, 400, 500, End::Indeterminate),
        ];
        assert_eq!(broken(&uses.concat()), [""; 0]);
        // One whose process was killed, and the next.
        let mut killed = a_use(1, 5, 100, 200, End::Released);
        killed.pop();
        assert_eq!(broken(&[killed, a_use(2, 6, 206, 300, End::Released)].concat()), [""; 0]);
    }

    #[test]
    fn each_rule_finds_what_it_is_for() {
        let released = |guard, token, begin, end| a_use(guard, token, begin, end, End::Released);
        let two = [released(1, 5, 100, 200), released(2, 6, 150, 300)].concat();
        assert_eq!(broken(&two), ["exclusion", "tokens", "linearizability"]);
        let same = [released(1, 5, 100, 200), released(2, 5, 220, 300)].concat();
        assert_eq!(broken(&same), ["tokens", "linearizability"]);
        let smaller = [released(1, 6, 100, 200), released(2, 5, 220, 300)].concat();
        assert_eq!(broken(&smaller), ["tokens", "linearizability"]);
        // A process that was killed, and that was valid when the next one was.
        let mut killed = released(1, 5, 100, 250);
        killed.pop();
        let killed = [killed, released(2, 6, 206, 300)].concat();
        assert_eq!(broken(&killed), ["exclusion", "tokens", "linearizability"]);
        let lost = |why| a_use(1, 5, 100, 200, End::Lost { why, text: "lost".to_owned() });
        assert_eq!(broken(&lost(Why::Expired { with_error: false })), ["cause"]);
        assert_eq!(broken(&lost(Why::Other("not told".to_owned()))), ["lost"]);
        let mut early = lost(Why::Other("TakenOver".to_owned()));
        let Line::Valid { remaining, .. } = &mut early[2] else { unreachable!() };
        *remaining = 10 * MS;
        assert_eq!(broken(&early), ["early_loss"]);
    }
}
