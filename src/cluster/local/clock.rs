//! The node's clock, and the one timer on it.
//!
//! It never steps, and on Linux and Android it counts the time that the machine is suspended
//! (`CLOCK_BOOTTIME`), since a lease runs on meanwhile. Elsewhere it is [`std::time::Instant`]'s
//! clock, which may stand still in a suspended machine: a holder that wakes up there takes its lease
//! for longer than it is, until its next renewal fails, and only the fencing token tells.
//!
//! A virtual machine that is paused counts no time at all, on no platform.

use crate::cluster::time::Time;
use std::io;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::runtime::Handle;

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
    kind: TimerKind,
    /// It goes off then, at the latest.
    set_to: Option<Time>,
}

enum TimerKind {
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
            Clock::System => TimerKind::System(system::Timer::new()?),
            tokio => TimerKind::Tokio(tokio.clone(), tokio_timer::Timer::new()),
        };
        Ok(Self { kind, set_to: None })
    }

    /// Sets it to `at`, and registers the task. Ready if that moment may have come; then it is to be
    /// set again. It may go off too early.
    pub(crate) fn poll(&mut self, at: Time, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Setting it costs a system call; going off in vain, now and then, costs less.
        if self.set_to.is_none_or(|set_to| at < set_to) {
            match &mut self.kind {
                TimerKind::System(timer) => timer.set(at.since_origin())?,
                TimerKind::Tokio(clock, timer) => timer.set(at.since(clock.now())),
            }
            self.set_to = Some(at);
        }
        let went_off = match &mut self.kind {
            TimerKind::System(timer) => timer.poll(cx),
            TimerKind::Tokio(_, timer) => timer.poll(cx).map(Ok),
        };
        if went_off.is_ready() {
            self.set_to = None;
        }
        went_off
    }
}

/// `CLOCK_BOOTTIME`, and a timer on it that goes off in a machine that was suspended meanwhile.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use rustix::io::Errno;
    use rustix::time::{
        ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec,
        clock_gettime, timerfd_create, timerfd_settime,
    };
    use std::io;
    use std::os::fd::OwnedFd;
    use std::task::{Context, Poll, ready};
    use std::time::Duration;
    use tokio::io::Interest;
    use tokio::io::unix::AsyncFd;

    /// The time since the machine was started, suspended or not.
    pub(super) fn now() -> Duration {
        let now = clock_gettime(ClockId::Boottime);
        // Neither is negative, and there are less than 10^9 nanoseconds.
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    }

    pub(super) struct Timer(AsyncFd<OwnedFd>);

    impl Timer {
        pub(super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
            // SAFETY: an `OwnedFd` is open, and is the same descriptor, for as long as it lives; here
            // that is as long as the `AsyncFd` lives, which owns it and lends it by reference only.
            Ok(Self(unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE)? }))
        }

        pub(super) fn set(&mut self, at: Duration) -> io::Result<()> {
            // All zeros would stop it. 2^63 seconds are the end of time.
            let at = at.max(Duration::from_nanos(1));
            let it_value = Timespec {
                tv_sec: i64::try_from(at.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: at.subsec_nanos().into(),
            };
            let it_interval = Timespec { tv_sec: 0, tv_nsec: 0 };
            let spec = Itimerspec { it_interval, it_value };
            timerfd_settime(self.0.get_ref(), TimerfdTimerFlags::ABSTIME, &spec)?;
            Ok(())
        }

        pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            loop {
                let mut guard = ready!(self.0.poll_read_ready(cx))?;
                let mut count = [0; 8];
                match rustix::io::read(guard.get_inner(), &mut count) {
                    Err(Errno::AGAIN) => guard.clear_ready(),
                    Err(Errno::INTR) => {}
                    Ok(_) => {
                        guard.clear_ready();
                        return Poll::Ready(Ok(()));
                    }
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
        }
    }
}

/// The clock of [`Instant`], with tokio's timers, which are on the same clock.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod system {
    use super::{ORIGIN, tokio_timer};
    use std::io;
    use std::sync::OnceLock;
    use std::task::{Context, Poll};
    use std::time::{Duration, Instant};

    /// Time since some moment of this process.
    pub(super) fn now() -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        ORIGIN + START.get_or_init(Instant::now).elapsed()
    }

    pub(super) struct Timer(tokio_timer::Timer);

    impl Timer {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self(tokio_timer::Timer::new()))
        }

        pub(super) fn set(&mut self, at: Duration) -> io::Result<()> {
            self.0.set(at.saturating_sub(now()));
            Ok(())
        }

        pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.0.poll(cx).map(Ok)
        }
    }
}

/// A timer of tokio's.
mod tokio_timer {
    use std::future::Future;
    use std::pin::Pin;
    use std::task::{Context, Poll};
    use std::time::Duration;
    use tokio::time::{Instant, Sleep};

    /// As far ahead as it is ever set: tokio's own limit is a little more than two years.
    const FAR: Duration = Duration::from_secs(24 * 60 * 60);

    pub(super) struct Timer(Pin<Box<Sleep>>);

    impl Timer {
        pub(super) fn new() -> Self {
            Self(Box::pin(tokio::time::sleep(FAR)))
        }

        pub(super) fn set(&mut self, after: Duration) {
            self.0.as_mut().reset(Instant::now() + after.min(FAR));
        }

        pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
            self.0.as_mut().poll(cx)
        }
    }
}
