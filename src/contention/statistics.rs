//! Medians, their confidence intervals, ratios; and [`WaitHistogram`], the distribution of waits.
//!
//! The samples of a lock benchmark are not normally distributed: a lock switches between modes, and
//! a host steals time. So everything here is based on order statistics, without a mean or a
//! standard deviation.

use super::report::{Sample, WaitPercentiles, Waits};
use hdrhistogram::Histogram;
use std::time::Duration;

/// The median of samples and its confidence interval.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Median {
    /// The median.
    pub mid: f64,
    /// The lower end of the 95 % confidence interval of the median.
    pub low: f64,
    /// The upper end of that interval.
    pub high: f64,
}

/// The median of samples in any order, with its 95 % confidence interval: [`median_at`] with 0.95.
///
/// # Panics
///
/// If there is no sample.
#[must_use]
pub fn median(samples: &[f64]) -> Median {
    median_at(samples, 0.95)
}

/// The median of samples in any order, with a distribution-free confidence interval of this level
/// (0 to 1): the narrowest pair of order statistics, equally far from both ends, that contains the
/// true median with at least that probability (by the binomial distribution). Too few samples
/// cannot give the level (fewer than six for 95 %); then the interval is their whole range.
///
/// # Panics
///
/// If there is no sample.
#[must_use]
pub fn median_at(samples: &[f64], level: f64) -> Median {
    assert!(!samples.is_empty(), "no samples");
    let sorted = sorted(samples);
    let skip = interval_skip(sorted.len(), 1.0 - level);
    Median { mid: quantile(&sorted, 0.5), low: sorted[skip], high: sorted[sorted.len() - 1 - skip] }
}

/// How many of `n` samples to leave out at either end: the largest `skip` for which the interval
/// misses the median with a probability `2 P(Binomial(n, 1/2) <= skip)` of at most `miss`.
fn interval_skip(n: usize, miss: f64) -> usize {
    // The logarithm, since the probability itself is too small for a float from 1075 samples on.
    let mut probability = n as f64 * 0.5_f64.ln();
    let mut tail = probability.exp();
    let mut skip = 0;
    while 2 * (skip + 1) < n {
        probability += ((n - skip) as f64 / (skip + 1) as f64).ln();
        tail += probability.exp();
        if 2.0 * tail > miss {
            break;
        }
        skip += 1;
    }
    skip
}

/// A copy of samples in ascending order.
#[must_use]
pub fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The quantile `q` (0 to 1) of samples in ascending order, interpolated between neighbours.
///
/// # Panics
///
/// If there is no sample.
#[must_use]
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let position = q * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = position.ceil() as usize;
    sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
}

/// The [`median`] of the ratios `over[i] / under[i]`. A drift from round to round cancels out in
/// these, which it does not in a ratio of two medians. Samples without a partner are left out.
///
/// # Panics
///
/// If there is no pair.
#[must_use]
pub fn paired_ratio(over: &[f64], under: &[f64]) -> Median {
    let ratios: Vec<f64> = over.iter().zip(under).map(|(a, b)| a / b).collect();
    median(&ratios)
}

/// The geometric mean of positive values, or `None` if there is no value.
#[must_use]
pub fn geometric_mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for value in values {
        sum += value.ln();
        count += 1;
    }
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

/// The smallest value, or `None` if there is no value.
#[must_use]
pub fn least(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    values.into_iter().min_by(f64::total_cmp)
}

/// The distribution of waits, each recorded to within 0.1 %, in an amount of memory that does not
/// depend on their number. Waits of more than an hour are recorded as one hour.
///
/// It is a high dynamic range histogram: Gil Tene, <https://hdrhistogram.github.io/HdrHistogram/>.
#[derive(Clone, Debug)]
pub struct WaitHistogram(Histogram<u64>);

/// The largest value of a histogram, in nanoseconds: an hour.
const MAX_WAIT_NS: u64 = 3_600_000_000_000;

impl WaitHistogram {
    /// An empty histogram.
    #[must_use]
    pub fn new() -> WaitHistogram {
        let empty = Histogram::new_with_bounds(1, MAX_WAIT_NS, 3);
        WaitHistogram(empty.expect("the bounds are in order, and there are 0 to 5 digits"))
    }

    /// Writes to all of its memory, so that recording the first waits causes no page fault.
    pub(super) fn touch(&mut self) {
        self.0.clear();
    }

    /// Records `count` waits of length `wait`.
    #[inline]
    pub fn record(&mut self, wait: Duration, count: u64) {
        let ns = u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX);
        self.0.saturating_record_n(ns, count);
    }

    /// Adds all waits of another histogram.
    pub fn add(&mut self, other: &WaitHistogram) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// The number of waits.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.len()
    }

    /// The longest wait in nanoseconds; 0 if there is none.
    #[must_use]
    pub fn max_ns(&self) -> u64 {
        self.0.max()
    }

    /// The quantile `q` (0 to 1) of the waits in nanoseconds; 0 if there is none.
    #[must_use]
    pub fn quantile_ns(&self, q: f64) -> u64 {
        self.0.value_at_quantile(q).min(self.0.max())
    }

    /// The figures for a report.
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

    /// The figures of one slice for a report.
    pub(super) fn percentiles(&self, slice: &Sample) -> WaitPercentiles {
        let at = |q| self.quantile_ns(q);
        WaitPercentiles {
            count: self.count(),
            p50: at(0.5),
            p99: at(0.99),
            p999: at(0.999),
            max: self.max_ns(),
            conditions: slice.conditions,
        }
    }

    /// Quantiles that approach 1: five for each halving of the share above them, until that share
    /// is less than one wait; then the longest wait.
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
    #[test]
    fn the_interval_is_the_binomial_one() {
        // The ranks as in textbooks: n = 5: all; 6: all; 10: 2nd to 9th; 20: 6th to 15th; 40: 14th
        // to 27th.
        for (n, skip) in [(1, 0), (5, 0), (6, 0), (9, 1), (10, 1), (20, 5), (40, 13)] {
            assert_eq!(interval_skip(n, 0.05), skip, "{n} samples");
        }
        // By the normal distribution: (n - 1.96 sqrt(n)) / 2.
        assert!(interval_skip(100_000, 0.05).abs_diff(49_690) <= 1);
        // A higher level takes more samples: 2 P(Binomial(20, 1/2) <= 3) is 0.26 %, and one of the
        // seven samples would be left out at 87.5 % only.
        assert_eq!((interval_skip(20, 0.0026), interval_skip(20, 0.0025)), (3, 2));
        assert_eq!((interval_skip(7, 0.126), interval_skip(7, 0.124)), (1, 0));
        assert_eq!((interval_skip(1, 1.0), interval_skip(2, 1.0)), (0, 0));
    }

    #[test]
    fn a_median_lies_in_its_interval() {
        let samples: Vec<f64> = (1..=10).rev().map(f64::from).collect();
        assert_eq!(median(&samples), Median { mid: 5.5, low: 2.0, high: 9.0 });
        assert_eq!(median(&[7.0]), Median { mid: 7.0, low: 7.0, high: 7.0 });
    }

    #[test]
    fn a_drift_cancels_out_in_paired_ratios() {
        // Each round is twice as slow as the one before, for both; the ratio is always 2.
        let under: Vec<f64> = (0..9).map(|round| 0.5_f64.powi(round)).collect();
        let over: Vec<f64> = under.iter().map(|speed| 2.0 * speed).collect();
        assert_eq!(paired_ratio(&over, &under), Median { mid: 2.0, low: 2.0, high: 2.0 });
        // Pairs are by position, and one without a partner is left out.
        assert_eq!(paired_ratio(&[6.0, 1.0, 99.0], &[2.0, 1.0]).mid, 2.0);
    }

    #[test]
    fn the_geometric_mean_the_least_and_quantiles() {
        assert_eq!(geometric_mean([]), None);
        assert!((geometric_mean([0.5, 2.0, 8.0]).unwrap() - 2.0).abs() < 1e-12);
        assert_eq!(least([3.0, -1.0, 2.0]), Some(-1.0));
        assert_eq!(quantile(&sorted(&[4.0, 1.0, 3.0, 2.0]), 0.5), 2.5);
        assert_eq!(quantile(&[1.0, 2.0], 1.0), 2.0);
    }

    fn of(waits: impl IntoIterator<Item = u64>) -> WaitHistogram {
        let mut histogram = WaitHistogram::new();
        waits.into_iter().for_each(|ns| histogram.record(Duration::from_nanos(ns), 1));
        histogram
    }

    fn about(found: u64, ns: u64) -> bool {
        found.abs_diff(ns) as f64 <= 0.001 * ns as f64
    }

    #[test]
    fn quantiles_are_exact_to_a_thousandth() {
        let waits = of((1..=10_000).map(|n| 100 * n)).summary();
        assert_eq!(waits.count, 10_000);
        assert!(about(waits.p50, 500_000) && about(waits.p99, 990_000), "{waits:?}");
        assert!(about(waits.p999, 999_000) && about(waits.max, 1_000_000), "{waits:?}");
    }

    #[test]
    fn the_curve_ascends_to_the_longest_wait() {
        let curve = of((1..=1_000).map(|n| n * n)).summary().curve;
        assert!(curve.is_sorted_by(|a, b| a.0 < b.0 && a.1 <= b.1), "{curve:?}");
        assert_eq!(curve.first().map(|point| point.0), Some(0.0));
        let (share, longest) = *curve.last().expect("not empty");
        assert!(share == 1.0 && about(longest, 1_000_000));
    }

    #[test]
    fn an_empty_histogram_is_zero_and_too_long_a_wait_counts_as_an_hour() {
        let none = WaitHistogram::new().summary();
        assert_eq!((none.count, none.p50, none.max, none.curve.len()), (0, 0, 0, 0));
        let long = of([u64::MAX]);
        assert!(long.count() == 1 && about(long.max_ns(), MAX_WAIT_NS));
    }

    #[test]
    fn histograms_add_up() {
        let mut both = of([10, 20]);
        both.add(&of([30]));
        both.record(Duration::from_nanos(40), 2);
        assert_eq!((both.count(), both.max_ns(), both.quantile_ns(0.5)), (5, 40, 30));
    }
}
