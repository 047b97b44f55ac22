//! A server process that a test starts, stops, kills and starts again, on a free loopback port and with
//! its data in a folder of its own. It ends with the test.

use super::namespace::Namespace;
use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use std::{env, io, process, thread};

/// How long a server may take until it is ready.
const LIMIT: Duration = Duration::from_secs(60);

/// The server's program, from `PATH` or from one of the folders `also_in`.
///
/// `None`, and a line on standard error, if it is not installed: the test has to be skipped. With
/// `LOCKWORD_ENGINES=required` in the environment it panics then.
pub fn find(program: &str, also_in: &[&str]) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(also_in.iter().map(PathBuf::from));
    let found = folders.map(|folder| folder.join(program)).find(|file| file.is_file());
    if found.is_none() {
        let required = env::var("LOCKWORD_ENGINES").is_ok_and(|value| value == "required");
        assert!(!required, "{program} is not installed, and LOCKWORD_ENGINES=required");
        eprintln!("skipped: {program} is not installed");
    }
    found
}

/// A port of the loopback interface that is free, and that no other test gets, of this process or of
/// another, while this process lives.
///
/// It is below those that the system gives to clients, so that no client takes it while its server
/// is down.
pub fn free_port() -> u16 {
    loop {
        let port = fastrand::u16(10_000..32_000);
        if reserve(port) && TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Reserves the port for this process, by the name of a socket that ends with the process. Returns
/// whether it was free.
#[cfg(target_os = "linux")]
fn reserve(port: u16) -> bool {
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::net::{SocketAddr, UnixListener};
    static RESERVED: Mutex<Vec<UnixListener>> = Mutex::new(vec![]);
    let name = SocketAddr::from_abstract_name(format!("lockword-tests-{port}"));
    match UnixListener::bind_addr(&name.expect("a short name")) {
        Ok(reserved) => RESERVED.lock().unwrap().push(reserved),
        Err(_) => return false,
    }
    true
}

#[cfg(not(target_os = "linux"))]
fn reserve(_: u16) -> bool {
    true
}

/// A new empty folder for temporary files, which is removed with all that is in it. Its path is short
/// enough for a socket in it.
pub struct Folder(PathBuf);

impl Folder {
    /// A folder with `name` in its own name.
    pub fn new(name: &str) -> Self {
        let unique = format!("lockword-{name}-{}-{:08x}", process::id(), fastrand::u32(..));
        let path = env::temp_dir().join(unique);
        fs::create_dir(&path).expect("a folder for temporary files");
        Self(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The path of a file in it.
    #[allow(dead_code, reason = "not every engine needs it")]
    pub fn file(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("the path is text").to_owned()
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // A server that was killed may have children that still write for a moment.
        let end = Instant::now() + Duration::from_secs(5);
        while let Err(error) = fs::remove_dir_all(&self.0)
            && error.kind() != io::ErrorKind::NotFound
            && Instant::now() < end
        {
            thread::sleep(Duration::from_millis(5));
        }
    }
}

/// A server process. It is killed when this is dropped, and when the test's process ends in any way.
pub struct ServerProcess {
    name: String,
    command: Box<dyn Fn() -> Command + Send + Sync>,
    ready: Box<dyn Fn() -> Result<(), String> + Send + Sync>,
    log: PathBuf,
    namespace: Arc<Namespace>,
    child: Mutex<Option<Child>>,
}

impl ServerProcess {
    /// Starts `command`, whose output is appended to `log`, and waits until `ready` says so.
    ///
    /// `ready` is called again and again; it must not wait long. Panics if the process ends before,
    /// or is not ready in time, with the end of its output.
    pub fn start(
        name: &str,
        log: &Path,
        command: impl Fn() -> Command + Send + Sync + 'static,
        ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        Self::start_at(Namespace::here(), name, log, command, ready)
    }

    /// The same as [`start`](Self::start), in this namespace.
    pub fn start_at(
        namespace: Arc<Namespace>,
        name: &str,
        log: &Path,
        command: impl Fn() -> Command + Send + Sync + 'static,
        ready: impl Fn() -> Result<(), String> + Send + Sync + 'static,
    ) -> Self {
        let process = Self {
            name: name.to_owned(),
            command: Box::new(command),
            ready: Box::new(ready),
            log: log.to_owned(),
            namespace,
            child: Mutex::new(None),
        };
        process.restart();
        process
    }

    /// Starts it again, after it was killed if it runs, and waits until it is ready.
    pub fn restart(&self) {
        self.spawn();
        self.wait_until_ready();
    }

    /// Starts it again, after it was killed if it runs; it need not be ready yet.
    pub fn spawn(&self) {
        self.kill9();
        let log = File::options().create(true).append(true).open(&self.log).expect("a log file");
        let mut command = (self.command)();
        command.stdin(Stdio::null());
        command.stdout(log.try_clone().expect("a second handle")).stderr(log);
        // Its own group: Ctrl-C at the terminal is for the test, not for the server.
        command.process_group(0);
        let child =
            self.namespace.spawn(command).unwrap_or_else(|error| panic!("{}: {error}", self.name));
        *self.child.lock().unwrap() = Some(child);
    }

    /// Waits until it is ready. Panics as [`ServerProcess::start`] does.
    pub fn wait_until_ready(&self) {
        let end = Instant::now() + LIMIT;
        while let Err(why) = (self.ready)() {
            if let Some(status) = self.ended() {
                panic!("{} ended ({status}) before it was ready:\n{}", self.name, self.log());
            }
            let late = Instant::now() > end;
            assert!(!late, "{} is not ready ({why}):\n{}", self.name, self.log());
            thread::sleep(Duration::from_millis(2));
        }
    }

    /// Kills it and its children (SIGKILL), and waits until it is dead. No harm if it is already.
    pub fn kill9(&self) {
        let Some(mut child) = self.child.lock().unwrap().take() else { return };
        let family = halted_family(child.id());
        // The children first: without their parent they would have time to tidy up. It is halted,
        // and does not put new ones in their namespace.
        family.iter().skip(1).for_each(|id| signal(*id, libc::SIGKILL));
        child.kill().expect("the server's process can be killed");
        child.wait().expect("a child can be waited for");
        // One that still dies would be in the way of the next server.
        family.iter().for_each(|id| wait_for_state(*id, "ZX"));
    }

    /// Stops it and its children (SIGSTOP) until [`ServerProcess::cont`], and waits until no thread of
    /// theirs runs any more.
    pub fn stop(&self) {
        let child = self.child.lock().unwrap();
        halted_family(child.as_ref().expect("the server runs").id());
    }

    /// Continues it and its children (SIGCONT).
    pub fn cont(&self) {
        self.signal(libc::SIGCONT);
    }

    /// Sends a signal to it and its children.
    pub fn signal(&self, number: i32) {
        let child = self.child.lock().unwrap();
        let child = child.as_ref().expect("the server runs");
        family(child.id()).iter().for_each(|id| signal(*id, number));
    }

    /// Its exit status, if it has ended by itself.
    pub fn ended(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().unwrap();
        child.as_mut().expect("the server was started").try_wait().expect("a child of ours")
    }

    /// The end of its output.
    pub fn log(&self) -> String {
        let mut text = Vec::new();
        if let Ok(mut file) = File::open(&self.log) {
            let len = file.metadata().map_or(0, |data| data.len());
            let _ = file.seek(SeekFrom::Start(len.saturating_sub(4000)));
            let _ = file.read_to_end(&mut text);
        }
        String::from_utf8_lossy(&text).into_owned()
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        self.kill9();
    }
}

/// The same as [`family`], after all of it was halted, so that it has no more children.
fn halted_family(id: u32) -> Vec<u32> {
    let mut halted: Vec<u32> = vec![];
    loop {
        let mut new = family(id);
        new.retain(|id| !halted.contains(id));
        if new.is_empty() {
            return halted;
        }
        new.iter().for_each(|id| signal(*id, libc::SIGSTOP));
        new.iter().for_each(|id| wait_for_state(*id, "TZX"));
        halted.extend(new);
    }
}

/// Waits until all threads of the process are in one of these states, or are gone. A signal stops or
/// kills one after the other.
fn wait_for_state(id: u32, states: &str) {
    let end = Instant::now() + LIMIT;
    let threads = || fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    loop {
        let stats = threads().map(|thread| fs::read_to_string(thread.path().join("stat")));
        let stats: Vec<String> = stats.filter_map(Result::ok).collect();
        let state =
            |stat: &String| stat.rsplit(')').next()?.split_whitespace().next()?.chars().next();
        if stats.iter().filter_map(state).all(|state| states.contains(state)) {
            return;
        }
        assert!(Instant::now() < end, "process {id} does not end, or halt: {stats:?}");
        thread::sleep(Duration::from_millis(1));
    }
}

/// The process and its children, and theirs. Only itself where there is no `/proc`.
fn family(id: u32) -> Vec<u32> {
    let mut parents: Vec<(u32, u32)> = vec![];
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(child) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // "id (name) state parent ..", and the name may have anything in it.
        let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1));
        if let Some(parent) = parent.and_then(|parent| parent.parse().ok()) {
            parents.push((child, parent));
        }
    }
    let mut family = vec![id];
    let mut next = 0;
    while next < family.len() {
        let parent = family[next];
        family.extend(parents.iter().filter(|(_, p)| *p == parent).map(|(child, _)| *child));
        next += 1;
    }
    family
}

fn signal(id: u32, number: i32) {
    let id = i32::try_from(id).expect("a process id");
    // SAFETY: a signal to a process; if it has gone there is an error, which does not matter.
    unsafe { libc::kill(id, number) };
}
