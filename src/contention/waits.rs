//! [`WaitHistogram`]: how long acquisitions waited, in little memory however many there are.

use super::report::Waits;
use hdrhistogram::Histogram;
use std::time::Duration;

/// The waits of some acquisitions, each to within 0.1 %, up to an hour (longer ones count as one).
///
/// A high dynamic range histogram: Gil Tene, <https://hdrhistogram.github.io/HdrHistogram/>.
#[derive(Clone, Debug)]
pub struct WaitHistogram(Histogram<u64>);

/// The longest wait that is told from longer ones, in nanoseconds.
const LONGEST_NS: u64 = 3_600_000_000_000;

impl WaitHistogram {
    /// No wait so far.
    #[must_use]
    pub fn new() -> WaitHistogram {
        let empty = Histogram::new_with_bounds(1, LONGEST_NS, 3);
        WaitHistogram(empty.expect("the bounds are in order, and there are 0 to 5 digits"))
    }

    /// Writes to all of its memory, so that the first waits of a thread fault in no page.
    pub(super) fn touch(&mut self) {
        self.0.clear();
    }

    /// Notes `count` waits of `wait`.
    #[inline]
    pub fn note(&mut self, wait: Duration, count: u64) {
        let ns = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record_n(ns, count);
    }

    /// Adds all waits of another one.
    pub fn add(&mut self, other: &WaitHistogram) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// How many waits there are.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The longest, in nanoseconds; 0 if there is none.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.0.max()
    }

    /// The quantile `q` (0 to 1), in nanoseconds; 0 if there is no wait.
    #[must_use]
    pub fn quantile_ns(&self, q: f64) -> u64 {
        self.0.value_at_quantile(q).min(self.0.max())
    }

    /// The figures of a report.
    #[must_use]
    pub fn summary(&self) -> Waits {
        let at = |q| self.quantile_ns(q);
        Waits {
            count: self.count(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: self.max_ns(),
            curve: self.curve(),
        }
    }

    /// Quantiles that get closer and closer to 1: five for each halving of what remains above
    /// them, until less than one wait does; then the longest.
    fn curve(&self) -> Vec<(f64, u64)> {
        let count = self.count();
        if count == 0 {
            return vec![];
        }
        let mut curve = vec![];
        let mut above = 1.0;
        while above * count as f64 > 1.0 {
            for tick in 0..5 {
                let q = 1.0 - above * (1.0 - f64::from(tick) / 10.0);
                curve.push((q, self.quantile_ns(q)));
            }
            above /= 2.0;
        }
        curve.push((1.0, self.max_ns()));
        curve
    }
}

impl Default for WaitHistogram {
    fn default() -> Self {
        WaitHistogram::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(waits: impl IntoIterator<Item = u64>) -> WaitHistogram {
        let mut histogram = WaitHistogram::new();
        waits.into_iter().for_each(|ns| histogram.note(Duration::from_nanos(ns), 1));
        histogram
    }

    fn about(found: u64, ns: u64) -> bool {
        found.abs_diff(ns) as f64 <= 0.001 * ns as f64
    }

    #[test]
    fn quantiles_are_within_a_thousandth() {
        let waits = of((1..=10_000).map(|n| 100 * n)).summary();
        assert_eq!(waits.count, 10_000);
        assert!(about(waits.p50, 500_000) && about(waits.p99, 990_000), "{waits:?}");
        assert!(about(waits.p999, 999_000) && about(waits.max, 1_000_000), "{waits:?}");
    }

    #[test]
    fn a_curve_rises_to_the_longest() {
        let curve = of((1..=1_000).map(|n| n * n)).summary().curve;
        assert!(curve.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{curve:?}");
        assert_eq!(curve.first().map(|point| point.0), Some(0.0));
        let (share, longest) = *curve.last().expect("not empty");
        assert!(share == 1.0 && about(longest, 1_000_000));
    }

    #[test]
    fn none_and_too_long_are_fine() {
        let none = WaitHistogram::new().summary();
        assert_eq!((none.count, none.p50, none.max, none.curve.len()), (0, 0, 0, 0));
        let long = of([u64::MAX]);
        assert!(long.count() == 1 && about(long.max_ns(), LONGEST_NS));
    }

    #[test]
    fn histograms_add_up() {
        let mut both = of([10, 20]);
        both.add(&of([30]));
        both.note(Duration::from_nanos(40), 2);
        assert_eq!((both.count(), both.max_ns(), both.quantile_ns(0.5)), (5, 40, 30));
    }
}
