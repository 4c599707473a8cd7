// SPDX-License-Identifier: GPL-2.0

//! mmap(2) of the device, and the faults on its mappings.

#![forbid(unsafe_code)]

use kernel::{mm::virt::VmaNew, page::PAGE_SIZE, prelude::*, sync::ArcBorrow};

use crate::{
    abstractions::vm_operations::{VmFault, VmOperations, VmaNewExt},
    buffer::Buffer,
    range,
};

/// Sets up a new VMA, with every page in place.
///
/// ENXIO: some of it lies past the end of the buffer; EPERM: it is executable; ENOMEM: no memory
/// for page tables.
pub(crate) fn mmap(buffer: ArcBorrow<'_, Buffer>, vma: &VmaNew) -> Result {
    let count = (vma.end() - vma.start()) / PAGE_SIZE;
    let pages = range::pages(vma.pgoff(), count, buffer.page_count()).ok_or(ENXIO)?;
    vma.try_clear_mayexec().map_err(|_| EPERM)?;
    // A grown VMA would reach past the end of the buffer.
    vma.set_dontexpand();
    buffer.pages().insert(vma.set_mixedmap(), pages)?;
    vma.set_operations(buffer.into());
    Ok(())
}

impl VmOperations for Buffer {
    fn open(&self) {
        self.mapping_opened();
    }

    fn close(&self) {
        self.mapping_closed();
    }

    /// Puts a page back that MADV_DONTNEED, or the like, took out of the page table.
    ///
    /// It goes in with the VMA's own protection, read-only where the mapping is private: the
    /// core copies it on the write that follows.
    fn fault(&self, fault: &VmFault<'_>) -> Result {
        let page = self.pages().page(fault.pgoff()).ok_or(EFAULT)?;
        let vma = fault.vma().as_mixedmap_vma().ok_or(EFAULT)?;
        vma.vm_insert_page(fault.address(), &page)
    }
}
