//! What can be seen of a slice only from inside: single locks, and locks that do not come back.

use super::*;
use crate::contention::{Arrivals, Burst, Lockword, Skew, Std, Work};
use std::ops::{Deref, DerefMut};

fn slice<F: Family>(load: &Load, pass: Pass) -> Slice {
    let slice = measure::<F>(load, pass, &AtomicBool::new(false));
    slice.expect("it runs").expect("nobody cancels it")
}

fn load(threads: usize) -> Load {
    Load::new(threads).inside(Work::units(10)).outside(Work::units(10)).slice_ms(20)
}

/// Each lock's share of all acquisitions, in percent.
fn shares(load: &Load) -> Vec<f64> {
    let counts = slice::<Lockword>(load, Pass::Count).each_lock;
    let sum: u64 = counts.iter().sum();
    counts.iter().map(|count| 100.0 * *count as f64 / sum as f64).collect()
}

#[test]
fn the_skew_of_the_choice_is_that_of_the_locks() {
    // A whole number of rounds through the tables, but for their last.
    let load = load(2).locks(4).slice_ms(100);
    let even = shares(&load);
    assert!(even.iter().all(|share| (20.0..30.0).contains(share)), "{even:?}");
    // 1, 1/4, 1/9, 1/16: 70, 18, 8, 4 of a hundred.
    let skewed = shares(&load.skew(Skew::Zipf(2.0)));
    for (share, expected) in skewed.iter().zip([70.2, 17.6, 7.8, 4.4]) {
        assert!((share - expected).abs() < 3.0, "{skewed:?}");
    }
}

#[test]
fn the_hog_holds_the_first_lock_and_is_counted_apart() {
    // The other leaves it room.
    let load = load(1).outside(Work::clock(1_000_000)).locks(3).slice_ms(200);
    let load = load.hog(Work::clock(1_000_000));
    let slice = slice::<Lockword>(&load, Pass::Count);
    let hog = slice.sample.hog_acquisitions.expect("there is one");
    assert!(hog > 0 && hog as f64 <= slice.sample.elapsed_ns / 1e6, "{hog}");
    assert!(slice.each_lock[0] >= hog);
    let late = slice.each_lock.iter().sum::<u64>() - slice.sample.total() - hog;
    assert!(late <= 2, "{late} after the end");
}

#[test]
fn every_kind_of_loop_counts_under_the_lock_what_it_counts_outside() {
    let burst = Burst { acquisitions: 3, pause_ns: 1_000 };
    let open = Arrivals::Open { per_second: 50_000.0 };
    for pass in [Pass::WarmUp, Pass::Count, Pass::Time] {
        for locks in [1, 5] {
            for work in [Work::units(5), Work::nanos(200_000), Work::clock(1_000)] {
                let closed = load(3).locks(locks).inside(work).slice_ms(5);
                let (bursts, open) = (closed.clone().burst(burst), closed.clone().arrivals(open));
                for load in [closed, bursts, open] {
                    let slice = slice::<Std>(&load, pass);
                    assert_eq!(slice.sample.acquisitions.len(), 3, "{}", load.name());
                    assert_eq!(slice.each_lock.len(), locks);
                    let entries: u64 = slice.each_lock.iter().sum();
                    let late = entries - slice.sample.total();
                    assert!(late <= 3, "{late} after the end");
                    assert_eq!(slice.waits.is_some(), pass == Pass::Time);
                    let waits = slice.waits.map_or(entries, |waits| waits.count());
                    assert!(waits >= entries, "{waits} waits");
                }
            }
        }
    }
}

fn tally() -> Tally {
    Tally { acquisitions: 5, late: 1, intrusions: 0, unpinned: false, cpu: None, waits: None }
}

#[test]
fn a_count_that_is_short_is_no_mutual_exclusion() {
    let now = Duration::from_millis(1);
    let judge = |counted| evaluate(vec![tally(), tally()], Some(tally()), counted, now);
    // All entries are checked; those before the end count.
    let slice = judge(vec![10, 8]).expect("as many under the lock");
    assert_eq!((slice.sample.total(), slice.sample.hog_acquisitions), (10, Some(5)));
    let error = SliceError::NoMutualExclusion { counted: 17, acquisitions: 18 };
    assert_eq!(judge(vec![10, 7]).err(), Some(error));
}

/// It lets another thread in at each access to the data, of which none is torn: so no increment is
/// ever lost.
struct Ajar<T>(Mutex<T>);

struct Door<'a, T>(&'a Ajar<T>, Option<std::sync::MutexGuard<'a, T>>);

impl<T> Deref for Door<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.1.as_ref().expect("inside")
    }
}

impl<T> DerefMut for Door<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.1 = None;
        thread::sleep(Duration::from_micros(50));
        self.1.insert(self.0.0.lock().expect("no panic"))
    }
}

impl<T: Send> Lock<T> for Ajar<T> {
    type Guard<'a>
        = Door<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Ajar(Mutex::new(value))
    }

    fn lock(&self) -> Self::Guard<'_> {
        Door(self, Some(self.0.lock().expect("no panic")))
    }
}

struct AjarFamily;

impl Family for AjarFamily {
    type Mutex<T: Send> = Ajar<T>;
}

#[test]
fn a_thread_that_comes_in_is_noticed_though_no_increment_is_lost() {
    let load = load(3).slice_ms(200);
    for pass in [Pass::WarmUp, Pass::Time] {
        match measure::<AjarFamily>(&load, pass, &AtomicBool::new(false)).err() {
            Some(SliceError::Intrusion { intrusions, acquisitions }) => {
                assert!(0 < intrusions && intrusions <= acquisitions);
            }
            other => panic!("{pass:?}: {other:?}"),
        }
    }
    // The pass that only counts does not check for it.
    let slice = slice::<AjarFamily>(&load, Pass::Count);
    assert!(slice.each_lock[0] > 0);
    // One thread alone is not disturbed.
    let alone = Load { threads: 1, ..load };
    assert!(measure::<AjarFamily>(&alone, Pass::Time, &AtomicBool::new(false)).is_ok());
}

#[test]
fn a_processor_that_the_system_refuses_is_noticed() {
    // No machine has so many.
    let field = Field::<Std>::new(&load(1), vec![1_000_000]);
    field.stop.store(true, Ordering::Relaxed);
    let work = |field: &Field<Std>| {
        let tally = field.work(Role::Worker(0), Pass::Count, || Some(Instant::now()));
        tally.expect("it ran").unpinned
    };
    assert!(work(&field));
    let field = Field::<Std>::new(&load(1), vec![]);
    field.stop.store(true, Ordering::Relaxed);
    assert!(!work(&field), "nobody asked for one");
    let refused = evaluate(
        vec![tally(), Tally { unpinned: true, ..tally() }],
        Some(Tally { unpinned: true, ..tally() }),
        vec![18],
        Duration::from_millis(1),
    );
    assert_eq!(refused.expect("nothing is wrong").unpinned, 2);
}

#[test]
fn all_threads_start_at_the_same_time() {
    let gate = Gate::default();
    gate.open(true);
    let first = gate.pass().expect("there is something to do");
    thread::sleep(Duration::from_millis(1));
    assert_eq!((gate.pass(), gate.first_start()), (Some(first), Some(first)));
    let shut = Gate::default();
    shut.open(false);
    assert_eq!((shut.pass(), shut.first_start()), (None, None));
}

/// A lock that is never released, whatever its guard does.
struct Kept<T>(Mutex<T>, Mutex<bool>, Condvar);

impl<T: Send> Lock<T> for Kept<T> {
    type Guard<'a>
        = std::sync::MutexGuard<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Kept(Mutex::new(value), Mutex::new(false), Condvar::new())
    }

    fn lock(&self) -> Self::Guard<'_> {
        let taken = self.1.lock().expect("no panic");
        *self.2.wait_while(taken, |taken| *taken).expect("no panic") = true;
        self.0.lock().expect("no panic")
    }
}

struct KeptFamily;

impl Family for KeptFamily {
    type Mutex<T: Send> = Kept<T>;
}

#[test]
fn a_lock_that_is_never_released_is_an_error() {
    let error = measure::<KeptFamily>(&load(3), Pass::Count, &AtomicBool::new(false)).err();
    assert_eq!(error, Some(SliceError::Stuck { threads: 3 }));
}

#[test]
fn a_lock_that_is_never_released_holds_up_no_cancellation() {
    let cancelled = AtomicBool::new(true);
    let slice = measure::<KeptFamily>(&load(3).slice_ms(3_600_000), Pass::Time, &cancelled);
    assert!(slice.expect("no error").is_none());
}

/// A lock that panics for whoever comes after the first hundred, and stays locked.
struct Panicking<T>(Kept<T>, Mutex<u32>);

struct Opened<'a, T>(std::sync::MutexGuard<'a, T>, &'a Kept<T>);

impl<T> Deref for Opened<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T> DerefMut for Opened<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.0
    }
}

impl<T> Drop for Opened<'_, T> {
    fn drop(&mut self) {
        *self.1.1.lock().expect("no panic") = false;
        self.1.2.notify_one();
    }
}

impl<T: Send> Lock<T> for Panicking<T> {
    type Guard<'a>
        = Opened<'a, T>
    where
        T: 'a;

    fn new(value: T) -> Self {
        Panicking(Kept::new(value), Mutex::new(0))
    }

    fn lock(&self) -> Self::Guard<'_> {
        let guard = self.0.lock();
        let count = {
            let mut count = self.1.lock().expect("no panic");
            *count += 1;
            *count
        };
        if count > 100 {
            drop(guard);
            panic!("this lock is worn out");
        }
        Opened(guard, &self.0)
    }
}

struct PanickingFamily;

impl Family for PanickingFamily {
    type Mutex<T: Send> = Panicking<T>;
}

#[test]
fn a_panic_of_the_lock_is_an_error_though_the_others_never_come_back() {
    let load = load(4).slice_ms(3_600_000);
    let error = measure::<PanickingFamily>(&load, Pass::Count, &AtomicBool::new(false)).err();
    assert_eq!(error, Some(SliceError::Panicked("this lock is worn out".to_owned())));
}
