//! Spans and events for the crate `tracing` (feature `tracing`). Without the feature this does nothing.
//!
//! A caller has two spans, `acquire` for its wait and `hold` for the time for which it holds the lock. They are
//! siblings: both are in the span that the caller is in when it begins to wait. What happens meanwhile is an event
//! in them, also if another thread notices it. (What a user's observer does is in them too.)

use crate::cluster::fence::FencingToken;
use crate::cluster::guard::AcquiredVia;
use crate::cluster::key::Key;
use crate::cluster::node::NodeShared;

/// The target of all spans and events.
#[cfg(feature = "tracing")]
const TARGET: &str = "lockword";

/// The span of a caller that waits.
#[derive(Debug, Default)]
pub(crate) struct WaitSpan {
    /// The span, and the one that it is in.
    #[cfg(feature = "tracing")]
    spans: Option<[tracing::Span; 2]>,
}

/// The span of a guard: until the guard is given back, and what became of it is known. A clone is the same span.
#[derive(Clone, Debug, Default)]
pub(crate) struct HoldSpan {
    #[cfg(feature = "tracing")]
    span: std::sync::Arc<crate::Mutex<Option<std::sync::Arc<tracing::Span>>>>,
}

/// The observer that every node has, besides that of the user.
pub(crate) struct TracingObserver;

#[cfg(not(feature = "tracing"))]
impl super::Observer for TracingObserver {}

#[cfg(not(feature = "tracing"))]
impl WaitSpan {
    pub(crate) fn begin(&mut self, _: &Key, _: &'static str) {}

    pub(crate) fn run<T>(&self, _: &NodeShared, code: impl FnOnce(&Self) -> T) -> T {
        code(self)
    }

    pub(crate) fn end(&mut self, _: &NodeShared) {}

    pub(crate) fn to_hold(&self, _: &HoldSpan, _: &Key, _: FencingToken, _: AcquiredVia) {}
}

#[cfg(not(feature = "tracing"))]
impl HoldSpan {
    pub(crate) fn run<T>(&self, _: &NodeShared, code: impl FnOnce() -> T) -> T {
        code()
    }

    pub(crate) fn end(&self, _: &NodeShared) {}

    pub(crate) fn leak(&self) {}
}

#[cfg(feature = "tracing")]
mod spans {
    use super::*;
    use crate::cluster::observer::Observer;
    use crate::cluster::{
        ForcedRelease, Hold, LockError, LossReason, ReleaseOutcome, RemoteOperation,
        TransportError, Version,
    };
    use std::mem::ManuallyDrop;
    use std::sync::Arc;
    use std::time::Duration;
    use tracing::field::{Empty, display};
    use tracing::{Span, debug, debug_span, trace, warn};

    impl WaitSpan {
        /// The caller begins to wait.
        pub(crate) fn begin(&mut self, key: &Key, engine: &'static str) {
            let outer = Span::current();
            let span = debug_span!(
                target: TARGET,
                "acquire",
                %key,
                engine,
                waited_us = Empty,
                via = Empty,
                token = Empty,
                error = Empty
            );
            self.spans = Some([span, outer]);
        }

        /// Runs the code in the span.
        pub(crate) fn run<T>(&self, shared: &NodeShared, code: impl FnOnce(&Self) -> T) -> T {
            match &self.spans {
                Some([span, _]) => in_span(shared, span, || code(self)),
                None => code(self),
            }
        }

        /// The wait is over.
        pub(crate) fn end(&mut self, shared: &NodeShared) {
            drop_here(shared, self.spans.take());
        }

        /// The caller has the lock.
        pub(crate) fn to_hold(
            &self,
            hold: &HoldSpan,
            key: &Key,
            token: FencingToken,
            via: AcquiredVia,
        ) {
            let Some([_, outer]) = &self.spans else { return };
            let span = debug_span!(
                target: TARGET,
                parent: outer,
                "hold",
                %key,
                token = token.get_i64(),
                via = via.name(),
                held_us = Empty,
                outcome = Empty,
                lost = Empty
            );
            *hold.span.lock() = Some(Arc::new(span));
        }
    }

    impl HoldSpan {
        /// Runs the code in the span, if that has not ended.
        pub(crate) fn run<T>(&self, shared: &NodeShared, code: impl FnOnce() -> T) -> T {
            // Not the span itself: the subscriber would hear of a clone, under the mutex.
            let span = self.span.lock().clone();
            let Some(span) = span else { return code() };
            let result = in_span(shared, &span, code);
            drop_here(shared, span);
            result
        }

        /// The guard has been given back, and what became of it was told.
        pub(crate) fn end(&self, shared: &NodeShared) {
            if !shared.is_foreign() {
                let span = self.span.lock().take();
                drop_here(shared, span);
            }
        }

        /// This is a forked child, in which not even the end of a span may run.
        pub(crate) fn leak(&self) {
            crate::cluster::process::leak(&self.span);
        }
    }

    /// Runs the code in the span. The subscriber is code of the user: see [`NodeShared::call`].
    fn in_span<T>(shared: &NodeShared, span: &Span, code: impl FnOnce() -> T) -> T {
        let mut entered = None;
        shared.call(|| entered = Some(span.clone().entered()));
        let result = code();
        drop_here(shared, entered);
        result
    }

    /// Drops what may call the subscriber. In a forked child it is leaked.
    fn drop_here<T>(shared: &NodeShared, it: T) {
        let it = ManuallyDrop::new(it);
        shared.call(|| drop(ManuallyDrop::into_inner(it)));
    }

    /// The present span, if it is one of this crate's that has this name: not one of the user's, in which the caller
    /// is where the subscriber does not want those.
    fn present(name: &str) -> Option<Span> {
        let span = Span::current();
        let is_own = |of: &tracing::Metadata<'_>| of.target() == TARGET && of.name() == name;
        span.metadata().is_some_and(is_own).then_some(span)
    }

    impl Observer for TracingObserver {
        fn acquire_started(&self, key: &Key) {
            trace!(target: TARGET, %key, "acquiring");
        }

        fn acquired(&self, key: &Key, waited: Duration, via: AcquiredVia, token: FencingToken) {
            let (waited_us, via, token) = (us(waited), via.name(), token.get_i64());
            if let Some(span) = present("acquire") {
                span.record("waited_us", waited_us).record("via", via).record("token", token);
            }
            debug!(target: TARGET, %key, waited_us, via, token, "acquired");
        }

        fn acquire_failed(&self, key: &Key, waited: Duration, error: &LockError) {
            let waited_us = us(waited);
            if let Some(span) = present("acquire") {
                span.record("waited_us", waited_us).record("error", display(error));
            }
            debug!(target: TARGET, %key, waited_us, %error, "not acquired");
        }

        fn acquire_cancelled(&self, key: &Key, waited: Duration) {
            let waited_us = us(waited);
            if let Some(span) = present("acquire") {
                span.record("waited_us", waited_us).record("error", "cancelled");
            }
            debug!(target: TARGET, %key, waited_us, "cancelled");
        }

        fn renewed(&self, key: &Key, left: Duration) {
            trace!(target: TARGET, %key, left_us = us(left), "renewed");
        }

        fn lost(&self, key: &Key, why: &LossReason, hold: Hold) {
            let (held_us, token) = (us(hold.held_for), hold.token.get_i64());
            if let Some(span) = present("hold") {
                span.record("lost", display(why));
            }
            warn!(target: TARGET, %key, token, held_us, %why, "lost");
        }

        fn released(&self, key: &Key, outcome: ReleaseOutcome, hold: Hold) {
            let (held_us, token) = (us(hold.held_for), hold.token.get_i64());
            if let Some(span) = present("hold") {
                span.record("held_us", held_us).record("outcome", outcome.name());
            }
            debug!(target: TARGET, %key, token, held_us, outcome = outcome.name(), "released");
        }

        fn broke(&self, key: &Key, from: &ForcedRelease, reason: &str) {
            warn!(target: TARGET, %key, node = %from.node, label = from.label, reason, "broke");
        }

        fn engine_went_back(&self, key: &Key, shown: Version, newest: Version) {
            let (shown, newest) = (shown.get().cast_signed(), newest.get().cast_signed());
            warn!(target: TARGET, %key, shown, newest, "the engine went back");
        }

        fn request_finished(
            &self,
            key: &Key,
            operation: RemoteOperation,
            took: Duration,
            error: Option<&TransportError>,
        ) {
            let (operation, took_us) = (operation.name(), us(took));
            match error {
                None => trace!(target: TARGET, %key, operation, took_us, "request succeeded"),
                Some(error) => {
                    debug!(target: TARGET, %key, operation, took_us, %error, "request failed");
                }
            }
        }
    }

    /// In whole microseconds. With a sign, as that of all numbers here: OpenTelemetry has no others, and would get text.
    fn us(time: Duration) -> i64 {
        i64::try_from(time.as_micros()).unwrap_or(i64::MAX)
    }
}
