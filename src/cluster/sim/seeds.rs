//! What the two simulators have in common: they run many seeds, and one seed again.
//!
//! The environment variables are in the heads of [`super`] and of [`super::real`].

use std::any::Any;
use std::env::var;
use std::panic::{AssertUnwindSafe, catch_unwind};

/// A simulator.
pub(super) trait Simulator {
    /// The kind of a run.
    type Profile: Clone + Sync;
    /// The module of its tests.
    const MODULE: &str;
    /// Whether a profile of this name is one of its own.
    fn has(name: &str) -> bool;
    fn profiles() -> Vec<Self::Profile>;
    fn name(profile: &Self::Profile) -> &'static str;
    /// Runs one seed. `keeps_lines`: the report has the lines of the log.
    fn run(profile: Self::Profile, seed: u64, keeps_lines: bool) -> RunReport;
}

/// The result of a run.
#[derive(Debug)]
pub(super) struct RunReport {
    pub(super) grants: u64,
    pub(super) writes: u64,
    /// What else was counted, with the heads of the columns.
    pub(super) others: Vec<(&'static str, u64)>,
    pub(super) hash: u64,
    pub(super) lines: Vec<String>,
    pub(super) violation: Option<String>,
}

/// Calls `run`. Returns what it says if it panics.
pub(super) fn panic_of(run: impl FnOnce()) -> Option<String> {
    let panic: Box<dyn Any + Send> = catch_unwind(AssertUnwindSafe(run)).err()?;
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned()).unwrap_or_default();
    Some(format!("panicked {text}"))
}

fn setting(name: &str) -> Option<u64> {
    let text = var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} is not a number: {text}")))
}

/// All profiles, or the one of `LOCKWORD_PROFILE`. None if that is another simulator's.
fn selected<S: Simulator>() -> Vec<S::Profile> {
    let mut all = S::profiles();
    if let Ok(name) = var("LOCKWORD_PROFILE") {
        all.retain(|profile| S::name(profile) == name);
        assert!(!S::has(&name) || !all.is_empty(), "there is no profile {name:?}");
    }
    all
}

/// Runs the seeds below `seeds` on all processors. Returns the smallest one that fails.
fn first_failure(seeds: u64, fails: impl Fn(u64) -> bool + Sync) -> Option<u64> {
    let next = crate::Mutex::new(0_u64..);
    // All seeds before the smallest one have been started and run to their end.
    let failed = crate::Mutex::new(None::<u64>);
    let work = || {
        loop {
            let seed = next.lock().next().expect("the range is endless");
            if seed >= seeds || failed.lock().is_some() {
                break;
            }
            if fails(seed) {
                let mut failed = failed.lock();
                *failed = Some(failed.map_or(seed, |other| other.min(seed)));
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..std::thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    failed.into_inner()
}

/// Runs a seed again and describes the violation: the last lines of the log, and the command that
/// repeats the run. `None` if no rule is broken.
fn explain<S: Simulator>(profile: &S::Profile, seed: u64) -> Option<String> {
    let report = S::run(profile.clone(), seed, true);
    let (violation, name, module) = (report.violation?, S::name(profile), S::MODULE);
    let from = report.lines.len().saturating_sub(80);
    Some(format!(
        "\n{}\n\nprofile {name}, seed {seed}: {violation}\nagain: LOCKWORD_PROFILE={name} \
         LOCKWORD_SEED={seed} cargo test --features cluster --lib {module}::replay -- --nocapture",
        report.lines[from..].join("\n"),
    ))
}

/// Runs `LOCKWORD_SEEDS` seeds, or so many as are usual, spread over all profiles: no rule is broken.
pub(super) fn check_many<S: Simulator>(usual: u64) {
    let profiles = selected::<S>();
    if profiles.is_empty() {
        return;
    }
    let totals = crate::Mutex::new(vec![(0_u64, 0, 0, Vec::new()); profiles.len()]);
    let failed = first_failure(setting("LOCKWORD_SEEDS").unwrap_or(usual), |seed| {
        let which = seed as usize % profiles.len();
        let report = S::run(profiles[which].clone(), seed, false);
        let (runs, grants, writes, others) = &mut totals.lock()[which];
        *runs += 1;
        *grants += report.grants;
        *writes += report.writes;
        others.resize(report.others.len(), ("", 0));
        for (sum, (head, count)) in others.iter_mut().zip(report.others) {
            *sum = (head, sum.1 + count);
        }
        report.violation.is_some()
    });
    if let Some(seed) = failed {
        let which = seed as usize % profiles.len();
        panic!("{}", explain::<S>(&profiles[which], seed).expect("the same seed fails again"));
    }
    for (profile, (runs, grants, writes, others)) in profiles.iter().zip(totals.into_inner()) {
        let (name, each) = (S::name(profile), writes as f64 / grants.max(1) as f64);
        print!("{name:16} {runs:6} runs {grants:8} grants of {each:.2} writes");
        others.iter().for_each(|(head, count)| print!(" {count:8} {head}"));
        println!();
        assert!(grants >= runs, "{name} shows nothing");
    }
}

/// Prints the run of `LOCKWORD_PROFILE` and `LOCKWORD_SEED`, if that is set.
pub(super) fn replay<S: Simulator>() {
    let Some(seed) = setting("LOCKWORD_SEED") else { return };
    for profile in selected::<S>() {
        let report = S::run(profile.clone(), seed, true);
        println!("{}\nprofile {}, seed {seed}", report.lines.join("\n"), S::name(&profile));
        assert_eq!(report.violation, None);
    }
}

/// Each of these seeds gives the same log twice, byte for byte, and another one than the seed `seeds.end`
/// after it. The profiles take turns.
pub(super) fn check_replays<S: Simulator>(seeds: std::ops::Range<u64>) {
    let profiles = S::profiles();
    for seed in seeds.clone() {
        let profile = &profiles[seed as usize % profiles.len()];
        let [first, again, other] =
            [seed, seed, seed + seeds.end].map(|seed| S::run(profile.clone(), seed, true));
        let name = S::name(profile);
        assert!(first.lines.len() > 100, "{name} does nothing");
        assert!(first.lines == again.lines, "{name}: seed {seed} does not replay");
        assert_eq!(first.hash, again.hash);
        assert_ne!(first.hash, other.hash);
    }
}
