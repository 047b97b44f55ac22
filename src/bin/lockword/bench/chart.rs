//! [`Chart`]: curves with marks and whiskers, drawn as SVG; the charts of a report; and the
//! [`Palette`] of its locks.
//!
//! The charts of a [`LoadGroup`] show throughput, fairness and CPU time against the number of
//! threads, and the waits of each load. An axis is linear in the values that it gets: for a log
//! scale the caller passes logarithms, and the tick labels name the original values.

use super::ladder::{Ladder, PERCENTILES, Step};
use super::page::{LoadGroup, escape};
use super::plan;
use super::summary::{LoadSummary, LockSummary};
use crate::output;
use lockword::contention::{WaitPercentiles, Waits};
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;
use std::fmt::Write as _;
use std::ops::Range;

/// The width and height of a chart in its own pixels: about the width of a phone, so that text is
/// not scaled down there.
const SIZE: (u32, u32) = (400, 280);

/// The colours of text, axes and grid. The style sheet replaces them by variables.
const TEXT: RGBColor = RGBColor(51, 51, 51);
const AXIS: RGBColor = RGBColor(136, 136, 136);
const GRID: RGBColor = RGBColor(221, 221, 221);

/// An axis.
#[derive(Clone)]
pub struct Axis {
    /// What the axis shows.
    pub name: String,
    /// The lowest and the highest value.
    pub range: (f64, f64),
    /// The values that have a label, and the labels.
    pub ticks: Vec<(f64, String)>,
}

/// The curve of a lock.
pub struct Curve {
    /// The lock.
    pub lock: String,
    /// The points that the curve connects.
    pub points: Vec<(f64, f64)>,
    /// The points that have a mark.
    pub marks: Vec<(f64, f64)>,
    /// Vertical intervals: x, lower y, upper y.
    pub whiskers: Vec<(f64, f64, f64)>,
}

/// A chart with an x and a y axis.
pub struct Chart<'a> {
    /// The caption.
    pub title: String,
    /// The figures as text, for screen readers.
    pub description: String,
    /// The horizontal axis.
    pub x: Axis,
    /// The vertical axis.
    pub y: Axis,
    /// The curves; the first is drawn on top.
    pub curves: Vec<Curve>,
    /// The styles of the locks.
    pub palette: &'a Palette,
}

impl Ranged for Axis {
    type FormatOption = NoDefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, (from, to): (i32, i32)) -> i32 {
        let share = (value - self.range.0) / (self.range.1 - self.range.0);
        from + (f64::from(to - from) * share).round() as i32
    }

    fn key_points<Hint: KeyPointHint>(&self, hint: Hint) -> Vec<f64> {
        if hint.weight().allow_light_points() {
            return vec![];
        }
        self.ticks.iter().map(|(at, _)| *at).collect()
    }

    fn range(&self) -> Range<f64> {
        self.range.0..self.range.1
    }
}

impl ValueFormatter<f64> for Axis {
    fn format_ext(&self, value: &f64) -> String {
        let here = self.ticks.iter().find(|(at, _)| at == value);
        here.map_or_else(String::new, |(_, text)| text.clone())
    }
}

impl Chart<'_> {
    /// Appends the chart as an HTML figure.
    pub fn render(&self, out: &mut String) {
        let mut svg = String::new();
        let title = escape(&self.title);
        // Drawing into a string cannot fail.
        let drawn = self.draw(&mut svg).is_ok();
        // The outermost tag is replaced by one that has a label and no fixed size.
        let inner = svg.split_once('>').filter(|_| drawn).map_or("", |(_, inner)| inner);
        let (width, height) = SIZE;
        let description = escape(&self.description);
        let _ = writeln!(
            out,
            "<figure><figcaption>{title}</figcaption>\
             <svg class=\"chart\" role=\"img\" aria-label=\"{title}. {description}\" \
             viewBox=\"0 0 {width} {height}\">\
             {inner}</figure>"
        );
    }

    fn draw(&self, svg: &mut String) -> Result<(), Box<dyn std::error::Error>> {
        {
            let area = SVGBackend::with_string(svg, SIZE).into_drawing_area();
            let mut chart = ChartBuilder::on(&area)
                .margin_top(10)
                .margin_right(28)
                .x_label_area_size(46)
                .y_label_area_size(62)
                .build_cartesian_2d(self.x.clone(), self.y.clone())?;
            let text = ("sans-serif", 16).into_font().color(&TEXT);
            chart
                .configure_mesh()
                .disable_x_mesh()
                .axis_style(AXIS)
                .bold_line_style(GRID)
                .light_line_style(TRANSPARENT)
                .label_style(text.clone())
                .axis_desc_style(text)
                .x_desc(self.x.name.as_str())
                .draw()?;
            for curve in self.curves.iter().rev() {
                let colour = self.palette.colour(&curve.lock);
                for (x, from, to) in &curve.whiskers {
                    let line = vec![(*x, *from), (*x, *to)];
                    chart.draw_series([PathElement::new(line, colour.stroke_width(1))])?;
                }
                let line = PathElement::new(curve.points.clone(), colour.stroke_width(STROKE));
                chart.draw_series([line])?;
                let mark = |at: &(f64, f64)| {
                    EmptyElement::at(*at)
                        + Polygon::new(self.palette.mark(&curve.lock), colour.filled())
                };
                chart.draw_series(curve.marks.iter().map(mark))?;
            }
            area.present()?;
        }
        Ok(())
    }
}

/// The charts of a group of loads. Charts without any figure are left out.
pub fn charts<'a>(group: &LoadGroup<'_>, palette: &'a Palette) -> Vec<Chart<'a>> {
    let rate = |lock: &LockSummary<'_>| lock.rate.map(|rate| (rate.mid, rate.low, rate.high));
    let fairness = |lock: &LockSummary<'_>| lock.fairness.map(|share| (share, share, share));
    let cpu = |lock: &LockSummary<'_>| lock.cpu.map(|cpu| (cpu, cpu, cpu));
    let is_queue = group.summaries.iter().any(|summary| summary.cell.load.queue.is_some());
    let served = if is_queue { "Items a second" } else { "Acquisitions a second" };
    let mut charts = vec![
        against_threads(group, served, Scale::Rate, &rate, palette),
        against_threads(
            group,
            "Fairness: share of the luckier half",
            Scale::Fairness,
            &fairness,
            palette,
        ),
        against_threads(
            group,
            "CPU time for an acquisition (log scale)",
            Scale::Time,
            &cpu,
            palette,
        ),
    ];
    charts.extend(group.summaries.iter().map(|summary| waits(summary, palette)));
    charts.into_iter().flatten().collect()
}

/// The multiple of the highest median up to which intervals are drawn in full: one wide interval
/// must not flatten all curves.
const HEADROOM: f64 = 1.5;

/// The scale of a figure against the number of threads.
#[derive(Clone, Copy, PartialEq)]
enum Scale {
    /// Linear, from zero.
    Rate,
    /// Linear, from 0.5, which is fair, to 1.
    Fairness,
    /// Logarithmic: a spinning lock takes many times the CPU time of the others.
    Time,
}

/// A figure of a lock with its interval: median, lower and upper end.
type Figure<'f> = &'f dyn Fn(&LockSummary<'_>) -> Option<(f64, f64, f64)>;

/// The chart of a figure against the number of threads.
fn against_threads<'a>(
    group: &LoadGroup<'_>,
    title: &str,
    scale: Scale,
    figure: Figure<'_>,
    palette: &'a Palette,
) -> Option<Chart<'a>> {
    let position = |value: f64| if scale == Scale::Time { log(value) } else { value };
    // The numbers of threads are equally far apart on the axis.
    let count = group.summaries.len();
    let ticks = group
        .summaries
        .iter()
        .enumerate()
        .map(|(slot, summary)| (slot as f64, summary.cell.load.threads.to_string()));
    let x = Axis {
        name: "threads".to_owned(),
        range: (-0.5, count as f64 - 0.5),
        ticks: ticks.collect(),
    };
    let mut locks: Vec<&str> = vec![];
    for lock in group.summaries.iter().flat_map(|summary| &summary.locks) {
        if !locks.contains(&lock.lock) {
            locks.push(lock.lock);
        }
    }
    let mut curves = vec![];
    for (number, lock) in locks.iter().enumerate() {
        // The locks are shifted a little, so that their whiskers do not overlap.
        let shift = (number as f64 - (locks.len() - 1) as f64 / 2.0) * 0.06;
        let mut curve =
            Curve { lock: (*lock).to_owned(), points: vec![], marks: vec![], whiskers: vec![] };
        for (slot, summary) in group.summaries.iter().enumerate() {
            let found = summary.locks.iter().find(|found| found.lock == *lock);
            let Some((mid, low, high)) = found.and_then(figure) else { continue };
            if mid.is_finite() && low.is_finite() && high.is_finite() {
                let x = slot as f64 + shift;
                curve.points.push((x, position(mid)));
                curve.whiskers.push((x, position(low), position(high)));
            }
        }
        curve.marks.clone_from(&curve.points);
        curves.push(curve);
    }
    let ends = || curves.iter().flat_map(|curve| &curve.whiskers);
    let most = ends().map(|(_, _, high)| *high).max_by(f64::total_cmp)?;
    let least = ends().map(|(_, low, _)| *low).min_by(f64::total_cmp)?;
    let highest = curves.iter().flat_map(|curve| &curve.points).map(|(_, mid)| *mid);
    let highest = highest.max_by(f64::total_cmp)?;
    let y = match scale {
        Scale::Rate => linear_axis(most.min(HEADROOM * highest)),
        Scale::Fairness => Axis {
            name: String::new(),
            range: (0.48, 1.0),
            ticks: [0.5, 0.6, 0.7, 0.8, 0.9, 1.0]
                .map(|share| (share, format!("{share:.1}")))
                .into(),
        },
        Scale::Time => log_axis(least, most),
    };
    for (_, _, high) in curves.iter_mut().flat_map(|curve| &mut curve.whiskers) {
        *high = high.min(y.range.1);
    }
    let description = describe(group, figure, scale);
    Some(Chart { title: title.to_owned(), description, x, y, curves, palette })
}

/// The figures of a chart as text: one sentence for each number of threads.
fn describe(group: &LoadGroup<'_>, figure: Figure<'_>, scale: Scale) -> String {
    let text = |value: f64| match scale {
        Scale::Rate => output::rate(value),
        Scale::Fairness => format!("{value:.2}"),
        Scale::Time => output::time(value),
    };
    let sentence = |summary: &&LoadSummary<'_>| {
        let lock =
            |lock: &LockSummary<'_>| Some(format!("{} {}", lock.lock, text(figure(lock)?.0)));
        let locks: Vec<String> = summary.locks.iter().filter_map(lock).collect();
        format!("{}: {}.", plan::describe_threads(&summary.cell.load), locks.join(", "))
    };
    group.summaries.iter().map(sentence).collect::<Vec<_>>().join(" ")
}

/// The chart of the waits under one load: time against percentile, both on log scales.
fn waits<'a>(summary: &LoadSummary<'_>, palette: &'a Palette) -> Option<Chart<'a>> {
    let mut curves = vec![];
    let mut sentences = vec![];
    for lock in &summary.locks {
        let Some(waits) = lock.waits else { continue };
        // The longest of n waits is drawn at the percentile above which there is one in n.
        let end = log(waits.count as f64);
        let position = |share: f64| (-(1.0 - share).log10()).min(end);
        let mut points: Vec<(f64, f64)> = waits
            .curve
            .iter()
            .map(|(share, ns)| (position(*share), log((*ns).max(1) as f64)))
            .collect();
        points.push((end, log(waits.max.max(1) as f64)));
        let mark = |(share, ns): (f64, u64)| (position(share), log(ns.max(1) as f64));
        curves.push(Curve {
            lock: lock.lock.to_owned(),
            points,
            marks: named(waits).map(mark).into(),
            whiskers: vec![],
        });
        sentences.push(wait_sentence(lock.lock, waits));
    }
    let points = || curves.iter().flat_map(|curve| &curve.points);
    let most = points().map(|(_, ns)| *ns).max_by(f64::total_cmp)?;
    let least = points().map(|(_, ns)| *ns).min_by(f64::total_cmp)?;
    let end = points().map(|(share, _)| *share).max_by(f64::total_cmp)?.max(1.0);
    // Those of the table, and as many others as there is room for.
    let mut ticks = vec![(log(2.0), "50".to_owned())];
    let decades = (1..=end as usize).filter(|nines| end <= 5.0 || *nines == 2 || nines % 2 == 1);
    let decades = decades.filter(|nines| end <= 5.0 || *nines > 1);
    ticks.extend(decades.map(|decade| (decade as f64, percent(decade))));
    Some(Chart {
        title: format!("Waits, {} (log scales)", plan::describe_threads(&summary.cell.load)),
        description: sentences.join(" "),
        x: Axis { name: "percentile".to_owned(), range: (0.0, end), ticks },
        y: log_axis(least, most),
        curves,
        palette,
    })
}

/// The charts of a ladder: percentiles of the waits, on a log scale, against the rate of arrivals.
pub fn against_arrivals<'a>(ladder: &Ladder<'_>, palette: &'a Palette) -> Vec<Chart<'a>> {
    let chart = |(name, of): (&str, fn(&WaitPercentiles) -> u64)| {
        let curve = |lock: &str| {
            let at = |(at, step): (usize, &Step<'_>)| {
                Some((step.offered, log(ladder.percentile(lock, at, of)?.max(1.0))))
            };
            let points: Vec<(f64, f64)> = ladder.steps.iter().enumerate().filter_map(at).collect();
            Curve { lock: lock.to_owned(), marks: points.clone(), points, whiskers: vec![] }
        };
        let curves: Vec<Curve> = ladder.locks().into_iter().map(curve).collect();
        let waits = || curves.iter().flat_map(|curve| &curve.points).map(|(_, ns)| *ns);
        let most = waits().max_by(f64::total_cmp)?;
        let least = waits().min_by(f64::total_cmp)?;
        let x = linear_axis(ladder.steps.last()?.offered);
        let sentence = |curve: &Curve| {
            let ends = curve.points.first().zip(curve.points.last())?;
            let at = |(rate, ns): &(f64, f64)| {
                format!(
                    "{} at {} a second",
                    output::time(10f64.powf(*ns).round()),
                    output::rate(*rate)
                )
            };
            Some(format!("{}: {}, {}.", curve.lock, at(ends.0), at(ends.1)))
        };
        let sentences: Vec<String> = curves.iter().filter_map(sentence).collect();
        Some(Chart {
            title: format!("{name} of the waits"),
            description: sentences.join(" "),
            x: Axis { name: "arrivals a second".to_owned(), ..x },
            y: log_axis(least, most),
            curves,
            palette,
        })
    };
    PERCENTILES.into_iter().filter_map(chart).collect()
}

/// The percentiles that the tables show too, as shares.
fn named(waits: &Waits) -> [(f64, u64); 4] {
    [(0.5, waits.p50), (0.99, waits.p99), (0.999, waits.p999), (1.0, waits.max)]
}

/// The named percentiles of a lock's waits, as a sentence.
fn wait_sentence(lock: &str, waits: &Waits) -> String {
    let [p50, p99, p999, max] = named(waits).map(|(_, ns)| output::time(ns as f64));
    format!("{lock}: median {p50}, 99 percent {p99}, 99.9 percent {p999}, longest {max}.")
}

/// `90`, `99`, `99.9`: the percentile above which there is one wait in 10^`nines`.
fn percent(nines: usize) -> String {
    match nines {
        1 => "90".to_owned(),
        2 => "99".to_owned(),
        more => format!("99.{}", "9".repeat(more - 2)),
    }
}

/// The decimal logarithm of a value, of at least 0.001.
fn log(value: f64) -> f64 {
    value.max(1e-3).log10()
}

/// A linear axis from zero to a round value of at least `most`.
fn linear_axis(most: f64) -> Axis {
    let most = if most > 0.0 { most } else { 1.0 };
    let power = 10f64.powf((most / 5.0).log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|step| step * power).into_iter().find(|s| most / s <= 5.0);
    let step = step.unwrap_or(most);
    let steps = (most / step).ceil();
    let ticks =
        (0..=steps as usize).map(|n| n as f64 * step).map(|at| (at, output::round_rate(at)));
    Axis { name: String::new(), range: (0.0, steps * step), ticks: ticks.collect() }
}

/// A log axis of nanoseconds between two logarithms. Its ticks are powers of ten and, if these would be fewer than four, round
/// multiples of them too, since two ticks do not show a scale.
fn log_axis(least: f64, most: f64) -> Axis {
    const STEPS: [&[f64]; 3] = [&[1.0], &[1.0, 2.0, 5.0], &[1.0, 1.5, 2.0, 3.0, 5.0, 7.0]];
    // From a value to twice that at least.
    let most = most.max(least + log(2.0));
    let mut range = (0.0, 0.0);
    let mut ticks = vec![];
    for steps in STEPS {
        let powers = least.floor() as i32 - 1..=most.ceil() as i32 + 1;
        let round = powers.flat_map(|power| steps.iter().map(move |step| step * 10f64.powi(power)));
        let round: Vec<f64> = round.map(f64::log10).collect();
        // A value at the edge may be a little beyond it, by rounding.
        let low = round.iter().rev().find(|at| **at <= least + 1e-9).copied().unwrap_or(least);
        let high = round.iter().find(|at| **at >= most - 1e-9 && **at > low).copied();
        range = (low, high.unwrap_or(low + 1.0));
        ticks = round.into_iter().filter(|at| (range.0..=range.1).contains(at)).collect();
        if ticks.len() >= 4 {
            break;
        }
    }
    let skip = ticks.len().div_ceil(7);
    let label = |at: &f64| (*at, output::round_time(10f64.powf(*at)));
    Axis { name: String::new(), range, ticks: ticks.iter().step_by(skip).map(label).collect() }
}

/// How a lock is drawn. The colour is not the only difference between two locks.
///
/// The charts are drawn in the colours of the light page. The style sheet replaces each colour by a
/// variable, which it selects by the attribute that has the colour, so that a dark page can have
/// other colours. Without the style sheet the light ones remain.
struct LockStyle {
    light: RGBColor,
    dark: &'static str,
    /// The value of `stroke-dasharray`.
    dash: &'static str,
    /// The corners of the mark relative to the point, in pixels.
    mark: &'static [(i32, i32)],
}

/// Colours that people with any kind of colour vision can distinguish, after Okabe and Ito, made
/// darker or lighter for contrast.
const LOCK_STYLES: [LockStyle; 8] = [
    LockStyle { light: RGBColor(0, 92, 197), dark: "#6CB0FF", dash: "none", mark: CIRCLE },
    LockStyle { light: RGBColor(196, 78, 0), dark: "#FF9A4D", dash: "7 3", mark: SQUARE },
    LockStyle { light: RGBColor(0, 122, 92), dark: "#3FD6A4", dash: "2 3", mark: TRIANGLE },
    LockStyle { light: RGBColor(168, 58, 130), dark: "#F29BCB", dash: "9 3 2 3", mark: DIAMOND },
    LockStyle { light: RGBColor(122, 96, 0), dark: "#E3C34A", dash: "12 4", mark: UPSIDE_DOWN },
    LockStyle { light: RGBColor(86, 86, 96), dark: "#B9BCC8", dash: "4 2", mark: CROSS },
    LockStyle { light: RGBColor(104, 60, 180), dark: "#BFA2FF", dash: "9 2 2 2 2 2", mark: BAR },
    LockStyle { light: RGBColor(150, 20, 40), dark: "#FF8A96", dash: "1 2", mark: BEAM },
];

const CIRCLE: &[(i32, i32)] = &[
    (4, 0),
    (3, 2),
    (2, 3),
    (0, 4),
    (-2, 3),
    (-3, 2),
    (-4, 0),
    (-3, -2),
    (-2, -3),
    (0, -4),
    (2, -3),
    (3, -2),
];
const SQUARE: &[(i32, i32)] = &[(-4, -4), (4, -4), (4, 4), (-4, 4)];
const TRIANGLE: &[(i32, i32)] = &[(0, -5), (5, 4), (-5, 4)];
const DIAMOND: &[(i32, i32)] = &[(0, -6), (5, 0), (0, 6), (-5, 0)];
const UPSIDE_DOWN: &[(i32, i32)] = &[(0, 5), (5, -4), (-5, -4)];
const CROSS: &[(i32, i32)] = &[
    (-1, -5),
    (1, -5),
    (1, -1),
    (5, -1),
    (5, 1),
    (1, 1),
    (1, 5),
    (-1, 5),
    (-1, 1),
    (-5, 1),
    (-5, -1),
    (-1, -1),
];
const BAR: &[(i32, i32)] = &[(-2, -6), (2, -6), (2, 6), (-2, 6)];
const BEAM: &[(i32, i32)] = &[(-6, -2), (6, -2), (6, 2), (-6, 2)];

/// The stroke width of a curve. Nothing else in a chart has it, so the style sheet can select
/// curves by it.
pub const STROKE: u32 = 2;

/// The locks of a report; the position determines the style.
pub struct Palette(Vec<String>);

impl Palette {
    /// Assigns a style to each of these locks, in their order. The styles repeat after eight.
    pub fn new<'a>(locks: impl Iterator<Item = &'a str>) -> Self {
        let mut names: Vec<String> = vec![];
        for lock in locks {
            if !names.iter().any(|name| name == lock) {
                names.push(lock.to_owned());
            }
        }
        Palette(names)
    }

    fn style(&self, lock: &str) -> &'static LockStyle {
        let index = self.0.iter().position(|name| name == lock).unwrap_or(0);
        &LOCK_STYLES[index % LOCK_STYLES.len()]
    }

    /// The lock's colour.
    pub fn colour(&self, lock: &str) -> RGBColor {
        self.style(lock).light
    }

    /// The corners of the lock's mark.
    pub fn mark(&self, lock: &str) -> Vec<(i32, i32)> {
        self.style(lock).mark.to_vec()
    }

    /// The CSS rules that replace the colours of the charts by those of the page.
    pub fn css(&self) -> String {
        let mut out = String::new();
        let (mut light, mut dark) = (String::new(), String::new());
        for (index, style) in LOCK_STYLES.iter().enumerate() {
            let hex = hex(style.light);
            let _ = write!(light, "--lock-{index}:{hex};");
            let _ = write!(dark, "--lock-{index}:{};", style.dark);
            let _ = writeln!(
                out,
                "[stroke=\"{hex}\"]{{stroke:var(--lock-{index})}}\
                 [fill=\"{hex}\"]{{fill:var(--lock-{index})}}\
                 polyline[stroke=\"{hex}\"][stroke-width=\"{STROKE}\"]{{stroke-dasharray:{}}}",
                style.dash
            );
        }
        format!(":root{{{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}\n{out}")
    }

    /// Appends a legend of these locks.
    pub fn legend<'a>(&self, out: &mut String, locks: impl Iterator<Item = &'a str>) {
        let present: Vec<&str> = locks.collect();
        let _ = writeln!(out, "<ul class=\"legend\">");
        for lock in self.0.iter().filter(|lock| present.contains(&lock.as_str())) {
            let (style, name) = (self.style(lock), escape(lock));
            let hex = hex(style.light);
            let mark: Vec<String> =
                style.mark.iter().map(|(x, y)| format!("{},{}", x + 20, y + 8)).collect();
            let _ = writeln!(
                out,
                "<li><svg width=\"40\" height=\"16\" aria-hidden=\"true\">\
                 <polyline fill=\"none\" stroke=\"{hex}\" stroke-width=\"{STROKE}\" \
                 points=\"0,8 40,8\"/><polygon fill=\"{hex}\" points=\"{}\"/></svg>{name}</li>",
                mark.join(" ")
            );
        }
        let _ = writeln!(out, "</ul>");
    }
}

/// The colour as plotters writes it.
fn hex(RGBColor(red, green, blue): RGBColor) -> String {
    format!("#{red:02X}{green:02X}{blue:02X}")
}

#[cfg(test)]
mod tests {
    use super::super::summary::{sample, summaries};
    use super::*;

    #[test]
    fn an_axis_has_more_than_two_ticks_and_holds_its_figures() {
        for (least, most) in [
            (110.0, 190.0),
            (100.0, 200.0),
            (1.0, 1.0),
            (95.0, 105.0),
            (7e2, 3e7),
            (1.0, 3e9),
            (20.0, 30.0),
        ] {
            let axis = log_axis(log(least), log(most));
            let labels: Vec<&str> = axis.ticks.iter().map(|(_, label)| label.as_str()).collect();
            assert!((3..=7).contains(&labels.len()), "{least} to {most}: {labels:?}");
            let (low, high) = axis.range;
            assert!(
                low <= log(least) + 1e-6 && log(most) <= high + 1e-6,
                "{least} to {most}: {labels:?}"
            );
            assert!(axis.ticks.iter().all(|(at, _)| (low..=high).contains(at)), "{labels:?}");
        }
    }

    #[test]
    fn a_wide_interval_does_not_flatten_the_curves() {
        let mut report = sample::report(vec![sample::cell(
            8,
            vec![sample::lock("lockword", 100.0, 0.05), sample::lock("std", 90.0, 0.05)],
        )]);
        // Two rounds of nine, so that the interval of the median reaches that far.
        for sample in &mut report.cells[0].locks[0].samples[..2] {
            sample.acquisitions.iter_mut().for_each(|count| *count *= 10);
        }
        let summaries = summaries(&report);
        let rate = summaries[0].locks[0].rate.unwrap();
        assert!(rate.high > 5.0 * rate.mid, "{rate:?}");
        let group = LoadGroup { title: String::new(), summaries: vec![&summaries[0]] };
        let palette = Palette::new(["lockword", "std"].into_iter());
        let chart = charts(&group, &palette).remove(0);
        let top = chart.y.range.1;
        assert!((1.5 * rate.mid..=2.5 * rate.mid).contains(&top), "{top} for {rate:?}");
        assert!(chart.curves.iter().flat_map(|c| &c.whiskers).all(|(_, _, high)| *high <= top));
    }
}
