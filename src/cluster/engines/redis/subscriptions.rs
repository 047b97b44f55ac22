//! The watches of one connection, and the subscriptions at the server that serve them.
//!
//! A node has one channel, however many keys it watches: what wakes it is heard by nobody else. What is to wake all
//! nodes goes over one channel more, to which every connection with a watch is subscribed. On both of them a
//! message is the [hint](RedisNames::hint) of a key.
//!
//! What is subscribed follows what is watched: a single task compares the two and sends the commands
//! one after the other, so that no subscription can be overtaken by its end.

use super::builder::RedisNames;
use super::commands;
use super::connection::RedisConnection;
use crate::Mutex;
use crate::cluster::{Key, NodeId, TransportError};
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
    /// The channels of nodes.
    channels: HashMap<Arc<str>, SubscribedChannel>,
    /// The channel of all nodes, once there has been a watch.
    of_all: Option<Arc<str>>,
    /// It is subscribed. So it is if one of the others is.
    has_all: bool,
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
    /// By the hint of their key. There is no entry without a watch.
    subscribers: HashMap<Arc<str>, Vec<Subscriber>>,
}

/// The sending side of a watch.
struct Subscriber {
    number: u64,
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
        let (Ok(channel), Ok(hint)) = (str::from_utf8(channel), str::from_utf8(message)) else {
            return;
        };
        // Anybody may have sent it. What is not the hint of a watched key is ignored.
        let concerned = self.table.lock().concerned(channel, hint);
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
        for subscriber in channels.into_values().flat_map(SubscribedChannel::into_subscribers) {
            subscriber.end(TransportError::unavailable(why));
        }
    }

    /// Whether the connection has ended.
    pub(super) fn is_over(&self) -> bool {
        self.table.lock().over.is_some()
    }

    /// A watch of `key` for `node`. It is in force when this returns.
    pub(super) async fn watch(
        connection: Arc<RedisConnection>,
        names: &RedisNames,
        key: &Key,
        node: NodeId,
    ) -> Result<RedisWatch, TransportError> {
        let limit = connection.timeout;
        let mut watch = connection.subscriptions.clone().join(connection, names, key, node)?;
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
        names: &RedisNames,
        key: &Key,
        node: NodeId,
    ) -> Result<RedisWatch, TransportError> {
        let (channel, hint) = (Arc::from(names.channel(node)), Arc::from(names.hint(key)));
        let mut table = self.table.lock();
        if let Some(why) = table.over {
            return Err(TransportError::unavailable(why));
        }
        table.next_number += 1;
        let number = table.next_number;
        table.of_all.get_or_insert_with(|| names.channel_of_all().into());
        let entry = table.channels.entry(Arc::clone(&channel)).or_default();
        let now = WatchUpdate { ready: entry.subscribed, ..WatchUpdate::default() };
        let (sender, updates) = watch::channel(now);
        let subscriber = Subscriber { number, updates: sender };
        entry.subscribers.entry(Arc::clone(&hint)).or_default().push(subscriber);
        let was_subscribed = entry.subscribed;
        table.stale |= !was_subscribed;
        drop(table);
        if !was_subscribed {
            self.changed.notify_one();
        }
        Ok(RedisWatch { updates, number, channel, hint, connection })
    }

    fn leave(&self, channel: &str, hint: &str, number: u64) {
        let mut table = self.table.lock();
        let Some(entry) = table.channels.get_mut(channel) else { return };
        if let Some(of_key) = entry.subscribers.get_mut(hint) {
            of_key.retain(|subscriber| subscriber.number != number);
            if of_key.is_empty() {
                entry.subscribers.remove(hint);
            }
        }
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
        let wants_all = !table.channels.is_empty();
        if wants_all != table.has_all {
            let list = if wants_all { &mut join } else { &mut leave };
            list.extend(table.of_all.clone());
        }
        // If this fails, the connection ends.
        table.has_all &= wants_all;
        (join, leave)
    }

    fn joined(&self, channels: &[Arc<str>]) {
        let mut ready = vec![];
        let mut table = self.table.lock();
        for name in channels {
            if table.of_all.as_ref() == Some(name) {
                table.has_all = true;
                continue;
            }
            // All its watches may have ended meanwhile: then it is to be unsubscribed again.
            let channel = table.channels.entry(name.clone()).or_default();
            channel.subscribed = true;
            let subscribers = channel.subscribers.values().flatten();
            ready.extend(subscribers.map(|subscriber| subscriber.updates.clone()));
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
        for subscriber in refused.into_iter().flat_map(SubscribedChannel::into_subscribers) {
            subscriber.end(error.clone());
        }
    }
}

impl SubscriptionTable {
    /// The watches that a message on `channel` concerns.
    fn concerned(&self, channel: &str, hint: &str) -> Vec<watch::Sender<WatchUpdate>> {
        let of_hint = |channel: &SubscribedChannel| {
            let found = channel.subscribers.get(hint).map_or(&[][..], |found| found);
            found.iter().map(|subscriber| subscriber.updates.clone()).collect::<Vec<_>>()
        };
        match self.of_all.as_deref() == Some(channel) {
            true => self.channels.values().flat_map(of_hint).collect(),
            false => self.channels.get(channel).map(of_hint).unwrap_or_default(),
        }
    }
}

impl SubscribedChannel {
    fn into_subscribers(self) -> impl Iterator<Item = Subscriber> {
        self.subscribers.into_values().flatten()
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

/// One watch. Dropping it ends it.
pub(super) struct RedisWatch {
    updates: watch::Receiver<WatchUpdate>,
    number: u64,
    channel: Arc<str>,
    hint: Arc<str>,
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
        self.connection.subscriptions.leave(&self.channel, &self.hint, self.number);
    }
}
