//! The note in a register that says who has broken the lock, and why.

use super::register::{ClaimId, Register};
use crate::cluster::text::{shown, shown_within};
use crate::cluster::transport::NodeId;
use serde_json::{Value, json};

/// The name of the note.
const LAST_BREAK: &str = "last_break";
/// The longest reason that is kept, in bytes, as JSON has it: with two labels it has room beside the holder in the
/// smallest value that a node accepts, also if each byte of the labels has to be escaped.
const MAX_REASON: usize = 64;

/// A reason as it is kept: without control characters, and cut at its end.
pub(crate) fn reason(text: &str) -> String {
    let escaped = |text: &str| json!(text).to_string().len() - 2;
    let mut reason = shown_within(text, MAX_REASON);
    while escaped(&reason) > MAX_REASON + '\u{2026}'.len_utf8() {
        reason.pop();
    }
    reason
}

/// Who has broken the lock last. Nodes write it back as it is. An inspection reads it, and the node that has lost the
/// lock, to tell its user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BreakNote {
    /// The claim that was the holder. `None` if the note does not say so.
    pub(crate) nonce: Option<u64>,
    pub(crate) node: NodeId,
    /// The label of that node, and of the node that broke the lock.
    pub(crate) of: String,
    pub(crate) by: String,
    pub(crate) reason: String,
    /// In milliseconds since 1970, by the clock of the node that broke the lock.
    pub(crate) at_ms: Option<u64>,
}

impl BreakNote {
    /// The note in this register. A note without a node is of nobody who follows the format.
    pub(crate) fn of(register: &Register) -> Option<Self> {
        let note = register.note(LAST_BREAK)?;
        let text = |name: &str| note.get(name).and_then(Value::as_str).unwrap_or_default();
        let number = |name: &str| u64::from_str_radix(text(name), 16).ok();
        Some(Self {
            nonce: number("claim"),
            node: NodeId::new(number("node")?),
            of: shown(text("of")),
            by: shown(text("by")),
            reason: shown_within(text("reason"), MAX_REASON),
            at_ms: note.get("at_ms").and_then(Value::as_u64),
        })
    }

    /// Leaves it in this register, in place of an earlier one.
    pub(crate) fn leave(&self, register: &mut Register) {
        let Self { nonce, node, of, by, reason, at_ms } = self;
        let claim = nonce.map(|nonce| format!("{nonce:016x}"));
        let node = node.to_string();
        let note = json!({"by": by, "of": of, "node": node, "claim": claim, "reason": reason, "at_ms": at_ms});
        register.set_note(LAST_BREAK, note);
    }

    /// Whether this is the claim from which the lock was taken.
    pub(crate) fn is_of(&self, claim: ClaimId) -> bool {
        self.node == claim.node && self.nonce == Some(claim.nonce)
    }
}

#[cfg(test)]
mod tests {
    use super::{BreakNote, NodeId, reason};
    use crate::cluster::builder::MIN_LARGEST_VALUE;
    use crate::cluster::guard::MAX_PUBLISHED;
    use crate::cluster::protocol::register::{ClaimId, Holder, QueueEntry, Register};
    use std::time::Duration;

    #[test]
    fn a_note_has_room_beside_a_holder_and_a_waiter_whatever_their_labels_are() {
        let claim = ClaimId { node: NodeId::new(u64::MAX), nonce: u64::MAX };
        let label = "\"".repeat(64);
        let mut register = Register::empty();
        register.heartbeat = u64::MAX >> 11;
        let mut holder = Holder::new(claim, &label, Duration::from_secs(3600));
        (holder.since_ms, holder.granted) = (Some(u64::MAX >> 20), Some(u64::MAX >> 12));
        holder.value = Some("x".repeat(MAX_PUBLISHED).into());
        register.holder = Some(holder);
        register.queue.push(QueueEntry::new(claim, &label, Duration::from_secs(3600)));
        for text in ["\"".repeat(100), "x".repeat(100), "\u{e4}".repeat(100), String::new()] {
            let note = BreakNote {
                nonce: Some(claim.nonce),
                node: claim.node,
                of: label.clone(),
                by: label.clone(),
                reason: reason(&text),
                at_ms: Some(u64::MAX >> 20),
            };
            note.leave(&mut register);
            let length = register.encode().len();
            assert!(length <= MIN_LARGEST_VALUE, "{length}: {text}");
            assert_eq!(BreakNote::of(&register), Some(note));
        }
    }
}
