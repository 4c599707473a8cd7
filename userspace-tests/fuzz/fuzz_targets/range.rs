// SPDX-License-Identifier: GPL-2.0
//! The module's arithmetic, as the kernel is given it, against sums that cannot overflow.

#![no_main]

#[path = "../../../src/range.rs"]
mod range;

use libfuzzer_sys::fuzz_target;

fuzz_target!(|input: (usize, usize, usize, i64)| {
    let (first, count, total, position) = input;
    let wide = |number: usize| number as u128;

    let asked = (1..=262_144).contains(&position);
    assert_eq!(
        range::page_count(position),
        asked.then_some(position as usize)
    );

    let fits = count > 0 && wide(first) + wide(count) <= wide(total);
    let pages = range::pages(first, count, total);
    assert_eq!(pages, fits.then(|| first..first + count));

    let inside = position >= 0 && (position as u128) < wide(total);
    let end = (position as u128)
        .wrapping_add(wide(count))
        .min(wide(total));
    let bytes = range::bytes(position, count, total);
    assert_eq!(bytes, inside.then_some(position as usize..end as usize));
});
