//! The mark: a register under a reserved name that says with which name key the engine is in use.
//!
//! With another one a node would look at other registers, find them free, and take locks that are held. It is JSON,
//! and says nothing about the key:
//!
//! ```json
//! {"lockword_sealed":1,"name_key":"0011223344556677"}
//! ```

use super::error::SealError;
use super::keys::{KeyId, SealKeys, Shown};
use crate::cluster::{Exchange, Key, Transport, TransportError, Versioned, Wake, Write};
use serde::{Deserialize, Serialize};

/// The reserved name.
pub(super) const NAME: &str = "@lockword-sealed";

const FORMAT: u32 = 1;
/// How long a mark may be, in bytes, also one that later versions write.
const LONGEST: usize = 1024;

#[derive(Serialize, Deserialize)]
struct Mark {
    lockword_sealed: u32,
    name_key: String,
}

/// Whether an engine is in use by nodes that [seal](super::Sealed): one that does not would lock other registers than
/// they. Takes one load. It says nothing about engines that some use with and others without. A register of that name
/// which is none of theirs does not count.
///
/// # Errors
///
/// Those of [`Transport::load`].
pub async fn is_sealed(engine: &(impl Transport + ?Sized)) -> Result<bool, TransportError> {
    Ok(engine.load(&name()).await?.is_some_and(|found| id_in(&found).is_some()))
}

fn name() -> Key {
    Key::new(NAME).expect("short, and of the alphabet")
}

/// Checks that the engine is in use with this name key. If it is not in use, it is from now on.
///
/// # Errors
///
/// Those of the engine, and [`SealError::NameKey`] and [`SealError::Mark`]. Whatever became of the mark, nothing else
/// was written.
pub(super) async fn check(engine: &impl Transport, keys: &SealKeys) -> Result<(), TransportError> {
    let name = name();
    let ours = keys.name_id();
    let found = match engine.load(&name).await? {
        Some(found) => found,
        None => {
            let mark = Mark { lockword_sealed: FORMAT, name_key: Shown(ours).to_string() };
            let value = serde_json::to_vec(&mark).expect("a text and a number can be written");
            let write = Write { value: value.into(), wake: Wake::Nobody, idle: false };
            match engine.compare_exchange(&name, None, write).await {
                Ok(Exchange::Swapped(_)) => return Ok(()),
                Ok(Exchange::Mismatch(Some(found))) => found,
                Ok(Exchange::Mismatch(None)) => {
                    return Err(TransportError::unavailable(
                        "the mark of sealed registers was deleted",
                    ));
                }
                Err(TransportError::Indeterminate(why)) => {
                    return Err(TransportError::Unavailable(why));
                }
                Err(other) => return Err(other),
            }
        }
    };
    let theirs = id_in(&found).ok_or_else(|| SealError::Mark.refused())?;
    if theirs == ours { Ok(()) } else { Err(SealError::NameKey { theirs, ours }.refused()) }
}

fn id_in(found: &Versioned) -> Option<KeyId> {
    // Nobody has written so much, and reading it would take its time.
    if found.value.len() > LONGEST {
        return None;
    }
    let mark: Mark = serde_json::from_slice(&found.value).ok()?;
    let id = u64::from_str_radix(&mark.name_key, 16).ok()?;
    (mark.lockword_sealed == FORMAT).then_some(id.to_be_bytes())
}
