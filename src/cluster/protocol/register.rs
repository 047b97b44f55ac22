//! The value of a key: who holds the lock, and who waits for it.
//!
//! It is JSON, so that an operator can read it with the engine's own tools:
//!
//! ```json
//! {"lockword":"3.0","heartbeat":5063184091233672,
//!  "holder":{"node":"00c0ffee00c0ffee","nonce":"…","label":"web-3/indexer[311]","lease_ms":10000},
//!  "queue":[{"node":"…","nonce":"…","label":"web-4/indexer[97]","lease_ms":2500}]}
//! ```
//!
//! - `lockword` is the format: a major and a minor number. A value of another major format is
//!   refused and never overwritten. A value of a newer minor format is read, and the fields that this
//!   version does not know are written back, so that nodes of two versions can share a key during an
//!   upgrade.
//! - `heartbeat` changes with every write of the holder, and whenever the holder changes. It does not
//!   change when a node joins or leaves the queue. Waiters observe the heartbeat, and nothing else,
//!   to tell a dead holder from a live one. The holder draws each at random, from 53 bits, so that it
//!   can tell its own from that of a copy of its node.
//! - `holder` is the node that has the lock. If it is `handed`, the holder before it has written it there, and
//!   it has not written since. Its `lease_ms` is the one that it asked for in the queue.
//!   Its `value`, if it has one, is what the holder [publishes](crate::cluster::DistributedGuard::publish): a text for
//!   those who look at the key.
//! - `queue` lists the nodes that wait, the oldest first, each with the lease that it wants to have when it is
//!   handed the lock. There is a queue only if there is a holder.
//!
//! A *claim* identifies one acquisition of one node: by the node's number, and by a nonce that no
//! other claim has. A lease is a duration. The only point in time is `since_ms` of the holder, by whose wall
//! clock it took the lock; that and `granted`, the version of its grant, are for human readers, and nothing
//! is decided by them.

use crate::cluster::text::shown_within;
use crate::cluster::transport::NodeId;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The major format that this code reads and writes.
const MAJOR: u32 = 3;
/// The minor format that it knows.
const MINOR: u32 = 0;
/// A longer value is refused without decoding it.
pub(crate) const LARGEST: usize = 1 << 20;

/// What a sealed value begins with. (JSON never does.)
pub(crate) const SEALED: &[u8] = b"lw-seal";

/// The identity of one acquisition of one node, from its first write until the lock is released or
/// the acquisition is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ClaimId {
    pub(crate) node: NodeId,
    /// A random number: no two claims have the same node and nonce.
    pub(crate) nonce: u64,
}

/// The node that holds the lock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Holder {
    pub(crate) claim: ClaimId,
    /// For human readers.
    pub(crate) label: String,
    /// A waiter that has seen no change of the heartbeat for this long may take the lock.
    pub(crate) lease: Duration,
    /// When it took the lock, by its own wall clock, in milliseconds since 1970: for human readers.
    pub(crate) since_ms: Option<u64>,
    /// The version of the write that took the lock. The holder knows it afterwards, and its first renewal
    /// writes it: for human readers.
    pub(crate) granted: Option<u64>,
    /// The holder before it has [handed](Register::hand_over) it the lock, and it has not written since.
    pub(crate) is_handed: bool,
    /// What it publishes.
    pub(crate) value: Option<Arc<str>>,
    extra: Map<String, Value>,
}

/// A node in the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct QueueEntry {
    pub(crate) claim: ClaimId,
    /// For human readers.
    pub(crate) label: String,
    /// The lease that it has when it is handed the lock.
    pub(crate) lease: Duration,
    extra: Map<String, Value>,
}

/// The value of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Register {
    pub(crate) heartbeat: u64,
    pub(crate) holder: Option<Holder>,
    pub(crate) queue: Vec<QueueEntry>,
    /// How long a node that finds no place in the queue waits on average before it looks again; zero if
    /// all find one. It is only a matter of cost.
    pub(crate) pace: Duration,
    minor: u32,
    extra: Map<String, Value>,
}

/// The part of a register that a live holder changes within a bounded time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Liveness {
    pub(crate) holder: Option<ClaimId>,
    pub(crate) heartbeat: u64,
}

impl Holder {
    pub(crate) fn new(claim: ClaimId, label: &str, lease: Duration) -> Self {
        let (since_ms, granted, is_handed, value) = (None, None, false, None);
        let extra = Map::new();
        Self { claim, label: label.to_owned(), lease, since_ms, granted, is_handed, value, extra }
    }
}

impl QueueEntry {
    pub(crate) fn new(claim: ClaimId, label: &str, lease: Duration) -> Self {
        Self { claim, label: label.to_owned(), lease, extra: Map::new() }
    }
}

impl Register {
    /// A register without a holder and a queue, which a missing register is equivalent to.
    pub(crate) fn empty() -> Self {
        Self {
            heartbeat: 0,
            holder: None,
            queue: vec![],
            pace: Duration::ZERO,
            minor: MINOR,
            extra: Map::new(),
        }
    }

    /// Whether there is no holder and no queue.
    pub(crate) fn is_idle(&self) -> bool {
        self.holder.is_none() && self.queue.is_empty()
    }

    /// Whether this claim holds the lock.
    pub(crate) fn is_held_by(&self, claim: ClaimId) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.claim == claim)
    }

    /// How many nodes are before this claim in the queue, if it is in the queue.
    pub(crate) fn position(&self, claim: ClaimId) -> Option<usize> {
        self.queue.iter().position(|waiter| waiter.claim == claim)
    }

    /// Whether this claim was handed the lock, and has not written since.
    pub(crate) fn is_handed_to(&self, claim: ClaimId) -> bool {
        self.holder.as_ref().is_some_and(|holder| holder.claim == claim && holder.is_handed)
    }

    /// What stays the same if the holder is dead.
    pub(crate) fn liveness(&self) -> Liveness {
        Liveness {
            holder: self.holder.as_ref().map(|holder| holder.claim),
            heartbeat: self.heartbeat,
        }
    }

    /// What an operator who broke the lock has left: see [`set_note`](Self::set_note).
    pub(crate) fn note(&self, name: &str) -> Option<&Value> {
        self.extra.get(name)
    }

    /// Leaves a note, which the nodes write back as it is.
    pub(crate) fn set_note(&mut self, name: &str, note: Value) {
        self.extra.insert(name.to_owned(), note);
    }

    /// Takes the lock from the holder, if there is one, and hands it to the first in the queue: that one is
    /// the holder from now on, with the lease that it has asked for. If nobody waits, the lock is free.
    pub(crate) fn hand_over(&mut self) {
        // Whoever observes the holder begins anew.
        self.heartbeat = self.heartbeat.wrapping_add(1) & (u64::MAX >> 11);
        self.holder = None;
        if !self.queue.is_empty() {
            let QueueEntry { claim, label, lease, extra } = self.queue.remove(0);
            let holder = Holder::new(claim, &label, lease);
            self.holder = Some(Holder { is_handed: true, extra, ..holder });
        }
    }

    /// Decodes a value.
    ///
    /// # Errors
    ///
    /// [`Unreadable`] if the value is not a register of this major format. Such a value must not be
    /// overwritten.
    pub(crate) fn decode(value: &[u8]) -> Result<Self, Unreadable> {
        if value.len() > LARGEST {
            return Err(Unreadable::TooLarge { len: value.len() });
        }
        if value.starts_with(SEALED) {
            return Err(Unreadable::Sealed);
        }
        let value: Value = serde_json::from_slice(value).map_err(|_| Unreadable::Foreign)?;
        let format = value.get("lockword").and_then(Value::as_str).ok_or(Unreadable::Foreign)?;
        let number = |text: &str| text.parse::<u32>().ok();
        let (major, minor) = format
            .split_once('.')
            .and_then(|(major, minor)| Some((number(major)?, number(minor)?)))
            .ok_or(Unreadable::Foreign)?;
        if major != MAJOR {
            return Err(Unreadable::Format { major, minor });
        }
        let wire: WireRegister = serde_json::from_value(value)
            // The text may repeat what the value has.
            .map_err(|error| Unreadable::Malformed(shown_within(&error.to_string(), 200)))?;
        let holder = wire.holder.map(|holder| Holder {
            claim: holder.who.claim(),
            label: holder.who.label,
            lease: Duration::from_millis(holder.lease_ms),
            since_ms: holder.since_ms,
            granted: holder.granted,
            is_handed: holder.handed,
            value: holder.value.map(Arc::from),
            extra: holder.who.extra,
        });
        let waiter = |WireWaiter { who, lease_ms }: WireWaiter| QueueEntry {
            claim: who.claim(),
            label: who.label,
            lease: Duration::from_millis(lease_ms),
            extra: who.extra,
        };
        let queue = wire.queue.into_iter().map(waiter).collect();
        let pace = Duration::from_micros(wire.pace_us);
        Ok(Self { heartbeat: wire.heartbeat, holder, queue, pace, minor, extra: wire.extra })
    }

    /// Encodes the register as a value.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let holder = self.holder.as_ref().map(|holder| WireHolder {
            who: WireClaim::new(holder.claim, &holder.label, &holder.extra),
            lease_ms: in_ms(holder.lease),
            since_ms: holder.since_ms,
            granted: holder.granted,
            handed: holder.is_handed,
            value: holder.value.as_deref().map(str::to_owned),
        });
        let waiter = |waiter: &QueueEntry| WireWaiter {
            who: WireClaim::new(waiter.claim, &waiter.label, &waiter.extra),
            lease_ms: in_ms(waiter.lease),
        };
        let wire = WireRegister {
            lockword: format!("{MAJOR}.{}", self.minor),
            heartbeat: self.heartbeat,
            holder,
            queue: self.queue.iter().map(waiter).collect(),
            pace_us: u64::try_from(self.pace.as_micros()).unwrap_or(u64::MAX),
            extra: self.extra.clone(),
        };
        serde_json::to_vec(&wire).expect("strings, numbers and maps of strings can be written")
    }
}

/// Rounded up, since other nodes would take over too early otherwise. A lease of more than 500 million years
/// is cut short.
fn in_ms(lease: Duration) -> u64 {
    u64::try_from(lease.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
}

/// Why the value of a key could not be read. Such a value is never overwritten.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Unreadable {
    /// The value was not written by lockword: the key is used by something else.
    Foreign,
    /// The value is sealed, and this node does not open it.
    Sealed,
    /// The value has a major format that this version does not know.
    Format {
        /// The format's major number.
        major: u32,
        /// The format's minor number.
        minor: u32,
    },
    /// The value has a known format but is damaged.
    Malformed(String),
    /// The value is longer than any that lockword writes.
    TooLarge {
        /// The length in bytes.
        len: usize,
    },
}

impl fmt::Display for Unreadable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Foreign => write!(f, "the value is not of lockword; use another key"),
            Self::Sealed => write!(
                f,
                "the value is sealed; give this node the keys of those that wrote it (feature `sealed`, or \
                 --seal-key-file)"
            ),
            Self::Format { major, minor } => {
                write!(f, "the value has format {major}.{minor}, and this version of lockword ")?;
                write!(f, "knows {MAJOR}.x; ")?;
                if *major > MAJOR {
                    write!(f, "upgrade this node")
                } else {
                    write!(
                        f,
                        "upgrade the nodes that wrote it, then delete it with the engine's "
                    )?;
                    write!(f, "own tools")
                }
            }
            Self::Malformed(why) => write!(
                f,
                "the value is damaged ({why}); look at it with the engine's own tools, and delete \
                 it when nobody holds the lock"
            ),
            Self::TooLarge { len } => {
                write!(f, "the value has {len} bytes, too many for lockword's; use another key")
            }
        }
    }
}

impl std::error::Error for Unreadable {}

/// The register as it is in JSON.
#[derive(Serialize, Deserialize)]
struct WireRegister {
    lockword: String,
    heartbeat: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    holder: Option<WireHolder>,
    #[serde(default)]
    queue: Vec<WireWaiter>,
    #[serde(default, skip_serializing_if = "is_zero")]
    pace_us: u64,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

fn is_zero(number: &u64) -> bool {
    *number == 0
}

#[derive(Serialize, Deserialize)]
struct WireHolder {
    lease_ms: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    since_ms: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    granted: Option<u64>,
    #[serde(default, skip_serializing_if = "is_false")]
    handed: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    value: Option<String>,
    #[serde(flatten)]
    who: WireClaim,
}

fn is_false(truth: &bool) -> bool {
    !truth
}

#[derive(Serialize, Deserialize)]
struct WireWaiter {
    lease_ms: u64,
    #[serde(flatten)]
    who: WireClaim,
}

#[derive(Serialize, Deserialize)]
struct WireClaim {
    #[serde(with = "hex")]
    node: u64,
    #[serde(with = "hex")]
    nonce: u64,
    #[serde(default)]
    label: String,
    #[serde(flatten)]
    extra: Map<String, Value>,
}

impl WireClaim {
    fn new(claim: ClaimId, label: &str, extra: &Map<String, Value>) -> Self {
        let ClaimId { node, nonce } = claim;
        Self { node: node.get(), nonce, label: label.to_owned(), extra: extra.clone() }
    }

    fn claim(&self) -> ClaimId {
        ClaimId { node: NodeId::new(self.node), nonce: self.nonce }
    }
}

/// A 64-bit number as 16 hexadecimal digits: many readers of JSON take a number for a float.
mod hex {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub(super) fn serialize<S: Serializer>(number: &u64, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&format!("{number:016x}"))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<u64, D::Error> {
        let digits = String::deserialize(from)?;
        let all = digits.len() == 16 && digits.bytes().all(|b| b.is_ascii_hexdigit());
        all.then(|| u64::from_str_radix(&digits, 16).ok())
            .flatten()
            .ok_or_else(|| D::Error::custom("16 hexadecimal digits are expected"))
    }
}

#[cfg(test)]
mod tests {
    use super::{ClaimId, Holder, QueueEntry, Register, Unreadable};
    use crate::cluster::transport::NodeId;
    use std::time::Duration;

    fn claim(node: u64, nonce: u64) -> ClaimId {
        ClaimId { node: NodeId::new(node), nonce }
    }

    fn full() -> Register {
        let mut register = Register::empty();
        register.heartbeat = 7;
        register.holder = Some(Holder::new(claim(1, u64::MAX), "web[1]", Duration::from_secs(10)));
        register.queue = vec![
            QueueEntry::new(claim(2, 5), "a \"quoted\" läbel", Duration::from_millis(500)),
            QueueEntry::new(claim(3, 6), "", Duration::from_secs(1)),
        ];
        register
    }

    #[test]
    fn an_encoded_register_decodes_to_itself() {
        let mut handed = full();
        handed.hand_over();
        for register in [Register::empty(), full(), handed] {
            assert_eq!(Register::decode(&register.encode()).unwrap(), register);
        }
    }

    #[test]
    fn the_json_has_readable_fields() {
        let text = String::from_utf8(full().encode()).unwrap();
        for part in [
            r#""lockword":"3.0""#,
            r#""heartbeat":7"#,
            r#""node":"0000000000000001""#,
            r#""label":"web[1]""#,
            r#""lease_ms":10000"#,
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
    }

    #[test]
    fn unknown_fields_of_a_newer_minor_format_are_kept() {
        let newer = r#"{"lockword":"3.9","heartbeat":2,"colour":"red","queue":
            [{"node":"0000000000000002","nonce":"0000000000000003","label":"b","lease_ms":9,"weight":4}],
            "holder":{"node":"0000000000000001","nonce":"0000000000000004","lease_ms":5,"shade":[1]}}"#;
        let mut register = Register::decode(newer.as_bytes()).unwrap();
        register.hand_over();
        let text = String::from_utf8(register.encode()).unwrap();
        for part in [
            r#""3.9""#,
            r#""colour":"red""#,
            r#""weight":4"#,
            r#""lease_ms":9"#,
            r#""heartbeat":3"#,
        ] {
            assert!(text.contains(part), "{part} is not in {text}");
        }
        assert_eq!(Register::decode(text.as_bytes()).unwrap(), register);
    }

    #[test]
    fn an_unreadable_value_is_refused_with_the_reason() {
        let refused = |text: &str| Register::decode(text.as_bytes()).unwrap_err();
        assert_eq!(refused(""), Unreadable::Foreign);
        assert_eq!(refused("hello"), Unreadable::Foreign);
        assert_eq!(refused("lw-seal\u{1}"), Unreadable::Sealed);
        assert_eq!(refused("[1]"), Unreadable::Foreign);
        assert_eq!(refused(r#"{"heartbeat":1}"#), Unreadable::Foreign);
        assert_eq!(refused(r#"{"lockword":"one"}"#), Unreadable::Foreign);
        let format = |major, minor| Unreadable::Format { major, minor };
        assert_eq!(refused(r#"{"lockword":"4.1"}"#), format(4, 1));
        assert_eq!(refused(r#"{"lockword":"1.0","beat":1,"queue":[]}"#), format(1, 0));
        let advice = |major| format(major, 0).to_string();
        assert!(advice(4).ends_with("upgrade this node"), "{}", advice(4));
        assert!(advice(1).contains("upgrade the nodes"), "{}", advice(1));
        for damaged in [
            r#"{"lockword":"3.0"}"#,
            r#"{"lockword":"3.0","heartbeat":-1}"#,
            r#"{"lockword":"3.0","heartbeat":1,"holder":{"node":"1","nonce":"0000000000000001","lease_ms":1}}"#,
            r#"{"lockword":"3.0","heartbeat":1,"queue":[{"node":"+000000000000001","nonce":"0000000000000001"}]}"#,
        ] {
            assert!(matches!(refused(damaged), Unreadable::Malformed(_)), "{damaged}");
        }
        let long = " ".repeat(super::LARGEST + 1);
        assert_eq!(refused(&long), Unreadable::TooLarge { len: super::LARGEST + 1 });
    }

    #[test]
    fn the_longest_allowed_queue_decodes() {
        let mut register = Register::empty();
        for n in 0..crate::cluster::builder::queue_capacity(usize::MAX) as u64 {
            let claim = ClaimId { node: NodeId::new(n), nonce: n };
            register.queue.push(QueueEntry::new(claim, &"\"".repeat(64), Duration::MAX));
        }
        let value = register.encode();
        assert!(Register::decode(&value).is_ok(), "{} bytes", value.len());
    }
}
