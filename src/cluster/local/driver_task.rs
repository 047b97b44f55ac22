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
//! The driver calls code of the user: the transport and the observer. That may fork. The child finds itself
//! in the middle of a step, and leaves it without a request, and without a mutex that another thread of the
//! parent may have held. On the thread of the process it stays here for ever: to return would run the loop
//! of the parent's runtime, whose `epoll` the two share.
//!
//! A caller takes such a step only if the node is on the thread of the process
//! ([`Background`](crate::cluster::background::Background)), where a step of the task costs two changes of
//! thread. A runtime that was given for the node runs all of it.

use crate::cluster::local::LocalKey;
use crate::cluster::local::clock::NodeTimer;
use crate::cluster::local::driver::Driver;
use crate::cluster::node::NodeShared;
use crate::cluster::process::{OfProcess, Process, leak};
use crate::cluster::protocol::Time;
use crate::{Condvar, Mutex, MutexGuard};
use std::cell::Cell;
use std::future::{Future, poll_fn};
use std::mem;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
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
        shared.driver_thread.set_to_this(shared.clock.now());
        let _running = DriverRun::begin();
        loop {
            let is_pending = driver.work(cx).is_pending();
            if shared.is_foreign() {
                stay_if_forked_off(shared);
                return Poll::Pending;
            }
            if driver.is_done() {
                return Poll::Ready(());
            }
            driver.flush();
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
    if shared.is_foreign() {
        // The mutex is ours, and nobody else is there to whom it matters.
        mem::forget((slot, waker));
        return;
    }
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
    /// The process in which this thread runs a driver at this moment. (A child that the driver forks is
    /// another.)
    static RUNNING: Cell<Option<Process>> = const { Cell::new(None) };
}

/// This thread runs a driver until this is dropped.
pub(super) struct DriverRun {
    /// What it did before: a driver may have called back.
    before: Option<Process>,
}

impl DriverRun {
    pub(super) fn begin() -> Self {
        // It fails if the thread is ending. Then it calls no code of the user's that could ask.
        let before = RUNNING.try_with(|running| running.replace(Some(Process::current())));
        Self { before: before.unwrap_or_default() }
    }
}

impl Drop for DriverRun {
    fn drop(&mut self) {
        let _ = RUNNING.try_with(|running| running.set(self.before));
    }
}

/// Whether this thread runs a driver, of any node, at this moment: the driver has called code that calls
/// back. Other drivers may have to run on this thread.
pub(crate) fn is_running_here() -> bool {
    RUNNING.try_with(Cell::get).is_ok_and(|of| of.is_some_and(Process::is_current))
}

/// Runs a task of the node that is not the driver, and calls code of the user as the driver does.
pub(crate) async fn as_driver<F: Future>(shared: &NodeShared, task: F) -> F::Output {
    let mut task = pin!(task);
    poll_fn(|cx| {
        if shared.is_foreign() {
            return Poll::Pending;
        }
        let _running = DriverRun::begin();
        let polled = task.as_mut().poll(cx);
        stay_if_forked_off(shared);
        polled
    })
    .await
}

/// On the thread of the process: does not return if the code that was called has forked, and this is the
/// child. A runtime that was given is the user's own matter.
fn stay_if_forked_off(shared: &NodeShared) {
    while shared.is_foreign() && shared.background.is_some() {
        thread::park();
    }
}

/// How long to wait for a run of the driver, to know its thread.
const NEXT_RUN: Duration = Duration::from_secs(1);

/// Where and when the driver's task ran last. That thread must not wait for what only the driver can do.
#[derive(Debug, Default)]
pub(crate) struct DriverThread {
    last: Mutex<LastRun>,
    has_run: Condvar,
}

#[derive(Debug, Default)]
struct LastRun {
    /// How often it has run.
    runs: u64,
    thread: Option<ThreadId>,
    at: Option<Time>,
}

impl DriverThread {
    fn set_to_this(&self, now: Time) {
        let mut last = self.last.lock();
        let (runs, thread) = (last.runs + 1, Some(thread::current().id()));
        *last = LastRun { runs, thread, at: Some(now) };
        drop(last);
        self.has_run.notify_all();
    }

    /// When the task ran last.
    pub(crate) fn last_run(&self) -> Option<Time> {
        self.last.lock().at
    }

    /// For a runtime with one thread at a time: whether this is the thread that runs the driver.
    ///
    /// If the driver has not run yet, or has run on another thread last, from which the runtime may have
    /// moved, this waits for its next run, for up to a second and not longer than `limit`; after that
    /// it takes this thread for the one that should run it. `wake` has the driver run. With a limit it
    /// believes the last run: then the caller waits in vain, but not for ever.
    pub(crate) fn is_this_thread(&self, limit: Option<Duration>, wake: impl FnOnce()) -> bool {
        let this = Some(thread::current().id());
        let before = {
            let last = self.last.lock();
            if last.thread == this || last.thread.is_some() && limit.is_some() {
                return last.thread == this;
            }
            last.runs
        };
        wake();
        let limit = limit.map_or(NEXT_RUN, |limit| limit.min(NEXT_RUN));
        let mut last = self.last.lock();
        self.has_run.wait_while_for(&mut last, |last| last.runs == before, limit);
        if last.runs == before {
            last.thread = this;
        }
        last.thread == this
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
