//! How a register is kept in a key: the value, then one byte that tells whether it is idle.
//!
//! The byte is a line feed or a blank, which JSON does not mind at its end.

use super::failure::{Failure, FailureKind};
use crate::cluster::{Version, Versioned, Write};
use etcd_client::proto::PbKeyValue;

const IN_USE: u8 = b'\n';
const IDLE: u8 = b' ';

/// What is to be stored.
pub(super) fn stored(write: &Write) -> Vec<u8> {
    let mut stored = Vec::with_capacity(write.value.len() + 1);
    stored.extend_from_slice(&write.value);
    stored.push(if write.idle { IDLE } else { IN_USE });
    stored
}

/// Whether the stored register is idle. One that somebody has written by hand is not.
pub(super) fn is_idle(stored: &PbKeyValue) -> bool {
    stored.value.last() == Some(&IDLE)
}

/// The stored register.
pub(super) fn read(stored: &PbKeyValue) -> Result<Versioned, Failure> {
    let value = match &*stored.value {
        [value @ .., IN_USE | IDLE] => value,
        by_hand => by_hand,
    };
    Ok(Versioned { version: version(stored.mod_revision)?, value: value.into() })
}

/// The version that is this revision.
pub(super) fn version(revision: i64) -> Result<Version, Failure> {
    let version = u64::try_from(revision).ok().and_then(|revision| Version::new(revision).ok());
    version.ok_or_else(|| Failure::new(FailureKind::Corrupt, format!("{revision} is no revision")))
}

#[cfg(test)]
mod tests {
    use super::{is_idle, read, stored};
    use crate::cluster::{Wake, Write};
    use etcd_client::proto::PbKeyValue;

    #[test]
    fn every_value_is_read_as_it_was_written() {
        for value in [&b""[..], b" ", b"\n", b"{}", b"{} \n"] {
            for idle in [false, true] {
                let write = Write { value: value.into(), wake: Wake::Nobody, idle };
                let kv =
                    PbKeyValue { value: stored(&write), mod_revision: 7, ..Default::default() };
                assert_eq!(&*read(&kv).unwrap().value, value);
                assert_eq!(is_idle(&kv), idle);
            }
        }
        let by_hand = PbKeyValue { value: b"{}".into(), mod_revision: 7, ..Default::default() };
        assert_eq!(&*read(&by_hand).unwrap().value, b"{}");
        assert!(!is_idle(&by_hand));
        assert!(read(&PbKeyValue::default()).is_err(), "revision 0");
    }
}
