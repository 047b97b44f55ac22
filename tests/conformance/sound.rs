//! Transports that keep the laws pass the suite.

use lockword::cluster::Memory;
use lockword::cluster::conformance::{self, Law, Suite, SuiteReport};
use lockword::cluster::layers::{Faults, Faulty, Plan};
use std::future::ready;
use std::sync::Mutex;
use std::time::Duration;

const ALL: [Law; 8] = [
    Law::Responses,
    Law::Linearizable,
    Law::Versions,
    Law::Indeterminate,
    Law::Mismatch,
    Law::Watch,
    Law::Dropping,
    Law::Listing,
];

const fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A suite of which each client has faults of its own, around one engine.
fn faulty(plan: Plan, seed: u64) -> Suite<Faulty<Memory>> {
    let (engine, seeds) = (Memory::new(), Mutex::new(fastrand::Rng::with_seed(seed)));
    let deleted = engine.clone();
    let settling = *plan.lateness.end() + *plan.delay.end() * 2;
    let make = move || {
        let seed = seeds.lock().unwrap().u64(..);
        ready(Faulty::new(engine.clone(), plan.clone(), seed))
    };
    let delete_hook = move |key| {
        deleted.delete(&key);
        ready(())
    };
    let call_timeout = Duration::from_secs(100);
    Suite::new(make)
        .seed(seed)
        .delete_hook(delete_hook)
        .settling(settling)
        .call_timeout(call_timeout)
}

fn all_but(report: &SuiteReport, missing: &[Law]) {
    let expected: Vec<Law> = ALL.into_iter().filter(|law| !missing.contains(law)).collect();
    assert_eq!(report.checked, expected, "{report}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn memory_keeps_the_laws_on_many_threads() {
    let engine = Memory::new();
    let report = conformance::run(move || ready(engine.clone())).await.unwrap();
    all_but(&report, &[Law::Indeterminate]);
    assert!(report.operations > 5_000, "{report}");
    let missing: Vec<_> = report.not_checked.iter().map(|missing| missing.law).collect();
    assert_eq!(missing, [Law::Indeterminate, Law::Versions, Law::Versions], "{report}");
}

#[tokio::test]
async fn memory_keeps_the_laws_on_one_thread_and_across_deletions() {
    let (engine, deleted) = (Memory::new(), Memory::new());
    let (made, gone) = (engine.clone(), engine.clone());
    let suite = Suite::new(move || ready(made.clone())).delete_hook(move |key| {
        gone.delete(&key);
        ready(())
    });
    let report = suite.clone().run().await.unwrap();
    assert!(!report.not_checked.iter().any(|missing| missing.what.contains("deletion")));
    // The report says so if the hook deletes nothing.
    let report = suite.delete_hook(move |key| {
        deleted.delete(&key);
        ready(())
    });
    let report = report.run().await.unwrap();
    assert!(report.not_checked.iter().any(|missing| missing.why.contains("still there")));
}

#[tokio::test(start_paused = true)]
async fn delays_and_disturbed_watches_keep_the_laws() {
    for seed in 0..20 {
        let plan = Plan {
            delay: ms(0)..=ms(20),
            lateness: ms(0)..=ms(50),
            repeat: 0.3,
            reorder: 0.3,
            end: 0.1,
            ..Plan::default()
        };
        let report = faulty(plan, seed).rounds(4).run().await;
        all_but(
            &report.unwrap_or_else(|broken| panic!("seed {seed}: {broken}")),
            &[Law::Indeterminate],
        );
    }
}

#[tokio::test(start_paused = true)]
async fn losses_and_late_writes_that_are_reported_keep_the_laws() {
    for seed in 0..20 {
        let plan = Plan {
            delay: ms(0)..=ms(20),
            refuse: 0.05,
            lose_request: 0.05,
            lose_response: 0.1,
            late: 0.1,
            lateness: ms(0)..=ms(300),
            timeout: ms(50),
            repeat: 0.2,
            reorder: 0.2,
            end: 0.2,
            ..Plan::default()
        };
        let next_is_lost = |client: std::sync::Arc<Faulty<Memory>>, _| {
            let faults: Faults = client.faults();
            if fastrand::bool() {
                faults.lose_next_response()
            } else {
                faults.delay_next_write()
            }
            ready(())
        };
        let report = faulty(plan, seed).indeterminate_hook(next_is_lost).rounds(4).run().await;
        let report = report.unwrap_or_else(|broken| panic!("seed {seed}: {broken}"));
        all_but(&report, &[]);
        assert!(report.indeterminate > 100, "{report}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn delays_in_real_time_keep_the_laws() {
    let engine = Memory::new();
    let make = move || ready(Faulty::delayed(engine.clone(), Duration::from_micros(200)));
    all_but(&Suite::new(make).rounds(2).run().await.unwrap(), &[Law::Indeterminate]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_wake_up_breaks_law_5() {
    for seed in 0..20 {
        let plan = Plan { swallow: 0.2, ..Plan::default() };
        let broken = faulty(plan, seed).run().await.unwrap_err();
        assert_eq!(broken.law, Law::Watch, "seed {seed}: {broken}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_cannot_be_reached_breaks_the_rule_that_calls_end() {
    let engine = Memory::new();
    let make = move || {
        let client = Faulty::new(engine.clone(), Plan::default(), 1);
        client.faults().partition(true);
        ready(client)
    };
    let broken = conformance::run(make).await.unwrap_err();
    assert_eq!(broken.law, Law::Responses, "{broken}");
}
