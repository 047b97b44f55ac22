//! The table for the terminal: one block for each load, one line for each lock.
//!
//! It has two layouts. The wide one shows intervals; the narrow one, for 80 columns, shows the
//! half-width of the interval in percent. The rate of a lock that the verdict calls the fastest is
//! bold, and a ratio whose interval excludes 1 has a colour. The verdict under each block says the
//! same in words, for output without styles. Fairness, CPU time and waits have no interval, so none
//! of them is bold.

use super::ladder::{HEADS, Ladder, ladders};
use super::plan;
use super::summary::{LoadSummary, LockSummary, ROUNDS, cautions, clipped, summaries};
use crate::output;
use anstyle::{AnsiColor, Style};
use lockword::contention::{ComparisonReport, Waits};
use std::fmt::Write as _;

const BOLD: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default();
const BAD: Style = AnsiColor::Red.on_default();
const WARNING: Style = AnsiColor::Yellow.on_default().bold();

/// The number of columns from which on the wide layout is used.
const WIDE: usize = 116;

/// A cell of the table: text and its style.
#[derive(Clone, Default)]
struct TableCell {
    text: String,
    style: Style,
}

impl TableCell {
    fn new(text: impl Into<String>) -> Self {
        TableCell { text: text.into(), style: Style::new() }
    }

    fn bold_if(mut self, best: bool) -> Self {
        if best {
            self.style = self.style.bold();
        }
        self
    }
}

/// The report as text for a terminal with `width` columns.
pub fn render(report: &ComparisonReport, width: usize) -> String {
    let wide = width >= WIDE;
    let mut out = String::new();
    head(&mut out, report, width);
    let summaries = summaries(report);
    let ladders = ladders(&summaries);
    for ladder in &ladders {
        climb(&mut out, ladder, width);
    }
    let is_step =
        |summary: &&LoadSummary<'_>| ladders.iter().any(|ladder| ladder.contains(summary));
    for summary in summaries.iter().filter(|summary| !is_step(summary)) {
        let load = &summary.cell.load;
        let title = format!("{}, {}", plan::describe_threads(load), plan::describe(load));
        let _ = writeln!(out, "\n{BOLD}{title}{BOLD:#}");
        grid(&mut out, &rows(summary, wide));
        for line in summary.verdict.iter().chain(&p99_ratios(summary)) {
            let _ = writeln!(out, "{}", output::wrap(&format!("  {line}."), width, "    "));
        }
    }
    legend(&mut out, &summaries, width);
    out
}

/// The report as Markdown: a table for each load, with the columns of the wide layout.
pub fn markdown(report: &ComparisonReport) -> String {
    let mut out = format!("{}\n", machine(report));
    for caution in cautions(report) {
        let _ = write!(out, "\n> **Warning:** {}\n", plain_markdown(&caution));
    }
    let summaries = summaries(report);
    let ladders = ladders(&summaries);
    for ladder in &ladders {
        let _ = writeln!(out, "\n### {}", plain_markdown(&ladder.title()));
        for lock in ladder.locks() {
            let heads = HEADS.join(" | ");
            let _ = writeln!(out, "\n{}\n\n| {heads} |", plain_markdown(lock));
            let _ = writeln!(out, "|{}", "---:|".repeat(HEADS.len()));
            for row in ladder.rows(lock) {
                let row: Vec<String> = row.iter().map(|cell| plain_markdown(cell)).collect();
                let _ = writeln!(out, "| {} |", row.join(" | "));
            }
        }
        for line in ladder.verdict() {
            let _ = write!(out, "\n- {}.", plain_markdown(&line));
        }
        out.push('\n');
    }
    let is_step =
        |summary: &&LoadSummary<'_>| ladders.iter().any(|ladder| ladder.contains(summary));
    for summary in summaries.iter().filter(|summary| !is_step(summary)) {
        let load = &summary.cell.load;
        let _ = writeln!(out, "\n### {}, {}\n", plan::describe_threads(load), plan::describe(load));
        for (number, row) in rows(summary, true).iter().enumerate() {
            let cell = |cell: &TableCell| {
                let text = plain_markdown(&cell.text);
                if number > 0 && cell.style == BOLD { format!("**{text}**") } else { text }
            };
            let _ = writeln!(out, "| {} |", row.iter().map(cell).collect::<Vec<_>>().join(" | "));
            if number == 0 {
                let _ = writeln!(out, "|---|{}", "---:|".repeat(row.len() - 1));
            }
        }
        for line in summary.verdict.iter().chain(&p99_ratios(summary)) {
            let _ = write!(out, "\n- {}.", plain_markdown(line));
        }
        out.push('\n');
    }
    out.push('\n');
    for (column, meaning) in terms(&summaries, true) {
        let _ = writeln!(out, "- **{column}**: {meaning}.");
    }
    out
}

/// Text without a character that Markdown or HTML takes for more.
fn plain_markdown(text: &str) -> String {
    let mut out = String::new();
    for c in output::printable(text).chars() {
        if "\\`*_[]<>|#&~".contains(c) {
            out.push('\\');
        }
        out.push(c);
    }
    out
}

fn machine(report: &ComparisonReport) -> String {
    let machine = &report.machine;
    let governor = machine.governor.as_ref().map(|governor| format!(", governor {governor}"));
    format!("{machine}{}", governor.unwrap_or_default())
}

fn head(out: &mut String, report: &ComparisonReport, width: usize) {
    let _ = writeln!(out, "{}", output::wrap(&machine(report), width, "  "));
    for caution in cautions(report) {
        // The word before it is styled, and as wide as the indent and a word.
        let text = output::wrap(&format!("warning: {caution}"), width, "  ");
        let text = text.strip_prefix("warning").unwrap_or(&text);
        let _ = writeln!(out, "{WARNING}warning{WARNING:#}{text}");
    }
}

/// A table of each lock with a row for each rate of arrivals, and the knees.
fn climb(out: &mut String, ladder: &Ladder<'_>, width: usize) {
    let _ = writeln!(out, "\n{BOLD}{}{BOLD:#}", ladder.title());
    for lock in ladder.locks() {
        let head = |text: &&str| TableCell { text: (*text).to_owned(), style: DIM };
        let mut rows: Vec<Vec<TableCell>> = vec![HEADS.iter().map(head).collect()];
        rows.extend(
            ladder.rows(lock).into_iter().map(|row| row.into_iter().map(TableCell::new).collect()),
        );
        let _ = writeln!(out, "  {lock}");
        grid(out, &rows);
    }
    for line in ladder.verdict() {
        let _ = writeln!(out, "{}", output::wrap(&format!("  {line}."), width, "    "));
    }
}

/// The column heads of the wide layout. The page has these columns too.
pub const WIDE_HEADS: [&str; 11] = [
    "lock",
    "acq/s",
    "95 % interval",
    "ratio",
    "95 % interval",
    "fair",
    "CPU",
    "p50",
    "p99",
    "p99.9",
    "longest",
];
/// The column heads of the narrow layout.
const NARROW_HEADS: [&str; 9] =
    ["lock", "acq/s", "ratio", "fair", "CPU", "p50", "p99", "p99.9", "max"];

/// The rows of a block; the first has the column heads.
fn rows(summary: &LoadSummary<'_>, wide: bool) -> Vec<Vec<TableCell>> {
    let heads: &[&str] = if wide { &WIDE_HEADS } else { &NARROW_HEADS };
    let head = |text: &&str| TableCell { text: (*text).to_owned(), style: DIM };
    let mut rows = vec![heads.iter().map(head).collect()];
    rows.extend(summary.locks.iter().map(|lock| row(summary, lock, wide)));
    rows
}

fn row(summary: &LoadSummary<'_>, lock: &LockSummary<'_>, wide: bool) -> Vec<TableCell> {
    let time = if wide { output::time } else { output::short_time };
    let field = |text: Option<String>| TableCell::new(text.unwrap_or_else(|| "-".to_owned()));
    let wait = |of: fn(&Waits) -> u64| {
        let text = |ns: u64| {
            let least = if clipped(&summary.cell.load, ns) { ">=" } else { "" };
            format!("{least}{}", time(ns as f64))
        };
        field(lock.waits.map(of).map(text))
    };

    let mut row = vec![TableCell::new(lock.lock)];
    let fastest = summary.fastest.contains(&lock.lock);
    match &lock.rate {
        Some(rate) if wide => {
            let (mid, interval) = output::rate_with_interval(rate);
            row.push(TableCell::new(mid).bold_if(fastest));
            row.push(TableCell::new(interval));
        }
        Some(rate) => {
            let text = format!("{} {}", output::rate(rate.mid), output::plus_minus(rate));
            row.push(TableCell::new(text).bold_if(fastest));
        }
        None => row.extend(vec![TableCell::new("-"); if wide { 2 } else { 1 }]),
    }
    let itself = summary.reference == Some(lock.lock);
    match lock.ratio.as_ref().filter(|_| !itself) {
        Some(ratio) => {
            let style = match ratio {
                _ if summary.fastest.is_empty() => Style::new(),
                ratio if ratio.low > 1.0 => GOOD,
                ratio if ratio.high < 1.0 => BAD,
                _ => Style::new(),
            };
            let mid = output::figure(ratio.mid);
            if wide {
                row.push(TableCell { text: mid, style });
                row.push(TableCell::new(output::interval(ratio)));
            } else {
                row.push(TableCell { text: format!("{mid} {}", output::plus_minus(ratio)), style });
            }
        }
        None => {
            row.push(TableCell::new(if itself { "1" } else { "-" }));
            row.extend(wide.then(TableCell::default));
        }
    }
    row.push(field(lock.fairness.map(|fairness| format!("{fairness:.2}"))));
    row.push(field(lock.cpu.map(time)));
    row.extend([wait(|w| w.p50), wait(|w| w.p99), wait(|w| w.p999), wait(|w| w.max)]);
    row
}

/// The ratios of the locks' p99, for which the table has no column. An open loop has them in its verdict.
fn p99_ratios(summary: &LoadSummary<'_>) -> Option<String> {
    let ratio = |lock: &LockSummary<'_>| {
        let ratio = lock.p99_ratio.filter(|_| !summary.cell.load.arrivals.is_open())?;
        Some(format!("{} {} {}", lock.lock, output::figure(ratio.mid), output::interval(&ratio)))
    };
    let ratios: Vec<String> = summary.locks.iter().filter_map(ratio).collect();
    (!ratios.is_empty()).then(|| {
        format!("p99 over {}'s: {}", summary.reference.unwrap_or_default(), ratios.join(", "))
    })
}

/// Writes the rows as an aligned table: the first column is flush left, the others flush right.
fn grid(out: &mut String, rows: &[Vec<TableCell>]) {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].text.chars().count()).max();
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0)).collect();
    for row in rows {
        let mut line = String::new();
        for (column, TableCell { text, style }) in row.iter().enumerate() {
            let gap = " ".repeat(widths[column] - text.chars().count());
            let text = format!("{style}{text}{style:#}");
            let _ = match column {
                0 => write!(line, "  {text}{gap}"),
                _ => write!(line, "  {gap}{text}"),
            };
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

/// The lock in the numerator of all ratios: `lockword's`. If there are several, each is that with the ratio 1.
pub fn reference(summaries: &[LoadSummary<'_>]) -> String {
    let mut all: Vec<&str> = summaries.iter().filter_map(|summary| summary.reference).collect();
    all.dedup();
    match all[..] {
        [one] => format!("{one}'s"),
        _ => "the reference's (that has the ratio 1)".to_owned(),
    }
}

/// What the columns mean.
fn terms(summaries: &[LoadSummary<'_>], wide: bool) -> Vec<(&'static str, String)> {
    let reference = reference(summaries);
    let mut terms = vec![
        (
            "acq/s",
            format!(
                "acquisitions a second: the median of the rounds, and its 95 % interval. All figures but the waits \
                 are of the rounds that nothing disturbed, unless fewer than {ROUNDS} are left"
            ),
        ),
        (
            "ratio",
            format!(
                "{reference} acquisitions a second over this lock's: the median of the rounds' ratios, in which what \
                 disturbs a round cancels out, so it may differ from the quotient of the two medians"
            ),
        ),
        ("fair", "the share of the luckier half of the threads: 0.50 is fair".to_owned()),
        ("CPU", "processor time for an acquisition, all threads together".to_owned()),
    ];
    if summaries.iter().flat_map(|summary| &summary.locks).any(|lock| lock.waits.is_some()) {
        terms.push((
            if wide { "p50..longest" } else { "p50..max" },
            "how long acquisitions waited, in a pass of its own, in all rounds; every wait contains one reading of the clock (20 to \
             30 ns). Without --rate a thread that waits makes no further request, so that few waits are long"
                .to_owned(),
        ));
    }
    terms
}

fn legend(out: &mut String, summaries: &[LoadSummary<'_>], width: usize) {
    const COLUMN: usize = 14;
    /// A line that is longer is hard to read.
    const MOST: usize = 80;
    let _ = writeln!(out);
    for (column, meaning) in terms(summaries, width >= WIDE) {
        let line = format!("{column:<COLUMN$}{meaning}");
        let text = output::wrap(&line, width.min(MOST), &" ".repeat(COLUMN));
        for line in text.lines() {
            let _ = writeln!(out, "{DIM}{line}{DIM:#}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::summary::sample::{cell, lock, report};
    use super::*;
    use lockword::contention::Arrivals;

    fn plain(report: &ComparisonReport, width: usize) -> String {
        anstream::adapter::strip_str(&render(report, width)).to_string()
    }

    fn three() -> ComparisonReport {
        let locks = vec![
            lock("lockword", 4.2e6, 0.01),
            lock("std", 2.1e6, 0.01),
            lock("parking_lot", 3e6, 0.02),
        ];
        report(vec![cell(8, locks), cell(1, vec![lock("lockword", 9e7, 0.01)])])
    }

    #[test]
    fn no_line_is_wider_than_the_terminal() {
        for width in [80, 100, 116, 120] {
            let table = plain(&three(), width);
            for line in table.lines().filter(|line| !line.contains("processor")) {
                assert!(line.chars().count() <= width, "{} > {width}: {line}", line.len());
            }
        }
    }

    #[test]
    fn the_line_of_a_lock_has_its_figures() {
        let table = plain(&three(), 120);
        let line = table.lines().find(|line| line.trim_start().starts_with("std")).unwrap();
        let words: Vec<&str> = line.split_whitespace().collect();
        assert_eq!(words[..3], ["std", "2.08", "M"], "{line}");
        for figure in ["2.00", "0.50", "120 ns", "4.00 us", "35.0 us", "1.20 ms"] {
            assert!(line.contains(figure), "{figure} in: {line}");
        }
    }

    #[test]
    fn only_the_fastest_is_bold() {
        let table = render(&three(), 120);
        let bold = |text: &str| table.contains(&format!("{BOLD}{text}"));
        assert!(bold("4.16 M") && !bold("2.08 M") && !bold("2.94 M"), "{table}");
        // A single lock has nothing to be faster than.
        assert!(!bold("89.1 M"), "{table}");
    }

    #[test]
    fn figures_without_an_interval_are_not_bold() {
        let mut report = three();
        let lock = &mut report.cells[0].locks[1];
        *lock.waits.as_mut().unwrap() =
            Waits { count: 9, p50: 1, p99: 2, p999: 3, max: 4, curve: vec![] };
        for sample in &mut lock.samples {
            sample.cpu_ns = Some(5.0);
        }
        let table = render(&report, 120);
        let bold = table.lines().filter(|line| !line.starts_with(&BOLD.to_string()));
        let bold: usize = bold.map(|line| line.matches(&BOLD.to_string()).count()).sum();
        assert_eq!(bold, 1, "only lockword's rate: {table}");
    }

    #[test]
    fn an_open_loop_has_neither_bold_nor_colour() {
        let mut report = three();
        report.cells[0].load.arrivals = Arrivals::Open { per_second: 4.2e6 };
        let table = render(&report, 120);
        for style in [GOOD, BAD] {
            assert!(!table.contains(&style.to_string()), "{table}");
        }
        assert!(!table.contains(&format!("{BOLD}4.16 M")), "{table}");
        assert!(table.contains("compare the waits"), "{table}");
        let narrow = plain(&report, 80);
        let table = narrow.lines().filter(|line| !line.contains("processor"));
        assert!(table.map(|line| line.chars().count()).max() <= Some(80), "{narrow}");
    }

    #[test]
    fn a_wait_that_the_slice_cut_off_is_marked() {
        let mut report = three();
        for lock in &mut report.cells[0].locks {
            lock.waits.as_mut().unwrap().max = 99_000_000;
        }
        assert!(plain(&report, 120).contains(">=99.0 ms"));
        let narrow = plain(&report, 80);
        assert!(narrow.contains(">=99ms") && narrow.contains("use a longer --slice"), "{narrow}");
        let table = narrow.lines().filter(|line| !line.contains("processor"));
        assert!(table.map(|line| line.chars().count()).max() <= Some(80), "{narrow}");
    }

    #[test]
    fn disturbed_rounds_do_not_count_and_are_told() {
        let mut report = three();
        for round in 0..3 {
            let sample = &mut report.cells[0].locks[1].samples[round];
            sample.acquisitions[0] *= 1_000;
            sample.conditions.others_running = Some(1);
        }
        let said = "3 of 9 rounds were disturbed (other processes ran) and do not count";
        let table = plain(&report, 120);
        assert!(table.contains(said) && markdown(&report).contains("3 of 9 rounds were disturbed"));
        let line = table.lines().find(|line| line.trim_start().starts_with("std")).unwrap();
        assert!(line.contains("[2.08, 2.12]"), "{line}");
    }

    #[test]
    fn a_ladder_has_a_table_for_each_lock_in_place_of_one_for_each_load() {
        let text = markdown(&super::super::ladder::sample::ladder());
        assert_eq!(text.matches("| arrivals/s |").count(), 2, "{text}");
        assert!(
            text.contains("\n- lockword has its knee at ") && !text.contains("| lock |"),
            "{text}"
        );
        let table = plain(&super::super::ladder::sample::ladder(), 80);
        assert_eq!(table.matches("arrivals/s").count(), 2, "{table}");
        assert!(
            table.contains("2 threads, 100 ns inside, 100 ns outside\n  lockword\n"),
            "{table}"
        );
        let row = table.lines().find(|line| line.contains("900 k (90 %)")).unwrap();
        assert!(row.contains("900 k") && row.contains("80.0 us"), "{row}");
        assert!(table.contains("lockword has its knee at 800 k (80 %)"), "{table}");
        assert!(!table.contains("compare the waits"), "{table}");
    }

    #[test]
    fn long_warnings_are_broken_between_words() {
        let mut report = three();
        report.warnings.push("the machine is busy ".repeat(10));
        let table = plain(&report, 60);
        let warning = table.lines().skip_while(|line| !line.starts_with("warning: the"));
        let warning: Vec<&str> = warning.take_while(|line| !line.is_empty()).collect();
        assert!(warning.len() > 3 && warning[1].starts_with("  "), "{table}");
        assert!(warning.iter().all(|line| line.chars().count() <= 60), "{table}");
    }

    #[test]
    fn markdown_has_a_table_for_each_load() {
        let mut report = three();
        report.warnings.push("a <b> | `c`".to_owned());
        report.cells[0].locks[1].lock = "my|lock".to_owned();
        let text = markdown(&report);
        assert_eq!(text.matches("| lock | acq/s |").count(), 2, "{text}");
        assert!(text.contains("| **4.16 M** |") && text.contains(" | 2.00 | "), "{text}");
        assert!(text.contains(r"a \<b\> \| \`c\`") && text.contains(r"| my\|lock |"), "{text}");
        let bars = |line: &str| line.replace(r"\|", "").matches('|').count();
        for line in text.lines().filter(|line| line.starts_with("| ")) {
            assert_eq!(bars(line), 1 + WIDE_HEADS.len(), "{line}");
        }
    }

    #[test]
    fn the_waits_have_ratios_of_their_own() {
        let mut report = three();
        let waits = super::super::summary::sample::waits;
        report.cells[0].locks[0].round_waits = waits(100, 9);
        report.cells[0].locks[1].round_waits = waits(250, 9);
        let text = "p99 over lockword's: std 2.50 [2.50, 2.50]";
        let table = plain(&report, 80);
        assert!(table.contains(&format!("\n  {text}")), "{table}");
        assert!(markdown(&report).contains("p99 over lockword's: std 2.50"));
    }

    #[test]
    fn the_legend_names_the_reference_if_there_is_one() {
        let mut report = three();
        assert!(plain(&report, 80).contains("lockword's acquisitions a second over"));
        report.cells[1].locks[0].lock = "other".to_owned();
        assert!(plain(&report, 80).contains("the reference's (that has the ratio 1) acquisitions"));
    }

    #[test]
    fn warnings_are_printed() {
        let mut report = three();
        report.warnings.push("the machine is busy".to_owned());
        report.cut_short = true;
        let table = plain(&report, 80);
        assert!(table.contains("warning: the machine is busy"), "{table}");
        assert!(table.contains("warning: cut short: 9 of 9 rounds were done"), "{table}");
    }

    #[test]
    fn a_missing_figure_is_a_dash() {
        let mut report = three();
        let lock = &mut report.cells[0].locks[1];
        lock.samples.clear();
        lock.waits = None;
        for width in [80, 120] {
            let table = plain(&report, width);
            let line = table.lines().find(|line| line.trim_start().starts_with("std")).unwrap();
            assert!(!line.contains(|c: char| c.is_ascii_digit()), "{line}");
        }
    }
}
