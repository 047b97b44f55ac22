//! A sealed value.
//!
//! | bytes | what |
//! |---|---|
//! | 7 | `lw-seal`: it is sealed |
//! | 1 | the format, 1 |
//! | 8 | the number of the key |
//! | 24 | the nonce, drawn for each write |
//! | n | sealed: the version that the write expected (8 bytes, big-endian; 0: no register), the length of the key's name (1 byte), the name, the value |
//! | 16 | the tag |
//!
//! XChaCha20-Poly1305 (RFC 8439; draft-irtf-cfrg-xchacha-03) seals it, by a [subkey](SealKey::subkey) of the
//! register. The associated data are the first 16 bytes and the stored name. A nonce of 192 bits can be drawn at
//! random for as many writes as anybody makes.

use super::error::SealError;
use super::keys::{SealKey, SealKeys};
use crate::cluster::protocol::register::{LARGEST, SEALED};
use crate::cluster::{Key, TransportError, Version, Versioned};
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};

const FORMAT: u8 = 1;
const HEADER: usize = SEALED.len() + 1 + 8;
const TAG: usize = 16;
/// How much longer than the value it is at most.
pub(super) const OVERHEAD: usize = HEADER + size_of::<Nonce>() + 8 + 1 + Key::MAX_LEN + TAG;

pub(super) type Nonce = [u8; 24];

/// What a sealed value has besides its value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Sight {
    /// The version of the register.
    pub(super) version: Version,
    /// The version that its write expected.
    pub(super) expected: Option<Version>,
    /// No two writes have the same.
    pub(super) nonce: Nonce,
}

impl Sight {
    /// The error for it. `newest` is the version that was seen before.
    pub(super) fn replayed(&self, stored: &Key, newest: Option<Version>) -> SealError {
        let Self { version, expected, .. } = *self;
        SealError::Replayed { stored: stored.clone(), version, expected, newest }
    }
}

/// A value that was opened.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) key: Key,
    pub(super) found: Versioned,
    pub(super) sight: Sight,
}

fn cipher(key: &SealKey, stored: &Key) -> XChaCha20Poly1305 {
    XChaCha20Poly1305::new((&*key.subkey(stored)).into())
}

fn associated(header: &[u8], stored: &Key) -> Vec<u8> {
    [header, stored.as_str().as_bytes()].concat()
}

/// Seals a value for the register that is stored under this name, and returns it with its nonce.
///
/// # Errors
///
/// [`TransportError::Unavailable`]: the system gives no random bytes.
pub(super) fn seal(
    keys: &SealKeys,
    stored: &Key,
    key: &Key,
    expected: Option<Version>,
    value: &[u8],
) -> Result<(Vec<u8>, Nonce), TransportError> {
    let mut nonce = Nonce::default();
    getrandom::fill(&mut nonce)
        .map_err(|why| TransportError::unavailable(format!("no random bytes: {why}")))?;
    let seals = keys.seals();
    let header = [SEALED, &[FORMAT], &seals.id].concat();
    let expected = expected.map_or(0, Version::get).to_be_bytes();
    let name = key.as_str().as_bytes();
    let length = u8::try_from(name.len()).expect("a key is short");
    let text = [&expected, &[length][..], name, value].concat();
    let payload = Payload { msg: &text, aad: &associated(&header, stored) };
    let sealed = cipher(seals, stored).encrypt(&XNonce::from(nonce), payload);
    let sealed = sealed.expect("a value is shorter than 256 GiB");
    Ok(([&header, &nonce[..], &sealed].concat(), nonce))
}

/// Opens what the register that is stored under this name has.
pub(super) fn open(keys: &SealKeys, stored: &Key, found: &Versioned) -> Result<Opened, SealError> {
    let forged = || SealError::Forged { stored: stored.clone() };
    let value = &*found.value;
    // What no node has written is not decrypted, which would take its time.
    if value.len() > LARGEST + OVERHEAD {
        return Err(forged());
    }
    let rest = value.strip_prefix(SEALED);
    let rest = rest.ok_or_else(|| SealError::NotSealed { stored: stored.clone() })?;
    let (&format, rest) = rest.split_first().ok_or_else(forged)?;
    if format != FORMAT {
        return Err(SealError::Format { stored: stored.clone(), format });
    }
    let (&id, rest) = rest.split_first_chunk().ok_or_else(forged)?;
    let (&nonce, sealed) = rest.split_first_chunk().ok_or_else(forged)?;
    let key = keys.opens(id);
    let key = key.ok_or_else(|| SealError::UnknownKey { stored: stored.clone(), id })?;
    let payload = Payload { msg: sealed, aad: &associated(&value[..HEADER], stored) };
    let opened = cipher(key, stored).decrypt(&XNonce::from(nonce), payload);
    let opened = opened.map_err(|_| forged())?;
    // From here on it is what a holder of the key has written.
    let (&expected, rest) = opened.split_first_chunk().ok_or_else(forged)?;
    let (&length, rest) = rest.split_first().ok_or_else(forged)?;
    let (name, value) = rest.split_at_checked(length.into()).ok_or_else(forged)?;
    let expected = match u64::from_be_bytes(expected) {
        0 => None,
        number => Some(Version::new(number).map_err(|_| forged())?),
    };
    let name = std::str::from_utf8(name).ok().and_then(|name| Key::new(name).ok());
    let name = name.filter(|name| keys.stored_name(name) == *stored).ok_or_else(forged)?;
    Ok(Opened {
        key: name,
        found: Versioned { version: found.version, value: value.into() },
        sight: Sight { version: found.version, expected, nonce },
    })
}

#[cfg(test)]
mod tests {
    use super::{Aead, HEADER, Payload, SealError, XNonce, cipher, open, seal};
    use crate::cluster::layers::SealKeys;
    use crate::cluster::protocol::register::LARGEST;
    use crate::cluster::{Key, Version, Versioned};

    fn key(name: &str) -> Key {
        Key::new(name).unwrap()
    }

    fn keys() -> SealKeys {
        SealKeys::new(&[1; 32], &[2; 32]).unwrap()
    }

    fn version(number: u64) -> Version {
        Version::new(number).unwrap()
    }

    fn found(value: Vec<u8>) -> Versioned {
        Versioned { version: version(9), value: value.into() }
    }

    fn is_forged(stored: &Key, value: Vec<u8>) -> bool {
        let forged = SealError::Forged { stored: stored.clone() };
        open(&keys(), stored, &found(value)).is_err_and(|why| why == forged)
    }

    /// The bytes are what the table says, and both parts of the associated data count.
    #[test]
    fn header_and_stored_name_are_authenticated() {
        let (keys, name) = (keys(), key("a/b"));
        let stored = keys.stored_name(&name);
        let (sealed, nonce) = seal(&keys, &stored, &name, Some(version(7)), b"value").unwrap();
        assert_eq!(sealed[16..40], nonce);
        let with = |aad: &[u8]| {
            let payload = Payload { msg: &sealed[40..], aad };
            cipher(keys.seals(), &stored).decrypt(&XNonce::from(nonce), payload)
        };
        let aad = [&sealed[..HEADER], stored.as_str().as_bytes()].concat();
        let text = with(&aad).unwrap();
        assert_eq!(text, [&7_u64.to_be_bytes()[..], &[3], b"a/b", b"value"].concat());
        for place in 0..aad.len() {
            let mut altered = aad.clone();
            altered[place] ^= 1;
            assert!(with(&altered).is_err(), "{place}");
        }
        // By whoever has the key: under another header it does not open.
        let mut other = aad.clone();
        other[0] ^= 1;
        let payload = Payload { msg: &text, aad: &other };
        let altered = cipher(keys.seals(), &stored).encrypt(&XNonce::from(nonce), payload).unwrap();
        assert!(is_forged(&stored, [&sealed[..40], &altered].concat()));
    }

    /// Each register has a key of its own, so that what fits under one fits under no other.
    #[test]
    fn subkeys_differ() {
        let keys = keys();
        let [a, b] = ["a", "b"].map(|name| keys.seals().subkey(&keys.stored_name(&key(name))));
        assert_ne!(*a, *b);
    }

    #[test]
    fn the_name_under_the_seal_is_that_of_the_register() {
        let keys = keys();
        let stored = keys.stored_name(&key("a"));
        let (good, _) = seal(&keys, &stored, &key("a"), None, b"value").unwrap();
        let opened = open(&keys, &stored, &found(good)).unwrap();
        assert_eq!((opened.key, &*opened.found.value), (key("a"), &b"value"[..]));
        let (other, _) = seal(&keys, &stored, &key("b"), None, b"value").unwrap();
        assert!(is_forged(&stored, other));
    }

    #[test]
    fn what_is_too_long_is_not_decrypted() {
        let keys = keys();
        let stored = keys.stored_name(&key("a"));
        let (longest, _) =
            seal(&keys, &stored, &key(&"a".repeat(Key::MAX_LEN)), None, &vec![0; LARGEST]).unwrap();
        assert_eq!(longest.len(), LARGEST + super::OVERHEAD);
        let (longer, _) = seal(&keys, &stored, &key("a"), None, &vec![0; 2 * LARGEST]).unwrap();
        assert!(is_forged(&stored, longer));
        // Also one that would say something else.
        assert!(is_forged(&stored, vec![b'x'; LARGEST + super::OVERHEAD + 1]));
    }
}
