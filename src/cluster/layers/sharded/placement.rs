//! To which shard a key belongs: rendezvous hashing, with a hash that other programs can compute too.

/// FNV-1a, of 64 bits (Fowler, Noll, Vo): offset basis `cbf29ce484222325`, prime `100000001b3`.
fn fnv1a(text: &str) -> u64 {
    let step = |hash: u64, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
    text.bytes().fold(0xcbf2_9ce4_8422_2325, step)
}

/// The finalizer of splitmix64 (Steele, Lea, Flood 2014; the constants are Stafford's, variant 13): each bit of
/// the argument changes each bit of the result with a probability of about one half.
fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The part of the weights that hangs on the name of a shard.
pub(super) fn seed(name: &str) -> u64 {
    mix(fnv1a(name))
}

/// Of the shards with these seeds, in the order of their names, the number of the one to which `key` belongs: that
/// with the largest weight. Of equal weights the last one counts.
pub(super) fn place(key: &str, seeds: impl Iterator<Item = u64>) -> Option<usize> {
    let hash = fnv1a(key);
    let weights = seeds.map(|seed| mix(hash ^ seed)).enumerate();
    weights.max_by_key(|(_, weight)| *weight).map(|(number, _)| number)
}

#[cfg(test)]
mod tests {
    use super::{fnv1a, mix, place, seed};

    /// The vectors of the documentation, computed by another program.
    #[test]
    fn the_hash_is_the_documented_one() {
        assert_eq!((fnv1a("a"), mix(1)), (0xaf63_dc4c_8601_ec8c, 0x5692_161d_100b_05e5));
        for (name, key, weight) in [
            ("a", "jobs/nightly", 0xbff6_1d16_fbb6_2333),
            ("b", "jobs/nightly", 0xb645_ae50_8b7c_de8b),
            ("c", "jobs/nightly", 0x7808_7f7b_5790_e37e),
            ("redis-1", "k0", 0xa9b6_f0bd_cd3c_5b5a),
            ("redis-2", "k0", 0x7a5f_4550_064a_acf0),
        ] {
            assert_eq!(mix(fnv1a(key) ^ seed(name)), weight, "{name} {key}");
        }
    }

    #[test]
    fn equal_weights_go_to_the_larger_name() {
        assert_eq!(place("k", [7, 7].into_iter()), Some(1));
        assert_eq!(place("k", [].into_iter()), None);
    }
}
