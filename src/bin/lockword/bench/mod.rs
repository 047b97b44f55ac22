//! `lockword bench`, `compare` and `show`: measure locks, compare two reports, show a report.
//!
//! - [`plan`]: the loads and locks of a run, from the preset and the command line
//! - [`summary`]: the figures and the verdict for each load of a report
//! - [`table`]: a report as a table for the terminal
//! - [`page`]: a report as an HTML page, with the charts of [`chart`]
//! - [`across`]: loads that differ in one setting only, round by round
//! - [`ladder`]: loads that differ in their rate of arrivals only, and the knee of each lock
//! - [`samples`]: the samples of a report as CSV
//! - [`criterion`]: a report as a folder of criterion's
//! - [`baseline`]: a report compared with an earlier one
//! - [`outputs`]: where a report goes
//! - [`mod@file`]: output files and the reading of reports

mod across;
pub mod baseline;
mod chart;
mod criterion;
mod file;
mod ladder;
mod outputs;
mod page;
pub mod plan;
mod samples;
mod summary;
mod table;

use crate::args::{BenchArgs, CompareArgs, ShowArgs};
use crate::{CliError, ExitOutcome, exit, output};
use baseline::{Difference, Rounds};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lockword::contention::{
    Arrivals, Comparison, ComparisonError, ComparisonReport, MachineInfo, Progress,
};
use outputs::Outputs;
use plan::BenchPlan;
use std::collections::BTreeSet;
use std::process;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// `lockword bench`: measures, prints the table, writes the files and compares with the baseline.
/// All checks that need no measurement come first.
pub fn bench(args: &BenchArgs) -> Result<ExitOutcome, CliError> {
    let baseline = args.baseline.as_deref();
    let outputs = Outputs::check(&args.outputs, baseline.map(|file| ("--baseline", file)))?;
    let baseline = args.baseline.as_deref().map(file::read_report).transpose()?;
    if args.no_waits && args.rule.judge.needs_waits() {
        return Err(CliError::new("--no-waits leaves no p99 to judge"));
    }
    if args.rule.absolute && args.baseline.is_none() {
        return Err(CliError::new("--absolute takes a --baseline to compare with"));
    }
    let plans = BenchPlan::all(args)?;
    let is_open =
        |plan: &BenchPlan| plan.loads.iter().any(|load| load.arrivals != Arrivals::Closed);
    if args.no_waits && args.baseline.is_some() && plans.iter().any(is_open) {
        return Err(CliError::new(
            "an open loop (--rate, --sweep) is judged by its waits, and --no-waits leaves none",
        ));
    }
    if let Some(name) = &args.rule.reference
        && !plans.iter().any(|plan| plan.locks.contains(name))
    {
        let why = format!("--reference {name}: that lock is not measured; add it to --locks");
        return Err(CliError::new(why));
    }
    let rule = args.rule.rule();
    if let Some(old) = &baseline {
        let planned = plans.iter().flat_map(|plan| {
            let locks: Vec<(&str, usize)> =
                plan.locks.iter().map(|lock| (lock.as_str(), plan.rounds)).collect();
            plan.loads.iter().map(move |load| Rounds { load, locks: locks.clone() })
        });
        let planned: Vec<Rounds<'_>> = planned.collect();
        baseline::check(old, &MachineInfo::read(), &planned, &rule)?;
    }
    let comparisons: Vec<Comparison> =
        plans.iter().map(|plan| comparison(plan, args.times_waits())).collect();
    for comparison in &comparisons {
        comparison.validate().map_err(|error| CliError::new(error.to_string()))?;
    }
    let cancel = handle_ctrl_c()?;
    let locks: BTreeSet<&String> = plans.iter().flat_map(|plan| &plan.locks).collect();
    let expected = comparisons.iter().map(|comparison| comparison.expected().as_secs_f64());
    let limits: Option<Duration> = plans.iter().map(|plan| plan.limit).sum();
    let most = limits.map_or(String::new(), |limit| {
        let limit = output::duration(limit.as_secs_f64());
        format!(", up to {limit} where rounds are disturbed")
    });
    output::print_error(&format!(
        "Measuring {} under {}, {}: about {}{most}. Ctrl-C ends it early.",
        output::count(locks.len(), "lock"),
        output::count(plans.iter().map(|plan| plan.loads.len()).sum(), "load"),
        output::count(plans[0].rounds, "round"),
        output::duration(expected.sum())
    ));
    let bar = progress_bar(comparisons.iter().map(Comparison::total_slices).sum());
    let measured = run_all(&comparisons, &bar, cancel);
    bar.finish_and_clear();
    let mut report = measured.map_err(|error| CliError::new(error.to_string()))?;
    report.reference.clone_from(&args.rule.reference);

    let mut text = table::render(&report, output::terminal_width());
    let compared = match (&baseline, &args.baseline) {
        (Some(old), Some(name)) if !report.cut_short => {
            let difference = Difference::between(old, &report, &rule);
            if let Ok(difference) = &difference {
                let name = output::printable(&name.to_string_lossy());
                text += &format!("\n{}", difference.render(&name));
            }
            Some(difference)
        }
        _ => None,
    };
    let printed = outputs.print(&text);
    // What was measured is kept, whatever comes of the comparison. (None of the files is the baseline.)
    outputs.write(&report)?;
    let compared = compared.transpose()?;
    // The files have the measurement even if it could not be printed.
    printed?;
    Ok(match compared {
        _ if report.cut_short => ExitOutcome::Interrupted,
        Some(difference) => difference.outcome(),
        None => ExitOutcome::Done,
    })
}

/// `lockword compare`: prints how the later report differs from the earlier one.
pub fn compare(args: &CompareArgs) -> Result<ExitOutcome, CliError> {
    let (old, new) = (file::read_report(&args.old)?, file::read_report(&args.new)?);
    let difference = Difference::between(&old, &new, &args.rule.rule())?;
    output::print(&difference.render(&output::printable(&args.old.to_string_lossy())))?;
    Ok(difference.outcome())
}

/// `lockword show`: prints the table of a report, and writes the files that are asked for.
pub fn show(args: &ShowArgs) -> Result<ExitOutcome, CliError> {
    let outputs = Outputs::check(&args.outputs, Some(("FILE", &args.file)))?;
    let report = file::read_report(&args.file)?;
    let printed = outputs.print(&table::render(&report, output::terminal_width()));
    outputs.write(&report)?;
    printed.map(|()| ExitOutcome::Done)
}

/// Runs the comparisons one after the other, and puts all cells into one report.
fn run_all(
    comparisons: &[Comparison],
    bar: &ProgressBar,
    cancel: &AtomicBool,
) -> Result<ComparisonReport, ComparisonError> {
    let mut whole: Option<ComparisonReport> = None;
    let mut before = 0;
    for comparison in comparisons {
        let report = comparison.run(&mut |progress| advance(bar, before, progress), cancel)?;
        before += comparison.total_slices();
        let whole = match &mut whole {
            None => whole.insert(report),
            Some(whole) => {
                whole.cells.extend(report.cells);
                whole.cut_short |= report.cut_short;
                let is_new = |warning: &String| !whole.warnings.contains(warning);
                let warnings: Vec<String> = report.warnings.into_iter().filter(is_new).collect();
                whole.warnings.extend(warnings);
                whole
            }
        };
        if whole.cut_short {
            break;
        }
    }
    whole.ok_or(ComparisonError::NoLoad)
}

/// The comparison that a plan describes.
pub fn comparison(plan: &BenchPlan, waits: bool) -> Comparison {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let command = std::iter::once("lockword".to_owned()).chain(words).collect();
    let comparison = Comparison::new().rounds(plan.rounds).waits(waits).command(command);
    let comparison = plan::add_locks(comparison, &plan.locks);
    let comparison = match plan.limit {
        Some(limit) => comparison.until_undisturbed(limit),
        None => comparison,
    };
    plan.loads.iter().cloned().fold(comparison, Comparison::load)
}

/// A progress bar on standard error. It draws nothing if that is no terminal or `TERM` is dumb.
fn progress_bar(slices: usize) -> ProgressBar {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let target = if dumb { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(slices as u64), target);
    let style = ProgressStyle::with_template("{bar:24} {percent:>3} %, {eta} left  {wide_msg}");
    bar.set_style(style.expect("the template is valid"));
    bar
}

/// Updates the bar. The comparison calls it between two slices, so that drawing disturbs none. `before`: slices of the
/// comparisons before it.
fn advance(bar: &ProgressBar, before: usize, progress: &Progress<'_>) {
    let Progress { cell, lock, round, .. } = progress;
    bar.set_message(format!("round {}: {lock}, {cell}", round + 1));
    let end = (before + progress.total) as u64;
    // Disturbed rounds are repeated.
    if bar.length().is_some_and(|length| length < end) {
        bar.set_length(end);
    }
    bar.set_position((before + progress.done) as u64);
}

/// Whether Ctrl-C was pressed.
static INTERRUPTED: AtomicBool = AtomicBool::new(false);

/// Installs the handler of Ctrl-C and returns the flag that the first Ctrl-C sets, which ends the
/// measurement. The second one ends the program.
fn handle_ctrl_c() -> Result<&'static AtomicBool, CliError> {
    ctrlc::set_handler(|| {
        if INTERRUPTED.swap(true, Ordering::Relaxed) {
            process::exit(exit::INTERRUPTED.into());
        }
    })
    .map_err(|error| CliError::new(format!("cannot watch for Ctrl-C: {error}")))?;
    Ok(&INTERRUPTED)
}
