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
//! of both medians do not overlap. Fewer than six rounds have no such interval: then it stays
//! undecided. Waits are not judged: they are of all rounds together, so nothing tells their
//! spread.

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
    /// Too few rounds to tell.
    Undecided,
}

/// A load, and how many rounds of each lock there are or will be.
pub struct Rounds<'a> {
    /// The load's name.
    pub cell: &'a str,
    /// The locks.
    pub locks: Vec<(&'a str, usize)>,
}

impl Rounds<'_> {
    /// Those of a report.
    fn of(report: &Report) -> Vec<Rounds<'_>> {
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
    /// Loads and locks that only one of the reports has.
    missing: Vec<String>,
    /// Why the later report is doubtful.
    doubts: Vec<String>,
    started: u64,
}

/// Refuses a baseline that a run with these rounds on this machine cannot be compared with.
pub fn check(
    old: &Report,
    machine: &Machine,
    new: &[Rounds<'_>],
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
    let pairs: Vec<(&CellReport, &Rounds<'_>)> = new
        .iter()
        .filter_map(|new| Some((old.cells.iter().find(|old| old.name == new.cell)?, new)))
        .collect();
    if pairs.is_empty() {
        let names: Vec<&str> = old.cells.iter().map(|cell| cell.name.as_str()).take(4).collect();
        let more = if old.cells.len() > names.len() { ", .." } else { "" };
        return Err(Failure::new(format!(
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
        // Each round is set against the other locks' of the same round.
        let all = rule.relative && rounds.iter().all(enough);
        rounds.len() >= least && (all || !rule.relative && rounds.iter().any(enough))
    };
    if !common.iter().any(judged) {
        return Err(nothing_judged());
    }
    Ok(())
}

fn nothing_in_common(rule: &Rule) -> Failure {
    Failure::new(if rule.relative {
        "nothing to compare: --relative takes two locks that both reports have measured"
    } else {
        "nothing to compare: the baseline has no lock in common that both have measured"
    })
}

fn nothing_judged() -> Failure {
    Failure::new(format!(
        "nothing can be judged: that takes {ROUNDS} rounds of a lock in both reports"
    ))
}

impl Difference {
    /// Compares them.
    pub fn between(old: &Report, new: &Report, rule: &Rule) -> Result<Difference, Failure> {
        check(old, &new.machine, &Rounds::of(new), rule)?;
        let mut difference = Difference {
            rule: *rule,
            pairs: vec![],
            notes: notes(old, new),
            missing: vec![],
            doubts: cautions(new),
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
        // Rounds that tell nothing may have been among those that were counted.
        if difference.pairs.iter().all(|pair| pair.change == Change::Undecided) {
            return Err(nothing_judged());
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

    fn pair(&mut self, cell: &CellReport, lock: &LockReport, old: Vec<f64>, new: Vec<f64>) {
        let few = old.len().min(new.len()) < ROUNDS;
        if let (Some(old), Some(new)) = (median_of(&old), median_of(&new)) {
            let change =
                if few { Change::Undecided } else { change(&old, &new, self.rule.threshold) };
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
                    Change::Undecided => (Style::new(), "undecided: fewer than six rounds"),
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
            units::figure(self.rule.threshold * 100.0)
        );
        if undecided > 0 {
            let _ = writeln!(out, "{undecided} undecided: fewer than six rounds.");
        }
        for missing in &self.missing {
            let _ = writeln!(out, "{warning}not compared{warning:#}: {missing}");
        }
        for doubt in &self.doubts {
            let _ = writeln!(out, "{warning}the result is doubtful{warning:#}: {doubt}");
        }
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
    notes.extend(cautions(old).into_iter().map(|caution| format!("of the baseline: {caution}")));
    notes
}

#[cfg(test)]
mod tests;
