//! `lockword grants`: the commands that give a role rights on the locks below a prefix.

use crate::engine::{address, refused, seal_keys};
use crate::lock_args::GrantsArgs;
use crate::output::{json_line, print, print_error, print_raw, printable};
use crate::{CliError, ExitOutcome, exit};
use lockword::cluster::engines::{self, GrantsError};
use serde_json::json;

const SEALED_NOTE: &str = "The prefix is that of the stored names. The role may read the register @lockword-sealed, and \
    not make it: a node that seals and has all rights has to run before, such as lockword list --seal-key-file.";

/// Prints the commands to standard output, and the notes to standard error.
pub fn grants(args: &GrantsArgs) -> Result<ExitOutcome, CliError> {
    let address = address(args.engine.on.as_deref())?;
    let why = |error: GrantsError| match &error {
        GrantsError::Address(error) => refused(error),
        other => CliError::with(exit::USAGE, other.to_string()),
    };
    // A prefix that is none is told of as it was given.
    let mut grants = engines::grants(&address, &args.prefix, &args.role).map_err(why)?;
    let keys = seal_keys(args.engine.seal_key_file.clone())?;
    if let Some(keys) = &keys {
        let stored = keys.stored_prefix(&args.prefix).ok_or_else(|| {
            let why = "with --seal-key-file a prefix has at most seven segments";
            CliError::with(exit::USAGE, why)
        })?;
        grants = engines::grants(&address, &stored, &args.role).map_err(why)?;
    }
    let sealed = keys.map(|_| SEALED_NOTE);
    let notes = || grants.notes().iter().map(String::as_str).chain(sealed);
    if args.json {
        let all = json!({
            "client": grants.client(),
            "commands": grants.commands(),
            "notes": notes().collect::<Vec<_>>(),
        });
        print(&json_line(&all))?;
    } else if printable(&args.role) != args.role {
        let why = "the role has characters that a terminal does not show: use --json";
        return Err(CliError::with(exit::USAGE, why));
    } else {
        // As they are: another program reads them.
        print_raw(grants.commands().as_bytes())?;
        for note in notes() {
            print_error(&format!("lockword: {note}"));
        }
    }
    Ok(ExitOutcome::Done)
}
