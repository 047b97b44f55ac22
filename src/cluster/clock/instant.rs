//! The clock of [`Instant`], with tokio's timers, which are on the same clock.

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
