use super::{CheckError, Gate, Kept, check};
use crate::cluster::{FencingToken, Key};
use std::convert::Infallible;
use std::thread;

fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

fn token(number: u64) -> FencingToken {
    FencingToken::from_u64(number)
}

#[test]
fn a_smaller_token_is_refused_and_told_why() {
    let gate = Gate::new();
    gate.pass(&key("a"), token(5)).unwrap();
    gate.pass(&key("a"), token(5)).unwrap();
    gate.pass(&key("a"), token(6)).unwrap();
    let stale = gate.pass(&key("a"), token(5)).unwrap_err();
    assert_eq!((stale.key.as_str(), stale.token.get(), stale.newest.get()), ("a", 5, 6));
    assert!(stale.to_string().contains("token 5 for a is too old: 6 has been here"), "{stale}");
    assert_eq!(gate.newest(&key("a")), Some(token(6)), "a refused token is not remembered");
    gate.pass(&key("b"), token(1)).unwrap();
}

#[test]
fn what_is_forgotten_passes_again() {
    let gate = Gate::new();
    assert_eq!(gate.forget(&key("a")), None);
    gate.pass(&key("a"), token(5)).unwrap();
    assert_eq!(gate.forget(&key("a")), Some(token(5)));
    assert_eq!(gate.newest(&key("a")), None);
    gate.pass(&key("a"), token(1)).unwrap();
}

#[test]
fn deeds_of_many_threads_are_done_in_the_order_of_their_tokens() {
    let (gate, key, done) = (Gate::new(), key("a"), crate::Mutex::new(vec![]));
    thread::scope(|scope| {
        for first in 0..4 {
            let (gate, key, done) = (&gate, &key, &done);
            scope.spawn(move || {
                for number in (first..400).step_by(4) {
                    let token = token(number);
                    let _ = gate.pass_and(key, token, || done.lock().push(token));
                }
            });
        }
    });
    let done = done.into_inner();
    assert!(!done.is_empty() && done.is_sorted(), "{done:?}");
    assert_eq!(done.last(), Some(&token(399)), "the largest always passes");
}

#[test]
fn a_resource_that_compares_with_what_it_kept() {
    let mut kept = None;
    let mut calls = 0;
    let mut pass = |number| {
        check(&key("a"), token(number), |old, new| {
            calls += 1;
            if old != kept {
                return Ok::<_, Infallible>(Kept::Old(kept));
            }
            kept = Some(new);
            Ok(Kept::New)
        })
    };
    pass(5).unwrap();
    pass(7).unwrap();
    pass(7).unwrap();
    assert!(matches!(pass(6).unwrap_err(), CheckError::Stale(stale) if stale.newest == token(7)));
    assert_eq!((kept, calls), (Some(token(7)), 6));
}

#[test]
fn a_resource_that_keeps_nothing_is_found_out() {
    for found in [None, Some(token(3))] {
        let error = check(&key("a"), token(5), |_, _| Ok::<_, Infallible>(Kept::Old(found)));
        assert_eq!(error, Err(CheckError::NotKept { key: key("a"), found }));
    }
    let mut shrinks = [4, 3].into_iter().map(token);
    let error = check(&key("a"), token(5), |_, _| Ok::<_, Infallible>(Kept::Old(shrinks.next())));
    assert!(matches!(error, Err(CheckError::NotKept { .. })), "{error:?}");
    let error = check(&key("a"), token(5), |_, _| Err("the disk is full"));
    assert_eq!(error, Err(CheckError::Resource("the disk is full")));
}
