//! What the locks tell ([`traced`](crate::traced)), and what is done with it.

use super::report::{self, LockOrder, Report};
use super::threads::{self, LockSeen, Waiting, drop_trace, inside};
use super::{Class, deadlock, order};
use crate::traced::{LockType, Look, Mode, Place, Traced};

/// For what the thread waited before the wait that begins: waits may be nested, if one of them allocates. `None`: the
/// wait is not watched.
pub(crate) type Wait = Option<Option<Waiting>>;

/// A guard that may be sent to another thread does not tell whose the lock is: these locks are not watched.
fn is_watched(traced: &Traced) -> bool {
    !matches!(traced.lock_type(), LockType::SendMutex | LockType::SendRwLock)
}

/// Whether a hold in the one mode keeps the other one out.
pub(super) fn excludes(held: Mode, wanted: Mode) -> bool {
    match (held, wanted) {
        // The upgradable reader is the caller.
        (Mode::Upgradable, Mode::Upgrade) => false,
        (Mode::Exclusive, _) | (_, Mode::Exclusive | Mode::Upgrade) => true,
        (Mode::Upgradable, Mode::Upgradable) => true,
        _ => false,
    }
}

#[inline]
pub(crate) fn wants(traced: &Traced, mode: Mode, place: Place) {
    if !is_watched(traced) {
        return;
    }
    inside(|record| {
        let Some(record) = record else { return };
        Class::join_place(traced, place);
        for cycle in order::wants(record, || LockSeen::new(traced, place), mode, place) {
            report::tell(&Report::LockOrder(LockOrder::new(&cycle)));
        }
    });
}

#[cold]
pub(crate) fn waits(
    traced: &Traced,
    mode: Mode,
    place: Place,
    is_patient: bool,
    look: Option<Look>,
) -> Wait {
    if !is_watched(traced) {
        return None;
    }
    inside(|record| {
        let record = record?;
        let lock = LockSeen::new(traced, place);
        let trace = threads::trace();
        let drains = false;
        let wait = Waiting { sequence: 0, lock, mode, place, is_patient, look, drains, trace };
        let is_of_condvar = look.is_some_and(|look| look.of_condvar);
        if is_patient && !is_of_condvar {
            let mut holds = (0..).map_while(|at| record.hold(at));
            let is_own = |hold: &threads::Hold| hold.lock.number == lock.number;
            let own = holds.find(|hold| is_own(hold) && excludes(hold.mode, mode));
            if let Some(own) = own {
                let found = deadlock::of_one(record, &wait, &own);
                report::tell(&Report::SelfDeadlock(found));
            }
        }
        Some(record.begin_wait(wait))
    })
    .flatten()
}

#[cold]
pub(crate) fn drains(traced: &Traced) {
    if is_watched(traced) {
        inside(|record| record.map(|record| record.drains(traced.number())));
    }
}

#[cold]
pub(crate) fn wait_ended(before: Wait, _: &Traced, _: Mode, _: Place, _: bool) {
    let Some(before) = before else { return };
    inside(|record| {
        if let Some(ended) = record.and_then(|record| record.end_wait(before)) {
            drop_trace(ended.trace);
        }
    });
}

#[inline]
pub(crate) fn holds(traced: &Traced, mode: Mode, place: Place) {
    if is_watched(traced) {
        inside(|record| {
            if let Some(record) = record {
                record.add(LockSeen::new(traced, place), mode, place, threads::trace());
            }
        });
    }
}

#[inline]
pub(crate) fn changes(traced: &Traced, from: Mode, to: Mode) {
    if is_watched(traced) {
        inside(|record| threads::end_hold(record, traced.number(), from, Some(to)));
    }
}

#[inline]
pub(crate) fn releases(traced: &Traced, mode: Mode) {
    if is_watched(traced) {
        inside(|record| threads::end_hold(record, traced.number(), mode, None));
    }
}
