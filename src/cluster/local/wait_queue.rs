//! The tasks and threads that wait for one key at one node, in the order in which they joined.
//!
//! The whole queue is under the mutex of the key. A waiter is known by its [`WaiterId`] and is woken
//! by its [`Waker`]. A waker is cloned or moved out under the mutex, and called or dropped after the
//! mutex is released: either may run code of the user, which may lock the same mutex.
//!
//! A thread that is first in the queue spins for a moment, so that no wake-up is needed when its
//! turn comes. It has to be awake for that: see [`WaitQueue::wake_next`].
//!
//! A result (a grant or an error) stays in the queue until its waiter takes it by
//! [`WaitQueue::poll`]. A waiter that leaves before that gets an untaken grant back from
//! [`WaitQueue::leave`] and has to pass it on, so that no grant is lost.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

/// Identifies a waiter. No two waiters of one queue ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaiterId(u64);

/// A waiter that has no result yet.
#[derive(Debug)]
struct QueuedWaiter {
    waiter_id: WaiterId,
    waker: Waker,
    /// It is a thread: it spins after a wake-up while it is first in the queue.
    spins: bool,
    /// It was woken by [`WaitQueue::wake_next`] and has not polled since.
    is_woken: bool,
}

/// The waiters of a key. Each gets a `G` (a grant) or an `E` (an error), or leaves.
#[derive(Debug)]
pub(crate) struct WaitQueue<G, E> {
    /// The waiters without a result, by ascending id: the one that has waited longest is first.
    waiting: VecDeque<QueuedWaiter>,
    /// The results that were not taken yet, by ascending id.
    results: VecDeque<(WaiterId, Result<G, E>)>,
    /// The next id.
    next: u64,
}

impl<G, E> WaitQueue<G, E> {
    pub(crate) fn new() -> Self {
        Self { waiting: VecDeque::new(), results: VecDeque::new(), next: 0 }
    }

    /// Appends a waiter. `spins` says that it is a thread, which [`WaitQueue::wake_next`] may wake
    /// before it has a result.
    pub(crate) fn join(&mut self, waker: &Waker, spins: bool) -> WaiterId {
        let waiter_id = self.waiter_id();
        let waker = waker.clone();
        self.waiting.push_back(QueuedWaiter { waiter_id, waker, spins, is_woken: false });
        waiter_id
    }

    /// A new id, for a waiter that joins or for a user that does not have to wait.
    pub(crate) fn waiter_id(&mut self) -> WaiterId {
        self.next += 1;
        WaiterId(self.next - 1)
    }

    /// Takes the waiter's result; the id is void after that. While there is no result, `waker`
    /// becomes the one to call, the one before it is put into `old`, and [`WaitQueue::wake_next`]
    /// may wake the waiter once more.
    pub(crate) fn poll(
        &mut self,
        waiter_id: WaiterId,
        waker: &Waker,
        old: &mut Option<Waker>,
    ) -> Poll<Result<G, E>> {
        if let Some((_, result)) = take(&mut self.results, waiter_id, |(to, _)| *to) {
            return Poll::Ready(result);
        }
        if let Ok(at) = self.waiting.binary_search_by_key(&waiter_id, |waiter| waiter.waiter_id)
            && let Some(waiter) = self.waiting.get_mut(at)
        {
            waiter.is_woken = false;
            if !waiter.waker.will_wake(waker) {
                *old = Some(std::mem::replace(&mut waiter.waker, waker.clone()));
            }
        }
        Poll::Pending
    }

    /// Removes a waiter, and puts its waker into `old`. Returns the grant that it has not taken, if
    /// there is one: the caller has to pass it on.
    #[must_use]
    pub(crate) fn leave(&mut self, waiter_id: WaiterId, old: &mut Option<Waker>) -> Option<G> {
        if let Some((_, result)) = take(&mut self.results, waiter_id, |(to, _)| *to) {
            return result.ok();
        }
        *old = take(&mut self.waiting, waiter_id, |waiter| waiter.waiter_id)
            .map(|waiter| waiter.waker);
        None
    }

    /// Grants to the first waiter, and returns its waker. Returns `None`, without a call of `make`,
    /// if nobody waits.
    #[must_use]
    pub(crate) fn grant(&mut self, make: impl FnOnce(WaiterId) -> G) -> Option<Waker> {
        let QueuedWaiter { waiter_id, waker, .. } = self.waiting.pop_front()?;
        self.results.push_back((waiter_id, Ok(make(waiter_id))));
        Some(waker)
    }

    /// The waker of the first waiter if that is a thread, so that it spins or polls again. `None`
    /// if it was woken by this method before and has not polled since.
    #[must_use]
    pub(crate) fn wake_next(&mut self) -> Option<Waker> {
        let first = self.waiting.front_mut().filter(|waiter| waiter.spins)?;
        let is_new = !std::mem::replace(&mut first.is_woken, true);
        is_new.then(|| first.waker.clone())
    }

    /// Whether the first waiter is a thread.
    pub(crate) fn is_led_by_thread(&self) -> bool {
        self.waiting.front().is_some_and(|waiter| waiter.spins)
    }

    /// Gives the first waiter this error, and returns its waker.
    #[must_use]
    pub(crate) fn fail_first(&mut self, error: E) -> Option<Waker> {
        let QueuedWaiter { waiter_id, waker, .. } = self.waiting.pop_front()?;
        self.results.push_back((waiter_id, Err(error)));
        Some(waker)
    }

    /// Gives all waiters this error, and returns their wakers.
    #[must_use]
    pub(crate) fn fail_all(&mut self, error: &E) -> Vec<Waker>
    where
        E: Clone,
    {
        std::iter::from_fn(|| self.fail_first(error.clone())).collect()
    }

    /// The waiter that has waited longest.
    pub(crate) fn first(&self) -> Option<WaiterId> {
        self.waiting.front().map(|waiter| waiter.waiter_id)
    }

    /// The number of waiters without a result.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether every waiter has a result.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether there is neither a waiter nor an untaken result.
    pub(crate) fn is_deserted(&self) -> bool {
        self.is_empty() && self.results.is_empty()
    }
}

/// Removes the entry of this waiter. Both lists are sorted by id: a new waiter has the largest, and
/// results are given to the first waiter.
fn take<T>(
    list: &mut VecDeque<T>,
    waiter_id: WaiterId,
    id_of: impl Fn(&T) -> WaiterId,
) -> Option<T> {
    list.binary_search_by_key(&waiter_id, id_of).ok().and_then(|at| list.remove(at))
}

#[cfg(test)]
mod tests {
    use super::WaitQueue;
    use std::task::Waker;

    #[test]
    fn nothing_piles_up_behind_a_waiter_that_stays() {
        let mut wait_queue = WaitQueue::<u32, u32>::new();
        let mut old = None;
        wait_queue.join(Waker::noop(), false);
        drop(wait_queue.fail_first(1));
        for n in 0..1000 {
            let waiter_id = wait_queue.join(Waker::noop(), false);
            drop(wait_queue.grant(|_| n));
            assert!(wait_queue.poll(waiter_id, Waker::noop(), &mut old).is_ready());
        }
        // Nor behind a waiter without a result, while others give up.
        wait_queue.join(Waker::noop(), false);
        for _ in 0..1000 {
            let waiter_id = wait_queue.join(Waker::noop(), false);
            assert_eq!(wait_queue.leave(waiter_id, &mut old), None);
        }
        assert_eq!((wait_queue.waiting.len(), wait_queue.results.len()), (1, 1));
    }

    #[test]
    fn only_a_thread_that_is_first_is_woken_and_once_until_it_polls() {
        let mut wait_queue = WaitQueue::<u32, u32>::new();
        assert!(wait_queue.wake_next().is_none());
        wait_queue.join(Waker::noop(), false);
        let second = wait_queue.join(Waker::noop(), true);
        assert!(wait_queue.wake_next().is_none(), "the first is a task");
        drop(wait_queue.grant(|_| 1));
        assert!(wait_queue.wake_next().is_some());
        assert!(wait_queue.wake_next().is_none(), "it has not polled yet");
        assert!(wait_queue.poll(second, Waker::noop(), &mut None).is_pending());
        assert!(wait_queue.wake_next().is_some(), "it has polled");
        drop(wait_queue.grant(|_| 2));
        assert!(wait_queue.wake_next().is_none(), "it has a grant");
    }

    #[test]
    fn two_grants_may_lie_untaken_at_a_time() {
        let mut wait_queue = WaitQueue::<u32, u32>::new();
        let mut old = None;
        let (first, second) =
            (wait_queue.join(Waker::noop(), false), wait_queue.join(Waker::noop(), false));
        drop(wait_queue.grant(|_| 1));
        drop(wait_queue.grant(|_| 2));
        assert!(wait_queue.poll(first, Waker::noop(), &mut old).is_ready());
        assert!(wait_queue.poll(second, Waker::noop(), &mut old).is_ready());
    }
}
