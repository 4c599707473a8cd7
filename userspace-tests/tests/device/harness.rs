// SPDX-License-Identifier: GPL-2.0
//! Runs each test in a process of its own: a signal or a hang costs one test, not the run.

use std::{
    fs::{self, File},
    io::{Read, Seek},
    os::unix::process::{CommandExt, ExitStatusExt},
    path::Path,
    process::{Command, ExitCode, Stdio},
    sync::OnceLock,
    time::Duration,
};

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use rustix::{
    fs::{MemfdFlags, memfd_create},
    process::{Pid, Signal, kill_process_group, set_child_subreaper},
};

use crate::{
    guide::readme::tests_of_section,
    support::{
        module,
        process::{Link, ROLES, all_end_within, ends_within},
    },
};

/// How long one test may take. Most take a few milliseconds, the longest 16 s in an emulated CPU; on
/// a machine that is busy with other things ten times as long.
const TIME_LIMIT: Duration = Duration::from_secs(300);

/// The same with `--long`.
const LONG_TIME_LIMIT: Duration = Duration::from_secs(1800);

/// How long a process may take to end when it is killed.
const END_LIMIT: Duration = Duration::from_secs(60);

/// How much longer things take on the debug kernel, with its checks at every turn: as a rule some five
/// times, and more for what has many VMAs, which it all looks at again after each change of one.
const DEBUG_FACTOR: u32 = 8;

/// How a test's process gets to know of `--long`, `--seed N` and `--duration S`.
const LONG: &str = "DEVICE_LONG";
const SEED: &str = "DEVICE_SEED";
const DURATION: &str = "DEVICE_DURATION";

/// How many of the kernel's messages are shown of a test that was killed: the OOM killer has its
/// reasons in so many.
const MESSAGES: usize = 50;

/// Exit status of a test that says that it cannot be run here.
const SKIPPED: i32 = 77;

/// A test: its path in the crate, and the function.
pub struct Test {
    pub path: &'static str,
    pub body: fn(),
}

/// Every file's tests.
#[linkme::distributed_slice]
pub static TESTS: [&[Test]];

/// The list of a file's tests. A function that is left out is dead code, which is an error.
macro_rules! tests {
    ($($name:ident),* $(,)?) => {
        const TESTS: &[$crate::harness::Test] = &[$($crate::harness::Test {
            path: concat!(module_path!(), "::", stringify!($name)),
            body: $name,
        }),*];
        #[linkme::distributed_slice($crate::harness::TESTS)]
        static LISTED: &[$crate::harness::Test] = TESTS;
    };
}
pub(crate) use tests;

impl Test {
    /// The path without the name of this program.
    fn name(&self) -> &'static str {
        self.path
            .split_once("::")
            .expect("a test lives in a module")
            .1
    }
}

/// The names of all tests.
pub fn names() -> impl Iterator<Item = &'static str> {
    TESTS.iter().copied().flatten().map(Test::name)
}

/// Ends the running test as skipped.
pub fn skip(reason: &str) -> ! {
    println!("{reason}");
    std::process::exit(SKIPPED)
}

/// Whether the tests that may go on for any time are to do so.
pub fn long() -> bool {
    std::env::var_os(LONG).is_some()
}

/// Whether this is the debug kernel: stock ones have no leak detector.
pub fn on_debug_kernel() -> bool {
    Path::new("/sys/kernel/debug/kmemleak").exists()
}

/// What random choices begin with: the same one in every run, unless asked otherwise.
pub fn seed() -> u64 {
    number(SEED).unwrap_or(1)
}

/// How long the tests that go on for as long as they are told are to do so, in all.
pub fn duration() -> Option<Duration> {
    number(DURATION).map(Duration::from_secs)
}

fn number(key: &str) -> Option<u64> {
    let value = std::env::var(key).ok()?;
    Some(value.parse().expect("a number"))
}

/// What `main` does: one test or one role, when this is the process of such a one, and otherwise
/// all that the arguments ask for.
pub fn main() -> ExitCode {
    let mut files: Vec<_> = TESTS.iter().collect();
    // In no order of its own.
    files.sort_by_key(|tests| tests[0].path);
    let tests: Vec<_> = files.into_iter().copied().flatten().collect();
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["--test-process", name] => {
            let test = tests.iter().find(|test| test.name() == name);
            (test.expect("the parent names a test").body)();
            ExitCode::SUCCESS
        }
        ["--role", name, ..] => {
            let role = ROLES.iter().find(|role| role.name == name);
            (role.expect("a test names a role").body)(&Link::of_role(), &args[2..]);
            ExitCode::SUCCESS
        }
        _ => run_all(tests, args),
    }
}

/// Takes the options that libtest-mimic does not know out of the arguments, as the environment of
/// the tests' processes.
fn take_options(args: &mut Vec<String>) -> Vec<(&'static str, String)> {
    let mut environment = vec![];
    if let Some(i) = args.iter().position(|arg| arg == "--long") {
        args.remove(i);
        environment.push((LONG, String::new()));
    }
    for (option, key) in [("--seed", SEED), ("--duration", DURATION)] {
        if let Some(i) = args.iter().position(|arg| arg == option) {
            let value = args.drain(i..args.len().min(i + 2)).nth(1);
            let Some(value) = value.filter(|value| value.parse::<u64>().is_ok()) else {
                eprintln!("error: {option} takes a number");
                std::process::exit(2)
            };
            environment.push((key, value));
        }
    }
    environment
}

fn run_all(mut tests: Vec<&'static Test>, mut args: Vec<String>) -> ExitCode {
    let environment: &'static [_] = take_options(&mut args).leak();
    let mut arguments = Arguments::from_iter(std::iter::once("device".into()).chain(args));
    let patterns = arguments.filter.take().unwrap_or_default();
    // All tests share the one device.
    arguments.test_threads = Some(1);
    if !arguments.list && !module::is_at_hand() {
        eprintln!(
            "error: {} is missing: these tests load and unload the module, so they run in the VM only: `make qemu-test`",
            module::FILE
        );
        return ExitCode::from(2);
    }
    let parts: Vec<_> = patterns
        .split_whitespace()
        .flat_map(|pattern| tests_of_section(pattern).unwrap_or_else(|| vec![pattern]))
        .collect();
    tests.retain(|test| parts.is_empty() || parts.iter().any(|part| test.name().contains(part)));
    // What a test leaves behind is handed to this process, which ends it.
    set_child_subreaper(Pid::from_raw(1)).expect("PR_SET_CHILD_SUBREAPER");
    let trials = tests
        .into_iter()
        .map(|test| Trial::ignorable_test(test.name(), move || run(test.name(), environment)))
        .collect();
    let conclusion = libtest_mimic::run(&arguments, trials);
    if arguments.list {
        return ExitCode::SUCCESS;
    }
    if conclusion.num_passed + conclusion.num_failed + conclusion.num_ignored == 0 {
        eprintln!("error: no test has a name with {patterns:?}");
        return ExitCode::from(2);
    }
    print!(
        "{} passed, {} failed",
        conclusion.num_passed, conclusion.num_failed
    );
    match conclusion.num_ignored {
        0 => println!(),
        skipped => println!(", {skipped} skipped"),
    }
    conclusion.exit_code()
}

/// The test of which a process could not be killed. No other is run then: it holds what they need.
static STUCK: OnceLock<String> = OnceLock::new();

/// Runs a test in a process of its own, and sees to it that nothing of it is left.
fn run(name: &str, environment: &[(&str, String)]) -> Result<Completion, Failed> {
    if let Some(stuck) = STUCK.get() {
        return Err(format!("not run, as {stuck} cannot be killed").into());
    }
    let mut output = File::from(memfd_create("output", MemfdFlags::CLOEXEC)?);
    let value = |of| environment.iter().find(|(key, _)| *key == of);
    let duration = value(DURATION).map(|(_, seconds)| seconds.parse().expect("a number"));
    // Whoever waits for long wants to see where it is.
    let stdio = |file: &File| match duration {
        Some(_) => Ok(Stdio::inherit()),
        None => file.try_clone().map(Stdio::from),
    };
    let mut child = Command::new("/proc/self/exe")
        .args(["--test-process", name])
        .envs(environment.iter().map(|(key, value)| (key, value)))
        // On its way out the kernel stores to a page that glibc has registered, rseq(2), and kills who
        // has just forked when the copy of that page is made to fail.
        .env("GLIBC_TUNABLES", "glibc.pthread.rseq=0")
        .stdin(Stdio::null())
        .stdout(stdio(&output)?)
        .stderr(stdio(&output)?)
        .process_group(0)
        .spawn()?;
    let group = Pid::from_child(&child);
    let slower = if on_debug_kernel() { DEBUG_FACTOR } else { 1 };
    let limit = match value(LONG) {
        Some(_) => LONG_TIME_LIMIT,
        None => TIME_LIMIT,
    };
    let limit = limit * slower + Duration::from_secs(duration.unwrap_or(0));
    let ended = ends_within(group, limit)?;
    let hang = if ended { String::new() } else { stacks(group) };
    // Fails when nothing of the group is left, which is how it should be.
    let _ = kill_process_group(group, Signal::KILL);
    let end_limit = END_LIMIT * slower;
    let status = match ends_within(group, end_limit)? {
        true => Some(child.wait()?),
        false => None,
    };
    let Some(status) = status.filter(|_| all_end_within(end_limit)) else {
        STUCK.get_or_init(|| name.to_owned());
        return Err(format!(
            "a process of it cannot be killed:\n{hang}{}",
            blocked_tasks()?
        )
        .into());
    };
    let in_use = module::references();

    let mut text = String::new();
    output.rewind()?;
    output.read_to_string(&mut text)?;
    let reason = if !ended {
        format!(
            "took more than {} s, when it was here:\n{hang}",
            limit.as_secs()
        )
    } else if status.code() == Some(SKIPPED) {
        // The reason is the last that it has said.
        return Ok(Completion::ignored_with(
            text.lines().last().unwrap_or_default(),
        ));
    } else if !status.success() {
        status.to_string()
    } else if in_use != 0 {
        format!("all its processes have ended, and the module has {in_use} references")
    } else {
        return Ok(Completion::Completed);
    };
    if status.signal().is_some() {
        text += &format!("The kernel's last words:\n{}\n", last_messages()?);
    }
    Err(format!("{reason}\n{text}").into())
}

/// Where in the kernel the tasks of a process group are.
fn stacks(group: Pid) -> String {
    let numbers = |directory: &str| -> Vec<i32> {
        let names = fs::read_dir(directory).into_iter().flatten().flatten();
        names
            .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
            .collect()
    };
    let mut text = String::new();
    for pid in numbers("/proc") {
        // PID (COMM) STATE PPID PGRP
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let fields = stat.rsplit(')').next().unwrap_or_default();
        if fields.split_whitespace().nth(2) != Some(&group.to_string()) {
            continue;
        }
        let tasks = format!("/proc/{pid}/task");
        for task in numbers(&tasks) {
            // It may end meanwhile.
            let read = |name| fs::read_to_string(format!("{tasks}/{task}/{name}"));
            let syscall = read("syscall").unwrap_or_default();
            let stack = read("stack").unwrap_or_default();
            text += &format!("task {task}: {syscall}{stack}");
        }
    }
    text
}

/// The end of the kernel's log.
fn last_messages() -> std::io::Result<String> {
    let output = Command::new("dmesg").output()?;
    let log = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<_> = log.lines().collect();
    Ok(lines[lines.len().saturating_sub(MESSAGES)..].join("\n"))
}

/// The kernel's word on the tasks that signals do not wake, and on what its CPUs do.
fn blocked_tasks() -> std::io::Result<String> {
    for command in ["w", "l"] {
        fs::write("/proc/sysrq-trigger", command)?;
    }
    last_messages()
}
