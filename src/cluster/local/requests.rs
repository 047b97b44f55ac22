//! Requests to the engine: each ends in time, none panics, and the observer is told.

use crate::cluster::key::Key;
use crate::cluster::node::NodeShared;
use crate::cluster::observer::Remote;
use crate::cluster::protocol::Event;
use crate::cluster::transport::{Exchange, TransportError, Version, Versioned, Watch, Write};
use futures_util::future::{AbortHandle, Abortable, Either, FutureExt, select};
use futures_util::stream::{BoxStream, Stream, StreamExt};
use std::any::Any;
use std::future::{Future, ready};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

/// [`Transport::load`](crate::cluster::Transport::load).
pub(crate) async fn load(
    core: &Arc<NodeShared>,
    key: &Key,
) -> Result<Option<Versioned>, TransportError> {
    let load = async { core.transport.load(key).await };
    bounded(core, key, Remote::Load, TransportError::unavailable, load).await
}

/// [`Transport::compare_exchange`](crate::cluster::Transport::compare_exchange).
pub(crate) async fn compare_exchange(
    core: &Arc<NodeShared>,
    key: &Key,
    expected: Option<Version>,
    new: Write,
) -> Result<Exchange, TransportError> {
    let write = async { core.transport.compare_exchange(key, expected, new).await };
    bounded(core, key, Remote::CompareExchange, TransportError::indeterminate, write).await
}

/// Ends in time, and does not panic: `fail` makes the error of either.
async fn bounded<T>(
    core: &Arc<NodeShared>,
    key: &Key,
    what: Remote,
    fail: fn(String) -> TransportError,
    request: impl Future<Output = Result<T, TransportError>>,
) -> Result<T, TransportError> {
    let began = core.clock.now();
    let limit = core.config.request_timeout;
    let request = Quiet(Some(Box::pin(AssertUnwindSafe(request).catch_unwind())));
    let result = match select(request, core.sleep_until(began + limit)).await {
        Either::Left((Ok(result), _)) => result,
        Either::Left((Err(panic), _)) => {
            Err(fail(format!("the transport panicked: {}", message(&*panic))))
        }
        Either::Right(_) => Err(fail(format!("no answer in {limit:?}"))),
    };
    let took = core.clock.now().since(began);
    core.observe(|observer| observer.remote(key, what, took, result.as_ref().err()));
    result
}

/// Something of a transport's, whose destructor may panic: that would end the node.
struct Quiet<T>(Option<Pin<Box<T>>>);

impl<T> Drop for Quiet<T> {
    fn drop(&mut self) {
        let inner = self.0.take();
        // The default panic hook has told of it.
        let _ = catch_unwind(AssertUnwindSafe(move || drop(inner)));
    }
}

impl<T: Future> Future for Quiet<T> {
    type Output = T::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T::Output> {
        self.0.as_mut().map_or(Poll::Pending, |inner| inner.as_mut().poll(cx))
    }
}

impl<T: Stream> Stream for Quiet<T> {
    type Item = T::Item;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<T::Item>> {
        self.0.as_mut().map_or(Poll::Ready(None), |inner| inner.as_mut().poll_next(cx))
    }
}

fn message(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<&str>().copied();
    text.or_else(|| panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("(no message)")
}

/// Subscribes, and yields what comes of it: [`Event::Watching`], then [`Event::Noticed`] until
/// [`Event::WatchEnded`]. The handle ends it.
pub(crate) fn watch(core: &Arc<NodeShared>, key: &Key) -> (BoxStream<'static, Event>, AbortHandle) {
    let (core, key) = (core.clone(), key.clone());
    let subscribe = async move {
        let watch = async { core.transport.watch(&key, core.node).await };
        bounded(&core, &key, Remote::Watch, TransportError::unavailable, watch).await
    };
    let events = subscribe.into_stream().flat_map(|result| match result {
        Ok(watch) => {
            let begin = futures_util::stream::iter([Event::Watching(Ok(()))]);
            begin.chain(notices(watch)).boxed()
        }
        Err(error) => futures_util::stream::iter([Event::Watching(Err(error))]).boxed(),
    });
    let (abort, registration) = AbortHandle::new_pair();
    (Abortable::new(events, registration).boxed(), abort)
}

fn notices(watch: Watch) -> impl Stream<Item = Event> {
    let items = Quiet(Some(Box::pin(AssertUnwindSafe(watch).catch_unwind())));
    let good = items.scan((), |(), item| {
        ready(match item {
            Ok(Ok(seen)) => Some(Event::Noticed(seen)),
            // An error is the last item; and nothing more is asked of a watch that panicked.
            Ok(Err(_)) | Err(_) => None,
        })
    });
    good.chain(futures_util::stream::iter([Event::WatchEnded]))
}
