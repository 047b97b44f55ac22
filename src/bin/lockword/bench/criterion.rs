//! A report as a folder of criterion's: `LOAD/LOCK/base` and `LOAD/LOCK/new`, each with `benchmark.json`, `sample.json` and
//! `estimates.json`, for tools that read it (`critcmp`, for one). The figure is nanoseconds for an acquisition, of all threads
//! together; each round is a sample.
//!
//! The intervals of the median are those of the table. Those of the mean and of the standard deviation, which criterion finds
//! by resampling, are of the normal distribution here.

use super::summary::median_of;
use crate::CliError;
use crate::output::printable;
use lockword::contention::{ComparisonReport, LockReport};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// Refuses a folder that cannot be made.
///
/// # Errors
///
/// Why it cannot.
pub fn check(folder: &Path) -> Result<(), CliError> {
    if folder == Path::new("-") {
        return Err(CliError::new("--criterion takes a folder, and - is none"));
    }
    fs::create_dir_all(folder).map_err(|error| cannot(folder, &error))?;
    // Whether something can be made in it shows by doing so.
    let probe = folder.join(format!(".lockword.{}.tmp", std::process::id()));
    fs::create_dir(&probe)
        .and_then(|()| fs::remove_dir(&probe))
        .map_err(|error| cannot(folder, &error))
}

/// Writes the report to the folder. Figures of other loads and locks in it stay.
///
/// # Errors
///
/// Which file cannot be written, and why.
pub fn write(report: &ComparisonReport, folder: &Path) -> Result<(), CliError> {
    for cell in &report.cells {
        for lock in &cell.locks {
            let Some(files) = files(&cell.name, lock) else { continue };
            for baseline in ["base", "new"] {
                let folder =
                    folder.join(file_name(&cell.name)).join(file_name(&lock.lock)).join(baseline);
                fs::create_dir_all(&folder).map_err(|error| cannot(&folder, &error))?;
                for (name, content) in &files {
                    let path = folder.join(name);
                    fs::write(&path, content.to_string()).map_err(|error| cannot(&path, &error))?;
                }
            }
        }
    }
    Ok(())
}

/// The files of a lock under a load; `None` if it was never acquired.
fn files(load: &str, lock: &LockReport) -> Option<[(&'static str, Value); 3]> {
    let acquired = || lock.samples.iter().filter(|sample| sample.total() > 0);
    let iters: Vec<f64> = acquired().map(|sample| sample.total() as f64).collect();
    let times: Vec<f64> = acquired().map(|sample| sample.elapsed_ns).collect();
    let each: Vec<f64> = times.iter().zip(&iters).map(|(time, count)| time / count).collect();
    let median = median_of(&each)?;
    let count = each.len() as f64;
    let mean = each.iter().sum::<f64>() / count;
    let squares: f64 = each.iter().map(|ns| (ns - mean).powi(2)).sum();
    let deviation = (squares / (count - 1.0).max(1.0)).sqrt();
    let distances: Vec<f64> = each.iter().map(|ns| (ns - median.mid).abs()).collect();
    let spread = median_of(&distances)?;
    let normal =
        |value: f64, error: f64| estimate(value, value - 1.96 * error, value + 1.96 * error);
    let id = format!("{load}/{}", lock.lock);
    let directory = format!("{}/{}", file_name(load), file_name(&lock.lock));
    Some([
        (
            "benchmark.json",
            json!({
                "group_id": load, "function_id": lock.lock, "value_str": null, "throughput": null,
                "full_id": id, "directory_name": directory, "title": id,
            }),
        ),
        ("sample.json", json!({ "sampling_mode": "Flat", "iters": iters, "times": times })),
        (
            "estimates.json",
            json!({
                "mean": normal(mean, deviation / count.sqrt()),
                "median": estimate(median.mid, median.low, median.high),
                "median_abs_dev": estimate(spread.mid, spread.low, spread.high),
                "slope": null,
                "std_dev": normal(deviation, deviation / (2.0 * count).sqrt()),
            }),
        ),
    ])
}

fn estimate(value: f64, low: f64, high: f64) -> Value {
    json!({
        "confidence_interval": { "confidence_level": 0.95, "lower_bound": low, "upper_bound": high },
        "point_estimate": value,
        "standard_error": (high - low) / (2.0 * 1.96),
    })
}

/// A name as that of a file, with nothing that a file system refuses. Two loads with one such name would take each other's
/// place, so a long one keeps its end, where loads differ. The name in `benchmark.json` is whole.
fn file_name(name: &str) -> String {
    /// Bytes. File systems have 255.
    const MOST: usize = 200;
    let name = name.replace(|c: char| "?\"/\\*<>:|^".contains(c) || c.is_control(), "_");
    let skip = name.len().saturating_sub(MOST);
    let name: String = name.char_indices().filter(|(at, _)| *at >= skip).map(|(_, c)| c).collect();
    match name.trim_matches(|c| c == ' ' || c == '.') {
        "" => "_".to_owned(),
        name => name.to_owned(),
    }
}

fn cannot(path: &Path, error: &std::io::Error) -> CliError {
    CliError::new(format!("cannot write {}: {error}", printable(&path.to_string_lossy())))
}

#[cfg(test)]
mod tests {
    use super::super::summary::sample::lock;
    use super::*;

    #[test]
    fn a_lock_has_nanoseconds_for_an_acquisition() {
        let [(_, benchmark), (_, sample), (_, estimates)] =
            files("8 threads, 1/1 ns", &lock("std", 2e6, 0.0)).unwrap();
        assert_eq!(benchmark["full_id"], "8 threads, 1/1 ns/std");
        assert_eq!(benchmark["directory_name"], "8 threads, 1_1 ns/std");
        assert_eq!(
            sample["iters"].as_array().unwrap().len(),
            sample["times"].as_array().unwrap().len()
        );
        for figure in ["mean", "median"] {
            let ns = estimates[figure]["point_estimate"].as_f64().unwrap();
            assert!((490.0..520.0).contains(&ns), "{figure}: {ns}");
        }
        let mut never = lock("std", 2e6, 0.0);
        never.samples.iter_mut().for_each(|sample| sample.acquisitions.fill(0));
        assert!(files("load", &never).is_none());
    }

    #[test]
    fn no_name_leads_out_of_the_folder() {
        for (name, file) in
            [("a/b", "a_b"), ("..", "_"), ("../x", "_x"), ("", "_"), ("a\\b:c", "a_b_c")]
        {
            assert_eq!(file_name(name), file);
        }
        let long = |end: &str| file_name(&format!("{}{end}", "\u{1f512}".repeat(64)));
        assert!(long("1").len() <= 200 && long("1") != long("2"));
    }
}
