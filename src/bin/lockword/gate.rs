//! `lockword gate`: fencing for shells.
//!
//! The file has the largest token that has passed, and the key. It is locked from before the comparison
//! until the command has ended: the command inherits the descriptor, as with `flock`, so the lock ends with
//! the last process that has it, whatever becomes of this one.

use crate::lock_args::GateArgs;
use crate::{CliError, ExitOutcome, exit, output};
use lockword::cluster::{FencingToken, Key};
#[cfg(unix)]
use rustix::fs::{FlockOperation, flock};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::path::Path;

/// Runs the command if the token is not older than the largest one in the file.
#[cfg(unix)]
pub fn gate(args: &GateArgs) -> Result<ExitOutcome, CliError> {
    use std::os::unix::process::CommandExt as _;
    let wrong = |why: String| CliError::with(exit::USAGE, why);
    let variable = |name: &str| {
        std::env::var(name)
            .map_err(|_| wrong(format!("{name} is not set: run this within `lockword run`")))
    };
    let key = variable("LOCKWORD_KEY")?;
    let key = Key::new(&key).map_err(|why| wrong(format!("LOCKWORD_KEY: {why}")))?;
    let token = variable("LOCKWORD_TOKEN")?;
    let token = token.parse().map_err(|_| wrong(format!("LOCKWORD_TOKEN is {token:?}")))?;
    let token = FencingToken::from_u64(token);

    let name = args.file.display();
    let failed = |why: io::Error| wrong(format!("cannot use {name}: {why}"));
    let mut file = locked(&args.file).map_err(failed)?;
    let newest = match Passed::read(&mut file, &key).map_err(failed)? {
        Some(passed) if passed.key != key.as_str() => {
            let other = passed.key;
            return Err(wrong(format!("{name} is the gate of {other}, not of {key}")));
        }
        Some(passed) => Some(passed.token),
        None => None,
    };
    if newest.is_some_and(|newest| token < newest) {
        let newest = newest.unwrap_or(token);
        if args.json {
            let (token, newest) = (token.to_string(), newest.to_string());
            let line = serde_json::json!({"key": key.as_str(), "token": token, "newest": newest});
            // Whatever becomes of it, the token is refused.
            let _ = output::print(&output::json_line(&line));
        }
        let why =
            format!("token {token} of {key} is refused: a holder with {newest} has been here");
        return Err(CliError::with(exit::LOST, why));
    }
    // Also if it has this token already: the call that wrote it may have failed before it was on the disk.
    Passed { token, key: key.to_string() }.write(&mut file, &args.file).map_err(failed)?;
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())
        .map_err(|why| failed(why.into()))?;
    let why = std::process::Command::new(&args.command[0]).args(&args.command[1..]).exec();
    let code = match why.kind() {
        io::ErrorKind::NotFound => exit::NOT_FOUND,
        _ => exit::CANNOT_EXECUTE,
    };
    let command = args.command[0].to_string_lossy();
    Err(CliError::with(code, format!("cannot run {command}: {why}")))
}

/// Opens the file and locks it. It is the one that has this name while it is locked: somebody may have replaced
/// or removed it while this waited.
#[cfg(unix)]
fn locked(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::MetadataExt as _;
    loop {
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(path)?;
        let of_file = file.metadata()?;
        if !of_file.is_file() {
            return Err(io::Error::other("it is no regular file"));
        }
        flock(&file, FlockOperation::LockExclusive)?;
        let is_same = |now: &Metadata| (now.dev(), now.ino()) == (of_file.dev(), of_file.ino());
        match std::fs::metadata(path) {
            Ok(now) if is_same(&now) => return Ok(file),
            Ok(_) => {}
            Err(why) if why.kind() == io::ErrorKind::NotFound => {}
            Err(why) => return Err(why),
        }
    }
}

/// On this system a file cannot stay locked until a command has ended.
#[cfg(not(unix))]
pub fn gate(_: &GateArgs) -> Result<ExitOutcome, CliError> {
    Err(CliError::with(exit::USAGE, "`lockword gate` needs a Unix system"))
}

/// What is in the file: a line with the token, in 20 digits so that a newer line is as long, and the key.
#[derive(Debug, PartialEq, Eq)]
struct Passed {
    token: FencingToken,
    key: String,
}

impl Passed {
    /// `None`: nobody has been here. A line without its end counts with what it has: whoever has written it held
    /// the lock of `key`. If not even the token is whole, its command has not run.
    fn read(file: &mut File, key: &Key) -> io::Result<Option<Passed>> {
        const DIGITS: usize = 20;
        let mut text = String::new();
        file.take(1000).read_to_string(&mut text)?;
        let other = || io::Error::other("it has something else than a token");
        let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let Some((token, rest)) = text.split_at_checked(DIGITS) else {
            // A token begins with a zero, unless it is one of a foreign engine.
            let is_part = text.is_empty() || text.starts_with('0') && is_digits(&text);
            return if is_part { Ok(None) } else { Err(other()) };
        };
        let token = token.parse().ok().filter(|_| is_digits(token)).ok_or_else(other)?;
        let token = FencingToken::from_u64(token);
        let named = match rest.strip_suffix('\n') {
            Some(rest) => rest.strip_prefix(' ').ok_or_else(other)?,
            None if format!(" {key}").starts_with(rest) => key.as_str(),
            None => return Err(other()),
        };
        Ok(Some(Passed { token, key: named.to_owned() }))
    }

    /// The token, and the name of the file if the folder may be read, are on the disk when this returns.
    fn write(&self, file: &mut File, path: &Path) -> io::Result<()> {
        let Passed { token, key } = self;
        let line = format!("{:020} {key}\n", token.get());
        if file.metadata()?.len() != line.len() as u64 {
            file.set_len(0)?;
        }
        file.rewind()?;
        file.write_all(line.as_bytes())?;
        file.sync_data()?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        if let Ok(folder) = File::open(folder.unwrap_or(Path::new("."))) {
            // An error: the file system keeps names in a way of its own.
            let _ = folder.sync_all();
        }
        Ok(())
    }
}
