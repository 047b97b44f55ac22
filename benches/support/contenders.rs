//! The locks that take part, the interface of condition variables, and the round-robin that
//! measures the locks interleaved.

use std::time::Instant;

use lockword::contention::peers::{
    CrossbeamShardedLock, ParkingLot, ParkingLotFair, ParkingLotRwLock, SpinMutex, Usync,
    UsyncRwLock,
};
use lockword::contention::{
    LockApi, LockKind, Lockword, LockwordRwLock, MeasuredMutex, Std, StdCompat, StdRwLock, rotation,
};

use super::beside::BusyProcesses;
use super::options::BenchOptions;

/// The crate under test, as the tables name it.
pub const LOCKWORD: &str = "lockword";
/// `std::sync::Mutex`, as the tables name it.
pub const STD: &str = "std";
/// `parking_lot::Mutex`, as the tables name it.
pub const PARKING_LOT: &str = "parking_lot";
/// `parking_lot::FairMutex`, as the tables name it.
pub const PARKING_LOT_FAIR: &str = "pl-fair";
/// `spin::Mutex`, as the tables name it.
pub const SPIN: &str = "spin";
/// `usync::Mutex`, as the tables name it.
pub const USYNC: &str = "usync";

/// crossbeam's ShardedLock, as the tables name it.
pub const SHARDED: &str = "sharded";

/// The guard of kind `K`'s mutex around a `T`.
pub type Guard<'a, K, T> = <<K as LockKind>::Mutex<T> as MeasuredMutex<T>>::Guard<'a>;

/// A lock kind that has a condition variable.
pub trait CondvarKind: LockKind {
    /// The condition variable.
    type Condvar: Send + Sync + Default;

    /// Releases the mutex, waits for a notification, and acquires the mutex again. It may also
    /// return without a notification, so callers must loop.
    fn wait<'a, T: Send + Sync>(
        condvar: &Self::Condvar,
        guard: Guard<'a, Self, T>,
    ) -> Guard<'a, Self, T>;

    /// Wakes one waiter, if there is one.
    fn notify_one(condvar: &Self::Condvar);

    /// Wakes all waiters.
    fn notify_all(condvar: &Self::Condvar);
}

/// A raw lock_api mutex whose crate has a raw condition variable for it.
pub trait HasRawCondvar: lock_api::RawMutex + Send + Sync + 'static {
    /// The raw condition variable.
    type RawCondvar: lock_api::RawCondvar<RawMutex = Self> + Send + Sync;
}

impl HasRawCondvar for lockword::RawLock {
    type RawCondvar = lockword::RawCondvar;
}

impl HasRawCondvar for parking_lot::RawMutex {
    type RawCondvar = parking_lot::RawCondvar;
}

impl<R: HasRawCondvar> CondvarKind for LockApi<R> {
    type Condvar = lock_api::Condvar<R::RawCondvar>;

    #[inline]
    fn wait<'a, T: Send + Sync>(
        condvar: &Self::Condvar,
        mut guard: Guard<'a, Self, T>,
    ) -> Guard<'a, Self, T> {
        condvar.wait(&mut guard);
        guard
    }

    #[inline]
    fn notify_one(condvar: &Self::Condvar) {
        condvar.notify_one();
    }

    #[inline]
    fn notify_all(condvar: &Self::Condvar) {
        condvar.notify_all();
    }
}

impl CondvarKind for Std {
    type Condvar = std::sync::Condvar;

    #[inline]
    fn wait<'a, T: Send + Sync>(
        condvar: &Self::Condvar,
        guard: Guard<'a, Self, T>,
    ) -> Guard<'a, Self, T> {
        condvar.wait(guard).unwrap()
    }

    #[inline]
    fn notify_one(condvar: &Self::Condvar) {
        condvar.notify_one();
    }

    #[inline]
    fn notify_all(condvar: &Self::Condvar) {
        condvar.notify_all();
    }
}

impl CondvarKind for Usync {
    type Condvar = usync::Condvar;

    #[inline]
    fn wait<'a, T: Send + Sync>(
        condvar: &Self::Condvar,
        mut guard: Guard<'a, Self, T>,
    ) -> Guard<'a, Self, T> {
        condvar.wait(&mut guard);
        guard
    }

    #[inline]
    fn notify_one(condvar: &Self::Condvar) {
        condvar.notify_one();
    }

    #[inline]
    fn notify_all(condvar: &Self::Condvar) {
        condvar.notify_all();
    }
}

/// A lock kind whose mutex can be waited for until a point in time.
pub trait TimedKind: LockKind {
    /// Blocks until the mutex is acquired or `deadline` has passed: then the result is `None`.
    fn lock_until<T: Send + Sync>(
        mutex: &Self::Mutex<T>,
        deadline: Instant,
    ) -> Option<Guard<'_, Self, T>>;
}

impl<R> TimedKind for LockApi<R>
where
    R: lock_api::RawMutexTimed<Instant = Instant> + Send + Sync + 'static,
{
    #[inline]
    fn lock_until<T: Send + Sync>(
        mutex: &Self::Mutex<T>,
        deadline: Instant,
    ) -> Option<Guard<'_, Self, T>> {
        mutex.try_lock_until(deadline)
    }
}

/// A cell of a bench: a load that can be measured with any lock, in short slices.
pub trait Workload {
    /// What one slice measures.
    type Sample;

    /// The cell's name, as the filter and the tables use it.
    fn name(&self) -> String;

    /// Sets up, warms up and measures one slice.
    fn run<K: LockKind>(&self) -> Self::Sample;
}

/// The same for a load that needs a condition variable.
pub trait CondvarWorkload {
    /// What one slice measures.
    type Sample;

    /// The cell's name, as the filter and the tables use it.
    fn name(&self) -> String;

    /// Sets up, warms up and measures one slice.
    fn run<K: CondvarKind>(&self) -> Self::Sample;
}

/// The same for a load whose threads wait until a point in time.
pub trait TimedWorkload {
    /// What one slice measures.
    type Sample;

    /// The cell's name, as the filter and the tables use it.
    fn name(&self) -> String;

    /// Sets up, warms up and measures one slice.
    fn run<K: TimedKind>(&self) -> Self::Sample;
}

/// A lock that takes part, and the function that measures a slice of it. Starting a slice is the
/// only indirect call.
pub struct Contender<W, S> {
    /// The name in the tables.
    pub name: &'static str,
    /// Whether waiters go to sleep. Some targets compare with the best peer that parks. ShardedLock, whose waiters
    /// do, is none of these peers: it takes a kibibyte.
    pub parks: bool,
    run: fn(&W) -> S,
}

impl<W, S> Contender<W, S> {
    /// Sets up, warms up and measures one slice with this lock.
    pub fn measure(&self, load: &W) -> S {
        (self.run)(load)
    }
}

/// lockword, std, parking_lot, usync, spin.
pub fn mutexes<W: Workload>() -> Vec<Contender<W, W::Sample>> {
    vec![
        Contender { name: LOCKWORD, parks: true, run: W::run::<Lockword> },
        Contender { name: STD, parks: true, run: W::run::<Std> },
        Contender { name: PARKING_LOT, parks: true, run: W::run::<ParkingLot> },
        Contender { name: USYNC, parks: true, run: W::run::<Usync> },
        Contender { name: SPIN, parks: false, run: W::run::<SpinMutex> },
    ]
}

/// The reader-writer locks of lockword, std, parking_lot, usync, and crossbeam's ShardedLock.
pub fn rwlocks<W: Workload>() -> Vec<Contender<W, W::Sample>> {
    vec![
        Contender { name: LOCKWORD, parks: true, run: W::run::<LockwordRwLock> },
        Contender { name: STD, parks: true, run: W::run::<StdRwLock> },
        Contender { name: PARKING_LOT, parks: true, run: W::run::<ParkingLotRwLock> },
        Contender { name: USYNC, parks: true, run: W::run::<UsyncRwLock> },
        Contender { name: SHARDED, parks: false, run: W::run::<CrossbeamShardedLock> },
    ]
}

/// [`mutexes`] and parking_lot's FairMutex.
pub fn mutexes_and_fair<W: Workload>() -> Vec<Contender<W, W::Sample>> {
    let mut all = mutexes();
    let fair = Contender { name: PARKING_LOT_FAIR, parks: true, run: W::run::<ParkingLotFair> };
    all.insert(3, fair);
    all
}

/// lockword, std, parking_lot: for loads of thousands of threads.
pub fn common_mutexes<W: Workload>() -> Vec<Contender<W, W::Sample>> {
    let mut all = mutexes();
    all.retain(|contender| [LOCKWORD, STD, PARKING_LOT].contains(&contender.name));
    all
}

/// The locks that can be waited for until a point in time: lockword, parking_lot.
pub fn timed_mutexes<W: TimedWorkload>() -> Vec<Contender<W, W::Sample>> {
    vec![
        Contender { name: LOCKWORD, parks: true, run: W::run::<Lockword> },
        Contender { name: PARKING_LOT, parks: true, run: W::run::<ParkingLot> },
    ]
}

/// `lockword::sync::Mutex` under lockword's name, lockword without poison, std, parking_lot.
pub fn std_compat_mutexes<W: Workload>() -> Vec<Contender<W, W::Sample>> {
    vec![
        Contender { name: LOCKWORD, parks: true, run: W::run::<StdCompat> },
        Contender { name: "no-poison", parks: true, run: W::run::<Lockword> },
        Contender { name: STD, parks: true, run: W::run::<Std> },
        Contender { name: PARKING_LOT, parks: true, run: W::run::<ParkingLot> },
    ]
}

/// The locks that come with a condition variable: all but spin.
pub fn condvars<W: CondvarWorkload>() -> Vec<Contender<W, W::Sample>> {
    vec![
        Contender { name: LOCKWORD, parks: true, run: W::run::<Lockword> },
        Contender { name: STD, parks: true, run: W::run::<Std> },
        Contender { name: PARKING_LOT, parks: true, run: W::run::<ParkingLot> },
        Contender { name: USYNC, parks: true, run: W::run::<Usync> },
    ]
}

/// The samples of one lock in one cell. Index `i` is round `i` for every lock, so that the samples
/// of two locks can be compared round by round.
pub struct Series<S> {
    /// The lock.
    pub lock: &'static str,
    /// Whether waiters go to sleep.
    pub parks: bool,
    /// One sample a round.
    pub samples: Vec<S>,
}

/// A cell, and the samples of each lock.
pub struct Cell<W, S> {
    /// The load.
    pub load: W,
    /// One series for each lock.
    pub series: Vec<Series<S>>,
}

/// Measures every lock in every cell once a round.
///
/// Rounds are the outermost loop and locks the innermost: a disturbance of some seconds affects all
/// locks of a cell alike, and each cell in a few rounds only. The order of the locks changes from
/// round to round ([`rotation`]). If the options say so, busy processes run beside it all.
pub fn interleave<W, S>(
    options: &BenchOptions,
    cells: Vec<W>,
    contenders: &[Contender<W, S>],
    rounds: usize,
) -> Vec<Cell<W, S>> {
    interleave_by(options, cells, contenders, rounds, Contender::measure)
}

/// [`interleave`], where `measure` measures a slice: in another process, for one.
pub fn interleave_by<W, S>(
    options: &BenchOptions,
    cells: Vec<W>,
    contenders: &[Contender<W, S>],
    rounds: usize,
    measure: impl Fn(&Contender<W, S>, &W) -> S,
) -> Vec<Cell<W, S>> {
    let _busy = BusyProcesses::start(if rounds > 0 { options.beside } else { 0 });
    let mut measured: Vec<Cell<W, S>> = cells
        .into_iter()
        .map(|load| Cell {
            load,
            series: contenders
                .iter()
                .map(|c| Series { lock: c.name, parks: c.parks, samples: Vec::new() })
                .collect(),
        })
        .collect();

    for round in 0..rounds {
        options.progress(round, rounds);
        for cell in &mut measured {
            for turn in rotation(round, contenders.len()) {
                let sample = measure(&contenders[turn], &cell.load);
                cell.series[turn].samples.push(sample);
            }
        }
    }
    if rounds > 0 {
        eprintln!();
    }
    measured
}

impl<W, S> Cell<W, S> {
    /// The series of the lock with this name, if it took part.
    pub fn of(&self, lock: &str) -> Option<&Series<S>> {
        self.series.iter().find(|s| s.lock == lock)
    }

    /// A copy of the cell with one figure of each sample.
    pub fn figures(&self, figure: impl Fn(&S) -> f64) -> Cell<W, f64>
    where
        W: Clone,
    {
        Cell { load: self.load.clone(), series: self.series_of(figure) }
    }

    /// The same cell with one figure of each sample.
    pub fn into_figures(self, figure: impl Fn(&S) -> f64) -> Cell<W, f64> {
        let series = self.series_of(figure);
        Cell { load: self.load, series }
    }

    /// The series, with one figure of each sample.
    fn series_of(&self, figure: impl Fn(&S) -> f64) -> Vec<Series<f64>> {
        let map = |series: &Series<S>| Series {
            lock: series.lock,
            parks: series.parks,
            samples: series.map(&figure),
        };
        self.series.iter().map(map).collect()
    }
}

impl<S> Series<S> {
    /// One figure of each sample.
    pub fn map(&self, figure: impl Fn(&S) -> f64) -> Vec<f64> {
        self.samples.iter().map(figure).collect()
    }
}
