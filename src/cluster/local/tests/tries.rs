//! Attempts that do not wait.

use super::*;
use crate::cluster::layers::{Intercept, Interceptor};
use crate::cluster::{Exchange, Version, Write, async_trait};

/// Withholds each mismatch until it is told to go on.
#[derive(Clone, Default)]
struct LateMismatches(Arc<Notify>);

#[async_trait]
impl Interceptor<Memory> for LateMismatches {
    async fn compare_exchange(
        &self,
        inner: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        let result = inner.compare_exchange(key, expected, new).await;
        if matches!(result, Ok(Exchange::Mismatch(_))) {
            self.0.notified().await;
        }
        result
    }
}

#[tokio::test(start_paused = true)]
async fn an_attempt_is_not_refused_by_what_was_seen_for_the_one_before_it() {
    for mode in [WaitMode::Try, WaitMode::Outlast] {
        let (engine, late) = (Memory::new(), LateMismatches::default());
        let (_a, lock) = lock_of(Intercept::new(engine.clone(), late.clone()));
        let (_b, theirs) = lock_of(engine);
        let guard = theirs.acquire().await.unwrap();
        let first = Kept::new(&lock, mode);
        settle().await;
        guard.release().await.unwrap();
        // The driver does not run between the two.
        drop(first);
        let mut second = Kept::new(&lock, mode);
        late.0.notify_one();
        settle().await;
        assert!(second.guard().is_valid());
    }
}
