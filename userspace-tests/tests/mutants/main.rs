// SPDX-License-Identifier: GPL-2.0
//! Tests of the tests: small wrong changes to the module, one at a time, each of which the tests
//! that the list names must notice, in the way that it says. `make mutants`.
//!
//! `mutants DEVICE FSX TREE [PATTERN]...` works in TREE, a copy of what the module is built from and
//! the VM is run with; DEVICE is the tests' program, and FSX another that it runs. What each run
//! printed stays beside TREE, in NAME.log, with the verdict in the first line: a mutant that was
//! noticed is not tried again while it and the tests are the same.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    hash::{DefaultHasher, Hash, Hasher},
    io::{self, BufRead, BufReader, Read, Write},
    path::{Path, PathBuf},
    process::{Command, ExitCode, Stdio},
    sync::Mutex,
};

use libtest_mimic::{Arguments, Failed, Trial};
use tools::libtest::{Outcome, Parser, Test};

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
    /// What the names of the tests contain that notice it: any of these words.
    tests: &'static str,
    /// How they do.
    by: By,
    /// The VM's kernel; empty: any does.
    kernel: &'static str,
}

impl Mutant {
    /// Whether a test is one of those that are to notice it.
    fn is_for(&self, test: &str) -> bool {
        self.tests
            .split_whitespace()
            .any(|word| test.contains(word))
    }
}

/// How a mutant is noticed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum By {
    /// A test fails, and not because of the time it takes.
    Test,
    /// A test takes more time than it may.
    Time,
    /// The kernel complains, or says that something is left of the module: `scripts/vm-run`'s 126.
    Kernel,
    /// The module cannot be built.
    Build,
}

/// What `scripts/vm-run` says when the kernel complains.
const COMPLAINED: i32 = 126;
/// What it says of a VM that did not come up, or went away.
const NO_VERDICT: i32 = 125;
/// What it says when its limit was over.
const TOO_LONG: i32 = 124;
/// The status of the tests' own harness when some of them have failed.
const SOME_FAILED: i32 = 101;

/// How long the tests of one mutant may take, in seconds. Each has a limit of its own, so that a
/// hang is noticed long before; these are for what the tests' harness cannot end.
const LIMIT: &str = "600";
const DEBUG_LIMIT: &str = "1200";

/// What became of a build of the module, and a run of tests in the VM.
struct Run {
    built: bool,
    status: i32,
    tests: Vec<Test>,
    /// The last that vm-run said.
    last_words: String,
}

impl Run {
    /// The tests that gave no good verdict, by whether that was because of their time.
    fn failed(&self, by: By) -> Vec<&str> {
        let out_of_time = |test: &&Test| {
            test.outcome == Outcome::Unfinished
                || ["took more than ", "a process of it cannot be killed"]
                    .iter()
                    .any(|reason| test.message.starts_with(reason))
        };
        let not_run = |test: &&Test| test.message.starts_with("not run, ");
        let failed = self
            .tests
            .iter()
            .filter(|test| matches!(test.outcome, Outcome::Failed | Outcome::Unfinished))
            .filter(|test| !not_run(test) && out_of_time(test) == (by == By::Time));
        failed.map(|test| test.name.as_str()).collect()
    }

    /// Whether nothing is wrong but what a busy machine may have done: there was no verdict, or not
    /// time enough. Such a run is worth another one.
    fn may_be_the_machine(&self) -> bool {
        self.status == NO_VERDICT || matches!(self.noticed()[..], [(By::Time, _)])
    }

    /// All that went wrong.
    fn noticed(&self) -> Vec<(By, String)> {
        let mut found = vec![];
        if !self.built {
            found.push((By::Build, "the build".to_owned()));
        }
        for by in [By::Test, By::Time] {
            let failed = self.failed(by);
            if !failed.is_empty() {
                found.push((by, failed.join(" ")));
            }
        }
        if self.status == COMPLAINED {
            found.push((By::Kernel, self.last_words.clone()));
        }
        found
    }
}

struct Place {
    device: PathBuf,
    fsx: PathBuf,
    tree: PathBuf,
}

impl Place {
    /// Builds the module anew, and runs tests on it. What is printed goes to `log`.
    fn run(&self, kernel: &str, tests: &str, log: &mut File) -> io::Result<Run> {
        let kernel: &[&str] = match kernel {
            "" => &[],
            name => &["--kernel", name],
        };
        // What an earlier build has left could hide that this one cannot be made.
        for entry in fs::read_dir(self.tree.join("build")).into_iter().flatten() {
            let path = entry?.path();
            if path.is_dir() {
                fs::remove_dir_all(path)?;
            }
        }
        let script = |name: &str| {
            let mut command = Command::new(self.tree.join("scripts").join(name));
            command.args(kernel).stdin(Stdio::null());
            command
        };
        let mut module = script("module");
        module.stdout(log.try_clone()?).stderr(log.try_clone()?);
        let mut run = Run {
            built: module.status()?.success(),
            status: 0,
            tests: vec![],
            last_words: String::new(),
        };
        if !run.built {
            return Ok(run);
        }
        let limit = match kernel {
            [_, "debug"] => DEBUG_LIMIT,
            _ => LIMIT,
        };
        // Its stderr is a pipe of its own, for its last words.
        let mut vm = script("vm-run")
            .args(["--timeout", limit, "--file"])
            .arg(&self.fsx)
            .arg("--")
            .arg(&self.device)
            .arg(tests)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()?;
        let (stdout, stderr) = (vm.stdout.take(), vm.stderr.take());
        let mut errors = log.try_clone()?;
        let reader = std::thread::spawn(move || -> io::Result<String> {
            let mut last = String::new();
            for line in BufReader::new(stderr.expect("it is a pipe")).split(b'\n') {
                let line = line?;
                errors.write_all(&[&line[..], b"\n"].concat())?;
                last = String::from_utf8_lossy(&line).into_owned();
            }
            Ok(last)
        });
        let mut parser = Parser::default();
        let mut stdout = stdout.expect("it is a pipe");
        let mut bytes = [0; 1 << 16];
        loop {
            match stdout.read(&mut bytes)? {
                0 => break,
                n => {
                    log.write_all(&bytes[..n])?;
                    parser.take(&bytes[..n]);
                }
            }
        }
        run.last_words = reader.join().expect("it does not panic")?;
        run.status = vm.wait()?.code().unwrap_or(NO_VERDICT);
        run.tests = parser.finish();
        Ok(run)
    }

    fn log(&self, name: &str) -> PathBuf {
        self.tree.with_file_name(format!("{name}.log"))
    }

    /// What stands for a run: the module's source, the tests, and what is asked of them.
    fn key(&self, asked: impl Hash) -> io::Result<String> {
        let mut hasher = DefaultHasher::new();
        asked.hash(&mut hasher);
        fs::read(&self.device)?.hash(&mut hasher);
        let mut files = vec![];
        for part in ["Kbuild", "rust_mmapdev.rs", "src", "qemu", "scripts"] {
            files_in(&self.tree.join(part), &mut files)?;
        }
        files.sort();
        for file in files {
            (&file, fs::read(&file)?).hash(&mut hasher);
        }
        Ok(format!("{:016x}", hasher.finish()))
    }

    /// Calls `run` with a log for what it prints, and keeps what it returns in the log's first line,
    /// unless an earlier run with the same key did.
    fn once(
        &self,
        name: &str,
        key: &str,
        run: impl FnOnce(&mut File) -> Result<String, Failed>,
    ) -> Result<String, Failed> {
        let path = self.log(name);
        let head = format!("{key} noticed by ");
        if let Ok(log) = File::open(&path) {
            let mut line = String::new();
            // Not UTF-8 is another line.
            let _ = BufReader::new(log).read_line(&mut line);
            if let Some(by) = line.trim_end().strip_prefix(&head) {
                return Ok(by.to_owned());
            }
        }
        let mut log = File::create(&path)?;
        let by = run(&mut log)?;
        let text = fs::read(&path)?;
        fs::write(
            &path,
            [format!("{head}{by}\n").as_bytes(), &text[..]].concat(),
        )?;
        Ok(by)
    }

    /// Which of the tests fail on the module as it is: they prove nothing about its mutants.
    fn failing(&self, kernel: &str, tests: &str) -> Result<Vec<String>, Failed> {
        let name = match kernel {
            "" => "the_module_as_it_is".to_owned(),
            kernel => format!("the_module_as_it_is_on_{kernel}"),
        };
        let key = self.key((kernel, tests))?;
        let mut failing = vec![];
        let result = self.once(&name, &key, |log| {
            let good =
                |run: &Run| run.status == 0 && run.noticed().is_empty() && !run.tests.is_empty();
            let mut run = self.run(kernel, tests, log)?;
            if !good(&run) && run.may_be_the_machine() {
                run = self.run(kernel, tests, log)?;
            }
            if good(&run) {
                return Ok("nobody".to_owned());
            }
            if run.status == SOME_FAILED {
                let failed = [By::Test, By::Time].map(|by| run.failed(by));
                failing = failed.concat().into_iter().map(str::to_owned).collect();
            }
            let (status, found) = (run.status, run.noticed());
            Err(format!("does not pass, with status {status}: {found:?}").into())
        });
        match result {
            Ok(_) => Ok(vec![]),
            Err(_) if !failing.is_empty() => Ok(failing),
            Err(err) => Err(err),
        }
    }

    /// Whether the tests notice a mutant, and which.
    fn check(&self, mutant: &Mutant) -> Result<String, Failed> {
        let path = self.tree.join(mutant.file);
        let original = fs::read_to_string(&path)?;
        fs::write(&path, original.replace(mutant.from, mutant.to))?;
        let result = self.check_changed(mutant);
        fs::write(&path, original)?;
        result
    }

    fn check_changed(&self, mutant: &Mutant) -> Result<String, Failed> {
        let key = self.key((mutant.tests, mutant.by, mutant.kernel))?;
        self.once(mutant.name, &key, |log| {
            let mut run = self.run(mutant.kernel, mutant.tests, log)?;
            if mutant.by != By::Time && run.may_be_the_machine() {
                run = self.run(mutant.kernel, mutant.tests, log)?;
            }
            let log = self.log(mutant.name);
            let log = log.display();
            let mut found = run.noticed();
            if let Some(i) = found.iter().position(|(by, _)| *by == mutant.by) {
                return Ok(found.swap_remove(i).1);
            }
            let breaks = mutant.breaks;
            Err(if !found.is_empty() {
                format!(
                    "not noticed by {:?}, as the list has it, but by {found:?}; see {log}",
                    mutant.by
                )
            } else if run.tests.is_empty() || matches!(run.status, NO_VERDICT | TOO_LONG) {
                format!(
                    "no verdict: vm-run ended with status {}; see {log}",
                    run.status
                )
            } else {
                format!("survived: no test noticed that \"{breaks}\" fails; see {log}")
            }
            .into())
        })
    }
}

fn files_in(path: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    if !path.is_dir() {
        files.push(path.to_owned());
        return Ok(());
    }
    for entry in fs::read_dir(path)? {
        files_in(&entry?.path(), files)?;
    }
    Ok(())
}

/// What is wrong with the list itself, seen before hours are spent on it.
fn check_list(place: &Place, mutants: &[&Mutant]) -> Result<(), Failed> {
    let tests = Command::new(&place.device).arg("--list").output()?;
    let tests = String::from_utf8_lossy(&tests.stdout).into_owned();
    let tests: Vec<_> = tools::libtest::names(&tests).collect();
    let mut names = BTreeSet::new();
    let mut wrong = vec![];
    for mutant in mutants {
        let name = mutant.name;
        if !names.insert(name) {
            wrong.push(format!("{name} is there twice"));
        }
        let text = fs::read_to_string(place.tree.join(mutant.file))?;
        let places = text.matches(mutant.from).count();
        if places != 1 {
            let file = mutant.file;
            wrong.push(format!(
                "{name}: what it replaces is {places} times in {file}"
            ));
        }
        for word in mutant.tests.split_whitespace() {
            if !tests.iter().any(|test| test.contains(word)) {
                wrong.push(format!("{name}: no test has '{word}' in its name"));
            }
        }
    }
    match wrong.is_empty() {
        true => Ok(()),
        false => Err(wrong.join("\n").into()),
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (Some(device), Some(fsx), Some(tree)) = (words.next(), words.next(), words.next()) else {
        eprintln!("usage: mutants DEVICE FSX TREE [PATTERN]...; `make mutants` does all of it");
        return ExitCode::from(2);
    };
    let place: &'static Place = Box::leak(Box::new(Place {
        device: device.into(),
        fsx: fsx.into(),
        tree: tree.into(),
    }));
    let patterns: Vec<String> = words.collect();
    let selected = |mutant: &&Mutant| {
        patterns.is_empty()
            || patterns
                .iter()
                .any(|word| mutant.name.contains(word.as_str()))
    };
    let mutants: Vec<&'static Mutant> = list::MUTANTS.iter().filter(selected).collect();

    // What is wrong without any change, by the kernel.
    static FAILING: Mutex<BTreeMap<&str, Vec<String>>> = Mutex::new(BTreeMap::new());
    let all: Vec<_> = list::MUTANTS.iter().collect();
    let mut checks = vec![Trial::test("the_list", move || check_list(place, &all))];
    let kernels: BTreeSet<_> = mutants.iter().map(|mutant| mutant.kernel).collect();
    for kernel in kernels {
        let of_kernel = mutants.iter().filter(|mutant| mutant.kernel == kernel);
        let tests: BTreeSet<_> = of_kernel
            .flat_map(|mutant| mutant.tests.split_whitespace())
            .collect();
        let tests = tests.into_iter().collect::<Vec<_>>().join(" ");
        let name = format!("the_module_as_it_is {kernel}");
        checks.push(Trial::test(name.trim_end(), move || {
            let failing = place.failing(kernel, &tests)?;
            if failing.is_empty() {
                return Ok(());
            }
            let text = format!("these fail: {}", failing.join(" "));
            FAILING.lock().expect("one thread").insert(kernel, failing);
            Err(text.into())
        }));
    }
    let trials = mutants.into_iter().map(|mutant| {
        Trial::test(mutant.name, || {
            let failing = FAILING.lock().expect("one thread");
            let failing = failing.get(mutant.kernel).into_iter().flatten();
            match failing.into_iter().find(|test| mutant.is_for(test)) {
                Some(test) => Err(format!("not tried, as {test} fails without it").into()),
                None => place.check(mutant).map(|_| ()),
            }
        })
    });
    let arguments = Arguments {
        // There is one tree.
        test_threads: Some(1),
        ..Arguments::default()
    };
    let checked = libtest_mimic::run(&arguments, checks);
    let known = FAILING.lock().expect("one thread").len() as u64;
    let (mut passed, mut failed) = (checked.num_passed, checked.num_failed);
    // Nothing is tried when more is wrong than that some tests fail.
    if failed == known {
        let tried = libtest_mimic::run(&arguments, trials.collect());
        passed += tried.num_passed;
        failed += tried.num_failed;
    }
    println!("{passed} passed, {failed} failed");
    match failed {
        0 => ExitCode::SUCCESS,
        _ => ExitCode::FAILURE,
    }
}
