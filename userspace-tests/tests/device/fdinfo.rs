// SPDX-License-Identifier: GPL-2.0
//! /proc/PID/fdinfo/N: the buffer's size, its pages, and the mappings (VMAs) that live.

use std::os::fd::AsRawFd;

use rustix::{fs::OFlags, mm::MremapFlags};

use crate::{
    harness::tests,
    support::{
        memory::{
            self, Advice, MprotectFlags, PRIVATE, READ, RW, SHARED, mmap, page, private, shared,
        },
        module::{fdinfo, fdinfo_of, fresh, live_mappings},
        open,
        process::fork,
    },
};

tests![
    size_and_pages,
    of_another_process,
    counts_mappings_of_all_descriptors,
    counts_replaced_mappings_down,
    dontfork_is_not_counted_in_the_child,
    in_every_access_mode,
    counts_parts_that_munmap_leaves,
    counts_parts_that_mprotect_makes,
    counts_moves_once,
    counts_through_fork_and_exit,
];

fn size_and_pages() {
    for pages in [1, 5] {
        let device = fresh(pages);
        assert_eq!(fdinfo(&device, "buffer_size"), pages * page() as u64);
        assert_eq!(fdinfo(&device, "page_count"), pages);
        assert_eq!(fdinfo(&device, "live_mappings"), 0);
    }
}

fn in_every_access_mode() {
    let map = shared(fresh(4), 2);
    for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR] {
        let fd = open(flags);
        assert_eq!(fdinfo(&fd, "page_count"), 4, "{flags:?}");
        assert_eq!(fdinfo(&fd, "live_mappings"), 1, "{flags:?}");
    }
    drop(map);
}

fn of_another_process() {
    fresh(3);
    let child = fork(|link| {
        let own = open(OFlags::RDWR);
        let _map = private(&own, 3);
        link.send(own.as_raw_fd() as u64);
        link.wait();
    });
    let fd = child.link.receive() as i32;
    let pid = child.pid.to_string();
    assert_eq!(fdinfo_of(&pid, fd, "buffer_size"), 3 * page() as u64);
    assert_eq!(fdinfo_of(&pid, fd, "live_mappings"), 1);
}

fn counts_mappings_of_all_descriptors() {
    let device = fresh(1);
    let mut maps = vec![];
    for n in 1..=3 {
        maps.push(shared(open(OFlags::RDWR), 1));
        maps.push(private(open(OFlags::RDONLY), 1));
        assert_eq!(fdinfo(&device, "live_mappings"), 2 * n);
    }
    while maps.pop().is_some() {
        assert_eq!(fdinfo(&device, "live_mappings"), maps.len() as u64);
    }
}

fn counts_parts_that_munmap_leaves() {
    let device = fresh(4);
    let map = shared(&device, 4);
    map.unmap_part(3 * page(), page()).expect("the end");
    assert_eq!(live_mappings(), 1);
    map.unmap_part(page(), page()).expect("the middle");
    assert_eq!(live_mappings(), 2, "one before the gap, one after it");
    map.unmap_part(0, page()).expect("the first part");
    assert_eq!(live_mappings(), 1);
    drop(map);
    assert_eq!(live_mappings(), 0);
}

fn counts_parts_that_mprotect_makes() {
    let device = fresh(4);
    let map = shared(&device, 4);
    map.protect_part(page(), 2 * page(), MprotectFlags::READ)
        .expect("mprotect");
    assert_eq!(live_mappings(), 3);
    drop(map);
    assert_eq!(live_mappings(), 0);
}

fn counts_moves_once() {
    let device = fresh(4);
    let mut map = shared(&device, 4);
    map.remap_onto(memory::anonymous(4, RW, PRIVATE))
        .expect("mremap");
    assert_eq!(live_mappings(), 1);
    map.remap(page(), MremapFlags::empty()).expect("shrink");
    assert_eq!(live_mappings(), 1);
    map.remap(2 * page(), MremapFlags::MAYMOVE)
        .expect_err("grow");
    assert_eq!(live_mappings(), 1);
    drop(map);
    assert_eq!(live_mappings(), 0);
}

fn counts_replaced_mappings_down() {
    let device = fresh(1);
    let map = shared(&device, 1);
    map.fixed(&device, 0, READ, SHARED).expect("MAP_FIXED");
    assert_eq!(live_mappings(), 1);
    mmap(&device, 0, 2 * page(), RW, SHARED).expect_err("past the end");
    assert_eq!(live_mappings(), 1, "a refused mapping");
}

fn counts_through_fork_and_exit() {
    let device = fresh(4);
    let (_map, _copy) = (shared(&device, 2), private(&device, 2));
    let children: Vec<_> = (1..=3)
        .map(|n| {
            let child = fork(|link| {
                link.signal();
                link.wait();
            });
            child.link.wait();
            assert_eq!(live_mappings(), 2 + 2 * n);
            child
        })
        .collect();
    let [first, second, third] = children.try_into().ok().expect("three children");
    first.link.signal();
    first.join();
    assert_eq!(live_mappings(), 6, "after exit");
    second.kill();
    assert_eq!(live_mappings(), 4, "after kill -9");
    drop(third);
    assert_eq!(live_mappings(), 2);
}

fn dontfork_is_not_counted_in_the_child() {
    let device = fresh(1);
    let map = shared(&device, 1);
    map.advise(Advice::LinuxDontFork).expect("MADV_DONTFORK");
    let child = fork(|link| {
        link.signal();
        link.wait();
    });
    child.link.wait();
    assert_eq!(live_mappings(), 1);
}
