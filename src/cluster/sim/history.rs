//! What happened, in the order in which it happened: as a hash, and as lines when a run is replayed.

use super::clock::{MS, Moment};
use std::fmt::{self, Write};

/// The history of one run.
#[derive(Debug)]
pub(super) struct History {
    hash: u64,
    /// Kept only when a run is replayed: it is slow to write.
    lines: Option<Vec<String>>,
    pub(super) events: u64,
}

/// FNV-1a, of text.
struct Hasher(u64);

impl Write for Hasher {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.0 = (self.0 ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

impl History {
    pub(super) fn new(keeps_lines: bool) -> Self {
        Self { hash: 0xcbf2_9ce4_8422_2325, lines: keeps_lines.then(Vec::new), events: 0 }
    }

    pub(super) fn tell(&mut self, at: Moment, what: fmt::Arguments<'_>) {
        self.events += 1;
        let Some(lines) = &mut self.lines else { return };
        let line = format!("{:>10}.{:06} ms  {what}", at / MS, at % MS);
        let mut hasher = Hasher(self.hash);
        hasher.write_str(&line).expect("a hasher takes everything");
        self.hash = hasher.0;
        lines.push(line);
    }

    pub(super) fn keeps_lines(&self) -> bool {
        self.lines.is_some()
    }

    /// The number of this history: two runs are the same if it is.
    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn lines(&self) -> &[String] {
        self.lines.as_deref().unwrap_or_default()
    }
}
