//! Orders of locks that can become a deadlock are reported, without one.

use crate::{alone, assert_silent, next_order, reports};
use lockword::debug::{Report, allow_order, on_report, set_class, set_own_class};
use lockword::{Condvar, Mutex, ReadRecursive, ReentrantMutex, RwLock};
use std::sync::Arc;
use std::thread;

/// Takes two locks, one after the other, in a thread of its own.
fn both<A: Send + Sync + 'static>(
    name: &str,
    locks: &Arc<A>,
    take: impl FnOnce(&A) + Send + 'static,
) {
    let locks = locks.clone();
    let thread = thread::Builder::new().name(name.to_owned()).spawn(move || take(&locks));
    thread.unwrap().join().unwrap();
}

#[test]
fn two_classes_in_both_orders() {
    alone("order::two_classes_in_both_orders", || {
        let reports = reports();
        let locks = Arc::new((Mutex::new(1), Mutex::new('b')));
        // Their classes are those of these two lines.
        let lines = line!() + 1;
        drop(locks.0.lock());
        drop(locks.1.lock());
        let places = [line!() + 1, line!() + 2].map(|line| format!("{}:{line}:", file!()));
        both("one", &locks, |(a, b)| drop((a.lock(), b.lock())));
        both("two", &locks, |(a, b)| drop((b.lock(), a.lock())));
        let order = next_order(&reports);
        assert!(order.same_locks && order.steps.len() == 2, "{order}");
        let [new, old] = &order.steps[..] else { panic!() };
        assert_eq!((&*new.thread.name, &*old.thread.name), ("two", "one"));
        assert_eq!((&new.held.lock, &new.acquired), (&old.acquired, &old.held.lock));
        assert_ne!(new.held.lock, new.acquired);
        let classes = [0, 1].map(|at| format!("{}:{}:", file!(), lines + at));
        assert!(new.acquired.class.starts_with(&classes[0]), "{order}");
        assert!(new.held.lock.class.starts_with(&classes[1]), "{order}");
        for (step, place) in [(old, &places[0]), (new, &places[1])] {
            assert!(step.held.since.place.starts_with(place), "{order}");
            assert!(step.acquired_at.place.starts_with(place), "{order}");
        }
        let text = order.to_string();
        assert!(
            places.iter().all(|place| text.contains(place)) && text.contains("\"one\""),
            "{text}"
        );
        // Once per pair, in whatever thread and at whatever place.
        both("three", &locks, |(a, b)| drop((b.lock(), a.lock())));
        both("four", &locks, |(a, b)| drop((a.lock(), b.lock())));
        let more = Arc::new((Mutex::new(1), Mutex::new('b')));
        both("five", &more, |(a, b)| drop((a.lock(), b.lock())));
        assert_silent(&reports);
    });
}

/// What comes after a wrong order is not blamed on it.
#[test]
fn a_wrong_order_is_not_followed() {
    alone("order::a_wrong_order_is_not_followed", || {
        let reports = reports();
        let locks = Arc::new((Mutex::new(()), Mutex::new(()), Mutex::new(())));
        both("one", &locks, |(a, b, _)| drop((a.lock(), b.lock())));
        both("two", &locks, |(a, b, _)| drop((b.lock(), a.lock())));
        assert_eq!(next_order(&reports).steps.len(), 2);
        both("three", &locks, |(a, _, c)| drop((a.lock(), c.lock())));
        // From b to a, and on to c, leads the wrong one only.
        both("four", &locks, |(_, b, c)| drop((c.lock(), b.lock())));
        assert_silent(&reports);
    });
}

#[test]
fn three_classes_in_a_ring() {
    alone("order::three_classes_in_a_ring", || {
        let reports = reports();
        let locks = Arc::new((Mutex::new(()), RwLock::new(()), lockword::sync::Mutex::new(())));
        both("one", &locks, |(a, b, _)| drop((a.lock(), b.write())));
        both("two", &locks, |(_, b, c)| drop((b.write(), c.lock())));
        assert_silent(&reports);
        both("three", &locks, |(a, _, c)| drop((c.lock(), a.lock())));
        let order = next_order(&reports);
        let threads: Vec<_> = order.steps.iter().map(|step| &*step.thread.name).collect();
        assert_eq!(threads, ["three", "one", "two"], "{order}");
        let types: Vec<_> = order.steps.iter().map(|step| step.acquired.type_name).collect();
        assert_eq!(types, ["Mutex", "RwLock", "sync::Mutex"], "{order}");
        assert_silent(&reports);
    });
}

#[test]
fn two_locks_of_one_class_in_both_orders() {
    alone("order::two_locks_of_one_class_in_both_orders", || {
        let reports = reports();
        let locks: Arc<Vec<_>> = Arc::new((0..3).map(Mutex::new).collect());
        let pair = |from: usize, to: usize| {
            both("thread", &locks, move |all| {
                // One place for all.
                let mut guards = [from, to].map(|at| Some(all[at].lock()));
                guards[1].take();
            });
        };
        pair(0, 1);
        pair(1, 2);
        assert_silent(&reports);
        pair(2, 0);
        let order = next_order(&reports);
        assert_eq!(order.steps.len(), 3, "{order}");
        // Once for these two places.
        pair(1, 0);
        pair(2, 0);
        assert_silent(&reports);
        both("other", &locks, |all| drop((all[2].lock(), all[1].lock())));
        assert_eq!(next_order(&reports).steps.len(), 2);
    });
}

/// A function that locks what it is given makes one class of it; and locks of a class that nest are watched one by one.
#[test]
fn a_function_that_locks_what_it_is_given() {
    alone("order::a_function_that_locks_what_it_is_given", || {
        fn lock(mutex: &Mutex<()>) -> lockword::MutexGuard<'_, ()> {
            mutex.lock()
        }
        let reports = reports();
        let locks = Arc::new((Mutex::new(()), RwLock::new(()), Mutex::new(())));
        both("one", &locks, |(a, b, c)| {
            let _a = lock(a);
            let _b = b.write();
            let _c = lock(c);
        });
        both("two", &locks, |(a, b, _)| drop((lock(a), b.write())));
        both("three", &locks, |(_, b, c)| drop((b.write(), lock(c))));
        assert_silent(&reports);
        both("four", &locks, |(_, b, c)| drop((lock(c), b.write())));
        let order = next_order(&reports);
        assert!(order.same_locks && order.steps.len() == 2, "{order}");
    });
}

/// What was an order of two classes is one of two locks, once a line has acquired locks of both.
#[test]
fn an_order_is_known_when_its_classes_become_one() {
    alone("order::an_order_is_known_when_its_classes_become_one", || {
        let reports = reports();
        let locks = Arc::new([Mutex::new(()), Mutex::new(())]);
        both("one", &locks, |[a, b]| {
            let _a = a.lock();
            drop(b.lock());
        });
        locks.iter().for_each(|lock| drop(lock.lock()));
        assert_silent(&reports);
        both("two", &locks, |[a, b]| drop((b.lock(), a.lock())));
        let order = next_order(&reports);
        assert!(order.same_locks && order.steps.len() == 2, "{order}");
        assert_eq!(order.steps[1].thread.name, "one", "{order}");
    });
}

/// What was acquired by a try counts as held, and is blamed for nothing.
#[test]
fn a_lock_that_was_tried_is_held() {
    alone("order::a_lock_that_was_tried_is_held", || {
        let reports = reports();
        let locks = Arc::new((Mutex::new(()), Mutex::new(())));
        both("one", &locks, |(a, b)| drop((a.try_lock(), b.lock())));
        both("two", &locks, |(a, b)| drop((b.lock(), a.try_lock())));
        assert_silent(&reports);
        both("three", &locks, |(a, b)| drop((b.try_lock(), a.lock())));
        assert_eq!(next_order(&reports).steps.len(), 2);
    });
}

#[test]
fn readers_count_but_not_recursive_ones() {
    alone("order::readers_count_but_not_recursive_ones", || {
        let reports = reports();
        let locks = Arc::new((RwLock::new(()), RwLock::new(())));
        both("one", &locks, |(a, b)| drop((a.read(), b.read_recursive())));
        both("two", &locks, |(a, b)| drop((b.read(), a.read_recursive())));
        assert_silent(&reports);
        // A writer may wait in between.
        let locks = Arc::new((RwLock::new(()), RwLock::new(())));
        both("three", &locks, |(a, b)| drop((a.read(), b.read())));
        both("four", &locks, |(a, b)| drop((b.read(), a.read())));
        let order = next_order(&reports);
        assert!(order.steps.iter().all(|step| step.wants == "read"), "{order}");
        // A recursive reader waits for one that writes.
        let locks = Arc::new((RwLock::new(()), RwLock::new(())));
        both("five", &locks, |(a, b)| drop((a.write(), b.read_recursive())));
        both("six", &locks, |(a, b)| drop((b.write(), a.read_recursive())));
        assert_eq!(next_order(&reports).steps.len(), 2);
    });
}

/// It is a deadlock only if a writer waits in between, and then whatever is held besides.
#[test]
fn to_read_again_has_no_order() {
    alone("order::to_read_again_has_no_order", || {
        let reports = reports();
        let locks = Arc::new((RwLock::new(()), Mutex::new(())));
        set_class(&locks.0, "read");
        both("one", &locks, |(a, b)| drop((a.read(), b.lock(), a.read())));
        assert_silent(&reports);
    });
}

/// Their places are all in `lock_api`.
#[test]
fn reentrant_mutexes_are_not_one_class() {
    alone("order::reentrant_mutexes_are_not_one_class", || {
        let reports = reports();
        type Three = (ReentrantMutex<()>, Mutex<()>, ReentrantMutex<()>);
        let locks: Arc<Three> = Arc::default();
        let mut threads = vec![];
        for round in 0..2 {
            let locks = locks.clone();
            threads.push(thread::spawn(move || match round {
                0 => drop((locks.0.lock(), locks.1.lock())),
                _ => drop((locks.1.lock(), locks.2.lock())),
            }));
        }
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        assert_silent(&reports);
        drop((locks.2.lock(), locks.1.lock()));
        assert_eq!(next_order(&reports).steps.len(), 2);
    });
}

/// A wait acquires the mutex again, with the other one held.
#[test]
fn a_wait_acquires_its_mutex_again() {
    alone("order::a_wait_acquires_its_mutex_again", || {
        let reports = reports();
        let locks = Arc::new((Mutex::new(()), Mutex::new(()), Condvar::new()));
        both("one", &locks, |(a, b, condvar)| {
            let mut a = a.lock();
            let _b = b.lock();
            condvar.wait_for(&mut a, std::time::Duration::ZERO);
        });
        assert_eq!(next_order(&reports).steps.len(), 2);
    });
}

/// A callback may use locks, such as those of a logger.
#[test]
fn what_a_callback_locks_is_not_watched() {
    alone("order::what_a_callback_locks_is_not_watched", || {
        let (sender, reports) = std::sync::mpsc::channel();
        let own = (Mutex::new(()), Mutex::new(()));
        on_report(move |report| {
            drop((own.0.lock(), own.1.lock()));
            drop((own.1.lock(), own.0.lock()));
            sender.send(report.clone()).unwrap();
        });
        let locks = Arc::new((Mutex::new(()), Mutex::new(())));
        both("one", &locks, |(a, b)| drop((a.lock(), b.lock())));
        both("two", &locks, |(a, b)| drop((b.lock(), a.lock())));
        assert_eq!(next_order(&reports).steps[0].thread.name, "two");
        assert_silent(&reports);
    });
}

#[test]
fn classes_by_name() {
    alone("order::classes_by_name", || {
        let reports = reports();
        let new = || {
            let locks = (Mutex::new(()), lockword::sync::RwLock::new(()));
            set_class(&locks.0, "accounts");
            set_class(&locks.1, "audit");
            Arc::new(locks)
        };
        both("one", &new(), |(a, b)| drop((a.lock(), b.write())));
        // Other locks, of the same classes.
        both("two", &new(), |(a, b)| drop((b.read(), a.lock())));
        let order = next_order(&reports);
        assert!(!order.same_locks && order.to_string().contains("linked by class only"), "{order}");
        let classes = order.steps.iter().map(|it| (&*it.held.lock.class, &*it.acquired.class));
        assert!(classes.eq([("audit", "accounts"), ("accounts", "audit")]), "{order}");
    });
}

/// Two tables that never meet: their locks are of the same two classes by place, and each is its own on request.
#[test]
fn classes_of_their_own() {
    alone("order::classes_of_their_own", || {
        let reports = reports();
        let new = || {
            let locks = (Mutex::new(()), Mutex::new(()));
            drop(locks.0.lock());
            drop(locks.1.lock());
            Arc::new(locks)
        };
        let (first, second) = (new(), new());
        for locks in [&first, &second] {
            set_own_class(&locks.0);
            set_own_class(&locks.1);
        }
        both("one", &first, |(a, b)| drop((a.lock(), b.lock())));
        both("two", &second, |(a, b)| drop((b.lock(), a.lock())));
        assert_silent(&reports);
        both("three", &first, |(a, b)| drop((b.lock(), a.lock())));
        assert_eq!(next_order(&reports).steps.len(), 2);
        // Without the request they are reported.
        let (first, second) = (new(), new());
        both("four", &first, |(a, b)| drop((a.lock(), b.lock())));
        both("five", &second, |(a, b)| drop((b.lock(), a.lock())));
        assert_eq!(next_order(&reports).steps.len(), 2);
    });
}

#[test]
fn a_known_order_is_allowed() {
    alone("order::a_known_order_is_allowed", || {
        let reports = reports();
        let locks = Arc::new((Mutex::new(()), Mutex::new(()), Mutex::new(())));
        set_class(&locks.0, "a");
        set_class(&locks.1, "b");
        let place = concat!(file!(), ":", line!()).to_owned();
        drop(locks.2.lock()); // On the line after the place, which is one too low.
        let line: u32 = place.rsplit(':').next().unwrap().parse().unwrap();
        let place = format!("{}:{}", file!(), line + 1);
        allow_order("b", "a");
        allow_order(&place, "a");
        both("one", &locks, |(a, b, c)| drop((a.lock(), b.lock(), c.lock())));
        both("two", &locks, |(a, b, _)| drop((b.lock(), a.lock())));
        both("three", &locks, |(a, _, c)| drop((c.lock(), a.lock())));
        assert_silent(&reports);
        both("four", &locks, |(_, b, c)| drop((c.lock(), b.lock())));
        assert_eq!(next_order(&reports).steps.len(), 2);
    });
}

/// More pairs than are kept, in no long time: that is told once. What is of two classes is watched on.
#[test]
fn too_many_orders_of_two_locks() {
    alone("order::too_many_orders_of_two_locks", || {
        let reports = reports();
        let locks: Vec<Mutex<()>> = (0..200).map(|_| Mutex::new(())).collect();
        for distance in 1..locks.len() {
            for low in 0..locks.len() - distance {
                let _low = locks[low].lock();
                drop(locks[low + distance].lock());
            }
        }
        let told: Vec<_> = reports.try_iter().collect();
        assert!(matches!(told[..], [Report::TooManyOrders]), "{told:?}");
        assert!(told[0].to_string().contains("4096"), "{}", told[0]);
        let own = Arc::new((Mutex::new(()), Mutex::new(())));
        set_own_class(&own.0);
        set_own_class(&own.1);
        both("one", &own, |(a, b)| drop((a.lock(), b.lock())));
        both("two", &own, |(a, b)| drop((b.lock(), a.lock())));
        assert_eq!(next_order(&reports).steps.len(), 2);
        assert_silent(&reports);
    });
}

/// The variable makes a report of which no callback is told end the process.
#[cfg(unix)]
#[test]
fn a_report_aborts_if_the_environment_says_so() {
    use crate::support::child::{role, run_with};
    use std::os::unix::process::ExitStatusExt;

    let locks = Arc::new((Mutex::new(()), Mutex::new(())));
    let wrong = || {
        both("one", &locks, |(a, b)| drop((a.lock(), b.lock())));
        both("two", &locks, |(a, b)| drop((b.lock(), a.lock())));
    };
    match role().as_deref() {
        Some("told") => {
            let reports = reports();
            wrong();
            assert_eq!(next_order(&reports).steps.len(), 2);
        }
        Some("many") => {
            let locks: Vec<_> = (0..200).map(Mutex::new).collect();
            drop(locks.iter().map(Mutex::lock).collect::<Vec<_>>());
        }
        Some(_) => wrong(),
        None => {
            let test = "order::a_report_aborts_if_the_environment_says_so";
            let run = |role, value: &str| {
                let variable = ("LOCKWORD_DEBUG_REPORTS", std::path::Path::new(value));
                run_with(test, role, &[variable], crate::limit())
            };
            let aborted = run("untold", "abort");
            assert_eq!(aborted.status.signal(), Some(libc::SIGABRT), "{}", aborted.output);
            assert!(aborted.output.contains("lock order"), "{}", aborted.output);
            run("told", "abort").expect_success(test);
            run("untold", "").expect_success(test);
            let many = run("many", "abort");
            many.expect_success(test);
            assert!(many.output.contains("no more are watched"), "{}", many.output);
        }
    }
}

#[cfg(feature = "serde")]
#[test]
fn a_report_is_data() {
    alone("order::a_report_is_data", || {
        let reports = reports();
        let locks = Arc::new((Mutex::new(()), Mutex::new(())));
        both("one", &locks, |(a, b)| drop((a.lock(), b.lock())));
        both("two", &locks, |(a, b)| drop((b.lock(), a.lock())));
        let report = reports.recv().unwrap();
        let json = serde_json::to_value(&report).unwrap();
        let step = &json["lock_order"]["steps"][0];
        assert_eq!(step["thread"]["name"], "two", "{json}");
        assert_eq!(step["held"]["lock"]["type_name"], "Mutex", "{json}");
        assert!(step["acquired_at"]["place"].as_str().unwrap().contains("order.rs:"), "{json}");
    });
}
