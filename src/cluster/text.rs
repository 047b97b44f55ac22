//! Text that other nodes have written, made fit to be shown.

/// The longest label that is shown, in bytes. A node writes no longer one.
const MAX_LABEL: usize = 64;

/// A label without what a terminal or a log would act on, and cut after 64 bytes.
pub(crate) fn shown(label: &str) -> String {
    shown_within(label, MAX_LABEL)
}

/// The text without what a terminal or a log would act on, and cut after `longest` bytes.
///
/// A label comes from the engine, where others may have written it. Control characters could move a
/// cursor or begin a line in a log; a mark of the direction of writing could disguise what follows it.
pub(crate) fn shown_within(text: &str, longest: usize) -> String {
    let mut shown = String::new();
    for c in text.chars().filter(|c| !is_unfit(*c)) {
        if shown.len() + c.len_utf8() > longest {
            shown.push('\u{2026}');
            break;
        }
        shown.push(c);
    }
    shown
}

/// Control characters, line and paragraph separators, and marks of the direction of writing.
fn is_unfit(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}')
        || matches!(c, '\u{2060}'..='\u{206f}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::{MAX_LABEL, shown};

    #[test]
    fn a_usual_label_stays_as_it_is() {
        for label in ["web-3/indexer[311]", "", "l\u{e4}bel \"a\"", &"x".repeat(MAX_LABEL)] {
            assert_eq!(shown(label), label);
        }
    }

    #[test]
    fn control_characters_are_left_out_and_the_rest_is_cut() {
        assert_eq!(shown("a\x1b[31m\r\nb\u{202e}c\u{85}\0"), "a[31mbc");
        assert_eq!(shown(&"x".repeat(1 << 20)), "x".repeat(MAX_LABEL) + "\u{2026}");
        // Characters are cut whole.
        let long = shown(&format!("x{}", "\u{e4}".repeat(100)));
        assert_eq!(long, format!("x{}\u{2026}", "\u{e4}".repeat(31)));
    }
}
