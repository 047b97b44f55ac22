//! What is shown of a lock.

use super::Desk;
use crate::CliError;
use crate::engine::unreadable;
use crate::output::{now_ms, printable};
use lockword::cluster::periodic::StartRecord;
use lockword::cluster::{Key, KeyState, Label, LastBreak, LockStatus, NodeId};
use serde_json::{Value, json};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a register shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum View {
    Lock(Box<KeyState>),
    /// The record of `run --at-most-once-per`.
    Record(Key, StartRecord),
    /// A value that is neither.
    Unreadable(Key, String),
}

impl View {
    /// Looks at a key.
    pub async fn of(desk: &Desk, key: &Key) -> Result<View, CliError> {
        // An error is that of the inspection, too.
        if StartRecord::is_key(key)
            && let Ok(Some(seen)) = desk.engine.transport.load(key).await
            && let Some(record) = StartRecord::decode(&seen.value)
        {
            return Ok(View::Record(key.clone(), record));
        }
        let error = match desk.node.inspect(key).await {
            Ok(state) => return Ok(View::Lock(Box::new(state))),
            Err(error) => error,
        };
        match unreadable(&error) {
            Some(why) => Ok(View::Unreadable(key.clone(), why)),
            None => Err(error.into()),
        }
    }

    pub fn key(&self) -> &Key {
        match self {
            View::Lock(state) => &state.key,
            View::Record(key, _) | View::Unreadable(key, _) => key,
        }
    }

    /// One word.
    pub fn state(&self) -> &'static str {
        match self {
            View::Lock(state) => match state.status {
                LockStatus::Held { .. } => "held",
                _ => "free",
            },
            View::Record(..) => "last-run",
            View::Unreadable(..) => "unreadable",
        }
    }

    /// Who has it, or what else there is to say.
    pub fn holder(&self) -> String {
        printable(&match self {
            View::Lock(state) => match &state.status {
                LockStatus::Held { label, .. } => label.clone(),
                _ => String::new(),
            },
            View::Record(_, record) => {
                let ago = Duration::from_millis(now_ms().saturating_sub(record.started_ms));
                format!("{} ago by {}", age(ago), record.label)
            }
            View::Unreadable(_, why) => why.clone(),
        })
    }

    /// What the holder publishes.
    pub fn value(&self) -> Option<&str> {
        match self {
            View::Lock(state) => match &state.status {
                LockStatus::Held { value, .. } => value.as_deref(),
                _ => None,
            },
            _ => None,
        }
    }

    /// How many nodes wait.
    pub fn waiting(&self) -> usize {
        match self {
            View::Lock(state) => state.queue.len(),
            _ => 0,
        }
    }

    pub fn json(&self) -> Value {
        let mut shown = json!({"key": self.key().as_str(), "state": self.state()});
        match self {
            View::Lock(state) => {
                shown["version"] = json!(state.version.map(|version| version.to_string()));
                if let LockStatus::Held {
                    node, label, lease, since, token, is_handed, value, ..
                } = &state.status
                {
                    let since = since.and_then(since_1970);
                    shown["holder"] = who(*node, label);
                    shown["holder"]["lease_ms"] = json!(millis(*lease));
                    shown["holder"]["handed"] = json!(is_handed);
                    shown["holder"]["since_ms"] = json!(since.map(millis));
                    shown["holder"]["token"] = json!(token.map(|token| token.to_string()));
                    shown["holder"]["value"] = json!(value);
                }
                let queue = state.queue.iter().map(|queued| {
                    let mut who = who(queued.node, &queued.label);
                    who["wait"] = json!(queued.wait.to_string());
                    who
                });
                shown["queue"] = queue.collect();
                if let Some(LastBreak { by, of, node, reason, at, .. }) = &state.last_break {
                    let node = node.to_string();
                    let at = at.and_then(since_1970).map(millis);
                    shown["last_break"] =
                        json!({"by": by, "of": of, "node": node, "reason": reason, "at_ms": at});
                }
            }
            View::Record(_, record) => {
                shown["label"] = json!(record.label);
                shown["started_ms"] = json!(record.started_ms);
                shown["for_ms"] = json!(record.for_ms);
                // As a string: it is larger than the numbers that all readers of JSON take.
                shown["token"] = json!(record.token.to_string());
            }
            View::Unreadable(_, why) => shown["why"] = json!(why),
        }
        shown
    }
}

fn since_1970(at: SystemTime) -> Option<Duration> {
    at.duration_since(UNIX_EPOCH).ok()
}

/// A node as JSON, with the parts of its label.
fn who(node: NodeId, label: &str) -> Value {
    let mut who = json!({"node": node.to_string(), "label": label});
    if let Some(Label { user, host, program, pid, .. }) = Label::parse(label) {
        who["user"] = json!(user);
        who["host"] = json!(host);
        who["program"] = json!(program);
        who["pid"] = json!(pid);
    }
    who
}

pub fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// A time that is still to come, for people: rounded up.
pub fn left(time: Duration) -> String {
    let unit = match time.as_secs() {
        0..60 => Duration::ZERO,
        60..3600 => Duration::from_secs(60),
        3600..172_800 => Duration::from_secs(3600),
        _ => Duration::from_secs(86_400),
    };
    age(time + unit.saturating_sub(Duration::from_nanos(1)))
}

/// A time for people: `120 ms`, `4.2 s`, `3 min`, `5 h`, `12 d`.
pub fn age(time: Duration) -> String {
    match time.as_secs_f64() {
        s if s < 1.0 => format!("{} ms", time.as_millis()),
        s if s < 60.0 => format!("{s:.1} s"),
        s if s < 3600.0 => format!("{:.0} min", (s / 60.0).floor()),
        s if s < 2.0 * 86_400.0 => format!("{:.0} h", (s / 3600.0).floor()),
        s => format!("{:.0} d", (s / 86_400.0).floor()),
    }
}

#[cfg(test)]
mod tests {
    use super::{age, left};
    use std::time::Duration;

    #[test]
    fn an_age_has_a_fitting_unit() {
        for (ms, text) in [
            (0, "0 ms"),
            (999, "999 ms"),
            (4_200, "4.2 s"),
            (60_000, "1 min"),
            (3_599_000, "59 min"),
            (7_200_000, "2 h"),
            (200_000_000, "2 d"),
        ] {
            assert_eq!(age(Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn a_time_to_come_is_rounded_up() {
        for (ms, text) in [
            (0, "0 ms"),
            (4_200, "4.2 s"),
            (60_000, "1 min"),
            (60_001, "2 min"),
            (43_199_999, "12 h"),
        ] {
            assert_eq!(left(Duration::from_millis(ms)), text);
        }
    }
}
