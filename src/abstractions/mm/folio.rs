// SPDX-License-Identifier: GPL-2.0

//! Folios: pages that are managed as one.
//!
//! C headers: [`include/linux/mm_types.h`](srctree/include/linux/mm_types.h),
//! [`include/linux/page-flags.h`](srctree/include/linux/page-flags.h)

use core::{
    mem::ManuallyDrop,
    ops::Deref,
    ptr::{
        self,
        NonNull, //
    }, //
};

use kernel::{
    page::PAGE_SIZE,
    prelude::*,
    sync::aref::{
        ARef,
        AlwaysRefCounted, //
    },
    types::Opaque, //
};

use crate::abstractions::bindings;

/// One page or a power of two of them, contiguous and aligned to their size: `struct folio`.
///
/// # Invariants
///
/// It is in use, and of no type (`page_has_type()`), as all that user space can map.
///
/// # Examples
///
/// ```
/// use kernel::{page::PAGE_SIZE, sync::aref::ARef};
/// use rust_mmapdev::abstractions::mm::{folio::Folio, pagemap::PageCache};
///
/// /// The folio that has the page, and how many bytes of it are left from the page on.
/// fn rest(cache: &PageCache, index: usize) -> Option<(ARef<Folio>, usize)> {
///     let folio = cache.folio(index)?;
///     let rest = folio.size() - (index - folio.index()) * PAGE_SIZE;
///     Some((folio, rest))
/// }
/// ```
///
/// User space writes to its bytes at any moment, so there is no way to a slice of them:
///
/// ```compile_fail,E0608
/// # use rust_mmapdev::abstractions::mm::folio::Folio;
/// fn first(folio: &Folio) -> u8 {
///     folio[0]
/// }
/// ```
///
/// Nobody makes one but the allocator:
///
/// ```compile_fail,E0423
/// # use rust_mmapdev::abstractions::mm::folio::Folio;
/// # use kernel::types::Opaque;
/// let folio = Folio(Opaque::uninit());
/// ```
#[repr(transparent)]
pub struct Folio(Opaque<bindings::folio>);

// SAFETY: References to a folio may be taken and put on any thread.
unsafe impl Send for Folio {}

// SAFETY: `&self` methods read what does not change while there is a reference, and flags, which
// only change atomically. Those that access the bytes put up with concurrent changes.
unsafe impl Sync for Folio {}

// SAFETY: A folio is freed when its `_refcount` drops to zero, and `inc_ref` increments it.
unsafe impl AlwaysRefCounted for Folio {
    /// The C `folio_get()`.
    #[inline]
    fn inc_ref(&self) {
        // SAFETY: By the type invariants the folio is in use.
        let before = unsafe { bindings::atomic_fetch_add(1, self.refcount()) };
        // References can be leaked. As a `refcount_t` does, the count stays far from zero then, and
        // the folio for good.
        if before < 0 || before == i32::MAX {
            // SAFETY: As above.
            unsafe { bindings::atomic_set(self.refcount(), i32::MIN / 2) };
        }
    }

    /// The C `folio_put()`.
    #[inline]
    unsafe fn dec_ref(obj: NonNull<Self>) {
        // SAFETY: The caller owns a reference, so the folio is in use.
        let folio = unsafe { obj.as_ref() };
        // SAFETY: As above.
        if unsafe { bindings::atomic_dec_and_test(folio.refcount()) } {
            // SAFETY: This was the last reference.
            unsafe { bindings::__folio_put(folio.as_ptr()) };
        }
    }
}

impl Folio {
    /// Allocates `1 << order` pages of zeros for user space: `folio_alloc()`.
    ///
    /// EINVAL: no folio has so many; ENOMEM: there is none now.
    pub(super) fn new(order: u32, gfp: bindings::gfp_t) -> Result<ARef<Self>> {
        if order > bindings::MAX_PAGE_ORDER {
            return Err(EINVAL);
        }
        // SAFETY: The order is one that the allocator has.
        let folio = unsafe { bindings::folio_alloc_noprof(gfp | bindings::__GFP_ZERO, order) };
        let folio = NonNull::new(folio).ok_or(ENOMEM)?;
        // SAFETY: The call returned a reference to a folio without a type.
        Ok(unsafe { ARef::from_raw(folio.cast()) })
    }

    /// The C `struct folio`.
    pub(crate) fn as_ptr(&self) -> *mut bindings::folio {
        self.0.get()
    }

    fn refcount(&self) -> *mut bindings::atomic_t {
        // SAFETY: By the type invariants the folio is in use, and this is a field of it.
        unsafe { &raw mut (*self.as_ptr()).__bindgen_anon_1.__bindgen_anon_1._refcount }
    }

    /// Whether a flag is set in the flags at `flags`.
    ///
    /// # Safety
    ///
    /// `flags` must be the flags of a page of this folio.
    #[inline]
    unsafe fn test(flags: *const usize, flag: bindings::pageflags) -> bool {
        // SAFETY: By the requirements of this function. They change atomically, hence volatile.
        unsafe { flags.read_volatile() & (1 << flag) != 0 }
    }

    #[inline]
    fn test_head(&self, flag: bindings::pageflags) -> bool {
        // SAFETY: By the type invariants the folio is in use, and these are its flags.
        unsafe {
            Self::test(
                &raw const (*self.as_ptr()).__bindgen_anon_1.__bindgen_anon_1.flags.f,
                flag,
            )
        }
    }

    /// The flags of the second page, which are those of a large folio too, as in the C
    /// `folio_large_order()`; [`None`] where it has one page only.
    #[inline]
    fn second_flags(&self) -> Option<*const usize> {
        // SAFETY: By the type invariants the folio is in use; a large one has a second page.
        self.test_head(bindings::pageflags_PG_head).then(|| unsafe {
            &raw const (*self.as_ptr()).__bindgen_anon_2.__bindgen_anon_1._flags_1
        })
    }

    /// The folio has `1 << order` pages: `folio_order()`.
    #[inline]
    pub fn order(&self) -> u32 {
        match self.second_flags() {
            // SAFETY: The flags are those of a page in use. The order, in their lowest byte, does
            // not change while there is a reference: a folio with one is not split.
            Some(flags) => unsafe { flags.read_volatile() as u32 & 0xff },
            None => 0,
        }
    }

    /// Size in bytes: `folio_size()`.
    #[inline]
    pub fn size(&self) -> usize {
        PAGE_SIZE << self.order()
    }

    /// Index of the first page in the file that the folio belongs to, in pages: the C
    /// `folio->index`.
    #[inline]
    pub fn index(&self) -> usize {
        // SAFETY: By the type invariants the folio is in use. The index is set when the folio
        // begins to belong to a file, and stays when it no longer does.
        unsafe {
            (*self.as_ptr())
                .__bindgen_anon_1
                .__bindgen_anon_1
                .__bindgen_anon_2
                .index
        }
    }

    /// Whether the folio is in the page cache of the file with this `address_space`. Unless it is
    /// locked, it can leave it at any moment.
    #[inline]
    pub(super) fn belongs_to(&self, mapping: *const bindings::address_space) -> bool {
        // SAFETY: By the type invariants the folio is in use. Who locks it may change the field,
        // hence volatile.
        let own = unsafe {
            (&raw const (*self.as_ptr()).__bindgen_anon_1.__bindgen_anon_1.mapping).read_volatile()
        };
        ptr::eq(own, mapping)
    }

    /// The page that stands at `index` of the file, if it is one of this folio.
    #[inline]
    pub(crate) fn file_page(&self, index: usize) -> Option<NonNull<bindings::page>> {
        self.page(index.checked_sub(self.index())?)
    }

    /// Page `n` of the folio, if there is one: `folio_page()`.
    #[inline]
    fn page(&self, n: usize) -> Option<NonNull<bindings::page>> {
        if n >> self.order() != 0 {
            return None;
        }
        // SAFETY: By the type invariants the folio is in use, and so its pages are, `struct page`
        // by `struct page` in one array.
        NonNull::new(unsafe { (&raw mut (*self.as_ptr()).__bindgen_anon_1.page).add(n) })
    }

    /// Whether a page of it has a memory error, so that it must not be mapped as a whole.
    #[inline]
    pub(crate) fn has_hwpoisoned(&self) -> bool {
        match self.second_flags() {
            // SAFETY: These are the flags of the second page.
            Some(flags) => unsafe { Self::test(flags, bindings::pageflags_PG_has_hwpoisoned) },
            None => self.test_head(bindings::pageflags_PG_hwpoison),
        }
    }

    /// How many of the `length` bytes from `offset` on lie in the folio, before the first page
    /// with a memory error: what may be accessed.
    ///
    /// # Examples
    ///
    /// ```
    /// use kernel::page::PAGE_SIZE;
    /// use rust_mmapdev::abstractions::mm::folio::Folio;
    ///
    /// fn second_page_is_good(folio: &Folio) -> bool {
    ///     folio.accessible(PAGE_SIZE, PAGE_SIZE) == PAGE_SIZE
    /// }
    /// ```
    #[inline]
    pub fn accessible(&self, offset: usize, length: usize) -> usize {
        let length = length.min(self.size().saturating_sub(offset));
        if self.has_hwpoisoned() {
            self.before_hwpoisoned(offset, length)
        } else {
            length
        }
    }

    /// The same where a page has a memory error; all of the bytes lie in the folio.
    #[cold]
    fn before_hwpoisoned(&self, offset: usize, length: usize) -> usize {
        let poisoned = |n: &usize| {
            // SAFETY: The page is one of this folio, and these are its flags.
            self.page(*n).is_none_or(|page| unsafe {
                Self::test(
                    &raw const (*page.as_ptr()).flags.f,
                    bindings::pageflags_PG_hwpoison,
                )
            })
        };
        match (offset / PAGE_SIZE..(offset + length).div_ceil(PAGE_SIZE)).find(poisoned) {
            Some(n) => (n * PAGE_SIZE).saturating_sub(offset),
            None => length,
        }
    }

    /// Calls `f` with the address that the `length` bytes from `offset` on are mapped at in the
    /// kernel meanwhile, for this thread only, and with how many they are: part by part where the
    /// kernel has no room for all (`folio_test_partial_kmap()`).
    ///
    /// EINVAL: not all of them lie in the folio; EIO: a memory error is among them.
    fn with_mapped(
        &self,
        offset: usize,
        length: usize,
        mut f: impl FnMut(*mut u8, usize),
    ) -> Result {
        let end = offset.checked_add(length).ok_or(EINVAL)?;
        if end > self.size() {
            return Err(EINVAL);
        }
        let mut at = offset;
        if self.accessible(offset, length) < length {
            return Err(EIO);
        }
        while at < end {
            let page = self.page(at / PAGE_SIZE).ok_or(EINVAL)?;
            let in_page = at % PAGE_SIZE;
            let mut part = end - at;
            if cfg!(any(CONFIG_HIGHMEM, CONFIG_DEBUG_KMAP_LOCAL_FORCE_MAP)) {
                part = part.min(PAGE_SIZE - in_page);
            }
            // SAFETY: The page is one of this folio, which is in use.
            let start = unsafe { bindings::kmap_local_page(page.as_ptr()) };
            f(start.cast::<u8>().wrapping_add(in_page), part);
            // SAFETY: `start` comes from `kmap_local_page()` just above. `f` has undone what it
            // mapped itself, as this function is the only way to map and undoes it in the end.
            unsafe { bindings::kunmap_local(start) };
            at += part;
        }
        Ok(())
    }
}

/// A reference to a folio that is locked, which keeps it in the file it belongs to, and where it is
/// in memory: what is stored to a folio while its bytes are copied elsewhere is lost.
///
/// # Invariants
///
/// The folio is locked, and by nobody else.
///
/// # Examples
///
/// ```
/// use kernel::{page::PAGE_SIZE, prelude::*};
/// use rust_mmapdev::abstractions::mm::pagemap::PageCache;
///
/// /// Zeroes the first page but for what it begins with.
/// fn reset(cache: &PageCache) -> Result {
///     let folio = cache.lock_folio(0).ok_or(EIO)?;
///     folio.zero_pages(0, PAGE_SIZE)?;
///     folio.store(0, b"empty\0")
/// }
/// ```
///
/// Without the lock nothing is stored:
///
/// ```compile_fail,E0599
/// # use kernel::prelude::*;
/// # use rust_mmapdev::abstractions::mm::pagemap::PageCache;
/// fn reset(cache: &PageCache) -> Result {
///     let folio = cache.folio(0).ok_or(EIO)?;
///     folio.store(0, b"empty\0")
/// }
/// ```
///
/// ```compile_fail,E0599
/// # use kernel::{page::PAGE_SIZE, prelude::*};
/// # use rust_mmapdev::abstractions::mm::pagemap::PageCache;
/// fn reset(cache: &PageCache) -> Result {
///     let folio = cache.folio(0).ok_or(EIO)?;
///     folio.zero_pages(0, PAGE_SIZE)
/// }
/// ```
///
/// Nor after it was given back:
///
/// ```compile_fail,E0382
/// # use kernel::prelude::*;
/// # use rust_mmapdev::abstractions::mm::pagemap::PageCache;
/// fn reset(cache: &PageCache) -> Result {
///     let folio = cache.lock_folio(0).ok_or(EIO)?;
///     drop(folio);
///     folio.store(0, b"empty\0")
/// }
/// ```
///
/// Who has a reference has no lock yet:
///
/// ```compile_fail,E0423
/// # use kernel::sync::aref::ARef;
/// # use rust_mmapdev::abstractions::mm::folio::{Folio, LockedFolio};
/// fn lock(folio: ARef<Folio>) -> LockedFolio {
///     LockedFolio(folio)
/// }
/// ```
pub struct LockedFolio(ARef<Folio>);

impl LockedFolio {
    /// # Safety
    ///
    /// The folio must be locked, and whoever locked it must leave the unlocking to the result.
    pub(crate) unsafe fn from_locked(folio: ARef<Folio>) -> Self {
        // INVARIANT: By the requirements of this function.
        Self(folio)
    }

    /// Stores `bytes` from `offset` on.
    ///
    /// EINVAL: not all of them lie in the folio; EIO: a memory error is among them.
    pub fn store(&self, offset: usize, bytes: &[u8]) -> Result {
        let mut bytes = bytes.iter();
        self.with_mapped(offset, bytes.len(), |start, length| {
            for (i, byte) in bytes.by_ref().take(length).enumerate() {
                // SAFETY: The `length` bytes from `start` on may be written. User space may
                // access them at the same time, hence volatile.
                unsafe { start.add(i).write_volatile(*byte) };
            }
        })
    }

    /// Zeroes the `length` bytes from `offset` on, both multiples of the page size.
    ///
    /// EINVAL: not all of them lie in the folio, or not page by page; EIO: a memory error is among
    /// them.
    pub fn zero_pages(&self, offset: usize, length: usize) -> Result {
        if (offset | length) % PAGE_SIZE != 0 {
            return Err(EINVAL);
        }
        self.with_mapped(offset, length, |start, length| {
            let start = start.cast::<usize>();
            for word in 0..length / size_of::<usize>() {
                // SAFETY: As in `store`; a page starts at a multiple of its size and so is aligned
                // for words.
                unsafe { start.add(word).write_volatile(0) };
            }
        })
    }

    /// The reference and the lock, for C code that puts and unlocks.
    pub(crate) fn into_raw(self) -> *mut bindings::folio {
        ManuallyDrop::new(self).as_ptr()
    }
}

impl Deref for LockedFolio {
    type Target = Folio;

    fn deref(&self) -> &Folio {
        &self.0
    }
}

impl Drop for LockedFolio {
    #[inline]
    fn drop(&mut self) {
        // SAFETY: By the type invariants the lock is ours.
        unsafe { bindings::folio_unlock(self.as_ptr()) };
    }
}

#[kunit_tests(rust_mmapdev_folio)]
mod tests {
    use super::*;

    /// A folio of four pages that nobody else has, from page 4 of a file on.
    fn folio() -> Result<ARef<Folio>> {
        let folio = Folio::new(2, bindings::GFP_KERNEL)?;
        // SAFETY: Nobody else knows the folio.
        unsafe {
            (*folio.as_ptr())
                .__bindgen_anon_1
                .__bindgen_anon_1
                .__bindgen_anon_2
                .index = 4;
        }
        Ok(folio)
    }

    /// The same, locked.
    fn locked_folio() -> Result<LockedFolio> {
        let folio = folio()?;
        // SAFETY: Nobody else knows the folio.
        unsafe {
            (*folio.as_ptr()).__bindgen_anon_1.__bindgen_anon_1.flags.f |=
                1 << bindings::pageflags_PG_locked;
        }
        // SAFETY: It was locked just now.
        Ok(unsafe { LockedFolio::from_locked(folio) })
    }

    fn count(folio: &Folio) -> i32 {
        // SAFETY: The count of a folio that is in use.
        unsafe { bindings::atomic_read(folio.refcount()) }
    }

    fn byte(folio: &Folio, offset: usize) -> u8 {
        let mut found = 0;
        let _ = folio.with_mapped(offset, 1, |start, _| {
            // SAFETY: One byte may be accessed there.
            found = unsafe { start.read_volatile() };
        });
        found
    }

    #[test]
    fn each_reference_counts() -> Result {
        let folio = folio()?;
        let one = count(&folio);
        let second = folio.clone();
        let two = count(&folio);
        drop(second);

        assert_eq!((one, two, count(&folio)), (1, 2, 1));
        Ok(())
    }

    #[test]
    fn leaked_references_keep_it_for_good() -> Result {
        let folio = folio()?;
        // SAFETY: The count of a folio that nobody else knows.
        let set = |count| unsafe { bindings::atomic_set(folio.refcount(), count) };
        set(i32::MAX - 1);
        let last = folio.clone();
        let full = count(&folio);
        let one_more = folio.clone();
        let saturated = count(&folio);
        drop((last, one_more));
        let stays = count(&folio);
        set(1);

        assert_eq!(full, i32::MAX);
        assert_eq!(saturated, i32::MIN / 2);
        assert_eq!(stays, i32::MIN / 2 - 2);
        Ok(())
    }

    #[test]
    fn no_folio_is_larger_than_the_allocator_has() {
        let new = |order| Folio::new(order, bindings::GFP_KERNEL).err();
        assert_eq!(new(bindings::MAX_PAGE_ORDER + 1), Some(EINVAL));
        assert_eq!(new(u32::MAX), Some(EINVAL));
    }

    #[test]
    fn pages_are_found_by_their_index_in_the_file() -> Result {
        let folio = folio()?;
        let first = folio.as_ptr().cast::<bindings::page>();
        let found = [0, 3, 4, 5, 7, 8, usize::MAX].map(|index| folio.file_page(index));
        let page = |n: usize| NonNull::new(first.wrapping_add(n));

        assert_eq!(found, [None, None, page(0), page(1), page(3), None, None]);
        assert_eq!((folio.order(), folio.size()), (2, 4 * PAGE_SIZE));
        Ok(())
    }

    #[test]
    fn nothing_outside_of_it_is_touched() -> Result {
        let folio = locked_folio()?;
        let size = folio.size();
        let stored = [
            folio.store(size - 1, &[1]),
            folio.store(size, &[1]),
            folio.store(size - 1, &[1, 1]),
            folio.store(usize::MAX, &[1]),
            folio.store(size, &[]),
        ];
        let last = byte(&folio, size - 1);
        let zeroed = [
            folio.zero_pages(size - PAGE_SIZE, PAGE_SIZE),
            folio.zero_pages(size, PAGE_SIZE),
            folio.zero_pages(0, size + PAGE_SIZE),
            folio.zero_pages(usize::MAX - PAGE_SIZE + 1, 2 * PAGE_SIZE),
            folio.zero_pages(1, PAGE_SIZE),
            folio.zero_pages(0, 1),
        ];

        assert_eq!(
            stored,
            [Ok(()), Err(EINVAL), Err(EINVAL), Err(EINVAL), Ok(())]
        );
        assert_eq!((last, byte(&folio, size - 1)), (1, 0));
        assert_eq!(zeroed[0], Ok(()));
        assert_eq!(zeroed[1..], [Err(EINVAL); 5]);
        Ok(())
    }

    #[test]
    fn bytes_are_stored_across_pages() -> Result {
        let folio = locked_folio()?;
        folio.store(PAGE_SIZE - 1, &[1, 2])?;
        let found = [PAGE_SIZE - 2, PAGE_SIZE - 1, PAGE_SIZE, PAGE_SIZE + 1];
        let found = found.map(|offset| byte(&folio, offset));

        assert_eq!(found, [0, 1, 2, 0]);
        Ok(())
    }

    #[test]
    fn a_page_with_a_memory_error_is_left_alone() -> Result {
        let folio = locked_folio()?;
        let size = folio.size();
        let all = folio.accessible(0, usize::MAX);
        let whole = !folio.has_hwpoisoned();
        let set = |set: bool| {
            let Some(page) = folio.page(2) else { return };
            // SAFETY: The flags of pages of a folio that nobody else knows.
            unsafe {
                let flags = [
                    (
                        &raw mut (*page.as_ptr()).flags.f,
                        bindings::pageflags_PG_hwpoison,
                    ),
                    (
                        &raw mut (*folio.as_ptr()).__bindgen_anon_2.__bindgen_anon_1._flags_1,
                        bindings::pageflags_PG_has_hwpoisoned,
                    ),
                ];
                for (flags, bit) in flags {
                    *flags = *flags & !(1 << bit) | (usize::from(set) << bit);
                }
            }
        };
        set(true);
        let damaged = folio.has_hwpoisoned();
        let accessible = [
            folio.accessible(0, size),
            folio.accessible(1, PAGE_SIZE),
            folio.accessible(1, 2 * PAGE_SIZE),
            folio.accessible(2 * PAGE_SIZE - 1, PAGE_SIZE),
            folio.accessible(2 * PAGE_SIZE, 1),
            folio.accessible(3 * PAGE_SIZE - 1, 2),
            folio.accessible(3 * PAGE_SIZE, size),
            folio.accessible(size, 1),
            folio.accessible(usize::MAX, usize::MAX),
        ];
        let stored = [PAGE_SIZE, 2 * PAGE_SIZE, 3 * PAGE_SIZE]
            .map(|offset| folio.store(offset - 1, &[1, 1]));
        let zeroed = [0, 2 * PAGE_SIZE].map(|offset| folio.zero_pages(offset, PAGE_SIZE));
        set(false);

        assert_eq!(all, size);
        assert!(whole && damaged);
        assert_eq!(
            accessible,
            [
                2 * PAGE_SIZE,
                PAGE_SIZE,
                2 * PAGE_SIZE - 1,
                1,
                0,
                0,
                PAGE_SIZE,
                0,
                0
            ]
        );
        assert_eq!(stored, [Ok(()), Err(EIO), Err(EIO)]);
        assert_eq!(zeroed, [Ok(()), Err(EIO)]);
        Ok(())
    }

    #[test]
    fn a_lock_ends_with_its_guard() -> Result {
        let guard = locked_folio()?;
        let folio = ARef::from(&*guard);
        let locked = |folio: &Folio| folio.test_head(bindings::pageflags_PG_locked);
        let (during, references) = (locked(&guard), count(&guard));
        drop(guard);

        assert!(during && !locked(&folio));
        assert_eq!((references, count(&folio)), (2, 1));
        Ok(())
    }
}
