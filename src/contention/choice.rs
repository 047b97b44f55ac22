//! [`LockChooser`]: which lock a thread takes next.
//!
//! The choices of a thread are drawn beforehand into a table, which its loop reads cyclically: to
//! draw from Zipf's law takes a logarithm or a search, which would take longer than the lock.
//!
//! Zipf's law is sampled by inversion: the shares of the locks are added up, and a number between 0
//! and 1 falls into one of the sums. The numbers are drawn by stratified sampling, one at random in
//! each of as many equal intervals as the table has entries, so that the count of each lock in a
//! table is exact to within two entries. Then the table is shuffled (Fisher and Yates; Knuth, *The
//! Art of Computer Programming*, volume 2, algorithm P in section 3.4.2).

use super::load::Skew;

/// Chooses the lock of the next acquisition.
pub(super) trait LockChooser {
    /// The index of the lock.
    fn next(&mut self) -> usize;
}

/// Always the first lock.
pub(super) struct FirstLock;

/// Reads a table of choices cyclically.
pub(super) struct ChoiceTable {
    /// Their number is a power of two.
    indices: Box<[u32]>,
    at: usize,
}

/// The smallest and the largest number of entries of a table: 16 KiB and 256 KiB of memory.
const MIN_ENTRIES: usize = 1 << 12;
const MAX_ENTRIES: usize = 1 << 16;

impl LockChooser for FirstLock {
    #[inline(always)]
    fn next(&mut self) -> usize {
        0
    }
}

impl LockChooser for ChoiceTable {
    #[inline(always)]
    fn next(&mut self) -> usize {
        let index = self.indices[self.at & (self.indices.len() - 1)];
        self.at = self.at.wrapping_add(1);
        index as usize
    }
}

/// The cumulative shares of the locks; the last is 1.
pub(super) struct CumulativeShares(Vec<f64>);

impl CumulativeShares {
    pub(super) fn new(locks: usize, skew: Skew) -> CumulativeShares {
        let exponent = match skew {
            Skew::Uniform => 0.0,
            Skew::Zipf(exponent) => exponent,
        };
        let mut sum = 0.0;
        let mut sums: Vec<f64> = (1..=locks)
            .map(|number| {
                sum += (number as f64).powf(-exponent);
                sum
            })
            .collect();
        sums.iter_mut().for_each(|s| *s /= sum);
        CumulativeShares(sums)
    }

    /// The table of thread number `thread`; always the same for the same thread.
    pub(super) fn table(&self, thread: usize) -> ChoiceTable {
        let entries = (4 * self.0.len()).next_power_of_two().clamp(MIN_ENTRIES, MAX_ENTRIES);
        // The seed must not be 0, which xorshift never leaves: it is the product of two odd
        // numbers.
        let mut random = Xorshift(0x9E37_79B9_7F4A_7C15_u64.wrapping_mul(2 * thread as u64 + 1));
        let mut indices: Box<[u32]> = (0..entries)
            .map(|entry| {
                let number = (entry as f64 + random.fraction()) / entries as f64;
                let index = self.0.partition_point(|sum| *sum <= number);
                index.min(self.0.len() - 1) as u32
            })
            .collect();
        for last in (1..entries).rev() {
            indices.swap(last, random.below(last + 1));
        }
        ChoiceTable { indices, at: 0 }
    }
}

/// Marsaglia's generator xorshift ("Xorshift RNGs", 2003) with Vigna's multiplication of the
/// output.
struct Xorshift(u64);

impl Xorshift {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number from 0 to 1, exclusive.
    fn fraction(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    /// A number from 0 to `end`, exclusive.
    fn below(&mut self, end: usize) -> usize {
        (self.fraction() * end as f64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How often each lock occurs in the table of a thread.
    fn counts(locks: usize, skew: Skew, thread: usize) -> Vec<usize> {
        let mut table = CumulativeShares::new(locks, skew).table(thread);
        let mut counts = vec![0; locks];
        (0..table.indices.len()).for_each(|_| counts[table.next()] += 1);
        counts
    }

    #[test]
    fn uniform_is_even() {
        for locks in [1, 2, 3, 64, 100] {
            let counts = counts(locks, Skew::Uniform, 0);
            let (least, most) = (counts.iter().min(), counts.iter().max());
            assert!(most.unwrap() - least.unwrap() <= 2, "{locks} locks: {counts:?}");
        }
        assert_eq!(counts(10, Skew::Zipf(0.0), 1), counts(10, Skew::Uniform, 1));
    }

    #[test]
    fn zipf_has_the_shares_of_its_law() {
        for exponent in [0.5, 1.0, 2.0] {
            let locks = 100;
            let counts = counts(locks, Skew::Zipf(exponent), 3);
            let entries: usize = counts.iter().sum();
            let sum: f64 = (1..=locks).map(|k| (k as f64).powf(-exponent)).sum();
            for (k, count) in (1..).zip(&counts) {
                let expected = entries as f64 * f64::from(k).powf(-exponent) / sum;
                assert!((*count as f64 - expected).abs() <= 2.0, "lock {k}: {count}, {expected}");
            }
        }
    }

    #[test]
    fn an_extreme_exponent_chooses_only_the_first_lock() {
        let counts = counts(1_000, Skew::Zipf(1e300), 0);
        assert_eq!(counts[0], counts.iter().sum::<usize>());
    }

    #[test]
    fn threads_choose_differently_and_each_always_the_same() {
        let shares = CumulativeShares::new(16, Skew::Uniform);
        let table = |thread| shares.table(thread).indices;
        assert_eq!(table(0), table(0));
        assert_ne!(table(0), table(1));
        // An unshuffled table would be in the order of the locks.
        assert!(!table(0).is_sorted());
    }

    #[test]
    fn a_table_has_room_for_the_largest_number_of_locks() {
        let chosen = counts(super::super::Load::MAX_LOCKS, Skew::Uniform, 0);
        let used = chosen.iter().filter(|count| **count > 0).count();
        assert!(used > chosen.len() / 2, "{used} of {}", chosen.len());
    }
}
