//! [`Difference`]: has a lock become slower than in an earlier report, the baseline?
//!
//! Loads and locks of the two reports are matched by name. Two figures can be compared:
//!
//! - **Acquisitions a second** of every lock. They mean nothing across machines, so reports of two
//!   machines are refused.
//! - **Relative speed** (`--relative`): acquisitions a second of the reference lock (lockword, or
//!   the first lock if lockword did not take part) over the geometric mean of the other locks that
//!   both reports have, round by round. What slows down all locks alike cancels out. The other
//!   locks are the yardstick and are not judged.
//!
//! A lock is slower if its median has fallen by more than the threshold *and* the 95 % intervals
//! of both medians do not overlap. With fewer than six rounds there is no such interval, and the
//! lock stays undecided. Waits are not judged: all rounds are pooled, so their spread is unknown.

use super::summary::{ROUNDS, cautions, median_of, rates};
use crate::output;
use crate::{CliError, ExitOutcome};
use anstyle::{AnsiColor, Style};
use lockword::contention::statistics::{Median, geometric_mean};
use lockword::contention::{CellReport, ComparisonReport, LockReport, MachineInfo};
use std::fmt::Write as _;

/// When a lock counts as slower.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The share by which the median must have fallen.
    pub threshold: f64,
    /// Whether to compare relative speed (see the module's documentation).
    pub relative: bool,
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
    /// There are too few rounds for a 95 % interval.
    Undecided,
}

/// A load, and the number of rounds of each lock that were or will be measured.
pub struct Rounds<'a> {
    /// The load's name.
    pub cell: &'a str,
    /// The locks and their numbers of rounds.
    pub locks: Vec<(&'a str, usize)>,
}

impl Rounds<'_> {
    /// The rounds that a report has.
    fn of(report: &ComparisonReport) -> Vec<Rounds<'_>> {
        let rounds = |lock: &LockReport| lock.samples.len();
        report
            .cells
            .iter()
            .map(|cell| Rounds {
                cell: &cell.name,
                locks: cell.locks.iter().map(|lock| (lock.lock.as_str(), rounds(lock))).collect(),
            })
            .collect()
    }
}

/// A lock under a load in both reports.
#[derive(Debug)]
struct Pair {
    cell: String,
    lock: String,
    old: Median,
    new: Median,
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
    started: u64,
}

/// Refuses a baseline with which a run of these rounds on this machine cannot be compared.
///
/// # Errors
///
/// If the machines differ (and the rule is not relative), or the reports have no load or lock in
/// common, or no lock has enough rounds in both.
pub fn check(
    old: &ComparisonReport,
    machine: &MachineInfo,
    new: &[Rounds<'_>],
    rule: &Rule,
) -> Result<(), CliError> {
    let old_machine = &old.machine;
    let differs = old_machine.cpu != machine.cpu
        || old_machine.processors != machine.processors
        || old_machine.architecture != machine.architecture;
    if differs && !rule.relative {
        let name = |machine: &MachineInfo| {
            let cpu = machine.cpu.as_deref().unwrap_or(&machine.architecture);
            format!("{cpu} with {} processors", machine.processors)
        };
        return Err(CliError::new(format!(
            "the baseline is of another machine ({}; this is {}): acquisitions a second do not \
             compare, but --relative does",
            name(old_machine),
            name(machine)
        )));
    }
    let pairs: Vec<(&CellReport, &Rounds<'_>)> = new
        .iter()
        .filter_map(|new| Some((old.cells.iter().find(|old| old.name == new.cell)?, new)))
        .collect();
    if pairs.is_empty() {
        let names: Vec<&str> = old.cells.iter().map(|cell| cell.name.as_str()).take(4).collect();
        let more = if old.cells.len() > names.len() { ", .." } else { "" };
        return Err(CliError::new(format!(
            "the baseline has no load in common; it has: {}{more}",
            names.join("; ")
        )));
    }
    // The rounds of each lock that both have.
    let common = |(old, new): &(&CellReport, &Rounds<'_>)| -> Vec<usize> {
        let rounds = |(name, rounds): &(&str, usize)| {
            let old = old.locks.iter().find(|old| old.lock == *name)?;
            Some(old.samples.len().min(*rounds)).filter(|rounds| *rounds > 0)
        };
        new.locks.iter().filter_map(rounds).collect()
    };
    let common: Vec<Vec<usize>> = pairs.iter().map(common).collect();
    let least = if rule.relative { 2 } else { 1 };
    if !common.iter().any(|rounds| rounds.len() >= least) {
        return Err(nothing_in_common(rule));
    }
    let judged = |rounds: &Vec<usize>| {
        let enough = |rounds: &usize| *rounds >= ROUNDS;
        // Each round is compared with the other locks' samples of the same round.
        let all = rule.relative && rounds.iter().all(enough);
        rounds.len() >= least && (all || !rule.relative && rounds.iter().any(enough))
    };
    if !common.iter().any(judged) {
        return Err(nothing_judged());
    }
    Ok(())
}

fn nothing_in_common(rule: &Rule) -> CliError {
    CliError::new(if rule.relative {
        "nothing to compare: --relative takes two locks that both reports have measured"
    } else {
        "nothing to compare: the baseline has no lock in common that both have measured"
    })
}

fn nothing_judged() -> CliError {
    CliError::new(format!(
        "nothing can be judged: that takes {ROUNDS} rounds of a lock in both reports"
    ))
}

impl Difference {
    /// Compares two reports.
    ///
    /// # Errors
    ///
    /// As [`check`].
    pub fn between(
        old: &ComparisonReport,
        new: &ComparisonReport,
        rule: &Rule,
    ) -> Result<Difference, CliError> {
        check(old, &new.machine, &Rounds::of(new), rule)?;
        let mut difference = Difference {
            rule: *rule,
            pairs: vec![],
            notes: notes(old, new),
            missing: vec![],
            cautions: cautions(new),
            started: old.started,
        };
        for new_cell in &new.cells {
            let Some(old_cell) = old.cells.iter().find(|cell| cell.name == new_cell.name) else {
                difference.missing.push(format!("not in the baseline: {}", new_cell.name));
                continue;
            };
            difference.cell(old_cell, new_cell);
        }
        for cell in &old.cells {
            if !new.cells.iter().any(|new| new.name == cell.name) {
                difference.missing.push(format!("only in the baseline: {}", cell.name));
            }
        }
        if difference.pairs.is_empty() {
            return Err(nothing_in_common(rule));
        }
        // Rounds without a finite ratio are left out, so fewer may remain than were counted.
        if difference.pairs.iter().all(|pair| pair.change == Change::Undecided) {
            return Err(nothing_judged());
        }
        Ok(difference)
    }

    /// Adds the locks of a load.
    fn cell(&mut self, old: &CellReport, new: &CellReport) {
        let mut common: Vec<(&LockReport, &LockReport)> = vec![];
        for lock in &new.locks {
            match old.locks.iter().find(|old| old.lock == lock.lock) {
                Some(old) if !old.samples.is_empty() && !lock.samples.is_empty() => {
                    common.push((old, lock));
                }
                Some(old) if lock.samples.is_empty() && !old.samples.is_empty() => {
                    self.missing.push(format!("only in the baseline: {}, {}", new.name, lock.lock));
                }
                _ => self.missing.push(format!("not in the baseline: {}, {}", new.name, lock.lock)),
            }
        }
        for lock in &old.locks {
            if !new.locks.iter().any(|new| new.lock == lock.lock) {
                self.missing.push(format!("only in the baseline: {}, {}", new.name, lock.lock));
            }
        }
        if self.rule.relative {
            let reference = common.iter().position(|(_, lock)| lock.lock == "lockword");
            let reference = reference.unwrap_or(0);
            if common.len() < 2 {
                return;
            }
            let (olds, news): (Vec<_>, Vec<_>) = common.iter().copied().unzip();
            self.pair(new, news[reference], relative(&olds, reference), relative(&news, reference));
        } else {
            for (old, lock) in common {
                self.pair(new, lock, rates(old), rates(lock));
            }
        }
    }

    /// Adds a lock, if both samples have a median.
    fn pair(&mut self, cell: &CellReport, lock: &LockReport, old: Vec<f64>, new: Vec<f64>) {
        let few = old.len().min(new.len()) < ROUNDS;
        if let (Some(old), Some(new)) = (median_of(&old), median_of(&new)) {
            let change =
                if few { Change::Undecided } else { change(&old, &new, self.rule.threshold) };
            let (cell, lock) = (cell.name.clone(), lock.lock.clone());
            self.pairs.push(Pair { cell, lock, old, new, change });
        }
    }

    /// [`ExitOutcome::Regressed`] if any lock is slower.
    pub fn outcome(&self) -> ExitOutcome {
        let slower = self.pairs.iter().any(|pair| pair.change == Change::Slower);
        if slower { ExitOutcome::Regressed } else { ExitOutcome::Done }
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
        let wide = self.pairs.iter().map(|pair| pair.lock.chars().count()).max().unwrap_or(0);
        for pairs in self.pairs.chunk_by(|a, b| a.cell == b.cell) {
            let _ = writeln!(out, "\n{bold}{}{bold:#}", pairs[0].cell);
            for pair in pairs {
                let (style, word) = match pair.change {
                    Change::Slower => (AnsiColor::Red.on_default().bold(), "SLOWER"),
                    Change::Faster => (AnsiColor::Green.on_default(), "faster"),
                    Change::Level => (Style::new(), "level"),
                    Change::Undecided => (Style::new(), "undecided: fewer than six rounds"),
                };
                let figure = |value: f64| match self.rule.relative {
                    true => format!("{value:.2}"),
                    false => output::rate(value),
                };
                let (old, new) = (figure(pair.old.mid), figure(pair.new.mid));
                let percent = (pair.new.mid / pair.old.mid - 1.0) * 100.0;
                // A change from zero has no percentage.
                let percent = if percent.is_finite() { percent } else { 0.0 };
                let lock = &pair.lock;
                let _ = writeln!(
                    out,
                    "  {lock:<wide$}  {old:>7} -> {new:>7}  {percent:>+6.1} %  {style}{word}{style:#}"
                );
            }
        }
        let count = |change| self.pairs.iter().filter(|pair| pair.change == change).count();
        let (slower, undecided) = (count(Change::Slower), count(Change::Undecided));
        let figure = if self.rule.relative {
            "acquisitions a second over the geometric mean of the other locks"
        } else {
            "acquisitions a second"
        };
        let _ = writeln!(
            out,
            "\n{slower} of {} slower by more than {} % and the spread ({figure}).",
            self.pairs.len() - undecided,
            output::figure(self.rule.threshold * 100.0)
        );
        if undecided > 0 {
            let _ = writeln!(out, "{undecided} undecided: fewer than six rounds.");
        }
        for missing in &self.missing {
            let _ = writeln!(out, "{warning}not compared{warning:#}: {missing}");
        }
        for caution in &self.cautions {
            let _ = writeln!(out, "{warning}the result is doubtful{warning:#}: {caution}");
        }
        out
    }
}

/// The relative speed of the reference, round by round (see the module's documentation).
fn relative(locks: &[&LockReport], reference: usize) -> Vec<f64> {
    let rounds = locks.iter().map(|lock| lock.samples.len()).min().unwrap_or(0);
    let all: Vec<Vec<f64>> = locks.iter().map(|lock| rates(lock)).collect();
    let others = |round: usize| {
        let others = all.iter().enumerate().filter(|(lock, _)| *lock != reference);
        geometric_mean(others.map(|(_, rates)| rates[round]))
    };
    let ratio = |round: usize| Some(all[reference][round] / others(round)?);
    (0..rounds).filter_map(ratio).filter(|ratio| ratio.is_finite()).collect()
}

fn change(old: &Median, new: &Median, threshold: f64) -> Change {
    if new.mid < old.mid * (1.0 - threshold) && new.high < old.low {
        Change::Slower
    } else if old.mid < new.mid * (1.0 - threshold) && old.high < new.low {
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
    notes.extend(cautions(old).into_iter().map(|caution| format!("of the baseline: {caution}")));
    notes
}

#[cfg(test)]
mod tests {
    use super::super::summary::sample::{cell, lock, report};
    use super::*;

    const RULE: Rule = Rule { threshold: 0.1, relative: false };
    const RELATIVE: Rule = Rule { threshold: 0.1, relative: true };

    fn two(lockword: f64, std: f64, spread: f64) -> ComparisonReport {
        report(vec![cell(8, vec![lock("lockword", lockword, spread), lock("std", std, spread)])])
    }

    fn outcome(old: &ComparisonReport, new: &ComparisonReport, rule: &Rule) -> ExitOutcome {
        Difference::between(old, new, rule).unwrap().outcome()
    }

    #[test]
    fn a_report_is_level_with_itself() {
        let report = two(100.0, 100.0, 0.05);
        for rule in [RULE, RELATIVE] {
            assert_eq!(outcome(&report, &report, &rule), ExitOutcome::Done);
        }
    }

    #[test]
    fn slower_means_by_more_than_the_threshold() {
        let old = two(100.0, 100.0, 0.01);
        assert_eq!(outcome(&old, &two(80.0, 100.0, 0.01), &RULE), ExitOutcome::Regressed);
        assert_eq!(outcome(&old, &two(100.0, 80.0, 0.01), &RULE), ExitOutcome::Regressed);
        assert_eq!(outcome(&old, &two(93.0, 93.0, 0.01), &RULE), ExitOutcome::Done);
        assert_eq!(outcome(&old, &two(120.0, 120.0, 0.01), &RULE), ExitOutcome::Done);
    }

    #[test]
    fn slower_means_by_more_than_the_spread() {
        let old = two(100.0, 100.0, 0.3);
        assert_eq!(outcome(&old, &two(80.0, 80.0, 0.3), &RULE), ExitOutcome::Done);
    }

    #[test]
    fn a_slower_machine_cancels_out_in_a_relative_comparison() {
        let (old, slow) = (two(100.0, 100.0, 0.01), two(50.0, 50.0, 0.01));
        assert_eq!(outcome(&old, &slow, &RULE), ExitOutcome::Regressed);
        assert_eq!(outcome(&old, &slow, &RELATIVE), ExitOutcome::Done);
        assert_eq!(outcome(&old, &two(40.0, 50.0, 0.01), &RELATIVE), ExitOutcome::Regressed);
        // The yardstick is not judged.
        assert_eq!(outcome(&old, &two(50.0, 40.0, 0.01), &RELATIVE), ExitOutcome::Done);
    }

    #[test]
    fn another_machine_is_refused() {
        let old = two(100.0, 100.0, 0.01);
        let mut new = old.clone();
        new.machine.processors = 64;
        let why = Difference::between(&old, &new, &RULE).unwrap_err().to_string();
        assert!(why.contains("another machine") && why.contains("--relative"), "{why}");
        assert_eq!(outcome(&old, &new, &RELATIVE), ExitOutcome::Done);
    }

    #[test]
    fn nothing_in_common_is_refused() {
        let old = two(100.0, 100.0, 0.01);
        let other = report(vec![cell(4, vec![lock("lockword", 1.0, 0.0)])]);
        let why = Difference::between(&old, &other, &RULE).unwrap_err().to_string();
        assert!(why.contains("no load in common"), "{why}");
        let other = report(vec![cell(8, vec![lock("usync", 1.0, 0.0)])]);
        let why = Difference::between(&old, &other, &RULE).unwrap_err().to_string();
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
            let difference = Difference::between(&old, &new, &RULE).unwrap();
            assert_eq!(difference.pairs[0].change, Change::Undecided);
            assert_eq!(difference.pairs[1].change, Change::Slower);
            let text = difference.render("old");
            assert!(text.contains("1 of 1 slower") && text.contains("1 undecided"), "{text}");
            let why = Difference::between(&old, &new, &RELATIVE).unwrap_err().to_string();
            assert!(why.contains("nothing can be judged"), "{why}");
        }
        let few = cut(cut(slow, 0), 1);
        let why = Difference::between(&old, &few, &RULE).unwrap_err().to_string();
        assert!(why.contains("nothing can be judged"), "{why}");
        let part = cut(two(100.0, 50.0, 0.01), 1);
        assert_eq!(outcome(&old, &part, &RULE), ExitOutcome::Done);
    }

    #[test]
    fn missing_locks_and_warnings_are_listed_at_the_end() {
        let old = two(100.0, 100.0, 0.01);
        let mut new = old.clone();
        new.cells[0].locks.truncate(1);
        new.warnings.push("the machine was busy".to_owned());
        let text = Difference::between(&old, &new, &RULE).unwrap().render("old");
        let text = anstream::adapter::strip_str(&text).to_string();
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
        let why = Difference::between(&old, &new, &RELATIVE).unwrap_err().to_string();
        assert!(why.contains("nothing can be judged"), "{why}");
    }
}
