//! The mark of a shard: a register under a reserved key that says with which list of shards the shard is in use.
//!
//! It is JSON, so that an operator can read it with the engine's own tools:
//!
//! ```json
//! {"shard":"a","lockword_shards":1,"shards":{"a":0,"b":1764000000000000},"next":["a","b","c"]}
//! ```
//!
//! - `shard` is the name of the shard itself, so that an engine is not used under the name of another one.
//! - `shards` is the list that is or was in force, by name, each with what is added to the versions of its engine.
//!   Empty: none ever was.
//! - `next`, if it is there, is the list that is to come. Then none is in force.

use crate::cluster::{Key, Version};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// The reserved key. All reserved keys begin with it.
pub(super) const NAME: &str = "@lockword-shards";

const FORMAT: u32 = 1;

/// What is added to the versions of each shard, by its name.
pub(super) type Offsets = BTreeMap<String, u64>;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mark {
    lockword_shards: u32,
    pub(super) shards: Offsets,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) next: Option<Vec<String>>,
}

impl Mark {
    /// The list with these names and offsets is in force.
    pub(super) fn in_force(shards: Offsets) -> Self {
        Self { lockword_shards: FORMAT, shards, next: None }
    }

    /// None is in force. The last one, if there was one, had these offsets; `next` comes.
    pub(super) fn closed(shards: Offsets, next: &[String]) -> Self {
        Self { lockword_shards: FORMAT, shards, next: Some(next.to_vec()) }
    }

    /// The offsets, if the list with these names is in force.
    pub(super) fn offsets_of(&self, names: &[String]) -> Option<&Offsets> {
        (self.next.is_none() && self.shards.keys().eq(names)).then_some(&self.shards)
    }

    /// Whether this is the first list, with these names, and not yet in force.
    pub(super) fn is_founding(&self, names: &[String]) -> bool {
        self.shards.is_empty() && self.next.as_deref() == Some(names)
    }

    /// Whether the engine is, or is to be, in use as the shard with this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.shards.contains_key(name) || self.next.iter().flatten().any(|next| next == name)
    }

    /// The mark and the name of its shard. `None`: it is no mark of this format.
    pub(super) fn decode(value: &[u8]) -> Option<(String, Self)> {
        let NamedMark { shard, mark } = serde_json::from_slice(value).ok()?;
        let fits = |offset: &u64| *offset < Version::MAX.get();
        let is_one = mark.lockword_shards == FORMAT && mark.shards.values().all(fits);
        is_one.then_some((shard, mark))
    }

    /// As the mark of this shard.
    pub(super) fn encode(&self, shard: &str) -> Vec<u8> {
        let named = NamedMark { shard: shard.to_owned(), mark: self.clone() };
        serde_json::to_vec(&named).expect("names and numbers can be written")
    }
}

/// What is stored.
#[derive(Serialize, Deserialize)]
struct NamedMark {
    shard: String,
    #[serde(flatten)]
    mark: Mark,
}

/// The reserved key, with an ending.
pub(super) fn key(ending: &str) -> Key {
    Key::new(&format!("{NAME}{ending}")).expect("short, and of the alphabet")
}

pub(super) fn is_reserved(key: &Key) -> bool {
    key.as_str().starts_with(NAME)
}
