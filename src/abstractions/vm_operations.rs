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
