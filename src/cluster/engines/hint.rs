//! What a message that a register has changed says of its key: a hash, and nothing else.
//!
//! Anybody may have sent the message, so it only makes a node look. Two keys with one hash are both looked at.

/// The hash (FNV-1a) of the name of a register, as 16 hexadecimal digits. All nodes have to compute the same.
pub(super) fn of(name: &str) -> String {
    let hash = name.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}
