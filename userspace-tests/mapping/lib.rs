// SPDX-License-Identifier: GPL-2.0
//! Mappings as mmap(2) makes them, with every flag and every errno, and what the kernel says about
//! them: for the tests and the benchmark. The client library has its own.

use std::{
    ffi::c_void,
    fs::{self, File},
    hint::black_box,
    mem::ManuallyDrop,
    ops::Range,
    os::{fd::AsFd, unix::fs::FileExt},
    ptr,
    str::FromStr,
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

pub use rustix::mm::{Advice, MapFlags, MprotectFlags, ProtFlags};
use rustix::{
    io,
    mm::{self, MremapFlags},
    param::page_size,
};

pub const READ: ProtFlags = ProtFlags::READ;
pub const WRITE: ProtFlags = ProtFlags::WRITE;
pub const EXEC: ProtFlags = ProtFlags::EXEC;
pub const RW: ProtFlags = READ.union(WRITE);
pub const SHARED: MapFlags = MapFlags::SHARED;
pub const PRIVATE: MapFlags = MapFlags::PRIVATE;

// Advice that no library has a name for.
pub const COLLAPSE: i32 = 25;
pub const SOFT_OFFLINE: i32 = 101;
pub const GUARD_INSTALL: i32 = 102;
pub const GUARD_REMOVE: i32 = 103;

/// Size of a page in bytes.
pub fn page() -> usize {
    page_size()
}

/// What a page table maps, and so an entry of the table above it, in bytes: 2 MiB with 4 KiB pages.
pub fn table() -> usize {
    page() / size_of::<u64>() * page()
}

/// The addresses of a line of /proc/PID/maps.
pub fn vma_range(line: &str) -> Range<usize> {
    let address = |word| usize::from_str_radix(word, 16).expect("an address");
    let (range, _) = line.split_once(' ').expect("more than a range");
    let (start, end) = range.split_once('-').expect("a range");
    address(start)..address(end)
}

/// The value in a line `name: value` or `name value` of a file of /proc or of a cgroup, without the
/// unit kB.
pub fn field<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let value = line.trim_start().strip_prefix(name)?;
        let value = value.strip_prefix([':', ' '])?.trim();
        Some(value.strip_suffix(" kB").unwrap_or(value))
    })
}

/// A field that is a number.
#[track_caller]
pub fn number<T: FromStr>(text: &str, name: &str) -> T {
    let value = field(text, name).and_then(|value| value.parse().ok());
    value.unwrap_or_else(|| panic!("no number {name} in\n{text}"))
}

/// The result of a call through libc: -1 stands for errno.
pub fn system_call<T: TryInto<usize>>(result: T) -> io::Result<usize> {
    result.try_into().map_err(|_| {
        let error = std::io::Error::last_os_error();
        io::Errno::from_io_error(&error).expect("an error of the system")
    })
}

/// Copies `buf.len()` bytes from `source` on into `buf`, a word at a time where the memory is aligned
/// for it: a slice of memory that others write to would be undefined behaviour.
///
/// # Safety
///
/// The bytes are mapped, or the caller is to die of a signal.
pub unsafe fn copy_out(mut source: *const u8, mut buf: &mut [u8]) {
    while !buf.is_empty() {
        let step = if source.cast::<u64>().is_aligned() && buf.len() >= size_of::<u64>() {
            // SAFETY: aligned, and in the caller's range.
            let word = unsafe { source.cast::<u64>().read_volatile() };
            buf[..size_of::<u64>()].copy_from_slice(&word.to_ne_bytes());
            size_of::<u64>()
        } else {
            // SAFETY: in the caller's range.
            buf[0] = unsafe { source.read_volatile() };
            1
        };
        source = source.wrapping_add(step);
        buf = &mut buf[step..];
    }
}

/// Copies `bytes` to `target` likewise.
///
/// # Safety
///
/// As above; and no Rust reference points there.
pub unsafe fn copy_in(mut target: *mut u8, mut bytes: &[u8]) {
    while let Some(&byte) = bytes.first() {
        let step = match bytes.first_chunk() {
            Some(word) if target.cast::<u64>().is_aligned() => {
                let word = u64::from_ne_bytes(*word);
                // SAFETY: aligned, and in the caller's range.
                unsafe { target.cast::<u64>().write_volatile(word) };
                size_of::<u64>()
            }
            _ => {
                // SAFETY: in the caller's range.
                unsafe { target.write_volatile(byte) };
                1
            }
        };
        target = target.wrapping_add(step);
        bytes = &bytes[step..];
    }
}

/// A range of mapped memory, unmapped when dropped.
#[derive(Debug)]
pub struct Map {
    start: *mut u8,
    len: usize,
}

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

/// The same from the start, with a wish for the address.
pub fn mmap_at(
    address: usize,
    fd: impl AsFd,
    len: usize,
    prot: ProtFlags,
    flags: MapFlags,
) -> io::Result<Map> {
    mmap_there(address, fd, 0, len, prot, flags)
}

/// mmap(2) with a wish for the address, which `flags` may make a demand: then the range must be
/// free, or the caller's own.
pub fn mmap_there(
    address: usize,
    fd: impl AsFd,
    offset: u64,
    len: usize,
    prot: ProtFlags,
    flags: MapFlags,
) -> io::Result<Map> {
    let wish = ptr::without_provenance_mut(address);
    // SAFETY: as the caller says.
    let start = unsafe { mm::mmap(wish, len, prot, flags, fd, offset) }?;
    Ok(Map {
        start: start.cast(),
        len,
    })
}

/// mmap(2) at an address that is `skew` bytes past a multiple of [`table`].
#[track_caller]
pub fn mmap_skewed(
    skew: usize,
    fd: impl AsFd,
    offset: u64,
    len: usize,
    prot: ProtFlags,
    flags: MapFlags,
) -> Map {
    let address = skewed(skew, len).at(0) as usize;
    let flags = flags | MapFlags::FIXED_NOREPLACE;
    mmap_there(address, fd, offset, len, prot, flags).expect("mmap at a free address")
}

/// Anonymous memory at such an address.
pub fn skewed(skew: usize, len: usize) -> Map {
    let room = anonymous((len + 2 * table()) / page(), ProtFlags::empty(), PRIVATE);
    let start = (room.at(0) as usize).next_multiple_of(table()) + skew - room.at(0) as usize;
    for (offset, len) in [(0, start), (start + len, room.len - start - len)] {
        if len > 0 {
            room.unmap_part(offset, len).expect("munmap");
        }
    }
    let map = room.part(start, len);
    std::mem::forget(room);
    map
}

/// The first `pages` pages of the buffer, shared, for reading and writing.
#[track_caller]
pub fn shared(fd: impl AsFd, pages: usize) -> Map {
    mmap(fd, 0, pages * page(), RW, SHARED).expect("mmap shared")
}

/// The first `pages` pages of the buffer, private, for reading and writing.
#[track_caller]
pub fn private(fd: impl AsFd, pages: usize) -> Map {
    mmap(fd, 0, pages * page(), RW, PRIVATE).expect("mmap private")
}

/// `pages` pages of anonymous memory.
pub fn anonymous(pages: usize, prot: ProtFlags, flags: MapFlags) -> Map {
    try_anonymous(pages, prot, flags).expect("mmap anonymous")
}

/// The same where memory may have run out.
pub fn try_anonymous(pages: usize, prot: ProtFlags, flags: MapFlags) -> io::Result<Map> {
    mmap_anonymous_at(0, pages * page(), prot, flags)
}

/// Anonymous memory with a wish for the address, as above.
pub fn mmap_anonymous_at(
    address: usize,
    len: usize,
    prot: ProtFlags,
    flags: MapFlags,
) -> io::Result<Map> {
    let wish = ptr::without_provenance_mut(address);
    // SAFETY: as the caller says.
    let start = unsafe { mm::mmap_anonymous(wish, len, prot, flags) }?;
    Ok(Map {
        start: start.cast(),
        len,
    })
}

impl Map {
    /// mmap(2) over this range, which the device's pages take over.
    pub fn fixed(
        &self,
        fd: impl AsFd,
        offset: u64,
        prot: ProtFlags,
        flags: MapFlags,
    ) -> io::Result<()> {
        // SAFETY: the range belongs to `self`, and no reference into it is alive.
        unsafe {
            mm::mmap(
                self.raw(0),
                self.len,
                prot,
                flags | MapFlags::FIXED,
                fd,
                offset,
            )
        }?;
        Ok(())
    }

    // Empty is only one whose pages have been moved elsewhere.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Address of the byte at `offset`.
    pub fn at(&self, offset: usize) -> *mut u8 {
        assert!(offset <= self.len);
        self.start.wrapping_add(offset)
    }

    fn raw(&self, offset: usize) -> *mut c_void {
        self.at(offset).cast()
    }

    /// Copies bytes out.
    pub fn read(&self, offset: usize, len: usize) -> Vec<u8> {
        assert!(offset + len <= self.len);
        let mut bytes = vec![0; len];
        // SAFETY: the range lies in the mapping; where it is not readable the test is to die.
        unsafe { copy_out(self.at(offset), &mut bytes) };
        bytes
    }

    /// All of it.
    pub fn bytes(&self) -> Vec<u8> {
        self.read(0, self.len)
    }

    /// Copies bytes in.
    pub fn write(&self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        // SAFETY: the range lies in the mapping; where it is not writable the test is to die.
        unsafe { copy_in(self.at(offset), bytes) };
    }

    pub fn u32(&self, offset: usize) -> &AtomicU32 {
        assert!(offset % 4 == 0 && offset + 4 <= self.len);
        // SAFETY: aligned, in the mapping, and everybody uses atomics there.
        unsafe { AtomicU32::from_ptr(self.at(offset).cast()) }
    }

    pub fn u64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset % 8 == 0 && offset + 8 <= self.len);
        // SAFETY: as above.
        unsafe { AtomicU64::from_ptr(self.at(offset).cast()) }
    }

    /// The bytes as an argument for calls that want a slice of memory to read.
    ///
    /// # Safety
    ///
    /// For the length of one call that hands the address to the kernel.
    pub unsafe fn as_slice(&self, offset: usize, len: usize) -> &[u8] {
        assert!(offset + len <= self.len);
        // SAFETY: only the kernel looks behind the address.
        unsafe { std::slice::from_raw_parts(self.at(offset), len) }
    }

    /// The bytes as an argument for calls that want a slice of memory to write to.
    ///
    /// # Safety
    ///
    /// For the length of one call that hands the address to the kernel.
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn as_mut_slice(&self, offset: usize, len: usize) -> &mut [u8] {
        assert!(offset + len <= self.len);
        // SAFETY: only the kernel looks behind the address.
        unsafe { std::slice::from_raw_parts_mut(self.at(offset), len) }
    }

    /// madvise(2) on the whole range.
    pub fn advise(&self, advice: Advice) -> io::Result<()> {
        self.advise_part(0, self.len, advice)
    }

    pub fn advise_part(&self, offset: usize, len: usize, advice: Advice) -> io::Result<()> {
        // SAFETY: the range belongs to `self`, and its content is never relied on by Rust.
        unsafe { mm::madvise(self.raw(offset), len, advice) }
    }

    /// The same for advice of any kind.
    pub fn advise_by_number(&self, offset: usize, len: usize, advice: i32) -> io::Result<()> {
        assert!(offset + len <= self.len);
        // SAFETY: as above.
        system_call(unsafe { libc::madvise(self.raw(offset), len, advice) })?;
        Ok(())
    }

    /// mprotect(2) on the whole range.
    pub fn protect(&self, prot: MprotectFlags) -> io::Result<()> {
        self.protect_part(0, self.len, prot)
    }

    pub fn protect_part(&self, offset: usize, len: usize, prot: MprotectFlags) -> io::Result<()> {
        // SAFETY: the range belongs to `self`.
        unsafe { mm::mprotect(self.raw(offset), len, prot) }
    }

    /// mlock(2) of the whole range.
    pub fn lock(&self) -> io::Result<()> {
        self.lock_part(0, self.len)
    }

    pub fn lock_part(&self, offset: usize, len: usize) -> io::Result<()> {
        // SAFETY: locking changes nothing about what the memory holds.
        unsafe { mm::mlock(self.raw(offset), len) }
    }

    /// munlock(2) of the whole range.
    pub fn unlock(&self) -> io::Result<()> {
        self.unlock_part(0, self.len)
    }

    pub fn unlock_part(&self, offset: usize, len: usize) -> io::Result<()> {
        // SAFETY: as above.
        unsafe { mm::munlock(self.raw(offset), len) }
    }

    /// munmap(2) of a part, which is not accessed afterwards but by tests that are to die.
    pub fn unmap_part(&self, offset: usize, len: usize) -> io::Result<()> {
        // SAFETY: the range belongs to `self`.
        unsafe { mm::munmap(self.raw(offset), len) }
    }

    /// A part that mremap(2) is to take away, as an owner of its own.
    pub fn part(&self, offset: usize, len: usize) -> Map {
        assert!(offset + len <= self.len);
        Map {
            start: self.at(offset),
            len,
        }
    }

    /// mremap(2), in place unless `flags` allow another place.
    pub fn remap(&mut self, len: usize, flags: MremapFlags) -> io::Result<()> {
        // SAFETY: the range belongs to `self`, and no reference into it is alive.
        let start = unsafe { mm::mremap(self.raw(0), self.len, len, flags) }?;
        *self = Map {
            start: start.cast(),
            len,
        }
        .replacing(self);
        Ok(())
    }

    /// mremap(2) to free addresses.
    pub fn move_to(&mut self, address: usize) -> io::Result<()> {
        let place = Map {
            start: ptr::without_provenance_mut(address),
            len: self.len,
        };
        self.remap_onto(place)
    }

    /// mremap(2) onto the range of `place`.
    pub fn remap_onto(&mut self, place: Map) -> io::Result<()> {
        let moved = self.remap_part_onto(self.len, place, MremapFlags::empty())?;
        *self = moved.replacing(self);
        Ok(())
    }

    /// mremap(2) of the first `len` bytes onto the range of `place`. What becomes of them, by `len`
    /// and `flags`, the caller has to see to.
    pub fn remap_part_onto(&self, len: usize, place: Map, flags: MremapFlags) -> io::Result<Map> {
        // A call that fails may have unmapped it: then it is not ours any more.
        let place = ManuallyDrop::new(place);
        let flags = flags | MremapFlags::MAYMOVE;
        // SAFETY: both ranges belong to us, and no reference into them is alive.
        let moved = unsafe { mm::mremap_fixed(self.raw(0), len, place.len, flags, place.raw(0)) }?;
        assert_eq!(moved, place.raw(0), "mremap with MREMAP_FIXED");
        Ok(ManuallyDrop::into_inner(place))
    }

    /// The old owner of a range that the kernel has moved owns nothing any more.
    fn replacing(self, old: &mut Map) -> Map {
        old.len = 0;
        self
    }

    /// What /proc/self/smaps says about the VMA at the start of the mapping.
    pub fn smaps(&self) -> String {
        let smaps = fs::read_to_string("/proc/self/smaps").expect("smaps");
        let head = format!("{:x}-", self.start as usize);
        let start = smaps
            .find(&head)
            .unwrap_or_else(|| panic!("no VMA at {head} in\n{smaps}"));
        let vma = &smaps[start..];
        let end = vma.find("VmFlags:").expect("VmFlags");
        let end = end + vma[end..].find('\n').expect("a whole line");
        vma[..end].to_owned()
    }

    /// A field of `smaps` in KiB.
    pub fn smaps_kib(&self, field: &str) -> usize {
        number(&self.smaps(), field)
    }

    /// Sum of fields of smaps over all the VMAs in the range, in bytes.
    pub fn smaps_sum(&self, fields: &[&str]) -> usize {
        let Range { start, end } = self.start as usize..self.start as usize + self.len;
        let smaps = fs::read_to_string("/proc/self/smaps").expect("smaps");
        let (mut inside, mut kib) = (false, 0);
        for line in smaps.lines() {
            match line.split_once(':') {
                Some((field, value)) if fields.contains(&field) && inside => {
                    let value = value.trim().strip_suffix(" kB").expect("kB");
                    kib += value.parse::<usize>().expect("a number");
                }
                Some((field, _)) if !field.contains(' ') => {}
                _ => {
                    let vma = vma_range(line);
                    inside = vma.start < end && start < vma.end;
                }
            }
        }
        kib * 1024
    }

    /// How many bytes are mapped by entries of the table above the page tables.
    pub fn huge_bytes(&self) -> usize {
        self.smaps_sum(&["FilePmdMapped", "ShmemPmdMapped"])
    }

    /// How many page tables it reaches into, or entries for that much.
    pub fn tables(&self) -> usize {
        let (start, end) = (self.start as usize, self.start as usize + self.len);
        end.div_ceil(table()) - start / table()
    }

    /// Loads a byte.
    pub fn load(&self, offset: usize) {
        assert!(offset < self.len);
        // SAFETY: a byte of the mapping; where it is not readable the test is to die.
        unsafe { self.at(offset).read_volatile() };
    }

    /// Loads a byte of each page.
    pub fn load_pages(&self) {
        for offset in (0..self.len).step_by(page()) {
            self.load(offset);
        }
    }

    /// Stores to a word what it holds.
    pub fn store(&self, offset: usize) {
        // The compiler must not know that it is 0, or it leaves it out.
        self.u64(offset).fetch_add(black_box(0), Relaxed);
    }

    /// Stores to each page what it holds.
    pub fn store_pages(&self) {
        for offset in (0..self.len).step_by(page()) {
            self.store(offset);
        }
    }

    /// Where it first differs from the whole pages of `expected`, from `offset` on. Takes no memory.
    pub fn difference(&self, offset: usize, expected: &[u8]) -> Option<usize> {
        const WORD: usize = size_of::<u64>();
        assert!(offset % WORD == 0 && expected.len() % WORD == 0);
        assert!(offset + expected.len() <= self.len);
        let start = self.at(offset).cast::<u64>();
        let mut words = expected.chunks_exact(WORD).enumerate();
        let (i, _) = words.find(|&(i, word)| {
            // SAFETY: in the mapping; where it is not readable the test is to die.
            let found = unsafe { start.wrapping_add(i).read_volatile() };
            found.to_ne_bytes() != *word
        })?;
        Some(offset + i * WORD)
    }

    /// The entry of each page in /proc/self/pagemap.
    pub fn pagemap(&self) -> Vec<u64> {
        let pagemap = File::open("/proc/self/pagemap").expect("pagemap");
        (0..self.len.div_ceil(page()))
            .map(|i| {
                let mut entry = [0; 8];
                let index = self.start as u64 / page() as u64 + i as u64;
                pagemap
                    .read_exact_at(&mut entry, index * 8)
                    .expect("pagemap");
                u64::from_ne_bytes(entry)
            })
            .collect()
    }

    /// The page frame behind each page of the mapping, where one is in the page table.
    pub fn frames(&self) -> Vec<Option<u64>> {
        const PRESENT: u64 = 1 << 63;
        const FRAME: u64 = (1 << 55) - 1;
        let entries = self.pagemap().into_iter();
        entries
            .map(|entry| (entry & PRESENT != 0).then_some(entry & FRAME))
            .collect()
    }
}

impl Drop for Map {
    fn drop(&mut self) {
        if self.len > 0 {
            // SAFETY: the range belongs to `self`. A failure would leave it mapped.
            let _ = unsafe { mm::munmap(self.start.cast(), self.len) };
        }
    }
}

// SAFETY: a range of shared memory belongs to no thread; all accesses are volatile or atomic.
unsafe impl Send for Map {}
// SAFETY: as above.
unsafe impl Sync for Map {}
