//! The page: a self-contained HTML file of a report, for a browser or for printing.

use super::chart::{self, Palette};
use super::ladder::{HEADS, Ladder, ladders};
use super::plan;
use super::summary::{self, LoadSummary, ROUNDS, cautions, clipped, summaries};
use super::table::{WIDE_HEADS, reference};
use crate::output;
use lockword::contention::{Cache, CellReport, ComparisonReport, Load, MachineInfo};
use std::fmt::Write as _;

/// Loads that differ only in the number of threads. They share their charts.
pub struct LoadGroup<'a> {
    pub title: String,
    /// In the order of the number of threads.
    pub summaries: Vec<&'a LoadSummary<'a>>,
}

/// The page of a report, as HTML.
pub fn render(report: &ComparisonReport) -> String {
    let summaries = summaries(report);
    let locks = summaries.iter().flat_map(|summary| &summary.locks).map(|lock| lock.lock);
    let palette = Palette::new(locks);
    let mut out = String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n");
    let _ = write!(
        out,
        "<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n\
         <meta http-equiv=\"Content-Security-Policy\" \
         content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
         <title>Locks under contention, {}</title>\n<style>\n{}{}</style>\n</head>\n<body>\n<main>\n",
        output::date(report.started),
        include_str!("../../../page.css"),
        palette.css()
    );
    head(&mut out, report);
    let ladders = ladders(&summaries);
    findings(&mut out, &summaries, &ladders);
    legend(&mut out, &summaries);
    for ladder in &ladders {
        climb(&mut out, ladder, &palette);
    }
    for group in groups(&summaries, &ladders) {
        section(&mut out, &group, &palette);
    }
    rounds(&mut out, report);
    let _ = write!(
        out,
        "<p class=\"small\">The report itself is in this page too, as JSON, in the element \
         <code>report</code>.</p>\n\
         <script type=\"application/json\" id=\"report\">\n{}\n</script>\n\
         </main>\n</body>\n</html>\n",
        json(report)
    );
    out
}

/// The title, the machine, and the warnings.
fn head(out: &mut String, report: &ComparisonReport) {
    let _ = writeln!(out, "<h1>Locks under contention</h1>\n<dl class=\"facts\">");
    let machine = &report.machine;
    let mut fact = |name: &str, value: &str| {
        let _ = writeln!(out, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    };
    fact("Processor", &escape(machine.cpu.as_deref().unwrap_or("unknown")));
    let lie = machine.topology.as_ref().map(|topology| format!(": {topology}"));
    fact("Processors", &format!("{}{}", machine.processors, lie.unwrap_or_default()));
    if let Some(topology) = machine.topology.as_ref().filter(|it| !it.caches.is_empty()) {
        let cache = |cache: &Cache| {
            let sharing = if cache.shared_by > 1 {
                format!(" for {}", cache.shared_by)
            } else {
                String::new()
            };
            format!("{} {}{sharing}", escape(&cache.name), escape(&cache.size))
        };
        fact("Caches", &topology.caches.iter().map(cache).collect::<Vec<_>>().join(", "));
    }
    fact("System", &escape(&format!("{}, {}", machine.system, machine.architecture)));
    fact("Governor", &escape(machine.governor.as_deref().unwrap_or("not told by the system")));
    if let Some(load) = machine.load_average {
        fact("Load average before", &output::figure(load));
    }
    fact("Unit of work", &output::time(machine.unit_ns));
    fact("Measured", &format!("{}, {} rounds", output::date(report.started), report.rounds));
    fact("lockword", &escape(&report.lockword));
    let command = if report.command.is_empty() {
        "a program of its own".to_owned()
    } else {
        // A line may break between two words, and not within one, at its dashes.
        let word = |word: &String| format!("<span>{}</span>", escape(&output::shell(word)));
        let words: Vec<String> = report.command.iter().map(word).collect();
        format!("<code>{}</code>", words.join(" "))
    };
    fact("Command", &command);
    let _ = writeln!(out, "</dl>");
    let cautions = cautions(report);
    if !cautions.is_empty() {
        let _ = writeln!(out, "<div class=\"warning\" role=\"note\"><strong>Warning</strong><ul>");
        for caution in cautions {
            let _ = writeln!(out, "<li>{}</li>", escape(&caution));
        }
        let _ = writeln!(out, "</ul></div>");
    }
}

/// The verdicts of all loads.
fn findings(out: &mut String, summaries: &[LoadSummary<'_>], ladders: &[Ladder<'_>]) {
    let _ = writeln!(out, "<h2>In words</h2>\n<ul class=\"findings\">");
    for ladder in ladders {
        let verdict = escape(&ladder.verdict().join("; "));
        let _ = writeln!(out, "<li><b>{}:</b> {verdict}.</li>", escape(&ladder.title()));
    }
    let is_step = |summary: &LoadSummary<'_>| ladders.iter().any(|ladder| ladder.contains(summary));
    let said = |summary: &&LoadSummary<'_>| !summary.verdict.is_empty() && !is_step(summary);
    for summary in summaries.iter().filter(said) {
        let _ = writeln!(out, "<li><b>{}</b><ul>", title(&summary.cell.load));
        for line in &summary.verdict {
            let _ = writeln!(out, "<li>{}</li>", escape(line));
        }
        let _ = writeln!(out, "</ul></li>");
    }
    let _ = writeln!(out, "</ul>");
}

/// An explanation of the columns and charts.
fn legend(out: &mut String, summaries: &[LoadSummary<'_>]) {
    let reference = reference(summaries);
    let _ = writeln!(
        out,
        "<details><summary>How to read the figures</summary>\n<dl class=\"terms\">\n\
         <dt>acq/s</dt><dd>Acquisitions a second, all threads together: the median of the rounds \
         and its 95 % interval. All figures but the waits are of the rounds that nothing disturbed, unless \
         fewer than {ROUNDS} are left. Vertical strokes in the charts are these intervals.</dd>\n\
         <dt>ratio</dt><dd>{} acquisitions a second over this lock's: the median of the rounds' ratios, in which \
         what disturbs a round cancels out, so it may differ from the quotient of the two medians. If its \
         interval holds 1, the two cannot be told apart. The locks in bold are the fastest.</dd>\n\
         <dt>fair</dt><dd>The share of all acquisitions that the luckier half of the threads got: \
         0.5 is fair, 1 leaves nothing to the others.</dd>\n\
         <dt>CPU</dt><dd>Processor time for an acquisition, all threads together: what waiters \
         spend on spinning is in it.</dd>\n\
         <dt>p50, p99, p99.9, longest</dt><dd>How long acquisitions waited: all rounds together, or medians of the rounds where it is against arrivals. \
         They were timed in slices of their own, since a clock takes longer than a short \
         section. Every wait contains one reading of the clock (20 to 30 ns). A wait marked \
         &gt;= is about as long as its slice, which may have cut it off. In the charts each mark is one of these four. \
         In a closed loop a thread that waits makes no further request, so that few waits are long; an open loop \
         (--rate) shows the waits of requests that come all the same.</dd>\n\
         <dt>p99 ratio</dt><dd>This lock's 99th percentile of the waits over {}, round by round.</dd>\n\
         </dl></details>",
        escape(&reference),
        escape(&reference)
    );
}

/// The title of a load, escaped.
fn title(load: &Load) -> String {
    escape(&format!("{}, {}", plan::describe_threads(load), plan::describe(load)))
}

/// The charts and tables of a ladder.
fn climb(out: &mut String, ladder: &Ladder<'_>, palette: &Palette) {
    let _ =
        writeln!(out, "<section>\n<h2>Waits against arrivals: {}</h2>", escape(&ladder.title()));
    palette.legend(out, ladder.locks().into_iter());
    let _ = writeln!(out, "<div class=\"charts\">");
    for chart in chart::against_arrivals(ladder, palette) {
        chart.render(out);
    }
    let _ = writeln!(out, "</div>");
    for lock in ladder.locks() {
        let mut table = HtmlTable::new(&HEADS);
        let knee = ladder.knee(lock);
        for (at, row) in ladder.rows(lock).into_iter().enumerate() {
            table.row(knee == Some(at), row.into_iter().map(Some));
        }
        let _ = writeln!(out, "<h3>{}</h3>", escape(lock));
        table.render(out, &format!("Waits of {lock} against arrivals, {}", ladder.title()));
    }
    let verdict = escape(&ladder.verdict().join("; "));
    let _ = writeln!(
        out,
        "<p class=\"small\">{verdict}. The row of the knee is emphasised.</p>\n</section>"
    );
}

/// Groups the loads that go into the same charts. Those of a ladder have charts of their own.
fn groups<'a>(summaries: &'a [LoadSummary<'a>], ladders: &[Ladder<'_>]) -> Vec<LoadGroup<'a>> {
    let mut groups: Vec<LoadGroup<'a>> = vec![];
    let is_step = |summary: &LoadSummary<'_>| ladders.iter().any(|ladder| ladder.contains(summary));
    for summary in summaries.iter().filter(|summary| !is_step(summary)) {
        let same_chart = |group: &&mut LoadGroup<'_>| {
            let mut load = group.summaries[0].cell.load.clone();
            load.threads = summary.cell.load.threads;
            load == summary.cell.load
        };
        match groups.iter_mut().find(same_chart) {
            Some(group) => group.summaries.push(summary),
            None => {
                let title = plan::describe(&summary.cell.load);
                groups.push(LoadGroup { title, summaries: vec![summary] });
            }
        }
    }
    for group in &mut groups {
        group.summaries.sort_by_key(|summary| summary.cell.load.threads);
    }
    groups
}

/// The charts and tables of a group.
fn section(out: &mut String, group: &LoadGroup<'_>, palette: &Palette) {
    let title = escape(&group.title);
    let _ = writeln!(out, "<section>\n<h2>{title}</h2>");
    let locks = group.summaries.iter().flat_map(|summary| &summary.locks).map(|lock| lock.lock);
    palette.legend(out, locks);
    let _ = writeln!(out, "<div class=\"charts\">");
    for chart in chart::charts(group, palette) {
        chart.render(out);
    }
    let _ = writeln!(out, "</div>");
    for summary in &group.summaries {
        figures(out, summary);
    }
    let _ = writeln!(out, "</section>");
}

/// A table with the figures of a load.
fn figures(out: &mut String, summary: &LoadSummary<'_>) {
    let mut table =
        HtmlTable::new(&[&WIDE_HEADS[..], &["waits", "p99 ratio", "95 % interval"]].concat());
    for lock in &summary.locks {
        let (rate, rates) = lock.rate.as_ref().map_or((None, None), |rate| {
            let (mid, interval) = output::rate_with_interval(rate);
            (Some(mid), Some(interval))
        });
        let ratio = lock.ratio.as_ref().filter(|_| summary.reference != Some(lock.lock));
        let ratios = ratio.map(output::interval);
        let wait = |ns: Option<u64>| {
            let least = |ns: u64| if clipped(&summary.cell.load, ns) { ">= " } else { "" };
            ns.map(|ns| format!("{}{}", least(ns), output::time(ns as f64)))
        };
        let waits = lock.waits;
        table.row(
            summary.fastest.contains(&lock.lock),
            [
                Some(lock.lock.to_owned()),
                rate,
                rates,
                ratio.map(|ratio| output::figure(ratio.mid)),
                ratios,
                lock.fairness.map(|fairness| format!("{fairness:.2}")),
                lock.cpu.map(output::time),
                wait(waits.map(|waits| waits.p50)),
                wait(waits.map(|waits| waits.p99)),
                wait(waits.map(|waits| waits.p999)),
                wait(waits.map(|waits| waits.max)),
                waits.map(|waits| waits.count.to_string()),
                lock.p99_ratio.as_ref().map(|ratio| output::figure(ratio.mid)),
                lock.p99_ratio.as_ref().map(output::interval),
            ],
        );
    }
    let title = plan::describe_threads(&summary.cell.load);
    let _ = writeln!(out, "<h3>{title}</h3>");
    table.render(out, &format!("Figures of {}", summary.cell.name));
    if !summary.verdict.is_empty() {
        let verdict = escape(&summary.verdict.join("; "));
        let _ = writeln!(out, "<p class=\"small\">{verdict}.</p>");
    }
}

/// Tables with the acquisitions a second of every slice.
fn rounds(out: &mut String, report: &ComparisonReport) {
    let _ = writeln!(out, "<section>\n<h2>Every round</h2>");
    let _ = writeln!(
        out,
        "<p class=\"small\">Acquisitions a second, round by round, and what disturbed a round, so that it does \
         not count (unless fewer than {ROUNDS} others are left).</p>"
    );
    for cell in &report.cells {
        let _ = writeln!(out, "<details><summary>{}</summary>", title(&cell.load));
        rounds_of(cell, &report.machine).render(out, &format!("Every round of {}", cell.name));
        let _ = writeln!(out, "</details>");
    }
    let _ = writeln!(out, "</section>");
}

/// The table of one load: a row for each round, a column for each lock, and one for what disturbed it.
fn rounds_of(cell: &CellReport, machine: &MachineInfo) -> HtmlTable {
    let mut heads = vec!["round"];
    heads.extend(cell.locks.iter().map(|lock| lock.lock.as_str()));
    heads.push("disturbed");
    let mut table = HtmlTable::new(&heads);
    let rates: Vec<Vec<f64>> = cell.locks.iter().map(summary::rates).collect();
    for (round, disturbed) in summary::disturbances(cell, machine).into_iter().enumerate() {
        let rate = |rates: &Vec<f64>| rates.get(round).map(|rate| format!("{rate:.0}"));
        let number = std::iter::once(Some((round + 1).to_string()));
        let disturbed = disturbed.map(|disturbance| disturbance.to_string());
        table.row(false, number.chain(rates.iter().map(rate)).chain([disturbed]));
    }
    table
}

/// An HTML table: the first column has names, the others have figures.
struct HtmlTable {
    heads: Vec<String>,
    rows: Vec<(bool, Vec<Option<String>>)>,
}

impl HtmlTable {
    /// A table with these column heads.
    fn new(heads: &[&str]) -> Self {
        HtmlTable { heads: heads.iter().map(|head| (*head).to_owned()).collect(), rows: vec![] }
    }

    /// Adds a row; `None` is shown as a dash. The best row is emphasised.
    fn row(&mut self, best: bool, cells: impl IntoIterator<Item = Option<String>>) {
        self.rows.push((best, cells.into_iter().collect()));
    }

    /// Appends the table, in a box that scrolls horizontally on a narrow screen.
    fn render(&self, out: &mut String, name: &str) {
        let name = escape(name);
        let _ = write!(
            out,
            "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{name}\">\
             <table>\n<thead><tr>"
        );
        for head in &self.heads {
            let _ = write!(out, "<th scope=\"col\">{}</th>", escape(head));
        }
        let _ = writeln!(out, "</tr></thead>\n<tbody>");
        for (best, cells) in &self.rows {
            out.push_str(if *best { "<tr class=\"best\">" } else { "<tr>" });
            for (column, cell) in cells.iter().enumerate() {
                let cell = cell.as_deref().map_or_else(|| "-".to_owned(), escape);
                let _ = match column {
                    0 => write!(out, "<th scope=\"row\">{cell}</th>"),
                    _ => write!(out, "<td>{cell}</td>"),
                };
            }
            let _ = writeln!(out, "</tr>");
        }
        let _ = writeln!(out, "</tbody></table></div>");
    }
}

/// Escapes text for use between tags and in a quoted attribute.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            other => out.push(other),
        }
    }
    out
}

/// The report as JSON for a `<script>` element. Only `<` could end the element, and in JSON it
/// occurs only in strings, where it can be escaped.
fn json(report: &ComparisonReport) -> String {
    let text = serde_json::to_string(report).unwrap_or_else(|_| "null".to_owned());
    text.replace('<', "\\u003c")
}

#[cfg(test)]
mod tests {
    use super::super::summary::sample::{cell, lock, report};
    use super::*;
    use lockword::contention::Arrivals;

    fn page_of(report: &ComparisonReport) -> String {
        render(report)
    }

    fn several() -> ComparisonReport {
        let locks = |rate| vec![lock("lockword", rate, 0.02), lock("std", rate / 2.0, 0.02)];
        report(vec![cell(1, locks(9e7)), cell(2, locks(2e7)), cell(8, locks(1e7))])
    }

    #[test]
    fn the_page_fetches_nothing() {
        let page = page_of(&several());
        for fetch in ["src=", "href=", "url(", "@import", "<link", "<iframe", "<img"] {
            assert!(!page.contains(fetch), "{fetch}");
        }
        // The name of the SVG namespace is no address that anything is fetched from.
        assert_eq!(page.matches("://").count(), page.matches("http://www.w3.org/2000/svg").count());
    }

    #[test]
    fn every_chart_has_a_caption_and_a_label() {
        let page = page_of(&several());
        // Throughput, fairness, CPU; and the waits of each of three loads.
        assert_eq!(page.matches("<svg class=\"chart\" role=\"img\" aria-label=").count(), 6);
        assert_eq!(page.matches("<figcaption>").count(), 6);
    }

    #[test]
    fn an_open_loop_has_no_best_row_and_a_cut_wait_is_marked() {
        let mut report = several();
        assert!(page_of(&report).contains("<tr class=\"best\">"));
        for cell in &mut report.cells {
            cell.load.arrivals = Arrivals::Open { per_second: 9e7 };
            cell.locks[0].waits.as_mut().unwrap().max = 145_000_000;
        }
        let page = page_of(&report);
        assert!(!page.contains("<tr class=\"best\">"));
        assert!(page.contains("compare the waits") && page.contains("did not keep up"));
        assert!(page.contains("&gt;= 145 ms") && page.contains("use a longer --slice"));
    }

    #[test]
    fn disturbed_rounds_are_told_and_marked() {
        let mut report = several();
        assert!(!page_of(&report).contains("other processes ran"));
        report.cells[2].locks[1].samples[4].conditions.others_running = Some(1);
        let page = page_of(&report);
        assert!(
            page.contains("1 of 9 rounds was disturbed (other processes ran) and does not count")
        );
        assert_eq!(page.matches("<td>other processes ran</td></tr>").count(), 1);
        let row = page.lines().find(|line| line.contains("<td>other processes ran</td>")).unwrap();
        assert!(row.starts_with("<tr><th scope=\"row\">5</th>"), "{row}");
    }

    #[test]
    fn a_ladder_has_charts_of_waits_and_marks_the_knee() {
        let page = page_of(&super::super::ladder::sample::ladder());
        assert_eq!(page.matches("<figcaption>").count(), 3);
        assert!(page.contains("<figcaption>p99 of the waits</figcaption>"), "{page}");
        let (_, knee) = page.split_once("<tr class=\"best\">").unwrap();
        assert!(knee.starts_with("<th scope=\"row\">800 k (80 %)</th>"), "{knee}");
        assert!(page.contains("lockword has its knee at 800 k (80 %)"));
    }

    #[test]
    fn text_of_the_report_is_escaped() {
        let evil = "</script><script>alert(1)</script>\"'<b>&";
        let mut report = several();
        report.machine.cpu = Some(evil.to_owned());
        report.machine.system = evil.to_owned();
        report.machine.governor = Some(evil.to_owned());
        report.lockword = evil.to_owned();
        report.command = vec![evil.to_owned()];
        report.warnings = vec![evil.to_owned()];
        for cell in &mut report.cells {
            cell.name += evil;
            for lock in &mut cell.locks {
                lock.lock += evil;
            }
        }
        let page = page_of(&report);
        assert_eq!(page.matches("<script").count(), 1, "the JSON's own");
        assert_eq!(page.matches("</script").count(), 1, "the JSON's own");
        assert!(!page.contains("<b>&") && !page.contains("\"'<"));
    }

    #[test]
    fn the_page_contains_the_report_as_json() {
        let mut report = several();
        report.warnings = vec!["a < b && c > d </script> \u{2028}".to_owned()];
        let page = page_of(&report);
        let (_, rest) = page.split_once("id=\"report\">").unwrap();
        let (json, _) = rest.split_once("</script>").unwrap();
        assert_eq!(serde_json::from_str::<ComparisonReport>(json).unwrap(), report);
    }

    #[test]
    fn a_report_without_figures_gives_a_page() {
        let mut report = several();
        report.cut_short = true;
        for lock in report.cells.iter_mut().flat_map(|cell| &mut cell.locks) {
            lock.samples.clear();
            lock.waits = None;
        }
        assert!(page_of(&report).contains("cut short"));
        report.cells.clear();
        assert!(page_of(&report).ends_with("</html>\n"));
    }
}
