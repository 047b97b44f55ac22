//! `lockword watch`: the changes of locks, as they are seen.
//!
//! It lists the keys and looks at each of them, over and over, and in between it looks at a key as soon as
//! the engine tells of a write.

use super::view::View;
use super::{Desk, at_desk};
use crate::lock_args::WatchArgs;
use crate::output::now_ms;
use crate::output::{print_live, printable};
use crate::{CliError, ExitOutcome, output};
use lockword::cluster::{Key, Watch};
use serde_json::json;
use std::collections::BTreeMap;
use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};

/// Notices of so many keys are received at most: each takes some memory of the engine.
const MAX_WATCHES: usize = 100;
/// A key that changes all the time is looked at this often, so that the engine has other work to do.
const PAUSE: Duration = Duration::from_millis(10);

/// Prints the state of each lock, and then each change, until the reader closes its end.
pub fn watch(args: &WatchArgs) -> Result<ExitOutcome, CliError> {
    at_desk(&args.engine, None, async |desk| {
        tokio::select! {
            ended = print_changes(args, desk) => ended?,
            () = output::reader_has_gone() => {}
        }
        Ok(ExitOutcome::Done)
    })
}

/// Returns when a write finds that nobody reads any more.
async fn print_changes(args: &WatchArgs, desk: &Desk) -> Result<(), CliError> {
    // The first request shows whether there is anything to watch.
    desk.keys(&args.prefix).await?;
    let mut screen = Screen { json: args.json, shown: BTreeMap::new(), said: None };
    let mut notices = Notices::default();
    loop {
        let next_list = Instant::now() + args.every;
        let keys = match desk.keys(&args.prefix).await {
            Ok(keys) => keys,
            Err(why) => {
                screen.cannot_look(&why);
                sleep_until(next_list).await;
                continue;
            }
        };
        if !screen.forget_all_but(&keys)? {
            return Ok(());
        }
        // Before the look, so that no write comes in between.
        notices.watch(desk, &keys).await;
        for key in keys {
            if !screen.look(desk, key).await? {
                return Ok(());
            }
        }
        while let Ok(key) = timeout_at(next_list, notices.next()).await {
            if !screen.look(desk, key).await? {
                return Ok(());
            }
            sleep(PAUSE).await;
        }
    }
}

/// What has been printed.
struct Screen {
    json: bool,
    /// The latest state of each key.
    shown: BTreeMap<Key, String>,
    /// Why it was not possible to look, if it was not.
    said: Option<String>,
}

impl Screen {
    /// Looks at a key, and prints it if it has changed. Returns false if nobody reads any more.
    async fn look(&mut self, desk: &Desk, key: Key) -> Result<bool, CliError> {
        let view = match View::of(desk, &key).await {
            Ok(view) => view,
            Err(why) => {
                self.cannot_look(&why);
                return Ok(true);
            }
        };
        self.said = None;
        let mut what = view.holder();
        if let Some(value) = view.value() {
            what += &format!(" at {}", printable(value));
        }
        if view.waiting() > 0 {
            what += &format!(" ({} waiting)", view.waiting());
        }
        // The age of a record is no change.
        let state = match &view {
            View::Record(_, record) => format!("{} {}", view.state(), record.started_ms),
            _ => format!("{} {what}", view.state()),
        };
        if self.shown.insert(key.clone(), state.clone()) == Some(state) {
            return Ok(true);
        }
        self.print(&key, view.state(), &what, || view.json())
    }

    /// Says once why it is not possible to look. It is tried again.
    fn cannot_look(&mut self, why: &CliError) {
        let why = why.to_string();
        if self.said.as_ref() != Some(&why) {
            output::print_error(&format!("lockword: {}; trying again", printable(&why)));
            self.said = Some(why);
        }
    }

    /// Prints which keys have gone. Returns false if nobody reads any more.
    fn forget_all_but(&mut self, keys: &[Key]) -> Result<bool, CliError> {
        let gone = self.shown.keys().filter(|key| !keys.contains(key)).cloned();
        for key in gone.collect::<Vec<_>>() {
            self.shown.remove(&key);
            if !self.print(&key, "gone", "", || json!({"state": "gone"}))? {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn print(
        &self,
        key: &Key,
        state: &str,
        what: &str,
        view: impl FnOnce() -> serde_json::Value,
    ) -> Result<bool, CliError> {
        let now = now_ms();
        if self.json {
            let mut view = view();
            view["key"] = json!(key.as_str());
            view["at_ms"] = json!(now);
            return print_live(&output::json_line(&view));
        }
        let time = output::time_of_day(now / 1000);
        let line = format!("{time} {key}: {state} {}", printable(what));
        print_live(&format!("{}\n", line.trim_end()))
    }
}

/// The notices of writes. They only say when to look: an engine may send none of some writes.
#[derive(Default)]
struct Notices {
    of: BTreeMap<Key, Watch>,
}

impl Notices {
    /// Receives those of these keys, and of no others.
    async fn watch(&mut self, desk: &Desk, keys: &[Key]) {
        self.of.retain(|key, _| keys.contains(key));
        for key in keys.iter().take(MAX_WATCHES) {
            // An error: it is looked at as often as the keys are listed.
            if !self.of.contains_key(key)
                && let Ok(watch) = desk.engine.transport.watch(key, desk.node.id()).await
            {
                self.of.insert(key.clone(), watch);
            }
        }
    }

    /// Waits for a notice, and returns its key.
    async fn next(&mut self) -> Key {
        poll_fn(|cx| {
            let mut ended = vec![];
            let mut noticed = None;
            for (key, watch) in &mut self.of {
                match watch.as_mut().poll_next(cx) {
                    Poll::Pending => {}
                    Poll::Ready(Some(Ok(_))) => {
                        noticed = Some(key.clone());
                        break;
                    }
                    Poll::Ready(_) => ended.push(key.clone()),
                }
            }
            for key in ended {
                self.of.remove(&key);
            }
            noticed.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}
