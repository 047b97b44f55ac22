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
//!
//! A future may be kept and never polled again, and a thread may be stopped. So a grant can be taken
//! back ([`WaitQueue::take_back`]), and a waiter that is first and does nothing can be passed over
//! ([`WaitQueue::pass_over_first`]). Such a waiter is *absent*: it gets no grant. When it polls, it
//! waits again at its old place ([`WaitQueue::rejoin`]), unless its timeout has passed.

// The loom models have a stand-in for it.
use super::Time;
use std::collections::VecDeque;
use std::task::{Poll, Waker};

/// Identifies a waiter. No two waiters of one queue ever have the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaiterId(u64);

/// What a waiter has said of itself when it joined.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct WaiterTerms {
    /// It is a thread: it spins after a wake-up while it is first in the queue.
    pub(crate) spins: bool,
    /// It gives up at this moment, if it has a timeout.
    pub(crate) gives_up_at: Option<Time>,
    /// It wants a lease of its own, which is never renewed.
    pub(crate) without_renewal: bool,
}

/// A waiter that has no result yet, or that is absent.
#[derive(Debug)]
struct QueuedWaiter {
    waiter_id: WaiterId,
    terms: WaiterTerms,
    /// `None` while it is absent and was woken.
    waker: Option<Waker>,
    /// It was woken by [`WaitQueue::wake_next`] and has not polled since.
    is_woken: bool,
}

/// A waiter that has a result and has not taken it.
#[derive(Debug)]
struct ServedWaiter<G, E> {
    waiter_id: WaiterId,
    terms: WaiterTerms,
    result: Result<G, E>,
}

/// The waiters of a key. Each gets a `G` (a grant) or an `E` (an error), or leaves.
#[derive(Debug)]
pub(crate) struct WaitQueue<G, E> {
    /// The waiters without a result, by ascending id: the one that has waited longest is first.
    waiting: VecDeque<QueuedWaiter>,
    /// The results that were not taken yet, by ascending id.
    results: VecDeque<ServedWaiter<G, E>>,
    /// The waiters that get nothing until they poll, by ascending id.
    absent: VecDeque<QueuedWaiter>,
    /// The next id.
    next: u64,
}

impl<G, E> WaitQueue<G, E> {
    pub(crate) fn new() -> Self {
        let (waiting, results, absent) = (VecDeque::new(), VecDeque::new(), VecDeque::new());
        Self { waiting, results, absent, next: 0 }
    }

    /// Appends a waiter.
    pub(crate) fn join(&mut self, waker: &Waker, terms: WaiterTerms) -> WaiterId {
        let waiter_id = self.waiter_id();
        let waker = Some(waker.clone());
        self.waiting.push_back(QueuedWaiter { waiter_id, terms, waker, is_woken: false });
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
        if let Some(served) = take(&mut self.results, waiter_id, |served| served.waiter_id) {
            return Poll::Ready(served.result);
        }
        if let Ok(at) = self.waiting.binary_search_by_key(&waiter_id, |waiter| waiter.waiter_id)
            && let Some(waiter) = self.waiting.get_mut(at)
        {
            waiter.is_woken = false;
            if !waiter.waker.as_ref().is_some_and(|known| known.will_wake(waker)) {
                *old = waiter.waker.replace(waker.clone());
            }
        }
        Poll::Pending
    }

    /// Whether this waiter is absent.
    pub(crate) fn is_absent(&self, waiter_id: WaiterId) -> bool {
        self.absent.binary_search_by_key(&waiter_id, |waiter| waiter.waiter_id).is_ok()
    }

    /// An absent waiter polls: it waits again at its old place, unless its timeout has passed. The
    /// caller polls it next. Returns whether it was absent and waits now.
    pub(crate) fn rejoin(&mut self, waiter_id: WaiterId, now: impl FnOnce() -> Time) -> bool {
        let Ok(at) = self.absent.binary_search_by_key(&waiter_id, |waiter| waiter.waiter_id) else {
            return false;
        };
        let gives_up_at = self.absent.get(at).and_then(|waiter| waiter.terms.gives_up_at);
        if gives_up_at.is_some_and(|at| now() >= at) {
            return false;
        }
        let waiter = self.absent.remove(at);
        waiter.into_iter().for_each(|waiter| insert(&mut self.waiting, waiter, |it| it.waiter_id));
        true
    }

    /// Removes a waiter, and puts its waker into `old`. Returns the grant that it has not taken, if
    /// there is one: the caller has to pass it on.
    #[must_use]
    pub(crate) fn leave(&mut self, waiter_id: WaiterId, old: &mut Option<Waker>) -> Option<G> {
        if let Some(served) = take(&mut self.results, waiter_id, |served| served.waiter_id) {
            return served.result.ok();
        }
        let waiting = take(&mut self.waiting, waiter_id, |waiter| waiter.waiter_id);
        let gone = waiting.or_else(|| take(&mut self.absent, waiter_id, |waiter| waiter.waiter_id));
        *old = gone.and_then(|waiter| waiter.waker);
        None
    }

    /// Grants to the first waiter, and returns its waker. Returns `None`, without a call of `make`,
    /// if nobody waits.
    #[must_use]
    pub(crate) fn grant(&mut self, make: impl FnOnce(WaiterId) -> G) -> Option<Waker> {
        let QueuedWaiter { waiter_id, terms, waker, .. } = self.waiting.pop_front()?;
        let result = Ok(make(waiter_id));
        insert(&mut self.results, ServedWaiter { waiter_id, terms, result }, |it| it.waiter_id);
        waker
    }

    /// The terms of a waiter that has a grant and has not taken it.
    pub(crate) fn untaken(&self, waiter_id: WaiterId) -> Option<WaiterTerms> {
        let at = self.results.binary_search_by_key(&waiter_id, |served| served.waiter_id).ok()?;
        self.results.get(at).filter(|served| served.result.is_ok()).map(|served| served.terms)
    }

    /// Takes the grant of this waiter back. The waiter is absent from now on; or it gets `error`, if
    /// that is given.
    pub(crate) fn take_back(&mut self, waiter_id: WaiterId, error: Option<E>) {
        let Some(mut served) = take(&mut self.results, waiter_id, |it| it.waiter_id) else {
            return;
        };
        if let Some(error) = error {
            served.result = Err(error);
            return insert(&mut self.results, served, |it| it.waiter_id);
        }
        // Its waker was called when it got the grant.
        let absent = QueuedWaiter { waiter_id, terms: served.terms, waker: None, is_woken: true };
        insert(&mut self.absent, absent, |it| it.waiter_id);
    }

    /// Passes the first waiter over: it is absent from now on.
    pub(crate) fn pass_over_first(&mut self) {
        let first = self.waiting.pop_front();
        first.into_iter().for_each(|waiter| insert(&mut self.absent, waiter, |it| it.waiter_id));
    }

    /// Passes over the waiters at the front whose timeout has passed.
    pub(crate) fn pass_over_late(&mut self, now: Time) {
        let is_late = |waiter: &QueuedWaiter| waiter.terms.gives_up_at.is_some_and(|at| now >= at);
        while self.waiting.front().is_some_and(is_late) {
            self.pass_over_first();
        }
    }

    /// The waker of the first waiter if that is a thread, so that it spins or polls again. `None`
    /// if it was woken by this method before and has not polled since.
    #[must_use]
    pub(crate) fn wake_next(&mut self) -> Option<Waker> {
        let first = self.waiting.front_mut().filter(|waiter| waiter.terms.spins)?;
        let is_new = !std::mem::replace(&mut first.is_woken, true);
        first.waker.clone().filter(|_| is_new)
    }

    /// Whether the first waiter is a thread.
    pub(crate) fn is_led_by_thread(&self) -> bool {
        self.waiting.front().is_some_and(|waiter| waiter.terms.spins)
    }

    /// Gives the first waiter this error, and returns its waker.
    #[must_use]
    pub(crate) fn fail_first(&mut self, error: E) -> Option<Waker> {
        let QueuedWaiter { waiter_id, terms, waker, .. } = self.waiting.pop_front()?;
        let result = Err(error);
        insert(&mut self.results, ServedWaiter { waiter_id, terms, result }, |it| it.waiter_id);
        waker
    }

    /// Gives all waiters this error, and returns their wakers. Absent waiters wait on.
    #[must_use]
    pub(crate) fn fail_all(&mut self, error: &E) -> Vec<Waker>
    where
        E: Clone,
    {
        let mut wakers = vec![];
        while !self.waiting.is_empty() {
            wakers.extend(self.fail_first(error.clone()));
        }
        wakers
    }

    /// Gives all waiters this error, absent ones and those with an untaken grant included, and returns
    /// the wakers.
    #[must_use]
    pub(crate) fn close(&mut self, error: &E) -> Vec<Waker>
    where
        E: Clone,
    {
        for served in self.results.iter_mut().filter(|served| served.result.is_ok()) {
            served.result = Err(error.clone());
        }
        for waiter in std::mem::take(&mut self.absent) {
            insert(&mut self.waiting, waiter, |it| it.waiter_id);
        }
        self.fail_all(error)
    }

    /// The waiter that has waited longest.
    pub(crate) fn first(&self) -> Option<WaiterId> {
        self.waiting.front().map(|waiter| waiter.waiter_id)
    }

    /// What the waiter that has waited longest has said of itself.
    pub(crate) fn first_terms(&self) -> Option<WaiterTerms> {
        self.waiting.front().map(|waiter| waiter.terms)
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
        self.is_empty() && self.results.is_empty() && self.absent.is_empty()
    }
}

/// Adds an entry to a list that is sorted by id. Nearly always it belongs at the end: a new waiter has
/// the largest id, and results are given to the first waiter. Only an absent waiter comes late.
fn insert<T>(list: &mut VecDeque<T>, entry: T, id_of: impl Fn(&T) -> WaiterId) {
    let id = id_of(&entry);
    let at = match list.back() {
        Some(last) if id_of(last) > id => list.partition_point(|other| id_of(other) < id),
        _ => list.len(),
    };
    list.insert(at, entry);
}

/// Removes the entry of this waiter from a list that is sorted by id.
fn take<T>(
    list: &mut VecDeque<T>,
    waiter_id: WaiterId,
    id_of: impl Fn(&T) -> WaiterId,
) -> Option<T> {
    list.binary_search_by_key(&waiter_id, id_of).ok().and_then(|at| list.remove(at))
}

#[cfg(test)]
mod tests {
    use super::{Time, WaitQueue, WaiterTerms};
    use std::task::{Poll, Waker};
    use std::time::Duration;

    const TASK: WaiterTerms =
        WaiterTerms { spins: false, gives_up_at: None, without_renewal: false };
    const THREAD: WaiterTerms = WaiterTerms { spins: true, ..TASK };

    #[test]
    fn nothing_piles_up_behind_a_waiter_that_stays() {
        let mut wait_queue = WaitQueue::<u32, u32>::new();
        let mut old = None;
        wait_queue.join(Waker::noop(), TASK);
        drop(wait_queue.fail_first(1));
        for n in 0..1000 {
            let waiter_id = wait_queue.join(Waker::noop(), TASK);
            drop(wait_queue.grant(|_| n));
            assert!(wait_queue.poll(waiter_id, Waker::noop(), &mut old).is_ready());
        }
        // Nor behind a waiter without a result, while others give up.
        wait_queue.join(Waker::noop(), TASK);
        for _ in 0..1000 {
            let waiter_id = wait_queue.join(Waker::noop(), TASK);
            assert_eq!(wait_queue.leave(waiter_id, &mut old), None);
        }
        assert_eq!((wait_queue.waiting.len(), wait_queue.results.len()), (1, 1));
    }

    #[test]
    fn only_a_thread_that_is_first_is_woken_and_once_until_it_polls() {
        let mut wait_queue = WaitQueue::<u32, u32>::new();
        assert!(wait_queue.wake_next().is_none());
        wait_queue.join(Waker::noop(), TASK);
        let second = wait_queue.join(Waker::noop(), THREAD);
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
            (wait_queue.join(Waker::noop(), TASK), wait_queue.join(Waker::noop(), TASK));
        drop(wait_queue.grant(|_| 1));
        drop(wait_queue.grant(|_| 2));
        assert!(wait_queue.poll(first, Waker::noop(), &mut old).is_ready());
        assert!(wait_queue.poll(second, Waker::noop(), &mut old).is_ready());
    }

    #[test]
    fn a_waiter_whose_grant_was_taken_back_keeps_its_place() {
        let mut wait_queue = WaitQueue::<u32, u32>::new();
        let now = || Time::new(Duration::from_secs(1));
        let ids: [_; 4] = std::array::from_fn(|_| wait_queue.join(Waker::noop(), TASK));
        let poll = |queue: &mut WaitQueue<u32, u32>, n: usize| {
            queue.rejoin(ids[n], now);
            queue.poll(ids[n], Waker::noop(), &mut None)
        };
        for n in [0, 1] {
            drop(wait_queue.grant(|_| 7));
            assert!(wait_queue.untaken(ids[n]).is_some());
            wait_queue.take_back(ids[n], None);
            assert!(wait_queue.untaken(ids[n]).is_none());
        }
        drop(wait_queue.grant(|_| 2));
        assert_eq!((wait_queue.first(), wait_queue.len()), (Some(ids[3]), 1));
        // It is before those that joined later, and its result is found beside theirs.
        assert_eq!(poll(&mut wait_queue, 1), Poll::Pending);
        assert_eq!(poll(&mut wait_queue, 0), Poll::Pending);
        assert_eq!((wait_queue.first(), wait_queue.len()), (Some(ids[0]), 3));
        drop(wait_queue.grant(|_| 0));
        drop(wait_queue.fail_first(1));
        assert_eq!(poll(&mut wait_queue, 2), Poll::Ready(Ok(2)));
        assert_eq!(poll(&mut wait_queue, 0), Poll::Ready(Ok(0)));
        assert_eq!(poll(&mut wait_queue, 1), Poll::Ready(Err(1)));
        assert_eq!(wait_queue.first(), Some(ids[3]));
    }

    #[test]
    fn a_waiter_whose_timeout_has_passed_gets_nothing() {
        let mut wait_queue = WaitQueue::<u32, u32>::new();
        let at = |ms| Time::new(Duration::from_millis(ms));
        let limited = |ms| WaiterTerms { gives_up_at: Some(at(ms)), ..TASK };
        let first = wait_queue.join(Waker::noop(), limited(300));
        let second = wait_queue.join(Waker::noop(), limited(400));
        wait_queue.pass_over_late(at(299));
        assert_eq!(wait_queue.first(), Some(first));
        wait_queue.pass_over_late(at(300));
        assert_eq!(wait_queue.first(), Some(second));
        assert!(!wait_queue.rejoin(first, || at(300)), "it has timed out");
        assert!(wait_queue.poll(first, Waker::noop(), &mut None).is_pending());
        assert_eq!(wait_queue.leave(first, &mut None), None);
        drop(wait_queue.grant(|_| 1));
        wait_queue.take_back(second, None);
        assert_eq!(wait_queue.leave(second, &mut None), None);
        assert!(wait_queue.is_deserted());
    }
}
