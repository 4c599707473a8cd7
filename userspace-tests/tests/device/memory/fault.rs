// SPDX-License-Identifier: GPL-2.0
//! Touching a mapped page never ends in a signal, whatever took it out of the page table.

use std::{fs, thread, time::Duration};

use rust_mmapdev::Device;
use rustix::{
    fs::{AtFlags, CWD, Timespec, Timestamps, stat, utimensat},
    io::{self},
    pipe::pipe,
};

use crate::{
    harness::tests,
    support::{
        assert_same,
        memory::{Advice, Map, PRIVATE, RW, SHARED, mmap, page, private, shared},
        module::fresh,
        pattern, pread,
        process::fork,
        pwrite,
    },
};

tests![
    after_dontneed_shared,
    after_dontneed_of_one_page,
    first_access_is_a_store,
    the_kernel_itself_faults_the_page_in,
    after_fork,
    after_fork_without_pages,
    pageout_and_cold_keep_the_bytes,
    after_memory_pressure,
    a_store_leaves_the_times_of_the_node,
    faults_race_with_each_other,
];

fn is_absent(map: &Map) -> bool {
    map.frames().iter().all(Option::is_none)
}

fn after_dontneed_shared() {
    let device = fresh(4);
    let bytes = pattern(1, 4 * page());
    let map = shared(&device, 4);
    map.write(0, &bytes);
    let frames = map.frames();
    map.advise(Advice::LinuxDontNeed).expect("madvise");
    assert!(is_absent(&map), "the pages are out of the page table");
    assert_same(&map.bytes(), &bytes, "the mapping");
    assert_eq!(map.frames(), frames, "the same pages as before");
    map.write(7, b"still shared");
    assert_same(&pread(7, 12), b"still shared", "the buffer");
}

fn after_dontneed_of_one_page() {
    let device = fresh(4);
    let bytes = pattern(4, 4 * page());
    pwrite(0, &bytes);
    for flags in [SHARED, PRIVATE] {
        let map = mmap(&device, page() as u64, 3 * page(), RW, flags).expect("mmap");
        map.bytes();
        map.advise_part(page(), page(), Advice::LinuxDontNeed)
            .expect("madvise");
        let missing = map.frames().into_iter().map(|frame| frame.is_none());
        assert_eq!(missing.collect::<Vec<_>>(), [false, true, false]);
        assert_same(&map.bytes(), &bytes[page()..], "the mapping");
    }
}

fn first_access_is_a_store() {
    let device = fresh(1);
    let bytes = pattern(5, page());
    pwrite(0, &bytes);
    for (flags, stored) in [(SHARED, b"shared"), (PRIVATE, b"secret")] {
        let map = mmap(&device, 0, page(), RW, flags).expect("mmap");
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        map.write(0, stored);
        assert_same(&map.read(0, 6), stored, "what was stored");
        assert_same(&map.read(6, page() - 6), &bytes[6..], "the rest of it");
        // The private store is not seen there.
        assert_same(&pread(0, 6), b"shared", "the buffer");
    }
}

fn the_kernel_itself_faults_the_page_in() {
    let device = fresh(1);
    let (receiver, sender) = pipe().expect("pipe");
    for (map, shown) in [(private(&device, 1), false), (shared(&device, 1), true)] {
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        io::write(&sender, b"from a pipe").expect("write");
        // SAFETY: the address is for the kernel only.
        let buffer = unsafe { map.as_mut_slice(3, 11) };
        assert_eq!(io::read(&receiver, buffer), Ok(11));
        assert_same(&map.read(3, 11), b"from a pipe", "the mapping");
        assert_eq!(
            pread(3, 11) == b"from a pipe",
            shown,
            "in the buffer when shared only"
        );
    }
}

fn after_fork() {
    let device = fresh(4);
    let bytes = pattern(6, 2 * page());
    pwrite(0, &bytes);
    let (map, copy) = (shared(&device, 2), private(&device, 2));
    copy.write(0, b"parent");
    let child = fork(|link| {
        assert_same(&map.bytes(), &bytes, "the child's shared mapping");
        assert_same(&copy.read(0, 6), b"parent", "the child's private page");
        map.write(page(), b"child");
        copy.write(0, b"child ");
        copy.write(page(), b"child ");
        link.signal();
        link.wait();
        assert_same(&map.read(0, 8), b"grown up", "a store of the parent's");
        assert_same(&copy.read(0, 6), b"child ", "the child's private page");
    });
    child.link.wait();
    assert_same(&map.read(page(), 5), b"child", "the child's store");
    assert_same(&copy.read(0, 6), b"parent", "the parent's private page");
    // The child's shared store, and not its private one.
    assert_same(
        &copy.read(page(), 6),
        &pread(page() as u64, 6),
        "a page only the child wrote to",
    );
    map.write(0, b"grown up");
    child.link.signal();
    child.join();
}

/// fork does not copy what can be faulted in again.
fn after_fork_without_pages() {
    let device = fresh(4);
    let bytes = pattern(7, 2 * page());
    pwrite(0, &bytes);
    let (map, copy) = (shared(&device, 2), private(&device, 2));
    for touched in [false, true] {
        if touched {
            map.bytes();
            copy.bytes();
        }
        fork(|_| {
            assert!(is_absent(&map) && is_absent(&copy));
            assert_same(&map.bytes(), &bytes, "shared");
            assert_same(&copy.bytes(), &bytes, "private");
        })
        .join();
    }
    assert_same(&map.bytes(), &bytes, "shared, in the parent");
}

fn pageout_and_cold_keep_the_bytes() {
    let device = fresh(4);
    let bytes = pattern(8, 4 * page());
    let (map, copy) = (shared(&device, 4), private(&device, 4));
    map.write(0, &bytes);
    copy.write(page(), b"mine");
    for advice in [Advice::LinuxCold, Advice::LinuxPageOut] {
        for map in [&map, &copy] {
            map.advise(advice)
                .unwrap_or_else(|err| panic!("{advice:?}: {err}"));
        }
        assert_same(&map.bytes(), &bytes, "shared");
        assert_same(&copy.read(page(), 4), b"mine", "private, written to");
        assert_same(
            &copy.read(0, page()),
            &bytes[..page()],
            "private, not written to",
        );
        assert_same(&pread(0, 4 * page()), &bytes, "the buffer");
    }
}

/// The kernel drops its caches and moves pages together; these ones stay as they are.
fn after_memory_pressure() {
    let device = fresh(4);
    let bytes = pattern(10, 4 * page());
    let map = shared(&device, 4);
    map.write(0, &bytes);
    fs::write("/proc/sys/vm/drop_caches", "3").expect("drop_caches");
    fs::write("/proc/sys/vm/compact_memory", "1").expect("compact_memory");
    assert_same(&map.bytes(), &bytes, "the mapping");
    assert_same(&pread(0, 4 * page()), &bytes, "the buffer");
}

/// Of a file it would change them. The node stands for the buffer, and was not written to. Nor do
/// write(2) and read(2).
fn a_store_leaves_the_times_of_the_node() {
    let times = || {
        let node = stat(Device::PATH).expect("stat");
        [node.st_mtime, node.st_ctime, node.st_atime]
    };
    for pages in [1, 4] {
        let device = fresh(pages);
        let past = Timespec {
            tv_sec: 1_000_000_000,
            tv_nsec: 0,
        };
        let both = Timestamps {
            last_access: past,
            last_modification: past,
        };
        utimensat(CWD, Device::PATH, &both, AtFlags::empty()).expect("utimensat");
        let before = times();
        assert_eq!(before[0], past.tv_sec);
        // So that a change of the second would show.
        thread::sleep(Duration::from_millis(1100));
        let map = shared(&device, pages as usize);
        map.write(0, b"stored");
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        map.write(0, b"stored");
        assert_eq!(times(), before, "{pages} pages");
        pwrite(0, b"written");
        assert_eq!(pread(0, 7), b"written");
        assert_eq!(times(), before, "{pages} pages, read and written");
        // Where each store is to leave a mark, the core has a say in it.
        for dropped in [false, true] {
            fs::write("/proc/self/clear_refs", "4").expect("clear_refs");
            if dropped {
                map.advise(Advice::LinuxDontNeed).expect("madvise");
            }
            map.write(0, b"stored");
            assert_eq!(times(), before, "{pages} pages, soft-dirty bits cleared");
        }
    }
}

/// Several threads find the page missing at once: the one who comes late has lost nothing.
fn faults_race_with_each_other() {
    const ROUNDS: usize = 200;
    let device = fresh(1);
    let map = shared(&device, 1);
    let copy = private(&device, 1);
    thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                for _ in 0..ROUNDS {
                    map.advise(Advice::LinuxDontNeed).expect("madvise");
                    assert_eq!(map.read(0, 4), b"rust");
                    copy.advise(Advice::LinuxDontNeed).expect("madvise");
                    assert_eq!(copy.read(0, 4), b"rust");
                }
            });
        }
    });
}
