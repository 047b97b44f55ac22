//! The settings of a load: threads, work, batches, the hog, the number of locks, pinning.
//!
//! Work by the clock and sleeps take at least their time on any machine, which gives an upper bound
//! for the acquisitions of a slice.

use lockword::contention::{
    Arrivals, Batch, Load, LockKind, LockwordRwLock, MeasuredMutex, Sample, Std, Work, system,
    unit_ns,
};
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex};
use std::thread;
use std::time::Duration;

const MS: u64 = 1_000_000;

fn idle(threads: usize) -> Load {
    Load::new(threads).inside(Work::NONE).outside(Work::NONE).slice_ms(40)
}

fn run(load: &Load) -> Sample {
    load.throughput::<Std>().expect("it runs")
}

/// The length of a slice in milliseconds.
fn ms(sample: &Sample) -> f64 {
    sample.elapsed_ns / 1e6
}

#[test]
fn the_acquisitions_of_each_thread_are_counted() {
    for threads in [1, 2, 5] {
        let sample = run(&idle(threads));
        assert_eq!(sample.acquisitions.len(), threads);
        assert!(sample.total() > 0);
        assert!(ms(&sample) >= 39.9, "the slice counts from the first start");
        assert_eq!(sample.hog_acquisitions, None);
        assert_eq!(sample.cpu_ns_each().is_some_and(|ns| ns > 0.0), cfg!(unix), "{sample:?}");
    }
}

#[test]
fn work_inside_is_exclusive_and_work_outside_is_not() {
    // 1 ms inside: one acquisition a millisecond, for any number of threads.
    let inside = run(&idle(4).inside(Work::clock(MS)));
    assert!(inside.total() as f64 <= ms(&inside), "{inside:?}");
    // 1 ms outside: one acquisition a millisecond for each thread, and one before.
    let outside = run(&idle(4).outside(Work::clock(MS)));
    for count in &outside.acquisitions {
        assert!(*count as f64 <= ms(&outside) + 1.0, "{outside:?}");
    }
}

#[test]
fn a_section_that_ends_after_the_slice_does_not_count() {
    // 64 threads wait for sections of 10 ms. After the end of the slice, each still gets the lock.
    let load = idle(64).inside(Work::clock(10 * MS));
    let open = load.clone().arrivals(Arrivals::Open { per_second: 1e6 });
    for load in [load.clone(), open, load.batch(Batch { acquisitions: 2, pause_ns: 10 })] {
        let (timed, waits) = load.timed::<Std>().expect("it runs");
        for sample in [run(&load), timed] {
            let inside = 10.0 * sample.total() as f64;
            assert!(inside <= ms(&sample) + 10.0, "{}: {sample:?}", load.name());
        }
        assert!(waits.count() >= 1, "the waits at the end are recorded");
    }
    // The section of the hog that the end cuts short does not count either.
    let sample = run(&idle(1).hog(Work::clock(500 * MS)));
    let hog = sample.hog_acquisitions.expect("there is one");
    assert!(500.0 * hog as f64 <= ms(&sample), "{sample:?}");
}

#[test]
fn work_in_nanoseconds_takes_that_long() {
    // The calibration takes the fastest of some tries, so work cannot be much faster. Work inside
    // and outside does not overlap, even if it is short.
    for (inside, outside) in [(2_000, 3_000), (20, 20)] {
        let load = idle(1).inside(Work::nanos(inside)).outside(Work::nanos(outside));
        let sample = run(&load);
        let spent = sample.total() as f64 * (inside + outside) as f64;
        assert!(spent <= 1.3 * sample.elapsed_ns + 10_000.0, "{spent} ns in {sample:?}");
    }
    let units = f64::from(Work::nanos(5_000).units_of());
    assert!((units - 5_000.0 / unit_ns()).abs() <= 0.5, "{units}");
    let units = Work::units(1_000);
    assert_eq!((units.units_of(), Work::NONE.units_of()), (1_000, 0));
    assert!((units.nominal_ns() - 1_000.0 * unit_ns()).abs() < 1e-6);
}

#[test]
fn a_batch_ends_with_a_pause() {
    // Four acquisitions, then a sleep of 5 ms.
    let sample = run(&idle(1).batch(Batch { acquisitions: 4, pause_ns: 5 * MS }));
    assert!(sample.total() as f64 <= 4.0 * (ms(&sample) / 5.0 + 1.0), "{sample:?}");
    assert!(sample.total() > 4);
}

#[test]
fn a_hog_holds_the_lock_for_its_time_and_is_counted_apart() {
    // The other threads leave time for it.
    let load = idle(2).outside(Work::clock(MS)).slice_ms(200);
    let sample = run(&load.hog(Work::clock(2 * MS)));
    let hog = sample.hog_acquisitions.expect("there is one");
    assert!(hog > 0 && hog as f64 <= ms(&sample) / 2.0, "{sample:?}");
    assert_eq!(sample.acquisitions.len(), 2, "the hog is not one of the threads");
}

/// A mutex that counts how many are created.
struct Counted<T>(Mutex<T>);
static MADE: AtomicUsize = AtomicUsize::new(0);

impl<T: Send> MeasuredMutex<T> for Counted<T> {
    type Guard<'a>
        = std::sync::MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        MADE.fetch_add(1, Ordering::Relaxed);
        Counted(Mutex::new(value))
    }

    fn lock(&self) -> Self::Guard<'_> {
        self.0.lock().expect("no panic")
    }
}

struct CountedKind;

impl LockKind for CountedKind {
    type Mutex<T: Send + Sync> = Counted<T>;
}

#[test]
fn as_many_locks_are_created_as_the_load_has() {
    idle(2).locks(7).slice_ms(1).throughput::<CountedKind>().expect("it runs");
    assert_eq!(MADE.load(Ordering::Relaxed), 7);
}

/// A mutex that records on which processors each thread that locks it may run.
struct Watchful<T>(Mutex<T>);
static SEEN: Mutex<BTreeSet<(String, Vec<usize>)>> = Mutex::new(BTreeSet::new());

impl<T: Send> MeasuredMutex<T> for Watchful<T> {
    type Guard<'a>
        = std::sync::MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Watchful(Mutex::new(value))
    }

    fn lock(&self) -> Self::Guard<'_> {
        let thread = thread::current().name().unwrap_or_default().to_owned();
        SEEN.lock().expect("no panic").insert((thread, system::processors()));
        self.0.lock().expect("no panic")
    }
}

struct WatchfulKind;

impl LockKind for WatchfulKind {
    type Mutex<T: Send + Sync> = Watchful<T>;
}

#[test]
fn each_pinned_thread_may_run_on_one_processor() {
    let processors = system::processors();
    if processors.is_empty() {
        return;
    }
    idle(3).pin(true).throughput::<WatchfulKind>().expect("it runs");
    let seen = std::mem::take(&mut *SEEN.lock().expect("no panic"));
    for (thread, allowed) in seen {
        // The thread that reads the counters at the end is not part of the load.
        let Some(number) = thread.strip_prefix("lockword-load-").and_then(|n| n.parse().ok())
        else {
            continue;
        };
        let number: usize = number;
        assert_eq!(allowed, [processors[number % processors.len()]], "{thread}");
    }
    assert_eq!(system::processors(), processors, "the affinity of this thread is unchanged");
}

/// A lock whose first reader stays in until a second one is in, too.
struct Meeting<T: Send + Sync>(<LockwordRwLock as LockKind>::Mutex<T>);
static READERS: Mutex<usize> = Mutex::new(0);
static ENTERED: Condvar = Condvar::new();

impl<T: Send + Sync> MeasuredMutex<T> for Meeting<T> {
    type Guard<'a>
        = <<LockwordRwLock as LockKind>::Mutex<T> as MeasuredMutex<T>>::Guard<'a>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Meeting(MeasuredMutex::new(value))
    }

    fn lock(&self) -> Self::Guard<'_> {
        MeasuredMutex::lock(&self.0)
    }

    fn read<R>(&self, section: impl FnOnce(&T) -> R) -> R {
        MeasuredMutex::read(&self.0, |value| {
            let mut readers = READERS.lock().expect("no panic");
            *readers += 1;
            ENTERED.notify_all();
            let limit = Duration::from_secs(30);
            let met = ENTERED.wait_timeout_while(readers, limit, |readers| *readers < 2);
            assert!(!met.expect("no panic").1.timed_out(), "no second reader comes in");
            section(value)
        })
    }
}

struct MeetingKind;

impl LockKind for MeetingKind {
    type Mutex<T: Send + Sync> = Meeting<T>;
}

#[test]
fn readers_are_in_at_the_same_time() {
    // Each section takes 1 ms.
    let load = idle(4).inside(Work::clock(MS)).slice_ms(100).read(100.0);
    let together = load.throughput::<MeetingKind>().expect("it runs");
    assert!(*READERS.lock().expect("no panic") >= 2);
    assert!(together.acquisitions.iter().all(|count| *count as f64 <= ms(&together) + 1.0));
    let alone = run(&load);
    assert!(alone.total() as f64 <= ms(&alone), "a mutex locks to read: {alone:?}");
}

#[test]
fn a_share_of_reads_is_part_of_the_load() {
    let load = Load::new(2).read(99.5);
    assert_eq!(load.name(), "2 threads, 100/100 ns, 99.5 % read");
    assert_eq!(load.validate(), Ok(()));
    for percent in [-0.1, 100.1, f64::NAN, f64::INFINITY] {
        let refused = Load::new(1).read(percent).validate().expect_err("not a percentage");
        assert!(refused.to_string().contains("from 0 to 100"), "{refused}");
    }
    let json = serde_json::to_string(&load).expect("writes");
    assert!(json.contains(r#""read":99.5"#));
    assert_eq!(serde_json::from_str::<Load>(&json).expect("reads"), load);
    // Reports of before know nothing of it.
    let json = serde_json::to_string(&Load::new(2)).expect("writes");
    assert!(!json.contains("read\""), "{json}");
    assert_eq!(serde_json::from_str::<Load>(&json).expect("reads"), Load::new(2));
}
