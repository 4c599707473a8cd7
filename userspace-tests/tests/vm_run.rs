// SPDX-License-Identifier: GPL-2.0
//! The tests of `scripts/vm-run`, on the host: each of its statuses is provoked for real, in a VM.
//!
//! They run in the crate's directory, as cargo starts them.

use std::{
    ffi::{OsStr, OsString},
    fs,
    io::{BufRead, BufReader, Read},
    os::unix::{ffi::OsStringExt, fs::PermissionsExt, process::ExitStatusExt},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

/// A directory for one test's files, removed with them.
struct Scratch(PathBuf);

impl Scratch {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("vm run {test} {}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        Self(dir)
    }

    fn file(&self, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, content).unwrap();
        path
    }

    /// A shell script for the guest.
    fn script(&self, name: impl AsRef<Path>, body: &str) -> PathBuf {
        let path = self.file(name, format!("#!/bin/sh\n{body}\n"));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn script_of_the_project(name: &str) -> Command {
    let path =
        fs::canonicalize(format!("../../scripts/{name}")).expect("run in the crate's directory");
    // A shell that runs in the background has its children ignore SIGINT.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").arg(path);
    command.stdin(Stdio::null());
    command
}

fn vm_run<S: AsRef<OsStr>>(options: impl IntoIterator<Item = S>, program: &Path) -> Command {
    let mut command = script_of_the_project("vm-run");
    command.args(options).arg("--").arg(program);
    command
}

/// Runs a script in a VM without the module.
fn run(test: &str, options: &[&str], body: &str) -> Output {
    let scratch = Scratch::new(test);
    let program = scratch.script("program", body);
    vm_run([&["--no-module"], options].concat(), &program)
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[track_caller]
fn assert_status(output: &Output, status: i32) {
    assert_eq!(
        output.status.code(),
        Some(status),
        "{:?}\nstdout: {}\nstderr: {}",
        output.status,
        text(&output.stdout),
        text(&output.stderr)
    );
}

#[track_caller]
fn assert_says(output: &Output, sentence: &str) {
    assert!(
        text(&output.stderr).contains(sentence),
        "no {sentence:?} in: {}",
        text(&output.stderr)
    );
}

/// The Debian tree with the compilers.
fn build_root() -> PathBuf {
    let output = script_of_the_project("build-root").output().unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    PathBuf::from(text(&output.stdout).trim_end())
}

/// The directory with the modules of qemu/peers for the default kernel.
fn peers() -> PathBuf {
    let output = script_of_the_project("module")
        .arg("--peers")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", text(&output.stderr));
    PathBuf::from(text(&output.stdout).trim_end())
}

fn random(length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    fs::File::open("/dev/urandom")
        .unwrap()
        .read_exact(&mut bytes)
        .unwrap();
    bytes
}

fn alive(pid: i32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

/// The QEMU that a vm-run started, once it has.
fn qemu_of(vm_run: &Child) -> i32 {
    let children = format!("/proc/{0}/task/{0}/children", vm_run.id());
    let children = fs::read_to_string(children).unwrap();
    children
        .split_whitespace()
        .map(|pid| pid.parse().unwrap())
        .find(|pid| {
            fs::read_to_string(format!("/proc/{pid}/comm"))
                .is_ok_and(|comm| comm.starts_with("qemu"))
        })
        .expect("QEMU runs")
}

#[track_caller]
fn assert_dies(pid: i32) {
    let start = Instant::now();
    while alive(pid) {
        assert!(
            start.elapsed() < Duration::from_secs(5),
            "process {pid} lives on"
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn the_programs_own_status_and_what_surrounds_it() {
    let scratch = Scratch::new("surroundings");
    let file = scratch.file("a file: one", "content of it");
    let program = scratch.script(
        "program",
        r#"
        echo to stderr >/dev/stderr
        cat >/tmp/stdin; wc -c </tmp/stdin
        cat '/deep er/place/file'
        echo
        head -c 46 /dev/rust_mmapdev
        echo
        ls /rust_mmapdev.ko; pwd; id -u
        ping -c 1 -W 5 127.0.0.1 >/dev/null && echo loopback
        for i in /proc /sys /dev /tmp /dev/shm; do grep -q " $i " /proc/mounts && echo $i; done
        grep -o option_of_ours=1 /proc/cmdline
        nproc
        test $(awk '/MemTotal/ {print $2}' /proc/meminfo) -lt 524288 && echo little memory
        dmesg | grep -c 'Linux version'
        test -t 1 || echo not a terminal
        sleep 1000 &
        exit 37"#,
    );
    let mut with = OsString::new();
    with.push(&file);
    with.push(":/deep er/place/file");
    let output = vm_run(
        [
            OsStr::new("--file"),
            &with,
            OsStr::new("--append"),
            OsStr::new("option_of_ours=1"),
            OsStr::new("--smp"),
            OsStr::new("1"),
            OsStr::new("--mem"),
            OsStr::new("512"),
            OsStr::new("--param"),
            OsStr::new("buffer_pages=1"),
        ],
        &program,
    )
    .output()
    .unwrap();
    assert_status(&output, 37);
    assert_eq!(
        text(&output.stdout),
        "0\n\
         content of it\n\
         rust_mmapdev: this text lives in kernel memory\n\
         /rust_mmapdev.ko\n/\n0\n\
         loopback\n\
         /proc\n/sys\n/dev\n/tmp\n/dev/shm\n\
         option_of_ours=1\n\
         1\n\
         little memory\n\
         1\n\
         not a terminal\n"
    );
    assert_eq!(text(&output.stderr), "to stderr\n");
}

#[test]
fn a_program_killed_by_a_signal() {
    assert_status(&run("signal", &[], "kill -SEGV $$"), 128 + 11);
}

#[test]
fn a_mebibyte_on_both_streams_at_once_arrives_byte_for_byte() {
    let scratch = Scratch::new("bytes");
    let (out, err) = (random(1 << 20), random(1 << 20));
    let program = scratch.script("program", "cat /out & cat /err >&2; wait");
    let output = vm_run(
        [
            OsStr::new("--no-module"),
            OsStr::new("--file"),
            scratch.file("out", &out).as_os_str(),
            OsStr::new("--file"),
            scratch.file("err", &err).as_os_str(),
        ],
        &program,
    )
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert!(
        output.stdout == out,
        "stdout: {} bytes",
        output.stdout.len()
    );
    assert!(
        output.stderr == err,
        "stderr: {} bytes",
        output.stderr.len()
    );
}

#[test]
fn arguments_of_any_bytes_and_a_name_with_spaces() {
    let scratch = Scratch::new("arguments");
    let program = scratch.script("a 'program' of mine\n", r#"printf '%s\0' "$0" "$@""#);
    let every_byte = OsString::from_vec((1..=255).collect());
    let arguments = [
        "",
        "two words",
        "it's",
        "\"$HOME\" `id` \\",
        "line\nbreak\n",
        "*",
        "--",
        "-n",
    ]
    .map(OsString::from)
    .into_iter()
    .chain([every_byte, OsString::new()])
    .collect::<Vec<_>>();
    let output = vm_run(["--no-module"], &program)
        .args(&arguments)
        .output()
        .unwrap();
    assert_status(&output, 0);
    let mut expected = b"/a 'program' of mine\n\0".to_vec();
    for argument in arguments {
        expected.extend(argument.into_vec());
        expected.push(0);
    }
    assert!(output.stdout == expected, "{:?}", text(&output.stdout));
}

/// Has the host's C compiler make a program and a library for it, in a directory beside it.
fn program_with_a_library(scratch: &Scratch) -> [PathBuf; 2] {
    fs::create_dir(scratch.0.join("lib")).unwrap();
    scratch.file("answer.c", "int answer(void) { return 42; }");
    scratch.file(
        "ask.c",
        "int answer(void);\nint main(void) { return answer(); }",
    );
    for arguments in [
        "-shared -fPIC -o lib/libanswer.so answer.c",
        "-o ask ask.c -Llib -lanswer -Wl,-rpath,$ORIGIN/lib",
    ] {
        let status = Command::new("cc")
            .args(arguments.split(' '))
            .current_dir(&scratch.0)
            .status()
            .unwrap();
        assert!(status.success());
    }
    ["ask", "lib/libanswer.so"].map(|name| scratch.0.join(name))
}

#[test]
fn the_libraries_of_a_program_go_along() {
    let scratch = Scratch::new("libraries");
    let [program, _] = program_with_a_library(&scratch);
    let output = vm_run(["--no-module"], &program).output().unwrap();
    assert_status(&output, 42);
}

#[test]
fn a_library_that_is_missing_is_125_and_a_sentence() {
    let scratch = Scratch::new("no library");
    let [program, library] = program_with_a_library(&scratch);
    fs::remove_file(library).unwrap();
    let output = vm_run(["--no-module"], &program).output().unwrap();
    assert_status(&output, 125);
    let said = text(&output.stderr);
    assert_eq!(said.lines().count(), 1, "{said}");
    assert_says(&output, "cannot be had: libanswer.so: cannot open shared");
}

/// Not the host's: they may be of another version.
#[test]
fn a_program_of_a_build_root_gets_the_libraries_of_that() {
    let scratch = Scratch::new("root");
    let root = build_root();
    let program = scratch.script(
        "program",
        "/gawk 'BEGIN { print \"awk\" }' && cat /lib/x86_64-linux-gnu/libc.so.6",
    );
    let gawk = root.join("usr/bin/gawk");
    let output = vm_run(
        ["--no-module", "--file", gawk.to_str().unwrap()].map(OsStr::new),
        &program,
    )
    .output()
    .unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let libc = fs::read(root.join("usr/lib/x86_64-linux-gnu/libc.so.6")).unwrap();
    assert!(output.stdout == [b"awk\n", &libc[..]].concat());
}

#[test]
fn a_directory_and_all_in_it() {
    let scratch = Scratch::new("directory");
    let directory = scratch.0.join("some things");
    fs::create_dir_all(directory.join("in/ner")).unwrap();
    fs::create_dir(directory.join("empty")).unwrap();
    scratch.script("some things/in/a script", "echo ran");
    scratch.file("some things/in/ner/line\nbreak", "content");
    std::os::unix::fs::symlink("in/ner", directory.join("link")).unwrap();
    program_with_a_library(&scratch);
    for i in ["ask", "lib"] {
        fs::rename(scratch.0.join(i), directory.join(i)).unwrap();
    }
    let program = scratch.script(
        "program",
        r#"
        cd '/opt/my things' && find . -print0 | sort -z | tr '\0\n' ' _' && echo
        './in/a script'
        cat "link/line
break"
        ./ask"#,
    );
    let mut with = directory.into_os_string();
    with.push(":/opt/my things");
    let output = vm_run(
        [OsStr::new("--no-module"), OsStr::new("--file"), &with],
        &program,
    )
    .output()
    .unwrap();
    assert_status(&output, 42);
    assert_eq!(
        text(&output.stdout),
        ". ./ask ./empty ./in ./in/a script ./in/ner ./in/ner/line_break ./lib ./lib/libanswer.so ./link \n\
         ran\ncontent"
    );
}

#[test]
fn past_the_limit_is_124() {
    let start = Instant::now();
    let output = run(
        "timeout",
        &["--timeout", "1"],
        "echo before; sleep 1000; echo after",
    );
    assert_status(&output, 124);
    assert_eq!(text(&output.stdout), "before\n");
    assert_says(&output, "program ran past its limit of 1 s");
    assert!(start.elapsed() < Duration::from_secs(60));
}

#[test]
fn a_guest_panic_is_125() {
    let output = run("panic", &[], "echo before; echo c >/proc/sysrq-trigger");
    assert_status(&output, 125);
    assert_eq!(text(&output.stdout), "before\n");
    assert_says(&output, "Kernel panic - not syncing: sysrq triggered crash");
    assert_says(&output, "ended without a verdict while program ran");
}

#[test]
fn a_guest_that_powers_off_is_125() {
    let output = run("poweroff", &[], "poweroff -f");
    assert_status(&output, 125);
    assert_says(&output, "ended without a verdict while program ran");
}

#[test]
fn a_guest_that_never_comes_up_is_125() {
    let output = run(
        "init",
        &["--append", "rdinit=/nonexistent root=none"],
        "exit 0",
    );
    assert_status(&output, 125);
    assert_says(&output, "the VM did not come up");
}

#[test]
fn a_module_that_does_not_load_is_125() {
    let scratch = Scratch::new("module");
    let program = scratch.script("program", "echo ran");
    let output = vm_run(["--param", "buffer_pages=0"], &program)
        .output()
        .unwrap();
    assert_status(&output, 125);
    assert_eq!(text(&output.stdout), "");
    assert_says(&output, "rust_mmapdev: ");
    assert_says(&output, "the module did not load");
}

#[test]
fn a_warning_is_126_whatever_the_program_says() {
    let peer = peers().join("warn.ko");
    let output = run(
        "warning",
        &["--file", peer.to_str().unwrap()],
        "insmod /warn.ko; echo after; exit 0",
    );
    assert_status(&output, 126);
    assert_eq!(text(&output.stdout), "after\n");
    assert_says(&output, "Linux version");
    assert_says(&output, "asked for by a test");
    assert_says(&output, "the kernel complained");
}

#[test]
fn a_warning_that_the_guest_did_not_survive_is_126() {
    let peer = peers().join("warn.ko");
    let output = run(
        "last words",
        &[
            "--file",
            peer.to_str().unwrap(),
            "--append",
            "panic_on_warn=1",
        ],
        "insmod /warn.ko",
    );
    assert_status(&output, 126);
    assert_says(&output, "asked for by a test");
}

#[test]
fn a_warning_of_a_program_past_its_limit_is_126() {
    let peer = peers().join("warn.ko");
    let output = run(
        "late warning",
        &["--file", peer.to_str().unwrap(), "--timeout", "2"],
        "insmod /warn.ko; sleep 1000",
    );
    assert_status(&output, 126);
}

/// Its lines in the kernel's log begin with its name; anybody may write there.
#[test]
fn a_line_that_the_module_never_says_is_126() {
    let known = "echo 'rust_mmapdev: buffer_pages=0 is out of range: 1 to 262144' >/dev/kmsg";
    assert_status(&run("known line", &[], known), 0);
    let unknown = "echo 'rust_mmapdev: opened' >/dev/kmsg";
    let output = run("unknown line", &[], unknown);
    assert_status(&output, 126);
    assert_says(
        &output,
        "rust_mmapdev: opened: the module says what it never should",
    );
}

#[test]
fn the_kernels_log_as_a_file_whatever_the_status() {
    let scratch = Scratch::new("log");
    for (name, body, status) in [("good", "exit 0", 0), ("powered off", "poweroff -f", 125)] {
        let log = scratch.0.join(name);
        let program = scratch.script("program", body);
        let output = vm_run(
            [
                OsStr::new("--no-module"),
                OsStr::new("--log"),
                log.as_os_str(),
            ],
            &program,
        )
        .output()
        .unwrap();
        assert_status(&output, status);
        let text = fs::read_to_string(log).unwrap();
        assert!(text.contains("Linux version"), "{text}");
        assert!(text.contains("vm: starting /program"), "{text}");
        assert!(!text.contains('\r'));
    }
}

#[test]
fn a_module_that_does_not_unload_is_126() {
    let scratch = Scratch::new("hold");
    let program = scratch.script("program", "insmod /hold.ko");
    let peer = peers().join("hold.ko");
    let output = vm_run([OsStr::new("--file"), peer.as_os_str()], &program)
        .output()
        .unwrap();
    assert_status(&output, 126);
    assert_says(&output, "the module would not unload");
}

#[test]
fn without_the_module_the_program_may_load_it() {
    let output = run(
        "no module",
        &[],
        "ls /dev/rust_mmapdev; insmod /rust_mmapdev.ko && ls /dev/rust_mmapdev",
    );
    assert_status(&output, 0);
    assert_eq!(text(&output.stdout), "/dev/rust_mmapdev\n");
}

#[test]
fn under_icount_time_is_instructions() {
    let start = Instant::now();
    let output = run(
        "icount",
        &["--icount"],
        "nproc; sleep 600; cut -d. -f1 /proc/uptime",
    );
    assert_status(&output, 0);
    let stdout = text(&output.stdout);
    let (cpus, uptime) = stdout.trim().split_once('\n').unwrap();
    assert_eq!(cpus, "1");
    assert!(uptime.parse::<u32>().unwrap() >= 600);
    assert!(start.elapsed() < Duration::from_secs(300));
}

#[test]
fn two_runs_at_once_on_two_kernels() {
    let scratch = Scratch::new("two");
    let program = scratch.script(
        "program",
        "uname -r; cat; dd if=/dev/zero bs=64k count=16 2>/dev/null",
    );
    let children = ["7.2", "7.3"].map(|kernel| {
        let mut command = vm_run(["--kernel", kernel], &program);
        (
            kernel,
            command
                .stdout(Stdio::piped())
                .stderr(Stdio::piped())
                .spawn()
                .unwrap(),
        )
    });
    for (kernel, child) in children {
        let output = child.wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
        assert!(text(&output.stdout).starts_with(&format!("{kernel}.")));
        let zeros = output.stdout.iter().filter(|byte| **byte == 0).count();
        assert_eq!(zeros, 1 << 20);
    }
}

#[test]
fn a_reader_that_goes_away_ends_the_run() {
    let scratch = Scratch::new("reader");
    let program = scratch.script("program", "while :; do echo line; sleep 0.1; done");
    let mut child = vm_run(["--no-module"], &program)
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "line\n");
    let qemu = qemu_of(&child);
    drop(stdout);
    assert_eq!(child.wait().unwrap().code(), Some(141));
    assert_dies(qemu);
}

#[test]
fn killed_it_leaves_no_vm_behind() {
    let scratch = Scratch::new("kill");
    let program = scratch.script("program", "echo up; sleep 1000");
    for (signal, code) in [
        (libc::SIGINT, Some(130)),
        (libc::SIGTERM, Some(143)),
        (libc::SIGKILL, None),
    ] {
        let mut child = vm_run(["--no-module"], &program)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        let qemu = qemu_of(&child);
        let pid = rustix::process::Pid::from_child(&child);
        let number = rustix::process::Signal::from_named_raw(signal).unwrap();
        rustix::process::kill_process(pid, number).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(status.code(), code);
        if code.is_none() {
            assert_eq!(status.signal(), Some(libc::SIGKILL));
        }
        assert_dies(qemu);
    }
}

#[test]
fn a_terminal_of_the_right_size() {
    let scratch = Scratch::new("terminal");
    let program = scratch.script("program", "tty; stty size; exit 5");
    let vm_run = fs::canonicalize("../../scripts/vm-run").unwrap();
    let output = Command::new("script")
        .arg("-qefc")
        .arg(format!(
            "stty rows 33 cols 77; '{}' --no-module --tty -- '{}'; echo status $?; stty -a | grep -o ' icanon'",
            vm_run.display(),
            program.display()
        ))
        .arg("/dev/null")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let stdout = text(&output.stdout).replace('\r', "");
    assert!(stdout.contains("/dev/hvc0\n33 77\n"), "{stdout}");
    assert!(stdout.contains("status 5\n icanon\n"), "{stdout}");
}

#[test]
fn wrong_usage_is_125_and_a_sentence() {
    let scratch = Scratch::new("usage");
    let program = scratch.script("program", "");
    let program = program.to_str().unwrap();
    let missing = scratch.0.join("missing");
    let missing = missing.to_str().unwrap();
    let plain = scratch.file("plain", "");
    let directory = scratch.0.to_str().unwrap();
    let of_root = build_root().join("usr/bin/gawk");
    let of_root = of_root.to_str().unwrap();
    for (arguments, sentence) in [
        (&[][..], "no program given"),
        (
            &["--no-such-option", "--", program],
            "unknown option '--no-such-option'",
        ),
        (&["--kernel"], "--kernel needs a value"),
        (
            &["--kernel", "6.1", "--", program],
            "kernel 6.1 is not supported: the module is written for 7.2 to 7.3",
        ),
        (
            &["--kernel", "mine", "--", program],
            "no kernel is called 'mine'",
        ),
        (
            &["--smp", "none", "--", program],
            "--smp takes a whole number",
        ),
        (
            &["--timeout", "0", "--", program],
            "--timeout takes a whole number",
        ),
        (
            &["--icount", "--smp", "2", "--", program],
            "--icount counts on one CPU",
        ),
        (&["--tty", "--", program], "--tty needs a terminal"),
        (
            &["--", missing],
            "is not a file or directory that can be read",
        ),
        (&["--", directory], "is a directory"),
        (&["--", plain.to_str().unwrap()], "is not executable"),
        (
            &["--file", missing, "--", program],
            "is not a file or directory that can be read",
        ),
        (
            &["--file", &format!("{program}:/bin"), "--", program],
            "'/bin' is taken",
        ),
        (&["--file", of_root, "--", "/bin/ls"], "a VM has one"),
    ] {
        let output = script_of_the_project("vm-run")
            .args(arguments)
            .output()
            .unwrap();
        assert_status(&output, 125);
        assert_says(&output, sentence);
    }
}
