//! Steps of one thread that come after another's whole round of the flag: too far apart for the
//! search of the models, so done here in that order, by one thread.

use super::*;

fn with_a_flag(steps: impl Fn(&Flag) + Send + Sync + 'static) {
    crate::primitive::model_run(move || steps(&Flag(AtomicU32::new(0))));
}

/// One parker's way from quiet to READY. Returns the word.
fn armed(flag: &Flag) -> u32 {
    assert_eq!(flag.arm(), Sleep::Sound);
    flag.0.load(Ordering::Relaxed)
}

#[test]
fn last_step_of_an_old_disarmer_fails() {
    with_a_flag(|flag| {
        let old = flag.clear_ready(armed(flag)).unwrap();
        // A parker arms the bucket meanwhile, and another disarmer begins.
        flag.clear_ready(armed(flag)).unwrap();
        assert!(!flag.swap(old, old & !ARMED), "an old step has disarmed the bucket");
    });
}

#[test]
fn an_old_armer_does_not_set_ready() {
    with_a_flag(|flag| {
        let unready = flag.clear_ready(armed(flag)).unwrap();
        // A parker finds ARMED without READY, and runs `heavy()`.
        let old = flag.set_armed(unready).unwrap();
        // Before it can set READY, the bucket is disarmed, and another parker arms it but has
        // not run `heavy()` yet.
        assert!(flag.swap(unready, unready & !ARMED));
        flag.set_armed(unready & !ARMED).unwrap();
        assert!(!flag.set_ready(old), "READY stands for an old heavy()");
    });
}
