//! Where processes are started: by threads that live long enough, in namespaces of their own if need be.
//!
//! What a thread starts has its namespaces. They go with the last thread, process or socket in them,
//! however that ends: nothing has to be put away.

use std::process::{Child, Command};
use std::sync::{Arc, OnceLock, mpsc};
use std::{fs, io, thread};

type Job = Box<dyn FnOnce() + Send>;

/// A thread that does what it is told, until this is dropped. What it has started ends with it.
pub struct Namespace {
    jobs: mpsc::Sender<Job>,
}

/// What a namespace can have for itself.
#[derive(Clone, Copy)]
pub enum Own {
    /// Network interfaces: none but a loopback that is down.
    Network,
    /// Mounts: those of everybody, until some are added.
    Mounts,
}

impl Namespace {
    fn new() -> Self {
        let (jobs, told) = mpsc::channel::<Job>();
        thread::spawn(move || told.into_iter().for_each(|job| job()));
        Self { jobs }
    }

    /// That of everybody. It stays.
    pub fn here() -> Arc<Self> {
        static HERE: OnceLock<Arc<Namespace>> = OnceLock::new();
        HERE.get_or_init(|| Arc::new(Self::new())).clone()
    }

    /// One that is apart. An error: the system does not permit it.
    pub fn apart(own: Own) -> io::Result<Arc<Self>> {
        let namespace = Self::new();
        namespace.run(move || unshare(own))?;
        Ok(Arc::new(namespace))
    }

    /// Does it there.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, response) = mpsc::channel();
        let job = Box::new(move || sender.send(job()).expect("somebody waits"));
        self.jobs.send(job).expect("the thread lives");
        response.recv().expect("the thread answers")
    }

    /// Starts it there. The kernel kills it when the thread ends, and so with this process.
    pub fn spawn(&self, mut command: Command) -> io::Result<Child> {
        #[cfg(target_os = "linux")]
        // SAFETY: `prctl` is a system call and nothing else: it may be made between fork and exec.
        unsafe {
            use std::os::unix::process::CommandExt;
            command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                0 => Ok(()),
                _ => Err(io::Error::last_os_error()),
            })
        };
        self.run(move || command.spawn())
    }

    /// Runs a program there, and waits for its end. An error says what it said.
    pub fn tell(&self, line: &str) -> Result<(), String> {
        let mut words = line.split_whitespace().map(str::to_owned);
        let mut command = Command::new(words.next().expect("a program"));
        command.args(words);
        let done = self.run(move || command.output());
        let done = done.map_err(|error| format!("{line}: {error}"))?;
        match done.status.success() {
            true => Ok(()),
            false => Err(format!("{line}: {}", String::from_utf8_lossy(&done.stderr).trim())),
        }
    }

    /// The thread's folder in `/proc`, as others find it.
    pub fn proc(&self) -> String {
        let path = self.run(|| fs::canonicalize("/proc/thread-self")).expect("Linux has that");
        path.to_str().expect("numbers").to_owned()
    }
}

#[cfg(target_os = "linux")]
fn unshare(own: Own) -> io::Result<()> {
    let flag = match own {
        Own::Network => libc::CLONE_NEWNET,
        Own::Mounts => libc::CLONE_NEWNS,
    };
    // SAFETY: it concerns this thread alone, which is the namespace's.
    match unsafe { libc::unshare(flag) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
fn unshare(_: Own) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
