// SPDX-License-Identifier: GPL-2.0
//! The module's arithmetic, on the host: the very file that the kernel is given, held against
//! the same sums in integers that cannot overflow.

#[path = "../../src/range.rs"]
mod range;

use proptest::prelude::*;
use range::{MAX_PAGES, bytes, page_count, pages};

/// Any number, and those around which things break.
fn any_usize() -> impl Strategy<Value = usize> {
    prop_oneof![
        1 => any::<usize>(),
        4 => 0..8_usize,
        2 => (usize::MAX - 8)..=usize::MAX,
        1 => (MAX_PAGES - 2)..=(MAX_PAGES + 2),
        1 => (0..64_u32, -2..=2_i64)
            .prop_map(|(bit, off)| (1_usize << bit).wrapping_add(off as usize)),
    ]
}

fn any_i64() -> impl Strategy<Value = i64> {
    any_usize().prop_map(|number| number as i64)
}

proptest! {
    // So that three numbers are next to each other's edges often enough.
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn page_count_is_the_number_in_range(parameter in any_i64()) {
        let expected = (1..=262_144).contains(&parameter).then_some(parameter as usize);
        prop_assert_eq!(page_count(parameter), expected);
    }

    #[test]
    fn pages_are_the_range_that_fits(
        first in any_usize(), count in any_usize(), total in any_usize(),
    ) {
        let fits = count > 0 && first as u128 + count as u128 <= total as u128;
        prop_assert_eq!(pages(first, count, total), fits.then(|| first..first + count));
    }

    #[test]
    fn bytes_are_the_range_cut_at_the_end(
        position in any_i64(), length in any_usize(), size in any_usize(),
    ) {
        let inside = position >= 0 && (position as u128) < size as u128;
        let end = (position as u128).wrapping_add(length as u128).min(size as u128);
        let expected = inside.then_some(position as usize..end as usize);
        prop_assert_eq!(bytes(position, length, size), expected);
    }
}
