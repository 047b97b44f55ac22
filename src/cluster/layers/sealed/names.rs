//! The names under which sealed registers are stored: hashed segment by segment.

use super::keys::Prf;
use crate::cluster::Key;

/// What all of them begin with.
pub(super) const FOLDER: &str = "@sealed/";
/// How many segments are hashed each by itself. Those after them are hashed together with the last one, since
/// a key has no room for more.
pub(super) const SEGMENTS: usize = 7;
/// 128 bits of a hash, as text.
const HASH_LEN: usize = 22;

const _: () = assert!(FOLDER.len() + (SEGMENTS + 1) * (HASH_LEN + 1) - 1 <= Key::MAX_LEN);

/// Whether this is a name under which a register is stored.
pub(super) fn is_stored(key: &Key) -> bool {
    key.as_str().starts_with(FOLDER)
}

/// The name under which the register of `key` is stored: `key` if it is such a name.
pub(super) fn of_key(name_key: &Prf, key: &Key) -> Key {
    if is_stored(key) {
        return key.clone();
    }
    let text = prefix(name_key, key.as_str()) + &hash(name_key, b"lockword name", key.as_str());
    Key::new(&text).expect("short, and of the alphabet")
}

/// What the stored names of all keys begin with that begin with the whole segments of `prefix`.
///
/// Each segment is hashed with those before it, so that segments of the same text under different ones have
/// nothing in common.
pub(super) fn prefix(name_key: &Prf, prefix: &str) -> String {
    if prefix.starts_with(FOLDER) {
        // It is one already.
        return prefix.to_owned();
    }
    let mut stored = FOLDER.to_owned();
    for (at, _) in prefix.match_indices('/').take(SEGMENTS) {
        stored += &hash(name_key, b"lockword segment", &prefix[..=at]);
        stored.push('/');
    }
    stored
}

/// 128 bits of the hash of `text`, in the alphabet `base64url` of RFC 4648.
fn hash(name_key: &Prf, purpose: &[u8], text: &str) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let hash = name_key.output(&[purpose, &[0], text.as_bytes()]);
    let bits = u128::from_be_bytes(*hash.first_chunk().expect("32 bytes"));
    let digit = |place: usize| {
        // The last digit has the two bits that are left, and four zeros.
        let shift = 122 - 6 * place as i32;
        let six = if shift >= 0 { bits >> shift } else { bits << -shift };
        char::from(ALPHABET[six as usize & 63])
    };
    (0..HASH_LEN).map(digit).collect()
}

#[cfg(test)]
mod tests {
    use super::{FOLDER, HASH_LEN, of_key, prefix};
    use crate::cluster::Key;
    use crate::cluster::layers::sealed::keys::Prf;
    use std::collections::HashSet;

    fn stored(name: &str) -> String {
        of_key(&Prf::new(&[1; 32]), &Key::new(name).unwrap()).as_str().to_owned()
    }

    /// Computed by Python's `hmac`, `hashlib` and `base64`.
    #[test]
    fn names_are_what_other_tools_compute() {
        assert_eq!(stored("jobs/nightly"), "@sealed/fT4-j9h185n0JAVmAz35_A/EjgT6BCSXgPZ-DDq_vdVZw");
    }

    #[test]
    fn a_prefix_of_whole_segments_is_a_prefix_of_what_is_stored() {
        let name_key = Prf::new(&[1; 32]);
        let deep = "a/b/c/d/e/f/g/h/i/j";
        for (at, _) in deep.match_indices('/') {
            let begun = prefix(&name_key, &deep[..=at]);
            assert!(stored(deep).starts_with(&begun), "{}", &deep[..=at]);
            // What follows the last slash changes nothing.
            assert_eq!(prefix(&name_key, &format!("{}x", &deep[..=at])), begun);
        }
        assert_eq!(prefix(&name_key, "jo"), FOLDER);
        assert!(!stored("jobs2/a").starts_with(&prefix(&name_key, "jobs/")));
    }

    #[test]
    fn different_names_share_segments_only_where_they_begin_alike() {
        let mut found = HashSet::new();
        let deep = ["a/b/c/d/e/f/g/h/1", "a/b/c/d/e/f/g/h/2", "a/b/c/d/e/f/g/h1", "/", "//", "a/"];
        for name in ["x", "y", "x/", "a", "/a", "a/x", "b/x", "A", "x//", "a:b"].iter().chain(&deep)
        {
            let stored = stored(name);
            let last = stored.rsplit('/').next().unwrap().to_owned();
            assert_eq!(last.len(), HASH_LEN);
            assert!(found.insert(last), "{name}");
        }
        let part =
            |name: &str, number: usize| stored(name).split('/').nth(number).unwrap().to_owned();
        assert_eq!(part("a/x", 1), part("a/y", 1));
        assert_ne!(part("a/x/1", 2), part("b/x/1", 2));
        let other = of_key(&Prf::new(&[2; 32]), &Key::new("a/x").unwrap());
        assert_ne!(other.as_str().split('/').nth(1).unwrap(), part("a/x", 1));
    }

    #[test]
    fn every_key_has_a_stored_name() {
        let longest = "/".repeat(Key::MAX_LEN);
        assert_eq!(stored(&longest).len(), 191);
        assert_eq!(stored("k").len(), FOLDER.len() + HASH_LEN);
    }
}
