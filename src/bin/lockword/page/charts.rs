//! Which charts there are: throughput, fairness and CPU time against threads; the waits of each
//! load.

use super::Family;
use super::chart::{Axis, Chart, Curve};
use super::palette::Palette;
use crate::summary::{Block, Line};
use crate::{preset, units};
use lockword::contention::Waits;

/// The charts of a family; none that would be empty.
pub fn of<'a>(family: &Family<'_>, palette: &'a Palette) -> Vec<Chart<'a>> {
    let rate = |line: &Line<'_>| line.rate.map(|rate| (rate.mid, rate.low, rate.high));
    let dice = |line: &Line<'_>| line.dice.map(|dice| (dice, dice, dice));
    let cpu = |line: &Line<'_>| line.cpu.map(|cpu| (cpu, cpu, cpu));
    let mut charts = vec![
        against_threads(family, "Acquisitions a second", Scale::Rate, &rate, palette),
        against_threads(family, "Fairness: share of the luckier half", Scale::Dice, &dice, palette),
        against_threads(family, "CPU time for an acquisition", Scale::Time, &cpu, palette),
    ];
    charts.extend(family.blocks.iter().map(|block| waits(block, palette)));
    charts.into_iter().flatten().collect()
}

/// How a figure against threads is shown.
#[derive(Clone, Copy, PartialEq)]
enum Scale {
    /// From zero.
    Rate,
    /// From 0.5, which is fair, to 1.
    Dice,
    /// On a log scale: a spinning lock takes many times what the others take.
    Time,
}

/// A figure with its interval.
type Figure<'f> = &'f dyn Fn(&Line<'_>) -> Option<(f64, f64, f64)>;

fn against_threads<'a>(
    family: &Family<'_>,
    title: &str,
    scale: Scale,
    figure: Figure<'_>,
    palette: &'a Palette,
) -> Option<Chart<'a>> {
    let position = |value: f64| if scale == Scale::Time { log(value) } else { value };
    // A place for each number of threads, where the number of locks does not matter.
    let count = family.blocks.len();
    let ticks = family
        .blocks
        .iter()
        .enumerate()
        .map(|(place, block)| (place as f64, block.cell.load.threads.to_string()));
    let x = Axis {
        name: "threads".to_owned(),
        range: (-0.5, count as f64 - 0.5),
        ticks: ticks.collect(),
    };
    let mut locks: Vec<&str> = vec![];
    for line in family.blocks.iter().flat_map(|block| &block.lines) {
        if !locks.contains(&line.lock) {
            locks.push(line.lock);
        }
    }
    let mut curves = vec![];
    for (number, lock) in locks.iter().enumerate() {
        // A little beside each other, or their whiskers could not be told apart.
        let beside = (number as f64 - (locks.len() - 1) as f64 / 2.0) * 0.06;
        let mut curve =
            Curve { lock: (*lock).to_owned(), line: vec![], marks: vec![], whiskers: vec![] };
        for (place, block) in family.blocks.iter().enumerate() {
            let line = block.lines.iter().find(|line| line.lock == *lock);
            let Some((mid, low, high)) = line.and_then(figure) else { continue };
            if mid.is_finite() && low.is_finite() && high.is_finite() {
                let x = place as f64 + beside;
                curve.line.push((x, position(mid)));
                curve.whiskers.push((x, position(low), position(high)));
            }
        }
        curve.marks.clone_from(&curve.line);
        curves.push(curve);
    }
    let ends = || curves.iter().flat_map(|curve| &curve.whiskers);
    let most = ends().map(|(_, _, high)| *high).max_by(f64::total_cmp)?;
    let least = ends().map(|(_, low, _)| *low).min_by(f64::total_cmp)?;
    let y = match scale {
        Scale::Rate => from_zero(most),
        Scale::Dice => Axis {
            name: String::new(),
            range: (0.48, 1.0),
            ticks: [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
                .map(|share| (share, format!("{share:.1}")))
                .into(),
        },
        Scale::Time => decades(least, most),
    };
    let description = describe(family, figure, scale);
    Some(Chart { title: title.to_owned(), description, x, y, curves, palette })
}

/// The figures of a chart as a sentence for each number of threads.
fn describe(family: &Family<'_>, figure: Figure<'_>, scale: Scale) -> String {
    let text = |value: f64| match scale {
        Scale::Rate => units::rate(value),
        Scale::Dice => format!("{value:.2}"),
        Scale::Time => units::time(value),
    };
    let sentence = |block: &&Block<'_>| {
        let lock = |line: &Line<'_>| Some(format!("{} {}", line.lock, text(figure(line)?.0)));
        let locks: Vec<String> = block.lines.iter().filter_map(lock).collect();
        format!("{}: {}.", preset::threads(&block.cell.load), locks.join(", "))
    };
    family.blocks.iter().map(sentence).collect::<Vec<_>>().join(" ")
}

/// How long acquisitions waited: the share of them against the time, both on log scales.
fn waits<'a>(block: &Block<'_>, palette: &'a Palette) -> Option<Chart<'a>> {
    let mut curves = vec![];
    let mut sentences = vec![];
    for line in &block.lines {
        let Some(waits) = line.waits else { continue };
        // The longest of so many waits lies where one in so many is longer.
        let end = log(waits.count as f64);
        let place = |share: f64| (-(1.0 - share).log10()).min(end);
        let mut points: Vec<(f64, f64)> = waits
            .curve
            .iter()
            .map(|(share, ns)| (place(*share), log((*ns).max(1) as f64)))
            .collect();
        points.push((end, log(waits.max.max(1) as f64)));
        let mark = |(share, ns): (f64, u64)| (place(share), log(ns.max(1) as f64));
        curves.push(Curve {
            lock: line.lock.to_owned(),
            line: points,
            marks: named(waits).map(mark).into(),
            whiskers: vec![],
        });
        sentences.push(sentence(line.lock, waits));
    }
    let points = || curves.iter().flat_map(|curve| &curve.line);
    let most = points().map(|(_, ns)| *ns).max_by(f64::total_cmp)?;
    let least = points().map(|(_, ns)| *ns).min_by(f64::total_cmp)?;
    let end = points().map(|(share, _)| *share).max_by(f64::total_cmp)?.max(1.0);
    let nines = if end > 5.0 { 2 } else { 1 };
    let mut ticks = vec![(log(2.0), "50".to_owned())];
    let places = (1..=end as usize).filter(|place| *place == 1 || place % nines == 0);
    ticks.extend(places.map(|place| (place as f64, percent(place))));
    Some(Chart {
        title: format!("Waits, {}", preset::threads(&block.cell.load)),
        description: sentences.join(" "),
        x: Axis { name: "percent of the waits".to_owned(), range: (0.0, end), ticks },
        y: decades(least, most),
        curves,
        palette,
    })
}

/// The percentiles that have a name.
fn named(waits: &Waits) -> [(f64, u64); 4] {
    [(0.5, waits.p50), (0.99, waits.p99), (0.999, waits.p999), (1.0, waits.max)]
}

fn sentence(lock: &str, waits: &Waits) -> String {
    let [p50, p99, p999, max] = named(waits).map(|(_, ns)| units::time(ns as f64));
    format!("{lock}: median {p50}, 99 percent {p99}, 99.9 percent {p999}, longest {max}.")
}

/// 90, 99, 99.9: all but one in ten to the power of `nines`.
fn percent(nines: usize) -> String {
    match nines {
        1 => "90".to_owned(),
        2 => "99".to_owned(),
        more => format!("99.{}", "9".repeat(more - 2)),
    }
}

fn log(value: f64) -> f64 {
    value.max(1e-3).log10()
}

/// An axis from zero to a round figure.
fn from_zero(most: f64) -> Axis {
    let most = if most > 0.0 { most } else { 1.0 };
    let power = 10f64.powf((most / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|s| most / s <= 5.0);
    let step = step.unwrap_or(most);
    let steps = (most / step).ceil();
    let ticks = (0..=steps as usize).map(|n| n as f64 * step).map(|at| (at, units::round_rate(at)));
    Axis { name: String::new(), range: (0.0, steps * step), ticks: ticks.collect() }
}

/// A log axis of nanoseconds, whose ends are logarithms: powers of ten, and where they are few,
/// what lies between them too.
fn decades(least: f64, most: f64) -> Axis {
    let steps: &[f64] = if most - least < 2.0 { &[1.0, 2.0, 5.0] } else { &[1.0] };
    let powers = least.floor() as i32..=most.ceil() as i32;
    let round: Vec<f64> =
        powers.flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power))).collect();
    let low = round.iter().rev().find(|ns| ns.log10() <= least).copied().unwrap_or(1.0);
    let high = round.iter().find(|ns| ns.log10() >= most && **ns > low).copied();
    let high = high.unwrap_or(low * 10.0);
    let skip = if steps.len() == 1 && high / low > 2e6 { 2 } else { 1 };
    let between = round.iter().filter(|ns| (low..=high).contains(*ns));
    let ticks = between.step_by(skip).map(|ns| (ns.log10(), units::round_time(*ns)));
    let ticks = ticks.collect();
    Axis { name: String::new(), range: (low.log10(), high.log10()), ticks }
}
