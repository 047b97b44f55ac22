//! The samples of a report as CSV (RFC 4180): a line for each round of each lock under each load.

use super::summary::{disturbance, offered};
use crate::CliError;
use lockword::contention::{ComparisonReport, Sample};
use serde::Serialize;

/// A line. What the system or the run did not provide is empty.
#[derive(Serialize)]
struct Line<'a> {
    load: &'a str,
    threads: usize,
    tasks: Option<usize>,
    queue: Option<usize>,
    /// Arrivals a second of an open loop.
    offered_per_second: Option<f64>,
    lock: &'a str,
    /// From 1.
    round: usize,
    elapsed_ns: f64,
    acquisitions: u64,
    acquisitions_per_second: f64,
    /// Of the thread with the fewest, and of that with the most.
    fewest: u64,
    most: u64,
    fairness_factor: f64,
    hog_acquisitions: Option<u64>,
    cpu_ns: Option<f64>,
    unit_ns: f64,
    run_delay: Option<f64>,
    most_run_delay: Option<f64>,
    others_running: Option<u32>,
    /// What disturbed the round of this lock, also in the slice of the waits; empty if nothing did. Where
    /// it says so of one lock, the round counts for none in the table (unless too few others are left).
    disturbed: Option<String>,
    /// The waits of the round, in a slice of its own.
    waits: Option<u64>,
    wait_p50_ns: Option<u64>,
    wait_p99_ns: Option<u64>,
    wait_p999_ns: Option<u64>,
    wait_max_ns: Option<u64>,
}

/// All samples, with a line of column heads.
///
/// # Errors
///
/// None in practice: it is written to memory.
pub fn csv(report: &ComparisonReport) -> Result<String, CliError> {
    let cannot =
        |error: &dyn std::fmt::Display| CliError::new(format!("cannot write CSV: {error}"));
    let mut out = csv::Writer::from_writer(vec![]);
    for cell in &report.cells {
        for lock in &cell.locks {
            for (round, sample) in lock.samples.iter().enumerate() {
                let Sample { elapsed_ns, hog_acquisitions, cpu_ns, .. } = *sample;
                let waits = lock.round_waits.get(round);
                let each = || sample.acquisitions.iter().copied();
                let line = Line {
                    load: &cell.name,
                    threads: cell.load.threads,
                    tasks: cell.load.tasks,
                    queue: cell.load.queue,
                    offered_per_second: offered(cell),
                    lock: &lock.lock,
                    round: round + 1,
                    elapsed_ns,
                    acquisitions: sample.total(),
                    acquisitions_per_second: sample.per_second(),
                    fewest: each().min().unwrap_or(0),
                    most: each().max().unwrap_or(0),
                    fairness_factor: sample.fairness_factor(),
                    hog_acquisitions,
                    cpu_ns,
                    unit_ns: sample.conditions.unit_ns,
                    run_delay: sample.conditions.run_delay,
                    most_run_delay: sample.conditions.most_run_delay,
                    others_running: sample.conditions.others_running,
                    disturbed: disturbance(lock, round, (&cell.load, &report.machine))
                        .map(|disturbance| disturbance.to_string()),
                    waits: waits.map(|waits| waits.count),
                    wait_p50_ns: waits.map(|waits| waits.p50),
                    wait_p99_ns: waits.map(|waits| waits.p99),
                    wait_p999_ns: waits.map(|waits| waits.p999),
                    wait_max_ns: waits.map(|waits| waits.max),
                };
                out.serialize(line).map_err(|error| cannot(&error))?;
            }
        }
    }
    let bytes = out.into_inner().map_err(|error| cannot(&error))?;
    String::from_utf8(bytes).map_err(|error| cannot(&error))
}

#[cfg(test)]
mod tests {
    use super::super::summary::sample::{cell, lock, report, waits};
    use super::*;

    #[test]
    fn each_round_is_a_line_and_names_with_commas_are_quoted() {
        let mut report =
            report(vec![cell(8, vec![lock("a", 4e6, 0.0), lock("b, \"c\"", 2e6, 0.0)])]);
        let lock = &mut report.cells[0].locks[0];
        lock.round_waits = waits(300, 2);
        lock.round_waits[0].conditions.others_running = Some(1);
        lock.samples[2].conditions.unit_ns = 2.0;
        let text = csv(&report).unwrap();
        let lines: Vec<&str> = text.lines().collect();
        let rounds = report.cells[0].locks[0].samples.len();
        assert_eq!(lines.len(), 1 + 2 * rounds);
        assert!(
            lines[0].starts_with("load,threads,tasks,queue,offered_per_second,lock,round,"),
            "{}",
            lines[0]
        );
        assert!(lines[1].starts_with("\"8 threads, "), "{}", lines[1]);
        let of = |line: usize, column: &str| {
            // The first column has the only commas in quotes.
            let at = lines[0].split(',').rev().position(|head| head == column).unwrap();
            lines[line].rsplit(',').nth(at).unwrap()
        };
        assert_eq!(
            [1, 2, 3].map(|line| of(line, "disturbed")),
            ["other processes ran", "", "the processor changed its speed"]
        );
        assert_eq!((of(1, "run_delay"), of(1, "most_run_delay")), ("0.0", "0.0"));
        assert!(lines[2].ends_with(",1000,1,600,1,1") && lines[3].ends_with(",,,,,"), "{text}");
        assert!(lines[1 + rounds].contains(",\"b, \"\"c\"\"\",1,"), "{}", lines[1 + rounds]);
    }
}
