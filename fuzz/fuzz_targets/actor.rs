//! The threads that carry out commands, and the locks that they share.

use crate::asleep;
use crate::step::{ACTORS, LOCKS};
use lock_api::GuardNoSend;
use lockword::{Condvar, Mutex, MutexGuard};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

/// The locks of one run, freed at its end.
#[derive(Default)]
pub struct World {
    pub locks: [Mutex<u64>; LOCKS],
    pub condvars: [Condvar; LOCKS],
}

/// What the controller can ask of an actor. The number is that of the lock.
#[derive(Clone, Copy, Debug)]
pub enum Command {
    Lock(usize),
    TryLock(usize),
    TryLockFor(usize, Duration),
    TryLockUntilPast(usize),
    Write(usize),
    Unlock(usize),
    UnlockFair(usize),
    Bump(usize),
    Forget(usize),
    ForceUnlock(usize),
    ForceUnlockFair(usize),
    Wait(usize),
    WaitFor(usize, Duration),
    NotifyOne(usize),
    NotifyAll(usize),
    End,
}

/// What came of a command.
#[derive(Clone, Copy, Debug)]
pub enum Response {
    /// The lock is the actor's, and this is the value behind it.
    Acquired(u64),
    /// The lock was refused, after this long.
    Refused(Duration),
    /// The wait ended, the lock is the actor's again, and this is the value behind it.
    Waited { timed_out: bool, value: u64, took: Duration },
    /// A notification woke this many.
    Notified(usize),
    /// Released; the lock was held, by whomever, right after.
    Released { still_locked: bool },
    /// Done; there is nothing to say.
    Done,
}

/// The actors, which live as long as the process.
pub struct Pool {
    mailboxes: Vec<Sender<Message>>,
    threads: Vec<asleep::Thread>,
    /// For each actor, how many commands it has been sent.
    sent: [u64; ACTORS],
    /// For each actor, how many commands it has taken up.
    taken: Arc<[AtomicU64; ACTORS]>,
    pub responses: Receiver<(usize, Response)>,
}

enum Message {
    Begin(Arc<World>),
    Carry(Command),
}

impl Pool {
    pub fn new() -> Self {
        let (response, responses) = channel();
        let taken: Arc<[AtomicU64; ACTORS]> = Arc::default();
        let (mut mailboxes, mut threads) = (Vec::new(), Vec::new());
        for number in 0..ACTORS {
            let (inbox, messages) = channel();
            let (say_thread, thread) = channel();
            let actor =
                Actor { number, messages, response: response.clone(), taken: taken.clone() };
            thread::spawn(move || {
                say_thread.send(asleep::Thread::current()).expect("the pool is being made");
                while let Ok(Message::Begin(world)) = actor.messages.recv() {
                    actor.play(&world);
                    drop(world);
                    actor.response(Response::Done);
                }
            });
            mailboxes.push(inbox);
            threads.push(thread.recv().expect("the actor has started"));
        }
        Pool { mailboxes, threads, sent: [0; ACTORS], taken, responses }
    }

    pub fn begin(&self, world: &Arc<World>) {
        for inbox in &self.mailboxes {
            inbox.send(Message::Begin(world.clone())).expect("actors do not end");
        }
    }

    pub fn send(&mut self, actor: usize, command: Command) {
        self.sent[actor] += 1;
        self.mailboxes[actor].send(Message::Carry(command)).expect("actors do not end");
    }

    /// Waits, not for long, until every actor has taken up its command and sleeps, all at one
    /// time. Says whether that came.
    ///
    /// None of them can then hold a lock inside the parking lot, on which another might sleep:
    /// one that sleeps in a lock operation is parked on that lock.
    pub fn all_asleep(&self) -> bool {
        let taken = |n: usize| self.taken[n].load(Ordering::Acquire) == self.sent[n];
        let end = Instant::now() + Duration::from_millis(20);
        while Instant::now() < end {
            if (0..ACTORS).all(taken) && asleep::all(&self.threads) {
                return true;
            }
            thread::yield_now();
        }
        false
    }
}

struct Actor {
    number: usize,
    messages: Receiver<Message>,
    response: Sender<(usize, Response)>,
    taken: Arc<[AtomicU64; ACTORS]>,
}

impl Actor {
    fn response(&self, response: Response) {
        self.response.send((self.number, response)).expect("the controller does not end");
    }

    /// Carries out the commands of one run.
    fn play(&self, world: &World) {
        let mut guards: [Option<MutexGuard<'_, u64>>; LOCKS] = Default::default();
        while let Ok(Message::Carry(command)) = self.messages.recv() {
            self.taken[self.number].fetch_add(1, Ordering::Release);
            match carry_out(command, world, &mut guards) {
                Some(response) => self.response(response),
                None => return,
            }
        }
    }
}

fn carry_out<'w>(
    command: Command,
    world: &'w World,
    guards: &mut [Option<MutexGuard<'w, u64>>; LOCKS],
) -> Option<Response> {
    let World { locks, condvars } = world;
    let start = Instant::now();
    let mut keep = |n: usize, guard: Option<MutexGuard<'w, u64>>| match guard {
        Some(guard) => {
            let value = *guard;
            guards[n] = Some(guard);
            Response::Acquired(value)
        }
        None => Response::Refused(start.elapsed()),
    };
    let released = |n: usize| Response::Released { still_locked: locks[n].is_locked() };
    const HELD: &str = "the model says that the actor holds the lock";
    Some(match command {
        Command::Lock(n) => keep(n, Some(locks[n].lock())),
        Command::TryLock(n) => keep(n, locks[n].try_lock()),
        Command::TryLockFor(n, timeout) => keep(n, locks[n].try_lock_for(timeout)),
        Command::TryLockUntilPast(n) => {
            let past = start.checked_sub(Duration::from_millis(1)).unwrap_or(start);
            keep(n, locks[n].try_lock_until(past))
        }
        Command::Write(n) => {
            **guards[n].as_mut().expect(HELD) += 1;
            Response::Done
        }
        Command::Unlock(n) => {
            drop(guards[n].take().expect(HELD));
            released(n)
        }
        Command::UnlockFair(n) => {
            MutexGuard::unlock_fair(guards[n].take().expect(HELD));
            released(n)
        }
        Command::Bump(n) => {
            let guard = guards[n].as_mut().expect(HELD);
            MutexGuard::bump(guard);
            Response::Acquired(**guard)
        }
        Command::Forget(n) => {
            mem::forget(guards[n].take().expect(HELD));
            Response::Done
        }
        Command::ForceUnlock(n) => {
            // SAFETY: the model says that the lock is held by a guard that was forgotten.
            unsafe { locks[n].force_unlock(GuardNoSend::new()) };
            released(n)
        }
        Command::ForceUnlockFair(n) => {
            // SAFETY: as for `ForceUnlock`.
            unsafe { locks[n].force_unlock_fair(GuardNoSend::new()) };
            released(n)
        }
        Command::Wait(n) => {
            let guard = guards[n].as_mut().expect(HELD);
            condvars[n].wait(guard);
            Response::Waited { timed_out: false, value: **guard, took: start.elapsed() }
        }
        Command::WaitFor(n, timeout) => {
            let guard = guards[n].as_mut().expect(HELD);
            let timed_out = condvars[n].wait_for(guard, timeout).timed_out();
            Response::Waited { timed_out, value: **guard, took: start.elapsed() }
        }
        Command::NotifyOne(n) => Response::Notified(condvars[n].notify_one().into()),
        Command::NotifyAll(n) => Response::Notified(condvars[n].notify_all()),
        Command::End => return None,
    })
}
