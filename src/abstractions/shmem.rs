// SPDX-License-Identifier: GPL-2.0

//! Pages of a kernel-internal shmem file.
//!
//! C header: [`include/linux/shmem_fs.h`](srctree/include/linux/shmem_fs.h)

use core::{ops::Range, ptr::NonNull};

use kernel::{
    bindings,
    error::{from_err_ptr, to_result},
    iov::{IovIterDest, IovIterSource},
    mm::virt::VmaMixedMap,
    page::{BorrowedPage, PAGE_SIZE},
    prelude::*,
};

use crate::{abstractions::task::fatal_signal_pending, range::Chunk};

// Not in the `kernel` crate's bindings: no header that they are made of includes shmem_fs.h.
#[allow(improper_ctypes)] // Some lock types are empty structs in C, too.
extern "C" {
    fn shmem_kernel_file_setup(
        name: *const kernel::ffi::c_char,
        size: bindings::loff_t,
        flags: bindings::vma_flags_t,
    ) -> *mut bindings::file;

    fn shmem_read_mapping_page_gfp(
        mapping: *mut bindings::address_space,
        index: kernel::ffi::c_ulong,
        gfp: bindings::gfp_t,
    ) -> *mut bindings::page;
}

/// All pages of a shmem file of its own, present and held.
///
/// Such pages have an `address_space`, which a shared futex needs for its key, and which
/// `alloc_page()` does not give. No user of the system sees the file.
///
/// # Invariants
///
/// - `file` is a reference to a shmem file that nothing else refers to.
/// - `pages[i]` is a reference to the page at index `i` of the file; it is not a typed page and
///   not anonymous, and stays in place for as long as the reference is held: it is reclaimed and
///   migrated only when no one else has a reference, and truncated only through `file`.
pub(crate) struct ShmemPages {
    file: NonNull<bindings::file>,
    pages: KVVec<NonNull<bindings::page>>,
}

// SAFETY: References to files and pages may be used and dropped on any thread.
unsafe impl Send for ShmemPages {}

// SAFETY: `&self` methods copy to and from pages with routines that put up with concurrent
// changes, and otherwise only read `pages`, which never changes after `new`.
unsafe impl Sync for ShmemPages {}

impl ShmemPages {
    /// Allocates `count` zeroed pages: `shmem_kernel_file_setup()`.
    ///
    /// `name` stands for the file in the kernel's own reports. The memory counts as `Shmem` and
    /// `Unevictable` in /proc/meminfo, against the overcommit limit, and in the memory cgroup of
    /// the caller. It fails rather than have the OOM killer look for memory.
    ///
    /// ENOMEM: not enough memory; EINTR: the caller is being killed. Nothing stays allocated then.
    pub(crate) fn new(name: &CStr, count: usize) -> Result<Self> {
        let size = count.checked_mul(PAGE_SIZE).ok_or(EINVAL)?;
        let size = bindings::loff_t::try_from(size)?;
        // Allocated first, so that a failure has nothing to undo.
        let pages = KVVec::with_capacity(count, GFP_KERNEL)?;

        // SAFETY: `name` is NUL-terminated and is copied. No flag is set: the whole size is
        // accounted for now.
        let file = unsafe { shmem_kernel_file_setup(name.as_char_ptr(), size, pin_init::zeroed()) };
        // ENOSPC is what it says where there is no memory for the inode; the mount has no limit.
        let file = from_err_ptr(file).map_err(|e| if e == ENOSPC { ENOMEM } else { e })?;
        let file = NonNull::new(file).ok_or(ENOMEM)?;
        // INVARIANT: The file is new, and has no page yet.
        let mut this = Self { file, pages };

        // SAFETY: `file` is a valid file, and a shmem file has an `address_space` that lives as
        // long as it.
        let mapping = unsafe { (*file.as_ptr()).f_mapping };
        // Reclaim need not look at pages that are held until the end.
        //
        // SAFETY: `flags` of the `address_space` is a bitmap that is only changed atomically;
        // this is the C `mapping_set_unevictable()`.
        unsafe {
            bindings::set_bit(
                bindings::mapping_flags_AS_UNEVICTABLE as usize,
                &raw mut (*mapping).flags,
            )
        };

        let gfp = bindings::GFP_KERNEL
            | bindings::__GFP_NOWARN
            | (1 << bindings::___GFP_RETRY_MAYFAIL_BIT);
        for index in 0..count {
            if fatal_signal_pending() {
                return Err(EINTR);
            }
            // SAFETY: `mapping` is that of a shmem file, `index` is within its size, and we may
            // sleep.
            let page = unsafe { shmem_read_mapping_page_gfp(mapping, index, gfp) };
            let page = NonNull::new(from_err_ptr(page)?).ok_or(ENOMEM)?;
            // INVARIANT: The call returned a reference to the page at `index`. A page in the page
            // cache of a shmem file is neither anonymous nor typed.
            this.pages.push(page, GFP_KERNEL)?;
        }
        Ok(this)
    }

    /// Number of pages.
    pub(crate) fn len(&self) -> usize {
        self.pages.len()
    }

    /// The page at `index`, if there is one.
    pub(crate) fn page(&self, index: usize) -> Option<BorrowedPage<'_>> {
        let page = *self.pages.get(index)?;
        // SAFETY: By the type invariants, `self` holds a reference to the page, and the result
        // can't outlive `self`.
        Some(unsafe { BorrowedPage::from_raw(page) })
    }

    /// Maps the pages `range` at the start of `vma`: `vm_insert_pages()`.
    ///
    /// EINVAL: there are no such pages, or the VMA is smaller than the range; ENOMEM: no memory
    /// for page tables; EBUSY: something is mapped there already. Pages inserted before a failure
    /// stay: it is for an mmap handler, whose VMA the caller takes down.
    pub(crate) fn insert(&self, vma: &VmaMixedMap, range: Range<usize>) -> Result {
        let pages = self.pages.get(range).ok_or(EINVAL)?;
        let mut count = pages.len();
        if count > (vma.end() - vma.start()) / PAGE_SIZE {
            return Err(EINVAL);
        }
        // SAFETY:
        // - By its type invariants, `vma` is valid, is locked, and has VM_MIXEDMAP set, so that
        //   its flags are not written. The range is within it, as was just checked.
        // - `pages` are `count` valid pages by our type invariants, and of a kind that may be
        //   mapped. The array is not written to: the C parameter only lacks a `const`.
        // - Each PTE gets a page reference of its own, so the pages may be mapped for longer than
        //   `self` lives.
        to_result(unsafe {
            bindings::vm_insert_pages(
                vma.as_ptr(),
                vma.start(),
                pages.as_ptr().cast_mut().cast(),
                &raw mut count,
            )
        })
        // Within the VMA, EFAULT is what it says when there is no memory for the upper levels.
        .map_err(|e| if e == EFAULT { ENOMEM } else { e })
    }

    /// Copies the bytes of `chunk` to `to`: `copy_page_to_iter()`.
    ///
    /// Returns the number of bytes copied, less than asked for where `to` can't be written or has
    /// no room. Bytes that change meanwhile are copied as they were at some moment.
    pub(crate) fn copy_to_iter(&self, chunk: Chunk, to: &mut IovIterDest<'_>) -> usize {
        let Some(page) = self.checked(chunk) else {
            return 0;
        };
        // SAFETY: The page is valid by our type invariants, the bytes lie within it, and `to` is
        // valid for writing by its own. The C routine puts up with concurrent changes to the
        // page, as it does for every file that is mapped and read at once.
        unsafe {
            bindings::copy_page_to_iter(page.as_ptr(), chunk.offset, chunk.length, to.as_raw())
        }
    }

    /// Copies from `from` to the bytes of `chunk`: `copy_page_from_iter()`.
    ///
    /// Returns the number of bytes copied, less than asked for where `from` can't be read or ends.
    pub(crate) fn copy_from_iter(&self, chunk: Chunk, from: &mut IovIterSource<'_>) -> usize {
        let Some(page) = self.checked(chunk) else {
            return 0;
        };
        // SAFETY: As in `copy_to_iter`, the other way round.
        unsafe {
            bindings::copy_page_from_iter(page.as_ptr(), chunk.offset, chunk.length, from.as_raw())
        }
    }

    /// The page of `chunk`, if all of the chunk lies within a page that is there.
    fn checked(&self, chunk: Chunk) -> Option<NonNull<bindings::page>> {
        let end = chunk.offset.checked_add(chunk.length)?;
        let page = *self.pages.get(chunk.page)?;
        (end <= PAGE_SIZE).then_some(page)
    }

    /// Stores `bytes` at the start of the page at `index`.
    ///
    /// EINVAL: there is no such page, or `bytes` is longer than a page.
    pub(crate) fn store(&self, index: usize, bytes: &[u8]) -> Result {
        if bytes.len() > PAGE_SIZE {
            return Err(EINVAL);
        }
        self.with_mapped(index, |start| {
            for (offset, byte) in bytes.iter().enumerate() {
                // SAFETY: `offset` is within the page, which `with_mapped` has mapped for writing.
                // User space may access it at the same time, hence volatile.
                unsafe { start.add(offset).write_volatile(*byte) };
            }
        })
    }

    /// Zeroes the page at `index`. EINVAL: there is no such page.
    pub(crate) fn clear(&self, index: usize) -> Result {
        self.with_mapped(index, |start| {
            let start = start.cast::<usize>();
            for word in 0..PAGE_SIZE / size_of::<usize>() {
                // SAFETY: As in `store`; a page starts at a multiple of its size and so is aligned
                // for words.
                unsafe { start.add(word).write_volatile(0) };
            }
        })
    }

    /// Calls `f` with the address that the page at `index` is mapped at in the kernel meanwhile,
    /// for this thread only.
    fn with_mapped(&self, index: usize, f: impl FnOnce(*mut u8)) -> Result {
        let page = *self.pages.get(index).ok_or(EINVAL)?;
        // SAFETY: The page is valid by the type invariants.
        let start = unsafe { bindings::kmap_local_page(page.as_ptr()) };
        f(start.cast());
        // SAFETY: `start` comes from `kmap_local_page()` just above. `f` has undone what it mapped
        // itself, as this function is the only way to map and undoes it before it returns.
        unsafe { bindings::kunmap_local(start) };
        Ok(())
    }
}

impl Drop for ShmemPages {
    fn drop(&mut self) {
        let arg = bindings::release_pages_arg {
            pages: self.pages.as_mut_ptr().cast(),
        };
        // SAFETY: By the type invariants these are our references, which are not used any more.
        // A `NonNull` has the layout of a pointer. The count fits: it is a number of pages that
        // were allocated.
        unsafe { bindings::release_pages(arg, self.pages.len() as i32) };
        // SAFETY: By the type invariants this is our reference, which is not used any more.
        unsafe { bindings::fput(self.file.as_ptr()) };
    }
}

#[kunit_tests(rust_mmapdev_shmem)]
mod tests {
    use core::mem::MaybeUninit;

    use kernel::time::{delay::fsleep, Delta};

    use super::*;
    use crate::abstractions::kunit::{map_count, references, release_closed_files};

    /// The `address_space` of the file.
    fn mapping(pages: &ShmemPages) -> *const bindings::address_space {
        // SAFETY: By the type invariants the file is valid.
        unsafe { (*pages.file.as_ptr()).f_mapping }
    }

    /// The `address_space` that the page at `index` belongs to.
    fn mapping_of_page(page: NonNull<bindings::page>) -> *const bindings::address_space {
        // SAFETY: To be called with a reference to a page of a file.
        unsafe {
            (&raw const (*page.as_ptr()).__bindgen_anon_1.__bindgen_anon_1.mapping).read_volatile()
        }
    }

    #[test]
    fn the_pages_are_all_of_the_file() -> Result {
        let pages = ShmemPages::new(c"kunit", 3)?;
        // SAFETY: The `address_space` lives as long as the file, and so does its inode.
        let (page_count, size) = unsafe {
            let mapping = mapping(&pages);
            ((*mapping).nrpages, (*(*mapping).host).i_size)
        };
        let of_the_file = pages
            .pages
            .iter()
            .all(|page| mapping_of_page(*page) == mapping(&pages));
        let counts = pages
            .page(2)
            .map(|page| (map_count(&page), references(&page)));
        let none = pages.page(3).is_none();
        drop(pages);

        assert_eq!(page_count, 3);
        assert_eq!(size, 3 * PAGE_SIZE as bindings::loff_t);
        assert!(of_the_file);
        // No PTE; the page cache's reference and ours.
        assert_eq!(counts, Some((0, 2)));
        assert!(none);
        Ok(())
    }

    #[test]
    fn reclaim_is_told_to_pass_over_them() -> Result {
        let pages = ShmemPages::new(c"kunit", 1)?;
        // SAFETY: The `address_space` lives as long as the file.
        let flags = unsafe { (*mapping(&pages)).flags };
        drop(pages);

        assert!(flags & (1 << bindings::mapping_flags_AS_UNEVICTABLE) != 0);
        Ok(())
    }

    #[test]
    fn what_is_dropped_is_freed() -> Result {
        let pages = ShmemPages::new(c"kunit", 3)?;
        let held = pages.pages[1];
        // SAFETY: The page is valid; the reference is put below.
        unsafe { bindings::atomic_inc(&raw mut (*held.as_ptr())._refcount) };
        drop(pages);
        release_closed_files();
        // It may be that another thread is at it.
        let mut tries = 100;
        while !mapping_of_page(held).is_null() && tries > 0 {
            fsleep(Delta::from_millis(10));
            tries -= 1;
        }
        let in_a_file = !mapping_of_page(held).is_null();
        // SAFETY: We hold a reference to the page.
        let left = references(&*unsafe { BorrowedPage::from_raw(held) });
        let mut held = held.as_ptr();
        let arg = bindings::release_pages_arg {
            pages: &raw mut held,
        };
        // SAFETY: This is the reference taken above.
        unsafe { bindings::release_pages(arg, 1) };

        assert!(!in_a_file);
        assert_eq!(left, 1);
        Ok(())
    }

    #[test]
    fn a_size_that_no_file_has() {
        for count in [
            usize::MAX,
            usize::MAX / PAGE_SIZE + 1,
            usize::MAX / PAGE_SIZE,
            i64::MAX as usize / PAGE_SIZE + 1,
        ] {
            assert!(matches!(ShmemPages::new(c"kunit", count), Err(e) if e == EINVAL));
        }
    }

    #[test]
    fn a_fatal_signal_ends_it_and_no_other() {
        let ended = [bindings::SIGUSR1, bindings::SIGKILL].map(|signal| {
            let (task, signal) = (current!().as_ptr(), signal as i32);
            // SAFETY: The C `SIG_KTHREAD`, which only stands for a handler.
            let handler = unsafe { core::mem::transmute::<usize, bindings::__sighandler_t>(2) };
            // SAFETY: The current task is valid.
            unsafe {
                bindings::kernel_sigaction(signal, handler);
                bindings::send_sig(signal, task, 1);
            }
            let result = ShmemPages::new(c"kunit", 3);
            // SAFETY: As above.
            unsafe { bindings::flush_signals(task) };
            result.is_err_and(|e| e == EINTR)
        });

        assert_eq!(ended, [false, true]);
    }

    #[test]
    fn nothing_past_a_page_is_touched() -> Result {
        let pages = ShmemPages::new(c"kunit", 2)?;
        let chunk = |page, offset, length| Chunk {
            page,
            offset,
            length,
        };
        let outside = [
            chunk(2, 0, 1),
            chunk(usize::MAX, 0, 1),
            chunk(0, PAGE_SIZE, 1),
            chunk(0, PAGE_SIZE - 1, 2),
            chunk(0, 1, usize::MAX),
            chunk(0, usize::MAX, 1),
        ];
        let outside = outside.map(|chunk| (copy_out(&pages, chunk), copy_in(&pages, chunk)));
        let last_byte = chunk(1, PAGE_SIZE - 1, 1);
        let inside = (copy_out(&pages, last_byte), copy_in(&pages, last_byte));
        let stored = (
            pages.store(2, &[0]).is_err_and(|e| e == EINVAL),
            pages
                .store(0, &[0; PAGE_SIZE + 1][..])
                .is_err_and(|e| e == EINVAL),
            pages.clear(2).is_err_and(|e| e == EINVAL),
        );
        drop(pages);

        assert_eq!(outside, [(0, 0); 6]);
        assert_eq!(inside, (1, 1));
        assert_eq!(stored, (true, true, true));
        Ok(())
    }

    /// Calls `copy` with an iterator over two bytes of the stack.
    fn with_iter(source: u32, copy: impl FnOnce(*mut bindings::iov_iter) -> usize) -> usize {
        let mut bytes = [0u8; 2];
        let bytes = bindings::kvec {
            iov_base: bytes.as_mut_ptr().cast(),
            iov_len: bytes.len(),
        };
        let mut iter = MaybeUninit::uninit();
        // SAFETY: `bytes` outlives the use of `iter`.
        unsafe { bindings::iov_iter_kvec(iter.as_mut_ptr(), source, &raw const bytes, 1, 2) };
        copy(iter.as_mut_ptr())
    }

    fn copy_out(pages: &ShmemPages, chunk: Chunk) -> usize {
        // SAFETY: The iterator is a destination, and used here only.
        with_iter(bindings::ITER_DEST, |iter| unsafe {
            pages.copy_to_iter(chunk, IovIterDest::from_raw(iter))
        })
    }

    fn copy_in(pages: &ShmemPages, chunk: Chunk) -> usize {
        // SAFETY: The iterator is a source, and used here only.
        with_iter(bindings::ITER_SOURCE, |iter| unsafe {
            pages.copy_from_iter(chunk, IovIterSource::from_raw(iter))
        })
    }
}
