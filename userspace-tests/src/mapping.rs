// SPDX-License-Identifier: GPL-2.0
//! A window of the buffer in this process's memory.

use std::{
    ops::Range,
    os::fd::OwnedFd,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
};

use memmap2::{MmapOptions, MmapRaw};

use crate::{Error, Result};

/// Bytes of the unit in which the memory is accessed.
const WORD: usize = size_of::<AtomicU32>();

/// Whether writes through a mapping are everybody's or this process's alone.
///
/// ```
/// use rust_mmapdev::Sharing;
///
/// assert_ne!(Sharing::Shared, Sharing::Private);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// `MAP_SHARED`: the kernel's own bytes, for all to see.
    Shared,
    /// `MAP_PRIVATE`: a page is copied when it is first written to.
    Private,
}

/// What may be done through a mapping.
///
/// ```
/// use rust_mmapdev::Protection;
///
/// assert_ne!(Protection::Read, Protection::ReadWrite);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// `PROT_READ`
    Read,
    /// `PROT_READ | PROT_WRITE`
    ReadWrite,
}

/// A window of the buffer in this process's memory, unmapped when dropped.
///
/// It outlives the [`Device`](crate::Device) it came from. While it lives, the module cannot be
/// unloaded.
///
/// ```no_run
/// use rust_mmapdev::{Access, Device, Protection, Sharing};
///
/// let mapping = {
///     let device = Device::open(Access::ReadWrite)?;
///     device.map(Sharing::Shared, Protection::ReadWrite)?
/// };
/// mapping.write_at(0, b"hello")?;
/// let mut bytes = [0; 5];
/// mapping.read_at(0, &mut bytes)?;
/// # Ok::<(), rust_mmapdev::Error>(())
/// ```
///
/// # Memory that others write to
///
/// The kernel and other processes write to the buffer at any moment, and so may other threads of
/// this process, as a mapping is `Sync`. In Rust, a plain access that meets a write of another
/// thread is a data race, which is undefined behaviour; a volatile one is no better. So is an
/// atomic access that meets one of another size. Hence all accesses, the copies of
/// [`read_at`](Self::read_at) and [`write_at`](Self::write_at) as well as those through
/// [`atomic_u32`](Self::atomic_u32), are atomic ones of the same aligned words of four bytes, which
/// is the size that a futex has. Copies are relaxed: they order nothing. Where a copy begins or ends
/// within a word, a read takes its bytes out of the whole word, and a write exchanges the word
/// for one with its own bytes changed, so that no neighbour's byte is lost.
///
/// For the same reason there is no slice of the memory:
///
/// ```compile_fail,E0308
/// # fn f(mapping: &rust_mmapdev::Mapping) {
/// let bytes: &[u8] = mapping;
/// # }
/// ```
///
/// ```compile_fail,E0277
/// # fn f(mapping: &rust_mmapdev::Mapping) {
/// let first: u8 = mapping[0];
/// # }
/// ```
#[derive(Debug)]
pub struct Mapping {
    raw: MmapRaw,
    protection: Protection,
}

impl Mapping {
    pub(crate) fn new(
        fd: &OwnedFd,
        offset: u64,
        len: usize,
        sharing: Sharing,
        protection: Protection,
    ) -> Result<Self> {
        let mut options = MmapOptions::new();
        options.offset(offset).len(len);
        let raw = match (sharing, protection) {
            (Sharing::Shared, Protection::Read) => options.map_raw_read_only(fd),
            (Sharing::Shared, Protection::ReadWrite) => options.map_raw(fd),
            // SAFETY: memmap2 asks that nobody changes the file under the slices it hands out.
            // No slice is made: the mapping becomes a raw one at once.
            (Sharing::Private, Protection::Read) => unsafe {
                options.map_copy_read_only(fd).map(MmapRaw::from)
            },
            // SAFETY: as above.
            (Sharing::Private, Protection::ReadWrite) => unsafe {
                options.map_copy(fd).map(MmapRaw::from)
            },
        }
        .map_err(|source| Error::Map {
            offset,
            len,
            source,
        })?;
        Ok(Self { raw, protection })
    }

    /// Length in bytes.
    ///
    /// ```no_run
    /// # let device = rust_mmapdev::Device::open(rust_mmapdev::Access::Read)?;
    /// # use rust_mmapdev::{Protection, Sharing};
    /// let window = device.map_window(4096, 100, Sharing::Shared, Protection::Read)?;
    /// assert_eq!(window.len(), 100);
    /// # Ok::<(), rust_mmapdev::Error>(())
    /// ```
    // A mapping of no bytes cannot be made, so there is no `is_empty`.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Address of the first byte, for calls that take one, such as `msync` and `madvise`.
    ///
    /// The memory behind it may change at any moment: access it with atomics of four bytes only
    /// (see [above](Self#memory-that-others-write-to)), and write to it only when the mapping is
    /// writable.
    ///
    /// ```no_run
    /// # let device = rust_mmapdev::Device::open(rust_mmapdev::Access::ReadWrite)?;
    /// # use rust_mmapdev::{Protection, Sharing};
    /// use rustix::mm::{MsyncFlags, msync};
    ///
    /// let mapping = device.map(Sharing::Shared, Protection::ReadWrite)?;
    /// // SAFETY: the range is the mapping's.
    /// unsafe { msync(mapping.as_ptr().cast(), mapping.len(), MsyncFlags::SYNC) }.expect("msync");
    /// # Ok::<(), rust_mmapdev::Error>(())
    /// ```
    pub fn as_ptr(&self) -> *mut u8 {
        self.raw.as_mut_ptr()
    }

    /// Copies bytes from `offset` on into `buf`. Not atomic as a whole: a writer may get in
    /// between.
    ///
    /// ```no_run
    /// # let device = rust_mmapdev::Device::open(rust_mmapdev::Access::Read)?;
    /// # use rust_mmapdev::{Protection, Sharing};
    /// let mapping = device.map(Sharing::Shared, Protection::Read)?;
    /// let mut name = [0; 12];
    /// mapping.read_at(0, &mut name)?;
    /// assert_eq!(&name, b"rust_mmapdev");
    /// # Ok::<(), rust_mmapdev::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`].
    pub fn read_at(&self, offset: usize, mut buf: &mut [u8]) -> Result<()> {
        self.check_range(offset, buf.len())?;
        for (word, bytes) in self.words(offset, buf.len()) {
            let (part, rest) = buf.split_at_mut(bytes.len());
            part.copy_from_slice(&word.load(Relaxed).to_ne_bytes()[bytes]);
            buf = rest;
        }
        Ok(())
    }

    /// Copies `bytes` to `offset`. Not atomic as a whole: a reader may get in between.
    ///
    /// ```no_run
    /// # let device = rust_mmapdev::Device::open(rust_mmapdev::Access::ReadWrite)?;
    /// # use rust_mmapdev::{Protection, Sharing};
    /// let mapping = device.map(Sharing::Shared, Protection::ReadWrite)?;
    /// mapping.write_at(100, b"for all to see")?;
    /// # Ok::<(), rust_mmapdev::Error>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`] and [`Error::OutOfRange`].
    pub fn write_at(&self, offset: usize, mut bytes: &[u8]) -> Result<()> {
        self.check_writable()?;
        self.check_range(offset, bytes.len())?;
        for (word, places) in self.words(offset, bytes.len()) {
            let (part, rest) = bytes.split_at(places.len());
            bytes = rest;
            if let Ok(whole) = part.try_into() {
                word.store(u32::from_ne_bytes(whole), Relaxed);
                continue;
            }
            let with_part = |old: u32| {
                let mut new = old.to_ne_bytes();
                new[places.clone()].copy_from_slice(part);
                Some(u32::from_ne_bytes(new))
            };
            word.fetch_update(Relaxed, Relaxed, with_part)
                .expect("it always gives a word");
        }
        Ok(())
    }

    /// The four bytes at `offset` as an atomic, which is also what a futex needs.
    ///
    /// ```no_run
    /// # let device = rust_mmapdev::Device::open(rust_mmapdev::Access::ReadWrite)?;
    /// # use rust_mmapdev::{Protection, Sharing};
    /// use std::sync::atomic::Ordering::SeqCst;
    ///
    /// let mapping = device.map(Sharing::Shared, Protection::ReadWrite)?;
    /// mapping.atomic_u32(64)?.fetch_add(1, SeqCst);
    /// # Ok::<(), rust_mmapdev::Error>(())
    /// ```
    ///
    /// It cannot outlive the mapping:
    ///
    /// ```compile_fail,E0505
    /// # fn f(mapping: rust_mmapdev::Mapping) -> rust_mmapdev::Result<()> {
    /// let word = mapping.atomic_u32(64)?;
    /// drop(mapping);
    /// word.load(std::sync::atomic::Ordering::SeqCst);
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], [`Error::OutOfRange`] and [`Error::Unaligned`].
    pub fn atomic_u32(&self, offset: usize) -> Result<&AtomicU32> {
        self.check_writable()?;
        self.check_range(offset, WORD)?;
        let address = self.as_ptr().wrapping_add(offset).cast::<u32>();
        if !address.is_aligned() {
            return Err(Error::Unaligned(offset));
        }
        // SAFETY: the address is aligned and lies in the mapping, which is writable and stays
        // while the borrow of `self` lives; all accesses are atomic ones of this size.
        Ok(unsafe { AtomicU32::from_ptr(address) })
    }

    /// The words that hold `len` bytes from `offset` on, which lie in the mapping, each with the
    /// places of those bytes in it.
    fn words(&self, offset: usize, len: usize) -> impl Iterator<Item = (&AtomicU32, Range<usize>)> {
        // The mapping may begin within a word: the page that it lies in is mapped as a whole.
        let skew = self.as_ptr().addr() % WORD;
        let base = self.as_ptr().wrapping_sub(skew);
        let (start, end) = (skew + offset, skew + offset + len);
        let first = start - start % WORD;
        let count = if len == 0 {
            0
        } else {
            (end - first).div_ceil(WORD)
        };
        (0..count).map(move |i| {
            let at = first + i * WORD;
            // SAFETY: the address is aligned; the word lies in a page of the mapping, which stays
            // while the borrow of `self` lives. All accesses are atomic ones of this size, and
            // those of a mapping that is not writable relaxed loads, which read-only memory allows.
            let word = unsafe { AtomicU32::from_ptr(base.wrapping_add(at).cast()) };
            (word, start.max(at) - at..end.min(at + WORD) - at)
        })
    }

    fn check_writable(&self) -> Result<()> {
        match self.protection {
            Protection::ReadWrite => Ok(()),
            Protection::Read => Err(Error::ReadOnly),
        }
    }

    /// Whether `len` bytes from `offset` on lie in the mapping.
    fn check_range(&self, offset: usize, len: usize) -> Result<()> {
        let size = self.len();
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(()),
            _ => Err(Error::OutOfRange { offset, len, size }),
        }
    }
}
