//! Sends the steps to the actors, and holds their responses against the model.

use crate::actor::{Command, Pool, Response, World};
use crate::model::{Activity, Model, Owner, Verdict};
use crate::step::{ACTORS, LOCKS, Operation, Step};
use lock_api::GuardNoSend;
use std::cell::RefCell;
use std::collections::VecDeque;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

/// No response in this time is a lost wake-up.
const LIMIT: Duration = Duration::from_secs(5);
/// Steps of a run; what the fuzzer says beyond them is left out.
const STEPS: usize = 100;

thread_local!(static POOL: RefCell<Pool> = RefCell::new(Pool::new()));

/// One run, with fresh locks, which ends with all of them free and all actors idle.
pub fn run(steps: &[Step]) {
    POOL.with_borrow_mut(|pool| {
        let world = Arc::<World>::default();
        pool.begin(&world);
        let mut controller = Controller {
            pool,
            world,
            model: Model::default(),
            early: VecDeque::new(),
            history: Vec::new(),
        };
        for step in steps.iter().take(STEPS) {
            controller.step(step);
        }
        controller.finish();
    });
}

struct Controller<'p> {
    pool: &'p mut Pool,
    world: Arc<World>,
    model: Model,
    /// Answers that came before that of the command in hand.
    early: VecDeque<(usize, Response)>,
    history: Vec<(usize, Command)>,
}

impl Controller<'_> {
    fn step(&mut self, step: &Step) {
        let (actor, lock) = (step.actor(), step.lock());
        if self.model.actors[actor] != Activity::Idle {
            if matches!(step.operation, Operation::Join) {
                self.join(actor);
            }
            return;
        }
        if self.choose(actor, lock, step.operation).is_some() {
            self.await_quiescence();
        }
    }

    /// Carries out an operation, if the actor can; `None` if it cannot.
    fn choose(&mut self, actor: usize, lock: usize, operation: Operation) -> Option<()> {
        let held = self.model.holds(actor, lock);
        let forgotten = self.model.locks[lock].owner == Owner::Nobody;
        let ordered = self.model.may_block(actor, lock);
        match operation {
            Operation::Lock if !held && ordered => self.lock(actor, lock, Command::Lock(lock)),
            Operation::LockForever if !held && ordered => {
                self.lock(actor, lock, Command::TryLockFor(lock, Duration::MAX));
            }
            Operation::TryLock => self.try_lock(actor, lock, Command::TryLock(lock)),
            Operation::TryLockUntilPast => {
                self.try_lock(actor, lock, Command::TryLockUntilPast(lock));
            }
            Operation::TryLockFor(timeout) => {
                let timeout = timeout.duration();
                self.model.begin_trying(actor, lock, timeout);
                self.send(actor, Command::TryLockFor(lock, timeout));
            }
            Operation::Write if held => {
                self.model.locks[lock].value += 1;
                self.prompt(actor, Command::Write(lock));
            }
            Operation::Unlock if held => self.unlock(actor, lock, Command::Unlock(lock), false),
            Operation::UnlockFair { parked } if held => {
                self.unlock(actor, lock, Command::UnlockFair(lock), parked);
            }
            Operation::Bump if held && ordered => {
                self.model.release(lock);
                self.lock(actor, lock, Command::Bump(lock));
            }
            Operation::Forget if held => {
                self.model.locks[lock].owner = Owner::Nobody;
                self.prompt(actor, Command::Forget(lock));
            }
            Operation::ForceUnlock if forgotten => {
                self.unlock(actor, lock, Command::ForceUnlock(lock), false);
            }
            Operation::ForceUnlockFair if forgotten => {
                self.unlock(actor, lock, Command::ForceUnlockFair(lock), true);
            }
            Operation::Wait if held && ordered => {
                self.wait(actor, lock, Command::Wait(lock), None);
            }
            Operation::WaitForever if held && ordered => {
                self.wait(actor, lock, Command::WaitFor(lock, Duration::MAX), None);
            }
            Operation::WaitFor(timeout) if held && ordered => {
                let timeout = timeout.duration();
                self.wait(actor, lock, Command::WaitFor(lock, timeout), Some(timeout));
            }
            Operation::NotifyOne => self.notify(actor, lock, Command::NotifyOne(lock), 1),
            Operation::NotifyAll => self.notify(actor, lock, Command::NotifyAll(lock), ACTORS),
            _ => return None,
        }
        Some(())
    }

    fn lock(&mut self, actor: usize, lock: usize, command: Command) {
        self.model.actors[actor] = Activity::Locking(lock);
        self.send(actor, command);
    }

    fn try_lock(&mut self, actor: usize, lock: usize, command: Command) {
        let response = self.prompt(actor, command);
        let verdict = self.model.tried(actor, lock, response);
        self.check(verdict);
    }

    /// `parked`: if someone parks for the lock, it must not be seen free.
    fn unlock(&mut self, actor: usize, lock: usize, command: Command, parked: bool) {
        let handed_off = parked && self.model.someone_locking(lock) && self.pool.all_asleep();
        self.model.release(lock);
        let response = self.prompt(actor, command);
        if handed_off && matches!(response, Response::Released { still_locked: false }) {
            self.check(Err(format!("a fair unlock of lock {lock} passed by a parked waiter")));
        }
    }

    fn wait(&mut self, actor: usize, lock: usize, command: Command, timeout: Option<Duration>) {
        self.model.actors[actor] = Activity::Waiting { lock, timeout };
        self.model.release(lock);
        self.model.locks[lock].release_due = true;
        self.send(actor, command);
    }

    fn notify(&mut self, actor: usize, lock: usize, command: Command, limit: usize) {
        let Response::Notified(woken) = self.prompt(actor, command) else { unreachable!() };
        let verdict = self.model.notified(lock, woken, limit);
        self.check(verdict);
    }

    fn send(&mut self, actor: usize, command: Command) {
        self.history.push((actor, command));
        self.pool.send(actor, command);
    }

    /// Has `actor` carry out a command that cannot block. Other responses that come before its own
    /// are kept: it may be what made them possible.
    fn prompt(&mut self, actor: usize, command: Command) -> Response {
        self.send(actor, command);
        loop {
            match self.pool.responses.recv_timeout(LIMIT) {
                Ok((from, response)) if from == actor => return response,
                Ok(early) => self.early.push_back(early),
                Err(_) => self.check(Err(format!("actor {actor} does not response"))),
            }
        }
    }

    /// Takes responses until the state of every lock is known, and checks that it is so.
    fn await_quiescence(&mut self) {
        let end = Instant::now() + LIMIT;
        loop {
            while let Some((actor, response)) =
                self.early.pop_front().or_else(|| self.pool.responses.try_recv().ok())
            {
                self.finished(actor, response);
            }
            for (lock, model) in self.world.locks.iter().zip(&mut self.model.locks) {
                model.release_due &= lock.is_locked();
            }
            if self.model.response_due() {
                self.take_answer(end);
            } else if self.model.locks.iter().any(|lock| lock.release_due) {
                if Instant::now() > end {
                    self.check(Err("a wait does not release its lock".into()));
                }
                thread::yield_now();
            } else {
                break;
            }
        }
        for (n, lock) in self.world.locks.iter().enumerate() {
            let locked = lock.is_locked();
            if self.model.is_locked(n).is_some_and(|expected| expected != locked) {
                self.check(Err(format!("is_locked of lock {n} is {locked}")));
            }
        }
    }

    fn take_answer(&mut self, end: Instant) {
        match self.pool.responses.recv_timeout(end.saturating_duration_since(Instant::now())) {
            Ok((actor, response)) => self.finished(actor, response),
            Err(_) => self.check(Err("nobody takes a lock that is free".into())),
        }
    }

    fn finished(&mut self, actor: usize, response: Response) {
        let verdict = self.model.finished(actor, response);
        self.check(verdict);
    }

    /// Waits until the timed operation of `actor` has ended, unless it needs a lock that is held.
    fn join(&mut self, actor: usize) {
        let end = Instant::now() + LIMIT;
        loop {
            match self.model.actors[actor] {
                Activity::TryingFor { .. } => self.take_answer(end),
                Activity::Waiting { lock, timeout: Some(_) }
                    if self.model.locks[lock].owner == Owner::Free =>
                {
                    self.take_answer(end);
                }
                _ => break,
            }
        }
        self.await_quiescence();
    }

    /// Frees every lock, ends every wait, and has every actor leave the run.
    fn finish(&mut self) {
        let end = Instant::now() + LIMIT;
        while !self.model.at_rest() {
            if Instant::now() > end {
                self.check(Err("the run does not come to rest".into()));
            }
            for lock in (0..LOCKS).rev() {
                self.free(lock);
            }
        }
        for n in 0..LOCKS {
            let lock = &self.world.locks[n];
            let value = lock.try_lock().map(|guard| *guard);
            if value != Some(self.model.locks[n].value) {
                self.check(Err(format!("lock {n} is left with {value:?}")));
            }
        }
        for actor in 0..ACTORS {
            self.prompt(actor, Command::End);
        }
    }

    /// Ends whatever is going on about `lock`, as far as its holder can be spoken to.
    fn free(&mut self, lock: usize) {
        match self.model.locks[lock].owner {
            Owner::Actor(actor) if self.model.actors[actor] == Activity::Idle => {
                self.unlock(actor, lock, Command::Unlock(lock), false);
            }
            Owner::Nobody => {
                self.model.release(lock);
                // SAFETY: the guard that held the lock was forgotten.
                unsafe { self.world.locks[lock].force_unlock(GuardNoSend::new()) };
            }
            Owner::Free => {
                let woken = self.world.condvars[lock].notify_all();
                let verdict = self.model.notified(lock, woken, ACTORS);
                self.check(verdict);
                if let Some(actor) = (0..ACTORS).find(|&actor| self.timed(actor, lock)) {
                    self.join(actor);
                }
            }
            // It waits, for another lock or for a timeout.
            Owner::Actor(actor) => return self.join(actor),
        }
        self.await_quiescence();
    }

    fn timed(&self, actor: usize, n: usize) -> bool {
        match self.model.actors[actor] {
            Activity::TryingFor { lock, .. } => lock == n,
            Activity::Waiting { lock, timeout } => lock == n && timeout.is_some(),
            _ => false,
        }
    }

    /// Panics with the state if the verdict is a bad one.
    fn check(&self, verdict: Verdict) {
        if let Err(objection) = verdict {
            panic!("{objection}\n{:#?}\ncommands so far: {:#?}", self.model, self.history);
        }
    }
}
