//! A timer of tokio's.

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
