// SPDX-License-Identifier: GPL-2.0
//! mremap(2): growing, shrinking, moving, duplicating.

use rust_mmapdev::Device;
use rustix::{io::Errno, mm::MremapFlags};

use crate::{
    harness::tests,
    support::{
        assert_same, errno,
        memory::{self, Advice, Map, MapFlags, PRIVATE, RW, SHARED, page, private, shared},
        module::{fresh, live_mappings},
        pattern, pread, pwrite,
        signal::{BUS_ADRERR, SEGV_MAPERR, assert_segv, assert_signal, load, store},
    },
};

tests![
    grows_within_the_buffer,
    grows_past_the_end_into_sigbus,
    shrinks,
    moves,
];

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
fn grows_within_the_buffer() {
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

/// As a file's mapping does: all that there is of the buffer is there, and nothing behind it, which
/// is not said to be a broken page.
fn grows_past_the_end_into_sigbus() {
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
                    assert_signal(libc::SIGBUS, map.at(at), BUS_ADRERR, load);
                    assert_signal(libc::SIGBUS, map.at(at), BUS_ADRERR, store);
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

fn shrinks() {
    let device = fresh(4);
    let bytes = pattern(6, 4 * page());
    pwrite(0, &bytes);
    let mut map = shared(&device, 4);
    map.remap(2 * page(), MremapFlags::empty()).expect("mremap");
    assert_same(&map.bytes(), &bytes[..2 * page()], "what is left");
    assert_eq!(live_mappings(), 1);
    let tail = map.at(2 * page());
    assert_segv(tail, SEGV_MAPERR, load);
}

fn moves() {
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
        assert_segv(old, SEGV_MAPERR, load);
        assert_segv(old, SEGV_MAPERR, store);
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
