//! What is in the file of a register: a line of text, and the value.
//!
//! ```text
//! lockword/dir 1 1795881600000000 used 163 9ae16a3b2f90404f jobs/nightly
//! {"lockword":"3.0", ...
//! ```
//!
//! The words are: the format, the version, whether the register is idle, the length of the value, a hash of
//! the rest of the line and of the value, and the key.

use super::names::hash;
use crate::cluster::{Version, Versioned};

/// The largest value, in bytes.
pub(super) const LARGEST_VALUE: usize = 64 * 1024;
/// No file of this engine is larger.
pub(super) const LARGEST_FILE: usize = LARGEST_VALUE + 512;

/// What every format begins with.
const ANY_FORMAT: &[u8] = b"lockword/dir ";
const FORMAT: &str = "lockword/dir 1";

/// A register, as it is in its file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Content {
    pub(super) versioned: Versioned,
    pub(super) idle: bool,
    /// The name of the key.
    pub(super) key: String,
}

impl Content {
    /// The file of a register.
    pub(super) fn write(version: Version, idle: bool, key: &str, value: &[u8]) -> Vec<u8> {
        let state = if idle { "idle" } else { "used" };
        let length = value.len();
        let hash = Self::hash(version, idle, key, value);
        let mut file = format!("{FORMAT} {version} {state} {length} {hash:016x} {key}\n");
        // One allocation, and one write.
        file.reserve_exact(length);
        let mut file = file.into_bytes();
        file.extend_from_slice(value);
        file
    }

    fn hash(version: Version, idle: bool, key: &str, value: &[u8]) -> u64 {
        let line = format!("{version} {idle} {key}");
        hash(&[&hash(line.as_bytes()).to_le_bytes(), value].concat())
    }
}

/// What was found in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Found {
    Register(Content),
    /// The file is empty or incomplete. A file is renamed to its name when it is complete, so the system has
    /// lost power in between, and the register with it.
    Lost,
    /// It is not of this crate, or of another version of it.
    Foreign(&'static str),
}

/// Reads what is in a file.
pub(super) fn read(file: &[u8]) -> Found {
    if file.iter().all(|byte| *byte == 0) {
        return Found::Lost;
    }
    if file.len() > LARGEST_FILE {
        return Found::Foreign("it is larger than any that lockword writes");
    }
    let known = FORMAT.len().min(file.len());
    if file[..known] != FORMAT.as_bytes()[..known] {
        let other = file.starts_with(ANY_FORMAT);
        return Found::Foreign(if other {
            "it is of another version of lockword: use the same in all processes"
        } else {
            "lockword did not write it"
        });
    }
    content(file).map_or(Found::Lost, Found::Register)
}

/// `None`: it is not complete.
fn content(file: &[u8]) -> Option<Content> {
    let end = file.iter().position(|byte| *byte == b'\n')?;
    let (line, value) = (str::from_utf8(&file[..end]).ok()?, &file[end + 1..]);
    let mut words = line.strip_prefix(FORMAT)?.strip_prefix(' ')?.split(' ');
    let version = Version::new(words.next()?.parse().ok()?).ok()?;
    let idle = match words.next()? {
        "idle" => true,
        "used" => false,
        _ => return None,
    };
    let length: usize = words.next()?.parse().ok()?;
    let hash = u64::from_str_radix(words.next()?, 16).ok()?;
    let key = words.next()?;
    let complete = words.next().is_none()
        && value.len() == length
        && Content::hash(version, idle, key, value) == hash;
    complete.then(|| Content {
        versioned: Versioned { version, value: value.into() },
        idle,
        key: key.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::{Content, Found, LARGEST_FILE, LARGEST_VALUE, read};
    use crate::cluster::{Key, Version};

    #[test]
    fn any_value_is_read_as_it_was_written() {
        let bytes: Vec<u8> = (0..=255).collect();
        for value in [&b""[..], b"\n", b"{}", &bytes, &[0; LARGEST_VALUE]] {
            for idle in [true, false] {
                let key = "k".repeat(Key::MAX_LEN);
                let file = Content::write(Version::MAX, idle, &key, value);
                assert!(file.len() <= LARGEST_FILE, "{}", file.len());
                let Found::Register(content) = read(&file) else { panic!("{value:?}") };
                assert_eq!((content.versioned.version, content.idle), (Version::MAX, idle));
                assert_eq!((&*content.versioned.value, &*content.key), (value, &*key));
            }
        }
    }

    #[test]
    fn a_file_that_is_not_complete_is_lost_and_a_strange_one_is_foreign() {
        let file = Content::write(Version::new(7).unwrap(), false, "a/b", b"{\"a\":1}");
        // The end is missing, or is zeros, as after a loss of power.
        for end in 0..file.len() {
            assert_eq!(read(&file[..end]), Found::Lost, "{end}");
            let mut zeros = file.clone();
            zeros[end..].fill(0);
            let lost_or_foreign = read(&zeros);
            let expected = if end > 0 && end < "lockword/dir 1".len() {
                matches!(lost_or_foreign, Found::Foreign(_) | Found::Lost)
            } else {
                lost_or_foreign == Found::Lost
            };
            assert!(expected, "{end}: {lost_or_foreign:?}");
        }
        for foreign in ["hello", "lockword/dir 2 7 used 0 0 a\n", "{}", "\n"] {
            assert!(matches!(read(foreign.as_bytes()), Found::Foreign(_)), "{foreign:?}");
        }
        assert!(matches!(read(&[b'x'; LARGEST_FILE + 1]), Found::Foreign(_)));
        // Somebody has edited the version.
        let text = String::from_utf8(file).unwrap().replace(" 7 ", " 9 ");
        assert_eq!(read(text.as_bytes()), Found::Lost);
    }
}
