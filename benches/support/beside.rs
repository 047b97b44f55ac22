//! Busy processes that run beside a measurement, on the same processors.
//!
//! They are copies of the bench itself: a copy that finds the variable [`BUSY`] in its environment
//! computes until its standard input ends, which it does when the bench ends, however it ends. They
//! are processes and not threads, so that the CPU time of the bench does not include theirs.

use std::hint::black_box;
use std::io::Read as _;
use std::process::{Child, Command, Stdio};
use std::thread;

use lockword::contention::{system, work};

/// Tells a copy of the bench to be busy, and on which processor; without a number on any.
const BUSY: &str = "LOCKWORD_BENCH_BUSY";

/// Busy processes. They end when this is dropped.
pub struct BusyProcesses(Vec<Child>);

impl BusyProcesses {
    /// Starts `count` of them, each bound to one of the processors of the calling thread, in turn.
    ///
    /// # Panics
    ///
    /// If the system does not start a process.
    pub fn start(count: usize) -> Self {
        BusyProcesses::bound_to(count, &system::processors())
    }

    /// Starts one that is not bound to a processor.
    ///
    /// # Panics
    ///
    /// If the system does not start a process.
    pub fn anywhere() -> Self {
        BusyProcesses::bound_to(1, &[])
    }

    fn bound_to(count: usize, processors: &[usize]) -> Self {
        let program = std::env::current_exe().expect("the path of this bench");
        let start = |number: usize| {
            let processor = processors.get(number % processors.len().max(1));
            Command::new(&program)
                .env(BUSY, processor.map_or_else(String::new, usize::to_string))
                .stdin(Stdio::piped())
                .stdout(Stdio::null())
                .spawn()
                .expect("a copy of this bench")
        };
        BusyProcesses((0..count).map(start).collect())
    }
}

impl Drop for BusyProcesses {
    fn drop(&mut self) {
        for process in &mut self.0 {
            // It fails only if the process has ended.
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// In a copy that is to be busy: computes until standard input ends, and never returns. Elsewhere
/// it returns at once.
pub fn be_busy_if_asked() {
    let Ok(processor) = std::env::var(BUSY) else { return };
    if let Ok(processor) = processor.parse() {
        system::pin(&[processor]);
    }
    thread::spawn(|| {
        let _ = std::io::stdin().read(&mut [0]);
        std::process::exit(0);
    });
    let mut state = 0;
    loop {
        state = work(black_box(state), 1_000_000);
    }
}
