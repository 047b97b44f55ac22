//! Watches: law 5.

use super::client::Client;
use super::law::{Law, Violation};
use super::suite::{NO_WAKEUPS, Run};
use crate::cluster::{Key, NodeId, Transport, TransportError, Version, Versioned, Wake, Watch};
use futures_util::future::{Either, select};
use futures_util::{FutureExt, StreamExt};
use std::pin::pin;
use std::time::Duration;
use tokio::task::yield_now;
use tokio::time::{Instant, timeout_at};

/// What a wake-up may be late because of this process: it is busy.
const SLACK: Duration = Duration::from_secs(1);
/// How many changes one watch is to notice.
const CHANGES: usize = 3;
/// How often a watch that ended is opened again.
const REOPENED: usize = 20;

/// When the watcher looks, relative to the write.
#[derive(Clone, Copy)]
pub(super) enum Manner {
    /// Only after the write, which comes right after the watch.
    Afterwards,
    /// It has looked, and looks again after the write.
    Before,
    /// It waits while the write is made.
    Meanwhile,
    /// Only after several writes.
    AfterSeveral,
}

const MANNERS: [Manner; 4] =
    [Manner::Afterwards, Manner::Before, Manner::Meanwhile, Manner::AfterSeveral];

/// # Errors
///
/// The first violation.
pub(super) async fn check<T: Transport>(run: &mut Run<T>) -> Result<(), Violation> {
    if !run.has_wakeups() {
        run.not_checked(Law::Watch, "all of it", NO_WAKEUPS);
        return Ok(());
    }
    for round in 0..run.rounds {
        for manner in MANNERS {
            let (clients, _) = run.clients();
            let (watcher, writer) = (&clients[round % 2], &clients[round / 2 % 2]);
            let key = run.key();
            if round % 3 == 0 {
                writer.must_write(&key, Wake::Nobody, false).await?;
            }
            let by_node = run.dice.bool();
            wakes(watcher, writer, &key, NodeId::new(run.dice.u64(..)), by_node, manner).await?;
        }
        several(run).await?;
    }
    run.checked(Law::Watch);
    Ok(())
}

/// Whether a watch of `watcher` notices what `writer` writes.
pub(super) async fn wakes<T: Transport>(
    watcher: &Client<T>,
    writer: &Client<T>,
    key: &Key,
    node: NodeId,
    by_node: bool,
    manner: Manner,
) -> Result<(), Violation> {
    let wake = if by_node { Wake::Node(node) } else { Wake::Everybody };
    let mut noticed = 0;
    for _ in 0..REOPENED {
        let mut open = Open::new(watcher, key, node).await?;
        while noticed < CHANGES {
            let seen = match manner {
                Manner::Afterwards | Manner::AfterSeveral => {
                    let several = matches!(manner, Manner::AfterSeveral);
                    let mut written = writer.must_write(key, wake, false).await?;
                    for _ in 0..if several { 2 } else { 0 } {
                        pass_on().await;
                        written = writer.must_write(key, wake, false).await?;
                    }
                    if several {
                        pass_on().await;
                    }
                    open.shows(written.version).await?
                }
                Manner::Before => {
                    open.drain()?;
                    let written = writer.must_write(key, wake, false).await?;
                    open.shows(written.version).await?
                }
                Manner::Meanwhile => {
                    open.drain()?;
                    open.shows_meanwhile(writer.must_write(key, wake, false)).await?
                }
            };
            if !seen {
                break;
            }
            noticed += 1;
        }
        if noticed == CHANGES {
            break;
        }
    }
    Ok(())
}

/// Lets run whoever passes a change on.
async fn pass_on() {
    for _ in 0..3 {
        yield_now().await;
    }
}

/// Two watches of one key are both woken; the end of one does not harm the other.
async fn several<T: Transport>(run: &mut Run<T>) -> Result<(), Violation> {
    let key = run.key();
    let (clients, _) = run.clients();
    let nodes = [(); 3].map(|()| NodeId::new(run.dice.u64(..)));
    let mut first = Open::new(&clients[0], &key, nodes[0]).await?;
    let mut second = Open::new(&clients[1], &key, nodes[1]).await?;
    let mut third = Open::new(&clients[1], &key, nodes[2]).await?;
    let written = clients[2].must_write(&key, Wake::Everybody, false).await?.version;
    first.shows(written).await?;
    let second_lives = second.shows(written).await?;
    let third_lives = third.shows(written).await?;
    drop(first);
    if third_lives {
        let written = clients[2].must_write(&key, Wake::Node(nodes[2]), false).await?.version;
        third.shows(written).await?;
    }
    drop(third);
    if second_lives {
        let written = clients[2].must_write(&key, Wake::Node(nodes[1]), false).await?.version;
        second.shows(written).await?;
    }
    Ok(())
}

/// A watch that is in force.
struct Open<'a, T> {
    watch: Watch,
    watcher: &'a Client<T>,
    key: &'a Key,
    within: Duration,
    ended: bool,
}

type Item = Option<Result<Option<Versioned>, TransportError>>;

impl<'a, T: Transport> Open<'a, T> {
    async fn new(watcher: &'a Client<T>, key: &'a Key, node: NodeId) -> Result<Self, Violation> {
        let watch = watcher.must_watch(key, node).await?;
        let within = watcher.transport.capabilities().wake_within + SLACK;
        Ok(Self { watch, watcher, key, within, ended: false })
    }

    /// Takes what is there.
    fn drain(&mut self) -> Result<(), Violation> {
        while !self.ended
            && let Some(item) = self.watch.next().now_or_never()
        {
            self.is_seen(item, None)?;
        }
        Ok(())
    }

    /// Whether the watch shows the change to `version`. No: it ended.
    async fn shows(&mut self, version: Version) -> Result<bool, Violation> {
        let deadline = Instant::now() + self.within;
        while !self.ended {
            let Ok(item) = timeout_at(deadline, self.watch.next()).await else {
                let (key, within) = (self.key, self.within);
                let what = format!("a watch of {key} was silent for {within:?} after a change");
                return Err(Violation::new(Law::Watch, what));
            };
            if self.is_seen(item, Some(version))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The same for a write that is made while the watch is waited for.
    async fn shows_meanwhile(
        &mut self,
        write: impl Future<Output = Result<Versioned, Violation>>,
    ) -> Result<bool, Violation> {
        if self.ended {
            return Ok(false);
        }
        let (early, written) = {
            let mut write = pin!(write);
            match select(self.watch.next(), &mut write).await {
                Either::Left((item, _)) => (Some(item), write.await?),
                Either::Right((written, _)) => (None, written?),
            }
        };
        if let Some(item) = early
            && self.is_seen(item, Some(written.version))?
        {
            return Ok(true);
        }
        self.shows(written.version).await
    }

    /// Whether `item` tells of the change to `version`, or of a later one.
    fn is_seen(&mut self, item: Item, version: Option<Version>) -> Result<bool, Violation> {
        match item {
            None | Some(Err(_)) => {
                self.ended = true;
                Ok(false)
            }
            Some(Ok(None)) => Ok(true),
            Some(Ok(Some(shown))) => {
                if !self.watcher.history.wrote(self.key, &shown.value) {
                    let value = shown.value.escape_ascii();
                    let what = format!("a watch of {} showed {value}: nobody wrote it", self.key);
                    return Err(Violation::new(Law::Watch, what));
                }
                Ok(version.is_some_and(|version| shown.version >= version))
            }
        }
    }
}
