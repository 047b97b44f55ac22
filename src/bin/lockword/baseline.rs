//! [`Difference`]: has a lock become slower than an earlier report says?
//!
//! Loads and locks pair up by their names. Two figures can be compared:
//!
//! - **Acquisitions a second**, of every lock. They mean nothing across machines, so reports of
//!   two machines are refused.
//! - **Relative** ones (`--relative`): those of the reference (lockword, or the first lock) over
//!   the geometric mean of the other locks that both reports have, round by round. Whatever slows
//!   all locks alike cancels out. The others are not judged: they are the yardstick.
//!
//! A lock is slower if its median has fallen by more than the threshold *and* the 95 % intervals
//! of both medians do not overlap. Waits are not judged: they are of all rounds together, so
//! nothing tells their spread.

use crate::failure::{Failure, Outcome};
use crate::summary::{ROUNDS, cautions, median_of, rates};
use crate::units;
use anstyle::{AnsiColor, Style};
use lockword::contention::stats::{Median, geometric_mean};
use lockword::contention::{CellReport, LockReport, Machine, Report};
use std::fmt::Write as _;

/// When a lock counts as slower.
#[derive(Clone, Copy, Debug)]
pub struct Rule {
    /// The share by which it must have fallen.
    pub threshold: f64,
    /// Whether to compare with the other locks.
    pub relative: bool,
}

/// What became of a lock under a load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// By more than the threshold and the spread.
    Slower,
    /// The other way round.
    Faster,
    /// Neither.
    Level,
}

/// One lock under one load.
#[derive(Debug)]
struct Pair {
    cell: String,
    lock: String,
    old: Median,
    new: Median,
    change: Change,
}

/// Two reports, compared.
#[derive(Debug)]
pub struct Difference {
    rule: Rule,
    pairs: Vec<Pair>,
    notes: Vec<String>,
    started: u64,
}

/// Refuses a baseline that a run of these cells on this machine cannot be compared with.
pub fn check<'a>(
    old: &Report,
    machine: &Machine,
    cells: impl IntoIterator<Item = &'a str>,
    rule: &Rule,
) -> Result<(), Failure> {
    let theirs = &old.machine;
    let differs = theirs.cpu != machine.cpu
        || theirs.processors != machine.processors
        || theirs.architecture != machine.architecture;
    if differs && !rule.relative {
        let name = |machine: &Machine| {
            let cpu = machine.cpu.as_deref().unwrap_or(&machine.architecture);
            format!("{cpu} with {} processors", machine.processors)
        };
        return Err(Failure::new(format!(
            "the baseline is of another machine ({}; this is {}): acquisitions a second do not \
             compare, but --relative does",
            name(theirs),
            name(machine)
        )));
    }
    let mut cells = cells.into_iter();
    if !cells.any(|cell| old.cells.iter().any(|old| old.name == cell)) {
        let names: Vec<&str> = old.cells.iter().map(|cell| cell.name.as_str()).take(4).collect();
        let more = if old.cells.len() > names.len() { ", .." } else { "" };
        return Err(Failure::new(format!(
            "the baseline has no load in common; it has: {}{more}",
            names.join("; ")
        )));
    }
    Ok(())
}

impl Difference {
    /// Compares them.
    pub fn between(old: &Report, new: &Report, rule: &Rule) -> Result<Difference, Failure> {
        check(old, &new.machine, new.cells.iter().map(|cell| cell.name.as_str()), rule)?;
        let mut difference =
            Difference { rule: *rule, pairs: vec![], notes: notes(old, new), started: old.started };
        for new_cell in &new.cells {
            let Some(old_cell) = old.cells.iter().find(|cell| cell.name == new_cell.name) else {
                difference.notes.push(format!("not in the baseline: {}", new_cell.name));
                continue;
            };
            difference.cell(old_cell, new_cell);
        }
        for cell in &old.cells {
            if !new.cells.iter().any(|new| new.name == cell.name) {
                difference.notes.push(format!("only in the baseline: {}", cell.name));
            }
        }
        if difference.pairs.is_empty() {
            return Err(Failure::new(if rule.relative {
                "nothing to compare: --relative takes two locks that both reports have measured"
            } else {
                "nothing to compare: the baseline has no lock in common that both have measured"
            }));
        }
        Ok(difference)
    }

    fn cell(&mut self, old: &CellReport, new: &CellReport) {
        let mut common: Vec<(&LockReport, &LockReport)> = vec![];
        for lock in &new.locks {
            match old.locks.iter().find(|old| old.lock == lock.lock) {
                Some(old) if !old.samples.is_empty() && !lock.samples.is_empty() => {
                    common.push((old, lock));
                }
                _ => self.notes.push(format!("{}: {} is not in both", new.name, lock.lock)),
            }
        }
        for lock in &old.locks {
            if !new.locks.iter().any(|new| new.lock == lock.lock) {
                self.notes.push(format!("{}: {} is not in both", new.name, lock.lock));
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

    fn pair(&mut self, cell: &CellReport, lock: &LockReport, old: Vec<f64>, new: Vec<f64>) {
        if let (Some(old), Some(new)) = (median_of(&old), median_of(&new)) {
            let change = change(&old, &new, self.rule.threshold);
            let (cell, lock) = (cell.name.clone(), lock.lock.clone());
            self.pairs.push(Pair { cell, lock, old, new, change });
        }
    }

    /// What it means for the run.
    pub fn outcome(&self) -> Outcome {
        let slower = self.pairs.iter().any(|pair| pair.change == Change::Slower);
        if slower { Outcome::Regressed } else { Outcome::Done }
    }

    /// The comparison for the terminal, with the baseline's name.
    pub fn render(&self, name: &str) -> String {
        let bold = Style::new().bold();
        let mut out = String::new();
        let _ = writeln!(out, "{bold}Against {name}{bold:#}, of {}", units::date(self.started));
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
                };
                let figure = |value: f64| match self.rule.relative {
                    true => format!("{value:.2}"),
                    false => units::rate(value),
                };
                let (old, new) = (figure(pair.old.mid), figure(pair.new.mid));
                let percent = (pair.new.mid / pair.old.mid - 1.0) * 100.0;
                // Of nothing at all there are no percents.
                let percent = if percent.is_finite() { percent } else { 0.0 };
                let lock = &pair.lock;
                let _ = writeln!(
                    out,
                    "  {lock:<wide$}  {old:>7} -> {new:>7}  {percent:>+6.1} %  {style}{word}{style:#}"
                );
            }
        }
        let slower = self.pairs.iter().filter(|pair| pair.change == Change::Slower).count();
        let figure = if self.rule.relative {
            "acquisitions a second over the geometric mean of the other locks"
        } else {
            "acquisitions a second"
        };
        let _ = writeln!(
            out,
            "\n{slower} of {} slower by more than {} % and the spread ({figure}).",
            self.pairs.len(),
            units::figure(self.rule.threshold * 100.0)
        );
        out
    }
}

/// A lock's acquisitions a second over the geometric mean of the others', round by round.
fn relative(locks: &[&LockReport], reference: usize) -> Vec<f64> {
    let rounds = locks.iter().map(|lock| lock.samples.len()).min().unwrap_or(0);
    let all: Vec<Vec<f64>> = locks.iter().map(|lock| rates(lock)).collect();
    let others = |round: usize| {
        let others = all.iter().enumerate().filter(|(lock, _)| *lock != reference);
        geometric_mean(others.map(|(_, rates)| rates[round]))
    };
    (0..rounds).filter_map(|round| Some(all[reference][round] / others(round)?)).collect()
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

/// What makes the comparison doubtful.
fn notes(old: &Report, new: &Report) -> Vec<String> {
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
    let rounds = |report: &Report| {
        let locks = report.cells.iter().flat_map(|cell| &cell.locks);
        locks.map(|lock| lock.samples.len()).min().unwrap_or(0)
    };
    for (which, report) in [("the baseline", old), ("the later report", new)] {
        if rounds(report) < ROUNDS {
            let few =
                format!("{which} has fewer than {ROUNDS} rounds: its spread is not known well");
            notes.push(few);
        }
    }
    notes.extend(cautions(old).into_iter().map(|caution| format!("of the baseline: {caution}")));
    notes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{cell, lock, report};

    const RULE: Rule = Rule { threshold: 0.1, relative: false };
    const RELATIVE: Rule = Rule { threshold: 0.1, relative: true };

    fn two(lockword: f64, std: f64, spread: f64) -> Report {
        report(vec![cell(8, vec![lock("lockword", lockword, spread), lock("std", std, spread)])])
    }

    fn outcome(old: &Report, new: &Report, rule: &Rule) -> Outcome {
        Difference::between(old, new, rule).unwrap().outcome()
    }

    #[test]
    fn a_report_is_level_with_itself() {
        let report = two(100.0, 100.0, 0.05);
        for rule in [RULE, RELATIVE] {
            assert_eq!(outcome(&report, &report, &rule), Outcome::Done);
        }
    }

    #[test]
    fn slower_is_by_more_than_the_threshold() {
        let old = two(100.0, 100.0, 0.01);
        assert_eq!(outcome(&old, &two(80.0, 100.0, 0.01), &RULE), Outcome::Regressed);
        assert_eq!(outcome(&old, &two(100.0, 80.0, 0.01), &RULE), Outcome::Regressed);
        assert_eq!(outcome(&old, &two(93.0, 93.0, 0.01), &RULE), Outcome::Done);
        assert_eq!(outcome(&old, &two(120.0, 120.0, 0.01), &RULE), Outcome::Done);
    }

    #[test]
    fn slower_is_by_more_than_the_spread() {
        let old = two(100.0, 100.0, 0.3);
        assert_eq!(outcome(&old, &two(80.0, 80.0, 0.3), &RULE), Outcome::Done);
    }

    #[test]
    fn a_slower_machine_cancels_out_where_asked_for() {
        let (old, slow) = (two(100.0, 100.0, 0.01), two(50.0, 50.0, 0.01));
        assert_eq!(outcome(&old, &slow, &RULE), Outcome::Regressed);
        assert_eq!(outcome(&old, &slow, &RELATIVE), Outcome::Done);
        assert_eq!(outcome(&old, &two(40.0, 50.0, 0.01), &RELATIVE), Outcome::Regressed);
        // The yardstick is not judged.
        assert_eq!(outcome(&old, &two(50.0, 40.0, 0.01), &RELATIVE), Outcome::Done);
    }

    #[test]
    fn another_machine_is_refused() {
        let old = two(100.0, 100.0, 0.01);
        let mut new = old.clone();
        new.machine.processors = 64;
        let why = Difference::between(&old, &new, &RULE).unwrap_err().to_string();
        assert!(why.contains("another machine") && why.contains("--relative"), "{why}");
        assert_eq!(outcome(&old, &new, &RELATIVE), Outcome::Done);
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
}
