//! [`Outputs`]: the table, and the files that the command line asks for.

use super::file::{OutputFile, StagedFile};
use super::{criterion, page, samples, table};
use crate::CliError;
use crate::args::OutputArgs;
use crate::output;
use lockword::contention::ComparisonReport;
use std::path::{Path, PathBuf};

/// A report as text.
type Render = fn(&ComparisonReport) -> Result<String, CliError>;

/// The output files that the command line asks for.
pub struct Outputs {
    /// The option, what it writes, and where.
    files: Vec<(&'static str, Render, OutputFile)>,
    criterion: Option<PathBuf>,
}

impl Outputs {
    /// Refuses files that cannot be written, the same file for two purposes, and the file that is read (and
    /// how it is called) as one of them: otherwise a slower result would replace the baseline of the next run, or
    /// a table the report that it is of.
    ///
    /// # Errors
    ///
    /// Which option is at fault, and why.
    pub fn check(args: &OutputArgs, read: Option<(&str, &Path)>) -> Result<Outputs, CliError> {
        let asked: [(&str, Render, &Option<PathBuf>); 4] = [
            ("--json", json, &args.json),
            ("--html", |report| Ok(page::render(report)), &args.html),
            ("--csv", samples::csv, &args.csv),
            ("--markdown", |report| Ok(table::markdown(report)), &args.markdown),
        ];
        let mut files: Vec<(&str, Render, OutputFile)> = vec![];
        for (option, render, name) in asked {
            let Some(name) = name else { continue };
            let file = OutputFile::check(name)?;
            if let Some((other, ..)) = files.iter().find(|(_, _, other)| other.is(&file)) {
                return Err(CliError::new(format!("{other} and {option} are the same file")));
            }
            if let Some((name, _)) = read.filter(|(_, read)| file.is_at(read)) {
                return Err(CliError::new(format!("{option} and {name} are the same file")));
            }
            files.push((option, render, file));
        }
        if let Some(folder) = &args.criterion {
            criterion::check(folder)?;
        }
        Ok(Outputs { files, criterion: args.criterion.clone() })
    }

    /// Prints text for the reader: to standard error if a file is standard output.
    ///
    /// # Errors
    ///
    /// If standard output cannot be written to.
    pub fn print(&self, text: &str) -> Result<(), CliError> {
        if self.files.iter().any(|(_, _, file)| file.is_stdout()) {
            output::print_error(text.trim_end_matches('\n'));
            Ok(())
        } else {
            output::print(text)
        }
    }

    /// Writes all files or, if an error is foreseeable, none.
    ///
    /// # Errors
    ///
    /// Which file cannot be written, and why.
    pub fn write(&self, report: &ComparisonReport) -> Result<(), CliError> {
        let mut staged = vec![];
        for (_, render, file) in &self.files {
            staged.push(file.stage(render(report)?)?);
        }
        // Special files come first: writing to them can still fail, unlike a rename.
        staged.sort_by_key(|staged| !staged.is_special());
        staged.into_iter().try_for_each(StagedFile::commit)?;
        // These are many files, which are not staged: the last, so that no error of theirs loses the others.
        self.criterion.as_deref().map_or(Ok(()), |folder| criterion::write(report, folder))
    }
}

/// The report as JSON.
fn json(report: &ComparisonReport) -> Result<String, CliError> {
    serde_json::to_string_pretty(report)
        .map(|text| text + "\n")
        .map_err(|error| CliError::new(format!("cannot write the report: {error}")))
}
