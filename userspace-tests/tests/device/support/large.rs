// SPDX-License-Identifier: GPL-2.0
//! Buffers of several MiB whose every word is another, and mappings of them, with what each of them
//! is to hold.

use std::{cell::RefCell, collections::BTreeMap, fs, mem::forget, ops::Range, path::Path};

use rust_mmapdev::Device;
use rustix::{fs::OFlags, io};

use super::{
    assert_same,
    memory::{Advice, Map, MapFlags, PRIVATE, RW, SHARED, mmap_skewed, page, table},
    module::{self, fdinfo, fresh},
    open,
    proc::{nobodys_pages, settled, unsettled_nobodys_pages},
    pwrite,
};
use crate::harness::skip;

/// Whether the kernel is built with transparent huge pages, that is, entries for them.
pub fn has_huge_pages() -> bool {
    Path::new("/sys/kernel/mm/transparent_hugepage").exists()
}

/// What an entry of the table above the page tables maps, in bytes. Skips the test where the kernel
/// maps nothing by such entries.
pub fn huge() -> usize {
    if !has_huge_pages() {
        skip("this kernel has no transparent huge pages");
    }
    let file = "/sys/kernel/mm/transparent_hugepage/hpage_pmd_size";
    let size = fs::read_to_string(file).expect(file);
    assert_eq!(size.trim().parse(), Ok(table()));
    table()
}

/// `len` bytes, of which each word is another.
pub fn numbered(len: usize) -> Vec<u8> {
    let words = (1..).map(|i: u64| i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    words.flat_map(u64::to_ne_bytes).take(len).collect()
}

/// A buffer, and what it is to hold.
pub struct Large {
    pub device: Device,
    bytes: RefCell<Vec<u8>>,
    found: RefCell<Vec<u8>>,
}

impl Large {
    /// A buffer of `tables` folios that an entry above the page tables maps, and `rest` pages in
    /// smaller ones.
    #[track_caller]
    pub fn new(tables: usize, rest: usize) -> Self {
        let whole = tables * huge();
        let pages = whole / page() + rest;
        let in_huge_folios = |device: &Device| fdinfo(device, "huge_size") as usize;
        let mut device = fresh(pages as u64);
        if in_huge_folios(&device) != whole {
            drop(device);
            module::unload_if_loaded();
            fs::write("/proc/sys/vm/compact_memory", "1").expect("compact_memory");
            device = fresh(pages as u64);
        }
        assert_eq!(in_huge_folios(&device), whole, "of {pages} pages");
        Self::of(device)
    }

    /// The buffer of the module as it is loaded.
    pub fn of(device: Device) -> Self {
        let bytes = numbered(device.info().expect("INFO").size as usize);
        pwrite(0, &bytes);
        Self {
            device,
            found: RefCell::new(vec![0; bytes.len()]),
            bytes: RefCell::new(bytes),
        }
    }

    pub fn len(&self) -> usize {
        self.bytes.borrow().len()
    }

    /// What the buffer is to hold there.
    pub fn expected(&self, at: usize, len: usize) -> Vec<u8> {
        self.bytes.borrow()[at..at + len].to_vec()
    }

    /// Notes that bytes have been written to the buffer.
    pub fn changed(&self, at: usize, bytes: &[u8]) {
        self.bytes.borrow_mut()[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// The whole buffer is as read(2) should give it.
    #[track_caller]
    pub fn check(&self) {
        self.check_part(0..self.len());
    }

    /// The same of a part.
    #[track_caller]
    pub fn check_part(&self, range: Range<usize>) {
        let mut found = self.found.borrow_mut();
        let found = &mut found[range.clone()];
        let n = io::pread(open(OFlags::RDONLY), &mut *found, range.start as u64);
        assert_eq!(n, Ok(range.len()), "pread of {range:x?}");
        assert_same(found, &self.bytes.borrow()[range], "the buffer");
    }

    /// The buffer from `offset` on, mapped at an address `skew` bytes past a multiple of what an
    /// entry above the page tables maps.
    #[track_caller]
    pub fn view(&self, skew: usize, offset: usize, len: usize, flags: MapFlags) -> View<'_> {
        let map = mmap_skewed(skew, &self.device, offset as u64, len, RW, flags);
        self.view_of(map, offset, flags)
    }

    /// The same of a mapping that is there already.
    pub fn view_of(&self, map: Map, offset: usize, flags: MapFlags) -> View<'_> {
        View {
            buffer: self,
            map,
            offset,
            is_private: flags.contains(PRIVATE),
            copies: RefCell::default(),
        }
    }

    /// All of it, aligned, and put in place by loads: by as few entries as can be.
    #[track_caller]
    pub fn in_place(&self, flags: MapFlags) -> View<'_> {
        let view = self.view(0, 0, self.len(), flags);
        view.map.load_pages();
        assert_eq!(view.map.huge_bytes(), self.len() / table() * table());
        view
    }
}

/// A mapping of the buffer, and what it is to hold: where it is private, the pages that have been
/// copied, and otherwise what the buffer does.
pub struct View<'a> {
    buffer: &'a Large,
    pub map: Map,
    offset: usize,
    is_private: bool,
    /// By their indices in the mapping.
    copies: RefCell<BTreeMap<usize, Vec<u8>>>,
}

impl<'a> View<'a> {
    /// Stores bytes that are all in one page.
    pub fn write(&self, at: usize, bytes: &[u8]) {
        self.map.write(at, bytes);
        if !self.is_private {
            return self.buffer.changed(self.offset + at, bytes);
        }
        let (i, start) = (at / page(), at % page());
        let mut copies = self.copies.borrow_mut();
        let copy = copies
            .entry(i)
            .or_insert_with(|| self.buffer.expected(self.offset + i * page(), page()));
        copy[start..start + bytes.len()].copy_from_slice(bytes);
    }

    /// Stores to every page in the range.
    pub fn write_pages(&self, range: Range<usize>, word: u64) {
        for at in range.step_by(page()) {
            self.write(at + 64, &(word + at as u64).to_ne_bytes());
        }
    }

    /// How many pages have been copied.
    pub fn copies(&self) -> usize {
        self.copies.borrow().len()
    }

    /// Notes that copies in the range are dropped.
    pub fn forget_copies(&self, range: Range<usize>) {
        self.copies
            .borrow_mut()
            .retain(|i, _| !range.contains(&(i * page())));
    }

    /// MADV_DONTNEED on a part.
    pub fn drop_pages(&self, range: Range<usize>) {
        self.map
            .advise_part(range.start, range.len(), Advice::LinuxDontNeed)
            .expect("MADV_DONTNEED");
        self.forget_copies(range);
    }

    /// All of the mapping holds what it should, and so does the buffer.
    #[track_caller]
    pub fn check(&self) {
        self.check_part(0..self.map.len());
        self.buffer.check();
    }

    /// The mapping holds what it should there.
    #[track_caller]
    pub fn check_part(&self, range: Range<usize>) {
        let bytes = self.buffer.bytes.borrow();
        let copies = self.copies.borrow();
        for at in range.step_by(page()) {
            let expected = match copies.get(&(at / page())) {
                Some(copy) => copy,
                None => &bytes[self.offset + at..][..page()],
            };
            if let Some(place) = self.map.difference(at, expected) {
                let expected = &expected[place - at..][..8];
                let what = format!("page {} of the mapping", at / page());
                assert_same(&self.map.read(place, 8), expected, &what);
            }
        }
    }

    /// The mapping without the part, which is to lie elsewhere or to be gone; and the part.
    pub fn without(self, part: Range<usize>) -> (View<'a>, View<'a>, View<'a>) {
        let end = self.map.len();
        let piece = |range: Range<usize>| {
            let first = range.start / page();
            let copies = self.copies.borrow();
            let inside = copies
                .iter()
                .filter(|(i, _)| range.contains(&(**i * page())));
            let inside = inside.map(|(i, copy)| (i - first, copy.clone()));
            View {
                buffer: self.buffer,
                map: self.map.part(range.start, range.len()),
                offset: self.offset + range.start,
                is_private: self.is_private,
                copies: RefCell::new(inside.collect()),
            }
        };
        let pieces = (
            piece(0..part.start),
            piece(part.clone()),
            piece(part.end..end),
        );
        forget(self.map);
        pieces
    }
}

/// Runs `body` on a buffer of some folios of the largest kind and a rest, of a module that is loaded
/// anew for it: when it is unloaded, no page of it is left.
#[track_caller]
pub fn leaves_nothing(body: impl FnOnce(&Large)) {
    leaves_nothing_of(|| Large::new(2, 37), body);
}

/// The same with the buffer of a module that `load` loads.
#[track_caller]
pub fn leaves_nothing_of(load: impl FnOnce() -> Large, body: impl FnOnce(&Large)) {
    /// What caches and lists may keep; a folio that is held is many times that.
    const SLACK: i64 = 32;
    module::unload_if_loaded();
    let before = nobodys_pages();
    body(&load());
    assert_eq!(module::references(), 0, "references to the module");
    module::unload().expect("rmmod");
    // What io_uring has pinned goes a while after its ring.
    let left = || unsettled_nobodys_pages() - before;
    let left = settled(left, |left| *left < SLACK);
    assert!(left < SLACK, "{left} pages are left");
}

/// Both kinds of mappings.
pub const BOTH: [MapFlags; 2] = [SHARED, PRIVATE];
