//! The figures of the page: a table a load, and every round.

use super::text::escape;
use super::title;
use crate::summary::{self, Block, clipped};
use crate::table::WIDE_HEADS;
use crate::{preset, units};
use lockword::contention::{CellReport, Report};
use std::fmt::Write as _;

/// The figures of a block, as a table.
pub fn figures(out: &mut String, block: &Block<'_>) {
    let mut table = Table::new(&[&WIDE_HEADS[..], &["waits"]].concat());
    for line in &block.lines {
        let (rate, rates) = line.rate.as_ref().map_or((None, None), |rate| {
            let (mid, interval) = units::rate_with_interval(rate);
            (Some(mid), Some(interval))
        });
        let ratio = line.ratio.as_ref().filter(|_| block.reference != Some(line.lock));
        let ratios = ratio.map(units::interval);
        let wait = |ns: Option<u64>| {
            let least = |ns: u64| if clipped(&block.cell.load, ns) { ">= " } else { "" };
            ns.map(|ns| format!("{}{}", least(ns), units::time(ns as f64)))
        };
        let waits = line.waits;
        table.row(
            block.fastest.contains(&line.lock),
            [
                Some(line.lock.to_owned()),
                rate,
                rates,
                ratio.map(|ratio| units::figure(ratio.mid)),
                ratios,
                line.dice.map(|dice| format!("{dice:.2}")),
                line.cpu.map(units::time),
                wait(waits.map(|waits| waits.p50)),
                wait(waits.map(|waits| waits.p99)),
                wait(waits.map(|waits| waits.p999)),
                wait(waits.map(|waits| waits.max)),
                waits.map(|waits| waits.count.to_string()),
            ],
        );
    }
    let title = preset::threads(&block.cell.load);
    let _ = writeln!(out, "<h3>{title}</h3>");
    table.render(out, &format!("Figures of {}", block.cell.name));
    if !block.verdict.is_empty() {
        let verdict = escape(&block.verdict.join("; "));
        let _ = writeln!(out, "<p class=\"small\">{verdict}.</p>");
    }
}

/// Every slice, for those who reckon for themselves.
pub fn rounds(out: &mut String, report: &Report) {
    let _ = writeln!(out, "<section>\n<h2>Every round</h2>");
    let _ = writeln!(out, "<p class=\"small\">Acquisitions a second, round by round.</p>");
    for cell in &report.cells {
        let _ = writeln!(out, "<details><summary>{}</summary>", title(&cell.load));
        rounds_of(cell).render(out, &format!("Every round of {}", cell.name));
        let _ = writeln!(out, "</details>");
    }
    let _ = writeln!(out, "</section>");
}

fn rounds_of(cell: &CellReport) -> Table {
    let mut heads = vec!["round"];
    heads.extend(cell.locks.iter().map(|lock| lock.lock.as_str()));
    let mut table = Table::new(&heads);
    let rates: Vec<Vec<f64>> = cell.locks.iter().map(summary::rates).collect();
    for round in 0..rates.iter().map(Vec::len).max().unwrap_or(0) {
        let rate = |rates: &Vec<f64>| rates.get(round).map(|rate| format!("{rate:.0}"));
        table.row(
            false,
            std::iter::once(Some((round + 1).to_string())).chain(rates.iter().map(rate)),
        );
    }
    table
}

/// A table: names to the left, figures to the right.
struct Table {
    heads: Vec<String>,
    rows: Vec<(bool, Vec<Option<String>>)>,
}

impl Table {
    /// A table with these column heads.
    fn new(heads: &[&str]) -> Self {
        Table { heads: heads.iter().map(|head| (*head).to_owned()).collect(), rows: vec![] }
    }

    /// Adds a row; a `None` is a dash. The best row's name and first figure stand out.
    fn row(&mut self, best: bool, cells: impl IntoIterator<Item = Option<String>>) {
        self.rows.push((best, cells.into_iter().collect()));
    }

    /// Writes it, in a box that scrolls where the screen is narrow.
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
