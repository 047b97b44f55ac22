//! Each transport of `broken/` is caught, by the law that it breaks.

use crate::broken::drops::{LeaksConnection, MixesResponses, WatchLeaks};
use crate::broken::reads::{
    ComparesWithReplica, DirtyRead, FalseMismatch, Lists, StaleLoad, StaleMismatch,
};
use crate::broken::versions::{Small, Versions};
use crate::broken::watches::{
    FirstOfSeveral, MadeUp, Misses, Once, OneBehind, OnlyTheLast, StartsLate,
};
use crate::broken::writes::{
    AppliedAndFailed, AppliedTwice, EndsAtZero, Forgets, IgnoresCase, LateAfterFailure, LostUpdate,
    NoRetention, SentTwice,
};
use crate::broken::{Broken, Every};
use lockword::cluster::conformance::{Law, Suite, Violation};
use lockword::cluster::layers::Interceptor;
use lockword::cluster::{Memory, Transport};
use std::future::ready;
use std::sync::Arc;
use tokio::sync::Semaphore;

/// How many runs must each catch the bug.
const RUNS: u64 = 20;
/// The rounds of those runs in which the bug shows only in a late part of the suite.
const LATE: usize = 6;
/// The most operations that the history of a violation may have.
const SHORT: usize = 8;

/// A suite for an engine whose clients share what `bug` keeps, as a bug of the server would.
fn of_server<B: Interceptor<Memory>>(bug: B) -> Suite<Broken<B>> {
    let (engine, bug) = (Memory::new(), Arc::new(bug));
    Suite::new(move || ready(Broken::new(engine.clone(), bug.clone())))
}

/// A suite for an engine whose clients each have a bug of their own, as one of the client library.
fn of_clients<B: Interceptor<Memory>>(
    bug: impl Fn() -> B + Send + Sync + 'static,
) -> Suite<Broken<B>> {
    let engine = Memory::new();
    Suite::new(move || ready(Broken::new(engine.clone(), Arc::new(bug()))))
}

/// Every run catches it, by this law, with a short history if responses show the violation.
async fn caught<T: Transport>(law: Law, suite: impl Fn() -> Suite<T>) {
    for seed in 0..RUNS {
        let ended = suite().seed(seed).run().await;
        let broken = ended.map(|report| panic!("run {seed} did not catch it:\n{report}"));
        check(law, seed, &broken.unwrap_err());
    }
}

fn check(law: Law, seed: u64, broken: &Violation) {
    assert_eq!(broken.law, law, "run {seed}: {broken}");
    if let Some(history) = &broken.history {
        assert!(history.operations.len() <= SHORT, "run {seed}: long: {broken}");
    }
    let by_history = [Law::Linearizable, Law::Versions, Law::Indeterminate, Law::Mismatch];
    assert!(broken.history.is_some() || !by_history.contains(&law), "run {seed}: {broken}");
}

#[tokio::test]
async fn a_lost_update_breaks_law_1() {
    caught(Law::Linearizable, || of_server(LostUpdate)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_lost_update_breaks_law_1_on_many_threads() {
    caught(Law::Linearizable, || of_server(LostUpdate)).await;
}

#[tokio::test]
async fn a_lost_acknowledged_write_breaks_law_1() {
    caught(Law::Linearizable, || of_server(Forgets(Every::new(50)))).await;
}

#[tokio::test]
async fn an_idle_register_that_is_deleted_at_once_breaks_law_1() {
    caught(Law::Linearizable, || of_server(NoRetention)).await;
}

#[tokio::test]
async fn a_stale_load_breaks_law_1() {
    caught(Law::Linearizable, || of_server(StaleLoad::new(Every::new(20)))).await;
}

#[tokio::test]
async fn a_dirty_read_breaks_a_law_of_responses() {
    // A load that shows a write too early contradicts other responses, which do not say which of them
    // is wrong.
    let laws = [Law::Linearizable, Law::Versions, Law::Indeterminate, Law::Mismatch];
    for seed in 0..RUNS {
        let broken = of_server(DirtyRead::new()).seed(seed).run().await.unwrap_err();
        assert!(laws.contains(&broken.law), "run {seed}: {broken}");
    }
}

#[tokio::test]
async fn keys_that_share_a_register_break_law_1() {
    caught(Law::Linearizable, || of_server(IgnoresCase)).await;
}

#[tokio::test]
async fn a_list_that_lacks_keys_or_has_no_order_breaks_the_rule_of_lists() {
    for wrong in [Lists::LacksLong, Lists::ByFolder, Lists::Unordered] {
        caught(Law::Listing, || of_server(wrong)).await;
    }
}

#[tokio::test]
async fn a_value_that_is_cut_off_breaks_law_1() {
    caught(Law::Linearizable, || of_server(EndsAtZero)).await;
}

fn of_small(versions: Versions, deletes: bool, steps: bool) -> Suite<Small> {
    let engine = Small::new(versions);
    let (made, deleted) = (engine.clone(), engine.clone());
    let mut suite = Suite::new(move || ready(made.clone())).rounds(LATE);
    if deletes {
        suite = suite.delete_hook(move |key| {
            deleted.delete(&key);
            ready(())
        });
    }
    if steps {
        suite = suite.clock_hook(move || {
            engine.step_back();
            ready(())
        });
    }
    suite
}

#[tokio::test]
async fn a_version_that_restarts_after_deletion_breaks_law_2() {
    caught(Law::Versions, || of_small(Versions::Counted, true, false)).await;
    // Nothing else is wrong with it.
    of_small(Versions::Counted, false, true).run().await.unwrap();
}

#[tokio::test]
async fn a_version_that_follows_a_clock_that_steps_back_breaks_law_2() {
    caught(Law::Versions, || of_small(Versions::Clock, false, true)).await;
    of_small(Versions::Clock, true, false).run().await.unwrap();
}

#[tokio::test]
async fn a_version_that_follows_the_clock_after_deletion_breaks_law_2() {
    caught(Law::Versions, || of_small(Versions::ClockOrMore, true, true)).await;
    of_small(Versions::ClockOrMore, true, false).run().await.unwrap();
    of_small(Versions::ClockOrMore, false, true).run().await.unwrap();
}

#[tokio::test]
async fn a_version_that_is_given_twice_breaks_law_2() {
    caught(Law::Versions, || of_small(Versions::Shared, false, false)).await;
}

#[tokio::test]
async fn a_version_that_is_too_large_is_an_error_that_does_not_pass() {
    caught(Law::Responses, || of_small(Versions::TooLarge, false, false)).await;
}

#[tokio::test]
async fn a_write_that_is_sent_again_breaks_law_3() {
    caught(Law::Indeterminate, || of_clients(|| SentTwice(Every::new(20)))).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_write_that_is_sent_again_breaks_law_3_on_many_threads() {
    caught(Law::Indeterminate, || of_clients(|| SentTwice(Every::new(20)))).await;
}

#[tokio::test]
async fn a_write_that_is_applied_twice_breaks_law_3() {
    caught(Law::Indeterminate, || of_clients(|| AppliedTwice(Every::new(20)))).await;
}

#[tokio::test(start_paused = true)]
async fn a_late_write_that_was_reported_as_a_failure_breaks_law_3() {
    caught(Law::Indeterminate, || of_clients(|| LateAfterFailure(Every::new(20)))).await;
}

#[tokio::test]
async fn a_lost_response_that_is_reported_as_a_failure_breaks_law_3() {
    caught(Law::Indeterminate, || of_clients(|| AppliedAndFailed(Every::new(20)))).await;
}

#[tokio::test]
async fn a_stale_mismatch_breaks_law_4() {
    caught(Law::Mismatch, || of_server(StaleMismatch::new(Every::new(10)))).await;
}

#[tokio::test]
async fn a_mismatch_by_comparison_with_a_replica_breaks_law_4() {
    caught(Law::Mismatch, || of_server(ComparesWithReplica::new(Every::new(10)))).await;
}

#[tokio::test]
async fn a_mismatch_of_an_equal_version_breaks_law_4() {
    caught(Law::Mismatch, || of_server(FalseMismatch(Every::new(50)))).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_misses_a_change_breaks_law_5() {
    caught(Law::Watch, || of_server(Misses(2)).rounds(LATE)).await;
    caught(Law::Watch, || of_server(Misses(3)).rounds(LATE)).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_begins_after_it_was_opened_breaks_law_5() {
    caught(Law::Watch, || of_server(StartsLate).rounds(LATE)).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_shows_one_change_only_breaks_law_5() {
    caught(Law::Watch, || of_server(Once).rounds(LATE)).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_forgets_what_was_not_read_in_time_breaks_law_5() {
    caught(Law::Watch, || of_server(FirstOfSeveral).rounds(LATE)).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_replaces_another_breaks_law_5() {
    caught(Law::Watch, || of_server(OnlyTheLast::new()).rounds(LATE)).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_makes_a_value_up_breaks_law_5() {
    caught(Law::Watch, || of_server(MadeUp).rounds(LATE)).await;
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_is_one_change_behind_breaks_law_5() {
    caught(Law::Watch, || of_server(OneBehind).rounds(LATE)).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_that_leaks_its_connection_breaks_law_6() {
    caught(Law::Dropping, || of_clients(|| LeaksConnection::new(1)).rounds(LATE)).await;
    caught(Law::Dropping, || of_clients(|| LeaksConnection::new(8)).rounds(LATE)).await;
}

#[tokio::test(start_paused = true)]
async fn a_dropped_watch_that_leaks_its_connection_breaks_law_6() {
    caught(Law::Dropping, || of_clients(|| WatchLeaks(Semaphore::new(1))).rounds(LATE)).await;
}

#[tokio::test]
async fn a_dropped_call_whose_response_goes_to_the_next_breaks_law_6() {
    caught(Law::Dropping, || of_clients(MixesResponses::default).rounds(LATE)).await;
}
