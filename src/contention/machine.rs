//! Reads what there is to know about the machine.

use super::report::Machine;
use super::work::unit_ns;
use std::fmt;
use std::fs;

impl Machine {
    /// This machine, now. The first call in a process calibrates [`unit_ns`], too.
    #[must_use]
    pub fn read() -> Machine {
        let text = |path: &str| fs::read_to_string(path).ok();
        let first = |text: String| Some(text.split_whitespace().next()?.to_owned());
        Machine {
            cpu: text("/proc/cpuinfo").and_then(|text| processor_name(&text)),
            processors: std::thread::available_parallelism().map_or(1, usize::from),
            system: system(),
            architecture: std::env::consts::ARCH.to_owned(),
            governor: text("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor").and_then(first),
            load_average: text("/proc/loadavg").and_then(first).and_then(|load| load.parse().ok()),
            unit_ns: unit_ns(),
        }
    }
}

/// In a few words, for the head of a table.
impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Machine { processors, architecture, system, .. } = self;
        let plural = if *processors == 1 { "" } else { "s" };
        let cpu = self.cpu.as_deref().unwrap_or("unknown");
        write!(f, "{processors} processor{plural} ({cpu}), {architecture}, {system}")
    }
}

/// The name of the first processor in the text of `/proc/cpuinfo`.
fn processor_name(text: &str) -> Option<String> {
    let value = |key: &str| {
        let line = text.lines().find(|line| line.starts_with(key))?;
        Some(line.split_once(':')?.1.trim().to_owned())
    };
    value("model name").or_else(|| value("Model")).or_else(|| value("Hardware"))
}

/// The operating system, and its kernel's release where it tells.
fn system() -> String {
    let name = std::env::consts::OS;
    match fs::read_to_string("/proc/sys/kernel/osrelease") {
        Ok(release) => format!("{name} {}", release.trim()),
        Err(_) => name.to_owned(),
    }
}

#[test]
fn the_processor_has_a_name() {
    let text = "processor\t: 0\nmodel name\t: Some CPU @ 2 GHz\n\nmodel name\t: Other";
    assert_eq!(processor_name(text).as_deref(), Some("Some CPU @ 2 GHz"));
    assert_eq!(processor_name("Hardware\t: A board").as_deref(), Some("A board"));
    assert_eq!(processor_name(""), None);
}
