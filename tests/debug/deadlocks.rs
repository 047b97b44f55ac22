//! Every kind of cycle is found, 20 times of 20.

use crate::support::asleep::Tid;
use crate::{alone, found, reports, spawn, until};
use lockword::debug::{self, BlockedThread, Deadlock, Report, check_deadlock};
use lockword::{Condvar, FairMutex, Mutex, ReentrantMutex, RwLock, RwLockUpgradableReadGuard};
use std::sync::mpsc::channel;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::Duration;

const ROUNDS: usize = 20;

/// The thread of that name.
fn blocked<'a>(deadlock: &'a Deadlock, name: &str) -> &'a BlockedThread {
    let found = deadlock.threads.iter().find(|blocked| blocked.thread.name == name);
    found.unwrap_or_else(|| panic!("{name} is not in {deadlock}"))
}

/// Makes one more deadlock in each round, all of which stay, and looks at the new one: that of which a thread has the
/// name `a-ROUND`.
fn rounds(test: &str, make: impl Fn(usize), look: impl Fn(usize, &Deadlock)) {
    alone(test, || {
        for round in 0..ROUNDS {
            make(round);
            let found = found(round + 1);
            let name = format!("a-{round}");
            let is_new = |it: &&Deadlock| it.threads.iter().any(|one| one.thread.name == name);
            look(round, found.iter().find(is_new).expect("the new one is among them"));
        }
    });
}

/// Each of the threads runs `take`, by which it has its lock and wants the next one.
fn ring<L: Send + Sync + 'static>(
    names: &[&str],
    round: usize,
    new: impl Fn() -> L,
    take: fn(&L, &L, &Barrier),
) {
    let locks: Arc<Vec<L>> = Arc::new(names.iter().map(|_| new()).collect());
    let all_have_one = Arc::new(Barrier::new(names.len()));
    for (at, name) in names.iter().enumerate() {
        let (locks, all_have_one) = (locks.clone(), all_have_one.clone());
        spawn(&format!("{name}-{round}"), move || {
            take(&locks[at], &locks[(at + 1) % locks.len()], &all_have_one);
        });
    }
}

#[test]
fn two_threads() {
    const LINE: u32 = line!() + 2;
    let take = |own: &Mutex<u32>, next: &Mutex<u32>, all: &Barrier| {
        let _own = own.lock();
        all.wait();
        let _next = next.lock();
    };
    rounds(
        "deadlocks::two_threads",
        |round| ring(&["a", "b"], round, || Mutex::new(0), take),
        |round, deadlock| {
            assert_eq!(deadlock.threads.len(), 2, "{deadlock}");
            let names = ["a", "b"].map(|name| format!("{name}-{round}"));
            let [a, b] = [0, 1].map(|at| blocked(deadlock, &names[at]));
            assert_eq!((&a.blocked_by.name, &b.blocked_by.name), (&names[1], &names[0]));
            // What the one waits for is what the other holds.
            assert_eq!(a.waits_for, b.holds[0].lock);
            assert_eq!(b.waits_for, a.holds[0].lock);
            assert_eq!((a.waits_for.type_name, a.wants), ("Mutex", "exclusive"));
            assert_ne!(a.waits_for.address, b.waits_for.address);
            let places = [LINE, LINE + 2].map(|line| format!("{}:{line}:", file!()));
            assert!(a.held_since.place.starts_with(&places[0]), "{deadlock}");
            assert!(a.waits_at.place.starts_with(&places[1]), "{deadlock}");
            let text = deadlock.to_string();
            assert!(places.iter().chain(&names).all(|it| text.contains(it)), "{text}");
        },
    );
}

#[test]
fn three_threads_in_a_ring() {
    let take =
        |own: &lockword::sync::Mutex<()>, next: &lockword::sync::Mutex<()>, all: &Barrier| {
            let _own = own.lock().unwrap();
            all.wait();
            let _next = next.lock().unwrap();
        };
    rounds(
        "deadlocks::three_threads_in_a_ring",
        |round| ring(&["a", "b", "c"], round, lockword::sync::Mutex::default, take),
        |round, deadlock| {
            assert_eq!(deadlock.threads.len(), 3, "{deadlock}");
            let a = blocked(deadlock, &format!("a-{round}"));
            assert_eq!(
                (a.waits_for.type_name, &*a.blocked_by.name),
                ("sync::Mutex", &*format!("b-{round}"))
            );
            assert!(a.waits_at.place.starts_with("tests/debug/deadlocks.rs:"), "{deadlock}");
        },
    );
}

#[test]
fn fair_mutexes() {
    let take = |own: &FairMutex<()>, next: &FairMutex<()>, all: &Barrier| {
        let _own = own.lock();
        all.wait();
        let _next = next.lock();
    };
    rounds(
        "deadlocks::fair_mutexes",
        |round| ring(&["a", "b"], round, FairMutex::default, take),
        |_, deadlock| assert_eq!(deadlock.threads[0].waits_for.type_name, "FairMutex"),
    );
}

#[test]
fn reentrant_mutexes() {
    let take = |own: &ReentrantMutex<()>, next: &ReentrantMutex<()>, all: &Barrier| {
        let _own = (own.lock(), own.lock());
        all.wait();
        let _next = next.lock();
    };
    rounds(
        "deadlocks::reentrant_mutexes",
        |round| ring(&["a", "b"], round, ReentrantMutex::default, take),
        |_, deadlock| {
            assert_eq!(deadlock.threads[0].waits_for.type_name, "ReentrantMutex");
            assert_eq!(deadlock.threads[0].holds.len(), 1, "the inner acquisition is none");
        },
    );
}

#[test]
fn upgradable_readers() {
    let take = |own: &RwLock<()>, next: &RwLock<()>, all: &Barrier| {
        let _own = own.upgradable_read();
        all.wait();
        let _next = next.upgradable_read();
    };
    rounds(
        "deadlocks::upgradable_readers",
        |round| ring(&["a", "b"], round, RwLock::default, take),
        |_, deadlock| assert_eq!(deadlock.threads[0].wants, "upgradable_read"),
    );
}

#[cfg(feature = "arc_lock")]
#[test]
fn guards_that_own_their_lock() {
    let take = |own: &Arc<Mutex<()>>, next: &Arc<Mutex<()>>, all: &Barrier| {
        let _own = own.lock_arc();
        all.wait();
        let _next = next.lock_arc();
    };
    rounds(
        "deadlocks::guards_that_own_their_lock",
        |round| ring(&["a", "b"], round, || Arc::new(Mutex::new(())), take),
        |_, deadlock| assert_eq!(deadlock.threads.len(), 2),
    );
}

/// `a` reads, and wants a mutex; `b` has the mutex, and wants to write.
#[test]
fn a_reader_and_a_writer() {
    rounds(
        "deadlocks::a_reader_and_a_writer",
        |round| {
            let shared = Arc::new((RwLock::new(()), Mutex::new(()), Barrier::new(2)));
            let theirs = shared.clone();
            spawn(&format!("a-{round}"), move || {
                let (lock, mutex, barrier) = &*shared;
                let _read = lock.read();
                barrier.wait();
                let _mutex = mutex.lock();
            });
            spawn(&format!("b-{round}"), move || {
                let (lock, mutex, barrier) = &*theirs;
                let _mutex = mutex.lock();
                barrier.wait();
                let _write = lock.write();
            });
        },
        |round, deadlock| {
            assert_eq!(deadlock.threads.len(), 2, "{deadlock}");
            let b = blocked(deadlock, &format!("b-{round}"));
            assert_eq!((b.waits_for.type_name, b.held), ("RwLock", "for reading"));
        },
    );
}

/// `a` reads, and wants a mutex; `b` has the mutex, and wants to read, behind a writer that waits for `a`.
#[test]
fn a_reader_behind_a_writer_that_waits() {
    rounds(
        "deadlocks::a_reader_behind_a_writer_that_waits",
        |round| {
            let shared = Arc::new((RwLock::new(()), Mutex::new(()), Barrier::new(3)));
            let [to_a, to_b, to_writer] = [0; 3].map(|_| shared.clone());
            spawn(&format!("a-{round}"), move || {
                let (lock, mutex, barrier) = &*to_a;
                let _read = lock.read();
                barrier.wait();
                barrier.wait();
                let _mutex = mutex.lock();
            });
            spawn(&format!("b-{round}"), move || {
                let (lock, mutex, barrier) = &*to_b;
                barrier.wait();
                let _mutex = mutex.lock();
                until("the writer keeps readers out", || lock.try_read().is_none());
                barrier.wait();
                let _read = lock.read();
            });
            spawn("writer", move || {
                let (lock, _, barrier) = &*to_writer;
                barrier.wait();
                spawn("third", {
                    let to_writer = to_writer.clone();
                    move || {
                        to_writer.2.wait();
                    }
                });
                let _write = lock.write();
            });
        },
        |round, deadlock| {
            assert_eq!(deadlock.threads.len(), 2, "{deadlock}");
            let b = blocked(deadlock, &format!("b-{round}"));
            assert_eq!((b.wants, b.held), ("read", "for reading"), "{deadlock}");
        },
    );
}

/// `a` reads, and wants a mutex; `b` has the mutex, and wants to read. Two writers wait, of which the first keeps readers
/// out. All of them sleep when this returns.
fn behind_writers(writers: [fn(&RwLock<()>); 2]) {
    let shared = Arc::new((RwLock::new(()), Mutex::new(())));
    let (to_main, from_a) = channel();
    let (to_a, from_main) = channel();
    let a = Arc::new(Tid::default());
    let (theirs, own) = (shared.clone(), a.clone());
    spawn("a", move || {
        let _read = theirs.0.read();
        to_main.send(()).unwrap();
        from_main.recv().unwrap();
        own.set();
        drop(theirs.1.lock());
    });
    from_a.recv().unwrap();
    for (name, write) in ["first", "second"].into_iter().zip(writers) {
        let (theirs, tid) = (shared.clone(), Arc::new(Tid::default()));
        let own = tid.clone();
        spawn(name, move || {
            own.set();
            write(&theirs.0);
        });
        tid.wait_until_asleep();
    }
    let b = Arc::new(Tid::default());
    let own = b.clone();
    spawn("b", move || {
        let _mutex = shared.1.lock();
        own.set();
        drop(shared.0.read());
    });
    b.wait_until_asleep();
    to_a.send(()).unwrap();
    a.wait_until_asleep();
}

const WRITE: fn(&RwLock<()>) = |lock| drop(lock.write());
const WRITE_LINE: u32 = line!() - 1;
const TRY_WRITE: fn(&RwLock<()>) = |lock| drop(lock.try_write_for(Duration::from_secs(1000)));

/// The writer that keeps readers out is told of, and another one that would give up changes nothing.
#[test]
fn the_writer_that_keeps_a_reader_out() {
    alone("deadlocks::the_writer_that_keeps_a_reader_out", || {
        behind_writers([WRITE, TRY_WRITE]);
        let found = found(1);
        let (a, b) = (blocked(&found[0], "a"), blocked(&found[0], "b"));
        assert!(a.behind.is_none(), "{}", found[0]);
        let writer = b.behind.as_ref().expect("it is known");
        assert_eq!((&*writer.thread.name, writer.wants), ("first", "exclusive"), "{}", found[0]);
        let place = format!("{}:{WRITE_LINE}:", file!());
        assert!(writer.waits_at.place.starts_with(&place), "{}", found[0]);
        let text = found[0].to_string();
        assert!(text.contains("behind thread \"first\"") && text.contains(&place), "{text}");
        assert!(text.contains("read_recursive"), "{text}");
    });
}

/// The same, if it is the upgradable reader.
#[test]
fn an_upgrade_that_keeps_a_reader_out() {
    alone("deadlocks::an_upgrade_that_keeps_a_reader_out", || {
        let upgrade: fn(&RwLock<()>) =
            |lock| drop(RwLockUpgradableReadGuard::upgrade(lock.upgradable_read()));
        behind_writers([upgrade, TRY_WRITE]);
        let found = found(1);
        let writer = blocked(&found[0], "b").behind.as_ref().expect("it is known");
        assert_eq!((&*writer.thread.name, writer.wants), ("first", "upgrade"), "{}", found[0]);
    });
}

/// It gives up in time, whatever comes then. Another writer that is patient does not keep the reader out.
#[test]
fn a_writer_with_a_timeout_keeps_a_reader_out() {
    alone("deadlocks::a_writer_with_a_timeout_keeps_a_reader_out", || {
        behind_writers([TRY_WRITE, WRITE]);
        let found = check_deadlock();
        assert!(found.is_empty(), "{}", found[0]);
    });
}

/// `a` is the upgradable reader, has a mutex, and upgrades; `b` reads, and wants the mutex.
#[test]
fn an_upgrade() {
    rounds(
        "deadlocks::an_upgrade",
        |round| {
            let shared = Arc::new((RwLock::new(()), Mutex::new(()), Barrier::new(2)));
            let theirs = shared.clone();
            spawn(&format!("a-{round}"), move || {
                let (lock, mutex, barrier) = &*shared;
                let read = lock.upgradable_read();
                let _mutex = mutex.lock();
                barrier.wait();
                let _write = RwLockUpgradableReadGuard::upgrade(read);
            });
            spawn(&format!("b-{round}"), move || {
                let (lock, mutex, barrier) = &*theirs;
                let _read = lock.read();
                barrier.wait();
                let _mutex = mutex.lock();
            });
        },
        |round, deadlock| {
            assert_eq!(deadlock.threads.len(), 2, "{deadlock}");
            let a = blocked(deadlock, &format!("a-{round}"));
            assert_eq!((a.wants, a.held), ("upgrade", "for reading"), "{deadlock}");
        },
    );
}

/// `a` waits for a notification, with another mutex locked; `b` notifies, and wants that one.
#[test]
fn the_mutex_of_a_condvar() {
    rounds(
        "deadlocks::the_mutex_of_a_condvar",
        |round| {
            let shared = Arc::new((Mutex::new(false), Condvar::new(), Mutex::new(())));
            let theirs = shared.clone();
            spawn(&format!("a-{round}"), move || {
                let (mutex, condvar, other) = &*shared;
                let _other = other.lock();
                let mut waits = mutex.lock();
                *waits = true;
                condvar.wait(&mut waits);
            });
            spawn(&format!("b-{round}"), move || {
                let (mutex, condvar, other) = &*theirs;
                until("the other waits", || *mutex.lock());
                let _mutex = mutex.lock();
                condvar.notify_one();
                let _other = other.lock();
            });
        },
        |round, deadlock| {
            let a = blocked(deadlock, &format!("a-{round}"));
            assert_eq!(
                (a.waits_for.type_name, &*a.blocked_by.name),
                ("Mutex", &*format!("b-{round}"))
            );
        },
    );
}

/// The wait cannot return, whether it is notified or not.
#[test]
fn the_mutex_of_a_condvar_that_is_not_notified() {
    rounds(
        "deadlocks::the_mutex_of_a_condvar_that_is_not_notified",
        |round| {
            let shared = Arc::new((Mutex::new(false), Condvar::new(), Mutex::new(())));
            let theirs = shared.clone();
            spawn(&format!("a-{round}"), move || {
                let (mutex, condvar, other) = &*shared;
                let _other = other.lock();
                let mut waits = mutex.lock();
                *waits = true;
                condvar.wait_for(&mut waits, Duration::from_secs(1000));
            });
            spawn(&format!("b-{round}"), move || {
                let (mutex, _, other) = &*theirs;
                until("the other waits", || *mutex.lock());
                let _mutex = mutex.lock();
                let _other = other.lock();
            });
        },
        |round, deadlock| {
            let a = blocked(deadlock, &format!("a-{round}"));
            assert!(a.in_condvar && deadlock.threads.len() == 2, "{deadlock}");
        },
    );
}

/// The same, where the waiter sleeps on when it is notified: it was moved to the queue of the mutex.
#[test]
fn the_mutex_of_a_condvar_to_which_the_waiter_was_moved() {
    let test = "deadlocks::the_mutex_of_a_condvar_to_which_the_waiter_was_moved";
    rounds(
        test,
        |round| {
            let shared = Arc::new((Mutex::new(false), lockword::Condvar::new(), Mutex::new(())));
            let [to_a, to_b, to_third] = [0; 3].map(|_| shared.clone());
            let [a, third] = [0; 2].map(|_| Arc::new(Tid::default()));
            let (told, third_told) = (a.clone(), third.clone());
            spawn(&format!("a-{round}"), move || {
                let (mutex, condvar, other) = &*to_a;
                let _other = other.lock();
                let mut waits = mutex.lock();
                *waits = true;
                told.set();
                condvar.wait(&mut waits);
            });
            a.wait_until_asleep();
            let (go, gone) = channel();
            spawn(&format!("b-{round}"), move || {
                let (mutex, condvar, other) = &*to_b;
                let _mutex = mutex.lock();
                // Somebody sleeps for the mutex, which is what makes the notifier move the waiter.
                spawn("third", move || {
                    third_told.set();
                    drop(to_third.0.lock());
                });
                gone.recv().unwrap();
                condvar.notify_one();
                let _other = other.lock();
            });
            third.wait_until_asleep();
            go.send(()).unwrap();
        },
        |round, deadlock| {
            assert_eq!(deadlock.threads.len(), 2, "{deadlock}");
            let a = blocked(deadlock, &format!("a-{round}"));
            assert!(a.in_condvar, "{deadlock}");
            assert!(deadlock.to_string().contains("in the wait of a Condvar"), "{deadlock}");
        },
    );
}

/// A thread that is about to wait for itself is reported before it waits, with both places; and it is found later.
/// It locks on one line.
fn of_itself(test: &str, wants: &str, line: u32, body: fn()) {
    alone(test, || {
        let reports = reports();
        spawn("itself", body);
        let report = reports.recv_timeout(crate::limit()).expect("it is reported");
        let Report::SelfDeadlock(deadlock) = &report else { panic!("{report}") };
        let [thread] = &deadlock.threads[..] else { panic!("{report}") };
        assert_eq!((&*thread.thread.name, thread.wants), ("itself", wants), "{report}");
        let place = format!("{}:{line}:", file!());
        assert!(thread.held_since.place.starts_with(&place), "{report}");
        assert!(thread.waits_at.place.starts_with(&place), "{report}");
        let text = report.to_string();
        assert!(text.contains("waits for itself") && text.matches(&place).count() >= 2, "{text}");
        assert_eq!(found(1)[0].threads.len(), 1);
    });
}

#[test]
fn a_mutex_is_locked_twice() {
    const LINE: u32 = line!() + 3;
    fn body() {
        let mutex = Mutex::new(());
        let _guards = (mutex.lock(), mutex.lock());
    }
    of_itself("deadlocks::a_mutex_is_locked_twice", "exclusive", LINE, body);
}

#[test]
fn a_reader_writes() {
    const LINE: u32 = line!() + 3;
    fn body() {
        let lock = RwLock::new(());
        let _guards = (lock.read(), lock.write());
    }
    of_itself("deadlocks::a_reader_writes", "exclusive", LINE, body);
}

#[test]
fn a_writer_reads() {
    const LINE: u32 = line!() + 3;
    fn body() {
        let lock = lockword::sync::RwLock::new(());
        let _guards = (lock.write(), lock.read());
    }
    of_itself("deadlocks::a_writer_reads", "read", LINE, body);
}

#[test]
fn a_thread_is_the_upgradable_reader_twice() {
    const LINE: u32 = line!() + 3;
    fn body() {
        let lock = RwLock::new(());
        let _guards = (lock.upgradable_read(), lock.upgradable_read());
    }
    let test = "deadlocks::a_thread_is_the_upgradable_reader_twice";
    of_itself(test, "upgradable_read", LINE, body);
}

#[test]
fn an_upgradable_reader_that_reads_upgrades() {
    const LINE: u32 = line!() + 3;
    fn body() {
        let lock = RwLock::new(());
        drop((lock.read(), RwLockUpgradableReadGuard::upgrade(lock.upgradable_read())));
    }
    let test = "deadlocks::an_upgradable_reader_that_reads_upgrades";
    of_itself(test, "upgrade", LINE, body);
}

/// To read twice is a deadlock only if a writer waits in between.
#[test]
fn a_reader_reads_behind_a_writer() {
    alone("deadlocks::a_reader_reads_behind_a_writer", || {
        let lock = Arc::new(RwLock::new(()));
        let theirs = lock.clone();
        spawn("reader", move || {
            let _outer = lock.read();
            spawn("writer", {
                let lock = lock.clone();
                move || drop(lock.write())
            });
            until("the writer keeps readers out", || lock.try_read().is_none());
            let _inner = lock.read();
        });
        let found = found(1);
        assert_eq!(found[0].threads.len(), 1, "{}", found[0]);
        assert_eq!(found[0].threads[0].thread.name, "reader");
        drop(theirs);
    });
}

/// Who waits for a thread of a deadlock is in none.
#[test]
fn a_bystander_is_not_told_of() {
    alone("deadlocks::a_bystander_is_not_told_of", || {
        let shared = Arc::new((Mutex::new(()), Mutex::new(()), Barrier::new(2)));
        let [to_b, to_third] = [0; 2].map(|_| shared.clone());
        spawn("a", move || {
            let _a = shared.0.lock();
            shared.2.wait();
            let _b = shared.1.lock();
        });
        spawn("b", move || {
            let _b = to_b.1.lock();
            to_b.2.wait();
            let _a = to_b.0.lock();
        });
        found(1);
        let third = Arc::new(Tid::default());
        let told = third.clone();
        spawn("third", move || {
            told.set();
            drop(to_third.0.lock());
        });
        third.wait_until_asleep();
        let found = found(1);
        assert_eq!(found[0].threads.len(), 2, "{}", found[0]);
    });
}

/// The watcher tells of each deadlock once, and survives a panic of the callback.
#[test]
fn the_watcher_tells_once() {
    alone("deadlocks::the_watcher_tells_once", || {
        let (sender, receiver) = channel();
        let watcher = debug::watch(Duration::from_millis(1), move |deadlock| {
            sender.send(deadlock.threads.len()).unwrap();
            panic!("a callback may panic");
        });
        let take = |own: &Mutex<u32>, next: &Mutex<u32>, all: &Barrier| {
            let _own = own.lock();
            all.wait();
            let _next = next.lock();
        };
        ring(&["a", "b"], 0, || Mutex::new(0), take);
        assert_eq!(receiver.recv_timeout(crate::limit()), Ok(2));
        ring(&["a", "b", "c"], 1, || Mutex::new(0), take);
        assert_eq!(receiver.recv_timeout(crate::limit()), Ok(3));
        // It looks some times more.
        thread::sleep(Duration::from_millis(50));
        drop(watcher);
        assert_eq!(receiver.try_iter().count(), 0);
        assert_eq!(check_deadlock().len(), 2);
    });
}

#[test]
fn a_backtrace_is_there_if_it_is_asked_for() {
    if std::env::var("RUST_BACKTRACE").as_deref() != Ok("1") {
        let test = "deadlocks::a_backtrace_is_there_if_it_is_asked_for";
        let variables = [("RUST_BACKTRACE", std::path::Path::new("1"))];
        let ended = crate::support::child::run_with(test, "alone", &variables, crate::limit());
        return ended.expect_success(test);
    }
    debug::capture_backtraces(true);
    let take = |own: &Mutex<u32>, next: &Mutex<u32>, all: &Barrier| {
        let _own = own.lock();
        all.wait();
        let _next = next.lock();
    };
    ring(&["a", "b"], 0, || Mutex::new(0), take);
    let found = found(1);
    for thread in &found[0].threads {
        for site in [&thread.held_since, &thread.waits_at] {
            let trace = site.backtrace.as_ref().expect("it is captured");
            assert!(trace.contains("a_backtrace_is_there_if_it_is_asked_for"), "{trace}");
        }
    }
}
