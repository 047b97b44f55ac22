//! The clock of a node, and the timer of its driver.
//!
//! The clock never steps, and its rate is bounded. On Linux and Android it is `CLOCK_MONOTONIC_RAW` and
//! the time for which the machine was suspended, so that a lease goes on running meanwhile (`raw_clock`).
//! The other clocks do not suffice: time synchronization changes the rate of `CLOCK_MONOTONIC` and
//! `CLOCK_BOOTTIME`, by up to 8.3 % with chrony's default settings and by 10 % at most
//! (`ADJ_TICK` of adjtimex(2)).
//!
//! Elsewhere it is the clock of [`std::time::Instant`]. Its rate may be changed like that, so the
//! allowance is 10 %. It may stand still while the machine is suspended. There a holder believes after a
//! resume that its lease lasts longer than it does, until its next renewal fails; only the fencing token
//! protects the resource in that time.
//!
//! A virtual machine that is paused counts no time, on any platform.

use crate::cluster::protocol::{ClockError, Time};
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::runtime::Handle;
use tokio::time::Sleep;

/// The first moment that the clock can show. It is not zero, so that earlier moments can be computed.
const ORIGIN: Duration = Duration::from_secs(1_000_000);

/// The clock of a node.
#[derive(Clone, Debug)]
pub(crate) enum NodeClock {
    System,
    /// Tokio's clock, which a test can pause, and the moment that is its origin.
    Tokio(Handle, tokio::time::Instant),
    #[cfg(test)]
    Virtual(std::sync::Arc<dyn VirtualClock>),
}

/// A clock of the simulator.
#[cfg(test)]
pub(crate) trait VirtualClock: std::fmt::Debug + Send + Sync {
    /// What it shows.
    fn now(&self) -> Time;

    /// The bounds on its errors that a node assumes.
    fn error(&self) -> ClockError;

    /// Calls `waker` when it shows `at`, or somewhat later.
    fn wake_at(&self, at: Time, waker: std::task::Waker);
}

impl NodeClock {
    /// The wall clock, in milliseconds since 1970, for human readers; `None` with a clock that a test winds.
    pub(crate) fn wall_clock(&self) -> Option<fn() -> u64> {
        let now = || {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        };
        matches!(self, NodeClock::System).then_some(now)
    }

    /// The tokio clock of this runtime.
    pub(crate) fn tokio(runtime: &Handle) -> Self {
        let _in_it = runtime.enter();
        Self::Tokio(runtime.clone(), tokio::time::Instant::now())
    }

    /// Whether this is a clock of the simulator.
    #[cfg(test)]
    pub(crate) fn is_virtual(&self) -> bool {
        matches!(self, Self::Virtual(_))
    }

    /// Whether it stands still while the machine is suspended.
    pub(crate) fn may_stand_still(&self) -> bool {
        let counts_all = cfg!(any(target_os = "linux", target_os = "android"));
        !counts_all && matches!(self, Self::System)
    }

    /// The bounds on the errors of this clock.
    pub(crate) fn error(&self) -> ClockError {
        match self {
            Self::System => system::ERROR,
            // All nodes of a test have one clock.
            Self::Tokio(..) => ClockError { rate: 10, reading: Duration::ZERO },
            #[cfg(test)]
            Self::Virtual(clock) => clock.error(),
        }
    }

    /// The present moment. It never goes backwards, across threads either.
    pub(crate) fn now(&self) -> Time {
        match self {
            Self::System => Time::new(system::now()),
            Self::Tokio(runtime, origin) => {
                let _in_it = runtime.enter();
                Time::new(ORIGIN + tokio::time::Instant::now().duration_since(*origin))
            }
            #[cfg(test)]
            Self::Virtual(clock) => clock.now(),
        }
    }
}

/// A timer on a [`NodeClock`].
pub(crate) struct NodeTimer {
    backend: TimerBackend,
    /// It goes off at this moment or before.
    set_to: Option<Time>,
}

enum TimerBackend {
    System(system::SystemTimer),
    Tokio(NodeClock, TokioTimer),
    /// The clock, the moment, and whether the clock was told of it.
    #[cfg(test)]
    Virtual(std::sync::Arc<dyn VirtualClock>, Time, bool),
}

impl NodeTimer {
    /// A timer that is not set.
    ///
    /// # Errors
    ///
    /// The error of the system if it gives no timer.
    ///
    /// # Panics
    ///
    /// Tokio panics outside of a runtime that has timers and I/O enabled.
    pub(crate) fn new(clock: &NodeClock) -> io::Result<Self> {
        let backend = match clock {
            NodeClock::System => TimerBackend::System(system::SystemTimer::new()?),
            #[cfg(test)]
            NodeClock::Virtual(clock) => {
                TimerBackend::Virtual(clock.clone(), Time::new(Duration::MAX), true)
            }
            tokio => TimerBackend::Tokio(tokio.clone(), TokioTimer::new()),
        };
        Ok(Self { backend, set_to: None })
    }

    /// The timer goes off at this moment or before, if it is set.
    pub(crate) fn set_to(&self) -> Option<Time> {
        self.set_to
    }

    /// Sets the timer to `at`, and registers the task. Ready if that moment may have come; after that
    /// the caller has to look at the clock and call again. The timer may go off too early.
    pub(crate) fn poll(&mut self, at: Time, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Setting it costs a system call. To set it only to earlier moments costs less, although it
        // then goes off in vain now and then.
        if self.set_to.is_none_or(|set_to| at < set_to) {
            match &mut self.backend {
                TimerBackend::System(timer) => timer.set(at.since(NodeClock::System.now()))?,
                TimerBackend::Tokio(clock, timer) => timer.set(at.since(clock.now())),
                #[cfg(test)]
                TimerBackend::Virtual(_, set_to, is_told) => (*set_to, *is_told) = (at, false),
            }
            self.set_to = Some(at);
        }
        let went_off = match &mut self.backend {
            TimerBackend::System(timer) => timer.poll(cx),
            TimerBackend::Tokio(_, timer) => timer.poll(cx).map(Ok),
            #[cfg(test)]
            TimerBackend::Virtual(clock, at, _) if clock.now() >= *at => Poll::Ready(Ok(())),
            #[cfg(test)]
            TimerBackend::Virtual(clock, at, is_told) => {
                if !std::mem::replace(is_told, true) {
                    clock.wake_at(*at, cx.waker().clone());
                }
                Poll::Pending
            }
        };
        if went_off.is_ready() {
            self.set_to = None;
        }
        went_off
    }
}

/// For how long to set the timer if this much is left on the clock of the node: a tenth less, since the
/// timer's clock may be slower by as much. What is left then is set anew. The last millisecond is not
/// worth that: it is set to a seventh more, by as much as the clock of the node may seem slower
/// (`raw_clock`).
#[cfg(any(target_os = "linux", target_os = "android", test))]
fn early(left: Duration) -> Duration {
    if left > Duration::from_millis(1) { left - left / 10 } else { left + left / 7 }
}

/// The clock that is not slewed, and a timer on `CLOCK_BOOTTIME`, which counts the time of a suspend
/// too. There is none on the other clock.
#[cfg(any(target_os = "linux", target_os = "android"))]
mod system {
    use super::early;
    use crate::cluster::local::raw_clock::{RawClock, Readings};
    use crate::cluster::protocol::ClockError;
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

    /// Oscillators err by less than a thousandth. The rest is for the kernel's or the hypervisor's
    /// measurement of the counter's frequency.
    pub(super) const ERROR: ClockError = ClockError { rate: 10, reading: RawClock::BEHIND };

    /// The clocks of the kernel.
    struct Kernel;

    fn read(clock: ClockId) -> Duration {
        let now = clock_gettime(clock);
        // Neither is negative, and there are fewer than 10^9 nanoseconds.
        Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
    }

    /// In nanoseconds; 584 years fit.
    fn nanos(clock: ClockId) -> u64 {
        read(clock).as_nanos() as u64
    }

    impl Readings for Kernel {
        fn boottime(&self) -> u64 {
            nanos(ClockId::Boottime)
        }

        fn monotonic(&self) -> u64 {
            nanos(ClockId::Monotonic)
        }

        fn raw(&self) -> u64 {
            nanos(ClockId::MonotonicRaw)
        }
    }

    /// The time since some moment, with the time for which the machine was suspended.
    pub(super) fn now() -> Duration {
        static CLOCK: RawClock = RawClock::new();
        Duration::from_nanos(CLOCK.now(&Kernel))
    }

    pub(super) struct SystemTimer(AsyncFd<OwnedFd>);

    impl SystemTimer {
        pub(super) fn new() -> io::Result<Self> {
            let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
            let timer = timerfd_create(TimerfdClockId::Boottime, flags)?;
            // SAFETY: an `OwnedFd` is open and keeps its number for as long as it lives. The `AsyncFd`
            // owns it and lends it by shared reference only, so it lives as long as the `AsyncFd`.
            Ok(Self(unsafe { AsyncFd::register_with_interest(timer, Interest::READABLE)? }))
        }

        /// Sets the timer to a moment before `left` is over on the clock of the node.
        pub(super) fn set(&mut self, left: Duration) -> io::Result<()> {
            // A moment beyond 2^63 seconds is never reached.
            let at = read(ClockId::Boottime).saturating_add(early(left));
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

/// The clock of [`Instant`], and a timer of tokio, which is on the same clock.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
mod system {
    use super::{ORIGIN, TokioTimer};
    use crate::cluster::protocol::ClockError;
    use std::io;
    use std::sync::OnceLock;
    use std::task::{Context, Poll};
    use std::time::{Duration, Instant};

    /// Time synchronization may change the rate by a tenth.
    pub(super) const ERROR: ClockError = ClockError { rate: 100, reading: Duration::ZERO };

    /// The time since the first call in this process.
    pub(super) fn now() -> Duration {
        static START: OnceLock<Instant> = OnceLock::new();
        ORIGIN + START.get_or_init(Instant::now).elapsed()
    }

    pub(super) struct SystemTimer(TokioTimer);

    impl SystemTimer {
        pub(super) fn new() -> io::Result<Self> {
            Ok(Self(TokioTimer::new()))
        }

        pub(super) fn set(&mut self, left: Duration) -> io::Result<()> {
            self.0.set(left);
            Ok(())
        }

        pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
            self.0.poll(cx).map(Ok)
        }
    }
}

/// A timer of tokio.
struct TokioTimer(Pin<Box<Sleep>>);

impl TokioTimer {
    /// The longest time that it is ever set to: the limit of tokio is a little more than two years.
    const FAR: Duration = Duration::from_secs(24 * 60 * 60);

    fn new() -> Self {
        Self(Box::pin(tokio::time::sleep(Self::FAR)))
    }

    fn set(&mut self, after: Duration) {
        self.0.as_mut().reset(tokio::time::Instant::now() + after.min(Self::FAR));
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::{NodeClock, NodeTimer, early};
    use std::future::poll_fn;
    use std::time::Duration;

    /// Whatever the rate of the timer's clock, it goes off no later than it should, and after few
    /// settings.
    #[test]
    fn a_timer_that_is_set_early_is_never_late_and_is_set_a_few_times() {
        for per_mille in [900.0, 916.0, 1000.0, 1084.0, 1100.0] {
            let mut left = Duration::from_secs(10);
            for settings in 0.. {
                assert!(settings < 8, "{per_mille}");
                // How far the node's clock goes until the timer goes off.
                let passed = early(left).mul_f64(1000.0 / per_mille);
                if left <= Duration::from_millis(1) {
                    assert!(passed < left + Duration::from_micros(300), "{per_mille}: {passed:?}");
                    break;
                }
                assert!(passed <= left, "{per_mille}: {passed:?} of {left:?}");
                left -= passed;
            }
        }
    }

    #[tokio::test]
    async fn a_timer_goes_off_at_its_moment_on_the_systems_clock() {
        let clock = NodeClock::System;
        let mut timer = NodeTimer::new(&clock).unwrap();
        for ms in [0, 1, 3, 30] {
            let at = clock.now() + Duration::from_millis(ms);
            let mut settings = 0;
            while clock.now() < at {
                settings += 1;
                poll_fn(|cx| timer.poll(at, cx)).await.unwrap();
            }
            assert!(settings < 20, "set {settings} times for {ms} ms");
        }
    }
}
