//! [`Difference`]: has a lock become slower than in an earlier report, the baseline?
//!
//! Loads and locks of the two reports are matched by name. What is compared ([`Basis`]):
//!
//! - **Relative to a reference** (the default): a lock's acquisitions a second over those of the
//!   reference lock in the same round. Both were measured within some milliseconds, so what slows
//!   down both alike cancels out. The reference is not judged; if it changes, all ratios change,
//!   and the text then says by how much each of the two has changed.
//! - **Acquisitions a second** of every lock (`--absolute`). They mean nothing across machines or
//!   at another speed of the processor, so such reports are refused.
//!
//! With `--judge p99` the same is done with the 99th percentile of the waits of each round. An open loop
//! is always judged by both: its acquisitions a second are those of the schedule as long as the lock keeps up,
//! and its waits are cut off if it does not.
//!
//! A lock is slower if its median has fallen by more than the threshold *and* the intervals of both
//! medians do not overlap *and* its own figure has fallen too, by half of the
//! threshold at least. Each lock under each load is an occasion for a false alarm, so with n of them the
//! level of the intervals is 1 - 0.05 / n. (Where the rounds are too few for it, the interval reaches from
//! the lowest round to the highest: six rounds give 96.9 %, seven 98.4 %, nine 99.6 %.) A false alarm takes the earlier interval above its true median
//! or the later one below it, each of which happens with a probability of at most 0.025 / n; so all of
//! them together give one in at most 5 % of the comparisons, or more where the rounds are too few for the level
//! (with six, 3.1 % for each).
//!
//! What is neither slower nor known not to be is undecided, and without a slower lock that is a failure
//! and not a success, exit status 2:
//!
//! - fewer than six rounds count in either report; a round does not count if something disturbed the lock
//!   or the reference in it ([`Conditions::disturbance`]);
//! - the median has fallen by more than the threshold, but the intervals overlap; or it has not, but the
//!   intervals at a level of 95 % are so wide that it may have fallen by twice the threshold;
//! - the ratio has changed, and so has the reference's own figure, by more than the threshold: the machine
//!   was in another state, in which ratios differ;
//! - the reference's own figure has changed by more than three times the threshold (or a quarter, if that is
//!   less), or the unit of work by more than 5 %: that was another state for sure;
//! - the ratio has become worse, but the lock's own figure has not;
//! - the rate of arrivals of an open loop differs by more than 1 %, as it does where it is a share of a maximum:
//!   near the maximum, 5 % more arrivals make waits several times as long;
//! - a load or a lock of the baseline was not measured again, or has no reference beside it.
//!
//! Reports of two kinds of machine are refused: ratios of locks depend on the machine.
//!
//! "Fallen" means "risen" where a wait is judged.
//!
//! # What this guarantees
//!
//! If the rounds are independent, and nothing has changed, at most one comparison in twenty has an
//! alarm. In fact it is far less, since two intervals that just do not overlap are a rarer event,
//! and the threshold comes on top. What it does not guarantee: rounds of one process are not
//! independent of the addresses at which the process has its code and data, and of what the host of
//! a virtual machine does meanwhile; the threshold is there for it. A change below the threshold is
//! never found. Nor is one that another state of the machine makes up for: if the reference has become
//! slower by less than three times the threshold, and the lock by as much, they are level.
//!
//! The figures behind the rules (one virtual machine with two processors; benches/README.md has how often
//! the gate was right): on a quiet machine the ratios of ten runs were 0.857 to 0.881 with two threads and
//! 100 ns inside and outside, and 0.998 to 1.002 with 200 ns and 1 us; beside random load, 0.852 to 0.942,
//! while std's own rate changed by up to 17 %. In another state of the host std's own rate had halved, and the
//! ratio was 1.39 to 1.46. So the threshold is 7 % by default. A rule that the reference must not change by more than
//! the threshold, whatever the ratio does, left half of the pairs of a busy hour undecided, and this one 30 %, with no
//! false alarm either way.
//!
//! [`Conditions::disturbance`]: lockword::contention::Conditions::disturbance

use super::summary::{ROUNDS, cautions, offered};
use crate::output;
use crate::{CliError, ExitOutcome, exit};
use anstyle::{AnsiColor, Style};
use clap::ValueEnum;
use lockword::contention::statistics::{Median, median, median_at};
use lockword::contention::{
    Arrivals, CellReport, ComparisonReport, Conditions, Disturbance, Load, LockReport, MachineInfo,
};
use std::collections::HashMap;
use std::fmt::Write as _;

/// When a lock counts as slower.
#[derive(Clone, Debug)]
pub struct Rule {
    /// The share by which the median must have fallen.
    pub threshold: f64,
    /// What a lock is compared by.
    pub basis: Basis,
    /// Which figures are judged.
    pub judged: Judged,
}

/// What a lock is compared by (see the module's documentation).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Basis {
    /// Its figures over those of the reference lock, by default [`default_reference`].
    Relative { reference: Option<String> },
    /// Its figures.
    Absolute,
}

/// The figures that are judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Judged {
    /// Acquisitions a second
    Rate,
    /// The 99th percentile of the waits
    P99,
    /// Both
    Both,
}

/// A figure of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    /// Acquisitions a second.
    Rate,
    /// The 99th percentile of the waits.
    P99,
}

/// How a lock has changed under a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Slower by more than the threshold and the spread.
    Slower,
    /// Faster by more than the threshold and the spread.
    Faster,
    /// Neither.
    Level,
    /// Too few rounds count.
    Undecided,
    /// The median has fallen by more than the threshold, but the intervals overlap; or it may have fallen by twice that.
    Spread,
    /// An open loop, and other rates of arrivals.
    Offered,
    /// Either the reference has changed by too much, or the ratio has become worse while
    /// the lock's own figure has not ([`Pair::has_moved`]). How long a cache line takes from one processor to the other, for instance, changes when a host moves the
    /// processors of a virtual machine, and locks differ in how much of their time that is.
    Moved,
    /// The machine ran at another speed.
    Speed,
}

impl Change {
    /// Whether it is not known if the lock is slower.
    fn is_undecided(self) -> bool {
        match self {
            Change::Slower | Change::Faster | Change::Level => false,
            Change::Undecided
            | Change::Spread
            | Change::Offered
            | Change::Moved
            | Change::Speed => true,
        }
    }
}

/// How two machines are to each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Likeness {
    /// Of one kind, at one speed: acquisitions a second compare.
    Same,
    /// Of one kind, and the units of work differ by more than [`MAX_UNIT_CHANGE`].
    OtherSpeed,
    Other,
}

/// A load, and the number of rounds of each lock that will be measured.
pub struct Rounds<'a> {
    /// The load.
    pub load: &'a Load,
    /// The locks and their numbers of rounds.
    pub locks: Vec<(&'a str, usize)>,
}

/// The figures of a lock under a load, of all rounds that count.
#[derive(Debug, Default)]
struct Series {
    /// The lock's own figures.
    own: Vec<f64>,
    /// The reference's figures; empty if there is no reference.
    reference: Vec<f64>,
    /// What is compared: the quotients of both, or the lock's own figures.
    values: Vec<f64>,
    /// The number of rounds, with those that do not count.
    rounds: usize,
    /// What disturbed the rounds that do not count.
    disturbed: Vec<Disturbance>,
}

/// A lock under a load in both reports.
#[derive(Debug)]
struct Pair {
    cell: String,
    lock: String,
    reference: Option<String>,
    figure: Figure,
    /// Whether other rates of arrivals were offered.
    is_other_rate: bool,
    old: Series,
    new: Series,
    /// The medians of the two, if both have one.
    medians: Option<(Median, Median)>,
    change: Change,
}

/// The comparison of two reports.
#[derive(Debug)]
pub struct Difference {
    rule: Rule,
    pairs: Vec<Pair>,
    notes: Vec<String>,
    /// Loads and locks that only one of the reports has.
    missing: Vec<String>,
    /// The warnings of the later report.
    cautions: Vec<String>,
    /// Whether a load or a lock of the baseline was not measured again, or without a reference.
    is_incomplete: bool,
    /// Whether the machine ran at another speed.
    is_other_speed: bool,
    started: u64,
}

impl Judged {
    /// Whether waits must be timed for it.
    pub fn needs_waits(self) -> bool {
        self != Judged::Rate
    }

    /// The figures of this load that are judged.
    fn figures(self, load: &Load) -> &'static [Figure] {
        match self {
            _ if load.arrivals != Arrivals::Closed => &[Figure::Rate, Figure::P99],
            Judged::Rate => &[Figure::Rate],
            Judged::P99 => &[Figure::P99],
            Judged::Both => &[Figure::Rate, Figure::P99],
        }
    }
}

impl Figure {
    /// The figure of each round, and what it was measured under.
    fn of(self, lock: &LockReport) -> Vec<(f64, Conditions)> {
        match self {
            Figure::Rate => lock.samples.iter().map(|s| (s.per_second(), s.conditions)).collect(),
            Figure::P99 => lock
                .round_waits
                .iter()
                // A round without a wait has no percentile.
                .map(|w| (if w.count > 0 { w.p99 as f64 } else { f64::NAN }, w.conditions))
                .collect(),
        }
    }

    /// Whether `new` is worse than `old` by more than this share of it: fewer acquisitions a second, or a longer wait.
    fn is_worse(self, old: f64, new: f64, share: f64) -> bool {
        match self {
            Figure::Rate => new < old * (1.0 - share),
            Figure::P99 => new > old * (1.0 + share),
        }
    }

    /// Whether these intervals allow that it has become worse by more than this share.
    fn may_be_worse(self, (old, new): (Median, Median), share: f64) -> bool {
        let (from, to) = match self {
            Figure::Rate => (old.high, new.low),
            Figure::P99 => (old.low, new.high),
        };
        self.is_worse(from, to, share)
    }

    /// In words, for the end of the text.
    fn name(self) -> &'static str {
        match self {
            Figure::Rate => "acquisitions a second",
            Figure::P99 => "p99 of the waits",
        }
    }

    fn show(self, value: f64) -> String {
        match self {
            Figure::Rate => output::rate(value),
            Figure::P99 => output::time(value),
        }
    }
}

impl Series {
    /// The figures of a lock, over those of the reference if there is one, in a cell of a report.
    fn new(
        report: &ComparisonReport,
        cell: &CellReport,
        figure: Figure,
        (lock, reference): (&LockReport, Option<&LockReport>),
    ) -> Series {
        let mut series = Series::default();
        let disturbance =
            |conditions: &Conditions| conditions.disturbance(&cell.load, &report.machine);
        let references = reference.map(|reference| figure.of(reference));
        for (round, (own, conditions)) in figure.of(lock).into_iter().enumerate() {
            let reference = match &references {
                Some(references) => match references.get(round) {
                    Some(reference) => Some(*reference),
                    None => break,
                },
                None => None,
            };
            series.rounds += 1;
            let disturbed = disturbance(&conditions)
                .or_else(|| reference.and_then(|(_, conditions)| disturbance(&conditions)));
            if let Some(disturbance) = disturbed {
                series.disturbed.push(disturbance);
                continue;
            }
            let value = own / reference.map_or(1.0, |(value, _)| value);
            // A lock that was never acquired in a slice has no ratio.
            if value.is_finite() {
                series.own.push(own);
                series.reference.extend(reference.map(|(value, _)| value));
                series.values.push(value);
            }
        }
        series
    }

    /// Whether enough rounds count.
    fn is_enough(&self) -> bool {
        let (count, disturbed) = (self.values.len(), self.disturbed.len());
        count >= ROUNDS && (count >= disturbed || count >= MANY_ROUNDS)
    }
}

/// The rounds that must count where more than half were disturbed. Those that were not may then lie
/// close together: in one report, six of 300 rounds counted, all within a third of a second in which
/// std's lock was in a mode of its own, and the ratio was 0.83 in place of 1.45.
const MANY_ROUNDS: usize = 20;

/// The lock that others are compared with by default: std's, or the first that is not of this
/// crate.
fn default_reference<'a>(locks: &[&'a str]) -> Option<&'a str> {
    let named = |name: &str| locks.iter().copied().find(|lock| *lock == name);
    let other = || locks.iter().copied().find(|lock| !lock.starts_with("lockword"));
    named("std").or_else(|| named("std_rw")).or_else(other)
}

impl Rule {
    /// The reference among the locks that the baseline has of a load, if the other report (`common`: what both have) has
    /// it too; `None` also if none is needed. A load that does not have the named one has the default.
    fn reference<'a>(&self, old: &[&'a str], common: &[&'a str]) -> Option<&'a str> {
        let reference = match &self.basis {
            Basis::Absolute => None,
            Basis::Relative { reference: None } => default_reference(old),
            Basis::Relative { reference: Some(name) } => {
                let named = old.iter().copied().find(|lock| lock == name);
                named.or_else(|| default_reference(old))
            }
        };
        reference.filter(|reference| common.contains(reference))
    }

    /// The locks to judge among those that both reports have of a load.
    fn judged<'a>(&self, old: &[&'a str], common: &[&'a str]) -> Vec<&'a str> {
        let reference = self.reference(old, common);
        if reference.is_none() && self.basis != Basis::Absolute {
            return vec![];
        }
        common.iter().copied().filter(|lock| Some(*lock) != reference).collect()
    }

    /// Refuses a baseline that has the named reference under no load.
    fn check_reference(&self, old: &ComparisonReport) -> Result<(), CliError> {
        let Basis::Relative { reference: Some(name) } = &self.basis else { return Ok(()) };
        let mut locks = old.cells.iter().flat_map(measured);
        if locks.any(|lock| lock == name) { Ok(()) } else { Err(self.nothing_in_common()) }
    }

    fn nothing_in_common(&self) -> CliError {
        CliError::new(match &self.basis {
            Basis::Absolute => {
                "nothing to compare: the baseline has no lock in common that both have measured"
                    .to_owned()
            }
            Basis::Relative { reference: Some(name) } => format!(
                "nothing to compare: that takes {} and another lock in both reports",
                output::printable(name)
            ),
            Basis::Relative { reference: None } => {
                "nothing to compare: that takes a lock and a reference beside it in both reports. \
                 Measure std as well, name the reference (--reference), or compare \
                 acquisitions a second (--absolute)"
                    .to_owned()
            }
        })
    }
}

fn likeness(old: &MachineInfo, new: &MachineInfo) -> Likeness {
    let of = |machine: &MachineInfo| {
        (machine.cpu.clone(), machine.processors, machine.architecture.clone())
    };
    if of(old) != of(new) {
        Likeness::Other
    } else if (old.unit_ns / new.unit_ns - 1.0).abs() > MAX_UNIT_CHANGE {
        Likeness::OtherSpeed
    } else {
        Likeness::Same
    }
}

/// The share by which the units of work of two reports may differ for acquisitions a second to
/// compare: that by which a round may deviate from its report.
const MAX_UNIT_CHANGE: f64 = 0.05;

/// The multiple of the threshold by which the reference may have changed where the ratio has not, and the most.
const OTHER_STATE: (f64, f64) = (3.0, 0.25);

/// The share by which two rates of arrivals may differ for the waits to compare.
const MAX_RATE_CHANGE: f64 = 0.01;

/// Refuses a baseline with which a run of these rounds on this machine cannot be compared.
///
/// # Errors
///
/// If the machines differ (or their speed, if the rule is absolute), the reports have no load or lock in common,
/// the baseline has no waits and they are to be judged,
/// or no lock has enough rounds that count in the baseline, or enough rounds at all in the run.
pub fn check(
    old: &ComparisonReport,
    machine: &MachineInfo,
    new: &[Rounds<'_>],
    rule: &Rule,
) -> Result<(), CliError> {
    check_machines(&old.machine, machine, rule)?;
    rule.check_reference(old)?;
    let mut in_common = false;
    let mut series = vec![];
    let names: Vec<String> = new.iter().map(|new| new.load.name()).collect();
    for (name, new) in names.iter().zip(new) {
        let Some(old_cell) = find_cell(old, name, new.load) else { continue };
        in_common = true;
        let find = |name: &str| old_cell.locks.iter().find(|old| old.lock == name);
        let common: Vec<&str> = new
            .locks
            .iter()
            .filter(|(name, rounds)| {
                *rounds > 0 && find(name).is_some_and(|old| !old.samples.is_empty())
            })
            .map(|(name, _)| *name)
            .collect();
        let olds: Vec<&str> = measured(old_cell);
        let reference = rule.reference(&olds, &common).and_then(find);
        for lock in rule.judged(&olds, &common).into_iter().filter_map(find) {
            let rounds = new.locks.iter().find(|(name, _)| *name == lock.lock).map_or(0, |l| l.1);
            for figure in rule.judged.figures(new.load) {
                let old = Series::new(old, old_cell, *figure, (lock, reference));
                if *figure == Figure::P99 && old.rounds == 0 {
                    return Err(no_waits("the baseline", name));
                }
                series.push((old, rounds));
            }
        }
    }
    if !in_common {
        let news: Vec<(&str, u64)> =
            names.iter().zip(new).map(|(name, new)| (name.as_str(), new.load.slice_ms)).collect();
        return Err(no_load_in_common(old, &news));
    }
    if series.is_empty() {
        return Err(rule.nothing_in_common());
    }
    if !series.iter().any(|(old, rounds)| old.is_enough() && *rounds >= ROUNDS) {
        let few = series.iter().all(|(_, rounds)| *rounds < ROUNDS);
        let old: Vec<&Series> = series.iter().map(|(series, _)| series).collect();
        return Err(nothing_judged(&[("the baseline", old)], few));
    }
    Ok(())
}

/// The load of this name in a report, with slices of the same length.
fn find_cell<'r>(report: &'r ComparisonReport, name: &str, load: &Load) -> Option<&'r CellReport> {
    let alike = |cell: &&CellReport| cell.name == name && cell.load.slice_ms == load.slice_ms;
    report.cells.iter().find(alike)
}

/// The locks that a cell has samples of.
fn measured(cell: &CellReport) -> Vec<&str> {
    let measured = cell.locks.iter().filter(|lock| !lock.samples.is_empty());
    measured.map(|lock| lock.lock.as_str()).collect()
}

fn check_machines(old: &MachineInfo, new: &MachineInfo, rule: &Rule) -> Result<(), CliError> {
    let likeness = likeness(old, new);
    if likeness == Likeness::Same
        || likeness == Likeness::OtherSpeed && rule.basis != Basis::Absolute
    {
        return Ok(());
    }
    let name = |machine: &MachineInfo| {
        let cpu = machine.cpu.as_deref().unwrap_or(&machine.architecture);
        format!("{cpu} with {} processors", machine.processors)
    };
    let (old_name, new_name) = (name(old), name(new));
    Err(CliError::new(if likeness == Likeness::OtherSpeed {
        format!(
            "the machine had another speed when the baseline was measured (a unit of work took \
             {:.3} ns, here {:.3} ns): acquisitions a second do not compare; leave out --absolute",
            old.unit_ns, new.unit_ns
        )
    } else {
        format!(
            "the baseline is of another machine ({old_name}; this is {new_name}), and how locks stand to each \
             other depends on the machine: measure both versions on one, one after the other"
        )
    }))
}

/// The error if waits are to be judged, and a report has none of this load.
fn no_waits(report: &str, cell: &str) -> CliError {
    CliError::new(format!(
        "{report} has no waits, whose p99 is to be judged ({cell}): measure it with --judge p99 too, or without \
         --no-waits"
    ))
}

/// The error if no load is in both: `new` has the names and the length of the slices in milliseconds.
fn no_load_in_common(old: &ComparisonReport, new: &[(&str, u64)]) -> CliError {
    let slice_of =
        |name: &str| Some(old.cells.iter().find(|cell| cell.name == name)?.load.slice_ms);
    if let Some((ms, old_ms)) = new.iter().find_map(|(name, ms)| Some((ms, slice_of(name)?))) {
        return CliError::new(format!(
            "no load in common: the slices of the baseline have {old_ms} ms, and these {ms} ms: measure with --slice \
             {old_ms}"
        ));
    }
    let names: Vec<&str> = old.cells.iter().map(|cell| cell.name.as_str()).take(4).collect();
    let more = if old.cells.len() > names.len() { ", .." } else { "" };
    CliError::new(format!("the baseline has no load in common; it has: {}{more}", names.join("; ")))
}

/// The error if no lock can be judged, with what to do. `reports` are names and what they have.
fn nothing_judged(reports: &[(&str, Vec<&Series>)], few: bool) -> CliError {
    let told = reports
        .iter()
        .filter(|_| !few)
        // That with the fewest rounds that count.
        .min_by_key(|(_, series)| series.iter().map(|series| series.values.len()).sum::<usize>())
        .and_then(|(name, series)| Some(format!("{} in {name}", disturbed(series)?)));
    CliError::new(match told {
        Some(disturbed) => format!(
            "nothing can be judged: {disturbed}. Stop other processes and measure that again, or \
             with more --rounds"
        ),
        None => format!(
            "nothing can be judged: that takes {ROUNDS} rounds of a lock in both reports, with \
             waits for their p99"
        ),
    })
}

/// How many rounds were disturbed and why, if any were: `14 of 120 rounds were disturbed (other
/// processes ran)`.
fn disturbed(series: &[&Series]) -> Option<String> {
    let rounds: usize = series.iter().map(|series| series.rounds).sum();
    let mut counts: HashMap<Disturbance, usize> = HashMap::new();
    for disturbance in series.iter().flat_map(|series| &series.disturbed) {
        *counts.entry(*disturbance).or_default() += 1;
    }
    let count: usize = counts.values().sum();
    let (most, _) = counts.into_iter().max_by_key(|(_, count)| *count)?;
    Some(format!("{count} of {rounds} rounds were disturbed ({most})"))
}

impl Difference {
    /// Compares two reports.
    ///
    /// # Errors
    ///
    /// As [`check`], and if too many rounds of the later report were disturbed.
    pub fn between(
        old: &ComparisonReport,
        new: &ComparisonReport,
        rule: &Rule,
    ) -> Result<Difference, CliError> {
        check_machines(&old.machine, &new.machine, rule)?;
        rule.check_reference(old)?;
        let mut difference = Difference {
            rule: rule.clone(),
            pairs: vec![],
            notes: notes(old, new),
            missing: vec![],
            cautions: cautions(new),
            is_incomplete: false,
            is_other_speed: likeness(&old.machine, &new.machine) == Likeness::OtherSpeed,
            started: old.started,
        };
        let mut in_common = false;
        for new_cell in &new.cells {
            let Some(old_cell) = find_cell(old, &new_cell.name, &new_cell.load) else {
                difference.missing.push(format!("not in the baseline: {}", new_cell.name));
                continue;
            };
            in_common = true;
            difference.cell((old, old_cell), (new, new_cell))?;
        }
        for cell in &old.cells {
            if find_cell(new, &cell.name, &cell.load).is_none() {
                let ms = cell.load.slice_ms;
                difference
                    .missing
                    .push(format!("only in the baseline: {} (slices of {ms} ms)", cell.name));
                difference.is_incomplete = true;
            }
        }
        if !in_common {
            let of = |cell: &'_ CellReport| (cell.name.clone(), cell.load.slice_ms);
            let news: Vec<(String, u64)> = new.cells.iter().map(of).collect();
            let news: Vec<(&str, u64)> =
                news.iter().map(|(name, ms)| (name.as_str(), *ms)).collect();
            return Err(no_load_in_common(old, &news));
        }
        if difference.pairs.is_empty() {
            return Err(rule.nothing_in_common());
        }
        difference.judge();
        if difference.pairs.iter().all(|pair| pair.change == Change::Undecided) {
            return Err(nothing_judged(&difference.reports(), false));
        }
        Ok(difference)
    }

    /// The two reports with all their series, by name.
    fn reports(&self) -> [(&'static str, Vec<&Series>); 2] {
        let of = |side: fn(&Pair) -> &Series| self.pairs.iter().map(side).collect();
        [("the baseline", of(|pair| &pair.old)), ("this report", of(|pair| &pair.new))]
    }

    /// Adds the locks of a load.
    ///
    /// # Errors
    ///
    /// If waits are to be judged, and one of the reports has none.
    fn cell(
        &mut self,
        (old, old_cell): (&ComparisonReport, &CellReport),
        (new, new_cell): (&ComparisonReport, &CellReport),
    ) -> Result<(), CliError> {
        let find = |cell: &CellReport, name: &str| {
            cell.locks.iter().position(|lock| lock.lock == name && !lock.samples.is_empty())
        };
        let mut common: Vec<&str> = vec![];
        for lock in &new_cell.locks {
            let in_old = find(old_cell, &lock.lock).is_some();
            let name = format!("{}, {}", new_cell.name, lock.lock);
            match (in_old, lock.samples.is_empty()) {
                (true, false) => common.push(&lock.lock),
                (true, true) => {
                    self.missing.push(format!("only in the baseline: {name}"));
                    self.is_incomplete = true;
                }
                (false, _) => self.missing.push(format!("not in the baseline: {name}")),
            }
        }
        for lock in &old_cell.locks {
            if !new_cell.locks.iter().any(|new| new.lock == lock.lock) {
                self.missing
                    .push(format!("only in the baseline: {}, {}", new_cell.name, lock.lock));
                self.is_incomplete = true;
            }
        }
        let olds = measured(old_cell);
        let reference = self.rule.reference(&olds, &common);
        let judged = self.rule.judged(&olds, &common);
        // A load of which both have one lock, or the reference alone, says nothing, and need not.
        if judged.is_empty() && common.len() > 1 {
            self.missing.push(format!("without the reference beside it: {}", new_cell.name));
            self.is_incomplete = true;
        }
        let is_other_rate = match (offered(old_cell), offered(new_cell)) {
            (Some(old), Some(new)) => (new / old - 1.0).abs() > MAX_RATE_CHANGE,
            _ => false,
        };
        for lock in judged {
            let locks = |cell: &'_ CellReport| {
                let at = |name| find(cell, name).expect("both reports have it");
                (at(lock), reference.map(at))
            };
            for figure in self.rule.judged.figures(&new_cell.load) {
                let series = |name, report, cell: &CellReport| {
                    let (lock, reference) = locks(cell);
                    let locks = (&cell.locks[lock], reference.map(|at| &cell.locks[at]));
                    let series = Series::new(report, cell, *figure, locks);
                    if *figure == Figure::P99 && series.rounds == 0 {
                        return Err(no_waits(name, &cell.name));
                    }
                    Ok(series)
                };
                self.pairs.push(Pair {
                    cell: new_cell.name.clone(),
                    lock: lock.to_owned(),
                    reference: reference.map(str::to_owned),
                    figure: *figure,
                    is_other_rate,
                    old: series("the baseline", old, old_cell)?,
                    new: series("the later report", new, new_cell)?,
                    medians: None,
                    change: Change::Undecided,
                });
            }
        }
        Ok(())
    }

    /// Judges all pairs. The level of the intervals depends on the number of those that have enough
    /// rounds.
    fn judge(&mut self) {
        let enough = |pair: &Pair| pair.old.is_enough() && pair.new.is_enough();
        let judged = self.pairs.iter().filter(|pair| enough(pair)).count();
        let level = 1.0 - 0.05 / judged.max(1) as f64;
        for pair in &mut self.pairs {
            if pair.old.values.is_empty() || pair.new.values.is_empty() {
                continue;
            }
            let old = median_at(&pair.old.values, level);
            let new = median_at(&pair.new.values, level);
            pair.medians = Some((old, new));
            if enough(pair) {
                let at_95 = (median_at(&pair.old.values, 0.95), median_at(&pair.new.values, 0.95));
                let change = match change(pair.figure, &old, &new, self.rule.threshold) {
                    Change::Level if pair.figure.may_be_worse(at_95, 2.0 * self.rule.threshold) => {
                        Change::Spread
                    }
                    change => change,
                };
                pair.change = if self.is_other_speed {
                    Change::Speed
                } else if pair.is_other_rate {
                    Change::Offered
                } else if pair.has_moved(change, self.rule.threshold) {
                    Change::Moved
                } else {
                    change
                };
            }
        }
    }

    /// [`ExitOutcome::Regressed`] if any lock is slower; if none is and any is undecided, or was not measured again, a
    /// failure.
    pub fn outcome(&self) -> ExitOutcome {
        if self.pairs.iter().any(|pair| pair.change == Change::Slower) {
            ExitOutcome::Regressed
        } else if self.is_incomplete || self.pairs.iter().any(|pair| pair.change.is_undecided()) {
            ExitOutcome::With(exit::BENCH_FAILED)
        } else {
            ExitOutcome::Done
        }
    }

    /// The comparison as text for the terminal. `name` is that of the baseline.
    pub fn render(&self, name: &str) -> String {
        let bold = Style::new().bold();
        let mut out = String::new();
        let _ = writeln!(out, "{bold}Against {name}{bold:#}, of {}", output::date(self.started));
        let warning = AnsiColor::Yellow.on_default().bold();
        for note in &self.notes {
            let _ = writeln!(out, "{warning}note{warning:#}: {note}");
        }
        let wide = self.pairs.iter().map(|pair| pair.label().chars().count()).max().unwrap_or(0);
        for pairs in self.pairs.chunk_by(|a, b| a.cell == b.cell) {
            let _ = writeln!(out, "\n{bold}{}{bold:#}", pairs[0].cell);
            for pair in pairs {
                out += &pair.line(wide, self.rule.threshold);
            }
        }
        let count = |change| self.pairs.iter().filter(|pair| pair.change == change).count();
        let undecided = self.pairs.iter().filter(|pair| pair.change.is_undecided()).count();
        let threshold = output::figure(self.rule.threshold * 100.0);
        let judged = self.pairs.len() - undecided;
        let _ = match judged {
            0 => writeln!(out, "\nNothing could be judged ({}).", self.figure_names()),
            _ => writeln!(
                out,
                "\n{} of {judged} slower by more than {threshold} % and the spread ({}).",
                count(Change::Slower),
                self.figure_names()
            ),
        };
        let why = [
            (
                Change::Undecided,
                format!(
                    "too few rounds count ({ROUNDS} must, or {MANY_ROUNDS} where most were disturbed). Stop other \
                     processes and measure again, or with more --rounds"
                ),
            ),
            (
                Change::Spread,
                format!(
                    "the rounds spread too much to tell whether it is slower by more than {threshold} %. Measure again, \
                     or with more --rounds"
                ),
            ),
            (
                Change::Offered,
                format!(
                    "other rates of arrivals (by more than {:.0} %), as a share of a maximum gives. Measure both with the \
                     rate as a number",
                    100.0 * MAX_RATE_CHANGE
                ),
            ),
            (
                Change::Moved,
                    "the reference itself has changed too, or only the ratio has and not the lock: the machine was \
                     in another state, or the reference is another version. Measure again; if it stays so, measure the \
                     baseline again"
                    .to_owned(),
            ),
            (
                Change::Speed,
                format!(
                    "the machine runs at another speed (a unit of work differs by more than {:.0} %). Measure again; \
                     if it stays so, measure the baseline again",
                    100.0 * MAX_UNIT_CHANGE
                ),
            ),
        ];
        for (change, why) in why {
            if count(change) > 0 {
                let _ = writeln!(out, "{} undecided: {why}.", count(change));
            }
        }
        if self.is_incomplete {
            let _ = writeln!(
                out,
                "Not all of the baseline could be judged: measure the same loads and locks, with the reference among \
                 them, or a new baseline."
            );
        }
        for (report, series) in self.reports() {
            if let Some(disturbed) = disturbed(&series) {
                let _ = writeln!(out, "In {report}, {disturbed}, and do not count.");
            }
        }
        for missing in &self.missing {
            let _ = writeln!(out, "{warning}not compared{warning:#}: {missing}");
        }
        for caution in &self.cautions {
            let _ = writeln!(out, "{warning}the result is doubtful{warning:#}: {caution}");
        }
        out
    }

    /// What was compared: `acquisitions a second over those of std in the same round`.
    fn figure_names(&self) -> String {
        let judged = [Figure::Rate, Figure::P99];
        let judged =
            judged.iter().filter(|figure| self.pairs.iter().any(|pair| pair.figure == **figure));
        let figures: Vec<&str> = judged.map(|figure| figure.name()).collect();
        let mut references: Vec<&str> =
            self.pairs.iter().filter_map(|pair| pair.reference.as_deref()).collect();
        references.sort_unstable();
        references.dedup();
        let figures = output::list(&figures);
        if references.is_empty() {
            figures
        } else {
            format!("{figures} over those of {} in the same round", references.join(" or "))
        }
    }
}

impl Pair {
    /// By which share of the smaller one the reference's two figures differ; 0 without a reference.
    fn reference_change(&self) -> f64 {
        let (old, new) = (&self.old.reference, &self.new.reference);
        if old.is_empty() || new.is_empty() {
            return 0.0;
        }
        let (old, new) = (median(old).mid, median(new).mid);
        old.max(new) / old.min(new) - 1.0
    }

    /// Whether the machine was in another state when this change was found: the reference has
    /// changed too, or the lock itself has not.
    fn has_moved(&self, change: Change, threshold: f64) -> bool {
        let moved = self.reference_change();
        let (old, new) = (median(&self.old.own).mid, median(&self.new.own).mid);
        let is_own = self.figure.is_worse(old, new, threshold / 2.0);
        moved > (OTHER_STATE.0 * threshold).min(OTHER_STATE.1)
            || change != Change::Level && moved > threshold
            || change == Change::Slower && !is_own
    }

    /// What the line begins with.
    fn label(&self) -> String {
        let own = match self.figure {
            Figure::Rate => self.lock.clone(),
            Figure::P99 => format!("{} p99", self.lock),
        };
        match &self.reference {
            Some(reference) => format!("{own} / {reference}"),
            None => own,
        }
    }

    /// The line of the pair, and one below it for a change: whether of the lock or the reference.
    fn line(&self, wide: usize, threshold: f64) -> String {
        let (style, word) = match self.change {
            Change::Slower => (AnsiColor::Red.on_default().bold(), "SLOWER"),
            Change::Faster => (AnsiColor::Green.on_default(), "faster"),
            Change::Level => (Style::new(), "level"),
            Change::Undecided => (Style::new(), "undecided: too few rounds count"),
            Change::Spread => (Style::new(), "undecided: the rounds spread too much"),
            Change::Offered => (Style::new(), "undecided: another rate of arrivals"),
            Change::Moved => (Style::new(), "undecided: it is not the lock alone that changed"),
            Change::Speed => (Style::new(), "undecided: another speed of the machine"),
        };
        let label = self.label();
        let Some((old, new)) = &self.medians else {
            return format!("  {label:<wide$}  {style}{word}{style:#}\n");
        };
        let show = |value: f64| match self.reference {
            Some(_) => format!("{value:.2}"),
            None => self.figure.show(value),
        };
        let (before, after) = (show(old.mid), show(new.mid));
        let percent = percent(old.mid, new.mid);
        let mut text = format!(
            "  {label:<wide$}  {before:>7} -> {after:>7}  {percent}  {style}{word}{style:#}\n"
        );
        let changed = !matches!(self.change, Change::Level | Change::Undecided)
            || self.reference_change() > threshold;
        if let Some(reference) = self.reference.as_deref().filter(|_| changed) {
            let change = |name: &str, old: &[f64], new: &[f64]| {
                let (old, new) = (median(old).mid, median(new).mid);
                let show = |value| self.figure.show(value);
                format!("{name} {} -> {} {}", show(old), show(new), percent_of(old, new))
            };
            let _ = writeln!(
                text,
                "    of which: {}, {}",
                change(&self.lock, &self.old.own, &self.new.own),
                change(reference, &self.old.reference, &self.new.reference)
            );
        }
        text
    }
}

/// The change in percent, right-aligned.
fn percent(old: f64, new: f64) -> String {
    format!("{:>8}", percent_of(old, new))
}

/// The change in percent. A change from zero has none.
fn percent_of(old: f64, new: f64) -> String {
    let percent = (new / old - 1.0) * 100.0;
    if percent.is_finite() || old == new {
        format!("{:+.1} %", if old == new { 0.0 } else { percent })
    } else {
        format!("from {old}")
    }
}

fn change(figure: Figure, old: &Median, new: &Median, threshold: f64) -> Change {
    let apart = old.high < new.low || new.high < old.low;
    if figure.is_worse(old.mid, new.mid, threshold) {
        if apart { Change::Slower } else { Change::Spread }
    } else if figure.is_worse(new.mid, old.mid, threshold) && apart {
        Change::Faster
    } else {
        Change::Level
    }
}

/// Notes on differences between the two runs that affect the comparison.
fn notes(old: &ComparisonReport, new: &ComparisonReport) -> Vec<String> {
    let mut notes = vec![];
    if old.machine.system != new.machine.system {
        notes.push(format!(
            "the baseline ran on {}, not {}",
            old.machine.system, new.machine.system
        ));
    }
    let speed = old.machine.unit_ns / new.machine.unit_ns;
    if !(0.9..=1.1).contains(&speed) {
        let slow = if speed > 1.0 { "the baseline's machine" } else { "this machine" };
        notes.push(format!("{slow} was the slower one: the unit of work took longer"));
    }
    let samples = || {
        old.cells
            .iter()
            .chain(&new.cells)
            .flat_map(|cell| &cell.locks)
            .flat_map(|lock| &lock.samples)
    };
    if samples().next().is_some() && samples().all(|sample| sample.conditions.run_delay.is_none()) {
        notes.push(
            "this system does not tell how long threads wait for a processor, so rounds that other processes disturbed \
             count: stop them"
                .to_owned(),
        );
    }
    notes.extend(cautions(old).into_iter().map(|caution| format!("of the baseline: {caution}")));
    notes
}

#[cfg(test)]
mod tests {
    use super::super::summary::sample::{cell, lock, report, waits};
    use super::*;

    const RULE: Rule =
        Rule { threshold: 0.1, basis: Basis::Relative { reference: None }, judged: Judged::Rate };
    const ABSOLUTE: Rule = Rule { basis: Basis::Absolute, ..RULE };

    fn two(lockword: f64, std: f64, spread: f64) -> ComparisonReport {
        report(vec![cell(8, vec![lock("lockword", lockword, spread), lock("std", std, spread)])])
    }

    fn outcome(old: &ComparisonReport, new: &ComparisonReport, rule: &Rule) -> ExitOutcome {
        Difference::between(old, new, rule).unwrap().outcome()
    }

    fn refusal(old: &ComparisonReport, new: &ComparisonReport, rule: &Rule) -> String {
        Difference::between(old, new, rule).unwrap_err().to_string()
    }

    fn text(old: &ComparisonReport, new: &ComparisonReport, rule: &Rule) -> String {
        let text = Difference::between(old, new, rule).unwrap().render("old");
        anstream::adapter::strip_str(&text).to_string()
    }

    #[test]
    fn a_report_is_level_with_itself() {
        let report = two(100.0, 100.0, 0.05);
        for rule in [RULE, ABSOLUTE] {
            assert_eq!(outcome(&report, &report, &rule), ExitOutcome::Done);
        }
    }

    #[test]
    fn slower_means_by_more_than_the_threshold() {
        let old = two(100.0, 100.0, 0.01);
        assert_eq!(outcome(&old, &two(80.0, 100.0, 0.01), &ABSOLUTE), ExitOutcome::Regressed);
        assert_eq!(outcome(&old, &two(100.0, 80.0, 0.01), &ABSOLUTE), ExitOutcome::Regressed);
        assert_eq!(outcome(&old, &two(93.0, 93.0, 0.01), &ABSOLUTE), ExitOutcome::Done);
        assert_eq!(outcome(&old, &two(120.0, 120.0, 0.01), &ABSOLUTE), ExitOutcome::Done);
    }

    #[test]
    fn slower_means_by_more_than_the_spread() {
        let old = two(100.0, 100.0, 0.3);
        // It may be slower, so it is no success.
        let difference = Difference::between(&old, &two(80.0, 80.0, 0.3), &ABSOLUTE).unwrap();
        assert!(difference.pairs.iter().all(|pair| pair.change == Change::Spread));
        assert_eq!(difference.outcome(), ExitOutcome::With(exit::BENCH_FAILED));
        // The median has not fallen by the threshold, but it may have by twice that.
        let difference = Difference::between(&old, &two(95.0, 95.0, 0.3), &ABSOLUTE).unwrap();
        assert!(difference.pairs.iter().all(|pair| pair.change == Change::Spread));
        let narrow = |rate| two(rate, rate, 0.05);
        assert_eq!(outcome(&narrow(100.0), &narrow(95.0), &ABSOLUTE), ExitOutcome::Done);
        // The spread of both locks alike cancels out.
        assert_eq!(outcome(&old, &two(80.0, 100.0, 0.3), &RULE), ExitOutcome::Regressed);
    }

    #[test]
    fn what_slows_down_both_cancels_out_and_the_reference_is_not_judged() {
        let old = two(100.0, 100.0, 0.01);
        let result = |lockword, std, rule| outcome(&old, &two(lockword, std, 0.01), rule);
        assert_eq!(result(85.0, 85.0, &ABSOLUTE), ExitOutcome::Regressed);
        assert_eq!(result(85.0, 85.0, &RULE), ExitOutcome::Done);
        assert_eq!(result(100.0, 95.0, &RULE), ExitOutcome::Done);
        assert_eq!(result(100.0, 85.0, &ABSOLUTE), ExitOutcome::Regressed);
    }

    #[test]
    fn a_reference_that_has_changed_much_on_the_same_machine_decides_nothing() {
        let old = two(100.0, 100.0, 0.01);
        for std in [120.0, 80.0] {
            let new = two(100.0, std, 0.01);
            let difference = Difference::between(&old, &new, &RULE).unwrap();
            assert_eq!(difference.pairs[0].change, Change::Moved);
            assert_eq!(difference.outcome(), ExitOutcome::With(exit::BENCH_FAILED));
            let said = text(&old, &new, &RULE);
            assert!(said.contains("undecided: it is not the lock alone that changed"), "{said}");
            assert!(said.contains("of which: lockword 99.0 -> 99.0 +0.0 %, std"), "{said}");
            let why = "the reference itself has changed too";
            assert!(said.contains("Nothing could be judged") && said.contains(why), "{said}");
        }
        assert_eq!(outcome(&old, &two(100.0, 95.0, 0.01), &RULE), ExitOutcome::Done);
        // Both have changed alike.
        for (both, change) in [
            (81.0, Change::Level),
            (124.0, Change::Level),
            // The smaller over the larger one is what counts.
            (79.0, Change::Moved),
            (126.0, Change::Moved),
        ] {
            let new = two(both, both, 0.01);
            let difference = Difference::between(&old, &new, &RULE).unwrap();
            assert_eq!(difference.pairs[0].change, change, "{both}");
            let told = text(&old, &new, &RULE).contains("of which: lockword");
            assert!(told, "a level lock whose reference has changed");
        }
        assert!(!text(&old, &two(95.0, 95.0, 0.01), &RULE).contains("of which"));
    }

    #[test]
    fn the_lock_itself_must_have_become_slower() {
        let old = two(100.0, 100.0, 0.01);
        // The ratio falls by 12 %, of which the reference has 8 %, and the lock 4 %.
        let of = |lockword| Difference::between(&old, &two(lockword, 108.0, 0.01), &RULE).unwrap();
        assert_eq!(of(96.0).pairs[0].change, Change::Moved);
        assert_eq!(of(94.0).pairs[0].change, Change::Slower);
    }

    #[test]
    fn another_speed_of_the_machine_decides_nothing() {
        let old = two(100.0, 100.0, 0.01);
        for speed in [0.93, 1.07] {
            let mut new = two(70.0, 100.0, 0.01);
            new.machine.unit_ns = old.machine.unit_ns * speed;
            for sample in new.cells[0].locks.iter_mut().flat_map(|lock| &mut lock.samples) {
                sample.conditions.unit_ns = new.machine.unit_ns;
            }
            let difference = Difference::between(&old, &new, &RULE).unwrap();
            assert_eq!(difference.pairs[0].change, Change::Speed);
            assert_eq!(difference.outcome(), ExitOutcome::With(exit::BENCH_FAILED));
        }
    }

    #[test]
    fn what_was_not_measured_again_is_no_success() {
        let old = two(100.0, 100.0, 0.01);
        let failed = ExitOutcome::With(exit::BENCH_FAILED);
        let with = |change: &dyn Fn(&mut ComparisonReport)| {
            let mut new = report(vec![old.cells[0].clone(), cell(2, old.cells[0].locks.clone())]);
            change(&mut new);
            new
        };
        let whole = with(&|_| {});
        assert_eq!(outcome(&whole, &whole, &RULE), ExitOutcome::Done);
        // More than in the baseline is no harm.
        assert_eq!(outcome(&old, &whole, &RULE), ExitOutcome::Done);
        let less: [&dyn Fn(&mut ComparisonReport); 4] = [
            &|new| drop(new.cells.pop()),
            &|new| drop(new.cells[1].locks.remove(0)),
            &|new| drop(new.cells[1].locks.remove(1)),
            &|new| new.cells[1].load.slice_ms += 1,
        ];
        for change in less {
            let new = with(change);
            assert_eq!(outcome(&whole, &new, &RULE), failed);
            assert!(text(&whole, &new, &RULE).contains("Not all of the baseline"));
        }
        // A load without the named reference has the default.
        let named = Rule { basis: Basis::Relative { reference: Some("usync".to_owned()) }, ..RULE };
        let with_usync = |mut report: ComparisonReport| {
            report.cells[0].locks.push(lock("usync", 100.0, 0.01));
            report
        };
        let part = with_usync(whole.clone());
        assert_eq!(outcome(&part, &part, &named), ExitOutcome::Done);
        assert!(text(&part, &part, &named).contains("over those of std or usync"));
        // One with locks of this crate only has none.
        let mut ours = whole.clone();
        ours.cells[1].locks[1].lock = "lockword_fair".to_owned();
        assert_eq!(outcome(&ours, &ours, &RULE), failed);
        assert!(text(&ours, &ours, &RULE).contains("without the reference beside it: 2 threads"));
        // One with the reference alone has nothing to judge.
        ours.cells[1].locks.truncate(1);
        assert_eq!(outcome(&ours, &ours, &RULE), ExitOutcome::Done);
        // The reference is that of the baseline, and not the next best.
        let third = |mut report: ComparisonReport| {
            report.cells[0].locks.push(lock("usync", 300.0, 0.01));
            report
        };
        let mut new = third(two(50.0, 100.0, 0.01));
        new.cells[0].locks.remove(1);
        assert!(refusal(&third(old.clone()), &new, &RULE).contains("a reference beside it"));
    }

    #[test]
    fn a_change_of_the_reference_is_told() {
        let (old, mut new) = (two(100.0, 100.0, 0.01), two(80.0, 95.0, 0.01));
        let said = text(&old, &new, &RULE);
        assert!(said.contains("lockword / std     1.00 ->    0.84   -15.7 %  SLOWER"), "{said}");
        assert!(
            said.contains("of which: lockword 99.0 -> 79.2 -20.0 %, std 99.0 -> 94.0"),
            "{said}"
        );
        assert!(said.contains("acquisitions a second over those of std in the same round"));
        for lock in &mut new.cells[0].locks {
            lock.samples.iter_mut().for_each(|sample| sample.conditions.run_delay = None);
        }
        assert!(!text(&old, &new, &RULE).contains("does not tell how long"));
        assert!(text(&new, &new, &RULE).contains("does not tell how long"));
    }

    #[test]
    fn the_reference_is_stds_lock_or_another_crates() {
        for (locks, reference) in [
            (&["lockword", "parking_lot", "std"][..], Some("std")),
            (&["lockword", "std_rw", "usync"], Some("std_rw")),
            (&["lockword", "std_rw", "std"], Some("std")),
            (&["lockword", "lockword_fair", "usync", "spin"], Some("usync")),
            (&["lockword", "lockword_rw"], None),
            (&[], None),
        ] {
            assert_eq!(default_reference(locks), reference, "{locks:?}");
        }
        let named = |name: &str| Rule {
            basis: Basis::Relative { reference: Some(name.to_owned()) },
            ..RULE
        };
        let (old, new) = (two(100.0, 100.0, 0.01), two(102.0, 87.0, 0.01));
        assert_eq!(outcome(&old, &new, &named("lockword")), ExitOutcome::Regressed);
        let why = refusal(&old, &new, &named("usync"));
        assert!(why.contains("that takes usync and another lock"), "{why}");
    }

    #[test]
    fn a_lone_lock_takes_a_reference() {
        let mut old = two(100.0, 100.0, 0.01);
        old.cells[0].locks.truncate(1);
        let why = refusal(&old, &old, &RULE);
        assert!(why.contains("a reference beside it") && why.contains("--absolute"), "{why}");
        assert_eq!(outcome(&old, &old, &ABSOLUTE), ExitOutcome::Done);
    }

    #[test]
    fn another_machine_is_refused_and_with_absolute_figures_another_speed() {
        let old = two(100.0, 100.0, 0.01);
        let others: [fn(&mut MachineInfo); 3] = [
            |machine| machine.processors = 64,
            |machine| machine.cpu = None,
            |machine| machine.architecture = "aarch64".to_owned(),
        ];
        for (other, rule) in others.iter().flat_map(|other| [(other, &RULE), (other, &ABSOLUTE)]) {
            let mut new = old.clone();
            other(&mut new.machine);
            let why = refusal(&old, &new, rule);
            assert!(why.contains("another machine") && why.contains("measure both"), "{why}");
        }
        let mut new = old.clone();
        new.machine.unit_ns = 1.06;
        let why = refusal(&old, &new, &ABSOLUTE);
        assert!(why.contains("another speed") && why.contains("leave out --absolute"), "{why}");
        new.machine.unit_ns = 1.04;
        assert_eq!(outcome(&old, &new, &ABSOLUTE), ExitOutcome::Done);
    }

    /// The report, in which the first rounds of one lock were disturbed by a change of speed.
    fn disturb(mut report: ComparisonReport, lock: usize, rounds: usize) -> ComparisonReport {
        for sample in &mut report.cells[0].locks[lock].samples[..rounds] {
            sample.conditions.unit_ns = 1.1;
            sample.acquisitions.fill(1);
        }
        report
    }

    #[test]
    fn disturbed_rounds_do_not_count() {
        let old = two(100.0, 100.0, 0.01);
        for lock in [0, 1] {
            let new = disturb(old.clone(), lock, 3);
            assert_eq!(outcome(&old, &new, &RULE), ExitOutcome::Done, "of nine");
            let said = text(&old, &new, &RULE);
            assert!(said.contains("In this report, 3 of 9 rounds were disturbed"), "{said}");
            assert!(said.contains("(the processor changed its speed), and do not"), "{said}");
            assert!(!said.contains("In the baseline,"), "{said}");
            // With a round less there is no 95 % interval.
            let few = disturb(old.clone(), lock, 4);
            let why = refusal(&old, &few, &RULE);
            assert!(why.contains("4 of 9 rounds were disturbed") && why.contains("this report"));
            let why = refusal(&few, &old, &RULE);
            assert!(why.contains("in the baseline") && why.contains("Stop other"), "{why}");
            let rounds =
                [Rounds { load: &old.cells[0].load, locks: vec![("lockword", 9), ("std", 9)] }];
            assert!(check(&few, &old.machine, &rounds, &RULE).is_err(), "before it is measured");
            assert!(check(&new, &old.machine, &rounds, &RULE).is_ok());
        }
        // Only the lock itself counts without a reference.
        let new = disturb(old.clone(), 1, 4);
        let difference = Difference::between(&old, &new, &ABSOLUTE).unwrap();
        assert_eq!(difference.pairs[0].change, Change::Level);
        assert_eq!(difference.pairs[1].change, Change::Undecided);
        assert_eq!(difference.outcome(), ExitOutcome::With(exit::BENCH_FAILED));
    }

    #[test]
    fn the_level_allows_for_the_number_of_pairs() {
        // 2 P(Binomial(9, 1/2) <= 1) is 3.9 %: below the 5 % of one pair, above those of two.
        let cells = |count: usize| {
            let cell =
                |threads| cell(threads, vec![lock("lockword", 100.0, 0.1), lock("std", 99.0, 0.0)]);
            let mut report = report((0..count).map(|n| cell(8 + n)).collect());
            for cell in &mut report.cells {
                // One outlier at either end.
                let samples = &mut cell.locks[0].samples;
                samples[0].acquisitions.fill(1);
                samples[1].acquisitions.fill(1_000_000);
            }
            report
        };
        let interval = |count| {
            let report = cells(count);
            let difference = Difference::between(&report, &report, &RULE).unwrap();
            difference.pairs[0].medians.unwrap().0
        };
        assert!(interval(1).high < 2.0 && interval(1).low > 0.5, "{:?}", interval(1));
        assert!(interval(2).high > 2.0 && interval(2).low < 0.5, "{:?}", interval(2));
    }

    #[test]
    fn a_few_rounds_that_were_not_disturbed_are_not_enough() {
        let series = |counting: usize, disturbed: usize| Series {
            values: vec![1.0; counting],
            disturbed: vec![Disturbance::Speed; disturbed],
            ..Series::default()
        };
        for (counting, disturbed, enough) in [
            (5, 0, false),
            (6, 0, true),
            (6, 6, true),
            (6, 7, false),
            (19, 20, false),
            (20, 1_000, true),
        ] {
            let found = series(counting, disturbed).is_enough();
            assert_eq!(found, enough, "{counting} count, {disturbed} disturbed");
        }
    }

    fn with_waits(mut report: ComparisonReport, p99: u64) -> ComparisonReport {
        report.cells[0].locks[0].round_waits = waits(p99, 9);
        report.cells[0].locks[1].round_waits = waits(1_000, 9);
        report
    }

    #[test]
    fn a_longer_p99_is_slower_if_it_is_judged() {
        let p99 = Rule { judged: Judged::P99, ..RULE };
        let both = Rule { judged: Judged::Both, ..RULE };
        let old = with_waits(two(100.0, 100.0, 0.01), 1_000);
        let long = with_waits(two(100.0, 100.0, 0.01), 1_200);
        assert_eq!(outcome(&old, &long, &RULE), ExitOutcome::Done);
        assert_eq!(outcome(&old, &long, &p99), ExitOutcome::Regressed);
        assert_eq!(outcome(&old, &long, &both), ExitOutcome::Regressed);
        assert_eq!(outcome(&long, &old, &p99), ExitOutcome::Done);
        let said = text(&old, &long, &both);
        assert!(
            said.contains("lockword p99 / std     1.00 ->    1.20   +20.0 %  SLOWER"),
            "{said}"
        );
        assert!(said.contains("of which: lockword 5.00 us -> 6.00 us +20.0 %"), "{said}");
        // Without waits nothing can be judged.
        let none = two(100.0, 100.0, 0.01);
        for rule in [&p99, &both] {
            for (old, new, which) in [(&none, &long, "the baseline"), (&long, &none, "the later")] {
                let why = refusal(old, new, rule);
                assert!(why.starts_with(which) && why.contains("has no waits"), "{why}");
            }
            let rounds =
                [Rounds { load: &old.cells[0].load, locks: vec![("lockword", 9), ("std", 9)] }];
            let before = check(&none, &none.machine, &rounds, rule).unwrap_err().to_string();
            assert!(before.contains("has no waits"), "{before}");
            assert!(check(&old, &old.machine, &rounds, rule).is_ok());
        }
    }

    #[test]
    fn an_open_loop_is_judged_by_its_waits() {
        let open = |p99, arrivals: Arrivals, per_second| {
            let mut report = with_waits(two(100.0, 100.0, 0.01), p99);
            report.cells[0].load.arrivals = arrivals;
            report.cells[0].offered = per_second;
            report.cells[0].name = report.cells[0].load.name();
            report
        };
        let at = |p99, per_second| open(p99, Arrivals::Open { per_second }, None);
        // The schedule gives the same acquisitions a second.
        assert_eq!(outcome(&at(1_000, 1e4), &at(1_200, 1e4), &RULE), ExitOutcome::Regressed);
        assert_eq!(outcome(&at(1_000, 1e4), &at(1_000, 1e4), &RULE), ExitOutcome::Done);
        let said = text(&at(1_000, 1e4), &at(1_200, 1e4), &RULE);
        assert!(said.contains("1 of 2 slower") && said.contains("p99 of the waits"), "{said}");
        // One that does not keep up has waits that the slice cuts off.
        let mut late = at(1_000, 1e4);
        for sample in &mut late.cells[0].locks[0].samples {
            sample.acquisitions.iter_mut().for_each(|count| *count = *count * 8 / 10);
        }
        assert_eq!(outcome(&at(1_000, 1e4), &late, &RULE), ExitOutcome::Regressed);
        let mut none = at(1_000, 1e4);
        none.cells[0].locks.iter_mut().for_each(|lock| lock.round_waits.clear());
        assert!(refusal(&none, &at(1_000, 1e4), &RULE).contains("has no waits"));
        // A share of a maximum is another rate in each run.
        let share = |p99, per_second| {
            let arrivals = Arrivals::OfMaximum { percent: 80.0, lock: None };
            open(p99, arrivals, Some(per_second))
        };
        assert_eq!(
            outcome(&share(1_000, 1e4), &share(1_200, 1.005e4), &RULE),
            ExitOutcome::Regressed
        );
        for rate in [0.98e4, 1.02e4] {
            let (old, new) = (share(1_000, 1e4), share(1_200, rate));
            let difference = Difference::between(&old, &new, &RULE).unwrap();
            assert!(difference.pairs.iter().all(|pair| pair.change == Change::Offered));
            assert_eq!(difference.outcome(), ExitOutcome::With(exit::BENCH_FAILED));
            assert!(text(&old, &new, &RULE).contains("rate as a number"));
        }
    }

    #[test]
    fn nothing_in_common_is_refused() {
        let old = two(100.0, 100.0, 0.01);
        let other = report(vec![cell(4, vec![lock("lockword", 1.0, 0.0)])]);
        let why = refusal(&old, &other, &RULE);
        assert!(why.contains("no load in common; it has"), "{why}");
        let mut longer = old.clone();
        longer.cells[0].load.slice_ms += 8;
        let (ms, old_ms) = (longer.cells[0].load.slice_ms, old.cells[0].load.slice_ms);
        let why = refusal(&old, &longer, &RULE);
        assert!(why.contains(&format!("have {old_ms} ms, and these {ms} ms")), "{why}");
        let rounds =
            [Rounds { load: &longer.cells[0].load, locks: vec![("lockword", 9), ("std", 9)] }];
        let before = check(&old, &old.machine, &rounds, &RULE).unwrap_err().to_string();
        assert_eq!(before, why);
        let other = report(vec![cell(8, vec![lock("usync", 1.0, 0.0)])]);
        let why = refusal(&old, &other, &ABSOLUTE);
        assert!(why.contains("no lock in common"), "{why}");
    }

    #[test]
    fn fewer_than_six_rounds_decide_nothing() {
        let cut = |mut report: ComparisonReport, lock: usize| {
            report.cells[0].locks[lock].samples.truncate(ROUNDS - 1);
            report
        };
        let (old, slow) = (two(100.0, 100.0, 0.01), two(50.0, 50.0, 0.01));
        for (old, new) in [(cut(old.clone(), 0), slow.clone()), (old.clone(), cut(slow.clone(), 0))]
        {
            // The other lock still is judged.
            let difference = Difference::between(&old, &new, &ABSOLUTE).unwrap();
            assert_eq!(difference.pairs[0].change, Change::Undecided);
            assert_eq!(difference.pairs[1].change, Change::Slower);
            let text = difference.render("old");
            assert!(text.contains("1 of 1 slower") && text.contains("1 undecided"), "{text}");
            assert_eq!(difference.outcome(), ExitOutcome::Regressed);
            let why = refusal(&old, &new, &RULE);
            assert!(why.contains("nothing can be judged"), "{why}");
        }
        let few = cut(cut(slow, 0), 1);
        let why = refusal(&old, &few, &ABSOLUTE);
        assert!(why.contains("nothing can be judged"), "{why}");
        // One that cannot be judged is no success.
        let part = cut(two(100.0, 50.0, 0.01), 1);
        assert_eq!(outcome(&old, &part, &ABSOLUTE), ExitOutcome::With(exit::BENCH_FAILED));
    }

    #[test]
    fn missing_locks_and_warnings_are_listed_at_the_end() {
        let old = two(100.0, 100.0, 0.01);
        let mut new = old.clone();
        new.cells[0].locks.truncate(1);
        new.warnings.push("the machine was busy".to_owned());
        let text = text(&old, &new, &ABSOLUTE);
        let (_, end) = text.split_once("1 slower by more than").unwrap();
        assert!(end.contains("not compared: only in the baseline: 8 threads"), "{text}");
        assert!(end.contains("ns, std"), "{text}");
        assert!(end.contains("the result is doubtful: the machine was busy"), "{text}");
    }

    #[test]
    fn rounds_without_a_ratio_do_not_count() {
        let (old, mut new) = (two(100.0, 100.0, 0.01), two(100.0, 100.0, 0.01));
        for lock in &mut new.cells[0].locks {
            lock.samples.iter_mut().take(4).for_each(|sample| sample.acquisitions.fill(0));
        }
        let why = refusal(&old, &new, &RULE);
        assert!(why.contains("nothing can be judged"), "{why}");
    }
}
