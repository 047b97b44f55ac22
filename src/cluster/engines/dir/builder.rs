//! The options of the engine in a directory, from setters or from an address.

use super::{Dir, SLACK};
use crate::cluster::ConnectError;
use crate::cluster::engines::connect::{GivenRuntime, invalid};
use rustix::fd::OwnedFd;
use rustix::fs::{self, Mode, RawMode};
use std::path::PathBuf;
use std::time::Duration;
use tokio::runtime::Handle;
use url::Url;

/// The bits that only the owner has.
const OWNER: u32 = 0o700;
/// Those of others who may write: the group, and everybody.
const OTHERS_WRITE: u32 = 0o022;
/// All bits that can be set: those of rights, and that the group of the directory is that of its files.
const ANY_MODE: u32 = 0o2777;
const LONGEST_TIMEOUT: Duration = Duration::from_secs(60 * 60);

/// Which directory, and how it is to be used: from [`Dir::builder`], or from an address.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use lockword::cluster::Dir;
/// use lockword::cluster::engines::dir::DirBuilder;
/// use std::time::Duration;
///
/// # let path = std::env::temp_dir().join(format!("lockword-doc-builder-{}", std::process::id()));
/// let engine = Dir::builder(&path).timeout(Duration::from_millis(500)).connect().await?;
/// // The same by an address.
/// let url = format!("dir:{}?timeout_ms=500", path.display()).parse()?;
/// let engine = DirBuilder::from_url(&url)?.connect().await?;
/// # std::fs::remove_dir(&path)?;
/// # Ok(())
/// # }
/// ```
#[must_use = "nothing happens before connect is called"]
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirBuilder {
    config: DirConfig,
    runtime: GivenRuntime,
}

impl DirBuilder {
    pub(super) fn new(path: PathBuf) -> Self {
        let timeout = Duration::from_secs(1);
        let config = DirConfig { path, mode: OWNER, any_file_system: false, timeout };
        Self { config, runtime: GivenRuntime::default() }
    }

    /// Reads the options from an address, whose form is described at the [module](super#the-address).
    /// Nothing is opened yet.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Address`] if it is not valid.
    pub fn from_url(url: &Url) -> Result<Self, ConnectError> {
        let form = "expected dir:/path, with an absolute path";
        if url.host_str().is_some_and(|host| !host.is_empty()) {
            return Err(invalid(format!("it names a host, but a directory has none: {form}")));
        }
        if url.fragment().is_some() {
            return Err(invalid("there is a # in it: write %23 if it is part of the path"));
        }
        let path = url.to_file_path().map_err(|()| {
            // Programs with other working directories would use other locks.
            invalid(format!("its path is not absolute: {form}"))
        })?;
        let mut builder = Self::new(path);
        let mut seen: Vec<String> = vec![];
        for (name, value) in url.query_pairs() {
            let wrong = |what: &str| invalid(format!("{name} is {value:?}, but must be {what}"));
            match &*name {
                "mode" => {
                    let mode = u32::from_str_radix(&value, 8);
                    builder.config.mode = mode.map_err(|_| wrong("octal, such as 0770"))?;
                }
                "timeout_ms" => {
                    let number = value.parse().map_err(|_| wrong("a number"))?;
                    builder.config.timeout = Duration::from_millis(number);
                }
                "any_file_system" => {
                    builder.config.any_file_system =
                        value.parse().map_err(|_| wrong("true or false"))?;
                }
                other => {
                    return Err(invalid(format!(
                        "there is no option {other:?}; there are mode, timeout_ms, any_file_system"
                    )));
                }
            }
            if seen.iter().any(|other| **other == *name) {
                return Err(invalid(format!("the option {name:?} is there twice")));
            }
            seen.push(name.into_owned());
        }
        Ok(builder)
    }

    /// The permissions with which the directory is made; its files have the same without those to execute.
    /// Default: 0700, so that only its owner can use it. In an address: `mode`, in octal.
    ///
    /// A directory that is there already keeps its own. It is refused if others may write in it who may not
    /// by this mode, and if it is owned by somebody else than this user and root while this mode lets nobody
    /// but the owner write. For a group: 2770, on a directory whose group is that one. Nobody who may write
    /// in it is kept from breaking a lock, or from forging a register.
    pub fn mode(mut self, mode: u32) -> Self {
        self.config.mode = mode;
        self
    }

    /// Admits a directory on any file system. Default: only those that are known to be of one machine, and
    /// whose locks hold. In an address: `any_file_system=true`.
    ///
    /// It is for a local file system that this crate does not know. On a network file system two machines
    /// can hold a lock at the same time, if it has such locks at all, and a change wakes nobody.
    pub fn any_file_system(mut self) -> Self {
        self.config.any_file_system = true;
        self
    }

    /// How long a request waits for another process that is reading and writing the register: from 1 ms to
    /// 1 h. Default: 1 s. In an address: `timeout_ms`.
    ///
    /// Usually that takes some microseconds. It takes longer if that process was stopped in between: the
    /// error names it. (A node that gives a request less time than this cannot say more than that there was
    /// no response: see [`request_timeout`](crate::cluster::NodeBuilder::request_timeout).) A request that
    /// waits ends within this time and a second, also if the file system does not respond. One that is made
    /// [at once](super#how-it-runs) blocks its thread for as long as the file system does.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.config.timeout = timeout;
        self
    }

    /// The tokio runtime that tells of changes, and whose threads for blocking work make the requests that
    /// may wait; with its I/O and timers enabled. Default: a runtime of this crate's own, one for the process.
    ///
    /// Give one together with [`NodeBuilder::runtime`](crate::cluster::NodeBuilder::runtime), and only one
    /// none of whose tasks blocks its thread. When the runtime ends, requests and watches fail as
    /// [`Unavailable`](crate::cluster::TransportError::Unavailable).
    pub fn runtime(self, runtime: Handle) -> Self {
        self.given_runtime(GivenRuntime(Some(runtime)))
    }

    pub(crate) fn given_runtime(mut self, runtime: GivenRuntime) -> Self {
        self.runtime = runtime;
        self
    }

    /// Checks the options, makes the directory if it is not there (its parent has to be), and opens it.
    ///
    /// It blocks no thread of the caller's. Dropping the future is safe at any moment; the directory may or
    /// may not be made.
    ///
    /// # Errors
    ///
    /// - [`ConnectError::Address`] names the option that is not valid.
    /// - [`ConnectError::Unreachable`]: the directory cannot be made or opened.
    /// - [`ConnectError::Denied`]: this user may not do that.
    /// - [`ConnectError::Unsuitable`]: others may write in it, it is a symbolic link, or its file system is
    ///   not admitted.
    /// - [`ConnectError::Runtime`]: the thread on which requests are made cannot be started, or the
    ///   [runtime that was given](Self::runtime) has no timers or no I/O, or nothing drives it.
    pub async fn connect(self) -> Result<Dir, ConnectError> {
        let runtime = self.runtime.clone();
        let config = self.config()?;
        // Twice, for the task that shows whether the runtime runs.
        let limit = 2 * (config.timeout + SLACK);
        runtime.open(limit, |on| Dir::open(config, on)).await
    }

    /// The checked options.
    pub(super) fn config(self) -> Result<DirConfig, ConnectError> {
        let DirConfig { path, mode, timeout, .. } = &self.config;
        if !path.is_absolute() {
            return Err(invalid(format!("the path {} is not absolute", path.display())));
        }
        if mode & !ANY_MODE != 0 || mode & OWNER != OWNER {
            return Err(invalid(format!(
                "mode is {mode:o}, but must be from 0700 to 2777, and give its owner all rights"
            )));
        }
        let bounds = Duration::from_millis(1)..=LONGEST_TIMEOUT;
        if !bounds.contains(timeout) {
            let (is, most) = (timeout.as_millis(), LONGEST_TIMEOUT.as_millis());
            return Err(invalid(format!("timeout_ms is {is}, but must be from 1 to {most}")));
        }
        // Without a slash at the end, after which a link would be followed.
        let path = path.components().collect();
        Ok(DirConfig { path, ..self.config })
    }
}

/// The options after they were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct DirConfig {
    pub(super) path: PathBuf,
    pub(super) mode: u32,
    pub(super) any_file_system: bool,
    pub(super) timeout: Duration,
}

impl DirConfig {
    /// Why a directory with these rights and this owner must not be used, if that is so.
    pub(super) fn check_rights(&self, mode: u32, owner: u32) -> Result<(), String> {
        let extra = mode & OTHERS_WRITE & !self.mode;
        if extra != 0 {
            return Err(format!(
                "others may write in it (its mode is {:o}): take that right away from them, or grant \
                 it by the option mode",
                mode & 0o7777
            ));
        }
        let user = rustix::process::geteuid().as_raw();
        if owner != user && owner != 0 && self.mode & OTHERS_WRITE == 0 {
            return Err(format!(
                "it belongs to the user {owner}, and this is the user {user}: choose a directory of \
                 your own, or share one with a group by the option mode"
            ));
        }
        Ok(())
    }

    /// The permissions of a file.
    pub(super) fn file_mode(&self) -> Mode {
        Mode::from_raw_mode((self.mode & 0o666) as RawMode)
    }

    /// Grants to a file what the mask of the process took away, if anybody but the owner is to have it.
    pub(super) fn grant(&self, file: &OwnedFd) {
        if self.mode & !OWNER != 0 {
            // It fails for a file of somebody else, who has done it.
            let _ = fs::fchmod(file, self.file_mode());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{DirBuilder, DirConfig};
    use crate::cluster::Dir;
    use std::path::Path;
    use std::time::Duration;
    use url::Url;

    fn config(url: &str) -> Result<DirConfig, String> {
        DirBuilder::from_url(&Url::parse(url).unwrap())
            .and_then(DirBuilder::config)
            .map_err(|error| error.to_string())
    }

    #[test]
    fn an_address_and_setters_give_the_same_options() {
        let by_address = config("dir:/a/b%20c?mode=2770&timeout_ms=20&any_file_system=true");
        let by_setters = Dir::builder("/a/b c/").mode(0o2770).timeout(Duration::from_millis(20));
        assert_eq!(by_address.unwrap(), by_setters.any_file_system().config().unwrap());
        assert_eq!(config("dir:/a").unwrap(), Dir::builder("/a").config().unwrap());
        assert_eq!(config("dir:///a/").unwrap(), config("dir:/a").unwrap());
        assert_eq!(config("dir:/%C3%A4").unwrap().path, Path::new("/\u{e4}"));
    }

    #[test]
    fn what_is_not_valid_is_named() {
        for (address, why) in [
            ("dir:a/b", "not absolute"),
            ("dir:", "not absolute"),
            ("dir://host/a", "names a host"),
            ("dir:/a#b", "%23"),
            ("dir:/a?mode=8", "octal"),
            ("dir:/a?mode=0600", "all rights"),
            ("dir:/a?mode=1777", "from 0700 to 2777"),
            ("dir:/a?timeout_ms=0", "timeout_ms is 0"),
            ("dir:/a?timeout_ms=3600001", "timeout_ms is 3600001"),
            ("dir:/a?timeout_ms=1&timeout_ms=2", "\"timeout_ms\" is there twice"),
            ("dir:/a?any_file_system=yes", "true or false"),
            ("dir:/a?sync=true", "no option \"sync\""),
        ] {
            let said = config(address).unwrap_err();
            assert!(said.contains(why), "{address}: {said}");
        }
    }

    #[test]
    fn a_directory_in_which_others_may_write_is_refused() {
        let user = rustix::process::geteuid().as_raw();
        let rights = |option: u32, mode: u32, owner: u32| {
            Dir::builder("/a").mode(option).config().unwrap().check_rights(mode, owner)
        };
        for (option, mode, owner, admitted) in [
            (0o700, 0o700, user, true),
            (0o700, 0o755, user, true),
            (0o700, 0o755, 0, true),
            (0o700, 0o770, user, false),
            (0o700, 0o1777, 0, false),
            (0o700, 0o700, user + 1, false),
            (0o2770, 0o2770, user + 1, true),
            (0o2770, 0o2777, user, false),
            (0o2777, 0o2777, user + 1, true),
        ] {
            let found = rights(option, mode, owner);
            assert_eq!(found.is_ok(), admitted, "{option:o} {mode:o} {owner}: {found:?}");
        }
    }
}
