//! The page: a self-contained HTML file of a report, for a browser or for printing, in the style of that of
//! `lockword bench`.

use super::report::{PlaceReport, Report};
use super::text::{HEADS, acquisitions, holder, some, time};
use core::fmt::Write as _;

impl Report {
    /// The report as a page for a browser: one HTML file that fetches nothing. The report is in it as JSON too, in the
    /// element `report`.
    #[must_use]
    pub fn html(&self) -> String {
        let mut out = String::from("<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n");
        let _ = write!(
            out,
            "<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <meta name=\"color-scheme\" content=\"light dark\">\n\
             <meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; style-src 'unsafe-inline'\">\n\
             <title>Contention profile</title>\n<style>\n{}{}</style>\n</head>\n<body>\n<main>\n\
             <h1>Contention profile</h1>\n",
            include_str!("../page.css"),
            include_str!("page.css"),
        );
        self.head(&mut out);
        if !self.places.is_empty() {
            self.table(&mut out);
        }
        if self.places.iter().any(|place| !place.behind.is_empty()) {
            self.holders(&mut out);
        }
        // Only `<` could end the element, and in JSON it occurs only in strings, where it can be escaped.
        let json = self.json().replace('<', "\\u003c");
        let _ = write!(
            out,
            "<p class=\"small\">The report itself is in this page too, as JSON, in the element \
             <code>report</code>.</p>\n\
             <script type=\"application/json\" id=\"report\">\n{json}\n</script>\n\
             </main>\n</body>\n</html>\n"
        );
        out
    }

    /// What run this is, and what is missing.
    fn head(&self, out: &mut String) {
        let _ = writeln!(out, "<p>{}</p>\n<dl class=\"facts\">", escape(&self.summary()));
        let sum = |figure: fn(&PlaceReport) -> u64| self.places.iter().map(figure).sum::<u64>();
        let facts = [
            ("Places", self.places.len().to_string()),
            ("Acquisitions, about", sum(|place| place.acquisitions).to_string()),
            ("Contended", sum(|place| place.contended).to_string()),
            ("Timeouts", sum(|place| place.timeouts).to_string()),
            ("Total wait, all threads", time(self.total_wait())),
            ("lockword", self.lockword.clone()),
        ];
        for (name, value) in facts {
            let _ = writeln!(out, "<div><dt>{name}</dt><dd>{}</dd></div>", escape(&value));
        }
        let _ = writeln!(out, "</dl>");
        if let Some(dropped) = self.dropped_text() {
            let dropped = escape(&dropped);
            let _ = writeln!(out, "<div class=\"warning\" role=\"note\">{dropped}</div>");
        }
        let _ = writeln!(
            out,
            "<details><summary>How to read the figures</summary>\n<dl class=\"terms\">\n\
             <dt>place</dt><dd>Where the lock is acquired, as file:line:column.</dd>\n\
             <dt>contended</dt><dd>The lock was not free at once. The share is that of the acquisitions, if there are \
             enough to estimate it.</dd>\n\
             <dt>acquisitions</dt><dd>The contended ones are all counted, the others estimated from the sample.</dd>\n\
             <dt>timeouts</dt><dd>Waits that ended without the lock.</dd>\n\
             <dt>total wait, wait p50, wait p99, longest</dt><dd>How long the contended acquisitions and the timeouts \
             waited. The bar is the share of the waits of all places.</dd>\n\
             <dt>hold p50, hold p99</dt><dd>How long the lock was held, in the sample.</dd>\n\
             <dt>behind</dt><dd>Where the lock had been acquired by who held it when the wait began. The whole wait \
             counts there, also if others held the lock before it ended. Of readers it is where the last one known came \
             in.</dd>\n</dl></details>"
        );
    }

    fn total_wait(&self) -> u64 {
        self.places.iter().map(|place| place.waits.total_ns).sum()
    }

    /// A row for each place.
    fn table(&self, out: &mut String) {
        let _ = write!(out, "<h2>Places</h2>\n{}", table_start("Places", "places", &HEADS));
        for place in &self.places {
            // Of fewer, ten samples, it would say nothing.
            let share = match place.acquisitions {
                many if many >= 10 * u64::from(self.sampling_interval) => {
                    format!(" ({:.1} %)", place.contended as f64 / many as f64 * 100.0)
                }
                _ => String::new(),
            };
            let (waits, holds) = (&place.waits, &place.holds);
            let _ = write!(
                out,
                "<tr>{}<td>{}</td>{}<td>{}{share}</td><td>{}</td>",
                row_head(&place.place.to_string()),
                place.kind,
                bar(&some(waits, waits.total_ns), waits.total_ns, self.total_wait()),
                place.contended,
                acquisitions(place),
            );
            let cells = [
                some(waits, waits.p50_ns),
                some(waits, waits.p99_ns),
                some(waits, waits.max_ns),
                place.timeouts.to_string(),
                some(holds, holds.p50_ns),
                some(holds, holds.p99_ns),
            ];
            let cells = cells.map(|cell| format!("<td>{cell}</td>"));
            let _ = writeln!(out, "{}</tr>", cells.concat());
        }
        out.push_str("</tbody></table></div>\n");
    }

    /// For each place that has waited: behind whom.
    fn holders(&self, out: &mut String) {
        let _ = writeln!(out, "<h2>Behind whom they waited</h2>");
        for place in self.places.iter().filter(|place| !place.behind.is_empty()) {
            let name = escape(&place.place.to_string());
            let heads = ["behind", "waits", "total wait"];
            let _ = writeln!(out, "<h3>{name}, {}</h3>", place.kind);
            out.push_str(&table_start(&format!("Behind whom {name} waited"), "holders", &heads));
            for behind in &place.behind {
                let _ = writeln!(
                    out,
                    "<tr>{}<td>{}</td>{}</tr>",
                    row_head(&holder(behind)),
                    behind.waits,
                    bar(&time(behind.total_ns), behind.total_ns, place.waits.total_ns),
                );
            }
            out.push_str("</tbody></table></div>\n");
        }
    }
}

/// The first cell of a row, with a place. A line may break at its slashes.
fn row_head(place: &str) -> String {
    format!("<th scope=\"row\">{}</th>", escape(place).replace('/', "/<wbr>"))
}

/// A cell with a time and a bar that shows its share.
fn bar(text: &str, ns: u64, of_ns: u64) -> String {
    let share = ns as f64 / of_ns.max(1) as f64 * 100.0;
    let bar = format!("<i style=\"width:{share:.1}%\"></i>");
    format!("<td class=\"share\">{text}{}</td>", if ns == 0 { "" } else { &bar })
}

/// A table up to its body, in a box that scrolls horizontally on a narrow screen. `name` is escaped already.
fn table_start(name: &str, class: &str, heads: &[&str]) -> String {
    let heads: String = heads.iter().map(|head| format!("<th scope=\"col\">{head}</th>")).collect();
    format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{name}\">\
         <table class=\"{class}\">\n<thead><tr>{heads}</tr></thead>\n<tbody>\n"
    )
}

/// Escapes text for use between tags and in a quoted attribute.
fn escape(text: &str) -> String {
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

#[cfg(test)]
mod tests {
    use super::super::report::{Dropped, sample};
    use super::*;

    #[test]
    fn the_page_fetches_nothing() {
        let page = sample().html();
        for fetch in ["src=", "href=", "url(", "@import", "<link", "<iframe", "<img", "://"] {
            assert!(!page.contains(fetch), "{fetch}");
        }
    }

    #[test]
    fn text_of_the_report_is_escaped() {
        let evil = "</script><script>alert(1)</script>\"'<b>&";
        let mut report = sample();
        report.lockword = evil.to_owned();
        for place in &mut report.places {
            place.place.file = evil.to_owned();
            for holder in place.behind.iter_mut().filter_map(|behind| behind.place.as_mut()) {
                holder.file = evil.to_owned();
            }
        }
        let page = report.html();
        assert_eq!(page.matches("<script").count(), 1, "the JSON's own");
        assert_eq!(page.matches("</script").count(), 1, "the JSON's own");
        assert!(!page.contains("<b>&") && !page.contains("\"'<"));
        assert!(page.contains("&lt;/<wbr>script&gt;&lt;script&gt;alert(1)"));
    }

    #[test]
    fn the_page_contains_the_report() {
        let mut report = sample();
        report.places[0].place.file = "a < b && c > d </script> \u{2028}".to_owned();
        report.dropped = Dropped { acquisitions: 122, waits: 3, wait_ns: 4_000 };
        let page = report.html();
        let (_, rest) = page.split_once("id=\"report\">").unwrap();
        let (json, _) = rest.split_once("</script>").unwrap();
        assert_eq!(serde_json::from_str::<Report>(json).unwrap(), report);
        assert!(page.contains("role=\"note\">There was no room"));
        assert!(page.contains("<td>20 (1.6 %)</td>"));
        // One for the places, and one for the holders of the one that has waited.
        assert_eq!(page.matches("<table").count(), 2);
        report.places[0].acquisitions = 609;
        assert!(
            report.html().contains("<td>20</td><td>~609</td>"),
            "no share of an estimate so small"
        );
        assert_eq!(page.matches("<h2>").count(), 2);
        report.places[0].behind.clear();
        assert_eq!(report.html().matches("<h2>").count(), 1, "nobody has waited");
        report.places.clear();
        assert!(report.html().ends_with("</html>\n"));
    }
}
