//! The lock as a sequential object, and `stateright`'s search for an order that explains a history.

use super::record::{End, Nanos};
use super::uses::{Span, Use};
use stateright::semantics::{ConsistencyTester, LinearizabilityTester, SequentialSpec};

/// A lock whose grants have growing tokens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct LockModel {
    holder: Option<u64>,
    newest: u64,
}

#[derive(Clone, Debug, PartialEq)]
enum Operation {
    Acquire,
    /// A guard looks whether it is valid.
    Check(u64),
    Release(u64),
    /// A guard ends in another way: it is lost, it was dropped, or its process was killed.
    Lose(u64),
}

#[derive(Clone, Debug, PartialEq)]
enum Outcome {
    Granted(u64),
    IsValid,
    Released,
    Gone,
    /// The lock is not held with that token.
    NotHeld,
}

impl SequentialSpec for LockModel {
    type Op = Operation;
    type Ret = Outcome;

    /// Of an operation without an outcome: the loss of a guard whose process was killed. (An acquisition
    /// without an outcome is not in the history: that its guard came and went explains nothing.)
    fn invoke(&mut self, operation: &Operation) -> Outcome {
        let outcome = match operation {
            Operation::Acquire => Outcome::NotHeld,
            Operation::Check(_) => Outcome::IsValid,
            Operation::Release(_) => Outcome::Released,
            Operation::Lose(_) => Outcome::Gone,
        };
        if self.is_valid_step(operation, &outcome) { outcome } else { Outcome::NotHeld }
    }

    fn is_valid_step(&mut self, operation: &Operation, outcome: &Outcome) -> bool {
        match (operation, outcome) {
            (Operation::Acquire, Outcome::Granted(token)) => {
                let is_granted = self.holder.is_none() && *token > self.newest;
                if is_granted {
                    *self = Self { holder: Some(*token), newest: *token };
                }
                is_granted
            }
            (Operation::Check(token), Outcome::IsValid) => self.holder == Some(*token),
            (Operation::Release(token), Outcome::Released)
            | (Operation::Lose(token), Outcome::Gone) => {
                self.holder.take_if(|holder| holder == token).is_some()
            }
            _ => false,
        }
    }
}

/// How many grants are searched at a time: the search takes exponential time.
const WINDOW: usize = 6;

/// Checks the uses of one key.
///
/// The uses of consecutive tokens are searched, in windows that overlap. This loses little: since tokens
/// grow, whether there is an order of all uses follows from each pair of tokens (the rule `tokens`).
///
/// # Errors
///
/// The uses that no order explains.
pub fn check(uses: &[Use]) -> Result<(), String> {
    let mut sorted: Vec<&Use> = uses.iter().collect();
    sorted.sort_by_key(|one| one.token);
    for begin in (0..sorted.len()).step_by(WINDOW / 2) {
        let window = &sorted[begin..sorted.len().min(begin + WINDOW)];
        let newest = begin.checked_sub(1).map_or(0, |before| sorted[before].token);
        if !is_linearizable(window, newest) {
            let uses: String = window.iter().map(|one| format!("\n  {one}")).collect();
            return Err(format!("no order of these operations is that of a lock:{uses}"));
        }
    }
    Ok(())
}

/// An invocation (`None`) or a response, with its moment and its thread.
type Event = (Nanos, bool, usize, Operation, Option<Outcome>);

fn is_linearizable(uses: &[&Use], newest: u64) -> bool {
    let mut events: Vec<Event> = vec![];
    let mut add = |thread, span: Span, operation: Operation, outcome: Option<Outcome>| {
        // Not at the moment of the response before it, which would come later then.
        let from = (span.from + 1).min(span.to);
        events.push((from, false, thread, operation.clone(), None));
        if outcome.is_some() {
            events.push((span.to, true, thread, operation, outcome));
        }
    };
    for (number, one) in uses.iter().enumerate() {
        // What happens to a guard one after the other is one thread; its loss overlaps with that.
        let (thread, other) = (2 * number, 2 * number + 1);
        let token = one.token;
        add(thread, one.acquired, Operation::Acquire, Some(Outcome::Granted(token)));
        // The checks in between follow from the first and the last.
        let last = one.valid.len().saturating_sub(1);
        for (number, (check, _)) in one.valid.iter().enumerate() {
            if number == 0 || number == last {
                add(thread, *check, Operation::Check(token), Some(Outcome::IsValid));
            }
        }
        // (One that was valid after its loss breaks the rule `lost`.)
        let since_last = |to: Nanos| Span { from: one.last_seen(), to: to.max(one.last_seen()) };
        match &one.ended {
            Some((span, End::Released)) => {
                add(thread, *span, Operation::Release(token), Some(Outcome::Released));
            }
            Some((span, _)) => {
                add(other, since_last(span.to), Operation::Lose(token), Some(Outcome::Gone));
            }
            None => add(other, since_last(0), Operation::Lose(token), None),
        }
    }
    // Of an invocation and a response at one moment the invocation is first: they may overlap. Those
    // of one thread stay in their order.
    events.sort_by_key(|(at, is_response, ..)| (*at, *is_response));
    let mut tester = LinearizabilityTester::new(LockModel { holder: None, newest });
    for (at, _, thread, operation, outcome) in events {
        let done = match outcome {
            None => tester.on_invoke(thread, operation),
            Some(outcome) => tester.on_return(thread, outcome),
        };
        if let Err(why) = done {
            panic!("the history itself is wrong at {at}: {why}");
        }
    }
    tester.is_consistent()
}
