//! A histogram of times that many threads fill at once, without a lock and without memory of its own.

use crate::primitive::{AtomicU64, Ordering};

/// Buckets in a power of two: a bucket is at most a sixteenth of its times wide.
const STEPS: usize = 1 << STEP_BITS;
const STEP_BITS: u32 = 4;
/// Times from 2^41 ns (37 minutes) on are all in the last bucket.
const BUCKETS: usize = (41 - STEP_BITS as usize + 1) * STEPS;

/// The bucket of a time.
fn bucket(ns: u64) -> usize {
    let power = ns.checked_ilog2().unwrap_or(0);
    let Some(shift) = power.checked_sub(STEP_BITS) else { return ns as usize };
    let bucket = (shift as usize * STEPS) + (ns >> shift) as usize;
    bucket.min(BUCKETS - 1)
}

/// The middle of a bucket, in nanoseconds.
fn middle(bucket: usize) -> u64 {
    if bucket < 2 * STEPS {
        return bucket as u64;
    }
    let shift = bucket / STEPS - 1;
    (((STEPS + bucket % STEPS) as u64) << shift) + (1 << shift) / 2
}

/// Times in nanoseconds, to a thirtieth: their distribution, their sum and the longest.
pub(super) struct Histogram {
    counts: [AtomicU64; BUCKETS],
    total_ns: AtomicU64,
    max_ns: AtomicU64,
}

// ORDERING: Relaxed, all of them. The counters tell nothing of other memory, and who reads them while threads count may
// miss the last of each. What a thread has counted before it ended is there for who has joined it.
impl Histogram {
    pub(super) fn record(&self, ns: u64) {
        self.counts[bucket(ns)].fetch_add(1, Ordering::Relaxed);
        self.total_ns.fetch_add(ns, Ordering::Relaxed);
        if ns > self.max_ns.load(Ordering::Relaxed) {
            self.max_ns.fetch_max(ns, Ordering::Relaxed);
        }
    }

    pub(super) fn reset(&self) {
        self.counts.iter().chain([&self.total_ns, &self.max_ns]).for_each(clear);
    }
}

/// Sets a counter to 0. Writes only if it is not: so a forked child copies few pages.
pub(super) fn clear(counter: &AtomicU64) {
    if counter.load(Ordering::Relaxed) != 0 {
        counter.store(0, Ordering::Relaxed);
    }
}

/// What histograms had at a moment.
#[derive(Clone, Debug)]
pub(super) struct Distribution {
    counts: Vec<u64>,
    pub(super) count: u64,
    pub(super) total_ns: u64,
    pub(super) max_ns: u64,
}

impl Distribution {
    pub(super) fn new() -> Self {
        Distribution { counts: vec![0; BUCKETS], count: 0, total_ns: 0, max_ns: 0 }
    }

    pub(super) fn add(&mut self, histogram: &Histogram) {
        for (sum, count) in self.counts.iter_mut().zip(&histogram.counts) {
            let count = count.load(Ordering::Relaxed);
            *sum += count;
            self.count += count;
        }
        self.total_ns += histogram.total_ns.load(Ordering::Relaxed);
        self.max_ns = self.max_ns.max(histogram.max_ns.load(Ordering::Relaxed));
    }

    /// The time that a share of the times did not exceed; 0 if there are none.
    pub(super) fn quantile(&self, share: f64) -> u64 {
        let rank = (self.count as f64 * share).ceil().max(1.0) as u64;
        let mut seen = 0;
        let reached = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        });
        match reached {
            // It has no end.
            Some(last) if last == BUCKETS - 1 => self.max_ns,
            reached => reached.map_or(0, middle).min(self.max_ns),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn empty() -> Histogram {
        Histogram {
            counts: [const { AtomicU64::new(0) }; BUCKETS],
            total_ns: AtomicU64::new(0),
            max_ns: AtomicU64::new(0),
        }
    }

    #[test]
    fn a_bucket_is_as_narrow_as_promised() {
        for power in 0..41 {
            for ns in
                [1 << power, (1 << power) * 17 / 16 - 1, (1 << power) * 4 / 3, (2 << power) - 1]
            {
                let middle = middle(bucket(ns));
                assert!(middle.abs_diff(ns) * 30 <= ns, "{ns} is shown as {middle}");
            }
        }
        let buckets: Vec<_> = (0..4_096).map(bucket).collect();
        assert!(buckets.is_sorted_by(|one, next| next - one <= 1), "no bucket is left out");
        assert_eq!([bucket(1 << 41), bucket(u64::MAX)], [BUCKETS - 1; 2]);
    }

    #[test]
    fn the_last_bucket_is_shown_as_the_longest_time() {
        let (times, mut all) = (empty(), Distribution::new());
        times.record(3 << 41);
        all.add(&times);
        assert_eq!(all.quantile(0.5), 3 << 41);
    }

    #[test]
    fn quantiles_and_sums_are_those_of_the_times() {
        let (one, other) = (empty(), empty());
        for us in 1..=1_000 {
            let half = if us % 2 == 0 { &one } else { &other };
            half.record(us * 1_000);
        }
        let mut all = Distribution::new();
        assert_eq!(all.quantile(0.5), 0);
        all.add(&one);
        all.add(&other);
        assert_eq!((all.count, all.total_ns, all.max_ns), (1_000, 500_500_000, 1_000_000));
        for (share, ns) in [(0.5, 500_000), (0.99, 990_000), (1.0, 1_000_000)] {
            assert!(all.quantile(share).abs_diff(ns) * 30 <= ns, "{}", all.quantile(share));
        }
        one.reset();
        let mut rest = Distribution::new();
        rest.add(&one);
        assert_eq!((rest.count, rest.total_ns, rest.max_ns), (0, 0, 0));
    }
}
