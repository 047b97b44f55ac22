//! [`Plan`]: what a preset and the command line ask for together.

use crate::args::{BenchArgs, Preset};
use crate::failure::Failure;
use crate::summary::ROUNDS;
use crate::{locks, units};
use lockword::contention::{Arrivals, Burst, Load, Skew, Work};

/// What is measured, and for how long.
pub struct Plan {
    /// The loads.
    pub loads: Vec<Load>,
    /// The names of the locks.
    pub locks: Vec<String>,
    /// How often.
    pub rounds: usize,
}

/// What the quick preset may take, in milliseconds. Starting threads comes on top.
const QUICK: u64 = 42_000;

/// A preset, for a machine of so many processors.
struct Mix {
    threads: Vec<u64>,
    /// Nanoseconds inside, and outside.
    sections: Vec<(u64, u64)>,
    /// The hog's nanoseconds, if there is one.
    hogs: Vec<Option<u64>>,
    locks: &'static [&'static str],
    slice_ms: Slice,
    rounds: usize,
}

enum Slice {
    Millis(u64),
    /// As long as possible, so that all of it takes so many milliseconds.
    Of(u64),
}

/// Those that a program would choose among: not a fair lock, not one that never sleeps.
const USUAL: &[&str] = &["lockword", "std", "parking_lot", "usync"];
/// Those that are fair, or are asked how unfair they are.
const PATIENT: &[&str] = &["lockword", "std", "parking_lot", "parking_lot_fair"];
const ALL: &[&str] = &["lockword", "std", "parking_lot", "parking_lot_fair", "usync", "spin"];

impl Mix {
    fn new(preset: Preset, processors: u64) -> Mix {
        let p = processors;
        match preset {
            Preset::Quick => Mix {
                // The last: four a processor, but no more than 64 or one a processor.
                threads: vec![1, 2, p, p.max(64).min(4 * p)],
                // Nothing but the lock, whose price shows; short sections; and longer ones, with more
                // time between them than inside.
                sections: vec![(0, 0), (100, 100), (200, 1000)],
                hogs: vec![None],
                locks: USUAL,
                slice_ms: Slice::Of(QUICK),
                // The fewest with which one outlier at either end does not widen the interval.
                rounds: 9,
            },
            Preset::Full => Mix {
                threads: (0..).map(|n| 1 << n).take_while(|n| *n <= 4 * p).collect(),
                sections: vec![(0, 0), (100, 100), (100, 1000), (1000, 1000)],
                hogs: vec![None],
                locks: ALL,
                slice_ms: Slice::Millis(200),
                rounds: 15,
            },
            Preset::Starvation => Mix {
                threads: vec![2, p, 4 * p],
                sections: vec![(200_000, 0)],
                hogs: vec![None, Some(100_000)],
                locks: PATIENT,
                // A wait is no longer than its slice: some locks keep a thread waiting for half a
                // second.
                slice_ms: Slice::Millis(2_000),
                rounds: ROUNDS,
            },
            Preset::Oversubscribed => Mix {
                threads: vec![4 * p, 16 * p, 64 * p],
                sections: vec![(100, 100), (1000, 1000)],
                hogs: vec![None],
                locks: USUAL,
                slice_ms: Slice::Millis(250),
                rounds: 9,
            },
        }
    }
}

impl Plan {
    /// The preset, and over it what was given explicitly.
    pub fn new(args: &BenchArgs) -> Result<Plan, Failure> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Plan::on(args, processors as u64)
    }

    /// The plan for a machine of so many processors.
    fn on(args: &BenchArgs, processors: u64) -> Result<Plan, Failure> {
        let most = Load::MAX_THREADS as u64;
        let mut mix = Mix::new(args.preset, processors);
        mix.threads.iter_mut().for_each(|threads| *threads = most.min(*threads));
        if !args.threads.is_empty() {
            mix.threads.clone_from(&args.threads);
        }
        if !(args.inside.is_empty() && args.outside.is_empty()) {
            let (inside, outside): (Vec<_>, Vec<_>) = mix.sections.into_iter().unzip();
            let inside = if args.inside.is_empty() { inside } else { args.inside.clone() };
            let outside = if args.outside.is_empty() { outside } else { args.outside.clone() };
            let with = |i: u64| outside.iter().map(move |o| (i, *o));
            mix.sections = inside.iter().flat_map(|i| with(*i)).collect();
        }
        if args.hog.is_some() {
            mix.hogs = vec![args.hog];
        }
        let named = |name: &&str| args.locks.iter().any(|asked| asked == name);
        let locks: Vec<String> = if args.locks.is_empty() {
            mix.locks.iter().map(|name| (*name).to_owned()).collect()
        } else {
            locks::ALL.iter().map(|lock| lock.name).filter(named).map(str::to_owned).collect()
        };
        let rounds = args.rounds.map_or(mix.rounds, |rounds| rounds as usize);

        let mut loads = loads(&mix, args);
        let passes = if args.no_waits { 1 } else { 2 };
        let slices = loads.len() * locks.len() * rounds * passes;
        let slice_ms = args.slice.unwrap_or(match mix.slice_ms {
            Slice::Millis(length) => length,
            Slice::Of(all) => (all / slices as u64).clamp(10, 200),
        });
        for load in &mut loads {
            load.slice_ms = slice_ms;
            load.validate().map_err(|why| Failure::new(format!("{}: {why}", load.name())))?;
        }
        Ok(Plan { loads, locks, rounds })
    }
}

/// All combinations, none twice.
fn loads(mix: &Mix, args: &BenchArgs) -> Vec<Load> {
    let mut loads: Vec<Load> = vec![];
    for hog in &mix.hogs {
        for (inside, outside) in &mix.sections {
            for threads in &mix.threads {
                let mut load = Load::new(*threads as usize)
                    .inside(Work::nanos(*inside))
                    .outside(Work::nanos(*outside));
                load.hog = hog.map(Work::clock);
                load.locks = args.n_locks.map_or(1, |n| n as usize);
                load.skew = args.zipf.map_or(Skew::Uniform, Skew::Zipf);
                load.burst = args.burst.map(|burst| Burst {
                    acquisitions: burst.acquisitions,
                    pause_ns: burst.pause_ns,
                });
                load.arrivals =
                    args.rate.map_or(Arrivals::Closed, |per_second| Arrivals::Open { per_second });
                load.pin = args.pin;
                if !loads.contains(&load) {
                    loads.push(load);
                }
            }
        }
    }
    loads
}

/// A load in words, but for its threads: `100 ns inside, 1 us outside, 16 locks`.
pub fn describe(load: &Load) -> String {
    let mut text = format!("{} inside, {} outside", load.inside, load.outside);
    let mut add = |more: String| text.push_str(&format!(", {more}"));
    if load.locks > 1 {
        add(format!("{} locks", load.locks));
    }
    if let Skew::Zipf(exponent) = load.skew {
        add(format!("chosen by Zipf's law with {exponent}"));
    }
    if let Some(burst) = &load.burst {
        let pause = units::time(burst.pause_ns as f64);
        add(format!("a pause of {pause} after every {}", burst.acquisitions));
    }
    if let Some(hog) = &load.hog {
        add(format!("a hog that holds it for {hog}"));
    }
    if let Arrivals::Open { per_second } = load.arrivals {
        add(format!("{} arrivals a second", units::rate(per_second)));
    }
    if load.pin {
        add("pinned".to_owned());
    }
    text
}

/// `1 thread`, `8 threads`.
pub fn threads(load: &Load) -> String {
    units::count(load.threads, "thread")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::args::{Cli, Command};
    use crate::bench::comparison;
    use clap::Parser as _;

    fn plan(words: &[&str], processors: u64) -> Plan {
        let cli = Cli::try_parse_from([&["lockword", "bench"], words].concat()).unwrap();
        let Command::Bench(args) = cli.command else { panic!("it is a bench") };
        Plan::on(&args, processors).unwrap()
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
    fn every_preset_is_sound() {
        for preset in ["quick", "full", "starvation", "oversubscribed"] {
            for processors in [1, 2, 512] {
                let plan = plan(&["--preset", preset], processors);
                comparison(&plan, true).validate().unwrap();
            }
        }
    }

    #[test]
    fn what_is_given_overrides_the_preset() {
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
            ["--n-locks", "4", "--zipf", "1.5", "--burst", "3:500", "--hog", "900", "--pin"];
        let burst = plan(&words, 2);
        let load = &burst.loads[0];
        assert_eq!((load.locks, load.skew, load.pin), (4, Skew::Zipf(1.5), true));
        assert_eq!(load.burst, Some(Burst { acquisitions: 3, pause_ns: 500 }));
        assert_eq!(load.hog, Some(Work::clock(900)));
        let open = plan(&["--rate", "1000"], 2);
        assert_eq!(open.loads[0].arrivals, Arrivals::Open { per_second: 1000.0 });
    }
}
