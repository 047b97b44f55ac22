//! Leader election: one node leads, and the others know where it is.
//!
//! An [`Election`] is a lock whose holder [publishes](DistributedGuard::publish) its address; the others watch who holds
//! it ([`Node::observe`]). The leader has a [`DistributedGuard`]: its token identifies the term,
//! [`lost`](DistributedGuard::lost) tells it that it is no longer the leader, and to step down it releases the guard.
//! (Plain threads have the same by a [`blocking`](super::blocking) lock, its guard's `publish`, and `observe`.)
//!
//! ```
//! use lockword::cluster::election::Election;
//! use lockword::cluster::{Memory, Node};
//!
//! /// A candidate: leads when its turn comes, and again.
//! async fn campaign(election: &Election, address: &str) -> Result<(), Box<dyn std::error::Error>> {
//!     loop {
//!         let guard = election.campaign(address).await?;
//!         tokio::select! {
//!             () = serve(guard.token().get()) => {
//!                 guard.release().await?; // Steps down.
//!                 return Ok(());
//!             }
//!             why = guard.lost() => eprintln!("no longer the leader: {why}"), // Stands again.
//!         }
//!     }
//! }
//!
//! async fn serve(term: u64) {
//!     println!("leading in term {term}");
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let engine = Memory::new();
//! let node = Node::builder(engine.clone()).build()?;
//! let election = node.election("leader/shard-7")?;
//!
//! // A client of the leader, or a candidate that waits.
//! let client = Node::builder(engine).build()?;
//! let mut leaders = client.election("leader/shard-7")?.leaders();
//! assert_eq!(leaders.next().await.unwrap()?, None); // Nobody leads.
//!
//! let guard = election.campaign("http://10.0.0.7:8080").await?;
//! let leader = loop {
//!     if let Some(leader) = leaders.next().await.unwrap()? && leader.value.is_some() {
//!         break leader;
//!     }
//! };
//! assert_eq!(leader.value.as_deref(), Some("http://10.0.0.7:8080"));
//! guard.release().await?;
//!
//! campaign(&election, "http://10.0.0.7:8080").await
//! # }
//! ```
//!
//! # What is guaranteed
//!
//! What is guaranteed of a lock ([what is guaranteed](super#what-is-guaranteed)): at most one guard is valid at a time,
//! and terms increase. What a follower sees is always slightly out of date: the leader may have been replaced when the
//! news arrives. So a follower sends its request to the leader that it knows of, and *the leader* checks that it still is
//! one; effects that only the present leader may have are fenced by the token ([`fence`](super::fence)). How soon the news arrives is in the table of
//! [`Node::observe`].

use super::admin::{KeyState, LockStatus};
use super::error::{LockError, PublishError};
use super::fence::FencingToken;
use super::guard::DistributedGuard;
use super::key::{Key, KeyError};
use super::lock::DistributedLock;
use super::node::Node;
use super::observe::{self, KeyStates};
use super::transport::NodeId;
use futures_util::stream::{Stream, StreamExt};
use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::SystemTime;

impl Node {
    /// An election. This sends nothing to the engine.
    ///
    /// # Errors
    ///
    /// [`LockError::Key`] if the name is not a valid key.
    pub fn election<K>(&self, key: K) -> Result<Election, LockError>
    where
        K: TryInto<Key, Error: Into<KeyError>>,
    {
        Ok(Election { lock: self.lock(key)? })
    }
}

/// An election: see [`Node::election`] and the [module](self). A clone is the same one. It does not keep its node alive.
#[derive(Clone, Debug)]
pub struct Election {
    lock: DistributedLock,
}

/// Who leads.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Leader {
    /// The number of the node.
    pub node: NodeId,
    /// The label of the node.
    pub label: String,
    /// What the leader publishes. `None` in the moment between its grant and its first renewal, and if it publishes
    /// nothing. (If another task of the same node led before, that one's value may be here in this moment.) It comes from the engine, where others may have written it.
    pub value: Option<String>,
    /// The token with which its *node* took the lead; `None` until its first renewal. A guard that got the lead from another
    /// task of that node has a larger token. So this is for people and for comparing leaders, not for fencing.
    pub term: Option<FencingToken>,
    /// Since when it leads, by its own wall clock. `None` if it does not say so.
    pub since: Option<SystemTime>,
    /// It has given no sign of life for longer than its lease ([`KeyState::is_overdue`]), and no candidate has taken its
    /// place yet.
    pub is_overdue: bool,
}

impl Election {
    /// The lock whose holder leads.
    #[must_use]
    pub fn lock(&self) -> &DistributedLock {
        &self.lock
    }

    /// Stands for election, waits until this node leads, and publishes where it is found. It leads for as long as it has
    /// the guard and that is valid.
    ///
    /// If the lead is lost before the value is published, it stands again.
    ///
    /// # Errors
    ///
    /// [`CampaignError::Value`] if the value cannot be published: nothing is done then. [`CampaignError::Lock`] with the
    /// errors of [`DistributedLock::acquire`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, this node does not stand any more, and does not lead.
    pub async fn campaign(&self, value: &str) -> Result<DistributedGuard, CampaignError> {
        let shared = &self.lock.handle.shared;
        DistributedGuard::check_value(value, || shared.context(self.lock.key()))?;
        loop {
            let guard = self.lock.acquire().await?;
            match guard.publish(value).await {
                Ok(()) => return Ok(guard),
                // The next call of `acquire` says so if the node is closed.
                Err(PublishError::Lost { .. }) => {}
                Err(why) => return Err(why.into()),
            }
        }
    }

    /// Who leads, if anybody does. This is one request.
    ///
    /// # Errors
    ///
    /// Those of [`Node::inspect`].
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the request is given up.
    pub async fn leader(&self) -> Result<Option<Leader>, LockError> {
        let shared = self.lock.handle.shared.clone();
        let seen = super::admin::inspect_on_runtime(shared, self.lock.key().clone()).await?;
        Ok(Leader::of(&seen))
    }

    /// A stream of who leads: at first, and whenever that changes or what the leader publishes. It says `None` while
    /// nobody leads. As with [`Node::observe`], a reader that is slow sees the latest and not each.
    #[must_use]
    pub fn leaders(&self) -> Leaders {
        let states = observe::observe(&self.lock.handle.shared, self.lock.key().clone());
        Leaders { states, before: None }
    }
}

impl Leader {
    fn of(seen: &KeyState) -> Option<Self> {
        let LockStatus::Held { node, label, since, token, value, .. } = &seen.status else {
            return None;
        };
        let (node, term, since, is_overdue) = (*node, *token, *since, seen.is_overdue());
        let (label, value) = (label.clone(), value.clone());
        Some(Self { node, label, value, term, since, is_overdue })
    }
}

/// Who leads, again and again: from [`Election::leaders`].
#[derive(Debug)]
pub struct Leaders {
    states: KeyStates,
    /// The last item, if it was no error.
    before: Option<Option<Leader>>,
}

impl Leaders {
    /// The next leader. `None` if the node is closed, after an error that says so.
    ///
    /// # Errors
    ///
    /// Those of [`Node::inspect`]. The stream goes on.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost if the future is dropped.
    pub async fn next(&mut self) -> Option<Result<Option<Leader>, LockError>> {
        StreamExt::next(self).await
    }
}

impl Stream for Leaders {
    type Item = Result<Option<Leader>, LockError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            let seen = match ready!(self.states.poll_next_unpin(cx)) {
                Some(Ok(seen)) => Leader::of(&seen),
                Some(Err(why)) => {
                    self.before = None;
                    return Poll::Ready(Some(Err(why)));
                }
                None => return Poll::Ready(None),
            };
            if self.before.as_ref() != Some(&seen) {
                self.before = Some(seen.clone());
                return Poll::Ready(Some(Ok(seen)));
            }
        }
    }
}

/// Why a node does not stand for election any more.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum CampaignError {
    /// What it wants to publish cannot be.
    Value(PublishError),
    /// The lock cannot be acquired.
    Lock(LockError),
}

impl fmt::Display for CampaignError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(why) => why.fmt(f),
            Self::Lock(why) => why.fmt(f),
        }
    }
}

impl Error for CampaignError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        match self {
            Self::Value(why) => Some(why),
            Self::Lock(why) => Some(why),
        }
    }
}

impl From<PublishError> for CampaignError {
    fn from(why: PublishError) -> Self {
        Self::Value(why)
    }
}

impl From<LockError> for CampaignError {
    fn from(why: LockError) -> Self {
        Self::Lock(why)
    }
}
