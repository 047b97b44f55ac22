//! Who watches what on one connection.
//!
//! What is subscribed at the server follows what is watched: a single task compares the two and sends
//! the commands one after the other, so that no subscription can be overtaken by its end.

use super::errors;
use super::link::{Connection, PATIENCE};
use crate::Mutex;
use crate::cluster::{NodeId, TransportError, Version, Versioned};
use ::redis::{ErrorKind, PushInfo, PushKind, RedisError, Value};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

/// So often the server is asked whether it is there, while anybody watches.
const HEARTBEAT: Duration = Duration::from_millis(500);

/// So long it may take to answer that, or to subscribe.
const ANSWER: Duration = Duration::from_secs(2);

/// What the watches of a connection want, and what of it is so.
#[derive(Default)]
pub(super) struct Subscriptions {
    table: Mutex<Table>,
    changed: Notify,
}

#[derive(Default)]
struct Table {
    channels: HashMap<Arc<str>, Channel>,
    next_number: u64,
    /// Something is wanted that is not so, or the server is to be asked.
    stale: bool,
    /// Why there is no more to come.
    over: Option<&'static str>,
}

#[derive(Default)]
struct Channel {
    /// The server has confirmed the subscription, and was not told to end it.
    subscribed: bool,
    listeners: Vec<Listener>,
}

struct Listener {
    number: u64,
    node: NodeId,
    news: watch::Sender<News>,
}

/// What a watch has to be told.
#[derive(Clone, Default)]
struct News {
    /// The subscription is in force.
    ready: bool,
    /// The last change.
    seen: Option<Versioned>,
    /// There will be no more.
    over: Option<TransportError>,
}

impl Subscriptions {
    /// A message of the server.
    pub(super) fn hear(&self, push: PushInfo) {
        let (PushKind::Message, [channel, message, ..]) = (&push.kind, &*push.data) else { return };
        let (Value::BulkString(channel), Value::BulkString(message)) = (channel, message) else {
            return;
        };
        let Ok(channel) = std::str::from_utf8(channel) else { return };
        // What we do not understand may mean anything: look.
        let (whom, seen) = parse(message).unwrap_or((None, None));
        let concerned: Vec<watch::Sender<News>> = {
            let table = self.table.lock();
            let all = table.channels.get(channel).map_or(&[][..], |channel| &channel.listeners);
            let concerned = all.iter().filter(|l| whom.is_none_or(|whom| whom == l.node));
            concerned.map(|listener| listener.news.clone()).collect()
        };
        // Not under the lock: whom that wakes may drop a watch, which takes it.
        concerned.iter().for_each(|news| news.send_modify(|news| news.seen = seen.clone()));
    }

    /// Has the server asked whether it is there.
    pub(super) fn probe(&self) {
        self.table.lock().stale = true;
        self.changed.notify_one();
    }

    /// Ends all watches.
    pub(super) fn end(&self, why: &'static str) {
        let mut table = self.table.lock();
        let why = *table.over.get_or_insert(why);
        let channels = std::mem::take(&mut table.channels);
        drop(table);
        self.changed.notify_one();
        for listener in channels.into_values().flat_map(|channel| channel.listeners) {
            listener.over(TransportError::unavailable(why));
        }
    }

    /// Whether the connection is over.
    pub(super) fn is_over(&self) -> bool {
        self.table.lock().over.is_some()
    }

    /// A watch of `channel`, once it is in force.
    pub(super) async fn listen(
        connection: Arc<Connection>,
        channel: &str,
        node: NodeId,
    ) -> Result<Ear, TransportError> {
        let mut ear = connection.subscriptions.clone().join(connection, channel, node)?;
        let ready = ear.news.wait_for(|news| news.ready || news.over.is_some());
        match timeout(PATIENCE, ready).await {
            Ok(Ok(news)) => news.over.clone().map_or(Ok(()), Err)?,
            Ok(Err(_)) => return Err(TransportError::unavailable("the connection was lost")),
            Err(_) => return Err(TransportError::unavailable("no answer to a subscription")),
        }
        Ok(ear)
    }

    fn join(
        self: Arc<Self>,
        connection: Arc<Connection>,
        channel: &str,
        node: NodeId,
    ) -> Result<Ear, TransportError> {
        let mut table = self.table.lock();
        if let Some(why) = table.over {
            return Err(TransportError::unavailable(why));
        }
        table.next_number += 1;
        let number = table.next_number;
        let channel: Arc<str> = channel.into();
        let there = table.channels.entry(channel.clone()).or_default();
        let (sender, news) = watch::channel(News { ready: there.subscribed, ..News::default() });
        there.listeners.push(Listener { number, node, news: sender });
        let was_subscribed = there.subscribed;
        table.stale |= !was_subscribed;
        drop(table);
        if !was_subscribed {
            self.changed.notify_one();
        }
        Ok(Ear { news, number, channel, connection })
    }

    fn leave(&self, channel: &Arc<str>, number: u64) {
        let mut table = self.table.lock();
        let Some(there) = table.channels.get_mut(channel) else { return };
        there.listeners.retain(|listener| listener.number != number);
        if there.listeners.is_empty() {
            table.stale = true;
            drop(table);
            self.changed.notify_one();
        }
    }

    /// Waits until a subscription is to be made or ended, or the server is to be asked whether it is
    /// there. No: it is over.
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

    /// Makes and ends subscriptions as the watches want it, or asks the server whether it is there.
    /// An error: the connection is of no use.
    pub(super) async fn tend(&self, connection: &Connection) -> Result<(), ()> {
        let (join, leave) = self.plan();
        if !join.is_empty() {
            match timeout(ANSWER, connection.subscribe(&join)).await {
                Ok(Ok(())) => self.joined(&join),
                Ok(Err(error)) if is_answer(&error) => self.refused(&join, &error),
                _ => return Err(()),
            }
        }
        if !leave.is_empty() {
            match timeout(ANSWER, connection.unsubscribe(&leave)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) if is_answer(&error) => {}
                _ => return Err(()),
            }
        }
        if join.is_empty() && leave.is_empty() {
            let ping = ::redis::cmd("PING");
            match timeout(ANSWER, connection.ask(&ping)).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) if is_answer(&error) => {}
                _ => return Err(()),
            }
        }
        Ok(())
    }

    /// What is to be subscribed, and what is not to be any more.
    fn plan(&self) -> (Vec<Arc<str>>, Vec<Arc<str>>) {
        let mut table = self.table.lock();
        table.stale = false;
        let (mut join, mut leave) = (vec![], vec![]);
        table.channels.retain(|name, channel| {
            let wanted = !channel.listeners.is_empty();
            match (wanted, channel.subscribed) {
                (true, false) => join.push(name.clone()),
                (false, true) => leave.push(name.clone()),
                _ => {}
            }
            // Who comes from now on finds no subscription, and has it made after this one's end.
            wanted
        });
        (join, leave)
    }

    fn joined(&self, channels: &[Arc<str>]) {
        let mut ready = vec![];
        let mut table = self.table.lock();
        for name in channels {
            // Those who wanted it may have left, and it is to be ended again.
            let channel = table.channels.entry(name.clone()).or_default();
            channel.subscribed = true;
            ready.extend(channel.listeners.iter().map(|listener| listener.news.clone()));
            table.stale |= table.channels[name].listeners.is_empty();
        }
        drop(table);
        ready.iter().for_each(|news| news.send_modify(|news| news.ready = true));
    }

    fn refused(&self, channels: &[Arc<str>], error: &RedisError) {
        let mut table = self.table.lock();
        let refused: Vec<_> =
            channels.iter().filter_map(|name| table.channels.remove(name)).collect();
        drop(table);
        let error = errors::failed(error.clone(), false);
        for listener in refused.into_iter().flat_map(|channel| channel.listeners) {
            listener.over(error.clone());
        }
    }
}

/// Whether the server said this, not the client.
fn is_answer(error: &RedisError) -> bool {
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
}

impl Listener {
    fn over(&self, why: TransportError) {
        self.news.send_modify(|news| news.over = Some(why));
    }
}

/// Whom a message concerns (`None`: everybody), and the register that it carries.
fn parse(message: &[u8]) -> Option<(Option<NodeId>, Option<Versioned>)> {
    let mut parts = message.splitn(3, |byte| *byte == b' ');
    let whom = match std::str::from_utf8(parts.next()?).ok()? {
        "*" => None,
        node => Some(NodeId::new(u64::from_str_radix(node, 16).ok()?)),
    };
    let version = std::str::from_utf8(parts.next()?).ok()?.parse().ok()?;
    let version = Version::new(version).ok()?;
    Some((whom, Some(Versioned { version, value: parts.next()?.into() })))
}

/// One watch. It leaves when it is dropped.
pub(super) struct Ear {
    news: watch::Receiver<News>,
    number: u64,
    channel: Arc<str>,
    /// Open as long as anybody listens.
    connection: Arc<Connection>,
}

impl Ear {
    /// The next change; an error is the last.
    pub(super) async fn next(&mut self) -> Result<Option<Versioned>, TransportError> {
        let lost = "the connection was lost";
        self.news.changed().await.map_err(|_| TransportError::unavailable(lost))?;
        let news = self.news.borrow_and_update();
        news.over.clone().map_or_else(|| Ok(news.seen.clone()), Err)
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.connection.subscriptions.leave(&self.channel, self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::parse;
    use crate::cluster::NodeId;

    #[test]
    fn a_message_says_whom_it_concerns_and_carries_the_register() {
        let (whom, seen) = parse(b"00000000000000ff 17 a value\0 of bytes").unwrap();
        let seen = seen.unwrap();
        assert_eq!((whom, seen.version.get()), (Some(NodeId::new(255)), 17));
        assert_eq!(&*seen.value, b"a value\0 of bytes");
        assert_eq!(parse(b"* 17 ").unwrap().0, None);
        for bad in [&b""[..], b"*", b"* 17", b"* 0 x", b"* x x", b"x 17 x", b"\xff 17 x"] {
            assert!(parse(bad).is_none(), "{bad:?}");
        }
    }
}
