//! Random choices that a seed repeats.

/// A small generator of random numbers, one for each thread.
pub struct Rng(u64);

impl Rng {
    /// A generator of its own for each pair of `seed` and `stream`.
    pub fn new(seed: u64, stream: usize) -> Self {
        let mut rng = Rng(seed ^ (stream as u64 + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1);
        for _ in 0..4 {
            rng.next();
        }
        rng
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D)
    }

    /// A number from 0 to `n - 1`.
    pub fn below(&mut self, n: usize) -> usize {
        (((self.next() >> 32) * n as u64) >> 32) as usize
    }
}
