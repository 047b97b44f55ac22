//! Whether threads sleep, as the Linux kernel sees it.

use std::fs;
use std::path::PathBuf;

/// A thread, by its folder in `/proc`.
pub struct Thread(PathBuf);

/// The lines of `/proc/self/task/TID/status` that change when a sleeping thread runs.
#[derive(PartialEq)]
struct Status {
    sleeps: bool,
    /// Context switches, both kinds.
    switches: Vec<String>,
}

impl Thread {
    pub fn current() -> Self {
        let folder = fs::read_link("/proc/thread-self").unwrap_or_default();
        Thread(PathBuf::from("/proc").join(folder).join("status"))
    }

    fn status(&self) -> Status {
        let text = fs::read_to_string(&self.0).unwrap_or_default();
        let line = |word: &'static str| text.lines().filter(move |line| line.contains(word));
        Status {
            sleeps: line("State:").any(|line| line.contains("S (")),
            switches: line("ctxt_switches").map(str::to_owned).collect(),
        }
    }
}

/// Whether there was a moment at which all of `threads` slept.
///
/// Each is looked at twice. One that slept both times and did not run in between has slept all
/// along, so the moment at which the first round ended is one for all of them.
pub fn all(threads: &[Thread]) -> bool {
    let first: Vec<_> = threads.iter().map(Thread::status).collect();
    first.iter().all(|status| status.sleeps)
        && threads.iter().zip(first).all(|(thread, first)| thread.status() == first)
}
