// SPDX-License-Identifier: GPL-2.0
//! The processes that make the calls for real, each when it is told to.

use std::{
    mem::{ManuallyDrop, MaybeUninit},
    os::fd::OwnedFd,
    ptr,
    sync::atomic::{AtomicU32, Ordering::SeqCst},
};

use rust_mmapdev::{Access, Sharing};
use rustix::{
    fs::{MemfdFlags, OFlags, SeekFrom, memfd_create, seek},
    io::{self, Errno},
    mm,
    process::{Pid, Signal, WaitOptions, WaitStatus, kill_process, waitpid},
    thread::futex,
    time::Timespec,
};

use super::{
    Advice, Call, DESCRIPTORS, Outcome, PROCESSES, Places, Protection, TRANSFER, Target, bytes,
};
use crate::support::{
    memory::{
        self, GUARD_INSTALL, GUARD_REMOVE, Map, MapFlags, MprotectFlags, PRIVATE, ProtFlags, RW,
        SHARED, page, skewed,
    },
    open,
    process::{end, try_fork},
    system_call,
    touch::{catch_signals, touch},
};

/// Whose turn it is.
const CALLER: u32 = 0;
const WORKER: u32 = 1;

/// What a call and its outcome are handed over in, in memory that all processes share. Bytes
/// follow it.
#[repr(C)]
struct Letter {
    turn: AtomicU32,
    call: MaybeUninit<Call>,
    outcome: MaybeUninit<Result<usize, Errno>>,
    has_bytes: bool,
}

/// Where a process's letter lies.
#[derive(Clone, Copy)]
struct Mailbox(*mut Letter);

impl Mailbox {
    const fn size() -> usize {
        size_of::<Letter>().next_multiple_of(64)
    }

    fn turn(&self) -> &AtomicU32 {
        // SAFETY: the letters live as long as the test, and `turn` is accessed as an atomic only.
        unsafe { &(*self.0).turn }
    }

    fn bytes(&self) -> *mut u8 {
        self.0.cast::<u8>().wrapping_add(Self::size())
    }

    fn pass(&self, to: u32) {
        self.turn().store(to, SeqCst);
        futex::wake(self.turn(), futex::Flags::empty(), 1).expect("futex");
    }
}

pub struct Workers {
    letters: Map,
    /// The addresses that windows are mapped at, in every process.
    places: Map,
    pids: [Option<Pid>; PROCESSES],
}

impl Workers {
    /// One process, which has nothing open.
    pub fn new(places: usize) -> Self {
        let pages = PROCESSES * Self::letter_pages();
        let mut this = Self {
            letters: memory::anonymous(pages, RW, SHARED),
            places: skewed(0, places * page()),
            pids: [None; PROCESSES],
        };
        match try_fork().expect("fork") {
            None => work(&this, 0),
            pid => this.pids[0] = pid,
        }
        this
    }

    fn letter_pages() -> usize {
        1 + TRANSFER
    }

    fn letter(&self, process: usize) -> Mailbox {
        Mailbox(
            self.letters
                .at(process * Self::letter_pages() * page())
                .cast(),
        )
    }

    /// Has a process make a call. The error says how the process ended instead.
    pub fn make(&mut self, process: usize, call: Call) -> Result<Outcome, String> {
        let pid = self.pids[process].expect("it is alive");
        if let Call::Kill = call {
            kill_process(pid, Signal::KILL).expect("kill");
            return self.end(process, Some(Signal::KILL.as_raw()));
        }
        if let Call::Sysctl(sysctl) = call {
            sysctl.set();
            return Ok(Outcome::Done(0));
        }
        let letter = self.letter(process);
        // SAFETY: it is our turn to access the letter.
        unsafe { (*letter.0).call.write(call) };
        letter.pass(WORKER);
        if let Call::Exit = call {
            return self.end(process, None);
        }
        // Wakes up now and then to see whether the worker is still there.
        let limit = Timespec {
            tv_sec: 0,
            tv_nsec: 50_000_000,
        };
        while letter.turn().load(SeqCst) == WORKER {
            let _ = futex::wait(letter.turn(), futex::Flags::empty(), WORKER, Some(&limit));
            let ended = waitpid(Some(pid), WaitOptions::NOHANG).expect("waitpid");
            if let Some((_, status)) = ended {
                self.pids[process] = None;
                return Err(describe(status));
            }
        }
        // SAFETY: it is our turn, and the worker has written an outcome.
        let (outcome, has_bytes) = unsafe {
            (
                (*letter.0).outcome.assume_init_read(),
                (*letter.0).has_bytes,
            )
        };
        if let (Call::Fork { child }, Ok(pid)) = (call, outcome) {
            self.pids[child] = Pid::from_raw(pid as i32);
            return Ok(Outcome::Done(0));
        }
        Ok(match outcome {
            Err(errno) => Outcome::Failed(errno),
            Ok(len) if has_bytes => {
                let mut bytes = vec![0; len];
                // SAFETY: the worker has left `len` bytes there.
                unsafe { memory::copy_out(letter.bytes(), &mut bytes) };
                Outcome::Bytes(bytes)
            }
            Ok(value) => Outcome::Done(value),
        })
    }

    /// Waits for the end of a process that is to end.
    fn end(&mut self, process: usize, signal: Option<i32>) -> Result<Outcome, String> {
        let pid = self.pids[process].take().expect("it is alive");
        let (_, status) = waitpid(Some(pid), WaitOptions::empty())
            .expect("waitpid")
            .expect("an end");
        if status.terminating_signal() == signal {
            Ok(Outcome::Done(0))
        } else {
            Err(describe(status))
        }
    }
}

fn describe(status: WaitStatus) -> String {
    match status.terminating_signal() {
        Some(signal) => format!("the process died of signal {signal}"),
        None => format!("the process ended with {status:?}"),
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        for pid in self.pids.iter().flatten() {
            let _ = kill_process(*pid, Signal::KILL);
            let _ = waitpid(Some(*pid), WaitOptions::empty());
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
            let letter = self.common.letter(process);
            while letter.turn().load(SeqCst) == CALLER {
                let _ = futex::wait(letter.turn(), futex::Flags::empty(), CALLER, None);
            }
            // SAFETY: it is our turn, and the caller has written a call.
            let call = unsafe { (*letter.0).call.assume_init_read() };
            if let Call::Exit = call {
                end(0)
            }
            let outcome = if let Call::Fork { child } = call {
                // Before the test can have a call for it.
                self.common.letter(child).turn().store(CALLER, SeqCst);
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
                self.make(call, letter)
            };
            let has_bytes = matches!(
                call,
                Call::Read { .. } | Call::Load { .. } | Call::CopyOut { .. }
            );
            // SAFETY: it is our turn.
            unsafe {
                (*letter.0).outcome.write(outcome);
                (*letter.0).has_bytes = has_bytes;
            }
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
        flags: i32,
    ) -> io::Result<usize> {
        let start = self.common.places.at(0);
        let at = |place: usize| start.wrapping_add(place * page()).cast();
        let (flags, to) = match to {
            Some(to) => (flags | libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED, to.place),
            None => (flags, 0),
        };
        let (old_len, new_len) = (from.count * page(), count * page());
        // SAFETY: what is mapped at the places is ours, and nothing refers to it.
        let new = unsafe { libc::mremap(at(from.first), old_len, new_len, flags, at(to)) };
        let new = system_call(new as isize)?;
        Ok((new - start as usize) / page())
    }

    fn make(&mut self, call: Call, letter: Mailbox) -> io::Result<usize> {
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
                // SAFETY: the letter has room, and nobody else accesses it in our turn.
                let buf = unsafe { std::slice::from_raw_parts_mut(letter.bytes(), len) };
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
            Call::Clear(i) => {
                let request = rust_mmapdev::uapi::RUST_MMAPDEV_IOC_CLEAR as libc::Ioctl;
                use std::os::fd::AsRawFd;
                // SAFETY: CLEAR takes no argument.
                system_call(unsafe { libc::ioctl(fd(i).as_raw_fd(), request) })
            }
            Call::Map {
                fd: i,
                page: first,
                count,
                sharing,
                protection,
                to,
            } => {
                let flags = match sharing {
                    Sharing::Shared => SHARED,
                    Sharing::Private => PRIVATE,
                };
                let protection = match protection {
                    Protection::None => ProtFlags::empty(),
                    Protection::Read => ProtFlags::READ,
                    Protection::ReadWrite => RW,
                    Protection::Exec => ProtFlags::READ | ProtFlags::EXEC,
                };
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
                let flags = if keep { libc::MREMAP_DONTUNMAP } else { 0 };
                let first = self.remap(from, from.count, Some(to), flags)?;
                if !keep {
                    self.fill(from, MapFlags::FIXED_NOREPLACE)?;
                }
                Ok(first)
            }
            Call::Shrink { from, count } => {
                let first = self.remap(from, count, None, 0)?;
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
                let first = self.remap(from, from.count + more, to, 0)?;
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
                self.remap(nothing, count, Some(to), 0)
            }
            Call::Protect(places, protection) => {
                let result = self.range(places).protect(match protection {
                    Protection::None => MprotectFlags::empty(),
                    Protection::Read => MprotectFlags::READ,
                    Protection::ReadWrite => MprotectFlags::READ | MprotectFlags::WRITE,
                    Protection::Exec => MprotectFlags::READ | MprotectFlags::EXEC,
                });
                result.map(|()| 0)
            }
            Call::Advise(places, advice) => {
                let number = match advice {
                    Advice::DontNeed => libc::MADV_DONTNEED,
                    Advice::PopulateRead => libc::MADV_POPULATE_READ,
                    Advice::PopulateWrite => libc::MADV_POPULATE_WRITE,
                    Advice::GuardInstall => GUARD_INSTALL,
                    Advice::GuardRemove => GUARD_REMOVE,
                    Advice::DontFork => libc::MADV_DONTFORK,
                    Advice::DoFork => libc::MADV_DOFORK,
                    Advice::Unlocked(number) | Advice::Flags(number) | Advice::Attempt(number) => {
                        number
                    }
                };
                let (offset, len) = (places.first * page(), places.count * page());
                let result = self.common.places.advise_by_number(offset, len, number);
                match advice {
                    Advice::Attempt(_) => Ok(0),
                    _ => result.map(|()| 0),
                }
            }
            Call::Lock(places) | Call::Unlock(places) => {
                let (start, len) = (self.range(places).at(0).cast(), places.count * page());
                // SAFETY: the range is ours.
                system_call(match call {
                    Call::Lock(_) => unsafe { libc::mlock(start, len) },
                    // SAFETY: as above.
                    _ => unsafe { libc::munlock(start, len) },
                })
            }
            Call::Touch { place, write } => {
                let at = self.common.places.at(place * page()) as usize;
                let signal = touch(at, write).err();
                Ok(signal.map_or(0, |signal| signal.as_raw() as usize))
            }
            Call::Load { place, offset, len } => {
                let bytes = self.common.places.read(place * page() + offset, len);
                // SAFETY: the letter has room, and nobody else accesses it in our turn.
                unsafe { ptr::copy_nonoverlapping(bytes.as_ptr(), letter.bytes(), len) };
                Ok(len)
            }
            Call::Store {
                place,
                offset,
                len,
                seed,
            } => {
                let at = place * page() + offset;
                self.common.places.write(at, &bytes(seed.into(), len));
                Ok(len)
            }
            Call::CopyOut { place, offset, len } => {
                let at = place * page() + offset;
                // SAFETY: the address is for the kernel only.
                let copied = io::pwrite(
                    &self.file,
                    unsafe { self.common.places.as_slice(at, len) },
                    0,
                )?;
                // SAFETY: the letter has room, and nobody else accesses it in our turn.
                let buf = unsafe { std::slice::from_raw_parts_mut(letter.bytes(), copied) };
                io::pread(&self.file, buf, 0)
            }
            Call::CopyIn {
                place,
                offset,
                len,
                seed,
            } => {
                let at = place * page() + offset;
                assert_eq!(io::pwrite(&self.file, &bytes(seed.into(), len), 0), Ok(len));
                // SAFETY: the address is for the kernel only.
                io::pread(
                    &self.file,
                    unsafe { self.common.places.as_mut_slice(at, len) },
                    0,
                )
            }
            Call::Fork { .. } | Call::Exit | Call::Kill | Call::Sysctl(_) => {
                unreachable!("not for `make`")
            }
        }
    }
}
