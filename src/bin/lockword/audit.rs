//! `lockword audit`, and the trail of the other commands.

use crate::lock_args::{AuditArgs, AuditCommand, VerifyArgs};
use crate::output::{self, print, printable};
use crate::{CliError, ExitOutcome, exit};
use lockword::cluster::audit::{Audit, AuditFile, AuditMark, verify_from};
use serde_json::json;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;
use std::time::Duration;

/// How long the end of a command waits for its trail.
const FLUSH: Duration = Duration::from_secs(5);

pub fn audit(args: &AuditArgs) -> Result<ExitOutcome, CliError> {
    match &args.command {
        AuditCommand::Verify(args) => verify(args),
    }
}

fn verify(args: &VerifyArgs) -> Result<ExitOutcome, CliError> {
    let mut trail: Box<dyn Read> = Box::new(io::empty());
    for path in &args.files {
        let file = File::open(path).map_err(|why| cannot("read", path, &why))?;
        trail = Box::new(trail.chain(file));
    }
    let kept = args.contains.unwrap_or_default();
    let found = verify_from(BufReader::new(trail), kept);
    let found = found.map_err(|why| CliError::with(exit::UNREACHABLE, why.to_string()))?;
    let mut faults: Vec<_> = found.faults.iter().map(ToString::to_string).collect();
    if !found.contains {
        faults.push(format!("line {} is not the one that was kept, or is missing", kept.sequence));
    }
    let last = found.last.map(|last| last.to_string());
    let begins = found.before.map_or(1, |before| before.sequence + 1);
    if args.json {
        let line = json!({
            "lines": found.lines, "begins_at": begins, "last": last, "faults": faults,
        });
        print(&output::json_line(&line))?;
    } else {
        let mut text = String::new();
        for fault in &faults {
            text += &format!("{}\n", printable(fault));
        }
        text += &format!("{} lines, from {begins} on", found.lines);
        text += &if faults.is_empty() {
            ": whole\n".to_owned()
        } else {
            format!(": {} faults\n", faults.len())
        };
        if let Some(last) = &last {
            text += &format!("last {last}\n");
        }
        print(&text)?;
    }
    Ok(ExitOutcome::With(if faults.is_empty() { 0 } else { exit::LOST }))
}

/// The trail of `--audit`.
pub fn open(path: &Path) -> Result<Audit, CliError> {
    let audit = AuditFile::open(path).and_then(Audit::new);
    audit.map_err(|why| cannot("write the audit trail", path, &why))
}

/// Waits until the trail is written. A trail that cannot be has stopped nothing; the operator is told.
pub fn finish(audit: Option<&Audit>) {
    let Some(audit) = audit else { return };
    if !audit.flush(FLUSH) || audit.status().lost > 0 {
        let why = audit.status().error.map_or_else(String::new, |why| format!(": {why}"));
        output::print_error(&printable(&format!("lockword: the audit trail has gaps{why}")));
    }
}

fn cannot(what: &str, path: &Path, why: &io::Error) -> CliError {
    CliError::with(exit::UNREACHABLE, format!("cannot {what} {}: {why}", path.display()))
}

/// So that clap reads it.
pub fn mark(text: &str) -> Result<AuditMark, String> {
    text.parse()
}
