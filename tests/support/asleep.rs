//! Tells when a thread sleeps in the kernel, by the state that Linux shows for it.

use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// The kernel's number of a thread, told by the thread just before it goes to wait.
#[derive(Default)]
pub struct Tid(AtomicI32);

impl Tid {
    /// Writes down the calling thread.
    pub fn set(&self) {
        // SAFETY: gettid takes nothing and cannot fail.
        let tid = unsafe { libc::gettid() };
        self.0.store(tid, Ordering::Release);
    }

    /// Forgets the thread.
    #[allow(dead_code, reason = "not every test binary uses a slot again")]
    pub fn clear(&self) {
        self.0.store(0, Ordering::Release);
    }

    /// Waits until the thread has told its number and sleeps. Panics after ten seconds.
    pub fn wait_until_asleep(&self) {
        assert!(self.asleep_within(Duration::from_secs(10)), "the thread does not go to sleep");
    }

    /// How often the thread has gone to sleep, 0 if it is unknown.
    #[allow(dead_code, reason = "not every test binary counts")]
    pub fn sleeps(&self) -> u64 {
        let tid = self.0.load(Ordering::Acquire);
        let status = std::fs::read_to_string(format!("/proc/self/task/{tid}/status"));
        let status = status.unwrap_or_default();
        let line = status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
    }

    /// Whether the thread tells its number and then sleeps, within the given time.
    pub fn asleep_within(&self, limit: Duration) -> bool {
        let end = Instant::now() + limit;
        loop {
            let tid = self.0.load(Ordering::Acquire);
            if tid != 0 && state(tid) == Some('S') {
                return true;
            }
            if Instant::now() >= end {
                return false;
            }
            thread::yield_now();
        }
    }
}

/// The letter in `/proc/self/task/<tid>/stat` after the name, which stands in parentheses.
fn state(tid: i32) -> Option<char> {
    let stat = std::fs::read_to_string(format!("/proc/self/task/{tid}/stat")).ok()?;
    stat[stat.rfind(')')? + 1..].trim_start().chars().next()
}
