//! `lockword bench`: measures, shows how far it is, and hands out what came of it.

use crate::args::BenchArgs;
use crate::baseline::{self, Difference, Rounds};
use crate::failure::{Failure, Outcome};
use crate::file::{self, Staged, Target};
use crate::preset::Plan;
use crate::{interrupt, locks, page, table, terminal, units};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use lockword::contention::{Comparison, Machine, Progress, Report};

/// Does it. All that can be refused is refused before the measurement begins.
pub fn bench(args: &BenchArgs) -> Result<Outcome, Failure> {
    let outputs = Outputs::check(args)?;
    let baseline = args.baseline.as_deref().map(file::read_report).transpose()?;
    let plan = Plan::new(args)?;
    let rule = args.rule.rule();
    if let Some(old) = &baseline {
        let names: Vec<String> = plan.loads.iter().map(|load| load.name()).collect();
        let locks: Vec<_> = plan.locks.iter().map(|lock| (lock.as_str(), plan.rounds)).collect();
        let rounds = |cell| Rounds { cell, locks: locks.clone() };
        let planned: Vec<Rounds<'_>> = names.iter().map(String::as_str).map(rounds).collect();
        baseline::check(old, &Machine::read(), &planned, &rule)?;
    }
    let comparison = comparison(&plan, !args.no_waits);
    let cancel = interrupt::watch()?;
    terminal::say(&format!(
        "Measuring {} under {}, {}: about {}. Ctrl-C ends it early.",
        units::count(plan.locks.len(), "lock"),
        units::count(plan.loads.len(), "load"),
        units::count(plan.rounds, "round"),
        units::duration(comparison.expected().as_secs_f64())
    ));
    let bar = bar(comparison.total_slices());
    let measured = comparison.run(&mut |progress| advance(&bar, progress), cancel);
    bar.finish_and_clear();
    let report = measured.map_err(|error| Failure::new(error.to_string()))?;

    let mut text = table::render(&report, terminal::width());
    let compared = match (&baseline, &args.baseline) {
        (Some(old), Some(name)) if !report.cut_short => {
            let difference = Difference::between(old, &report, &rule);
            if let Ok(difference) = &difference {
                let name = units::printable(&name.to_string_lossy());
                text += &format!("\n{}", difference.render(&name));
            }
            Some(difference)
        }
        _ => None,
    };
    let printed = terminal::print(&text);
    // The table shows what was measured; a file is only replaced after a comparison that was had.
    let compared = compared.transpose()?;
    outputs.write(&report)?;
    // What was measured is in the files, even if it could not be printed.
    printed?;
    Ok(match compared {
        _ if report.cut_short => Outcome::Interrupted,
        Some(difference) => difference.outcome(),
        None => Outcome::Done,
    })
}

/// The comparison that is planned.
pub fn comparison(plan: &Plan, waits: bool) -> Comparison {
    let words = std::env::args_os().skip(1).map(|word| word.to_string_lossy().into_owned());
    let command = std::iter::once("lockword".to_owned()).chain(words).collect();
    let comparison = Comparison::new().rounds(plan.rounds).waits(waits).command(command);
    let comparison = locks::add(comparison, &plan.locks);
    plan.loads.iter().cloned().fold(comparison, Comparison::load)
}

/// A bar on standard error; where that is no terminal, or a dumb one, it draws nothing.
fn bar(slices: usize) -> ProgressBar {
    let dumb = std::env::var_os("TERM").is_some_and(|term| term == "dumb");
    let target = if dumb { ProgressDrawTarget::hidden() } else { ProgressDrawTarget::stderr() };
    let bar = ProgressBar::with_draw_target(Some(slices as u64), target);
    let style = ProgressStyle::with_template("{bar:24} {percent:>3} %, {eta} left  {wide_msg}");
    bar.set_style(style.expect("the template is sound"));
    bar
}

/// Drawn between two slices, so that it disturbs none.
fn advance(bar: &ProgressBar, progress: &Progress<'_>) {
    let Progress { cell, lock, round, .. } = progress;
    bar.set_message(format!("round {}: {lock}, {cell}", round + 1));
    bar.set_position(progress.done as u64);
}

/// The files that were asked for.
struct Outputs {
    json: Option<Target>,
    html: Option<Target>,
}

impl Outputs {
    fn check(args: &BenchArgs) -> Result<Outputs, Failure> {
        let json = args.json.as_deref().map(Target::check).transpose()?;
        let html = args.html.as_deref().map(Target::check).transpose()?;
        if let (Some(json), Some(html)) = (&json, &html)
            && json.is(html)
        {
            return Err(Failure::new("--json and --html are the same file"));
        }
        // What is slower than the baseline would become the next one's baseline.
        for (option, output) in [("--json", &json), ("--html", &html)] {
            if let (Some(output), Some(baseline)) = (output, &args.baseline)
                && output.is_at(baseline)
            {
                return Err(Failure::new(format!("{option} and --baseline are the same file")));
            }
        }
        Ok(Outputs { json, html })
    }

    fn write(&self, report: &Report) -> Result<(), Failure> {
        let mut staged = vec![];
        if let Some(json) = &self.json {
            let text = serde_json::to_string_pretty(report)
                .map_err(|error| Failure::new(format!("cannot write the report: {error}")))?;
            staged.push(json.stage(text + "\n")?);
        }
        if let Some(html) = &self.html {
            staged.push(html.stage(page::render(report))?);
        }
        // Both or none: what can still fail comes first.
        staged.sort_by_key(|staged| !staged.special());
        staged.into_iter().try_for_each(Staged::commit)
    }
}
