//! A [`Mutex`] as serde sees it: as its data, as with std's.

use super::Mutex;
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Error, Serialize, Serializer};

impl<T: ?Sized + Serialize> Serialize for Mutex<T> {
    /// Locks the mutex, waiting as long as it takes, for as long as the data is being written. A
    /// poisoned mutex is an error.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.lock() {
            Ok(guard) => guard.serialize(serializer),
            // The text that serde has for std's.
            Err(_) => Err(S::Error::custom("lock poison error while serializing")),
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Mutex<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        T::deserialize(deserializer).map(Mutex::new)
    }
}
