//! Threads that start processes, in namespaces of their own if need be.
//!
//! A process has the namespaces of the thread that started it. They end with the last thread, process or
//! socket in them, however that ends: nothing has to be cleaned up.

use std::process::{Child, Command};
use std::sync::{Arc, OnceLock, mpsc};
use std::{fs, io, thread};

type Job = Box<dyn FnOnce() + Send>;

/// A thread that runs jobs until this is dropped. The processes that it has started end with it.
pub struct Namespace {
    jobs: mpsc::Sender<Job>,
}

/// What a namespace has for itself.
#[derive(Clone, Copy)]
pub enum Isolated {
    /// Network interfaces: none but a loopback that is down.
    Network,
    /// Mounts: those of the system, until some are added.
    Mounts,
}

impl Namespace {
    fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        thread::spawn(move || queue.into_iter().for_each(|job| job()));
        Self { jobs }
    }

    /// The namespace of the system. It is never dropped.
    pub fn here() -> Arc<Self> {
        static HERE: OnceLock<Arc<Namespace>> = OnceLock::new();
        HERE.get_or_init(|| Arc::new(Self::new())).clone()
    }

    /// A new namespace. An error: the system does not permit it.
    pub fn isolated(own: Isolated) -> io::Result<Arc<Self>> {
        let namespace = Self::new();
        namespace.run(move || unshare(own))?;
        Ok(Arc::new(namespace))
    }

    /// Runs a job in the namespace.
    pub fn run<T: Send + 'static>(&self, job: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, response) = mpsc::channel();
        let job = Box::new(move || sender.send(job()).expect("somebody waits"));
        self.jobs.send(job).expect("the thread lives");
        response.recv().expect("the thread answers")
    }

    /// Starts a process in the namespace. The kernel kills it when the thread ends, and so with this
    /// process.
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

    /// Runs a command line in the namespace, and waits for its end. An error has its output.
    pub fn run_command(&self, line: &str) -> Result<(), String> {
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

    /// The folder of the thread in `/proc`, for other processes.
    pub fn proc(&self) -> String {
        let path = self.run(|| fs::canonicalize("/proc/thread-self")).expect("Linux has that");
        path.to_str().expect("numbers").to_owned()
    }
}

#[cfg(target_os = "linux")]
fn unshare(own: Isolated) -> io::Result<()> {
    let flag = match own {
        Isolated::Network => libc::CLONE_NEWNET,
        Isolated::Mounts => libc::CLONE_NEWNS,
    };
    // SAFETY: it concerns this thread alone, which is the namespace's.
    match unsafe { libc::unshare(flag) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(not(target_os = "linux"))]
fn unshare(_: Isolated) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
