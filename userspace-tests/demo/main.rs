// SPDX-License-Identifier: GPL-2.0
//! A guided tour of `/dev/rust_mmapdev`, in the VM: `make demo`.
//!
//! Every step does the real thing, prints what came out of it and checks that it is what the
//! text says. The first that is not ends the tour with exit status 1.

use std::{
    error::Error,
    ffi::CStr,
    fs,
    io::{BufRead, BufReader, Write, stdin},
    os::unix::fs::{FileExt, PermissionsExt},
    path::Path,
    process::{Child, ChildStdout, Command, ExitCode, ExitStatus, Stdio},
};

use programs::{GUIDE, WRITERS};
use rust_mmapdev::{Access, Device, Mapping, Protection, Sharing};
use rustix::{
    mm::{MsyncFlags, msync},
    param::page_size,
};

type Result<T = ()> = std::result::Result<T, Box<dyn Error>>;

const MODULE: &str = "/rust_mmapdev.ko";
const TEXT: &str = "rust_mmapdev: this text lives in kernel memory";
/// The buffer's text up to the NUL, with calls of read(2).
const READ: &str = "tr '\\0' '\\n' </dev/rust_mmapdev | head -n 1";
const GUIDE_SOURCE: &str = include_str!("../c/guide.c");

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let result = match args.next().as_deref() {
        None => tour(),
        Some("process") => process(&args.next().unwrap_or_default()),
        Some(_) => Err("usage: demo".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("demo: {err}");
            ExitCode::FAILURE
        }
    }
}

fn tour() -> Result {
    if !Path::new(MODULE).exists() {
        return Err(format!("{MODULE} is missing: this runs in the VM, with `make demo`").into());
    }
    println!(
        "\
A tour of rust_mmapdev, in a virtual machine that has just started.
Lines with $ are commands, and below them is what they printed here and now."
    );
    load()?;
    node()?;
    guide()?;
    two_processes()?;
    private()?;
    mutex()?;
    sync()?;
    unload()?;
    println!("\nThat was the tour; every ✓ was checked while it ran.");
    Ok(())
}

fn load() -> Result {
    step("Load the module");
    says(
        "\
The kernel is the program that owns the machine; a module is a piece of code
that it takes in while it runs. This one sets some of the kernel's own memory
aside, the buffer, and leaves a line in the kernel's log.",
    );
    shell("insmod /rust_mmapdev.ko")?;
    let line = shell("dmesg | grep rust_mmapdev: | tail -n 1")?;
    check(
        line.contains(&format!("{} bytes", page_size())),
        "the log says the size of the buffer",
    )
}

fn node() -> Result {
    step("Find the device");
    says(
        "\
Programs reach the module through a file, the device node. It is no file on a
disk: what is read and written here goes to the module (c: a character device).
This is what its buffer holds from the start:",
    );
    let line = shell("ls -l /dev/rust_mmapdev")?;
    check(
        line.starts_with("crw-------"),
        "the node is a character device, and root's",
    )?;
    let text = shell(READ)?;
    check(text.trim() == TEXT, "the buffer holds its text")
}

fn guide() -> Result {
    step("Map it: the guide's C program");
    says(
        "\
mmap makes the kernel's memory part of the program's own: from then on it is
there at an address, and the program looks at it without asking the kernel.
Of a textbook's example only the path was changed:",
    );
    for call in ["open(\"", "mmap(", "printf("] {
        let line = GUIDE_SOURCE.lines().find(|line| line.contains(call));
        println!("    {}", line.ok_or("the C program has changed")?.trim());
    }
    install("guide", GUIDE)?;
    let output = shell("/tmp/guide")?;
    check(
        output == format!("Mapped content: {TEXT}\n"),
        "the program finds the kernel's text in its own memory",
    )
}

fn two_processes() -> Result {
    step("Two processes, one memory");
    says(
        "\
Two programs that know nothing of each other map the same buffer, shared. A
writes into its memory, an ordinary store; B looks into its own.",
    );
    let (mut a, mut b) = (
        Process::start("A", "shared")?,
        Process::start("B", "shared")?,
    );
    a.store("A was here")?;
    check(b.load()? == "A was here", "B sees what A wrote")?;
    b.store("and B too")?;
    check(a.load()? == "and B too", "A sees what B wrote")?;
    says("The kernel never moved a byte for this. Asked with read, it gives the same:");
    let text = shell(READ)?;
    check(text == "and B too\n", "the kernel's read sees what B wrote")?;
    a.end()?;
    b.end()
}

fn private() -> Result {
    step("A private mapping stays private");
    says(
        "\
Mapped privately, the memory begins as the kernel's too, but with the first
store the process gets a copy of the page for itself (copy on write).",
    );
    let mut c = Process::start("C", "private")?;
    check(c.load()? == "and B too", "C begins with the kernel's bytes")?;
    c.store("C's secret")?;
    check(c.load()? == "C's secret", "C sees its own store")?;
    let text = shell(READ)?;
    check(text == "and B too\n", "the kernel's bytes are as they were")?;
    c.end()
}

fn mutex() -> Result {
    const WORKERS: u64 = 4;
    const ROUNDS: u64 = 1000;
    // Where c/writers.c has it.
    const COUNTER: u64 = 8;
    step("Taking turns: a mutex in shared memory");
    says(
        "\
Four processes count in the same eight bytes, each 1000 times: load the number,
add one, store it. It should be 4000 in the end, but when two do that at once,
one of their updates is lost:",
    );
    install("writers", WRITERS)?;
    let count = |object: &str, what: &str| -> Result<u64> {
        ended_well(
            "/tmp/writers",
            Command::new("/tmp/writers")
                .args([object, "init", &WORKERS.to_string()])
                .status()?,
        )?;
        let mut work = Command::new("/tmp/writers");
        work.args([object, "work", &ROUNDS.to_string()]);
        let workers: Vec<Child> = (0..WORKERS)
            .map(|_| work.spawn())
            .collect::<std::io::Result<_>>()?;
        for mut worker in workers {
            ended_well("/tmp/writers", worker.wait()?)?;
        }
        let mut counter = [0; 8];
        fs::File::open(Device::PATH)?.read_exact_at(&mut counter, COUNTER)?;
        let counter = u64::from_ne_bytes(counter);
        println!("    {what}: the number is {counter}");
        Ok(counter)
    };
    check(
        count("none", "no lock")? < WORKERS * ROUNDS,
        "without protection, updates are lost",
    )?;
    says(
        "\
Now with a pthread mutex that lies in the buffer itself. Who finds it taken
sleeps in the kernel until the owner, another process, lets go (a futex):",
    );
    check(
        count("mutex", "a mutex")? == WORKERS * ROUNDS,
        "with the mutex, none is lost",
    )
}

fn sync() -> Result {
    step("msync");
    says(
        "\
Programs that map files call msync to have their changes written to the disk.
They may do so here as well. There is no disk behind this memory, so it is in
order at once:",
    );
    let map = map()?;
    map.write_at(0, b"in order\0")?;
    // SAFETY: the range is the mapping's, and msync leaves its bytes as they are.
    unsafe { msync(map.as_ptr().cast(), map.len(), MsyncFlags::SYNC) }?;
    println!("    msync(mapped, {}, MS_SYNC) = 0", map.len());
    check(
        fs::read(Device::PATH)?.starts_with(b"in order\0"),
        "the kernel has the bytes",
    )
}

fn unload() -> Result {
    step("Unload the module");
    says(
        "\
As long as a process has the memory mapped, the module must stay: its memory
would be gone from under that process. This program has it mapped right now,
and the kernel refuses:",
    );
    let map = map()?;
    let refusal = shell_failing("rmmod rust_mmapdev")?;
    check(
        refusal.contains("temporarily unavailable"),
        "rmmod is refused while it is in use",
    )?;
    drop(map);
    says("Unmapped, nothing holds it any more:");
    shell("rmmod rust_mmapdev")?;
    let modules = shell("lsmod")?;
    check(
        !modules.contains("rust_mmapdev"),
        "the kernel does not list the module any more",
    )?;
    let missing = shell_failing("ls -l /dev/rust_mmapdev")?;
    check(
        missing.contains("No such file"),
        "the device is gone with it",
    )
}

fn map() -> Result<Mapping> {
    Ok(Device::open(Access::ReadWrite)?.map(Sharing::Shared, Protection::ReadWrite)?)
}

/// Begins a step of the tour.
fn step(title: &str) {
    use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
    static STEP: AtomicU32 = AtomicU32::new(1);
    let title = format!("{}. {title}", STEP.fetch_add(1, Relaxed));
    println!("\n\n{title}\n{}", "-".repeat(title.len()));
}

fn says(text: &str) {
    println!("\n{text}\n");
}

/// Says that `claim` holds, or ends the tour.
fn check(holds: bool, claim: &str) -> Result {
    if !holds {
        return Err(format!("this does not hold: {claim}").into());
    }
    println!("  ✓ {claim}");
    Ok(())
}

/// Runs a command line, shows it with its output and returns that.
fn shell(line: &str) -> Result<String> {
    let (output, ended_well) = run(line)?;
    if ended_well {
        Ok(output)
    } else {
        Err(format!("`{line}` failed").into())
    }
}

/// A command line that must fail.
fn shell_failing(line: &str) -> Result<String> {
    let (output, ended_well) = run(line)?;
    if ended_well {
        Err(format!("`{line}` must fail").into())
    } else {
        Ok(output)
    }
}

fn run(line: &str) -> Result<(String, bool)> {
    println!("    $ {line}");
    let output = Command::new("sh")
        .args(["-c", &format!("exec 2>&1; {line}")])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines().for_each(|line| println!("    {line}"));
    Ok((text, output.status.success()))
}

/// A C program that is part of this one becomes a file.
fn install(name: &str, image: &[u8]) -> Result {
    let path = format!("/tmp/{name}");
    fs::write(&path, image)?;
    Ok(fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o755),
    )?)
}

fn ended_well(name: &str, status: ExitStatus) -> Result {
    if status.success() {
        Ok(())
    } else {
        Err(format!("{name}: {status}").into())
    }
}

/// Another process that has the buffer mapped, and stores and loads as it is told.
struct Process {
    name: &'static str,
    child: Child,
    answers: BufReader<ChildStdout>,
}

impl Process {
    fn start(name: &'static str, sharing: &str) -> Result<Self> {
        let mut child = Command::new("/proc/self/exe")
            .args(["process", sharing])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let answers = BufReader::new(child.stdout.take().ok_or("no pipe")?);
        println!(
            "    {name} (process {}) maps {}, {sharing}",
            child.id(),
            Device::PATH
        );
        Ok(Self {
            name,
            child,
            answers,
        })
    }

    fn ask(&mut self, order: &str) -> Result<String> {
        let mut orders = self.child.stdin.as_ref().ok_or("no pipe")?;
        orders.write_all(format!("{order}\n").as_bytes())?;
        let mut answer = String::new();
        self.answers.read_line(&mut answer)?;
        answer
            .strip_suffix('\n')
            .map(str::to_owned)
            .ok_or("the process has ended early".into())
    }

    fn store(&mut self, text: &str) -> Result {
        self.ask(text)?;
        println!("    {} stores \"{text}\"", self.name);
        Ok(())
    }

    fn load(&mut self) -> Result<String> {
        let text = self.ask("")?;
        println!("    {} finds  \"{text}\"", self.name);
        Ok(text)
    }

    fn end(mut self) -> Result {
        drop(self.child.stdin.take());
        ended_well(self.name, self.child.wait()?)
    }
}

/// What such a process does: stores each line that it is given, and answers with the text that
/// is there then. An empty line stores nothing.
fn process(sharing: &str) -> Result {
    let sharing = if sharing == "private" {
        Sharing::Private
    } else {
        Sharing::Shared
    };
    let map = Device::open(Access::ReadWrite)?.map(sharing, Protection::ReadWrite)?;
    for line in stdin().lines() {
        let line = line?;
        if !line.is_empty() {
            map.write_at(0, format!("{line}\0").as_bytes())?;
        }
        let mut bytes = vec![0; map.len()];
        map.read_at(0, &mut bytes)?;
        println!("{}", CStr::from_bytes_until_nul(&bytes)?.to_str()?);
    }
    Ok(())
}
