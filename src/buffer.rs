// SPDX-License-Identifier: GPL-2.0

//! The buffer: its pages, and what `read`, `write` and CLEAR do with their bytes.

#![forbid(unsafe_code)]

use core::ops::{Deref, Range};

use kernel::{
    iov::{IovIterDest, IovIterSource},
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::{Arc, Mutex},
};

use crate::{
    abstractions::{
        iov::{IovIterDestExt, IovIterSourceExt},
        mm::{
            folio::{Folio, LockedFolio},
            pagemap::{PageCache, HUGE_FOLIO_SIZE},
        },
        task::fatal_signal_pending,
    },
    range,
};

/// What a fresh buffer starts with; zeros follow. A mapping that shows it is the kernel's page.
const INITIAL_CONTENT: &[u8] = b"rust_mmapdev: this text lives in kernel memory\0";

/// The memory behind `/dev/rust_mmapdev`.
#[pin_data]
pub(crate) struct Buffer {
    pages: PageCache,
    /// Two calls of write(2) do not mix their bytes, as on a regular file. Stores through a
    /// mapping take no lock, and reads take none either.
    #[pin]
    writers: Mutex<()>,
}

impl Buffer {
    /// Allocates a buffer of `page_count` pages with the initial content.
    ///
    /// ENOMEM: not enough memory; EINTR: the caller is being killed. Nothing stays allocated then.
    pub(crate) fn new(page_count: usize) -> Result<Arc<Self>> {
        let pages = PageCache::new(c"rust_mmapdev", page_count).inspect_err(|e| {
            pr_err!("can't allocate {} pages: {:?}\n", page_count, e);
        })?;
        pages.lock_folio(0).ok_or(EIO)?.store(0, INITIAL_CONTENT)?;
        Arc::pin_init(
            pin_init!(Self {
                pages,
                writers <- new_mutex!(()),
            }),
            GFP_KERNEL,
        )
    }

    /// The pages.
    pub(crate) fn pages(&self) -> &PageCache {
        &self.pages
    }

    /// Number of pages.
    pub(crate) fn page_count(&self) -> usize {
        self.pages.page_count()
    }

    /// Size in bytes.
    pub(crate) fn size(&self) -> usize {
        self.page_count() * PAGE_SIZE
    }

    /// Copies from file position `position` on, up to the end of the buffer; see read(2).
    ///
    /// Returns the number of bytes copied, 0 at and past the end. EFAULT: the destination could
    /// not be written; EIO: a memory error; EINTR: the caller is being killed.
    pub(crate) fn read(&self, position: i64, to: &mut IovIterDest<'_>) -> Result<usize> {
        match range::bytes(position, to.len(), self.size()) {
            Some(bytes) => self.transfer(bytes, PageCache::folio, |folio, offset, length| {
                to.copy_from_folio(folio, offset, length)
            }),
            None => Ok(0),
        }
    }

    /// Copies to file position `position` on, up to the end of the buffer; see write(2).
    ///
    /// Returns the number of bytes copied. ENOSPC: the position is at the end or past it; EFAULT:
    /// the source could not be read; EIO: a memory error; EINTR: the caller is being killed.
    pub(crate) fn write(&self, position: i64, from: &mut IovIterSource<'_>) -> Result<usize> {
        if from.is_empty() {
            return Ok(0);
        }
        let bytes = range::bytes(position, from.len(), self.size()).ok_or(ENOSPC)?;
        let _writers = self.writers.lock();
        let mut done = 0;
        while done < bytes.len() {
            let rest = bytes.start + done..bytes.end;
            // Of the source, what does not fit is let alone.
            let part = rest.len().min(HUGE_FOLIO_SIZE);
            let copy =
                |folio: &LockedFolio, offset, length| from.copy_to_folio(folio, offset, length);
            match self.transfer(rest, PageCache::lock_folio, copy) {
                Ok(count) => done += count,
                // The source was not in memory, and now it is.
                Err(e) if e == EFAULT && from.fault_in(part) => {}
                Err(e) if done == 0 => return Err(e),
                Err(_) => break,
            }
        }
        Ok(done)
    }

    /// Zeroes all of it, from the start on. EIO: all but what a memory error has taken; EINTR: the
    /// caller is being killed.
    pub(crate) fn clear(&self) -> Result {
        let _writers = self.writers.lock();
        let zero = |folio: &LockedFolio, offset, length| {
            let length = folio.accessible(offset, length);
            folio.zero_pages(offset, length).map_or(0, |()| length)
        };
        let (mut at, mut result) = (0, Ok(()));
        while at < self.size() {
            match self.transfer(at..self.size(), PageCache::lock_folio, zero) {
                Ok(done) => at += done,
                Err(e) if e == EIO => {
                    result = Err(e);
                    at += PAGE_SIZE;
                }
                Err(e) => return Err(e),
            }
        }
        result
    }

    /// Has `copy` copy `bytes`, folio by folio as `find` gives them, until it copies less than it was
    /// asked to, as it does where a page has a memory error.
    fn transfer<F: Deref<Target = Folio>>(
        &self,
        bytes: Range<usize>,
        find: impl Fn(&PageCache, usize) -> Option<F>,
        mut copy: impl FnMut(&F, usize, usize) -> usize,
    ) -> Result<usize> {
        let mut at = bytes.start;
        let reason = loop {
            if at == bytes.end {
                return Ok(bytes.len());
            }
            if fatal_signal_pending() {
                break EINTR;
            }
            let Some(folio) = find(&self.pages, at / PAGE_SIZE) else {
                break EIO;
            };
            let offset = at - folio.index() * PAGE_SIZE;
            let length = (bytes.end - at).min(folio.size() - offset);
            let copied = copy(&folio, offset, length);
            at += copied;
            if copied < length {
                let next = folio.accessible(offset + copied, 1);
                break if next == 0 { EIO } else { EFAULT };
            }
        };
        if at == bytes.start {
            return Err(reason);
        }
        Ok(at - bytes.start)
    }
}
