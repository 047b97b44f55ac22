//! A node that is expected to come back keeps a place in the queue.

use super::*;
use crate::cluster::protocol::fairness::RETURNS;

const KEPT: Duration = Duration::from_millis(20);
const _: () = assert!(KEPT.as_millis() <= CLAIM.as_millis() / 3, "the handoff lease");

fn keeper() -> MachineSettings {
    MachineSettings { keep_place: KEPT, ..settings(1) }
}

/// A node that keeps its place, and one that does not. They want the lock all the time.
struct Loop {
    engine: TestEngine,
    keeper: Machine,
    other: Machine,
    now: u64,
}

impl Loop {
    /// The keeper holds the lock, and the other one waits.
    fn new(settings: MachineSettings) -> Self {
        let engine = TestEngine::default();
        let mut this = Self { engine, keeper: Machine::new(settings), other: machine(2), now: 0 };
        granted(&this.keeper(Event::Intent(Intent::Wait)));
        this.wait();
        this
    }

    fn keeper(&mut self, event: Event) -> Vec<Action> {
        self.engine.tell(&mut self.keeper, event, at(self.now))
    }

    fn other(&mut self, event: Event) -> Vec<Action> {
        self.engine.tell(&mut self.other, event, at(self.now))
    }

    /// The other one waits, and the keeper sees it.
    fn wait(&mut self) {
        self.other(Event::Intent(Intent::Wait));
        let seen = self.engine.now.clone();
        self.keeper(Event::Noticed(seen));
    }

    /// The keeper releases the lock, and the other one is granted it. Returns whether the keeper is in the queue.
    fn release(&mut self) -> bool {
        let mut told = self.keeper(Event::Release);
        if told.is_empty() {
            // It leaves a quiet period first.
            self.now += 1;
            told = self.keeper(Event::Timer);
        }
        assert!(matches!(told[..], [Action::Released(Outcome::Held)]), "{told:?}");
        let seen = self.engine.now.clone();
        granted(&self.other(Event::Noticed(seen)));
        let register = self.engine.register();
        register.queue.iter().any(|waiter| waiter.claim.node == NodeId::new(1))
    }

    /// The other one releases the lock. Returns what the keeper, which waits, is told.
    fn give_back(&mut self) -> Vec<Action> {
        self.other(Event::Release);
        let seen = self.engine.now.clone();
        self.keeper(Event::Noticed(seen))
    }

    /// A turn of each, after which the keeper is wanted again after `absent`. Returns whether it kept a place.
    fn turn(&mut self, absent: u64) -> bool {
        let is_kept = self.release();
        self.now += absent;
        assert!(self.keeper(Event::Intent(Intent::Wait)).is_empty());
        granted(&self.give_back());
        self.wait();
        is_kept
    }
}

#[test]
fn a_node_that_came_back_in_time_twice_keeps_its_place_and_a_turn_takes_it_one_write() {
    let mut contest = Loop::new(keeper());
    assert_eq!([0; 4].map(|_| contest.turn(19)), [false, false, true, true]);
    let before = contest.engine.writes.len();
    assert!(contest.turn(1));
    // Its release; the release of the other one, and that it joins.
    assert_eq!(contest.engine.writes.len() - before, 3);
}

#[test]
fn no_place_is_kept_by_a_node_that_comes_late_or_is_not_to_keep_any_or_if_nobody_waits() {
    let mut late = Loop::new(keeper());
    for absent in [1, 1, 21, 1, 1, 21, 1] {
        assert!(!late.turn(absent) || absent == 21, "it was late");
    }
    let mut plain = Loop::new(settings(1));
    assert!((0..5).all(|_| !plain.turn(0)));
    let mut alone = (TestEngine::default(), Machine::new(keeper()));
    for now in 0..5 {
        granted(&alone.0.tell(&mut alone.1, Event::Intent(Intent::Wait), at(now)));
        alone.0.tell(&mut alone.1, Event::Release, at(now));
        assert!(alone.0.register().is_idle() && alone.1.is_idle());
    }
}

/// A keeper whose place is kept, and that nobody wants.
fn absent(settings: MachineSettings) -> Loop {
    let mut contest = Loop::new(settings);
    assert!(!contest.turn(0) && !contest.turn(0) && contest.release());
    assert!(!contest.keeper.is_idle());
    contest
}

#[test]
fn who_does_not_come_back_in_time_leaves_the_queue_and_counts_anew() {
    let mut contest = absent(keeper());
    let until = contest.keeper.wake_at().unwrap();
    assert_eq!(until, at(contest.now) + KEPT);
    contest.now += 20;
    assert!(contest.keeper(Event::Timer).is_empty());
    assert!(contest.engine.register().queue.is_empty() && contest.keeper.is_idle());
    assert!(contest.keeper(Event::Intent(Intent::Wait)).is_empty());
    granted(&contest.give_back());
    contest.wait();
    assert!(!contest.turn(0) && !contest.turn(0) && contest.turn(0));
}

/// By an event that shows it, or by a hint, after which it looks.
#[test]
fn an_absent_node_that_is_handed_the_lock_hands_it_on() {
    for wakeups in [Wakeups::PushToAll, Wakeups::PushToOne] {
        let mut contest = absent(MachineSettings { wakeups, ..keeper() });
        contest.other(Event::Release);
        assert_eq!(contest.engine.register().holder.unwrap().label, "n1");
        let seen = Some(contest.engine.now.clone()).filter(|_| wakeups == Wakeups::PushToAll);
        assert!(contest.keeper(Event::Noticed(seen.flatten())).is_empty());
        assert!(contest.engine.register().is_idle() && contest.keeper.is_idle());
    }
}

/// Nothing was missed: whatever has happened since is told by an event, or by a hint.
#[test]
fn who_comes_back_to_a_kept_place_asks_nothing() {
    for wakeups in [Wakeups::PushToAll, Wakeups::PushToOne] {
        let mut contest = absent(MachineSettings { wakeups, ..keeper() });
        contest.keeper.handle(Event::Intent(Intent::Wait), at(contest.now + 1));
        let action = contest.keeper.next_action();
        assert!(action.is_none(), "{action:?}");
        contest.other(Event::Release);
        let seen = Some(contest.engine.now.clone()).filter(|_| wakeups == Wakeups::PushToAll);
        granted(&contest.keeper(Event::Noticed(seen.flatten())));
    }
}

/// A hint that came before it was wanted is not forgotten.
#[test]
fn who_comes_back_after_a_hint_looks() {
    let mut contest = absent(MachineSettings { wakeups: Wakeups::PushToOne, ..keeper() });
    contest.other(Event::Release);
    contest.keeper.handle(Event::Noticed(None), at(contest.now));
    contest.keeper.handle(Event::Intent(Intent::Wait), at(contest.now));
    granted(&contest.engine.run(&mut contest.keeper, at(contest.now)));
}

/// Where nobody is told, before a watch is in force, and after one has ended.
#[test]
fn a_node_that_would_not_hear_of_its_turn_keeps_no_place() {
    let mut polls = Loop::new(MachineSettings { wakeups: Wakeups::Poll, ..keeper() });
    for _ in 0..3 {
        assert!(!polls.release());
        assert!(polls.keeper(Event::Intent(Intent::Wait)).is_empty());
        polls.other(Event::Release);
        polls.now += 100;
        granted(&polls.keeper(Event::Timer));
        polls.wait();
    }
    let mut first = Loop::new(keeper());
    first.keeper.returns.in_a_row = RETURNS;
    assert!(!first.release());
    let mut contest = absent(keeper());
    assert!(contest.keeper(Event::WatchEnded).is_empty());
    assert!(contest.engine.register().queue.is_empty() && contest.keeper.is_idle());
}

/// The watch of a long turn is kept in force until the absence is over.
#[test]
fn an_absent_node_keeps_its_watch() {
    let mut contest = Loop::new(keeper());
    assert!(!contest.turn(0) && !contest.turn(0));
    let end = contest.now + 9_990;
    while let Some(due) = contest.keeper.wake_at().filter(|due| *due < at(end)) {
        let told = contest.engine.tell(&mut contest.keeper, Event::Timer, due);
        assert!(matches!(told[..], [Action::Renewed { .. }]), "{told:?}");
    }
    contest.now = end;
    assert!(contest.release());
    contest.now += 15;
    assert!(contest.keeper(Event::Timer).is_empty());
    assert!(contest.keeper.is_watching() && !contest.keeper.is_idle());
}

/// What was not asked for by the release is no kept place.
#[test]
fn an_acquisition_that_is_given_up_or_only_tries_leaves_nothing_in_the_queue() {
    let mut contest = Loop::new(keeper());
    let now = at(contest.now);
    contest.keeper.handle(Event::Intent(Intent::Wait), now);
    contest.keeper.handle(Event::Release, now);
    let (request, expected, write) = requested_write(&mut contest.keeper);
    contest.keeper.handle(Event::Intent(Intent::Nothing), now);
    let result = Ok(contest.engine.exchange(expected, write));
    contest.keeper.handle(Event::Exchanged { request, result }, now);
    contest.engine.run(&mut contest.keeper, now);
    assert!(contest.engine.register().queue.is_empty() && contest.keeper.is_idle());

    let mut contest = Loop::new(keeper());
    assert!(!contest.turn(0) && !contest.turn(0));
    let now = at(contest.now);
    contest.keeper.handle(Event::Intent(Intent::Try), now);
    contest.keeper.handle(Event::Release, now);
    let (request, expected, write) = requested_write(&mut contest.keeper);
    let written = Register::decode(&write.value).unwrap();
    assert!(written.queue.is_empty(), "{written:?}");
    let result = Ok(contest.engine.exchange(expected, write));
    contest.keeper.handle(Event::Exchanged { request, result }, now);
}

/// What it saw while nobody wanted the lock may have been mended since.
#[test]
fn what_was_seen_in_the_absence_fails_nobody() {
    let mut contest = absent(MachineSettings { wakeups: Wakeups::PushToOne, ..keeper() });
    let good = contest.engine.now.clone().unwrap();
    let version = Version::new(contest.engine.last + 1).unwrap();
    contest.engine.last += 2;
    contest.engine.now = Some(Versioned { version, value: b"garbage".as_slice().into() });
    assert!(contest.keeper(Event::Noticed(None)).is_empty());
    let version = Version::new(contest.engine.last).unwrap();
    contest.engine.now = Some(Versioned { version, value: good.value });
    assert!(contest.keeper(Event::Intent(Intent::Wait)).is_empty());
}

#[test]
fn a_node_that_is_closed_while_its_release_is_in_flight_leaves_the_queue() {
    let mut contest = Loop::new(keeper());
    assert!(!contest.turn(0) && !contest.turn(0));
    let now = at(contest.now);
    contest.keeper.handle(Event::Release, now);
    let (request, expected, write) = requested_write(&mut contest.keeper);
    assert_eq!(Register::decode(&write.value).unwrap().queue.len(), 1);
    assert!(contest.keeper.hurry(), "it is releasing");
    let result = Ok(contest.engine.exchange(expected, write));
    contest.keeper.handle(Event::Exchanged { request, result }, now);
    contest.engine.run(&mut contest.keeper, now);
    assert!(contest.engine.register().queue.is_empty() && contest.keeper.is_idle());
}

#[test]
fn who_only_tries_is_refused_and_leaves_the_queue() {
    let mut contest = absent(keeper());
    let told = contest.keeper(Event::Intent(Intent::Try));
    assert!(matches!(told[..], [Action::Failed(Failure::Busy { .. })]), "{told:?}");
    assert!(contest.engine.register().queue.is_empty() && contest.keeper.is_idle());
}

#[test]
fn a_node_that_is_closed_leaves_the_queue_at_once_and_keeps_no_place() {
    let mut contest = absent(keeper());
    assert!(contest.keeper.hurry());
    contest.keeper(Event::Timer);
    assert!(contest.engine.register().queue.is_empty() && contest.keeper.is_idle());
    let mut contest = Loop::new(keeper());
    assert!(!contest.turn(0) && !contest.turn(0));
    assert!(!contest.keeper.hurry(), "it has none");
    assert!(!contest.release());
}

/// Whoever ends the process waits for that, also if others of the node wait already.
#[test]
fn a_release_is_owed_until_it_is_written_and_is_not_put_off_in_a_hurry() {
    let mut contest = Loop::new(keeper());
    let now = at(contest.now);
    assert!(!contest.keeper.owes(), "it holds the lock");
    contest.keeper.handle(Event::Release, now);
    contest.keeper.handle(Event::Intent(Intent::Wait), now);
    assert!(contest.keeper.owes());
    contest.engine.run(&mut contest.keeper, now);
    assert!(!contest.keeper.owes());

    let (mut engine, mut alone) = (TestEngine::default(), machine(1));
    granted(&engine.tell(&mut alone, Event::Intent(Intent::Wait), at(0)));
    engine.tell(&mut alone, Event::Release, at(0));
    granted(&engine.tell(&mut alone, Event::Intent(Intent::Wait), at(1_000)));
    alone.hurry();
    // Without the hurry it would leave a quiet period first.
    let told = engine.tell(&mut alone, Event::Release, at(1_000));
    assert!(matches!(told[..], [Action::Released(Outcome::Held)]), "{told:?}");
}
