//! [`BenchPlan`]: the loads, locks and rounds that a preset and the command line ask for; and the
//! locks that the program can measure.

use super::summary::ROUNDS;
use crate::CliError;
use crate::args::{BenchArgs, Preset, RateArg};
use crate::output;
use lockword::contention::peers::{
    AsyncLock, CrossbeamShardedLock, ParkingLotCondvar, ParkingLotFair, ParkingLotRwLock,
    SpinMutex, Tokio, Usync, UsyncRwLock,
};
use lockword::contention::{
    Arrivals, Batch, Comparison, Load, LockwordCondvar, LockwordFair, LockwordRwLock, Skew, Std,
    StdCompat, StdCompatRwLock, StdRwLock, Work,
};
use std::time::Duration;

/// What a run of `bench` measures: all of these locks under all of these loads. A run may have several plans.
pub struct BenchPlan {
    /// The loads.
    pub loads: Vec<Load>,
    /// The names of the locks, in the order of [`KNOWN_LOCKS`].
    pub locks: Vec<String>,
    /// Samples of each lock under each load.
    pub rounds: usize,
    /// For how long to measure until enough rounds are undisturbed.
    pub limit: Option<Duration>,
}

/// The work of the one thread in the preset `gate`, inside and outside.
const GATE_ALONE: (u64, u64) = (10, 10);
/// For how long the preset `gate` measures, in seconds. A round takes less than the rest of twenty
/// seconds.
const GATE_S: u64 = 19;

/// The sum of all slices of the quick preset, in milliseconds. Starting the threads takes time on
/// top of that.
const QUICK_MS: u64 = 42_000;

/// The sum of all slices of the preset `cores`, in milliseconds.
const CORES_MS: u64 = 480_000;

/// The values of a preset on a machine with a given number of processors.
struct PresetMix {
    threads: Vec<u64>,
    /// Work inside and outside, in nanoseconds.
    sections: Vec<(u64, u64)>,
    /// How long the hog holds the lock, in nanoseconds; `None` for a load without a hog.
    hogs: Vec<Option<u64>>,
    /// Shares of reads; empty: no load reads.
    reads: Vec<f64>,
    /// Capacities of queues; empty: there is no queue.
    queues: Vec<u64>,
    locks: &'static [&'static str],
    slice_ms: SliceLength,
    rounds: usize,
}

/// The loads of `--sweep`, in percent of the highest maximum: closer together where the knee is, and
/// beyond it.
const SWEEP: [f64; 13] =
    [10.0, 20.0, 30.0, 40.0, 50.0, 60.0, 70.0, 80.0, 90.0, 95.0, 100.0, 110.0, 120.0];
/// The threads, by the processors, and the work of a sweep that says nothing else.
const SWEEP_SECTION: (u64, u64) = (200, 1000);

/// The length of a slice. That of a preset's first mix counts for all.
#[derive(Clone, Copy)]
enum SliceLength {
    /// In milliseconds.
    Millis(u64),
    /// As long as possible while all slices together take this many milliseconds.
    Total(u64),
}

/// The locks that a program would choose among: neither a fair lock nor one that never sleeps.
const COMMON_LOCKS: &[&str] = &["lockword", "std", "parking_lot", "usync"];
/// The locks whose fairness is worth comparing.
const FAIRNESS_LOCKS: &[&str] =
    &["lockword", "lockword_fair", "std", "parking_lot", "parking_lot_fair"];
/// The locks for loads of which a share reads: a mutex is among them, since it may be the better one.
const READ_LOCKS: &[&str] = &["lockword", "lockword_rw", "std_rw", "parking_lot_rw", "usync_rw"];
/// The reader-writer locks, and a mutex, for many loads.
const CORES_READ_LOCKS: &[&str] = &["lockword", "lockword_rw", "std_rw", "parking_lot_rw"];
/// The locks that have a Condvar.
const QUEUE_LOCKS: &[&str] = &["lockword", "lockword_sync", "std", "parking_lot"];
/// This crate's lock and the one that it is judged by.
const GATE_LOCKS: &[&str] = &["lockword", "std"];
/// The locks to choose among for a short section in a task.
const TASK_LOCKS: &[&str] = &["lockword", "std", "parking_lot", "tokio", "async_lock"];
/// All mutexes but `lockword_sync`.
const FULL_LOCKS: &[&str] =
    &["lockword", "lockword_fair", "std", "parking_lot", "parking_lot_fair", "usync", "spin"];

impl PresetMix {
    /// The mixes of a preset. Each has locks of its own.
    fn all(preset: Preset, processors: u64, times_waits: bool) -> Vec<PresetMix> {
        let p = processors;
        let none = || PresetMix {
            threads: vec![],
            sections: vec![],
            hogs: vec![None],
            reads: vec![],
            queues: vec![],
            locks: COMMON_LOCKS,
            slice_ms: SliceLength::Total(CORES_MS),
            rounds: ROUNDS,
        };
        let one = match preset {
            Preset::Cores => {
                // 1, 2, 4 and so on, and all.
                let doubled = (0..).map(|n| 1 << n).take_while(|n| *n < p);
                let threads: Vec<u64> = doubled.chain([p]).collect();
                let of_queues = threads.iter().copied().filter(|n| *n > 1);
                let of_queues: Vec<u64> = of_queues.chain((p == 1).then_some(2)).collect();
                return vec![
                    PresetMix {
                        threads: threads.clone(),
                        sections: vec![(0, 0), (100, 100), (100, 1000)],
                        ..none()
                    },
                    PresetMix {
                        threads,
                        sections: vec![(100, 100)],
                        reads: vec![90.0, 99.9],
                        locks: CORES_READ_LOCKS,
                        ..none()
                    },
                    PresetMix {
                        threads: of_queues,
                        sections: vec![(100, 100)],
                        queues: vec![16],
                        locks: QUEUE_LOCKS,
                        ..none()
                    },
                ];
            }
            Preset::Quick => PresetMix {
                // The last is four for each processor, but at most 64, or one for each processor
                // if there are more.
                threads: vec![1, 2, p, p.max(64).min(4 * p)],
                // The lock alone; short critical sections; and longer ones with even more work
                // outside.
                sections: vec![(0, 0), (100, 100), (200, 1000)],
                hogs: vec![None],
                locks: COMMON_LOCKS,
                slice_ms: SliceLength::Total(QUICK_MS),
                // The smallest number with which one outlier at either end does not widen the
                // interval.
                rounds: 9,
                ..none()
            },
            Preset::Full => PresetMix {
                threads: (0..).map(|n| 1 << n).take_while(|n| *n <= 4 * p).collect(),
                sections: vec![(0, 0), (100, 100), (100, 1000), (1000, 1000)],
                hogs: vec![None],
                locks: FULL_LOCKS,
                slice_ms: SliceLength::Millis(200),
                rounds: 15,
                ..none()
            },
            Preset::Starvation => PresetMix {
                threads: vec![2, p, 4 * p],
                sections: vec![(200_000, 0)],
                hogs: vec![None, Some(100_000)],
                locks: FAIRNESS_LOCKS,
                // A wait is not longer than its slice, and some locks keep a thread waiting for
                // half a second.
                slice_ms: SliceLength::Millis(2_000),
                rounds: ROUNDS,
                ..none()
            },
            Preset::Gate => PresetMix {
                threads: vec![1, 2, p],
                // Without any work the rate of one thread depends on what else the host runs on the
                // same core: in one state lockword's was 447 M and std's 223 M a second, in another
                // one 322 M and 199 M, with the same unit of work.
                sections: vec![GATE_ALONE, (100, 100), (200, 1000)],
                hogs: vec![None],
                locks: GATE_LOCKS,
                // Shorter than the time for which a scheduler lets a process go on, so that some
                // rounds are undisturbed beside others; where there are more threads, longer than
                // they take to start.
                slice_ms: SliceLength::Millis(if p <= 8 { 2 } else { 10 }),
                // Twice as many slices where waits are timed.
                rounds: if p <= 8 { 300 } else { 80 } / if times_waits { 2 } else { 1 },
                ..none()
            },
            Preset::Oversubscribed => PresetMix {
                threads: vec![4 * p, 16 * p, 64 * p],
                sections: vec![(100, 100), (1000, 1000)],
                hogs: vec![None],
                locks: COMMON_LOCKS,
                slice_ms: SliceLength::Millis(250),
                rounds: 9,
                ..none()
            },
        };
        vec![one]
    }
}

impl BenchPlan {
    /// The plans of the preset of the command line, whose values are replaced by explicit options.
    ///
    /// # Errors
    ///
    /// If one of the loads is not valid, or the preset does not have such loads.
    pub fn all(args: &BenchArgs) -> Result<Vec<BenchPlan>, CliError> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        BenchPlan::on(args, processors as u64)
    }

    /// The plans for a machine with this number of processors.
    fn on(args: &BenchArgs, processors: u64) -> Result<Vec<BenchPlan>, CliError> {
        let has_more = !(args.read.is_empty()
            && args.queue.is_empty()
            && args.tasks.is_empty()
            && args.rate.is_empty()
            && args.n_locks.is_empty()
            && args.zipf.is_empty()
            && args.batch.is_empty()
            && args.hog.is_empty());
        if args.preset == Preset::Cores && (args.sweep || has_more) {
            let why = "--preset cores has loads of its own: of the options of a load it takes --threads, --inside, \
                       --outside and --pin";
            return Err(CliError::new(why));
        }
        if !args.zipf.is_empty() && args.n_locks.iter().all(|locks| *locks == 1) {
            return Err(CliError::new(
                "--zipf chooses among locks: it takes --n-locks of two and more",
            ));
        }
        let mixes = PresetMix::all(args.preset, processors, args.times_waits());
        let length = mixes[0].slice_ms;
        let plans = mixes.into_iter().filter_map(|mix| BenchPlan::of(mix, args, processors));
        let mut plans: Vec<BenchPlan> = plans.collect();
        if plans.is_empty() {
            return Err(CliError::new("none of these locks takes part in the preset"));
        }
        let passes = if args.times_waits() { 2 } else { 1 };
        let slices = |plan: &BenchPlan| plan.loads.len() * plan.locks.len() * plan.rounds * passes;
        let each: Vec<usize> = plans.iter().map(slices).collect();
        let slices: usize = each.iter().sum();
        // The limit is that of all plans together.
        for (plan, own) in plans.iter_mut().zip(each) {
            plan.limit = plan.limit.map(|limit| limit.mul_f64(own as f64 / slices as f64));
        }
        let slice_ms = args.slice.unwrap_or(match length {
            SliceLength::Millis(length) => length,
            SliceLength::Total(all) => (all / slices as u64).clamp(10, 200),
        });
        for load in plans.iter_mut().flat_map(|plan| &mut plan.loads) {
            load.slice_ms = slice_ms;
            load.validate().map_err(|why| CliError::new(format!("{}: {why}", load.name())))?;
        }
        Ok(plans)
    }

    /// The plan of a mix; `None` if it has no load, or no lock takes part in it. The length of the slices is left open.
    fn of(mut mix: PresetMix, args: &BenchArgs, processors: u64) -> Option<BenchPlan> {
        let most = Load::MAX_THREADS as u64;
        mix.threads.iter_mut().for_each(|threads| *threads = most.min(*threads));
        if args.sweep {
            mix.threads = vec![processors.clamp(2, most)];
            mix.sections = vec![SWEEP_SECTION];
        }
        if !args.queue.is_empty() {
            mix.locks = QUEUE_LOCKS;
            mix.queues.clone_from(&args.queue);
        }
        if !args.tasks.is_empty() {
            mix.locks = TASK_LOCKS;
            mix.threads = vec![processors.min(most)];
        }
        if !args.threads.is_empty() {
            mix.threads.clone_from(&args.threads);
        }
        if !mix.queues.is_empty() && (args.threads.is_empty() || args.preset == Preset::Cores) {
            // One thread cannot both push and pop.
            mix.threads.retain(|threads| *threads > 1);
        }
        if mix.threads.is_empty() {
            return None;
        }
        if !(args.queue.is_empty() && args.tasks.is_empty()) {
            mix.hogs = vec![None];
        }
        let explicit_sections = !(args.inside.is_empty() && args.outside.is_empty());
        if explicit_sections {
            let (inside, outside): (Vec<_>, Vec<_>) = mix.sections.into_iter().unzip();
            let inside = if args.inside.is_empty() { inside } else { args.inside.clone() };
            let outside = if args.outside.is_empty() { outside } else { args.outside.clone() };
            let with = |i: u64| outside.iter().map(move |o| (i, *o));
            mix.sections = inside.iter().flat_map(|i| with(*i)).collect();
        }
        if !args.read.is_empty() {
            mix.locks = READ_LOCKS;
            mix.reads.clone_from(&args.read);
        }
        if !args.hog.is_empty() {
            mix.hogs = args.hog.iter().copied().map(Some).collect();
        }
        // In a preset of several mixes, each has the locks that fit it.
        let fits = |name: &&str| args.preset != Preset::Cores || mix.locks.contains(name);
        let named = |name: &&str| args.locks.iter().any(|wanted| wanted == name) && fits(name);
        let locks: Vec<String> = if args.locks.is_empty() {
            mix.locks.iter().map(|name| (*name).to_owned()).collect()
        } else {
            KNOWN_LOCKS.iter().map(|lock| lock.name).filter(named).map(str::to_owned).collect()
        };
        let rounds = args.rounds.map_or(mix.rounds, |rounds| rounds as usize);
        let mut loads = loads(&mix, args, &locks);
        if args.preset == Preset::Gate && args.threads.is_empty() && !explicit_sections {
            // The lock alone with one thread, and the contended loads with more.
            let alone = Work::nanos(GATE_ALONE.0);
            loads.retain(|load| (load.threads == 1) == (load.inside == alone));
        }
        let limit = args.limit.or((args.preset == Preset::Gate).then_some(GATE_S));
        let limit = limit.map(Duration::from_secs);
        let is_empty = locks.is_empty() || loads.is_empty();
        (!is_empty).then_some(BenchPlan { loads, locks, rounds, limit })
    }
}

/// All combinations of the lists, without duplicates.
fn loads(mix: &PresetMix, args: &BenchArgs, locks: &[String]) -> Vec<Load> {
    // The first list varies the slowest.
    let mut loads = vec![Load::new(1).pin(args.pin)];
    vary(&mut loads, &mix.hogs, |load, hog| load.hog = hog.map(Work::clock));
    vary(&mut loads, &mix.sections, |load, (inside, outside)| {
        load.inside = Work::nanos(*inside);
        load.outside = Work::nanos(*outside);
    });
    vary(&mut loads, &args.n_locks, |load, locks| load.locks = *locks as usize);
    vary(&mut loads, &args.zipf, |load, exponent| {
        load.skew = if *exponent == 0.0 { Skew::Uniform } else { Skew::Zipf(*exponent) };
    });
    vary(&mut loads, &args.batch, |load, batch| {
        let (acquisitions, pause_ns) = (batch.acquisitions, batch.pause_ns);
        load.batch = Some(Batch { acquisitions, pause_ns });
    });
    vary(&mut loads, &mix.reads, |load, percent| load.read = Some(*percent));
    vary(&mut loads, &mix.queues, |load, capacity| load.queue = Some(*capacity as usize));
    vary(&mut loads, &args.tasks, |load, tasks| load.tasks = Some(*tasks as usize));
    vary(&mut loads, &arrivals(args, locks), |load, arrivals| load.arrivals = arrivals.clone());
    vary(&mut loads, &mix.threads, |load, threads| load.threads = *threads as usize);
    let mut unique: Vec<Load> = vec![];
    for load in loads {
        if !unique.contains(&load) {
            unique.push(load);
        }
    }
    unique
}

/// Replaces each load by one for each of the values; without values it changes nothing.
fn vary<T>(loads: &mut Vec<Load>, values: &[T], set: impl Fn(&mut Load, &T)) {
    if values.is_empty() {
        return;
    }
    let with = |load: &Load, value| {
        let mut load = load.clone();
        set(&mut load, value);
        load
    };
    let with = &with;
    *loads =
        loads.iter().flat_map(|load| values.iter().map(move |value| with(load, value))).collect();
}

/// The arrivals that the command line asks for, with these locks.
fn arrivals(args: &BenchArgs, locks: &[String]) -> Vec<Arrivals> {
    if args.sweep {
        return SWEEP.map(|percent| Arrivals::OfMaximum { percent, lock: None }).to_vec();
    }
    let reference = locks.iter().find(|lock| *lock == "std").or(locks.first());
    let of = |rate: &RateArg| match *rate {
        RateArg::PerSecond(per_second) => Arrivals::Open { per_second },
        RateArg::Percent(percent) => Arrivals::OfMaximum { percent, lock: reference.cloned() },
    };
    args.rate.iter().map(of).collect()
}

/// A load in words, without its number of threads: `100 ns inside, 1 us outside, 16 locks`.
pub fn describe(load: &Load) -> String {
    let mut text = format!("{} inside, {} outside", load.inside, load.outside);
    let mut add = |more: String| text.push_str(&format!(", {more}"));
    if load.locks > 1 {
        add(format!("{} locks", load.locks));
    }
    if let Skew::Zipf(exponent) = load.skew {
        add(format!("chosen by Zipf's law with {exponent}"));
    }
    if let Some(batch) = &load.batch {
        let pause = output::time(batch.pause_ns as f64);
        add(format!("a pause of {pause} after every {}", batch.acquisitions));
    }
    if let Some(hog) = &load.hog {
        add(format!("a hog that holds it for {hog}"));
    }
    if let Some(percent) = load.read {
        add(format!("{percent} % of them read"));
    }
    if let Some(capacity) = load.queue {
        add(format!("a queue of {capacity}"));
    }
    if let Some(tasks) = load.tasks {
        add(output::count(tasks, "task"));
    }
    match &load.arrivals {
        Arrivals::Closed => {}
        Arrivals::Open { per_second } => {
            add(format!("{} arrivals a second", output::rate(*per_second)));
        }
        Arrivals::OfMaximum { percent, lock: Some(lock) } => {
            add(format!("arrivals at {percent} % of {lock}'s maximum"));
        }
        Arrivals::OfMaximum { percent, lock: None } => {
            add(format!("arrivals at {percent} % of the highest maximum"));
        }
    }
    if load.pin {
        add("pinned".to_owned());
    }
    text
}

/// The number of threads of a load: `1 thread`, `8 threads`, `8 threads (4 push, 4 pop)`.
pub fn describe_threads(load: &Load) -> String {
    let threads = output::count(load.threads, "thread");
    if load.queue.is_none() {
        return threads;
    }
    let (push, pop) = (load.threads / 2, load.threads - load.threads / 2);
    let pop = if pop == 1 { "1 pops".to_owned() } else { format!("{pop} pop") };
    let push = if push == 1 { "1 pushes".to_owned() } else { format!("{push} push") };
    format!("{threads} ({push}, {pop})")
}

/// A lock that the program can measure.
pub struct KnownLock {
    /// The name on the command line and in the report.
    pub name: &'static str,
    /// A description for the help.
    pub about: &'static str,
    /// Adds the lock to a comparison under a name.
    pub add: fn(Comparison, &str) -> Comparison,
}

/// All locks, in the order in which they are measured and shown.
pub const KNOWN_LOCKS: [KnownLock; 16] = [
    KnownLock {
        name: "lockword",
        about: "This crate's lock: waiters spin, then sleep; none starves",
        add: |comparison, name| comparison.lock_with_condvar::<LockwordCondvar>(name),
    },
    KnownLock {
        name: "lockword_sync",
        about: "lockword::sync::Mutex: the same, with std's methods and poisoning",
        add: |comparison, name| comparison.lock_with_condvar::<StdCompat>(name),
    },
    KnownLock {
        name: "lockword_fair",
        about: "lockword::FairMutex: a direct handoff at every unlock",
        add: |comparison, name| comparison.lock::<LockwordFair>(name),
    },
    KnownLock {
        name: "std",
        about: "std::sync::Mutex",
        add: |comparison, name| comparison.lock_with_condvar::<Std>(name),
    },
    KnownLock {
        name: "parking_lot",
        about: "parking_lot::Mutex: a direct handoff every half millisecond or so",
        add: |comparison, name| comparison.lock_with_condvar::<ParkingLotCondvar>(name),
    },
    KnownLock {
        name: "parking_lot_fair",
        about: "parking_lot::FairMutex: a direct handoff at every unlock",
        add: |comparison, name| comparison.lock::<ParkingLotFair>(name),
    },
    KnownLock {
        name: "usync",
        about: "usync::Mutex: a word-sized queue lock",
        add: |comparison, name| comparison.lock::<Usync>(name),
    },
    KnownLock {
        name: "spin",
        about: "spin::Mutex: waiters never sleep",
        add: |comparison, name| comparison.lock::<SpinMutex>(name),
    },
    KnownLock {
        name: "lockword_rw",
        about: "This crate's RwLock: readers run no locked instruction where most of them read",
        add: |comparison, name| comparison.lock::<LockwordRwLock>(name),
    },
    KnownLock {
        name: "lockword_sync_rw",
        about: "lockword::sync::RwLock: the same, with std's methods and poisoning",
        add: |comparison, name| comparison.lock::<StdCompatRwLock>(name),
    },
    KnownLock {
        name: "std_rw",
        about: "std::sync::RwLock",
        add: |comparison, name| comparison.lock::<StdRwLock>(name),
    },
    KnownLock {
        name: "parking_lot_rw",
        about: "parking_lot::RwLock",
        add: |comparison, name| comparison.lock::<ParkingLotRwLock>(name),
    },
    KnownLock {
        name: "usync_rw",
        about: "usync::RwLock",
        add: |comparison, name| comparison.lock::<UsyncRwLock>(name),
    },
    KnownLock {
        name: "sharded_rw",
        about: "crossbeam's ShardedLock: a kibibyte, where each reader takes one of eight locks",
        add: |comparison, name| comparison.lock::<CrossbeamShardedLock>(name),
    },
    KnownLock {
        name: "tokio",
        about: "tokio::sync::Mutex: for tasks (--tasks), first in first out",
        add: |comparison, name| comparison.async_lock::<Tokio>(name),
    },
    KnownLock {
        name: "async_lock",
        about: "async_lock::Mutex: for tasks (--tasks), fair after half a millisecond",
        add: |comparison, name| comparison.async_lock::<AsyncLock>(name),
    },
];

/// Adds the locks of these names, in the order of [`FULL_LOCKS`].
pub fn add_locks(mut comparison: Comparison, names: &[String]) -> Comparison {
    for lock in KNOWN_LOCKS.iter().filter(|lock| names.iter().any(|name| name == lock.name)) {
        comparison = (lock.add)(comparison, lock.name);
    }
    comparison
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use crate::bench::comparison;
    use clap::Parser as _;

    fn plan(words: &[&str], processors: u64) -> BenchPlan {
        let cli = Cli::try_parse_from([&["lockword", "bench"], words].concat()).unwrap();
        let Command::Bench(args) = cli.command else { panic!("it is a bench") };
        let mut plans = BenchPlan::on(&args, processors).unwrap();
        assert_eq!(plans.len(), 1);
        plans.remove(0)
    }

    fn cores(words: &[&str], processors: u64) -> Result<Vec<BenchPlan>, CliError> {
        let words = [&["lockword", "bench", "--preset", "cores"], words].concat();
        let Command::Bench(args) = Cli::try_parse_from(words).unwrap().command else { panic!() };
        BenchPlan::on(&args, processors)
    }

    #[test]
    fn cores_goes_up_to_all_processors_in_ten_minutes() {
        for processors in [1, 2, 3, 4, 16, 96, 128, 512, 1024] {
            let plans = cores(&[], processors).unwrap();
            let expected = plans.iter().map(|plan| comparison(plan, true).expected().as_secs_f64());
            let expected: f64 = expected.sum();
            assert!(expected < 600.0, "{processors} processors: {expected} s");
            for plan in &plans {
                comparison(plan, true).validate().unwrap();
                let most = plan.loads.iter().map(|load| load.threads).max();
                let is_queue = plan.loads[0].queue.is_some();
                assert_eq!(
                    most,
                    Some(if is_queue { processors.max(2) } else { processors } as usize)
                );
            }
        }
        let threads = |plan: &BenchPlan| -> Vec<usize> {
            let first = plan.loads[0].inside;
            let alike = plan.loads.iter().filter(|load| load.inside == first);
            alike.map(|load| load.threads).collect()
        };
        assert_eq!(threads(&cores(&[], 12).unwrap()[0]), [1, 2, 4, 8, 12]);
    }

    #[test]
    fn cores_has_the_locks_that_fit_each_load() {
        let plans = cores(&["--locks", "std,std_rw,usync"], 4).unwrap();
        let locks: Vec<_> = plans.iter().map(|plan| plan.locks.join(" ")).collect();
        assert_eq!(locks, ["std usync", "std_rw", "std"]);
        assert_eq!(cores(&["--locks", "std_rw"], 4).unwrap().len(), 1);
        assert!(cores(&["--locks", "spin"], 4).is_err());
        for more in [&["--read", "90"], &["--hog", "9"], &["--rate", "80%"]] {
            let why = cores(more, 4).err().unwrap().to_string();
            assert!(why.contains("--preset cores has loads of its own"), "{why}");
        }
        let some = cores(&["--threads", "1,2,8"], 4).unwrap();
        let threads = |plan: &BenchPlan| plan.loads.iter().map(|load| load.threads).min();
        assert_eq!(some.iter().map(threads).collect::<Vec<_>>(), [Some(1), Some(1), Some(2)]);
        // One thread is no load for a queue.
        assert_eq!(cores(&["--threads", "1"], 4).unwrap().len(), 2);
    }

    #[test]
    fn a_limit_is_that_of_all_plans_together() {
        let plans = cores(&["--limit", "200"], 4).unwrap();
        let limits: Vec<Duration> = plans.iter().filter_map(|plan| plan.limit).collect();
        assert_eq!(limits.len(), 3);
        let all = limits.iter().sum::<Duration>().as_secs_f64();
        assert!((all - 200.0).abs() < 1e-3, "{limits:?}");
        assert!(limits.iter().all(|limit| *limit > Duration::from_secs(10)), "{limits:?}");
    }

    #[test]
    fn what_would_be_ignored_is_refused_or_left_out() {
        let refusal = |words: &[&str]| {
            let words = [&["lockword", "bench"], words].concat();
            let Command::Bench(args) = Cli::try_parse_from(words).unwrap().command else {
                panic!()
            };
            BenchPlan::on(&args, 4).err().expect("it is refused").to_string()
        };
        assert!(refusal(&["--zipf", "1.1"]).contains("takes --n-locks"));
        assert!(refusal(&["--zipf", "1.1", "--n-locks", "1"]).contains("takes --n-locks"));
        assert!(refusal(&["--queue", "16", "--threads", "1,4"]).contains("queue"));
        // The hog of the preset is not asked for.
        for words in [["--queue", "16"], ["--tasks", "8"]] {
            let plan = plan(&[&["--preset", "starvation"], &words[..]].concat(), 4);
            assert!(plan.loads.iter().all(|load| load.hog.is_none()));
        }
    }

    #[test]
    fn quick_takes_less_than_a_minute() {
        for processors in [1, 2, 4, 16, 64, 256, 1024] {
            for words in [&[][..], &["--threads", "1,2,3,4,5,6,7,8"]] {
                let expected = comparison(&plan(words, processors), true).expected();
                assert!(expected.as_secs() < 55, "{processors} processors: {expected:?}");
            }
        }
    }

    #[test]
    fn quick_has_as_many_threads_as_its_help_says() {
        for (processors, most) in [(1, 4), (2, 8), (16, 64), (32, 64), (128, 128)] {
            let threads = plan(&[], processors).loads.iter().map(|load| load.threads).max();
            assert_eq!(threads, Some(most), "{processors} processors");
        }
    }

    #[test]
    fn starvation_has_long_sections_in_long_slices() {
        for processors in [1, 2, 16, 512] {
            let plan = plan(&["--preset", "starvation"], processors);
            for load in &plan.loads {
                assert_eq!((load.inside, load.outside), (Work::nanos(200_000), Work::nanos(0)));
                assert!(load.slice_ms >= 2_000);
            }
            let hogs = plan.loads.iter().filter(|load| load.hog.is_some()).count();
            assert_eq!(hogs * 2, plan.loads.len());
            let expected = comparison(&plan, true).expected().as_secs();
            assert!(expected <= 13 * 60, "{processors} processors: {expected} s");
        }
    }

    #[test]
    fn gate_takes_twenty_seconds_at_most() {
        for (processors, loads) in [(1, 3), (2, 3), (4, 5), (64, 5), (512, 5)] {
            let plan = plan(&["--preset", "gate"], processors);
            let expected = comparison(&plan, false).expected().as_secs_f64();
            assert!(expected <= 20.0, "{processors} processors: {expected} s");
            assert_eq!(plan.loads.len(), loads, "{processors} processors");
            assert_eq!(plan.locks, GATE_LOCKS);
            assert_eq!(plan.limit, Some(Duration::from_secs(GATE_S)));
        }
    }

    #[test]
    fn every_preset_is_valid() {
        for preset in ["quick", "full", "starvation", "oversubscribed", "gate"] {
            for processors in [1, 2, 512] {
                let plan = plan(&["--preset", preset], processors);
                comparison(&plan, true).validate().unwrap();
            }
        }
    }

    #[test]
    fn explicit_options_override_the_preset() {
        let words = ["--threads", "3,3", "--inside", "7,8", "--outside", "9", "--slice", "5"];
        let words = [&words[..], &["--rounds", "2", "--locks", "usync,std,std"]].concat();
        let plan = plan(&words, 2);
        let names: Vec<String> = plan.loads.iter().map(Load::name).collect();
        assert_eq!(names, ["3 threads, 7/9 ns", "3 threads, 8/9 ns"]);
        assert!(plan.loads.iter().all(|load| load.slice_ms == 5));
        assert_eq!((plan.rounds, plan.locks), (2, vec!["std".to_owned(), "usync".to_owned()]));
    }

    #[test]
    fn every_option_of_a_load_is_used() {
        let words =
            ["--n-locks", "4", "--zipf", "1.5", "--batch", "3:500", "--hog", "900", "--pin"];
        let batch = plan(&words, 2);
        let load = &batch.loads[0];
        assert_eq!((load.locks, load.skew, load.pin), (4, Skew::Zipf(1.5), true));
        assert_eq!(load.batch, Some(Batch { acquisitions: 3, pause_ns: 500 }));
        assert_eq!(load.hog, Some(Work::clock(900)));
        let read = plan(&["--read", "99.9"], 2);
        assert!(read.loads.iter().all(|load| load.read == Some(99.9)));
        assert_eq!(read.locks, READ_LOCKS);
        assert!(describe(&read.loads[0]).ends_with(", 99.9 % of them read"));
        assert_eq!(plan(&["--read", "0", "--locks", "std,std_rw"], 2).locks, ["std", "std_rw"]);
        let open = plan(&["--rate", "1000"], 2);
        assert_eq!(open.loads[0].arrivals, Arrivals::Open { per_second: 1000.0 });
    }

    #[test]
    fn a_queue_has_two_threads_at_least_and_locks_with_a_condvar() {
        let queues = plan(&["--queue", "1,16"], 1);
        assert_eq!(queues.locks, QUEUE_LOCKS);
        assert!(queues.loads.iter().all(|load| load.threads >= 2));
        assert!(queues.loads.iter().any(|load| load.queue == Some(16)));
        comparison(&queues, true).validate().unwrap();
        let three = plan(&["--queue", "16", "--threads", "3"], 2);
        assert!(describe(&three.loads[0]).ends_with(", a queue of 16"));
        assert_eq!(describe_threads(&three.loads[0]), "3 threads (1 pushes, 2 pop)");
        let without = plan(&["--queue", "16", "--locks", "std,usync"], 2);
        let error = comparison(&without, true).validate().expect_err("usync has none");
        assert!(error.to_string().contains("`usync`") && error.to_string().contains("Condvar"));
    }

    #[test]
    fn tasks_have_a_thread_for_each_processor_and_locks_of_both_kinds() {
        let tasks = plan(&["--tasks", "8,64"], 4);
        assert_eq!(tasks.locks, TASK_LOCKS);
        assert!(tasks.loads.iter().all(|load| load.threads == 4));
        assert!(describe(&tasks.loads[0]).ends_with(", 8 tasks"));
        comparison(&tasks, true).validate().unwrap();
        let error = comparison(&plan(&["--locks", "std,tokio"], 2), true).validate();
        assert!(error.expect_err("it is for tasks").to_string().contains("for tasks"));
    }

    #[test]
    fn all_combinations_of_the_lists_are_measured() {
        let words = ["--threads", "2,4", "--inside", "5", "--outside", "5", "--n-locks", "1,64"];
        let more = ["--zipf", "0,1.5", "--batch", "3:500,4:500", "--hog", "7,8", "--read", "0,90"];
        let plan = plan(&[&words[..], &more].concat(), 2);
        assert_eq!(plan.loads.len(), 64);
        let count = |is: &dyn Fn(&Load) -> bool| plan.loads.iter().filter(|load| is(load)).count();
        assert_eq!(count(&|load| load.locks == 64), 32);
        assert_eq!(count(&|load| load.skew == Skew::Uniform), 32);
        assert_eq!(count(&|load| load.hog == Some(Work::clock(8))), 32);
        assert_eq!(count(&|load| load.read == Some(90.0)), 32);
        assert_eq!(count(&|load| load.batch.is_some_and(|batch| batch.acquisitions == 4)), 32);
    }

    #[test]
    fn a_rate_in_percent_is_that_of_std_or_of_the_first_lock() {
        let names = |words: &[&str]| {
            let words = [words, &["--threads", "2", "--inside", "5", "--outside", "5"]].concat();
            plan(&words, 2).loads.iter().map(Load::name).collect::<Vec<_>>()
        };
        assert_eq!(
            names(&["--rate", "1k,80%"]),
            ["2 threads, 5/5 ns, 1000 a second", "2 threads, 5/5 ns, 80 % of std's maximum"]
        );
        let of_first = names(&["--rate", "80%", "--locks", "usync,parking_lot"]);
        assert_eq!(of_first, ["2 threads, 5/5 ns, 80 % of parking_lot's maximum"]);
        let sweep = plan(&["--sweep"], 1);
        assert_eq!(sweep.loads.len(), SWEEP.len());
        assert!(sweep.loads.iter().all(|load| load.threads == 2));
        assert_eq!(sweep.loads[0].name(), "2 threads, 200/1000 ns, 10 % of the highest maximum");
        assert!(comparison(&sweep, true).expected().as_secs() < 60);
    }
}
