//! Text output: aligned tables, figures, and the verdict on each target.

use lockword::contention::statistics::Median;

/// An aligned table: the first columns are text, flush left; the others are figures, flush right.
pub struct TextTable {
    text_columns: usize,
    rows: Vec<Vec<String>>,
}

impl TextTable {
    /// A table with these column heads, of which the first `text_columns` hold text.
    pub fn new(text_columns: usize, heads: &[&str]) -> Self {
        TextTable { text_columns, rows: vec![heads.iter().map(|h| (*h).to_owned()).collect()] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: Vec<String>) {
        assert_eq!(cells.len(), self.rows[0].len(), "a cell for every head");
        self.rows.push(cells);
    }

    /// Adds an empty line.
    pub fn gap(&mut self) {
        self.rows.push(Vec::new());
    }

    /// Prints the table.
    pub fn print(&self) {
        let columns = self.rows[0].len();
        let width = |column: usize| {
            self.rows.iter().filter_map(|r| r.get(column)).map(|c| c.chars().count()).max()
        };
        let widths: Vec<usize> = (0..columns).map(|c| width(c).unwrap_or(0)).collect();
        for (number, row) in self.rows.iter().enumerate() {
            let mut line = String::new();
            for (column, cell) in row.iter().enumerate() {
                let width = widths[column];
                if column > 0 {
                    line.push_str("  ");
                }
                if column < self.text_columns {
                    line.push_str(&format!("{cell:<width$}"));
                } else {
                    line.push_str(&format!("{cell:>width$}"));
                }
            }
            println!("{}", line.trim_end());
            if number == 0 {
                println!("{}", "-".repeat(widths.iter().sum::<usize>() + 2 * (columns - 1)));
            }
        }
        println!();
    }
}

/// A figure with about three significant digits.
pub fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 100.0 => format!("{value:.0}"),
        v if v >= 10.0 => format!("{value:.1}"),
        v if v >= 0.1 || v == 0.0 => format!("{value:.2}"),
        _ => format!("{value:.4}"),
    }
}

/// The confidence interval of a median: `[low, high]`.
pub fn interval(median: &Median) -> String {
    format!("[{}, {}]", figure(median.low), figure(median.high))
}

/// A ratio with its confidence interval.
pub fn ratio(median: &Median) -> String {
    format!("{:.2} [{:.2}, {:.2}]", median.mid, median.low, median.high)
}

/// A duration in nanoseconds, in a fitting unit.
pub fn time(ns: f64) -> String {
    match ns {
        v if v >= 1e6 => format!("{} ms", figure(v / 1e6)),
        v if v >= 1e3 => format!("{} us", figure(v / 1e3)),
        v => format!("{} ns", figure(v)),
    }
}

/// Prints whether a target is met. `value` is `None` if a lock that it needs did not take part.
pub fn verdict(quick: bool, target: &str, value: Option<f64>, met: impl Fn(f64) -> bool) {
    let word = match value {
        None => "not measured",
        Some(_) if quick => "quick mode: means nothing",
        Some(v) if met(v) => "met",
        Some(_) => "NOT MET",
    };
    let value = value.map_or_else(|| "-".to_owned(), |v| format!("{v:.3}"));
    println!("  {target:<78} {value:>8}  {word}");
}
