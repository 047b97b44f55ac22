//! Queues that share a bucket, and waiters that leave from any place.

use super::harness::set_apart;
use super::{Guarded, Model};
use crate::primitive::Probe;
use crate::primitive::model_thread as thread;
use crate::raw::waiters::{self, Kind, Locked, Waiter};
use core::ptr::null;

#[test]
fn two_locks_in_one_bucket() {
    two_locks(Model::bounded(2), false);
}

#[test]
fn two_locks_in_two_buckets() {
    two_locks(Model::bounded(2), true);
}

fn two_locks(model: Model, are_apart: bool) {
    model.must_reach(&[Probe::Parked]).check(move || {
        let (one, two) = (Guarded::new(), Guarded::new());
        if are_apart {
            set_apart(two.addr());
        }
        let others =
            [one.clone(), two.clone()].map(|other| thread::spawn(move || other.lock_and_add()));
        one.lock_and_add();
        two.lock_and_add();
        for other in others {
            other.join().unwrap();
        }
        assert_eq!((one.total(), two.total()), (2, 2));
    });
}

/// Another lock of the bucket has a waiter, and a designated waker: neither looks after this one.
#[test]
fn role_and_turn_of_another_lock() {
    Model::bounded(3).must_reach(&[Probe::Parked]).check(|| {
        let (guarded, neighbour) = (Guarded::new(), Guarded::new());
        let bucket = waiters::bucket_of(neighbour.addr());
        let waiter = Waiter::new(neighbour.lock.word());
        bucket.lock().enqueue(&waiter);
        assert!(bucket.handoff.try_claim(neighbour.addr()));
        guarded.lock.lock();
        let other = guarded.clone();
        let other = thread::spawn(move || other.lock_and_add());
        guarded.add();
        guarded.unlock();
        other.join().unwrap();
        assert!(bucket.handoff.is_designated(neighbour.addr()), "the role was taken away");
        bucket.handoff.end();
        bucket.lock().dequeue(&waiter);
        assert_eq!(guarded.total(), 2);
    });
}

/// Two threads that each need both buckets, and name them in opposite orders.
#[test]
fn two_lock_both_buckets() {
    fn lock_both(one: usize, other: usize) {
        let (first, second) = waiters::lock_two(one, other);
        let second = second.expect("two buckets");
        assert!(core::ptr::eq(first.bucket, waiters::bucket_of(one)));
        assert!(core::ptr::eq(second.bucket, waiters::bucket_of(other)));
    }
    Model::exhaustive().check(|| {
        let locks = [Guarded::new(), Guarded::new()];
        let [one, other] = [locks[0].addr(), locks[1].addr()];
        set_apart(other);
        let thread = thread::spawn(move || lock_both(other, one));
        lock_both(one, other);
        thread.join().unwrap();
    });
}

/// One thread, three locks in a bucket, and every order in which their waiters leave: each lock's queue
/// keeps the order of waiting, with one more at its end, and the table says who waits.
#[test]
fn waiters_leave_from_any_place() {
    for order in 0..120_usize {
        Model::exhaustive().check(move || leave_in_order(order));
    }
}

fn leave_in_order(mut order: usize) {
    let locks = [Guarded::new(), Guarded::new(), Guarded::new()];
    let bucket = waiters::bucket_of(locks[0].addr());
    let nodes: [Waiter; 5] =
        [0, 1, 0, 2, 0].map(|lock: usize| Waiter::new(locks[lock].lock.word()));
    let mut locked = bucket.lock();
    nodes.iter().for_each(|node| locked.enqueue(node));
    let mut left: Vec<&Waiter> = nodes.iter().collect();
    while !left.is_empty() {
        let number = order % left.len();
        order /= left.len();
        locked.dequeue(left.remove(number));
        for lock in &locks {
            let word = core::ptr::from_ref(lock.lock.word());
            let mut expected: Vec<_> =
                left.iter().copied().filter(|node| node.word == word).collect();
            assert_queue(&locked, lock, &expected);
            assert!(bucket.may_have_waiters(lock.addr()) || expected.is_empty());
            let last = Waiter::new(lock.lock.word());
            locked.enqueue(&last);
            expected.push(&last);
            assert_queue(&locked, lock, &expected);
            locked.dequeue(&last);
        }
    }
    assert!(!bucket.has_waiters());
}

/// Asserts that these, and no others, wait for the lock, in this order.
fn assert_queue(locked: &Locked<'_>, lock: &Guarded, expected: &[&Waiter]) {
    let mut next = locked.first(lock.addr(), Kind::Exclusive).map_or(null(), core::ptr::from_ref);
    for waiter in expected {
        assert!(core::ptr::eq(next, *waiter), "a waiter has lost its place");
        next = waiter.next();
    }
    assert!(next.is_null(), "a waiter was left in the queue");
}

/// A waiter that is moved to another queue brings no links of the first one with it.
#[test]
fn a_moved_waiter_brings_no_links() {
    Model::exhaustive().check(|| {
        let (mutex, neighbour) = (Guarded::new(), Guarded::new());
        let bucket = waiters::bucket_of(mutex.addr());
        let condvar = 0_u32;
        let condvar = core::ptr::from_ref(&condvar).addr();
        let [moved, stays] = [(); 2].map(|()| Waiter::of_condvar(condvar, mutex.lock.word()));
        let beside = Waiter::new(neighbour.lock.word());
        let mut locked = bucket.lock();
        locked.push(&moved);
        locked.push(&stays);
        // This queue is listed ahead of the Condvar's.
        locked.enqueue(&beside);
        locked.remove(&moved);
        moved.redirect(mutex.addr(), Kind::Exclusive);
        locked.enqueue(&moved);
        assert_queue(&locked, &mutex, &[&moved]);
        assert_queue(&locked, &neighbour, &[&beside]);
        locked.remove(&stays);
        locked.dequeue(&moved);
        assert_queue(&locked, &mutex, &[]);
        assert_queue(&locked, &neighbour, &[&beside]);
        locked.dequeue(&beside);
        drop(locked);
        assert!(bucket.is_idle());
    });
}
