//! Forks: what a child of a node's process finds.
//!
//! A child has copies of its parent's nodes, locks, guards and futures, and none of its threads. It is out
//! at once: no guard is valid, each call ends at its first poll, and whatever it drops, its parent goes on
//! as if nothing had happened.
//!
//! There is one process in reality, so a [`virtual_child`] uses the parent's own objects at the moment of
//! the fork. That may be in the middle of a poll of the parent, which then holds mutexes: a child that
//! locks one waits for ever. The parent's rules show whether the child has changed anything; that it sends no
//! request, wakes no task, sets no timer and tells the observer nothing is checked where it would do so, and
//! that it drops nothing of the parent's, by the numbers of owners.

use super::users::User;
use super::world::World;
use crate::cluster::error::{LockError, ReleaseError};
use crate::cluster::guard::{DistributedGuard, LossReason};
use crate::cluster::key::Key;
use crate::cluster::local::{HoldLimits, WaitMode};
use crate::cluster::lock::DistributedLock;
use crate::cluster::node::{Node, NodeShared, Shutdown};
use crate::cluster::process::virtual_child;
use futures_util::FutureExt;
use std::future::{Future, poll_fn};
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

/// An object of the parent, of which a real child has its own copy.
struct Parents<T> {
    object: Arc<T>,
    /// How many owners it has in the parent.
    owners: usize,
}

impl<T> Parents<T> {
    fn new(all: impl Iterator<Item = Arc<T>>) -> Vec<Self> {
        // All are here before they are counted.
        let all: Vec<_> = all.collect();
        let count = |object| Self { owners: Arc::strong_count(&object), object };
        all.into_iter().map(count).collect()
    }

    /// The child has ended, and with it what it has leaked. Returns whether it has dropped the object.
    fn was_dropped(&self) -> bool {
        let (object, now) = (Arc::as_ptr(&self.object), Arc::strong_count(&self.object));
        for _ in self.owners..now {
            // SAFETY: it comes from an `Arc`, of which `self` is one owner and the child has leaked another.
            unsafe { Arc::decrement_strong_count(object) };
        }
        for _ in now..self.owners {
            // SAFETY: as above. This owner is in the parent, and the child has dropped its count.
            unsafe { Arc::increment_strong_count(object) };
        }
        now < self.owners
    }
}

impl World {
    /// The process of a node forks, and the child tries all it can. It is called at any moment at which
    /// the rules may be called, also in the middle of a poll.
    pub(super) fn fork(&self, node: usize) {
        let Some(handle) = self.handle(node) else { return };
        self.record(format_args!("{node} forks"));
        let checks = self.checks.lock();
        let of_node = checks.guards.iter().filter(|held| held.node == node);
        let guards: Vec<_> = of_node.map(|held| held.guard.clone()).collect();
        drop(checks);
        let parts = || guards.iter().map(|guard| guard.shared_parts());
        let keys = Parents::new(parts().map(|(_, key, _)| key.clone()));
        let leases = Parents::new(parts().map(|(.., lease)| lease.clone()));
        self.in_child(node, handle.shared(), || {
            for guard in &guards {
                self.check_guard_in_child(node, guard);
            }
            self.check_node_in_child(node, &handle, &self.keys[0]);
            let mut cx = Context::from_waker(Waker::noop());
            self.expect_in_child(node, "the driver", self.poll_driver(node, &mut cx).is_pending());
        });
        // Not `any`: each has to be looked at.
        let dropped = keys.iter().filter(|key| key.was_dropped()).count()
            + leases.iter().filter(|lease| lease.was_dropped()).count();
        self.expect_in_child(node, "a guard's drop", dropped == 0);
    }

    /// Runs this as the code of a child of a node's process.
    fn in_child(&self, node: usize, shared: &Arc<NodeShared>, code: impl FnOnce()) {
        let parents = Parents::new([shared.clone()].into_iter());
        virtual_child::run(code);
        let dropped = parents.iter().filter(|shared| shared.was_dropped()).count();
        self.expect_in_child(node, "the drop of something", dropped == 0);
    }

    fn expect_in_child(&self, node: usize, what: &str, is_right: bool) {
        if !is_right {
            self.violate(format!("{what} in a child of {node} does what it must not"));
        }
    }

    fn check_guard_in_child(&self, node: usize, guard: &DistributedGuard) {
        let expect = |what: &str, is_right| self.expect_in_child(node, what, is_right);
        expect("is_valid", !guard.is_valid());
        expect("remaining", guard.remaining().is_zero());
        expect("lost", guard.lost().now_or_never() == Some(LossReason::Closed));
        // SAFETY: the destructor of a guard leaks what the guard shares. If it does not, `fork` makes up
        // for it.
        let [copy, other] = [(); 2].map(|()| unsafe { virtual_child::copy_of(guard) });
        drop(copy);
        let released = other.release().now_or_never();
        let is_lost = |result: Result<(), ReleaseError>| {
            matches!(result, Err(ReleaseError::Lost { why: LossReason::Closed, .. }))
        };
        expect("release", released.is_some_and(is_lost));
    }

    fn check_node_in_child(&self, node: usize, handle: &Node, key: &Key) {
        let expect = |what: &str, is_right| self.expect_in_child(node, what, is_right);
        let lock = handle.lock(key.clone()).expect("the key is valid");
        self.check_lock_in_child(node, &lock);
        let bounded = lock.clone().hold_at_most(Duration::from_secs(1)).without_renewal();
        expect("a bounded acquire", is_closed(bounded.acquire()));
        expect("inspect", is_closed(handle.inspect(key)));
        expect("break_lock", is_closed(handle.break_lock(key)));
        expect("shutdown", handle.shutdown().now_or_never() == Some(Shutdown::default()));
        expect("what a node knows", handle.keys() + handle.waiting(key.as_str()) == 0);
        let blocking = handle.blocking();
        let of_thread = blocking.lock(key.clone()).expect("the key is valid");
        expect("a thread's acquire", is_closed_error(&of_thread.acquire()));
        expect("a thread's try", is_closed_error(&of_thread.try_acquire()));
        expect("a thread's inspect", is_closed_error(&blocking.inspect(key)));
        expect("a thread's shutdown", blocking.shutdown() == Shutdown::default());
        // The child has nothing more of the node.
        // SAFETY: the destructor of the last handle leaks what is shared. If it does not, `in_child` makes
        // up for it.
        drop(Node::new(unsafe { virtual_child::copy_of(handle.shared()) }));
        // What the child has made itself ends with it, too.
        let made = [&lock.handle, &of_thread.lock.handle].map(|handle| handle.local.clone());
        drop((of_thread, bounded, lock));
        for object in made {
            Parents { object, owners: 1 }.was_dropped();
        }
    }

    fn check_lock_in_child(&self, node: usize, lock: &DistributedLock) {
        let expect = |what: &str, is_right| self.expect_in_child(node, what, is_right);
        expect("acquire", is_closed(lock.acquire()));
        expect("try_acquire", is_closed(lock.try_acquire()));
        expect("try_acquire_or_outlast", is_closed(lock.try_acquire_or_outlast()));
        expect("acquire_timeout", is_closed(lock.acquire_timeout(Duration::from_secs(1))));
    }
}

impl User {
    /// Acquires the lock, while its process forks: the child has the lock and the future, too.
    pub(super) async fn acquire_and_fork(
        &self,
        mode: WaitMode,
        limits: HoldLimits,
    ) -> Result<DistributedGuard, LockError> {
        let (world, node, lock) = (&self.world, self.node, self.lock());
        let mut acquire = lock.handle.acquire(mode, limits);
        let polled = poll_fn(|cx| Poll::Ready(acquire.poll_unpin(cx))).await;
        if let Poll::Ready(result) = polled {
            return result;
        }
        world.record(format_args!("{node} forks, and {self} waits"));
        let keys = Parents::new([lock.handle.local.clone()].into_iter());
        world.in_child(node, &lock.handle.shared, || {
            // SAFETY: what the futures and the lock share is leaked by their destructors. If it is not,
            // it is made up for here.
            let [future, polled] = [(); 2].map(|()| unsafe { virtual_child::copy_of(&acquire) });
            world.expect_in_child(node, "a future that waits", is_closed(polled));
            drop(future);
            // SAFETY: as above.
            let lock = unsafe { virtual_child::copy_of(lock) };
            world.check_lock_in_child(node, &lock);
        });
        let is_dropped = keys.iter().any(Parents::was_dropped);
        world.expect_in_child(node, "a lock's drop", !is_dropped);
        acquire.await
    }
}

/// Whether a call ends at its first poll, as it has to in a child.
fn is_closed<T>(call: impl Future<Output = Result<T, LockError>>) -> bool {
    call.now_or_never().is_some_and(|result| is_closed_error(&result))
}

fn is_closed_error<T>(result: &Result<T, LockError>) -> bool {
    matches!(result, Err(LockError::Closed { .. }))
}
