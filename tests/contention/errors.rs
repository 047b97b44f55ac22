//! Loads and comparisons that cannot be run are refused with an error that says what is accepted.

use lockword::contention::{
    Arrivals, Batch, Comparison, ComparisonError, Load, LoadError, LockKind, MeasuredMutex, Skew,
    SliceError, Std, StdRwLock, Work,
};
use std::error::Error;
use std::sync::Mutex;

/// The error of a load, which is the same from every function that takes the load.
fn refused(load: Load) -> LoadError {
    let error = load.validate().expect_err("it cannot be run");
    assert_eq!(load.throughput::<Std>(), Err(SliceError::Load(error.clone())));
    assert_eq!(load.timed::<Std>().map(|_| ()), Err(SliceError::Load(error.clone())));
    let all = Comparison::new().lock::<Std>("std").load(load.clone()).run_quietly();
    let named = ComparisonError::Load { load: load.name(), error: error.clone() };
    assert_eq!(all, Err(named));
    error
}

#[test]
fn invalid_loads_are_refused_with_the_accepted_values() {
    let load = || Load::new(2);
    let rate = |per_second| load().arrivals(Arrivals::Open { per_second });
    let batch = |acquisitions| Batch { acquisitions, pause_ns: 10 };
    let cases = [
        (Load::new(0), LoadError::NoThreads, "zero threads"),
        (Load::new(5_000), LoadError::TooManyThreads(5_000), "at most 4096"),
        (load().locks(0), LoadError::NoLocks, "zero locks"),
        (load().locks(100_000), LoadError::TooManyLocks(100_000), "at most 65536"),
        (load().slice_ms(0), LoadError::Slice(0), "1 ms at least"),
        (load().slice_ms(u64::MAX), LoadError::Slice(u64::MAX), "at most"),
        (load().skew(Skew::Zipf(-0.5)), LoadError::Zipf(-0.5), "0 or more"),
        (load().skew(Skew::Zipf(f64::INFINITY)), LoadError::Zipf(f64::INFINITY), "finite"),
        (
            load().inside(Work::nanos(2_000_000_000)),
            LoadError::TooMuchWork(Work::nanos(2_000_000_000)),
            "at most 1000 ms",
        ),
        (
            load().hog(Work::clock(u64::MAX)),
            LoadError::TooMuchWork(Work::clock(u64::MAX)),
            "at most 1000 ms",
        ),
        (load().batch(batch(0)), LoadError::EmptyBatch, "at least one"),
        (rate(0.0), LoadError::Rate(0.0), "above 0"),
        (rate(-1.0), LoadError::Rate(-1.0), "above 0"),
        (rate(1e10), LoadError::Rate(1e10), "at most 1e9"),
        (
            rate(1e-300),
            LoadError::Rate(1e-300),
            "1e-300 arrivals a second: it must be above 0, at least 1e-9",
        ),
        (rate(f64::MIN_POSITIVE), LoadError::Rate(f64::MIN_POSITIVE), "at least 1e-9"),
        (rate(f64::INFINITY), LoadError::Rate(f64::INFINITY), "at most"),
        (rate(10.0).batch(batch(1)), LoadError::BatchesInOpenLoop, "give one of them"),
    ];
    for (load, expected, says) in cases {
        let error = refused(load);
        assert_eq!(error, expected);
        let text = error.to_string();
        assert!(text.contains(says) && !text.contains('\n'), "{text}");
    }
    // NaN is not equal to itself, so the error cannot be compared.
    for load in [load().skew(Skew::Zipf(f64::NAN)), rate(f64::NAN)] {
        let error = load.validate().expect_err("it cannot be run");
        assert!(error.to_string().contains("NaN"), "{error}");
    }
}

#[test]
fn a_queue_has_threads_work_and_batches_only() {
    let queue = || Load::new(2).queue(16);
    assert_eq!(queue().batch(Batch { acquisitions: 1, pause_ns: 1 }).validate(), Ok(()));
    assert_eq!(queue().name(), "2 threads, 100/100 ns, queue of 16");
    let cases = [
        (queue().locks(2), "several locks"),
        (queue().hog(Work::NONE), "a hog"),
        (queue().read(50.0), "reads"),
        (queue().arrivals(Arrivals::Open { per_second: 1.0 }), "a rate"),
    ];
    for (load, what) in cases {
        assert_eq!(refused(load), LoadError::QueueWith(what));
    }
    assert_eq!(refused(Load::new(1).queue(1)), LoadError::QueueOfOneThread);
    for capacity in [0, Load::MAX_QUEUE + 1] {
        assert_eq!(refused(queue().queue(capacity)), LoadError::Queue(capacity));
    }
    assert_eq!(queue().throughput::<Std>(), Err(SliceError::Load(LoadError::NoCondvar)));
}

#[test]
fn tasks_have_threads_work_and_locks_only() {
    let tasks = || Load::new(2).tasks(8);
    assert_eq!(tasks().locks(3).validate(), Ok(()));
    assert_eq!(tasks().name(), "2 threads, 100/100 ns, 8 tasks");
    let cases = [
        (tasks().queue(1), "a queue"),
        (tasks().hog(Work::NONE), "a hog"),
        (tasks().batch(Batch { acquisitions: 1, pause_ns: 1 }), "batches"),
        (tasks().read(50.0), "reads"),
        (tasks().pin(true), "pinning"),
        (tasks().arrivals(Arrivals::Open { per_second: 1.0 }), "a rate"),
    ];
    for (load, what) in cases {
        assert_eq!(refused(load), LoadError::TasksWith(what));
    }
    for number in [0, Load::MAX_TASKS + 1] {
        assert_eq!(refused(Load::new(1).tasks(number)), LoadError::Tasks(number));
    }
    if cfg!(not(feature = "peers")) {
        assert_eq!(tasks().throughput::<Std>(), Err(SliceError::Load(LoadError::NoRuntime)));
    }
}

fn of_maximum(percent: f64, lock: Option<&str>) -> Arrivals {
    Arrivals::OfMaximum { percent, lock: lock.map(str::to_owned) }
}

#[test]
fn a_share_of_a_maximum_is_above_zero_and_measured_in_a_comparison() {
    let load = |percent| Load::new(2).slice_ms(5).arrivals(of_maximum(percent, None));
    for percent in [0.0, -1.0, 1_000.1] {
        assert_eq!(refused(load(percent)), LoadError::Percent(percent));
    }
    assert!(load(f64::NAN).validate().is_err());
    let alone = load(80.0).throughput::<Std>();
    assert_eq!(alone, Err(SliceError::Load(LoadError::UnknownMaximum)));
    let batch = load(80.0).batch(Batch { acquisitions: 1, pause_ns: 1 });
    assert_eq!(batch.validate(), Err(LoadError::BatchesInOpenLoop));
}

#[test]
fn the_limits_of_every_setting_are_accepted() {
    let most = Work::nanos(Work::MAX_NS);
    let rare = Arrivals::Open { per_second: Load::MIN_RATE };
    let least = Load::new(1).inside(Work::NONE).outside(Work::NONE).slice_ms(1);
    let rare = least.clone().arrivals(rare);
    let most = Load::new(Load::MAX_THREADS)
        .inside(most)
        .outside(most)
        .hog(most)
        .locks(Load::MAX_LOCKS)
        .skew(Skew::Zipf(0.0))
        .arrivals(Arrivals::Open { per_second: Load::MAX_RATE })
        .slice_ms(Load::MAX_SLICE_MS);
    assert_eq!((least.validate(), most.validate()), (Ok(()), Ok(())));
    least.throughput::<Std>().expect("it runs");
    // Only the first arrival, at the start, is due in this slice.
    assert!(rare.throughput::<Std>().expect("it runs").total() <= 1);
}

#[test]
fn invalid_comparisons_are_refused() {
    let load = || Load::new(1).slice_ms(1);
    let cases = [
        (Comparison::new().load(load()), ComparisonError::NoLock),
        (Comparison::new().lock::<Std>("a"), ComparisonError::NoLoad),
        (Comparison::new().lock::<Std>("a").load(load()).rounds(0), ComparisonError::NoRounds),
        (
            Comparison::new().lock::<Std>("a").lock::<Std>("b").lock::<Std>("a").load(load()),
            ComparisonError::SameLock("a".to_owned()),
        ),
        (
            Comparison::new().lock::<Std>("a").load(load()).load(load()),
            ComparisonError::SameLoad(load().name()),
        ),
    ];
    let share = |lock: &str| load().arrivals(of_maximum(80.0, Some(lock)));
    let queue = Load { threads: 2, ..load().queue(2) };
    let no_condvar = ComparisonError::Slice {
        lock: "rw".to_owned(),
        load: queue.name(),
        error: SliceError::Load(LoadError::NoCondvar),
    };
    let unknown = ComparisonError::NoSuchLock { load: share("b").name(), lock: "b".to_owned() };
    let cases = cases.into_iter().chain([
        (Comparison::new().lock::<Std>("a").load(share("b")), unknown),
        (
            Comparison::new().lock_with_condvar::<Std>("a").lock::<StdRwLock>("rw").load(queue),
            no_condvar,
        ),
    ]);
    for (comparison, expected) in cases {
        assert_eq!(comparison.validate(), Err(expected.clone()));
        assert_eq!(comparison.run_quietly(), Err(expected.clone()));
        assert!(!expected.to_string().contains('\n'));
    }
}

/// A mutex that panics at the thousandth acquisition, while it is unlocked.
struct Panicking<T>(Mutex<T>, Mutex<u32>);

impl<T: Send> MeasuredMutex<T> for Panicking<T> {
    type Guard<'a>
        = std::sync::MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Panicking(Mutex::new(value), Mutex::new(0))
    }

    fn lock(&self) -> Self::Guard<'_> {
        {
            let mut count = self.1.lock().unwrap_or_else(|error| error.into_inner());
            *count += 1;
            assert!(*count != 1_000, "this lock is worn out");
        }
        self.0.lock().expect("no panic")
    }
}

struct PanickingKind;

impl LockKind for PanickingKind {
    type Mutex<T: Send + Sync> = Panicking<T>;
}

#[test]
fn the_error_of_a_panic_names_the_lock() {
    let load = Load::new(3).slice_ms(3_600_000);
    let comparison = Comparison::new().lock::<PanickingKind>("mine").load(load.clone());
    let error = comparison.run_quietly().expect_err("it panics");
    let reason = SliceError::Panicked("this lock is worn out".to_owned());
    let named =
        ComparisonError::Slice { lock: "mine".to_owned(), load: load.name(), error: reason };
    assert_eq!(error, named);
    assert!(error.to_string().contains("`mine`"), "{error}");
    assert!(error.source().is_some_and(|source| source.to_string().contains("worn out")));
}
