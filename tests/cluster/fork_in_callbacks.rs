//! Code that a node calls forks, and returns in the child too: into the middle of what the parent did.
//!
//! The child sends no request, takes no mutex that another thread of the parent may have held, and does not
//! panic. The parent goes on. Each test runs in a process of its own.

use crate::child::alone;
use crate::support::ms;
use futures_util::FutureExt;
use lockword::cluster::layers::{Intercept, Interceptor};
use lockword::cluster::{
    AcquiredVia, DistributedGuard, Exchange, FencingToken, Hold, Key, LockError, LossReason,
    Memory, Node, Observer, ReleaseOutcome, RemoteOperation, Transport, TransportError, Version,
    Versioned, Write, async_trait,
};
use std::pin::{Pin, pin};
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicPtr, AtomicU32, Ordering::SeqCst};
use std::task::{Context, Poll, Wake, Waker};
use std::thread;
use std::time::{Duration, Instant};
use tokio::runtime::Builder;

/// How long anything may take, on a busy machine too.
const LIMIT: Duration = Duration::from_secs(60);

/// Long enough for a busy machine. The lock is renewed after a third of it.
const LEASE: Duration = Duration::from_secs(10);

/// What children must not do, counted in memory that they share with the parent.
#[derive(Default)]
struct Misdeeds {
    requests: AtomicU32,
    panics: AtomicU32,
}

static MISDEEDS: AtomicPtr<Misdeeds> = AtomicPtr::new(ptr::null_mut());
static PARENT: AtomicU32 = AtomicU32::new(0);
/// The call that forks next, and the thread on which it does: see [`code`].
static NEXT: AtomicU32 = AtomicU32::new(0);
/// How many wakers were called.
static WAKES: AtomicU32 = AtomicU32::new(0);
/// The child, once there is one.
static CHILD: AtomicI32 = AtomicI32::new(0);

#[derive(Clone, Copy, Debug)]
enum Call {
    Started = 1,
    Acquired,
    Renewed,
    Lost,
    Released,
    Finished,
    Inspected,
    Transport,
    Waker,
}

/// `is_background`: on the thread of the crate, and not on that of a caller.
fn code(call: Call, is_background: bool) -> u32 {
    2 * call as u32 + u32::from(is_background)
}

fn is_child() -> bool {
    std::process::id() != PARENT.load(SeqCst)
}

fn misdeeds() -> &'static Misdeeds {
    // SAFETY: `begin` has set it, to a page that stays mapped and has only atomics.
    unsafe { &*MISDEEDS.load(SeqCst) }
}

/// Called at the beginning of a test.
fn begin() {
    let (access, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_ANONYMOUS);
    // SAFETY: a new mapping at an address of the kernel's choice, full of zeros.
    let page = unsafe { libc::mmap(ptr::null_mut(), 4096, access, flags, -1, 0) };
    assert_ne!(page, libc::MAP_FAILED, "no shared page");
    MISDEEDS.store(page.cast(), SeqCst);
    PARENT.store(std::process::id(), SeqCst);
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if is_child() {
            misdeeds().panics.fetch_add(1, SeqCst);
        }
        report(info);
    }));
}

/// A node calls code of the user's.
fn called(call: Call) {
    let this = thread::current();
    if this.name() == Some(USES_NODE) {
        // Its driver's step may be that of any caller. It would not notice that it is in a child.
        return;
    }
    let is_background = this.name() == Some("lockword");
    if NEXT.compare_exchange(code(call, is_background), 0, SeqCst, SeqCst).is_ok() {
        // SAFETY: the child goes on with what this thread does, as a program's may. It leaves by `_exit`.
        let pid = unsafe { libc::fork() };
        assert!(pid >= 0, "fork: {}", std::io::Error::last_os_error());
        if pid > 0 {
            return CHILD.store(pid, SeqCst);
        }
        // A child that is left after a failure would keep the pipe open at whose other end the test waits.
        // SAFETY: a call of the system about this process alone.
        unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
    }
}

/// Counts the renewals.
#[derive(Clone, Default)]
struct Forks(Arc<AtomicU32>);

impl Forks {
    fn renewals(&self) -> u32 {
        self.0.load(SeqCst)
    }
}

impl Observer for Forks {
    fn acquire_started(&self, _: &Key) {
        called(Call::Started);
    }

    fn acquired(&self, _: &Key, _: Duration, _: AcquiredVia, _: FencingToken) {
        called(Call::Acquired);
    }

    fn renewed(&self, _: &Key, _: Duration) {
        self.0.fetch_add(1, SeqCst);
        called(Call::Renewed);
    }

    fn lost(&self, _: &Key, _: &LossReason, _: Hold) {
        called(Call::Lost);
    }

    fn released(&self, _: &Key, _: ReleaseOutcome, _: Hold) {
        called(Call::Released);
    }

    fn request_finished(
        &self,
        key: &Key,
        _: RemoteOperation,
        _: Duration,
        _: Option<&TransportError>,
    ) {
        called(if key.as_str() == "inspected" { Call::Inspected } else { Call::Finished });
    }
}

/// Counts the requests of children.
struct Counts;

impl Counts {
    fn requested(&self) {
        if is_child() {
            misdeeds().requests.fetch_add(1, SeqCst);
        }
        called(Call::Transport);
    }
}

#[async_trait]
impl Interceptor<Memory> for Counts {
    async fn load(&self, inner: &Memory, key: &Key) -> Result<Option<Versioned>, TransportError> {
        self.requested();
        inner.load(key).await
    }

    async fn compare_exchange(
        &self,
        inner: &Memory,
        key: &Key,
        expected: Option<Version>,
        new: Write,
    ) -> Result<Exchange, TransportError> {
        self.requested();
        inner.compare_exchange(key, expected, new).await
    }
}

struct ForkingWaker;

impl Wake for ForkingWaker {
    fn wake(self: Arc<Self>) {
        called(Call::Waker);
        WAKES.fetch_add(1, SeqCst);
    }
}

fn poll<F: Future + ?Sized>(future: Pin<&mut F>) -> Poll<F::Output> {
    future.poll(&mut Context::from_waker(&Waker::from(Arc::new(ForkingWaker))))
}

struct Parent {
    node: Node,
    forks: Forks,
    kept: DistributedGuard,
    /// Renewed at other moments.
    others: Vec<DistributedGuard>,
}

/// So that something is renewed every quarter of a second.
const OTHERS: u32 = 13;

impl Parent {
    async fn new() -> Self {
        let forks = Forks::default();
        let engine = Intercept::new(Memory::new(), Counts);
        let builder = Node::builder(engine).lease(LEASE).observer(forks.clone());
        let node = builder.build().unwrap();
        let kept = node.lock("kept").unwrap().acquire().await.unwrap();
        let mut others = vec![];
        for number in 0..OTHERS {
            tokio::time::sleep(LEASE / 3 / OTHERS).await;
            let lock = node.lock(format!("other/{number}")).unwrap();
            others.push(lock.acquire().await.unwrap());
        }
        Self { node, forks, kept, others }
    }

    /// In the child: it is out, and ends.
    fn end_if_child(&self) {
        if !is_child() {
            return;
        }
        let closed =
            |result: Result<(), LockError>| matches!(result, Err(LockError::Closed { .. }));
        let (blocking, lock) = (self.node.blocking(), self.node.lock("kept").unwrap());
        let is_out = !self.kept.is_valid()
            && lock.acquire().now_or_never().is_some_and(|result| closed(result.map(drop)))
            && closed(blocking.lock("k").unwrap().acquire().map(drop))
            && closed(blocking.inspect("k").map(drop))
            && blocking.shutdown() == Default::default();
        // SAFETY: ends this process at once.
        unsafe { libc::_exit(i32::from(!is_out)) }
    }

    /// Waits for the child to end well. In the child it does not return.
    fn expect_success(&self, call: Call) {
        self.end_if_child();
        let end = Instant::now() + LIMIT;
        loop {
            if let Some(status) = wait_for_child() {
                assert!(libc::WIFEXITED(status), "{call:?}: {status:#x}");
                return assert_eq!(libc::WEXITSTATUS(status), 0, "{call:?}: it is not out");
            }
            assert!(Instant::now() < end, "{call:?}: the child hangs");
            thread::yield_now();
        }
    }

    /// The leases are renewed, and were not lost; and no child has done what it must not.
    fn goes_on(&self, call: Call) {
        let (before, end) = (self.forks.renewals(), Instant::now() + LIMIT);
        // One may have been on its way at the fork.
        while self.forks.renewals() < before + 2 {
            assert!(Instant::now() < end, "{call:?}: no renewals");
            thread::yield_now();
        }
        self.is_well(call);
    }

    fn is_well(&self, call: Call) {
        let lost = self.kept.lost().now_or_never();
        assert!(self.kept.is_valid(), "{call:?}: {lost:?}");
        assert!(self.others.iter().all(DistributedGuard::is_valid), "{call:?}");
        let Misdeeds { requests, panics } = misdeeds();
        assert_eq!((requests.load(SeqCst), panics.load(SeqCst)), (0, 0), "{call:?}");
    }
}

/// How often each call forks where a thread returns from it: other threads hold mutexes of the node now and
/// then.
const ROUNDS: usize = 8;

/// The name of a thread that does not fork.
const USES_NODE: &str = "uses the node";

/// A thread that uses the node, and so holds its mutexes now and then, until `ends`.
fn use_node<'scope>(
    scope: &'scope thread::Scope<'scope, '_>,
    parent: &'scope Parent,
    ends: &'scope AtomicBool,
) {
    let thread = thread::Builder::new().name(USES_NODE.to_owned());
    thread.spawn_scoped(scope, || use_node_until(parent, ends)).unwrap();
}

fn use_node_until(parent: &Parent, ends: &AtomicBool) {
    let lock = parent.node.lock("kept").unwrap();
    while !ends.load(SeqCst) {
        let _other = parent.node.lock("other").unwrap();
        let _waiting = parent.node.waiting("kept") + parent.node.waiting("k");
        let _valid = parent.kept.is_valid();
        let mut waits = pin!(lock.acquire_timeout(LIMIT));
        assert!(waits.as_mut().now_or_never().is_none());
    }
}

struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, SeqCst);
    }
}

/// The status of the child, if it has ended.
fn wait_for_child() -> Option<libc::c_int> {
    let (child, mut status) = (CHILD.load(SeqCst), 0);
    // SAFETY: our own child, not yet waited for; the status is ours to write.
    let ended = unsafe { libc::waitpid(child, &mut status, libc::WNOHANG) };
    assert!(ended >= 0, "waitpid: {}", std::io::Error::last_os_error());
    (ended == child).then(|| {
        CHILD.store(0, SeqCst);
        status
    })
}

/// The child that this thread has forked returns from the call, and ends.
#[test]
fn on_the_thread_of_a_caller() {
    let name = "fork_in_callbacks::on_the_thread_of_a_caller";
    alone(name, 8 * LIMIT, || {
        begin();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let parent = runtime.block_on(Parent::new());
        let lock = parent.node.lock("k").unwrap();
        let blocking = parent.node.blocking().lock("k").unwrap();
        let calls = [
            Call::Started,
            Call::Transport,
            Call::Finished,
            Call::Acquired,
            Call::Released,
            Call::Waker,
            Call::Lost,
        ];
        let ends = AtomicBool::new(false);
        thread::scope(|scope| {
            use_node(scope, &parent, &ends);
            // Also if a round fails.
            let _end = SetOnDrop(&ends);
            for call in calls.into_iter().flat_map(|call| [call; ROUNDS]) {
                NEXT.store(code(call, false), SeqCst);
                let end = Instant::now() + LIMIT;
                // The driver may be awake, and takes the step itself then.
                while CHILD.load(SeqCst) == 0 {
                    assert!(Instant::now() < end, "{call:?} is not called");
                    let guard = blocking.acquire();
                    parent.end_if_child();
                    let mut waits = pin!(lock.acquire());
                    assert!(poll(waits.as_mut()).is_pending());
                    parent.end_if_child();
                    drop(guard.unwrap());
                    parent.end_if_child();
                    let next = poll(waits.as_mut());
                    parent.end_if_child();
                    let Poll::Ready(next) = next else { panic!("it is not granted") };
                    let released = next.unwrap().release().now_or_never();
                    parent.end_if_child();
                    drop(released);
                    let limited = blocking.clone().hold_at_most(Duration::ZERO).acquire();
                    parent.end_if_child();
                    drop(limited.unwrap());
                    parent.end_if_child();
                }
                parent.expect_success(call);
                parent.is_well(call);
            }
        });
        parent.goes_on(Call::Lost);
    });
}

/// What the driver does by itself: renewals, a limit that passes, a timeout, an inspection.
async fn until_forked(parent: &Parent, call: Call) {
    let end = Instant::now() + LIMIT;
    let lock = parent.node.lock("kept").unwrap();
    let limited = parent.node.lock("limited").unwrap().hold_at_most(ms(20));
    while CHILD.load(SeqCst) == 0 {
        assert!(Instant::now() < end, "{call:?} is not called");
        match call {
            Call::Waker => {
                let before = WAKES.load(SeqCst);
                let mut waits = Box::pin(lock.acquire_timeout(ms(20)));
                assert!(poll(waits.as_mut()).is_pending());
                while WAKES.load(SeqCst) == before {
                    tokio::time::sleep(ms(1)).await;
                }
            }
            Call::Lost => {
                let guard = limited.acquire().await.unwrap();
                while guard.is_valid() {
                    tokio::time::sleep(ms(1)).await;
                }
                // The driver notices it: the guard is kept until it has.
                while CHILD.load(SeqCst) == 0 && Instant::now() < end {
                    tokio::time::sleep(ms(1)).await;
                }
            }
            Call::Inspected => drop(parent.node.inspect("inspected").await),
            _ => tokio::time::sleep(ms(1)).await,
        }
    }
}

const BY_THE_DRIVER: [Call; 6] =
    [Call::Renewed, Call::Transport, Call::Finished, Call::Waker, Call::Lost, Call::Inspected];

/// The child has this thread alone, which stays where it is: its loop is that of the parent, too.
#[test]
fn on_the_background_thread() {
    let name = "fork_in_callbacks::on_the_background_thread";
    alone(name, 8 * LIMIT, || {
        begin();
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let parent = runtime.block_on(Parent::new());
        for call in BY_THE_DRIVER {
            NEXT.store(code(call, true), SeqCst);
            runtime.block_on(until_forked(&parent, call));
            assert_eq!(wait_for_child(), None, "{call:?}: it has ended");
            // SAFETY: our own child, not yet waited for.
            unsafe { libc::kill(CHILD.load(SeqCst), libc::SIGKILL) };
            let end = Instant::now() + LIMIT;
            while wait_for_child().is_none() {
                assert!(Instant::now() < end, "it is not killed");
                thread::yield_now();
            }
            parent.is_well(call);
        }
        parent.goes_on(Call::Inspected);
    });
}
