//! The faults, and their names.

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// SIGKILL to a process. Another one comes in its place.
    Kill,
    /// SIGSTOP to a process, and SIGCONT.
    Stop,
    /// A process shuts its node down and ends, while its tasks and threads use locks.
    Leave,
    /// The connections of a process break.
    Cut,
    /// All that goes between a process and the engine takes longer.
    Delay,
    /// A process and the engine do not hear each other.
    Block,
    /// One of them does not hear the other.
    Silence,
    /// The next answer to a process is lost, and the connection with it.
    Lose,
    /// SIGKILL to a server, or to the majority of them, and a new start.
    EngineKill,
    /// SIGSTOP to a server, or to the majority of them, and SIGCONT.
    EngineStop,
    /// Notices that something has changed.
    ForgeHint,
    /// Notices that make no sense.
    ForgeGarbage,
    /// Notices with an older register.
    ForgeOld,
    /// Notices that nobody holds the lock, with the present version or a larger one.
    ForgeFree,
    /// The clock of the machine runs faster or slower by up to 8.3 %, as `chronyd` may have it.
    ///
    /// All processes of the machine have the one clock: this shows that timers and deadlines go
    /// together, and not what becomes of two machines whose clocks differ.
    Slew,
}

/// Faults that happen one at a time. Those of different lanes overlap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lane {
    Processes,
    Network,
    Engine,
    Notices,
    Clock,
}

pub const LANES: [Lane; 5] =
    [Lane::Processes, Lane::Network, Lane::Engine, Lane::Notices, Lane::Clock];

/// All faults. `false`: it is off unless it is asked for.
pub const FAULTS: &[(Fault, &str, Lane, bool)] = &[
    (Fault::Kill, "kill", Lane::Processes, true),
    (Fault::Stop, "stop", Lane::Processes, true),
    (Fault::Leave, "leave", Lane::Processes, true),
    (Fault::Cut, "cut", Lane::Network, true),
    (Fault::Delay, "delay", Lane::Network, true),
    (Fault::Block, "block", Lane::Network, true),
    (Fault::Silence, "silence", Lane::Network, true),
    (Fault::Lose, "lose", Lane::Network, true),
    (Fault::EngineKill, "engine_kill", Lane::Engine, true),
    (Fault::EngineStop, "engine_stop", Lane::Engine, true),
    (Fault::ForgeHint, "forge_hint", Lane::Notices, true),
    (Fault::ForgeOld, "forge_old", Lane::Notices, true),
    (Fault::ForgeGarbage, "forge_garbage", Lane::Notices, true),
    (Fault::ForgeFree, "forge_free", Lane::Notices, true),
    // It concerns all that runs on the machine.
    (Fault::Slew, "slew", Lane::Clock, false),
];

/// Whether a name is selected by the environment variable: `a,b` selects these alone, `+a` and `-b` add
/// to and take from those that are on by default.
///
/// Panics if the variable has a name that is not one of `all`.
pub fn is_selected(variable: &str, all: &[&str], name: &str, default: bool) -> bool {
    let words = std::env::var(variable).unwrap_or_default();
    let words: Vec<&str> = words.split(',').map(str::trim).filter(|w| !w.is_empty()).collect();
    for word in &words {
        let known = all.contains(&word.trim_start_matches(['+', '-']));
        assert!(known, "{variable}: there is no {word:?}, but {all:?}");
    }
    let has = |sign: &str| words.iter().any(|word| word.strip_prefix(sign) == Some(name));
    let by_default = words.iter().all(|word| word.starts_with(['+', '-']));
    has("") || by_default && default && !has("-") || has("+")
}

/// Runs the clock of the machine faster or slower, from a process of its own that sets it right when
/// this one ends in any way.
pub mod clock {
    use std::io::{self, BufRead, BufReader, Write, stdin};
    use std::process::{Child, Command, Stdio};

    /// The environment variable by which a process is told to be the one that sets the clock.
    pub const ROLE: &str = "LOCKWORD_CHAOS_CLOCK";

    /// The length of a tick, in microseconds, of a clock that is right.
    const TICK: i64 = 10_000;

    /// The process that sets the clock.
    pub struct Keeper(Child);

    impl Keeper {
        /// `None`, and a line on standard error: the system does not permit it.
        pub fn start() -> Option<Self> {
            if let Err(error) = set_tick(TICK) {
                eprintln!("left out: slew: {error}");
                return None;
            }
            let exe = std::env::current_exe().expect("the path of this binary");
            let mut command = Command::new(exe);
            command.args(["--exact", super::super::CHILD, "--nocapture", "--test-threads=1"]);
            command.env(ROLE, "").stdin(Stdio::piped()).stdout(Stdio::null());
            Some(Self(command.spawn().expect("this binary starts again")))
        }

        /// From now on the clock runs faster by this part in ten thousand.
        pub fn slew(&mut self, by: i64) {
            let pipe = self.0.stdin.as_mut().expect("a pipe");
            writeln!(pipe, "{}", TICK + by).expect("it listens");
        }
    }

    impl Drop for Keeper {
        fn drop(&mut self) {
            // The end of the pipe is its end.
            drop(self.0.stdin.take());
            let _ = self.0.wait();
        }
    }

    /// The process that sets the clock: to what it reads, and right in the end.
    pub fn keep() {
        for line in BufReader::new(stdin()).lines().map_while(Result::ok) {
            let _ = set_tick(line.parse().expect("a number"));
        }
        set_tick(TICK).expect("it was permitted before");
    }

    fn set_tick(tick: i64) -> io::Result<()> {
        // SAFETY: all fields are numbers.
        let mut clock: libc::timex = unsafe { std::mem::zeroed() };
        clock.modes = libc::ADJ_TICK;
        clock.tick = tick;
        // SAFETY: the pointer is to a value of ours.
        match unsafe { libc::adjtimex(&raw mut clock) } {
            -1 => Err(io::Error::last_os_error()),
            _ => Ok(()),
        }
    }
}
