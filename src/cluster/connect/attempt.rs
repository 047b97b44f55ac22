//! An attempt to connect, which serves all who want a connection meanwhile.
//!
//! It is a task of its own: it goes on when who has begun it has stopped to wait. Who looks at how it
//! stands, which is done under a lock, polls nothing. So nobody is woken under that lock, and it
//! does not depend on what a runtime thinks that the one who looks has done enough of.

use tokio::sync::watch;

pub(in crate::cluster) struct Attempt<T>(watch::Receiver<Option<T>>);

impl<T: Send + Sync + 'static> Attempt<T> {
    pub(in crate::cluster) fn begin(connect: impl Future<Output = T> + Send + 'static) -> Self {
        let (sender, receiver) = watch::channel(None);
        tokio::spawn(async move {
            let result = connect.await;
            sender.send_replace(Some(result));
        });
        Self(receiver)
    }

    /// Whether it is under way, or has ended with what `is_good`.
    pub(in crate::cluster) fn is_of_use(&self, is_good: impl FnOnce(&T) -> bool) -> bool {
        match &*self.0.borrow() {
            Some(result) => is_good(result),
            // Its runtime may have ended, and it with that.
            None => self.0.has_changed().is_ok(),
        }
    }

    /// Waits until it has ended. `None`: its runtime has ended before.
    pub(in crate::cluster) async fn result(&self) -> Option<T>
    where
        T: Clone,
    {
        let mut receiver = self.0.clone();
        let result = receiver.wait_for(Option::is_some).await.ok()?;
        result.clone()
    }

    /// Whether both are the same.
    #[cfg(feature = "redis")]
    pub(in crate::cluster) fn is(&self, other: &Self) -> bool {
        self.0.same_channel(&other.0)
    }
}

impl<T> Clone for Attempt<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
