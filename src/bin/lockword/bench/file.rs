//! Files: an output file is replaced as a whole or not at all, and a report that is read is
//! validated.

use crate::CliError;
use crate::output::{print_raw, printable};
use lockword::contention::{ComparisonReport, FORMAT, Load};
use serde_json::Value;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A file that is written at the end of a run.
#[derive(Debug)]
pub struct OutputFile {
    /// The name on the command line.
    name: PathBuf,
    /// Its path with all symbolic links resolved.
    path: PathBuf,
    /// Whether it cannot be replaced, only written to: a pipe, a terminal, `/dev/null`.
    special: bool,
    /// Whether it is standard output, by the name `-`.
    stdout: bool,
}

impl OutputFile {
    /// Checks that the file can be written, and leaves it unchanged. A run may take minutes and
    /// must not fail at its end for a reason that was known at its start.
    ///
    /// # Errors
    ///
    /// If the file, or a temporary file beside it, cannot be opened for writing.
    pub fn check(name: &Path) -> Result<OutputFile, CliError> {
        if name == Path::new("-") {
            let (name, path) = (name.to_owned(), name.to_owned());
            return Ok(OutputFile { name, path, special: true, stdout: true });
        }
        let cannot = |error: io::Error| cannot("write", name, &error);
        let target = match fs::metadata(name) {
            Ok(found) => {
                // Only checks the permission: the file is neither created nor truncated.
                fs::OpenOptions::new().append(true).open(name).map_err(cannot)?;
                let path = fs::canonicalize(name).map_err(cannot)?;
                let special = !found.is_file();
                OutputFile { name: name.to_owned(), path, special, stdout: false }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = resolve(name).map_err(cannot)?;
                OutputFile { name: name.to_owned(), path, special: false, stdout: false }
            }
            Err(error) => return Err(cannot(error)),
        };
        if !target.special {
            let temporary = target.temporary();
            fs::File::create_new(&temporary).map_err(cannot)?;
            fs::remove_file(&temporary).map_err(cannot)?;
        }
        Ok(target)
    }

    /// Whether both are the same file.
    pub fn is(&self, other: &OutputFile) -> bool {
        self.stdout && other.stdout || self.path == other.path && !self.special
    }

    /// Whether it is standard output.
    pub fn is_stdout(&self) -> bool {
        self.stdout
    }

    /// Whether `name` is an existing file and the same as this one.
    pub fn is_at(&self, name: &Path) -> bool {
        !self.special && fs::canonicalize(name).is_ok_and(|path| path == self.path)
    }

    /// Writes the content to a temporary file, with which [`StagedFile::commit`] replaces this one.
    pub fn stage(&self, content: String) -> Result<StagedFile<'_>, CliError> {
        if self.special {
            return Ok(StagedFile { target: self, temporary: None, content });
        }
        let cannot = |error: io::Error| cannot("write", &self.name, &error);
        let temporary = self.temporary();
        // It must not exist yet, not even as a symbolic link to another file.
        let mut file = fs::File::create_new(&temporary).map_err(cannot)?;
        // From here on an early return removes it.
        let staged =
            StagedFile { target: self, temporary: Some(temporary), content: String::new() };
        file.write_all(content.as_bytes()).map_err(cannot)?;
        if let Ok(old) = fs::metadata(&self.path) {
            file.set_permissions(old.permissions()).map_err(cannot)?;
        }
        file.sync_all().map_err(cannot)?;
        Ok(staged)
    }

    /// The path of the temporary file, in the same folder: across folders a rename may fail.
    fn temporary(&self) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(format!(".{}.tmp", std::process::id()));
        self.path.with_file_name(name)
    }
}

/// Content that was written to a temporary file. Dropping it removes that file.
#[must_use]
pub struct StagedFile<'a> {
    target: &'a OutputFile,
    /// The temporary file; `None` for a special file.
    temporary: Option<PathBuf>,
    /// The content for a special file, else empty.
    content: String,
}

impl StagedFile<'_> {
    /// Whether the file cannot be replaced, only written to.
    pub fn is_special(&self) -> bool {
        self.temporary.is_none()
    }

    /// Replaces the file, or writes to it if it is special.
    pub fn commit(mut self) -> Result<(), CliError> {
        let OutputFile { name, path, stdout, .. } = self.target;
        if *stdout {
            return print_raw(self.content.as_bytes());
        }
        let done = match &self.temporary {
            Some(temporary) => fs::rename(temporary, path),
            None => fs::write(path, &self.content),
        };
        done.map_err(|error| cannot("write", name, &error))?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for StagedFile<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // An error here would hide the one that led here.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// The path of a file that does not exist yet, with symbolic links resolved, even if the last of
/// them points to nothing.
fn resolve(name: &Path) -> io::Result<PathBuf> {
    let mut path = name.to_owned();
    // As many links as Linux follows.
    for _ in 0..40 {
        let last = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let resolved = fs::canonicalize(folder.unwrap_or(Path::new(".")))?.join(last);
        match fs::read_link(&resolved) {
            Ok(target) => path = resolved.with_file_name(target),
            Err(_) => return Ok(resolved),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

/// The error for an operation on a file that failed.
fn cannot(what: &str, name: &Path, why: &dyn std::fmt::Display) -> CliError {
    CliError::new(format!("cannot {what} {}: {why}", name.display()))
}

/// Reads a report that `--json` wrote.
///
/// # Errors
///
/// If the file cannot be read, is no report of this format, or has impossible figures.
pub fn read_report(name: &Path) -> Result<ComparisonReport, CliError> {
    let cannot = |why: &dyn std::fmt::Display| cannot("read", name, why);
    let text = fs::read_to_string(name).map_err(|error| cannot(&error))?;
    let mut value: Value = serde_json::from_str(&text).map_err(|error| {
        let is = if error.is_eof() { "ends too early" } else { "is no JSON" };
        cannot(&format!("it {is}: {error}"))
    })?;
    clean(&mut value);
    match value.get("format").and_then(Value::as_u64) {
        Some(format) if format == u64::from(FORMAT) => {}
        Some(format) => {
            let by = value.get("lockword").and_then(Value::as_str).unwrap_or("unknown");
            return Err(cannot(&format!(
                "it has format {format} (written by lockword {by}), and this is lockword {}, \
                 which reads format {FORMAT}",
                env!("CARGO_PKG_VERSION")
            )));
        }
        None => return Err(cannot(&"it is no report of lockword bench")),
    }
    let report: ComparisonReport = serde_json::from_value(value)
        .map_err(|error| cannot(&format!("it is no whole report: {error}")))?;
    validate(&report).map_err(|why| cannot(&why))?;
    Ok(report)
}

/// Makes all text printable (see [`printable`]): names and warnings are printed to a terminal.
fn clean(value: &mut Value) {
    match value {
        Value::String(text) => *text = printable(text),
        Value::Array(values) => values.iter_mut().for_each(clean),
        Value::Object(fields) => fields.values_mut().for_each(clean),
        _ => {}
    }
}

/// The shortest slice that is accepted, in nanoseconds.
const SHORTEST_NS: f64 = 1e3;

/// The longest slice, and the most CPU time of one, that are accepted, in nanoseconds: a hundred
/// days.
const LONGEST_NS: f64 = 8.64e15;

/// Checks that names are unique and figures are possible.
fn validate(report: &ComparisonReport) -> Result<(), String> {
    let mut cells = HashSet::new();
    for cell in &report.cells {
        let name = &cell.name;
        if !cells.insert(name) {
            return Err(format!("two cells are called '{name}'"));
        }
        cell.load.validate().map_err(|why| format!("the load of '{name}': {why}"))?;
        let rates = Load::MIN_RATE..=Load::MAX_RATE;
        if cell.offered.is_some_and(|offered| !rates.contains(&offered)) {
            return Err(format!("'{name}' has an impossible rate of arrivals"));
        }
        let mut locks = HashSet::new();
        for lock in &cell.locks {
            let at = format!("{} under '{name}'", lock.lock);
            if !locks.insert(&lock.lock) {
                return Err(format!("{at} is there twice"));
            }
            for sample in &lock.samples {
                let sum =
                    sample.acquisitions.iter().try_fold(0u64, |sum, more| sum.checked_add(*more));
                // A slice that was over before its first thread started has no length.
                let elapsed = sample.elapsed_ns;
                let slice = elapsed == 0.0 || (SHORTEST_NS..=LONGEST_NS).contains(&elapsed);
                if sum.is_none() || !slice {
                    return Err(format!("{at}: a slice that cannot be ({elapsed} ns)"));
                }
                if let Some(cpu) = sample.cpu_ns
                    && !(0.0..=LONGEST_NS).contains(&cpu)
                {
                    return Err(format!("{at}: a CPU time that cannot be ({cpu} ns)"));
                }
            }
            let shares = lock.waits.iter().flat_map(|waits| &waits.curve);
            if shares.clone().any(|(share, _)| !(0.0..=1.0).contains(share)) {
                return Err(format!("{at}: a share of the waits that cannot be"));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write(target: &OutputFile) -> Result<(), CliError> {
        target.stage("new".to_owned())?.commit()
    }

    #[cfg(unix)]
    #[test]
    fn two_names_of_a_missing_file_are_the_same_file() {
        use std::os::unix::fs::symlink;
        let folder = std::env::temp_dir().join(format!("lockword-names-{}", std::process::id()));
        fs::create_dir_all(folder.join("inner")).unwrap();
        symlink("inner/report", folder.join("link")).unwrap();
        symlink("link", folder.join("second")).unwrap();
        symlink("round", folder.join("round")).unwrap();
        let check = |name: &str| OutputFile::check(&folder.join(name)).unwrap();
        let report = check("inner/report");
        for name in ["./inner/report", "inner/../inner/report", "link", "second"] {
            assert!(report.is(&check(name)), "{name}");
        }
        assert!(!report.is(&check("report")));
        assert!(OutputFile::check(&folder.join("round")).is_err());
        write(&check("second")).unwrap();
        assert_eq!(fs::read_to_string(folder.join("inner/report")).unwrap(), "new");
        assert!(fs::symlink_metadata(folder.join("link")).unwrap().is_symlink());
        assert!(report.is_at(&folder.join("link")));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_failed_write_leaves_the_previous_content() {
        let folder = std::env::temp_dir().join(format!("lockword-file-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("report.json");
        fs::write(&path, "old").unwrap();
        let target = OutputFile::check(&path).unwrap();

        // The temporary file exists already.
        fs::write(target.temporary(), "other").unwrap();
        assert!(write(&target).unwrap_err().to_string().contains("report.json"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_to_string(target.temporary()).unwrap(), "other");
        fs::remove_file(target.temporary()).unwrap();

        // The file has become a folder.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(write(&target).is_err());
        assert!(path.is_dir() && !target.temporary().exists());

        fs::remove_dir(&path).unwrap();
        write(&target).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        fs::remove_dir_all(&folder).unwrap();
    }
}
