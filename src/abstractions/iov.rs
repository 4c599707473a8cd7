// SPDX-License-Identifier: GPL-2.0

//! I/O vectors to and from folios.
//!
//! C header: [`include/linux/uio.h`](srctree/include/linux/uio.h)

use kernel::iov::{IovIterDest, IovIterSource};

use crate::abstractions::{bindings, mm::folio::Folio};

/// What [`IovIterDest`] has no method for.
pub(crate) trait IovIterDestExt {
    /// Copies the bytes of `folio` from `offset` on, `length` at most: `copy_folio_to_iter()`.
    ///
    /// Returns the number of bytes copied, less than asked for where the folio ends, or the
    /// destination can't be written or has no room. Bytes that change meanwhile are copied as they
    /// were at some moment.
    fn copy_from_folio(&mut self, folio: &Folio, offset: usize, length: usize) -> usize;
}

impl IovIterDestExt for IovIterDest<'_> {
    fn copy_from_folio(&mut self, folio: &Folio, offset: usize, length: usize) -> usize {
        let length = length.min(folio.size().saturating_sub(offset));
        // SAFETY: The bytes lie within the folio, whose first page the C routine takes for all of
        // it, and `self` is valid for writing. The routine puts up with concurrent changes to the
        // folio, as it does for every file that is mapped and read at once.
        unsafe { bindings::copy_page_to_iter(folio.as_ptr().cast(), offset, length, self.as_raw()) }
    }
}

/// What [`IovIterSource`] has no method for.
pub(crate) trait IovIterSourceExt {
    /// Copies to the bytes of `folio` from `offset` on, `length` at most:
    /// `copy_folio_from_iter()`.
    ///
    /// Returns the number of bytes copied, less than asked for where the folio ends, or the source
    /// can't be read or ends.
    fn copy_to_folio(&mut self, folio: &Folio, offset: usize, length: usize) -> usize;
}

impl IovIterSourceExt for IovIterSource<'_> {
    fn copy_to_folio(&mut self, folio: &Folio, offset: usize, length: usize) -> usize {
        let length = length.min(folio.size().saturating_sub(offset));
        let from = self.as_raw();
        let copy = |start: *mut u8, length| {
            // SAFETY: As in `copy_from_folio`, the other way round.
            unsafe { bindings::_copy_from_iter(start.cast(), length, from) }
        };
        folio.with_mapped(offset, length, copy).unwrap_or(0)
    }
}
