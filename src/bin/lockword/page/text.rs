//! HTML as text: escaping, and JSON in a page.

use lockword::contention::Report;

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
