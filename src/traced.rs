//! What a lock tells of itself: the one seam between the locks and their instruments.
//!
//! Without the feature `trace` (which `deadlock_detection` and `profile` bring) a [`Traced`] has no size and its
//! functions have no body, so the locks are what they are without it. With it, each acquisition is an [`Attempt`], from
//! its beginning to its end, and each of these steps is passed on to the instruments that are built in:
//!
//! | step | when |
//! |---|---|
//! | `wants` | a blocking acquisition begins |
//! | `waits` | the lock is not free: the thread waits from now on |
//! | `drains` | a writer has come so far that it keeps readers out, and waits for those inside |
//! | `wait_ended` | it does not wait any more, with the lock or without it |
//! | `holds` | the lock was acquired |
//! | `changes` | an upgrade or a downgrade; a downgrade has not taken place yet |
//! | `releases` | the lock is about to be released |
//!
//! So a hold that an instrument has been told of is one: it was told after the acquisition, and is told before the
//! release.

/// How a lock is held, or wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(dead_code, reason = "a build without the feature reads none of them")]
pub(crate) enum Mode {
    /// By one thread alone.
    Exclusive,
    /// By a reader.
    Shared,
    /// By a reader that does not wait for a writer that waits. Wanted only: it is held as [`Mode::Shared`].
    Recursive,
    /// By the one reader that may become a writer.
    Upgradable,
    /// By a writer that is the upgradable reader. Wanted only: it is held as [`Mode::Exclusive`].
    Upgrade,
}

/// The public type that the lock is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
#[allow(dead_code, reason = "a build without the feature reads none of them")]
pub(crate) enum LockType {
    Mutex,
    SendMutex,
    FairMutex,
    SyncMutex,
    RwLock,
    SendRwLock,
    RecursiveRwLock,
    SyncRwLock,
}

#[cfg(any(not(feature = "trace"), lockword_loom))]
pub(crate) use off::{Moment, Ongoing, Place, Traced};
#[cfg(all(feature = "trace", not(lockword_loom)))]
#[allow(unused_imports, reason = "not every instrument looks")]
pub(crate) use on::{Holder, Look, LookedAt, Moment, Ongoing, Place, Traced};

#[cfg(any(not(feature = "trace"), lockword_loom))]
mod off {
    use super::{LockType, Mode};
    use core::marker::PhantomData;
    use std::time::Instant;

    /// Nothing.
    #[derive(Clone, Copy)]
    pub(crate) struct Place;

    /// Nothing.
    pub(crate) struct Traced;

    /// Nothing.
    pub(crate) struct Attempt<'a>(PhantomData<&'a ()>);

    /// Nothing.
    #[derive(Clone, Copy)]
    pub(crate) struct Ongoing<'a>(PhantomData<&'a ()>);

    /// Nothing.
    pub(crate) struct CondvarWait<'a>(PhantomData<&'a ()>);

    /// Nothing.
    pub(crate) struct Moment;

    impl Moment {
        pub(crate) const fn new() -> Self {
            Self
        }

        #[inline(always)]
        pub(crate) fn is_of(&self, _: &Traced) {}

        #[inline(always)]
        pub(crate) fn set_now(&self) {}
    }

    impl Place {
        #[inline(always)]
        pub(crate) fn caller() -> Self {
            Self
        }
    }

    impl Traced {
        pub(crate) const fn new(_: LockType) -> Self {
            Self
        }

        #[inline(always)]
        #[cfg_attr(lockword_loom, allow(dead_code, reason = "no model has a Condvar"))]
        pub(crate) fn place(&self) -> Place {
            Place
        }

        #[inline(always)]
        pub(crate) fn attempt(&self, _: Mode, _: bool) -> Attempt<'_> {
            Attempt(PhantomData)
        }

        #[inline(always)]
        pub(crate) fn attempt_at(&self, _: Mode, _: bool, _: Place) -> Attempt<'_> {
            Attempt(PhantomData)
        }

        #[inline(always)]
        pub(crate) fn condvar_wait(&self, _: Place) -> CondvarWait<'_> {
            CondvarWait(PhantomData)
        }

        #[inline(always)]
        pub(crate) fn changes(&self, _: Mode, _: Mode) {}

        #[inline(always)]
        pub(crate) fn releases(&self, _: Mode) {}
    }

    impl<'a> Attempt<'a> {
        #[inline(always)]
        pub(crate) fn ongoing(&self) -> Ongoing<'a> {
            Ongoing(PhantomData)
        }

        #[inline(always)]
        pub(crate) fn ended(self, _: bool) {}
    }

    impl Ongoing<'_> {
        #[inline(always)]
        pub(crate) fn waits(self, _: Option<Instant>) {}

        #[inline(always)]
        pub(crate) fn waits_since(self, _: &Moment) {}

        #[inline(always)]
        pub(crate) fn waits_for_readers_too<L>(self, _: Option<Instant>, _: &L) {}

        #[inline(always)]
        pub(crate) fn drains(self, _: Option<Instant>) {}
    }

    impl CondvarWait<'_> {
        #[inline(always)]
        pub(crate) fn ended(self) {}
    }
}

#[cfg(all(feature = "trace", not(lockword_loom)))]
mod on {
    use super::{LockType, Mode};
    use crate::primitive::{AtomicPtr, AtomicUsize, Ordering, is_past};
    use core::cell::Cell;
    use core::panic::Location;
    use core::ptr;
    use std::time::Instant;

    #[cfg(feature = "deadlock_detection")]
    use crate::debug::hooks as deadlock;
    #[cfg(feature = "profile")]
    use crate::profile::record as profile;
    #[cfg(not(feature = "deadlock_detection"))]
    use none as deadlock;
    #[cfg(not(feature = "profile"))]
    use none as profile;

    /// An instrument that is not built in.
    #[allow(dead_code, reason = "each instrument may be built in")]
    mod none {
        use super::{Look, Mode, Place, Traced};

        /// What a thread waited for before the wait that begins: waits may be nested, if one of them allocates.
        pub(crate) type Wait = ();

        #[inline(always)]
        pub(crate) fn is_running() -> bool {
            false
        }

        /// Whether a reader may write its place over that of another one.
        #[inline(always)]
        pub(crate) fn may_replace_reader() -> bool {
            false
        }

        /// A wait that begins before its thread knows.
        #[inline(always)]
        pub(crate) fn moved(_: &Traced) -> Wait {}

        #[inline(always)]
        pub(crate) fn wants(_: &Traced, _: Mode, _: Place) {}

        #[inline(always)]
        pub(crate) fn waits(_: &Traced, _: Mode, _: Place, _: bool, _: Option<Look>) -> Wait {}

        #[inline(always)]
        pub(crate) fn drains(_: &Traced) {}

        /// `is_acquired`: with the lock. A wait for a Condvar ends without it.
        #[inline(always)]
        pub(crate) fn wait_ended(_: Wait, _: &Traced, _: Mode, _: Place, _is_acquired: bool) {}

        #[inline(always)]
        pub(crate) fn holds(_: &Traced, _: Mode, _: Place) {}

        /// The same for the profile, to which an upgrade is an acquisition too.
        #[inline(always)]
        pub(crate) fn acquired(_: &Traced, _: Mode, _: Place, _has_waited: bool) {}

        #[inline(always)]
        pub(crate) fn changes(_: &Traced, _: Mode, _: Mode) {}

        #[inline(always)]
        pub(crate) fn releases(_: &Traced, _: Mode) {}
    }

    /// Where in the source a lock is acquired.
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Place(pub(crate) &'static Location<'static>);

    impl Place {
        #[track_caller]
        #[inline(always)]
        pub(crate) fn caller() -> Self {
            Self(Location::caller())
        }
    }

    /// The identity of a lock. It moves with the lock, and a new lock at the same address has another one.
    pub struct Traced {
        /// The type, and above it a number: 0 until the first acquisition.
        identity: AtomicUsize,
        /// Where it was acquired last; null if nobody is known. Its lowest bits are [`READERS`] and [`UPGRADABLE`].
        place: AtomicPtr<Location<'static>>,
        /// What `debug` keeps of it: the class.
        #[cfg(feature = "deadlock_detection")]
        pub(crate) class: AtomicPtr<crate::debug::Class>,
    }

    /// A bit of the place: it is that of a reader, the last one known. Others may hold the lock.
    const READERS: usize = 1;
    /// A bit of the place: it is that of the upgradable reader, who holds the lock.
    const UPGRADABLE: usize = 2;
    const BITS: usize = READERS | UPGRADABLE;
    const _: () = assert!(align_of::<Location<'static>>() > BITS);

    /// Who holds a lock, as far as it is known.
    #[derive(Clone, Copy, Debug)]
    #[allow(dead_code, reason = "not every instrument asks")]
    pub(crate) struct Holder {
        pub(crate) place: Place,
        /// Readers; the place is that of the last one known.
        pub(crate) is_shared: bool,
    }

    /// The bits of the type.
    const TYPE: usize = 0xF;
    const ONE: usize = TYPE + 1;

    /// What each instrument keeps of a wait.
    type Waits = (deadlock::Wait, profile::Wait);

    /// An acquisition, from its beginning to its end.
    pub(crate) struct Attempt<'a> {
        traced: &'a Traced,
        mode: Mode,
        place: Place,
        wait: Cell<Option<Waits>>,
    }

    /// An attempt that has not ended.
    #[derive(Clone, Copy)]
    pub(crate) struct Ongoing<'a>(&'a Attempt<'a>);

    /// A wait for a notification, and then for the mutex.
    pub(crate) struct CondvarWait<'a> {
        traced: &'a Traced,
        place: Place,
        wait: Option<Waits>,
    }

    /// The moment at which a waiter of a Condvar was moved to the queue of its mutex: its wait for the mutex begins.
    pub(crate) struct Moment {
        mutex: Cell<*const Traced>,
        wait: Cell<Option<profile::Wait>>,
    }

    impl Moment {
        pub(crate) const fn new() -> Self {
            Self { mutex: Cell::new(ptr::null()), wait: Cell::new(None) }
        }

        /// By the waiter, which may be moved to the queue of that mutex.
        #[inline(always)]
        pub(crate) fn is_of(&self, mutex: &Traced) {
            self.mutex.set(mutex);
        }

        /// By the thread that moves the waiter, before its message, and under the lock of the bucket.
        #[inline(always)]
        pub(crate) fn set_now(&self) {
            // SAFETY: null, or the mutex of the waiter, which is alive as long as it has no message.
            self.wait.set(unsafe { self.mutex.get().as_ref() }.map(profile::moved));
        }
    }

    /// More of a wait. An instrument may call `look` with `of`, while the wait lasts.
    #[allow(dead_code, reason = "not every instrument looks")]
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Look {
        pub(crate) of: *const (),
        pub(crate) look: unsafe fn(*const ()) -> Option<usize>,
        /// It waits for a notification, and then for the mutex. `look` tells nothing.
        pub(crate) of_condvar: bool,
    }

    /// What an instrument can look at.
    pub(crate) trait LookedAt {
        /// `Some` if a writer that waits keeps readers out, and how many readers are in.
        fn look(&self) -> Option<usize>;
    }

    impl Look {
        /// A wait for a Condvar.
        const CONDVAR: Self = Self { of: ptr::null(), look: |_| None, of_condvar: true };

        fn of<T: LookedAt>(it: &T) -> Self {
            unsafe fn look<T: LookedAt>(it: *const ()) -> Option<usize> {
                // SAFETY: made of a `&T`, which lives for as long as the wait lasts.
                unsafe { &*it.cast::<T>() }.look()
            }
            Self { of: ptr::from_ref(it).cast(), look: look::<T>, of_condvar: false }
        }
    }

    impl Traced {
        pub(crate) const fn new(lock_type: LockType) -> Self {
            Self {
                identity: AtomicUsize::new(lock_type as usize),
                place: AtomicPtr::new(ptr::null_mut()),
                #[cfg(feature = "deadlock_detection")]
                class: AtomicPtr::new(ptr::null_mut()),
            }
        }

        /// The number of this lock, which no other one has; it gets one if it has none.
        #[allow(dead_code, reason = "not every instrument asks")]
        #[inline]
        pub(crate) fn number(&self) -> usize {
            // ORDERING: Relaxed, here and below: the number says nothing but which lock it is.
            let identity = self.identity.load(Ordering::Relaxed);
            if identity > TYPE { identity / ONE } else { self.draw_number(identity) }
        }

        #[cold]
        fn draw_number(&self, identity: usize) -> usize {
            static LAST: AtomicUsize = AtomicUsize::new(0);
            let new = (LAST.fetch_add(1, Ordering::Relaxed) + 1) * ONE + identity;
            let relaxed = Ordering::Relaxed;
            let set = self.identity.compare_exchange(identity, new, relaxed, relaxed);
            set.err().unwrap_or(new) / ONE
        }

        #[allow(dead_code, reason = "not every instrument asks")]
        pub(crate) fn lock_type(&self) -> LockType {
            const ALL: [LockType; 8] = [
                LockType::Mutex,
                LockType::SendMutex,
                LockType::FairMutex,
                LockType::SyncMutex,
                LockType::RwLock,
                LockType::SendRwLock,
                LockType::RecursiveRwLock,
                LockType::SyncRwLock,
            ];
            ALL[self.identity.load(Ordering::Relaxed) & TYPE & 7]
        }

        /// The address of the lock.
        #[allow(dead_code, reason = "not every instrument asks")]
        pub(crate) fn address(&self) -> usize {
            ptr::from_ref(self).addr()
        }

        /// Where the lock was acquired last: by the holder, if there is one. While the profile runs, its end is known.
        #[allow(dead_code, reason = "not every instrument asks")]
        pub(crate) fn holder(&self) -> Option<Place> {
            self.holder_as().map(|holder| holder.place)
        }

        /// The same, and how.
        #[allow(dead_code, reason = "not every instrument asks")]
        pub(crate) fn holder_as(&self) -> Option<Holder> {
            // ORDERING: Relaxed, here and below: a location is constant.
            let tagged = self.place.load(Ordering::Relaxed);
            let bits = tagged.addr() & BITS;
            let place = tagged.map_addr(|it| it & !BITS);
            // SAFETY: null, or from a `&'static` (`is_held_from`).
            let place = Place(unsafe { place.as_ref() }?);
            Some(Holder { place, is_shared: bits == READERS })
        }

        /// The lock is held in this mode, by who has acquired it there.
        #[inline]
        fn is_held_from(&self, mode: Mode, place: Place) {
            let place = ptr::from_ref(place.0).cast_mut();
            match mode {
                Mode::Shared | Mode::Recursive => {
                    // Readers do not write where other readers look, unless somebody wants to know.
                    if profile::is_running() {
                        self.is_read_from(place.map_addr(|it| it | READERS));
                    }
                }
                Mode::Upgradable => {
                    self.place.store(place.map_addr(|it| it | UPGRADABLE), Ordering::Relaxed);
                }
                Mode::Exclusive | Mode::Upgrade => self.place.store(place, Ordering::Relaxed),
            }
        }

        /// Does not overwrite the place of the upgradable reader, nor always that of another reader: two of them would
        /// take the line of the lock from each other. Nobody else holds a lock with readers.
        #[inline]
        fn is_read_from(&self, place: *mut Location<'static>) {
            let (seen, set) = (self.place.load(Ordering::Relaxed), Ordering::Relaxed);
            if seen == place || seen.addr() & UPGRADABLE != 0 {
                return;
            }
            if seen.addr() & READERS == 0 || profile::may_replace_reader() {
                // If it fails, another one is the last.
                let _ = self.place.compare_exchange(seen, place, set, set);
            }
        }

        /// The place stays, and says something else of the holder. By who has acquired the lock there, and holds it.
        fn marks_place(&self, bits: usize) {
            let place = self.place.load(Ordering::Relaxed);
            self.place.store(place.map_addr(|it| it & !BITS | bits), Ordering::Relaxed);
        }

        /// Where the caller, who holds the lock, has acquired it.
        #[track_caller]
        pub(crate) fn place(&self) -> Place {
            self.holder().unwrap_or_else(Place::caller)
        }

        /// An acquisition begins. `is_blocking`: it has no timeout.
        #[track_caller]
        #[inline]
        pub(crate) fn attempt(&self, mode: Mode, is_blocking: bool) -> Attempt<'_> {
            self.attempt_at(mode, is_blocking, Place::caller())
        }

        /// The same, at a place that is known.
        #[inline]
        pub(crate) fn attempt_at(
            &self,
            mode: Mode,
            is_blocking: bool,
            place: Place,
        ) -> Attempt<'_> {
            if is_blocking {
                deadlock::wants(self, mode, place);
                profile::wants(self, mode, place);
            }
            Attempt { traced: self, mode, place, wait: Cell::new(None) }
        }

        /// The caller has released this mutex, and waits for a notification.
        pub(crate) fn condvar_wait(&self, place: Place) -> CondvarWait<'_> {
            let look = Some(Look::CONDVAR);
            let wait = Some((
                deadlock::waits(self, Mode::Exclusive, place, true, look),
                profile::waits(self, Mode::Exclusive, place, true, look),
            ));
            CondvarWait { traced: self, place, wait }
        }

        /// The holder holds the lock in another mode from now on.
        #[inline]
        pub(crate) fn changes(&self, from: Mode, to: Mode) {
            match to {
                Mode::Shared | Mode::Recursive => self.marks_place(READERS),
                Mode::Upgradable => self.marks_place(UPGRADABLE),
                Mode::Exclusive | Mode::Upgrade => {}
            }
            deadlock::changes(self, from, to);
            profile::changes(self, from, to);
        }

        /// The caller is about to release the lock.
        #[inline]
        pub(crate) fn releases(&self, mode: Mode) {
            // Until the next holder has left its place, or a reader, nobody is known.
            if mode == Mode::Upgradable || (mode == Mode::Exclusive && profile::is_running()) {
                self.place.store(ptr::null_mut(), Ordering::Relaxed);
            }
            deadlock::releases(self, mode);
            profile::releases(self, mode);
        }
    }

    impl Attempt<'_> {
        #[inline(always)]
        pub(crate) fn ongoing(&self) -> Ongoing<'_> {
            Ongoing(self)
        }

        /// The acquisition has ended, with the lock or without it.
        #[inline]
        pub(crate) fn ended(&self, is_acquired: bool) {
            let Self { traced, mode, place, .. } = *self;
            if is_acquired {
                // Before all else: who comes now waits behind this holder.
                traced.is_held_from(mode, place);
            }
            let wait = self.wait.take();
            let has_waited = wait.is_some();
            self.wait_ended(wait, is_acquired);
            if !is_acquired {
                return;
            }
            if mode == Mode::Upgrade {
                traced.changes(Mode::Upgradable, Mode::Exclusive);
                return profile::acquired(traced, mode, place, has_waited);
            }
            let mode = if mode == Mode::Recursive { Mode::Shared } else { mode };
            deadlock::holds(traced, mode, place);
            profile::acquired(traced, mode, place, has_waited);
        }

        #[inline]
        fn wait_ended(&self, wait: Option<Waits>, is_acquired: bool) {
            if let Some((ours, theirs)) = wait {
                deadlock::wait_ended(ours, self.traced, self.mode, self.place, is_acquired);
                profile::wait_ended(theirs, self.traced, self.mode, self.place, is_acquired);
            }
        }
    }

    impl Drop for Attempt<'_> {
        /// An acquisition may end by a panic: too many readers.
        #[inline]
        fn drop(&mut self) {
            self.wait_ended(self.wait.take(), false);
        }
    }

    impl Ongoing<'_> {
        /// The lock is not free: the caller waits from now on, for as long as it takes or until `deadline`. If that has
        /// passed already, it does not wait.
        #[cold]
        pub(crate) fn waits(self, deadline: Option<Instant>) {
            self.begin(deadline, None);
        }

        /// The same for a wait that has begun already, and has no deadline.
        #[cold]
        pub(crate) fn waits_since(self, since: &Moment) {
            let Attempt { traced, mode, place, ref wait } = *self.0;
            if let Some(theirs) = since.wait.get() {
                wait.set(Some((deadlock::waits(traced, mode, place, true, None), theirs)));
            }
        }

        /// The same for `lock`, which waits also while a writer waits for readers to leave.
        #[cold]
        pub(crate) fn waits_for_readers_too<L: LookedAt>(
            self,
            deadline: Option<Instant>,
            lock: &L,
        ) {
            let look = (self.0.mode != Mode::Recursive).then(|| Look::of(lock));
            self.begin(deadline, look);
        }

        /// The caller is the writer that keeps new readers out, and waits for those inside to leave from now on: a
        /// writer waited before, an upgrade did not.
        #[cold]
        pub(crate) fn drains(self, deadline: Option<Instant>) {
            if self.0.mode == Mode::Upgrade {
                self.begin(deadline, None);
            }
            deadlock::drains(self.0.traced);
        }

        fn begin(self, deadline: Option<Instant>, look: Option<Look>) {
            let Attempt { traced, mode, place, ref wait } = *self.0;
            if deadline.is_some_and(is_past) {
                return;
            }
            let is_patient = deadline.is_none();
            wait.set(Some((
                deadlock::waits(traced, mode, place, is_patient, look),
                profile::waits(traced, mode, place, is_patient, look),
            )));
        }
    }

    impl CondvarWait<'_> {
        /// It was notified, or gave up.
        pub(crate) fn ended(self) {}
    }

    impl Drop for CondvarWait<'_> {
        fn drop(&mut self) {
            let Self { traced, place, wait, .. } = self;
            if let Some((ours, theirs)) = wait.take() {
                deadlock::wait_ended(ours, traced, Mode::Exclusive, *place, false);
                profile::wait_ended(theirs, traced, Mode::Exclusive, *place, false);
            }
        }
    }
}
