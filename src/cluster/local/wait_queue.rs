//! Who waits, in the order in which they came; tasks and threads alike.
//!
//! All of it is under the mutex of the key. A waiter is known by its [`WaiterId`] and woken by its
//! [`Waker`], which is taken out under the mutex, and called or dropped outside of it: either may
//! run code that is not ours, which may want the same mutex.
//!
//! A thread that is the next in the queue spins for a moment, so that it need not be woken any more when
//! its turn comes. It has to be awake for that: [`WaitQueue::wake_next`].
//!
//! What is granted lies in the queue until the waiter fetches it. A waiter that leaves before that
//! gets it out ([`WaitQueue::leave`]) and has to pass it on, so it is never lost.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

/// The place of one waiter. No two waiters of a line have the same, ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct WaiterId(u64);

/// One that waits.
#[derive(Debug)]
struct Waiter {
    waiter_id: WaiterId,
    waker: Waker,
    /// It spins when it is woken, and is the next in the queue.
    spins: bool,
    /// It was woken to look, and has not looked since.
    is_woken: bool,
}

/// The waiters of a key: each gets a `G`, or an `E`, or leaves.
#[derive(Debug)]
pub(crate) struct WaitQueue<G, E> {
    /// Those who wait, by waiter id, the one that has waited longest first.
    waiting: VecDeque<Waiter>,
    /// What was told and not fetched yet, by waiter id.
    told: VecDeque<(WaiterId, Result<G, E>)>,
    /// The next one's waiter id.
    next: u64,
}

impl<G, E> WaitQueue<G, E> {
    pub(crate) fn new() -> Self {
        Self { waiting: VecDeque::new(), told: VecDeque::new(), next: 0 }
    }

    /// Joins at the end. `spins`: it is a thread, which is worth a warning that its turn is near, and may
    /// be told to look.
    pub(crate) fn join(&mut self, waker: &Waker, spins: bool) -> WaiterId {
        let waiter_id = self.waiter_id();
        let waker = waker.clone();
        self.waiting.push_back(Waiter { waiter_id, waker, spins, is_woken: false });
        waiter_id
    }

    /// A new waiter id: of one that joins, or of one that need not.
    pub(crate) fn waiter_id(&mut self) -> WaiterId {
        self.next += 1;
        WaiterId(self.next - 1)
    }

    /// What this waiter has got, once; until then `waker` is the one that is called. The one before
    /// is put into `old`. It has looked: what comes after this it is woken to anew.
    ///
    /// After that the waiter id is void.
    pub(crate) fn poll(
        &mut self,
        waiter_id: WaiterId,
        waker: &Waker,
        old: &mut Option<Waker>,
    ) -> Poll<Result<G, E>> {
        if let Some((_, result)) = take(&mut self.told, waiter_id, |(to, _)| *to) {
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

    /// This waiter does not wait any more. Returns what it was granted and has not fetched: the
    /// caller has to pass it on. Its waker is put into `old`.
    #[must_use]
    pub(crate) fn leave(&mut self, waiter_id: WaiterId, old: &mut Option<Waker>) -> Option<G> {
        if let Some((_, result)) = take(&mut self.told, waiter_id, |(to, _)| *to) {
            return result.ok();
        }
        *old = take(&mut self.waiting, waiter_id, |waiter| waiter.waiter_id)
            .map(|waiter| waiter.waker);
        None
    }

    /// Grants to the one that has waited longest, and returns how to wake it. `None`, and nothing
    /// is made, if nobody waits.
    #[must_use]
    pub(crate) fn grant(&mut self, make: impl FnOnce(WaiterId) -> G) -> Option<Waker> {
        let Waiter { waiter_id, waker, .. } = self.waiting.pop_front()?;
        self.told.push_back((waiter_id, Ok(make(waiter_id))));
        Some(waker)
    }

    /// How to wake the one that is the next now, to look, if it is one that spins; unless it was woken,
    /// and has yet to look.
    #[must_use]
    pub(crate) fn wake_next(&mut self) -> Option<Waker> {
        let first = self.waiting.front_mut().filter(|waiter| waiter.spins)?;
        let is_new = !std::mem::replace(&mut first.is_woken, true);
        is_new.then(|| first.waker.clone())
    }

    /// Whether the one that has waited longest is one that spins.
    pub(crate) fn is_led_by_thread(&self) -> bool {
        self.waiting.front().is_some_and(|waiter| waiter.spins)
    }

    /// Tells the one that has waited longest that it does not get it.
    #[must_use]
    pub(crate) fn fail_first(&mut self, error: E) -> Option<Waker> {
        let Waiter { waiter_id, waker, .. } = self.waiting.pop_front()?;
        self.told.push_back((waiter_id, Err(error)));
        Some(waker)
    }

    /// Tells so to all that wait.
    #[must_use]
    pub(crate) fn fail_all(&mut self, error: &E) -> Vec<Waker>
    where
        E: Clone,
    {
        std::iter::from_fn(|| self.fail_first(error.clone())).collect()
    }

    /// The one that has waited longest.
    pub(crate) fn first(&self) -> Option<WaiterId> {
        self.waiting.front().map(|waiter| waiter.waiter_id)
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Whether nobody waits and nobody has anything to fetch.
    pub(crate) fn is_deserted(&self) -> bool {
        self.is_empty() && self.told.is_empty()
    }
}

/// What is there for this waiter id, taken out. Both lists are in the order of waiter ids: who comes gets
/// the largest, and who is told is the first that waits.
fn take<T>(
    list: &mut VecDeque<T>,
    waiter_id: WaiterId,
    whose: impl Fn(&T) -> WaiterId,
) -> Option<T> {
    list.binary_search_by_key(&waiter_id, whose).ok().and_then(|at| list.remove(at))
}

#[cfg(test)]
mod tests {
    use super::WaitQueue;
    use std::task::Waker;

    #[test]
    fn nothing_piles_up_behind_one_that_stays() {
        let mut wait_queue = WaitQueue::<u32, u32>::new();
        let mut old = None;
        wait_queue.join(Waker::noop(), false);
        drop(wait_queue.fail_first(1));
        for n in 0..1000 {
            let waiter_id = wait_queue.join(Waker::noop(), false);
            drop(wait_queue.grant(|_| n));
            assert!(wait_queue.poll(waiter_id, Waker::noop(), &mut old).is_ready());
        }
        // Nor behind one that waits for long, while others give up.
        wait_queue.join(Waker::noop(), false);
        for _ in 0..1000 {
            let waiter_id = wait_queue.join(Waker::noop(), false);
            assert_eq!(wait_queue.leave(waiter_id, &mut old), None);
        }
        assert_eq!((wait_queue.waiting.len(), wait_queue.told.len()), (1, 1));
    }

    #[test]
    fn only_the_next_one_is_alerted_once_and_only_if_it_spins() {
        let mut wait_queue = WaitQueue::<u32, u32>::new();
        assert!(wait_queue.wake_next().is_none());
        wait_queue.join(Waker::noop(), false);
        let second = wait_queue.join(Waker::noop(), true);
        assert!(wait_queue.wake_next().is_none(), "the first is a task");
        drop(wait_queue.grant(|_| 1));
        assert!(wait_queue.wake_next().is_some());
        assert!(wait_queue.wake_next().is_none(), "it has not looked yet");
        assert!(wait_queue.poll(second, Waker::noop(), &mut None).is_pending());
        assert!(wait_queue.wake_next().is_some(), "it has looked");
        drop(wait_queue.grant(|_| 2));
        assert!(wait_queue.wake_next().is_none(), "it is granted");
    }

    #[test]
    fn granted_anew_before_it_was_fetched() {
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
