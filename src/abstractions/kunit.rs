// SPDX-License-Identifier: GPL-2.0

//! What KUnit tests of memory that is mapped need: a file opened and mapped by the kernel itself,
//! and the counts of a page.
//!
//! C headers: [`include/kunit/test.h`](srctree/include/kunit/test.h),
//! [`include/linux/mm.h`](srctree/include/linux/mm.h)

use core::ptr::{
    self,
    NonNull, //
};

use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    ffi::c_int,
    page::PAGE_SIZE,
    prelude::*,
    uaccess::{
        UserPtr,
        UserSlice, //
    }, //
};

use crate::abstractions::{
    bindings,
    miscdevice::{
        FileOperations,
        MiscDevice, //
    },
    mm::folio::Folio, //
};

/// An open file of a misc device that is not registered, and that no process has.
///
/// # Invariants
///
/// The pointer is a reference to an open file.
pub struct KernelFile(NonNull<bindings::file>);

impl KernelFile {
    /// Opens a file for reading and writing, with the operations of `T`: `anon_inode_getfile()`.
    pub fn new<T: MiscDevice>(device: T::Ptr) -> Result<Self> {
        let fops = FileOperations::<T>::table();
        // SAFETY: The name is NUL-terminated, and `fops` points to a constant.
        let file = from_err_ptr(unsafe {
            bindings::anon_inode_getfile(
                c"kunit".as_char_ptr(),
                fops,
                ptr::null_mut(),
                bindings::O_RDWR as c_int,
            )
        })?;
        let file = NonNull::new(file).ok_or(ENOMEM)?;
        // SAFETY: The file is new and has this table.
        unsafe { FileOperations::<T>::init(file.as_ptr(), device) };
        // INVARIANT: The call returned a reference.
        Ok(Self(file))
    }

    /// Reads from the start: `kernel_read()`. Returns how many bytes.
    pub fn read(&self, bytes: &mut [u8]) -> Result<usize> {
        // SAFETY: By the type invariants the file is open, and so many bytes may be written.
        let ret = unsafe {
            bindings::kernel_read(
                self.0.as_ptr(),
                bytes.as_mut_ptr().cast(),
                bytes.len(),
                &mut 0,
            )
        };
        to_result(ret as c_int)?;
        Ok(ret as usize)
    }

    /// Writes from the start: `kernel_write()`. Returns how many bytes.
    pub fn write(&self, bytes: &[u8]) -> Result<usize> {
        // SAFETY: By the type invariants the file is open, and so many bytes may be read.
        let ret = unsafe {
            bindings::kernel_write(self.0.as_ptr(), bytes.as_ptr().cast(), bytes.len(), &mut 0)
        };
        to_result(ret as c_int)?;
        Ok(ret as usize)
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
///
/// # Examples
///
/// ```
/// use kernel::prelude::*;
/// use rust_mmapdev::abstractions::{
///     kunit::{map_count, AddressSpace, KernelFile},
///     miscdevice::MiscDevice,
///     mm::pagemap::PageCache,
/// };
///
/// fn a_touch_maps_a_page<T: MiscDevice>(device: T::Ptr, cache: &PageCache) -> Result {
///     let file = KernelFile::new::<T>(device)?;
///     let space = AddressSpace::new()?;
///     let mapping = space.map_shared(&file, 1)?;
///     mapping.page(0).writer().write(&1u8)?;
///     let folio = cache.folio(0).ok_or(ENOENT)?;
///     assert_eq!(map_count(&folio), 1);
///     Ok(())
/// }
/// ```
///
/// Another thread has another one:
///
/// ```compile_fail,E0277
/// # use rust_mmapdev::abstractions::kunit::AddressSpace;
/// # fn give_away<T: Send>(_: T) {}
/// fn lend(space: &AddressSpace) {
///     give_away(space);
/// }
/// ```
///
/// It stays for as long as what is mapped in it:
///
/// ```compile_fail,E0505
/// # use kernel::prelude::*;
/// # use rust_mmapdev::abstractions::kunit::{AddressSpace, KernelFile};
/// fn too_early(file: &KernelFile) -> Result {
///     let space = AddressSpace::new()?;
///     let mapping = space.map_shared(file, 1)?;
///     drop(space);
///     mapping.zap()
/// }
/// ```
pub struct AddressSpace(NonNull<bindings::mm_struct>);

impl AddressSpace {
    /// Gives the thread an address space: `kunit_attach_mm()`. EBUSY: it has one.
    pub fn new() -> Result<Self> {
        if current!().mm().is_some() {
            return Err(EBUSY);
        }
        // SAFETY: FFI call without requirements; tests run in kernel threads.
        to_result(unsafe { bindings::kunit_attach_mm() })?;
        // SAFETY: The current task is valid, and nobody else changes its `mm`.
        let mm = unsafe { (*current!().as_ptr()).mm };
        // INVARIANT: The call above has set it, together with a reference that nobody else drops.
        Ok(Self(NonNull::new(mm).ok_or(ESRCH)?))
    }

    /// Maps the first `page_count` pages of `file`, shared.
    pub fn map_shared(&self, file: &KernelFile, page_count: usize) -> Result<Mapping<'_>> {
        self.map(file, page_count, bindings::MAP_SHARED)
    }

    /// Maps the first `page_count` pages of `file`, private.
    pub fn map_private(&self, file: &KernelFile, page_count: usize) -> Result<Mapping<'_>> {
        self.map(file, page_count, bindings::MAP_PRIVATE)
    }

    /// `vm_mmap()`.
    fn map(&self, file: &KernelFile, page_count: usize, sharing: u32) -> Result<Mapping<'_>> {
        let length = page_count * PAGE_SIZE;
        let prot = (bindings::PROT_READ | bindings::PROT_WRITE) as usize;
        // SAFETY: By the type invariants the file is valid, and the thread has an address space.
        let start =
            unsafe { bindings::vm_mmap(file.0.as_ptr(), 0, length, prot, sharing as usize, 0) };
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
pub struct Mapping<'a> {
    start: usize,
    length: usize,
    _space: &'a AddressSpace,
}

impl Mapping<'_> {
    /// The bytes of the page at `index`, accessed as a process does, with its faults.
    pub fn page(&self, index: usize) -> UserSlice {
        let start = self.start + index * PAGE_SIZE;
        UserSlice::new(UserPtr::from_addr(start), PAGE_SIZE)
    }

    /// Takes all pages out of the page table, as MADV_DONTNEED does.
    pub fn zap(&self) -> Result {
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

/// How many entries of page tables lead to `folio`: `folio_mapcount()`.
pub fn map_count(folio: &Folio) -> i32 {
    let count = if folio.order() > 0 {
        // SAFETY: The folio is in use, and has a second page, where this is.
        unsafe {
            &raw const (*folio.as_ptr())
                .__bindgen_anon_2
                .__bindgen_anon_1
                .__bindgen_anon_1
                .__bindgen_anon_1
                ._large_mapcount
        }
    } else {
        // SAFETY: The folio is in use.
        unsafe {
            &raw const (*folio.as_ptr())
                .__bindgen_anon_1
                .__bindgen_anon_1
                ._mapcount
        }
    };
    // SAFETY: It is a field of the folio.
    unsafe { bindings::atomic_read(count) + 1 }
}

/// How many references there are to `folio`, without those of the page cache, one a page, and that
/// of a list of folios that wait to be put on the LRU.
pub fn references(folio: &Folio) -> i32 {
    // SAFETY: The folio is in use. Its flags change atomically, hence volatile.
    let (references, flags) = unsafe {
        let head = &raw const (*folio.as_ptr()).__bindgen_anon_1.__bindgen_anon_1;
        (
            bindings::atomic_read(&raw const (*head)._refcount),
            (&raw const (*head).flags.f).read_volatile(),
        )
    };
    let on_lru = flags & (1 << bindings::pageflags_PG_lru) != 0;
    references - i32::from(!on_lru) - (1 << folio.order())
}

/// Has the files that kernel threads closed released now.
pub fn release_closed_files() {
    // SAFETY: FFI call without requirements.
    unsafe { bindings::flush_delayed_fput() };
}

#[kunit_tests(rust_mmapdev_kunit)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_has_one_address_space() -> Result {
        let space = AddressSpace::new()?;
        let second = AddressSpace::new().err();
        drop(space);
        let third = AddressSpace::new().is_ok();

        assert_eq!(second, Some(EBUSY));
        assert!(third);
        Ok(())
    }
}
