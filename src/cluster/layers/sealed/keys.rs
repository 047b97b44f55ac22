//! The keys of sealed registers, and the file that has them.

use super::names;
use crate::cluster::Key;
use crate::cluster::engines::open_regular;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use std::error::Error;
use std::fmt::{self, Write as _};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

/// The longest file that is read, in bytes.
const LONGEST_FILE: u64 = 64 * 1024;

/// A number that tells keys apart and says nothing about them.
pub(super) type KeyId = [u8; 8];

/// The keys of [`Sealed`](super::Sealed): the *name key*, the key that seals, and perhaps another one that also
/// opens.
///
/// Each has 32 random bytes. A clone shares them. `Debug` shows their numbers, which say nothing about them. What this
/// type has of them is wiped from the memory when the last clone is dropped, as far as the compiler and the crates that
/// compute with them do it: of copies on the stack, in registers, in a swap file or a core dump nothing is promised,
/// nor for the caller's arrays.
///
/// ```
/// use lockword::cluster::Key;
/// use lockword::cluster::layers::SealKeys;
///
/// # let folder = std::env::temp_dir().join(format!("lockword-seal-keys-{}", std::process::id()));
/// # std::fs::create_dir_all(&folder)?;
/// let file = folder.join("seal.keys");
/// let keys = SealKeys::create_file(&file)?; // Once, on one machine; `lockword seal-key FILE` does the same.
/// let same = SealKeys::read(&file)?; // On every other one, with a copy of the file.
/// assert_eq!(keys, same);
/// assert!(SealKeys::create_file(&file).is_err()); // It is never overwritten.
///
/// // What an engine is to be told of a prefix of keys, to grant rights on it:
/// let key = keys.stored_name(&Key::new("jobs/nightly")?);
/// assert!(key.as_str().starts_with(&keys.stored_prefix("jobs/").unwrap()));
/// # std::fs::remove_dir_all(&folder)?;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
///
/// # The file
///
/// Text, of at most 64 KiB. Empty lines and lines that begin with `#` are left out. Each of the others is a word,
/// blanks, and a key as 64 hexadecimal digits:
///
/// ```text
/// # Keys of lockword. Keep this file secret.
/// name 6f1c...
/// seal 91ab...
/// open 0d4e...
/// ```
///
/// - `name`, once: the name key. **It never changes.** Two nodes with different name keys would lock different
///   registers.
/// - `seal`, once: the key with which new values are sealed. It opens values, too.
/// - `open`, at most once: another key that opens values. It is for
///   [rotation](super::Sealed#to-change-the-sealing-key).
///
/// By hand a key is made by `openssl rand -hex 32`.
#[derive(Clone)]
pub struct SealKeys(Arc<Keys>);

struct Keys {
    name: Prf,
    name_id: KeyId,
    seals: SealKey,
    also_opens: Option<SealKey>,
}

/// A key that seals and opens values.
pub(super) struct SealKey {
    pub(super) id: KeyId,
    key: Prf,
}

/// A pseudorandom function: HMAC-SHA-256 (RFC 2104) with a key. It is wiped when it is dropped.
#[derive(Clone)]
pub(super) struct Prf(Hmac<Sha256>);

impl Prf {
    pub(super) fn new(key: &[u8; 32]) -> Self {
        Self(Hmac::new_from_slice(key).expect("HMAC takes keys of any length"))
    }

    /// Its output for these parts one after the other, which must say where each of them ends.
    pub(super) fn output(&self, parts: &[&[u8]]) -> Zeroizing<[u8; 32]> {
        let mut mac = self.0.clone();
        parts.iter().for_each(|part| mac.update(part));
        Zeroizing::new(mac.finalize().into_bytes().into())
    }

    fn id(&self) -> KeyId {
        *self.output(&[b"lockword key id"]).first_chunk().expect("32 bytes")
    }
}

impl SealKey {
    fn new(key: &[u8; 32]) -> Self {
        let key = Prf::new(key);
        Self { id: key.id(), key }
    }

    /// The key for the values of the register that is stored under this name: HKDF-Expand of RFC 5869, without
    /// the extraction, since the key is random (section 3.3).
    pub(super) fn subkey(&self, stored: &Key) -> Zeroizing<[u8; 32]> {
        self.key.output(&[b"lockword sealed value", &[0], stored.as_str().as_bytes(), &[1]])
    }
}

impl SealKeys {
    /// The keys of these bytes, which must be random: the name key, and the key that seals.
    ///
    /// # Errors
    ///
    /// [`SealKeysError::Twice`] if they are the same.
    pub fn new(name: &[u8; 32], seal: &[u8; 32]) -> Result<Self, SealKeysError> {
        Self::of(name, seal, None)
    }

    /// The same with another key that opens values, in place of one that was there.
    ///
    /// # Errors
    ///
    /// [`SealKeysError::Twice`] if it is one of the others.
    pub fn also_opening(&self, key: &[u8; 32]) -> Result<Self, SealKeysError> {
        let other = SealKey::new(key);
        if [self.0.name_id, self.0.seals.id].contains(&other.id) {
            return Err(SealKeysError::Twice);
        }
        Ok(Self(Arc::new(Keys {
            name: self.0.name.clone(),
            name_id: self.0.name_id,
            seals: SealKey { id: self.0.seals.id, key: self.0.seals.key.clone() },
            also_opens: Some(other),
        })))
    }

    fn of(
        name: &[u8; 32],
        seal: &[u8; 32],
        open: Option<&[u8; 32]>,
    ) -> Result<Self, SealKeysError> {
        let (name, seals) = (Prf::new(name), SealKey::new(seal));
        let name_id = name.id();
        if name_id == seals.id {
            return Err(SealKeysError::Twice);
        }
        let keys = Self(Arc::new(Keys { name, name_id, seals, also_opens: None }));
        open.map_or(Ok(keys.clone()), |open| keys.also_opening(open))
    }

    /// The keys of a [file](Self#the-file).
    ///
    /// # Errors
    ///
    /// [`SealKeysError::File`] with an error of the system, and if it is no regular file, if it is longer than 64 KiB,
    /// or (Unix) if it is neither the user's nor root's, or other users of the machine can read or write it. Of
    /// root's file the group may read, since nobody else could. Otherwise those of [`parse`](Self::parse).
    pub fn read(file: impl AsRef<Path>) -> Result<Self, SealKeysError> {
        let file = file.as_ref();
        let failed = |cause| SealKeysError::File { file: file.to_owned(), cause };
        let opened = open_regular(file).map_err(failed)?;
        check_rights(&opened).map_err(failed)?;
        // It does not grow, which would leave copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(LONGEST_FILE as usize + 2));
        opened.take(LONGEST_FILE + 1).read_to_end(&mut bytes).map_err(failed)?;
        if bytes.len() as u64 > LONGEST_FILE {
            return Err(failed(io::Error::other("it is longer than 64 KiB")));
        }
        let text = std::str::from_utf8(&bytes);
        Self::parse(text.map_err(|_| failed(io::Error::other("it is no text")))?)
    }

    /// The keys of the text of a [file](Self#the-file).
    ///
    /// # Errors
    ///
    /// [`SealKeysError::Line`], [`SealKeysError::Missing`], [`SealKeysError::Twice`].
    pub fn parse(text: &str) -> Result<Self, SealKeysError> {
        let mut found: [Option<Zeroizing<[u8; 32]>>; 3] = [None, None, None];
        for (number, line) in text.lines().enumerate() {
            let wrong = |why| SealKeysError::Line { number: number + 1, why };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (word, key) = line.split_once([' ', '\t']).ok_or(wrong("it has no key"))?;
            let place = WORDS.iter().position(|known| *known == word);
            let place = place.ok_or(wrong("it begins with none of name, seal, open"))?;
            let key = from_hex(key.trim()).ok_or(wrong("a key is 64 hexadecimal digits"))?;
            if found[place].replace(key).is_some() {
                return Err(wrong("there is one like it before"));
            }
        }
        let [name, seal, open] = &found;
        let missing = |word| SealKeysError::Missing { word };
        let name = name.as_deref().ok_or(missing(WORDS[0]))?;
        Self::of(name, seal.as_deref().ok_or(missing(WORDS[1]))?, open.as_deref())
    }

    /// Draws new keys, and writes them to a new [file](Self#the-file) that only its owner can read (Unix).
    ///
    /// # Errors
    ///
    /// [`SealKeysError::File`]: also if there is a file of this name, which is never overwritten.
    pub fn create_file(file: impl AsRef<Path>) -> Result<Self, SealKeysError> {
        let file = file.as_ref();
        let failed = |cause| SealKeysError::File { file: file.to_owned(), cause };
        let mut text = Zeroizing::new(String::with_capacity(1024));
        text.push_str(
            "# Keys of lockword. Keep this file secret, and never change the line `name`.\n",
        );
        for word in &WORDS[..2] {
            let mut key = Zeroizing::new([0; 32]);
            getrandom::fill(&mut *key).map_err(|why| failed(io::Error::other(why.to_string())))?;
            text.push_str(word);
            text.push(' ');
            for byte in *key {
                let _ = write!(text, "{byte:02x}");
            }
            text.push('\n');
        }
        let keys = Self::parse(&text)?;
        let mut options = OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let mut created = options.open(file).map_err(failed)?;
        let written = created.write_all(text.as_bytes()).and_then(|()| created.sync_all());
        if let Err(why) = written {
            let _ = fs::remove_file(file);
            return Err(failed(why));
        }
        Ok(keys)
    }

    /// The key of the engine under which the register of `key` is stored. A key that begins with `@sealed/` is such a
    /// one, and stays as it is.
    #[must_use]
    pub fn stored_name(&self, key: &Key) -> Key {
        names::of_key(&self.0.name, key)
    }

    /// What the stored names of all keys begin with that begin with `prefix`, and of no others: for rights on it.
    /// `None` if there is no such text: `prefix` is empty, does not end with a slash, or has more than seven segments. One
    /// that begins with `@sealed/` is such a text, and stays as it is.
    #[must_use]
    pub fn stored_prefix(&self, prefix: &str) -> Option<String> {
        let segments = prefix.matches('/').count();
        let longest = names::SEGMENTS + usize::from(prefix.starts_with(names::FOLDER));
        let is_whole = prefix.ends_with('/') && segments <= longest;
        is_whole.then(|| self.folder(prefix))
    }

    /// The same for the whole segments of `prefix`, of which seven count.
    pub(super) fn folder(&self, prefix: &str) -> String {
        names::prefix(&self.0.name, prefix)
    }

    /// The number of the name key.
    pub(super) fn name_id(&self) -> KeyId {
        self.0.name_id
    }

    pub(super) fn seals(&self) -> &SealKey {
        &self.0.seals
    }

    /// The key with this number.
    pub(super) fn opens(&self, id: KeyId) -> Option<&SealKey> {
        let Keys { seals, also_opens, .. } = &*self.0;
        [Some(seals), also_opens.as_ref()].into_iter().flatten().find(|key| key.id == id)
    }

    fn ids(&self) -> [Option<KeyId>; 3] {
        let Keys { name_id, seals, also_opens, .. } = &*self.0;
        [Some(*name_id), Some(seals.id), also_opens.as_ref().map(|key| key.id)]
    }
}

/// The same keys, each for the same purpose: by their numbers.
impl PartialEq for SealKeys {
    fn eq(&self, other: &Self) -> bool {
        self.ids() == other.ids()
    }
}

impl Eq for SealKeys {}

impl fmt::Debug for SealKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut shown = f.debug_struct("SealKeys");
        for (word, id) in WORDS.iter().zip(self.ids()) {
            if let Some(id) = id {
                shown.field(word, &format_args!("{}", Shown(id)));
            }
        }
        shown.finish()
    }
}

/// The number of a key, in hexadecimal.
pub(super) struct Shown(pub(super) KeyId);

impl fmt::Display for Shown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", u64::from_be_bytes(self.0))
    }
}

/// The first words of the lines.
const WORDS: [&str; 3] = ["name", "seal", "open"];

fn from_hex(text: &str) -> Option<Zeroizing<[u8; 32]>> {
    let mut key = Zeroizing::new([0; 32]);
    let digit = |byte: u8| char::from(byte).to_digit(16);
    if text.len() != 2 * key.len() {
        return None;
    }
    for (byte, two) in key.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = (digit(two[0])? << 4 | digit(two[1])?) as u8;
    }
    Some(key)
}

/// Refuses a file that users can read or write whom that does not concern, as `ssh` does.
#[cfg(unix)]
fn check_rights(file: &File) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let found = file.metadata()?;
    let user = rustix::process::geteuid().as_raw();
    let denied = |why| io::Error::new(io::ErrorKind::PermissionDenied, why);
    wrong_rights(found.uid(), found.mode(), user).map_or(Ok(()), |why| Err(denied(why)))
}

/// What is wrong with a file of this owner and mode for a process of `user`.
#[cfg(unix)]
fn wrong_rights(owner: u32, mode: u32, user: u32) -> Option<String> {
    if ![user, 0].contains(&owner) {
        return Some(format!("it is the file of another user ({owner}), who can change it"));
    }
    // The group of root's file is the way in which this process is to read it (secrets of containers, of systemd).
    let forbidden = if owner == user { 0o077 } else { 0o037 };
    let mode = mode & 0o777;
    (mode & forbidden != 0).then(|| {
        format!(
            "other users can read or write it (mode {mode:04o}): chmod go= it, and make new keys if one may have"
        )
    })
}

#[cfg(not(unix))]
fn check_rights(_: &File) -> io::Result<()> {
    Ok(())
}

/// Why there are no [`SealKeys`]. It has nothing of the keys.
#[derive(Debug)]
#[non_exhaustive]
pub enum SealKeysError {
    /// The file cannot be read or created, or must not be used.
    File {
        /// Its path.
        file: std::path::PathBuf,
        /// Why.
        cause: io::Error,
    },
    /// A line is none of a file of keys.
    Line {
        /// The number of the line, from 1.
        number: usize,
        /// What is wrong.
        why: &'static str,
    },
    /// There is no line that begins with this word.
    Missing {
        /// The word: `name` or `seal`.
        word: &'static str,
    },
    /// The same key is there for two purposes.
    Twice,
}

impl fmt::Display for SealKeysError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File { file, cause } => write!(f, "the file of keys {}: {cause}", file.display()),
            Self::Line { number, why } => write!(f, "the keys: line {number} is wrong: {why}"),
            Self::Missing { word } => {
                write!(
                    f,
                    "the keys: no line has the key `{word}`; `lockword seal-key FILE` makes such a file"
                )
            }
            Self::Twice => write!(f, "the keys: two of them are the same"),
        }
    }
}

impl Error for SealKeysError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::File { cause, .. } => Some(cause),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{SealKeys, SealKeysError};
    use std::{env, fs, process};

    fn hex(byte: u8) -> String {
        format!("{byte:02x}").repeat(32)
    }

    #[test]
    fn a_text_has_two_or_three_keys() {
        let [a, b, c] = [1, 0xAB, 3].map(hex);
        let two = SealKeys::parse(&format!("name {a}\nseal {b}\n")).unwrap();
        assert_eq!(two, SealKeys::new(&[1; 32], &[0xAB; 32]).unwrap());
        let text = format!("# x\r\n\r\n seal\t {}\r\nopen {c}\r\nname {a}", b.to_uppercase());
        let three = SealKeys::parse(&text).unwrap();
        assert_eq!(three, two.also_opening(&[3; 32]).unwrap());
        assert_ne!(three, two);
        for (text, why) in [
            (String::new(), "`name`"),
            (format!("name {a}"), "`seal`"),
            (format!("name {a}\nseal {a}"), "the same"),
            (format!("name {a}\nseal {b}\nopen {b}"), "the same"),
            (format!("name {a}\nseal {b}\nopen {a}"), "the same"),
            (format!("name {a}\nname {b}"), "line 2"),
            (format!("\nsecret {a}"), "line 2"),
            (format!("name {}", &a[1..]), "64"),
            (format!("name {a}0"), "64"),
            (format!("name {}g", &a[1..]), "64"),
            (format!("name {}+", &a[1..]), "64"),
            (a.clone(), "no key"),
        ] {
            let said = SealKeys::parse(&text).unwrap_err().to_string();
            assert!(said.contains(why) && !said.contains(&a[..8]), "{said}");
        }
    }

    /// Rights on what a text begins with that ends within a segment would be rights on more.
    #[test]
    fn only_a_prefix_of_whole_segments_has_a_stored_one() {
        let keys = SealKeys::new(&[1; 32], &[2; 32]).unwrap();
        for (prefix, is_whole) in [
            ("jobs/", true),
            ("a/b/c/d/e/f/g/", true),
            ("jobs", false),
            ("jobs/a", false),
            ("", false),
            ("a/b/c/d/e/f/g/h/", false),
        ] {
            let stored = keys.stored_prefix(prefix);
            assert_eq!(stored.is_some(), is_whole, "{prefix}");
            // One that is stored is itself.
            if let Some(stored) = stored {
                assert_eq!(keys.stored_prefix(&stored).as_ref(), Some(&stored));
                assert_eq!(keys.folder(&stored), stored);
            }
        }
    }

    #[test]
    fn debug_shows_nothing_of_a_key() {
        let keys = SealKeys::new(&[0x5A; 32], &[0xA5; 32]).unwrap();
        let shown = format!("{keys:?} {keys:#?}").to_lowercase();
        for secret in ["5a5a", "a5a5", "90, 90", "165, 165"] {
            assert!(!shown.contains(secret), "{shown}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_is_the_users_or_that_of_root() {
        for (owner, mode, user, is_right) in [
            (7, 0o600, 7, true),
            (7, 0o640, 7, false),
            (0, 0o600, 0, true),
            (0, 0o640, 0, false),
            (0, 0o440, 7, true),
            (0, 0o460, 7, false),
            (0, 0o444, 7, false),
            (8, 0o440, 7, false),
            (8, 0o600, 0, false),
        ] {
            let wrong = super::wrong_rights(owner, 0o100_000 | mode, user);
            assert_eq!(wrong.is_none(), is_right, "{owner} {mode:o} {user}: {wrong:?}");
        }
    }

    #[cfg(unix)]
    #[test]
    fn a_file_is_for_its_owner_alone_and_is_never_overwritten() {
        use std::os::unix::fs::PermissionsExt as _;
        let file = env::temp_dir().join(format!("lockword-seal-{}", process::id()));
        let keys = SealKeys::create_file(&file).unwrap();
        let text = fs::read(&file).unwrap();
        assert_eq!(SealKeys::read(&file).unwrap(), keys);
        let again = SealKeys::create_file(&file).unwrap_err();
        assert!(matches!(again, SealKeysError::File { .. }), "{again}");
        assert_eq!(fs::read(&file).unwrap(), text);
        for (mode, is_refused) in [
            (0o600, false),
            (0o400, false),
            (0o640, true),
            (0o604, true),
            (0o620, true),
            (0o602, true),
            (0o644, true),
        ] {
            fs::set_permissions(&file, fs::Permissions::from_mode(mode)).unwrap();
            let read = SealKeys::read(&file);
            assert_eq!(read.is_err(), is_refused, "{mode:o}");
            if let Err(why) = read {
                let mode = format!("{mode:04o}");
                assert!(why.to_string().contains(&mode), "{why}");
            }
        }
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&file, vec![b'\n'; 64 * 1024 + 1]).unwrap();
        assert!(SealKeys::read(&file).unwrap_err().to_string().contains("64 KiB"));
        fs::write(&file, [0xFF]).unwrap();
        assert!(SealKeys::read(&file).unwrap_err().to_string().contains("no text"));
        fs::remove_file(&file).unwrap();
        assert!(SealKeys::read(env::temp_dir()).unwrap_err().to_string().contains("no regular"));
        assert!(process::Command::new("mkfifo").arg(&file).status().unwrap().success());
        assert!(SealKeys::read(&file).unwrap_err().to_string().contains("no regular"));
        fs::remove_file(&file).unwrap();
    }
}
