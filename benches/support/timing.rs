//! Benches whose samples are one time each: nanoseconds per operation, less is better.

use lockword::contention::statistics::{self, Median};

use super::options::Options;
use super::report::{self, Line};
use super::roster::{Cell, LOCKWORD, Series};
use super::table::{self, Table};

/// Hands the samples to criterion.
pub fn publish<W>(options: &Options, measured: &[Cell<W, f64>], name: impl Fn(&W) -> String) {
    let mut lines = Vec::new();
    for cell in measured {
        for series in &cell.series {
            let (cell, lock) = (name(&cell.load), series.lock.to_owned());
            lines.push(Line { cell, lock, ns: series.samples.clone() });
        }
    }
    report::publish(options, &lines);
}

/// Prints the table: a line for each lock in each cell. `lead` is how many times faster lockword
/// is than the line's lock; on lockword's own line, than the best peer that parks.
pub fn print<W>(head: &str, measured: &[Cell<W, f64>], name: impl Fn(&W) -> String) {
    let heads =
        [head, "lock", "median ns", "95 % CI", "quartiles", "lockword's lead [95 % CI]", ""];
    let mut table = Table::new(2, &heads);
    for cell in measured {
        for series in &cell.series {
            let median = statistics::median(&series.samples);
            let sorted = statistics::sorted(&series.samples);
            let (first, third) =
                (statistics::quantile(&sorted, 0.25), statistics::quantile(&sorted, 0.75));
            let (lead, note) = if series.lock == LOCKWORD {
                let best = best_parking_peer(cell);
                let lead = best.and_then(|peer| lead_over(cell, peer.lock));
                (lead, best.map_or_else(String::new, |peer| format!("best: {}", peer.lock)))
            } else {
                (lead_over(cell, series.lock), String::new())
            };
            table.row(vec![
                name(&cell.load),
                series.lock.to_owned(),
                table::figure(median.mid),
                table::interval(&median),
                format!("{} - {}", table::figure(first), table::figure(third)),
                lead.map_or_else(String::new, |lead| table::ratio(&lead)),
                note,
            ]);
        }
        table.gap();
    }
    table.print();
}

/// The fastest lock other than lockword whose waiters go to sleep.
fn best_parking_peer<W>(cell: &Cell<W, f64>) -> Option<&Series<f64>> {
    let peers = cell.series.iter().filter(|s| s.parks && s.lock != LOCKWORD);
    let middle = |series: &&Series<f64>| statistics::median(&series.samples).mid;
    peers.min_by(|a, b| middle(a).total_cmp(&middle(b)))
}

/// How many times faster lockword is than a peer, round by round.
pub fn lead_over<W>(cell: &Cell<W, f64>, peer: &str) -> Option<Median> {
    let (lockword, peer) = (cell.of(LOCKWORD)?, cell.of(peer)?);
    Some(statistics::paired_ratio(&peer.samples, &lockword.samples))
}
