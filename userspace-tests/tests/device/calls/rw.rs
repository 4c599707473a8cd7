// SPDX-License-Identifier: GPL-2.0
//! read(2), write(2) and their kin: a file of a fixed size.

use std::{
    fs::File,
    io::{IoSliceMut, Read},
    iter,
    os::fd::{AsFd, BorrowedFd},
    sync::{
        atomic::Ordering::{Acquire, Release},
        mpsc,
    },
    thread,
    time::Duration,
};

use rust_mmapdev::{Access, Device};
use rustix::{
    fs::{OFlags, SeekFrom, fcntl_getfl, seek, tell},
    io::{self, Errno, IoSlice, ReadWriteFlags},
    pipe::{SpliceFlags, pipe, splice},
};

use crate::{
    harness::tests,
    support::{
        assert_same, errno,
        memory::{
            self, Advice, MapFlags, MprotectFlags, READ, RW, SHARED, mmap, page, private, shared,
            table,
        },
        missing_page::{Caller, MissingPages},
        module::{fdinfo, fresh, initial},
        open, pattern, pread,
        process::fork,
        pwrite, tmpfs_file,
    },
};

tests![
    read_moves_on_to_the_end,
    read_at_and_past_the_end_is_zero,
    pread_leaves_the_position,
    transfers_begin_at_any_byte,
    read_crosses_pages,
    readv_scatters,
    preadv2_at_minus_one_uses_the_position,
    read_through_a_write_only_descriptor_is_ebadf,
    read_to_a_bad_pointer_is_efault,
    read_to_a_buffer_that_ends_early_is_short,
    read_of_nothing_is_zero,
    write_moves_on_to_the_end,
    write_is_short_at_the_end,
    a_short_write_lets_the_rest_of_its_source_alone,
    write_at_and_past_the_end_is_enospc,
    write_of_nothing_is_zero_everywhere,
    write_crosses_pages,
    writev_gathers,
    write_through_a_read_only_descriptor_is_ebadf,
    write_from_a_bad_pointer_is_efault,
    write_from_a_buffer_that_ends_early_is_short,
    transfers_that_end_at_a_border_are_short,
    append_has_no_effect,
    rwf_flags_are_a_files,
    rwf_append_has_no_effect,
    descriptors_have_positions_of_their_own,
    a_duplicate_shares_the_position,
    stores_show_in_reads_at_once,
    writes_show_in_mappings_at_once,
    at_once_means_while_the_other_one_looks,
    read_into_a_mapping_of_the_device,
    write_from_a_mapping_of_the_device,
    reads_race_with_stores,
    writes_race_with_loads,
    writes_do_not_mix,
    short_calls_do_not_mix_with_a_write,
    a_write_holds_up_writers_only,
    writes_take_turns_at_the_position,
    reads_take_turns_at_the_position,
    writers_share_one_position_without_loss,
];

fn read_moves_on_to_the_end() {
    let device = fresh(1);
    let bytes = pattern(1, page());
    pwrite(0, &bytes);
    let mut found = vec![0; page() + 50];
    assert_eq!(io::read(&device, &mut found[..100]), Ok(100));
    assert_eq!(tell(&device), Ok(100));
    assert_eq!(
        io::read(&device, &mut found[100..]),
        Ok(page() - 100),
        "short at the end"
    );
    assert_eq!(tell(&device), Ok(page() as u64));
    assert_eq!(io::read(&device, &mut found[..]), Ok(0), "at the end");
    assert_eq!(tell(&device), Ok(page() as u64));
    found.truncate(page());
    // The third read had nothing to overwrite the first bytes with.
    assert_same(&found, &bytes, "what the two reads brought");
}

fn read_at_and_past_the_end_is_zero() {
    let device = fresh(1);
    let size = page() as u64;
    for offset in [size, size + 1, 2 * size, 1 << 40, i64::MAX as u64 - 8] {
        assert_eq!(
            io::pread(&device, &mut [0; 8], offset),
            Ok(0),
            "pread at {offset}"
        );
    }
}

fn pread_leaves_the_position() {
    let device = fresh(1);
    assert_eq!(seek(&device, SeekFrom::Start(7)), Ok(7));
    assert_eq!(io::pread(&device, &mut [0; 8], 100), Ok(8));
    assert_eq!(io::pwrite(&device, &[1; 8], 100), Ok(8));
    assert_eq!(tell(&device), Ok(7));
}

/// Of a page, and leave those beside alone.
fn transfers_begin_at_any_byte() {
    let device = fresh(2);
    let map = shared(&device, 2);
    let mut expected = map.bytes();
    for at in 0..=page() {
        let bytes = [at as u8 ^ 0x55, !(at as u8)];
        assert_eq!(io::pwrite(&device, &bytes, at as u64), Ok(2));
        expected[at..at + 2].copy_from_slice(&bytes);
        let around = at.saturating_sub(2)..at + 4;
        let found = map.read(around.start, around.len());
        assert_same(
            &found,
            &expected[around],
            &format!("around a write at {at}"),
        );
        let mut found = [0; 2];
        assert_eq!(io::pread(&device, &mut found, at as u64), Ok(2));
        assert_same(&found, &bytes, &format!("a read at {at}"));
    }
    assert_same(&map.bytes(), &expected, "the buffer");
}

fn read_crosses_pages() {
    let device = fresh(4);
    let bytes = pattern(2, 4 * page());
    shared(&device, 4).write(0, &bytes);
    for (offset, len) in [
        (page() - 1, 2),
        (page() - 3, page() + 6),
        (1, 4 * page() - 2),
    ] {
        let what = format!("{len} bytes at {offset}");
        assert_same(
            &pread(offset as u64, len),
            &bytes[offset..offset + len],
            &what,
        );
    }
}

fn readv_scatters() {
    let device = fresh(1);
    let bytes = pattern(3, page());
    pwrite(0, &bytes);
    let mut found = vec![0; page()];
    let (first, rest) = found.split_at_mut(1);
    let (second, third) = rest.split_at_mut(1000);
    let mut empty = [];
    let mut parts = [first, &mut empty[..], second, third].map(IoSliceMut::new);
    assert_eq!(io::readv(&device, &mut parts), Ok(page()));
    assert_same(&found, &bytes, "readv");

    // As many segments as one call may have.
    let mut found = vec![0; 1024];
    let mut parts: Vec<_> = found.chunks_mut(1).map(IoSliceMut::new).collect();
    assert_eq!(io::preadv(&device, &mut parts, 100), Ok(1024));
    assert_same(&found, &bytes[100..1124], "preadv of single bytes");
}

fn preadv2_at_minus_one_uses_the_position() {
    let device = fresh(1);
    pwrite(10, b"position");
    seek(&device, SeekFrom::Start(10)).expect("seek");
    let mut found = [0; 8];
    let mut parts = [IoSliceMut::new(&mut found)];
    let read = io::preadv2(&device, &mut parts, u64::MAX, ReadWriteFlags::empty());
    assert_eq!(read, Ok(8));
    assert_eq!(&found, b"position");
    assert_eq!(tell(&device), Ok(18));
}

fn read_through_a_write_only_descriptor_is_ebadf() {
    fresh(1);
    let fd = open(OFlags::WRONLY);
    assert_eq!(errno(io::read(&fd, &mut [0; 8])), Errno::BADF);
    assert_eq!(errno(io::pread(&fd, &mut [0; 8], 0)), Errno::BADF);
    assert_eq!(io::write(&fd, &[0; 8]), Ok(8), "and writing works");
}

fn read_to_a_bad_pointer_is_efault() {
    let device = fresh(1);
    let hole = memory::anonymous(1, RW, MapFlags::PRIVATE);
    hole.protect(MprotectFlags::empty()).expect("mprotect");
    // SAFETY: the address is for the kernel only, which does not get to it.
    let buffer = unsafe { hole.as_mut_slice(0, 8) };
    assert_eq!(errno(io::read(&device, buffer)), Errno::FAULT);
    assert_eq!(tell(&device), Ok(0), "a failed read does not move");
}

/// Two pages of memory, of which the second is missing.
fn half_a_buffer() -> memory::Map {
    let buffer = memory::anonymous(2, RW, MapFlags::PRIVATE);
    buffer
        .protect_part(page(), page(), MprotectFlags::empty())
        .expect("mprotect");
    buffer
}

fn read_to_a_buffer_that_ends_early_is_short() {
    let device = fresh(1);
    let bytes = pattern(4, page());
    pwrite(0, &bytes);
    let buffer = half_a_buffer();
    // SAFETY: the address is for the kernel only.
    let end = unsafe { buffer.as_mut_slice(page() - 100, 200) };
    assert_eq!(
        io::read(&device, end),
        Ok(100),
        "as many as there is room for"
    );
    assert_eq!(tell(&device), Ok(100));
    assert_same(
        &buffer.read(page() - 100, 100),
        &bytes[..100],
        "the part that fits",
    );
}

fn read_of_nothing_is_zero() {
    let device = fresh(1);
    assert_eq!(io::read(&device, &mut [0; 0]), Ok(0));
    assert_eq!(io::readv(&device, &mut []), Ok(0));
}

fn write_moves_on_to_the_end() {
    let device = fresh(1);
    let bytes = pattern(5, page());
    assert_eq!(io::write(&device, &bytes[..100]), Ok(100));
    assert_eq!(tell(&device), Ok(100));
    assert_eq!(io::write(&device, &bytes[100..]), Ok(page() - 100));
    assert_eq!(tell(&device), Ok(page() as u64));
    assert_same(&pread(0, page()), &bytes, "what two writes left");
}

fn write_is_short_at_the_end() {
    let device = fresh(1);
    let bytes = pattern(6, 100);
    let offset = page() as u64 - 10;
    assert_eq!(io::pwrite(&device, &bytes, offset), Ok(10));
    assert_same(&pread(offset, 100), &bytes[..10], "the part that fits");
    seek(&device, SeekFrom::Start(page() as u64 - 20)).expect("seek");
    let parts = [IoSlice::new(&bytes[..15]), IoSlice::new(&bytes[15..])];
    assert_eq!(io::writev(&device, &parts), Ok(20));
    assert_eq!(tell(&device), Ok(page() as u64));
    assert_same(
        &pread(page() as u64 - 20, 100),
        &bytes[..20],
        "the part that fits",
    );
}

/// It may be long in coming, as memory that another process fills by userfaultfd(2) is.
fn a_short_write_lets_the_rest_of_its_source_alone() {
    let device = fresh(1);
    let source = memory::anonymous(2, RW, MapFlags::PRIVATE);
    // SAFETY: the address is for the kernel only.
    let bytes = unsafe { source.as_slice(0, 2 * page()) };
    assert_eq!(io::pwrite(&device, bytes, 0), Ok(page()));
    let touched = source.frames().into_iter().map(|frame| frame.is_some());
    assert_eq!(touched.collect::<Vec<_>>(), [true, false]);
}

fn write_at_and_past_the_end_is_enospc() {
    let device = fresh(1);
    let size = page() as u64;
    let before = pread(0, page());
    for offset in [size, size + 1, 2 * size, 1 << 40, i64::MAX as u64 - 8] {
        assert_eq!(
            errno(io::pwrite(&device, &[1; 8], offset)),
            Errno::NOSPC,
            "at {offset}"
        );
    }
    assert_eq!(seek(&device, SeekFrom::End(0)), Ok(size));
    assert_eq!(errno(io::write(&device, &[1; 8])), Errno::NOSPC);
    assert_eq!(tell(&device), Ok(size), "a failed write does not move");
    assert_same(
        &pread(0, page()),
        &before,
        "the buffer after writes that failed",
    );
}

fn write_of_nothing_is_zero_everywhere() {
    let device = fresh(1);
    for offset in [0, page() as u64, page() as u64 + 1] {
        assert_eq!(io::pwrite(&device, &[], offset), Ok(0), "at {offset}");
    }
}

fn write_crosses_pages() {
    let device = fresh(4);
    let map = shared(&device, 4);
    let mut expected = map.bytes();
    for (seed, offset, len) in [(7, page() - 1, 2), (8, 2 * page() - 3, page() + 6)] {
        let bytes = pattern(seed, len);
        pwrite(offset as u64, &bytes);
        expected[offset..offset + len].copy_from_slice(&bytes);
        assert_same(&map.bytes(), &expected, &format!("{len} bytes at {offset}"));
    }
}

fn writev_gathers() {
    let device = fresh(1);
    let bytes = pattern(9, 1024);
    let parts: Vec<_> = bytes.chunks(1).map(IoSlice::new).collect();
    assert_eq!(io::pwritev(&device, &parts, 50), Ok(1024));
    assert_same(&pread(50, 1024), &bytes, "pwritev of single bytes");
    let parts = [b"one ".as_slice(), b"", b"two"].map(IoSlice::new);
    assert_eq!(io::writev(&device, &parts), Ok(7));
    assert_same(&pread(0, 7), b"one two", "writev");
}

fn write_through_a_read_only_descriptor_is_ebadf() {
    fresh(1);
    let fd = open(OFlags::RDONLY);
    assert_eq!(errno(io::write(&fd, &[1; 8])), Errno::BADF);
    assert_eq!(errno(io::pwrite(&fd, &[1; 8], 0)), Errno::BADF);
    assert_eq!(io::read(&fd, &mut [0; 8]), Ok(8), "and reading works");
}

fn write_from_a_bad_pointer_is_efault() {
    let device = fresh(1);
    let before = pread(0, page());
    let hole = half_a_buffer();
    // SAFETY: the address is for the kernel only, which does not get to it.
    let buffer = unsafe { hole.as_slice(page(), 8) };
    assert_eq!(errno(io::write(&device, buffer)), Errno::FAULT);
    assert_eq!(tell(&device), Ok(0), "a failed write does not move");
    assert_same(
        &pread(0, page()),
        &before,
        "the buffer after a write that failed",
    );
}

fn write_from_a_buffer_that_ends_early_is_short() {
    let device = fresh(1);
    let bytes = pattern(10, 100);
    let buffer = half_a_buffer();
    buffer.write(page() - 100, &bytes);
    let mut expected = pread(0, page());
    expected[..100].copy_from_slice(&bytes);
    // SAFETY: the address is for the kernel only.
    let end = unsafe { buffer.as_slice(page() - 100, 200) };
    assert_eq!(io::write(&device, end), Ok(100), "as many as there are");
    assert_eq!(tell(&device), Ok(100));
    assert_same(&pread(0, page()), &expected, "the buffer");
    // Of zeros that nobody has touched yet.
    buffer
        .advise_part(0, page(), Advice::LinuxDontNeed)
        .expect("MADV_DONTNEED");
    assert_eq!(io::pwrite(&device, end, 0), Ok(100), "as many as there are");
    expected[..100].fill(0);
    assert_same(&pread(0, page()), &expected, "the buffer");
}

/// Where a page of the device and the last good page of memory end at once, it is the count as well.
/// The device's pages stand in folios of several sizes.
fn transfers_that_end_at_a_border_are_short() {
    const PAGES: usize = 7;
    let device = fresh(PAGES as u64);
    let bytes = pattern(13, PAGES * page());
    for good in 1..4 {
        let memory = memory::anonymous(good + 1, RW, MapFlags::PRIVATE);
        memory
            .protect_part(good * page(), page(), MprotectFlags::empty())
            .expect("mprotect");
        let len = good * page();
        for first in 0..PAGES - good {
            let at = first * page();
            pwrite(0, &bytes);
            // SAFETY: the address is for the kernel only.
            let to = unsafe { memory.as_mut_slice(0, len + page()) };
            assert_eq!(
                io::pread(&device, to, at as u64),
                Ok(len),
                "{good} from {first}"
            );
            assert_same(&memory.read(0, len), &bytes[at..at + len], "what was read");

            let new = pattern(first as u8, len);
            memory.write(0, &new);
            // SAFETY: as above.
            let from = unsafe { memory.as_slice(0, len + page()) };
            assert_eq!(
                io::pwrite(&device, from, at as u64),
                Ok(len),
                "{good} to {first}"
            );
            let expected = [&bytes[..at], &new, &bytes[at + len..]].concat();
            assert_same(&pread(0, PAGES * page()), &expected, "the buffer");
        }
    }
}

fn append_has_no_effect() {
    fresh(1);
    let fd = open(OFlags::RDWR | OFlags::APPEND);
    assert!(fcntl_getfl(&fd).expect("F_GETFL").contains(OFlags::APPEND));
    assert_eq!(io::write(&fd, b"front"), Ok(5));
    assert_eq!(tell(&fd), Ok(5));
    assert_eq!(io::pwrite(&fd, b"middle", 100), Ok(6));
    assert_same(&pread(0, 5), b"front", "write at position 0");
    assert_same(&pread(100, 6), b"middle", "pwrite at 100");
}

/// Each per-call flag does what it does on a file in tmpfs, which has no store behind it either.
fn rwf_flags_are_a_files() {
    let device = fresh(1);
    let file = tmpfs_file(&pread(0, page()));
    let flags = [
        ("HIPRI", ReadWriteFlags::HIPRI),
        ("DSYNC", ReadWriteFlags::DSYNC),
        ("SYNC", ReadWriteFlags::SYNC),
        ("NOWAIT", ReadWriteFlags::NOWAIT),
        ("ATOMIC", ReadWriteFlags::from_bits_retain(0x40)),
        ("DONTCACHE", ReadWriteFlags::from_bits_retain(0x80)),
        ("unknown", ReadWriteFlags::from_bits_retain(1 << 30)),
    ];
    for (name, flag) in flags {
        let bytes = pattern(name.len() as u8, 300);
        let write = |fd: BorrowedFd<'_>| io::pwritev2(fd, &[IoSlice::new(&bytes)], 20, flag);
        let read = |fd: BorrowedFd<'_>| {
            let mut found = vec![0; 300];
            let result = io::preadv2(fd, &mut [IoSliceMut::new(&mut found)], 20, flag);
            result.map(|n| found[..n].to_vec())
        };
        assert_eq!(
            write(device.as_fd()),
            write(file.as_fd()),
            "pwritev2 with {name}"
        );
        assert_eq!(
            read(device.as_fd()),
            read(file.as_fd()),
            "preadv2 with {name}"
        );
    }
    let dsync = io::pwritev2(&device, &[IoSlice::new(b"x")], 0, ReadWriteFlags::DSYNC);
    assert_eq!(dsync, Ok(1), "what tmpfs does is not a failure alike");
}

fn rwf_append_has_no_effect() {
    let device = fresh(1);
    let parts = [IoSlice::new(b"here")];
    assert_eq!(
        io::pwritev2(&device, &parts, 30, ReadWriteFlags::APPEND),
        Ok(4)
    );
    assert_same(&pread(30, 4), b"here", "the bytes at the offset");
}

fn descriptors_have_positions_of_their_own() {
    fresh(1);
    let (a, b) = (open(OFlags::RDWR), open(OFlags::RDWR));
    assert_eq!(io::write(&a, b"abcdef"), Ok(6));
    let mut found = [0; 3];
    assert_eq!(io::read(&b, &mut found), Ok(3));
    assert_eq!(&found, b"abc");
    assert_eq!((tell(&a), tell(&b)), (Ok(6), Ok(3)));
}

fn a_duplicate_shares_the_position() {
    let device = fresh(1);
    let duplicate = rustix::io::dup(&device).expect("dup");
    assert_eq!(io::write(&device, b"abcdef"), Ok(6));
    assert_eq!(io::write(&duplicate, b"ghi"), Ok(3));
    assert_eq!(tell(&device), Ok(9));
    assert_same(&pread(0, 9), b"abcdefghi", "both writes");
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

fn stores_show_in_reads_at_once() {
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
fn writes_show_in_mappings_at_once() {
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
fn at_once_means_while_the_other_one_looks() {
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

/// The copy faults on the very pages that it copies from.
fn read_into_a_mapping_of_the_device() {
    let device = fresh(4);
    let bytes = pattern(11, 2 * page());
    for what in ["onto itself", "onto the other page"] {
        pwrite(0, &bytes);
        let map = shared(&device, 2);
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        let (target, n) = match what {
            "onto itself" => (0, 2 * page()),
            _ => (page(), page()),
        };
        // SAFETY: the address is for the kernel only.
        let buffer = unsafe { map.as_mut_slice(target, n) };
        assert_eq!(io::pread(&device, buffer, 0), Ok(n), "{what}");
        assert_same(&map.read(target, n), &bytes[..n], what);
    }
    let copy = private(&device, 2);
    copy.advise(Advice::LinuxDontNeed).expect("madvise");
    // SAFETY: the address is for the kernel only.
    let buffer = unsafe { copy.as_mut_slice(0, page()) };
    assert_eq!(
        io::pread(&device, buffer, page() as u64),
        Ok(page()),
        "into a private mapping"
    );
    assert_same(
        &copy.read(0, page()),
        &bytes[..page()],
        "the private mapping",
    );
}

fn write_from_a_mapping_of_the_device() {
    let device = fresh(4);
    let bytes = pattern(12, 2 * page());
    pwrite(0, &bytes);
    let map = shared(&device, 2);
    for _ in 0..2 {
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        // SAFETY: the address is for the kernel only.
        let buffer = unsafe { map.as_slice(0, page()) };
        assert_eq!(io::pwrite(&device, buffer, 0), Ok(page()), "onto itself");
        assert_same(&map.bytes(), &bytes, "nothing has changed");
    }
    map.advise(Advice::LinuxDontNeed).expect("madvise");
    // SAFETY: the address is for the kernel only.
    let buffer = unsafe { map.as_slice(0, page()) };
    assert_eq!(
        io::pwrite(&device, buffer, page() as u64),
        Ok(page()),
        "onto the other page"
    );
    assert_same(
        &map.read(page(), page()),
        &bytes[..page()],
        "the other page",
    );
}

/// Bytes of a page that somebody fills with `a` and with `b` in turn.
struct Seen([bool; 2]);

impl Seen {
    fn check(&mut self, bytes: &[u8]) {
        if let Some(i) = bytes.iter().position(|b| !matches!(b, b'a' | b'b')) {
            panic!("byte {i} is {}, which nobody ever wrote", bytes[i]);
        }
        self.0[0] |= bytes.contains(&b'a');
        self.0[1] |= bytes.contains(&b'b');
    }
}

/// A reader beside a process that stores all the time sees what was stored, and nothing else.
fn reads_race_with_stores() {
    let device = fresh(1);
    let map = shared(&device, 1);
    map.write(0, &vec![b'a'; page()]);
    let writer = fork(|_| {
        for i in (0..=1).cycle() {
            map.write(0, &vec![b'a' + i; page()]);
        }
    });
    let mut seen = Seen([false; 2]);
    let mut rounds = 0;
    while rounds < 1000 || seen.0 != [true; 2] {
        seen.check(&pread(0, page()));
        rounds += 1;
    }
    writer.kill();
}

/// A reader of the mapping beside a process that calls write all the time.
fn writes_race_with_loads() {
    let device = fresh(1);
    let map = shared(&device, 1);
    map.write(0, &vec![b'a'; page()]);
    let writer = fork(|_| {
        for i in (0..=1).cycle() {
            pwrite(0, &vec![b'a' + i; page()]);
        }
    });
    let mut seen = Seen([false; 2]);
    let mut rounds = 0;
    while rounds < 1000 || seen.0 != [true; 2] {
        seen.check(&map.bytes());
        rounds += 1;
    }
    writer.kill();
}

/// Two write calls on the same range, of which one stands still at each page of its source:
/// afterwards it is one's bytes or the other's.
fn writes_do_not_mix() {
    // A write brings its source into memory by parts, as large as a huge folio.
    let pages = table() / page() + 8;
    let missing = [1, pages - 2];
    let device = fresh(pages as u64);
    let missing_pages = MissingPages::new(pages, b'a');
    for i in (1..pages).filter(|i| !missing.contains(i)) {
        missing_pages.put(i);
    }
    thread::scope(|scope| {
        missing_pages.stop_a_write(scope, &device);
        let other = Caller::start(scope, || {
            let bytes = vec![b'b'; pages * page()];
            assert_eq!(io::pwrite(&device, &bytes, 0), Ok(bytes.len()));
        });
        other.wait_until_it_sleeps_in(libc::SYS_pwrite64);
        missing_pages.put(missing[0]);
        missing_pages.wait_for_fault();
        // Were the lock free in between, it has been woken for it, and is given it the next time.
        other.wait_until_it_sleeps_in(libc::SYS_pwrite64);
        missing_pages.put(missing[1]);
    });
    let bytes = pread(0, pages * page());
    assert_same(&bytes, &vec![bytes[0]; bytes.len()], "one writer's bytes");
}

/// Nor do calls that are over in a moment: the write stands still in the middle of a page.
fn short_calls_do_not_mix_with_a_write() {
    let device = fresh(1);
    let half = page() / 2;
    let write = || assert_eq!(io::pwrite(&device, b"bb", half as u64 - 1), Ok(2));
    let clear = || device.clear().expect("CLEAR");
    let calls: [(_, &(dyn Fn() + Sync), _); 2] = [
        (libc::SYS_pwrite64, &write, b"bb"),
        (libc::SYS_ioctl, &clear, b"\0\0"),
    ];
    for (number, call, expected) in calls {
        let missing_pages = MissingPages::new(2, b'a');
        thread::scope(|scope| {
            let source = &missing_pages.as_slice()[half..];
            scope.spawn(|| assert_eq!(io::pwrite(&device, source, 0), Ok(page())));
            missing_pages.wait_for_fault();
            let other = Caller::start(scope, call);
            other.wait_until_it_sleeps_in(number);
            missing_pages.resolve();
        });
        assert_same(&pread(half as u64 - 1, 2), expected, "the middle");
    }
}

/// Nobody waits for one that stands still in the middle but who writes or clears.
fn a_write_holds_up_writers_only() {
    const LIMIT: Duration = Duration::from_secs(60);
    let device = fresh(4);
    let missing_pages = MissingPages::new(2, b'a');
    let through = thread::scope(|scope| {
        missing_pages.stop_a_write(scope, &device);
        let (sender, receiver) = mpsc::channel();
        scope.spawn(move || {
            let done = |what| _ = sender.send(what);
            assert_same(&pread(0, page()), &vec![b'a'; page()], "the first page");
            done("read");
            let other = Device::open(Access::ReadWrite).expect("open");
            assert_eq!(seek(&other, SeekFrom::End(0)), Ok(4 * page() as u64));
            done("lseek");
            other.info().expect("INFO");
            done("INFO");
            assert_eq!(fdinfo(&other, "page_count"), 4);
            done("fdinfo");
            for pages in [1, 4] {
                let map = shared(&other, pages);
                done("mmap");
                map.write(0, b"stored");
                assert_same(&map.read(0, 8), b"storedaa", "the mapping");
                done("touch");
            }
        });
        let calls: Vec<_> = iter::from_fn(|| receiver.recv_timeout(LIMIT).ok()).collect();
        missing_pages.resolve();
        calls
    });
    let all = [
        "read", "lseek", "INFO", "fdinfo", "mmap", "touch", "mmap", "touch",
    ];
    assert_eq!(through, all);
}

/// Two threads write through one open file, and one stands still in the middle: the other's bytes
/// come behind its own.
fn writes_take_turns_at_the_position() {
    for flags in [OFlags::RDWR, OFlags::WRONLY] {
        fresh(4);
        let device = open(flags);
        let missing_pages = MissingPages::new(2, b'a');
        thread::scope(|scope| {
            scope.spawn(|| {
                let bytes = missing_pages.as_slice();
                assert_eq!(io::write(&device, bytes), Ok(2 * page()));
            });
            missing_pages.wait_for_fault();
            let other = Caller::start(scope, || {
                let bytes = vec![b'b'; 2 * page()];
                assert_eq!(io::write(&device, &bytes), Ok(bytes.len()));
            });
            other.wait_until_it_sleeps_in(libc::SYS_write);
            missing_pages.resolve();
        });
        assert_eq!(tell(&device), Ok(4 * page() as u64), "{flags:?}");
        let expected = [vec![b'a'; 2 * page()], vec![b'b'; 2 * page()]].concat();
        assert_same(&pread(0, 4 * page()), &expected, "both writers' bytes");
    }
}

/// The same with reads, and a descriptor that can do nothing else.
fn reads_take_turns_at_the_position() {
    fresh(4);
    let bytes = pattern(14, 4 * page());
    pwrite(0, &bytes);
    let device = open(OFlags::RDONLY);
    let missing_pages = MissingPages::new(2, 0);
    let second = thread::scope(|scope| {
        scope.spawn(|| {
            assert_eq!(
                io::read(&device, missing_pages.as_mut_slice()),
                Ok(2 * page())
            );
        });
        missing_pages.wait_for_fault();
        let (sender, receiver) = mpsc::channel();
        let device = &device;
        let other = Caller::start(scope, move || {
            let mut found = vec![0; 2 * page()];
            assert_eq!(io::read(device, &mut found), Ok(found.len()));
            sender.send(found).expect("the test waits");
        });
        other.wait_until_it_sleeps_in(libc::SYS_read);
        missing_pages.resolve();
        receiver.recv().expect("what was read")
    });
    assert_eq!(tell(&device), Ok(4 * page() as u64));
    assert_same(
        missing_pages.as_slice(),
        &bytes[..2 * page()],
        "the first read",
    );
    assert_same(&second, &bytes[2 * page()..], "the second read");
}

/// Two processes with one open file: each record gets a place of its own.
fn writers_share_one_position_without_loss() {
    const RECORDS: usize = 200;
    let device = fresh(1);
    let write_all = |byte: u8| {
        for _ in 0..RECORDS {
            assert_eq!(io::write(&device, &[byte; 8]), Ok(8));
        }
    };
    let other = fork(|_| write_all(b'b'));
    write_all(b'a');
    other.join();
    assert_eq!(tell(&device), Ok(2 * 8 * RECORDS as u64));
    let bytes = pread(0, 2 * 8 * RECORDS);
    for byte in [b'a', b'b'] {
        let records = bytes
            .chunks(8)
            .filter(|record| *record == [byte; 8])
            .count();
        assert_eq!(records, RECORDS, "whole records of {}", byte as char);
    }
}
