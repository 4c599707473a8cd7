// SPDX-License-Identifier: GPL-2.0
//! Makes the calls of a hostile program, and knows what each may come to.

use std::{
    fs,
    os::{fd::AsRawFd, unix::fs::FileExt},
    ptr,
    sync::atomic::{AtomicBool, Ordering::SeqCst},
    thread,
};

use rust_mmapdev::{
    Device,
    uapi::{
        RUST_MMAPDEV_ABI_VERSION, RUST_MMAPDEV_IOC_CLEAR, RUST_MMAPDEV_IOC_INFO, RUST_MMAPDEV_PATH,
        rust_mmapdev_info,
    },
};
use rustix::{
    io::{self, Errno},
    process::Signal,
};

use super::{
    call::{
        Area, Call, FIXED, Fd, FileOperation, Len, Lock, Meanwhile, Mmap, Offset, Request, Step,
    },
    kcov::Kcov,
    layout::{self, Access, Layout, OWN_LEN, Range},
};
use crate::support::{
    memory::{GUARD_INSTALL, GUARD_REMOVE, SOFT_OFFLINE, page},
    module::fdinfo,
    proc::vma_range,
    process::{end, try_fork},
    system_call,
    touch::touch,
};

/// What a call came to.
pub type Outcome = io::Result<usize>;

/// What a call came to, or what is wrong with that.
pub type Judged = Result<Outcome, String>;

macro_rules! ensure {
    ($condition:expr, $($message:tt)+) => {
        if !$condition {
            return Err(format!($($message)+));
        }
    };
}
pub(super) use ensure;

/// A system call by its number, as the arguments are none that a library would let pass. A sixth one
/// had better have 64 bits: it is on the stack, where others are found above fewer.
macro_rules! syscall {
    (number: $number:expr $(, $argument:expr)* $(,)?) => {
        // SAFETY: what the kernel writes, it writes to memory that `layout` has set aside, or to
        // an offset of the caller's.
        system_call(unsafe { libc::syscall($number $(, $argument)*) })
    };
    ($number:ident $(, $argument:expr)* $(,)?) => {
        syscall!(number: libc::$number $(, $argument)*)
    };
}
pub(super) use syscall;

/// What a descriptor is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Device {
        read: bool,
        write: bool,
    },
    /// Another file, or no descriptor to use.
    Other,
}

/// A process that runs a program.
pub struct Caller<'a> {
    pub layout: Layout,
    /// The device, opened by the parent for reading and writing.
    pub device: &'a Device,
    recorder: Option<&'a Kcov>,
    slots: [(i32, Kind); Fd::SLOTS + 1],
    /// No other process accesses the buffer.
    pub alone: bool,
    /// It is the first process of the program.
    first: bool,
    /// There may be mappings past the end.
    grown: bool,
    /// userfaultfd knows of its memory, where MADV_GUARD_INSTALL never ends, whatever file it is of:
    /// what the kernel finds of the one in the page table it does not take away for the other.
    tracked: bool,
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        for (fd, _) in self.slots {
            if fd >= 0 {
                syscall!(SYS_close, fd).expect("close");
            }
        }
    }
}

const CLOSED: (i32, Kind) = (-1, Kind::Other);

impl<'a> Caller<'a> {
    /// `recorder` is for a second thread.
    pub fn new(device: &'a Device, layout: Layout, recorder: Option<&'a Kcov>) -> Self {
        let mut this = Self {
            layout,
            device,
            recorder,
            slots: [CLOSED; Fd::SLOTS + 1],
            alone: true,
            first: true,
            grown: false,
            tracked: false,
        };
        for (slot, flags) in [(0, libc::O_RDWR), (1, libc::O_RDONLY), (2, libc::O_WRONLY)] {
            this.open(flags as u32, Fd(slot)).expect("open");
        }
        let mut ends = [0_i32; 2];
        syscall!(SYS_pipe2, ends.as_mut_ptr(), libc::O_NONBLOCK).expect("pipe2");
        this.slots[3] = (ends[0], Kind::Other);
        this.slots[4] = (ends[1], Kind::Other);
        syscall!(SYS_write, ends[1], c"in the pipe".as_ptr(), 11).expect("write");
        let memfd = syscall!(SYS_memfd_create, c"file".as_ptr(), 0).expect("memfd_create");
        syscall!(SYS_ftruncate, memfd, 2 * page()).expect("ftruncate");
        this.slots[5] = (memfd as i32, Kind::Other);
        // So that the first calls find something that is mapped.
        for (first, flags) in [(0, libc::MAP_SHARED), (4, libc::MAP_PRIVATE)] {
            let count = layout.pages.min(4) as u16;
            let Range { start, len } = layout.area(Area::Pages { first, count });
            let flags = flags | libc::MAP_FIXED;
            syscall!(SYS_mmap, start, len, 3, flags, device.as_raw_fd(), 0_u64).expect("mmap");
        }
        this
    }

    /// Makes one call; the error says what is wrong with its outcome.
    pub fn make(&mut self, step: Step) -> Judged {
        self.tracked |= matches!(step.call, Call::Track { .. });
        match step.meanwhile {
            Some(Meanwhile::Guard(_)) if self.tracked => self.call(step.call, true),
            // A process that was forked by one with threads had better have none.
            Some(meanwhile) if self.first => {
                let (started, over) = (AtomicBool::new(false), AtomicBool::new(false));
                let (layout, device, recorder) = (self.layout, self.device, self.recorder);
                thread::scope(|scope| {
                    let other = scope.spawn(|| {
                        if let Some(recorder) = recorder {
                            recorder.record();
                        }
                        while !over.load(SeqCst) {
                            disturb(layout, device, meanwhile);
                            started.store(true, SeqCst);
                        }
                    });
                    while !started.load(SeqCst) {
                        thread::yield_now();
                    }
                    let judged = self.call(step.call, false);
                    over.store(true, SeqCst);
                    // Not only its closure is to have ended: it records until its very end.
                    other.join().expect("the second thread");
                    judged
                })
            }
            _ => self.call(step.call, true),
        }
    }

    /// Ends the program's processes, of which only the first one returns, and looks at what is
    /// mapped then.
    pub fn finish(&mut self) -> Result<(), String> {
        if !self.first {
            end(0);
        }
        while syscall!(SYS_wait4, -1, 0, 0, 0).is_ok() {}
        self.alone = true;
        self.check_mappings()
    }

    /// Finds fault with what /proc says about mappings of the device.
    fn check_mappings(&self) -> Result<(), String> {
        for line in maps().lines().filter(|line| line.ends_with(Device::PATH)) {
            let (range, protection, offset) = vma(line);
            let end = offset + range.len();
            ensure!(
                (end <= self.layout.size() || self.grown) && !protection.contains('x'),
                "there is a mapping of what is not to be mapped so: {line}"
            );
        }
        Ok(())
    }

    pub fn slot(&self, fd: Fd) -> (i32, Kind) {
        self.slots[usize::from(fd.0)]
    }

    /// Puts a descriptor into a slot, in the place of what was there.
    fn put(&mut self, to: Fd, fd: i32, kind: Kind) {
        let slot = usize::from(to.0);
        // The last one stays closed.
        let (old, _) = match slot < Fd::SLOTS {
            true => std::mem::replace(&mut self.slots[slot], (fd, kind)),
            false => (fd, kind),
        };
        if old >= 0 {
            syscall!(SYS_close, old).expect("close");
        }
    }

    /// `calm`: no other thread changes mappings.
    fn call(&mut self, call: Call, calm: bool) -> Judged {
        let l = self.layout;
        match call {
            Call::Open { flags, to } => {
                let outcome = self.open(flags, to);
                allow(outcome, &[Errno::INVAL, Errno::EXIST, Errno::NOTDIR])
            }
            Call::Close(fd) => {
                let (fd_number, _) = self.slot(fd);
                let outcome = syscall!(SYS_close, fd_number);
                if outcome.is_ok() {
                    self.slots[usize::from(fd.0)] = CLOSED;
                }
                ensure!(outcome.is_ok() || fd_number < 0, "close fails: {outcome:?}");
                Ok(outcome)
            }
            Call::Dup { fd, to } => {
                let (fd, kind) = self.slot(fd);
                let outcome = syscall!(SYS_dup, fd);
                if let Ok(copy) = outcome {
                    self.put(to, copy as i32, kind);
                }
                allow(outcome, &[Errno::BADF])
            }
            Call::Map(mmap) => self.mmap(mmap),
            Call::MapAnonymous { area, protection } => {
                let Range { start, len } = l.area(area);
                let flags = libc::MAP_ANONYMOUS | libc::MAP_FIXED | libc::MAP_PRIVATE;
                Ok(syscall!(SYS_mmap, start, len, protection, flags, -1, 0_u64))
            }
            Call::Unmap(area) => {
                let Range { start, len } = l.area(area);
                let outcome = syscall!(SYS_munmap, start, len);
                allow(outcome, &[Errno::INVAL, Errno::NOMEM])
            }
            Call::Remap {
                area,
                len: new_len,
                flags,
                to,
            } => {
                let Range { start, len } = l.area(area);
                let to = l.ptr(to);
                // What is to stay as it is, is not mapped over.
                let flags = match (Range { start: to, len: 1 }).access() {
                    Access::Unknown => flags,
                    _ => flags & !FIXED,
                };
                let new_len = l.len(new_len);
                let outcome = syscall!(SYS_mremap, start, len, new_len, flags, to);
                if let Ok(at) = outcome {
                    self.grown |= new_len > len;
                    unmap_elsewhere(at, new_len);
                }
                use Errno as E;
                allow(outcome, &[E::FAULT, E::INVAL, E::NOMEM, E::AGAIN, E::PERM])
            }
            Call::Protect { area, protection } => {
                let Range { start, len } = l.area(area);
                let outcome = syscall!(SYS_mprotect, start, len, protection);
                allow(outcome, &[Errno::ACCESS, Errno::INVAL, Errno::NOMEM])
            }
            Call::Advise { area, advice } => {
                let Range { start, mut len } = l.area(area);
                if advice as i32 == SOFT_OFFLINE {
                    len = len.min(page());
                }
                let advice = self.advice(advice);
                allow(syscall!(SYS_madvise, start, len, advice), REFUSED_ADVICE)
            }
            Call::ProcessAdvise { areas, advice } => {
                let areas = areas.map(|area| l.area(area));
                let (this, at, advice) = (PIDFD_SELF, areas.as_ptr(), self.advice(advice));
                let outcome = syscall!(SYS_process_madvise, this, at, areas.len(), advice, 0);
                allow(outcome, REFUSED_ADVICE)
            }
            Call::Sync { area, flags } => {
                let Range { start, len } = l.area(area);
                let outcome = syscall!(SYS_msync, start, len, flags);
                allow(outcome, &[Errno::BUSY, Errno::INVAL, Errno::NOMEM])
            }
            Call::Lock { area, how } => {
                let Range { start, len } = l.area(area);
                let outcome = match how {
                    Lock::AtOnce => syscall!(SYS_mlock, start, len),
                    Lock::OnFault => syscall!(SYS_mlock2, start, len, 1),
                    Lock::Never => syscall!(SYS_munlock, start, len),
                };
                allow(outcome, &[Errno::AGAIN, Errno::INVAL, Errno::NOMEM])
            }
            Call::InCore { area, vector } => {
                let Range { start, len } = l.area(area);
                // One byte for each page.
                let len = len.min(OWN_LEN / 2 * page());
                let outcome = syscall!(SYS_mincore, start, len, l.ptr(vector));
                allow(
                    outcome,
                    &[Errno::AGAIN, Errno::FAULT, Errno::INVAL, Errno::NOMEM],
                )
            }
            Call::Scan {
                area,
                flags,
                categories,
                regions,
                count,
                most,
            } => {
                let Range { start, len } = l.area(area);
                let [inverted, all, any, reported] = categories.map(u64::from);
                // struct pm_scan_arg
                let mut argument = [
                    size_of::<[u64; 12]>() as u64,
                    flags.into(),
                    start as u64,
                    start.wrapping_add(len) as u64,
                    0,
                    l.ptr(regions) as u64,
                    count.into(),
                    most.into(),
                    inverted,
                    all,
                    any,
                    reported,
                ];
                let pagemap = fs::File::open("/proc/self/pagemap").expect("pagemap");
                let (fd, argument) = (pagemap.as_raw_fd(), argument.as_mut_ptr());
                let outcome = syscall!(SYS_ioctl, fd, PAGEMAP_SCAN, argument);
                use Errno as E;
                allow(outcome, &[E::FAULT, E::INVAL, E::NOMEM, E::NOSPC, E::PERM])
            }
            Call::Track { area, protect, to } => self.track(l.area(area), protect, to),
            Call::Sysctl(sysctl) => {
                sysctl.set();
                Ok(Ok(0))
            }
            Call::RemapFilePages { area, page: first } => {
                let Range { start, len } = l.area(area);
                let outcome = syscall!(SYS_remap_file_pages, start, len, 0, first, 0);
                ensure!(
                    outcome.is_err() || first as usize + len / page() <= l.pages,
                    "remap_file_pages of {len} bytes from page {first} on is done"
                );
                use Errno as E;
                allow(
                    outcome,
                    &[
                        E::ACCESS,
                        E::AGAIN,
                        E::INVAL,
                        E::NOMEM,
                        E::NXIO,
                        E::OVERFLOW,
                    ],
                )
            }
            Call::Touch { at, write, anew } => {
                let at = l.ptr(at);
                if anew {
                    let start = at - at % page();
                    let _ = syscall!(SYS_madvise, start, page(), libc::MADV_DONTNEED);
                }
                self.touch(at, write, calm)
            }
            Call::Transfer(transfer) => self.transfer(transfer, calm),
            Call::Seek { fd, offset, whence } => self.seek(fd, l.offset(offset), whence),
            Call::Ioctl {
                fd,
                request,
                argument,
            } => self.ioctl(fd, request, l.ptr(argument)),
            Call::Splice {
                from,
                from_offset,
                to,
                to_offset,
                len,
                flags,
            } => self.copy_between(
                libc::SYS_splice,
                [from, to],
                [from_offset, to_offset],
                len,
                flags,
            ),
            Call::SendFile {
                from,
                to,
                offset,
                len,
            } => {
                let mut offset = offset.map(|offset| l.offset(offset));
                let (from, to) = (self.slot(from).0, self.slot(to).0);
                let outcome = syscall!(SYS_sendfile, to, from, pointer(&mut offset), l.len(len));
                allow(outcome, COPIES)
            }
            Call::CopyFileRange {
                from,
                from_offset,
                to,
                to_offset,
                len,
            } => {
                let number = libc::SYS_copy_file_range;
                self.copy_between(number, [from, to], [from_offset, to_offset], len, 0)
            }
            Call::Vmsplice {
                pipe,
                memory,
                flags,
            } => {
                let vector = self.vector(memory);
                // It is not to wait for a reader.
                let flags = flags | libc::SPLICE_F_NONBLOCK;
                let (at, count) = (vector.at, vector.count);
                Ok(syscall!(SYS_vmsplice, self.slot(pipe).0, at, count, flags))
            }
            Call::ProcessVm {
                write,
                local,
                remote,
            } => {
                let (local, remote) = (self.vector(local), self.vector(remote));
                let numbers = [libc::SYS_process_vm_readv, libc::SYS_process_vm_writev];
                let outcome = syscall!(
                    number: numbers[usize::from(write)],
                    std::process::id(),
                    local.at,
                    local.count,
                    remote.at,
                    remote.count,
                    0_u64
                );
                allow(outcome, &[Errno::FAULT, Errno::INVAL, Errno::NOMEM])
            }
            Call::ProcMem {
                write,
                at,
                buffer,
                len,
            } => {
                let file = fs::File::options()
                    .read(true)
                    .write(true)
                    .open("/proc/self/mem");
                let file = file.expect("/proc/self/mem");
                let (fd, buffer, len, at) =
                    (file.as_raw_fd(), l.ptr(buffer), l.len(len), l.ptr(at));
                let outcome = match write {
                    false => syscall!(SYS_pread64, fd, buffer, len, at),
                    true => syscall!(SYS_pwrite64, fd, buffer, len, at),
                };
                use Errno as E;
                allow(outcome, &[E::FAULT, E::INVAL, E::IO, E::OVERFLOW])
            }
            Call::FdInfo(fd) => self.fdinfo(fd, calm),
            Call::File {
                fd,
                operation,
                offset,
                len,
            } => self.file_operation(fd, operation, l.offset(offset), l.len(len)),
            Call::Poll { fd, epoll } => self.poll(fd, epoll),
            Call::Control {
                fd,
                command,
                argument,
                value,
            } => {
                const LOCKS: [i32; 2] = [libc::F_GETLK, libc::F_SETLK];
                let argument = match command as i32 {
                    command if LOCKS.contains(&command) => l.ptr(argument),
                    // No call is to wait for a pipe.
                    libc::F_SETFL => usize::from(value) | libc::O_NONBLOCK as usize,
                    libc::F_DUPFD_CLOEXEC => 0,
                    _ => value.into(),
                };
                let outcome = syscall!(SYS_fcntl, self.slot(fd).0, command, argument);
                if let (Ok(copy), libc::F_DUPFD_CLOEXEC) = (outcome, command as i32) {
                    syscall!(SYS_close, copy).expect("close");
                }
                Ok(outcome)
            }
            Call::RecordLock {
                fd,
                open_file,
                exclusive,
                offset,
                len,
            } => {
                let kind = [libc::F_RDLCK, libc::F_WRLCK][usize::from(exclusive)];
                let lock = libc::flock {
                    l_type: kind as i16,
                    l_whence: libc::SEEK_SET as i16,
                    l_start: l.offset(offset),
                    l_len: l.offset(len),
                    l_pid: 0,
                };
                let command = [libc::F_SETLK, libc::F_OFD_SETLK][usize::from(open_file)];
                let outcome = syscall!(SYS_fcntl, self.slot(fd).0, command, &raw const lock);
                allow(
                    outcome,
                    &[Errno::AGAIN, Errno::BADF, Errno::INVAL, Errno::OVERFLOW],
                )
            }
            Call::Flock { fd, operation } => {
                // LOCK_NB: it is not to wait.
                let outcome = syscall!(SYS_flock, self.slot(fd).0, operation | 4);
                allow(outcome, &[Errno::AGAIN, Errno::BADF, Errno::INVAL])
            }
            Call::Futex { at, wait } => {
                let at = l.ptr(at);
                let at_once = [0_i64; 2];
                let outcome = match wait {
                    false => syscall!(SYS_futex, at, libc::FUTEX_WAKE, 1),
                    true => syscall!(SYS_futex, at, libc::FUTEX_WAIT, 0, at_once.as_ptr()),
                };
                allow(
                    outcome,
                    &[Errno::AGAIN, Errno::FAULT, Errno::INVAL, Errno::TIMEDOUT],
                )
            }
            Call::Fork => Ok(self.fork(calm)),
        }
    }

    fn advice(&self, advice: u32) -> i32 {
        match advice as i32 {
            GUARD_INSTALL if self.tracked => GUARD_REMOVE,
            advice => advice,
        }
    }

    fn open(&mut self, flags: u32, to: Fd) -> Outcome {
        let path = RUST_MMAPDEV_PATH.as_ptr();
        let fd = syscall!(SYS_openat, libc::AT_FDCWD, path, flags, 0)?;
        let access = flags as i32 & libc::O_ACCMODE;
        let kind = match flags as i32 & libc::O_PATH {
            0 => Kind::Device {
                read: access == libc::O_RDONLY || access == libc::O_RDWR,
                write: access == libc::O_WRONLY || access == libc::O_RDWR,
            },
            _ => Kind::Other,
        };
        self.put(to, fd as i32, kind);
        Ok(fd)
    }

    fn fork(&mut self, calm: bool) -> Outcome {
        if !self.first {
            return Ok(0);
        }
        // Whatever happens from now on may be the other process's doing.
        self.alone = false;
        if try_fork()?.is_none() {
            self.first = false;
            if !calm {
                // It would wait for a thread that it does not have.
                end(0);
            }
        }
        Ok(0)
    }

    fn track(&mut self, Range { start, len }: Range, protect: bool, to: Fd) -> Judged {
        let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
        let uffd = syscall!(SYS_userfaultfd, flags).expect("userfaultfd");
        let mut api = [UFFD_API, UFFD_FEATURES, 0];
        syscall!(SYS_ioctl, uffd, UFFDIO_API, api.as_mut_ptr()).expect("UFFDIO_API");
        let (start, len) = (start as u64, len as u64);
        let mut register = [start, len, UFFDIO_REGISTER_MODE_WP, 0];
        let mut outcome = syscall!(SYS_ioctl, uffd, UFFDIO_REGISTER, register.as_mut_ptr());
        if outcome.is_ok() && protect {
            let mut range = [start, len, UFFDIO_WRITEPROTECT_MODE_WP];
            outcome = syscall!(SYS_ioctl, uffd, UFFDIO_WRITEPROTECT, range.as_mut_ptr());
        }
        // The registration lasts as long as the descriptor.
        self.put(to, uffd as i32, Kind::Other);
        use Errno as E;
        allow(
            outcome,
            &[
                E::AGAIN,
                E::BUSY,
                E::FAULT,
                E::INVAL,
                E::NOENT,
                E::NOMEM,
                E::PERM,
            ],
        )
    }

    fn mmap(&mut self, mmap: Mmap) -> Judged {
        let l = self.layout;
        let (fd, kind) = self.slot(mmap.fd);
        let Range { start, len } = l.area(mmap.area);
        let offset = l.offset(mmap.offset);
        let mut flags = mmap.flags;
        if !mmap.anywhere {
            flags |= libc::MAP_FIXED as u32;
        }
        // The end of another file may come in the middle of a page, and a page be past it.
        let Kind::Device { read, write } = kind else {
            return Ok(Err(Errno::BADF));
        };
        let outcome = syscall!(SYS_mmap, start, len, mmap.protection, flags, fd, offset);
        let has = |bits: i32| flags & bits as u32 != 0;
        let asks = |bits: i32| mmap.protection & bits as u32 != 0;
        let pages = len.div_ceil(page()) as u128;
        let first = offset as u64 / page() as u64;
        let fits = u128::from(first) + pages <= l.pages as u128;
        let sharing = flags & libc::MAP_TYPE as u32;
        let denied = !read || (asks(libc::PROT_WRITE) && !write && sharing & 1 != 0);
        let odd = len == 0
            || offset % page() as i64 != 0
            || start % page() != 0
            || !(1..=3).contains(&sharing)
            || has(libc::MAP_HUGETLB | libc::MAP_GROWSDOWN | libc::MAP_SYNC | libc::MAP_LOCKED)
            || mmap.protection > 7;
        let right = match outcome {
            Ok(_) => fits && !denied && !asks(libc::PROT_EXEC) && offset % page() as i64 == 0,
            Err(Errno::NXIO) => !fits,
            Err(Errno::PERM) => asks(libc::PROT_EXEC),
            Err(Errno::ACCESS) => denied,
            Err(Errno::INVAL) => odd,
            Err(Errno::OVERFLOW) => !fits,
            Err(Errno::EXIST) => has(libc::MAP_FIXED_NOREPLACE),
            Err(Errno::OPNOTSUPP) => sharing == 3,
            // Addresses that there are not, or too much of them.
            Err(Errno::NOMEM) => !fits || start == 0 || Range { start, len }.is_absurd(),
            Err(_) => false,
        };
        ensure!(
            right,
            "mmap of {len} bytes at offset {offset}, protection {:#x}, flags {flags:#x}, {kind:?}: {}",
            mmap.protection,
            shown(outcome)
        );
        if let Ok(at) = outcome {
            unmap_elsewhere(at, len);
        }
        Ok(outcome)
    }

    fn touch(&self, address: usize, write: bool, calm: bool) -> Judged {
        let Err(signal) = touch(address, write) else {
            return Ok(Ok(0));
        };
        if calm {
            let maps = maps();
            let letter = if write { 'w' } else { 'r' };
            let allowing = maps.lines().find(|line| {
                let (range, protection, _) = vma(line);
                range.contains(&address) && protection.contains(letter)
            });
            let is_past_the_end = |line| {
                let (range, _, offset) = vma(line);
                offset + (address - range.start) >= self.layout.size()
            };
            let right = match signal {
                Signal::BUS => allowing.is_some_and(is_past_the_end),
                _ => allowing.is_none() || is_guarded(address),
            };
            ensure!(
                right,
                "access to {address:#x}: {signal:?}, and there is {allowing:?}"
            );
        }
        // As a call would put it.
        Ok(Err(Errno::FAULT))
    }

    /// splice(2) or copy_file_range(2), by its number: they take the same arguments.
    fn copy_between(
        &self,
        number: libc::c_long,
        fds: [Fd; 2],
        offsets: [Option<Offset>; 2],
        len: Len,
        flags: u32,
    ) -> Judged {
        let l = &self.layout;
        let mut offsets = offsets.map(|offset| offset.map(|o| l.offset(o)));
        let [from_offset, to_offset] = offsets.each_mut().map(pointer);
        let [from, to] = fds.map(|fd| self.slot(fd).0);
        let len = l.len(len);
        let outcome = syscall!(number: number, from, from_offset, to, to_offset, len, flags);
        allow(outcome, COPIES)
    }

    fn seek(&self, fd: Fd, offset: i64, whence: u32) -> Judged {
        let (fd, kind) = self.slot(fd);
        let outcome = syscall!(SYS_lseek, fd, offset, whence);
        if let Kind::Device { .. } = kind {
            ensure!(
                outcome.is_ok_and(|at| at <= self.layout.size())
                    || matches!(outcome, Err(Errno::INVAL | Errno::NXIO)),
                "lseek to {offset} from {whence}: {}",
                shown(outcome)
            );
        }
        Ok(outcome)
    }

    fn ioctl(&self, fd: Fd, request: Request, argument: usize) -> Judged {
        let number = match request {
            Request::Info => RUST_MMAPDEV_IOC_INFO,
            Request::Clear => RUST_MMAPDEV_IOC_CLEAR,
            Request::Near { clear, bit } => {
                let from = [RUST_MMAPDEV_IOC_INFO, RUST_MMAPDEV_IOC_CLEAR][usize::from(clear)];
                from ^ (1 << bit)
            }
            Request::OfType {
                number,
                size_and_direction,
            } => {
                let head = RUST_MMAPDEV_IOC_INFO & 0xff00;
                (u32::from(size_and_direction) << 16) | head | u32::from(number)
            }
            Request::Other(number) => number,
        };
        let (fd, kind) = self.slot(fd);
        layout::set_own(PATTERN);
        let outcome = syscall!(SYS_ioctl, fd, number, argument);
        let Kind::Device { write, .. } = kind else {
            return Ok(outcome);
        };
        let memory = Range {
            start: argument,
            len: size_of::<rust_mmapdev_info>(),
        };
        let right = match (number, outcome) {
            (RUST_MMAPDEV_IOC_INFO, Ok(0)) => memory.access() != Access::Never,
            (RUST_MMAPDEV_IOC_INFO, Err(Errno::FAULT)) => {
                !matches!(memory.access(), Access::Own(_))
            }
            (RUST_MMAPDEV_IOC_INFO, _) => false,
            (RUST_MMAPDEV_IOC_CLEAR, Ok(0)) => write,
            (RUST_MMAPDEV_IOC_CLEAR, Err(Errno::BADF)) => !write,
            (RUST_MMAPDEV_IOC_CLEAR, _) => false,
            _ if matches!(request, Request::Other(_)) => return Ok(outcome),
            _ => outcome == Err(Errno::NOTTY),
        };
        ensure!(
            right,
            "ioctl {number:#x} with {argument:#x}, {kind:?}: {}",
            shown(outcome)
        );
        let mut expected = PATTERN.to_vec();
        let found = layout::own();
        if number == RUST_MMAPDEV_IOC_INFO {
            match memory.access() {
                Access::Own(at) => {
                    let answer = [
                        &(self.layout.size() as u64).to_ne_bytes()[..],
                        &(page() as u32).to_ne_bytes(),
                        &RUST_MMAPDEV_ABI_VERSION.to_ne_bytes(),
                    ];
                    expected[at..at + memory.len].copy_from_slice(&answer.concat());
                }
                // Some of the answer may be there.
                Access::OwnUpTo(at, len) => {
                    expected[at..at + len].copy_from_slice(&found[at..at + len]);
                }
                _ => {}
            }
        }
        same(&found, &expected, "memory after ioctl")?;
        Ok(outcome)
    }

    fn fdinfo(&self, fd: Fd, calm: bool) -> Judged {
        let (fd, Kind::Device { .. }) = self.slot(fd) else {
            return Ok(Err(Errno::BADF));
        };
        let size = fdinfo(&fd, "buffer_size");
        ensure!(
            size == self.layout.size() as u64,
            "fdinfo: buffer_size {size}"
        );
        if calm {
            self.check_mappings()?;
        }
        Ok(Ok(0))
    }

    fn file_operation(&self, fd: Fd, operation: FileOperation, offset: i64, len: usize) -> Judged {
        let (fd, kind) = self.slot(fd);
        use FileOperation::*;
        let outcome = match operation {
            Stat => {
                let mut stat = std::mem::MaybeUninit::<libc::stat>::uninit();
                syscall!(SYS_fstat, fd, stat.as_mut_ptr())
            }
            Truncate => syscall!(SYS_ftruncate, fd, offset.min(2 * page() as i64)),
            Allocate => syscall!(SYS_fallocate, fd, 0, offset, len.min(OWN_LEN)),
            PunchHole => syscall!(SYS_fallocate, fd, 3, offset, len),
            Sync => syscall!(SYS_fsync, fd),
            DataSync => syscall!(SYS_fdatasync, fd),
            SyncRange => syscall!(SYS_sync_file_range, fd, offset, len, 7),
            ReadAhead => syscall!(SYS_readahead, fd, offset, len),
            Advise => syscall!(SYS_fadvise64, fd, offset, len, len % 8),
        };
        if let Kind::Device { .. } = kind {
            use Errno as E;
            let refusals: &[E] = match operation {
                Stat | Sync | DataSync => &[],
                _ => &[E::BADF, E::FBIG, E::INVAL, E::NODEV, E::OPNOTSUPP, E::SPIPE],
            };
            ensure!(
                outcome.err().is_none_or(|errno| refusals.contains(&errno)),
                "{operation:?} at {offset}, {len} bytes: {}",
                shown(outcome)
            );
        }
        Ok(outcome)
    }

    fn poll(&self, fd: Fd, epoll: bool) -> Judged {
        let (fd, _) = self.slot(fd);
        if !epoll {
            let mut entry = libc::pollfd {
                fd,
                events: !0,
                revents: 0,
            };
            let at_once = libc::timespec {
                tv_sec: 0,
                tv_nsec: 0,
            };
            let outcome = syscall!(SYS_ppoll, &raw mut entry, 1, &raw const at_once, 0, 0);
            return allow(outcome, &[]);
        }
        let instance = syscall!(SYS_epoll_create1, 0).expect("epoll_create1");
        let mut event = libc::epoll_event { events: 1, u64: 0 };
        let add = libc::EPOLL_CTL_ADD;
        let outcome = syscall!(SYS_epoll_ctl, instance, add, fd, &raw mut event);
        syscall!(SYS_close, instance).expect("close");
        allow(outcome, &[Errno::BADF, Errno::PERM])
    }
}

/// This process, for calls that want a descriptor of one.
const PIDFD_SELF: i32 = -10000;

// From <linux/fs.h> and <linux/userfaultfd.h>.
const PAGEMAP_SCAN: u64 = 0xc060_6610;
const UFFD_API: u64 = 0xaa;
/// PAGEFAULT_FLAG_WP, WP_HUGETLBFS_SHMEM, WP_UNPOPULATED, WP_ASYNC
const UFFD_FEATURES: u64 = 1 | (1 << 12) | (1 << 13) | (1 << 15);
const UFFDIO_API: u64 = 0xc018_aa3f;
const UFFDIO_REGISTER: u64 = 0xc020_aa00;
const UFFDIO_WRITEPROTECT: u64 = 0xc018_aa06;
const UFFDIO_REGISTER_MODE_WP: u64 = 1 << 1;
const UFFDIO_WRITEPROTECT_MODE_WP: u64 = 1;

/// What madvise(2) may say.
const REFUSED_ADVICE: &[Errno] = &[
    Errno::ACCESS,
    Errno::AGAIN,
    Errno::BADF,
    Errno::BUSY,
    Errno::FAULT,
    Errno::INVAL,
    // MADV_SOFT_OFFLINE, of memory that can't be moved.
    Errno::IO,
    // MADV_REMOVE, which is for files.
    Errno::NODEV,
    Errno::NOMEM,
    Errno::OPNOTSUPP,
    Errno::PERM,
];

/// What splice(2) and the like may say, about files of whatever kind.
const COPIES: &[Errno] = &[
    Errno::AGAIN,
    Errno::BADF,
    Errno::FBIG,
    Errno::INVAL,
    Errno::NOSPC,
    Errno::OPNOTSUPP,
    Errno::OVERFLOW,
    Errno::PIPE,
    Errno::SPIPE,
    Errno::XDEV,
];

/// What the second thread does, once.
fn disturb(layout: Layout, device: &Device, meanwhile: Meanwhile) {
    let range = |area: Area| layout.area(area);
    let fd = device.as_raw_fd();
    let (shared, rw) = (libc::MAP_SHARED | libc::MAP_FIXED, 3);
    // Whether it succeeds is not the point.
    let _ = match meanwhile {
        Meanwhile::MapAndUnmap(area) => {
            let Range { start, len } = range(area);
            let _ = syscall!(SYS_mmap, start, len, rw, shared, fd, 0_u64);
            syscall!(SYS_munmap, start, len)
        }
        Meanwhile::DontNeed(area) => {
            let Range { start, len } = range(area);
            let _ = touch(start, false);
            syscall!(SYS_madvise, start, len, libc::MADV_DONTNEED)
        }
        Meanwhile::Protect(area) => {
            let Range { start, len } = range(area);
            let _ = syscall!(SYS_mprotect, start, len, 0);
            syscall!(SYS_mprotect, start, len, rw)
        }
        Meanwhile::Move(area) => {
            let Range { start, len } = range(area);
            let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
            let away = start.wrapping_add(len);
            let _ = syscall!(SYS_mremap, start, len, len, flags, away);
            syscall!(SYS_mremap, away, len, len, flags, start)
        }
        Meanwhile::Guard(area) => {
            let Range { start, len } = range(area);
            let _ = syscall!(SYS_madvise, start, len, GUARD_INSTALL);
            syscall!(SYS_madvise, start, len, GUARD_REMOVE)
        }
        Meanwhile::Sysctl(sysctl) => {
            sysctl.set();
            Ok(0)
        }
    };
}

/// What the program's own memory holds before a call: bytes that differ from their neighbours.
pub const PATTERN: &[u8; OWN_LEN] = &{
    let mut bytes = [0; OWN_LEN];
    let mut i = 0;
    while i < OWN_LEN {
        bytes[i] = ((i * 167 / 5) ^ (i >> 7)) as u8;
        i += 1;
    }
    bytes
};

fn pointer(offset: &mut Option<i64>) -> *mut i64 {
    offset.as_mut().map_or(ptr::null_mut(), |offset| offset)
}

/// Takes away what lies where no call looks for it.
fn unmap_elsewhere(at: usize, len: usize) {
    if !layout::in_arena(at) {
        syscall!(SYS_munmap, at, len).expect("munmap");
    }
}

/// Whether the page is a guard page, as /proc/self/pagemap has it.
fn is_guarded(address: usize) -> bool {
    const GUARD: u64 = 1 << 58;
    let pagemap = fs::File::open("/proc/self/pagemap").expect("pagemap");
    let mut entry = [0; 8];
    let at = (address / page() * entry.len()) as u64;
    pagemap.read_exact_at(&mut entry, at).is_ok() && u64::from_ne_bytes(entry) & GUARD != 0
}

fn maps() -> String {
    fs::read_to_string("/proc/self/maps").expect("maps")
}

/// The addresses, the protection and the offset that a line of /proc/PID/maps has.
fn vma(line: &str) -> (std::ops::Range<usize>, &str, usize) {
    let mut words = line.split(' ').skip(1);
    let mut word = || words.next().expect("a word");
    let (protection, offset) = (word(), word());
    let offset = usize::from_str_radix(offset, 16).expect("a number");
    (vma_range(line), protection, offset)
}

fn allow(outcome: Outcome, errors: &[Errno]) -> Judged {
    ensure!(
        outcome.err().is_none_or(|errno| errors.contains(&errno)),
        "{}, which is not an error of this call",
        shown(outcome)
    );
    Ok(outcome)
}

pub fn same(found: &[u8], expected: &[u8], what: &str) -> Result<(), String> {
    if found == expected {
        return Ok(());
    }
    let differ = |&i: &usize| found[i] != expected[i];
    let i = (0..expected.len()).find(differ).expect("they differ");
    Err(format!(
        "{what}: byte {i} is {:#x}, not {:#x}",
        found[i], expected[i]
    ))
}

pub fn shown(outcome: Outcome) -> String {
    match outcome {
        Ok(value) => format!("{value:#x}"),
        Err(errno) => format!("{errno:?}"),
    }
}
