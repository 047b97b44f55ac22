//! [`Topology`]: how the processors of a machine lie to each other, which decides what a contended lock costs.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;

/// How the processors that this process may use lie to each other, as far as Linux tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The number of cores. If there are more processors, several of them share one (SMT).
    pub cores: usize,
    /// The number of packages (sockets).
    pub packages: usize,
    /// The number of NUMA nodes.
    pub nodes: usize,
    /// The caches of the first processor, from the nearest on.
    pub caches: Vec<Cache>,
    /// Whether a hypervisor says that it runs the machine. Its processors may then be threads of the host, which others use too.
    pub is_virtual: bool,
}

/// A cache of a processor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cache {
    /// The level and the kind: `L1d`, `L1i`, `L2`.
    pub name: String,
    /// The size as the kernel writes it: `48K`.
    pub size: String,
    /// How many of the processors share it.
    pub shared_by: usize,
}

impl Topology {
    /// Reads the topology of these processors; `None` where the system does not tell.
    #[must_use]
    pub fn read(processors: &[usize]) -> Option<Topology> {
        let flags = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        Topology::of(Path::new("/sys/devices/system"), &flags, processors)
    }

    /// Reads it from a folder like `/sys/devices/system` (sysfs-devices-system-cpu in the kernel's documentation of its
    /// ABI), and from the text of `/proc/cpuinfo`.
    fn of(system: &Path, cpuinfo: &str, processors: &[usize]) -> Option<Topology> {
        let text = |path: String| {
            fs::read_to_string(system.join(path)).ok().map(|text| text.trim().to_owned())
        };
        let (mut cores, mut packages) = (BTreeSet::new(), BTreeSet::new());
        for cpu in processors {
            // All processors of a core have the same list.
            cores.insert(text(format!("cpu/cpu{cpu}/topology/thread_siblings_list"))?);
            packages.insert(text(format!("cpu/cpu{cpu}/topology/physical_package_id"))?);
        }
        let first = processors.first()?;
        let cache = |index| {
            let of = |what: &str| text(format!("cpu/cpu{first}/cache/index{index}/{what}"));
            let kind = match of("type")?.as_str() {
                "Data" => "d",
                "Instruction" => "i",
                _ => "",
            };
            let sharing = numbers(&of("shared_cpu_list")?);
            Some(Cache {
                name: format!("L{}{kind}", of("level")?),
                size: of("size")?,
                shared_by: processors.iter().filter(|cpu| sharing.contains(cpu)).count(),
            })
        };
        let has_one = |node: &usize| {
            text(format!("node/node{node}/cpulist"))
                .is_some_and(|list| numbers(&list).iter().any(|cpu| processors.contains(cpu)))
        };
        let nodes = text("node/possible".to_owned()).map_or(vec![], |list| numbers(&list));
        let flags = cpuinfo.lines().find(|line| line.starts_with("flags"));
        Some(Topology {
            cores: cores.len(),
            packages: packages.len(),
            nodes: nodes.iter().filter(|node| has_one(node)).count().max(1),
            caches: (0..).map_while(cache).collect(),
            is_virtual: flags
                .is_some_and(|flags| flags.split(' ').any(|flag| flag == "hypervisor")),
        })
    }
}

/// `0-3,8` as numbers.
fn numbers(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (first.trim().parse().ok()?, last.trim().parse::<usize>().ok()?);
        Some(first..=last)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// As `16 cores in 2 packages, 2 NUMA nodes, virtual`.
impl fmt::Display for Topology {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = |number, what| format!("{number} {what}{}", if number == 1 { "" } else { "s" });
        write!(f, "{} in {}", count(self.cores, "core"), count(self.packages, "package"))?;
        if self.nodes > 1 {
            write!(f, ", {}", count(self.nodes, "NUMA node"))?;
        }
        f.write_str(if self.is_virtual { ", a virtual machine" } else { "" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_with_two_packages_is_read() {
        let system = std::env::temp_dir().join(format!("lockword-topology-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let path = system.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        // Two packages with two cores each, and two threads on each core.
        for cpu in 0..8 {
            let topology = format!("cpu/cpu{cpu}/topology");
            let siblings = format!("{},{}\n", cpu % 4, cpu % 4 + 4);
            write(&format!("{topology}/thread_siblings_list"), &siblings);
            write(&format!("{topology}/physical_package_id"), &format!("{}\n", cpu % 4 / 2));
        }
        for (index, (kind, level, size, cpus)) in
            [("Data", 1, "48K", "0,4"), ("Unified", 3, "32768K", "0-1,4-5")].iter().enumerate()
        {
            let cache = format!("cpu/cpu0/cache/index{index}");
            write(&format!("{cache}/type"), kind);
            write(&format!("{cache}/level"), &level.to_string());
            write(&format!("{cache}/size"), size);
            write(&format!("{cache}/shared_cpu_list"), cpus);
        }
        write("node/possible", "0-1\n");
        write("node/node0/cpulist", "0-1,4-5\n");
        write("node/node1/cpulist", "2-3,6-7\n");
        let of =
            |processors: &[usize]| Topology::of(&system, "flags : fpu hypervisor\n", processors);
        let all = of(&[0, 1, 2, 3, 4, 5, 6, 7]).unwrap();
        assert_eq!(all.to_string(), "4 cores in 2 packages, 2 NUMA nodes, a virtual machine");
        let caches: Vec<_> =
            all.caches.iter().map(|it| (&*it.name, &*it.size, it.shared_by)).collect();
        assert_eq!(caches, [("L1d", "48K", 2), ("L3", "32768K", 4)]);
        // Of what the process may use.
        let one = of(&[0]).unwrap();
        assert_eq!((one.cores, one.packages, one.nodes, one.caches[1].shared_by), (1, 1, 1, 1));
        assert_eq!((of(&[9]), of(&[])), (None, None));
        fs::remove_dir_all(&system).unwrap();
    }
}
