//! Medians, their confidence intervals, ratios.
//!
//! Slices of a lock bench are not normally distributed (a lock flips between modes, a host
//! steals time), so everything here is by order statistics: no mean, no standard deviation.

/// The middle of some samples and how sure it is.
#[derive(Clone, Copy, Debug)]
pub struct Median {
    /// The median.
    pub mid: f64,
    /// Lower end of the 95 % confidence interval of the median.
    pub low: f64,
    /// Its upper end.
    pub high: f64,
}

/// The median with a distribution-free 95 % confidence interval: the narrowest pair of order
/// statistics, equally far from both ends, that holds the true median with at least that
/// probability (by the binomial distribution). Fewer than six samples cannot give 95 %; then
/// the interval is all of their range.
pub fn median(samples: &[f64]) -> Median {
    assert!(!samples.is_empty(), "no samples");
    let sorted = sorted(samples);
    let skip = interval_skip(sorted.len());
    Median { mid: quantile(&sorted, 0.5), low: sorted[skip], high: sorted[sorted.len() - 1 - skip] }
}

/// How many samples to leave out at either end: the largest `skip` for which the interval
/// misses the median with probability `2 P(Binomial(n, 1/2) <= skip)` of at most 5 %.
fn interval_skip(n: usize) -> usize {
    let mut probability = 0.5_f64.powi(n as i32);
    let mut tail = probability;
    let mut skip = 0;
    loop {
        probability *= (n - skip) as f64 / (skip + 1) as f64;
        tail += probability;
        if 2.0 * tail > 0.05 {
            return skip;
        }
        skip += 1;
    }
}

/// A copy in ascending order.
pub fn sorted(samples: &[f64]) -> Vec<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The quantile `q` of samples in ascending order, interpolated between neighbours.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let position = q * (sorted.len() - 1) as f64;
    let below = position.floor() as usize;
    let above = position.ceil() as usize;
    sorted[below] + (sorted[above] - sorted[below]) * (position - below as f64)
}

/// The ratio of `over[i]` to `under[i]`, round by round, then its [`median`]: what drifts from
/// round to round cancels out, which it does not in a ratio of two medians.
pub fn paired_ratio(over: &[f64], under: &[f64]) -> Median {
    let ratios: Vec<f64> = over.iter().zip(under).map(|(a, b)| a / b).collect();
    median(&ratios)
}

/// The geometric mean, or `None` of nothing.
pub fn geometric_mean(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    let (mut sum, mut count) = (0.0, 0);
    for value in values {
        sum += value.ln();
        count += 1;
    }
    (count > 0).then(|| (sum / f64::from(count)).exp())
}

/// The least of some values.
pub fn least(values: impl IntoIterator<Item = f64>) -> Option<f64> {
    values.into_iter().min_by(f64::total_cmp)
}
