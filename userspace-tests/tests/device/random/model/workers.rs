// SPDX-License-Identifier: GPL-2.0
//! The processes that make the calls for real, each when it is told to.

use std::{
    cell::UnsafeCell,
    mem::{ManuallyDrop, MaybeUninit, forget},
    os::{fd::OwnedFd, unix::process::ExitStatusExt},
    ptr,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use rust_mmapdev::{Access, uapi::RUST_MMAPDEV_IOC_CLEAR};
use rustix::{
    fs::{MemfdFlags, OFlags, SeekFrom, memfd_create, seek},
    io,
    mm::{self, MremapFlags},
    process::{Pid, Signal, kill_process},
    thread::futex,
    time::Timespec,
};

use super::{
    super::operation::sharing_flag, Call, DESCRIPTORS, Outcome, PROCESSES, Places, TRANSFER,
    Target, bytes,
};
use crate::support::{
    ioctl,
    memory::{self, Map, MapFlags, PRIVATE, ProtFlags, RW, SHARED, page, skewed},
    open,
    process::{Child, end, try_spawn},
    shared::{Shared, Zeroed},
    system_call,
    touch::{catch_signals, touch},
};

/// Whose turn it is.
const CALLER: u32 = 0;
const WORKER: u32 = 1;

/// What a call and its outcome are handed over in.
struct Letter {
    turn: AtomicU32,
    call: UnsafeCell<MaybeUninit<Call>>,
    outcome: UnsafeCell<MaybeUninit<io::Result<usize>>>,
}

// SAFETY: `call` and `outcome` are accessed by that side only whose turn it is.
unsafe impl Sync for Letter {}

// SAFETY: it is the caller's turn, and nothing is written yet.
unsafe impl Zeroed for Letter {}

impl Letter {
    fn pass(&self, to: u32) {
        self.turn.store(to, SeqCst);
        futex::wake(&self.turn, futex::Flags::empty(), 1).expect("futex");
    }

    /// Waits for the other side, for some time.
    fn wait(&self, other: u32, limit: Option<&Timespec>) {
        let _ = futex::wait(&self.turn, futex::Flags::empty(), other, limit);
    }
}

pub struct Workers {
    letters: Shared<[Letter; PROCESSES]>,
    /// The bytes that go with them.
    bytes: Map,
    /// The addresses that windows are mapped at, in every process.
    places: Map,
    processes: [Option<Child<()>>; PROCESSES],
}

impl Workers {
    /// One process, which has nothing open.
    pub fn new(places: usize) -> Self {
        let mut this = Self {
            letters: Shared::new(),
            bytes: memory::anonymous(PROCESSES * TRANSFER, RW, SHARED),
            places: skewed(0, places * page()),
            processes: [const { None }; PROCESSES],
        };
        let first = try_spawn(|| work(&this, 0)).expect("fork");
        this.processes[0] = Some(first);
        this
    }

    /// Where the bytes of a process's letter are.
    fn bytes_of(process: usize) -> usize {
        process * TRANSFER * page()
    }

    /// Has a process make a call. The error says how the process ended instead.
    pub fn make(&mut self, process: usize, call: Call) -> Result<Outcome, String> {
        let child = self.processes[process].as_mut().expect("it is alive");
        if let Call::Kill = call {
            kill_process(child.pid, Signal::KILL).expect("kill");
            return self.end(process, Some(libc::SIGKILL));
        }
        if let Call::Sysctl(sysctl) = call {
            sysctl.set();
            return Ok(Outcome::Done(0));
        }
        let letter = &self.letters[process];
        // SAFETY: it is our turn.
        unsafe { (*letter.call.get()).write(call) };
        letter.pass(WORKER);
        if let Call::Exit = call {
            return self.end(process, None);
        }
        // Wakes up now and then to see whether the worker is still there.
        let limit = Timespec {
            tv_sec: 0,
            tv_nsec: 50_000_000,
        };
        while letter.turn.load(SeqCst) == WORKER {
            letter.wait(WORKER, Some(&limit));
            if let Some(status) = child.try_wait() {
                self.processes[process] = None;
                return Err(format!("the process ended with {status}"));
            }
        }
        // SAFETY: it is our turn, and the worker has written an outcome.
        let outcome = unsafe { (*letter.outcome.get()).assume_init_read() };
        Ok(match (call, outcome) {
            (_, Err(errno)) => Outcome::Failed(errno),
            (Call::Fork { child }, Ok(pid)) => {
                let pid = Pid::from_raw(pid as i32).expect("a child's");
                self.processes[child] = Some(Child::new(pid, ()));
                Outcome::Done(0)
            }
            (Call::Read { .. } | Call::Load(_) | Call::CopyOut(_), Ok(len)) => {
                Outcome::Bytes(self.bytes.read(Self::bytes_of(process), len))
            }
            (_, Ok(value)) => Outcome::Done(value),
        })
    }

    /// Waits for the end of a process that is to end, by a signal or well.
    fn end(&mut self, process: usize, signal: Option<i32>) -> Result<Outcome, String> {
        let child = self.processes[process].take().expect("it is alive");
        let status = child.wait();
        match status.signal() == signal && (signal.is_some() || status.success()) {
            true => Ok(Outcome::Done(0)),
            false => Err(format!("the process ended with {status}")),
        }
    }
}

/// A worker's own: its descriptors, and a file to copy from and to.
struct Worker<'a> {
    common: &'a Workers,
    files: [Option<OwnedFd>; DESCRIPTORS],
    file: OwnedFd,
}

/// The life of process `process`.
fn work(common: &Workers, process: usize) -> ! {
    catch_signals();
    let mut worker = Worker {
        common,
        files: [const { None }; DESCRIPTORS],
        file: memfd_create("file", MemfdFlags::CLOEXEC).expect("memfd_create"),
    };
    worker.run(process)
}

impl Worker<'_> {
    fn run(&mut self, mut process: usize) -> ! {
        loop {
            let letter = &self.common.letters[process];
            while letter.turn.load(SeqCst) == CALLER {
                letter.wait(CALLER, None);
            }
            // SAFETY: it is our turn, and the caller has written a call.
            let call = unsafe { (*letter.call.get()).assume_init_read() };
            if let Call::Exit = call {
                end(0)
            }
            let outcome = if let Call::Fork { child } = call {
                // Before the test can have a call for it.
                self.common.letters[child].turn.store(CALLER, SeqCst);
                // A sibling, which the test waits for as for the others.
                // SAFETY: as fork(2); this process has one thread.
                let pid = unsafe {
                    libc::syscall(
                        libc::SYS_clone,
                        libc::CLONE_PARENT | libc::SIGCHLD,
                        0,
                        0,
                        0,
                        0,
                    )
                };
                if pid == 0 {
                    process = child;
                    self.fill_gaps(Places {
                        first: 0,
                        count: self.common.places.len() / page(),
                    });
                    continue;
                }
                system_call(pid)
            } else {
                self.make(call, Workers::bytes_of(process))
            };
            // SAFETY: it is our turn.
            unsafe { (*letter.outcome.get()).write(outcome) };
            letter.pass(CALLER);
        }
    }

    /// The places' memory, which is not unmapped with its owner.
    fn range(&self, places: Places) -> ManuallyDrop<Map> {
        let all = &self.common.places;
        ManuallyDrop::new(all.part(places.first * page(), places.count * page()))
    }

    /// Takes places that are free, so that nobody else gets them, or with [`MapFlags::FIXED`] those
    /// that are not.
    fn fill(&self, places: Places, flags: MapFlags) -> io::Result<()> {
        let (start, len) = (self.range(places).at(0), places.count * page());
        // SAFETY: what is mapped there is ours, and is not accessed any more.
        unsafe { mm::mmap_anonymous(start.cast(), len, ProtFlags::empty(), PRIVATE | flags) }?;
        Ok(())
    }

    /// Takes those that a fork has left out. Nothing is allocated before that.
    fn fill_gaps(&self, places: Places) {
        let (start, len) = (self.range(places).at(0), places.count * page());
        // SAFETY: this only looks for gaps.
        let has_none = unsafe { libc::msync(start.cast(), len, libc::MS_ASYNC) } == 0;
        if has_none || self.fill(places, MapFlags::FIXED_NOREPLACE).is_ok() {
            return;
        }
        let count = places.count / 2;
        self.fill_gaps(Places { count, ..places });
        self.fill_gaps(Places {
            first: places.first + count,
            count: places.count - count,
        });
    }

    /// mremap(2) to `count` pages. Returns the place where they are.
    fn remap(
        &self,
        from: Places,
        count: usize,
        to: Option<Target>,
        flags: MremapFlags,
    ) -> io::Result<usize> {
        let mut range = self.range(from);
        let Some(Target { place: first, .. }) = to else {
            range.remap(count * page(), flags)?;
            let moved = range.at(0) as usize - self.common.places.at(0) as usize;
            return Ok(moved / page());
        };
        let place = ManuallyDrop::into_inner(self.range(Places { first, count }));
        forget(range.remap_part_onto(range.len(), place, flags)?);
        Ok(first)
    }

    /// Bytes go to the memory for them, from `bytes_at` on.
    fn make(&mut self, call: Call, bytes_at: usize) -> io::Result<usize> {
        let fd = |fd: usize| self.files[fd].as_ref().expect("it is open");
        match call {
            Call::Open(mode) => {
                let free = self.files.iter().position(Option::is_none);
                let free = free.expect("there is room");
                self.files[free] = Some(open(match mode {
                    Access::Read => OFlags::RDONLY,
                    Access::Write => OFlags::WRONLY,
                    Access::ReadWrite => OFlags::RDWR,
                }));
                Ok(free)
            }
            Call::Close(fd) => {
                self.files[fd] = None;
                Ok(0)
            }
            Call::Seek { fd: i, offset } => {
                Ok(seek(fd(i), SeekFrom::Start(offset as u64))? as usize)
            }
            Call::Read { fd: i, offset, len } => {
                // SAFETY: nobody else accesses it in our turn.
                let buf = unsafe { self.common.bytes.as_mut_slice(bytes_at, len) };
                match offset {
                    Some(offset) => io::pread(fd(i), buf, offset as u64),
                    None => io::read(fd(i), buf),
                }
            }
            Call::Write {
                fd: i,
                offset,
                len,
                seed,
            } => match offset {
                Some(offset) => io::pwrite(fd(i), &bytes(seed.into(), len), offset as u64),
                None => io::write(fd(i), &bytes(seed.into(), len)),
            },
            Call::Clear(i) => ioctl(fd(i), RUST_MMAPDEV_IOC_CLEAR, ptr::null_mut()),
            Call::Map {
                fd: i,
                page: first,
                count,
                sharing,
                protection,
                to,
            } => {
                let (flags, protection) = (sharing_flag(sharing), protection.flags());
                let (offset, len) = ((first * page()) as u64, count * page());
                // Somewhere first: a refused MAP_FIXED may leave a gap.
                drop(memory::mmap(fd(i), offset, len, protection, flags)?);
                let first = to.place;
                let range = self.range(Places { first, count });
                range.fixed(fd(i), offset, protection, flags)?;
                Ok(first)
            }
            Call::Unmap(places) => {
                let range = self.range(places);
                range.unmap_part(0, range.len())?;
                self.fill(places, MapFlags::FIXED_NOREPLACE)?;
                Ok(0)
            }
            Call::Move { from, to, keep } => {
                let flags = match keep {
                    true => MremapFlags::DONTUNMAP,
                    false => MremapFlags::empty(),
                };
                let first = self.remap(from, from.count, Some(to), flags)?;
                if !keep {
                    self.fill(from, MapFlags::FIXED_NOREPLACE)?;
                }
                Ok(first)
            }
            Call::Shrink { from, count } => {
                let first = self.remap(from, count, None, MremapFlags::empty())?;
                let rest = Places {
                    first: from.first + count,
                    count: from.count - count,
                };
                self.fill(rest, MapFlags::FIXED_NOREPLACE)?;
                Ok(first)
            }
            Call::Grow { from, more, to } => {
                if to.is_none() {
                    let range = self.range(Places {
                        first: from.end(),
                        count: more,
                    });
                    range.unmap_part(0, range.len())?;
                }
                let first = self.remap(from, from.count + more, to, MremapFlags::empty())?;
                if to.is_some() {
                    self.fill(from, MapFlags::FIXED_NOREPLACE)?;
                }
                Ok(first)
            }
            Call::Duplicate { from, count, to } => {
                let nothing = Places {
                    first: from,
                    count: 0,
                };
                self.remap(nothing, count, Some(to), MremapFlags::empty())
            }
            Call::Protect(places, protection) => protection.set(&self.range(places)).map(|()| 0),
            Call::Advise(places, advice) => advice.give(&self.range(places)).map(|()| 0),
            Call::Lock(places) => self.range(places).lock().map(|()| 0),
            Call::Unlock(places) => self.range(places).unlock().map(|()| 0),
            Call::Touch { place, write } => {
                let at = self.common.places.at(place * page()) as usize;
                let signal = touch(at, write).err();
                Ok(signal.map_or(0, |signal| signal.as_raw() as usize))
            }
            Call::Load(span) => {
                let bytes = self.common.places.read(span.at(), span.len);
                self.common.bytes.write(bytes_at, &bytes);
                Ok(span.len)
            }
            Call::Store(span, seed) => {
                let bytes = bytes(seed.into(), span.len);
                self.common.places.write(span.at(), &bytes);
                Ok(span.len)
            }
            Call::CopyOut(span) => {
                // SAFETY: the address is for the kernel only.
                let memory = unsafe { self.common.places.as_slice(span.at(), span.len) };
                let copied = io::pwrite(&self.file, memory, 0)?;
                // SAFETY: nobody else accesses it in our turn.
                let buf = unsafe { self.common.bytes.as_mut_slice(bytes_at, copied) };
                io::pread(&self.file, buf, 0)
            }
            Call::CopyIn(span, seed) => {
                let bytes = bytes(seed.into(), span.len);
                assert_eq!(io::pwrite(&self.file, &bytes, 0), Ok(span.len));
                // SAFETY: the address is for the kernel only.
                let memory = unsafe { self.common.places.as_mut_slice(span.at(), span.len) };
                io::pread(&self.file, memory, 0)
            }
            Call::Fork { .. } | Call::Exit | Call::Kill | Call::Sysctl(_) => {
                unreachable!("not for `make`")
            }
        }
    }
}
