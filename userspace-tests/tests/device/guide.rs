// SPDX-License-Identifier: GPL-2.0
//! The sentences of the mmap guide, one by one: what it says about a file holds for the device.

use rustix::{
    fs::OFlags,
    io::Errno,
    mm::{MsyncFlags, msync},
    process::Signal,
};

use crate::{
    harness::tests,
    support::{
        assert_same, errno,
        memory::{READ, RW, SHARED, mmap, page, private, shared},
        module::{self, fresh, initial},
        open, pattern, pread,
        process::{Program, assert_dies_of, fork},
    },
};

tests![
    section_3_1_the_program,
    section_3_1_the_program_sees_what_others_wrote,
    section_3_1_the_program_without_the_module,
    section_4_1_shared_stores_are_the_kernels_at_once,
    section_4_1_msync_is_allowed_any_time,
    section_4_1_private_stores_are_ones_own,
    section_4_2_processes_may_map_at_the_same_time,
    section_4_2_a_half_written_text_can_be_seen,
    section_4_3_the_first_store_copies,
    section_6_2_access_after_munmap_is_sigsegv,
    section_3_2_offset_is_a_multiple_of_the_page_size,
];

const GUIDE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/guide"));

fn section_3_1_the_program() {
    module::reload("");
    let output = Program::new(GUIDE).run(&[]);
    let expected = format!("Mapped content: {}\n", module::TEXT);
    assert_same(
        &output.stdout,
        expected.as_bytes(),
        "what the program prints",
    );
}

fn section_3_1_the_program_sees_what_others_wrote() {
    let device = fresh(1);
    shared(&device, 1).write(0, b"from another process\0");
    let output = Program::new(GUIDE).run(&[]);
    let expected = b"Mapped content: from another process\n";
    assert_same(&output.stdout, expected, "what the program prints");
}

fn section_3_1_the_program_without_the_module() {
    module::unload_if_loaded();
    let output = Program::new(GUIDE)
        .command(&[])
        .output()
        .expect("run the program");
    assert_eq!(output.status.code(), Some(1));
    assert_same(
        &output.stderr,
        b"open: No such file or directory\n",
        "what the program says",
    );
}

fn section_3_2_offset_is_a_multiple_of_the_page_size() {
    let device = fresh(4);
    mmap(&device, page() as u64, page(), READ, SHARED).expect("a multiple");
    let odd = mmap(&device, page() as u64 / 2, page(), READ, SHARED);
    assert_eq!(errno(odd), Errno::INVAL);
}

fn section_4_1_shared_stores_are_the_kernels_at_once() {
    let map = shared(fresh(1), 1);
    for i in 0..100 {
        let bytes = pattern(i, page());
        map.write(0, &bytes);
        assert_same(
            &pread(0, page()),
            &bytes,
            "the kernel's read, without msync",
        );
    }
}

fn section_4_1_msync_is_allowed_any_time() {
    let map = shared(fresh(1), 1);
    map.write(0, b"stored");
    // SAFETY: msync changes nothing here.
    unsafe { msync(map.at(0).cast(), page(), MsyncFlags::SYNC) }.expect("msync");
    assert_same(&pread(0, 6), b"stored", "the buffer");
}

fn section_4_1_private_stores_are_ones_own() {
    let device = fresh(1);
    let (mine, all) = (private(&device, 1), shared(&device, 1));
    mine.write(0, &pattern(1, page()));
    assert_same(&pread(0, page()), &initial(page()), "the kernel's bytes");
    assert_same(&all.bytes(), &initial(page()), "everybody else's");
}

fn section_4_2_processes_may_map_at_the_same_time() {
    fresh(1);
    let child = fork(|link| {
        let map = shared(open(OFlags::RDWR), 1);
        link.wait();
        assert_same(&map.read(0, 3), b"AAA", "what A wrote");
        map.write(0, b"BBB");
        link.signal();
    });
    let map = shared(open(OFlags::RDWR), 1);
    map.write(0, b"AAA");
    child.link.signal();
    child.link.wait();
    assert_same(&map.read(0, 3), b"BBB", "B's bytes over A's");
    child.join();
}

fn section_4_2_a_half_written_text_can_be_seen() {
    let device = fresh(1);
    let map = shared(&device, 1);
    map.write(0, b"old text");
    let child = fork(|link| {
        let map = shared(open(OFlags::RDWR), 1);
        map.write(0, b"new");
        link.signal();
        link.wait();
        map.write(3, b" text");
    });
    child.link.wait();
    assert_same(
        &map.read(0, 8),
        b"new text",
        "half of one, half of the other",
    );
    child.link.signal();
    child.join();
}

/// Until a process writes, its private mapping is the kernel's page, mapped read-only.
fn section_4_3_the_first_store_copies() {
    let device = fresh(1);
    let all = shared(&device, 1);
    let (a, b) = (private(&device, 1), private(&device, 1));
    assert_eq!(a.frames(), all.frames(), "A begins with the kernel's page");
    assert_eq!(b.frames(), all.frames(), "and so does B");
    a.write(0, b"A");
    b.write(0, b"B");
    let frames = [a.frames(), b.frames(), all.frames()];
    assert!(frames[0] != frames[1] && frames[0] != frames[2] && frames[1] != frames[2]);
    assert_same(
        &a.read(1, page() - 1),
        &initial(page())[1..],
        "the rest of the copy",
    );
    assert_same(&pread(0, page()), &initial(page()), "the kernel's bytes");
}

fn section_6_2_access_after_munmap_is_sigsegv() {
    let map = mmap(fresh(1), 0, page(), RW, SHARED).expect("mmap");
    map.unmap_part(0, page()).expect("munmap");
    assert_dies_of(Signal::SEGV, || drop(map.read(0, 1)));
}
