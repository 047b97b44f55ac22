//! A connection that is opened when it is asked for.

use super::failure::Failure;
use crate::Mutex;
use crate::cluster::engines::connect::PendingConnection;
use std::sync::Arc;

/// Something that is connected, and may not be any more.
pub(super) trait Alive: Send + Sync + 'static {
    fn is_alive(&self) -> bool;
}

type Connected<S> = Result<Arc<S>, Failure>;

/// One connection of a kind.
pub(super) struct Link<S>(Mutex<Option<PendingConnection<Connected<S>>>>);

impl<S: Alive> Link<S> {
    pub(super) fn new() -> Self {
        Self(Mutex::new(None))
    }

    /// The connection; by `connect`, if there is none.
    ///
    /// # Errors
    ///
    /// [`Failure`] of this attempt.
    pub(super) async fn get<F>(&self, connect: impl Fn() -> F) -> Connected<S>
    where
        F: Future<Output = Connected<S>> + Send + 'static,
    {
        let ended = || Err(Failure::unreachable("the server", "the runtime has ended"));
        let mut result = self.pending(&connect).result().await.unwrap_or_else(ended);
        if result.as_ref().is_ok_and(|session| !session.is_alive()) {
            // One that nobody had waited for, and that has died since.
            result = self.pending(&connect).result().await.unwrap_or_else(ended);
        }
        result
    }

    /// The last attempt, if it is of use; or a new one.
    fn pending<F>(&self, connect: impl Fn() -> F) -> PendingConnection<Connected<S>>
    where
        F: Future<Output = Connected<S>> + Send + 'static,
    {
        let mut last = self.0.lock();
        let is_good =
            |result: &Connected<S>| result.as_ref().is_ok_and(|session| session.is_alive());
        if let Some(pending) = last.as_ref().filter(|pending| pending.is_of_use(is_good)) {
            return pending.clone();
        }
        let pending = PendingConnection::begin(connect());
        let dead = last.replace(pending.clone());
        // Not under the lock: whoever listens there is woken.
        drop(last);
        drop(dead);
        pending
    }
}

#[cfg(test)]
mod tests {
    use super::{Alive, Connected, Link};
    use crate::cluster::engines::postgres::failure::Failure;
    use crate::primitive::{AtomicBool, Ordering};
    use futures_util::FutureExt;
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::{Arc, Mutex, mpsc};
    use std::task::{Context, Poll, Wake, Waker};
    use std::thread;
    use std::time::Duration;
    use tokio::runtime::Builder;
    use tokio::sync::oneshot;
    use tokio::task::{coop::consume_budget, yield_now};

    struct Fake;

    impl Alive for Fake {
        fn is_alive(&self) -> bool {
            true
        }
    }

    async fn works() -> Connected<Fake> {
        Ok(Arc::new(Fake))
    }

    #[tokio::test]
    async fn who_has_done_enough_for_now_is_not_told_a_failure_of_long_ago() {
        let (link, has_failed) = (Link::new(), Arc::new(AtomicBool::new(false)));
        let fails = || {
            let has_failed = has_failed.clone();
            async move {
                has_failed.store(true, Ordering::Relaxed);
                Err(Failure::unreachable("a server", "long ago"))
            }
        };
        // Nobody waits for it.
        assert!(link.get(fails).now_or_never().is_none());
        while !has_failed.load(Ordering::Relaxed) {
            yield_now().await;
        }
        let mut asked = pin!(link.get(works));
        let at_once = poll_fn(|cx| {
            // From here on whatever is tokio's is not ready in this poll.
            while pin!(consume_budget()).poll(cx).is_ready() {}
            Poll::Ready(asked.as_mut().poll(cx))
        });
        let got = match at_once.await {
            Poll::Ready(got) => got,
            Poll::Pending => asked.await,
        };
        assert!(got.is_ok(), "{:?}", got.err());
    }

    /// Asks anew as soon as it is woken, where it is woken.
    struct Eager(Arc<Link<Fake>>, Mutex<Option<oneshot::Sender<bool>>>);

    impl Wake for Eager {
        fn wake(self: Arc<Self>) {
            let got = self.0.get(works).now_or_never();
            let tell = self.1.lock().unwrap().take().unwrap();
            tell.send(got.is_some_and(|got| got.is_ok())).unwrap();
        }
    }

    #[test]
    fn whoever_is_woken_may_ask_anew() {
        let (tell, told) = mpsc::channel();
        // A thread that may stay behind.
        thread::spawn(move || {
            let runtime = Builder::new_current_thread().build().unwrap();
            tell.send(runtime.block_on(woken())).unwrap();
        });
        let got = told.recv_timeout(Duration::from_secs(10)).expect("it is not stuck");
        assert!(got, "the connection is there");
    }

    async fn woken() -> bool {
        let (open, gate) = oneshot::channel::<()>();
        let gate = Mutex::new(Some(gate));
        let connect = || {
            let gate = gate.lock().unwrap().take().unwrap();
            async move {
                gate.await.unwrap();
                works().await
            }
        };
        let link = Arc::new(Link::new());
        let (tell, told) = oneshot::channel();
        let waker = Waker::from(Arc::new(Eager(link.clone(), Mutex::new(Some(tell)))));
        let mut asked = pin!(link.get(connect));
        assert!(asked.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        open.send(()).unwrap();
        told.await.unwrap()
    }
}
