//! What a holder publishes.

use super::{Action, Event, Intent, LEASE, Machine, TestEngine, at, machine, requested_write};
use crate::cluster::protocol::Publication;
use crate::cluster::transport::{Exchange, Wake};

/// A machine that holds the lock.
fn holder(engine: &mut TestEngine) -> Machine {
    let mut machine = machine(1);
    let told = engine.tell(&mut machine, Event::Intent(Intent::Wait), at(0));
    assert!(matches!(told[..], [Action::Granted(_)]), "{told:?}");
    machine
}

fn publish(number: u64, value: &str) -> Event {
    Event::Publish(Publication { number, value: (!value.is_empty()).then(|| value.into()) })
}

/// The numbers that these actions say are written.
fn written(told: &[Action]) -> Vec<Option<u64>> {
    let number = |action: &Action| match action {
        Action::Renewed { published, .. } => *published,
        other => panic!("{other:?}"),
    };
    told.iter().map(number).collect()
}

fn value(engine: &TestEngine) -> Option<String> {
    engine.register().holder.and_then(|holder| holder.value).map(|value| value.to_string())
}

#[test]
fn a_value_is_written_at_once_and_kept_by_each_renewal() {
    let mut engine = TestEngine::default();
    let mut one = holder(&mut engine);
    assert_eq!(written(&engine.tell(&mut one, publish(1, "a"), at(1))), [Some(1)]);
    assert_eq!(value(&engine).as_deref(), Some("a"));
    assert_eq!(engine.writes.last().unwrap().wake, Wake::Everybody);
    // The same value once more has a write, and an answer, of its own.
    assert_eq!(written(&engine.tell(&mut one, publish(2, "a"), at(2))), [Some(2)]);
    for renewal in 1..4 {
        let now = one.wake_at().unwrap();
        assert_eq!(written(&engine.tell(&mut one, Event::Timer, now)), [None], "{renewal}");
        assert_eq!(value(&engine).as_deref(), Some("a"));
        assert_eq!(engine.writes.last().unwrap().wake, Wake::Nobody);
    }
}

#[test]
fn a_value_that_comes_while_a_renewal_is_under_way_is_written_by_the_next() {
    let mut engine = TestEngine::default();
    let mut one = holder(&mut engine);
    one.handle(publish(1, "a"), at(1));
    let (request, expected, write) = requested_write(&mut one);
    one.handle(publish(2, "b"), at(2));
    let result: Result<Exchange, _> = Ok(engine.exchange(expected, write));
    one.handle(Event::Exchanged { request, result }, at(3));
    assert_eq!(written(&engine.run(&mut one, at(3))), [None, Some(2)]);
    assert_eq!(value(&engine).as_deref(), Some("b"));
}

#[test]
fn a_value_that_meets_another_write_is_written_after_it() {
    let mut engine = TestEngine::default();
    let mut one = holder(&mut engine);
    one.handle(publish(1, "a"), at(1));
    let (request, expected, write) = requested_write(&mut one);
    engine.tell(&mut machine(2), Event::Intent(Intent::Wait), at(2));
    let result: Result<Exchange, _> = Ok(engine.exchange(expected, write));
    one.handle(Event::Exchanged { request, result }, at(3));
    assert_eq!(written(&engine.run(&mut one, at(3))), [Some(1)]);
    assert_eq!((value(&engine).as_deref(), engine.register().queue.len()), (Some("a"), 1));
}

#[test]
fn neither_the_next_holder_nor_the_next_claim_has_it() {
    let mut engine = TestEngine::default();
    let (mut one, mut two) = (holder(&mut engine), machine(2));
    engine.tell(&mut one, publish(1, "a"), at(1));
    engine.tell(&mut two, Event::Intent(Intent::Wait), at(2));
    engine.tell(&mut one, Event::Noticed(engine.now.clone()), at(3));
    engine.tell(&mut one, Event::Release, at(4));
    assert_eq!((engine.register().holder.unwrap().label.as_str(), value(&engine)), ("n2", None));
    engine.tell(&mut two, Event::Noticed(engine.now.clone()), at(5));
    engine.tell(&mut two, Event::Release, at(6));
    engine.tell(&mut one, Event::Noticed(engine.now.clone()), at(7));
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(8));
    assert!(engine.register().holder.unwrap().label == "n1" && value(&engine).is_none());
    let renew_at = at(8) + LEASE / 3;
    assert_eq!(written(&engine.tell(&mut one, Event::Timer, renew_at)), [None]);
    assert_eq!(value(&engine), None);
    // What comes when the lock is not held is no matter.
    engine.tell(&mut one, Event::Release, renew_at);
    assert!(engine.tell(&mut one, publish(1, "late"), renew_at).is_empty());
    engine.tell(&mut one, Event::Intent(Intent::Wait), renew_at);
    assert_eq!(value(&engine), None);
}
