//! Spans and events for `tracing` (feature `tracing`); nothing without it.

use super::Observer;
use crate::cluster::key::Key;

/// In the span of acquiring this key, from now on.
#[cfg(feature = "tracing")]
pub(crate) fn acquiring<F: Future>(key: &Key, future: F) -> impl Future<Output = F::Output> {
    tracing::Instrument::instrument(future, tracing::debug_span!("acquire", %key))
}

/// As it is.
#[cfg(not(feature = "tracing"))]
pub(crate) fn acquiring<F: Future>(_: &Key, future: F) -> F {
    future
}

/// The observer that every node has.
pub(crate) struct Trace;

#[cfg(not(feature = "tracing"))]
impl Observer for Trace {}

#[cfg(feature = "tracing")]
mod events {
    use super::{Key, Observer, Trace};
    use crate::cluster::{
        AcquiredVia, FencingToken, LockError, LossReason, Released, Remote, TransportError,
    };
    use std::time::Duration;
    use tracing::{debug, trace, warn};

    impl Observer for Trace {
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

        fn released(&self, key: &Key, how: Released) {
            debug!(%key, ?how, "released");
        }

        fn remote(&self, key: &Key, what: Remote, took: Duration, error: Option<&TransportError>) {
            match error {
                None => trace!(%key, ?what, ?took, "answered"),
                Some(error) => debug!(%key, ?what, ?took, %error, "failed"),
            }
        }
    }
}
