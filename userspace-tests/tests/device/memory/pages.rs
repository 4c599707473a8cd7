// SPDX-License-Identifier: GPL-2.0
//! A buffer of many pages: the contract holds on each of them, and across their borders.

use std::{
    collections::HashSet, io::IoSliceMut, os::unix::fs::FileExt, sync::atomic::Ordering::SeqCst,
};

use rust_mmapdev::{Device, Protection, Sharing};
use rustix::{
    fs::{OFlags, seek, sendfile, tell},
    io::{self, Errno, IoSlice, ReadWriteFlags},
    process::Signal,
};

use crate::{
    harness::tests,
    support::{
        assert_same, errno,
        memory::{
            self, Advice, Map, MapFlags, MprotectFlags, PRIVATE, ProtFlags, READ, RW, SHARED,
            WRITE, mmap, page, private, shared, table,
        },
        module::{fresh, initial, live_mappings, mappings_of, references},
        open, pattern, pread,
        process::{assert_dies_of, fork},
        pwrite, tmpfs_file,
    },
};

tests![
    every_window_of_small_buffers,
    windows_of_a_large_buffer,
    one_page_is_there_after_mmap,
    more_pages_come_with_the_first_touch,
    every_page_faults_in_at_its_place,
    every_first_store_copies_its_own_page,
    transfers_of_every_size_across_borders,
    vectors_across_borders,
    the_largest_transfer_ends_at_the_end,
    sendfile_of_the_whole_buffer,
    sendfile_into_the_whole_buffer,
    clear_zeroes_every_page,
    two_mappings_of_a_page_in_one_process,
    overlapping_windows_in_two_processes,
    munmap_in_the_middle,
    every_second_page_copied_then_forked,
    parts_that_fit_together_again_merge,
    the_client_library_maps_windows,
];

/// The word that a page of the buffer begins and ends with in these tests.
fn stamp(index: usize) -> u64 {
    0x7061_6765_0000_0000 | index as u64
}

/// A buffer in which every page says which one it is.
fn stamped(pages: usize) -> Device {
    let device = fresh(pages as u64);
    let map = shared(&device, pages);
    for i in 0..pages {
        for offset in [0, page() - 8] {
            map.u64(i * page() + offset).store(stamp(i), SeqCst);
        }
    }
    device
}

/// Page `at` of the mapping is page `index` of the buffer.
#[track_caller]
fn assert_stamp(map: &Map, at: usize, index: usize) {
    for offset in [0, page() - 8] {
        let found = map.u64(at * page() + offset).load(SeqCst);
        assert_eq!(found, stamp(index), "page {at} of the mapping, at {offset}");
    }
}

/// The whole mapping is the buffer from page `first` on.
#[track_caller]
fn assert_stamps(map: &Map, first: usize) {
    for at in 0..map.len() / page() {
        assert_stamp(map, at, first + at);
    }
}

fn window(device: &Device, first: usize, count: usize, flags: MapFlags) -> io::Result<Map> {
    mmap(device, (first * page()) as u64, count * page(), RW, flags)
}

fn every_window_of_small_buffers() {
    for pages in [1, 2, 3, 7] {
        let device = stamped(pages);
        for first in 0..=pages + 1 {
            for count in 1..=pages + 2 {
                for flags in [SHARED, PRIVATE] {
                    let result = window(&device, first, count, flags);
                    if first + count <= pages {
                        assert_stamps(&result.expect("a window within the buffer"), first);
                    } else {
                        let what = format!("{count} pages from page {first} of {pages}");
                        assert_eq!(errno(result), Errno::NXIO, "{what}");
                    }
                }
            }
        }
    }
}

fn windows_of_a_large_buffer() {
    const PAGES: usize = 4096;
    let device = stamped(PAGES);
    // 512 entries are a page table, where pages have 4 KiB.
    let windows = [
        (0, PAGES),
        (1, PAGES - 1),
        (0, PAGES - 1),
        (PAGES - 1, 1),
        (511, 2),
        (512, 512),
        (1023, 1026),
        (PAGES / 2, PAGES / 2),
    ];
    for (first, count) in windows {
        for flags in [SHARED, PRIVATE] {
            assert_stamps(
                &window(&device, first, count, flags).expect("a window"),
                first,
            );
        }
    }
    for (first, count) in [
        (0, PAGES + 1),
        (1, PAGES),
        (PAGES - 1, 2),
        (PAGES, 1),
        (PAGES, PAGES),
        (PAGES / 2, PAGES / 2 + 1),
    ] {
        assert_eq!(
            errno(window(&device, first, count, SHARED)),
            Errno::NXIO,
            "{count} pages from page {first}"
        );
    }
    // The sum of offset and length wraps, as bytes and as pages.
    let last = u64::MAX - (page() as u64 - 1);
    for (offset, count, error) in [
        (last, 1, Errno::OVERFLOW),
        (last, PAGES, Errno::OVERFLOW),
        (last - page() as u64, 1, Errno::NXIO),
        (last - (PAGES * page()) as u64, PAGES, Errno::NXIO),
        (1 << 63, PAGES, Errno::NXIO),
        (i64::MAX as u64 + 1 - page() as u64, 2, Errno::NXIO),
    ] {
        let result = mmap(&device, offset, count * page(), RW, SHARED);
        assert_eq!(errno(result), error, "{count} pages at {offset:#x}");
    }
    assert_eq!(live_mappings(), 0);
}

/// The frames of a buffer's pages.
fn frames(device: &Device, pages: usize) -> Vec<Option<u64>> {
    let map = shared(device, pages);
    map.bytes();
    map.frames()
}

fn one_page_is_there_after_mmap() {
    for pages in [1, 5, 1024] {
        let device = fresh(pages as u64);
        let whole = frames(&device, pages);
        for at in [0, 1, pages / 2, pages - 1] {
            let protections = [RW, READ, WRITE, ProtFlags::empty()];
            let both = |prot| [(prot, SHARED), (prot, PRIVATE)];
            for (prot, flags) in protections.into_iter().flat_map(both) {
                let at = at % pages;
                let map = mmap(&device, (at * page()) as u64, page(), prot, flags).expect("mmap");
                let what = format!("{prot:?} {flags:?} page {at} of {pages}");
                assert_eq!(map.frames(), whole[at..=at], "before any access: {what}");
                let short = mmap(&device, (at * page()) as u64, 1, prot, flags).expect("mmap");
                assert_eq!(short.frames(), whole[at..=at], "one byte: {what}");
            }
        }
    }
}

/// All at once that page table and mapping hold, whatever is touched first and how; a private page
/// that is written to first is copied, and comes alone.
fn more_pages_come_with_the_first_touch() {
    const PAGES: usize = 1024;
    const WINDOW: usize = 700;
    let device = fresh(PAGES as u64);
    let whole = frames(&device, PAGES);
    let all: HashSet<_> = whole.iter().flatten().collect();
    assert_eq!(all.len(), PAGES, "each page a frame of its own");
    for flags in [SHARED, PRIVATE] {
        for first in [0, 1, 100, PAGES - WINDOW] {
            for at in [0, 1, 350, WINDOW - 2, WINDOW - 1] {
                for write in [false, true] {
                    let what = format!("{flags:?} page {at} from {first}, write: {write}");
                    let map = window(&device, first, WINDOW, flags).expect("mmap");
                    assert_eq!(map.frames(), [None; WINDOW], "before: {what}");
                    if write {
                        map.write(at * page(), b"!");
                    } else {
                        map.read(at * page(), 1);
                    }
                    let found = map.frames();
                    let touched = map.at(at * page()) as usize;
                    for (i, frame) in found.iter().enumerate() {
                        let address = map.at(i * page()) as usize;
                        let with_it = address / table() == touched / table();
                        let of_buffer = whole[first + i];
                        match (write && flags == PRIVATE, i == at) {
                            (true, true) => assert!(frame.is_some() && *frame != of_buffer),
                            (true, false) => assert_eq!(*frame, None, "page {i}: {what}"),
                            (false, _) => assert_eq!(
                                *frame,
                                of_buffer.filter(|_| with_it),
                                "page {i}: {what}"
                            ),
                        }
                    }
                }
            }
        }
    }
}

/// Each one by itself, from the last to the first, after all were dropped.
fn every_page_faults_in_at_its_place() {
    const PAGES: usize = 1024;
    let device = stamped(PAGES);
    for flags in [SHARED, PRIVATE] {
        let map = window(&device, 1, PAGES - 1, flags).expect("mmap");
        for at in (0..PAGES - 1).rev() {
            map.advise(Advice::LinuxDontNeed).expect("madvise");
            assert_stamp(&map, at, at + 1);
        }
    }
}

/// Which nobody has read before, in folios of every size.
fn every_first_store_copies_its_own_page() {
    for pages in [7, 1023] {
        let device = stamped(pages);
        let map = window(&device, 1, pages - 1, PRIVATE).expect("mmap");
        for at in 0..pages - 1 {
            map.write(at * page() + 64, b"copied");
        }
        assert_stamps(&map, 1);
        let all = window(&device, 1, pages - 1, SHARED).expect("mmap");
        all.bytes();
        for (own, kernels) in map.frames().into_iter().zip(all.frames()) {
            assert!(own.is_some() && own != kernels, "a copy each");
        }
    }
}

fn transfers_of_every_size_across_borders() {
    const PAGES: usize = 6;
    let device = fresh(PAGES as u64);
    let map = shared(&device, PAGES);
    let mut expected = initial(PAGES * page());
    let offsets = [0, 1, page() - 1, page(), page() + 1, 3 * page() + 7];
    let lengths = [
        1,
        8,
        page() - 1,
        page(),
        page() + 1,
        2 * page() - 1,
        2 * page() + 2,
        PAGES * page() - 1,
        PAGES * page(),
    ];
    for (i, offset) in offsets.into_iter().enumerate() {
        for (j, length) in lengths.into_iter().enumerate() {
            let what = format!("{length} bytes at {offset}");
            let bytes = pattern((16 * i + j) as u8, length);
            let fits = length.min(PAGES * page() - offset);
            assert_eq!(
                io::pwrite(&device, &bytes, offset as u64),
                Ok(fits),
                "{what}"
            );
            expected[offset..offset + fits].copy_from_slice(&bytes[..fits]);
            assert_same(&map.bytes(), &expected, &what);
            let found = pread(offset as u64, length);
            assert_same(&found, &expected[offset..offset + fits], &what);
        }
    }
}

fn vectors_across_borders() {
    const PAGES: usize = 6;
    let device = fresh(PAGES as u64);
    let size = PAGES * page();
    let bytes = pattern(1, size);
    let cuts = [1, page() - 2, page() + 3, 0, 2 * page(), 100];
    let start = page() - 5;
    let len: usize = cuts.iter().sum();

    let mut parts = vec![];
    let mut rest = &bytes[..];
    for cut in cuts {
        let (part, after) = rest.split_at(cut);
        parts.push(IoSlice::new(part));
        rest = after;
    }
    let none = ReadWriteFlags::empty();
    assert_eq!(
        io::pwritev2(&device, &parts, start as u64, none),
        Ok(len),
        "pwritev2"
    );
    let mut expected = initial(size);
    expected[start..start + len].copy_from_slice(&bytes[..len]);
    assert_same(&pread(0, size), &expected, "what pwritev2 left");

    // The position instead of an offset, and more room than there are bytes.
    seek(&device, rustix::fs::SeekFrom::Start(3)).expect("seek");
    let mut found = vec![0xff; size];
    let mut parts: Vec<_> = found
        .chunks_mut(page() / 2 + 9)
        .map(IoSliceMut::new)
        .collect();
    assert_eq!(
        io::preadv2(&device, &mut parts, u64::MAX, none),
        Ok(size - 3),
        "short at the end"
    );
    assert_eq!(tell(&device), Ok(size as u64));
    assert_same(&found[..size - 3], &expected[3..], "what preadv2 brought");
    assert_same(&found[size - 3..], &[0xff; 3], "and not a byte more");
}

/// As many bytes as one call may ask for.
fn the_largest_transfer_ends_at_the_end() {
    const PAGES: usize = 64;
    const MOST: usize = 1 << 31;
    let device = stamped(PAGES);
    let place = memory::anonymous(MOST / page(), RW, PRIVATE | MapFlags::NORESERVE);
    // SAFETY: the address is for the kernel only.
    let (to, from) = unsafe { (place.as_mut_slice(0, MOST), place.as_slice(0, MOST)) };
    assert_eq!(io::read(&device, to), Ok(PAGES * page()));
    for i in 0..PAGES {
        assert_stamp(&place, i, i);
    }
    let start = page() as u64 + 1;
    assert_eq!(
        io::pwrite(&device, from, start),
        Ok((PAGES - 1) * page() - 1)
    );
    assert_same(
        &pread(start, page()),
        &place.read(0, page()),
        "the bytes that were moved",
    );
}

fn sendfile_of_the_whole_buffer() {
    const PAGES: usize = 1024;
    let device = stamped(PAGES);
    let file = tmpfs_file(b"");
    assert_eq!(
        sendfile(&file, &device, None, 2 * PAGES * page()),
        Ok(PAGES * page())
    );
    let mut found = vec![0; PAGES * page()];
    file.read_exact_at(&mut found, 0).expect("read");
    assert_same(&found, &pread(0, PAGES * page()), "the file");
    assert_eq!(tell(&device), Ok((PAGES * page()) as u64));
    assert_eq!(sendfile(&file, &device, None, 1), Ok(0), "at the end");
}

fn sendfile_into_the_whole_buffer() {
    const PAGES: usize = 300;
    let device = fresh(PAGES as u64);
    let bytes = pattern(2, PAGES * page());
    let file = tmpfs_file(&bytes);
    assert_eq!(
        sendfile(&device, &file, Some(&mut 0), bytes.len()),
        Ok(bytes.len())
    );
    assert_same(&shared(&device, PAGES).bytes(), &bytes, "the buffer");
}

fn clear_zeroes_every_page() {
    const PAGES: usize = 64;
    let device = stamped(PAGES);
    let map = shared(&device, PAGES);
    map.write(0, &pattern(3, PAGES * page()));
    device.clear().expect("CLEAR");
    let zeros = vec![0; PAGES * page()];
    assert_same(&map.bytes(), &zeros, "the mapping");
    assert_same(&pread(0, PAGES * page()), &zeros, "the buffer");
}

fn two_mappings_of_a_page_in_one_process() {
    let device = stamped(8);
    let low = window(&device, 0, 6, SHARED).expect("mmap");
    let high = window(&device, 4, 4, SHARED).expect("mmap");
    assert_eq!(
        low.frames()[4..],
        high.frames()[..2],
        "one page at two addresses"
    );
    let (a, b) = (low.u64(4 * page() + 64), high.u64(64));
    for i in 0..1000 {
        a.store(2 * i, SeqCst);
        assert_eq!(b.load(SeqCst), 2 * i);
        b.store(2 * i + 1, SeqCst);
        assert_eq!(a.load(SeqCst), 2 * i + 1);
    }
    high.advise(Advice::LinuxDontNeed).expect("madvise");
    assert_eq!(a.load(SeqCst), 1999, "the other one stays");
    assert_stamps(&high, 4);
    drop(low);
    assert_eq!(b.load(SeqCst), 1999, "and outlives it");
    assert_stamps(&high, 4);
}

fn overlapping_windows_in_two_processes() {
    const ROUNDS: u64 = 20_000;
    let device = stamped(9);
    // Pages 3 to 5 are in both.
    let count = |first: usize| {
        let map = window(&device, first, 6, SHARED).expect("mmap");
        assert_stamps(&map, first);
        for i in 0..ROUNDS {
            let index = 3 + i as usize % 3;
            map.u64((index - first) * page() + 128).fetch_add(1, SeqCst);
        }
        let own = if first == 0 { 0 } else { 5 };
        map.u64(own * page() + 256).store(first as u64 + 1, SeqCst);
    };
    let other = fork(|_| count(3));
    count(0);
    other.join();
    let map = shared(&device, 9);
    let sum: u64 = (3..6).map(|i| map.u64(i * page() + 128).load(SeqCst)).sum();
    assert_eq!(sum, 2 * ROUNDS, "no addition was lost");
    for (index, value) in [(0, 1), (8, 4)] {
        assert_eq!(map.u64(index * page() + 256).load(SeqCst), value);
    }
    assert_stamps(&map, 0);
}

fn munmap_in_the_middle() {
    let device = stamped(8);
    for flags in [SHARED, PRIVATE] {
        let map = window(&device, 0, 8, flags).expect("mmap");
        for at in [2, 3, 6] {
            map.write(at * page() + 64, b"written");
        }
        map.unmap_part(3 * page(), 2 * page()).expect("munmap");
        assert_eq!(live_mappings(), 2);
        for at in [3, 4] {
            assert_dies_of(Signal::SEGV, || drop(map.read(at * page(), 1)));
        }
        // Nothing else has moved, and what faults anew does so at its place.
        for part in [map.part(0, 3 * page()), map.part(5 * page(), 3 * page())] {
            let first = (part.at(0) as usize - map.at(0) as usize) / page();
            assert_stamps(&part, first);
            if flags == SHARED {
                part.advise(Advice::LinuxDontNeed).expect("madvise");
                assert_stamps(&part, first);
            }
            std::mem::forget(part);
        }
        for at in [2, 6] {
            assert_same(
                &map.read(at * page() + 64, 7),
                b"written",
                "a page that stayed",
            );
        }
        // Another window in the gap.
        let gap = map.part(3 * page(), 2 * page());
        let last = (6 * page()) as u64;
        gap.fixed(&device, last, READ, SHARED).expect("MAP_FIXED");
        assert_stamps(&gap, 6);
        assert_eq!(live_mappings(), 3);
        drop(gap);
        drop(map);
        assert_eq!(live_mappings(), 0);
    }
}

fn every_second_page_copied_then_forked() {
    const PAGES: usize = 64;
    let device = stamped(PAGES);
    let map = private(&device, PAGES);
    let read = |at: usize| map.u64(at * page()).load(SeqCst);
    let write = |at: usize, value: u64| map.u64(at * page()).store(value, SeqCst);
    for at in (0..PAGES).step_by(2) {
        write(at, 1000 + at as u64);
    }
    let child = fork(|link| {
        for at in 0..PAGES {
            let expected = if at % 2 == 0 {
                1000 + at as u64
            } else {
                stamp(at)
            };
            assert_eq!(read(at), expected, "page {at} in the child");
        }
        // Half of either kind.
        for at in (0..PAGES).filter(|at| at % 4 < 2) {
            write(at, 2000 + at as u64);
        }
        link.signal();
        link.wait();
        for at in 0..PAGES {
            let expected = match at % 4 {
                0 | 1 => 2000 + at as u64,
                2 => 1000 + at as u64,
                _ => 3000 + at as u64,
            };
            assert_eq!(read(at), expected, "page {at} in the child, at the end");
        }
    });
    child.link.wait();
    for at in 0..PAGES {
        let expected = if at % 2 == 0 {
            1000 + at as u64
        } else {
            stamp(at)
        };
        assert_eq!(read(at), expected, "page {at} in the parent");
    }
    let all = shared(&device, PAGES);
    assert_stamps(&all, 0);
    // Who has not copied a page sees what the kernel has.
    for at in 0..PAGES {
        pwrite((at * page()) as u64, &(3000 + at as u64).to_ne_bytes());
    }
    for at in (0..PAGES).step_by(2) {
        write(at, 4000);
    }
    child.link.signal();
    child.join();
    for at in 0..PAGES {
        let expected = if at % 2 == 0 { 4000 } else { 3000 + at as u64 };
        assert_eq!(read(at), expected, "page {at} in the parent, at the end");
    }
}

/// Split by whatever, a mapping is one again when its parts are alike; a new one stays apart from its
/// neighbour until then. Each process has its own.
fn parts_that_fit_together_again_merge() {
    let device = fresh(16);
    let vmas = || mappings_of("self").expect("this process");
    let place = memory::anonymous(16, RW, PRIVATE);
    for i in 0..4 {
        let part = place.part(4 * i * page(), 4 * page());
        let offset = (4 * i * page()) as u64;
        part.fixed(&device, offset, RW, SHARED).expect("MAP_FIXED");
        std::mem::forget(part);
        assert_eq!(vmas(), i as u64 + 1, "neighbours that continue each other");
    }
    let read_write = MprotectFlags::READ | MprotectFlags::WRITE;
    for at in [1, 5, 9, 13] {
        place
            .protect_part(at * page(), 2 * page(), MprotectFlags::READ)
            .expect("mprotect");
    }
    assert_eq!(vmas(), 12, "split by mprotect");
    for at in [1, 5, 9, 13] {
        place
            .protect_part(at * page(), 2 * page(), read_write)
            .expect("mprotect");
    }
    assert_eq!(vmas(), 4, "alike again");
    for prot in [MprotectFlags::READ, read_write] {
        place.protect(prot).expect("mprotect");
    }
    assert_eq!(vmas(), 1, "changed together");

    // Page by page there and back, as garbage collectors do.
    for at in 0..16 {
        for prot in [MprotectFlags::READ, read_write] {
            place
                .protect_part(at * page(), page(), prot)
                .expect("mprotect");
        }
    }
    assert_eq!(vmas(), 1, "one by one");
    for (split, back) in [
        (Advice::LinuxDontFork, Advice::LinuxDoFork),
        (Advice::LinuxDontDump, Advice::LinuxDoDump),
        (Advice::Random, Advice::Normal),
    ] {
        place
            .advise_part(6 * page(), 2 * page(), split)
            .expect("madvise");
        assert_eq!(vmas(), 3, "{split:?}");
        place
            .advise_part(6 * page(), 2 * page(), back)
            .expect("madvise");
        assert_eq!(vmas(), 1, "{back:?}");
    }
    place.unmap_part(6 * page(), 4 * page()).expect("munmap");
    assert_eq!(vmas(), 2, "with a gap");
    let child = fork(|link| {
        link.signal();
        link.wait();
        place.unmap_part(0, page()).expect("munmap");
        place
            .protect_part(2 * page(), page(), MprotectFlags::READ)
            .expect("mprotect");
        link.signal();
        link.wait();
    });
    child.link.wait();
    assert_eq!(live_mappings(), 2 * 2, "after fork");
    child.link.signal();
    child.link.wait();
    let in_child = mappings_of(&child.pid.to_string());
    assert_eq!(in_child, Some(4), "after the child's calls");
    assert_eq!(live_mappings(), 2 + 4, "after the child's calls");
    child.kill();
    assert_eq!(live_mappings(), 2, "after the child's end");
    drop(place);
    assert_eq!(live_mappings(), 0, "at the end");
    drop(device);
    assert_eq!(references(), 0);
}

fn the_client_library_maps_windows() {
    const PAGES: usize = 100;
    let device = stamped(PAGES);
    let size = device.info().expect("INFO").size;
    assert_eq!(size, (PAGES * page()) as u64);
    for (first, count) in [(0, PAGES), (7, 3), (PAGES - 1, 1)] {
        let window = device
            .map_window(
                (first * page()) as u64,
                count * page(),
                Sharing::Shared,
                Protection::Read,
            )
            .expect("map_window");
        let mut found = [0; 8];
        for at in 0..count {
            window.read_at(at * page(), &mut found).expect("read_at");
            assert_eq!(u64::from_ne_bytes(found), stamp(first + at));
        }
    }
    device
        .map_window(size, page(), Sharing::Shared, Protection::Read)
        .expect_err("past the end");
    let read_only = open(OFlags::RDONLY);
    Device::try_from(read_only)
        .expect("a descriptor of the device")
        .map_window(0, page(), Sharing::Shared, Protection::ReadWrite)
        .expect_err("writable through a read-only descriptor");
}
