// SPDX-License-Identifier: GPL-2.0

//! The buffer: its pages, and what `read`, `write` and CLEAR do with their bytes.

#![forbid(unsafe_code)]

use kernel::{
    iov::{IovIterDest, IovIterSource},
    new_mutex,
    page::PAGE_SIZE,
    prelude::*,
    sync::{
        atomic::{Atomic, Relaxed},
        Arc, Mutex,
    },
};

use crate::{
    abstractions::{shmem::ShmemPages, task::fatal_signal_pending},
    range,
};

/// What a fresh buffer starts with; zeros follow. A mapping that shows it is the kernel's page.
const INITIAL_CONTENT: &[u8] = b"rust_mmapdev: this text lives in kernel memory\0";

/// The memory behind `/dev/rust_mmapdev`.
#[pin_data]
pub(crate) struct Buffer {
    pages: ShmemPages,
    /// VMAs that map the buffer now, in all processes.
    live_mappings: Atomic<usize>,
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
        let pages = ShmemPages::new(c"rust_mmapdev", page_count).inspect_err(|e| {
            pr_err!("can't allocate {} pages: {:?}\n", page_count, e);
        })?;
        pages.store(0, INITIAL_CONTENT)?;
        Arc::pin_init(
            pin_init!(Self {
                pages,
                live_mappings: Atomic::new(0),
                writers <- new_mutex!(()),
            }),
            GFP_KERNEL,
        )
    }

    /// The pages, to be mapped.
    pub(crate) fn pages(&self) -> &ShmemPages {
        &self.pages
    }

    /// Number of pages.
    pub(crate) fn page_count(&self) -> usize {
        self.pages.len()
    }

    /// Size in bytes.
    pub(crate) fn size(&self) -> usize {
        self.page_count() * PAGE_SIZE
    }

    /// Number of VMAs that map the buffer now.
    pub(crate) fn live_mappings(&self) -> usize {
        self.live_mappings.load(Relaxed)
    }

    /// Counts a VMA that begins to map the buffer.
    pub(crate) fn mapping_opened(&self) {
        self.live_mappings.fetch_add(1, Relaxed);
    }

    /// Counts a VMA that no longer maps the buffer.
    pub(crate) fn mapping_closed(&self) {
        self.live_mappings.fetch_sub(1, Relaxed);
    }

    /// Copies from file position `position` on, up to the end of the buffer; see read(2).
    ///
    /// Returns the number of bytes copied, 0 at and past the end. EFAULT: the destination could
    /// not be written; EINTR: the caller is being killed.
    pub(crate) fn read(&self, position: i64, to: &mut IovIterDest<'_>) -> Result<usize> {
        match range::bytes(position, to.len(), self.size()) {
            Some(bytes) => transfer(bytes, |chunk| self.pages.copy_to_iter(chunk, to)),
            None => Ok(0),
        }
    }

    /// Copies to file position `position` on, up to the end of the buffer; see write(2).
    ///
    /// Returns the number of bytes copied. ENOSPC: the position is at the end or past it; EFAULT:
    /// the source could not be read; EINTR: the caller is being killed.
    pub(crate) fn write(&self, position: i64, from: &mut IovIterSource<'_>) -> Result<usize> {
        if from.is_empty() {
            return Ok(0);
        }
        let bytes = range::bytes(position, from.len(), self.size()).ok_or(ENOSPC)?;
        let _writers = self.writers.lock();
        transfer(bytes, |chunk| self.pages.copy_from_iter(chunk, from))
    }

    /// Zeroes all of it, from the start on. EINTR: the caller is being killed.
    pub(crate) fn clear(&self) -> Result {
        let _writers = self.writers.lock();
        for index in 0..self.page_count() {
            if fatal_signal_pending() {
                return Err(EINTR);
            }
            self.pages.clear(index)?;
        }
        Ok(())
    }
}

/// Has `copy` copy `bytes`, page by page, until it copies less than it was asked to.
fn transfer(
    bytes: core::ops::Range<usize>,
    mut copy: impl FnMut(range::Chunk) -> usize,
) -> Result<usize> {
    let wanted = bytes.len();
    let mut done = 0;
    for chunk in range::chunks(bytes, PAGE_SIZE) {
        if fatal_signal_pending() {
            return if done > 0 { Ok(done) } else { Err(EINTR) };
        }
        let copied = copy(chunk);
        done += copied;
        if copied < chunk.length {
            break;
        }
    }
    if done == 0 && wanted > 0 {
        return Err(EFAULT);
    }
    Ok(done)
}
