// SPDX-License-Identifier: GPL-2.0
//! /proc/PID/fdinfo/N: the buffer's size, its pages, and how much of it is in huge folios.

use std::{fs, os::fd::AsRawFd};

use rustix::fs::OFlags;

use crate::{
    harness::tests,
    support::{
        memory::{page, private, shared, table},
        module::{self, fdinfo, fdinfo_of, fresh},
        open,
        proc::{meminfo, settle_lists},
        process::fork,
    },
};

tests![
    size_and_pages,
    huge_size_is_what_the_kernel_counts,
    no_line_but_these,
    of_another_process,
    in_every_access_mode,
    the_same_whatever_is_mapped,
];

fn size_and_pages() {
    for pages in [1, 5] {
        let device = fresh(pages);
        assert_eq!(fdinfo(&device, "buffer_size"), pages * page() as u64);
        assert_eq!(fdinfo(&device, "page_count"), pages);
        assert_eq!(fdinfo(&device, "huge_size"), 0, "{pages} are too few");
    }
}

/// Never more than the whole folios that fit.
fn huge_size_is_what_the_kernel_counts() {
    let huge_pages = || {
        settle_lists();
        meminfo("FileHugePages") as u64
    };
    let most = table() / page();
    for (pages, folios) in [(most - 1, 0), (most, 1), (2 * most + 5, 2), (9 * most, 9)] {
        module::unload_if_loaded();
        let before = huge_pages();
        module::load(&format!("buffer_pages={pages}")).expect("insmod");
        let found = fdinfo(&open(OFlags::RDONLY), "huge_size");
        assert_eq!(found, huge_pages() - before, "{pages} pages");
        assert!(found <= (folios * table()) as u64, "{found} of {pages}");
    }
}

/// After those of the kernel's own.
fn no_line_but_these() {
    let device = fresh(1);
    let path = format!("/proc/self/fdinfo/{}", device.as_raw_fd());
    let text = fs::read_to_string(path).expect("fdinfo");
    let (_, text) = text.split_once("\nino:").expect("the kernel's own");
    let (_, ours) = text.split_once('\n').expect("a line");
    let expected = format!("buffer_size:\t{}\npage_count:\t1\nhuge_size:\t0\n", page());
    assert_eq!(ours, expected);
}

fn in_every_access_mode() {
    let map = shared(fresh(4), 2);
    for flags in [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR] {
        let fd = open(flags);
        assert_eq!(fdinfo(&fd, "buffer_size"), 4 * page() as u64, "{flags:?}");
        assert_eq!(fdinfo(&fd, "page_count"), 4, "{flags:?}");
        assert_eq!(fdinfo(&fd, "huge_size"), 0, "{flags:?}");
    }
    drop(map);
}

fn of_another_process() {
    let pages = table() / page() + 3;
    let huge = fdinfo(&fresh(pages as u64), "huge_size");
    let child = fork(|link| {
        let own = open(OFlags::RDWR);
        let _map = private(&own, 3);
        link.send(own.as_raw_fd() as u64);
        link.wait();
    });
    let fd = child.link.receive() as i32;
    let pid = child.pid.to_string();
    let size = (pages * page()) as u64;
    assert_eq!(fdinfo_of(&pid, fd, "buffer_size"), size);
    assert_eq!(fdinfo_of(&pid, fd, "page_count"), pages as u64);
    assert_eq!(fdinfo_of(&pid, fd, "huge_size"), huge);
}

/// It tells of the buffer, and not of its users.
fn the_same_whatever_is_mapped() {
    let pages = 2 * table() / page();
    let device = fresh(pages as u64);
    let fields = || ["buffer_size", "page_count", "huge_size"].map(|field| fdinfo(&device, field));
    let before = fields();
    let (map, copy) = (shared(&device, pages), private(&device, pages));
    map.write(0, b"shared");
    copy.write(table() - 1, b"private");
    assert_eq!(fields(), before, "mapped and touched");
    map.unmap_part(page(), page()).expect("munmap");
    assert_eq!(fields(), before, "in parts");
    drop((map, copy));
    assert_eq!(fields(), before, "unmapped");
}
