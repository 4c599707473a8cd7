// SPDX-License-Identifier: GPL-2.0
//! The guide's §1 and §2: what mmap is, and what the kernel does for it.

use std::fs;

use rust_mmapdev::Device;
use rustix::{fs::OFlags, io};

use crate::{
    harness::tests,
    support::{
        assert_same,
        memory::{Advice, PRIVATE, READ, RW, SHARED, mmap, page, private, shared},
        module::{fresh, initial},
        open, pattern, pread,
        proc::{
            ANON, SWAPBACKED, UPTODATE, faults, minor_faults, page_count, page_flags, status_kib,
        },
        process::fork,
        pwrite, seccomp,
    },
};

tests![
    s1_the_device_becomes_a_part_of_the_address_space,
    s1_access_takes_no_system_call,
    s1_access_makes_no_copy,
    s2_mmap_creates_a_region,
    s2_virtual_addresses_lead_to_physical_pages,
    s2_the_pages_are_page_cache,
    s2_an_access_may_fault_and_the_kernel_brings_the_page,
    s2_no_fault_waits_for_a_disk,
];

fn s1_the_device_becomes_a_part_of_the_address_space() {
    let device = fresh(2);
    let map = mmap(&device, page() as u64, page(), RW, SHARED).expect("mmap");
    let maps = fs::read_to_string("/proc/self/maps").expect("maps");
    let start = map.at(0) as usize;
    let range = format!("{start:x}-{:x} rw-s {:08x} ", start + page(), page());
    let line = maps.lines().find(|line| line.starts_with(&range));
    let line = line.unwrap_or_else(|| panic!("no {range} in\n{maps}"));
    assert!(line.ends_with(Device::PATH), "{line}");
}

/// The process is killed for any system call but its end, and reads and writes all the same.
fn s1_access_takes_no_system_call() {
    let device = fresh(1);
    let (map, bytes) = (shared(&device, 1), pattern(1, page()));
    let mut found = vec![0; page()];
    fork(|_| {
        seccomp::allow_only(&[libc::SYS_exit_group]);
        // SAFETY: all of the mapping, read and written to as memory that others use.
        let same = unsafe {
            rust_mmapdev::volatile::read(map.at(0), &mut found);
            rust_mmapdev::volatile::write(map.at(0), &bytes);
            found[..4] == *b"rust"
        };
        // SAFETY: ends this process.
        unsafe { libc::_exit(if same { 0 } else { 1 }) }
    })
    .join();
    assert_same(&pread(0, page()), &bytes, "what the kernel has");
}

/// What read(2) delivers is a copy, on which later changes leave no mark; a mapping is no copy.
fn s1_access_makes_no_copy() {
    let device = fresh(1);
    let map = shared(&device, 1);
    let mut copy = vec![0; page()];
    assert_eq!(io::pread(&device, &mut copy, 0), Ok(page()));
    pwrite(0, b"changed");
    assert_same(&copy, &initial(page()), "the copy");
    assert_same(&map.read(0, 7), b"changed", "the mapping");
    assert_eq!(map.frames(), shared(open(OFlags::RDWR), 1).frames());
}

fn s2_mmap_creates_a_region() {
    let device = fresh(4);
    let regions = || {
        let maps = fs::read_to_string("/proc/self/maps").expect("maps");
        maps.matches(Device::PATH).count()
    };
    assert_eq!(regions(), 0);
    let before = status_kib("VmSize");
    let map = shared(&device, 4);
    assert_eq!(status_kib("VmSize") - before, 4 * page() / 1024);
    assert_eq!(regions(), 1);
    drop(map);
    assert_eq!(status_kib("VmSize"), before);
    assert_eq!(regions(), 0);
}

/// For a device whose pages are there anyway, they are in the page table when mmap returns.
fn s2_virtual_addresses_lead_to_physical_pages() {
    let device = fresh(4);
    let (map, other) = (
        shared(&device, 4),
        mmap(&device, 0, 4 * page(), READ, PRIVATE),
    );
    let frames = map.frames();
    assert!(frames.iter().all(Option::is_some), "{frames:?}");
    assert_eq!(
        frames,
        other.expect("mmap").frames(),
        "the same from elsewhere"
    );
    let all: std::collections::HashSet<_> = frames.iter().collect();
    assert_eq!(all.len(), 4, "a frame for each page");
    assert_eq!(
        page_count(frames[0].expect("a page")),
        1,
        "one page table entry"
    );
    let _third = shared(&device, 1);
    assert_eq!(page_count(frames[0].expect("a page")), 2, "two of them");
}

/// The page cache of a file in memory that nobody sees: it has no disk behind it.
fn s2_the_pages_are_page_cache() {
    let device = fresh(1);
    let (map, copy) = (shared(&device, 1), private(&device, 1));
    let flags = page_flags(map.frames()[0].expect("a page"));
    assert_eq!(
        flags & (UPTODATE | SWAPBACKED | ANON),
        UPTODATE | SWAPBACKED,
        "{flags:x}"
    );
    copy.write(0, b"mine");
    let flags = page_flags(copy.frames()[0].expect("a page"));
    assert_eq!(
        flags & ANON,
        ANON,
        "a private copy is no page cache: {flags:x}"
    );
}

fn s2_an_access_may_fault_and_the_kernel_brings_the_page() {
    let device = fresh(4);
    let bytes = pattern(2, 4 * page());
    pwrite(0, &bytes);
    for map in [shared(&device, 4), private(&device, 4)] {
        let frames = map.frames();
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        assert_eq!(map.frames(), [None; 4], "nothing in the page table");
        // SAFETY: the last byte of the mapping.
        let faults = minor_faults(|| unsafe {
            map.at(4 * page() - 1).read_volatile();
        });
        assert_eq!(faults, 1);
        assert_eq!(map.frames(), [None, None, None, frames[3]]);
        assert_same(&map.bytes(), &bytes, "after the faults");
        assert_eq!(map.frames(), frames, "the pages of before");
    }
}

fn s2_no_fault_waits_for_a_disk() {
    let device = fresh(4);
    let before = faults().1;
    for map in [shared(&device, 4), private(&device, 4)] {
        map.advise(Advice::LinuxPageOut).expect("madvise");
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        map.write(0, &pattern(3, 4 * page()));
    }
    assert_eq!(faults().1, before, "major faults");
}
