//! Who takes part, and the round-robin that measures them interleaved.

use lockword::contention::peers::{ParkingLot, ParkingLotFair, SpinMutex, Usync};
use lockword::contention::{LockKind, Lockword, Std, StdCompat, rotation};

use super::condvar::CondvarKind;
use super::options::Options;

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

/// One cell of a bench: a load that any lock can be put under, for one short slice of time.
pub trait Workload {
    /// What one slice measures.
    type Sample;

    /// The cell's name, as the filter and the tables use it.
    fn name(&self) -> String;

    /// Sets up, warms up and measures one slice.
    fn run<K: LockKind>(&self) -> Self::Sample;
}

/// A [`Workload`] that needs a condition variable too.
pub trait CondvarWorkload {
    /// What one slice measures.
    type Sample;

    /// The cell's name, as the filter and the tables use it.
    fn name(&self) -> String;

    /// Sets up, warms up and measures one slice.
    fn run<K: CondvarKind>(&self) -> Self::Sample;
}

/// A lock that takes part: a name, and the monomorphised slice to call. The only indirect call
/// is the one that starts a slice.
pub struct Contender<W, S> {
    /// As the tables name it.
    pub name: &'static str,
    /// Whether its waiters go to sleep: the targets speak of "the best peer that parks".
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

/// `lockword::sync::Mutex` under lockword's name, the same without poison, std, parking_lot.
pub fn twins<W: Workload>() -> Vec<Contender<W, W::Sample>> {
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

/// The samples of one lock in one cell; index `i` is round `i` for every lock, so that two
/// locks' samples pair up.
pub struct Series<S> {
    /// The lock.
    pub lock: &'static str,
    /// Whether its waiters go to sleep.
    pub parks: bool,
    /// One sample a round.
    pub samples: Vec<S>,
}

/// A cell and what each lock did in it.
pub struct Cell<W, S> {
    /// The load.
    pub load: W,
    /// One series a lock, in the roster's order.
    pub series: Vec<Series<S>>,
}

/// Measures every lock in every cell, once a round, `rounds` times over.
///
/// Rounds are the outermost loop and locks the innermost: a disturbance of some seconds hits
/// all locks of a cell alike, and no cell in more than a few rounds. The order of the locks changes
/// from round to round ([`rotation`]).
pub fn interleave<W, S>(
    options: &Options,
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
    /// The series of the lock of that name, if it took part.
    pub fn of(&self, lock: &str) -> Option<&Series<S>> {
        self.series.iter().find(|s| s.lock == lock)
    }

    /// The same cell with one figure out of every sample.
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
    /// One figure out of every sample.
    pub fn map(&self, figure: impl Fn(&S) -> f64) -> Vec<f64> {
        self.samples.iter().map(figure).collect()
    }
}
