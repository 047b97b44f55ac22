//! Threads of real-time priority wait for ordinary ones on one processor. The ordinary thread runs only
//! while those sleep, so whatever they wait for, they must not wait for it awake.
//!
//! The kernel keeps a twentieth of the time for ordinary threads (`sched_rt_runtime_us`). So a waiter
//! that does not sleep takes 0.95 s of processor time for each wait, which the tests see.
#![cfg(all(not(lockword_loom), target_os = "linux"))]

use lockword::{Condvar, Mutex, MutexGuard};
use std::hint::spin_loop;
use std::io;
use std::mem::{MaybeUninit, zeroed};
use std::sync::Mutex as StdMutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use support::child;
use support::random::Rng;

#[path = "../support"]
mod support {
    pub mod child;
    pub mod random;
}

/// The tests run one at a time, since they may be bound to the same processor.
static ALONE: StdMutex<()> = StdMutex::new(());

/// Each wait of a thread that does not sleep takes a second: this is the time of 120 of them.
const DEADLINE: Duration = Duration::from_secs(120);

/// The word of a child that may not have real-time priority.
const REFUSED: &str = "real-time priority is refused";

/// Runs `body` in a child that is bound to one processor, with the threads that it starts.
fn on_one_processor(test: &str, body: fn()) {
    if child::role().is_some() {
        bind();
        if set_fifo(1).is_err() {
            println!("{REFUSED}");
            return;
        }
        set_ordinary();
        return body();
    }
    let _alone = ALONE.lock();
    let ended = child::run(test, "child", DEADLINE);
    ended.expect_success(test);
    if ended.output.contains(REFUSED) {
        eprintln!("skipped: {REFUSED} to this process");
    }
}

/// Binds the calling thread, and those that it will start, to the processor that it runs on.
fn bind() {
    // SAFETY: a set of processors is bits, and all zeros are one; the calls read or write no other
    // memory.
    let ret = unsafe {
        let mut set: libc::cpu_set_t = zeroed();
        libc::CPU_SET(libc::sched_getcpu() as usize, &mut set);
        libc::sched_setaffinity(0, size_of_val(&set), &set)
    };
    assert_eq!(ret, 0, "affinity: {}", io::Error::last_os_error());
}

/// Gives the calling thread the real-time priority.
fn set_fifo(priority: i32) -> io::Result<()> {
    set_scheduler(libc::SCHED_FIFO, priority)
}

/// Makes the calling thread an ordinary one.
fn set_ordinary() {
    set_scheduler(libc::SCHED_OTHER, 0).expect("less is always allowed");
}

fn set_scheduler(policy: i32, priority: i32) -> io::Result<()> {
    // SAFETY: all zeros are a value of the structure, on every C library.
    let mut param: libc::sched_param = unsafe { zeroed() };
    param.sched_priority = priority;
    // SAFETY: reads the structure, and changes how the calling thread is scheduled.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const param) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// The processor time of the calling thread.
fn used() -> Duration {
    let mut time = MaybeUninit::<libc::timespec>::zeroed();
    // SAFETY: the clock's number is a known one, and the memory is ours to write.
    let ret = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, time.as_mut_ptr()) };
    assert_eq!(ret, 0, "clock: {}", io::Error::last_os_error());
    // SAFETY: all zeros are a time, too.
    let time = unsafe { time.assume_init() };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Uses the processor for as long.
fn work(time: Duration) {
    let end = used() + time;
    while used() < end {
        spin_loop();
    }
}

const WAITS: u32 = 200;

/// The ordinary thread holds the lock whenever the other one comes. Returns the processor time that
/// the other one has used.
fn wait_often(
    wait: impl Fn(&Mutex<bool>) + Send + Sync,
    release: impl Fn(MutexGuard<'_, bool>) + Send + Sync,
) -> Duration {
    let lock = Mutex::new(false);
    let (go, told): (Sender<()>, Receiver<()>) = channel();
    let (done, is_done) = channel();
    thread::scope(|scope| {
        let (lock, wait) = (&lock, &wait);
        let waiter = scope.spawn(move || {
            set_fifo(50).expect("allowed a moment ago");
            let before = used();
            while told.recv().is_ok() {
                wait(lock);
                done.send(()).expect("the holder listens");
            }
            used() - before
        });
        for _ in 0..WAITS {
            let guard = lock.lock();
            // The other thread runs at once, and comes to wait.
            go.send(()).expect("the waiter listens");
            work(Duration::from_micros(300));
            release(guard);
            is_done.recv().expect("the waiter lives");
        }
        drop(go);
        waiter.join().expect("no panic")
    })
}

/// A wait takes some tens of microseconds of a processor, and if awake 0.95 s.
fn assert_slept(time: Duration) {
    println!("{time:?} of processor time for {WAITS} waits");
    assert!(
        time < WAITS * Duration::from_millis(5),
        "{time:?} of processor time: it does not sleep"
    );
}

#[test]
fn a_real_time_thread_waits_for_an_ordinary_holder() {
    on_one_processor("a_real_time_thread_waits_for_an_ordinary_holder", || {
        assert_slept(wait_often(|lock| *lock.lock() = true, |guard| drop(guard)));
        assert_slept(wait_often(
            |lock| *lock.lock() = true,
            |guard| MutexGuard::unlock_fair(guard),
        ));
        let timed = |lock: &Mutex<bool>| {
            assert!(lock.try_lock_for(DEADLINE).is_some());
        };
        assert_slept(wait_often(timed, |guard| drop(guard)));
    });
}

#[test]
fn a_real_time_thread_waits_for_an_ordinary_notifier() {
    on_one_processor("a_real_time_thread_waits_for_an_ordinary_notifier", || {
        let condvar = Condvar::new();
        // It finds the mutex held; then it waits; and finds it held again when it is notified.
        let wait = |lock: &Mutex<bool>| {
            let mut done = lock.lock();
            condvar.wait_while(&mut done, |done| !*done);
            *done = false;
        };
        let notify = |mut guard: MutexGuard<'_, bool>| {
            MutexGuard::unlocked(&mut guard, || work(Duration::from_micros(100)));
            *guard = true;
            condvar.notify_all();
            work(Duration::from_micros(100));
        };
        assert_slept(wait_often(wait, notify));
    });
}

/// Threads of three priorities use one lock in all ways, on one processor. Each wake-up of a thread of
/// a higher priority interrupts the thread that wakes it, wherever that is.
#[test]
fn priorities_mix() {
    on_one_processor("priorities_mix", || {
        const ROUNDS: usize = 1_000;
        const PRIORITIES: [i32; 5] = [0, 0, 0, 50, 51];
        let (lock, condvar) = (Mutex::new(0), Condvar::new());
        let start = Instant::now();
        thread::scope(|scope| {
            for (number, &priority) in PRIORITIES.iter().enumerate() {
                let (lock, condvar) = (&lock, &condvar);
                scope.spawn(move || {
                    let mut rng = Rng::new(12, number);
                    if priority > 0 {
                        set_fifo(priority).expect("allowed a moment ago");
                    }
                    for _ in 0..ROUNDS {
                        let mut guard = lock.lock();
                        *guard += 1;
                        work(Duration::from_micros(rng.below(60) as u64));
                        match rng.below(6) {
                            0 => MutexGuard::unlock_fair(guard),
                            1 => {
                                MutexGuard::bump(&mut guard);
                                drop(guard);
                            }
                            2 => {
                                drop(guard);
                                let timeout = Duration::from_micros(rng.below(90) as u64);
                                drop(lock.try_lock_for(timeout));
                            }
                            3 => {
                                let timeout = Duration::from_micros(rng.below(300) as u64);
                                condvar.wait_for(&mut guard, timeout);
                                drop(guard);
                            }
                            4 => {
                                condvar.notify_all();
                                drop(guard);
                            }
                            _ => drop(guard),
                        }
                        // The load: others run while this thread has something else to wait for.
                        thread::sleep(Duration::from_micros(rng.below(200) as u64));
                    }
                });
            }
        });
        println!("{:?}", start.elapsed());
        assert_eq!(lock.into_inner(), ROUNDS * PRIORITIES.len());
        // A wait that is awake takes a second; without one it takes less than two in all.
        assert!(start.elapsed() < DEADLINE / 4, "{:?}", start.elapsed());
    });
}
