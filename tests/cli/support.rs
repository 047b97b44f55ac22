//! Starts the program, and has a folder for each test.

use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// The program with these arguments, without the caller's variables that affect colours.
pub fn lockword(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_lockword"));
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE", "TERM", "CI"] {
        command.env_remove(name);
    }
    command.args(arguments);
    command
}

/// `lockword bench` with a load that takes some milliseconds, and these arguments. Without
/// `--rounds` among them it is one round, without `--locks` it is lockword and std.
pub fn bench(arguments: &[&str]) -> Command {
    let mut command = lockword(&["bench", "--inside", "10", "--outside", "10", "--slice", "2"]);
    if !arguments.contains(&"--threads") {
        command.args(["--threads", "2"]);
    }
    if !arguments.contains(&"--rounds") {
        command.args(["--rounds", "1"]);
    }
    if !arguments.contains(&"--locks") {
        command.args(["--locks", "lockword,std"]);
    }
    command.args(arguments);
    command
}

/// Changes each sample of a report. `change` is given the name of the lock and the sample.
pub fn change_samples(report: &mut Value, mut change: impl FnMut(&str, &mut Value)) {
    for cell in report["cells"].as_array_mut().expect("it is a report") {
        for lock in cell["locks"].as_array_mut().expect("it is a report") {
            let name = lock["lock"].as_str().expect("it is a report").to_owned();
            lock["samples"]
                .as_array_mut()
                .expect("it is a report")
                .iter_mut()
                .for_each(|s| change(&name, s));
        }
    }
}

/// Runs the command to its end.
pub fn run(mut command: Command) -> Output {
    command.output().expect("the program starts")
}

/// The exit status.
pub fn status(output: &Output) -> i32 {
    output.status.code().expect("no signal ended it")
}

/// The text on standard output.
pub fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("it prints UTF-8")
}

/// The text on standard error.
pub fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("it prints UTF-8")
}

/// A folder for one test.
pub struct Folder(PathBuf);

impl Folder {
    /// Creates an empty folder of this name.
    pub fn new(name: &str) -> Folder {
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join("cli").join(name);
        let _ = fs::remove_dir_all(&path);
        fs::create_dir_all(&path).expect("the folder is writable");
        Folder(path)
    }

    /// A path in it, as an argument.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("the name is UTF-8").to_owned()
    }

    /// Writes a file, and returns its path.
    pub fn write(&self, name: &str, text: &str) -> String {
        let path = self.path(name);
        fs::write(&path, text).expect("the folder is writable");
        path
    }

    /// The text of a file.
    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).expect("the file is there")
    }

    /// A file as JSON.
    pub fn json(&self, name: &str) -> Value {
        serde_json::from_str(&self.read(name)).expect("the file is JSON")
    }

    /// The names of all files, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = fs::read_dir(&self.0).expect("the folder is readable");
        let mut names: Vec<String> = entries
            .map(|entry| entry.expect("readable").file_name().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    /// Runs a tiny bench, and returns the path of its report.
    pub fn measure(&self, name: &str, arguments: &[&str]) -> String {
        let path = self.path(name);
        let output = run(bench(&[&["--json", &path], arguments].concat()));
        assert_eq!(status(&output), 0, "{}", stderr(&output));
        path
    }

    /// Runs a tiny bench, and writes its report as if nothing else had run: all samples are alike.
    /// Returns the path.
    pub fn quiet(&self, name: &str, arguments: &[&str]) -> String {
        self.measure(name, arguments);
        let mut report = self.json(name);
        let unit_ns = report["machine"]["unit_ns"].clone();
        change_samples(&mut report, |_, sample| {
            sample["elapsed_ns"] = json!(2e6);
            sample["acquisitions"] = json!([1000, 1000]);
            sample["conditions"] = json!({
                "unit_ns": unit_ns, "run_delay": 0.0, "most_run_delay": 0.0, "others_running": 0,
            });
        });
        self.write(name, &report.to_string())
    }
}
