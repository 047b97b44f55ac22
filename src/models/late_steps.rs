//! Steps of one thread that come after another's whole round of the hint: too far apart for the
//! search of the models, so done here in that order, by one thread.

use super::*;

fn with_a_hint(steps: impl Fn(&AtomicU32) + Send + Sync + 'static) {
    crate::primitive::model_run(move || steps(&AtomicU32::new(0)));
}

/// One parker's way from quiet to READY. Returns the word.
fn armed(hint: &AtomicU32) -> u32 {
    assert_eq!(arm(hint), Sleep::Sound);
    hint.load(Ordering::Relaxed)
}

#[test]
fn last_step_of_an_old_disarmer_fails() {
    with_a_hint(|hint| {
        let old = withdraw(hint, armed(hint)).unwrap();
        // A parker arms the bucket meanwhile, and another disarmer begins.
        withdraw(hint, armed(hint)).unwrap();
        assert!(!swap(hint, old, old & !ARMED), "an old step has disarmed the bucket");
    });
}

#[test]
fn announcement_of_an_old_armer_fails() {
    with_a_hint(|hint| {
        let unready = withdraw(hint, armed(hint)).unwrap();
        // A parker finds ARMED without READY, and runs `heavy()`.
        let old = raise(hint, unready).unwrap();
        // Before it can announce that, the bucket is disarmed, and another parker arms it but has
        // not run `heavy()` yet.
        assert!(swap(hint, unready, unready & !ARMED));
        raise(hint, unready & !ARMED).unwrap();
        assert!(!announce(hint, old), "an old heavy() has been announced");
    });
}
