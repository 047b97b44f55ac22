//! A machine that has to wait for its turn to send a request.

use super::*;
use crate::cluster::protocol::AwaitedTurn;

/// A timer event with or without the turn to send.
fn timer(engine: &mut TestEngine, machine: &mut Machine, has_turn: bool, now: Time) -> Vec<Action> {
    machine.set_turn(has_turn);
    engine.tell(machine, Event::Timer, now)
}

#[test]
fn without_a_turn_nothing_is_sent_and_with_it_the_request_is_of_that_moment() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    one.set_turn(false);
    assert!(engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)).is_empty());
    assert_eq!(one.awaited_turn(), Some(AwaitedTurn { since: at(0), urgent_at: None }));
    assert!(timer(&mut engine, &mut one, false, at(3_000)).is_empty());
    assert_eq!(one.awaited_turn().map(|turn| turn.since), Some(at(0)), "it keeps its place");
    assert!(engine.writes.is_empty() && !one.is_idle());
    let grant = granted(&timer(&mut engine, &mut one, true, at(4_000)));
    assert_eq!(grant.deadline, at(4_000) + (LEASE - CLOCK.allowance(LEASE)));
    assert_eq!(one.awaited_turn(), None);
}

#[test]
fn what_is_not_wanted_any_more_needs_no_turn() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    one.set_turn(false);
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    engine.tell(&mut one, Event::Intent(Intent::Nothing), at(1));
    assert_eq!((one.awaited_turn(), one.is_idle()), (None, true));
}

#[test]
fn an_acquisition_without_a_turn_fails_in_the_end_and_says_why() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    one.set_turn(false);
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    let end = at(0) + settings(1).unavailable_timeout;
    assert_eq!(one.wake_at(), Some(end));
    let told = timer(&mut engine, &mut one, false, end);
    let [Action::Failed(Failure::Transport(why))] = &told[..] else { panic!("{told:?}") };
    assert!(why.to_string().contains("waited for its turn"), "{why}");
    assert_eq!((one.awaited_turn(), one.is_idle()), (None, true));
}

#[test]
fn a_renewal_waits_for_a_turn_only_when_it_is_due_and_is_urgent_from_the_middle_of_the_lease() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    let grant = granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    timer(&mut engine, &mut one, false, at(3_000));
    assert_eq!(one.awaited_turn(), None);
    timer(&mut engine, &mut one, false, at(4_000));
    let urgent_at = Some(grant.deadline - LEASE / 2);
    assert_eq!(one.awaited_turn(), Some(AwaitedTurn { since: at(4_000), urgent_at }));
    assert_eq!(one.wake_at(), Some(grant.deadline));
    let told = timer(&mut engine, &mut one, false, grant.deadline);
    let [Action::Lost(Loss::Expired { last })] = &told[..] else { panic!("{told:?}") };
    assert!(last.contains("waited for its turn"), "{last}");
    // The entry in the register is still to be removed.
    assert!(!one.is_idle() && one.awaited_turn().is_some());
    timer(&mut engine, &mut one, true, grant.deadline);
    assert!(one.is_idle() && engine.register().is_idle());
}

#[test]
fn a_release_and_a_reserved_lock_are_urgent_at_once() {
    let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    engine.tell(&mut two, Event::Intent(Intent::Wait), at(1));
    one.set_turn(false);
    engine.tell(&mut one, Event::Release, at(2));
    assert_eq!(one.awaited_turn(), Some(AwaitedTurn { since: at(2), urgent_at: Some(at(2)) }));
    timer(&mut engine, &mut one, true, at(3));
    two.set_turn(false);
    let seen = Event::Noticed(engine.now.clone());
    engine.tell(&mut two, seen, at(4));
    assert_eq!(two.awaited_turn(), Some(AwaitedTurn { since: at(4), urgent_at: Some(at(4)) }));
    granted(&timer(&mut engine, &mut two, true, at(5)));
}
