// SPDX-License-Identifier: GPL-2.0
//! Processes: forked ones, unrelated ones, C programs; and the links that order what they do.

use std::{
    fs::{self, File},
    io::{IoSlice, IoSliceMut, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::{net::UnixStream, process::ExitStatusExt},
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    process::{Command, ExitStatus, Output, Stdio},
    ptr,
    thread::sleep,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::{MemfdFlags, OFlags, memfd_create},
    io::{self, Errno},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, recvmsg, sendmsg,
    },
    process::{
        Pid, PidfdFlags, Signal, WaitOptions, WaitStatus, kill_process, pidfd_open, wait, waitpid,
    },
    thread::{CpuSet, sched_setaffinity},
    time::Timespec,
};

use super::{
    memory::{Advice, Map},
    system_call,
};

/// One end of a line between two processes. Waiting ends with a panic when the other is gone.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    fn pair() -> (Self, Self) {
        let (a, b) = UnixStream::pair().expect("socketpair");
        (Self(a.into()), Self(b.into()))
    }

    /// The end that a role is given as its standard input.
    pub fn of_role() -> Self {
        Self(std::io::stdin().as_fd().try_clone_to_owned().expect("dup"))
    }

    pub fn send(&self, value: u64) {
        assert_eq!(
            io::write(&self.0, &value.to_ne_bytes()),
            Ok(8),
            "send to the other process"
        );
    }

    #[track_caller]
    pub fn receive(&self) -> u64 {
        let mut value = [0; 8];
        match io::read(&self.0, &mut value) {
            Ok(8) => u64::from_ne_bytes(value),
            result => panic!("the other process ended early: {result:?}"),
        }
    }

    /// Lets the other process pass its `wait`.
    pub fn signal(&self) {
        self.send(0);
    }

    /// Waits for the other process's `signal`.
    #[track_caller]
    pub fn wait(&self) {
        self.receive();
    }
}

impl AsFd for Link {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Sends a descriptor over a socket: SCM_RIGHTS of unix(7).
pub fn pass(socket: impl AsFd, fd: &impl AsFd) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = [fd.as_fd()];
    assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
    let byte = [IoSlice::new(b"!")];
    sendmsg(socket, &byte, &mut control, SendFlags::empty()).expect("sendmsg");
}

/// Receives a descriptor that was sent with [`pass`].
pub fn passed(socket: impl AsFd) -> OwnedFd {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0];
    recvmsg(
        socket,
        &mut [IoSliceMut::new(&mut byte)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC,
    )
    .expect("recvmsg");
    let message = control.drain().next();
    match message {
        Some(RecvAncillaryMessage::ScmRights(mut fds)) => fds.next().expect("a descriptor"),
        _ => panic!("no descriptor came"),
    }
}

/// A process of the test's, killed and waited for when dropped.
#[derive(Debug)]
pub struct Child<L = Link> {
    pub pid: Pid,
    pub link: L,
    ended: bool,
}

/// fork(2): the child's pid, and [`None`] in the child. In a process of several threads the child is
/// to need no lock of theirs.
pub fn try_fork() -> io::Result<Option<Pid>> {
    // SAFETY: libc's fork leaves the child a heap that works; for the rest, see above.
    let pid = system_call(unsafe { libc::fork() })?;
    Ok(Pid::from_raw(pid as i32))
}

/// Ends the process, whatever its other threads do, without running what its parent has registered.
pub fn end(status: i32) -> ! {
    // SAFETY: nothing is run but the kernel's exit.
    unsafe { libc::_exit(status) }
}

/// What a child does, and how it ends.
fn run(body: impl FnOnce()) -> ! {
    let result = catch_unwind(AssertUnwindSafe(body));
    end(if result.is_ok() { 0 } else { 101 })
}

/// Forks; the child runs `body` and ends with it.
pub fn fork(body: impl FnOnce(&Link)) -> Child {
    let (ours, theirs) = Link::pair();
    match try_fork().expect("fork") {
        None => {
            drop(ours);
            run(|| body(&theirs))
        }
        Some(pid) => Child::new(pid, ours),
    }
}

/// The same without a link, where memory may have run out.
pub fn try_spawn(body: impl FnOnce()) -> io::Result<Child<()>> {
    match try_fork()? {
        None => run(body),
        Some(pid) => Ok(Child::new(pid, ())),
    }
}

fn exit_status(status: WaitStatus) -> ExitStatus {
    ExitStatus::from_raw(status.as_raw())
}

/// One of this process's children that has ended, and how; also one that was handed to it. ECHILD
/// when there are none.
pub fn any_end() -> io::Result<Option<(Pid, ExitStatus)>> {
    let ended = wait(WaitOptions::NOHANG)?;
    Ok(ended.map(|(pid, status)| (pid, exit_status(status))))
}

/// Waits for all of this process's children, also those that were handed to it.
pub fn all_end_within(limit: Duration) -> bool {
    let start = Instant::now();
    loop {
        match any_end() {
            Ok(Some(_)) => {}
            Ok(None) if start.elapsed() > limit => return false,
            Ok(None) => sleep(Duration::from_millis(1)),
            Err(err) => {
                assert_eq!(err, Errno::CHILD, "wait");
                return true;
            }
        }
    }
}

/// Whether a process ends in time. It still is to be waited for.
pub fn ends_within(pid: Pid, limit: Duration) -> io::Result<bool> {
    let pidfd = pidfd_open(pid, PidfdFlags::empty())?;
    let mut fds = [PollFd::from_borrowed_fd(pidfd.as_fd(), PollFlags::IN)];
    let limit = Timespec::try_from(limit).expect("a time limit fits");
    Ok(poll(&mut fds, Some(&limit))? > 0)
}

/// Every program that a test starts as an unrelated process.
#[linkme::distributed_slice]
pub static ROLES: [Role];

/// A program that a test starts as an unrelated process: the same binary, executed anew.
pub struct Role {
    pub name: &'static str,
    pub body: fn(&Link, &[String]),
}

/// Starts a role: a process that inherits neither memory nor descriptors.
pub fn start(role: &Role, args: &[&str]) -> Child {
    let mut command = Command::new("/proc/self/exe");
    command.args(["--role", role.name]).args(args);
    start_linked(command)
}

/// Starts a program with a link as its standard input.
pub fn start_linked(mut command: Command) -> Child {
    let (ours, theirs) = Link::pair();
    // `Child` waits, by the pid.
    #[allow(clippy::zombie_processes)]
    let child = command
        .stdin(theirs.0)
        .spawn()
        .unwrap_or_else(|err| panic!("start {command:?}: {err}"));
    Child::new(Pid::from_child(&child), ours)
}

impl<L> Child<L> {
    /// A child that nobody else waits for.
    pub fn new(pid: Pid, link: L) -> Self {
        Self {
            pid,
            link,
            ended: false,
        }
    }

    /// Waits for the end, however it comes.
    pub fn wait(mut self) -> ExitStatus {
        self.reap(WaitOptions::empty()).expect("an end")
    }

    /// How it has ended, if it has.
    pub fn try_wait(&mut self) -> Option<ExitStatus> {
        self.reap(WaitOptions::NOHANG)
    }

    /// Drops one that [`any_end`] has waited for.
    pub fn reaped(mut self) {
        self.ended = true;
    }

    /// Waits for a good end.
    #[track_caller]
    pub fn join(self) {
        let status = self.wait();
        assert!(status.success(), "the other process ended with {status}");
    }

    /// Waits for an end by `signal`.
    #[track_caller]
    pub fn dies_of(self, signal: Signal) {
        let status = self.wait();
        assert_eq!(
            status.signal(),
            Some(signal.as_raw()),
            "the other process must die of {signal:?}, ended with {status}"
        );
    }

    /// kill -9, and waits for the end.
    pub fn kill(self) {
        kill_process(self.pid, Signal::KILL).expect("kill");
        self.dies_of(Signal::KILL);
    }

    fn reap(&mut self, options: WaitOptions) -> Option<ExitStatus> {
        let (_, status) = waitpid(Some(self.pid), options).expect("waitpid")?;
        self.ended = true;
        Some(exit_status(status))
    }
}

impl<L> Drop for Child<L> {
    fn drop(&mut self) {
        if !self.ended {
            let _ = kill_process(self.pid, Signal::KILL);
            self.reap(WaitOptions::empty());
        }
    }
}

/// A process that has a fresh mapping of the device, at the address that it sends.
pub fn mapper(map: impl FnOnce(OwnedFd) -> Map) -> (Child, usize) {
    let child = fork(|link| {
        let map = map(super::open(OFlags::RDWR));
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        link.send(map.at(0) as u64);
        link.wait();
    });
    let address = child.link.receive() as usize;
    (child, address)
}

/// Stops `child` under ptrace, calls `body`, and lets it go on.
pub fn traced(child: &Child, body: impl FnOnce(i32)) {
    let pid = child.pid.as_raw_nonzero().get();
    let none = ptr::null_mut::<libc::c_void>();
    // SAFETY: requests about another process, with no memory of ours involved.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, pid, none, none), 0);
        assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, pid, none, none), 0);
        let mut status = 0;
        assert_eq!(libc::waitpid(pid, &raw mut status, 0), pid);
        assert!(libc::WIFSTOPPED(status));
        body(pid);
        assert_eq!(libc::ptrace(libc::PTRACE_DETACH, pid, none, none), 0);
    }
}

/// A child that runs `body` must be killed by `signal` for it.
#[track_caller]
pub fn assert_dies_of(signal: Signal, body: impl FnOnce()) {
    fork(|_| body()).dies_of(signal);
}

/// A C program that is part of this binary.
pub struct Program(File);

impl Program {
    pub fn new(image: &[u8]) -> Self {
        let mut file =
            File::from(memfd_create("program", MemfdFlags::empty()).expect("memfd_create"));
        file.write_all(image).expect("write the program");
        // Opened anew for reading: a file that is open for writing cannot be executed.
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        Self(File::open(path).expect("open the program"))
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(format!("/proc/self/fd/{}", self.0.as_raw_fd()));
        command.args(args).stdin(Stdio::null());
        command
    }

    /// Runs it to its good end.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> Output {
        let output = self.command(args).output().expect("run the program");
        assert!(
            output.status.success(),
            "{args:?}: {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        output
    }
}

/// This thread, and those that it starts from now on, run on one CPU.
pub fn run_on(cpu: usize) {
    let mut set = CpuSet::new();
    set.set(cpu);
    sched_setaffinity(None, &set).expect("sched_setaffinity");
}

/// Where the VM has two CPUs, one of them is away until this is dropped.
pub struct OneCpu(());

impl OneCpu {
    const ONLINE: &str = "/sys/devices/system/cpu/cpu1/online";

    /// [`None`]: there is no other.
    pub fn new() -> Option<Self> {
        Path::new(Self::ONLINE).exists().then(|| {
            Self::set("0");
            Self(())
        })
    }

    fn set(value: &str) {
        fs::write(Self::ONLINE, value)
            .unwrap_or_else(|err| panic!("{value} to {}: {err}", Self::ONLINE));
    }
}

impl Drop for OneCpu {
    // Not what it was before: somebody else may have taken it away, too, for a moment.
    fn drop(&mut self) {
        Self::set("1");
    }
}

/// User and group of who owns nothing.
pub const NOBODY: u32 = 65534;

/// Gives up root for good.
pub fn become_nobody() {
    // SAFETY: no memory is involved.
    let results = unsafe {
        [
            libc::setgroups(0, std::ptr::null()),
            libc::setresgid(NOBODY, NOBODY, NOBODY),
            libc::setresuid(NOBODY, NOBODY, NOBODY),
        ]
    };
    assert_eq!(results, [0; 3], "setgroups, setresgid, setresuid");
}
