//! What the command line and the environment ask for.
//!
//! The command line is criterion's (it reads the same one): the first free argument chooses the
//! cells, `--test` and the absence of `--bench` (which is how `cargo test --benches` calls a
//! bench) mean quick mode. The environment adds:
//!
//! - `LOCKWORD_BENCH=quick`: quick mode, everything once, in a few seconds
//! - `LOCKWORD_BENCH_LOCKS=lockword,std`: only these locks
//! - `LOCKWORD_BENCH_ROUNDS=3`: so many rounds instead of the bench's own number

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::roster::Contender;

/// The options of one run of one bench.
pub struct Options {
    /// The bench's name.
    pub bench: &'static str,
    /// Run everything once and briefly: the figures mean nothing.
    pub quick: bool,
    /// Criterion only wants the names of the benchmarks.
    pub list: bool,
    filter: Option<String>,
    locks: Option<Vec<String>>,
    rounds: Option<usize>,
    start: Instant,
}

impl Options {
    /// Reads them.
    pub fn read(bench: &'static str) -> Self {
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let has = |flag: &str| arguments.iter().any(|a| a == flag);
        let asked_quick = std::env::var("LOCKWORD_BENCH").is_ok_and(|v| v == "quick");
        let locks = std::env::var("LOCKWORD_BENCH_LOCKS")
            .ok()
            .map(|v| v.split(',').map(|name| name.trim().to_owned()).collect());
        let rounds = std::env::var("LOCKWORD_BENCH_ROUNDS")
            .ok()
            .map(|v| v.parse().expect("LOCKWORD_BENCH_ROUNDS is a number"));
        Options {
            bench,
            quick: asked_quick || has("--test") || !has("--bench"),
            list: has("--list"),
            filter: free_argument(&arguments),
            locks,
            rounds,
            start: Instant::now(),
        }
    }

    /// How many rounds: one in quick mode, none if only names are wanted.
    pub fn rounds(&self, full: usize) -> usize {
        if self.list {
            0
        } else if self.quick {
            1
        } else {
            self.rounds.unwrap_or(full).max(1)
        }
    }

    /// A slice's length: `full`, or a few milliseconds in quick mode.
    pub fn slice(&self, full: Duration) -> Duration {
        if self.quick { full.min(Duration::from_millis(4)) } else { full }
    }

    /// The cells whose name the filter accepts: the one it names in full if there is such a
    /// one, else all that contain it. A leading `bench/` is ignored.
    pub fn choose<W>(&self, mut cells: Vec<W>, name: impl Fn(&W) -> String) -> Vec<W> {
        if let Some(filter) = &self.filter {
            let prefix = format!("{}/", self.bench);
            let filter = filter.strip_prefix(&prefix).unwrap_or(filter);
            let exact = cells.iter().any(|c| name(c) == filter);
            cells.retain(|c| if exact { name(c) == filter } else { name(c).contains(filter) });
        }
        cells
    }

    /// The contenders that the environment asks for. An unknown name is an error, so that a
    /// misspelt one does not pass for a lock that was measured.
    pub fn enlist<W, S>(&self, mut contenders: Vec<Contender<W, S>>) -> Vec<Contender<W, S>> {
        if let Some(wanted) = &self.locks {
            for name in wanted {
                let known: Vec<_> = contenders.iter().map(|c| c.name).collect();
                assert!(
                    known.contains(&name.as_str()),
                    "LOCKWORD_BENCH_LOCKS: no lock `{name}` in this bench; it has {known:?}"
                );
            }
            contenders.retain(|c| wanted.iter().any(|name| name == c.name));
        }
        contenders
    }

    /// Says on one line of stderr which round it is.
    pub fn progress(&self, round: usize, rounds: usize) {
        let seconds = self.start.elapsed().as_secs();
        eprint!("\r{}: round {} of {rounds}, {seconds} s", self.bench, round + 1);
        let _ = std::io::stderr().flush();
    }
}

/// The first argument that is neither a flag nor the value of one of criterion's options.
fn free_argument(arguments: &[String]) -> Option<String> {
    const WITH_VALUE: &[&str] = &[
        "-c",
        "--color",
        "--colour",
        "-s",
        "--save-baseline",
        "-b",
        "--baseline",
        "--baseline-lenient",
        "--format",
        "--load-baseline",
        "--sample-size",
        "--warm-up-time",
        "--measurement-time",
        "--nresamples",
        "--noise-threshold",
        "--confidence-level",
        "--significance-level",
        "--plotting-backend",
        "--output-format",
        "--profile-time",
    ];
    let mut rest = arguments.iter();
    while let Some(argument) = rest.next() {
        if WITH_VALUE.contains(&argument.as_str()) {
            rest.next();
        } else if !argument.starts_with('-') {
            return Some(argument.clone());
        }
    }
    None
}
