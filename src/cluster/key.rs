//! The key: the name of a lock.

use std::fmt;
use std::sync::Arc;

/// The name of a lock that nodes share: 1 to [`Key::MAX_LEN`] bytes, each an ASCII letter, a digit,
/// or one of `- _ . : / @`.
///
/// Other characters are not allowed (blanks, braces, quotation marks, control characters), so that every
/// engine can use the key as it is. Case matters. A slash has no special meaning.
///
/// A clone shares the text, and costs one increment.
///
/// ```
/// use lockword::cluster::Key;
///
/// assert_eq!(Key::new("jobs/nightly").unwrap().as_str(), "jobs/nightly");
/// let why = Key::new("jobs nightly").unwrap_err();
/// assert!(why.to_string().contains("' ' at byte 4"), "{why}");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// The longest key, in bytes.
    pub const MAX_LEN: usize = 200;

    /// The key of this name.
    ///
    /// # Errors
    ///
    /// [`KeyError`] if the name is empty, is too long, or has a character that is not allowed.
    pub fn new(name: &str) -> Result<Self, KeyError> {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.:/@".contains(c);
        if name.is_empty() {
            Err(KeyError::Empty)
        } else if name.len() > Self::MAX_LEN {
            Err(KeyError::TooLong { len: name.len() })
        } else if let Some((at, found)) = name.char_indices().find(|(_, c)| !allowed(*c)) {
            Err(KeyError::Character { found, at })
        } else {
            Ok(Self(name.into()))
        }
    }

    /// The key of any text: each byte that a key must not have, and each `@`, becomes `@` and two hexadecimal
    /// digits. So different texts have different keys, and a text without such bytes is its own key.
    ///
    /// ```
    /// use lockword::cluster::Key;
    ///
    /// assert_eq!(Key::escaped("jobs/nightly run").unwrap().as_str(), "jobs/nightly@20run");
    /// ```
    ///
    /// # Errors
    ///
    /// [`KeyError::Empty`], and [`KeyError::TooLong`] if the key would be: use a hash of the text then.
    pub fn escaped(text: &str) -> Result<Self, KeyError> {
        let name: String = text.bytes().map(Escaped).map(|byte| byte.to_string()).collect();
        Self::new(&name)
    }

    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A byte of a text, as [`Key::escaped`] writes it.
struct Escaped(u8);

impl fmt::Display for Escaped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_ascii_alphanumeric() || b"-_.:/".contains(&self.0) {
            write!(f, "{}", char::from(self.0))
        } else {
            write!(f, "@{:02X}", self.0)
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.0)
    }
}

impl std::str::FromStr for Key {
    type Err = KeyError;
    fn from_str(name: &str) -> Result<Self, KeyError> {
        Self::new(name)
    }
}

impl TryFrom<&str> for Key {
    type Error = KeyError;
    fn try_from(name: &str) -> Result<Self, KeyError> {
        Self::new(name)
    }
}

impl TryFrom<String> for Key {
    type Error = KeyError;
    fn try_from(name: String) -> Result<Self, KeyError> {
        Self::new(&name)
    }
}

impl TryFrom<&String> for Key {
    type Error = KeyError;
    fn try_from(name: &String) -> Result<Self, KeyError> {
        Self::new(name)
    }
}

impl TryFrom<&Key> for Key {
    type Error = KeyError;
    fn try_from(key: &Key) -> Result<Self, KeyError> {
        Ok(key.clone())
    }
}

/// The error of the conversion of a [`Key`] into itself, which cannot fail.
impl From<std::convert::Infallible> for KeyError {
    fn from(never: std::convert::Infallible) -> Self {
        match never {}
    }
}

/// Why a name is not a valid [`Key`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum KeyError {
    /// The name is empty.
    Empty,
    /// The name is longer than [`Key::MAX_LEN`].
    TooLong {
        /// The length of the name, in bytes.
        len: usize,
    },
    /// The name has a character that is not allowed.
    Character {
        /// The first such character.
        found: char,
        /// The position of that character in the name, in bytes.
        at: usize,
    },
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Empty => write!(f, "the key of a lock must not be empty"),
            Self::TooLong { len } => write!(
                f,
                "a key of {len} bytes is too long: at most {} bytes; use a hash of it",
                Key::MAX_LEN
            ),
            Self::Character { found, at } => {
                let mut bytes = [0; 4];
                let escaped =
                    found.encode_utf8(&mut bytes).bytes().map(|byte| Escaped(byte).to_string());
                write!(
                    f,
                    "a key must not have {found:?} at byte {at}: use ASCII letters, digits, and any of \
                     - _ . : / @; for another text write {} for it, as Key::escaped does",
                    escaped.collect::<String>()
                )
            }
        }
    }
}

impl std::error::Error for KeyError {}

#[cfg(test)]
mod tests {
    use super::{Key, KeyError};

    #[test]
    fn any_text_has_a_key_of_its_own() {
        let key = |text: &str| Key::escaped(text).unwrap().as_str().to_owned();
        for (text, expected) in [
            ("aZ09-_.:/", "aZ09-_.:/"),
            ("my job", "my@20job"),
            ("my@20job", "my@4020job"),
            ("ä{}\n", "@C3@A4@7B@7D@0A"),
        ] {
            assert_eq!(key(text), expected);
        }
        assert_eq!(Key::escaped(""), Err(KeyError::Empty));
        assert_eq!(Key::escaped(&" ".repeat(67)), Err(KeyError::TooLong { len: 201 }));
        let said = Key::new("my job").unwrap_err().to_string();
        assert!(said.contains("write @20 for it"), "{said}");
    }

    #[test]
    fn the_alphabet_and_the_length() {
        assert!(Key::new("aZ09-_.:/@").is_ok());
        assert!(Key::new(&"k".repeat(Key::MAX_LEN)).is_ok());
        assert_eq!(Key::new(""), Err(KeyError::Empty));
        assert_eq!(Key::new(&"k".repeat(201)), Err(KeyError::TooLong { len: 201 }));
        for (bad, found, at) in
            [("a b", ' ', 1), ("ä", 'ä', 0), ("ab{c}", '{', 2), ("a\n", '\n', 1)]
        {
            assert_eq!(Key::new(bad), Err(KeyError::Character { found, at }), "{bad:?}");
        }
    }
}
