//! `lockword top`: the locks that most nodes wait for, live.
//!
//! It lists the keys and looks at each of them, over and over: all that it shows is in the registers. How long a node
//! has waited is not there, so it is counted from the look that found it in the queue first.

use super::view::{View, age, millis};
use super::{Desk, at_desk};
use crate::lock_args::{SortBy, TopArgs};
use crate::output::{Screen, fit, json_line, now_ms, printable};
use crate::{CliError, ExitOutcome, output};
use futures_util::future::join_all;
use lockword::cluster::{Key, LockStatus, NodeId};
use serde_json::json;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};
use tokio::time::{Instant, sleep_until};

/// So many keys are looked at at once.
const AT_ONCE: usize = 32;
/// What is wrong has at most so many lines.
const LINES_OF_ERROR: usize = 3;

/// Shows the locks, until Ctrl-C, the reader closes its end, or so many looks.
pub fn top(args: &TopArgs) -> Result<ExitOutcome, CliError> {
    at_desk(&args.engine, None, async |desk| {
        tokio::select! {
            ended = look_over_and_over(args, desk) => ended?,
            () = output::reader_has_gone() => {}
        }
        Ok(ExitOutcome::Done)
    })
}

/// Returns after the last look, with its error if it had one; and when a write finds that nobody reads any more.
async fn look_over_and_over(args: &TopArgs, desk: &Desk) -> Result<(), CliError> {
    // The first request shows whether there is anything to look at.
    desk.keys(&args.prefix).await?;
    let mut table = Table::default();
    let mut screen = Screen::new();
    let mut left = args.times;
    loop {
        left = left.map(|left| left - 1);
        let began = Instant::now();
        // What was seen before an engine that does not respond stays on the screen.
        let failed = match desk.keys(&args.prefix).await {
            Ok(keys) => table.seen(look(desk, keys).await, began).err(),
            Err(why) => {
                table.unseen();
                Some(why)
            }
        };
        let said = failed.as_ref().map(CliError::to_string);
        let rows = table.sorted(args.sort);
        let is_read = if args.json {
            output::print_live(&json_line(&table.json(&rows, said.as_deref())))?
        } else {
            screen.show(&table.text(&rows, said.as_deref(), screen.size()))?
        };
        if !is_read {
            return Ok(());
        }
        if left == Some(0) {
            return failed.map_or(Ok(()), Err);
        }
        // Where a look takes long, the engine has as much time for others.
        sleep_until((began + args.every).max(Instant::now() + began.elapsed())).await;
    }
}

/// Looks at these keys.
async fn look(desk: &Desk, keys: Vec<Key>) -> Vec<(Key, Result<View, CliError>)> {
    let mut seen = Vec::with_capacity(keys.len());
    for keys in keys.chunks(AT_ONCE) {
        let views = join_all(keys.iter().map(|key| View::of(desk, key))).await;
        seen.extend(keys.iter().cloned().zip(views));
    }
    seen
}

/// What has been seen.
#[derive(Default)]
struct Table {
    /// As each key was seen last.
    rows: BTreeMap<Key, Row>,
    /// When the latest look that could list the keys began, how long it took, and the wall clock then.
    looked: Option<(Instant, Duration, u64)>,
    /// Whether it was the latest of all: what has happened since is not known otherwise.
    is_latest: bool,
}

/// A key.
struct Row {
    view: View,
    /// The look that found each of those that wait first: by the node, and the number of its wait.
    since: BTreeMap<(NodeId, u64), Instant>,
    /// The longest time that a node has waited which still does.
    longest: Duration,
    /// The time that all nodes have waited, since the key is looked at.
    waited: Duration,
    /// Somebody waits, or was seen to wait.
    is_wanted: bool,
    /// How long the holder has had the lock, by its own clock and the one of this machine.
    held: Option<Duration>,
}

impl Table {
    /// What a look has seen that began then. The error of the first key that could not be looked at, of which the row
    /// stays as it was.
    fn seen(
        &mut self,
        seen: Vec<(Key, Result<View, CliError>)>,
        began: Instant,
    ) -> Result<(), CliError> {
        // In between those are taken to have waited that wait now.
        let passed = match self.looked {
            Some((before, ..)) if self.is_latest => began - before,
            _ => Duration::ZERO,
        };
        self.looked = Some((began, began.elapsed(), now_ms()));
        self.is_latest = true;
        let mut old = std::mem::take(&mut self.rows);
        let mut failed = Ok(());
        for (key, view) in seen {
            let before = old.remove(&key);
            let row = match view {
                Ok(view) => Row::new(view, before, passed, began),
                Err(why) => {
                    failed = failed.and(Err(why));
                    let Some(before) = before else { continue };
                    before
                }
            };
            self.rows.insert(key, row);
        }
        failed
    }

    /// It was not possible to look.
    fn unseen(&mut self) {
        self.is_latest = false;
    }

    /// The locks that are held, are waited for, or were; and what is no lock and should be one.
    fn sorted(&self, by: SortBy) -> Vec<&Row> {
        let is_shown = |row: &&Row| match row.view {
            View::Lock(_) => row.held.is_some() || row.view.state() == "held" || row.is_wanted,
            View::Record(..) => false,
            View::Unreadable(..) => true,
        };
        let mut rows: Vec<_> = self.rows.values().filter(is_shown).collect();
        rows.sort_by_key(|row| {
            let (held, waiting) = (row.held.unwrap_or_default(), row.view.waiting());
            let key = match by {
                SortBy::Waiting => (waiting, row.longest, row.waited),
                SortBy::Longest => (0, row.longest, row.waited),
                SortBy::Waited => (0, row.waited, row.longest),
                SortBy::Held => (0, held, row.waited),
            };
            // Keys of the same rank are in the order of their names.
            Reverse(key)
        });
        rows
    }

    fn json(&self, rows: &[&Row], failed: Option<&str>) -> serde_json::Value {
        let rows = rows.iter().map(|row| {
            let mut shown = row.view.json();
            shown["waiting"] = json!(row.view.waiting());
            shown["longest_ms"] = json!(millis(row.longest));
            shown["waited_ms"] = json!(millis(row.waited));
            shown["held_ms"] = json!(row.held.map(millis));
            shown
        });
        let mut shown = json!({
            "at_ms": self.looked.map(|(.., at)| at),
            "keys": self.rows.len(),
            "locks": rows.collect::<Vec<_>>(),
        });
        if let Some(why) = failed {
            shown["error"] = json!(why);
        }
        shown
    }

    /// For so many columns and lines; as long and as wide as it gets without a size.
    fn text(&self, rows: &[&Row], failed: Option<&str>, size: Option<(usize, usize)>) -> String {
        let (columns, lines) = size.unwrap_or((usize::MAX, usize::MAX));
        let mut above = vec![self.summary()];
        if let Some(why) = failed {
            above.extend(wrapped(&printable(why), columns).into_iter().take(LINES_OF_ERROR));
        }
        let widths = widths(rows, columns);
        above.push(line(&["KEY", "WAIT", "LONGEST", "WAITED", "HELD", "HOLDER"], widths));
        above.truncate(lines);
        let mut room = lines - above.len();
        if rows.len() > room {
            room = room.saturating_sub(1);
        }
        let shown = rows.iter().take(room).map(|row| {
            let of_waits = |time: Duration| if time.is_zero() { String::new() } else { age(time) };
            line(
                &[
                    row.view.key().as_str(),
                    &row.view.waiting().to_string(),
                    &of_waits(row.longest),
                    &of_waits(row.waited),
                    &row.held.map_or(String::new(), age),
                    &row.view.holder(),
                ],
                widths,
            )
        });
        let mut all: Vec<_> = above.into_iter().chain(shown).collect();
        if rows.len() > room && all.len() < lines {
            all.push(format!("and {} more", rows.len() - room));
        }
        let cut = |line: String| match size {
            Some(_) => fit(&line, columns).trim_end().to_owned(),
            None => line,
        };
        all.into_iter().map(|line| cut(line) + "\n").collect()
    }

    fn summary(&self) -> String {
        let count = |is: fn(&Row) -> bool| self.rows.values().filter(|row| is(row)).count();
        let waiting: usize = self.rows.values().map(|row| row.view.waiting()).sum();
        let looked = match self.looked {
            None => "not looked at yet".to_owned(),
            Some((_, took, _)) if self.is_latest => format!("a look takes {}", age(took)),
            Some((began, ..)) => format!("seen {} ago", age(began.elapsed())),
        };
        format!(
            "{} for {}; {} held; {} in all; {looked}",
            match waiting {
                1 => "1 node waits".to_owned(),
                number => format!("{number} nodes wait"),
            },
            output::count(count(|row| row.view.waiting() > 0), "lock"),
            count(|row| row.view.state() == "held"),
            output::count(self.rows.len(), "key"),
        )
    }
}

impl Row {
    /// As a look has seen it that began then, so long after the one before it.
    fn new(view: View, before: Option<Row>, passed: Duration, began: Instant) -> Self {
        let (queue, status) = match &view {
            View::Lock(state) => (&state.queue[..], Some(&state.status)),
            _ => (&[][..], None),
        };
        let (old, mut waited, was_wanted) = match before {
            Some(before) => (before.since, before.waited, before.is_wanted),
            None => (BTreeMap::new(), Duration::ZERO, false),
        };
        waited += passed * u32::try_from(queue.len()).unwrap_or(u32::MAX);
        let waits = queue.iter().map(|queued| (queued.node, queued.wait));
        let since: BTreeMap<_, _> =
            waits.map(|wait| (wait, old.get(&wait).copied().unwrap_or(began))).collect();
        let longest = since.values().map(|since| began - *since).max().unwrap_or_default();
        let held = match status {
            Some(LockStatus::Held { since, .. }) => {
                since.map(|since| SystemTime::now().duration_since(since).unwrap_or_default())
            }
            _ => None,
        };
        let is_wanted = was_wanted || !queue.is_empty();
        Row { view, since, longest, waited, is_wanted, held }
    }
}

/// Columns of waiting, longest, waited, held.
const FIXED: [usize; 4] = [4, 7, 7, 7];
/// Two blanks between two columns.
const BETWEEN: usize = 2;

/// The widths of the columns: names are as long as they are, as long as there is some room for the holder.
fn widths(rows: &[&Row], columns: usize) -> [usize; 6] {
    let left = columns.saturating_sub(FIXED.iter().sum::<usize>() + 5 * BETWEEN);
    let longest = rows.iter().map(|row| row.view.key().as_str().len()).max().unwrap_or(0).max(8);
    let key = longest.min(left.saturating_sub(12).max(8));
    let [waiting, longest, waited, held] = FIXED;
    [key, waiting, longest, waited, held, left.saturating_sub(key)]
}

fn line(cells: &[&str; 6], widths: [usize; 6]) -> String {
    let [first @ .., last] = cells;
    let first = first.iter().zip(widths).map(|(cell, width)| fit(cell, width));
    let mut line = first.collect::<Vec<_>>().join(&" ".repeat(BETWEEN)) + &" ".repeat(BETWEEN);
    line += last;
    line.trim_end().to_owned()
}

/// A text in lines of so many columns.
fn wrapped(text: &str, columns: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is one");
        if line.is_empty() {
            line.push_str(word);
        } else if line.chars().count() + 1 + word.chars().count() <= columns {
            line.push(' ');
            line.push_str(word);
        } else {
            lines.push(word.to_owned());
        }
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use unicode_width::UnicodeWidthStr as _;

    fn key(number: usize) -> Key {
        Key::new(&format!("jobs/nightly/{number}")).unwrap()
    }

    fn refused() -> Result<View, CliError> {
        Err(CliError::new("no\u{1b} answer"))
    }

    fn table(keys: usize) -> Table {
        let view =
            |number| View::Unreadable(key(number), "\u{6771}\u{4eac}, or something else".into());
        let mut table = Table::default();
        let seen = (0..keys).map(|number| (key(number), Ok(view(number))));
        table.seen(seen.collect(), Instant::now()).unwrap();
        table
    }

    #[test]
    fn no_line_is_longer_than_the_terminal_and_no_table_longer_than_it() {
        let table = table(9);
        let rows = table.sorted(SortBy::Waiting);
        let why = "what was said when nothing could be done about it ".repeat(20);
        for columns in [1, 5, 20, 40, 80, 200] {
            for lines in [1, 2, 3, 10, 11, 100] {
                for failed in [None, Some(why.as_str())] {
                    let text = table.text(&rows, failed, Some((columns, lines)));
                    assert!(text.lines().all(|line| line.width() <= columns), "{columns}: {text}");
                    let wanted = if failed.is_some() { 14 } else { 11 };
                    assert_eq!(text.lines().count(), wanted.min(lines), "{lines}: {text}");
                }
            }
        }
        assert!(table.text(&rows, None, Some((80, 7))).ends_with("\nand 5 more\n"));
        let whole = table.text(&rows, None, None);
        assert!(
            whole.contains("jobs/nightly/8 ") && whole.contains("or something else\n"),
            "{whole}"
        );
    }

    /// A role may have rights on a part of the keys only; and an engine may end in the middle.
    #[test]
    fn a_key_that_cannot_be_looked_at_costs_no_other_its_row() {
        let mut table = table(3);
        let view = |number| View::Unreadable(key(number), "now".to_owned());
        let seen = vec![(key(0), Ok(view(0))), (key(1), refused()), (key(3), refused())];
        let why = table.seen(seen, Instant::now()).unwrap_err().to_string();
        assert_eq!(why, "no\u{fffd} answer");
        let rows = table.sorted(SortBy::Waiting);
        let shown: Vec<_> =
            rows.iter().map(|row| (row.view.key().clone(), row.view.holder())).collect();
        assert_eq!(shown[0], (key(0), "now".to_owned()));
        assert!(shown.len() == 2 && shown[1].0 == key(1) && shown[1].1 != "now", "{shown:?}");
        let text = table.text(&rows, Some(&why), Some((80, 9)));
        assert!(text.contains("\nno\u{fffd} answer\nKEY"), "{text}");
        assert_eq!(table.json(&rows, Some("no answer"))["error"], "no answer");
        table.unseen();
        assert!(table.summary().contains("; seen "), "{}", table.summary());
    }
}
