// SPDX-License-Identifier: GPL-2.0

//! The page cache of a file of the kernel's own.
//!
//! C headers: [`include/linux/pagemap.h`](srctree/include/linux/pagemap.h),
//! [`include/linux/anon_inodes.h`](srctree/include/linux/anon_inodes.h)

use core::ptr::{
    self,
    NonNull, //
};

use kernel::{
    error::{
        from_err_ptr,
        to_result, //
    },
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::ARef, //
};

use crate::abstractions::{
    bindings,
    mm::folio::{
        Folio,
        LockedFolio, //
    },
    task::fatal_signal_pending, //
};

/// Size in bytes of a folio that one PMD entry maps: `PMD_SIZE`.
pub const HUGE_FOLIO_SIZE: usize = bindings::PMD_SIZE;

/// All pages of a file that has no name and no store, in an inode of its own.
///
/// Its folios are page cache as any file's: found by index, moved by compaction, taken away by a
/// memory error, and not held by anybody. Reclaim and swap pass over them.
///
/// # Invariants
///
/// `file` is a reference to an open file, whose inode's size is one page more than `page_count`.
/// Each folio in its `i_mapping` is uptodate and dirty and lies within those `page_count` pages.
///
/// # Examples
///
/// ```
/// use kernel::{page::PAGE_SIZE, prelude::*};
/// use rust_mmapdev::abstractions::mm::pagemap::PageCache;
///
/// /// A cache of 16 pages that all begin with their number.
/// fn numbered() -> Result<PageCache> {
///     let cache = PageCache::new(c"numbered", 16)?;
///     for index in 0..cache.page_count() {
///         let folio = cache.lock_folio(index).ok_or(EIO)?;
///         folio.store((index - folio.index()) * PAGE_SIZE, &[index as u8])?;
///     }
///     pr_info!("{} bytes stand in huge folios\n", cache.huge_size());
///     Ok(cache)
/// }
/// # const __LOG_PREFIX: &[u8] = b"example\0";
/// # fn main() {}
/// ```
pub struct PageCache {
    file: NonNull<bindings::file>,
    page_count: usize,
}

// SAFETY: References to files and folios may be used and dropped on any thread.
unsafe impl Send for PageCache {}

// SAFETY: `&self` methods look folios up, which the page cache allows at any moment.
unsafe impl Sync for PageCache {}

impl PageCache {
    /// The largest order that a folio in the page cache has: `MAX_PAGECACHE_ORDER`, what one PMD
    /// entry maps as a rule.
    const MAX_ORDER: u32 = {
        let orders = [
            bindings::MAX_XAS_ORDER,
            bindings::PREFERRED_MAX_PAGECACHE_ORDER,
            bindings::MAX_PAGE_ORDER,
        ];
        let mut least = orders[0];
        let mut i = 1;
        while i < orders.len() {
            if orders[i] < least {
                least = orders[i];
            }
            i += 1;
        }
        if cfg!(CONFIG_TRANSPARENT_HUGEPAGE) {
            least
        } else {
            0
        }
    };

    const FILE_OPERATIONS: bindings::file_operations = pin_init::zeroed();

    const ADDRESS_SPACE_OPERATIONS: bindings::address_space_operations =
        bindings::address_space_operations {
            dirty_folio: Some(bindings::noop_dirty_folio),
            #[cfg(CONFIG_MIGRATION)]
            migrate_folio: Some(bindings::filemap_migrate_folio),
            error_remove_folio: Some(bindings::generic_error_remove_folio),
            ..pin_init::zeroed()
        };

    /// Makes a file of `page_count` zeroed pages: `anon_inode_create_getfile()`.
    ///
    /// They stand in folios as large as size and index allow and memory has at hand, single pages
    /// at the least. The memory counts as `Cached` and `Unevictable` in /proc/meminfo, and in the
    /// memory cgroup of the caller. It fails rather than have the OOM killer look for memory.
    ///
    /// EINVAL: no file has so many pages; ENOMEM: not enough memory; EINTR: the caller is being
    /// killed. Nothing stays allocated then.
    pub fn new(name: &CStr, page_count: usize) -> Result<Self> {
        // A page more than there are, or filemap_map_pages() maps nothing where there is no page
        // table yet and the last folio is the first of what it is to map.
        let size = page_count
            .checked_add(1)
            .and_then(|n| n.checked_mul(PAGE_SIZE));
        let size = size.ok_or(EINVAL)?;
        let size = bindings::loff_t::try_from(size)?;
        // SAFETY: `name` is NUL-terminated and is copied; the file operations are a constant,
        // which the file does not outlive: nobody else gets it, and `drop` waits for its end.
        let file = from_err_ptr(unsafe {
            bindings::anon_inode_create_getfile(
                name.as_char_ptr(),
                &Self::FILE_OPERATIONS,
                ptr::null_mut(),
                bindings::O_RDWR as i32,
                ptr::null(),
            )
        })?;
        let file = NonNull::new(file).ok_or(ENOMEM)?;
        // INVARIANT: The file is new, has no folio yet, and gets its size below.
        let this = Self { file, page_count };

        let mapping = this.mapping();
        // SAFETY: The file, its inode and the mapping are new, and nobody else knows them. An inode
        // is a regular file's when memory failure is to take pages out of it.
        unsafe {
            let inode = (*mapping).host;
            (*inode).i_mode |= bindings::S_IFREG as bindings::umode_t;
            (*inode).i_size = size;
            (*mapping).a_ops = &Self::ADDRESS_SPACE_OPERATIONS;
            // The C `mapping_set_unevictable()` and `mapping_set_folio_order_range()`.
            (*mapping).flags |= 1 << bindings::mapping_flags_AS_UNEVICTABLE;
            (*mapping).flags &= !(bindings::AS_FOLIO_ORDER_MASK as usize);
            (*mapping).flags |=
                (Self::MAX_ORDER as usize) << bindings::mapping_flags_AS_FOLIO_ORDER_MAX;
        }
        this.fill()?;
        Ok(this)
    }

    fn fill(&self) -> Result {
        let mut index = 0;
        // Memory is compacted for want of a folio of some order once: it takes its time.
        let mut tried = Self::MAX_ORDER + 1;
        while index < self.page_count {
            if fatal_signal_pending() {
                return Err(EINTR);
            }
            let mut order = Self::largest_order(index, self.page_count - index);
            while let Err(e) = self.add_folio(index, order, order < tried) {
                tried = tried.min(order);
                order = order.checked_sub(1).ok_or(e)?;
            }
            index += 1 << order;
        }
        Ok(())
    }

    /// The largest order of a folio at `index` that has `room` pages, at least one, before it.
    fn largest_order(index: usize, room: usize) -> u32 {
        room.ilog2()
            .min(index.trailing_zeros())
            .min(Self::MAX_ORDER)
    }

    /// Adds a new folio: `filemap_add_folio()`. Without `compact`, a large one must be at hand.
    fn add_folio(&self, index: usize, order: u32, compact: bool) -> Result {
        let mut gfp = bindings::GFP_HIGHUSER_MOVABLE | bindings::__GFP_NOWARN;
        // Smaller folios do where there are no large ones, but single pages must be had.
        if order == 0 {
            gfp |= bindings::__GFP_RETRY_MAYFAIL;
        } else if compact {
            gfp |= bindings::__GFP_NORETRY;
        } else {
            gfp &= !bindings::__GFP_DIRECT_RECLAIM;
        }
        let folio = Folio::new(order, gfp)?;
        // SAFETY: The mapping is valid by the type invariants, takes folios of this order, and the
        // index is a multiple of the folio's size. The folio is new, so that nobody has locked it.
        to_result(unsafe {
            bindings::filemap_add_folio(self.mapping(), folio.as_ptr(), index, gfp)
        })?;
        // SAFETY: The call has locked the folio. Its bytes are what they are to be, so it is
        // uptodate, and dirty, as they stand nowhere else.
        unsafe {
            bindings::folio_mark_dirty(folio.as_ptr());
            bindings::folio_end_read(folio.as_ptr(), true);
        }
        Ok(())
    }

    /// The C `struct address_space`, which lives as long as `self`.
    #[inline]
    pub(crate) fn mapping(&self) -> *mut bindings::address_space {
        // SAFETY: By the type invariants the file is open, so it has an inode with a mapping.
        unsafe { (*self.file.as_ptr()).f_mapping }
    }

    /// Number of pages.
    #[inline]
    pub fn page_count(&self) -> usize {
        self.page_count
    }

    /// The folio that has the page at `index`: `filemap_get_folio()`.
    ///
    /// The reference keeps it allocated, and not in the file.
    ///
    /// [`None`]: `index` is past the end, or a memory error has taken the page away.
    #[inline]
    pub fn folio(&self, index: usize) -> Option<ARef<Folio>> {
        self.find(index, 0)
    }

    /// The same, locked: `filemap_lock_folio()`. May sleep.
    #[inline]
    pub fn lock_folio(&self, index: usize) -> Option<LockedFolio> {
        // The second flag spares a look for a mark of uncached I/O, which there is none of.
        let folio = self.find(index, bindings::FGP_LOCK | bindings::FGP_DONTCACHE)?;
        // SAFETY: The folio was found locked, for us.
        Some(unsafe { LockedFolio::from_locked(folio) })
    }

    #[inline]
    fn find(&self, index: usize, flags: bindings::fgf_t) -> Option<ARef<Folio>> {
        // SAFETY: The mapping is valid by the type invariants, and nothing is to be created.
        let found = unsafe {
            bindings::__filemap_get_folio_mpol(self.mapping(), index, flags, 0, ptr::null_mut())
        };
        // Each fault comes here, hence no `from_err_ptr()`, which calls a C function.
        let is_err = found.addr() >= usize::MAX - (bindings::MAX_ERRNO as usize - 1);
        let folio = NonNull::new(found).filter(|_| !is_err)?;
        // SAFETY: The call returned a reference to a folio of the page cache, which has no type.
        Some(unsafe { ARef::from_raw(folio.cast()) })
    }

    /// How many bytes stand in folios of [`HUGE_FOLIO_SIZE`].
    pub fn huge_size(&self) -> usize {
        let (mut index, mut size) = (0, 0);
        while index < self.page_count {
            let order = self.folio(index).map_or(0, |folio| folio.order());
            if PAGE_SIZE << order == HUGE_FOLIO_SIZE {
                size += HUGE_FOLIO_SIZE;
            }
            index += 1 << order;
        }
        size
    }
}

impl Drop for PageCache {
    fn drop(&mut self) {
        // SAFETY: By the type invariants this is a reference, which is not used any more. Unlike
        // `fput()`, this does at once what is to be done when the inode goes, while the code and
        // tables of this module exist. Who holds the inode for longer holds the module, too.
        unsafe { bindings::__fput_sync(self.file.as_ptr()) };
    }
}

#[kunit_tests(rust_mmapdev_pagemap)]
mod tests {
    use super::*;
    use crate::abstractions::kunit::{
        map_count,
        references, //
    };

    const HUGE: usize = HUGE_FOLIO_SIZE / PAGE_SIZE;

    /// The `address_space` that a folio belongs to.
    fn mapping_of(folio: &Folio) -> *const bindings::address_space {
        // SAFETY: The folio is in use; others may change the field.
        unsafe {
            (&raw const (*folio.as_ptr()).__bindgen_anon_1.__bindgen_anon_1.mapping).read_volatile()
        }
    }

    fn has(folio: &Folio, flag: bindings::pageflags) -> bool {
        // SAFETY: The flags of a folio that is in use.
        let flags = unsafe {
            (&raw const (*folio.as_ptr()).__bindgen_anon_1.__bindgen_anon_1.flags.f).read_volatile()
        };
        flags & (1 << flag) != 0
    }

    #[test]
    fn the_folios_are_all_of_the_file() -> Result {
        let pages = PageCache::new(c"kunit", 3)?;
        let mapping = pages.mapping();
        // SAFETY: The mapping lives as long as `pages`, and so does its inode.
        let (page_count, size, flags) = unsafe {
            (
                (*mapping).nrpages,
                (*(*mapping).host).i_size,
                (*mapping).flags,
            )
        };
        let good = |index| {
            pages.folio(index).is_some_and(|folio| {
                ptr::eq(mapping_of(&folio), mapping)
                    && has(&folio, bindings::pageflags_PG_uptodate)
                    && has(&folio, bindings::pageflags_PG_dirty)
                    && !has(&folio, bindings::pageflags_PG_locked)
                    && (map_count(&folio), references(&folio)) == (0, 1)
            })
        };
        let good = [good(0), good(1), good(2)];
        let past_the_end = [3, 4, usize::MAX].map(|index| pages.folio(index).is_none());
        let len = pages.page_count();
        drop(pages);

        assert_eq!((page_count, len), (3, 3));
        assert_eq!(size, 4 * PAGE_SIZE as bindings::loff_t);
        assert!(flags & (1 << bindings::mapping_flags_AS_UNEVICTABLE) != 0);
        // The C `mapping_min_folio_order()` and `mapping_max_folio_order()`.
        let orders = flags & bindings::AS_FOLIO_ORDER_MASK as usize;
        let max = (PageCache::MAX_ORDER as usize) << bindings::mapping_flags_AS_FOLIO_ORDER_MAX;
        assert_eq!(orders, max);
        assert_eq!(good, [true; 3]);
        assert_eq!(past_the_end, [true; 3]);
        Ok(())
    }

    #[test]
    fn folios_are_as_large_as_index_and_room_allow() {
        let max = PageCache::MAX_ORDER;
        let orders = [
            (0, 1, 0),
            (0, 2, 1),
            (0, 3, 1),
            (1, 3, 0),
            (2, 3, 1),
            (4, 3, 1),
            (4, 8, 2),
            (0, HUGE - 1, max - 1),
            (0, HUGE, max),
            (HUGE, 4 * HUGE, max),
            (0, 4 * HUGE, max),
            (HUGE / 2, HUGE, max - 1),
        ];
        for (index, room, order) in orders {
            assert_eq!(PageCache::largest_order(index, room), order);
        }
    }

    #[test]
    fn each_page_has_one_folio() -> Result {
        let pages = PageCache::new(c"kunit", HUGE + 5)?;
        let mut index = 0;
        let mut gap = false;
        while index < pages.page_count() {
            let Some(folio) = pages.folio(index) else {
                gap = true;
                break;
            };
            gap |= folio.index() != index;
            index += 1 << folio.order();
        }
        let huge = pages.huge_size();
        drop(pages);

        assert!(!gap);
        assert_eq!(index, HUGE + 5);
        // None where memory is fragmented.
        assert!(huge == HUGE_FOLIO_SIZE || huge == 0);
        Ok(())
    }

    #[test]
    fn a_lock_is_taken_and_given_back() -> Result {
        let pages = PageCache::new(c"kunit", 1)?;
        let folio = pages.folio(0).ok_or(ENOENT)?;
        let locked = pages.lock_folio(0);
        let during = has(&folio, bindings::pageflags_PG_locked);
        let found = locked.is_some();
        drop(locked);
        let none = pages.lock_folio(1).is_none();

        assert!(found && during && !has(&folio, bindings::pageflags_PG_locked));
        assert!(none);
        Ok(())
    }

    #[test]
    fn what_a_memory_error_takes_is_gone_and_no_more() -> Result {
        let pages = PageCache::new(c"kunit", 3)?;
        let folio = pages.lock_folio(2).ok_or(ENOENT)?;
        // SAFETY: The folio is locked and belongs to the mapping.
        let removed =
            unsafe { bindings::generic_error_remove_folio(pages.mapping(), folio.as_ptr()) };
        drop(folio);
        let left = [0, 1, 2].map(|index| pages.folio(index).is_some());
        let locked = pages.lock_folio(2).is_some();
        let huge = pages.huge_size();

        assert_eq!(removed, 0);
        assert_eq!(left, [true, true, false]);
        assert!(!locked);
        assert_eq!(huge, 0);
        Ok(())
    }

    #[test]
    fn what_is_dropped_is_freed() -> Result {
        let pages = PageCache::new(c"kunit", 3)?;
        let held = pages.folio(2).ok_or(ENOENT)?;
        let before = mapping_of(&held).is_null();
        drop(pages);

        assert!(!before);
        assert!(mapping_of(&held).is_null());
        // All that is left is ours; there are no more of the page cache.
        assert_eq!(references(&held), 0);
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
            assert!(matches!(PageCache::new(c"kunit", count), Err(e) if e == EINVAL));
        }
    }

    #[test]
    fn a_fatal_signal_ends_it_and_no_other() {
        let ended = [bindings::SIGUSR1, bindings::SIGKILL].map(|signal| {
            let (task, signal) = (current!().as_ptr(), signal as i32);
            let handler = bindings::SIG_KTHREAD;
            // SAFETY: It only stands for a handler.
            let handler =
                unsafe { core::mem::transmute::<usize, bindings::__sighandler_t>(handler) };
            // SAFETY: The current task is valid.
            unsafe {
                bindings::kernel_sigaction(signal, handler);
                bindings::send_sig(signal, task, 1);
            }
            let result = PageCache::new(c"kunit", 3);
            // SAFETY: As above.
            unsafe { bindings::flush_signals(task) };
            result.is_err_and(|e| e == EINTR)
        });

        assert_eq!(ended, [false, true]);
    }
}
