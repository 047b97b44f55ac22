//! `lockword break`: takes a lock from its holder.

use super::view::View;
use super::{at_desk, key};
use crate::lock_args::BreakArgs;
use crate::output::print;
use crate::{CliError, ExitOutcome, audit, exit, output};
use lockword::cluster::LockStatus;
use serde_json::json;
use std::io::{self, IsTerminal as _};

/// Takes a lock from the holder that is shown to the operator, and from no other one.
pub fn break_lock(args: &BreakArgs) -> Result<ExitOutcome, CliError> {
    let key = key(&args.key)?;
    let audit = args.audit.as_deref().map(audit::open).transpose()?;
    let outcome = at_desk(&args.engine, audit.as_ref(), async |desk| {
        let state = desk.node.inspect(&key).await?;
        let LockStatus::Held { node, .. } = state.status else {
            return report(args, None, &format!("{key} is free: there is nothing to break"));
        };
        let view = View::Lock(Box::new(state));
        let holder = view.holder();
        if !args.yes && !agrees(&format!("{key} is {} by {holder}", view.state()))? {
            return Err(CliError::with(exit::NOT_BROKEN, format!("{key} is left as it is")));
        }
        match desk.node.break_lock_of(&key, node, &args.reason).await? {
            Some(broken) => {
                report(args, Some(&broken.label), &format!("{key} is taken from {}", broken.label))
            }
            None => {
                let why = format!("{holder} has released {key} meanwhile: nothing is broken");
                report(args, None, &why)
            }
        }
    });
    audit::finish(audit.as_ref());
    outcome
}

fn report(args: &BreakArgs, broken: Option<&str>, line: &str) -> Result<ExitOutcome, CliError> {
    if args.json {
        print(&output::json_line(&json!({"key": args.key, "broken": broken})))?;
    } else {
        print(&format!("{}\n", output::printable(line)))?;
    }
    Ok(ExitOutcome::Done)
}

/// Asks the operator.
fn agrees(what: &str) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        let why = "there is no terminal to ask on: give --yes to break the lock without a question";
        return Err(CliError::with(exit::USAGE, why));
    }
    let line = "If that one is alive, two can hold the lock for a while. Break it? [y/N]";
    output::print_error(&format!("{}.\n{line}", output::printable(what)));
    let mut answer = String::new();
    let read = io::stdin().read_line(&mut answer);
    read.map_err(|why| CliError::with(exit::USAGE, format!("no answer: {why}")))?;
    Ok(["y", "yes"].contains(&answer.trim().to_lowercase().as_str()))
}
