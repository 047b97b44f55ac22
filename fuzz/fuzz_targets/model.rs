//! The sequential model: who holds each lock, and what every actor is about.
//!
//! A release takes effect when its command is sent, an acquisition when it is reported; so an
//! acquisition of a lock that the model has as held is a failure of mutual exclusion. What the
//! model cannot know is whether a timeout has come already: one who waits with a timeout *may*
//! take the lock when it is free, while the others *must*.

use crate::actor::Response;
use crate::step::{ACTORS, LOCKS};
use std::time::Duration;

/// What the model has to say against an response.
pub type Verdict = Result<(), String>;

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Owner {
    #[default]
    Free,
    Actor(usize),
    /// The guard was forgotten.
    Nobody,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub enum Activity {
    #[default]
    Idle,
    /// In an operation that ends only with the lock.
    Locking(usize),
    /// In a timed lock operation; `met_holder`: the lock was held at some time since.
    TryingFor { lock: usize, timeout: Duration, met_holder: bool },
    /// In a wait on the lock's condition variable.
    Waiting { lock: usize, timeout: Option<Duration> },
}

#[derive(Debug, Default)]
pub struct Lock {
    pub owner: Owner,
    pub value: u64,
    /// Of those in a wait, how many were notified and have not come back.
    notified: usize,
    /// A try failed though the model knows of no holder: one must come forward.
    holder_due: bool,
    /// A wait began, and nothing has shown yet that it has released the lock.
    pub release_due: bool,
}

#[derive(Debug, Default)]
pub struct Model {
    pub locks: [Lock; LOCKS],
    pub actors: [Activity; ACTORS],
}

impl Model {
    pub fn holds(&self, actor: usize, lock: usize) -> bool {
        self.locks[lock].owner == Owner::Actor(actor)
    }

    /// Whether `actor` may block on `lock`: only in the order of the locks, lest it deadlock.
    pub fn may_block(&self, actor: usize, lock: usize) -> bool {
        (lock + 1..LOCKS).all(|above| !self.holds(actor, above))
    }

    /// How many take `lock` when it is free: at least, and at most.
    fn takers(&self, lock: usize) -> (usize, usize) {
        let count = |wants: fn(&Activity, usize) -> bool| {
            self.actors.iter().filter(|activity| wants(activity, lock)).count()
        };
        let locking = count(|activity, lock| *activity == Activity::Locking(lock));
        let trying = count(|a, l| matches!(a, Activity::TryingFor { lock, .. } if *lock == l));
        let timed =
            count(|a, l| matches!(a, Activity::Waiting { lock, timeout: Some(_) } if *lock == l));
        let notified = self.locks[lock].notified;
        (locking + notified, locking + trying + notified.max(timed))
    }

    /// Waiters on the condition variable of `lock` that have not been notified: at least (those
    /// without a timeout), and at most.
    pub fn waiters(&self, lock: usize) -> (usize, usize) {
        let (mut untimed, mut all) = (0usize, 0usize);
        for activity in &self.actors {
            if let Activity::Waiting { lock: l, timeout } = activity
                && *l == lock
            {
                all += 1;
                untimed += usize::from(timeout.is_none());
            }
        }
        let notified = self.locks[lock].notified;
        (untimed.saturating_sub(notified), all.saturating_sub(notified))
    }

    /// Whether an response must come before the state of every lock is known again.
    pub fn response_due(&self) -> bool {
        (0..LOCKS).any(|n| {
            let lock = &self.locks[n];
            lock.holder_due || (lock.owner == Owner::Free && self.takers(n).0 > 0)
        })
    }

    /// What `is_locked` must say, where that is known.
    pub fn is_locked(&self, lock: usize) -> Option<bool> {
        match self.locks[lock].owner {
            Owner::Free if self.takers(lock).1 > 0 => None,
            owner => Some(owner != Owner::Free),
        }
    }

    /// Nobody holds a lock, or does anything.
    pub fn at_rest(&self) -> bool {
        self.actors == [Activity::Idle; ACTORS]
            && self.locks.iter().all(|lock| lock.owner == Owner::Free)
    }

    /// Someone waits for `lock` without a timeout, and not on its condition variable.
    pub fn someone_locking(&self, lock: usize) -> bool {
        self.actors.contains(&Activity::Locking(lock))
    }

    /// A timed lock operation begins.
    pub fn begin_trying(&mut self, actor: usize, lock: usize, timeout: Duration) {
        let met_holder = self.locks[lock].owner != Owner::Free;
        self.actors[actor] = Activity::TryingFor { lock, timeout, met_holder };
    }

    pub fn release(&mut self, lock: usize) {
        self.locks[lock].owner = Owner::Free;
    }

    fn acquire(&mut self, actor: usize, lock: usize, value: u64) -> Verdict {
        let held = &mut self.locks[lock];
        if held.owner != Owner::Free {
            return Err(format!("actor {actor} acquired lock {lock}, which is held"));
        }
        if held.value != value {
            return Err(format!("actor {actor} found {value} behind lock {lock}"));
        }
        held.owner = Owner::Actor(actor);
        held.holder_due = false;
        held.release_due = false;
        for activity in &mut self.actors {
            if let Activity::TryingFor { lock: l, met_holder, .. } = activity {
                *met_holder |= *l == lock;
            }
        }
        self.actors[actor] = Activity::Idle;
        Ok(())
    }

    /// A try that responses at once, or a timed one, has failed.
    fn refuse(&mut self, lock: usize, met_holder: bool) -> Verdict {
        if met_holder || self.locks[lock].owner != Owner::Free {
            return Ok(());
        }
        self.locks[lock].holder_due = true;
        match self.takers(lock) {
            (_, 0) => Err(format!("lock {lock} was refused, but it is free")),
            _ => Ok(()),
        }
    }

    /// The response to a `try_lock`.
    pub fn tried(&mut self, actor: usize, lock: usize, response: Response) -> Verdict {
        match response {
            Response::Acquired(value) => self.acquire(actor, lock, value),
            _ => self.refuse(lock, false),
        }
    }

    /// A notification has woken `woken`, and may have woken `limit`.
    pub fn notified(&mut self, lock: usize, woken: usize, limit: usize) -> Verdict {
        let (least, most) = self.waiters(lock);
        if woken < least.min(limit) || woken > most.min(limit) {
            return Err(format!("notified {woken} of {least} to {most} waiters"));
        }
        self.locks[lock].notified += woken;
        Ok(())
    }

    /// The response to an operation that may block.
    pub fn finished(&mut self, actor: usize, response: Response) -> Verdict {
        match (std::mem::take(&mut self.actors[actor]), response) {
            (Activity::Locking(lock), Response::Acquired(value))
            | (Activity::TryingFor { lock, .. }, Response::Acquired(value)) => {
                self.acquire(actor, lock, value)
            }
            (Activity::TryingFor { lock, timeout, met_holder }, Response::Refused(took)) => {
                if took < timeout {
                    return Err(format!("lock {lock} was refused early, after {took:?}"));
                }
                self.refuse(lock, met_holder)
            }
            (Activity::Waiting { lock, timeout }, Response::Waited { timed_out, value, took }) => {
                match (timed_out, timeout) {
                    (false, _) => match self.locks[lock].notified.checked_sub(1) {
                        Some(left) => self.locks[lock].notified = left,
                        None => return Err(format!("actor {actor} woke, but nobody notified")),
                    },
                    (true, Some(timeout)) if took >= timeout => {}
                    (true, _) => return Err(format!("actor {actor} timed out after {took:?}")),
                }
                self.acquire(actor, lock, value)?;
                self.check_notifications(lock)
            }
            (activity, response) => {
                Err(format!("actor {actor} answered {response:?} to {activity:?}"))
            }
        }
    }

    /// A notification that counted a waiter must end that waiter's wait.
    fn check_notifications(&self, lock: usize) -> Verdict {
        let on = |a: &&Activity| matches!(a, Activity::Waiting { lock: l, .. } if *l == lock);
        let waiting = self.actors.iter().filter(on).count();
        match self.locks[lock].notified <= waiting {
            true => Ok(()),
            false => Err(format!("a notification of lock {lock}'s condition variable was lost")),
        }
    }
}
