//! `--at-most-once-per`: the record of the last start, in a register of its own beside the key.
//!
//! It is written under the lock before the command starts. It is not marked as idle, so the engine keeps
//! it; `lockword sweep` marks those whose time is over. The time is that of the hosts' wall clocks.

use crate::engine::request_failed;
use crate::output::printable;
use crate::{CliError, exit};
use lockword::cluster::{Exchange, Key, Transport, TransportError, Version, Wake, Write};
use serde::{Deserialize, Serialize};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The end of a record's name.
const SUFFIX: &str = "@last-run";

/// How often a write whose outcome is not known is looked at or tried again.
const TRIES: u32 = 5;

/// When a command was last started under a lock.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastRun {
    /// The format of this record, and what tells it from other values.
    lockword_last_run: String,
    /// When it was started, in milliseconds since 1970 by the clock of its host.
    pub started_ms: u64,
    /// For how long no other start was wanted then.
    pub for_ms: u64,
    pub label: String,
    pub token: u64,
    /// Its time was over, and it was handed to the engine's housekeeping.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    swept: bool,
}

const FORMAT: &str = "1.0";

/// In characters. Longer ones are not of this program.
const LONGEST_LABEL: usize = 128;

/// The key of the record beside a lock.
pub fn key_of_record(key: &Key) -> Result<Key, CliError> {
    Key::new(&format!("{key}{SUFFIX}")).map_err(|_| {
        let longest = Key::MAX_LEN - SUFFIX.len();
        let why = format!("with --at-most-once-per the lock's name has at most {longest} bytes");
        CliError::with(exit::USAGE, why)
    })
}

/// Whether this is the key of a record.
pub fn is_record(key: &Key) -> bool {
    key.as_str().ends_with(SUFFIX)
}

/// Milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    millis(since)
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

impl LastRun {
    pub fn new(period: Duration, label: &str, token: u64) -> LastRun {
        LastRun {
            lockword_last_run: FORMAT.to_owned(),
            started_ms: now_ms(),
            for_ms: millis(period),
            label: label.to_owned(),
            token,
            swept: false,
        }
    }

    /// Whether it was handed to the engine's housekeeping.
    pub fn is_swept(&self) -> bool {
        self.swept
    }

    /// The write that does so.
    pub fn swept(&self) -> Write {
        LastRun { swept: true, ..self.clone() }.write(true)
    }

    /// The record in a value, if it is one.
    pub fn decode(value: &[u8]) -> Option<LastRun> {
        let mut record: LastRun = serde_json::from_slice(value).ok()?;
        // Anybody may have written it.
        record.label = printable(&record.label).chars().take(LONGEST_LABEL).collect();
        record.lockword_last_run.starts_with("1.").then_some(record)
    }

    /// How long it is until another start is wanted; `None` if it is.
    ///
    /// A start in the future is one on a host whose clock is ahead, and counts; but not if it is further
    /// ahead than the period, or a clock that was wrong once would keep the job from running for ever.
    fn left(&self, period: Duration, now_ms: u64) -> Option<Duration> {
        let period = millis(period);
        let is_too_far_ahead = self.started_ms > now_ms.saturating_add(period);
        let until = self.started_ms.saturating_add(period);
        (!is_too_far_ahead && until > now_ms).then(|| Duration::from_millis(until - now_ms))
    }

    /// Whether its own time is over.
    pub fn is_over(&self) -> bool {
        self.left(Duration::from_millis(self.for_ms), now_ms()).is_none()
    }

    fn write(&self, idle: bool) -> Write {
        let value = serde_json::to_vec(self).expect("strings and numbers can be written");
        Write { value: value.into(), wake: Wake::Nobody, idle }
    }
}

/// The version of the record beside this key; an error with [`exit::BUSY`] if the last start was less
/// than `period` ago.
pub async fn check(
    transport: &dyn Transport,
    record_key: &Key,
    period: Duration,
) -> Result<Option<Version>, CliError> {
    let seen = transport.load(record_key).await.map_err(|error| request_failed(&error))?;
    let Some(seen) = seen else { return Ok(None) };
    let Some(record) = LastRun::decode(&seen.value) else {
        let why =
            format!("{record_key} is no record of a start, but in use as a lock: use another name");
        return Err(CliError::with(exit::USAGE, why));
    };
    match record.left(period, now_ms()) {
        None => Ok(Some(seen.version)),
        Some(left) => {
            let ago = Duration::from_millis(now_ms().saturating_sub(record.started_ms));
            let why = format!(
                "not started: the last start was {} ago, by {}; the next may be in {}",
                crate::admin::age(ago),
                record.label,
                crate::admin::left(left),
            );
            Err(CliError::with(exit::BUSY, why))
        }
    }
}

/// Records that a command starts now. The caller has the lock.
pub async fn record(
    transport: &dyn Transport,
    record_key: &Key,
    period: Duration,
    record: &LastRun,
) -> Result<(), CliError> {
    let mut unknown = TransportError::unavailable("others wrote first");
    for _ in 0..TRIES {
        // Also after a write of unknown outcome: it may have been applied.
        let seen = transport.load(record_key).await.map_err(|error| request_failed(&error))?;
        let own = seen.as_ref().and_then(|seen| LastRun::decode(&seen.value));
        if own.as_ref() == Some(record) {
            return Ok(());
        }
        let expected = check(transport, record_key, period).await?;
        match transport.compare_exchange(record_key, expected, record.write(false)).await {
            Ok(Exchange::Swapped(_)) => return Ok(()),
            Ok(Exchange::Mismatch(_)) => {}
            Err(error @ TransportError::Indeterminate(_)) => unknown = error,
            Err(error) => return Err(request_failed(&error)),
        }
    }
    Err(request_failed(&unknown))
}

#[cfg(test)]
mod tests {
    use super::LastRun;
    use std::time::Duration;

    #[test]
    fn a_start_counts_for_the_period_and_not_if_it_is_too_far_ahead() {
        let hour = Duration::from_secs(3600);
        let record = LastRun { started_ms: 10_000_000, ..LastRun::new(hour, "a", 1) };
        let left = |now| record.left(hour, now);
        assert_eq!(left(10_000_000), Some(hour));
        assert_eq!(left(13_599_999), Some(Duration::from_millis(1)));
        assert_eq!(left(13_600_000), None);
        // The clock of this host is behind by half an hour, and by more than one.
        assert_eq!(left(8_200_000), Some(hour * 3 / 2));
        assert_eq!(left(6_399_999), None);
    }

    #[test]
    fn a_record_is_read_as_it_was_written() {
        let record = LastRun::new(Duration::from_secs(5), "a \"b\"", u64::MAX);
        assert_eq!(LastRun::decode(&record.write(false).value), Some(record));
        assert_eq!(LastRun::decode(br#"{"lockword":"3.0","heartbeat":1,"queue":[]}"#), None);
    }
}
