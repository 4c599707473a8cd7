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

/// What user space can't see of a mapping: the counts in the pages, and who holds the buffer.
///
/// A failed assertion ends the thread without running destructors, so they stand at the end.
#[kunit_tests(rust_mmapdev_mapping)]
mod tests {
    use kernel::sync::Arc;

    use super::*;
    use crate::{
        abstractions::kunit::{
            map_count, references, release_closed_files, AddressSpace, KernelFile,
        },
        device::Device,
    };

    const PAGES: usize = 3;

    /// The VMAs, and for each page the PTEs that lead to it and the references to it.
    type Counts = (usize, [i32; PAGES], [i32; PAGES]);

    fn counts(buffer: &Buffer) -> Counts {
        let of_pages = |count: fn(&kernel::page::Page) -> i32| {
            core::array::from_fn(|i| buffer.pages().page(i).map_or(-1, |page| count(&page)))
        };
        (
            buffer.live_mappings(),
            of_pages(map_count),
            of_pages(references),
        )
    }

    #[test]
    fn every_pte_is_counted_in_its_page() -> Result {
        let buffer = Buffer::new(PAGES)?;
        let file = KernelFile::new::<Device>(buffer.clone())?;
        let space = AddressSpace::new()?;
        let unmapped = counts(&buffer);
        let shared = space.map_shared(&file, PAGES)?;
        let with_shared = counts(&buffer);
        let private = space.map_private(&file, PAGES)?;
        let with_private = counts(&buffer);
        private.page(1).writer().write(&1u8)?;
        let with_copy = counts(&buffer);
        drop(shared);
        let without_shared = counts(&buffer);
        drop(private);
        let in_the_end = counts(&buffer);
        drop(file);
        let nobody_else_has_it = Arc::into_unique_or_drop(buffer).is_some();

        // The page cache's reference and the buffer's.
        assert_eq!(unmapped, (0, [0; PAGES], [2; PAGES]));
        assert_eq!(with_shared, (1, [1; PAGES], [3; PAGES]));
        assert_eq!(with_private, (2, [2; PAGES], [4; PAGES]));
        assert_eq!(with_copy, (2, [2, 1, 2], [4, 3, 4]));
        assert_eq!(without_shared, (1, [1, 0, 1], [3, 2, 3]));
        assert_eq!(in_the_end, unmapped);
        assert!(nobody_else_has_it);
        Ok(())
    }

    #[test]
    fn a_fault_puts_the_page_itself_back() -> Result {
        let buffer = Buffer::new(PAGES)?;
        let file = KernelFile::new::<Device>(buffer.clone())?;
        let space = AddressSpace::new()?;
        let shared = space.map_shared(&file, PAGES)?;
        shared.zap()?;
        let zapped = counts(&buffer);
        let first: u8 = shared.page(0).reader().read()?;
        shared.page(2).writer().write(&1u8)?;
        let faulted = counts(&buffer);
        shared.page(2).writer().write(&2u8)?;
        let touched_again = counts(&buffer);
        drop((shared, file));

        assert_eq!(zapped, (1, [0; PAGES], [2; PAGES]));
        assert_eq!(first, b'r');
        assert_eq!(faulted, (1, [1, 0, 1], [3, 2, 3]));
        assert_eq!(touched_again, faulted);
        Ok(())
    }

    #[test]
    fn a_private_fault_lends_the_page_until_it_is_written_to() -> Result {
        let buffer = Buffer::new(PAGES)?;
        let file = KernelFile::new::<Device>(buffer.clone())?;
        let space = AddressSpace::new()?;
        let private = space.map_private(&file, PAGES)?;
        private.zap()?;
        let _: u8 = private.page(0).reader().read()?;
        let read = counts(&buffer);
        private.page(0).writer().write(&1u8)?;
        private.page(1).writer().write(&1u8)?;
        let written = counts(&buffer);
        private.zap()?;
        let zapped = counts(&buffer);
        drop((private, file));

        assert_eq!(read, (1, [1, 0, 0], [3, 2, 2]));
        assert_eq!(written, (1, [0; PAGES], [2; PAGES]));
        assert_eq!(zapped, written);
        Ok(())
    }

    #[test]
    fn a_mapping_alone_holds_the_buffer() -> Result {
        let buffer = Buffer::new(PAGES)?;
        let file = KernelFile::new::<Device>(buffer.clone())?;
        let space = AddressSpace::new()?;
        let shared = space.map_shared(&file, PAGES)?;
        drop(file);
        let nobody_else_has_it = Arc::into_unique_or_drop(buffer).is_some();
        shared.zap()?;
        let first: u8 = shared.page(0).reader().read()?;
        drop(shared);
        release_closed_files();

        assert!(!nobody_else_has_it);
        assert_eq!(first, b'r');
        Ok(())
    }
}
