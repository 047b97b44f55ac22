//! The watch of a key: from the revision that was read until its stream ends.

use super::failure::{EtcdFailure, EtcdFailureKind};
use super::members::{Members, RequestEffect};
use super::rpc::{Client, RangeRequest, WatchCreateRequest, WatchResponse, WatchStream};
use crate::cluster::{TransportError, Versioned, Watch};
use futures_util::stream;

/// How often it is tried to begin a watch. An attempt fails when the revision to begin with was
/// compacted meanwhile, or when the rights of the user were changed.
const TRIES: usize = 3;

/// Watches the etcd key `key`. The watch is in force when this returns: the server has confirmed it.
///
/// It ends with an error when its stream ends, and is not resumed: the caller reads the register to
/// find what it has missed.
pub(super) async fn watch(members: &Members, key: &str) -> Result<Watch, TransportError> {
    let open = |client| open(client, key.to_owned());
    let stream = members.ask(RequestEffect::Reads, open).await.map_err(EtcdFailure::of_read)?;
    Ok(Box::pin(stream::unfold(Some(stream), |stream| async {
        let mut stream = stream?;
        loop {
            match next(&mut stream).await {
                Ok(Some(seen)) => return Some((Ok(seen), Some(stream))),
                Ok(None) => {}
                Err(failure) => return Some((Err(failure.of_read()), None)),
            }
        }
    })))
}

async fn open(client: Client, key: String) -> Result<WatchStream, EtcdFailure> {
    for left in (0..TRIES).rev() {
        // The read gives the latest revision, agreed on by the majority. It also refreshes a token that
        // has expired, which the watch itself would not do, and it distinguishes an old token from
        // missing rights, which a refused watch does not do.
        let count = RangeRequest { count_only: true, ..RangeRequest::of(&*key) };
        let Some(header) = client.clone().range(count).await?.header else {
            return Err(EtcdFailure::new(EtcdFailureKind::Corrupt, "etcd's answer has no header"));
        };
        let start_revision = header.revision.saturating_add(1);
        let request = WatchCreateRequest { key: key.clone().into(), start_revision };
        let mut stream = client.clone().watch(request).await?;
        let Some(first) = stream.message().await? else {
            return Err(EtcdFailure::new(
                EtcdFailureKind::Indeterminate,
                "etcd ended the watch at once",
            ));
        };
        if !first.created || first.canceled {
            match ended(&first) {
                Some(_) if first.compact_revision > 0 => continue,
                Some(EtcdFailure { kind: EtcdFailureKind::Denied, .. }) if left > 0 => continue,
                Some(failure) => return Err(failure),
                None => {
                    return Err(EtcdFailure::new(
                        EtcdFailureKind::Corrupt,
                        "etcd did not create the watch",
                    ));
                }
            }
        }
        return Ok(stream);
    }
    Err(EtcdFailure::new(
        EtcdFailureKind::Transient,
        "etcd compacts its history faster than it is read",
    ))
}

/// The last change in the next message. `None`: the message has no change.
async fn next(stream: &mut WatchStream) -> Result<Option<Option<Versioned>>, EtcdFailure> {
    let Some(message) = stream.message().await? else {
        return Err(EtcdFailure::new(EtcdFailureKind::Transient, "etcd ended the watch"));
    };
    if let Some(failure) = ended(&message) {
        return Err(failure);
    }
    let Some(event) = message.events.last() else { return Ok(None) };
    // A deletion has no value, and no creation revision.
    let put = event.kv.as_ref().filter(|kv| kv.create_revision > 0);
    // A value that is not valid is reported when it is loaded.
    Ok(Some(put.and_then(|kv| super::read_register(kv).ok())))
}

/// Why the server has cancelled the watch, if it has.
fn ended(message: &WatchResponse) -> Option<EtcdFailure> {
    if message.compact_revision > 0 {
        let said = "etcd has compacted the history that the watch had yet to deliver";
        return Some(EtcdFailure::new(EtcdFailureKind::Transient, said));
    }
    let reason = &message.cancel_reason;
    let denied = reason.contains("permission denied") || reason.contains("auth");
    let kind = if denied { EtcdFailureKind::Denied } else { EtcdFailureKind::Transient };
    message.canceled.then(|| EtcdFailure::new(kind, format!("etcd cancelled the watch: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::{EtcdFailureKind, WatchResponse, ended};

    #[test]
    fn a_cancelled_watch_ends_for_a_reason() {
        let message = WatchResponse::default();
        assert!(ended(&message).is_none());
        // A slow watch, the rest of whose history was compacted.
        let compacted = WatchResponse { compact_revision: 7, canceled: true, ..message.clone() };
        assert_eq!(ended(&compacted).unwrap().kind, EtcdFailureKind::Transient);
        let cancelled = |reason: &str| {
            let cancel_reason = reason.to_owned();
            ended(&WatchResponse { canceled: true, cancel_reason, ..message.clone() }).unwrap()
        };
        assert_eq!(cancelled("etcdserver: permission denied").kind, EtcdFailureKind::Denied);
        assert_eq!(cancelled("etcdserver: no leader").kind, EtcdFailureKind::Transient);
    }
}
