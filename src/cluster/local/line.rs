//! Who waits, in the order in which they came; tasks and threads alike.
//!
//! All of it is under the mutex of the key. A waiter is known by its [`Ticket`] and woken by its
//! [`Waker`], which is taken out under the mutex, and called or dropped outside of it: either may
//! run code that is not ours, which may want the same mutex.
//!
//! What is granted lies in the line until the waiter fetches it. A waiter that leaves before that
//! gets it out ([`Line::leave`]) and has to pass it on, so it is never lost.

use std::collections::VecDeque;
use std::task::{Poll, Waker};

/// The place of one waiter. No two waiters of a line have the same, ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

/// The waiters of a key: each gets a `G`, or an `E`, or leaves.
#[derive(Debug)]
pub(crate) struct Line<G, E> {
    slots: VecDeque<Slot>,
    /// The number of the first slot's ticket.
    first: u64,
    /// How many slots are [`Slot::Waiting`].
    waiting: usize,
    /// What was told and not fetched yet, by ticket.
    told: VecDeque<(Ticket, Result<G, E>)>,
}

#[derive(Debug)]
enum Slot {
    Waiting(Waker),
    /// It was told, or left.
    Gone,
}

impl<G, E> Line<G, E> {
    pub(crate) fn new() -> Self {
        Self { slots: VecDeque::new(), first: 0, waiting: 0, told: VecDeque::new() }
    }

    /// Joins at the end.
    pub(crate) fn join(&mut self, waker: &Waker) -> Ticket {
        self.slots.push_back(Slot::Waiting(waker.clone()));
        self.waiting += 1;
        Ticket(self.first + (self.slots.len() as u64 - 1))
    }

    /// What this waiter has got, once; until then `waker` is the one that is called. The one before
    /// is put into `old`.
    ///
    /// After that the ticket is void.
    pub(crate) fn poll(
        &mut self,
        ticket: Ticket,
        waker: &Waker,
        old: &mut Option<Waker>,
    ) -> Poll<Result<G, E>> {
        if let Some(result) = self.fetch(ticket) {
            return Poll::Ready(result);
        }
        if let Some(Slot::Waiting(known)) = self.slot(ticket)
            && !known.will_wake(waker)
        {
            *old = Some(std::mem::replace(known, waker.clone()));
        }
        Poll::Pending
    }

    fn fetch(&mut self, ticket: Ticket) -> Option<Result<G, E>> {
        let at = self.told.binary_search_by_key(&ticket, |(to, _)| *to).ok()?;
        self.told.remove(at).map(|(_, result)| result)
    }

    /// This waiter does not wait any more. Returns what it was granted and has not fetched: the
    /// caller has to pass it on. Its waker is put into `old`.
    #[must_use]
    pub(crate) fn leave(&mut self, ticket: Ticket, old: &mut Option<Waker>) -> Option<G> {
        if let Some(result) = self.fetch(ticket) {
            return result.ok();
        }
        if let Some(slot) = self.slot(ticket) {
            if let Slot::Waiting(waker) = std::mem::replace(slot, Slot::Gone) {
                *old = Some(waker);
                self.waiting -= 1;
            }
            self.trim();
        }
        None
    }

    /// Grants to the one that has waited longest, and returns how to wake it. `None`, and nothing
    /// is made, if nobody waits.
    #[must_use]
    pub(crate) fn grant(&mut self, make: impl FnOnce(Ticket) -> G) -> Option<Waker> {
        let (ticket, waker) = self.take_first()?;
        self.told.push_back((ticket, Ok(make(ticket))));
        Some(waker)
    }

    /// Tells the one that has waited longest that it does not get it.
    #[must_use]
    pub(crate) fn fail_first(&mut self, error: E) -> Option<Waker> {
        let (ticket, waker) = self.take_first()?;
        self.told.push_back((ticket, Err(error)));
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
    pub(crate) fn first(&self) -> Option<Ticket> {
        let at = self.slots.iter().position(|slot| matches!(slot, Slot::Waiting(_)))?;
        Some(Ticket(self.first + at as u64))
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.waiting
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.waiting == 0
    }

    /// Whether nobody waits and nobody has anything to fetch.
    pub(crate) fn is_deserted(&self) -> bool {
        self.slots.is_empty() && self.told.is_empty()
    }

    fn slot(&mut self, ticket: Ticket) -> Option<&mut Slot> {
        let at = usize::try_from(ticket.0.checked_sub(self.first)?).ok()?;
        self.slots.get_mut(at)
    }

    /// Puts something else in the place of the one that has waited longest.
    fn take_first(&mut self) -> Option<(Ticket, Waker)> {
        let ticket = self.first()?;
        let slot = std::mem::replace(self.slot(ticket)?, Slot::Gone);
        let Slot::Waiting(waker) = slot else { return None };
        self.waiting -= 1;
        self.trim();
        Some((ticket, waker))
    }

    /// Forgets the places at the front that nobody needs.
    fn trim(&mut self) {
        while let Some(Slot::Gone) = self.slots.front() {
            self.slots.pop_front();
            self.first += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Line;
    use std::task::Waker;

    #[test]
    fn places_behind_a_failure_that_nobody_fetches() {
        let mut line = Line::<u32, u32>::new();
        let mut old = None;
        line.join(Waker::noop());
        drop(line.fail_first(1));
        for n in 0..1000 {
            let ticket = line.join(Waker::noop());
            drop(line.grant(|_| n));
            assert!(line.poll(ticket, Waker::noop(), &mut old).is_ready());
        }
        assert!(line.slots.len() < 10, "{} slots", line.slots.len());
    }

    #[test]
    fn granted_anew_before_it_was_fetched() {
        let mut line = Line::<u32, u32>::new();
        let mut old = None;
        let (first, second) = (line.join(Waker::noop()), line.join(Waker::noop()));
        drop(line.grant(|_| 1));
        drop(line.grant(|_| 2));
        assert!(line.poll(first, Waker::noop(), &mut old).is_ready());
        assert!(line.poll(second, Waker::noop(), &mut old).is_ready());
    }
}
