// SPDX-License-Identifier: GPL-2.0

//! Arithmetic of pages, offsets and lengths.
//!
//! Needs nothing but `core`, so that the host's tests compile this very file. No function here
//! overflows or panics, whatever it is given.

#![forbid(unsafe_code)]

use core::ops::Range;

/// Largest number of pages a buffer may have: 1 GiB with 4 KiB pages.
pub(crate) const MAX_PAGES: usize = 262_144;

/// The number of pages that the module parameter asks for, or [`None`] if it is not within
/// `1..=MAX_PAGES`.
pub(crate) fn page_count(parameter: i64) -> Option<usize> {
    usize::try_from(parameter)
        .ok()
        .filter(|count| (1..=MAX_PAGES).contains(count))
}

/// The pages that a mapping of `count` pages from page `first` on covers, or [`None`] if it is
/// empty or reaches past the end of a buffer of `total` pages.
pub(crate) fn pages(first: usize, count: usize, total: usize) -> Option<Range<usize>> {
    let end = first.checked_add(count)?;
    (count > 0 && end <= total).then_some(first..end)
}

/// The bytes that a transfer of `length` bytes at file position `position` covers in a buffer of
/// `size` bytes: cut at the end, and [`None`] where the position is negative, at the end or past
/// it.
pub(crate) fn bytes(position: i64, length: usize, size: usize) -> Option<Range<usize>> {
    let start = usize::try_from(position).ok().filter(|&p| p < size)?;
    Some(start..start.saturating_add(length).min(size))
}
