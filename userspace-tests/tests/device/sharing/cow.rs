// SPDX-License-Identifier: GPL-2.0
//! Private mappings: copied on write, in whatever order things happen, and never a way into the
//! kernel's bytes.

use std::{
    fs::OpenOptions,
    os::{fd::OwnedFd, unix::fs::FileExt},
};

use rustix::{fs::OFlags, io, pipe::pipe};

use crate::{
    harness::tests,
    support::{
        assert_same,
        memory::{Advice, Map, PRIVATE, READ, SHARED, mmap, page, private, shared},
        module::{fresh, initial},
        open, pattern, pread,
        proc::{ANON, page_flags},
        process::{Child, Link, ROLES, Role, fork, mapper, start, traced},
        pwrite,
    },
};

tests![
    stores_reach_nobody_else,
    a_system_call_that_stores_copies_too,
    forced_writes_copy_too,
    forced_writes_do_not_pass_a_shared_read_only_mapping,
    every_process_gets_all_of_a_small_buffer,
    no_memory_is_taken_before_the_first_write,
    a_and_b_private_both_write,
    every_order_of_events,
    shared_writer_beside_a_private_reader_before_its_copy,
    shared_writer_beside_a_private_reader_after_its_copy,
    the_whole_page_is_copied,
    private_writer_forks,
    private_reader_forks,
    dontneed_shows_the_kernels_bytes_again,
    smaps_and_pagemap_show_what_was_copied,
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

/// A process that has a mapping and does as it is told: the guide's A and B.
#[linkme::distributed_slice(ROLES)]
static HOLDER: Role = Role {
    name: "holder",
    body: holder,
};

fn holder(link: &Link, args: &[String]) {
    let device = open(OFlags::RDWR);
    let map = match args[0].as_str() {
        "private" => private(device, 1),
        _ => shared(device, 1),
    };
    loop {
        match link.receive() as u8 {
            b'?' => link.send(map.frames()[0].unwrap_or(0)),
            b'-' => {
                map.advise(Advice::LinuxDontNeed).expect("madvise");
                link.signal();
            }
            b'=' => {
                let bytes = map.read(0, 8);
                link.send(u64::from_ne_bytes(bytes.try_into().expect("eight bytes")));
            }
            _ => {
                map.write(0, &link.receive().to_ne_bytes());
                link.signal();
            }
        }
    }
}

struct Holder(Child);

impl Holder {
    fn new(sharing: &str) -> Self {
        Self(start(&HOLDER, &[sharing]))
    }

    fn frame(&self) -> u64 {
        self.0.link.send(b'?'.into());
        self.0.link.receive()
    }

    fn bytes(&self) -> [u8; 8] {
        self.0.link.send(b'='.into());
        self.0.link.receive().to_ne_bytes()
    }

    fn drop_copy(&self) {
        self.0.link.send(b'-'.into());
        self.0.link.wait();
    }

    fn write(&self, bytes: [u8; 8]) {
        self.0.link.send(b'!'.into());
        self.0.link.send(u64::from_ne_bytes(bytes));
        self.0.link.wait();
    }
}

const INITIAL: [u8; 8] = *b"rust_mma";

#[track_caller]
fn kernel_is_untouched() {
    assert_same(&pread(0, page()), &initial(page()), "the kernel's bytes");
}

/// "Even if the module's buffer has 4096 bytes only", ten can have it.
fn every_process_gets_all_of_a_small_buffer() {
    fresh(1);
    let holders: Vec<_> = (0..10).map(|_| Holder::new("private")).collect();
    let letters = |i: usize| [b'0' + i as u8; 8];
    for (i, holder) in holders.iter().enumerate() {
        assert_eq!(holder.bytes(), INITIAL);
        holder.write(letters(i));
    }
    for (i, holder) in holders.iter().enumerate() {
        assert_eq!(holder.bytes(), letters(i));
    }
    kernel_is_untouched();
}

/// "The kernel does not create separate physical memory at once."
fn no_memory_is_taken_before_the_first_write() {
    let device = fresh(4);
    let (map, all) = (private(&device, 4), shared(&device, 4));
    map.bytes();
    all.bytes();
    assert!(map.frames().iter().all(Option::is_some));
    assert_eq!(map.frames(), all.frames());
    assert_eq!(map.smaps_kib("Anonymous"), 0);
    map.write(2 * page(), b"!");
    assert_eq!(map.smaps_kib("Anonymous"), page() / 1024);
}

fn a_and_b_private_both_write() {
    let kernels = shared(fresh(1), 1).frames()[0].expect("a page");
    let (a, b) = (Holder::new("private"), Holder::new("private"));
    assert_eq!((a.bytes(), b.bytes()), (INITIAL, INITIAL), "both read");
    assert_eq!(
        (a.frame(), b.frame()),
        (kernels, kernels),
        "one page for all"
    );
    a.write(*b"A wrote.");
    assert_eq!((a.bytes(), b.bytes()), (*b"A wrote.", INITIAL));
    assert_ne!(a.frame(), kernels, "A's page table leads to a new page");
    assert_eq!(b.frame(), kernels, "B's to the old one");
    b.write(*b"B wrote.");
    assert_eq!((a.bytes(), b.bytes()), (*b"A wrote.", *b"B wrote."));
    let (of_a, of_b) = (a.frame(), b.frame());
    assert!(
        of_a != of_b && of_a != kernels && of_b != kernels,
        "three pages"
    );
    kernel_is_untouched();
}

/// A writes, B writes, a shared mapping writes, the kernel writes: all 24 orders. Whoever has a
/// copy keeps it; whoever has none sees the last that was written to the shared page.
fn every_order_of_events() {
    fresh(1);
    let sharer = Holder::new("shared");
    let (a, b) = (Holder::new("private"), Holder::new("private"));
    for order in 0..24 {
        let mut events = vec![*b"A wrote.", *b"B wrote.", *b"shared..", *b"kernel.."];
        let mut index = order;
        pwrite(0, &INITIAL);
        a.drop_copy();
        b.drop_copy();
        let (mut own_a, mut own_b, mut all) = (None, None, INITIAL);
        while !events.is_empty() {
            let event = events.remove(index % events.len());
            index /= events.len() + 1;
            match event[0] {
                b'A' => {
                    a.write(event);
                    own_a = Some(event);
                }
                b'B' => {
                    b.write(event);
                    own_b = Some(event);
                }
                b's' => {
                    sharer.write(event);
                    all = event;
                }
                _ => {
                    pwrite(0, &event);
                    all = event;
                }
            }
            assert_eq!(a.bytes(), own_a.unwrap_or(all), "A, order {order}");
            assert_eq!(b.bytes(), own_b.unwrap_or(all), "B, order {order}");
            assert_eq!(sharer.bytes(), all, "the sharer, order {order}");
            assert_eq!(pread(0, 8), all, "the kernel, order {order}");
        }
    }
}

fn shared_writer_beside_a_private_reader_before_its_copy() {
    fresh(1);
    let (writer, reader) = (Holder::new("shared"), Holder::new("private"));
    assert_eq!(reader.bytes(), INITIAL);
    writer.write(*b"for all.");
    assert_eq!(reader.bytes(), *b"for all.", "the page is still the same");
    assert_eq!(reader.frame(), writer.frame());
}

fn shared_writer_beside_a_private_reader_after_its_copy() {
    fresh(1);
    let (writer, reader) = (Holder::new("shared"), Holder::new("private"));
    reader.write(*b"my copy.");
    writer.write(*b"for all.");
    assert_eq!(reader.bytes(), *b"my copy.");
    assert_eq!(pread(0, 8), *b"for all.");
}

/// "The kernel copies 4096 bytes": all that was not written to is as it was at that moment.
fn the_whole_page_is_copied() {
    let device = fresh(1);
    let (own, bytes) = (private(&device, 1), pattern(1, page()));
    pwrite(0, &bytes);
    own.write(100, b"!");
    pwrite(0, &pattern(2, page()));
    let mut expected = bytes;
    expected[100] = b'!';
    assert_same(&own.bytes(), &expected, "the copy");
}

/// The child's is a copy of the copy, made when one of the two writes again.
fn private_writer_forks() {
    let own = private(fresh(1), 1);
    own.write(0, b"parent's");
    let child = fork(|link| {
        assert_same(&own.read(0, 8), b"parent's", "what the child begins with");
        link.send(own.frames()[0].expect("a page"));
        link.wait();
        assert_same(&own.read(0, 8), b"parent's", "after the parent's write");
        own.write(0, b"child's.");
        link.send(own.frames()[0].expect("a page"));
    });
    let frame = own.frames()[0];
    assert_eq!(Some(child.link.receive()), frame, "one copy for both");
    own.write(0, b"parent 2");
    child.link.signal();
    assert_ne!(Some(child.link.receive()), own.frames()[0]);
    child.join();
    assert_same(&own.read(0, 8), b"parent 2", "the parent's");
    kernel_is_untouched();
}

fn private_reader_forks() {
    let device = fresh(1);
    let own = private(&device, 1);
    let child = fork(|link| {
        own.write(0, b"child's.");
        link.signal();
        link.wait();
        assert_same(&own.read(0, 8), b"child's.", "the child's");
    });
    child.link.wait();
    assert_eq!(
        own.frames(),
        shared(&device, 1).frames(),
        "the parent has no copy"
    );
    pwrite(0, b"kernel..");
    assert_same(&own.read(0, 8), b"kernel..", "the parent's");
    child.link.signal();
    child.join();
}

fn dontneed_shows_the_kernels_bytes_again() {
    let device = fresh(2);
    let own = private(&device, 2);
    own.write(0, &pattern(1, 2 * page()));
    pwrite(0, b"kernel's");
    own.advise_part(0, page(), Advice::LinuxDontNeed)
        .expect("madvise");
    assert_same(&own.read(0, 8), b"kernel's", "the page that was dropped");
    assert_same(
        &own.read(page(), page()),
        &pattern(1, 2 * page())[page()..],
        "the page that was not",
    );
    assert_eq!(own.frames()[0], shared(&device, 1).frames()[0]);
    // And it is a page to be copied again, not one to write to.
    own.write(0, b"mine");
    assert_same(&pread(0, 8), b"kernel's", "the kernel's bytes");
}

fn smaps_and_pagemap_show_what_was_copied() {
    let device = fresh(4);
    let (own, all) = (private(&device, 4), shared(&device, 4));
    all.bytes();
    own.bytes();
    let anonymous = |map: &Map| -> Vec<bool> {
        let frames = map.frames();
        let is_anonymous = |frame: &Option<u64>| page_flags(frame.expect("a page")) & ANON != 0;
        frames.iter().map(is_anonymous).collect()
    };
    own.write(page(), b"!");
    own.write(3 * page(), b"!");
    assert_eq!(anonymous(&own), [false, true, false, true]);
    assert_eq!(anonymous(&all), [false; 4]);
    let kib = page() / 1024;
    assert_eq!(own.smaps_kib("Rss"), 4 * kib);
    assert_eq!(own.smaps_kib("Anonymous"), 2 * kib);
    assert_eq!(own.smaps_kib("Private_Dirty"), 2 * kib, "the copies");
    assert_eq!(
        own.smaps_kib("Shared_Clean") + own.smaps_kib("Shared_Dirty"),
        2 * kib
    );
    assert_eq!(all.smaps_kib("Anonymous"), 0);
    kernel_is_untouched_in(4);
}

#[track_caller]
fn kernel_is_untouched_in(pages: usize) {
    let len = pages * page();
    assert_same(&pread(0, len), &initial(len), "the kernel's bytes");
}
