//! Numbers that no other process draws, a copy of this one included.
//!
//! They come from the kernel, and each is drawn when it is needed. A generator in this process would
//! draw the same as that of its copy: of a child after `fork`, or of the same machine that was resumed
//! from one image twice. The kernel never gives the same to two processes of one machine. Its own
//! generator is copied with a machine, though. It is seeded anew where the hypervisor tells of the copy
//! (vmgenid, Linux 5.18 and later), and otherwise after some minutes at the latest. So each number also
//! depends on the clock, at which two machines do not look at the same nanosecond.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::SystemTime;

/// Draws a number. It takes about as long as a system call (a quarter of a microsecond).
///
/// If the kernel gives none (a sandbox may forbid it later), what is left is a keyed hash of the clock,
/// the process id and the number of draws.
pub(crate) fn draw() -> u64 {
    static KEYS: OnceLock<RandomState> = OnceLock::new();
    static DRAWS: AtomicUsize = AtomicUsize::new(0);
    let keys = KEYS.get_or_init(RandomState::new);
    let now = SystemTime::now();
    match getrandom::u64() {
        Ok(kernel) => kernel ^ keys.hash_one(now),
        Err(_) => {
            let draw = DRAWS.fetch_add(1, Ordering::Relaxed);
            keys.hash_one((now, std::process::id(), draw))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::draw;
    use std::collections::HashSet;

    #[test]
    fn no_number_is_drawn_twice() {
        let drawn: HashSet<u64> = (0..10_000).map(|_| draw()).collect();
        assert_eq!(drawn.len(), 10_000);
    }
}
