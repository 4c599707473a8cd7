// SPDX-License-Identifier: GPL-2.0
//! Private mappings: copied on write, and never a way into the kernel's bytes.

use std::{
    fs::OpenOptions,
    os::{fd::OwnedFd, unix::fs::FileExt},
};

use rustix::{fs::OFlags, io, pipe::pipe};

use crate::{
    harness::tests,
    support::{
        assert_same,
        memory::{Map, PRIVATE, READ, SHARED, mmap, page, private, shared},
        module::{fresh, initial},
        open, pattern, pread,
        process::{fork, mapper, traced},
        pwrite,
    },
};

tests![
    stores_reach_nobody_else,
    an_unwritten_page_is_the_kernels,
    a_written_page_is_ones_own,
    two_processes_have_a_copy_each,
    a_forked_copy_is_a_copy_of_the_copy,
    a_system_call_that_stores_copies_too,
    forced_writes_copy_too,
    forced_writes_do_not_pass_a_shared_read_only_mapping,
    page_by_page,
];

fn stores_reach_nobody_else() {
    let device = fresh(1);
    let (mine, other, all) = (private(&device, 1), private(&device, 1), shared(&device, 1));
    let bytes = pattern(1, page());
    mine.write(0, &bytes);
    assert_same(&mine.bytes(), &bytes, "the writer's own mapping");
    for (found, what) in [
        (other.bytes(), "another private mapping"),
        (all.bytes(), "a shared mapping"),
        (pread(0, page()), "the kernel's read"),
        (private(&device, 1).bytes(), "a new private mapping"),
    ] {
        assert_same(&found, &initial(page()), what);
    }
    drop(mine);
    assert_same(
        &pread(0, page()),
        &initial(page()),
        "the buffer after munmap",
    );
}

fn an_unwritten_page_is_the_kernels() {
    let device = fresh(1);
    let (mine, all) = (private(&device, 1), shared(&device, 1));
    mine.bytes();
    let bytes = pattern(2, page());
    pwrite(0, &bytes);
    assert_same(&mine.bytes(), &bytes, "after a write of the kernel's");
    all.write(0, b"stored");
    assert_same(
        &mine.read(0, 6),
        b"stored",
        "after a store of another mapping's",
    );
    assert_eq!(mine.frames(), all.frames(), "one page for both");
}

fn a_written_page_is_ones_own() {
    let device = fresh(1);
    let (mine, all) = (private(&device, 1), shared(&device, 1));
    mine.write(100, b"!");
    let before = mine.bytes();
    pwrite(0, &pattern(3, page()));
    all.write(0, b"stored");
    assert_same(&mine.bytes(), &before, "the copy");
    let (own, kernels) = (mine.frames(), all.frames());
    assert!(
        own[0].is_some() && own != kernels,
        "a page of its own: {own:?}, {kernels:?}"
    );
}

fn page_by_page() {
    let device = fresh(4);
    let (mine, all) = (private(&device, 4), shared(&device, 4));
    mine.write(2 * page(), b"mine");
    let bytes = pattern(4, 4 * page());
    pwrite(0, &bytes);
    for i in [0, 1, 3] {
        let at = i * page();
        assert_same(
            &mine.read(at, page()),
            &bytes[at..at + page()],
            &format!("page {i}"),
        );
    }
    assert_same(
        &mine.read(2 * page(), 4),
        b"mine",
        "the page that was written to",
    );
    all.bytes();
    let differing = mine
        .frames()
        .iter()
        .zip(all.frames())
        .filter(|(a, b)| **a != *b)
        .count();
    assert_eq!(differing, 1, "one page was copied");
}

fn two_processes_have_a_copy_each() {
    fresh(1);
    let writer = |name: &'static [u8]| {
        fork(move |link| {
            let map = private(open(OFlags::RDWR), 1);
            map.write(0, name);
            link.signal();
            link.wait();
            assert_same(&map.read(0, name.len()), name, "one's own bytes");
        })
    };
    let both = [writer(b"process A"), writer(b"process B")];
    both.iter().for_each(|child| child.link.wait());
    assert_same(
        &pread(0, page()),
        &initial(page()),
        "the buffer while both have written",
    );
    both.iter().for_each(|child| child.link.signal());
    both.into_iter().for_each(|child| child.join());
}

fn a_forked_copy_is_a_copy_of_the_copy() {
    let device = fresh(1);
    let map = private(&device, 1);
    map.write(0, b"parent");
    fork(|_| {
        assert_same(
            &map.read(0, 6),
            b"parent",
            "the child begins with the parent's",
        );
        map.write(0, b"child ");
    })
    .join();
    assert_same(&map.read(0, 6), b"parent", "the parent keeps its own");
    assert_same(&pread(0, page()), &initial(page()), "the buffer");
}

fn a_system_call_that_stores_copies_too() {
    let device = fresh(1);
    let map = private(&device, 1);
    let (receiver, sender) = pipe().expect("pipe");
    io::write(&sender, b"secret").expect("write");
    // SAFETY: the address is for the kernel only.
    assert_eq!(
        io::read(&receiver, unsafe { map.as_mut_slice(0, 6) }),
        Ok(6)
    );
    assert_same(&map.read(0, 6), b"secret", "the private page");
    assert_same(&pread(0, page()), &initial(page()), "the buffer");
}

/// Writes to the memory of another process as a debugger does, whatever the protection is there.
fn force(map: fn(OwnedFd) -> Map) -> std::io::Result<Vec<u8>> {
    let (child, address) = mapper(map);
    let mut result = Ok(vec![]);
    traced(&child, |pid| {
        let path = format!("/proc/{pid}/mem");
        let memory = OpenOptions::new()
            .read(true)
            .write(true)
            .open(path)
            .expect("/proc/PID/mem");
        let mut found = vec![0; 6];
        result = memory
            .write_all_at(b"forced", address as u64)
            .and_then(|()| memory.read_exact_at(&mut found, address as u64))
            .map(|()| found);
    });
    result
}

fn forced_writes_copy_too() {
    fresh(1);
    let found = force(|fd| mmap(fd, 0, page(), READ, PRIVATE).expect("mmap"));
    assert_same(
        &found.expect("a forced write to a private page"),
        b"forced",
        "the private page",
    );
    assert_same(&pread(0, page()), &initial(page()), "the buffer");
}

fn forced_writes_do_not_pass_a_shared_read_only_mapping() {
    fresh(1);
    force(|fd| mmap(fd, 0, page(), READ, SHARED).expect("mmap"))
        .expect_err("a forced write to a shared page");
    assert_same(&pread(0, page()), &initial(page()), "the buffer");
}
