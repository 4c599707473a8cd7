// SPDX-License-Identifier: GPL-2.0
//! Mappings, touched in few instructions: the same code for every peer.

use std::mem::forget;

pub use mapping::*;

/// Writes a byte to each page.
#[inline(never)]
pub fn write_pages(map: &Map) {
    let (start, len, page) = (map.at(0), map.len(), page());
    let mut offset = 0;
    while offset < len {
        // SAFETY: in the mapping, which may be written to.
        unsafe { start.add(offset).write_volatile(1) };
        offset += page;
    }
}

/// Reads a byte of each page.
#[inline(never)]
pub fn read_pages(map: &Map) {
    let (start, len, page) = (map.at(0), map.len(), page());
    let mut offset = 0;
    while offset < len {
        // SAFETY: in the mapping, which may be read.
        unsafe { start.add(offset).read_volatile() };
        offset += page;
    }
}

/// Copies bytes out of the mapping, as a program would: memcpy(3).
pub fn copy_from(map: &Map, to: &mut [u8]) {
    assert!(to.len() <= map.len());
    // SAFETY: both ranges are that long. Nobody changes the mapping meanwhile.
    unsafe { libc::memcpy(to.as_mut_ptr().cast(), map.at(0).cast(), to.len()) };
}

/// Copies bytes into the mapping.
pub fn copy_to(map: &Map, from: &[u8]) {
    assert!(from.len() <= map.len());
    // SAFETY: both ranges are that long. Nobody uses the mapping meanwhile.
    unsafe { libc::memcpy(map.at(0).cast(), from.as_ptr().cast(), from.len()) };
}

/// Free addresses for so many pages, between two pages that are mapped: at an odd address, which no
/// folio of several pages would fit. As the neighbours are touched as well, the page table is not
/// freed with what is mapped in the hole; and as the hole gets filled, its place among the VMAs is
/// just taken over.
pub struct Hole {
    pub address: usize,
    _neighbours: [Map; 2],
}

impl Hole {
    /// Not a multiple of what a large folio or an entry above the page table has.
    pub const ODD: usize = 37;

    pub fn new(pages: usize) -> Self {
        let room = anonymous(2 * table() / page() + pages, RW, PRIVATE);
        let start = room.at(0) as usize;
        let hole = start.next_multiple_of(table()) - start + Self::ODD * page();
        let end = hole + pages * page();
        let neighbours = [hole - page(), end].map(|offset| room.part(offset, page()));
        for (from, to) in [(0, hole - page()), (hole, end), (end + page(), room.len())] {
            room.unmap_part(from, to - from).expect("munmap");
        }
        forget(room);
        neighbours.iter().for_each(write_pages);
        Self {
            address: start + hole,
            _neighbours: neighbours,
        }
    }
}
