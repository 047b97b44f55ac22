//! The uses of the locks, as the lines of a history tell them.

use super::record::{End, Line, Nanos};
use std::collections::BTreeMap;

/// A stretch of time in which something happened at one moment, or which something took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub from: Nanos,
    pub to: Nanos,
}

impl Span {
    pub fn overlaps(self, other: Span) -> bool {
        self.from <= other.to && other.from <= self.to
    }
}

/// A guard from its grant to its end.
#[derive(Clone, Debug)]
pub struct Use {
    pub process: u32,
    pub guard: u64,
    pub key: String,
    pub token: u64,
    pub via: String,
    /// The call that returned the guard.
    pub acquired: Span,
    /// The checks that found it valid, and the time that was left at each.
    pub valid: Vec<(Span, Nanos)>,
    /// The end. `None`: its process was killed before.
    pub ended: Option<(Span, End)>,
}

impl Use {
    /// All of this time the guard was valid, by checks before and after it. (A guard that is not valid
    /// any more never is again.)
    pub fn certainly_valid(&self) -> Option<Span> {
        let from = self.valid.iter().map(|(check, _)| check.to).min()?;
        let to = self.valid.iter().map(|(check, _)| check.from).max()?;
        (from <= to).then_some(Span { from, to })
    }

    /// When its last sign of life began.
    pub fn last_seen(&self) -> Nanos {
        self.valid.last().map_or(self.acquired.from, |(check, _)| check.from)
    }
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { process, guard, key, token, via, acquired, valid, ended } = self;
        write!(f, "guard {guard} of process {process} for {key}, token {token}, by {via}: ")?;
        write!(f, "acquired [{}, {}], ", acquired.from, acquired.to)?;
        if let (Some((first, _)), Some((last, _))) = (valid.first(), valid.last()) {
            write!(f, "valid {} times from [{}, {}] ", valid.len(), first.from, first.to)?;
            write!(f, "to [{}, {}], ", last.from, last.to)?;
        }
        match ended {
            Some((span, how)) => write!(f, "ended [{}, {}]: {how:?}", span.from, span.to),
            None => write!(f, "without an end"),
        }
    }
}

/// The uses of each key.
pub fn by_key(lines: &[Line]) -> BTreeMap<String, Vec<Use>> {
    let mut uses: BTreeMap<(u32, u64), Use> = BTreeMap::new();
    for line in lines {
        let Line::Granted { process, guard, key, token, via, from, to, .. } = line else {
            continue;
        };
        let acquired = Span { from: *from, to: *to };
        let new = Use {
            process: *process,
            guard: *guard,
            key: key.clone(),
            token: *token,
            via: via.clone(),
            acquired,
            valid: vec![],
            ended: None,
        };
        uses.insert((*process, *guard), new);
    }
    // The line of a grant is written before all others of the guard, by the same process.
    for line in lines {
        match line {
            Line::Valid { process, guard, remaining, from, to, .. } => {
                if let Some(of) = uses.get_mut(&(*process, *guard)) {
                    of.valid.push((Span { from: *from, to: *to }, *remaining));
                }
            }
            Line::Ended { process, guard, how, from, to, .. } => {
                if let Some(of) = uses.get_mut(&(*process, *guard)) {
                    of.ended = Some((Span { from: *from, to: *to }, how.clone()));
                }
            }
            _ => {}
        }
    }
    let mut by_key: BTreeMap<String, Vec<Use>> = BTreeMap::new();
    for mut of in uses.into_values() {
        of.valid.sort_by_key(|(check, _)| check.from);
        by_key.entry(of.key.clone()).or_default().push(of);
    }
    by_key
}
