// SPDX-License-Identifier: GPL-2.0
//! Mappings, touched in few instructions: the same code for every peer.

use std::{ffi::c_void, mem::ManuallyDrop, os::fd::AsFd, ptr};

pub use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use rustix::{
    io,
    mm::{self, MremapFlags},
    param::page_size,
};

pub const RW: ProtFlags = ProtFlags::READ.union(ProtFlags::WRITE);
pub const SHARED: MapFlags = MapFlags::SHARED;
pub const PRIVATE: MapFlags = MapFlags::PRIVATE;

/// Size of a page in bytes.
pub fn page() -> usize {
    page_size()
}

/// What a page table maps, and so an entry of the table above it, in bytes: 2 MiB with 4 KiB pages.
pub fn table() -> usize {
    page() / size_of::<u64>() * page()
}

/// A range of mapped memory, unmapped when dropped. Others may change it at any moment.
pub struct Map {
    start: *mut u8,
    len: usize,
}

// SAFETY: what is done through `&self` is done by the kernel, or volatile.
unsafe impl Sync for Map {}

/// mmap(2).
pub fn mmap(
    fd: impl AsFd,
    offset: u64,
    len: usize,
    prot: ProtFlags,
    flags: MapFlags,
) -> io::Result<Map> {
    mmap_there(0, fd, offset, len, prot, flags)
}

/// mmap(2) with a wish for the address, which MAP_FIXED_NOREPLACE makes a demand.
pub fn mmap_there(
    address: usize,
    fd: impl AsFd,
    offset: u64,
    len: usize,
    prot: ProtFlags,
    flags: MapFlags,
) -> io::Result<Map> {
    assert!(!flags.contains(MapFlags::FIXED));
    let wish = ptr::without_provenance_mut(address);
    // SAFETY: without MAP_FIXED only free addresses are taken.
    let start = unsafe { mm::mmap(wish, len, prot, flags, fd, offset) }?;
    let start = start.cast();
    Ok(Map { start, len })
}

/// The same with anonymous memory.
pub fn mmap_anonymous_at(
    address: usize,
    len: usize,
    prot: ProtFlags,
    flags: MapFlags,
) -> io::Result<Map> {
    assert!(!flags.contains(MapFlags::FIXED));
    let wish = ptr::without_provenance_mut(address);
    // SAFETY: without MAP_FIXED only free addresses are taken.
    let start = unsafe { mm::mmap_anonymous(wish, len, prot, flags) }?;
    let start = start.cast();
    Ok(Map { start, len })
}

/// `pages` pages of anonymous memory.
pub fn anonymous(pages: usize, flags: MapFlags) -> Map {
    mmap_anonymous_at(0, pages * page(), RW, flags).expect("mmap of anonymous memory")
}

impl Map {
    /// Address of the first byte.
    pub fn start(&self) -> *mut u8 {
        self.start
    }

    pub fn len(&self) -> usize {
        self.len
    }

    fn raw(&self) -> *mut c_void {
        self.start.cast()
    }

    /// Writes a byte to each page.
    #[inline(never)]
    pub fn write_pages(&self) {
        let (start, len, page) = (self.start, self.len, page());
        let mut offset = 0;
        while offset < len {
            // SAFETY: in the mapping, which may be written to.
            unsafe { start.add(offset).write_volatile(1) };
            offset += page;
        }
    }

    /// Reads a byte of each page.
    #[inline(never)]
    pub fn read_pages(&self) {
        let (start, len, page) = (self.start, self.len, page());
        let mut offset = 0;
        while offset < len {
            // SAFETY: in the mapping, which may be read.
            unsafe { start.add(offset).read_volatile() };
            offset += page;
        }
    }

    /// Copies bytes out of the mapping, as a program would: memcpy(3).
    pub fn copy_out(&self, to: &mut [u8]) {
        assert!(to.len() <= self.len);
        // SAFETY: both ranges are that long. Nobody changes the mapping meanwhile.
        unsafe { libc::memcpy(to.as_mut_ptr().cast(), self.raw(), to.len()) };
    }

    /// Copies bytes into the mapping.
    pub fn copy_in(&self, from: &[u8]) {
        assert!(from.len() <= self.len);
        // SAFETY: both ranges are that long. Nobody uses the mapping meanwhile.
        unsafe { libc::memcpy(self.raw(), from.as_ptr().cast(), from.len()) };
    }

    /// madvise(2).
    pub fn advise(&self, advice: Advice) -> io::Result<()> {
        // SAFETY: the range belongs to `self`, and its content is never relied on by Rust.
        unsafe { mm::madvise(self.raw(), self.len, advice) }
    }

    /// mprotect(2).
    pub fn protect(&self, prot: MprotectFlags) -> io::Result<()> {
        // SAFETY: the range belongs to `self`.
        unsafe { mm::mprotect(self.raw(), self.len, prot) }
    }

    /// mremap(2) to free addresses.
    pub fn move_to(&mut self, address: usize) -> io::Result<()> {
        let place = ptr::without_provenance_mut(address);
        let flags = MremapFlags::MAYMOVE;
        // SAFETY: the range belongs to `self`, and the caller's addresses are free.
        let start = unsafe { mm::mremap_fixed(self.raw(), self.len, self.len, flags, place) }?;
        self.start = start.cast();
        Ok(())
    }

    /// A part of it, so many bytes from `offset` on, as a mapping of its own.
    pub fn part(&self, offset: usize, len: usize) -> ManuallyDrop<Map> {
        assert!(offset + len <= self.len);
        ManuallyDrop::new(Map {
            start: self.start.wrapping_add(offset),
            len,
        })
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        // SAFETY: the range belongs to `self`.
        unsafe { mm::munmap(self.raw(), self.len) }.expect("munmap");
    }
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
        let room = anonymous(2 * table() / page() + pages, PRIVATE);
        let start = room.start as usize;
        let hole = start.next_multiple_of(table()) - start + Self::ODD * page();
        let end = hole + pages * page();
        let room = ManuallyDrop::new(room);
        let neighbours = [hole - page(), end].map(|offset| room.part(offset, page()));
        for (from, to) in [(0, hole - page()), (hole, end), (end + page(), room.len())] {
            drop(ManuallyDrop::into_inner(room.part(from, to - from)));
        }
        neighbours.iter().for_each(|map| map.write_pages());
        Self {
            address: start + hole,
            _neighbours: neighbours.map(ManuallyDrop::into_inner),
        }
    }
}
