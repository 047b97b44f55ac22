//! What counts as slower, and what is refused.

use super::*;
use crate::sample::{cell, lock, report};

const RULE: Rule = Rule { threshold: 0.1, relative: false };
const RELATIVE: Rule = Rule { threshold: 0.1, relative: true };

fn two(lockword: f64, std: f64, spread: f64) -> Report {
    report(vec![cell(8, vec![lock("lockword", lockword, spread), lock("std", std, spread)])])
}

fn outcome(old: &Report, new: &Report, rule: &Rule) -> Outcome {
    Difference::between(old, new, rule).unwrap().outcome()
}

#[test]
fn a_report_is_level_with_itself() {
    let report = two(100.0, 100.0, 0.05);
    for rule in [RULE, RELATIVE] {
        assert_eq!(outcome(&report, &report, &rule), Outcome::Done);
    }
}

#[test]
fn slower_is_by_more_than_the_threshold() {
    let old = two(100.0, 100.0, 0.01);
    assert_eq!(outcome(&old, &two(80.0, 100.0, 0.01), &RULE), Outcome::Regressed);
    assert_eq!(outcome(&old, &two(100.0, 80.0, 0.01), &RULE), Outcome::Regressed);
    assert_eq!(outcome(&old, &two(93.0, 93.0, 0.01), &RULE), Outcome::Done);
    assert_eq!(outcome(&old, &two(120.0, 120.0, 0.01), &RULE), Outcome::Done);
}

#[test]
fn slower_is_by_more_than_the_spread() {
    let old = two(100.0, 100.0, 0.3);
    assert_eq!(outcome(&old, &two(80.0, 80.0, 0.3), &RULE), Outcome::Done);
}

#[test]
fn a_slower_machine_cancels_out_where_asked_for() {
    let (old, slow) = (two(100.0, 100.0, 0.01), two(50.0, 50.0, 0.01));
    assert_eq!(outcome(&old, &slow, &RULE), Outcome::Regressed);
    assert_eq!(outcome(&old, &slow, &RELATIVE), Outcome::Done);
    assert_eq!(outcome(&old, &two(40.0, 50.0, 0.01), &RELATIVE), Outcome::Regressed);
    // The yardstick is not judged.
    assert_eq!(outcome(&old, &two(50.0, 40.0, 0.01), &RELATIVE), Outcome::Done);
}

#[test]
fn another_machine_is_refused() {
    let old = two(100.0, 100.0, 0.01);
    let mut new = old.clone();
    new.machine.processors = 64;
    let why = Difference::between(&old, &new, &RULE).unwrap_err().to_string();
    assert!(why.contains("another machine") && why.contains("--relative"), "{why}");
    assert_eq!(outcome(&old, &new, &RELATIVE), Outcome::Done);
}

#[test]
fn nothing_in_common_is_refused() {
    let old = two(100.0, 100.0, 0.01);
    let other = report(vec![cell(4, vec![lock("lockword", 1.0, 0.0)])]);
    let why = Difference::between(&old, &other, &RULE).unwrap_err().to_string();
    assert!(why.contains("no load in common"), "{why}");
    let other = report(vec![cell(8, vec![lock("usync", 1.0, 0.0)])]);
    let why = Difference::between(&old, &other, &RULE).unwrap_err().to_string();
    assert!(why.contains("no lock in common"), "{why}");
}

#[test]
fn fewer_than_six_rounds_decide_nothing() {
    let cut = |mut report: Report, lock: usize| {
        report.cells[0].locks[lock].samples.truncate(ROUNDS - 1);
        report
    };
    let (old, slow) = (two(100.0, 100.0, 0.01), two(50.0, 50.0, 0.01));
    for (old, new) in [(cut(old.clone(), 0), slow.clone()), (old.clone(), cut(slow.clone(), 0))] {
        // The other lock still is judged.
        let difference = Difference::between(&old, &new, &RULE).unwrap();
        assert_eq!(difference.pairs[0].change, Change::Undecided);
        assert_eq!(difference.pairs[1].change, Change::Slower);
        let text = difference.render("old");
        assert!(text.contains("1 of 1 slower") && text.contains("1 undecided"), "{text}");
        let why = Difference::between(&old, &new, &RELATIVE).unwrap_err().to_string();
        assert!(why.contains("nothing can be judged"), "{why}");
    }
    let few = cut(cut(slow, 0), 1);
    let why = Difference::between(&old, &few, &RULE).unwrap_err().to_string();
    assert!(why.contains("nothing can be judged"), "{why}");
    let part = cut(two(100.0, 50.0, 0.01), 1);
    assert_eq!(outcome(&old, &part, &RULE), Outcome::Done);
}

#[test]
fn what_is_missing_and_what_is_doubtful_stands_at_the_end() {
    let old = two(100.0, 100.0, 0.01);
    let mut new = old.clone();
    new.cells[0].locks.truncate(1);
    new.warnings.push("the machine was busy".to_owned());
    let text = Difference::between(&old, &new, &RULE).unwrap().render("old");
    let text = anstream::adapter::strip_str(&text).to_string();
    let (_, end) = text.split_once("1 slower by more than").unwrap();
    assert!(end.contains("not compared: only in the baseline: 8 threads"), "{text}");
    assert!(end.contains("ns, std"), "{text}");
    assert!(end.contains("the result is doubtful: the machine was busy"), "{text}");
}

#[test]
fn rounds_without_a_ratio_do_not_count() {
    let (old, mut new) = (two(100.0, 100.0, 0.01), two(100.0, 100.0, 0.01));
    for lock in &mut new.cells[0].locks {
        lock.samples.iter_mut().take(4).for_each(|sample| sample.acquisitions.fill(0));
    }
    let why = Difference::between(&old, &new, &RELATIVE).unwrap_err().to_string();
    assert!(why.contains("nothing can be judged"), "{why}");
}
