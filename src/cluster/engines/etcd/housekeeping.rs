//! Deletes the registers that nobody has used for a while.

use super::failure::Failure;
use super::members::Effect;
use super::{Etcd, get, txn, value};
use crate::cluster::TransportError;
use etcd_client::proto::PbKeyValue;
use etcd_client::{Compare, CompareOp, GetOptions, SortOrder, SortTarget, Txn, TxnOp};
use std::time::Duration;

/// How many registers are read at a time: with values of 64 KiB, less than the client takes.
const PAGE: i64 = 32;

impl Etcd {
    /// Deletes the registers that are idle now (nobody holds the lock or waits for it) and still are,
    /// untouched, when `retention` is over, and tells how many. It takes that long.
    ///
    /// A `retention` of an hour is good: it has to be longer than any request of any node may be under
    /// way. The version of a lock that is used again later is larger than any it had before. It may
    /// run on several nodes at once, and be dropped at any moment.
    ///
    /// # Errors
    ///
    /// [`TransportError`]. What was deleted by then remains so.
    pub async fn housekeeping(&self, retention: Duration) -> Result<usize, TransportError> {
        let mut idle = self.idle().await.map_err(Failure::of_read)?;
        tokio::time::sleep(retention).await;
        let mut deleted = 0;
        while let Some((key, revision)) = idle.pop() {
            // What was written since has another revision, whether it was idle again or not.
            let delete = Txn::new()
                .when([Compare::mod_revision(&*key, CompareOp::Equal, revision)])
                .and_then([TxnOp::delete(&*key, None)]);
            let ask = |client| txn(client, delete.clone());
            let done = self.inner.members.ask(Effect::Writes, ask).await;
            deleted += usize::from(done.map_err(Failure::of_write)?.succeeded());
        }
        Ok(deleted)
    }

    /// The keys of the idle registers, and their revisions.
    async fn idle(&self) -> Result<Vec<(Vec<u8>, i64)>, Failure> {
        let mut idle = vec![];
        let mut begin = self.inner.prefix.clone().into_bytes();
        let end = after_all(&begin);
        loop {
            let page = GetOptions::new()
                .with_range(&*end)
                .with_limit(PAGE)
                .with_sort(SortTarget::Key, SortOrder::Ascend);
            let ask = |client| get(client, begin.clone(), Some(page.clone()));
            let mut read = self.inner.members.ask(Effect::None, ask).await?;
            let page: Vec<PbKeyValue> = std::mem::take(&mut read.0.kvs);
            let Some(last) = page.last() else { return Ok(idle) };
            begin.clone_from(&last.key);
            begin.push(0); // the next possible key
            idle.extend(
                page.into_iter().filter(value::is_idle).map(|kv| (kv.key, kv.mod_revision)),
            );
            if !read.more() {
                return Ok(idle);
            }
        }
    }
}

/// The first key that is after all with this prefix. The prefix ends with a slash.
fn after_all(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    end
}
