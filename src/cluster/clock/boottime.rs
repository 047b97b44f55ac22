//! `CLOCK_BOOTTIME`, and a timer on it that goes off in a machine that was suspended meanwhile.

use rustix::io::Errno;
use rustix::time::{
    ClockId, Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, clock_gettime,
    timerfd_create, timerfd_settime,
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
