// SPDX-License-Identifier: GPL-2.0
//! mprotect(2): everything as on a file, but never executable.

use rustix::{
    fs::{OFlags, StatVfsMountFlags, statvfs},
    io::Errno,
};

use crate::{
    harness::tests,
    support::{
        assert_same, errno,
        memory::{MprotectFlags, PRIVATE, READ, RW, SHARED, mmap, page},
        module::fresh,
        open, pread,
    },
};

tests![
    exec_is_eacces,
    writing_through_a_read_only_descriptor_is_eacces,
    writing_privately_through_a_read_only_descriptor,
];

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
