//! Who runs the driver of a node: a task of its own, or a caller that takes a single step.
//!
//! The driver is under a mutex. The task locks it at each poll. A caller whose call has to go through the
//! engine ([`drive`]) only tries to lock it, and only if the task sleeps. Then it polls its key in the
//! task's place, and with the task's waker. An engine that answers at once, as the one in memory does, has
//! answered then, and neither thread has waited for the other. Any other engine has been sent the request
//! at least, and its answer wakes the task. Either way the request belongs to the driver: it goes on if
//! the caller drops its future.
//!
//! The task does not wait for a caller that has the driver: it leaves, and that caller wakes it. So a caller
//! that is stopped within its step (its thread gets no processor, or a debugger has it) stops its own node,
//! which renews nothing meanwhile. It stops no other node, unless it has locked something that is shared by
//! nodes, such as the mutex of the engine in memory.
//!
//! A caller takes such a step only if the node is on the thread of the process
//! ([`Background`](crate::cluster::background::Background)), where a step of the task costs two changes of
//! thread. A runtime that was given for the node runs all of it.

use crate::cluster::local::LocalKey;
use crate::cluster::local::clock::NodeTimer;
use crate::cluster::local::driver::Driver;
use crate::cluster::node::NodeShared;
use crate::cluster::process::{OfProcess, leak};
use crate::{Condvar, Mutex, MutexGuard};
use std::cell::Cell;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};
use std::task::{Context, Poll};
use std::thread::{self, ThreadId};
use std::time::Duration;
use tokio::runtime::Handle;

/// Runs the driver of a node: a future that ends when the node is closed.
pub(crate) struct DriverTask {
    shared: Arc<NodeShared>,
    timer: OfProcess<NodeTimer>,
}

impl DriverTask {
    /// The task of a new node.
    pub(crate) fn new(shared: Arc<NodeShared>, timer: NodeTimer) -> Self {
        *shared.driver.lock() = Some(Driver::new(shared.clone()));
        Self { shared, timer: OfProcess::new(timer) }
    }
}

impl Future for DriverTask {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let Self { shared, timer } = &mut *self;
        if shared.is_foreign() {
            return Poll::Pending;
        }
        // A caller that takes a step may have lost its processor: the thread goes on with other nodes.
        let Some(mut driver) = lock(shared, cx) else { return Poll::Pending };
        let Some(driver) = &mut *driver else { return Poll::Ready(()) };
        shared.driver_thread.set_to_this();
        let _running = DriverRun::begin();
        loop {
            let is_pending = driver.work(cx).is_pending();
            if driver.is_done() {
                return Poll::Ready(());
            }
            if is_pending {
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let Poll::Ready(until) = driver.sleep(cx) else { continue };
            let Some(at) = until else { return Poll::Pending };
            match timer.get_mut().poll(at, cx) {
                Poll::Pending => {
                    shared.run_queue.set_polled_at(timer.set_to());
                    return Poll::Pending;
                }
                Poll::Ready(Ok(())) => {}
                // Without a timer no lease would be renewed in time.
                Poll::Ready(Err(_)) => return Poll::Ready(()),
            }
        }
    }
}

impl Drop for DriverTask {
    /// The task ends: the node was closed, the runtime shuts down, or the driver panicked.
    fn drop(&mut self) {
        if self.shared.is_foreign() {
            return leak(&self.shared);
        }
        end(&self.shared);
    }
}

/// Ends the driver, which closes the node.
fn end(shared: &NodeShared) {
    let driver = shared.driver.lock().take();
    drop(driver);
}

/// Has the driver poll this key. The calling thread does it at once if the driver's task sleeps.
pub(crate) fn drive(shared: &NodeShared, key: Arc<LocalKey>) {
    // This comes before the driver is locked: `schedule` wakes the task, which would find it locked.
    if shared.background.is_none() || is_thread_ending() {
        return shared.run_queue.schedule(key);
    }
    let mut slot = shared.driver.try_lock();
    let driver = slot.as_deref_mut().and_then(Option::as_mut);
    let Some((driver, waker)) = driver.zip(shared.run_queue.waker_if_idle()) else {
        unlock(shared, slot);
        return shared.run_queue.schedule(key);
    };
    let goes_on = {
        // Transports need the context of a runtime.
        let _context = shared.runtime.enter();
        let _running = DriverRun::begin();
        let mut cx = Context::from_waker(&waker);
        catch_unwind(AssertUnwindSafe(|| driver.step(key, &mut cx)))
    };
    // The panic hook has reported a panic. It ends the driver, as it would in the task.
    let dead = if goes_on.is_err() { slot.as_deref_mut().and_then(Option::take) } else { None };
    unlock(shared, slot);
    drop(dead);
    if goes_on.unwrap_or(true) {
        waker.wake();
    }
}

type DriverGuard<'a> = MutexGuard<'a, Option<Driver>>;

/// Locks the driver for its task. `None`: a caller has it, and wakes the task when it unlocks it.
fn lock<'a>(shared: &'a NodeShared, cx: &Context<'_>) -> Option<DriverGuard<'a>> {
    shared.driver.try_lock().or_else(|| {
        shared.run_queue.register(cx);
        shared.is_driver_wanted.store(true, Ordering::Relaxed);
        // ORDERING: SeqCst, the partner of the fence in `unlock`: either this finds the driver
        // unlocked, or the caller that unlocks it finds that it is wanted.
        fence(Ordering::SeqCst);
        shared.driver.try_lock()
    })
}

/// Unlocks the driver, if the caller has it, and wakes the task if it has found it locked.
fn unlock(shared: &NodeShared, slot: Option<DriverGuard<'_>>) {
    if slot.is_none() {
        return;
    }
    drop(slot);
    // ORDERING: SeqCst, the partner of the fence in `lock`.
    fence(Ordering::SeqCst);
    if shared.is_driver_wanted.swap(false, Ordering::Relaxed) {
        shared.run_queue.wake();
    }
}

/// Whether the thread-local variables of this thread are gone, of which tokio needs one.
fn is_thread_ending() -> bool {
    Handle::try_current().is_err_and(|why| why.is_thread_local_destroyed())
}

thread_local! {
    /// How many drivers this thread runs at this moment: more than one if one has called back.
    static RUNNING: Cell<u32> = const { Cell::new(0) };
}

/// This thread runs a driver until this is dropped.
struct DriverRun;

impl DriverRun {
    fn begin() -> Self {
        // It fails if the thread is ending. Then it calls no code of the user's that could ask.
        let _ = RUNNING.try_with(|running| running.set(running.get() + 1));
        Self
    }
}

impl Drop for DriverRun {
    fn drop(&mut self) {
        let _ = RUNNING.try_with(|running| running.set(running.get() - 1));
    }
}

/// Whether this thread runs a driver, of any node, at this moment: the driver has called code that calls
/// back. Other drivers may have to run on this thread.
pub(crate) fn is_running_here() -> bool {
    RUNNING.try_with(Cell::get).unwrap_or(0) > 0
}

/// How long to wait for the first run of the driver, to know its thread.
const FIRST_RUN: Duration = Duration::from_secs(1);

/// The thread that ran a node's driver as its task last. It must not wait for what only the driver can do.
#[derive(Debug, Default)]
pub(crate) struct DriverThread {
    last: Mutex<Option<ThreadId>>,
    has_run: Condvar,
}

impl DriverThread {
    fn set_to_this(&self) {
        let this = thread::current().id();
        if self.last.lock().replace(this).is_none() {
            self.has_run.notify_all();
        }
    }

    /// For a runtime with one thread: whether this is the thread that runs the driver. If the driver
    /// has not run yet, this waits for up to a second, and not longer than `limit`; after that it takes
    /// this thread for the one that should run it.
    pub(crate) fn is_this_thread(&self, limit: Option<Duration>) -> bool {
        let mut last = self.last.lock();
        if last.is_none() {
            let limit = limit.map_or(FIRST_RUN, |limit| limit.min(FIRST_RUN));
            self.has_run.wait_while_for(&mut last, |last| last.is_none(), limit);
        }
        last.is_none_or(|last| last == thread::current().id())
    }
}

#[cfg(test)]
mod tests {
    use crate::cluster::{DistributedGuard, Memory, Node};
    use futures_util::FutureExt;
    use std::thread;
    use std::time::Duration;

    /// Blocks this thread until the lease was renewed or is over. Returns whether it was renewed.
    fn is_renewed(guard: &DistributedGuard) -> bool {
        let mut before = guard.remaining();
        loop {
            let remaining = guard.remaining();
            if remaining > before || remaining.is_zero() {
                return !remaining.is_zero();
            }
            before = remaining;
            thread::yield_now();
        }
    }

    #[tokio::test]
    async fn a_node_renews_while_the_runtime_of_its_callers_is_blocked() {
        let lease = Duration::from_secs(1);
        let node = Node::builder(Memory::new()).lease(lease).build().unwrap();
        let guard = node.lock("k").unwrap().acquire().await.unwrap();
        assert!(is_renewed(&guard));
    }

    /// The lock is acquired by a step of this thread, while the driver sleeps without a limit of time.
    #[test]
    fn a_step_of_a_caller_sets_the_time_of_the_renewal() {
        let lease = Duration::from_secs(1);
        let node = Node::builder(Memory::new()).lease(lease).build().unwrap();
        while node.shared().run_queue.waker_if_idle().is_none() {
            thread::yield_now();
        }
        let guard = node.lock("k").unwrap().acquire().now_or_never().expect("at once").unwrap();
        assert!(is_renewed(&guard));
    }
}
