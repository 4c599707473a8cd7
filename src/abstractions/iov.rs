// SPDX-License-Identifier: GPL-2.0

//! I/O vectors to and from folios.
//!
//! C header: [`include/linux/uio.h`](srctree/include/linux/uio.h)

use kernel::{
    iov::{
        IovIterDest,
        IovIterSource, //
    },
    prelude::*, //
};

use crate::abstractions::{
    bindings,
    mm::folio::{
        Folio,
        LockedFolio, //
    }, //
};

/// What [`IovIterDest`] has no method for.
pub trait IovIterDestExt {
    /// Copies the bytes of `folio` from `offset` on, `length` at most: `copy_folio_to_iter()`.
    ///
    /// Returns the number of bytes copied, less than asked for where the folio ends or has a page
    /// with a memory error, or the destination can't be written or has no room. Bytes that change
    /// meanwhile are copied as they were at some moment.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::{iov::IovIterDest, prelude::*};
    /// use rust_mmapdev::abstractions::{iov::IovIterDestExt, mm::folio::Folio};
    ///
    /// /// EFAULT: not all of the folio could be copied.
    /// fn read_all(folio: &Folio, to: &mut IovIterDest<'_>) -> Result {
    ///     if to.copy_from_folio(folio, 0, folio.size()) < folio.size() {
    ///         return Err(EFAULT);
    ///     }
    ///     Ok(())
    /// }
    /// ```
    fn copy_from_folio(&mut self, folio: &Folio, offset: usize, length: usize) -> usize;
}

impl IovIterDestExt for IovIterDest<'_> {
    #[inline]
    fn copy_from_folio(&mut self, folio: &Folio, offset: usize, length: usize) -> usize {
        let length = folio.accessible(offset, length);
        if length == 0 {
            return 0;
        }
        // SAFETY: The bytes lie within the folio, whose first page the C routine takes for all of
        // it, and `self` is valid for writing. The routine puts up with concurrent changes to the
        // folio, as it does for every file that is mapped and read at once.
        unsafe { bindings::copy_page_to_iter(folio.as_ptr().cast(), offset, length, self.as_raw()) }
    }
}

/// What [`IovIterSource`] has no method for.
pub trait IovIterSourceExt {
    /// Copies to the bytes of `folio` from `offset` on, `length` at most:
    /// `copy_folio_from_iter_atomic()`.
    ///
    /// The lock keeps the folio from being moved: what is copied to it while its bytes are copied
    /// away is lost. So no fault is taken meanwhile, which might wait for the lock.
    ///
    /// Returns the number of bytes copied, less than asked for where the folio ends or has a page
    /// with a memory error, or the source ends or is not in memory: see [`Self::fault_in`].
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::iov::IovIterSource;
    /// use rust_mmapdev::abstractions::{iov::IovIterSourceExt, mm::pagemap::PageCache};
    ///
    /// /// Writes to the start of the cache, as much as its first folio takes.
    /// fn write(cache: &PageCache, from: &mut IovIterSource<'_>) -> usize {
    ///     while from.fault_in(1) {
    ///         let Some(folio) = cache.lock_folio(0) else {
    ///             return 0;
    ///         };
    ///         match from.copy_to_folio(&folio, 0, from.len()) {
    ///             // It left memory again.
    ///             0 => {}
    ///             copied => return copied,
    ///         }
    ///     }
    ///     0
    /// }
    /// ```
    ///
    /// It takes the lock:
    ///
    /// ```compile_fail,E0308
    /// use kernel::iov::IovIterSource;
    /// use rust_mmapdev::abstractions::{iov::IovIterSourceExt, mm::folio::Folio};
    ///
    /// fn write(folio: &Folio, from: &mut IovIterSource<'_>) -> usize {
    ///     from.copy_to_folio(folio, 0, from.len())
    /// }
    /// ```
    fn copy_to_folio(&mut self, folio: &LockedFolio, offset: usize, length: usize) -> usize;

    /// Brings the next bytes into memory, `length` at most: `fault_in_iov_iter_readable()`. May
    /// sleep.
    ///
    /// Returns whether there is a byte that can be read.
    fn fault_in(&mut self, length: usize) -> bool;
}

impl IovIterSourceExt for IovIterSource<'_> {
    #[inline]
    fn copy_to_folio(&mut self, folio: &LockedFolio, offset: usize, length: usize) -> usize {
        let length = folio.accessible(offset, length);
        if length == 0 {
            return 0;
        }
        // SAFETY: The bytes lie within the folio, and `self` is valid for reading. The C routine
        // puts up with concurrent changes to them.
        unsafe {
            bindings::copy_folio_from_iter_atomic(folio.as_ptr(), offset, length, self.as_raw())
        }
    }

    fn fault_in(&mut self, length: usize) -> bool {
        let length = length.min(self.len());
        // SAFETY: `self` is valid for reading.
        let left = unsafe { bindings::fault_in_iov_iter_readable(self.as_raw(), length) };
        left < length
    }
}

#[kunit_tests(rust_mmapdev_iov)]
mod tests {
    use core::mem::MaybeUninit;

    use kernel::page::PAGE_SIZE;

    use super::*;
    use crate::abstractions::mm::pagemap::PageCache;

    #[test]
    fn nothing_outside_of_a_folio_is_copied() -> Result {
        let pages = PageCache::new(c"kunit", 1)?;
        let folio = pages.lock_folio(0).ok_or(ENOENT)?;
        folio.store(PAGE_SIZE - 1, &[7])?;
        let mut bytes = [0u8; 4];
        let mut kvec = bindings::kvec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let mut iter = MaybeUninit::<bindings::iov_iter>::uninit();
        let iter = iter.as_mut_ptr();
        // SAFETY: The four bytes may be written, and read, while `iter` exists.
        unsafe { bindings::iov_iter_kvec(iter, bindings::ITER_DEST, &raw mut kvec, 1, 4) };
        // SAFETY: It was set up as a destination just now.
        let to = unsafe { IovIterDest::from_raw(iter) };
        let read = [PAGE_SIZE, PAGE_SIZE + 1, usize::MAX, PAGE_SIZE - 1]
            .map(|offset| to.copy_from_folio(&folio, offset, 4));
        // SAFETY: As above.
        unsafe { bindings::iov_iter_kvec(iter, bindings::ITER_SOURCE, &raw mut kvec, 1, 4) };
        // SAFETY: It was set up as a source just now.
        let from = unsafe { IovIterSource::from_raw(iter) };
        let written = [PAGE_SIZE, PAGE_SIZE + 1, usize::MAX, PAGE_SIZE - 1]
            .map(|offset| from.copy_to_folio(&folio, offset, 4));

        assert_eq!(read, [0, 0, 0, 1]);
        assert_eq!(written, [0, 0, 0, 1]);
        assert_eq!(bytes, [7, 0, 0, 0]);
        Ok(())
    }
}
