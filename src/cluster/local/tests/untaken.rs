//! Grants that nobody takes.

use super::*;
use crate::cluster::layers::Faulty;

#[tokio::test(start_paused = true)]
async fn an_untaken_grant_passes_on_to_the_next_local_waiter_after_a_claim_window() {
    let (_node, lock) = lock_of(Memory::new());
    let user = lock.acquire().await.unwrap();
    let mut kept = Kept::new(&lock, WaitMode::Wait);
    let second = spawn(&lock);
    settle().await;
    drop(user);
    let began = Instant::now();
    let (guard, _) = second.await.unwrap();
    assert!(is_about(began.elapsed(), WINDOW), "{:?}", began.elapsed());
    // It waits again, and has kept its place.
    let mut third = Kept::new(&lock, WaitMode::Wait);
    assert!(kept.poll().is_none() && third.poll().is_none());
    drop(guard);
    assert!(third.poll().is_none());
    assert!(kept.guard().is_valid());
    assert!(third.guard().is_valid());
}

#[tokio::test(start_paused = true)]
async fn many_kept_futures_pass_a_lock_on_that_they_wait_for() {
    let (node, lock) = lock_of(Memory::new());
    let user = lock.acquire().await.unwrap();
    let mut kept: Vec<_> = (0..3).map(|_| Kept::new(&lock, WaitMode::Wait)).collect();
    let last = spawn(&lock);
    settle().await;
    drop(user);
    let (guard, took) = last.await.unwrap();
    assert!(took < 3 * WINDOW + ms(100), "{took:?}");
    // They have kept their places.
    assert!(kept.iter_mut().all(|one| one.poll().is_none()));
    drop(guard);
    for one in &mut kept {
        assert!(one.guard().is_valid());
    }
    drop(kept);
    drop(lock);
    settle().await;
    assert_eq!(node.keys(), 0, "nothing is left");
}

#[tokio::test(start_paused = true)]
async fn an_untaken_grant_is_released_when_another_node_waits() {
    // The other node waits before the grant, or joins after it.
    for joins_after in [Duration::ZERO, ms(3_200), ms(4_900)] {
        let engine = Memory::new();
        let (_a, lock) = lock_of(engine.clone());
        let (_b, theirs) = lock_of(engine);
        let mut kept = Kept::new(&lock, WaitMode::Wait);
        settle().await;
        sleep(joins_after).await;
        let (guard, took) = acquire(&theirs).await;
        assert!(took <= WINDOW + ms(20), "{took:?}, joined after {joins_after:?}");
        assert!(kept.poll().is_none());
        drop(guard);
        sleep(ms(100)).await;
        assert!(kept.guard().is_valid(), "it waits again when it is polled");
    }
}

#[tokio::test(start_paused = true)]
async fn an_untaken_grant_stays_while_nobody_else_waits() {
    let (_node, lock) = lock_of(Memory::new());
    let mut kept = Kept::new(&lock, WaitMode::Wait);
    sleep(60 * SECOND).await;
    let guard = kept.guard();
    assert!(guard.is_valid());
    sleep(60 * SECOND).await;
    assert!(guard.is_valid());
}

#[tokio::test(start_paused = true)]
async fn a_grant_is_taken_back_at_the_timeout_of_its_waiter() {
    let engine = Memory::new();
    let (_a, lock) = lock_of(engine.clone());
    let (_b, theirs) = lock_of(engine);
    let mut kept = Kept::new(&lock, WaitMode::Within(ms(300)));
    sleep(ms(290)).await;
    assert!(theirs.try_acquire().await.is_err(), "it is granted");
    sleep(ms(15)).await;
    let guard = theirs.try_acquire().await.unwrap();
    let error = kept.poll().unwrap().unwrap_err();
    assert!(matches!(error, LockError::TimedOut { .. }), "{error}");
    drop(guard);
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_timeout_has_passed_is_not_granted_anything() {
    let (_node, lock) = lock_of(Memory::new());
    let user = lock.acquire().await.unwrap();
    let mut kept = Kept::new(&lock, WaitMode::Within(ms(300)));
    let mut next = Kept::new(&lock, WaitMode::Wait);
    sleep(ms(400)).await;
    drop(user);
    assert!(next.guard().is_valid());
    assert!(matches!(kept.poll(), Some(Err(LockError::TimedOut { .. }))));
}

#[tokio::test(start_paused = true)]
async fn a_try_whose_grant_was_taken_back_is_busy() {
    let engine = Memory::new();
    let (_a, lock) = lock_of(engine.clone());
    let (_b, theirs) = lock_of(engine);
    let mut kept = Kept::new(&lock, WaitMode::Try);
    settle().await;
    let (guard, took) = acquire(&theirs).await;
    assert!(took <= WINDOW + ms(20), "{took:?}");
    assert!(matches!(kept.poll(), Some(Err(LockError::Busy { .. }))));
    drop(guard);
}

/// A thread that is first and is to take an available lease, but is stopped.
#[tokio::test(start_paused = true)]
async fn a_thread_that_does_not_run_keeps_an_available_lease_for_a_claim_window() {
    let node = builder(Memory::new()).barging_window(5 * SECOND).build().unwrap();
    let lock = node.lock("k").unwrap();
    let user = lock.acquire().await.unwrap();
    let stopped = lock.handle.acquire(WaitMode::Wait, HoldLimits::default()).spinning();
    let mut stopped = Kept::of(stopped);
    let next = spawn(&lock);
    settle().await;
    drop(user);
    let began = Instant::now();
    let (guard, _) = next.await.unwrap();
    assert!(is_about(began.elapsed(), WINDOW), "{:?}", began.elapsed());
    assert!(stopped.poll().is_none());
    drop(guard);
    settle().await; // It leaves the lease to others for a moment.
    assert!(stopped.guard().is_valid());
}

/// The same with a grant: nobody barges.
#[tokio::test(start_paused = true)]
async fn a_thread_that_does_not_run_keeps_its_grant_for_a_claim_window() {
    let node = builder(Memory::new()).barging_window(Duration::ZERO).build().unwrap();
    let lock = node.lock("k").unwrap();
    let stopped = lock.handle.acquire(WaitMode::Wait, HoldLimits::default()).spinning();
    let mut stopped = Kept::of(stopped);
    settle().await;
    let (guard, took) = acquire(&lock).await;
    assert!(took <= WINDOW, "{took:?}");
    assert!(stopped.poll().is_none());
    drop(guard);
    assert!(stopped.guard().is_valid());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_whose_untaken_grant_is_lost_waits_for_another_one() {
    let engine = Memory::new();
    let (_a, lock) = lock_of(engine.clone());
    let operator = builder(engine).build().unwrap();
    let mut kept = Kept::new(&lock, WaitMode::Wait);
    settle().await;
    operator.break_lock("k").await.unwrap().unwrap();
    sleep(5 * SECOND).await;
    assert!(kept.poll().is_none(), "it gets a guard that is lost");
    settle().await;
    assert!(kept.guard().is_valid());
}

#[tokio::test(start_paused = true)]
async fn a_waiter_that_has_not_taken_its_grant_is_told_of_the_close() {
    let (node, lock) = lock_of(Memory::new());
    let mut all: [_; 3] = std::array::from_fn(|_| Kept::new(&lock, WaitMode::Wait));
    sleep(WINDOW + ms(10)).await; // The first is absent, the second has the grant, the third waits.
    node.shutdown().await;
    for one in &mut all {
        assert!(matches!(one.poll(), Some(Err(LockError::Closed { .. }))));
    }
}

/// Waiters that are polled, kept, dropped and time out at random: nobody waits for long while others do
/// nothing, and no two have the lock.
#[tokio::test(start_paused = true)]
async fn nobody_is_kept_out_in_random_runs() {
    for seed in 0..300 {
        let mut random = fastrand::Rng::with_seed(seed);
        let engine = Memory::new();
        let nodes: [_; 2] = std::array::from_fn(|n| {
            builder(engine.clone()).seed(2 * seed + n as u64).build().unwrap()
        });
        let locks: [_; 2] = std::array::from_fn(|n| nodes[n].lock("k").unwrap());
        let mut kept: Vec<Kept<'_>> = vec![];
        let mut guards: Vec<DistributedGuard> = vec![];
        for _ in 0..30 {
            match random.u8(..8) {
                0..3 => {
                    let lock = &locks[random.usize(..2)];
                    let mode = match random.u8(..3) {
                        0 => WaitMode::Within(ms(random.u64(..2_000))),
                        _ => WaitMode::Wait,
                    };
                    let acquire = lock.handle.acquire(mode, HoldLimits::default());
                    let acquire = if random.bool() { acquire.spinning() } else { acquire };
                    let mut one = Kept(Box::pin(acquire));
                    match one.poll() {
                        None => kept.push(one),
                        Some(result) => guards.extend(result),
                    }
                }
                3..5 if !kept.is_empty() => {
                    let at = random.usize(..kept.len());
                    if let Some(result) = kept[at].poll() {
                        drop(kept.swap_remove(at));
                        guards.extend(result);
                    }
                }
                5 if !kept.is_empty() => drop(kept.swap_remove(random.usize(..kept.len()))),
                6 => guards.clear(),
                _ => sleep(ms(random.u64(..1_000))).await,
            }
            assert!(guards.iter().filter(|guard| guard.is_valid()).count() <= 1, "seed {seed}");
        }
        guards.clear();
        // Nobody polls those that are left.
        let waits = u32::try_from(kept.len()).unwrap();
        for lock in &locks {
            let (guard, took) = acquire(lock).await;
            assert!(took < (waits + 2) * 2 * WINDOW, "seed {seed}: {took:?} behind {waits}");
            drop(guard);
        }
    }
}

/// A waiter that was absent waits again, before one that only tries: that one is busy, and does not wait
/// behind it.
#[tokio::test(start_paused = true)]
async fn a_try_is_busy_when_an_absent_waiter_comes_back() {
    for mode in [WaitMode::Outlast, WaitMode::Try] {
        let engine = Memory::new();
        let (_a, lock) = lock_of(Faulty::delayed(engine.clone(), ms(5)));
        let (_b, theirs) = lock_of(engine);
        let mut kept = Kept::new(&lock, WaitMode::Wait);
        sleep(ms(100)).await;
        let (guard, _) = acquire(&theirs).await;
        let mut tries = Kept::new(&lock, mode);
        assert!(kept.poll().is_none());
        let error = tries.poll().expect("it waits behind another").unwrap_err();
        assert!(matches!(error, LockError::Busy { .. }), "{error}");
        drop(guard);
        sleep(ms(100)).await;
        assert!(kept.guard().is_valid());
    }
}
