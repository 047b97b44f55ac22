//! A thread that waits for a future: it spins for a moment, then sleeps.

use super::bell::Bell;
use crate::primitive::spin_loop;
use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// How often to look before sleeping, when the wake-up is likely to be near: some tens of microseconds.
/// After each the thread lets others run that want to: the one that it waits for may be among them.
const LOOKS: u32 = 64;

/// How many pauses between two looks. Who is granted the lock is to know at once; but a look that finds
/// nothing takes the lock's cache lines from those who use it.
const PAUSES: u32 = 16;

struct Parker {
    bell: Bell,
    thread: Thread,
}

impl Wake for Parker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.bell.ring() {
            self.thread.unpark();
        }
    }
}

impl Parker {
    /// Returns when woken, since the last return.
    fn sleep(&self, looks: u32) {
        for _ in 0..looks {
            (0..PAUSES).for_each(|_| spin_loop());
            if self.bell.answer() {
                return;
            }
            thread::yield_now();
        }
        self.bell.sleep(thread::park);
    }
}

thread_local! {
    /// This thread's, unless it is in use.
    static OWN: Cell<Option<Arc<Parker>>> = const { Cell::new(None) };
}

/// Waits for the future. Where `is_near` says so, the thread spins before it sleeps.
pub(super) fn wait<F: Future + Unpin>(mut future: F, is_near: impl Fn(&F) -> bool) -> F::Output {
    // A thread that waits while it waits (in an observer, say) needs a second one.
    let own = OWN.try_with(Cell::take).ok().flatten();
    let parker =
        own.unwrap_or_else(|| Arc::new(Parker { bell: Bell::new(), thread: thread::current() }));
    let waker = Waker::from(parker.clone());
    let mut cx = Context::from_waker(&waker);
    let output = loop {
        if let Poll::Ready(output) = Pin::new(&mut future).poll(&mut cx) {
            break output;
        }
        parker.sleep(if is_near(&future) { LOOKS } else { 0 });
    };
    // A thread that is about to end has no use for it.
    let _ = OWN.try_with(|own| own.set(Some(parker)));
    output
}

/// One look at the future; nobody is woken when it goes on.
pub(super) fn poll_once<F: Future>(future: Pin<&mut F>) -> Option<F::Output> {
    match future.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => Some(output),
        Poll::Pending => None,
    }
}
