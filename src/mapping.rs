// SPDX-License-Identifier: GPL-2.0

//! mmap(2) of the device, and the faults on its mappings.

#![forbid(unsafe_code)]

use kernel::{
    mm::virt::VmaNew,
    page::PAGE_SIZE,
    prelude::*,
    sync::{Arc, ArcBorrow},
};

use crate::{
    abstractions::mm::{
        folio::LockedFolio,
        virt::{FaultError, VmOperations, VmaNewExt, VmaOperations},
    },
    buffer::Buffer,
    range,
};

/// Sets up a new VMA. The page of a small one is in place in the end; others get theirs as they are
/// touched.
///
/// ENXIO: some of it lies past the end of the buffer; EPERM: it is executable; ENOMEM: no memory
/// for page tables.
pub(crate) fn mmap(buffer: &Buffer, vma: &VmaNew) -> Result<VmaOperations<Arc<Buffer>>> {
    let (first, count) = (vma.pgoff(), (vma.end() - vma.start()) / PAGE_SIZE);
    range::pages(first, count, buffer.page_count()).ok_or(ENXIO)?;
    // Without VM_MAYEXEC, which each new VMA begins with, the core does not merge it with a
    // neighbour before it has come here.
    vma.try_clear_mayexec().map_err(|_| EPERM)?;
    // A locked one is populated by the core, which counts what is locked.
    if count == 1 && !vma.locked() {
        if let Some(folio) = buffer.pages().lock_folio(first) {
            match vma.insert_page(vma.start(), &folio, first) {
                // A touch will tell.
                Err(e) if e == EIO => {}
                result => result?,
            }
        }
    }
    Ok(VmaOperations::of::<Faults>())
}

/// What happens when a mapping is touched where the page table has nothing.
struct Faults;

impl VmOperations for Faults {
    type Data = Arc<Buffer>;

    /// A grown mapping reaches past the end. Before it, a page can only be missing for a memory
    /// error.
    #[inline]
    fn fault(buffer: ArcBorrow<'_, Buffer>, index: usize) -> Result<LockedFolio, FaultError> {
        if index >= buffer.page_count() {
            return Err(FaultError::Sigbus);
        }
        buffer.pages().lock_folio(index).ok_or(FaultError::HwPoison)
    }
}

/// What user space can't see of a mapping: the counts in the folios, and who holds the buffer.
///
/// A failed assertion ends the thread without running destructors, so they stand at the end.
#[kunit_tests(rust_mmapdev_mapping)]
mod tests {
    use super::*;
    use crate::{
        abstractions::{
            kunit::{map_count, references, release_closed_files, AddressSpace, KernelFile},
            mm::pagemap::HUGE_FOLIO_SIZE,
        },
        device::Device,
    };

    /// The page table entries that lead to the folio at `index`, and the references to it.
    fn counts_at(buffer: &Buffer, index: usize) -> (i32, i32) {
        buffer.pages().folio(index).map_or((-1, -1), |folio| {
            // Without the one that was taken for this.
            (map_count(&folio), references(&folio) - 1)
        })
    }

    #[test]
    fn one_page_is_mapped_at_once_and_counted() -> Result {
        let buffer = Buffer::new(1)?;
        let file = KernelFile::new::<Device>(buffer.clone())?;
        let space = AddressSpace::new()?;
        let counts = || counts_at(&buffer, 0);
        let unmapped = counts();
        let shared = space.map_shared(&file, 1)?;
        let with_shared = counts();
        let private = space.map_private(&file, 1)?;
        let with_private = counts();
        private.page(0).writer().write(&1u8)?;
        let with_copy = counts();
        shared.zap()?;
        let zapped = counts();
        let first: u8 = shared.page(0).reader().read()?;
        shared.page(0).writer().write(&1u8)?;
        let touched = counts();
        private.zap()?;
        let _: u8 = private.page(0).reader().read()?;
        let private_again = counts();
        drop(shared);
        let without_shared = counts();
        drop(private);
        let in_the_end = counts();
        drop((space, file));
        let nobody_else_has_it = Arc::into_unique_or_drop(buffer).is_some();

        assert_eq!(unmapped, (0, 0));
        assert_eq!(with_shared, (1, 1));
        assert_eq!(with_private, (2, 2));
        assert_eq!(with_copy, (1, 1));
        assert_eq!(zapped, (0, 0));
        assert_eq!(first, b'r');
        assert_eq!(touched, (1, 1));
        assert_eq!(private_again, (2, 2));
        assert_eq!(without_shared, (1, 1));
        assert_eq!(in_the_end, (0, 0));
        assert!(nobody_else_has_it);
        Ok(())
    }

    /// Three pages, which stand in a folio of two and one of one, or in single ones.
    #[test]
    fn a_touch_maps_all_of_a_small_mapping() -> Result {
        const PAGES: usize = 3;
        let buffer = Buffer::new(PAGES)?;
        let file = KernelFile::new::<Device>(buffer.clone())?;
        let space = AddressSpace::new()?;
        let total = || {
            let (mut index, mut total) = (0, (0, 0));
            while index < PAGES {
                let (mapped, references) = counts_at(&buffer, index);
                total = (total.0 + mapped, total.1 + references);
                index += buffer.pages().folio(index).map_or(1, |f| 1 << f.order());
            }
            total
        };
        let shared = space.map_shared(&file, PAGES)?;
        let untouched = total();
        shared.page(2).writer().write(&1u8)?;
        let written = total();
        shared.zap()?;
        let zapped = total();
        let _: u8 = shared.page(1).reader().read()?;
        let read = total();
        let private = space.map_private(&file, PAGES)?;
        private.page(1).writer().write(&1u8)?;
        let copied = total();
        let _: u8 = private.page(0).reader().read()?;
        let others_read = total();
        drop((shared, private));
        let in_the_end = total();
        drop((space, file));

        assert_eq!(untouched, (0, 0));
        assert_eq!(written, (3, 3));
        assert_eq!(zapped, (0, 0));
        assert_eq!(read, (3, 3));
        assert_eq!(copied, (3, 3));
        assert_eq!(others_read, (5, 5));
        assert_eq!(in_the_end, (0, 0));
        Ok(())
    }

    #[test]
    fn a_huge_folio_is_mapped_by_one_entry() -> Result {
        const PAGES: usize = HUGE_FOLIO_SIZE / PAGE_SIZE;
        let buffer = Buffer::new(PAGES)?;
        if buffer.pages().huge_size() == 0 {
            pr_info!("no huge folio to be had, so none was tested\n");
            return Ok(());
        }
        let file = KernelFile::new::<Device>(buffer.clone())?;
        let space = AddressSpace::new()?;
        let counts = || counts_at(&buffer, 0);
        let shared = space.map_shared(&file, PAGES)?;
        shared.page(PAGES - 1).writer().write(&1u8)?;
        let written = counts();
        let private = space.map_private(&file, PAGES)?;
        let _: u8 = private.page(0).reader().read()?;
        let both = counts();
        private.page(7).writer().write(&1u8)?;
        // The entry is gone for a page table, in which there is the copy.
        let broken_up = counts();
        let _: u8 = private.page(0).reader().read()?;
        let by_pages = counts();
        drop(private);
        let without_private = counts();
        shared.zap()?;
        let zapped = counts();
        drop(shared);
        drop((space, file));

        assert_eq!(written, (1, 1));
        assert_eq!(both, (2, 2));
        assert_eq!(broken_up, (1, 1));
        assert_eq!(by_pages, (PAGES as i32, PAGES as i32));
        assert_eq!(without_private, (1, 1));
        assert_eq!(zapped, (0, 0));
        Ok(())
    }

    #[test]
    fn a_mapping_alone_holds_the_buffer() -> Result {
        let buffer = Buffer::new(3)?;
        let file = KernelFile::new::<Device>(buffer.clone())?;
        let space = AddressSpace::new()?;
        let shared = space.map_shared(&file, 3)?;
        drop(file);
        let nobody_else_has_it = Arc::into_unique_or_drop(buffer).is_some();
        let first: u8 = shared.page(0).reader().read()?;
        drop(shared);
        drop(space);
        release_closed_files();

        assert!(!nobody_else_has_it);
        assert_eq!(first, b'r');
        Ok(())
    }

    #[test]
    fn past_the_end_there_is_no_page() -> Result {
        let buffer = Buffer::new(1)?;
        let fault = |index| Faults::fault(buffer.as_arc_borrow(), index).err();

        assert!(fault(0).is_none());
        assert!(matches!(fault(1), Some(FaultError::Sigbus)));
        assert!(matches!(fault(usize::MAX), Some(FaultError::Sigbus)));
        Ok(())
    }
}
