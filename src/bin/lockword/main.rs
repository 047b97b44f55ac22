//! The program `lockword`: measures locks under contention.
//!
//! - `args.rs` is the command line; `preset.rs` makes loads of it; `locks.rs` lists the locks;
//! - `bench.rs` measures, `interrupt.rs` ends that early;
//! - `summary.rs` draws from a report what is said of it, `units.rs` puts figures into words;
//! - `table.rs` prints it, `page` is the HTML page, `baseline.rs` compares two reports;
//! - `file.rs` reads and writes files, `failure.rs` is how a run ends.

mod args;
mod baseline;
mod bench;
mod failure;
mod file;
mod interrupt;
mod locks;
mod page;
mod preset;
#[cfg(test)]
mod sample;
mod summary;
mod table;
mod terminal;
mod units;

use args::{Cli, Command};
use failure::{FAILED, Failure, Outcome};
use std::process::ExitCode;

fn main() -> ExitCode {
    match run() {
        Ok(outcome) => outcome.into(),
        Err(failure) => {
            terminal::complain(&failure);
            ExitCode::from(FAILED)
        }
    }
}

fn run() -> Result<Outcome, Failure> {
    let Some(cli) = Cli::read()? else { return Ok(Outcome::Done) };
    match cli.command {
        Command::Bench(args) => bench::bench(&args),
        Command::Compare(args) => {
            let (old, new) = (file::read_report(&args.old)?, file::read_report(&args.new)?);
            let rule = args.rule.rule();
            let difference = baseline::Difference::between(&old, &new, &rule)?;
            terminal::print(&difference.render(&units::printable(&args.old.to_string_lossy())))?;
            Ok(difference.outcome())
        }
        Command::Show(args) => {
            let page = args.html.as_deref().map(file::Target::check).transpose()?;
            let report = file::read_report(&args.file)?;
            let printed = terminal::print(&table::render(&report, terminal::width()));
            if let Some(page) = page {
                page.write(page::render(&report))?;
            }
            printed.map(|()| Outcome::Done)
        }
    }
}
