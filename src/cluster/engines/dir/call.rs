//! A call that waits for the lock of another process.

use crate::cluster::TransportError;
use std::sync::atomic::{AtomicU8, AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A call that may wait for the lock of another process, and whose caller may go.
#[derive(Debug)]
pub(super) struct Call {
    phase: AtomicU8,
    until: Instant,
    /// How often it has waited for a lock.
    tries: AtomicU32,
    /// Whether it ends instead of waiting.
    never_waits: bool,
}

/// It waits, and has written nothing.
const WAITS: u8 = 0;
/// It may have written.
const INSIDE: u8 = 1;
/// Its caller has gone while it waited: it must not write any more.
const CANCELLED: u8 = 2;

impl Call {
    pub(super) fn new(timeout: Duration) -> Self {
        let (phase, tries) = (AtomicU8::new(WAITS), AtomicU32::new(0));
        Self { phase, until: Instant::now() + timeout, tries, never_waits: false }
    }

    /// A call that ends with an error where it would have to wait.
    pub(super) fn that_never_waits() -> Self {
        Self { never_waits: true, ..Self::new(Duration::ZERO) }
    }

    /// Whether it has ended because it would have had to wait. Nothing was written then.
    pub(super) fn would_have_waited(&self) -> bool {
        // ORDERING: Relaxed: the thread that has made the call asks.
        self.never_waits && self.tries.load(Ordering::Relaxed) > 0
    }

    /// The caller goes. Returns whether it is certain that nothing was written and never will be.
    pub(super) fn cancel(&self) -> bool {
        self.change(CANCELLED)
    }

    /// It has the lock. `false`: its caller has gone.
    pub(super) fn go_inside(&self) -> bool {
        self.change(INSIDE)
    }

    fn change(&self, to: u8) -> bool {
        // ORDERING: Relaxed: the one byte decides, and nothing else is read by it.
        let changed = self.phase.compare_exchange(WAITS, to, Ordering::Relaxed, Ordering::Relaxed);
        changed.is_ok()
    }

    /// Waits before the next try to lock a file. `false`: there is no more time. A section takes some 20
    /// microseconds.
    ///
    /// # Errors
    ///
    /// If the caller has gone, or the call never waits.
    pub(super) fn pause(&self) -> Result<bool, TransportError> {
        if self.phase.load(Ordering::Relaxed) == CANCELLED {
            return Err(cancelled());
        }
        if self.never_waits {
            self.tries.fetch_add(1, Ordering::Relaxed);
            return Err(TransportError::unavailable("it would have to wait"));
        }
        if Instant::now() >= self.until {
            return Ok(false);
        }
        // ORDERING: Relaxed: one thread counts, and only tests read it elsewhere.
        match self.tries.fetch_add(1, Ordering::Relaxed) {
            ..4 => std::thread::yield_now(),
            // From about 20 microseconds to 5 ms; no two processes in step.
            tries => {
                let longest = 20 << (tries - 4).min(8);
                std::thread::sleep(Duration::from_micros(fastrand::u64(longest / 2..=longest)));
            }
        }
        Ok(true)
    }

    #[cfg(test)]
    pub(super) fn tries(&self) -> u32 {
        self.tries.load(Ordering::Relaxed)
    }
}

/// The error of a call whose caller has gone.
pub(super) fn cancelled() -> TransportError {
    TransportError::unavailable("nobody waits for this any more")
}

#[cfg(test)]
mod tests {
    use super::Call;
    use std::time::Duration;

    #[test]
    fn a_call_is_cancelled_or_inside_and_never_both() {
        let call = Call::new(Duration::ZERO);
        assert!(call.cancel() && !call.go_inside());
        let call = Call::new(Duration::ZERO);
        assert!(call.go_inside() && !call.cancel());
    }
    #[test]
    fn a_call_that_never_waits_says_so() {
        let call = Call::that_never_waits();
        assert!(!call.would_have_waited());
        call.pause().unwrap_err();
        assert!(call.would_have_waited());
        let call = Call::new(Duration::ZERO);
        assert!(!call.pause().unwrap() && !call.would_have_waited());
    }
}
