//! The watches of one connection, and the subscriptions at the server that serve them.
//!
//! What is subscribed follows what is watched: a single task compares the two and sends the commands
//! one after the other, so that no subscription can be overtaken by its end.

use super::commands;
use super::connection::RedisConnection;
use crate::Mutex;
use crate::cluster::{NodeId, TransportError};
use ::redis::{ErrorKind, PushInfo, PushKind, RedisError, Value};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// How often the server is pinged while there is a watch.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// How long the response to that may take, and that to a subscription.
const RESPONSE: Duration = Duration::from_secs(2);

/// The watches of a connection, and the channels to which it is subscribed.
#[derive(Default)]
pub(super) struct Subscriptions {
    table: Mutex<SubscriptionTable>,
    changed: Notify,
}

#[derive(Default)]
struct SubscriptionTable {
    channels: HashMap<Arc<str>, SubscribedChannel>,
    next_number: u64,
    /// The subscriptions differ from what is wanted, or the server is to be asked whether it is there.
    stale: bool,
    /// Why the connection has ended.
    over: Option<&'static str>,
}

#[derive(Default)]
struct SubscribedChannel {
    /// The server has confirmed the subscription, and was not told to end it.
    subscribed: bool,
    subscribers: Vec<Subscriber>,
}

/// The sending side of a watch.
struct Subscriber {
    number: u64,
    node: NodeId,
    updates: watch::Sender<WatchUpdate>,
}

/// What a watch has to be told.
#[derive(Clone, Default)]
struct WatchUpdate {
    /// The subscription is in force.
    ready: bool,
    /// The error with which the watch ends.
    over: Option<TransportError>,
}

impl Subscriptions {
    /// Delivers a message of the server to the watches that it concerns.
    pub(super) fn receive(&self, push: PushInfo) {
        let (PushKind::Message, [channel, message, ..]) = (&push.kind, &*push.data) else { return };
        let (Value::BulkString(channel), Value::BulkString(message)) = (channel, message) else {
            return;
        };
        let Ok(channel) = std::str::from_utf8(channel) else { return };
        // Anybody may have sent it. It is a hint to look at the register, for all watches if it does
        // not name a node.
        let node = named_node(message);
        let concerned: Vec<watch::Sender<WatchUpdate>> = {
            let table = self.table.lock();
            let all = table.channels.get(channel).map_or(&[][..], |channel| &channel.subscribers);
            let concerned = all.iter().filter(|one| node.is_none_or(|node| node == one.node));
            concerned.map(|subscriber| subscriber.updates.clone()).collect()
        };
        // Not under the lock: a task that this wakes may drop a watch, which takes the lock.
        for updates in concerned {
            updates.send_modify(|_| {});
        }
    }

    /// Asks the server whether it is there.
    pub(super) fn probe(&self) {
        self.table.lock().stale = true;
        self.changed.notify_one();
    }

    /// Ends all watches with an error.
    pub(super) fn end(&self, why: &'static str) {
        let mut table = self.table.lock();
        let why = *table.over.get_or_insert(why);
        let channels = std::mem::take(&mut table.channels);
        drop(table);
        self.changed.notify_one();
        for subscriber in channels.into_values().flat_map(|channel| channel.subscribers) {
            subscriber.end(TransportError::unavailable(why));
        }
    }

    /// Whether the connection has ended.
    pub(super) fn is_over(&self) -> bool {
        self.table.lock().over.is_some()
    }

    /// A watch of `channel`. It is in force when this returns.
    pub(super) async fn watch(
        connection: Arc<RedisConnection>,
        channel: &str,
        node: NodeId,
    ) -> Result<RedisWatch, TransportError> {
        let limit = connection.timeout;
        let mut watch = connection.subscriptions.clone().join(connection, channel, node)?;
        let ready = watch.updates.wait_for(|update| update.ready || update.over.is_some());
        match timeout(limit, ready).await {
            Ok(Ok(update)) => update.over.clone().map_or(Ok(()), Err)?,
            Ok(Err(_)) => return Err(TransportError::unavailable("the connection was lost")),
            Err(_) => return Err(TransportError::unavailable("no answer to a subscription")),
        }
        Ok(watch)
    }

    fn join(
        self: Arc<Self>,
        connection: Arc<RedisConnection>,
        channel: &str,
        node: NodeId,
    ) -> Result<RedisWatch, TransportError> {
        let mut table = self.table.lock();
        if let Some(why) = table.over {
            return Err(TransportError::unavailable(why));
        }
        table.next_number += 1;
        let number = table.next_number;
        let channel: Arc<str> = channel.into();
        let entry = table.channels.entry(channel.clone()).or_default();
        let now = WatchUpdate { ready: entry.subscribed, ..WatchUpdate::default() };
        let (sender, updates) = watch::channel(now);
        entry.subscribers.push(Subscriber { number, node, updates: sender });
        let was_subscribed = entry.subscribed;
        table.stale |= !was_subscribed;
        drop(table);
        if !was_subscribed {
            self.changed.notify_one();
        }
        Ok(RedisWatch { updates, number, channel, connection })
    }

    fn leave(&self, channel: &Arc<str>, number: u64) {
        let mut table = self.table.lock();
        let Some(entry) = table.channels.get_mut(channel) else { return };
        entry.subscribers.retain(|subscriber| subscriber.number != number);
        if entry.subscribers.is_empty() {
            table.stale = true;
            drop(table);
            self.changed.notify_one();
        }
    }

    /// Waits until a subscription is to be made or ended, or the server is to be asked whether it is
    /// there. `false`: the connection has ended.
    pub(super) async fn something_to_do(&self) -> bool {
        loop {
            let (over, stale, heartbeat) = {
                let table = self.table.lock();
                (table.over.is_some(), table.stale, !table.channels.is_empty())
            };
            if over || stale {
                return !over;
            }
            if !heartbeat {
                self.changed.notified().await;
            } else if timeout(HEARTBEAT, self.changed.notified()).await.is_err() {
                return true;
            }
        }
    }

    /// Makes and ends subscriptions as the watches want it; if there is nothing to change, asks the
    /// server whether it is there. An error: the connection is of no use.
    pub(super) async fn tend(&self, connection: &RedisConnection) -> Result<(), ()> {
        let (join, leave) = self.plan();
        if !join.is_empty() {
            match timeout(RESPONSE, connection.subscribe(&join)).await {
                Ok(Ok(())) => self.joined(&join),
                Ok(Err(error)) if is_response(&error) => self.refused(&join, &error),
                _ => return Err(()),
            }
        }
        if !leave.is_empty() {
            match timeout(RESPONSE, connection.unsubscribe(&leave)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) if is_response(&error) => {}
                _ => return Err(()),
            }
        }
        if join.is_empty() && leave.is_empty() {
            let ping = ::redis::cmd("PING");
            match timeout(RESPONSE, connection.ask(&ping)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) if is_response(&error) => {}
                _ => return Err(()),
            }
        }
        Ok(())
    }

    /// The channels to subscribe to, and those to unsubscribe from.
    fn plan(&self) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let mut table = self.table.lock();
        table.stale = false;
        let (mut join, mut leave) = (vec![], vec![]);
        table.channels.retain(|name, channel| {
            let wanted = !channel.subscribers.is_empty();
            match (wanted, channel.subscribed) {
                (true, false) => join.push(name.clone()),
                (false, true) => leave.push(name.clone()),
                _ => {}
            }
            // A watch that begins from now on finds no entry, and has the channel subscribed again,
            // after the end of this subscription.
            wanted
        });
        (join, leave)
    }

    fn joined(&self, channels: &[Arc<str>]) {
        let mut ready = vec![];
        let mut table = self.table.lock();
        for name in channels {
            // All its watches may have ended meanwhile: then it is to be unsubscribed again.
            let channel = table.channels.entry(name.clone()).or_default();
            channel.subscribed = true;
            ready.extend(channel.subscribers.iter().map(|subscriber| subscriber.updates.clone()));
            table.stale |= table.channels[name].subscribers.is_empty();
        }
        drop(table);
        ready.iter().for_each(|updates| updates.send_modify(|update| update.ready = true));
    }

    fn refused(&self, channels: &[Arc<str>], error: &RedisError) {
        let mut table = self.table.lock();
        let refused: Vec<_> =
            channels.iter().filter_map(|name| table.channels.remove(name)).collect();
        drop(table);
        let error = commands::request_failed(error.clone(), false);
        for subscriber in refused.into_iter().flat_map(|channel| channel.subscribers) {
            subscriber.end(error.clone());
        }
    }
}

/// Whether the error is a response of the server.
fn is_response(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

impl Subscriber {
    fn end(&self, why: TransportError) {
        self.updates.send_modify(|update| update.over = Some(why));
    }
}

/// The node that a message names, by its 16 digits.
fn named_node(message: &[u8]) -> Option<NodeId> {
    let digits = str::from_utf8(message).ok().filter(|digits| digits.len() == 16)?;
    Some(NodeId::new(u64::from_str_radix(digits, 16).ok()?))
}

/// One watch. Dropping it ends it.
pub(super) struct RedisWatch {
    updates: watch::Receiver<WatchUpdate>,
    number: u64,
    channel: Arc<str>,
    /// The connection stays open as long as there is a watch.
    connection: Arc<RedisConnection>,
}

impl RedisWatch {
    /// Waits for the next message. An error is the last item.
    pub(super) async fn next(&mut self) -> Result<(), TransportError> {
        let lost = "the connection was lost";
        self.updates.changed().await.map_err(|_| TransportError::unavailable(lost))?;
        self.updates.borrow_and_update().over.clone().map_or(Ok(()), Err)
    }
}

impl Drop for RedisWatch {
    fn drop(&mut self) {
        self.connection.subscriptions.leave(&self.channel, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::named_node;
    use crate::cluster::NodeId;

    #[test]
    fn a_message_names_a_node_by_16_digits_and_otherwise_none() {
        assert_eq!(named_node(b"00000000000000ff"), Some(NodeId::new(255)));
        for other in [&b""[..], b"*", b"ff", b"00000000000000fg", b"00000000000000ff 17 x", b"\xff"]
        {
            assert_eq!(named_node(other), None, "{other:?}");
        }
    }
}
