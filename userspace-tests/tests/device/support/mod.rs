// SPDX-License-Identifier: GPL-2.0
//! What the tests stand on: the module, the processes and the memory they deal with.

pub mod cgroup;
pub mod injection;
pub mod large;
pub mod memory;
pub mod missing_page;
pub mod module;
pub mod proc;
pub mod process;
pub mod seccomp;
pub mod shared;
pub mod signal;
pub mod sysctl;
pub mod touch;
pub mod trace;

use std::{
    fmt::Debug,
    fs::File,
    os::fd::{AsRawFd, OwnedFd},
};

pub use mapping::system_call;
use rust_mmapdev::Device;
use rustix::{
    fs::{MemfdFlags, Mode, OFlags, memfd_create},
    io::{self, Errno},
};

/// The error of a call that must fail.
#[track_caller]
pub fn errno<T: Debug>(result: io::Result<T>) -> Errno {
    match result {
        Ok(value) => panic!("the call must fail, and returned {value:?}"),
        Err(errno) => errno,
    }
}

/// ioctl(2), of which the argument is such that the kernel may write an answer there, or can't.
pub fn ioctl(fd: &impl AsRawFd, request: u32, argument: *mut u8) -> io::Result<usize> {
    // SAFETY: as the caller says.
    system_call(unsafe { libc::ioctl(fd.as_raw_fd(), request.into(), argument) })
}

/// The device, opened with any flags.
pub fn open(flags: OFlags) -> OwnedFd {
    rustix::fs::open(Device::PATH, flags | OFlags::CLOEXEC, Mode::empty())
        .unwrap_or_else(|err| panic!("open {} with {flags:?}: {err}", Device::PATH))
}

/// `len` bytes of the buffer from `offset` on, as the kernel's read gives them.
pub fn pread(offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let n = io::pread(open(OFlags::RDONLY), &mut bytes, offset).expect("pread");
    bytes.truncate(n);
    bytes
}

/// Puts bytes into the buffer with the kernel's write.
pub fn pwrite(offset: u64, bytes: &[u8]) {
    let n = io::pwrite(open(OFlags::WRONLY), bytes, offset).expect("pwrite");
    assert_eq!(n, bytes.len(), "pwrite at {offset} is complete");
}

/// An ordinary file in memory to compare the device with.
pub fn tmpfs_file(content: &[u8]) -> File {
    let file = memfd_create("file", MemfdFlags::CLOEXEC).expect("memfd_create");
    assert_eq!(io::pwrite(&file, content, 0), Ok(content.len()));
    File::from(file)
}

/// `len` bytes that differ from page to page and from byte to byte.
pub fn pattern(seed: u8, len: usize) -> Vec<u8> {
    let mut state = u32::from(seed) | 0x5eed_0000;
    std::iter::repeat_with(|| {
        // Marsaglia's xorshift32.
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    })
    .take(len)
    .collect()
}

/// Fails with the first difference instead of two pages of numbers.
#[track_caller]
pub fn assert_same(found: &[u8], expected: &[u8], what: &str) {
    assert_eq!(found.len(), expected.len(), "{what}: length");
    if found == expected {
        return;
    }
    if let Some(i) = (0..found.len()).find(|&i| found[i] != expected[i]) {
        let end = found.len().min(i + 32);
        panic!(
            "{what}: byte {i} on: found \"{}\", expected \"{}\"",
            found[i..end].escape_ascii(),
            expected[i..end].escape_ascii()
        );
    }
}
