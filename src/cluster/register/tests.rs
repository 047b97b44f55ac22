use super::{Attempt, Holder, Register, Unreadable, Waiter};
use crate::cluster::transport::NodeId;
use std::time::Duration;

fn attempt(node: u64, nonce: u64) -> Attempt {
    Attempt { node: NodeId::new(node), nonce }
}

fn full() -> Register {
    let mut register = Register::empty();
    register.beat = 7;
    register.holder = Some(Holder::new(attempt(1, u64::MAX), "web[1]", Duration::from_secs(10)));
    register.queue =
        vec![Waiter::new(attempt(2, 5), "a \"quoted\" läbel"), Waiter::new(attempt(3, 6), "")];
    register
}

#[test]
fn what_is_written_is_read() {
    for register in [Register::empty(), full()] {
        assert_eq!(Register::decode(&register.encode()).unwrap(), register);
    }
}

#[test]
fn an_operator_can_read_it() {
    let text = String::from_utf8(full().encode()).unwrap();
    for part in [
        r#""lockword":"1.0""#,
        r#""beat":7"#,
        r#""node":"0000000000000001""#,
        r#""label":"web[1]""#,
        r#""lease_ms":10000"#,
    ] {
        assert!(text.contains(part), "{part} is not in {text}");
    }
}

#[test]
fn a_newer_minor_format_is_read_and_what_it_has_besides_is_kept() {
    let newer = r#"{"lockword":"1.9","beat":2,"colour":"red","queue":
        [{"node":"0000000000000002","nonce":"0000000000000003","label":"b","weight":4}],
        "holder":{"node":"0000000000000001","nonce":"0000000000000004","lease_ms":5,"shade":[1]}}"#;
    let mut register = Register::decode(newer.as_bytes()).unwrap();
    register.advance();
    let text = String::from_utf8(register.encode()).unwrap();
    for part in [r#""1.9""#, r#""colour":"red""#, r#""weight":4"#, r#""shade":[1]"#, r#""beat":3"#]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert_eq!(Register::decode(text.as_bytes()).unwrap(), register);
}

#[test]
fn what_is_not_understood_is_refused_and_named() {
    let refused = |text: &str| Register::decode(text.as_bytes()).unwrap_err();
    assert_eq!(refused(""), Unreadable::Foreign);
    assert_eq!(refused("hello"), Unreadable::Foreign);
    assert_eq!(refused("[1]"), Unreadable::Foreign);
    assert_eq!(refused(r#"{"beat":1}"#), Unreadable::Foreign);
    assert_eq!(refused(r#"{"lockword":"one"}"#), Unreadable::Foreign);
    assert_eq!(refused(r#"{"lockword":"2.3"}"#), Unreadable::Format { major: 2, minor: 3 });
    for damaged in [
        r#"{"lockword":"1.0"}"#,
        r#"{"lockword":"1.0","beat":-1}"#,
        r#"{"lockword":"1.0","beat":1,"holder":{"node":"1","nonce":"0000000000000001","lease_ms":1}}"#,
        r#"{"lockword":"1.0","beat":1,"queue":[{"node":"+000000000000001","nonce":"0000000000000001"}]}"#,
    ] {
        assert!(matches!(refused(damaged), Unreadable::Malformed(_)), "{damaged}");
    }
    let long = " ".repeat(super::LARGEST + 1);
    assert_eq!(refused(&long), Unreadable::TooLarge { len: super::LARGEST + 1 });
}

#[test]
fn the_longest_queue_that_is_allowed_can_be_read() {
    let mut register = Register::empty();
    for n in 0..crate::cluster::config::room(usize::MAX) as u64 {
        let attempt = Attempt { node: NodeId::new(n), nonce: n };
        register.queue.push(Waiter::new(attempt, &"\"".repeat(64)));
    }
    let value = register.encode();
    assert!(Register::decode(&value).is_ok(), "{} bytes", value.len());
}
