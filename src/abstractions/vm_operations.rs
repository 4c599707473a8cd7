// SPDX-License-Identifier: GPL-2.0

//! Operations on a VMA after its mmap handler has returned.
//!
//! C header: [`include/linux/mm.h`](srctree/include/linux/mm.h)

use core::marker::PhantomData;

use kernel::{
    bindings,
    mm::virt::{VmaNew, VmaRef},
    prelude::*,
    sync::{Arc, ArcBorrow},
    types::ForeignOwnable,
};

/// Operations of the VMAs that share an [`Arc`] of this type: `struct vm_operations_struct`.
pub(crate) trait VmOperations: Sized + Send + Sync + 'static {
    /// A VMA begins to exist: a new one, or a copy made by fork(2), a split or mremap(2).
    fn open(&self);

    /// A VMA ceases to exist. Each `open` is followed by one `close`.
    fn close(&self);

    /// An access found no page.
    ///
    /// Success means that a page was inserted. EBUSY, that there is one by now, counts as success;
    /// ENOMEM has the OOM killer called, or an EFAULT returned by a system call; every other error
    /// is a SIGBUS.
    fn fault(&self, fault: &VmFault<'_>) -> Result;
}

/// A page fault that is being handled: `struct vm_fault`.
///
/// # Invariants
///
/// `vmf` is valid for `'a`, and so is its VMA, which is locked for reading at least.
pub(crate) struct VmFault<'a> {
    vmf: *const bindings::vm_fault,
    _lifetime: PhantomData<&'a bindings::vm_fault>,
}

impl VmFault<'_> {
    /// The VMA that the access was in.
    pub(crate) fn vma(&self) -> &VmaRef {
        // SAFETY: By the type invariants the VMA is valid and locked for as long as `self` lives.
        unsafe { VmaRef::from_raw((*self.vmf).__bindgen_anon_1.vma) }
    }

    /// The address of the page that was accessed.
    pub(crate) fn address(&self) -> usize {
        // SAFETY: By the type invariants, `vmf` is valid, and these fields do not change.
        unsafe { (*self.vmf).__bindgen_anon_1.address }
    }

    /// Index in the file of the page that was accessed.
    pub(crate) fn pgoff(&self) -> usize {
        // SAFETY: As above.
        unsafe { (*self.vmf).__bindgen_anon_1.pgoff }
    }
}

/// What [`VmaNew`] has no method for.
pub(crate) trait VmaNewExt {
    /// Index in the file of the first page of the VMA.
    fn pgoff(&self) -> usize;

    /// Sets the VMA's operations, and calls the first [`VmOperations::open`].
    ///
    /// The file's `owner` must be the module that `T` is in, as for its file operations: the VMA
    /// holds the file, and the file the module. To be called once, as the last step of an mmap
    /// handler: where the handler fails after it, there is no `close`, and `data` leaks.
    fn set_operations<T: VmOperations>(&self, data: Arc<T>);
}

impl VmaNewExt for VmaNew {
    fn pgoff(&self) -> usize {
        // SAFETY: By the type invariants the VMA is valid and its mmap lock is held, so this is
        // not a data race.
        unsafe { (*self.as_ptr()).vm_pgoff }
    }

    fn set_operations<T: VmOperations>(&self, data: Arc<T>) {
        data.open();
        let vma = self.as_ptr();
        // SAFETY: By the type invariants the VMA is being set up, so that its mmap handler, which
        // calls us, may write to these fields and no one else uses them. The callbacks in the
        // table expect what is stored with it: a foreign `Arc<T>` that belongs to the VMA.
        unsafe {
            (*vma).vm_private_data = data.into_foreign();
            (*vma).vm_ops = &VmOperationsVTable::<T>::VTABLE;
        }
    }
}

struct VmOperationsVTable<T>(PhantomData<T>);

impl<T: VmOperations> VmOperationsVTable<T> {
    const VTABLE: bindings::vm_operations_struct = bindings::vm_operations_struct {
        open: Some(Self::open),
        close: Some(Self::close),
        fault: Some(Self::fault),
        ..pin_init::zeroed()
    };

    /// # Safety
    ///
    /// `vma` must be valid, and its `vm_private_data` a foreign `Arc<T>` that lives for `'a`.
    unsafe fn data<'a>(vma: *const bindings::vm_area_struct) -> ArcBorrow<'a, T> {
        // SAFETY: By the requirements of this function.
        unsafe { Arc::<T>::borrow((*vma).vm_private_data) }
    }

    /// # Safety
    ///
    /// To be called by the core on a VMA with this table that was just copied from another one.
    unsafe extern "C" fn open(vma: *mut bindings::vm_area_struct) {
        // SAFETY: The copy has the `vm_private_data` of its original, which still exists.
        let data = unsafe { Self::data(vma) };
        // The copy gets a reference of its own. It has the address that is there already.
        let _ = Arc::from(data).into_foreign();
        data.open();
    }

    /// # Safety
    ///
    /// To be called by the core on a VMA with this table that is going away.
    unsafe extern "C" fn close(vma: *mut bindings::vm_area_struct) {
        // SAFETY: `set_operations` or `open` gave this VMA its reference, and nothing of the VMA
        // is used after this call.
        let data = unsafe { Arc::<T>::from_foreign((*vma).vm_private_data) };
        data.close();
    }

    /// # Safety
    ///
    /// To be called by the core for a fault in a VMA with this table.
    unsafe extern "C" fn fault(vmf: *mut bindings::vm_fault) -> bindings::vm_fault_t {
        // SAFETY: The core holds a lock on the VMA, so that it keeps its reference meanwhile.
        let data = unsafe { Self::data((*vmf).__bindgen_anon_1.vma) };
        // INVARIANT: The core hands us a valid fault, whose VMA it has locked, for this call.
        let fault = VmFault {
            vmf,
            _lifetime: PhantomData,
        };
        match data.fault(&fault) {
            Ok(()) => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
            Err(e) if e == EBUSY => bindings::vm_fault_reason_VM_FAULT_NOPAGE,
            Err(e) if e == ENOMEM => bindings::vm_fault_reason_VM_FAULT_OOM,
            Err(_) => bindings::vm_fault_reason_VM_FAULT_SIGBUS,
        }
    }
}

#[kunit_tests(rust_mmapdev_vm_operations)]
mod tests {
    use kernel::sync::atomic::{Atomic, Relaxed};

    use super::*;

    const ADDRESS: usize = 0x7000;
    const PGOFF: usize = 5;

    /// Counts its VMAs, and answers every fault with the same result.
    struct Probe {
        vmas: Atomic<i32>,
        answer: Result,
    }

    impl Probe {
        fn new(answer: Result) -> Result<Arc<Self>> {
            let vmas = Atomic::new(0);
            Ok(Arc::new(Self { vmas, answer }, GFP_KERNEL)?)
        }
    }

    impl VmOperations for Probe {
        fn open(&self) {
            self.vmas.fetch_add(1, Relaxed);
        }

        fn close(&self) {
            self.vmas.fetch_sub(1, Relaxed);
        }

        fn fault(&self, fault: &VmFault<'_>) -> Result {
            if (fault.address(), fault.pgoff()) != (ADDRESS, PGOFF) {
                return Err(ENXIO);
            }
            self.answer
        }
    }

    /// A VMA of no address space, with `data`.
    fn vma(data: &Arc<Probe>) -> bindings::vm_area_struct {
        let mut vma = pin_init::zeroed();
        // SAFETY: No one else knows the VMA, so that it counts as one that is being set up.
        unsafe { VmaNew::from_raw(&raw mut vma) }.set_operations(data.clone());
        vma
    }

    #[test]
    fn the_table_has_open_close_and_fault_alone() {
        const WORDS: usize = size_of::<bindings::vm_operations_struct>() / size_of::<usize>();
        let table = VmOperationsVTable::<Probe>::VTABLE;
        // SAFETY: A table of function pointers, and nothing else.
        let words: [usize; WORDS] = unsafe { core::mem::transmute(table) };
        assert!(table.open.is_some() && table.close.is_some() && table.fault.is_some());
        assert_eq!(words.iter().filter(|word| **word != 0).count(), 3);
    }

    #[test]
    fn each_vma_has_a_reference() -> Result {
        let data = Probe::new(Ok(()))?;
        let mut first = vma(&data);
        let one = data.vmas.load(Relaxed);
        let mut second = first;
        // SAFETY: `second` is a copy of `first`, each is opened and closed once, and `first`
        // still exists when its copy is opened.
        let (two, in_use, one_again) = unsafe {
            VmOperationsVTable::<Probe>::open(&raw mut second);
            let two = data.vmas.load(Relaxed);
            VmOperationsVTable::<Probe>::close(&raw mut first);
            let one_again = data.vmas.load(Relaxed);
            let in_use = Arc::into_unique_or_drop(data).is_none();
            (two, in_use, one_again)
        };
        // SAFETY: The last VMA still has its reference, so that its data live.
        let (data, none) = unsafe {
            let data = Arc::from(VmOperationsVTable::<Probe>::data(&raw const second));
            VmOperationsVTable::<Probe>::close(&raw mut second);
            let none = data.vmas.load(Relaxed);
            (data, none)
        };
        let unused = Arc::into_unique_or_drop(data).is_some();

        assert_eq!((one, two, one_again, none), (1, 2, 1, 0));
        assert!(in_use);
        assert!(unused);
        Ok(())
    }

    #[test]
    fn the_core_gets_what_became_of_a_fault() -> Result {
        for (answer, expected) in [
            (Ok(()), bindings::vm_fault_reason_VM_FAULT_NOPAGE),
            (Err(EBUSY), bindings::vm_fault_reason_VM_FAULT_NOPAGE),
            (Err(ENOMEM), bindings::vm_fault_reason_VM_FAULT_OOM),
            (Err(EFAULT), bindings::vm_fault_reason_VM_FAULT_SIGBUS),
            (Err(EINVAL), bindings::vm_fault_reason_VM_FAULT_SIGBUS),
        ] {
            let data = Probe::new(answer)?;
            let mut vma = vma(&data);
            let mut fault: bindings::vm_fault = pin_init::zeroed();
            fault.__bindgen_anon_1.vma = &raw mut vma;
            fault.__bindgen_anon_1.address = ADDRESS;
            fault.__bindgen_anon_1.pgoff = PGOFF;
            // SAFETY: The VMA has this table, and no one else knows it.
            let reason = unsafe {
                let reason = VmOperationsVTable::<Probe>::fault(&raw mut fault);
                VmOperationsVTable::<Probe>::close(&raw mut vma);
                reason
            };
            assert_eq!(reason, expected);
        }
        Ok(())
    }
}
