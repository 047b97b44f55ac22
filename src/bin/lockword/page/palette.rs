//! [`Palette`]: each lock's colour, dash and mark. The colour alone must not tell them apart.
//!
//! The charts are drawn in the colours of the light page. The style sheet replaces each by a
//! variable, found by the very attribute that the colour stands in, so that a dark page has
//! colours of its own; a reader without the style sheet sees the light ones.

use super::text::escape;
use plotters::style::RGBColor;
use std::fmt::Write as _;

/// How a lock is drawn.
struct Look {
    light: RGBColor,
    dark: &'static str,
    /// As of `stroke-dasharray`.
    dash: &'static str,
    /// Corners around the point, in pixels.
    mark: &'static [(i32, i32)],
}

/// Colours that people with any kind of colour vision can tell apart, after Okabe and Ito, made
/// darker or lighter for contrast.
const LOOKS: [Look; 8] = [
    Look { light: RGBColor(0, 92, 197), dark: "#6CB0FF", dash: "none", mark: CIRCLE },
    Look { light: RGBColor(196, 78, 0), dark: "#FF9A4D", dash: "7 3", mark: SQUARE },
    Look { light: RGBColor(0, 122, 92), dark: "#3FD6A4", dash: "2 3", mark: TRIANGLE },
    Look { light: RGBColor(168, 58, 130), dark: "#F29BCB", dash: "9 3 2 3", mark: DIAMOND },
    Look { light: RGBColor(122, 96, 0), dark: "#E3C34A", dash: "12 4", mark: UPSIDE_DOWN },
    Look { light: RGBColor(86, 86, 96), dark: "#B9BCC8", dash: "4 2", mark: CROSS },
    Look { light: RGBColor(104, 60, 180), dark: "#BFA2FF", dash: "9 2 2 2 2 2", mark: BAR },
    Look { light: RGBColor(150, 20, 40), dark: "#FF8A96", dash: "1 2", mark: BEAM },
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

/// The width of a lock's curve; nothing else in a chart has it.
pub const STROKE: u32 = 2;

/// The locks of a report, in the order of their looks.
pub struct Palette(Vec<String>);

impl Palette {
    /// Gives each of these locks a look, in their order. The ninth looks like the first.
    pub fn new<'a>(locks: impl Iterator<Item = &'a str>) -> Self {
        let mut names: Vec<String> = vec![];
        for lock in locks {
            if !names.iter().any(|name| name == lock) {
                names.push(lock.to_owned());
            }
        }
        Palette(names)
    }

    fn look(&self, lock: &str) -> &'static Look {
        let index = self.0.iter().position(|name| name == lock).unwrap_or(0);
        &LOOKS[index % LOOKS.len()]
    }

    /// The lock's colour.
    pub fn colour(&self, lock: &str) -> RGBColor {
        self.look(lock).light
    }

    /// The corners of the lock's mark.
    pub fn mark(&self, lock: &str) -> Vec<(i32, i32)> {
        self.look(lock).mark.to_vec()
    }

    /// The rules that turn the colours of the charts into those of the page.
    pub fn css(&self) -> String {
        let mut out = String::new();
        let (mut light, mut dark) = (String::new(), String::new());
        for (index, look) in LOOKS.iter().enumerate() {
            let hex = hex(look.light);
            let _ = write!(light, "--lock-{index}:{hex};");
            let _ = write!(dark, "--lock-{index}:{};", look.dark);
            let _ = writeln!(
                out,
                "[stroke=\"{hex}\"]{{stroke:var(--lock-{index})}}\
                 [fill=\"{hex}\"]{{fill:var(--lock-{index})}}\
                 polyline[stroke=\"{hex}\"][stroke-width=\"{STROKE}\"]{{stroke-dasharray:{}}}",
                look.dash
            );
        }
        format!(":root{{{light}}}\n@media (prefers-color-scheme: dark){{:root{{{dark}}}}}\n{out}")
    }

    /// Which look is whose, for those of these locks that are there.
    pub fn legend<'a>(&self, out: &mut String, locks: impl Iterator<Item = &'a str>) {
        let there: Vec<&str> = locks.collect();
        let _ = writeln!(out, "<ul class=\"legend\">");
        for lock in self.0.iter().filter(|lock| there.contains(&lock.as_str())) {
            let (look, name) = (self.look(lock), escape(lock));
            let hex = hex(look.light);
            let mark: Vec<String> =
                look.mark.iter().map(|(x, y)| format!("{},{}", x + 20, y + 8)).collect();
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
