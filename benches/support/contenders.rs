//! The locks that take part, the interface of condition variables, and the round-robin that
//! measures the locks interleaved.

use lockword::contention::peers::{ParkingLot, ParkingLotFair, SpinMutex, Usync};
use lockword::contention::{LockApi, LockKind, Lockword, MeasuredMutex, Std, StdCompat, rotation};

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

/// The guard of kind `K`'s mutex around a `T`.
pub type Guard<'a, K, T> = <<K as LockKind>::Mutex<T> as MeasuredMutex<T>>::Guard<'a>;

/// A lock kind that has a condition variable.
pub trait CondvarKind: LockKind {
    /// The condition variable.
    type Condvar: Send + Sync + Default;

    /// Releases the mutex, waits for a notification, and acquires the mutex again. It may also
    /// return without a notification, so callers must loop.
    fn wait<'a, T: Send>(condvar: &Self::Condvar, guard: Guard<'a, Self, T>) -> Guard<'a, Self, T>;

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
    fn wait<'a, T: Send>(
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
    fn wait<'a, T: Send>(condvar: &Self::Condvar, guard: Guard<'a, Self, T>) -> Guard<'a, Self, T> {
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
    fn wait<'a, T: Send>(
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

/// A lock that takes part, and the function that measures a slice of it. Starting a slice is the
/// only indirect call.
pub struct Contender<W, S> {
    /// The name in the tables.
    pub name: &'static str,
    /// Whether waiters go to sleep. Some targets compare with the best peer that parks.
    pub parks: bool,
    run: fn(&W) -> S,
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

/// [`mutexes`] and parking_lot's FairMutex.
pub fn mutexes_and_fair<W: Workload>() -> Vec<Contender<W, W::Sample>> {
    let mut all = mutexes();
    let fair = Contender { name: PARKING_LOT_FAIR, parks: true, run: W::run::<ParkingLotFair> };
    all.insert(3, fair);
    all
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
/// round to round ([`rotation`]).
pub fn interleave<W, S>(
    options: &BenchOptions,
    cells: Vec<W>,
    contenders: &[Contender<W, S>],
    rounds: usize,
) -> Vec<Cell<W, S>> {
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
                let sample = (contenders[turn].run)(&cell.load);
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

    /// The same cell with one figure of each sample.
    pub fn into_figures(self, figure: impl Fn(&S) -> f64) -> Cell<W, f64> {
        let map = |series: &Series<S>| Series {
            lock: series.lock,
            parks: series.parks,
            samples: series.map(&figure),
        };
        Cell { load: self.load, series: self.series.iter().map(map).collect() }
    }
}

impl<S> Series<S> {
    /// One figure of each sample.
    pub fn map(&self, figure: impl Fn(&S) -> f64) -> Vec<f64> {
        self.samples.iter().map(figure).collect()
    }
}
