//! The names of the files of a key.
//!
//! A small letter, a digit and `-`, `_` and `.` stand for themselves, every other character of a key is `%`
//! and two hexadecimal digits. A capital letter is one of the others, since some file systems take `A` and
//! `a` for the same name; a dot at the beginning is one, too. So no two keys have the same name. A name that
//! would be longer than the file system admits is cut, and gets `=` and a hash of the whole key. Two keys
//! could have the same hash: the register has the whole key in it, and one that is of another key is an
//! error.

use crate::cluster::Key;

/// The longest name of a file on the file systems that are admitted (`NAME_MAX`), in bytes.
const LONGEST: usize = 255;
/// What the name of a register ends with: the longest of the endings.
const REGISTER: &str = ".register";
const LOCK: &str = ".lock";
const NEW: &str = ".new";
const TIE: &str = ".tie";
/// The length of `=` and of 16 hexadecimal digits.
const HASH: usize = 17;

/// The names of the files of one key, or of the floor.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileNames {
    stem: String,
}

impl FileNames {
    pub(super) fn of(key: &Key) -> Self {
        let mut stem = String::with_capacity(key.as_str().len() + REGISTER.len());
        // Where it would have to be cut: never within an escape.
        let mut cut = 0;
        for (at, byte) in key.as_str().bytes().enumerate() {
            if stem.len() + HASH + REGISTER.len() <= LONGEST {
                cut = stem.len();
            }
            match byte {
                b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' => stem.push(char::from(byte)),
                b'.' if at > 0 => stem.push('.'),
                other => stem.push_str(&format!("%{other:02x}")),
            }
        }
        if stem.len() + REGISTER.len() > LONGEST {
            stem.truncate(cut);
            stem.push_str(&format!("={:016x}", hash(key.as_str().as_bytes())));
        }
        Self { stem }
    }

    /// Those of the floor. No key has them: the names of a key do not begin with a dot.
    pub(super) fn of_floor() -> Self {
        Self { stem: ".floor".to_owned() }
    }

    /// Those to which the file with this name belongs, and whether it is a register. `None`: it is none of
    /// a key.
    pub(super) fn of_file(name: &str) -> Option<(Self, bool)> {
        let ending = [REGISTER, LOCK, NEW, TIE].into_iter().find(|end| name.ends_with(end))?;
        let stem = &name[..name.len() - ending.len()];
        let names = Self { stem: stem.to_owned() };
        let is_of_key = stem.contains('=') || names.key().is_some();
        is_of_key.then_some((names, ending == REGISTER))
    }

    /// The key. `None`: it is not in the name, since that is too long for it, or this is no name of a key.
    pub(super) fn key(&self) -> Option<Key> {
        if !self.stem.is_ascii() {
            return None;
        }
        let mut text = String::new();
        let mut rest = self.stem.as_str();
        while let Some(first) = rest.chars().next() {
            let (byte, length) = match first {
                '%' => (u8::from_str_radix(rest.get(1..3)?, 16).ok()?, 3),
                other => (other as u8, 1),
            };
            text.push(char::from(byte));
            rest = &rest[length..];
        }
        // What is written otherwise is not of this crate.
        Key::new(&text).ok().filter(|key| Self::of(key) == *self)
    }

    /// The register.
    pub(super) fn register(&self) -> String {
        format!("{}{REGISTER}", self.stem)
    }

    /// What is locked while the register is written. It is never renamed.
    pub(super) fn lock(&self) -> String {
        format!("{}{LOCK}", self.stem)
    }

    /// The register to be, until it is renamed.
    pub(super) fn next(&self) -> String {
        format!("{}{NEW}", self.stem)
    }

    /// What the processes of a holder keep locked.
    pub(super) fn tie(&self) -> String {
        format!("{}{TIE}", self.stem)
    }
}

/// FNV-1a, of 64 bits.
pub(super) fn hash(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::{FileNames, LONGEST};
    use crate::cluster::Key;
    use std::collections::HashMap;

    fn names(key: &str) -> FileNames {
        FileNames::of(&Key::new(key).unwrap())
    }

    #[test]
    fn names_are_readable_and_lead_back_to_the_key() {
        for (key, register) in [
            ("jobs/nightly", "jobs%2fnightly.register"),
            ("a-b_c.d", "a-b_c.d.register"),
            ("A:@", "%41%3a%40.register"),
            (".", "%2e.register"),
            ("..x", "%2e.x.register"),
            ("a.lock", "a.lock.register"),
        ] {
            let names = names(key);
            assert_eq!(names.register(), register);
            assert_eq!(names.key().unwrap().as_str(), key);
            assert_eq!(FileNames::of_file(register), Some((names, true)));
        }
        // Not of a key: an escape where there is none, the wrong one, a character of no key, the floor.
        for foreign in ["%61", "%2E", "%2", "%zz", "%c3", "a b", "\u{e4}", ".floor", ".a", ""] {
            let register = format!("{foreign}.register");
            assert_eq!(FileNames::of_file(&register), None, "{register}");
        }
        assert_eq!(FileNames::of_file("README"), None);
    }

    /// All files of many keys, also as a file system sees them that does not tell `A` from `a`.
    #[test]
    fn no_two_keys_share_a_file_and_no_name_is_too_long() {
        let long = |first: &str, last: &str| {
            format!("{first}{}{last}", "/".repeat(Key::MAX_LEN - first.len() - last.len()))
        };
        let mut keys: Vec<String> =
            ["a", "A", "a/b", "a%", "a.lock", "a.new", "a.register", "a.tie", ".", "..", "floor"]
                .map(|key| key.replace('%', "@"))
                .to_vec();
        keys.extend([".floor", "a.lock.lock", "%2f".replace('%', ":").as_str()].map(str::to_owned));
        keys.extend([long("a", ""), long("A", ""), long("", "a"), long("", "b"), long("x", "b")]);
        // Around the length from which on names are cut.
        keys.extend(
            (230..=Key::MAX_LEN + 60).filter(|n| *n <= Key::MAX_LEN).map(|n| "b".repeat(n)),
        );
        keys.extend((60..90).map(|n| "C".repeat(n)));
        keys.extend((60..90).map(|n| format!("x{}", "C".repeat(n))));
        let mut files: HashMap<String, String> = HashMap::new();
        for key in &keys {
            let names = names(key);
            for file in [names.register(), names.lock(), names.next(), names.tie()] {
                assert!(file.len() <= LONGEST, "{key}: {file}");
                assert!(!file.contains('/') && !file.starts_with('.'), "{file}");
                let other = files.insert(file.to_lowercase(), key.clone());
                assert_eq!(other, None, "{key}: {file}");
                assert_eq!(FileNames::of_file(&file).unwrap().0, names, "{key}");
            }
            if !names.register().contains('=') {
                assert_eq!(names.key().unwrap().as_str(), key);
            }
        }
        assert!(names(&"C".repeat(Key::MAX_LEN)).register().contains("%43=")); // An escape is whole.
    }
}
