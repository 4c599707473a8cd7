// SPDX-License-Identifier: GPL-2.0
//! Tests of the tests: small wrong changes to the module, one at a time, each of which the tests
//! must notice. `make mutants`.
//!
//! Runs in a copy of the project that `scripts/mutants` makes. A mutant that passes the tests it is
//! expected to fail has the whole suite to pass before it counts as a survivor.

use std::{
    fs,
    path::Path,
    process::{Command, ExitCode, Output, Stdio},
    sync::Mutex,
};

use libtest_mimic::{Arguments, Failed, Trial};

mod list;

/// A wrong change to the module.
pub struct Mutant {
    name: &'static str,
    /// What holds without the change.
    breaks: &'static str,
    /// The file, and what stands in it exactly once.
    file: &'static str,
    from: &'static str,
    to: &'static str,
    /// What the names of the tests contain that notice it.
    tests: &'static str,
    /// The VM's kernel; empty: any does.
    kernel: &'static str,
}

impl Mutant {
    /// Whether the tests notice it.
    fn run(&self) -> Result<(), Failed> {
        let path = Path::new(self.file);
        let original = fs::read_to_string(path)?;
        let places = original.matches(self.from).count();
        if places != 1 {
            return Err(format!("what it replaces is {places} times in {}", self.file).into());
        }
        fs::write(path, original.replace(self.from, self.to))?;
        let killed = self.is_killed();
        fs::write(path, original)?;
        match killed? {
            true => Ok(()),
            false => {
                Err(format!("survived: no test noticed that \"{}\" fails", self.breaks).into())
            }
        }
    }

    fn is_killed(&self) -> Result<bool, Failed> {
        let module = script("module", self.kernel, &[])?;
        if !module.status.success() {
            return Err(format!("does not build:\n{}", text(&module)).into());
        }
        Ok(self.fails(&[self.tests])? || self.fails(&[])?)
    }

    fn fails(&self, pattern: &[&str]) -> Result<bool, Failed> {
        let tests = script("qemu-test", self.kernel, pattern)?;
        let text = text(&tests);
        // Whatever else went wrong is no merit of the tests.
        if !text.contains("running ") || text.contains("no test has ") {
            return Err(format!("no test was run:\n{text}").into());
        }
        if tests.status.success() {
            return Ok(false);
        }
        let mut by: Vec<_> = text.lines().filter_map(failed_test).collect();
        by.sort_unstable();
        by.dedup();
        let mut noticed = NOTICED.lock().expect("one thread");
        noticed.push(match by[..] {
            [] => format!("{}: the run as a whole", self.name),
            _ => format!("{}: {}", self.name, by.join(" ")),
        });
        Ok(true)
    }
}

/// By which tests each mutant was noticed.
static NOTICED: Mutex<Vec<String>> = Mutex::new(vec![]);

/// The name in a line like `test a::b ... FAILED`.
fn failed_test(line: &str) -> Option<&str> {
    let (name, verdict) = line.strip_prefix("test ")?.split_once(" ... ")?;
    verdict.ends_with("FAILED").then_some(name.trim_end())
}

fn script(name: &str, kernel: &str, args: &[&str]) -> std::io::Result<Output> {
    let mut command = Command::new(format!("scripts/{name}"));
    if !kernel.is_empty() {
        command.args(["--kernel", kernel]);
    }
    command.args(args).stdin(Stdio::null()).output()
}

fn text(output: &Output) -> String {
    let text = [&output.stderr[..], &output.stdout[..]].concat();
    String::from_utf8_lossy(&text).trim_end().to_owned()
}

/// The module as it is passes, or its mutants prove nothing.
fn unchanged() -> Result<(), Failed> {
    let tests = script("qemu-test", "", &[])?;
    match tests.status.success() {
        true => Ok(()),
        false => Err(text(&tests).into()),
    }
}

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // There is one copy of the project.
    arguments.test_threads = Some(1);
    let mut trials = vec![Trial::test("the_module_as_it_is", unchanged)];
    trials.extend(
        list::MUTANTS
            .iter()
            .map(|mutant| Trial::test(mutant.name, || mutant.run())),
    );
    let conclusion = libtest_mimic::run(&arguments, trials);
    println!("Noticed by:");
    for line in NOTICED.lock().expect("one thread").iter() {
        println!("  {line}");
    }
    println!(
        "{} passed, {} failed",
        conclusion.num_passed, conclusion.num_failed
    );
    conclusion.exit_code()
}
