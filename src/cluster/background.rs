//! The thread on which nodes and connections live.
//!
//! A task that blocks its worker delays the other tasks of that worker: the one that it has just woken
//! sits in a slot from which no other worker takes it. If that were a node's driver, the node would not
//! renew its leases meanwhile. So the drivers of nodes, and the connections of the engines of this crate,
//! have a thread of their own, with a runtime that nobody else uses. There is one for the process, so that
//! a request does not cross from the thread of a node to that of its connection. It is started when it is
//! first needed, and ends when the last node and the last transport are gone.

#[cfg(unix)]
use super::node::NodeShared;
use super::process::{OfProcess, Process};
use crate::Mutex;
use futures_util::FutureExt;
use std::cell::Cell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::io;
use std::ptr;
use std::sync::atomic::{AtomicPtr, Ordering};
use std::sync::{Arc, Weak};
use std::task::Poll;
use std::time::Duration;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// The thread of this process. It runs for as long as there is a clone of this.
#[derive(Clone)]
pub(crate) struct Background(Arc<OfProcess<BackgroundThread>>);

struct BackgroundThread {
    runtime: Handle,
    /// The thread ends when this is dropped. Nothing is ever sent.
    _alive: oneshot::Sender<Infallible>,
}

impl Background {
    /// The thread of this process, which is started if there is none.
    ///
    /// # Errors
    ///
    /// The error of the system if the thread or its runtime cannot be started.
    pub(crate) fn get() -> io::Result<Self> {
        let mut current = ThreadSlot::of_process().thread.lock();
        if let Some(thread) = current.upgrade() {
            return Ok(Self(thread));
        }
        let thread = Arc::new(OfProcess::new(BackgroundThread::start()?));
        *current = Arc::downgrade(&thread);
        Ok(Self(thread))
    }

    /// Remembers a node that is on the thread of this process.
    #[cfg(unix)]
    pub(crate) fn add_node(node: Weak<NodeShared>) {
        let mut nodes = ThreadSlot::of_process().nodes.lock();
        nodes.retain(|known| known.strong_count() > 0);
        nodes.push(node);
    }

    /// The nodes on the thread of this process. `None`: another thread has the list until `end`.
    #[cfg(unix)]
    pub(crate) fn nodes(end: std::time::Instant) -> Option<Vec<Weak<NodeShared>>> {
        Some(ThreadSlot::of_process().nodes.try_lock_until(end)?.clone())
    }

    /// The runtime of the thread. It may be used as long as there is a clone of this, and not in a forked
    /// child.
    pub(crate) fn runtime(&self) -> &Handle {
        &self.0.runtime
    }
}

impl BackgroundThread {
    fn start() -> io::Result<Self> {
        // One poll of a busy driver handles up to a hundred events. Sockets and timers are looked at after
        // each poll, not after 61 as by default, and what other threads have woken has every second turn,
        // not every 31st: otherwise the driver of a busy node delays the renewals of the others.
        let runtime = Builder::new_current_thread()
            .event_interval(1)
            .global_queue_interval(2)
            .enable_all()
            .build()?;
        let (alive, ended) = oneshot::channel();
        let thread = Self { runtime: runtime.handle().clone(), _alive: alive };
        let mut runtime = EndWithoutWaiting(Some(runtime));
        std::thread::Builder::new().name("lockword".to_owned()).spawn(move || {
            IS_BACKGROUND.set(Some(Process::current()));
            if let Some(runtime) = &mut runtime.0 {
                runtime.block_on(async {
                    // An error: the sender was dropped.
                    let _ = ended.await;
                    say_goodbye().await;
                });
            }
        })?;
        Ok(thread)
    }
}

thread_local! {
    /// The process whose thread this is. (A child that is forked by this thread has no such thread.)
    static IS_BACKGROUND: Cell<Option<Process>> = const { Cell::new(None) };
}

/// Whether this is the thread on which nodes and connections live. It must not wait for any of them.
pub(crate) fn is_this_thread() -> bool {
    IS_BACKGROUND.try_with(Cell::get).is_ok_and(|of| of.is_some_and(Process::is_current))
}

/// How long connections may take to say goodbye to their servers.
const GOODBYE: Duration = Duration::from_secs(1);

/// Waits until the tasks have ended, which are connections without a user, for at most [`GOODBYE`].
async fn say_goodbye() {
    let end = Instant::now() + GOODBYE;
    while Handle::current().metrics().num_alive_tasks() > 0 && Instant::now() < end {
        sleep(Duration::from_millis(5)).await;
    }
}

/// A runtime whose end waits for nothing: neither for the resolver of a name on a thread of its own, nor,
/// which tokio refuses by a panic, on a worker of another runtime, if no thread could be started.
struct EndWithoutWaiting(Option<Runtime>);

impl Drop for EndWithoutWaiting {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// Where a process keeps its background thread.
struct ThreadSlot {
    process: Process,
    thread: Mutex<Weak<OfProcess<BackgroundThread>>>,
    /// Those that are, or were, on the thread.
    #[cfg(unix)]
    nodes: Mutex<Vec<Weak<NodeShared>>>,
}

impl ThreadSlot {
    /// That of this process. A forked child makes its own, since another thread of the parent may have
    /// held the mutex at the fork. Each is never freed.
    fn of_process() -> &'static Self {
        static NEWEST: AtomicPtr<ThreadSlot> = AtomicPtr::new(ptr::null_mut());
        let process = Process::current();
        // ORDERING: Acquire pairs with the Release below: the fields of the newest.
        let mut newest = NEWEST.load(Ordering::Acquire);
        loop {
            // SAFETY: it is null or comes from `Box::leak`, and is never freed nor changed.
            if let Some(newest) = unsafe { newest.as_ref() }
                && newest.process == process
            {
                return newest;
            }
            let own = Box::into_raw(Box::new(Self {
                process,
                thread: Mutex::new(Weak::new()),
                #[cfg(unix)]
                nodes: Mutex::default(),
            }));
            // ORDERING: Release pairs with the Acquires, as above.
            match NEWEST.compare_exchange(newest, own, Ordering::Release, Ordering::Acquire) {
                Ok(_) => newest = own,
                Err(now) => {
                    // SAFETY: it comes from `Box::into_raw` above, and nobody else has seen it.
                    drop(unsafe { Box::from_raw(own) });
                    newest = now;
                }
            }
        }
    }
}

/// Runs a future as a task of this runtime, and waits for its result. `None`: the runtime has ended, the
/// task has panicked, or this is a forked child that polls a future of its parent.
///
/// # Cancel safety
///
/// The task ends if the future is dropped.
pub(crate) async fn run_on<F>(runtime: &Handle, future: F) -> Option<F::Output>
where
    F: Future<Output: Send> + Send + 'static,
{
    result_of(runtime.spawn(future)).await
}

/// Runs `work`, which may block, on a thread of this runtime that is there for such work, and waits for
/// its result. `None`: as with [`run_on`].
///
/// # Cancel safety
///
/// If the future is dropped, work that has begun goes on to its end, and other work is never done.
#[cfg(unix)]
pub(crate) async fn run_blocking_on<T: Send + 'static>(
    runtime: &Handle,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    result_of(runtime.spawn_blocking(work)).await
}

async fn result_of<T>(task: JoinHandle<T>) -> Option<T> {
    let mut task = AbortOnDrop::new(task);
    poll_fn(|cx| match task.0.is_here() {
        true => task.0.get_mut().poll_unpin(cx).map(Result::ok),
        false => Poll::Ready(None),
    })
    .await
}

/// A task that is aborted when this is dropped, unless that happens in a forked child.
pub(crate) struct AbortOnDrop<T>(OfProcess<JoinHandle<T>>);

impl<T> AbortOnDrop<T> {
    pub(crate) fn new(task: JoinHandle<T>) -> Self {
        Self(OfProcess::new(task))
    }
}

impl<T> Drop for AbortOnDrop<T> {
    fn drop(&mut self) {
        if let Ok(task) = self.0.here() {
            task.abort();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Background, BackgroundThread, Duration, Instant, ThreadSlot};

    /// One test, since the thread is one for the process. Other tests may keep it alive, so its end is
    /// not looked for here.
    #[test]
    fn there_is_one_thread_and_it_runs_what_is_spawned() {
        let first = Background::get().unwrap();
        let second = Background::get().unwrap();
        assert_eq!(first.runtime().id(), second.runtime().id());
        let (send, receive) = std::sync::mpsc::channel();
        second.runtime().spawn(async move {
            let name = std::thread::current().name().map(str::to_owned);
            tokio::time::sleep(Duration::from_millis(1)).await;
            send.send(name).unwrap();
        });
        let name = receive.recv_timeout(Duration::from_secs(60)).unwrap();
        assert_eq!(name.as_deref(), Some("lockword"));
    }

    /// On a worker of another runtime, where tokio panics if the end of a runtime waits.
    #[tokio::test]
    async fn a_thread_ends_without_blocking_who_drops_it() {
        let thread = BackgroundThread::start().unwrap();
        let runtime = thread.runtime.clone();
        drop(thread);
        let began = Instant::now();
        // A task that is spawned after the end is dropped at once.
        while runtime.spawn(std::future::ready(())).await.is_ok() {
            assert!(began.elapsed() < Duration::from_secs(60), "the thread goes on");
            std::thread::yield_now();
        }
        assert!(std::ptr::eq(ThreadSlot::of_process(), ThreadSlot::of_process()));
    }
}
