// SPDX-License-Identifier: GPL-2.0

//! What KUnit tests of memory that is mapped need: a file opened and mapped by the kernel itself,
//! and the counts of a page.
//!
//! C headers: [`include/kunit/test.h`](srctree/include/kunit/test.h),
//! [`include/linux/mm.h`](srctree/include/linux/mm.h)

use core::ptr::NonNull;

use kernel::{
    bindings,
    error::{from_err_ptr, to_result},
    ffi::{c_int, c_ulong, c_void},
    miscdevice::{MiscDevice, MiscDeviceOptions},
    page::{Page, PAGE_SIZE},
    prelude::*,
    types::ForeignOwnable,
    uaccess::{UserPtr, UserSlice},
};

// Of mman.h, which the `kernel` crate's bindings leave out.
const PROT_READ: c_ulong = 0x1;
const PROT_WRITE: c_ulong = 0x2;
const MAP_SHARED: c_ulong = 0x1;
const MAP_PRIVATE: c_ulong = 0x2;

// Not in the `kernel` crate's bindings: no header that they are made of includes anon_inodes.h.
#[allow(improper_ctypes)] // Some lock types are empty structs in C, too.
extern "C" {
    fn anon_inode_getfile(
        name: *const kernel::ffi::c_char,
        fops: *const bindings::file_operations,
        private_data: *mut c_void,
        flags: c_int,
    ) -> *mut bindings::file;
}

/// An open file of a misc device that is not registered, and that no process has.
///
/// # Invariants
///
/// The pointer is a reference to an open file.
pub(crate) struct KernelFile(NonNull<bindings::file>);

impl KernelFile {
    /// Opens a file for reading and writing, with the operations of `T`: `anon_inode_getfile()`.
    pub(crate) fn new<T: MiscDevice>(device: T::Ptr) -> Result<Self> {
        let name = c"kunit";
        let fops = MiscDeviceOptions { name }.into_raw::<T>().fops;
        let device = device.into_foreign();
        // SAFETY: `name` is NUL-terminated, and `fops` points to a constant, which takes the
        // private data for what `into_foreign` returned.
        let file = unsafe {
            anon_inode_getfile(name.as_char_ptr(), fops, device, bindings::O_RDWR as c_int)
        };
        match from_err_ptr(file) {
            // INVARIANT: The call returned a reference.
            Ok(file) => Ok(Self(NonNull::new(file).ok_or(ENOMEM)?)),
            Err(e) => {
                // SAFETY: This is what `into_foreign` returned, and no file has it.
                drop(unsafe { T::Ptr::from_foreign(device) });
                Err(e)
            }
        }
    }
}

impl Drop for KernelFile {
    fn drop(&mut self) {
        // SAFETY: By the type invariants this is our reference, which is not used any more. Unlike
        // `fput()`, this does at once what the last one does.
        unsafe { bindings::__fput_sync(self.0.as_ptr()) };
    }
}

/// An address space for the thread of the running test, as a process has one.
///
/// # Invariants
///
/// The pointer is the `mm` of the current thread, and a reference to it.
pub(crate) struct AddressSpace(NonNull<bindings::mm_struct>);

impl AddressSpace {
    /// Gives the thread an address space: `kunit_attach_mm()`.
    pub(crate) fn new() -> Result<Self> {
        // SAFETY: FFI call without requirements; tests run in kernel threads.
        to_result(unsafe { bindings::kunit_attach_mm() })?;
        // SAFETY: The current task is valid, and nobody else changes its `mm`.
        let mm = unsafe { (*current!().as_ptr()).mm };
        // INVARIANT: The call above has set it, together with a reference that nobody else drops.
        Ok(Self(NonNull::new(mm).ok_or(ESRCH)?))
    }

    /// Maps the first `page_count` pages of `file`, shared.
    pub(crate) fn map_shared(&self, file: &KernelFile, page_count: usize) -> Result<Mapping<'_>> {
        self.map(file, page_count, MAP_SHARED)
    }

    /// Maps the first `page_count` pages of `file`, private.
    pub(crate) fn map_private(&self, file: &KernelFile, page_count: usize) -> Result<Mapping<'_>> {
        self.map(file, page_count, MAP_PRIVATE)
    }

    /// `vm_mmap()`.
    fn map(&self, file: &KernelFile, page_count: usize, sharing: c_ulong) -> Result<Mapping<'_>> {
        let length = page_count * PAGE_SIZE;
        let prot = PROT_READ | PROT_WRITE;
        // SAFETY: By the type invariants the file is valid, and the thread has an address space.
        let start = unsafe { bindings::vm_mmap(file.0.as_ptr(), 0, length, prot, sharing, 0) };
        // An errno in place of an address is negative.
        if (start as isize) < 0 {
            to_result(start as i32)?;
        }
        Ok(Mapping {
            start,
            length,
            _space: self,
        })
    }
}

impl Drop for AddressSpace {
    fn drop(&mut self) {
        // SAFETY: By the type invariants, this is the thread's address space and our reference.
        unsafe {
            bindings::kthread_unuse_mm(self.0.as_ptr());
            bindings::mmput(self.0.as_ptr());
        }
    }
}

/// A mapping in an [`AddressSpace`].
pub(crate) struct Mapping<'a> {
    start: usize,
    length: usize,
    _space: &'a AddressSpace,
}

impl Mapping<'_> {
    /// The bytes of the page at `index`, accessed as a process does, with its faults.
    pub(crate) fn page(&self, index: usize) -> UserSlice {
        let start = self.start + index * PAGE_SIZE;
        UserSlice::new(UserPtr::from_addr(start), PAGE_SIZE)
    }

    /// Takes all pages out of the page table, as MADV_DONTNEED does.
    pub(crate) fn zap(&self) -> Result {
        let task = current!();
        let mm = task.mm().ok_or(ESRCH)?.mmap_read_lock();
        let vma = mm.vma_lookup(self.start).ok_or(EFAULT)?;
        vma.zap_vma_range(self.start, self.length);
        Ok(())
    }
}

impl Drop for Mapping<'_> {
    fn drop(&mut self) {
        // SAFETY: FFI call without requirements. It fails only for a range that is none.
        unsafe { bindings::vm_munmap(self.start, self.length) };
    }
}

/// How many PTEs lead to `page`.
pub(crate) fn map_count(page: &Page) -> i32 {
    // SAFETY: The page is valid, and no typed one, so that this field is its count.
    unsafe { bindings::atomic_read(&raw const (*page.as_ptr()).__bindgen_anon_2._mapcount) + 1 }
}

/// How many references there are to `page`, without that of a list of pages that wait to be put
/// on the LRU.
pub(crate) fn references(page: &Page) -> i32 {
    // SAFETY: The page is valid. Its flags change atomically, hence volatile.
    let (references, flags) = unsafe {
        (
            bindings::atomic_read(&raw const (*page.as_ptr())._refcount),
            (&raw const (*page.as_ptr()).flags.f).read_volatile(),
        )
    };
    let on_lru = flags & (1 << bindings::pageflags_PG_lru) != 0;
    references - i32::from(!on_lru)
}

/// Has the files that kernel threads closed released now.
pub(crate) fn release_closed_files() {
    // SAFETY: FFI call without requirements.
    unsafe { bindings::flush_delayed_fput() };
}
