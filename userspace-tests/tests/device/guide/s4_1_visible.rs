// SPDX-License-Identifier: GPL-2.0
//! The guide's §4.1: what a process stores in a mapping, the kernel has; and back. msync(2) adds
//! nothing, for the pages that are mapped are the store.

use std::{
    fs::File,
    io::Read,
    sync::atomic::Ordering::{Acquire, Release},
};

use rustix::{
    fs::{OFlags, fsync},
    io::{self, Errno},
    mm::{MsyncFlags, msync},
    pipe::{SpliceFlags, pipe, splice},
};

use crate::{
    harness::tests,
    support::{
        assert_same, errno,
        memory::{Map, READ, SHARED, mmap, page, private, shared},
        module::{fresh, initial},
        open, pattern, pread,
        proc::{WRITEBACK, page_flags},
        process::fork,
        pwrite,
    },
};

tests![
    s4_1_what_the_user_stores_the_kernel_has_at_once,
    s4_1_what_the_kernel_stores_the_user_has_at_once,
    s4_1_at_once_means_while_the_other_one_looks,
    s4_1_msync_sync,
    s4_1_msync_async,
    s4_1_msync_invalidate,
    s4_1_msync_combinations,
    s4_1_msync_bad_arguments,
    s4_1_there_is_nothing_to_write_out,
    s4_1_private_changes_are_this_process_s_alone,
    s4_1_msync_of_a_private_mapping_publishes_nothing,
];

fn sync(map: &Map, flags: MsyncFlags) -> io::Result<()> {
    // SAFETY: what msync writes back or drops is never relied on by Rust.
    unsafe { msync(map.at(0).cast(), map.len(), flags) }
}

/// Through every call that reads.
#[track_caller]
fn kernel_has(bytes: &[u8]) {
    let device = open(OFlags::RDONLY);
    assert_same(&pread(0, bytes.len()), bytes, "pread");
    let mut found = vec![0; bytes.len()];
    File::from(io::dup(&device).expect("dup"))
        .read_exact(&mut found)
        .expect("read");
    assert_same(&found, bytes, "read");
    let (receiver, sender) = pipe().expect("pipe");
    let n = splice(
        &device,
        Some(&mut 0),
        &sender,
        None,
        bytes.len(),
        SpliceFlags::empty(),
    );
    assert_eq!(n, Ok(bytes.len()), "splice");
    assert_eq!(io::read(&receiver, &mut found), Ok(bytes.len()));
    assert_same(&found, bytes, "splice");
}

fn s4_1_what_the_user_stores_the_kernel_has_at_once() {
    let map = shared(fresh(1), 1);
    for seed in 0..20 {
        let bytes = pattern(seed, page());
        map.write(0, &bytes);
        kernel_has(&bytes);
    }
    for at in [0, 1, 7, page() / 2, page() - 1] {
        map.write(at, b"!");
        assert_same(&pread(at as u64, 1), b"!", "a single byte");
    }
}

/// Through every call that writes; the mapping is made once, before.
fn s4_1_what_the_kernel_stores_the_user_has_at_once() {
    let device = fresh(1);
    let read_only = mmap(open(OFlags::RDONLY), 0, page(), READ, SHARED).expect("mmap");
    let maps = [shared(&device, 1), private(&device, 1), read_only];
    let shows = |bytes: &[u8], what| {
        for map in &maps {
            assert_same(&map.bytes(), bytes, what);
        }
    };
    shows(&initial(page()), "the initial content");
    let bytes = pattern(1, page());
    pwrite(0, &bytes);
    shows(&bytes, "pwrite");
    let bytes = pattern(2, page());
    assert_eq!(io::write(&device, &bytes), Ok(page()));
    shows(&bytes, "write");
    let bytes = pattern(3, page());
    let (receiver, sender) = pipe().expect("pipe");
    assert_eq!(io::write(&sender, &bytes), Ok(page()));
    let n = splice(
        &receiver,
        None,
        &device,
        Some(&mut 0),
        page(),
        SpliceFlags::empty(),
    );
    assert_eq!(n, Ok(page()));
    shows(&bytes, "splice");
    device.clear().expect("CLEAR");
    shows(&vec![0; page()], "the CLEAR ioctl");
}

/// One side looks at its mapping and makes no system call, the other one has no mapping.
fn s4_1_at_once_means_while_the_other_one_looks() {
    const ROUNDS: u32 = 500;
    fresh(1);
    pwrite(0, &[0; 16]);
    let looker = fork(|_| {
        let map = shared(open(OFlags::RDWR), 1);
        for round in 1..=ROUNDS {
            while map.u32(0).load(Acquire) != round {
                std::hint::spin_loop();
            }
            map.u32(8).store(round, Release);
        }
    });
    let device = open(OFlags::RDWR);
    for round in 1..=ROUNDS {
        assert_eq!(io::pwrite(&device, &round.to_ne_bytes(), 0), Ok(4));
        let mut found = [0; 4];
        while found != round.to_ne_bytes() {
            assert_eq!(io::pread(&device, &mut found, 8), Ok(4));
        }
    }
    looker.join();
}

/// The bytes are the same for all before and after, in a mapping that is written to and in one
/// that the kernel's write has changed.
fn changes_nothing(flags: MsyncFlags) {
    let device = fresh(1);
    let (map, other) = (shared(&device, 1), shared(open(OFlags::RDWR), 1));
    let bytes = pattern(1, page());
    map.write(0, &bytes);
    kernel_has(&bytes);
    sync(&map, flags).unwrap_or_else(|err| panic!("{flags:?}: {err}"));
    kernel_has(&bytes);
    assert_same(&map.bytes(), &bytes, "the mapping");
    assert_same(&other.bytes(), &bytes, "another mapping");
    pwrite(0, b"kernel");
    sync(&map, flags).unwrap_or_else(|err| panic!("{flags:?}: {err}"));
    assert_same(&map.read(0, 6), b"kernel", "a write of the kernel's");
    kernel_has(&map.bytes());
}

fn s4_1_msync_sync() {
    changes_nothing(MsyncFlags::SYNC);
}

fn s4_1_msync_async() {
    changes_nothing(MsyncFlags::ASYNC);
}

/// On a file: other mappings' copies are to be fetched anew. Nobody has copies here.
fn s4_1_msync_invalidate() {
    changes_nothing(MsyncFlags::INVALIDATE);
}

fn s4_1_msync_combinations() {
    changes_nothing(MsyncFlags::SYNC | MsyncFlags::INVALIDATE);
    changes_nothing(MsyncFlags::ASYNC | MsyncFlags::INVALIDATE);
    let map = shared(fresh(1), 1);
    for flags in [
        MsyncFlags::SYNC | MsyncFlags::ASYNC,
        MsyncFlags::SYNC | MsyncFlags::ASYNC | MsyncFlags::INVALIDATE,
        MsyncFlags::from_bits_retain(0x80),
    ] {
        assert_eq!(errno(sync(&map, flags)), Errno::INVAL, "{flags:?}");
    }
}

fn s4_1_msync_bad_arguments() {
    let map = shared(fresh(1), 1);
    // SAFETY: refused, or without an effect on what the memory holds.
    let at = |offset: usize, len| unsafe { msync(map.at(offset).cast(), len, MsyncFlags::SYNC) };
    assert_eq!(errno(at(1, 1)), Errno::INVAL, "not the start of a page");
    at(0, 1).expect("a length that is no multiple");
    map.unmap_part(0, page()).expect("munmap");
    assert_eq!(errno(at(0, page())), Errno::NOMEM, "not mapped");
}

/// "Data finally goes to the disk, and the kernel decides when, by the dirty mark": this kernel
/// memory is the data's last home. Neither msync nor time nor pressure starts a transfer.
fn s4_1_there_is_nothing_to_write_out() {
    let device = fresh(1);
    let map = shared(&device, 1);
    let frame = map.frames()[0].expect("a page");
    let written = || {
        let text = std::fs::read_to_string("/proc/self/io").expect("/proc/self/io");
        let line = text.lines().find(|line| line.starts_with("write_bytes:"));
        line.expect("write_bytes").to_owned()
    };
    let before = written();
    for seed in 0..10 {
        map.write(0, &pattern(seed, page()));
        sync(&map, MsyncFlags::SYNC).expect("msync");
        fsync(&device).expect("fsync");
        rustix::fs::sync();
        assert_eq!(page_flags(frame) & WRITEBACK, 0, "no transfer is under way");
    }
    assert_eq!(written(), before, "bytes sent to a disk");
    assert_eq!(map.frames(), [Some(frame)], "the page stays where it is");
}

fn s4_1_private_changes_are_this_process_s_alone() {
    let device = fresh(1);
    let (all, own) = (shared(&device, 1), private(&device, 1));
    let bytes = pattern(2, page());
    own.write(0, &bytes);
    kernel_has(&initial(page()));
    assert_same(&all.bytes(), &initial(page()), "a shared mapping");
    fork(|_| {
        let theirs = private(open(OFlags::RDWR), 1);
        assert_same(&theirs.bytes(), &initial(page()), "another process's");
    })
    .join();
    assert_same(&own.bytes(), &bytes, "one's own");
}

fn s4_1_msync_of_a_private_mapping_publishes_nothing() {
    let own = private(fresh(1), 1);
    let bytes = pattern(3, page());
    own.write(0, &bytes);
    for flags in [MsyncFlags::SYNC, MsyncFlags::ASYNC, MsyncFlags::INVALIDATE] {
        sync(&own, flags).expect("msync");
        kernel_has(&initial(page()));
        assert_same(&own.bytes(), &bytes, "one's own");
    }
}
