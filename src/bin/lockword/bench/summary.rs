//! [`LoadSummary`]: the figures and the verdict that the table, the page and the comparison with a
//! baseline show for a load.

use super::across;
use crate::output;
use lockword::contention::statistics::{Median, median};
use lockword::contention::{
    Arrivals, CellReport, ComparisonReport, Conditions, Disturbance, Load, LockReport, MachineInfo,
    Sample, Waits,
};

/// The lock that the others are compared with, if it takes part.
const REFERENCE: &str = "lockword";
/// The same under a load of which a share reads.
const READ_REFERENCE: &str = "lockword_rw";

/// The smallest number of rounds that gives a 95 % interval of a median.
pub const ROUNDS: usize = 6;

/// The figures of one lock under one load, of the rounds that count (see [`CountedRounds`]).
#[derive(Debug)]
pub struct LockSummary<'a> {
    /// The lock.
    pub lock: &'a str,
    /// Acquisitions a second; `None` if no slice was finished.
    pub rate: Option<Median>,
    /// The reference's acquisitions a second over this lock's, round by round.
    pub ratio: Option<Median>,
    /// The median of [`Sample::fairness_factor`]; `None` for a single thread.
    pub fairness: Option<f64>,
    /// CPU time for an acquisition in nanoseconds, the median.
    pub cpu: Option<f64>,
    /// The waits of all rounds together, whether they count or not, if any were timed.
    pub waits: Option<&'a Waits>,
    /// This lock's 99th percentile of the waits over the reference's, round by round; `None` for the
    /// reference.
    pub p99_ratio: Option<Median>,
}

/// The figures of all locks under one load, and the verdict.
#[derive(Debug)]
pub struct LoadSummary<'a> {
    /// The load.
    pub cell: &'a CellReport,
    /// The lock in the numerator of the ratios.
    pub reference: Option<&'a str>,
    /// One for each lock.
    pub locks: Vec<LockSummary<'a>>,
    /// The rounds that all figures but [`LockSummary::waits`] are of.
    pub rounds: CountedRounds,
    /// What can be concluded from the figures and what cannot, one sentence each.
    pub verdict: Vec<String>,
    /// The fastest locks by the verdict: none of them is slower than the best by more than the
    /// spread.
    pub fastest: Vec<&'a str>,
}

/// A summary for each cell.
pub fn summaries(report: &ComparisonReport) -> Vec<LoadSummary<'_>> {
    let reference = report.reference.as_deref();
    let with_ratios = |(at, cell)| {
        let mut summary = LoadSummary::new(cell, reference, &report.machine);
        summary.verdict.extend(across::sentences(report, at));
        summary
    };
    report.cells.iter().enumerate().map(with_ratios).collect()
}

/// What disturbed the slices of a lock in a round: the first thing that is found.
pub fn disturbance(
    lock: &LockReport,
    round: usize,
    (load, machine): (&Load, &MachineInfo),
) -> Option<Disturbance> {
    let counted = lock.samples.get(round).map(|sample| &sample.conditions);
    let timed = lock.round_waits.get(round).map(|waits| &waits.conditions);
    let found = |conditions: &Conditions| conditions.disturbance(load, machine);
    counted.into_iter().chain(timed).find_map(found)
}

/// What disturbed each round of a cell, in a slice of any of the locks.
pub fn disturbances(cell: &CellReport, machine: &MachineInfo) -> Vec<Option<Disturbance>> {
    let rounds_of = |lock: &LockReport| lock.samples.len().max(lock.round_waits.len());
    let under = (&cell.load, machine);
    let of = |round| cell.locks.iter().find_map(|lock| disturbance(lock, round, under));
    (0..cell.locks.iter().map(rounds_of).max().unwrap_or(0)).map(of).collect()
}

/// The rounds of a cell that count: those in which nothing disturbed any of the locks, or all of them if
/// these are too few for an interval.
#[derive(Debug)]
pub struct CountedRounds {
    /// The locks of the cell, with the samples and the waits of these rounds only, without the waits of
    /// all rounds together.
    pub locks: Vec<LockReport>,
    /// What disturbed each round of the cell.
    disturbances: Vec<Option<Disturbance>>,
}

impl CountedRounds {
    fn of(cell: &CellReport, machine: &MachineInfo) -> CountedRounds {
        let mut rounds = CountedRounds { locks: vec![], disturbances: disturbances(cell, machine) };
        rounds.locks = cell.locks.iter().map(|lock| rounds.counted(lock)).collect();
        rounds
    }

    /// A lock with what is of the rounds that count.
    fn counted(&self, lock: &LockReport) -> LockReport {
        fn keep<T: Clone>(all: &[T], counts: impl Fn(usize) -> bool) -> Vec<T> {
            let kept = all.iter().enumerate().filter(|(round, _)| counts(*round));
            kept.map(|(_, one)| one.clone()).collect()
        }
        let all_count = self.counts_disturbed();
        let counts = |round: usize| all_count || self.disturbances[round].is_none();
        LockReport {
            lock: lock.lock.clone(),
            samples: keep(&lock.samples, counts),
            waits: None,
            round_waits: keep(&lock.round_waits, counts),
        }
    }

    /// The number of all rounds.
    pub fn all(&self) -> usize {
        self.disturbances.len()
    }

    /// The number of rounds that something disturbed.
    pub fn disturbed(&self) -> usize {
        self.disturbances.iter().flatten().count()
    }

    /// Whether there are disturbed rounds, and they count, since there are too few others.
    pub fn counts_disturbed(&self) -> bool {
        self.disturbed() > 0 && self.all() - self.disturbed() < ROUNDS
    }

    /// What disturbed most of the disturbed rounds.
    pub fn mostly(&self) -> Option<Disturbance> {
        let found = || self.disturbances.iter().copied().flatten();
        found().max_by_key(|one| found().filter(|other| other == one).count())
    }

    /// How many rounds were disturbed and whether they count, in words; `None` if none was.
    fn in_words(&self) -> Option<String> {
        let (disturbed, all, mostly) = (self.disturbed(), self.all(), self.mostly()?);
        let is_one = disturbed == 1;
        let what = match (self.counts_disturbed(), is_one) {
            (true, _) => {
                let count = if is_one { "counts" } else { "count" };
                let what = if mostly == Disturbance::Speed {
                    "measure again"
                } else {
                    "stop other processes"
                };
                format!("{count} all the same, since fewer than {ROUNDS} are left: {what}")
            }
            (false, true) => "does not count".to_owned(),
            (false, false) => "do not count".to_owned(),
        };
        let were = if is_one { "was" } else { "were" };
        Some(format!("{disturbed} of {all} rounds {were} disturbed ({mostly}) and {what}"))
    }
}

/// Acquisitions a second of each round; 0 for a slice without a length, which a very short one can
/// be on a busy machine.
pub fn rates(lock: &LockReport) -> Vec<f64> {
    let rate = |s: &Sample| if s.elapsed_ns > 0.0 { s.per_second() } else { 0.0 };
    lock.samples.iter().map(rate).collect()
}

/// The median, or `None` without samples.
pub fn median_of(samples: &[f64]) -> Option<Median> {
    (!samples.is_empty()).then(|| median(samples))
}

/// The ratios of the rounds that both have, without those that are not finite.
fn ratios(over: &LockReport, under: &LockReport) -> Vec<f64> {
    let ratios = rates(over).into_iter().zip(rates(under)).map(|(over, under)| over / under);
    ratios.filter(|ratio| ratio.is_finite()).collect()
}

/// The median of [`ratios`], or `None` if there is none.
fn ratio_of(over: &LockReport, under: &LockReport) -> Option<Median> {
    median_of(&ratios(over, under))
}

/// The ratio of the 99th percentiles of the waits, of the rounds that both have.
fn p99_ratio(over: &LockReport, under: &LockReport) -> Option<Median> {
    let rounds = over.round_waits.iter().zip(&under.round_waits);
    let ratios = rounds.map(|(over, under)| over.p99 as f64 / under.p99 as f64);
    median_of(&ratios.filter(|ratio| ratio.is_finite()).collect::<Vec<f64>>())
}

/// Whether a wait in nanoseconds is about as long as the slice, with the time in which late arrivals are
/// served, so that its end may have cut it off.
pub fn clipped(load: &Load, ns: u64) -> bool {
    ns as f64 >= 0.9 * (load.slice_ms + load.extra_ms()) as f64 * 1e6
}

impl<'a> LoadSummary<'a> {
    /// The ratios are with `reference`, if it takes part. The cell was measured on `machine`.
    fn new(cell: &'a CellReport, reference: Option<&str>, machine: &MachineInfo) -> Self {
        let rounds = CountedRounds::of(cell, machine);
        let counted = rounds.locks.as_slice();
        let named = |name| counted.iter().find(|lock| lock.lock == name);
        let reference = reference.and_then(named);
        let reference = reference.or_else(|| cell.load.read.and_then(|_| named(READ_REFERENCE)));
        let reference = reference.or_else(|| named(REFERENCE)).or(counted.first());
        let summary_of = |(lock, counted): (&'a LockReport, &LockReport)| {
            let middle = |figures: Vec<f64>| median_of(&figures).map(|median| median.mid);
            LockSummary {
                lock: &lock.lock,
                rate: median_of(&rates(counted)),
                ratio: reference.and_then(|reference| ratio_of(reference, counted)),
                fairness: counted
                    .samples
                    .iter()
                    .any(|sample| sample.acquisitions.len() > 1)
                    .then(|| middle(counted.samples.iter().map(Sample::fairness_factor).collect()))
                    .flatten(),
                cpu: middle(counted.samples.iter().filter_map(Sample::cpu_ns_each).collect()),
                waits: lock.waits.as_ref().filter(|waits| waits.count > 0),
                p99_ratio: reference
                    .filter(|reference| reference.lock != lock.lock)
                    .and_then(|reference| p99_ratio(counted, reference)),
            }
        };
        let locks: Vec<LockSummary<'a>> = cell.locks.iter().zip(counted).map(summary_of).collect();
        let mut late = vec![];
        let (fastest, mut verdict) = match (&cell.load.arrivals, offered(cell)) {
            (Arrivals::Closed, _) => verdict(counted, reference),
            (_, None) => (vec![], vec!["nothing was measured".to_owned()]),
            (_, Some(per_second)) => {
                late =
                    counted.iter().filter(|lock| !keeps_up(lock, &cell.load, per_second)).collect();
                let mut lines = open_loop(&late, per_second);
                lines.extend(maximum(cell, per_second));
                lines.extend(below_its_maximum(cell, &late));
                let reference = reference.map_or("", |reference| &reference.lock);
                lines.extend(locks.iter().filter_map(|lock| compare_p99(lock, reference)));
                (vec![], lines)
            }
        };
        let cut = |lock: &LockSummary<'_>| {
            let late = late.iter().any(|late| late.lock == lock.lock);
            !late && lock.waits.is_some_and(|waits| clipped(&cell.load, waits.max))
        };
        if let Some(tasks) = cell.load.tasks {
            verdict.push(format!(
                "{} on {} of a runtime: a task yields after each acquisition, and fair is among the tasks",
                output::count(tasks, "task"),
                output::count(cell.load.threads, "thread")
            ));
        }
        if cell.load.queue.is_some() {
            verdict.push(
                "a queue: acq/s is items a second, CPU is that of an item, fair is among those who pop, and \
                 a wait is that of a push or pop until it can be done"
                    .to_owned(),
            );
        }
        if locks.iter().any(cut) {
            verdict
                .push("waits as long as a slice may be cut off: use a longer --slice".to_owned());
        }
        verdict.extend(locks.iter().find_map(few_waits));
        if let Some(disturbed) = rounds.in_words() {
            let waits = locks.iter().any(|lock| lock.waits.is_some()) && !rounds.counts_disturbed();
            let waits = if waits { "; p50 to the longest wait are of all rounds" } else { "" };
            verdict.push(disturbed + waits);
        }
        // The counted rounds are moved, and the names stay those of the cell.
        let own =
            |lock: &str| cell.locks.iter().map(|own| own.lock.as_str()).find(|name| *name == lock);
        let reference = reference.and_then(|lock| own(&lock.lock));
        let fastest = fastest.into_iter().filter_map(own).collect();
        LoadSummary { cell, reference, locks, rounds, verdict, fastest }
    }
}

/// How many acquisitions a second are due under an open loop, if that is known.
pub fn offered(cell: &CellReport) -> Option<f64> {
    match cell.load.arrivals {
        Arrivals::Open { per_second } => Some(per_second),
        _ => cell.offered,
    }
}

/// The maximum of which a load is a share, with its interval, in words: `1.20 M a second [1.10 M, 1.31 M]`.
pub fn measured_maximum(cell: &CellReport, percent: f64, per_second: f64) -> String {
    let measured = cell.maximum.as_ref();
    let rates = measured.map_or(vec![], |maximum| [&maximum.before[..], &maximum.after].concat());
    let rate = output::rate(per_second / percent * 100.0);
    match median_of(&rates) {
        Some(median) => format!(
            "{rate} a second ({} to {} in {} slices before and after the rounds)",
            output::rate(median.low),
            output::rate(median.high),
            rates.len()
        ),
        None => format!("{rate} a second"),
    }
}

/// If the lock of whose maximum a load is a share does not keep up with it: the maximum was measured at
/// another speed.
fn below_its_maximum(cell: &CellReport, late: &[&LockReport]) -> Option<String> {
    let Arrivals::OfMaximum { percent, .. } = cell.load.arrivals else { return None };
    let maximum = cell.maximum.as_ref()?;
    let misses = late.iter().any(|lock| lock.lock == maximum.lock);
    (misses && percent < 100.0 * KEEPS_UP).then(|| not_its_maximum(&maximum.lock, percent))
}

/// That a lock does not keep up with this share of its own maximum, in words.
pub fn not_its_maximum(lock: &str, percent: f64) -> String {
    format!(
        "{lock} does not keep up with {percent} % of its own maximum: the machine was disturbed, or faster when \
         that was measured, so the rate may be a larger share of what can be served"
    )
}

/// What a share of a maximum came to, in words.
fn maximum(cell: &CellReport, per_second: f64) -> Option<String> {
    let Arrivals::OfMaximum { percent, lock } = &cell.load.arrivals else { return None };
    let whose = lock.as_ref().map_or("the highest".to_owned(), |lock| format!("{lock}'s"));
    Some(format!(
        "{percent} % of {whose} maximum of {}: {} a second arrive, of all threads together",
        measured_maximum(cell, *percent, per_second),
        output::rate(per_second)
    ))
}

/// The share of an open loop's arrivals that a lock serves, over how many times the slice's length that
/// took it; `None` without samples.
///
/// What is late at the end of a slice is still served, for so long that a lock which is too slow by a
/// third serves all: therefore the time counts too.
pub fn served_share(samples: &[Sample], slice_ms: u64, per_second: f64) -> Option<Median> {
    let slice_ns = slice_ms as f64 * 1e6;
    // The schedule begins with the slice and does not contain its end.
    let due = (per_second * slice_ns / 1e9).ceil();
    let share =
        |sample: &Sample| sample.total() as f64 / due * (slice_ns / sample.elapsed_ns).min(1.0);
    median_of(&samples.iter().map(share).collect::<Vec<f64>>())
}

/// The share that a lock serves which keeps up.
pub const KEEPS_UP: f64 = 0.95;

/// Whether a lock serves what arrives, by the median of the rounds. The upper end of a wide interval would
/// do for any lock on a busy machine.
fn keeps_up(lock: &LockReport, load: &Load, per_second: f64) -> bool {
    let share = served_share(&lock.samples, load.slice_ms, per_second);
    share.is_none_or(|share| share.mid >= KEEPS_UP)
}

/// The fewest waits of which the 99.9th percentile is not the longest.
pub const FEWEST_FOR_P999: u64 = 1_000;

/// Says so if there are too few waits of a lock for a 99.9th percentile.
fn few_waits(lock: &LockSummary<'_>) -> Option<String> {
    let count = lock.waits?.count;
    (count < FEWEST_FOR_P999).then(|| {
        format!(
            "p99.9 of {} rests on {count} waits, so it is the longest: use a longer --slice or more --rounds",
            lock.lock
        )
    })
}

/// The verdict on an open loop. Its rate is that of the schedule, unless a lock is too slow.
fn open_loop(late: &[&LockReport], per_second: f64) -> Vec<String> {
    let mut lines =
        vec!["open loop: compare the waits; acq/s, fair and CPU follow the schedule".to_owned()];
    for lock in late {
        if let Some(served) = median_of(&rates(lock)) {
            lines.push(format!(
                "{} did not keep up: it served {} of {} a second",
                lock.lock,
                output::rate(served.mid),
                output::rate(per_second)
            ));
        }
    }
    if !late.is_empty() {
        lines.push("the waits of a lock that does not keep up grow with the slice".to_owned());
    }
    lines
}

/// How the 99th percentile of a lock's waits compares with that of the reference.
fn compare_p99(lock: &LockSummary<'_>, reference: &str) -> Option<String> {
    let ratio = lock.p99_ratio?;
    let lock = lock.lock;
    Some(if is_undecided(&ratio) {
        format!("the p99 of {lock} and {reference} cannot be told apart here")
    } else {
        let (times, interval) = (output::figure(ratio.mid), output::interval(&ratio));
        format!("the p99 of {lock} is {times} times that of {reference} {interval}")
    })
}

/// Whether the interval of a ratio contains 1, so that neither lock is known to be faster.
pub fn is_undecided(ratio: &Median) -> bool {
    ratio.low <= 1.0 && ratio.high >= 1.0
}

/// The fastest locks of a closed loop, and the verdict.
fn verdict<'a>(
    locks: &'a [LockReport],
    reference: Option<&'a LockReport>,
) -> (Vec<&'a str>, Vec<String>) {
    let mut measured: Vec<_> =
        locks.iter().filter_map(|l| Some((l, median_of(&rates(l))?.mid))).collect();
    measured.sort_by(|a, b| b.1.total_cmp(&a.1));
    let Some((best, _)) = measured.first().copied() else {
        return (vec![], vec!["nothing was measured".to_owned()]);
    };
    if measured.len() == 1 {
        return (vec![], vec![]);
    }
    if measured.iter().any(|(lock, _)| lock.samples.len() < ROUNDS) {
        let line = format!("too few rounds to tell them apart ({ROUNDS} give a 95 % interval)");
        return (vec![], vec![line]);
    }
    if measured.iter().any(|(lock, _)| ratios(best, lock).len() < ROUNDS) {
        let line = "no verdict: a lock was acquired in too few of the rounds".to_owned();
        return (vec![], vec![line]);
    }
    let slower = |lock: &LockReport| ratio_of(best, lock).filter(|ratio| !is_undecided(ratio));
    let level = measured.iter().filter(|(lock, _)| slower(lock).is_none());
    let fastest: Vec<&str> = level.map(|(lock, _)| lock.lock.as_str()).collect();

    let mut lines = vec![];
    if fastest.len() == 1 {
        // The second is the one that it leads by least.
        let (next, _) = measured[1];
        if let Some(ratio) = slower(next) {
            lines.push(format!(
                "{} is the fastest here: {} times {} {}",
                best.lock,
                output::figure(ratio.mid),
                next.lock,
                output::interval(&ratio)
            ));
        }
    } else {
        let tied: Vec<_> = locks.iter().filter(|l| fastest.contains(&l.lock.as_str())).collect();
        let pairs = tied.iter().flat_map(|a| tied.iter().map(move |b| (*a, *b)));
        let all =
            pairs.into_iter().all(|(a, b)| ratio_of(a, b).is_none_or(|ratio| is_undecided(&ratio)));
        lines.push(if all {
            format!("{} cannot be told apart here", output::list(&fastest))
        } else {
            let others = output::list(&fastest[1..]);
            format!("{} leads, but {others} cannot be told apart from it here", best.lock)
        });
    }
    if let Some(reference) = reference {
        let is_told = fastest.len() == 1 && measured[1].0.lock == reference.lock;
        if let Some(ratio) = slower(reference).filter(|_| !is_told) {
            let (times, interval) = (output::figure(ratio.mid), output::interval(&ratio));
            lines.push(format!("{} is {times} times {} {interval}", best.lock, reference.lock));
        }
        let both_fastest = |lock: &LockReport| {
            [reference, lock].iter().all(|lock| fastest.contains(&lock.lock.as_str()))
        };
        let level = measured.iter().filter(|(lock, _)| {
            lock.lock != reference.lock
                && !both_fastest(lock)
                && ratio_of(reference, lock).is_some_and(|ratio| is_undecided(&ratio))
        });
        for (lock, _) in level {
            lines.push(format!("{} and {} cannot be told apart here", reference.lock, lock.lock));
        }
    }
    (fastest, lines)
}

/// Warnings that concern all figures of a report.
pub fn cautions(report: &ComparisonReport) -> Vec<String> {
    let mut cautions = report.warnings.clone();
    if report.cut_short {
        let done = report.cells.iter().flat_map(|cell| &cell.locks).map(|lock| lock.samples.len());
        let least = done.min().unwrap_or(0);
        cautions.insert(0, format!("cut short: {least} of {} rounds were done", report.rounds));
    }
    cautions
}

#[cfg(test)]
mod tests {
    use super::sample::{cell, lock, report};
    use super::*;
    use lockword::contention::MaximumReport;

    #[test]
    fn a_reference_that_is_slower_is_told_so() {
        let locks = |third| {
            vec![
                lock("lockword", 100.0, 0.02),
                lock("std", 200.0, 0.02),
                lock("usync", third, 0.02),
            ]
        };
        let mut report = report(vec![cell(8, locks(200.0))]);
        let verdict = |report: &ComparisonReport| summaries(report)[0].verdict.join("; ");
        assert!(verdict(&report).contains("std is 2.00 times lockword ["), "{}", verdict(&report));
        report.reference = Some("std".to_owned());
        assert_eq!(summaries(&report)[0].reference, Some("std"));
        assert!(!verdict(&report).contains("times"), "{}", verdict(&report));
        // The verdict has it already.
        report.cells = vec![cell(8, locks(50.0))];
        report.reference = None;
        assert_eq!(verdict(&report).matches("times lockword").count(), 1, "{}", verdict(&report));
    }

    #[test]
    fn a_clear_lead_is_reported() {
        let cells = vec![cell(8, vec![lock("lockword", 200.0, 0.02), lock("std", 100.0, 0.02)])];
        let report = report(cells);
        let summary = &summaries(&report)[0];
        assert_eq!(summary.fastest, ["lockword"]);
        assert!(summary.verdict[0].starts_with("lockword is the fastest here: 2.0"), "{summary:?}");
        assert_eq!(summary.verdict.len(), 1);
    }

    #[test]
    fn no_lead_is_claimed_where_the_spread_exceeds_it() {
        // std is ahead by 1 %, and the samples spread by 10 %.
        let locks = vec![lock("lockword", 100.0, 0.1), lock("std", 101.0, -0.1)];
        let report = report(vec![cell(8, locks)]);
        let summary = &summaries(&report)[0];
        assert_eq!(summary.fastest, ["std", "lockword"]);
        assert_eq!(summary.verdict, ["std and lockword cannot be told apart here"]);
    }

    #[test]
    fn the_reference_is_compared_behind_the_fastest_too() {
        let locks = vec![
            lock("lockword", 100.0, 0.1),
            lock("std", 101.0, -0.1),
            lock("usync", 300.0, 0.02),
        ];
        let report = report(vec![cell(8, locks)]);
        let verdict = &summaries(&report)[0].verdict;
        assert!(verdict[0].starts_with("usync is the fastest here"), "{verdict:?}");
        assert!(verdict[1].starts_with("usync is 3."), "{verdict:?}");
        assert_eq!(verdict[2], "lockword and std cannot be told apart here");
    }

    #[test]
    fn too_few_rounds_tell_nothing() {
        let mut locks = vec![lock("lockword", 200.0, 0.0), lock("std", 100.0, 0.0)];
        for lock in &mut locks {
            lock.samples.truncate(ROUNDS - 1);
        }
        let report = report(vec![cell(8, locks)]);
        let summary = &summaries(&report)[0];
        assert!(summary.fastest.is_empty());
        assert!(summary.verdict[0].starts_with("too few rounds"), "{summary:?}");
    }

    #[test]
    fn missing_samples_give_no_figures() {
        let mut locks = vec![lock("lockword", 200.0, 0.0), lock("std", 100.0, 0.0)];
        locks[1].samples.clear();
        let one = report(vec![cell(8, locks.clone())]);
        assert!(summaries(&one)[0].locks[1].rate.is_none());
        locks[0].samples.clear();
        let none = report(vec![cell(8, locks)]);
        assert_eq!(summaries(&none)[0].verdict, ["nothing was measured"]);
    }

    #[test]
    fn a_lone_lock_is_not_the_fastest() {
        let report = report(vec![cell(8, vec![lock("lockword", 200.0, 0.0)])]);
        let summary = &summaries(&report)[0];
        assert!(summary.fastest.is_empty() && summary.verdict.is_empty(), "{summary:?}");
    }

    #[test]
    fn rounds_of_nothing_to_nothing_are_left_out() {
        let with = |empty: usize| {
            let mut locks = vec![lock("lockword", 200.0, 0.02), lock("std", 100.0, 0.02)];
            for lock in &mut locks {
                lock.samples.iter_mut().take(empty).for_each(|s| s.acquisitions.fill(0));
            }
            let mut cell = cell(8, locks);
            for sample in cell.locks.iter_mut().flat_map(|lock| &mut lock.samples[..empty]) {
                sample.acquisitions.fill(0);
            }
            report(vec![cell])
        };
        let few = with(1);
        let summary = &summaries(&few)[0];
        assert!(summary.locks[1].ratio.unwrap().mid.is_finite());
        assert!(summary.verdict[0].starts_with("lockword is the fastest here: 2.0"), "{summary:?}");
        for empty in [4, 9] {
            let report = with(empty);
            let summary = &summaries(&report)[0];
            assert!(summary.fastest.is_empty(), "{summary:?}");
            assert!(summary.verdict[0].starts_with("no verdict"), "{summary:?}");
        }
    }

    /// Disturbs a lock's slice that counts.
    fn disturb(report: &mut ComparisonReport, lock: usize, round: usize) {
        report.cells[0].locks[lock].samples[round].conditions.others_running = Some(1);
    }

    #[test]
    fn disturbed_rounds_do_not_count_for_any_lock() {
        let quiet = vec![lock("lockword", 200.0, 0.0), lock("std", 100.0, 0.0)];
        let mut report = report(vec![cell(8, quiet)]);
        for (lock, waits) in report.cells[0].locks.iter_mut().zip([100, 300]) {
            lock.round_waits = super::sample::waits(waits, 9);
        }
        let undisturbed = report.clone();
        // In the first three rounds std was fast, fair, cheap and waited little.
        for round in 0..3 {
            let std = &mut report.cells[0].locks[1];
            std.samples[round].acquisitions = vec![99_999, 0, 0, 0, 0, 0, 0, 0];
            std.samples[round].cpu_ns = Some(1.0);
            std.round_waits[round].p99 = 1;
        }
        disturb(&mut report, 0, 0);
        disturb(&mut report, 1, 1);
        report.cells[0].locks[0].round_waits[2].conditions.unit_ns = 2.0;
        let (found, expected) = (summaries(&report), summaries(&undisturbed));
        for (found, expected) in found[0].locks.iter().zip(&expected[0].locks) {
            let medians = |lock: &LockSummary<'_>| [lock.rate, lock.ratio, lock.p99_ratio];
            assert_eq!(medians(found), medians(expected));
            assert_eq!((found.fairness, found.cpu), (expected.fairness, expected.cpu));
            assert_eq!(found.waits, expected.waits, "those are of all rounds");
        }
        assert_eq!(found[0].fastest, ["lockword"]);
        let said = "3 of 9 rounds were disturbed (other processes ran) and do not count; p50 to \
                    the longest wait are of all rounds";
        assert_eq!(found[0].verdict[1..], [said]);
        assert_eq!(expected[0].verdict.len(), 1, "nothing was disturbed");
    }

    #[test]
    fn disturbed_rounds_count_if_too_few_others_are_left() {
        let locks = vec![lock("lockword", 200.0, 0.0), lock("std", 100.0, 0.0)];
        let mut report = report(vec![cell(8, locks)]);
        for round in 0..4 {
            report.cells[0].locks[1].samples[round].acquisitions.fill(5_000);
            disturb(&mut report, 1, round);
        }
        let summary = &summaries(&report)[0];
        assert!(summary.locks[1].rate.unwrap().high > 1_000.0, "{summary:?}");
        let said = "4 of 9 rounds were disturbed (other processes ran) and count all the same, since \
                    fewer than 6 are left: stop other processes";
        assert_eq!(summary.verdict.last().map(String::as_str), Some(said));
    }

    #[test]
    fn a_lock_keeps_up_by_the_rounds_that_count() {
        let mut report = report(vec![cell(8, vec![lock("lockword", 1e4, 0.0)])]);
        report.cells[0].load.slice_ms = 10_000;
        report.cells[0].load.arrivals = Arrivals::Open { per_second: 1e4 };
        // In six of twelve rounds it serves little.
        let samples = &mut report.cells[0].locks[0].samples;
        samples.extend(samples.clone().into_iter().take(3));
        for round in 0..6 {
            report.cells[0].locks[0].samples[round].acquisitions.fill(100);
        }
        let late = |report: &ComparisonReport| {
            summaries(report)[0].verdict.iter().any(|line| line.contains("did not keep up"))
        };
        assert!(late(&report));
        (0..6).for_each(|round| disturb(&mut report, 0, round));
        assert!(!late(&report));
    }

    #[test]
    fn an_open_loop_has_no_winner() {
        let locks = vec![lock("lockword", 1e4, 0.01), lock("std", 5e3, 0.01)];
        let mut report = report(vec![cell(8, locks)]);
        report.cells[0].load.arrivals = Arrivals::Open { per_second: 1e4 };
        let summary = &summaries(&report)[0];
        assert!(summary.fastest.is_empty());
        assert!(summary.verdict[0].contains("compare the waits"), "{summary:?}");
        assert_eq!(summary.verdict[1], "std did not keep up: it served 4.95 k of 10.0 k a second");
        assert!(summary.verdict[2].contains("grow with the slice"), "{summary:?}");
        assert_eq!(summary.verdict.len(), 3);
    }

    #[test]
    fn an_open_loop_compares_the_p99_of_each_round() {
        let locks = vec![lock("lockword", 1e4, 0.01), lock("std", 1e4, 0.01)];
        let mut report = report(vec![cell(8, locks)]);
        report.cells[0].load.arrivals = Arrivals::Open { per_second: 1e4 };
        assert_eq!(summaries(&report)[0].verdict.len(), 1, "no waits of single rounds");
        // A drift from round to round cancels out.
        let waits = |p99: u64| super::sample::waits(p99, 9);
        report.cells[0].locks[0].round_waits = waits(1_000);
        report.cells[0].locks[1].round_waits = waits(2_000);
        let verdict = &summaries(&report)[0].verdict;
        assert_eq!(verdict[1], "the p99 of std is 2.00 times that of lockword [2.00, 2.00]");
        assert_eq!(verdict.len(), 2, "the reference is not compared with itself");
        report.cells[0].locks[1].round_waits = waits(1_000);
        let verdict = &summaries(&report)[0].verdict;
        assert_eq!(verdict[1], "the p99 of std and lockword cannot be told apart here");
    }

    #[test]
    fn all_that_is_due_must_be_served_and_in_time() {
        // Sixteen arrivals in a slice of ten seconds.
        let verdict = |served: &dyn Fn(usize) -> u64, elapsed_ns: f64| {
            let mut report = report(vec![cell(64, vec![lock("lockword", 1.0, 0.0)])]);
            let cell = &mut report.cells[0];
            cell.load.arrivals = Arrivals::Open { per_second: 1.6 };
            cell.load.slice_ms = 10_000;
            for (round, sample) in cell.locks[0].samples.iter_mut().enumerate() {
                sample.acquisitions = vec![0; 64];
                sample.acquisitions[0] = served(round);
                sample.elapsed_ns = elapsed_ns;
            }
            summaries(&report)[0].verdict.join("; ")
        };
        let late = "did not keep up";
        assert!(!verdict(&|_| 16, 1e10).contains(late));
        // However many threads there are.
        assert!(verdict(&|_| 3, 1e10).contains(late) && verdict(&|_| 0, 1e10).contains(late));
        // One good round of several does not do.
        assert!(verdict(&|round| if round == 0 { 16 } else { 8 }, 1e10).contains(late));
        // Nor do five seconds more.
        assert!(verdict(&|_| 16, 1.5e10).contains(late));
    }

    #[test]
    fn a_maximum_has_an_interval_and_a_lock_that_misses_its_own_is_named() {
        let locks = vec![lock("lockword", 1e4, 0.0), lock("std", 5e3, 0.0)];
        let mut report = report(vec![cell(8, locks)]);
        let cell = &mut report.cells[0];
        let share = |percent: f64| Arrivals::OfMaximum { percent, lock: Some("std".to_owned()) };
        (cell.load.arrivals, cell.offered) = (share(80.0), Some(1e4));
        let before = vec![12_500.0, 12_000.0, 13_000.0];
        cell.maximum = Some(MaximumReport {
            lock: "std".to_owned(),
            before,
            after: vec![6_000.0, 6_200.0, 7_000.0],
        });
        let verdict = |report: &ComparisonReport| summaries(report)[0].verdict.join("; ");
        let says = "80 % of std's maximum of 12.5 k a second (6.00 k to 13.0 k in 6 slices before and after \
                    the rounds): 10.0 k a second arrive";
        assert!(verdict(&report).contains(says), "{}", verdict(&report));
        let misses = "std does not keep up with 80 % of its own maximum";
        assert!(verdict(&report).contains(misses));
        report.cells[0].load.arrivals = share(100.0);
        assert!(!verdict(&report).contains("of its own maximum"), "that is the most there can be");
        (report.cells[0].load.arrivals, report.cells[0].offered) = (share(40.0), Some(5e3));
        assert!(!verdict(&report).contains("of its own maximum"));
    }

    #[test]
    fn a_p999_of_few_waits_is_said() {
        let mut report = report(vec![cell(8, vec![lock("lockword", 200.0, 0.0)])]);
        let verdict = |report: &ComparisonReport| summaries(report)[0].verdict.join("; ");
        report.cells[0].locks[0].waits.as_mut().unwrap().count = 1_000;
        assert_eq!(verdict(&report), "");
        report.cells[0].locks[0].waits.as_mut().unwrap().count = 999;
        assert!(verdict(&report).contains("p99.9 of lockword rests on 999 waits"));
    }

    #[test]
    fn a_wait_of_a_slices_length_is_reported() {
        let mut report = report(vec![cell(8, vec![lock("lockword", 200.0, 0.0)])]);
        let longest = |report: &mut ComparisonReport, ns| {
            report.cells[0].locks[0].waits.as_mut().unwrap().max = ns;
        };
        longest(&mut report, 89_000_000);
        assert!(summaries(&report)[0].verdict.is_empty());
        longest(&mut report, 90_000_000);
        assert!(summaries(&report)[0].verdict[0].contains("use a longer --slice"));
        // In an open loop, what is late at the end of the slice is served for half of it more.
        report.cells[0].load.arrivals = Arrivals::Open { per_second: 200.0 };
        longest(&mut report, 134_000_000);
        assert_eq!(summaries(&report)[0].verdict.len(), 1);
        longest(&mut report, 136_000_000);
        assert!(summaries(&report)[0].verdict[1].contains("use a longer --slice"));
    }

    #[test]
    fn a_slice_without_a_length_gives_finite_figures() {
        for empty in [&[0][..], &[1], &[0, 1]] {
            for samples in [1, 9] {
                let mut locks = vec![lock("lockword", 200.0, 0.0), lock("std", 100.0, 0.0)];
                for lock in &mut locks {
                    lock.samples.truncate(samples);
                }
                for lock in empty {
                    locks[*lock].samples.iter_mut().for_each(|sample| sample.elapsed_ns = 0.0);
                }
                let report = report(vec![cell(8, locks)]);
                let text = format!("{:?}", summaries(&report)[0].verdict);
                assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
            }
        }
    }
}

/// Reports with invented figures, for the tests.
#[cfg(test)]
pub mod sample {
    use lockword::contention::{
        CellReport, ComparisonReport, Conditions, FORMAT, Load, LockReport, MachineInfo, Sample,
        WaitPercentiles, Waits, Work,
    };

    /// The conditions of every sample.
    pub const UNDISTURBED: Conditions = Conditions {
        unit_ns: 1.0,
        run_delay: Some(0.0),
        most_run_delay: Some(0.0),
        others_running: Some(0),
    };

    /// A report with these cells.
    pub fn report(cells: Vec<CellReport>) -> ComparisonReport {
        ComparisonReport {
            format: FORMAT,
            lockword: env!("CARGO_PKG_VERSION").to_owned(),
            started: 1_764_090_000,
            command: ["lockword", "bench"].map(str::to_owned).to_vec(),
            reference: None,
            machine: MachineInfo {
                cpu: Some("Made-up Processor".to_owned()),
                processors: 2,
                system: "Linux 6.1".to_owned(),
                architecture: "x86_64".to_owned(),
                topology: None,
                governor: None,
                load_average: Some(0.1),
                unit_ns: 1.0,
            },
            rounds: 9,
            cut_short: false,
            cells,
            warnings: vec![],
        }
    }

    /// The waits of so many rounds: the 99th percentile is `p99` in the first, twice that in the
    /// second, and so on.
    pub fn waits(p99: u64, rounds: usize) -> Vec<WaitPercentiles> {
        let round = |round: usize| WaitPercentiles {
            count: 1_000,
            p50: 1,
            p99: p99 * (round as u64 + 1),
            p999: 1,
            max: 1,
            conditions: UNDISTURBED,
        };
        (0..rounds).map(round).collect()
    }

    /// A cell of a load with this number of threads. The acquisitions of each sample are divided
    /// among the threads.
    pub fn cell(threads: usize, mut locks: Vec<LockReport>) -> CellReport {
        let load = Load::new(threads).inside(Work::nanos(100)).outside(Work::nanos(100));
        for sample in locks.iter_mut().flat_map(|lock| &mut lock.samples) {
            let all = sample.total();
            let each = all / threads as u64;
            sample.acquisitions = vec![each; threads];
            sample.acquisitions[0] += all - each * threads as u64;
        }
        CellReport { name: load.name(), load, offered: None, maximum: None, locks }
    }

    /// A lock with nine samples of about `per_second` acquisitions a second: odd rounds are larger
    /// by the share `spread`, even ones smaller.
    pub fn lock(name: &str, per_second: f64, spread: f64) -> LockReport {
        let sample = |round: usize| {
            let factor = if round % 2 == 1 { 1.0 + spread } else { 1.0 - spread };
            let count = per_second * factor * 10.0;
            Sample {
                elapsed_ns: 1e10,
                acquisitions: vec![count as u64],
                cpu_ns: Some(2e10),
                hog_acquisitions: None,
                conditions: UNDISTURBED,
            }
        };
        let curve = vec![
            (0.0, 50),
            (0.5, 120),
            (0.9, 900),
            (0.99, 4_000),
            (0.999, 35_000),
            (1.0, 1_200_000),
        ];
        LockReport {
            lock: name.to_owned(),
            samples: (0..9).map(sample).collect(),
            waits: Some(Waits {
                count: 1_000_000,
                p50: 120,
                p99: 4_000,
                p999: 35_000,
                max: 1_200_000,
                curve,
            }),
            round_waits: vec![],
        }
    }
}
