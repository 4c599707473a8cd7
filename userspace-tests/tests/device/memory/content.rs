// SPDX-License-Identifier: GPL-2.0
//! What the buffer holds when the module is loaded, and that there is one buffer only.

use crate::{
    harness::tests,
    support::{
        assert_same,
        memory::{Advice, Map, PRIVATE, READ, SHARED, mmap, page, private, shared},
        module::{self, fresh, initial},
        open, pattern, pread,
        proc::{
            ANON, DIRTY, SWAPBACKED, UNEVICTABLE, UPTODATE, page_count, page_flags, settle_lists,
        },
        pwrite,
    },
};
use rustix::fs::OFlags;

tests![
    a_new_buffer_holds_the_text_and_zeros,
    a_new_mapping_shows_the_kernels_bytes,
    loading_again_starts_over,
    one_buffer_behind_all_descriptors,
    each_page_is_its_own,
    the_mapping_is_the_kernels_page,
    the_pages_are_page_cache,
];

fn a_new_buffer_holds_the_text_and_zeros() {
    for pages in [1, 3] {
        module::reload(&format!("buffer_pages={pages}"));
        let size = pages * page();
        assert_same(&pread(0, size + 1), &initial(size), "a new buffer");
    }
}

fn a_new_mapping_shows_the_kernels_bytes() {
    module::reload("");
    let fd = open(OFlags::RDONLY);
    let map = mmap(&fd, 0, page(), READ, SHARED).expect("mmap");
    assert_same(&map.bytes(), &initial(page()), "a shared mapping");
    assert_same(
        &private(&fd, 1).bytes(),
        &initial(page()),
        "a private mapping",
    );
}

fn loading_again_starts_over() {
    module::reload("");
    pwrite(0, &pattern(1, page()));
    module::reload("");
    assert_same(
        &pread(0, page()),
        &initial(page()),
        "the buffer of the next load",
    );
}

fn one_buffer_behind_all_descriptors() {
    let first = fresh(1);
    let second = open(OFlags::RDWR);
    let bytes = pattern(2, page());
    shared(&first, 1).write(0, &bytes);
    assert_same(
        &shared(&second, 1).bytes(),
        &bytes,
        "another descriptor's mapping",
    );
    assert_same(&pread(0, page()), &bytes, "another descriptor's read");
}

fn each_page_is_its_own() {
    let device = fresh(4);
    let bytes = pattern(3, 4 * page());
    pwrite(0, &bytes);
    assert_same(&shared(&device, 4).bytes(), &bytes, "four pages");
    for i in 0..4 {
        let at = i * page();
        let map = mmap(&device, at as u64, page(), READ, SHARED).expect("mmap");
        assert_same(&map.bytes(), &bytes[at..at + page()], &format!("page {i}"));
    }
}

/// The frames of a mapping that a touch of one page has brought. Who looks whether pages can be moved
/// locks their folio for a moment, in which a touch brings one page only.
fn all_at_once(map: &Map, at: usize) -> Vec<Option<u64>> {
    let touch = || {
        map.advise(Advice::LinuxDontNeed).expect("MADV_DONTNEED");
        map.load(at);
        map.frames()
    };
    (0..5)
        .map(|_| touch())
        .find(|frames| frames.iter().all(Option::is_some))
        .expect("all of its pages")
}

/// A mapping of one page has it in the page table when mmap returns; larger ones get theirs when
/// they are touched, all at once.
fn the_mapping_is_the_kernels_page() {
    let device = fresh(4);
    let (map, other) = (
        shared(&device, 4),
        mmap(&device, 0, 4 * page(), READ, PRIVATE).expect("mmap"),
    );
    assert_eq!(map.frames(), [None; 4], "before it is touched");
    let frames = all_at_once(&map, page());
    let all: std::collections::HashSet<_> = frames.iter().collect();
    assert_eq!(all.len(), 4, "a frame for each page");
    let first = frames[0].expect("a page");
    assert_eq!(page_count(first), 1, "one page table entry");
    assert_eq!(other.frames(), [None; 4], "not touched itself");
    assert_eq!(
        all_at_once(&other, 3 * page()),
        frames,
        "the same from elsewhere"
    );
    assert_eq!(page_count(first), 2, "two entries");
    let third = shared(&device, 1);
    assert_eq!(third.frames(), frames[..1], "of one page: at once");
    assert_eq!(page_count(first), 3, "three of them");
}

/// The page cache of a file that nobody sees. It has no disk behind it: what is there is dirty for
/// good, and stays.
fn the_pages_are_page_cache() {
    let device = fresh(1);
    let (map, copy) = (shared(&device, 1), private(&device, 1));
    settle_lists();
    let flags = page_flags(map.frames()[0].expect("a page"));
    let expected = UPTODATE | DIRTY | UNEVICTABLE;
    assert_eq!(
        flags & (expected | SWAPBACKED | ANON),
        expected,
        "{flags:x}"
    );
    copy.write(0, b"mine");
    let flags = page_flags(copy.frames()[0].expect("a page"));
    assert_eq!(
        flags & ANON,
        ANON,
        "a private copy is no page cache: {flags:x}"
    );
}
