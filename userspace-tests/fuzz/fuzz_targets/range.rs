// SPDX-License-Identifier: GPL-2.0
//! The module's arithmetic, as the kernel is given it, against sums that cannot overflow.

#![no_main]

#[path = "../../../src/range.rs"]
mod range;

use libfuzzer_sys::fuzz_target;

/// Chunks of one range that are looked at: it may have 2^52 of them.
const CHUNKS: usize = 1000;

fuzz_target!(|input: (usize, usize, usize, i64, u8)| {
    let (first, count, total, position, shift) = input;
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

    // From 4 KiB to 64 KiB.
    let page_size = 1 << (12 + shift % 5);
    let cut = bytes.unwrap_or(first..total);
    let mut next = cut.start;
    let mut complete = true;
    for (i, chunk) in range::chunks(cut.clone(), page_size).enumerate() {
        if i == CHUNKS {
            complete = false;
            break;
        }
        assert!(chunk.length > 0 && chunk.offset + chunk.length <= page_size);
        assert_eq!(
            wide(chunk.page) * wide(page_size) + wide(chunk.offset),
            wide(next)
        );
        next += chunk.length;
        assert!(next == cut.end || next % page_size == 0);
    }
    assert!(!complete || next == cut.end.max(cut.start));
});
