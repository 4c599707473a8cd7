// SPDX-License-Identifier: GPL-2.0
//! The guide's §1 and §2: what mmap is, and what the kernel does for it.

use std::fs;

use rust_mmapdev::Device;
use rustix::{fs::OFlags, io};

use crate::{
    harness::tests,
    support::{
        assert_same,
        memory::{self, Advice, PRIVATE, READ, RW, SHARED, mmap, page, private, shared},
        module::{fresh, initial},
        open, pattern, pread,
        proc::{
            ANON, DIRTY, SWAPBACKED, UNEVICTABLE, UPTODATE, faults, minor_faults, page_count,
            page_flags, settle_lists, status_kib,
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
            memory::copy_out(map.at(0), &mut found);
            memory::copy_in(map.at(0), &bytes);
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

/// A mapping of one page has it in the page table when mmap returns; larger ones get theirs when
/// they are touched, all at once.
fn s2_virtual_addresses_lead_to_physical_pages() {
    let device = fresh(4);
    let (map, other) = (
        shared(&device, 4),
        mmap(&device, 0, 4 * page(), READ, PRIVATE).expect("mmap"),
    );
    assert_eq!(map.frames(), [None; 4], "before it is touched");
    map.read(page(), 1);
    let frames = map.frames();
    assert!(frames.iter().all(Option::is_some), "{frames:?}");
    let all: std::collections::HashSet<_> = frames.iter().collect();
    assert_eq!(all.len(), 4, "a frame for each page");
    let first = frames[0].expect("a page");
    assert_eq!(page_count(first), 1, "one page table entry");
    assert_eq!(other.frames(), [None; 4], "not touched itself");
    other.read(3 * page(), 1);
    assert_eq!(other.frames(), frames, "the same from elsewhere");
    assert_eq!(page_count(first), 2, "two entries");
    let third = shared(&device, 1);
    assert_eq!(third.frames(), frames[..1], "of one page: at once");
    assert_eq!(page_count(first), 3, "three of them");
}

/// The page cache of a file that nobody sees. It has no disk behind it: what is there is dirty for
/// good, and stays.
fn s2_the_pages_are_page_cache() {
    let device = fresh(1);
    let (map, copy) = (shared(&device, 1), private(&device, 1));
    settle_lists();
    let flags = page_flags(map.frames()[0].expect("a page"));
    let expected = UPTODATE | DIRTY | UNEVICTABLE;
    assert_eq!(
        flags & (expected | SWAPBACKED | ANON),
        expected,
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
    let kernels = shared(&device, 4);
    kernels.bytes();
    for map in [shared(&device, 4), private(&device, 4)] {
        for again in [false, true] {
            assert_eq!(map.frames(), [None; 4], "nothing in the page table");
            // SAFETY: the last byte of the mapping.
            let faults = minor_faults(|| unsafe {
                map.at(4 * page() - 1).read_volatile();
            });
            assert_eq!(faults, 1, "again: {again}");
            assert_eq!(map.frames(), kernels.frames(), "one fault for all of them");
            let faults = minor_faults(|| {
                for at in (0..4 * page()).step_by(page()) {
                    // SAFETY: a byte of the mapping.
                    unsafe { map.at(at).read_volatile() };
                }
            });
            assert_eq!(faults, 0, "and no more");
            assert_same(&map.bytes(), &bytes, "after the faults");
            map.advise(Advice::LinuxDontNeed).expect("madvise");
        }
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
