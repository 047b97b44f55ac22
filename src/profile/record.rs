//! What the locks call. Without a contended lock and outside a sample this is a look at the state of the profile and
//! one at a thread-local counter.

use super::report::Kind;
use super::table::{self, OVERFLOW, Site};
use crate::primitive::{AtomicUsize, Ordering, now_ns, ticks};
use crate::traced::{Holder, Look, Mode, Place, Traced};
use core::cell::Cell;
use core::ptr;

/// Of so many acquisitions without waiting, and of so many holds, one is counted, in the long run. How many lie between
/// two is drawn at random each time, so that no program acquires in step with it.
pub const SAMPLING_INTERVAL: u32 = 61;

/// The number of the run; 0 while the profile is stopped.
static RUN: AtomicUsize = AtomicUsize::new(0);
/// The number of the last run that has begun.
static LAST_RUN: AtomicUsize = AtomicUsize::new(0);

/// A thread writes its place over that of another reader at most once in so many nanoseconds, so that two hot readers at two
/// places do not take the line of the lock from each other each time. A write takes some 50 ns, with the misses that follow
/// it in the other threads: that is 0.1 % of this.
const REPLACING_NS: u64 = 50_000;
/// After a try within that time, a thread does not look at the clock for so many further ones.
const TRIES: u32 = 15;

/// How many holds of one thread can be timed at once.
const HOLDS: usize = 8;

/// A hold that is being timed.
#[derive(Clone, Copy)]
struct Hold {
    /// The address of the lock.
    lock: usize,
    mode: Mode,
    /// Null: none.
    site: *const Site,
    since_ns: u64,
    run: usize,
}

const NO_HOLD: Hold =
    Hold { lock: 0, mode: Mode::Exclusive, site: ptr::null(), since_ns: 0, run: 0 };

/// What a thread has of its own. Without a destructor, so that it is there as long as the thread is.
struct Local {
    /// Acquisitions until the next sample, that one included. 0: the thread is new.
    left: Cell<u32>,
    random: Cell<u32>,
    /// How many of `holds` are not [`NO_HOLD`].
    held: Cell<usize>,
    holds: [Cell<Hold>; HOLDS],
    /// Until when it does not write its place over that of another reader.
    replaces_from_ns: Cell<u64>,
    /// How many times more it does not look at the clock for that.
    tries: Cell<u32>,
}

thread_local! {
    static LOCAL: Local = const {
        Local {
            left: Cell::new(0),
            random: Cell::new(0),
            held: Cell::new(0),
            holds: [const { Cell::new(NO_HOLD) }; HOLDS],
            replaces_from_ns: Cell::new(0),
            tries: Cell::new(0),
        }
    };
}

/// A wait that has begun; `None` if it is not timed.
pub(crate) type Wait = Option<TimedWait>;

/// When a wait has begun, and behind whom.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TimedWait {
    since_ns: u64,
    run: usize,
    behind: Option<Holder>,
}

/// Whether acquisitions are counted.
#[inline(always)]
pub(crate) fn is_running() -> bool {
    // ORDERING: Relaxed: who sees a start or a stop late counts some acquisitions less or more.
    RUN.load(Ordering::Relaxed) != 0
}

/// The number of the run; 0: the profile is stopped.
fn run() -> usize {
    // ORDERING: Acquire pairs with the Release in `begin`: who counts in a run finds its table, with the counters at 0.
    RUN.load(Ordering::Acquire)
}

/// Begins a run.
pub(super) fn begin() {
    let run = LAST_RUN.fetch_add(1, Ordering::Relaxed) + 1;
    // ORDERING: Release pairs with the Acquire in `run`.
    RUN.store(run, Ordering::Release);
}

/// Ends the run. Returns whether there was one.
pub(super) fn end() -> bool {
    RUN.swap(0, Ordering::Relaxed) != 0
}

/// Whether a reader may write its place over that of another one.
#[inline]
pub(crate) fn may_replace_reader() -> bool {
    LOCAL.with(|local| {
        let tries = local.tries.get();
        if tries > 0 {
            local.tries.set(tries - 1);
            return false;
        }
        local.may_replace_reader()
    })
}

/// A blocking acquisition begins.
#[inline(always)]
pub(crate) fn wants(_: &Traced, _: Mode, _: Place) {}

/// The lock is not free, and the thread is about to wait for it.
pub(crate) fn waits(lock: &Traced, mode: Mode, _: Place, _: bool, look: Option<Look>) -> Wait {
    let wait = moved(lock)?;
    // Who waits for a notification does not wait for the lock.
    if look.is_some_and(|look| look.of_condvar) {
        return None;
    }
    // The place of the lock is that of who upgrades, and not of the readers that it waits for.
    let behind = wait.behind.filter(|_| mode != Mode::Upgrade);
    Some(TimedWait { behind, ..wait })
}

/// Another thread begins to wait for the lock.
pub(crate) fn moved(lock: &Traced) -> Wait {
    let run = run();
    (run != 0).then(|| TimedWait { since_ns: now_ns(), run, behind: lock.holder_as() })
}

/// The wait has ended, with the lock or without it.
pub(crate) fn wait_ended(wait: Wait, lock: &Traced, mode: Mode, place: Place, is_acquired: bool) {
    // A wait that has begun in another run is in none.
    let Some(wait) = wait.filter(|wait| wait.run == run()) else { return };
    let ns = now_ns().saturating_sub(wait.since_ns);
    let Some(site) = table::site(place, Kind::of(lock, mode)) else {
        OVERFLOW.waits.fetch_add(1, Ordering::Relaxed);
        OVERFLOW.wait_ns.fetch_add(ns, Ordering::Relaxed);
        return;
    };
    site.record_wait(ns, wait.behind);
    if !is_acquired {
        site.timeouts.fetch_add(1, Ordering::Relaxed);
    }
}

/// The thread has acquired the lock.
#[inline]
pub(crate) fn acquired(lock: &Traced, mode: Mode, place: Place, has_waited: bool) {
    if !is_running() {
        return;
    }
    LOCAL.with(|local| {
        let left = local.left.get();
        if left > 1 && local.held.get() == 0 {
            local.left.set(left - 1);
        } else {
            acquired_slow(local, lock, mode, place, has_waited);
        }
    });
}

#[cold]
#[inline(never)]
fn acquired_slow(local: &Local, lock: &Traced, mode: Mode, place: Place, has_waited: bool) {
    let held = if mode == Mode::Upgrade { Mode::Exclusive } else { mode };
    // A hold of the same lock whose guard another thread has dropped; or the thread reads twice, and who of the two ends
    // would not be known.
    local.remove(lock, held);
    if !local.draw() {
        return;
    }
    let Some(site) = table::site(place, Kind::of(lock, mode)) else {
        OVERFLOW.samples.fetch_add(u64::from(!has_waited), Ordering::Relaxed);
        return;
    };
    if !has_waited {
        site.samples.fetch_add(1, Ordering::Relaxed);
    }
    let lock = lock.address();
    local.push(Hold { lock, mode: held, site, since_ns: now_ns(), run: run() });
}

/// The thread holds the lock in another mode from now on.
#[inline]
pub(crate) fn changes(lock: &Traced, from: Mode, _: Mode) {
    releases(lock, from);
}

/// The thread is about to release the lock.
#[inline]
pub(crate) fn releases(lock: &Traced, mode: Mode) {
    if !is_running() {
        return;
    }
    LOCAL.with(|local| {
        if local.held.get() != 0 {
            releases_slow(local, lock, mode);
        }
    });
}

#[cold]
#[inline(never)]
fn releases_slow(local: &Local, lock: &Traced, mode: Mode) {
    let Some(hold) = local.remove(lock, mode) else { return };
    // SAFETY: null, or of the table, which is never deallocated.
    if let Some(site) = unsafe { hold.site.as_ref() }.filter(|_| hold.run == run()) {
        site.holds.record(now_ns().saturating_sub(hold.since_ns));
    }
}

impl Local {
    #[cold]
    fn may_replace_reader(&self) -> bool {
        let now = now_ns();
        let is_time = now >= self.replaces_from_ns.get();
        if is_time {
            self.replaces_from_ns.set(now + REPLACING_NS);
        } else {
            self.tries.set(TRIES);
        }
        is_time
    }

    /// Whether the next acquisition is a sample.
    fn draw(&self) -> bool {
        if self.left.get() == 0 {
            // Where threads live for a few acquisitions only, each must have its chance.
            let seed = ticks() ^ (ptr::from_ref(self).addr() as u64).rotate_left(32);
            self.random.set((seed ^ seed >> 29) as u32 | 1);
            // As if the thread had come into the middle of an interval.
            self.left.set(self.interval().min(self.interval()));
        }
        let left = self.left.get() - 1;
        self.left.set(if left == 0 { self.interval() } else { left });
        left == 0
    }

    /// From 1 to twice the interval.
    fn interval(&self) -> u32 {
        // Marsaglia, "Xorshift RNGs" (2003), page 4.
        let mut random = self.random.get();
        random ^= random << 13;
        random ^= random >> 17;
        random ^= random << 5;
        self.random.set(random);
        1 + random % (2 * SAMPLING_INTERVAL - 1)
    }

    /// Times a hold, in the place of the oldest one if there is no free place: its guard may be in another thread.
    fn push(&self, hold: Hold) {
        let since = |old: Hold| {
            let is_over = old.site.is_null() || old.run != hold.run;
            if is_over { 0 } else { old.since_ns }
        };
        if let Some(place) = self.holds.iter().min_by_key(|place| since(place.get())) {
            let is_new = place.replace(hold).site.is_null();
            self.held.set(self.held.get() + usize::from(is_new));
        }
    }

    /// Ends the timing of a hold of this lock.
    fn remove(&self, lock: &Traced, mode: Mode) -> Option<Hold> {
        let lock = lock.address();
        let is_it = |hold: Hold| hold.lock == lock && hold.mode == mode && !hold.site.is_null();
        let place = self.holds.iter().find(|place| is_it(place.get()))?;
        self.held.set(self.held.get() - 1);
        Some(place.replace(NO_HOLD))
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{Dropped, Place as ReportPlace, PlaceReport};
    use super::super::{forget, report, start, stop};
    use super::*;
    use crate::primitive::spin_loop;
    use crate::traced::LockType;
    use core::panic::Location;
    use std::sync::{Mutex, MutexGuard, PoisonError};
    use std::thread;
    use std::time::{Duration, Instant};

    /// There is one profile: these tests take turns.
    fn alone() -> MutexGuard<'static, ()> {
        static TURN: Mutex<()> = Mutex::new(());
        TURN.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[track_caller]
    fn here() -> Place {
        Place::caller()
    }

    /// What was counted in this file. Other tests use locks meanwhile.
    fn here_counted() -> Vec<PlaceReport> {
        let mut places = report().places;
        places.retain(|place| place.place.file == file!());
        places
    }

    /// What was counted at this place.
    fn at(place: Place, kind: Kind) -> Option<PlaceReport> {
        let places = here_counted();
        let place = ReportPlace::from(place);
        places.into_iter().find(|found| found.place == place && found.kind == kind)
    }

    fn mutex() -> Traced {
        Traced::new(LockType::Mutex)
    }

    fn acquire(lock: &Traced, place: Place, mode: Mode) {
        lock.attempt_at(mode, true, place).ended(true);
    }

    /// An acquisition that has waited for that long, or a little longer.
    fn acquire_after(lock: &Traced, ns: u64, place: Place) {
        acquire_behind(lock, ns, place, None);
    }

    /// The same, behind who has acquired it there.
    fn acquire_behind(lock: &Traced, ns: u64, place: Place, holder: Option<Place>) {
        if let Some(holder) = holder {
            acquire(lock, holder, Mode::Exclusive);
        }
        let attempt = lock.attempt_at(Mode::Exclusive, true, place);
        attempt.ongoing().waits(None);
        spin(ns);
        if holder.is_some() {
            lock.releases(Mode::Exclusive);
        }
        attempt.ended(true);
        lock.releases(Mode::Exclusive);
    }

    fn spin(ns: u64) {
        let begin = now_ns();
        while now_ns() - begin < ns {
            spin_loop();
        }
    }

    /// As many acquisitions without waiting.
    fn pass(lock: &Traced, count: usize, place: Place) {
        for _ in 0..count {
            acquire(lock, place, Mode::Exclusive);
            lock.releases(Mode::Exclusive);
        }
    }

    /// The percentages are seven standard deviations and more.
    #[track_caller]
    fn assert_near(estimate: u64, truth: u64, percent: u64) {
        assert!(estimate.abs_diff(truth) * 100 < truth * percent, "{estimate} for {truth}");
    }

    #[test]
    fn contended_acquisitions_are_exact_and_others_estimated() {
        let _alone = alone();
        let (lock, place, holder) = (mutex(), here(), here());
        start();
        acquire_after(&lock, 900_000, place);
        for _ in 0..50 {
            acquire_behind(&lock, 20_000, place, Some(holder));
        }
        pass(&lock, 200_000, place);
        let only_waits = here();
        (0..10_000).for_each(|_| acquire_after(&mutex(), 0, only_waits));
        let found = at(only_waits, Kind::Mutex).unwrap();
        assert_eq!((found.contended, found.acquisitions), (10_000, 10_000));
        let found = at(place, Kind::Mutex).unwrap();
        assert_eq!((found.contended, found.timeouts, found.waits.count), (51, 0, 51));
        assert_near(found.acquisitions, 200_051, 10);
        assert!(found.waits.total_ns >= 50 * 20_000 + 900_000);
        assert!((19_500..200_000).contains(&found.waits.p50_ns), "{:?}", found.waits);
        assert!(found.waits.max_ns >= 900_000);
        let behind: Vec<_> = found.behind.iter().map(|it| (it.place.clone(), it.waits)).collect();
        assert_eq!(behind.len(), 2, "{behind:?}");
        assert!(behind.contains(&(Some(holder.into()), 50)) && behind.contains(&(None, 1)));
        let total: u64 = found.behind.iter().map(|it| it.total_ns).sum();
        assert_eq!(total, found.waits.total_ns);
    }

    #[test]
    fn holds_are_timed_in_a_sample() {
        let _alone = alone();
        let [lock, other] = [(); 2].map(|()| Traced::new(LockType::RwLock));
        let place = here();
        start();
        // How long it takes together, which depends on what else the machine does.
        let mut all = [0; 20_000];
        for time in &mut all {
            let begin = now_ns();
            acquire(&lock, place, Mode::Exclusive);
            // Other locks are used meanwhile.
            acquire(&other, place, Mode::Recursive);
            spin(2_000);
            other.releases(Mode::Shared);
            lock.releases(Mode::Exclusive);
            *time = now_ns() - begin;
        }
        all.sort_unstable();
        // Those of the sample take a little longer.
        let most = all[all.len() / 2] + 1_000;
        let (write, read) = (at(place, Kind::Write).unwrap(), at(place, Kind::Read).unwrap());
        for found in [write, read] {
            assert_near(found.holds.count * u64::from(SAMPLING_INTERVAL), 20_000, 40);
            assert!((1_900..most).contains(&found.holds.p50_ns), "{found:?}, {most}");
        }
    }

    #[test]
    fn a_guard_that_was_dropped_elsewhere_leaves_no_long_hold() {
        let _alone = alone();
        let mutex = || Traced::new(LockType::SendMutex);
        let (lock, place) = (mutex(), here());
        start();
        for _ in 0..1_000 {
            acquire(&lock, place, Mode::Exclusive);
        }
        spin(50_000_000);
        pass(&lock, 10_000, place);
        let holds = at(place, Kind::Mutex).unwrap().holds;
        assert!(holds.count > 0 && holds.max_ns < 50_000_000, "{holds:?}");
        LOCAL.with(|local| assert!(local.held.get() <= 1));
        // Of many locks.
        let locks: Vec<Traced> = (0..2_000).map(|_| mutex()).collect();
        locks.iter().for_each(|lock| acquire(lock, place, Mode::Exclusive));
        pass(&lock, 10_000, place);
        let more = at(place, Kind::Mutex).unwrap().holds;
        assert!(more.count > holds.count, "{more:?}");
    }

    #[test]
    fn a_reader_that_was_dropped_elsewhere_leaves_no_long_hold() {
        let _alone = alone();
        let (lock, place) = (Traced::new(LockType::SyncRwLock), here());
        start();
        for _ in 0..1_000 {
            acquire(&lock, place, Mode::Shared);
        }
        LOCAL.with(|local| assert!(local.held.get() <= 1));
        for _ in 0..10_000 {
            acquire(&lock, place, Mode::Shared);
            lock.releases(Mode::Shared);
        }
        LOCAL.with(|local| assert_eq!(local.held.get(), 0));
        assert!(at(place, Kind::Read).unwrap().holds.count > 0);
    }

    #[test]
    fn readers_seldom_write_over_other_readers() {
        let _alone = alone();
        let lock = Traced::new(LockType::SyncRwLock);
        let places = [here(), here(), here()];
        let holder = || lock.holder().map(ReportPlace::from);
        let read = |place| {
            acquire(&lock, place, Mode::Shared);
            lock.releases(Mode::Shared);
        };
        start();
        let begin = now_ns();
        lock.attempt_at(Mode::Exclusive, true, here()).ended(true);
        read(places[0]);
        assert_eq!(holder(), Some(places[0].into()), "no writer holds the lock any more");
        read(places[1]);
        assert_eq!(holder(), Some(places[1].into()), "the first time in a while");
        let mut changes = 0;
        for round in 0..100_000 {
            let before = holder();
            read(places[round % 3]);
            changes += u64::from(holder() != before);
        }
        let most = (now_ns() - begin) / REPLACING_NS + 1;
        assert!((1..=most).contains(&changes), "{changes} of at most {most}");
    }

    #[test]
    fn a_wait_in_vain_is_a_timeout() {
        let _alone = alone();
        let place = here();
        start();
        let lock = Traced::new(LockType::SyncRwLock);
        let attempt = lock.attempt_at(Mode::Upgradable, false, place);
        attempt.ongoing().waits(Some(Instant::now() + Duration::from_secs(60)));
        attempt.ended(false);
        let found = at(place, Kind::UpgradableRead).unwrap();
        assert_eq!((found.timeouts, found.contended, found.acquisitions), (1, 0, 0));
        assert_eq!(found.waits.count, 1);
    }

    #[test]
    fn nothing_is_lost_when_threads_end_and_short_ones_count() {
        let _alone = alone();
        let place = here();
        start();
        for _ in 0..4_000 {
            thread::scope(|scope| {
                let uses = || {
                    acquire_after(&mutex(), 0, place);
                    pass(&mutex(), 20, place);
                };
                scope.spawn(uses);
            });
        }
        let found = at(place, Kind::Mutex).unwrap();
        assert_eq!(found.contended, 4_000);
        assert_near(found.acquisitions, 4_000 * 21, 20);
    }

    #[test]
    fn stop_stops_and_start_begins_from_0() {
        let _alone = alone();
        let (lock, place) = (mutex(), here());
        start();
        acquire_after(&lock, 0, place);
        let unfinished = lock.attempt_at(Mode::Exclusive, true, place);
        unfinished.ongoing().waits(None);
        stop();
        let (before, times) = (here_counted(), report());
        assert!(!times.is_running && times.elapsed_ns > 0);
        acquire_after(&lock, 0, place);
        pass(&lock, 1_000, place);
        stop();
        assert_eq!((here_counted(), report().elapsed_ns), (before, times.elapsed_ns));
        start();
        start();
        // This wait has begun in another run.
        unfinished.ended(true);
        assert!(at(place, Kind::Mutex).is_none());
        acquire_after(&lock, 0, place);
        assert_eq!(at(place, Kind::Mutex).unwrap().contended, 1);
        assert!(report().is_running);
        // As a forked child does.
        forget();
        assert!(report().is_running && here_counted().is_empty());
        stop();
        forget();
        assert_eq!((report().started, report().elapsed_ns), (0, 0));
    }

    #[test]
    fn places_are_bounded_and_the_rest_is_told() {
        let _alone = alone();
        start();
        // Each is a place of its own: what counts is the address.
        let places: &'static [Location<'static>] = vec![*here().0; 3_000].leak();
        let count = |place| acquire_after(&mutex(), 0, Place(place));
        thread::scope(|scope| {
            for _ in 0..16 {
                scope.spawn(|| places[..1_000].iter().for_each(count));
            }
        });
        assert_eq!(report().dropped, Dropped::default(), "there is room for 1,000");
        places.iter().for_each(count);
        let (counted, report) = (here_counted(), report());
        // All of them are one place of the source.
        let [all] = &counted[..] else { panic!("{counted:?}") };
        let dropped = 16 * 1_000 + 3_000 - all.contended;
        assert!((3_000 - table::SITES as u64..=report.dropped.waits).contains(&dropped));
        assert!(report.dropped.wait_ns > 0);
        assert!(report.to_string().contains("no room"), "{report}");
        let behind: u64 = all.behind.iter().map(|behind| behind.waits).sum();
        assert_eq!(behind, all.waits.count);
        // That would have no room for the other tests.
        table::free_for_tests();
    }

    #[test]
    fn holders_are_bounded_and_the_rest_is_together() {
        let _alone = alone();
        let (lock, place) = (mutex(), here());
        start();
        let holders: &'static [Location<'static>] = vec![*here().0; 40].leak();
        for holder in holders {
            acquire_behind(&lock, 0, place, Some(Place(holder)));
        }
        let behind = at(place, Kind::Mutex).unwrap().behind;
        let waits = |known| behind.iter().find(|it| it.place.is_some() == known).unwrap().waits;
        let (known, others) = (table::HOLDERS as u64, 40 - table::HOLDERS as u64);
        assert_eq!([waits(true), waits(false)], [known, others]);
    }

    #[test]
    fn no_program_acquires_in_step_with_the_samples() {
        let _alone = alone();
        let (lock, places) = (mutex(), [here(), here()]);
        start();
        // In turns, the one each time after as many of the other as there are in an interval, less one.
        for _ in 0..5_000 {
            pass(&lock, 1, places[0]);
            pass(&lock, SAMPLING_INTERVAL as usize - 1, places[1]);
        }
        // 82 samples and 4,918.
        assert_near(at(places[0], Kind::Mutex).unwrap().acquisitions, 5_000, 80);
        assert_near(at(places[1], Kind::Mutex).unwrap().acquisitions, 300_000, 12);
    }
}
