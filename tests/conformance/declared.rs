//! What an engine may lose because it has declared so, and what it may not for all that.

use lockword::cluster::conformance::{Call, History, Law, Response};
use lockword::cluster::{Consistency, Key, Version, Versioned};

/// A history of one key, one call after the other: `w0-3 ok`, `w0-3 no` (denied for certain), `r3`.
/// The value of each version is its number.
fn history(calls: &[&str]) -> History {
    let (history, key) = (History::new(), Key::new("k").unwrap());
    let version = |text: &str| Version::new(text.parse().ok().filter(|n| *n > 0)?).ok();
    for call in calls {
        let (call, response) = match call.split_at(1) {
            ("r", seen) => {
                let register = version(seen)
                    .map(|version| Versioned { version, value: seen.as_bytes().into() });
                (Call::Load, Response::Loaded(register))
            }
            (_, write) => {
                let (write, response) = write.split_once(' ').unwrap();
                let (from, to) = write.split_once('-').unwrap();
                let call =
                    Call::CompareExchange { expected: version(from), value: to.as_bytes().into() };
                let response = match response {
                    "ok" => Response::Swapped(version(to).unwrap()),
                    _ => Response::Failed("no".into()),
                };
                (call, response)
            }
        };
        let begun = history.begin(0, &key, call);
        history.end(begun, response);
    }
    history
}

#[test]
fn a_loss_that_is_declared_is_told_and_is_no_violation() {
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
fn nothing_else_is_excused() {
    for (calls, law) in [
        // It was lost, and is there again.
        (&["w0-3 ok", "r0", "r3"][..], Law::Linearizable),
        (&["w0-3 ok", "w3-4 ok", "r3", "w3-5 ok", "r4"], Law::Linearizable),
        // A version comes again, for something else.
        (&["w0-5 ok", "w0-4 ok"], Law::Versions),
        // What was denied for certain is seen.
        (&["w0-3 no", "r3"], Law::Indeterminate),
        // Nobody wrote it.
        (&["w0-3 ok", "r4"], Law::Linearizable),
    ] {
        let violation = history(calls).check_as(Consistency::Lossy).unwrap_err();
        assert_eq!(violation.law, law, "{calls:?}: {violation}");
    }
}

#[test]
fn what_only_a_watch_has_shown_counts_too() {
    let denied = history(&["w0-3 no"]);
    denied.check().expect("nothing shows it");
    let shown = Versioned { version: Version::new(3).unwrap(), value: b"3".as_slice().into() };
    denied.noticed(&Key::new("k").unwrap(), shown);
    assert_eq!(denied.check().unwrap_err().law, Law::Indeterminate);
}
