// SPDX-License-Identifier: GPL-2.0
//! Memory whose pages are missing but for the first, with userfaultfd(2): a system call that copies
//! from it or to it stands still in the middle until the test lets it go on.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
    sync::atomic::{AtomicUsize, Ordering::SeqCst},
    thread,
};

use rustix::{
    io,
    ioctl::{Updater, ioctl, opcode},
    mm::{UserfaultfdFlags, userfaultfd},
    thread::{Pid, gettid},
};

use super::memory::{Advice, Map, PRIVATE, RW, anonymous, page};

/// `struct uffdio_api`
#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

/// `struct uffdio_register`
#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

/// `struct uffdio_copy`
#[repr(C)]
struct Copy {
    target: u64,
    source: u64,
    len: u64,
    mode: u64,
    copied: i64,
}

const TYPE: u8 = 0xaa;
const UFFD_API: u64 = 0xaa;
const UFFDIO_REGISTER_MODE_MISSING: u64 = 1;
const UFFDIO_API: u32 = opcode::read_write::<Api>(TYPE, 0x3f);
const UFFDIO_REGISTER: u32 = opcode::read_write::<Register>(TYPE, 0x00);
const UFFDIO_COPY: u32 = opcode::read_write::<Copy>(TYPE, 0x03);

/// Pages of which all but the first are missing until [`MissingPages::resolve`].
pub struct MissingPages {
    map: Map,
    uffd: OwnedFd,
    /// How many are there.
    there: AtomicUsize,
}

impl MissingPages {
    /// All `pages` are to hold nothing but `byte`.
    pub fn new(pages: usize, byte: u8) -> Self {
        let map = anonymous(pages, RW, PRIVATE);
        // The first page is to come alone. A kernel without huge pages does not know the advice.
        let _ = map.advise(Advice::LinuxNoHugepage);
        map.write(0, &vec![byte; page()]);
        // SAFETY: faults are handled by `put`.
        let uffd = unsafe { userfaultfd(UserfaultfdFlags::CLOEXEC) }.expect("userfaultfd");
        let mut api = Api {
            api: UFFD_API,
            features: 0,
            ioctls: 0,
        };
        let mut register = Register {
            start: map.at(page()) as u64,
            len: (map.len() - page()) as u64,
            mode: UFFDIO_REGISTER_MODE_MISSING,
            ioctls: 0,
        };
        // SAFETY: the opcodes belong to the structures, and the range to the mapping.
        unsafe {
            ioctl(&uffd, Updater::<UFFDIO_API, _>::new(&mut api)).expect("UFFDIO_API");
            ioctl(&uffd, Updater::<UFFDIO_REGISTER, _>::new(&mut register))
                .expect("UFFDIO_REGISTER");
        }
        Self {
            map,
            uffd,
            there: AtomicUsize::new(1),
        }
    }

    /// All of it, for a call that hands the address to the kernel.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: only the kernel looks behind the address.
        unsafe { self.map.as_slice(0, self.map.len()) }
    }

    /// The same, for a call that has the kernel write there.
    #[allow(clippy::mut_from_ref)]
    pub fn as_mut_slice(&self) -> &mut [u8] {
        // SAFETY: only the kernel looks behind the address.
        unsafe { self.map.as_mut_slice(0, self.map.len()) }
    }

    /// Waits until somebody stands still at a page that is missing.
    pub fn wait_for_fault(&self) {
        let mut message = [0; 32];
        assert_eq!(
            io::read(&self.uffd, &mut message),
            Ok(32),
            "an event of userfaultfd"
        );
    }

    /// A thread writes all of it to the start of the file, and stands still at the first page that is
    /// missing. In the end, everything must have been written.
    pub fn stop_a_write<'scope>(
        &'scope self,
        scope: &'scope thread::Scope<'scope, '_>,
        file: &'scope (impl AsFd + Sync),
    ) {
        scope.spawn(move || assert_eq!(io::pwrite(file, self.as_slice(), 0), Ok(self.map.len())));
        self.wait_for_fault();
    }

    /// Puts the next page there.
    pub fn resolve(&self) {
        self.put(self.there.fetch_add(1, SeqCst));
    }

    /// Puts page `i` there.
    pub fn put(&self, i: usize) {
        let bytes = self.map.read(0, page());
        let mut copy = Copy {
            target: self.map.at(i * page()) as u64,
            source: bytes.as_ptr() as u64,
            len: page() as u64,
            mode: 0,
            copied: 0,
        };
        // SAFETY: the page is missing, and the source has the bytes of one.
        unsafe { ioctl(&self.uffd, Updater::<UFFDIO_COPY, _>::new(&mut copy)) }
            .expect("UFFDIO_COPY");
    }
}

/// A thread of this process that makes one system call.
pub struct Caller<'scope> {
    tid: Pid,
    thread: thread::ScopedJoinHandle<'scope, ()>,
}

impl<'scope> Caller<'scope> {
    pub fn start<'env>(
        scope: &'scope thread::Scope<'scope, 'env>,
        call: impl FnOnce() + Send + 'scope,
    ) -> Self {
        let (sender, receiver) = std::sync::mpsc::channel();
        let thread = scope.spawn(move || {
            sender.send(gettid()).expect("the starter waits");
            call();
        });
        Self {
            tid: receiver.recv().expect("the thread begins"),
            thread,
        }
    }

    /// Waits until the thread sleeps in system call `number`, or has got through it.
    pub fn wait_until_it_sleeps_in(&self, number: i64) {
        let path = format!("/proc/self/task/{}/syscall", self.tid);
        let sleeps = || {
            // The number stands first, unless the thread is running.
            let line = std::fs::read_to_string(&path).unwrap_or_default();
            line.split(' ').next() == Some(&number.to_string())
        };
        while !self.thread.is_finished() && Path::new(&path).exists() && !sleeps() {
            thread::yield_now();
        }
    }
}
