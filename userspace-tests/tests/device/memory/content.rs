// SPDX-License-Identifier: GPL-2.0
//! What the buffer holds when the module is loaded, and that there is one buffer only.

use crate::{
    harness::tests,
    support::{
        assert_same,
        memory::{READ, SHARED, mmap, page, private, shared},
        module::{self, fresh, initial},
        open, pattern, pread, pwrite,
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

/// One page frame in all page tables: of one page from mmap on, of more when they are touched.
fn the_mapping_is_the_kernels_page() {
    for pages in [1, 4] {
        let device = fresh(pages as u64);
        let maps = [
            shared(&device, pages),
            private(&device, pages),
            shared(open(OFlags::RDWR), pages),
        ];
        if pages > 1 {
            maps.iter().for_each(|map| drop(map.bytes()));
        }
        let frames: Vec<_> = maps.iter().map(|map| map.frames()).collect();
        for frame in &frames[0] {
            assert!(frame.expect("a page") > 0, "root sees page frames");
        }
        assert_eq!(frames[0], frames[1], "a private mapping nobody wrote to");
        assert_eq!(frames[0], frames[2], "a second shared mapping");
    }
}
