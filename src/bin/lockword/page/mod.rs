//! The page: one HTML file that needs nothing else, for a browser or to be printed.
//!
//! - `text.rs` escapes what the report brings; `tables.rs` is the figures;
//! - `palette.rs` gives every lock a colour, a dash and a mark, `style.css` is the rest;
//! - `chart.rs` draws a chart, `charts.rs` says which there are.

mod chart;
mod charts;
mod palette;
mod tables;
mod text;

use crate::summary::{Block, blocks, cautions};
use crate::{preset, units};
use lockword::contention::{Load, Report};
use palette::Palette;
use std::fmt::Write as _;
use text::{escape, json};

/// The loads that differ in nothing but the number of threads.
pub struct Family<'a> {
    title: String,
    blocks: Vec<&'a Block<'a>>,
}

/// The page of a report.
pub fn render(report: &Report) -> String {
    let blocks = blocks(report);
    let locks = blocks.iter().flat_map(|block| &block.lines).map(|line| line.lock);
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
        units::date(report.started),
        include_str!("style.css"),
        palette.css()
    );
    head(&mut out, report);
    findings(&mut out, &blocks);
    legend(&mut out, &blocks);
    for family in families(&blocks) {
        section(&mut out, &family, &palette);
    }
    tables::rounds(&mut out, report);
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

fn head(out: &mut String, report: &Report) {
    let _ = writeln!(out, "<h1>Locks under contention</h1>\n<dl class=\"facts\">");
    let machine = &report.machine;
    let mut fact = |name: &str, value: &str| {
        let _ = writeln!(out, "<div><dt>{name}</dt><dd>{value}</dd></div>");
    };
    fact("Processor", &escape(machine.cpu.as_deref().unwrap_or("unknown")));
    fact("Processors", &machine.processors.to_string());
    fact("System", &escape(&format!("{}, {}", machine.system, machine.architecture)));
    fact("Governor", &escape(machine.governor.as_deref().unwrap_or("not told by the system")));
    if let Some(load) = machine.load_average {
        fact("Load average before", &units::figure(load));
    }
    fact("Unit of work", &units::time(machine.unit_ns));
    fact("Measured", &format!("{}, {} rounds", units::date(report.started), report.rounds));
    fact("lockword", &escape(&report.lockword));
    let command = if report.command.is_empty() {
        "a program of its own".to_owned()
    } else {
        // A line may end between two words, and not at the dashes in front of one.
        let word = |word: &String| format!("<span>{}</span>", escape(&units::shell(word)));
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

/// The verdicts, before any figure.
fn findings(out: &mut String, blocks: &[Block<'_>]) {
    let _ = writeln!(out, "<h2>In words</h2>\n<ul class=\"findings\">");
    for block in blocks.iter().filter(|block| !block.verdict.is_empty()) {
        let verdict = escape(&block.verdict.join("; "));
        let _ = writeln!(out, "<li><b>{}:</b> {verdict}.</li>", title(&block.cell.load));
    }
    let _ = writeln!(out, "</ul>");
}

/// What the columns and the charts show.
fn legend(out: &mut String, blocks: &[Block<'_>]) {
    let reference = blocks.iter().find_map(|block| block.reference).unwrap_or("lockword");
    let _ = writeln!(
        out,
        "<details><summary>How to read the figures</summary>\n<dl class=\"terms\">\n\
         <dt>acq/s</dt><dd>Acquisitions a second, all threads together: the median of the rounds \
         and its 95 % interval. Vertical strokes in the charts are these intervals.</dd>\n\
         <dt>ratio</dt><dd>{}'s acquisitions a second over this lock's, round by round. If its \
         interval holds 1, the two cannot be told apart.</dd>\n\
         <dt>fair</dt><dd>The share of all acquisitions that the luckier half of the threads got: \
         0.5 is fair, 1 leaves nothing to the others.</dd>\n\
         <dt>CPU</dt><dd>Processor time for an acquisition, all threads together: what waiters \
         spend on spinning is in it.</dd>\n\
         <dt>p50, p99, p99.9, longest</dt><dd>How long acquisitions waited, all rounds together. \
         They were timed in slices of their own, since a clock takes longer than a short \
         section. Every wait contains one reading of the clock (20 to 30 ns). A wait marked \
         &gt;= is about as long as its slice, which may have cut it off. In the charts each mark is one of these four.</dd>\n</dl></details>",
        escape(reference)
    );
}

fn title(load: &Load) -> String {
    escape(&format!("{}, {}", preset::threads(load), preset::describe(load)))
}

/// The blocks, those together that go into one chart.
fn families<'a>(blocks: &'a [Block<'a>]) -> Vec<Family<'a>> {
    let mut families: Vec<Family<'a>> = vec![];
    for block in blocks {
        let alike = |family: &&mut Family<'_>| {
            let mut load = family.blocks[0].cell.load.clone();
            load.threads = block.cell.load.threads;
            load == block.cell.load
        };
        match families.iter_mut().find(alike) {
            Some(family) => family.blocks.push(block),
            None => {
                let title = preset::describe(&block.cell.load);
                families.push(Family { title, blocks: vec![block] });
            }
        }
    }
    for family in &mut families {
        family.blocks.sort_by_key(|block| block.cell.load.threads);
    }
    families
}

fn section(out: &mut String, family: &Family<'_>, palette: &Palette) {
    let title = escape(&family.title);
    let _ = writeln!(out, "<section>\n<h2>{title}</h2>");
    let locks = family.blocks.iter().flat_map(|block| &block.lines).map(|line| line.lock);
    palette.legend(out, locks);
    let _ = writeln!(out, "<div class=\"charts\">");
    for chart in charts::of(family, palette) {
        chart.render(out);
    }
    let _ = writeln!(out, "</div>");
    for block in &family.blocks {
        tables::figures(out, block);
    }
    let _ = writeln!(out, "</section>");
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sample::{cell, lock, report};
    use lockword::contention::Arrivals;

    fn page_of(report: &Report) -> String {
        render(report)
    }

    fn several() -> Report {
        let locks = |rate| vec![lock("lockword", rate, 0.02), lock("std", rate / 2.0, 0.02)];
        report(vec![cell(1, locks(9e7)), cell(2, locks(2e7)), cell(8, locks(1e7))])
    }

    #[test]
    fn it_fetches_nothing() {
        let page = page_of(&several());
        for fetch in ["src=", "href=", "url(", "@import", "<link", "<iframe", "<img"] {
            assert!(!page.contains(fetch), "{fetch}");
        }
        // The name of the SVG namespace is no address that anything is fetched from.
        assert_eq!(page.matches("://").count(), page.matches("http://www.w3.org/2000/svg").count());
    }

    #[test]
    fn every_chart_is_there_and_has_a_name() {
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
            cell.locks[0].waits.as_mut().unwrap().max = 95_000_000;
        }
        let page = page_of(&report);
        assert!(!page.contains("<tr class=\"best\">"));
        assert!(page.contains("compare the waits") && page.contains("did not keep up"));
        assert!(page.contains("&gt;= 95.0 ms") && page.contains("use a longer --slice"));
    }

    #[test]
    fn what_the_report_brings_cannot_break_out() {
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
    fn the_report_is_in_the_page() {
        let mut report = several();
        report.warnings = vec!["a < b && c > d </script> \u{2028}".to_owned()];
        let page = page_of(&report);
        let (_, rest) = page.split_once("id=\"report\">").unwrap();
        let (json, _) = rest.split_once("</script>").unwrap();
        assert_eq!(serde_json::from_str::<Report>(json).unwrap(), report);
    }

    #[test]
    fn a_report_without_figures_makes_a_page() {
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
