//! Ties in a directory, under the names that the registers have there.

use lockword::cluster::engines::dir::{Tie, TieStatus};
use lockword::cluster::layers::SealKeys;
use lockword::cluster::{ConnectError, Dir, FencingToken, Key, NodeId, Transport, TransportError};
use std::path::PathBuf;
use std::sync::Arc;
use url::Url;

/// A directory, and the keys by which names in it are hashed.
pub struct Ties {
    dir: Arc<Dir>,
    keys: Option<SealKeys>,
}

impl Ties {
    pub async fn connect(url: &Url, keys: Option<SealKeys>) -> Result<Ties, ConnectError> {
        Ok(Ties { dir: Arc::new(Dir::connect(url).await?), keys })
    }

    pub fn transport(&self) -> Arc<dyn Transport> {
        self.dir.clone()
    }

    fn stored(&self, key: &Key) -> Key {
        self.keys.as_ref().map_or_else(|| key.clone(), |keys| keys.stored_name(key))
    }

    pub async fn try_tie(
        &self,
        key: &Key,
        node: NodeId,
        token: FencingToken,
    ) -> Result<Option<Tie>, TransportError> {
        self.dir.try_tie(&self.stored(key), node, token).await
    }

    pub async fn tied(&self, key: &Key) -> Result<TieStatus, TransportError> {
        self.dir.tied(&self.stored(key)).await
    }

    pub fn tie_path(&self, key: &Key) -> Result<PathBuf, TransportError> {
        self.dir.tie_path(&self.stored(key))
    }

    pub async fn sweep(&self) -> Result<usize, TransportError> {
        self.dir.sweep().await
    }
}
