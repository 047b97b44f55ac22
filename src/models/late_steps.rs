//! Steps of one thread that come after another's whole round of the hint: too far apart for the
//! search of the models, so done here in that order, by one thread.

use super::*;

fn with_a_hint(steps: impl Fn(&Hint) + Send + Sync + 'static) {
    crate::primitive::model_run(move || steps(&Hint::new()));
}

/// One parker's way from quiet to READY. Returns the word.
fn armed(hint: &Hint) -> u32 {
    assert_eq!(hint.arm(), Ok(Sleep::Sound));
    hint.0.load(Ordering::Relaxed)
}

#[test]
fn last_step_of_an_old_disarmer_fails() {
    with_a_hint(|hint| {
        let old = hint.withdraw(armed(hint)).unwrap();
        // A parker arms the bucket meanwhile, and another disarmer begins.
        hint.withdraw(armed(hint)).unwrap();
        assert!(!hint.swap(old, old & !ARMED), "an old step has disarmed the bucket");
    });
}

#[test]
fn announcement_of_an_old_armer_fails() {
    with_a_hint(|hint| {
        let unready = hint.withdraw(armed(hint)).unwrap();
        // A parker finds ARMED without READY, and runs `heavy()`.
        let old = hint.raise(unready).unwrap();
        // Before it can announce that, the bucket is disarmed, and another parker arms it but has
        // not run `heavy()` yet.
        assert!(hint.swap(unready, unready & !ARMED));
        hint.raise(unready & !ARMED).unwrap();
        assert!(!hint.announce(old), "an old heavy() has been announced");
    });
}
