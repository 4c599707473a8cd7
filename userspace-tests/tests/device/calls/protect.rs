// SPDX-License-Identifier: GPL-2.0
//! mprotect(2): everything as on a file, but never executable.

use rustix::{
    fs::{OFlags, StatVfsMountFlags, statvfs},
    io::Errno,
    process::Signal,
};

use crate::{
    harness::tests,
    support::{
        assert_same, errno,
        memory::{MprotectFlags, PRIVATE, READ, RW, SHARED, mmap, page, private, shared},
        module::{fresh, live_mappings},
        open, pattern, pread,
        process::assert_dies_of,
        pwrite,
    },
};

tests![
    exec_is_eacces,
    read_only_and_back,
    no_access_and_back,
    writing_through_a_read_only_descriptor_is_eacces,
    writing_privately_through_a_read_only_descriptor,
    a_part_alone,
];

const NONE: MprotectFlags = MprotectFlags::empty();
const R: MprotectFlags = MprotectFlags::READ;
const W: MprotectFlags = MprotectFlags::READ.union(MprotectFlags::WRITE);
const X: MprotectFlags = MprotectFlags::EXEC;

fn exec_is_eacces() {
    let device = fresh(1);
    // On a file system without exec the core would refuse on its own.
    let dev = statvfs("/dev").expect("statvfs");
    assert!(
        !dev.f_flag.contains(StatVfsMountFlags::NOEXEC),
        "/dev must allow execution here"
    );
    for flags in [SHARED, PRIVATE] {
        for prot in [READ, RW] {
            let map = mmap(&device, 0, page(), prot, flags).expect("mmap");
            for wanted in [X, R | X, W | X] {
                let result = map.protect(wanted);
                assert_eq!(
                    errno(result),
                    Errno::ACCESS,
                    "{flags:?} {prot:?} to {wanted:?}"
                );
            }
            map.bytes();
        }
        let copied = mmap(&device, 0, page(), RW, flags).expect("mmap");
        copied.write(0, b"mine");
        assert_eq!(
            errno(copied.protect(R | X)),
            Errno::ACCESS,
            "{flags:?}, written to"
        );
    }
}

fn read_only_and_back() {
    let device = fresh(1);
    for flags in [SHARED, PRIVATE] {
        let map = mmap(&device, 0, page(), RW, flags).expect("mmap");
        map.write(0, b"before");
        map.protect(R).expect("to read-only");
        assert_same(&map.read(0, 6), b"before", "read-only");
        assert_dies_of(Signal::SEGV, || map.write(0, b"during"));
        map.protect(W).expect("back to writable");
        assert_same(&map.read(0, 6), b"before", "after the refused store");
        map.write(0, b"behind");
        assert_same(&map.read(0, 6), b"behind", "writable again");
    }
    assert_same(&pread(0, 6), b"behind", "the buffer");
}

fn no_access_and_back() {
    let device = fresh(1);
    let bytes = pattern(1, page());
    pwrite(0, &bytes);
    let map = shared(&device, 1);
    map.protect(NONE).expect("to no access");
    assert_dies_of(Signal::SEGV, || drop(map.bytes()));
    assert_dies_of(Signal::SEGV, || map.write(0, b"x"));
    map.protect(W).expect("back");
    assert_same(&map.bytes(), &bytes, "accessible again");
}

fn writing_through_a_read_only_descriptor_is_eacces() {
    fresh(1);
    let map = mmap(open(OFlags::RDONLY), 0, page(), READ, SHARED).expect("mmap");
    assert_eq!(errno(map.protect(W)), Errno::ACCESS);
    map.bytes();
    let map = mmap(open(OFlags::RDWR), 0, page(), READ, SHARED).expect("mmap");
    map.protect(W).expect("a descriptor that may write");
    map.write(0, b"written");
    assert_same(&pread(0, 7), b"written", "the buffer");
}

fn writing_privately_through_a_read_only_descriptor() {
    fresh(1);
    let map = mmap(open(OFlags::RDONLY), 0, page(), READ, PRIVATE).expect("mmap");
    map.protect(W).expect("mprotect");
    let before = pread(0, 4);
    map.write(0, b"mine");
    assert_same(&map.read(0, 4), b"mine", "the private page");
    assert_same(&pread(0, 4), &before, "the buffer");
}

fn a_part_alone() {
    let device = fresh(4);
    let bytes = pattern(2, 4 * page());
    pwrite(0, &bytes);
    for map in [shared(&device, 4), private(&device, 4)] {
        map.protect_part(page(), page(), R).expect("mprotect");
        assert_same(&map.bytes(), &bytes, "all is readable");
        assert_dies_of(Signal::SEGV, || map.write(page(), b"x"));
        map.protect_part(page(), page(), W).expect("mprotect");
        assert_eq!(
            errno(map.protect_part(2 * page(), page(), R | X)),
            Errno::ACCESS
        );
    }
    assert_eq!(live_mappings(), 0);
}
