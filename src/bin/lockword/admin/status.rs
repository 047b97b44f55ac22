//! `lockword status`: who has a lock, and whether that one is alive.

use super::view::{View, age, millis};
use super::{Desk, LONGEST_WATCH, at_desk, key};
use crate::lock_args::StatusArgs;
use crate::output::{print, printable};
use crate::{CliError, ExitOutcome, exit, output};
use lockword::cluster::{Key, KeyState, Label, LockStatus, Wakeups};
use serde_json::json;
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};
use tokio::time::{Instant, sleep, timeout};

/// Shows a lock.
pub fn status(args: &StatusArgs) -> Result<ExitOutcome, CliError> {
    let key = key(&args.key)?;
    at_desk(&args.engine, None, async |desk| {
        let view = View::of(desk, &key).await;
        let health = if args.health { Some(Checked::of(desk, &key).await) } else { None };
        if let (Err(_), Some(health)) = (&view, &health) {
            // What is wrong comes before the error.
            print(&if args.json { output::json_line(&health.json()) } else { health.text() })?;
        }
        let view = view?;
        let (view, heartbeat) = match view {
            View::Lock(state) => watched(desk, &key, *state, args.watch_for).await?,
            other => (other, None),
        };
        let is_held = view.state() == "held";
        let is_tied = is_tied(desk, &key).await?;
        if args.json {
            let mut shown = view.json();
            if desk.engine.has_ties() {
                shown["tied"] = json!(is_tied);
            }
            if let Some(heartbeat) = &heartbeat {
                shown["renewed"] = json!(heartbeat.moved);
                shown["watched_ms"] = json!(millis(heartbeat.watched));
                shown["unchanged_ms"] = json!(millis(heartbeat.unchanged));
            }
            if let Some(health) = &health {
                shown["health"] = health.json();
            }
            print(&output::json_line(&shown))?;
        } else {
            let mut text = text(&view, heartbeat.as_ref());
            if is_tied && !is_held {
                text += &format!("{:<9} a process of an earlier holder runs\n", "tie");
            }
            if let Some(health) = &health {
                text += &health.text();
            }
            print(&text)?;
        }
        let code = match &health {
            Some(health) if !health.is_well() => exit::UNREACHABLE,
            _ if args.exit_code && is_held => exit::HELD,
            _ => 0,
        };
        Ok(ExitOutcome::With(code))
    })
}

/// How long the response to a subscription may take.
const LONGEST_ASKED: Duration = Duration::from_secs(2);

/// What `--health` finds: how a program would fare that uses this engine from here.
struct Checked {
    engine: String,
    round_trip: Option<Duration>,
    /// Whether there is a watch, which a waiter needs, or why not. `None`: the engine has none.
    watch: Option<Result<(), String>>,
    problems: Vec<String>,
}

impl Checked {
    async fn of(desk: &Desk, key: &Key) -> Self {
        let transport = &desk.engine.transport;
        let watch = match transport.capabilities().wakeups {
            Wakeups::Poll => None,
            _ => {
                let watch = timeout(LONGEST_ASKED, transport.watch(key, desk.node.id())).await;
                Some(match watch {
                    Ok(watch) => watch.map(drop).map_err(|why| why.to_string()),
                    Err(_) => Err(format!("no response within {LONGEST_ASKED:?}")),
                })
            }
        };
        let health = desk.node.health();
        let engine = transport.capabilities().name.to_owned();
        Self { engine, round_trip: health.round_trip, watch, problems: health.problems() }
    }

    fn is_well(&self) -> bool {
        self.problems.is_empty() && !matches!(self.watch, Some(Err(_)))
    }

    fn json(&self) -> serde_json::Value {
        let ms = |time: Duration| time.as_secs_f64() * 1000.0;
        json!({
            "engine": self.engine,
            "round_trip_ms": self.round_trip.map(ms),
            "watch": self.watch.as_ref().map(Result::is_ok),
            "watch_error": self.watch.as_ref().and_then(|watch| watch.as_ref().err()),
            "problems": self.problems,
        })
    }

    fn text(&self) -> String {
        let mut text = String::new();
        let mut line = |name: &str, what: &str| {
            let _ = writeln!(text, "{name:<9} {}", printable(what));
        };
        let took = self.round_trip.map_or_else(
            || "no response".to_owned(),
            |took| format!("responds in {:.1} ms", took.as_secs_f64() * 1000.0),
        );
        line("engine", &format!("{}: {took}", self.engine));
        match &self.watch {
            Some(Ok(())) => line("watch", "can be had"),
            Some(Err(why)) => line("watch", why),
            None => line("watch", "this engine has none: waiters ask again and again"),
        }
        for problem in &self.problems {
            line("problem", problem);
        }
        text
    }
}

/// Whether a process that was started under the lock runs, which the engine in a directory knows.
pub(super) async fn is_tied(desk: &Desk, key: &Key) -> Result<bool, CliError> {
    #[cfg(unix)]
    if let Some(dir) = &desk.engine.dir {
        use lockword::cluster::engines::dir::TieStatus;
        let tied = dir.tied(key).await.map_err(|error| crate::engine::request_failed(&error))?;
        return Ok(tied == TieStatus::Alive);
    }
    let _ = (desk, key);
    Ok(false)
}

/// What was seen of a holder's heartbeat.
struct Heartbeat {
    /// It has changed, or another node has the lock.
    moved: bool,
    watched: Duration,
    unchanged: Duration,
}

/// Looks at a held lock until the holder's heartbeat moves. A holder that is alive renews its lease after
/// each third of it.
async fn watched(
    desk: &Desk,
    key: &Key,
    first: KeyState,
    limit: Option<Duration>,
) -> Result<(View, Option<Heartbeat>), CliError> {
    let LockStatus::Held { lease, .. } = first.status else {
        return Ok((View::Lock(Box::new(first)), None));
    };
    let limit = limit.unwrap_or_else(|| (lease / 2).min(LONGEST_WATCH));
    let every = (lease / 20).clamp(Duration::from_millis(10), Duration::from_millis(250));
    let began = Instant::now();
    let mut latest = first.clone();
    let mut watched = Duration::ZERO;
    loop {
        // A heartbeat that moves begins this time anew. One that does not is older than the time up to the
        // request, however long the request takes; the two clocks differ a little.
        let moved = latest.status != first.status || latest.unchanged_for + every < watched;
        if moved || watched >= limit {
            let unchanged = latest.unchanged_for;
            let heartbeat = Heartbeat { moved, watched, unchanged };
            return Ok((View::Lock(Box::new(latest)), Some(heartbeat)));
        }
        sleep(every.min(limit.saturating_sub(watched))).await;
        watched = began.elapsed();
        latest = desk.node.inspect(key).await?;
    }
}

fn text(view: &View, heartbeat: Option<&Heartbeat>) -> String {
    let mut text = String::new();
    let mut line = |name: &str, what: &str| {
        let _ = writeln!(text, "{name:<9} {}", printable(what));
    };
    line("lock", view.key().as_str());
    line("state", view.state());
    let View::Lock(state) = view else {
        line("", &view.holder());
        return text;
    };
    if let LockStatus::Held { label, lease, since, token, value, .. } = &state.status {
        line("holder", label);
        if let Some(value) = value {
            line("value", value);
        }
        if let Some(Label { user, host, pid, .. }) = Label::parse(label) {
            for (name, part) in [("user", user), ("host", host)] {
                if let Some(part) = part {
                    line(name, &part);
                }
            }
            line("pid", &format!("{pid} (that of `lockword run`, if it is one)"));
        }
        if let Some(since) = since {
            let seconds = since.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
            let held = since.elapsed().map_or_else(|_| "now".to_owned(), age);
            line("since", &format!("{}, for {held}", output::date(seconds)));
        }
        match token {
            Some(token) => line("token", &token.to_string()),
            None => line("token", "not known before the first renewal"),
        }
        line("lease", &age(*lease));
        if let Some(Heartbeat { moved, watched, unchanged }) = heartbeat {
            let every = *lease / 3;
            let seen = if *moved {
                format!("seen within {}: alive", age(*watched))
            } else if unchanged >= lease {
                format!("none for {}, which is longer than the lease: dead", age(*unchanged))
            } else if watched.is_zero() {
                "not watched".to_owned()
            } else {
                format!(
                    "none for {}, one is due every {}: not known; --watch-for {}s tells",
                    age(*unchanged),
                    age(every),
                    lease.as_secs_f64().ceil(),
                )
            };
            line("heartbeat", &seen);
        }
    }
    if let Some(version) = state.version {
        line("version", &version.to_string());
    }
    for (place, queued) in state.queue.iter().enumerate() {
        line(if place == 0 { "queue" } else { "" }, &queued.label);
    }
    if let Some(broken) = &state.last_break {
        let reason = if broken.reason.is_empty() { "no reason given" } else { &broken.reason };
        let at = broken.at.and_then(|at| at.duration_since(UNIX_EPOCH).ok());
        let at = at.map_or_else(String::new, |at| format!("{}, ", output::date(at.as_secs())));
        line("broken", &format!("{at}by {}", broken.by));
        line("", &format!("from {}", broken.of));
        line("", reason);
    }
    text
}
