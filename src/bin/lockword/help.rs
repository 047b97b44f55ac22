//! Completions for shells, and the manual.

use crate::args::Cli;
use crate::lock_args::{CompletionsArgs, ManArgs, Shell};
use crate::{CliError, ExitOutcome, exit, output};
use clap::CommandFactory as _;
use clap_complete::Shell as Target;
use std::io::{self, Write as _};

/// Prints the completions for a shell.
pub fn completions(args: &CompletionsArgs) -> Result<ExitOutcome, CliError> {
    let shell = match args.shell {
        Shell::Bash => Target::Bash,
        Shell::Elvish => Target::Elvish,
        Shell::Fish => Target::Fish,
        Shell::Powershell => Target::PowerShell,
        Shell::Zsh => Target::Zsh,
    };
    let mut script = vec![];
    clap_complete::generate(shell, &mut Cli::command(), "lockword", &mut script);
    output::print_raw(&script)?;
    Ok(ExitOutcome::Done)
}

/// Prints a page of the manual, or writes all of them.
pub fn man(args: &ManArgs) -> Result<ExitOutcome, CliError> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let mut pages = vec![("lockword".to_owned(), page(&program)?)];
    for command in program.get_subcommands().filter(|command| !command.is_hide_set()) {
        // As the list in the page of the program calls it.
        pages.push((format!("lockword-{}", command.get_name()), page(command)?));
    }
    if let Some(folder) = &args.dir {
        for (name, page) in pages {
            let path = folder.join(format!("{name}.1"));
            std::fs::write(&path, page).map_err(|why| {
                let why = format!("cannot write {}: {why}", path.display());
                CliError::with(exit::CANNOT_WRITE, why)
            })?;
        }
        return Ok(ExitOutcome::Done);
    }
    let wanted = match &args.command {
        Some(command) => format!("lockword-{command}"),
        None => "lockword".to_owned(),
    };
    let Some((_, page)) = pages.iter().find(|(name, _)| *name == wanted) else {
        let why =
            format!("{} is no command: see lockword --help", args.command.as_deref().unwrap_or(""));
        return Err(CliError::with(exit::USAGE, why));
    };
    output::print_raw(page)?;
    Ok(ExitOutcome::Done)
}

fn page(command: &clap::Command) -> Result<Vec<u8>, CliError> {
    let mut page = vec![];
    let rendered = render(command, &mut page);
    rendered.map_err(|why| CliError::with(exit::USAGE, why.to_string()))?;
    Ok(page)
}

/// As clap_mangen does it, but for the synopsis, which is that of the help: it has the `--` before a command.
fn render(command: &clap::Command, page: &mut Vec<u8>) -> io::Result<()> {
    let man = clap_mangen::Man::new(command.clone());
    man.render_title(page)?;
    man.render_name_section(page)?;
    let usage = command.clone().render_usage().to_string();
    let usage = usage.trim_start_matches("Usage:").trim().replace('-', "\\-");
    writeln!(page, ".SH SYNOPSIS\n{usage}")?;
    man.render_description_section(page)?;
    man.render_options_section(page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(page)?;
    }
    man.render_extra_section(page)
}
