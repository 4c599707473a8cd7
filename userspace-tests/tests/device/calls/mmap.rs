// SPDX-License-Identifier: GPL-2.0
//! mmap(2), munmap(2) and mremap(2).

use std::fs;

use rust_mmapdev::Device;
use rustix::{
    fs::{OFlags, StatVfsMountFlags, statvfs},
    io::Errno,
    mm::MremapFlags,
    process::{Resource, Rlimit, Signal, getrlimit, setrlimit},
};

use crate::{
    harness::tests,
    support::{
        assert_same, errno,
        memory::{
            self, Advice, EXEC, Map, MapFlags, PRIVATE, ProtFlags, READ, RW, SHARED, WRITE, mmap,
            page, private, shared,
        },
        module::{fresh, initial, live_mappings},
        open, pattern, pread,
        process::assert_dies_of,
        pwrite, tmpfs_file,
    },
};

tests![
    shared_for_reading_and_writing,
    shared_for_reading_through_a_read_only_descriptor,
    shared_for_writing_through_a_read_only_descriptor_is_eacces,
    private_for_writing_through_a_read_only_descriptor,
    any_mapping_through_a_write_only_descriptor_is_eacces,
    past_the_end_is_enxio,
    huge_lengths_and_offsets_are_refused,
    a_refused_mapping_leaves_nothing,
    exec_is_eperm,
    shared_validate_knows_its_flags,
    fixed_takes_the_place_of_another_mapping,
    no_access_at_first,
    outlives_its_descriptor,
    many_mappings_of_one_page,
    address_space_limit_is_enomem,
    munmap_ends_access,
    the_vma_is_an_ordinary_one,
    mremap_of_nothing_duplicates_a_shared_mapping,
    mremap_dontunmap_leaves_the_old_mapping,
    offset_selects_the_page,
    length_is_rounded_up,
    unaligned_offset_is_einval,
    populate_and_locked,
    maps_and_smaps_know_the_device,
    munmap_of_a_part_keeps_the_rest,
    mremap_grows_within_the_buffer,
    mremap_grows_past_the_end_into_sigbus,
    mremap_shrinks,
    mremap_moves,
    mremap_moves_a_part,
];

fn shared_for_reading_and_writing() {
    let device = fresh(1);
    let map = mmap(&device, 0, page(), RW, SHARED).expect("mmap");
    assert_same(&map.bytes(), &initial(page()), "what the mapping shows");
    let bytes = pattern(1, page());
    map.write(0, &bytes);
    assert_same(&pread(0, page()), &bytes, "what the kernel has");
}

fn shared_for_reading_through_a_read_only_descriptor() {
    fresh(1);
    let map = mmap(open(OFlags::RDONLY), 0, page(), READ, SHARED).expect("mmap");
    let bytes = pattern(2, page());
    pwrite(0, &bytes);
    assert_same(&map.bytes(), &bytes, "the mapping");
    assert_dies_of(Signal::SEGV, || map.write(0, b"x"));
    assert_same(
        &pread(0, page()),
        &bytes,
        "the buffer after the refused store",
    );
}

fn shared_for_writing_through_a_read_only_descriptor_is_eacces() {
    fresh(1);
    let fd = open(OFlags::RDONLY);
    for prot in [RW, WRITE] {
        assert_eq!(
            errno(mmap(&fd, 0, page(), prot, SHARED)),
            Errno::ACCESS,
            "{prot:?}"
        );
    }
}

fn private_for_writing_through_a_read_only_descriptor() {
    fresh(1);
    let map = mmap(open(OFlags::RDONLY), 0, page(), RW, PRIVATE).expect("mmap");
    map.write(0, b"mine");
    assert_same(&map.read(0, 4), b"mine", "the private page");
    assert_same(&pread(0, page()), &initial(page()), "the buffer");
}

fn any_mapping_through_a_write_only_descriptor_is_eacces() {
    fresh(1);
    let fd = open(OFlags::WRONLY);
    for prot in [READ, WRITE, RW, ProtFlags::empty()] {
        for flags in [SHARED, PRIVATE] {
            let result = mmap(&fd, 0, page(), prot, flags);
            assert_eq!(errno(result), Errno::ACCESS, "{prot:?} {flags:?}");
        }
    }
}

fn offset_selects_the_page() {
    let device = fresh(4);
    let bytes = pattern(3, 4 * page());
    pwrite(0, &bytes);
    for first in 0..4 {
        for count in 1..=4 - first {
            let (at, len) = (first * page(), count * page());
            for flags in [SHARED, PRIVATE] {
                let map = mmap(&device, at as u64, len, RW, flags).expect("mmap");
                let what = format!("{flags:?} {count} from page {first}");
                assert_same(&map.bytes(), &bytes[at..at + len], &what);
            }
        }
    }
}

fn length_is_rounded_up() {
    let device = fresh(4);
    for len in [1, page() - 1, page() + 1] {
        let map = mmap(&device, 0, len, RW, SHARED).expect("mmap");
        assert_eq!(map.frames().len(), len.div_ceil(page()));
        let last = len.next_multiple_of(page()) - 1;
        // SAFETY: the mapping reaches to the end of its last page.
        unsafe { map.at(0).add(last).write_volatile(b'!') };
        assert_same(&pread(last as u64, 1), b"!", "the last byte of the page");
    }
}

fn unaligned_offset_is_einval() {
    let device = fresh(4);
    for offset in [1, 512, page() as u64 - 1, page() as u64 + 1] {
        assert_eq!(
            errno(mmap(&device, offset, page(), RW, SHARED)),
            Errno::INVAL,
            "{offset}"
        );
    }
}

fn past_the_end_is_enxio() {
    for pages in [1, 4] {
        let device = fresh(pages as u64);
        let refused = [
            (0, pages + 1),
            (0, 2 * pages),
            (pages - 1, 2),
            (pages, 1),
            (pages + 1, 1),
            (1 << 30, 1),
        ];
        for (first, count) in refused {
            for (prot, flags) in [(RW, SHARED), (READ, SHARED), (RW, PRIVATE)] {
                let result = mmap(
                    &device,
                    (first * page()) as u64,
                    count * page(),
                    prot,
                    flags,
                );
                let what = format!("{count} pages from page {first} of {pages}");
                assert_eq!(errno(result), Errno::NXIO, "{what}");
            }
        }
        // One byte too long is one page too long.
        let result = mmap(&device, 0, pages * page() + 1, RW, SHARED);
        assert_eq!(
            errno(result),
            Errno::NXIO,
            "one byte more than {pages} pages"
        );
        mmap(
            &device,
            (pages as u64 - 1) * page() as u64,
            page(),
            RW,
            SHARED,
        )
        .expect("the last page");
    }
}

fn huge_lengths_and_offsets_are_refused() {
    let device = fresh(1);
    // The last offset that is a multiple of the page size, and pages from there on that wrap.
    let last = u64::MAX - (page() as u64 - 1);
    assert_eq!(
        errno(mmap(&device, last, page(), RW, SHARED)),
        Errno::OVERFLOW
    );
    assert_eq!(
        errno(mmap(&device, last, 2 * page(), RW, SHARED)),
        Errno::OVERFLOW
    );
    // The last one that the core lets through.
    assert_eq!(
        errno(mmap(&device, last - page() as u64, page(), RW, SHARED)),
        Errno::NXIO
    );
    assert_eq!(
        errno(mmap(&device, 1 << 63, page(), RW, SHARED)),
        Errno::NXIO
    );
    assert_eq!(
        errno(mmap(&device, 0, usize::MAX, RW, SHARED)),
        Errno::NOMEM
    );
    assert_eq!(
        errno(mmap(&device, 0, 1 << 40, RW, SHARED)),
        Errno::NXIO,
        "a TiB"
    );
}

fn a_refused_mapping_leaves_nothing() {
    let device = fresh(1);
    let vmas = || {
        fs::read_to_string("/proc/self/maps")
            .expect("maps")
            .matches(Device::PATH)
            .count()
    };
    for _ in 0..100 {
        errno(mmap(&device, 0, 2 * page(), RW, SHARED));
        errno(mmap(&device, page() as u64, page(), RW, PRIVATE));
        errno(mmap(&device, 0, page(), RW | EXEC, SHARED));
    }
    assert_eq!(vmas(), 0);
    assert_eq!(live_mappings(), 0);
}

fn exec_is_eperm() {
    let device = fresh(1);
    // On a file system without exec the core would refuse on its own.
    let dev = statvfs("/dev").expect("statvfs");
    assert!(
        !dev.f_flag.contains(StatVfsMountFlags::NOEXEC),
        "/dev must allow execution here"
    );
    for prot in [EXEC, READ | EXEC, RW | EXEC] {
        for flags in [SHARED, PRIVATE] {
            let result = mmap(&device, 0, page(), prot, flags);
            assert_eq!(errno(result), Errno::PERM, "{prot:?} {flags:?}");
        }
    }
}

fn shared_validate_knows_its_flags() {
    let device = fresh(1);
    let map = mmap(&device, 0, page(), RW, MapFlags::SHARED_VALIDATE).expect("mmap");
    assert_same(&map.bytes(), &initial(page()), "MAP_SHARED_VALIDATE");
    // Only a file in persistent memory has MAP_SYNC.
    let sync = MapFlags::SHARED_VALIDATE | MapFlags::SYNC;
    assert_eq!(errno(mmap(&device, 0, page(), RW, sync)), Errno::OPNOTSUPP);
}

fn fixed_takes_the_place_of_another_mapping() {
    let device = fresh(1);
    let place = memory::anonymous(3, RW, PRIVATE);
    place.write(0, &pattern(4, 3 * page()));
    let middle = memory::anonymous(1, RW, PRIVATE);
    middle.fixed(&device, 0, RW, SHARED).expect("MAP_FIXED");
    assert_same(
        &middle.bytes(),
        &initial(page()),
        "where anonymous memory was",
    );
    middle
        .fixed(&device, 0, RW, PRIVATE)
        .expect("MAP_FIXED again");
    middle.write(0, b"mine");
    assert_same(
        &pread(0, page()),
        &initial(page()),
        "the buffer under the private mapping",
    );
    assert_eq!(live_mappings(), 1, "the second replaced the first");
    assert_eq!(
        errno(middle.fixed(&device, 0, RW, SHARED | MapFlags::FIXED_NOREPLACE)),
        Errno::EXIST
    );
}

fn populate_and_locked() {
    for pages in [1, 4] {
        let device = fresh(pages as u64);
        for flags in [SHARED, PRIVATE] {
            for (more, ahead) in [
                (MapFlags::POPULATE, true),
                (MapFlags::LOCKED, true),
                // Nothing of more than one page is there before it is touched.
                (MapFlags::NORESERVE, pages == 1),
            ] {
                let what = format!("{flags:?} {more:?} {pages}");
                let map = mmap(&device, 0, pages * page(), RW, flags | more).expect("mmap");
                assert!(
                    map.frames().iter().all(|frame| frame.is_some() == ahead),
                    "{what}"
                );
                let locked = map.smaps().contains(" lo");
                assert_eq!(locked, more == MapFlags::LOCKED, "{what}");
                assert_same(&map.bytes(), &initial(pages * page()), &what);
            }
        }
    }
}

fn no_access_at_first() {
    let device = fresh(1);
    let map = mmap(&device, 0, page(), ProtFlags::empty(), SHARED).expect("mmap");
    assert_dies_of(Signal::SEGV, || drop(map.bytes()));
    map.protect(memory::MprotectFlags::READ).expect("mprotect");
    assert_same(&map.bytes(), &initial(page()), "readable now");
}

fn outlives_its_descriptor() {
    let map = shared(fresh(1), 1);
    map.advise(Advice::LinuxDontNeed).expect("madvise");
    map.write(0, b"still here");
    assert_same(&pread(0, 10), b"still here", "a store after close");
}

fn many_mappings_of_one_page() {
    let device = fresh(1);
    let maps: Vec<_> = (0..500).map(|_| shared(&device, 1)).collect();
    assert_eq!(live_mappings(), 500);
    maps[499].write(0, b"one page");
    for map in &maps {
        assert_same(&map.read(0, 8), b"one page", "each mapping");
    }
}

fn address_space_limit_is_enomem() {
    let device = fresh(1);
    let limit = getrlimit(Resource::As);
    setrlimit(
        Resource::As,
        Rlimit {
            current: Some(0),
            maximum: limit.maximum,
        },
    )
    .expect("setrlimit");
    let result = mmap(&device, 0, page(), RW, SHARED);
    setrlimit(Resource::As, limit).expect("setrlimit");
    assert_eq!(errno(result), Errno::NOMEM);
    assert_eq!(live_mappings(), 0);
    shared(&device, 1);
}

fn maps_and_smaps_know_the_device() {
    let device = fresh(4);
    let map = mmap(&device, page() as u64, 2 * page(), RW, SHARED).expect("mmap");
    let smaps = map.smaps();
    let head = smaps.lines().next().unwrap_or_default();
    assert!(head.ends_with(Device::PATH), "{head}");
    assert!(
        head.contains(&format!(" rw-s {:08x} ", page())),
        "permissions and offset: {head}"
    );
    let kib = 2 * page() / 1024;
    let (size, rss) = (map.smaps_kib("Size"), map.smaps_kib("Rss"));
    assert_eq!((size, rss), (kib, 0), "before it is touched: {smaps}");
    map.bytes();
    assert_eq!(map.smaps_kib("Rss"), kib, "touched");
}

/// Nothing in it tells the core to treat it otherwise than a file's, but that it is never
/// executable.
fn the_vma_is_an_ordinary_one() {
    let device = fresh(4);
    let file = tmpfs_file(&initial(4 * page()));
    let flags_of = |map: &Map| {
        let smaps = map.smaps();
        let flags = smaps
            .lines()
            .last()
            .and_then(|line| line.strip_prefix("VmFlags:"));
        let flags = flags.expect("VmFlags").split_whitespace();
        flags.map(str::to_owned).collect::<Vec<_>>()
    };
    for pages in [1, 4] {
        for (prot, flags) in [(RW, SHARED), (READ, SHARED), (RW, PRIVATE), (READ, PRIVATE)] {
            let of_device = mmap(&device, 0, pages * page(), prot, flags).expect("mmap");
            let of_file = mmap(&file, 0, pages * page(), prot, flags).expect("mmap");
            let mut expected = flags_of(&of_file);
            expected.retain(|flag| flag != "me");
            let what = format!("{pages} {prot:?} {flags:?}");
            assert_eq!(flags_of(&of_device), expected, "{what}");
            of_device.bytes();
            assert_eq!(flags_of(&of_device), expected, "{what}, touched");
        }
    }
}

fn munmap_ends_access() {
    let device = fresh(1);
    let map = shared(&device, 1);
    map.unmap_part(0, page()).expect("munmap");
    assert_eq!(live_mappings(), 0);
    assert_dies_of(Signal::SEGV, || drop(map.bytes()));
}

fn munmap_of_a_part_keeps_the_rest() {
    let device = fresh(4);
    let bytes = pattern(5, 4 * page());
    pwrite(0, &bytes);
    for flags in [SHARED, PRIVATE] {
        for gone in 0..4 {
            let map = mmap(&device, 0, 4 * page(), RW, flags).expect("mmap");
            map.unmap_part(gone * page(), page()).expect("munmap");
            for kept in (0..4).filter(|kept| *kept != gone) {
                let at = kept * page();
                let what = format!("{flags:?} page {kept} without page {gone}");
                assert_same(&map.read(at, page()), &bytes[at..at + page()], &what);
                // The fault handler must find the same page in the VMA's new range.
                map.advise_part(at, page(), Advice::LinuxDontNeed)
                    .expect("madvise");
                assert_same(&map.read(at, page()), &bytes[at..at + page()], &what);
            }
            assert_dies_of(Signal::SEGV, || drop(map.read(gone * page(), 1)));
        }
    }
}

/// A mapping of `pages` pages from page `first` on, in front of `room` free ones.
fn with_room(device: &Device, first: usize, pages: usize, room: usize, flags: MapFlags) -> Map {
    let place = memory::anonymous(pages + room, RW, PRIVATE);
    let map = place.part(0, pages * page());
    map.fixed(device, (first * page()) as u64, RW, flags)
        .expect("MAP_FIXED");
    place
        .unmap_part(pages * page(), room * page())
        .expect("munmap");
    std::mem::forget(place);
    map
}

/// In place where there is room, and elsewhere when it may move.
fn mremap_grows_within_the_buffer() {
    let device = fresh(4);
    let bytes = pattern(9, 4 * page());
    pwrite(0, &bytes);
    for flags in [SHARED, PRIVATE] {
        for (first, pages) in [(0, 1), (0, 2), (1, 1), (1, 2), (0, 3)] {
            for touched in [false, true] {
                let what = format!("{flags:?} {pages} from {first}, touched: {touched}");
                let expected = &bytes[first * page()..];
                let mut map = with_room(&device, first, pages, 4, flags);
                let start = map.at(0);
                if touched {
                    map.bytes();
                }
                map.remap((pages + 1) * page(), MremapFlags::empty())
                    .expect("in place");
                assert_eq!(map.at(0), start, "{what}");
                assert_same(&map.bytes(), &expected[..map.len()], &what);
                assert_eq!(live_mappings(), 1, "{what}");
                map.remap(pages * page(), MremapFlags::empty())
                    .expect("back to where it was");

                // No room any more.
                let wall = memory::mmap_at(
                    start as usize + map.len(),
                    &device,
                    page(),
                    RW,
                    SHARED | MapFlags::FIXED_NOREPLACE,
                )
                .expect("mmap");
                let len = (4 - first) * page();
                assert_eq!(errno(map.remap(len, MremapFlags::empty())), Errno::NOMEM);
                map.remap(len, MremapFlags::MAYMOVE).expect("elsewhere");
                assert_ne!(map.at(0), start, "{what}");
                assert_same(&map.bytes(), expected, &what);
                drop(wall);
                assert_eq!(live_mappings(), 1, "{what}");
            }
        }
    }
}

/// As a file's mapping does: all that there is of the buffer is there, and nothing behind it.
fn mremap_grows_past_the_end_into_sigbus() {
    for pages in [1, 4] {
        let device = fresh(pages as u64);
        let size = pages * page();
        let bytes = pattern(10, size);
        pwrite(0, &bytes);
        for flags in [SHARED, PRIVATE] {
            for first in 0..pages {
                let mut map = with_room(&device, first, 1, pages + 1, flags);
                map.remap((pages + 2) * page(), MremapFlags::empty())
                    .expect("mremap");
                let inside = (pages - first) * page();
                for at in (inside..map.len()).step_by(page()) {
                    assert_dies_of(Signal::BUS, || drop(map.read(at, 1)));
                    assert_dies_of(Signal::BUS, || map.write(at, b"x"));
                }
                assert_same(&map.read(0, inside), &bytes[first * page()..], "the rest");
                map.write(inside - 1, b"!");
                let last = if flags == SHARED {
                    b"!"
                } else {
                    &bytes[size - 1..]
                };
                assert_same(&pread(size as u64 - 1, 1), last, "the last byte");
                assert_same(&pread(size as u64, 1), b"", "nothing behind it");
                pwrite(0, &bytes);
            }
        }
    }
}

fn mremap_shrinks() {
    let device = fresh(4);
    let bytes = pattern(6, 4 * page());
    pwrite(0, &bytes);
    let mut map = shared(&device, 4);
    map.remap(2 * page(), MremapFlags::empty()).expect("mremap");
    assert_same(&map.bytes(), &bytes[..2 * page()], "what is left");
    assert_eq!(live_mappings(), 1);
    let tail = map.at(2 * page());
    assert_dies_of(Signal::SEGV, || {
        // SAFETY: this is to die.
        unsafe { tail.read_volatile() };
    });
}

fn mremap_moves() {
    let device = fresh(4);
    let bytes = pattern(7, 4 * page());
    pwrite(0, &bytes);
    for touched in [true, false] {
        let mut map = shared(&device, 4);
        if !touched {
            map.advise(Advice::LinuxDontNeed).expect("madvise");
        }
        let (old, place) = (map.at(0), memory::anonymous(4, RW, PRIVATE));
        let new = place.at(0);
        map.remap_onto(place).expect("mremap");
        assert_eq!(map.at(0), new);
        assert_same(&map.bytes(), &bytes, "at the new place");
        map.advise(Advice::LinuxDontNeed).expect("madvise");
        assert_same(&map.bytes(), &bytes, "at the new place, faulted in");
        assert_eq!(live_mappings(), 1);
        assert_dies_of(Signal::SEGV, || {
            // SAFETY: this is to die.
            unsafe { old.read_volatile() };
        });
    }
    // A page that was copied on write moves as well.
    let mut copy = private(&device, 4);
    copy.write(page(), b"mine");
    copy.remap_onto(memory::anonymous(4, RW, PRIVATE))
        .expect("mremap");
    assert_same(&copy.read(page(), 4), b"mine", "the private page");
    assert_same(
        &copy.read(0, page()),
        &bytes[..page()],
        "a page nobody wrote to",
    );
}

/// A moved part stays the part it was: faults there find its pages, not the first ones.
fn mremap_moves_a_part() {
    let device = fresh(4);
    let bytes = pattern(8, 4 * page());
    pwrite(0, &bytes);
    let map = shared(&device, 4);
    let mut part = map.part(page(), 2 * page());
    part.remap_onto(memory::anonymous(2, RW, PRIVATE))
        .expect("mremap");
    assert_same(&part.bytes(), &bytes[page()..3 * page()], "the moved part");
    part.advise(Advice::LinuxDontNeed).expect("madvise");
    assert_same(
        &part.bytes(),
        &bytes[page()..3 * page()],
        "the moved part, faulted in",
    );
    map.advise_part(3 * page(), page(), Advice::LinuxDontNeed)
        .expect("madvise");
    assert_same(
        &map.read(3 * page(), page()),
        &bytes[3 * page()..],
        "the part after the gap",
    );
    assert_dies_of(Signal::SEGV, || drop(map.read(page(), 1)));
    assert_eq!(live_mappings(), 3);
}

fn mremap_of_nothing_duplicates_a_shared_mapping() {
    let device = fresh(4);
    let bytes = pattern(11, 4 * page());
    pwrite(0, &bytes);
    let map = mmap(&device, page() as u64, 3 * page(), RW, SHARED).expect("mmap");
    let mut second = map.part(page(), 0);
    second
        .remap(2 * page(), MremapFlags::MAYMOVE)
        .expect("mremap");
    assert_eq!(live_mappings(), 2);
    assert_same(&second.bytes(), &bytes[2 * page()..], "the second mapping");
    assert_same(&map.bytes(), &bytes[page()..], "the first mapping");
    second.write(0, b"through both");
    assert_same(&map.read(page(), 12), b"through both", "the first mapping");
    // There is no second one of what is one's own.
    let map = private(&device, 4);
    let result = map.part(0, 0).remap(page(), MremapFlags::MAYMOVE);
    assert_eq!(errno(result), Errno::INVAL);
}

/// What was one's own goes along; the old place is a mapping of the device like a new one.
fn mremap_dontunmap_leaves_the_old_mapping() {
    for pages in [1, 4] {
        let device = fresh(pages as u64);
        let bytes = pattern(12, pages * page());
        pwrite(0, &bytes);
        for flags in [SHARED, PRIVATE] {
            let old = mmap(&device, 0, pages * page(), RW, flags).expect("mmap");
            old.write(0, b"moved");
            let new = old.remap_dontunmap().expect("mremap");
            assert_ne!(new.at(0), old.at(0));
            assert_eq!(live_mappings(), 2, "{flags:?}");
            assert_eq!(old.frames(), vec![None; pages], "{flags:?}");
            assert_same(&new.read(0, 5), b"moved", "the new mapping");
            assert_same(&new.bytes()[5..], &bytes[5..], "the new mapping");
            let left = if flags == SHARED {
                b"moved"
            } else {
                &bytes[..5]
            };
            assert_same(&old.read(0, 5), left, "the old mapping");
            assert_same(&old.bytes()[5..], &bytes[5..], "the old mapping");
            pwrite(0, &bytes);
        }
    }
}
