//! Files: written whole or not at all, and read with suspicion.

use crate::failure::Failure;
use crate::units::printable;
use lockword::contention::{FORMAT, Report};
use serde_json::Value;
use std::collections::HashSet;
use std::ffi::OsString;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// A file that will be written at the end of a run.
#[derive(Debug)]
pub struct Target {
    /// As the user named it.
    name: PathBuf,
    /// Where it is, through symbolic links.
    path: PathBuf,
    /// Something that cannot be replaced: a pipe, a terminal, `/dev/null`.
    special: bool,
}

impl Target {
    /// Makes sure that the file can be written, and changes nothing: a run may take minutes, and
    /// must not fail at its end for what can be told at its start.
    pub fn check(name: &Path) -> Result<Target, Failure> {
        let cannot = |error: io::Error| cannot("write", name, &error);
        let target = match fs::metadata(name) {
            Ok(found) => {
                // Opened to see whether this user may; neither created nor cut.
                fs::OpenOptions::new().append(true).open(name).map_err(cannot)?;
                let path = fs::canonicalize(name).map_err(cannot)?;
                Target { name: name.to_owned(), path, special: !found.is_file() }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let path = place(name).map_err(cannot)?;
                Target { name: name.to_owned(), path, special: false }
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
    pub fn is(&self, other: &Target) -> bool {
        self.path == other.path && !self.special
    }

    /// Whether this is the file of that name, which is there.
    pub fn is_at(&self, name: &Path) -> bool {
        !self.special && fs::canonicalize(name).is_ok_and(|path| path == self.path)
    }

    /// Writes the file. If that fails, what was there before is still there, whole.
    pub fn write(&self, content: String) -> Result<(), Failure> {
        self.stage(content)?.commit()
    }

    /// Writes the content beside the file, for [`Staged::commit`] to put in its place.
    pub fn stage(&self, content: String) -> Result<Staged<'_>, Failure> {
        if self.special {
            return Ok(Staged { target: self, temporary: None, content });
        }
        let cannot = |error: io::Error| cannot("write", &self.name, &error);
        let temporary = self.temporary();
        // New, so that it is nobody else's: not even through a link that waits there.
        let mut file = fs::File::create_new(&temporary).map_err(cannot)?;
        // From here on it is removed if anything fails.
        let staged = Staged { target: self, temporary: Some(temporary), content: String::new() };
        file.write_all(content.as_bytes()).map_err(cannot)?;
        if let Ok(old) = fs::metadata(&self.path) {
            file.set_permissions(old.permissions()).map_err(cannot)?;
        }
        file.sync_all().map_err(cannot)?;
        Ok(staged)
    }

    /// Beside the file: only within a folder is a rename sure to work.
    fn temporary(&self) -> PathBuf {
        let mut name = OsString::from(".");
        name.push(self.path.file_name().unwrap_or_default());
        name.push(format!(".{}.tmp", std::process::id()));
        self.path.with_file_name(name)
    }
}

/// Content that waits beside its file. Dropped, it leaves nothing.
#[must_use]
pub struct Staged<'a> {
    target: &'a Target,
    /// Where it is; `None` if nothing can stand beside the file.
    temporary: Option<PathBuf>,
    /// It, if it is nowhere else.
    content: String,
}

impl Staged<'_> {
    /// Whether the file cannot be replaced, only written to.
    pub fn special(&self) -> bool {
        self.temporary.is_none()
    }

    /// Replaces the file.
    pub fn commit(mut self) -> Result<(), Failure> {
        let Target { name, path, .. } = self.target;
        let done = match &self.temporary {
            Some(temporary) => fs::rename(temporary, path),
            None => fs::write(path, &self.content),
        };
        done.map_err(|error| cannot("write", name, &error))?;
        self.temporary = None;
        Ok(())
    }
}

impl Drop for Staged<'_> {
    fn drop(&mut self) {
        if let Some(temporary) = &self.temporary {
            // The failure that counts is the first.
            let _ = fs::remove_file(temporary);
        }
    }
}

/// Where a file that is not there will be: in which folder, through symbolic links, even if the
/// last of them points to nothing.
fn place(name: &Path) -> io::Result<PathBuf> {
    let mut path = name.to_owned();
    // As many links as Linux follows.
    for _ in 0..40 {
        let last = path.file_name().ok_or(io::ErrorKind::IsADirectory)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let place = fs::canonicalize(folder.unwrap_or(Path::new(".")))?.join(last);
        match fs::read_link(&place) {
            Ok(target) => path = place.with_file_name(target),
            Err(_) => return Ok(place),
        }
    }
    Err(io::Error::other("too many symbolic links"))
}

fn cannot(what: &str, name: &Path, why: &dyn std::fmt::Display) -> Failure {
    Failure::new(format!("cannot {what} {}: {why}", name.display()))
}

/// Reads a report that `--json` wrote.
pub fn read_report(name: &Path) -> Result<Report, Failure> {
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
    let report: Report = serde_json::from_value(value)
        .map_err(|error| cannot(&format!("it is no whole report: {error}")))?;
    sound(&report).map_err(|why| cannot(&why))?;
    Ok(report)
}

/// Makes all text printable: names and warnings go to a terminal.
fn clean(value: &mut Value) {
    match value {
        Value::String(text) => *text = printable(text),
        Value::Array(values) => values.iter_mut().for_each(clean),
        Value::Object(fields) => fields.values_mut().for_each(clean),
        _ => {}
    }
}

/// The shortest slice in which anything can be told, in nanoseconds.
const SHORTEST: f64 = 1e3;

/// More than any slice of any number of threads can take: a hundred days.
const LONGEST: f64 = 8.64e15;

/// Whether the figures are such that one can reckon with them.
fn sound(report: &Report) -> Result<(), String> {
    let mut cells = HashSet::new();
    for cell in &report.cells {
        let name = &cell.name;
        if !cells.insert(name) {
            return Err(format!("two cells are called '{name}'"));
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
                // A slice that was over before it began has no length, and no figures.
                let elapsed = sample.elapsed_ns;
                let slice = elapsed == 0.0 || (SHORTEST..=LONGEST).contains(&elapsed);
                if sum.is_none() || !slice {
                    return Err(format!("{at}: a slice that cannot be ({elapsed} ns)"));
                }
                if let Some(cpu) = sample.cpu_ns
                    && !(0.0..=LONGEST).contains(&cpu)
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

    #[cfg(unix)]
    #[test]
    fn two_names_of_a_file_that_is_not_there_are_one_file() {
        use std::os::unix::fs::symlink;
        let folder = std::env::temp_dir().join(format!("lockword-names-{}", std::process::id()));
        fs::create_dir_all(folder.join("inner")).unwrap();
        symlink("inner/report", folder.join("link")).unwrap();
        symlink("link", folder.join("second")).unwrap();
        symlink("round", folder.join("round")).unwrap();
        let check = |name: &str| Target::check(&folder.join(name)).unwrap();
        let report = check("inner/report");
        for name in ["./inner/report", "inner/../inner/report", "link", "second"] {
            assert!(report.is(&check(name)), "{name}");
        }
        assert!(!report.is(&check("report")));
        assert!(Target::check(&folder.join("round")).is_err());
        check("second").write("new".to_owned()).unwrap();
        assert_eq!(fs::read_to_string(folder.join("inner/report")).unwrap(), "new");
        assert!(fs::symlink_metadata(folder.join("link")).unwrap().is_symlink());
        assert!(report.is_at(&folder.join("link")));
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_failure_leaves_what_was_there() {
        let folder = std::env::temp_dir().join(format!("lockword-file-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let path = folder.join("report.json");
        fs::write(&path, "old").unwrap();
        let target = Target::check(&path).unwrap();

        // Somebody else's file is in the way.
        fs::write(target.temporary(), "theirs").unwrap();
        assert!(target.write("new".to_owned()).unwrap_err().to_string().contains("report.json"));
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(fs::read_to_string(target.temporary()).unwrap(), "theirs");
        fs::remove_file(target.temporary()).unwrap();

        // What was a file is a folder now.
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(target.write("new".to_owned()).is_err());
        assert!(path.is_dir() && !target.temporary().exists());

        fs::remove_dir(&path).unwrap();
        target.write("new".to_owned()).unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        fs::remove_dir_all(&folder).unwrap();
    }
}
