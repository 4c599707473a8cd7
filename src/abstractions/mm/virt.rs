// SPDX-License-Identifier: GPL-2.0

//! Virtual memory: the pages of a VMA, in advance and as they are touched.
//!
//! C headers: [`include/linux/mm.h`](srctree/include/linux/mm.h),
//! [`include/linux/huge_mm.h`](srctree/include/linux/huge_mm.h)

use core::marker::PhantomData;

use kernel::{
    error::to_result,
    mm::virt::{
        flags,
        VmaNew,
        VmaRef, //
    },
    page::PAGE_SIZE,
    prelude::*,
    types::ForeignOwnable, //
};

use crate::abstractions::{
    bindings,
    mm::folio::LockedFolio, //
};

/// Operations of the VMAs of a file whose pages are page cache: `struct vm_operations_struct`.
///
/// # Examples
///
/// ```
/// use kernel::sync::{Arc, ArcBorrow};
/// use rust_mmapdev::abstractions::mm::{
///     folio::LockedFolio,
///     pagemap::PageCache,
///     virt::{FaultError, VmOperations},
/// };
///
/// struct Faults;
///
/// impl VmOperations for Faults {
///     type Data = Arc<PageCache>;
///
///     fn fault(cache: ArcBorrow<'_, PageCache>, index: usize) -> Result<LockedFolio, FaultError> {
///         if index >= cache.page_count() {
///             return Err(FaultError::Sigbus);
///         }
///         cache.lock_folio(index).ok_or(FaultError::HwPoison)
///     }
/// }
/// ```
///
/// A fault that has found nothing does not succeed, and so is not made again for ever:
///
/// ```compile_fail,E0308
/// # use kernel::sync::{Arc, ArcBorrow};
/// # use rust_mmapdev::abstractions::mm::{
/// #     folio::LockedFolio,
/// #     pagemap::PageCache,
/// #     virt::{FaultError, VmOperations},
/// # };
/// # struct Faults;
/// impl VmOperations for Faults {
///     type Data = Arc<PageCache>;
///
///     fn fault(cache: ArcBorrow<'_, PageCache>, index: usize) -> Result<LockedFolio, FaultError> {
///         Ok(())
///     }
/// }
/// ```
///
/// A folio that is not locked could leave the file before it is mapped:
///
/// ```compile_fail,E0308
/// # use kernel::sync::{Arc, ArcBorrow};
/// # use rust_mmapdev::abstractions::mm::{
/// #     folio::LockedFolio,
/// #     pagemap::PageCache,
/// #     virt::{FaultError, VmOperations},
/// # };
/// # struct Faults;
/// impl VmOperations for Faults {
///     type Data = Arc<PageCache>;
///
///     fn fault(cache: ArcBorrow<'_, PageCache>, index: usize) -> Result<LockedFolio, FaultError> {
///         cache.folio(index).ok_or(FaultError::HwPoison)
///     }
/// }
/// ```
///
/// Many threads fault at once:
///
/// ```compile_fail,E0277
/// # use core::cell::Cell;
/// # use kernel::prelude::*;
/// # use rust_mmapdev::abstractions::mm::{
/// #     folio::LockedFolio,
/// #     virt::{FaultError, VmOperations},
/// # };
/// # struct Faults;
/// impl VmOperations for Faults {
///     type Data = KBox<Cell<usize>>;
///
///     fn fault(count: &Cell<usize>, _index: usize) -> Result<LockedFolio, FaultError> {
///         count.set(count.get() + 1);
///         Err(FaultError::Sigbus)
///     }
/// }
/// ```
pub trait VmOperations {
    /// The private data of the file. Faults come from many threads at once.
    type Data: ForeignOwnable + Send + Sync + 'static;

    /// An access found no page: gives the folio that has the page at `index` of the file.
    ///
    /// May sleep. A folio without the page, or of another file's page cache, is taken for
    /// [`FaultError::Sigbus`].
    fn fault(
        data: <Self::Data as ForeignOwnable>::Borrowed<'_>,
        index: usize,
    ) -> Result<LockedFolio, FaultError>;
}

/// Why there is no page: `enum vm_fault_reason`. A system call that was to access it fails with
/// EFAULT, a process gets a signal.
#[derive(Clone, Copy)]
pub enum FaultError {
    /// It lies past the end of the file: SIGBUS with BUS_ADRERR.
    Sigbus,
    /// A memory error has taken it: SIGBUS with BUS_MCEERR_AR.
    HwPoison,
}

impl FaultError {
    fn reason(self) -> Reason {
        match self {
            Self::Sigbus => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
            Self::HwPoison => bindings::vm_fault_reason_VM_FAULT_HWPOISON,
        }
    }
}

/// The [`VmOperations`] of a VMA of a file with private data `P`. An mmap handler returns them, and
/// its caller, which knows the file, installs them.
///
/// # Invariants
///
/// `table` is that of an implementation of [`VmOperations`] whose data is `P`.
///
/// # Examples
///
/// ```
/// use kernel::{mm::virt::VmaNew, prelude::*, sync::Arc};
/// use rust_mmapdev::abstractions::mm::{pagemap::PageCache, virt::VmaOperations};
/// # use kernel::sync::ArcBorrow;
/// # use rust_mmapdev::abstractions::mm::{
/// #     folio::LockedFolio,
/// #     virt::{FaultError, VmOperations},
/// # };
/// # struct Faults;
/// # impl VmOperations for Faults {
/// #     type Data = Arc<PageCache>;
/// #     fn fault(_: ArcBorrow<'_, PageCache>, _: usize) -> Result<LockedFolio, FaultError> {
/// #         Err(FaultError::Sigbus)
/// #     }
/// # }
///
/// fn mmap(vma: &VmaNew) -> Result<VmaOperations<Arc<PageCache>>> {
///     vma.try_clear_mayexec()?;
///     Ok(VmaOperations::of::<Faults>())
/// }
/// ```
///
/// They are no operations for a file with other private data:
///
/// ```compile_fail,E0308
/// # use kernel::{prelude::*, sync::{Arc, ArcBorrow}};
/// # use rust_mmapdev::abstractions::mm::{
/// #     folio::LockedFolio,
/// #     pagemap::PageCache,
/// #     virt::{FaultError, VmOperations, VmaOperations},
/// # };
/// # struct Faults;
/// # impl VmOperations for Faults {
/// #     type Data = Arc<PageCache>;
/// #     fn fault(_: ArcBorrow<'_, PageCache>, _: usize) -> Result<LockedFolio, FaultError> {
/// #         Err(FaultError::Sigbus)
/// #     }
/// # }
/// fn mmap() -> VmaOperations<KBox<PageCache>> {
///     VmaOperations::of::<Faults>()
/// }
/// ```
///
/// Only who calls the mmap handler installs them:
///
/// ```compile_fail,E0624
/// # use kernel::{mm::virt::VmaNew, sync::Arc};
/// # use rust_mmapdev::abstractions::mm::{pagemap::PageCache, virt::VmaOperations};
/// fn mmap(vma: &VmaNew, operations: VmaOperations<Arc<PageCache>>) {
///     unsafe { operations.install(vma) };
/// }
/// ```
///
/// And only what implements the trait is in their table:
///
/// ```compile_fail,E0451
/// # use core::marker::PhantomData;
/// # use kernel::{bindings::vm_operations_struct, sync::Arc};
/// # use rust_mmapdev::abstractions::mm::{pagemap::PageCache, virt::VmaOperations};
/// fn made_up(table: &'static vm_operations_struct) -> VmaOperations<Arc<PageCache>> {
///     VmaOperations { table, _data: PhantomData }
/// }
/// ```
pub struct VmaOperations<P: ForeignOwnable> {
    table: &'static bindings::vm_operations_struct,
    _data: PhantomData<P>,
}

impl<P: ForeignOwnable> VmaOperations<P> {
    /// The operations that `T` implements.
    pub fn of<T: VmOperations<Data = P>>() -> Self {
        // INVARIANT: It is that of `T`.
        Self {
            table: &VmOperationsVTable::<T>::VTABLE,
            _data: PhantomData,
        }
    }

    /// Gives them to a VMA.
    ///
    /// EINVAL: it has VM_MIXEDMAP, with which the core does not take PMD entries for a file's.
    ///
    /// # Safety
    ///
    /// The VMA's file must hold the module that the operations are in, and its private data be a
    /// foreign `P` for as long as the file exists.
    pub(crate) unsafe fn install(self, vma: &VmaNew) -> Result {
        if vma.flags() & flags::MIXEDMAP != 0 {
            return Err(EINVAL);
        }
        // SAFETY: By its type invariants the VMA is being set up, so that nobody else uses this
        // field. What the table expects is what the caller promises, by the type invariants.
        unsafe { (*vma.as_ptr()).vm_ops = self.table };
        Ok(())
    }
}

/// What [`VmaNew`] has no method for.
///
/// # Examples
///
/// ```
/// use kernel::{mm::virt::VmaNew, page::PAGE_SIZE, prelude::*};
/// use rust_mmapdev::abstractions::mm::{pagemap::PageCache, virt::VmaNewExt};
///
/// /// Maps one page at once. ENXIO: there is no such page.
/// fn map_one(cache: &PageCache, vma: &VmaNew) -> Result {
///     if vma.end() - vma.start() > PAGE_SIZE || vma.locked() {
///         return Err(EINVAL);
///     }
///     let folio = cache.lock_folio(vma.pgoff()).ok_or(ENXIO)?;
///     vma.insert_page(vma.start(), &folio, vma.pgoff())
/// }
/// ```
///
/// Without its lock the folio may be on its way to another place in memory, and what is stored
/// through the mapping is lost:
///
/// ```compile_fail,E0308
/// # use kernel::{mm::virt::VmaNew, prelude::*};
/// # use rust_mmapdev::abstractions::mm::{pagemap::PageCache, virt::VmaNewExt};
/// fn map_one(cache: &PageCache, vma: &VmaNew) -> Result {
///     let folio = cache.folio(vma.pgoff()).ok_or(ENXIO)?;
///     vma.insert_page(vma.start(), &folio, vma.pgoff())
/// }
/// ```
///
/// A VMA is new while the mmap handler runs and no longer:
///
/// ```compile_fail,E0521
/// # use kernel::mm::virt::VmaNew;
/// # fn keep(_vma: &'static VmaNew) {}
/// fn mmap(vma: &VmaNew) {
///     keep(vma);
/// }
/// ```
///
/// And on the thread that made it:
///
/// ```compile_fail,E0277
/// # use kernel::mm::virt::VmaNew;
/// # fn give_away<T: Send>(_: T) {}
/// fn mmap(vma: &VmaNew) {
///     give_away(vma);
/// }
/// ```
///
/// One that processes use already is not one:
///
/// ```compile_fail,E0599
/// # use kernel::{mm::virt::VmaRef, prelude::*};
/// # use rust_mmapdev::abstractions::mm::{folio::LockedFolio, virt::VmaNewExt};
/// fn later(vma: &VmaRef, folio: &LockedFolio) -> Result {
///     vma.insert_page(vma.start(), folio, 0)
/// }
/// ```
pub trait VmaNewExt {
    /// Index in the file of the first page of the VMA: `vm_pgoff`.
    fn pgoff(&self) -> usize;

    /// Whether pages are to be locked as they are mapped: `VM_LOCKED`.
    fn locked(&self) -> bool;

    /// Maps the page at `index` of the file, which is one of `folio`, at `address`:
    /// `vm_insert_page()`.
    ///
    /// It goes in with the VMA's own protection, read-only where the mapping is private. The VMA
    /// stays an ordinary one.
    ///
    /// EINVAL: it is no page of the folio, or the folio none of the file's; EFAULT: the address is
    /// outside of the VMA; EBUSY: something is mapped there; ENOMEM: no memory for page tables;
    /// EIO: the page has a memory error.
    fn insert_page(&self, address: usize, folio: &LockedFolio, index: usize) -> Result;
}

impl VmaNewExt for VmaNew {
    fn pgoff(&self) -> usize {
        // SAFETY: By the type invariants the VMA is valid and its mmap lock is held, so this is
        // not a data race.
        unsafe { (*self.as_ptr()).vm_pgoff }
    }

    fn locked(&self) -> bool {
        self.flags() & bindings::VM_LOCKED != 0
    }

    fn insert_page(&self, address: usize, folio: &LockedFolio, index: usize) -> Result {
        let page = folio.file_page(index).ok_or(EINVAL)?;
        // SAFETY: By the type invariants the VMA is valid and its mmap lock is held; it keeps its
        // file.
        let mapping = unsafe { (*self.as_ptr()).vm_file.as_ref().map(|file| file.f_mapping) };
        // Another file does not know who maps its pages, and frees them all the same in the end.
        if !mapping.is_some_and(|mapping| folio.belongs_to(mapping)) {
            return Err(EINVAL);
        }
        if folio.accessible((index - folio.index()) * PAGE_SIZE, PAGE_SIZE) == 0 {
            return Err(EIO);
        }
        let before = self.flags();
        self.set_mixedmap();
        // SAFETY: By the type invariants the VMA is valid and its mmap lock is held, and
        // VM_MIXEDMAP is set, so that its flags are not written. The page is one in use and
        // without a type. What goes into the page table has a reference of its own and is known to
        // the reverse mapping, as what a fault puts there; as there, the folio is locked, so that
        // it is not being moved: `folio_expected_ref_count()` takes each page table entry for one
        // that the move has seen.
        let errno = unsafe { bindings::vm_insert_page(self.as_ptr(), address, page.as_ptr()) };
        // SAFETY: By the type invariants the VMA is being set up, so that nobody else uses its
        // flags, and these are the ones it had. VM_MIXEDMAP stands for pages without a reference
        // or a `struct page`, of which there are none, unless it was set before.
        unsafe { (*self.as_ptr()).__bindgen_anon_2.vm_flags = before };
        to_result(errno)
    }
}

struct VmOperationsVTable<T>(PhantomData<T>);

/// The C functions' result: bits of `enum vm_fault_reason`.
type Reason = bindings::vm_fault_t;

impl<T: VmOperations> VmOperationsVTable<T> {
    const VTABLE: bindings::vm_operations_struct = bindings::vm_operations_struct {
        fault: Some(Self::fault),
        #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
        huge_fault: Some(Self::huge_fault),
        map_pages: Some(Self::map_pages),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `vmf` must be a fault in a VMA with this table, which is locked for reading at least.
    #[inline(always)]
    unsafe fn folio(
        vmf: *const bindings::vm_fault,
        index: usize,
    ) -> Result<LockedFolio, FaultError> {
        // SAFETY: The VMA is locked and so keeps its file. By the promise made when the table was
        // installed, its private data is this, and stays for as long as the file.
        let (data, mapping) = unsafe {
            let file = (*vma(vmf)).vm_file;
            (T::Data::borrow((*file).private_data), (*file).f_mapping)
        };
        // Another file does not know who maps its pages, and frees them all the same in the end.
        match T::fault(data, index) {
            Ok(folio) if !folio.belongs_to(mapping) => Err(FaultError::Sigbus),
            result => result,
        }
    }

    /// # Safety
    ///
    /// To be called by the core for a fault in a VMA with this table.
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> Reason {
        // SAFETY: The fault is valid, and its VMA locked. The core has allocated a page table.
        unsafe {
            // The core looks at the pages around for reads only.
            if is_shared_write(vmf) && !is_tracked(vma(vmf)) {
                let reason = map_around(vmf);
                if reason != 0 {
                    return reason;
                }
            }
            let index = pgoff(vmf);
            match Self::folio(vmf, index) {
                Ok(folio) => match folio.file_page(index) {
                    Some(page) => {
                        // The core puts and unlocks it.
                        (*vmf).page = page.as_ptr();
                        folio.into_raw();
                        bindings::vm_fault_reason_VM_FAULT_LOCKED
                    }
                    None => FaultError::Sigbus.reason(),
                },
                Err(e) => e.reason(),
            }
        }
    }

    /// # Safety
    ///
    /// To be called by the core for a fault in a VMA with this table, with a page table at hand.
    unsafe extern "C" fn map_pages(
        vmf: *mut bindings::vm_fault,
        _start: usize,
        _end: usize,
    ) -> Reason {
        // SAFETY: By the requirements of this function.
        unsafe { map_around(vmf) }
    }

    /// Maps folios by one PMD entry each, the one that was accessed and those around it.
    ///
    /// An entry gets the VMA's own protection, with which the access is made again: it may write
    /// then, unless somebody tracks writes or the VMA is private.
    ///
    /// # Safety
    ///
    /// To be called by the core for a fault in a VMA with this table where there is no page table
    /// yet, or a PMD entry that is not writable.
    #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
    unsafe extern "C" fn huge_fault(vmf: *mut bindings::vm_fault, order: u32) -> Reason {
        // SAFETY: The fault is valid, and its VMA locked. The entry changes under a lock of its
        // own, hence volatile.
        unsafe {
            if order != bindings::PMD_ORDER
                || (is_write(vmf) && (!is_shared_write(vmf) || is_tracked(vma(vmf))))
                // An entry that does not let the access pass: the core takes it away.
                || (*vmf).pmd.read_volatile().pmd != 0
            {
                return bindings::vm_fault_reason_VM_FAULT_FALLBACK;
            }
            let reason = Self::map_huge(vmf);
            if reason == bindings::vm_fault_reason_VM_FAULT_NOPAGE {
                Self::map_huge_around(vmf);
            }
            reason
        }
    }

    /// Maps the folio that was accessed, if it can be mapped by a PMD entry. What stands there by
    /// now is left alone.
    ///
    /// # Safety
    ///
    /// As for `huge_fault`. `vmf` may also stand for an access that might be made.
    #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
    #[inline]
    unsafe fn map_huge(vmf: *mut bindings::vm_fault) -> Reason {
        // SAFETY: The fault is valid, and its VMA locked.
        unsafe {
            let window = window(vmf);
            if window.pages != bindings::PMD_SIZE / PAGE_SIZE {
                return bindings::vm_fault_reason_VM_FAULT_FALLBACK;
            }
            match Self::folio(vmf, window.pgoff) {
                // Locked, it is neither split nor taken away meanwhile.
                Ok(folio)
                    if folio.order() == bindings::PMD_ORDER
                        && folio.index() == window.pgoff
                        && !folio.has_hwpoisoned() =>
                {
                    // Not for writing: that would have the C function warn of a page table that
                    // somebody else puts there meanwhile.
                    bindings::vmf_insert_folio_pmd(vmf, folio.as_ptr(), false)
                }
                _ => bindings::vm_fault_reason_VM_FAULT_FALLBACK,
            }
        }
    }

    /// Maps what stands around the folio that was accessed, as the core does with single pages.
    ///
    /// # Safety
    ///
    /// As for `huge_fault`.
    #[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
    unsafe fn map_huge_around(vmf: *const bindings::vm_fault) {
        // SAFETY: The fault is valid, and its VMA locked.
        let (vma, address) =
            unsafe { (VmaRef::from_raw(vma(vmf)), (*vmf).__bindgen_anon_1.address) };
        // Entries are counted from address 0 on. These stand in one page, as they are an aligned
        // part of it.
        let accessed = address / bindings::PMD_SIZE;
        let first = accessed - accessed % HUGE_FAULT_AROUND;
        let begin = first.max(vma.start().div_ceil(bindings::PMD_SIZE));
        let end = (first + HUGE_FAULT_AROUND).min(vma.end() / bindings::PMD_SIZE);
        for entry in begin..end {
            if entry == accessed {
                continue;
            }
            // SAFETY: The fault is valid.
            let mut around = unsafe { *vmf };
            let pages =
                (entry * bindings::PMD_SIZE).wrapping_sub(address) as isize / PAGE_SIZE as isize;
            around.__bindgen_anon_1.address = entry * bindings::PMD_SIZE;
            around.__bindgen_anon_1.pgoff =
                around.__bindgen_anon_1.pgoff.wrapping_add_signed(pages);
            around.pmd = around.pmd.wrapping_add(entry).wrapping_sub(accessed);
            // SAFETY: The entry belongs to this address of the VMA, whose page tables of this level
            // stay while it is locked. The function expects no more of a fault than it has here.
            unsafe { Self::map_huge(&raw mut around) };
        }
    }
}

/// How many PMD entries are filled at once, a power of two: as many as pages are by the core's
/// `fault_around_bytes`.
#[cfg(CONFIG_TRANSPARENT_HUGEPAGE)]
const HUGE_FAULT_AROUND: usize = 16;

/// The VMA of a fault.
///
/// # Safety
///
/// `vmf` must be valid.
#[inline]
unsafe fn vma(vmf: *const bindings::vm_fault) -> *const bindings::vm_area_struct {
    // SAFETY: By the requirements of this function.
    unsafe { (*vmf).__bindgen_anon_1.vma }
}

/// Index in the file of the page that was accessed.
///
/// # Safety
///
/// `vmf` must be valid.
#[inline]
unsafe fn pgoff(vmf: *const bindings::vm_fault) -> usize {
    // SAFETY: By the requirements of this function.
    unsafe { (*vmf).__bindgen_anon_1.pgoff }
}

/// # Safety
///
/// `vmf` must be valid.
#[inline]
unsafe fn is_write(vmf: *const bindings::vm_fault) -> bool {
    // SAFETY: By the requirements of this function.
    unsafe { (*vmf).flags & bindings::fault_flag_FAULT_FLAG_WRITE != 0 }
}

/// # Safety
///
/// `vmf` must be valid, and its VMA locked for reading at least.
#[inline]
unsafe fn is_shared_write(vmf: *const bindings::vm_fault) -> bool {
    // SAFETY: By the requirements of this function.
    unsafe { is_write(vmf) && vm_flags(vma(vmf)) & flags::SHARED != 0 }
}

/// # Safety
///
/// `vma` must be valid, and locked for reading at least.
#[inline]
unsafe fn vm_flags(vma: *const bindings::vm_area_struct) -> bindings::vm_flags_t {
    // SAFETY: By the requirements of this function.
    unsafe { (*vma).__bindgen_anon_2.vm_flags }
}

/// Whether somebody wants to know which pages are written to, so that a write to one must not make
/// others writable: userfaultfd, or soft-dirty bits that were cleared.
///
/// # Safety
///
/// `vma` must be valid, and locked for reading at least.
#[inline]
unsafe fn is_tracked(vma: *const bindings::vm_area_struct) -> bool {
    // SAFETY: By the requirements of this function.
    let flags = unsafe { vm_flags(vma) };
    flags & bindings::__VM_UFFD_FLAGS != 0
        || (cfg!(CONFIG_MEM_SOFT_DIRTY) && flags & flags::SOFTDIRTY == 0)
}

/// The part of a VMA that the page table of an address holds.
struct Window {
    /// Index in the file of its first page.
    pgoff: usize,
    /// Number of pages.
    pages: usize,
}

/// The window around the page that was accessed.
///
/// # Safety
///
/// `vmf` must be valid, and its VMA locked for reading at least.
#[inline]
unsafe fn window(vmf: *const bindings::vm_fault) -> Window {
    // SAFETY: By the requirements of this function.
    let (vma, address) = unsafe { (VmaRef::from_raw(vma(vmf)), (*vmf).__bindgen_anon_1.address) };
    let table = address & !(bindings::PMD_SIZE - 1);
    let start = table.max(vma.start());
    // The last byte: past the last page of the address space there is nothing.
    let last = (table + (bindings::PMD_SIZE - 1)).min(vma.end() - 1);
    Window {
        // SAFETY: By the requirements of this function.
        pgoff: unsafe { pgoff(vmf) } - (address - start) / PAGE_SIZE,
        pages: (last - start) / PAGE_SIZE + 1,
    }
}

/// Maps all of the file that the page table and the VMA hold: `filemap_map_pages()`.
///
/// Returns 0 where the page that was accessed is not among them, as when somebody else has locked
/// its folio.
///
/// # Safety
///
/// `vmf` must be a fault that the core is handling, with a page table, or one at hand in
/// `prealloc_pte`. Its VMA must be locked for reading at least.
#[inline]
unsafe fn map_around(vmf: *mut bindings::vm_fault) -> Reason {
    // SAFETY: By the requirements of this function, which are those of the C function too; the
    // range lies in one page table and in the VMA.
    unsafe {
        let window = window(vmf);
        bindings::filemap_map_pages(vmf, window.pgoff, window.pgoff + (window.pages - 1))
    }
}

#[kunit_tests(rust_mmapdev_virt)]
mod tests {
    use core::ptr::{
        self,
        NonNull, //
    };

    use kernel::{
        fs::File,
        mm::virt::vm_flags_t,
        sync::{
            aref::ARef,
            Arc,
            ArcBorrow, //
        }, //
    };

    use super::*;
    use crate::abstractions::{
        kunit::{
            AddressSpace,
            KernelFile, //
        },
        miscdevice::{
            MiscDevice,
            MiscDeviceRegistration, //
        },
        mm::pagemap::PageCache, //
    };

    /// Answers each fault with a folio, or an error.
    struct Probe(Result<PageCache, FaultError>);

    /// The index that the probe's folio is asked for.
    const PGOFF: usize = 2;

    impl VmOperations for Probe {
        type Data = Arc<Self>;

        fn fault(probe: ArcBorrow<'_, Self>, index: usize) -> Result<LockedFolio, FaultError> {
            match &probe.0 {
                Ok(pages) if index == PGOFF => pages.lock_folio(0).ok_or(FaultError::HwPoison),
                Ok(_) => Err(FaultError::HwPoison),
                Err(e) => Err(*e),
            }
        }
    }

    /// What a fault at page `pgoff` of the file that `mapping` belongs to gives, and in which page.
    fn fault(
        probe: Probe,
        mapping: *mut bindings::address_space,
        pgoff: usize,
    ) -> Result<(Reason, *mut bindings::page)> {
        let probe = Arc::new(probe, GFP_KERNEL)?;
        let file = KBox::new(pin_init::zeroed::<bindings::file>(), GFP_KERNEL)?;
        let file = KBox::into_raw(file);
        let mut vma: bindings::vm_area_struct = pin_init::zeroed();
        let mut vmf: bindings::vm_fault = pin_init::zeroed();
        // SAFETY: Nobody else knows the file, whose private data live until the end of the block,
        // nor the VMA, which counts as one that is being set up. There is no other fault in it.
        unsafe {
            (*file).private_data = probe.into_foreign();
            (*file).f_mapping = mapping;
            vma.vm_file = file;
            // So that nothing is mapped around.
            vma.__bindgen_anon_2.vm_flags = bindings::__VM_UFFD_FLAGS;
            VmaOperations::of::<Probe>().install(VmaNew::from_raw(&raw mut vma))?;
            vmf.__bindgen_anon_1.vma = &raw mut vma;
            vmf.__bindgen_anon_1.pgoff = pgoff;
            let reason = (*vma.vm_ops).fault.map_or(0, |fault| fault(&raw mut vmf));
            if reason & bindings::vm_fault_reason_VM_FAULT_LOCKED != 0 {
                // The lock and the reference are the core's now.
                let given = Arc::<Probe>::borrow((*file).private_data);
                if let Some(folio) = given.0.as_ref().ok().and_then(|pages| pages.folio(0)) {
                    let folio = NonNull::from(&*folio);
                    drop(LockedFolio::from_locked(ARef::from_raw(folio)));
                }
            }
            drop(Arc::<Probe>::from_foreign((*file).private_data));
            drop(KBox::from_raw(file));
            Ok((reason, vmf.page))
        }
    }

    #[test]
    fn the_table_has_what_a_fault_needs_and_no_more() {
        const WORDS: usize = size_of::<bindings::vm_operations_struct>() / size_of::<usize>();
        let table = VmOperationsVTable::<Probe>::VTABLE;
        // SAFETY: A table of function pointers, and nothing else.
        let words: [usize; WORDS] = unsafe { core::mem::transmute(table) };
        assert!(table.fault.is_some() && table.map_pages.is_some());
        assert_eq!(
            table.huge_fault.is_some(),
            cfg!(CONFIG_TRANSPARENT_HUGEPAGE)
        );
        let huge = usize::from(table.huge_fault.is_some());
        assert_eq!(words.iter().filter(|word| **word != 0).count(), 2 + huge);
    }

    #[test]
    fn the_core_gets_what_became_of_a_fault() -> Result {
        for (error, expected) in [
            (
                FaultError::HwPoison,
                bindings::vm_fault_reason_VM_FAULT_HWPOISON,
            ),
            (
                FaultError::Sigbus,
                bindings::vm_fault_reason_VM_FAULT_SIGBUS,
            ),
        ] {
            let found = fault(Probe(Err(error)), ptr::null_mut(), PGOFF)?;
            assert_eq!(found, (expected, ptr::null_mut()));
        }
        Ok(())
    }

    #[test]
    fn a_folio_that_does_not_fit_is_not_mapped() -> Result {
        let nothing = (bindings::vm_fault_reason_VM_FAULT_SIGBUS, ptr::null_mut());
        // It does not have the page.
        let pages = PageCache::new(c"kunit", 1)?;
        let mapping = pages.mapping();
        assert_eq!(fault(Probe(Ok(pages)), mapping, PGOFF)?, nothing);
        // It has, and is of another file.
        let other = PageCache::new(c"kunit", 4)?;
        let pages = PageCache::new(c"kunit", 4)?;
        assert_eq!(fault(Probe(Ok(pages)), other.mapping(), PGOFF)?, nothing);
        Ok(())
    }

    /// A device that maps a page of a file that is not its own.
    struct Stray;

    #[vtable]
    impl MiscDevice for Stray {
        type Ptr = KBox<[PageCache; 2]>;
        type RegistrationData = ();

        fn open(_file: &File, _misc: &MiscDeviceRegistration<Self>) -> Result<Self::Ptr> {
            Err(ENODEV)
        }

        fn page_cache<'a>(caches: &'a &[PageCache; 2]) -> &'a PageCache {
            &caches[0]
        }

        fn mmap(caches: &[PageCache; 2], vma: &VmaNew) -> Result<Option<VmaOperations<Self::Ptr>>> {
            // Two pages stand for the other cache, one for its own.
            let count = (vma.end() - vma.start()) / PAGE_SIZE;
            let folio = caches[count - 1].lock_folio(0).ok_or(ENOENT)?;
            vma.insert_page(vma.start(), &folio, 0)?;
            Ok(None)
        }
    }

    #[test]
    fn a_page_of_another_file_is_not_mapped() -> Result {
        let caches = [PageCache::new(c"kunit", 1)?, PageCache::new(c"kunit", 1)?];
        let file = KernelFile::new::<Stray>(KBox::new(caches, GFP_KERNEL)?)?;
        let space = AddressSpace::new()?;
        let [own, other] = [1, 2].map(|count| space.map_shared(&file, count).err());
        drop((space, file));

        assert_eq!((own, other), (None, Some(EINVAL)));
        Ok(())
    }

    #[test]
    fn a_mixed_map_gets_no_operations() {
        let mut vma: bindings::vm_area_struct = pin_init::zeroed();
        // SAFETY: Nobody else knows the VMA, which counts as one that is being set up.
        let new = unsafe { VmaNew::from_raw(&raw mut vma) };
        new.set_mixedmap();
        // SAFETY: There will be no fault in it.
        let refused = unsafe { VmaOperations::of::<Probe>().install(new) };

        assert_eq!(refused, Err(EINVAL));
        assert!(vma.vm_ops.is_null());
    }

    #[test]
    fn the_core_gets_the_page_itself_locked() -> Result {
        let pages = PageCache::new(c"kunit", 4)?;
        let folio = pages.folio(PGOFF).ok_or(ENOENT)?;
        let page = folio.file_page(PGOFF).ok_or(ENOENT)?.as_ptr();
        // The probe gives the first one, which need not have this page.
        let has_it = folio.index() == 0;
        drop(folio);
        let mapping = pages.mapping();
        let (reason, found) = fault(Probe(Ok(pages)), mapping, PGOFF)?;
        if has_it {
            assert_eq!(reason, bindings::vm_fault_reason_VM_FAULT_LOCKED);
            assert_eq!(found, page);
        } else {
            assert_eq!(reason, bindings::vm_fault_reason_VM_FAULT_SIGBUS);
        }
        Ok(())
    }

    /// The window of a fault at `address` in a VMA from `start` to `end`, whose first page is page
    /// 1000 of its file.
    fn window_at(address: usize, start: usize, end: usize) -> (usize, usize) {
        let mut vma: bindings::vm_area_struct = pin_init::zeroed();
        let mut vmf: bindings::vm_fault = pin_init::zeroed();
        vma.__bindgen_anon_1.__bindgen_anon_1.vm_start = start;
        vma.__bindgen_anon_1.__bindgen_anon_1.vm_end = end;
        vmf.__bindgen_anon_1.vma = &raw mut vma;
        vmf.__bindgen_anon_1.address = address;
        vmf.__bindgen_anon_1.pgoff = 1000 + (address - start) / PAGE_SIZE;
        // SAFETY: Nobody else knows them.
        let window = unsafe { window(&raw const vmf) };
        (window.pgoff, window.pages)
    }

    #[test]
    fn a_window_is_what_vma_and_page_table_have_in_common() {
        const TABLE: usize = bindings::PMD_SIZE;
        const PAGES: usize = TABLE / PAGE_SIZE;
        let (a, b) = (5 * TABLE, 7 * TABLE);
        assert_eq!(window_at(a, a, b), (1000, PAGES));
        assert_eq!(window_at(a + TABLE - PAGE_SIZE, a, b), (1000, PAGES));
        assert_eq!(window_at(a + TABLE, a, b), (1000 + PAGES, PAGES));
        // Begins in the middle of a page table, and ends so.
        let (c, d) = (a + 3 * PAGE_SIZE, b - 4 * PAGE_SIZE);
        assert_eq!(window_at(c, c, d), (1000, PAGES - 3));
        assert_eq!(window_at(a + TABLE, c, d), (1000 + PAGES - 3, PAGES - 4));
        // Within one page table.
        assert_eq!(window_at(c + PAGE_SIZE, c, c + 5 * PAGE_SIZE), (1000, 5));
        // At the end of all addresses.
        let last = usize::MAX - (PAGE_SIZE - 1);
        assert_eq!(
            window_at(last - PAGE_SIZE, last - PAGE_SIZE, last),
            (1000, 1)
        );
    }

    #[test]
    fn whoever_tracks_writes_is_known() {
        let tracked = |flags: vm_flags_t| {
            let mut vma: bindings::vm_area_struct = pin_init::zeroed();
            vma.__bindgen_anon_2.vm_flags = flags;
            // SAFETY: Nobody else knows the VMA.
            unsafe { is_tracked(&raw const vma) }
        };
        let soft_dirty = flags::SOFTDIRTY | flags::SHARED;
        assert!(!tracked(soft_dirty));
        assert_eq!(tracked(flags::SHARED), cfg!(CONFIG_MEM_SOFT_DIRTY));
        assert_eq!(
            tracked(soft_dirty | bindings::__VM_UFFD_FLAGS),
            bindings::__VM_UFFD_FLAGS != 0
        );
    }
}
