//! HTML as text: escaping, tables, JSON.

use lockword::contention::Report;
use std::fmt::Write as _;

/// Text that may stand between tags and in a quoted attribute.
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

/// The report as JSON that may stand in a `<script>`: only `<` could end that, and JSON has it
/// nowhere but in strings.
pub fn json(report: &Report) -> String {
    let text = serde_json::to_string(report).unwrap_or_else(|_| "null".to_owned());
    text.replace('<', "\\u003c")
}

/// A table: names to the left, figures to the right.
pub struct Table {
    heads: Vec<String>,
    rows: Vec<(bool, Vec<Option<String>>)>,
}

impl Table {
    /// A table with these column heads.
    pub fn new(heads: &[&str]) -> Self {
        Table { heads: heads.iter().map(|head| (*head).to_owned()).collect(), rows: vec![] }
    }

    /// Adds a row; a `None` is a dash. The best row stands out.
    pub fn row(&mut self, best: bool, cells: impl IntoIterator<Item = Option<String>>) {
        self.rows.push((best, cells.into_iter().collect()));
    }

    /// Writes it, in a box that scrolls where the screen is narrow.
    pub fn render(&self, out: &mut String, name: &str) {
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
