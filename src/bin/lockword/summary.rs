//! What a report says of each lock under each load, and what it does not: the figures that the
//! table, the page and the comparison show.

use crate::units;
use lockword::contention::stats::{Median, median};
use lockword::contention::{Arrivals, CellReport, Load, LockReport, Report, Sample, Waits};

/// The lock that the others are compared with, where it takes part.
const REFERENCE: &str = "lockword";

/// The fewest rounds that give a 95 % interval of a median.
pub const ROUNDS: usize = 6;

/// One lock under one load.
#[derive(Debug)]
pub struct Line<'a> {
    /// The lock.
    pub lock: &'a str,
    /// Acquisitions a second; `None` if no slice was finished.
    pub rate: Option<Median>,
    /// The reference's acquisitions a second over this lock's, round by round.
    pub ratio: Option<Median>,
    /// Dice's factor, the median; `None` for a lone thread.
    pub dice: Option<f64>,
    /// CPU nanoseconds an acquisition, the median.
    pub cpu: Option<f64>,
    /// The waits.
    pub waits: Option<&'a Waits>,
}

/// All locks under one load.
#[derive(Debug)]
pub struct Block<'a> {
    /// The load.
    pub cell: &'a CellReport,
    /// The lock that the ratios are of.
    pub reference: Option<&'a str>,
    /// One a lock.
    pub lines: Vec<Line<'a>>,
    /// What the figures say and what they do not, in words.
    pub verdict: Vec<String>,
    /// The locks that the verdict says are the fastest: none of them can be said to be slower than
    /// another of them.
    pub fastest: Vec<&'a str>,
}

/// A block for each cell.
pub fn blocks(report: &Report) -> Vec<Block<'_>> {
    report.cells.iter().map(Block::new).collect()
}

/// Acquisitions a second of each round: none of a slice that was over before it began, as a very
/// short one may be on a busy machine.
pub fn rates(lock: &LockReport) -> Vec<f64> {
    let rate = |s: &Sample| if s.elapsed_ns > 0.0 { s.per_second() } else { 0.0 };
    lock.samples.iter().map(rate).collect()
}

/// The median, if there is anything.
pub fn median_of(samples: &[f64]) -> Option<Median> {
    (!samples.is_empty()).then(|| median(samples))
}

/// The ratios of the rounds that both have, without those to nothing.
fn ratios(over: &LockReport, under: &LockReport) -> Vec<f64> {
    let ratios = rates(over).into_iter().zip(rates(under)).map(|(over, under)| over / under);
    ratios.filter(|ratio| ratio.is_finite()).collect()
}

/// The median of these ratios, if there are any.
fn ratio_of(over: &LockReport, under: &LockReport) -> Option<Median> {
    median_of(&ratios(over, under))
}

/// A wait of about a slice's length: the end of the slice may have cut it off.
pub fn clipped(load: &Load, ns: u64) -> bool {
    ns as f64 >= 0.9 * load.slice_ms as f64 * 1e6
}

impl<'a> Block<'a> {
    fn new(cell: &'a CellReport) -> Self {
        let reference =
            cell.locks.iter().find(|lock| lock.lock == REFERENCE).or(cell.locks.first());
        let line = |lock: &'a LockReport| {
            let middle = |figures: Vec<f64>| median_of(&figures).map(|median| median.mid);
            Line {
                lock: &lock.lock,
                rate: median_of(&rates(lock)),
                ratio: reference.and_then(|reference| ratio_of(reference, lock)),
                dice: (cell.load.threads > 1)
                    .then(|| middle(lock.samples.iter().map(Sample::dice_factor).collect()))
                    .flatten(),
                cpu: middle(lock.samples.iter().filter_map(Sample::cpu_ns_each).collect()),
                waits: lock.waits.as_ref().filter(|waits| waits.count > 0),
            }
        };
        let lines: Vec<Line<'a>> = cell.locks.iter().map(line).collect();
        let mut late = vec![];
        let (fastest, mut verdict) = match cell.load.arrivals {
            Arrivals::Open { per_second } => {
                late = cell.locks.iter().filter(|lock| !keeps_up(lock, per_second)).collect();
                (vec![], open_loop(&late, per_second))
            }
            Arrivals::Closed => verdict(cell, reference),
        };
        let cut = |line: &Line<'_>| {
            let late = late.iter().any(|late| late.lock == line.lock);
            !late && line.waits.is_some_and(|waits| clipped(&cell.load, waits.max))
        };
        if lines.iter().any(cut) {
            verdict.push("waits of a slice's length: use a longer --slice".to_owned());
        }
        Block { cell, reference: reference.map(|lock| lock.lock.as_str()), lines, verdict, fastest }
    }
}

/// Whether a lock serves about all that arrives.
fn keeps_up(lock: &LockReport, per_second: f64) -> bool {
    // What is due when a slice ends may be left over, one a thread.
    let due = |sample: &Sample| {
        let most = (sample.total() + sample.acquisitions.len() as u64) as f64;
        if sample.elapsed_ns > 0.0 { most / sample.elapsed_ns * 1e9 } else { per_second }
    };
    let due: Vec<f64> = lock.samples.iter().map(due).collect();
    median_of(&due).is_none_or(|due| due.high >= 0.95 * per_second)
}

/// What can be said of an open loop: its rate is that of the schedule, unless a lock is too slow
/// for it.
fn open_loop(late: &[&LockReport], per_second: f64) -> Vec<String> {
    let mut lines =
        vec!["open loop: compare the waits; acq/s, fair and CPU follow the schedule".to_owned()];
    for lock in late {
        if let Some(served) = median_of(&rates(lock)) {
            lines.push(format!(
                "{} did not keep up: it served {} of {} a second",
                lock.lock,
                units::rate(served.mid),
                units::rate(per_second)
            ));
        }
    }
    if !late.is_empty() {
        lines.push("the waits of a lock that does not keep up grow with the slice".to_owned());
    }
    lines
}

/// Whether the interval leaves open which of two is ahead.
fn open(ratio: &Median) -> bool {
    ratio.low <= 1.0 && ratio.high >= 1.0
}

/// The fastest locks, and what can be said of all of them.
fn verdict<'a>(
    cell: &'a CellReport,
    reference: Option<&'a LockReport>,
) -> (Vec<&'a str>, Vec<String>) {
    let mut measured: Vec<_> =
        cell.locks.iter().filter_map(|l| Some((l, median_of(&rates(l))?.mid))).collect();
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
    let slower = |lock: &LockReport| ratio_of(best, lock).filter(|ratio| !open(ratio));
    let level = measured.iter().filter(|(lock, _)| slower(lock).is_none());
    let fastest: Vec<&str> = level.map(|(lock, _)| lock.lock.as_str()).collect();

    let mut lines = vec![];
    if fastest.len() == 1 {
        // The one that comes next is the one it is the least ahead of.
        let (next, _) = measured[1];
        if let Some(ratio) = slower(next) {
            lines.push(format!(
                "{} is the fastest here: {} times {} {}",
                best.lock,
                units::figure(ratio.mid),
                next.lock,
                units::interval(&ratio)
            ));
        }
    } else {
        let locks: Vec<_> =
            cell.locks.iter().filter(|l| fastest.contains(&l.lock.as_str())).collect();
        let pairs = locks.iter().flat_map(|a| locks.iter().map(move |b| (*a, *b)));
        let all = pairs.into_iter().all(|(a, b)| ratio_of(a, b).is_none_or(|ratio| open(&ratio)));
        lines.push(if all {
            format!("{} cannot be told apart here", units::list(&fastest))
        } else {
            let others = units::list(&fastest[1..]);
            format!("{} leads, but {others} cannot be told apart from it here", best.lock)
        });
    }
    if let Some(reference) = reference {
        let both_fastest = |lock: &LockReport| {
            [reference, lock].iter().all(|lock| fastest.contains(&lock.lock.as_str()))
        };
        let level = measured.iter().filter(|(lock, _)| {
            lock.lock != reference.lock
                && !both_fastest(lock)
                && ratio_of(reference, lock).is_some_and(|ratio| open(&ratio))
        });
        for (lock, _) in level {
            lines.push(format!("{} and {} cannot be told apart here", reference.lock, lock.lock));
        }
    }
    (fastest, lines)
}

/// What the reader must know before any figure.
pub fn cautions(report: &Report) -> Vec<String> {
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
    use super::*;
    use crate::sample::{cell, lock, report};

    #[test]
    fn a_clear_lead_is_told() {
        let cells = vec![cell(8, vec![lock("lockword", 200.0, 0.02), lock("std", 100.0, 0.02)])];
        let report = report(cells);
        let block = &blocks(&report)[0];
        assert_eq!(block.fastest, ["lockword"]);
        assert!(block.verdict[0].starts_with("lockword is the fastest here: 2.0"), "{block:?}");
        assert_eq!(block.verdict.len(), 1);
    }

    #[test]
    fn no_lead_is_claimed_where_the_spread_exceeds_it() {
        // std is ahead by 1 %, and the samples spread by 10 %.
        let locks = vec![lock("lockword", 100.0, 0.1), lock("std", 101.0, -0.1)];
        let report = report(vec![cell(8, locks)]);
        let block = &blocks(&report)[0];
        assert_eq!(block.fastest, ["std", "lockword"]);
        assert_eq!(block.verdict, ["std and lockword cannot be told apart here"]);
    }

    #[test]
    fn the_reference_is_compared_behind_the_fastest_too() {
        let locks = vec![
            lock("lockword", 100.0, 0.1),
            lock("std", 101.0, -0.1),
            lock("usync", 300.0, 0.02),
        ];
        let report = report(vec![cell(8, locks)]);
        let verdict = &blocks(&report)[0].verdict;
        assert!(verdict[0].starts_with("usync is the fastest here"), "{verdict:?}");
        assert_eq!(verdict[1], "lockword and std cannot be told apart here");
    }

    #[test]
    fn too_few_rounds_tell_nothing() {
        let mut locks = vec![lock("lockword", 200.0, 0.0), lock("std", 100.0, 0.0)];
        for lock in &mut locks {
            lock.samples.truncate(ROUNDS - 1);
        }
        let report = report(vec![cell(8, locks)]);
        let block = &blocks(&report)[0];
        assert!(block.fastest.is_empty());
        assert!(block.verdict[0].starts_with("too few rounds"), "{block:?}");
    }

    #[test]
    fn what_was_not_measured_is_not_made_up() {
        let mut locks = vec![lock("lockword", 200.0, 0.0), lock("std", 100.0, 0.0)];
        locks[1].samples.clear();
        let one = report(vec![cell(8, locks.clone())]);
        assert!(blocks(&one)[0].lines[1].rate.is_none());
        locks[0].samples.clear();
        let none = report(vec![cell(8, locks)]);
        assert_eq!(blocks(&none)[0].verdict, ["nothing was measured"]);
    }

    #[test]
    fn a_lone_lock_is_not_the_fastest() {
        let report = report(vec![cell(8, vec![lock("lockword", 200.0, 0.0)])]);
        let block = &blocks(&report)[0];
        assert!(block.fastest.is_empty() && block.verdict.is_empty(), "{block:?}");
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
        let block = &blocks(&few)[0];
        assert!(block.lines[1].ratio.unwrap().mid.is_finite());
        assert!(block.verdict[0].starts_with("lockword is the fastest here: 2.0"), "{block:?}");
        for empty in [4, 9] {
            let report = with(empty);
            let block = &blocks(&report)[0];
            assert!(block.fastest.is_empty(), "{block:?}");
            assert!(block.verdict[0].starts_with("no verdict"), "{block:?}");
        }
    }

    #[test]
    fn an_open_loop_has_no_winner() {
        let locks = vec![lock("lockword", 1e4, 0.01), lock("std", 5e3, 0.01)];
        let mut report = report(vec![cell(8, locks)]);
        report.cells[0].load.arrivals = Arrivals::Open { per_second: 1e4 };
        let block = &blocks(&report)[0];
        assert!(block.fastest.is_empty());
        assert!(block.verdict[0].contains("compare the waits"), "{block:?}");
        assert_eq!(block.verdict[1], "std did not keep up: it served 4.95 k of 10.0 k a second");
        assert!(block.verdict[2].contains("grow with the slice"), "{block:?}");
        assert_eq!(block.verdict.len(), 3);
    }

    #[test]
    fn an_open_loop_may_leave_one_arrival_a_thread() {
        let mut report = report(vec![cell(8, vec![lock("lockword", 1.0, 0.0)])]);
        // Sixteen arrivals in a slice of ten seconds, of which ten were served.
        report.cells[0].load.arrivals = Arrivals::Open { per_second: 1.6 };
        assert_eq!(blocks(&report)[0].verdict.len(), 1);
    }

    #[test]
    fn a_wait_of_a_slices_length_is_told() {
        let mut report = report(vec![cell(8, vec![lock("lockword", 200.0, 0.0)])]);
        let longest = |report: &mut Report, ns| {
            report.cells[0].locks[0].waits.as_mut().unwrap().max = ns;
        };
        longest(&mut report, 89_000_000);
        assert!(blocks(&report)[0].verdict.is_empty());
        longest(&mut report, 90_000_000);
        assert!(blocks(&report)[0].verdict[0].contains("use a longer --slice"));
    }

    #[test]
    fn a_slice_of_no_length_does_no_harm() {
        for broken in [&[0][..], &[1], &[0, 1]] {
            for samples in [1, 9] {
                let mut locks = vec![lock("lockword", 200.0, 0.0), lock("std", 100.0, 0.0)];
                for lock in &mut locks {
                    lock.samples.truncate(samples);
                }
                for lock in broken {
                    locks[*lock].samples.iter_mut().for_each(|sample| sample.elapsed_ns = 0.0);
                }
                let report = report(vec![cell(8, locks)]);
                let text = format!("{:?}", blocks(&report)[0].verdict);
                assert!(!text.contains("NaN") && !text.contains("inf"), "{text}");
            }
        }
    }
}
