//! How all users of a shard come to have one list.
//!
//! The mark of a shard says which list is in force there ([`mark`](super::mark)). It changes in two steps, for the
//! first list and for each later one: first the marks of *all* shards concerned are closed towards the new list, then
//! they are opened with it. So where a list is in force at one shard, no other list is in force at any shard of it or
//! of its predecessor, and a client needs to look at the mark of that one shard only: it can start while others are
//! down.

use super::error::ShardError;
use super::mark::{Mark, Offsets};
use super::shard::{RECHECK, SeenMark, Shard};
use super::{ShardList, Sharded};
use crate::cluster::{TransportError, Version};
use futures_util::future::try_join_all;
use std::time::Duration;
use tokio::time::sleep;

/// How often the marks are read at most, if others write them in between.
const TRIES: u32 = 20;

/// By how much the versions of a new list begin above all earlier ones: an hour of microseconds, by which a server
/// whose versions are the time may be set back afterwards.
const MARGIN: u64 = 60 * 60 * 1_000_000;

impl ShardList {
    /// Looks at the mark of a shard. Returns what is added to its versions, if this list is in force there.
    pub(super) async fn look(&self, shard: &Shard) -> Result<u64, ShardError> {
        let mark = shard.mark().await?;
        self.must_fit(shard, &mark)?;
        let seen = mark.as_ref().and_then(|(_, mark)| mark.offsets_of(&self.names));
        let offsets = match seen {
            Some(offsets) => offsets.clone(),
            None => self.establish().await?,
        };
        if *self.offsets.get_or_init(|| offsets.clone()) != offsets {
            return Err(ShardError::Changed { shard: shard.name.clone() });
        }
        Ok(offsets[&shard.name])
    }

    /// Puts the list in force where there has been none, or where the mark was lost. No other list is replaced.
    async fn establish(&self) -> Result<Offsets, ShardError> {
        let founding = Mark::closed(Offsets::new(), &self.names);
        for _ in 0..TRIES {
            let mut marks = marks(&self.shards).await?;
            for (shard, mark) in self.shards.iter().zip(&marks) {
                self.must_fit(shard, mark)?;
            }
            let decided = marks.iter().flatten().find_map(|(_, mark)| mark.offsets_of(&self.names));
            let decided = decided.cloned();
            if decided.is_none() {
                // Only when all are closed, one may be opened.
                let missing = |mark: &SeenMark| mark.is_none().then(|| founding.clone());
                if !write(&self.shards, &mut marks, missing).await? {
                    continue;
                }
            }
            let offsets = decided.unwrap_or_else(|| self.zeros());
            let open = Mark::in_force(offsets.clone());
            if write(&self.shards, &mut marks, other_than(&open)).await? {
                return Ok(offsets);
            }
        }
        Err(self.overtaken())
    }

    /// Refuses the mark of another list.
    fn must_fit(&self, shard: &Shard, mark: &SeenMark) -> Result<(), ShardError> {
        let Some((_, mark)) = mark else { return Ok(()) };
        if mark.offsets_of(&self.names).is_some() || mark.is_founding(&self.names) {
            return Ok(());
        }
        Err(self.differs(shard, mark))
    }

    fn differs(&self, shard: &Shard, mark: &Mark) -> ShardError {
        let shard = shard.name.clone();
        match &mark.next {
            Some(next) => ShardError::Changing { shard, next: next.clone() },
            None => ShardError::Differs {
                shard,
                own: self.names.clone(),
                found: mark.shards.keys().cloned().collect(),
            },
        }
    }

    /// The offsets of a first list.
    fn zeros(&self) -> Offsets {
        self.names.iter().map(|name| (name.clone(), 0)).collect()
    }

    fn overtaken(&self) -> ShardError {
        let why = "others change the list of shards";
        let shard = self.names.first().cloned().unwrap_or_default();
        ShardError::Engine { shard, source: TransportError::unavailable(why) }
    }
}

/// The marks of all shards.
async fn marks(shards: &[Shard]) -> Result<Vec<SeenMark>, ShardError> {
    try_join_all(shards.iter().map(Shard::mark)).await
}

/// What is to be written where a mark is another one than this.
fn other_than(new: &Mark) -> impl Fn(&SeenMark) -> Option<Mark> {
    move |found| found.as_ref().is_none_or(|(_, found)| found != new).then(|| new.clone())
}

/// Writes the mark that `new` makes of the present one, if it makes one, shard by shard. Returns `false` if another
/// was faster.
async fn write(
    shards: &[Shard],
    marks: &mut [SeenMark],
    new: impl Fn(&SeenMark) -> Option<Mark>,
) -> Result<bool, ShardError> {
    for (shard, found) in shards.iter().zip(marks) {
        let Some(new) = new(found) else { continue };
        let expected = found.as_ref().map(|(version, _)| *version);
        let Some(version) = shard.set_mark(expected, &new).await? else { return Ok(false) };
        *found = Some((version, new));
    }
    Ok(true)
}

impl Sharded {
    /// Changes the list of shards that is in force from that of `self` to that of `to`: to add, remove or replace
    /// shards. It is for operators; the [procedure](super::Sharded#changing-the-shards) is above.
    ///
    /// From the first write on, no node can acquire or renew a lock until this ends. So it takes the time that is
    /// given as `longest_lease` and ten seconds, times 5/4, and some requests for each register of each shard.
    ///
    /// `longest_lease` is the longest [lease](crate::cluster::NodeBuilder::lease) of any node that used the shards.
    /// With a shorter one, a node that still runs with the old list can hold a lock together with a node that has the
    /// new one.
    ///
    /// Both must have the same engines under the names that are in both lists. An engine that is in `to` only must
    /// not be in use with another list.
    ///
    /// # Errors
    ///
    /// [`ShardError`]. Call it again with the same lists then: it goes on where it was, also if another process does
    /// so. Until it has succeeded, no list may be in force.
    ///
    /// # Cancel safety
    ///
    /// If the future is dropped, the change is left as after an error.
    pub async fn change_to(&self, to: &Sharded, longest_lease: Duration) -> Result<(), ShardError> {
        let (from, to) = (&*self.list, &*to.list);
        let is_new = |shard: &&Shard| !from.names.contains(&shard.name);
        let added = to.shards.iter().filter(is_new);
        let all = from.shards.iter().chain(added);
        let mut all: Vec<Shard> =
            all.map(|shard| Shard::new(shard.name.clone(), shard.engine.clone())).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        let offsets = match close(from, to, &all).await? {
            Some(offsets) => offsets,
            None => {
                sleep((RECHECK + longest_lease) * 5 / 4).await;
                decide(from, to, &all).await?
            }
        };
        let open = Mark::in_force(offsets);
        for _ in 0..TRIES {
            let mut marks = marks(&all).await?;
            if let Some((shard, mark)) = all.iter().zip(&marks).find_map(|(shard, mark)| {
                let (_, mark) = mark.as_ref()?;
                let fits = mark == &open || is_between(mark, from, to);
                (!fits).then_some((shard, mark))
            }) {
                return Err(to.differs(shard, mark));
            }
            if write(&all, &mut marks, other_than(&open)).await? {
                return Ok(());
            }
        }
        Err(to.overtaken())
    }
}

/// Whether the mark was closed by the change from the one list to the other.
fn is_between(mark: &Mark, from: &ShardList, to: &ShardList) -> bool {
    mark.next.as_deref() == Some(&to.names) && mark.shards.keys().eq(&from.names)
}

/// Closes the marks of all shards towards the list `to`. Returns its offsets if it is in force already somewhere.
async fn close(
    from: &ShardList,
    to: &ShardList,
    all: &[Shard],
) -> Result<Option<Offsets>, ShardError> {
    for _ in 0..TRIES {
        let mut marks = marks(all).await?;
        for (shard, mark) in all.iter().zip(&marks) {
            let Some((_, mark)) = mark else { continue };
            let is_known = mark.offsets_of(&from.names).is_some()
                || mark.offsets_of(&to.names).is_some()
                || is_between(mark, from, to)
                // It was taken out of another list.
                || mark.next.is_none() && !mark.shards.contains_key(&shard.name);
            if !is_known {
                return Err(from.differs(shard, mark));
            }
        }
        let found = || marks.iter().flatten().map(|(_, mark)| mark);
        if let Some(offsets) = found().find_map(|mark| mark.offsets_of(&to.names)) {
            return Ok(Some(offsets.clone()));
        }
        let last = found().find(|mark| mark.shards.keys().eq(&from.names));
        let last = last.map_or_else(|| from.zeros(), |mark| mark.shards.clone());
        let closed = Mark::closed(last, &to.names);
        let still_open = |mark: &SeenMark| {
            let is_closed = mark.as_ref().is_some_and(|(_, mark)| mark.next.is_some());
            (!is_closed).then(|| closed.clone())
        };
        if write(all, &mut marks, still_open).await? {
            return Ok(None);
        }
    }
    Err(from.overtaken())
}

/// Decides the offsets of the list `to`, when no user of another list is left: so that all versions of its shards are
/// larger than all versions of all shards before. The mark of its first shard decides between several callers.
async fn decide(from: &ShardList, to: &ShardList, all: &[Shard]) -> Result<Offsets, ShardError> {
    let (first_shard, first) = first_mark(to, all).await?;
    if let Some((_, mark)) = &first
        && let Some(offsets) = mark.offsets_of(&to.names)
    {
        return Ok(offsets.clone());
    }
    let last = match &first {
        Some((_, mark)) if is_between(mark, from, to) => mark.shards.clone(),
        Some((_, mark)) => return Err(from.differs(first_shard, mark)),
        None => return Err(from.overtaken()),
    };
    let offset_of = |shard: &Shard| last.get(&shard.name).copied().unwrap_or(0);
    let fresh = try_join_all(all.iter().map(Shard::fresh_version)).await?;
    let mut newest = 0;
    for (shard, fresh) in all.iter().zip(&fresh) {
        if from.names.contains(&shard.name) {
            let largest = shard.largest_version().await?.max(fresh.get());
            newest = newest.max(largest + offset_of(shard));
        }
    }
    let mut offsets = Offsets::new();
    for (shard, fresh) in all.iter().zip(&fresh) {
        if to.names.contains(&shard.name) {
            let offset = offset_of(shard).max((newest + MARGIN).saturating_sub(fresh.get()));
            if fresh.get() + offset + MARGIN > Version::MAX.get() {
                return Err(ShardError::VersionsEnd);
            }
            offsets.insert(shard.name.clone(), offset);
        }
    }
    let expected = first.map(|(version, _)| version);
    if first_shard.set_mark(expected, &Mark::in_force(offsets.clone())).await?.is_some() {
        return Ok(offsets);
    }
    match first_mark(to, all).await?.1 {
        Some((_, mark)) if mark.offsets_of(&to.names).is_some() => Ok(mark.shards),
        _ => Err(to.overtaken()),
    }
}

/// The mark of the first shard of `to`.
async fn first_mark<'a>(
    to: &ShardList,
    all: &'a [Shard],
) -> Result<(&'a Shard, SeenMark), ShardError> {
    let first = all.iter().find(|shard| Some(&shard.name) == to.names.first());
    let first = first.expect("a list has a shard, and all shards have that");
    Ok((first, first.mark().await?))
}
