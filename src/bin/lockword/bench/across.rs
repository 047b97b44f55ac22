//! Ratios across a list: loads that differ in one setting only, such as 64 locks against 1, compared
//! round by round for each lock.

use super::summary::{ROUNDS, disturbances, is_undecided};
use crate::output;
use lockword::contention::statistics::median;
use lockword::contention::{CellReport, ComparisonReport, Load, LockReport, Skew};

/// A setting that can be a list. Not among them are the threads, the work and the rate, which change
/// what the rate of a lock can be.
#[derive(Clone, Copy)]
enum Setting {
    Locks,
    Skew,
    Batch,
    Hog,
    Read,
    Queue,
    Tasks,
}

const SETTINGS: [Setting; 7] = [
    Setting::Locks,
    Setting::Skew,
    Setting::Batch,
    Setting::Hog,
    Setting::Read,
    Setting::Queue,
    Setting::Tasks,
];

impl Setting {
    /// Whether two loads differ in this setting, and in no other, and count the same thing: an item of a queue, or an
    /// acquisition of a task, is no acquisition of a thread.
    fn alone_differs(self, a: &Load, b: &Load) -> bool {
        let mut copy = a.clone();
        let is_kind =
            |load: &Load| (load.read.is_some(), load.queue.is_some(), load.tasks.is_some());
        if is_kind(a) != is_kind(b) {
            return false;
        }
        match self {
            Setting::Locks => copy.locks = b.locks,
            Setting::Skew => copy.skew = b.skew,
            Setting::Batch => copy.batch = b.batch,
            Setting::Hog => copy.hog = b.hog,
            Setting::Read => copy.read = b.read,
            Setting::Queue => copy.queue = b.queue,
            Setting::Tasks => copy.tasks = b.tasks,
        }
        copy == *b && a != b
    }

    /// The value of a load in words.
    fn value(self, load: &Load) -> String {
        match self {
            Setting::Locks => output::count(load.locks, "lock"),
            Setting::Skew => match load.skew {
                Skew::Uniform => "all locks alike".to_owned(),
                Skew::Zipf(exponent) => format!("Zipf's law with {exponent}"),
            },
            Setting::Batch => load.batch.map_or("no batches".to_owned(), |batch| {
                let pause = output::time(batch.pause_ns as f64);
                format!("batches of {} and {pause}", batch.acquisitions)
            }),
            Setting::Hog => {
                load.hog.map_or("no hog".to_owned(), |hog| format!("a hog that holds it for {hog}"))
            }
            Setting::Read => format!("{} % that read", load.read.unwrap_or(0.0)),
            Setting::Queue => format!("a queue of {}", load.queue.unwrap_or(0)),
            Setting::Tasks => output::count(load.tasks.unwrap_or(0), "task"),
        }
    }
}

/// For each setting in which a cell differs from an earlier one, and in no other: how the rates of the
/// locks are to those under the first such cell, in words.
pub fn sentences(report: &ComparisonReport, at: usize) -> Vec<String> {
    let cells = &report.cells;
    let cell = &cells[at];
    if cell.load.arrivals.is_open() {
        // The rate is that of the schedule.
        return vec![];
    }
    let of = |setting: &Setting| {
        let differs = |first: &&CellReport| setting.alone_differs(&first.load, &cell.load);
        let first = cells[..at].iter().find(differs)?;
        let disturbed = disturbances(cell, &report.machine);
        let disturbed = disturbed.iter().zip(disturbances(first, &report.machine));
        let disturbed: Vec<bool> =
            disturbed.map(|(here, there)| here.is_some() || there.is_some()).collect();
        let found = |lock: &LockReport| first.locks.iter().find(|other| other.lock == lock.lock);
        let mut all_count = false;
        let mut locks = vec![];
        for lock in &cell.locks {
            let Some(ratios) = found(lock).map(|other| Ratios::new(lock, other, &disturbed)) else {
                continue;
            };
            all_count |= ratios.counts_disturbed;
            locks.push(in_words(&lock.lock, &ratios.rounds));
        }
        let (value, with) = (setting.value(&cell.load), setting.value(&first.load));
        let all_count = if all_count {
            format!("; disturbed rounds count too, since fewer than {ROUNDS} others are left")
        } else {
            String::new()
        };
        (!locks.is_empty())
            .then(|| format!("{value}, times the rate of {with}: {}{all_count}", locks.join(", ")))
    };
    SETTINGS.iter().filter_map(of).collect()
}

/// The ratios of the rates of a lock under two loads.
struct Ratios {
    /// One for each round in which nothing disturbed either load, or for each round if these are too few
    /// for an interval.
    rounds: Vec<f64>,
    /// Whether disturbed rounds are among them, and so many rounds that they have an interval.
    counts_disturbed: bool,
}

impl Ratios {
    /// `disturbed` is of each round that both have.
    fn new(over: &LockReport, under: &LockReport, disturbed: &[bool]) -> Ratios {
        let rounds = over.samples.iter().zip(&under.samples).zip(disturbed);
        let all = rounds
            .map(|((over, under), disturbed)| (over.per_second() / under.per_second(), *disturbed));
        let all: Vec<(f64, bool)> = all.filter(|(ratio, _)| ratio.is_finite()).collect();
        let undisturbed = all.iter().filter(|(_, disturbed)| !disturbed).count();
        let all_count = undisturbed < ROUNDS;
        let counting = all.iter().filter(|(_, disturbed)| all_count || !disturbed);
        Ratios {
            rounds: counting.map(|(ratio, _)| *ratio).collect(),
            counts_disturbed: all_count && undisturbed < all.len() && all.len() >= ROUNDS,
        }
    }
}

/// A ratio that is known to be this close to 1 is no difference.
const LEVEL: f64 = 0.1;

/// `lockword 3.10 [2.90, 3.30]`.
fn in_words(lock: &str, ratios: &[f64]) -> String {
    if ratios.len() < ROUNDS {
        return format!("{lock} in too few rounds to tell");
    }
    let ratio = median(ratios);
    let undecided = match is_undecided(&ratio) {
        false => "",
        true if ratio.low >= 1.0 - LEVEL && ratio.high <= 1.0 + LEVEL => " (no difference)",
        true => " (not decided)",
    };
    format!("{lock} {} {}{undecided}", output::figure(ratio.mid), output::interval(&ratio))
}

#[cfg(test)]
mod tests {
    use super::super::summary::sample::{cell, lock, report};
    use super::*;
    use lockword::contention::{Arrivals, Work};

    fn sentences(cells: &[CellReport], at: usize) -> Vec<String> {
        super::sentences(&report(cells.to_vec()), at)
    }

    #[test]
    fn disturbed_rounds_are_left_out_if_enough_others_remain() {
        let mut cells = [of(1e6, |_| {}), of(3e6, |load| load.locks = 2)];
        for (round, sample) in cells[1].locks[0].samples.iter_mut().enumerate() {
            if round < 3 {
                sample.elapsed_ns *= 100.0;
                sample.conditions.unit_ns = 2.0;
            }
        }
        assert!(sentences(&cells, 1)[0].ends_with("lockword 3.00 [3.00, 3.00]"));
        // In the other load.
        cells[0].locks[0].samples[3].conditions.unit_ns = 2.0;
        let says = &sentences(&cells, 1)[0];
        assert!(!says.contains("[3.00, 3.00]"), "all of them count: {says}");
        let told = "; disturbed rounds count too, since fewer than 6 others are left";
        assert!(says.ends_with(told), "{says}");
        for cell in &mut cells {
            cell.locks[0].samples.truncate(ROUNDS - 1);
        }
        assert!(sentences(&cells, 1)[0].ends_with("lockword in too few rounds to tell"));
    }

    /// A cell of one lock kind with this rate in each round, times a drift that all cells share.
    fn of(rate: f64, change: impl FnOnce(&mut Load)) -> CellReport {
        let mut found = lock("lockword", rate, 0.0);
        for (round, sample) in found.samples.iter_mut().enumerate() {
            sample.elapsed_ns *= 1.0 + round as f64;
        }
        let mut cell = cell(8, vec![found]);
        change(&mut cell.load);
        cell.name = cell.load.name();
        cell
    }

    #[test]
    fn a_list_is_compared_with_its_first_value_round_by_round() {
        let cells = [
            of(1e6, |_| {}),
            of(1e6, |load| load.threads = 4),
            of(3e6, |load| load.locks = 64),
            of(4e6, |load| load.locks = 256),
            of(9e6, |load| (load.locks, load.threads) = (64, 4)),
        ];
        assert!(sentences(&cells, 0).is_empty() && sentences(&cells, 1).is_empty());
        // Each round is slower than the one before: only the ratios of rounds are that narrow.
        let of_64 = "64 locks, times the rate of 1 lock: lockword 3.00 [3.00, 3.00]";
        assert_eq!(sentences(&cells, 2), [of_64]);
        let of_256 = "256 locks, times the rate of 1 lock: lockword 4.00 [4.00, 4.00]";
        assert_eq!(sentences(&cells, 3), [of_256]);
        assert!(sentences(&cells, 4)[0].contains("lockword 9.00"), "of 4 threads, not of 8");
    }

    #[test]
    fn every_setting_has_words() {
        let base = of(1e6, |_| {});
        let says =
            |change: &dyn Fn(&mut Load)| sentences(&[base.clone(), of(1e6, change)], 1).join("");
        let none = "lockword 1.00 [1.00, 1.00] (no difference)";
        let both = |a: &dyn Fn(&mut Load), b: &dyn Fn(&mut Load)| {
            sentences(&[of(1e6, a), of(1e6, b)], 1).join("")
        };
        let reads = both(&|load| load.read = Some(0.0), &|load| load.read = Some(90.0));
        assert_eq!(reads, format!("90 % that read, times the rate of 0 % that read: {none}"));
        let queues = both(&|load| load.queue = Some(1), &|load| load.queue = Some(4));
        assert!(queues.starts_with("a queue of 4, times the rate of a queue of 1: "), "{queues}");
        // They count something else.
        let kinds: [&dyn Fn(&mut Load); 3] =
            [&|load| load.read = Some(0.0), &|load| load.queue = Some(4), &|load| {
                load.tasks = Some(4)
            }];
        for kind in kinds {
            assert_eq!(says(kind), "");
        }
        let hog = says(&|load| load.hog = Some(Work::clock(1_000)));
        assert!(hog.contains("times the rate of no hog"), "{hog}");
        assert!(says(&|load| load.skew = Skew::Zipf(1.5)).starts_with("Zipf's law with 1.5, "));
        // Neither different threads nor an open loop.
        assert_eq!(says(&|load| load.threads = 2), "");
        let rate = Arrivals::Open { per_second: 1.0 };
        assert_eq!(says(&|load| (load.locks, load.arrivals) = (2, rate.clone())), "");
    }

    #[test]
    fn a_wide_interval_is_not_that_there_is_no_difference() {
        let mut cells = [of(1e6, |_| {}), of(1e6, |load| load.locks = 2)];
        for (sample, factor) in
            cells[1].locks[0].samples.iter_mut().zip([0.5, 1.0, 2.0].iter().cycle())
        {
            sample.elapsed_ns *= factor;
        }
        let says = &sentences(&cells, 1)[0];
        assert!(says.ends_with("lockword 1.00 [0.50, 2.00] (not decided)"), "{says}");
    }

    #[test]
    fn too_few_rounds_are_said() {
        let mut cells = [of(1e6, |_| {}), of(1e6, |load| load.locks = 2)];
        cells[1].locks[0].samples.truncate(ROUNDS - 1);
        assert!(sentences(&cells, 1)[0].ends_with("lockword in too few rounds to tell"));
    }
}
