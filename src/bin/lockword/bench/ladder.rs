//! [`Ladder`]: loads that differ only in the rate of their arrivals. It shows waits against that rate,
//! and the knee of each lock.
//!
//! The knee is the last rate before a lock fails twice in a row, or at the highest rate: it does not serve
//! what arrives ([`KEEPS_UP`]), or its p99 is above [`TOLERANCE`] times the lowest of all rates.

use super::plan;
use super::summary::{
    CountedRounds, FEWEST_FOR_P999, KEEPS_UP, LoadSummary, LockSummary, ROUNDS, clipped,
    measured_maximum, median_of, not_its_maximum, offered, served_share,
};
use crate::output;
use lockword::contention::{Arrivals, Load, LockReport, Sample, WaitPercentiles};

/// How many times the lowest p99 is tolerated.
const TOLERANCE: f64 = 10.0;
/// The fewest rates that make a ladder.
const FEWEST: usize = 3;

/// Loads that differ only in the rate of their arrivals, in the order of the rate.
pub struct Ladder<'a> {
    pub steps: Vec<Step<'a>>,
}

/// One of the loads.
#[derive(Clone, Copy)]
pub struct Step<'a> {
    /// Acquisitions that are due a second, of all threads together.
    pub offered: f64,
    pub summary: &'a LoadSummary<'a>,
}

/// The load without its arrivals.
fn base(load: &Load) -> Load {
    load.clone().arrivals(Arrivals::Closed)
}

/// The ladders among these loads.
pub fn ladders<'a>(summaries: &'a [LoadSummary<'a>]) -> Vec<Ladder<'a>> {
    let mut ladders: Vec<Ladder<'a>> = vec![];
    for summary in summaries.iter().filter(|summary| summary.cell.load.arrivals.is_open()) {
        let Some(offered) = offered(summary.cell) else { continue };
        let step = Step { offered, summary };
        let alike = |ladder: &&mut Ladder<'_>| {
            base(&ladder.steps[0].summary.cell.load) == base(&summary.cell.load)
        };
        match ladders.iter_mut().find(alike) {
            Some(ladder) => ladder.steps.push(step),
            None => ladders.push(Ladder { steps: vec![step] }),
        }
    }
    ladders.retain(|ladder| ladder.steps.len() >= FEWEST);
    for ladder in &mut ladders {
        ladder.steps.sort_by(|a, b| a.offered.total_cmp(&b.offered));
    }
    ladders
}

/// A percentile, and where a round has it.
type Percentile = (&'static str, fn(&WaitPercentiles) -> u64);

/// The percentiles that the tables and charts show.
pub const PERCENTILES: [Percentile; 3] =
    [("p50", |waits| waits.p50), ("p99", |waits| waits.p99), ("p99.9", |waits| waits.p999)];

/// The columns of the table of a lock.
pub const HEADS: [&str; 7] = ["arrivals/s", "acq/s", "p50", "p99", "p99 ratio", "p99.9", "longest"];

impl<'a> Ladder<'a> {
    /// Whether the load is one of the steps.
    pub fn contains(&self, summary: &LoadSummary<'_>) -> bool {
        self.steps.iter().any(|step| std::ptr::eq(step.summary.cell, summary.cell))
    }

    /// What the loads have in common: `2 threads, 200 ns inside, 1 us outside`.
    pub fn title(&self) -> String {
        let load = base(&self.steps[0].summary.cell.load);
        format!("{}, {}", plan::describe_threads(&load), plan::describe(&load))
    }

    /// The names of the locks.
    pub fn locks(&self) -> Vec<&'a str> {
        self.steps[0].summary.locks.iter().map(|lock| lock.lock).collect()
    }

    /// The figures of a lock at each step that has them.
    pub fn of<'l>(
        &'l self,
        name: &'l str,
    ) -> impl Iterator<Item = (&'l Step<'a>, &'a LockSummary<'a>)> + 'l {
        self.steps.iter().filter_map(move |step| {
            let summary = step.summary;
            summary.locks.iter().find(|lock| lock.lock == name).map(|lock| (step, lock))
        })
    }

    /// The rows of a lock's table, with the columns of [`HEADS`].
    pub fn rows(&self, name: &str) -> Vec<Vec<String>> {
        let dash = || "-".to_owned();
        let row = |(at, (step, lock)): (usize, (&Step<'_>, &LockSummary<'_>))| {
            let text = |ns: f64| {
                let least = if clipped(&step.summary.cell.load, ns as u64) { ">=" } else { "" };
                format!("{least}{}", output::time(ns))
            };
            let [p50, p99, p999] =
                PERCENTILES.map(|(_, of)| self.percentile(name, at, of).map_or_else(dash, text));
            let longest = lock.waits.map_or_else(dash, |waits| text(waits.max as f64));
            let served = self.served(name, at).map_or_else(dash, output::rate);
            let ratio = match &lock.p99_ratio {
                Some(ratio) => {
                    format!("{} {}", output::figure(ratio.mid), output::plus_minus(ratio))
                }
                None if step.summary.reference == Some(name) && p99 != dash() => "1".to_owned(),
                None => dash(),
            };
            vec![step.name(), served, p50, p99, ratio, p999, longest]
        };
        self.of(name).enumerate().map(row).collect()
    }

    /// A lock with what is of the rounds of a step that count.
    fn counted(&self, name: &str, at: usize) -> Option<&'a LockReport> {
        self.steps[at].summary.rounds.locks.iter().find(|lock| lock.lock == name)
    }

    /// A percentile of the waits of a lock at a step: the median of the rounds that count.
    pub fn percentile(
        &self,
        name: &str,
        at: usize,
        of: fn(&WaitPercentiles) -> u64,
    ) -> Option<f64> {
        let rounds = self.counted(name, at)?.round_waits.iter();
        let rounds: Vec<f64> = rounds.map(|waits| of(waits) as f64).collect();
        median_of(&rounds).map(|median| median.mid)
    }

    /// The samples of a lock at a step, of the rounds that count.
    fn samples(&self, name: &str, at: usize) -> &'a [Sample] {
        self.counted(name, at).map_or(&[], |lock| &lock.samples)
    }

    /// What a lock serves a second at a step: the median of the rounds that count.
    fn served(&self, name: &str, at: usize) -> Option<f64> {
        let rates: Vec<f64> = self.samples(name, at).iter().map(Sample::per_second).collect();
        median_of(&rates).map(|median| median.mid)
    }

    /// Whether a lock is on this side of its knee at a step, or why not.
    fn holds(&self, name: &str, at: usize) -> Result<(), String> {
        let step = &self.steps[at];
        let samples = self.samples(name, at);
        let Some(share) = served_share(samples, step.summary.cell.load.slice_ms, step.offered)
        else {
            return Err("it was not measured".to_owned());
        };
        if share.mid < KEEPS_UP {
            return Err(format!(
                "it serves {}",
                output::rate(self.served(name, at).unwrap_or(0.0))
            ));
        }
        // Not that at the lowest rate: one disturbance there would hide every knee.
        let p99 = |at: usize| self.percentile(name, at, |waits| waits.p99);
        match (p99(at), (0..self.steps.len()).filter_map(p99).min_by(f64::total_cmp)) {
            (Some(here), Some(least)) if here > TOLERANCE * least.max(1.0) => {
                Err(format!("p99 is {}, and {} at best", output::time(here), output::time(least)))
            }
            _ => Ok(()),
        }
    }

    /// Where the knee of a lock is, as the index of a step; `None` if it is below the lowest rate.
    ///
    /// One failure alone may be a disturbance; one success among failures is no more than that.
    pub fn knee(&self, name: &str) -> Option<usize> {
        let last = self.steps.len() - 1;
        let fails = |at: usize| self.holds(name, at).is_err();
        let first = (0..=last).find(|at| fails(*at) && (*at == last || fails(at + 1)));
        first.map_or(Some(last), |first| first.checked_sub(1))
    }

    /// If the lock of whose maximum the rates are shares does not serve this one, in words.
    fn below_its_maximum(&self, step: &Step<'_>) -> Option<String> {
        let cell = step.summary.cell;
        let Arrivals::OfMaximum { percent, .. } = cell.load.arrivals else { return None };
        let lock = &cell.maximum.as_ref()?.lock;
        let at = self.steps.iter().position(|other| std::ptr::eq(other.summary, step.summary))?;
        let share = served_share(self.samples(lock, at), cell.load.slice_ms, step.offered)?;
        let misses = share.mid < KEEPS_UP && percent < 100.0 * KEEPS_UP;
        misses.then(|| not_its_maximum(lock, percent))
    }

    /// Says so if the rounds of a step have too few waits for a 99.9th percentile.
    fn few_waits(&self, at: usize) -> Option<String> {
        let count = |lock| self.percentile(lock, at, |waits| waits.count);
        let fewest = self.locks().into_iter().filter_map(count).min_by(f64::total_cmp)?;
        (fewest < FEWEST_FOR_P999 as f64).then(|| {
            format!(
                "p99.9 at {} rests on {fewest:.0} waits a round, so it is the longest: use a longer --slice",
                self.steps[at].name()
            )
        })
    }

    /// If some waits are about as long as their slice, what that means.
    fn cut_waits(&self) -> Option<String> {
        let longest = |step: &Step<'_>| {
            let waits = step.summary.locks.iter().filter_map(|lock| lock.waits);
            waits.map(|waits| waits.max).max().unwrap_or(0)
        };
        let is_cut = |step: &Step<'_>| clipped(&step.summary.cell.load, longest(step));
        self.steps.iter().any(is_cut).then(|| {
            "a wait marked >= is about as long as the slice, with the time in which late arrivals are served, \
             and may be cut off: the waits of a lock that does not keep up grow with the slice"
                .to_owned()
        })
    }

    /// With which lock the ratios are, if there are any.
    fn ratios(&self) -> Option<String> {
        let has_ratio =
            |step: &&Step<'_>| step.summary.locks.iter().any(|lock| lock.p99_ratio.is_some());
        let reference = self.steps.iter().find(has_ratio)?.summary.reference?;
        Some(format!(
            "the p99 ratio is the lock's p99 over {reference}'s: the median of the rounds' ratios and \
             the half-width of its 95 % interval"
        ))
    }

    /// How many rounds were disturbed, and at which rates they count all the same; `None` if none was.
    fn disturbed(&self) -> Option<String> {
        let rounds = || self.steps.iter().map(|step| &step.summary.rounds);
        let count: usize = rounds().map(CountedRounds::disturbed).sum();
        let all: usize = rounds().map(CountedRounds::all).sum();
        let why = rounds().max_by_key(|rounds| rounds.disturbed())?.mostly()?;
        let disturbed = self.steps.iter().filter(|step| step.summary.rounds.disturbed() > 0);
        let (they_count, they_do_not): (Vec<&Step<'_>>, Vec<&Step<'_>>) =
            disturbed.partition(|step| step.summary.rounds.counts_disturbed());
        let names: Vec<String> = they_count.into_iter().map(Step::name).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let what = match (names.as_slice(), they_do_not.as_slice()) {
            ([], _) => "do not count".to_owned(),
            (_, []) => format!(
                "count all the same, since fewer than {ROUNDS} are left at such a rate: stop other processes"
            ),
            (names, _) => format!(
                "do not count, but those at {} do, since fewer than {ROUNDS} are left there: stop other \
                 processes",
                output::list(names)
            ),
        };
        Some(format!("{count} of {all} rounds of all rates were disturbed ({why}) and {what}"))
    }

    /// Where the knees are, a sentence for each lock, and what a knee is.
    pub fn verdict(&self) -> Vec<String> {
        let of = |name: &str| match self.knee(name) {
            None => {
                let why = self.holds(name, 0).err().unwrap_or_default();
                format!(
                    "{name} has its knee below the lowest rate, {}: {why}",
                    self.steps[0].name()
                )
            }
            Some(at) if at + 1 == self.steps.len() => {
                format!("{name} has no knee up to {}", self.steps[at].name())
            }
            Some(at) => {
                let next = at + 1;
                let why = self.holds(name, next).err().unwrap_or_default();
                format!(
                    "{name} has its knee at {}: at {} {why}",
                    self.steps[at].name(),
                    self.steps[next].name()
                )
            }
        };
        let mut lines: Vec<String> = self.locks().into_iter().map(of).collect();
        lines.extend(self.steps.iter().rev().find_map(Step::maximum));
        lines.extend(self.steps.iter().find_map(|step| self.below_its_maximum(step)));
        lines.extend((0..self.steps.len()).find_map(|at| self.few_waits(at)));
        lines.push(format!(
            "the knee is the last rate before the lock fails twice in a row, or at the highest rate: it \
             serves less than {:.0} % of what arrives, or its p99 is above {TOLERANCE} times its lowest one; \
             all figures here but the longest wait are medians of the rounds that nothing disturbed, if \
             there are {ROUNDS} of them",
            100.0 * KEEPS_UP
        ));
        lines.extend([self.cut_waits(), self.ratios(), self.disturbed()].into_iter().flatten());
        lines
    }
}

impl Step<'_> {
    /// The maximum of which the rate is a share, in words.
    fn maximum(&self) -> Option<String> {
        let Arrivals::OfMaximum { percent, lock } = &self.summary.cell.load.arrivals else {
            return None;
        };
        let whose = match lock {
            Some(lock) => format!("{lock}'s maximum"),
            None => "the highest maximum of these locks".to_owned(),
        };
        let rate = measured_maximum(self.summary.cell, *percent, self.offered);
        Some(format!("100 % is {whose}, {rate} of all threads together"))
    }

    /// The rate, and its share of the maximum if it is one: `1.20 M (90 %)`.
    pub fn name(&self) -> String {
        let rate = output::rate(self.offered);
        match &self.summary.cell.load.arrivals {
            Arrivals::OfMaximum { percent, .. } => format!("{rate} ({percent} %)"),
            _ => rate,
        }
    }
}

/// Ladders with invented figures, for the tests.
#[cfg(test)]
pub mod sample {
    use super::super::summary::sample::{cell, lock, report, waits};
    use lockword::contention::{Arrivals, ComparisonReport};

    /// A ladder of 10 to 110 % of a million, with two locks. The first serves all up to a million,
    /// and its p99 leaps at 90 %; the second serves half of it.
    pub fn ladder() -> ComparisonReport {
        let cells = [10.0, 50.0, 80.0, 90.0, 100.0, 110.0].map(|percent: f64| {
            let offered = 1e4 * percent;
            let mut fast = lock("lockword", offered.min(1e6), 0.0);
            // A disturbed round does not matter.
            fast.round_waits = waits(if percent < 90.0 { 5_000 } else { 80_000 }, 1);
            fast.round_waits =
                [fast.round_waits.clone(), fast.round_waits, waits(9_000_000, 1)].concat();
            let slow = lock("std", offered.min(5e5), 0.0);
            let mut cell = cell(2, vec![fast, slow]);
            cell.load.arrivals = Arrivals::OfMaximum { percent, lock: None };
            cell.name = cell.load.name();
            cell.offered = Some(offered);
            cell
        });
        report(cells.into_iter().rev().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary::sample::waits;
    use super::super::summary::summaries;
    use super::*;
    use lockword::contention::{ComparisonReport, MaximumReport};

    #[test]
    fn the_knee_is_where_waits_leap_or_the_lock_falls_behind() {
        let report = sample::ladder();
        let summaries = summaries(&report);
        let ladders = ladders(&summaries);
        let [ladder] = ladders.as_slice() else { panic!("{} ladders", ladders.len()) };
        assert!(ladder.steps.is_sorted_by(|a, b| a.offered < b.offered));
        assert_eq!((ladder.knee("lockword"), ladder.knee("std")), (Some(2), Some(1)));
        let verdict = ladder.verdict();
        assert_eq!(
            verdict[0],
            "lockword has its knee at 800 k (80 %): at 900 k (90 %) p99 is 80.0 us, and 5.00 us at \
             best"
        );
        assert_eq!(verdict[1], "std has its knee at 500 k (50 %): at 800 k (80 %) it serves 500 k");
        let maximum =
            "100 % is the highest maximum of these locks, 1.00 M a second of all threads together";
        assert_eq!(verdict[2], maximum);
        assert!(verdict[3].contains("less than 95 % of what arrives"), "{verdict:?}");
        assert!(summaries.iter().all(|summary| ladder.contains(summary)));
        assert_eq!(ladder.rows("std")[5][..2], ["1.10 M (110 %)", "500 k"]);
    }

    #[test]
    fn a_lock_without_a_knee_and_one_below_the_lowest_rate() {
        let mut report = sample::ladder();
        for cell in &mut report.cells {
            let offered = cell.offered.unwrap();
            let mut with = |at: usize, rate: f64| {
                let samples = cell.locks[at].samples.iter_mut();
                samples.for_each(|s| s.acquisitions = vec![(rate * 5.0) as u64; 2]);
            };
            with(0, offered);
            with(1, offered / 2.0);
            cell.locks[0].round_waits.clear();
        }
        let summaries = summaries(&report);
        let ladder = &ladders(&summaries)[0];
        let verdict = ladder.verdict();
        assert_eq!(verdict[0], "lockword has no knee up to 1.10 M (110 %)");
        let below = "std has its knee below the lowest rate, 100 k (10 %): it serves 50.0 k";
        assert_eq!(verdict[1], below);
    }

    #[test]
    fn a_lucky_step_hides_no_knee_and_an_unlucky_one_makes_none() {
        let mut report = sample::ladder();
        // The first lock serves half of what arrives at these rates, and the second at those.
        let fails = [[500_000.0, 800_000.0].as_slice(), &[500_000.0, 1_100_000.0]];
        for cell in &mut report.cells {
            let offered = cell.offered.unwrap();
            for (lock, fails) in cell.locks.iter_mut().zip(fails) {
                lock.round_waits.clear();
                let rate = if fails.contains(&offered) { offered / 2.0 } else { offered };
                let samples = lock.samples.iter_mut();
                samples.for_each(|s| s.acquisitions = vec![(rate * 5.0) as u64; 2]);
            }
        }
        let summaries = summaries(&report);
        let ladder = &ladders(&summaries)[0];
        assert_eq!((ladder.knee("lockword"), ladder.knee("std")), (Some(0), Some(4)));
    }

    #[test]
    fn a_lock_that_misses_its_own_maximum_is_named_once() {
        let mut report = sample::ladder();
        let lines = |report: &ComparisonReport| {
            let summaries = summaries(report);
            let lines = ladders(&summaries)[0].verdict();
            lines.into_iter().filter(|line| line.contains("its own maximum")).collect::<Vec<_>>()
        };
        assert!(lines(&report).is_empty());
        for (lock, misses) in
            [("lockword", None), ("std", Some("std does not keep up with 80 % of"))]
        {
            for cell in &mut report.cells {
                let rates = vec![1e6; 3];
                let lock = lock.to_owned();
                cell.maximum = Some(MaximumReport { lock, before: rates.clone(), after: rates });
            }
            assert_eq!(lines(&report).len(), usize::from(misses.is_some()));
            assert!(misses.is_none_or(|misses| lines(&report)[0].starts_with(misses)));
        }
    }

    #[test]
    fn a_wait_that_the_slice_cut_off_is_marked() {
        let mut report = sample::ladder();
        let says = |report: &ComparisonReport| {
            let summaries = summaries(report);
            let ladder = &ladders(&summaries)[0];
            let said = ladder.verdict().iter().any(|line| line.contains("a wait marked >="));
            (ladder.rows("lockword").remove(5), said)
        };
        let (row, said) = says(&report);
        assert!(!said && row.iter().all(|text| !text.contains(">=")), "{row:?}");
        // The slice takes 100 ms and is served for half of it more, at the highest rate.
        let lock = &mut report.cells[0].locks[0];
        lock.waits.as_mut().unwrap().max = 149_000_000;
        for waits in &mut lock.round_waits {
            waits.p999 = 140_000_000;
        }
        let (row, said) = says(&report);
        assert_eq!(row[5..], [">=140 ms", ">=149 ms"]);
        assert!(said && row[..5].iter().all(|text| !text.contains(">=")), "{row:?}");
    }

    #[test]
    fn waits_have_their_ratio_to_the_reference() {
        let mut report = sample::ladder();
        let said = |report: &ComparisonReport| {
            let summaries = summaries(report);
            let ladder = &ladders(&summaries)[0];
            let line = ladder.verdict().into_iter().find(|line| line.contains("p99 ratio"));
            (["lockword", "std"].map(|lock| ladder.rows(lock)[5][4].clone()), line)
        };
        assert_eq!(said(&report), (["1", "-"].map(str::to_owned), None));
        for cell in &mut report.cells {
            cell.locks[0].round_waits = waits(1_000, 9);
            cell.locks[1].round_waits = waits(2_500, 9);
        }
        let (ratios, line) = said(&report);
        assert_eq!(ratios, ["1", "2.50 ±0%"]);
        assert!(line.is_some_and(|line| line.contains("over lockword's: ")));
    }

    #[test]
    fn disturbed_rounds_do_not_count_and_are_told() {
        let mut report = sample::ladder();
        // The lowest rate is the last cell. There the first lock serves nothing in five rounds of nine.
        let disturb = |report: &mut ComparisonReport, cell: usize, rounds: usize| {
            for sample in &mut report.cells[cell].locks[0].samples[..rounds] {
                sample.acquisitions.fill(0);
                sample.conditions.unit_ns = 2.0;
            }
        };
        let verdict = |report: &ComparisonReport| {
            let summaries = summaries(report);
            ladders(&summaries)[0].verdict()
        };
        assert!(!verdict(&report).iter().any(|line| line.contains("disturbed (")));
        disturb(&mut report, 5, 3);
        let found = verdict(&report);
        assert!(found[0].starts_with("lockword has its knee at 800 k (80 %)"), "{found:?}");
        let count = "3 of 54 rounds of all rates were disturbed (the processor changed its speed) and do not \
                     count";
        assert_eq!(found.last().map(String::as_str), Some(count));
        disturb(&mut report, 5, 5);
        disturb(&mut report, 4, 5);
        let found = verdict(&report);
        assert!(found[0].starts_with("lockword has its knee below the lowest rate"), "{found:?}");
        let count = "10 of 54 rounds of all rates were disturbed (the processor changed its speed) and \
                     count all the same, since fewer than 6 are left at such a rate: stop other processes";
        assert_eq!(found.last().map(String::as_str), Some(count));
        disturb(&mut report, 3, 1);
        let found = verdict(&report);
        let count = "11 of 54 rounds of all rates were disturbed (the processor changed its speed) and do not \
                     count, but those at 100 k (10 %) and 500 k (50 %) do, since fewer than 6 are left there: \
                     stop other processes";
        assert_eq!(found.last().map(String::as_str), Some(count));
    }

    #[test]
    fn a_p999_of_few_waits_is_said_once() {
        let mut report = sample::ladder();
        for cell in &mut report.cells {
            let waits = cell.locks[0].round_waits.iter_mut();
            waits.for_each(|waits| waits.count = cell.offered.unwrap() as u64 / 1_000);
        }
        let summaries = summaries(&report);
        let verdict = ladders(&summaries)[0].verdict();
        let said = verdict.iter().filter(|line| line.contains("rests on")).collect::<Vec<_>>();
        assert!(
            said.len() == 1 && said[0].contains("at 100 k (10 %) rests on 100 waits"),
            "{said:?}"
        );
    }

    #[test]
    fn two_rates_are_no_ladder_and_neither_are_different_loads() {
        let mut report = sample::ladder();
        report.cells.truncate(2);
        assert!(ladders(&summaries(&report)).is_empty());
        let mut report = sample::ladder();
        for (threads, cell) in (1..).zip(&mut report.cells) {
            cell.load.threads = threads;
        }
        assert!(ladders(&summaries(&report)).is_empty());
    }
}
