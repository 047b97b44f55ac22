//! Comparisons: the order of slices, progress, cancellation.

use lockword::contention::statistics::median;
use lockword::contention::{
    Arrivals, Comparison, ComparisonReport, Load, LockKind, Lockword, MeasuredMutex, Std, Work,
};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

fn load(threads: usize) -> Load {
    Load::new(threads).inside(Work::units(5)).outside(Work::units(5)).slice_ms(2)
}

fn samples(report: &ComparisonReport) -> Vec<Vec<usize>> {
    let of = |cell: &lockword::contention::CellReport| {
        cell.locks.iter().map(|lock| lock.samples.len()).collect()
    };
    report.cells.iter().map(of).collect()
}

#[test]
fn locks_take_turns_and_have_one_sample_a_round() {
    let comparison = Comparison::new()
        .lock::<Lockword>("lockword")
        .lock::<Std>("std")
        .load(load(1).slice_ms(20))
        .load(load(2).slice_ms(20))
        .rounds(3)
        .waits(true)
        .command(vec!["a".to_owned(), "b c".to_owned()]);
    let mut seen = vec![];
    let report = comparison
        .run(
            &mut |progress| {
                assert_eq!((progress.total, progress.rounds), (24, 3));
                assert_eq!(progress.done, seen.len());
                seen.push((
                    progress.round,
                    progress.cell.to_owned(),
                    progress.timed,
                    progress.lock.to_owned(),
                ));
            },
            &AtomicBool::new(false),
        )
        .expect("it runs");
    assert_eq!(comparison.total_slices(), 24);
    assert_eq!(seen.len(), 25, "one before each slice, and one at the end");
    seen.pop();
    // Rounds outermost, then loads, then passes.
    assert!(seen.is_sorted_by_key(|(round, cell, timed, _)| (*round, cell.clone(), *timed)));
    let firsts: Vec<&str> = seen.chunks(2).map(|pair| pair[0].3.as_str()).collect();
    assert_eq!(firsts[..4], ["lockword"; 4], "in the first round");
    assert_eq!(firsts[4..8], ["std"; 4], "reversed in the second round");

    assert_eq!(samples(&report), [[3, 3], [3, 3]]);
    assert!(!report.cut_short && report.rounds == 3);
    assert_eq!(report.command, ["a", "b c"]);
    for cell in &report.cells {
        assert_eq!(cell.name, cell.load.name());
        for lock in &cell.locks {
            let waits = lock.waits.as_ref().expect("waits are timed");
            assert!(waits.count > 0 && waits.p50 <= waits.p99 && waits.p999 <= waits.max);
            assert!(lock.samples.iter().any(|sample| sample.total() > 0));
        }
    }
}

#[test]
fn waits_are_timed_only_on_request() {
    let report = Comparison::new().lock::<Std>("std").load(load(1)).run_quietly();
    let report = report.expect("it runs");
    assert_eq!(samples(&report), [[5]], "five rounds by default");
    assert!(report.cells[0].locks[0].waits.is_none());
}

#[test]
fn the_expected_duration_is_about_the_sum_of_the_slices() {
    let load = load(2).slice_ms(1_000);
    let comparison = Comparison::new().lock::<Std>("std").lock::<Lockword>("lockword");
    let comparison = comparison.load(load).rounds(4);
    let seconds = comparison.expected().as_secs_f64();
    assert!((8.0..9.0).contains(&seconds), "{seconds}");
    let seconds = comparison.waits(true).expected().as_secs_f64();
    assert!((16.0..17.0).contains(&seconds), "{seconds}");
}

/// When a lock of the kind [`Cancels`] cancels its comparison.
struct Trigger {
    /// In the slice with this number, warm-ups included, from 1.
    slice: usize,
    /// When so many acquisitions have been requested.
    requests: usize,
    created: AtomicUsize,
    cancel: AtomicBool,
    at: Mutex<Option<Instant>>,
}

impl Trigger {
    const fn new(slice: usize, requests: usize) -> Trigger {
        let (created, cancel) = (AtomicUsize::new(0), AtomicBool::new(false));
        Trigger { slice, requests, created, cancel, at: Mutex::new(None) }
    }
}

/// One for each test, since a lock has no other way to its test.
static TRIGGERS: [Trigger; 2] = [Trigger::new(4, 1), Trigger::new(2, 16)];

/// std's, with the trigger of this number.
struct Cancels<const NUMBER: usize>;

struct CancelsMutex<const NUMBER: usize, T> {
    mutex: Mutex<T>,
    slice: usize,
    requests: AtomicUsize,
}

impl<const NUMBER: usize, T: Send> MeasuredMutex<T> for CancelsMutex<NUMBER, T> {
    type Guard<'a>
        = MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        let slice = TRIGGERS[NUMBER].created.fetch_add(1, Ordering::Relaxed) + 1;
        CancelsMutex { mutex: Mutex::new(value), slice, requests: AtomicUsize::new(0) }
    }

    fn lock(&self) -> Self::Guard<'_> {
        let trigger = &TRIGGERS[NUMBER];
        let requests = self.requests.fetch_add(1, Ordering::Relaxed) + 1;
        if (self.slice, requests) == (trigger.slice, trigger.requests) {
            *trigger.at.lock().expect("no panic") = Some(Instant::now());
            trigger.cancel.store(true, Ordering::Relaxed);
        }
        self.mutex.lock().expect("no panic")
    }
}

impl<const NUMBER: usize> LockKind for Cancels<NUMBER> {
    type Mutex<T: Send + Sync> = CancelsMutex<NUMBER, T>;
}

#[test]
fn a_cancelled_comparison_reports_what_was_measured_before() {
    let hour = load(2).slice_ms(Load::MAX_SLICE_MS);
    let comparison = Comparison::new().lock::<Cancels<0>>("lock").load(load(1)).load(hour);
    let mut last = String::new();
    let mut progress =
        |progress: &lockword::contention::Progress<'_>| last = progress.cell.to_owned();
    // Each load has a warm-up first, so it is during the slice of an hour.
    let report = comparison.rounds(2).run(&mut progress, &TRIGGERS[0].cancel).expect("it runs");
    assert_eq!(samples(&report), [[1], [0]], "the slice that was cut is dropped");
    assert!(report.cut_short && report.rounds == 2);
    assert_eq!(report.cells[1].name, last);
}

#[test]
fn a_cancellation_ends_a_queue_of_long_sections() {
    // 16 threads wait for a lock that is held for a second at a time.
    let load = Load::new(16).inside(Work::nanos(Work::MAX_NS)).slice_ms(Load::MAX_SLICE_MS);
    let comparison = Comparison::new().lock::<Cancels<1>>("lock").load(load);
    let trigger = &TRIGGERS[1];
    let report = comparison.run(&mut |_| {}, &trigger.cancel).expect("it runs");
    let at = trigger.at.lock().expect("no panic").expect("the last of them requested it");
    // Some 100 ms on an idle machine; 16 s if every waiter executed its section.
    let took = at.elapsed();
    assert!(report.cut_short && took < Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_comparison_that_is_cancelled_before_the_start_measures_nothing() {
    let comparison = Comparison::new().lock::<Std>("std").load(load(1));
    let mut calls = 0;
    let report = comparison.run(&mut |_| calls += 1, &AtomicBool::new(true)).expect("it runs");
    assert!(report.cut_short && calls == 0);
    assert_eq!(samples(&report), [[0]]);
}

/// Sections of a millisecond: at most 1,000 a second, and not many fewer.
fn slow(percent: f64, lock: Option<&str>) -> Load {
    Load::new(2)
        .inside(Work::clock(1_000_000))
        .outside(Work::NONE)
        .slice_ms(60)
        .arrivals(Arrivals::OfMaximum { percent, lock: lock.map(str::to_owned) })
}

/// A mutex, each of whose sections takes two milliseconds more.
struct Slower<T>(std::sync::Mutex<T>);

impl<T: Send> MeasuredMutex<T> for Slower<T> {
    type Guard<'a>
        = std::sync::MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Slower(std::sync::Mutex::new(value))
    }

    fn lock(&self) -> Self::Guard<'_> {
        let guard = self.0.lock().expect("no panic");
        std::thread::sleep(std::time::Duration::from_millis(2));
        guard
    }
}

struct SlowerKind;

impl LockKind for SlowerKind {
    type Mutex<T: Send + Sync> = Slower<T>;
}

#[test]
fn a_share_is_that_of_the_lock_it_names_or_of_the_highest_maximum() {
    let comparison = Comparison::new().lock::<SlowerKind>("slower").lock::<Std>("std").rounds(1);
    let loads = [slow(50.0, Some("std")), slow(50.0, Some("slower")), slow(100.0, None)];
    let names = loads.clone().map(|load| load.name());
    let report = loads.into_iter().fold(comparison, Comparison::load).run_quietly();
    let report = report.expect("it runs");
    let [std, slower, highest] = [0, 1, 2].map(|at| report.cells[at].offered.expect("resolved"));
    // 1,000 and 333 a second at most; a busy machine serves fewer.
    assert!(std <= 501.0 && slower <= 167.0 && highest <= 1_001.0, "{std}, {slower}, {highest}");
    assert!(slower < std && highest >= 2.0 * std - 0.01, "{std}, {slower}, {highest}");
    // Each maximum is measured again at the end.
    for (cell, lock) in report.cells.iter().zip(["std", "slower", "std"]) {
        let maximum = cell.maximum.as_ref().expect("of which it is a share");
        assert_eq!((maximum.lock.as_str(), maximum.after.len()), (lock, 3));
        let percent = 100.0 * cell.offered.expect("resolved") / median(&maximum.before).mid;
        assert!((percent - if cell.name == names[2] { 100.0 } else { 50.0 }).abs() < 1e-6);
        assert!(maximum.before.iter().chain(&maximum.after).all(|rate| *rate > 0.0), "{maximum:?}");
    }
    // Every lock is offered the same, and names do not depend on what was measured.
    let first = &report.cells[0];
    assert!(first.locks.iter().all(|lock| lock.samples[0].per_second() <= std * 1.1));
    assert_eq!([0, 1, 2].map(|at| report.cells[at].name.clone()), names);
    assert!(names[0].ends_with(", 50 % of std's maximum"), "{names:?}");
    assert_eq!(report.cells[0].load, slow(50.0, Some("std")));
}
