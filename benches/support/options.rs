//! The options of a bench, from the command line and the environment.
//!
//! The command line is criterion's, which reads it too: the first free argument selects the cells;
//! `--test`, or the absence of `--bench` (as `cargo test --benches` calls a bench), means quick
//! mode. The environment variables are:
//!
//! - `LOCKWORD_BENCH=quick`: quick mode, everything once, in a few seconds
//! - `LOCKWORD_BENCH_LOCKS=lockword,std`: only these locks
//! - `LOCKWORD_BENCH_ROUNDS=3`: this number of rounds instead of the bench's default
//! - `LOCKWORD_BENCH_BESIDE=2`: beside two busy processes, each bound to one of the processors in
//!   turn (see [`super::beside`])

use std::io::Write as _;
use std::time::{Duration, Instant};

use super::beside;
use super::contenders::Contender;

/// The options of one run of one bench.
pub struct BenchOptions {
    /// The bench's name.
    pub bench: &'static str,
    /// Whether to run everything once and briefly, for figures that mean nothing.
    pub quick: bool,
    /// Whether criterion only wants the names of the benchmarks.
    pub list: bool,
    /// How many busy processes run beside the measurement.
    pub beside: usize,
    filter: Option<String>,
    locks: Option<Vec<String>>,
    rounds: Option<usize>,
    start: Instant,
}

impl BenchOptions {
    /// Reads the command line and the environment. It does not return in a copy of the bench that
    /// is to be busy beside another.
    ///
    /// # Panics
    ///
    /// If a variable that must be a number is not.
    pub fn read(bench: &'static str) -> Self {
        beside::be_busy_if_asked();
        let arguments: Vec<String> = std::env::args().skip(1).collect();
        let has = |flag: &str| arguments.iter().any(|a| a == flag);
        let asked_quick = std::env::var("LOCKWORD_BENCH").is_ok_and(|v| v == "quick");
        let locks = std::env::var("LOCKWORD_BENCH_LOCKS")
            .ok()
            .map(|v| v.split(',').map(|name| name.trim().to_owned()).collect());
        let number = |variable: &str| {
            let value = std::env::var(variable).ok()?;
            Some(value.parse().unwrap_or_else(|_| panic!("{variable} is a number")))
        };
        BenchOptions {
            bench,
            quick: asked_quick || has("--test") || !has("--bench"),
            list: has("--list"),
            beside: number("LOCKWORD_BENCH_BESIDE").unwrap_or(0),
            filter: free_argument(&arguments),
            locks,
            rounds: number("LOCKWORD_BENCH_ROUNDS"),
            start: Instant::now(),
        }
    }

    /// The number of rounds: one in quick mode, none if only names are wanted, else `full` or what
    /// the environment says.
    pub fn rounds(&self, full: usize) -> usize {
        if self.list {
            0
        } else if self.quick {
            1
        } else {
            self.rounds.unwrap_or(full).max(1)
        }
    }

    /// The length of a slice: `full`, or a few milliseconds in quick mode.
    pub fn slice(&self, full: Duration) -> Duration {
        if self.quick { full.min(Duration::from_millis(4)) } else { full }
    }

    /// The cells that the filter selects: the one whose name it is, if there is one, else all whose
    /// name contains it. A leading `bench/` of the filter is ignored.
    pub fn select_cells<W>(&self, mut cells: Vec<W>, name: impl Fn(&W) -> String) -> Vec<W> {
        if let Some(filter) = &self.filter {
            let prefix = format!("{}/", self.bench);
            let filter = filter.strip_prefix(&prefix).unwrap_or(filter);
            let exact = cells.iter().any(|c| name(c) == filter);
            cells.retain(|c| if exact { name(c) == filter } else { name(c).contains(filter) });
        }
        cells
    }

    /// Whether the filter is this name of a cell: some cells run only if they are asked for.
    pub fn asks_for(&self, name: &str) -> bool {
        let filter = self.filter.as_deref().unwrap_or("");
        filter.strip_prefix(&format!("{}/", self.bench)).unwrap_or(filter) == name
    }

    /// What runs beside the measurement, for the head of a table: empty if nothing does.
    pub fn surroundings(&self) -> String {
        match self.beside {
            0 => String::new(),
            count => format!("; beside {count} busy processes"),
        }
    }

    /// Whether the environment selects this lock: all, if it selects none.
    pub fn wants(&self, lock: &str) -> bool {
        self.locks.as_ref().is_none_or(|wanted| wanted.iter().any(|name| name == lock))
    }

    /// The contenders that the environment selects.
    ///
    /// # Panics
    ///
    /// If a name is unknown, so that a misspelt lock is noticed.
    pub fn select_contenders<W, S>(
        &self,
        mut contenders: Vec<Contender<W, S>>,
    ) -> Vec<Contender<W, S>> {
        if let Some(wanted) = &self.locks {
            for name in wanted {
                let known: Vec<_> = contenders.iter().map(|c| c.name).collect();
                assert!(
                    known.contains(&name.as_str()),
                    "LOCKWORD_BENCH_LOCKS: no lock `{name}` in this bench; it has {known:?}"
                );
            }
            contenders.retain(|c| self.wants(c.name));
        }
        contenders
    }

    /// Prints the round to one line of standard error.
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
