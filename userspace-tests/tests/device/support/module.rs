// SPDX-License-Identifier: GPL-2.0
//! The module: loading, unloading, its state in /sys, its lines in the kernel's log.

use std::{
    ffi::{CStr, CString},
    fs,
    os::fd::OwnedFd,
    path::Path,
};

use rust_mmapdev::{Access, Device};
use rustix::{
    fs::{Mode, OFlags, SeekFrom, seek},
    io::{self, Errno},
    system::{delete_module, finit_module},
};

use super::{proc::number, pwrite};

/// Where `scripts/vm-run` puts the module.
pub const FILE: &str = "/rust_mmapdev.ko";
/// What every buffer starts with; a NUL and zeros follow.
pub const TEXT: &str = "rust_mmapdev: this text lives in kernel memory";

const SYSFS: &str = "/sys/module/rust_mmapdev";

pub fn is_at_hand() -> bool {
    Path::new(FILE).exists()
}

pub fn is_loaded() -> bool {
    Path::new(SYSFS).exists()
}

/// insmod.
pub fn load(parameters: &str) -> io::Result<()> {
    insmod(FILE, parameters)
}

/// rmmod: EAGAIN when the module is in use.
pub fn unload() -> io::Result<()> {
    rmmod(c"rust_mmapdev")
}

/// insmod of any module.
pub fn insmod(file: &str, parameters: &str) -> io::Result<()> {
    let file = rustix::fs::open(file, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
    let parameters = CString::new(parameters).expect("parameters have no NUL");
    finit_module(file, &parameters, 0)
}

/// rmmod of any module, which never waits: EAGAIN when it is in use.
pub fn rmmod(name: &CStr) -> io::Result<()> {
    delete_module(name, OFlags::NONBLOCK.bits() as i32)
}

pub fn unload_if_loaded() {
    match unload() {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(err) => panic!("rmmod: {err}"),
    }
}

/// Loads the module anew: nothing that happened before is left.
#[track_caller]
pub fn reload(parameters: &str) {
    unload_if_loaded();
    load(parameters).unwrap_or_else(|err| panic!("insmod {parameters}: {err}"));
}

/// Unloads the module when dropped, whatever has become of its pages: the next test is to get others.
pub struct Renew;

impl Drop for Renew {
    fn drop(&mut self) {
        // A test that panics may hold it.
        let _ = unload();
    }
}

/// Descriptors and mappings that keep the module loaded; 0 when it is not.
pub fn references() -> i64 {
    match fs::read_to_string(format!("{SYSFS}/refcnt")) {
        Ok(text) => text.trim().parse().expect("refcnt is a number"),
        Err(_) => 0,
    }
}

/// The device with a buffer of `pages` pages and its initial content.
pub fn fresh(pages: u64) -> Device {
    let wanted = |device: &Device| {
        let info = device.info().expect("INFO");
        info.size == pages * u64::from(info.page_size)
    };
    let device = Device::open(Access::ReadWrite)
        .ok()
        .filter(wanted)
        .unwrap_or_else(|| {
            reload(&format!("buffer_pages={pages}"));
            let device = Device::open(Access::ReadWrite).expect("open");
            assert!(wanted(&device), "buffer_pages={pages} gives {pages} pages");
            device
        });
    pwrite(0, &initial(device.info().expect("INFO").size as usize));
    device
}

/// What a new buffer of `size` bytes holds.
pub fn initial(size: usize) -> Vec<u8> {
    let mut bytes = TEXT.as_bytes().to_vec();
    bytes.resize(size, 0);
    bytes
}

/// The field of a descriptor's fdinfo, of this process.
pub fn fdinfo(fd: &impl std::os::fd::AsRawFd, field: &str) -> u64 {
    fdinfo_of("self", fd.as_raw_fd(), field)
}

/// The field of the fdinfo of descriptor `fd` of process `pid`.
pub fn fdinfo_of(pid: &str, fd: i32, field: &str) -> u64 {
    let path = format!("/proc/{pid}/fdinfo/{fd}");
    let text = fs::read_to_string(&path).unwrap_or_else(|err| panic!("{path}: {err}"));
    number(&text, field)
}

/// Mappings of the buffer that live: its VMAs, in all processes.
pub fn live_mappings() -> u64 {
    let entries = fs::read_dir("/proc").expect("/proc");
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names
        .filter(|name| name.starts_with(|c: char| c.is_ascii_digit()))
        // A process that has ended has none.
        .map(|pid| mappings_of(&pid).unwrap_or(0))
        .sum()
}

/// Those of process `pid`, [`None`] if there is no such process any more.
pub fn mappings_of(pid: &str) -> Option<u64> {
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).ok()?;
    let ours = maps.lines().filter(|line| line.ends_with(Device::PATH));
    Some(ours.count() as u64)
}

/// The kernel's log from a moment on.
pub struct Log(OwnedFd);

impl Log {
    pub fn from_now() -> Self {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let log = rustix::fs::open("/dev/kmsg", flags, Mode::empty()).expect("/dev/kmsg");
        seek(&log, SeekFrom::End(0)).expect("/dev/kmsg seeks to its end");
        Self(log)
    }

    /// The messages that came since, but for what the kernel itself says once about a module
    /// that is not its own.
    pub fn lines(&self) -> Vec<String> {
        self.records().into_iter().map(|(_, line)| line).collect()
    }

    /// The same, with the level of each.
    pub fn records(&self) -> Vec<(u32, String)> {
        let mut records = vec![];
        let mut record = [0; 8192];
        loop {
            match io::read(&self.0, &mut record) {
                Ok(n) => {
                    let record = String::from_utf8_lossy(&record[..n]);
                    let (head, message) = record.split_once(';').expect("a record");
                    // The facility is in the higher bits.
                    let priority = head.split(',').next().and_then(|n| n.parse::<u32>().ok());
                    // Lines after the first are the record's dictionary.
                    let line = message.lines().next().unwrap_or_default();
                    records.push((priority.expect("a priority") % 8, line.to_owned()));
                }
                Err(Errno::AGAIN) => break,
                Err(err) => panic!("read /dev/kmsg: {err}"),
            }
        }
        records.retain(|(_, line)| {
            !line.contains("taints kernel") && !line.contains("tainting kernel")
        });
        records
    }
}
