//! The checks of a history that is written by hand: what an engine may lose if it declares so, what it
//! may not, and what a watch may show.

use lockword::cluster::conformance::{History, Invocation, Law, Response};
use lockword::cluster::{Consistency, Key, Version, Versioned};

/// A history of one key, one call after the other: `w0-3 ok`, `w0-3 no` (denied), `r3`.
/// The value of each version is its number.
fn history(calls: &[&str]) -> History {
    let (history, key) = (History::new(), Key::new("k").unwrap());
    let version = |text: &str| Version::new(text.parse().ok().filter(|n| *n > 0)?).ok();
    for call in calls {
        let (call, response) = match call.split_at(1) {
            ("r", seen) => {
                let register = version(seen)
                    .map(|version| Versioned { version, value: seen.as_bytes().into() });
                (Invocation::Load, Response::Loaded(register))
            }
            (_, write) => {
                let (write, response) = write.split_once(' ').unwrap();
                let (from, to) = write.split_once('-').unwrap();
                let call = Invocation::CompareExchange {
                    expected: version(from),
                    value: to.as_bytes().into(),
                };
                let response = match response {
                    "ok" => Response::Swapped(version(to).unwrap()),
                    _ => Response::Failed("no".into()),
                };
                (call, response)
            }
        };
        let operation = history.invoke(0, &key, call);
        history.respond(operation, response);
    }
    history
}

#[test]
fn a_declared_loss_is_reported_and_is_no_violation() {
    for calls in [
        // All of it, and the last of it.
        &["w0-3 ok", "w0-5 ok", "r5"][..],
        &["w0-3 ok", "w3-4 ok", "r3", "w3-6 ok"],
        &["w0-3 ok", "r0"],
    ] {
        let history = history(calls);
        let loss = history.check_as(Consistency::Lossy).unwrap().expect("it was lost");
        assert_eq!(loss.law, Law::Linearizable, "{loss}");
        let violation = history.check_as(Consistency::Linearizable).unwrap_err();
        assert_eq!(violation.law, Law::Linearizable, "{violation}");
    }
    let whole = history(&["w0-3 ok", "r3", "w3-4 ok"]);
    assert!(whole.check_as(Consistency::Lossy).unwrap().is_none());
}

#[test]
fn a_declaration_excuses_nothing_but_losses() {
    for (calls, law) in [
        // It was lost, and is there again.
        (&["w0-3 ok", "r0", "r3"][..], Law::Linearizable),
        (&["w0-3 ok", "w3-4 ok", "r3", "w3-5 ok", "r4"], Law::Linearizable),
        // A version is given a second time, to another value.
        (&["w0-5 ok", "w0-4 ok"], Law::Versions),
        // A write that was denied is seen.
        (&["w0-3 no", "r3"], Law::Indeterminate),
        // It was never written.
        (&["w0-3 ok", "r4"], Law::Linearizable),
    ] {
        let violation = history(calls).check_as(Consistency::Lossy).unwrap_err();
        assert_eq!(violation.law, law, "{calls:?}: {violation}");
    }
}

#[test]
fn a_write_that_a_response_denies_and_a_watch_shows_is_a_violation() {
    let denied = history(&["w0-3 no"]);
    denied.check().expect("nothing contradicts it");
    let shown = Versioned { version: Version::new(3).unwrap(), value: b"3".as_slice().into() };
    denied.noticed(&Key::new("k").unwrap(), shown);
    assert_eq!(denied.check().unwrap_err().law, Law::Indeterminate);
}

/// The response to a write is lost, and a watch shows which version it has made.
#[test]
fn a_version_that_only_a_watch_has_shown_may_be_expected() {
    let (history, key) = (History::new(), Key::new("k").unwrap());
    let version = |number| Version::new(number).unwrap();
    let call =
        |expected, value: &[u8]| Invocation::CompareExchange { expected, value: value.into() };
    let lost = history.invoke(0, &key, call(None, b"lost"));
    history.respond(lost, Response::Indeterminate);
    let next = history.invoke(1, &key, call(Some(version(5)), b"next"));
    history.respond(next, Response::Swapped(version(7)));
    history.check().expect_err("5 was in no response");
    history.noticed(&key, Versioned { version: version(5), value: b"lost".as_slice().into() });
    history.check().unwrap_or_else(|violation| panic!("{violation}"));
}
