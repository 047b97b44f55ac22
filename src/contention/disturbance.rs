//! [`Watch`]: whether something else used the machine, or slowed it down, while we measured.

use super::report::Machine;
use super::system::{process_cpu_time, processors};
use super::work::calibrate;
use std::fs;
use std::time::Duration;

/// Others may use so much of our processors' time before it is worth a word.
const OTHERS: f64 = 0.05;
/// So much may be stolen by the host of a virtual machine.
const STOLEN: f64 = 0.02;
/// A unit of work may change by so much.
const DRIFT: f64 = 0.05;

/// What the machine had done when we began.
pub(super) struct Watch {
    unit_ns: f64,
    load_average: Option<f64>,
    processors: usize,
    before: Option<Use>,
}

/// What the processors that we may use have been used for since the machine started, in seconds.
#[derive(Clone, Copy)]
struct Use {
    /// By whomever, what the host has stolen not counted.
    busy: f64,
    stolen: f64,
    /// All of it, idle time too.
    all: f64,
    /// By this process.
    own: f64,
}

impl Watch {
    pub(super) fn start(machine: &Machine) -> Watch {
        Watch {
            unit_ns: machine.unit_ns,
            load_average: machine.load_average,
            processors: machine.processors,
            before: Use::read(),
        }
    }

    /// What makes the figures doubtful, a sentence each.
    pub(super) fn warnings(&self) -> Vec<String> {
        let mut found = match (self.before, Use::read()) {
            (Some(before), Some(after)) => busy(before, after),
            _ => busy_at_start(self.load_average, self.processors),
        };
        found.extend(drift(self.unit_ns, calibrate()));
        found
    }
}

impl Use {
    fn read() -> Option<Use> {
        let own = process_cpu_time()?;
        Use::parse(&fs::read_to_string("/proc/stat").ok()?, &processors(), own)
    }

    /// Of these processors, from the text of `/proc/stat`: see proc_stat(5). Its unit is a hundredth
    /// of a second, whatever the kernel's own.
    fn parse(text: &str, processors: &[usize], own: Duration) -> Option<Use> {
        let names: Vec<String> = processors.iter().map(|number| format!("cpu{number}")).collect();
        let mut sum = Use { busy: 0.0, stolen: 0.0, all: 0.0, own: own.as_secs_f64() };
        let mut found = 0;
        for line in text.lines() {
            let mut fields = line.split_whitespace();
            if !fields.next().is_some_and(|name| names.iter().any(|known| known == name)) {
                continue;
            }
            let fields: Vec<f64> = fields.map_while(|field| field.parse().ok()).collect();
            // A guest's time is in user, too.
            let [user, nice, system, idle, iowait, irq, softirq, stolen] = *fields.first_chunk()?;
            let busy = user + nice + system + irq + softirq;
            sum.busy += busy / 100.0;
            sum.stolen += stolen / 100.0;
            sum.all += (busy + stolen + idle + iowait) / 100.0;
            found += 1;
        }
        (found > 0).then_some(sum)
    }
}

fn busy(before: Use, after: Use) -> Vec<String> {
    let mut found = vec![];
    let all = after.all - before.all;
    // The kernel counts in hundredths of a second: less than half a second tells nothing.
    if all < 0.5 {
        return found;
    }
    let others = (after.busy - before.busy - (after.own - before.own)) / all;
    if others > OTHERS {
        found.push(format!(
            "busy machine: other processes used {:.0} % of its processors meanwhile; \
             stop them and measure again",
            100.0 * others
        ));
    }
    let stolen = (after.stolen - before.stolen) / all;
    if stolen > STOLEN {
        found.push(format!(
            "busy host: it took {:.0} % of this virtual machine's processors meanwhile; \
             measure again, or elsewhere",
            100.0 * stolen
        ));
    }
    found
}

/// Where the system does not tell who used the processors: what it says about the last minute.
fn busy_at_start(load_average: Option<f64>, processors: usize) -> Vec<String> {
    let load = load_average.unwrap_or(0.0);
    if load <= 0.5 * processors as f64 {
        return vec![];
    }
    vec![format!(
        "busy machine: a load average of {load:.1} on {processors} processors at the start; \
         stop other processes and measure again"
    )]
}

/// Whether a unit of work takes another time than at first.
fn drift(first_ns: f64, last_ns: f64) -> Option<String> {
    let change = last_ns / first_ns - 1.0;
    let percent = 100.0 * change.abs();
    if change > DRIFT {
        Some(format!(
            "slower processor: the same work took {percent:.0} % longer at the end (heat, saving \
             power, or other work beside it); let it cool down and measure again"
        ))
    } else if change < -DRIFT {
        Some(format!(
            "faster processor: the same work took {percent:.0} % less at the end, so all work was \
             shorter than stated; measure again"
        ))
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used(busy: f64, stolen: f64, all: f64, own: f64) -> Use {
        Use { busy, stolen, all, own }
    }

    #[test]
    fn the_kernel_s_lines_of_our_processors_are_understood() {
        let text = "cpu  9 9 9 9 9 9 9 9\ncpu0 100 25 25 4000 50 25 25 75 9 0\n\
                    cpu1 0 0 0 0 0 0 0 0\ncpu2 100 0 0 0 0 0 0 25\ncpu10 9 9 9 9 9 9 9 9\nintr 1";
        let read = |processors: &[usize]| Use::parse(text, processors, Duration::from_secs(1));
        let first = read(&[0]).expect("it is there");
        assert_eq!([first.busy, first.stolen, first.all, first.own], [2.0, 0.75, 43.25, 1.0]);
        let both = read(&[0, 2]).expect("they are there");
        assert_eq!([both.busy, both.stolen, both.all], [3.0, 1.0, 44.5]);
        assert!(read(&[]).is_none() && read(&[7]).is_none());
        assert!(Use::parse("cpu0 1 2 3", &[0], Duration::ZERO).is_none(), "too short");
    }

    #[test]
    fn only_others_make_a_machine_busy() {
        let start = used(10.0, 0.0, 100.0, 5.0);
        assert!(busy(start, used(18.0, 0.0, 110.0, 13.0)).is_empty(), "it was us");
        let found = busy(start, used(18.0, 0.0, 110.0, 10.0));
        assert!(found.len() == 1 && found[0].contains("30 %"), "{found:?}");
        let found = busy(start, used(15.0, 1.0, 110.0, 10.0));
        assert!(found.len() == 1 && found[0].contains("10 %"), "{found:?}");
        assert!(busy(start, used(10.4, 0.0, 100.4, 5.0)).is_empty(), "too short to tell");
    }

    #[test]
    fn where_nothing_else_is_known_the_load_average_counts() {
        assert!(busy_at_start(None, 2).is_empty());
        assert!(busy_at_start(Some(0.9), 2).is_empty());
        assert_eq!(busy_at_start(Some(1.1), 2).len(), 1);
    }

    #[test]
    fn a_processor_that_changes_is_noticed() {
        assert_eq!(drift(1.0, 1.04), None);
        assert!(drift(1.0, 1.10).is_some_and(|text| text.contains("10 % longer")));
        assert!(drift(1.0, 0.90).is_some_and(|text| text.contains("10 % less")));
    }
}
