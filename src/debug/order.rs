//! The order in which locks are taken, as Linux's lockdep watches it.
//!
//! A thread that holds one lock and wants another one, for as long as it takes, adds an [`Edge`] from the [`Class`] of
//! the first to that of the second. A cycle of edges can become a deadlock, whether or not it ever was one. Between
//! locks of one class the edge is between the two locks, by their numbers and addresses: locks of one class that are
//! taken in the order of their addresses, or hand over hand, make no cycle, and one that has moved has other edges.
//!
//! A lock's `new` is const and knows no place, so the class is made of the places of its acquisitions: that of the first,
//! and each other one joins its class with that of the lock. So two locks are of one class if there is a place that
//! acquires both, or a chain of such places. (The first place alone would tear the locks of a vector apart, where two
//! places take two of them in order.)
//!
//! A function that locks whatever it is given makes one class of many kinds of locks. Where locks of a class nest it is
//! such a class, or a table: so from then on each of its locks is a class of its own, towards other classes too.
//!
//! Classes and edges are never freed. They are in lists that only grow, so that an edge that is known is found without
//! a lock; [`GRAPH`] is for adding one.
//!
//! An edge that closed a cycle is known from then on, but no search goes along it: what comes later is not blamed on it.

use super::memory::{Guarded, Linked, List, leak};
use super::report::{self, Report};
use super::threads::{self, Hold, LockSeen, ThreadName, ThreadRecord, Trace};
use crate::primitive::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use crate::traced::{LockType, Mode, Place, Traced};
use std::cell::Cell;
use std::ptr;

/// Locks that are used alike.
#[derive(Debug)]
pub(crate) struct Class {
    pub(super) key: ClassKey,
    next: AtomicPtr<Class>,
    /// The class that it was joined with; null if it stands for all that were joined with it.
    joined: AtomicPtr<Class>,
    /// A lock of it was wanted while another one was held, if it stands for others, and was made by places.
    nests: AtomicBool,
    /// The edges from it, if it stands for others.
    edges: List<Edge>,
    /// Under [`GRAPH`]: the last searches that came by, by an edge to a recursive reader and by another one.
    marks: [Cell<usize>; 2],
}

#[derive(Clone, Copy, Debug)]
pub(super) enum ClassKey {
    /// Acquired there.
    Place(Place, LockType),
    /// The program has named it.
    Name(&'static str),
    /// One lock, at an address, of a class: where both ends of an edge are of that class, or the program has asked.
    Lock { number: usize, address: usize },
}

/// Locks of one class were taken while locks of another were held.
#[derive(Debug)]
pub(super) struct Edge {
    pub(super) from: &'static Class,
    pub(super) to: &'static Class,
    /// The held lock was read.
    is_from_shared: bool,
    /// The wanted lock was read, in spite of writers that wait.
    is_to_recursive: bool,
    pub(super) held: Hold,
    pub(super) wanted: LockSeen,
    pub(super) wanted_mode: Mode,
    pub(super) place: Place,
    pub(super) thread: ThreadName,
    pub(super) trace: Trace,
    next_known: AtomicPtr<Edge>,
    next_of_class: AtomicPtr<Edge>,
    /// It has closed a cycle: no search goes along it.
    is_bad: Cell<bool>,
    /// Under [`GRAPH`]: the last search that came by, where it came from, and where it goes on.
    mark: Cell<usize>,
    parent: Cell<*const Edge>,
    next_in_queue: Cell<*const Edge>,
}

// SAFETY: the cells are used by one thread at a time, and the rest does not change.
unsafe impl Sync for Edge {}
// SAFETY: as above.
unsafe impl Sync for Class {}

impl Linked for Class {
    fn link(&self) -> &AtomicPtr<Self> {
        &self.next
    }
}

/// An edge is in two lists. This is the link of the list of those that are known.
impl Linked for Edge {
    fn link(&self) -> &AtomicPtr<Self> {
        &self.next_known
    }
}

const BUCKETS: usize = 1 << 13;
static CLASSES: [List<Class>; BUCKETS] = [const { List::new() }; BUCKETS];
static EDGES: [List<Edge>; BUCKETS] = [const { List::new() }; BUCKETS];
/// So many edges of single locks there may be: more are not added, since a search goes along all of them.
pub(super) const MOST_OF_LOCKS: usize = 1 << 12;
static OF_LOCKS: AtomicUsize = AtomicUsize::new(0);
/// It was told that there are so many.
static IS_FULL: AtomicBool = AtomicBool::new(false);
/// The number of the last search.
static GRAPH: Guarded<usize> = Guarded::new(0);

impl PartialEq for ClassKey {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            // Not by its address: one place may have several.
            (Self::Place(a, one), Self::Place(b, two)) => a.0 == b.0 && one == two,
            (Self::Name(a), Self::Name(b)) => a == b,
            (Self::Lock { number: a, address: one }, Self::Lock { number: b, address: two }) => {
                (a, one) == (b, two)
            }
            _ => false,
        }
    }
}

impl ClassKey {
    fn bucket(&self) -> usize {
        match self {
            Self::Place(place, _) => mix(place.0.line() as usize, place.0.column() as usize),
            Self::Name(name) => name.bytes().fold(1, |sum, byte| mix(sum, usize::from(byte))),
            Self::Lock { number, address } => mix(*number, *address),
        }
    }

    /// Whether the program calls it so: by the name that it has given, or by `file:line`.
    fn is_called(&self, name: &str) -> bool {
        match self {
            Self::Name(own) => *own == name,
            Self::Place(place, _) => {
                let line =
                    name.strip_prefix(place.0.file()).and_then(|rest| rest.strip_prefix(':'));
                let line = line.and_then(|rest| rest.split(':').next());
                line.is_some_and(|line| line.parse() == Ok(place.0.line()))
            }
            Self::Lock { .. } => false,
        }
    }
}

/// An order that the program allows.
#[derive(Debug)]
struct Allowed {
    first: &'static str,
    then: &'static str,
    next: AtomicPtr<Allowed>,
}

impl Linked for Allowed {
    fn link(&self) -> &AtomicPtr<Self> {
        &self.next
    }
}

static ALLOWED: List<Allowed> = List::new();

/// From now on nothing is said of locks of class `then` that are wanted while one of class `first` is held.
pub(super) fn allow(first: &'static str, then: &'static str) {
    let next = AtomicPtr::new(ptr::null_mut());
    ALLOWED.push(Box::leak(Box::new(Allowed { first, then, next })));
}

fn is_allowed(held: &Class, wanted: &Class) -> bool {
    let mut allowed = ALLOWED.iter();
    allowed.any(|it| held.key.is_called(it.first) && wanted.key.is_called(it.then))
}

/// Two places at which two locks of a class were taken, of which a report was made.
#[derive(Debug)]
struct Told {
    held: Place,
    wanted: Place,
    next: AtomicPtr<Told>,
}

impl Linked for Told {
    fn link(&self) -> &AtomicPtr<Self> {
        &self.next
    }
}

static TOLD: List<Told> = List::new();

/// Whether a report was made of these two places, for other locks; from now on there was one.
fn is_told(edge: &Edge) -> bool {
    let (held, wanted) = (edge.held.place, edge.place);
    if TOLD.iter().any(|told| told.held.0 == held.0 && told.wanted.0 == wanted.0) {
        return true;
    }
    if let Some(told) = leak(Told { held, wanted, next: AtomicPtr::new(ptr::null_mut()) }) {
        TOLD.push(told);
    }
    false
}

/// A bucket for two numbers: Knuth's multiplicative hash.
fn mix(a: usize, b: usize) -> usize {
    let product = (a.rotate_left(7) ^ b).wrapping_mul(0x9E37_79B9_7F4A_7C15_u64 as usize);
    product >> (usize::BITS - 13)
}

/// Whether it is a source of `lock_api`: `.../lock_api-0.5.0/src/mutex.rs`.
pub(super) fn is_lock_api(file: &str) -> bool {
    let mut parts = file.rsplit(['/', '\\']).skip(1);
    parts.next() == Some("src")
        && parts.next().and_then(|name| name.strip_prefix("lock_api")).is_some_and(|rest| {
            rest.strip_prefix('-')
                .map_or(rest.is_empty(), |rest| rest.starts_with(char::is_numeric))
        })
}

/// Whether a library that locks for its callers does not tell its caller's place: a `Debug` of a lock of any class, say.
fn is_of_library(place: Place) -> bool {
    let file = place.0.file();
    is_lock_api(file) && !file.ends_with("remutex.rs") || crate::sync::FILES.contains(&file)
}

impl Class {
    /// The class of a lock. At its first acquisition it is that of the place.
    #[inline]
    pub(super) fn of(traced: &Traced, place: Place) -> Option<&'static Self> {
        // ORDERING: Acquire pairs with the Release of `set`.
        let known = traced.class.load(Ordering::Acquire);
        if !known.is_null() {
            // SAFETY: a class is never freed.
            return unsafe { known.as_ref() };
        }
        Self::first(traced, place)
    }

    #[cold]
    fn first(traced: &Traced, place: Place) -> Option<&'static Self> {
        if is_of_library(place) {
            return None;
        }
        let class = Self::find(ClassKey::Place(place, traced.lock_type()))?;
        let class = ptr::from_ref(class).cast_mut();
        let (release, acquire) = (Ordering::Release, Ordering::Acquire);
        let set = traced.class.compare_exchange(ptr::null_mut(), class, release, acquire);
        // SAFETY: as above.
        unsafe { set.err().unwrap_or(class).as_ref() }
    }

    /// The lock is acquired there: the class of the place is that of the lock.
    #[inline]
    pub(super) fn join_place(traced: &Traced, place: Place) {
        let is_same = traced.holder().is_some_and(|last| ptr::eq(last.0, place.0));
        if !is_same
            && let Some(class) = Self::of(traced, place)
            && let ClassKey::Place(own, lock_type) = class.key
            && !ptr::eq(own.0, place.0)
        {
            class.join(place, lock_type);
        }
    }

    #[cold]
    fn join(&'static self, place: Place, lock_type: LockType) {
        if is_of_library(place) {
            return;
        }
        let Some(other) = Self::find(ClassKey::Place(place, lock_type)) else { return };
        if !ptr::eq(self.root(), other.root()) {
            GRAPH.with(|_| {
                let (root, other) = (self.root(), other.root());
                if !ptr::eq(root, other) {
                    other.joined.store(ptr::from_ref(root).cast_mut(), Ordering::Release);
                    root.nests.fetch_or(other.nests(), Ordering::Relaxed);
                    // All edges are those of the one that stands for both.
                    if let Some(last) = edges_of(other).last() {
                        last.next_of_class.store(root.edges.first(), Ordering::Relaxed);
                        root.edges.set_first(other.edges.first());
                    }
                    // What was an order of two classes is one of two locks now: of those that had it first.
                    edges_of(root)
                        .filter(|edge| ptr::eq(edge.to.root(), root) && !edge.is_bad.get())
                        .for_each(Edge::keep_of_locks);
                }
            });
        }
    }

    /// Whether its locks are watched one by one.
    fn nests(&self) -> bool {
        // ORDERING: Relaxed: one that is seen late makes an edge between classes.
        self.nests.load(Ordering::Relaxed)
    }

    /// The class that stands for this one and all with which it was joined.
    fn root(&'static self) -> &'static Self {
        let mut at = self;
        // ORDERING: Acquire pairs with the Release in `join`.
        // SAFETY: null, or a class, which is never freed.
        while let Some(joined) = unsafe { at.joined.load(Ordering::Acquire).as_ref() } {
            at = joined;
        }
        if !ptr::eq(at, self) {
            // The way is shorter next time.
            self.joined.store(ptr::from_ref(at).cast_mut(), Ordering::Release);
        }
        at
    }

    /// The lock is of that class from now on.
    pub(super) fn set(traced: &Traced, key: ClassKey) {
        if let Some(class) = Self::find(key) {
            traced.class.store(ptr::from_ref(class).cast_mut(), Ordering::Release);
        }
    }

    fn known(key: &ClassKey) -> Option<&'static Self> {
        CLASSES[key.bucket()].iter().find(|class| class.key == *key)
    }

    /// `None`: there is no memory for it.
    fn find(key: ClassKey) -> Option<&'static Self> {
        Self::known(&key).or_else(|| GRAPH.with(|_| Self::add(key)))
    }

    /// Under [`GRAPH`], so that there is one of a kind.
    fn add(key: ClassKey) -> Option<&'static Self> {
        if let Some(class) = Self::known(&key) {
            return Some(class);
        }
        let (next, joined) = (AtomicPtr::new(ptr::null_mut()), AtomicPtr::new(ptr::null_mut()));
        // The places of all reentrant mutexes are in lock_api.
        let is_mixed = matches!(key, ClassKey::Place(place, _) if is_lock_api(place.0.file()));
        let (nests, edges) = (AtomicBool::new(is_mixed), List::new());
        let marks = [const { Cell::new(0) }; 2];
        let class = leak(Self { key, next, joined, nests, edges, marks })?;
        CLASSES[key.bucket()].push(class);
        Some(class)
    }
}

impl Edge {
    /// Whether a thread that holds what `self` wants may be the one that `next` tells of. One that waits to read in
    /// spite of waiting writers waits for no reader.
    fn leads_to(&self, next: &Edge) -> bool {
        !(self.is_to_recursive && next.is_from_shared)
    }

    /// Adds the same order of the two locks, by which it was seen. Under [`GRAPH`].
    fn keep_of_locks(&self) {
        if OF_LOCKS.load(Ordering::Relaxed) >= MOST_OF_LOCKS {
            return;
        }
        let LockSeen { number, address, .. } = self.held.lock;
        let Some(from) = Class::add(ClassKey::Lock { number, address }) else { return };
        let LockSeen { number, address, .. } = self.wanted;
        let Some(to) = Class::add(ClassKey::Lock { number, address }) else { return };
        let known = &EDGES[mix(ptr::from_ref(from).addr(), ptr::from_ref(to).addr())];
        let (shared, recursive) = (self.is_from_shared, self.is_to_recursive);
        if known.iter().any(|edge| edge.is_as(from, to, shared, recursive)) {
            return;
        }
        // The traces are never freed, as edges are not.
        let edge = leak(Self {
            from,
            to,
            next_known: AtomicPtr::new(ptr::null_mut()),
            next_of_class: AtomicPtr::new(from.edges.first()),
            is_bad: Cell::new(false),
            mark: Cell::new(0),
            parent: Cell::new(ptr::null()),
            next_in_queue: Cell::new(ptr::null()),
            ..*self
        });
        if let Some(edge) = edge {
            known.push(edge);
            from.edges.set_first(edge);
            OF_LOCKS.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn is_as(&self, from: &Class, to: &Class, shared: bool, recursive: bool) -> bool {
        ptr::eq(self.from, from)
            && ptr::eq(self.to, to)
            && (self.is_from_shared, self.is_to_recursive) == (shared, recursive)
    }
}

/// The edges of a class, by their other link.
fn edges_of(class: &'static Class) -> impl Iterator<Item = &'static Edge> {
    // ORDERING: under GRAPH, all of it.
    // SAFETY: null, or an edge, which is never freed.
    let mut next = unsafe { class.edges.first().as_ref() };
    std::iter::from_fn(move || {
        let this = next?;
        // SAFETY: as above.
        next = unsafe { this.next_of_class.load(Ordering::Relaxed).as_ref() };
        Some(this)
    })
}

/// The thread wants `lock`, for as long as it takes. Returns the cycles of edges that this has closed, each of which
/// begins with the new edge.
#[inline]
pub(super) fn wants(
    record: &ThreadRecord,
    lock: impl FnOnce() -> LockSeen,
    mode: Mode,
    place: Place,
) -> Vec<Vec<&'static Edge>> {
    let mut found = vec![];
    if record.holds_nothing() {
        return found;
    }
    let wanted = lock();
    let holds = || (0..).map_while(|at| record.hold(at));
    // A thread that has the lock already, as a reader, adds no order.
    if holds().all(|held| held.lock.number != wanted.number) {
        found.extend(holds().filter_map(|held| add(record, held, wanted, mode, place)));
    }
    found
}

fn add(
    record: &ThreadRecord,
    held: Hold,
    wanted: LockSeen,
    mode: Mode,
    place: Place,
) -> Option<Vec<&'static Edge>> {
    let (held_class, wanted_class) = (held.lock.class?, wanted.class?);
    let (mut from, mut to) = (held_class.root(), wanted_class.root());
    let is_one = ptr::eq(from, to);
    if is_one && matches!(from.key, ClassKey::Place(..)) && !from.nests() {
        from.nests.store(true, Ordering::Relaxed);
    }
    let is_of_locks = is_one || from.nests() || to.nests();
    if is_of_locks && OF_LOCKS.load(Ordering::Relaxed) >= MOST_OF_LOCKS {
        if !IS_FULL.swap(true, Ordering::Relaxed) {
            report::tell(&Report::TooManyOrders);
        }
        return None;
    }
    let of = |lock: LockSeen, class: &'static Class| {
        let key = ClassKey::Lock { number: lock.number, address: lock.address };
        if is_one || class.nests() { Class::find(key) } else { Some(class) }
    };
    (from, to) = (of(held.lock, from)?, of(wanted, to)?);
    let (shared, recursive) = (held.mode == Mode::Shared, mode == Mode::Recursive);
    let at = mix(ptr::from_ref(from).addr(), ptr::from_ref(to).addr());
    let known = || EDGES[at].iter().any(|edge| edge.is_as(from, to, shared, recursive));
    if known() || is_allowed(held_class, wanted_class) {
        return None;
    }
    let edge = leak(Edge {
        from,
        to,
        is_from_shared: shared,
        is_to_recursive: recursive,
        // The trace is that of the hold, which ends before.
        held: Hold { trace: record.keep_trace(held.sequence), ..held },
        wanted,
        wanted_mode: mode,
        place,
        thread: record.name(),
        trace: threads::trace(),
        next_known: AtomicPtr::new(ptr::null_mut()),
        next_of_class: AtomicPtr::new(ptr::null_mut()),
        is_bad: Cell::new(false),
        mark: Cell::new(0),
        parent: Cell::new(ptr::null()),
        next_in_queue: Cell::new(ptr::null()),
    })?;
    let closes = GRAPH.with(|search| {
        if known() {
            return false;
        }
        EDGES[at].push(edge);
        OF_LOCKS.fetch_add(usize::from(is_of_locks), Ordering::Relaxed);
        // Known by the names of classes that were joined since, or are joined by now.
        let is_same = |other: &Edge| {
            let (from, to) = (other.from.root(), other.to.root());
            edge.is_as(from, to, other.is_from_shared, other.is_to_recursive)
        };
        if edges_of(from).any(is_same) || !ptr::eq(from, from.root()) || !ptr::eq(to, to.root()) {
            return false;
        }
        *search += 1;
        let closes = path(edge, *search).is_some();
        edge.is_bad.set(closes);
        let is_told = closes && is_of_locks && is_told(edge);
        edge.next_of_class.store(from.edges.first(), Ordering::Relaxed);
        from.edges.set_first(edge);
        closes && !is_told
    });
    if !closes {
        return None;
    }
    // Once more, now that there is memory for it.
    let mut cycle = Vec::with_capacity(64);
    GRAPH.with(|search| {
        *search += 1;
        let mut at = path(edge, *search).map_or(ptr::null(), ptr::from_ref);
        // SAFETY: as above.
        while let Some(edge) = unsafe { at.as_ref() } {
            if cycle.len() < cycle.capacity() {
                cycle.push(edge);
            }
            at = edge.parent.get();
        }
    });
    if cycle.is_empty() {
        // Classes were joined meanwhile.
        return None;
    }
    cycle.push(edge);
    cycle.reverse();
    Some(cycle)
}

/// Searches the graph for a way from where `new` leads back to where it comes from. Returns its last edge; the others are
/// its parents. Breadth first, so that it is a shortest one.
fn path(new: &'static Edge, search: usize) -> Option<&'static Edge> {
    let mut last: *const Edge = ptr::null();
    let mut first: *const Edge = ptr::null();
    let mut at = Some(new);
    while let Some(edge) = at {
        let class = edge.to.root();
        let [by_recursive, by_other] = &class.marks;
        // Whatever leads on from an edge to a recursive reader leads on from another one too.
        let is_known =
            by_other.get() == search || edge.is_to_recursive && by_recursive.get() == search;
        let mark = if edge.is_to_recursive { by_recursive } else { by_other };
        mark.set(search);
        let nexts = edges_of(class).filter(|next| !is_known && edge.leads_to(next));
        for next in nexts {
            let is_of_many = next.to.root().nests();
            if next.is_bad.get() || is_of_many || next.mark.replace(search) == search {
                continue;
            }
            next.parent.set(if ptr::eq(edge, new) { ptr::null() } else { edge });
            if ptr::eq(next.to.root(), new.from) && next.leads_to(new) {
                return Some(next);
            }
            next.next_in_queue.set(ptr::null());
            // SAFETY: null, or an edge, which is never freed.
            match unsafe { last.as_ref() } {
                Some(last) => last.next_in_queue.set(next),
                None => first = next,
            }
            last = next;
        }
        // SAFETY: as above.
        at = unsafe { first.as_ref() };
        if let Some(edge) = at {
            first = edge.next_in_queue.get();
            if first.is_null() {
                last = ptr::null();
            }
        }
    }
    None
}
