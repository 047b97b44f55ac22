//! The node's clock, and the one timer on it.
//!
//! It never steps, and on Linux and Android it counts the time that the machine is suspended
//! (`CLOCK_BOOTTIME`), since a lease runs on meanwhile. Elsewhere it is [`std::time::Instant`]'s
//! clock, which may stand still in a suspended machine: a holder that wakes up there takes its lease
//! for longer than it is, until its next renewal fails, and only the fencing token tells.
//!
//! A virtual machine that is paused counts no time at all, on no platform.

use super::time::Time;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Handle;

#[cfg(any(target_os = "linux", target_os = "android"))]
#[path = "clock/boottime.rs"]
mod system;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
#[path = "clock/instant.rs"]
mod system;
mod tokio_timer;

/// Moments before this one are never told, so that a moment can be computed backwards.
const ORIGIN: Duration = Duration::from_secs(1_000_000);

/// The node's clock.
#[derive(Clone, Debug)]
pub(crate) enum Clock {
    System,
    /// Tokio's, which a test can pause.
    Tokio(Handle, tokio::time::Instant),
}

impl Clock {
    /// Tokio's clock, of this runtime.
    pub(crate) fn tokio(runtime: &Handle) -> Self {
        let _in_it = runtime.enter();
        Self::Tokio(runtime.clone(), tokio::time::Instant::now())
    }

    /// Now. Never before what an earlier call has told, on whatever thread.
    pub(crate) fn now(&self) -> Time {
        match self {
            Self::System => Time::new(system::now()),
            Self::Tokio(runtime, origin) => {
                let _in_it = runtime.enter();
                Time::new(ORIGIN + tokio::time::Instant::now().duration_since(*origin))
            }
        }
    }
}

/// A timer on a [`Clock`].
pub(crate) struct Timer {
    kind: Kind,
    /// It goes off then, at the latest.
    set_to: Option<Time>,
}

enum Kind {
    System(system::Timer),
    Tokio(Clock, tokio_timer::Timer),
}

impl Timer {
    /// A timer that is not set.
    ///
    /// # Errors
    ///
    /// The system's.
    ///
    /// # Panics
    ///
    /// Outside of a tokio runtime with timers and I/O enabled: tokio's way to tell.
    pub(crate) fn new(clock: &Clock) -> io::Result<Self> {
        let kind = match clock {
            Clock::System => Kind::System(system::Timer::new()?),
            tokio => Kind::Tokio(tokio.clone(), tokio_timer::Timer::new()),
        };
        Ok(Self { kind, set_to: None })
    }

    /// Sets it to `at`, and registers the task. Ready if that moment may have come; then it is to be
    /// set again. It may go off too early.
    pub(crate) fn poll(&mut self, at: Time, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Setting it costs a system call; going off in vain, now and then, costs less.
        if self.set_to.is_none_or(|set_to| at < set_to) {
            match &mut self.kind {
                Kind::System(timer) => timer.set(at.since_origin())?,
                Kind::Tokio(clock, timer) => timer.set(at.since(clock.now())),
            }
            self.set_to = Some(at);
        }
        let went_off = match &mut self.kind {
            Kind::System(timer) => timer.poll(cx),
            Kind::Tokio(_, timer) => timer.poll(cx).map(Ok),
        };
        if went_off.is_ready() {
            self.set_to = None;
        }
        went_off
    }
}
