//! The laws, a broken one, and what was checked.

use super::history::Trace;
use std::fmt;

/// A law of [`transport`](crate::cluster::transport), numbered there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Law {
    /// Not numbered: calls end, and an engine that is well answers in the end.
    Responses,
    /// Law 1: [`compare_exchange`](crate::cluster::Transport::compare_exchange) is linearizable, and
    /// [`load`](crate::cluster::Transport::load) shows the latest effect.
    Linearizable,
    /// Law 2: versions only grow.
    Versions,
    /// Law 3: indeterminacy is told.
    Indeterminate,
    /// Law 4: a mismatch is the truth.
    Mismatch,
    /// Law 5: a live watch wakes.
    Watch,
    /// Law 6: dropping is harmless.
    Dropping,
}

impl fmt::Display for Law {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Responses => "the rule that every call is answered",
            Self::Linearizable => "law 1 (linearizable)",
            Self::Versions => "law 2 (versions only grow)",
            Self::Indeterminate => "law 3 (doubt is told)",
            Self::Mismatch => "law 4 (a mismatch is the truth)",
            Self::Watch => "law 5 (a live watch wakes)",
            Self::Dropping => "law 6 (dropping is harmless)",
        })
    }
}

/// A law was broken.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Violation {
    /// Which law.
    pub law: Law,
    /// What happened, in a sentence.
    pub what: String,
    /// The shortest history found that shows it, of one key. `None` if no history of answers does: a
    /// call that did not end, a watch that did not wake.
    pub trace: Option<Trace>,
}

impl Violation {
    pub(super) fn new(law: Law, what: impl Into<String>) -> Self {
        Self { law, what: what.into(), trace: None }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is broken: {}", self.law, self.what)?;
        match &self.trace {
            Some(trace) => write!(f, "\n{trace}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Violation {}

/// What a run checked: nothing was found to be broken.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// The laws that were checked, as far as `not_checked` does not say otherwise.
    pub checked: Vec<Law>,
    /// What was not checked, and why.
    pub not_checked: Vec<NotChecked>,
    /// How many operations were called.
    pub operations: usize,
    /// How many writes had a doubtful outcome.
    pub indeterminate: usize,
}

/// Something that a run did not check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotChecked {
    /// Of which law.
    pub law: Law,
    /// What of it.
    pub what: &'static str,
    /// Why not.
    pub why: &'static str,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} operations, {} doubtful", self.operations, self.indeterminate)?;
        for law in &self.checked {
            writeln!(f, "kept: {law}")?;
        }
        for NotChecked { law, what, why } in &self.not_checked {
            writeln!(f, "not checked, of {law}: {what}: {why}")?;
        }
        Ok(())
    }
}
