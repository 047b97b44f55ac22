//! What the program prints: text on the terminal, and figures with three significant digits and a
//! fitting unit.
//!
//! Colours only reach a terminal that wants them: anstream removes them from what goes to a file or
//! a pipe, and where `NO_COLOR` or `TERM=dumb` is set. A reader that has closed its end of a pipe
//! (`| head`) is no error, since the run has done its work; a full device is one.

use crate::{CliError, exit};
use lockword::contention::statistics::Median;
use std::io::{self, ErrorKind, IsTerminal as _, Write as _};
use std::time::{SystemTime, UNIX_EPOCH};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Prints to standard output. A closed pipe is no error.
pub fn print(text: &str) -> Result<(), CliError> {
    print_live(text).map(|_| ())
}

/// As [`print`]. Returns false if the reader has closed its end of the pipe, for output without an end.
pub fn print_live(text: &str) -> Result<bool, CliError> {
    let mut out = anstream::stdout().lock();
    is_read(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
}

/// Waits until the reader has closed its end of the pipe, which a write alone would show, and only when there
/// is something to write. Without end if standard output is a file.
pub async fn reader_has_gone() {
    #[cfg(unix)]
    {
        use rustix::event::{PollFd, PollFlags, poll};
        let gone = std::sync::Arc::new(tokio::sync::Notify::new());
        let told = gone.clone();
        // A thread: not every system's event queue tells of the end of a reader. It stays until the program ends.
        let polls = std::thread::Builder::new().name("lockword-stdout".into()).spawn(move || {
            let out = io::stdout();
            let mut ends = [PollFd::new(&out, PollFlags::empty())];
            loop {
                let polled = poll(&mut ends, None);
                let closed = PollFlags::ERR | PollFlags::HUP;
                match polled {
                    Ok(_) if ends[0].revents().intersects(closed) => break told.notify_one(),
                    Err(rustix::io::Errno::INTR) => {}
                    // It cannot be polled.
                    Ok(_) | Err(_) => break,
                }
            }
        });
        if polls.is_ok() {
            gone.notified().await;
            return;
        }
    }
    std::future::pending().await
}

/// Prints these bytes to standard output as they are, escape characters too. A closed pipe is no error.
pub fn print_raw(bytes: &[u8]) -> Result<(), CliError> {
    let mut out = io::stdout().lock();
    is_read(out.write_all(bytes).and_then(|()| out.flush())).map(|_| ())
}

/// Whether somebody reads what was written.
fn is_read(written: io::Result<()>) -> Result<bool, CliError> {
    match written {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(error) => {
            let why = format!("cannot write to standard output: {error}");
            Err(CliError::with(exit::CANNOT_WRITE, why))
        }
    }
}

/// A line of JSON. What [`printable`] would replace is escaped, so that it is safe on a terminal and is
/// read as it was.
pub fn json_line(value: &serde_json::Value) -> String {
    let mut line = String::new();
    for c in value.to_string().chars() {
        // Such a character is only in a string: JSON itself is of others.
        if is_unfit(c) {
            let mut units = [0; 2];
            line.extend(c.encode_utf16(&mut units).iter().map(|unit| format!("\\u{unit:04x}")));
        } else {
            line.push(c);
        }
    }
    line + "\n"
}

/// Text in exactly so many columns of a terminal: cut, with a mark at its end, or filled up with blanks.
pub fn fit(text: &str, width: usize) -> String {
    let mut columns = text.width();
    let mut text = text.to_owned();
    if columns > width {
        while columns >= width {
            let Some(last) = text.pop() else { break };
            columns -= last.width().unwrap_or(0);
        }
        text.push('\u{2026}');
        columns += 1;
    }
    text + &" ".repeat(width.saturating_sub(columns))
}

/// Text in lines of at most so many columns, broken between words; the second line and those after it begin with
/// `indent`. A word that is longer than a line stays whole.
pub fn wrap(text: &str, width: usize, indent: &str) -> String {
    let words = text.trim_start_matches(' ');
    let mut out = text[..text.len() - words.len()].to_owned();
    let mut column = out.width();
    for (number, word) in words.split(' ').enumerate() {
        if number > 0 && column + 1 + word.width() > width {
            out.push('\n');
            out.push_str(indent);
            column = indent.width();
        } else if number > 0 {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += word.width();
    }
    out
}

/// Prints a line to standard error. Errors are ignored.
pub fn print_error(line: &str) {
    let _ = writeln!(anstream::stderr().lock(), "{line}");
}

/// The number of columns of the terminal on standard output; [`DEFAULT_WIDTH`] if it is none, or has no size.
pub fn terminal_width() -> usize {
    let size = terminal_size::terminal_size_of(io::stdout());
    size.map_or(DEFAULT_WIDTH, |(width, _)| usize::from(width.0))
}

/// Texts each of which takes the place of the one before it on a terminal. Where there is none, or one that cannot
/// do that, they come one after the other.
pub struct Screen {
    is_terminal: bool,
    is_begun: bool,
}

impl Screen {
    pub fn new() -> Self {
        // A console of Windows has to be told to do that.
        let is_fit = cfg!(unix) && std::env::var_os("TERM").is_some_and(|name| name != "dumb");
        Self { is_terminal: io::stdout().is_terminal() && is_fit, is_begun: false }
    }

    /// How many columns and lines there is room for, but for the line of the cursor; `None` if for any number.
    pub fn size(&self) -> Option<(usize, usize)> {
        let (width, height) =
            terminal_size::terminal_size_of(io::stdout()).filter(|_| self.is_terminal)?;
        Some((usize::from(width.0), usize::from(height.0).saturating_sub(1).max(1)))
    }

    /// Shows a text, which ends with a line feed. Returns false if the reader has closed its end of the pipe.
    pub fn show(&mut self, text: &str) -> Result<bool, CliError> {
        let is_first = !std::mem::replace(&mut self.is_begun, true);
        let text = match (self.is_terminal, is_first) {
            (false, true) => text.to_owned(),
            (false, false) => format!("\n{text}"),
            // Home, each line is cleared before it is written, and then what is below: whatever the terminal has made
            // of the text before, if its size has changed. At first the whole screen.
            (true, _) => {
                let first = if is_first { "\x1b[2J" } else { "" };
                let lines = text.lines().map(|line| format!("\x1b[K{line}\n"));
                format!("{first}\x1b[H{}\x1b[J", lines.collect::<String>())
            }
        };
        let mut out = io::stdout().lock();
        is_read(out.write_all(text.as_bytes()).and_then(|()| out.flush()))
    }
}

/// Columns of output that does not go to a terminal.
const DEFAULT_WIDTH: usize = 120;

/// A figure with three significant digits, and at most two decimals.
pub fn figure(value: f64) -> String {
    match value.abs() {
        v if v >= 99.95 || v == 0.0 => format!("{value:.0}"),
        v if v >= 9.995 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

/// A rate with a decimal prefix: `4.21 M`.
pub fn rate(per_second: f64) -> String {
    let (scale, prefix) = scale_of_rate(per_second);
    format!("{}{prefix}", figure(per_second / scale))
}

/// A rate as an axis label, without trailing zeros: `4 M`.
pub fn round_rate(per_second: f64) -> String {
    let (scale, prefix) = scale_of_rate(per_second);
    // Rounded to a thousandth, which removes the error of the binary fraction.
    format!("{}{prefix}", (per_second / scale * 1e3).round() / 1e3)
}

/// A median rate and its 95 % interval, both with the prefix of the median: `4.21 M`,
/// `[4.10, 4.33]`.
pub fn rate_with_interval(rate: &Median) -> (String, String) {
    let (scale, prefix) = scale_of_rate(rate.mid);
    let mid = format!("{}{prefix}", figure(rate.mid / scale));
    (mid, format!("[{}, {}]", figure(rate.low / scale), figure(rate.high / scale)))
}

fn scale_of_rate(per_second: f64) -> (f64, &'static str) {
    match per_second {
        v if v >= 999.5e6 => (1e9, " G"),
        v if v >= 999.5e3 => (1e6, " M"),
        v if v >= 999.5 => (1e3, " k"),
        _ => (1.0, ""),
    }
}

/// The 95 % interval of a median: `[0.95, 1.02]`.
pub fn interval(median: &Median) -> String {
    format!("[{}, {}]", figure(median.low), figure(median.high))
}

/// The larger distance of the interval's ends from the median, in percent of the median: `±3%`.
pub fn plus_minus(median: &Median) -> String {
    let deviation = (median.high - median.mid).max(median.mid - median.low);
    let percent = deviation / median.mid * 100.0;
    if percent.is_finite() { format!("±{percent:.0}%") } else { String::new() }
}

/// A duration in nanoseconds, in a fitting unit with three significant digits: `35.1 us`.
pub fn time(ns: f64) -> String {
    match scale_of_time(ns) {
        (_, unit) if ns < 999.5 && ns.fract() == 0.0 => format!("{ns} {unit}"),
        (scale, unit) => format!("{} {unit}", figure(ns / scale)),
    }
}

fn scale_of_time(ns: f64) -> (f64, &'static str) {
    match ns {
        v if v >= 999.5e6 => (1e9, "s"),
        v if v >= 999.5e3 => (1e6, "ms"),
        v if v >= 999.5 => (1e3, "us"),
        _ => (1.0, "ns"),
    }
}

/// A duration in nanoseconds as an axis label, without trailing zeros: `200 us`.
pub fn round_time(ns: f64) -> String {
    let (scale, unit) = scale_of_time(ns);
    format!("{} {unit}", (ns / scale * 1e3).round() / 1e3)
}

/// A duration in nanoseconds with two significant digits, for narrow tables: `35us`.
pub fn short_time(ns: f64) -> String {
    let (scale, unit) = scale_of_time(ns);
    let digits = usize::from(ns / scale < 9.95 && scale > 1.0);
    format!("{:.digits$}{unit}", ns / scale)
}

/// A duration in seconds, rounded up to seconds or minutes: `42 s`, `3 min`.
pub fn duration(seconds: f64) -> String {
    match seconds.ceil() as u64 {
        s if s < 120 => format!("{s} s"),
        s => format!("{} min", s.div_ceil(60)),
    }
}

/// `1 lock`, `4 locks`.
pub fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// A date and time, from the seconds since 1970: `2026-11-25 17:13 UTC`.
pub fn date(seconds: u64) -> String {
    let (days, of_day) = (seconds / 86_400, seconds % 86_400);
    // The calendar repeats every 400 years, which are 146,097 days. Years begin in March here,
    // so that the leap day comes last.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = era * 400 + year + u64::from(month <= 2);
    let (hour, minute) = (of_day / 3_600, of_day % 3_600 / 60);
    format!("{year:04}-{month:02}-{day:02} {hour:02}:{minute:02} UTC")
}

/// The time of day, from the seconds since 1970: `17:13:05Z`.
pub fn time_of_day(seconds: u64) -> String {
    let of_day = seconds % 86_400;
    format!("{:02}:{:02}:{:02}Z", of_day / 3_600, of_day % 3_600 / 60, of_day % 60)
}

/// `a`, `a and b`, `a, b and c`.
pub fn list(names: &[&str]) -> String {
    match names {
        [] => String::new(),
        [one] => (*one).to_owned(),
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}

/// The time of this host's wall clock, in milliseconds since 1970.
pub fn now_ms() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// Text that is safe to print to a terminal: control characters, characters that change the direction of
/// text, and those that cannot be seen are replaced by U+FFFD.
pub fn printable(text: &str) -> String {
    text.replace(is_unfit, "\u{fffd}")
}

fn is_unfit(c: char) -> bool {
    let directs = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    let is_hidden = matches!(c, '\u{ad}' | '\u{200b}' | '\u{2060}'..='\u{2064}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}');
    c.is_control() || matches!(c, '\u{2028}' | '\u{2029}') || directs || is_hidden
}

/// A word of a command line, quoted for a POSIX shell where necessary.
pub fn shell(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./,:=+%@".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    #[test]
    fn text_is_broken_between_words() {
        assert_eq!(wrap("one two three four", 9, "  "), "one two\n  three\n  four");
        assert_eq!(wrap("a-word-that-is-too-long b", 9, ""), "a-word-that-is-too-long\nb");
        assert_eq!(wrap("  one two three four", 9, "    "), "  one two\n    three\n    four");
        assert_eq!(wrap("", 9, "  "), "");
    }

    #[test]
    fn figures_have_three_significant_digits() {
        for (value, text) in
            [(0.0, "0"), (0.456, "0.46"), (4.209, "4.21"), (9.996, "10.0"), (99.96, "100")]
        {
            assert_eq!(figure(value), text);
        }
        assert_eq!(rate(4_209_000.0), "4.21 M");
        assert_eq!(rate(999_600.0), "1.00 M");
        assert_eq!(rate(12.0), "12.0");
    }

    #[test]
    fn a_time_has_a_fitting_unit() {
        for (ns, text) in
            [(0.0, "0 ns"), (87.0, "87 ns"), (999.7, "1.00 us"), (35_100.0, "35.1 us")]
        {
            assert_eq!(time(ns), text);
        }
        assert_eq!(time(1.5e9), "1.50 s");
        for (ns, text) in [(0.0, "0ns"), (9.6, "10ns"), (9_960.0, "10us"), (1_240.0, "1.2us")] {
            assert_eq!(short_time(ns), text);
        }
    }

    #[test]
    fn dates_follow_the_gregorian_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (951_868_800, "2000-03-01 00:00 UTC"),
            (1_798_761_599, "2026-12-31 23:59 UTC"),
        ] {
            assert_eq!(date(seconds), text);
        }
    }

    #[test]
    fn control_and_bidi_characters_are_replaced() {
        assert_eq!(
            printable("std\x1b[31m\n\u{9b}\u{202e}é"),
            "std\u{fffd}[31m\u{fffd}\u{fffd}\u{fffd}é"
        );
    }

    #[test]
    fn json_is_safe_on_a_terminal_and_read_as_it_was() {
        let text = "a\u{9b}31m\u{202e}\u{200b}\x1b\u{e0041}\u{7f}é";
        let line = json_line(&serde_json::json!({ "label": text }));
        assert_eq!(printable(line.trim_end()), line.trim_end());
        assert_eq!(serde_json::from_str::<serde_json::Value>(&line).unwrap()["label"], text);
    }

    #[test]
    fn a_cell_has_its_columns_also_with_wide_characters_and_marks() {
        for (text, width, cell) in [
            ("abc", 5, "abc  "),
            ("abcdef", 5, "abcd\u{2026}"),
            ("\u{6771}\u{4eac}", 5, "\u{6771}\u{4eac} "),
            ("\u{6771}\u{4eac}\u{6771}", 5, "\u{6771}\u{4eac}\u{2026}"),
            ("\u{6771}\u{4eac}\u{6771}", 4, "\u{6771}\u{2026} "),
            ("e\u{301}", 3, "e\u{301}  "),
        ] {
            assert_eq!(fit(text, width), cell);
        }
    }

    #[test]
    fn words_are_quoted_only_where_a_shell_needs_it() {
        for (word, typed) in [
            ("bench", "bench"),
            ("--threads=1,2", "--threads=1,2"),
            ("it's here.json", r"'it'\''s here.json'"),
            ("$HOME", "'$HOME'"),
            ("", "''"),
        ] {
            assert_eq!(shell(word), typed);
        }
    }
}
