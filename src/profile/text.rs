//! A report for people and for tools: as a table, as JSON, and as folded stacks.

use super::report::{BehindReport, PlaceReport, Report, Times};
use core::fmt::{self, Write as _};

impl fmt::Display for Report {
    /// A table: a line for each place, and below it behind whom it waited.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.summary())?;
        if let Some(dropped) = self.dropped_text() {
            writeln!(f, "{dropped}")?;
        }
        if self.places.is_empty() {
            return Ok(());
        }
        let mut rows = vec![HEADS.map(str::to_owned)];
        rows.extend(self.places.iter().map(|place| {
            [
                place.place.to_string(),
                place.kind.to_string(),
                some(&place.waits, place.waits.total_ns),
                place.contended.to_string(),
                acquisitions(place),
                some(&place.waits, place.waits.p50_ns),
                some(&place.waits, place.waits.p99_ns),
                some(&place.waits, place.waits.max_ns),
                place.timeouts.to_string(),
                some(&place.holds, place.holds.p50_ns),
                some(&place.holds, place.holds.p99_ns),
            ]
        }));
        let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
        let widths: [usize; HEADS.len()] = core::array::from_fn(|it| width(it).unwrap_or(0));
        for (at, row) in rows.iter().enumerate() {
            let mut line = format!("{:<1$}  {2:<3$}", row[0], widths[0], row[1], widths[1]);
            for (cell, width) in row.iter().zip(widths).skip(2) {
                let _ = write!(line, "  {cell:>width$}");
            }
            writeln!(f, "{line}")?;
            let Some(place) = at.checked_sub(1).map(|at| &self.places[at]) else { continue };
            for behind in &place.behind {
                let name = holder(behind);
                let (waits, total) = (behind.waits, time(behind.total_ns));
                writeln!(f, "  behind {name}: {total}, waits: {waits}")?;
            }
        }
        Ok(())
    }
}

/// The columns of the table. The first two are names.
pub(super) const HEADS: [&str; 11] = [
    "place",
    "kind",
    "total wait",
    "contended",
    "acquisitions",
    "wait p50",
    "wait p99",
    "longest",
    "timeouts",
    "hold p50",
    "hold p99",
];

impl Report {
    /// The report as JSON, as serde writes it.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("no map has keys that are no text")
    }

    /// The waits as folded stacks, of which tools make flame graphs (`flamegraph.pl --countname us`, `inferno`): a line for
    /// each pair of places, `holder;waiter [kind] weight`. The weight is the time of all waits at the place of the waiter
    /// behind the place of the holder, in microseconds, rounded; pairs of less than half a microsecond are left out.
    #[must_use]
    pub fn folded(&self) -> String {
        let mut out = String::new();
        for place in &self.places {
            for behind in &place.behind {
                let us = (behind.total_ns + 500) / 1_000;
                if us > 0 {
                    let holder = frame(&holder(behind));
                    let waiter = frame(&place.place.to_string());
                    let _ = writeln!(out, "{holder};{waiter} [{}] {us}", place.kind);
                }
            }
        }
        out
    }

    /// What run this is, and how it was counted.
    pub(super) fn summary(&self) -> String {
        let state = match (self.started, self.is_running) {
            (0, _) => return "The contention profile was not started.".to_owned(),
            (_, true) => "so far",
            (_, false) => "in all",
        };
        format!(
            "Contention profile of {} {state}. Acquisitions without waiting and holds are sampled, one in {}, so that numbers \
             with a ~ are estimates; waits are all counted.",
            time(self.elapsed_ns),
            self.sampling_interval
        )
    }

    /// What is not in the table, if there is anything.
    pub(super) fn dropped_text(&self) -> Option<String> {
        let it = self.dropped;
        (it.acquisitions + it.waits > 0).then(|| {
            format!(
                "There was no room for more places: about {} acquisitions without waiting, and {} waits of together {}, are \
                 in no line.",
                it.acquisitions,
                it.waits,
                time(it.wait_ns)
            )
        })
    }
}

/// The name of a holder: its place.
pub(super) fn holder(behind: &BehindReport) -> String {
    match &behind.place {
        Some(place) if behind.readers => format!("readers, last in {place}"),
        Some(place) => place.to_string(),
        None => "other or unknown".to_owned(),
    }
}

/// A frame of a folded stack.
fn frame(name: &str) -> String {
    name.chars().map(|it| if it == ';' || it.is_control() { '_' } else { it }).collect()
}

/// The acquisitions of a place: with a tilde if a part of them is estimated.
pub(super) fn acquisitions(place: &PlaceReport) -> String {
    let estimated = if place.acquisitions > place.contended { "~" } else { "" };
    format!("{estimated}{}", place.acquisitions)
}

/// A figure of these times, or a dash if there are none.
pub(super) fn some(times: &Times, ns: u64) -> String {
    if times.count == 0 { "-".to_owned() } else { time(ns) }
}

/// A time with three digits, and its unit.
pub(super) fn time(ns: u64) -> String {
    let (scale, unit) = match ns {
        0..1_000 => return format!("{ns} ns"),
        1_000..999_500 => (1e3, "us"),
        999_500..999_500_000 => (1e6, "ms"),
        _ => (1e9, "s"),
    };
    let value = ns as f64 / scale;
    let digits = if value >= 99.95 { 0 } else { 1 + usize::from(value < 9.995) };
    format!("{value:.digits$} {unit}")
}

#[cfg(test)]
mod tests {
    use super::super::report::{Dropped, sample};
    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_place_and_each_holder() {
        let text = sample().to_string();
        let lines: Vec<_> = text.lines().collect();
        let [summary, heads, busy, first, other, calm] = &lines[..] else { panic!("{text}") };
        assert!(summary.contains("2.35 s so far") && summary.contains("one in 61"), "{summary}");
        assert!(heads.starts_with("place") && heads.ends_with("hold p99"), "{heads}");
        let words = |line: &str| {
            line.split("  ")
                .map(str::trim)
                .filter(|it| !it.is_empty())
                .collect::<Vec<_>>()
                .join("|")
        };
        assert_eq!(
            words(busy),
            "src/a b.rs:7:5|write|3.00 ms|20|~1220|1.50 us|2.00 ms|3.00 ms|1|1.50 us|2.00 ms"
        );
        assert_eq!(*first, "  behind src/a b.rs:9:5: 3.00 ms, waits: 20");
        assert_eq!(*other, "  behind other or unknown: 400 ns, waits: 1");
        assert_eq!(words(calm), "src/a b.rs:9:5|read|-|0|~61|-|-|-|0|-|-");
        assert!([busy, calm].iter().all(|line| line.chars().count() == heads.chars().count()));
        let mut report = sample();
        report.places[0].behind[0].readers = true;
        report.places[1].contended = 61;
        let text = report.to_string();
        assert!(text.contains("  behind readers, last in src/a b.rs:9:5: 3.00 ms"), "{text}");
        assert!(text.contains(" 61 ") && !text.contains("~61"), "{text}");
        report.dropped = Dropped { acquisitions: 122, waits: 3, wait_ns: 4_000 };
        assert!(report.to_string().contains("about 122 acquisitions without waiting, and 3 waits"));
    }

    #[test]
    fn json_comes_back_as_it_was() {
        let report = sample();
        let json = report.json();
        assert_eq!(serde_json::from_str::<Report>(&json).unwrap(), report);
        let value: serde_json::Value = serde_json::from_str(&json).unwrap();
        assert_eq!(value["places"][0]["waits"]["p99_ns"], 2_000_000);
        assert_eq!(value["places"][0]["kind"], "write");
    }

    #[test]
    fn folded_stacks_are_what_tools_read() {
        let mut report = sample();
        report.places[1].behind = report.places[0].behind.clone();
        report.places[1].place.file = "a;b\nc.rs".to_owned();
        let folded = report.folded();
        let lines: Vec<_> = folded.lines().collect();
        assert_eq!(
            lines,
            [
                "src/a b.rs:9:5;src/a b.rs:7:5 [write] 3001",
                "src/a b.rs:9:5;a_b_c.rs:9:5 [read] 3001"
            ]
        );
        for line in lines {
            let (stack, weight) = line.rsplit_once(' ').unwrap();
            assert!(stack.split(';').count() == 2 && weight.parse::<u64>().is_ok(), "{line}");
        }
    }

    #[test]
    fn times_have_three_digits() {
        let shown = [0, 999, 1_000, 9_994, 9_996, 99_960, 999_499, 999_501, 61_000_000_000];
        let shown = shown.map(time);
        let texts =
            ["0 ns", "999 ns", "1.00 us", "9.99 us", "10.0 us", "100 us", "999 us", "1.00 ms"];
        assert_eq!(shown[..8], texts);
        assert_eq!(shown[8], "61.0 s");
    }
}
