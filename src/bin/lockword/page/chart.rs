//! [`Chart`]: curves with marks and whiskers, drawn as SVG.
//!
//! An axis is linear in what it is given; a logarithm is taken before, and the ticks say what the
//! positions stand for.

use super::palette::{Palette, STROKE};
use super::text::escape;
use plotters::coord::ranged1d::{KeyPointHint, NoDefaultFormatting, ValueFormatter};
use plotters::prelude::*;
use std::fmt::Write as _;
use std::ops::Range;

/// The size of a chart, in its own pixels: about that of a phone, so that nothing shrinks there.
const SIZE: (u32, u32) = (400, 280);

/// The colours of text and lines; the style sheet knows them.
const TEXT: RGBColor = RGBColor(51, 51, 51);
const AXIS: RGBColor = RGBColor(136, 136, 136);
const GRID: RGBColor = RGBColor(221, 221, 221);

/// An axis.
#[derive(Clone)]
pub struct Axis {
    /// What it shows.
    pub name: String,
    /// Its ends.
    pub range: (f64, f64),
    /// Where a label stands, and what it says.
    pub ticks: Vec<(f64, String)>,
}

/// A lock's curve.
pub struct Curve {
    /// The lock.
    pub lock: String,
    /// The line.
    pub line: Vec<(f64, f64)>,
    /// Where marks stand on it.
    pub marks: Vec<(f64, f64)>,
    /// Intervals: where, from, to.
    pub whiskers: Vec<(f64, f64, f64)>,
}

/// A chart.
pub struct Chart<'a> {
    /// Above it, for everybody.
    pub title: String,
    /// Instead of it, for those who do not see it.
    pub description: String,
    /// Across.
    pub x: Axis,
    /// Up.
    pub y: Axis,
    /// The curves; the first is drawn over the others.
    pub curves: Vec<Curve>,
    /// How they look.
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
    /// Writes it as a figure.
    pub fn render(&self, out: &mut String) {
        let mut svg = String::new();
        let title = escape(&self.title);
        // Drawing into a string cannot fail.
        let drawn = self.draw(&mut svg).is_ok();
        // The outermost tag gets a name, and leaves its size to the style sheet.
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
                let line = PathElement::new(curve.line.clone(), colour.stroke_width(STROKE));
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
