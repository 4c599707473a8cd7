// SPDX-License-Identifier: GPL-2.0
//! Many processes at once, and descriptors that go from one to another.

use rustix::{fs::OFlags, io::Errno};

use crate::{
    harness::tests,
    support::{
        assert_same, errno,
        memory::{READ, RW, SHARED, mmap, page, shared},
        module::{fresh, live_mappings},
        open, pattern, pread,
        process::{fork, pass, passed},
        pwrite,
    },
};

tests![
    fifty_processes_map_at_once,
    a_passed_descriptor_maps,
    a_passed_descriptor_keeps_its_access_mode,
];

fn fifty_processes_map_at_once() {
    fresh(4);
    let bytes = pattern(1, 4 * page());
    pwrite(0, &bytes);
    let children: Vec<_> = (0..50)
        .map(|_| {
            fork(|link| {
                let map = shared(open(OFlags::RDWR), 4);
                assert_same(&map.bytes(), &bytes, "each process's mapping");
                link.signal();
                link.wait();
                assert_same(&map.read(0, 5), b"to 50", "a byte for all");
            })
        })
        .collect();
    children.iter().for_each(|child| child.link.wait());
    assert_eq!(live_mappings(), 50);
    pwrite(0, b"to 50");
    children.iter().for_each(|child| child.link.signal());
    children.into_iter().for_each(|child| child.join());
    assert_eq!(live_mappings(), 0);
}

/// Hands a descriptor over to another process.
fn a_passed_descriptor_maps() {
    fresh(1);
    let child = fork(|link| {
        crate::support::process::become_nobody();
        let map = shared(passed(link), 1);
        map.write(0, b"from a stranger");
    });
    pass(&child.link, &open(OFlags::RDWR));
    child.join();
    assert_same(&pread(0, 15), b"from a stranger", "the buffer");
}

fn a_passed_descriptor_keeps_its_access_mode() {
    fresh(1);
    let child = fork(|link| {
        let fd = passed(link);
        assert_eq!(errno(mmap(&fd, 0, page(), RW, SHARED)), Errno::ACCESS);
        mmap(&fd, 0, page(), READ, SHARED).expect("for reading");
    });
    pass(&child.link, &open(OFlags::RDONLY));
    child.join();
}
