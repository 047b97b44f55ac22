//! A machine that may not send a request, and is queued until it may.

use super::*;
use crate::cluster::protocol::QueuedSend;

/// A timer event, with or without the permission to send.
fn timer(engine: &mut TestEngine, machine: &mut Machine, may_send: bool, now: Time) -> Vec<Action> {
    machine.set_may_send(may_send, None);
    engine.tell(machine, Event::Timer, now)
}

fn queued(since: Time) -> Option<QueuedSend> {
    Some(QueuedSend { since, urgent_at: None, is_next: false })
}

#[test]
fn nothing_is_sent_before_it_may_be_and_then_the_request_is_of_that_moment() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    one.set_may_send(false, None);
    assert!(engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)).is_empty());
    assert_eq!(one.queued(), queued(at(0)));
    assert!(timer(&mut engine, &mut one, false, at(3_000)).is_empty());
    assert_eq!(one.queued(), queued(at(0)), "it keeps its place");
    assert!(engine.writes.is_empty() && !one.is_idle());
    let grant = granted(&timer(&mut engine, &mut one, true, at(4_000)));
    assert_eq!(grant.deadline, at(4_000) + (LEASE - CLOCK.allowance(LEASE)));
    assert_eq!(one.queued(), None);
}

#[test]
fn what_is_not_wanted_any_more_is_not_queued() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    one.set_may_send(false, None);
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(0));
    engine.tell(&mut one, Event::Intent(Intent::Nothing), at(1));
    assert_eq!((one.queued(), one.is_idle()), (None, true));
    // The time of the next one counts anew.
    engine.tell(&mut one, Event::Intent(Intent::Wait), at(2));
    assert_eq!(one.queued(), queued(at(2)));
}

#[test]
fn an_acquisition_that_cannot_send_fails_in_the_end_and_says_why() {
    for (intent, longest) in
        [(Intent::Wait, settings(1).unavailable_timeout), (Intent::Try, LEASE / 5)]
    {
        for error in [None, Some(TransportError::denied("no such user"))] {
            let (mut engine, mut one) = (TestEngine::default(), machine(1));
            one.set_may_send(false, None);
            engine.tell(&mut one, Event::Intent(intent), at(0));
            assert_eq!(one.wake_at(), Some(at(0) + longest));
            one.set_may_send(false, error.as_ref());
            let told = engine.tell(&mut one, Event::Timer, at(0) + longest);
            let [Action::Failed(Failure::Transport(why))] = &told[..] else { panic!("{told:?}") };
            let said = why.to_string();
            match error {
                Some(_) => assert!(matches!(why, TransportError::Denied(_)), "{said}"),
                None => assert!(said.contains("queued in the node"), "{said}"),
            }
            assert_eq!((one.queued(), one.is_idle()), (None, true));
        }
    }
}

/// What the last response has shown is told, whether another request may be sent or not.
#[test]
fn a_try_that_has_its_answer_needs_no_further_request() {
    let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    two.handle(Event::Intent(Intent::Try), at(1));
    let (request, expected, write) = requested_write(&mut two);
    let result = Ok(engine.exchange(expected, write));
    two.set_may_send(false, None);
    two.handle(Event::Exchanged { request, result }, at(2));
    let told = engine.run(&mut two, at(2));
    assert!(matches!(told[..], [Action::Failed(Failure::Busy { .. })]), "{told:?}");
    assert!(two.is_idle());
}

#[test]
fn a_renewal_is_queued_when_it_is_due_and_urgent_from_the_middle_of_the_lease() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    let grant = granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    timer(&mut engine, &mut one, false, at(3_000));
    assert_eq!(one.queued(), None);
    timer(&mut engine, &mut one, false, at(4_000));
    let urgent_at = Some(grant.deadline - LEASE / 2);
    let renewal = QueuedSend { since: at(4_000), urgent_at, is_next: false };
    assert_eq!(one.queued(), Some(renewal));
    assert_eq!(one.wake_at(), Some(grant.deadline));
    let told = timer(&mut engine, &mut one, false, grant.deadline);
    let [Action::Lost(Loss::Expired { last })] = &told[..] else { panic!("{told:?}") };
    assert!(last.contains("queued in the node"), "{last}");
    // The entry in the register is still to be removed.
    assert!(!one.is_idle() && one.queued().is_some());
    timer(&mut engine, &mut one, true, grant.deadline);
    assert!(one.is_idle() && engine.register().is_idle());
}

/// The error of a request for another key: all of them fail for the same reason.
#[test]
fn a_loss_tells_the_last_error_of_the_node() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    let grant = granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    one.set_may_send(false, Some(&TransportError::denied("no such user")));
    engine.tell(&mut one, Event::Timer, at(4_000));
    let told = engine.tell(&mut one, Event::Timer, grant.deadline);
    let [Action::Lost(Loss::Expired { last })] = &told[..] else { panic!("{told:?}") };
    assert!(last.contains("no such user") && !last.contains("fewer locks"), "{last}");
}

#[test]
fn a_release_is_urgent_and_a_lock_to_confirm_or_a_notice_comes_next() {
    let (mut engine, mut one) = (TestEngine::default(), machine(1));
    let mut two = Machine::new(MachineSettings { holds_at_once: false, ..settings(2) });
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    engine.tell(&mut two, Event::Intent(Intent::Wait), at(1));
    let mut woken = two.clone();
    one.set_may_send(false, None);
    engine.tell(&mut one, Event::Release, at(2));
    let release = QueuedSend { since: at(2), urgent_at: Some(at(2)), is_next: false };
    assert_eq!(one.queued(), Some(release));
    timer(&mut engine, &mut one, true, at(3));
    let seen = [Event::Noticed(engine.now.clone()), Event::Noticed(None)];
    for (machine, seen) in [&mut two, &mut woken].into_iter().zip(seen) {
        machine.set_may_send(false, None);
        engine.tell(machine, seen, at(4));
        let next = QueuedSend { since: at(4), urgent_at: None, is_next: true };
        assert_eq!(machine.queued(), Some(next));
    }
    granted(&timer(&mut engine, &mut two, true, at(5)));
}

/// It was handed the lock after it had given up: others wait for it.
#[test]
fn a_lock_that_is_not_wanted_any_more_is_handed_on_as_urgently_as_a_release() {
    let (mut engine, mut one, mut two) = (TestEngine::default(), machine(1), machine(2));
    granted(&engine.tell(&mut one, Event::Intent(Intent::Wait), at(0)));
    engine.tell(&mut two, Event::Intent(Intent::Wait), at(1));
    engine.tell(&mut one, Event::Noticed(engine.now.clone()), at(1));
    two.handle(Event::Intent(Intent::Nothing), at(2));
    let (request, expected, write) = requested_write(&mut two);
    engine.tell(&mut one, Event::Release, at(2));
    two.set_may_send(false, None);
    let result = Ok(engine.exchange(expected, write));
    engine.tell(&mut two, Event::Exchanged { request, result }, at(3));
    assert_eq!(two.queued().expect("it is queued").urgent_at, Some(at(3)));
    timer(&mut engine, &mut two, true, at(4));
    assert!(two.is_idle() && engine.register().is_idle());
}
