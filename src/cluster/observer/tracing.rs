//! Spans and events for the crate `tracing` (feature `tracing`). Without the feature this does nothing.

use super::Observer;
use crate::cluster::key::Key;

/// Runs the future in a span for the acquisition of this key.
#[cfg(feature = "tracing")]
pub(crate) fn acquiring<F: Future>(key: &Key, future: F) -> impl Future<Output = F::Output> {
    tracing::Instrument::instrument(future, tracing::debug_span!("acquire", %key))
}

/// The future as it is.
#[cfg(not(feature = "tracing"))]
pub(crate) fn acquiring<F: Future>(_: &Key, future: F) -> F {
    future
}

/// The observer that every node has, besides that of the user.
pub(crate) struct TracingObserver;

#[cfg(not(feature = "tracing"))]
impl Observer for TracingObserver {}

#[cfg(feature = "tracing")]
mod events {
    use super::{Key, Observer, TracingObserver};
    use crate::cluster::{
        AcquiredVia, FencingToken, LockError, LossReason, ReleaseOutcome, RemoteOperation,
        TransportError, Version,
    };
    use std::time::Duration;
    use tracing::{debug, trace, warn};

    impl Observer for TracingObserver {
        fn acquire_started(&self, key: &Key) {
            trace!(%key, "acquiring");
        }

        fn acquired(&self, key: &Key, waited: Duration, via: AcquiredVia, token: FencingToken) {
            debug!(%key, ?waited, ?via, %token, "acquired");
        }

        fn acquire_failed(&self, key: &Key, waited: Duration, error: &LockError) {
            debug!(%key, ?waited, %error, "not acquired");
        }

        fn renewed(&self, key: &Key) {
            trace!(%key, "renewed");
        }

        fn lost(&self, key: &Key, why: &LossReason) {
            warn!(%key, %why, "lost");
        }

        fn released(&self, key: &Key, outcome: ReleaseOutcome) {
            debug!(%key, ?outcome, "released");
        }

        fn engine_went_back(&self, key: &Key, shown: Version, newest: Version) {
            warn!(%key, %shown, %newest, "the engine went back");
        }

        fn request_finished(
            &self,
            key: &Key,
            operation: RemoteOperation,
            took: Duration,
            error: Option<&TransportError>,
        ) {
            match error {
                None => trace!(%key, ?operation, ?took, "request succeeded"),
                Some(error) => debug!(%key, ?operation, ?took, %error, "request failed"),
            }
        }
    }
}
