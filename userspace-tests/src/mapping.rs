// SPDX-License-Identifier: GPL-2.0
//! A window of the buffer in this process's memory.

use std::{os::fd::OwnedFd, sync::atomic::AtomicU32};

use memmap2::{MmapOptions, MmapRaw};

use crate::{Error, Result, volatile};

/// Whether writes through a mapping are everybody's or this process's alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sharing {
    /// `MAP_SHARED`: the kernel's own bytes, for all to see.
    Shared,
    /// `MAP_PRIVATE`: a page is copied when it is first written to.
    Private,
}

/// What may be done through a mapping.
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
    // A mapping of no bytes cannot be made, so there is no `is_empty`.
    #[allow(clippy::len_without_is_empty)]
    pub fn len(&self) -> usize {
        self.raw.len()
    }

    /// Address of the first byte. The memory behind it may change at any moment: access it with
    /// volatile or atomic operations only, and write to it only when the mapping is writable.
    pub fn as_ptr(&self) -> *mut u8 {
        self.raw.as_mut_ptr()
    }

    /// Copies bytes from `offset` on into `buf`. Not atomic: a writer may get in between.
    ///
    /// # Errors
    ///
    /// [`Error::OutOfRange`].
    pub fn read_at(&self, offset: usize, buf: &mut [u8]) -> Result<()> {
        let source = self.range(offset, buf.len())?;
        // SAFETY: the range lies in the mapping, which is readable and stays while `self` lives.
        unsafe { volatile::read(source, buf) };
        Ok(())
    }

    /// Copies `bytes` to `offset`. Not atomic: a reader may get in between.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`] and [`Error::OutOfRange`].
    pub fn write_at(&self, offset: usize, bytes: &[u8]) -> Result<()> {
        let target = self.writable(offset, bytes.len())?;
        // SAFETY: the range lies in the mapping, which is writable and stays while `self` lives.
        unsafe { volatile::write(target, bytes) };
        Ok(())
    }

    /// The four bytes at `offset` as an atomic, which is also what a futex needs.
    ///
    /// # Errors
    ///
    /// [`Error::ReadOnly`], [`Error::OutOfRange`] and [`Error::Unaligned`].
    pub fn atomic_u32(&self, offset: usize) -> Result<&AtomicU32> {
        let address = self.writable(offset, size_of::<AtomicU32>())?.cast::<u32>();
        if !address.is_aligned() {
            return Err(Error::Unaligned(offset));
        }
        // SAFETY: the address is aligned and lies in the mapping, which is writable and stays
        // while the borrow of `self` lives.
        Ok(unsafe { AtomicU32::from_ptr(address) })
    }

    fn writable(&self, offset: usize, len: usize) -> Result<*mut u8> {
        match self.protection {
            Protection::ReadWrite => self.range(offset, len),
            Protection::Read => Err(Error::ReadOnly),
        }
    }

    /// Address of `offset`, when `len` bytes from there on lie in the mapping.
    fn range(&self, offset: usize, len: usize) -> Result<*mut u8> {
        let size = self.len();
        match offset.checked_add(len) {
            Some(end) if end <= size => Ok(self.as_ptr().wrapping_add(offset)),
            _ => Err(Error::OutOfRange { offset, len, size }),
        }
    }
}
