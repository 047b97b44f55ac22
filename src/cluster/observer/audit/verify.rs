//! Whether an audit trail is whole.

use super::{AuditMark, hash_of};
use serde_json::Value;
use std::fmt;
use std::io::{self, BufRead};

/// At most so many faults are listed.
const MAX_FAULTS: usize = 100;

/// What [`verify`] has found.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Verified {
    /// How many lines there are.
    pub lines: u64,
    /// The line before the first one, as the first one says. Its number is 0 if the trail begins here; otherwise the
    /// first line can be checked only with the file before this one.
    pub before: Option<AuditMark>,
    /// Whether the line of [`verify_from`] was there.
    pub contains: bool,
    /// The last line. Compare it with one that is kept elsewhere: that the end was cut is not seen otherwise.
    pub last: Option<AuditMark>,
    /// What is wrong; the first 100.
    pub faults: Vec<AuditFault>,
}

/// A place at which an audit trail is not whole.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct AuditFault {
    /// The number of the line among all that were read, from 1 on.
    pub line: u64,
    /// What is wrong there, as a sentence.
    pub what: String,
}

impl fmt::Display for AuditFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}: {}", self.line, self.what)
    }
}

/// Reads a trail from its beginning to its end (several files one after the other, the oldest first), and checks that
/// each line follows the one before.
///
/// # Errors
///
/// Those of reading. What is wrong with the trail is no error, but in [`Verified::faults`].
pub fn verify(trail: impl BufRead) -> io::Result<Verified> {
    verify_from(trail, AuditMark::default())
}

/// As [`verify`], and checks that the trail has a line that was kept elsewhere, or is the one that follows it.
///
/// # Errors
///
/// Those of [`verify`].
pub fn verify_from(mut trail: impl BufRead, kept: AuditMark) -> io::Result<Verified> {
    let mut found = Verified { contains: kept.sequence == 0, ..Verified::default() };
    // A line that is none: how many bytes, if `opened` may excuse it.
    let mut torn: Option<(u64, usize)> = None;
    let mut line = vec![];
    while trail.read_until(b'\n', &mut line)? > 0 {
        found.lines += 1;
        let has_end = line.last() == Some(&b'\n');
        if has_end {
            line.pop();
        }
        let fault = check(&line, &mut found, &mut torn, has_end);
        if let Some(what) = fault {
            found.blame(found.lines, what);
        }
        found.contains |= found.last == Some(kept) || found.before == Some(kept);
        line.clear();
    }
    if let Some((at, _)) = torn {
        found.blame(at, "it is no line of an audit trail".to_owned());
    }
    Ok(found)
}

fn check(
    line: &[u8],
    found: &mut Verified,
    torn: &mut Option<(u64, usize)>,
    has_end: bool,
) -> Option<String> {
    let Some(Line { sequence, prev, torn: excused }) = Line::parse(line) else {
        if !has_end {
            return Some(
                "it is cut: the process was killed while it wrote, or the end is missing"
                    .to_owned(),
            );
        }
        let earlier = torn.replace((found.lines, line.len()));
        return earlier.map(|_| "the line before is no line of an audit trail".to_owned());
    };
    if let Some((at, length)) = torn.take()
        && excused != Some(length)
    {
        found.blame(at, "it is no line of an audit trail".to_owned());
    }
    let mark = AuditMark::of(sequence, line);
    let before = found.last.replace(mark);
    let Some(before) = before else {
        found.before = Some(AuditMark { sequence: sequence.saturating_sub(1), hash: prev });
        let is_first = sequence == 1;
        return (is_first && prev != [0; 32])
            .then(|| "it is the first line, and names one before it".to_owned());
    };
    if sequence != before.sequence + 1 {
        return Some(format!(
            "its number is {sequence} after {}: lines are missing, or were put in",
            before.sequence
        ));
    }
    (prev != before.hash)
        .then(|| "it does not follow the line before: one of the two was changed".to_owned())
}

impl Verified {
    fn blame(&mut self, line: u64, what: String) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(AuditFault { line, what });
        }
    }
}

/// What the chain needs of a line.
struct Line {
    sequence: u64,
    prev: [u8; 32],
    /// How many bytes of a line of a killed process are before it.
    torn: Option<usize>,
}

impl Line {
    fn parse(line: &[u8]) -> Option<Self> {
        let line: Value = serde_json::from_slice(line).ok()?;
        let sequence = line.get("seq")?.as_u64().filter(|sequence| *sequence > 0)?;
        let prev = hash_of(line.get("prev")?.as_str()?)?;
        let is_opened = line.get("event").and_then(Value::as_str) == Some("opened");
        let torn = line.get("torn").filter(|_| is_opened).and_then(Value::as_u64);
        Some(Self { sequence, prev, torn: torn.and_then(|torn| usize::try_from(torn).ok()) })
    }
}

/// The number of a line of a trail. `None` if it is none.
pub(super) fn sequence_of(line: &[u8]) -> Option<u64> {
    Line::parse(line).map(|line| line.sequence)
}
