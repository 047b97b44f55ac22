//! The laws, the violation of one, and the report of a run without violation.

use super::history::KeyHistory;
use std::fmt;

/// A law of [`transport`](crate::cluster::transport#the-laws), with its number there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Law {
    /// Not numbered: each call ends, and an engine that can be reached serves a call that is repeated.
    Responses,
    /// Law 1: [`compare_exchange`](crate::cluster::Transport::compare_exchange) and
    /// [`load`](crate::cluster::Transport::load) are linearizable.
    Linearizable,
    /// Law 2: versions only grow.
    Versions,
    /// Law 3: an unknown outcome is reported.
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
            Self::Responses => "the rule that every call ends",
            Self::Linearizable => "law 1 (linearizable)",
            Self::Versions => "law 2 (versions only grow)",
            Self::Indeterminate => "law 3 (an unknown outcome is reported)",
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
    /// The law.
    pub law: Law,
    /// What happened, in a sentence.
    pub what: String,
    /// The shortest history found that shows it, of one key. `None` if responses do not show it: a
    /// call did not end, or a watch did not wake.
    pub history: Option<KeyHistory>,
}

impl Violation {
    pub(super) fn new(law: Law, what: impl Into<String>) -> Self {
        Self { law, what: what.into(), history: None }
    }
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} is broken: {}", self.law, self.what)?;
        match &self.history {
            Some(history) => write!(f, "\n{history}"),
            None => Ok(()),
        }
    }
}

impl std::error::Error for Violation {}

/// What a run of the suite has checked without finding a violation. To be shown to people, it has a
/// [`Display`](fmt::Display) of one line for each law.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct SuiteReport {
    /// The laws that were checked, but for the parts in `not_checked`.
    pub checked: Vec<Law>,
    /// What was not checked, and why.
    pub not_checked: Vec<NotChecked>,
    /// The number of operations.
    pub operations: usize,
    /// The number of writes whose outcome was unknown.
    pub indeterminate: usize,
}

/// A part of a law that a run did not check.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct NotChecked {
    /// The law.
    pub law: Law,
    /// The part.
    pub what: &'static str,
    /// Why it was not checked.
    pub why: &'static str,
}

impl fmt::Display for SuiteReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} operations, {} of unknown outcome", self.operations, self.indeterminate)?;
        for law in &self.checked {
            writeln!(f, "kept: {law}")?;
        }
        for NotChecked { law, what, why } in &self.not_checked {
            writeln!(f, "not checked, of {law}: {what}: {why}")?;
        }
        Ok(())
    }
}
