//! The watch of a key: from the revision that was read, until its stream ends.

use super::failure::{Failure, FailureKind};
use super::members::{Effect, Members};
use super::value;
use crate::cluster::{TransportError, Versioned, Watch};
use etcd_client::proto::PbWatchResponse;
use etcd_client::{Client, WatchOptions, WatchStream};
use futures_util::stream;

/// How often a watch is begun anew because the revision that it was to begin with is not kept any
/// more, or because the rights of its user were changed meanwhile.
const TRIES: usize = 3;

/// A watch of the etcd key `key`. In force: the server has said so.
///
/// It ends with an error when its stream does, and is never resumed: what was missed in between is
/// found by looking.
pub(super) async fn watch(members: &Members, key: &str) -> Result<Watch, TransportError> {
    let open = |client| open(client, key.to_owned());
    let stream = members.ask(Effect::None, open).await.map_err(Failure::of_read)?;
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

async fn open(mut client: Client, key: String) -> Result<WatchStream, Failure> {
    for left in (0..TRIES).rev() {
        // The latest revision of all, by the word of the majority. This also renews a token that has
        // expired, which the watch itself would not, and tells one that is old from rights that do not
        // suffice, which a watch that is refused does not.
        let read = client.get(&*key, None).await?;
        let Some(header) = read.header() else {
            return Err(Failure::new(FailureKind::Corrupt, "etcd's answer has no header"));
        };
        let options = WatchOptions::new().with_start_revision(header.revision().saturating_add(1));
        let mut stream = client.watch(&*key, Some(options)).await?;
        let Some(first) = stream.message().await? else {
            return Err(Failure::new(FailureKind::Indeterminate, "etcd ended the watch at once"));
        };
        if !first.created() || first.canceled() {
            match ended(&first.0) {
                Some(_) if first.compact_revision() > 0 => continue,
                Some(Failure { kind: FailureKind::Denied, .. }) if left > 0 => continue,
                Some(failure) => return Err(failure),
                None => {
                    return Err(Failure::new(
                        FailureKind::Corrupt,
                        "etcd did not create the watch",
                    ));
                }
            }
        }
        return Ok(stream);
    }
    Err(Failure::new(FailureKind::Passing, "etcd drops its history faster than it is read"))
}

/// The last of the changes in the next message. `None`: the message has none.
async fn next(stream: &mut WatchStream) -> Result<Option<Option<Versioned>>, Failure> {
    let Some(message) = stream.message().await? else {
        return Err(Failure::new(FailureKind::Passing, "etcd ended the watch"));
    };
    if let Some(failure) = ended(&message.0) {
        return Err(failure);
    }
    let Some(event) = message.0.events.last() else { return Ok(None) };
    // What was deleted has no value, and was never created.
    let put = event.kv.as_ref().filter(|kv| kv.create_revision > 0);
    // What cannot be read is for the reader to report.
    Ok(Some(put.and_then(|kv| value::read(kv).ok())))
}

/// Why the server has cancelled the watch, if it has.
fn ended(message: &PbWatchResponse) -> Option<Failure> {
    if message.compact_revision > 0 {
        let said = "etcd has dropped the history that the watch had yet to tell";
        return Some(Failure::new(FailureKind::Passing, said));
    }
    let reason = &message.cancel_reason;
    let denied = reason.contains("permission denied") || reason.contains("auth");
    let kind = if denied { FailureKind::Denied } else { FailureKind::Passing };
    message.canceled.then(|| Failure::new(kind, format!("etcd cancelled the watch: {reason}")))
}

#[cfg(test)]
mod tests {
    use super::{FailureKind, ended};
    use etcd_client::proto::PbWatchResponse;

    #[test]
    fn a_cancelled_watch_has_ended_for_a_reason() {
        let message = PbWatchResponse::default();
        assert!(ended(&message).is_none());
        // A slow watch, of which the rest of the history is gone.
        let compacted = PbWatchResponse { compact_revision: 7, canceled: true, ..message.clone() };
        assert_eq!(ended(&compacted).unwrap().kind, FailureKind::Passing);
        let cancelled = |reason: &str| {
            let cancel_reason = reason.to_owned();
            ended(&PbWatchResponse { canceled: true, cancel_reason, ..message.clone() }).unwrap()
        };
        assert_eq!(cancelled("etcdserver: permission denied").kind, FailureKind::Denied);
        assert_eq!(cancelled("etcdserver: no leader").kind, FailureKind::Passing);
    }
}
