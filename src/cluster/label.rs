//! The label of a node, in parts: which user, host, program and process.

use super::builder::{MAX_LABEL, host_name};
use std::fmt;

/// The parts of a label of the form `user@host/program[pid]`, which operators look for. The user and the
/// host may be missing.
///
/// A label is any text ([`NodeBuilder::label`](super::NodeBuilder::label)); the default one and that of
/// `lockword run` have this form. What it says was written by the node itself, or by whoever may write to
/// the engine: it is for people to read, and nothing is decided by it.
///
/// ```
/// use lockword::cluster::Label;
///
/// let label = Label::parse("backup@web-3/rsync[311]").unwrap();
/// assert_eq!(label.user.as_deref(), Some("backup"));
/// assert_eq!(label.host.as_deref(), Some("web-3"));
/// assert_eq!((&*label.program, label.pid), ("rsync", 311));
/// assert_eq!(label.to_string(), "backup@web-3/rsync[311]");
/// assert_eq!(Label::parse("the night job"), None);
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Label {
    /// The name of the user.
    pub user: Option<String>,
    /// The name of the host.
    pub host: Option<String>,
    /// The name of the program.
    pub program: String,
    /// The number of the process on its host.
    pub pid: u32,
}

impl Label {
    /// The label of this process, for a program of this name.
    #[must_use]
    pub fn of_this_process(user: Option<&str>, program: &str) -> Self {
        let printable = |name: &str| name.chars().filter(|c| !c.is_control()).collect::<String>();
        let host = Some(printable(&host_name())).filter(|host| !host.is_empty());
        let user = user.map(printable).filter(|user| !user.is_empty() && host.is_some());
        Self { user, host, program: printable(program), pid: std::process::id() }
    }

    /// The parts of a label. `None` if it has another form.
    #[must_use]
    pub fn parse(label: &str) -> Option<Self> {
        let (name, pid) = label.strip_suffix(']')?.rsplit_once('[')?;
        let pid = pid.parse().ok()?;
        let (place, program) = match name.split_once('/') {
            Some((place, program)) => (Some(place), program),
            None => (None, name),
        };
        let (user, host) = match place.map(|place| place.split_once('@').ok_or(place)) {
            None => (None, None),
            Some(Ok((user, host))) => (Some(user.to_owned()), Some(host.to_owned())),
            Some(Err(host)) => (None, Some(host.to_owned())),
        };
        Some(Self { user, host, program: program.to_owned(), pid })
    }
}

/// As a label: at most 64 bytes. If it would be longer, the longest of the names is cut at its end.
impl fmt::Display for Label {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut names = [
            self.user.clone().unwrap_or_default(),
            self.host.clone().unwrap_or_default(),
            self.program.clone(),
        ];
        let pid = self.pid.to_string();
        // `@`, `/`, `[` and `]`.
        while names.iter().map(String::len).sum::<usize>() + pid.len() + 4 > MAX_LABEL {
            let longest = names.iter_mut().max_by_key(|name| name.len());
            if longest.is_none_or(|name| name.pop().is_none()) {
                break;
            }
        }
        let [user, host, program] = names;
        if !user.is_empty() {
            write!(f, "{user}@")?;
        }
        if !host.is_empty() {
            write!(f, "{host}/")?;
        }
        write!(f, "{program}[{pid}]")
    }
}

#[cfg(test)]
mod tests {
    use super::{Label, MAX_LABEL};

    #[test]
    fn the_parts_are_those_of_the_label() {
        for (text, user, host, program, pid) in [
            ("indexer[7]", None, None, "indexer", 7),
            ("web-3/indexer[311]", None, Some("web-3"), "indexer", 311),
            ("me@web-3/a[b]/c@d[311]", Some("me"), Some("web-3"), "a[b]/c@d", 311),
        ] {
            let label = Label::parse(text).unwrap();
            assert_eq!((label.user.as_deref(), label.host.as_deref()), (user, host), "{text}");
            assert_eq!((&*label.program, label.pid), (program, pid), "{text}");
            assert_eq!(label.to_string(), text);
        }
        for other in ["", "job", "job[]", "job[x]", "job[1", "job[1] "] {
            assert_eq!(Label::parse(other), None, "{other}");
        }
    }

    #[test]
    fn a_long_label_is_cut_and_keeps_the_process() {
        let label = Label::of_this_process(Some(&"u".repeat(50)), &"\u{e4}".repeat(50));
        let text = label.to_string();
        assert!(text.len() <= MAX_LABEL && text.len() > MAX_LABEL - 4, "{text}");
        let parsed = Label::parse(&text).unwrap();
        assert_eq!(parsed.pid, std::process::id());
        assert!(parsed.user.is_some_and(|user| user.len() >= 15), "{text}");
    }

    #[test]
    fn control_characters_are_left_out() {
        let label = Label::of_this_process(Some("a\x1bb"), "c\nd").to_string();
        assert!(!label.contains(char::is_control) && label.contains("cd["), "{label}");
    }
}
